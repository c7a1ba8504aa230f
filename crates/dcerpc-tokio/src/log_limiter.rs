//! The rate limit of log messages about events that peers can cause as often as they like.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Between two log messages about the same event.
const PAUSE: Duration = Duration::from_secs(60);

/// When each event was last logged, and how many were not logged since. The keys are literals in the code, so
/// the table does not grow.
#[derive(Debug, Default)]
pub struct LogLimiter(Mutex<HashMap<&'static str, (Instant, u64)>>);

impl LogLimiter {
    /// Logs an event, unless it was logged within the last minute.
    pub fn once(&self, key: &'static str, log: impl FnOnce()) {
        self.counted(key, |_| log());
    }

    /// The same, with the number of events of this key that were not logged before.
    pub fn counted(&self, key: &'static str, log: impl FnOnce(u64)) {
        let now = Instant::now();
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, left_out)) = logged.get_mut(key)
            && now.duration_since(*last) < PAUSE
        {
            *left_out += 1;
            return;
        }
        let left_out = logged.insert(key, (now, 0)).map_or(0, |(_, left_out)| left_out);
        drop(logged);
        log(left_out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test(start_paused = true)]
    async fn an_event_is_logged_once_a_minute() {
        let (limiter, logged) = (LogLimiter::default(), Cell::new(0));
        let log = |key| limiter.once(key, || logged.set(logged.get() + 1));
        log("one");
        log("one");
        log("other");
        assert_eq!(logged.get(), 2);
        tokio::time::advance(PAUSE).await;
        log("one");
        assert_eq!(logged.get(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_has_the_number_of_events_without_one() {
        let (limiter, left_out) = (LogLimiter::default(), Cell::new(None));
        for (events, pause, expected) in
            [(1, PAUSE, 0), (4, PAUSE, 0), (2, PAUSE, 3), (1, PAUSE, 1), (1, PAUSE, 0)]
        {
            left_out.set(None);
            for _ in 0..events {
                limiter.counted("one", |count| left_out.set(Some(count)));
            }
            assert_eq!(left_out.get(), Some(expected));
            tokio::time::advance(pause).await;
        }
    }
}
