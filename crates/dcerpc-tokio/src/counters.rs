use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of a server, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections open now.
    pub open: AtomicU64,
    /// Connections closed because nothing arrived at all, or no bind was finished in time.
    pub bind_timeouts: AtomicU64,
    /// Connections closed because nothing happened for long.
    pub idle_timeouts: AtomicU64,
    /// Connections closed because a PDU began to arrive and did not arrive in time.
    pub pdu_timeouts: AtomicU64,
    /// Connections closed because a call did not arrive in time.
    pub call_timeouts: AtomicU64,
    /// Connections closed because the peer did not take its answers.
    pub write_timeouts: AtomicU64,
    /// Calls answered with results.
    pub replies: AtomicU64,
    /// Calls answered with a fault by their service.
    pub faults: AtomicU64,
    /// Calls that their client cancelled.
    pub cancelled: AtomicU64,
    /// Connections ended by a panic of a service.
    pub panics: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
