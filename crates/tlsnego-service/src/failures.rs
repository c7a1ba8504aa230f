//! Messages that did not decrypt or verify, counted by the name of their session.
//!
//! CBC is decrypted before anything is authenticated, so each failure tells a sender of changed copies a
//! little. A token of [`Sessions`](crate::session::Sessions) counts its own. Here they are counted where
//! there is no such token: on the EncryptedKeySHA1 of one-shot messages, and on the name of a session whose
//! state is in its cookie.

use crate::fault::Reason;
use dcerpc::limits::source_of;
use dcerpc::quota::{FairTable, Ticket};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// After so many failures nothing is decrypted any more.
pub const FAILURES_MAX: u32 = 3;
/// Names with failures, some 150 bytes each. A new one always gets in: a client that fails under more names
/// than this has its oldest ones forgotten, which gives it three failures for as many messages that cost it
/// more than they tell.
const ENTRIES_MAX: usize = 65_536;
/// The life of a token. A one-shot message is too old long before.
const MEMORY: Duration = Duration::from_secs(10 * 3600);

/// Failures by name. Times are monotonic.
#[derive(Debug)]
pub struct Failures(Mutex<Table>);

type NameHash = [u8; 32];

#[derive(Debug)]
struct Table {
    entries: FairTable<IpAddr, Entry>,
    by_name: HashMap<NameHash, Ticket>,
}

#[derive(Debug)]
struct Entry {
    name: NameHash,
    count: u32,
    until: Duration,
}

impl Default for Failures {
    fn default() -> Self {
        let entries = FairTable::new(ENTRIES_MAX, ENTRIES_MAX);
        Self(Mutex::new(Table { entries, by_name: HashMap::new() }))
    }
}

impl Failures {
    /// Before anything of a message is decrypted, also by RSA.
    pub fn check(&self, name: &str, now: Duration) -> Result<(), Reason> {
        let mut table = self.lock();
        table.forget(now);
        let entry = table.by_name.get(&hash(name)).and_then(|ticket| table.entries.get(*ticket));
        match entry {
            Some(entry) if entry.count >= FAILURES_MAX => Err(Reason::TooManyFailures),
            _ => Ok(()),
        }
    }

    /// A message of this name failed. Whether that was the last that is allowed.
    pub fn failed(&self, name: &str, source: IpAddr, now: Duration) -> bool {
        let mut table = self.lock();
        table.forget(now);
        let name = hash(name);
        let known = table.by_name.get(&name).copied();
        if let Some(entry) = known.and_then(|ticket| table.entries.get_mut(ticket)) {
            entry.count = entry.count.saturating_add(1);
            return entry.count >= FAILURES_MAX;
        }
        let entry = Entry { name, count: 1, until: now + MEMORY };
        let (ticket, evicted) = table.entries.insert(source_of(source), entry);
        if let Some((_, evicted)) = evicted {
            table.by_name.remove(&evicted.name);
        }
        table.by_name.insert(name, ticket);
        false
    }

    /// Names with failures, for a gauge.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn forget(&mut self, now: Duration) {
        while let Some((ticket, entry)) = self.entries.oldest()
            && entry.until <= now
        {
            self.by_name.remove(&entry.name);
            self.entries.remove(ticket);
        }
    }
}

fn hash(name: &str) -> NameHash {
    Sha256::digest(name.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000);

    fn source(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn the_fourth_copy_of_a_message_is_refused_before_it_is_decrypted() {
        let failures = Failures::default();
        for (n, is_last) in [(1, false), (2, false), (3, true)] {
            assert_eq!(failures.check("key", NOW), Ok(()), "{n}");
            assert_eq!(failures.failed("key", source(n), NOW), is_last, "from whatever address");
        }
        assert_eq!(failures.check("key", NOW), Err(Reason::TooManyFailures));
        assert_eq!(failures.check("other", NOW), Ok(()));
        assert_eq!(failures.check("key", NOW + MEMORY), Ok(()));
        assert!(failures.is_empty());
    }

    #[test]
    fn a_flood_of_other_names_forgets_its_own() {
        let failures = Failures::default();
        for _ in 0..3 {
            failures.failed("key", source(1), NOW);
        }
        for n in 0..ENTRIES_MAX + 10 {
            failures.failed(&n.to_string(), source(2), NOW);
        }
        assert_eq!(failures.len(), ENTRIES_MAX);
        assert_eq!(failures.check("key", NOW), Err(Reason::TooManyFailures));
    }
}
