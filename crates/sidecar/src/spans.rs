//! Spans of requests. The program that uses this crate makes them, because it knows the exporter. A cached
//! decision keeps the trace context of the span that it was made in.

use crate::decision::Decision;
use http::uri::Authority;
use http::{HeaderMap, Request};
use rcmp_service::TraceParent;
use tracing::Span;

/// What a span tells about a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, without the query.
    pub path: &'a str,
    /// The host that the client names, with a port or without one.
    pub host: Option<&'a str>,
}

impl<'a> RequestHead<'a> {
    /// The head of a request of HTTP.
    pub fn of<B>(request: &'a Request<B>) -> Self {
        let host = request.headers().get(http::header::HOST).and_then(|host| host.to_str().ok());
        let host = request.uri().authority().map(Authority::as_str).or(host);
        Self { method: request.method().as_str(), path: request.uri().path(), host }
    }
}

/// Makes the spans of requests. By default there is none.
pub trait Spans: Send + Sync {
    /// The span of a request that came to a listener of this dialect, as a child of the trace context in
    /// `parent`. `parent` is none if the client has proved nothing: such a client must not join a trace.
    fn begin(&self, dialect: &'static str, head: &RequestHead<'_>, parent: Option<&HeaderMap>) -> Span {
        let _ = (dialect, head, parent);
        Span::none()
    }

    /// Records what was decided.
    fn decided(&self, span: &Span, decision: &Decision) {
        let _ = (span, decision);
    }

    /// Records the status of the answer.
    fn answered(&self, span: &Span, status: http::StatusCode) {
        let _ = (span, status);
    }

    /// Puts the trace context of a span into the headers for the application, in place of the client's.
    fn put(&self, span: &Span, headers: &mut HeaderMap) {
        let _ = (span, headers);
    }

    /// The trace context of a span; none if the span is not exported.
    fn place(&self, span: &Span) -> Option<TraceParent> {
        let _ = span;
        None
    }
}

/// Makes no spans.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSpans;

impl Spans for NoSpans {}
