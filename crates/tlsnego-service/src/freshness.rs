//! Whether a message is new: the skew that its timestamp is granted, and its signature not seen before. The
//! timestamp itself is checked by [`xml_security::Timestamp::check`].

use crate::fault::Reason;
use crate::session::{BoxFuture, StoreFailed};
use dtyp::FileTime;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use xml_security::SKEW_DEFAULT;

/// Messages that are remembered, as .NET has it: some 70 MiB. Beyond it messages are refused.
pub const REPLAY_ENTRIES_MAX: usize = 900_000;

/// How far the clocks of client and server may differ: one setting for negotiations, for requests under
/// bootstrap tokens, for RST/SCT and for calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skew(pub Duration);

impl Default for Skew {
    /// As .NET has it.
    fn default() -> Self {
        Self(SKEW_DEFAULT)
    }
}

/// The time before which all messages were created that a service accepted, kept beyond its restart: by then
/// what was seen is forgotten. Messages that were created before the restart need none of it, so that only
/// those of clients whose clocks are ahead are written.
pub struct Horizon {
    kept: Mutex<FileTime>,
    keep: Box<dyn Fn(FileTime) -> BoxFuture<'static, Result<FileTime, StoreFailed>> + Send + Sync>,
}

impl fmt::Debug for Horizon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Horizon").finish_non_exhaustive()
    }
}

impl Horizon {
    /// With what is kept, and what keeps a time later than the one it gets: on the disk, before its future is
    /// ready with that time. Of several at once it keeps the latest.
    pub fn new<F>(kept: FileTime, keep: impl Fn(FileTime) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<FileTime, StoreFailed>> + Send + 'static,
    {
        Self { kept: Mutex::new(kept), keep: Box::new(move |created| Box::pin(keep(created))) }
    }

    /// Before a message is accepted that was created then. An error refuses it.
    pub async fn cover(&self, created: FileTime, now: FileTime) -> Result<(), Reason> {
        // Of most clients: no message of theirs waits for the disk of another one's.
        if created < now || created < *self.lock() {
            return Ok(());
        }
        let next = (self.keep)(created).await?;
        let mut kept = self.lock();
        *kept = next.max(*kept);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, FileTime> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Signatures of messages that were accepted, each until a copy of it would be refused for its timestamp.
#[derive(Debug)]
pub struct ReplayCache {
    seen: Mutex<Seen>,
    max: usize,
}

/// 128 bits of SHA-256 over the signature value. Only values of messages that were verified get here.
type Digest128 = [u8; 16];

#[derive(Debug, Default)]
struct Seen {
    values: HashSet<Digest128>,
    /// The same by the second of the Unix clock after which they are forgotten.
    by_second: BTreeMap<i64, Vec<Digest128>>,
}

impl Default for ReplayCache {
    fn default() -> Self {
        Self::new(REPLAY_ENTRIES_MAX)
    }
}

impl ReplayCache {
    /// Remembers at most `max` messages.
    pub fn new(max: usize) -> Self {
        Self { seen: Mutex::default(), max }
    }

    /// Takes the value of the primary signature of a verified message, which is to be remembered until
    /// `keep_until` ([`xml_security::Opened::replay_until`]). A cache that is full refuses: a message that is
    /// forgotten could be replayed.
    ///
    /// The wall clock decides here, because it decides on the timestamps.
    pub fn insert(&self, signature_value: &[u8], keep_until: FileTime, now: FileTime) -> Result<(), Reason> {
        let digest = Sha256::digest(signature_value);
        let digest: Digest128 = digest[..16].try_into().expect("SHA-256 has 32 octets");
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.values.contains(&digest) {
            return Err(Reason::Replay);
        }
        if seen.values.len() >= self.max {
            seen.forget(now);
        }
        if seen.values.len() >= self.max {
            return Err(Reason::Store(format!(
                "the replay cache holds {} messages, its limit; it has room again when their timestamps expire",
                self.max
            )));
        }
        seen.values.insert(digest);
        // A second later at most, never earlier.
        seen.by_second.entry(keep_until.to_unix() + 1).or_default().push(digest);
        Ok(())
    }

    /// Forgets what would be refused for its timestamp.
    pub fn expire(&self, now: FileTime) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).forget(now);
    }

    /// Messages that are remembered, for a gauge.
    pub fn len(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).values.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Seen {
    fn forget(&mut self, now: FileTime) {
        while let Some(entry) = self.by_second.first_entry()
            && *entry.key() <= now.to_unix()
        {
            for digest in entry.remove() {
                self.values.remove(&digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xml_security::Timestamp;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(minutes: u32) -> FileTime {
        FileTime::from_unix(1_800_000_000) + minutes * MINUTE
    }

    /// With the default skew.
    fn check(created: FileTime, expires: FileTime, now: FileTime) -> Result<FileTime, xml_security::Reason> {
        Timestamp { created, expires }.check(now, Skew::default().0)
    }

    #[test]
    fn four_minutes_of_skew_pass_and_six_fail() {
        let now = at(100);
        // .NET writes five minutes.
        for (created, passes) in
            [(104, true), (96, true), (95, false), (94, false), (106, false), (105, false)]
        {
            let checked = check(at(created), at(created + 5), now);
            assert_eq!(checked.is_ok(), passes, "{created}");
        }
        assert_eq!(
            check(at(106), at(111), now).map_err(|reason| reason.to_string()),
            Err("timestamp rejected: created in the future, clock offset +360 s".to_owned())
        );
        assert_eq!(
            check(at(80), at(200), now).map_err(|reason| reason.to_string()),
            Err("timestamp rejected: created too long ago, clock offset -1200 s".to_owned())
        );
        assert!(check(at(96), at(95), now).is_err());
    }

    /// What a future that never waits gives.
    fn at_once<T>(future: impl Future<Output = T>) -> T {
        match std::pin::pin!(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(value) => value,
            std::task::Poll::Pending => panic!("it waits"),
        }
    }

    #[test]
    fn messages_of_clients_whose_clocks_are_ahead_are_written_down_and_seldom() {
        let written: std::sync::Arc<Mutex<Vec<FileTime>>> = std::sync::Arc::default();
        let keep = std::sync::Arc::clone(&written);
        let horizon = Horizon::new(FileTime::UNSET, move |created| {
            let mut written = keep.lock().expect("no panic");
            let is_full = written.len() == 3;
            let next = created + Duration::from_secs(10);
            written.push(next);
            std::future::ready(if is_full {
                Err(StoreFailed("the disk is full".to_owned()))
            } else {
                Ok(next)
            })
        });
        let seconds = |n: u64| at(0) + Duration::from_secs(n);
        let cover = |created, now| at_once(horizon.cover(seconds(created), seconds(now)));
        // When a message was created and came, and how many times are written then.
        for (created, now, count) in [(0, 1, 0), (2, 1, 1), (11, 1, 1), (12, 1, 2), (240, 1, 3), (13, 14, 3)]
        {
            assert_eq!(cover(created, now), Ok(()), "{created}");
            assert_eq!(written.lock().expect("no panic").len(), count, "{created}");
        }
        assert!(matches!(cover(290, 1), Err(Reason::Store(_))));
    }

    #[test]
    fn a_message_that_waits_for_the_disk_delays_none_that_is_covered() {
        let horizon = Horizon::new(at(10), |_| std::future::pending());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut ahead = std::pin::pin!(horizon.cover(at(12), at(8)));
        assert!(ahead.as_mut().poll(&mut context).is_pending());
        assert_eq!(at_once(horizon.cover(at(9), at(8))), Ok(()));
    }

    #[test]
    fn a_message_is_remembered_as_long_as_its_timestamp_would_pass() {
        let cache = ReplayCache::default();
        for (created, expires) in [(100, 105), (100, 102), (100, 5_000)] {
            let until = check(at(created), at(expires), at(created)).expect("it is new");
            let value = [created, expires].map(u32::to_be_bytes).concat();
            assert_eq!(cache.insert(&value, until, at(created)), Ok(()));
            let mut now = at(created);
            while check(at(created), at(expires), now).is_ok() {
                cache.expire(now);
                assert_eq!(cache.insert(&value, until, now), Err(Reason::Replay), "{now}");
                now = now + Duration::from_secs(1);
            }
            cache.expire(now + 2 * MINUTE);
        }
        assert!(cache.is_empty());
    }

    #[test]
    fn a_full_cache_refuses_until_something_is_over() {
        let cache = ReplayCache::new(2);
        assert_eq!(cache.insert(b"a", at(1), at(0)), Ok(()));
        assert_eq!(cache.insert(b"b", at(5), at(0)), Ok(()));
        assert_eq!(cache.insert(b"a", at(5), at(0)), Err(Reason::Replay));
        let full = cache.insert(b"c", at(5), at(0)).expect_err("it is full");
        assert!(matches!(full, Reason::Store(_)));
        assert_eq!(
            full.to_string(),
            "store unavailable or full: the replay cache holds 2 messages, its limit; it has room again when their \
             timestamps expire"
        );
        assert_eq!(cache.insert(b"c", at(5), at(2)), Ok(()));
        assert_eq!(cache.insert(b"b", at(5), at(2)), Err(Reason::Replay));
    }
}
