//! `rcmpd store`: status, verify, backup, restore, rekey.

use rcmpd_tests::postgres::Postgres;
use rcmpd_tests::{Demo, Finished, write_secret};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn run(demo: &Demo, arguments: &[&str]) -> Finished {
    demo.rcmpd(&[&["store"], arguments, &["-c", "rcmpd.toml"]].concat())
}

/// A statement by the SQLite shell of the tests.
fn sql(demo: &Demo, statement: &str) {
    let connection = rusqlite::Connection::open(demo.path("accounts.db")).unwrap();
    connection.execute_batch(statement).unwrap();
}

fn findings(verified: &Finished) -> Vec<(String, String)> {
    let text = |finding: &Value, member: &str| finding[member].as_str().unwrap().to_owned();
    let findings = verified.json()["findings"].as_array().unwrap().clone();
    findings.iter().map(|finding| (text(finding, "what"), text(finding, "text"))).collect()
}

/// Runs `verify`, which finds exactly one thing.
#[track_caller]
fn finds(demo: &Demo, what: &str, parts: &[&str]) {
    let found = findings(&run(demo, &["verify", "--json"]).code(3));
    let [(found_what, text)] = &found[..] else { panic!("{found:?}") };
    assert_eq!(found_what, what, "{text}");
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn the_state_of_each_store_is_shown() {
    let demo = Demo::new();
    let shown = run(&demo, &["status"]).code(0).stdout;
    let row = shown.lines().nth(1).unwrap();
    assert_eq!(row.split_whitespace().take(6).collect::<Vec<_>>(), ["store", "sqlite", "ok", "4", "6", "1"]);
    let before = run(&demo, &["status", "--json"]).code(0).json()["stores"][0].clone();
    assert_eq!(
        (&before["accounts"], &before["machines"], &before["schema"]),
        (&json!(4), &json!(1), &json!(5))
    );
    demo.rcmpd(&["account", "add", "dave", "-c", "rcmpd.toml"]).code(0);
    let after = run(&demo, &["status", "--json"]).code(0).json()["stores"][0].clone();
    assert_eq!(after["accounts"], json!(5));
    assert!(after["revision"].as_u64() > before["revision"].as_u64(), "{before} {after}");
    assert!(after["changed"].as_str().unwrap().ends_with('Z'), "{after}");

    // A store that cannot be asked is said, and the others are shown.
    demo.edit(|text| {
        text.replace(
            "kind = \"sqlite\"\npath = \"accounts.db\"\n",
            "kind = \"several\"\n[[store.part]]\nname = \"file\"\nkind = \"sqlite\"\npath = \"accounts.db\"\n\
             [[store.part]]\nname = \"program\"\nkind = \"socket\"\n[store.part.socket]\npath = \"none.sock\"\npeer = \"root\"\nfresh_s = 7\n",
        )
        .replace("store = \"sqlite\"\n", "store = \"sqlite\"\npath = \"machines.db\"\n")
    });
    let failed = run(&demo, &["status", "--json"]).code(3).json();
    let stores = failed["stores"].as_array().unwrap();
    let names: Vec<_> = stores.iter().map(|store| (&store["store"], store["error"] == Value::Null)).collect();
    assert_eq!(names[0], (&json!("[[store.part]] file"), true), "{failed}");
    assert_eq!(names[1], (&json!("[[store.part]] program"), false), "{failed}");
    assert_eq!((&stores[1]["age_max_s"], &stores[2]["store"]), (&json!(7), &json!("channels")), "{failed}");
    assert!(stores[1]["error"].as_str().unwrap().contains("store: connect"), "{failed}");
    assert!(!demo.path("machines.db").exists(), "nothing is made");
    let told = run(&demo, &["status"]).code(3);
    assert!(told.stderr.contains("[[store.part]] program: ") && told.stdout.contains("FAILED"), "{told:?}");
}

#[test]
fn what_is_wrong_with_a_store_is_found() {
    let demo = Demo::new();
    let verified = run(&demo, &["verify"]).code(0);
    assert_eq!(verified.stdout, "store: read 4 accounts, 6 groups, 1 machine secret\n");
    let copy = fs::read(demo.path("accounts.db")).unwrap();
    let restore = || fs::write(demo.path("accounts.db"), &copy).unwrap();

    demo.rcmpd(&["account", "set", "bob", "--upn", "Alice@contoso.example", "-c", "rcmpd.toml"]).code(0);
    finds(&demo, "ambiguous", &["userPrincipalName Alice@contoso.example: alice, bob"]);
    let told = run(&demo, &["verify"]).code(3);
    assert!(
        told.stdout.contains(" ambiguous  userPrincipalName Alice@contoso.example: alice, bob"),
        "{told:?}"
    );
    restore();
    sql(&demo, "UPDATE account_group SET name = 'ENGINEERS' WHERE name = 'Admins' OR rid = 1103");
    finds(&demo, "shared name", &["Engineers", "ENGINEERS"]);
    restore();
    // Damaged entries are named, and the others are read.
    sql(&demo, "UPDATE account SET kind = 'person' WHERE name = 'bob'");
    let verified = run(&demo, &["verify", "--json"]).code(3);
    let found = findings(&verified);
    assert!(
        found.iter().any(|(what, text)| what == "damaged" && text.contains("account with RID 1002")),
        "{found:?}"
    );
    assert_eq!(verified.json()["read"][0]["accounts"], json!(3));
    restore();
    sql(&demo, "UPDATE machine SET sealed = x'00'");
    finds(&demo, "damaged", &["machine WEB01$"]);
    restore();
    sql(&demo, "UPDATE machine SET rcmp = 0");
    finds(&demo, "damaged", &["machine WEB01$"]);
    restore();
    sql(&demo, "PRAGMA writable_schema = 1; DELETE FROM sqlite_schema WHERE name = 'member_of'");
    let found = findings(&run(&demo, &["verify", "--json"]).code(3));
    assert!(
        found.iter().all(|(what, text)| what == "damaged" && text.contains("accounts.db: ")),
        "{found:?}"
    );
    restore();
    write_secret(demo.path("accounts.key"), [9; 32]);
    finds(
        &demo,
        "unread",
        &["secrets cannot be read: ", "accounts.key", "rcmpd store rekey --forget-secrets"],
    );
    fs::write(demo.path("accounts.db"), "no database").unwrap();
    finds(&demo, "unreadable", &[]);
}

#[test]
fn a_backup_is_restored_elsewhere_and_replaces_nothing() {
    let demo = Demo::new();
    let service = demo.serve();
    service.map("alice").code(0);
    let made = run(&service, &["backup", "copy", "--json"]).code(0).json();
    let names: Vec<_> = ["accounts.db", "accounts.key", "rcmpd.toml", "backup.json"]
        .map(|name| format!("copy/{name}"))
        .into();
    assert_eq!(made["files"], json!(names));
    let not_copied = made["not_copied"].to_string();
    assert!(not_copied.contains("certs/ca.pem") && !not_copied.contains("accounts"), "{made}");
    let mode = |name: &str| fs::metadata(service.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("copy"), 0o700);
    names.iter().for_each(|name| assert_eq!(mode(name), 0o600, "{name}"));
    // What happens afterwards is not in it.
    service.rcmpd(&["account", "set", "alice", "--disable", "-c", "rcmpd.toml"]).code(0);
    service.map("alice").code(3);
    let again = run(&service, &["backup", "copy"]).code(1);
    assert!(again.stderr.contains("cannot make copy"), "{again:?}");

    let before = fs::read(service.path("accounts.key")).unwrap();
    let refused = run(&service, &["restore", "copy"]).code(1);
    assert!(refused.stderr.contains("accounts.db exists, and no file is replaced"), "{refused:?}");
    assert_eq!(fs::read(service.path("accounts.key")).unwrap(), before);
    service.map("alice").code(3);

    // Elsewhere, by the configuration of the copy.
    let other = Demo::new();
    fs::remove_dir_all(other.path("certs")).unwrap();
    for name in ["copy", "certs"] {
        let mut copy = std::process::Command::new("cp");
        assert!(copy.arg("-a").arg(service.path(name)).arg(other.path("")).status().unwrap().success());
    }
    let files = ["accounts.db", "accounts.key", "accounts.db-wal", "accounts.db-shm"];
    let remove = || files.iter().for_each(|name| drop(fs::remove_file(other.path(name))));
    let none_left = || files.iter().all(|name| !other.path(name).exists());
    let refused = run(&other, &["restore", "copy"]).code(1);
    assert!(refused.stderr.contains("the back-up is of domain"), "{refused:?}");
    fs::copy(other.path("copy/rcmpd.toml"), other.path("rcmpd.toml")).unwrap();
    remove();
    // A file that was changed, or is missing, or leads elsewhere.
    let change = |name: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>, why: &str| {
        let path = other.path("copy").join(name);
        let before = fs::read(&path).unwrap();
        fs::write(&path, change(before.clone())).unwrap();
        let refused = run(&other, &["restore", "copy"]).code(1);
        assert!(refused.stderr.contains(why), "{refused:?}");
        assert!(none_left());
        fs::write(&path, before).unwrap();
    };
    let text = |from: &'static str, to: &'static str| {
        move |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(from, to).into_bytes()
    };
    change("accounts.db", &|bytes| bytes[..bytes.len() - 1].to_vec(), "is not as it was written");
    change("accounts.key", &|_| vec![7; 32], "is not as it was written");
    change("backup.json", &text("\"accounts.db\"", "\"../accounts.db\""), "is not the name of a file");
    change("backup.json", &text("\"rcmpd_backup\": 1", "\"rcmpd_backup\": 2"), "knows version 1");
    change("backup.json", &|_| b"{}".to_vec(), "is no list of a back-up");
    change("backup.json", &text("\"role\": \"database\"", "\"role\": \"accounts\""), "has no file for");
    // What is left of another database would be mixed with it.
    fs::write(other.path("accounts.db-wal"), "").unwrap();
    let refused = run(&other, &["restore", "copy"]).code(1);
    assert!(refused.stderr.contains("accounts.db-wal exists"), "{refused:?}");
    fs::remove_file(other.path("accounts.db-wal")).unwrap();
    // A key of another database, with a hash that fits: it is noticed before the restore is done.
    write_secret(other.path("accounts.key"), [7; 32]);
    let refused = run(&other, &["restore", "copy"]).code(1);
    assert!(refused.stderr.contains("accounts.key exists"), "{refused:?}");
    fs::remove_file(other.path("accounts.key")).unwrap();
    let restored = run(&other, &["restore", "copy"]).code(0);
    assert!(restored.stdout.contains("Restored") && restored.stdout.contains("accounts.key"), "{restored:?}");
    run(&other, &["verify"]).code(0);
    let explained = other.rcmpd(&["explain", "certs/alice.pem", "-c", "rcmpd.toml", "--json"]).code(0).json();
    assert_eq!(explained["account"], "alice", "she was not disabled then");
}

#[test]
fn a_backup_without_the_key_needs_the_key_that_is_kept_apart() {
    let demo = Demo::new();
    let made = run(&demo, &["backup", "copy", "--without-key"]).code(0);
    let advice = "accounts.key, the key file: copy it to another place than this back-up";
    assert!(made.stderr.contains(advice), "{made:?}");
    assert!(!demo.path("copy/accounts.key").exists());
    for name in ["accounts.db", "accounts.key"] {
        fs::rename(demo.path(name), demo.path(&format!("{name}.old"))).unwrap();
    }
    let refused = run(&demo, &["restore", "copy"]).code(1);
    assert!(refused.stderr.contains("has no file for"), "{refused:?}");
    // Another key opens nothing, and nothing is left of the try.
    write_secret(demo.path("accounts.key"), [7; 32]);
    let refused = run(&demo, &["restore", "copy"]).code(1);
    assert!(refused.stderr.contains("cannot be used; nothing was restored"), "{refused:?}");
    assert!(!demo.path("accounts.db").exists() && demo.path("accounts.key").exists());
    fs::rename(demo.path("accounts.key.old"), demo.path("accounts.key")).unwrap();
    run(&demo, &["restore", "copy"]).code(0);
    run(&demo, &["verify"]).code(0);
    // A key that is not there is not advised.
    fs::remove_file(demo.path("accounts.key")).unwrap();
    let made = run(&demo, &["backup", "without", "--without-key"]).code(0);
    assert!(!made.stderr.contains("the key file"), "{made:?}");
}

#[test]
fn help_of_the_commands_of_stores_and_replicas_has_their_exit_codes() {
    let demo = Demo::new();
    for command in [["store", "backup"], ["store", "restore"], ["store", "status"], ["replica", "status"]] {
        let help = demo.rcmpd(&[&command[..], &["--help"]].concat()).code(0).stdout;
        assert!(help.contains("Exit codes: 0 "), "{help}");
    }
}

#[test]
fn secrets_that_a_lost_key_took_are_listed_by_name() {
    let demo = Demo::new();
    write_secret(demo.path("bob.password"), "correct-horse-battery");
    let set = ["account", "set", "bob", "--password-file", "bob.password", "-c", "rcmpd.toml"];
    demo.rcmpd(&set).code(0);
    run(&demo, &["verify"]).code(0);
    sql(&demo, "UPDATE password_hash SET sealed = x'00'");
    finds(&demo, "damaged", &["password of bob"]);
    fs::remove_file(demo.path("accounts.key")).unwrap();
    run(&demo, &["rekey"]).code(2);
    let rekeyed = run(&demo, &["rekey", "--forget-secrets", "--json"]).code(0).json();
    assert_eq!(
        (&rekeyed["forgotten"], &rekeyed["forgotten_passwords"]),
        (&json!(["WEB01$"]), &json!(["bob"]))
    );
    let verified = run(&demo, &["verify"]).code(0);
    assert!(verified.stdout.contains("read 4 accounts, 6 groups, 1 machine secret"), "{verified:?}");
    // The former name of the command works.
    fs::remove_file(demo.path("accounts.key")).unwrap();
    let old = demo.rcmpd(&["domain", "rekey", "--forget-secrets", "-c", "rcmpd.toml"]).code(0);
    assert!(old.stdout.contains("Forgot the secret of WEB01$") && !old.stdout.contains("bob"), "{old:?}");
}

#[test]
fn a_database_on_a_server_is_counted_read_and_not_copied() {
    let server = Postgres::start();
    let demo = Demo::new().into_postgres(&server, "");
    let shown = run(&demo, &["status", "--json"]).code(0).json()["stores"][0].clone();
    assert_eq!(
        (&shown["kind"], &shown["accounts"], &shown["groups"], &shown["machines"], &shown["schema"]),
        (&json!("postgres"), &json!(4), &json!(6), &json!(1), &json!(3))
    );
    let verified = run(&demo, &["verify"]).code(0);
    assert_eq!(verified.stdout, "store: read 4 accounts, 6 groups, 1 machine secret\n");
    let made = run(&demo, &["backup", "copy"]).code(0);
    assert!(made.stderr.contains("use pg_dump") && made.stderr.contains("postgres.secret"), "{made:?}");
    assert!(made.stdout.contains("copy/accounts.key"), "{made:?}");
    write_secret(demo.path("bob.password"), "correct-horse-battery");
    demo.rcmpd(&["account", "set", "bob", "--password-file", "bob.password", "-c", "rcmpd.toml"]).code(0);
    fs::rename(demo.path("accounts.key"), demo.path("lost.key")).unwrap();
    let rekeyed = run(&demo, &["rekey", "--forget-secrets", "--json"]).code(0).json();
    assert_eq!(
        (&rekeyed["forgotten"], &rekeyed["forgotten_passwords"]),
        (&json!(["WEB01$"]), &json!(["bob"]))
    );
    fs::remove_file(demo.path("accounts.key")).unwrap();
    run(&demo, &["restore", "copy"]).code(0);
    assert_eq!(fs::read(demo.path("accounts.key")).unwrap(), fs::read(demo.path("lost.key")).unwrap());
}
