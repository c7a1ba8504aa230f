//! Exclusive XML Canonicalization 1.0, without comments, of an element of the one tree.
//!
//! It cannot fail: what has no canonical form is refused when a document is read. So no caller can take an
//! error for an empty input.

use crate::tree::{Attribute, Document, Element, Kind, NodeId};
use crate::write::{escape_attribute, escape_text};

/// Octets of an element and all that is below it. `prefixes` is the PrefixList of InclusiveNamespaces:
/// namespaces that are rendered where they are in scope although no name uses them; `#default` is the default
/// namespace.
pub fn canonicalize(document: &Document, apex: NodeId, prefixes: &[&str]) -> Vec<u8> {
    canonicalize_without(document, apex, prefixes, |_| false)
}

/// The same without the nodes below the apex that `is_omitted` names, and without what is below those.
pub fn canonicalize_without(
    document: &Document,
    apex: NodeId,
    prefixes: &[&str],
    is_omitted: impl Fn(NodeId) -> bool,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    write_canonical(document, apex, prefixes, is_omitted, &mut out);
    out
}

/// [`canonicalize`] into memory that is used again.
pub(crate) fn canonicalize_into(document: &Document, apex: NodeId, prefixes: &[&str], out: &mut Vec<u8>) {
    out.clear();
    write_canonical(document, apex, prefixes, |_| false, out);
}

fn write_canonical(
    document: &Document,
    apex: NodeId,
    prefixes: &[&str],
    is_omitted: impl Fn(NodeId) -> bool,
    out: &mut Vec<u8>,
) {
    Canonical { document, apex, prefixes, is_omitted, rendered: Vec::new(), out }.node(apex);
}

struct Canonical<'a, F> {
    document: &'a Document,
    apex: NodeId,
    prefixes: &'a [&'a str],
    is_omitted: F,
    /// Prefixes and namespaces that were rendered on the elements around, the nearest last.
    rendered: Vec<(&'a str, &'a str)>,
    out: &'a mut Vec<u8>,
}

impl<'a, F: Fn(NodeId) -> bool> Canonical<'a, F> {
    fn node(&mut self, id: NodeId) {
        match self.document.kind(id) {
            Kind::Text(span) => escape_text(self.document.get(*span), b"&#xD;", self.out),
            Kind::Element(element) => self.element(id, element),
        }
    }

    fn element(&mut self, id: NodeId, element: &'a Element) {
        let document = self.document;
        let (prefix, local) = (document.get(element.prefix), document.get(element.local));
        let around = self.rendered.len();
        self.out.push(b'<');
        self.name(prefix, local);

        // Namespaces that the element and its attributes visibly use, then those of the list.
        self.utilize(prefix, document.get(element.namespace));
        for attribute in &element.attributes {
            if attribute.prefix.len > 0 {
                self.utilize(document.get(attribute.prefix), document.get(attribute.namespace));
            }
        }
        self.listed(id, element);
        self.rendered[around..].sort_unstable();
        for at in around..self.rendered.len() {
            let (prefix, namespace) = self.rendered[at];
            self.out.extend_from_slice(if prefix.is_empty() { b" xmlns" } else { b" xmlns:" });
            self.out.extend_from_slice(prefix.as_bytes());
            self.value(namespace);
        }

        if let [only] = &element.attributes[..] {
            self.attribute(only);
        } else if !element.attributes.is_empty() {
            let mut sorted: Vec<_> = element.attributes.iter().collect();
            sorted.sort_unstable_by_key(|attribute| {
                (document.get(attribute.namespace), document.get(attribute.local))
            });
            for attribute in sorted {
                self.attribute(attribute);
            }
        }
        self.out.push(b'>');
        for child in document.children(id) {
            if !(self.is_omitted)(child) {
                self.node(child);
            }
        }
        self.out.extend_from_slice(b"</");
        self.name(prefix, local);
        self.out.push(b'>');
        self.rendered.truncate(around);
    }

    /// Namespaces of the PrefixList: at the apex all that are in scope, below it those that are declared
    /// anew.
    fn listed(&mut self, id: NodeId, element: &'a Element) {
        let document = self.document;
        let prefix_of = |listed: &'a str| if listed == "#default" { "" } else { listed };
        if id == self.apex {
            for listed in self.prefixes {
                let prefix = prefix_of(listed);
                if let Some(namespace) = document.namespace_at(id, prefix) {
                    self.utilize(prefix, namespace);
                }
            }
        } else if !self.prefixes.is_empty() {
            for declaration in &element.declarations {
                let prefix = document.get(declaration.prefix);
                if self.prefixes.iter().any(|listed| prefix_of(listed) == prefix) {
                    self.utilize(prefix, document.get(declaration.namespace));
                }
            }
        }
    }

    /// Notes that a prefix has to stand for a namespace here, unless it does already. Entries of one element
    /// have different prefixes, because within one element a prefix stands for one namespace.
    fn utilize(&mut self, prefix: &'a str, namespace: &'a str) {
        if prefix == "xml" {
            return;
        }
        let nearest = self.rendered.iter().rev().find(|(rendered, _)| *rendered == prefix);
        let current = nearest.map_or("", |(_, namespace)| namespace);
        if current != namespace {
            self.rendered.push((prefix, namespace));
        }
    }

    fn name(&mut self, prefix: &str, local: &str) {
        if !prefix.is_empty() {
            self.out.extend_from_slice(prefix.as_bytes());
            self.out.push(b':');
        }
        self.out.extend_from_slice(local.as_bytes());
    }

    fn attribute(&mut self, attribute: &Attribute) {
        self.out.push(b' ');
        let document = self.document;
        self.name(document.get(attribute.prefix), document.get(attribute.local));
        self.value(document.get(attribute.value));
    }

    fn value(&mut self, value: &str) {
        self.out.extend_from_slice(b"=\"");
        escape_attribute(value, self.out);
        self.out.push(b'"');
    }
}

#[cfg(test)]
mod tests;
