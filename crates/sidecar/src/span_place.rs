//! Where a span is.

/// Where a span is (W3C Trace Context, section 3.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanPlace {
    /// trace-id.
    pub trace_id: [u8; 16],
    /// parent-id.
    pub span_id: [u8; 8],
    /// trace-flags.
    pub flags: u8,
}
