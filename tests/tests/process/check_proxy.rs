//! The page behind a proxy, and what `rcmpd check-proxy` says when there is nothing to check.

use rcmpd_tests::ports::free_port;
use rcmpd_tests::{Demo, binary};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Write, read_to_string};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A debug build on a busy machine is slow, and not more wrong for it.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// A running `rcmpd page`.
struct Page {
    child: Child,
    log: PathBuf,
}

impl Page {
    fn serve(demo: &Demo, arguments: &[&str]) -> Self {
        let log = demo.path("page.log");
        let child = Command::new(binary())
            .arg("page")
            .args(arguments)
            .current_dir(demo.path(""))
            .stdin(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut page = Self { child, log };
        let deadline = Instant::now() + PATIENCE;
        while page.addresses().len() < arguments.iter().filter(|word| word.starts_with("--")).count() {
            assert!(page.child.try_wait().unwrap().is_none(), "{}", page.said());
            assert!(Instant::now() < deadline, "{}", page.said());
            std::thread::sleep(POLL);
        }
        page
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn addresses(&self) -> Vec<String> {
        let said = self.said();
        let whole = said.lines().filter(|_| said.ends_with('\n'));
        whole.filter_map(|line| Some(line.split_once("address=")?.1.trim().to_owned())).collect()
    }

    fn ended(mut self) -> i32 {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status.code().unwrap_or(-1),
                None => assert!(Instant::now() < deadline, "it does not end: {}", self.said()),
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn asked(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    read_to_string(stream).unwrap()
}

fn told(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[test]
fn the_page_shows_what_it_is_told_over_both_sockets_and_ends_when_it_is_told_to() {
    let demo = Demo::new();
    let page = Page::serve(&demo, &["--listen", "127.0.0.1:0", "--unix", "page.sock"]);
    let request = "GET /a HTTP/1.1\r\nRemote-User: alice\r\nremote_user: x\r\nConnection: close\r\n\r\n";
    let expected = json!({
        "page": "rcmpd",
        "method": "GET",
        "target": "/a",
        "headers": [["Remote-User", "alice"], ["remote_user", "x"], ["Connection", "close"]],
        "trailers": [],
    });
    let address = page.addresses().remove(0);
    assert_eq!(told(&asked(TcpStream::connect(&address).unwrap(), request)), expected);
    let socket = demo.path("page.sock");
    assert_eq!(told(&asked(UnixStream::connect(&socket).unwrap(), request)), expected);
    let answer = asked(TcpStream::connect(&address).unwrap(), "HEAD / HTTP/1.0\r\n\r\n");
    assert!(answer.ends_with("\r\n\r\n") && answer.contains("X-Rcmpd-Page: rcmpd"), "{answer}");
    assert_eq!(page.ended(), 0);
    assert!(!socket.exists());
}

#[test]
fn the_page_is_for_trial_and_for_nothing_else() {
    let demo = Demo::new();
    let done = demo.rcmpd(&["page", "--listen", "0.0.0.0:0"]).code(1);
    assert!(done.stderr.contains("--anywhere"), "{done:?}");
    let help = demo.rcmpd(&["page", "--help"]).code(0);
    let words: Vec<&str> = help.stdout.split_whitespace().collect();
    assert!(words.join(" ").contains("use it for tests only"), "{help:?}");
    // A file that is there already stays.
    let done = demo.rcmpd(&["page", "--unix", "rcmpd.toml"]).code(1);
    assert!(done.stderr.contains("rcmpd.toml") && demo.path("rcmpd.toml").exists(), "{done:?}");
}

#[test]
fn a_proxy_that_cannot_be_checked_is_not_clean() {
    let demo = Demo::new();
    let check = |url: &str, more: &[&str]| {
        let arguments =
            ["check-proxy", url, "--certificate", "certs/alice.pem", "--key", "certs/alice.key", "--json"];
        demo.rcmpd(&[&arguments[..], more].concat())
    };
    let url = format!("https://{}/", free_port());
    let done = check(&url, &[]).code(2);
    assert!(done.stderr.contains("--ca"), "{done:?}");
    check(&url.replace("https", "http"), &["--ca", "certs/ca.pem"]).code(2);
    assert_eq!(check(&url, &["--ca", "certs/ca.pem"]).code(4).json()["exit_code"], 4);
    let done = check(&url, &["--ca", "certs/alice.key"]).code(6);
    assert!(done.stderr.contains("certs/alice.key"), "{done:?}");
    // Without TLS no client can show a certificate, and what was not tried is not good.
    let page = Page::serve(&demo, &["--listen", "127.0.0.1:0"]);
    let address = page.addresses().remove(0);
    let port = address.rsplit(':').next().unwrap();
    let done = check(&format!("https://{address}/"), &["--trust-any-server", "--plain-port", port]).code(3);
    let report = done.json();
    assert_eq!((&report["page"], &report["exit_code"]), (&json!(false), &json!(3)));
    let checks = report["checks"].as_array().unwrap();
    let verdict = |name: &str| checks.iter().find(|check| check["name"] == name).unwrap()["verdict"].clone();
    assert_eq!((verdict("certificate"), verdict("plain-http")), (json!("not_checked"), json!("leak")));
    let counted: u64 = report["counts"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(counted, checks.len() as u64);
    // Neither a key nor a certificate is ever shown.
    for file in ["certs/alice.key", "certs/alice.pem"] {
        let pem = fs::read_to_string(demo.path(file)).unwrap();
        let line = pem.lines().nth(1).unwrap();
        assert!(!done.stdout.contains(line) && !done.stderr.contains(line), "{done:?}");
    }
}

/// The names of identity headers are those of the sidecar's configuration.
#[test]
fn names_of_the_operator_are_checked() {
    let demo = Demo::new();
    let page = Page::serve(&demo, &["--listen", "127.0.0.1:0"]);
    let (behind, address) = (page.addresses().remove(0), free_port());
    demo.configure(&format!(
        "[sidecar]\nheaders = \"none\"\n[sidecar.header_names]\nuser = \"X-WEBAUTH-USER\"\ndecision = \"X-Decision\"\n\
         [sidecar.proxy]\nlisten = \"{address}\"\ncertificate = \"certs/site.pem\"\nkey = \"certs/site.key\"\n\
         upstream = \"http://{behind}\""
    ));
    let service = demo.serve();
    let url = format!("https://localhost:{}/", address.port());
    let check = |more: &[&str]| {
        let arguments = ["check-proxy", &url, "--certificate", "certs/alice.pem", "--key", "certs/alice.key"];
        let rest = ["--ca", "certs/ca.pem", "--plain-port", "1", "--timeout", "20", "--json"];
        let expected = ["--expect-user", "CONTOSO\\alice"];
        service.rcmpd(&[&arguments[..], &rest, &expected, more].concat())
    };
    // No header that is known without the file has this name.
    let without = check(&[]).code(3).json();
    assert_eq!(without["checks"][0]["verdict"], "leak", "{without:#}");
    let with = check(&["-c", "rcmpd.toml"]).code(0).json();
    assert_eq!(with["counts"]["leak"], 0, "{with:#}");
    service.paste(r"sed '/^\[sidecar/,$d' rcmpd.toml > bare.toml").code(0);
    let done = check(&["-c", "bare.toml"]).code(6);
    assert!(done.stderr.contains("has no [sidecar]"), "{done:?}");
    check(&["-c", "nothing.toml"]).code(2);
}

/// Another page than `rcmpd page`, which says hello to each request.
fn another_page() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 8192]);
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
                let _ = stream.write_all(answer.as_bytes());
            });
        }
    });
    address
}

#[test]
fn what_was_not_seen_is_not_clean_and_a_wrong_name_is_called_one() {
    let demo = Demo::new();
    let (page, address) = (another_page(), free_port());
    demo.configure(&format!(
        "[sidecar]\n[sidecar.proxy]\nlisten = \"{address}\"\ncertificate = \"certs/site.pem\"\n\
         key = \"certs/site.key\"\nupstream = \"http://{page}\""
    ));
    let service = demo.serve();
    let check = |url: &str, more: &[&str]| {
        let arguments = ["check-proxy", url, "--certificate", "certs/alice.pem", "--key", "certs/alice.key"];
        let gone = free_port().port().to_string();
        let rest = ["--ca", "certs/ca.pem", "--plain-port", &gone, "--timeout", "60", "--json"];
        service.rcmpd(&[&arguments[..], &rest, more].concat())
    };
    let report = check(&format!("https://localhost:{}/", address.port()), &[]).code(7).json();
    let checks = report["checks"].as_array().unwrap();
    let certificate = checks.iter().find(|check| check["name"] == "certificate").unwrap();
    assert_eq!((&certificate["verdict"], &report["exit_code"]), (&json!("not_seen"), &json!(7)));
    // The certificate is for localhost, and the CA is the right one.
    let connect = address.to_string();
    let done = check("https://app.example/", &["--connect", &connect]).code(4);
    assert!(done.stderr.contains("localhost") && done.stderr.contains("app.example"), "{done:?}");
    assert!(!done.stderr.contains("--ca"), "{done:?}");
}
