//! WS-Trust TLSNEGO and WS-SecureConversation of February 2005 over SOAP 1.2: the body of an HTTP request
//! goes in, the body of its response comes out, both sides.
//!
//! `xml-security` reads, writes, signs and encrypts messages; `tlsnego-service` has the handshake, the
//! sessions and the checks. This crate joins the two: it finds trust elements in messages, and decides which
//! message may do what. It opens no socket and reads no clock. Random octets come from a function of the
//! caller.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`server`] | a service's side: negotiations, sessions, and calls for the application behind it |
//! | [`client`] | a client's side of the same |
//! | [`address`] | the addresses of a service, normalised |
//! | [`refusal`] | what a peer is told when it is refused, and the cause for the log |
//! | [`trace`] | what a client sends and receives, decoded for people |

pub mod address;
pub mod client;
mod http;
mod message;
mod names;
pub mod refusal;
pub mod server;
pub mod trace;
mod trust;

pub use http::{CONTENT_TYPE, HttpRequest, HttpResponse, is_soap};
pub use message::HEADER_LEN_MAX;
pub use names::TrustVersion;

use std::sync::Arc;

/// Fills octets with random ones.
pub type Random = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// A random UUID of version 4 (RFC 9562 section 5.4) as text.
fn uuid(random: &Random) -> String {
    let mut octets = [0; 16];
    random(&mut octets);
    octets[6] = octets[6] & 0x0f | 0x40;
    octets[8] = octets[8] & 0x3f | 0x80;
    let text = dtyp::hex(&octets);
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

/// The same as `u:Id` of an element, or as `Context`, in the form of .NET.
fn local_id(random: &Random) -> String {
    format!("uuid-{}-1", uuid(random))
}

/// The same as an absolute URI, for identifiers of tokens and messages.
fn urn(random: &Random) -> String {
    format!("urn:uuid:{}", uuid(random))
}
