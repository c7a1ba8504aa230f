//! The commands of the master secret, and its service without other services.

use rcmpd_tests::{Demo, Finished, Service, binary, eventually, write_secret};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

pub(crate) fn secret(demo: &Demo, arguments: &[&str]) -> Finished {
    demo.rcmpd(&[&["sso", "secret"], arguments, &["-c", "rcmpd.toml"]].concat())
}

/// A client of the service, as alice.
pub(crate) fn get(service: &Service, more: &[&str]) -> Finished {
    let server = service.master_secret().to_string();
    let client = ["sso", "secret", "get", "--server", &server, "--user", "alice"];
    service.rcmpd(&[&client[..], &["--password-file", "users/alice.password"], more].concat())
}

fn status(demo: &Demo, code: i32) -> Value {
    secret(demo, &["status", "--json"]).code(code).json()
}

#[test]
fn secret_is_rotated_backed_up_drilled_and_restored_and_never_shown() {
    let demo = Demo::with_master_secret();
    write_secret(demo.path("pass"), "a long passphrase\n");
    write_secret(demo.path("known"), "c15e9d0477ab3f6012e8d3598a46f72b\n");
    let first = status(&demo, 0);
    assert_eq!((&first["state"], &first["facts"]["backup_is_current"]), (&json!("open"), &json!(true)));
    secret(&demo, &["import", "known"]).code(0);
    secret(&demo, &["backup", "one.backup", "--passphrase-file", "pass"]).code(0);
    secret(&demo, &["rotate"]).code(0);
    let rotated = status(&demo, 0);
    assert_eq!(rotated["facts"]["generations"][0]["number"], 3);
    assert_eq!(rotated["facts"]["backup_is_current"], false);
    // The drill and the restore of an older backup say so.
    secret(&demo, &["drill", "one.backup", "--passphrase-file", "pass"]).code(1);
    secret(&demo, &["backup", "two.backup", "--passphrase-file", "pass"]).code(0);
    secret(&demo, &["drill", "two.backup", "--passphrase-file", "pass"]).code(0);
    let older = secret(&demo, &["restore", "one.backup", "--passphrase-file", "pass"]).code(1);
    assert!(older.stderr.contains("older"), "{}", older.stderr);
    secret(&demo, &["restore", "one.backup", "--passphrase-file", "pass", "--allow-older"]).code(0);
    let restored = status(&demo, 0);
    assert_eq!(restored["facts"]["generations"][0]["key_id"], rotated["facts"]["generations"][1]["key_id"]);
    let public = secret(&demo, &["export-public-status"]).code(0);
    let printed = [restored.to_string(), public.stdout.clone(), status(&demo, 0).to_string()].concat();
    assert!(!printed.contains("c15e9d04") && !printed.contains("a long passphrase"));
}

#[test]
fn changed_sealing_source_seals_and_changes_no_file() {
    let demo = Demo::with_master_secret();
    let file = || std::fs::read(demo.path("sso/master-secret.sealed")).unwrap();
    let before = file();
    write_secret(demo.path("sso/seal.key"), [7; 32]);
    let sealed = status(&demo, 7);
    assert_eq!(sealed["state"], "sealed");
    assert!(sealed["sealed"].as_str().unwrap().contains("seal.key"), "{sealed:#}");
    for command in [&["generate"][..], &["rotate"], &["adopt"]] {
        secret(&demo, command).code(1);
    }
    assert_eq!(file(), before);
}

#[test]
fn master_secret_alone_is_a_whole_service() {
    let demo = Demo::with_master_secret();
    demo.edit(|text| {
        let cut = |text: String, from: &str, to: &str| {
            let (start, end) = (text.find(from).unwrap(), text.find(to).unwrap());
            format!("{}{}", &text[..start], &text[end..])
        };
        let text = cut(text, "[rpc]", "[store]");
        let text = cut(text, "[mapping]", "[admin]");
        text.replace("[sso.ntlm]", "endpoint_mapper = \"127.0.0.1:0\"\n[sso.ntlm]")
    });
    demo.rcmpd(&["check-config", "rcmpd.toml"]).code(0);
    let mut service = demo.serve_bare();
    assert_eq!(service.get("/ready").0, 200);
    let server = service.master_secret().to_string();
    let get = |user: &str, output: &str, code| {
        let password = format!("users/{user}.password");
        let command =
            ["sso", "secret", "get", "--server", &server, "--user", user, "--password-file", &password];
        service.rcmpd(&[&command[..], &["--output", output]].concat()).code(code)
    };
    get("alice", "one.key", 0);
    let refused = get("bob", "bob.key", 3);
    assert!(refused.stderr.contains("SSO_E_ACCESSDENIED (0x80630005)"), "{}", refused.stderr);
    // A rotation by another process counts at once.
    secret(&service, &["rotate"]).code(0);
    get("alice", "two.key", 0);
    let key = |name: &str| std::fs::read(service.path(name)).unwrap();
    assert_eq!((key("one.key").len(), key("two.key").len()), (16, 16));
    assert_ne!(key("one.key"), key("two.key"));
    assert_eq!(service.metric("rcmpd_sso_secret_generation"), 2);
    service.signal(rustix::process::Signal::HUP);
    service.wait_for_log(": Reloaded");
}

#[test]
fn node_uses_its_cached_key_while_no_server_answers_and_reseals_after_a_rotation() {
    let service = Demo::with_master_secret().serve();
    let server = service.master_secret().to_string();
    service.rcmpd(&["sso", "secret", "seal-key", "node.key"]).code(0);
    let cache = ["--cache", "node.keys", "--unseal", "file:node.key"];
    let get = |server: &str, more: &[&str]| {
        let command = ["sso", "secret", "get", "--server", server, "--user", "alice"];
        let password = ["--password-file", "users/alice.password"];
        service.rcmpd(&[&command[..], &password, &cache, more].concat())
    };
    get(&server, &[]).code(0);
    std::fs::create_dir(service.path("blobs")).unwrap();
    std::fs::write(service.path("plain"), "a credential").unwrap();
    let blob = |command: &str, file: &str, output: &str| {
        let arguments = ["sso", command, file, "--output", output, "--purpose", "app/test"];
        service.rcmpd(&[&arguments[..], &cache].concat())
    };
    blob("seal", "plain", "blobs/one").code(0);
    // No server: the cached key, with its age.
    let cached = get("127.0.0.1:1", &["--output", "cached.key"]).code(0);
    assert!(cached.stderr.contains("the cached key is used"), "{}", cached.stderr);
    // A code is the server's word: no cached key against it.
    let bob = [
        "sso",
        "secret",
        "get",
        "--server",
        &server,
        "--user",
        "bob",
        "--password-file",
        "users/bob.password",
    ];
    service.rcmpd(&[&bob[..], &cache].concat()).code(3);
    secret(&service, &["rotate"]).code(0);
    get(&server, &[]).code(0);
    let older = blob("open", "blobs/one", "opened").code(0);
    assert!(older.stderr.contains("older key"), "{}", older.stderr);
    assert_eq!(std::fs::read(service.path("opened")).unwrap(), b"a credential");
    let reseal = ["sso", "reseal", "blobs", "--purpose", "app/test", "--json"];
    let reseal = || service.rcmpd(&[&reseal[..], &cache].concat()).code(0).json();
    assert_eq!((&reseal()["resealed"], &reseal()["current"]), (&json!(1), &json!(1)));
    assert!(blob("open", "blobs/one", "again").code(0).stderr.is_empty());
}

/// A code ends an attempt and not the watch, and the file is replaced.
#[test]
fn watch_goes_on_after_a_code_and_replaces_its_file() {
    let service = Demo::with_master_secret().serve();
    write_secret(service.path("bob.key"), "what a run before left");
    let server = service.master_secret().to_string();
    service.rcmpd(&["sso", "secret", "seal-key", "node.key"]).code(0);
    let watch_by = |server: &str| {
        let mut command = Command::new(binary());
        command.current_dir(service.path("")).args(["sso", "secret", "get", "--watch", "--server", server]);
        command.args(["--user", "bob", "--password-file", "users/bob.password", "--output", "bob.key"]);
        command.args(["--cache", "node.keys", "--unseal", "file:node.key"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts")
    };
    let mut watch = watch_by(&server);
    let mut said = BufReader::new(watch.stderr.take().expect("it is piped")).lines().map_while(Result::ok);
    let refused = said.next().expect("it says why");
    assert!(refused.contains("SSO_E_ACCESSDENIED") && refused.contains("asked again in 1 s"), "{refused}");
    service.rcmpd(&["account", "set", "bob", "--group", "SSO Administrators", "-c", "rcmpd.toml"]).code(0);
    eventually("the key is there", || {
        std::fs::read(service.path("bob.key")).is_ok_and(|key| key.len() == 16)
    });
    assert!(watch.try_wait().expect("it is ours").is_none(), "it watches on");
    watch.kill().expect("it is ours");
    watch.wait().expect("it is ours");
    // A key that the cache has already is written as well, whether a server answers or not.
    let key = std::fs::read(service.path("bob.key")).unwrap();
    for server in [server.as_str(), "127.0.0.1:1"] {
        std::fs::remove_file(service.path("bob.key")).unwrap();
        let mut watch = watch_by(server);
        eventually("the key is there again", || {
            std::fs::read(service.path("bob.key")).is_ok_and(|again| again == key)
        });
        watch.kill().expect("it is ours");
        watch.wait().expect("it is ours");
    }
}

/// The commands act on the files, and the service writes what it sees of them.
#[test]
fn what_commands_do_to_the_secret_is_in_the_audit_log() {
    let service = Demo::with_master_secret().serve();
    write_secret(service.path("pass"), "a long passphrase\n");
    let changes = || service.audit("master_secret_changed");
    secret(&service, &["rotate"]).code(0);
    eventually("the rotation is recorded", || !changes().is_empty());
    let rotated = &changes()[0];
    assert_eq!((&rotated["before"]["generation"], &rotated["after"]["generation"]), (&json!(1), &json!(2)));
    secret(&service, &["backup", "one.backup", "--passphrase-file", "pass"]).code(0);
    eventually("the backup is recorded", || {
        changes().last().is_some_and(|last| last["after"]["last_backup"] != last["before"]["last_backup"])
    });
}

/// The next rotation of an older file would give a number that nodes have to another secret.
#[test]
fn older_sealed_file_is_not_delivered_or_rotated() {
    let mut service = Demo::with_master_secret().serve();
    let key = |service: &Service, output: &str| {
        get(service, &["--output", output]).code(0);
        std::fs::read(service.path(output)).unwrap()
    };
    let sealed = service.path("sso/master-secret.sealed");
    let older = std::fs::read(&sealed).unwrap();
    let first = key(&service, "first.key");
    secret(&service, &["rotate"]).code(0);
    let second = key(&service, "second.key");
    assert_ne!(first, second);
    let newer = std::fs::read(&sealed).unwrap();
    write_secret(&sealed, older);
    service.wait_for_log("Master secret was rolled back to an older file");
    assert_eq!(service.metric("rcmpd_sso_secret_is_rolled_back"), 1);
    assert_eq!(service.get("/ready").0, 503);
    assert_eq!(key(&service, "again.key"), second, "the newest that was seen");
    let refused = secret(&service, &["rotate"]).code(1);
    assert!(refused.stderr.contains("was rolled back"), "{}", refused.stderr);
    write_secret(&sealed, newer);
    assert_eq!(key(&service, "last.key"), second);
    assert_eq!((service.get("/ready").0, service.metric("rcmpd_sso_secret_is_rolled_back")), (200, 0));
    secret(&service, &["rotate"]).code(0);
}

#[test]
fn fresh_key_is_made_however_many_generations_overlap() {
    let demo = Demo::with_master_secret();
    for _ in 0..7 {
        secret(&demo, &["rotate"]).code(0);
    }
    let full = secret(&demo, &["rotate"]).code(1);
    assert!(full.stderr.contains("8 generations overlap already"), "{}", full.stderr);
    let numbers = || {
        let generations = status(&demo, 0)["facts"]["generations"].as_array().unwrap().clone();
        generations.iter().map(|generation| generation["number"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    secret(&demo, &["rotate", "--overlap-h", "1"]).code(0);
    assert_eq!(numbers(), [9, 8, 7, 6, 5, 4, 3, 2]);
    secret(&demo, &["rotate", "--overlap-h", "0"]).code(0);
    assert_eq!(numbers(), [10]);
}

/// Two blobs of one purpose cannot take each other's place.
#[test]
fn blob_of_one_record_does_not_open_as_another() {
    let service = Demo::with_master_secret().serve();
    service.rcmpd(&["sso", "secret", "seal-key", "node.key"]).code(0);
    let cache = ["--cache", "node.keys", "--unseal", "file:node.key"];
    get(&service, &cache).code(0);
    std::fs::create_dir(service.path("blobs")).unwrap();
    let blob = |command: &str, file: &str, output: &str, record: &str| {
        let arguments =
            ["sso", command, file, "--output", output, "--purpose", "app/test", "--record", record];
        service.rcmpd(&[&arguments[..], &cache].concat())
    };
    for name in ["A", "B"] {
        std::fs::write(service.path(name), name).unwrap();
        blob("seal", name, &format!("blobs/{name}"), name).code(0);
    }
    let other = blob("open", "blobs/B", "swapped", "A").code(6);
    assert!(other.stderr.contains("does not open"), "{}", other.stderr);
    secret(&service, &["rotate"]).code(0);
    get(&service, &cache).code(0);
    // A node that came after the rotation learns the older key.
    let fresh = ["--cache", "fresh.keys", "--unseal", "file:node.key"];
    let of_fresh = |arguments: &[&str]| service.rcmpd(&[arguments, &fresh].concat());
    get(&service, &fresh).code(0);
    let open = ["sso", "open", "blobs/A", "--output", "A.opened", "--purpose", "app/test", "--record", "A"];
    of_fresh(&open).code(6);
    secret(&service, &["backup", "node.backup", "--key-file", "node.key"]).code(0);
    let learn = ["sso", "learn", "node.backup", "--key-file", "node.key", "--json"];
    assert_eq!(of_fresh(&learn).code(0).json()["learnt"], 1);
    assert_eq!(of_fresh(&learn).code(0).json()["learnt"], 0);
    of_fresh(&open).code(0);
    let reseal = |more: &[&str], code| {
        let arguments = ["sso", "reseal", "blobs", "--purpose", "app/test", "--json"];
        service.rcmpd(&[&arguments[..], &cache, more].concat()).code(code).json()
    };
    assert_eq!(reseal(&[], 3)["failures"], 2);
    assert_eq!(reseal(&["--record-is-file-name"], 0)["resealed"], 2);
    blob("open", "blobs/B", "opened", "B").code(0);
    assert_eq!(std::fs::read(service.path("opened")).unwrap(), b"B");
}

/// What `check-config` says of each wrong [sso], and where.
#[test]
fn wrong_settings_are_refused_with_their_reason() {
    let demo = Demo::with_master_secret();
    let good = std::fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    for (from, to, expected) in [
        ("administrators = [", "administrators = [\"sid:S-1-5-32-544\", ", "well-known or built-in SID"),
        ("administrators = [", "administrators = [\"sid:S-1-1-0\", ", "well-known or built-in SID"),
        ("administrators = [", "administrators = [\"alice\", ", "not an SSO administrator"),
        ("administrators = [", "administrators = [\"principal:a@MIT.TEST\", ", "not a realm of kind"),
        ("[sso.ntlm]", "", "no way to authenticate"),
        ("[sso.ntlm]", "[sso.ntlm]\nallowed_spns = [\"sso1\"]", "not a service principal name"),
        ("[sso.ntlm]", "[sso.ntlm]\nallowed_spns = [\"host/\"]", "not a service principal name"),
        ("path = \"audit.log\"", "", "needs an audit log"),
        ("path = \"audit.log\"", "path = \"sso/seal.key\"", "names for something else"),
        ("path = \"audit.log\"", "path = \"sso/master-secret.sealed\"", "names for something else"),
        ("seal           = \"file:sso/seal.key\"", "seal = \"env:KEY\"", "can seal the secret"),
        ("seal           = \"file:sso/seal.key\"", "seal = \"passphrase:env:KEY\"", "can seal the secret"),
        ("[sso.ntlm]", "ndr_range = \"none\"\n[sso.ntlm]", "unknown ndr_range"),
    ] {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{from}");
        std::fs::write(demo.path("rcmpd.toml"), text).unwrap();
        let refused = demo.rcmpd(&["check-config", "rcmpd.toml"]).code(1);
        assert!(refused.stderr.contains(expected), "{to}: {}", refused.stderr);
    }
}

/// Hardened domain controllers compare the names of the CHALLENGE with the account of the channel.
#[test]
fn account_with_another_name_than_this_server_is_an_error_before_the_start() {
    let demo = Demo::with_master_secret();
    write_secret(demo.path("machines/FABRIKAM.secret"), "a secret");
    let good = std::fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    let domain = |name: &str, sid: &str, account: &str| {
        format!(
            "[[sso.ntlm.domain]]\ndomain = \"{name}\"\nsid = \"{sid}\"\nnames = [\"{name}.example\"]\n\
             servers = [\"127.0.0.1:1\"]\naccount = \"{account}\"\nsecret = \"file:machines/FABRIKAM.secret\"\n"
        )
    };
    let fitting = domain("FABRIKAM", "S-1-5-21-4-5-6", "DC1$");
    std::fs::write(demo.path("rcmpd.toml"), format!("{good}{fitting}")).unwrap();
    demo.rcmpd(&["check-config", "rcmpd.toml"]).code(0);
    for (more, expected) in [
        (domain("FABRIKAM", "S-1-5-21-4-5-6", "WEB01$"), "the NTLM computer name is DC1"),
        // One CHALLENGE has the names of one domain.
        (fitting + &domain("LITWARE", "S-1-5-21-7-8-9", "DC1$"), "the NTLM domain is FABRIKAM"),
    ] {
        std::fs::write(demo.path("rcmpd.toml"), format!("{good}{more}")).unwrap();
        for command in [&["check-config", "rcmpd.toml"][..], &["serve", "-c", "rcmpd.toml"]] {
            let refused = demo.rcmpd(command).code(1);
            assert!(refused.stderr.contains(expected), "{command:?}: {}", refused.stderr);
        }
    }
}
