//! The Netlogon client over TCP: the servers of a domain, their secure channels, and the connections on them.
//!
//! ```text
//! Servers (failover, retry budget, Discovery) ─► ServerClient (turns, circuit breaker, channel, connections) ─► TcpTransport
//! ```
//!
//! A reader may rely on this:
//! - A request has a deadline, and its future ends by then. Nothing is sent before a request needs it.
//! - A request that may have been performed is sent again only if its caller marked it repeatable, and only within the retry budget.
//! - A channel is checked for a downgrade before the first request is sent over it. There is no weaker second try.
//! - Requests of one asker take neither all permits of a server nor its whole queue.
//!
//! It never reads a configuration, a secret's file or an account. The caller hands in the secrets to try ([`AccountSecrets`]), the
//! extension of a request and the wall clock. It decides nothing about an answer but this: a status such as DS_BUSY is no decision, so
//! the next server is asked.

mod breaker;
mod discovery;
mod meter;
mod server;
mod servers;
mod transport;
mod turns;

pub use discovery::{Discovery, DiscoveryError, Found, Located, SetUpError, is_label};
pub use meter::Meter;
pub use server::{AccountSecrets, Asked, BoxError, Extension, Identity, Room, ServerClient, ServerFailed};
pub use servers::{Answered, Servers, Whereabouts};
pub use transport::{ResolveError, TcpTransport};
pub use turns::AskerId;
