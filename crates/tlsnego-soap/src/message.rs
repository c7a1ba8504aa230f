//! Envelopes with their headers of WS-Addressing: what is read before anything of a message is done, and what
//! is written.

use crate::address::Address;
use crate::http::{HttpRequest, HttpResponse, check_content_type};
use crate::names::{
    ADDRESSING_2004, ANONYMOUS, CONVERSATION_13, RELIABLE, SOAP_11, TRUST_13, TrustVersion, named,
};
use crate::refusal::{Dialect, Refusal, SoapFault, shortened};
use xml_security::names::{ADDRESSING, Name, SECURITY, SOAP, XML};
use xml_security::{Document, Envelope, NodeId, ParseLimits, XmlError};

/// Longest text of a header of WS-Addressing in octets: `a:Action`, `a:MessageID`, which is echoed, `a:To`
/// and `a:RelatesTo`. Each MessageID of .NET has 45.
pub const HEADER_LEN_MAX: usize = 1_024;

/// A message that was read, and not verified.
pub(crate) struct Incoming {
    pub(crate) document: Document,
    pub(crate) envelope: Envelope,
    pub(crate) version: TrustVersion,
    /// In the names of February 2005 if it is of this protocol.
    pub(crate) action: String,
    pub(crate) message_id: Option<String>,
    /// Whether it has an `o:Security` header.
    pub(crate) is_secured: bool,
}

impl Incoming {
    /// Reads a request. Nothing in it is trusted.
    pub(crate) fn read(request: &HttpRequest<'_>, limits: &ParseLimits) -> Result<Self, Refusal> {
        check_content_type(request.content_type).map_err(Refusal::Dialect)?;
        Self::parse(request.body, limits)
    }

    pub(crate) fn parse(octets: &[u8], limits: &ParseLimits) -> Result<Self, Refusal> {
        let mut document = Document::parse(octets, limits).map_err(|error| match error {
            XmlError::Encoding => Refusal::Dialect(Dialect::Encoding),
            // UTF-16 without a byte order mark is UTF-8 with octets of zero.
            _ if matches!(octets, [b'<', 0, ..] | [0, b'<', ..]) => Refusal::Dialect(Dialect::Encoding),
            error => Refusal::Security(error.into()),
        })?;
        let root = document.root();
        if document.name(root).namespace == SOAP_11 {
            return Err(Refusal::Dialect(Dialect::Soap11));
        }
        let envelope = Envelope::of(&document)?;
        let action = header_text(&document, &envelope, "Action")?;
        let action = match action {
            Some(action) if !action.is_empty() => action,
            Some(_) => return Err(Refusal::InvalidHeader("Action")),
            None => {
                let is_old = |node| document.name(node).namespace == ADDRESSING_2004;
                return Err(match document.elements(envelope.header).any(is_old) {
                    true => Refusal::Dialect(Dialect::Addressing2004),
                    false => Refusal::MissingHeader("Action"),
                });
            }
        };
        let message_id = header_text(&document, &envelope, "MessageID")?;
        let is_secured =
            document.elements(envelope.header).any(|node| document.is(node, SECURITY.name("Security")));
        let version = version_of(&document, &envelope, &action);
        document.set_spellings(version.spellings());
        let action = match action.starts_with(TRUST_13) {
            true => named(action.into()).into_owned(),
            false => action,
        };
        Ok(Self { version, action, message_id, is_secured, document, envelope })
    }

    /// What a reply to it says about it.
    pub(crate) fn relation(&self) -> Relation<'_> {
        Relation { version: self.version, message_id: self.message_id.as_deref() }
    }

    /// Whether it is for this service, in its dialect, and asks for nothing that is not done.
    pub(crate) fn check(&self, addresses: &[Address], trust13: bool) -> Result<(), Refusal> {
        let Self { document, envelope, action, .. } = self;
        if self.version == TrustVersion::V13 && !trust13 {
            return Err(Refusal::Dialect(Dialect::Trust13));
        }
        let is_reliable = |uri: &str| RELIABLE.contains(&uri);
        if RELIABLE.iter().any(|uri| action.starts_with(uri))
            || document.elements(envelope.header).any(|node| is_reliable(document.name(node).namespace))
        {
            return Err(Refusal::Dialect(Dialect::Reliable));
        }
        for node in document.elements(envelope.header) {
            let name = document.name(node);
            let is_known = name.namespace == ADDRESSING.uri || document.is(node, SECURITY.name("Security"));
            if !is_known && has_to_be_understood(document, node) {
                let (namespace, local) = (shortened(name.namespace), shortened(name.local));
                return Err(Refusal::NotUnderstood { namespace, local });
            }
        }
        for local in ["ReplyTo", "FaultTo"] {
            let Some(node) = envelope.addressing(document, local) else { continue };
            let address =
                document.only(node, ADDRESSING.name("Address")).and_then(|node| document.text(node));
            match address {
                Some(address) if address.trim() == ANONYMOUS => {}
                Some(_) => return Err(Refusal::NotAnonymous(local)),
                None => return Err(Refusal::InvalidHeader(local)),
            }
        }
        let to = header_text(document, envelope, "To")?.ok_or(Refusal::MissingHeader("To"))?;
        match Address::new(&to) {
            Ok(address) if addresses.contains(&address) => Ok(()),
            _ => {
                let addresses = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                Err(Refusal::Address { to: shortened(&to), addresses })
            }
        }
    }

    /// The one element in the body.
    pub(crate) fn trust_element(&self) -> Option<NodeId> {
        only_element(&self.document, self.envelope.body)
    }
}

/// What a reply takes over from its request: the version of WS-Trust, and the MessageID.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Relation<'a> {
    pub(crate) version: TrustVersion,
    pub(crate) message_id: Option<&'a str>,
}

/// The version that the action is of, or else the tokens.
fn version_of(document: &Document, envelope: &Envelope, action: &str) -> TrustVersion {
    let security = document.only(envelope.header, SECURITY.name("Security"));
    let has_token =
        |security| document.elements(security).any(|token| document.name(token).namespace == CONVERSATION_13);
    match action.starts_with(TRUST_13) || security.is_some_and(has_token) {
        true => TrustVersion::V13,
        false => TrustVersion::February2005,
    }
}

/// The only child element.
pub(crate) fn only_element(document: &Document, parent: NodeId) -> Option<NodeId> {
    let mut elements = document.elements(parent);
    elements.next().filter(|_| elements.next().is_none())
}

/// Text of a header of WS-Addressing.
pub(crate) fn header_text(
    document: &Document,
    envelope: &Envelope,
    local: &'static str,
) -> Result<Option<String>, Refusal> {
    let Some(node) = envelope.addressing(document, local) else { return Ok(None) };
    let text = document.text(node).ok_or(Refusal::InvalidHeader(local))?;
    match text.trim() {
        text if text.len() > HEADER_LEN_MAX => Err(Refusal::InvalidHeader(local)),
        text => Ok(Some(text.to_owned())),
    }
}

/// SOAP 1.2 part 1, section 5.2: a header without `role` is for the last receiver, which is this one.
fn has_to_be_understood(document: &Document, node: NodeId) -> bool {
    let attribute = |local| document.attribute(node, SOAP.name(local)).map(str::trim);
    let is_for_other = attribute("role").is_some_and(|role| role.ends_with("/role/none"));
    !is_for_other && matches!(attribute("mustUnderstand"), Some("1" | "true"))
}

/// A message that is being written: its document, and the body.
pub(crate) struct Draft {
    pub(crate) document: Document,
    pub(crate) body: NodeId,
}

impl Draft {
    fn new(version: TrustVersion, action: &str) -> (Self, NodeId) {
        let mut document = Document::new(SOAP.name("Envelope"));
        document.set_spellings(version.spellings());
        let action = document.spelled(action);
        let root = document.root();
        document.declare(root, ADDRESSING.prefix, ADDRESSING.uri);
        let header = document.append_element(root, SOAP.name("Header"));
        let element = document.append_text_element(header, ADDRESSING.name("Action"), &action);
        document.set_attribute(element, SOAP.name("mustUnderstand"), "1");
        let body = document.append_element(root, SOAP.name("Body"));
        (Self { document, body }, header)
    }

    /// A request.
    pub(crate) fn request(version: TrustVersion, action: &str, message_id: &str, to: &str) -> Self {
        let (mut draft, header) = Self::new(version, action);
        let document = &mut draft.document;
        document.append_text_element(header, ADDRESSING.name("MessageID"), message_id);
        let reply_to = document.append_element(header, ADDRESSING.name("ReplyTo"));
        document.append_text_element(reply_to, ADDRESSING.name("Address"), ANONYMOUS);
        let to = document.append_text_element(header, ADDRESSING.name("To"), to);
        document.set_attribute(to, SOAP.name("mustUnderstand"), "1");
        draft
    }

    /// A reply. A request without MessageID has a reply without RelatesTo.
    pub(crate) fn reply(action: &str, relation: Relation<'_>) -> Self {
        let (mut draft, header) = Self::new(relation.version, action);
        if let Some(relates_to) = relation.message_id {
            draft.document.append_text_element(header, ADDRESSING.name("RelatesTo"), relates_to);
        }
        draft
    }

    /// A fault.
    pub(crate) fn fault(fault: &SoapFault, relation: Relation<'_>) -> Self {
        let mut draft = Self::reply(fault.action, relation);
        let Self { document, body } = &mut draft;
        let element = document.append_element(*body, SOAP.name("Fault"));
        let mut code = document.append_element(element, SOAP.name("Code"));
        document.append_text_element(code, SOAP.name("Value"), &format!("{}:{}", SOAP.prefix, fault.code));
        for (namespace, local) in fault.subcodes.into_iter().flatten() {
            code = document.append_element(code, SOAP.name("Subcode"));
            let value = document.append_element(code, SOAP.name("Value"));
            // The value is a name: its prefix has to be bound where it stands.
            document.declare(value, namespace.prefix, namespace.uri);
            document.append_text(value, &format!("{}:{local}", namespace.prefix));
        }
        let reason = document.append_element(element, SOAP.name("Reason"));
        let text = document.append_text_element(reason, SOAP.name("Text"), fault.text);
        document.set_attribute(text, XML.name("lang"), "en");
        draft
    }

    /// The message as it is, not secured.
    pub(crate) fn unsecured(&self, status: u16) -> Result<HttpResponse, Refusal> {
        let body = self.document.write().map_err(|error| Refusal::Reply(error.to_string()))?;
        Ok(HttpResponse { status, body })
    }

    /// Puts the children of an application's `s:Body` into this one, each with the namespaces in scope at it.
    pub(crate) fn take_body(&mut self, from: &Document, body: NodeId) -> Result<(), XmlError> {
        self.document.append_copies(self.body, from, from.elements(body))
    }
}

/// A fault as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadFault {
    /// Namespace of the innermost code, that of February 2005 for faults of WS-Trust 1.3; empty if the
    /// message is no fault.
    pub namespace: String,
    /// Its local name.
    pub local: String,
    /// The text for people, shortened.
    pub text: String,
}

impl std::fmt::Display for ReadFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.local.as_str() {
            "" => f.write_str("the answer is not secured, and no fault"),
            local => write!(f, "{local}: {}", self.text),
        }
    }
}

/// The fault in a body; none if it holds something else.
pub(crate) fn read_fault(document: &Document, body: NodeId) -> Option<ReadFault> {
    let fault = document.only(body, SOAP.name("Fault"))?;
    let mut code = document.only(fault, SOAP.name("Code"))?;
    while let Some(subcode) = document.only(code, SOAP.name("Subcode")) {
        code = subcode;
    }
    let value = document.only(code, SOAP.name("Value"))?;
    let text = document.text(value)?;
    let (prefix, local) = text.trim().split_once(':').unwrap_or(("", text.trim()));
    let namespace = named(document.namespace_at(value, prefix)?.into()).into_owned();
    let reason = document.only(fault, SOAP.name("Reason"));
    let reason = reason.and_then(|reason| document.elements(reason).next());
    let reason = reason.and_then(|text| document.text(text)).unwrap_or_default();
    Some(ReadFault { namespace, local: shortened(local), text: shortened(&reason) })
}

/// Value of an attribute without a namespace.
pub(crate) fn plain<'d>(document: &'d Document, node: NodeId, local: &str) -> Option<&'d str> {
    document.attribute(node, Name::plain(local))
}
