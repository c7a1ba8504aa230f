//! From octets to the one [`Document`].
//!
//! `quick-xml` finds tags, texts and references. What XML 1.0 and its namespaces demand beyond that is
//! checked here, and what a SOAP message has no use for is refused: document types, processing instructions,
//! encodings other than UTF-8.

use crate::names::{XML, XMLNS};
use crate::tree::{
    Attribute, Declaration, Document, Kind, NodeId, Span, are_chars, is_char, is_namespace_name, is_ncname,
    is_white_space,
};
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// Octets of a message if the caller sets no other limit. A WCF service takes 65,536 by default, and ours
/// more, because signature and encryption add to what an application sends.
pub const MESSAGE_MAX: usize = 1 << 20;
/// Elements inside each other. SOAP headers need 8; the canonicaliser and the comparison of trees recurse
/// this deep.
pub const DEPTH_MAX: usize = 64;
/// Elements and texts of a message. Each needs some 110 octets of memory, and an attribute 32.
pub const NODES_MAX: usize = 65_536;
/// Attributes and declarations of one element. They are compared with each other.
pub const ATTRIBUTES_MAX: usize = 64;
/// Namespace declarations in scope at one place. Each element searches them.
pub const DECLARATIONS_MAX: usize = 128;

/// Octets of namespaces in canonical forms, as a multiple of the octets that a message may have, and beyond
/// it: names that alternate between namespaces of 60 octets have four times their own length.
const RENDERED_TIMES_MAX: usize = 4;
const RENDERED_MIN: usize = 1 << 20;

/// Limits of one message.
#[derive(Clone, Copy, Debug)]
pub struct ParseLimits {
    /// Octets of the message, and of everything that is decrypted in it.
    pub octets: usize,
    /// Elements inside each other.
    pub depth: usize,
    /// Elements and texts.
    pub nodes: usize,
}

impl Default for ParseLimits {
    fn default() -> Self {
        Self { octets: MESSAGE_MAX, depth: DEPTH_MAX, nodes: NODES_MAX }
    }
}

/// The most octets of namespaces that are written again and again in a message with this limit.
pub(crate) const fn rendered_max(octets: usize) -> usize {
    octets.saturating_mul(RENDERED_TIMES_MAX).saturating_add(RENDERED_MIN)
}

/// Why octets are no document that this crate reads. It names no content of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// More octets than [`ParseLimits::octets`].
    #[error("the message is too large")]
    TooLarge,
    /// Not UTF-8, or declared to be in another encoding.
    #[error("the encoding is not UTF-8")]
    Encoding,
    /// Not well-formed.
    #[error("the XML is not well-formed: {0}")]
    IllFormed(&'static str),
    /// A prefix is not declared, is declared wrongly, or a namespace name is relative or reserved.
    #[error("namespaces are misused: {0}")]
    Namespace(&'static str),
    /// A document type declaration.
    #[error("there is a document type declaration")]
    DocumentType,
    /// A processing instruction.
    #[error("there is a processing instruction")]
    ProcessingInstruction,
    /// A reference to an entity that XML does not predefine.
    #[error("there is a reference to an entity that was not predefined")]
    Entity,
    /// A limit of [`ParseLimits`], [`ATTRIBUTES_MAX`] or [`DECLARATIONS_MAX`].
    #[error("too many {0}")]
    TooMany(&'static str),
}

impl Document {
    /// Reads a whole document.
    ///
    /// # Errors
    /// If the octets are not one well-formed document within the limits, or hold what is refused.
    pub fn parse(octets: &[u8], limits: &ParseLimits) -> Result<Self, XmlError> {
        let text = text_of(octets, limits.octets)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        // Room for the values that are normalised, which are few.
        let mut document = Self::with_pool(text.len() + text.len() / 8 + 64);
        let nodes = Builder::new(&mut document, limits, text, None).run(true)?;
        let mut roots = nodes.into_iter();
        let (Some(root), None) = (roots.next(), roots.next()) else {
            return Err(XmlError::IllFormed("there is not one root element"));
        };
        document.set_root(root);
        Ok(document)
    }

    /// Adds elements and texts behind the last child of `parent`. They are read in the namespaces that are in
    /// scope there.
    ///
    /// # Errors
    /// As for [`Document::parse`]; nothing is added then.
    pub fn append_xml(
        &mut self,
        parent: NodeId,
        octets: &[u8],
        limits: &ParseLimits,
    ) -> Result<Vec<NodeId>, XmlError> {
        let nodes = self.parse_inside(parent, octets, limits)?;
        for node in &nodes {
            self.attach(parent, *node);
        }
        Ok(nodes)
    }

    /// Reads what stands between the tags of `parent`, in the namespaces that are in scope there. The nodes
    /// have no parent yet.
    ///
    /// # Errors
    /// As for [`Document::parse`]. Depth and nodes count from the root of this document.
    pub(crate) fn parse_inside(
        &mut self,
        parent: NodeId,
        octets: &[u8],
        limits: &ParseLimits,
    ) -> Result<Vec<NodeId>, XmlError> {
        let text = text_of(octets, limits.octets)?;
        Builder::new(self, limits, text, Some(parent)).run(false)
    }
}

fn text_of(octets: &[u8], max: usize) -> Result<&str, XmlError> {
    // Places in the pool are counted in 32 bits, and a text may be in it twice.
    if octets.len() > max.min(1 << 28) {
        return Err(XmlError::TooLarge);
    }
    let text = std::str::from_utf8(octets).map_err(|_| XmlError::Encoding)?;
    if !are_chars(text) {
        return Err(XmlError::IllFormed("a character is not allowed"));
    }
    Ok(text)
}

struct Builder<'d, 't> {
    document: &'d mut Document,
    limits: &'d ParseLimits,
    text: &'t str,
    /// Where `text` starts in the pool of the document: names and values are spans of it, unless they have to
    /// be normalised.
    start: u32,
    /// Declarations in scope, the nearest last.
    scope: Vec<Declaration>,
    /// Open elements, each with the length of the scope around it.
    open: Vec<(NodeId, usize)>,
    /// Elements around the whole text.
    depth: usize,
    top: Vec<NodeId>,
    pending: Pending,
    /// Attributes of the element that is read: the memory is used again.
    written: Vec<(&'t str, &'t str, Span)>,
}

/// Character data that was read since the last tag.
enum Pending {
    Nothing,
    /// One piece as it stands in the text.
    Span(Span),
    /// Several pieces, or normalised ones.
    Text(zeroize::Zeroizing<String>),
}

impl<'d, 't> Builder<'d, 't> {
    fn new(
        document: &'d mut Document,
        limits: &'d ParseLimits,
        text: &'t str,
        parent: Option<NodeId>,
    ) -> Self {
        let start = document.push_text(text).start;
        let mut scope = Vec::new();
        let mut depth = 0;
        if let Some(parent) = parent {
            let around: Vec<_> = document.ancestors(parent).collect();
            depth = around.len();
            for ancestor in around.iter().rev() {
                scope.extend(
                    document.as_element(*ancestor).into_iter().flat_map(|e| e.declarations.iter().copied()),
                );
            }
        }
        Self {
            document,
            limits,
            text,
            start,
            scope,
            open: Vec::new(),
            depth,
            top: Vec::new(),
            pending: Pending::Nothing,
            written: Vec::new(),
        }
    }

    /// The pool's span of a part of the text.
    fn span(&self, part: &str) -> Span {
        if part.is_empty() {
            return Span::default();
        }
        let offset = part.as_ptr() as usize - self.text.as_ptr() as usize;
        Span { start: self.start + offset as u32, len: part.len() as u32 }
    }

    fn run(mut self, is_document: bool) -> Result<Vec<NodeId>, XmlError> {
        let text = self.text;
        let mut reader = Reader::from_str(text);
        loop {
            let start = reader.buffer_position() as usize;
            let event = reader.read_event().map_err(|_| XmlError::IllFormed("a tag, comment or section"))?;
            let end = reader.buffer_position() as usize;
            // The event's own text is a copy or a part; the octets of the message are what counts.
            let raw = text.get(start..end).ok_or(XmlError::IllFormed("a tag, comment or section"))?;
            match event {
                Event::Start(tag) => self.start_element(&tag, raw, false)?,
                Event::Empty(tag) => self.start_element(&tag, raw, true)?,
                Event::End(_) => {
                    self.flush()?;
                    let (_, scope) = self.open.pop().ok_or(XmlError::IllFormed("an end tag"))?;
                    self.scope.truncate(scope);
                }
                Event::Text(_) => {
                    if has(raw, b']') && raw.contains("]]>") {
                        return Err(XmlError::IllFormed("]]> in a text"));
                    }
                    self.characters(raw, is_document)?;
                }
                Event::CData(_) => {
                    let inner = raw.strip_prefix("<![CDATA[").and_then(|rest| rest.strip_suffix("]]>"));
                    let inner = inner.ok_or(XmlError::IllFormed("a CDATA section"))?;
                    if is_document && self.open.is_empty() {
                        return Err(XmlError::IllFormed("a CDATA section outside the root element"));
                    }
                    self.characters(inner, is_document)?;
                }
                Event::GeneralRef(_) => {
                    if is_document && self.open.is_empty() {
                        return Err(XmlError::IllFormed("a reference outside the root element"));
                    }
                    let name = raw.strip_prefix('&').and_then(|rest| rest.strip_suffix(';'));
                    let c = referenced(name.ok_or(XmlError::IllFormed("a reference"))?)?;
                    self.pending_text()?.push(c);
                }
                Event::Comment(_) => {
                    let inner = raw.strip_prefix("<!--").and_then(|rest| rest.strip_suffix("-->"));
                    let inner = inner.ok_or(XmlError::IllFormed("a comment"))?;
                    if inner.contains("--") || inner.ends_with('-') {
                        return Err(XmlError::IllFormed("a comment"));
                    }
                }
                Event::Decl(_) => {
                    if !is_document || start != 0 {
                        return Err(XmlError::IllFormed("an XML declaration that is not at the start"));
                    }
                    check_declaration(raw)?;
                }
                Event::PI(_) => return Err(XmlError::ProcessingInstruction),
                Event::DocType(_) => return Err(XmlError::DocumentType),
                Event::Eof => break,
            }
        }
        if !self.open.is_empty() {
            return Err(XmlError::IllFormed("an element is not closed"));
        }
        self.flush()?;
        Ok(self.top)
    }

    /// Character data with the line ends of XML 1.0, section 2.11.
    fn characters(&mut self, raw: &'t str, is_document: bool) -> Result<(), XmlError> {
        if is_document && self.open.is_empty() {
            return if raw.bytes().all(is_white_space) {
                Ok(())
            } else {
                Err(XmlError::IllFormed("a text outside the root element"))
            };
        }
        if raw.is_empty() {
            return Ok(());
        }
        if matches!(self.pending, Pending::Nothing) && !has(raw, b'\r') {
            self.pending = Pending::Span(self.span(raw));
            return Ok(());
        }
        let text = self.pending_text()?;
        let mut rest = raw;
        while let Some(at) = rest.find('\r') {
            text.push_str(&rest[..at]);
            text.push('\n');
            rest = &rest[at + 1..];
            rest = rest.strip_prefix('\n').unwrap_or(rest);
        }
        text.push_str(rest);
        Ok(())
    }

    fn pending_text(&mut self) -> Result<&mut String, XmlError> {
        let text = match &mut self.pending {
            Pending::Nothing => String::with_capacity(64),
            Pending::Span(span) => {
                let span = *span;
                let mut text = String::with_capacity(span.len as usize + 64);
                text.push_str(self.document.get(span));
                text
            }
            Pending::Text(_) => String::new(),
        };
        if !matches!(self.pending, Pending::Text(_)) {
            self.pending = Pending::Text(text.into());
        }
        match &mut self.pending {
            Pending::Text(text) => Ok(text),
            _ => Err(XmlError::IllFormed("a text")),
        }
    }

    fn flush(&mut self) -> Result<(), XmlError> {
        let span = match std::mem::replace(&mut self.pending, Pending::Nothing) {
            Pending::Nothing => return Ok(()),
            Pending::Span(span) => span,
            Pending::Text(text) => self.document.push_text(&text),
        };
        let id = self.document.new_node(Kind::Text(span));
        self.place(id)
    }

    fn place(&mut self, id: NodeId) -> Result<(), XmlError> {
        if self.document.len() > self.limits.nodes {
            return Err(XmlError::TooMany("elements and texts"));
        }
        match self.open.last() {
            Some((parent, _)) => self.document.attach(*parent, id),
            None => self.top.push(id),
        }
        Ok(())
    }

    fn start_element(&mut self, tag: &BytesStart<'_>, raw: &'t str, is_empty: bool) -> Result<(), XmlError> {
        self.flush()?;
        if self.depth + self.open.len() >= self.limits.depth {
            return Err(XmlError::TooMany("elements inside each other"));
        }
        let inner =
            raw.strip_prefix('<').and_then(|rest| rest.strip_suffix(if is_empty { "/>" } else { ">" }));
        let inner = inner.ok_or(XmlError::IllFormed("a tag"))?;
        let (name, mut rest) = inner.split_at(tag.name().as_ref().len().min(inner.len()));
        let scope = self.scope.len();
        let mut written = std::mem::take(&mut self.written);
        written.clear();
        let mut declarations = Vec::new();
        while let Some((name, value)) = next_attribute(&mut rest)? {
            if written.len() + declarations.len() >= ATTRIBUTES_MAX {
                return Err(XmlError::TooMany("attributes"));
            }
            let value = match normalized(value)? {
                Some(value) => self.document.push_text(&value),
                None => self.span(value),
            };
            let (prefix, local) = split_name(name)?;
            if prefix == "xmlns" || (prefix.is_empty() && local == "xmlns") {
                let declared = if prefix.is_empty() { "" } else { local };
                let declared = self.declaration(declared, value)?;
                let same = |other: &Declaration| self.document.is_same(other.prefix, declared.prefix);
                if declarations.iter().any(same) {
                    return Err(XmlError::Namespace("a prefix is declared twice on one element"));
                }
                declarations.push(declared);
            } else {
                written.push((prefix, local, value));
            }
        }
        // `xmlns:xml` may be declared, and says nothing.
        declarations.retain(|declared| !self.document.is_text(declared.prefix, "xml"));
        self.scope.extend(&declarations);
        if self.scope.len() > DECLARATIONS_MAX {
            return Err(XmlError::TooMany("namespace declarations"));
        }
        let mut attributes: Vec<Attribute> = Vec::with_capacity(written.len());
        for &(prefix, local, value) in &written {
            let namespace = if prefix.is_empty() { Span::default() } else { self.namespace(prefix)? };
            let attribute =
                Attribute { prefix: self.span(prefix), local: self.span(local), namespace, value };
            let same = |other: &Attribute| {
                self.document.is_text(other.local, local) && self.document.is_same(other.namespace, namespace)
            };
            if attributes.iter().any(same) {
                return Err(XmlError::IllFormed("an attribute stands twice on one element"));
            }
            attributes.push(attribute);
        }
        self.written = written;
        let (prefix, local) = split_name(name)?;
        let namespace = self.namespace(prefix)?;
        let (prefix, local) = (self.span(prefix), self.span(local));
        self.count_namespaces(prefix, namespace, &attributes)?;
        let id = self.document.new_element(prefix, local, namespace);
        self.document.set_markup(id, attributes, declarations);
        self.place(id)?;
        if is_empty {
            self.scope.truncate(scope);
        } else {
            self.open.push((id, scope));
        }
        Ok(())
    }

    /// A canonical form writes a namespace at each element that uses it and has none around that does. One
    /// long namespace that thousands of siblings use would make it far longer than the message.
    fn count_namespaces(
        &mut self,
        prefix: Span,
        namespace: Span,
        attributes: &[Attribute],
    ) -> Result<(), XmlError> {
        let around = self.open.last().and_then(|(id, _)| self.document.as_element(*id));
        let is_around = around.is_some_and(|around| {
            self.document.is_same(around.prefix, prefix) && self.document.is_same(around.namespace, namespace)
        });
        let own = if is_around { 0 } else { namespace.len as usize };
        let octets = attributes.iter().fold(own, |sum, attribute| sum + attribute.namespace.len as usize);
        match self.document.count_rendered(octets) <= rendered_max(self.limits.octets) {
            true => Ok(()),
            false => Err(XmlError::TooLarge),
        }
    }

    /// Namespaces in XML 1.0, sections 2.1 to 3.
    fn declaration(&self, prefix: &str, value: Span) -> Result<Declaration, XmlError> {
        let uri = self.document.get(value);
        let reserved = uri == XMLNS.uri || prefix == "xmlns" || (uri == XML.uri) != (prefix == "xml");
        if reserved {
            return Err(XmlError::Namespace("a reserved prefix or namespace"));
        }
        if uri.is_empty() && !prefix.is_empty() {
            return Err(XmlError::Namespace("a prefix without a namespace"));
        }
        if !uri.is_empty() && !is_namespace_name(uri) {
            return Err(XmlError::Namespace("a namespace name that is not an absolute URI"));
        }
        Ok(Declaration { prefix: self.span(prefix), namespace: value })
    }

    fn namespace(&mut self, prefix: &str) -> Result<Span, XmlError> {
        let mut nearest = self.scope.iter().rev();
        if let Some(found) = nearest.find(|declaration| self.document.is_text(declaration.prefix, prefix)) {
            return Ok(found.namespace);
        }
        match prefix {
            "" => Ok(Span::default()),
            "xml" => Ok(self.document.push_text(XML.uri)),
            _ => Err(XmlError::Namespace("a prefix is not declared")),
        }
    }
}

/// Whether an octet is anywhere in a text. The compiler compares many at once.
fn has(text: &str, octet: u8) -> bool {
    text.bytes().fold(false, |found, other| found | (other == octet))
}

/// A name with at most one colon, each part of it an NCName.
fn split_name(name: &str) -> Result<(&str, &str), XmlError> {
    let (prefix, local) = match name.split_once(':') {
        Some((prefix, local)) => (prefix, local),
        None => ("", name),
    };
    let well_formed =
        is_ncname(local) && (is_ncname(prefix) || (prefix.is_empty() && !name.starts_with(':')));
    if well_formed { Ok((prefix, local)) } else { Err(XmlError::IllFormed("a name")) }
}

/// `S Name Eq AttValue` from the start of `rest`, with the value between its quotation marks (XML 1.0,
/// productions 40 and 41).
fn next_attribute<'t>(rest: &mut &'t str) -> Result<Option<(&'t str, &'t str)>, XmlError> {
    const WRONG: XmlError = XmlError::IllFormed("an attribute");
    let white = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let trimmed = rest.trim_start_matches(white);
    if trimmed.is_empty() {
        return Ok(None);
    }
    if trimmed.len() == rest.len() {
        return Err(WRONG);
    }
    let (name, after) = trimmed.split_once('=').ok_or(WRONG)?;
    let name = name.trim_end_matches(white);
    let after = after.trim_start_matches(white);
    let quote = after.chars().next().filter(|c| matches!(c, '"' | '\'')).ok_or(WRONG)?;
    let (value, after) = after[1..].split_once(quote).ok_or(WRONG)?;
    if value.contains('<') {
        return Err(WRONG);
    }
    *rest = after;
    Ok(Some((name, value)))
}

/// The value of an attribute of type CDATA (XML 1.0, section 3.3.3); `None` if it stands as it is.
fn normalized(value: &str) -> Result<Option<String>, XmlError> {
    if !value.bytes().any(|octet| matches!(octet, b'&' | b'\t' | b'\r' | b'\n')) {
        return Ok(None);
    }
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find(['&', '\t', '\r', '\n']) {
        out.push_str(&rest[..at]);
        let found = &rest[at..];
        if let Some(after) = found.strip_prefix('&') {
            let (name, after) = after.split_once(';').ok_or(XmlError::IllFormed("a reference"))?;
            out.push(referenced(name)?);
            rest = after;
        } else {
            out.push(' ');
            rest = found.strip_prefix("\r\n").unwrap_or(&found[1..]);
        }
    }
    out.push_str(rest);
    Ok(Some(out))
}

/// What stands between `&` and `;`: a character, or one of the five predefined entities.
fn referenced(name: &str) -> Result<char, XmlError> {
    let Some(number) = name.strip_prefix('#') else {
        return match name {
            "amp" => Ok('&'),
            "lt" => Ok('<'),
            "gt" => Ok('>'),
            "quot" => Ok('"'),
            "apos" => Ok('\''),
            _ => Err(XmlError::Entity),
        };
    };
    let (digits, radix) = match number.strip_prefix('x') {
        Some(digits) => (digits, 16),
        None => (number, 10),
    };
    // `from_str_radix` would take a sign.
    let digits = if digits.chars().all(|c| c.is_digit(radix)) { digits } else { "" };
    let character = u32::from_str_radix(digits, radix).ok().and_then(char::from_u32).filter(|c| is_char(*c));
    character.ok_or(XmlError::IllFormed("a character reference"))
}

/// XML 1.0, production 23, with UTF-8 alone as encoding.
fn check_declaration(raw: &str) -> Result<(), XmlError> {
    const WRONG: XmlError = XmlError::IllFormed("the XML declaration");
    let mut rest = raw.strip_prefix("<?xml").and_then(|rest| rest.strip_suffix("?>")).ok_or(WRONG)?;
    if next_attribute(&mut rest)? != Some(("version", "1.0")) {
        return Err(WRONG);
    }
    let mut next = next_attribute(&mut rest)?;
    if let Some(("encoding", encoding)) = next {
        if !encoding.eq_ignore_ascii_case("utf-8") {
            return Err(XmlError::Encoding);
        }
        next = next_attribute(&mut rest)?;
    }
    if let Some(("standalone", "yes" | "no")) = next {
        next = next_attribute(&mut rest)?;
    }
    if next.is_none() { Ok(()) } else { Err(WRONG) }
}

#[cfg(test)]
mod tests;
