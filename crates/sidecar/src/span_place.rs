//! The trace context of a span.

/// The trace context of a span: the fields of `traceparent` (W3C Trace Context, section 3.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanPlace {
    /// trace-id: the trace that the span is in.
    pub trace_id: [u8; 16],
    /// parent-id: the span itself.
    pub span_id: [u8; 8],
    /// trace-flags: bit 0 is set if the span is sampled.
    pub flags: u8,
}
