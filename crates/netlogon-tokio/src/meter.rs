//! Counters of the requests to one server: how many wait for a connection, how many have one, and for how
//! long. Windows keeps the same counters of its Netlogon semaphore, whose size is MaxConcurrentApi.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Counters of one server.
#[derive(Debug, Default)]
pub struct Meter {
    /// Requests that wait for a connection now.
    pub waiters: gauge::Gauge,
    /// Requests that have a connection now.
    pub holders: gauge::Gauge,
    /// Requests that got a connection.
    pub acquires: Counter,
    /// Requests that waited for a connection and did not get one in time.
    pub timeouts: Counter,
    /// Requests that were rejected because the queue was full.
    pub overflows: Counter,
    /// Seconds that requests waited for a connection.
    pub(crate) wait: Counter<f64, AtomicU64>,
    /// Seconds that requests had a connection.
    pub(crate) hold: Counter<f64, AtomicU64>,
    /// Answers, refusals included.
    pub answered: Counter,
    /// Answers by which the server could not decide.
    pub undecided: Counter,
    /// Requests without an answer.
    pub failed: Counter,
    /// Requests that were not sent because the circuit breaker was open.
    pub circuit_rejections: Counter,
    /// Channels set up.
    pub channels: Counter,
    /// Channels that the server refused.
    pub channels_refused: Counter,
}

/// Counts up by one.
pub(crate) fn count(counter: &Counter) {
    counter.inc();
}

/// Counts something for as long as it lives.
pub(crate) struct Gauge<'a>(&'a gauge::Gauge);

impl<'a> Gauge<'a> {
    pub(crate) fn new(gauge: &'a gauge::Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Meter {
    /// Adds the time that a request waited for a connection.
    pub(crate) fn waited(&self, time: Duration) {
        self.wait.inc_by(time.as_secs_f64());
    }

    /// Adds the time that a request had a connection.
    pub(crate) fn held(&self, time: Duration) {
        self.hold.inc_by(time.as_secs_f64());
    }
}
