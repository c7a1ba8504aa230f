//! Why a request was answered as it was: one list for logs, metrics, audit and the status that the client is
//! told.

use crate::form::Method;
use crate::response_rejection::ResponseRejection;
use crate::trust::ChainError;
use dtyp::NtStatus;

/// Why a request was answered as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// An account was found by this method.
    Mapped(Method),
    /// The message cannot be decoded.
    MalformedRequest,
    /// The certificate cannot be decoded.
    MalformedCertificate,
    /// No method is both asked for and allowed.
    NoMethod,
    /// No method found an account.
    NoMatch,
    /// More than one account was found.
    Ambiguous,
    /// The certificate carries the SID of another account, or one that cannot be read.
    SidMismatch,
    /// The chain does not lead to an anchor.
    Chain(ChainError),
    /// The certificate, or one of its issuers, is revoked.
    Revoked,
    /// It is not known whether the certificate is revoked.
    RevocationUnknown,
    /// Only names match this account, and a strong mapping is required.
    NoStrongMapping,
    /// The account is found by names alone, and the certificate is older than the account.
    CertificateOlder,
    /// The CA is not granted what would map the certificate: a form, for this account, or a method.
    AuthorityNotAllowed,
    /// What would bind the certificate to an account counts only for a verified chain, and chains are not
    /// verified.
    NotVerified,
    /// The account is disabled.
    Disabled,
    /// The account is locked.
    Locked,
    /// The account is expired.
    Expired,
    /// The account may not log on at this hour.
    LogonHours,
    /// The asker may not ask.
    AskerDenied,
    /// The account is outside what the asker may be told of.
    OutOfScope,
    /// The asker has asked for too many certificates that map no account.
    MissRate,
    /// The lines of the asker have taken its part of the audit log.
    AuditBudget,
    /// The account belongs to a domain that is not served here.
    OtherDomain,
    /// The store knows that the account belongs to another domain, and no peer is that domain.
    HomeNotServed,
    /// The store could not answer.
    StoreUnavailable,
    /// An answer could not be built from what the store holds.
    Unanswerable,
    /// Audit is required and cannot be written.
    AuditUnavailable,
    /// Another domain found the account.
    Forwarded,
    /// Another domain refused, with this status.
    RefusedElsewhere {
        /// Its status, which the client gets unchanged.
        status: NtStatus,
        /// Whether that is final, or another server may be asked, as the domain says.
        authoritative: bool,
    },
    /// Another domain answered what it may not say.
    ResponseRejected(ResponseRejection),
    /// The domain is reached via another peer, and the answer has no valid signature of the account's own
    /// domain.
    Unproved,
    /// No server of the domain could be reached, or decide.
    NoLogonServers,
    /// The next domain has sent or passed this question already.
    Loop,
    /// The question has passed too many domains.
    ChainTooLong,
    /// The peer that asks may not ask about this domain through us.
    TransitDenied,
    /// The question asks by issuer only, and no peer that is asked has this issuer.
    NotForwarded,
    /// The question is for another domain, and the certificate or its issuer's name is longer than a request
    /// may have.
    TooLongToForward,
}

impl Reason {
    /// A stable name for logs, metrics and audit.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mapped(_) => "mapped",
            Self::MalformedRequest => "malformed_request",
            Self::MalformedCertificate => "malformed_certificate",
            Self::NoMethod => "no_method",
            Self::NoMatch => "no_match",
            Self::Ambiguous => "ambiguous",
            Self::SidMismatch => "sid_mismatch",
            Self::Chain(_) => "chain_refused",
            Self::Revoked => "revoked",
            Self::RevocationUnknown => "revocation_unknown",
            Self::NoStrongMapping => "no_strong_mapping",
            Self::CertificateOlder => "certificate_older_than_account",
            Self::AuthorityNotAllowed => "authority_not_allowed",
            Self::NotVerified => "not_verified",
            Self::Disabled => "disabled",
            Self::Locked => "locked",
            Self::Expired => "expired",
            Self::LogonHours => "logon_hours",
            Self::AskerDenied => "asker_denied",
            Self::OutOfScope => "out_of_scope",
            Self::MissRate => "asker_miss_rate",
            Self::AuditBudget => "asker_audit_budget",
            Self::OtherDomain => "other_domain",
            Self::HomeNotServed => "home_not_served",
            Self::StoreUnavailable => "store_unavailable",
            Self::Unanswerable => "unanswerable",
            Self::AuditUnavailable => "audit_unavailable",
            Self::Forwarded => "forwarded",
            Self::RefusedElsewhere { .. } => "refused_elsewhere",
            Self::ResponseRejected(_) => "response_rejected",
            Self::Unproved => "unproved",
            Self::NoLogonServers => "no_logon_servers",
            Self::Loop => "loop",
            Self::ChainTooLong => "chain_too_long",
            Self::TransitDenied => "transit_denied",
            Self::NotForwarded => "not_forwarded",
            Self::TooLongToForward => "too_long_to_forward",
        }
    }

    /// The reason in one sentence, for operators.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Mapped(Method::Upn) => "mapped by a name in the subjectAltName",
            Self::Mapped(Method::Subject) => {
                "mapped by issuer and subject, or by a strong form of altSecurityIdentities"
            }
            Self::Mapped(Method::Issuer) => "mapped by the issuer alone",
            Self::MalformedRequest => "the message cannot be decoded",
            Self::MalformedCertificate => "the certificate cannot be decoded",
            Self::NoMethod => "no mapping method is both asked for and allowed",
            Self::NoMatch => "no account matches",
            Self::Ambiguous => "more than one account matches",
            Self::SidMismatch => {
                "the certificate carries the SID of another account, or one that cannot be read"
            }
            Self::Chain(error) => error.text(),
            Self::Revoked => "the certificate, or one of its issuers, is revoked",
            Self::RevocationUnknown => "it is not known whether the certificate is revoked",
            Self::NoStrongMapping => {
                "only names match this account (weak mapping), and mapping.binding requires a strong mapping"
            }
            Self::CertificateOlder => {
                "the account is found by names alone, and the certificate is older than the account, or it is not known when the account was created"
            }
            Self::AuthorityNotAllowed => {
                "the CA is not granted the form or method that would map the certificate"
            }
            Self::NotVerified => {
                "what binds the certificate to an account counts only for a verified chain, and validation is off"
            }
            Self::Disabled => "the account is disabled",
            Self::Locked => "the account is locked",
            Self::Expired => "the account is expired",
            Self::LogonHours => "the account may not log on at this hour",
            Self::AskerDenied => "the machine account lacks the permission rcmp",
            Self::OutOfScope => {
                "the account is outside the scope of the machine account that asks, or privileged and not named in it"
            }
            Self::MissRate => {
                "the machine account is over its rate limit of misses: rpc.misses_per_s and misses_burst"
            }
            Self::AuditBudget => {
                "the machine account is over its budget of audit lines: audit.account_mib_per_hour, or a quarter of the free disk space"
            }
            Self::OtherDomain => "the account's domain is not served here",
            Self::HomeNotServed => {
                "the account belongs to another domain, and no [[peer]] that is asked is that domain"
            }
            Self::StoreUnavailable => "the account store could not answer",
            Self::Unanswerable => "the account cannot be put into an answer",
            Self::AuditUnavailable => "audit is required and cannot be written",
            Self::Forwarded => "mapped by the account's own domain",
            Self::RefusedElsewhere { .. } => "refused by the domain that was asked",
            Self::ResponseRejected(rejection) => rejection.text(),
            Self::Unproved => {
                "the domain is reached via another peer, and the answer has no valid signature of the account's own domain"
            }
            Self::NoLogonServers => "no server of the domain could be reached, or decide",
            Self::Loop => "loop: the next domain has sent or passed this question already",
            Self::ChainTooLong => "the question has passed too many domains",
            Self::TransitDenied => "the peer that asks may not ask about this domain through us",
            Self::NotForwarded => {
                "the question asks by issuer only, and no [[peer]] that is asked has this issuer in issuers"
            }
            Self::TooLongToForward => {
                "the account is another domain's, and the certificate or the name of its issuer is too long for a request to that domain"
            }
        }
    }

    /// What the client is told ([MS-RCMP] 3.5.2; the rest is our choice). `tell_restrictions` is the
    /// policy's.
    pub const fn status(self, tell_restrictions: bool) -> NtStatus {
        match self {
            Self::Mapped(_) | Self::Forwarded => NtStatus::SUCCESS,
            Self::RefusedElsewhere { status, .. } => status,
            // [MS-NRPC] 3, common rule C: no server that knows could be asked.
            Self::NoLogonServers | Self::Loop | Self::ChainTooLong => NtStatus::NO_LOGON_SERVERS,
            Self::ResponseRejected(ResponseRejection::MalformedResponse) => NtStatus::INVALID_NETWORK_RESPONSE,
            Self::MalformedRequest => NtStatus::INVALID_PARAMETER,
            Self::Disabled if tell_restrictions => NtStatus::ACCOUNT_DISABLED,
            Self::Locked if tell_restrictions => NtStatus::ACCOUNT_LOCKED_OUT,
            Self::Expired if tell_restrictions => NtStatus::ACCOUNT_EXPIRED,
            Self::LogonHours if tell_restrictions => NtStatus::INVALID_LOGON_HOURS,
            Self::AskerDenied => NtStatus::ACCESS_DENIED,
            Self::OtherDomain | Self::TransitDenied => NtStatus::NO_SUCH_USER,
            // Busy, and no denial: a certificate that would map must not be refused for others that do not.
            Self::StoreUnavailable | Self::RevocationUnknown | Self::MissRate | Self::AuditBudget => {
                NtStatus::DS_BUSY
            }
            Self::Unanswerable => NtStatus::INTERNAL_ERROR,
            Self::AuditUnavailable => NtStatus::INSUFFICIENT_RESOURCES,
            Self::MalformedCertificate
            | Self::NoMethod
            | Self::NoMatch
            | Self::Ambiguous
            | Self::SidMismatch
            | Self::Chain(_)
            | Self::Revoked
            // As if there were no account, so that the scope tells nothing of those outside.
            | Self::OutOfScope
            | Self::NoStrongMapping
            | Self::CertificateOlder
            | Self::AuthorityNotAllowed
            | Self::NotVerified
            | Self::HomeNotServed
            | Self::NotForwarded
            | Self::TooLongToForward
            | Self::ResponseRejected(_)
            | Self::Unproved
            | Self::Disabled
            | Self::Locked
            | Self::Expired
            | Self::LogonHours => NtStatus::LOGON_FAILURE,
        }
    }

    /// Whether another server need not be asked: everything but our own inability.
    pub const fn is_authoritative(self) -> bool {
        match self {
            Self::RefusedElsewhere { authoritative, .. } => authoritative,
            _ => !self.is_undecided(),
        }
    }

    /// Whether nothing was decided: something that is needed for it did not work.
    pub const fn is_undecided(self) -> bool {
        matches!(
            self,
            Self::StoreUnavailable
                | Self::RevocationUnknown
                | Self::Unanswerable
                | Self::AuditUnavailable
                | Self::MissRate
                | Self::AuditBudget
                | Self::NoLogonServers
                | Self::Loop
                | Self::ChainTooLong
                | Self::ResponseRejected(ResponseRejection::MalformedResponse)
        )
    }

    /// Whether an asker asked for what it is told nothing of. An asker that may ask nothing learns nothing by
    /// asking.
    pub const fn is_miss(self) -> bool {
        !self.is_undecided() && !matches!(self, Self::Mapped(_) | Self::Forwarded | Self::AskerDenied)
    }

    /// Whether our own store has no account for the certificate, so that another domain may have it.
    pub(crate) const fn leaves_room(self) -> bool {
        matches!(self, Self::NoMatch | Self::NoMethod | Self::Chain(_))
    }

    /// Whether the account was found, is the certificate's, and may not be used now.
    pub(crate) const fn is_restriction(self) -> bool {
        matches!(self, Self::Disabled | Self::Locked | Self::Expired | Self::LogonHours)
    }

    /// The number under which Windows' key distribution centres log the same (KB5014754, KB5057784).
    pub const fn event_id(self) -> Option<u16> {
        match self {
            Self::NoStrongMapping | Self::NotVerified => Some(39),
            Self::CertificateOlder => Some(40),
            Self::SidMismatch => Some(41),
            Self::AuthorityNotAllowed | Self::Chain(ChainError::UnknownIssuer | ChainError::BadSignature) => {
                Some(45)
            }
            _ => None,
        }
    }
}
