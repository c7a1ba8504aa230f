//! `rcmpd config`: the schema by another validator, the values that count, and a new file.

use rcmpd_tests::peers::json_schema;
use rcmpd_tests::{Demo, write_secret};
use std::fs;
use std::path::Path;

const DOMAIN: &str =
    "[domain]\nnetbios = \"A\"\ndns = \"a.example\"\nsid = \"S-1-5-21-1-2-3\"\nserver = \"S\"\n";

/// The blocks of TOML in the pages of `docs/`, each with a `[domain]`.
fn examples() -> Vec<String> {
    let docs = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"));
    let pages = fs::read_dir(docs).unwrap().map(|page| page.unwrap().path());
    let pages = pages.filter(|page| page.extension().is_some_and(|it| it == "md"));
    let mut found = Vec::new();
    for page in pages {
        let text = fs::read_to_string(page).unwrap();
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            // Some are keys of a section that the text names.
            let is_of_others = block.starts_with("[dependencies]") || block.contains("kind = \"csv\"");
            if is_of_others || !block.starts_with(['[', '#']) {
                continue;
            }
            found.push(match block.split_once("[domain]\n") {
                Some(_) if block.contains("netbios") => block.to_owned(),
                Some((before, after)) => format!("{before}{DOMAIN}{after}"),
                None => format!("{block}\n{DOMAIN}"),
            });
        }
    }
    assert!(found.len() > 20, "{}", found.len());
    found
}

#[test]
fn the_schema_accepts_each_example() {
    let demo = Demo::with_master_secret();
    let mut documents = examples();
    documents.push(fs::read_to_string(demo.path("rcmpd.toml")).unwrap());
    let wrong = json_schema(&demo.rcmpd(&["config", "schema"]).code(0).json(), &documents);
    assert!(wrong.last().unwrap().is_empty(), "{wrong:?}");
    for (document, mut wrong) in documents.iter().zip(wrong) {
        // Some examples show a part of a section.
        wrong.retain(|wrong| !wrong.ends_with("is a required property"));
        assert!(wrong.is_empty(), "{document}\n{wrong:?}");
    }
}

#[test]
fn the_schema_refuses_what_the_parser_refuses() {
    let demo = Demo::new();
    let schema = demo.rcmpd(&["config", "schema"]).code(0).json();
    let cases = [
        ("[mapping]\nbindings = \"full\"", "'bindings' was unexpected"),
        ("[mapping]\nbinding = \"strict\"", "'strict' is not one of"),
        ("[mapping]\nbackdating_s = \"600\"", "'600' is not of type 'integer'"),
        ("[mapping]\nbackdating_s = -1", "-1 is less than the minimum"),
        ("[mapping.shadow]\nbinding = 1", "1 is not of type 'string'"),
        ("[[mapping.authority]]\ndirect = true", "'certificate' is a required property"),
        (
            "[mapping]\ngrant = [{ form = \"upn\", to = [\"@a\"] }]",
            "is not valid under any of the given schemas",
        ),
        ("[rpc]", "'listen' is a required property"),
        ("[rpc]\nlisten = \"127.0.0.1:1\"", "'127.0.0.1:1' is not of type 'array'"),
        ("[store]\nkind = \"sqlite3\"", "'sqlite3' is not one of"),
        ("[store]\nkind = \"several\"\n[[store.part]]\nname = \"a\"", "'kind' is a required property"),
        ("[store]\nkind = \"ldap\"\n[store.ldap]\nserver = \"x\"", "'server' was unexpected"),
        ("[[peer]]\ndomain = \"B\"", "'sid' is a required property"),
        ("[sidecar]\nheader_names = { user = 1 }", "1 is not of type 'string'"),
        ("[telemetry]\nformat = \"xml\"", "'xml' is not one of"),
    ];
    let documents: Vec<String> = cases.iter().map(|(text, _)| format!("{DOMAIN}{text}\n")).collect();
    for ((text, expected), wrong) in cases.iter().zip(json_schema(&schema, &documents)) {
        assert!(wrong.iter().any(|wrong| wrong.contains(expected)), "{text}: {wrong:?}");
    }
    for document in &documents {
        fs::write(demo.path("wrong.toml"), document).unwrap();
        demo.rcmpd(&["check-config", "wrong.toml"]).code(1);
    }
}

#[test]
fn each_value_is_shown_with_its_origin() {
    let demo = Demo::new();
    write_secret(demo.path("admin.secret"), "correct-horse-battery\n");
    demo.edit(|text| {
        text.replace("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1:0\"\ntoken = \"file:admin.secret\"")
    });
    let shown = demo.rcmpd(&["config", "show", "-c", "rcmpd.toml", "--json"]).code(0).json();
    let key = |name: &str| {
        let keys = shown["keys"].as_array().unwrap();
        keys.iter().find(|key| key["key"] == name).unwrap_or_else(|| panic!("no {name}")).clone()
    };
    let text = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    let line = text.lines().position(|line| line.starts_with("netbios")).unwrap() + 1;
    let netbios = key("domain.netbios");
    assert_eq!(
        (&netbios["value"], &netbios["origin"], &netbios["line"]),
        (&"CONTOSO".into(), &"file".into(), &line.into())
    );
    let binding = key("mapping.backdating_s");
    assert_eq!((&binding["value"], &binding["origin"]), (&600.into(), &"default".into()));
    assert_eq!(key("admin.token")["value"], "file:admin.secret");
    // It reads no secret.
    let told = demo.rcmpd(&["config", "show", "-c", "rcmpd.toml"]).code(0).stdout;
    assert!(!format!("{told}{shown}").contains("correct-horse"), "{told}");
    // What is printed in a pipe is a configuration that means the same.
    fs::write(demo.path("whole.toml"), &told).unwrap();
    demo.rcmpd(&["check-config", "whole.toml"]).code(0);
    let again = demo.rcmpd(&["config", "show", "-c", "whole.toml", "--json"]).code(0).json();
    let values = |shown: &serde_json::Value| {
        let keys = shown["keys"].as_array().unwrap().iter();
        keys.map(|key| (key["key"].to_string(), key["value"].to_string())).collect::<Vec<_>>()
    };
    assert_eq!(values(&again), values(&shown));
    assert_eq!(json_schema(&demo.rcmpd(&["config", "schema"]).code(0).json(), &[told])[0], [""; 0]);
}

#[test]
fn a_new_file_is_accepted_and_never_overwritten() {
    let demo = Demo::new();
    let user = rustix::process::geteuid().as_raw().to_string();
    let common =
        ["--dns", "fabrikam.example", "--server", "SRV1", "--ca", "certs/ca.pem", "--web-user", &user];
    let init = |file: &str, more: &[&str]| {
        let arguments: Vec<&str> = [&["config", "init", file][..], &common, more].concat();
        demo.rcmpd(&arguments)
    };
    fs::create_dir(demo.path("new")).unwrap();
    init("new/rcmpd.toml", &["--role", "server", "--listen", "127.0.0.1:0"]).code(0);
    demo.rcmpd(&["check-config", "new/rcmpd.toml"]).code(0);
    let shown = demo.rcmpd(&["domain", "show", "-c", "new/rcmpd.toml", "--json"]).code(0).json();
    assert_eq!((&shown["netbios"], &shown["server"]), (&"FABRIKAM".into(), &"SRV1".into()));
    let before = fs::read(demo.path("new/rcmpd.toml")).unwrap();
    let told = init("new/rcmpd.toml", &["--role", "server"]).code(1).stderr;
    assert!(told.contains("already exists"), "{told}");
    assert_eq!(fs::read(demo.path("new/rcmpd.toml")).unwrap(), before);

    let side = [
        "--role",
        "sidecar",
        "--sid",
        "S-1-5-21-1-2-3",
        "--ask",
        "dc1.fabrikam.example",
        "--machine",
        "WEB01$",
    ];
    let secret = ["--secret", "machines/WEB01.secret"];
    for server in ["nginx", "caddy", "envoy", "haproxy", "apache"] {
        let (file, socket) = (format!("{server}.toml"), format!("{server}.sock"));
        init(&file, &[&side[..], &secret, &["--web-server", server, "--socket", &socket]].concat()).code(0);
        demo.rcmpd(&["check-config", &file]).code(0);
        demo.rcmpd(&["proxy-config", server, "--site", "a.example", "-c", &file]).code(0);
    }
    // What the service writes may be elsewhere.
    fs::create_dir(demo.path("data")).unwrap();
    let server = ["--role", "server", "--listen", "127.0.0.1:0", "--data", "data"];
    let made = init("split.toml", &server).code(0).stdout;
    assert!(made.contains("/data/accounts.db") && made.contains("/data/accounts.key"), "{made}");
    let shown = demo.rcmpd(&["config", "show", "-c", "split.toml", "--json"]).code(0).stdout;
    assert!(shown.contains("/data/audit.log"), "{shown}");
    // In a folder of another user, root makes no files for that user.
    if user == "0" {
        fs::create_dir(demo.path("other")).unwrap();
        std::os::unix::fs::chown(demo.path("other"), Some(65534), None).unwrap();
        let server = ["--role", "server", "--listen", "127.0.0.1:0", "--data", "other"];
        let told = init("other.toml", &server).code(0).stderr;
        assert!(told.contains("runuser -u nobody -- rcmpd domain add -c other.toml"), "{told}");
        assert_eq!(fs::read_dir(demo.path("other")).unwrap().count(), 0);
    }
    // What has no default is asked for by the name of its option, and nothing is written.
    let told = init("side.toml", &side).code(1).stderr;
    assert!(told.contains("--secret"), "{told}");
    let told = init("side.toml", &["--role", "server", "--sid", "S-1-5-21-1"]).code(1).stderr;
    assert!(told.contains("this is not the SID of a domain"), "{told}");
    assert!(!demo.path("side.toml").exists());
}
