//! `rcmpd tlsnego call` beside a service with an application that echoes: exit codes, what is printed, and
//! what is sent a second time.

use crate::tlsnego_host::*;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use rcmpd_tests::{binary, write_secret};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;
use tlsnego_service::session::Credential;
use tlsnego_soap::server::Binding;

const SESSION: Binding = Binding { negotiate: true, establish: true };

/// The files of a user.
struct Files {
    folder: TempDir,
    certificates: Arc<Certificates>,
}

impl Files {
    fn new() -> Self {
        let certificates =
            Certificates { service: Pair::new("service.example"), client: Pair::new("client.example") };
        let files = Self { folder: tempfile::tempdir().unwrap(), certificates: Arc::new(certificates) };
        for (name, pair) in [("service", &files.certificates.service), ("client", &files.certificates.client)]
        {
            fs::write(files.path(&format!("{name}.pem")), pem("CERTIFICATE", &pair.der)).unwrap();
            write_secret(files.path(&format!("{name}.key")), pem("PRIVATE KEY", pair.key().secret_der()));
        }
        write_secret(files.path("password"), PASSWORD);
        write_secret(files.path("wrong.password"), "another one");
        fs::write(files.path("echo.xml"), "<Echo xmlns='urn:echo'>hello</Echo>").unwrap();
        fs::write(files.path("fail.xml"), "<Echo xmlns='urn:echo'>fail</Echo>").unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `rcmpd tlsnego call` with these arguments, in the folder, beside hosts that go on.
    fn call(&self, url: &str, arguments: &str) -> Called {
        tokio::task::block_in_place(|| {
            let mut child = Command::new(binary())
                .args(["tlsnego", "call", url, "--to", TO])
                .args(arguments.split_whitespace())
                .current_dir(self.folder.path())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            // Where it reads no input, it may have ended.
            let _ = child.stdin.take().unwrap().write_all(b"<Echo xmlns='urn:echo'>from input</Echo>");
            let output = child.wait_with_output().unwrap();
            Called {
                code: output.status.code().unwrap(),
                out: String::from_utf8(output.stdout).unwrap(),
                said: String::from_utf8(output.stderr).unwrap(),
            }
        })
    }
}

#[derive(Debug)]
struct Called {
    code: i32,
    out: String,
    said: String,
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

async fn listening(host: &Arc<Host>) -> (Listening, String) {
    let listening = listen(host, ([127, 0, 0, 1], 0).into(), None).await;
    let url = format!("http://{}/echo", listening.address);
    (listening, url)
}

const ECHO: &str = "--action urn:echo --body echo.xml --ca service.pem";
const USER_OPTIONS: &str = "--user alice --password-file password";

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_is_printed_in_each_binding_with_each_credential() {
    let files = Files::new();
    let rows = [
        ("session", true, true),
        ("negotiated", true, false),
        ("preset-session", false, true),
        ("one-shot", false, false),
    ];
    for (name, negotiate, establish) in rows {
        for (credential, options) in [
            (Credential::None, ""),
            (Credential::UserName, USER_OPTIONS),
            (Credential::Certificate, "--cert client.pem --key client.key"),
        ] {
            let host = Host::plain(&files.certificates, Binding { negotiate, establish }, credential);
            let (_listening, url) = listening(&host).await;
            let options = format!(
                "--action urn:echo --body - --server-cert service.pem --binding {name} --tls13 {options}"
            );
            let called = files.call(&url, &options);
            assert_eq!(called.code, 0, "{name} {credential:?}: {called:?}");
            assert!(called.out.contains(">from input</Echo>") && called.said.is_empty(), "{called:?}");
            assert_eq!(host.ran(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_outcome_has_an_exit_code_of_its_own() {
    let files = Files::new();
    let plain = Host::plain(&files.certificates, SESSION, Credential::UserName);
    let (_plain, url) = listening(&plain).await;
    let is = |arguments: &str, code: i32, words: &str| {
        let called = files.call(&url, arguments);
        assert_eq!(called.code, code, "{arguments}: {called:?}");
        assert!(called.said.contains(words), "{arguments}: {called:?}");
        called
    };
    is(&format!("{ECHO} {USER_OPTIONS}"), 0, "");
    // A fault of the application is verified, and is printed like a reply.
    let fault = "--action urn:echo --body fail.xml --ca service.pem";
    let called = is(&format!("{fault} {USER_OPTIONS}"), 3, "the application answered with a fault");
    assert!(called.out.contains(":Fault>"), "{called:?}");
    let one_way = "--action urn:one-way --body echo.xml --ca service.pem";
    is(&format!("{one_way} {USER_OPTIONS} --one-way"), 0, "which nothing authenticates");
    is(&format!("{one_way} {USER_OPTIONS}"), 7, "not authenticated: ");

    // A wrong password is sent once.
    let before = plain.messages.load(Ordering::SeqCst);
    let wrong = "--user alice --password-file wrong.password --count 5";
    let called = is(&format!("{ECHO} {wrong}"), 7, "not authenticated: FailedAuthentication");
    assert!(called.said.contains("may be wrong") && called.said.contains("4 were not made"), "{called:?}");
    assert_eq!(plain.messages.load(Ordering::SeqCst) - before, 3, "two legs and RST/SCT");

    // A certificate that does not lead to the CA, or is not the one that is known: one leg, and no user name.
    let before = plain.messages.load(Ordering::SeqCst);
    let rejected = "the certificate of the service is rejected";
    for trust in ["--ca client.pem", "--server-cert client.pem"] {
        is(&format!("--action urn:echo --body echo.xml {trust} {USER_OPTIONS}"), 7, rejected);
    }
    // --to is another host than that of the certificate.
    let localhost = Certificates { service: Pair::new("localhost"), client: Pair::new("client.example") };
    let localhost = Arc::new(localhost);
    let other = Host::plain(&localhost, SESSION, Credential::UserName);
    let (_other, other_url) = listening(&other).await;
    fs::write(files.path("localhost.pem"), pem("CERTIFICATE", &localhost.service.der)).unwrap();
    let called = files
        .call(&other_url, &format!("--action urn:echo --body echo.xml --ca localhost.pem {USER_OPTIONS}"));
    assert!(called.code == 7 && called.said.contains(rejected), "{called:?}");
    let sent = plain.messages.load(Ordering::SeqCst) - before + other.messages.load(Ordering::SeqCst);
    assert_eq!(sent, 3, "a first leg each");

    let nowhere = format!("http://{UNUSED}/");
    let called = files.call(&nowhere, &format!("{ECHO} {USER_OPTIONS}"));
    assert!(called.code == 4 && called.said.contains("cannot reach the service"), "{called:?}");

    is("--action urn:echo --body missing.xml --ca service.pem", 6, "missing.xml");
    is("--action urn:echo --body echo.xml --ca missing.pem", 6, "missing.pem");
    is("--action urn:echo --body password --ca service.pem", 6, "the XML is not well-formed");
    is(&format!("{ECHO} --cert client.pem --key service.key"), 6, "service.key");
    is("--action urn:echo --body - --ca service.pem --user alice --password-file -", 2, "standard input");
    is(&format!("{ECHO} --binding one-shot"), 2, "--server-cert");
    for (url, words) in
        [("https://127.0.0.1:1/", "--https-ca"), ("ftp://a/", "http"), ("http://a@b/", "http")]
    {
        let arguments = "--action urn:echo --body echo.xml --server-cert service.pem";
        let called = files.call(url, arguments);
        assert!(called.code == 2 && called.said.contains(words), "{called:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_web_server_of_an_https_url_is_checked_beside_the_service() {
    let files = Files::new();
    let host = Host::plain(&files.certificates, SESSION, Credential::UserName);
    let web = Pair::new("localhost");
    fs::write(files.path("web.pem"), pem("CERTIFICATE", &web.der)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![web.der.clone().into()], web.key())
        .unwrap();
    let listening = listen(&host, ([127, 0, 0, 1], 0).into(), Some(Arc::new(tls))).await;
    let url = format!("https://localhost:{}/echo", listening.address.port());
    let called = files.call(&url, &format!("{ECHO} {USER_OPTIONS} --https-ca web.pem"));
    assert_eq!(called.code, 0, "{called:?}");
    // --ca is for both unless --https-ca is there.
    let called = files.call(&url, &format!("{ECHO} {USER_OPTIONS}"));
    assert!(called.code == 4 && called.said.contains("certificate"), "{called:?}");
    assert_eq!(host.ran(), 1);
}

/// What an attacker between client and service writes, who has no key.
fn forged(body: &str) -> Vec<u8> {
    format!(
        "<s:Envelope xmlns:s='http://www.w3.org/2003/05/soap-envelope' xmlns:a='http://www.w3.org/2005/08/addressing'>\
         <s:Header><a:Action>urn:echoResponse</a:Action></s:Header><s:Body>{body}</s:Body></s:Envelope>"
    )
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forged_is_neither_printed_nor_taken_for_a_fault_of_the_application() {
    let files = Files::new();
    let fault = "<s:Fault><s:Code><s:Value>s:Sender</s:Value></s:Code><s:Reason><s:Text xml:lang='en'>forged text</s:Text></s:Reason></s:Fault>";
    for body in [fault, "<Echo xmlns='urn:echo'>forged text</Echo>"] {
        // The reply to the first call does not arrive.
        let is_forged = AtomicBool::new(false);
        let change = move |host: &Host, _: &[u8], status, reply| match host.ran() {
            1 if !is_forged.swap(true, Ordering::SeqCst) => Way::Sent(StatusCode::OK, forged(body)),
            _ => Way::Sent(status, reply),
        };
        let host = Host::new(&files.certificates, SESSION, Credential::UserName, now, change);
        let (_listening, url) = listening(&host).await;
        let called = files.call(&url, &format!("{ECHO} {USER_OPTIONS}"));
        assert_eq!(called.code, 7, "{called:?}");
        assert!(called.said.contains("not authenticated: ") && called.out.is_empty(), "{called:?}");
        assert_eq!(host.ran(), 1);
        let called = files.call(&url, &format!("{ECHO} {USER_OPTIONS}"));
        assert_eq!(called.code, 0, "a client whose messages arrive is served: {called:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_calls_over_a_restart_run_a_hundred_times() {
    let files = Files::new();
    let is_lost = AtomicBool::new(false);
    let host =
        Host::new(&files.certificates, SESSION, Credential::UserName, now, move |host, _, status, body| {
            if host.ran() == 30 && !is_lost.swap(true, Ordering::SeqCst) {
                host.restart();
            }
            Way::Sent(status, body)
        });
    let (_listening, url) = listening(&host).await;
    let called = files.call(&url, &format!("{ECHO} {USER_OPTIONS} --count 100 --json"));
    assert_eq!(called.code, 0, "{}", called.said);
    assert!(called.said.contains("100 of 100 calls have a reply"), "{}", called.said);
    let value: Value = serde_json::from_str(&called.out).unwrap();
    assert_eq!(value["replies"], 100);
    assert!(value["calls"].as_array().unwrap().iter().all(|call| call["outcome"] == "reply"));
    assert_eq!(host.ran(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_shows_each_message_and_no_secret() {
    let files = Files::new();
    let host = Host::plain(&files.certificates, SESSION, Credential::UserName);
    let (_listening, url) = listening(&host).await;
    let called = files.call(&url, &format!("{ECHO} {USER_OPTIONS} --trace"));
    assert_eq!(called.code, 0, "{called:?}");
    println!("{}", called.said);
    let trust = "http://schemas.xmlsoap.org/ws/2005/02/trust";
    for words in [
        &format!("#1   sent          {trust}/RST/Issue"),
        "TLS           ClientHello\n",
        "TLS           ServerHello, Certificate, ServerKeyExchange, ServerHelloDone\n",
        "TLS           ClientKeyExchange, ChangeCipherSpec, Finished (encrypted)\n",
        "TLS           ChangeCipherSpec, Finished (encrypted)\n",
        "4.1           token urn:uuid:",
        "4.2           authenticator of 32 octets\n",
        "4.2           the authenticator matches the messages\n",
        "session       negotiated urn:uuid:",
        &format!("#5   sent          {trust}/RST/SCT, "),
        "label WS-SecureConversationWS-SecureConversation, offset 0, length 24\n",
        "(hmac-sha1): s:Body, a:Action, ",
        "(aes256-cbc): content of s:Body, o:UsernameToken, Signature\n",
        "session       established urn:uuid:",
        "#7   sent          urn:echo, ",
        "#8   received      urn:echoResponse, ",
        "cancelled     urn:uuid:",
    ] {
        assert!(called.said.contains(words), "{words}\n{}", called.said);
    }
    let json = files.call(&url, &format!("{ECHO} {USER_OPTIONS} --trace --json"));
    let lines: Vec<Value> = json.said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let sent = lines.iter().filter(|line| line["event"] == "sent").count();
    assert_eq!(sent, 5, "two legs, RST/SCT, the call, Cancel: {}", json.said);
    assert_eq!(lines[0]["tls"][0], "ClientHello");
    let kinds: Vec<_> = lines.iter().filter_map(|line| line["session"]["kind"].as_str()).collect();
    assert_eq!(kinds, ["negotiated", "established"]);
    for said in [&called.said, &json.said] {
        assert!(!said.contains(PASSWORD) && !said.contains("hello"), "{said}");
    }
}
