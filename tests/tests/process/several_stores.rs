//! Several stores at once, and a second store that is only compared.

use super::sidecar::{ask_about, sidecar};
use rcmpd_tests::postgres::{DATABASE, Postgres, USER};
use rcmpd_tests::{Demo, eventually};
use std::fs;

const EMBEDDED: &str = "kind = \"sqlite\"\npath = \"accounts.db\"\n";
const ISSUER: &str = "O=Contoso,CN=Contoso Demo CA";

/// The keys of a store in PostgreSQL; its table has this name.
fn postgres(server: &Postgres, table: &str) -> String {
    format!(
        "kind = \"postgres\"\n[{table}.postgres]\nservers = [\"{}\"]\nsslmode = \"disable\"\ndatabase = \"{DATABASE}\"\nuser = \"{USER}\"\n\
         password = \"file:postgres.secret\"\npoll_ms = 200\nmax_age_s = 2\ntimeout_ms = 5000\ncache_ttl_s = 1\n",
        server.address()
    )
}

/// A demo whose accounts are in `accounts.db` and in PostgreSQL; `rcmpd.toml` names the former, and
/// `postgres.toml` the latter.
fn both(server: &Postgres) -> Demo {
    let demo = Demo::new();
    let embedded = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    let demo = demo.into_postgres(server, "");
    fs::rename(demo.path("rcmpd.toml"), demo.path("postgres.toml")).unwrap();
    fs::write(demo.path("rcmpd.toml"), embedded).unwrap();
    demo
}

/// The store `old` in `accounts.db`, and the store `new` in PostgreSQL, each with more keys.
fn several(demo: &Demo, server: &Postgres, [old, new]: [&str; 2]) {
    let text = format!(
        "kind = \"several\"\n[[store.part]]\nname = \"old\"\n{old}\n{EMBEDDED}[[store.part]]\nname = \"new\"\n{new}\n{}",
        postgres(server, "store.part")
    );
    demo.edit(|config| {
        assert!(config.contains(EMBEDDED), "{config}");
        config
            .replace(EMBEDDED, &text)
            .replace("store = \"sqlite\"\n", "store = \"sqlite\"\npath = \"accounts.db\"\n")
    });
}

#[test]
fn the_suffix_and_the_issuer_say_which_store_is_asked() {
    let server = Postgres::start();
    let demo = both(&server);
    let embedded = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    let explain = |who: &str, code| {
        let certificate = format!("certs/{who}.pem");
        demo.rcmpd(&["explain", &certificate, "-c", "rcmpd.toml"]).code(code).stdout
    };
    // Each account is in both stores: without a rule they are ambiguous.
    several(&demo, &server, ["", ""]);
    demo.rcmpd(&["check-config", "-c", "rcmpd.toml"]).code(0);
    for who in ["alice", "bob"] {
        let said = explain(who, 3);
        assert!(said.contains("more than one") && said.contains("[[store.part]] old, new"), "{said}");
    }
    fs::write(demo.path("rcmpd.toml"), &embedded).unwrap();
    let (new, old) = ("suffixes = [\"Contoso.example\"]", format!("issuers = [\"{ISSUER}\"]"));
    several(&demo, &server, [&old, new]);
    assert!(explain("alice", 0).contains("[[store.part]] new\n"));
    assert!(explain("bob", 0).contains("[[store.part]] old\n"));
    // What the other store says of them does not count.
    let disable = |who: &str, config: &str| {
        demo.rcmpd(&["account", "set", who, "--disable", "-c", config]).code(0);
    };
    fs::write(demo.path("sqlite.toml"), &embedded).unwrap();
    disable("alice", "sqlite.toml");
    disable("bob", "postgres.toml");
    explain("alice", 0);
    explain("bob", 0);
    disable("alice", "postgres.toml");
    disable("bob", "sqlite.toml");
    assert!(explain("alice", 3).contains("disabled"));
    assert!(explain("bob", 3).contains("disabled"));
    let told = demo.rcmpd(&["account", "list", "-c", "rcmpd.toml"]).code(1);
    assert!(told.stderr.contains("several stores"), "{told:?}");
}

#[test]
fn a_store_that_is_down_is_an_error_and_the_others_go_on() {
    let server = Postgres::start();
    let demo = both(&server);
    // Alice is found by her user principal name, and bob by issuer and serial number.
    let new = format!("issuers = [\"{ISSUER}\"]");
    demo.rcmpd(&["account", "set", "alice", "--mail", "alice@contoso.example", "-c", "rcmpd.toml"]).code(0);
    several(&demo, &server, ["suffixes = [\"contoso.example\"]", &new]);
    let mut service = sidecar(demo, "");
    assert_eq!(ask_about(&service, "alice", &[]).header("remote-email"), "alice@contoso.example");
    service.map("alice").code(0);
    service.map("bob").code(0);
    assert_eq!(service.metric("rcmpd_store_part_usable{store=\"new\"}"), 1);
    assert!(service.metric("rcmpd_store_lookups_total{store=\"new\",outcome=\"miss\"}") >= 1);
    assert!(service.metric("rcmpd_store_cache_bytes{store=\"new\"}") > 0);
    server.pause();
    eventually("the store cannot be used", || service.metric("rcmpd_store_part_usable{store=\"new\"}") == 0);
    // Bob is in the other store, too, which is not asked for his mapping.
    service.map("bob").code(7);
    service.map("alice").code(0);
    // Whether bob has alice's address, too, cannot be known.
    assert_eq!(ask_about(&service, "alice", &[]).header("remote-email"), "");
    service.wait_for_lines(&["WARN", "E-mail address not sent", "error="], 1);
    assert_eq!(service.get("/ready").0, 200);
    assert_eq!(service.metric("rcmpd_store_part_usable{store=\"old\"}"), 1);
    let doctor = service.rcmpd(&["doctor", "--timeout", "2", "-c", "rcmpd.toml"]);
    assert!(doctor.stdout.contains("[[store.part]] new"), "{doctor:?}");
    server.resume();
    eventually("bob is mapped", || service.map("bob").code == 0);
    let says = |text| eventually(text, || service.log().contains(text));
    says("Account store unavailable: questions to it are errors");
    says("Account store available again");
}

/// Of a store that is down, with `stale_if_error_s`.
#[test]
fn a_decision_from_an_older_answer_says_how_old_its_facts_are() {
    let server = Postgres::start();
    let demo = both(&server);
    several(&demo, &server, ["suffixes = [\"contoso.example\"]", &format!("issuers = [\"{ISSUER}\"]")]);
    demo.edit(|text| {
        text.replace("cache_ttl_s = 1\n", "cache_ttl_s = 1\nstale_if_error_s = 600\n")
            + "[audit]\npath = \"audit.log\"\n"
    });
    let service = sidecar(demo, "");
    // The first questions to a store that stands still may take longer than a client waits.
    let of = |who: &str, code| match service.map(who).code == code {
        true => service.audit("map").last().unwrap()["stale_s"].clone(),
        false => "no answer".into(),
    };
    let age = || of("bob", 0);
    assert!(age().is_null() && of("mallory", 3).is_null());
    assert_eq!(ask_about(&service, "bob", &[]).header("x-identity-stale"), "");
    server.pause();
    eventually("the facts are older than their time", || age().as_u64().is_some_and(|age| age >= 1));
    let is_old = || of("mallory", 3).as_u64().is_some_and(|age| age >= 1);
    eventually("that there is no account is as old", is_old);
    eventually("the application is told, and not what the client says", || {
        let answer = ask_about(&service, "bob", &[("X-Identity-Stale", "forged")]);
        answer.status == 200 && answer.header("x-identity-stale").parse().is_ok_and(|age: u64| age >= 1)
    });
    assert!(service.metric("rcmpd_store_lookups_total{store=\"new\",outcome=\"stale\"}") >= 1);
    server.resume();
    eventually("the facts are new", || age().is_null());
}

#[test]
fn differences_to_a_second_store_are_counted_logged_and_never_acted_upon() {
    let server = Postgres::start();
    let demo = both(&server);
    let disable = ["account", "set", "alice", "--disable", "-c", "postgres.toml"];
    demo.rcmpd(&disable).code(0);
    let compare = format!("{EMBEDDED}[store.compare]\n{}", postgres(&server, "store.compare"));
    demo.edit(|config| config.replace(EMBEDDED, &compare));
    demo.rcmpd(&["check-config", "-c", "rcmpd.toml"]).code(0);
    let said = demo.rcmpd(&["explain", "certs/alice.pem", "-c", "rcmpd.toml"]).code(0).stdout;
    assert!(said.contains("[store.compare]: flags"), "{said}");
    let said = demo.rcmpd(&["explain", "certs/bob.pem", "-c", "rcmpd.toml"]).code(0).stdout;
    assert!(said.contains("[store.compare]: the same"), "{said}");

    // The service starts while the second store is down, and no answer waits for it.
    server.pause();
    let check = demo.rcmpd(&["check-config", "-c", "rcmpd.toml"]).code(0);
    assert!(
        check.stderr.contains("no look-up is compared") || check.stdout.contains("no look-up is compared")
    );
    let service = demo.serve();
    let outcome =
        |outcome: &str| service.metric(&format!("rcmpd_store_compared_total{{outcome=\"{outcome}\"}}"));
    service.map("alice").code(0);
    assert_eq!(service.get("/ready").0, 200);
    eventually("the comparison failed", || outcome("failed") > 0);
    assert_eq!((outcome("same"), outcome("different")), (0, 0));
    server.resume();
    eventually("the answers differ", || service.map("alice").code == 0 && outcome("different") > 0);
    eventually("the answers are the same", || service.map("bob").code == 0 && outcome("same") > 0);
    let log = service.log();
    let line = log.lines().find(|line| line.contains("Stores differ")).expect("it is logged");
    assert!(line.contains("alice") && line.contains("flags"), "{line}");
    assert!(log.contains("Comparison failed"), "{log}");
    assert!(!log.contains(rcmpd_tests::postgres::PASSWORD));
}

#[test]
fn a_reload_begins_and_ends_a_comparison() {
    let demo = Demo::new();
    fs::write(demo.path("none.jsonl"), "").unwrap();
    let service = demo.serve();
    let different = || service.metric("rcmpd_store_compared_total{outcome=\"different\"}");
    service.map("alice").code(0);
    assert!(!service.get("/metrics").1.contains("rcmpd_store_compared"));
    let compare = format!("{EMBEDDED}[store.compare]\nkind = \"memory\"\npath = \"none.jsonl\"\n");
    service.edit(|text| text.replace(EMBEDDED, &compare));
    service.reload();
    eventually("the answers differ", || service.map("alice").code == 0 && different() > 0);
    assert!(service.log().contains("accounts: one here, none there"), "{}", service.log());
    service.edit(|text| text.replace(&compare, EMBEDDED));
    service.reload();
    let before = different();
    service.map("alice").code(0);
    assert_eq!(different(), before);
}
