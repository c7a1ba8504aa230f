//! The kinds of store that a configuration can name, from nothing to an answer.

use crate::sidecar::ask_about;
use crate::undone::copy;
use rcmpd_tests::openssl::three_levels_of_certificates;
use rcmpd_tests::{Demo, Service};
use rustix::process::Signal;
use std::fs;
use std::path::Path;

const SQLITE: &str = "kind = \"sqlite\"\npath = \"accounts.db\"";
/// Where the quickstart says of which key the machines' secrets are.
const KEY: &str = "key   = \"accounts.key\"";

/// The demo with accounts elsewhere, and its machines where they were.
fn with_accounts_in(store: &str) -> impl FnOnce(String) -> String {
    let with_path = format!("path = \"accounts.db\"\n{KEY}");
    move |text| {
        assert!(text.contains(SQLITE) && text.contains(KEY), "{text}");
        text.replace(SQLITE, store).replace(KEY, &with_path)
    }
}

#[test]
fn a_domain_is_made_from_its_configuration_alone() {
    let demo = Demo::new();
    demo.edit(|text| text.replace("accounts.db", "own/domain.db").replace("accounts.key", "own/domain.key"));
    fs::create_dir(demo.path("own")).unwrap();
    let missing = demo.rcmpd(&["account", "list", "-c", "rcmpd.toml"]).code(1);
    assert!(missing.stderr.contains("`rcmpd domain add` creates it"), "{missing:?}");
    let made = demo.rcmpd(&["domain", "add", "-c", "rcmpd.toml", "--json"]).code(0).json();
    assert_eq!(made["files"], serde_json::json!(["./own/domain.key", "./own/domain.db"]), "{made}");
    let again = demo.rcmpd(&["domain", "add", "-c", "rcmpd.toml"]).code(1);
    assert!(again.stderr.contains("already exists"), "{again:?}");
    for command in [
        &["group", "add", "Engineers"][..],
        &["account", "add", "alice", "--upn", "alice@contoso.example", "--group", "Engineers"],
        &["machine", "add", "WEB01$", "--secret-file", "machines/WEB01.secret", "--permission", "rcmp"],
    ] {
        demo.rcmpd(&[command, &["-c", "rcmpd.toml"]].concat()).code(0);
    }
    let service = demo.serve();
    // Engineers took the first RID, so alice has the one that is in her certificate.
    let answer = service.map("alice").code(0).json();
    assert_eq!(answer["account"], "alice", "{answer}");
    assert_eq!(answer["groups"][0]["name"], "Domain Users", "{answer}");
    // Bob's certificate has the SID of another account, and names none here.
    service.map("bob").code(3);
}

#[test]
fn accounts_in_memory_come_from_a_file_and_are_read_again() {
    let demo = Demo::new();
    demo.rcmpd(&["export", "accounts.jsonl", "-c", "rcmpd.toml"]).code(0);
    demo.edit(with_accounts_in("kind = \"memory\"\npath = \"accounts.jsonl\""));
    let refused = demo.rcmpd(&["account", "add", "dave", "-c", "rcmpd.toml"]).code(1);
    assert!(refused.stderr.contains("accounts are read from"), "{refused:?}");
    // A machine has a SID that none of those accounts has, and a wrong path does not cost it its secret.
    let add = ["machine", "add", "WEB02$", "--secret-file", "WEB02.secret", "--json", "-c", "rcmpd.toml"];
    let machine = demo.rcmpd(&add).code(0).json();
    assert_eq!(machine["sid"], format!("{}-{}", demo.domain_sid(), 1 << 30), "{machine}");
    let set = ["machine", "set", "WEB02$", "--secret-file", "nowhere", "--json", "-c", "rcmpd.toml"];
    let failed = demo.rcmpd(&set).code(6).json();
    assert_eq!(failed["exit_code"], 6, "{failed}");
    assert!(!demo.path("nowhere").exists());
    let mut service = demo.serve();
    let answer = service.map("alice").code(0).json();
    assert_eq!(answer["account"], "alice", "{answer}");
    let path = service.path("accounts.jsonl");
    let accounts = fs::read_to_string(&path).unwrap();
    // What cannot be read leaves everything as it was.
    fs::write(&path, "nonsense\n").unwrap();
    service.signal(Signal::HUP);
    service.wait_for_log("Not reloaded");
    service.map("alice").code(0);
    fs::write(&path, accounts.replace("alice@contoso.example", "alicia@contoso.example")).unwrap();
    service.signal(Signal::HUP);
    service.wait_for_log("Reloaded");
    service.map("alice").code(3);
    service.map("bob").code(0);
}

#[test]
fn accounts_outlive_the_loss_of_the_key_file() {
    let demo = Demo::new();
    let run = |arguments: &[&str]| demo.rcmpd(&[arguments, &["-c", "rcmpd.toml"]].concat());
    let key = demo.path("accounts.key");
    let copy = fs::read(&key).unwrap();
    run(&["account", "set", "bob", "--full-name", "Bob Brown"]).code(0);
    let whole = run(&["export", "-"]).code(0).stdout;
    let way_out = |text: &str| {
        assert!(
            text.contains("accounts.key") && text.contains("rcmpd store rekey --forget-secrets"),
            "{text}"
        );
    };
    for other in [false, true] {
        match other {
            true => rcmpd_tests::write_secret(&key, [9; 32]),
            false => fs::remove_file(&key).unwrap(),
        }
        let exported = run(&["export", "-"]).code(0);
        assert_eq!(exported.stdout, whole);
        way_out(&exported.stderr);
        for command in [
            &["account", "list"][..],
            &["account", "set", "bob", "--full-name", "Bob Brown"],
            &["account", "show", "bob"],
            &["group", "list"],
            &["machine", "list"],
            &["explain", "certs/alice.pem"],
            &["import", "/dev/null"],
        ] {
            way_out(&run(command).code(0).stderr);
        }
        for command in
            [&["machine", "show", "WEB01$"][..], &["machine", "set", "WEB01$", "--disable"], &["serve"]]
        {
            way_out(&run(command).code(1).stderr);
        }
        if other {
            let told = run(&["domain", "rekey", "--forget-secrets"]).code(1).stderr;
            assert!(told.contains("move it away"), "{told}");
            assert_eq!(fs::read(&key).unwrap(), [9; 32], "nothing was changed");
        }
    }
    // The key comes back, and nothing was lost.
    fs::remove_file(&key).unwrap();
    rcmpd_tests::write_secret(&key, &copy);
    run(&["machine", "show", "WEB01$"]).code(0);

    // It does not.
    fs::remove_file(&key).unwrap();
    let forgot = run(&["domain", "rekey", "--forget-secrets", "--json"]).code(0).json();
    assert_eq!(forgot["forgotten"], serde_json::json!(["WEB01$"]));
    let service = demo.serve();
    service.map("alice").code(5);
    let set = ["machine", "set", "WEB01$", "--secret-file", "machines/WEB01.secret", "-c", "rcmpd.toml"];
    service.rcmpd(&set).code(0);
    service.map("alice").code(0);
}

#[test]
fn a_sidecar_is_served_without_the_key_file() {
    let demo = Demo::new();
    fs::remove_file(demo.path("accounts.key")).unwrap();
    let user = rustix::process::geteuid().as_raw();
    demo.configure(&format!(
        "[sidecar]\n[[sidecar.listen]]\ndialect = \"nginx\"\nunix = \"nginx.sock\"\npeers = [\"{user}\"]"
    ));
    // Without [rpc] no machine has to prove anything.
    demo.edit(|text| {
        let (before, rest) = text.split_once("[rpc]").unwrap();
        format!("{before}{}", &rest[rest.find("[store]").unwrap()..])
    });
    let service = demo.serve_bare();
    assert!(service.log().contains("rcmpd store rekey --forget-secrets"), "{}", service.log());
    assert_eq!(crate::sidecar::ask_about(&service, "alice", &[]).status, 200);
}

#[test]
fn an_issuer_is_a_fixed_account() {
    let demo = Demo::new();
    let level = "kind = \"profile\"
[[store.level]]
name = \"partner\"
rid = 5001
issuers = [\"O=Contoso,CN=Contoso Demo CA\"]
groups = [{ rid = 513, name = \"Domain Users\" }, { rid = 5100, name = \"Partners\" }]";
    demo.edit(with_accounts_in(level));
    // An issuer is all there is to go by: that is weak, and granted only where it is configured.
    demo.edit(|text| {
        text.replace("[\"upn\", \"subject\"]", "[\"issuer\"]")
            .replace("binding    = \"full\"", "binding    = \"off\"\ngrant      = [\"issuer\"]")
    });
    let mut service = demo.serve();
    let ask = |service: &rcmpd_tests::Service| {
        let certificate = service.certificate("carol");
        service.rcmpd(&["map", &certificate, "-c", "client.toml", "--methods", "issuer", "--json"])
    };
    let answer = ask(&service).code(0).json();
    assert_eq!(answer["account"], "partner", "{answer}");
    assert_eq!(answer["method"], "issuer", "{answer}");
    assert!(answer["groups"].to_string().contains("-5100"), "{answer}");
    // Levels are configuration, so a reload takes them over.
    service.edit(|text| text.replace("name = \"partner\"", "name = \"guest\""));
    service.signal(Signal::HUP);
    service.wait_for_log("Reloaded");
    assert_eq!(ask(&service).code(0).json()["account"], "guest");
}

/// [MS-RCMP] 3.1: a web server with three levels of service by three issuers, as docs/configuration.md prints
/// it.
const LEVELS: &str = include_str!("../../../docs/configuration.md");

/// The printed example in a demo's configuration, with the certificates that it names and clients of each
/// level.
fn three_levels() -> Demo {
    let demo = Demo::new();
    let (_, example) =
        LEVELS.split_once("```toml\n[store]\nkind = \"profile\"").expect("there is an example");
    let (example, _) = example.split_once("```").expect("the example ends");
    let user = rustix::process::geteuid().as_raw().to_string();
    let example = example.replace("www-data", &user);
    demo.edit(|text| {
        let (domain, rest) = text.split_once("[store]").expect("the quickstart has a store");
        let (_, client) = rest.split_once("[client]").expect("the quickstart has a client");
        format!("{domain}[client]{client}\n[store]\nkind = \"profile\"{example}")
    });
    fs::rename(demo.path("accounts.db"), demo.path("machines.db")).unwrap();
    fs::rename(demo.path("accounts.key"), demo.path("machines.key")).unwrap();
    three_levels_of_certificates(&demo);
    demo
}

/// The level by the certificate of a client, and what it gets at the route for gold.
fn level_of(service: &Service, client: &str) -> (u16, String, u16) {
    let at = |path: &str| {
        ask_about(service, client, &[("X-Original-Host", "shop.example"), ("X-Original-URI", path)])
    };
    let answer = at("/");
    let user = if answer.status == 200 { answer.header("remote-user").to_owned() } else { String::new() };
    (answer.status, user, at("/orders").status)
}

#[test]
fn three_issuers_are_three_levels_of_service() {
    let demo = three_levels();
    demo.rcmpd(&["check-config", "-c", "rcmpd.toml"]).code(0);
    let service = demo.serve();
    let levels = |service: &Service| {
        for (client, expected) in [
            ("b", (200, "CONTOSO\\bronze", 403)),
            ("s", (200, "CONTOSO\\silver", 403)),
            // By their issuer, and by the CA above it.
            ("g", (200, "CONTOSO\\gold", 200)),
            ("i", (200, "CONTOSO\\gold", 200)),
            // Another CA with the name of one in a level.
            ("x", (403, "", 403)),
        ] {
            let (status, user, orders) = level_of(service, client);
            assert_eq!((status, user.as_str(), orders), expected, "{client}: {}", service.log());
        }
    };
    levels(&service);
    // By the issuer alone, the CA above it says nothing.
    service.edit(|text| text.replace("methods = [\"issuer-chain\"]", "methods = [\"issuer\"]"));
    service.reload();
    assert_eq!(level_of(&service, "i"), (403, String::new(), 403));
    assert_eq!(level_of(&service, "g").1, "CONTOSO\\gold");
    service.edit(|text| text.replace("methods = [\"issuer\"]", "methods = [\"issuer-chain\"]"));
    service.reload();
    levels(&service);

    // A sidecar elsewhere asks the same service by the same methods.
    let orders = format!("{}-5102", service.domain_sid());
    let routes = format!("[[sidecar.route]]\npath = \"/orders\"\nsids = [\"{orders}\"]\n[[sidecar.route]]");
    let web = |methods: &str| {
        let demo = Demo::web(&service, "", &format!("{methods}\ntimeout_s = 5\n{routes}"));
        demo.edit(|text| {
            let trusted = "anchors = [\"certs/bronze.pem\", \"certs/silver.pem\"]\n\
                           intermediates = [\"certs/gold.pem\", \"certs/gold-issuing.pem\"]";
            text.replace("anchors = [\"certs/ca.pem\"]", trusted)
        });
        demo.serve_bare()
    };
    levels(&web("methods = [\"issuer-chain\"]"));
    assert_eq!(level_of(&web("methods = [\"issuer\"]"), "i").0, 403);
    // The service allows no other method ([MS-RCMP] 3.5.2: STATUS_LOGON_FAILURE).
    assert_eq!(level_of(&web(""), "g").0, 403);
}

/// What stands beside the database.
fn beside(path: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[test]
fn a_service_that_stops_leaves_nothing_beside_its_database() {
    let mut service = Demo::new().serve();
    service.rcmpd(&["account", "set", "alice", "--disable", "-c", "client.toml"]).code(0);
    let path = service.path("accounts.db");
    let all = ["-wal", "-shm", "-serving"].map(|suffix| beside(&path, suffix));
    assert!(all.iter().all(|path| path.exists()));
    service.signal(Signal::TERM);
    assert_eq!(service.ended(), 0);
    // So a file that is copied to this place now is what is served then.
    assert!(!all.iter().any(|path| path.exists()), "{all:?}");
}

#[test]
fn a_database_that_is_replaced_under_the_service_is_not_served() {
    type Replace = fn(&Path, &Path);
    let remove = |path: &Path, suffixes: &[&str]| {
        suffixes.iter().for_each(|suffix| fs::remove_file(beside(path, suffix)).unwrap());
    };
    let cases: [(&str, Replace); 4] = [
        ("moved over", |path, other| fs::rename(other, path).unwrap()),
        ("copied over", |path, other| {
            fs::copy(other, path).unwrap();
        }),
        ("moved over, and log and index removed", |path, other| {
            fs::remove_file(beside(path, "-wal")).unwrap();
            fs::remove_file(beside(path, "-shm")).unwrap();
            fs::rename(other, path).unwrap();
        }),
        ("log and index removed", |path, _| {
            fs::remove_file(beside(path, "-wal")).unwrap();
            fs::remove_file(beside(path, "-shm")).unwrap();
        }),
    ];
    for (what, replace) in cases {
        let mut service = Demo::new().serve();
        let (path, other) = (service.path("accounts.db"), service.path("other.db"));
        let set = |more: &str| service.rcmpd(&["account", "set", "alice", more, "-c", "client.toml"]);
        set("--disable").code(0);
        copy(&path, &other);
        set("--enable").code(0);
        service.map("alice").code(0);
        assert_eq!((service.get("/ready").0, service.metric("rcmpd_store_usable")), (200, 1));

        replace(&path, &other);
        assert_eq!(service.get("/ready").0, 503, "{what}");
        // No client gets an answer from the old contents, nor from a mixture.
        service.map("alice").code(7);
        service.wait_for_log("Account store unavailable");
        assert_eq!(service.metric("rcmpd_store_usable"), 0, "{what}");
        let log = service.log();
        let line = log.lines().find(|line| line.contains("Account store unavailable")).unwrap();
        assert!(
            line.contains("ERROR") && line.contains("accounts.db") && line.contains("stop the service"),
            "{line}"
        );

        let set = || service.rcmpd(&["account", "set", "alice", "--full-name", "A", "-c", "client.toml"]);
        let has_old_log = !what.contains("log and index");
        let why = match what {
            "copied over" => "was overwritten by a program other than SQLite",
            _ => "belongs to the file that was there before",
        };
        if has_old_log {
            // The log of the file that is gone is applied to no other one.
            let refused = set().code(1);
            assert!(
                refused.stderr.contains(why) && refused.stderr.contains("undoes the changes"),
                "{what}: {refused:?}"
            );
        } else {
            let warned = set().code(0);
            let pid = format!("process {}", service.pid());
            assert!(
                warned.stderr.contains("does not read this") && warned.stderr.contains(&pid),
                "{what}: {warned:?}"
            );
        }
        service.map("alice").code(7);
        service.signal(Signal::TERM);
        assert_eq!(service.ended(), 0);
        if has_old_log {
            let refused = service.rcmpd(&["serve", "-c", "rcmpd.toml"]).code(1);
            assert!(
                refused.stderr.contains(why) && refused.stderr.contains("undoes the changes"),
                "{what}: {refused:?}"
            );
            remove(&path, &["-wal", "-shm"]);
        }
        service.start_again();
        let expected = if what == "log and index removed" { 0 } else { 3 };
        if expected == 3 {
            service.map("alice").code(3);
            let set = service.rcmpd(&["account", "set", "alice", "--enable", "-c", "client.toml"]).code(0);
            assert!(!set.stderr.contains("does not read this"), "{set:?}");
        }
        // What was lost with a log that was removed cannot be known.
        service.rcmpd(&["account", "set", "alice", "--enable", "-c", "client.toml"]).code(0);
        service.map("alice").code(0);
        assert_eq!(service.get("/ready").0, 200, "{what}");
    }
}

#[test]
fn committed_changes_outlive_alarms_and_no_alarm_comes_of_touch_or_sqlite() {
    let mut service = Demo::new().serve();
    let path = service.path("accounts.db");
    service.rcmpd(&["account", "set", "alice", "--disable", "-c", "client.toml"]).code(0);
    service.map("alice").code(3);
    // A touch changes nothing.
    let touched = std::process::Command::new("touch").arg(&path).status().unwrap();
    assert!(touched.success());
    service.wait_for_log("changed the timestamps of the database file");
    service.map("alice").code(3);
    assert_eq!((service.get("/ready").0, service.metric("rcmpd_store_usable")), (200, 1));
    // While the service is stopped, other connections commit and empty the log in turns.
    let sqlite = |script: &str| {
        let script = format!(
            "import sqlite3, sys; a, b = (sqlite3.connect(sys.argv[1], isolation_level=None) for _ in 'ab')
count = 'UPDATE account SET logon_count = logon_count + 1'
truncate = 'PRAGMA wal_checkpoint(TRUNCATE)'
{script}"
        );
        let done = std::process::Command::new("python3").args(["-c", &script]).arg(&path).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    for _ in 0..3 {
        sqlite("b.execute(truncate).fetchall()");
        assert_eq!(service.get("/ready").0, 200);
        service.pause();
        sqlite("a.execute(count); b.execute(truncate).fetchall(); a.execute(count)");
        service.resume();
        assert_eq!(service.get("/ready").0, 200);
        service.map("alice").code(3);
    }
    // The index alone is gone: the file and its log belong together still.
    fs::remove_file(beside(&path, "-shm")).unwrap();
    assert_eq!(service.get("/ready").0, 503);
    service.wait_for_log("Account store unavailable");
    service.signal(Signal::TERM);
    assert_eq!(service.ended(), 0);
    assert!(fs::metadata(beside(&path, "-wal")).unwrap().len() > 0);
    service.start_again();
    service.map("alice").code(3);
    assert_eq!(service.get("/ready").0, 200);
}

#[test]
fn a_restored_back_up_counts_at_once_also_where_it_is_of_another_domain() {
    let service = Demo::new().serve();
    let (path, slot) = (service.path("accounts.db"), service.path("back-up.db"));
    copy(&path, &slot);
    service.map("alice").code(0);
    service.rcmpd(&["account", "set", "alice", "--disable", "-c", "client.toml"]).code(0);
    service.map("alice").code(3);
    copy(&slot, &path);
    service.map("alice").code(0);
    let stranger = Demo::domain("FABRIKAM", "FABDC1", "127.0.0.2", &service);
    copy(&stranger.path("accounts.db"), &path);
    assert_eq!(service.get("/ready").0, 503);
    service.map("alice").code(7);
    copy(&slot, &path);
    assert_eq!(service.get("/ready").0, 200);
    service.map("alice").code(0);
}
