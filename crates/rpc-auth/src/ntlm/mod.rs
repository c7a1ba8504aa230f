//! NTLM version 2 ([MS-NLMP]), both sides, in the connection-oriented form that DCE/RPC uses.
//!
//! ```text
//! initiator ─NEGOTIATE─► acceptor ─CHALLENGE─► initiator ─AUTHENTICATE─► acceptor ─► context
//! ```
//!
//! There is one form: extended session security, key exchange and keys of 128 bits. Version 1, LM, anonymous
//! users and guests are refused. The acceptor compares the proof always, and demands a MIC exactly where the
//! flags inside of the proof promise one.

mod acceptor;
mod av_pairs;
mod context;
mod crypto;
mod flags;
mod initiator;
mod message;
mod password;
mod proof;
#[cfg(test)]
pub(crate) mod tests;

pub use acceptor::{NtlmAcceptor, NtlmConfig, ServerNames};
pub use av_pairs::{AvId, AvPairs};
pub use crypto::{NtHash, SessionBaseKey, SessionKey};
pub use flags::NtlmFlags;
pub use initiator::{NtlmCredentials, NtlmInitiator};
pub use message::{Authenticate, Challenge, ClientChallenge, Negotiate};
pub use password::PlainUser;
pub use proof::{
    DomainNames, LocalAccount, LocalChecker, NtHashes, NtlmProof, ProofChecker, ProofVerdict, StoreChoice,
    StoreRouter, choose_store,
};
