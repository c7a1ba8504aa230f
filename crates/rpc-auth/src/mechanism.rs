use crate::{Refusal, UserIdentity};
use dcerpc::security::{AuthLevel, SecurityContext, SecurityError};
use dtyp::FileTime;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A source of random bytes, given by the owner.
pub type Entropy<'a> = &'a mut (dyn FnMut(&mut [u8]) + Send);

/// The future of an object-safe async method.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One token of a client, and what the acceptor may know beside it.
pub struct Leg<'a> {
    /// The token, without the RPC trailer.
    pub token: &'a [u8],
    /// The level of protection of the bind.
    pub level: AuthLevel,
    /// The time.
    pub now: FileTime,
    /// Random bytes for challenges, keys and sequence numbers.
    pub entropy: Entropy<'a>,
}

impl<'a> Leg<'a> {
    /// The same leg for the mechanism inside of another one, with its token.
    pub fn with_token<'b>(self, token: &'b [u8]) -> Leg<'b>
    where
        'a: 'b,
    {
        Leg { token, level: self.level, now: self.now, entropy: self.entropy }
    }
}

/// The acceptor's half of one context that is being set up, consumed by each leg.
pub trait Acceptor: Send {
    /// Takes the client's next token. An acceptor whose check needs a store or a domain controller awaits it.
    fn accept<'a>(self: Box<Self>, leg: Leg<'a>) -> BoxFuture<'a, Result<Step, Refusal>>
    where
        Self: 'a;
}

/// What became of a client's token.
pub enum Step {
    /// The client has to answer this token.
    Continue {
        /// The token.
        token: Vec<u8>,
        /// The acceptor for the next leg.
        next: Box<dyn Acceptor>,
    },
    /// The context is set up. It names no user before a request was verified under it.
    Complete {
        /// The last token for the client; empty if there is none.
        token: Vec<u8>,
        /// The context.
        context: Box<dyn MechanismContext>,
    },
}

/// A context that is set up: it protects fragments, and signs and checks the list of mechanisms for SPNEGO.
pub trait MechanismContext: SecurityContext {
    /// The user; for a client's context, `None`.
    fn user(&self) -> Option<Arc<UserIdentity>>;

    /// Signs SPNEGO's list of mechanisms, under the first sequence number of this direction ([MS-SPNG]
    /// 3.2.5.1).
    fn sign_mech_list(&mut self, list: &[u8]) -> Vec<u8>;

    /// Checks the peer's signature of the list, under the first sequence number of its direction.
    fn verify_mech_list(&mut self, list: &[u8], mic: &[u8]) -> Result<(), SecurityError>;

    /// Whether the mechanism asks for the list's signature to be exchanged although the first offer was
    /// taken.
    fn wants_mech_list_mic(&self) -> bool;

    /// As the context of an association.
    fn into_security_context(self: Box<Self>) -> Box<dyn SecurityContext>;
}

/// The initiator's half of one context.
pub trait Initiator: Send {
    /// The first token (`None`), or the answer to the server's token.
    fn step(
        self: Box<Self>,
        token: Option<&[u8]>,
        now: FileTime,
        entropy: Entropy<'_>,
    ) -> Result<InitiatorStep, Refusal>;
}

/// What the initiator does next.
pub enum InitiatorStep {
    /// Send the token and await the server's.
    Continue {
        /// The token.
        token: Vec<u8>,
        /// The initiator for the next leg.
        next: Box<dyn Initiator>,
    },
    /// The context is set up on this side.
    Complete {
        /// The last token; empty if there is none to send.
        token: Vec<u8>,
        /// The context.
        context: Box<dyn MechanismContext>,
    },
}
