//! What is counted of the questions to one server: who waits for a connection, who holds one, and for how long. Windows keeps the same
//! counters of its Netlogon semaphore, whose size is MaxConcurrentApi.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counters of one server.
#[derive(Debug, Default)]
pub struct Meter {
    /// Questions that wait for a connection now.
    pub waiters: AtomicU64,
    /// Questions that have one now.
    pub holders: AtomicU64,
    /// Connections that were given to questions.
    pub acquires: AtomicU64,
    /// Questions that waited in vain.
    pub timeouts: AtomicU64,
    /// Questions for which there was no place in the queue.
    pub overflows: AtomicU64,
    wait_us: AtomicU64,
    hold_us: AtomicU64,
    /// Answers, refusals included.
    pub answered: AtomicU64,
    /// Answers that were no decision.
    pub undecided: AtomicU64,
    /// Questions without an answer.
    pub failed: AtomicU64,
    /// Questions that were not asked, because the server is left alone.
    pub left_alone: AtomicU64,
    /// Channels set up.
    pub channels: AtomicU64,
    /// Channels that were refused.
    pub channels_refused: AtomicU64,
}

/// Counts up by one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Something that is counted for as long as this lives.
pub(crate) struct Gauge<'a>(&'a AtomicU64);

impl<'a> Gauge<'a> {
    /// Counts one more.
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
    /// A question waited so long.
    pub(crate) fn waited(&self, time: Duration) {
        add(&self.wait_us, time);
    }

    /// A question had a connection for so long.
    pub(crate) fn held(&self, time: Duration) {
        add(&self.hold_us, time);
    }

    /// Name, kind, help and value of each metric.
    pub fn metrics(&self) -> [(&'static str, &'static str, &'static str, f64); 13] {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let seconds = |counter: &AtomicU64| value(counter) / 1e6;
        [
            (
                "rcmpd_peer_semaphore_waiters",
                "gauge",
                "Questions that wait for a connection to the server.",
                value(&self.waiters),
            ),
            (
                "rcmpd_peer_semaphore_holders",
                "gauge",
                "Questions in flight at the server.",
                value(&self.holders),
            ),
            (
                "rcmpd_peer_semaphore_acquires_total",
                "counter",
                "Questions that got a connection.",
                value(&self.acquires),
            ),
            (
                "rcmpd_peer_semaphore_timeouts_total",
                "counter",
                "Questions that waited for a connection in vain.",
                value(&self.timeouts),
            ),
            (
                "rcmpd_peer_semaphore_overflows_total",
                "counter",
                "Questions refused because too many waited.",
                value(&self.overflows),
            ),
            (
                "rcmpd_peer_semaphore_wait_seconds_total",
                "counter",
                "Time that questions waited for connections.",
                seconds(&self.wait_us),
            ),
            (
                "rcmpd_peer_semaphore_hold_seconds_total",
                "counter",
                "Time that questions had connections.",
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
                "Answers of the server that were no decision.",
                value(&self.undecided),
            ),
            (
                "rcmpd_peer_failures_total",
                "counter",
                "Questions that the server did not answer.",
                value(&self.failed),
            ),
            (
                "rcmpd_peer_left_alone_total",
                "counter",
                "Questions that were not asked, because the server failed before.",
                value(&self.left_alone),
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
