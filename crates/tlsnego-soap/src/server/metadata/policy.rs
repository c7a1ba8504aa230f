//! Policies of WS-SecurityPolicy 1.1 (July 2005) for WS-Trust of February 2005, and of WS-SecurityPolicy 1.2
//! for WS-Trust 1.3, in the spelling of WCF.
//!
//! Each binding of a service has one policy for its endpoint, and one for each message in it.

use crate::names::{POLICY, TrustVersion};
use crate::server::{Binding, Settings, confirms};
use tlsnego_service::session::Credential;
use xml_security::names::{ADDRESSING, Name, Namespace, UTILITY_ID};
use xml_security::{Cipher, Document, Hash, NodeId, Suite};

/// WS-SecurityPolicy 1.1.
const SECURITY_POLICY_11: Namespace =
    Namespace { prefix: "sp", uri: "http://schemas.xmlsoap.org/ws/2005/07/securitypolicy" };
/// WS-SecurityPolicy 1.2.
const SECURITY_POLICY_12: Namespace =
    Namespace { prefix: "sp12", uri: "http://docs.oasis-open.org/ws-sx/ws-securitypolicy/200702" };
/// Assertions that Microsoft adds to it: no specification has one for TLSNEGO.
const MICROSOFT: Namespace =
    Namespace { prefix: "mssp", uri: "http://schemas.microsoft.com/ws/2005/07/securitypolicy" };
/// The WSDL binding of WS-Addressing 1.0, as WCF reads and writes it.
pub(super) const ADDRESSING_WSDL: Namespace =
    Namespace { prefix: "wsaw", uri: "http://www.w3.org/2006/05/addressing/wsdl" };

/// `sp:IncludeToken`, behind the namespace: each request has the token (WS-SecurityPolicy 1.1, section
/// 5.1.1).
const ALWAYS_TO_RECIPIENT: &str = "AlwaysToRecipient";
/// No message has the token.
const NEVER: &str = "Never";

/// The headers of WS-Addressing. Those that a message has are signed.
const SIGNED_HEADERS: [&str; 7] = ["To", "From", "FaultTo", "ReplyTo", "MessageID", "RelatesTo", "Action"];

/// Declares the prefixes of policies at the root, so that each policy does not.
pub(super) fn declare(document: &mut Document, versions: &[TrustVersion]) {
    let root = document.root();
    let of_versions = versions.iter().map(|version| namespace(*version));
    for namespace in [POLICY, MICROSOFT, ADDRESSING_WSDL].into_iter().chain(of_versions) {
        document.declare(root, namespace.prefix, namespace.uri);
    }
}

/// That of the assertions.
const fn namespace(version: TrustVersion) -> Namespace {
    match version {
        TrustVersion::February2005 => SECURITY_POLICY_11,
        TrustVersion::V13 => SECURITY_POLICY_12,
    }
}

/// Writes policies for clients of one version of WS-Trust.
pub(super) struct Policies<'a> {
    pub(super) document: &'a mut Document,
    pub(super) version: TrustVersion,
}

impl Policies<'_> {
    /// Writes the policy of a binding's endpoint.
    pub(super) fn write_endpoint(&mut self, id: &str, settings: &Settings, binding: Binding) {
        let all = self.alternative(id);
        if binding.establish {
            let symmetric = self.nested(all, "SymmetricBinding");
            let protection = self.nested(symmetric, "ProtectionToken");
            let of = namespace(self.version);
            let token = self.token(protection, of, "SecureConversationToken", ALWAYS_TO_RECIPIENT);
            self.assert_that(token, "RequireDerivedKeys");
            let bootstrap = self.nested(token, "BootstrapPolicy");
            self.write_parts(bootstrap);
            self.write_first_token(bootstrap, settings, binding);
            if self.version == TrustVersion::V13 {
                // WS-SecureConversation 1.3 has Amend, which is not served.
                self.assert_that(token, "MustNotSendAmend");
            }
            self.write_algorithms(symmetric, settings.suite);
            self.write_options(all, false);
        } else {
            self.write_first_token(all, settings, binding);
        }
        self.document.append_element(all, ADDRESSING_WSDL.name("UsingAddressing"));
    }

    /// Writes the policy of a message, request or reply: its body and its headers of WS-Addressing are
    /// signed, and its body is encrypted.
    pub(super) fn write_message(&mut self, id: &str) {
        let all = self.alternative(id);
        self.write_parts(all);
    }

    /// The token that a client has first: negotiated, or a key encrypted to the service's certificate. With
    /// it come the credentials.
    fn write_first_token(&mut self, parent: NodeId, settings: &Settings, binding: Binding) {
        let of = namespace(self.version);
        let symmetric = self.nested(parent, "SymmetricBinding");
        let protection = self.nested(symmetric, "ProtectionToken");
        if binding.negotiate {
            let token = self.token(protection, MICROSOFT, "SslContextToken", ALWAYS_TO_RECIPIENT);
            self.assert_that(token, "RequireDerivedKeys");
            if settings.credential == Credential::Certificate {
                self.document.append_element(token, MICROSOFT.name("RequireClientCertificate"));
            }
        } else {
            let token = self.token(protection, of, "X509Token", NEVER);
            for assertion in ["RequireDerivedKeys", "RequireThumbprintReference", "WssX509V3Token10"] {
                self.assert_that(token, assertion);
            }
        }
        self.write_algorithms(symmetric, settings.suite);
        match settings.credential {
            Credential::UserName => {
                let tokens = self.nested(parent, self.encrypted_tokens());
                let token = self.token(tokens, of, "UsernameToken", ALWAYS_TO_RECIPIENT);
                self.assert_that(token, "WssUsernameToken10");
            }
            // In a negotiation the handshake has the client's certificate.
            Credential::Certificate if !binding.negotiate => {
                let tokens = self.nested(parent, "EndorsingSupportingTokens");
                let token = self.token(tokens, of, "X509Token", ALWAYS_TO_RECIPIENT);
                self.assert_that(token, "RequireThumbprintReference");
                self.assert_that(token, "WssX509V3Token10");
            }
            Credential::Certificate | Credential::None => {}
        }
        self.write_options(parent, confirms(binding.negotiate, settings.credential));
    }

    /// Supporting tokens that are signed and encrypted. WS-SecurityPolicy 1.1 has no assertion for them: WCF
    /// writes that of signed ones for a user name, and encrypts it.
    const fn encrypted_tokens(&self) -> &'static str {
        match self.version {
            TrustVersion::February2005 => "SignedSupportingTokens",
            TrustVersion::V13 => "SignedEncryptedSupportingTokens",
        }
    }

    /// What stands behind the token in a SymmetricBinding (WS-SecurityPolicy 1.1, section 7.4).
    fn write_algorithms(&mut self, symmetric: NodeId, suite: Suite) {
        let algorithms = self.nested(symmetric, "AlgorithmSuite");
        self.assert_that(algorithms, suite_name(suite));
        let layout = self.nested(symmetric, "Layout");
        self.assert_that(layout, "Strict");
        for assertion in ["IncludeTimestamp", "EncryptSignature", "OnlySignEntireHeadersAndBody"] {
            self.assert_that(symmetric, assertion);
        }
    }

    /// Options of WS-Security 1.1 and WS-Trust (WS-SecurityPolicy 1.1, sections 9.2 and 10.1; 1.2, section
    /// 10.1).
    fn write_options(&mut self, parent: NodeId, confirms: bool) {
        let wss = self.nested(parent, "Wss11");
        for assertion in [
            "MustSupportRefKeyIdentifier",
            "MustSupportRefIssuerSerial",
            "MustSupportRefThumbprint",
            "MustSupportRefEncryptedKey",
        ] {
            self.assert_that(wss, assertion);
        }
        if confirms {
            self.assert_that(wss, "RequireSignatureConfirmation");
        }
        let trust = match self.version {
            TrustVersion::February2005 => "Trust10",
            TrustVersion::V13 => "Trust13",
        };
        let trust = self.nested(parent, trust);
        for assertion in ["MustSupportIssuedTokens", "RequireClientEntropy", "RequireServerEntropy"] {
            self.assert_that(trust, assertion);
        }
    }

    fn write_parts(&mut self, parent: NodeId) {
        let signed = self.assert_that(parent, "SignedParts");
        self.assert_that(signed, "Body");
        for local in SIGNED_HEADERS {
            let header = self.assert_that(signed, "Header");
            self.document.set_attribute(header, Name::plain("Name"), local);
            self.document.set_attribute(header, Name::plain("Namespace"), ADDRESSING.uri);
        }
        let encrypted = self.assert_that(parent, "EncryptedParts");
        self.assert_that(encrypted, "Body");
    }

    /// The only alternative of a new policy.
    fn alternative(&mut self, id: &str) -> NodeId {
        let root = self.document.root();
        let policy = self.document.append_element(root, POLICY.name("Policy"));
        self.document.set_attribute(policy, UTILITY_ID, id);
        let one = self.document.append_element(policy, POLICY.name("ExactlyOne"));
        self.document.append_element(one, POLICY.name("All"))
    }

    fn assert_that(&mut self, parent: NodeId, assertion: &'static str) -> NodeId {
        self.document.append_element(parent, namespace(self.version).name(assertion))
    }

    /// An assertion with a policy in it, which is returned.
    fn nested(&mut self, parent: NodeId, assertion: &'static str) -> NodeId {
        let assertion = self.assert_that(parent, assertion);
        self.document.append_element(assertion, POLICY.name("Policy"))
    }

    /// A token assertion. Returns the policy in it.
    fn token(&mut self, parent: NodeId, of: Namespace, assertion: &'static str, include: &str) -> NodeId {
        let token = self.document.append_element(parent, of.name(assertion));
        let namespace = namespace(self.version);
        let include = format!("{}/IncludeToken/{include}", namespace.uri);
        self.document.set_attribute(token, namespace.name("IncludeToken"), &include);
        self.document.append_element(token, POLICY.name("Policy"))
    }
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
