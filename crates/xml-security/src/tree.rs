//! The one tree of a message: what is parsed into it is canonicalised, verified, decrypted, read and written.
//!
//! Nodes are elements and runs of character data. Comments are not kept (canonical XML without comments does
//! not see them either), so the text around one is one text. An attribute is never read without its
//! namespace.

use crate::names::{Name, Namespace, PLAIN_ID, UTILITY_ID, XML};
use crate::wipe::wipe;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;

/// A node of one [`Document`]. It means nothing in another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) u32);

/// Part of the text pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) len: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Element {
    pub(crate) prefix: Span,
    pub(crate) local: Span,
    pub(crate) namespace: Span,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) declarations: Vec<Declaration>,
    first_child: Option<NodeId>,
    last_child: Option<NodeId>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Attribute {
    pub(crate) prefix: Span,
    pub(crate) local: Span,
    pub(crate) namespace: Span,
    pub(crate) value: Span,
}

/// `xmlns:prefix="namespace"`, or `xmlns="namespace"` with an empty prefix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Declaration {
    pub(crate) prefix: Span,
    pub(crate) namespace: Span,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Element(Element),
    Text(Span),
}

#[derive(Clone, Debug)]
struct Node {
    parent: Option<NodeId>,
    next: Option<NodeId>,
    kind: Kind,
}

/// Text that is wiped when it is dropped or moves: passwords pass through it.
#[derive(Clone, Default)]
struct Pool(String);

impl Pool {
    fn push(&mut self, text: &str) -> Span {
        let wanted = self.0.len() + text.len();
        if wanted > self.0.capacity() {
            let mut larger = String::with_capacity(wanted * 2);
            larger.push_str(&self.0);
            wipe(&mut std::mem::replace(&mut self.0, larger).into_bytes());
        }
        let start = self.0.len();
        self.0.push_str(text);
        Span { start: start as u32, len: text.len() as u32 }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        wipe(&mut std::mem::take(&mut self.0).into_bytes());
    }
}

/// Octets that a message of this protocol has without its content, so that what is built seldom moves.
const BUILT_LEN: usize = 8 << 10;
/// Octets of a message of this protocol for each of its nodes, about.
const NODE_LEN: usize = 64;

/// A parsed or built XML document with one root element.
#[derive(Clone)]
pub struct Document {
    pool: Pool,
    nodes: Vec<Node>,
    root: NodeId,
    /// Whether something was put in that XML cannot carry; such a document is not written.
    pub(crate) unwritable: bool,
    /// Octets of namespaces that canonical forms write for the names that were read, at most.
    rendered: usize,
    spellings: Spellings,
}

/// URIs that a document spells otherwise: as the names of this crate have them, and as they stand there.
pub type Spellings = &'static [(&'static str, &'static str)];

impl std::fmt::Debug for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Document").field("nodes", &self.nodes.len()).finish_non_exhaustive()
    }
}

/// Documents are equal if their elements, attributes, declarations, prefixes and texts are, in the same
/// order.
impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        self.subtree_equals(self.root, other, other.root)
    }
}

impl Document {
    /// A document with an empty root element.
    pub fn new(root: Name<'_>) -> Self {
        let mut document = Self::with_pool(BUILT_LEN);
        document.root = document.add_element(None, root);
        document
    }

    /// A document without a root; the caller sets one before the document is seen.
    pub(crate) fn with_pool(octets: usize) -> Self {
        Self {
            pool: Pool(String::with_capacity(octets)),
            nodes: Vec::with_capacity(octets / NODE_LEN),
            root: NodeId(0),
            unwritable: false,
            rendered: 0,
            spellings: &[],
        }
    }

    /// From now on, names of these namespaces mean the others, when they are looked for and when they are
    /// written. It serves a dialect that differs in nothing but its URIs.
    pub fn set_spellings(&mut self, spellings: Spellings) {
        self.spellings = spellings;
    }

    /// A URI, such as an action or a type of token, as this document spells it.
    pub fn spelled<'u>(&self, uri: &'u str) -> Cow<'u, str> {
        let found = self.spellings.iter().find_map(|(known, other)| Some((uri.strip_prefix(known)?, other)));
        found.map_or(Cow::Borrowed(uri), |(rest, other)| Cow::Owned(format!("{other}{rest}")))
    }

    fn spelled_name<'n>(&self, name: Name<'n>) -> Name<'n> {
        match self.spellings.iter().find(|(known, _)| *known == name.namespace) {
            Some((_, other)) => Name { namespace: other, ..name },
            None => name,
        }
    }

    /// Counts octets of namespaces for the names of an element that was read. The sum is returned.
    pub(crate) fn count_rendered(&mut self, octets: usize) -> usize {
        self.rendered = self.rendered.saturating_add(octets);
        self.rendered
    }

    /// More octets than a canonical form of the document has: a character is written as at most 6.
    pub(crate) fn canonical_len_max(&self) -> usize {
        self.pool.0.len().saturating_mul(8).saturating_add(self.rendered)
    }

    pub(crate) fn set_root(&mut self, root: NodeId) {
        self.root = root;
    }

    /// The root element.
    pub fn root(&self) -> NodeId {
        self.root
    }

    /// Number of nodes, detached ones included.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn push_text(&mut self, text: &str) -> Span {
        self.pool.push(text)
    }

    pub(crate) fn get(&self, span: Span) -> &str {
        &self.pool.0[span.start as usize..][..span.len as usize]
    }

    /// Whether a part of the pool is this text. Names that differ mostly have another length or another last
    /// letter, so few are compared whole.
    pub(crate) fn is_text(&self, span: Span, text: &str) -> bool {
        let text = text.as_bytes();
        if span.len as usize != text.len() {
            return false;
        }
        let own = &self.pool.0.as_bytes()[span.start as usize..][..text.len()];
        own.last() == text.last() && own == text
    }

    /// Whether two parts of the pool are the same text.
    pub(crate) fn is_same(&self, one: Span, other: Span) -> bool {
        one == other || self.is_text(one, self.get(other))
    }

    /// Octets of all texts and names.
    pub(crate) fn text_len(&self) -> usize {
        self.pool.0.len()
    }

    pub(crate) fn kind(&self, id: NodeId) -> &Kind {
        &self.nodes[id.0 as usize].kind
    }

    pub(crate) fn as_element(&self, id: NodeId) -> Option<&Element> {
        match self.kind(id) {
            Kind::Element(element) => Some(element),
            Kind::Text(_) => None,
        }
    }

    pub(crate) fn as_element_mut(&mut self, id: NodeId) -> Option<&mut Element> {
        match &mut self.nodes[id.0 as usize].kind {
            Kind::Element(element) => Some(element),
            Kind::Text(_) => None,
        }
    }

    pub(crate) fn new_element(&mut self, prefix: Span, local: Span, namespace: Span) -> NodeId {
        self.new_node(Kind::Element(Element {
            prefix,
            local,
            namespace,
            attributes: Vec::new(),
            declarations: Vec::new(),
            first_child: None,
            last_child: None,
        }))
    }

    pub(crate) fn new_node(&mut self, kind: Kind) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(Node { parent: None, next: None, kind });
        id
    }

    pub(crate) fn set_markup(
        &mut self,
        id: NodeId,
        attributes: Vec<Attribute>,
        declarations: Vec<Declaration>,
    ) {
        if let Some(element) = self.as_element_mut(id) {
            element.attributes = attributes;
            element.declarations = declarations;
        }
    }

    /// Puts a node that has no parent behind the last child.
    pub(crate) fn attach(&mut self, parent: NodeId, child: NodeId) {
        self.nodes[child.0 as usize].parent = Some(parent);
        let Some(element) = self.as_element_mut(parent) else { return };
        let last = element.last_child.replace(child);
        match last {
            None => element.first_child = Some(child),
            Some(last) => self.nodes[last.0 as usize].next = Some(child),
        }
    }

    /// Parent of a node; `None` for the root and for a node that was taken out.
    pub fn parent(&self, id: NodeId) -> Option<NodeId> {
        self.nodes[id.0 as usize].parent
    }

    /// The node itself, its parent, and so on.
    pub fn ancestors(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        std::iter::successors(Some(id), |id| self.parent(*id))
    }

    /// Children in document order: elements and texts.
    pub fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let first = self.as_element(id).and_then(|element| element.first_child);
        std::iter::successors(first, |id| self.nodes[id.0 as usize].next)
    }

    /// Child elements in document order.
    pub fn elements(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.children(id).filter(|child| self.is_element(*child))
    }

    /// The node and everything below it in document order.
    pub fn descendants(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        std::iter::successors(Some(id), move |current| {
            let below = self.as_element(*current).and_then(|element| element.first_child);
            below.or_else(|| {
                self.ancestors(*current)
                    .take_while(|ancestor| *ancestor != id)
                    .find_map(|ancestor| self.nodes[ancestor.0 as usize].next)
            })
        })
    }

    /// Whether the node is an element.
    pub fn is_element(&self, id: NodeId) -> bool {
        matches!(self.kind(id), Kind::Element(_))
    }

    /// Whether the node is an element of this name.
    pub fn is(&self, id: NodeId, name: Name<'_>) -> bool {
        let name = self.spelled_name(name);
        self.as_element(id).is_some_and(|element| {
            self.is_text(element.local, name.local) && self.is_text(element.namespace, name.namespace)
        })
    }

    /// Whether the node is an element of this namespace.
    pub fn is_of(&self, id: NodeId, namespace: Namespace) -> bool {
        let uri = self.spelled_name(namespace.name("")).namespace;
        self.as_element(id).is_some_and(|element| self.is_text(element.namespace, uri))
    }

    /// Name of an element as it was written; an empty name for a text.
    pub fn name(&self, id: NodeId) -> Name<'_> {
        match self.as_element(id) {
            None => Name::plain(""),
            Some(element) => Name {
                prefix: self.get(element.prefix),
                namespace: self.get(element.namespace),
                local: self.get(element.local),
            },
        }
    }

    /// The only child element of this name; `None` if there is none or more than one.
    pub fn only(&self, id: NodeId, name: Name<'_>) -> Option<NodeId> {
        let mut found = self.elements(id).filter(|child| self.is(*child, name));
        let first = found.next();
        if found.next().is_some() { None } else { first }
    }

    /// Value of an attribute.
    pub fn attribute(&self, id: NodeId, name: Name<'_>) -> Option<&str> {
        let name = self.spelled_name(name);
        let attributes = &self.as_element(id)?.attributes;
        let is_it = |attribute: &&Attribute| {
            self.is_text(attribute.local, name.local) && self.is_text(attribute.namespace, name.namespace)
        };
        attributes.iter().find(is_it).map(|attribute| self.get(attribute.value))
    }

    /// Attributes with their values, as written; declarations of namespaces are none.
    pub fn attributes(&self, id: NodeId) -> impl Iterator<Item = (Name<'_>, &str)> + '_ {
        let attributes = self.as_element(id).map_or(&[][..], |element| &element.attributes);
        attributes.iter().map(|attribute| {
            let name = Name {
                prefix: self.get(attribute.prefix),
                namespace: self.get(attribute.namespace),
                local: self.get(attribute.local),
            };
            (name, self.get(attribute.value))
        })
    }

    /// The element's id: `wsu:Id`, or `Id` on an element of XML signature or XML encryption.
    pub fn id_of(&self, id: NodeId) -> Option<&str> {
        let plain = || {
            let has = self.is_of(id, crate::names::SIGNATURE) || self.is_of(id, crate::names::ENCRYPTION);
            has.then(|| self.attribute(id, PLAIN_ID)).flatten()
        };
        self.attribute(id, UTILITY_ID).or_else(plain)
    }

    /// All character data of an element that has no child elements; `None` if it has some. Never a part of
    /// it.
    pub fn text(&self, id: NodeId) -> Option<Cow<'_, str>> {
        let mut text = Cow::Borrowed("");
        if !self.is_element(id) {
            return None;
        }
        for child in self.children(id) {
            let Kind::Text(span) = self.kind(child) else { return None };
            if text.is_empty() {
                text = Cow::Borrowed(self.get(*span));
            } else {
                text.to_mut().push_str(self.get(*span));
            }
        }
        Some(text)
    }

    /// Octets whose base64 is the text of an element. White space may stand anywhere (XML Schema 3.2.16).
    pub fn base64(&self, id: NodeId) -> Option<Vec<u8>> {
        let text = self.text(id)?;
        let packed = if text.bytes().any(is_white_space) {
            Cow::Owned(text.bytes().filter(|octet| !is_white_space(*octet)).collect::<Vec<_>>())
        } else {
            Cow::Borrowed(text.as_bytes())
        };
        decode_base64(&packed)
    }

    /// Whether the node is a text of white space alone.
    pub fn is_white_space(&self, id: NodeId) -> bool {
        matches!(self.kind(id), Kind::Text(span) if self.get(*span).bytes().all(is_white_space))
    }

    /// The namespace that a prefix stands for at an element. The empty prefix is the default namespace, which
    /// is empty if none is declared. `None` if the prefix is not declared.
    pub fn namespace_at(&self, id: NodeId, prefix: &str) -> Option<&str> {
        self.declaration_at(id, prefix).map(|(_, namespace)| namespace).or(match prefix {
            "" => Some(""),
            "xml" => Some(XML.uri),
            _ => None,
        })
    }

    /// The element that declares a prefix which is in scope at `id`, and the namespace.
    pub(crate) fn declaration_at(&self, id: NodeId, prefix: &str) -> Option<(NodeId, &str)> {
        self.declared_at(id, prefix).map(|(at, namespace)| (at, self.get(namespace)))
    }

    fn declared_at(&self, id: NodeId, prefix: &str) -> Option<(NodeId, Span)> {
        self.ancestors(id).find_map(|ancestor| {
            let declarations = &self.as_element(ancestor)?.declarations;
            let found = declarations.iter().find(|declaration| self.is_text(declaration.prefix, prefix))?;
            Some((ancestor, found.namespace))
        })
    }

    /// Declarations in scope at an element that it does not have itself, the nearest first.
    pub(crate) fn declarations_around(&self, id: NodeId) -> Vec<Declaration> {
        let declared = |id| self.as_element(id).map_or(&[][..], |element| &element.declarations);
        let own = declared(id);
        let mut around: Vec<Declaration> = Vec::new();
        for declaration in self.ancestors(id).skip(1).flat_map(declared) {
            let mut nearer = own.iter().chain(&around);
            if !nearer.any(|nearer| self.is_same(nearer.prefix, declaration.prefix)) {
                around.push(*declaration);
            }
        }
        around
    }

    /// Adds an empty element behind the last child, and declares its namespace where that is needed.
    pub fn append_element(&mut self, parent: NodeId, name: Name<'_>) -> NodeId {
        self.add_element(Some(parent), name)
    }

    /// Adds an element with a text.
    pub fn append_text_element(&mut self, parent: NodeId, name: Name<'_>, text: &str) -> NodeId {
        let id = self.append_element(parent, name);
        self.append_text(id, text);
        id
    }

    /// Adds character data behind the last child.
    pub fn append_text(&mut self, parent: NodeId, text: &str) {
        if text.is_empty() {
            return;
        }
        self.unwritable |= !are_chars(text);
        let span = self.push_text(text);
        let id = self.new_node(Kind::Text(span));
        self.attach(parent, id);
    }

    /// Adds base64 of octets behind the last child.
    pub fn append_base64(&mut self, parent: NodeId, octets: &[u8]) {
        self.append_text(parent, &encode_base64(octets));
    }

    fn add_element(&mut self, parent: Option<NodeId>, name: Name<'_>) -> NodeId {
        let name = self.spelled_name(name);
        self.unwritable |= !is_ncname(name.local);
        let [prefix, local] = [name.prefix, name.local].map(|text| self.push_text(text));
        let id = self.new_element(prefix, local, Span::default());
        if let Some(parent) = parent {
            self.attach(parent, id);
        }
        let namespace = self.bind(id, name);
        if let Some(element) = self.as_element_mut(id) {
            element.namespace = namespace;
        }
        id
    }

    /// Sets an attribute, and declares its namespace where that is needed. An attribute in a namespace needs
    /// a prefix.
    pub fn set_attribute(&mut self, id: NodeId, name: Name<'_>, value: &str) {
        let name = self.spelled_name(name);
        self.unwritable |= !is_ncname(name.local)
            || !are_chars(value)
            || name.prefix.is_empty() != name.namespace.is_empty();
        let existing = self
            .attributes(id)
            .position(|(found, _)| found.local == name.local && found.namespace == name.namespace);
        let value = self.push_text(value);
        if let Some(at) = existing {
            if let Some(element) = self.as_element_mut(id) {
                element.attributes[at].value = value;
            }
            return;
        }
        let [prefix, local] = [name.prefix, name.local].map(|text| self.push_text(text));
        let namespace = if name.namespace.is_empty() { Span::default() } else { self.bind(id, name) };
        if let Some(element) = self.as_element_mut(id) {
            element.attributes.push(Attribute { prefix, local, namespace, value });
        }
    }

    /// Declares a prefix on an element, for names that stand in values. Nothing changes if the prefix is
    /// declared so already.
    pub fn declare(&mut self, id: NodeId, prefix: &str, namespace: &str) {
        self.bind(id, self.spelled_name(Name { prefix, namespace, local: "" }));
    }

    /// Makes the prefix of `name` stand for its namespace at an element.
    fn bind(&mut self, id: NodeId, name: Name<'_>) -> Span {
        let declared = self.declared_at(id, name.prefix);
        if let Some((_, namespace)) = declared
            && self.is_text(namespace, name.namespace)
        {
            return namespace;
        }
        let namespace = self.push_text(name.namespace);
        if declared.is_none() && self.namespace_at(id, name.prefix) == Some(name.namespace) {
            return namespace;
        }
        let misused = matches!(name.prefix, "xml" | "xmlns")
            || (!name.prefix.is_empty() && (!is_ncname(name.prefix) || name.namespace.is_empty()))
            || (!name.namespace.is_empty() && !is_namespace_name(name.namespace))
            || self.declares(id, name.prefix);
        self.unwritable |= misused;
        let prefix = self.push_text(name.prefix);
        if let Some(element) = self.as_element_mut(id) {
            element.declarations.push(Declaration { prefix, namespace });
        }
        namespace
    }

    fn declares(&self, id: NodeId, prefix: &str) -> bool {
        self.as_element(id).is_some_and(|element| {
            element.declarations.iter().any(|declaration| self.get(declaration.prefix) == prefix)
        })
    }

    /// Takes a node out of its parent.
    pub fn detach(&mut self, id: NodeId) {
        self.replace(id, &[]);
    }

    /// Takes all children of an element out of it.
    pub(crate) fn clear(&mut self, id: NodeId) -> Vec<NodeId> {
        let children: Vec<_> = self.children(id).collect();
        self.set_children(id, &[]);
        for child in &children {
            self.nodes[child.0 as usize].parent = None;
        }
        children
    }

    /// Puts nodes without a parent in the place of a child.
    pub(crate) fn replace(&mut self, id: NodeId, with: &[NodeId]) {
        let Some(parent) = self.parent(id) else { return };
        let children: Vec<_> = self
            .children(parent)
            .flat_map(|child| if child == id { with.to_vec() } else { vec![child] })
            .collect();
        self.nodes[id.0 as usize].parent = None;
        self.nodes[id.0 as usize].next = None;
        self.set_children(parent, &children);
    }

    fn set_children(&mut self, parent: NodeId, children: &[NodeId]) {
        if let Some(element) = self.as_element_mut(parent) {
            (element.first_child, element.last_child) = (None, None);
        }
        for child in children {
            self.nodes[child.0 as usize].next = None;
            self.attach(parent, *child);
        }
    }

    pub(crate) fn is_unwritable(&self) -> bool {
        self.unwritable
    }

    fn subtree_equals(&self, id: NodeId, other: &Self, other_id: NodeId) -> bool {
        match (self.kind(id), other.kind(other_id)) {
            (Kind::Text(a), Kind::Text(b)) => self.get(*a) == other.get(*b),
            (Kind::Element(a), Kind::Element(b)) => {
                let names = |document: &Self, e: &Element| {
                    [e.prefix, e.local, e.namespace].map(|span| document.get(span).to_owned())
                };
                let attributes = |document: &Self, e: &Element| -> Vec<_> {
                    let all = e.attributes.iter().map(|a| [a.prefix, a.local, a.namespace, a.value]);
                    all.map(|spans| spans.map(|span| document.get(span).to_owned())).collect()
                };
                let declarations = |document: &Self, e: &Element| -> Vec<_> {
                    let all = e.declarations.iter().map(|d| [d.prefix, d.namespace]);
                    all.map(|spans| spans.map(|span| document.get(span).to_owned())).collect()
                };
                names(self, a) == names(other, b)
                    && attributes(self, a) == attributes(other, b)
                    && declarations(self, a) == declarations(other, b)
                    && self.children(id).count() == other.children(other_id).count()
                    && self
                        .children(id)
                        .zip(other.children(other_id))
                        .all(|(a, b)| self.subtree_equals(a, other, b))
            }
            _ => false,
        }
    }
}

/// The octets of base64 without white space.
pub(crate) fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

pub(crate) fn encode_base64(octets: &[u8]) -> String {
    STANDARD.encode(octets)
}

/// XML 1.0, production 3.
pub(crate) fn is_white_space(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t' | b'\r' | b'\n')
}

/// Whether all characters are allowed in XML. UTF-8 has no surrogates, so control characters, U+FFFE and
/// U+FFFF are left to look for.
pub(crate) fn are_chars(text: &str) -> bool {
    let octets = text.as_bytes();
    let (mut has_control, mut has_high) = (false, false);
    for octet in octets {
        has_control |= *octet < b' ' && !matches!(octet, b'\t' | b'\n' | b'\r');
        has_high |= *octet == 0xef;
    }
    !has_control
        && (!has_high || !octets.windows(3).any(|octets| matches!(octets, [0xef, 0xbf, 0xbe | 0xbf])))
}

/// XML 1.0, production 2.
pub(crate) fn is_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Letters, digits and some other characters of ASCII.
type Ascii = [bool; 256];

const fn letters_digits_and(others: &[u8]) -> Ascii {
    let mut table = [false; 256];
    let mut octet = 0;
    while octet < 256 {
        table[octet] = (octet as u8).is_ascii_alphanumeric();
        octet += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
}

static IN_NAME: Ascii = letters_digits_and(b"_-.");
static IN_URI: Ascii = letters_digits_and(b"-._~!$&'()*+,;=:@/?");

fn all_in(text: &str, table: &Ascii) -> bool {
    text.bytes().all(|octet| table[usize::from(octet)])
}

/// A name without a colon (Namespaces in XML 1.0, production 4; XML 1.0 fifth edition, productions 4 and 4a).
pub fn is_ncname(name: &str) -> bool {
    let starts = |c: char| {
        matches!(c, 'A'..='Z' | '_' | 'a'..='z' | '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}' | '\u{f8}'..='\u{2ff}'
            | '\u{370}'..='\u{37d}' | '\u{37f}'..='\u{1fff}' | '\u{200c}'..='\u{200d}' | '\u{2070}'..='\u{218f}'
            | '\u{2c00}'..='\u{2fef}' | '\u{3001}'..='\u{d7ff}' | '\u{f900}'..='\u{fdcf}' | '\u{fdf0}'..='\u{fffd}'
            | '\u{10000}'..='\u{effff}')
    };
    let continues = |c: char| {
        starts(c)
            || matches!(c, '-' | '.' | '0'..='9' | '\u{b7}' | '\u{300}'..='\u{36f}' | '\u{203f}'..='\u{2040}')
    };
    if name.is_ascii() {
        // Nearly all names.
        let starts = |octet: &u8| octet.is_ascii_alphabetic() || *octet == b'_';
        return name.as_bytes().first().is_some_and(starts) && all_in(name, &IN_NAME);
    }
    let mut chars = name.chars();
    chars.next().is_some_and(starts) && chars.all(continues)
}

/// Whether a namespace name is an absolute URI (RFC 3986, section 4.3, with a fragment, without IP literals).
/// Relative ones have no canonical form (Canonical XML 1.0, section 1.3), and libxml2 has none for anything
/// that is no URI.
pub(crate) fn is_namespace_name(uri: &str) -> bool {
    let Some((scheme, rest)) = uri.split_once(':') else { return false };
    let mut octets = scheme.bytes();
    let is_scheme = octets.next().is_some_and(|octet| octet.is_ascii_alphabetic())
        && octets.all(|octet| octet.is_ascii_alphanumeric() || b"+-.".contains(&octet));
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let allowed = |text: &str| {
        let mut parts = text.split('%');
        let is_escaped = |part: &str| {
            let hex = part.as_bytes().first_chunk::<2>();
            hex.is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
        };
        parts.next().is_none_or(|part| all_in(part, &IN_URI))
            && parts.all(|part| is_escaped(part) && all_in(part, &IN_URI))
    };
    let has_port = rest.strip_prefix("//").is_none_or(|rest| {
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        // libxml2 wants digits behind the colon.
        let (_, port) = host.split_once(':').unwrap_or((host, "0"));
        (1..=5).contains(&port.len()) && port.bytes().all(|octet| octet.is_ascii_digit())
    });
    is_scheme && allowed(rest) && allowed(fragment) && has_port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_those_of_xml() {
        for c in ('\0'..='\u{ffff}').chain(['\u{10000}', '\u{1fffe}', '\u{10ffff}']) {
            assert_eq!(are_chars(&format!("x{c}y")), is_char(c), "{c:?}");
        }
    }

    #[test]
    fn names_have_no_colon_and_start_with_a_letter() {
        for name in ["a", "_", "A-1.b_", "\u{e9}", "a\u{b7}", "a\u{300}"] {
            assert!(is_ncname(name), "{name}");
        }
        for wrong in ["", "1", "-a", ".a", "a:b", "a b", "\u{b7}", "\u{300}a", "a\u{d7}", "a\n", "a/"] {
            assert!(!is_ncname(wrong), "{wrong}");
        }
    }
}
