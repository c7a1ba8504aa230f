//! Connections to an application: made when they are needed, kept for a moment.
//!
//! A connection carries one request at a time, over HTTP/2, too. Requests of different clients would share
//! its windows otherwise, and one client whose body the application does not read would hold up all others;
//! so would one that does not take its answer.
//!
//! The client of `hyper_util` is not used. It sends requests of several clients over one connection of
//! HTTP/2, and it gives no handle to the connection of a request, so one that is given up could not be
//! aborted, nor a stream be watched to the end of both directions.
//!
//! An application may answer before it has read a request's body, and close. Writes fail then while its
//! answer is still to be read, and hyper gives the answer up for the failed write. So a failed write ends a
//! connection only after all of the answer is read ([`AnswerFirst`]).

use super::body::{Paced, Stream};
use super::failure::Failure;
use super::hop;
use super::tls::Tls;
use crate::settings::{Application, UpstreamPlace, UpstreamProtocol};
use http::uri::{self, Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Response, Uri, Version, header};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use listener_tokio::connections::h2_errors;
use listener_tokio::watched::{Watch, Watched};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How long a connection may take, with its TLS handshake: an application that is there takes as long as
/// light does.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle timeout of a kept connection: less than that of applications (Node.js five seconds). If the
/// application closes while a request is written, it is not known whether the application has the request.
const KEPT_TIMEOUT: Duration = Duration::from_secs(4);
/// Connections that are kept: more are not used again within that time.
const KEPT_MAX: usize = 256;
/// The head of an answer, and what is read of its body ahead.
const BUFFER_LEN_MAX: usize = 128 << 10;
/// What waits to be sent of a request's body over HTTP/2.
const SEND_BUFFER_LEN_MAX: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Pool {
    place: UpstreamPlace,
    tls: Option<Tls>,
    protocol: Option<UpstreamProtocol>,
    /// The last used is used first, so that those that are not needed grow old.
    kept: Mutex<Vec<Kept>>,
}

#[derive(Debug)]
struct Kept {
    connection: Connection,
    since: Instant,
}

/// A connection that nothing uses.
#[derive(Debug)]
struct Connection {
    sender: Sender,
    /// Its task: aborting it ends the connection and all that runs on it.
    task: AbortHandle,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Paced>),
    Http2(http2::SendRequest<Paced>),
}

impl Sender {
    fn is_ready(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_ready(),
            Self::Http2(sender) => sender.is_ready(),
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }
}

/// A stream over HTTP/2, until nothing holds it any more. If both of its directions came to their end, its
/// connection is kept. One with a reset stream is not: applications count these, and close connections with
/// many.
#[derive(Debug)]
pub(super) struct Lease {
    pool: Arc<Pool>,
    sender: http2::SendRequest<Paced>,
    task: AbortHandle,
    /// Directions that are at their end.
    finished: AtomicUsize,
}

impl Stream for Lease {
    fn finished(&self) {
        self.finished.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if *self.finished.get_mut() == 2 {
            self.pool.put(Connection { sender: Sender::Http2(self.sender.clone()), task: self.task.clone() });
        }
    }
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) response: Response<Incoming>,
    /// The stream, over HTTP/2.
    pub(super) lease: Option<Arc<Lease>>,
    /// The connection that it comes over.
    pub(super) task: AbortHandle,
}

/// Ends a connection, unless its answer comes: one that waits to write does not notice that its request was
/// given up.
struct Unanswered(Option<AbortHandle>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}

/// What a request is for.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) authority: Authority,
    pub(super) host: HeaderValue,
    pub(super) path: PathAndQuery,
    pub(super) is_websocket: bool,
    /// How long an exchange over HTTP/2 may pause.
    pub(super) idle: Duration,
}

impl Target {
    /// Names the target as HTTP/1.1 has it (RFC 9112, section 3.2.1), or with a scheme as HTTP/2 has it (RFC
    /// 9113, section 8.3.1).
    fn name(&self, request: &mut Request<Paced>, scheme: Option<&Scheme>) {
        let mut parts = uri::Parts::default();
        parts.path_and_query = Some(self.path.clone());
        if let Some(scheme) = scheme {
            (parts.scheme, parts.authority) = (Some(scheme.clone()), Some(self.authority.clone()));
        }
        // What is valid apart is so together.
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        *request.version_mut() = if scheme.is_some() { Version::HTTP_2 } else { Version::HTTP_11 };
        let headers = request.headers_mut();
        if scheme.is_some() {
            headers.remove(header::HOST);
            headers.remove(header::CONNECTION);
            return;
        }
        headers.insert(header::HOST, self.host.clone());
        if self.is_websocket {
            hop::websocket(headers);
        } else if headers.contains_key(header::TE) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
    }
}

impl Pool {
    /// A pool without a connection; `tls` is for an application at an `https` URL.
    pub(super) fn new(application: &Application, tls: Option<Tls>) -> Self {
        let Application { place, protocol, .. } = application.clone();
        Self { place, tls, protocol, kept: Mutex::new(Vec::new()) }
    }

    /// Whether its connections are made with these CAs and certificates.
    pub(super) fn is_made_with(&self, tls: &Tls) -> bool {
        self.tls.as_ref().is_some_and(|own| own.is_same(tls))
    }

    /// Sends a request, on a kept connection if there is one. Over HTTP/2, the stream comes with the answer.
    ///
    /// If a kept connection turns out to be closed, it is sent once more, on a new connection: if none of it
    /// was written, or if it is safe and has no body (RFC 9110, section 9.2.2).
    pub(super) async fn send(
        self: &Arc<Self>,
        mut request: Request<Paced>,
        target: &Target,
    ) -> Result<Answered, Failure> {
        let scheme = if self.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let mut kept = self.take(target.is_websocket);
        loop {
            let is_kept = kept.is_some();
            let again = is_kept.then(|| repeated(&request)).flatten();
            let Connection { sender, task } = match kept.take() {
                Some(connection) => connection,
                // Boxed: a request that waits for its answer holds no room for a TLS handshake.
                None => Box::pin(self.connect(target.is_websocket)).await?,
            };
            let mut unanswered = Unanswered(Some(task.clone()));
            let mut error = match sender {
                Sender::Http1(mut sender) => {
                    target.name(&mut request, None);
                    match sender.try_send_request(request).await {
                        Ok(response) => {
                            unanswered.0 = None;
                            self.keep(sender, task.clone());
                            return Ok(Answered { response, lease: None, task });
                        }
                        Err(error) => error,
                    }
                }
                Sender::Http2(mut sender) => {
                    target.name(&mut request, Some(&scheme));
                    let (pool, finished) = (Arc::clone(self), AtomicUsize::new(0));
                    let lease =
                        Arc::new(Lease { pool, sender: sender.clone(), task: task.clone(), finished });
                    request.body_mut().on_stream(Arc::clone(&lease) as _, target.idle);
                    match sender.try_send_request(request).await {
                        Ok(response) => {
                            unanswered.0 = None;
                            return Ok(Answered { response, lease: Some(lease), task });
                        }
                        Err(error) => error,
                    }
                }
            };
            let is_closed = is_closed(error.error());
            request = match error.take_message().or(again.filter(|_| is_closed)) {
                Some(request) if is_kept => request,
                _ => return Err(Failure::Broken(error.into_error())),
            };
        }
    }

    /// How many connections are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.kept().len()
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, is_websocket: bool) -> Option<Connection> {
        let mut kept = self.kept();
        let fits = |kept: &Kept| !is_websocket || matches!(kept.connection.sender, Sender::Http1(_));
        while let Some(at) = kept.iter().rposition(fits) {
            let Kept { connection, since } = kept.remove(at);
            if since.elapsed() < KEPT_TIMEOUT && connection.sender.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    fn put(&self, connection: Connection) {
        let mut kept = self.kept();
        kept.retain(|kept| kept.since.elapsed() < KEPT_TIMEOUT && !kept.connection.sender.is_closed());
        if kept.len() < KEPT_MAX {
            kept.push(Kept { connection, since: Instant::now() });
        }
    }

    /// Keeps a connection once its answer is read; one that is left before that is closed.
    fn keep(self: &Arc<Self>, mut sender: http1::SendRequest<Paced>, task: AbortHandle) {
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            if sender.ready().await.is_ok() {
                pool.put(Connection { sender: Sender::Http1(sender), task });
            }
        });
    }

    async fn connect(&self, is_websocket: bool) -> Result<Connection, Failure> {
        let is_http2 = self.protocol == Some(UpstreamProtocol::Http2);
        let connected = timeout(CONNECT_TIMEOUT, async {
            match &self.place {
                UpstreamPlace::Tcp(host) => {
                    let stream = TcpStream::connect(host).await.map_err(Failure::Unreachable)?;
                    // Heads and pieces of bodies are written whole.
                    let _ = stream.set_nodelay(true);
                    match &self.tls {
                        None => started(stream, is_http2).await,
                        Some(tls) => {
                            let (stream, is_http2) = tls.connect(stream, is_websocket).await?;
                            started(stream, is_http2).await
                        }
                    }
                }
                UpstreamPlace::Unix(path) => {
                    let stream = UnixStream::connect(path).await.map_err(Failure::Unreachable)?;
                    started(stream, is_http2).await
                }
            }
        });
        connected.await.unwrap_or(Err(Failure::ConnectTimeout))
    }
}

/// On a stream to an application, a write that fails waits until nothing is left to read.
#[derive(Debug, Default)]
struct AnswerFirst {
    /// The error of a write that is kept back.
    failed: Option<io::Error>,
    /// Whether the application has closed, or reading failed.
    is_read: bool,
    /// The writer that waits.
    writer: Option<Waker>,
}

impl Watch for AnswerFirst {
    fn ended(&mut self) {
        self.is_read = true;
        self.writer.take().into_iter().for_each(Waker::wake);
    }

    fn before_write(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<usize>>> {
        let error = self.failed.take()?;
        Some(self.written(Poll::Ready(Err(error)), cx))
    }

    fn written<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        match polled {
            Poll::Ready(Err(error)) if !self.is_read => {
                self.failed = Some(error);
                self.writer = Some(cx.waker().clone());
                Poll::Pending
            }
            polled => polled,
        }
    }
}

/// Runs everything that hyper starts for one connection over HTTP/2, so that it can be ended together.
#[derive(Clone, Debug)]
struct Tasks(CancellationToken);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let ended = self.0.clone();
        tokio::spawn(async move {
            let _ = ended.run_until_cancelled(task).await;
        });
    }
}

/// Speaks HTTP on a stream, for as long as anything holds the sender or the application talks.
async fn started<S>(stream: S, is_http2: bool) -> Result<Connection, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = TokioIo::new(Watched::new(stream, AnswerFirst::default()));
    if is_http2 {
        let tasks = CancellationToken::new();
        let mut builder = http2::Builder::new(Tasks(tasks.clone()));
        builder
            .initial_stream_window_size(BUFFER_LEN_MAX as u32)
            .initial_connection_window_size(BUFFER_LEN_MAX as u32)
            .max_header_list_size(BUFFER_LEN_MAX as u32)
            .max_send_buf_size(SEND_BUFFER_LEN_MAX);
        let (sender, connection) = builder.handshake(stream).await.map_err(Failure::Broken)?;
        // hyper reads, writes and sends bodies in tasks of its own: an abort of this one ends those, too.
        let tasks = tasks.drop_guard();
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "A connection to the application ended");
            }
            // It ended by itself: what is still to be written is written.
            tasks.disarm();
        });
        return Ok(Connection { sender: Sender::Http2(sender), task: task.abort_handle() });
    }
    let mut builder = http1::Builder::new();
    builder.max_buf_size(BUFFER_LEN_MAX);
    let (sender, connection) = builder.handshake(stream).await.map_err(Failure::Broken)?;
    let task = tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            debug!(%error, "A connection to the application ended");
        }
    });
    Ok(Connection { sender: Sender::Http1(sender), task: task.abort_handle() })
}

/// Whether a request got no answer because its connection was closed.
fn is_closed(error: &hyper::Error) -> bool {
    let is_http2 = h2_errors(error).any(|error| error.is_io() || error.is_go_away());
    error.is_incomplete_message() || error.is_canceled() || is_http2
}

/// The same request once more, if that does no harm.
fn repeated(request: &Request<Paced>) -> Option<Request<Paced>> {
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !is_safe || !request.body().is_end_stream() {
        return None;
    }
    let mut again = Request::new(Paced::default());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    Some(again)
}
