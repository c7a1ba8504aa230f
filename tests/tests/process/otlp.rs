//! Spans, metrics and events by OTLP, over gRPC and HTTP, to a receiver in this process and through a
//! collector that this project did not write.

use crate::telemetry::attribute;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use rcmpd_tests::peers::{Rotel, collector_config};
use rcmpd_tests::ports::free_port;
use rcmpd_tests::web::Nginx;
use rcmpd_tests::{Demo, Service, eventually, write_secret};
use rustix::process::Signal;
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};

/// What came.
#[derive(Default)]
struct Received {
    traces: Vec<ExportTraceServiceRequest>,
    metrics: Vec<ExportMetricsServiceRequest>,
    logs: Vec<ExportLogsServiceRequest>,
    /// The header `api-key` of each request.
    keys: Vec<Option<String>>,
}

#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<Received>>);

macro_rules! receives {
    ($service:ident, $request:ty, $response:ty, $kept:ident) => {
        #[tonic::async_trait]
        impl $service for Receiver {
            async fn export(&self, request: Request<$request>) -> Result<Response<$response>, Status> {
                let key = request.metadata().get("api-key").map(|key| key.to_str().unwrap().to_owned());
                let mut received = self.0.lock().unwrap();
                received.keys.push(key);
                received.$kept.push(request.into_inner());
                Ok(Response::new(<$response>::default()))
            }
        }
    };
}

receives!(TraceService, ExportTraceServiceRequest, ExportTraceServiceResponse, traces);
receives!(MetricsService, ExportMetricsServiceRequest, ExportMetricsServiceResponse, metrics);
receives!(LogsService, ExportLogsServiceRequest, ExportLogsServiceResponse, logs);

impl Receiver {
    async fn over_grpc() -> (Self, String) {
        let receiver = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        // Rotel compresses, whatever it is told.
        let gzip = CompressionEncoding::Gzip;
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(receiver.clone()).accept_compressed(gzip))
            .add_service(MetricsServiceServer::new(receiver.clone()).accept_compressed(gzip))
            .add_service(LogsServiceServer::new(receiver.clone()).accept_compressed(gzip));
        tokio::spawn(server.serve_with_incoming(incoming));
        (receiver, endpoint)
    }

    /// OTLP/HTTP with protobuf, one request for each connection or several.
    fn over_http() -> (Self, String) {
        let receiver = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}/otlp", listener.local_addr().unwrap());
        let kept = receiver.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let kept = kept.clone();
                std::thread::spawn(move || while kept.take(stream.as_ref().unwrap()).is_some() {});
            }
        });
        (receiver, endpoint)
    }

    fn take(&self, mut stream: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_owned()),
            }
        }
        let header = |name: &str| {
            let of = |line: &String| Some(line.split_once(": ")?.1.to_owned());
            head.iter().find(|line| line.to_lowercase().starts_with(&format!("{name}:"))).and_then(of)
        };
        let mut body = vec![0; header("content-length")?.parse().ok()?];
        reader.read_exact(&mut body).ok()?;
        assert_eq!(header("content-type").as_deref(), Some("application/x-protobuf"));
        {
            let mut received = self.0.lock().unwrap();
            received.keys.push(header("api-key"));
            match head[0].as_str() {
                "POST /otlp/v1/traces HTTP/1.1" => received.traces.push(Message::decode(&*body).unwrap()),
                "POST /otlp/v1/metrics HTTP/1.1" => received.metrics.push(Message::decode(&*body).unwrap()),
                "POST /otlp/v1/logs HTTP/1.1" => received.logs.push(Message::decode(&*body).unwrap()),
                other => panic!("{other}"),
            }
        }
        stream
            .write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n",
            )
            .ok()
    }

    fn spans(&self) -> Vec<Span> {
        let received = self.0.lock().unwrap();
        let resources = received.traces.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|it| &it.scope_spans).flat_map(|it| &it.spans).cloned().collect()
    }

    fn records(&self) -> Vec<LogRecord> {
        let received = self.0.lock().unwrap();
        let resources = received.logs.iter().flat_map(|request| &request.resource_logs);
        resources.flat_map(|it| &it.scope_logs).flat_map(|it| &it.log_records).cloned().collect()
    }

    /// The last value of each metric.
    fn metrics(&self) -> Vec<Metric> {
        let received = self.0.lock().unwrap();
        let resources = received.metrics.last().into_iter().flat_map(|request| &request.resource_metrics);
        resources.flat_map(|it| &it.scope_metrics).flat_map(|it| &it.metrics).cloned().collect()
    }

    fn resources(&self) -> Vec<Resource> {
        let received = self.0.lock().unwrap();
        let traces = received.traces.iter().flat_map(|it| &it.resource_spans).map(|it| &it.resource);
        let metrics = received.metrics.iter().flat_map(|it| &it.resource_metrics).map(|it| &it.resource);
        let logs = received.logs.iter().flat_map(|it| &it.resource_logs).map(|it| &it.resource);
        traces.chain(metrics).chain(logs).map(|resource| resource.clone().unwrap()).collect()
    }
}

fn body(record: &LogRecord) -> &str {
    match record.body.as_ref().and_then(|body| body.value.as_ref()) {
        Some(Value::StringValue(text)) => text,
        _ => "",
    }
}

/// The sum of a counter's points with this label.
fn counted(metrics: &[Metric], name: &str, label: (&str, &str)) -> i64 {
    let metric = metrics.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("no {name}"));
    let Some(Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
    assert!(sum.is_monotonic);
    let is_it = |point: &&NumberDataPoint| attribute(&point.attributes, label.0).as_deref() == Some(label.1);
    let value = |point: &NumberDataPoint| match point.value {
        Some(Number::AsInt(number)) => number,
        other => panic!("{other:?}"),
    };
    sum.data_points.iter().filter(is_it).map(value).sum()
}

/// Asks twice, stops the service, and returns what Prometheus saw before.
fn ask_and_stop(service: &mut Service) -> String {
    service.map("alice").code(0);
    service.map("mallory").code(3);
    let (_, page) = service.get("/metrics");
    service.signal(Signal::TERM);
    assert_eq!(service.ended(), 0, "{}", service.log());
    page
}

/// All three signals, with what was left at the end of the process.
fn check(receiver: &Receiver, page: &str, log: &str) {
    let spans = receiver.spans();
    let questions: Vec<_> =
        spans.iter().filter(|span| attribute(&span.attributes, "opnum").as_deref() == Some("39")).collect();
    assert_eq!(questions.len(), 3, "{log}");

    let metrics = receiver.metrics();
    for reason in ["mapped", "no_match"] {
        let line = page.lines().filter(|line| line.starts_with("rcmpd_decisions_total{"));
        let line = line.filter(|line| line.contains(&format!("reason=\"{reason}\"")));
        let expected: i64 = line.map(|line| line.rsplit_once(' ').unwrap().1.parse::<i64>().unwrap()).sum();
        assert!(expected > 0, "{page}");
        assert_eq!(counted(&metrics, "rcmpd_decisions", ("reason", reason)), expected, "{reason}");
    }
    // Each family of the page is there, and no other.
    let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let mut families: Vec<&str> = families.map(|name| name.strip_suffix("_total").unwrap_or(name)).collect();
    families.retain(|name| page.lines().any(|line| line.starts_with(name)));
    let mut names: Vec<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
    families.sort_unstable();
    names.sort_unstable();
    assert_eq!(names, families);

    let records = receiver.records();
    for message in ["Ready", "Secure channel established", "Stopped"] {
        assert!(records.iter().any(|record| body(record) == message), "no {message}: {log}");
    }
    let ready = records.iter().find(|record| body(record) == "Ready").unwrap();
    assert_eq!(
        (attribute(&ready.attributes, "domain").as_deref(), &*ready.severity_text),
        (Some("CONTOSO"), "INFO")
    );
    // An event about a call is in its trace.
    let channel = records.iter().find(|record| body(record) == "Secure channel established").unwrap();
    assert!(
        spans.iter().any(|span| span.span_id == channel.span_id && span.trace_id == channel.trace_id),
        "{channel:?}"
    );

    let resources = receiver.resources();
    assert!(!resources.is_empty());
    for resource in &resources {
        let value = |name: &str| attribute(&resource.attributes, name);
        assert_eq!(value("service.name").as_deref(), Some("mapper"));
        assert_eq!(value("deployment.environment").as_deref(), Some("test"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn environment_and_grpc() {
    let (receiver, endpoint) = Receiver::over_grpc().await;
    let done = tokio::task::spawn_blocking(move || {
        let mut service = Demo::new().serve_with(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=hunter2"),
            ("OTEL_SERVICE_NAME", "mapper"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
        ]);
        (ask_and_stop(&mut service), service.log())
    });
    let (page, log) = done.await.unwrap();
    check(&receiver, &page, &log);
    let keys = &receiver.0.lock().unwrap().keys;
    assert!(keys.iter().all(|key| key.as_deref() == Some("hunter2")), "{keys:?}");
    assert!(!log.contains("hunter2"), "{log}");
}

#[test]
fn file_and_http() {
    let (receiver, endpoint) = Receiver::over_http();
    let demo = Demo::new();
    write_secret(demo.path("otlp.headers"), "api-key=hunter2\n");
    demo.configure(&format!(
        "[telemetry.otlp]\nendpoint = \"{endpoint}\"\nprotocol = \"http/protobuf\"\nheaders = \"file:otlp.headers\"\n\
         service_name = \"mapper\"\nattributes = {{ \"deployment.environment\" = \"test\" }}\nmetrics_interval_s = 1\n"
    ));
    demo.rcmpd(&["check-config", "rcmpd.toml"]).code(0);
    let mut service = demo.serve();
    let page = ask_and_stop(&mut service);
    check(&receiver, &page, &service.log());
    let keys = &receiver.0.lock().unwrap().keys;
    assert!(keys.iter().all(|key| key.as_deref() == Some("hunter2")), "{keys:?}");
}

/// Rotel takes both protocols and sends on what it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_collector_takes_all_of_it() {
    for protocol in ["grpc", "http/protobuf"] {
        let (receiver, endpoint) = Receiver::over_grpc().await;
        let kept = receiver.clone();
        let done = tokio::task::spawn_blocking(move || {
            let rotel = Rotel::start(&endpoint);
            let collector = if protocol == "grpc" { &rotel.endpoint } else { &rotel.http };
            let mut service = Demo::new().serve_with(&[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", collector),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_SERVICE_NAME", "mapper"),
                ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test"),
            ]);
            let page = ask_and_stop(&mut service);
            eventually("the collector has sent everything on", || {
                kept.records().iter().any(|record| body(record) == "Stopped")
                    && !kept.metrics().is_empty()
                    && kept.spans().len() >= 11
            });
            (page, service.log())
        });
        let (page, log) = done.await.unwrap();
        check(&receiver, &page, &log);
    }
}

/// One signal goes elsewhere than the others, one is off, and the sampler drops all traces.
#[test]
fn signals_are_configured_one_by_one() {
    let (receiver, endpoint) = Receiver::over_http();
    let mut service = Demo::new().serve_with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_LOGS_EXPORTER", "none"),
        ("OTEL_TRACES_SAMPLER", "always_off"),
    ]);
    ask_and_stop(&mut service);
    assert!(!receiver.metrics().is_empty(), "{}", service.log());
    assert!(receiver.spans().is_empty() && receiver.records().is_empty());
    let demo = Demo::new();
    let refused = std::process::Command::new(rcmpd_tests::binary())
        .args(["serve", "-c", "rcmpd.toml"])
        .current_dir(demo.path(""))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example")
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("https:// needs the CA of the collector"), "{told}");
}

/// nginx ends TLS in front of the receiver, with the certificate of the demo's site.
fn behind_tls(demo: &Demo, inner: &str, pass: &str) -> (Nginx, u16) {
    let address = free_port();
    let (certificate, key) = (demo.path("certs/site.pem"), demo.path("certs/site.key"));
    let servers = format!(
        "server {{\n  listen {address} ssl http2;\n  ssl_certificate {};\n  ssl_certificate_key {};\n  \
         location / {{ {pass}{inner}; }}\n}}\n",
        certificate.display(),
        key.display()
    );
    std::fs::create_dir(demo.path("nginx")).unwrap();
    (Nginx::start(&demo.path("nginx"), &servers, address), address.port())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_is_asked_over_tls_with_the_configured_ca_alone() {
    for protocol in ["grpc", "http/protobuf"] {
        let (receiver, inner) = match protocol {
            "grpc" => Receiver::over_grpc().await,
            _ => Receiver::over_http(),
        };
        let kept = receiver.clone();
        let done = tokio::task::spawn_blocking(move || {
            let demo = Demo::new();
            let inner = inner.strip_prefix("http://").unwrap().trim_end_matches("/otlp");
            let pass = if protocol == "grpc" {
                "grpc_pass grpc://"
            } else {
                "proxy_http_version 1.1; proxy_pass http://"
            };
            let (_nginx, port) = behind_tls(&demo, inner, pass);
            let path = if protocol == "grpc" { "" } else { "/otlp" };
            // Another CA, and another name than those in the certificate.
            let other = Demo::new();
            let other_ca = other.path("certs/ca.pem").display().to_string();
            let wrong = [("localhost", &*other_ca), ("127.0.0.2", "certs/ca.pem")];
            for (host, ca) in wrong {
                let mut service = demo.copied().serve_with(&[
                    ("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("https://{host}:{port}{path}")),
                    ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                    ("OTEL_EXPORTER_OTLP_CERTIFICATE", ca),
                    ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000"),
                    ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
                ]);
                service.map("alice").code(0);
                service.wait_for_log("Cannot export telemetry");
                service.signal(Signal::TERM);
                assert_eq!(service.ended(), 0);
            }
            assert!(kept.0.lock().unwrap().keys.is_empty(), "nothing was sent to another server");
            // The right CA, by the file.
            write_secret(demo.path("otlp.headers"), "api-key=hunter2\n");
            demo.configure(&format!(
                "[telemetry.otlp]\nendpoint = \"https://localhost:{port}{path}\"\nprotocol = \"{protocol}\"\n\
                 headers = \"file:otlp.headers\"\nca = [\"certs/ca.pem\"]\nservice_name = \"mapper\"\n\
                 attributes = {{ \"deployment.environment\" = \"test\" }}\nmetrics_interval_s = 1\n"
            ));
            demo.rcmpd(&["check-config", "rcmpd.toml"]).code(0);
            let mut service = demo.serve();
            let page = ask_and_stop(&mut service);
            (page, service.log())
        });
        let (page, log) = done.await.unwrap();
        check(&receiver, &page, &log);
        let keys = &receiver.0.lock().unwrap().keys;
        assert!(keys.iter().all(|key| key.as_deref() == Some("hunter2")), "{keys:?}");
        assert!(!log.contains("sent unencrypted"), "{log}");
    }
}

#[test]
fn headers_that_leave_this_machine_unencrypted_are_logged_at_start() {
    let serve = |endpoint| {
        Demo::new().serve_with(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=hunter2"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "100"),
        ])
    };
    // An address that no machine has (RFC 5737).
    let log = serve("http://192.0.2.1:4317").log();
    let warning = log.lines().find(|line| line.contains("sent unencrypted")).unwrap();
    assert!(warning.contains("WARN") && warning.contains("http://192.0.2.1:4317"), "{warning}");
    assert!(!log.contains("hunter2"), "{log}");
    let log = serve("http://127.0.0.1:1").log();
    assert!(!log.contains("sent unencrypted"), "{log}");
}

/// A collector that takes connections and never answers costs no call anything, and the log says what is
/// lost.
#[test]
fn a_silent_collector_is_logged_and_left() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    for protocol in ["grpc", "http/protobuf"] {
        let mut service = Demo::new().serve_with(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
        ]);
        service.map("alice").code(0);
        service.wait_for_log("Cannot export telemetry");
        service.map("alice").code(0);
        service.signal(Signal::TERM);
        assert_eq!(service.ended(), 0, "{}", service.log());
        let lines = service.log();
        let metrics = lines.lines().filter(|line| line.contains("signal=\"metrics\"")).count();
        assert_eq!(metrics, 1, "once a minute: {lines}");
    }
}

/// Every attribute with a text, of spans and events.
fn texts_of(receiver: &Receiver) -> Vec<(String, String)> {
    let of_spans = receiver.spans().into_iter().flat_map(|span| span.attributes);
    let of_records = receiver.records().into_iter().flat_map(|record| record.attributes);
    let text = |key: String, attributes: &[_]| Some((key.clone(), attribute(attributes, &key)?));
    of_spans.chain(of_records).filter_map(|pair| text(pair.key.clone(), &[pair])).collect()
}

/// What `deploy/collector/otelcol.yaml` leaves of what a service really sends has no names, and the traces of
/// refusals are kept.
#[test]
fn the_collector_of_deploy_takes_names_out() {
    let (receiver, endpoint) = Receiver::over_http();
    let mut service = Demo::new().serve_with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("RUST_LOG", "info,audit=debug"),
    ]);
    ask_and_stop(&mut service);
    let names = ["alice", "Alice", "mallory", "Mallory", "WEB01$", "CN=", &service.domain_sid()];
    let has_name = |text: &str| names.iter().any(|name| text.contains(name));
    let attributes = texts_of(&receiver);
    assert!(attributes.iter().any(|(_, text)| has_name(text)), "{attributes:?}");
    let questions =
        receiver.spans().into_iter().filter_map(|span| attribute(&span.attributes, "rcmp.status"));
    let statuses: Vec<i64> = questions.map(|status| status.parse().unwrap()).collect();
    assert!(statuses.contains(&0) && statuses.iter().any(|status| *status != 0), "{statuses:?}");
    let spans: Vec<_> = statuses.iter().map(|status| json!({ "rcmp.status": status })).collect();
    let texts = [
        "no account CONTOSO\\alice",
        "alice@contoso.example is not known",
        "CN=Alice Adams,OU=People",
        "as WEB01$",
    ];
    let left = collector_config(json!({ "attributes": attributes, "texts": texts, "spans": spans }));
    for pair in left["attributes"].as_array().unwrap() {
        assert!(!has_name(pair[1].as_str().unwrap()), "{pair}");
    }
    for text in left["texts"].as_array().unwrap() {
        assert!(!has_name(text.as_str().unwrap()), "{text}");
    }
    let kept: Vec<bool> = statuses.iter().map(|status| *status != 0).collect();
    assert_eq!(left["kept"], json!(kept));
}

/// `make demo-chain`: one trace over a sidecar and three domains, with Rotel and without a collector.
#[test]
fn the_demo_of_a_chain_prints_one_trace() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/demo-chain");
    for rotel in [None, Some("")] {
        let mut demo = std::process::Command::new(script);
        demo.arg(rcmpd_tests::binary());
        if let Some(rotel) = rotel {
            demo.env("ROTEL", rotel);
        }
        let done = demo.output().unwrap();
        let (told, log) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{told}{log}");
        assert_eq!(told.contains("collector: Rotel"), rotel.is_none(), "{told}");
        let mut depth = 0;
        for service in [
            "web: GET",
            "web: forward",
            "northwind: netlogon/NetrLogonSamLogonEx",
            "northwind: forward",
            "fabrikam: netlogon/NetrLogonSamLogonEx",
            "fabrikam: forward",
            "contoso: netlogon/NetrLogonSamLogonEx",
            "contoso: store_lookup",
        ] {
            let line = told
                .lines()
                .find(|line| line.contains(service))
                .unwrap_or_else(|| panic!("{service}: {told}"));
            let at = line.find(['└', '├']).unwrap();
            assert!(at == depth, "{service} is not below the span before it: {told}");
            depth += 3;
        }
    }
}

/// The records of the audit log, with their scope.
fn audit_records(receiver: &Receiver) -> Vec<LogRecord> {
    let received = receiver.0.lock().unwrap();
    let resources = received.logs.iter().flat_map(|request| &request.resource_logs);
    let scopes = resources.flat_map(|it| &it.scope_logs);
    let of_audit = scopes.filter(|it| it.scope.as_ref().is_some_and(|scope| scope.name == "rcmpd.audit"));
    of_audit.flat_map(|it| &it.log_records).cloned().collect()
}

#[test]
fn audit_lines_are_records_in_the_trace_of_their_call() {
    for encoding in ["rcmpd", "ocsf"] {
        let (receiver, endpoint) = Receiver::over_http();
        let demo = Demo::new();
        demo.configure(&format!("[audit.otlp]\nencoding = \"{encoding}\""));
        let mut service = demo.serve_with(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ]);
        ask_and_stop(&mut service);
        let records = audit_records(&receiver);
        let of_reason = |reason: &str| {
            let is_it =
                |it: &&LogRecord| attribute(&it.attributes, "rcmpd.reason").as_deref() == Some(reason);
            records.iter().find(is_it).unwrap_or_else(|| panic!("no {reason} in {records:#?}"))
        };
        let refused = of_reason("no_match");
        assert_eq!(attribute(&refused.attributes, "rcmpd.event").as_deref(), Some("map"));
        let line: serde_json::Value = serde_json::from_str(body(refused)).unwrap();
        let line = if encoding == "ocsf" {
            assert_eq!(line["class_uid"], 3002);
            &line["unmapped"]
        } else {
            &line
        };
        let decision = attribute(&refused.attributes, "rcmpd.decision");
        assert_eq!(
            (line["reason"].as_str(), line["decision"].as_str()),
            (Some("no_match"), decision.as_deref())
        );
        assert!(line.get("certificate").is_none(), "it is in the file alone");
        let spans = receiver.spans();
        let call = spans.iter().find(|span| span.span_id == refused.span_id).expect("its call");
        assert_eq!(attribute(&call.attributes, "rcmp.reason").as_deref(), Some("no_match"));
    }
}

#[test]
fn audit_copies_that_no_collector_takes_are_counted() {
    let demo = Demo::new();
    demo.configure("[audit.otlp]");
    let mut service = demo.serve_with(&[
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://127.0.0.1:1"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "10"),
    ]);
    service.map("alice").code(0);
    eventually("the loss is counted", || service.metric("rcmpd_audit_copies_lost_total") > 0);
    service.wait_for_log("Cannot export telemetry");
}
