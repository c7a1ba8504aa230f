//! Checks of passwords in UsernameTokens: a right one is cached, a wrong one is asked once, few are checked
//! at once, and guesses are slow.
//!
//! A client sends its password with each call, and a check costs argon2id or a question to a domain
//! controller. So a verdict is cached under HMAC-SHA-256 of name and password by a key of the process. It
//! counts for a limited time, and only as long as the account has the revision that it had. Equal questions
//! at the same time make one check.
//!
//! Guesses are slowed as everywhere ([`dcerpc::backoff`]): after some wrong passwords for an account from an
//! address, each answer for this pair comes a fixed time after the message, right or wrong. No number of
//! guesses keeps the right password out. They are checked one after the other, in a queue of their own, so
//! that other accounts behind the same address notice nothing.
//!
//! Guesses at many names fill the queue of their address, and a web server in front of the gateway is one
//! address. So a name that had its right password at an address before waits in a queue of its own there.

mod proved;
mod turns;

use crate::fault::Reason;
use crate::session::{BoxFuture, Identity, StoreFailed};
use dcerpc::backoff::{ANSWER_TIME, Backoff};
use dcerpc::limits::source_of;
use dcerpc::quota::{FairTable, Ticket};
use hmac::{Hmac, KeyInit, Mac};
use proved::Proved;
use sha2::Sha256;
use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::fmt;
use std::future::poll_fn;
use std::hash::Hash;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;
use turns::Turns;
use zeroize::Zeroizing;

/// Checks that wait for their turn. Beyond it the newest of the address, or of the proved name, with most of
/// them is refused.
pub const WAITING_MAX: usize = 256;
/// Verdicts that are cached, right and wrong ones each, some 200 bytes each. A new one always gets in.
const VERDICTS_MAX: usize = 10_000;
/// Right passwords of one account: one, and as many as it has spellings of its name that are in use.
const PER_NAME_MAX: usize = 8;

/// Longest name and password in octets: a longer one is wrong.
pub const TEXT_LEN_MAX: usize = 1_024;

/// Checks passwords.
pub trait PasswordStore: Send + Sync {
    /// What a look-up found.
    type Account: Send;

    /// Looks an account up, before each check and before a cached verdict is used. A name without an account
    /// is no error.
    fn find(&self, name: &str) -> impl Future<Output = Result<Found<Self::Account>, StoreFailed>> + Send;

    /// In which queue the check of a name waits for its turn: 0, or one of [`Passwords::with_queues`]. What
    /// asks another server has a queue of its own, so that a server that is slow delays its own names alone.
    fn queue(&self, _name: &str) -> usize {
        0
    }

    /// Whose password it is; none if it is wrong, or there is no such account, in the same time.
    fn check(
        &self,
        name: &str,
        password: &str,
        account: Self::Account,
    ) -> impl Future<Output = Result<Option<Identity>, StoreFailed>> + Send;

    /// Is ready so long after it was called.
    fn after(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// An answer is delayed, because passwords of this name were guessed from this address.
    fn slowed(&self, _name: &str, _source: IpAddr) {}
}

/// What a name means now.
#[derive(Clone, Debug)]
pub struct Found<A> {
    /// For the check.
    pub account: A,
    /// A number that changes with the account's password, state and groups. None if the store cannot tell,
    /// such as a domain controller: then the time limit alone ends a verdict.
    pub revision: Option<u64>,
    /// What a wrong password counts for, however the client spelled the name: the name, and then the account,
    /// if there is one. The name counts even where the account is known, because otherwise the time would
    /// tell which names have an account.
    pub guessed: Vec<String>,
}

/// How long verdicts are cached, and how many checks run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordSettings {
    /// A right password.
    pub accepted: Duration,
    /// A wrong password: a domain controller that locks accounts is asked once in this window.
    pub rejected: Duration,
    /// Checks at once in the first queue: as many as there are cores, because argon2id holds one and some 20
    /// MiB.
    pub parallel: usize,
}

impl Default for PasswordSettings {
    fn default() -> Self {
        Self { accepted: Duration::from_secs(5 * 60), rejected: Duration::from_secs(60), parallel: 2 }
    }
}

/// Decides whose a password is.
pub trait PasswordCheck: Send + Sync {
    /// As [`Passwords::check`].
    fn check<'a>(
        &'a self,
        name: &'a str,
        password: &'a str,
        source: IpAddr,
        now: Duration,
    ) -> BoxFuture<'a, Result<Option<Identity>, Reason>>;
}

impl<S: PasswordStore> PasswordCheck for Passwords<S> {
    fn check<'a>(
        &'a self,
        name: &'a str,
        password: &'a str,
        source: IpAddr,
        now: Duration,
    ) -> BoxFuture<'a, Result<Option<Identity>, Reason>> {
        Box::pin(Passwords::check(self, name, password, source, now))
    }
}

/// Passwords of a store, with cached verdicts.
pub struct Passwords<S> {
    store: S,
    key: Zeroizing<[u8; 32]>,
    settings: PasswordSettings,
    verdicts: Mutex<Verdicts>,
    backoff: Backoff,
    proved: Mutex<Proved>,
    /// The queues of checks; there is one at least.
    queues: Vec<Queue>,
}

/// The checks of one store.
struct Queue {
    usual: Turns,
    /// Those of accounts that are guessed at.
    guesses: Turns,
}

impl Queue {
    fn new(parallel: usize) -> Self {
        let turns = |at_once| Turns::new(at_once, WAITING_MAX);
        Self { usual: turns(parallel.max(1)), guesses: turns(1) }
    }
}

impl<S> fmt::Debug for Passwords<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Name and password.
type Digest = [u8; 32];
type Verdict = Result<Option<Identity>, StoreFailed>;

struct Verdicts {
    accepted: Cache<String>,
    rejected: Cache<IpAddr>,
    checks: HashMap<Digest, Arc<Check>>,
}

/// Verdicts by name and password.
struct Cache<H> {
    entries: FairTable<H, Cached>,
    by_digest: HashMap<Digest, Ticket>,
}

struct Cached {
    digest: Digest,
    identity: Option<Identity>,
    revision: Option<u64>,
    until: Duration,
}

/// A check that others wait for.
#[derive(Default)]
struct Check(Mutex<CheckState>);

#[derive(Default)]
struct CheckState {
    outcome: Option<Outcome>,
    waiting: Vec<Waker>,
}

#[derive(Clone)]
enum Outcome {
    Verdict(Verdict),
    /// Its question was dropped: the next one asks.
    Abandoned,
}

/// What there is to do for a question.
enum Next<'p, S> {
    Known(Option<Identity>),
    Ask(Asking<'p, S>),
    Wait(Arc<Check>),
}

/// A password that may be a guess. Dropped before its verdict, it counts as a wrong one: its client has
/// learned that it is not the cached one.
struct Guess<'p> {
    backoff: &'p Backoff,
    guessed: Vec<String>,
    source: IpAddr,
    now: Duration,
    is_open: bool,
}

impl Guess<'_> {
    /// Whether the answer waits.
    fn is_slow(&self) -> bool {
        self.backoff.is_any_slow(self.now, &self.guessed, self.source)
    }

    /// Counts a wrong password for the account and for the name, whichever is slow.
    fn failed(&self) -> bool {
        self.backoff.all_failed(self.now, &self.guessed, self.source)
    }

    /// Counts the verdict of a check. Whether the answer waits.
    fn settle(mut self, verdict: &Verdict) -> bool {
        self.is_open = false;
        match verdict {
            Ok(None) => self.failed(),
            Ok(Some(_)) | Err(_) => self.is_slow(),
        }
    }
}

impl Drop for Guess<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.failed();
        }
    }
}

/// The question that others wait for. Dropped, it is abandoned.
struct Asking<'p, S> {
    passwords: &'p Passwords<S>,
    digest: Digest,
    check: Arc<Check>,
}

impl<S: PasswordStore> Passwords<S> {
    /// Over a store. `key` is random, and lives as long as the process.
    pub fn new(store: S, key: [u8; 32], settings: PasswordSettings) -> Self {
        let verdicts = Verdicts {
            accepted: Cache::new(PER_NAME_MAX),
            rejected: Cache::new(VERDICTS_MAX),
            checks: HashMap::new(),
        };
        Self {
            store,
            key: Zeroizing::new(key),
            settings,
            verdicts: Mutex::new(verdicts),
            backoff: Backoff::default(),
            proved: Mutex::default(),
            queues: vec![Queue::new(settings.parallel)],
        }
    }

    /// Adds queues 1 and up, with the number of checks at once in each.
    #[must_use]
    pub fn with_queues(mut self, parallel: impl IntoIterator<Item = usize>) -> Self {
        self.queues.extend(parallel.into_iter().map(Queue::new));
        self
    }

    /// The queue of a name. A number that no queue has means the first.
    fn turns(&self, name: &str, is_slow: bool) -> &Turns {
        // INVARIANT: `new` makes the first.
        let queue = self.queues.get(self.store.queue(name)).unwrap_or(&self.queues[0]);
        if is_slow { &queue.guesses } else { &queue.usual }
    }

    /// Whose password it is; none if it is wrong. `now` is monotonic.
    pub async fn check(
        &self,
        name: &str,
        password: &str,
        source: IpAddr,
        now: Duration,
    ) -> Result<Option<Identity>, Reason> {
        if name.len() > TEXT_LEN_MAX || password.len() > TEXT_LEN_MAX {
            return Ok(None);
        }
        let source = source_of(source);
        let answer_due = pin!(self.store.after(ANSWER_TIME));
        let (verdict, is_slow) = self.verdict(name, password, source, now).await?;
        if is_slow {
            self.store.slowed(name, source);
            answer_due.await;
        }
        Ok(verdict?)
    }

    /// The verdict, and whether it has to wait.
    async fn verdict(
        &self,
        name: &str,
        password: &str,
        source: IpAddr,
        now: Duration,
    ) -> Result<(Verdict, bool), Reason> {
        let digest = self.digest(name, password);
        loop {
            // Before the check: if the account changes meanwhile, the verdict does not count on the next
            // call.
            let Found { account, revision, guessed } = self.store.find(name).await?;
            let mut guess = Guess { backoff: &self.backoff, guessed, source, now, is_open: false };
            match self.next(digest, revision, now) {
                Next::Known(identity) => return Ok((Ok(identity), guess.is_slow())),
                Next::Wait(check) => match check.outcome().await {
                    Outcome::Verdict(verdict) => return Ok((verdict, guess.is_slow())),
                    Outcome::Abandoned => {}
                },
                Next::Ask(asking) => {
                    let is_slow = guess.is_slow();
                    guess.is_open = true;
                    let holder = self.lock_proved().holder(&guess.guessed, source);
                    let Some(_turn) = self.turns(name, is_slow).take(holder).await else {
                        // Of a name that is guessed it is a guess, and waits like the others.
                        drop(asking);
                        guess.is_open = is_slow;
                        if is_slow {
                            self.store.slowed(name, source);
                            self.store.after(ANSWER_TIME).await;
                        }
                        return Err(Reason::TooManyPasswords(WAITING_MAX));
                    };
                    let verdict = self.store.check(name, password, account).await;
                    let limit = match &verdict {
                        Ok(Some(_)) => self.settings.accepted,
                        _ => self.settings.rejected,
                    };
                    asking.finish(&verdict, (name, source), (revision, now + limit));
                    if let Ok(Some(identity)) = &verdict {
                        self.lock_proved().insert(&identity.account, &guess.guessed, source);
                    }
                    let is_slow = guess.settle(&verdict);
                    return Ok((verdict, is_slow));
                }
            }
        }
    }
}

impl<S> Passwords<S> {
    fn digest(&self, name: &str, password: &str) -> Digest {
        // INVARIANT: HMAC takes keys of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key.as_slice()).expect("any length");
        mac.update(&(name.len() as u64).to_le_bytes());
        mac.update(name.as_bytes());
        mac.update(password.as_bytes());
        mac.finalize().into_bytes().into()
    }

    fn next(&self, digest: Digest, revision: Option<u64>, now: Duration) -> Next<'_, S> {
        let mut verdicts = self.lock();
        let known = verdicts.accepted.get(digest, revision, now);
        if let Some(known) = known.or_else(|| verdicts.rejected.get(digest, revision, now)) {
            return Next::Known(known);
        }
        match verdicts.checks.entry(digest) {
            MapEntry::Occupied(check) => Next::Wait(Arc::clone(check.get())),
            MapEntry::Vacant(place) => {
                let check = Arc::clone(place.insert(Arc::default()));
                Next::Ask(Asking { passwords: self, digest, check })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Verdicts> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_proved(&self) -> MutexGuard<'_, Proved> {
        self.proved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<H: Clone + Eq + Hash> Cache<H> {
    fn new(per_holder_max: usize) -> Self {
        Self { entries: FairTable::new(VERDICTS_MAX, per_holder_max), by_digest: HashMap::new() }
    }

    /// A verdict that counts now.
    fn get(&mut self, digest: Digest, revision: Option<u64>, now: Duration) -> Option<Option<Identity>> {
        let ticket = *self.by_digest.get(&digest)?;
        let cached = self.entries.get(ticket)?;
        if cached.revision == revision && now < cached.until {
            return Some(cached.identity.clone());
        }
        self.remove(ticket);
        None
    }

    fn insert(&mut self, holder: H, cached: Cached) {
        if let Some(before) = self.by_digest.get(&cached.digest).copied() {
            self.remove(before);
        }
        let digest = cached.digest;
        let (ticket, evicted) = self.entries.insert(holder, cached);
        if let Some((_, evicted)) = evicted {
            self.by_digest.remove(&evicted.digest);
        }
        self.by_digest.insert(digest, ticket);
    }

    fn remove(&mut self, ticket: Ticket) {
        if let Some((_, cached)) = self.entries.remove(ticket) {
            self.by_digest.remove(&cached.digest);
        }
    }
}

impl<S> Asking<'_, S> {
    fn finish(
        &self,
        verdict: &Verdict,
        (name, source): (&str, IpAddr),
        (revision, until): (Option<u64>, Duration),
    ) {
        let mut verdicts = self.passwords.lock();
        if let Ok(identity) = verdict {
            let cached = Cached { digest: self.digest, identity: identity.clone(), revision, until };
            match identity {
                Some(_) => verdicts.accepted.insert(name.to_owned(), cached),
                None => verdicts.rejected.insert(source, cached),
            }
        }
        verdicts.checks.remove(&self.digest);
        drop(verdicts);
        self.check.end(Outcome::Verdict(verdict.clone()));
    }
}

impl<S> Drop for Asking<'_, S> {
    fn drop(&mut self) {
        let mut verdicts = self.passwords.lock();
        // After `finish`, another question may be there.
        if verdicts.checks.get(&self.digest).is_some_and(|check| Arc::ptr_eq(check, &self.check)) {
            verdicts.checks.remove(&self.digest);
        }
        drop(verdicts);
        self.check.end(Outcome::Abandoned);
    }
}

impl Check {
    /// The first end counts.
    fn end(&self, outcome: Outcome) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.outcome.get_or_insert(outcome);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    async fn outcome(&self) -> Outcome {
        poll_fn(|context| {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(outcome) = &state.outcome {
                return Poll::Ready(outcome.clone());
            }
            if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                state.waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests;
