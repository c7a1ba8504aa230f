//! The trait that every store implements, its query and its answer.
//!
//! # The contract
//!
//! It holds for all methods of [`AccountStore`], [`crate::MachineStore`] and the traits of [`crate::admin`].
//! The battery (feature `battery`) tests what can be tested of it.
//!
//! - **An `Err` means that the store could not answer.** It never means that there is no account: absence is
//!   [`Matches::None`]. A service answers an `Err` with STATUS_DS_BUSY over RPC and with 500 to a web server,
//!   and caches neither. So a store that has lost its connection, or whose data is damaged, returns `Err`. It
//!   never returns an empty answer instead.
//! - **A dropped future leaves nothing half done.** A service drops the future of a look-up when the client
//!   cancels the call or closes its connection. The next call must work: a connection of a pool that was in
//!   the middle of an answer is closed, not reused.
//! - **The store ends a slow call.** A service sets no time limit for a look-up. A store that asks over a
//!   network has a limit of its own, at most a few seconds, and returns [`StoreError::Unavailable`] when it
//!   is over. Retries are within that limit.
//! - **A method does not block its thread for long.** Methods run on the threads of an async runtime.
//!   Microseconds of work, or a read of a local file, may be done in place. Everything else is awaited, or
//!   runs on a thread of the store.
//! - **Methods are called from many threads at once.** A look-up does not wait for another look-up.
//! - **A panic ends the connection that asked, and no more.** The RPC server and the web listeners catch it
//!   for each connection and log it. It is a fault of the store nevertheless. Whatever the store shares must
//!   stay usable: take the value out of a poisoned lock only if it is whole.
//! - **Contents are published before their revision, or together with it.** If a new revision is seen before
//!   the contents that it names, an old answer is cached under the new revision and stays there.
//!
//! # A store whose accounts are elsewhere
//!
//! [`AccountStore::revision`] is asked for at every cached decision, so it cannot ask a server. A remote
//! store runs a task beside it: the task asks the server at an interval whether something changed (a change
//! counter, the highest sequence number, a timestamp), and stores [`Revision::unique`] in an atomic or behind
//! a lock when it did. `revision` reads what the task stored. The interval is how long a cached decision may
//! outlive a change, so it is seconds. If the server could not be asked for longer than the operator allows,
//! `revision` returns [`StoreError::Unavailable`], and cached decisions are not used until the task has
//! reached the server again. The task holds a weak reference to the store and ends with it: a service opens
//! its stores again at each reload and drops the former ones.

use crate::account::{Account, Membership};
use dtyp::Sid;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The future of an object-safe async method. A store that answers from memory returns one that is ready.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The domain a store holds the accounts of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// NetBIOS name, such as `CONTOSO`.
    pub netbios: String,
    /// DNS name, such as `contoso.example`.
    pub dns: String,
    /// The domain's SID.
    pub sid: Sid,
}

impl Domain {
    /// Whether a name, NetBIOS or DNS, means this domain.
    pub fn is_called(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        name.eq_ignore_ascii_case(&self.netbios) || name.eq_ignore_ascii_case(&self.dns)
    }
}

/// By what an account is looked for. Text is as the certificate or the operator gave it, of any length; the
/// store folds it ([`crate::index::place`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Query {
    /// `userPrincipalName`, compared by [`crate::fold::casefold`].
    UserPrincipalName(String),
    /// `servicePrincipalName`, compared by [`crate::fold::casefold`].
    ServicePrincipalName(String),
    /// One value of `altSecurityIdentities`, compared by [`crate::alt_security_identity::key`].
    AltSecurityIdentity(String),
    /// An e-mail address, compared by [`crate::fold::casefold`]: it tells whether one account alone has it.
    /// The record may have names and addresses only. No certificate is mapped by it.
    Mail(String),
    /// `sAMAccountName`, compared by [`crate::fold::casefold`].
    Name(String),
    /// `objectSid`.
    Sid(Sid),
}

impl Account {
    /// The queries for a certificate that find this account: by its principal names and its mappings.
    pub fn certificate_queries(&self) -> impl Iterator<Item = Query> {
        let name = self.user_principal_name.iter().cloned().map(Query::UserPrincipalName);
        let services = self.service_principal_names.iter().cloned().map(Query::ServicePrincipalName);
        let mappings = self.alt_security_identities.iter().cloned().map(Query::AltSecurityIdentity);
        name.chain(services).chain(mappings)
    }
}

/// What a look-up found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matches {
    /// No account.
    None,
    /// Exactly one.
    One(Arc<Record>),
    /// More than one: this never maps. Some of their names (at most [`Matches::NAMES_MAX`]), for the
    /// explanation of the refusal.
    Many(Vec<String>),
}

impl Matches {
    /// How many names of ambiguous accounts an answer has at most.
    pub const NAMES_MAX: usize = 8;
}

/// The answer for all accounts that match, each once.
impl FromIterator<Arc<Record>> for Matches {
    fn from_iter<I: IntoIterator<Item = Arc<Record>>>(records: I) -> Self {
        let mut records = records.into_iter();
        match (records.next(), records.next()) {
            (None, _) => Self::None,
            (Some(record), None) => Self::One(record),
            (Some(first), Some(second)) => {
                let all = [first, second].into_iter().chain(records).take(Self::NAMES_MAX);
                Self::Many(all.map(|record| record.account.name.clone()).collect())
            }
        }
    }
}

/// An account with everything that depends on other entries, read at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The account itself.
    pub account: Account,
    /// The groups it is in, transitively, each once, in ascending order of SID; the primary group included.
    pub memberships: Vec<Membership>,
}

/// Names the contents of a store. Equal revisions mean equal answers, also when a back-up was restored in
/// between.
///
/// A cache of what is made from a store's answers takes the revision before the first answer and again after
/// the last one, and keeps the result only if [`Revision::is_unbroken_since`]. Equality is not enough there:
/// if the contents were changed and a back-up was restored in between, both revisions are equal, and the
/// answers may be of the contents between them. With that check, everything cached under a revision was made
/// from exactly the contents that the revision names, so a cache entry counts whenever the present revision
/// equals its own.
#[derive(Clone, Copy, Debug)]
pub struct Revision {
    number: u64,
    /// Random, new with each change. Two histories that count to the same number differ here.
    epoch: u64,
    /// Of all changes that this process has noticed in any of its stores, the last one. It never comes back.
    noticed: u64,
    /// Whether the number is stored with the contents.
    is_stored: bool,
}

static NOTICED: AtomicU64 = AtomicU64::new(0);

impl Revision {
    /// Of contents that never change, and of one store only.
    pub const FIXED: Self = Self { number: 0, epoch: 0, noticed: 0, is_stored: false };

    /// A revision that equals no other one of this process: for contents that are read once, and for each
    /// change that a store without stored revisions notices.
    pub fn unique() -> Self {
        let noticed = Self::notice();
        Self { number: noticed, epoch: 0, noticed, is_stored: false }
    }

    /// The revision whose name is stored with the contents.
    pub const fn stored(number: u64, epoch: u64, noticed: u64) -> Self {
        Self { number, epoch, noticed, is_stored: true }
    }

    /// The number that is stored with the contents, and grows with each change; `None` for a store without one.
    pub fn stored_number(&self) -> Option<u64> {
        self.is_stored.then_some(self.number)
    }

    /// Counts a change, or what may be a change.
    pub fn notice() -> u64 {
        NOTICED.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether nothing at all was changed between `before`, which was taken first, and this revision.
    pub const fn is_unbroken_since(&self, before: &Self) -> bool {
        self.noticed == before.noticed
    }

    /// A number that differs from all earlier ones of this process whenever an answer may have changed.
    pub const fn generation(&self) -> u64 {
        self.noticed
    }
}

impl PartialEq for Revision {
    fn eq(&self, other: &Self) -> bool {
        (self.number, self.epoch) == (other.number, other.epoch)
    }
}

impl Eq for Revision {}

impl Hash for Revision {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.number, self.epoch).hash(state);
    }
}

/// Why a store could not answer. Never a decision.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database or directory cannot be reached, is locked, or is being restored.
    #[error("store is not available: {0}")]
    Unavailable(String),
    /// What is stored cannot be understood; an operator has to look.
    #[error("stored data is damaged: {0}")]
    Damaged(String),
    /// What was to be written breaks a rule of the store, such as a name that is taken.
    #[error("{0}")]
    Refused(String),
    /// What was to be written as new exists already, and could be replaced.
    #[error("{0} exists already")]
    Exists(String),
    /// The key file is not the one that the secrets were sealed under.
    #[error("the secrets were sealed under another key file")]
    OtherKey,
    /// This backend does not take writes.
    #[error("this kind of store is read-only")]
    ReadOnly,
}

/// Accounts and their groups, as a service looks them up. The contract is that of the [module](self).
pub trait AccountStore: Send + Sync {
    /// The domain that these accounts are of. It is the same for as long as the store lives, and costs
    /// nothing.
    fn domain(&self) -> &Domain;

    /// The accounts that `query` names. A service makes one decision from a few look-ups.
    ///
    /// Accounts that are disabled, locked or expired are found: the service decides about them.
    /// [`Matches::One`] has the memberships of the same moment as the account. A query of any text is
    /// answered; one that can match no account is [`Matches::None`].
    fn find<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Result<Matches, StoreError>>;

    /// The age, in seconds, of the last answer of [`AccountStore::find`] to this query, if the store was
    /// unreachable and a cached answer was used; otherwise `None`. Call it directly after `find`, for answers
    /// without an account: [`Matches::One`] has the age in [`Account::stale_s`]. The default is for stores
    /// without such a cache.
    fn stale_s(&self, _query: &Query) -> Option<u64> {
        None
    }

    /// The present revision of everything that [`AccountStore::find`] answers from, groups included.
    ///
    /// A service asks for it at every request to a web listener, cached decisions included, and before and
    /// after each decision that it caches. It is not async and may cost about a microsecond: an atomic load,
    /// an uncontended lock, a `stat`. A store that cannot change returns the [`Revision::unique`] that it was
    /// made with. An `Err` says that the contents cannot be relied on now; nothing is answered from a cache
    /// then.
    fn revision(&self) -> Result<Revision, StoreError>;

    /// Waits until [`AccountStore::revision`] is as new as the store promises for a question that arrives
    /// now.
    ///
    /// A service calls it once for each call and each request, before it uses anything that is cached. An
    /// `Err` says that the store cannot keep its promise now; nothing is answered from a cache then. A store
    /// whose revision is always as new as that has nothing to wait for, as this default.
    fn refresh(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_are_none_one_or_many_with_some_names() {
        let sid: Sid = "S-1-5-21-1-2-3-1000".parse().expect("a SID");
        let record =
            |name: &str| Arc::new(Record { account: Account::new(name, sid), memberships: Vec::new() });
        assert_eq!(Matches::from_iter([]), Matches::None);
        assert_eq!(Matches::from_iter([record("a")]), Matches::One(record("a")));
        assert_eq!(
            Matches::from_iter([record("a"), record("b")]),
            Matches::Many(vec!["a".to_owned(), "b".to_owned()])
        );
        let Matches::Many(names) = (0..100).map(|n| record(&format!("a{n}"))).collect() else {
            panic!("many")
        };
        assert_eq!(names.len(), Matches::NAMES_MAX);
    }
}
