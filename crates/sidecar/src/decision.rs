//! The decision about a request.

use crate::allowed::Allowed;
use crate::meter::How;
use crate::refusal::Refusal;
use bytes::Bytes;
use rcmp_service::TraceParent;
use sha1::{Digest, Sha1};
use std::sync::Arc;

/// Whether a request is allowed.
#[derive(Clone, Debug)]
pub enum Decided {
    /// The request is let through, with this account.
    Allowed(Arc<Allowed>),
    /// The request is not let through, for this reason.
    Refused(Refusal),
}

/// The decision about a request, with the facts for logs and traces.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Whether the request is allowed.
    pub decided: Decided,
    /// The id of the decision about the account (`decision` in the audit log); none if no account was
    /// decided.
    pub name: Option<Arc<str>>,
    /// How the account was found; none if no account was looked for.
    pub how: Option<How>,
    /// The span in which a cached decision was made; none if it is not cached, or made without an exporter.
    pub made_in: Option<TraceParent>,
    leaf: Option<Bytes>,
}

impl Decision {
    /// A decision for which no account was looked for.
    pub(crate) const fn without_account(leaf: Option<Bytes>) -> Self {
        let decided = Decided::Refused(Refusal::NoCertificate);
        Self { decided, name: None, how: None, made_in: None, leaf }
    }

    /// The SHA-1 of the certificate in hex digits, as in the audit log; none if there is no certificate.
    pub fn thumbprint(&self) -> Option<String> {
        self.leaf.as_ref().map(|leaf| dtyp::hex(&Sha1::digest(leaf)))
    }

    /// Why the request is refused; none if it is allowed.
    pub const fn refusal(&self) -> Option<Refusal> {
        match self.decided {
            Decided::Allowed(_) => None,
            Decided::Refused(refusal) => Some(refusal),
        }
    }
}
