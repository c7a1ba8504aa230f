//! Passwords of local accounts, as an operator sets, shows and removes them.

use rcmpd_tests::{Demo, Finished, write_secret};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const PASSWORD: &str = "Grüße an carol 7$";
/// The NT hash of `Password` ([MS-NLMP] 4.2.2.1.2).
const NT_HASH: &str = "a4f49c406510bdcab6824ee7c30fd852";

fn demo() -> Demo {
    let demo = Demo::with_master_secret();
    write_secret(demo.path("new.password"), format!("{PASSWORD}\n"));
    write_secret(demo.path("new.hash"), format!("{NT_HASH}\n"));
    demo
}

fn account(demo: &Demo, command: &str, name: &str, more: &[&str]) -> Finished {
    demo.rcmpd(&[&["account", command, name, "-c", "rcmpd.toml"], more].concat())
}

fn forms(demo: &Demo, name: &str) -> Value {
    account(demo, "show", name, &["--json"]).code(0).json()["password"].clone()
}

/// What a service finds in the database.
fn is_password_of(demo: &Demo, name: &str, password: &str) -> Option<bool> {
    let config = rcmpd::config::load(&demo.path("rcmpd.toml")).expect("a good configuration");
    let served = now(rcmpd::stores::served_machines(&config, true)).expect("the store opens");
    let sid = account(demo, "show", name, &["--json"]).code(0).json()["sid"].as_str().unwrap().to_owned();
    let hash = served.password_hashes.expect("it keeps passwords");
    let hash = now(hash.password_hash(&sid.parse().unwrap())).expect("it is read");
    hash.map(|hash| hash.verify(password).expect("there is memory"))
}

fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[test]
fn password_is_kept_in_two_forms_and_shown_in_none() {
    let demo = demo();
    let both = json!(["argon2id", "nt_hash"]);
    assert_eq!(forms(&demo, "alice"), both, "by quickstart");
    assert_eq!(is_password_of(&demo, "alice", &demo.password("alice")), Some(true));
    assert_eq!(forms(&demo, "carol"), json!([]));
    assert_eq!(is_password_of(&demo, "carol", ""), None);
    let told = account(&demo, "show", "carol", &[]).code(0).stdout;
    assert!(told.contains("\npassword  none\n"), "{told}");

    let set = |more: &[&str]| account(&demo, "set", "carol", more).code(0);
    let told = set(&["--password-file", "new.password"]);
    assert!(told.stdout.contains("\npassword  argon2id, NT hash\n"), "{told:?}");
    assert!(!format!("{told:?}").contains("$argon2id$"), "{told:?}");
    assert_eq!(forms(&demo, "carol"), both);
    assert_eq!(is_password_of(&demo, "carol", PASSWORD), Some(true));
    assert_eq!(is_password_of(&demo, "carol", "Grüße an carol 7"), Some(false));

    // Each form is of the newest password, or is not there.
    set(&["--password-file", "new.password", "--no-nt-hash"]);
    assert_eq!(forms(&demo, "carol"), json!(["argon2id"]));
    set(&["--nt-hash-file", "new.hash"]);
    assert_eq!(forms(&demo, "carol"), json!(["nt_hash"]));
    demo.paste("printf 'typed 1' | rcmpd account set carol --password-stdin -c rcmpd.toml").code(0);
    assert_eq!(forms(&demo, "carol"), both);
    assert_eq!(is_password_of(&demo, "carol", "typed 1"), Some(true));
    set(&["--no-nt-hash"]);
    assert_eq!(forms(&demo, "carol"), json!(["argon2id"]));
    assert_eq!(is_password_of(&demo, "carol", "typed 1"), Some(true));
    set(&["--rename", "caroline", "--disable"]);
    assert_eq!(is_password_of(&demo, "caroline", "typed 1"), Some(true));
    account(&demo, "set", "caroline", &["--no-password"]).code(0);
    assert_eq!(forms(&demo, "caroline"), json!([]));

    account(&demo, "add", "dave", &["--password-file", "new.password", "--no-nt-hash"]).code(0);
    assert_eq!(forms(&demo, "dave"), json!(["argon2id"]));
    assert_eq!(is_password_of(&demo, "dave", PASSWORD), Some(true));
    let lists =
        [demo.rcmpd(&["account", "list", "--json", "-c", "rcmpd.toml"]), demo.rcmpd(&["export", "-"])];
    assert!(!format!("{lists:?}").contains("$argon2id$"), "{lists:?}");
    for file in ["accounts.db", "accounts.db-wal"] {
        let bytes = fs::read(demo.path(file)).unwrap_or_default();
        assert!(!bytes.windows(10).any(|part| part == b"$argon2id$"), "{file}");
    }
}

#[test]
fn new_password_is_served_to_ntlm_until_its_nt_hash_is_removed() {
    let service = demo().serve();
    let server = service.master_secret().to_string();
    let get = |password: &str, output: &str, code| {
        let command = ["sso", "secret", "get", "--server", &server, "--user", "alice"];
        service.rcmpd(&[&command[..], &["--password-file", password, "--output", output]].concat()).code(code)
    };
    get("users/alice.password", "one.key", 0);
    account(&service, "set", "alice", &["--password-file", "new.password"]).code(0);
    get("users/alice.password", "two.key", 5);
    get("new.password", "three.key", 0);
    account(&service, "set", "alice", &["--password-file", "new.password", "--no-nt-hash"]).code(0);
    get("new.password", "four.key", 5);
}

#[test]
fn passwords_that_cannot_be_set_change_nothing() {
    let demo = demo();
    let before = account(&demo, "show", "alice", &["--json"]).code(0).json();
    let hash = |password: &str| is_password_of(&demo, "alice", password);
    let old = demo.password("alice");
    for (more, code) in [
        (&["--password-file", "new.password", "--password-stdin"][..], 2),
        (&["--password-file", "new.password", "--nt-hash-file", "new.hash"], 2),
        (&["--password-stdin", "--nt-hash-file", "new.hash"], 2),
        (&["--nt-hash-file", "new.hash", "--no-nt-hash"], 2),
        (&["--no-password", "--no-nt-hash"], 2),
        (&["--no-password", "--password-file", "new.password"], 2),
        (&["--no-password", "--password-stdin"], 2),
        (&["--no-password", "--nt-hash-file", "new.hash"], 2),
        (&["--password-file", "missing"], 6),
        (&["--password-file", "readable"], 6),
        (&["--password-file", "empty"], 6),
        (&["--password-file", "lines"], 6),
        (&["--nt-hash-file", "new.password"], 6),
        // Standard input is empty.
        (&["--password-stdin"], 6),
    ] {
        write_secret(demo.path("readable"), "a password\n");
        fs::set_permissions(demo.path("readable"), fs::Permissions::from_mode(0o644)).unwrap();
        write_secret(demo.path("empty"), "\n");
        write_secret(demo.path("lines"), "one\ntwo\n");
        let refused = account(&demo, "set", "alice", more).code(code);
        assert!(!refused.stderr.contains(PASSWORD), "{refused:?}");
        assert_eq!(account(&demo, "show", "alice", &["--json"]).code(0).json(), before, "{more:?}");
        assert_eq!(hash(&old), Some(true), "{more:?}");
        if !more.contains(&"--no-password") {
            account(&demo, "add", "dave", more).code(code);
            account(&demo, "show", "dave", &[]).code(1);
        }
    }
    let readable = account(&demo, "set", "alice", &["--password-file", "readable"]).code(6);
    assert!(readable.stderr.contains("readable") && readable.stderr.contains("chmod"), "{readable:?}");
    account(&demo, "add", "dave", &["--no-password"]).code(2);

    // Without the key file no password is set; that there is none is shown.
    let key = fs::read(demo.path("accounts.key")).unwrap();
    fs::remove_file(demo.path("accounts.key")).unwrap();
    let lost = account(&demo, "set", "alice", &["--full-name", "A", "--password-file", "new.password"]);
    assert!(lost.code(1).stderr.contains("rcmpd store rekey --forget-secrets"));
    assert_eq!(account(&demo, "show", "alice", &["--json"]).code(0).json()["password"], json!(null));
    let told = account(&demo, "show", "alice", &[]).code(0);
    assert!(told.stdout.contains("\npassword  cannot be read\n"), "{told:?}");
    assert!(told.stderr.contains("warning: alice: the password cannot be read: "), "{told:?}");
    assert_eq!(forms(&demo, "carol"), json!([]));
    write_secret(demo.path("accounts.key"), key);
    assert_eq!(account(&demo, "show", "alice", &["--json"]).code(0).json(), before);

    // A new key opens no hash of before.
    fs::remove_file(demo.path("accounts.key")).unwrap();
    demo.rcmpd(&["domain", "rekey", "--forget-secrets", "-c", "rcmpd.toml"]).code(0);
    assert_eq!(forms(&demo, "alice"), json!([]));
    account(&demo, "set", "alice", &["--password-file", "new.password"]).code(0);
    assert_eq!(hash(PASSWORD), Some(true));
}

#[test]
fn password_that_is_typed_at_a_terminal_is_asked_for_twice_and_not_shown() {
    let demo = demo();
    // The terminal of a person who answers each question.
    let script = "import os, pty, subprocess, sys, termios
master, slave = pty.openpty()
before = termios.tcgetattr(slave)
child = subprocess.Popen(['rcmpd', 'account', 'set', 'alice', '--password-stdin', '-c', 'rcmpd.toml'],
                         stdin=slave, stderr=slave, stdout=subprocess.DEVNULL)
seen = b''
for asked, answer in enumerate(sys.argv[1:], 1):
    while seen.count(b': ') < asked:
        seen += os.read(master, 4096)
    os.write(master, answer.encode().decode('unicode_escape').encode())
code = child.wait()
if termios.tcgetattr(slave)[3] != before[3]:
    print('the terminal hides its input still')
os.close(slave)
try:
    while part := os.read(master, 4096):
        seen += part
except OSError:
    pass
print(repr(seen))
sys.exit(code)";
    fs::write(demo.path("terminal.py"), script).unwrap();
    let answer = |answers: &str| {
        let done = demo.paste(&format!("timeout 60 python3 terminal.py {answers}"));
        assert!(!done.stdout.contains("hides its input still"), "{done:?}");
        assert!(!done.stdout.contains("secret"), "what is typed is shown: {done:?}");
        done
    };
    let old = demo.password("alice");
    for (answers, why) in [
        (r"'secret 1\n' 'secret 2\n'", "the two passwords differ"),
        (r"'\n'", "the password is empty"),
        (r"'secret\x03'", "interrupted"),
        (r"'secret 1\n' 'secret 1\x03'", "interrupted"),
    ] {
        let done = answer(answers).code(6);
        assert!(done.stdout.contains(why), "{done:?}");
        assert_eq!(is_password_of(&demo, "alice", &old), Some(true));
    }
    let done = answer(r"'secret 1\n' 'secret 1\n'").code(0);
    assert!(done.stdout.contains("The same password again: "), "{done:?}");
    assert_eq!(is_password_of(&demo, "alice", "secret 1"), Some(true));
}
