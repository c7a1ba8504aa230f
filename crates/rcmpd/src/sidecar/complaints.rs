//! What is said in the log about something that peers can make happen as often as they like.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The same is said once in this time.
const PAUSE: Duration = Duration::from_secs(60);

/// When something was said last. What can be said is in the code, so this does not grow.
#[derive(Debug, Default)]
pub(crate) struct Complaints(Mutex<HashMap<&'static str, Instant>>);

impl Complaints {
    /// Says something, unless it was said a moment ago.
    pub(crate) fn say(&self, what: &'static str, say: impl FnOnce()) {
        let now = Instant::now();
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.get(what).is_some_and(|last| now.duration_since(*last) < PAUSE) {
            return;
        }
        said.insert(what, now);
        drop(said);
        say();
    }
}
