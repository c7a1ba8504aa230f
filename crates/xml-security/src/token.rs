//! Tokens of the `o:Security` header, and how they are referred to (WS-Security 1.1, section 7;
//! WS-SecureConversation, sections 3 and 7).

use crate::key::Key;
use crate::names::{self, CONVERSATION, ENCRYPTION, Name, SECURITY, SECURITY_11, SIGNATURE, UTILITY_ID};
use crate::reason::Reason;
use crate::tree::{Document, NodeId};

/// The label of derived keys unless a DerivedKeyToken has its own: the phrase twice (WS-SecureConversation,
/// section 7.1).
pub const LABEL_DEFAULT: &str = "WS-SecureConversationWS-SecureConversation";
/// Octets of a derived key, unless a DerivedKeyToken has a Length.
const DERIVED_LEN_DEFAULT: usize = 32;
/// Largest offset of a derived key. WCF has the same limit; each further octet costs the receiver work.
pub const OFFSET_MAX: usize = 64;
/// Octets of a label and of a nonce, as in WCF.
pub const NONCE_MAX: usize = 128;

const URI: Name<'static> = Name::plain("URI");
pub(crate) const ALGORITHM: Name<'static> = Name::plain("Algorithm");
const VALUE_TYPE: Name<'static> = Name::plain("ValueType");
/// A reference within a message needs no `ValueType`. Those to derived keys have none: Mono's WCF refuses
/// `…/sc/dk`.
pub(crate) const NO_VALUE_TYPE: &str = "";

/// The token that protects a message: its keys are derived from it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TokenName {
    /// A SecurityContextToken.
    Context {
        /// `c:Identifier`, an absolute URI.
        identifier: String,
        /// `c:Instance`, which generation of the key.
        instance: Option<String>,
    },
    /// A key that a client encrypted to the service: SHA-1 of the encrypted octets.
    EncryptedKey([u8; 20]),
}

/// How a key is referred to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyReference {
    /// A token of this message, by its id.
    Id(String),
    /// A SecurityContextToken or an EncryptedKey that is not in this message.
    Token(TokenName),
    /// SHA-1 of a certificate.
    Thumbprint([u8; 20]),
    /// Subject key identifier of a certificate.
    SubjectKeyIdentifier(Vec<u8>),
    /// Issuer and serial number of a certificate, as text.
    IssuerSerial {
        /// Distinguished name of the issuer.
        issuer: String,
        /// Serial number in decimal.
        serial: String,
    },
}

impl KeyReference {
    /// Reads the KeyInfo below `parent`: one SecurityTokenReference.
    pub(crate) fn read_key_info(document: &Document, parent: NodeId) -> Result<Self, Reason> {
        const SHAPE: Reason = Reason::Shape("KeyInfo");
        let key_info = document.only(parent, SIGNATURE.name("KeyInfo")).ok_or(SHAPE)?;
        let [reference] = document.elements(key_info).collect::<Vec<_>>()[..] else { return Err(SHAPE) };
        Self::read(document, reference)
    }

    /// Reads an `o:SecurityTokenReference` with one child.
    ///
    /// # Errors
    /// If it is of another form. Embedded tokens are refused.
    pub fn read(document: &Document, node: NodeId) -> Result<Self, Reason> {
        const SHAPE: Reason = Reason::Shape("o:SecurityTokenReference");
        let [child] = document.elements(node).collect::<Vec<_>>()[..] else { return Err(SHAPE) };
        if !document.is(node, SECURITY.name("SecurityTokenReference")) {
            return Err(SHAPE);
        }
        let value_type = document.attribute(child, VALUE_TYPE);
        if document.is(child, SECURITY.name("Reference")) {
            let uri = document.attribute(child, URI).ok_or(SHAPE)?;
            return match (uri.strip_prefix('#'), value_type) {
                (Some(id), _) => Ok(Self::Id(id.to_owned())),
                (None, Some(found)) if found == document.spelled(names::CONTEXT_TOKEN) => {
                    Ok(Self::Token(TokenName::Context {
                        identifier: uri.to_owned(),
                        instance: document.attribute(child, CONVERSATION.name("Instance")).map(str::to_owned),
                    }))
                }
                _ => Err(SHAPE),
            };
        }
        if document.is(child, SECURITY.name("KeyIdentifier")) {
            let octets = document.base64(child).ok_or(SHAPE)?;
            let hash = || <[u8; 20]>::try_from(&octets[..]).map_err(|_| SHAPE);
            return match value_type {
                Some(names::THUMBPRINT_SHA1) => Ok(Self::Thumbprint(hash()?)),
                Some(names::ENCRYPTED_KEY_SHA1) => Ok(Self::Token(TokenName::EncryptedKey(hash()?))),
                Some(names::SUBJECT_KEY_IDENTIFIER) => Ok(Self::SubjectKeyIdentifier(octets)),
                _ => Err(SHAPE),
            };
        }
        if document.is(child, SIGNATURE.name("X509Data")) {
            let text = |node: NodeId, local| {
                document
                    .only(node, SIGNATURE.name(local))
                    .and_then(|node| document.text(node))
                    .map(|t| t.into_owned())
            };
            let both = document
                .only(child, SIGNATURE.name("X509IssuerSerial"))
                .and_then(|node| Some((text(node, "X509IssuerName")?, text(node, "X509SerialNumber")?)));
            return both.map(|(issuer, serial)| Self::IssuerSerial { issuer, serial }).ok_or(SHAPE);
        }
        Err(SHAPE)
    }

    /// Writes an `o:SecurityTokenReference` below `parent`. `value_type` is that of a token of this message;
    /// empty for none.
    pub fn write(&self, document: &mut Document, parent: NodeId, value_type: &str) {
        let reference = document.append_element(parent, SECURITY.name("SecurityTokenReference"));
        let is_encrypted_key =
            value_type == names::ENCRYPTED_KEY || matches!(self, Self::Token(TokenName::EncryptedKey(_)));
        if is_encrypted_key {
            document.set_attribute(reference, SECURITY_11.name("TokenType"), names::ENCRYPTED_KEY);
        }
        let mut identifier = |value_type: &str, octets: &[u8]| {
            let identifier = document.append_element(reference, SECURITY.name("KeyIdentifier"));
            document.set_attribute(identifier, VALUE_TYPE, value_type);
            document.set_attribute(identifier, Name::plain("EncodingType"), names::BASE64_BINARY);
            document.append_base64(identifier, octets);
        };
        match self {
            Self::Thumbprint(hash) => identifier(names::THUMBPRINT_SHA1, hash),
            Self::Token(TokenName::EncryptedKey(hash)) => identifier(names::ENCRYPTED_KEY_SHA1, hash),
            Self::SubjectKeyIdentifier(octets) => identifier(names::SUBJECT_KEY_IDENTIFIER, octets),
            Self::Id(id) => {
                let child = document.append_element(reference, SECURITY.name("Reference"));
                if value_type != NO_VALUE_TYPE {
                    let value_type = document.spelled(value_type);
                    document.set_attribute(child, VALUE_TYPE, &value_type);
                }
                document.set_attribute(child, URI, &format!("#{id}"));
            }
            Self::Token(TokenName::Context { identifier, instance }) => {
                let child = document.append_element(reference, SECURITY.name("Reference"));
                document.set_attribute(child, URI, identifier);
                let value_type = document.spelled(names::CONTEXT_TOKEN);
                document.set_attribute(child, VALUE_TYPE, &value_type);
                if let Some(instance) = instance {
                    document.set_attribute(child, CONVERSATION.name("Instance"), instance);
                }
            }
            Self::IssuerSerial { issuer, serial } => {
                let data = document.append_element(reference, SIGNATURE.name("X509Data"));
                let both = document.append_element(data, SIGNATURE.name("X509IssuerSerial"));
                document.append_text_element(both, SIGNATURE.name("X509IssuerName"), issuer);
                document.append_text_element(both, SIGNATURE.name("X509SerialNumber"), serial);
            }
        }
    }

    /// Writes a KeyInfo with this reference below `parent`.
    pub(crate) fn write_key_info(&self, document: &mut Document, parent: NodeId, value_type: &str) {
        let key_info = document.append_element(parent, SIGNATURE.name("KeyInfo"));
        self.write(document, key_info, value_type);
    }
}

impl TokenName {
    /// Reads the name of a SecurityContextToken from its element: `c:Identifier`, and `c:Instance` if it has
    /// one. Other children are its issuer's own.
    ///
    /// # Errors
    /// If the element is another one, or one of the two stands twice or is no text.
    pub fn read_context(document: &Document, node: NodeId) -> Result<Self, Reason> {
        const SHAPE: Reason = Reason::Shape("c:SecurityContextToken");
        if !document.is(node, CONVERSATION.name("SecurityContextToken")) {
            return Err(SHAPE);
        }
        let text = |local| {
            let mut found =
                document.elements(node).filter(|child| document.is(*child, CONVERSATION.name(local)));
            match (found.next(), found.next()) {
                (None, _) => Ok(None),
                (Some(child), None) => document.text(child).map(|text| Some(text.into_owned())).ok_or(SHAPE),
                _ => Err(SHAPE),
            }
        };
        let identifier = text("Identifier")?.filter(|identifier| !identifier.is_empty()).ok_or(SHAPE)?;
        Ok(Self::Context { identifier, instance: text("Instance")? })
    }

    /// Writes a SecurityContextToken below `parent` with an id; its issuer may add to it. An EncryptedKey has
    /// no element of this kind: `None`.
    pub fn write_context(&self, document: &mut Document, parent: NodeId, id: &str) -> Option<NodeId> {
        let Self::Context { identifier, instance } = self else { return None };
        let token = document.append_element(parent, CONVERSATION.name("SecurityContextToken"));
        document.set_attribute(token, UTILITY_ID, id);
        document.append_text_element(token, CONVERSATION.name("Identifier"), identifier);
        if let Some(instance) = instance {
            document.append_text_element(token, CONVERSATION.name("Instance"), instance);
        }
        Some(token)
    }
}

/// `c:DerivedKeyToken`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DerivedKeyToken {
    /// What it derives from.
    pub(crate) base: KeyReference,
    pub(crate) offset: usize,
    pub(crate) length: usize,
    pub(crate) label: String,
    pub(crate) nonce: Vec<u8>,
}

impl DerivedKeyToken {
    /// Reads one, in any order of its children. Properties and other algorithms than P_SHA1 are refused.
    pub(crate) fn read(document: &Document, node: NodeId) -> Result<Self, Reason> {
        const SHAPE: Reason = Reason::Shape("c:DerivedKeyToken");
        let is_p_sha1 = |found: &str| found == document.spelled(names::DERIVE_P_SHA1);
        if !document.attribute(node, ALGORITHM).is_none_or(is_p_sha1) {
            return Err(Reason::Algorithm("c:DerivedKeyToken"));
        }
        let (mut base, mut generation, mut offset, mut length, mut label, mut nonce) =
            (None, None, None, None, None, None);
        let number = |child| {
            let text = document.text(child)?;
            let text = text.trim();
            // No sign, and no more digits than any limit has.
            let is_short = (1..=4).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_digit());
            if is_short { text.parse::<usize>().ok() } else { None }
        };
        for child in document.elements(node) {
            let is = |local| document.is(child, CONVERSATION.name(local));
            let twice = if document.is(child, SECURITY.name("SecurityTokenReference")) {
                base.replace(KeyReference::read(document, child)?).is_some()
            } else if is("Generation") {
                generation.replace(number(child).ok_or(SHAPE)?).is_some()
            } else if is("Offset") {
                offset.replace(number(child).ok_or(SHAPE)?).is_some()
            } else if is("Length") {
                length.replace(number(child).ok_or(SHAPE)?).is_some()
            } else if is("Label") {
                label.replace(document.text(child).ok_or(SHAPE)?.into_owned()).is_some()
            } else if is("Nonce") {
                nonce.replace(document.base64(child).ok_or(SHAPE)?).is_some()
            } else {
                true
            };
            if twice {
                return Err(SHAPE);
            }
        }
        let length = length.unwrap_or(DERIVED_LEN_DEFAULT);
        let offset = match (generation, offset) {
            (Some(_), Some(_)) => return Err(SHAPE),
            (Some(generation), None) => generation * length,
            (None, offset) => offset.unwrap_or(0),
        };
        let (Some(base), Some(nonce)) = (base, nonce) else { return Err(SHAPE) };
        let label = label.unwrap_or_else(|| LABEL_DEFAULT.to_owned());
        let is_allowed = matches!(length, 16 | 24 | 32)
            && offset <= OFFSET_MAX
            && (1..=NONCE_MAX).contains(&nonce.len())
            && (1..=NONCE_MAX).contains(&label.len());
        if !is_allowed {
            return Err(Reason::TooMany("octets of a derived key, or too few"));
        }
        Ok(Self { base, offset, length, label, nonce })
    }

    /// Writes one as .NET does: offset and length only where they are not the defaults.
    pub(crate) fn write(&self, document: &mut Document, parent: NodeId, id: &str, base_type: &str) {
        let token = document.append_element(parent, CONVERSATION.name("DerivedKeyToken"));
        document.set_attribute(token, UTILITY_ID, id);
        self.base.write(document, token, base_type);
        if self.length != DERIVED_LEN_DEFAULT || self.offset != 0 {
            document.append_text_element(token, CONVERSATION.name("Offset"), &self.offset.to_string());
            document.append_text_element(token, CONVERSATION.name("Length"), &self.length.to_string());
        }
        if self.label != LABEL_DEFAULT {
            document.append_text_element(token, CONVERSATION.name("Label"), &self.label);
        }
        let nonce = document.append_element(token, CONVERSATION.name("Nonce"));
        document.append_base64(nonce, &self.nonce);
    }

    pub(crate) fn derive(&self, key: &Key) -> Key {
        key.derive(self.label.as_bytes(), &self.nonce, self.offset, self.length)
    }
}

/// A name and a password in clear.
#[derive(Clone, PartialEq, Eq)]
pub struct UsernameToken {
    /// `o:Username`.
    pub username: String,
    /// `o:Password`, wiped when it is dropped.
    pub password: zeroize::Zeroizing<String>,
}

impl std::fmt::Debug for UsernameToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UsernameToken").field("username", &self.username).finish_non_exhaustive()
    }
}

impl UsernameToken {
    /// Reads one. Nonce and Created are ignored; salts and iterations, from which keys would be derived, are
    /// refused.
    pub(crate) fn read(document: &Document, node: NodeId) -> Result<Self, Reason> {
        const SHAPE: Reason = Reason::Shape("o:UsernameToken");
        let (mut username, mut password) = (None, None);
        for child in document.elements(node) {
            let is = |local| document.is(child, SECURITY.name(local));
            if is("Username") {
                let text = document.text(child).ok_or(SHAPE)?.into_owned();
                if username.replace(text).is_some() {
                    return Err(SHAPE);
                }
            } else if is("Password") {
                if !matches!(
                    document.attribute(child, Name::plain("Type")),
                    None | Some(names::PASSWORD_TEXT)
                ) {
                    return Err(SHAPE);
                }
                let text = document.text(child).ok_or(SHAPE)?.into_owned();
                if password.replace(text.into()).is_some() {
                    return Err(SHAPE);
                }
            } else if !is("Nonce") && !document.is(child, names::UTILITY.name("Created")) {
                return Err(SHAPE);
            }
        }
        let (Some(username), Some(password)) = (username, password) else { return Err(SHAPE) };
        Ok(Self { username, password })
    }

    pub(crate) fn write(&self, document: &mut Document, parent: NodeId, id: &str) -> NodeId {
        let token = document.append_element(parent, SECURITY.name("UsernameToken"));
        document.set_attribute(token, UTILITY_ID, id);
        document.append_text_element(token, SECURITY.name("Username"), &self.username);
        let password = document.append_text_element(token, SECURITY.name("Password"), &self.password);
        document.set_attribute(password, Name::plain("Type"), names::PASSWORD_TEXT);
        token
    }
}

/// `e:EncryptedKey` under a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EncryptedKey {
    pub(crate) recipient: KeyReference,
    pub(crate) wrapped: Vec<u8>,
}

impl EncryptedKey {
    /// Reads one: EncryptionMethod, KeyInfo, CipherData, and a ReferenceList that is read elsewhere.
    pub(crate) fn read(document: &Document, node: NodeId) -> Result<Self, Reason> {
        const SHAPE: Reason = Reason::Shape("e:EncryptedKey");
        for child in document.elements(node) {
            let is_known = document.is(child, SIGNATURE.name("KeyInfo"))
                || ["EncryptionMethod", "CipherData", "ReferenceList"]
                    .iter()
                    .any(|local| document.is(child, ENCRYPTION.name(local)));
            if !is_known {
                return Err(SHAPE);
            }
        }
        let method = document.only(node, ENCRYPTION.name("EncryptionMethod")).ok_or(SHAPE)?;
        let digests: Vec<_> = document.elements(method).collect();
        let is_sha1 = match digests[..] {
            [] => true,
            [digest] => {
                document.is(digest, SIGNATURE.name("DigestMethod"))
                    && document.attribute(digest, ALGORITHM) == Some(names::SHA1)
            }
            _ => false,
        };
        if document.attribute(method, ALGORITHM) != Some(names::RSA_OAEP) || !is_sha1 {
            return Err(Reason::Algorithm("e:EncryptedKey"));
        }
        let recipient = KeyReference::read_key_info(document, node)?;
        let wrapped = read_cipher_value(document, node).ok_or(SHAPE)?;
        Ok(Self { recipient, wrapped })
    }

    pub(crate) fn write(&self, document: &mut Document, parent: NodeId, id: &str) {
        let key = document.append_element(parent, ENCRYPTION.name("EncryptedKey"));
        document.set_attribute(key, names::PLAIN_ID, id);
        let method = document.append_element(key, ENCRYPTION.name("EncryptionMethod"));
        document.set_attribute(method, ALGORITHM, names::RSA_OAEP);
        let digest = document.append_element(method, SIGNATURE.name("DigestMethod"));
        document.set_attribute(digest, ALGORITHM, names::SHA1);
        self.recipient.write_key_info(document, key, "");
        write_cipher_value(document, key, &self.wrapped);
    }
}

/// `e:CipherData/e:CipherValue` below an element, alone in it.
pub(crate) fn read_cipher_value(document: &Document, node: NodeId) -> Option<Vec<u8>> {
    let data = document.only(node, ENCRYPTION.name("CipherData"))?;
    let [value] = document.elements(data).collect::<Vec<_>>()[..] else { return None };
    document.is(value, ENCRYPTION.name("CipherValue")).then(|| document.base64(value)).flatten()
}

pub(crate) fn write_cipher_value(document: &mut Document, parent: NodeId, octets: &[u8]) {
    let data = document.append_element(parent, ENCRYPTION.name("CipherData"));
    let value = document.append_element(data, ENCRYPTION.name("CipherValue"));
    document.append_base64(value, octets);
}

#[cfg(test)]
mod tests;
