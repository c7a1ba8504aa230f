//! Policies of WS-SecurityPolicy 1.1 (July 2005), in the spelling of WCF.
//!
//! Each binding of a service has one policy for its endpoint, and one for each message in it.

use crate::names::POLICY;
use crate::server::{Binding, Settings, confirms};
use tlsnego_service::session::Credential;
use xml_security::names::{ADDRESSING, Namespace, UTILITY_ID};
use xml_security::{Cipher, Document, Hash, NodeId, Suite};

/// WS-SecurityPolicy 1.1.
const SECURITY_POLICY: Namespace =
    Namespace { prefix: "sp", uri: "http://schemas.xmlsoap.org/ws/2005/07/securitypolicy" };
/// Assertions that Microsoft adds to it: no specification has one for TLSNEGO.
const MICROSOFT: Namespace =
    Namespace { prefix: "mssp", uri: "http://schemas.microsoft.com/ws/2005/07/securitypolicy" };
/// The WSDL binding of WS-Addressing 1.0, as WCF reads and writes it.
pub(super) const ADDRESSING_WSDL: Namespace =
    Namespace { prefix: "wsaw", uri: "http://www.w3.org/2006/05/addressing/wsdl" };

/// `sp:IncludeToken`: each request has the token (WS-SecurityPolicy 1.1, section 5.1.1).
const ALWAYS_TO_RECIPIENT: &str =
    "http://schemas.xmlsoap.org/ws/2005/07/securitypolicy/IncludeToken/AlwaysToRecipient";
/// `sp:IncludeToken`: no message has the token.
const NEVER: &str = "http://schemas.xmlsoap.org/ws/2005/07/securitypolicy/IncludeToken/Never";

/// The headers of WS-Addressing. Those that a message has are signed.
const SIGNED_HEADERS: [&str; 7] = ["To", "From", "FaultTo", "ReplyTo", "MessageID", "RelatesTo", "Action"];

/// Declares the prefixes of policies at the root, so that each policy does not.
pub(super) fn declare(document: &mut Document) {
    let root = document.root();
    for namespace in [POLICY, SECURITY_POLICY, MICROSOFT, ADDRESSING_WSDL] {
        document.declare(root, namespace.prefix, namespace.uri);
    }
}

/// Writes the policy of a binding's endpoint.
pub(super) fn write_endpoint(document: &mut Document, id: &str, settings: &Settings, binding: Binding) {
    let all = alternative(document, id);
    if binding.establish {
        let symmetric = nested(document, all, "SymmetricBinding");
        let protection = nested(document, symmetric, "ProtectionToken");
        let token =
            token(document, protection, SECURITY_POLICY, "SecureConversationToken", ALWAYS_TO_RECIPIENT);
        assert_that(document, token, "RequireDerivedKeys");
        let bootstrap = nested(document, token, "BootstrapPolicy");
        write_parts(document, bootstrap);
        write_first_token(document, bootstrap, settings, binding);
        write_algorithms(document, symmetric, settings.suite);
        write_options(document, all, false);
    } else {
        write_first_token(document, all, settings, binding);
    }
    document.append_element(all, ADDRESSING_WSDL.name("UsingAddressing"));
}

/// Writes the policy of a message, request or reply: its body and its headers of WS-Addressing are signed,
/// and its body is encrypted.
pub(super) fn write_message(document: &mut Document, id: &str) {
    let all = alternative(document, id);
    write_parts(document, all);
}

/// The token that a client has first: negotiated, or a key encrypted to the service's certificate. With it
/// come the credentials.
fn write_first_token(document: &mut Document, parent: NodeId, settings: &Settings, binding: Binding) {
    let symmetric = nested(document, parent, "SymmetricBinding");
    let protection = nested(document, symmetric, "ProtectionToken");
    if binding.negotiate {
        let token = token(document, protection, MICROSOFT, "SslContextToken", ALWAYS_TO_RECIPIENT);
        assert_that(document, token, "RequireDerivedKeys");
        if settings.credential == Credential::Certificate {
            document.append_element(token, MICROSOFT.name("RequireClientCertificate"));
        }
    } else {
        let token = token(document, protection, SECURITY_POLICY, "X509Token", NEVER);
        for assertion in ["RequireDerivedKeys", "RequireThumbprintReference", "WssX509V3Token10"] {
            assert_that(document, token, assertion);
        }
    }
    write_algorithms(document, symmetric, settings.suite);
    match settings.credential {
        // WS-SecurityPolicy 1.1 has no assertion for tokens that are signed and encrypted. WCF writes this one
        // for a user name, and encrypts it.
        Credential::UserName => {
            let tokens = nested(document, parent, "SignedSupportingTokens");
            let token = token(document, tokens, SECURITY_POLICY, "UsernameToken", ALWAYS_TO_RECIPIENT);
            assert_that(document, token, "WssUsernameToken10");
        }
        // In a negotiation the handshake has the client's certificate.
        Credential::Certificate if !binding.negotiate => {
            let tokens = nested(document, parent, "EndorsingSupportingTokens");
            let token = token(document, tokens, SECURITY_POLICY, "X509Token", ALWAYS_TO_RECIPIENT);
            assert_that(document, token, "RequireThumbprintReference");
            assert_that(document, token, "WssX509V3Token10");
        }
        Credential::Certificate | Credential::None => {}
    }
    write_options(document, parent, confirms(binding.negotiate, settings.credential));
}

/// What stands behind the token in a SymmetricBinding (WS-SecurityPolicy 1.1, section 7.4).
fn write_algorithms(document: &mut Document, symmetric: NodeId, suite: Suite) {
    let algorithms = nested(document, symmetric, "AlgorithmSuite");
    assert_that(document, algorithms, suite_name(suite));
    let layout = nested(document, symmetric, "Layout");
    assert_that(document, layout, "Strict");
    for assertion in ["IncludeTimestamp", "EncryptSignature", "OnlySignEntireHeadersAndBody"] {
        assert_that(document, symmetric, assertion);
    }
}

/// Options of WS-Security 1.1 and WS-Trust (WS-SecurityPolicy 1.1, sections 9.2 and 10.1).
fn write_options(document: &mut Document, parent: NodeId, confirms: bool) {
    let wss = nested(document, parent, "Wss11");
    for assertion in [
        "MustSupportRefKeyIdentifier",
        "MustSupportRefIssuerSerial",
        "MustSupportRefThumbprint",
        "MustSupportRefEncryptedKey",
    ] {
        assert_that(document, wss, assertion);
    }
    if confirms {
        assert_that(document, wss, "RequireSignatureConfirmation");
    }
    let trust = nested(document, parent, "Trust10");
    for assertion in ["MustSupportIssuedTokens", "RequireClientEntropy", "RequireServerEntropy"] {
        assert_that(document, trust, assertion);
    }
}

fn write_parts(document: &mut Document, parent: NodeId) {
    let signed = assert_that(document, parent, "SignedParts");
    assert_that(document, signed, "Body");
    for local in SIGNED_HEADERS {
        let header = assert_that(document, signed, "Header");
        set(document, header, "Name", local);
        set(document, header, "Namespace", ADDRESSING.uri);
    }
    let encrypted = assert_that(document, parent, "EncryptedParts");
    assert_that(document, encrypted, "Body");
}

/// The only alternative of a new policy.
fn alternative(document: &mut Document, id: &str) -> NodeId {
    let root = document.root();
    let policy = document.append_element(root, POLICY.name("Policy"));
    document.set_attribute(policy, UTILITY_ID, id);
    let one = document.append_element(policy, POLICY.name("ExactlyOne"));
    document.append_element(one, POLICY.name("All"))
}

fn assert_that(document: &mut Document, parent: NodeId, assertion: &'static str) -> NodeId {
    document.append_element(parent, SECURITY_POLICY.name(assertion))
}

/// An assertion with a policy in it, which is returned.
fn nested(document: &mut Document, parent: NodeId, assertion: &'static str) -> NodeId {
    let assertion = assert_that(document, parent, assertion);
    document.append_element(assertion, POLICY.name("Policy"))
}

/// A token assertion. Returns the policy in it.
fn token(
    document: &mut Document,
    parent: NodeId,
    namespace: Namespace,
    assertion: &'static str,
    include: &str,
) -> NodeId {
    let token = document.append_element(parent, namespace.name(assertion));
    document.set_attribute(token, SECURITY_POLICY.name("IncludeToken"), include);
    document.append_element(token, POLICY.name("Policy"))
}

fn set(document: &mut Document, element: NodeId, local: &'static str, value: &str) {
    document.set_attribute(element, xml_security::names::Name::plain(local), value);
}

/// Name of a suite (WS-SecurityPolicy 1.1, section 6.1).
pub(super) fn suite_name(suite: Suite) -> &'static str {
    match (suite.cipher, suite.hash) {
        (Cipher::Aes256, Hash::Sha1) => "Basic256",
        (Cipher::Aes192, Hash::Sha1) => "Basic192",
        (Cipher::Aes128, Hash::Sha1) => "Basic128",
        (Cipher::TripleDes, Hash::Sha1) => "TripleDes",
        (Cipher::Aes256, Hash::Sha256) => "Basic256Sha256",
        (Cipher::Aes192, Hash::Sha256) => "Basic192Sha256",
        (Cipher::Aes128, Hash::Sha256) => "Basic128Sha256",
        (Cipher::TripleDes, Hash::Sha256) => "TripleDesSha256",
    }
}
