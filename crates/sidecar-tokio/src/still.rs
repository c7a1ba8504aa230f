//! Waiting for nothing to happen.

use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Waits until the last move, of which `moved` tells when it was, is so long ago.
pub(super) async fn still(limit: Duration, moved: impl Fn() -> Instant) {
    loop {
        let end = moved() + limit;
        if end <= Instant::now() {
            return;
        }
        sleep_until(end).await;
    }
}
