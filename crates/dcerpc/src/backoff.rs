//! Making guesses slow without keeping out the client that knows the secret.
//!
//! The server cannot tell a client from a guesser behind the same address before it has checked the proof.
//! So each proof is checked at once, and no attempt waits for another one. After some failures for an account
//! from a source, the answer to an attempt is told a fixed time after the attempt came, right or wrong: a
//! client learns nothing before, and a connection makes one guess in that time.

use crate::quota::{FairTable, Ticket};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Failures that cost nothing: a machine may get its new secret before or after the server does, and a user
/// may mistype a password.
pub const FREE_FAILURES: u32 = 4;
/// From the arrival of an attempt to its answer, after more failures: shorter than clients wait for an
/// answer.
pub const ANSWER_TIME: Duration = Duration::from_secs(2);
/// Failures are forgotten when none was added for so long.
pub const MEMORY: Duration = Duration::from_secs(15 * 60);
/// Pairs of account and source, in all and of one source. A new pair always gets in; a source that guesses at
/// more accounts than this has its oldest pairs forgotten, which gives it [`FREE_FAILURES`] for each.
const ENTRIES_MAX: usize = 10_000;
const PER_SOURCE_MAX: usize = 1_000;

/// So much of a user name counts: names in the table are a client's choice.
const NAME_LEN_MAX: usize = 64;

/// What guesses at a user name count for, whatever its case: the name without the suffix of a user principal
/// name.
pub fn guessed_name(user: &str) -> String {
    let name = user.rsplit_once('@').map_or(user, |(name, _)| name);
    name.to_lowercase().chars().take(NAME_LEN_MAX).collect()
}

/// Failures by account and source. Times are monotonic.
#[derive(Debug)]
pub struct Backoff {
    entries: Mutex<Entries>,
}

#[derive(Debug)]
struct Entries {
    table: FairTable<IpAddr, Entry>,
    by_account: HashMap<(String, IpAddr), Ticket>,
}

#[derive(Debug)]
struct Entry {
    account: String,
    failures: u32,
    last: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        let table = FairTable::new(ENTRIES_MAX, PER_SOURCE_MAX);
        Self { entries: Mutex::new(Entries { table, by_account: HashMap::new() }) }
    }
}

impl Backoff {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the answer to an attempt waits for [`ANSWER_TIME`].
    pub fn is_slow(&self, now: Duration, account: &str, source: IpAddr) -> bool {
        self.lock().get(now, account, source).is_some_and(|entry| entry.is_slow())
    }

    /// Counts a wrong proof. Returns what [`Self::is_slow`] said before it was counted, under one lock: of
    /// attempts that are checked side by side no more are free than of others.
    pub fn failed(&self, now: Duration, account: &str, source: IpAddr) -> bool {
        let mut entries = self.lock();
        match entries.get(now, account, source) {
            Some(entry) => {
                let was_slow = entry.is_slow();
                entry.failures = entry.failures.saturating_add(1);
                entry.last = now;
                was_slow
            }
            None => {
                entries.add(now, account, source);
                false
            }
        }
    }

    /// Whether the answer to an attempt waits that counts for several names.
    pub fn is_any_slow(&self, now: Duration, accounts: &[String], source: IpAddr) -> bool {
        accounts.iter().any(|account| self.is_slow(now, account, source))
    }

    /// Counts a wrong proof for each of several names, also for those behind one that is slow. Whether one
    /// was.
    pub fn all_failed(&self, now: Duration, accounts: &[String], source: IpAddr) -> bool {
        accounts.iter().fold(false, |is_slow, account| self.failed(now, account, source) | is_slow)
    }
}

impl Entry {
    const fn is_slow(&self) -> bool {
        self.failures > FREE_FAILURES
    }
}

impl Entries {
    /// What counts of an account and a source; what is over is removed.
    fn get(&mut self, now: Duration, account: &str, source: IpAddr) -> Option<&mut Entry> {
        let key = (account.to_owned(), source);
        let ticket = *self.by_account.get(&key)?;
        if self.table.get(ticket).is_none_or(|entry| now.saturating_sub(entry.last) >= MEMORY) {
            self.by_account.remove(&key);
            self.table.remove(ticket);
            return None;
        }
        self.table.get_mut(ticket)
    }

    fn add(&mut self, now: Duration, account: &str, source: IpAddr) {
        let account = account.to_owned();
        let entry = Entry { account: account.clone(), failures: 1, last: now };
        let (ticket, evicted) = self.table.insert(source, entry);
        if let Some((source, evicted)) = evicted {
            self.by_account.remove(&(evicted.account, source));
        }
        self.by_account.insert((account, source), ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn some_failures_cost_nothing_and_old_ones_are_forgotten() {
        let backoff = Backoff::default();
        for n in 0..=FREE_FAILURES {
            assert!(!backoff.is_slow(SECOND, "WEB1$", HERE), "{n}");
            backoff.failed(SECOND, "WEB1$", HERE);
        }
        assert!(backoff.is_slow(SECOND, "WEB1$", HERE));
        assert!(!backoff.is_slow(SECOND, "WEB2$", HERE));
        assert!(!backoff.is_slow(SECOND, "WEB1$", std::net::Ipv4Addr::new(127, 0, 0, 2).into()));
        assert!(!backoff.is_slow(SECOND + MEMORY, "WEB1$", HERE));
        let entries = backoff.lock();
        assert!(entries.table.is_empty() && entries.by_account.is_empty());
    }

    #[test]
    fn attempts_side_by_side_have_no_more_free_failures() {
        let backoff = Backoff::default();
        let fail = || (0..1_000).filter(|_| !backoff.failed(SECOND, "WEB1$", HERE)).count();
        let free: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(fail)).collect();
            threads.into_iter().map(|thread| thread.join().expect("it ends")).sum()
        });
        assert_eq!(free, FREE_FAILURES as usize + 1);
    }

    #[test]
    fn a_full_table_still_counts_a_new_failure() {
        let backoff = Backoff::default();
        let source = |n: usize| IpAddr::V4((0x0a00_0000 + n as u32).into());
        for n in 0..=FREE_FAILURES {
            assert!(!backoff.is_slow(SECOND, "WEB1$", HERE), "{n}");
            backoff.failed(SECOND, "WEB1$", HERE);
        }
        for n in 0..2 * ENTRIES_MAX {
            backoff.failed(SECOND, &format!("WEB{n}$"), source(n / 500));
        }
        for _ in 0..=FREE_FAILURES {
            backoff.failed(SECOND, "WEB2$", HERE);
        }
        assert!(backoff.is_slow(SECOND, "WEB2$", HERE));
        assert!(backoff.is_slow(SECOND, "WEB1$", HERE), "the flood evicts its own entries");
        let entries = backoff.lock();
        assert_eq!((entries.table.len(), entries.by_account.len()), (ENTRIES_MAX, ENTRIES_MAX));
    }
}
