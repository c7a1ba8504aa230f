//! What seals the master secret, and what becomes of it when that is missing, when the folder is copied, and
//! when writers are killed.

use crate::sso::{get, secret};
use rcmpd_tests::{Demo, Finished, Service, binary, eventually, write_secret};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Command;

fn status(demo: &Demo) -> Value {
    let done = secret(demo, &["status", "--json"]);
    assert!([0, 3, 7].contains(&done.code), "{done:?}");
    done.json()
}

/// The key ids of the store, newest first.
fn key_ids(status: &Value) -> Vec<String> {
    let generations = status["facts"]["generations"].as_array().cloned().unwrap_or_default();
    generations.iter().map(|generation| generation["key_id"].as_str().unwrap().to_owned()).collect()
}

fn seal_with(demo: &Demo, seal: &str) {
    demo.edit(|text| {
        let (before, rest) = text.split_once("seal           = \"").unwrap();
        let (_, after) = rest.split_once('"').unwrap();
        format!("{before}seal           = \"{seal}\"{after}")
    });
}

/// The key id that a client is told.
fn delivered(service: &Service) -> String {
    let _ = fs::remove_file(service.path("got.key"));
    get(service, &["--output", "got.key", "--json"]).code(0).json()["key_id"].as_str().unwrap().to_owned()
}

#[track_caller]
fn refuses_with_e_unexpected(service: &Service) {
    let _ = fs::remove_file(service.path("none.key"));
    let refused = get(service, &["--output", "none.key"]).code(3);
    assert!(refused.stderr.contains("E_UNEXPECTED (0x8000ffff)"), "{}", refused.stderr);
    assert!(!service.path("none.key").exists());
}

fn sealed_files(demo: &Demo) -> [Vec<u8>; 2] {
    ["sso/master-secret.sealed", "sso/master-secret.instance"].map(|name| fs::read(demo.path(name)).unwrap())
}

const FIRST_BACKUP: [&str; 4] = ["restore", "sso/first.backup", "--passphrase-file", "sso/backup.passphrase"];

fn restore_first_backup(demo: &Demo) -> Finished {
    secret(demo, &[&FIRST_BACKUP[..], &["--replace-sealed"]].concat())
}

#[test]
fn secret_sealed_by_shares_opens_when_enough_operators_came() {
    let demo = Demo::with_master_secret();
    let first = key_ids(&status(&demo));
    let made =
        demo.rcmpd(&["sso", "secret", "seal-key", "seal", "--shares", "3", "--threshold", "2", "--json"]);
    assert_eq!(made.code(0).json()["files"], json!(["seal.1.share", "seal.2.share", "seal.3.share"]));
    assert!(!demo.path("seal").exists(), "no file has the whole key");
    seal_with(&demo, "shares:shares");
    let missing = secret(&demo, &["unseal", "seal.1.share"]).code(1);
    assert!(missing.stderr.contains("shares"), "no folder is made: {}", missing.stderr);
    fs::DirBuilder::new().mode(0o700).create(demo.path("shares")).unwrap();
    secret(&demo, &["unseal", "seal.1.share"]).code(7);
    secret(&demo, &["unseal", "seal.2.share"]).code(7);
    restore_first_backup(&demo).code(0);
    assert_eq!((status(&demo)["state"].clone(), key_ids(&status(&demo))), (json!("open"), first.clone()));
    // A boot: the folder is empty.
    for share in fs::read_dir(demo.path("shares")).unwrap() {
        fs::remove_file(share.unwrap().path()).unwrap();
    }
    let before = sealed_files(&demo);
    let service = demo.serve();
    let sealed = status(&service);
    assert_eq!(sealed["state"], "sealed");
    let folder = service.path("shares").display().to_string();
    assert!(sealed["sealed"].as_str().unwrap().ends_with("shares is missing"), "{sealed} {folder}");
    refuses_with_e_unexpected(&service);
    for command in [&["generate"][..], &["rotate"], &["adopt"], &FIRST_BACKUP[..]] {
        secret(&service, command).code(1);
    }
    let one = secret(&service, &["unseal", "seal.3.share", "--json"]).code(7).json();
    assert_eq!(one["shares"], json!({ "have": 1, "need": 2 }));
    // The same one does not count twice, and neither one of another key nor what a killed writer left keeps
    // good ones from opening it.
    let twice = secret(&service, &["unseal", "seal.3.share"]).code(7);
    assert!(twice.stdout.contains("was there already"), "{}", twice.stdout);
    write_secret(service.path("shares/killed.share"), "");
    service.rcmpd(&["sso", "secret", "seal-key", "other", "--shares", "2", "--threshold", "2"]).code(0);
    let other = secret(&service, &["unseal", "other.1.share"]).code(7);
    assert!(other.stderr.contains("killed.share: not a share"), "{}", other.stderr);
    refuses_with_e_unexpected(&service);
    assert_eq!(sealed_files(&service), before, "nothing is generated");
    let told = secret(&service, &["unseal", "seal.1.share"]).code(0);
    assert!(told.stderr.contains("a share of another key"), "{}", told.stderr);
    eventually("the service has opened it by itself", || {
        service.get("/metrics").1.contains("rcmpd_sso_secret_state{state=\"open\"} 1")
    });
    assert_eq!(vec![delivered(&service)], first);
}

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

#[test]
fn key_in_a_token_seals_the_secret_and_a_missing_token_is_named() {
    const PIN: &str = "pin-of-the-token";
    const OLD_PIN: &str = "an-older-pin";
    let no_pin_is_logged = |service: &Service| {
        let log = service.log();
        assert!(!log.contains(PIN) && !log.contains(OLD_PIN), "{log}");
    };
    let demo = Demo::with_master_secret();
    let first = key_ids(&status(&demo));
    fs::create_dir(demo.path("tokens")).unwrap();
    let tokens = demo.path("tokens").display().to_string();
    let conf = demo.path("softhsm2.conf").display().to_string();
    fs::write(&conf, format!("directories.tokendir = {tokens}\nobjectstore.backend = file\n")).unwrap();
    let init = ["--init-token", "--free", "--label", "rcmpd farm", "--so-pin", "12345678", "--pin", PIN];
    let init = Command::new("softhsm2-util").args(init).env("SOFTHSM2_CONF", &conf).output().unwrap();
    assert!(init.status.success(), "{init:?}");
    write_secret(demo.path("pin"), format!("{PIN}\n"));
    let uri = format!("pkcs11:token=rcmpd%20farm;object=unseal?module-path={MODULE}&pin-source=file:pin");
    seal_with(&demo, &uri);
    demo.rcmpd(&["check-config", "rcmpd.toml"]).code(0);
    let variable = format!("SOFTHSM2_CONF={conf}");
    let program = binary().display().to_string();
    let rcmpd = |demo: &Demo, arguments: &[&str]| {
        let all = [&[variable.as_str(), program.as_str(), "sso", "secret"], arguments].concat();
        demo.run(Path::new("env"), &all)
    };
    let with_token =
        |demo: &Demo, arguments: &[&str]| rcmpd(demo, &[arguments, &["-c", "rcmpd.toml"]].concat());
    // No key in the token yet: named, and nothing made.
    let missing = with_token(&demo, &["rotate"]).code(1);
    assert!(missing.stderr.contains("is a PKCS#11 key, and the file is sealed with"), "{}", missing.stderr);
    rcmpd(&demo, &["seal-key", &uri]).code(0);
    let again = rcmpd(&demo, &["seal-key", &uri]).code(1);
    assert!(again.stderr.contains("exists already"), "{}", again.stderr);
    with_token(&demo, &[&FIRST_BACKUP[..], &["--replace-sealed"]].concat()).code(0);
    let public = with_token(&demo, &["status", "--json"]).code(0).json();
    assert_eq!(public["facts"]["source_kind"], "pkcs11");
    assert_eq!(public["facts"]["source"], "pkcs11:token=rcmpd farm;object=unseal");
    let mut service = demo.serve_with(&[("SOFTHSM2_CONF", &conf)]);
    assert_eq!(vec![delivered(&service)], first);
    with_token(&service, &["rotate"]).code(0);
    assert_ne!(vec![delivered(&service)], first);
    // A wrong PIN, and then no token: sealed with the name of the key, and nothing is generated.
    write_secret(service.path("pin"), format!("{OLD_PIN}\n"));
    let wrong = with_token(&service, &["status", "--json"]).code(7).json();
    assert!(
        wrong["sealed"].as_str().unwrap().starts_with("pkcs11:token=rcmpd farm;object=unseal"),
        "{wrong}"
    );
    write_secret(service.path("pin"), format!("{PIN}\n"));
    with_token(&service, &["status"]).code(0);
    no_pin_is_logged(&service);
    service.kill();
    // The PIN is outdated at the start: operators cause no further login, with which the token could lock the
    // user out, even if the PIN is right by now. SIGHUP asks the token again.
    let socket = "operators = [\"uid:424242\"]\noperator_socket = \"s\"\noperator_group = \"0\"\n[sso.ntlm]";
    service.edit(|text| text.replace("[sso.ntlm]", socket));
    write_secret(service.path("pin"), format!("{OLD_PIN}\n"));
    service.start_again_with(&[("SOFTHSM2_CONF", &conf)]);
    write_secret(service.path("pin"), format!("{PIN}\n"));
    for command in ["rotate", "generate"] {
        let refused = service.rcmpd(&["sso", "secret", command, "--socket", "s"]).code(1);
        assert!(refused.stderr.contains("asked again at SIGHUP"), "{}", refused.stderr);
    }
    // The file has the port of before, which is what the service was started with.
    service.signal(rustix::process::Signal::HUP);
    service.wait_for_log(" Reloaded ");
    service.rcmpd(&["sso", "secret", "rotate", "--socket", "s"]).code(0);
    let before = sealed_files(&service);
    no_pin_is_logged(&service);
    service.kill();
    // Without the variable there is no such token.
    service.start_again();
    let log = service.log();
    assert!(
        log.contains("Master secret is sealed missing=\"pkcs11:token=rcmpd farm;object=unseal\""),
        "{log}"
    );
    refuses_with_e_unexpected(&service);
    assert_eq!(sealed_files(&service), before);
    no_pin_is_logged(&service);
}

#[test]
fn swapped_passphrase_is_e_unexpected_and_changes_no_file() {
    let demo = Demo::with_master_secret();
    write_secret(demo.path("pp"), "the first passphrase\n");
    seal_with(&demo, "passphrase:file:pp");
    restore_first_backup(&demo).code(0);
    let service = demo.serve();
    let key_id = delivered(&service);
    let before = sealed_files(&service);
    write_secret(service.path("pp"), "another passphrase\n");
    service.reload();
    refuses_with_e_unexpected(&service);
    let sealed = status(&service);
    assert_eq!(sealed["state"], "sealed");
    assert!(sealed["sealed"].as_str().unwrap().starts_with("passphrase:file:"), "{sealed}");
    assert!(
        service.log().contains("Master secret is sealed missing=\"passphrase:file:"),
        "{}",
        service.log()
    );
    for command in [&["generate"][..], &["rotate"], &["adopt"]] {
        secret(&service, command).code(1);
    }
    assert_eq!(sealed_files(&service), before);
    write_secret(service.path("pp"), "the first passphrase\n");
    service.reload();
    assert_eq!(delivered(&service), key_id);
}

#[test]
fn every_blob_opens_after_three_backups_restores_and_rotations() {
    let service = Demo::with_master_secret().serve();
    write_secret(service.path("pass"), "a long passphrase\n");
    service.rcmpd(&["sso", "secret", "seal-key", "node.key"]).code(0);
    let cache = ["--cache", "node.keys", "--unseal", "file:node.key"];
    let blob = |command: &str, file: &str, output: &str| {
        let arguments = ["sso", command, file, "--output", output, "--purpose", "app/test"];
        service.rcmpd(&[&arguments[..], &cache].concat()).code(0);
    };
    for round in 0..3 {
        get(&service, &cache).code(0);
        fs::write(service.path("plain"), format!("credential {round}")).unwrap();
        blob("seal", "plain", &format!("blob{round}"));
        let backup = format!("{round}.backup");
        secret(&service, &["backup", &backup, "--passphrase-file", "pass"]).code(0);
        secret(&service, &["drill", &backup, "--passphrase-file", "pass"]).code(0);
        secret(&service, &["restore", &backup, "--passphrase-file", "pass"]).code(0);
        secret(&service, &["rotate"]).code(0);
    }
    get(&service, &cache).code(0);
    for round in 0..3 {
        blob("open", &format!("blob{round}"), &format!("opened{round}"));
        let opened = fs::read_to_string(service.path(&format!("opened{round}"))).unwrap();
        assert_eq!(opened, format!("credential {round}"));
    }
    // A backup of before is refused by name, and so is one of another farm.
    let older = secret(&service, &["restore", "0.backup", "--passphrase-file", "pass"]).code(1);
    assert!(older.stderr.contains("the backup is older"), "{}", older.stderr);
    let other = Demo::with_master_secret();
    let theirs = other.path("sso/first.backup").display().to_string();
    let passphrase = other.path("sso/backup.passphrase").display().to_string();
    let foreign = secret(&service, &["restore", &theirs, "--passphrase-file", &passphrase]).code(1);
    assert!(foreign.stderr.contains("the backup is foreign"), "{}", foreign.stderr);
}

#[test]
fn missing_backup_is_told_and_quickstart_writes_the_first_one() {
    let demo = Demo::with_master_secret();
    let first = status(&demo);
    assert!(demo.path("sso/first.backup").exists() && first["facts"]["last_backup"].is_u64());
    assert_eq!(
        (&first["facts"]["backup_is_current"], &first["facts"]["last_drill"]),
        (&json!(true), &Value::Null)
    );
    demo.edit(|text| text.replace("folder         = \"sso\"", "folder         = \"new\""));
    fs::DirBuilder::new().mode(0o700).create(demo.path("new")).unwrap();
    secret(&demo, &["status"]).code(3);
    secret(&demo, &["generate"]).code(0);
    let told = secret(&demo, &["status"]).code(0);
    assert!(told.stdout.contains("never backed up"), "{}", told.stdout);
    let checked = demo.rcmpd(&["check-config", "rcmpd.toml"]).code(0);
    assert!(checked.stderr.contains("never backed up"), "{}", checked.stderr);
    let service = demo.serve();
    assert!(service.log().contains("the master secret was never backed up"), "{}", service.log());
    let metric = |name: &str| service.metric(&format!("rcmpd_sso_{name}"));
    assert_eq!((metric("backup_timestamp_seconds"), metric("backup_is_current")), (0, 0));
    write_secret(service.path("pass"), "a long passphrase\n");
    secret(&service, &["backup", "one.backup", "--passphrase-file", "pass"]).code(0);
    secret(&service, &["drill", "one.backup", "--passphrase-file", "pass"]).code(0);
    eventually("the service has seen both", || metric("drill_timestamp_seconds") > 0);
    assert!(metric("backup_timestamp_seconds") > 0);
    assert_eq!(metric("backup_is_current"), 1);
}

#[test]
fn copied_folder_is_served_and_not_rotated_until_it_is_adopted() {
    let demo = Demo::with_master_secret();
    let first = key_ids(&status(&demo));
    let copied = Command::new("cp").args(["-a", "sso", "copy"]).current_dir(demo.path("")).status().unwrap();
    assert!(copied.success());
    demo.edit(|text| text.replace("folder         = \"sso\"", "folder         = \"copy\""));
    let service = demo.serve();
    assert_eq!(vec![delivered(&service)], first);
    assert_eq!(service.metric("rcmpd_sso_secret_is_copy"), 1);
    assert!(service.log().contains("The data folder of the master secret is a copy"), "{}", service.log());
    for command in [&["rotate"][..], &FIRST_BACKUP[..]] {
        let refused = secret(&service, command).code(1);
        assert!(refused.stderr.contains("this data folder is a copy"), "{}", refused.stderr);
    }
    assert_eq!(key_ids(&status(&service)), first);
    secret(&service, &["adopt"]).code(0);
    eventually("the service has seen it", || service.metric("rcmpd_sso_secret_is_copy") == 0);
    secret(&service, &["rotate"]).code(0);
    assert_ne!(vec![delivered(&service)], first);
}

/// Runs `rcmpd sso secret` under strace(1), which kills it as it begins the system call `call` for the `at`th
/// time.
fn killed_at(demo: &Demo, call: &str, at: usize, arguments: &[&str]) -> bool {
    let trace = format!("trace={call}");
    let inject = format!("inject={call}:signal=KILL:when={at}");
    let program = binary().display().to_string();
    let options = ["-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    let command = [&program, "sso", "secret"];
    let all = [&options[..], &command, arguments, &["-c", "rcmpd.toml"]].concat();
    let done = demo.run(Path::new("strace"), &all);
    assert!(done.code == 0 || done.code == -1, "{done:?}");
    done.code == -1
}

/// The calls by which a sealed file and its record get onto the disk.
const WRITES: [&str; 5] = ["write", "fsync", "rename", "unlink", "fchown"];
/// More than any command makes of one call.
const KILLS_MAX: usize = 60;

/// Runs a command for each of its writes, by a function that kills it there and says whether it was: the last
/// run of each system call is the one that survives.
fn at_each_write(mut is_killed: impl FnMut(&str, usize) -> bool) {
    for call in WRITES {
        let survived = (1..KILLS_MAX).any(|at| !is_killed(call, at));
        assert!(survived, "{call} is called without end");
    }
}

#[test]
fn generation_that_is_killed_at_any_write_leaves_a_secret_or_none() {
    let demo = Demo::with_master_secret();
    demo.edit(|text| text.replace("folder         = \"sso\"", "folder         = \"new\""));
    let fresh = || {
        let _ = fs::remove_dir_all(demo.path("new"));
        fs::DirBuilder::new().mode(0o700).create(demo.path("new")).unwrap();
    };
    fresh();
    let mut states = BTreeSet::new();
    at_each_write(|call, at| {
        let killed = killed_at(&demo, call, at, &["generate"]);
        let state = status(&demo);
        states.insert((killed, state["state"].as_str().unwrap().to_owned()));
        match key_ids(&state).as_slice() {
            [] => drop(secret(&demo, &["generate"]).code(0)),
            [one] => {
                secret(&demo, &["generate"]).code(1);
                assert_eq!(key_ids(&status(&demo)), std::slice::from_ref(one), "it is there to stay");
            }
            more => panic!("{more:?}"),
        }
        fresh();
        killed
    });
    let expected = [(false, "open"), (true, "none"), (true, "open")];
    assert_eq!(states, expected.map(|(killed, state)| (killed, state.to_owned())).into());
}

/// Each key that a client was given stays in the store, so that other nodes can get it.
#[test]
fn rotation_and_restore_that_are_killed_at_any_write_lose_no_delivered_key() {
    let mut given = BTreeSet::new();
    for command in ["rotate", "restore"] {
        let service = Demo::with_master_secret().serve();
        write_secret(service.path("pass"), "a long passphrase\n");
        given.clear();
        given.insert(delivered(&service));
        let mut kills = 0;
        let mut changes = 0;
        at_each_write(|call, at| {
            // There is room for a generation.
            if key_ids(&status(&service)).len() >= 6 {
                secret(&service, &["rotate", "--overlap-h", "0"]).code(0);
                given.clear();
                given.insert(delivered(&service));
            }
            let before = key_ids(&status(&service));
            let backup = format!("{call}{at}.backup");
            let restore = ["restore", &backup, "--passphrase-file", "pass", "--allow-older"];
            let arguments = match command {
                "rotate" => &["rotate"][..],
                _ => {
                    secret(&service, &["backup", &backup, "--passphrase-file", "pass"]).code(0);
                    &restore
                }
            };
            let killed = killed_at(&service, call, at, arguments);
            kills += usize::from(killed);
            let state = status(&service);
            let after = key_ids(&state);
            assert_eq!(state["state"], "open", "{call} {at}");
            assert!(
                after == before || after[1..] == before[..],
                "old or new: {call} {at}: {before:?} {after:?}"
            );
            changes += usize::from(after != before);
            let now = delivered(&service);
            assert_eq!(now, after[0], "{call} {at}: the service delivers what is on the disk");
            given.insert(now);
            let there: BTreeSet<String> = after.into_iter().collect();
            assert!(given.is_subset(&there), "{call} {at}: {given:?} {there:?}");
            killed
        });
        assert!(kills > 5, "{command} was killed {kills} times");
        assert_eq!(changes > 0, command == "rotate");
    }
}
