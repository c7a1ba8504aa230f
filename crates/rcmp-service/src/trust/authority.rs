use super::RSA_BITS_MIN;
use super::constraints::Names;
use super::extensions::{
    BASIC_CONSTRAINTS, KEY_USAGE, SIGNS_CERTIFICATES, SIGNS_CRLS, basic_constraints, extended_key_usages,
    key_usage,
};
use super::hashes::Hashes;
use super::name::Name;
use super::profile::{Profile, Role};
use super::refusal::{ChainError, Detail, Fault};
use super::signature::{check_key, subject_public_key};
use crate::certificate::Certificate;
use dtyp::{DecodeError, FileTime};
use sha2::{Digest, Sha256};
use std::fmt;

/// SHA-256 of a CA's encoded SubjectPublicKeyInfo: an issuer is its key, never its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 32]);

impl KeyId {
    /// A certificate's key.
    pub fn of(certificate: &Certificate<'_>) -> Self {
        Self(Sha256::digest(certificate.public_key).into())
    }
}

/// In hex.
impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&dtyp::hex(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A CA that the operator configured.
#[derive(Clone, Debug)]
pub struct Authority {
    /// The hash of its public key, by which a CA is known.
    pub key: KeyId,
    /// Its name, as text; `#` and the hex of its encoding where a value in it cannot be read.
    pub subject: String,
    /// Its name, as it is encoded.
    pub name: Vec<u8>,
    /// Whether a path may end here.
    pub is_anchor: bool,
    /// The whole certificate, in DER.
    pub der: Vec<u8>,
    /// Start of its certificate's validity.
    pub not_before: FileTime,
    /// End of its certificate's validity.
    pub not_after: FileTime,
    /// Its key as it is encoded: a SubjectPublicKeyInfo.
    pub(super) public_key: Vec<u8>,
    /// Hashes of its key, by which OCSP knows it.
    pub(super) ocsp_key_hashes: Hashes,
    pub(super) signs_crls: bool,
    /// Whether it is the certificate of a key that signs CRLs for the CA of its name, and no certificates.
    pub(super) is_list_signer: bool,
    /// Its name and its issuer's, as names are compared.
    pub(super) subject_name: Name,
    pub(super) issuer_name: Name,
    /// Contents of its subjectKeyIdentifier, by which the certificates that it issued may name it.
    pub(super) key_identifier: Option<Vec<u8>>,
    /// What its certificate says of paths through it, or why none leads through it.
    pub(super) profile: Result<Profile, Fault>,
    /// Its names, for the constraints of the CAs above it.
    pub(super) names: Result<Names, Fault>,
}

impl Authority {
    pub(super) fn new(encoded: Vec<u8>, is_anchor: bool) -> Result<Self, Unusable> {
        let certificate = Certificate::parse(&encoded)?;
        let key_usage = key_usage(&certificate)?;
        let is_list_signer = !is_anchor
            && key_usage.is_some_and(|bits| bits & (SIGNS_CERTIFICATES | SIGNS_CRLS) == SIGNS_CRLS);
        if !basic_constraints(&certificate)?.0 && !is_list_signer {
            return Err(Unusable::NotACa);
        }
        if key_usage.is_some_and(|bits| bits & SIGNS_CERTIFICATES == 0) && !is_list_signer {
            return Err(Unusable::NoKeyCertSign);
        }
        extended_key_usages(&certificate)?;
        let role = if is_anchor { Role::Anchor } else { Role::Other };
        let profile = Profile::read(&certificate, role);
        if let Err(fault @ Fault { error: ChainError::UnknownCritical, .. }) = profile {
            return Err(Unusable::Refused(fault.error, fault.detail));
        }
        let profile = profile.and_then(|profile| {
            check_key(certificate.public_key, RSA_BITS_MIN)?;
            Ok(profile)
        });
        // Nothing but paths can do with less.
        let profile = match (is_list_signer, profile) {
            (true, Ok(_)) => Err(Fault::extension(ChainError::NoKeyCertSign, KEY_USAGE)),
            (true, Err(fault)) => return Err(Unusable::Refused(fault.error, fault.detail)),
            (false, profile) => profile,
        };
        Self::assemble(&certificate, (is_anchor, is_list_signer), profile)
    }

    /// One that a client sent. What a configured CA is refused for is a fault of each path through this one.
    pub(super) fn sent(certificate: Certificate<'_>) -> Result<Self, Unusable> {
        let profile = Profile::read(&certificate, Role::Other).and_then(|profile| {
            if !profile.is_ca {
                return Err(Fault::extension(ChainError::NotACa, BASIC_CONSTRAINTS));
            }
            if profile.key_usage.is_some_and(|bits| bits & SIGNS_CERTIFICATES == 0) {
                return Err(Fault::extension(ChainError::NoKeyCertSign, KEY_USAGE));
            }
            check_key(certificate.public_key, RSA_BITS_MIN)?;
            Ok(profile)
        });
        Self::assemble(&certificate, (false, false), profile)
    }

    fn assemble(
        certificate: &Certificate<'_>,
        (is_anchor, is_list_signer): (bool, bool),
        profile: Result<Profile, Fault>,
    ) -> Result<Self, Unusable> {
        let key = subject_public_key(certificate.public_key)?.1;
        Ok(Self {
            key: KeyId::of(certificate),
            subject: subject_text(certificate),
            name: certificate.subject.to_vec(),
            is_anchor,
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            public_key: certificate.public_key.to_vec(),
            ocsp_key_hashes: Hashes::of(key),
            signs_crls: key_usage(certificate)?.is_none_or(|bits| bits & SIGNS_CRLS != 0),
            is_list_signer,
            subject_name: Name::read(certificate.subject)?,
            issuer_name: Name::read(certificate.issuer)?,
            key_identifier: certificate.subject_key_identifier().ok().flatten().map(<[u8]>::to_vec),
            profile,
            names: Names::of(certificate),
            der: certificate.encoded.to_vec(),
        })
    }
}

/// The subject as text. A name that is no text is a name all the same, and is compared by its bytes.
pub(super) fn subject_text(certificate: &Certificate<'_>) -> String {
    certificate
        .subject_name()
        .map_or_else(|_| format!("#{}", dtyp::hex(certificate.subject)), |name| name.to_string())
}

impl Authority {
    /// Why no path leads through a CA, if none does: its key is too short, or an extension cannot be read.
    pub fn closed(&self) -> Option<String> {
        let Fault { error, detail } = self.profile.as_ref().err()?;
        Some(match detail {
            Detail::None => error.text().to_owned(),
            detail => format!("{} ({detail})", error.text()),
        })
    }
}

/// Why a configured certificate cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It cannot be read.
    Malformed(DecodeError),
    /// It breaks a rule of certificates.
    Refused(ChainError, Detail),
    /// Its basicConstraints do not say that it is a CA.
    NotACa,
    /// Its keyUsage does not allow to sign certificates.
    NoKeyCertSign,
    /// No configured CA issued it.
    NoIssuer,
    /// It is not among the anchors and intermediates.
    NotConfigured,
    /// There is another of its kind.
    Duplicate,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => write!(f, "cannot be read: {error}"),
            Self::Refused(error, Detail::None) => write!(f, "cannot be used: {}", error.text()),
            Self::Refused(error, detail) => write!(f, "cannot be used: {} ({detail})", error.text()),
            Self::NotACa => f.write_str("is no CA: its basicConstraints do not say so"),
            Self::NoKeyCertSign => f.write_str("may not sign certificates: its keyUsage lacks keyCertSign"),
            Self::NoIssuer => f.write_str("is not issued by any configured anchor or intermediate"),
            Self::NotConfigured => f.write_str("is not among the anchors and intermediates"),
            Self::Duplicate => f.write_str("is configured twice"),
        }
    }
}

impl std::error::Error for Unusable {}

impl From<DecodeError> for Unusable {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error)
    }
}
