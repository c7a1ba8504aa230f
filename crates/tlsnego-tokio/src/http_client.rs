//! POST over HTTP/1.1, with TLS or without, for the gateway's service and for [`crate::client`].

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tower::Service;

/// How long a connection may take to be made: a service that is there takes as long as light does.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle timeout of a kept connection: less than that of services (Node.js five seconds).
const KEPT_TIMEOUT: Duration = Duration::from_secs(4);
/// Connections that are kept.
const KEPT_MAX: usize = 64;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HttpError {
    /// There is no connection: the request was not sent.
    NotSent(String),
    /// The connection failed: it is not known whether the peer has the request.
    Lost(String),
    /// No whole answer came in time.
    TimedOut,
    /// The answer is longer than it may be.
    TooLong,
}

/// An answer.
pub(crate) struct HttpAnswer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Sends requests, and keeps connections.
pub(crate) struct HttpClient {
    client: Client<Connector, Full<Bytes>>,
    timeout: Duration,
    answer_len_max: usize,
}

impl HttpClient {
    /// `tls` is for `https` URLs; without it they fail. `timeout` is for the whole answer.
    pub(crate) fn new(tls: Option<Arc<ClientConfig>>, timeout: Duration, answer_len_max: usize) -> Self {
        let mut http = HttpConnector::new();
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        http.set_nodelay(true);
        http.enforce_http(false);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEPT_TIMEOUT)
            .pool_max_idle_per_host(KEPT_MAX)
            // A request of which nothing was written, because its kept connection had ended, goes to another
            // connection. Any other one is sent once: it is not known whether the peer has it.
            .retry_canceled_requests(true)
            .build(Connector { http, tls: tls.map(TlsConnector::from) });
        Self { client, timeout, answer_len_max }
    }

    pub(crate) async fn post(
        &self,
        uri: &Uri,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<HttpAnswer, HttpError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers;
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| match error.is_connect() {
                true => HttpError::NotSent(causes(&error)),
                false => HttpError::Lost(causes(&error)),
            })?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, self.answer_len_max).collect().await;
            let body = body.map_err(|error| match error.is::<LengthLimitError>() {
                true => HttpError::TooLong,
                false => HttpError::Lost(causes(&*error)),
            })?;
            Ok(HttpAnswer { status: head.status, headers: head.headers, body: body.to_bytes() })
        };
        timeout(self.timeout, exchange).await.unwrap_or(Err(HttpError::TimedOut))
    }
}

type BoxError = Box<dyn Error + Send + Sync>;

/// Makes connections, with TLS for `https`.
#[derive(Clone)]
struct Connector {
    http: HttpConnector,
    tls: Option<TlsConnector>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = (uri.scheme_str() == Some("https")).then(|| self.tls.clone());
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let connecting = self.http.call(uri);
        Box::pin(async move {
            let stream = connecting.await?.into_inner();
            let Some(tls) = tls else { return Ok(TokioIo::new(Stream(Either::Left(stream)))) };
            let tls = tls.ok_or("there are no TLS settings for an https URL")?;
            let handshake = tls.connect(ServerName::try_from(host)?, stream);
            let stream = timeout(CONNECT_TIMEOUT, handshake).await.map_err(|_| "TLS handshake timeout")??;
            Ok(TokioIo::new(Stream(Either::Right(Box::new(stream)))))
        })
    }
}

/// A connection.
struct Stream(Either<TcpStream, Box<TlsStream<TcpStream>>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// An error with its causes.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
