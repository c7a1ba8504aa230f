//! Calls that the service behind the gateway has not answered yet.

use super::Failure;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tlsnego_service::session::{Holder, Session};

/// Counts calls, in all and of one caller.
#[derive(Debug)]
pub(super) struct Calls {
    max: usize,
    of_caller_max: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_caller: HashMap<Holder, usize>,
}

/// A call, until it is dropped.
#[derive(Debug)]
pub(super) struct InProgress<'c> {
    calls: &'c Calls,
    caller: Holder,
}

impl Calls {
    pub(super) fn new(max: usize, of_caller_max: usize) -> Self {
        Self { max, of_caller_max, counts: Mutex::default() }
    }

    /// Begins a call, if there may be one more.
    pub(super) fn begin(&self, session: &Session, source: IpAddr) -> Result<InProgress<'_>, Failure> {
        let caller = Holder::of(session.identity.as_ref(), source);
        let mut counts = self.lock();
        if counts.all >= self.max {
            return Err(Failure::Busy { calls: self.max, of: "of all clients" });
        }
        let count = counts.by_caller.entry(caller.clone()).or_default();
        if *count >= self.of_caller_max {
            return Err(Failure::Busy { calls: self.of_caller_max, of: "of this account or address" });
        }
        *count += 1;
        counts.all += 1;
        Ok(InProgress { calls: self, caller })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        let mut counts = self.calls.lock();
        counts.all -= 1;
        if let Some(count) = counts.by_caller.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                counts.by_caller.remove(&self.caller);
            }
        }
    }
}
