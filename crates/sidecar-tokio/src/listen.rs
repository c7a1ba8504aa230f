//! Listeners for proxies: how a proxy proves itself, and which dialect it speaks.
//!
//! A proxy is never trusted because of its source address. On a Unix socket the kernel names the user of its process; over TCP it shows a
//! certificate or the listener's secret. A listener without one of these is not configured.
//!
//! Connections are accepted at once. One that has proved nothing is evicted for a newer one, so it never keeps a proxy out.

use super::client_verifier::{HandshakeError, accept, check};
use super::front::memory::Resets;
use super::lingering::Lingering;
use super::tls::of_listener;
use super::unix::{self, User};
use super::unproved::{Long, Unproved};
use super::upstream::{
    Body, RequestOrigin, Upstream, authority, closing, count_not_passed_on, no_host, refusal, strip, whole,
};
use super::watched::Watched;
use crate::Clock;
use crate::connections::{ConnectionMeter, Connections, DRAIN_TIMEOUT, Rejection};
use crate::envoy;
use crate::files::ReadFiles;
use crate::settings::{Listen, ListenTls, Place, Speaks};
use anyhow::ensure;
use arc_swap::ArcSwap;
use bytes::Bytes;
use dcerpc_tokio::{ConnectionLimits, ConnectionPermit, LogLimiter, listen_on};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rcmp_service::certificate::{AlternativeName, Certificate};
use rcmp_service::trust::Trust;
use rustls::HandshakeKind;
use sha2::{Digest, Sha256};
use sidecar::dialect::{Dialect, Target};
use sidecar::{Decided, Moment, Refusal, Sidecar};
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::service::Routes;
use tower::ServiceExt;
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

/// Connections of proxies at once, which keep some open for each of their workers. One proxy may have all of them: if another one comes,
/// that one's oldest connection is evicted.
const PROVED_MAX: usize = 4096;
/// Connections whose proof is still to come; [`Unproved`] says what each may hold. A proxy that connects has to prove itself before so many
/// others have connected after it: within 0.8 seconds where 5,000 connect in a second. One address may have all of them, because it is the
/// address with most that makes room.
const UNPROVED_MAX: usize = 4096;
/// Those that have sent something. Each may hold the head of a request, or with HTTP/2 about 100 KiB before its first call is read, and
/// proves itself within milliseconds if it is a proxy's.
const STARTED_MAX: usize = 1024;
/// How long that may take: a proxy connects when it has something to ask.
const PROOF_TIMEOUT: Duration = Duration::from_secs(10);
/// For the head of a request, and between two: longer than proxies keep idle connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(90);
/// When a connection of Envoy's is asked whether its peer is still there, and how long that may take.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Most headers of a proxy's question: those of a client, of which web servers take 100 by default, and a dozen of the proxy's own.
const HEADERS_MAX: usize = 192;
/// All headers of a request: a certificate of 64 KiB in percent-encoded PEM, and a chain.
const HEAD_LEN_MAX: usize = 512 << 10;
/// The metadata of Envoy's calls: a secret and what names a trace. Certificates are in the message.
const METADATA_LEN_MAX: u32 = 64 << 10;
/// The message of a call without the secret on a connection that is proved: a health check names a service.
const UNPROVED_MESSAGE_LEN_MAX: usize = 4096;
/// Calls at once on one connection of Envoy's: RFC 9113, section 6.5.2, calls 100 the least that is useful, and Envoy opens another
/// connection for more.
const CALLS_MAX: u32 = 100;
/// The same on a connection that is unproved when it begins. A client that has sent more heads than these before it read our settings has
/// them reset, and each head that is kept takes some kilobytes.
const CALLS_UNPROVED_MAX: u32 = 16;
/// What a client may send ahead of one call's message, and of all: the initial windows of RFC 9113, section 6.9.2. The client uses these
/// before it has read a setting, so smaller ones would not limit what an unproved connection sends first. A message whose certificate is
/// longer takes one more round trip for each window.
const CALL_WINDOW: u32 = 65_535;
const CALLS_WINDOW: u32 = 65_535;
/// What waits to be sent of one answer.
const SEND_BUFFER_LEN_MAX: usize = 64 << 10;
/// Calls that a client began and ended before they were served, before its connection is closed.
const RESETS_MAX: usize = 16;
/// How long an unproved connection has to take the answer to its one call.
const UNPROVED_CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// A listener that is bound.
pub struct Listener {
    socket: Socket,
    /// Where it is, for metrics.
    address: String,
    state: Arc<State>,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection that was accepted.
enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// What proxies prove themselves by that is read from files, anew when the configuration is reloaded.
pub struct Proof {
    secret: Option<Zeroizing<String>>,
    tls: Option<Tls>,
}

/// How proxies prove themselves by a certificate.
#[derive(Clone)]
struct Tls {
    acceptor: TlsAcceptor,
    trust: Arc<Trust>,
    /// DNS names, one of which a proxy's certificate has.
    names: Vec<String>,
}

impl Proof {
    /// `secret` is the text that proxies show; the files of `tls` are read. An empty secret is refused, because an empty header would
    /// show it.
    pub fn new(
        secret: Option<Zeroizing<String>>,
        tls: Option<&ListenTls>,
        files: &dyn ReadFiles,
    ) -> anyhow::Result<Self> {
        ensure!(
            secret.as_ref().is_none_or(|secret| !secret.is_empty()),
            "the secret of [[sidecar.listen]] is empty: openssl rand -base64 32 makes one"
        );
        let tls = tls.map(|tls| {
            let (config, trust) = of_listener(tls, files)?;
            anyhow::Ok(Tls { acceptor: Arc::new(config).into(), trust, names: tls.names.clone() })
        });
        Ok(Self { secret, tls: tls.transpose()? })
    }

    /// Refuses a listener that would trust every process that can connect to it. The user of a process is known on a Unix socket alone,
    /// and there is no TLS on one.
    fn check(&self, listen: &Listen) -> anyhow::Result<()> {
        let knows_proxies = match listen.at {
            Place::Tcp(_) => self.tls.is_some(),
            Place::Unix(_) => !listen.peers.is_empty(),
        };
        ensure!(
            knows_proxies || self.secret.is_some(),
            "the listener at {} would trust every process that can connect to it: restrict it by peers on a Unix socket, by a \
             secret, or by tls on a TCP port",
            listen.at
        );
        Ok(())
    }
}

/// Connections of a listener at once.
pub const CONNECTIONS_MAX: usize = UNPROVED_MAX + STARTED_MAX + PROVED_MAX;

/// What connections of a listener share.
struct State {
    sidecar: Arc<ArcSwap<Sidecar>>,
    speaks: Speaks,
    target: Target,
    proof: Arc<ArcSwap<Proof>>,
    /// Users whose processes are accepted as the proxy; empty if any user's process is.
    users: Vec<User>,
    connections: Connections<Proxy>,
    long: Long,
    upstream: Option<Arc<Upstream>>,
    log_limiter: LogLimiter,
    /// For certificates that are rejected in a handshake.
    handshake_log: LogLimiter,
    clock: Clock,
    shutdown: CancellationToken,
    is_ending: AtomicBool,
}

/// The proof that a proxy has shown. Connections with the same proof count as one proxy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Proxy {
    /// By the kernel's word for the process.
    User(u32),
    /// By the listener's secret.
    Secret,
    /// By a certificate with this SHA-256.
    Certificate([u8; 32]),
}

/// A connection: where it comes from, and its permit.
struct Origin {
    address: Option<SocketAddr>,
    /// What it counts for until it is proved: its address, or its user.
    source: IpAddr,
    permit: ConnectionPermit<Proxy>,
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
    fn new(state: &State, address: Option<SocketAddr>, source: IpAddr) -> Self {
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

    fn is_proved(&self) -> bool {
        self.permit.is_proved() || self.has_shown.load(Ordering::Relaxed)
    }

    /// Counts a call without the secret on a connection that is unproved. True for the first one, which is answered; the connection ends
    /// with it.
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
}

impl Listener {
    /// Binds what a configuration names. A listener without any proof of proxies is refused.
    pub async fn bind(
        listen: &Listen,
        sidecar: Arc<ArcSwap<Sidecar>>,
        (proof, upstream): (Arc<ArcSwap<Proof>>, Option<Arc<Upstream>>),
        clock: Clock,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        proof.load().check(listen)?;
        let users = unix::users(&listen.peers)?;
        let dialect = listen.speaks.name();
        let (socket, address) = match &listen.at {
            Place::Tcp(address) => {
                let socket = listen_on(*address, "[[sidecar.listen]]").await?;
                let address = socket.local_addr()?;
                info!(dialect, %address, "Serving web servers");
                (Socket::Tcp(socket), address.to_string())
            }
            Place::Unix(place) => {
                let socket = unix::bind(place, &users)?;
                info!(dialect, path = %place.path.display(), "Serving web servers");
                (Socket::Unix(socket), format!("unix:{}", place.path.display()))
            }
        };
        let limits = ConnectionLimits {
            unproved_max: UNPROVED_MAX,
            started_max: STARTED_MAX,
            unproved_per_address_max: UNPROVED_MAX,
            proved_max: PROVED_MAX,
            proved_per_identity_max: PROVED_MAX,
        };
        let state = State {
            sidecar,
            speaks: listen.speaks,
            target: listen.target,
            proof,
            users,
            connections: Connections::new(dialect, limits),
            long: Long::new(),
            upstream,
            log_limiter: LogLimiter::default(),
            handshake_log: LogLimiter::default(),
            clock,
            shutdown,
            is_ending: AtomicBool::new(false),
        };
        Ok(Self { socket, address, state: Arc::new(state) })
    }

    /// What counts its connections.
    pub fn meter(&self) -> ConnectionMeter {
        let upstream = self.state.upstream.as_ref().map(|upstream| upstream.meter());
        self.state.connections.meter(self.address.clone()).with_upstream(upstream)
    }

    /// Serves until the shutdown begins and all requests are answered.
    pub async fn serve(self) {
        let tasks = TaskTracker::new();
        let Self { socket, state, .. } = self;
        while let Some(accepted) = state.connections.accept_next(&state.shutdown, || socket.accept()).await {
            state.spawn(&tasks, accepted);
        }
        state.is_ending.store(true, Ordering::Relaxed);
        drop(socket);
        tasks.close();
        tasks.wait().await;
    }
}

impl Socket {
    async fn accept(&self) -> io::Result<Accepted> {
        Ok(match self {
            Self::Tcp(socket) => {
                socket.accept().await.map(|(stream, address)| Accepted::Tcp(stream, address))?
            }
            Self::Unix(socket) => Accepted::Unix(socket.accept().await?.0),
        })
    }
}

impl State {
    /// Serves a connection in a task of its own, unless its user may not ask.
    fn spawn(self: &Arc<Self>, tasks: &TaskTracker, accepted: Accepted) {
        let state = Arc::clone(self);
        match accepted {
            Accepted::Tcp(stream, address) => {
                let origin = Origin::new(&state, Some(address), address.ip());
                tasks.spawn(over_tcp(state, stream, origin));
            }
            Accepted::Unix(stream) => {
                let Ok(user) = stream.peer_cred().map(|credentials| credentials.uid()) else { return };
                let is_known = state.users.iter().any(|known| known.number == user);
                if !state.users.is_empty() && !is_known {
                    state.log_limiter.once("foreign_user", || {
                        warn!(
                            user,
                            dialect = state.speaks.name(),
                            advice = "add it to peers of [[sidecar.listen]], or run the web server as one of these users",
                            "Rejected Unix-socket connection: the user of the process is not in peers"
                        );
                    });
                    return;
                }
                let origin = Origin::new(&state, None, source_of(user));
                if is_known {
                    origin.permit.prove(Proxy::User(user));
                }
                tasks.spawn(connection(state, Lingering::new(stream), origin));
            }
        }
    }
}

/// What unproved connections of a user count for where others count for their address: both have 32 bits.
fn source_of(user: u32) -> IpAddr {
    Ipv4Addr::from_bits(user).into()
}

impl State {
    /// Whether a request shows the secret, where there is one. The connection is the proxy's then.
    fn is_proved(&self, headers: &HeaderMap, origin: &Origin) -> bool {
        let is_proved = self.shows_secret(headers);
        if is_proved {
            origin.has_shown.store(true, Ordering::Relaxed);
            origin.permit.prove(Proxy::Secret);
        }
        is_proved
    }

    fn shows_secret(&self, headers: &HeaderMap) -> bool {
        let proof = self.proof.load();
        proof.secret.as_ref().is_none_or(|secret| sidecar::shows_secret(headers, secret))
    }

    fn log_refusal(&self, refusal: Refusal) {
        let (dialect, reason) = (self.speaks.name(), refusal.name());
        match refusal {
            Refusal::Broken(broken) => self.log_limiter.once(reason, || {
                warn!(dialect, reason, advice = broken.advice(), "Rejected request of a proxy: its headers are not as the dialect has them");
            }),
            Refusal::Undecided(_) => self.log_limiter.once(reason, || {
                warn!(dialect, reason, "Cannot decide which account a certificate belongs to");
            }),
            // Clients do this, and so does a proxy of another dialect.
            Refusal::Forged => self.log_limiter.once(reason, || {
                warn!(
                    dialect,
                    reason,
                    advice = "if the proxy sends them, set its dialect in [[sidecar.listen]]",
                    "Rejected request: certificate headers of another dialect, or names that look like identity headers"
                );
            }),
            Refusal::Chain(error) => debug!(dialect, reason, error = error.name(), "Request rejected"),
            _ => debug!(dialect, reason, "Request rejected"),
        }
    }
}

impl envoy::Listener for State {
    fn sidecar(&self) -> Arc<Sidecar> {
        self.sidecar.load_full()
    }

    fn now(&self) -> Moment {
        (self.clock)()
    }

    fn is_proved(&self, metadata: &HeaderMap) -> bool {
        self.shows_secret(metadata)
    }

    fn is_ready(&self) -> bool {
        !self.is_ending.load(Ordering::Relaxed)
    }

    fn refused(&self, refusal: Refusal) {
        self.log_refusal(refusal);
    }
}

async fn over_tcp(state: Arc<State>, stream: TcpStream, origin: Origin) {
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

/// Whether a certificate has one of these DNS names.
fn is_named(certificate: &[u8], names: &[String]) -> bool {
    let Ok(certificate) = Certificate::parse(certificate) else { return false };
    let Ok(found) = certificate.alternative_names() else { return false };
    found
        .iter()
        .any(|name| matches!(name, AlternativeName::Dns(name) if names.contains(&name.to_lowercase())))
}

async fn connection<S>(state: Arc<State>, stream: S, origin: Origin)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let origin = Arc::new(origin);
    // One for each connection: waiting takes no lock that other connections take.
    let shutdown = state.shutdown.child_token();
    // Carries requests until the connection ends, or the shutdown begins and what is asked is answered. How it ends is the peer's business.
    macro_rules! carry {
        ($connection:expr) => {{
            let mut connection = pin!($connection);
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
                        connection.as_mut().graceful_shutdown();
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
                    connection.as_mut().graceful_shutdown();
                    let _ = timeout(DRAIN_TIMEOUT, connection).await;
                    return;
                }
                () = shutdown.cancelled() => {}
            }
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }};
    }
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
            carry!(builder.serve_connection(stream, service).with_upgrades());
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
            // The secret is in the metadata, so a connection is proved by the head of its first call, or ends with that call. This is
            // decided before another head is looked at, and no message is read.
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
            carry!(builder.serve_connection(stream, service));
        }
    }
}

/// The message of a call, as much of it as is read.
type Message = Either<Limited<Incoming>, Full<Bytes>>;

/// A call with what is read of its message. Nothing is read of a question without the secret, nor of any call on an unproved connection: it
/// is answered as if its message were empty.
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

async fn respond(
    state: &State,
    dialect: Dialect,
    origin: &Origin,
    request: Request<Incoming>,
) -> Response<Body> {
    let sidecar = state.sidecar.load_full();
    // Of two hosts none is asked for.
    let authority = authority(&request);
    if authority.is_none() && state.target == Target::Request {
        return closing(no_host());
    }
    let host = authority.as_ref().map_or("", |authority| authority.as_str());
    let path = request.uri().path_and_query().map_or("", |path| path.as_str());
    let is_proved = state.is_proved(request.headers(), origin);
    let from = (origin.address, (state.clock)());
    let speaks = (dialect, state.target, state.upstream.is_some());
    let decided = sidecar.check(speaks, request.headers(), (host, path), is_proved, from).await;
    if let Decided::Refused(refusal) = decided {
        state.log_refusal(refusal);
    }
    match (&decided, &state.upstream) {
        (Decided::Allowed(allowed), Some(upstream)) => {
            let stamp = |headers: &mut HeaderMap| sidecar.stamp(Some(allowed), headers);
            // Boxed: a connection that asks for nothing has no room for it.
            Box::pin(upstream.forward(request, RequestOrigin::Proxy, stamp, strip(&sidecar))).await
        }
        _ => {
            let answer = refusal(request, whole(sidecar.answer(&decided)));
            if is_proved { answer } else { closing(answer) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::test::AnyFile;
    use crate::settings::{SocketGroup, UnixPlace};
    use std::path::Path;

    fn proof(secret: Option<&str>) -> anyhow::Result<Proof> {
        Proof::new(secret.map(|secret| secret.to_owned().into()), None, &AnyFile)
    }

    async fn bound(at: Place, peers: &[&str], secret: Option<&str>) -> Result<(), String> {
        let listen = Listen {
            speaks: Speaks::EnvoyGrpc,
            target: Target::Request,
            at,
            peers: peers.iter().map(|&peer| peer.to_owned()).collect(),
            tls: None,
            upstream: None,
        };
        let proof = Arc::new(ArcSwap::from_pointee(proof(secret).expect("the secret can be used")));
        let sidecar =
            Arc::new(ArcSwap::new(envoy::tests::sidecar(&[], Err(Refusal::NoCertificate), vec![]).0));
        let clock = || Moment { wall: dtyp::FileTime::default(), uptime: Duration::ZERO };
        let bound = Listener::bind(&listen, sidecar, (proof, None), clock, CancellationToken::new()).await;
        bound.map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_secret_is_refused() {
        let error = proof(Some("")).err().expect("it is refused").to_string();
        assert!(error.contains("is empty"), "{error}");
        assert!(proof(Some("x")).is_ok());
        assert!(proof(None).is_ok(), "users or certificates can be the proof");
    }

    #[tokio::test]
    async fn a_listener_without_any_proof_is_not_bound() {
        let folder = tempfile::tempdir().expect("a folder");
        let unix = |name: &str| {
            let path = folder.path().join(name);
            Place::Unix(UnixPlace { path, mode: 0o600, group: SocketGroup::Unchanged })
        };
        let tcp = || Place::Tcp(([127, 0, 0, 1], 0).into());
        let user = "0";
        for refused in [
            bound(tcp(), &[], None).await,
            // TCP does not tell the user of a process.
            bound(tcp(), &[user], None).await,
            bound(unix("refused"), &[], None).await,
        ] {
            let error = refused.expect_err("each process would be trusted");
            assert!(error.contains("would trust every process"), "{error}");
        }
        assert!(!Path::exists(&folder.path().join("refused")), "there is no socket to connect to");
        assert_eq!(bound(tcp(), &[], Some("secret")).await, Ok(()));
        assert_eq!(bound(unix("secret"), &[], Some("secret")).await, Ok(()));
        assert_eq!(bound(unix("user"), &[user], None).await, Ok(()));
    }
}
