//! A store that is not part of this workspace: built against what `account-store` and `rcmpd` publish, and
//! asked by Impacket.

use crate::{LOGON_FAILURE, SUCCESS, sid};
use rcmpd_tests::peers::{impacket, question};
use rcmpd_tests::{Demo, Service};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What one change of the file may take: the store polls each second.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs cargo on the example. Only what the workspace has downloaded is used.
fn cargo(example: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let done = command.args(arguments).arg("--offline").current_dir(example).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "cargo {arguments:?}:\n{out}\n{err}");
    out.into_owned()
}

/// Names, versions and checksums of the libraries in a lock file.
fn libraries(lock: &Path) -> BTreeSet<(String, String, String)> {
    let lock: toml::Table = fs::read_to_string(lock).unwrap().parse().unwrap();
    let text = |package: &toml::Value, key: &str| Some(package.get(key)?.as_str()?.to_owned());
    let packages = lock["package"].as_array().unwrap().iter();
    packages.filter_map(|it| Some((text(it, "name")?, text(it, "version")?, text(it, "checksum")?))).collect()
}

/// Builds the example, on one core because other tests run meanwhile; tests it; and says where its program
/// is. It shares the libraries of the workspace: their versions by a lock file that is made from the
/// workspace's own, and what was built of them by the target directory.
fn built() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let example = root.join("examples/csv-store");
    let here = std::env::current_exe().unwrap();
    let target = here.ancestors().nth(3).expect("TARGET/PROFILE/deps/TEST");
    fs::copy(root.join("Cargo.lock"), example.join("Cargo.lock")).unwrap();
    cargo(&example, &["metadata", "--format-version", "1"]);
    let (ours, theirs) = (libraries(&root.join("Cargo.lock")), libraries(&example.join("Cargo.lock")));
    assert!(theirs.is_subset(&ours), "{:?}", theirs.difference(&ours).collect::<Vec<_>>());
    let tested =
        cargo(&example, &["test", "--locked", "--jobs", "1", "--target-dir", target.to_str().unwrap()]);
    for promise in ["absence_is_a_value", "dropped_look_ups_leave_nothing", "questions_may_be_hostile"] {
        assert!(tested.contains(&format!("test {promise} ... ok")), "the battery ran:\n{tested}");
    }
    target.join("debug/rcmpd-csv")
}

const HEAD: &str = "name;rid;upn;spns;mappings;state;groups\n";
const ALICE: &str = "alice;1001;alice@contoso.example;;;enabled;513:Domain Users|1101:Engineers\n";

/// The demo with its accounts in a CSV file, whose separator is a setting of the store, and its machines
/// where they were.
fn demo() -> Demo {
    let demo = Demo::new();
    let store = "kind = \"sqlite\"\npath = \"accounts.db\"";
    let key = "key   = \"accounts.key\"";
    demo.edit(|text| {
        assert!(text.contains(store) && text.contains(key), "{text}");
        let csv = "kind = \"csv\"\npath = \"accounts.csv\"\n\n[store.settings]\nseparator = \";\"";
        text.replace(store, csv).replace(key, &format!("path = \"accounts.db\"\n{key}"))
    });
    fs::write(demo.path("accounts.csv"), format!("{HEAD}{ALICE}")).unwrap();
    demo
}

/// Replaces the file as a whole.
fn replace(demo: &Demo, text: &str) {
    fs::write(demo.path("accounts.csv.new"), text).unwrap();
    fs::rename(demo.path("accounts.csv.new"), demo.path("accounts.csv")).unwrap();
}

/// Asks about alice until the exit code is this one.
#[track_caller]
fn wait_for_map(service: &Service, program: &Path, code: i32) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mapped = service.run(program, &["map", "certs/alice.pem", "-c", "client.toml", "--json"]);
        if mapped.code == code {
            return;
        }
        assert!(Instant::now() < deadline, "{mapped:?}");
    }
}

#[test]
fn a_store_of_a_third_party_keeps_the_contract_and_answers_alice() {
    let csv = built();
    let demo = demo();
    let run =
        |arguments: &[&str], code| demo.run(&csv, &[arguments, &["-c", "rcmpd.toml"]].concat()).code(code);
    run(&["check-config"], 0);
    let explained = run(&["explain", "certs/alice.pem", "--json"], 0).json();
    assert_eq!(explained["account"], "alice", "{explained:#}");

    // Commands that need another kind of store say so.
    for (command, why) in [
        (&["account", "add", "dave"][..], "stores of kind = \"csv\" are read-only"),
        (&["group", "add", "Crew"], "stores of kind = \"csv\" are read-only"),
        (&["import", "accounts.csv"], "stores of kind = \"csv\" are read-only"),
        (&["mapping", "audit"], "cannot list its accounts"),
    ] {
        let refused = run(command, 1);
        assert!(refused.stderr.contains(why), "{refused:?}");
    }
    // A new machine has a SID that no account of the file has; one that the file has as an account has that
    // one's SID.
    let add = |name| run(&["machine", "add", name, "--secret-file", name, "--json"], 0).json();
    assert_eq!(add("WEB02$")["sid"], format!("{}-{}", demo.domain_sid(), 1 << 30));
    replace(&demo, &format!("{HEAD}{ALICE}WEB03$;1500;;;;enabled;515\n"));
    assert_eq!(add("WEB03$")["sid"], format!("{}-1500", demo.domain_sid()));

    // Wrong settings, a wrong file, and a kind that this program does not have.
    let wrong = |from: &str, to: &str, why: &str| {
        let before = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
        demo.edit(|text| text.replace(from, to));
        let checked = run(&["check-config"], 1);
        assert!(checked.stderr.contains(why), "{checked:?}");
        fs::write(demo.path("rcmpd.toml"), before).unwrap();
    };
    wrong("separator", "separators", "[store.settings]: unknown field `separators`");
    wrong("\";\"", "\",\"", "accounts.csv: line 1: the columns are");
    wrong(
        "\"csv\"",
        "\"cvs\"",
        "use kind = \"sqlite\", \"postgres\", \"memory\", \"profile\", \"ldap\", \"socket\", \"several\" or \"csv\"",
    );
    wrong("\"csv\"", "\"sqlite\"", "[store.settings] does not belong to kind = \"sqlite\"");
    let stock = demo.rcmpd(&["check-config", "-c", "rcmpd.toml"]).code(1);
    assert!(stock.stderr.contains("this is not a kind of store"), "{stock:?}");

    let service = demo.serve_by(Command::new(&csv));
    let done =
        impacket(&service, json!({ "questions": [question(&service, "alice"), question(&service, "bob")] }));
    assert_eq!(done["error"], Value::Null, "{done:#}");
    let answer = &done["answers"][0];
    assert_eq!(answer["status"], SUCCESS, "{answer:#}");
    let logon = &answer["pac"]["logon"];
    assert_eq!((&logon["user"], &logon["sid"]), (&json!("alice"), &json!(sid(&service, 1001))));
    let mut groups: Vec<String> = serde_json::from_value(logon["groups"].clone()).unwrap();
    groups.sort();
    assert_eq!(groups, [sid(&service, 1101), sid(&service, 513)]);
    assert_eq!(done["answers"][1]["status"], LOGON_FAILURE, "bob is not in the file");

    // The store reads the file again by itself. While the file is broken it answers nothing, which the
    // service tells.
    assert_eq!((service.get("/ready").0, service.metric("rcmpd_store_usable")), (200, 1));
    replace(&service, &format!("{HEAD}{}", ALICE.replace("enabled", "disabled")));
    wait_for_map(&service, &csv, 3);
    replace(&service, "nonsense\n");
    wait_for_map(&service, &csv, 7);
    assert_eq!(service.get("/ready").0, 503);
    assert_eq!(service.metric("rcmpd_store_usable"), 0);
    replace(&service, &format!("{HEAD}{ALICE}"));
    wait_for_map(&service, &csv, 0);
    assert_eq!(service.get("/ready").0, 200);
}
