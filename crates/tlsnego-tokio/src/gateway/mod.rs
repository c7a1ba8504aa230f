//! A gateway in front of a plain SOAP 1.2 service. Clients speak TLSNEGO and secure conversation with it; the
//! service gets the body of each verified call in an envelope of its own, and who called in HTTP headers.
//!
//! What a client sends as HTTP headers never reaches the service: each request to it is made anew. Its action
//! is the one that was signed.

mod calls;
mod memory;
mod upstream;

use crate::Clock;
use bytes::Bytes;
use calls::Calls;
use dcerpc_tokio::{ConnectionLimits, ConnectionPermit};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use listener_tokio::connections::{ConnectionMeter, Connections, Rejection};
use listener_tokio::lingering::Lingering;
use listener_tokio::watched::Watched;
use memory::{Client, Memory};
use rustls::ServerConfig;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tlsnego_service::fault::Reason;
use tlsnego_service::session::{BoxFuture, EndReason, Ended, Session};
use tlsnego_soap::refusal::Refusal;
use tlsnego_soap::server::metadata::WSDL_CONTENT_TYPE;
use tlsnego_soap::server::{Answer, Call, CallFault, Event, Server};
use tlsnego_soap::{HttpRequest, HttpResponse};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span};
pub use upstream::Failure;
use upstream::Upstream;

/// Where the service is, and how much it may send.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `http://HOST:PORT/PATH` of the service.
    pub upstream: Uri,
    /// How long it may take to answer.
    pub upstream_timeout: Duration,
    /// Longest body of a request, and of an answer of the service, in octets.
    pub message_len_max: usize,
    /// Calls that the service has not answered yet, such as [`CALLS_MAX`].
    pub calls_max: usize,
    /// Those of one account, or of anonymous clients at one address, such as [`CALLS_OF_CALLER_MAX`].
    pub calls_of_caller_max: usize,
    /// Octets of messages that are not verified, and of answers that are not read, such as
    /// [`unproved_len_max`]. Anonymous calls that the service has not answered may have as many again.
    pub unproved_len_max: usize,
}

/// What became of a verified call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// The service answered.
    Answered,
    /// The service answered with a fault of its own.
    Fault,
    /// The service took the message, and has no answer.
    OneWay,
    /// The service did not answer with a SOAP message, or not in time.
    Failed(Failure),
    /// The reply cannot be written.
    NotWritten(String),
}

impl CallOutcome {
    /// One word for metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Fault => "fault",
            Self::OneWay => "one_way",
            Self::Failed(failure) => failure.name(),
            Self::NotWritten(_) => "not_written",
        }
    }
}

/// Why the account of a session may not call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRefused {
    /// For the log.
    pub error: String,
    /// The account is not what it was when the session was opened, so the session ends. False if it cannot be
    /// looked up.
    pub ends_session: bool,
}

/// What the program knows of sessions and accounts.
pub trait Accounting: Send + Sync + 'static {
    /// The headers that tell the service who calls, and in which session. The error refuses the call.
    fn headers<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, Result<HeaderMap, AccountRefused>>;

    /// The span of a request with these headers.
    fn span(&self, headers: &HeaderMap) -> Span;

    /// A message was answered. The error refuses it, and ends the session that it opened or renewed: what has
    /// to be audited could not be.
    fn answered(&self, event: &Event, source: IpAddr) -> Result<(), String>;

    /// A call was answered.
    fn called(&self, session: &Session, action: &str, outcome: &CallOutcome, source: IpAddr, upstream: &Uri);

    /// A session ended before its time, or expired.
    fn ended(&self, ended: &Ended);
}

/// The gateway.
pub struct Gateway {
    server: Server,
    upstream: Upstream,
    accounting: Arc<dyn Accounting>,
    connections: Arc<Connections<()>>,
    calls: Calls,
    tls: RwLock<Option<Arc<ServerConfig>>>,
    settings: Settings,
    clock: Clock,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Connections at once. No connection proves anything: each message proves what it is. The oldest connection
/// of the address with most of them makes room for a new one.
pub const CONNECTIONS_MAX: usize = 2_048;
/// Those that have sent something: each may hold a message.
const STARTED_MAX: usize = 1_024;
/// Calls that the service has not answered yet. A call goes on if its client hangs up, so connections do not
/// bound them; each has a connection to the service.
pub const CALLS_MAX: usize = STARTED_MAX;
/// Those of one account: a client that hangs up again and again leaves three quarters to others.
pub const CALLS_OF_CALLER_MAX: usize = CALLS_MAX / 4;
/// A web server in front of the gateway is one address.
const LIMITS: ConnectionLimits = ConnectionLimits {
    unproved_max: CONNECTIONS_MAX,
    started_max: STARTED_MAX,
    unproved_per_address_max: CONNECTIONS_MAX,
    proved_max: 1,
    proved_per_identity_max: 1,
};
/// For the head of a request, and between two of them: .NET keeps connections for 100 s, and opens new ones
/// without notice when they are closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// For the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest head of a request in octets.
const HEAD_LEN_MAX: usize = 16 << 10;
/// How often ended sessions are looked for.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(5);

/// What all connections together may hold: 64 MiB, or four messages of the greatest length.
pub fn unproved_len_max(message_len_max: usize) -> usize {
    (64 << 20).max(4 * message_len_max)
}

impl Gateway {
    /// In front of a service. Opens no connection.
    pub fn new(
        server: Server,
        settings: Settings,
        accounting: Arc<dyn Accounting>,
        clock: Clock,
    ) -> Arc<Self> {
        let connections = Arc::new(Connections::with_memory("tlsnego", LIMITS, settings.unproved_len_max));
        let upstream = Upstream::new(&settings);
        let Settings { calls_max, calls_of_caller_max, unproved_len_max, .. } = settings;
        let calls = Calls::new(calls_max, calls_of_caller_max, unproved_len_max);
        let tls = RwLock::new(None);
        Arc::new(Self { server, upstream, accounting, connections, calls, tls, settings, clock })
    }

    /// Serves new connections over TLS, or without. Those that are open stay as they are.
    pub fn set_tls(&self, tls: Option<Arc<ServerConfig>>) {
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = tls;
    }

    /// The sessions and negotiations.
    pub const fn server(&self) -> &Server {
        &self.server
    }

    /// Where the service is, and how much it may send.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What counts the connections of the listener at this address.
    pub fn meter(&self, address: String) -> ConnectionMeter {
        self.connections.meter(address)
    }

    /// Serves until `shutdown` is cancelled. Each connection is a task of `tasks`, and ends after what is in
    /// flight is answered.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        shutdown: CancellationToken,
        tasks: TaskTracker,
    ) {
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(Arc::clone(&self).expire()));
        let accept = || listener.accept();
        while let Some((stream, address)) = self.connections.accept_next(&shutdown, accept).await {
            let permit = self.connections.admit(address.ip());
            tasks.spawn(Arc::clone(&self).connection((stream, address), permit, shutdown.clone()));
        }
    }

    async fn expire(self: Arc<Self>) {
        let mut ticks = interval(EXPIRE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for ended in self.server.expire((self.clock)()) {
                self.accounting.ended(&ended);
            }
        }
    }

    async fn connection(
        self: Arc<Self>,
        (stream, address): (TcpStream, SocketAddr),
        permit: ConnectionPermit<()>,
        shutdown: CancellationToken,
    ) {
        let is_begun = tokio::select! {
            is_begun = self.connections.wait_for_first_bytes(&stream, &permit, HEAD_TIMEOUT) => is_begun,
            () = shutdown.cancelled() => false,
        };
        if is_begun {
            // Boxed: until the first bytes come, the task has no room for what follows.
            Box::pin(self.begun((stream, address), permit, shutdown)).await;
        }
    }

    async fn begun(
        self: Arc<Self>,
        (stream, address): (TcpStream, SocketAddr),
        permit: ConnectionPermit<()>,
        shutdown: CancellationToken,
    ) {
        permit.advance();
        // Replies are written in one piece.
        let _ = stream.set_nodelay(true);
        let permit = Arc::new(permit);
        let memory = Memory::new(Arc::clone(&permit));
        let stream = Watched::new(Lingering::new(stream), Client::new(&memory));
        let tls = self.tls.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(tls) = tls else { return self.http(stream, address, (&permit, &memory), shutdown).await };
        let handshake = timeout(HEAD_TIMEOUT, TlsAcceptor::from(tls).accept(stream));
        let handshake = tokio::select! {
            biased;
            handshake = handshake => handshake,
            () = shutdown.cancelled() => return,
            () = permit.evicted() => {
                self.connections.evicted(false);
                return;
            }
        };
        match handshake {
            Ok(Ok(stream)) => self.http(stream, address, (&permit, &memory), shutdown).await,
            Ok(Err(error)) => self.connections.rejected(Rejection::Handshake, Some(address), &error),
            Err(error) => self.connections.rejected(Rejection::HandshakeTimeout, Some(address), &error),
        }
    }

    async fn http(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        address: SocketAddr,
        (permit, memory): (&ConnectionPermit<()>, &Arc<Memory>),
        shutdown: CancellationToken,
    ) {
        let service = service_fn(|request| {
            let (gateway, memory) = (Arc::clone(&self), Arc::clone(memory));
            async move {
                let answer = gateway.answer(request, address.ip(), &memory).await;
                memory.answered(usize::try_from(answer.body().size_hint().lower()).unwrap_or(usize::MAX));
                Ok::<_, Infallible>(answer)
            }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_LEN_MAX);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            // What has come is answered before the connection makes room for another one.
            biased;
            ended = connection.as_mut() => if let Err(error) = ended {
                self.connections.ended(&error, false, Some(address));
            },
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            },
            () = permit.evicted() => {
                // It has no permit any more, so it ends at once.
                self.connections.evicted(false);
            },
        }
    }

    async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        source: IpAddr,
        memory: &Memory,
    ) -> Response<Full<Bytes>> {
        if matches!(*request.method(), Method::GET | Method::HEAD)
            && let Some(wsdl) =
                self.server.metadata().and_then(|metadata| metadata.answer(request.uri().query()))
        {
            let mut answer = Response::new(Full::new(Bytes::from_owner(wsdl)));
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(WSDL_CONTENT_TYPE));
            return answer;
        }
        if request.method() != Method::POST {
            let mut answer =
                plain(StatusCode::METHOD_NOT_ALLOWED, "this service takes SOAP 1.2 messages by POST\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return answer;
        }
        if request.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return plain(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "send the message without a Content-Encoding\n",
            );
        }
        let content_type = request.headers().get(CONTENT_TYPE).cloned();
        let span = self.accounting.span(request.headers());
        let body = memory::body(request.into_body(), self.settings.message_len_max, memory);
        let body = match timeout(BODY_TIMEOUT, body).await {
            Ok(Ok(body)) => body,
            Ok(Err((status, text))) => return plain(status, text),
            Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the message did not come in time\n"),
        };
        let content_type = content_type.as_ref().and_then(|value| value.to_str().ok());
        let request = HttpRequest { content_type, body: &body, source };
        soap(self.receive(&request, memory).instrument(span).await)
    }

    async fn receive(self: &Arc<Self>, request: &HttpRequest<'_>, memory: &Memory) -> HttpResponse {
        let now = (self.clock)();
        match self.server.receive(request, now).await {
            Answer::Reply(reply) => {
                let Err(why) = self.accounting.answered(&reply.event, request.source) else {
                    return reply.response;
                };
                if let Event::Opened(session) | Event::Renewed(session) = &reply.event {
                    // Its client does not get the token, and a session that cannot be ended is of no use to
                    // it.
                    let _ = self.server.end(session, EndReason::Operator, now).await;
                }
                let refused = self.server.refuse(Reason::NotAudited(why).into(), now);
                let _ = self.accounting.answered(&refused.event, request.source);
                refused.response
            }
            Answer::Call(call) => {
                // `calls` bounds it from now on.
                memory.request(0);
                // In a task of its own: a client that hangs up leaves no call without an outcome.
                let (gateway, source, len) = (Arc::clone(self), request.source, request.body.len());
                let called = async move {
                    let (response, outcome) = gateway.call(&call, source, len).await;
                    let upstream = &gateway.settings.upstream;
                    gateway.accounting.called(&call.session, &call.action, &outcome, source, upstream);
                    response
                };
                let called = tokio::spawn(called.in_current_span()).await;
                called.unwrap_or(HttpResponse { status: 500, body: Vec::new() })
            }
        }
    }

    /// Asks the service, and secures its answer.
    async fn call(&self, call: &Call, source: IpAddr, len: usize) -> (HttpResponse, CallOutcome) {
        let asked = self.ask(call, source, len).await;
        // The answer has the time at which it is written.
        let now = (self.clock)();
        let failed = |failure: Failure| {
            let fault = match failure {
                Failure::TimedOut => CallFault::TimedOut,
                _ => CallFault::Application,
            };
            (call.fault(fault, now), CallOutcome::Failed(failure))
        };
        let (response, outcome) = match asked {
            Ok(upstream::Answer::Taken) => (Ok(call.one_way()), CallOutcome::OneWay),
            Ok(upstream::Answer::Message { is_success, body }) => {
                match call.reply(&body, &self.limits(), now) {
                    Ok(response) if response.status == 200 && is_success => {
                        (Ok(response), CallOutcome::Answered)
                    }
                    Ok(response) if response.status != 200 => (Ok(response), CallOutcome::Fault),
                    Ok(_) => {
                        failed(Failure::NotSoap("an error status with a message that is no fault".to_owned()))
                    }
                    Err(Refusal::Reply(error)) => failed(Failure::Body(error)),
                    Err(error) => failed(Failure::NotSoap(error.to_string())),
                }
            }
            Err(failure) => failed(failure),
        };
        match response {
            Ok(response) => (response, outcome),
            Err(refusal) => {
                (HttpResponse { status: 500, body: Vec::new() }, CallOutcome::NotWritten(refusal.to_string()))
            }
        }
    }

    /// What the service answers.
    async fn ask(&self, call: &Call, source: IpAddr, len: usize) -> Result<upstream::Answer, Failure> {
        let _in_progress = self.calls.begin(&call.session, source, len)?;
        let headers = self.accounting.headers(&call.session).await;
        let headers = match headers {
            Ok(headers) => headers,
            Err(AccountRefused { error, ends_session: false }) => return Err(Failure::Account(error)),
            Err(AccountRefused { error, ends_session: true }) => {
                let ended = self.server.end(&call.session, EndReason::Account, (self.clock)()).await;
                return Err(Failure::Account(match ended {
                    Ok(()) => error,
                    Err(failed) => format!("{error}; the session was not ended: {failed}"),
                }));
            }
        };
        let body = call.body().map_err(|refusal| Failure::Body(refusal.to_string()))?;
        self.upstream.ask(&call.action, headers, &body).await
    }

    fn limits(&self) -> xml_security::ParseLimits {
        xml_security::ParseLimits { octets: self.settings.message_len_max, ..Default::default() }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn soap(HttpResponse { status, body }: HttpResponse) -> Response<Full<Bytes>> {
    let is_empty = body.is_empty();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if !is_empty {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(tlsnego_soap::CONTENT_TYPE));
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
