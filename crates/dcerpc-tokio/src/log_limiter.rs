//! The rate limit of log messages about events that peers can cause as often as they like.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Between two log messages about the same event.
const PAUSE: Duration = Duration::from_secs(60);

/// When each event was last logged. The keys are literals in the code, so the table does not grow.
#[derive(Debug, Default)]
pub struct LogLimiter(Mutex<HashMap<&'static str, Instant>>);

impl LogLimiter {
    /// Logs an event, unless it was logged within the last minute.
    pub fn once(&self, key: &'static str, log: impl FnOnce()) {
        let now = Instant::now();
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.get(key).is_some_and(|last| now.duration_since(*last) < PAUSE) {
            return;
        }
        logged.insert(key, now);
        drop(logged);
        log();
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
}
