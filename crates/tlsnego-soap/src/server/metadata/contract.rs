//! The WSDL of the plain service: what of it clients of the gateway are told.

use super::policy::ADDRESSING_WSDL;
use super::{SOAP_12_WSDL, WSDL};
use crate::message::plain;
use crate::names::POLICY;
use crate::refusal::shortened;
use tlsnego_service::names::FAULT_ACTION;
use xml_security::names::{Name, Namespace, SCHEMA};
use xml_security::{Document, NodeId, ParseLimits, Unwritable, XmlError, is_ncname};

/// The WSDL binding of SOAP 1.1.
const SOAP_11_WSDL: &str = "http://schemas.xmlsoap.org/wsdl/soap/";
/// The later WSDL binding of WS-Addressing 1.0.
const ADDRESSING_METADATA: Namespace =
    Namespace { prefix: "wsam", uri: "http://www.w3.org/2007/05/addressing/metadata" };
/// WS-Policy 1.5.
const POLICY_15: &str = "http://www.w3.org/ns/ws-policy";

/// Octets of a WSDL, of the plain service and of the gateway. Each connection that reads it holds it as it
/// holds a message, so it is no longer than one.
pub const WSDL_MAX: usize = xml_security::MESSAGE_MAX;

/// Those of a WSDL.
pub(super) fn limits() -> ParseLimits {
    ParseLimits { octets: WSDL_MAX, ..ParseLimits::default() }
}

/// Why a WSDL cannot be published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContractError {
    /// No XML, or XML that is not read.
    #[error("the WSDL cannot be read: {0}")]
    Xml(#[from] XmlError),
    /// Another document.
    #[error("the document is no WSDL 1.1: its root is {{{namespace}}}{local}")]
    NotWsdl {
        /// Namespace of the root, shortened.
        namespace: String,
        /// Its local name, shortened.
        local: String,
    },
    /// Something in it that a client of the gateway could not use.
    #[error("in the WSDL, {place}: {what}")]
    Unsupported {
        /// The element, by its kind and name.
        place: String,
        /// What is wrong, and what to do.
        what: &'static str,
    },
    /// The result cannot be written.
    #[error("the WSDL cannot be written: {0}")]
    Unwritable(#[from] Unwritable),
}

/// What the operations of the application are. The default is that they are not known.
#[derive(Clone, Debug, Default)]
pub struct Contract {
    /// `targetNamespace`; empty if nothing is known.
    pub(super) target: String,
    /// Name of the `wsdl:service`, if it has one.
    pub(super) service: Option<String>,
    /// `wsdl:types`, `wsdl:message` and `wsdl:portType`, each as it stands for itself.
    pub(super) taken: Vec<Vec<u8>>,
    pub(super) port_types: Vec<PortType>,
}

#[derive(Clone, Debug)]
pub(super) struct PortType {
    pub(super) name: String,
    pub(super) operations: Vec<Operation>,
}

#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) name: String,
    /// `soap12:operation/@soapAction`, which is the `a:Action` of a request.
    pub(super) action: String,
    /// `document` or `rpc`.
    pub(super) style: String,
    pub(super) messages: Vec<Message>,
}

#[derive(Clone, Debug)]
pub(super) struct Message {
    /// `input`, `output` or `fault`.
    pub(super) kind: &'static str,
    /// `name` of the element; faults have one.
    pub(super) name: Option<String>,
    /// Attributes of `soap12:body` or `soap12:fault`.
    pub(super) attributes: Vec<(&'static str, String)>,
}

impl Contract {
    /// Reads the WSDL 1.1 of the plain service: one document, such as .NET's `?singleWsdl`. Its types,
    /// messages and port types are taken over. Of its SOAP binding, that of SOAP 1.2 if there is one, the
    /// actions and the form of bodies are. Its policies and addresses are not.
    pub fn from_wsdl(octets: &[u8]) -> Result<Self, ContractError> {
        // .NET writes a byte order mark.
        let octets = octets.strip_prefix(b"\xef\xbb\xbf").unwrap_or(octets);
        let document = Document::parse(octets, &limits())?;
        let root = document.root();
        if !document.is(root, WSDL.name("definitions")) {
            let Name { namespace, local, .. } = document.name(root);
            return Err(ContractError::NotWsdl { namespace: shortened(namespace), local: shortened(local) });
        }
        Reader { target: plain(&document, root, "targetNamespace").unwrap_or_default().to_owned(), document }
            .read()
    }
}

struct Reader {
    document: Document,
    target: String,
}

impl Reader {
    fn read(mut self) -> Result<Contract, ContractError> {
        let root = self.document.root();
        if self.target.is_empty() {
            return Err(self.unsupported(root, "it has no targetNamespace"));
        }
        self.check_locations()?;
        let bindings = self.soap_bindings()?;
        let mut contract = Contract::default();
        let children: Vec<_> = self.document.elements(root).collect();
        for node in children {
            let is = |local| self.document.is(node, WSDL.name(local));
            if is("service") {
                if contract.service.is_none() {
                    contract.service = Some(self.name_of(node)?);
                }
                continue;
            }
            if is("portType") {
                let name = self.name_of(node)?;
                let binding = bindings.iter().find(|(of, _)| *of == name).map(|(_, binding)| *binding);
                // .NET's .asmx services have port types for forms beside that for SOAP.
                if binding.is_none() && !bindings.is_empty() {
                    continue;
                }
                let operations = self.operations(node, &name, binding)?;
                contract.port_types.push(PortType { name, operations });
            } else if !is("types") && !is("message") {
                continue;
            }
            self.drop_policies(node)?;
            contract.taken.push(self.document.extract(node)?);
        }
        if contract.port_types.iter().all(|port_type| port_type.operations.is_empty()) {
            return Err(self.unsupported(root, "it has no operation that is called by SOAP"));
        }
        contract.target = self.target;
        Ok(contract)
    }

    /// The gateway publishes one document: what this one refers to has to be found by clients.
    fn check_locations(&self) -> Result<(), ContractError> {
        let document = &self.document;
        for node in document.descendants(document.root()) {
            if document.is(node, WSDL.name("import")) {
                return Err(self.unsupported(node, "save the service's WSDL as one document (?singleWsdl)"));
            }
            if document.is_of(node, SCHEMA)
                && let Some(location) = plain(document, node, "schemaLocation")
                && !["http://", "https://"].iter().any(|scheme| location.starts_with(scheme))
            {
                return Err(self.unsupported(
                    node,
                    "clients cannot find a relative schemaLocation: save the service's WSDL as one document",
                ));
            }
        }
        Ok(())
    }

    /// Port types with the SOAP binding of each.
    fn soap_bindings(&self) -> Result<Vec<(String, NodeId)>, ContractError> {
        let document = &self.document;
        let mut found: Vec<(String, NodeId)> = Vec::new();
        for soap in [SOAP_12_WSDL.uri, SOAP_11_WSDL] {
            for binding in document.elements(document.root()) {
                if !document.is(binding, WSDL.name("binding"))
                    || child(document, binding, &[soap], "binding").is_none()
                {
                    continue;
                }
                let of = plain(document, binding, "type").unwrap_or_default().trim();
                let (prefix, local) = of.split_once(':').unwrap_or(("", of));
                if document.namespace_at(binding, prefix) != Some(&*self.target) {
                    return Err(self.unsupported(binding, "its type is no port type of this document"));
                }
                if !found.iter().any(|(of, _)| of == local) {
                    found.push((local.to_owned(), binding));
                }
            }
        }
        Ok(found)
    }

    fn operations(
        &mut self,
        port_type: NodeId,
        port_type_name: &str,
        binding: Option<NodeId>,
    ) -> Result<Vec<Operation>, ContractError> {
        let mut operations: Vec<Operation> = Vec::new();
        let nodes: Vec<_> = self.of_kind(port_type, "operation").collect();
        for node in nodes {
            let name = self.name_of(node)?;
            if operations.iter().any(|operation| operation.name == name) {
                return Err(self.unsupported(node, "another operation has the same name"));
            }
            let bound = binding.and_then(|binding| {
                self.of_kind(binding, "operation").find(|bound| self.attribute(*bound, "name") == Some(&name))
            });
            operations.push(self.operation(node, name, port_type_name, binding.zip(bound))?);
        }
        Ok(operations)
    }

    /// `bound` is the SOAP binding and the operation in it.
    fn operation(
        &mut self,
        node: NodeId,
        name: String,
        port_type: &str,
        bound: Option<(NodeId, NodeId)>,
    ) -> Result<Operation, ContractError> {
        let document = &self.document;
        let is = |node: NodeId, local| document.is(node, WSDL.name(local));
        let kinds: Vec<_> = document
            .elements(node)
            .filter_map(|node| {
                let kind = ["input", "output", "fault"].into_iter().find(|kind| is(node, kind));
                kind.map(|kind| (kind, node))
            })
            .collect();
        let input = match kinds[..] {
            [("input", input), ..] => input,
            _ => return Err(self.unsupported(node, "the service would send the first message")),
        };
        let has_output = kinds.iter().any(|(kind, _)| *kind == "output");

        const SOAP: [&str; 2] = [SOAP_12_WSDL.uri, SOAP_11_WSDL];
        let soap_attribute = |parent: NodeId, element: &str, local: &str| {
            child(document, parent, &SOAP, element).and_then(|node| plain(document, node, local))
        };
        let soap_action = bound.and_then(|(_, bound)| soap_attribute(bound, "operation", "soapAction"));
        let addressing = [ADDRESSING_WSDL, ADDRESSING_METADATA]
            .into_iter()
            .find_map(|namespace| document.attribute(input, namespace.name("Action")));
        let action = match soap_action.into_iter().chain(addressing).find(|action| !action.is_empty()) {
            Some(action) => action.to_owned(),
            None => {
                let input_name = plain(document, input, "name").map_or_else(
                    // WSDL 1.1, section 2.4.5.
                    || if has_output { format!("{name}Request") } else { name.clone() },
                    ToOwned::to_owned,
                );
                default_action(&self.target, port_type, &input_name)
            }
        };
        let style = bound.and_then(|(binding, bound)| {
            soap_attribute(bound, "operation", "style")
                .or_else(|| soap_attribute(binding, "binding", "style"))
        });
        let style = style.unwrap_or("document").to_owned();

        let mut messages = Vec::new();
        for (kind, node) in &kinds {
            let name = self.attribute(*node, "name").map(ToOwned::to_owned);
            let bound = bound.and_then(|(_, bound)| {
                self.of_kind(bound, kind)
                    .find(|bound| *kind != "fault" || self.attribute(*bound, "name") == name.as_deref())
            });
            let element = if *kind == "fault" { "fault" } else { "body" };
            let mut attributes = vec![("use", "literal".to_owned())];
            if *kind == "fault" {
                let name = name.clone().ok_or_else(|| self.unsupported(*node, "a fault has no name"))?;
                attributes.insert(0, ("name", name));
            }
            if let Some(bound) = bound {
                if document.descendants(bound).any(|node| {
                    let name = document.name(node);
                    SOAP.contains(&name.namespace) && name.local == "header"
                }) {
                    return Err(self.unsupported(
                        bound,
                        "it has a header, and the gateway passes on bodies only: remove it",
                    ));
                }
                if soap_attribute(bound, element, "use") == Some("encoded") {
                    return Err(
                        self.unsupported(bound, "its body is encoded: only literal ones are published")
                    );
                }
                for local in ["namespace", "parts"] {
                    if let Some(value) = soap_attribute(bound, element, local) {
                        attributes.push((local, value.to_owned()));
                    }
                }
            }
            messages.push(Message { kind, name, attributes });
        }

        // What clients compare: the action that the gateway knows, and those that it gives to replies of a
        // service without WS-Addressing.
        for (kind, node) in kinds {
            let published = match kind {
                "input" => action.clone(),
                "output" => format!("{action}Response"),
                _ => FAULT_ACTION.to_owned(),
            };
            if self.document.attribute(node, ADDRESSING_METADATA.name("Action")).is_some() {
                self.document.set_attribute(node, ADDRESSING_METADATA.name("Action"), &published);
            }
            self.document.set_attribute(node, ADDRESSING_WSDL.name("Action"), &published);
        }
        Ok(Operation { name, action, style, messages })
    }

    /// Policies of the plain service do not hold for the gateway.
    fn drop_policies(&mut self, below: NodeId) -> Result<(), ContractError> {
        let is_policy = |name: Name<'_>| [POLICY.uri, POLICY_15].contains(&name.namespace);
        let nodes: Vec<_> = self.document.descendants(below).collect();
        for node in nodes {
            if self.document.attributes(node).any(|(name, _)| is_policy(name)) {
                return Err(self.unsupported(node, "it has an attribute of WS-Policy: remove it"));
            }
            if is_policy(self.document.name(node)) {
                self.document.detach(node);
            }
        }
        Ok(())
    }

    fn of_kind<'d>(&'d self, parent: NodeId, local: &'static str) -> impl Iterator<Item = NodeId> + 'd {
        self.document.elements(parent).filter(move |node| self.document.is(*node, WSDL.name(local)))
    }

    fn attribute(&self, node: NodeId, local: &str) -> Option<&str> {
        plain(&self.document, node, local)
    }

    fn name_of(&self, node: NodeId) -> Result<String, ContractError> {
        match self.attribute(node, "name") {
            Some(name) if is_ncname(name) => Ok(name.to_owned()),
            _ => Err(self.unsupported(node, "its name is missing, or is none that XML allows")),
        }
    }

    fn unsupported(&self, node: NodeId, what: &'static str) -> ContractError {
        // The nearest element with a name tells more than `input`.
        let named = self.document.ancestors(node).find_map(|node| {
            let name = plain(&self.document, node, "name")?;
            Some(format!(" of {} {:?}", self.document.name(node).local, shortened(name)))
        });
        let place = format!("{}{}", shortened(self.document.name(node).local), named.unwrap_or_default());
        ContractError::Unsupported { place, what }
    }
}

/// The first child of a local name in one of the namespaces.
fn child(document: &Document, parent: NodeId, namespaces: &[&str], local: &str) -> Option<NodeId> {
    document.elements(parent).find(|node| {
        let name = document.name(*node);
        name.local == local && namespaces.contains(&name.namespace)
    })
}

/// WS-Addressing 1.0 WSDL binding, section 4.4.4.
fn default_action(target: &str, port_type: &str, input: &str) -> String {
    let delimiter = if target.to_ascii_lowercase().starts_with("urn:") { ':' } else { '/' };
    let target = target.strip_suffix('/').filter(|_| delimiter == '/').unwrap_or(target);
    format!("{target}{delimiter}{port_type}{delimiter}{input}")
}
