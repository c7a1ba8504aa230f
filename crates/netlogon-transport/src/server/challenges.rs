//! Challenges between NetrServerReqChallenge and the authentication that uses them up.
//!
//! Anybody can fill this table, so it is bounded for each source and in all, and forgets after two minutes.

use crate::credential::Credential;
use dtyp::FileTime;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// "A couple of minutes" ([MS-NRPC] 5.1), in steps of a [`FileTime`].
const LIFETIME: u64 = 120 * 10_000_000;
/// From one address: as many connections as it may have.
const PER_SOURCE_MAX: usize = 1_000;
/// In all: some megabytes.
const TOTAL_MAX: usize = 50_000;

/// Both halves of a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) client: Credential,
    pub(super) server: Credential,
}

#[derive(Debug)]
struct Entry {
    computer: String,
    source: IpAddr,
    challenge: Challenge,
    serial: u64,
}

#[derive(Debug, Default)]
pub(super) struct Challenges {
    by_connection: HashMap<u64, Entry>,
    /// The last connection on which a source used a computer name, for clients that go on over another one.
    by_name: HashMap<(IpAddr, String), u64>,
    per_source: HashMap<IpAddr, usize>,
    /// By age; entries that are gone or replaced are passed over, and cleared away before they are many.
    order: VecDeque<(FileTime, u64, u64)>,
    last_serial: u64,
}

impl Challenges {
    /// Keeps a challenge in place of the one this connection had.
    pub(super) fn insert(
        &mut self,
        now: FileTime,
        connection: u64,
        source: IpAddr,
        computer: &str,
        challenge: Challenge,
    ) {
        self.expire(now);
        self.remove(connection);
        // Whoever comes next gets the room of whoever has waited longest: a handshake takes milliseconds, and a flood must not
        // keep others out for minutes.
        if self.per_source.get(&source).is_some_and(|here| *here >= PER_SOURCE_MAX) {
            self.remove_oldest(|entry| entry.source == source);
        }
        if self.by_connection.len() >= TOTAL_MAX {
            self.remove_oldest(|_| true);
        }
        // A connection that asks again and again leaves an entry each time.
        if self.order.len() > 2 * self.by_connection.len() + 64 {
            let present = &self.by_connection;
            self.order.retain(|(_, connection, serial)| {
                present.get(connection).is_some_and(|entry| entry.serial == *serial)
            });
        }
        self.last_serial += 1;
        self.order.push_back((now, connection, self.last_serial));
        *self.per_source.entry(source).or_insert(0) += 1;
        self.by_name.insert((source, computer.to_owned()), connection);
        let entry = Entry { computer: computer.to_owned(), source, challenge, serial: self.last_serial };
        self.by_connection.insert(connection, entry);
    }

    fn remove_oldest(&mut self, of: impl Fn(&Entry) -> bool) {
        let oldest = self.order.iter().find_map(|(_, connection, serial)| {
            let entry = self.by_connection.get(connection)?;
            (entry.serial == *serial && of(entry)).then_some(*connection)
        });
        oldest.and_then(|connection| self.remove(connection));
    }

    /// Takes out the challenge of this connection, or else the last one of the same source and computer. Whatever comes
    /// of it, it is used up.
    pub(super) fn take(
        &mut self,
        now: FileTime,
        connection: u64,
        source: IpAddr,
        computer: &str,
    ) -> Option<Challenge> {
        self.expire(now);
        let own = self.by_connection.contains_key(&connection);
        let connection = match own {
            true => connection,
            false => *self.by_name.get(&(source, computer.to_owned()))?,
        };
        self.remove(connection).filter(|entry| entry.computer == computer).map(|entry| entry.challenge)
    }

    fn remove(&mut self, connection: u64) -> Option<Entry> {
        let entry = self.by_connection.remove(&connection)?;
        let key = (entry.source, entry.computer.clone());
        if self.by_name.get(&key) == Some(&connection) {
            self.by_name.remove(&key);
        }
        if let Some(here) = self.per_source.get_mut(&entry.source) {
            *here -= 1;
            if *here == 0 {
                self.per_source.remove(&entry.source);
            }
        }
        Some(entry)
    }

    fn expire(&mut self, now: FileTime) {
        while let Some((since, connection, serial)) = self.order.front().copied() {
            let present = self.by_connection.get(&connection).is_some_and(|entry| entry.serial == serial);
            match (present, now.0.saturating_sub(since.0) >= LIFETIME) {
                (true, false) => return,
                (true, true) => drop(self.remove(connection)),
                (false, _) => {}
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

    fn challenge(n: u8) -> Challenge {
        Challenge { client: [n; 8], server: [n + 1; 8] }
    }

    #[test]
    fn a_challenge_is_used_once() {
        let mut table = Challenges::default();
        let now = FileTime(1);
        table.insert(now, 1, HERE, "WEB1", challenge(1));
        assert_eq!(table.take(now, 1, HERE, "WEB1"), Some(challenge(1)));
        assert_eq!(table.take(now, 1, HERE, "WEB1"), None);
        table.insert(now, 1, HERE, "WEB1", challenge(1));
        assert_eq!(table.take(now, 1, HERE, "WEB2"), None, "another computer's");
        assert_eq!(table.take(now, 1, HERE, "WEB1"), None, "that look-up used it up");
    }

    #[test]
    fn another_connection_of_the_same_source_may_go_on() {
        let mut table = Challenges::default();
        let now = FileTime(1);
        table.insert(now, 1, HERE, "WEB1", challenge(1));
        assert_eq!(table.take(now, 2, THERE, "WEB1"), None, "not from elsewhere");
        assert_eq!(table.take(now, 2, HERE, "WEB1"), Some(challenge(1)));
    }

    #[test]
    fn whoever_asks_again_and_again_takes_nobody_s_room() {
        let mut table = Challenges::default();
        let now = FileTime(1);
        table.insert(now, 1, HERE, "WEB1", challenge(1));
        for _ in 0..2 * TOTAL_MAX {
            table.insert(now, 2, HERE, "WEB2", challenge(2));
        }
        assert!(table.order.len() < 100, "{}", table.order.len());
        table.insert(now, 3, THERE, "WEB3", challenge(3));
        assert_eq!(table.take(now, 3, THERE, "WEB3"), Some(challenge(3)));
        assert_eq!(table.take(now, 1, HERE, "WEB1"), Some(challenge(1)));
    }

    #[test]
    fn it_forgets_after_two_minutes_and_holds_so_many_of_each_source() {
        let mut table = Challenges::default();
        let now = FileTime(1);
        for connection in 0..PER_SOURCE_MAX as u64 {
            table.insert(now, connection, HERE, "WEB1", challenge(1));
        }
        table.insert(now, 5_000, THERE, "WEB1", challenge(3));
        table.insert(now, 5_001, HERE, "WEB1", challenge(1));
        assert_eq!(table.per_source[&HERE], PER_SOURCE_MAX, "the oldest of this source made room");
        assert!(!table.by_connection.contains_key(&0) && table.by_connection.contains_key(&1));
        assert_eq!(table.take(now, 5_000, THERE, "WEB1"), Some(challenge(3)), "another source's stays");
        table.insert(now, 7, HERE, "WEB1", challenge(2));
        assert!(table.by_connection.contains_key(&1), "in place of its own");
        let later = FileTime(now.0 + LIFETIME);
        assert_eq!(table.take(later, 7, HERE, "WEB1"), None);
        assert!(table.by_connection.is_empty() && table.by_name.is_empty() && table.order.is_empty());
        assert!(table.per_source.is_empty());
    }
}
