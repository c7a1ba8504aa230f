//! What is printed, on a terminal of any width and in a pipe.

use rcmpd_tests::{Demo, Finished};
use std::fs;

/// Runs a command on a terminal of so many columns, and prints what the terminal is sent.
const TERMINAL: &str = "import fcntl, os, pty, struct, subprocess, sys, termios
master, slave = pty.openpty()
fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', 24, int(sys.argv[1]), 0, 0))
child = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=slave, stderr=subprocess.STDOUT)
os.close(slave)
seen = b''
while True:
    try:
        more = os.read(master, 4096)
    except OSError:
        break
    if not more:
        break
    seen += more
sys.stdout.buffer.write(seen.replace(b'\\r\\n', b'\\n'))
sys.exit(child.wait())";

/// The lines on a terminal. `environment` is as `env` takes it.
fn on_terminal(demo: &Demo, environment: &str, columns: usize, line: &str) -> Finished {
    fs::write(demo.path("terminal.py"), TERMINAL).unwrap();
    demo.paste(&format!("env {environment} python3 terminal.py {columns} rcmpd {line} -c rcmpd.toml"))
}

const TABLES: [&str; 6] = [
    "account list",
    "account show alice",
    "group list",
    "group show Engineers",
    "machine list",
    "domain list",
];

#[test]
fn tables_are_the_same_on_a_terminal_and_in_a_pipe() {
    let demo = Demo::new();
    for line in TABLES {
        let piped = demo.paste(&format!("rcmpd {line} -c rcmpd.toml")).code(0).stdout;
        for environment in ["TERM=xterm LC_ALL=C.UTF-8", "TERM=dumb", "LC_ALL=C", "COLUMNS=20"] {
            let shown = on_terminal(&demo, environment, 200, line).code(0).stdout;
            assert_eq!(shown, piped, "{line}, {environment}");
        }
    }
}

#[test]
fn tables_fit_narrow_terminals_and_break_no_word() {
    let demo = Demo::new();
    let long = ["--upn", "a.rather.long.name.of.a.user@contoso.example", "-c", "rcmpd.toml"];
    demo.rcmpd(&[&["account", "add", "somebody.with.a.long.name"][..], &long].concat()).code(0);
    for line in TABLES {
        let whole = demo.paste(&format!("rcmpd {line} -c rcmpd.toml")).code(0).stdout;
        let words: Vec<&str> = whole.split_whitespace().collect();
        for (columns, environment, cut) in [
            (80, "LC_ALL=C.UTF-8", "…"),
            (60, "LC_ALL=C.UTF-8", "…"),
            (60, "LC_ALL=C", "..."),
            (30, "TERM=dumb LC_ALL=C", "..."),
        ] {
            let shown = on_terminal(&demo, environment, columns, line).code(0).stdout;
            let table = shown.split("\n\n").last().unwrap();
            for text in table.lines().filter(|text| !text.starts_with('(')) {
                assert!(text.chars().count() <= columns, "{line}, {columns}: {shown}");
                for word in text.split_whitespace() {
                    assert!(
                        words.contains(&word) || word.contains(cut),
                        "{word} of {line}, {columns}: {shown}"
                    );
                }
            }
            // A row stays a row.
            let rows = |text: &str| {
                text.split("\n\n").last().unwrap().lines().filter(|text| !text.starts_with('(')).count()
            };
            assert_eq!(rows(&shown), rows(&whole), "{line}, {columns}: {shown}");
        }
    }
    let shown = on_terminal(&demo, "LC_ALL=C.UTF-8", 60, "machine list").code(0).stdout;
    assert!(shown.contains("(the terminal is too narrow for SID, GROUPS)"), "{shown}");
}

#[test]
fn groups_of_an_answer_have_the_names_that_the_store_here_has() {
    let service = Demo::new().serve();
    let shown = service.rcmpd(&["map", "certs/alice.pem", "-c", "rcmpd.toml"]).code(0).stdout;
    for (rid, kind, name) in
        [(513, "domain", "Domain Users"), (1101, "domain", "Engineers"), (1103, "local", "Wiki Editors")]
    {
        let row = shown.lines().find(|line| line.contains(&format!("-{rid} "))).unwrap();
        assert_eq!(row.split_whitespace().skip(1).collect::<Vec<_>>().join(" "), format!("{kind} {name}"));
    }
    assert!(!shown.contains("rcmpd group show"), "{shown}");
    let json = service.rcmpd(&["map", "certs/alice.pem", "-c", "rcmpd.toml", "--json"]).code(0).json();
    let names: Vec<&str> =
        json["groups"].as_array().unwrap().iter().filter_map(|group| group["name"].as_str()).collect();
    assert!(names.contains(&"Engineers"), "{names:?}");
    // A machine has no store: what is missing is said.
    service.paste("sed -n '/^\\[domain\\]/,/^$/p;/^\\[client\\]/,/^$/p' client.toml > asker.toml").code(0);
    let shown = service.rcmpd(&["map", "certs/alice.pem", "-c", "asker.toml"]).code(0).stdout;
    assert!(!shown.contains("Engineers") && shown.contains("rcmpd group show SID"), "{shown}");
    // SIDs are shortened on a narrow terminal, not left out.
    let shown = on_terminal(&service, "LC_ALL=C.UTF-8", 60, "map certs/alice.pem").code(0).stdout;
    assert!(shown.contains("\n S-1-5-21-…-1101  domain  Engineers\n"), "{shown}");
}

#[test]
fn the_configuration_is_taken_where_people_write_it() {
    let service = Demo::new().serve();
    for line in [
        "rcmpd -c rcmpd.toml map certs/alice.pem",
        "rcmpd --config rcmpd.toml map certs/alice.pem",
        "rcmpd --config=rcmpd.toml map certs/alice.pem",
        "RCMPD_CONFIG=rcmpd.toml rcmpd map certs/alice.pem",
        "RCMPD_CONFIG=nowhere.toml rcmpd -c rcmpd.toml map certs/alice.pem",
        "rcmpd -c rcmpd.toml account show -- alice",
        "rcmpd check-config rcmpd.toml",
        "rcmpd check-config -c rcmpd.toml",
        "RCMPD_CONFIG=rcmpd.toml rcmpd check-config",
        "RCMPD_CONFIG=nowhere.toml rcmpd check-config rcmpd.toml",
        "rcmpd check-config",
    ] {
        service.paste(line).code(0);
    }
    for line in
        ["rcmpd check-config", "rcmpd serve", "rcmpd check-config --json", "RCMPD_CONFIG= rcmpd serve"]
    {
        // A folder without rcmpd.toml.
        let done = service.paste(&format!("cd machines && {line}")).code(2);
        assert!(done.stderr.contains("RCMPD_CONFIG") && done.stderr.contains("-c FILE"), "{line}: {done:?}");
    }
    // Nor does one count that another user has put there.
    if rustix::process::geteuid().is_root() {
        fs::copy(service.path("rcmpd.toml"), service.path("machines/rcmpd.toml")).unwrap();
        service.paste("cd machines && rcmpd check-config").code(1);
        std::os::unix::fs::chown(service.path("machines/rcmpd.toml"), Some(65_534), None).unwrap();
        let done = service.paste("cd machines && rcmpd check-config").code(2);
        assert!(done.stderr.contains("belongs to this user or to root"), "{done:?}");
    }
    service.paste("rcmpd serve rcmpd.toml -c rcmpd.toml").code(2);
    service.paste("rcmpd -c rcmpd.toml man").code(2);
    // `serve FILE` gets as far as the ports, which are in use.
    let port = service.netlogon.port();
    service.edit(|text| text.replacen("127.0.0.1:0", &format!("127.0.0.1:{port}"), 1));
    let done = service.paste("rcmpd serve rcmpd.toml").code(1);
    assert!(done.stderr.contains("rpc.listen") || done.stderr.contains("in use"), "{done:?}");
}

#[test]
fn the_manual_page_and_completions_say_how_they_are_used() {
    let demo = Demo::new();
    let terminal = |line: &str| {
        fs::write(demo.path("terminal.py"), TERMINAL).unwrap();
        demo.paste(&format!("python3 terminal.py 80 rcmpd {line}")).code(0).stdout
    };
    let shown = terminal("man");
    assert!(shown.contains("rcmpd man | man -l -") && !shown.contains(".SH"), "{shown}");
    assert!(terminal("completions bash").contains("rcmpd completions --help"));
    let help = demo.rcmpd(&["completions", "--help"]).code(0).stdout;
    for place in ["bash-completion/completions/rcmpd", "_rcmpd", "fish/completions/rcmpd.fish"] {
        assert!(help.contains(place), "{help}");
    }
    // groff, where it is installed, finds nothing wrong.
    let written = demo.rcmpd(&["man", "--dir", "man1"]).code(0).stdout;
    let pages: Vec<_> =
        fs::read_dir(demo.path("man1")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(written, format!("Wrote {} manual pages to man1\n", pages.len()));
    for page in ["rcmpd.1", "rcmpd-serve.1", "rcmpd-domain-trust-commands.1"] {
        assert!(pages.contains(&page.into()), "{page}: {pages:?}");
    }
    let check = "command -v groff >/dev/null || exit 0; for page in man1/*; do groff -man -ww -z -Kutf8 $page 2>&1; done";
    assert_eq!(demo.paste(check).code(0).stdout, "");
    let version = demo.rcmpd(&["version"]).code(0).stdout;
    assert_eq!(version, demo.rcmpd(&["--version"]).code(0).stdout);
    let mut parts = version.trim_end().splitn(3, ' ');
    assert_eq!((parts.next(), parts.next()), (Some("rcmpd"), Some(env!("CARGO_PKG_VERSION"))));
    // A commit and its date, if this is a checkout.
    if let Some(commit) = parts.next() {
        let shape: String = commit.chars().map(|c| if c.is_ascii_hexdigit() { 'x' } else { c }).collect();
        assert_eq!(shape, "(xxxxxxxxxxxx xxxx-xx-xx)");
    }
}

#[test]
fn a_question_that_cannot_be_asked_says_what_is_probably_wrong() {
    let service = Demo::new().serve();
    let ask = |server: &str, machine: &str, domain: &str| {
        let machine = ["--machine", machine, "--secret-file", "machines/WEB01.secret", "--domain", domain];
        service.rcmpd(&[&["map", "certs/alice.pem", "--server", server][..], &machine].concat())
    };
    let server = service.netlogon.to_string();
    ask(&server, "WEB01$", "CONTOSO").code(0);
    let done = ask(&server, "WEB01$", "FABRIKAM").code(5);
    assert!(done.stderr.contains("probably FABRIKAM is not the domain"), "{done:?}");
    let done = ask(&server, "WEB01", "CONTOSO").code(5);
    assert!(done.stderr.contains("ends in a dollar sign, as in 'WEB01$'"), "{done:?}");
    let done = ask(&service.admin.to_string(), "WEB01$", "CONTOSO").code(5);
    assert!(done.stderr.contains("does not answer as a Netlogon server"), "{done:?}");
    // 127.0.0.135 is an address of this machine on which nothing listens.
    let done = ask("127.0.0.135", "WEB01$", "CONTOSO").code(4);
    assert!(
        done.stderr.contains("127.0.0.135:135 (the endpoint mapper, because 127.0.0.135 has no port)"),
        "{done:?}"
    );
}

#[test]
fn what_is_counted_has_its_number() {
    let demo = Demo::new();
    for (lines, said) in [
        ("{\"type\":\"account\",\"name\":\"one\"}\n", "Imported 1 account, 0 groups and 0 machines"),
        (
            "{\"type\":\"group\",\"name\":\"G\"}\n{\"type\":\"account\",\"name\":\"a\"}\n{\"type\":\"account\",\"name\":\"b\"}\n",
            "Imported 2 accounts, 1 group and 0 machines",
        ),
    ] {
        fs::write(demo.path("some.jsonl"), lines).unwrap();
        let done = demo.rcmpd(&["import", "some.jsonl", "-c", "rcmpd.toml"]).code(0);
        assert!(done.stdout.starts_with(said), "{done:?}");
    }
}
