//! XML signature and encryption of SOAP 1.2 messages as WS-Security 1.1 and WS-SecureConversation of February
//! 2005 use them.
//!
//! There is one tree of a message ([`Document`]): what is parsed is canonicalised, decrypted in place,
//! verified, read and written. [`secure`] signs and encrypts an envelope; [`open`] decrypts and verifies one,
//! and requires that everything is protected that has to be. Both serve requests and replies. The tokens are
//! a SecurityContextToken, or a key that is encrypted to a certificate; all keys that are used are derived
//! from them.
//!
//! ```
//! use dtyp::FileTime;
//! use xml_security::names::{ADDRESSING, SOAP};
//! use xml_security::*;
//!
//! /// One session, by the identifier of its SecurityContextToken.
//! struct Session;
//!
//! impl Keys for Session {
//!     fn context(&mut self, token: ContextToken<'_>) -> Result<Key, NoKey> {
//!         if token.identifier == "urn:uuid:1" { Ok(Key::new(&[1; 32])) } else { Err(NoKey::UnknownContext) }
//!     }
//! }
//!
//! let mut request = Document::new(SOAP.name("Envelope"));
//! let header = request.append_element(request.root(), SOAP.name("Header"));
//! request.append_text_element(header, ADDRESSING.name("Action"), "urn:echo");
//! request.append_text_element(header, ADDRESSING.name("To"), "http://service.example/");
//! let body = request.append_element(request.root(), SOAP.name("Body"));
//! request.append_text_element(body, names::Name::plain("Echo"), "hello");
//!
//! // An example needs no random octets; a program does.
//! let mut random = |octets: &mut [u8]| octets.fill(7);
//! let now = FileTime::from_unix(1_800_000_000);
//! let (name, key) = (TokenName::Context { identifier: "urn:uuid:1".into(), instance: None }, Key::new(&[1; 32]));
//! let token = ProtectionToken::Named { name: &name, key: &key };
//! let sent = secure(request, &SecurePolicy::new(Suite::BASIC256, token, now), &mut random).unwrap();
//!
//! let opened = open(&sent.octets, &OpenPolicy::request(Suite::BASIC256, now), &mut Session, &mut random).unwrap();
//! let echo = opened.document.elements(opened.envelope.body).next().unwrap();
//! assert_eq!(opened.document.text(echo).unwrap(), "hello");
//! ```
//!
//! This crate has no I/O and no clock. Keys come by a trait ([`Keys`], [`Signer`]), times and random octets
//! as arguments.

mod c14n;
mod copy;
mod encryption;
mod envelope;
mod ids;
mod key;
mod layout;
pub mod names;
mod open;
mod parse;
mod reason;
mod rejected;
mod rsa;
mod secure;
mod signature;
mod suite;
mod time;
mod token;
mod tree;
mod wipe;
mod write;

pub use c14n::{canonicalize, canonicalize_without};
pub use encryption::PARTS_MAX;
pub use envelope::{ADDRESSING_MAX, Envelope};
pub use key::{Key, p_sha1, sha1};
pub use layout::{CarriedKind, CarriedToken, DerivedKey, Layout, ProtectedParts};
pub use open::{
    CONTEXTS_MAX, ContextToken, DERIVED_KEYS_MAX, Direction, Endorsement, Keys, NoKey, OpenError, OpenPolicy,
    Opened, Presence, SKEW_DEFAULT, open, open_document,
};
pub use parse::{ATTRIBUTES_MAX, DECLARATIONS_MAX, DEPTH_MAX, MESSAGE_MAX, NODES_MAX, ParseLimits, XmlError};
pub use reason::Reason;
pub use rejected::Rejected;
pub use rsa::{Certificate, DecryptionKey, RsaError, Signer, SigningKey};
pub use secure::{
    EndorseWith, ProtectionToken, SecureError, SecurePolicy, Secured, VALIDITY_DEFAULT, secure, secure_shown,
};
pub use signature::{Covered, PREFIXES_MAX, REFERENCES_MAX};
pub use suite::{Cipher, Hash, Suite};
pub use time::{AGE_MAX, Timestamp, format_time, parse_time};
pub use token::{KeyReference, LABEL_DEFAULT, NONCE_MAX, OFFSET_MAX, TokenName, UsernameToken};
pub use tree::{Document, NodeId, Spellings, is_ncname};
pub use write::Unwritable;
