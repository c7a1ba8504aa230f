//! What an association asks of a security provider: the meaning of tokens and of protection, without I/O.
//!
//! A provider is asked twice. *Who is this?* may need a database, so the association emits
//! `Event::Authenticate` and waits for an [`Authentication`]. *Is this fragment theirs?* is
//! answered at once by the [`SecurityContext`] that came with it.

use crate::pdu::SecTrailer;
pub use crate::pdu::{AuthLevel, AuthType};
use dtyp::Sid;
use std::any::Any;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

/// How the fragments of a security context are protected, as agreed when it was set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// The level of the bind; every fragment must carry it.
    pub level: AuthLevel,
    /// Whether header and trailer are covered too.
    pub header_signing: bool,
}

/// A fragment as it was received, taken apart.
#[derive(Debug)]
pub struct ProtectedFragment<'a> {
    /// The first 24 bytes of the PDU, or 40 with an object.
    pub header: &'a [u8],
    /// Stub, verification trailer and padding: sealed when it comes in, plain when it was accepted.
    pub body: &'a mut [u8],
    /// The security trailer's eight bytes.
    pub trailer: &'a [u8],
    /// What the provider made of it all.
    pub token: &'a [u8],
}

/// A message of one or more fragments, complete except for its protection.
#[derive(Debug)]
pub struct Outgoing {
    /// Stub and verification trailer of the whole message.
    pub stub: Vec<u8>,
    /// Bytes of the stub to be encrypted under the context's key *before* they are protected, as generic
    /// pass-through demands ([MS-NRPC] 3.4.5.3.2).
    pub inner: Option<Range<usize>>,
    /// The fragments, in order; together their bodies are the stub.
    pub fragments: Vec<OutgoingFragment>,
}

/// One fragment of an [`Outgoing`] message. On the wire: header, body, `pad` zeroes, trailer, token.
#[derive(Clone, Debug)]
pub struct OutgoingFragment {
    /// The PDU's header, final in all fields: 24 bytes, or 40 with an object.
    pub header: Vec<u8>,
    /// Which bytes of the stub it carries.
    pub body: Range<usize>,
    /// Bytes of padding behind the body.
    pub pad: u8,
    /// The security trailer.
    pub trailer: SecTrailer,
}

/// The protected message, ready for the wire. Polling it needs no runtime: it waits at most for other
/// messages that are sealed side by side with it.
pub type Protecting = Pin<Box<dyn Future<Output = Vec<u8>> + Send>>;

/// A security context that is set up: it knows the peer and protects fragments.
pub trait SecurityContext: Send {
    /// Length of the token at a level.
    fn token_len(&self, level: AuthLevel) -> usize;

    /// Whether it can cover header and trailer.
    fn supports_header_signing(&self) -> bool;

    /// Checks one fragment and decrypts its body in place. After an error the association closes.
    fn unprotect(
        &mut self,
        protection: Protection,
        fragment: ProtectedFragment<'_>,
    ) -> Result<(), SecurityError>;

    /// Protects a message. Sequence numbers are taken at the call, in its order.
    fn protect(&mut self, protection: Protection, message: Outgoing) -> Protecting;

    /// Who the peer is, for the service behind the interface; it knows the type.
    fn identity(&self) -> Arc<dyn Any + Send + Sync>;

    /// The account for which the peer's connections count, once a fragment was verified under this context.
    /// Connections under a context without an account count as those of a peer that has proved nothing.
    fn account(&self) -> Option<Account> {
        None
    }
}

/// An account, for limits that count by account. It gives no right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Account {
    /// One with a SID.
    Sid(Sid),
    /// Another one: SHA-256 of what names it, and of where it comes from.
    Named([u8; 32]),
}

impl From<Sid> for Account {
    fn from(sid: Sid) -> Self {
        Self::Sid(sid)
    }
}

/// Why a fragment was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecurityError {
    /// The token is not of the form the provider makes (SEC_E_INVALID_TOKEN).
    InvalidToken,
    /// The signature does not verify (SEC_E_MESSAGE_ALTERED).
    MessageAltered,
    /// The sequence number is not the next one (SEC_E_OUT_OF_SEQUENCE).
    OutOfSequence,
    /// The context is no longer valid: its account or key is gone.
    ContextExpired,
}

/// What became of a token of a bind, alter_context or auth3.
pub enum Authentication {
    /// The context is set up. The token goes into the answer.
    Accepted {
        /// The context.
        context: Box<dyn SecurityContext>,
        /// The provider's last token; may be empty.
        token: Vec<u8>,
    },
    /// Another leg is needed.
    Continue {
        /// What the provider has to know at the next leg.
        state: Box<dyn Any + Send>,
        /// The token for the answer.
        token: Vec<u8>,
    },
    /// The peer did not prove itself.
    Rejected,
    /// No provider for this `auth_type`.
    UnknownType,
}

impl std::fmt::Debug for Authentication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Accepted { .. } => "Accepted",
            Self::Continue { .. } => "Continue",
            Self::Rejected => "Rejected",
            Self::UnknownType => "UnknownType",
        })
    }
}
