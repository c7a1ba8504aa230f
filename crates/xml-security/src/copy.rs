//! Copies of elements of one document in another one.

use crate::parse::{MESSAGE_MAX, XmlError, rendered_max};
use crate::tree::{Attribute, Declaration, Document, Kind, NodeId, Span};
use std::collections::HashMap;

impl Document {
    /// Adds copies of elements of another document behind the last child. All namespaces in scope at an
    /// element are declared on its copy, so that names in values keep their meaning. What many of them share
    /// is copied once, and [`XmlError::TooLarge`] if they would declare far more octets than a message has.
    pub fn append_copies(
        &mut self,
        parent: NodeId,
        from: &Self,
        ids: impl IntoIterator<Item = NodeId>,
    ) -> Result<(), XmlError> {
        self.unwritable |= from.unwritable;
        let (mut spans, mut declared) = (HashMap::new(), 0_usize);
        for id in ids {
            let around = from.declarations_around(id);
            declared += around.iter().map(|declaration| declaration.namespace.len as usize).sum::<usize>();
            if declared > rendered_max(MESSAGE_MAX) {
                return Err(XmlError::TooLarge);
            }
            let copy = self.copy(from, id, &mut spans);
            let around = around.into_iter();
            let around: Vec<_> = around.map(|it| self.copy_of(from, it, &mut spans)).collect();
            if let Some(element) = self.as_element_mut(copy) {
                element.declarations.splice(..0, around);
            }
            self.attach(parent, copy);
        }
        Ok(())
    }

    fn copy(&mut self, from: &Self, id: NodeId, spans: &mut HashMap<Span, Span>) -> NodeId {
        let element = match from.kind(id) {
            Kind::Text(span) => {
                let span = self.push_text(from.get(*span));
                return self.new_node(Kind::Text(span));
            }
            Kind::Element(element) => element,
        };
        let [prefix, namespace] =
            [element.prefix, element.namespace].map(|span| self.shared_of(from, span, spans));
        let local = self.push_text(from.get(element.local));
        let copy = self.new_element(prefix, local, namespace);
        let attributes = element.attributes.iter().map(|attribute| {
            let Attribute { prefix, local, namespace, value } = *attribute;
            let [prefix, namespace] = [prefix, namespace].map(|span| self.shared_of(from, span, spans));
            let [local, value] = [local, value].map(|span| self.push_text(from.get(span)));
            Attribute { prefix, local, namespace, value }
        });
        let attributes = attributes.collect();
        let declarations = element.declarations.iter();
        let declarations = declarations.map(|declaration| self.copy_of(from, *declaration, spans)).collect();
        self.set_markup(copy, attributes, declarations);
        for child in from.children(id) {
            let child = self.copy(from, child, spans);
            self.attach(copy, child);
        }
        copy
    }

    fn copy_of(
        &mut self,
        from: &Self,
        Declaration { prefix, namespace }: Declaration,
        spans: &mut HashMap<Span, Span>,
    ) -> Declaration {
        let [prefix, namespace] = [prefix, namespace].map(|span| self.shared_of(from, span, spans));
        Declaration { prefix, namespace }
    }

    /// A prefix or a namespace, which the names of many elements share: it is copied once.
    fn shared_of(&mut self, from: &Self, span: Span, spans: &mut HashMap<Span, Span>) -> Span {
        *spans.entry(span).or_insert_with(|| self.push_text(from.get(span)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_what_the_extracted_text_reads_as() {
        let limits = crate::ParseLimits::default();
        let text = "<a xmlns=\"urn:1\" xmlns:b=\"urn:2\" xmlns:d=\"urn:4\"><b:c xmlns:d=\"urn:3\" i=\"1\"> \
            <e b:f=\"d:g &#9;&lt;\" xml:lang=\"de\" xmlns=\"\">x&amp;&#13;<d:h/>y</e><b:k/></b:c></a>";
        let from = Document::parse(text.as_bytes(), &limits).expect("well-formed");
        let new = || Document::parse(b"<r xmlns=\"urn:r\"><s/></r>", &limits).expect("well-formed");
        let elements: Vec<_> = from.descendants(from.root()).filter(|node| from.is_element(*node)).collect();
        assert_eq!(elements.len(), 5);
        for element in elements {
            let (mut copied, mut read) = (new(), new());
            copied.append_copies(copied.root(), &from, [element]).expect("it is short");
            read.append_xml(read.root(), &from.extract(element).expect("XML"), &limits).expect("well-formed");
            assert_eq!(copied, read, "{:?}", from.name(element));
            assert_eq!(copied.write(), read.write());
        }
    }

    /// One long namespace that thousands of elements use, or that is declared around thousands.
    #[test]
    fn a_copy_is_not_much_longer_than_what_is_copied() {
        let limits = crate::ParseLimits::default();
        let long = "n".repeat(100_000);
        let of = |text: String| Document::parse(text.as_bytes(), &limits).expect("well-formed");
        let deep = of(format!("<b><p:r xmlns:p=\"urn:{long}\">{}</p:r></b>", "<p:a/>".repeat(5_000)));
        let mut copied = of("<r/>".to_owned());
        let ids: Vec<_> = deep.elements(deep.root()).collect();
        copied.append_copies(copied.root(), &deep, ids).expect("it is short");
        let (len, most) = (copied.canonical_len_max(), 2 * deep.canonical_len_max());
        assert!(len < most, "{len} octets");
        let wide = of(format!("<b xmlns:p=\"urn:{long}\">{}</b>", "<a/>".repeat(5_000)));
        let ids: Vec<_> = wide.elements(wide.root()).collect();
        let mut copied = of("<r/>".to_owned());
        assert_eq!(copied.append_copies(copied.root(), &wide, ids), Err(XmlError::TooLarge));
    }
}
