//! URIs and other fixed texts of WS-Trust and WS-SecureConversation of February 2005, as .NET Framework
//! writes them.

use xml_security::names::Namespace;

/// WS-Trust.
pub const TRUST: Namespace = Namespace { prefix: "t", uri: "http://schemas.xmlsoap.org/ws/2005/02/trust" };
/// .NET's own faults, and the cookie.
pub const DOT_NET_SECURITY: Namespace =
    Namespace { prefix: "dnse", uri: "http://schemas.microsoft.com/ws/2006/05/security" };
/// `ValueType` of BinaryExchange as .NET writes it: **with a leading space**, which is part of the
/// authenticator.
pub const TLSNEGO: &str = " http://schemas.xmlsoap.org/ws/2005/02/trust/tlsnego";
/// The same as the WS-Trust 1.3 dialect writes it. A server takes both, and echoes what it received.
pub const TLSNEGO_WITHOUT_SPACE: &str = "http://schemas.xmlsoap.org/ws/2005/02/trust/tlsnego";
/// `Algorithm` of the EncryptedKey with the proof key. It lies under `/2005/02/`, not `/ws/2005/02/`.
pub const TLS_WRAP: &str = "http://schemas.xmlsoap.org/2005/02/trust/tlsnego#TLS_Wrap";
/// Request type of a negotiation and of RST/SCT.
pub const ISSUE: &str = "http://schemas.xmlsoap.org/ws/2005/02/trust/Issue";
/// Request type of Renew.
pub const RENEW: &str = "http://schemas.xmlsoap.org/ws/2005/02/trust/Renew";
/// Request type of Cancel.
pub const CANCEL: &str = "http://schemas.xmlsoap.org/ws/2005/02/trust/Cancel";
/// Action of a fault.
pub const FAULT_ACTION: &str = "http://www.w3.org/2005/08/addressing/soap/fault";
/// Action of a fault of a session.
pub const SESSION_FAULT_ACTION: &str =
    "http://schemas.microsoft.com/ws/2006/05/security/SecureConversationFault";
/// Longest `Context` in characters, and longest name and instance of a token. Ours have 45, those of .NET 45
/// and more.
pub const CONTEXT_LEN_MAX: usize = 512;
