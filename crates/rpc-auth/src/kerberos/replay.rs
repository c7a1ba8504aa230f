//! The replay cache (RFC 4120 3.2.3): which authenticators were accepted and may not come again.
//!
//! An authenticator is known by its ciphertext alone: realm and name of the service are in the clear, so a
//! copy of an AP-REQ with another name is the same authenticator. One cache serves all listeners.

use crate::UserIdentity;
use dcerpc::quota::{FairTable, Ticket};
use dcerpc::security::Account;
use dtyp::FileTime;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

/// Authenticators that are remembered. Each takes about 250 bytes, and only clients that pass every other
/// check add any: together 65 MB, or 437 authentications a second over the ten minutes that an entry lives.
const AUTHENTICATORS_MAX: usize = 1 << 18;

/// A hash that no second input has by chance or by design.
type Hash = [u8; 32];

/// The authenticators that were accepted, until the clock check refuses them.
///
/// A new authenticator always gets in, so that no client keeps the others out. A full cache forgets the
/// oldest one of the account that has most of them. That one might come again, and would open nothing: a
/// replayer cannot make the third token, which is why RFC 4120 3.2.3 lets a server with a subkey of its own
/// do without a cache. An account that has fewer than others is not affected.
#[derive(Debug)]
pub struct ReplayCache {
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    /// By account.
    authenticators: FairTable<Account, Authenticator>,
    known: HashMap<Hash, Ticket>,
    by_expiry: BTreeSet<(FileTime, Ticket)>,
    evictions: u64,
}

#[derive(Debug)]
struct Authenticator {
    hash: Hash,
    expires: FileTime,
}

impl Default for ReplayCache {
    fn default() -> Self {
        Self::new(AUTHENTICATORS_MAX)
    }
}

impl ReplayCache {
    /// A cache of at most `max` authenticators.
    pub fn new(max: usize) -> Self {
        let table = Table {
            authenticators: FairTable::new(max, max),
            known: HashMap::new(),
            by_expiry: BTreeSet::new(),
            evictions: 0,
        };
        Self { table: Mutex::new(table) }
    }

    /// How many authenticators are remembered.
    pub fn len(&self) -> usize {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).known.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many authenticators a full cache forgot before they expired.
    pub fn evictions(&self) -> u64 {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).evictions
    }

    /// Remembers an authenticator until `expires`. Whether it is new. `user` is the client, after all other
    /// checks.
    pub(crate) fn insert(
        &self,
        ciphertext: &[u8],
        user: &UserIdentity,
        now: FileTime,
        expires: FileTime,
    ) -> bool {
        let hash: Hash = Sha256::digest(ciphertext).into();
        // By SID where there is one: KDCs take a name in several spellings.
        let account = user.account();
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.expire(now);
        let is_new = !table.known.contains_key(&hash);
        if is_new {
            table.insert(account, Authenticator { hash, expires });
        }
        is_new
    }
}

impl Table {
    fn insert(&mut self, account: Account, authenticator: Authenticator) {
        let Authenticator { hash, expires } = authenticator;
        // FairTable evicts by its own rule; the other two tables follow it.
        let (ticket, evicted) = self.authenticators.insert(account, authenticator);
        if let Some((_, evicted)) = evicted
            && let Some(ticket) = self.known.remove(&evicted.hash)
        {
            self.by_expiry.remove(&(evicted.expires, ticket));
            self.evictions += 1;
        }
        self.known.insert(hash, ticket);
        self.by_expiry.insert((expires, ticket));
    }

    /// Forgets what expired before `now`. An entry counts up to its last instant.
    fn expire(&mut self, now: FileTime) {
        while let Some(&(expires, ticket)) = self.by_expiry.first()
            && expires < now
        {
            self.by_expiry.remove(&(expires, ticket));
            if let Some((_, authenticator)) = self.authenticators.remove(ticket) {
                self.known.remove(&authenticator.hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IdentitySource;

    fn user(name: &str) -> UserIdentity {
        UserIdentity {
            name: name.into(),
            domain: "RPC.TEST".into(),
            sid: None,
            groups: vec![],
            source: IdentitySource::Ticket { keytab_principal: "sso/srv@RPC.TEST".into() },
            password: None,
            delegated_by: vec![],
            expires: None,
        }
    }

    fn at(second: i64) -> FileTime {
        FileTime::from_unix(second)
    }

    #[test]
    fn an_authenticator_counts_once_until_it_expires() {
        let cache = ReplayCache::default();
        let (alice, bob) = (user("alice"), user("bob"));
        assert!(cache.insert(b"a", &alice, at(0), at(300)));
        assert!(cache.insert(b"b", &alice, at(0), at(300)), "the same second");
        assert!(!cache.insert(b"a", &alice, at(300), at(300)), "the last instant");
        assert!(!cache.insert(b"a", &bob, at(1), at(300)), "another client");
        assert!(cache.insert(b"a", &alice, at(301), at(601)));
        assert_eq!((cache.len(), cache.evictions()), (1, 0), "the others expired");
        let table = cache.table.lock().expect("not poisoned");
        assert_eq!((table.authenticators.len(), table.by_expiry.len()), (1, 1));
    }

    #[test]
    fn accounts_that_fill_the_cache_keep_no_other_one_out_and_evict_their_own() {
        let cache = ReplayCache::new(1000);
        let insert = |user: &UserIdentity, n: u32| {
            let ciphertext = [user.name.as_bytes(), &n.to_le_bytes()].concat();
            cache.insert(&ciphertext, user, at(0), at(300))
        };
        let alice = user("alice");
        for n in 0..5 {
            assert!(insert(&alice, n));
        }
        for m in 0..20 {
            let mallory = user(&format!("mallory{m}"));
            for n in 0..2000 {
                assert!(insert(&mallory, n), "never refused");
            }
            assert!(insert(&alice, 5 + m));
        }
        for n in 0..5 {
            assert!(!insert(&alice, n), "of an account that has fewer, nothing is forgotten");
        }
        // 5 and 20 of alice, 20 times 2000 of the others.
        assert_eq!((cache.len(), cache.evictions()), (1000, 25 + 40_000 - 1000));
        let table = cache.table.lock().expect("not poisoned");
        assert_eq!((table.authenticators.len(), table.by_expiry.len()), (1000, 1000));
    }
}
