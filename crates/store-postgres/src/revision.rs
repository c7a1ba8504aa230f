//! The row that names the contents, and what of it was seen.

use crate::moment::Moment;
use account_store::{Revision, StoreError};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;
use tokio::time::Instant;

/// A counter, with the random number that came with its last change.
pub(crate) type Counter = (i64, i64);

/// The row of the table `revision`: each counter grows with each change, in the transaction of the change. A
/// back-up that is restored takes the counters back, and another history that counts to the same values has
/// other random ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RevisionRow {
    /// Accounts, groups and memberships.
    pub(crate) accounts: Counter,
    /// Names and scopes of groups.
    pub(crate) groups: Counter,
    /// Machines, and the flags of their accounts.
    pub(crate) machines: Counter,
}

impl RevisionRow {
    /// Whether these contents may have been made from `before`, or are the same.
    pub(crate) fn follow(&self, before: &Self) -> bool {
        let follows = |new: Counter, old: Counter| new.0 > old.0 || new == old;
        follows(self.accounts, before.accounts)
            && follows(self.groups, before.groups)
            && follows(self.machines, before.machines)
    }
}

/// What was seen last, and when the primary was asked last.
pub(crate) struct Seen(RwLock<State>);

struct State {
    revision_row: RevisionRow,
    /// When this row was seen first.
    since: Instant,
    accounts_noticed: u64,
    machines_noticed: u64,
    /// The start of the last poll.
    begun: Moment,
    /// The start of the last poll that was answered.
    polled: Moment,
    /// The start of the last poll, and why it was not answered.
    failed: Option<(Moment, StoreError)>,
}

/// What became of a row that came with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// They are what is known, or newer.
    Good,
    /// They are older than what is known, or of another history.
    Other,
}

impl Seen {
    pub(crate) fn new(revision_row: RevisionRow) -> Self {
        let now = Moment::now();
        let (accounts_noticed, machines_noticed) = (Revision::notice(), Revision::notice());
        Self(RwLock::new(State {
            revision_row,
            since: Instant::now(),
            accounts_noticed,
            machines_noticed,
            begun: now,
            polled: now,
            failed: None,
        }))
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn revision_row(&self) -> RevisionRow {
        self.read(|state| state.revision_row)
    }

    /// Notes the row that came with an answer. It replaces older ones only.
    pub(crate) fn note(&self, revision_row: RevisionRow) -> Noted {
        if self.read(|state| state.revision_row == revision_row) {
            return Noted::Good;
        }
        self.write(|state| {
            if !revision_row.follow(&state.revision_row) {
                return Noted::Other;
            }
            state.replace(revision_row);
            Noted::Good
        })
    }

    /// Takes another history over: a back-up was restored, or a standby that lacks changes was promoted.
    /// `false` if what is known was seen after `opened`, so that the connection may lead to a server that was
    /// the primary before.
    pub(crate) fn take_over(&self, revision_row: RevisionRow, opened: Instant) -> bool {
        self.write(|state| {
            let is_newer = opened > state.since;
            if is_newer {
                state.replace(revision_row);
                state.notice_all();
            }
            is_newer
        })
    }

    /// Lets no cached answer count any more.
    pub(crate) fn flush(&self) {
        self.write(State::notice_all);
    }

    /// A poll begins at this moment.
    pub(crate) fn poll_begun(&self, started: Moment) {
        self.write(|state| state.begun = started);
    }

    /// A poll that began at this moment was answered.
    pub(crate) fn polled(&self, started: Moment) {
        self.write(|state| (state.polled, state.failed) = (started, None));
    }

    pub(crate) fn poll_failed(&self, started: Moment, error: StoreError) {
        self.write(|state| state.failed = Some((started, error)));
    }

    /// What is known for a call that came at `arrived`, and to which a revision counts that was read `since`
    /// then; `None` if a poll that began later has to tell.
    pub(crate) fn since(&self, since: Moment, arrived: Moment) -> Option<Result<(), StoreError>> {
        self.read(|state| match &state.failed {
            _ if state.polled >= since => Some(Ok(())),
            Some((started, error)) if *started >= arrived => Some(Err(error.clone())),
            _ => None,
        })
    }

    /// Whether no poll has begun since that moment.
    pub(crate) fn is_due(&self, since: Moment) -> bool {
        self.read(|state| state.begun < since)
    }

    /// The revision of the accounts.
    pub(crate) fn accounts(&self, max_age: Duration) -> Result<Revision, StoreError> {
        self.read(|state| state.revision(state.revision_row.accounts, state.accounts_noticed, max_age))
    }

    /// The revision of the machines.
    pub(crate) fn machines(&self, max_age: Duration) -> Result<Revision, StoreError> {
        self.read(|state| state.revision(state.revision_row.machines, state.machines_noticed, max_age))
    }
}

impl State {
    fn replace(&mut self, revision_row: RevisionRow) {
        if revision_row.accounts != self.revision_row.accounts
            || revision_row.groups != self.revision_row.groups
        {
            self.accounts_noticed = Revision::notice();
        }
        if revision_row.machines != self.revision_row.machines {
            self.machines_noticed = Revision::notice();
        }
        self.revision_row = revision_row;
        self.since = Instant::now();
    }

    fn notice_all(&mut self) {
        (self.accounts_noticed, self.machines_noticed) = (Revision::notice(), Revision::notice());
    }

    fn revision(&self, number: Counter, noticed: u64, max_age: Duration) -> Result<Revision, StoreError> {
        let age = self.polled.elapsed();
        if age <= max_age {
            return Ok(Revision::stored(number.0.cast_unsigned(), number.1.cast_unsigned(), noticed));
        }
        let why = match &self.failed {
            Some((_, StoreError::Unavailable(why) | StoreError::Damaged(why))) => format!(": {why}"),
            Some((_, error)) => format!(": {error}"),
            None => String::new(),
        };
        Err(StoreError::Unavailable(format!("PostgreSQL has not answered for {} s{why}", age.as_secs())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision_row(accounts: Counter) -> RevisionRow {
        RevisionRow { accounts, ..RevisionRow::default() }
    }

    #[test]
    fn a_later_row_replaces_an_earlier_one_whichever_comes_first() {
        let seen = Seen::new(revision_row((5, 50)));
        assert_eq!(seen.note(revision_row((7, 70))), Noted::Good);
        assert_eq!(seen.note(revision_row((6, 60))), Noted::Other, "an answer that was under way");
        assert_eq!(seen.note(revision_row((7, 71))), Noted::Other, "another history");
        assert_eq!(seen.revision_row(), revision_row((7, 70)));
    }

    #[test]
    fn another_history_is_taken_over_from_a_newer_connection_only() {
        let before = Instant::now();
        let seen = Seen::new(revision_row((5, 50)));
        let first = seen.accounts(Duration::MAX).expect("it was just polled");
        assert!(!seen.take_over(revision_row((4, 40)), before));
        assert!(seen.take_over(revision_row((4, 40)), Instant::now() + Duration::from_millis(1)));
        let second = seen.accounts(Duration::MAX).expect("it was just polled");
        assert!(first != second && !second.is_unbroken_since(&first));
        assert_eq!(seen.revision_row(), revision_row((4, 40)));
    }

    #[test]
    fn what_was_not_polled_for_too_long_is_an_error_with_the_reason() {
        let seen = Seen::new(RevisionRow::default());
        seen.poll_failed(Moment::now(), StoreError::Unavailable("connection refused".to_owned()));
        assert!(seen.accounts(Duration::from_secs(60)).is_ok());
        let error = seen.accounts(Duration::ZERO).expect_err("it is too long ago").to_string();
        assert!(error.contains("connection refused"), "{error}");
        assert!(seen.machines(Duration::ZERO).is_err());
    }

    #[test]
    fn a_poll_that_began_before_a_call_tells_it_nothing() {
        let seen = Seen::new(RevisionRow::default());
        let at = |ms| Moment::now().before(Duration::from_secs(60) - Duration::from_millis(ms));
        let (first, call, second) = (at(0), at(1_000), at(2_000));
        seen.polled(first);
        assert!(seen.since(call, call).is_none(), "it may have read an older revision");
        seen.poll_failed(first, StoreError::OtherKey);
        assert!(seen.since(call, call).is_none(), "the next poll may succeed");
        assert!(matches!(seen.since(first, call), Some(Ok(()))), "an older revision counts for this store");
        seen.poll_failed(second, StoreError::OtherKey);
        assert!(matches!(seen.since(call, call), Some(Err(StoreError::OtherKey))));
        assert!(matches!(seen.since(first, call), Some(Ok(()))));
        seen.polled(second);
        assert!(matches!(seen.since(call, call), Some(Ok(()))));
    }
}
