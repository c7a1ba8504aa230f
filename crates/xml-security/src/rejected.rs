//! The one refusal of a secured message.

use crate::reason::Reason;
use crate::token::TokenName;

/// A message is not secured as it has to be.
///
/// Its text never says why: padding, XML, digest and signature failures look the same to a peer.
/// [`Rejected::reason`] is for the log.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message is not secured as it has to be")]
pub struct Rejected {
    reason: Reason,
    token: Option<TokenName>,
}

impl Rejected {
    pub(crate) fn under(mut self, token: Option<TokenName>) -> Self {
        self.token = token;
        self
    }

    /// Why, for the log and never for the peer.
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// The token under which decryption or verification failed. Its failures are to be counted.
    pub fn token(&self) -> Option<&TokenName> {
        self.token.as_ref()
    }
}

impl From<Reason> for Rejected {
    fn from(reason: Reason) -> Self {
        Self { reason, token: None }
    }
}
