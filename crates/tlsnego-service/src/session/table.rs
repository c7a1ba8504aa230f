//! The security context tokens of a server, each with its keys.

use super::renewal::{Purpose, renewal_after};
use super::{Credential, EndReason, Identity, Session, SessionKind};
use crate::Moment;
use crate::failures::FAILURES_MAX;
use crate::fault::Reason;
use crate::key::Key;
use crate::names::CONTEXT_LEN_MAX;
use dcerpc::limits::source_of;
use dcerpc::quota::{FairTable, Ticket};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Tokens at once, some 1 KiB each. A new one always gets in: beyond it the oldest token of the account with
/// most of them is evicted. Tokens of anonymous clients count for their address.
pub const SESSIONS_MAX: usize = 10_000;
/// Sessions that were established and not used yet, as .NET has it. Beyond it a client is told that the
/// server is too busy, unless another account or address has more of them than it would have: then the oldest
/// one of those with most is evicted.
pub const PENDING_MAX: usize = 128;
/// Sessions that ended before their time, which clients are told of.
const ENDED_MAX: usize = 1_024;
/// Ended sessions that the caller has not taken yet: as many as can end at once.
pub(super) const DEPARTED_MAX: usize = 2 * SESSIONS_MAX;
/// How often the whole table is searched for what is over, if it is full.
const SEARCH_PAUSE: Duration = Duration::from_secs(1);

/// How long tokens and keys live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTimes {
    /// A negotiated token: 10 h if it protects calls, 15 min if it is only used to establish a session.
    pub negotiated: Duration,
    /// An established session in all, over all renewals. A key is due for renewal after three quarters of
    /// what is left of it when the key is issued.
    pub established: Duration,
    /// An established session that is not used for so long is dropped.
    pub idle: Duration,
    /// For so long a key counts after its renewal.
    pub rollover: Duration,
}

impl SessionTimes {
    /// A negotiated token that protects calls.
    pub const CALLS: Duration = Duration::from_secs(10 * 3600);
    /// A negotiated token that is only used to establish a session.
    pub const BOOTSTRAP: Duration = Duration::from_secs(15 * 60);

    /// How long a token of this kind lives.
    pub const fn of(&self, kind: SessionKind) -> Duration {
        match kind {
            SessionKind::Established => self.established,
            SessionKind::Negotiated | SessionKind::OneShot => self.negotiated,
        }
    }
}

impl Default for SessionTimes {
    /// As .NET has it, except for the renewal of keys ([`renewal_due`](super::renewal_due)): that of .NET is
    /// due after 15 h, when a token of 10 h has expired.
    fn default() -> Self {
        Self {
            negotiated: Self::BOOTSTRAP,
            established: Self::CALLS,
            idle: Duration::from_secs(2 * 60),
            rollover: Duration::from_secs(5 * 60),
        }
    }
}

/// A token to be added.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// `c:Identifier`: a new absolute URI.
    pub name: String,
    /// Its key.
    pub key: Key,
    /// Whose it is.
    pub identity: Option<Identity>,
    /// How that was proved.
    pub credential: Credential,
    /// The address of the client, for which the token of an anonymous client counts.
    pub source: IpAddr,
}

/// Which key of a token a message means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation<'a> {
    /// A reference without `c:Instance`: the newest.
    Newest,
    /// A token in the message, with its `c:Instance` or without one; or a reference with one.
    Exact(Option<&'a str>),
}

/// A session with one of its keys.
#[derive(Clone, Debug)]
pub struct Keyed {
    /// The session.
    pub session: Arc<Session>,
    /// The key that the message means.
    pub key: Key,
}

/// Why a message is refused, and the session whose key secures the fault.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// None if the fault is not secured.
    pub secured_by: Option<Keyed>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self { reason, secured_by: None }
    }
}

/// A session that is over.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The session.
    pub session: Arc<Session>,
    /// Why it ended before its time; none if it expired.
    pub reason: Option<EndReason>,
}

/// What Renew brings.
#[derive(Debug)]
pub struct Renewal<'a> {
    /// The account that asks, which has to be the session's.
    pub identity: Option<&'a Identity>,
    /// The new `c:Instance`: an absolute URI that is used once.
    pub instance: String,
    /// The new key.
    pub key: Key,
}

/// The tokens of one server.
#[derive(Debug)]
pub struct Sessions {
    times: SessionTimes,
    table: Mutex<Table>,
}

/// The account or address that a token or a call counts for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// An account.
    Account(String),
    /// The source of an anonymous client.
    Source(IpAddr),
}

impl Holder {
    /// The holder of what a client with this identity, or without one, has at this address.
    pub fn of(identity: Option<&Identity>, source: IpAddr) -> Self {
        match identity {
            Some(identity) => Self::Account(identity.account.clone()),
            None => Self::Source(source_of(source)),
        }
    }
}

#[derive(Debug)]
struct Table {
    entries: FairTable<Holder, Entry>,
    by_name: HashMap<String, Ticket>,
    /// Names of established sessions that were not used yet.
    pending: FairTable<Holder, String>,
    /// What ended before its time, the oldest first.
    ended: VecDeque<(Keyed, EndReason)>,
    /// What ended, for the caller.
    departed: VecDeque<Ended>,
    next_search: Duration,
}

#[derive(Debug)]
struct Entry {
    session: Arc<Session>,
    key: Key,
    renewal: Duration,
    /// The key before the last renewal, its instance, and until when it counts.
    previous: Option<(Key, Option<String>, Duration)>,
    deadline: Duration,
    last_use: Duration,
    pending: Option<Ticket>,
    failures: u32,
}

impl Entry {
    /// Why it is over now, if it is. `Some(None)` if its time is over.
    fn is_over(&self, now: Duration, times: &SessionTimes) -> Option<Option<EndReason>> {
        let is_idle = self.session.kind == SessionKind::Established && self.last_use + times.idle <= now;
        match self.deadline <= now {
            true => Some(None),
            false => is_idle.then_some(Some(EndReason::Idle)),
        }
    }
}

impl Sessions {
    /// No tokens.
    pub fn new(times: SessionTimes) -> Self {
        let table = Table {
            entries: FairTable::new(SESSIONS_MAX, SESSIONS_MAX),
            by_name: HashMap::new(),
            pending: FairTable::new(PENDING_MAX, PENDING_MAX),
            ended: VecDeque::new(),
            departed: VecDeque::new(),
            next_search: Duration::ZERO,
        };
        Self { times, table: Mutex::new(table) }
    }

    /// Adds a token that was negotiated.
    pub fn negotiated(&self, new: NewSession, now: Moment) -> Result<Arc<Session>, Reason> {
        self.add(new, SessionKind::Negotiated, None, now)
    }

    /// Adds a token that was established under another one, or under an EncryptedKey, of this name. A
    /// negotiated token ends with it: its purpose is fulfilled.
    pub fn establish(&self, new: NewSession, parent: &str, now: Moment) -> Result<Arc<Session>, Reason> {
        self.add(new, SessionKind::Established, Some(parent), now)
    }

    /// The key for a message that names this token.
    pub fn find(
        &self,
        name: &str,
        generation: Generation<'_>,
        purpose: Purpose,
        now: Moment,
    ) -> Result<Keyed, Refusal> {
        let mut table = self.lock();
        let Some((ticket, entry)) = table.get(name) else { return Err(table.refusal(name)) };
        if let Some(reason) = entry.is_over(now.uptime, &self.times) {
            table.end(ticket, reason);
            return Err(table.refusal(name));
        }
        let (key, is_newest) = match (generation, &entry.previous) {
            (Generation::Newest, _) => (&entry.key, true),
            (Generation::Exact(instance), _) if instance == entry.session.instance.as_deref() => {
                (&entry.key, true)
            }
            (Generation::Exact(instance), Some((key, previous, until)))
                if instance == previous.as_deref() && now.uptime < *until =>
            {
                (key, false)
            }
            _ => return Err(Reason::UnknownToken.into()),
        };
        let keyed = Keyed { session: Arc::clone(&entry.session), key: key.clone() };
        match is_newest && entry.session.is_renewal_due(purpose, entry.renewal, now.uptime) {
            true => Err(Refusal { reason: Reason::RenewalDue, secured_by: Some(keyed) }),
            false => Ok(keyed),
        }
    }

    /// A message under the token was verified. The session is no longer pending, and not idle.
    pub fn used(&self, name: &str, now: Moment) {
        let mut table = self.lock();
        let Some((ticket, _)) = table.get(name) else { return };
        let Some(entry) = table.entries.get_mut(ticket) else { return };
        entry.last_use = entry.last_use.max(now.uptime);
        if let Some(pending) = entry.pending.take() {
            table.pending.remove(pending);
        }
    }

    /// A message under the token did not decrypt or verify. After [`FAILURES_MAX`] the session ends, and true
    /// is returned. Failures are never forgotten while the token lives. The caller does not wait for anything
    /// between [`Self::find`] and this, so at most one message of each thread is tried beyond the limit.
    pub fn failed(&self, name: &str) -> bool {
        let mut table = self.lock();
        let Some((ticket, _)) = table.get(name) else { return false };
        let Some(entry) = table.entries.get_mut(ticket) else { return false };
        entry.failures += 1;
        let is_over = entry.failures >= FAILURES_MAX;
        if is_over {
            table.end(ticket, Some(EndReason::Failures));
        }
        is_over
    }

    /// Gives the session a new key. Its name, its identity and its end stay. The key before it counts for a
    /// while.
    pub fn renew(&self, name: &str, renewal: Renewal<'_>, now: Moment) -> Result<Arc<Session>, Reason> {
        let Renewal { identity, instance, key } = renewal;
        let mut table = self.lock();
        let (ticket, entry) = table.get(name).ok_or(Reason::UnknownToken)?;
        if entry.is_over(now.uptime, &self.times).is_some() {
            return Err(Reason::UnknownToken);
        }
        entry.session.check_renew(identity)?;
        if instance.is_empty() || instance.len() > CONTEXT_LEN_MAX {
            return Err(Reason::unsupported("Instance", &instance));
        }
        let Some(entry) = table.entries.get_mut(ticket) else { return Err(Reason::UnknownToken) };
        let session = Arc::new(Session { instance: Some(instance), ..Session::clone(&entry.session) });
        let before = std::mem::replace(&mut entry.session, Arc::clone(&session));
        let key = std::mem::replace(&mut entry.key, key);
        entry.previous = Some((key, before.instance.clone(), now.uptime + self.times.rollover));
        entry.renewal = now.uptime + renewal_after(entry.deadline.saturating_sub(now.uptime));
        entry.last_use = entry.last_use.max(now.uptime);
        Ok(session)
    }

    /// Cancel: the token that it names has to be the one under which the message was verified.
    pub fn cancel(&self, target: &str, verified_by: &str) -> Result<Arc<Session>, Reason> {
        if target != verified_by {
            return Err(Reason::NotAllowed("a token is cancelled under itself"));
        }
        let mut table = self.lock();
        let (ticket, _) = table.get(target).ok_or(Reason::UnknownToken)?;
        let entry = table.remove(ticket).ok_or(Reason::UnknownToken)?;
        Ok(entry.session)
    }

    /// Ends a session for an operator, or when the service stops.
    pub fn end(&self, name: &str) -> bool {
        self.end_before_time(name, EndReason::Operator)
    }

    /// Ends a session before its time. False if there is none of this name.
    pub fn end_before_time(&self, name: &str, reason: EndReason) -> bool {
        let mut table = self.lock();
        let Some((ticket, _)) = table.get(name) else { return false };
        table.end(ticket, Some(reason));
        true
    }

    /// A session by its name.
    pub fn get(&self, name: &str) -> Option<Arc<Session>> {
        self.lock().get(name).map(|(_, entry)| Arc::clone(&entry.session))
    }

    /// All sessions, in no order.
    pub fn list(&self) -> Vec<Arc<Session>> {
        let table = self.lock();
        let all = table.by_name.values().filter_map(|ticket| table.entries.get(*ticket));
        all.map(|entry| Arc::clone(&entry.session)).collect()
    }

    /// Tokens, for a gauge.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sessions that were established and not used yet, for a gauge.
    pub fn pending(&self) -> usize {
        self.lock().pending.len()
    }

    /// Ends what is over, and returns all that ended since the last call, except what was cancelled.
    pub fn expire(&self, now: Moment) -> Vec<Ended> {
        let mut table = self.lock();
        table.expire(now.uptime, &self.times);
        table.departed.drain(..).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(
        &self,
        new: NewSession,
        kind: SessionKind,
        parent: Option<&str>,
        now: Moment,
    ) -> Result<Arc<Session>, Reason> {
        let NewSession { name, key, identity, credential, source } = new;
        let lifetime = self.times.of(kind);
        let holder = Holder::of(identity.as_ref(), source);
        let session = Arc::new(Session {
            kind,
            name: name.clone(),
            instance: None,
            parent: parent.map(str::to_owned),
            identity,
            credential,
            since: now.wall,
            until: now.wall + lifetime,
        });
        let mut table = self.lock();
        if name.is_empty() || name.len() > CONTEXT_LEN_MAX || table.by_name.contains_key(&name) {
            return Err(Reason::unsupported("Identifier", &name));
        }
        table.make_room(now.uptime, &self.times);
        let pending = match kind {
            SessionKind::Established => Some(table.add_pending(&holder, &name)?),
            SessionKind::Negotiated | SessionKind::OneShot => None,
        };
        let parent = parent.and_then(|parent| table.get(parent));
        if let Some((ticket, SessionKind::Negotiated)) = parent.map(|(at, entry)| (at, entry.session.kind)) {
            table.remove(ticket);
        }
        let entry = Entry {
            session: Arc::clone(&session),
            key,
            renewal: now.uptime + renewal_after(lifetime),
            previous: None,
            deadline: now.uptime + lifetime,
            last_use: now.uptime,
            pending,
            failures: 0,
        };
        let (ticket, evicted) = table.entries.insert(holder, entry);
        table.by_name.insert(name, ticket);
        if let Some((_, entry)) = evicted {
            table.forget(entry, Some(EndReason::Evicted));
        }
        Ok(session)
    }
}

impl Table {
    fn get(&self, name: &str) -> Option<(Ticket, &Entry)> {
        let ticket = *self.by_name.get(name)?;
        Some((ticket, self.entries.get(ticket)?))
    }

    /// What a client is told of a token that is not here.
    fn refusal(&self, name: &str) -> Refusal {
        match self.ended.iter().find(|(keyed, _)| keyed.session.name == name) {
            Some((keyed, why)) => Refusal { reason: Reason::Ended(*why), secured_by: Some(keyed.clone()) },
            None => Reason::UnknownToken.into(),
        }
    }

    fn add_pending(&mut self, holder: &Holder, name: &str) -> Result<Ticket, Reason> {
        if self.pending.len() >= PENDING_MAX {
            let Some((_, evicted)) = self.pending.evict_for(holder) else {
                return Err(Reason::TooManyPending(PENDING_MAX));
            };
            if let Some((ticket, _)) = self.get(&evicted) {
                self.end(ticket, Some(EndReason::Evicted));
            }
        }
        Ok(self.pending.insert(holder.clone(), name.to_owned()).0)
    }

    /// Before an entry is added: what is over ends first, so that it takes no place of what is not.
    fn make_room(&mut self, now: Duration, times: &SessionTimes) {
        let is_full = self.entries.len() >= SESSIONS_MAX || self.pending.len() >= PENDING_MAX;
        if is_full && self.next_search <= now {
            self.next_search = now + SEARCH_PAUSE;
            self.expire(now, times);
        }
    }

    fn expire(&mut self, now: Duration, times: &SessionTimes) {
        let over = self.by_name.values().filter_map(|ticket| {
            let entry = self.entries.get(*ticket)?;
            Some((*ticket, entry.is_over(now, times)?))
        });
        for (ticket, reason) in over.collect::<Vec<_>>() {
            self.end(ticket, reason);
        }
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Entry> {
        let (_, entry) = self.entries.remove(ticket)?;
        self.by_name.remove(&entry.session.name);
        if let Some(pending) = entry.pending {
            self.pending.remove(pending);
        }
        Some(entry)
    }

    fn end(&mut self, ticket: Ticket, reason: Option<EndReason>) {
        if let Some(entry) = self.remove(ticket) {
            self.forget(entry, reason);
        }
    }

    /// An entry that is no longer in the table of entries.
    fn forget(&mut self, entry: Entry, reason: Option<EndReason>) {
        self.by_name.remove(&entry.session.name);
        if let Some(pending) = entry.pending {
            self.pending.remove(pending);
        }
        let Entry { session, key, .. } = entry;
        if let Some(why) = reason {
            if self.ended.len() >= ENDED_MAX {
                self.ended.pop_front();
            }
            self.ended.push_back((Keyed { session: Arc::clone(&session), key }, why));
        }
        if self.departed.len() >= DEPARTED_MAX {
            self.departed.pop_front();
        }
        self.departed.push_back(Ended { session, reason });
    }
}
