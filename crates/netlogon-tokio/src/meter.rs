//! Counters of the requests to one server: how many wait for a connection, how many have one, and for how
//! long. Windows keeps the same counters of its Netlogon semaphore, whose size is MaxConcurrentApi.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counters of one server.
#[derive(Debug, Default)]
pub struct Meter {
    /// Requests that wait for a connection now.
    pub waiters: AtomicU64,
    /// Requests that have a connection now.
    pub holders: AtomicU64,
    /// Requests that got a connection.
    pub acquires: AtomicU64,
    /// Requests that waited for a connection and did not get one in time.
    pub timeouts: AtomicU64,
    /// Requests that were rejected because the queue was full.
    pub overflows: AtomicU64,
    wait_us: AtomicU64,
    hold_us: AtomicU64,
    /// Answers, refusals included.
    pub answered: AtomicU64,
    /// Answers by which the server could not decide.
    pub undecided: AtomicU64,
    /// Requests without an answer.
    pub failed: AtomicU64,
    /// Requests that were not sent because the circuit breaker was open.
    pub circuit_rejections: AtomicU64,
    /// Channels set up.
    pub channels: AtomicU64,
    /// Channels that the server refused.
    pub channels_refused: AtomicU64,
}

/// Counts up by one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Counts something for as long as it lives.
pub(crate) struct Gauge<'a>(&'a AtomicU64);

impl<'a> Gauge<'a> {
    pub(crate) fn new(counter: &'a AtomicU64) -> Self {
        count(counter);
        Self(counter)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn add(counter: &AtomicU64, time: Duration) {
    counter.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

impl Meter {
    /// Adds the time that a request waited for a connection.
    pub(crate) fn waited(&self, time: Duration) {
        add(&self.wait_us, time);
    }

    /// Adds the time that a request had a connection.
    pub(crate) fn held(&self, time: Duration) {
        add(&self.hold_us, time);
    }

    /// Name, type, help text and value of each metric, for the Prometheus text format.
    pub fn metrics(&self) -> [(&'static str, &'static str, &'static str, f64); 13] {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let seconds = |counter: &AtomicU64| value(counter) / 1e6;
        [
            (
                "rcmpd_peer_semaphore_waiters",
                "gauge",
                "Requests that wait for a connection to the server.",
                value(&self.waiters),
            ),
            (
                "rcmpd_peer_semaphore_holders",
                "gauge",
                "Requests in flight at the server.",
                value(&self.holders),
            ),
            (
                "rcmpd_peer_semaphore_acquires_total",
                "counter",
                "Requests that got a connection.",
                value(&self.acquires),
            ),
            (
                "rcmpd_peer_semaphore_timeouts_total",
                "counter",
                "Requests that got no connection in time.",
                value(&self.timeouts),
            ),
            (
                "rcmpd_peer_semaphore_overflows_total",
                "counter",
                "Requests rejected because the queue was full.",
                value(&self.overflows),
            ),
            (
                "rcmpd_peer_semaphore_wait_seconds_total",
                "counter",
                "Time that requests waited for connections.",
                seconds(&self.wait_us),
            ),
            (
                "rcmpd_peer_semaphore_hold_seconds_total",
                "counter",
                "Time that requests had connections.",
                seconds(&self.hold_us),
            ),
            (
                "rcmpd_peer_answers_total",
                "counter",
                "Answers of the server, refusals included.",
                value(&self.answered),
            ),
            (
                "rcmpd_peer_undecided_total",
                "counter",
                "Answers by which the server could not decide.",
                value(&self.undecided),
            ),
            (
                "rcmpd_peer_failures_total",
                "counter",
                "Requests that the server did not answer.",
                value(&self.failed),
            ),
            (
                "rcmpd_peer_circuit_rejections_total",
                "counter",
                "Requests that were not sent because the circuit breaker was open.",
                value(&self.circuit_rejections),
            ),
            ("rcmpd_peer_channels_total", "counter", "Secure channels set up.", value(&self.channels)),
            (
                "rcmpd_peer_channels_refused_total",
                "counter",
                "Secure channels that the server refused.",
                value(&self.channels_refused),
            ),
        ]
    }
}
