//! Namespaces, actions and other fixed texts of messages.

use xml_security::names::Namespace;

/// WS-Policy, for `AppliesTo`.
pub(crate) const POLICY: Namespace =
    Namespace { prefix: "wsp", uri: "http://schemas.xmlsoap.org/ws/2004/09/policy" };

/// SOAP 1.1.
pub(crate) const SOAP_11: &str = "http://schemas.xmlsoap.org/soap/envelope/";
/// WS-Addressing of August 2004.
pub(crate) const ADDRESSING_2004: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing";
/// WS-ReliableMessaging of February 2005 and 1.1.
pub(crate) const RELIABLE: [&str; 2] =
    ["http://schemas.xmlsoap.org/ws/2005/02/rm", "http://docs.oasis-open.org/ws-rx/wsrm/200702"];
/// WS-Trust 1.3.
pub(crate) const TRUST_13: &str = "http://docs.oasis-open.org/ws-sx/ws-trust/200512";
/// `ValueType` of a BinaryExchange with SPNEGO.
pub(crate) const SPNEGO: &str = "http://schemas.xmlsoap.org/ws/2005/02/trust/spnego";

/// Action of a client's first leg.
pub(crate) const NEGOTIATE: &str = "http://schemas.xmlsoap.org/ws/2005/02/trust/RST/Issue";
/// Action of all other legs.
pub(crate) const NEGOTIATE_NEXT: &str = "http://schemas.xmlsoap.org/ws/2005/02/trust/RSTR/Issue";
/// Actions of RST/SCT: issue, renew, cancel.
pub(crate) const ESTABLISH: &str = "http://schemas.xmlsoap.org/ws/2005/02/trust/RST/SCT";
pub(crate) const ESTABLISHED: &str = "http://schemas.xmlsoap.org/ws/2005/02/trust/RSTR/SCT";
pub(crate) const RENEW: &str = "http://schemas.xmlsoap.org/ws/2005/02/trust/RST/SCT/Renew";
pub(crate) const RENEWED: &str = "http://schemas.xmlsoap.org/ws/2005/02/trust/RSTR/SCT/Renew";
pub(crate) const CANCEL: &str = "http://schemas.xmlsoap.org/ws/2005/02/trust/RST/SCT/Cancel";
pub(crate) const CANCELLED: &str = "http://schemas.xmlsoap.org/ws/2005/02/trust/RSTR/SCT/Cancel";

/// Get of WS-Transfer, by which metadata is read, and its answer.
pub(crate) const GET: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Get";
pub(crate) const GET_RESPONSE: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/GetResponse";

/// The computed key of RST/SCT.
pub(crate) const COMPUTED_KEY: &str = "http://schemas.xmlsoap.org/ws/2005/02/trust/CK/PSHA1";
/// `Type` of a BinarySecret with entropy.
pub(crate) const NONCE: &str = "http://schemas.xmlsoap.org/ws/2005/02/trust/Nonce";
/// `a:Address` of a sender that reads the HTTP response.
pub(crate) const ANONYMOUS: &str = "http://www.w3.org/2005/08/addressing/anonymous";
