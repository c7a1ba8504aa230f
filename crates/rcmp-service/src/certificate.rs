//! The fields of an X.509 certificate (RFC 5280 4.1) that mapping needs, as the bytes they are.
//!
//! Nothing is verified here: the client of the protocol has verified the certificate and the possession of
//! its key before it asks ([MS-RCMP] 3.5).

use crate::der::{self, Der, Element};
use account_store::distinguished_name::{Attribute, AttributeTypeAndValue, DistinguishedName, Rdn, Value};
use bytes::Bytes;
use dtyp::{DecodeError, DecodeErrorKind, FileTime, Sid};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// Most names in a subjectAltName that are read, because each may cost a question to the store; more make the
/// extension unusable.
pub const SUBJECT_ALT_NAMES_MAX: usize = 64;
/// Most certificate policies that are read; more make the extension unusable.
pub const POLICIES_MAX: usize = 64;
/// What a uniformResourceIdentifier begins with that carries a SID ([MS-PKCA] 3.1.5.2.1.6).
pub const SID_URI_TAG: &str = "tag:microsoft.com,2022-09-14:sid:";
/// Most relative distinguished names, and most attributes in one of them.
const NAME_PARTS_MAX: usize = 64;
/// Most extensions; certificates have ten.
const EXTENSIONS_MAX: usize = 64;

/// id-ce-subjectAltName, 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// id-ce-subjectKeyIdentifier, 2.5.29.14.
const SUBJECT_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x0e];
/// id-ce-certificatePolicies, 2.5.29.32.
const CERTIFICATE_POLICIES: &[u8] = &[0x55, 0x1d, 0x20];
/// szOID_NTDS_CA_SECURITY_EXT, 1.3.6.1.4.1.311.25.2 ([MS-WCCE] 2.2.2.7.7.4).
const SID_EXTENSION: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x19, 0x02];
/// szOID_NTDS_OBJECTSID, 1.3.6.1.4.1.311.25.2.1.
const OBJECT_SID: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x19, 0x02, 0x01];
/// szOID_NT_PRINCIPAL_NAME, 1.3.6.1.4.1.311.20.2.3 (RFC 4556 C).
const PRINCIPAL_NAME: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x14, 0x02, 0x03];

/// A certificate taken apart; everything points into its bytes. Names and hashes are made when they are first
/// asked for, and kept: copies share them.
#[derive(Clone, Debug)]
pub struct Certificate<'a> {
    /// The whole certificate.
    pub encoded: &'a [u8],
    /// 1, 2 or 3.
    pub version: u8,
    /// Content octets of the serial number: big-endian, two's complement.
    pub serial: &'a [u8],
    /// The issuer's encoded name.
    pub issuer: &'a [u8],
    /// The subject's encoded name.
    pub subject: &'a [u8],
    /// The encoded SubjectPublicKeyInfo.
    pub public_key: &'a [u8],
    /// Start of validity.
    pub not_before: FileTime,
    /// End of validity.
    pub not_after: FileTime,
    /// The contents of the sequence of extensions, which [`Certificate::parse`] has been through; empty
    /// without one.
    extensions: &'a [u8],
    /// Whether signatureAlgorithm and the field of what is signed are the same (RFC 5280 4.1.1.2).
    pub(crate) algorithms_agree: bool,
    subject_alt_name: Option<&'a [u8]>,
    subject_key_identifier: Option<&'a [u8]>,
    sid_extension: Option<&'a [u8]>,
    decoded: Arc<Decoded>,
}

/// What is made of a certificate once.
#[derive(Debug, Default)]
struct Decoded {
    issuer_name: OnceLock<Result<DistinguishedName, DecodeError>>,
    subject_name: OnceLock<Result<DistinguishedName, DecodeError>>,
    alternative_names: OnceLock<Result<Vec<AlternativeName>, DecodeError>>,
    sha1: OnceLock<[u8; 20]>,
    sha256: OnceLock<[u8; 32]>,
}

/// A certificate that owns its bytes, taken apart once. Copies share the bytes and what was made of them.
#[derive(Clone, Debug)]
pub struct OwnedCertificate {
    encoded: Bytes,
    fields: Fields,
    decoded: Arc<Decoded>,
}

/// The fields of a [`Certificate`], those that point into its bytes as their places there.
#[derive(Clone, Debug)]
struct Fields {
    version: u8,
    serial: Range<usize>,
    issuer: Range<usize>,
    subject: Range<usize>,
    public_key: Range<usize>,
    not_before: FileTime,
    not_after: FileTime,
    extensions: Range<usize>,
    algorithms_agree: bool,
    subject_alt_name: Option<Range<usize>>,
    subject_key_identifier: Option<Range<usize>>,
    sid_extension: Option<Range<usize>>,
}

impl OwnedCertificate {
    /// Takes a certificate apart as [`Certificate::parse`] does.
    pub fn parse(encoded: Bytes) -> Result<Self, DecodeError> {
        let parsed = Certificate::parse(&encoded)?;
        // Parts are slices of the whole, except those that are empty.
        let place = |part: &[u8]| match part.is_empty() {
            true => 0..0,
            false => {
                let start = part.as_ptr() as usize - encoded.as_ptr() as usize;
                start..start + part.len()
            }
        };
        let fields = Fields {
            version: parsed.version,
            serial: place(parsed.serial),
            issuer: place(parsed.issuer),
            subject: place(parsed.subject),
            public_key: place(parsed.public_key),
            not_before: parsed.not_before,
            not_after: parsed.not_after,
            extensions: place(parsed.extensions),
            algorithms_agree: parsed.algorithms_agree,
            subject_alt_name: parsed.subject_alt_name.map(place),
            subject_key_identifier: parsed.subject_key_identifier.map(place),
            sid_extension: parsed.sid_extension.map(place),
        };
        let decoded = Arc::clone(&parsed.decoded);
        Ok(Self { encoded, fields, decoded })
    }

    /// The same for a certificate whose SHA-256 is known.
    pub fn parse_hashed(encoded: Bytes, sha256: [u8; 32]) -> Result<Self, DecodeError> {
        debug_assert_eq!(sha256, <[u8; 32]>::from(Sha256::digest(&encoded)), "of another certificate");
        let parsed = Self::parse(encoded)?;
        parsed.decoded.sha256.get_or_init(|| sha256);
        Ok(parsed)
    }

    /// The certificate, without reading it again.
    pub fn get(&self) -> Certificate<'_> {
        let at = |place: &Range<usize>| &self.encoded[place.clone()];
        let fields = &self.fields;
        Certificate {
            encoded: &self.encoded,
            version: fields.version,
            serial: at(&fields.serial),
            issuer: at(&fields.issuer),
            subject: at(&fields.subject),
            public_key: at(&fields.public_key),
            not_before: fields.not_before,
            not_after: fields.not_after,
            extensions: at(&fields.extensions),
            algorithms_agree: fields.algorithms_agree,
            subject_alt_name: fields.subject_alt_name.as_ref().map(at),
            subject_key_identifier: fields.subject_key_identifier.as_ref().map(at),
            sid_extension: fields.sid_extension.as_ref().map(at),
            decoded: Arc::clone(&self.decoded),
        }
    }

    /// The DER of the whole certificate.
    pub const fn encoded(&self) -> &Bytes {
        &self.encoded
    }
}

/// An extension of a certificate, a CRL or one of its entries (RFC 5280 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension<'a> {
    /// Contents octets of the object identifier.
    pub id: &'a [u8],
    /// Whether a reader that does not know it must reject the certificate.
    pub critical: bool,
    /// The DER in the octet string.
    pub value: &'a [u8],
}

/// The kinds of names in a subjectAltName that mapping reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameKind {
    /// otherName, which may be a user principal name.
    Other,
    /// dNSName.
    Dns,
    /// rfc822Name.
    Rfc822,
    /// uniformResourceIdentifier.
    Uri,
}

impl NameKind {
    /// Its name in the document (RFC 5280 4.2.1.6).
    pub const fn name(self) -> &'static str {
        match self {
            Self::Other => "otherName",
            Self::Dns => "dNSName",
            Self::Rfc822 => "rfc822Name",
            Self::Uri => "uniformResourceIdentifier",
        }
    }

    /// The same with the extension that it is in.
    pub(crate) const fn in_subject_alt_name(self) -> &'static str {
        match self {
            Self::Other => "otherName in subjectAltName",
            Self::Dns => "dNSName in subjectAltName",
            Self::Rfc822 => "rfc822Name in subjectAltName",
            Self::Uri => "uniformResourceIdentifier in subjectAltName",
        }
    }
}

/// A name in a subjectAltName, as far as mapping knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlternativeName {
    /// otherName with a user principal name.
    PrincipalName(String),
    /// dNSName.
    Dns(String),
    /// rfc822Name.
    Rfc822(String),
    /// uniformResourceIdentifier.
    Uri(String),
    /// A name of this kind whose value cannot be read. Names that it may contradict, those that have to agree
    /// with its kind, are unusable.
    Unreadable(NameKind),
}

impl<'a> Certificate<'a> {
    /// Takes a certificate apart. It must be DER from the first to the last byte; an extension that occurs
    /// twice makes it unusable (RFC 5280 4.2).
    pub fn parse(encoded: &'a [u8]) -> Result<Self, DecodeError> {
        let mut outer = Der::new(encoded);
        let mut certificate = outer.expect("Certificate", der::SEQUENCE)?.inside();
        outer.finish("Certificate")?;
        let mut tbs = certificate.expect("TBSCertificate", der::SEQUENCE)?.inside();
        let algorithm = certificate.expect("signatureAlgorithm", der::SEQUENCE)?;
        certificate.expect("signatureValue", der::BIT_STRING)?;
        certificate.finish("Certificate")?;

        let version = match tbs.optional("version", 0xa0)? {
            Some(explicit) => version(&explicit)?,
            None => 1,
        };
        let serial = tbs.expect("serialNumber", der::INTEGER)?;
        match serial.contents {
            [] => return Err(tbs.error("serialNumber", DecodeErrorKind::Truncated)),
            // An octet that says nothing but the sign, which the next one says too (X.690 8.3.2).
            [0x00, 0x00..=0x7f, ..] | [0xff, 0x80..=0xff, ..] => {
                return Err(tbs.error("serialNumber", DecodeErrorKind::BadValue));
            }
            _ => {}
        }
        let algorithms_agree = tbs.expect("signature", der::SEQUENCE)?.contents == algorithm.contents;
        let issuer = tbs.expect("issuer", der::SEQUENCE)?;
        let mut validity = tbs.expect("validity", der::SEQUENCE)?.inside();
        let not_before = time(&mut validity, "notBefore")?;
        let not_after = time(&mut validity, "notAfter")?;
        validity.finish("validity")?;
        let subject = tbs.expect("subject", der::SEQUENCE)?;
        let public_key = tbs.expect("subjectPublicKeyInfo", der::SEQUENCE)?;
        // What a version does not have is left over, and refused below (RFC 5280 4.1.2.8, 4.1.2.9).
        if version >= 2 {
            tbs.optional("issuerUniqueID", 0x81)?;
            tbs.optional("subjectUniqueID", 0x82)?;
        }
        let extensions = match version >= 3 {
            true => tbs.optional("extensions", 0xa3)?,
            false => None,
        };
        tbs.finish("TBSCertificate")?;
        let mut parsed = Self {
            encoded,
            version,
            algorithms_agree,
            serial: serial.contents,
            issuer: issuer.encoded,
            subject: subject.encoded,
            public_key: public_key.encoded,
            not_before,
            not_after,
            extensions: &[],
            subject_alt_name: None,
            subject_key_identifier: None,
            sid_extension: None,
            decoded: Arc::default(),
        };
        if let Some(extensions) = extensions {
            parsed.read_extensions(&extensions)?;
        }
        Ok(parsed)
    }

    fn read_extensions(&mut self, explicit: &Element<'a>) -> Result<(), DecodeError> {
        let mut explicit = explicit.inside();
        let mut list = explicit.expect("extensions", der::SEQUENCE)?.inside();
        explicit.finish("extensions")?;
        self.extensions = list.rest();
        // Certificates have ten.
        let mut seen: Vec<&[u8]> = Vec::with_capacity(16);
        while !list.is_empty() {
            let Extension { id, value, .. } = extension(&mut list)?;
            if seen.contains(&id) {
                return Err(list.error("extensions", DecodeErrorKind::BadValue));
            }
            if seen.len() >= EXTENSIONS_MAX {
                return Err(list.error("extensions", DecodeErrorKind::TooMany(EXTENSIONS_MAX)));
            }
            seen.push(id);
            match id {
                SUBJECT_ALT_NAME => self.subject_alt_name = Some(value),
                SUBJECT_KEY_IDENTIFIER => self.subject_key_identifier = Some(value),
                SID_EXTENSION => self.sid_extension = Some(value),
                _ => {}
            }
        }
        Ok(())
    }

    /// The extension with this object identifier (contents octets).
    pub fn extension(&self, id: &[u8]) -> Option<Extension<'a>> {
        self.extensions().find(|extension| extension.id == id)
    }

    /// All extensions.
    pub(crate) fn extensions(&self) -> impl Iterator<Item = Extension<'a>> + use<'a> {
        let mut list = Der::new(self.extensions);
        // `parse` has read all of them: none fails here.
        std::iter::from_fn(move || (!list.is_empty()).then(|| extension(&mut list).ok()).flatten())
    }

    /// The names of the subjectAltName, in their order; none without the extension. An error makes the
    /// extension unusable, not the certificate; a single name that cannot be read is
    /// [`AlternativeName::Unreadable`].
    pub fn alternative_names(&self) -> Result<&[AlternativeName], DecodeError> {
        let names = self.decoded.alternative_names.get_or_init(|| match self.subject_alt_name {
            Some(extension) => alternative_names(extension),
            None => Ok(Vec::new()),
        });
        names.as_deref().map_err(Clone::clone)
    }

    /// The public key itself: the contents of the bit string in the SubjectPublicKeyInfo.
    pub fn public_key_bits(&self) -> Option<&'a [u8]> {
        let mut info = Der::new(self.public_key).expect("subjectPublicKeyInfo", der::SEQUENCE).ok()?.inside();
        info.expect("algorithm", der::SEQUENCE).ok()?;
        // The first octet counts the bits that are unused in the last one.
        info.expect("subjectPublicKey", der::BIT_STRING).ok()?.contents.strip_prefix(&[0])
    }

    /// The value of the subject key identifier.
    pub fn subject_key_identifier(&self) -> Result<Option<&'a [u8]>, DecodeError> {
        let Some(extension) = self.subject_key_identifier else { return Ok(None) };
        let mut outer = Der::new(extension);
        let identifier = outer.expect("subjectKeyIdentifier", der::OCTET_STRING)?.contents;
        outer.finish("subjectKeyIdentifier")?;
        Ok(Some(identifier))
    }

    /// The SID that the certificate's issuer wrote into it, by the extension of [MS-WCCE] 2.2.2.7.7.4.
    pub fn sid(&self) -> Result<Option<Sid>, DecodeError> {
        let Some(extension) = self.sid_extension else { return Ok(None) };
        let mut outer = Der::new(extension);
        let mut names = outer.expect("NTDS_CA_SECURITY_EXT", der::SEQUENCE)?.inside();
        outer.finish("NTDS_CA_SECURITY_EXT")?;
        let mut other_name = names.expect("otherName", 0xa0)?.inside();
        names.finish("NTDS_CA_SECURITY_EXT")?;
        let bad = other_name.error("NTDS_OBJECTSID", DecodeErrorKind::BadValue);
        if other_name.expect("NTDS_OBJECTSID", der::OID)?.contents != OBJECT_SID {
            return Err(bad);
        }
        let mut explicit = other_name.expect("NTDS_OBJECTSID", 0xa0)?.inside();
        other_name.finish("otherName")?;
        let text = explicit.expect("NTDS_OBJECTSID", der::OCTET_STRING)?.contents;
        explicit.finish("NTDS_OBJECTSID")?;
        std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).map(Some).ok_or(bad)
    }

    /// The SIDs that the certificate's issuer wrote into URIs of the subjectAltName, in their order. A URI
    /// that begins with [`SID_URI_TAG`] must go on as a SID to its end; other URIs are not looked at.
    pub fn alternative_sids(&self) -> Result<Vec<Sid>, DecodeError> {
        sids_of(self.alternative_names()?)
    }

    /// Whether there may be a SID in a part of the subjectAltName that cannot be read: the beginning of one
    /// is anywhere outside of the URIs that were read, there is a URI in pieces (X.690 8.21), which other
    /// readers put together, or the names cannot be told apart, so that there may be one.
    pub(crate) fn may_hide_alternative_sid(&self, read: &[AlternativeName]) -> bool {
        let Some(extension) = self.subject_alt_name else { return false };
        let tag = SID_URI_TAG.as_bytes();
        let count = |bytes: &[u8]| bytes.windows(tag.len()).filter(|at| at.eq_ignore_ascii_case(tag)).count();
        let in_uris = read.iter().map(|name| match name {
            AlternativeName::Uri(uri) => count(uri.as_bytes()),
            _ => 0,
        });
        count(extension) > in_uris.sum() || may_have_uri_in_pieces(extension)
    }

    /// URIs of the subjectAltName that look as if they carried a SID, and are written otherwise than
    /// [`SID_URI_TAG`]: they carry none.
    pub fn misspelled_sid_uris(&self) -> Vec<String> {
        let names = self.alternative_names().unwrap_or_default().iter();
        let uris = names.filter_map(|name| match name {
            AlternativeName::Uri(uri) => Some(uri),
            _ => None,
        });
        uris.filter(|uri| {
            let lower = uri.to_ascii_lowercase();
            let is_like = lower.contains("s-1-") && (lower.starts_with("tag:") || lower.contains("sid"));
            is_like && !uri.starts_with(SID_URI_TAG)
        })
        .cloned()
        .collect()
    }

    /// The certificate policies (RFC 5280 4.2.1.4), in their order, as the contents octets of their object
    /// identifiers; none without the extension. Qualifiers are passed over.
    pub fn policies(&self) -> Result<Vec<&'a [u8]>, DecodeError> {
        let Some(extension) = self.extension(CERTIFICATE_POLICIES) else { return Ok(Vec::new()) };
        let mut outer = Der::new(extension.value);
        let mut list = outer.expect("certificatePolicies", der::SEQUENCE)?.inside();
        outer.finish("certificatePolicies")?;
        let mut policies = Vec::new();
        loop {
            let mut information = list.expect("PolicyInformation", der::SEQUENCE)?.inside();
            let bad = information.error("policyIdentifier", DecodeErrorKind::BadValue);
            let id = information.expect("policyIdentifier", der::OID)?.contents;
            information.optional("policyQualifiers", der::SEQUENCE)?;
            information.finish("PolicyInformation")?;
            if !der::is_oid(id) || policies.contains(&id) {
                return Err(bad);
            }
            if policies.len() >= POLICIES_MAX {
                return Err(list.error("certificatePolicies", DecodeErrorKind::TooMany(POLICIES_MAX)));
            }
            policies.push(id);
            if list.is_empty() {
                return Ok(policies);
            }
        }
    }

    /// The issuer's name.
    pub fn issuer_name(&self) -> Result<&DistinguishedName, DecodeError> {
        let read = self.decoded.issuer_name.get_or_init(|| name(self.issuer));
        read.as_ref().map_err(Clone::clone)
    }

    /// The subject's name.
    pub fn subject_name(&self) -> Result<&DistinguishedName, DecodeError> {
        let read = self.decoded.subject_name.get_or_init(|| name(self.subject));
        read.as_ref().map_err(Clone::clone)
    }

    /// SHA-1 of the certificate: its thumbprint.
    pub fn sha1(&self) -> &[u8; 20] {
        self.decoded.sha1.get_or_init(|| Sha1::digest(self.encoded).into())
    }

    /// SHA-256 of the certificate.
    pub fn sha256(&self) -> &[u8; 32] {
        self.sha256_by(|encoded| Sha256::digest(encoded).into())
    }

    /// The same, by a function that may know it.
    pub(crate) fn sha256_by(&self, digest: impl FnOnce(&[u8]) -> [u8; 32]) -> &[u8; 32] {
        self.decoded.sha256.get_or_init(|| digest(self.encoded))
    }
}

/// Version 2 or 3; the first is said by saying nothing (X.690 11.5).
fn version(explicit: &Element<'_>) -> Result<u8, DecodeError> {
    let mut explicit = explicit.inside();
    let bad = explicit.error("version", DecodeErrorKind::BadValue);
    let integer = explicit.expect("version", der::INTEGER)?.contents;
    explicit.finish("version")?;
    match integer {
        [version @ 1..=2] => Ok(version + 1),
        _ => Err(bad),
    }
}

/// The next of a sequence of extensions.
pub(crate) fn extension<'a>(list: &mut Der<'a>) -> Result<Extension<'a>, DecodeError> {
    let mut extension = list.expect("Extension", der::SEQUENCE)?.inside();
    let id = extension.expect("extnID", der::OID)?.contents;
    let critical = match extension.optional("critical", der::BOOLEAN)? {
        None => false,
        // DER writes TRUE as 0xff and leaves FALSE out (X.690 11.1, 11.5). Any other value than 0 counts as
        // TRUE, too: an extension that may be critical is not passed over.
        Some(critical) => critical.contents != [0],
    };
    let value = extension.expect("extnValue", der::OCTET_STRING)?.contents;
    extension.finish("Extension")?;
    Ok(Extension { id, critical, value })
}

/// The names in the value of a subjectAltName (RFC 5280 4.2.1.6).
fn alternative_names(extension: &[u8]) -> Result<Vec<AlternativeName>, DecodeError> {
    let mut outer = Der::new(extension);
    let mut list = outer.expect("subjectAltName", der::SEQUENCE)?.inside();
    outer.finish("subjectAltName")?;
    let mut names = Vec::new();
    let mut count = 0;
    while !list.is_empty() {
        count += 1;
        if count > SUBJECT_ALT_NAMES_MAX {
            return Err(list.error("subjectAltName", DecodeErrorKind::TooMany(SUBJECT_ALT_NAMES_MAX)));
        }
        let name = list.any("GeneralName")?;
        let ia5 = |kind, make: fn(String) -> AlternativeName| match name.contents.is_ascii()
            && !name.contents.contains(&0)
        {
            true => make(String::from_utf8_lossy(name.contents).into_owned()),
            false => AlternativeName::Unreadable(kind),
        };
        match name.tag {
            0xa0 => match principal_name(&name) {
                Ok(name) => names.extend(name.map(AlternativeName::PrincipalName)),
                Err(_) => names.push(AlternativeName::Unreadable(NameKind::Other)),
            },
            0x81 => names.push(ia5(NameKind::Rfc822, AlternativeName::Rfc822)),
            0x82 => names.push(ia5(NameKind::Dns, AlternativeName::Dns)),
            0x86 => names.push(ia5(NameKind::Uri, AlternativeName::Uri)),
            // The same kinds, not in the form that DER has for them. A value in pieces may be anything.
            0x80 | 0xa1 | 0xa2 | 0xa6 => return Err(list.error("GeneralName", DecodeErrorKind::BadValue)),
            _ => {}
        }
    }
    Ok(names)
}

/// Whether a name of one of these kinds is there and cannot be read.
pub(crate) fn has_unreadable(names: &[AlternativeName], kinds: &[NameKind]) -> bool {
    names.iter().any(|name| matches!(name, AlternativeName::Unreadable(kind) if kinds.contains(kind)))
}

/// Whether a subjectAltName may have a uniformResourceIdentifier in pieces: it has one, or its names cannot
/// be told apart up to its end by DER. Readers of BER tell names apart that DER does not.
fn may_have_uri_in_pieces(extension: &[u8]) -> bool {
    let mut outer = Der::new(extension);
    let Ok(names) = outer.expect("subjectAltName", der::SEQUENCE) else { return true };
    if outer.finish("subjectAltName").is_err() {
        return true;
    }
    let mut names = names.inside();
    while !names.is_empty() {
        match names.any("GeneralName") {
            Ok(name) if name.tag != 0x86 | der::CONSTRUCTED => {}
            _ => return true,
        }
    }
    false
}

/// The SIDs in the URIs of a subjectAltName; see [`Certificate::alternative_sids`].
pub(crate) fn sids_of<'a>(
    names: impl IntoIterator<Item = &'a AlternativeName>,
) -> Result<Vec<Sid>, DecodeError> {
    let error = |kind| DecodeError { what: "SID in a URI", offset: 0, kind };
    let sid = |name: &AlternativeName| match name {
        AlternativeName::Uri(uri) => {
            let text = uri.strip_prefix(SID_URI_TAG)?;
            Some(text.parse().map_err(|_| error(DecodeErrorKind::BadValue)))
        }
        AlternativeName::Unreadable(NameKind::Uri) => Some(Err(error(DecodeErrorKind::BadText))),
        _ => None,
    };
    names.into_iter().filter_map(sid).collect()
}

/// An encoded X.501 `Name` as Windows orders it, which is the order of the certificate.
pub fn name(encoded: &[u8]) -> Result<DistinguishedName, DecodeError> {
    let mut outer = Der::new(encoded);
    let mut sequence = outer.expect("Name", der::SEQUENCE)?.inside();
    outer.finish("Name")?;
    let mut rdns = Vec::new();
    while !sequence.is_empty() {
        let mut set = sequence.expect("RelativeDistinguishedName", der::SET)?.inside();
        let mut attributes = Vec::new();
        while !set.is_empty() {
            let mut attribute = set.expect("AttributeTypeAndValue", der::SEQUENCE)?.inside();
            let oid = attribute.expect("type", der::OID)?.contents;
            let value = attribute.any("value")?;
            attribute.finish("AttributeTypeAndValue")?;
            let oid = der::dotted(oid).ok_or(set.error("type", DecodeErrorKind::BadValue))?;
            let value = match der::is_string(value.tag) {
                true => Value::Text(der::text(&value).ok_or(set.error("value", DecodeErrorKind::BadText))?),
                // A string in pieces (X.690 10.2), which other readers would put together.
                false if der::is_string(value.tag & !der::CONSTRUCTED) => {
                    return Err(set.error("value", DecodeErrorKind::BadValue));
                }
                false => Value::Encoded(value.encoded.to_vec()),
            };
            attributes.push(AttributeTypeAndValue { attribute: Attribute::from_oid(&oid), value });
        }
        if attributes.is_empty() {
            return Err(sequence.error("RelativeDistinguishedName", DecodeErrorKind::BadValue));
        }
        if attributes.len() > NAME_PARTS_MAX || rdns.len() >= NAME_PARTS_MAX {
            return Err(sequence.error("Name", DecodeErrorKind::TooMany(NAME_PARTS_MAX)));
        }
        rdns.push(Rdn(attributes));
    }
    Ok(DistinguishedName(rdns))
}

/// Contents octets of an object identifier in dotted decimal; `None` when the text is none.
pub fn object_identifier(dotted: &str) -> Option<Vec<u8>> {
    let arcs: Option<Vec<u64>> = dotted
        .split('.')
        .map(|arc| arc.bytes().all(|byte| byte.is_ascii_digit()).then(|| arc.parse().ok()).flatten())
        .collect();
    let arcs = arcs?;
    let [first, second, rest @ ..] = &arcs[..] else { return None };
    if *first > 2 || *first < 2 && *second > 39 {
        return None;
    }
    let mut contents = Vec::new();
    for arc in std::iter::once(first.checked_mul(40)?.checked_add(*second)?).chain(rest.iter().copied()) {
        let groups = (1..10).take_while(|group| arc >> (7 * group) != 0).count();
        contents.extend((1..=groups).rev().map(|group| (arc >> (7 * group)) as u8 & 0x7f | 0x80));
        contents.push(arc as u8 & 0x7f);
    }
    Some(contents)
}

/// The user principal name of an otherName; `None` for names of other kinds.
fn principal_name(name: &Element<'_>) -> Result<Option<String>, DecodeError> {
    let mut other_name = name.inside();
    let id = other_name.expect("type-id", der::OID)?.contents;
    let mut explicit = other_name.expect("value", 0xa0)?.inside();
    other_name.finish("otherName")?;
    if id != PRINCIPAL_NAME {
        return Ok(None);
    }
    let value = explicit.any("userPrincipalName")?;
    let bad = explicit.error("userPrincipalName", DecodeErrorKind::BadText);
    explicit.finish("userPrincipalName")?;
    match value.tag {
        0x0c | 0x13 | 0x16 | 0x1e => der::text(&value).filter(|text| !text.is_empty()).map(Some).ok_or(bad),
        _ => Err(bad),
    }
}

/// UTCTime or GeneralizedTime in the only form that RFC 5280 4.1.2.5 allows.
pub(crate) fn time(validity: &mut Der<'_>, what: &'static str) -> Result<FileTime, DecodeError> {
    let bad = validity.error(what, DecodeErrorKind::BadValue);
    let element = validity.any(what)?;
    let digits = element.contents.strip_suffix(b"Z").filter(|digits| digits.iter().all(u8::is_ascii_digit));
    let digits = digits.ok_or_else(|| bad.clone())?;
    let number =
        |digits: &[u8]| digits.iter().fold(0i64, |number, digit| number * 10 + i64::from(digit - b'0'));
    let (year, rest) = match (element.tag, digits.len()) {
        (der::UTC_TIME, 12) => {
            let year = number(&digits[..2]);
            (if year < 50 { 2000 + year } else { 1900 + year }, &digits[2..])
        }
        (der::GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return Err(bad),
    };
    let [month, day, hour, minute, second] = std::array::from_fn(|n| number(&rest[2 * n..2 * n + 2]));
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1..=12).contains(&month) || !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return Err(bad);
    }
    // Days from civil: years begin in March, so that the leap day comes last.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days =
        year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468;
    Ok(FileTime::from_unix(((days * 24 + hour) * 60 + minute) * 60 + second))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::{ALICE, unhex};
    use x509_parser::prelude::FromDer;

    #[test]
    fn alice_is_read_as_the_digest_says() {
        let encoded = unhex(ALICE);
        let alice = Certificate::parse(&encoded).expect("it is well formed");
        assert_eq!(dtyp::hex(alice.serial), "2b0000000011ac0000000012");
        assert_eq!(
            alice.issuer_name().map(|name| name.to_string()).as_deref(),
            Ok("DC=com,DC=contoso,CN=CONTOSO-CA")
        );
        assert_eq!(
            alice.subject_name().map(|name| name.to_string()).as_deref(),
            Ok("DC=com,DC=contoso,OU=Users,CN=Alice Smith")
        );
        assert_eq!(
            alice.alternative_names(),
            Ok(&[
                AlternativeName::PrincipalName("alice@contoso.com".into()),
                AlternativeName::Rfc822("alice@contoso.com".into())
            ][..])
        );
        let identifier = alice.subject_key_identifier().expect("well formed").expect("present");
        assert_eq!(dtyp::hex(identifier), "0b6993f12d0755df63a9622afee00aac88cb69db");
        let sid = alice.sid().expect("well formed").map(|sid| sid.to_string());
        assert_eq!(sid.as_deref(), Some("S-1-5-21-3623811015-3361044348-30300820-1013"));
        assert_eq!(alice.not_before.to_string(), "2024-01-01T00:00:00Z");
        assert_eq!(alice.not_after.to_string(), "2034-01-01T00:00:00Z");
    }

    #[test]
    fn an_owned_certificate_is_the_same_certificate() {
        let alice = unhex(ALICE);
        // Without its extensions, and so without its version, it is of version 1.
        let mut outer = Der::new(&alice).any("Certificate").expect("it is well formed").inside();
        let mut fields = outer.any("TBSCertificate").expect("it is well formed").inside();
        let mut tbs: Vec<&[u8]> = Vec::new();
        while !fields.is_empty() {
            let field = fields.any("field").expect("it is well formed");
            if !matches!(field.tag, 0xa0 | 0xa3) {
                tbs.push(field.encoded);
            }
        }
        let tbs = der::encode(der::SEQUENCE, &tbs);
        let old = der::encode(der::SEQUENCE, &[&tbs, outer.rest()]);
        for encoded in [alice, old] {
            let bytes = Bytes::copy_from_slice(&encoded);
            let owned = OwnedCertificate::parse(bytes.clone()).expect("it is well formed");
            let (owned, parsed) = (owned.get(), Certificate::parse(&bytes).expect("it is well formed"));
            parsed.alternative_names().expect("it is well formed");
            owned.alternative_names().expect("it is well formed");
            assert_eq!(format!("{owned:?}"), format!("{parsed:?}"));
            assert_eq!(owned.sha256()[..], Sha256::digest(&encoded)[..]);
            assert_eq!(owned.sha1()[..], Sha1::digest(&encoded)[..]);
        }
    }

    #[test]
    fn copies_of_a_certificate_share_what_was_decoded() {
        let owned = OwnedCertificate::parse(unhex(ALICE).into()).expect("it is well formed");
        let (one, other) = (owned.get(), owned.clone());
        let names = one.alternative_names().expect("it is well formed").as_ptr();
        assert_eq!(other.get().alternative_names().expect("it is well formed").as_ptr(), names);
        assert_eq!(one.clone().alternative_names().expect("it is well formed").as_ptr(), names);
    }

    #[test]
    fn object_identifiers_are_read_as_they_are_printed() {
        for (dotted, contents) in [
            ("2.5.4.3", Some(&[0x55, 0x04, 0x03][..])),
            ("1.2.840.113549.1.9.1", Some(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01])),
            ("2.999", Some(&[0x88, 0x37])),
            ("1.3.6.1.4.1.311.20.2.2", Some(&[0x2b, 6, 1, 4, 1, 0x82, 0x37, 20, 2, 2])),
            ("1", None),
            ("3.1", None),
            ("1.40", None),
            ("1.2.", None),
            ("1.+2", None),
            ("", None),
            ("1.2.18446744073709551616", None),
        ] {
            assert_eq!(object_identifier(dotted).as_deref(), contents, "{dotted}");
        }
        let largest = "2.5.18446744073709551615";
        assert_eq!(object_identifier(largest).and_then(|oid| der::dotted(&oid)).as_deref(), Some(largest));
    }

    #[test]
    fn another_parser_sees_the_same_fields() {
        let encoded = unhex(ALICE);
        let ours = Certificate::parse(&encoded).expect("it is well formed");
        let (_, theirs) =
            x509_parser::certificate::X509Certificate::from_der(&encoded).expect("it is well formed");
        assert_eq!(ours.serial, theirs.raw_serial());
        assert_eq!(ours.issuer, theirs.issuer().as_raw());
        assert_eq!(ours.subject, theirs.subject().as_raw());
        assert_eq!(ours.public_key, theirs.public_key().raw);
        assert_eq!(ours.not_before.to_unix(), theirs.validity().not_before.timestamp());
        assert_eq!(ours.not_after.to_unix(), theirs.validity().not_after.timestamp());
    }

    #[test]
    fn no_truncated_or_extended_certificate_is_read() {
        let encoded = unhex(ALICE);
        for len in 0..encoded.len() {
            assert!(Certificate::parse(&encoded[..len]).is_err(), "{len}");
        }
        let mut longer = encoded;
        longer.push(0);
        assert!(Certificate::parse(&longer).is_err());
    }

    #[test]
    fn whatever_byte_is_wrong_nothing_panics() {
        let encoded = unhex(ALICE);
        for at in 0..encoded.len() {
            for value in [0x00, 0x01, 0x7f, 0x80, 0x81, 0x84, 0xff, encoded[at] ^ 0x20] {
                let mut wrong = encoded.clone();
                wrong[at] = value;
                if let Ok(certificate) = Certificate::parse(&wrong) {
                    let _ = (certificate.alternative_names(), certificate.sid(), certificate.issuer_name());
                    let _ = (certificate.subject_key_identifier(), certificate.subject_name());
                }
            }
        }
    }

    #[test]
    fn an_extension_that_occurs_twice_is_refused() {
        let encoded = unhex(ALICE);
        // Turn the extended key usage (2.5.29.37) into a second subject alternative name.
        let at = encoded.windows(3).position(|window| window == [0x55, 0x1d, 0x25]).expect("it is there");
        let mut twice = encoded;
        twice[at + 2] = 0x11;
        assert!(Certificate::parse(&twice).is_err());
    }

    #[test]
    fn an_alternative_name_has_its_kind_s_form() {
        let encoded = unhex(ALICE);
        let text = b"alice@contoso.com";
        let tag = encoded.windows(text.len()).rposition(|window| window == text).expect("rfc822Name") - 2;
        for wrong in [0xa1, 0xa2, 0xa6, 0x80] {
            let mut encoded = encoded.clone();
            encoded[tag] = wrong;
            let certificate = Certificate::parse(&encoded).expect("the certificate is not concerned");
            assert!(certificate.alternative_names().is_err(), "{wrong:x}");
        }
    }

    #[test]
    fn times_have_one_form() {
        for (tag, text, expect) in [
            (0x17, "491231235959Z", Some("2049-12-31T23:59:59Z")),
            (0x17, "500101000000Z", Some("1950-01-01T00:00:00Z")),
            (0x18, "20500101000000Z", Some("2050-01-01T00:00:00Z")),
            (0x18, "99991231235959Z", Some("9999-12-31T23:59:59Z")),
            (0x17, "4912312359Z", None),
            (0x17, "491231235959+0100", None),
            (0x18, "20501301000000Z", None),
            (0x18, "20500101240000Z", None),
            (0x04, "491231235959Z", None),
        ] {
            let mut encoded = vec![tag, text.len() as u8];
            encoded.extend_from_slice(text.as_bytes());
            let read = time(&mut Der::new(&encoded), "notBefore").ok().map(|time| time.to_string());
            assert_eq!(read.as_deref(), expect, "{text}");
        }
    }
}
