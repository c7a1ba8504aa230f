//! Spans of requests. The program that uses this crate makes them, because it knows the exporter. A cached
//! decision keeps the trace context of the span that it was made in.

use crate::decision::Decision;
use http::HeaderMap;
use rcmp_service::TraceParent;
use tracing::Span;

/// Makes the spans of requests. By default there is none.
pub trait Spans: Send + Sync {
    /// The span of a request that came to a listener of this dialect, as a child of the trace context in
    /// `parent`. `parent` is none if the client has proved nothing: such a client must not join a trace.
    fn begin(&self, dialect: &'static str, parent: Option<&HeaderMap>) -> Span {
        let _ = (dialect, parent);
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
