//! Challenges between NetrServerReqChallenge and the authentication that uses them up.
//!
//! Any client can fill this table, so it is bounded for each source and in all, an entry has a fixed size,
//! and it expires after two minutes. Each call takes time logarithmic in the number of entries.
//!
//! A challenge is used once by its own connection. Clients may go on over another connection, so it is also
//! lent once to another connection of the same source and computer. That look-up proves nothing, so it leaves
//! the challenge to its own connection: a client behind the same address cannot take it away.

use crate::credential::Credential;
use dcerpc::quota::{FairTable, Ticket};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

/// "A couple of minutes" ([MS-NRPC] 5.1).
const LIFETIME: Duration = Duration::from_secs(120);
/// From one address: as many connections as it may have.
const PER_SOURCE_MAX: usize = 1_000;
/// In all: about 14 MB of memory if 50 sources fill the table, and 24 MB if each entry has a source of its
/// own.
const TOTAL_MAX: usize = 50_000;
/// Expired entries that one call removes. A call adds at most one entry, so with two the table empties, and
/// no call pays for all entries of a flood that expire together.
const EXPIRED_PER_CALL_MAX: usize = 2;

/// Both halves of a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) client: Credential,
    pub(super) server: Credential,
}

#[derive(Debug)]
struct Entry {
    connection: u64,
    computer: NameHash,
    challenge: Challenge,
    since: Duration,
}

/// Stands for a computer's name, which may be long: 128 bits under keys that no client knows.
type NameHash = [u64; 2];

/// A challenge that was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) challenge: Challenge,
    /// The connection to which the challenge belongs, if it is another one. It may still use the challenge.
    lent_by: Option<u64>,
}

impl Entry {
    fn is_expired(&self, now: Duration) -> bool {
        now.saturating_sub(self.since) >= LIFETIME
    }
}

/// Challenges by connection. Times are monotonic.
#[derive(Debug)]
pub(super) struct Challenges {
    entries: FairTable<IpAddr, Entry>,
    by_connection: HashMap<u64, Ticket>,
    /// The last connection on which a source used a computer name, for clients that go on over another one.
    by_name: HashMap<(IpAddr, NameHash), u64>,
    hashers: [RandomState; 2],
}

impl Default for Challenges {
    fn default() -> Self {
        Self {
            entries: FairTable::new(TOTAL_MAX, PER_SOURCE_MAX),
            by_connection: HashMap::new(),
            by_name: HashMap::new(),
            hashers: [RandomState::new(), RandomState::new()],
        }
    }
}

impl Challenges {
    /// Keeps a challenge in place of the one this connection had. In a full table it takes the place of the
    /// oldest entry of the source that has the most: a handshake takes milliseconds, so a flood evicts
    /// itself.
    pub(super) fn insert(
        &mut self,
        now: Duration,
        connection: u64,
        source: IpAddr,
        computer: &str,
        challenge: Challenge,
    ) {
        self.expire(now);
        self.remove(connection);
        let computer = self.hash(computer);
        let entry = Entry { connection, computer, challenge, since: now };
        let (ticket, evicted) = self.entries.insert(source, entry);
        if let Some((source, entry)) = evicted {
            self.forget(source, &entry);
        }
        self.by_connection.insert(connection, ticket);
        self.by_name.insert((source, computer), connection);
    }

    /// Takes out the challenge of this connection; whatever follows, it is used up. A connection that has
    /// none gets the last one of the same source and computer, which is lent once.
    pub(super) fn take(
        &mut self,
        now: Duration,
        connection: u64,
        source: IpAddr,
        computer: &str,
    ) -> Option<Taken> {
        self.expire(now);
        let computer = self.hash(computer);
        if let Some(entry) = self.remove(connection) {
            let is_good = !entry.is_expired(now) && entry.computer == computer;
            return is_good.then_some(Taken { challenge: entry.challenge, lent_by: None });
        }
        let owner = self.by_name.remove(&(source, computer))?;
        let entry = self.entry(owner).filter(|entry| !entry.is_expired(now))?;
        Some(Taken { challenge: entry.challenge, lent_by: Some(owner) })
    }

    /// Ends a challenge with which a client proved its secret. `false` if its own connection has used it
    /// meanwhile: it is good for one channel.
    pub(super) fn use_up(&mut self, taken: &Taken) -> bool {
        let Some(owner) = taken.lent_by else { return true };
        let is_there = self.entry(owner).is_some_and(|entry| entry.challenge == taken.challenge);
        is_there && self.remove(owner).is_some()
    }

    fn entry(&self, connection: u64) -> Option<&Entry> {
        self.entries.get(*self.by_connection.get(&connection)?)
    }

    fn hash(&self, computer: &str) -> NameHash {
        self.hashers.each_ref().map(|hasher| hasher.hash_one(computer))
    }

    fn remove(&mut self, connection: u64) -> Option<Entry> {
        let ticket = *self.by_connection.get(&connection)?;
        let (source, entry) = self.entries.remove(ticket)?;
        self.forget(source, &entry);
        Some(entry)
    }

    /// Removes what leads to an entry that is gone.
    fn forget(&mut self, source: IpAddr, entry: &Entry) {
        self.by_connection.remove(&entry.connection);
        let name = (source, entry.computer);
        if self.by_name.get(&name) == Some(&entry.connection) {
            self.by_name.remove(&name);
        }
    }

    fn expire(&mut self, now: Duration) {
        for _ in 0..EXPIRED_PER_CALL_MAX {
            let Some(connection) = self
                .entries
                .oldest()
                .filter(|(_, entry)| entry.is_expired(now))
                .map(|(_, entry)| entry.connection)
            else {
                return;
            };
            self.remove(connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));
    const NOW: Duration = Duration::from_secs(1);

    fn challenge(n: u8) -> Challenge {
        Challenge { client: [n; 8], server: [n + 1; 8] }
    }

    fn take(
        table: &mut Challenges,
        now: Duration,
        connection: u64,
        source: IpAddr,
        computer: &str,
    ) -> Option<Challenge> {
        table.take(now, connection, source, computer).map(|taken| taken.challenge)
    }

    fn other(n: u64) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + n as u32).into())
    }

    fn is_empty(table: &Challenges) -> bool {
        table.entries.is_empty() && table.by_connection.is_empty() && table.by_name.is_empty()
    }

    #[test]
    fn a_challenge_is_used_once() {
        let mut table = Challenges::default();
        table.insert(NOW, 1, HERE, "WEB1", challenge(1));
        assert_eq!(take(&mut table, NOW, 1, HERE, "WEB1"), Some(challenge(1)));
        assert_eq!(take(&mut table, NOW, 1, HERE, "WEB1"), None);
        table.insert(NOW, 1, HERE, "WEB1", challenge(1));
        assert_eq!(take(&mut table, NOW, 1, HERE, "WEB2"), None, "another computer's");
        assert_eq!(take(&mut table, NOW, 1, HERE, "WEB1"), None, "that look-up used it up");
        assert!(is_empty(&table));
    }

    #[test]
    fn another_connection_of_the_same_source_may_go_on() {
        let mut table = Challenges::default();
        table.insert(NOW, 1, HERE, "WEB1", challenge(1));
        assert_eq!(take(&mut table, NOW, 2, THERE, "WEB1"), None, "not from elsewhere");
        assert_eq!(take(&mut table, NOW, 2, HERE, "WEB1"), Some(challenge(1)));
        assert_eq!(take(&mut table, NOW, 3, HERE, "WEB1"), None, "it is lent once");
    }

    #[test]
    fn another_connection_of_the_same_source_does_not_take_a_challenge_away() {
        let mut table = Challenges::default();
        table.insert(NOW, 1, HERE, "WEB1", challenge(1));
        assert!(table.take(NOW, 2, HERE, "WEB1").is_some());
        assert_eq!(take(&mut table, NOW, 1, HERE, "WEB1"), Some(challenge(1)));
        assert!(is_empty(&table));
    }

    #[test]
    fn a_challenge_is_good_for_one_channel() {
        let mut table = Challenges::default();
        table.insert(NOW, 1, HERE, "WEB1", challenge(1));
        let lent = table.take(NOW, 2, HERE, "WEB1").expect("it is lent");
        assert!(table.use_up(&lent));
        assert_eq!(
            take(&mut table, NOW, 1, HERE, "WEB1"),
            None,
            "the other connection proved a secret with it"
        );
        assert!(!table.use_up(&lent), "once");
        assert!(is_empty(&table));
        for is_replaced in [false, true] {
            table.insert(NOW, 1, HERE, "WEB1", challenge(1));
            let lent = table.take(NOW, 2, HERE, "WEB1").expect("it is lent");
            let own = table.take(NOW, 1, HERE, "WEB1").expect("it stays");
            if is_replaced {
                table.insert(NOW, 1, HERE, "WEB1", challenge(5));
            }
            assert!(!table.use_up(&lent), "its own connection used it");
            assert!(table.use_up(&own));
        }
        assert_eq!(take(&mut table, NOW, 1, HERE, "WEB1"), Some(challenge(5)));
    }

    #[test]
    fn an_entry_has_a_fixed_size() {
        assert_eq!(size_of::<Entry>(), 56);
        assert_eq!(size_of::<((IpAddr, NameHash), u64)>(), 48);
        let mut table = Challenges::default();
        let (long, other) = ("\u{4e00}".repeat(255), "\u{4e00}".repeat(254));
        table.insert(NOW, 1, HERE, &long, challenge(1));
        assert_eq!(take(&mut table, NOW, 2, HERE, &other), None);
        assert_eq!(take(&mut table, NOW, 2, HERE, &long), Some(challenge(1)));
    }

    #[test]
    fn a_connection_that_asks_again_and_again_replaces_its_own_challenge() {
        let mut table = Challenges::default();
        table.insert(NOW, 1, HERE, "WEB1", challenge(1));
        for _ in 0..2 * TOTAL_MAX {
            table.insert(NOW, 2, HERE, "WEB2", challenge(2));
        }
        assert_eq!((table.entries.len(), table.by_connection.len(), table.by_name.len()), (2, 2, 2));
        assert_eq!(take(&mut table, NOW, 1, HERE, "WEB1"), Some(challenge(1)));
    }

    #[test]
    fn one_source_and_the_whole_table_are_bounded_and_a_flood_evicts_itself() {
        let mut table = Challenges::default();
        table.insert(NOW, 0, THERE, "WEB1", challenge(3));
        let mut connection = 0;
        for source in 0..60 {
            for _ in 0..=PER_SOURCE_MAX {
                connection += 1;
                table.insert(NOW, connection, other(source), "WEB1", challenge(1));
            }
        }
        assert_eq!(table.entries.len(), TOTAL_MAX);
        assert_eq!(table.by_connection.len(), TOTAL_MAX);
        assert!(table.by_name.len() <= TOTAL_MAX);
        assert_eq!(
            take(&mut table, NOW, 0, THERE, "WEB1"),
            Some(challenge(3)),
            "a source with one entry keeps it"
        );
    }

    #[test]
    fn a_challenge_expires_after_two_minutes_also_before_it_is_removed() {
        let mut table = Challenges::default();
        for connection in 0..10 {
            table.insert(NOW, connection, HERE, "WEB1", challenge(1));
        }
        let just_before = NOW + LIFETIME - Duration::from_nanos(1);
        assert_eq!(take(&mut table, just_before, 9, HERE, "WEB1"), Some(challenge(1)));
        assert_eq!(take(&mut table, NOW + LIFETIME, 8, HERE, "WEB1"), None);
        for _ in 0..5 {
            assert_eq!(take(&mut table, NOW + LIFETIME, 100, THERE, "WEB1"), None);
        }
        assert!(is_empty(&table), "calls that follow remove what expired");
    }

    /// The time for 50 handshakes of one client: the least of 50 measurements, each so short that a busy
    /// machine does not interrupt all of them.
    fn handshakes(table: &mut Challenges, now: Duration) -> Duration {
        (0..50)
            .map(|_| {
                let begun = Instant::now();
                for _ in 0..50 {
                    table.insert(now, u64::MAX, HERE, "WEB1", challenge(1));
                    assert_eq!(take(table, now, u64::MAX, HERE, "WEB1"), Some(challenge(1)));
                }
                begun.elapsed()
            })
            .min()
            .expect("some were made")
    }

    #[test]
    fn work_per_call_does_not_grow_with_the_entries_of_other_sources() {
        let alone = handshakes(&mut Challenges::default(), NOW);
        for (what, sources, later) in [
            ("one entry of each source", 49_000, Duration::ZERO),
            ("49 sources at their limit", 49, Duration::ZERO),
            ("all expire together", 49_000, LIFETIME),
        ] {
            let mut table = Challenges::default();
            for connection in 0..49_000 {
                let name = format!("WEB{connection}");
                table.insert(NOW, connection, other(connection % sources), &name, challenge(1));
            }
            let took = handshakes(&mut table, NOW + later);
            // A look at each of 49,000 entries is a factor of thousands; the depth of the trees is one of
            // about three.
            assert!(took < 50 * alone, "{what}: {took:?} instead of {alone:?}");
        }
    }
}
