//! When to leave a server alone: after some failures in a row nobody asks it for a while, then one question tries.

use std::time::Duration;
use tokio::time::Instant;

/// Failures in a row after which a server is left alone: one may be an accident of the network.
const FAILURES_MAX: u32 = 3;
/// For how long, the first time; each failed try doubles it.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// And at most, so that a server that is back is noticed soon.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// After a server refused the channel ([MS-NRPC] 3.1.4.6): asking sooner would only be refused again, and counted.
const REFUSED_PAUSE: Duration = Duration::from_secs(45);

/// The state of one server.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
    /// One question is trying, since when.
    trying: Option<Instant>,
    refused: bool,
}

impl Breaker {
    /// Whether a question may be asked now. Of those that come after a pause, one tries for all; if it is never heard of again, so does
    /// the next one after `patience`.
    pub(crate) fn admits(&mut self, now: Instant, patience: Duration) -> bool {
        match self.open_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) if self.trying.is_some_and(|since| now < since + patience) => false,
            Some(_) => {
                self.trying = Some(now);
                true
            }
        }
    }

    /// Whether the server is left alone at present.
    pub(crate) fn is_open(&self, now: Instant) -> bool {
        self.open_until.is_some_and(|until| now < until)
    }

    /// Whether it failed often enough to be left alone, and has not answered since.
    pub(crate) const fn is_tripped(&self) -> bool {
        self.open_until.is_some()
    }

    /// Whether it is because the server refused the channel.
    pub(crate) const fn is_refused(&self) -> bool {
        self.refused
    }

    /// The server answered.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// It did not.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.trying = None;
        if let Some(over) = self.failures.checked_sub(FAILURES_MAX) {
            let pause = PAUSE_FIRST.saturating_mul(1 << over.min(10)).min(PAUSE_MAX);
            self.open_until = Some(now + pause);
        }
    }

    /// It does not let us in.
    pub(crate) fn refused(&mut self, now: Instant) {
        self.trying = None;
        self.refused = true;
        self.open_until = Some(now + REFUSED_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_server_is_left_alone_and_tried_by_one() {
        let mut breaker = Breaker::default();
        let start = Instant::now();
        for _ in 0..FAILURES_MAX {
            assert!(breaker.admits(start, PATIENCE));
            breaker.failed(start);
        }
        assert!(breaker.is_open(start));
        assert!(!breaker.admits(start, PATIENCE));
        let later = start + PAUSE_FIRST;
        assert!(!breaker.is_open(later), "it has its place again");
        assert!(breaker.admits(later, PATIENCE), "one tries");
        assert!(!breaker.admits(later, PATIENCE), "for all");
        breaker.failed(later);
        assert!(!breaker.admits(later + PAUSE_FIRST, PATIENCE), "the pause is twice as long");
        let again = later + 2 * PAUSE_FIRST;
        assert!(breaker.admits(again, PATIENCE));
        breaker.succeeded();
        assert!(breaker.admits(again, PATIENCE) && breaker.admits(again, PATIENCE));
    }

    #[test]
    fn one_that_tries_and_is_never_heard_of_blocks_nobody_for_long() {
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
