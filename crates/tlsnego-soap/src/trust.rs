//! Trust elements: from the tree to values of `tlsnego-service`, and back.

use crate::Random;
use crate::message::plain;
use crate::names::{COMPUTED_KEY, NONCE, POLICY, SPNEGO, TrustVersion, named};
use crate::refusal::{Dialect, Refusal};
use dtyp::FileTime;
use std::borrow::Cow;
use tlsnego_service::fault::Reason;
use tlsnego_service::message::{Authenticator, BinaryExchange, Request, Response, TokenResponse};
use tlsnego_service::names::{DOT_NET_SECURITY, TRUST};
use xml_security::names::{
    ADDRESSING, BASE64_BINARY, CONTEXT_TOKEN, CONVERSATION, ENCRYPTION, Name, UTILITY,
};
use xml_security::{
    Document, KeyReference, NodeId, ParseLimits, TokenName, canonicalize_without, format_time, parse_time,
};
use zeroize::Zeroizing;

/// Entropy of the other side in octets: at least a short key, and at most what HMAC-SHA1 takes without
/// hashing it.
const ENTROPY_LEN: std::ops::RangeInclusive<usize> = 16..=64;

/// Octets of the entropy of this side.
const OWN_ENTROPY_LEN: usize = 32;

/// New entropy of this side.
pub(crate) fn new_entropy(random: &Random) -> Zeroizing<Vec<u8>> {
    let mut entropy = Zeroizing::new(vec![0; OWN_ENTROPY_LEN]);
    random(&mut entropy);
    entropy
}

/// Canonical octets of a trust element as the authenticator covers it: without white space between elements,
/// and without what `is_omitted` names.
pub(crate) fn canonical(
    document: &Document,
    element: NodeId,
    is_omitted: impl Fn(NodeId) -> bool,
) -> Vec<u8> {
    let is_between = |node| {
        let parent = document.parent(node);
        document.is_white_space(node)
            && parent.is_some_and(|parent| document.elements(parent).next().is_some())
    };
    canonicalize_without(document, element, &[], |node| is_between(node) || is_omitted(node))
}

/// The child of this name, if it is there, and once.
fn child(document: &Document, parent: NodeId, name: Name<'static>) -> Result<Option<NodeId>, Reason> {
    let mut found = document.elements(parent).filter(|node| document.is(*node, name));
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(Reason::Missing(name.local)),
        (first, None) => Ok(first),
    }
}

fn text<'d>(
    document: &'d Document,
    parent: NodeId,
    name: Name<'static>,
) -> Result<Option<Cow<'d, str>>, Reason> {
    let Some(node) = child(document, parent, name)? else { return Ok(None) };
    document.text(node).map(Some).ok_or(Reason::Missing(name.local))
}

/// The URI in an element, in the names of February 2005.
fn uri<'d>(
    document: &'d Document,
    parent: NodeId,
    name: Name<'static>,
) -> Result<Option<Cow<'d, str>>, Reason> {
    Ok(text(document, parent, name)?.map(named))
}

fn octets<'d>(
    document: &'d Document,
    parent: NodeId,
    name: Name<'static>,
) -> Result<Option<Cow<'d, [u8]>>, Reason> {
    let Some(node) = child(document, parent, name)? else { return Ok(None) };
    document.base64(node).map(|octets| Some(octets.into())).ok_or(Reason::Missing(name.local))
}

fn context(document: &Document, element: NodeId) -> Option<Cow<'_, str>> {
    plain(document, element, "Context").map(Cow::Borrowed)
}

fn binary_exchange<'d>(
    document: &'d Document,
    parent: NodeId,
) -> Result<Option<BinaryExchange<'d>>, Refusal> {
    const WHAT: Reason = Reason::Missing("BinaryExchange");
    let Some(node) = child(document, parent, TRUST.name("BinaryExchange"))? else { return Ok(None) };
    let value_type = plain(document, node, "ValueType").unwrap_or_default();
    if value_type.trim() == SPNEGO {
        return Err(Refusal::Dialect(Dialect::Spnego));
    }
    if let Some(other) = plain(document, node, "EncodingType").filter(|found| *found != BASE64_BINARY) {
        return Err(Reason::unsupported("EncodingType of BinaryExchange", other).into());
    }
    let octets = document.base64(node).ok_or(WHAT)?;
    Ok(Some(BinaryExchange { value_type: value_type.into(), octets: octets.into() }))
}

/// `wsp:AppliesTo` with an endpoint reference.
fn applies_to<'d>(document: &'d Document, parent: NodeId) -> Result<Option<Cow<'d, [u8]>>, Reason> {
    let node = child(document, parent, POLICY.name("AppliesTo"))?;
    let node = node.filter(|node| document.only(*node, ADDRESSING.name("EndpointReference")).is_some());
    Ok(node.map(|node| canonical(document, node, |_| false).into()))
}

/// The first leg.
pub(crate) fn read_request(document: &Document, element: NodeId) -> Result<Request<'_>, Refusal> {
    Ok(Request {
        context: context(document, element),
        token_type: uri(document, element, TRUST.name("TokenType"))?,
        request_type: uri(document, element, TRUST.name("RequestType"))?,
        key_size: text(document, element, TRUST.name("KeySize"))?,
        binary_exchange: binary_exchange(document, element)?,
        applies_to: applies_to(document, element)?,
    })
}

/// A leg between the first and the last.
pub(crate) fn read_response(document: &Document, element: NodeId) -> Result<Response<'_>, Refusal> {
    Ok(Response { context: context(document, element), binary_exchange: binary_exchange(document, element)? })
}

/// The first response of the last leg.
pub(crate) fn read_token_response(
    document: &Document,
    element: NodeId,
) -> Result<TokenResponse<'_>, Refusal> {
    let token = requested_token(document, element)?;
    let identifier = match token {
        Some(node) => text(document, node, CONVERSATION.name("Identifier"))?,
        None => None,
    };
    let proof = child(document, element, TRUST.name("RequestedProofToken"))?;
    let key = proof.and_then(|proof| document.only(proof, ENCRYPTION.name("EncryptedKey")));
    let method = key.and_then(|key| document.only(key, ENCRYPTION.name("EncryptionMethod")));
    let cipher = key.and_then(|key| document.only(key, ENCRYPTION.name("CipherData")));
    let cipher_value = match cipher {
        Some(cipher) => octets(document, cipher, ENCRYPTION.name("CipherValue"))?,
        None => None,
    };
    Ok(TokenResponse {
        context: context(document, element),
        token_type: uri(document, element, TRUST.name("TokenType"))?,
        identifier,
        applies_to: applies_to(document, element)?,
        wrap_algorithm: method.and_then(|method| plain(document, method, "Algorithm")).map(Cow::Borrowed),
        cipher_value,
        lifetime: lifetime(document, element)?,
        key_size: text(document, element, TRUST.name("KeySize"))?,
        binary_exchange: binary_exchange(document, element)?,
    })
}

/// A further response of the last leg.
pub(crate) fn read_authenticator(document: &Document, element: NodeId) -> Result<Authenticator<'_>, Refusal> {
    let authenticator = child(document, element, TRUST.name("Authenticator"))?;
    let combined_hash = match authenticator {
        Some(authenticator) => octets(document, authenticator, TRUST.name("CombinedHash"))?,
        None => None,
    };
    Ok(Authenticator { context: context(document, element), combined_hash })
}

pub(crate) fn requested_token(document: &Document, response: NodeId) -> Result<Option<NodeId>, Reason> {
    let requested = child(document, response, TRUST.name("RequestedSecurityToken"))?;
    match requested {
        Some(requested) => child(document, requested, CONVERSATION.name("SecurityContextToken")),
        None => Ok(None),
    }
}

fn lifetime(document: &Document, response: NodeId) -> Result<Option<(FileTime, FileTime)>, Reason> {
    const WHAT: Reason = Reason::Missing("Lifetime");
    let Some(node) = child(document, response, TRUST.name("Lifetime"))? else { return Ok(None) };
    let time = |local| {
        let text = text(document, node, UTILITY.name(local))?.ok_or(WHAT)?;
        parse_time(text.trim()).ok_or(WHAT)
    };
    Ok(Some((time("Created")?, time("Expires")?)))
}

/// Whether the children that the authenticator leaves out are these.
fn is_left_out(document: &Document, node: NodeId) -> bool {
    ["RequestedSecurityToken", "RequestedProofToken"]
        .into_iter()
        .any(|local| document.is(node, TRUST.name(local)))
}

/// Canonical octets of the last leg's first response.
pub(crate) fn canonical_of_token_response(document: &Document, response: NodeId) -> Vec<u8> {
    canonical(document, response, |node| {
        document.parent(node) == Some(response) && is_left_out(document, node)
    })
}

fn append_context(document: &mut Document, element: NodeId, context: Option<&str>) {
    if let Some(context) = context {
        document.set_attribute(element, Name::plain("Context"), context);
    }
}

fn append_exchange(document: &mut Document, parent: NodeId, exchange: Option<&BinaryExchange<'_>>) {
    let Some(exchange) = exchange else { return };
    let node = document.append_element(parent, TRUST.name("BinaryExchange"));
    document.set_attribute(node, Name::plain("ValueType"), &exchange.value_type);
    document.set_attribute(node, Name::plain("EncodingType"), BASE64_BINARY);
    document.append_base64(node, &exchange.octets);
}

fn append_optional(document: &mut Document, parent: NodeId, local: &'static str, text: Option<&str>) {
    if let Some(text) = text {
        let text = document.spelled(text);
        document.append_text_element(parent, TRUST.name(local), &text);
    }
}

/// Adds what was canonical octets of this program or of a message that was read.
fn append_applies_to(
    document: &mut Document,
    parent: NodeId,
    applies_to: Option<&[u8]>,
) -> Result<(), Refusal> {
    if let Some(octets) = applies_to {
        let added = document.append_xml(parent, octets, &ParseLimits::default());
        added.map_err(|error| Refusal::Security(error.into()))?;
    }
    Ok(())
}

/// Writes the first leg, as .NET orders it.
pub(crate) fn write_request(
    document: &mut Document,
    body: NodeId,
    request: &Request<'_>,
) -> Result<NodeId, Refusal> {
    let element = document.append_element(body, TRUST.name("RequestSecurityToken"));
    append_context(document, element, request.context.as_deref());
    append_optional(document, element, "TokenType", request.token_type.as_deref());
    append_optional(document, element, "RequestType", request.request_type.as_deref());
    append_applies_to(document, element, request.applies_to.as_deref())?;
    append_optional(document, element, "KeySize", request.key_size.as_deref());
    append_exchange(document, element, request.binary_exchange.as_ref());
    Ok(element)
}

/// Writes a leg between the first and the last.
pub(crate) fn write_response(document: &mut Document, parent: NodeId, response: &Response<'_>) -> NodeId {
    let element = document.append_element(parent, TRUST.name("RequestSecurityTokenResponse"));
    append_context(document, element, response.context.as_deref());
    append_exchange(document, element, response.binary_exchange.as_ref());
    element
}

/// Writes the last leg without its authenticator; returns the collection, and its first response.
pub(crate) fn write_token_response(
    document: &mut Document,
    body: NodeId,
    response: &TokenResponse<'_>,
    id: &str,
) -> Result<(NodeId, NodeId), Refusal> {
    let collection = document.append_element(body, TRUST.name("RequestSecurityTokenResponseCollection"));
    let element = document.append_element(collection, TRUST.name("RequestSecurityTokenResponse"));
    append_context(document, element, response.context.as_deref());
    append_optional(document, element, "TokenType", response.token_type.as_deref());
    let identifier = response.identifier.as_deref().unwrap_or_default().to_owned();
    let name = TokenName::Context { identifier, instance: None };
    append_token(document, element, &name, id, None);
    append_applies_to(document, element, response.applies_to.as_deref())?;
    append_references(document, element, &name, id);
    let proof = document.append_element(element, TRUST.name("RequestedProofToken"));
    let key = document.append_element(proof, ENCRYPTION.name("EncryptedKey"));
    let method = document.append_element(key, ENCRYPTION.name("EncryptionMethod"));
    let algorithm = response.wrap_algorithm.as_deref().unwrap_or_default();
    document.set_attribute(method, Name::plain("Algorithm"), algorithm);
    let data = document.append_element(key, ENCRYPTION.name("CipherData"));
    let value = document.append_element(data, ENCRYPTION.name("CipherValue"));
    document.append_base64(value, response.cipher_value.as_deref().unwrap_or_default());
    append_lifetime(document, element, response.lifetime);
    append_optional(document, element, "KeySize", response.key_size.as_deref());
    append_exchange(document, element, response.binary_exchange.as_ref());
    Ok((collection, element))
}

/// Writes the second response of the last leg.
pub(crate) fn write_authenticator(
    document: &mut Document,
    collection: NodeId,
    authenticator: &Authenticator<'_>,
) {
    let element = document.append_element(collection, TRUST.name("RequestSecurityTokenResponse"));
    append_context(document, element, authenticator.context.as_deref());
    let authenticator_node = document.append_element(element, TRUST.name("Authenticator"));
    let hash = document.append_element(authenticator_node, TRUST.name("CombinedHash"));
    document.append_base64(hash, authenticator.combined_hash.as_deref().unwrap_or_default());
}

fn append_token(
    document: &mut Document,
    response: NodeId,
    name: &TokenName,
    id: &str,
    cookie: Option<&[u8]>,
) {
    let requested = document.append_element(response, TRUST.name("RequestedSecurityToken"));
    if let (Some(token), Some(cookie)) = (name.write_context(document, requested, id), cookie) {
        append_cookie(document, token, cookie);
    }
}

/// Adds the cookie to a token, as .NET does.
pub(crate) fn append_cookie(document: &mut Document, token: NodeId, cookie: &[u8]) {
    let node = document.append_element(token, DOT_NET_SECURITY.name("Cookie"));
    document.append_base64(node, cookie);
}

/// The cookie in a token, if there is one and no more.
pub(crate) fn cookie(document: &Document, token: NodeId) -> Option<Vec<u8>> {
    document.base64(document.only(token, DOT_NET_SECURITY.name("Cookie"))?)
}

fn append_references(document: &mut Document, response: NodeId, name: &TokenName, id: &str) {
    let attached = document.append_element(response, TRUST.name("RequestedAttachedReference"));
    KeyReference::Id(id.to_owned()).write(document, attached, CONTEXT_TOKEN);
    let unattached = document.append_element(response, TRUST.name("RequestedUnattachedReference"));
    KeyReference::Token(name.clone()).write(document, unattached, CONTEXT_TOKEN);
}

fn append_lifetime(document: &mut Document, response: NodeId, lifetime: Option<(FileTime, FileTime)>) {
    let Some((created, expires)) = lifetime else { return };
    let node = document.append_element(response, TRUST.name("Lifetime"));
    document.append_text_element(node, UTILITY.name("Created"), &format_time(created));
    document.append_text_element(node, UTILITY.name("Expires"), &format_time(expires));
}

fn append_entropy(document: &mut Document, parent: NodeId, entropy: &[u8]) {
    let node = document.append_element(parent, TRUST.name("Entropy"));
    let secret = document.append_element(node, TRUST.name("BinarySecret"));
    let nonce = document.spelled(NONCE);
    document.set_attribute(secret, Name::plain("Type"), &nonce);
    document.append_base64(secret, entropy);
}

fn entropy(document: &Document, parent: NodeId) -> Result<Zeroizing<Vec<u8>>, Reason> {
    const WHAT: Reason = Reason::Missing("Entropy");
    let node = child(document, parent, TRUST.name("Entropy"))?.ok_or(WHAT)?;
    let secret = child(document, node, TRUST.name("BinarySecret"))?.ok_or(WHAT)?;
    if let Some(other) = plain(document, secret, "Type").filter(|found| *found != document.spelled(NONCE)) {
        return Err(Reason::unsupported("Type of BinarySecret", other));
    }
    let octets = document.base64(secret).map(Zeroizing::new).ok_or(WHAT)?;
    ENTROPY_LEN.contains(&octets.len()).then_some(octets).ok_or(WHAT)
}

/// The response to RST/SCT, Renew or Cancel, in its place.
fn append_response(document: &mut Document, body: NodeId, version: TrustVersion) -> NodeId {
    let parent = match version.collects() {
        true => document.append_element(body, TRUST.name("RequestSecurityTokenResponseCollection")),
        false => body,
    };
    document.append_element(parent, TRUST.name("RequestSecurityTokenResponse"))
}

/// The same of a message that was read.
fn only_response(document: &Document, body: NodeId, version: TrustVersion) -> Option<NodeId> {
    let first = crate::message::only_element(document, body)?;
    let response = match version.collects() {
        true if document.is(first, TRUST.name("RequestSecurityTokenResponseCollection")) => {
            crate::message::only_element(document, first)?
        }
        true => return None,
        false => first,
    };
    document.is(response, TRUST.name("RequestSecurityTokenResponse")).then_some(response)
}

/// RST/SCT, Renew or Cancel.
pub(crate) struct SessionRequest {
    pub(crate) context: Option<String>,
    pub(crate) token_type: Option<String>,
    pub(crate) request_type: String,
    pub(crate) key_size: Option<String>,
    /// Not of Cancel.
    pub(crate) entropy: Option<Zeroizing<Vec<u8>>>,
    /// The token of Renew and Cancel.
    pub(crate) target: Option<TokenName>,
}

impl SessionRequest {
    /// Reads one; `target` is the element that names the token, for Renew and Cancel.
    pub(crate) fn read(
        document: &Document,
        body: NodeId,
        target: Option<&'static str>,
        has_entropy: bool,
    ) -> Result<Self, Reason> {
        let element = crate::message::only_element(document, body)
            .filter(|node| document.is(*node, TRUST.name("RequestSecurityToken")))
            .ok_or(Reason::Missing("RequestSecurityToken"))?;
        let owned = |local| Ok::<_, Reason>(uri(document, element, TRUST.name(local))?.map(Cow::into_owned));
        let target = match target {
            None => None,
            Some(local) => {
                let node = child(document, element, TRUST.name(local))?.ok_or(Reason::Missing(local))?;
                let reference = crate::message::only_element(document, node).ok_or(Reason::Missing(local))?;
                match KeyReference::read(document, reference) {
                    Ok(KeyReference::Token(name @ TokenName::Context { .. })) => Some(name),
                    _ => return Err(Reason::Missing(local)),
                }
            }
        };
        Ok(Self {
            context: context(document, element).map(Cow::into_owned),
            token_type: owned("TokenType")?,
            request_type: owned("RequestType")?.ok_or(Reason::Missing("RequestType"))?,
            key_size: owned("KeySize")?,
            entropy: has_entropy.then(|| entropy(document, element)).transpose()?,
            target,
        })
    }

    pub(crate) fn write(&self, document: &mut Document, body: NodeId, target: &'static str) {
        let element = document.append_element(body, TRUST.name("RequestSecurityToken"));
        append_context(document, element, self.context.as_deref());
        append_optional(document, element, "TokenType", self.token_type.as_deref());
        append_optional(document, element, "RequestType", Some(&self.request_type));
        if let Some(entropy) = &self.entropy {
            append_entropy(document, element, entropy);
        }
        append_optional(document, element, "KeySize", self.key_size.as_deref());
        if let Some(name) = &self.target {
            let node = document.append_element(element, TRUST.name(target));
            KeyReference::Token(name.clone()).write(document, node, CONTEXT_TOKEN);
        }
    }
}

/// The answer to RST/SCT and Renew.
pub(crate) struct SessionResponse {
    pub(crate) context: Option<String>,
    pub(crate) name: TokenName,
    pub(crate) entropy: Zeroizing<Vec<u8>>,
    pub(crate) lifetime: (FileTime, FileTime),
    pub(crate) key_size: u32,
}

impl SessionResponse {
    /// Writes it; the cookie becomes part of the token with this id.
    pub(crate) fn write(
        &self,
        document: &mut Document,
        body: NodeId,
        version: TrustVersion,
        (id, cookie): (&str, Option<&[u8]>),
    ) {
        let element = append_response(document, body, version);
        append_context(document, element, self.context.as_deref());
        append_optional(document, element, "TokenType", Some(CONTEXT_TOKEN));
        append_token(document, element, &self.name, id, cookie);
        append_references(document, element, &self.name, id);
        let proof = document.append_element(element, TRUST.name("RequestedProofToken"));
        append_optional(document, proof, "ComputedKey", Some(COMPUTED_KEY));
        append_entropy(document, element, &self.entropy);
        append_lifetime(document, element, Some(self.lifetime));
        append_optional(document, element, "KeySize", Some(&self.key_size.to_string()));
    }

    /// Reads one, with the element of its token.
    pub(crate) fn read(
        document: &Document,
        body: NodeId,
        version: TrustVersion,
        key_size: u32,
    ) -> Result<(Self, NodeId), Reason> {
        let element =
            only_response(document, body, version).ok_or(Reason::Missing("RequestSecurityTokenResponse"))?;
        let token = requested_token(document, element)?.ok_or(Reason::Missing("SecurityContextToken"))?;
        let name = TokenName::read_context(document, token)
            .map_err(|_| Reason::Missing("Identifier of SecurityContextToken"))?;
        let proof = child(document, element, TRUST.name("RequestedProofToken"))?;
        let computed = match proof {
            Some(proof) => uri(document, proof, TRUST.name("ComputedKey"))?,
            None => None,
        };
        if computed.as_deref().map(str::trim) != Some(COMPUTED_KEY) {
            return Err(Reason::Missing("ComputedKey"));
        }
        if let Some(other) = text(document, element, TRUST.name("KeySize"))?
            .filter(|found| found.trim() != key_size.to_string())
        {
            return Err(Reason::unsupported("KeySize", &other));
        }
        let lifetime = lifetime(document, element)?.ok_or(Reason::Missing("Lifetime"))?;
        let entropy = entropy(document, element)?;
        let context = context(document, element).map(Cow::into_owned);
        Ok((Self { context, name, entropy, lifetime, key_size }, token))
    }
}

/// Writes the answer to Cancel.
pub(crate) fn write_cancelled(
    document: &mut Document,
    body: NodeId,
    version: TrustVersion,
    context: Option<&str>,
) {
    let element = append_response(document, body, version);
    append_context(document, element, context);
    document.append_element(element, TRUST.name("RequestedTokenCancelled"));
}

/// Whether a body is the answer to Cancel.
pub(crate) fn is_cancelled(document: &Document, body: NodeId, version: TrustVersion) -> bool {
    only_response(document, body, version)
        .is_some_and(|node| document.only(node, TRUST.name("RequestedTokenCancelled")).is_some())
}
