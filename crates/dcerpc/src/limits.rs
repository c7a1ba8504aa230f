//! What a peer can make grow, and how far. Each bound is here with its reason.

use crate::security::Account;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest fragment over TCP: what Windows uses, and four Ethernet frames.
pub const FRAGMENT_LEN_MAX: usize = 5840;
/// Shortest longest fragment that a peer may ask for (\[C706\] 12.6.3.1 has 1,432; Windows and Samba use
/// 2,048).
pub const FRAGMENT_LEN_MIN: usize = 2048;
/// Longest stub of a call, together over its fragments ([MS-RPCE] 3.3.3.5.4).
pub const CALL_LEN_MAX: usize = 0x40_0000;
/// How much of an unauthenticated call's stub is kept; the methods open to every client need a few hundred
/// bytes. The rest is counted and thrown away.
pub const ANONYMOUS_CALL_LEN_MAX: usize = 64 * 1024;
/// Reassembly of all calls under a security context of one server together, so that many slow callers cannot
/// hold its memory. Unauthenticated calls take none of it: their memory is part of [`UNPROVED_LEN_MAX`].
pub const REASSEMBLY_LEN_MAX: usize = 64 * 1024 * 1024;
/// One account gets one part in so many of [`REASSEMBLY_LEN_MAX`], so that its calls do not keep those of
/// others from arriving. It is enough for four of the longest calls.
pub const REASSEMBLY_ACCOUNT_SHARE: usize = 4;
/// Buffers of all connections of one server whose clients have proved nothing: half PDUs, calls, answers. It
/// holds 256 of the longest PDU, and a client that sets up a secure channel needs less than
/// [`UNPROVED_LEN_FREE`].
pub const UNPROVED_LEN_MAX: usize = 16 * 1024 * 1024;
/// So much of each connection is not charged to [`UNPROVED_LEN_MAX`]: the limit on connections bounds it.
pub const UNPROVED_LEN_FREE: usize = 4 * 1024;
/// Presentation contexts of one association; clients use three.
pub const PRESENTATION_CONTEXTS_MAX: usize = 64;
/// Transfer syntaxes looked at in one presentation context; there are three in the world.
pub const TRANSFER_SYNTAXES_MAX: usize = 16;
/// Security contexts of one association that are set up: what Windows allows.
pub const SECURITY_CONTEXTS_MAX: usize = 2048;
/// Security contexts of one association under which nothing was verified yet: these cost memory before the
/// peer is known.
pub const SECURITY_CONTEXTS_UNFINISHED_MAX: usize = 16;
/// What a security context counts for in [`UNPROVED_LEN_MAX`]: a provider keeps the keys of a few candidates.
pub const SECURITY_CONTEXT_LEN: usize = 2048;
/// Calls of one association that wait for the one before them.
pub const CALLS_WAITING_MAX: usize = 16;
/// Calls of one association that are being put together from fragments, when the peer multiplexes.
pub const CALLS_UNFINISHED_MAX: usize = 8;
/// How far from the end of a stub a verification trailer is searched: all its commands take 100 bytes.
pub const VERIFICATION_TRAILER_SEARCH: usize = 1024;

/// How long a PDU may take to arrive, from its first byte to its last, where the client has proved nothing:
/// the whole set-up of a secure channel takes four round trips.
pub const PDU_ARRIVAL_TIME_UNPROVED_MAX: Duration = Duration::from_secs(10);
/// The same where the client has proved who it is, for slow networks.
pub const PDU_ARRIVAL_TIME_MAX: Duration = Duration::from_secs(60);
/// How long a call may take to arrive, from its first fragment to its last: unfinished ones hold memory.
pub const CALL_ARRIVAL_TIME_MAX: Duration = Duration::from_secs(60);
/// How long a security context may take from its first leg to its last: clients answer a token at once.
pub const SECURITY_SETUP_TIME_MAX: Duration = Duration::from_secs(30);
/// PDUs that wait to be sent while a call takes its time; then nothing more is read.
pub const TRANSMITS_WAITING_MAX: usize = 64;

/// Who counts as one peer where a limit is for each: an IPv4 address, or the /64 that one host on IPv6 has to
/// itself.
pub fn source_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
        },
    }
}

/// Memory for the reassembly of calls under a security context, which all associations of a server share.
/// Calls of one fragment need none of it.
#[derive(Debug)]
pub struct ReassemblyBudget {
    used: Mutex<Used>,
    max: usize,
}

#[derive(Debug, Default)]
struct Used {
    total: usize,
    by_account: HashMap<Option<Account>, usize>,
}

impl ReassemblyBudget {
    /// A budget of `max` bytes.
    pub fn new(max: usize) -> Self {
        Self { used: Mutex::default(), max }
    }

    /// Bytes in use now.
    pub fn used(&self) -> usize {
        self.lock().total
    }

    fn take(&self, account: Option<Account>, len: usize) -> bool {
        let mut used = self.lock();
        let own = used.by_account.get(&account).copied().unwrap_or(0) + len;
        let fits = used.total + len <= self.max && own <= self.max / REASSEMBLY_ACCOUNT_SHARE;
        if fits {
            used.total += len;
            used.by_account.insert(account, own);
        }
        fits
    }

    fn give_back(&self, account: Option<Account>, len: usize) {
        let mut used = self.lock();
        used.total -= len;
        if let Some(own) = used.by_account.get_mut(&account) {
            *own -= len;
            if *own == 0 {
                used.by_account.remove(&account);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for ReassemblyBudget {
    fn default() -> Self {
        Self::new(REASSEMBLY_LEN_MAX)
    }
}

/// A stub that grows fragment by fragment. Under a security context it grows within a budget, which it gives
/// back when dropped; without one it is part of [`crate::server::ServerAssociation::held_bytes`].
#[derive(Debug)]
pub(crate) struct Reassembly {
    bytes: Vec<u8>,
    /// Length of the stub so far, what was not kept included.
    len: usize,
    /// Bytes of `budget` that it has; never more than the capacity of `bytes`.
    charged: usize,
    budget: Option<(Arc<ReassemblyBudget>, Option<Account>)>,
}

/// Why a stub may not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReassemblyError {
    TooLong,
    OutOfBudget,
}

impl Reassembly {
    /// An empty stub, and the account that it is charged to; `None` is for an unauthenticated call.
    pub(crate) const fn new(budget: Option<(Arc<ReassemblyBudget>, Option<Account>)>) -> Self {
        Self { bytes: Vec::new(), len: 0, charged: 0, budget }
    }

    /// Bytes of the stub that are kept.
    pub(crate) const fn kept(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of memory.
    pub(crate) const fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(crate) fn push(&mut self, stub: &[u8]) -> Result<(), ReassemblyError> {
        self.len += stub.len();
        if self.len > CALL_LEN_MAX {
            return Err(ReassemblyError::TooLong);
        }
        let keep_max = if self.budget.is_none() { ANONYMOUS_CALL_LEN_MAX } else { CALL_LEN_MAX };
        let kept = &stub[..stub.len().min(keep_max - self.bytes.len())];
        let needed = self.bytes.len() + kept.len();
        if needed > self.bytes.capacity() {
            let doubled = needed.max(2 * self.bytes.capacity()).min(keep_max);
            if !self.grow(doubled) && !self.grow(needed) {
                return Err(ReassemblyError::OutOfBudget);
            }
        }
        self.bytes.extend_from_slice(kept);
        Ok(())
    }

    /// Makes room for so many bytes in all, if the budget has them: the capacity is charged, and not the
    /// length.
    fn grow(&mut self, capacity: usize) -> bool {
        if let Some((budget, account)) = &self.budget {
            if !budget.take(*account, capacity - self.charged) {
                return false;
            }
            self.charged = capacity;
        }
        self.bytes.reserve_exact(capacity - self.bytes.len());
        true
    }

    pub(crate) fn into_stub(mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Reassembly {
    fn drop(&mut self) {
        if let Some((budget, account)) = &self.budget {
            budget.give_back(*account, self.charged);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dtyp::Sid;

    #[test]
    fn one_account_does_not_hold_all_memory_for_reassembly() {
        let budget = Arc::new(ReassemblyBudget::new(40_000));
        let account = |n| Some((Arc::clone(&budget), Sid::new(5, &[21, 1, 2, 3, n]).map(Account::Sid)));
        let mut calls: Vec<Reassembly> = (0..20).map(|_| Reassembly::new(account(1))).collect();
        let kept = calls.iter_mut().filter_map(|call| call.push(&[0; 1000]).ok()).count();
        assert_eq!(kept, 10, "a quarter");
        let mut other = Reassembly::new(account(2));
        assert_eq!(other.push(&[0; 9000]), Ok(()));
        assert_eq!(other.push(&[0; 1000]), Ok(()), "what is left, where twice the capacity does not fit");
        assert_eq!(other.push(&[0]), Err(ReassemblyError::OutOfBudget));
        assert_eq!(budget.used(), 20_000);
        drop((calls, other));
        assert_eq!(budget.used(), 0);
        assert!(budget.lock().by_account.is_empty());
    }
}
