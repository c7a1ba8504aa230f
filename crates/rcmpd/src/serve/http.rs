//! The admin port. Health (live, ready and metrics) tells nothing that needs a secret and is open;
//! explanations show what accounts have stored, and are for who has the token.

use super::admin::{EXPLAIN_LEN_MAX, Shared, explanation, read_body};
use super::admin_tls::{self, CurrentTls};
use super::operators::Operators;
use super::{page, status};
use crate::clock::moment;
use crate::config::Admin;
use crate::output::visible_json;
use crate::socket_activation::{ADMIN, PassedSockets};
use crate::tlsnego::Tlsnego;
use anyhow::Context;
use arc_swap::ArcSwap;
use axum::extract::{self, State};
use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use dcerpc_tokio::{ConnectionLimits, ConnectionPermit};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use listener_tokio::connections::{ConnectionMeter, Connections, DRAIN_TIMEOUT, Rejection};
use prometheus_client::encoding::{prometheus_text, text as openmetrics};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tlsnego_service::session::StoreFailed;
use tlsnego_soap::server::Ending;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// The admin port, bound: its listener, and the one for operators with certificates.
pub(super) struct Port {
    plain: Listener,
    tls: Option<Listener>,
}

struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    connections: Arc<Connections<Operator>>,
    /// Only clients with a certificate of an operator get through.
    tls: Option<CurrentTls>,
}

impl Listener {
    fn new(listener: TcpListener, tls: Option<CurrentTls>) -> anyhow::Result<Self> {
        let (address, limits) = (listener.local_addr()?, if tls.is_some() { TLS_LIMITS } else { LIMITS });
        Ok(Self { listener, address, connections: Arc::new(Connections::new("admin", limits)), tls })
    }

    /// Connections are accepted at once. One whose client has not shown the token is evicted for a newer one,
    /// so silent clients keep monitoring out no longer than a request takes.
    async fn serve(self, operators: Option<Arc<Operators>>, router: Router) {
        let Self { listener, connections, tls, .. } = self;
        // Monitoring looks on while calls in flight are answered, so no shutdown ends it.
        let (never, accept) = (CancellationToken::new(), || listener.accept());
        while let Some((stream, address)) = connections.accept_next(&never, accept).await {
            let permit = Arc::new(connections.admit(address.ip()));
            let client = Client { connections: Arc::clone(&connections), address, permit };
            tokio::spawn(client.serve(stream, tls.clone(), operators.clone(), router.clone()));
        }
    }
}

impl Port {
    /// Binds it.
    pub(super) async fn bind(admin: &Admin, passed_sockets: &PassedSockets) -> anyhow::Result<Self> {
        let plain = Listener::new(passed_sockets.listen(ADMIN, admin.listen).await?, None)?;
        let tls = match &admin.tls {
            None => None,
            Some(tls) => {
                let current = Arc::new(ArcSwap::from_pointee(admin_tls::server_config(tls)?));
                let context = || format!("cannot listen at {}", tls.listen);
                let listener = TcpListener::bind(tls.listen).await.with_context(context)?;
                Some(Listener::new(listener, Some(current))?)
            }
        };
        Ok(Self { plain, tls })
    }

    /// What its handshakes go by, for a reload to replace.
    pub(super) fn tls(&self) -> Option<CurrentTls> {
        self.tls.as_ref()?.tls.clone()
    }

    /// Where it is, the listener without TLS first.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners().map(|listener| listener.address).collect()
    }

    fn listeners(&self) -> impl Iterator<Item = &Listener> {
        [&self.plain].into_iter().chain(&self.tls)
    }

    /// What counts its connections.
    pub(super) fn meters(&self) -> Vec<ConnectionMeter> {
        self.listeners().map(|it| it.connections.meter(it.address.to_string())).collect()
    }

    /// Serves for as long as the process lives.
    pub(super) async fn serve(self, shared: Shared) {
        let Self { plain, tls } = self;
        let operators = shared.operators.clone();
        let router = Router::new()
            .route("/live", get(|| async { "live\n" }))
            .route("/ready", get(ready))
            .route("/metrics", get(metrics))
            .route("/explain", post(explain))
            .route("/status", get(status_of))
            .route("/log", get(log_filter).put(set_log_filter))
            .route("/identity/{reference}", get(identity))
            .route("/tlsnego/sessions", get(sessions))
            .route("/tlsnego/sessions/{name}", get(session).delete(end_session))
            .route("/.well-known/jwks.json", get(jwks))
            .merge(page::routes())
            .with_state(shared);
        if let Some(tls) = tls {
            tokio::spawn(tls.serve(operators.clone(), router.clone()));
        }
        plain.serve(operators, router).await;
    }
}

/// What a client of the admin port proves: that it has the token, or a certificate of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Operator;

/// A connection.
struct Client {
    connections: Arc<Connections<Operator>>,
    address: SocketAddr,
    permit: Arc<ConnectionPermit<Operator>>,
}

impl Client {
    async fn serve(
        self,
        stream: TcpStream,
        tls: Option<CurrentTls>,
        operators: Option<Arc<Operators>>,
        router: Router,
    ) {
        if !self.connections.wait_for_first_bytes(&stream, &self.permit, HEAD_TIMEOUT).await {
            return;
        }
        // A handshake that begins after a reload goes by what was read then.
        let Some(acceptor) = tls.map(|tls| TlsAcceptor::from(tls.load_full())) else {
            // Boxed: until the first bytes come, the task has no room for what follows.
            return Box::pin(self.begun(stream, None, operators, router)).await;
        };
        Box::pin(async move {
            self.permit.advance();
            let handshake = timeout(HEAD_TIMEOUT, acceptor.accept(stream));
            let handshake = tokio::select! {
                biased;
                handshake = handshake => handshake,
                () = self.permit.evicted() => {
                    self.connections.evicted(false);
                    return;
                }
            };
            let certified = match handshake {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    let why = match rustls_error(&error) {
                        Some(
                            rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented,
                        ) => Rejection::Certificate,
                        _ => Rejection::Handshake,
                    };
                    return self.connections.rejected(why, Some(self.address), &error);
                }
                Err(late) => {
                    return self.connections.rejected(Rejection::HandshakeTimeout, Some(self.address), &late);
                }
            };
            self.permit.prove(Operator);
            let authorization = operators.as_ref().map(|operators| operators.authorization());
            self.begun(certified, authorization, operators, router).await;
        })
        .await;
    }

    /// Serves a connection whose first bytes have come. The header is that of a client with a certificate.
    async fn begun<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        self,
        stream: S,
        authorization: Option<HeaderValue>,
        operators: Option<Arc<Operators>>,
        router: Router,
    ) {
        let Self { connections, address, permit } = self;
        permit.advance();
        let shown = Arc::clone(&permit);
        let router = router.map_request(move |mut request: hyper::Request<_>| {
            if let Some(authorization) = &authorization {
                request.headers_mut().insert(AUTHORIZATION, authorization.clone());
            }
            if operators.as_ref().is_some_and(|operators| operators.is_shown(request.headers())) {
                shown.prove(Operator);
            }
            request.extensions_mut().insert(address);
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
}

/// Why a handshake failed, if that is a matter of TLS.
fn rustls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// Connections whose clients have not shown the token: monitoring, and any other client that reaches the
/// port. A request has to be answered before so many others have connected: within 0.8 seconds where 5,000
/// connect in a second.
const UNPROVED_MAX: usize = 4096;
/// Those that have sent something: each may hold the head of a request, 16 KiB.
const STARTED_MAX: usize = 1024;
/// Connections of operators, who have.
const OPERATORS_MAX: usize = 64;
const LIMITS: ConnectionLimits = ConnectionLimits {
    unproved_max: UNPROVED_MAX,
    started_max: STARTED_MAX,
    unproved_per_address_max: UNPROVED_MAX,
    proved_max: OPERATORS_MAX,
    proved_per_identity_max: OPERATORS_MAX,
};
/// Clients in a handshake at the listener for certificates. Monitoring does not ask there.
const HANDSHAKES_MAX: usize = 128;
const TLS_LIMITS: ConnectionLimits = ConnectionLimits {
    unproved_max: HANDSHAKES_MAX,
    started_max: HANDSHAKES_MAX,
    unproved_per_address_max: HANDSHAKES_MAX,
    proved_max: OPERATORS_MAX,
    proved_per_identity_max: OPERATORS_MAX,
};
/// Connections at once.
pub(super) const CONNECTIONS_MAX: usize = UNPROVED_MAX + STARTED_MAX + OPERATORS_MAX;
/// The same of the listener for certificates.
pub(super) const TLS_CONNECTIONS_MAX: usize = 2 * HANDSHAKES_MAX + OPERATORS_MAX;
/// For the head of a request, and between two of them.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The head of a request: a token, and what monitoring says of itself. Each unproved connection may hold one.
const HEAD_LEN_MAX: usize = 16 << 10;
/// For a connection in all.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);

/// Directives of a log filter.
const LOG_FILTER_LEN_MAX: usize = 4096;

/// The decision about a certificate, PEM with its chain or DER, as `rcmpd explain --json` prints it.
///
/// A body is read only after the token was checked.
async fn explain(State(shared): State<Shared>, request: axum::extract::Request) -> Response {
    let operators = match admitted(&shared, request.headers()) {
        Ok(operators) => operators,
        Err(refused) => return refused.into_response(),
    };
    let body = match read_body(request, EXPLAIN_LEN_MAX).await {
        Ok(body) => body,
        Err(status) => return status.into_response(),
    };
    match explanation(&shared, operators, &body).await {
        Ok(explanation) => {
            let text = serde_json::to_string(&explanation).unwrap_or_default();
            ([(CONTENT_TYPE, "application/json")], visible_json(&text)).into_response()
        }
        Err((status, problem)) => (status, format!("{problem}\n")).into_response(),
    }
}

/// The log filter that counts now.
async fn log_filter(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    match admitted(&shared, &headers) {
        Ok(_) => format!("{}\n", shared.state.log_filter.shown()).into_response(),
        Err(refused) => refused.into_response(),
    }
}

/// Sets it until the configuration is read again.
async fn set_log_filter(State(shared): State<Shared>, request: axum::extract::Request) -> Response {
    if let Err(refused) = admitted(&shared, request.headers()) {
        return refused.into_response();
    }
    let body = match read_body(request, LOG_FILTER_LEN_MAX).await {
        Ok(body) => body,
        Err(status) => return status.into_response(),
    };
    let directives = std::str::from_utf8(&body).unwrap_or_default().trim();
    if directives.is_empty() {
        return (StatusCode::BAD_REQUEST, "write a level, or target=level pairs\n").into_response();
    }
    match shared.state.log_filter.set(directives) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error:#}\n")).into_response(),
    }
}

/// Whether a request is an operator's.
fn admitted<'a>(
    shared: &'a Shared,
    headers: &HeaderMap,
) -> Result<&'a Operators, (StatusCode, &'static str)> {
    let operators = shared.operators.as_deref();
    let operators =
        operators.ok_or((StatusCode::NOT_FOUND, "neither admin.token nor [admin.tls] is configured\n"))?;
    operators.admits(headers).map(|()| operators)
}

/// The whole of an identity whose headers did not hold it, by its reference.
async fn identity(
    State(shared): State<Shared>,
    extract::Path(reference): extract::Path<String>,
    headers: HeaderMap,
) -> Response {
    if let Err(refused) = admitted(&shared, &headers) {
        return refused.into_response();
    }
    let not_found = (
        StatusCode::NOT_FOUND,
        "there is no such reference, it has expired, or the account may not be used\n",
    );
    let Some(sidecar) = &shared.sidecar else { return not_found.into_response() };
    let sidecar = sidecar.load_full();
    match sidecar.referenced(&reference, moment().wall).await {
        Ok(Some(identity)) => Json(identity).into_response(),
        Ok(None) => not_found.into_response(),
        Err(refusal) => (refusal.status(), format!("{}\n", refusal.text().trim_end())).into_response(),
    }
}

/// The gateway, for an operator.
fn gateway<'a>(shared: &'a Shared, headers: &HeaderMap) -> Result<&'a Tlsnego, (StatusCode, &'static str)> {
    admitted(shared, headers)?;
    shared.tlsnego.as_ref().ok_or((StatusCode::NOT_FOUND, "[tlsnego] is not configured\n"))
}

/// All sessions of the TLSNEGO gateway.
async fn sessions(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    match gateway(&shared, &headers) {
        Ok(tlsnego) => tlsnego.sessions().await.map(Json).map_err(store_failed).into_response(),
        Err(refused) => refused.into_response(),
    }
}

/// What is answered about a session that is not there.
const NO_SESSION: (StatusCode, &str) = (StatusCode::NOT_FOUND, "there is no such session\n");

/// Without the shared store it is not known which sessions ended.
fn store_failed(failed: StoreFailed) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{failed}\n"))
}

/// One of them.
async fn session(
    State(shared): State<Shared>,
    extract::Path(name): extract::Path<String>,
    headers: HeaderMap,
) -> Response {
    match gateway(&shared, &headers) {
        Ok(tlsnego) => match tlsnego.session(&name).await {
            Ok(Some(session)) => Json(session).into_response(),
            Ok(None) => NO_SESSION.into_response(),
            Err(failed) => store_failed(failed).into_response(),
        },
        Err(refused) => refused.into_response(),
    }
}

/// Ends one of them.
async fn end_session(
    State(shared): State<Shared>,
    extract::Path(name): extract::Path<String>,
    headers: HeaderMap,
) -> Response {
    match gateway(&shared, &headers) {
        Ok(tlsnego) => match tlsnego.end(&name).await {
            Ok(Ending::Ended) => StatusCode::NO_CONTENT.into_response(),
            // The name is not known here, so it may be none.
            Ok(Ending::Noted) => StatusCode::ACCEPTED.into_response(),
            Ok(Ending::Unknown) => NO_SESSION.into_response(),
            Err(failed) => store_failed(failed).into_response(),
        },
        Err(refused) => refused.into_response(),
    }
}

/// The public keys of signed identities (RFC 7517): nothing that needs a secret.
async fn jwks(State(shared): State<Shared>) -> Response {
    match shared.sidecar.as_ref().and_then(|sidecar| sidecar.load().jwks(moment().uptime)) {
        Some(keys) => Json(keys).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Whether calls are welcome. With `?verbose` there is a line for each check.
async fn ready(
    State(shared): State<Shared>,
    extract::RawQuery(query): extract::RawQuery,
) -> (StatusCode, String) {
    let is_verbose = query.is_some_and(|query| query.split('&').any(|part| part == "verbose"));
    match status::ready(&shared.state, is_verbose).await {
        (true, text) => (StatusCode::OK, text),
        (false, text) => (StatusCode::SERVICE_UNAVAILABLE, text),
    }
}

/// What an operator asks first, for `rcmpd status`.
async fn status_of(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    match admitted(&shared, &headers) {
        Ok(_) => Json(status::status(&shared.state).await).into_response(),
        Err(refused) => refused.into_response(),
    }
}

/// The media type of OpenMetrics.
const OPENMETRICS: &str = "application/openmetrics-text";
const OPENMETRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics: in OpenMetrics if the client accepts it by name, as Prometheus does, otherwise in the text
/// format of Prometheus, which `promtool check metrics` reads.
async fn metrics(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let mut text = String::new();
    let (content_type, encoded) = match accepts_openmetrics(&headers) {
        true => (OPENMETRICS_CONTENT_TYPE, openmetrics::encode(&mut text, &shared.metrics)),
        false => (prometheus_text::CONTENT_TYPE, prometheus_text::encode(&mut text, &shared.metrics)),
    };
    match encoded {
        Ok(()) => ([(CONTENT_TYPE, content_type)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Whether `Accept` (RFC 9110, section 12.5.1) names OpenMetrics, and ranks it no lower than the text format.
/// A wildcard names neither: `curl` sends one.
fn accepts_openmetrics(headers: &HeaderMap) -> bool {
    let rank = |name: &str| {
        let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let ranges = values.flat_map(|value| value.split(',')).filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_it = parts.next()?.eq_ignore_ascii_case(name);
            let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            is_it.then(|| quality.map_or(1.0, |quality| quality.parse().unwrap_or(0.0)))
        });
        ranges.fold(0.0_f32, f32::max)
    };
    let openmetrics = rank(OPENMETRICS);
    openmetrics > 0.0 && openmetrics >= rank("text/plain")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_clients_that_accept_it_by_name() {
        for (accept, expected) in [
            (None, false),
            (Some("*/*"), false),
            (Some("text/plain"), false),
            (Some("text/plain;version=0.0.4;q=0.5,*/*;q=0.1"), false),
            (Some("application/openmetrics-text"), true),
            (Some("Application/OpenMetrics-Text; version=1.0.0"), true),
            (Some("application/openmetrics-text;q=0"), false),
            (Some("application/openmetrics-text;q=0.2,text/plain;q=0.7"), false),
            // Prometheus 2.40, and 3.0.
            (
                Some(
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ),
                true,
            ),
            (
                Some(
                    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                ),
                true,
            ),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(ACCEPT, accept.parse().expect("a header"));
            }
            assert_eq!(accepts_openmetrics(&headers), expected, "{accept:?}");
        }
    }
}
