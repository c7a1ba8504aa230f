use super::*;

const GOOD: &str = r#"
[domain]
netbios = "CONTOSO"
dns = "contoso.example"
sid = "S-1-5-21-1-2-3"
server = "DC1"
[rpc]
listen = ["127.0.0.1:11490"]
[store]
kind = "sqlite"
path = "accounts.db"
[mapping]
methods = ["upn", "subject"]
binding = "off"
validation = "off"
[client]
server = "127.0.0.1:11490"
account = "WEB01$"
secret = "file:machines/WEB01.secret"
"#;

fn problems(text: &str) -> Vec<String> {
    match parse(text, Path::new("/etc/rcmpd")) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.into_iter().map(|problem| problem.what).collect(),
    }
}

#[test]
fn a_good_file_is_understood() {
    let config = parse(GOOD, Path::new("/etc/rcmpd")).expect("it is good");
    assert_eq!(config.domain.netbios, "CONTOSO");
    let store = config.store.expect("it is there");
    assert_eq!(store.kind, StoreKind::Sqlite("/etc/rcmpd/accounts.db".into()), "relative to the file");
    assert_eq!(store.machines, Path::new("/etc/rcmpd/accounts.db"));
    assert_eq!(store.key, Path::new("/etc/rcmpd/accounts.key"));
    let client = config.client.expect("it is there");
    assert_eq!(client.secret, SecretRef::File("/etc/rcmpd/machines/WEB01.secret".into()));
    assert_eq!(config.policy.expect("it is there").methods, MappingFlags(0x30));
}

#[test]
fn whatever_is_wrong_is_said() {
    for (from, to, expect) in [
        ("\"off\"\nvalidation", "\"full\"\nvalidation", "this binding cannot be enforced yet"),
        ("validation = \"off\"", "validation = \"chain\"", "this validation cannot be enforced yet"),
        ("binding = \"off\"\n", "", "binding is missing"),
        ("validation = \"off\"\n", "", "validation is missing"),
        ("binding = \"off\"", "binding = \"no\"", "this is not a binding"),
        ("\"upn\", ", "\"upn\", \"smell\", ", "this is not a mapping method"),
        ("127.0.0.1:11490\"]", "localhost:11490\"]", "this is not an address and port"),
        ("S-1-5-21-1-2-3", "S-1-5-21-1-2", "this is not the SID of a domain"),
        ("WEB01$", "WEB01", "this is not a machine account"),
        ("file:machines/WEB01.secret", "hunter2", "this is not a reference to a secret"),
        ("file:machines/WEB01.secret", "cred:../x", "this is not a reference to a secret"),
        ("\"sqlite\"", "\"ldap\"", "kind = \"ldap\" cannot be served by this version"),
        ("\"sqlite\"", "\"memory\"", "this kind of store keeps no machines"),
        ("\"sqlite\"", "\"profile\"", "this kind of store has no file"),
        ("\"sqlite\"", "\"profile\"", "there are no levels"),
        ("\"sqlite\"", "\"paper\"", "this is not a kind of store"),
        ("binding = ", "anchors = [\"ca.pem\"]\nbinding = ", "anchors are not used by this version"),
        ("[\"127.0.0.1:11490\"]", "[]", "nothing is listened on"),
        ("[client]", "[telemetry]\nlog = \"info,,=%x=foo=bar\"\n[client]", "these are not filter directives"),
        ("[client]", "[sidecar]\n[client]", "[sidecar] is not part of this version"),
        ("[client]", "[audit]\nrequired = true\n[client]", "[audit] is required and has no path"),
        ("[client]", "[audit]\nchain = true\n[client]", "a chain needs a file"),
        (
            "[client]",
            "[audit]\npath = \"a\"\n[audit.heads]\npath = \"h\"\nkey = \"k\"\n[client]",
            "only a chain has heads",
        ),
        (
            "[client]",
            "[audit]\npath = \"a\"\nchain = true\nheads = { path = \"a\", key = \"k\" }\n[client]",
            "this is the audit log itself",
        ),
        (
            "[client]",
            "[audit]\npath = \"a\"\nchain = true\nheads = { path = \"h\", key = \"k\", interval_s = 0 }\n[client]",
            "this is not a sensible time",
        ),
        (
            "[client]",
            "[audit]\npath = \"a\"\nchain = true\nheads = { path = \"h\" }\n[client]",
            "missing field `key`",
        ),
        ("\"DC1\"", "\"a server name that is too long\"", "this is not a NetBIOS name"),
        ("[mapping]", "[mappings]", "unknown field `mappings`"),
        ("listen", "listne", "unknown field `listne`"),
    ] {
        let wrong = GOOD.replacen(from, to, 1);
        assert_ne!(wrong, GOOD, "{from}");
        assert!(problems(&wrong).iter().any(|what| what.starts_with(expect)), "{to}: {:?}", problems(&wrong));
    }
}

#[test]
fn an_audit_log_has_its_chain_and_its_heads() {
    let audit =
        |text: &str| parse(&format!("{GOOD}{text}"), Path::new("/etc/rcmpd")).expect("it is good").audit;
    assert_eq!(audit(""), Audit::default());
    assert!(!audit("[audit]\npath = \"a\"").chain);
    let whole = audit("[audit]\npath = \"a\"\nchain = true\n[audit.heads]\npath = \"h\"\nkey = \"k\"");
    let heads = AuditHeads {
        path: "/etc/rcmpd/h".into(),
        key: "/etc/rcmpd/k".into(),
        interval: Duration::from_secs(60),
    };
    let path = Some("/etc/rcmpd/a".into());
    assert_eq!(whole, Audit { path, required: false, chain: true, heads: Some(heads) });
}

#[test]
fn everything_is_said_at_once_with_its_place() {
    let wrong = GOOD.replace("S-1-5-21-1-2-3", "S-1-2").replace("WEB01$", "WEB01");
    let problems = parse(&wrong, Path::new(".")).expect_err("it is wrong");
    let error = ConfigError::Wrong { path: "rcmpd.toml".into(), text: wrong, problems };
    let text = error.to_string();
    assert!(
        text.contains(
            "rcmpd.toml:5:7: this is not the SID of a domain\n    5 | sid = \"S-1-2\"\n      |       ^^^^^^^"
        ),
        "{text}"
    );
    assert!(text.contains("rcmpd.toml:18:11: this is not a machine account"), "{text}");
    assert!(text.contains("= its name ends in a dollar sign"), "{text}");
}

#[test]
fn a_missing_mapping_does_not_start() {
    let without: String = GOOD.split("[mapping]").next().expect("it is there").to_owned();
    assert_eq!(problems(&without), ["[mapping] is missing"]);
}

#[test]
fn secrets_come_by_reference_and_without_their_line_s_end() {
    let directory = tempfile::tempdir().expect("a folder");
    std::fs::write(directory.path().join("secret"), "pass word\r\n").expect("written");
    let secret = SecretRef::parse("file:secret", directory.path()).expect("a reference");
    assert_eq!(secret.read().expect("it is there").as_str(), "pass word");
    std::fs::write(directory.path().join("empty"), "\n").expect("written");
    let empty = SecretRef::parse("file:empty", directory.path()).expect("a reference");
    assert!(empty.read().expect_err("it is empty").to_string().contains("it is empty"));
    let missing = SecretRef::parse("env:RCMPD_NO_SUCH_VARIABLE", directory.path()).expect("a reference");
    assert!(missing.read().is_err());
}

#[test]
fn levels_are_accounts_by_issuer() {
    let text = GOOD.replace(
        "kind = \"sqlite\"\npath = \"accounts.db\"",
        "kind = \"profile\"
[[store.level]]
name = \"partner\"
rid = 5001
issuers = ['C=US, O=\"Partners, Inc.\", CN=Partner CA']
groups = [{ rid = 513, name = \"Domain Users\" }, { rid = 5100 }]
[channels]
store = \"sqlite\"
path = \"machines.db\"",
    );
    let store = parse(&text, Path::new("/etc/rcmpd")).expect("it is good").store.expect("it is there");
    assert_eq!(store.machines, Path::new("/etc/rcmpd/machines.db"));
    assert_eq!(store.key, Path::new("/etc/rcmpd/machines.key"));
    let StoreKind::Profile(levels) = store.kind else { panic!("{:?}", store.kind) };
    assert_eq!((levels[0].name.as_str(), levels[0].rid), ("partner", 5001));
    assert_eq!(levels[0].issuers[0].to_string(), "C=US,O=\"Partners, Inc.\",CN=Partner CA");
    assert_eq!(levels[0].groups, [(513, Some("Domain Users".to_owned())), (5100, None)]);
    let wrong = text.replace("rid = 5001", "rid = 0").replace("CN=Partner CA", "CN");
    assert_eq!(problems(&wrong).len(), 2, "{:?}", problems(&wrong));
}
