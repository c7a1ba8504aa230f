//! The trust elements of a negotiation as values. The XML layer reads them from a message and writes them to
//! one.
//!
//! Text is what the message has, to the letter: this crate decides what it means. Beside an element, each
//! call takes its canonical octets: exclusive XML canonicalisation without comments of the trust element
//! alone (the RequestSecurityToken, or one RequestSecurityTokenResponse), with white space between its
//! children dropped. What was received is canonicalised from the message as it came, and what is sent from
//! the message as it is sent.

use crate::fault::Reason;
use crate::names::CONTEXT_LEN_MAX;
use dtyp::FileTime;
use std::borrow::Cow;
use xml_security::names::CONTEXT_TOKEN;

/// `Context`, which all legs of a negotiation share: a URI of 1 to 512 characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Context(String);

impl Context {
    /// Rejects a missing one, and one that is empty, too long, or has characters that no URI has.
    pub fn new(text: Option<&str>) -> Result<Self, Reason> {
        let text = text.ok_or(Reason::NoContext)?;
        let is_of_uri = |c: char| !(c.is_whitespace() || c.is_control() || "<>\"{}|\\^`".contains(c));
        let is_uri = !text.is_empty()
            && text.len() <= CONTEXT_LEN_MAX * char::MAX.len_utf8()
            && text.chars().all(is_of_uri)
            && text.chars().count() <= CONTEXT_LEN_MAX;
        is_uri.then(|| Self(text.to_owned())).ok_or(Reason::BadContext)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `t:BinaryExchange`: records of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinaryExchange<'a> {
    /// `ValueType` to the letter: its leading space is kept.
    pub value_type: Cow<'a, str>,
    /// The octets; white space in the base64 is dropped before it is decoded.
    pub octets: Cow<'a, [u8]>,
}

/// Leg 1, of the client: `t:RequestSecurityToken`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Request<'a> {
    /// `Context`.
    pub context: Option<Cow<'a, str>>,
    /// `t:TokenType`.
    pub token_type: Option<Cow<'a, str>>,
    /// `t:RequestType`.
    pub request_type: Option<Cow<'a, str>>,
    /// `t:KeySize` in bits.
    pub key_size: Option<Cow<'a, str>>,
    /// `t:BinaryExchange`.
    pub binary_exchange: Option<BinaryExchange<'a>>,
    /// The canonical octets of `wsp:AppliesTo`, if it holds an `a:EndpointReference`.
    pub applies_to: Option<Cow<'a, [u8]>>,
}

/// Leg 2, of the server, leg 3, of the client, and any between 3 and the last:
/// `t:RequestSecurityTokenResponse`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Response<'a> {
    /// `Context`.
    pub context: Option<Cow<'a, str>>,
    /// `t:BinaryExchange`. Without octets if TLS waits for more: records may be split over messages.
    pub binary_exchange: Option<BinaryExchange<'a>>,
}

/// The first response of the last leg, of the server. Its canonical octets are those of the response without
/// `t:RequestedSecurityToken` and `t:RequestedProofToken`, as a stand-alone element.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TokenResponse<'a> {
    /// `Context`.
    pub context: Option<Cow<'a, str>>,
    /// `t:TokenType`.
    pub token_type: Option<Cow<'a, str>>,
    /// `c:Identifier` of the `c:SecurityContextToken`.
    pub identifier: Option<Cow<'a, str>>,
    /// `wsp:AppliesTo` as it was asked for: canonical octets.
    pub applies_to: Option<Cow<'a, [u8]>>,
    /// `Algorithm` of `e:EncryptionMethod` in `t:RequestedProofToken`.
    pub wrap_algorithm: Option<Cow<'a, str>>,
    /// `e:CipherValue` in `t:RequestedProofToken`.
    pub cipher_value: Option<Cow<'a, [u8]>>,
    /// `u:Created` and `u:Expires` of `t:Lifetime`.
    pub lifetime: Option<(FileTime, FileTime)>,
    /// `t:KeySize` in bits.
    pub key_size: Option<Cow<'a, str>>,
    /// `t:BinaryExchange`, which is not there if TLS has nothing to send.
    pub binary_exchange: Option<BinaryExchange<'a>>,
}

/// Any further response of the last leg: `t:Authenticator`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Authenticator<'a> {
    /// `Context`.
    pub context: Option<Cow<'a, str>>,
    /// `t:CombinedHash`; none if the response has no authenticator.
    pub combined_hash: Option<Cow<'a, [u8]>>,
}

/// An element that may be left out, and has one value otherwise.
pub(crate) fn is_absent_or(what: &'static str, found: Option<&str>, supported: &str) -> Result<(), Reason> {
    match found {
        Some(found) if found != supported => Err(Reason::unsupported(what, found)),
        _ => Ok(()),
    }
}

/// Whether a request is for a security context token: `t:TokenType` may be left out.
pub fn check_token_type(found: Option<&str>) -> Result<(), Reason> {
    is_absent_or("TokenType", found, CONTEXT_TOKEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_a_uri_of_1_to_512_characters() {
        assert_eq!(Context::new(None), Err(Reason::NoContext));
        for text in
            ["", " ", "a b", "a\tb", "a\u{a0}b", "a\u{0}", "<a>", "\"", &"x".repeat(513), &"é".repeat(513)]
        {
            assert_eq!(Context::new(Some(text)), Err(Reason::BadContext), "{text}");
        }
        for text in ["uuid-7f2c4e0e-5f0a-4a33-b5a4-0b7d4c1a6e2b-1", "x", &"x".repeat(512), &"é".repeat(512)]
        {
            assert_eq!(Context::new(Some(text)).as_ref().map(Context::as_str), Ok(text));
        }
    }
}
