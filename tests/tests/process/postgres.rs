//! Accounts and machines in PostgreSQL, from nothing to an answer.

use super::sidecar::{ask_about, sidecar};
use rcmpd_tests::postgres::{DATABASE, PASSWORD, Postgres, USER};
use rcmpd_tests::{Demo, Service, eventually, write_secret};
use std::fs;
use std::os::unix::fs::PermissionsExt;

#[test]
fn every_command_works_on_a_store_in_postgresql() {
    let server = Postgres::start();
    let demo = Demo::new().into_postgres(&server, "");
    let run = |command: &[&str], code| demo.rcmpd(&[command, &["-c", "rcmpd.toml"]].concat()).code(code);
    run(&["check-config"], 0);
    let again = run(&["domain", "add"], 1);
    assert!(again.stderr.contains("has a store already"), "{again:?}");
    run(&["group", "add", "Night Shift"], 0);
    write_secret(demo.path("dave.password"), "correct-horse-battery");
    run(
        &[
            "account",
            "add",
            "dave",
            "--upn",
            "dave@contoso.example",
            "--group",
            "Night Shift",
            "--password-file",
            "dave.password",
        ],
        0,
    );
    let dave = run(&["account", "show", "dave", "--json"], 0).json();
    assert_eq!(dave["user_principal_name"], "dave@contoso.example", "{dave}");
    assert_eq!(dave["password"], serde_json::json!(["argon2id", "nt_hash"]), "{dave}");
    run(&["account", "set", "dave", "--disable"], 0);
    assert_eq!(run(&["account", "show", "dave", "--json"], 0).json()["state"], "disabled");
    let machine = ["machine", "add", "WEB02$", "--secret-file", "WEB02.secret", "--permission", "rcmp"];
    run(&machine, 0);
    let list = run(&["machine", "list"], 0).stdout;
    assert!(list.contains("WEB01$") && list.contains("WEB02$"), "{list}");
    run(&["machine", "remove", "WEB02$"], 0);
    run(&["explain", "certs/alice.pem"], 0);
    // Carol has a weak mapping.
    let audit = run(&["mapping", "audit", "--json"], 3).json();
    assert_eq!((&audit["accounts"], &audit["counts"]["weak"]), (&6.into(), &1.into()), "{audit}");

    // What is exported is imported again, into another schema.
    run(&["export", "all.jsonl"], 0);
    demo.edit(|text| text.replace("[store.postgres]", "[store.postgres]\nschema = \"second\""));
    run(&["domain", "add"], 0);
    run(&["import", "--replace", "all.jsonl"], 0);
    run(&["export", "second.jsonl"], 0);
    let [first, second] =
        ["all.jsonl", "second.jsonl"].map(|name| fs::read_to_string(demo.path(name)).unwrap());
    assert_eq!(first, second);
    let twice = run(&["import", "second.jsonl"], 1);
    assert!(twice.stderr.contains("line 1: ") && twice.stderr.contains("with --replace"), "{twice:?}");
    run(&["account", "remove", "dave"], 0);
    run(&["group", "remove", "Night Shift"], 0);

    // A lost key: secrets are forgotten, accounts stay.
    fs::rename(demo.path("accounts.key"), demo.path("lost.key")).unwrap();
    assert!(run(&["account", "list"], 0).stderr.contains("machine secrets cannot be used"));
    let forgotten = run(&["domain", "rekey", "--forget-secrets", "--json"], 0).json();
    assert_eq!(forgotten["forgotten"], serde_json::json!(["WEB01$"]), "{forgotten}");
    assert!(!server.log().contains(PASSWORD));
}

#[test]
fn a_server_that_cannot_be_asked_is_told_by_ready_metrics_and_log() {
    let server = Postgres::start();
    let more = "timeout_ms = 2000\nmax_age_s = 3\npoll_ms = 200\ncache_ttl_s = 1";
    let service = Demo::new().into_postgres(&server, more).serve();
    service.map("alice").code(0);
    assert_eq!(service.get("/ready").0, 200);
    server.pause();
    eventually("it is not ready", || service.get("/ready").0 == 503);
    let (_, metrics) = service.get("/metrics");
    assert!(metrics.contains("rcmpd_store_usable 0"), "{metrics}");
    let refused = service.map("alice");
    assert!(refused.code != 0 && refused.code != 3, "it is neither yes nor no: {refused:?}");
    server.resume();
    eventually("it is ready", || service.get("/ready").0 == 200);
    eventually("alice is mapped", || service.map("alice").code == 0);
    let log = service.log();
    assert!(log.contains("Account store unavailable") && log.contains("PostgreSQL"), "{log}");
    assert!(log.contains("Account store available again"), "{log}");
    assert!(!log.contains(PASSWORD));
}

#[test]
fn check_config_tells_what_is_wrong_with_a_server() {
    let server = Postgres::start();
    let demo = Demo::new().into_postgres(&server, "");
    let check = |change: &dyn Fn(String) -> String, why: &[&str]| {
        let text = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
        fs::write(demo.path("changed.toml"), change(text.clone())).unwrap();
        assert_ne!(fs::read_to_string(demo.path("changed.toml")).unwrap(), text, "{why:?}");
        let told = demo.rcmpd(&["check-config", "-c", "changed.toml"]);
        assert_ne!(told.code, 0, "{told:?}");
        why.iter().for_each(|why| assert!(told.stderr.contains(why), "{why}: {told:?}"));
        assert!(!told.stderr.contains(PASSWORD), "{told:?}");
    };
    check(
        &|text| text.replace(&server.address(), "127.0.0.1:1"),
        &["cannot open the account store", "127.0.0.1:1", "refused"],
    );
    check(
        &|text| text.replace(&format!("database = \"{DATABASE}\""), "database = \"other\""),
        &["database \"other\" does not exist"],
    );
    check(
        &|text| text.replace("[store.postgres]", "[store.postgres]\nschema = \"empty\""),
        &["has no store in its schema empty", "`rcmpd domain add` makes it"],
    );
    // A CA that every user can change, before anything is asked of the server.
    fs::set_permissions(demo.path("certs/ca.pem"), fs::Permissions::from_mode(0o666)).unwrap();
    check(
        &|text| text.replace("sslmode = \"disable\"", "ca = \"certs/ca.pem\""),
        &["ca.pem", "mode 666", "chmod"],
    );
    fs::set_permissions(demo.path("certs/ca.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    write_secret(demo.path("wrong.secret"), "hunter2");
    check(
        &|text| text.replace("file:postgres.secret", "file:wrong.secret"),
        &[&format!("password authentication failed for user \"{USER}\"")],
    );
    check(&|text| text.replace("file:postgres.secret", "file:none.secret"), &["none.secret"]);
    check(
        &|text| text.replace("dns     = \"contoso", "dns     = \"other"),
        &["holds the accounts of CONTOSO"],
    );
    server.sql("UPDATE rcmpd.schema_version SET version = 99");
    let newer = demo.rcmpd(&["account", "list", "-c", "rcmpd.toml"]);
    assert!(newer.code != 0 && newer.stderr.contains("use a newer program"), "{newer:?}");
}

/// Decisions and look-ups may be cached for ten minutes, the replica never catches up, and no notification
/// comes. What counts is the poll of the revision.
#[test]
fn a_disabled_account_is_refused_at_the_sidecar_after_a_poll_although_the_replica_lags() {
    let primary = Postgres::start();
    let replica = primary.standby();
    let more = format!(
        "replicas = [\"{}\"]\npoll_ms = 2000\ntimeout_ms = 5000\ncache_ttl_s = 600\nmax_age_s = 60",
        replica.address()
    );
    let demo = Demo::new().into_postgres(&primary, &more);
    let user = rustix::process::geteuid().as_raw();
    demo.configure(&format!(
        "[sidecar]\nremember_s = 600\n[[sidecar.listen]]\ndialect = \"nginx\"\nunix = \"nginx.sock\"\npeers = [\"{user}\"]"
    ));
    let service = demo.serve();
    let status = || ask_about(&service, "alice", &[]).status;
    eventually("the replica has caught up", || {
        status() == 200 && service.metric("rcmpd_store_questions_total{outcome=\"replica\"}") > 0
    });
    replica.sql("SELECT pg_wal_replay_pause()");
    // As docs/postgres.md has it, without NOTIFY.
    primary.sql(
        "BEGIN; UPDATE rcmpd.account SET flags = flags | 2 WHERE name_key = 'alice';
         UPDATE rcmpd.revision SET accounts = accounts + 1, accounts_epoch = (random() * 9e18)::bigint,
                                   machines = machines + 1, machines_epoch = (random() * 9e18)::bigint; COMMIT",
    );
    // The caches would have kept her for ten minutes each.
    eventually("alice is refused", || status() == 403);
    assert_eq!(status(), 403, "the replica does not bring her back");
    let seen = replica.sql("SELECT flags & 2 FROM rcmpd.account WHERE name_key = 'alice'");
    assert_eq!(seen, "0", "the replica still has her enabled");
}

/// Two sidecars of one store, in the middle of the replacement of the signing key: whichever answers, an
/// application that has the key set of either of them takes the signed identity, and a change counts at the
/// next request.
#[test]
fn any_sidecar_signs_for_all_and_sees_a_change_without_a_notification() {
    let server = Postgres::start();
    let first = Demo::new().into_postgres(&server, "poll_ms = 60000\nmax_age_s = 3600\nfresh_ms = 0");
    for key in ["old.key", "new.key"] {
        first.rcmpd(&["audit", "key", key]).code(0);
    }
    let second = first.copied();
    let section = |key: &str, published: &str| {
        format!(
            "remember_s = 3600\n[sidecar.token]\nkey = \"{key}\"\npublished = [\"{published}\"]\n\
             issuer = \"https://id.example\"\naudience = \"wiki\""
        )
    };
    let services = [
        sidecar(first, &section("old.key", "new.key.pub")),
        sidecar(second, &section("new.key", "old.key.pub")),
    ];
    let keys = services.each_ref().map(|service| service.get("/.well-known/jwks.json").1);
    let subject = |token: &str, keys: &str| {
        let verified = rcmpd_tests::peers::verify_jwt(token, keys, "wiki", "https://id.example");
        verified["claims"]["sub"].as_str().unwrap_or_else(|| panic!("{verified}")).to_owned()
    };
    let tokens = services
        .each_ref()
        .map(|service| ask_about(service, "alice", &[]).header("x-identity-token").to_owned());
    let subjects: Vec<String> =
        tokens.iter().flat_map(|token| keys.each_ref().map(|keys| subject(token, keys))).collect();
    assert!(subjects.iter().all(|it| *it == subjects[0]), "{subjects:?}");
    assert_ne!(tokens[0].split('.').next(), tokens[1].split('.').next(), "each signs with its own key");

    // Decisions are cached for an hour, no notification is sent, and the next poll is in a minute.
    let statuses = |services: &[Service; 2]| services.each_ref().map(|it| ask_about(it, "alice", &[]).status);
    let change = |flags: &str| {
        server.sql(&format!(
            "BEGIN; UPDATE rcmpd.account SET flags = {flags} WHERE name_key = 'alice';
             UPDATE rcmpd.revision SET accounts = accounts + 1, accounts_epoch = (random() * 9e18)::bigint; COMMIT"
        ));
    };
    assert_eq!(statuses(&services), [200, 200]);
    change("flags | 2");
    assert_eq!(statuses(&services), [403, 403]);
    change("flags & ~2");
    assert_eq!(statuses(&services), [200, 200]);
    // What cannot be known is not answered from the cache.
    server.pause();
    assert_eq!(statuses(&services), [500, 500]);
    server.resume();
    eventually("it is known again", || statuses(&services) == [200, 200]);
}
