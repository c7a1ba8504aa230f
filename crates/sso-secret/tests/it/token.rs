//! A sealing key in SoftHSM2.

use crate::store_in;
use sso_secret::token::TokenKey;
use sso_secret::{MachineId, SecretStore, State, StoreError, UnixTime};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const CHILD: &str = "RCMPD_TEST_TOKEN_FOLDER";

/// SoftHSM2 reads its configuration from the environment once, so the test runs in a process of its own.
#[test]
fn a_key_in_a_token_opens_the_store_and_no_other_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let conf = folder.path().join("softhsm2.conf");
    let tokens = folder.path().join("tokens");
    std::fs::create_dir(&tokens).expect("it is new");
    std::fs::write(
        &conf,
        format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display()),
    )
    .expect("it is new");
    let environment = [("SOFTHSM2_CONF", conf.as_path()), (CHILD, folder.path())];
    let init = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", "rcmpd test", "--so-pin", "12345678", "--pin", "1234"])
        .envs(environment)
        .output()
        .expect("softhsm2-util is installed (apt-get install softhsm2)");
    assert!(init.status.success(), "{init:?}");
    for pin in ["1111", "2222"] {
        let twin = ["--init-token", "--free", "--label", "twin", "--so-pin", "12345678", "--pin", pin];
        let twin = Command::new("softhsm2-util").args(twin).envs(environment).output().expect("it starts");
        assert!(twin.status.success(), "{twin:?}");
    }
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "token::in_the_environment_of_a_token", "--nocapture"])
        .envs(environment)
        .output()
        .expect("it starts");
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
    assert!(String::from_utf8_lossy(&child.stdout).contains("the token was used"));
}

#[test]
fn in_the_environment_of_a_token() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let folder = Path::new(&folder);
    let token = |label: &'static str, key: &'static str, pin: &'static str| {
        TokenKey::new(Path::new(MODULE), label, key, move || Ok(Zeroizing::new(pin.to_owned())))
    };
    let key = || token("rcmpd test", "unseal", "1234");
    let store = |key: TokenKey| SecretStore::new(folder, Arc::new(key), MachineId::new("m"));
    // A wrong PIN comes first: a login counts for the whole process.
    let sealed_with = |key: TokenKey| match store(key).generate(UnixTime(1)) {
        Err(StoreError::Sealed(sealed)) => sealed.to_string(),
        other => panic!("{other:?}"),
    };
    let wrong = sealed_with(token("rcmpd test", "unseal", "9999"));
    assert!(wrong.starts_with("pkcs11:token=rcmpd test;object=unseal cannot be used"), "{wrong}");
    assert_eq!(
        sealed_with(token("other token", "unseal", "1234")),
        "pkcs11:token=other token;object=unseal is missing"
    );
    assert_eq!(sealed_with(key()), "pkcs11:token=rcmpd test;object=unseal is missing");
    key().create().expect("the key is made");
    key().create().expect_err("it is never replaced");
    token("rcmpd test", "second", "1234").create().expect("another key");
    let open = store(key()).generate(UnixTime(1)).expect("it generates");
    assert_eq!(store(key()).open().expect("it opens").newest().1, open.newest().1);
    store(key()).rotate(UnixTime(2), Duration::from_secs(9)).expect("it rotates");
    let State::Sealed(sealed) = store(token("rcmpd test", "second", "1234")).state() else {
        panic!("another key")
    };
    assert!(sealed.why.starts_with("has another key"), "{sealed}");
    assert!(matches!(store_in(folder).state(), State::Sealed(_)), "another kind of source");
    // Two tokens of one label: neither gets the PIN before one is named.
    let ambiguous = TokenKey::new(Path::new(MODULE), "twin", "unseal", || panic!("the PIN is not read"));
    let refused = ambiguous.create().expect_err("two tokens match");
    assert!(refused.to_string().contains("several tokens have this label"), "{refused}");
    let slots = Command::new("softhsm2-util").arg("--show-slots").output().expect("it starts");
    let slots = String::from_utf8(slots.stdout).expect("text");
    let mut serial = "";
    let mut serials = Vec::new();
    for line in slots.lines() {
        match line.split_once(':').map(|(name, value)| (name.trim(), value.trim())) {
            Some(("Serial number", value)) => serial = value,
            Some(("Label", "twin")) => serials.push(serial),
            _ => {}
        }
    }
    assert_eq!(serials.len(), 2, "{slots}");
    let created: Vec<bool> = serials
        .iter()
        .map(|serial| {
            token("twin", "unseal", "1111").with_serial(Some((*serial).to_owned())).create().is_ok()
        })
        .collect();
    assert_eq!(created.iter().filter(|is_made| **is_made).count(), 1, "the PIN is that of one: {created:?}");
    let none = token("twin", "unseal", "1111").with_serial(Some("0".to_owned())).create();
    assert!(none.expect_err("there is no such token").to_string().contains("is missing"));
    println!("the token was used");
}
