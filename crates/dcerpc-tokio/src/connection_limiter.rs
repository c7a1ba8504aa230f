//! Permits for the connections of a listener: clients that have not proved who they are never shut out those
//! that have.
//!
//! ```text
//! admit ─► new ─advance─► started ─prove─► proved
//!           └──────────────prove────────────┘
//! ```
//!
//! A new connection always gets a permit. It counts for its source address until its client proves an
//! identity, and for that identity afterwards. Each stage has its own table with its own limits, so
//! connections that have done nothing do not shut out those that have begun a conversation. When a table is
//! full, the oldest connection of the address or identity with the most connections is evicted
//! ([`FairTable`]). The memory of connections that have proved nothing has one budget ([`WeightedTable`]).

use dcerpc::limits::source_of;
use dcerpc::quota::{FairTable, Ticket, WeightedTable};
use dcerpc::security::Account;
use dcerpc::server::CallConnection;
use dtyp::Sid;
use std::hash::Hash;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How long a listener waits after an error of `accept`, if a connection was evicted for the next one, and if
/// none was: trying at once changes nothing.
const EVICTED_PAUSE: Duration = Duration::from_millis(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many connections a listener has at once, in all at most `unproved_max + started_max + proved_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections whose clients have not proved who they are and have not begun a conversation.
    pub unproved_max: usize,
    /// Connections whose clients have not proved who they are and have begun one
    /// ([`ConnectionPermit::advance`]).
    pub started_max: usize,
    /// The same of one source address.
    pub unproved_per_address_max: usize,
    /// Connections whose clients have proved who they are.
    pub proved_max: usize,
    /// The same of one identity.
    pub proved_per_identity_max: usize,
}

/// Why connections are evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictionReason {
    /// Too many connections whose clients have proved nothing.
    Unproved,
    /// Too many of one source address.
    Address,
    /// Too many connections whose clients have proved who they are.
    Proved,
    /// Too many of one identity, such as an account.
    Account,
    /// Too much memory of connections whose clients have proved nothing.
    Memory,
}

impl EvictionReason {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Unproved, Self::Address, Self::Proved, Self::Account, Self::Memory];

    /// A stable name, for metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unproved => "unproved",
            Self::Address => "address",
            Self::Proved => "proved",
            Self::Account => "account",
            Self::Memory => "memory",
        }
    }
}

/// Counts the connections of a listener. `I` is the identity that clients prove, such as a machine account's
/// SID.
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
    /// By [`EvictionReason`].
    evicted: [AtomicU64; EvictionReason::ALL.len()],
}

#[derive(Debug)]
struct Tables<I> {
    new: FairTable<IpAddr, Arc<Notify>>,
    started: FairTable<IpAddr, Arc<Notify>>,
    proved: FairTable<I, Arc<Notify>>,
    memory: WeightedTable<IpAddr, Arc<Notify>>,
}

/// The permit of one connection, given back when it is dropped.
#[derive(Debug)]
pub struct ConnectionPermit<I: Clone + Eq + Hash> {
    shared: Arc<Shared<I>>,
    source: IpAddr,
    entry: Mutex<Entry>,
    evicted: Arc<Notify>,
    /// Whether the call in flight is performed to its end.
    ignores_cancel: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    stage: Stage,
    ticket: Ticket,
    memory: Option<Ticket>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    New,
    Started,
    Proved,
}

impl<I: Clone + Eq + Hash> ConnectionLimiter<I> {
    /// A limiter without connections, and without a budget of memory.
    pub fn new(limits: ConnectionLimits) -> Self {
        Self::with_memory(limits, usize::MAX)
    }

    /// A limiter without connections. The clients that have proved nothing hold at most so many bytes
    /// together.
    pub fn with_memory(limits: ConnectionLimits, unproved_bytes_max: usize) -> Self {
        let tables = Tables {
            new: FairTable::new(limits.unproved_max, limits.unproved_per_address_max),
            started: FairTable::new(limits.started_max, limits.unproved_per_address_max),
            proved: FairTable::new(limits.proved_max, limits.proved_per_identity_max),
            memory: WeightedTable::new(unproved_bytes_max),
        };
        Self { shared: Arc::new(Shared { tables: Mutex::new(tables), evicted: Default::default() }) }
    }

    /// A permit for a new connection; another connection may be evicted for it. IPv6 addresses count by /64.
    pub fn admit(&self, address: IpAddr) -> ConnectionPermit<I> {
        let (source, evicted) = (source_of(address), Arc::new(Notify::new()));
        let mut tables = self.shared.lock();
        let reasons = (EvictionReason::Unproved, EvictionReason::Address);
        let ticket = self.shared.insert(&mut tables.new, source, &evicted, reasons);
        drop(tables);
        let entry = Mutex::new(Entry { stage: Stage::New, ticket, memory: None });
        let shared = Arc::clone(&self.shared);
        ConnectionPermit { shared, source, entry, evicted, ignores_cancel: AtomicBool::new(false) }
    }

    /// How long a listener waits after accepting failed. The process may have no file descriptor left: then
    /// an unproved connection is evicted, as [`ConnectionLimiter::admit`] does in a full table, and the next
    /// connection is accepted when it has closed. Without a pause the listener would take a whole core. A
    /// connection that its client gave up before it was accepted costs no pause.
    pub fn not_accepted(&self, error: &io::Error) -> Duration {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            return Duration::ZERO;
        }
        let mut tables = self.shared.lock();
        let other = tables.new.evict().or_else(|| tables.started.evict());
        drop(tables);
        let pause = if other.is_some() { EVICTED_PAUSE } else { ACCEPT_PAUSE };
        self.shared.evict(other.map(|(_, other)| other), EvictionReason::Unproved);
        pause
    }

    /// Connections now: those that have proved nothing, and those that have.
    pub fn open(&self) -> (usize, usize) {
        let tables = self.shared.lock();
        (tables.new.len() + tables.started.len(), tables.proved.len())
    }

    /// Bytes that connections hold whose clients have proved nothing.
    pub fn unproved_bytes(&self) -> usize {
        self.shared.lock().memory.used()
    }

    /// Connections evicted so far: those that had proved nothing, and those that had.
    pub fn evictions(&self) -> (u64, u64) {
        use EvictionReason::{Account, Address, Memory, Proved, Unproved};
        let sum = |reasons: &[EvictionReason]| reasons.iter().map(|reason| self.evictions_for(*reason)).sum();
        (sum(&[Unproved, Address, Memory]), sum(&[Proved, Account]))
    }

    /// Connections evicted so far for one reason.
    pub fn evictions_for(&self, reason: EvictionReason) -> u64 {
        self.shared.evicted[reason as usize].load(Ordering::Relaxed)
    }
}

impl<I> Shared<I> {
    fn lock(&self) -> MutexGuard<'_, Tables<I>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection to a table and evicts what has to make room. The reasons are that of a full table,
    /// and that of a holder at its own limit.
    fn insert<K: Clone + Eq + Hash>(
        &self,
        table: &mut FairTable<K, Arc<Notify>>,
        holder: K,
        connection: &Arc<Notify>,
        (full, own): (EvictionReason, EvictionReason),
    ) -> Ticket {
        let reason = if table.is_at_its_limit(&holder) { own } else { full };
        let (ticket, other) = table.insert(holder, Arc::clone(connection));
        self.evict(other.into_iter().map(|(_, other)| other), reason);
        ticket
    }

    fn evict(&self, others: impl IntoIterator<Item = Arc<Notify>>, reason: EvictionReason) {
        for other in others {
            self.evicted[reason as usize].fetch_add(1, Ordering::Relaxed);
            other.notify_one();
        }
    }
}

impl<I: Clone + Eq + Hash> ConnectionPermit<I> {
    /// Waits until the connection has to make room for another one. One task waits at a time.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Counts the connection among those that have begun a conversation: new connections that do nothing do
    /// not evict it any more. Later calls change nothing, and neither does a call after the eviction.
    pub fn advance(&self) {
        let mut entry = self.entry();
        if entry.stage != Stage::New {
            return;
        }
        let mut tables = self.shared.lock();
        if tables.new.remove(entry.ticket).is_some() {
            let reasons = (EvictionReason::Unproved, EvictionReason::Address);
            entry.ticket = self.shared.insert(&mut tables.started, self.source, &self.evicted, reasons);
            entry.stage = Stage::Started;
        }
    }

    /// Counts the connection for an identity from now on, and its memory no more. Later calls change nothing,
    /// and neither does a call after the eviction.
    pub fn prove(&self, identity: I) {
        let mut entry = self.entry();
        let mut tables = self.shared.lock();
        let known = match entry.stage {
            Stage::New => tables.new.remove(entry.ticket),
            Stage::Started => tables.started.remove(entry.ticket),
            Stage::Proved => return,
        };
        if known.is_some() {
            if let Some(memory) = entry.memory.take() {
                tables.memory.remove(memory);
            }
            let reasons = (EvictionReason::Proved, EvictionReason::Account);
            entry.ticket = self.shared.insert(&mut tables.proved, identity, &self.evicted, reasons);
            entry.stage = Stage::Proved;
        }
    }

    /// Says how many bytes the connection holds. Of connections that have proved nothing, those are evicted
    /// that hold the most, when all of them together hold too much; this one, perhaps.
    pub fn hold(&self, bytes: usize) {
        let mut entry = self.entry();
        if entry.stage == Stage::Proved {
            return;
        }
        let mut tables = self.shared.lock();
        let evicted = match entry.memory {
            Some(memory) => tables.memory.set(memory, bytes),
            None if bytes == 0 => return,
            None => {
                let (ticket, evicted) = tables.memory.insert(self.source, bytes, Arc::clone(&self.evicted));
                entry.memory = Some(ticket);
                evicted
            }
        };
        self.shared.evict(evicted.into_iter().map(|(_, other)| other), EvictionReason::Memory);
    }

    /// A call begins, which its client may cancel.
    pub(crate) fn begin_call(&self) {
        self.ignores_cancel.store(false, Ordering::Relaxed);
    }

    /// Whether the call in flight is performed to its end.
    pub(crate) fn ignores_cancel(&self) -> bool {
        self.ignores_cancel.load(Ordering::Relaxed)
    }

    /// Whether the client has proved who it is.
    pub fn is_proved(&self) -> bool {
        self.entry().stage == Stage::Proved
    }

    fn entry(&self) -> MutexGuard<'_, Entry> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallConnection for ConnectionPermit<Account> {
    fn prove(&self, account: Sid) {
        Self::prove(self, account.into());
    }

    fn ignore_cancel(&self) {
        self.ignores_cancel.store(true, Ordering::Relaxed);
    }
}

impl<I: Clone + Eq + Hash> Drop for ConnectionPermit<I> {
    fn drop(&mut self) {
        let Entry { stage, ticket, memory } = *self.entry();
        let mut tables = self.shared.lock();
        match stage {
            Stage::New => drop(tables.new.remove(ticket)),
            Stage::Started => drop(tables.started.remove(ticket)),
            Stage::Proved => drop(tables.proved.remove(ticket)),
        }
        if let Some(memory) = memory {
            tables.memory.remove(memory);
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
            started_max: 4,
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
        let given_up = io::Error::from(io::ErrorKind::ConnectionAborted);
        assert_eq!(limiter.not_accepted(&given_up), Duration::ZERO);
        // EMFILE on Linux.
        let no_descriptor = io::Error::from_raw_os_error(24);
        assert_eq!(limiter.not_accepted(&no_descriptor), EVICTED_PAUSE);
        assert_eq!(limiter.not_accepted(&no_descriptor), ACCEPT_PAUSE);
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

    #[test]
    fn connections_that_do_nothing_do_not_evict_those_that_have_begun() {
        let limiter = limiter();
        let begun = limiter.admit(address(1));
        begun.advance();
        begun.advance();
        let silent: Vec<_> = (10..200).map(|n| limiter.admit(address(n))).collect();
        assert!(!is_evicted(&begun));
        assert!(is_evicted(&silent[0]));
        silent[0].advance();
        assert_eq!(limiter.open(), (5, 0), "four new ones, and the one that has begun");
        // Of those that have begun, one of another stage is no better.
        let others: Vec<_> = (1..=4)
            .map(|n| {
                let other = limiter.admit(address(n));
                other.advance();
                other
            })
            .collect();
        assert!(is_evicted(&begun) && !others.iter().any(is_evicted));
        begun.prove("WEB1$");
        others[0].prove("WEB2$");
        assert_eq!(limiter.open().1, 1);
    }

    #[test]
    fn memory_of_clients_that_have_proved_nothing_has_one_budget() {
        let limits = ConnectionLimits {
            unproved_max: 100,
            started_max: 100,
            unproved_per_address_max: 100,
            proved_max: 100,
            proved_per_identity_max: 100,
        };
        let limiter: ConnectionLimiter<&'static str> = ConnectionLimiter::with_memory(limits, 1000);
        let honest = limiter.admit(address(1));
        honest.hold(100);
        let flood: Vec<_> = (0..20)
            .map(|_| {
                let permit = limiter.admit(address(2));
                permit.hold(100);
                permit
            })
            .collect();
        assert!(!is_evicted(&honest));
        assert!(flood[..11].iter().all(is_evicted) && !flood[11..].iter().any(is_evicted), "the oldest go");
        assert_eq!((limiter.unproved_bytes(), limiter.evictions_for(EvictionReason::Memory)), (1000, 11));
        honest.prove("WEB1$");
        honest.hold(5000);
        assert_eq!(limiter.unproved_bytes(), 900, "what a proved client holds is no part of it");
        flood[0].hold(5000);
        assert_eq!(limiter.unproved_bytes(), 900, "nothing is charged after the eviction");
        drop(flood);
        assert_eq!(limiter.unproved_bytes(), 0);
    }
}
