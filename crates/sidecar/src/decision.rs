//! What came of a request.

use crate::allowed::Allowed;
use crate::meter::How;
use crate::refusal::Refusal;
use crate::span_place::SpanPlace;
use bytes::Bytes;
use sha1::{Digest, Sha1};
use std::sync::Arc;

/// What came of it.
#[derive(Clone, Debug)]
pub enum Decided {
    /// In.
    Allowed(Arc<Allowed>),
    /// Not in.
    Refused(Refusal),
}

/// What came of a request, with what logs and traces have of it.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Whether it is let in.
    pub decided: Decided,
    /// What the decision about the account is called in the audit log; none if there was none.
    pub name: Option<Arc<str>>,
    /// How the account was found; none if no account was looked for.
    pub how: Option<How>,
    /// The span in which a cached decision was made.
    pub made_in: Option<SpanPlace>,
    leaf: Option<Bytes>,
}

impl Decision {
    /// A decision for which no account was looked for.
    pub(crate) const fn without_account(leaf: Option<Bytes>) -> Self {
        let decided = Decided::Refused(Refusal::NoCertificate);
        Self { decided, name: None, how: None, made_in: None, leaf }
    }

    /// The SHA-1 of the certificate, as the audit log has it.
    pub fn thumbprint(&self) -> Option<String> {
        self.leaf.as_ref().map(|leaf| dtyp::hex(&Sha1::digest(leaf)))
    }

    /// Why the request is refused.
    pub const fn refusal(&self) -> Option<Refusal> {
        match self.decided {
            Decided::Allowed(_) => None,
            Decided::Refused(refusal) => Some(refusal),
        }
    }
}
