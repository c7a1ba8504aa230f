//! The sidecar is a part of the trace: from the proxy's `traceparent` to the application, and to the service
//! that is asked.

use super::sidecar::ask_about;
use super::telemetry::{Collector, attribute};
use opentelemetry_proto::tonic::trace::v1::Span;
use rcmpd_tests::web::{Site, WebServer};
use rcmpd_tests::{Demo, Service, eventually};
use rustix::process::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The spans of requests, in the order of their beginning.
fn requests(collector: &Collector) -> Vec<Span> {
    let mut spans = collector.spans();
    spans.retain(|span| attribute(&span.attributes, "dialect").is_some());
    spans.sort_by_key(|span| span.start_time_unix_nano);
    spans
}

#[track_caller]
fn value(span: &Span, name: &str) -> String {
    attribute(&span.attributes, name).unwrap_or_else(|| panic!("no {name} in {span:#?}"))
}

/// Lets a service end, so that its spans are exported.
fn end(service: &mut Service) {
    service.signal(Signal::TERM);
    assert_eq!(service.ended(), 0, "{}", service.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_is_a_span_of_the_trace_of_the_proxy() {
    let (collector, endpoint) = Collector::listen().await;
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let forged = [
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01".to_owned(),
        format!("00-{TRACE}-0000000000000000-01"),
        format!("{parent}-00"),
        format!("{parent}{}", "0".repeat(8000)),
        format!("00-{TRACE}0-{}-01", &PARENT[1..]),
        parent.to_uppercase(),
    ];
    let (given, sid, decisions) = tokio::task::spawn_blocking({
        let (parent, forged) = (parent.clone(), forged.clone());
        move || {
            let demo = Demo::new();
            demo.configure(&format!(
                "[sidecar]\n[[sidecar.listen]]\ndialect = \"nginx\"\nunix = \"nginx.sock\"\npeers = [\"{}\"]",
                rustix::process::geteuid().as_raw()
            ));
            let mut service = demo.serve_with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
            let given = [("traceparent", parent.as_str()), ("tracestate", "vendor=1")];
            let first = ask_about(&service, "alice", &given);
            let second = ask_about(&service, "alice", &given);
            assert_eq!((first.status, second.status), (200, 200));
            assert_eq!(ask_about(&service, "mallory", &given).status, 403);
            assert_eq!(ask_about(&service, "alice", &[given[0], given[0]]).status, 200, "two of them");
            for forged in &forged {
                assert_eq!(ask_about(&service, "alice", &[("traceparent", forged)]).status, 200, "{forged}");
            }
            let broken = ask_about(&service, "alice", &[("SSL-Client-Verify", "SUCCESS")]);
            assert_eq!(broken.status, 500);
            end(&mut service);
            let sid = format!("{}-1001", service.domain_sid());
            (3, sid, [first, second].map(|answer| answer.header("x-identity-decision").to_owned()))
        }
    })
    .await
    .unwrap();
    let spans = requests(&collector);
    assert_eq!(spans.len(), given + 1 + forged.len() + 1, "one span a request");
    let (given, others) = spans.split_at(given);
    for span in given {
        assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.into(), PARENT.into()));
        assert_eq!((span.kind, span.trace_state.as_str()), (2, "vendor=1"), "a server");
        assert_eq!(value(span, "dialect"), "nginx");
        let head = ["http.request.method", "url.path"].map(|name| value(span, name));
        assert_eq!((span.name.as_str(), head), ("GET", ["GET".to_owned(), "/".to_owned()]));
    }
    for span in others {
        assert_ne!(hex(&span.trace_id), TRACE, "a forged parent is none: {span:#?}");
        assert!(span.parent_span_id.is_empty(), "{span:#?}");
    }
    let [made, cached, denied] = given else { panic!("three") };
    assert_eq!([value(made, "decision"), value(cached, "decision")], decisions);
    assert_eq!([value(made, "how"), value(cached, "how")], ["made", "cached"]);
    assert_eq!([value(made, "outcome"), value(denied, "outcome")], ["allowed", "no_match"]);
    assert_eq!([value(made, "user.id"), value(cached, "user.id")], [sid.clone(), sid]);
    assert_eq!(value(denied, "http.response.status_code"), "403");
    assert_eq!(denied.status.as_ref().map_or(0, |status| status.code), 0, "a denial is no error");
    // What was decided before names where.
    assert!(made.links.is_empty(), "{made:#?}");
    let link = &cached.links[0];
    assert_eq!((&link.trace_id, &link.span_id), (&made.trace_id, &made.span_id));
    let broken = others.last().unwrap();
    assert_eq!(value(broken, "error.type"), "500");
    assert_eq!(broken.status.as_ref().unwrap().code, 2, "an error");
}

/// An application that answers 200 and keeps the heads of requests.
fn application() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, heads) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
    let kept = Arc::clone(&heads);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut head) = (stream.unwrap(), Vec::new());
            while !head.ends_with(b"\r\n\r\n") {
                let mut octet = [0];
                if stream.read(&mut octet).unwrap_or(0) == 0 {
                    break;
                }
                head.push(octet[0]);
            }
            kept.lock().unwrap().push(String::from_utf8_lossy(&head).to_lowercase());
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    (address, heads)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn application_gets_the_trace_of_its_request() {
    let (collector, endpoint) = Collector::listen().await;
    let (address, heads) = application();
    tokio::task::spawn_blocking(move || {
        let demo = Demo::new();
        demo.configure(&format!(
            "[sidecar]\n[[sidecar.listen]]\ndialect = \"client-cert\"\nunix = \"in.sock\"\npeers = [\"{}\"]\n\
             upstream = \"http://{address}\"",
            rustix::process::geteuid().as_raw()
        ));
        let mut service = demo.serve_with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
        let parent = format!("00-{TRACE}-{PARENT}-01");
        let given = [("traceparent", parent.as_str()), ("tracestate", "vendor=1")];
        pass_on(&service, &given);
        let forged = [("traceparent", "00-1-1-1"), ("tracestate", "forged=1")];
        pass_on(&service, &forged);
        let state = ["a", "b", "c"].map(|vendor| format!("{vendor}={}", "x".repeat(170))).join(",");
        assert!(state.len() > 512);
        pass_on(&service, &[given[0], ("tracestate", &state)]);
        end(&mut service);
    })
    .await
    .unwrap();
    let (spans, heads) = (requests(&collector), heads.lock().unwrap().clone());
    for (span, head) in spans.iter().zip(&heads) {
        let ours = format!("\r\ntraceparent: 00-{}-{}-01\r\n", hex(&span.trace_id), hex(&span.span_id));
        assert_eq!((value(span, "url.path"), value(span, "server.address")), ("/a".into(), "app".into()));
        assert!(!format!("{span:?}").contains("secret"), "a query is in the span: {span:#?}");
        assert!(head.contains(&ours) && head.matches("traceparent").count() == 1, "{ours} {head}");
    }
    assert_eq!((spans.len(), heads.len()), (3, 3));
    assert_eq!([&spans[0], &spans[2]].map(|span| hex(&span.trace_id)), [TRACE, TRACE]);
    assert!(heads[0].contains("tracestate: vendor=1"), "{}", heads[0]);
    assert!(!heads[1].contains("tracestate"), "{}", heads[1]);
    assert!(!heads[2].contains("tracestate"), "it is too long: {}", heads[2]);
}

/// A request about alice, in the dialect of RFC 9440, that is passed on.
fn pass_on(service: &Service, more: &[(&str, &str)]) {
    let pem = fs::read_to_string(service.path("certs/alice.pem")).unwrap();
    let der: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let mut request =
        format!("GET /a?secret HTTP/1.1\r\nHost: app:8443\r\nClient-Cert: :{der}:\r\nConnection: close\r\n");
    for (name, value) in more {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut stream = UnixStream::connect(service.path("in.sock")).unwrap();
    stream.write_all(format!("{request}\r\n").as_bytes()).unwrap();
    let answer = std::io::read_to_string(stream).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer} {}", service.log());
}

/// The spans of one request to a sidecar that asks a service elsewhere: `sidecar_request`, `forward`, and the
/// service's `call`.
async fn asked_elsewhere(client: &'static str) -> [Span; 3] {
    let spans = spans_of_a_request(client).await;
    let is_question = |span: &&Span| attribute(&span.attributes, "opnum").as_deref() == Some("39");
    let named = |name| spans.iter().find(|span| span.name == name).cloned();
    let question = spans.iter().find(is_question).cloned();
    [named("GET"), named("forward"), question].map(Option::unwrap)
}

/// All spans of it.
async fn spans_of_a_request(client: &'static str) -> Vec<Span> {
    let (collector, endpoint) = Collector::listen().await;
    tokio::task::spawn_blocking(move || {
        let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())];
        let mut service = Demo::new().serve_with(&environment);
        let mut web = Demo::web(&service, client, "remember_s = 0").serve_bare_with(&environment);
        let parent = format!("00-{TRACE}-{PARENT}-01");
        let answer = ask_about(&web, "alice", &[("traceparent", &parent)]);
        assert_eq!(answer.status, 200, "{}", web.log());
        end(&mut web);
        end(&mut service);
    })
    .await
    .unwrap();
    collector.spans()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn look_up_of_another_service_is_in_the_trace_of_the_proxy() {
    let spans = spans_of_a_request("kind = \"rcmpd\"").await;
    let is_found = |span: &&Span| {
        span.name == "store_lookup" && attribute(&span.attributes, "store.result").as_deref() == Some("one")
    };
    let mut span = spans.iter().find(is_found).unwrap();
    let mut names = vec![span.name.clone()];
    while let Some(parent) = spans.iter().find(|other| other.span_id == span.parent_span_id) {
        names.push(parent.name.clone());
        span = parent;
    }
    assert_eq!(names, ["store_lookup", "netlogon/NetrLogonSamLogonEx", "forward", "GET"]);
    assert_eq!((hex(&span.trace_id).as_str(), hex(&span.parent_span_id).as_str()), (TRACE, PARENT));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_that_runs_rcmpd_is_a_part_of_the_trace() {
    let [request, forward, question] = asked_elsewhere("kind = \"rcmpd\"").await;
    assert_eq!(hex(&request.trace_id), TRACE);
    for (child, parent) in [(&forward, &request), (&question, &forward)] {
        assert_eq!((&child.trace_id, &child.parent_span_id), (&parent.trace_id, &parent.span_id));
    }
    assert_eq!(forward.kind, 3, "a client");
    assert!(value(&forward, "server.address").starts_with("127.0.0.1:"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_service_is_told_nothing_and_is_found_by_the_digest() {
    let [request, forward, question] = asked_elsewhere("").await;
    assert_eq!(forward.parent_span_id, request.span_id);
    assert_ne!(question.trace_id, request.trace_id, "it is told nothing");
    // The link is made of the first 24 octets of the digest that the span has.
    let digest = value(&forward, "rcmp.request.digest");
    let link = &forward.links[0];
    assert_eq!(hex(&link.trace_id) + &hex(&link.span_id), digest[..48]);
}

/// Caddy makes spans itself, as Traefik and Envoy do: the sidecar's are below them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn web_server_that_makes_spans_begins_the_trace() {
    let (collector, endpoint) = Collector::listen().await;
    let kept = collector.clone();
    tokio::task::spawn_blocking(move || {
        let traced = |text: String| {
            let route = "\troute {\n";
            assert!(text.contains(route), "{text}");
            text.replacen(route, &format!("\ttracing {{\n\t\tspan web-server\n\t}}\n{route}"), 1)
        };
        let environment = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ];
        let site = Site::start_by(WebServer::Caddy, "remember_s = 0", traced, &environment);
        assert_eq!(site.get(Some("alice"), "/", &[]).0, 200, "{}", site.proxy_log());
        // A span is sent when it has ended, so one below another may be there first.
        eventually("all have sent their spans", || {
            let spans = kept.spans();
            let lookups = spans.iter().filter(|span| span.name == "store_lookup");
            lookups
                .map(|lookup| names_upwards(&spans, lookup))
                .any(|names| names == ["store_lookup", "GET", "web-server"])
        });
    })
    .await
    .unwrap();
}

/// The name of a span, and of those above it.
fn names_upwards<'a>(spans: &'a [Span], mut span: &'a Span) -> Vec<&'a str> {
    let mut names = vec![span.name.as_str()];
    while let Some(parent) = spans.iter().find(|other| other.span_id == span.parent_span_id) {
        names.push(&parent.name);
        span = parent;
    }
    names
}

/// A web server that makes no spans, as it is printed: the client's span is the parent.
async fn client_of_a_web_server_begins_the_trace(server: WebServer) {
    let (collector, endpoint) = Collector::listen().await;
    tokio::task::spawn_blocking(move || {
        let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())];
        let mut site = Site::start_by(server, "remember_s = 0", |text| text, &environment);
        // The requests that wait for the web server are in no trace.
        let parent = format!("traceparent: 00-{TRACE}-{PARENT}-01");
        let given = ["--header", &parent, "--header", "tracestate: vendor=1"];
        assert_eq!(site.get(Some("alice"), "/", &given).0, 200, "{}", site.proxy_log());
        assert_eq!(site.get(Some("alice"), "/", &["--header", "traceparent: forged"]).0, 200);
        end(&mut site.service);
    })
    .await
    .unwrap();
    let spans = requests(&collector);
    let (given, others): (Vec<_>, Vec<_>) = spans.iter().partition(|span| hex(&span.trace_id) == TRACE);
    let [given] = &given[..] else { panic!("one of {spans:#?}") };
    assert_eq!((hex(&given.parent_span_id).as_str(), given.trace_state.as_str()), (PARENT, "vendor=1"));
    assert_eq!(value(given, "outcome"), "allowed");
    assert!(others.len() >= 2 && others.iter().all(|span| span.parent_span_id.is_empty()), "{others:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_of_nginx_begins_the_trace() {
    client_of_a_web_server_begins_the_trace(WebServer::Nginx).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_of_envoy_over_http_begins_the_trace() {
    client_of_a_web_server_begins_the_trace(WebServer::EnvoyHttp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_of_envoy_over_grpc_begins_the_trace() {
    client_of_a_web_server_begins_the_trace(WebServer::Envoy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_of_haproxy_begins_the_trace() {
    client_of_a_web_server_begins_the_trace(WebServer::Haproxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_of_apache_begins_the_trace() {
    client_of_a_web_server_begins_the_trace(WebServer::Apache).await;
}
