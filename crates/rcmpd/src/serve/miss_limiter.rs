//! The rate limit of misses: questions of one machine account about certificates that map no account.
//!
//! A machine that guesses misses; a machine that serves users mostly does not. Answers that map are never counted. Once an account is
//! over the limit, all of its questions are refused until the next token is due, before the store is asked: one that would map, too,
//! because otherwise a right guess would be answered.

use crate::config::Misses;
use dashmap::DashMap;
use dtyp::Sid;
use rcmp_service::Asker;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Accounts that are kept track of; beyond it, those that could use their whole burst are forgotten, which changes nothing for them. Only
/// accounts with a secure channel have an entry.
const ACCOUNTS_MAX: usize = 65_536;

/// A trust asks for all machines of its domain, so that its limit is that of so many: one machine there that guesses at the limit of its
/// own domain takes little of it.
const MACHINES_PER_TRUST: u32 = 32;

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

    /// The limit of an asker.
    pub const fn of(&self, asker: &Asker) -> &MissLimiter {
        match asker.trust {
            None => &self.machines,
            Some(_) => &self.trusts,
        }
    }
}

/// A token bucket for each account, as the time at which it is full again (generic cell rate algorithm, ITU-T I.371).
#[derive(Debug)]
pub struct MissLimiter {
    /// Nanoseconds in which one token comes back; 0 for no limit.
    interval: u64,
    /// Nanoseconds in which the whole burst comes back.
    capacity: u64,
    start: Instant,
    full_at: DashMap<Sid, AtomicU64>,
}

impl MissLimiter {
    /// A bucket of `burst` tokens for each account, of which `per_second` come back; 0 for no limit.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let interval = 1_000_000_000_u64.checked_div(per_second.into()).unwrap_or(0);
        let capacity = interval.saturating_mul(burst.max(1).into());
        Self { interval, capacity, start: Instant::now(), full_at: DashMap::new() }
    }

    /// Whether an account may ask: whether one miss more is within its limit. Questions that are answered side by side are not counted
    /// before they are, so there may be as many misses more as an account has connections.
    pub fn admits(&self, account: &Sid, now: Instant) -> bool {
        if self.interval == 0 {
            return true;
        }
        let Some(full_at) = self.full_at.get(account) else { return true };
        let missing = full_at.load(Ordering::Relaxed).saturating_sub(self.nanoseconds(now));
        missing.saturating_add(self.interval) <= self.capacity
    }

    /// Takes a token.
    pub fn missed(&self, account: &Sid, now: Instant) {
        if self.interval == 0 {
            return;
        }
        let now = self.nanoseconds(now);
        let later = |full_at: u64| {
            let full_at = full_at.max(now).saturating_add(self.interval);
            Some(full_at.min(now.saturating_add(self.capacity)))
        };
        if let Some(full_at) = self.full_at.get(account) {
            // The closure always returns a value.
            let _ = full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
            return;
        }
        if self.full_at.len() >= ACCOUNTS_MAX {
            self.full_at.retain(|_, full_at| *full_at.get_mut() > now);
        }
        let entry = self.full_at.entry(*account).or_default();
        let _ = entry.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }

    fn nanoseconds(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn sid(rid: u32) -> Sid {
        Sid::new(5, &[21, 1, 2, 3, rid]).expect("five parts")
    }

    fn misses(limiter: &MissLimiter, account: &Sid, now: Instant) -> u32 {
        let mut misses = 0;
        while limiter.admits(account, now) && misses < 10_000 {
            limiter.missed(account, now);
            misses += 1;
        }
        misses
    }

    #[test]
    fn a_burst_then_a_rate_for_each_account() {
        let limiter = MissLimiter::new(10, 100);
        let now = Instant::now();
        assert_eq!(misses(&limiter, &sid(1001), now), 100);
        assert_eq!(misses(&limiter, &sid(1001), now), 0);
        assert_eq!(misses(&limiter, &sid(1002), now), 100, "another account has its own");
        assert_eq!(misses(&limiter, &sid(1001), now + Duration::from_millis(99)), 0);
        assert_eq!(misses(&limiter, &sid(1001), now + Duration::from_secs(3)), 30);
        assert_eq!(
            misses(&limiter, &sid(1001), now + Duration::from_secs(3600)),
            100,
            "never more than a burst"
        );
    }

    #[test]
    fn a_trust_has_the_limit_of_many_machines() {
        let limits = MissLimits::new(Misses { per_second: 10, burst: 100 });
        let machine = Asker::machine("WEB01$", sid(1001), true);
        let trust =
            Asker { trust: Some("FABRIKAM".to_owned()), ..Asker::machine("FABRIKAM$", sid(1002), true) };
        let now = Instant::now();
        assert_eq!(misses(limits.of(&machine), &machine.sid, now), 100);
        assert_eq!(misses(limits.of(&trust), &trust.sid, now), 3200);
    }

    #[test]
    fn misses_beyond_the_limit_take_no_more_than_the_whole_burst() {
        let limiter = MissLimiter::new(10, 100);
        let now = Instant::now();
        for _ in 0..1000 {
            limiter.missed(&sid(1001), now);
        }
        assert!(!limiter.admits(&sid(1001), now));
        assert_eq!(misses(&limiter, &sid(1001), now + Duration::from_secs(1)), 10);
    }

    #[test]
    fn no_rate_is_no_limit_and_a_full_table_forgets_who_has_a_whole_burst() {
        let now = Instant::now();
        let unlimited = MissLimiter::new(0, 100);
        assert_eq!(misses(&unlimited, &sid(1), now), 10_000);
        assert!(unlimited.full_at.is_empty());
        let limiter = MissLimiter::new(10, 100);
        for rid in 0..ACCOUNTS_MAX as u32 {
            limiter.missed(&sid(rid), now);
        }
        let later = now + Duration::from_secs(1);
        limiter.missed(&sid(u32::MAX), later);
        assert_eq!(limiter.full_at.len(), 1);
    }
}
