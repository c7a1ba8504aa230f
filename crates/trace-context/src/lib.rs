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

/// Makes a span a child of the trace context in the headers of a request. Two of them, or one that is not
/// valid (W3C Trace Context, section 3.2), are ignored.
pub fn take_headers(span: &Span, headers: &HeaderMap) {
    let mut given = headers.get_all(TRACE_PARENT).iter();
    if let (Some(value), None) = (given.next(), given.next())
        && is_trace_parent(value.as_bytes())
    {
        let context = TraceContextPropagator::new().extract(&Carrier(headers));
        let parent = context.span().span_context().clone();
        if parent.is_valid() {
            set_parent(span, parent);
        }
    }
}

/// Whether a value has the form of `traceparent` (W3C Trace Context, section 3.2): of a later version, what
/// follows the flags is not looked at.
fn is_trace_parent(value: &[u8]) -> bool {
    let is_hex = |octet: &u8| matches!(octet, b'0'..=b'9' | b'a'..=b'f');
    let Some((known, more)) = value.split_at_checked(TRACE_PARENT_LEN) else { return false };
    let is_known = known.iter().enumerate().all(|(at, octet)| match at {
        2 | 35 | 52 => *octet == b'-',
        _ => is_hex(octet),
    });
    is_known && (more.is_empty() || more[0] == b'-' && !known.starts_with(b"00"))
}

/// `00-TRACE_ID-SPAN_ID-FLAGS`.
const TRACE_PARENT_LEN: usize = 55;
/// The longest `tracestate` that is taken over (section 3.3.1.5 asks for at least as much).
const TRACE_STATE_HEADER_LEN_MAX: usize = 512;

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
    // Without a trace context of its own, this is none of ours.
    headers.remove(TRACE_STATE);
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
        let value = self.0.get(key)?.to_str().ok()?;
        (key != TRACE_STATE.as_str() || value.len() <= TRACE_STATE_HEADER_LEN_MAX).then_some(value)
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

/// Where a span is; `None` without an exporter.
pub fn place(span: &Span) -> Option<TraceParent> {
    let mut context = CallContext::default();
    put(span, &mut context);
    context.trace_parent
}

/// The trace of a span that is exported.
pub fn sampled(span: &Span) -> Option<[u8; 16]> {
    if span.is_disabled() {
        return None;
    }
    let TraceParent { trace_id, flags, .. } = place(span)?;
    (flags & TraceFlags::SAMPLED.to_u8() != 0).then_some(trace_id)
}

/// Links a span to another one.
pub fn link_to(span: &Span, place: TraceParent) {
    let TraceParent { trace_id, span_id, flags } = place;
    let (trace_id, span_id) = (TraceId::from_bytes(trace_id), SpanId::from_bytes(span_id));
    span.add_link(SpanContext::new(trace_id, span_id, TraceFlags::new(flags), true, TraceState::default()));
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

#[cfg(test)]
mod tests {
    use super::is_trace_parent;

    #[test]
    fn trace_parents_have_the_form_of_the_recommendation() {
        // The examples of W3C Trace Context, sections 3.2.2 and 3.2.4.
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let later = format!("01{}-what-the-future-will-be-like", &good[2..]);
        for value in [good, &later, &format!("cc{}", &good[2..])] {
            assert!(is_trace_parent(value.as_bytes()), "{value}");
        }
        for value in [
            "",
            &good[..54],
            &format!("{good}-00"),
            &format!("{good}0"),
            &format!("{later}.").replacen("01-what", "01.what", 1),
            &good.to_uppercase(),
            &good.replacen("4b", "+b", 1),
            &good.replace('-', "_"),
            // Parts of other lengths, which read as numbers all the same.
            "00-4bf92f3577b34da6a3ce929d0e0e47360-0f067aa0ba902b7-01",
        ] {
            assert!(!is_trace_parent(value.as_bytes()), "{value}");
        }
    }
}
