//! One trace over a chain of domains (W3C Trace Context). It is sent inside the sealed call, to peers of
//! `kind = "rcmpd"`, and by `rcmpd sso secret get` to the master secret server.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use rcmp_service::{CallContext, TraceParent};
use std::collections::HashMap;
use std::str::FromStr;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Makes a span a child of the trace context that came with a call.
pub fn take(span: &Span, context: &CallContext) {
    if let Some(parent) = parent(context) {
        set_parent(span, parent);
    }
}

/// The same for a call that a caller must not be able to hide: the span of an unsampled trace would not be
/// exported, so it is linked to that trace and begins one of its own.
pub fn take_if_sampled(span: &Span, context: &CallContext) {
    match parent(context) {
        Some(parent) if parent.is_sampled() => set_parent(span, parent),
        Some(parent) => span.add_link(parent),
        None => {}
    }
}

fn parent(context: &CallContext) -> Option<SpanContext> {
    let TraceParent { trace_id, span_id, flags } = context.trace_parent?;
    Some(SpanContext::new(
        TraceId::from_bytes(trace_id),
        SpanId::from_bytes(span_id),
        TraceFlags::new(flags) & TraceFlags::SAMPLED,
        true,
        TraceState::from_str(&context.trace_state).unwrap_or_default(),
    ))
}

fn set_parent(span: &Span, parent: SpanContext) {
    // Without an exporter there is no parent to set. The trace context is forwarded all the same.
    let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(parent));
}

/// Makes a span a child of the trace context in the headers of a request. Two of them, or one that is not valid
/// (W3C Trace Context, section 3.2), are ignored.
pub fn take_headers(span: &Span, headers: &HeaderMap) {
    let mut given = headers.get_all(TRACE_PARENT).iter();
    if let (Some(_), None) = (given.next(), given.next()) {
        let context = TraceContextPropagator::new().extract(&Carrier(headers));
        let parent = context.span().span_context().clone();
        if parent.is_valid() {
            set_parent(span, parent);
        }
    }
}

/// Puts the trace context of a span into the headers of a request. Without an exporter there is none.
pub fn put_headers(span: &Span, headers: &mut HeaderMap) {
    put_own(span.context().span().span_context(), headers);
}

fn put_own(own: &SpanContext, headers: &mut HeaderMap) {
    if !own.is_valid() {
        return;
    }
    let flags = own.trace_flags().to_u8();
    let value = format!("00-{}-{}-{flags:02x}", own.trace_id(), own.span_id());
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(TRACE_PARENT, value);
    }
    let state = own.trace_state().header();
    if let (false, Ok(state)) = (state.is_empty(), HeaderValue::try_from(state)) {
        headers.insert(TRACE_STATE, state);
    }
}

const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");

/// Headers as the propagator reads them.
struct Carrier<'a>(&'a HeaderMap);

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

/// Puts the trace context of a span into a call. Without an exporter, the context that came with the call is
/// forwarded.
pub fn put(span: &Span, context: &mut CallContext) {
    put_context(span.context().span().span_context(), context);
}

fn put_context(own: &SpanContext, context: &mut CallContext) {
    if own.is_valid() {
        context.trace_parent = Some(TraceParent {
            trace_id: own.trace_id().to_bytes(),
            span_id: own.span_id().to_bytes(),
            flags: own.trace_flags().to_u8(),
        });
        context.trace_state = own.trace_state().header();
    }
}

/// The context of a call that a command makes: the trace that started the command, by TRACEPARENT and
/// TRACESTATE in its environment.
pub fn of_environment() -> Option<CallContext> {
    let variables = ["traceparent", "tracestate"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), std::env::var(name.to_ascii_uppercase()).ok()?)));
    let variables: HashMap<String, String> = variables.collect();
    let context = TraceContextPropagator::new().extract(&variables);
    let mut call = CallContext::default();
    put_context(context.span().span_context(), &mut call);
    call.trace_parent.is_some().then_some(call)
}

/// The same as headers of a request.
pub fn headers_of_environment() -> HeaderMap {
    let mut headers = HeaderMap::new();
    let Some(context) = of_environment() else { return headers };
    let Some(TraceParent { trace_id, span_id, flags }) = context.trace_parent else { return headers };
    let own = SpanContext::new(
        TraceId::from_bytes(trace_id),
        SpanId::from_bytes(span_id),
        TraceFlags::new(flags),
        true,
        TraceState::from_str(&context.trace_state).unwrap_or_default(),
    );
    put_own(&own, &mut headers);
    headers
}

/// Links a span to identifiers that both ends of a call can compute: the trace and the span identifier are
/// the first 24 bytes of the SHA-256 of the question.
pub fn link(span: &Span, digest: &[u8; 32]) {
    let (trace_id, rest) = digest.split_at(16);
    let (Ok(trace_id), Ok(span_id)) = (trace_id.try_into(), rest[..8].try_into()) else { return };
    let place = SpanContext::new(
        TraceId::from_bytes(trace_id),
        SpanId::from_bytes(span_id),
        TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    );
    span.add_link(place);
    span.set_attribute("rcmp.request.digest", dtyp::hex(digest));
}
