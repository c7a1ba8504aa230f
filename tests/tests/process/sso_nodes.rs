//! Nodes of a farm: what they learn from backups, where a secret is written and taken over, and outages.

use crate::sso::{get, secret};
use dtyp::hex;
use rcmpd_tests::{Demo, Service, binary, write_secret};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const CLIENT: [&str; 5] = ["--user", "alice", "--password-file", "users/alice.password", "--json"];

#[test]
fn new_node_learns_older_keys_from_a_backup_that_only_it_opens() {
    let service = Demo::with_master_secret().serve();
    for key in ["old.key", "new.key"] {
        service.rcmpd(&["sso", "secret", "seal-key", key]).code(0);
    }
    let old = ["--cache", "old.keys", "--unseal", "file:old.key"];
    let new = ["--cache", "new.keys", "--unseal", "file:new.key"];
    get(&service, &old).code(0);
    fs::write(service.path("plain"), "a credential").unwrap();
    let blob = |arguments: &[&str], cache: &[&str]| {
        service.rcmpd(&[&["sso"], arguments, &["--purpose", "app/test"], cache].concat())
    };
    blob(&["seal", "plain", "--output", "blob"], &old).code(0);
    secret(&service, &["rotate"]).code(0);
    get(&service, &new).code(0);
    blob(&["open", "blob", "--output", "opened"], &new).code(6);

    let recipient = |file: &str| service.rcmpd(&["sso", "recipient", file]).code(0).stdout.trim().to_owned();
    let node = recipient("node.recipient");
    assert!(node.starts_with("rcmpd-recipient-1:") && node.len() == 82, "{node}");
    assert_eq!(recipient("node.recipient"), node, "it stays");
    let private = fs::read(service.path("node.recipient")).unwrap();
    let public = x25519_public(&service, &private);
    assert_eq!(node, format!("rcmpd-recipient-1:{public}"), "as another program derives it");
    let before = secret(&service, &["status", "--json"]).code(0).json();
    secret(&service, &["backup", "node.backup", "--for-node", "--recipient", &node]).code(0);
    let after = secret(&service, &["status", "--json"]).code(0).json();
    assert_eq!(after["facts"], before["facts"], "a backup for a node is none of the server");
    recipient("other.recipient");
    let learn = |key: &str| {
        let arguments = ["sso", "learn", "node.backup", "--key-file", key, "--json"];
        service.rcmpd(&[&arguments[..], &new].concat())
    };
    for key in ["other.recipient", "new.key"] {
        let other = learn(key).code(6);
        assert!(other.stderr.contains("has another key"), "{}", other.stderr);
    }
    assert_eq!(learn("node.recipient").code(0).json()["learnt"], 1);
    blob(&["open", "blob", "--output", "opened"], &new).code(0);
    assert_eq!(fs::read(service.path("opened")).unwrap(), b"a credential");

    // A recipient of the operator's own: its backup counts, and restores.
    fs::write(service.path("operator.public"), recipient("operator.recipient") + "\n").unwrap();
    secret(&service, &["backup", "farm.backup", "--recipient", "operator.public"]).code(0);
    secret(&service, &["drill", "farm.backup", "--key-file", "operator.recipient"]).code(0);
    secret(&service, &["restore", "farm.backup", "--key-file", "operator.recipient"]).code(0);
    let counted = secret(&service, &["status", "--json"]).code(0).json();
    assert_eq!(counted["facts"]["backup_is_current"], true);
    for (arguments, code) in [
        (&["backup", "x", "--recipient", "rcmpd-recipient-1:12"][..], 6),
        (&["backup", "x", "--recipient", "plain"], 6),
        (&["backup", "x"], 2),
        (&["backup", "x", "--for-node", "--key-file", "new.key"], 2),
        (&["backup", "x", "--key-file", "new.key", "--recipient", &node], 2),
    ] {
        secret(&service, arguments).code(code);
        assert!(!service.path("x").exists());
    }
}

/// The public key of an X25519 private key, by OpenSSL: in hexadecimal digits.
fn x25519_public(service: &Service, private: &[u8]) -> String {
    // RFC 8410, section 7: PKCS #8 of an X25519 key is this, and the 32 octets.
    let head =
        [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e, 0x04, 0x22, 0x04, 0x20];
    write_secret(service.path("private.der"), [&head[..], private].concat());
    let arguments =
        ["pkey", "-inform", "DER", "-in", "private.der", "-pubout", "-outform", "DER", "-out", "public.der"];
    service.run(Path::new("openssl"), &arguments).code(0);
    let public = fs::read(service.path("public.der")).unwrap();
    hex(&public[public.len() - 32..])
}

#[test]
fn secret_is_written_to_a_descriptor_behind_what_is_there() {
    let service = Demo::with_master_secret().serve();
    get(&service, &["--output", "master.key"]).code(0);
    let key = fs::read(service.path("master.key")).unwrap();
    let server = service.master_secret().to_string();
    let rcmpd = format!("\"$0\" sso secret get --server {server} {} --fd 3", CLIENT.join(" "));
    let shell = |line: &str| {
        let program = binary().display().to_string();
        service.run(Path::new("sh"), &["-c", line, &program])
    };
    let told = shell(&format!("{rcmpd} 3>new.key")).code(0);
    assert_eq!(fs::read(service.path("new.key")).unwrap(), key);
    assert!(!format!("{}{}", told.stdout, told.stderr).contains(&hex(&key)), "it is never printed");
    fs::write(service.path("log"), "before ").unwrap();
    shell(&format!("{rcmpd} 3>>log")).code(0);
    assert_eq!(fs::read(service.path("log")).unwrap(), [b"before ", key.as_slice()].concat());
    let mut pipe = Command::new("sh");
    pipe.args(["-c", &format!("{{ {rcmpd} 3>&1 1>/dev/null; }} | cat")]).arg(binary());
    let piped = pipe.current_dir(service.path("")).output().unwrap();
    assert_eq!(piped.stdout, key);
    // A descriptor that is not open, or only for reading, and those of the terminal.
    let closed = shell(&format!("{rcmpd} 3>&-")).code(6);
    assert!(closed.stderr.contains("the descriptor 3"), "{}", closed.stderr);
    assert_eq!(shell(&format!("{rcmpd} 3<log")).code, 0, "the file may be written, as the shell could");
    shell(&rcmpd.replace("--fd 3", "--fd 1")).code(2);
    shell(&rcmpd.replace("--fd 3", "")).code(2);
}

#[test]
fn secret_of_an_existing_server_is_taken_over() {
    let existing = Demo::with_master_secret().serve();
    let taking = Demo::with_master_secret();
    let server = existing.master_secret().to_string();
    let password = existing.path("users/alice.password").display().to_string();
    let import = |user: &str, password: &str, more: &[&str]| {
        let arguments = ["import", "--from-server", &server, "--user", user, "--password-file", password];
        secret(&taking, &[&arguments[..], more].concat())
    };
    // A code of the server ends it, and nothing is changed.
    let before = secret(&taking, &["status", "--json"]).code(0).json();
    let bob = existing.path("users/bob.password").display().to_string();
    let refused = import("bob", &bob, &[]).code(3);
    assert!(refused.stderr.contains("SSO_E_ACCESSDENIED (0x80630005)"), "{}", refused.stderr);
    import("alice", &bob, &[]).code(5);
    assert_eq!(secret(&taking, &["status", "--json"]).code(0).json()["facts"], before["facts"]);
    import("alice", &password, &[]).code(0);
    let theirs = secret(&existing, &["status", "--json"]).code(0).json();
    let ours = secret(&taking, &["status", "--json"]).code(0).json();
    let newest = &ours["facts"]["generations"][0];
    assert_eq!(newest["key_id"], theirs["facts"]["generations"][0]["key_id"]);
    assert_eq!((&newest["origin"], &newest["number"]), (&"imported".into(), &2.into()));
    assert_eq!(ours["facts"]["backup_is_current"], false, "it is to be backed up");
    // The delivery is in the audit log of the server that it was taken from, and both deliver the same
    // octets.
    assert_eq!(existing.audit("master_secret_delivered").len(), 1);
    let taking = taking.serve();
    get(&existing, &["--output", "one.key"]).code(0);
    get(&taking, &["--output", "two.key"]).code(0);
    assert_eq!(fs::read(existing.path("one.key")).unwrap(), fs::read(taking.path("two.key")).unwrap());
    // Into a folder without a secret it is the first one.
    taking.edit(|text| text.replace("folder         = \"sso\"", "folder         = \"new\""));
    fs::create_dir(taking.path("new")).unwrap();
    secret(&taking, &["status"]).code(3);
    let again = ["import", "--from-server", &server, "--user", "alice", "--password-file", &password];
    secret(&taking, &again).code(0);
    let first = secret(&taking, &["status", "--json"]).code(0).json();
    assert_eq!(first["facts"]["generations"][0]["key_id"], newest["key_id"]);
}

#[test]
fn node_starts_with_the_server_down_says_the_age_and_backs_off() {
    let mut service = Demo::with_master_secret().serve();
    service.rcmpd(&["sso", "secret", "seal-key", "node.key"]).code(0);
    let cache = ["--cache", "node.keys", "--unseal", "file:node.key"];
    get(&service, &cache).code(0);
    get(&service, &["--output", "delivered.key"]).code(0);
    service.kill();
    // A port on which each connection is closed at once, as by a host whose service is gone.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gone.local_addr().unwrap().to_string();
    let (attempt, attempts) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in gone.incoming() {
            drop(stream);
            if attempt.send(Instant::now()).is_err() {
                return;
            }
        }
    });
    let mut watch = Command::new(binary());
    watch.current_dir(service.path("")).args(["sso", "secret", "get", "--watch", "--server", &address]);
    watch.args(CLIENT).args(cache).args(["--output", "node.master"]);
    let mut watch = watch.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(watch.stderr.take().unwrap()).lines().map_while(Result::ok);
    let line = said.next().unwrap();
    assert!(line.contains("the cached key is used") && line.contains(" ago"), "{line}");
    let times: Vec<Instant> =
        (0..4).map(|_| attempts.recv_timeout(Duration::from_secs(60)).expect("it goes on asking")).collect();
    let waits: Vec<u64> =
        times.windows(2).map(|two| (two[1] - two[0]).as_secs_f64().round() as u64).collect();
    assert!(waits[0] >= 1 && waits[1] >= 2 && waits[2] >= 4, "{waits:?}");
    watch.kill().unwrap();
    watch.wait().unwrap();
    let written = fs::read(service.path("node.master")).unwrap();
    assert_eq!(written, fs::read(service.path("delivered.key")).unwrap());
    // The key is in the cache sealed.
    let sealed = fs::read(service.path("node.keys")).unwrap();
    assert!(!sealed.windows(16).any(|octets| octets == written));
    // A node that never reached the server has nothing to start with.
    let server = ["sso", "secret", "get", "--server", "127.0.0.1:1"];
    let none = ["--cache", "none.keys", "--unseal", "file:node.key"];
    let without = service.rcmpd(&[&server[..], &CLIENT, &none].concat()).code(4);
    assert!(without.stderr.contains("there is no cached key"), "{}", without.stderr);
}

/// Each run is killed as it begins to rename one more blob, so within its work.
#[test]
fn ten_thousand_blobs_are_resealed_by_runs_that_are_killed() {
    const BLOBS: usize = 10_000;
    let service = Demo::with_master_secret().serve();
    service.rcmpd(&["sso", "secret", "seal-key", "node.key"]).code(0);
    let cache = ["--cache", "node.keys", "--unseal", "file:node.key"];
    get(&service, &cache).code(0);
    fs::write(service.path("plain"), "a credential").unwrap();
    let blob = |arguments: &[&str]| {
        service.rcmpd(&[&["sso"], arguments, &["--purpose", "app/test"], &cache].concat())
    };
    blob(&["seal", "plain", "--output", "blob"]).code(0);
    fs::create_dir(service.path("blobs")).unwrap();
    for number in 0..BLOBS {
        fs::copy(service.path("blob"), service.path(&format!("blobs/{number}"))).unwrap();
    }
    secret(&service, &["rotate"]).code(0);
    get(&service, &cache).code(0);
    let program = binary().display().to_string();
    for kill in 0..10 {
        let at = 700 + kill;
        let inject = format!("inject=rename:signal=KILL:when={at}");
        let trace = ["-qq", "-o", "/dev/null", "-e", "trace=rename", "-e", &inject];
        let command = [program.as_str(), "sso", "reseal", "blobs", "--purpose", "app/test"];
        let killed = service.run(Path::new("strace"), &[&trace[..], &command, &cache].concat());
        assert_eq!(killed.code, -1, "{killed:?}");
    }
    let report = blob(&["reseal", "blobs", "--json"]).code(0).json();
    let count = |key: &str| report[key].as_u64().unwrap() as usize;
    assert_eq!((count("resealed") + count("current"), count("failures")), (BLOBS, 0));
    assert!(count("current") >= 10 * 512 && count("resealed") > 0, "{report}");
    let again = blob(&["reseal", "blobs", "--json"]).code(0).json();
    assert_eq!((again["resealed"].as_u64(), again["current"].as_u64()), (Some(0), Some(BLOBS as u64)));
    let names: Vec<_> =
        fs::read_dir(service.path("blobs")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), BLOBS, "no draft is left");
    // The older key is not needed any more.
    secret(&service, &["rotate", "--overlap-h", "0"]).code(0);
    for number in [0, 4_711, BLOBS - 1] {
        let opened =
            blob(&["open", &format!("blobs/{number}"), "--output", &format!("opened{number}")]).code(0);
        assert!(opened.stderr.is_empty(), "{}", opened.stderr);
        let mut text = String::new();
        File::open(service.path(&format!("opened{number}"))).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "a credential");
    }
}
