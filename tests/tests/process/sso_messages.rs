//! What the commands of the master secret say when something is wrong, and where a file is named.

use crate::sso::secret;
use rcmpd_tests::{Demo, Finished, write_secret};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;

/// The message says each of these, and nothing of it twice.
fn says(done: &Finished, code: i32, expected: &[&str]) {
    assert_eq!(done.code, code, "{done:?}");
    for text in expected {
        assert_eq!(done.stderr.matches(text).count(), 1, "{text}: {done:?}");
    }
}

#[test]
fn backup_that_does_not_open_is_unusable_input_and_named() {
    let demo = Demo::with_master_secret();
    write_secret(demo.path("pass"), "a long passphrase\n");
    write_secret(demo.path("wrong"), "another passphrase\n");
    write_secret(demo.path("short"), "short\n");
    let made = secret(&demo, &["backup", "farm.backup", "--passphrase-file", "pass"]);
    assert!(made.code == 0 && made.stderr.is_empty(), "{made:?}");
    let warned = secret(&demo, &["backup", "other.backup", "--passphrase-file", "short"]);
    says(&warned, 0, &["warning", "5 characters"]);
    let mut damaged = fs::read(demo.path("farm.backup")).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(demo.path("damaged.backup"), damaged).unwrap();
    for command in ["restore", "drill"] {
        let wrong = secret(&demo, &[command, "farm.backup", "--passphrase-file", "wrong"]);
        says(&wrong, 6, &["farm.backup does not open: the passphrase in wrong is wrong"]);
        let none = secret(&demo, &[command, "rcmpd.toml", "--passphrase-file", "pass"]);
        says(&none, 6, &["rcmpd.toml is not a backup of `rcmpd sso secret backup`"]);
        let damaged = secret(&demo, &[command, "damaged.backup", "--passphrase-file", "pass"]);
        says(&damaged, 6, &["damaged.backup cannot be used: the backup is damaged"]);
    }
}

#[test]
fn cause_of_an_error_is_printed_once() {
    let demo = Demo::with_master_secret();
    fs::remove_file(demo.path("sso/seal.key")).unwrap();
    let sealed = demo.rcmpd(&["sso", "secret", "rotate", "-c", "rcmpd.toml"]);
    says(&sealed, 1, &["the master secret is sealed", "seal.key is missing"]);
    let few = demo.rcmpd(&["sso", "secret", "seal-key", "s", "--shares", "2", "--threshold", "3"]);
    says(&few, 2, &["--threshold 3 is more than --shares 2"]);
    let exists = demo.rcmpd(&["sso", "secret", "seal-key", "rcmpd.toml"]);
    says(&exists, 1, &["File exists"]);
}

#[test]
fn refused_client_says_what_the_code_means() {
    let service = Demo::with_master_secret().serve();
    write_secret(service.path("wrong.password"), "wrong\n");
    let get = |server: &str, user: &str, password: &str| {
        let command = ["sso", "secret", "get", "--server", server, "--output", "a.key", "--user", user];
        service.rcmpd(&[&command[..], &["--password-file", password]].concat())
    };
    let server = service.master_secret().to_string();
    let bob = get(&server, "bob", "users/bob.password");
    says(&bob, 3, &["SSO_E_ACCESSDENIED", "bob is no SSO administrator of that server"]);
    let wrong = get(&server, "alice", "wrong.password");
    says(&wrong, 5, &["not authenticated: wrong user or password", "(authentication_refused)"]);
    let with_domain = get(&server, r"CONTOSO\alice", "users/alice.password");
    says(&with_domain, 2, &["give --user alice --domain CONTOSO"]);
    let netlogon = get(&service.netlogon.to_string(), "alice", "users/alice.password");
    says(&netlogon, 5, &["this port does not serve the master secret; is it a port of [sso] listen?"]);
    // A web server answers what it does not understand.
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = web.local_addr().unwrap().to_string();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = web.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    let http = get(&address, "alice", "users/alice.password");
    says(&http, 5, &["this port does not serve the master secret"]);
    answering.join().unwrap();
    let existing = get(&server, "alice", "users/alice.password").code(0);
    assert!(existing.stderr.is_empty(), "{existing:?}");
    says(&get(&server, "alice", "users/alice.password"), 1, &["a.key", "is not overwritten"]);
}

#[test]
fn node_writes_its_cached_key_without_a_server() {
    let mut service = Demo::with_master_secret().serve();
    let made = service.rcmpd(&["sso", "secret", "seal-key", "node.key"]).code(0);
    let absolute = service.path("node.key").canonicalize().unwrap().display().to_string();
    assert!(made.stdout.contains(&format!("seal = \"file:{absolute}\"")), "{made:?}");
    assert!(made.stdout.contains("On a node: --unseal file:node.key"), "{made:?}");
    let server = service.master_secret().to_string();
    let cache = ["sso", "secret", "get", "--cache", "node.keys", "--unseal", "file:node.key"];
    let client = ["--user", "alice", "--password-file", "users/alice.password"];
    let delivered = ["--server", &server, "--output", "delivered.key"];
    service.rcmpd(&[&cache[..], &client, &delivered].concat()).code(0);
    service.kill();
    service.rcmpd(&cache).code(2);
    let done = service.rcmpd(&[&cache[..], &["--output", "k"]].concat()).code(0);
    assert!(done.stdout.contains("from the cache"), "{done:?}");
    assert_eq!(fs::read(service.path("k")).unwrap(), fs::read(service.path("delivered.key")).unwrap());
    service.rcmpd(&[&cache[..], &["--watch", "--output", "l"]].concat()).code(2);
    // A server takes it over.
    let taken = service.rcmpd(&["sso", "secret", "import", "k", "-c", "rcmpd.toml"]);
    says(&taken, 1, &["in use already"]);
}
