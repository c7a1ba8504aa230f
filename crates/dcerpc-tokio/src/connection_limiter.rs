//! Permits for the connections of a listener: clients that have not proved who they are never shut out those that have.
//!
//! A new connection always gets a permit. It counts for its source address until its client proves an identity, and for
//! that identity afterwards. Each of the two tables has its own limit. When a table is full, the oldest connection of the
//! address or identity with the most connections is evicted ([`FairTable`]).

use dcerpc::limits::source_of;
use dcerpc::quota::{FairTable, Ticket};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// How many connections a listener has at once, in all at most `unproved_max + proved_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections whose clients have not proved who they are.
    pub unproved_max: usize,
    /// The same of one source address.
    pub unproved_per_address_max: usize,
    /// Connections whose clients have proved who they are.
    pub proved_max: usize,
    /// The same of one identity.
    pub proved_per_identity_max: usize,
}

/// Counts the connections of a listener. `I` is the identity that clients prove, such as a machine account's SID.
#[derive(Debug)]
pub struct ConnectionLimiter<I> {
    shared: Arc<Shared<I>>,
}

impl<I> Clone for ConnectionLimiter<I> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

#[derive(Debug)]
struct Shared<I> {
    tables: Mutex<Tables<I>>,
    evicted_unproved: AtomicU64,
    evicted_proved: AtomicU64,
}

#[derive(Debug)]
struct Tables<I> {
    unproved: FairTable<IpAddr, Arc<Notify>>,
    proved: FairTable<I, Arc<Notify>>,
}

/// The permit of one connection, given back when it is dropped.
#[derive(Debug)]
pub struct ConnectionPermit<I: Clone + Eq + Hash> {
    shared: Arc<Shared<I>>,
    entry: Mutex<Entry>,
    evicted: Arc<Notify>,
}

#[derive(Clone, Copy, Debug)]
enum Entry {
    Unproved(Ticket),
    Proved(Ticket),
}

impl<I: Clone + Eq + Hash> ConnectionLimiter<I> {
    /// A limiter without connections.
    pub fn new(limits: ConnectionLimits) -> Self {
        let tables = Tables {
            unproved: FairTable::new(limits.unproved_max, limits.unproved_per_address_max),
            proved: FairTable::new(limits.proved_max, limits.proved_per_identity_max),
        };
        let shared = Shared {
            tables: Mutex::new(tables),
            evicted_unproved: AtomicU64::new(0),
            evicted_proved: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A permit for a new connection; another connection may be evicted for it. IPv6 addresses count by /64.
    pub fn admit(&self, address: IpAddr) -> ConnectionPermit<I> {
        let evicted = Arc::new(Notify::new());
        let ticket = {
            let mut tables = self.shared.lock();
            let (ticket, other) = tables.unproved.insert(source_of(address), Arc::clone(&evicted));
            self.shared.evict(other.map(|(_, other)| other), &self.shared.evicted_unproved);
            ticket
        };
        let entry = Mutex::new(Entry::Unproved(ticket));
        ConnectionPermit { shared: Arc::clone(&self.shared), entry, evicted }
    }

    /// Evicts an unproved connection, as [`ConnectionLimiter::admit`] does in a full table: for a listener that cannot accept because the
    /// process has no file descriptor left. False if there is none.
    pub fn make_room(&self) -> bool {
        let other = self.shared.lock().unproved.evict();
        let is_evicted = other.is_some();
        self.shared.evict(other.map(|(_, other)| other), &self.shared.evicted_unproved);
        is_evicted
    }

    /// Connections now: those that have proved nothing, and those that have.
    pub fn open(&self) -> (usize, usize) {
        let tables = self.shared.lock();
        (tables.unproved.len(), tables.proved.len())
    }

    /// Connections evicted so far: those that had proved nothing, and those that had.
    pub fn evictions(&self) -> (u64, u64) {
        let Shared { evicted_unproved, evicted_proved, .. } = &*self.shared;
        (evicted_unproved.load(Ordering::Relaxed), evicted_proved.load(Ordering::Relaxed))
    }
}

impl<I> Shared<I> {
    fn lock(&self) -> MutexGuard<'_, Tables<I>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn evict(&self, other: Option<Arc<Notify>>, counter: &AtomicU64) {
        if let Some(other) = other {
            counter.fetch_add(1, Ordering::Relaxed);
            other.notify_one();
        }
    }
}

impl<I: Clone + Eq + Hash> ConnectionPermit<I> {
    /// Waits until the connection has to make room for another one. One task waits at a time.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Counts the connection for an identity from now on. Later calls change nothing, and neither does a call after the
    /// eviction.
    pub fn prove(&self, identity: I) {
        let mut entry = self.entry.lock().unwrap_or_else(PoisonError::into_inner);
        let Entry::Unproved(ticket) = *entry else { return };
        let mut tables = self.shared.lock();
        if tables.unproved.remove(ticket).is_some() {
            let (ticket, other) = tables.proved.insert(identity, Arc::clone(&self.evicted));
            self.shared.evict(other.map(|(_, other)| other), &self.shared.evicted_proved);
            *entry = Entry::Proved(ticket);
        }
    }

    /// Whether the client has proved who it is.
    pub fn is_proved(&self) -> bool {
        matches!(*self.entry.lock().unwrap_or_else(PoisonError::into_inner), Entry::Proved(_))
    }
}

impl<I: Clone + Eq + Hash> Drop for ConnectionPermit<I> {
    fn drop(&mut self) {
        let entry = self.entry.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut tables = self.shared.lock();
        match *entry {
            Entry::Unproved(ticket) => drop(tables.unproved.remove(ticket)),
            Entry::Proved(ticket) => drop(tables.proved.remove(ticket)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    fn limiter() -> ConnectionLimiter<&'static str> {
        ConnectionLimiter::new(ConnectionLimits {
            unproved_max: 4,
            unproved_per_address_max: 2,
            proved_max: 3,
            proved_per_identity_max: 2,
        })
    }

    fn address(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    fn is_evicted(permit: &ConnectionPermit<&'static str>) -> bool {
        pin!(permit.evicted()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn silent_connections_do_not_shut_out_a_client_that_proves_itself() {
        let limiter = limiter();
        let proved = limiter.admit(address(1));
        proved.prove("WEB1$");
        let flood: Vec<_> = (0..100).map(|n| limiter.admit(address(n))).collect();
        assert_eq!(limiter.open(), (4, 1));
        assert!(!is_evicted(&proved));
        assert!(flood[..96].iter().all(is_evicted));
        let late = limiter.admit(address(200));
        assert!(!is_evicted(&late) && is_evicted(&flood[96]), "the oldest makes room");
        late.prove("WEB2$");
        assert_eq!(limiter.open(), (3, 2));
        assert_eq!(limiter.evictions(), (97, 0));
    }

    #[test]
    fn one_address_or_identity_evicts_itself() {
        let limiter = limiter();
        let mapped = "::ffff:192.0.2.1".parse().expect("an address");
        let same: Vec<_> = (0..3).map(|n| limiter.admit(if n == 1 { mapped } else { address(1) })).collect();
        assert_eq!(same.iter().map(is_evicted).collect::<Vec<_>>(), [true, false, false]);
        let other = limiter.admit(address(2));
        other.prove("WEB2$");
        let machine: Vec<_> = (3..6).map(|n| limiter.admit(address(n))).collect();
        machine.iter().for_each(|permit| permit.prove("WEB1$"));
        assert_eq!(machine.iter().map(is_evicted).collect::<Vec<_>>(), [true, false, false]);
        let third = limiter.admit(address(7));
        third.prove("WEB3$");
        assert!(is_evicted(&machine[1]) && !is_evicted(&other) && !is_evicted(&third));
    }

    #[test]
    fn room_is_made_by_unproved_connections_only() {
        let limiter = limiter();
        let proved = limiter.admit(address(1));
        proved.prove("WEB1$");
        let unproved = limiter.admit(address(1));
        assert!(limiter.make_room() && !limiter.make_room());
        assert!(is_evicted(&unproved) && !is_evicted(&proved));
        assert_eq!((limiter.open(), limiter.evictions()), ((0, 1), (1, 0)));
    }

    #[test]
    fn an_evicted_connection_proves_nothing_and_gives_nothing_back_twice() {
        let limiter = limiter();
        let first = limiter.admit(address(1));
        let _others: Vec<_> = (1..=2).map(|_| limiter.admit(address(1))).collect();
        first.prove("WEB1$");
        assert!(!first.is_proved());
        assert_eq!(limiter.open(), (2, 0));
        drop(first);
        assert_eq!(limiter.open(), (2, 0));
    }
}
