//! What a peer is told when it is refused, and what the log has beside it.

use crate::names;
use std::fmt;
use xml_security::names::{CONVERSATION, Namespace, SECURITY};

/// A SOAP fault by its subcode. Its text tells nothing of the cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// `t:FailedAuthentication`: the TLS handshake failed, or the client certificate is missing or refused.
    NegotiationFailed,
    /// `t:InvalidRequest`: any other error of a negotiation, of RST/SCT, Renew or Cancel.
    InvalidRequest,
    /// `dnse:ServerTooBusy`: too many negotiations or pending sessions. The only fault of the receiver: the
    /// client may try again.
    ServerTooBusy,
    /// `c:BadContextToken`: the security context token is unknown, expired or cancelled.
    BadContextToken,
    /// `c:RenewNeeded`: the key passed its renewal time. The fault is secured under that key.
    RenewNeeded,
    /// `dnse:SecuritySessionAborted`: the session was dropped.
    SecuritySessionAborted,
    /// `o:FailedAuthentication`: a token in a secured message did not validate.
    FailedAuthentication,
    /// `o:InvalidSecurityToken`: a token could not be processed.
    InvalidSecurityToken,
    /// `o:InvalidSecurity`: anything else in a secured message.
    InvalidSecurity,
}

/// `Code` of a SOAP 1.2 fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultCode {
    /// `s:Sender`.
    Sender,
    /// `s:Receiver`.
    Receiver,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::NegotiationFailed,
        Self::InvalidRequest,
        Self::ServerTooBusy,
        Self::BadContextToken,
        Self::RenewNeeded,
        Self::SecuritySessionAborted,
        Self::FailedAuthentication,
        Self::InvalidSecurityToken,
        Self::InvalidSecurity,
    ];

    /// Whose fault it is.
    pub const fn code(self) -> FaultCode {
        match self {
            Self::ServerTooBusy => FaultCode::Receiver,
            _ => FaultCode::Sender,
        }
    }

    /// The subcode: its namespace and local name.
    pub const fn subcode(self) -> (Namespace, &'static str) {
        match self {
            Self::NegotiationFailed => (names::TRUST, "FailedAuthentication"),
            Self::InvalidRequest => (names::TRUST, "InvalidRequest"),
            Self::ServerTooBusy => (names::DOT_NET_SECURITY, "ServerTooBusy"),
            Self::BadContextToken => (CONVERSATION, "BadContextToken"),
            Self::RenewNeeded => (CONVERSATION, "RenewNeeded"),
            Self::SecuritySessionAborted => (names::DOT_NET_SECURITY, "SecuritySessionAborted"),
            Self::FailedAuthentication => (SECURITY, "FailedAuthentication"),
            Self::InvalidSecurityToken => (SECURITY, "InvalidSecurityToken"),
            Self::InvalidSecurity => (SECURITY, "InvalidSecurity"),
        }
    }

    /// `Reason` of the fault: the same for all causes.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NegotiationFailed | Self::FailedAuthentication => "Authentication failed.",
            Self::InvalidRequest => "The request was invalid or malformed.",
            Self::ServerTooBusy => "The server is too busy. Try again later.",
            Self::BadContextToken => "The security context token is not valid.",
            Self::RenewNeeded => "The security context token needs to be renewed.",
            Self::SecuritySessionAborted => "The security session was ended.",
            Self::InvalidSecurityToken => "The security token could not be processed.",
            Self::InvalidSecurity => "An error occurred when the security of the message was verified.",
        }
    }

    /// `a:Action` of the message that carries it.
    pub const fn action(self) -> &'static str {
        match self {
            Self::RenewNeeded | Self::SecuritySessionAborted => names::SESSION_FAULT_ACTION,
            _ => names::FAULT_ACTION,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.subcode().1)
    }
}

/// Why a peer is refused. For the log and for metrics, never for the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The trust element has no `Context`.
    #[error("the request has no Context")]
    NoContext,
    /// Its length, or a character that no URI has.
    #[error("the Context is not a URI of 1 to {} characters", names::CONTEXT_LEN_MAX)]
    BadContext,
    /// Another request type, token type, value type, algorithm, or more than a message may have.
    #[error("{what} is not one that is supported: {value:?}")]
    Unsupported {
        /// The element or attribute.
        what: &'static str,
        /// What the peer sent, shortened.
        value: String,
    },
    /// An element that has to be there is not, or is there twice.
    #[error("{0} is missing or repeated")]
    Missing(&'static str),
    /// No negotiation with this Context is alive, or it is answering another message.
    #[error("no negotiation with this Context waits for a message")]
    UnknownContext,
    /// A first leg with the Context of a negotiation that is alive.
    #[error("a negotiation with this Context is alive")]
    DuplicateContext,
    /// It was not finished in time.
    #[error("the negotiation was not finished in time")]
    TimedOut,
    /// Too many legs, or too many octets of TLS.
    #[error("the negotiation has more than {0}")]
    TooLong(&'static str),
    /// Too many negotiations at once.
    #[error("{0} negotiations are in progress")]
    TooManyNegotiations(usize),
    /// Too many sessions that were opened and never used.
    #[error("{0} sessions are pending")]
    TooManyPending(usize),
    /// Too many passwords at once.
    #[error(
        "{0} passwords wait for a check, the limit; there is room again when the account store or domain controller has checked one"
    )]
    TooManyPasswords(usize),
    /// What the message does happens only with a line of the audit log, and there is none.
    #[error("not audited: {0}")]
    NotAudited(String),
    /// The peer cannot do TLS 1.2.
    #[error(
        "the client offers {version} and no TLS 1.2: a client on .NET Framework needs a target of 4.7 or newer, \
         or the AppContext switch Switch.System.ServiceModel.DisableUsingServicePointManagerSecurityProtocols=false"
    )]
    OldTls {
        /// The newest version that it offers.
        version: &'static str,
    },
    /// The handshake failed.
    #[error("TLS handshake failed: {0}")]
    Tls(String),
    /// Application data, or octets behind the end, where there may be none.
    #[error("{0}")]
    UnexpectedData(&'static str),
    /// A client certificate is required, and there was none.
    #[error("the client showed no certificate")]
    NoCertificate,
    /// The caller refused the certificate.
    #[error("certificate rejected: {0}")]
    CertificateRejected(String),
    /// The proof key is not one whole record of the right length.
    #[error("the proof key is not one TLS record with a key of {0} bits")]
    ProofKey(u32),
    /// The authenticator is not that of the messages.
    #[error("the authenticator does not match the messages")]
    Authenticator,
    /// There is no such token, or its time is over, or it was cancelled, or another generation is named.
    #[error("unknown, expired or cancelled security context token")]
    UnknownToken,
    /// The token was dropped.
    #[error("the session was ended: {0}")]
    Ended(crate::session::EndReason),
    /// The key is due for renewal.
    #[error("the session key is due for renewal")]
    RenewalDue,
    /// Renew by another identity, or Cancel under another token.
    #[error("{0}")]
    NotAllowed(&'static str),
    /// The message was seen before.
    #[error("replayed message")]
    Replay,
    /// Too many failures.
    #[error("messages of this session failed to decrypt too often")]
    TooManyFailures,
    /// The cookie does not open, or is not this token's.
    #[error("cookie rejected: {0}")]
    Cookie(String),
    /// A store did not answer, or a store or a limit of this process is full.
    #[error("store unavailable or full: {0}")]
    Store(String),
}

impl Reason {
    /// One word for metrics and audit records.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NoContext => "no-context",
            Self::BadContext => "bad-context",
            Self::Unsupported { .. } => "unsupported",
            Self::Missing(_) => "missing",
            Self::UnknownContext => "unknown-context",
            Self::DuplicateContext => "duplicate-context",
            Self::TimedOut => "timed-out",
            Self::TooLong(_) => "too-long",
            Self::TooManyNegotiations(_) => "negotiations",
            Self::TooManyPending(_) => "pending",
            Self::TooManyPasswords(_) => "passwords",
            Self::NotAudited(_) => "audit",
            Self::OldTls { .. } => "old-tls",
            Self::Tls(_) => "tls",
            Self::UnexpectedData(_) => "unexpected-data",
            Self::NoCertificate => "no-certificate",
            Self::CertificateRejected(_) => "certificate",
            Self::ProofKey(_) => "proof-key",
            Self::Authenticator => "authenticator",
            Self::UnknownToken => "unknown-token",
            Self::Ended(_) => "ended",
            Self::RenewalDue => "renewal-due",
            Self::NotAllowed(_) => "not-allowed",
            Self::Replay => "replay",
            Self::TooManyFailures => "failures",
            Self::Cookie(_) => "cookie",
            Self::Store(_) => "store",
        }
    }

    /// What the peer is told. The one place that decides it.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::NoContext
            | Self::BadContext
            | Self::Unsupported { .. }
            | Self::Missing(_)
            | Self::UnknownContext
            | Self::DuplicateContext
            | Self::TimedOut
            | Self::TooLong(_)
            | Self::NotAllowed(_) => Fault::InvalidRequest,
            Self::TooManyNegotiations(_)
            | Self::TooManyPending(_)
            | Self::TooManyPasswords(_)
            | Self::NotAudited(_) => Fault::ServerTooBusy,
            Self::OldTls { .. }
            | Self::Tls(_)
            | Self::UnexpectedData(_)
            | Self::NoCertificate
            | Self::CertificateRejected(_)
            | Self::ProofKey(_)
            | Self::Authenticator => Fault::NegotiationFailed,
            Self::UnknownToken | Self::Cookie(_) => Fault::BadContextToken,
            Self::Ended(_) => Fault::SecuritySessionAborted,
            Self::RenewalDue => Fault::RenewNeeded,
            Self::Replay | Self::TooManyFailures | Self::Store(_) => Fault::InvalidSecurity,
        }
    }
}

/// Longest text of a peer in a reason.
const VALUE_LEN_MAX: usize = 128;

impl Reason {
    /// Another value of `what` than the supported ones. The value is shortened.
    pub fn unsupported(what: &'static str, value: &str) -> Self {
        Self::Unsupported { what, value: value.chars().take(VALUE_LEN_MAX).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_busy_server_is_the_receivers_fault_and_two_faults_have_their_own_action() {
        for fault in Fault::ALL {
            assert_eq!(fault.code() == FaultCode::Receiver, fault == Fault::ServerTooBusy, "{fault}");
            let is_of_session = matches!(fault, Fault::RenewNeeded | Fault::SecuritySessionAborted);
            assert_eq!(fault.action() == names::SESSION_FAULT_ACTION, is_of_session, "{fault}");
        }
    }

    #[test]
    fn what_failed_in_a_secured_message_is_not_told() {
        for reason in [Reason::Replay, Reason::TooManyFailures, Reason::Store("full".to_owned())] {
            assert_eq!(reason.fault(), Fault::InvalidSecurity);
        }
    }
}
