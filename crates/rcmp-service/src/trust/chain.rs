use super::authority::{Authority, KeyId, extended_key_usages, value};
use super::serial::Serial;
use crate::certificate::Certificate;
use crate::der::{self, Der, Element};
use dtyp::{DecodeError, FileTime};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::fmt;
use std::time::Duration;
use webpki::{
    EndEntityCert, Error, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter, KeyUsage,
    RequiredEkuNotFoundContext, VerifiedPath,
};

/// Most names of distribution points, and most bytes in them; certificates have one or two. With more, none is known, and no
/// partition covers the certificate.
const DISTRIBUTION_POINTS_MAX: usize = 16;
const DISTRIBUTION_POINTS_LEN_MAX: usize = 2048;
/// id-ce-cRLDistributionPoints, 2.5.29.31.
const CRL_DISTRIBUTION_POINTS: &[u8] = &[0x55, 0x1d, 0x1f];

/// Why a certificate has no verified path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChainError {
    /// No configured CA has the name of its issuer.
    UnknownIssuer,
    /// A configured CA has the name of its issuer, and another key.
    BadSignature,
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
    /// What issued it is no CA.
    NotACa,
    /// It is itself a CA's.
    IsACa,
    /// More CAs are between it and its anchor than one of them allows.
    PathLength,
    /// Its names are not those that a CA above it may issue for.
    NameConstraints,
    /// It, or a CA above it, is signed by an algorithm that is not believed.
    UnsupportedAlgorithm,
    /// It, or a CA above it, has a critical extension that is not known.
    UnknownCritical,
    /// It, or a CA above it, cannot be read.
    Malformed,
    /// Its key, or that of a CA above it, is known to be compromised.
    Distrusted,
    /// There are too many ways to an anchor.
    TooComplex,
}

impl ChainError {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::UnknownIssuer,
        Self::BadSignature,
        Self::Expired,
        Self::NotYetValid,
        Self::IssuerExpired,
        Self::IssuerNotYetValid,
        Self::AnchorExpired,
        Self::AnchorNotYetValid,
        Self::NotForClientAuthentication,
        Self::NotACa,
        Self::IsACa,
        Self::PathLength,
        Self::NameConstraints,
        Self::UnsupportedAlgorithm,
        Self::UnknownCritical,
        Self::Malformed,
        Self::Distrusted,
        Self::TooComplex,
    ];

    /// A stable name for logs, metrics and audit.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownIssuer => "unknown_issuer",
            Self::BadSignature => "bad_signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::IssuerExpired => "issuer_expired",
            Self::IssuerNotYetValid => "issuer_not_yet_valid",
            Self::AnchorExpired => "anchor_expired",
            Self::AnchorNotYetValid => "anchor_not_yet_valid",
            Self::NotForClientAuthentication => "not_for_client_authentication",
            Self::NotACa => "not_a_ca",
            Self::IsACa => "is_a_ca",
            Self::PathLength => "path_length",
            Self::NameConstraints => "name_constraints",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::UnknownCritical => "unknown_critical",
            Self::Malformed => "malformed",
            Self::Distrusted => "distrusted",
            Self::TooComplex => "too_complex",
        }
    }

    /// The reason in a few words, for operators.
    pub const fn text(self) -> &'static str {
        match self {
            Self::UnknownIssuer => "no configured CA has the name of its issuer",
            Self::BadSignature => "its signature is not that of the configured CA with its issuer's name",
            Self::Expired => "the certificate is expired",
            Self::NotYetValid => "the certificate is not valid yet",
            Self::IssuerExpired => "an intermediate CA above it is expired",
            Self::IssuerNotYetValid => "an intermediate CA above it is not valid yet",
            Self::AnchorExpired => "the anchor above it is expired",
            Self::AnchorNotYetValid => "the anchor above it is not valid yet",
            Self::NotForClientAuthentication => {
                "its extended key usage, or that of a CA above it, is for something else"
            }
            Self::NotACa => "what issued it is no CA",
            Self::IsACa => "it is the certificate of a CA",
            Self::PathLength => "more CAs are between it and its anchor than one of them allows",
            Self::NameConstraints => "its names are not those that a CA above it may issue for",
            Self::UnsupportedAlgorithm => {
                "it, or a CA above it, is signed by an algorithm that is not believed"
            }
            Self::UnknownCritical => "it, or a CA above it, has a critical extension that is not known",
            Self::Malformed => "it, or a CA above it, cannot be read",
            Self::Distrusted => "its key, or that of a CA above it, is known to be compromised",
            Self::TooComplex => "there are too many ways from it to an anchor",
        }
    }

    /// Whether the same certificate may have a path at another time, or be refused for another reason.
    pub(super) const fn depends_on_time(self) -> bool {
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

/// What webpki says, in our words. Expiry is told as an intermediate's: whose it is, `Chains::verify` tells.
impl From<Error> for ChainError {
    fn from(error: Error) -> Self {
        match error {
            Error::UnknownIssuer => Self::UnknownIssuer,
            Error::InvalidSignatureForPublicKey => Self::BadSignature,
            Error::CertExpired { .. } => Self::IssuerExpired,
            Error::CertNotValidYet { .. } => Self::IssuerNotYetValid,
            Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => {
                Self::NotForClientAuthentication
            }
            Error::EndEntityUsedAsCa => Self::NotACa,
            Error::CaUsedAsEndEntity => Self::IsACa,
            Error::PathLenConstraintViolated | Error::MaximumPathDepthExceeded => Self::PathLength,
            Error::NameConstraintViolation
            | Error::MalformedNameConstraint
            | Error::InvalidNetworkMaskConstraint => Self::NameConstraints,
            Error::UnsupportedSignatureAlgorithmContext(_)
            | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Self::UnsupportedAlgorithm,
            Error::UnsupportedCriticalExtension => Self::UnknownCritical,
            Error::CertDistrusted => Self::Distrusted,
            Error::MaximumSignatureChecksExceeded
            | Error::MaximumPathBuildCallsExceeded
            | Error::MaximumNameConstraintComparisonsExceeded => Self::TooComplex,
            _ => Self::Malformed,
        }
    }
}

/// A verified path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The CAs: who issued the certificate first, the anchor last.
    pub authorities: Vec<KeyId>,
    /// From when on all certificates of the path are valid.
    pub not_before: FileTime,
    /// The last second in which all of them are.
    pub not_after: FileTime,
    /// The certificate, and then every intermediate: whatever can be revoked.
    pub(super) links: Vec<Link>,
}

impl Path {
    /// The key of the CA that issued the certificate.
    pub fn issuer(&self) -> KeyId {
        self.authorities[0]
    }

    /// The key of the anchor.
    pub fn anchor(&self) -> KeyId {
        self.authorities[self.authorities.len() - 1]
    }

    /// Whether all certificates of the path are valid.
    pub fn is_valid_at(&self, now: FileTime) -> bool {
        is_within(self.not_before, self.not_after, now)
    }

    fn new(links: Vec<(&Certificate<'_>, &Authority)>) -> Result<Self, ChainError> {
        let anchor = links.last().ok_or(ChainError::UnknownIssuer)?.1;
        let mut path = Self {
            authorities: links.iter().map(|(_, issuer)| issuer.key).collect(),
            not_before: anchor.not_before,
            not_after: anchor.not_after,
            links: Vec::with_capacity(links.len()),
        };
        for (at, (certificate, issuer)) in links.into_iter().enumerate() {
            path.not_before = path.not_before.max(certificate.not_before);
            path.not_after = path.not_after.min(certificate.not_after);
            path.links.push(Link::new(certificate, issuer, at > 0)?);
        }
        Ok(path)
    }
}

/// One certificate of a path and who issued it: all that revocation asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Names the certificate among all: issuer's key, issuer's name and serial number.
    pub(super) id: [u8; 32],
    pub(super) issuer: KeyId,
    /// The issuer's encoded name. Two CAs with one key, if there are such, count their certificates by name.
    pub(super) issuer_name: Box<[u8]>,
    pub(super) serial: Serial,
    pub(super) is_ca: bool,
    /// The full names of its distribution points, as they are encoded. Never an address to us, only something to compare.
    pub(super) distribution_points: Vec<Box<[u8]>>,
}

impl Link {
    fn new(certificate: &Certificate<'_>, issuer: &Authority, is_ca: bool) -> Result<Self, ChainError> {
        let serial = Serial::of(certificate).ok_or(ChainError::Malformed)?;
        let id = Sha256::new()
            .chain_update(issuer.key.0)
            .chain_update(serial.0)
            .chain_update(certificate.issuer)
            .finalize()
            .into();
        Ok(Self {
            id,
            issuer: issuer.key,
            issuer_name: certificate.issuer.into(),
            serial,
            is_ca,
            // Whatever cannot be read is in the scope of no partition.
            distribution_points: distribution_points(certificate).unwrap_or_default(),
        })
    }
}

/// RFC 5280 4.2.1.13, the points that the issuer itself serves.
fn distribution_points(certificate: &Certificate<'_>) -> Result<Vec<Box<[u8]>>, DecodeError> {
    let Some(extension) = certificate.extension(CRL_DISTRIBUTION_POINTS) else { return Ok(Vec::new()) };
    let mut list = value(&extension, "cRLDistributionPoints", der::SEQUENCE)?.inside();
    let mut names = Vec::new();
    while !list.is_empty() {
        let mut point = list.expect("DistributionPoint", der::SEQUENCE)?.inside();
        let name = point.optional("distributionPoint", 0xa0)?;
        point.optional("reasons", 0x81)?;
        let crl_issuer = point.optional("cRLIssuer", 0xa2)?;
        point.finish("DistributionPoint")?;
        if let (Some(name), None) = (name, crl_issuer) {
            names.extend(full_name(&name)?.unwrap_or_default());
        }
    }
    // A path is remembered, and whoever certifies writes these.
    let len = names.iter().fold(0, |len, name: &Box<_>| len + <[u8]>::len(name));
    match names.len() <= DISTRIBUTION_POINTS_MAX && len <= DISTRIBUTION_POINTS_LEN_MAX {
        true => Ok(names),
        false => Err(list.error("cRLDistributionPoints", dtyp::DecodeErrorKind::TooLong)),
    }
}

/// The GeneralNames of a DistributionPointName; `None` when it is relative to the CRL's issuer.
pub(super) fn full_name(name: &Element<'_>) -> Result<Option<Vec<Box<[u8]>>>, DecodeError> {
    let mut choice = name.inside();
    let full = choice.any("DistributionPointName")?;
    choice.finish("DistributionPointName")?;
    match full.tag {
        0xa0 => {
            let mut list: Der<'_> = full.inside();
            let mut names = Vec::new();
            while !list.is_empty() {
                names.push(list.any("GeneralName")?.encoded.into());
            }
            Ok(Some(names))
        }
        0xa1 => Ok(None),
        _ => Err(name.inside().error("DistributionPointName", dtyp::DecodeErrorKind::BadValue)),
    }
}

/// Whether a second lies in an interval whose last second is `last`.
pub(super) fn is_within(first: FileTime, last: FileTime, now: FileTime) -> bool {
    (first..=last).contains(&FileTime::from_unix(now.to_unix()))
}

/// The second that webpki calls now.
pub(super) fn unix_time(now: FileTime) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(now.to_unix().max(0).unsigned_abs()))
}

/// Which extended key usages a certificate may have.
#[derive(Clone, Debug)]
pub(super) struct Usages {
    pub(super) any_of: Vec<Vec<u8>>,
    pub(super) required: bool,
}

impl Usages {
    fn allow(&self, usages: Option<&[Vec<u8>]>) -> bool {
        let wanted = |usage: &Vec<u8>| self.any_of.contains(usage);
        self.any_of.is_empty() || usages.is_none_or(|usages| usages.iter().any(wanted))
    }
}

/// Webpki asks about the certificate and about every intermediate; without the extension it shows an empty list.
impl ExtendedKeyUsageValidator for Usages {
    fn validate(&self, usages: KeyPurposeIdIter<'_, '_>) -> Result<(), Error> {
        let mut empty = true;
        let mut found = self.any_of.is_empty();
        for usage in usages {
            let usage = usage?;
            empty = false;
            found |= self.any_of.iter().any(|wanted| usage == KeyPurposeId::new(wanted));
        }
        match found || empty {
            true => Ok(()),
            false => Err(wrong_usage()),
        }
    }
}

/// The error that webpki ranks as a wrong usage; what it names is not read by anybody.
pub(super) fn wrong_usage() -> Error {
    Error::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext {
        required: KeyUsage::client_auth(),
        present: Vec::new(),
    })
}

/// What paths are built from.
#[derive(Debug)]
pub(super) struct Chains {
    /// The anchors, then the intermediates.
    pub(super) authorities: Vec<Authority>,
    anchors: Vec<TrustAnchor<'static>>,
    intermediates: Vec<CertificateDer<'static>>,
    usages: Usages,
}

impl Chains {
    /// From authorities of which the anchors come first.
    pub(super) fn new(authorities: Vec<Authority>, usages: Usages) -> Self {
        let (anchors, intermediates) = authorities.split_at(authorities.partition_point(|it| it.is_anchor));
        Self {
            anchors: anchors.iter().map(|it| it.anchor.clone()).collect(),
            intermediates: intermediates.iter().map(|it| CertificateDer::from(it.der.clone())).collect(),
            usages,
            authorities,
        }
    }

    /// The configured CA of this name and key.
    pub(super) fn authority(&self, key: KeyId, name: &[u8]) -> Option<&Authority> {
        self.authorities.iter().find(|authority| authority.key == key && authority.name == name)
    }

    /// Finds a path that is good now.
    pub(super) fn verify(&self, encoded: &[u8], now: FileTime) -> Result<Path, ChainError> {
        let certificate = Certificate::parse(encoded).map_err(|_| ChainError::Malformed)?;
        let der = CertificateDer::from(encoded);
        let end_entity = EndEntityCert::try_from(&der)?;
        let anchor_error = Cell::new(None);
        let verified = end_entity
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &self.anchors,
                &self.intermediates,
                unix_time(now),
                &self.usages,
                None,
                Some(&|path| self.check_anchor(path, now, &anchor_error)),
            )
            .map_err(|error| match ChainError::from(error) {
                error @ (ChainError::IssuerExpired | ChainError::IssuerNotYetValid) => {
                    let second = FileTime::from_unix(now.to_unix());
                    match () {
                        () if certificate.not_after < second => ChainError::Expired,
                        () if certificate.not_before > second => ChainError::NotYetValid,
                        () => anchor_error.get().unwrap_or(error),
                    }
                }
                error => error,
            })?;
        if self.usages.required
            && extended_key_usages(&certificate).map_err(|_| ChainError::Malformed)?.is_none()
        {
            return Err(ChainError::NotForClientAuthentication);
        }
        let mut issuers = Vec::new();
        for intermediate in verified.intermediate_certificates() {
            let authority = self.authorities.iter().find(|it| it.der == *intermediate.der());
            issuers.push(authority.expect("intermediates come from the configured ones"));
        }
        issuers.push(self.anchor(&verified));
        let intermediates = issuers[..issuers.len() - 1]
            .iter()
            .map(|authority| Certificate::parse(&authority.der))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| ChainError::Malformed)?;
        Path::new(std::iter::once(&certificate).chain(&intermediates).zip(issuers).collect())
    }

    /// What webpki leaves to its caller: it takes an anchor as a name and a key.
    fn check_anchor(
        &self,
        path: &VerifiedPath<'_>,
        now: FileTime,
        anchor_error: &Cell<Option<ChainError>>,
    ) -> Result<(), Error> {
        let anchor = self.anchor(path);
        let (time, second) = (unix_time(now), FileTime::from_unix(now.to_unix()));
        if anchor.not_after < second {
            anchor_error.set(Some(ChainError::AnchorExpired));
            return Err(Error::CertExpired { time, not_after: time });
        }
        if anchor.not_before > second {
            anchor_error.set(Some(ChainError::AnchorNotYetValid));
            return Err(Error::CertNotValidYet { time, not_before: time });
        }
        if anchor.path_len.is_some_and(|len| path.intermediate_certificates().count() > len) {
            return Err(Error::PathLenConstraintViolated);
        }
        match self.usages.allow(anchor.usages.as_deref()) {
            true => Ok(()),
            false => Err(wrong_usage()),
        }
    }

    fn anchor(&self, path: &VerifiedPath<'_>) -> &Authority {
        // By address: a renewed anchor equals the one before in all but its dates, which webpki does not keep.
        let at = self.anchors.iter().position(|anchor| std::ptr::eq(anchor, path.anchor()));
        &self.authorities[at.expect("anchors come from the configured ones")]
    }
}
