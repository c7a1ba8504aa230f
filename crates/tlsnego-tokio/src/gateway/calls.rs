//! Calls that the service behind the gateway has not answered yet.

use super::Failure;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tlsnego_service::session::{Holder, Session};

/// Counts calls, in all and of one caller, and the octets of those that are anonymous.
#[derive(Debug)]
pub(super) struct Calls {
    max: usize,
    of_caller_max: usize,
    /// Octets of all messages of anonymous clients; of one address a quarter.
    anonymous_len_max: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_caller: HashMap<Holder, Count>,
    anonymous_len: usize,
}

#[derive(Debug, Default)]
struct Count {
    calls: usize,
    anonymous_len: usize,
}

/// A call, until it is dropped.
#[derive(Debug)]
pub(super) struct InProgress<'c> {
    calls: &'c Calls,
    caller: Holder,
    anonymous_len: usize,
}

impl Calls {
    pub(super) fn new(max: usize, of_caller_max: usize, anonymous_len_max: usize) -> Self {
        Self { max, of_caller_max, anonymous_len_max, counts: Mutex::default() }
    }

    /// Begins a call by a message of so many octets, if there may be one more.
    pub(super) fn begin(
        &self,
        session: &Session,
        source: IpAddr,
        len: usize,
    ) -> Result<InProgress<'_>, Failure> {
        let caller = Holder::of(session.identity.as_ref(), source);
        // A caller with an account is known, and bounded by the number of calls.
        let anonymous_len = if session.identity.is_some() { 0 } else { len };
        let mut counts = self.lock();
        let busy = |limit, of| Err(Failure::Busy { limit, of });
        if counts.all >= self.max {
            return busy(self.max, "other calls of all clients");
        }
        if counts.anonymous_len + anonymous_len > self.anonymous_len_max {
            return busy(self.anonymous_len_max, "octets of calls of anonymous clients");
        }
        let own = counts.by_caller.get(&caller);
        let (calls, own_len) = own.map_or((0, 0), |own| (own.calls, own.anonymous_len));
        if calls >= self.of_caller_max {
            return busy(self.of_caller_max, "other calls of this account or address");
        }
        if own_len + anonymous_len > self.anonymous_len_max / 4 {
            return busy(self.anonymous_len_max / 4, "octets of anonymous calls of this address");
        }
        counts.all += 1;
        counts.anonymous_len += anonymous_len;
        let own = counts.by_caller.entry(caller.clone()).or_default();
        own.calls += 1;
        own.anonymous_len += anonymous_len;
        Ok(InProgress { calls: self, caller, anonymous_len })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        let mut counts = self.calls.lock();
        counts.all -= 1;
        counts.anonymous_len -= self.anonymous_len;
        if let Some(own) = counts.by_caller.get_mut(&self.caller) {
            own.calls -= 1;
            own.anonymous_len -= self.anonymous_len;
            if own.calls == 0 {
                counts.by_caller.remove(&self.caller);
            }
        }
    }
}
