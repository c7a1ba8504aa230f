//! The TLS-terminating proxy: clients show their certificates here, and the application behind it gets their
//! identity.
//!
//! ```text
//! accept ─► permit ─► TLS, client certificate ─► each request: host is that of the handshake ─► sidecar decides ─► upstream
//! ```
//!
//! A decision is for one request, so what is revoked or locked ends with the next one on the same connection.
//! A handshake counts only under the [`TlsSettings`] that it was made with: if these are replaced,
//! connections are closed in good order, and their sessions cannot be resumed, because they are kept with the
//! old settings. Open requests have a minute to end.
//!
//! A client that takes nothing of an answer for a minute loses its connection, whatever else it says there:
//! the answer holds one of the application's permits. What else was asked on that connection has a moment to
//! be answered.
//!
//! Connections are accepted at once. Until the handshake has shown a validated certificate they are unproved:
//! one of those is evicted for a newer one, and never a connection whose client has shown its certificate. A
//! WebSocket has no permit here any more: it holds one of the application's.
//!
//! Absent on purpose: HTTP/2 without TLS, `CONNECT` with a protocol (RFC 8441), early data, and tickets that
//! outlive this process.

pub(super) mod memory;
mod requests;
mod tls;

pub use tls::server_config;

use super::client_verifier::accept;
use super::tls::H2;
use super::upstream::{
    Body, Client, REQUESTS_MAX, RequestOrigin, Timeouts, Upstream, authority, count_not_passed_on, no_host,
    plain, refusal as refuse, strip, with_cookie,
};
use crate::Clock;
use crate::refusals;
use arc_swap::ArcSwap;
use bytes::Bytes;
use dcerpc_tokio::{ConnectionLimits, ConnectionPermit, LogLimiter};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use listener_tokio::connections::{ConnectionMeter, Connections, DRAIN_TIMEOUT, Rejection};
use listener_tokio::lingering::Lingering;
use listener_tokio::watched::Watched;
use memory::{Memory, Resets, UNPROVED_LEN_MAX};
use requests::{Counted, Requests};
use rustls::ServerConfig;
use sha2::{Digest, Sha256};
use sidecar::routes::host_of;
use sidecar::{Ask, ClientCertificate, Cookies, Decided, Refusal, RequestHead, Sidecar};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span, debug, debug_span, warn};

/// Connections of clients that have shown a validated certificate: each costs a task, a descriptor, and up to
/// its window of memory.
const PROVED_MAX: usize = 4096;
/// The same with one certificate: a gateway that serves many users with it.
const PROVED_PER_CERTIFICATE_MAX: usize = 512;
/// Connections that have sent nothing. One address may have all of them, because it is the address with most
/// that makes room.
const UNPROVED_MAX: usize = 2560;
/// Connections in a handshake, and those of clients without a certificate where these are served. A handshake
/// has to end before so many others have begun after it: within 0.7 seconds where 2,000 begin in a second.
/// Each takes about 20 KiB, and [`memory`] says what more.
const STARTED_MAX: usize = 1536;
/// Connections at once: those, and for each request at the application one for the client's WebSocket.
pub const CONNECTIONS_MAX: usize = UNPROVED_MAX + STARTED_MAX + PROVED_MAX + REQUESTS_MAX;
/// For a TLS handshake: a few round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// For the head of a request, and between two of them over HTTP/1.1.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The head of a request: what applications take, cookies included.
const HEAD_LEN_MAX: usize = 64 << 10;
/// Without a request over HTTP/2: browsers keep connections for their next page.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Requests at once on one connection: what RFC 9113, section 6.5.2, calls the least that is useful. How many
/// may be begun and taken back is hyper's to limit.
const STREAMS_MAX: u32 = 100;
/// What a client may send ahead, of one request's body and of all: all that a connection holds.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 512 << 10;
/// The same for a client without a certificate: any number of addresses can have [`UNPROVED_MAX`] of these
/// connections. Browsers ask for a few files at once.
const UNPROVED_STREAMS_MAX: u32 = 16;
const UNPROVED_STREAM_WINDOW: u32 = 32 << 10;
const UNPROVED_CONNECTION_WINDOW: u32 = 64 << 10;
/// What waits to be sent of one answer.
const SEND_BUFFER_LEN_MAX: usize = 64 << 10;
/// When a connection over HTTP/2 is asked whether its peer is still there, and how long that may take.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// TLS settings of handshakes.
#[derive(Debug)]
pub struct TlsSettings {
    tls: Arc<ServerConfig>,
    anonymous: bool,
}

impl TlsSettings {
    /// With `anonymous`, a client without a certificate is passed on with empty identity headers where a
    /// route allows that; the configuration ([`server_config`]) has to make certificates optional, too.
    pub fn new(tls: ServerConfig, anonymous: bool) -> Self {
        Self { tls: Arc::new(tls), anonymous }
    }
}

/// A TLS-terminating proxy with its application.
#[derive(Debug)]
pub struct Front {
    sidecar: Arc<ArcSwap<Sidecar>>,
    upstream: Arc<Upstream>,
    tls_settings: watch::Sender<Arc<TlsSettings>>,
    /// By the SHA-256 of the certificate.
    connections: Connections<[u8; 32]>,
    log_limiter: LogLimiter,
    /// For certificates that are rejected in a handshake.
    handshake_log: LogLimiter,
    clock: Clock,
}

impl Front {
    /// A proxy that does not serve yet.
    pub fn new(
        sidecar: Arc<ArcSwap<Sidecar>>,
        upstream: Arc<Upstream>,
        tls_settings: TlsSettings,
        clock: Clock,
    ) -> Arc<Self> {
        let limits = ConnectionLimits {
            unproved_max: UNPROVED_MAX,
            started_max: STARTED_MAX,
            unproved_per_address_max: UNPROVED_MAX,
            proved_max: PROVED_MAX,
            proved_per_identity_max: PROVED_PER_CERTIFICATE_MAX,
        };
        Arc::new(Self {
            sidecar,
            upstream,
            tls_settings: watch::Sender::new(Arc::new(tls_settings)),
            connections: Connections::with_memory("proxy", limits, UNPROVED_LEN_MAX),
            log_limiter: LogLimiter::default(),
            handshake_log: LogLimiter::default(),
            clock,
        })
    }

    /// The application behind it.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// What counts its connections.
    pub fn meter(&self, address: String) -> ConnectionMeter {
        self.connections.meter(address).with_upstream(Some(self.upstream.meter()))
    }

    /// Uses other TLS settings from now on. Store the [`Sidecar`] first: clients that connect with the new
    /// settings are decided about anew.
    pub fn replace(&self, tls_settings: TlsSettings) {
        self.tls_settings.send_replace(Arc::new(tls_settings));
    }

    /// Serves until the shutdown begins and all requests are answered; the caller says how long that may
    /// take. WebSockets are not waited for.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        let accept = || listener.accept();
        while let Some((stream, address)) = self.connections.accept_next(&shutdown, accept).await {
            self.spawn(&tasks, stream, address, shutdown.child_token());
        }
        drop(listener);
        tasks.close();
        tasks.wait().await;
    }

    fn spawn(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        stream: TcpStream,
        address: SocketAddr,
        shutdown: CancellationToken,
    ) {
        let permit = Arc::new(self.connections.admit(address.ip()));
        let front = Arc::clone(self);
        let task = async move {
            // An answer's head and the end of its body are written apart.
            let _ = stream.set_nodelay(true);
            let Ok(local) = stream.local_addr() else { return };
            tokio::select! {
                has_begun = front.connections.wait_for_first_bytes(&stream, &permit, HANDSHAKE_TIMEOUT) => if !has_begun {
                    return debug!("Connection closed: nothing was sent before the timeout");
                },
                () = shutdown.cancelled() => return,
            }
            permit.advance();
            let memory = Memory::new(Arc::clone(&permit));
            let connections = Arc::clone(&front);
            let connection = tokio::select! {
                // What has come is looked at before the connection makes room for another one.
                biased;
                // Boxed: until the first bytes come, the task has no room for what follows.
                connection = Box::pin(front.connection(stream, memory, address, local.ip())) => connection,
                () = permit.evicted() => return drop(connections.connections.evicted(false)),
            };
            if let Some((connection, stream)) = connection {
                Box::pin(connection.run(stream, &permit, shutdown)).await;
            }
        };
        let task = task.instrument(debug_span!("accept", client.addr = %address));
        let front = Arc::clone(self);
        tasks.spawn(async move {
            // A panic ends this connection alone; it is a fault of ours, so it is said aloud.
            if let Err(error) = tokio::spawn(task).await
                && error.is_panic()
            {
                front.log_limiter.once(
                    "panic",
                    || warn!(client.addr = %address, "A request panicked; its connection is closed"),
                );
            }
        });
    }

    /// Makes the handshake.
    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        memory: Arc<Memory>,
        address: SocketAddr,
        local: IpAddr,
    ) -> Option<(Arc<Connection>, Stream)> {
        let stream = Watched::new(Lingering::new(stream), memory::Client::new(Arc::clone(&memory)));
        let tls_settings = self.tls_settings.borrow().clone();
        let accepted = accept(TlsAcceptor::from(Arc::clone(&tls_settings.tls)), stream);
        let stream = match timeout(HANDSHAKE_TIMEOUT, accepted).await {
            Ok(Ok(stream)) => stream,
            Ok(Err((error, mut stream))) => {
                error.report(&self.connections, address, &self.handshake_log);
                // The client reads the alert before the connection is gone.
                let _ = stream.shutdown().await;
                return None;
            }
            Err(_) => {
                let why = Rejection::HandshakeTimeout;
                self.connections.rejected(why, Some(address), &"the handshake took too long");
                return None;
            }
        };
        let (_, tls) = stream.get_ref();
        let mut certificates =
            tls.peer_certificates().unwrap_or_default().iter().map(|der| Bytes::copy_from_slice(der));
        let presented = match certificates.next() {
            Some(leaf) => ClientCertificate::new(leaf, certificates.collect()).map(Some),
            None => Ok(None),
        };
        let name = tls.server_name().and_then(host_of);
        let requests = Requests::new(self.upstream.timeouts().application);
        let close = CancellationToken::new();
        Some((
            Arc::new(Connection {
                front: self,
                tls_settings,
                presented,
                name,
                local,
                address,
                memory,
                requests,
                answers: Arc::default(),
                close,
            }),
            stream,
        ))
    }
}

/// The name of this listener where others have their dialect.
const NAME: &str = "proxy";

type Stream = TlsStream<Watched<Lingering<TcpStream>, memory::Client>>;

/// A client's connection, after its handshake.
#[derive(Debug)]
struct Connection {
    front: Arc<Front>,
    tls_settings: Arc<TlsSettings>,
    presented: Result<Option<ClientCertificate>, Refusal>,
    /// The host that the handshake names.
    name: Option<String>,
    /// Our own address.
    local: IpAddr,
    address: SocketAddr,
    memory: Arc<Memory>,
    requests: Requests,
    /// Over HTTP/2: heads and trailers of answers that are not written yet.
    answers: Arc<AtomicUsize>,
    /// Closes it, when the application's permits are needed for other clients.
    close: CancellationToken,
}

impl Connection {
    async fn run(
        self: Arc<Self>,
        stream: Stream,
        permit: &ConnectionPermit<[u8; 32]>,
        shutdown: CancellationToken,
    ) {
        if let Some(certificate) = stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
            permit.prove(Sha256::digest(certificate).into());
        }
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(H2);
        match permit.is_proved() {
            true => self.memory.proved(),
            false => self.memory.established(is_http2),
        }
        let tls_settings = self.front.tls_settings.subscribe();
        let this = Arc::clone(&self);
        let service = service_fn(move |request| {
            let this = Arc::clone(&this);
            async move {
                let open = this.requests.begin(this.memory.begin(request.headers()));
                let answer = this.respond(request).await;
                count_not_passed_on(&answer, &this.front.connections, Some(this.address));
                this.answers.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Infallible>(answer.map(|body| Counted::new(body, open, Arc::clone(&this.answers))))
            }
        });
        let watched = memory::Frames::new(&self.memory, is_http2, self.resets(is_http2));
        let stream = TokioIo::new(Watched::new(stream, watched));
        // What the handshake agreed on is spoken, and nothing else: hyper-util's builder of both versions
        // looks at the first bytes where upgrades are served, whichever version it is told.
        if !is_http2 {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_LEN_MAX);
            let connection = builder.serve_connection(stream, service).with_upgrades();
            let carried = self.carry(
                connection,
                |it| it.graceful_shutdown(),
                permit,
                (tls_settings, shutdown, is_http2),
            );
            return Box::pin(carried).await;
        }
        let (streams_max, stream_window, connection_window) = match permit.is_proved() {
            true => (STREAMS_MAX, STREAM_WINDOW, CONNECTION_WINDOW),
            false => (UNPROVED_STREAMS_MAX, UNPROVED_STREAM_WINDOW, UNPROVED_CONNECTION_WINDOW),
        };
        // What is a little too long is refused by us: after 431, h2 resets a stream whose body comes, and its
        // client loses the answer.
        let header_list_max = if permit.is_proved() { 2 * HEAD_LEN_MAX } else { HEAD_LEN_MAX };
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_header_list_size(header_list_max as u32)
            .max_concurrent_streams(streams_max)
            .initial_stream_window_size(stream_window)
            .initial_connection_window_size(connection_window)
            .max_send_buf_size(SEND_BUFFER_LEN_MAX)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        let connection = builder.serve_connection(stream, service);
        let carried =
            self.carry(connection, |it| it.graceful_shutdown(), permit, (tls_settings, shutdown, is_http2));
        Box::pin(carried).await;
    }

    /// Carries requests until the connection ends.
    async fn carry<C: Future<Output = hyper::Result<()>>>(
        &self,
        connection: C,
        shut_down: fn(Pin<&mut C>),
        permit: &ConnectionPermit<[u8; 32]>,
        (mut tls_settings, shutdown, is_http2): (watch::Receiver<Arc<TlsSettings>>, CancellationToken, bool),
    ) {
        let mut connection = std::pin::pin!(connection);
        let Timeouts { client, leave, .. } = self.front.upstream.timeouts();
        let replaced = tls_settings.wait_for(|tls_settings| !Arc::ptr_eq(tls_settings, &self.tls_settings));
        let mut draining = None;
        let grace = tokio::select! {
            ended = connection.as_mut() => return self.ended(ended, is_http2),
            // The caller of the shutdown limits how long that may take.
            () = shutdown.cancelled() => Duration::MAX,
            _ = replaced => client,
            () = self.requests.idle(IDLE_TIMEOUT) => client,
            () = self.requests.stalled(client) => leave,
            () = self.close.cancelled() => return self.closed(),
            () = permit.evicted() => {
                draining = self.front.connections.evicted(permit.is_proved());
                if draining.is_none() {
                    return debug!("Connection evicted");
                }
                DRAIN_TIMEOUT
            }
        };
        shut_down(connection.as_mut());
        tokio::select! {
            ended = connection => self.ended(ended, is_http2),
            () = self.requests.idle(leave) => debug!("Connection closed: idle after shutdown began"),
            () = self.requests.stalled(client + leave) => debug!("Connection closed: write timeout, the client does not read its answer"),
            () = self.close.cancelled() => self.closed(),
            () = sleep(grace) => debug!("Connection aborted: it did not end in time"),
        }
        drop(draining);
    }

    /// Counts and logs the streams that HTTP/2 resets before a request is there.
    fn resets(&self, is_http2: bool) -> Option<Resets> {
        let (front, address) = (Arc::clone(&self.front), self.address);
        let rejected = move |error: &'static str| {
            front.connections.rejected(Rejection::Http2Stream, Some(address), &error);
        };
        is_http2.then(|| Resets::new(Arc::clone(&self.answers), Box::new(rejected)))
    }

    fn ended(&self, ended: hyper::Result<()>, is_http2: bool) {
        match ended {
            Ok(()) => debug!("A connection ended"),
            Err(error) => self.front.connections.ended(&error, is_http2, Some(self.address)),
        }
    }

    fn closed(&self) {
        self.front.log_limiter.once("closed", || {
            warn!(client.addr = %self.address, "Request limit of the application reached: closing the connection of the client with most requests");
        });
    }

    /// Answers a request, in a span of its own.
    async fn respond(&self, request: Request<Incoming>) -> Response<Body> {
        let sidecar = self.front.sidecar.load_full();
        let is_proved = matches!(self.presented, Ok(Some(_)));
        let parent = is_proved.then_some(request.headers());
        let span = sidecar.spans().begin(NAME, &RequestHead::of(&request), parent);
        let answer = self.respond_in_span(&sidecar, request).instrument(span.clone()).await;
        sidecar.spans().answered(&span, answer.status());
        answer
    }

    async fn respond_in_span(&self, sidecar: &Arc<Sidecar>, request: Request<Incoming>) -> Response<Body> {
        if head_len(&request) > HEAD_LEN_MAX {
            let (why, error) = (Rejection::HeadTooLarge, "message head is too large");
            self.front.connections.rejected(why, Some(self.address), &error);
            let text = "the headers are too long\n";
            return refuse(request, plain(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, text));
        }
        let Some(host) = authority(&request) else {
            return refuse(request, no_host());
        };
        let path = request.uri().path_and_query().map_or("", |path| path.as_str());
        let target = Some((host.as_str(), path));
        let presented = match self.is_for(&host, request.uri().scheme()) {
            true => self.presented.clone(),
            false => Err(Refusal::Misdirected),
        };
        let cookies = Cookies::Headers(request.headers());
        let ask = Ask { presented, target, cookies, source: Some(self.address), now: (self.front.clock)() };
        let behind = |account| {
            RequestOrigin::Tls(Client { address: self.address.ip(), account, close: self.close.clone() })
        };
        let decision = sidecar.decide(NAME, ask).await;
        let span = Span::current();
        sidecar.spans().decided(&span, &decision);
        let set_cookie = sidecar.set_cookie(&decision.decided, cookies);
        match &decision.decided {
            Decided::Allowed(allowed) => {
                let behind = behind(Some(allowed.identity.sid));
                let stamp = |headers: &mut HeaderMap| {
                    sidecar.stamp(Some(allowed), headers);
                    sidecar.spans().put(&span, headers);
                };
                // Boxed: a connection that asks for nothing has no room for it.
                let answer =
                    Box::pin(self.front.upstream.forward(request, behind, stamp, strip(sidecar))).await;
                with_cookie(answer, set_cookie)
            }
            Decided::Refused(Refusal::NoCertificate)
                if self.tls_settings.anonymous && is_for_everybody(sidecar, target) =>
            {
                let stamp = |headers: &mut HeaderMap| {
                    sidecar.stamp(None, headers);
                    sidecar.spans().put(&span, headers);
                };
                Box::pin(self.front.upstream.forward(request, behind(None), stamp, strip(sidecar))).await
            }
            Decided::Refused(refusal) => {
                let from = (NAME, Some(self.address));
                refusals::log(&self.front.log_limiter, from, *refusal, &decision);
                refuse(request, plain(refusal.status(), refusal.text()))
            }
        }
    }

    /// Whether this connection's handshake speaks for a request: it was made for that host, and with the
    /// current TLS settings.
    fn is_for(&self, host: &Authority, scheme: Option<&Scheme>) -> bool {
        if scheme.is_some_and(|scheme| *scheme != Scheme::HTTPS) {
            return false;
        }
        if !Arc::ptr_eq(&self.tls_settings, &self.front.tls_settings.borrow()) {
            return false;
        }
        let Some(host) = host_of(host.as_str()) else { return false };
        match &self.name {
            Some(name) => *name == host,
            // Addresses have no place in a handshake (RFC 6066, section 3).
            None => {
                let address = host.trim_start_matches('[').trim_end_matches(']').parse();
                address.is_ok_and(|address: IpAddr| address.to_canonical() == self.local.to_canonical())
            }
        }
    }
}

/// The length of a request's head over HTTP/1.1. hyper looks at its limit between two reads, so the last read
/// may go beyond it.
fn head_len(request: &Request<Incoming>) -> usize {
    let fields =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    request.uri().path_and_query().map_or(0, |path| path.as_str().len()) + fields.sum::<usize>()
}

/// Whether the route for a target lets everybody in.
fn is_for_everybody(sidecar: &Sidecar, target: Option<(&str, &str)>) -> bool {
    let routes = sidecar.routes();
    let number = routes.choose(target).ok().and_then(|chosen| chosen.number);
    number.is_some_and(|number| routes.all()[number].anonymous)
}

#[cfg(test)]
mod tests;
