//! What clients read to configure themselves: WSDL 1.1 with policies of WS-SecurityPolicy 1.1 and 1.2, by
//! `?wsdl` and by WS-MetadataExchange.
//!
//! The document has one port for each open binding of the service and each version of WS-Trust that it takes,
//! all at its first address. Each port names the certificate that the service will show. Nothing in it
//! depends on the request.

mod contract;
mod policy;

pub use contract::{Contract, ContractError, WSDL_MAX};

use crate::address::Address;
use crate::http::HttpResponse;
use crate::message::{Draft, Relation};
use crate::names::{GET_RESPONSE, POLICY, TrustVersion};
use crate::refusal::Refusal;
use crate::server::{Binding, ServiceCertificate, Settings};
use contract::{PortType, limits};
use policy::Policies;
use std::sync::Arc;
use tlsnego_service::session::Credential;
use xml_security::names::{ADDRESSING, Name, Namespace, SIGNATURE, UTILITY};
use xml_security::{Document, NodeId};

/// WSDL 1.1.
const WSDL: Namespace = Namespace { prefix: "wsdl", uri: "http://schemas.xmlsoap.org/wsdl/" };
/// The WSDL binding of SOAP 1.2.
const SOAP_12_WSDL: Namespace =
    Namespace { prefix: "soap12", uri: "http://schemas.xmlsoap.org/wsdl/soap12/" };
/// SOAP over HTTP, for both versions of SOAP.
const SOAP_HTTP: &str = "http://schemas.xmlsoap.org/soap/http";
/// Identities of endpoints, which .NET compares with the certificate of a service.
const IDENTITY: Namespace =
    Namespace { prefix: "wsid", uri: "http://schemas.xmlsoap.org/ws/2006/02/addressingidentity" };
/// WS-MetadataExchange.
const EXCHANGE: Namespace = Namespace { prefix: "wsx", uri: "http://schemas.xmlsoap.org/ws/2004/09/mex" };
/// The namespace of .NET for contracts that name none.
const TARGET_DEFAULT: &str = "http://tempuri.org/";
/// The port type of a service whose operations are not known.
const PORT_TYPE_DEFAULT: &str = "Service";

/// `Content-Type` of a WSDL that a GET asked for.
pub const WSDL_CONTENT_TYPE: &str = "text/xml; charset=utf-8";

/// The metadata of a service, written once.
pub struct Metadata {
    wsdl: Arc<[u8]>,
    /// Children of the body of a GetResponse. They declare what they need.
    body: Vec<u8>,
    /// What `a:To` of a Get may be.
    addresses: Vec<Address>,
}

impl std::fmt::Debug for Metadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metadata").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Metadata {
    /// Of a service with these settings, in which `metadata` is not looked at. Fails if the result is longer
    /// than [`WSDL_MAX`], too deep, or has too many namespaces.
    pub fn new(
        settings: &Settings,
        contract: &Contract,
        certificate: &ServiceCertificate,
    ) -> Result<Self, ContractError> {
        let wsdl = Definitions { settings, contract, certificate }.write()?;
        let mut document = Document::new(EXCHANGE.name("Metadata"));
        let root = document.root();
        let section = document.append_element(root, EXCHANGE.name("MetadataSection"));
        document.set_attribute(section, Name::plain("Dialect"), WSDL.uri);
        document.set_attribute(section, Name::plain("Identifier"), target(contract));
        document.append_xml(section, &wsdl, &limits())?;
        let body = document.write()?;
        let mex =
            settings.addresses.iter().filter_map(|address| Address::new(&format!("{address}/mex")).ok());
        let addresses = settings.addresses.iter().cloned().chain(mex).collect();
        Ok(Self { wsdl: wsdl.into(), body, addresses })
    }

    /// The WSDL, if the query of a GET asks for it: `?wsdl`, or `?singleWsdl` as in .NET, in any case. It is
    /// sent with [`WSDL_CONTENT_TYPE`].
    pub fn answer(&self, query: Option<&str>) -> Option<Arc<[u8]>> {
        let query = query?;
        let asks = ["wsdl", "singleWsdl"].iter().any(|name| query.eq_ignore_ascii_case(name));
        asks.then(|| Arc::clone(&self.wsdl))
    }

    pub(crate) fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The answer to a Get.
    pub(crate) fn exchange(&self, relation: Relation<'_>) -> Result<HttpResponse, Refusal> {
        let mut response = Draft::reply(GET_RESPONSE, relation).unsecured(200)?;
        // The metadata is not parsed again for each request.
        const EMPTY: &[u8] = b"<s:Body/></s:Envelope>";
        let head = response.body.strip_suffix(EMPTY).ok_or(Refusal::Reply("no empty body".to_owned()))?;
        response.body = [head, b"<s:Body>", &self.body, b"</s:Body></s:Envelope>"].concat();
        Ok(response)
    }
}

fn target(contract: &Contract) -> &str {
    match &*contract.target {
        "" => TARGET_DEFAULT,
        target => target,
    }
}

/// The `wsdl:definitions` of a service.
struct Definitions<'a> {
    settings: &'a Settings,
    contract: &'a Contract,
    certificate: &'a ServiceCertificate,
}

impl Definitions<'_> {
    fn write(&self) -> Result<Vec<u8>, ContractError> {
        let Self { settings, contract, .. } = self;
        let mut document = Document::new(WSDL.name("definitions"));
        let root = document.root();
        for namespace in [SOAP_12_WSDL, UTILITY, ADDRESSING] {
            document.declare(root, namespace.prefix, namespace.uri);
        }
        let versions = match settings.trust13 {
            false => &[TrustVersion::February2005][..],
            true => &[TrustVersion::February2005, TrustVersion::V13],
        };
        policy::declare(&mut document, versions);
        document.declare(root, "tns", target(contract));
        document.set_attribute(root, Name::plain("targetNamespace"), target(contract));

        // No port is there if no binding is open, and none for what is not served.
        let open = Binding::ALL.into_iter().filter(|binding| settings.bindings.contains(binding));
        let bindings: Vec<_> = versions
            .iter()
            .flat_map(|version| open.clone().map(|binding| Published { binding, version: *version }))
            .collect();
        for published in &bindings {
            let mut policies = Policies { document: &mut document, version: published.version };
            policies.write_endpoint(&published.policy(), settings, published.binding);
        }
        for version in versions {
            let mut policies = Policies { document: &mut document, version: *version };
            policies.write_message(message_policy(*version));
        }
        for taken in &contract.taken {
            document.append_xml(root, taken, &limits())?;
        }
        let unknown = [PortType { name: PORT_TYPE_DEFAULT.to_owned(), operations: Vec::new() }];
        let port_types = match &contract.port_types[..] {
            [] => {
                let port_type = document.append_element(root, WSDL.name("portType"));
                document.set_attribute(port_type, Name::plain("name"), PORT_TYPE_DEFAULT);
                &unknown
            }
            port_types => port_types,
        };
        for port_type in port_types {
            for binding in &bindings {
                write_binding(&mut document, *binding, port_type);
            }
        }
        let service = document.append_element(root, WSDL.name("service"));
        let name = contract.service.as_deref().unwrap_or("SecuredService");
        document.set_attribute(service, Name::plain("name"), name);
        document.append_text_element(service, WSDL.name("documentation"), SIZES);
        for port_type in port_types {
            for binding in &bindings {
                self.write_port(&mut document, service, *binding, port_type);
            }
        }
        Ok(document.write()?)
    }

    fn write_port(
        &self,
        document: &mut Document,
        service: NodeId,
        published: Published,
        port_type: &PortType,
    ) {
        let port = document.append_element(service, WSDL.name("port"));
        let name = published.name(port_type);
        document.set_attribute(port, Name::plain("name"), &name);
        document.set_attribute(port, Name::plain("binding"), &format!("tns:{name}"));
        document.append_text_element(port, WSDL.name("documentation"), &self.advice(published));
        let Some(address) = self.settings.addresses.first().map(ToString::to_string) else { return };
        let location = document.append_element(port, SOAP_12_WSDL.name("address"));
        document.set_attribute(location, Name::plain("location"), &address);
        let reference = document.append_element(port, ADDRESSING.name("EndpointReference"));
        document.append_text_element(reference, ADDRESSING.name("Address"), &address);
        let certificate = match (published.binding.negotiate, &self.certificate.preset) {
            (false, Some((certificate, _))) => Some(certificate.der()),
            (false, None) => None,
            (true, _) => self.certificate.tls.chain.first().map(|certificate| &**certificate),
        };
        if let Some(certificate) = certificate {
            let mut parent = document.append_element(reference, IDENTITY.name("Identity"));
            for local in ["KeyInfo", "X509Data", "X509Certificate"] {
                parent = document.append_element(parent, SIGNATURE.name(local));
            }
            document.append_base64(parent, certificate);
        }
    }

    /// The same as the policy, in the words of a `wsHttpBinding` or `ws2007HttpBinding`.
    fn advice(&self, Published { binding: Binding { negotiate, establish }, version }: Published) -> String {
        let binding = match version {
            TrustVersion::February2005 => "wsHttpBinding",
            TrustVersion::V13 => "ws2007HttpBinding",
        };
        let credential = match self.settings.credential {
            Credential::None => "None",
            Credential::UserName => "UserName",
            Credential::Certificate => "Certificate",
        };
        format!(
            "{binding} with security mode Message, clientCredentialType {credential}, \
             negotiateServiceCredential {negotiate}, establishSecurityContext {establish}, algorithmSuite {}.",
            policy::suite_name(self.settings.suite)
        )
    }
}

/// `wsu:Id` of the policy of all messages.
const fn message_policy(version: TrustVersion) -> &'static str {
    match version {
        TrustVersion::February2005 => "Message_policy",
        TrustVersion::V13 => "Message13_policy",
    }
}

/// What a client has to know that no policy says.
const SIZES: &str = "A WCF client takes replies of at most 65,536 octets unless its binding sets \
    maxReceivedMessageSize. Signatures and encryption add to what the service sends.";

/// A binding for the clients of one version of WS-Trust.
#[derive(Clone, Copy)]
struct Published {
    binding: Binding,
    version: TrustVersion,
}

impl Published {
    fn kind(self) -> String {
        let kind = match (self.binding.negotiate, self.binding.establish) {
            (true, true) => "NegotiatedSession",
            (true, false) => "Negotiated",
            (false, true) => "PresetSession",
            (false, false) => "Preset",
        };
        let version = match self.version {
            TrustVersion::February2005 => "",
            TrustVersion::V13 => "13",
        };
        format!("{kind}{version}")
    }

    /// `wsu:Id` of the policy of its endpoint.
    fn policy(self) -> String {
        format!("{}_policy", self.kind())
    }

    /// Name of the `wsdl:binding` and of its port; svcutil names the client's endpoint by it.
    fn name(self, port_type: &PortType) -> String {
        format!("{}_{}", self.kind(), port_type.name)
    }
}

fn write_binding(document: &mut Document, published: Published, port_type: &PortType) {
    let root = document.root();
    let element = document.append_element(root, WSDL.name("binding"));
    document.set_attribute(element, Name::plain("name"), &published.name(port_type));
    document.set_attribute(element, Name::plain("type"), &format!("tns:{}", port_type.name));
    refer(document, element, &published.policy());
    let soap = document.append_element(element, SOAP_12_WSDL.name("binding"));
    document.set_attribute(soap, Name::plain("transport"), SOAP_HTTP);
    for operation in &port_type.operations {
        let element = document.append_element(element, WSDL.name("operation"));
        document.set_attribute(element, Name::plain("name"), &operation.name);
        let soap = document.append_element(element, SOAP_12_WSDL.name("operation"));
        document.set_attribute(soap, Name::plain("soapAction"), &operation.action);
        document.set_attribute(soap, Name::plain("style"), &operation.style);
        for message in &operation.messages {
            let element = document.append_element(element, WSDL.name(message.kind));
            if let Some(name) = &message.name {
                document.set_attribute(element, Name::plain("name"), name);
            }
            refer(document, element, message_policy(published.version));
            let body = if message.kind == "fault" { "fault" } else { "body" };
            let body = document.append_element(element, SOAP_12_WSDL.name(body));
            for (local, value) in &message.attributes {
                document.set_attribute(body, Name::plain(local), value);
            }
        }
    }
}

fn refer(document: &mut Document, element: NodeId, policy: &str) {
    let reference = document.append_element(element, POLICY.name("PolicyReference"));
    document.set_attribute(reference, Name::plain("URI"), &format!("#{policy}"));
}
