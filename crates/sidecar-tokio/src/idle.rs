//! Idle timeouts.

use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Waits until the last activity is so long ago. `moved` returns when that was.
pub(super) async fn idle_for(limit: Duration, moved: impl Fn() -> Instant) {
    loop {
        let end = moved() + limit;
        if end <= Instant::now() {
            return;
        }
        sleep_until(end).await;
    }
}
