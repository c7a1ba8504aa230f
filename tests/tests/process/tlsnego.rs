//! The gateway for SOAP clients as its operators and the service behind it see it.

use crate::telemetry::{Collector, attribute};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dtyp::{FileTime, hex};
use rcmpd_tests::ports::free_port;
use rcmpd_tests::soap::{Endpoint, SOAP, Upstream, echoed, envelope, http, open_all_bindings, post};
use rcmpd_tests::{Demo, Finished, Service, binary, eventually, write_secret};
use rustix::process::Signal;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha1::{Digest, Sha1};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tlsnego_service::freshness::Skew;
use tlsnego_soap::TrustVersion;
use tlsnego_soap::client::{Client, Proof, Under};
use xml_security::{Certificate, ParseLimits, Suite, UsernameToken};

/// Calls as a user of the demo, with our own client.
fn call(service: &Service, user: &str, more: &[&str]) -> Finished {
    let (url, password) = (format!("http://{}/service", service.gateway()), format!("users/{user}.password"));
    std::fs::write(service.path("body.xml"), "<Echo xmlns=\"urn:echo\">hello</Echo>").unwrap();
    let arguments =
        ["tlsnego", "call", &url, "--action", "urn:echo/Echo", "--body", "body.xml", "--user", user];
    service.rcmpd(&[&arguments[..], &["--password-file", &password, "--ca", "certs/ca.pem"], more].concat())
}

#[test]
fn service_gets_the_signed_action_and_nothing_of_a_client_s_headers() {
    let upstream = Upstream::start(|_| echoed());
    let service = Demo::with_gateway(upstream.address, "").serve();
    let called = call(&service, "alice", &[]).code(0);
    assert!(called.stdout.contains("good"), "{called:?}");
    let [asked] = &upstream.asked()[..] else { panic!("{:?}", upstream.asked()) };
    let lower = asked.to_ascii_lowercase();
    assert!(asked.starts_with("POST /service HTTP/1.1\r\n"), "{asked}");
    assert!(
        lower.contains("content-type: application/soap+xml; charset=utf-8; action=\"urn:echo/echo\"\r\n"),
        "{asked}"
    );
    assert!(asked.ends_with(">hello</Echo></s:Body></s:Envelope>"), "{asked}");
    assert!(!lower.contains("o:security") && !lower.contains("encrypteddata"), "{asked}");
    for (name, value) in [
        ("remote-user", "CONTOSO\\alice"),
        ("x-session-kind", "established"),
        ("x-identity-account", "alice"),
    ] {
        let found: Vec<_> =
            asked.lines().filter(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:"))).collect();
        assert_eq!(found.len(), 1, "{name}: {asked}");
        assert!(found[0].ends_with(value), "{name}: {asked}");
    }
}

#[test]
fn headers_that_a_client_forges_reach_no_service() {
    let upstream = Upstream::start(|_| echoed());
    let demo = Demo::with_gateway(upstream.address, "");
    open_all_bindings(&demo, "username");
    let service = demo.serve();
    let message = one_shot(&service, Duration::ZERO);
    let forged = [
        "Remote-User: evil",
        "Remote-Groups: evil",
        "X-Identity-Account: evil",
        "X-Session-Name: evil",
        "X-Session-Kind: evil",
        "X-Session-Instance: evil",
        "x-session-name: evil",
        "SOAPAction: evil",
    ];
    let mut arguments: Vec<_> = forged.iter().flat_map(|header| ["-H", header]).collect();
    let typed = format!("Content-Type: {SOAP}; action=\"evil\"");
    std::fs::write(service.path("message.xml"), &message).unwrap();
    let body = format!("@{}", service.path("message.xml").display());
    arguments.extend(["-H", &typed, "--data-binary", &body]);
    let (status, answer) = post(&service.gateway().to_string(), &arguments);
    assert_eq!(status, "200", "{answer}");
    let [asked] = &upstream.asked()[..] else { panic!("{:?}", upstream.asked()) };
    assert!(!asked.contains("evil"), "{asked}");
    let name = name_of_one_shot(&message);
    for (header, value) in [
        ("remote-user", "CONTOSO\\alice"),
        ("x-identity-account", "alice"),
        ("x-session-name", name.as_str()),
        ("x-session-kind", "one-shot"),
        ("x-session-instance", ""),
    ] {
        let values: Vec<_> = asked
            .lines()
            .filter_map(|line| line.split_once(": ").or_else(|| line.split_once(':')))
            .filter(|(found, _)| found.eq_ignore_ascii_case(header))
            .map(|(_, value)| value.trim())
            .collect();
        assert_eq!(values, [value], "{header}: {asked}");
    }
}

/// EncryptedKeySHA1 (WSS X.509 Token Profile 1.1): the SHA-1 of the encrypted key.
fn name_of_one_shot(message: &[u8]) -> String {
    let text = std::str::from_utf8(message).unwrap();
    let (_, key) = text.split_once("EncryptedKey ").unwrap();
    let (_, key) = key.split_once("CipherValue>").unwrap();
    let (key, _) = key.split_once('<').unwrap();
    STANDARD.encode(Sha1::digest(STANDARD.decode(key).unwrap()))
}

#[test]
fn what_is_no_answer_of_a_service_is_a_secured_fault() {
    let upstream = Upstream::start(|n| match n {
        0 => http("500 Internal Server Error", "text/html", "<html>oops</html>"),
        1 => http("200 OK", SOAP, "<not xml"),
        2 => http("200 OK", "text/plain", "hello"),
        3 => http("502 Bad Gateway", SOAP, &envelope("<EchoResponse xmlns=\"urn:echo\"/>")),
        4 => "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx\0".to_owned(),
        5 => http(
            "500 Internal Server Error",
            SOAP,
            &envelope(
                "<s:Fault><s:Code><s:Value>s:Receiver</s:Value></s:Code><s:Reason><s:Text xml:lang=\"en\">out of paper</s:Text></s:Reason></s:Fault>",
            ),
        ),
        6 => "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_owned(),
        7 => String::new(),
        _ => echoed(),
    });
    let service = Demo::with_gateway(upstream.address, "upstream_timeout_s = 1").serve();
    // A page in HTML, bad XML, another type, an error status without a fault, half an answer.
    for n in 0..5 {
        let refused = call(&service, "alice", &[]).code(3);
        let text = format!("{}{}", refused.stdout, refused.stderr);
        assert!(text.contains("The service could not process the message."), "{n}: {refused:?}");
        assert!(!text.contains("oops"), "{n}: {refused:?}");
    }
    let fault = call(&service, "alice", &[]).code(3);
    assert!(format!("{}{}", fault.stdout, fault.stderr).contains("out of paper"), "{fault:?}");
    call(&service, "alice", &["--one-way"]).code(0);
    let late = call(&service, "alice", &[]).code(3);
    assert!(
        format!("{}{}", late.stdout, late.stderr).contains("The service did not answer in time."),
        "{late:?}"
    );
    call(&service, "alice", &[]).code(0);
    // Each reached the service once.
    assert_eq!(upstream.asked().len(), 9);
    let (_, metrics) = service.get("/metrics");
    for (result, count) in
        [("not_soap", 4), ("connection", 1), ("fault", 1), ("one_way", 1), ("timeout", 1), ("answered", 1)]
    {
        let line = format!("rcmpd_tlsnego_calls_total{{kind=\"established\",result=\"{result}\"}} {count}");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
}

#[test]
fn account_that_is_disabled_or_gets_another_password_is_refused_at_the_next_call() {
    let upstream = Upstream::start(|_| echoed());
    let service = Demo::with_gateway(upstream.address, "").serve();
    let c = ["-c", "rcmpd.toml"];
    call(&service, "alice", &["--binding", "negotiated"]).code(0);
    let old = service.password("alice");
    write_secret(service.path("new.password"), "another password\n");
    service
        .rcmpd(&[&["account", "set", "alice", "--password-file", "new.password"], &c[..]].concat())
        .code(0);
    call(&service, "alice", &["--binding", "negotiated"]).code(7);
    write_secret(service.path("users/alice.password"), "another password\n");
    call(&service, "alice", &["--binding", "negotiated"]).code(0);
    service.rcmpd(&[&["account", "set", "alice", "--disable"], &c[..]].concat()).code(0);
    for binding in ["negotiated", "session"] {
        call(&service, "alice", &["--binding", binding]).code(7);
    }
    call(&service, "bob", &[]).code(0);
    assert!(
        !service.log().contains(&old) && !service.log().contains("another password"),
        "no password is logged"
    );
}

/// What started the command that calls, by W3C Trace Context.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_spans_in_the_trace_of_their_caller_which_goes_on_to_the_service() {
    let (collector, endpoint) = Collector::listen().await;
    let asked = tokio::task::spawn_blocking(move || {
        let upstream = Upstream::start(|_| echoed());
        let mut service = Demo::with_gateway(upstream.address, "")
            .serve_with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
        std::fs::write(service.path("body.xml"), "<Echo xmlns=\"urn:echo\"/>").unwrap();
        let url = format!("http://{}/service", service.gateway());
        let status = Command::new(binary())
            .args(["tlsnego", "call", &url, "--action", "urn:echo", "--body", "body.xml", "--user", "alice"])
            .args(["--password-file", "users/alice.password", "--ca", "certs/ca.pem"])
            .env("TRACEPARENT", format!("00-{TRACE}-{PARENT}-01"))
            .current_dir(service.path(""))
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success());
        service.signal(Signal::TERM);
        assert_eq!(service.ended(), 0);
        upstream.asked()
    })
    .await
    .unwrap();
    let spans: Vec<_> = collector.spans().into_iter().filter(|span| span.name == "soap_message").collect();
    let results: Vec<_> =
        spans.iter().map(|span| attribute(&span.attributes, "result").unwrap_or_default()).collect();
    assert_eq!(results, ["leg", "opened", "opened", "answered", "cancelled"]);
    for span in &spans {
        assert_eq!((&*hex(&span.trace_id), &*hex(&span.parent_span_id)), (TRACE, PARENT));
    }
    let call = &spans[3];
    assert_eq!(attribute(&call.attributes, "session.kind").as_deref(), Some("established"));
    let [asked] = &asked[..] else { panic!("{asked:?}") };
    let parent = format!("traceparent: 00-{TRACE}-{}-01", hex(&call.span_id));
    assert!(asked.lines().any(|line| line == parent), "{parent}: {asked}");
}

#[test]
fn plain_client_calls_through_a_local_endpoint_and_pages_of_browsers_do_not() {
    let upstream = Upstream::start(|n| match n {
        3 => http(
            "500 Internal Server Error",
            SOAP,
            &envelope(
                "<s:Fault><s:Code><s:Value>s:Receiver</s:Value></s:Code><s:Reason><s:Text xml:lang=\"en\">out of paper</s:Text></s:Reason></s:Fault>",
            ),
        ),
        4 => "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_owned(),
        _ => echoed(),
    });
    let service = Demo::with_gateway(upstream.address, "").serve();
    let (url, endpoint) = (format!("http://{}/service", service.gateway()), free_port().to_string());
    let arguments = ["tlsnego", "endpoint", &url, "--listen", &endpoint, "--user", "alice"];
    let mut child = Command::new(binary())
        .args(arguments)
        .args(["--password-file", "users/alice.password", "--ca", "certs/ca.pem"])
        .current_dir(service.path(""))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the endpoint listens", || std::net::TcpStream::connect(&endpoint).is_ok());
    let plain = envelope("<Echo xmlns=\"urn:echo\">hello</Echo>");
    let typed = format!("Content-Type: {SOAP}; action=\"urn:echo/Echo\"");
    // With the action of the media type, and with that of WS-Addressing.
    let (status, body) = post(&endpoint, &["-H", &typed, "-d", &plain]);
    assert_eq!(status, "200", "{body}");
    assert!(body.contains(">good</EchoResponse>") && !body.contains("Security"), "{body}");
    let addressed = plain.replace(
        "<s:Body>",
        "<s:Header><a:Action xmlns:a=\"http://www.w3.org/2005/08/addressing\">urn:other</a:Action>\
         <a:MessageID xmlns:a=\"http://www.w3.org/2005/08/addressing\">urn:a</a:MessageID></s:Header><s:Body>",
    );
    let (status, body) = post(&endpoint, &["-H", &format!("Content-Type: {SOAP}"), "-d", &addressed]);
    assert_eq!(status, "200", "{body}");
    assert!(body.contains("urn:otherResponse") && body.contains(":RelatesTo>urn:a<"), "{body}");
    // The session is one.
    post(&endpoint, &["-H", &typed, "-d", &plain]);
    assert_eq!(service.audit("session_opened").len(), 1);
    let (status, body) = post(&endpoint, &["-H", &typed, "-d", &plain]);
    assert!(status == "500" && body.contains("out of paper"), "{status} {body}");
    assert_eq!(post(&endpoint, &["-H", &typed, "-d", &plain]), ("202".to_owned(), String::new()));
    // What a page in a browser, or a client of another protocol, would send.
    for (arguments, expected) in [
        (&["-H", &typed, "-H", "Origin: https://evil.example", "-d", &plain][..], "403"),
        (&["-H", &typed, "-H", "Host: evil.example", "-d", &plain], "403"),
        (&["-H", "Content-Type: text/plain", "-d", &plain], "415"),
        (&[], "405"),
        (&["-X", "OPTIONS"], "405"),
        (&["-H", &typed, "-d", "hello"], "400"),
        (&["-H", &format!("Content-Type: {SOAP}"), "-d", &plain], "400"),
    ] {
        assert_eq!(post(&endpoint, arguments).0, expected, "{arguments:?}");
    }
    assert_eq!(upstream.asked().len(), 5, "nothing of that reached the service");
    assert!(
        upstream.asked()[0].contains("action=\"urn:echo/Echo\"") && upstream.asked()[1].contains("urn:other")
    );
    let process = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(process, Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(service.audit("session_ended")[0]["reason"], "cancelled");
    let refused =
        service.rcmpd(&["tlsnego", "endpoint", &url, "--listen", "0.0.0.0:1", "--ca", "certs/ca.pem"]);
    assert!(refused.code(2).stderr.contains("use a loopback address"));
}

#[test]
fn session_ends_when_its_account_is_disabled_or_has_another_password() {
    let upstream = Upstream::start(|_| echoed());
    let service = Demo::with_gateway(upstream.address, "").serve();
    let set = |arguments: &[&str]| {
        service.rcmpd(&[&["account", "set"], arguments, &["-c", "rcmpd.toml"]].concat()).code(0);
    };
    let (alice, bob) = (Endpoint::start(&service, "alice"), Endpoint::start(&service, "bob"));
    assert_eq!((alice.call(), bob.call()), ("200".to_owned(), "200".to_owned()));
    write_secret(service.path("new.password"), "another password\n");
    set(&["alice", "--password-file", "new.password"]);
    set(&["bob", "--disable"]);
    let before = upstream.asked().len();
    assert_eq!((alice.call(), bob.call()), ("500".to_owned(), "500".to_owned()));
    // Enabled again, the old session stays ended, and another one is opened.
    set(&["bob", "--enable"]);
    assert_eq!(upstream.asked().len(), before);
    assert_eq!(bob.call(), "200");
    eventually("both sessions ended for their accounts", || {
        service.audit("session_ended").iter().filter(|line| line["reason"] == "account").count() == 2
    });
    // The log does not blame the service.
    let log = service.log();
    assert!(log.contains("A call was refused: its account may not be used"), "{log}");
    assert!(!log.contains("A call got no answer of the service"), "{log}");
}

/// Calls by a certificate of the demo.
fn call_by_certificate(service: &Service, who: &str) -> Finished {
    let url = format!("http://{}/service", service.gateway());
    let [certificate, key] = ["pem", "key"].map(|end| format!("certs/{who}.{end}"));
    std::fs::write(service.path("body.xml"), "<Echo xmlns=\"urn:echo\"/>").unwrap();
    let call =
        ["tlsnego", "call", &url, "--action", "urn:echo/Echo", "--body", "body.xml", "--ca", "certs/ca.pem"];
    service.rcmpd(&[&call[..], &["--cert", &certificate, "--key", &key]].concat())
}

/// A demo whose clients have certificates.
fn with_certificates(upstream: SocketAddr) -> Demo {
    let demo = Demo::with_gateway(upstream, "");
    demo.edit(|text| text.replace("credential  = \"username\"", "credential  = \"certificate\""));
    demo
}

#[test]
fn session_by_a_certificate_ends_when_the_certificate_is_mapped_no_more() {
    let upstream = Upstream::start(|_| echoed());
    let service = with_certificates(upstream.address).serve();
    let alice = Endpoint::start_with(&service, ["--cert", "certs/alice.pem", "--key", "certs/alice.key"]);
    assert_eq!((alice.call(), alice.call()), ("200".to_owned(), "200".to_owned()));
    assert_eq!(service.audit("session_opened").len(), 2, "the token and the session");
    // Her certificate has her UPN, by which it is mapped. The account itself stays as it is.
    service.rcmpd(&["account", "set", "alice", "--upn", "", "-c", "rcmpd.toml"]).code(0);
    assert_eq!(alice.call(), "500");
    assert_eq!(upstream.asked().len(), 2, "the call did not reach the service");
    eventually("the session ended for its account", || {
        service.audit("session_ended").iter().any(|line| line["reason"] == "account")
    });
    assert!(service.log().contains("its certificate is mapped no more"), "{}", service.log());
}

#[test]
fn certificate_without_an_account_has_one_decision_in_the_audit_log_however_often_it_is_shown() {
    let upstream = Upstream::start(|_| echoed());
    let service = with_certificates(upstream.address).serve();
    let begun = Instant::now();
    for _ in 0..5 {
        assert_ne!(call_by_certificate(&service, "mallory").code, 0);
        call_by_certificate(&service, "alice").code(0);
    }
    let decisions = service.audit("map");
    // One a minute for each of the two, and the calls need some seconds.
    let most = 1 + begun.elapsed().as_secs() as usize / 60;
    for is_mapped in [false, true] {
        let count = decisions.iter().filter(|line| line["account_sid"].is_string() == is_mapped).count();
        assert!((1..=most).contains(&count), "{decisions:?}");
    }
    assert!(decisions.iter().all(|line| line["asker"] == "tlsnego"), "{decisions:?}");
    assert_eq!(service.audit("session_opened").len(), 10, "two tokens for each session");
}

#[test]
fn guesses_at_one_account_are_slow_and_keep_no_user_out() {
    let upstream = Upstream::start(|_| echoed());
    let service = Demo::with_gateway(upstream.address, "").serve();
    let slowed = || {
        let metrics = service.get("/metrics").1;
        let count =
            metrics.lines().find_map(|line| line.strip_prefix("rcmpd_tlsnego_passwords_slowed_total "));
        count.expect("it is counted").parse::<u32>().unwrap()
    };
    let right = service.password("alice");
    for n in 0..7 {
        write_secret(service.path("users/alice.password"), format!("guess {n}\n"));
        let refused = call(&service, "alice", &[]).code(7);
        assert!(!refused.stderr.contains("busy"), "{refused:?}");
        // Five cost nothing.
        assert_eq!(slowed(), (n + 1_u32).saturating_sub(5), "{n}");
    }
    // An account that is not there is slowed in the same way.
    for n in 0..6 {
        write_secret(service.path("users/nobody.password"), format!("guess {n}\n"));
        call(&service, "nobody", &[]).code(7);
    }
    assert_eq!(slowed(), 3);
    call(&service, "bob", &[]).code(0);
    assert_eq!(slowed(), 3, "bob at the same address is not slowed");
    write_secret(service.path("users/alice.password"), format!("{right}\n"));
    call(&service, "alice", &[]).code(0);
    assert_eq!(slowed(), 4, "alice is served, late");
    assert!(service.log().contains("Passwords of an account are guessed"), "{}", service.log());
    let counted = "rcmpd_tlsnego_refused_total{reason=\"password\",fault=\"FailedAuthentication\"} 13";
    let metrics = service.get("/metrics").1;
    assert!(metrics.contains(counted), "{metrics}");
}

#[test]
fn renewed_certificates_are_shown_after_sighup_and_sessions_stay() {
    let upstream = Upstream::start(|_| echoed());
    let demo = Demo::with_gateway(
        upstream.address,
        "bindings = [\"session\", \"one-shot\"]\ntls = { certificate = \"web.pem\", key = \"web.key\" }",
    );
    demo.edit(|text| {
        text.replace("\"http://127.0.0.1:", "\"https://127.0.0.1:")
            .replace("upstream    = \"https", "upstream    = \"http")
    });
    let make = |name: &str| {
        let [certificate, key] = ["pem", "key"].map(|end| format!("{name}.{end}"));
        let request =
            ["req", "-x509", "-newkey", "rsa:2048", "-noenc", "-days", "30", "-subj", "/CN=127.0.0.1"];
        let files = [
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-out",
            &certificate,
            "-keyout",
            &key,
        ];
        rcmpd_tests::openssl::openssl(&demo.path(""), &[&request[..], &files].concat());
    };
    // One-shot messages need an RSA key.
    ["web1", "web2", "site1", "site2"].iter().for_each(|name| make(name));
    let put = |demo: &Demo, from: &str, to: &str| {
        for end in ["pem", "key"] {
            let text = std::fs::read(demo.path(&format!("{from}.{end}"))).unwrap();
            write_secret(demo.path(&format!("{to}.{end}")), text);
        }
    };
    put(&demo, "web1", "web");
    put(&demo, "site1", "certs/site");
    let both = ["web1.pem", "web2.pem"].map(|name| std::fs::read_to_string(demo.path(name)).unwrap());
    std::fs::write(demo.path("both.pem"), both.concat()).unwrap();
    let service = demo.serve();
    let url = format!("https://{}/service", service.gateway());
    let user = ["--user", "alice", "--password-file", "users/alice.password"];
    std::fs::write(service.path("body.xml"), "<Echo xmlns=\"urn:echo\"/>").unwrap();
    let call = |site: &str, web: &str, binding: &str| {
        let call =
            ["tlsnego", "call", &url, "--action", "urn:echo", "--body", "body.xml", "--binding", binding];
        let trust = ["--server-cert", site, "--https-ca", web];
        service.rcmpd(&[&call[..], &user, &trust].concat()).code
    };
    for binding in ["session", "one-shot"] {
        assert_eq!(call("site1.pem", "web1.pem", binding), 0, "{binding}");
        assert_ne!(call("site2.pem", "web1.pem", binding), 0, "{binding}");
        assert_ne!(call("site1.pem", "web2.pem", binding), 0, "{binding}");
    }
    // A session that stays.
    let endpoint = free_port().to_string();
    let child = Command::new(binary())
        .args(["tlsnego", "endpoint", &url, "--listen", &endpoint])
        .args(user)
        .args(["--server-cert", "site1.pem", "--https-ca", "both.pem"])
        .current_dir(service.path(""))
        .stderr(Stdio::null())
        .spawn();
    eventually("the endpoint listens", || std::net::TcpStream::connect(&endpoint).is_ok());
    let open = Endpoint::of(child.unwrap(), endpoint);
    assert_eq!(open.call(), "200");
    let opened = service.audit("session_opened").len();
    // A certificate without its key changes nothing.
    std::fs::copy(service.path("site2.pem"), service.path("certs/site.pem")).unwrap();
    service.signal(Signal::HUP);
    eventually("it is refused", || service.log().contains("Not reloaded"));
    assert_eq!(call("site1.pem", "web1.pem", "one-shot"), 0);
    put(&service, "site2", "certs/site");
    put(&service, "web2", "web");
    service.signal(Signal::HUP);
    eventually("they are taken over", || {
        service.log().contains("The certificates of [tlsnego] have changed")
    });
    for binding in ["session", "one-shot"] {
        assert_eq!(call("site2.pem", "web2.pem", binding), 0, "{binding}");
        assert_ne!(call("site1.pem", "web2.pem", binding), 0, "{binding}");
        assert_ne!(call("site2.pem", "web1.pem", binding), 0, "{binding}");
    }
    assert_eq!(open.call(), "200");
    // One token and one session for each call with a session, and none for the one that stays.
    assert_eq!(service.audit("session_opened").len(), opened + 1);
}

/// A demo with a gateway whose sessions are in cookies.
pub(crate) fn with_cookies() -> Demo {
    let demo = Demo::with_gateway("127.0.0.1:1".parse().unwrap(), "");
    demo.rcmpd(&["sidecar", "ticket-key", "farm-1.key", "--generation", "1"]).code(0);
    demo.configure(
        "[tlsnego.cookie]\nkeys = [\"file:farm-1.key\"]\naudience = \"orders\"\nstore = \"sessions.db\"\n",
    );
    demo
}

#[test]
fn roots_and_stores_that_do_not_protect_sessions_are_refused_before_the_start() {
    let (check, serve) = (["check-config", "rcmpd.toml"], ["serve", "-c", "rcmpd.toml"]);
    let demo = with_cookies();
    demo.rcmpd(&check).code(0);
    assert!(!demo.path("sessions.db").exists(), "a check writes nothing");
    let mode = |name: &str, mode| {
        std::fs::set_permissions(demo.path(name), std::os::unix::fs::PermissionsExt::from_mode(mode))
            .unwrap();
    };
    let refuses = |what: &str| {
        for command in [&check[..], &serve] {
            let told = demo.rcmpd(command).code(1).stderr;
            assert!(told.contains(what), "{what}: {told}");
        }
    };
    // The root: readable by others, gone, another text, the master secret's.
    mode("farm-1.key", 0o644);
    refuses("farm-1.key");
    refuses("chmod");
    mode("farm-1.key", 0o600);
    std::fs::rename(demo.path("farm-1.key"), demo.path("aside.key")).unwrap();
    refuses("cannot use");
    refuses("farm-1.key");
    write_secret(demo.path("farm-1.key"), "correct-horse-battery\n");
    refuses("this is not a line rcmpd-ticket-root");
    std::fs::rename(demo.path("aside.key"), demo.path("farm-1.key")).unwrap();
    // The store: in a folder that others may write to, and a database for something else.
    std::fs::create_dir(demo.path("open")).unwrap();
    mode("open", 0o777);
    let text = std::fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    let with = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        demo.edit(|_| text.replace(from, to));
    };
    with("sessions.db", "open/sessions.db");
    refuses("chmod go-w");
    with("sessions.db", "missing/sessions.db");
    refuses("missing");
    with("\"sessions.db\"", "\"accounts.db\"");
    refuses("is a database for something else");
    with("\"sessions.db\"", "\"audit.log\"");
    refuses("audit.log");
    // What the file itself has wrong.
    for (from, to, what) in [
        ("[\"file:farm-1.key\"]", "[]", "0 keys are configured"),
        (
            "[\"file:farm-1.key\"]",
            "[\"file:farm-1.key\", \"file:farm-1.key\"]",
            "two roots have generation 1",
        ),
        ("[\"file:farm-1.key\"]", "[\"file:farm-1.key\"]\nseal_with = 9", "none has the generation 9"),
        ("audience = \"orders\"", "audience = \"my orders\"", "this is not the name of a farm"),
        ("credential  =", "idle_timeout_s = 60\ncredential  =", "sessions in cookies have no idle timeout"),
    ] {
        with(from, to);
        refuses(what);
    }
}

#[test]
fn root_in_a_file_of_the_master_secret_is_refused() {
    let demo = Demo::with_master_secret();
    demo.configure(
        "[tlsnego]\nlisten = \"127.0.0.1:0\"\naddresses = [\"http://a.example/\"]\ncertificate = \"certs/site.pem\"\n\
         key = \"certs/site.key\"\ncredential = \"username\"\nupstream = \"http://127.0.0.1:1/\"\n\
         [tlsnego.cookie]\nkeys = [\"file:root.key\"]\naudience = \"orders\"\nstore = \"sessions.db\"\n",
    );
    // A link is the same file.
    std::os::unix::fs::symlink("sso/seal.key", demo.path("root.key")).unwrap();
    for command in [["check-config", "-c", "rcmpd.toml"], ["serve", "-c", "rcmpd.toml"]] {
        let told = demo.rcmpd(&command).code(1).stderr;
        assert!(told.contains("which [sso] names for the master secret"), "{told}");
        assert!(told.contains("rcmpd sidecar ticket-key"), "{told}");
    }
}

#[test]
fn account_beyond_its_audit_budget_opens_no_session_and_others_do() {
    let upstream = Upstream::start(|_| echoed());
    let demo = Demo::with_gateway(upstream.address, "");
    demo.edit(|text| {
        let required = text.replace("\"audit.log\"", "\"small/audit.log\"\nrequired = true");
        assert_ne!(required, text);
        required
    });
    // A quarter of what is free on the disk is what one account may write.
    let service = demo.serve_with_disk("small", 64);
    let mut opened = 0;
    let refused = loop {
        let called = call(&service, "alice", &[]);
        if called.code != 0 {
            break called;
        }
        opened += 1;
        assert!(opened < 200, "a disk of 64 KiB does not hold as much");
    };
    assert!(opened > 2 && refused.stderr.contains("ServerTooBusy"), "{opened} {refused:?}");
    assert_eq!(upstream.asked().len(), opened, "what is refused calls nothing");
    let refused = "rcmpd_tlsnego_refused_total{reason=\"audit\",fault=\"ServerTooBusy\"}";
    assert!(service.metric(refused) >= 1);
    call(&service, "bob", &[]).code(0);
    assert_eq!(service.metric("rcmpd_audit_failures_total"), 0, "the disk is not full");
}

/// A one-shot call of alice whose clock is ahead, made beside the gateway.
fn one_shot(service: &Service, ahead: Duration) -> Vec<u8> {
    let client = Client {
        to: format!("http://{}/service", service.gateway()),
        suite: Suite::BASIC256,
        version: TrustVersion::February2005,
        skew: Skew::default(),
        limits: ParseLimits::default(),
        random: Arc::new(|octets: &mut [u8]| getrandom::fill(octets).unwrap()),
        trace: None,
    };
    let user = UsernameToken { username: "alice".to_owned(), password: service.password("alice").into() };
    let certificate = std::fs::read(service.path("certs/site.rsa.pem")).unwrap();
    let certificate = CertificateDer::from_pem_slice(&certificate).unwrap();
    let certificate = Certificate::from_der(&certificate).unwrap();
    let under = Under::Certificate(&certificate);
    let body =
        "<s:Body xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\"><Echo xmlns=\"urn:echo\"/></s:Body>";
    let now = FileTime::from(SystemTime::now()) + ahead;
    client.call(under, Proof::UserName(&user), ("urn:echo", body.as_bytes()), now).unwrap().0
}

#[test]
fn message_of_a_client_whose_clock_is_ahead_is_no_new_one_after_a_restart() {
    let upstream = Upstream::start(|_| echoed());
    let demo = Demo::with_gateway(upstream.address, "state = \"tlsnego.state\"");
    open_all_bindings(&demo, "username");
    let mut service = demo.serve();
    let send = |service: &Service, message: &[u8]| {
        std::fs::write(service.path("message.xml"), message).unwrap();
        let body = format!("@{}", service.path("message.xml").display());
        let typed = format!("Content-Type: {SOAP}");
        post(&format!("{}", service.gateway()), &["-H", &typed, "--data-binary", &body])
    };
    let ahead = one_shot(&service, Duration::from_secs(200));
    assert_eq!(send(&service, &ahead).0, "200");
    assert_eq!(send(&service, &ahead).0, "500");
    service.kill();
    service.start_again();
    let (status, fault) = send(&service, &ahead);
    assert!(status == "500" && fault.contains("o:InvalidSecurity"), "{status} {fault}");
    assert!(service.log().contains("reason=\"replay\""), "{}", service.log());
    assert_eq!(upstream.asked().len(), 1);
    // One that was created after all that were accepted.
    assert_eq!(send(&service, &one_shot(&service, Duration::from_secs(280))).0, "200");
    // Without the file it is not known which messages were accepted.
    service.kill();
    std::fs::remove_file(service.path("tlsnego.state")).unwrap();
    service.start_again();
    assert_eq!(send(&service, &ahead).0, "200");
}

#[test]
fn service_ran_as_many_calls_as_are_reported_good_when_the_gateway_restarts() {
    let upstream = Upstream::start(|_| echoed());
    let mut service = Demo::with_gateway(upstream.address, "").serve();
    let alice = Endpoint::start(&service, "alice");
    let good = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let calls = scope.spawn(|| {
            let mut others = 0;
            while good.load(Ordering::SeqCst) < 100 {
                if alice.call() == "200" {
                    good.fetch_add(1, Ordering::SeqCst);
                } else {
                    others += 1;
                    assert!(others < 1_000, "the gateway does not come back");
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        });
        eventually("some calls are made", || good.load(Ordering::SeqCst) >= 30);
        service.signal(Signal::TERM);
        assert_eq!(service.ended(), 0);
        service.start_again();
        calls.join().unwrap();
    });
    assert_eq!(upstream.asked().len(), 100);
    assert_eq!(service.audit("session_opened").len(), 2, "one before the restart, and one after it");
}

#[test]
fn thousand_calls_with_a_password_each_compute_few_of_them() {
    let upstream = Upstream::start(|_| echoed());
    let service = Demo::with_gateway(upstream.address, "").serve();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| call(&service, "alice", &["--binding", "negotiated", "--count", "250"]).code(0));
        }
    });
    let label = "rcmpd_tlsnego_calls_total{kind=\"negotiated\",result=\"answered\"}";
    assert_eq!(service.metric(label), 1_000);
    assert!((1..=2).contains(&service.metric("rcmpd_tlsnego_password_checks_total")));
}

/// `make demo-tlsnego`: the trace of a session, the answers to two users, and a wrong password.
#[test]
fn the_demo_prints_a_whole_session() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/demo-tlsnego");
    let done = Command::new(script).arg(binary()).output().unwrap();
    let (told, log) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{told}{log}");
    let mut rest = &*told;
    // In this order: four messages, a session, a call and its end.
    for part in [
        "#1   sent          http://schemas.xmlsoap.org/ws/2005/02/trust/RST/Issue",
        "ClientHello",
        "#2   received ",
        "ServerHello, Certificate",
        "#3   sent          http://schemas.xmlsoap.org/ws/2005/02/trust/RSTR/Issue",
        "ClientKeyExchange",
        "#4   received ",
        "4.1           token urn:uuid:",
        "the authenticator matches the messages",
        "#5   sent          http://schemas.xmlsoap.org/ws/2005/02/trust/RST/SCT",
        "encrypted by  _7 (aes256-cbc): content of s:Body, o:UsernameToken, Signature",
        "session       established urn:uuid:",
        "#7   sent          urn:echo/Echo",
        "#8   received      urn:echo/EchoResponse",
        "CONTOSO\\alice",
        "RST/SCT/Cancel",
        "cancelled     urn:uuid:",
        "--user bob",
        "CONTOSO\\bob",
        "--user alice",
        "not authenticated: FailedAuthentication",
        "\"event\":\"session_opened\"",
        "\"event\":\"session_ended\"",
    ] {
        let (_, after) = rest.split_once(part).unwrap_or_else(|| panic!("no {part}:\n{told}{log}"));
        rest = after;
    }
}
