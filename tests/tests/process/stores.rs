//! The kinds of store that a configuration can name, from nothing to an answer.

use rcmpd_tests::Demo;
use rustix::process::Signal;
use std::fs;

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
    assert!(missing.stderr.contains("`rcmpd domain add` makes it"), "{missing:?}");
    let made = demo.rcmpd(&["domain", "add", "-c", "rcmpd.toml", "--json"]).code(0).json();
    assert_eq!(made["files"], serde_json::json!(["./own/domain.key", "./own/domain.db"]), "{made}");
    let again = demo.rcmpd(&["domain", "add", "-c", "rcmpd.toml"]).code(1);
    assert!(again.stderr.contains("exists already"), "{again:?}");
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
    // Bob's certificate has the SID of another account, and names nobody here.
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
    let failed = demo.rcmpd(&set).code(1).json();
    assert_eq!(failed["exit_code"], 1, "{failed}");
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
fn an_issuer_is_a_fixed_account() {
    let demo = Demo::new();
    let level = "kind = \"profile\"
[[store.level]]
name = \"partner\"
rid = 5001
issuers = [\"O=Contoso,CN=Contoso Demo CA\"]
groups = [{ rid = 513, name = \"Domain Users\" }, { rid = 5100, name = \"Partners\" }]";
    demo.edit(with_accounts_in(level));
    // An issuer is all there is to go by: that is weak, and granted to nobody who was not asked for.
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
