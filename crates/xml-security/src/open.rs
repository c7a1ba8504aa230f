//! Reading a secured message: decrypt in place, verify, and require that everything is covered that has to
//! be.

use crate::encryption::{EncryptedPart, PARTS_MAX, PartType, listed_parts};
use crate::envelope::{Envelope, check_values};
use crate::ids::Ids;
use crate::key::{Key, sha1};
use crate::names::{CONVERSATION, ENCRYPTION, Name, SECURITY, SECURITY_11, SIGNATURE, UTILITY, X509_V3};
use crate::parse::ParseLimits;
use crate::reason::Reason;
use crate::rejected::Rejected;
use crate::rsa::{Certificate, DecryptionKey};
use crate::signature::{Covered, UnverifiedSignature};
use crate::suite::Suite;
use crate::time::Timestamp;
use crate::token::{DerivedKeyToken, EncryptedKey, KeyReference, TokenName, UsernameToken};
use crate::tree::{Document, NodeId, decode_base64};
use dtyp::FileTime;
use std::time::Duration;
use zeroize::Zeroizing;

/// DerivedKeyTokens of one message. Each costs up to five HMACs; a message has two, and one more for a second
/// signature.
pub const DERIVED_KEYS_MAX: usize = 8;
/// Difference of clocks that is granted, as in WCF.
pub const SKEW_DEFAULT: Duration = Duration::from_secs(5 * 60);

/// A SecurityContextToken of which the key is asked.
#[derive(Clone, Copy, Debug)]
pub struct ContextToken<'a> {
    /// `c:Identifier`.
    pub identifier: &'a str,
    /// `c:Instance`; without one the newest generation is meant.
    pub instance: Option<&'a str>,
    /// The token itself with the document that it is part of, if it is in the message. It may hold a cookie
    /// of its issuer.
    pub element: Option<(&'a Document, NodeId)>,
}

/// Why the owner of the keys gives none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoKey {
    /// A SecurityContextToken is unknown, expired or cancelled: the peer is told so.
    UnknownContext,
    /// The key is not given, and the peer is not told why.
    Refused,
}

/// Keys of tokens. Each method refuses unless it is implemented.
pub trait Keys {
    /// Key of a SecurityContextToken.
    ///
    /// # Errors
    /// If there is none.
    fn context(&mut self, _token: ContextToken<'_>) -> Result<Key, NoKey> {
        Err(NoKey::Refused)
    }

    /// Private key for an EncryptedKey. It is asked before anything is decrypted, so that messages of a key
    /// that failed too often cost no RSA operation: `sha1` is the SHA-1 of the encrypted octets.
    ///
    /// # Errors
    /// If the recipient is not this one, or the key is refused.
    fn decryption_key(
        &mut self,
        _recipient: &KeyReference,
        _sha1: &[u8; 20],
    ) -> Result<&DecryptionKey, NoKey> {
        Err(NoKey::Refused)
    }

    /// The key that was once encrypted, by the SHA-1 of its encrypted octets.
    ///
    /// # Errors
    /// If it is not known.
    fn encrypted_key(&mut self, _sha1: &[u8; 20]) -> Result<Key, NoKey> {
        Err(NoKey::Refused)
    }

    /// A certificate that a signature refers to without carrying it.
    ///
    /// # Errors
    /// If it is not known.
    fn certificate(&mut self, _reference: &KeyReference) -> Result<Certificate, NoKey> {
        Err(NoKey::Refused)
    }
}

/// Whether a part has to be in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It has to be there.
    Required,
    /// It may be there.
    Optional,
    /// It may not be there.
    Forbidden,
}

impl Presence {
    fn check(self, is_there: bool, what: &'static str) -> Result<(), Reason> {
        match (self, is_there) {
            (Self::Required, false) | (Self::Forbidden, true) => Err(Reason::Shape(what)),
            _ => Ok(()),
        }
    }
}

/// Which side made the message.
#[derive(Clone, Copy, Debug)]
pub enum Direction<'a> {
    /// A client: `a:To` has to be there.
    Request,
    /// A service: `a:RelatesTo` has to be there.
    Reply {
        /// Signature values of the request, if the reply has to confirm them, all and no others.
        confirms: Option<&'a [Vec<u8>]>,
    },
}

/// What a message has to be like.
#[derive(Clone, Copy, Debug)]
pub struct OpenPolicy<'a> {
    /// Algorithms.
    pub suite: Suite,
    /// Which side made it.
    pub direction: Direction<'a>,
    /// UsernameToken.
    pub username: Presence,
    /// A second signature, over the first.
    pub endorsing: Presence,
    /// Now.
    pub now: FileTime,
    /// Difference of clocks.
    pub skew: Duration,
    /// Limits of the message.
    pub limits: ParseLimits,
}

impl OpenPolicy<'_> {
    /// A request under a suite without user name and second signature, with the default skew and
    /// limits.
    pub fn request(suite: Suite, now: FileTime) -> Self {
        Self {
            suite,
            direction: Direction::Request,
            username: Presence::Forbidden,
            endorsing: Presence::Forbidden,
            now,
            skew: SKEW_DEFAULT,
            limits: ParseLimits::default(),
        }
    }
}

/// What made a second signature, over the primary one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endorsement {
    /// The key of a certificate, which is not validated here.
    Certificate(Certificate),
    /// A key derived from another token.
    Token(TokenName),
}

/// A message that is secured as the policy says.
#[derive(Debug)]
pub struct Opened {
    /// The one tree: verified, with decrypted parts in their places.
    pub document: Document,
    /// Its parts.
    pub envelope: Envelope,
    /// The token that protects it.
    pub token: TokenName,
    /// Key of that token, for the reply.
    pub key: Key,
    /// Elements that the primary signature covers.
    pub signed: Vec<Covered>,
    /// Dates.
    pub timestamp: Timestamp,
    /// User name and password, not checked against anything.
    pub username: Option<UsernameToken>,
    /// What endorses the primary signature.
    pub endorsement: Option<Endorsement>,
    /// Values of the primary signature and of the endorsing one: what a reply confirms.
    pub signature_values: Vec<Vec<u8>>,
    /// When a second message with the same primary signature stops counting anyway. Until then it is a
    /// replay.
    pub replay_until: FileTime,
}

impl Opened {
    /// Value of the primary signature: by it a replay is known.
    pub fn replay_key(&self) -> &[u8] {
        &self.signature_values[0]
    }
}

/// Why a message was not opened.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A SecurityContextToken is unknown, expired or cancelled.
    #[error("a security context token is not known")]
    UnknownContext,
    /// Everything else.
    #[error(transparent)]
    Rejected(#[from] Rejected),
}

impl From<Reason> for OpenError {
    fn from(reason: Reason) -> Self {
        Self::Rejected(reason.into())
    }
}

/// Opens a secured message: its whole tree is read, decrypted and verified before any of it is given out.
///
/// `random` fills octets with random ones. They take the place of a wrapped key that cannot be unwrapped.
///
/// # Errors
/// If the message is not secured as the policy says. Padding, XML, digests and signatures are one error;
/// decryption that fails is followed by the work of a verification, so that its time says little.
pub fn open(
    octets: &[u8],
    policy: &OpenPolicy<'_>,
    keys: &mut dyn Keys,
    random: &mut dyn FnMut(&mut [u8]),
) -> Result<Opened, OpenError> {
    let document = Document::parse(octets, &policy.limits).map_err(Reason::Xml)?;
    open_document(document, policy, keys, random)
}

/// [`open`] for a document that is already read, such as one of which the action was looked at.
///
/// # Errors
/// As for [`open`].
pub fn open_document(
    mut document: Document,
    policy: &OpenPolicy<'_>,
    keys: &mut dyn Keys,
    random: &mut dyn FnMut(&mut [u8]),
) -> Result<Opened, OpenError> {
    let envelope = Envelope::of(&document)?;
    let security = envelope.security(&document).ok_or(Reason::Shape("o:Security"))?;
    let ids = Ids::of(&document, Some(envelope.body))?;
    let header = Header::read(&document, security)?;
    let timestamp = Timestamp::read(&document, header.timestamp)?;
    let replay_until = timestamp.check(policy.now, policy.skew)?;

    let parts = listed_parts(&document, &header.reference_lists, &ids)?;
    let parts: Vec<_> = parts
        .iter()
        .map(|node| EncryptedPart::read(&document, *node, policy.suite.cipher))
        .collect::<Result<_, _>>()?;
    for part in &parts {
        let parent = document.parent(part.node);
        let is_allowed = match part.part_type {
            PartType::Content => {
                parent == Some(envelope.body) && document.children(envelope.body).count() == 1
            }
            PartType::Element => parent == Some(security),
        };
        if !is_allowed {
            return Err(Reason::Shape("the place of an e:EncryptedData").into());
        }
    }
    if !parts.iter().any(|part| part.part_type == PartType::Content) {
        return Err(Reason::NotProtected("s:Body").into());
    }

    let mut resolver = Resolver { header: &header, keys, random, suite: policy.suite, tokens: Vec::new() };
    let mut part_keys = Vec::with_capacity(parts.len());
    for part in &parts {
        part_keys.push(resolver.derived(&document, &part.key)?);
    }
    let token = part_keys[0].token.clone();
    if part_keys.iter().any(|key| key.token != token || key.key.expose().len() != policy.suite.key_len()) {
        return Err(Reason::Key("e:EncryptedData").into());
    }

    let under_token = |reason| Rejected::from(reason).under(Some(token.clone()));
    let decrypted = match decrypt_all(&mut document, &parts, &part_keys, policy) {
        Ok(decrypted) => decrypted,
        Err(reason) => {
            spend(&document, &envelope, policy.suite, &part_keys[0].key);
            return Err(under_token(reason).into());
        }
    };
    let verifier =
        Verifier { document: &document, envelope: &envelope, security, policy, decrypted: &decrypted };
    let verified = verifier.run(&mut resolver, &token).map_err(|error| {
        let OpenError::Rejected(rejected) = error else { return error };
        if !matches!(rejected.reason(), Reason::Digest | Reason::Signature) {
            spend(&document, &envelope, policy.suite, &part_keys[0].key);
        }
        OpenError::Rejected(rejected.under(Some(token.clone())))
    })?;
    let key = resolver.token_key(&token).ok_or(Reason::Key("the token"))?;
    Ok(Opened {
        envelope,
        key,
        token,
        signed: verified.signed,
        timestamp,
        username: verified.username,
        endorsement: verified.endorsement,
        signature_values: verified.signature_values,
        replay_until,
        document,
    })
}

/// What stands in the security header before anything is decrypted. Tokens from which keys are derived have
/// to be in clear.
struct Header {
    timestamp: NodeId,
    contexts: Vec<(String, NodeId, TokenName)>,
    encrypted_keys: Vec<(String, EncryptedKey)>,
    derived_keys: Vec<(String, DerivedKeyToken)>,
    certificates: Vec<(String, Vec<u8>)>,
    reference_lists: Vec<NodeId>,
}

/// SecurityContextTokens in one header: the one that protects it, and one that endorses.
pub const CONTEXTS_MAX: usize = 2;
/// Certificates in one header.
const CERTIFICATES_MAX: usize = 2;

impl Header {
    fn read(document: &Document, security: NodeId) -> Result<Self, Reason> {
        let mut timestamps = Vec::new();
        let mut header = Self {
            timestamp: security,
            contexts: Vec::new(),
            encrypted_keys: Vec::new(),
            derived_keys: Vec::new(),
            certificates: Vec::new(),
            reference_lists: Vec::new(),
        };
        for node in document.children(security) {
            if document.is_white_space(node) {
                continue;
            }
            let id = || document.id_of(node).map(str::to_owned).ok_or(Reason::Shape("a token without an id"));
            let is = |name: Name<'static>| document.is(node, name);
            if is(UTILITY.name("Timestamp")) {
                timestamps.push(node);
            } else if is(CONVERSATION.name("SecurityContextToken")) {
                header.contexts.push((id()?, node, TokenName::read_context(document, node)?));
            } else if is(CONVERSATION.name("DerivedKeyToken")) {
                header.derived_keys.push((id()?, DerivedKeyToken::read(document, node)?));
            } else if is(ENCRYPTION.name("EncryptedKey")) {
                header.encrypted_keys.push((id()?, EncryptedKey::read(document, node)?));
                header.reference_lists.extend(document.only(node, ENCRYPTION.name("ReferenceList")));
            } else if is(SECURITY.name("BinarySecurityToken")) {
                let octets = document.base64(node);
                let octets =
                    octets.filter(|_| document.attribute(node, Name::plain("ValueType")) == Some(X509_V3));
                header.certificates.push((id()?, octets.ok_or(Reason::Shape("o:BinarySecurityToken"))?));
            } else if is(ENCRYPTION.name("ReferenceList")) {
                header.reference_lists.push(node);
            } else if is(SECURITY.name("UsernameToken")) {
                return Err(Reason::NotProtected("o:UsernameToken"));
            } else if !is(ENCRYPTION.name("EncryptedData"))
                && !is(SIGNATURE.name("Signature"))
                && !is(SECURITY_11.name("SignatureConfirmation"))
            {
                return Err(Reason::Shape("a child of o:Security"));
            }
        }
        if header.contexts.len() > CONTEXTS_MAX
            || header.derived_keys.len() > DERIVED_KEYS_MAX
            || header.encrypted_keys.len() > 1
            || header.certificates.len() > CERTIFICATES_MAX
            || header.reference_lists.len() > PARTS_MAX
        {
            return Err(Reason::TooMany("tokens"));
        }
        let [timestamp] = timestamps[..] else { return Err(Reason::Shape("u:Timestamp")) };
        header.timestamp = timestamp;
        Ok(header)
    }
}

fn by_id<'a, T>(all: &'a [(String, T)], id: &str) -> Option<&'a T> {
    all.iter().find(|(other, _)| other == id).map(|(_, found)| found)
}

/// A derived key and what it was derived from.
struct Derived {
    token: TokenName,
    key: Key,
}

/// From references to keys. Each token's key is asked once.
struct Resolver<'a> {
    header: &'a Header,
    keys: &'a mut dyn Keys,
    random: &'a mut dyn FnMut(&mut [u8]),
    suite: Suite,
    tokens: Vec<(TokenName, Key)>,
}

impl Resolver<'_> {
    /// The key of a DerivedKeyToken in this message. Keys of tokens themselves are not used directly.
    fn derived(&mut self, document: &Document, reference: &KeyReference) -> Result<Derived, OpenError> {
        const WHAT: Reason = Reason::Reference("KeyInfo");
        let KeyReference::Id(id) = reference else { return Err(WHAT.into()) };
        let header = self.header;
        let derived = by_id(&header.derived_keys, id).ok_or(WHAT)?;
        let token = match &derived.base {
            KeyReference::Token(token) => token.clone(),
            KeyReference::Id(id) => {
                let context = header.contexts.iter().find(|(other, ..)| other == id);
                let encrypted = by_id(&header.encrypted_keys, id);
                match (context, encrypted) {
                    (Some((_, _, name)), _) => name.clone(),
                    (None, Some(encrypted)) => TokenName::EncryptedKey(sha1(&encrypted.wrapped)),
                    (None, None) => return Err(Reason::Reference("c:DerivedKeyToken").into()),
                }
            }
            _ => return Err(Reason::Reference("c:DerivedKeyToken").into()),
        };
        let key = match self.token_key(&token) {
            Some(key) => key,
            None => {
                let key = self.ask(document, &token)?;
                self.tokens.push((token.clone(), key.clone()));
                key
            }
        };
        Ok(Derived { key: derived.derive(&key), token })
    }

    fn token_key(&self, token: &TokenName) -> Option<Key> {
        self.tokens.iter().find(|(known, _)| known == token).map(|(_, key)| key.clone())
    }

    fn ask(&mut self, document: &Document, token: &TokenName) -> Result<Key, OpenError> {
        let refused = |no_key| match no_key {
            NoKey::UnknownContext => OpenError::UnknownContext,
            NoKey::Refused => Rejected::from(Reason::Key("the token")).under(Some(token.clone())).into(),
        };
        match token {
            TokenName::Context { identifier, instance } => {
                let carried = self.header.contexts.iter().find(|(_, _, name)| name == token);
                let element = carried.map(|(_, node, _)| (document, *node));
                self.keys
                    .context(ContextToken { identifier, instance: instance.as_deref(), element })
                    .map_err(refused)
            }
            TokenName::EncryptedKey(hash) => {
                let mut carried = self.header.encrypted_keys.iter();
                let Some((_, carried)) = carried.find(|(_, key)| sha1(&key.wrapped) == *hash) else {
                    return self.keys.encrypted_key(hash).map_err(refused);
                };
                let mut substitute = Zeroizing::new(vec![0; self.suite.key_len()]);
                (self.random)(&mut substitute);
                let private = self.keys.decryption_key(&carried.recipient, hash).map_err(refused)?;
                Ok(private.unwrap_into(&carried.wrapped, substitute))
            }
        }
    }
}

/// Decrypts all parts in place; returns the elements that came out in the security header. The first failure
/// is the answer, but every part is decrypted.
fn decrypt_all(
    document: &mut Document,
    parts: &[EncryptedPart],
    keys: &[Derived],
    policy: &OpenPolicy<'_>,
) -> Result<Vec<NodeId>, Reason> {
    let mut octets_left = policy.limits.octets;
    let mut decrypted = Vec::new();
    let mut failure = None;
    for (part, key) in parts.iter().zip(keys) {
        match part.decrypt(document, policy.suite.cipher, &key.key, &policy.limits, &mut octets_left) {
            Ok(nodes) if part.part_type == PartType::Element => decrypted.extend(nodes),
            Ok(_) => {}
            Err(reason) => failure = failure.or(Some(reason)),
        }
    }
    failure.map_or(Ok(decrypted), Err)
}

/// The work of a verification, for a message that fails where nothing is verified, so that its time does not
/// say where.
fn spend(document: &Document, envelope: &Envelope, suite: Suite, key: &Key) {
    let nodes = envelope.addressing.iter().copied().chain([envelope.body, envelope.header]);
    let digests = nodes.flat_map(|node| suite.hash.digest(&crate::c14n::canonicalize(document, node, &[])));
    std::hint::black_box(suite.hash.hmac(key, &digests.collect::<Vec<_>>()));
}

/// A decrypted message that is still to be verified.
struct Verifier<'a> {
    document: &'a Document,
    envelope: &'a Envelope,
    security: NodeId,
    policy: &'a OpenPolicy<'a>,
    decrypted: &'a [NodeId],
}

struct Verified {
    signed: Vec<Covered>,
    username: Option<UsernameToken>,
    endorsement: Option<Endorsement>,
    signature_values: Vec<Vec<u8>>,
}

impl Verifier<'_> {
    fn run(&self, resolver: &mut Resolver<'_>, token: &TokenName) -> Result<Verified, OpenError> {
        let Self { document, envelope, policy, .. } = *self;
        let hash = policy.suite.hash;
        // Ids of decrypted elements count, too.
        let ids = Ids::of(document, Some(envelope.body))?;
        self.check_decrypted()?;

        let nodes = self.found(SIGNATURE.name("Signature"));
        if nodes.len() > 2 {
            return Err(Reason::TooMany("signatures").into());
        }
        let mut primary = None;
        let mut endorsing = None;
        for node in &nodes {
            let signature = UnverifiedSignature::read(document, *node, &ids, hash)?;
            let over_signature = signature.covered().any(|covered| nodes.contains(&covered.node));
            let place = if over_signature { &mut endorsing } else { &mut primary };
            if place.replace((*node, signature)).is_some() {
                return Err(Reason::Shape("signatures").into());
            }
        }
        let (primary_node, primary) = primary.ok_or(Reason::NotProtected("the message"))?;
        if !self.decrypted.contains(&primary_node) {
            return Err(Reason::NotProtected("the signature").into());
        }
        let key = resolver.derived(document, &primary.key)?;
        if key.token != *token || key.key.expose().len() < policy.suite.signature_key_len() {
            return Err(Reason::Key("the signature").into());
        }
        primary.verify_hmac(document, hash, &key.key)?;
        let mut signature_values = vec![primary.value.clone()];

        policy.endorsing.check(endorsing.is_some(), "the endorsing signature")?;
        let endorsement = match endorsing {
            None => None,
            Some((_, signature)) => {
                if !signature.covered().map(|covered| covered.node).eq([primary_node]) {
                    return Err(Reason::Shape("the endorsing signature").into());
                }
                let endorsement = self.verify_endorsement(&signature, resolver, token)?;
                signature_values.push(signature.value);
                Some(endorsement)
            }
        };

        let signed: Vec<_> = primary.covered().cloned().collect();
        let username = self.check_coverage(&signed, resolver.header.timestamp)?;
        let prefixes = signed.iter().find(|covered| covered.node == envelope.body);
        check_values(document, envelope.body, prefixes.map_or(&[], |covered| &covered.prefixes))?;
        self.check_confirmations()?;
        Ok(Verified { signed, username, endorsement, signature_values })
    }

    /// Children of the security header with a name.
    fn found(&self, name: Name<'_>) -> Vec<NodeId> {
        self.document.elements(self.security).filter(|node| self.document.is(*node, name)).collect()
    }

    fn check_decrypted(&self) -> Result<(), Reason> {
        let allowed = [
            SIGNATURE.name("Signature"),
            SECURITY.name("UsernameToken"),
            SECURITY_11.name("SignatureConfirmation"),
        ];
        let is_allowed = |node: &NodeId| allowed.iter().any(|name| self.document.is(*node, *name));
        if self.decrypted.iter().all(is_allowed) { Ok(()) } else { Err(Reason::Shape("a decrypted element")) }
    }

    fn verify_endorsement(
        &self,
        signature: &UnverifiedSignature,
        resolver: &mut Resolver<'_>,
        token: &TokenName,
    ) -> Result<Endorsement, OpenError> {
        let hash = self.policy.suite.hash;
        let carried = match &signature.key {
            KeyReference::Id(id) => by_id(&resolver.header.certificates, id),
            _ => None,
        };
        let certificate = match (carried, &signature.key) {
            (Some(der), _) => {
                Certificate::from_der(der).map_err(|_| Reason::Shape("o:BinarySecurityToken"))?
            }
            (None, KeyReference::Id(_) | KeyReference::Token(_)) => {
                let key = resolver.derived(self.document, &signature.key)?;
                if key.token == *token || key.key.expose().len() < self.policy.suite.signature_key_len() {
                    return Err(Reason::Key("the endorsing signature").into());
                }
                signature.verify_hmac(self.document, hash, &key.key)?;
                return Ok(Endorsement::Token(key.token));
            }
            (None, reference) => {
                resolver.keys.certificate(reference).map_err(|_| Reason::Key("the endorsing signature"))?
            }
        };
        signature.verify_rsa(self.document, hash, &certificate)?;
        Ok(Endorsement::Certificate(certificate))
    }

    /// Requires that everything is signed that has to be, and returns the user name.
    fn check_coverage(&self, signed: &[Covered], timestamp: NodeId) -> Result<Option<UsernameToken>, Reason> {
        let Self { document, envelope, policy, .. } = *self;
        let is_signed = |node| signed.iter().any(|covered| covered.node == node);
        let require = |node, what| if is_signed(node) { Ok(()) } else { Err(Reason::NotProtected(what)) };
        require(envelope.body, "s:Body")?;
        require(timestamp, "u:Timestamp")?;
        for node in &envelope.addressing {
            require(*node, "a header of WS-Addressing")?;
        }
        let needed = match policy.direction {
            Direction::Request => ["Action", "To"],
            Direction::Reply { .. } => ["Action", "RelatesTo"],
        };
        if needed.iter().any(|local| envelope.addressing(document, local).is_none()) {
            return Err(Reason::Shape("headers of WS-Addressing"));
        }
        for node in self.found(SECURITY_11.name("SignatureConfirmation")) {
            require(node, "k:SignatureConfirmation")?;
        }
        let tokens = self.found(SECURITY.name("UsernameToken"));
        policy.username.check(!tokens.is_empty(), "o:UsernameToken")?;
        match tokens[..] {
            [] => Ok(None),
            [token] => {
                require(token, "o:UsernameToken")?;
                UsernameToken::read(document, token).map(Some)
            }
            _ => Err(Reason::Shape("o:UsernameToken")),
        }
    }

    fn check_confirmations(&self) -> Result<(), Reason> {
        let found = self.found(SECURITY_11.name("SignatureConfirmation"));
        let expected = match self.policy.direction {
            Direction::Reply { confirms: Some(expected) } => expected,
            _ => &[],
        };
        let values = found.iter().map(|node| self.document.attribute(*node, Name::plain("Value")));
        let values: Option<Vec<_>> =
            values.map(|value| value.and_then(|value| decode_base64(value.as_bytes()))).collect();
        let values = values.ok_or(Reason::Confirmation)?;
        let is_complete =
            values.len() == expected.len() && expected.iter().all(|expected| values.contains(expected));
        if is_complete { Ok(()) } else { Err(Reason::Confirmation) }
    }
}
