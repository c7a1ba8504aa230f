//! Writing a secured message in the Strict layout of .NET: sign, then encrypt.

use crate::encryption::{PartType, PartWriter};
use crate::envelope::Envelope;
use crate::ids::Ids;
use crate::key::{Key, sha1};
use crate::names::{
    self, BASE64_BINARY, CONTEXT_TOKEN, ENCRYPTED_KEY, ENCRYPTION, Name, PLAIN_ID, SECURITY, SECURITY_11,
    SOAP, UTILITY, UTILITY_ID, X509_V3,
};
use crate::parse::ParseLimits;
use crate::reason::Reason;
use crate::rsa::{Certificate, RsaError, Signer};
use crate::signature::{SignWith, sign};
use crate::suite::Suite;
use crate::time::format_time;
use crate::token::{
    DerivedKeyToken, EncryptedKey, KeyReference, LABEL_DEFAULT, NO_VALUE_TYPE, TokenName, UsernameToken,
};
use crate::tree::{Document, NodeId, encode_base64};
use crate::write::Unwritable;
use dtyp::FileTime;
use std::time::Duration;

/// How long a message counts, as .NET writes it.
pub const VALIDITY_DEFAULT: Duration = Duration::from_secs(5 * 60);
/// Octets of a derived key's nonce.
const NONCE_LEN: usize = 16;

/// The token that protects a message, with its key.
#[derive(Clone, Copy, Debug)]
pub enum ProtectionToken<'a> {
    /// A SecurityContextToken that the message carries, as its issuer wrote it: a request.
    CarriedContext {
        /// The element with all namespaces that it needs, such as [`Document::extract`] gives.
        element: &'a [u8],
        /// Its key.
        key: &'a Key,
    },
    /// A token that the message only names: a reply.
    Named {
        /// Its name.
        name: &'a TokenName,
        /// Its key.
        key: &'a Key,
    },
    /// A fresh key that is encrypted to the certificate of a service: a request without a session.
    EncryptTo(&'a Certificate),
}

/// What signs the primary signature.
#[derive(Clone, Copy)]
pub enum EndorseWith<'a> {
    /// The key of a certificate, which is carried in a BinarySecurityToken.
    Signer(&'a dyn Signer),
    /// A key derived from another SecurityContextToken, which is carried.
    Context {
        /// The element, as in [`ProtectionToken::CarriedContext`].
        element: &'a [u8],
        /// Its key.
        key: &'a Key,
    },
}

/// How a message is secured.
#[derive(Clone, Copy)]
pub struct SecurePolicy<'a> {
    /// Algorithms.
    pub suite: Suite,
    /// What protects it.
    pub token: ProtectionToken<'a>,
    /// User name and password: signed and encrypted.
    pub username: Option<&'a UsernameToken>,
    /// A second signature, over the first.
    pub endorse: Option<EndorseWith<'a>>,
    /// Signature values of the request that a reply confirms.
    pub confirms: &'a [Vec<u8>],
    /// Now.
    pub now: FileTime,
    /// How long it counts.
    pub validity: Duration,
}

impl<'a> SecurePolicy<'a> {
    /// A message under a token without user name, second signature and confirmations.
    pub fn new(suite: Suite, token: ProtectionToken<'a>, now: FileTime) -> Self {
        Self { suite, token, username: None, endorse: None, confirms: &[], now, validity: VALIDITY_DEFAULT }
    }
}

/// A secured message.
#[derive(Debug)]
pub struct Secured {
    /// The envelope in UTF-8.
    pub octets: Vec<u8>,
    /// Name of the token that protects it. For a fresh key it is the name by which the reply refers to it.
    pub token: TokenName,
    /// Key of that token.
    pub key: Key,
    /// Values of the primary signature and of the endorsing one, which the reply may confirm.
    pub signature_values: Vec<Vec<u8>>,
}

/// Why a message could not be secured.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecureError {
    /// The document is no envelope, has a security header already, or a token cannot be read.
    #[error("{0}")]
    Message(#[from] Reason),
    /// A value in it cannot be written in XML.
    #[error(transparent)]
    Unwritable(#[from] Unwritable),
    /// The certificate or the signer.
    #[error(transparent)]
    Rsa(#[from] RsaError),
}

/// Secures an envelope with header and body. `random` fills octets with random ones: nonces, vectors, keys.
///
/// # Errors
/// If the document is no such envelope, or a key cannot be used.
pub fn secure(
    document: Document,
    policy: &SecurePolicy<'_>,
    random: &mut dyn FnMut(&mut [u8]),
) -> Result<Secured, SecureError> {
    secure_in_steps(document, policy, random, &mut ())
}

/// [`secure`], and `show` gets the message when all of it is signed and before any part is encrypted.
///
/// # Errors
/// As for [`secure`].
pub fn secure_shown(
    document: Document,
    policy: &SecurePolicy<'_>,
    random: &mut dyn FnMut(&mut [u8]),
    show: &mut dyn FnMut(&Document),
) -> Result<Secured, SecureError> {
    struct Show<'s>(&'s mut dyn FnMut(&Document));
    impl Steps for Show<'_> {
        fn before_encryption(&mut self, document: &mut Document, _: &mut Vec<(NodeId, PartType)>) {
            (self.0)(document);
        }
    }
    secure_in_steps(document, policy, random, &mut Show(show))
}

/// What is done between the steps of securing a message. Tests make messages that are secured
/// wrongly.
pub(crate) trait Steps {
    /// `targets` are about to be signed.
    fn before_signing(&mut self, _document: &mut Document, _targets: &mut Vec<(NodeId, String)>) {}
    /// All is signed, and the parts are about to be encrypted.
    fn before_encryption(&mut self, _document: &mut Document, _parts: &mut Vec<(NodeId, PartType)>) {}
}

impl Steps for () {}

pub(crate) fn secure_in_steps(
    mut document: Document,
    policy: &SecurePolicy<'_>,
    random: &mut dyn FnMut(&mut [u8]),
    steps: &mut dyn Steps,
) -> Result<Secured, SecureError> {
    let envelope = Envelope::of(&document)?;
    if document.elements(envelope.header).any(|node| document.is(node, SECURITY.name("Security"))) {
        return Err(Reason::Shape("o:Security").into());
    }
    let ids = Ids::of(&document, Some(envelope.body))?;
    // Declared once instead of on each element; what is canonical does not change.
    let root = document.root();
    if document.namespace_at(root, UTILITY.prefix).is_none() {
        document.declare(root, UTILITY.prefix, UTILITY.uri);
    }
    let security = document.append_element(envelope.header, SECURITY.name("Security"));
    for namespace in [names::CONVERSATION, ENCRYPTION] {
        document.declare(security, namespace.prefix, namespace.uri);
    }
    document.set_attribute(security, SOAP.name("mustUnderstand"), "1");
    let mut writer = Writer { document: &mut document, security, ids, next_id: 0, random };

    let mut targets = Vec::new();
    for node in [envelope.body].iter().chain(&envelope.addressing) {
        targets.push(writer.identify(*node)?);
    }
    let timestamp = writer.document.append_element(security, UTILITY.name("Timestamp"));
    targets.push(writer.identify(timestamp)?);
    for (local, time) in [("Created", policy.now), ("Expires", policy.now + policy.validity)] {
        writer.document.append_text_element(timestamp, UTILITY.name(local), &format_time(time));
    }

    let token = writer.protection_token(policy)?;
    let (signature_key_id, signature_key) = writer.derive(&token, policy.suite.signature_key_len());
    let (encryption_key_id, encryption_key) = writer.derive(&token, policy.suite.key_len());
    let list = writer.document.append_element(security, ENCRYPTION.name("ReferenceList"));

    let mut encrypted = vec![(envelope.body, PartType::Content)];
    if let Some(username) = policy.username {
        let id = writer.fresh_id();
        let node = username.write(writer.document, security, &id);
        targets.push((node, id));
        encrypted.push((node, PartType::Element));
    }
    let endorsing_key =
        policy.endorse.map(|endorse| writer.endorsing_token(endorse, policy.suite)).transpose()?;
    for value in policy.confirms {
        let node = writer.document.append_element(security, SECURITY_11.name("SignatureConfirmation"));
        writer.document.set_attribute(node, Name::plain("Value"), &encode_base64(value));
        targets.push(writer.identify(node)?);
        encrypted.push((node, PartType::Element));
    }

    let hash = policy.suite.hash;
    let key_info = |id: &str, value_type: &'static str| {
        let reference = KeyReference::Id(id.to_owned());
        move |document: &mut Document, node| reference.write_key_info(document, node, value_type)
    };
    let with = SignWith::Key(&signature_key);
    let write_key = key_info(&signature_key_id, NO_VALUE_TYPE);
    steps.before_signing(writer.document, &mut targets);
    let (primary, value) = sign(writer.document, security, &targets, hash, &with, write_key)?;
    encrypted.push((primary, PartType::Element));
    let mut signature_values = vec![value];
    if let Some((endorsing_id, endorsing_key)) = &endorsing_key {
        let id = writer.fresh_id();
        writer.document.set_attribute(primary, PLAIN_ID, &id);
        let (with, value_type) = match endorsing_key {
            EndorsingKey::Signer(signer) => (SignWith::Signer(*signer), X509_V3),
            EndorsingKey::Key(key) => (SignWith::Key(key), NO_VALUE_TYPE),
        };
        let write_key = key_info(endorsing_id, value_type);
        let (node, value) = sign(writer.document, security, &[(primary, id)], hash, &with, write_key)?;
        encrypted.push((node, PartType::Element));
        signature_values.push(value);
    }

    steps.before_encryption(writer.document, &mut encrypted);
    for (node, part_type) in encrypted {
        let id = writer.fresh_id();
        let reference = writer.document.append_element(list, ENCRYPTION.name("DataReference"));
        writer.document.set_attribute(reference, Name::plain("URI"), &format!("#{id}"));
        let part =
            PartWriter { cipher: policy.suite.cipher, key: &encryption_key, key_id: &encryption_key_id };
        part.encrypt(writer.document, node, part_type, &id, writer.random)?;
    }
    let octets = document.write()?;
    Ok(Secured { octets, token: token.name, key: token.key, signature_values })
}

/// A token in the header, or one that is only named.
struct WrittenToken {
    name: TokenName,
    key: Key,
    reference: KeyReference,
    value_type: &'static str,
}

enum EndorsingKey<'a> {
    Signer(&'a dyn Signer),
    Key(Key),
}

struct Writer<'a> {
    document: &'a mut Document,
    security: NodeId,
    ids: Ids,
    next_id: u32,
    random: &'a mut dyn FnMut(&mut [u8]),
}

impl<'a> Writer<'a> {
    /// `_0`, `_1` and so on, without those that the message has already.
    fn fresh_id(&mut self) -> String {
        loop {
            let id = format!("_{}", self.next_id);
            self.next_id += 1;
            if self.ids.get(&id).is_none() {
                return id;
            }
        }
    }

    /// The element with its id; it gets one if it has none.
    fn identify(&mut self, node: NodeId) -> Result<(NodeId, String), Reason> {
        if let Some(id) = self.document.id_of(node) {
            return Ok((node, id.to_owned()));
        }
        let id = self.fresh_id();
        self.document.set_attribute(node, UTILITY_ID, &id);
        Ok((node, id))
    }

    fn protection_token(&mut self, policy: &SecurePolicy<'_>) -> Result<WrittenToken, SecureError> {
        match policy.token {
            ProtectionToken::CarriedContext { element, key } => self.carry(element, key),
            ProtectionToken::Named { name, key } => Ok(WrittenToken {
                name: name.clone(),
                key: key.clone(),
                reference: KeyReference::Token(name.clone()),
                value_type: NO_VALUE_TYPE,
            }),
            ProtectionToken::EncryptTo(certificate) => {
                let mut octets = zeroize::Zeroizing::new(vec![0; policy.suite.key_len()]);
                (self.random)(&mut octets);
                let key = Key::new(&octets);
                let wrapped = certificate.wrap(&key)?;
                let name = TokenName::EncryptedKey(sha1(&wrapped));
                let id = self.fresh_id();
                let encrypted =
                    EncryptedKey { recipient: KeyReference::Thumbprint(certificate.thumbprint()), wrapped };
                encrypted.write(self.document, self.security, &id);
                Ok(WrittenToken { name, key, reference: KeyReference::Id(id), value_type: ENCRYPTED_KEY })
            }
        }
    }

    /// Puts a SecurityContextToken into the header as its issuer wrote it.
    fn carry(&mut self, element: &[u8], key: &Key) -> Result<WrittenToken, SecureError> {
        const SHAPE: Reason = Reason::Shape("c:SecurityContextToken");
        let limits = ParseLimits { nodes: usize::MAX, ..ParseLimits::default() };
        let nodes = self.document.parse_inside(self.security, element, &limits).map_err(Reason::Xml)?;
        let [node] = nodes[..] else { return Err(SHAPE.into()) };
        let name = TokenName::read_context(self.document, node)?;
        self.document.attach(self.security, node);
        let (_, id) = self.identify(node)?;
        Ok(WrittenToken {
            name,
            key: key.clone(),
            reference: KeyReference::Id(id),
            value_type: CONTEXT_TOKEN,
        })
    }

    /// Writes a DerivedKeyToken; returns its id and its key.
    fn derive(&mut self, token: &WrittenToken, length: usize) -> (String, Key) {
        let mut nonce = vec![0; NONCE_LEN];
        (self.random)(&mut nonce);
        let label = LABEL_DEFAULT.to_owned();
        let derived = DerivedKeyToken { base: token.reference.clone(), offset: 0, length, label, nonce };
        let id = self.fresh_id();
        derived.write(self.document, self.security, &id, token.value_type);
        (id, derived.derive(&token.key))
    }

    fn endorsing_token<'b>(
        &mut self,
        endorse: EndorseWith<'b>,
        suite: Suite,
    ) -> Result<(String, EndorsingKey<'b>), SecureError> {
        match endorse {
            EndorseWith::Signer(signer) => {
                let id = self.fresh_id();
                let token = self.document.append_element(self.security, SECURITY.name("BinarySecurityToken"));
                self.document.set_attribute(token, UTILITY_ID, &id);
                self.document.set_attribute(token, Name::plain("ValueType"), X509_V3);
                self.document.set_attribute(token, Name::plain("EncodingType"), BASE64_BINARY);
                self.document.append_base64(token, signer.certificate().der());
                Ok((id, EndorsingKey::Signer(signer)))
            }
            EndorseWith::Context { element, key } => {
                let token = self.carry(element, key)?;
                let (id, key) = self.derive(&token, suite.signature_key_len());
                Ok((id, EndorsingKey::Key(key)))
            }
        }
    }
}

#[cfg(test)]
mod tests;
