//! A cache in front of a store that is elsewhere, such as a directory or a database server.
//!
//! A reader may rely on this:
//!
//! - An answer counts while the revision of the store is the one it was read at, and for
//!   [`CacheSettings::ttl`] at most. A store without a revision returns the one that it was made with; then
//!   the time to live alone counts.
//! - An error is never cached. While the store cannot answer, an older answer is given only if
//!   [`CacheSettings::stale_if_error`] says so. It says how old it is ([`Account::stale_s`](crate::Account)), and
//!   the revision is another one meanwhile.
//! - Questions that are equal are asked once at a time. A client that leaves takes the question of no other
//!   one with it. A question that began before a change answers none that came after it.
//! - Absences have a budget of their own: a peer that asks for names at random replaces no account.

use crate::store::{AccountStore, BoxFuture, Domain, Matches, Query, Record, Revision, StoreError};
use futures_util::FutureExt;
use futures_util::future::{Shared, WeakShared};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How a cache keeps answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// Memory for answers, in bytes, about as they are counted.
    pub bytes: u64,
    /// For how long an answer counts, whatever the revision says.
    pub ttl: Duration,
    /// For how long after that an answer is given if the store cannot answer. 0 is never.
    pub stale_if_error: Duration,
}

/// The part of the memory in which absences are kept.
const ABSENT_PART: u64 = 8;
/// With so many flights, those whose callers are gone are removed.
const FLIGHTS_PRUNED: usize = 1024;
/// The bytes of an answer that caches reckon with when they are made.
const ANSWER_LEN: u64 = 1024;

/// What a cache counts about itself.
#[derive(Debug, Default)]
pub struct CacheCounters {
    /// Questions that were answered from the cache.
    pub hits: AtomicU64,
    /// Those of them whose answer was an absence.
    pub absent_hits: AtomicU64,
    /// Questions that the store was asked.
    pub misses: AtomicU64,
    /// Questions that shared the answer of an equal one.
    pub joined: AtomicU64,
    /// Answers that were given although the store could not answer.
    pub stale: AtomicU64,
}

/// A store with a cache in front of it.
pub struct CachedStore(Arc<Inner>);

type Answer = Result<Matches, StoreError>;

struct Inner {
    store: Arc<dyn AccountStore>,
    settings: CacheSettings,
    found: Cache<Query, Entry, WeighEntry>,
    absent: Cache<Query, Entry, WeighEntry>,
    flights: Mutex<HashMap<Query, Flight>>,
    /// For answers beyond their time.
    seen: Mutex<Option<Seen>>,
    counters: Arc<CacheCounters>,
    now: Box<dyn Fn() -> Instant + Send + Sync>,
}

/// When the store had a revision last.
struct Seen {
    at: Instant,
    /// The revision while the store has none: what was decided before is decided again from answers that are
    /// marked as stale, and what is decided now does not count afterwards.
    meanwhile: Option<Revision>,
}

#[derive(Clone)]
struct Entry {
    revision: Option<Revision>,
    read: Instant,
    matches: Matches,
    /// Whether it stood in for an answer of a store that could not be asked.
    is_stale: Arc<AtomicBool>,
}

/// A question that the store is being asked.
struct Flight {
    /// The revision at which it was begun.
    begun: Option<Revision>,
    number: u64,
    answer: WeakShared<BoxFuture<'static, Answer>>,
}

impl CachedStore {
    /// A cache in front of `store`.
    pub fn new(store: Arc<dyn AccountStore>, settings: CacheSettings) -> Self {
        Self::with_clock(store, settings, Instant::now)
    }

    /// The same with a clock of its own.
    pub fn with_clock(
        store: Arc<dyn AccountStore>,
        settings: CacheSettings,
        now: impl Fn() -> Instant + Send + Sync + 'static,
    ) -> Self {
        let cache = |bytes: u64| {
            let items = usize::try_from(bytes / ANSWER_LEN).unwrap_or(usize::MAX);
            Cache::with_weighter(items.clamp(16, 1 << 20), bytes, WeighEntry)
        };
        let absent = settings.bytes / ABSENT_PART;
        Self(Arc::new(Inner {
            found: cache(settings.bytes - absent),
            absent: cache(absent),
            store,
            settings,
            flights: Mutex::default(),
            seen: Mutex::default(),
            counters: Arc::default(),
            now: Box::new(now),
        }))
    }

    /// What the cache counts about itself.
    pub fn counters(&self) -> Arc<CacheCounters> {
        Arc::clone(&self.0.counters)
    }

    /// The memory of the answers, in bytes, about as they are counted.
    pub fn bytes(&self) -> u64 {
        self.0.found.weight() + self.0.absent.weight()
    }
}

impl AccountStore for CachedStore {
    fn domain(&self) -> &Domain {
        self.0.store.domain()
    }

    fn find<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Answer> {
        let inner = &self.0;
        let revision = inner.store.revision().ok();
        match inner.cached(query, revision) {
            Some(matches) => Box::pin(std::future::ready(Ok(matches))),
            None => Box::pin(Inner::ask(inner, query, revision)),
        }
    }

    fn stale_s(&self, query: &Query) -> Option<u64> {
        let entry = self.0.entry(query).filter(|entry| entry.is_stale.load(Ordering::Relaxed))?;
        Some(((self.0.now)() - entry.read).as_secs())
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        let inner = &self.0;
        let revision = inner.store.revision();
        if inner.settings.stale_if_error.is_zero() {
            return revision;
        }
        let (mut seen, now) = (lock(&inner.seen), (inner.now)());
        match revision {
            Ok(revision) => {
                *seen = Some(Seen { at: now, meanwhile: None });
                Ok(revision)
            }
            Err(error) => match &mut *seen {
                Some(seen) if now - seen.at <= inner.settings.stale_if_error => {
                    Ok(*seen.meanwhile.get_or_insert_with(Revision::unique))
                }
                _ => Err(error),
            },
        }
    }

    fn refresh(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        let inner = &self.0;
        match inner.settings.stale_if_error.is_zero() {
            true => inner.store.refresh(),
            // An older answer may be given: `revision` says for how long.
            false => Box::pin(async { inner.store.refresh().await.or(Ok(())) }),
        }
    }
}

/// What a poisoned lock holds is whole: nothing panics between two changes of it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Whether nothing was changed between two looks at a store; if it was not to be asked, it cannot be said.
fn is_unbroken(before: Option<Revision>, after: Option<Revision>) -> bool {
    before.zip(after).is_some_and(|(before, after)| before == after && after.is_unbroken_since(&before))
}

impl Inner {
    fn entry(&self, query: &Query) -> Option<Entry> {
        self.found.get(query).or_else(|| self.absent.get(query))
    }

    /// An answer that counts at this revision.
    fn cached(&self, query: &Query, revision: Option<Revision>) -> Option<Matches> {
        let entry = self.entry(query)?;
        let is_fresh = || (self.now)() - entry.read < self.settings.ttl;
        if !is_unbroken(entry.revision, revision) || !is_fresh() {
            return None;
        }
        entry.is_stale.store(false, Ordering::Relaxed);
        count(&self.counters.hits);
        if entry.matches == Matches::None {
            count(&self.counters.absent_hits);
        }
        Some(entry.matches)
    }

    async fn ask(this: &Arc<Self>, query: &Query, revision: Option<Revision>) -> Answer {
        let (number, flight) = Self::join(this, query, revision);
        let answer = flight.await;
        let mut flights = lock(&this.flights);
        if flights.get(query).is_some_and(|flight| flight.number == number) {
            flights.remove(query);
        }
        drop(flights);
        match answer {
            // The store was not reached. What it answered otherwise, such as damaged data, counts.
            Err(error @ StoreError::Unavailable(_)) => this.stale(query).ok_or(error),
            answer => answer,
        }
    }

    /// The flight of an equal question that began at the same revision, or a new one.
    fn join(
        this: &Arc<Self>,
        query: &Query,
        revision: Option<Revision>,
    ) -> (u64, Shared<BoxFuture<'static, Answer>>) {
        let mut flights = lock(&this.flights);
        if let Some(flight) = flights.get(query)
            && is_unbroken(flight.begun, revision)
            && let Some(answer) = flight.answer.upgrade()
        {
            count(&this.counters.joined);
            return (flight.number, answer);
        }
        count(&this.counters.misses);
        let number = this.counters.misses.load(Ordering::Relaxed);
        let read: BoxFuture<'static, Answer> = Box::pin(Self::read(Arc::clone(this), query.clone()));
        let answer = read.shared();
        if flights.len() >= FLIGHTS_PRUNED {
            flights.retain(|_, flight| flight.answer.upgrade().is_some());
        }
        if let Some(weak) = answer.downgrade() {
            flights.insert(query.clone(), Flight { begun: revision, number, answer: weak });
        }
        (number, answer)
    }

    /// Asks the store, and keeps the answer if nothing was changed meanwhile.
    async fn read(self: Arc<Self>, query: Query) -> Answer {
        let (before, read) = (self.store.revision().ok(), (self.now)());
        let matches = self.store.find(&query).await?;
        if is_unbroken(before, self.store.revision().ok()) {
            let entry = Entry { revision: before, read, matches: matches.clone(), is_stale: Arc::default() };
            match matches {
                Matches::None => {
                    self.found.remove(&query);
                    self.absent.insert(query, entry);
                }
                _ => {
                    self.absent.remove(&query);
                    self.found.insert(query, entry);
                }
            }
        }
        Ok(matches)
    }

    /// An answer that may be given while the store cannot answer.
    fn stale(&self, query: &Query) -> Option<Matches> {
        let CacheSettings { ttl, stale_if_error, .. } = self.settings;
        if stale_if_error.is_zero() {
            return None;
        }
        let entry = self.entry(query)?;
        let age = (self.now)() - entry.read;
        if age > ttl + stale_if_error {
            return None;
        }
        count(&self.counters.stale);
        entry.is_stale.store(true, Ordering::Relaxed);
        Some(match entry.matches {
            Matches::One(record) => {
                let mut record = Record::clone(&record);
                record.account.stale_s = Some(age.as_secs());
                Matches::One(Arc::new(record))
            }
            none_or_many => none_or_many,
        })
    }
}

/// What an entry weighs: about its bytes in memory.
#[derive(Clone)]
struct WeighEntry;

impl Weighter<Query, Entry> for WeighEntry {
    fn weight(&self, query: &Query, entry: &Entry) -> u64 {
        weight(query, &entry.matches)
    }
}

/// What an answer weighs, with its question: about its bytes in memory.
pub fn weight(query: &Query, matches: &Matches) -> u64 {
    let key = match query {
        Query::UserPrincipalName(text)
        | Query::ServicePrincipalName(text)
        | Query::AltSecurityIdentity(text)
        | Query::Mail(text)
        | Query::Name(text) => text.len(),
        Query::Sid(_) => 0,
    };
    let value = match matches {
        Matches::None => 0,
        Matches::One(record) => {
            let account = &record.account;
            let names = account.service_principal_names.iter().chain(&account.alt_security_identities);
            512 + names.map(|text| 24 + text.len()).sum::<usize>()
                + (account.extra_sids.len() + record.memberships.len()) * 128
                + account.profile.full_name.len()
                + account.profile.mail.len()
        }
        Matches::Many(names) => names.iter().map(|name| 24 + name.len()).sum(),
    };
    (256 + key + value) as u64
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use super::*;
    use crate::battery::{add, apply, domain, now, one, user};
    use crate::{Account, AccountAdmin, Change, MemoryStore, Put};
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::AtomicBool;
    use std::task::{Context, Poll, Waker};

    /// A store that counts, fails and waits as it is told.
    struct Stub {
        store: MemoryStore,
        asked: AtomicU64,
        fails: AtomicBool,
        waits: AtomicBool,
    }

    impl AccountStore for Stub {
        fn domain(&self) -> &Domain {
            self.store.domain()
        }

        fn find<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Answer> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                // As of the moment at which the question began.
                let answer = self.store.find(query).await;
                poll_fn(|_| match self.waits.load(Ordering::SeqCst) {
                    true => Poll::Pending,
                    false => Poll::Ready(()),
                })
                .await;
                match self.fails.load(Ordering::SeqCst) {
                    true => Err(StoreError::Unavailable("it is down".to_owned())),
                    false => answer,
                }
            })
        }

        fn revision(&self) -> Result<Revision, StoreError> {
            match self.fails.load(Ordering::SeqCst) {
                true => Err(StoreError::Unavailable("it is down".to_owned())),
                false => self.store.revision(),
            }
        }
    }

    const SETTINGS: CacheSettings =
        CacheSettings { bytes: 1 << 20, ttl: Duration::from_secs(60), stale_if_error: Duration::ZERO };

    /// A cache, its store, and the seconds that its clock shows.
    fn cached(settings: CacheSettings) -> (CachedStore, Arc<Stub>, Arc<AtomicU64>) {
        let store = MemoryStore::new(domain());
        apply(&store, [add(user(1000)), add(user(1001))]);
        let (asked, fails, waits) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
        let stub = Arc::new(Stub { store, asked, fails, waits });
        let (seconds, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let clock = Arc::clone(&seconds);
        let now = move || start + Duration::from_secs(clock.load(Ordering::SeqCst));
        (CachedStore::with_clock(Arc::clone(&stub) as _, settings, now), stub, seconds)
    }

    fn name(text: &str) -> Query {
        Query::Name(text.to_owned())
    }

    fn asked(stub: &Stub) -> u64 {
        stub.asked.load(Ordering::SeqCst)
    }

    fn poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Poll<T> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn equal_questions_are_asked_once_until_something_changes() {
        let (cache, stub, _) = cached(SETTINGS);
        for _ in 0..3 {
            assert_eq!(one(&cache, name("user1000")).account, user(1000));
            assert_eq!(now(cache.find(&name("nobody"))).expect("it answers"), Matches::None);
        }
        assert_eq!(asked(&stub), 2);
        apply(&stub.store, [add(Account { name: "nobody".to_owned(), ..user(1002) })]);
        assert!(matches!(now(cache.find(&name("nobody"))), Ok(Matches::One(_))), "an absence ends with it");
        assert_eq!(asked(&stub), 3);
    }

    #[test]
    fn answers_end_with_their_time_to_live() {
        let (cache, stub, seconds) = cached(SETTINGS);
        one(&cache, name("user1000"));
        seconds.store(59, Ordering::SeqCst);
        one(&cache, name("user1000"));
        assert_eq!(asked(&stub), 1);
        seconds.store(60, Ordering::SeqCst);
        one(&cache, name("user1000"));
        assert_eq!(asked(&stub), 2);
    }

    #[test]
    fn an_error_is_an_error_unless_older_answers_are_allowed() {
        let fail = |settings| {
            let (cache, stub, seconds) = cached(settings);
            one(&cache, name("user1000"));
            cache.revision().expect("it answers");
            stub.fails.store(true, Ordering::SeqCst);
            let answers = [1, 300, 400].map(|at| {
                seconds.store(at, Ordering::SeqCst);
                (now(cache.find(&name("user1000"))).is_ok(), cache.revision().is_ok())
            });
            assert!(now(cache.find(&name("user1001"))).is_err(), "it was never read");
            stub.fails.store(false, Ordering::SeqCst);
            one(&cache, name("user1001"));
            (answers, cache.counters().stale.load(Ordering::Relaxed))
        };
        assert_eq!(fail(SETTINGS), ([(false, false); 3], 0));
        let stale_if_error = Duration::from_secs(300);
        let answers = [(true, true), (true, true), (false, false)];
        assert_eq!(fail(CacheSettings { stale_if_error, ..SETTINGS }), (answers, 2));
    }

    #[test]
    fn an_older_answer_without_an_account_says_how_old_it_is_until_the_store_answers() {
        let stale_if_error = Duration::from_secs(300);
        let (cache, stub, seconds) = cached(CacheSettings { stale_if_error, ..SETTINGS });
        let absent = || now(cache.find(&name("nobody"))).expect("it answers") == Matches::None;
        cache.revision().expect("it answers");
        assert!(absent() && cache.stale_s(&name("nobody")).is_none());
        stub.fails.store(true, Ordering::SeqCst);
        seconds.store(70, Ordering::SeqCst);
        assert!(absent());
        assert_eq!((cache.stale_s(&name("nobody")), cache.stale_s(&name("other"))), (Some(70), None));
        stub.fails.store(false, Ordering::SeqCst);
        assert!(absent() && cache.stale_s(&name("nobody")).is_none());
    }

    #[test]
    fn an_older_answer_says_how_old_it_is_and_what_was_decided_before_is_decided_again() {
        let stale_if_error = Duration::from_secs(300);
        let (cache, stub, seconds) = cached(CacheSettings { stale_if_error, ..SETTINGS });
        assert_eq!(one(&cache, name("user1000")).account.stale_s, None);
        let before = cache.revision().expect("it answers");
        stub.fails.store(true, Ordering::SeqCst);
        for at in [70, 80] {
            seconds.store(at, Ordering::SeqCst);
            assert_eq!(one(&cache, name("user1000")).account.stale_s, Some(at));
        }
        let meanwhile = cache.revision().expect("older answers are allowed");
        assert_ne!(meanwhile, before);
        assert_eq!(cache.revision().expect("older answers are allowed"), meanwhile);
        stub.fails.store(false, Ordering::SeqCst);
        let after = cache.revision().expect("it answers again");
        assert_eq!((after, after == meanwhile), (before, false));
        assert_eq!(one(&cache, name("user1000")).account.stale_s, None);
    }

    #[test]
    fn a_question_that_is_dropped_fails_no_other_one() {
        let (cache, stub, _) = cached(SETTINGS);
        stub.waits.store(true, Ordering::SeqCst);
        let query = name("user1000");
        let (mut first, mut second) = (cache.find(&query), cache.find(&query));
        assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
        drop(first);
        stub.waits.store(false, Ordering::SeqCst);
        assert!(matches!(poll(&mut second), Poll::Ready(Ok(Matches::One(_)))));
        assert_eq!((asked(&stub), lock(&cache.0.flights).len()), (1, 0));
        // If all leave, the next question is asked anew.
        stub.waits.store(true, Ordering::SeqCst);
        let query = name("user1001");
        let mut left = cache.find(&query);
        assert!(poll(&mut left).is_pending());
        drop(left);
        stub.waits.store(false, Ordering::SeqCst);
        one(&cache, query);
        assert_eq!(asked(&stub), 3);
    }

    #[test]
    fn a_question_from_before_a_change_answers_none_from_after_it() {
        let (cache, stub, _) = cached(SETTINGS);
        stub.waits.store(true, Ordering::SeqCst);
        let query = name("user1000");
        let mut before = cache.find(&query);
        assert!(poll(&mut before).is_pending());
        let changed = Account { logon_count: 7, ..user(1000) };
        let change = Change::PutAccount(Put::Existing, Box::new(changed.clone()));
        now(stub.store.apply(&mut [Ok(change)].into_iter())).expect("it is there");
        let mut after = cache.find(&query);
        assert!(poll(&mut after).is_pending());
        stub.waits.store(false, Ordering::SeqCst);
        let Poll::Ready(Ok(Matches::One(record))) = poll(&mut after) else { panic!("it answers") };
        assert_eq!(record.account, changed);
        assert!(matches!(poll(&mut before), Poll::Ready(Ok(Matches::One(_)))));
        assert_eq!(one(&cache, name("user1000")).account, changed, "the older answer was not kept");
    }

    #[test]
    fn names_at_random_replace_no_account_and_fill_no_memory() {
        let (cache, stub, _) = cached(CacheSettings { bytes: 1 << 16, ..SETTINGS });
        one(&cache, name("user1000"));
        for n in 0..10_000 {
            now(cache.find(&name(&format!("nobody{n}")))).expect("it answers");
        }
        assert!(cache.bytes() <= 1 << 16, "{}", cache.bytes());
        let before = asked(&stub);
        one(&cache, name("user1000"));
        assert_eq!(asked(&stub), before);
    }

    mod battery {
        crate::read_only_store_battery!(|records: &[crate::Record]| {
            let (store, ()) =
                crate::battery::filled((crate::MemoryStore::new(crate::battery::domain()), ()), records);
            (super::CachedStore::new(std::sync::Arc::new(store), super::SETTINGS), ())
        });
    }
}
