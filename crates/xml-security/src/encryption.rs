//! Encrypted parts of a message (XML encryption 1.0): `e:EncryptedData` that stands for an element or for the
//! content of one.
//!
//! Parts are decrypted in place: what comes out is read in the namespaces of its place and becomes part of
//! the one tree.

use crate::c14n::canonicalize;
use crate::ids::Ids;
use crate::key::Key;
use crate::names::{self, ENCRYPTION, Name, SIGNATURE};
use crate::parse::ParseLimits;
use crate::reason::Reason;
use crate::suite::Cipher;
use crate::token::{ALGORITHM, KeyReference, NO_VALUE_TYPE, read_cipher_value, write_cipher_value};
use crate::tree::{Document, NodeId};
use crate::wipe::Wiped;
use crate::write::Unwritable;

/// Encrypted parts of one message: body, two signatures, a user name, a confirmation of each signature, and
/// two to spare.
pub const PARTS_MAX: usize = 8;

const TYPE: Name<'static> = Name::plain("Type");
const URI: Name<'static> = Name::plain("URI");

/// What an EncryptedData stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PartType {
    Element,
    Content,
}

/// An EncryptedData as it was read.
#[derive(Debug)]
pub(crate) struct EncryptedPart {
    pub(crate) node: NodeId,
    pub(crate) part_type: PartType,
    pub(crate) key: KeyReference,
    octets: Vec<u8>,
}

impl EncryptedPart {
    /// Reads an EncryptedData: EncryptionMethod, KeyInfo, CipherData.
    pub(crate) fn read(document: &Document, node: NodeId, cipher: Cipher) -> Result<Self, Reason> {
        const SHAPE: Reason = Reason::Shape("e:EncryptedData");
        let [method, key_info, data] = document.elements(node).collect::<Vec<_>>()[..] else {
            return Err(SHAPE);
        };
        let is_shape = document.is(node, ENCRYPTION.name("EncryptedData"))
            && document.is(method, ENCRYPTION.name("EncryptionMethod"))
            && document.is(key_info, SIGNATURE.name("KeyInfo"))
            && document.is(data, ENCRYPTION.name("CipherData"))
            && document.attribute(node, Name::plain("Encoding")).is_none();
        if !is_shape {
            return Err(SHAPE);
        }
        if document.attribute(method, ALGORITHM) != Some(cipher.uri())
            || document.elements(method).next().is_some()
        {
            return Err(Reason::Algorithm("e:EncryptedData"));
        }
        let part_type = match document.attribute(node, TYPE) {
            Some(names::TYPE_CONTENT) => PartType::Content,
            Some(names::TYPE_ELEMENT) => PartType::Element,
            _ => return Err(SHAPE),
        };
        Ok(Self {
            node,
            part_type,
            key: KeyReference::read_key_info(document, node)?,
            octets: read_cipher_value(document, node).ok_or(SHAPE)?,
        })
    }

    /// Decrypts it in place; returns what came out. `octets_left` is what may still be decrypted in this
    /// message.
    pub(crate) fn decrypt(
        &self,
        document: &mut Document,
        cipher: Cipher,
        key: &Key,
        limits: &ParseLimits,
        octets_left: &mut usize,
    ) -> Result<Vec<NodeId>, Reason> {
        let plain = cipher.decrypt(key, &self.octets).map_err(|_| Reason::Decryption)?;
        *octets_left = octets_left.checked_sub(plain.len()).ok_or(Reason::TooMany("decrypted octets"))?;
        let parent = document.parent(self.node).ok_or(Reason::Shape("e:EncryptedData"))?;
        let nodes = document.parse_inside(parent, &plain, limits)?;
        let is_one_element = matches!(nodes[..], [only] if document.is_element(only));
        if self.part_type == PartType::Element && !is_one_element {
            return Err(Reason::Shape("a decrypted element"));
        }
        let is_nested = nodes.iter().any(|node| {
            document.descendants(*node).any(|inner| {
                document.is(inner, ENCRYPTION.name("EncryptedData"))
                    || document.is(inner, ENCRYPTION.name("EncryptedKey"))
            })
        });
        if is_nested {
            return Err(Reason::Shape("decrypted content: encrypted again"));
        }
        document.replace(self.node, &nodes);
        Ok(nodes)
    }
}

/// All EncryptedData of a document, if exactly those are listed: each once, in the `e:ReferenceList`s that
/// are given.
pub(crate) fn listed_parts(document: &Document, lists: &[NodeId], ids: &Ids) -> Result<Vec<NodeId>, Reason> {
    let mut listed = Vec::new();
    for list in lists {
        for reference in document.elements(*list) {
            let target = document.attribute(reference, URI).and_then(|uri| ids.refer(uri));
            let target = target.filter(|target| {
                document.is(reference, ENCRYPTION.name("DataReference"))
                    && document.is(*target, ENCRYPTION.name("EncryptedData"))
                    && !listed.contains(target)
            });
            listed.push(target.ok_or(Reason::Reference("e:ReferenceList"))?);
            if listed.len() > PARTS_MAX {
                return Err(Reason::TooMany("encrypted parts"));
            }
        }
    }
    let all = document
        .descendants(document.root())
        .filter(|node| document.is(*node, ENCRYPTION.name("EncryptedData")))
        .count();
    if all == listed.len() { Ok(listed) } else { Err(Reason::Reference("e:EncryptedData")) }
}

/// Encrypts an element or the content of one in place.
pub(crate) struct PartWriter<'a> {
    pub(crate) cipher: Cipher,
    pub(crate) key: &'a Key,
    /// Id of the DerivedKeyToken.
    pub(crate) key_id: &'a str,
}

impl PartWriter<'_> {
    /// Puts an EncryptedData in the place of an element, or of all that is inside it.
    pub(crate) fn encrypt(
        &self,
        document: &mut Document,
        node: NodeId,
        part_type: PartType,
        id: &str,
        random: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), Unwritable> {
        let mut vector = [0; 16];
        let vector = &mut vector[..self.cipher.block_len()];
        random(vector);
        let plain = Wiped(match part_type {
            // It declares its namespaces itself: Mono's WCF reads an element out of its place.
            PartType::Element => canonicalize(document, node, &[]),
            PartType::Content => document.write_nodes(document.children(node))?,
        });
        let encrypted = self.cipher.encrypt(self.key, vector, &plain);
        let (parent, uri) = match part_type {
            PartType::Element => (document.parent(node).ok_or(Unwritable)?, names::TYPE_ELEMENT),
            PartType::Content => {
                document.clear(node);
                (node, names::TYPE_CONTENT)
            }
        };
        // It is built as the last child, so that it sees the namespaces of its place.
        let data = document.append_element(parent, ENCRYPTION.name("EncryptedData"));
        document.set_attribute(data, names::PLAIN_ID, id);
        document.set_attribute(data, TYPE, uri);
        let method = document.append_element(data, ENCRYPTION.name("EncryptionMethod"));
        document.set_attribute(method, ALGORITHM, self.cipher.uri());
        KeyReference::Id(self.key_id.to_owned()).write_key_info(document, data, NO_VALUE_TYPE);
        write_cipher_value(document, data, &encrypted);
        if part_type == PartType::Element {
            document.detach(data);
            document.replace(node, &[data]);
        }
        Ok(())
    }
}
