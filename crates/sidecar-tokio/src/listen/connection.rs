//! A connection of a proxy: from its first bytes to its end.

use super::proof::{Proxy, Tls, is_named};
use super::{State, respond};
use crate::client_verifier::{HandshakeError, accept, check};
use crate::envoy;
use crate::front::memory::Resets;
use crate::settings::Speaks;
use crate::unproved::Unproved;
use crate::upstream::{Body, count_not_passed_on};
use bytes::Bytes;
use dcerpc_tokio::ConnectionPermit;
use http::{Request, Response};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use listener_tokio::connections::{DRAIN_TIMEOUT, Rejection};
use listener_tokio::lingering::Lingering;
use listener_tokio::watched::Watched;
use rustls::HandshakeKind;
use sha2::{Digest, Sha256};
use sidecar::dialect::Dialect;
use std::convert::Infallible;
use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tonic::Status;
use tonic::service::Routes;
use tower::ServiceExt;
use tracing::{debug, warn};

/// How long a client has to prove that it is a proxy: a proxy connects when it has something to ask.
const PROOF_TIMEOUT: Duration = Duration::from_secs(10);
/// For the head of a request, and between two: longer than proxies keep idle connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(90);
/// When a connection of Envoy's is asked whether its peer is still there, and how long that may take.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Most headers of a proxy's question: those of a client, of which web servers take 100 by default, and a
/// dozen of the proxy's own.
const HEADERS_MAX: usize = 192;
/// All headers of a request: a certificate of 64 KiB in percent-encoded PEM, and a chain.
const HEAD_LEN_MAX: usize = 512 << 10;
/// The metadata of Envoy's calls: a secret and what names a trace. Certificates are in the message.
const METADATA_LEN_MAX: u32 = 64 << 10;
/// The message of a call without the secret on a connection that is proved: a health check names a service.
const UNPROVED_MESSAGE_LEN_MAX: usize = 4096;
/// Calls at once on one connection of Envoy's: RFC 9113, section 6.5.2, calls 100 the least that is useful,
/// and Envoy opens another connection for more.
const CALLS_MAX: u32 = 100;
/// The same on a connection that is unproved when it begins. A client that has sent more heads than these
/// before it read our settings has them reset, and each head that is kept takes some kilobytes.
const CALLS_UNPROVED_MAX: u32 = 16;
/// What a client may send ahead of one call's message, and of all: the initial windows of RFC 9113, section
/// 6.9.2. The client uses these before it has read a setting, so smaller ones would not limit what an
/// unproved connection sends first. A message whose certificate is longer takes one more round trip for each
/// window.
const CALL_WINDOW: u32 = 65_535;
const CALLS_WINDOW: u32 = 65_535;
/// What waits to be sent of one answer.
const SEND_BUFFER_LEN_MAX: usize = 64 << 10;
/// Calls that a client began and ended before they were served, before its connection is closed.
const RESETS_MAX: usize = 16;
/// How long an unproved connection has to take the answer to its one call.
const UNPROVED_CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection: where it comes from, and its permit.
pub(super) struct Origin {
    pub(super) address: Option<SocketAddr>,
    /// What it counts for until it is proved: its address, or its user.
    source: IpAddr,
    pub(super) permit: ConnectionPermit<Proxy>,
    /// When the time for a proof ends.
    deadline: Instant,
    /// Whether it has shown the secret, also if it was evicted a moment before.
    has_shown: AtomicBool,
    /// Calls of Envoy's without the secret, while it was unproved.
    unproved_calls: AtomicUsize,
    /// Is notified of each of them.
    called: Notify,
}

impl Origin {
    pub(super) fn new(state: &State, address: Option<SocketAddr>, source: IpAddr) -> Self {
        let permit = state.connections.admit(source);
        let deadline = Instant::now() + PROOF_TIMEOUT;
        Self {
            address,
            source,
            permit,
            deadline,
            has_shown: AtomicBool::new(false),
            unproved_calls: AtomicUsize::new(0),
            called: Notify::new(),
        }
    }

    pub(super) fn is_proved(&self) -> bool {
        self.permit.is_proved() || self.has_shown.load(Ordering::Relaxed)
    }

    /// Counts a call without the secret on a connection that is unproved. True for the first one, which is
    /// answered; the connection ends with it.
    fn count_unproved_call(&self) -> bool {
        let is_first = self.unproved_calls.fetch_add(1, Ordering::Relaxed) == 0;
        self.called.notify_one();
        is_first
    }

    /// Returns after a call without the secret on a connection that is unproved, with how many there were.
    async fn unproved_call(&self) -> usize {
        loop {
            self.called.notified().await;
            if !self.is_proved() {
                return self.unproved_calls.load(Ordering::Relaxed);
            }
        }
    }

    /// Ends when too much time has passed without a proof, and never where there is one.
    async fn overdue(&self) {
        sleep_until(self.deadline).await;
        if self.is_proved() {
            pending::<()>().await;
        }
    }

    /// The connection is the proxy's, because a request on it has shown the secret.
    pub(super) fn prove_by_secret(&self) {
        self.has_shown.store(true, Ordering::Relaxed);
        self.permit.prove(Proxy::Secret);
    }
}

/// Serves a connection over TCP after its first bytes, in TLS if the listener has it.
pub(super) async fn over_tcp(state: Arc<State>, stream: TcpStream, origin: Origin) {
    let _ = stream.set_nodelay(true);
    tokio::select! {
        has_begun = state.connections.wait_for_first_bytes(&stream, &origin.permit, PROOF_TIMEOUT) => if !has_begun {
            return debug!(address = ?origin.address, "Connection closed: nothing was sent before the timeout");
        },
        () = state.shutdown.cancelled() => return,
    }
    origin.permit.advance();
    let tls = state.proof.load_full().tls.clone();
    match tls {
        // Boxed: until the first bytes come, the task has no room for what follows.
        None => Box::pin(connection(state, Lingering::new(stream), origin)).await,
        Some(tls) => Box::pin(over_tls(state, tls, stream, origin)).await,
    }
}

async fn over_tls(state: Arc<State>, tls: Tls, stream: TcpStream, origin: Origin) {
    let Some(address) = origin.address else { return };
    let accepted = tokio::select! {
        // What has come is looked at before the connection makes room for another one.
        biased;
        accepted = timeout_at(origin.deadline, accept(tls.acceptor, Lingering::new(stream))) => accepted,
        () = origin.permit.evicted() => return drop(state.connections.evicted(false)),
    };
    let stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err((error, mut stream))) => {
            error.report(&state.connections, address, &state.handshake_log);
            // The proxy reads the alert before the connection is gone.
            tokio::select! {
                _ = stream.shutdown() => {}
                () = origin.permit.evicted() => drop(state.connections.evicted(false)),
            }
            return;
        }
        Err(_) => {
            let why = Rejection::HandshakeTimeout;
            return state.connections.rejected(why, Some(address), &"the handshake took too long");
        }
    };
    let connection_state = stream.get_ref().1;
    let certificates = connection_state.peer_certificates().unwrap_or_default();
    // A certificate is not validated when a session is resumed, and may have expired since.
    if connection_state.handshake_kind() == Some(HandshakeKind::Resumed)
        && let Some((certificate, sent)) = certificates.split_first()
        && let Err(rejection) = check(&tls.trust, (certificate, sent), (state.clock)().wall)
    {
        let error = HandshakeError::Rejected(rejection);
        return error.report(&state.connections, address, &state.handshake_log);
    }
    match certificates.first().filter(|certificate| is_named(certificate, &tls.names)) {
        Some(certificate) => {
            origin.permit.prove(Proxy::Certificate(Sha256::digest(certificate).into()));
            connection(state, stream, origin).await;
        }
        None => state.log_limiter.once("foreign_proxy", || {
            warn!(
                %address,
                dialect = state.speaks.name(),
                advice =
                    "if it is the proxy, add a DNS name of its certificate to names of [[sidecar.listen]]",
                "Rejected certificate of a proxy: none of its DNS names is in names"
            );
        }),
    }
}

/// Serves a connection in the dialect of its listener.
pub(super) async fn connection<S>(state: Arc<State>, stream: S, origin: Origin)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let origin = Arc::new(origin);
    match state.speaks {
        Speaks::Http(dialect) => {
            let proof = Arc::clone(&origin);
            let is_proved = move || proof.is_proved();
            let unproved = Unproved::new(is_proved, state.long.clone(), origin.source);
            let stream = TokioIo::new(Watched::new(stream, unproved));
            let service = service_fn(|request| {
                let (state, origin) = (Arc::clone(&state), Arc::clone(&origin));
                async move {
                    let answer = respond(&state, dialect, &origin, request).await;
                    count_not_passed_on(&answer, &state.connections, origin.address);
                    Ok::<_, Infallible>(answer)
                }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_LEN_MAX);
            // hyper has room for 100 without an allocation, and nginx's question has no header of the client.
            if dialect != Dialect::Nginx {
                builder.max_headers(HEADERS_MAX);
            }
            let connection = builder.serve_connection(stream, service).with_upgrades();
            carry(connection, |it| it.graceful_shutdown(), &state, &origin).await;
        }
        Speaks::EnvoyGrpc => {
            let proof = Arc::clone(&origin);
            let is_proved = move || proof.is_proved();
            let unproved = Unproved::new(is_proved, state.long.clone(), origin.source);
            // Streams that HTTP/2 resets, or answers itself, reach no service.
            let answers = Arc::new(AtomicUsize::new(0));
            let (counting, address) = (Arc::clone(&state), origin.address);
            let rejected = move |error: &'static str| {
                counting.connections.rejected(Rejection::Http2Stream, address, &error);
            };
            let resets = Resets::new(Arc::clone(&answers), Box::new(rejected));
            let stream = TokioIo::new(Watched::new(Watched::new(stream, unproved), resets));
            let routes = envoy::routes(Arc::clone(&state));
            // The secret is in the metadata, so a connection is proved by the head of its first call, or ends
            // with that call. This is decided before another head is looked at, and no message is read.
            let service = service_fn(|request: Request<Incoming>| {
                let (state, origin, routes) = (Arc::clone(&state), Arc::clone(&origin), routes.clone());
                let shows_secret = state.is_proved(request.headers(), &origin);
                let is_answered = shows_secret || origin.is_proved() || origin.count_unproved_call();
                let request = is_answered.then(|| message_of(request, shows_secret, &origin));
                let answers = Arc::clone(&answers);
                async move {
                    let answer = match request {
                        Some(request) => call(routes, request).await,
                        None => Status::unauthenticated("show the secret").into_http(),
                    };
                    answers.fetch_add(1, Ordering::Relaxed);
                    // Trailers are HEADERS, too.
                    Ok::<_, Infallible>(answer.map(|body| {
                        body.map_frame(move |frame| {
                            answers.fetch_add(usize::from(frame.is_trailers()), Ordering::Relaxed);
                            frame
                        })
                    }))
                }
            });
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .max_header_list_size(METADATA_LEN_MAX)
                .max_concurrent_streams(if origin.is_proved() { CALLS_MAX } else { CALLS_UNPROVED_MAX })
                .initial_stream_window_size(CALL_WINDOW)
                .initial_connection_window_size(CALLS_WINDOW)
                .max_send_buf_size(SEND_BUFFER_LEN_MAX)
                .max_pending_accept_reset_streams(RESETS_MAX)
                .max_local_error_reset_streams(RESETS_MAX)
                // A silent client is asked whether it is still there.
                .keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT);
            let connection = builder.serve_connection(stream, service);
            carry(connection, |it| it.graceful_shutdown(), &state, &origin).await;
        }
    }
}

/// Carries requests until the connection ends, or the shutdown begins and what is asked is answered. How it
/// ends is the peer's business.
async fn carry<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    shut_down: fn(Pin<&mut C>),
    state: &State,
    origin: &Origin,
) {
    let mut connection = pin!(connection);
    // One for each connection: waiting takes no lock that other connections take.
    let shutdown = state.shutdown.child_token();
    tokio::select! {
        // What has come is looked at before the connection makes room for another one.
        biased;
        ended = connection.as_mut() => {
            if let Err(error) = ended {
                let is_http2 = state.speaks == Speaks::EnvoyGrpc;
                state.connections.ended(&error, is_http2, origin.address);
            }
            return;
        }
        () = origin.overdue() => {
            return debug!(address = ?origin.address, "Connection closed: its client did not prove itself before the timeout");
        }
        calls = origin.unproved_call() => {
            debug!(address = ?origin.address, "Connection closed: its first call did not show the secret");
            if calls == 1 {
                shut_down(connection.as_mut());
                tokio::select! {
                    biased;
                    _ = timeout(UNPROVED_CALL_TIMEOUT, connection) => {}
                    _ = origin.unproved_call() => {}
                    () = origin.permit.evicted() => {
                        state.connections.evicted(false);
                    }
                }
            }
            return;
        }
        () = origin.permit.evicted() => {
            let Some(_draining) = state.connections.evicted(origin.is_proved()) else { return };
            shut_down(connection.as_mut());
            let _ = timeout(DRAIN_TIMEOUT, connection).await;
            return;
        }
        () = shutdown.cancelled() => {}
    }
    shut_down(connection.as_mut());
    let _ = connection.await;
}

/// The message of a call, as much of it as is read.
type Message = Either<Limited<Incoming>, Full<Bytes>>;

/// A call with what is read of its message. Nothing is read of a question without the secret, nor of any call
/// on an unproved connection: it is answered as if its message were empty.
fn message_of(request: Request<Incoming>, shows_secret: bool, origin: &Origin) -> Request<Message> {
    let is_question = request.uri().path() == envoy::CHECK_PATH;
    let mut request = request.map(|body| match shows_secret {
        true => Either::Left(Limited::new(body, usize::MAX)),
        false if is_question || !origin.is_proved() => Either::Right(Full::new(envoy::EMPTY_MESSAGE)),
        false => Either::Left(Limited::new(body, UNPROVED_MESSAGE_LEN_MAX)),
    });
    if let Some(source) = origin.address {
        request.extensions_mut().insert(envoy::Source(source));
    }
    request
}

/// Answers a call of Envoy's.
async fn call(routes: Routes, request: Request<Message>) -> Response<Body> {
    match routes.oneshot(request).await {
        Ok(response) => response.map(|body| body.map_err(Into::into).boxed_unsync()),
        Err(never) => match never {},
    }
}
