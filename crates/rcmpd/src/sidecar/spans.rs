//! The span of each request of a web server or client. It is in the trace of the caller, and the application
//! and the server that is asked get its trace context.

use http::{HeaderMap, StatusCode};
use rcmp_service::TraceParent;
use sidecar::routes::host_of;
use sidecar::{Decided, Decision, RequestHead};
use trace_context as trace;
use tracing::Span;
use tracing::field::Empty;

/// The longest text of an attribute that a client chooses.
const TEXT_LEN_MAX: usize = 1024;

fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_LEN_MAX)]
}

/// The name of a method that the conventions of OpenTelemetry know. A client may write any other one.
fn method_name(method: &str) -> Option<&'static str> {
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    known.into_iter().find(|name| *name == method)
}

/// Makes spans if an exporter is configured.
pub(super) struct Spans;

impl sidecar::Spans for Spans {
    fn begin(&self, dialect: &'static str, head: &RequestHead<'_>, parent: Option<&HeaderMap>) -> Span {
        let span = tracing::debug_span!(
            target: "rcmpd::call",
            "sidecar_request",
            otel.kind = "server",
            otel.name = method_name(head.method).unwrap_or("HTTP"),
            http.request.method = method_name(head.method).unwrap_or("_OTHER"),
            url.path = short(head.path),
            server.address = Empty,
            otel.status_code = Empty,
            dialect,
            outcome = Empty,
            decision = Empty,
            how = Empty,
            user.id = Empty,
            http.response.status_code = Empty,
            "error.type" = Empty,
        );
        if span.is_disabled() {
            return span;
        }
        if let Some(host) = head.host.and_then(host_of) {
            span.record("server.address", short(host.trim_matches(['[', ']'])));
        }
        if let Some(headers) = parent {
            trace::take_headers(&span, headers);
        }
        span
    }

    fn decided(&self, span: &Span, decision: &Decision) {
        if span.is_disabled() {
            return;
        }
        if let Some(name) = &decision.name {
            span.record("decision", &**name);
        }
        if let Some(how) = decision.how {
            span.record("how", how.name());
        }
        match &decision.decided {
            Decided::Allowed(allowed) => {
                span.record("outcome", "allowed").record("user.id", allowed.identity.sid.to_string());
            }
            Decided::Refused(refusal) => {
                span.record("outcome", refusal.name());
            }
        }
        if let Some(made_in) = decision.made_in {
            trace::link_to(span, made_in);
        }
    }

    /// By the conventions for servers of HTTP, only what is the server's fault is an error.
    fn answered(&self, span: &Span, status: StatusCode) {
        if span.is_disabled() {
            return;
        }
        span.record("http.response.status_code", status.as_u16());
        if status.is_server_error() {
            span.record("otel.status_code", "error").record("error.type", status.as_str());
        }
    }

    fn put(&self, span: &Span, headers: &mut HeaderMap) {
        if !span.is_disabled() {
            trace::put_headers(span, headers);
        }
    }

    fn place(&self, span: &Span) -> Option<TraceParent> {
        if span.is_disabled() {
            return None;
        }
        trace::place(span)
    }
}
