//! Making guesses slow without keeping out the machine that knows the secret.
//!
//! The server cannot tell a machine from an attacker behind the same address before it has checked the proof. So an attempt is
//! never refused for the failures of others: after some failures, attempts at an account from a source are checked one after
//! the other, in the order in which they came, with a pause after each wrong one. A guesser waits for itself most of the
//! time; a machine waits for its turn once, at most twice [`QUEUE_TIME`], and gets in.

use super::{Environment, lock};
use dcerpc::quota::{FairTable, Ticket};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Failures that cost nothing: a machine may get its new secret before or after the server does.
const FREE_FAILURES: u32 = 4;
/// The pause after a wrong proof while few attempts wait: two guesses a second.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long a queue takes, whatever its length: shorter than clients wait for an answer. The pause is this time divided by the
/// most attempts that waited lately, so a guesser on a thousand connections makes five hundred guesses a second.
const QUEUE_TIME: Duration = Duration::from_secs(2);
/// Attempts that may wait in one queue: as many connections as one address may have, each of which waits for one answer.
const WAITING_MAX: usize = 1_000;
/// Failures are forgotten when none was added for so long.
const MEMORY: Duration = Duration::from_secs(15 * 60);
/// Pairs of account and source, in all and of one source. Only accounts that exist are counted. A new pair always gets in; a
/// source that guesses at more accounts than this has its oldest pairs forgotten, which gives it [`FREE_FAILURES`] for each.
const ENTRIES_MAX: usize = 10_000;
const PER_SOURCE_MAX: usize = 1_000;

/// Failures by account and source. Times are monotonic.
pub(super) struct Backoff {
    entries: Mutex<Entries>,
}

struct Entries {
    table: FairTable<IpAddr, Entry>,
    by_account: HashMap<(String, IpAddr), Ticket>,
}

struct Entry {
    account: String,
    failures: u32,
    last: Duration,
    queue: Arc<Queue>,
}

impl Default for Backoff {
    fn default() -> Self {
        let table = FairTable::new(ENTRIES_MAX, PER_SOURCE_MAX);
        Self { entries: Mutex::new(Entries { table, by_account: HashMap::new() }) }
    }
}

impl Backoff {
    /// The queue in which an attempt waits for its turn; `None` while failures cost nothing.
    pub(super) fn queue(&self, now: Duration, account: &str, source: IpAddr) -> Option<Arc<Queue>> {
        let mut entries = lock(&self.entries);
        let entry = entries.get(now, account, source)?;
        (entry.failures > FREE_FAILURES).then(|| Arc::clone(&entry.queue))
    }

    /// Counts a wrong proof.
    pub(super) fn failed(&self, now: Duration, account: &str, source: IpAddr) {
        let mut entries = lock(&self.entries);
        match entries.get(now, account, source) {
            Some(entry) => {
                entry.failures = entry.failures.saturating_add(1);
                entry.last = now;
            }
            None => entries.add(now, account, source),
        }
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
        let entry = Entry { account: account.clone(), failures: 1, last: now, queue: Arc::default() };
        let (ticket, evicted) = self.table.insert(source, entry);
        if let Some((source, evicted)) = evicted {
            self.by_account.remove(&(evicted.account, source));
        }
        self.by_account.insert((account, source), ticket);
    }
}

/// Attempts at one account from one source, after too many failures.
#[derive(Default)]
pub(super) struct Queue {
    /// Held by the attempt whose turn it is. The lock is fair, so attempts take turns in the order in which they came, and an
    /// attempt whose client is gone leaves the queue.
    pace: tokio::sync::Mutex<Pace>,
    waiting: AtomicUsize,
}

#[derive(Default)]
struct Pace {
    /// When the next attempt may be checked.
    next: Duration,
    /// The most attempts that waited, until it is counted anew.
    most: u32,
    until: Duration,
}

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueFull;

impl Queue {
    /// Waits until an attempt may be checked.
    pub(super) async fn turn(&self, environment: &dyn Environment) -> Result<Turn<'_>, QueueFull> {
        let waiting = Waiting::take(&self.waiting)?;
        let pace = self.pace.lock().await;
        let pause = pace.next.saturating_sub(environment.uptime());
        if !pause.is_zero() {
            // The pause of a client that goes away now is the next one's: going away saves a guesser nothing.
            environment.pause(pause).await;
        }
        Ok(Turn { pace, waiting })
    }
}

/// Counts an attempt as waiting while it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn take(count: &'a AtomicUsize) -> Result<Self, QueueFull> {
        let waiting = Self(count);
        match count.fetch_add(1, Ordering::Relaxed) < WAITING_MAX {
            true => Ok(waiting),
            false => Err(QueueFull),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An attempt is being checked, and no other one of its queue.
pub(super) struct Turn<'a> {
    pace: tokio::sync::MutexGuard<'a, Pace>,
    waiting: Waiting<'a>,
}

impl Turn<'_> {
    /// The proof was wrong: the next attempt is checked after a pause.
    pub(super) fn failed(mut self, now: Duration) {
        let waiting = u32::try_from(self.waiting.0.load(Ordering::Relaxed)).unwrap_or(u32::MAX).max(1);
        let pace = &mut *self.pace;
        // A queue that drains must not get slower, and one that was long must not be fast for ever.
        if now >= pace.until {
            (pace.most, pace.until) = (waiting, now + 2 * QUEUE_TIME);
        }
        pace.most = pace.most.max(waiting);
        pace.next = now + PAUSE_MAX.min(QUEUE_TIME / pace.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Credential;
    use crate::secrets::BoxFuture;
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const SECOND: Duration = Duration::from_secs(1);

    /// A clock that pauses set forward.
    #[derive(Default)]
    struct World(Mutex<Duration>);

    impl Environment for World {
        fn uptime(&self) -> Duration {
            *lock(&self.0)
        }

        fn pause(&self, time: Duration) -> BoxFuture<'static, ()> {
            *lock(&self.0) += time;
            Box::pin(std::future::ready(()))
        }

        fn wait_until(&self, _: Duration) -> BoxFuture<'static, ()> {
            Box::pin(std::future::ready(()))
        }

        fn challenge(&self) -> Credential {
            [7; 8]
        }
    }

    fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    fn turn<'a>(queue: &'a Queue, world: &World) -> Turn<'a> {
        let mut turn = Box::pin(queue.turn(world));
        match poll(&mut turn) {
            Poll::Ready(Ok(turn)) => turn,
            _ => panic!("another attempt has the turn"),
        }
    }

    #[test]
    fn some_failures_cost_nothing_and_old_ones_are_forgotten() {
        let backoff = Backoff::default();
        for n in 0..=FREE_FAILURES {
            assert!(backoff.queue(SECOND, "WEB1$", HERE).is_none(), "{n}");
            backoff.failed(SECOND, "WEB1$", HERE);
        }
        assert!(backoff.queue(SECOND, "WEB1$", HERE).is_some());
        assert!(backoff.queue(SECOND, "WEB2$", HERE).is_none());
        assert!(backoff.queue(SECOND, "WEB1$", std::net::Ipv4Addr::new(127, 0, 0, 2).into()).is_none());
        assert!(backoff.queue(SECOND + MEMORY, "WEB1$", HERE).is_none());
        let entries = lock(&backoff.entries);
        assert!(entries.table.is_empty() && entries.by_account.is_empty());
    }

    #[test]
    fn one_guesser_makes_two_guesses_a_second() {
        let (queue, world) = (Queue::default(), World::default());
        for _ in 0..20 {
            turn(&queue, &world).failed(world.uptime());
        }
        assert_eq!(world.uptime(), 19 * PAUSE_MAX);
        drop(turn(&queue, &world));
        drop(turn(&queue, &world));
        assert_eq!(world.uptime(), 20 * PAUSE_MAX, "a right proof makes no pause");
    }

    #[test]
    fn a_machine_waits_for_a_flood_of_guesses_no_longer_than_the_queue_takes() {
        let (queue, world) = (Queue::default(), World::default());
        let first = turn(&queue, &world);
        let mut guesses: Vec<_> = (0..WAITING_MAX - 2).map(|_| Box::pin(queue.turn(&world))).collect();
        assert!(guesses.iter_mut().all(|guess| poll(guess).is_pending()));
        let mut machine = Box::pin(queue.turn(&world));
        assert!(poll(&mut machine).is_pending());
        assert!(matches!(poll(&mut Box::pin(queue.turn(&world))), Poll::Ready(Err(QueueFull))));
        first.failed(world.uptime());
        // Guessers that come again stand behind the machine.
        for (n, mut guess) in guesses.into_iter().enumerate() {
            assert!(poll(&mut machine).is_pending(), "each waits for those before it");
            match poll(&mut guess) {
                // Every third one hangs up instead of waiting, which saves it nothing.
                Poll::Ready(Ok(turn)) if n % 3 != 0 => turn.failed(world.uptime()),
                Poll::Ready(Ok(turn)) => drop(turn),
                _ => panic!("it is its turn"),
            }
        }
        assert!(matches!(poll(&mut machine), Poll::Ready(Ok(_))));
        assert!(world.uptime() <= 2 * QUEUE_TIME, "{:?}", world.uptime());
    }

    #[test]
    fn a_client_that_hangs_up_leaves_its_pause_to_the_next_attempt() {
        struct Stopped;
        impl Environment for Stopped {
            fn uptime(&self) -> Duration {
                Duration::ZERO
            }

            fn pause(&self, _: Duration) -> BoxFuture<'static, ()> {
                Box::pin(std::future::pending())
            }

            fn wait_until(&self, _: Duration) -> BoxFuture<'static, ()> {
                Box::pin(std::future::pending())
            }

            fn challenge(&self) -> Credential {
                [7; 8]
            }
        }
        let queue = Queue::default();
        turn(&queue, &World::default()).failed(SECOND);
        for _ in 0..3 {
            let mut guess = Box::pin(queue.turn(&Stopped));
            assert!(poll(&mut guess).is_pending());
        }
        assert_eq!(queue.waiting.load(Ordering::Relaxed), 0);
        let world = World::default();
        drop(turn(&queue, &world));
        assert_eq!(world.uptime(), SECOND + PAUSE_MAX);
    }

    #[test]
    fn a_full_table_still_counts_a_new_failure() {
        let backoff = Backoff::default();
        let source = |n: usize| IpAddr::V4((0x0a00_0000 + n as u32).into());
        for n in 0..=FREE_FAILURES {
            assert!(backoff.queue(SECOND, "WEB1$", HERE).is_none(), "{n}");
            backoff.failed(SECOND, "WEB1$", HERE);
        }
        for n in 0..2 * ENTRIES_MAX {
            backoff.failed(SECOND, &format!("WEB{n}$"), source(n / 500));
        }
        for _ in 0..=FREE_FAILURES {
            backoff.failed(SECOND, "WEB2$", HERE);
        }
        assert!(backoff.queue(SECOND, "WEB2$", HERE).is_some());
        assert!(backoff.queue(SECOND, "WEB1$", HERE).is_some(), "the flood evicts its own entries");
        let entries = lock(&backoff.entries);
        assert_eq!((entries.table.len(), entries.by_account.len()), (ENTRIES_MAX, ENTRIES_MAX));
    }
}
