//! The parts of a SOAP 1.2 envelope that are signed: its one body, and the headers of WS-Addressing.

use crate::names::{ADDRESSING, Name, SECURITY, SOAP};
use crate::reason::Reason;
use crate::tree::{Document, NodeId, is_ncname};

/// Headers of WS-Addressing in one message. WS-Addressing 1.0 defines eight; they are compared with each
/// other.
pub const ADDRESSING_MAX: usize = 16;
/// Names that the check of values compares in one message, so that nested elements with many attributes cost
/// no more than others.
const COMPARISONS_MAX: usize = 1 << 20;

/// Places of an envelope in its document.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// `s:Header`.
    pub header: NodeId,
    /// `s:Body`, the child of `s:Envelope`.
    pub body: NodeId,
    /// The headers of WS-Addressing, each at most once.
    pub addressing: Vec<NodeId>,
}

impl Envelope {
    /// Finds the parts: `s:Envelope` with `s:Header`, then `s:Body`, and no more.
    ///
    /// # Errors
    /// If the document is no such envelope, or a header of WS-Addressing stands twice.
    pub fn of(document: &Document) -> Result<Self, Reason> {
        const SHAPE: Reason = Reason::Shape("s:Envelope");
        let [header, body] = document.elements(document.root()).collect::<Vec<_>>()[..] else {
            return Err(SHAPE);
        };
        let is_envelope = document.is(document.root(), SOAP.name("Envelope"))
            && document.is(header, SOAP.name("Header"))
            && document.is(body, SOAP.name("Body"));
        if !is_envelope {
            return Err(SHAPE);
        }
        let addressing: Vec<_> =
            document.elements(header).filter(|node| document.is_of(*node, ADDRESSING)).collect();
        if addressing.len() > ADDRESSING_MAX {
            return Err(Reason::TooMany("headers of WS-Addressing"));
        }
        for (at, node) in addressing.iter().enumerate() {
            if addressing[..at].iter().any(|other| document.name(*other).local == document.name(*node).local)
            {
                return Err(Reason::Shape("headers of WS-Addressing"));
            }
        }
        Ok(Self { header, body, addressing })
    }

    /// The header of WS-Addressing with a local name.
    pub fn addressing(&self, document: &Document, local: &str) -> Option<NodeId> {
        self.addressing.iter().copied().find(|node| document.name(*node).local == local)
    }

    /// The one `o:Security` header; `None` if there is none or more than one.
    pub(crate) fn security(&self, document: &Document) -> Option<NodeId> {
        document.only(self.header, SECURITY.name("Security"))
    }
}

/// Namespaces whose meaning is fixed, so that a value may use their prefixes wherever those are bound:
/// rebinding one of them to something else is seen, because the other namespace is not among these.
const FIXED: [&str; 10] = [
    crate::names::SCHEMA.uri,
    crate::names::SCHEMA_INSTANCE.uri,
    crate::names::XML.uri,
    SOAP.uri,
    ADDRESSING.uri,
    SECURITY.uri,
    crate::names::UTILITY.uri,
    crate::names::CONVERSATION.uri,
    crate::names::ENCRYPTION.uri,
    crate::names::SIGNATURE.uri,
];

/// Refuses values in the body that use a prefix which neither signature nor encryption protects.
///
/// Exclusive canonicalisation leaves out namespaces that only values use, such as `b` in `xsi:type="b:int"`.
/// Where `b` is bound inside the body's encrypted content, an attacker cannot reach it. Where it is bound on
/// the body or around it, an attacker can bind it anew.
pub(crate) fn check_values(document: &Document, body: NodeId, prefixes: &[String]) -> Result<(), Reason> {
    let mut values = Values { document, body, prefixes, comparisons: 0 };
    for node in document.descendants(body).filter(|node| document.is_element(*node)) {
        // Attributes of the body itself are no application data.
        if node != body {
            for (_, value) in document.attributes(node) {
                values.check(node, value)?;
            }
        }
        if let Some(text) = document.text(node) {
            values.check(node, &text)?;
        }
    }
    Ok(())
}

struct Values<'a> {
    document: &'a Document,
    body: NodeId,
    prefixes: &'a [String],
    comparisons: usize,
}

impl Values<'_> {
    fn check(&mut self, node: NodeId, value: &str) -> Result<(), Reason> {
        let Self { document, body, prefixes, .. } = *self;
        let Some((prefix, local)) = value.trim().split_once(':') else { return Ok(()) };
        if !is_ncname(prefix) || !is_ncname(local) {
            return Ok(());
        }
        let Some((declared_at, namespace)) = document.declaration_at(node, prefix) else { return Ok(()) };
        let is_inside = declared_at != body && document.ancestors(declared_at).any(|around| around == body);
        if is_inside || FIXED.contains(&namespace) || prefixes.iter().any(|listed| listed == prefix) {
            return Ok(());
        }
        // A name around the value that uses the prefix has the canonical form show what it is bound to.
        for around in document.ancestors(node) {
            self.comparisons += 1 + document.attributes(around).count();
            if self.comparisons > COMPARISONS_MAX {
                return Err(Reason::TooMany("values with prefixes"));
            }
            let uses = |name: Name<'_>| name.prefix == prefix;
            if uses(document.name(around)) || document.attributes(around).any(|(name, _)| uses(name)) {
                return Ok(());
            }
            if around == body {
                break;
            }
        }
        Err(Reason::UnsignedPrefix)
    }
}
