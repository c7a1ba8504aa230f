//! What a client sends and receives, decoded for people: the TLS handshake inside of the messages, and which
//! key signs and encrypts what. Nothing here has a key, a password, a hash or the content of a message.

use crate::client::ReadFault;
use dtyp::FileTime;
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use tlsnego_service::session::SessionKind;
use xml_security::{Layout, TokenName};

/// Takes what happens, in its order.
pub type Tracer = Arc<dyn Fn(Traced) + Send + Sync>;

/// What happens to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Traced {
    /// A message is sent.
    Sent(Message),
    /// A message was received. Nothing of it is verified, except that a [`Content::Secured`] was.
    Received(Message),
    /// The service showed its certificate, and has the key of it. The caller decides on it.
    Certificate(CertificateDer<'static>),
    /// What was received last is rejected.
    Rejected(String),
    /// There is a session, or it has a new key. Of a negotiated one the authenticator matched the messages.
    Session {
        /// Its name.
        session: SessionName,
        /// When its token was made, by the clock of the server.
        created: FileTime,
        /// When it ends, by the clock of the server.
        expires: FileTime,
    },
    /// A message has a key of its own, and so it is a session of its own.
    OneShot(SessionName),
    /// The session with this name was cancelled.
    Cancelled(String),
}

/// A session by its names, as [`tlsnego_service::session::Session`] has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionName {
    /// How its token came to be.
    pub kind: SessionKind,
    /// `c:Identifier`, or EncryptedKeySHA1 in base64.
    pub name: String,
    /// `c:Instance`.
    pub instance: Option<String>,
    /// The session under which it was established.
    pub parent: Option<String>,
}

impl SessionName {
    pub(crate) fn new(kind: SessionKind, token: &TokenName) -> Self {
        let instance = match token {
            TokenName::Context { instance, .. } => instance.clone(),
            TokenName::EncryptedKey(_) => None,
        };
        Self { kind, name: crate::server::session_name(token), instance, parent: None }
    }
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its octets.
    pub len: usize,
    /// `a:Action`; empty if it has none.
    pub action: String,
    /// What is in it.
    pub content: Content,
}

/// What is in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A leg of a negotiation that is not its last.
    Leg {
        /// What TLS records it has.
        tls: Vec<&'static str>,
    },
    /// The last leg of a negotiation.
    Token(TokenLeg),
    /// A secured message.
    Secured(Box<Layout>),
    /// A fault that is not secured.
    Fault(ReadFault),
    /// Anything else, or what cannot be decoded.
    Other,
}

/// The last leg of a negotiation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenLeg {
    /// What TLS records it has.
    pub tls: Vec<&'static str>,
    /// `c:Identifier` of the token.
    pub identifier: String,
    /// When the token ends, if that can be read.
    pub expires: Option<FileTime>,
    /// What TLS records the wrapped key has.
    pub wrapped_key: Vec<&'static str>,
    /// Octets of the wrapped key.
    pub wrapped_key_len: usize,
    /// Octets of the authenticator; none if there is no authenticator.
    pub authenticator_len: Option<usize>,
}

const RECORD_HEADER_LEN: usize = 5;
const HANDSHAKE_HEADER_LEN: usize = 4;
const ENCRYPTED: &str = "encrypted handshake";
/// TLS 1.2 has one message behind ChangeCipherSpec (RFC 5246, section 7.4.9).
const FINISHED: &str = "Finished (encrypted)";

/// Names what TLS records have, by their headers (RFC 5246 sections 6.2.1 and 7.4, RFC 8446 sections 4 and
/// 5.1).
pub(crate) fn tls_records(mut octets: &[u8], application_data: &'static str) -> Vec<&'static str> {
    let mut names = Vec::new();
    let mut is_encrypted = false;
    while !octets.is_empty() {
        let record = octets.get(3..RECORD_HEADER_LEN).and_then(|len| {
            let len = usize::from(u16::from_be_bytes([len[0], len[1]]));
            octets.split_at_checked(RECORD_HEADER_LEN + len)
        });
        let Some((record, rest)) = record else {
            names.push("part of a record");
            break;
        };
        octets = rest;
        match record[0] {
            20 => {
                names.push("ChangeCipherSpec");
                is_encrypted = true;
            }
            21 => names.push("alert"),
            22 if is_encrypted => names.push(FINISHED),
            22 => names.append(&mut handshakes(&record[RECORD_HEADER_LEN..])),
            23 => names.push(application_data),
            _ => names.push("unknown record"),
        }
    }
    names
}

/// Names the handshake messages of one record. A message that goes on in the next record, and one that is
/// encrypted, has no name.
fn handshakes(mut octets: &[u8]) -> Vec<&'static str> {
    let mut names = Vec::new();
    while !octets.is_empty() {
        let name = match octets[0] {
            1 => "ClientHello",
            2 => "ServerHello",
            4 => "NewSessionTicket",
            8 => "EncryptedExtensions",
            11 => "Certificate",
            12 => "ServerKeyExchange",
            13 => "CertificateRequest",
            14 => "ServerHelloDone",
            15 => "CertificateVerify",
            16 => "ClientKeyExchange",
            20 => "Finished",
            22 => "CertificateStatus",
            _ => return vec![ENCRYPTED],
        };
        let rest = octets.get(1..HANDSHAKE_HEADER_LEN).and_then(|len| {
            let len = usize::try_from(u32::from_be_bytes([0, len[0], len[1], len[2]])).ok()?;
            octets.get(HANDSHAKE_HEADER_LEN + len..)
        });
        names.push(name);
        let Some(rest) = rest else {
            names.push("part of a message");
            break;
        };
        octets = rest;
    }
    names
}

/// Names the records of a BinaryExchange.
pub(crate) fn tls_exchange(octets: &[u8]) -> Vec<&'static str> {
    tls_records(octets, ENCRYPTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(content: u8, octets: &[u8]) -> Vec<u8> {
        [&[content, 3, 3, 0, u8::try_from(octets.len()).expect("short")], octets].concat()
    }

    /// Numbers of types from RFC 5246, section 7.4, and RFC 8446, section 4.
    #[test]
    fn records_and_handshake_messages_are_named_by_their_headers() {
        let flight = record(22, &[2, 0, 0, 1, 9, 11, 0, 0, 0, 12, 0, 0, 0, 13, 0, 0, 0, 14, 0, 0, 0]);
        assert_eq!(
            tls_exchange(&flight),
            ["ServerHello", "Certificate", "ServerKeyExchange", "CertificateRequest", "ServerHelloDone"]
        );
        let second = [record(22, &[16, 0, 0, 0]), record(20, &[1]), record(22, &[0; 40])].concat();
        assert_eq!(tls_exchange(&second), ["ClientKeyExchange", "ChangeCipherSpec", "Finished (encrypted)"]);
        let tls_1_3 = [record(22, &[2, 0, 0, 0]), record(20, &[1]), record(23, &[7; 9])].concat();
        assert_eq!(tls_exchange(&tls_1_3), ["ServerHello", "ChangeCipherSpec", "encrypted handshake"]);
        assert_eq!(tls_records(&record(23, &[0; 40]), "key"), ["key"]);
        assert_eq!(tls_exchange(&record(21, &[2, 40])), ["alert"]);
        assert!(tls_exchange(&[]).is_empty());
    }

    #[test]
    fn cut_records_never_panic() {
        let flight = [record(22, &[16, 0, 0, 9, 1]), record(20, &[1]), record(99, &[0])].concat();
        for len in 0..flight.len() {
            tls_exchange(&flight[..len]);
        }
        assert_eq!(
            tls_exchange(&flight),
            ["ClientKeyExchange", "part of a message", "ChangeCipherSpec", "unknown record"]
        );
    }
}
