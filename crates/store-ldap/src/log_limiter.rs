//! Log lines that a client's certificates, or a directory, could write without end.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Between two lines of one kind.
const INTERVAL: Duration = Duration::from_secs(1);

/// Lets one line through in a while.
#[derive(Debug)]
pub(crate) struct LogLimiter(Mutex<(Option<Instant>, u64)>);

impl LogLimiter {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new((None, 0)))
    }

    /// How many lines were left out since the last one, if this one is written.
    pub(crate) fn allow(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, left_out) = &mut *state;
        if last.is_some_and(|last| now.duration_since(last) < INTERVAL) {
            *left_out += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_says_how_many_were_left_out() {
        let (limiter, start) = (LogLimiter::new(), Instant::now());
        assert_eq!(limiter.allow(start), Some(0));
        assert_eq!((limiter.allow(start), limiter.allow(start)), (None, None));
        assert_eq!(limiter.allow(start + INTERVAL), Some(2));
        assert_eq!(limiter.allow(start + INTERVAL * 3), Some(0));
    }
}
