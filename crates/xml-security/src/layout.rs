//! How a message is secured, for people who look at one: which tokens it has, which keys are derived from
//! them, and which parts each key signs and encrypts. A layout has no key, no nonce and no content of a part.

use crate::envelope::Envelope;
use crate::ids::Ids;
use crate::key::sha1;
use crate::names::{
    ADDRESSING, CONVERSATION, ENCRYPTION, Name, SECURITY, SECURITY_11, SIGNATURE, SOAP, UTILITY,
};
use crate::reason::Reason;
use crate::token::{ALGORITHM, DerivedKeyToken, EncryptedKey, KeyReference, TokenName};
use crate::tree::{Document, NodeId};

/// How a message is secured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Tokens that the message carries, in the order of the header.
    pub tokens: Vec<CarriedToken>,
    /// Keys that are derived from tokens.
    pub derived_keys: Vec<DerivedKey>,
    /// Signatures: the primary one, and one that endorses it.
    pub signatures: Vec<ProtectedParts>,
    /// Encrypted parts by key.
    pub encryptions: Vec<ProtectedParts>,
}

/// A token in a security header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarriedToken {
    /// Its id.
    pub id: String,
    /// What it is.
    pub kind: CarriedKind,
}

/// What a token in a security header is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CarriedKind {
    /// A SecurityContextToken.
    Context(TokenName),
    /// A key that is encrypted to a certificate.
    EncryptedKey {
        /// The name by which a reply refers to it.
        name: TokenName,
        /// The certificate.
        recipient: KeyReference,
    },
    /// A certificate.
    Certificate,
}

/// A DerivedKeyToken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DerivedKey {
    /// Its id.
    pub id: String,
    /// The token from which it is derived.
    pub base: KeyReference,
    /// The label of the derivation.
    pub label: String,
    /// Octets before the key in the derived stream.
    pub offset: usize,
    /// Octets of the key.
    pub length: usize,
}

/// Parts that one key signs or encrypts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtectedParts {
    /// The key.
    pub key: KeyReference,
    /// The algorithm by its URI.
    pub algorithm: String,
    /// The parts by their names, with the prefixes of [`names`](crate::names).
    pub parts: Vec<String>,
}

impl Layout {
    /// Reads the layout of a message. `sent` is the message as it travels, and `plain` is the same one with
    /// all parts in clear. Nothing is verified.
    ///
    /// # Errors
    /// If the security header cannot be read, or the two are not the same message.
    pub fn read(sent: &Document, plain: &Document) -> Result<Self, Reason> {
        const SHAPE: Reason = Reason::Shape("o:Security");
        let envelope = Envelope::of(plain)?;
        let security = envelope.security(plain).ok_or(SHAPE)?;
        let sent_envelope = Envelope::of(sent)?;
        let sent_security = sent_envelope.security(sent).ok_or(SHAPE)?;
        let mut layout = Self::of_header(plain, &envelope, security)?;

        // A part stands where its EncryptedData stood.
        let places: Vec<_> = sent.elements(sent_security).collect();
        let found: Vec<_> = plain.elements(security).collect();
        if places.len() != found.len() {
            return Err(SHAPE);
        }
        let elements = places.iter().zip(&found).map(|(place, node)| (*place, part_name(plain, *node)));
        let content = sent.elements(sent_envelope.body).map(|place| (place, "content of s:Body".to_owned()));
        for (place, part) in content.chain(elements) {
            if !sent.is(place, ENCRYPTION.name("EncryptedData")) {
                continue;
            }
            let key = KeyReference::read_key_info(sent, place)?;
            let method = sent.only(place, ENCRYPTION.name("EncryptionMethod")).ok_or(SHAPE)?;
            let algorithm = sent.attribute(method, ALGORITHM).ok_or(SHAPE)?.to_owned();
            let same = |other: &&mut ProtectedParts| other.key == key && other.algorithm == algorithm;
            match layout.encryptions.iter_mut().find(same) {
                Some(other) => other.parts.push(part),
                None => layout.encryptions.push(ProtectedParts { key, algorithm, parts: vec![part] }),
            }
        }
        Ok(layout)
    }

    /// Everything except for what is encrypted.
    fn of_header(document: &Document, envelope: &Envelope, security: NodeId) -> Result<Self, Reason> {
        const SHAPE: Reason = Reason::Shape("a token");
        let ids = Ids::of(document, Some(envelope.body))?;
        let mut layout = Self {
            tokens: Vec::new(),
            derived_keys: Vec::new(),
            signatures: Vec::new(),
            encryptions: Vec::new(),
        };
        for node in document.elements(security) {
            let id = || document.id_of(node).map(str::to_owned).ok_or(SHAPE);
            let is = |name: Name<'static>| document.is(node, name);
            let kind = if is(CONVERSATION.name("SecurityContextToken")) {
                CarriedKind::Context(TokenName::read_context(document, node)?)
            } else if is(ENCRYPTION.name("EncryptedKey")) {
                let key = EncryptedKey::read(document, node)?;
                let name = TokenName::EncryptedKey(sha1(&key.wrapped));
                CarriedKind::EncryptedKey { name, recipient: key.recipient }
            } else if is(SECURITY.name("BinarySecurityToken")) {
                CarriedKind::Certificate
            } else {
                if is(CONVERSATION.name("DerivedKeyToken")) {
                    let DerivedKeyToken { base, offset, length, label, .. } =
                        DerivedKeyToken::read(document, node)?;
                    layout.derived_keys.push(DerivedKey { id: id()?, base, label, offset, length });
                } else if is(SIGNATURE.name("Signature")) {
                    layout.signatures.push(signature(document, node, &ids)?);
                }
                continue;
            };
            layout.tokens.push(CarriedToken { id: id()?, kind });
        }
        Ok(layout)
    }
}

fn signature(document: &Document, node: NodeId, ids: &Ids) -> Result<ProtectedParts, Reason> {
    const SHAPE: Reason = Reason::Shape("Signature");
    let info = document.only(node, SIGNATURE.name("SignedInfo")).ok_or(SHAPE)?;
    let method = document.only(info, SIGNATURE.name("SignatureMethod")).ok_or(SHAPE)?;
    let references = document.elements(info).filter(|child| document.is(*child, SIGNATURE.name("Reference")));
    let parts = references.map(|reference| {
        let uri = document.attribute(reference, Name::plain("URI")).ok_or(SHAPE)?;
        ids.refer(uri).map(|part| part_name(document, part)).ok_or(SHAPE)
    });
    Ok(ProtectedParts {
        key: KeyReference::read_key_info(document, node)?,
        algorithm: document.attribute(method, ALGORITHM).ok_or(SHAPE)?.to_owned(),
        parts: parts.collect::<Result<_, _>>()?,
    })
}

fn part_name(document: &Document, node: NodeId) -> String {
    let name = document.name(node);
    let known = [SOAP, ADDRESSING, CONVERSATION, SECURITY, SECURITY_11, UTILITY, ENCRYPTION];
    match known.iter().find(|namespace| namespace.uri == name.namespace) {
        Some(namespace) => format!("{}:{}", namespace.prefix, name.local),
        None => name.local.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::names;
    use crate::secure::{ProtectionToken, SecurePolicy, secure_shown};
    use crate::suite::Suite;
    use crate::token::{LABEL_DEFAULT, UsernameToken};
    use dtyp::FileTime;

    /// The layout of .NET as the digest of the protocol has it: Strict, `_0` signs with 24 octets and `_1`
    /// encrypts with 32.
    #[test]
    fn a_request_signs_and_encrypts_what_dot_net_does() {
        let mut document = Document::new(SOAP.name("Envelope"));
        let header = document.append_element(document.root(), SOAP.name("Header"));
        for local in ["Action", "MessageID", "To"] {
            document.append_text_element(header, ADDRESSING.name(local), "urn:x");
        }
        let body = document.append_element(document.root(), SOAP.name("Body"));
        document.append_text_element(body, Name::plain("Echo"), "secret text");
        let element = format!(
            "<c:SecurityContextToken xmlns:c='{}' xmlns:u='{}' u:Id='sct'><c:Identifier>urn:uuid:1</c:Identifier></c:SecurityContextToken>",
            CONVERSATION.uri, UTILITY.uri
        );
        let key = Key::new(&[1; 32]);
        let token = ProtectionToken::CarriedContext { element: element.as_bytes(), key: &key };
        let user = UsernameToken { username: "alice".to_owned(), password: "secret text".to_owned().into() };
        let mut policy = SecurePolicy::new(Suite::BASIC256, token, FileTime::from_unix(1_800_000_000));
        policy.username = Some(&user);
        let mut plain = None;
        let mut count = 0;
        let mut random = |octets: &mut [u8]| {
            count += 1;
            octets.fill(count);
        };
        let secured = secure_shown(document, &policy, &mut random, &mut |shown| plain = Some(shown.clone()));
        let sent = Document::parse(&secured.expect("a message").octets, &Default::default()).expect("XML");
        let layout = Layout::read(&sent, &plain.expect("it was shown")).expect("a layout");

        let name = TokenName::Context { identifier: "urn:uuid:1".to_owned(), instance: None };
        assert_eq!(layout.tokens, [CarriedToken { id: "sct".to_owned(), kind: CarriedKind::Context(name) }]);
        let [signs, encrypts] = &layout.derived_keys[..] else { panic!("{layout:?}") };
        for (derived, length) in [(signs, 24), (encrypts, 32)] {
            assert_eq!(derived.base, KeyReference::Id("sct".to_owned()));
            assert_eq!((&*derived.label, derived.offset, derived.length), (LABEL_DEFAULT, 0, length));
        }
        let parts = |protected: &[ProtectedParts], key: &DerivedKey, algorithm: &str| match protected {
            [one] if one.key == KeyReference::Id(key.id.clone()) && one.algorithm == algorithm => {
                one.parts.join(" ")
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(
            parts(&layout.signatures, signs, names::HMAC_SHA1),
            "s:Body a:Action a:MessageID a:To u:Timestamp o:UsernameToken"
        );
        assert_eq!(
            parts(&layout.encryptions, encrypts, "http://www.w3.org/2001/04/xmlenc#aes256-cbc"),
            "content of s:Body o:UsernameToken Signature"
        );
        assert!(!format!("{layout:?}").contains("secret text"));
        let encrypted = Layout::read(&sent, &sent).expect("a layout");
        assert!(encrypted.signatures.is_empty(), "a signature that is encrypted is not read");
    }
}
