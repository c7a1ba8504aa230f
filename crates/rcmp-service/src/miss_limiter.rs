//! The rate limit of misses: questions of one machine account about certificates that map no account.
//!
//! A machine that guesses misses; a machine that serves users mostly does not. A miss takes a token when it
//! is answered, and answers that map take none. An account without a token is over the limit: its questions
//! are refused before the store is asked, and questions that were asked before are refused instead of
//! answered, also where they map, because otherwise a right guess would be answered. So no number of
//! questions at once gets more misses than there are tokens, and questions in flight that map are not
//! counted.
//!
//! Two kinds of questions are no guesses. One that missed lately takes no second token, so one user whose
//! certificate maps no account cannot take the tokens of a web server. One that mapped lately is answered
//! over the limit, too. A question is the same where all its bytes and its domain are the same: the same
//! certificate with other flags or issuers is another guess.

use crate::question::{Asker, Question};
use crate::reason::Reason;
use dashmap::DashMap;
use dtyp::Sid;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Accounts that are kept track of; beyond it, those that could use their whole burst are forgotten, which
/// takes no token from them. Only accounts with a secure channel that have missed have an entry.
const ACCOUNTS_MAX: usize = 65_536;

/// Accounts whose questions that mapped are remembered: 8 KiB each, 32 MiB in all.
const ACCOUNTS_WITH_MAPPED_MAX: usize = 4_096;

/// Questions of one account that missed are remembered as many as its burst, and no more than this: 64 KiB.
const MISSED_MAX: usize = 4_096;

/// Questions of one account that mapped are remembered in so many sets of [`MAPPED_WAYS`].
const MAPPED_SETS: usize = 256;
/// The oldest of a set is replaced.
const MAPPED_WAYS: usize = 4;

/// For how long a question is remembered, in seconds. Web servers ask again for each connection or session of
/// a user.
const REMEMBERED: u64 = 600;

/// A trust asks for all machines of its domain, so that its limit is that of so many: one machine there that
/// guesses at the limit of its own domain takes little of it.
const MACHINES_PER_TRUST: u32 = 32;

/// The rate limit of misses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misses {
    /// How many a second, on average; 0 for no limit.
    pub per_second: u32,
    /// How many at once.
    pub burst: u32,
}

impl Default for Misses {
    /// A web server sees some certificates that map no account; a machine that guesses at this rate tries
    /// some 800,000 a day.
    fn default() -> Self {
        Self { per_second: 10, burst: 100 }
    }
}

/// The limits of machines and of trusts.
#[derive(Debug)]
pub struct MissLimits {
    machines: MissLimiter,
    trusts: MissLimiter,
}

impl MissLimits {
    /// `misses` is the limit of one machine.
    pub fn new(misses: Misses) -> Self {
        let of = |machines: u32| {
            let (rate, burst) = (misses.per_second, misses.burst);
            MissLimiter::new(rate.saturating_mul(machines), burst.saturating_mul(machines))
        };
        Self { machines: of(1), trusts: of(MACHINES_PER_TRUST) }
    }

    /// So many servers of the domain have one limit together, from now on: each gives back so much less a
    /// second. The burst of each stays whole, because a machine may have all of its connections at one of
    /// them.
    pub fn share(&self, servers: u32) {
        for limiter in [&self.machines, &self.trusts] {
            limiter.servers.store(servers.max(1).into(), Ordering::Relaxed);
        }
    }

    /// Whether a question may be asked now: its asker has a token, or the question mapped lately.
    pub fn admits(&self, question: &Question) -> bool {
        let limiter = self.of(&question.asker);
        limiter.is_unused() || limiter.admits(question, Instant::now())
    }

    /// Whether an answer may be told now; called once for each question that was admitted. A miss takes a
    /// token.
    pub fn may_reveal(&self, question: &Question, reason: Reason) -> bool {
        let limiter = self.of(&question.asker);
        !reason.is_miss() && limiter.is_unused() || limiter.may_reveal(question, reason, Instant::now())
    }

    /// The limit of an asker.
    const fn of(&self, asker: &Asker) -> &MissLimiter {
        match asker.trust {
            None => &self.machines,
            Some(_) => &self.trusts,
        }
    }
}

/// A token bucket for each account, as the time at which it is full again (generic cell rate algorithm, ITU-T
/// I.371).
#[derive(Debug)]
struct MissLimiter {
    /// Nanoseconds in which one token comes back where one server has the whole limit; 0 for no limit.
    interval_alone: u64,
    burst: u64,
    /// Servers that have one limit together.
    servers: AtomicU64,
    missed_max: usize,
    start: Instant,
    /// Of the keys of questions: no client can find two questions of one key.
    hasher: RandomState,
    accounts: DashMap<Sid, Account>,
    /// Whether any account has ever had an entry.
    is_used: AtomicBool,
}

/// An account that has missed.
#[derive(Debug)]
struct Account {
    full_at: AtomicU64,
    missed: Mutex<Missed>,
    mapped: Mapped,
}

impl MissLimiter {
    /// A bucket of `burst` tokens for each account, of which `per_second` come back; 0 for no limit.
    fn new(per_second: u32, burst: u32) -> Self {
        let interval_alone = 1_000_000_000_u64.checked_div(per_second.into()).unwrap_or(0);
        let missed_max = MISSED_MAX.min(burst.max(1) as usize);
        let (hasher, accounts) = (RandomState::new(), DashMap::new());
        let (start, is_used) = (Instant::now(), AtomicBool::new(false));
        let (burst, servers) = (burst.max(1).into(), AtomicU64::new(1));
        Self { interval_alone, burst, servers, missed_max, start, hasher, accounts, is_used }
    }

    /// Nanoseconds in which one token comes back.
    fn interval(&self) -> u64 {
        self.interval_alone.saturating_mul(self.servers.load(Ordering::Relaxed))
    }

    /// Whether no account has missed yet, so that every question may be asked, and every answer but a miss
    /// told.
    fn is_unused(&self) -> bool {
        !self.is_used.load(Ordering::Relaxed)
    }

    /// Whether a question may be asked: its account has a token, or it mapped lately.
    fn admits(&self, question: &Question, now: Instant) -> bool {
        if self.interval_alone == 0 {
            return true;
        }
        let Some(account) = self.accounts.get(&question.asker.sid) else { return true };
        let now = self.nanoseconds(now);
        self.has_token(&account, now) || account.mapped.has(self.key(question), seconds(now))
    }

    /// Whether an answer may be told; called once for each question that was admitted. A miss takes a token.
    fn may_reveal(&self, question: &Question, reason: Reason, now: Instant) -> bool {
        if self.interval_alone == 0 {
            return true;
        }
        let now = self.nanoseconds(now);
        let sid = question.asker.sid;
        if reason.is_miss() {
            let key = self.key(question);
            if let Some(account) = self.accounts.get(&sid) {
                return self.tells_miss(&account, key, now);
            }
            if self.accounts.len() >= ACCOUNTS_MAX {
                self.accounts.retain(|_, account| *account.full_at.get_mut() > now);
            }
            self.is_used.store(true, Ordering::Relaxed);
            let remembers_mapped = self.accounts.len() < ACCOUNTS_WITH_MAPPED_MAX;
            let account = self.accounts.entry(sid).or_insert_with(|| Account::new(remembers_mapped));
            return self.tells_miss(&account, key, now);
        }
        if !matches!(reason, Reason::Mapped(_) | Reason::Forwarded) {
            return true;
        }
        let Some(account) = self.accounts.get(&sid) else { return true };
        let key = self.key(question);
        let tells = self.has_token(&account, now) || account.mapped.has(key, seconds(now));
        if tells {
            account.mapped.insert_recent(key, seconds(now));
        }
        tells
    }

    fn tells_miss(&self, account: &Account, key: u64, now: u64) -> bool {
        // Held while the token is taken: the same question asked twice at once takes one.
        let mut missed = account.missed.lock().unwrap_or_else(PoisonError::into_inner);
        if missed.has(key, seconds(now)) {
            return true;
        }
        let interval = self.interval();
        let later = |full_at: u64| {
            let full_at = full_at.max(now).saturating_add(interval);
            (full_at - now <= interval.saturating_mul(self.burst)).then_some(full_at)
        };
        let took = account.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later).is_ok();
        if took {
            missed.insert_recent(key, seconds(now), self.missed_max);
        }
        // The account of a certificate that mapped lately may have been disabled since; that is told.
        took || account.mapped.has(key, seconds(now))
    }

    fn has_token(&self, account: &Account, now: u64) -> bool {
        let missing = account.full_at.load(Ordering::Relaxed).saturating_sub(now);
        let interval = self.interval();
        missing.saturating_add(interval) <= interval.saturating_mul(self.burst)
    }

    fn key(&self, question: &Question) -> u64 {
        self.hasher.hash_one((question.message(), &question.logon_domain_name))
    }

    fn nanoseconds(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

const fn seconds(nanoseconds: u64) -> u64 {
    nanoseconds / 1_000_000_000
}

impl Account {
    fn new(remembers_mapped: bool) -> Self {
        let (missed, mapped) = (Mutex::default(), Mapped::new(remembers_mapped));
        Self { full_at: AtomicU64::new(0), missed, mapped }
    }
}

/// Keys of questions that missed lately, and when; the oldest first.
#[derive(Debug, Default)]
struct Missed(VecDeque<(u64, u64)>);

impl Missed {
    fn has(&self, key: u64, now: u64) -> bool {
        self.0.iter().any(|&(other, at)| other == key && now.saturating_sub(at) < REMEMBERED)
    }

    fn insert_recent(&mut self, key: u64, now: u64, max: usize) {
        while self
            .0
            .front()
            .is_some_and(|&(_, at)| self.0.len() >= max || now.saturating_sub(at) >= REMEMBERED)
        {
            self.0.pop_front();
        }
        self.0.push_back((key, now));
    }
}

/// Keys of questions that mapped lately, without a lock: a slot is 40 bits of the key and 24 bits of the
/// second in which it mapped; 0 is empty.
#[derive(Debug)]
struct Mapped(Box<[AtomicU64]>);

impl Mapped {
    const AGE_MASK: u64 = (1 << 24) - 1;

    fn new(remembers: bool) -> Self {
        let len = if remembers { MAPPED_SETS * MAPPED_WAYS } else { 0 };
        Self((0..len).map(|_| AtomicU64::new(0)).collect())
    }

    fn set(&self, key: u64) -> &[AtomicU64] {
        let first = key as usize % MAPPED_SETS * MAPPED_WAYS;
        self.0.get(first..first + MAPPED_WAYS).unwrap_or_default()
    }

    /// For how many seconds a slot has been there; the most for an empty one.
    const fn age(slot: u64, now: u64) -> u64 {
        if slot == 0 { u64::MAX } else { now.wrapping_sub(slot) & Self::AGE_MASK }
    }

    const fn is_of(slot: u64, key: u64) -> bool {
        slot != 0 && (slot ^ key) >> 24 == 0
    }

    fn has(&self, key: u64, now: u64) -> bool {
        self.set(key).iter().any(|slot| {
            let slot = slot.load(Ordering::Relaxed);
            Self::is_of(slot, key) && Self::age(slot, now) < REMEMBERED
        })
    }

    fn insert_recent(&self, key: u64, now: u64) {
        let set = self.set(key);
        let loaded = |slot: &AtomicU64| slot.load(Ordering::Relaxed);
        let same = set.iter().find(|slot| Self::is_of(loaded(slot), key));
        if let Some(slot) = same.or_else(|| set.iter().max_by_key(|slot| Self::age(loaded(slot), now))) {
            slot.store(key & !Self::AGE_MASK | now & Self::AGE_MASK, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn sid(rid: u32) -> Sid {
        Sid::new(5, &[21, 1, 2, 3, rid]).expect("five parts")
    }

    fn question(rid: u32, certificate: u32) -> Question {
        let asker = Asker::machine("WEB01$", sid(rid), true);
        Question::new(certificate.to_le_bytes().to_vec(), asker, dtyp::FileTime(0))
    }

    const MISS: Reason = Reason::NoMatch;
    const UNDECIDED: Reason = Reason::StoreUnavailable;
    const MAPPED: Reason = Reason::Forwarded;

    /// How many different certificates miss until the account is over the limit.
    fn misses(limiter: &MissLimiter, rid: u32, now: Instant) -> u32 {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1_000_000);
        let mut misses = 0;
        loop {
            let question = question(rid, NEXT.fetch_add(1, Ordering::Relaxed));
            if misses == 10_000
                || !limiter.admits(&question, now)
                || !limiter.may_reveal(&question, MISS, now)
            {
                return misses;
            }
            misses += 1;
        }
    }

    #[test]
    fn a_burst_then_a_rate_for_each_account() {
        let limiter = MissLimiter::new(10, 100);
        let now = Instant::now();
        assert_eq!(misses(&limiter, 1001, now), 100);
        assert_eq!(misses(&limiter, 1001, now), 0);
        assert_eq!(misses(&limiter, 1002, now), 100, "another account has its own");
        assert_eq!(misses(&limiter, 1001, now + Duration::from_millis(99)), 0);
        assert_eq!(misses(&limiter, 1001, now + Duration::from_secs(3)), 30);
        assert_eq!(misses(&limiter, 1001, now + Duration::from_secs(3600)), 100, "never more than a burst");
    }

    #[test]
    fn several_servers_give_back_as_much_as_one() {
        let limits = MissLimits::new(Misses { per_second: 30, burst: 100 });
        limits.share(3);
        let (limiter, now) = (&limits.machines, Instant::now());
        assert_eq!(misses(limiter, 1001, now), 100);
        assert_eq!(misses(limiter, 1001, now + Duration::from_millis(99)), 0);
        assert_eq!(misses(limiter, 1001, now + Duration::from_secs(3)), 30);
        // One of three is left, and then knows it.
        limits.share(1);
        assert_eq!(misses(limiter, 1001, now + Duration::from_secs(3600)), 100);
        assert_eq!(misses(limiter, 1001, now + Duration::from_secs(3601)), 30);
    }

    #[test]
    fn a_trust_has_the_limit_of_many_machines() {
        let limits = MissLimits::new(Misses { per_second: 10, burst: 100 });
        let machine = Asker::machine("WEB01$", sid(1001), true);
        let trust =
            Asker { trust: Some("FABRIKAM".to_owned()), ..Asker::machine("FABRIKAM$", sid(1002), true) };
        let now = Instant::now();
        assert_eq!(misses(limits.of(&machine), 1001, now), 100);
        assert_eq!(misses(limits.of(&trust), 1002, now), 3200);
    }

    /// All are admitted before the first is answered.
    #[test]
    fn misses_in_flight_are_not_told_beyond_the_burst_and_right_guesses_are_not_either() {
        let limiter = MissLimiter::new(10, 100);
        let now = Instant::now();
        let guesses: Vec<Question> = (0..250).map(|certificate| question(1001, certificate)).collect();
        assert!(guesses.iter().all(|guess| limiter.admits(guess, now)));
        let told = guesses[..200].iter().filter(|guess| limiter.may_reveal(guess, MISS, now)).count();
        assert_eq!(told, 100);
        assert!(!limiter.may_reveal(&guesses[200], MAPPED, now), "a right guess");
        assert!(limiter.may_reveal(&guesses[201], UNDECIDED, now));
        assert!(!limiter.admits(&guesses[202], now));
        // What was refused takes nothing of what comes back.
        assert_eq!(misses(&limiter, 1001, now + Duration::from_secs(1)), 10);
    }

    #[test]
    fn questions_in_flight_that_map_are_never_refused() {
        let limiter = MissLimiter::new(10, 100);
        let now = Instant::now();
        let questions: Vec<Question> = (0..400).map(|certificate| question(1001, certificate)).collect();
        // With misses of this account before, and without.
        for _ in 0..2 {
            assert!(questions.iter().all(|question| limiter.admits(question, now)));
            assert!(questions.iter().all(|question| limiter.may_reveal(question, MAPPED, now)));
            for certificate in 1000..1099 {
                assert!(limiter.may_reveal(&question(1001, certificate), MISS, now));
            }
        }
    }

    #[test]
    fn a_question_that_missed_lately_takes_one_token() {
        let limiter = MissLimiter::new(10, 100);
        let now = Instant::now();
        for _ in 0..1000 {
            let mallory = question(1001, 1);
            assert!(limiter.admits(&mallory, now) && limiter.may_reveal(&mallory, MISS, now));
        }
        assert_eq!(misses(&limiter, 1001, now), 99);
        assert!(!limiter.admits(&question(1001, 1), now), "over the limit, it is refused as others are");
        // As many as the burst are remembered, and not for ever.
        let account = limiter.accounts.get(&sid(1001)).expect("it has missed");
        assert_eq!(account.missed.lock().expect("no panic").0.len(), 100);
        let key = limiter.key(&question(1001, 1));
        assert!(account.missed.lock().expect("no panic").has(key, 599));
        assert!(!account.missed.lock().expect("no panic").has(key, 700));
    }

    #[test]
    fn over_the_limit_a_question_that_mapped_lately_is_answered_and_no_other_one() {
        let limiter = MissLimiter::new(10, 100);
        let now = Instant::now();
        assert!(limiter.may_reveal(&question(1001, 1), MISS, now));
        let (alice, guess) = (question(1001, 2), question(1001, 3));
        assert!(limiter.may_reveal(&alice, MAPPED, now));
        misses(&limiter, 1001, now);
        assert!(limiter.admits(&alice, now) && limiter.may_reveal(&alice, MAPPED, now));
        assert!(limiter.may_reveal(&alice, MISS, now), "her account was disabled");
        assert!(!limiter.admits(&guess, now) && !limiter.may_reveal(&guess, MAPPED, now));
        let mut elsewhere = alice.clone();
        "FABRIKAM".clone_into(&mut elsewhere.logon_domain_name);
        assert!(!limiter.admits(&elsewhere, now), "the same certificate in another domain is a guess");
        let mut other = alice.clone();
        other.asker = Asker::machine("WEB02$", sid(1002), true).into();
        misses(&limiter, 1002, now);
        assert!(!limiter.admits(&other, now), "another account has its own");
        let later = now + Duration::from_secs(REMEMBERED + 1);
        misses(&limiter, 1001, later);
        assert!(!limiter.admits(&alice, later));
    }

    #[test]
    fn no_rate_is_no_limit_and_a_full_table_forgets_who_has_a_whole_burst() {
        let now = Instant::now();
        let unlimited = MissLimiter::new(0, 100);
        assert_eq!(misses(&unlimited, 1, now), 10_000);
        assert!(unlimited.accounts.is_empty());
        let limiter = MissLimiter::new(10, 100);
        for rid in 0..ACCOUNTS_MAX as u32 {
            assert!(limiter.may_reveal(&question(rid, 1), MISS, now));
        }
        let later = now + Duration::from_secs(1);
        assert!(limiter.may_reveal(&question(u32::MAX, 1), MISS, later));
        assert_eq!(limiter.accounts.len(), 1);
    }
}
