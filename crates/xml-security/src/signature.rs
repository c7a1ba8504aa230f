//! XML signatures over elements of the same document (XML signature 1.0), of the one shape that WS-Security
//! needs.
//!
//! A verified signature says which elements it covers, as nodes of the one tree. That it covers the right
//! ones is for the caller to check: an id alone does not say where an element stands.

use crate::c14n::{canonicalize, canonicalize_into};
use crate::ids::Ids;
use crate::key::{Key, is_equal};
use crate::names::{EXCLUSIVE, Name, SIGNATURE};
use crate::parse::XmlError;
use crate::reason::Reason;
use crate::rsa::{Certificate, RsaError, Signer};
use crate::suite::Hash;
use crate::token::{ALGORITHM, KeyReference};
use crate::tree::{Document, NodeId};

/// References of one signature. A message has its body, a dozen headers at most, and a few tokens.
pub const REFERENCES_MAX: usize = 32;
/// Prefixes of one PrefixList. Each element of what is signed looks for them.
pub const PREFIXES_MAX: usize = 32;

const URI: Name<'static> = Name::plain("URI");

/// An element that a signature covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Covered {
    /// The element, with all that is below it.
    pub node: NodeId,
    /// Prefixes whose namespaces are covered although no name uses them.
    pub prefixes: Vec<String>,
}

/// A signature as it was read, before anything about it is known to be true.
#[derive(Debug)]
pub(crate) struct UnverifiedSignature {
    signed_info: NodeId,
    prefixes: Vec<String>,
    method: String,
    references: Vec<UnverifiedReference>,
    pub(crate) value: Vec<u8>,
    pub(crate) key: KeyReference,
}

#[derive(Debug)]
struct UnverifiedReference {
    covered: Covered,
    digest: Vec<u8>,
}

impl UnverifiedSignature {
    /// Reads a Signature: SignedInfo, SignatureValue, KeyInfo, once and in this order.
    pub(crate) fn read(document: &Document, node: NodeId, ids: &Ids, hash: Hash) -> Result<Self, Reason> {
        const SHAPE: Reason = Reason::Shape("Signature");
        let [signed_info, value, _] =
            Self::children(document, node, ["SignedInfo", "SignatureValue", "KeyInfo"])?;
        let parts: Vec<_> = document.elements(signed_info).collect();
        let [canonicalization, method, ref references @ ..] = parts[..] else { return Err(SHAPE) };
        if !document.is(canonicalization, SIGNATURE.name("CanonicalizationMethod"))
            || !document.is(method, SIGNATURE.name("SignatureMethod"))
            || references.is_empty()
        {
            return Err(SHAPE);
        }
        if references.len() > REFERENCES_MAX {
            return Err(Reason::TooMany("references of a signature"));
        }
        // HMACOutputLength would be a child.
        if document.elements(method).next().is_some() {
            return Err(Reason::Algorithm("SignatureMethod"));
        }
        let references = references
            .iter()
            .map(|reference| UnverifiedReference::read(document, *reference, ids, hash))
            .collect::<Result<Vec<_>, _>>()?;
        // What is covered is canonicalised once: a small message does not cost as much as many.
        for reference in &references {
            let node = reference.covered.node;
            let others = references.iter().filter(|other| other.covered.node == node).count();
            let is_inside = document
                .ancestors(node)
                .skip(1)
                .any(|around| references.iter().any(|other| other.covered.node == around));
            if others > 1 || is_inside {
                return Err(Reason::Reference("a signature"));
            }
        }
        Ok(Self {
            signed_info,
            prefixes: exclusive_prefixes(document, canonicalization)?,
            method: document.attribute(method, ALGORITHM).ok_or(SHAPE)?.to_owned(),
            references,
            value: document.base64(value).ok_or(SHAPE)?,
            key: KeyReference::read_key_info(document, node)?,
        })
    }

    fn children<const N: usize>(
        document: &Document,
        node: NodeId,
        expected: [&'static str; N],
    ) -> Result<[NodeId; N], Reason> {
        const SHAPE: Reason = Reason::Shape("Signature");
        let found: Vec<_> = document.elements(node).collect();
        let found = <[NodeId; N]>::try_from(found).map_err(|_| SHAPE)?;
        let is_expected =
            found.iter().zip(expected).all(|(child, local)| document.is(*child, SIGNATURE.name(local)));
        if is_expected { Ok(found) } else { Err(SHAPE) }
    }

    /// Elements that it says it covers.
    pub(crate) fn covered(&self) -> impl Iterator<Item = &Covered> {
        self.references.iter().map(|reference| &reference.covered)
    }

    fn signed_octets(&self, document: &Document) -> Vec<u8> {
        canonicalize(document, self.signed_info, &as_strs(&self.prefixes))
    }

    /// Verifies the digests of all that it covers.
    fn check_digests(&self, document: &Document, hash: Hash) -> Result<(), Reason> {
        let (mut all_match, mut len) = (true, 0);
        let mut octets = Vec::with_capacity(4096);
        for reference in &self.references {
            let Covered { node, prefixes } = &reference.covered;
            canonicalize_into(document, *node, &as_strs(prefixes), &mut octets);
            // References to elements inside each other make the same octets again and again.
            len += octets.len();
            if len > document.canonical_len_max() {
                return Err(XmlError::TooLarge.into());
            }
            all_match &= is_equal(&hash.digest(&octets), &reference.digest);
        }
        if all_match { Ok(()) } else { Err(Reason::Digest) }
    }

    /// Verifies it under a symmetric key. The whole HMAC has to be there.
    pub(crate) fn verify_hmac(&self, document: &Document, hash: Hash, key: &Key) -> Result<(), Reason> {
        if self.method != hash.hmac_uri() {
            return Err(Reason::Algorithm("SignatureMethod"));
        }
        let is_made_by_key = is_equal(&hash.hmac(key, &self.signed_octets(document)), &self.value);
        self.check_digests(document, hash)?;
        if is_made_by_key { Ok(()) } else { Err(Reason::Signature) }
    }

    /// Verifies it under the key of a certificate, which the caller has to validate. RSA with SHA-256 is
    /// taken in each suite, because Mono's WCF has no other.
    pub(crate) fn verify_rsa(
        &self,
        document: &Document,
        hash: Hash,
        certificate: &Certificate,
    ) -> Result<(), Reason> {
        let is_used = |signed: &Hash| self.method == signed.rsa_uri();
        let signed =
            [hash, Hash::Sha256].into_iter().find(is_used).ok_or(Reason::Algorithm("SignatureMethod"))?;
        self.check_digests(document, hash)?;
        if certificate.verifies(signed, &self.signed_octets(document), &self.value) {
            Ok(())
        } else {
            Err(Reason::Signature)
        }
    }
}

impl UnverifiedReference {
    fn read(document: &Document, node: NodeId, ids: &Ids, hash: Hash) -> Result<Self, Reason> {
        const SHAPE: Reason = Reason::Shape("Reference of a signature");
        if !document.is(node, SIGNATURE.name("Reference")) {
            return Err(SHAPE);
        }
        let [transforms, method, digest] =
            UnverifiedSignature::children(document, node, ["Transforms", "DigestMethod", "DigestValue"])?;
        let [transform] = UnverifiedSignature::children(document, transforms, ["Transform"])?;
        if document.attribute(method, ALGORITHM) != Some(hash.digest_uri())
            || document.elements(method).next().is_some()
        {
            return Err(Reason::Algorithm("DigestMethod"));
        }
        let target = document.attribute(node, URI).and_then(|uri| ids.refer(uri));
        Ok(Self {
            covered: Covered {
                node: target.ok_or(Reason::Reference("a signature"))?,
                prefixes: exclusive_prefixes(document, transform)?,
            },
            digest: document.base64(digest).ok_or(SHAPE)?,
        })
    }
}

fn as_strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

/// The PrefixList of an element whose Algorithm is exclusive canonicalisation without comments.
fn exclusive_prefixes(document: &Document, node: NodeId) -> Result<Vec<String>, Reason> {
    const ALGORITHM_WRONG: Reason = Reason::Algorithm("canonicalisation or transform");
    if document.attribute(node, ALGORITHM) != Some(EXCLUSIVE.uri) {
        return Err(ALGORITHM_WRONG);
    }
    match document.elements(node).collect::<Vec<_>>()[..] {
        [] => Ok(Vec::new()),
        [list] if document.is(list, EXCLUSIVE.name("InclusiveNamespaces")) => {
            let list = document.attribute(list, Name::plain("PrefixList")).unwrap_or_default();
            let prefixes: Vec<_> = list.split_ascii_whitespace().map(str::to_owned).collect();
            if prefixes.len() > PREFIXES_MAX {
                return Err(Reason::TooMany("prefixes of a canonicalisation"));
            }
            Ok(prefixes)
        }
        _ => Err(ALGORITHM_WRONG),
    }
}

/// What signs.
pub(crate) enum SignWith<'a> {
    Key(&'a Key),
    Signer(&'a dyn Signer),
}

/// Signs elements by their ids, and writes the Signature below `parent`. Returns it and its value.
pub(crate) fn sign(
    document: &mut Document,
    parent: NodeId,
    targets: &[(NodeId, String)],
    hash: Hash,
    with: &SignWith<'_>,
    write_key_info: impl FnOnce(&mut Document, NodeId),
) -> Result<(NodeId, Vec<u8>), RsaError> {
    let mut octets = Vec::with_capacity(4096);
    let digests = targets.iter().map(|(node, _)| {
        canonicalize_into(document, *node, &[], &mut octets);
        hash.digest(&octets)
    });
    let digests: Vec<_> = digests.collect();
    let signature = document.append_element(parent, SIGNATURE.name("Signature"));
    let signed_info = document.append_element(signature, SIGNATURE.name("SignedInfo"));
    let algorithm = |document: &mut Document, parent, local, uri| {
        let node = document.append_element(parent, SIGNATURE.name(local));
        document.set_attribute(node, ALGORITHM, uri);
    };
    let method = match with {
        SignWith::Key(_) => hash.hmac_uri(),
        SignWith::Signer(_) => hash.rsa_uri(),
    };
    algorithm(document, signed_info, "CanonicalizationMethod", EXCLUSIVE.uri);
    algorithm(document, signed_info, "SignatureMethod", method);
    for ((_, id), digest) in targets.iter().zip(digests) {
        let reference = document.append_element(signed_info, SIGNATURE.name("Reference"));
        document.set_attribute(reference, URI, &format!("#{id}"));
        let transforms = document.append_element(reference, SIGNATURE.name("Transforms"));
        algorithm(document, transforms, "Transform", EXCLUSIVE.uri);
        algorithm(document, reference, "DigestMethod", hash.digest_uri());
        let value = document.append_element(reference, SIGNATURE.name("DigestValue"));
        document.append_base64(value, &digest);
    }
    canonicalize_into(document, signed_info, &[], &mut octets);
    let value = match with {
        SignWith::Key(key) => hash.hmac(key, &octets),
        SignWith::Signer(signer) => signer.sign(hash, &octets)?,
    };
    let text = document.append_element(signature, SIGNATURE.name("SignatureValue"));
    document.append_base64(text, &value);
    write_key_info(document, signature);
    Ok((signature, value))
}
