//! The admin port. Health (live, ready and metrics) tells nothing that needs a secret and is open; explanations show what
//! accounts have stored, and are for who has the token.

use super::store_health::StoreHealth;
use crate::audit::AuditLog;
use crate::clock::moment;
use crate::config::Admin;
use crate::deciders::{CurrentPolicy, Deciders};
use crate::output::{visible, visible_json};
use crate::trust::certificates::Chain;
use crate::trust::lists::Lists;
use arc_swap::ArcSwap;
use axum::extract::{self, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use dcerpc_tokio::{ConnectionLimits, ConnectionPermit, EvictionReason, Server};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rcmp_service::Method;
use rcmp_service::message::Request;
use rcmp_service::trust::CrlFacts;
use sidecar_tokio::connections::{ConnectionMeter, Connections, Counts, DRAIN_TIMEOUT, Rejection};
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tower::ServiceExt;
use zeroize::Zeroizing;

/// Whether calls are welcome.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    ready: Arc<AtomicBool>,
}

impl Health {
    pub(super) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }
}

/// What requests are answered from.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) health: Health,
    pub(super) store: Option<StoreHealth>,
    pub(super) server: Option<Arc<Server>>,
    pub(super) sidecar: Option<Arc<ArcSwap<sidecar::Sidecar>>>,
    pub(super) audit: Arc<AuditLog>,
    pub(super) operators: Option<Arc<Operators>>,
    pub(super) policy: CurrentPolicy,
    pub(super) config: String,
    /// What counts the connections of the listeners for web servers and their clients, and of this port.
    pub(super) connections: Arc<[ConnectionMeter]>,
}

/// Serves for as long as the process lives. Connections are accepted at once. One whose client has not shown the token is evicted for a
/// newer one, so silent clients keep monitoring out no longer than a request takes.
pub(super) async fn serve(listener: TcpListener, shared: Shared, mut meters: Vec<ConnectionMeter>) {
    let limits = ConnectionLimits {
        unproved_max: UNPROVED_MAX,
        started_max: STARTED_MAX,
        unproved_per_address_max: UNPROVED_MAX,
        proved_max: OPERATORS_MAX,
        proved_per_identity_max: OPERATORS_MAX,
    };
    let connections = Arc::new(Connections::new("admin", limits));
    let address = listener.local_addr().map_or_else(|_| String::new(), |address| address.to_string());
    meters.push(connections.meter(address));
    let operators = shared.operators.clone();
    let router = Router::new()
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/explain", post(explain))
        .route("/identity/{reference}", get(identity))
        .route("/.well-known/jwks.json", get(jwks))
        .with_state(Shared { connections: meters.into(), ..shared });
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                let permit = Arc::new(connections.admit(address.ip()));
                let (connections, operators) = (Arc::clone(&connections), operators.clone());
                let origin = (stream, address);
                tokio::spawn(connection(connections, origin, permit, operators, router.clone()));
                // An evicted connection closes before the next one is accepted.
                tokio::task::yield_now().await;
            }
            Err(error) => connections.not_accepted(error).await,
        }
    }
}

/// What a client of the admin port proves: that it has the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Operator;

async fn connection(
    connections: Arc<Connections<Operator>>,
    (stream, address): (TcpStream, SocketAddr),
    permit: Arc<ConnectionPermit<Operator>>,
    operators: Option<Arc<Operators>>,
    router: Router,
) {
    if connections.wait_for_first_bytes(&stream, &permit, HEAD_TIMEOUT).await {
        // Boxed: until the first bytes come, the task has no room for what follows.
        Box::pin(begun(connections, (stream, address), permit, operators, router)).await;
    }
}

/// Serves a connection whose first bytes have come.
async fn begun(
    connections: Arc<Connections<Operator>>,
    (stream, address): (TcpStream, SocketAddr),
    permit: Arc<ConnectionPermit<Operator>>,
    operators: Option<Arc<Operators>>,
    router: Router,
) {
    permit.advance();
    let shown = Arc::clone(&permit);
    let router = router.map_request(move |request: hyper::Request<_>| {
        if operators.as_ref().is_some_and(|operators| operators.admits(request.headers()).is_ok()) {
            shown.prove(Operator);
        }
        request
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_LEN_MAX);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // What has come is answered before the connection makes room for another one.
        biased;
        ended = timeout(CONNECTION_TIMEOUT, connection.as_mut()) => if let Ok(Err(error)) = ended {
            connections.ended(&error, false, Some(address));
        },
        () = permit.evicted() => if let Some(_draining) = connections.evicted(permit.is_proved()) {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(DRAIN_TIMEOUT, connection).await;
        },
    }
}

/// Connections whose clients have not shown the token: monitoring, and any other client that reaches the port. A request has to be
/// answered before so many others have connected: within 0.8 seconds where 5,000 connect in a second.
const UNPROVED_MAX: usize = 4096;
/// Those that have sent something: each may hold the head of a request, 16 KiB.
const STARTED_MAX: usize = 1024;
/// Connections of operators, who have.
const OPERATORS_MAX: usize = 64;
/// Connections at once.
pub(super) const CONNECTIONS_MAX: usize = UNPROVED_MAX + STARTED_MAX + OPERATORS_MAX;
/// For the head of a request, and between two of them.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The head of a request: a token, and what monitoring says of itself. Each unproved connection may hold one.
const HEAD_LEN_MAX: usize = 16 << 10;
/// For a connection in all.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);

/// A certificate with its chain, as PEM.
const EXPLAIN_LEN_MAX: usize = 1 << 20;
/// How long a certificate may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Explanations made at once: one for a refusal may read all accounts.
const EXPLANATIONS_MAX: usize = 1;

/// Who may ask for more than health: whoever has the token, from no page of a browser, and by a name that is ours.
pub(super) struct Operators {
    token: Zeroizing<String>,
    hosts: Vec<String>,
    explaining: Semaphore,
}

impl Operators {
    pub(super) fn new(admin: &Admin, token: Zeroizing<String>, address: SocketAddr) -> Self {
        let mut hosts = vec![address.to_string(), address.ip().to_string()];
        hosts.extend(["localhost".to_owned(), format!("localhost:{}", address.port())]);
        hosts
            .extend(admin.hosts.iter().flat_map(|host| [host.clone(), format!("{host}:{}", address.port())]));
        Self { token, hosts, explaining: Semaphore::new(EXPLANATIONS_MAX) }
    }

    fn admits(&self, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).map(str::to_ascii_lowercase);
        // A page of a browser names its origin, and a name that was made to lead here is none of ours.
        if headers.contains_key(ORIGIN) || !host.is_some_and(|host| self.hosts.contains(&host)) {
            return Err((
                StatusCode::FORBIDDEN,
                "ask by the address in admin.listen or a name in admin.hosts\n",
            ));
        }
        let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        match bool::from(shown.as_bytes().ct_eq(self.token.as_bytes())) {
            true => Ok(()),
            false => Err((StatusCode::UNAUTHORIZED, "show the token: Authorization: Bearer …\n")),
        }
    }
}

/// The decision about a certificate, PEM with its chain or DER, as `rcmpd explain --json` prints it.
///
/// Nothing of a body is read before whoever sends it has shown the token.
async fn explain(State(shared): State<Shared>, request: axum::extract::Request) -> Response {
    let Some(operators) = &shared.operators else {
        return (StatusCode::NOT_FOUND, "admin.token is not configured\n").into_response();
    };
    if let Err(refused) = operators.admits(request.headers()) {
        return refused.into_response();
    }
    let Ok(_permit) = operators.explaining.try_acquire() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "others are being explained; ask again\n").into_response();
    };
    let body = axum::body::to_bytes(request.into_body(), EXPLAIN_LEN_MAX);
    let body = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
    };
    let chain = match Chain::from_bytes(&body) {
        Ok(chain) => chain,
        Err(error) => {
            return (StatusCode::BAD_REQUEST, format!("{}\n", visible(&error.to_string()))).into_response();
        }
    };
    let flags = Method::Upn.flag().with(Method::Subject.flag());
    let request = chain
        .issuers()
        .ok()
        .and_then(|issuers| Request { flags, certificate: chain.certificate(), issuers }.encode());
    let Some(request) = request else {
        return (StatusCode::BAD_REQUEST, format!("{}\n", chain.too_long())).into_response();
    };
    let deciders = shared.policy.0.load_full();
    let certificate = chain.certificate();
    match crate::explain::explain(
        &deciders.live,
        deciders.forwarding.forwarder.domains(),
        &deciders.accounts,
        &request,
        certificate,
        &shared.config,
    )
    .await
    {
        Ok((_, explanation)) => {
            let text = serde_json::to_string(&explanation).unwrap_or_default();
            ([(CONTENT_TYPE, "application/json")], visible_json(&text)).into_response()
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")).into_response(),
    }
}

/// The whole of an identity whose headers did not hold it, by its reference.
async fn identity(
    State(shared): State<Shared>,
    extract::Path(reference): extract::Path<String>,
    headers: HeaderMap,
) -> Response {
    let Some(operators) = &shared.operators else {
        return (StatusCode::NOT_FOUND, "admin.token is not configured\n").into_response();
    };
    if let Err(refused) = operators.admits(&headers) {
        return refused.into_response();
    }
    match shared.sidecar.as_ref().and_then(|sidecar| sidecar.load().referenced(&reference)) {
        Some(identity) => Json(&*identity).into_response(),
        None => (StatusCode::NOT_FOUND, "there is no such reference, or it was forgotten\n").into_response(),
    }
}

/// The public keys of signed identities (RFC 7517): nothing that needs a secret.
async fn jwks(State(shared): State<Shared>) -> Response {
    match shared.sidecar.as_ref().and_then(|sidecar| sidecar.load().jwks(moment().uptime)) {
        Some(keys) => Json(keys).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn ready(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    if !shared.health.ready.load(Ordering::Acquire) {
        return (StatusCode::SERVICE_UNAVAILABLE, "not ready\n");
    }
    match &shared.store {
        Some(store) if !store.is_usable().await => {
            (StatusCode::SERVICE_UNAVAILABLE, "not ready: the account store cannot be used, see the log\n")
        }
        _ => (StatusCode::OK, "ready\n"),
    }
}

/// The text format of Prometheus.
async fn metrics(State(shared): State<Shared>) -> String {
    let mut text = String::new();
    if let Some(server) = &shared.server {
        rpc_metrics(&mut text, server);
    }
    let _ = writeln!(
        text,
        "# HELP rcmpd_decisions_total Answers by reason.\n# TYPE rcmpd_decisions_total counter"
    );
    for (reason, count) in shared.audit.decisions() {
        let _ = writeln!(text, "rcmpd_decisions_total{{reason=\"{reason}\"}} {count}");
    }
    let shadows = shared.audit.shadows();
    let _ = writeln!(
        text,
        "# HELP rcmpd_shadow_decisions_total What the shadow policy decided, beside the live one.\n# TYPE rcmpd_shadow_decisions_total counter"
    );
    for (outcome, count) in [("same", shadows.agreed), ("left_out", shadows.left_out)] {
        let _ = writeln!(text, "rcmpd_shadow_decisions_total{{outcome=\"{outcome}\"}} {count}");
    }
    let _ = writeln!(
        text,
        "# HELP rcmpd_shadow_divergences_total Decisions that would be others by the shadow policy.\n# TYPE rcmpd_shadow_divergences_total counter"
    );
    for ((live, shadow), count) in shadows.divergences {
        let _ =
            writeln!(text, "rcmpd_shadow_divergences_total{{live=\"{live}\",shadow=\"{shadow}\"}} {count}");
    }
    let _ = writeln!(
        text,
        "# HELP rcmpd_audit_failures_total Audit lines that could not be written.\n# TYPE rcmpd_audit_failures_total counter"
    );
    let _ = writeln!(text, "rcmpd_audit_failures_total {}", shared.audit.failures());
    if let Some(store) = &shared.store {
        let _ = writeln!(
            text,
            "# HELP rcmpd_store_usable Whether the account store can be used.\n# TYPE rcmpd_store_usable gauge\nrcmpd_store_usable {}",
            u8::from(store.was_usable())
        );
    }
    let _ = writeln!(
        text,
        "# HELP rcmpd_askers_refused_total What was refused to accounts that are over a limit, by reason.\n# TYPE rcmpd_askers_refused_total counter"
    );
    for (reason, count) in shared.audit.over_limits() {
        let _ = writeln!(text, "rcmpd_askers_refused_total{{reason=\"{reason}\"}} {count}");
    }
    let _ = writeln!(
        text,
        "# HELP rcmpd_audit_head_failures_total Heads of the audit log that could not be written.\n# TYPE rcmpd_audit_head_failures_total counter"
    );
    let _ = writeln!(text, "rcmpd_audit_head_failures_total {}", shared.audit.head_failures());
    let _ = writeln!(
        text,
        "# HELP rcmpd_audit_changes_total Changes of the audit log or its heads by other programs.\n# TYPE rcmpd_audit_changes_total counter"
    );
    let _ = writeln!(text, "rcmpd_audit_changes_total {}", shared.audit.changes());
    let deciders = shared.policy.0.load();
    revocation_metrics(&mut text, &deciders);
    peer_metrics(&mut text, &deciders);
    if let Some(sidecar) = &shared.sidecar {
        sidecar_metrics(&mut text, &sidecar.load());
    }
    connection_metrics(&mut text, &shared.connections);
    let _ = writeln!(
        text,
        "# HELP rcmpd_relays_total Calls of packages that are answered elsewhere, by outcome.\n# TYPE rcmpd_relays_total counter"
    );
    for ((package, outcome), count) in shared.audit.relays() {
        let package = label(&package);
        let _ = writeln!(text, "rcmpd_relays_total{{package=\"{package}\",outcome=\"{outcome}\"}} {count}");
    }
    text
}

/// Connections and calls of RPC.
fn rpc_metrics(text: &mut String, server: &Server) {
    let counters = server.counters();
    for (name, kind, help, value) in [
        ("rcmpd_connections_open", "gauge", "Connections open now.", &counters.open),
        ("rcmpd_connections_total", "counter", "Connections accepted.", &counters.accepted),
        (
            "rcmpd_bind_timeouts_total",
            "counter",
            "Connections closed because nothing was received or no bind was finished in time.",
            &counters.bind_timeouts,
        ),
        (
            "rcmpd_pdu_timeouts_total",
            "counter",
            "Connections closed because a PDU did not arrive in time.",
            &counters.pdu_timeouts,
        ),
        (
            "rcmpd_idle_timeouts_total",
            "counter",
            "Connections closed because nothing happened for long.",
            &counters.idle_timeouts,
        ),
        (
            "rcmpd_call_timeouts_total",
            "counter",
            "Connections closed because a call did not arrive in time.",
            &counters.call_timeouts,
        ),
        (
            "rcmpd_write_timeouts_total",
            "counter",
            "Connections closed because the peer did not take its answers.",
            &counters.write_timeouts,
        ),
        ("rcmpd_replies_total", "counter", "Calls answered with results.", &counters.replies),
        ("rcmpd_faults_total", "counter", "Calls answered with a fault.", &counters.faults),
        ("rcmpd_cancelled_total", "counter", "Calls that their client cancelled.", &counters.cancelled),
        ("rcmpd_panics_total", "counter", "Connections ended by a panic.", &counters.panics),
    ] {
        let value = value.load(Ordering::Relaxed);
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
    let limiter = server.limiter();
    let evictions = |reasons: &[EvictionReason]| -> u64 {
        reasons.iter().map(|reason| limiter.evictions_for(*reason)).sum()
    };
    for (name, kind, help, value) in [
        (
            "rcmpd_connections_refused_total",
            "counter",
            "Connections evicted, except for the limit of one address: the sum of rcmpd_connections_evicted_total over the reasons unproved, proved, account and memory.",
            evictions(&[
                EvictionReason::Unproved,
                EvictionReason::Proved,
                EvictionReason::Account,
                EvictionReason::Memory,
            ]),
        ),
        (
            "rcmpd_connections_refused_address_total",
            "counter",
            "Connections evicted because there are too many from one address: rcmpd_connections_evicted_total with the reason address.",
            evictions(&[EvictionReason::Address]),
        ),
        (
            "rcmpd_connections_proved",
            "gauge",
            "Connections open now whose clients have proved an account.",
            limiter.open().1 as u64,
        ),
        (
            "rcmpd_unproved_bytes",
            "gauge",
            "Bytes held by connections whose clients have proved nothing.",
            limiter.unproved_bytes() as u64,
        ),
        (
            "rcmpd_reassembly_bytes",
            "gauge",
            "Bytes held by unfinished calls of clients that have proved an account.",
            server.reassembly_used() as u64,
        ),
    ] {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
    let _ = writeln!(
        text,
        "# HELP rcmpd_connections_evicted_total Connections evicted for other connections, by the limit that was reached.\n# TYPE rcmpd_connections_evicted_total counter"
    );
    for reason in EvictionReason::ALL {
        let (name, count) = (reason.name(), limiter.evictions_for(reason));
        let _ = writeln!(text, "rcmpd_connections_evicted_total{{reason=\"{name}\"}} {count}");
    }
}

/// Connections of the listeners for web servers and their clients, and of the admin port.
fn connection_metrics(text: &mut String, meters: &[ConnectionMeter]) {
    let counts: Vec<_> = meters.iter().map(|meter| (meter, meter.counts())).collect();
    let mut family = |name: &str, help: &str, kind: &str, of: &dyn Fn(&Counts) -> (u64, u64)| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (meter, counts) in &counts {
            let (listener, address) = (meter.listener, label(&meter.address));
            let (unproved, proved) = of(counts);
            for (client, count) in [("unproved", unproved), ("proved", proved)] {
                let _ = writeln!(
                    text,
                    "{name}{{listener=\"{listener}\",address=\"{address}\",client=\"{client}\"}} {count}"
                );
            }
        }
    };
    family(
        "rcmpd_listener_connections_open",
        "Connections open now, by whether their client has proved who it is.",
        "gauge",
        &|counts| (counts.open.0 as u64, counts.open.1 as u64),
    );
    family(
        "rcmpd_listener_connections_evicted_total",
        "Connections closed for a newer one because a connection limit was reached.",
        "counter",
        &|counts| counts.evicted,
    );
    let name = "rcmpd_listener_rejected_total";
    let help = "Connections and requests rejected before a request could be handled, by reason.";
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
    for (meter, counts) in &counts {
        let (listener, address) = (meter.listener, label(&meter.address));
        for (reason, count) in Rejection::ALL.into_iter().zip(counts.rejected) {
            let reason = reason.name();
            let _ = writeln!(
                text,
                "{name}{{listener=\"{listener}\",address=\"{address}\",reason=\"{reason}\"}} {count}"
            );
        }
    }
    let name = "rcmpd_upstream_failures_total";
    let help = "Requests that the application behind a listener did not answer, by reason.";
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
    for (meter, upstream) in meters.iter().filter_map(|meter| Some((meter, meter.upstream.as_ref()?))) {
        let (listener, address) = (meter.listener, label(&meter.address));
        let application = label(&upstream.application);
        for (reason, count) in (upstream.failures)() {
            let _ = writeln!(
                text,
                "{name}{{listener=\"{listener}\",address=\"{address}\",upstream=\"{application}\",reason=\"{reason}\"}} {count}"
            );
        }
    }
    let name = "rcmpd_listener_unproved_bytes";
    let help =
        "Memory of connections whose client has proved nothing, beyond what each may hold in any case.";
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
    for (meter, counts) in counts.iter().filter(|(_, counts)| counts.has_budget) {
        let (listener, address) = (meter.listener, label(&meter.address));
        let bytes = counts.unproved_bytes;
        let _ = writeln!(text, "{name}{{listener=\"{listener}\",address=\"{address}\"}} {bytes}");
    }
}

/// Answers to proxies, and what is remembered of them.
fn sidecar_metrics(text: &mut String, sidecar: &sidecar::Sidecar) {
    let _ = writeln!(
        text,
        "# HELP rcmpd_sidecar_requests_total Requests of proxies by dialect and outcome.\n# TYPE rcmpd_sidecar_requests_total counter"
    );
    for ((dialect, outcome), count) in sidecar.meter().outcomes() {
        let _ = writeln!(
            text,
            "rcmpd_sidecar_requests_total{{dialect=\"{dialect}\",outcome=\"{outcome}\"}} {count}"
        );
    }
    let _ = writeln!(
        text,
        "# HELP rcmpd_sidecar_decisions_total Decisions for proxies: made, or remembered.\n# TYPE rcmpd_sidecar_decisions_total counter"
    );
    let meter = sidecar.meter();
    for (how, count) in [("made", &meter.made), ("remembered", &meter.remembered)] {
        let count = count.load(Ordering::Relaxed);
        let _ = writeln!(text, "rcmpd_sidecar_decisions_total{{how=\"{how}\"}} {count}");
    }
    let _ = writeln!(
        text,
        "# HELP rcmpd_sidecar_remembered Decisions remembered now.\n# TYPE rcmpd_sidecar_remembered gauge\nrcmpd_sidecar_remembered {}",
        sidecar.remembered()
    );
}

/// Requests to other domains, by server.
fn peer_metrics(text: &mut String, deciders: &Deciders) {
    let mut families: Vec<(&str, String)> = Vec::new();
    for (domain, package, servers) in deciders.forwarding.servers() {
        let domain = label(domain);
        let package = package.map(|package| format!(",package=\"{}\"", label(package))).unwrap_or_default();
        for client in servers.clients() {
            let server = label(client.server());
            let is_open = u8::from(client.is_circuit_open());
            let state = (
                "rcmpd_peer_circuit_open",
                "gauge",
                "Whether the circuit breaker is open: requests to the server fail at once.",
                f64::from(is_open),
            );
            for (name, kind, help, value) in client.meter().metrics().into_iter().chain([state]) {
                let at = match families.iter().position(|(known, _)| *known == name) {
                    Some(at) => at,
                    None => {
                        families.push((name, format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")));
                        families.len() - 1
                    }
                };
                let family = &mut families[at].1;
                let _ =
                    writeln!(family, "{name}{{domain=\"{domain}\",server=\"{server}\"{package}}} {value}");
            }
        }
    }
    families.iter().for_each(|(_, family)| text.push_str(family));
}

/// Lists by their names in the configuration, and questions to responders.
fn revocation_metrics(text: &mut String, deciders: &Deciders) {
    let lists: Vec<_> = deciders.lists().into_iter().flat_map(Lists::facts).collect();
    type Value = fn(&CrlFacts) -> i64;
    let facts: [(&str, &str, Value); 3] = [
        (
            "rcmpd_crl_this_update_seconds",
            "When a revocation list was made, in Unix time; 0 while there is none.",
            |facts| facts.this_update.to_unix(),
        ),
        (
            "rcmpd_crl_next_update_seconds",
            "When a revocation list expires, in Unix time; 0 while there is none.",
            |facts| facts.next_update.to_unix(),
        ),
        ("rcmpd_crl_entries", "Certificates that a revocation list revokes.", |facts| {
            i64::try_from(facts.entries).unwrap_or(i64::MAX)
        }),
    ];
    for (name, help, value) in facts {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (list, facts) in &lists {
            let issuer = facts.as_ref().map_or("", |facts| &facts.issuer);
            let (list, issuer) = (label(list), label(issuer));
            let value = facts.as_ref().map_or(0, value);
            let _ = writeln!(text, "{name}{{list=\"{list}\",issuer=\"{issuer}\"}} {value}");
        }
    }
    let _ = writeln!(
        text,
        "# HELP rcmpd_crl_refresh_failures_total Revocation lists that could not be had or used.\n# TYPE rcmpd_crl_refresh_failures_total counter\nrcmpd_crl_refresh_failures_total {}",
        deciders.remote().fetcher.failures()
    );
    let _ = writeln!(
        text,
        "# HELP rcmpd_ocsp_questions_total Questions to OCSP responders by outcome.\n# TYPE rcmpd_ocsp_questions_total counter"
    );
    for (outcome, count) in deciders.remote().responder.outcomes() {
        let _ = writeln!(text, "rcmpd_ocsp_questions_total{{outcome=\"{outcome}\"}} {count}");
    }
}

/// A label's value, between its quotes.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
