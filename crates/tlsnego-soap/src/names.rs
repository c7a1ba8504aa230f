//! Namespaces, actions and other fixed texts of messages.

use std::borrow::Cow;
use tlsnego_service::names::{self, TRUST};
use xml_security::Spellings;
use xml_security::names::{CONVERSATION, Namespace};

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
/// WS-SecureConversation 1.3.
pub(crate) const CONVERSATION_13: &str = "http://docs.oasis-open.org/ws-sx/ws-secureconversation/200512";

const SPELLINGS_13: Spellings = &[(TRUST.uri, TRUST_13), (CONVERSATION.uri, CONVERSATION_13)];

/// Versions of WS-Trust and WS-SecureConversation. They differ in their URIs, and in what holds the last
/// response. All names in this crate are those of February 2005; a document spells them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TrustVersion {
    /// February 2005: `WSHttpBinding`.
    #[default]
    February2005,
    /// 1.3 of OASIS: `WS2007HttpBinding`.
    V13,
}

impl TrustVersion {
    /// How its documents spell the names of February 2005.
    pub(crate) const fn spellings(self) -> Spellings {
        match self {
            Self::February2005 => &[],
            Self::V13 => SPELLINGS_13,
        }
    }

    /// Action of the last leg, in the names of February 2005.
    pub(crate) const fn last_leg(self) -> &'static str {
        match self {
            Self::February2005 => NEGOTIATE_NEXT,
            Self::V13 => "http://schemas.xmlsoap.org/ws/2005/02/trust/RSTRC/IssueFinal",
        }
    }

    /// Whether the response to RST/SCT, Renew and Cancel stands in a collection.
    pub(crate) const fn collects(self) -> bool {
        matches!(self, Self::V13)
    }

    /// `ValueType` of a client's BinaryExchange.
    pub(crate) const fn value_type(self) -> &'static str {
        match self {
            Self::February2005 => names::TLSNEGO,
            Self::V13 => names::TLSNEGO_WITHOUT_SPACE,
        }
    }
}

/// A URI of 1.3 in the names of February 2005; any other as it is.
pub(crate) fn named(uri: Cow<'_, str>) -> Cow<'_, str> {
    let found = SPELLINGS_13.iter().find_map(|(name, other)| Some((name, uri.strip_prefix(other)?)));
    found.map(|(name, rest)| format!("{name}{rest}")).map_or(uri.clone(), Cow::Owned)
}
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
