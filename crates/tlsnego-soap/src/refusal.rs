//! What a peer is told when it is refused, and the cause for the log.

use tlsnego_service::fault::{Fault, FaultCode, Reason};
use tlsnego_service::names::FAULT_ACTION;
use xml_security::names::{ADDRESSING, Namespace};

/// A peer that speaks another dialect. Each has one status and one fault, and a text that names the setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// SOAP 1.1, as `basicHttpBinding` has it.
    Soap11,
    /// WS-Addressing of August 2004.
    Addressing2004,
    /// WS-Trust 1.3.
    Trust13,
    /// UTF-16, or any encoding but UTF-8.
    Encoding,
    /// MTOM.
    Mtom,
    /// .NET's binary encoding.
    BinaryXml,
    /// Another media type.
    ContentType,
    /// WS-ReliableMessaging.
    Reliable,
    /// Windows credentials, the default of `wsHttpBinding`.
    Spnego,
}

impl Dialect {
    /// What the client has to set. It tells nothing of a secret, so the client gets it, too.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Soap11 => "SOAP 1.1 is not supported: use wsHttpBinding instead of basicHttpBinding",
            Self::Addressing2004 => {
                "WS-Addressing of August 2004 is not supported: set messageVersion Soap12WSAddressing10"
            }
            Self::Trust13 => {
                "WS-Trust 1.3 is not supported: use wsHttpBinding instead of ws2007HttpBinding, or set messageSecurityVersion \
                 WSSecurity11WSTrustFebruary2005WSSecureConversationFebruary2005WSSecurityPolicy11"
            }
            Self::Encoding => "UTF-8 is the only encoding that is supported: set textEncoding utf-8",
            Self::Mtom => "MTOM is not supported: set messageEncoding Text",
            Self::BinaryXml => "the binary encoding is not supported: set messageEncoding Text",
            Self::ContentType => "the content type has to be application/soap+xml; charset=utf-8",
            Self::Reliable => "reliable messaging is not supported: set reliableSession enabled to false",
            Self::Spnego => {
                "Windows credentials are not supported: set clientCredentialType UserName, Certificate or None"
            }
        }
    }

    /// The same for the log. What the service could be set to instead is not for the client.
    const fn advice_for_the_log(self) -> &'static str {
        match self {
            Self::Trust13 => {
                "WS-Trust 1.3 is not supported: set trust13 of this service to true, or have the client use wsHttpBinding"
            }
            _ => self.advice(),
        }
    }

    /// One word for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Soap11 => "soap-1.1",
            Self::Addressing2004 => "addressing-2004",
            Self::Trust13 => "trust-1.3",
            Self::Encoding => "encoding",
            Self::Mtom => "mtom",
            Self::BinaryXml => "binary-xml",
            Self::ContentType => "content-type",
            Self::Reliable => "reliable-messaging",
            Self::Spnego => "spnego",
        }
    }
}

/// Why a message is refused. For the log and for metrics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another dialect.
    #[error("another dialect: {}", .0.name())]
    Dialect(Dialect),
    /// `a:To` is none of the service's addresses.
    #[error("the message is for {to:?}, and the addresses of this service are {addresses}")]
    Address {
        /// `a:To`, shortened.
        to: String,
        /// The configured addresses.
        addresses: String,
    },
    /// `a:ReplyTo` or `a:FaultTo` is another address.
    #[error("replies are only sent in the HTTP response, and a:{0} is another address")]
    NotAnonymous(&'static str),
    /// A header of WS-Addressing, by its local name, is not there.
    #[error("the header a:{0} is missing")]
    MissingHeader(&'static str),
    /// A header of WS-Addressing stands twice, or is no text of a sensible length.
    #[error("the header a:{0} is not valid")]
    InvalidHeader(&'static str),
    /// A header that has to be understood is not.
    #[error("the header {{{namespace}}}{local} has to be understood, and is not")]
    NotUnderstood {
        /// Its namespace, shortened.
        namespace: String,
        /// Its local name, shortened.
        local: String,
    },
    /// A negotiation, a session, or a message under it.
    #[error(transparent)]
    Trust(#[from] Reason),
    /// The message is no XML that is read, or is not secured as it has to be.
    #[error("{0}")]
    Security(#[from] xml_security::Reason),
    /// The message is secured, but not by what this service asks for.
    #[error("{0}")]
    Policy(&'static str),
    /// A user name with a wrong password. The name is shortened.
    #[error("wrong password, or unknown account: {0:?}")]
    Password(String),
    /// The certificate that endorses a message was refused.
    #[error("certificate rejected: {0}")]
    Certificate(String),
    /// What is to be sent cannot be written or secured.
    #[error("the reply cannot be written: {0}")]
    Reply(String),
}

/// A fault as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoapFault {
    /// HTTP status.
    pub status: u16,
    /// `a:Action`.
    pub action: &'static str,
    /// Local name of the code, in the namespace of SOAP.
    pub code: &'static str,
    /// Subcode, and the one below it.
    pub subcodes: [Option<(Namespace, &'static str)>; 2],
    /// Reason.
    pub text: &'static str,
}

impl SoapFault {
    const fn of(code: &'static str, subcode: Option<(Namespace, &'static str)>, text: &'static str) -> Self {
        Self { status: 500, action: FAULT_ACTION, code, subcodes: [subcode, None], text }
    }

    const fn sender(namespace: Namespace, local: &'static str, text: &'static str) -> Self {
        Self::of("Sender", Some((namespace, local)), text)
    }
}

impl From<Fault> for SoapFault {
    fn from(fault: Fault) -> Self {
        let code = match fault.code() {
            FaultCode::Sender => "Sender",
            FaultCode::Receiver => "Receiver",
        };
        Self { action: fault.action(), ..Self::of(code, Some(fault.subcode()), fault.text()) }
    }
}

impl Refusal {
    /// What the peer is told. The one place that decides it.
    pub fn fault(&self) -> SoapFault {
        match self {
            Self::Dialect(dialect) => Self::dialect_fault(*dialect),
            Self::Address { .. } => SoapFault::sender(
                ADDRESSING,
                "DestinationUnreachable",
                "The message is for another address than those of this service.",
            ),
            Self::NotAnonymous(_) => {
                let mut fault = SoapFault::sender(
                    ADDRESSING,
                    "InvalidAddressingHeader",
                    "Replies are only sent in the HTTP response.",
                );
                fault.subcodes[1] = Some((ADDRESSING, "OnlyAnonymousAddressSupported"));
                fault
            }
            Self::MissingHeader(_) => SoapFault::sender(
                ADDRESSING,
                "MessageAddressingHeaderRequired",
                "A required header of WS-Addressing is missing.",
            ),
            Self::InvalidHeader(_) => SoapFault::sender(
                ADDRESSING,
                "InvalidAddressingHeader",
                "A header of WS-Addressing is not valid.",
            ),
            Self::NotUnderstood { .. } => {
                SoapFault::of("MustUnderstand", None, "A header that has to be understood is not.")
            }
            Self::Trust(reason) => reason.fault().into(),
            Self::Security(_) | Self::Policy(_) => Fault::InvalidSecurity.into(),
            Self::Password(_) | Self::Certificate(_) => Fault::FailedAuthentication.into(),
            Self::Reply(_) => SoapFault::of("Receiver", None, "The reply could not be made."),
        }
    }

    fn dialect_fault(dialect: Dialect) -> SoapFault {
        let text = dialect.advice();
        match dialect {
            Dialect::Soap11 => SoapFault::of("VersionMismatch", None, text),
            Dialect::Addressing2004 => SoapFault::sender(ADDRESSING, "MessageAddressingHeaderRequired", text),
            Dialect::Trust13 | Dialect::Reliable => SoapFault::sender(ADDRESSING, "ActionNotSupported", text),
            Dialect::Encoding | Dialect::Mtom | Dialect::BinaryXml | Dialect::ContentType => {
                SoapFault { status: 415, ..SoapFault::of("Sender", None, text) }
            }
            Dialect::Spnego => SoapFault { text, ..Fault::InvalidRequest.into() },
        }
    }

    /// What to set, if a refusal is a difference of settings. For the log.
    pub fn advice(&self) -> Option<&'static str> {
        let without_scheme =
            |url: &str| Some(url.split_once("://")?.1.trim_end_matches('/').to_ascii_lowercase());
        match self {
            Self::Address { to, addresses } => {
                let to = Some(without_scheme(to)?);
                addresses.split(", ").any(|address| without_scheme(address) == to).then_some(
                    "http and https differ: add the URL that clients have to addresses, with https if TLS ends at a web server in front",
                )
            }
            Self::Security(xml_security::Reason::Algorithm(_))
            | Self::Trust(Reason::Unsupported { what: "KeySize", .. }) => {
                Some("set suite to the algorithmSuite of the client's binding")
            }
            Self::Dialect(dialect) => Some(dialect.advice_for_the_log()),
            _ => None,
        }
    }

    /// One word for metrics and audit records.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Dialect(dialect) => dialect.name(),
            Self::Address { .. } => "address",
            Self::NotAnonymous(_) => "reply-to",
            Self::MissingHeader(_) => "missing-header",
            Self::InvalidHeader(_) => "invalid-header",
            Self::NotUnderstood { .. } => "not-understood",
            Self::Trust(reason) => reason.name(),
            Self::Security(_) => "security",
            Self::Policy(_) => "policy",
            Self::Password(_) => "password",
            Self::Certificate(_) => "certificate",
            Self::Reply(_) => "reply",
        }
    }
}

/// Text of a peer for the log: shortened.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_of_settings_comes_with_the_setting() {
        let address = |to: &str, addresses: &str| {
            let refusal = Refusal::Address { to: to.to_owned(), addresses: addresses.to_owned() };
            refusal.advice().is_some_and(|advice| advice.contains("addresses"))
        };
        let ours = "http://other.example/a, https://orders.example/service";
        for to in
            ["http://orders.example/service", "HTTP://Orders.example/service/", "https://other.example/a"]
        {
            assert!(address(to, ours), "{to}");
        }
        for to in
            ["http://orders.example/other", "http://orders.example:8080/service", "http://", "orders", ""]
        {
            assert!(!address(to, ours), "{to}");
        }
        let suite = |refusal: Refusal| refusal.advice().is_some_and(|advice| advice.contains("suite"));
        assert!(suite(xml_security::Reason::Algorithm("DigestMethod").into()));
        assert!(suite(Reason::unsupported("KeySize", "128").into()));
        assert!(!suite(Reason::unsupported("RequestType", "128").into()));
        assert_eq!(Refusal::from(xml_security::Reason::Digest).advice(), None);
    }
}
