//! Making guessing slow: after some failures an account is not even looked at from that source for a while.

use dtyp::FileTime;
use std::collections::HashMap;
use std::net::IpAddr;

/// Failures that are free: a machine may be told its new secret in the wrong order.
const FREE_FAILURES: u32 = 4;
/// The longest wait, in seconds.
const WAIT_MAX: u64 = 60;
/// Pairs of account and source; only accounts that exist are counted, so this is generous.
const ENTRIES_MAX: usize = 10_000;
const SECOND: u64 = 10_000_000;

#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: HashMap<(String, IpAddr), (u32, FileTime)>,
}

impl Backoff {
    /// Whether an attempt is refused without a look.
    pub(super) fn is_blocked(&self, now: FileTime, account: &str, source: IpAddr) -> bool {
        self.failures.get(&(account.to_owned(), source)).is_some_and(|(_, until)| now < *until)
    }

    /// Counts a failure: each one above the free ones doubles the wait.
    pub(super) fn failed(&mut self, now: FileTime, account: &str, source: IpAddr) {
        if self.failures.len() >= ENTRIES_MAX {
            self.failures.retain(|_, (_, until)| now.0 < until.0 + WAIT_MAX * SECOND);
        }
        if self.failures.len() >= ENTRIES_MAX {
            return;
        }
        let (count, until) = self.failures.entry((account.to_owned(), source)).or_default();
        *count += 1;
        if let Some(over) = count.checked_sub(FREE_FAILURES + 1) {
            let wait = 1u64.checked_shl(over).unwrap_or(WAIT_MAX).min(WAIT_MAX);
            *until = FileTime(now.0 + wait * SECOND);
        }
    }

    /// Forgets the failures.
    pub(super) fn succeeded(&mut self, account: &str, source: IpAddr) {
        self.failures.remove(&(account.to_owned(), source));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_end() {
        let mut backoff = Backoff::default();
        let source = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
        let mut now = FileTime(SECOND);
        for _ in 0..FREE_FAILURES {
            backoff.failed(now, "WEB1$", source);
            assert!(!backoff.is_blocked(now, "WEB1$", source));
        }
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            backoff.failed(now, "WEB1$", source);
            assert!(backoff.is_blocked(FileTime(now.0 + wait * SECOND - 1), "WEB1$", source), "{wait} s");
            now = FileTime(now.0 + wait * SECOND);
            assert!(!backoff.is_blocked(now, "WEB1$", source), "{wait} s");
        }
        assert!(!backoff.is_blocked(now, "WEB2$", source));
        backoff.succeeded("WEB1$", source);
        backoff.failed(now, "WEB1$", source);
        assert!(!backoff.is_blocked(now, "WEB1$", source));
    }
}
