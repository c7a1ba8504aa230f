//! The account of a certificate, and the trait by which it is looked up.

use crate::dialect::ClientCertificate;
use crate::refusal::Refusal;
use account_store::{BoxFuture, Revision};
use dtyp::{FileTime, Sid};
use rcmp_service::trust::{KeyId, Path};
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

/// How sure it is that a certificate is its account's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assurance {
    /// It is bound to it, by this form where that is known.
    Strong(Option<&'static str>),
    /// A name is all it goes by.
    Weak,
    /// The service that answered does not report it.
    Unknown,
}

impl Assurance {
    /// Its name in headers and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Strong(_) => "strong",
            Self::Weak => "weak",
            Self::Unknown => "unknown",
        }
    }

    /// The form that binds it.
    pub const fn rule(self) -> Option<&'static str> {
        match self {
            Self::Strong(form) => form,
            _ => None,
        }
    }
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// `objectSid`: what authorises.
    pub sid: Sid,
    /// Its name, where it is a group of the own domain and known.
    pub name: Option<String>,
}

/// The account of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// NetBIOS name of the account's domain.
    pub domain: String,
    /// Whether that is the own domain.
    pub is_ours: bool,
    /// The account's name, which means something with its domain's only.
    pub account: String,
    /// User principal name.
    pub upn: Option<String>,
    /// Display name.
    pub full_name: Option<String>,
    /// E-mail address, if the account alone has it.
    pub mail: Option<String>,
    /// The account's SID.
    pub sid: Sid,
    /// Its groups.
    pub groups: Vec<Group>,
    /// By which method it was found, where that is known.
    pub method: Option<&'static str>,
    /// How sure that is.
    pub assurance: Assurance,
    /// The policy by which it was decided.
    pub policy_revision: u64,
    /// How old the facts are, in seconds, if the store could not be asked and an older answer stands in.
    pub stale_s: Option<u64>,
    /// Until when it counts: the certificate's end, or before that the account's, or that of the hours in
    /// which it may be used.
    pub not_after: FileTime,
}

/// The inputs of a cached decision: a change in any of them invalidates the entry.
#[derive(Clone, Debug)]
pub struct DecisionInputs {
    /// The verified path; none where the sidecar verifies nothing.
    pub path: Option<Arc<Path>>,
    /// The configuration, counted up with each reload.
    pub policy_revision: u64,
    /// The accounts, which change without one.
    pub store_revision: Revision,
    /// Whether the revocation status of the whole path is known without asking a responder.
    pub is_settled: bool,
}

impl DecisionInputs {
    fn authorities(&self) -> Option<&[KeyId]> {
        self.path.as_deref().map(|path| path.authorities.as_slice())
    }

    /// Whether nothing that decisions are made from was changed between `before`, which was taken first, and
    /// this one. A decision that was made in between is then made from exactly these inputs.
    pub fn is_unbroken_since(&self, before: &Self) -> bool {
        self == before && self.store_revision.is_unbroken_since(&before.store_revision)
    }
}

impl PartialEq for DecisionInputs {
    fn eq(&self, other: &Self) -> bool {
        self.policy_revision == other.policy_revision
            && self.store_revision == other.store_revision
            && self.authorities() == other.authorities()
    }
}

impl Eq for DecisionInputs {}

impl Hash for DecisionInputs {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.policy_revision.hash(state);
        self.store_revision.hash(state);
    }
}

/// Maps a certificate to its account.
pub trait Identify: Send + Sync {
    /// Waits until what [`Self::decision_inputs`] says of the accounts is new enough for a request that
    /// arrives now. As a default, it always is.
    fn refresh(&self) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Verifies the chain as far as it is verified here. Cheap for a certificate that was seen before.
    fn decision_inputs(
        &self,
        presented: &ClientCertificate,
        now: FileTime,
    ) -> Result<DecisionInputs, Refusal>;

    /// The account. `decision` names the decision in the audit, `source` is where the question came from.
    fn identify<'a>(
        &'a self,
        presented: &'a ClientCertificate,
        decision: &'a str,
        source: Option<SocketAddr>,
        now: FileTime,
    ) -> BoxFuture<'a, Result<Identity, Refusal>>;

    /// An account of the own store as it is now, with its groups; `None` if it is not there or may not be
    /// used. As a default, there is no store.
    fn account(&self, sid: Sid, now: FileTime) -> BoxFuture<'_, Result<Option<Identity>, Refusal>> {
        let _ = (sid, now);
        Box::pin(std::future::ready(Ok(None)))
    }

    /// The account of a certificate that came with a ticket, in which the farm says that it is this one. An
    /// implementation that asks a server may return it without asking, after it has validated the certificate
    /// and audited the decision. One that knows the accounts itself asks them, as this default does.
    fn recognize<'a>(
        &'a self,
        presented: &'a ClientCertificate,
        ticket: Identity,
        decision: &'a str,
        source: Option<SocketAddr>,
        now: FileTime,
    ) -> BoxFuture<'a, Result<Identity, Refusal>> {
        drop(ticket);
        self.identify(presented, decision, source, now)
    }
}
