//! The trait every backend implements, and its question and answer.

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

/// By what an account is looked for. Text is as the certificate or the operator gave it; the store folds it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Query {
    /// `userPrincipalName`, compared by [`crate::fold::casefold`].
    UserPrincipalName(String),
    /// `servicePrincipalName`, compared by [`crate::fold::casefold`].
    ServicePrincipalName(String),
    /// One value of `altSecurityIdentities`, compared by [`crate::alt_security_identity::key`].
    AltSecurityIdentity(String),
    /// `sAMAccountName`, compared by [`crate::fold::casefold`].
    Name(String),
    /// `objectSid`.
    Sid(Sid),
}

/// What a look-up found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matches {
    /// No account.
    None,
    /// Exactly one.
    One(Arc<Record>),
    /// More than one: this never maps. Some of their names (at most [`Matches::NAMES_MAX`]), for whoever explains the refusal.
    Many(Vec<String>),
}

impl Matches {
    /// How many names of ambiguous accounts are told.
    pub const NAMES_MAX: usize = 8;
}

/// An account with everything that depends on other entries, read at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The account itself.
    pub account: Account,
    /// The groups it is in, transitively, each once, in ascending order of SID; the primary group included.
    pub memberships: Vec<Membership>,
}

/// Names the contents of a store. Equal revisions mean equal answers, also when a back-up was restored in between.
///
/// A cache of what is made from a store's answers takes the revision before the first answer and again after the last
/// one, and keeps the result only if [`Revision::is_unbroken_since`]. Equality is not enough there: if the contents were
/// changed and a back-up was restored in between, both revisions are equal, and the answers may be of the contents
/// between them. With that check, everything cached under a revision was made from exactly the contents that the revision
/// names, so a cache entry counts whenever the present revision equals its own.
#[derive(Clone, Copy, Debug)]
pub struct Revision {
    number: u64,
    /// Random, new with each change. Two histories that count to the same number differ here.
    epoch: u64,
    /// Of all changes that this process has noticed in any of its stores, the last one. It never comes back.
    noticed: u64,
}

static NOTICED: AtomicU64 = AtomicU64::new(0);

impl Revision {
    /// Of contents that never change, and of one store only.
    pub const FIXED: Self = Self { number: 0, epoch: 0, noticed: 0 };

    /// A revision that equals no other of this process: for stores whose contents end with the process.
    pub fn unique() -> Self {
        let noticed = Self::notice();
        Self { number: noticed, epoch: 0, noticed }
    }

    /// The revision whose name is stored with the contents.
    #[cfg(feature = "sqlite")]
    pub(crate) const fn stored(number: u64, epoch: u64, noticed: u64) -> Self {
        Self { number, epoch, noticed }
    }

    /// Counts a change, or what may be one.
    pub(crate) fn notice() -> u64 {
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
#[derive(Debug, thiserror::Error)]
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

/// Accounts and their groups.
pub trait AccountStore: Send + Sync {
    /// The domain these accounts are of.
    fn domain(&self) -> &Domain;

    /// The accounts that `query` names.
    fn find<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Result<Matches, StoreError>>;

    /// The present revision; cheap enough to ask for every call. An error if the contents cannot be relied on.
    fn revision(&self) -> Result<Revision, StoreError>;
}
