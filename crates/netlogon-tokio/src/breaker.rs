//! The circuit breaker of one server: after some failures in a row no request is sent for a while, then one
//! request probes it.
//!
//! It is our own because of [MS-NRPC] 3.1.4.6: after a refused channel the pause is fixed, and another secret
//! ends it.

use std::time::Duration;
use tokio::time::Instant;

/// Failures in a row that open the circuit breaker: a single one may be an accident of the network.
const FAILURES_MAX: u32 = 3;
/// How long it is open at first. Each failed probe doubles that.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// How long it is open at most, so that a server that is back is used soon.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// How long it is open after the server refused the channel ([MS-NRPC] 3.1.4.6): the server would count more
/// attempts as guesses.
const REFUSED_PAUSE: Duration = Duration::from_secs(45);

/// The state of one server's circuit breaker.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
    /// When the request began that probes the server.
    probing: Option<Instant>,
    refused: bool,
}

impl Breaker {
    /// Whether a request may be sent now. After a pause the first request probes the server for all. If its
    /// outcome is not reported within `probe_timeout`, the next request does.
    pub(crate) fn admits(&mut self, now: Instant, probe_timeout: Duration) -> bool {
        match self.open_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) if self.probing.is_some_and(|since| now < since + probe_timeout) => false,
            Some(_) => {
                self.probing = Some(now);
                true
            }
        }
    }

    /// Whether no request is sent now.
    pub(crate) fn is_open(&self, now: Instant) -> bool {
        self.open_until.is_some_and(|until| now < until)
    }

    /// Whether it has opened, and the server has not answered since.
    pub(crate) const fn is_tripped(&self) -> bool {
        self.open_until.is_some()
    }

    /// The time until a request probes the server.
    pub(crate) fn retry_after(&self, now: Instant) -> Duration {
        self.open_until.map(|until| until.saturating_duration_since(now)).unwrap_or_default()
    }

    /// Whether it opened because the server refused the channel.
    pub(crate) const fn is_refused(&self) -> bool {
        self.refused
    }

    /// The server answered.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// The server did not answer.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.probing = None;
        if let Some(over) = self.failures.checked_sub(FAILURES_MAX) {
            let pause = PAUSE_FIRST.saturating_mul(1 << over.min(10)).min(PAUSE_MAX);
            self.open_until = Some(now + pause);
        }
    }

    /// The server refused the channel.
    pub(crate) fn refused(&mut self, now: Instant) {
        self.probing = None;
        self.refused = true;
        self.open_until = Some(now + REFUSED_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn no_request_is_sent_while_it_is_open_and_then_one_probes() {
        let mut breaker = Breaker::default();
        let start = Instant::now();
        for _ in 0..FAILURES_MAX {
            assert!(breaker.admits(start, PATIENCE));
            breaker.failed(start);
        }
        assert!(breaker.is_open(start));
        assert!(!breaker.admits(start, PATIENCE));
        let later = start + PAUSE_FIRST;
        assert!(!breaker.is_open(later), "the server is preferred like others again");
        assert!(breaker.admits(later, PATIENCE), "one probes");
        assert!(!breaker.admits(later, PATIENCE), "for all");
        breaker.failed(later);
        assert!(!breaker.admits(later + PAUSE_FIRST, PATIENCE), "the pause is twice as long");
        let again = later + 2 * PAUSE_FIRST;
        assert!(breaker.admits(again, PATIENCE));
        breaker.succeeded();
        assert!(breaker.admits(again, PATIENCE) && breaker.admits(again, PATIENCE));
    }

    #[test]
    fn a_probe_without_an_outcome_does_not_block_others_for_long() {
        let mut breaker = Breaker::default();
        let start = Instant::now();
        for _ in 0..FAILURES_MAX {
            breaker.failed(start);
        }
        let later = start + PAUSE_MAX;
        assert!(breaker.admits(later, PATIENCE));
        assert!(!breaker.admits(later + PATIENCE / 2, PATIENCE));
        assert!(breaker.admits(later + PATIENCE, PATIENCE));
    }

    #[test]
    fn pauses_do_not_grow_without_end() {
        let mut breaker = Breaker::default();
        let start = Instant::now();
        for _ in 0..100 {
            breaker.failed(start);
        }
        assert!(breaker.admits(start + PAUSE_MAX, PATIENCE));
    }

    #[test]
    fn a_refused_channel_is_not_asked_for_again_at_once() {
        let mut breaker = Breaker::default();
        let start = Instant::now();
        breaker.refused(start);
        assert!(breaker.is_refused());
        assert!(!breaker.admits(start + PAUSE_MAX, PATIENCE));
        assert!(breaker.admits(start + REFUSED_PAUSE, PATIENCE));
    }
}
