//! Connections to an application: made when they are needed, kept for a moment.
//!
//! An application may answer before it has read a request's body, and close. Writes fail then while its answer is still to be read, and hyper
//! gives the answer up for the failed write. So a failed write ends a connection only after all of the answer is read ([`AnswerFirst`]).

use super::super::watched::{Watch, Watched};
use super::body::Paced;
use super::failure::Failure;
use super::tls::Tls;
use crate::config::{Application, UpstreamPlace};
use http::{Method, Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};
use tracing::debug;

/// How long a connection may take, with its TLS handshake: an application that is there takes as long as light does.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection is kept that nobody uses: less than applications keep theirs (Node.js five seconds), because whoever closes
/// while the other writes leaves a request of which nobody knows whether it was heard.
const KEPT_TIMEOUT: Duration = Duration::from_secs(4);
/// Connections that are kept: more are not used again within that time.
const KEPT_MAX: usize = 256;
/// The head of an answer, and what is read of its body ahead.
const BUFFER_LEN_MAX: usize = 128 << 10;

#[derive(Debug)]
pub(super) struct Pool {
    place: UpstreamPlace,
    tls: Option<Tls>,
    /// The last used is used first, so that those that are not needed grow old.
    kept: Mutex<Vec<Kept>>,
}

#[derive(Debug)]
struct Kept {
    sender: SendRequest<Paced>,
    since: Instant,
}

impl fmt::Display for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.place, &self.tls) {
            (UpstreamPlace::Tcp(host), None) => write!(f, "http://{host}"),
            (UpstreamPlace::Tcp(host), Some(_)) => write!(f, "https://{host}"),
            (UpstreamPlace::Unix(path), _) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Pool {
    /// A pool without a connection; `tls` is for an application at an `https` URL.
    pub(super) fn new(application: &Application, tls: Option<Tls>) -> Self {
        Self { place: application.place.clone(), tls, kept: Mutex::new(Vec::new()) }
    }

    /// Whether its connections are made with these CAs and certificates.
    pub(super) fn is_made_with(&self, tls: &Tls) -> bool {
        self.tls.as_ref().is_some_and(|own| own.is_same(tls))
    }

    /// Sends a request, on a kept connection if there is one.
    ///
    /// It is sent again when a kept connection turns out to be closed: if none of it was written, or if it is safe and has no body (RFC
    /// 9110, section 9.2.2).
    pub(super) async fn send(
        self: &Arc<Self>,
        mut request: Request<Paced>,
    ) -> Result<Response<Incoming>, Failure> {
        loop {
            let kept = self.take();
            let again = kept.is_some().then(|| repeated(&request)).flatten();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            let mut error = match sender.try_send_request(request).await {
                Ok(response) => {
                    self.keep(sender);
                    return Ok(response);
                }
                Err(error) => error,
            };
            let is_closed = error.error().is_incomplete_message() || error.error().is_canceled();
            request = match error.take_message().or(again.filter(|_| is_closed)) {
                Some(request) => request,
                None => return Err(Failure::Broken(error.into_error())),
            };
        }
    }

    /// How many connections are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn take(&self) -> Option<SendRequest<Paced>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(Kept { sender, since }) = kept.pop() {
            if since.elapsed() < KEPT_TIMEOUT && sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    /// Keeps a connection once its answer is read; one that is left before that is closed.
    fn keep(self: &Arc<Self>, mut sender: SendRequest<Paced>) {
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            if sender.ready().await.is_err() {
                return;
            }
            let mut kept = pool.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.retain(|kept| kept.since.elapsed() < KEPT_TIMEOUT && !kept.sender.is_closed());
            if kept.len() < KEPT_MAX {
                kept.push(Kept { sender, since: Instant::now() });
            }
        });
    }

    async fn connect(&self) -> Result<SendRequest<Paced>, Failure> {
        let connected = timeout(CONNECT_TIMEOUT, async {
            match &self.place {
                UpstreamPlace::Tcp(host) => {
                    let stream = TcpStream::connect(host).await.map_err(Failure::Unreachable)?;
                    // Heads and pieces of bodies are written whole.
                    let _ = stream.set_nodelay(true);
                    match &self.tls {
                        None => started(stream).await,
                        Some(tls) => started(tls.connect(stream).await?).await,
                    }
                }
                UpstreamPlace::Unix(path) => {
                    started(UnixStream::connect(path).await.map_err(Failure::Unreachable)?).await
                }
            }
        });
        connected.await.unwrap_or(Err(Failure::ConnectLate))
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

/// Speaks HTTP/1.1 on a stream, for as long as anybody holds the sender or the application talks.
async fn started<S>(stream: S) -> Result<SendRequest<Paced>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(BUFFER_LEN_MAX);
    let (sender, connection) = builder
        .handshake(TokioIo::new(Watched::new(stream, AnswerFirst::default())))
        .await
        .map_err(Failure::Broken)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            debug!(%error, "A connection to the application ended");
        }
    });
    Ok(sender)
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
