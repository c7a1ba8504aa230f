//! What a store counts about itself.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the store was opened.
#[derive(Debug, Default)]
pub struct Counters {
    /// Questions that the primary answered.
    pub asked_primary: AtomicU64,
    /// Questions that a replica answered.
    pub asked_replica: AtomicU64,
    /// Answers of a replica that were not used: they were older than what had been seen, or had changes that
    /// the primary had not shown.
    pub lagging: AtomicU64,
    /// Questions that were asked once more because their connection had ended.
    pub repeated: AtomicU64,
    /// Questions that were not answered in time.
    pub timeouts: AtomicU64,
    /// Connections that were opened.
    pub connects: AtomicU64,
    /// Polls of the revision that were answered.
    pub polls: AtomicU64,
    /// Attempts to open one that failed.
    pub connect_failures: AtomicU64,
}

impl Counters {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
