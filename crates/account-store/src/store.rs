//! The trait every backend implements, and its question and answer.

use crate::account::{Account, Membership};
use dtyp::Sid;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

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

/// Changes whenever an answer of the store may have changed; equal revisions mean equal answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(pub u64);

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

    /// The present revision; cheap enough to ask for every call.
    fn revision(&self) -> Result<Revision, StoreError>;
}
