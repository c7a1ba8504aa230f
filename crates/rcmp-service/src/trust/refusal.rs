use super::Which;
use crate::der;
use std::fmt;

/// What stands in a remedy for the name of the configuration file.
pub const CONFIGURATION: &str = "CONFIGURATION";

/// Why a certificate has no verified path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChainError {
    /// No configured CA has the name of its issuer.
    UnknownIssuer,
    /// A configured CA has the name of its issuer, and another key.
    BadSignature,
    /// It is signed by an algorithm that is not accepted.
    UnsupportedAlgorithm,
    /// The key of a certificate is too short.
    WeakKey,
    /// The key of a certificate is of a kind that is not accepted.
    UnsupportedKey,
    /// It is expired.
    Expired,
    /// It is not valid yet.
    NotYetValid,
    /// An intermediate above it is expired.
    IssuerExpired,
    /// An intermediate above it is not valid yet.
    IssuerNotYetValid,
    /// The anchor above it is expired.
    AnchorExpired,
    /// The anchor above it is not valid yet.
    AnchorNotYetValid,
    /// Its extended key usage, or that of a CA above it, is for something else.
    NotForClientAuthentication,
    /// Its keyUsage does not allow digital signatures.
    NotForSigning,
    /// What issued it is no CA: its basicConstraints do not say so.
    NotACa,
    /// What issued it is a CA whose keyUsage lacks keyCertSign, such as a key for CRLs alone.
    NoKeyCertSign,
    /// It is itself a CA's.
    IsACa,
    /// More CAs are between it and its anchor than one of them allows.
    PathLength,
    /// More CAs are between it and its anchor than are accepted on any path.
    PathTooLong,
    /// Its names are not those that a CA above it may issue for.
    NameConstraints,
    /// A CA above it constrains a kind of name that is not supported, and there is such a name.
    UnsupportedNameConstraint,
    /// The path has none of the certificate policies that are required.
    NoExplicitPolicy,
    /// A CA above it maps anyPolicy to a policy, or a policy to anyPolicy.
    PolicyMapping,
    /// It, or a CA above it, has a critical extension that is not known.
    UnknownCritical,
    /// Its two signature algorithms differ.
    AlgorithmMismatch,
    /// It is of version 1 or 2.
    OldVersion,
    /// Its serial number is too long.
    SerialTooLong,
    /// An extension has more entries than are read.
    TooMany,
    /// It, or a CA above it, cannot be read.
    Malformed,
    /// There are too many ways to an anchor.
    TooComplex,
}

impl ChainError {
    /// All of them.
    pub const ALL: [Self; 29] = [
        Self::UnknownIssuer,
        Self::BadSignature,
        Self::UnsupportedAlgorithm,
        Self::WeakKey,
        Self::UnsupportedKey,
        Self::Expired,
        Self::NotYetValid,
        Self::IssuerExpired,
        Self::IssuerNotYetValid,
        Self::AnchorExpired,
        Self::AnchorNotYetValid,
        Self::NotForClientAuthentication,
        Self::NotForSigning,
        Self::NotACa,
        Self::NoKeyCertSign,
        Self::IsACa,
        Self::PathLength,
        Self::PathTooLong,
        Self::NameConstraints,
        Self::UnsupportedNameConstraint,
        Self::NoExplicitPolicy,
        Self::PolicyMapping,
        Self::UnknownCritical,
        Self::AlgorithmMismatch,
        Self::OldVersion,
        Self::SerialTooLong,
        Self::TooMany,
        Self::Malformed,
        Self::TooComplex,
    ];

    /// A stable name for logs, metrics and audit.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownIssuer => "unknown_issuer",
            Self::BadSignature => "bad_signature",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::WeakKey => "weak_key",
            Self::UnsupportedKey => "unsupported_key",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::IssuerExpired => "issuer_expired",
            Self::IssuerNotYetValid => "issuer_not_yet_valid",
            Self::AnchorExpired => "anchor_expired",
            Self::AnchorNotYetValid => "anchor_not_yet_valid",
            Self::NotForClientAuthentication => "not_for_client_authentication",
            Self::NotForSigning => "not_for_signing",
            Self::NotACa => "not_a_ca",
            Self::NoKeyCertSign => "no_key_cert_sign",
            Self::IsACa => "is_a_ca",
            Self::PathLength => "path_length",
            Self::PathTooLong => "path_too_long",
            Self::NameConstraints => "name_constraints",
            Self::UnsupportedNameConstraint => "unsupported_name_constraint",
            Self::NoExplicitPolicy => "no_explicit_policy",
            Self::PolicyMapping => "policy_mapping",
            Self::UnknownCritical => "unknown_critical",
            Self::AlgorithmMismatch => "algorithm_mismatch",
            Self::OldVersion => "old_version",
            Self::SerialTooLong => "serial_too_long",
            Self::TooMany => "too_many",
            Self::Malformed => "malformed",
            Self::TooComplex => "too_complex",
        }
    }

    /// The reason in a few words, for operators.
    pub const fn text(self) -> &'static str {
        match self {
            Self::UnknownIssuer => "no configured CA has the name of its issuer",
            Self::BadSignature => "its signature is not that of the configured CA with its issuer's name",
            Self::UnsupportedAlgorithm => "it is signed by an algorithm that is not accepted",
            Self::WeakKey => "the key of a certificate of the path is too short",
            Self::UnsupportedKey => "the key of a certificate of the path is of a kind that is not accepted",
            Self::Expired => "the certificate is expired",
            Self::NotYetValid => "the certificate is not valid yet",
            Self::IssuerExpired => "an intermediate CA above it is expired",
            Self::IssuerNotYetValid => "an intermediate CA above it is not valid yet",
            Self::AnchorExpired => "the anchor above it is expired",
            Self::AnchorNotYetValid => "the anchor above it is not valid yet",
            Self::NotForClientAuthentication => {
                "its extended key usage, or that of a CA above it, is for something else"
            }
            Self::NotForSigning => "its keyUsage does not allow digital signatures",
            Self::NotACa => "what issued it is no CA",
            Self::NoKeyCertSign => "the keyUsage of what issued it lacks keyCertSign",
            Self::IsACa => "it is the certificate of a CA",
            Self::PathLength => "more CAs are between it and its anchor than one of them allows",
            Self::PathTooLong => "more CAs are between it and its anchor than rcmpd accepts",
            Self::NameConstraints => "its names are not those that a CA above it may issue for",
            Self::UnsupportedNameConstraint => {
                "a CA above it constrains a kind of name that is not supported, and a certificate has such a name"
            }
            Self::NoExplicitPolicy => {
                "the path is valid for none of the certificate policies that are required"
            }
            Self::PolicyMapping => "a CA above it maps a policy to or from anyPolicy",
            Self::UnknownCritical => "it, or a CA above it, has a critical extension that is not known",
            Self::AlgorithmMismatch => "it names one signature algorithm inside and another one outside",
            Self::OldVersion => "it is of version 1 or 2, and only certificates of version 3 are accepted",
            Self::SerialTooLong => "its serial number is too long",
            Self::TooMany => "an extension of a certificate of the path has more entries than are read",
            Self::Malformed => "it, or a CA above it, cannot be read",
            Self::TooComplex => "there are too many ways from it to an anchor",
        }
    }

    /// What would give the certificate a path, with [`CONFIGURATION`] for the name of the file.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::UnknownIssuer => {
                "if its issuer is to be trusted, add the issuer's certificate to mapping.anchors or mapping.intermediates of CONFIGURATION and \
                 reload; otherwise it is refused rightly"
            }
            Self::BadSignature => {
                "if its issuer has a new key and is to be trusted, add the issuer's certificate with that key to mapping.anchors or \
                 mapping.intermediates of CONFIGURATION and reload; otherwise it is forged or damaged, and refused rightly"
            }
            Self::UnsupportedAlgorithm => {
                "issue it with ECDSA, Ed25519, ML-DSA or RSA, and SHA-256, SHA-384 or SHA-512; with RSASSA-PSS, MGF1 has to have the same hash"
            }
            Self::WeakKey => {
                "issue it for a longer key, or put a CA with a longer key in the place of that one; mapping.client_rsa_bits in CONFIGURATION is the \
                 shortest RSA key of clients"
            }
            Self::UnsupportedKey => {
                "use an RSA key of up to 8192 bits, one of the curves P-256, P-384 and P-521 by name and with a point that is not compressed, Ed25519 \
                 or ML-DSA"
            }
            Self::Expired => "only a new certificate helps: this one is expired",
            Self::NotYetValid => "wait until it is valid, or look at the clock of this machine",
            Self::IssuerExpired => {
                "put the CA's present certificate in the place of the expired one in mapping.intermediates of CONFIGURATION, and reload"
            }
            Self::AnchorExpired => {
                "put the CA's present certificate in the place of the expired one in mapping.anchors of CONFIGURATION, and reload"
            }
            Self::IssuerNotYetValid | Self::AnchorNotYetValid => {
                "wait until the CA's certificate is valid, or look at the clock of this machine"
            }
            Self::NotForClientAuthentication => {
                "issue it, and the CAs above it, for client authentication, or add its purpose to mapping.extended_key_usage in CONFIGURATION"
            }
            Self::NotForSigning => {
                "issue it with digitalSignature in keyUsage: a TLS client signs with its key"
            }
            Self::NotACa => "issue it by a CA: the certificate above it is a person's or a machine's",
            Self::NoKeyCertSign => {
                "issue it by the CA's own key: the key that issued it may sign CRLs alone, or renew the CA with keyCertSign in keyUsage"
            }
            Self::IsACa => "use the certificate of a person or a machine: this one is a CA's",
            Self::PathLength => {
                "issue it from a CA nearer to the anchor, or renew the CA whose pathLenConstraint is too small"
            }
            Self::PathTooLong => {
                "issue it from a CA nearer to the anchor, or configure a CA that is nearer as an anchor"
            }
            Self::NameConstraints => {
                "issue it with names that all CAs above it may issue for, or renew the CA with other name constraints"
            }
            Self::UnsupportedNameConstraint => {
                "renew the CA without constraints on that kind of name, or issue the certificate without such a name"
            }
            Self::NoExplicitPolicy => {
                "issue it with a policy that every CA above it is certified for; see policies and require_explicit_policy in [mapping] and \
                 [[mapping.authority]] of CONFIGURATION, and policyConstraints of the CAs"
            }
            Self::PolicyMapping => "renew the CA without a mapping to or from anyPolicy",
            Self::UnknownCritical => {
                "issue it, or the CA, without that extension, or with one that is not critical; of certificatePolicies only the qualifiers CPS and \
                 user notice are known"
            }
            Self::AlgorithmMismatch => {
                "only a new certificate helps: this one is damaged, forged, or made by a faulty CA"
            }
            Self::OldVersion => {
                "issue it again with extensions, which makes it version 3: `openssl x509 -req` makes version 1 without -extfile"
            }
            Self::SerialTooLong => "issue it again with a serial number of at most 20 octets",
            Self::TooMany => "issue it, or the CA, with fewer entries in that extension",
            Self::Malformed => {
                "only a new certificate helps: what is wrong is in this one, or in that of a CA above it"
            }
            Self::TooComplex => {
                "remove CAs from mapping.intermediates of CONFIGURATION that no certificate needs"
            }
        }
    }

    /// Whether the same certificate may have a path at another time, or be refused for another reason.
    const fn depends_on_time(self) -> bool {
        matches!(
            self,
            Self::Expired
                | Self::NotYetValid
                | Self::IssuerExpired
                | Self::IssuerNotYetValid
                | Self::AnchorExpired
                | Self::AnchorNotYetValid
                | Self::TooComplex
        )
    }
}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for ChainError {}

/// What a refusal is about, beside the rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Detail {
    /// Nothing more.
    #[default]
    None,
    /// An extension.
    Extension(ExtensionId),
    /// A limit.
    Limit {
        /// What is counted.
        what: &'static str,
        /// How many are accepted: at most, or, for the length of a key, at least.
        limit: u32,
        /// How many there are.
        found: u32,
    },
    /// A signature algorithm.
    Algorithm(ExtensionId),
    /// A kind of name (GeneralName, RFC 5280 4.2.1.6).
    NameForm(&'static str),
    /// What is wrong with a key.
    Key(&'static str),
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Extension(id) => write!(f, "extension {id}"),
            Self::Algorithm(id) => write!(f, "algorithm {id}"),
            Self::Limit { what, limit, found } => write!(f, "{what}: {found}, limit {limit}"),
            Self::NameForm(what) | Self::Key(what) => f.write_str(what),
        }
    }
}

/// Contents octets of an object identifier, as far as they fit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExtensionId {
    len: u8,
    octets: [u8; Self::LEN_MAX],
}

impl ExtensionId {
    /// Most octets that are kept; Microsoft's are ten octets long.
    const LEN_MAX: usize = 30;

    pub(super) fn new(contents: &[u8]) -> Self {
        let mut octets = [0; Self::LEN_MAX];
        let len = contents.len().min(Self::LEN_MAX);
        octets[..len].copy_from_slice(&contents[..len]);
        Self { len: contents.len().min(Self::LEN_MAX + 1) as u8, octets }
    }
}

/// In dotted decimal; one that is too long is told as such.
impl fmt::Display for ExtensionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.octets.get(..usize::from(self.len)).and_then(der::dotted) {
            Some(dotted) => f.write_str(&dotted),
            None => f.write_str("with an identifier that cannot be printed"),
        }
    }
}

impl fmt::Debug for ExtensionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExtensionId({self})")
    }
}

/// A rule that a certificate breaks, before it is known where on a path the certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) error: ChainError,
    pub(super) detail: Detail,
}

impl Fault {
    pub(super) fn extension(error: ChainError, id: &[u8]) -> Self {
        Self { error, detail: Detail::Extension(ExtensionId::new(id)) }
    }

    pub(super) fn algorithm(id: &[u8]) -> Self {
        Self { error: ChainError::UnsupportedAlgorithm, detail: Detail::Algorithm(ExtensionId::new(id)) }
    }

    pub(super) fn limit(error: ChainError, what: &'static str, limit: usize, found: usize) -> Self {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Self { error, detail: Detail::Limit { what, limit: number(limit), found: number(found) } }
    }

    pub(super) const fn at(self, which: Which, depth: usize) -> Refusal {
        let is_temporary = self.error.depends_on_time();
        Refusal { error: self.error, which, depth: depth as u8, detail: self.detail, is_temporary }
    }
}

impl From<ChainError> for Fault {
    fn from(error: ChainError) -> Self {
        Self { error, detail: Detail::None }
    }
}

/// Why a certificate has no verified path, and which certificate of the path it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The rule.
    pub error: ChainError,
    /// The certificate that breaks it.
    pub which: Which,
    /// Where that certificate is: 0 for the one that was asked about, 1 for its issuer.
    pub depth: u8,
    /// What else is known.
    pub detail: Detail,
    /// Whether the certificate may have a path at another time, by whichever way.
    pub(super) is_temporary: bool,
}

impl Refusal {
    /// The reason in words; `subject` is the name of the certificate that it is about, where it is a CA's.
    pub fn text(&self, subject: Option<&str>) -> String {
        let mut facts = Vec::new();
        if self.depth > 0 {
            let subject = subject.map(|subject| format!(": {subject}")).unwrap_or_default();
            facts.push(format!("CA at depth {}{subject}", self.depth));
        }
        if self.detail != Detail::None {
            facts.push(self.detail.to_string());
        }
        match facts.is_empty() {
            true => self.error.text().to_owned(),
            false => format!("{} ({})", self.error.text(), facts.join("; ")),
        }
    }

    /// Of several ways to an anchor that all fail, the reason of the one that got furthest is told. The order
    /// is total, so that it does not depend on the order of the configuration.
    pub(super) fn rank(&self) -> (u8, ChainError, u8, Detail, [u8; 32]) {
        let stage = match self.error {
            ChainError::TooComplex => 5,
            ChainError::NameConstraints
            | ChainError::UnsupportedNameConstraint
            | ChainError::NoExplicitPolicy
            | ChainError::PolicyMapping => 4,
            ChainError::PathLength | ChainError::NotForClientAuthentication => 3,
            ChainError::IssuerExpired
            | ChainError::IssuerNotYetValid
            | ChainError::AnchorExpired
            | ChainError::AnchorNotYetValid => 2,
            _ => 1,
        };
        let key = match self.which {
            Which::Leaf => [0; 32],
            Which::Authority(key) => key.0,
        };
        (stage, self.error, self.depth, self.detail, key)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(None))
    }
}

impl std::error::Error for Refusal {}
