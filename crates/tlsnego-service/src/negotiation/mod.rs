//! The negotiation: a TLS handshake in trust elements, and the proof key behind it.
//!
//! ```text
//! client                                        server
//! Client::start ─► Outgoing ─wrote─► Waiting
//!                    leg 1 ────────────────────► Negotiations::first
//! Waiting::receive ◄──────────────────── leg 2   Reply ─wrote─► (waits, by its Context)
//!   Unverified ─accept─► Outgoing ─wrote─►
//!                    leg 3 ────────────────────► Negotiations::next
//!                                                Established ─issue─► Issuing ─wrote─► Issued
//! Waiting::receive ◄──── last leg: token, authenticator
//!   Token
//! ```
//!
//! TLS decides how many legs there are between the first and the last. Each message that is received is given
//! with its canonical octets, and each message that is sent is told by `wrote`: SHA-1 over all of them makes
//! the authenticator. A step takes the value that it leaves, so a negotiation that failed cannot go on.

mod client;
mod server;
mod table;

pub use client::{Client, Outgoing, Step, Token, TokenRequest, Unverified, Waiting};
pub use server::{ClientCertificates, Grant, Issued, Issuing, Server, ServerSettings};
pub use table::{Answer, Established, NEGOTIATIONS_MAX, Negotiations, Reply, TIME_MAX};

use crate::fault::Reason;
use crate::key::SHA1_LEN;
use crate::message::BinaryExchange;
use crate::names;
use sha1::{Digest, Sha1};
use std::borrow::Cow;

/// Legs in each direction. TLS needs two; each part of a flight that is split over messages is one more.
pub const LEGS_MAX: u32 = 16;
/// Octets of an `AppliesTo`, which the server keeps for its last leg.
pub const APPLIES_TO_LEN_MAX: usize = 4 << 10;

/// SHA-1 over the canonical octets of all legs so far.
#[derive(Clone, Default)]
struct Transcript {
    hash: Sha1,
    legs: u32,
}

impl std::fmt::Debug for Transcript {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transcript").field("legs", &self.legs).finish_non_exhaustive()
    }
}

impl Transcript {
    fn received(&mut self, canonical: &[u8]) -> Result<(), Reason> {
        self.legs += 1;
        if self.legs > LEGS_MAX {
            return Err(Reason::TooLong("legs"));
        }
        self.hash.update(canonical);
        Ok(())
    }

    fn sent(&mut self, canonical: &[u8]) {
        self.hash.update(canonical);
    }

    fn finish(self) -> [u8; SHA1_LEN] {
        self.hash.finalize().into()
    }
}

/// The spelling of the value type that a client may choose; the server echoes it.
fn value_type(exchange: &BinaryExchange<'_>) -> Result<&'static str, Reason> {
    [names::TLSNEGO, names::TLSNEGO_WITHOUT_SPACE]
        .into_iter()
        .find(|known| *known == exchange.value_type)
        .ok_or_else(|| Reason::unsupported("ValueType of BinaryExchange", &exchange.value_type))
}

/// `Context` is that of the negotiation.
fn check_context(found: Option<&str>, expected: &str) -> Result<(), Reason> {
    match found {
        Some(found) if found == expected => Ok(()),
        Some(_) => Err(Reason::UnknownContext),
        None => Err(Reason::NoContext),
    }
}

/// The BinaryExchange of a later leg: its value type is that of the first one to the letter.
fn later_exchange<'e>(exchange: Option<&'e BinaryExchange<'_>>, expected: &str) -> Result<&'e [u8], Reason> {
    let exchange = exchange.ok_or(Reason::Missing("BinaryExchange"))?;
    match exchange.value_type == expected {
        true => Ok(&exchange.octets),
        false => Err(Reason::unsupported("ValueType of BinaryExchange", &exchange.value_type)),
    }
}

/// Octets to send, under a spelling of the value type.
fn exchange(value_type: &'static str, octets: Vec<u8>) -> BinaryExchange<'static> {
    BinaryExchange { value_type: Cow::Borrowed(value_type), octets: Cow::Owned(octets) }
}
