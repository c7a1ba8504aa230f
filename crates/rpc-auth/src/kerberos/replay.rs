//! The replay cache (RFC 4120 3.2.3): which authenticators were accepted and may not come again.
//!
//! An authenticator is known by its ciphertext alone: realm and name of the service are in the clear, so a
//! copy of an AP-REQ with another name is the same authenticator. One cache serves all listeners.

use super::messages::Principal;
use dtyp::FileTime;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

/// Authenticators that are remembered. Each takes about 150 bytes, and only clients with a valid ticket add
/// any: together 40 MB, or 437 authentications a second over the ten minutes that an entry lives.
pub const AUTHENTICATORS_MAX: usize = 1 << 18;
/// Authenticators of one client, so that it does not fill the cache for the others.
pub const AUTHENTICATORS_OF_CLIENT_MAX: usize = AUTHENTICATORS_MAX / 4;

/// A hash, cut to what no second input has by chance or by design.
type Hash = [u8; 32];

/// Why an authenticator is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplayError {
    /// It was accepted before.
    Seen,
    /// The client has too many that have not expired.
    ClientFull,
    /// All clients together have too many.
    Full,
}

/// The authenticators that were accepted, until the clock check refuses them.
///
/// A full cache refuses. To evict an authenticator that has not expired would let it come again.
#[derive(Debug)]
pub struct ReplayCache {
    table: Mutex<Table>,
    max: usize,
    max_of_client: usize,
}

#[derive(Debug, Default)]
struct Table {
    /// When each expires.
    entries: HashMap<Hash, FileTime>,
    /// The same by time, with the client that each is of.
    by_expiry: BTreeMap<(FileTime, Hash), Hash>,
    of_client: HashMap<Hash, usize>,
}

impl Default for ReplayCache {
    fn default() -> Self {
        Self::new(AUTHENTICATORS_MAX, AUTHENTICATORS_OF_CLIENT_MAX)
    }
}

impl ReplayCache {
    /// A cache of at most `max` authenticators, and at most `max_of_client` of one client.
    pub fn new(max: usize, max_of_client: usize) -> Self {
        Self { table: Mutex::default(), max, max_of_client }
    }

    /// How many authenticators are remembered.
    pub fn len(&self) -> usize {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Remembers an authenticator until `expires`, unless it is there.
    pub(crate) fn insert(
        &self,
        ciphertext: &[u8],
        client: &Principal,
        now: FileTime,
        expires: FileTime,
    ) -> Result<(), ReplayError> {
        let key: Hash = Sha256::digest(ciphertext).into();
        let client: Hash = Sha256::digest(client.to_string()).into();
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.expire(now);
        if table.entries.contains_key(&key) {
            return Err(ReplayError::Seen);
        }
        if table.of_client.get(&client).is_some_and(|count| *count >= self.max_of_client) {
            return Err(ReplayError::ClientFull);
        }
        if table.entries.len() >= self.max {
            return Err(ReplayError::Full);
        }
        table.entries.insert(key, expires);
        table.by_expiry.insert((expires, key), client);
        *table.of_client.entry(client).or_default() += 1;
        Ok(())
    }
}

impl Table {
    /// Forgets what expired before `now`. An entry counts up to its last instant.
    fn expire(&mut self, now: FileTime) {
        while let Some(entry) = self.by_expiry.first_entry() {
            let (expires, key) = *entry.key();
            if expires >= now {
                break;
            }
            let client = entry.remove();
            self.entries.remove(&key);
            if let Some(count) = self.of_client.get_mut(&client) {
                *count -= 1;
                if *count == 0 {
                    self.of_client.remove(&client);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kerberos::test::service;

    #[test]
    fn an_authenticator_counts_once_until_it_expires() {
        let cache = ReplayCache::default();
        let (alice, bob) = (service("alice"), service("bob"));
        let at = |second| FileTime::from_unix(second);
        assert_eq!(cache.insert(b"a", &alice, at(0), at(300)), Ok(()));
        assert_eq!(cache.insert(b"b", &alice, at(0), at(300)), Ok(()), "the same second");
        assert_eq!(cache.insert(b"a", &alice, at(300), at(300)), Err(ReplayError::Seen), "the last instant");
        assert_eq!(cache.insert(b"a", &bob, at(1), at(300)), Err(ReplayError::Seen), "another client");
        assert_eq!(cache.insert(b"a", &alice, at(301), at(601)), Ok(()));
        assert_eq!(cache.len(), 1, "the others are forgotten");
    }

    #[test]
    fn a_full_cache_refuses_and_one_client_does_not_fill_it() {
        let cache = ReplayCache::new(3, 2);
        let at = |second| FileTime::from_unix(second);
        let insert =
            |text: &[u8], client: &str, now| cache.insert(text, &service(client), at(now), at(now + 300));
        assert_eq!(insert(b"1", "mallory", 0), Ok(()));
        assert_eq!(insert(b"2", "mallory", 0), Ok(()));
        assert_eq!(insert(b"3", "mallory", 0), Err(ReplayError::ClientFull));
        assert_eq!(insert(b"4", "alice", 0), Ok(()));
        assert_eq!(insert(b"5", "bob", 0), Err(ReplayError::Full));
        assert_eq!(insert(b"1", "mallory", 0), Err(ReplayError::Seen), "nothing was evicted");
        assert_eq!(insert(b"5", "bob", 301), Ok(()));
        assert_eq!(cache.len(), 1);
        assert_eq!(cache.table.lock().expect("not poisoned").of_client.len(), 1);
    }
}
