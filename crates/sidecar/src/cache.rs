//! Decisions that are remembered for a while: bounded, made once however many ask at a time, and counting only while what they were
//! made from is the same.

use crate::decide::Allowed;
use crate::identity::Standing;
use crate::refusal::Refusal;
use dtyp::FileTime;
use quick_cache::sync::Cache as QuickCache;
use std::sync::Arc;

/// What a decision was made for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// SHA-256 of the certificate.
    pub(crate) leaf: [u8; 32],
    /// SHA-256 over what came with it, whose names may count.
    pub(crate) chain: [u8; 32],
    /// What it was decided by.
    pub(crate) standing: Standing,
}

/// A decision, and until when it counts.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    pub(crate) outcome: Result<Arc<Allowed>, Refusal>,
    pub(crate) until: FileTime,
}

pub(crate) struct Cache(QuickCache<Key, Remembered>);

impl Cache {
    pub(crate) fn new(entries_max: usize) -> Self {
        Self(QuickCache::new(entries_max))
    }

    /// The decision that still counts, or the one that `make` makes, once for all who wait for it, whatever it is; `true` with one that
    /// somebody else made. What is broken is not remembered: it is told to those who wait, and then forgotten.
    pub(crate) async fn get_or_make(
        &self,
        key: &Key,
        now: FileTime,
        make: impl AsyncFnOnce() -> Remembered,
    ) -> (Remembered, bool) {
        let is_over = |known: &Remembered| known.until <= now;
        match self.0.get(key) {
            Some(known) if !is_over(&known) => return (known, true),
            // Only what is over: somebody may be at work already.
            Some(_) => _ = self.0.remove_if(key, is_over),
            None => {}
        }
        match self.0.get_value_or_guard_async(key).await {
            Ok(known) => (known, true),
            Err(guard) => {
                let made = make().await;
                // INVARIANT: a place that is held is not removed, so this does not fail.
                let _ = guard.insert(made.clone());
                if is_over(&made) {
                    self.0.remove_if(key, is_over);
                }
                (made, false)
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
