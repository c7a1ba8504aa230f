//! Security providers of DCE/RPC for users: NTLM ([MS-NLMP]), SPNEGO (RFC 4178, [MS-SPNG]) and Kerberos in
//! DCE style (RFC 4120, RFC 4121, [MS-KILE]).
//!
//! Each mechanism is a machine: tokens, the time and random bytes go in, tokens come out, and at the end a
//! context that protects fragments and knows the user. Nothing here opens a socket, reads a clock or draws a
//! random number.

mod der;
mod identity;
pub mod kerberos;
mod mechanism;
pub mod ntlm;
mod refusal;
pub mod spnego;
#[cfg(test)]
mod test;

pub use identity::{IdentitySource, PasswordMark, UserIdentity};
pub use mechanism::{Acceptor, BoxFuture, Entropy, Initiator, InitiatorStep, Leg, MechanismContext, Step};
pub use refusal::{Refusal, RefusalReason};
