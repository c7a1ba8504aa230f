//! What the log says of refusals, and how its filter changes while the service runs.

use super::sidecar::{ask_about, sidecar};
use rcmpd_tests::openssl::openssl;
use rcmpd_tests::{Demo, Service, eventually, write_secret};
use std::fs;

const AUDIT: &str = "[audit]\npath = \"audit.log\"";

/// The SHA-1 of a certificate, by OpenSSL.
fn thumbprint(demo: &Demo, who: &str) -> String {
    let certificate = format!("{who}.pem");
    let shown =
        openssl(&demo.path("certs"), &["x509", "-in", &certificate, "-noout", "-fingerprint", "-sha1"]);
    let (_, hex) = shown.trim().split_once('=').unwrap();
    hex.replace(':', "").to_lowercase()
}

/// The one line of the log with all of these.
#[track_caller]
fn line(service: &mut Service, parts: &[&str]) -> String {
    service.wait_for_lines(parts, 1);
    let log = service.log();
    let mut lines = log.lines().filter(|line| parts.iter().all(|part| line.contains(part)));
    let line = lines.next().unwrap().to_owned();
    assert_eq!(lines.next(), None, "it is logged once a minute");
    line
}

/// The value of a field of a line.
#[track_caller]
fn field(line: &str, name: &str) -> String {
    let (_, value) = line.split_once(&format!(" {name}=")).unwrap_or_else(|| panic!("no {name}: {line}"));
    value.split(' ').next().unwrap().trim_matches('"').to_owned()
}

#[test]
fn refused_request_is_logged_with_its_decision_and_certificate() {
    let mut service = sidecar(Demo::new(), AUDIT);
    for _ in 0..3 {
        assert_eq!(ask_about(&service, "mallory", &[]).status, 403);
    }
    let thumbprint = thumbprint(&service, "mallory");
    let rejected = line(&mut service, &["INFO", "Request rejected"]);
    let decided = line(&mut service, &["INFO", "Question rejected"]);
    let audited = service.audit("map");
    assert_eq!(audited.len(), 1, "the others were answered by a cached decision");
    let decision = audited[0]["decision"].as_str().unwrap();
    for line in [&rejected, &decided] {
        assert_eq!(field(line, "thumbprint"), thumbprint, "{line}");
        assert_eq!(field(line, "reason"), audited[0]["reason"].as_str().unwrap(), "{line}");
        assert_eq!(field(line, "decision"), decision, "{line}");
    }
    assert_eq!((field(&rejected, "status"), field(&rejected, "dialect")), ("403".into(), "nginx".into()));
    assert_eq!((field(&decided, "account"), field(&decided, "source")), ("sidecar".into(), "unix".into()));
    // A header that the proxy sends twice is the proxy's fault.
    assert_eq!(ask_about(&service, "alice", &[("SSL-Client-Verify", "SUCCESS")]).status, 500);
    line(&mut service, &["WARN", "Rejected request of a proxy", "duplicate_header", "advice="]);
}

#[test]
fn refused_question_is_logged_with_its_asker_and_its_audit_line() {
    let demo = Demo::new();
    demo.configure(AUDIT);
    let mut service = demo.serve();
    let done = service.map("mallory").code(3);
    let thumbprint = thumbprint(&service, "mallory");
    let line = line(&mut service, &["INFO", "Question rejected"]);
    assert_eq!((field(&line, "account"), field(&line, "thumbprint")), ("WEB01$".into(), thumbprint));
    let audited = service.audit("map").pop().unwrap();
    assert_eq!(field(&line, "source"), audited["source"].as_str().unwrap(), "{done:?}");
    let decision = field(&line, "decision");
    assert!(decision.len() == 32 && audited["decision"] == decision.as_str(), "{line} {audited}");
}

#[test]
fn wrong_machine_secret_is_logged_with_the_address_it_came_from() {
    let mut service = Demo::new().serve();
    write_secret(service.path("machines/WEB01.secret"), "this is another one\n");
    service.map("alice").code(5);
    let line = line(&mut service, &["INFO", "Secure channel rejected", "WEB01$"]);
    assert!(field(&line, "source").starts_with("127.0.0.1:"), "{line}");
    assert!(!field(&line, "reason").is_empty() && !line.contains("another one"), "{line}");
}

#[test]
fn machine_whose_secret_is_guessed_is_logged_once() {
    let mut service = Demo::new().serve();
    let right = fs::read_to_string(service.path("machines/WEB01.secret")).unwrap();
    write_secret(service.path("machines/WEB01.secret"), "this is another one\n");
    let slowed = |service: &Service| service.metric("rcmpd_channels_slowed_total");
    // Five wrong secrets are answered at once.
    let mut guesses = 0;
    while slowed(&service) < 2 {
        service.map("alice").code(5);
        guesses += 1;
        assert!(guesses <= 7, "the sixth and the seventh are slow");
    }
    let line = line(&mut service, &["WARN", "Answers delayed: many wrong secrets of a machine account"]);
    assert_eq!((field(&line, "account"), field(&line, "source")), ("WEB01$".into(), "127.0.0.1".into()));
    assert!(!line.contains("another one"), "{line}");
    // The machine itself is not kept out.
    write_secret(service.path("machines/WEB01.secret"), right);
    service.map("alice").code(0);
}

#[test]
fn server_that_is_unreachable_is_logged_with_why() {
    let mut service = Demo::new().serve();
    let mut web = Demo::web(&service, "", "remember_s = 0\ntimeout_s = 3").serve_bare();
    assert_eq!(ask_about(&web, "mallory", &[]).status, 403);
    let thumbprint = thumbprint(&service, "mallory");
    let denied = line(&mut web, &["INFO", "Another service mapped no account"]);
    assert_eq!(field(&denied, "thumbprint"), thumbprint, "{denied}");
    let audited = web.path("web.log");
    assert!(fs::read_to_string(audited).unwrap().contains(&field(&denied, "decision")), "{denied}");
    service.kill();
    assert_eq!(ask_about(&web, "alice", &[]).status, 500);
    let server = service.netlogon.to_string();
    web.wait_for_lines(&["WARN", "Request to a server failed", &server], 1);
    let undecided = line(&mut web, &["WARN", "Cannot decide which account", "no_logon_servers"]);
    assert_eq!(field(&undecided, "status"), "500");
    // No service is asked about this one.
    let mut request =
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout stranger.key".to_owned();
    request.push_str(" -out stranger.pem -subj /CN=stranger");
    openssl(&web.path("certs"), &request.split(' ').collect::<Vec<_>>());
    assert_eq!(ask_about(&web, "stranger", &[]).status, 403);
    line(&mut web, &["INFO", "Request rejected", "chain"]);
    // Neither refusal is the answer of a service.
    assert_eq!(line(&mut web, &["Another service mapped no account"]), denied);
}

#[test]
fn operators_and_a_reload_change_the_log_filter() {
    let demo = Demo::new();
    write_secret(demo.path("admin.token"), "t0ken");
    demo.edit(|text| text.replace("[admin]", "[admin]\ntoken = \"file:admin.token\"\n#"));
    let mut service = demo.serve();
    let operator = [("Authorization", "Bearer t0ken")];
    let set = |service: &Service, filter: &str| service.send("PUT", "/log", &operator, filter).0;
    let shown = |service: &Service| {
        let (head, body) = service.get_with("/log", "Authorization: Bearer t0ken\r\n");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        body.trim().to_owned()
    };
    assert_eq!(shown(&service), "info");
    assert_eq!(service.send("PUT", "/log", &[], "trace").0, 401);
    assert_eq!(
        service.send("PUT", "/log", &[operator[0], ("Origin", "http://evil.example")], "trace").0,
        403
    );
    assert_eq!(service.get("/log").0, 401);
    for wrong in ["", "nonsense", "info,dcerpc_tokio=loud", "\u{1}"] {
        assert_eq!(set(&service, wrong), 400, "{wrong:?}");
    }
    assert_eq!(service.send("PUT", "/log", &operator, &"info,".repeat(1000)).0, 413);
    assert_eq!(shown(&service), "info", "nothing was set");
    service.map("alice").code(0);
    assert!(!service.log().contains("DEBUG"), "{}", service.log());
    assert_eq!(set(&service, "info,audit=debug"), 204);
    assert_eq!(shown(&service), "audit=debug,info");
    service.wait_for_log("Log filter changed");
    service.map("alice").code(0);
    service.wait_for_log("DEBUG");
    // A reload goes back to what the file says.
    service.reload();
    assert_eq!(shown(&service), "info");
    service.edit(|text| format!("{text}\n[telemetry]\nlog = \"warn\"\n"));
    service.signal(rustix::process::Signal::HUP);
    eventually("the filter of the file counts", || shown(&service) == "warn");
}

#[test]
fn reload_goes_back_to_the_log_filter_of_the_environment() {
    let demo = Demo::new();
    write_secret(demo.path("admin.token"), "t0ken");
    demo.edit(|text| text.replace("[admin]", "[admin]\ntoken = \"file:admin.token\"\n#"));
    demo.configure("[telemetry]\nlog = \"warn\"");
    let service = demo.serve_with(&[("RUST_LOG", "info,audit=debug")]);
    let shown = || {
        let (head, body) = service.get_with("/log", "Authorization: Bearer t0ken\r\n");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        body.trim().to_owned()
    };
    assert_eq!(shown(), "audit=debug,info");
    let operator = [("Authorization", "Bearer t0ken")];
    assert_eq!(service.send("PUT", "/log", &operator, "info,dcerpc_tokio=trace").0, 204);
    assert_eq!(shown(), "dcerpc_tokio=trace,info");
    service.reload();
    assert_eq!(shown(), "audit=debug,info");
}
