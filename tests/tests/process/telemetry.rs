//! One span a call, by OTLP, received in this process.

use super::metrics::PROMETHEUS;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use rcmpd_tests::directory_store::into_directory;
use rcmpd_tests::peers::read_metrics;
use rcmpd_tests::postgres::Postgres;
use rcmpd_tests::{Demo, Service, eventually};
use rustix::process::Signal;
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};

/// Keeps what it receives.
#[derive(Clone, Default)]
pub(crate) struct Collector(pub(crate) Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// One that listens, and where.
    pub(crate) async fn listen() -> (Self, String) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        // Rotel compresses, whatever it is told.
        let service = TraceServiceServer::new(collector.clone()).accept_compressed(CompressionEncoding::Gzip);
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming));
        (collector, endpoint)
    }

    /// The spans that came, in their order.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let received = self.0.lock().unwrap();
        let resources = received.iter().flat_map(|request| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| &scope.spans).cloned().collect()
    }
}

pub(crate) fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()?;
    Some(match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_call_is_one_span() {
    let (collector, endpoint) = Collector::listen().await;
    let mut service = Demo::new().serve_with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test"),
    ]);
    let service = tokio::task::spawn_blocking(move || {
        service.map("alice").code(0);
        service.map("mallory").code(3);
        service.signal(Signal::TERM);
        assert_eq!(service.ended(), 0);
        service
    })
    .await
    .unwrap();
    let received = collector.0.lock().unwrap();
    let resources: Vec<_> = received.iter().flat_map(|request| &request.resource_spans).collect();
    for resource in &resources {
        let attributes = &resource.resource.as_ref().unwrap().attributes;
        assert_eq!(attribute(attributes, "service.name").as_deref(), Some("rcmpd"));
        assert_eq!(attribute(attributes, "deployment.environment").as_deref(), Some("test"));
    }
    let spans: Vec<_> =
        resources.iter().flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans).collect();
    let opnum = |number: &str| {
        spans
            .iter()
            .filter(move |span| attribute(&span.attributes, "opnum").as_deref() == Some(number))
            .collect::<Vec<_>>()
    };
    // Each `rcmpd map` makes one channel and checks it for a downgrade twice; alice is asked about twice, the
    // second time to learn by which method she was found.
    assert_eq!(opnum("4").len(), 2, "{}", service.log());
    assert_eq!(opnum("26").len(), 2);
    assert_eq!(opnum("21").len(), 4);
    let questions = opnum("39");
    assert_eq!(questions.len(), 3);
    let (lookups, calls): (Vec<&Span>, Vec<&Span>) =
        spans.iter().partition(|span| span.name == "store_lookup");
    assert_eq!(calls.len(), 11, "one span a call");
    // Each look-up is below its question, and says what was found, not for which name.
    for lookup in &lookups {
        let question = questions.iter().find(|question| question.span_id == lookup.parent_span_id);
        assert!(question.is_some_and(|question| question.trace_id == lookup.trace_id), "{lookup:?}");
        assert_eq!(attribute(&lookup.attributes, "store.kind").as_deref(), Some("sqlite"));
        assert!(!format!("{lookup:?}").contains("alice"), "{lookup:?}");
    }
    for question in &questions {
        let of_it = lookups.iter().filter(|lookup| lookup.parent_span_id == question.span_id);
        let found: Vec<_> =
            of_it.filter_map(|lookup| attribute(&lookup.attributes, "store.result")).collect();
        let is_mapped = attribute(&question.attributes, "rcmp.status").as_deref() == Some("0");
        assert!(!found.is_empty() && found.contains(&"one".to_owned()) == is_mapped, "{found:?}");
    }
    for span in &calls {
        // The names of the document ([MS-NRPC] 3.5.4).
        let method = match attribute(&span.attributes, "opnum").as_deref() {
            Some("4") => "netlogon/NetrServerReqChallenge",
            Some("21") => "netlogon/NetrLogonGetCapabilities",
            Some("26") => "netlogon/NetrServerAuthenticate3",
            _ => "netlogon/NetrLogonSamLogonEx",
        };
        assert_eq!((span.name.as_str(), span.kind), (method, 2), "a server");
        assert_eq!(attribute(&span.attributes, "rpc.method").as_deref(), Some(method));
        assert_eq!(attribute(&span.attributes, "rpc.system.name").as_deref(), Some("dcerpc"));
        assert_eq!(attribute(&span.attributes, "interface").as_deref(), Some("netlogon"));
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    }
    // By name ([MS-ERREF] 2.3.1), and who was found.
    let alice = format!("{}-1001", service.domain_sid());
    for question in &questions {
        let value = |name| attribute(&question.attributes, name);
        let expected = match value("rcmp.status").as_deref() {
            Some("0") => (Some("STATUS_SUCCESS".to_owned()), None, Some(alice.clone())),
            _ => {
                let failure = Some("STATUS_LOGON_FAILURE".to_owned());
                (failure.clone(), failure, None)
            }
        };
        assert_eq!((value("rpc.response.status_code"), value("error.type"), value("user.id")), expected);
    }
    let reasons: Vec<_> =
        questions.iter().filter_map(|span| attribute(&span.attributes, "rcmp.status")).collect();
    assert_eq!(reasons.iter().filter(|status| *status == "0").count(), 2, "{reasons:?}");
    assert_eq!(reasons.iter().filter(|status| *status == "3221225581").count(), 1);
}

/// The traces that the durations of decisions name as their exemplars, and the buckets that name one.
fn exemplars(service: &Service, result: &str) -> Vec<String> {
    let families = read_metrics(&service.get_with("/metrics", PROMETHEUS).1, "openmetrics");
    let samples = families.iter().flat_map(|family| family["samples"].as_array().unwrap());
    let of_result = samples.filter(|sample| {
        let is_bucket = sample["name"] == "rcmpd_decision_duration_seconds_bucket";
        is_bucket && sample["labels"]["result"] == result && sample["labels"]["le"] != "+Inf"
    });
    let traces = of_result.filter_map(|sample| {
        let exemplar = sample["exemplar"].as_object()?;
        // A bucket is as long as its exemplar, or longer.
        let bound: f64 = sample["labels"]["le"].as_str().unwrap().parse().unwrap();
        assert!(exemplar["value"].as_f64().unwrap() <= bound, "{sample}");
        Some(exemplar["labels"]["trace_id"].as_str().unwrap().to_owned())
    });
    traces.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn durations_name_a_trace_that_is_exported() {
    let (collector, endpoint) = Collector::listen().await;
    let asked = tokio::task::spawn_blocking(move || {
        let with = |sampler: &str| {
            let service = Demo::new()
                .serve_with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), ("OTEL_TRACES_SAMPLER", sampler)]);
            service.map("mallory").code(3);
            service
        };
        assert!(exemplars(&with("always_off"), "rejected").is_empty());
        let mut service = with("always_on");
        let found = exemplars(&service, "rejected");
        assert!(exemplars(&service, "mapped").is_empty());
        // The text format of Prometheus has none.
        let classic = service.get("/metrics").1;
        assert!(!classic.contains("trace_id") && !classic.contains("} 1 #"), "{classic}");
        service.signal(Signal::TERM);
        assert_eq!(service.ended(), 0);
        found
    });
    let found = asked.await.unwrap();
    let spans = collector.spans();
    let question = spans.iter().find(|span| attribute(&span.attributes, "rcmp.reason").is_some()).unwrap();
    let trace: String = question.trace_id.iter().map(|octet| format!("{octet:02x}")).collect();
    assert_eq!(found, [trace]);
}

/// The spans below a span.
fn below<'s>(spans: &'s [Span], parent: &Span) -> Vec<&'s Span> {
    spans.iter().filter(|span| span.parent_span_id == parent.span_id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_of_a_database_server_are_spans_below_their_look_up() {
    let (collector, endpoint) = Collector::listen().await;
    tokio::task::spawn_blocking(move || {
        let server = Postgres::start();
        let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())];
        let mut service = Demo::new().into_postgres(&server, "").serve_with(&environment);
        service.map("alice").code(0);
        service.signal(Signal::TERM);
        assert_eq!(service.ended(), 0);
    })
    .await
    .unwrap();
    let spans = collector.spans();
    let is_question = |span: &&Span| attribute(&span.attributes, "opnum").as_deref() == Some("39");
    let questions: Vec<_> = spans.iter().filter(is_question).collect();
    assert_eq!(questions.len(), 2);
    let lookups: Vec<_> = questions.iter().flat_map(|question| below(&spans, question)).collect();
    let result = |span: &Span| attribute(&span.attributes, "store.result");
    let found = lookups.iter().find(|lookup| result(lookup).as_deref() == Some("one")).unwrap();
    assert_eq!(attribute(&found.attributes, "store.kind").as_deref(), Some("postgres"));
    let statements = below(&spans, found);
    // One reads the account, and one the names of its groups, which are known later.
    assert_eq!(statements.len(), 2, "{spans:#?}");
    for statement in statements {
        assert_eq!((&*statement.name, statement.kind), ("sql_query", 3));
        let value = |name| attribute(&statement.attributes, name).unwrap();
        assert_eq!((value("db.system.name"), value("role")), ("postgresql".into(), "primary".into()));
    }
    // The cache answers what was found before: the second question asks the server for nothing that was
    // found.
    let found = lookups.iter().filter(|lookup| result(lookup).as_deref() == Some("one")).count();
    assert_eq!(found, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_in_a_directory_are_a_span_below_their_look_up() {
    let (collector, endpoint) = Collector::listen().await;
    let (port, searches) = tokio::task::spawn_blocking(move || {
        let demo = Demo::new();
        let slapd = into_directory(&demo, "", "");
        demo.rcmpd(&["check-config", "rcmpd.toml"]).code(0);
        let mut service = demo.serve_with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())]);
        service.map("alice").code(0);
        let searches = service.metric("rcmpd_store_ldap_searches_total");
        service.signal(Signal::TERM);
        assert_eq!(service.ended(), 0);
        (slapd.ldaps, searches)
    })
    .await
    .unwrap();
    let spans = collector.spans();
    let value = |span: &Span, name| attribute(&span.attributes, name).unwrap_or_default();
    let is_found = |span: &&Span| span.name == "store_lookup" && value(span, "store.result") == "one";
    let found = spans.iter().find(is_found).unwrap();
    assert_eq!(value(found, "store.kind"), "ldap");
    let asked = below(&spans, found);
    assert_eq!(asked.len(), 1, "one connection: {spans:#?}");
    assert_eq!((&*asked[0].name, asked[0].kind), ("ldap_search", 3));
    assert_eq!(value(asked[0], "server.address"), "127.0.0.1");
    assert_eq!(value(asked[0], "server.port"), port.to_string());
    // The account, and its groups.
    assert!(value(asked[0], "searches").parse::<u64>().unwrap() >= 2, "{asked:?}");
    let all = spans.iter().filter_map(|span| attribute(&span.attributes, "searches"));
    assert_eq!(all.map(|count| count.parse::<u64>().unwrap()).sum::<u64>(), searches);
    assert!(!format!("{spans:?}").contains("alice"), "{spans:#?}");
}

#[test]
fn a_collector_that_is_not_there_harms_no_call() {
    let mut service = Demo::new().serve_with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
    ]);
    service.map("alice").code(0);
    service.signal(Signal::TERM);
    assert_eq!(service.ended(), 0);
}

/// Answers nothing until it is released.
#[derive(Clone)]
struct Held {
    collector: Collector,
    released: Arc<Semaphore>,
}

#[tonic::async_trait]
impl TraceService for Held {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let _permit = self.released.acquire().await;
        self.collector.export(request).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_that_a_slow_collector_does_not_take_are_counted() {
    let burst = |service: &Service| {
        for _ in 0..3 {
            service.map("alice").code(0);
        }
    };
    // As many spans as there are, from a service with room for all of them.
    let (all, endpoint) = Collector::listen().await;
    tokio::task::spawn_blocking(move || {
        let mut service = Demo::new().serve_with(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &endpoint)]);
        burst(&service);
        assert_eq!(service.metric("rcmpd_telemetry_dropped_total{signal=\"traces\"}"), 0);
        service.signal(Signal::TERM);
        assert_eq!(service.ended(), 0);
    })
    .await
    .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let held = Held { collector: Collector::default(), released: Arc::new(Semaphore::new(0)) };
    let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(held.clone()));
    tokio::spawn(server.serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener)));
    let released = Arc::clone(&held.released);
    let dropped = tokio::task::spawn_blocking(move || {
        let mut service = Demo::new().serve_with(&[
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &endpoint),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "60000"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "4"),
            ("OTEL_BSP_SCHEDULE_DELAY", "10"),
        ]);
        burst(&service);
        let dropped = service.metric("rcmpd_telemetry_dropped_total{signal=\"traces\"}");
        released.add_permits(1);
        service.wait_for_log("Telemetry dropped");
        service.signal(Signal::TERM);
        assert_eq!(service.ended(), 0);
        assert_eq!(service.log().matches("Telemetry dropped").count(), 1, "{}", service.log());
        dropped
    })
    .await
    .unwrap();
    assert!(dropped > 0);
    let exported = held.collector.spans().len() as u64;
    assert_eq!(exported + dropped, all.spans().len() as u64, "each span is exported or counted");
}

#[test]
fn spans_of_failed_requests_are_counted() {
    let mut service = Demo::new().serve_with(&[
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1"),
        ("OTEL_BSP_SCHEDULE_DELAY", "10"),
    ]);
    service.map("alice").code(0);
    eventually("the loss is counted", || {
        service.metric("rcmpd_telemetry_dropped_total{signal=\"traces\"}") > 0
    });
    service.wait_for_log("Cannot export telemetry");
}
