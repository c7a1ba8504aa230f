//! The gateway for SOAP clients as its operators and the service behind it see it.

use crate::telemetry::{Collector, attribute};
use dtyp::hex;
use rcmpd_tests::soap::{SOAP, Upstream, echoed, envelope, http};
use rcmpd_tests::web::free_port;
use rcmpd_tests::{Demo, Finished, Service, binary, eventually, write_secret};
use rustix::process::Signal;
use std::process::{Command, Stdio};

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

/// Posts to the local endpoint by curl, and returns status and body.
fn post(endpoint: &str, arguments: &[&str]) -> (String, String) {
    let output = Command::new("curl")
        .args(["-sS", "-w", "\n%{http_code}"])
        .args(arguments)
        .arg(format!("http://{endpoint}/"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
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

/// The local endpoint as a user of a demo, which keeps its session.
struct Endpoint(std::process::Child, String);

impl Endpoint {
    fn start(service: &Service, user: &str) -> Self {
        let (url, endpoint) = (format!("http://{}/service", service.gateway()), free_port().to_string());
        let password = format!("users/{user}.password");
        let child = Command::new(binary())
            .args(["tlsnego", "endpoint", &url, "--listen", &endpoint, "--user", user])
            .args(["--password-file", &password, "--ca", "certs/ca.pem"])
            .current_dir(service.path(""))
            .stderr(Stdio::null())
            .spawn();
        eventually("the endpoint listens", || std::net::TcpStream::connect(&endpoint).is_ok());
        Self(child.unwrap(), endpoint)
    }

    fn call(&self) -> String {
        let typed = format!("Content-Type: {SOAP}; action=\"urn:echo/Echo\"");
        post(&self.1, &["-H", &typed, "-d", &envelope("<Echo xmlns=\"urn:echo\"/>")]).0
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
}
