//! WS-Trust TLSNEGO of February 2005: a TLS handshake in SOAP messages that ends in a security context token,
//! as WCF's `WSHttpBinding` speaks it, both sides; and the sessions under such tokens
//! (WS-SecureConversation).
//!
//! This crate reads and writes no XML, opens no socket, and reads no clock. Messages are values
//! ([`message`]); beside each, the caller gives its canonical octets. Tokens, entropy and times are
//! arguments. rustls draws the randomness of its handshakes.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`negotiation`] | both roles of a negotiation, and the table of a server's negotiations |
//! | [`session`] | names of sessions, tokens with their keys, sessions that every node of a farm serves |
//! | [`freshness`] | the skew of timestamps, and the cache of messages that were seen |
//! | [`failures`] | what ends a session when its messages do not decrypt |
//! | [`password`] | checks of passwords: cached, single flight, bounded |
//! | [`fault`] | what a peer is told, and the reason in the log |
//! | [`key`] | key sizes, keys, and the hash of an authenticator |

pub mod failures;
pub mod fault;
pub mod freshness;
pub mod key;
pub mod message;
pub mod names;
pub mod negotiation;
pub mod password;
pub mod session;
mod tls;

pub use tls::{CIPHER_VALUE_LEN_MAX, Credentials, OCTETS_MAX, TlsVersions, UnusableCredentials};

/// A time by both clocks of a system. Durations are measured by the monotonic one, because the wall clock can
/// be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock, for what carries a date.
    pub wall: dtyp::FileTime,
    /// The monotonic clock: time since some moment in the past.
    pub uptime: std::time::Duration,
}
