//! How much of the audit log one account may write, where lines that cannot be written stop decisions.
//!
//! An account that asks without end would fill the disk, and then nothing is decided for any account. So each
//! has a budget of bytes an hour: a configured one, and never more than a part of what is free. The part
//! shrinks with what is free, so accounts can come close to a full disk, and do not fill it.

use dtyp::Sid;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The period of a budget.
const PERIOD: Duration = Duration::from_secs(3600);
/// One account may take a quarter of what is free.
const PART_OF_FREE: u64 = 4;
/// What every account may write in a period, however little is free: some lines, by which a disk that is full
/// shows.
const LEAST: u64 = 4096;
/// What an account must have left to be asked for a decision, which is known to be too long for its budget
/// only when it is made.
const DECISION: u64 = 2048;
/// What the writer adds to a line: the time, and the number and hash of a chain.
const ADDED_TO_LINE: u64 = 192;
/// How long what is free is taken as it was; what is written here is subtracted meanwhile.
const FREE_KEPT: Duration = Duration::from_secs(1);
/// Accounts that are kept track of; beyond it, those that have spent nothing are forgotten. Only accounts
/// with a secure channel have an entry.
const ACCOUNTS_MAX: usize = 65_536;

/// Budgets of accounts.
#[derive(Debug)]
pub(super) struct Budget {
    per_period: u64,
    /// Bytes that are free, and when that was looked at; `None` where it is not known.
    free: Option<u64>,
    free_at: Option<Instant>,
    spent: HashMap<Sid, Spent>,
}

/// What an account has spent, less what it got back until `at`.
#[derive(Clone, Copy, Debug)]
struct Spent {
    bytes: u64,
    at: Instant,
}

impl Budget {
    /// So many bytes an hour for each account, at most.
    pub(super) fn new(per_period: u64) -> Self {
        Self { per_period, free: None, free_at: None, spent: HashMap::new() }
    }

    /// Whether an account has room for a decision.
    pub(super) fn admits(&mut self, account: &Sid, now: Instant, free: impl FnOnce() -> Option<u64>) -> bool {
        self.look(now, free);
        let spent = self.spent(account, now);
        self.has_room(spent, DECISION)
    }

    /// Takes a line from an account's budget, if it is within.
    pub(super) fn spend(
        &mut self,
        account: &Sid,
        line_len: usize,
        now: Instant,
        free: impl FnOnce() -> Option<u64>,
    ) -> bool {
        self.look(now, free);
        let len = line_len as u64 + ADDED_TO_LINE;
        let spent = self.spent(account, now);
        if !self.has_room(spent, len) {
            return false;
        }
        if self.spent.len() >= ACCOUNTS_MAX && !self.spent.contains_key(account) {
            let limit = self.limit();
            self.spent.retain(|_, spent| spent.after(now, limit) > 0);
        }
        self.spent.insert(*account, Spent { bytes: spent + len, at: now });
        self.free = self.free.map(|free| free.saturating_sub(len));
        true
    }

    /// Gives a line back that could not be written.
    pub(super) fn give_back(&mut self, account: &Sid, line_len: usize) {
        if let Some(spent) = self.spent.get_mut(account) {
            spent.bytes = spent.bytes.saturating_sub(line_len as u64 + ADDED_TO_LINE);
        }
        // It may be that less is free than was thought.
        self.free_at = None;
    }

    fn look(&mut self, now: Instant, free: impl FnOnce() -> Option<u64>) {
        if self.free_at.is_none_or(|at| now.saturating_duration_since(at) >= FREE_KEPT) {
            self.free = free();
            self.free_at = Some(now);
        }
    }

    fn limit(&self) -> u64 {
        let part = self.free.map_or(u64::MAX, |free| free / PART_OF_FREE);
        self.per_period.min(part).max(LEAST)
    }

    fn spent(&self, account: &Sid, now: Instant) -> u64 {
        self.spent.get(account).map_or(0, |spent| spent.after(now, self.limit()))
    }

    /// Where a line does not fit in what is free, the disk is full, and that is for the writer to find: the
    /// account is not to blame.
    fn has_room(&self, spent: u64, len: u64) -> bool {
        self.free.is_some_and(|free| free < len) || spent.saturating_add(len) <= self.limit()
    }
}

impl Spent {
    fn after(&self, now: Instant, limit: u64) -> u64 {
        let elapsed = now.saturating_duration_since(self.at).as_millis();
        let back = u128::from(limit) * elapsed / PERIOD.as_millis();
        self.bytes.saturating_sub(u64::try_from(back).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: usize = 1000;
    const TAKEN: u64 = LINE as u64 + ADDED_TO_LINE;

    fn sid(rid: u32) -> Sid {
        Sid::new(5, &[21, 1, 2, 3, rid]).expect("five parts")
    }

    /// Writes as much as it may on a disk of which `free` bytes are free.
    fn flood(budget: &mut Budget, account: &Sid, now: Instant, free: &mut u64) -> u64 {
        let mut lines = 0;
        while budget.spend(account, LINE, now, || Some(*free)) && lines < 1_000_000 {
            if *free < TAKEN {
                budget.give_back(account, LINE);
                return lines;
            }
            *free -= TAKEN;
            lines += 1;
        }
        lines
    }

    #[test]
    fn an_account_that_floods_leaves_most_of_the_disk_to_others() {
        let now = Instant::now();
        let mut budget = Budget::new(1 << 30);
        let mut free = 4 << 20;
        let lines = flood(&mut budget, &sid(1001), now, &mut free);
        // Spent is a quarter of what is left: a fifth of what there was.
        assert!((lines * TAKEN).abs_diff((4 << 20) / 5) <= 2 * TAKEN, "{lines}");
        assert!(
            !budget.admits(&sid(1001), now, || Some(free))
                || !budget.spend(&sid(1001), LINE, now, || Some(free))
        );
        assert!(budget.admits(&sid(1002), now, || Some(free)));
        assert!(budget.spend(&sid(1002), LINE, now, || Some(free)));
        // A hundred of them do not fill it.
        for rid in 2000..2100 {
            flood(&mut budget, &sid(rid), now, &mut free);
        }
        let day = (1..=24).map(|hour| now + hour * PERIOD);
        for now in day {
            flood(&mut budget, &sid(1001), now, &mut free);
        }
        assert!(budget.spend(&sid(3000), LINE, now, || Some(free)), "{free}");
    }

    #[test]
    fn a_budget_comes_back_with_time() {
        let now = Instant::now();
        let mut budget = Budget::new(100 * TAKEN);
        let mut free = 1 << 40;
        assert_eq!(flood(&mut budget, &sid(1001), now, &mut free), 100);
        assert!(!budget.admits(&sid(1001), now, || Some(free)));
        assert_eq!(flood(&mut budget, &sid(1001), now + PERIOD / 10, &mut free), 10);
        assert_eq!(
            flood(&mut budget, &sid(1001), now + 10 * PERIOD, &mut free),
            100,
            "no more than one budget"
        );
    }

    #[test]
    fn a_disk_that_is_full_is_no_fault_of_the_account() {
        let now = Instant::now();
        let mut budget = Budget::new(1 << 30);
        assert!(budget.admits(&sid(1001), now, || Some(0)));
        assert!(budget.spend(&sid(1001), LINE, now, || Some(0)));
        budget.give_back(&sid(1001), LINE);
        assert_eq!(budget.spent(&sid(1001), now), 0);
        // Where it is not known, the configured budget counts alone.
        let mut budget = Budget::new(10 * TAKEN);
        let lines = (0..20).filter(|_| budget.spend(&sid(1001), LINE, now, || None)).count();
        assert_eq!(lines, 10);
    }

    #[test]
    fn a_full_table_forgets_accounts_that_have_spent_nothing() {
        let now = Instant::now();
        let mut budget = Budget::new(1 << 30);
        for rid in 0..ACCOUNTS_MAX as u32 {
            budget.spend(&sid(rid), LINE, now, || None);
        }
        budget.spend(&sid(u32::MAX), LINE, now + PERIOD, || None);
        assert_eq!(budget.spent.len(), 1);
    }
}
