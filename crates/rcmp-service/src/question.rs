//! The question and the answer.

use crate::context::CallContext;
use crate::domains::RoutedBy;
use crate::form::{Method, Strength};
use crate::policy::Policy;
use crate::reason::Reason;
use crate::scope::Scope;
use account_store::Record;
use bytes::Bytes;
use dtyp::{NtStatus, Sid};
use std::sync::Arc;

/// Who asks, as the transport has verified it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The account, such as `WEB01$`.
    pub account: String,
    /// Its SID.
    pub sid: Sid,
    /// Whether it may ask for certificates to be mapped.
    pub may_map: bool,
    /// Which accounts it gets answers for.
    pub scope: Scope,
    /// NetBIOS name of the domain that asks, where the account is a trust's.
    pub trust: Option<String>,
}

/// Which account is this certificate's?
#[derive(Clone, Debug)]
pub struct Question {
    /// SSL_CERT_LOGON_REQ, as it was sent: a forwarder sends the same bytes on.
    pub request: Vec<u8>,
    /// LogonDomainName: the domain that is to answer; empty for the server's own.
    pub logon_domain_name: String,
    /// Who asks.
    pub asker: Asker,
    /// What came beside the question from a node of ours.
    pub context: CallContext,
}

impl Question {
    /// A question to the server's own domain, with nothing beside it.
    pub fn new(request: Vec<u8>, asker: Asker) -> Self {
        Self { request, logon_domain_name: String::new(), asker, context: CallContext::default() }
    }
}

impl Asker {
    /// A machine of this domain, whose scope is every account that is not privileged.
    pub fn machine(account: impl Into<String>, sid: Sid, may_map: bool) -> Self {
        Self { account: account.into(), sid, may_map, scope: Scope::default(), trust: None }
    }
}

/// The account, or why there is none.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What the client is told.
    pub status: NtStatus,
    /// Whether nobody else need be asked.
    pub authoritative: bool,
    /// Why; for the log, the metrics and the audit.
    pub reason: Reason,
    /// The policy by which it was decided.
    pub policy_revision: u64,
    /// The account and the message that says so, when there is one here.
    pub mapped: Option<Mapped>,
    /// Which other domain was asked, and what it said.
    pub elsewhere: Option<Elsewhere>,
    /// Whether it was decided by the accounts of this domain.
    pub decided_here: bool,
}

impl Answer {
    /// An answer without an account.
    pub(crate) fn refused(reason: Reason, policy: &Policy) -> Self {
        Self {
            status: reason.status(policy.tell_restrictions),
            authoritative: reason.is_authoritative(),
            reason,
            policy_revision: policy.revision,
            mapped: None,
            elsewhere: None,
            decided_here: false,
        }
    }

    /// The message for the client, when there is an account.
    pub fn into_response(self) -> Option<Bytes> {
        match (self.mapped, self.elsewhere) {
            (Some(mapped), _) => Some(mapped.response),
            (None, elsewhere) => elsewhere?.account.map(|account| account.response),
        }
    }
}

/// An account that was found.
#[derive(Clone, Debug)]
pub struct Mapped {
    /// The account.
    pub record: Arc<Record>,
    /// By which method.
    pub method: Method,
    /// How strongly the certificate is bound to it.
    pub strength: Strength,
    /// SSL_CERT_LOGON_RESP.
    pub response: Bytes,
}

/// What was heard from another domain.
#[derive(Clone, Debug)]
pub struct Elsewhere {
    /// NetBIOS name of the domain that is to answer.
    pub domain: String,
    /// NetBIOS name of the peer that was asked.
    pub peer: String,
    /// By what it was chosen.
    pub by: RoutedBy,
    /// The server that answered, where one did.
    pub server: Option<String>,
    /// SHA-256 of the request: what the two ends of a call have in common, whoever is between them.
    pub digest: [u8; 32],
    /// The account that was found.
    pub account: Option<ForeignAccount>,
}

/// An account of another domain.
#[derive(Clone, Debug)]
pub struct ForeignAccount {
    /// Its name, which means something with its domain's only.
    pub name: String,
    /// Its SID.
    pub sid: Sid,
    /// SIDs that were said and mean nothing here.
    pub dropped: Vec<Sid>,
    /// SSL_CERT_LOGON_RESP, written from what was checked.
    pub response: Bytes,
}
