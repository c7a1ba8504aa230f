//! The span of a call to the master secret server.

use crate::telemetry::{Collector, attribute};
use dtyp::hex;
use rcmpd_tests::{Demo, binary};
use rustix::process::Signal;
use std::process::{Command, Stdio};

/// What started the command that asks, by W3C Trace Context.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivery_is_one_span_in_the_trace_of_its_caller() {
    let (collector, endpoint) = Collector::listen().await;
    let mut service = Demo::with_master_secret().serve_with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
    let key = tokio::task::spawn_blocking(move || {
        let get = |user: &str, flags: &str| {
            let (server, password) = (service.master_secret().to_string(), format!("users/{user}.password"));
            let status = Command::new(binary())
                .args(["sso", "secret", "get", "--server", &server, "--user", user])
                .args(["--password-file", &password, "--output", &format!("{user}-{flags}.key")])
                .env("TRACEPARENT", format!("00-{TRACE}-{PARENT}-{flags}"))
                .current_dir(service.path(""))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            status.unwrap().code()
        };
        assert_eq!(get("alice", "01"), Some(0));
        // A trace that is not sampled would hide the call.
        assert_eq!(get("alice", "00"), Some(0));
        assert_eq!(get("bob", "00"), Some(3));
        let key = std::fs::read(service.path("alice-01.key")).unwrap();
        service.signal(Signal::TERM);
        assert_eq!(service.ended(), 0);
        key
    })
    .await
    .unwrap();
    let spans = collector.spans();
    let of_interface: Vec<_> = spans
        .iter()
        .filter(|span| attribute(&span.attributes, "interface").as_deref() == Some("master secret"))
        .collect();
    let [delivered, hidden, refused] = of_interface[..] else { panic!("one span a call: {spans:#?}") };
    let value = |name: &str| attribute(&delivered.attributes, name);
    assert_eq!(hex(&delivered.trace_id), TRACE);
    assert_eq!(hex(&delivered.parent_span_id), PARENT);
    assert_eq!(value("sso.server").as_deref(), Some("DC1"));
    assert_eq!(value("sso.generation").as_deref(), Some("1"));
    assert_eq!(value("sso.result").as_deref(), Some("ERROR_SUCCESS"));
    assert_eq!(attribute(&hidden.attributes, "sso.generation").as_deref(), Some("1"));
    assert_ne!(hex(&hidden.trace_id), TRACE, "the trace is not sampled");
    let [link] = &hidden.links[..] else { panic!("one link: {hidden:#?}") };
    assert_eq!((&*hex(&link.trace_id), &*hex(&link.span_id)), (TRACE, PARENT));
    assert_eq!(attribute(&refused.attributes, "sso.result").as_deref(), Some("SSO_E_ACCESSDENIED"));
    assert_eq!(attribute(&refused.attributes, "sso.generation"), None);
    assert_ne!(hex(&refused.trace_id), TRACE, "the trace of a user without the right");
    assert_eq!(key.len(), 16);
    let text = format!("{:?}", collector.0.lock().unwrap());
    assert!(!text.contains(&hex(&key)) && !text.contains(&format!("{key:?}")), "the secret is in a span");
}
