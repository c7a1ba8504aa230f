//! Requests to a collector.

use super::queue::Queue;
use super::settings::Destination;
use super::tls::Dialer;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, LogExporter};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use std::pin::Pin;
use std::time::Duration;
use tokio::runtime::Handle;
use tonic::transport::{Channel, Endpoint};

/// The longest answer of a collector that is read.
const ANSWER_LEN_MAX: usize = 64 << 10;

/// OTLP over HTTP. Exporters run on threads of their own, so requests are made on this runtime.
#[derive(Clone, Debug)]
pub(super) struct Http {
    runtime: Handle,
    timeout: Duration,
    dialer: Dialer,
}

type Sent<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl Http {
    /// Has to be called in a runtime.
    pub(super) fn new(to: &Destination) -> anyhow::Result<Self> {
        let dialer = Dialer::new(&to.endpoint, &to.ca, false)?;
        Ok(Self { runtime: Handle::current(), timeout: to.timeout, dialer })
    }

    /// Sends a request over a connection of its own.
    pub(super) async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (timeout, dialer) = (self.timeout, self.dialer.clone());
        let sent = async move { tokio::time::timeout(timeout, send(&dialer, request)).await };
        self.runtime.spawn(sent).await??
    }
}

/// OTLP over gRPC. Nothing is connected before the first request.
pub(super) fn channel(to: &Destination) -> anyhow::Result<Channel> {
    let dialer = Dialer::new(&to.endpoint, &to.ca, true)?;
    let endpoint =
        Endpoint::from_shared(to.endpoint.clone())?.connect_timeout(to.timeout).timeout(to.timeout);
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: http::Uri| {
        let dialer = dialer.clone();
        async move { dialer.connect(&uri).await.map(TokioIo::new) }
    })))
}

async fn send(dialer: &Dialer, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let (mut parts, body) = request.into_parts();
    let authority = parts.uri.authority().ok_or("the endpoint has no host")?.clone();
    let stream = dialer.connect(&parts.uri).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    parts.headers.insert(http::header::HOST, authority.as_str().parse()?);
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).parse()?;
    parts.uri = path;
    let answer = sender.send_request(Request::from_parts(parts, Full::new(body))).await;
    let answer = match answer {
        Ok(answer) => {
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_LEN_MAX).collect().await;
            body.map(|body| Response::from_parts(parts, body.to_bytes()))
        }
        Err(error) => Err(error.into()),
    };
    connection.abort();
    answer
}

impl HttpClient for Http {
    fn send_bytes<'s, 'a>(&'s self, request: Request<Bytes>) -> Sent<'a>
    where
        's: 'a,
        Self: 'a,
    {
        Box::pin(self.send(request))
    }
}

/// An exporter whose failures are logged.
#[derive(Debug)]
pub(super) struct Watched<E> {
    pub(super) inner: E,
    pub(super) queue: Queue,
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let len = batch.len();
        self.queue.leave(len);
        self.inner.export(batch).await.inspect_err(|error| self.queue.failed(len, error))
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E: LogExporter> LogExporter for Watched<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let len = batch.iter().count();
        self.queue.leave(len);
        self.inner.export(batch).await.inspect_err(|error| self.queue.failed(len, error))
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
