//! When to try again: servers that failed, and secrets that were refused. Values, with the time as an
//! argument.

use crate::server::Server;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// After the first failure.
const FIRST: Duration = Duration::from_millis(500);
/// At most.
const LAST: Duration = Duration::from_secs(30);
/// A secret that the directory calls wrong is tried once in this time: three wrong ones within the usual
/// window of 30 minutes lock an account.
const WRONG_SECRET: Duration = Duration::from_secs(3600);
/// After a bind that was refused for another reason, which counts nowhere.
const REFUSED_BIND: Duration = Duration::from_secs(60);
/// Between two binds if the first was refused, whatever the secret.
const BETWEEN_BINDS: Duration = Duration::from_secs(1);

/// Half to three halves of a time, by random bits, so that services do not come back together.
fn jitter(time: Duration, random: u32) -> Duration {
    time / 2 + time.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// The servers that failed.
#[derive(Debug, Default)]
pub(crate) struct ServerBackoff(HashMap<Server, State>);

#[derive(Debug)]
struct State {
    failures: u32,
    until: Instant,
    why: String,
}

impl ServerBackoff {
    /// Whether a connection may be tried. If the server failed before and its time is over, this one try is
    /// counted as a failure until it succeeds, so that not all questions try at once.
    pub(crate) fn may_try(&mut self, server: &Server, now: Instant) -> bool {
        match self.0.get_mut(server) {
            None => true,
            Some(state) if state.until <= now => {
                state.until = now + LAST;
                true
            }
            Some(_) => false,
        }
    }

    /// Whether the server is one that works, as far as is known.
    pub(crate) fn is_good(&self, server: &Server) -> bool {
        !self.0.contains_key(server)
    }

    pub(crate) fn succeeded(&mut self, server: &Server) {
        self.0.remove(server);
    }

    pub(crate) fn failed(&mut self, server: &Server, why: String, now: Instant, random: u32) -> Duration {
        let state =
            self.0.entry(server.clone()).or_insert(State { failures: 0, until: now, why: String::new() });
        state.failures = state.failures.saturating_add(1);
        let time = jitter(LAST.min(FIRST * 2_u32.saturating_pow(state.failures.min(16) - 1)), random);
        state.until = now + time;
        state.why = why;
        time
    }

    /// The one that was to try the server has gone, and the next one may.
    pub(crate) fn given_up(&mut self, server: &Server, now: Instant) {
        if let Some(state) = self.0.get_mut(server) {
            state.until = now;
        }
    }

    /// Why a server is not tried.
    pub(crate) fn why(&self, server: &Server) -> Option<&str> {
        self.0.get(server).map(|state| state.why.as_str())
    }

    /// Forgets servers that are no more.
    pub(crate) fn retain(&mut self, servers: &[Server]) {
        self.0.retain(|server, _| servers.contains(server));
    }
}

/// The secrets that were refused, by a hash with a key of this process.
#[derive(Debug, Default)]
pub(crate) struct BindBackoff {
    refused: Vec<(u64, Instant)>,
    until: Option<Instant>,
    why: String,
}

impl BindBackoff {
    /// The first of these secrets, by their hashes, that may be tried; otherwise why none may.
    pub(crate) fn choose(&mut self, hashes: &[u64], now: Instant) -> Result<usize, String> {
        self.refused.retain(|(_, until)| *until > now);
        if self.until.is_some_and(|until| until > now) {
            return Err(self.why.clone());
        }
        let is_refused = |hash: &u64| self.refused.iter().any(|(refused, _)| refused == hash);
        hashes.iter().position(|hash| !is_refused(hash)).ok_or_else(|| self.why.clone())
    }

    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// `counts` says that the directory counts it as a wrong password.
    pub(crate) fn refused(&mut self, hash: u64, why: String, counts: bool, now: Instant, random: u32) {
        let time = if counts { WRONG_SECRET } else { jitter(REFUSED_BIND, random) };
        self.refused.push((hash, now + time));
        self.until = Some(now + BETWEEN_BINDS);
        self.why = why;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIDDLE: u32 = u32::MAX / 2;

    fn server() -> Server {
        Server::parse("ldaps://dc1.example", Server::PORTS).expect("a URL")
    }

    #[test]
    fn a_server_that_failed_is_tried_by_one_at_a_time_and_ever_later() {
        let (mut backoff, start) = (ServerBackoff::default(), Instant::now());
        assert!(backoff.may_try(&server(), start) && backoff.may_try(&server(), start));
        let times: Vec<_> = (0..10)
            .map(|_| backoff.failed(&server(), "down".to_owned(), start, MIDDLE).as_millis())
            .collect();
        assert!(
            times.is_sorted() && times[0].abs_diff(500) < 2 && times[9].abs_diff(30_000) < 2,
            "{times:?}"
        );
        assert!(!backoff.may_try(&server(), start + Duration::from_secs(20)));
        let later = start + Duration::from_secs(31);
        assert!(backoff.may_try(&server(), later) && !backoff.may_try(&server(), later));
        assert_eq!((backoff.is_good(&server()), backoff.why(&server())), (false, Some("down")));
        backoff.succeeded(&server());
        assert!(backoff.is_good(&server()) && backoff.may_try(&server(), later));
        assert_eq!(jitter(LAST, 0), LAST / 2);
        assert_eq!(jitter(LAST, u32::MAX), LAST * 3 / 2);
    }

    /// With a threshold of three wrong passwords, which a directory forgets after 30 minutes.
    #[test]
    fn a_wrong_secret_locks_no_account_and_the_right_one_is_tried_at_once() {
        let (mut backoff, start) = (BindBackoff::default(), Instant::now());
        let mut wrong = Vec::new();
        for second in 0..3600 {
            let now = start + Duration::from_secs(second);
            // Thousands of connections ask; the secret and FILE.next are both wrong.
            for _ in 0..10 {
                if let Ok(at) = backoff.choose(&[1, 2], now) {
                    backoff.refused([1, 2][at], "wrong".to_owned(), true, now, MIDDLE);
                    wrong.push((second, at));
                }
            }
        }
        assert_eq!(wrong, [(0, 0), (1, 1)], "each once, one after the other");
        let now = start + Duration::from_secs(3599);
        assert_eq!(backoff.choose(&[1, 2], now), Err("wrong".to_owned()));
        assert_eq!(backoff.choose(&[3, 2], now), Ok(0), "a new secret is used at once");
        backoff.succeeded();
        assert_eq!(backoff.choose(&[1], now), Ok(0));
    }

    #[test]
    fn a_bind_that_is_refused_for_another_reason_is_tried_each_minute() {
        let (mut backoff, start) = (BindBackoff::default(), Instant::now());
        backoff.refused(1, "disabled".to_owned(), false, start, MIDDLE);
        assert!(backoff.choose(&[1], start + Duration::from_secs(50)).is_err());
        assert_eq!(backoff.choose(&[1], start + Duration::from_secs(61)), Ok(0));
    }
}
