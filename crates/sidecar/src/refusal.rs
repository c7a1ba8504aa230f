//! Why a request is not let in.

use crate::limits::{CERTIFICATE_LEN_MAX, CHAIN_LEN_MAX, CHAIN_MAX};
use dtyp::NtStatus;
use http::StatusCode;
use rcmp_service::Reason;
use rcmp_service::trust::ChainError;

/// Why a request is not let in. Each has a stable name, for logs and metrics, and one of three meanings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// There was no client certificate.
    NoCertificate,
    /// The proxy did not accept the certificate.
    NotVerified,
    /// A header that only a proxy may set came under a name that this proxy does not set.
    Forged,
    /// No account, or one that may not be used.
    NotMapped(NotMapped),
    /// The chain leads to no anchor.
    Chain(ChainError),
    /// No route lets this one in.
    NotAllowed,
    /// The certificate is not strongly bound to the account, and the route wants that.
    NotStrong,
    /// The path can be read in more than one way, and routes go by paths.
    AmbiguousPath,
    /// The host is not the one of the TLS handshake.
    Misdirected,
    /// It could not be decided.
    Undecided(Undecided),
    /// The proxy's request is not as its configuration should make it.
    Broken(Broken),
}

/// Why a certificate maps no account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotMapped {
    /// By the mapping of this process.
    Reason(Reason),
    /// By the answer of the service that was asked over Netlogon.
    Status(NtStatus),
}

/// Why it could not be decided whether a certificate maps an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Undecided {
    /// By the mapping of this process, or by the way to the service that is asked.
    Reason(Reason),
    /// By the answer of the service that was asked over Netlogon.
    Status(NtStatus),
    /// The service that was asked reports success, and its answer cannot be read.
    InvalidAnswer,
    /// The service that was asked answers for another account than the certificate's.
    AnswerSidMismatch,
    /// The system gives no random number for the name of the decision.
    NoRandomness,
}

impl NotMapped {
    /// A stable name: that of the reason or of the status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reason(reason) => reason.name(),
            Self::Status(status) => name_of(status),
        }
    }
}

impl Undecided {
    /// A stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reason(reason) => reason.name(),
            Self::Status(status) => name_of(status),
            Self::InvalidAnswer => "answer_not_believed",
            Self::AnswerSidMismatch => "answer_sid_mismatch",
            Self::NoRandomness => "no_randomness",
        }
    }
}

const fn name_of(status: NtStatus) -> &'static str {
    match status.name() {
        Some(name) => name,
        None => "refused",
    }
}

impl From<Reason> for NotMapped {
    fn from(reason: Reason) -> Self {
        Self::Reason(reason)
    }
}

impl From<Reason> for Undecided {
    fn from(reason: Reason) -> Self {
        Self::Reason(reason)
    }
}

/// What is wrong with a proxy's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Broken {
    /// It does not show the secret.
    Secret,
    /// A header is there twice.
    Twice,
    /// The result of the verification is missing.
    NoVerification,
    /// It is none of the values it can have.
    Verification,
    /// Verification and certificate contradict each other.
    Contradiction,
    /// The certificate cannot be read.
    Certificate,
    /// `X-Forwarded-Client-Cert` is there and has no certificate in it.
    NoXfccCertificate,
    /// There is more than one certificate that could be the handshake's.
    ManyCertificates,
    /// The original host or path is missing.
    NoTarget,
    /// Too long.
    TooLong,
}

impl Broken {
    /// A stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Secret => "no_proxy_secret",
            Self::Twice => "duplicate_header",
            Self::NoVerification => "no_verification_header",
            Self::Verification => "unknown_verification",
            Self::Contradiction => "contradicting_headers",
            Self::Certificate => "unreadable_certificate",
            Self::NoXfccCertificate => "no_certificate_in_xfcc",
            Self::ManyCertificates => "many_certificates",
            Self::NoTarget => "no_original_target",
            Self::TooLong => "too_long",
        }
    }

    /// What the operator of the proxy can do.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Secret => "the proxy must send the listener's secret",
            Self::Twice => "the proxy must replace a client's copy of the header, not add to it",
            Self::NoVerification | Self::Verification => {
                "the proxy must pass on how it verified the certificate"
            }
            Self::Contradiction => {
                "the proxy passes on a certificate and says that there is none, or the reverse"
            }
            Self::Certificate => "the header is not in the dialect of the listener",
            Self::NoXfccCertificate => XFCC_ADVICE,
            Self::ManyCertificates => "the proxy must replace the header, not append to it",
            Self::NoTarget => {
                "routes are configured, so the proxy must pass on the original host and path, and a listener for envoy or client-cert needs target"
            }
            // A constant in a text: the compiler rejects the text when the constant changes.
            Self::TooLong => {
                const {
                    assert!(CERTIFICATE_LEN_MAX == 64 << 10 && CHAIN_MAX == 63 && CHAIN_LEN_MAX == 128 << 10);
                };
                "the certificate is longer than 64 KiB, or its chain has more than 63 certificates or 128 KiB"
            }
        }
    }
}

/// The setting of Envoy without which the header has a hash alone; also a line of an answer.
const XFCC_ANSWER: &str = "X-Forwarded-Client-Cert has no certificate: set cert: true in set_current_client_cert_details of Envoy\n";
const XFCC_ADVICE: &str = XFCC_ANSWER.trim_ascii_end();

/// What a refusal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is no client certificate.
    Anonymous,
    /// The client is not let in.
    Denied,
    /// Not decided.
    Broken,
}

impl Refusal {
    /// A stable name, for logs, metrics and the audit.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::NotVerified => "not_verified_by_proxy",
            Self::Forged => "forged_header",
            Self::NotMapped(why) => why.name(),
            Self::Undecided(why) => why.name(),
            Self::Chain(_) => "chain",
            Self::NotAllowed => "not_allowed",
            Self::NotStrong => "not_strong",
            Self::AmbiguousPath => "ambiguous_path",
            Self::Misdirected => "misdirected",
            Self::Broken(broken) => broken.name(),
        }
    }

    /// What it means.
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::NoCertificate => Outcome::Anonymous,
            Self::Undecided(_) | Self::Broken(_) => Outcome::Broken,
            _ => Outcome::Denied,
        }
    }

    /// The status of the answer: 401, 403 or 500, and in the TLS-terminating proxy 421 (RFC 9110, section
    /// 15.5.20).
    pub const fn status(self) -> StatusCode {
        match (self, self.outcome()) {
            (Self::Misdirected, _) => StatusCode::MISDIRECTED_REQUEST,
            (_, Outcome::Anonymous) => StatusCode::UNAUTHORIZED,
            (_, Outcome::Denied) => StatusCode::FORBIDDEN,
            (_, Outcome::Broken) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The text for the client or proxy. The log has more.
    pub const fn text(self) -> &'static str {
        match (self, self.outcome()) {
            (Self::Misdirected, _) => "this host is not served over this connection\n",
            (Self::Broken(Broken::NoXfccCertificate), _) => XFCC_ANSWER,
            (_, Outcome::Anonymous) => "a client certificate is needed\n",
            (_, Outcome::Denied) => "this certificate is not let in\n",
            (_, Outcome::Broken) => "who this is could not be decided\n",
        }
    }
}
