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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Broken;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn key(leaf: u8) -> Key {
        let standing = Standing { path: None, policy_revision: 1, store_revision: 1, is_settled: true };
        Key { leaf: [leaf; 32], chain: [0; 32], standing }
    }

    fn until(until: u64) -> Remembered {
        Remembered { outcome: Err(Refusal::NotAllowed), until: FileTime(until) }
    }

    #[tokio::test]
    async fn what_is_over_is_made_anew_and_nothing_else() {
        let cache = Cache::new(8);
        for (now, end, expected) in [
            (10, 20, (20, false)),
            (19, 99, (20, true)),
            (20, 20, (20, false)),
            (20, 0, (0, false)),
            (20, 30, (30, false)),
            // A clock that was set back.
            (5, 99, (30, true)),
        ] {
            let (made, was_there) = cache.get_or_make(&key(1), FileTime(now), async || until(end)).await;
            assert_eq!((made.until.0, was_there), expected, "at {now}");
            assert_eq!(cache.len(), usize::from(expected.0 > now), "at {now}");
        }
        let (_, was_there) = cache.get_or_make(&key(2), FileTime(10), async || until(20)).await;
        assert!(!was_there);
    }

    #[test]
    fn what_is_over_is_made_once_by_however_many_threads() {
        const THREADS: usize = 4;
        let runtime = || tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        for round in 0..200 {
            let cache = Cache::new(8);
            runtime().block_on(cache.get_or_make(&key(1), FileTime(0), async || until(10)));
            let (made, barrier) = (AtomicUsize::new(0), Barrier::new(THREADS));
            std::thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        let runtime = runtime();
                        barrier.wait();
                        runtime.block_on(cache.get_or_make(&key(1), FileTime(10), async || {
                            made.fetch_add(1, Ordering::SeqCst);
                            tokio::task::yield_now().await;
                            until(20)
                        }));
                    });
                }
            });
            assert_eq!(made.load(Ordering::SeqCst), 1, "round {round}");
        }
    }

    #[tokio::test]
    async fn what_is_broken_is_forgotten() {
        let cache = Cache::new(8);
        let broken = || Remembered { outcome: Err(Refusal::Broken(Broken::TooLong)), until: FileTime(0) };
        for _ in 0..2 {
            let (_, was_there) = cache.get_or_make(&key(1), FileTime(10), async || broken()).await;
            assert_eq!((was_there, cache.len()), (false, 0));
        }
    }
}
