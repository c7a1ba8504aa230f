//! What a client reads to configure itself. The reader is Python with lxml; what it has to find is written
//! here by WS-SecurityPolicy 1.1 and by what WCF writes for a `wsHttpBinding`.

use crate::matrix::negotiate;
use crate::support::*;
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tlsnego_service::session::Credential;
use tlsnego_soap::CONTENT_TYPE;
use tlsnego_soap::address::Address;
use tlsnego_soap::server::metadata::{Contract, ContractError, Metadata, WSDL_MAX};
use tlsnego_soap::server::{Binding, Event, Settings};
use xml_security::{Cipher, Hash, Suite, XmlError};

const ECHO_WSDL: &str = include_str!("echo.wsdl");

/// Both forms of a signed and encrypted message.
const PARTS: &str = "sp:SignedParts(sp:Body sp:Header=To sp:Header=From sp:Header=FaultTo sp:Header=ReplyTo \
    sp:Header=MessageID sp:Header=RelatesTo sp:Header=Action) sp:EncryptedParts(sp:Body)";
/// What a SymmetricBinding has behind its token.
const ALGORITHMS: &str = "sp:AlgorithmSuite(sp:Basic256) sp:Layout(sp:Strict) sp:IncludeTimestamp sp:EncryptSignature \
    sp:OnlySignEntireHeadersAndBody";
const WSS_11: &str = "sp:Wss11(sp:MustSupportRefKeyIdentifier sp:MustSupportRefIssuerSerial sp:MustSupportRefThumbprint \
    sp:MustSupportRefEncryptedKey)";
const WSS_11_CONFIRMED: &str = "sp:Wss11(sp:MustSupportRefKeyIdentifier sp:MustSupportRefIssuerSerial \
    sp:MustSupportRefThumbprint sp:MustSupportRefEncryptedKey sp:RequireSignatureConfirmation)";
const TRUST_10: &str =
    "sp:Trust10(sp:MustSupportIssuedTokens sp:RequireClientEntropy sp:RequireServerEntropy)";

const NEGOTIATED: &str = "mssp:SslContextToken[AlwaysToRecipient](sp:RequireDerivedKeys)";
const NEGOTIATED_MUTUAL: &str =
    "mssp:SslContextToken[AlwaysToRecipient](sp:RequireDerivedKeys mssp:RequireClientCertificate)";
const PRESET: &str =
    "sp:X509Token[Never](sp:RequireDerivedKeys sp:RequireThumbprintReference sp:WssX509V3Token10)";
const USER_NAME: &str =
    " sp:SignedSupportingTokens(sp:UsernameToken[AlwaysToRecipient](sp:WssUsernameToken10))";
const ENDORSED: &str = " sp:EndorsingSupportingTokens(sp:X509Token[AlwaysToRecipient](sp:RequireThumbprintReference \
    sp:WssX509V3Token10))";

/// The token, the supporting tokens and the options of messages under the first token.
const FIRST: [(bool, Credential, &str, &str, &str); 6] = [
    (true, Credential::None, NEGOTIATED, "", WSS_11),
    (true, Credential::UserName, NEGOTIATED, USER_NAME, WSS_11),
    (true, Credential::Certificate, NEGOTIATED_MUTUAL, "", WSS_11),
    (false, Credential::None, PRESET, "", WSS_11_CONFIRMED),
    (false, Credential::UserName, PRESET, USER_NAME, WSS_11),
    (false, Credential::Certificate, PRESET, ENDORSED, WSS_11_CONFIRMED),
];

fn expected_policy(binding: Binding, credential: Credential) -> String {
    expected(binding, credential, "")
}

/// `of_session` are further assertions about the token of a session.
fn expected(binding: Binding, credential: Credential, of_session: &str) -> String {
    let (_, _, token, supporting, options) = FIRST
        .into_iter()
        .find(|(negotiate, of, ..)| *negotiate == binding.negotiate && *of == credential)
        .expect("a row");
    let first = format!(
        "sp:SymmetricBinding(sp:ProtectionToken({token}) {ALGORITHMS}){supporting} {options} {TRUST_10}"
    );
    match binding.establish {
        false => format!("{first} wsaw:UsingAddressing"),
        true => format!(
            "sp:SymmetricBinding(sp:ProtectionToken(sp:SecureConversationToken[AlwaysToRecipient]\
             (sp:RequireDerivedKeys sp:BootstrapPolicy({PARTS} {first}){of_session})) {ALGORITHMS}) {WSS_11} {TRUST_10} \
             wsaw:UsingAddressing"
        ),
    }
}

/// The same for clients of WS-Trust 1.3. WS-SecurityPolicy 1.2 has assertions for tokens that are signed and
/// encrypted (section 8.5), for WS-Trust 1.3 (10.1), and against Amend (5.4.7), which this service does not
/// have.
fn expected_policy_13(binding: Binding, credential: Credential) -> String {
    expected(binding, credential, " sp:MustNotSendAmend")
        .replace("sp:SignedSupportingTokens", "sp:SignedEncryptedSupportingTokens")
        .replace("sp:Trust10", "sp:Trust13")
        .replace("sp:", "sp12:")
        .replace("mssp12:", "mssp:")
}

fn echo() -> Contract {
    Contract::from_wsdl(ECHO_WSDL.as_bytes()).expect("a WSDL")
}

fn publish(settings: &mut Settings, certificates: &Certificates, contract: &Contract) {
    let certificate = service_certificate(certificates);
    settings.metadata =
        Some(Arc::new(Metadata::new(settings, contract, &certificate).expect("it is written")));
}

/// A service with metadata.
fn published(
    certificates: &Certificates,
    credential: Credential,
    contract: &Contract,
    change: impl FnOnce(&mut Settings),
) -> Service {
    service_with(certificates, &Binding::ALL, credential, |settings| {
        change(settings);
        publish(settings, certificates, contract);
    })
}

fn wsdl(service: &Service) -> Arc<[u8]> {
    service.metadata().expect("metadata").answer(Some("wsdl")).expect("a WSDL")
}

fn read(octets: &[u8]) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/peers/tlsnego_wsdl.py");
    let mut child = Command::new(PYTHON)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Debian's Python starts");
    child.stdin.take().expect("piped").write_all(octets).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(octets));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn each_binding_and_credential_has_the_policy_of_its_messages() {
    let certificates = Certificates::new();
    for credential in [Credential::None, Credential::UserName, Credential::Certificate] {
        let found = read(&wsdl(&published(&certificates, credential, &echo(), |_| {})));
        let ports = found["ports"].as_array().expect("ports");
        assert_eq!(ports.len(), 4);
        for (binding, name) in
            Binding::ALL.into_iter().zip(["NegotiatedSession", "Negotiated", "PresetSession", "Preset"])
        {
            let name = format!("{name}_IEcho");
            let port = ports.iter().find(|port| port["name"] == name).expect("a port");
            assert_eq!(port["policy"], expected_policy(binding, credential), "{binding:?} {credential:?}");
            assert_eq!(port["transport"], "http://schemas.xmlsoap.org/soap/http");
            assert_eq!(port["addresses"], json!([TO, TO]));
            assert_eq!(port["certificate"], dtyp::hex(&certificates.service.der));
            let advice = port["advice"].as_str().expect("a text");
            for part in [
                format!("negotiateServiceCredential {},", binding.negotiate),
                format!("establishSecurityContext {},", binding.establish),
                format!("clientCredentialType {credential:?},"),
            ] {
                assert!(advice.contains(&part), "{advice}");
            }
            for operation in port["operations"].as_array().expect("operations") {
                for message in operation["messages"].as_array().expect("messages") {
                    assert_eq!(message["policy"], PARTS);
                }
            }
        }
    }
}

/// A service that takes both versions has a port for each, and the second changes nothing of the first.
#[test]
fn a_service_of_both_versions_of_ws_trust_publishes_both() {
    let certificates = Certificates::new();
    for credential in [Credential::None, Credential::UserName, Credential::Certificate] {
        let found =
            read(&wsdl(&published(&certificates, credential, &echo(), |settings| settings.trust13 = true)));
        let ports = found["ports"].as_array().expect("ports");
        assert_eq!((ports.len(), &found["policies"]), (8, &json!(10)));
        for (binding, name) in
            Binding::ALL.into_iter().zip(["NegotiatedSession", "Negotiated", "PresetSession", "Preset"])
        {
            for (name, policy, parts, words) in [
                (format!("{name}_IEcho"), expected_policy(binding, credential), PARTS.to_owned(), "wsHttp"),
                (
                    format!("{name}13_IEcho"),
                    expected_policy_13(binding, credential),
                    PARTS.replace("sp:", "sp12:"),
                    "ws2007Http",
                ),
            ] {
                let port = ports.iter().find(|port| port["name"] == name).expect("a port");
                assert_eq!(port["policy"], policy, "{name} {credential:?}");
                assert_eq!(port["addresses"], json!([TO, TO]));
                assert!(port["advice"].as_str().expect("a text").starts_with(words), "{port}");
                for operation in port["operations"].as_array().expect("operations") {
                    for message in operation["messages"].as_array().expect("messages") {
                        assert_eq!(message["policy"], parts);
                    }
                }
            }
        }
    }
}

#[test]
fn only_open_bindings_have_a_port_and_a_policy() {
    let certificates = Certificates::new();
    for binding in Binding::ALL {
        let service = published(&certificates, Credential::UserName, &echo(), |settings| {
            settings.bindings = vec![binding, binding];
        });
        let found = read(&wsdl(&service));
        let ports = found["ports"].as_array().expect("ports");
        assert_eq!(ports.len(), 1, "{ports:?}");
        assert_eq!(ports[0]["policy"], expected_policy(binding, Credential::UserName));
        // That of the endpoint, and that of messages.
        assert_eq!(found["policies"], 2);
    }
}

#[test]
fn each_suite_is_named_as_ws_security_policy_names_it() {
    let certificates = Certificates::new();
    for (cipher, hash, name) in [
        (Cipher::Aes256, Hash::Sha1, "Basic256"),
        (Cipher::Aes192, Hash::Sha1, "Basic192"),
        (Cipher::Aes128, Hash::Sha1, "Basic128"),
        (Cipher::TripleDes, Hash::Sha1, "TripleDes"),
        (Cipher::Aes256, Hash::Sha256, "Basic256Sha256"),
        (Cipher::Aes192, Hash::Sha256, "Basic192Sha256"),
        (Cipher::Aes128, Hash::Sha256, "Basic128Sha256"),
        (Cipher::TripleDes, Hash::Sha256, "TripleDesSha256"),
    ] {
        let service = published(&certificates, Credential::None, &Contract::default(), |settings| {
            settings.suite = Suite { cipher, hash };
        });
        let found = read(&wsdl(&service));
        let policy = found["ports"][0]["policy"].as_str().expect("a policy");
        // Of the session, and of the token below it.
        assert_eq!(policy.matches(&format!("sp:AlgorithmSuite(sp:{name})")).count(), 2, "{policy}");
        assert_eq!(policy.matches("sp:AlgorithmSuite(").count(), 2, "{policy}");
    }
}

#[test]
fn operations_of_the_plain_service_are_taken_over_and_its_bindings_are_not() {
    let certificates = Certificates::new();
    let service = published(&certificates, Credential::UserName, &echo(), |settings| {
        settings.addresses.push(Address::new("http://inside.example/").expect("an address"));
    });
    let octets = wsdl(&service);
    let found = read(&octets);
    assert_eq!(found["target"], "urn:echo:service");
    assert_eq!(found["service"], "EchoService");
    assert_eq!(found["port_types"], json!(["IEcho"]), "forms have no place in SOAP");
    assert_eq!(found["elements"], json!(["Echo", "EchoResponse", "Refused"]));
    assert_eq!(found["references_below_port_types"], 0, "policies of the plain service do not hold");
    assert!(found["documentation"].as_str().expect("a text").contains("65,536 octets"));
    let text = std::str::from_utf8(&octets).expect("UTF-8");
    for absent in ["localhost", "Plain_policy", "inside.example", "urn:old", "urn:other", "urn:refused"] {
        assert!(!text.contains(absent), "{absent}");
    }
    let message = |kind, message, actions: &[&str], attributes| {
        let soap = if kind == "fault" { "fault" } else { "body" };
        json!({
            "kind": kind, "soap": soap, "message": message, "actions": actions, "policy": PARTS,
            "attributes": attributes,
        })
    };
    let literal = json!({ "use": "literal" });
    let fault = "http://www.w3.org/2005/08/addressing/soap/fault";
    for port in found["ports"].as_array().expect("ports") {
        assert_eq!(
            port["operations"],
            json!([
                {
                    "name": "Echo", "action": "urn:echo", "style": "document",
                    "messages": [
                        message("input", "EchoIn", &["urn:echo"], literal.clone()),
                        // In both bindings of WS-Addressing: what the gateway sends.
                        message("output", "EchoOut", &["urn:echoResponse", "urn:echoResponse"], literal.clone()),
                        message("fault", "Refused", &[fault], json!({ "name": "Refused", "use": "literal" })),
                    ],
                },
                {
                    // WS-Addressing 1.0 WSDL binding, section 4.4.4, and WSDL 1.1, section 2.4.5.
                    "name": "Tell", "action": "urn:echo:service:IEcho:Tell", "style": "rpc",
                    "messages": [message(
                        "input", "EchoIn", &["urn:echo:service:IEcho:Tell"],
                        json!({ "use": "literal", "namespace": "urn:tell" })
                    )],
                },
                {
                    "name": "Addressed", "action": "urn:addressed?a&b", "style": "document",
                    "messages": [
                        message("input", "EchoIn", &["urn:addressed?a&b", "urn:addressed?a&b"], literal.clone()),
                        message("output", "EchoOut", &["urn:addressed?a&bResponse"], literal.clone()),
                    ],
                },
            ])
        );
    }
}

#[test]
fn a_wsdl_without_a_binding_of_soap_1_2_gives_actions_as_well() {
    let certificates = Certificates::new();
    let without = |wsdl: &str, binding: &str| {
        let start = wsdl.find(&format!("<wsdl:binding name=\"{binding}\"")).expect("a binding");
        let end = start + wsdl[start..].find("</wsdl:binding>").expect("its end") + "</wsdl:binding>".len();
        format!("{}{}", &wsdl[..start], &wsdl[end..])
    };
    let actions = |wsdl: &str| {
        let contract = Contract::from_wsdl(wsdl.as_bytes()).expect("a WSDL");
        let found = read(&self::wsdl(&published(&certificates, Credential::None, &contract, |_| {})));
        let operations = found["ports"][0]["operations"].as_array().expect("operations").clone();
        let actions = operations.into_iter().map(|mut operation| operation["action"].take());
        (found["port_types"].clone(), actions.collect::<Value>())
    };
    let soap_11 = without(ECHO_WSDL, "New");
    let addressed = "urn:addressed?a&b";
    let tell = "urn:echo:service:IEcho:Tell";
    assert_eq!(actions(&soap_11), (json!(["IEcho"]), json!(["urn:old", tell, addressed])));
    // WS-Addressing 1.0 WSDL binding, section 4.4.4: the input of a request and response has a default name.
    let echo = "urn:echo:service:IEcho:EchoRequest";
    let expected = (json!(["IEcho", "EchoHttpPost"]), json!([echo, tell, addressed]));
    assert_eq!(actions(&without(&soap_11, "Old")), expected);
    // The delimiter of a target that is no URN is a slash, and there is one.
    let http = without(&soap_11, "Old").replace("\"urn:echo:service\"", "\"http://echo.example/a/\"");
    assert_eq!(actions(&http).1[0], "http://echo.example/a/IEcho/EchoRequest");
}

#[test]
fn a_service_of_unknown_operations_has_ports_without_operations() {
    let certificates = Certificates::new();
    let service = published(&certificates, Credential::Certificate, &Contract::default(), |settings| {
        // Escaped where it stands.
        settings.addresses = vec![Address::new("http://h.example/a&b<\"c\">'").expect("an address")];
    });
    let found = read(&wsdl(&service));
    assert_eq!(found["target"], "http://tempuri.org/");
    let ports = found["ports"].as_array().expect("ports");
    assert_eq!(ports.len(), 4);
    for (port, binding) in ports.iter().zip(Binding::ALL) {
        assert_eq!(port["policy"], expected_policy(binding, Credential::Certificate));
        assert_eq!(port["addresses"][0], "http://h.example/a&b<\"c\">'");
        assert_eq!(port["operations"], json!([]));
    }
}

#[test]
fn a_wsdl_that_clients_could_not_use_is_refused() {
    let refused = |wsdl: &str| Contract::from_wsdl(wsdl.as_bytes()).expect_err(wsdl).to_string();
    for (from, to, error) in [
        (" targetNamespace=\"urn:echo:service\"", "", "targetNamespace"),
        (
            "<wsdl:types>",
            "<wsdl:import namespace=\"urn:x\" location=\"?wsdl=wsdl0\"/><wsdl:types>",
            "singleWsdl",
        ),
        (
            "<xsd:simpleType name=\"Text\">",
            "<xsd:import namespace=\"urn:x\" schemaLocation=\"x.xsd\"/><xsd:simpleType name=\"Text\">",
            "schemaLocation",
        ),
        (
            "<soap12:body use=\"literal\" namespace",
            "<soap12:header message=\"tns:EchoIn\" part=\"parameters\" use=\"literal\"/><soap12:body use=\"literal\" \
             namespace",
            "input of operation \"Tell\": it has a header",
        ),
        ("<soap12:body use=\"literal\" namespace", "<soap12:body use=\"encoded\" namespace", "encoded"),
        ("<wsdl:operation name=\"Tell\">", "<wsdl:operation name=\"Echo\">", "same name"),
        ("<wsdl:operation name=\"Tell\">", "<wsdl:operation name=\"a b\">", "its name"),
        ("<wsdl:operation name=\"Tell\">", "<wsdl:operation>", "its name"),
        ("<wsdl:input message=\"tns:EchoIn\"/>", "", "first message"),
        (
            "<wsdl:operation name=\"Echo\">",
            "<wsdl:operation name=\"Echo\" wsp:PolicyURIs=\"#Plain_policy\">",
            "WS-Policy",
        ),
        ("type=\"tns:IEcho\"", "type=\"IEcho\"", "no port type"),
        ("<wsdl:definitions ", "<!DOCTYPE x [<!ENTITY e \"e\">]><wsdl:definitions ", "document type"),
        ("</wsdl:definitions>", "", "well-formed"),
    ] {
        assert!(ECHO_WSDL.contains(from), "{from}");
        let found = refused(&ECHO_WSDL.replacen(from, to, 1));
        assert!(found.contains(error), "{error}: {found}");
    }
    assert!(
        refused("<description xmlns=\"http://www.w3.org/ns/wsdl\"/>").contains("http://www.w3.org/ns/wsdl")
    );
    assert!(
        refused("<definitions xmlns=\"http://schemas.xmlsoap.org/wsdl/\" targetNamespace=\"urn:x\"/>")
            .contains("no operation")
    );
    let large = format!("{ECHO_WSDL}{}", " ".repeat(WSDL_MAX));
    assert!(matches!(Contract::from_wsdl(large.as_bytes()), Err(ContractError::Xml(_))));
    // Each message is published with all namespaces around it, so the result is longer.
    let uri = format!("urn:{}", "x".repeat(4_000));
    let messages: String = (0..300).map(|n| format!("<wsdl:message name=\"m{n}\"/>")).collect();
    let grows = ECHO_WSDL
        .replacen("<wsdl:definitions ", &format!("<wsdl:definitions xmlns:x=\"{uri}\" "), 1)
        .replacen("<wsdl:portType ", &format!("{messages}<wsdl:portType "), 1);
    let contract = Contract::from_wsdl(grows.as_bytes()).expect("a WSDL");
    let certificates = Certificates::new();
    service_with(&certificates, &Binding::ALL, Credential::None, |settings| {
        let error = Metadata::new(settings, &contract, &service_certificate(&certificates));
        assert_eq!(error.expect_err("too long"), ContractError::Xml(XmlError::TooLarge));
    });
    // .NET writes a byte order mark.
    Contract::from_wsdl(format!("\u{feff}{ECHO_WSDL}").as_bytes()).expect("a WSDL");
}

#[test]
fn a_get_reads_the_wsdl_by_the_query_alone() {
    let certificates = Certificates::new();
    let service = published(&certificates, Credential::None, &echo(), |_| {});
    let metadata = service.metadata().expect("metadata");
    for asks in ["wsdl", "WSDL", "singleWsdl", "singlewsdl"] {
        assert!(metadata.answer(Some(asks)).is_some(), "{asks}");
    }
    for other in [None, Some(""), Some("wsdl=wsdl0"), Some("xsd=xsd0"), Some("disco"), Some("wsdl&x")] {
        assert!(metadata.answer(other).is_none(), "{other:?}");
    }
    assert!(self::service(&certificates, &Binding::ALL, Credential::None).metadata().is_none());
}

/// A Get as Mono's MetadataExchangeClient sends it.
fn get(to: &str, action: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
         <s:Envelope xmlns:a=\"http://www.w3.org/2005/08/addressing\" xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\">\
         <s:Header><a:Action s:mustUnderstand=\"1\">{action}</a:Action>\
         <a:ReplyTo><a:Address>http://www.w3.org/2005/08/addressing/anonymous</a:Address></a:ReplyTo>\
         <a:To s:mustUnderstand=\"1\">{to}</a:To>\
         <a:MessageID>urn:uuid:e67b6aaa-89f3-4a44-869c-61aae1b4dbc2</a:MessageID></s:Header><s:Body /></s:Envelope>"
    )
}

const GET: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Get";

#[test]
fn metadata_exchange_answers_with_the_same_wsdl() {
    let certificates = Certificates::new();
    let service = published(&certificates, Credential::UserName, &echo(), |_| {});
    let expected = read(&wsdl(&service));
    for to in [TO.to_owned(), format!("{TO}/mex"), format!("{TO}/mex/")] {
        let said = post(&service, CONTENT_TYPE, get(&to, GET).as_bytes());
        assert_eq!(said.response.status, 200, "{to}");
        assert!(matches!(said.event, Some(Event::Metadata)));
        let mut found = read(&said.response.body);
        let found = found.as_object_mut().expect("an object");
        let header = found.remove("header").expect("headers");
        assert_eq!(header["a:Action"], "http://schemas.xmlsoap.org/ws/2004/09/transfer/GetResponse");
        assert_eq!(header["a:RelatesTo"], "urn:uuid:e67b6aaa-89f3-4a44-869c-61aae1b4dbc2");
        let section = found.remove("section").expect("a section");
        assert_eq!(
            section,
            json!({ "Dialect": "http://schemas.xmlsoap.org/wsdl/", "Identifier": "urn:echo:service" })
        );
        assert_eq!(Value::Object(found.clone()), expected);
    }
}

#[test]
fn metadata_is_for_those_who_ask_for_it_at_an_address_of_a_service_that_publishes() {
    let certificates = Certificates::new();
    let service = published(&certificates, Credential::None, &echo(), |_| {});
    let plain = self::service(&certificates, &Binding::ALL, Credential::None);
    let name = |service: &Service, to: &str, action: &str| {
        let said = post(service, CONTENT_TYPE, get(to, action).as_bytes());
        assert_eq!(said.response.status, 500);
        match said.event {
            Some(Event::Refused(refusal)) => refusal.name(),
            other => panic!("{other:?}"),
        }
    };
    let mex = format!("{TO}/mex");
    assert_eq!(name(&service, "https://other.example/echo", GET), "address");
    assert_eq!(name(&service, "https://other.example/echo/mex", GET), "address");
    assert_eq!(name(&service, &format!("{TO}/mex/mex"), GET), "address");
    // Only a Get is for the second address.
    assert_eq!(name(&service, &mex, "urn:echo"), "address");
    assert_eq!(name(&service, &mex, "http://schemas.xmlsoap.org/ws/2005/02/trust/RST/Issue"), "address");
    // Without metadata a Get is a message like others: it would have to be secured.
    assert_eq!(name(&plain, TO, GET), "security");
    assert_eq!(name(&plain, &mex, GET), "address");
    assert_eq!(name(&service, TO, "urn:echo"), "security");
    // Clients of a service that publishes are served as before.
    negotiate(&service, &certificates, Credential::None);
}
