//! What a node knows of sessions whose state is in cookies: those that it opened or served. It is for
//! operators alone, and decides nothing.

use super::table::{DEPARTED_MAX, Ended, Holder, SESSIONS_MAX};
use super::{EndReason, Session};
use dcerpc::quota::{FairTable, Ticket};
use dtyp::FileTime;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Sessions that a node has seen, at most [`SESSIONS_MAX`]. Beyond it the oldest of the account with most of
/// them is forgotten, and goes on.
#[derive(Debug)]
pub struct KnownSessions(Mutex<Table>);

#[derive(Debug)]
struct Table {
    entries: FairTable<Holder, Arc<Session>>,
    by_name: HashMap<String, Ticket>,
    /// What ended here before its time, for the caller.
    departed: VecDeque<Ended>,
}

impl Default for KnownSessions {
    fn default() -> Self {
        Self(Mutex::new(Table {
            entries: FairTable::new(SESSIONS_MAX, SESSIONS_MAX),
            by_name: HashMap::new(),
            departed: VecDeque::new(),
        }))
    }
}

impl KnownSessions {
    /// A message of a session was verified here, or the session was opened here.
    pub fn seen(&self, session: &Arc<Session>, source: IpAddr) {
        let mut table = self.lock();
        let known = table.by_name.get(&session.name).copied();
        if let Some(known) = known.and_then(|ticket| table.entries.get_mut(ticket)) {
            // A message under the key before the last renewal does not hide the renewal.
            if session.instance.is_some() {
                known.clone_from(session);
            }
            return;
        }
        let holder = Holder::of(session.identity.as_ref(), source);
        let (ticket, evicted) = table.entries.insert(holder, Arc::clone(session));
        if let Some((_, evicted)) = evicted {
            table.by_name.remove(&evicted.name);
        }
        table.by_name.insert(session.name.clone(), ticket);
    }

    /// A session ended; with a reason if it was not its client that ended it.
    pub fn ended(&self, session: &Arc<Session>, reason: Option<EndReason>) {
        let mut table = self.lock();
        table.remove(&session.name);
        if reason.is_some() {
            if table.departed.len() >= DEPARTED_MAX {
                table.departed.pop_front();
            }
            table.departed.push_back(Ended { session: Arc::clone(session), reason });
        }
    }

    /// Forgets what has expired, and returns what ended here since the last call.
    pub fn expire(&self, now: FileTime) -> Vec<Ended> {
        let mut table = self.lock();
        let over = table.list().filter(|session| session.until <= now).map(|session| session.name.clone());
        for name in over.collect::<Vec<_>>() {
            table.remove(&name);
        }
        table.departed.drain(..).collect()
    }

    /// A session by its name.
    pub fn get(&self, name: &str) -> Option<Arc<Session>> {
        let table = self.lock();
        table.entries.get(*table.by_name.get(name)?).cloned()
    }

    /// All sessions, in no order.
    pub fn list(&self) -> Vec<Arc<Session>> {
        self.lock().list().cloned().collect()
    }

    /// How many there are, for a gauge.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn list(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.by_name.values().filter_map(|ticket| self.entries.get(*ticket))
    }

    fn remove(&mut self, name: &str) {
        if let Some(ticket) = self.by_name.remove(name) {
            self.entries.remove(ticket);
        }
    }
}
