//! From the one [`Document`] to octets. What is written reads as the same tree.

use crate::tree::{Document, Kind, NodeId};

/// A document holds a character or a name that XML cannot carry, such as a control character in a user name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the document holds what XML cannot carry")]
pub struct Unwritable;

impl Document {
    /// The whole document in UTF-8, without an XML declaration.
    ///
    /// # Errors
    /// If a name, a character or a namespace was put in that XML does not allow.
    pub fn write(&self) -> Result<Vec<u8>, Unwritable> {
        self.write_nodes([self.root()])
    }

    /// Nodes one after the other, as they stand in their place: prefixes that are declared around them are
    /// not declared again.
    pub(crate) fn write_nodes(&self, nodes: impl IntoIterator<Item = NodeId>) -> Result<Vec<u8>, Unwritable> {
        if self.is_unwritable() {
            return Err(Unwritable);
        }
        let mut out = Vec::with_capacity(self.text_len().max(1024));
        for node in nodes {
            self.write_node(node, &mut out);
        }
        Ok(out)
    }

    /// One element that stands for itself: all namespaces in scope at it are declared on it, so that names in
    /// values keep their meaning.
    ///
    /// # Errors
    /// As for [`Document::write`].
    pub fn extract(&self, id: NodeId) -> Result<Vec<u8>, Unwritable> {
        let mut written = self.write_nodes([id])?;
        let Some(element) = self.as_element(id) else { return Ok(written) };
        let mut declarations = Vec::new();
        for declaration in self.declarations_around(id) {
            let (prefix, namespace) = (self.get(declaration.prefix), self.get(declaration.namespace));
            declarations.extend_from_slice(if prefix.is_empty() { b" xmlns" } else { b" xmlns:" });
            declarations.extend_from_slice(prefix.as_bytes());
            declarations.extend_from_slice(b"=\"");
            escape_attribute(namespace, &mut declarations);
            declarations.push(b'"');
        }
        let prefix_len = if element.prefix.len > 0 { element.prefix.len as usize + 1 } else { 0 };
        let name_end = 1 + prefix_len + element.local.len as usize;
        written.splice(name_end..name_end, declarations);
        Ok(written)
    }

    fn write_node(&self, id: NodeId, out: &mut Vec<u8>) {
        let element = match self.kind(id) {
            Kind::Text(span) => return escape_text(self.get(*span), b"&#13;", out),
            Kind::Element(element) => element,
        };
        let name = |prefix: &str, local: &str, out: &mut Vec<u8>| {
            if !prefix.is_empty() {
                out.extend_from_slice(prefix.as_bytes());
                out.push(b':');
            }
            out.extend_from_slice(local.as_bytes());
        };
        let (prefix, local) = (self.get(element.prefix), self.get(element.local));
        out.push(b'<');
        name(prefix, local, out);
        for declaration in &element.declarations {
            out.extend_from_slice(b" xmlns");
            let prefix = self.get(declaration.prefix);
            if !prefix.is_empty() {
                out.push(b':');
                out.extend_from_slice(prefix.as_bytes());
            }
            out.extend_from_slice(b"=\"");
            escape_attribute(self.get(declaration.namespace), out);
            out.push(b'"');
        }
        for attribute in &element.attributes {
            out.push(b' ');
            name(self.get(attribute.prefix), self.get(attribute.local), out);
            out.extend_from_slice(b"=\"");
            escape_attribute(self.get(attribute.value), out);
            out.push(b'"');
        }
        let mut children = self.children(id).peekable();
        if children.peek().is_none() {
            out.extend_from_slice(b"/>");
            return;
        }
        out.push(b'>');
        for child in children {
            self.write_node(child, out);
        }
        out.extend_from_slice(b"</");
        name(prefix, local, out);
        out.push(b'>');
    }
}

/// Text with `&`, `<`, `>` and the carriage return escaped (Canonical XML 1.0, section 2.3).
pub(crate) fn escape_text(text: &str, carriage_return: &[u8], out: &mut Vec<u8>) {
    escape(text, out, |octet| match octet {
        b'&' => b"&amp;",
        b'<' => b"&lt;",
        b'>' => b"&gt;",
        b'\r' => carriage_return,
        _ => b"",
    });
}

/// A value in quotation marks with everything escaped that normalisation would change (Canonical XML 1.0,
/// section 2.3).
pub(crate) fn escape_attribute(text: &str, out: &mut Vec<u8>) {
    escape(text, out, |octet| match octet {
        b'&' => b"&amp;",
        b'<' => b"&lt;",
        b'"' => b"&quot;",
        b'\t' => b"&#x9;",
        b'\n' => b"&#xA;",
        b'\r' => b"&#xD;",
        _ => b"",
    });
}

fn escape<'a>(text: &str, out: &mut Vec<u8>, escaped: impl Fn(u8) -> &'a [u8]) {
    /// Octets that are looked at together: most runs of so many have nothing to escape.
    const RUN: usize = 32;
    let octets = text.as_bytes();
    let mut written = 0;
    for (run, start) in octets.chunks(RUN).zip((0..).step_by(RUN)) {
        // Without a branch for each octet, the compiler compares them side by side.
        if !run.iter().fold(false, |found, octet| found | is_special(*octet)) {
            continue;
        }
        for (octet, at) in run.iter().zip(start..) {
            let instead = escaped(*octet);
            if !instead.is_empty() {
                out.extend_from_slice(&octets[written..at]);
                out.extend_from_slice(instead);
                written = at + 1;
            }
        }
    }
    out.extend_from_slice(&octets[written..]);
}

/// Whether an octet is escaped in a text or in a value.
const fn is_special(octet: u8) -> bool {
    matches!(octet, b'&' | b'<' | b'>' | b'"' | b'\t' | b'\n' | b'\r')
}
