//! `check-config` tells before a start or a reload what these would refuse, what is lax, and what matches
//! nothing.

use rcmpd_tests::openssl::openssl;
use rcmpd_tests::{Demo, write_secret};
use std::fs;

const CHECK: [&str; 3] = ["check-config", "-c", "rcmpd.toml"];
const SERVE: [&str; 3] = ["serve", "-c", "rcmpd.toml"];

/// A demo in which a file of each kind is named.
fn demo() -> Demo {
    let demo = Demo::new();
    for key in ["audit.key", "proof.key", "token.key"] {
        demo.rcmpd(&["audit", "key", key]).code(0);
    }
    for secret in ["sidecar.secret", "admin.secret"] {
        write_secret(demo.path(secret), "correct-horse-battery\n");
    }
    fs::create_dir(demo.path("log")).unwrap();
    let user = rustix::process::geteuid().as_raw();
    demo.edit(|text| {
        text.replace("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1:0\"\ntoken = \"file:admin.secret\"")
    });
    demo.configure(&format!(
        "[audit]\npath = \"log/audit.log\"\nchain = true\nheads = {{ path = \"log/heads.log\", key = \"audit.key\" }}\n\
         [forward]\nproof_key = \"proof.key\"\n\
         [sidecar]\n\
         [sidecar.token]\nkey = \"token.key\"\nissuer = \"https://id.example\"\naudience = \"wiki\"\n\
         [sidecar.proxy]\nlisten = \"127.0.0.1:0\"\ncertificate = \"certs/site.pem\"\nkey = \"certs/site.key\"\n\
         upstream = \"http://127.0.0.1:1\"\n\
         [[sidecar.listen]]\ndialect = \"nginx\"\naddress = \"127.0.0.1:0\"\nsecret = \"file:sidecar.secret\"\n\
         [[sidecar.listen]]\ndialect = \"caddy\"\naddress = \"127.0.0.1:0\"\n\
         tls = {{ certificate = \"certs/web01.pem\", key = \"certs/web01.key\", client_ca = \"certs/ca.pem\", names = [\"a.example\"] }}\n\
         [[sidecar.listen]]\ndialect = \"nginx\"\nunix = \"web.sock\"\npeers = [\"{user}\"]\n"
    ));
    demo
}

/// A configuration whose domain was not added yet has neither a database nor its key. Nothing is lost, so no
/// new key is proposed.
#[test]
fn a_domain_that_was_not_added_yet_is_told_to_add() {
    let demo = Demo::new();
    for name in ["accounts.db", "accounts.key"] {
        fs::remove_file(demo.path(name)).unwrap();
    }
    let rekey = ["domain", "rekey", "--forget-secrets", "-c", "rcmpd.toml"];
    let list = ["account", "list", "-c", "rcmpd.toml"];
    for command in [&CHECK[..], &SERVE, &list, &rekey] {
        let told = demo.rcmpd(command).code(1).stderr;
        assert!(told.contains("`rcmpd domain add` creates it"), "{command:?}: {told}");
        assert!(!told.contains("rekey") && !told.contains("key file") && !told.contains(".key"), "{told}");
    }
    demo.rcmpd(&["domain", "add", "-c", "rcmpd.toml"]).code(0);
    demo.rcmpd(&CHECK).code(0);
}

#[test]
fn what_serve_would_refuse_is_refused_before() {
    let demo = demo();
    let good = demo.rcmpd(&CHECK).code(0);
    assert_eq!(good.stderr, "");
    for name in [
        "accounts.db",
        "accounts.key",
        "admin.secret",
        "audit.key",
        "certs/ca.pem",
        "certs/site.key",
        "certs/site.pem",
        "certs/web01.key",
        "certs/web01.pem",
        "log",
        "proof.key",
        "sidecar.secret",
        "token.key",
    ] {
        let (path, away) = (demo.path(name), demo.path("away"));
        fs::rename(&path, &away).unwrap();
        for command in [CHECK, SERVE] {
            let done = demo.rcmpd(&command).code(1);
            assert!(done.stderr.contains(name), "{name}: {done:?}");
        }
        fs::rename(&away, &path).unwrap();
    }
    let whole = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    let sid = demo.domain_sid();
    write_secret(demo.path("odd.secret"), "correct horse battery\n");
    for (from, to, why) in [
        ("certs/site.key", "certs/alice.key", "cannot be used together"),
        ("certs/web01.key", "certs/alice.key", "cannot be used together"),
        (sid.as_str(), "S-1-5-21-1-2-3", "holds the accounts of"),
        ("file:sidecar.secret", "file:odd.secret", "other characters"),
        ("token.key", "machines/WEB01.secret", "is not a PKCS#8 key in PEM"),
    ] {
        demo.edit(|_| whole.replacen(from, to, 1));
        for command in [CHECK, SERVE] {
            let done = demo.rcmpd(&command).code(1);
            assert!(done.stderr.contains(why), "{to}: {done:?}");
        }
    }
    // All at once, and as one JSON value.
    demo.edit(|_| whole.replacen("certs/site.key", "certs/alice.key", 1).replacen("token.key", "no.key", 1));
    let found = demo.rcmpd(&[&CHECK[..], &["--json"]].concat()).code(1).json();
    assert_eq!(found["problems"].as_array().unwrap().len(), 2, "{found}");
    // What only the service's environment has is not refused for that.
    demo.edit(|_| whole.replacen("file:sidecar.secret", "cred:sidecar", 1));
    let done = demo.rcmpd(&CHECK).code(0);
    assert!(done.stderr.contains("the secret of [[sidecar.listen]] was not checked"), "{done:?}");
}

/// `serve` cannot listen there, or would write lines of the audit log into a file that is something else.
#[test]
fn what_cannot_be_listened_on_or_written_is_refused_before() {
    let demo = demo();
    let whole = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    std::os::unix::fs::symlink(demo.path("accounts.db"), demo.path("log/link")).unwrap();
    let long = "s".repeat(120);
    let log = "path = \"log/audit.log\"";
    let contents = |name: &str| fs::read(demo.path(name)).unwrap();
    let (database, certificate) = (contents("accounts.db"), contents("certs/ca.pem"));
    for (from, to, why) in [
        ("unix = \"web.sock\"", format!("unix = \"{long}\""), "that of a socket at most 107"),
        ("unix = \"web.sock\"", "unix = \"certs\"".to_owned(), "there is a file that is no socket"),
        ("unix = \"web.sock\"", "unix = \"rcmpd.toml\"".to_owned(), "there is a file that is no socket"),
        (log, "path = \"log\"".to_owned(), "audit"),
        (log, "path = \"/dev/null\"".to_owned(), "audit.chain needs a file"),
        (log, "path = \"accounts.db\"".to_owned(), "names for something else"),
        (log, "path = \"log/link\"".to_owned(), "names for something else"),
        (log, "path = \"log/../token.key\"".to_owned(), "names for something else"),
        (log, "path = \"certs/ca.pem\"".to_owned(), "names for something else"),
        (log, "path = \"certs/site.pem\"".to_owned(), "names for something else"),
        (log, "path = \"rcmpd.toml\"".to_owned(), "audit.path is this file itself"),
        ("path = \"log/heads.log\"", "path = \"accounts.db\"".to_owned(), "audit.heads.path is"),
        ("path = \"log/heads.log\"", "path = \"log/../log/audit.log\"".to_owned(), "audit.heads.path is"),
    ] {
        demo.edit(|_| whole.replacen(from, &to, 1));
        if to.contains("audit.log") {
            fs::write(demo.path("log/audit.log"), "").unwrap();
        }
        for command in [CHECK, SERVE] {
            let done = demo.rcmpd(&command).code(1);
            assert!(done.stderr.contains(why), "{command:?} {to}: {done:?}");
        }
    }
    assert!(
        contents("accounts.db") == database && contents("certs/ca.pem") == certificate,
        "nothing was written"
    );
    // Whether the user's processes can connect is not known. `serve` says so, too.
    demo.edit(|_| {
        let user = format!("peers = [\"{}\"]", rustix::process::geteuid().as_raw());
        whole.replacen(&user, "peers = [\"99999\"]", 1)
    });
    let done = demo.rcmpd(&CHECK).code(0);
    assert!(done.stderr.contains("the group of its user is not known"), "{done:?}");
    assert!(demo.serve().log().contains("the group of its user is not known"));
}

#[test]
fn what_is_lax_or_matches_nothing_is_warned_about() {
    let demo = Demo::new();
    let (sid, user) = (demo.domain_sid(), rustix::process::geteuid().as_raw());
    let grants = "grant = [\"issuer-serial\", { form = \"sid\", for = [\"group:Engineers\", \"group:TYPO\", \"account:alise\", \
                  \"@contoso.example\", \"@contoso.exmaple\", \"group:SID-1101\", \"account:SID-9999\"] }]";
    let grants = grants.replace("SID", &sid);
    demo.edit(|text| {
        text.replace("binding    = \"full\"", &format!("binding = \"off\"\n{grants}"))
            .replace("[rpc]", "[rpc]\nmisses_per_s = 0")
    });
    demo.configure(&format!(
        "[sidecar]\n[[sidecar.listen]]\ndialect = \"nginx\"\nunix = \"web.sock\"\nmode = \"0666\"\npeers = [\"{user}\"]\n\
         [[sidecar.listen]]\ndialect = \"nginx\"\naddress = \"0.0.0.0:0\"\nsecret = \"file:machines/WEB01.secret\"\n\
         [[sidecar.route]]\npath = \"/a\"\ngroups = [\"Engineers\", \"Enginers\"]\n\
         [[sidecar.route]]\npath = \"/b\"\nsids = [\"{sid}-1001\", \"{sid}-1101\", \"{sid}-4242\", \"S-1-5-21-7-8-9-1000\"]\n"
    ));
    let expected = [
        "ames alone are enough".to_owned(),
        "misses_per_s is 0".to_owned(),
        "very local user can connect to this socket".to_owned(),
        "is sent over the network without TLS".to_owned(),
        "A route names a group that does not exist route=1 group=\"Enginers\"".to_owned(),
        format!("A route names a SID that no account and no group has route=2 sid=\"{sid}-4242\""),
        "A route names a SID that no account and no group has route=2 sid=\"S-1-5-21-7-8-9-1000\"".to_owned(),
        "A grant is for a group that does not exist group=\"TYPO\"".to_owned(),
        "A grant is for an account that does not exist account=\"alise\"".to_owned(),
        format!("A grant is for an account that does not exist account=\"{sid}-9999\""),
        "A grant is for a suffix that no account has suffix=\"contoso.exmaple\"".to_owned(),
    ];
    let done = demo.rcmpd(&CHECK).code(0);
    // The same facts, as a sentence.
    let told = |line: &str| line.replacen("A ", "a ", 1).replacen(" route=", ": route=", 1);
    for line in &expected {
        let line = told(line);
        let line = match line.starts_with("a grant") {
            true => line.replacen(" group=", ": group=", 1).replacen(" account=", ": account=", 1).replacen(
                " suffix=",
                ": suffix=",
                1,
            ),
            false => line,
        };
        assert!(done.stderr.contains(&line), "{line}: {done:?}");
    }
    let lines = done.stderr.lines().filter(|line| line.contains("warning: ")).count();
    assert_eq!(lines, expected.len(), "{done:?}");
    let found = demo.rcmpd(&[&CHECK[..], &["--json"]].concat()).code(0).json();
    assert_eq!(
        (found["good"].as_bool(), found["warnings"].as_array().unwrap().len()),
        (Some(true), expected.len())
    );

    // The service says the same at its start and at a reload.
    let mut service = demo.serve();
    for line in &expected {
        service.wait_for_lines(&["WARN", line.as_str()], 1);
    }
    service.reload();
    for line in &expected {
        service.wait_for_lines(&["WARN", line.as_str()], 2);
    }
}

/// A name that a peer and local accounts have sends their certificates to the peer.
#[test]
fn a_name_of_a_peer_that_local_accounts_have_is_warned_about() {
    let demo = Demo::new();
    write_secret(demo.path("fabrikam.secret"), "correct-horse-battery\n");
    let peer = |names: &str, direction: &str| {
        let servers = match direction {
            "outbound" => "servers = [\"127.0.0.1:1\"]\nsecret = \"file:fabrikam.secret\"\n",
            _ => "",
        };
        format!(
            "[[peer]]\ndomain = \"FABRIKAM\"\nsid = \"S-1-5-21-7-8-9\"\nnames = [{names}]\ndirection = \"{direction}\"\n{servers}"
        )
    };
    let text = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    demo.rcmpd(&["account", "set", "bob", "--upn", "bob@Partners.example", "-c", "rcmpd.toml"]).code(0);
    let both = "\"fabrikam.example\", \"partners.example\"";
    let told = "A local account has a name of a peer";
    for (names, direction, is_told) in
        [("\"fabrikam.example\"", "outbound", false), (both, "inbound", false), (both, "outbound", true)]
    {
        demo.edit(|_| format!("{text}\n{}", peer(names, direction)));
        let done = demo.rcmpd(&CHECK).code(0);
        let fact = "account=\"bob\" suffix=\"partners.example\" peer=\"FABRIKAM\"";
        assert_eq!(done.stderr.contains(fact), is_told, "{names} {direction}: {done:?}");
        assert_eq!(done.stderr.matches("warning: ").count(), usize::from(is_told), "{done:?}");
    }
    let mut service = demo.serve();
    service.wait_for_lines(&["WARN", told, "account=\"bob\"", "suffix=\"partners.example\""], 1);
    service.reload();
    service.wait_for_lines(&["WARN", told, "account=\"bob\"", "suffix=\"partners.example\""], 2);
    // The host of a computer below a name of the peer.
    let host = ["account", "set", "WEB01$", "--add-spn", "HOST/web.eu.fabrikam.example", "-c", "rcmpd.toml"];
    service.rcmpd(&host).code(0);
    let done = service.rcmpd(&CHECK).code(0);
    assert!(done.stderr.contains("account=\"WEB01$\" suffix=\"fabrikam.example\""), "{done:?}");
    service.rcmpd(&["account", "set", "WEB01$", "--home-domain", "FABRIKAM", "-c", "rcmpd.toml"]).code(0);
    // An account whose home is the peer's domain is meant to be asked about there.
    service.rcmpd(&["account", "set", "bob", "--home-domain", "FABRIKAM", "-c", "rcmpd.toml"]).code(0);
    let done = service.rcmpd(&CHECK).code(0);
    assert!(!done.stderr.contains("warning: "), "{done:?}");
}

/// A listener that knows no host and no path answers 500 where routes are configured, and that is said before
/// a request comes.
#[test]
fn a_listener_without_a_target_is_warned_about_where_there_are_routes() {
    let demo = Demo::new();
    let text = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    let user = rustix::process::geteuid().as_raw();
    let told = "but this listener has no target";
    let route = "[[sidecar.route]]\npath = \"/a\"\n";
    let upstream = "upstream = \"http://127.0.0.1:1\"\n";
    let configure = |dialect: &str, more: &str, route: &str| {
        let listen =
            format!("[[sidecar.listen]]\ndialect = \"{dialect}\"\nunix = \"a.sock\"\npeers = [\"{user}\"]\n");
        demo.edit(|_| format!("{text}\n[sidecar]\n{listen}{more}{route}"));
    };
    for (dialect, more, route, is_told) in [
        ("envoy", "", route, true),
        ("client-cert", "", route, true),
        ("envoy", "", "", false),
        ("envoy", "target = \"request\"\n", route, false),
        ("client-cert", "target = \"x-original\"\n", route, false),
        ("client-cert", upstream, route, false),
        ("nginx", "", route, false),
    ] {
        configure(dialect, more, route);
        let done = demo.rcmpd(&CHECK).code(0);
        assert_eq!(done.stderr.contains(told), is_told, "{dialect} {more} {route}: {done:?}");
        assert_eq!(done.stderr.contains("a.sock"), is_told, "{done:?}");
    }
    configure("envoy", "", route);
    let mut service = demo.serve();
    service.wait_for_lines(&["WARN", told, "a.sock"], 1);
    service.reload();
    service.wait_for_lines(&["WARN", told, "a.sock"], 2);
}

/// Two demos at the ports of their users do not meet, and no port is given twice.
#[test]
fn a_demo_has_three_ports_of_its_own() {
    let demo = Demo::new();
    for (port, ports) in [
        (&[][..], [11490, 1135, 9464]),
        (&["--port", "21490"], [21490, 21491, 21492]),
        (&["--port", "1135"], [1135, 1136, 1137]),
        (&["--port", "65533"], [65533, 65534, 65535]),
    ] {
        let folder = format!("demo-{}", ports[0]);
        demo.rcmpd(&[&["quickstart", &folder], port].concat()).code(0);
        let text = fs::read_to_string(demo.path(&folder).join("rcmpd.toml")).unwrap();
        let found: Vec<u16> = text
            .lines()
            .filter(|line| line.starts_with("listen") || line.starts_with("endpoint_mapper"))
            .map(|line| line.trim_end_matches(['"', ']']).rsplit(':').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(found, ports, "{text}");
        let client = format!("server  = \"127.0.0.1:{}\"", ports[0]);
        assert!(text.contains(&client), "{text}");
    }
    for port in ["0", "65534", "65536"] {
        demo.rcmpd(&["quickstart", "refused", "--port", port]).code(2);
    }
    assert!(!demo.path("refused").exists());
}

/// The file for OpenSSL that docs/smart-cards.md prints binds alice's certificate to her account, by either
/// form of the SID.
#[test]
fn openssl_writes_a_sid_as_the_docs_print_it() {
    let demo = Demo::new();
    let (_, text) =
        include_str!("../../../docs/smart-cards.md").split_once("```ini\n").expect("a file is printed");
    let (text, _) = text.split_once("```").expect("it ends");
    let text = text.replace("S-1-5-21-A-B-C", &demo.domain_sid());
    let folder = demo.path("certs");
    let new = [
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        "new.key",
    ];
    openssl(&folder, &[&new[..], &["-out", "new.csr", "-subj", "/CN=alice"]].concat());
    let without = |start: &str| {
        let lines = text.lines().filter(|line| !line.starts_with(start));
        lines.collect::<Vec<_>>().join("\n")
    };
    let (extension, uri) = ("1.3.6.1.4.1.311.25.2 =", "URI.1 =");
    let neither = without(extension).replace("URI.1 =", "URI.1 = https://example/ #");
    for (text, code) in [(text.clone(), 0), (without(extension), 0), (without(uri), 0), (neither, 3)] {
        fs::write(folder.join("client.cnf"), &text).unwrap();
        let ca = [
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-days",
            "365",
            "-extfile",
            "client.cnf",
            "-extensions",
            "client",
        ];
        openssl(&folder, &[&["x509", "-req", "-in", "new.csr"], &ca[..], &["-out", "new.pem"]].concat());
        let done = demo.rcmpd(&["explain", "certs/new.pem", "-c", "rcmpd.toml", "--json"]);
        assert_eq!(done.code, code, "{text}\n{done:?}");
    }
}

/// The certificate of `[tlsnego]`, which clients encrypt keys to in two of its bindings.
#[test]
fn certificate_that_no_client_encrypts_to_is_refused_and_several_dns_names_are_warned_about() {
    let demo = Demo::with_gateway(rcmpd_tests::ports::free_port(), "");
    demo.edit(|text| {
        text.replace("certs/site.pem", "certs/new.pem")
            .replace("certs/site.key", "certs/new.key")
            .replace("credential  =", "bindings = [\"session\", \"one-shot\"]\ncredential  =")
    });
    let whole = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    let folder = demo.path("certs");
    let issue = |key: [&str; 2], usage: &str, names: &str| {
        let algorithm =
            ["req", "-new", "-newkey", key[0], "-pkeyopt", key[1], "-nodes", "-keyout", "new.key"];
        openssl(&folder, &[&algorithm[..], &["-out", "new.csr", "-subj", "/CN=localhost"]].concat());
        fs::write(folder.join("server.cnf"), format!("[server]\n{usage}\nsubjectAltName = {names}\n"))
            .unwrap();
        let ca = ["-CA", "ca.pem", "-CAkey", "ca.key", "-days", "365", "-extfile", "server.cnf"];
        let end = ["-extensions", "server", "-out", "new.pem"];
        openssl(&folder, &[&["x509", "-req", "-in", "new.csr"], &ca[..], &end].concat());
    };
    let (rsa, ecdsa) = (["rsa", "rsa_keygen_bits:2048"], ["ec", "ec_paramgen_curve:P-256"]);
    let (both, signs) = ("keyUsage = digitalSignature,keyEncipherment", "keyUsage = digitalSignature");
    let no_rsa = "the bindings preset-session and one-shot need an RSA key";
    let no_usage = "the bindings preset-session and one-shot need keyEncipherment";
    let (one, two) = ("DNS:localhost", "DNS:a.example,DNS:localhost");
    for (key, usage, names, refused, warned) in [
        (rsa, both, one, None, false),
        (rsa, "", one, None, false),
        (rsa, both, two, None, true),
        (rsa, signs, one, Some(no_usage), false),
        (ecdsa, both, one, Some(no_rsa), false),
    ] {
        issue(key, usage, names);
        demo.edit(|_| whole.clone());
        let done = demo.rcmpd(&CHECK).code(i32::from(refused.is_some()));
        match refused {
            None => assert_eq!(done.stderr.contains("new.pem"), warned, "{done:?}"),
            Some(why) => {
                assert!(done.stderr.contains("new.") && done.stderr.contains(why), "{done:?}");
                let told = demo.rcmpd(&SERVE).code(1).stderr;
                assert!(told.contains(why), "{told}");
                // Bindings that negotiate ask nothing of the kind.
                demo.edit(|_| whole.replace(", \"one-shot\"]", "]"));
                demo.rcmpd(&CHECK).code(0);
            }
        }
        let last = "clients on .NET Framework before 4.6.1 compare the last one alone";
        assert_eq!(done.stderr.contains(last), warned, "{done:?}");
    }
}
