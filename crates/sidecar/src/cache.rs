//! Cached decisions. The cache is bounded, a decision is made once for all requests that wait for it, and an
//! entry counts only as long as the inputs of its decision are the same.

use crate::allowed::Allowed;
use crate::answers::Origin;
use crate::identity::DecisionInputs;
use crate::refusal::Refusal;
use dtyp::FileTime;
use quick_cache::sync::Cache as QuickCache;
use rcmp_service::TraceParent;
use std::sync::Arc;
use std::time::Duration;

/// What a decision was made for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// SHA-256 of the certificate.
    pub(crate) leaf: [u8; 32],
    /// SHA-256 over what came with it: the chain, whose names may count, and the ticket by which it was
    /// decided, if it was.
    pub(crate) with: [u8; 32],
    /// The inputs of the decision.
    pub(crate) inputs: DecisionInputs,
}

/// A time by both clocks of a system. Durations are measured by the monotonic one, because the wall clock can
/// be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock, for what carries a date.
    pub wall: FileTime,
    /// The monotonic clock: time since some moment in the past.
    pub uptime: Duration,
}

/// A decision, and until when it is used.
#[derive(Clone, Debug)]
pub(crate) struct CacheEntry {
    pub(crate) outcome: Result<Arc<Allowed>, Refusal>,
    /// Names the decision in the audit log.
    pub(crate) name: Option<Arc<str>>,
    /// The span of the request that it was made for.
    pub(crate) made_in: Option<TraceParent>,
    /// By the monotonic clock.
    pub(crate) until: Duration,
    /// When the identity itself ends, by the wall clock.
    pub(crate) not_after: FileTime,
    /// The ticket by which it was decided.
    pub(crate) ticket: Option<Origin>,
    /// Whether it was made from exactly what its key says: others may be given it only then.
    pub(crate) is_of_key: bool,
}

impl CacheEntry {
    fn counts(&self, now: Moment) -> bool {
        self.is_of_key && self.until > now.uptime && self.not_after > now.wall
    }
}

pub(crate) struct Cache(QuickCache<Key, CacheEntry>);

impl Cache {
    pub(crate) fn new(entries_max: usize) -> Self {
        Self(QuickCache::new(entries_max))
    }

    /// The decision that still counts, if there is one.
    pub(crate) fn get(&self, key: &Key, now: Moment) -> Option<CacheEntry> {
        self.0.get(key).filter(|known| known.counts(now))
    }

    /// The decision that still counts, or the one that `make` makes, once for all who wait for it, whatever
    /// it is; `true` with one that another request made. What is broken is not cached: the requests that wait
    /// for it get it, and no later one does.
    pub(crate) async fn get_or_make(
        &self,
        key: &Key,
        now: Moment,
        make: impl AsyncFnOnce() -> CacheEntry,
    ) -> (CacheEntry, bool) {
        match self.0.get(key) {
            Some(known) if known.counts(now) => return (known, true),
            Some(_) => self.remove_expired(key, now),
            None => {}
        }
        match self.0.get_value_or_guard_async(key).await {
            Ok(known) if known.is_of_key => (known, true),
            // It was made while something changed, for a request that came before the change was undone.
            Ok(_) => {
                self.remove_expired(key, now);
                (make().await, false)
            }
            Err(guard) => {
                let made = make().await;
                // INVARIANT: a place that is held is not removed, so this does not fail.
                let _ = guard.insert(made.clone());
                self.remove_expired(key, now);
                (made, false)
            }
        }
    }

    /// The entry may have been replaced since it was seen, or may be about to be: only one that is expired is
    /// removed.
    fn remove_expired(&self, key: &Key, now: Moment) {
        self.0.remove_if(key, |known| !known.counts(now));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Broken;
    use account_store::Revision;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::task::yield_now;

    fn key(leaf: u8) -> Key {
        let store_revision = Revision::FIXED;
        let inputs = DecisionInputs { path: None, policy_revision: 1, store_revision, is_settled: true };
        Key { leaf: [leaf; 32], with: [0; 32], inputs }
    }

    fn until(until: u64) -> CacheEntry {
        let until = Duration::from_secs(until);
        let not_after = FileTime::NEVER;
        CacheEntry {
            outcome: Err(Refusal::NotAllowed),
            name: None,
            made_in: None,
            until,
            not_after,
            ticket: None,
            is_of_key: true,
        }
    }

    fn at(uptime: u64) -> Moment {
        Moment { wall: FileTime(1_000), uptime: Duration::from_secs(uptime) }
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
            (29, 99, (30, true)),
        ] {
            let (made, was_there) = cache.get_or_make(&key(1), at(now), async || until(end)).await;
            assert_eq!((made.until.as_secs(), was_there), expected, "at {now}");
            assert_eq!(cache.len(), usize::from(expected.0 > now), "at {now}");
        }
        let (_, was_there) = cache.get_or_make(&key(2), at(10), async || until(20)).await;
        assert!(!was_there);
    }

    #[tokio::test]
    async fn who_comes_late_to_what_is_over_does_not_start_again() {
        let cache = Cache::new(8);
        cache.get_or_make(&key(1), at(0), async || until(10)).await;
        let (made, now) = (AtomicUsize::new(0), at(10));
        let ask = async || {
            let make = async || {
                made.fetch_add(1, Ordering::SeqCst);
                yield_now().await;
                until(20)
            };
            cache.get_or_make(&key(1), now, make).await.0.until.as_secs()
        };
        let late = async {
            assert_eq!(made.load(Ordering::SeqCst), 1, "the first is at work");
            cache.remove_expired(&key(1), now);
            ask().await
        };
        assert_eq!(tokio::join!(biased; ask(), late), (20, 20));
        assert_eq!((made.load(Ordering::SeqCst), cache.len()), (1, 1));
    }

    #[tokio::test]
    async fn a_wall_clock_that_is_set_neither_ends_a_decision_nor_makes_it_live_longer() {
        let cache = Cache::new(8);
        let not_after = FileTime(5_000);
        let make = async || CacheEntry { not_after, ..until(20) };
        let at = |wall, uptime| Moment { wall: FileTime(wall), uptime: Duration::from_secs(uptime) };
        for (wall, uptime, was_there) in [
            (1_000, 10, false),
            (4_999, 19, true),
            (1, 19, true),
            (1, 20, false),
            // What carries a date ends by the wall clock.
            (5_000, 19, false),
        ] {
            assert_eq!(
                cache.get_or_make(&key(1), at(wall, uptime), make).await.1,
                was_there,
                "{wall}, {uptime}"
            );
        }
    }

    #[tokio::test]
    async fn what_was_made_while_something_changed_is_given_to_no_other_request() {
        let cache = Cache::new(8);
        let made = AtomicUsize::new(0);
        let ask = async || {
            let make = async || {
                let n = made.fetch_add(1, Ordering::SeqCst);
                yield_now().await;
                // The first is made while the contents change and are restored.
                CacheEntry { is_of_key: n > 0, ..until(100 + n as u64) }
            };
            let (made, was_there) = cache.get_or_make(&key(1), at(0), make).await;
            (made.until.as_secs(), was_there)
        };
        // The second waits for the first, and is not given what that one made.
        let (first, second) = tokio::join!(biased; ask(), ask());
        assert_eq!((first, second), ((100, false), (101, false)));
        assert_eq!(cache.len(), 0, "neither is cached");
        assert_eq!((ask().await, ask().await), ((102, false), (102, true)));
    }

    #[tokio::test]
    async fn what_is_broken_is_forgotten() {
        let cache = Cache::new(8);
        let broken = || CacheEntry { outcome: Err(Refusal::Broken(Broken::TooLong)), ..until(0) };
        for _ in 0..2 {
            let (_, was_there) = cache.get_or_make(&key(1), at(10), async || broken()).await;
            assert_eq!((was_there, cache.len()), (false, 0));
        }
    }
}
