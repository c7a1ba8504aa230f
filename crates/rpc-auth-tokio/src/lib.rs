//! Users' authentication for DCE/RPC servers.
//!
//! ```text
//! dcerpc-tokio ─token─► AuthProvider (time, randomness, audit, counters) ─Leg─► rpc-auth's acceptor ─► ProofChecker
//! ```
//!
//! An [`AuthProvider`] makes a security provider of an acceptor of [`rpc_auth`]. It decides nothing itself:
//! what an acceptor refuses is refused, the peer is told nothing of the reason, and the [`AuthAudit`] all of
//! it. [`DomainChecker`] has proofs checked by a domain controller, and [`SlowedChecker`] makes guesses of
//! passwords slow. [`connect`] is the client's side.

mod client;
mod domain;
mod metrics;
mod provider;
mod slowed;

pub use client::{ConnectError, UserBind, connect};
pub use domain::DomainChecker;
pub use metrics::AuthCounters;
pub use provider::{AuthAudit, AuthProvider, Refused};
pub use slowed::SlowedChecker;
