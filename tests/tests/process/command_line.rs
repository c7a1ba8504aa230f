//! Every command, every exit code, every promise of the help.

use rcmpd_tests::openssl::Authority;
use rcmpd_tests::ports::free_port;
use rcmpd_tests::{Demo, Finished, write_secret};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

const CONFIG: [&str; 2] = ["-c", "rcmpd.toml"];

impl<T> With for T where T: AsRef<[&'static str]> {}

/// Arguments, and the configuration behind them.
trait With: AsRef<[&'static str]> {
    fn with_config(&self) -> Vec<&'static str> {
        [self.as_ref(), &CONFIG].concat()
    }
}

fn run(demo: &Demo, arguments: &[&'static str]) -> Finished {
    demo.rcmpd(&arguments.with_config())
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect()
}

#[test]
fn map_tells_account_groups_method_and_pac() {
    let service = Demo::new().with_carol().serve();
    for (who, account, method) in [
        ("alice", "alice", "upn"),
        ("bob", "bob", "subject"),
        ("carol", "carol", "subject"),
        ("web01", "WEB01$", "upn"),
    ] {
        let answer = service.map(who).code(0).json();
        assert_eq!(answer["account"], account);
        assert_eq!(answer["method"], method);
        assert_eq!(answer["domain"], "CONTOSO");
        let sid = answer["sid"].as_str().unwrap();
        assert!(sid.starts_with(&service.domain_sid()), "{sid}");
        assert!(answer["groups"].as_array().unwrap().iter().all(|group| group["sid"].is_string()));
        assert_eq!(answer["pac"]["logon_server"], "DC1");
        assert_eq!(answer["pac"]["buffers"], json!([1, 10, 12, 18]));
    }
    // And for people.
    let done = service.rcmpd(&["map", "certs/alice.pem", "-c", "rcmpd.toml"]).code(0);
    assert!(done.stdout.contains(r"CONTOSO\alice") && done.stdout.contains("Domain Users"), "{done:?}");
}

#[test]
fn a_refusal_is_named_and_hinted_at() {
    let service = Demo::new().serve();
    let done = service.map("mallory").code(3);
    assert_eq!(done.json()["status"], json!({ "name": "STATUS_LOGON_FAILURE", "value": "0xc000006d" }));
    assert!(
        done.stderr.contains("STATUS_LOGON_FAILURE") && done.stderr.contains("rcmpd explain"),
        "{done:?}"
    );
}

#[test]
fn whatever_goes_wrong_says_what_and_exits_as_promised() {
    let service = Demo::new().serve();
    let server = service.netlogon.to_string();
    let map = |certificate: &str, server: &str, machine: &str, secret: &str| {
        service.rcmpd(&[
            "map",
            certificate,
            "--server",
            server,
            "--machine",
            machine,
            "--secret-file",
            secret,
            "--domain",
            "CONTOSO",
        ])
    };
    let secret = "machines/WEB01.secret";
    map("certs/alice.pem", &server, "WEB01$", secret).code(0);

    // 2: wrong use.
    for arguments in [
        &["map"][..],
        &["map", "certs/alice.pem", "--server", "127.0.0.1:1"],
        &["map", "certs/alice.pem", "--nonsense"],
        &["nonsense"],
    ] {
        service.rcmpd(arguments).code(2);
    }
    // 4: no server there, and no server that answers.
    let (address, deaf) = (free_port().to_string(), TcpListener::bind("127.0.0.1:0").unwrap());
    let done = map("certs/alice.pem", &address, "WEB01$", secret).code(4);
    assert!(done.stderr.contains(&address), "{done:?}");
    let address = deaf.local_addr().unwrap().to_string();
    let done = service
        .rcmpd(&[
            "map",
            "certs/alice.pem",
            "-c",
            "rcmpd.toml",
            "--server",
            &address,
            "--machine",
            "WEB01$",
            "--secret-file",
            secret,
            "--timeout",
            "1",
        ])
        .code(4);
    assert!(done.stderr.contains("did not answer in time"), "{done:?}");
    // 5: no channel.
    write_secret(service.path("wrong.secret"), "not the password\n");
    let done = map("certs/alice.pem", &server, "WEB01$", "wrong.secret").code(5);
    assert!(done.stderr.contains("the secret of the machine account is probably wrong"), "{done:?}");
    let json = ["map", "certs/alice.pem", "-c", "client.toml", "--secret-file", "wrong.secret", "--json"];
    assert_eq!(service.rcmpd(&json).code(5).json()["status"]["name"], "STATUS_ACCESS_DENIED");
    let done = map("certs/alice.pem", &server, "NOBODY$", secret).code(5);
    assert!(done.stderr.contains("no such machine account"), "{done:?}");
    // 6: unusable input, each with its reason.
    let pem = fs::read_to_string(service.path("certs/alice.pem")).unwrap();
    fs::write(service.path("half.pem"), &pem[..pem.len() / 2]).unwrap();
    fs::write(service.path("empty.pem"), "").unwrap();
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let short =
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", &body[..body.len() / 8 * 4]);
    fs::write(service.path("short.pem"), short).unwrap();
    for certificate in ["nowhere.pem", "half.pem", "empty.pem", "short.pem", "certs/alice.key", "certs"] {
        let done = map(certificate, &server, "WEB01$", secret).code(6);
        assert!(done.stderr.contains(certificate), "{done:?}");
    }
    let done = map("half.pem", &server, "WEB01$", secret);
    assert!(done.stderr.contains("its END line is missing"), "{done:?}");
    // A key that is written wrongly is wrong use, one that is not there an input file.
    let proof = ["map", "certs/alice.pem", "-c", "rcmpd.toml", "--proof", "--proof-key"];
    let done = service.rcmpd(&[&proof[..], &["contoso.pub"]].concat()).code(2);
    assert!(done.stderr.contains("write DOMAIN=FILE"), "{done:?}");
    service.rcmpd(&[&proof[..], &["CONTOSO=nowhere.pub"]].concat()).code(6);
    let done = map("certs/alice.pem", &server, "WEB01$", "nowhere.secret").code(6);
    assert!(done.stderr.contains("nowhere.secret"), "{done:?}");
    // 5: a domain that is asked about in vain; and a machine that may not ask, whichever certificate it asks
    // about.
    let ask = ["map", "certs/alice.pem", "-c", "client.toml", "--domain", "ELSEWHERE", "--json"];
    assert_eq!(service.rcmpd(&ask).code(5).json()["status"]["name"], "STATUS_NO_SUCH_USER");
    run(&service, &["machine", "set", "WEB01$", "--revoke", "rcmp"]).code(0);
    for who in ["alice", "mallory"] {
        let done = service.map(who).code(5);
        assert_eq!(done.json()["status"]["name"], "STATUS_ACCESS_DENIED");
        assert!(done.stderr.contains("rcmpd machine set"), "{done:?}");
    }
    let log = service.log();
    let told = log.lines().filter(|line| line.contains("Question rejected") && line.contains("asker_denied"));
    assert_eq!(told.count(), 1, "once a minute: {log}");
}

/// A store that cannot be read is not a store without accounts.
#[test]
fn a_server_that_cannot_decide_does_not_say_no() {
    let service = Demo::new().serve();
    service.map("alice").code(0);
    // The table that everything is looked up in is gone, while the service runs.
    let database = rusqlite::Connection::open(service.path("accounts.db")).unwrap();
    database
        .execute_batch("ALTER TABLE account_key RENAME TO lost; UPDATE revision SET accounts = accounts + 1")
        .unwrap();
    for who in ["alice", "bob", "mallory"] {
        let done = service.map(who).code(7);
        assert!(done.stderr.contains("could not decide: STATUS_DS_BUSY"), "{done:?}");
        assert!(done.stderr.contains("the server's log says why"), "{done:?}");
        assert_eq!(done.json()["status"]["name"], "STATUS_DS_BUSY");
    }
    let log = service.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("Question not decided")).collect();
    assert!(
        matches!(&told[..], [line] if line.contains("WARN") && line.contains("reason=\"store_unavailable\"")),
        "{log}"
    );
    // It is back, and so are the answers.
    database
        .execute_batch("ALTER TABLE lost RENAME TO account_key; UPDATE revision SET accounts = accounts + 1")
        .unwrap();
    service.map("alice").code(0);
    service.map("mallory").code(3);
}

#[test]
fn files_that_people_have_are_read_or_named() {
    let demo = Demo::new();
    // What OpenSSL, an editor and a database make of it.
    let script = r"set -e
openssl x509 -in certs/alice.pem -outform DER -out der
(printf '\357\273\277'; cat certs/alice.pem) > marked
sed 's/$/\r/' certs/alice.pem > crlf
grep -v -- - certs/alice.pem > bare
grep -v -- - certs/alice.pem | tr -d '\n' > line
(printf '\357\273\277'; cat bare) > markedbare
cat certs/ca.pem certs/alice.pem > cafirst
cat certs/alice.pem certs/ca.pem > leaffirst
cat certs/alice.key certs/alice.pem > keyfirst
openssl req -new -key certs/alice.key -subj /CN=alice -out csr.pem
openssl req -in csr.pem -outform DER -out csr.der
openssl req -new -key certs/alice.key -subj / -outform DER -out nameless.der
openssl pkcs12 -export -in certs/alice.pem -inkey certs/alice.key -passout pass:x -out alice.p12
openssl crl2pkcs7 -nocrl -certfile certs/alice.pem -out p7.pem
openssl crl2pkcs7 -nocrl -certfile certs/alice.pem -outform DER -out p7.der
openssl pkey -in certs/alice.key -outform DER -out key.der
openssl pkey -in certs/alice.key -traditional -outform DER -out old.der
openssl pkcs8 -topk8 -in certs/alice.key -passout pass:x -outform DER -out locked.der
openssl pkey -in certs/alice.key -pubout -out public.pem
openssl pkey -in certs/alice.key -pubout -outform DER -out public.der";
    demo.paste(script).code(0);
    let plain = run(&demo, &["explain", "certs/alice.pem"]).code(0).stdout;
    for file in ["der", "marked", "crlf", "bare", "line", "markedbare", "cafirst", "leaffirst", "keyfirst"] {
        assert_eq!(run(&demo, &["explain", file]).code(0).stdout, plain, "{file}");
        let piped = demo.paste(&format!("rcmpd explain - -c rcmpd.toml < {file}")).code(0);
        assert_eq!(piped.stdout, plain, "{file}");
    }
    assert!(demo.paste("rcmpd mapping strings - < der").code(0).stdout.contains("alice@contoso.example"));
    for (file, name, advice) in [
        ("csr.pem", "CERTIFICATE REQUEST", "a CA issues the certificate"),
        ("csr.der", "request for a certificate", "a CA issues the certificate"),
        ("nameless.der", "request for a certificate", "a CA issues the certificate"),
        ("alice.p12", "PKCS#12", "openssl pkcs12 -in FILE -nokeys"),
        ("p7.pem", "PKCS7", "openssl pkcs7 -print_certs"),
        ("p7.der", "PKCS#7", "openssl pkcs7 -inform DER -print_certs"),
        ("certs/alice.key", "PRIVATE KEY", "another file"),
        ("key.der", "private key", "another file"),
        ("old.der", "private key", "another file"),
        ("locked.der", "private key", "another file"),
        ("public.pem", "PUBLIC KEY", "another file"),
        ("public.der", "public key", "not a certificate"),
    ] {
        let done = run(&demo, &["explain", file]).code(6);
        assert!(done.stderr.contains(name) && done.stderr.contains(advice), "{file}: {done:?}");
    }
}

#[test]
fn errors_of_syntax_have_a_line_a_column_and_a_caret() {
    let demo = Demo::new();
    for (text, line) in [
        ("[mapping\n", 1),
        ("\n[mapping]\nmethods = [\"upn\" \"subject\"]\n", 3),
        ("\n[mapping]\nmethods =\n", 3),
        ("\n[mapping]\nmethods = [\"upn\"", 3),
        ("\n[mapping]\nmethods = \"upn\nbinding = \"full\"\n", 3),
        ("\n[mapping]\nbinding\n", 3),
        ("\n[mapping]\nbinding = full\n", 3),
    ] {
        fs::write(demo.path("wrong.toml"), text).unwrap();
        let rehearse =
            ["mapping", "rehearse", "--policy", "wrong.toml", "--certs", "certs", "-c", "rcmpd.toml"];
        for arguments in [&["check-config", "-c", "wrong.toml"][..], &rehearse] {
            let done = demo.rcmpd(arguments).code(1);
            assert!(done.stderr.contains(&format!("wrong.toml:{line}:")), "{text:?}: {done:?}");
            assert!(done.stderr.contains('^'), "{text:?}: {done:?}");
        }
    }
}

#[test]
fn map_verifies_the_chain_where_it_is_told_to() {
    let service = Demo::new().serve();
    let script = r"set -e
openssl req -x509 -newkey rsa:2048 -nodes -keyout other.key -out other.pem -subj /CN=Other -days 2
openssl req -new -newkey rsa:2048 -nodes -keyout leaf.key -subj /CN=forged -out forged.csr
openssl req -new -newkey rsa:2048 -nodes -keyout between.key -subj /CN=Between -out between.csr
printf 'basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n' > ca.ext
printf 'keyUsage=digitalSignature\n' > leaf.ext
openssl x509 -req -in between.csr -CA other.pem -CAkey other.key -extfile ca.ext -out between.pem -days 2
openssl x509 -req -in forged.csr -CA other.pem -CAkey other.key -extfile leaf.ext -out forged.pem -days 2
openssl x509 -req -in forged.csr -CA between.pem -CAkey between.key -extfile leaf.ext -out deep.pem -days 2
cat other.pem between.pem > chain.pem
sed -n '/^\[domain\]/,/^$/p;/^\[client\]/,/^$/p' client.toml > asker.toml";
    service.paste(script).code(0);
    let map = |arguments: &str, config: &str| service.paste(&format!("rcmpd map {arguments} -c {config}"));
    // By [mapping], and by --anchors.
    map("certs/alice.pem --verify", "client.toml").code(0);
    map("certs/alice.pem --verify --anchors certs/ca.pem", "asker.toml").code(0);
    // What is not valid is not asked about: the code is that of input, and no decision.
    let refused = map("forged.pem --verify", "client.toml").code(6);
    assert!(refused.stderr.contains("not asked, because"), "{refused:?}");
    map("certs/alice.pem --verify --anchors other.pem", "asker.toml").code(6);
    map("forged.pem", "asker.toml").code(3);
    // Certificates between, in any order, and with the anchor among them; the server then knows no such CA.
    map("deep.pem --verify --anchors other.pem --chain chain.pem", "asker.toml").code(3);
    map("deep.pem --verify --anchors other.pem", "asker.toml").code(6);
    // There has to be something to verify by.
    assert!(map("certs/alice.pem --verify", "asker.toml").code(2).stderr.contains("--anchors"));
    map("certs/alice.pem --anchors certs/ca.pem", "asker.toml").code(2);
    // The help says what is not checked without it.
    let help = service.rcmpd(&["map", "--help"]).code(0).stdout;
    assert!(help.contains("private key") && help.contains("5.1") && help.contains("--verify"), "{help}");
}

/// A peer that sends a byte now and then is no quicker than a silent one: the limit is for the question, not
/// for a read.
#[test]
fn a_question_takes_no_longer_than_its_timeout() {
    let demo = Demo::new();
    let slow = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = slow.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in slow.incoming().flatten() {
            std::thread::spawn(move || {
                // bind_ack of DCE/RPC (C706, 12.6.4.4) of 4096 bytes, byte by byte.
                let head = [5, 0, 12, 3, 0x10, 0, 0, 0, 0, 16, 0, 0, 1, 0, 0, 0];
                for byte in head.into_iter().chain(std::iter::repeat(0)) {
                    if stream.write_all(&[byte]).is_err() {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
        }
    });
    let asked = Instant::now();
    let secret = "machines/WEB01.secret";
    let question =
        ["map", "certs/alice.pem", "-c", "rcmpd.toml", "--server", &address, "--machine", "WEB01$"];
    let done = demo.rcmpd(&[&question[..], &["--secret-file", secret, "--timeout", "2"]].concat()).code(4);
    let took = asked.elapsed();
    assert!(done.stderr.contains("did not answer in time"), "{done:?}");
    // A debug build on a busy machine starts and ends in seconds.
    assert!((Duration::from_secs(2)..Duration::from_secs(12)).contains(&took), "{took:?}");
}

/// A certificate that is revoked, or may be, is not asked about.
#[test]
fn map_verifies_that_nothing_is_revoked() {
    let demo = Demo::new();
    let crls = "validation = \"chain+crl\"\ncrls = [\"ca.crl\"]";
    demo.edit(|text| text.replace("validation = \"chain\"", crls));
    let authority = Authority::of(&demo);
    authority.list(&demo.path("ca.crl"), &[]);
    let service = demo.serve();
    let map = |who: &str| {
        let certificate = service.certificate(who);
        service.rcmpd(&["map", &certificate, "--verify", "-c", "client.toml"])
    };
    map("alice").code(0);
    authority.revoke(&service.certificate("alice"), "keyCompromise");
    authority.list(&service.path("ca.crl"), &[]);
    let done = map("alice").code(6);
    assert!(done.stderr.contains("not asked, because") && done.stderr.contains("was revoked at"), "{done:?}");
    map("bob").code(0);
    // Without a list that counts nothing is decided.
    let (from, to) = ("20200101000000Z", "20200102000000Z");
    authority.list(&service.path("ca.crl"), &["-crl_lastupdate", from, "-crl_nextupdate", to]);
    let done = map("bob").code(7);
    assert!(done.stderr.contains("the revocation status is unknown"), "{done:?}");
    std::fs::remove_file(service.path("ca.crl")).unwrap();
    let done = map("bob");
    assert!(matches!(done.code, 6 | 7) && !done.stderr.contains("was revoked at"), "{done:?}");
}

#[test]
fn certificates_that_are_not_in_the_chain_are_left_out_and_named() {
    let service = Demo::new().serve();
    let script = r"set -e
openssl req -x509 -newkey rsa:2048 -nodes -keyout other.key -out other.pem -subj /CN=Stray -days 2
cat other.pem certs/ca.pem certs/alice.pem other.pem > strays.pem
cat certs/alice.pem certs/ca.pem > whole.pem";
    service.paste(script).code(0);
    for command in ["map", "explain"] {
        let config = if command == "map" { "client.toml" } else { "rcmpd.toml" };
        let ask = |chain: &str| {
            service.rcmpd(&[command, "certs/alice.pem", "--chain", chain, "-c", config, "--json"]).code(0)
        };
        let done = ask("strays.pem");
        let warning =
            "rcmpd: warning: CN=Stray is not in the chain of the certificate, so its name is not sent\n";
        assert_eq!(done.stderr, warning, "{command}: {done:?}");
        done.json();
        assert_eq!(ask("whole.pem").stderr, "", "{command}: the certificate itself is no stray");
    }
}

/// Arguments that fail, each in its own way, with the code that each promises.
const FAILURES: [(&str, i32); 28] = [
    ("account", 2),
    ("account list --nope", 2),
    ("map", 2),
    ("map certs/alice.pem --server 127.0.0.1:1", 2),
    ("serve --nope", 2),
    ("page", 2),
    ("nonsense", 2),
    // A configuration that is not there.
    ("map certs/alice.pem -c nowhere.toml", 2),
    ("explain certs/alice.pem -c nowhere.toml", 2),
    ("check-config -c nowhere.toml", 2),
    ("account list -c nowhere.toml", 2),
    ("machine list -c nowhere.toml", 2),
    ("domain show -c nowhere.toml", 2),
    ("export - -c nowhere.toml", 2),
    ("mapping rehearse --policy nowhere.toml --certs certs -c rcmpd.toml", 2),
    // Another file that is not there.
    ("map nowhere.pem -c rcmpd.toml", 6),
    ("explain nowhere.pem -c rcmpd.toml", 6),
    ("mapping strings nowhere.pem", 6),
    ("mapping import --from sssd nowhere", 6),
    ("import nowhere.jsonl -c rcmpd.toml", 6),
    ("audit verify nowhere.log", 6),
    ("mapping rehearse --policy rcmpd.toml --certs nowhere -c rcmpd.toml", 6),
    ("machine set WEB01$ --secret-file nowhere -c rcmpd.toml", 6),
    // What is there is wrong.
    ("import rcmpd.toml -c rcmpd.toml", 6),
    ("import certs -c rcmpd.toml", 6),
    ("account show nowhere -c rcmpd.toml", 1),
    ("mapping audit -c rcmpd.toml", 3),
    ("check-config -c bad.toml", 1),
];

#[test]
fn every_failure_is_one_json_value_and_a_message() {
    let demo = Demo::new();
    fs::write(demo.path("bad.toml"), "[domain\n").unwrap();
    for (line, code) in FAILURES {
        let arguments: Vec<&str> = line.split(' ').collect();
        let plain = demo.rcmpd(&arguments).code(code);
        let done = demo.rcmpd(&[&arguments[..], &["--json"]].concat()).code(code);
        let value: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|_| panic!("{line}: {done:?}"));
        assert_eq!(value["exit_code"], code, "{line}: {value}");
        assert!(value["error"].as_str().is_some_and(|error| !error.is_empty()), "{line}: {value}");
        assert!(!done.stderr.is_empty(), "{line}: {done:?}");
        assert!(code == 3 || !plain.stderr.is_empty(), "{line}: {plain:?}");
    }
    // Commands without --json, too.
    for line in ["serve --json", "man --json", "completions --json", "proxy-config --json"] {
        let done = demo.rcmpd(&line.split(' ').collect::<Vec<_>>()).code(2);
        assert_eq!(done.json()["exit_code"], 2, "{line}");
    }
}

#[test]
fn what_cannot_be_written_is_a_failure() {
    let service = Demo::new().serve();
    for line in [
        "map certs/alice.pem -c client.toml",
        "map certs/alice.pem -c client.toml --json",
        "explain certs/alice.pem -c rcmpd.toml",
        "explain certs/alice.pem -c rcmpd.toml --json",
        "account list -c rcmpd.toml",
        "account show alice -c rcmpd.toml",
        "group list -c rcmpd.toml",
        "machine list -c rcmpd.toml",
        "domain show -c rcmpd.toml",
        "mapping strings certs/alice.pem",
        "export - -c rcmpd.toml",
        "check-config -c rcmpd.toml",
        "completions bash",
        "man",
        "--help",
        "--version",
        "account --help",
    ] {
        let done = service.paste(&format!("rcmpd {line} > /dev/full"));
        assert!(done.code == 1 && done.stderr.contains("No space left on device"), "{line}: {done:?}");
        // A reader that has seen enough is no failure.
        let done = service.paste(&format!("(rcmpd {line}; echo $? >&2) | head -c 1 > /dev/null"));
        assert_eq!(done.stderr.trim().lines().last(), Some("0"), "{line}: {done:?}");
    }
}

#[test]
fn logs_keep_no_color_and_dumb_terminals() {
    let demo = Demo::new();
    // The program of the person at the terminal, with what it answers as the first line.
    let script = "import os, pty, subprocess, sys
master, slave = pty.openpty()
child = subprocess.Popen(['rcmpd', 'page', '--listen', '127.0.0.1:0'], stderr=slave, stdin=subprocess.DEVNULL)
os.close(slave)
seen = b''
while b'\\n' not in seen:
    seen += os.read(master, 4096)
child.terminate(); child.wait()
print(repr(seen))";
    fs::write(demo.path("terminal.py"), script).unwrap();
    for (environment, coloured) in [
        ("TERM=xterm", true),
        ("TERM=xterm NO_COLOR=1", false),
        ("TERM=dumb", false),
        ("TERM=xterm NO_COLOR=", true),
    ] {
        let done = demo.paste(&format!("env -u NO_COLOR {environment} python3 terminal.py")).code(0);
        assert!(done.stdout.contains("127.0.0.1:"), "{done:?}");
        assert_eq!(done.stdout.contains("\\x1b["), coloured, "{environment}: {done:?}");
    }
}

#[test]
fn check_config_tells_good_wrong_and_unreadable_apart() {
    let demo = Demo::new();
    run(&demo, &["check-config"]).code(0);
    demo.edit(|text| text.replace("binding    = \"full\"", "bidning    = \"full\""));
    let done = run(&demo, &["check-config"]).code(1);
    assert!(done.stderr.contains("bidning") && done.stderr.contains("rcmpd.toml:"), "{done:?}");
    let done = run(&demo, &["check-config", "--json"]).code(1).json();
    assert_eq!(done["good"], false);
    assert!(done["problems"][0]["line"].as_u64().unwrap() > 10);
    demo.rcmpd(&["check-config", "-c", "nowhere.toml"]).code(2);
    // What does not pass the check does not start.
    let done = run(&demo, &["serve"]).code(1);
    assert!(done.stderr.contains("bidning"), "{done:?}");
}

#[test]
fn quickstart_overwrites_nothing() {
    let demo = Demo::new();
    let before = fs::read(demo.path("certs/alice.key")).unwrap();
    let done = demo.rcmpd(&["quickstart", "."]);
    assert_ne!(done.code, 0);
    assert!(done.stderr.contains("exists"), "{done:?}");
    assert_eq!(fs::read(demo.path("certs/alice.key")).unwrap(), before);
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(demo.path(name)).unwrap().permissions().mode() & 0o777
    };
    for secret in ["machines/WEB01.secret", "accounts.key", "certs/alice.key", "certs/ca.key"] {
        assert_eq!(mode(secret) & 0o077, 0, "{secret}");
    }
}

#[test]
fn accounts_and_groups_are_kept_from_the_command_line() {
    let demo = Demo::new();
    run(
        &demo,
        &[
            "account",
            "add",
            "dave",
            "--upn",
            "dave@contoso.example",
            "--full-name",
            "Dave Dunn",
            "--group",
            "Engineers",
        ],
    )
    .code(0);
    let dave = run(&demo, &["account", "show", "dave", "--json"]).code(0).json();
    assert_eq!(dave["name"], "dave");
    let listed = run(&demo, &["account", "list", "--json"]).code(0).json();
    assert!(names(&listed).contains(&"dave"));
    // Once is enough, and an account of that name is in the way of another.
    let done = run(&demo, &["account", "add", "DAVE"]);
    assert_ne!(done.code, 0, "{done:?}");
    run(&demo, &["account", "set", "dave", "--disable", "--add-spn", "http/dave.contoso.example"]).code(0);
    run(&demo, &["account", "remove", "dave"]).code(0);
    assert_ne!(run(&demo, &["account", "show", "dave"]).code, 0);

    run(&demo, &["group", "add", "Night Shift", "--scope", "local"]).code(0);
    run(&demo, &["group", "set", "Night Shift", "--add-member", "alice"]).code(0);
    let group = run(&demo, &["group", "show", "Night Shift", "--json"]).code(0).json();
    assert!(group.to_string().contains("alice"), "{group:#}");
    run(&demo, &["group", "remove", "Night Shift"]).code(0);
    let listed = run(&demo, &["group", "list", "--json"]).code(0).json();
    assert!(!names(&listed).contains(&"Night Shift"));

    let domain = run(&demo, &["domain", "show", "--json"]).code(0).json();
    assert_eq!(domain["netbios"], "CONTOSO");
    assert_eq!(domain["sid"], demo.domain_sid());
}

#[test]
fn a_machine_account_is_made_with_its_secret_and_asks() {
    let service = Demo::new().serve();
    run(
        &service,
        &["machine", "add", "WEB02$", "--secret-file", "machines/WEB02.secret", "--permission", "rcmp"],
    )
    .code(0);
    let map = || {
        let server = service.netlogon.to_string();
        service.rcmpd(&[
            "map",
            "certs/alice.pem",
            "--server",
            &server,
            "--machine",
            "WEB02$",
            "--secret-file",
            "machines/WEB02.secret",
            "--domain",
            "CONTOSO",
        ])
    };
    map().code(0);
    run(&service, &["machine", "set", "WEB02$", "--disable"]).code(0);
    map().code(5);
    run(&service, &["machine", "set", "WEB02$", "--enable"]).code(0);
    map().code(0);
    let listed = run(&service, &["machine", "list", "--json"]).code(0).json();
    assert_eq!(names(&listed), ["WEB01$", "WEB02$"]);
    assert!(
        !run(&service, &["machine", "show", "WEB02$", "--json"])
            .code(0)
            .stdout
            .to_lowercase()
            .contains("hash")
    );
    run(&service, &["machine", "remove", "WEB02$"]).code(0);
    map().code(5);
}

#[test]
fn a_change_counts_from_the_next_question_on() {
    let service = Demo::new().serve();
    service.map("mallory").code(3);
    run(&service, &["account", "add", "mallory", "--upn", "mallory@contoso.example"]).code(0);
    // A name is not enough; the line that binds the certificate is.
    service.map("mallory").code(3);
    let explained = run(&service, &["explain", "certs/mallory.pem", "--json"]).code(3).json();
    assert_eq!(explained["reason"], "no_strong_mapping");
    service.paste(explained["remedies"][0]["command"].as_str().unwrap()).code(0);
    assert_eq!(service.map("mallory").code(0).json()["account"], "mallory");
    run(&service, &["account", "set", "mallory", "--disable"]).code(0);
    service.map("mallory").code(3);
    run(&service, &["account", "set", "mallory", "--enable", "--group", "Engineers"]).code(0);
    let engineers = format!("{}-1101", service.domain_sid());
    let answer = service.map("mallory").code(0).json();
    assert!(
        answer["groups"].as_array().unwrap().iter().any(|group| group["sid"] == engineers[..]),
        "{answer:#}"
    );
    run(&service, &["account", "remove", "mallory"]).code(0);
    service.map("mallory").code(3);
}

#[test]
fn explain_says_why_without_asking_a_server() {
    let demo = Demo::new();
    let done = run(&demo, &["explain", "certs/alice.pem"]).code(0);
    assert!(done.stdout.contains("alice@contoso.example"), "{done:?}");
    let done = run(&demo, &["explain", "certs/mallory.pem", "--json"]);
    assert_eq!(done.code, 3, "{done:?}");
    assert_eq!(done.json()["status"]["name"], "STATUS_LOGON_FAILURE");
    let explained = done.json();
    let methods = explained["methods"].as_array().unwrap();
    let states: Vec<&str> = methods.iter().map(|method| method["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["tried", "tried", "not_asked_for"]);
}

#[test]
fn what_is_exported_can_be_imported_elsewhere() {
    let demo = Demo::new();
    run(&demo, &["export", "all.jsonl"]).code(0);
    let text = fs::read_to_string(demo.path("all.jsonl")).unwrap();
    assert!(text.lines().count() >= 10);
    for line in text.lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }
    // It must not exist.
    assert_ne!(run(&demo, &["export", "all.jsonl"]).code, 0);
    // Everything is there already, and replacing it by itself changes nothing.
    let done = run(&demo, &["import", "all.jsonl"]);
    assert_ne!(done.code, 0, "{done:?}");
    run(&demo, &["import", "all.jsonl", "--replace"]).code(0);
    run(&demo, &["export", "again.jsonl"]).code(0);
    assert_eq!(fs::read_to_string(demo.path("again.jsonl")).unwrap(), text);
    // One bad line, and nothing of the file is taken.
    let group = format!(
        "{{\"type\":\"group\",\"name\":\"Newcomers\",\"sid\":\"{}-1999\",\"scope\":\"global\"}}",
        demo.domain_sid()
    );
    let bad = format!("{group}\n{{\"type\":\"account\"}}\n");
    fs::write(demo.path("bad.jsonl"), bad).unwrap();
    let done = run(&demo, &["import", "bad.jsonl"]);
    assert_ne!(done.code, 0);
    assert!(done.stderr.contains("line 2") || done.stderr.contains(":2"), "{done:?}");
    assert_ne!(run(&demo, &["group", "show", "Newcomers"]).code, 0);
    fs::write(demo.path("good.jsonl"), format!("{group}\n")).unwrap();
    run(&demo, &["import", "good.jsonl"]).code(0);
    run(&demo, &["group", "show", "Newcomers"]).code(0);
}

#[test]
fn an_import_that_replaces_leaves_what_its_lines_say() {
    let demo = Demo::new();
    let bob = || run(&demo, &["account", "show", "bob", "--json"]).code(0).json();
    let groups = |account: &Value| names(&account["groups"]).join(",");
    assert_ne!(groups(&bob()), "Domain Users", "the demo has bob in another group");
    run(&demo, &["export", "all.jsonl"]).code(0);
    let all = fs::read_to_string(demo.path("all.jsonl")).unwrap();
    let mut lines: Vec<Value> = all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let line = lines.iter_mut().find(|line| line["name"] == "bob").unwrap();
    line["member_of"] = json!([]);
    fs::write(demo.path("bob.jsonl"), format!("{line}\n")).unwrap();
    run(&demo, &["import", "bob.jsonl", "--replace"]).code(0);
    assert_eq!(groups(&bob()), "Domain Users");

    // The list of a directory knows no SIDs: new names are made, known ones replaced, and again the same.
    let list = "{\"type\":\"account\",\"name\":\"bob\",\"member_of\":[\"Night\"]}\n{\"type\":\"group\",\"name\":\"Night\"}\n\
                {\"type\":\"account\",\"name\":\"newone\",\"user_principal_name\":\"newone@contoso.example\"}\n";
    fs::write(demo.path("list.jsonl"), list).unwrap();
    let exported = |name: &'static str| {
        run(&demo, &["export", name]).code(0);
        fs::read_to_string(demo.path(name)).unwrap()
    };
    let before = bob();
    run(&demo, &["import", "list.jsonl", "--replace"]).code(0);
    assert_eq!(groups(&bob()), "Domain Users,Night");
    assert_eq!((&bob()["sid"], &bob()["created"]), (&before["sid"], &before["created"]));
    let first = exported("first.jsonl");
    run(&demo, &["import", "list.jsonl", "--replace"]).code(0);
    assert_eq!(exported("second.jsonl"), first);
    let newone = run(&demo, &["account", "show", "newone", "--json"]).code(0).json();
    let year = |account: &Value| account["created"].as_str().unwrap().get(..4).map(str::to_owned);
    let made = run(&demo, &["account", "add", "madenow", "--json"]).code(0).json();
    assert_eq!(year(&newone), year(&made), "an account of an import is created when it is imported");

    // --replace is advised where it helps, and nowhere else.
    let told = |text: &str| {
        fs::write(demo.path("told.jsonl"), text).unwrap();
        let done = run(&demo, &["import", "told.jsonl"]);
        assert_ne!(done.code, 0);
        done.stderr
    };
    let exists = told("{\"type\":\"account\",\"name\":\"bob\"}\n");
    assert!(exists.contains("line 1: ") && exists.contains("--replace"), "{exists}");
    for text in [
        "name,upn\n",
        "{\"type\":\"account\",\"name\":\"x\",\"colour\":1}",
        "{\"type\":\"account\",\"name\":\"Night\"}",
    ] {
        let why = told(text);
        assert!(why.contains("line 1: ") && !why.contains("--replace"), "{why}");
    }
    fs::create_dir(demo.path("folder")).unwrap();
    let folder = run(&demo, &["import", "folder"]);
    assert!(folder.code != 0 && !folder.stderr.contains("--replace"), "{folder:?}");
    // A file that is missing or something else is an input file that cannot be used, whatever reads it.
    let utf16: Vec<u8> = list.encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(demo.path("utf16.jsonl"), utf16).unwrap();
    fs::write(demo.path("table.csv"), "name,upn\n").unwrap();
    for file in ["nowhere", "folder", "utf16.jsonl", "table.csv", "certs/alice.pem"] {
        let done = run(&demo, &["import", file]).code(6);
        assert!(done.stderr.contains(file), "{done:?}");
    }
    run(&demo, &["machine", "set", "WEB01$", "--secret-file", "nowhere"]).code(6);
    fs::write(demo.path("policy.toml"), "[mapping]\nanchors = [\"certs/ca.pem\"]\n").unwrap();
    run(&demo, &["mapping", "rehearse", "--policy", "policy.toml", "--certs", "nowhere"]).code(6);
    // What the database refuses is no fault of the file.
    run(&demo, &["import", "told.jsonl"]).code(1);
    let object = "{\n  \"type\": \"account\",\n  \"name\": \"x\"\n}\n";
    assert!(told(object).contains("line 1: ") && told(object).contains("each line is one JSON object"));
    let unknown = told("\n{\"type\":\"account\",\"name\":\"x\",\"member_of\":[\"Nowhere\"]}\n");
    assert!(unknown.contains("line 2: there is no group \"Nowhere\""), "{unknown}");
    // Only machines that have no secret need one.
    let machine = |name: &str, more: &str| {
        format!("{{\"type\":\"machine\",\"name\":\"{name}\",\"kind\":\"workstation\"{more}}}\n")
    };
    let secret = ",\"current_secret\":\"0cb6948805f797bf2a82807973b89537\"";
    let lines = machine("WEB01$", ",\"rcmp\":true") + &machine("WEB08$", secret);
    fs::write(demo.path("machines.jsonl"), &lines).unwrap();
    let done = run(&demo, &["import", "machines.jsonl", "--replace"]).code(0);
    assert!(!done.stderr.contains("without a secret"), "{done:?}");
    fs::write(demo.path("machines.jsonl"), lines + &machine("WEB09$", "")).unwrap();
    let done = run(&demo, &["import", "machines.jsonl", "--replace"]).code(0);
    assert!(done.stderr.contains("New machine accounts without a secret: WEB09$. "), "{done:?}");

    // Standard output and input.
    let piped = run(&demo, &["export", "-"]).code(0).stdout;
    assert_eq!(piped, exported("third.jsonl"));
    demo.paste("rcmpd import - --replace -c rcmpd.toml < third.jsonl").code(0);
    assert_eq!(exported("fourth.jsonl"), piped);
}

#[test]
fn a_dash_is_standard_input_where_a_file_is_read() {
    let service = Demo::new().serve();
    for line in [
        "rcmpd check-config - < rcmpd.toml",
        "rcmpd explain - -c rcmpd.toml < certs/alice.pem",
        "rcmpd map - -c client.toml < certs/alice.pem",
        "rcmpd map certs/alice.pem -c client.toml --secret-file - < machines/WEB01.secret",
        "rcmpd mapping strings - < certs/alice.pem",
        "rcmpd mapping rehearse --policy - --certs certs -c rcmpd.toml < rcmpd.toml",
        "rcmpd machine set 'WEB01$' --secret-file - -c rcmpd.toml < machines/WEB01.secret",
    ] {
        service.paste(line).code(0);
    }
    service.paste("rcmpd audit key signing.key").code(0);
    // The key is accepted, and the next file is not there.
    let done = service.paste("rcmpd audit verify log --heads heads --public-key - < signing.key.pub").code(6);
    assert!(done.stderr.contains("heads cannot be read"), "{done:?}");
    let done = service.paste("rcmpd serve - < rcmpd.toml").code(2);
    assert!(done.stderr.contains("serve needs a file"), "{done:?}");
}

#[test]
fn bash_completes_names_of_the_store_and_expands_nothing_in_them() {
    let demo = Demo::new();
    demo.rcmpd(&["account", "add", "bo $(touch expanded)", "-c", "rcmpd.toml"]).code(0);
    let complete = |words: &str| {
        let line = format!(
            "rcmpd completions bash > names.bash; RCMPD_CONFIG=rcmpd.toml bash -c 'source ./names.bash; COMP_WORDS=({words}); \
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _rcmpd_with_names rcmpd; printf \"%s\\n\" \"${{COMPREPLY[@]}}\"'"
        );
        demo.paste(&line).code(0).stdout
    };
    assert_eq!(complete("rcmpd account show al"), "alice\n");
    assert_eq!(complete("rcmpd machine set WE"), "WEB01\\$\n");
    assert_eq!(complete("rcmpd group set \"Web\""), "Web\\ Team\nWeb\\ Servers\n");
    assert_eq!(complete("rcmpd account remove bo"), "bob\nbo\\ \\$\\(touch\\ expanded\\)\n");
    assert!(!demo.path("expanded").exists());
    assert!(complete("rcmpd account sh").contains("show"), "commands are completed as before");
}

#[test]
fn a_new_domain_gets_a_sid_that_a_configuration_accepts() {
    let demo = Demo::new();
    let new = || demo.rcmpd(&["domain", "new-sid"]).code(0).stdout.trim_end().to_owned();
    let (one, other) = (new(), new());
    assert_ne!(one, other);
    let sid = demo.domain_sid();
    demo.edit(|text| text.replace(&sid, &one));
    // The database is that of another domain, and nothing is wrong with the SID.
    let done = demo.rcmpd(&["check-config", "rcmpd.toml"]).code(1);
    assert!(done.stderr.contains(&one) && !done.stderr.contains("this is not the SID"), "{done:?}");
    demo.edit(|text| text.replace(&format!("sid     = \"{one}\"\n"), ""));
    let done = demo.rcmpd(&["check-config", "rcmpd.toml"]).code(1);
    assert!(done.stderr.contains("rcmpd domain new-sid"), "{done:?}");
}

#[test]
fn every_command_explains_itself() {
    let demo = Demo::new();
    let help = demo.rcmpd(&["--help"]).code(0).stdout;
    for command in [
        "quickstart",
        "serve",
        "map",
        "explain",
        "check-config",
        "account",
        "group",
        "machine",
        "domain",
        "import",
        "export",
        "audit",
        "page",
        "check-proxy",
        "completions",
        "man",
    ] {
        assert!(help.contains(command), "{command}");
        let own = demo.rcmpd(&[command, "--help"]).code(0).stdout;
        assert!(own.contains("Usage:"), "{own}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(demo.rcmpd(&["completions", shell]).code(0).stdout.contains("check-config"));
    }
    let mut all = String::new();
    for page in [&["man"][..], &["man", "machine", "add"], &["man", "map"], &["man", "account", "set"]] {
        let text = demo.rcmpd(page).code(0).stdout;
        assert!(text.starts_with(".ie"));
        all.push_str(&text);
    }
    for part in [
        ".TH rcmpd 1",
        ".TH rcmpd-machine-add 1",
        "secret\\-file",
        "issuer\\-chain",
        "add\\-mapping",
        "FILES",
    ] {
        assert!(all.contains(part), "{part}");
    }
    assert!(demo.rcmpd(&["man", "machine", "nothing"]).code(1).stderr.contains("rcmpd machine --help"));
    assert!(demo.rcmpd(&["--version"]).code(0).stdout.starts_with("rcmpd "));
}
