//! The Online Certificate Status Protocol (RFC 6960): what is asked, and whether an answer is one.
//!
//! An answer counts when it is signed by the CA itself, by a responder that the CA certified for that
//! (id-kp-OCSPSigning), or by one that the operator named. Whether a certified responder is revoked itself is
//! not asked, with or without id-pkix-ocsp-nocheck: who else could tell.

use super::authority::{Authority, KeyId};
use super::chain::{Link, check_direct, is_within};
use super::crl::{CLOCK_SKEW_SECONDS, Currency, RevocationReason, currency, later};
use super::extensions::{SIGNS, value};
use super::hashes::CertIdHash;
use super::name::Name;
use super::refusal::ChainError;
use super::serial::Serial;
use super::signature::{SignatureError, Signed, subject_public_key};
use crate::certificate::{Certificate, extension, time};
use crate::der::{self, Der, Element};
use dtyp::{DecodeError, DecodeErrorKind, FileTime};
use sha1::{Digest, Sha1};
use std::fmt;
use std::sync::Arc;

/// Largest response, in bytes: one status and a few certificates have two thousand.
pub const OCSP_RESPONSE_LEN_MAX: usize = 64 << 10;
/// Longest time for which an answer is used, whatever it says itself.
pub const OCSP_ANSWER_SECONDS_MAX: i64 = 3600;
/// How long an answer is used that does not say when the next one comes.
pub const OCSP_ANSWER_SECONDS_WITHOUT_NEXT_UPDATE: i64 = 600;
/// Most certificates of a response that are looked at; responders send one.
const CERTIFICATES_MAX: usize = 8;

/// id-pkix-ocsp-basic, 1.3.6.1.5.5.7.48.1.1.
const OCSP_BASIC: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];
/// id-pkix-ocsp-nonce, 1.3.6.1.5.5.7.48.1.2.
const OCSP_NONCE: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x02];
/// id-kp-OCSPSigning, 1.3.6.1.5.5.7.3.9.
const OCSP_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x09];
/// id-sha1, 1.3.14.3.2.26.
const SHA1: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];
/// id-sha256, 2.16.840.1.101.3.4.2.1.
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];

/// Most octets of a nonce (RFC 9654 2.1).
pub const NONCE_LEN_MAX: usize = 128;
/// Octets of a nonce that a responder which rejects a longer one is asked with: what OpenSSL sends, so every
/// responder that supports nonces accepts it.
const NONCE_LEN_FALLBACK: usize = 16;

/// A nonce (RFC 9654); the transport draws it.
pub type Nonce = Vec<u8>;

/// How a responder is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OcspAsking {
    /// Octets of the nonce, up to [`NONCE_LEN_MAX`]; 0 for none.
    pub nonce_len: usize,
    /// Whether an answer without the nonce is refused.
    pub nonce_required: bool,
    /// The hash in the CertID of the first request.
    pub hash: CertIdHash,
}

/// What RFC 9654 2.1 asks of clients, and the hash that every responder knows (RFC 5019 2.1.1).
impl Default for OcspAsking {
    fn default() -> Self {
        Self { nonce_len: 32, nonce_required: false, hash: CertIdHash::Sha1 }
    }
}

impl CertIdHash {
    const fn id(self) -> &'static [u8] {
        match self {
            Self::Sha1 => SHA1,
            Self::Sha256 => SHA256,
        }
    }
}

/// CertID (RFC 6960 4.1.1). It names; it proves nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertId {
    /// The hash.
    pub hash: CertIdHash,
    /// That of the issuer's encoded name.
    pub issuer_name_hash: Vec<u8>,
    /// That of the issuer's key.
    pub issuer_key_hash: Vec<u8>,
    /// The serial number.
    pub serial: Serial,
}

impl CertId {
    fn new(hash: CertIdHash, issuer: &Authority, link: &Link) -> Self {
        Self {
            hash,
            issuer_name_hash: link.issuer_name_hashes.by(hash),
            issuer_key_hash: issuer.ocsp_key_hashes.by(hash),
            serial: link.serial,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let algorithm = [der::encode(der::OID, &[self.hash.id()]), der::encode(der::NULL, &[])].concat();
        der::encode(
            der::SEQUENCE,
            &[
                &der::encode(der::SEQUENCE, &[&algorithm]),
                &der::encode(der::OCTET_STRING, &[&self.issuer_name_hash]),
                &der::encode(der::OCTET_STRING, &[&self.issuer_key_hash]),
                &der::encode(der::INTEGER, &[&self.serial.contents()]),
            ],
        )
    }
}

/// OCSPRequest (RFC 6960 4.1.1) about one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whose status is asked.
    pub id: CertId,
    /// The same certificate by the other hash: an answer may name it by either.
    pub same: CertId,
    /// What the answer has to repeat, if the responder does nonces.
    pub nonce: Option<Nonce>,
    /// Whether it has to repeat it in any case.
    pub nonce_required: bool,
}

impl Request {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let request = der::encode(der::SEQUENCE, &[&self.id.encode()]);
        let list = der::encode(der::SEQUENCE, &[&request]);
        let extensions = self.nonce.as_ref().map_or_else(Vec::new, |nonce| {
            let nonce = der::encode(der::OCTET_STRING, &[&der::encode(der::OCTET_STRING, &[nonce])]);
            let extension = der::encode(der::SEQUENCE, &[&der::encode(der::OID, &[OCSP_NONCE]), &nonce]);
            der::encode(0xa2, &[&der::encode(der::SEQUENCE, &[&extension])])
        });
        der::encode(der::SEQUENCE, &[&der::encode(der::SEQUENCE, &[&list, &extensions])])
    }
}

/// A question for a responder: send the request to the URL, and bring what comes back to
/// [`Trust::ocsp_answer`](super::Trust::ocsp_answer).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OcspQuestion {
    /// The responder, as the operator configured it.
    pub url: Arc<str>,
    /// An encoded OCSPRequest.
    pub request: Vec<u8>,
    /// The certificate that it is about; the same for every question about it.
    pub key: [u8; 32],
    /// The CA that issued it.
    pub authority: KeyId,
    pub(super) asked: Request,
    pub(super) issuer_name: Name,
    /// Whether it was asked by both hashes.
    is_rehashed: bool,
}

impl OcspQuestion {
    pub(super) fn new(
        url: Arc<str>,
        asking: OcspAsking,
        issuer: &Authority,
        link: &Link,
        nonce: Option<Nonce>,
    ) -> Self {
        let other = match asking.hash {
            CertIdHash::Sha1 => CertIdHash::Sha256,
            CertIdHash::Sha256 => CertIdHash::Sha1,
        };
        let id = CertId::new(asking.hash, issuer, link);
        let same = CertId::new(other, issuer, link);
        let asked = Request { id, same, nonce, nonce_required: asking.nonce_required };
        Self {
            url,
            request: asked.encode(),
            key: link.id,
            authority: link.issuer,
            asked,
            issuer_name: link.issuer_name.clone(),
            is_rehashed: false,
        }
    }

    /// Whether it has a nonce.
    pub const fn has_nonce(&self) -> bool {
        self.asked.nonce.is_some()
    }

    /// The question as it is asked next, after the responder has refused it: with a shorter nonce, then
    /// without one unless the nonce is required, then with the other hash. `None` when that would not help,
    /// or was all tried.
    pub fn again(&self, refusal: &OcspError) -> Option<Self> {
        let mut next = self.clone();
        let len = next.asked.nonce.as_ref().map_or(0, Vec::len);
        match refusal {
            // malformedRequest or internalError: responders that do not know RFC 9654 say so of a nonce.
            OcspError::NotSuccessful(1 | 2) if len > NONCE_LEN_FALLBACK => {
                next.asked.nonce.iter_mut().for_each(|nonce| nonce.truncate(NONCE_LEN_FALLBACK));
            }
            OcspError::NotSuccessful(1 | 2) if len > 0 && !next.asked.nonce_required => {
                next.asked.nonce = None
            }
            // unauthorized: what a responder says of a certificate that it does not find (RFC 5019 2.2.3).
            OcspError::NotSuccessful(1 | 2 | 6) if !next.is_rehashed => {
                std::mem::swap(&mut next.asked.id, &mut next.asked.same);
                next.is_rehashed = true;
            }
            _ => return None,
        }
        next.request = next.asked.encode();
        Some(next)
    }
}

/// Why a response is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OcspError {
    /// The question is not about a configured CA with a responder.
    NotAsked,
    /// It is longer than [`OCSP_RESPONSE_LEN_MAX`].
    TooLarge,
    /// It cannot be read.
    Malformed(DecodeError),
    /// The responder refuses: 1 malformedRequest, 2 internalError, 3 tryLater, 5 sigRequired, 6 unauthorized.
    NotSuccessful(u8),
    /// It is of a type that is not known.
    UnknownType,
    /// It, or its status, has a critical extension that is not known.
    UnknownCritical,
    /// Its signer is neither the CA, nor certified by it, nor configured.
    UnknownSigner,
    /// The certificate of its signer is not one for a responder of this CA.
    BadSigner(ChainError),
    /// The signature is wrong.
    BadSignature,
    /// It is signed by an algorithm that is not accepted.
    UnsupportedAlgorithm,
    /// It is about another certificate.
    OtherCertificate,
    /// It tells more than one status of the certificate.
    Ambiguous,
    /// Its nonce is not that of the question.
    OtherNonce,
    /// It has no nonce, and the nonce is required.
    NoNonce,
    /// Its thisUpdate is in the future.
    NotYetValid(FileTime),
    /// There is a newer one by now.
    Expired(FileTime),
    /// A newer answer is known.
    Older,
}

impl OcspError {
    /// A stable name for logs and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NotAsked => "not_asked",
            Self::TooLarge => "too_large",
            Self::Malformed(_) => "malformed",
            Self::NotSuccessful(_) => "not_successful",
            Self::UnknownType => "unknown_type",
            Self::UnknownCritical => "unknown_critical",
            Self::UnknownSigner => "unknown_signer",
            Self::BadSigner(_) => "bad_signer",
            Self::BadSignature => "bad_signature",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::OtherCertificate => "other_certificate",
            Self::Ambiguous => "ambiguous",
            Self::OtherNonce => "other_nonce",
            Self::NoNonce => "no_nonce",
            Self::NotYetValid(_) => "not_yet_valid",
            Self::Expired(_) => "expired",
            Self::Older => "older",
        }
    }
}

impl fmt::Display for OcspError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAsked => "the question is not about a CA with a configured responder",
            Self::TooLarge => "the OCSP response is larger than 64 KiB",
            Self::Malformed(error) => return write!(f, "the OCSP response cannot be read: {error}"),
            Self::NotSuccessful(status) => {
                return write!(f, "the OCSP responder refuses with {}", response_status(*status));
            }
            Self::UnknownType => "the OCSP response is of a type that is not known",
            Self::UnknownCritical => "the OCSP response has a critical extension that is not known",
            Self::UnknownSigner => {
                "the signer of the OCSP response is neither the CA, nor certified by it, nor configured"
            }
            Self::BadSigner(error) => {
                let why = match error {
                    ChainError::UnknownIssuer | ChainError::BadSignature => {
                        "it was not issued by the CA that is asked about"
                    }
                    ChainError::NotForClientAuthentication => {
                        "its extended key usage does not name OCSPSigning (1.3.6.1.5.5.7.3.9)"
                    }
                    error => error.text(),
                };
                return write!(f, "the certificate of the OCSP responder is of no use: {why}");
            }
            Self::BadSignature => "the signature of the OCSP response is wrong",
            Self::UnsupportedAlgorithm => "the OCSP response is signed by an algorithm that is not accepted",
            Self::OtherCertificate => "the OCSP response is about another certificate",
            Self::Ambiguous => "the OCSP response tells more than one status of the certificate",
            Self::OtherNonce => "the nonce of the OCSP response is not that of the request",
            Self::NoNonce => "the OCSP response has no nonce, and ocsp_nonce_required is set",
            Self::NotYetValid(time) => {
                return write!(
                    f,
                    "the OCSP response is not yet valid: its thisUpdate {time} is in the future"
                );
            }
            Self::Expired(time) => return write!(f, "the OCSP response expired at {time}"),
            Self::Older => "a newer OCSP response is known",
        })
    }
}

impl std::error::Error for OcspError {}

impl From<DecodeError> for OcspError {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error)
    }
}

const fn response_status(status: u8) -> &'static str {
    match status {
        1 => "malformedRequest",
        2 => "internalError",
        3 => "tryLater",
        5 => "sigRequired",
        6 => "unauthorized",
        _ => "a status that is not known",
    }
}

/// certStatus (RFC 6960 4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OcspStatus {
    /// Not revoked.
    Good,
    /// Revoked.
    Revoked {
        /// The revocation time that the CA states.
        since: FileTime,
        /// The CRLReason (RFC 5280, section 5.3.1).
        reason: RevocationReason,
    },
    /// The responder does not know the certificate.
    Unknown,
}

/// An answer that was believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OcspAnswer {
    /// What it says.
    pub status: OcspStatus,
    /// When that was so.
    pub this_update: FileTime,
    /// Until when it is used.
    pub until: FileTime,
    /// Whether it repeats the nonce of the question, so that it was made for it.
    pub has_nonce: bool,
}

impl OcspAnswer {
    pub(super) fn is_current(&self, now: FileTime) -> bool {
        currency(self.this_update, self.until, now) == Currency::Current
    }
}

/// A response whose signature is not verified, taken apart.
#[derive(Clone, Debug)]
pub struct UnverifiedResponse<'a> {
    signed: Signed<'a>,
    responder: ResponderId<'a>,
    responses: Vec<SingleResponse<'a>>,
    nonce: Option<&'a [u8]>,
    certificates: Vec<&'a [u8]>,
}

#[derive(Clone, Copy, Debug)]
enum ResponderId<'a> {
    /// An encoded name.
    Name(&'a [u8]),
    /// SHA-1 of a key.
    Key(&'a [u8]),
}

impl ResponderId<'_> {
    fn is(&self, name: &[u8], public_key: &[u8]) -> bool {
        match self {
            Self::Name(id) => {
                let read = |name| Name::read(name).ok();
                *id == name || read(id).is_some_and(|id| Some(id) == read(name))
            }
            Self::Key(id) => {
                subject_public_key(public_key).is_ok_and(|(_, key)| Sha1::digest(key)[..] == **id)
            }
        }
    }
}

/// The hash, the hashes of the name and of the key, and the serial number.
type CertIdFields<'a> = (CertIdHash, &'a [u8], &'a [u8], &'a [u8]);

#[derive(Clone, Debug)]
struct SingleResponse<'a> {
    /// None when the hash is not known.
    id: Option<CertIdFields<'a>>,
    status: OcspStatus,
    this_update: FileTime,
    next_update: Option<FileTime>,
}

impl<'a> UnverifiedResponse<'a> {
    /// Reads a response; one that is not successful is an error.
    pub fn parse(encoded: &'a [u8]) -> Result<Self, OcspError> {
        if encoded.len() > OCSP_RESPONSE_LEN_MAX {
            return Err(OcspError::TooLarge);
        }
        let mut outer = Der::new(encoded);
        let mut response = outer.expect("OCSPResponse", der::SEQUENCE)?.inside();
        outer.finish("OCSPResponse")?;
        let status = response.expect("responseStatus", der::ENUMERATED)?;
        match status.contents {
            [0] => {}
            [status] => return Err(OcspError::NotSuccessful(*status)),
            _ => return Err(status.inside().error("responseStatus", DecodeErrorKind::BadValue).into()),
        }
        let mut explicit = response.expect("responseBytes", 0xa0)?.inside();
        response.finish("OCSPResponse")?;
        let mut bytes = explicit.expect("responseBytes", der::SEQUENCE)?.inside();
        explicit.finish("responseBytes")?;
        if bytes.expect("responseType", der::OID)?.contents != OCSP_BASIC {
            return Err(OcspError::UnknownType);
        }
        let mut octets = bytes.expect("response", der::OCTET_STRING)?.inside();
        bytes.finish("responseBytes")?;
        let mut basic = octets.expect("BasicOCSPResponse", der::SEQUENCE)?.inside();
        octets.finish("response")?;
        let signed = Signed::read(&mut basic)?;
        let mut certificates = Vec::new();
        if let Some(explicit) = basic.optional("certs", 0xa0)? {
            let mut explicit = explicit.inside();
            let mut list = explicit.expect("certs", der::SEQUENCE)?.inside();
            explicit.finish("certs")?;
            while !list.is_empty() {
                if certificates.len() >= CERTIFICATES_MAX {
                    return Err(list.error("certs", DecodeErrorKind::TooLong).into());
                }
                certificates.push(list.expect("Certificate", der::SEQUENCE)?.encoded);
            }
        }
        basic.finish("BasicOCSPResponse")?;

        let mut data = signed.tbs.inside();
        if let Some(version) = data.optional("version", 0xa0)? {
            let mut explicit = version.inside();
            let version = explicit.expect("version", der::INTEGER)?;
            explicit.finish("version")?;
            if version.contents != [0] {
                return Err(version.inside().error("version", DecodeErrorKind::BadValue).into());
            }
        }
        let responder = data.any("responderID")?;
        let mut explicit = responder.inside();
        let responder = match responder.tag {
            0xa1 => ResponderId::Name(explicit.expect("byName", der::SEQUENCE)?.encoded),
            0xa2 => ResponderId::Key(explicit.expect("byKey", der::OCTET_STRING)?.contents),
            _ => return Err(explicit.error("responderID", DecodeErrorKind::BadValue).into()),
        };
        explicit.finish("responderID")?;
        time(&mut data, "producedAt")?;
        let mut list = data.expect("responses", der::SEQUENCE)?.inside();
        let extensions = data.optional("responseExtensions", 0xa1)?;
        data.finish("ResponseData")?;
        let mut responses = Vec::new();
        while !list.is_empty() {
            responses.push(single_response(&mut list)?);
        }
        let mut nonce = None;
        if let Some(extensions) = extensions {
            for_each_extension(&extensions, |extension| match extension.id {
                OCSP_NONCE if nonce.is_none() => {
                    nonce = Some(value(&extension, "nonce", der::OCTET_STRING)?.contents);
                    Ok(true)
                }
                _ => Ok(false),
            })?;
        }
        Ok(Self { signed, responder, responses, nonce, certificates })
    }

    /// Whether it is an answer to this question, and which.
    pub(super) fn answer(
        &self,
        asked: &Request,
        issuer: &Authority,
        signer: Option<&Signer>,
        now: FileTime,
    ) -> Result<OcspAnswer, OcspError> {
        let mut until = self.verify(issuer, signer, now)?;
        match (&asked.nonce, self.nonce) {
            (Some(asked), Some(nonce)) if asked == nonce => {}
            (_, Some(_)) => return Err(OcspError::OtherNonce),
            (_, None) if asked.nonce_required => return Err(OcspError::NoNonce),
            (_, None) => {}
        }
        let response = match (self.about(&asked.id)?, self.about(&asked.same)?) {
            (Some(one), Some(other)) if one.status != other.status => return Err(OcspError::Ambiguous),
            (Some(response), _) | (None, Some(response)) => response,
            (None, None) => return Err(OcspError::OtherCertificate),
        };
        let next_update = match response.next_update {
            Some(next_update) => later(next_update, CLOCK_SKEW_SECONDS),
            None => {
                until = until.min(later(now, OCSP_ANSWER_SECONDS_WITHOUT_NEXT_UPDATE));
                later(response.this_update, OCSP_ANSWER_SECONDS_WITHOUT_NEXT_UPDATE)
            }
        };
        match currency(response.this_update, next_update, now) {
            Currency::Current => {}
            Currency::Expired => return Err(OcspError::Expired(next_update)),
            Currency::NotYetValid => return Err(OcspError::NotYetValid(response.this_update)),
        }
        until = until.min(next_update).min(later(now, OCSP_ANSWER_SECONDS_MAX));
        let has_nonce = self.nonce.is_some();
        Ok(OcspAnswer { status: response.status, this_update: response.this_update, until, has_nonce })
    }

    /// The one status that is told under this identifier.
    fn about(&self, id: &CertId) -> Result<Option<&SingleResponse<'a>>, OcspError> {
        let serial = id.serial.contents();
        let id = Some((id.hash, &id.issuer_name_hash[..], &id.issuer_key_hash[..], &serial[..]));
        let mut responses = self.responses.iter().filter(|response| response.id == id);
        match (responses.next(), responses.next()) {
            (response, None) => Ok(response),
            _ => Err(OcspError::Ambiguous),
        }
    }

    /// Finds who signed it; returns until when that counts.
    fn verify(
        &self,
        issuer: &Authority,
        signer: Option<&Signer>,
        now: FileTime,
    ) -> Result<FileTime, OcspError> {
        if self.responder.is(&issuer.name, &issuer.public_key) {
            return self.signed.verify(&issuer.public_key).map(|()| issuer.not_after).map_err(refuse);
        }
        if let Some(signer) = signer
            && self.responder.is(&signer.name, &signer.public_key)
        {
            return match (signer.not_before, signer.not_after) {
                (first, last) if is_within(first, last, now) => {
                    self.signed.verify(&signer.public_key).map(|()| last).map_err(refuse)
                }
                (_, last) if last < now => Err(OcspError::BadSigner(ChainError::Expired)),
                _ => Err(OcspError::BadSigner(ChainError::NotYetValid)),
            };
        }
        let mut error = OcspError::UnknownSigner;
        for encoded in &self.certificates {
            let Ok(certificate) = Certificate::parse(encoded) else { continue };
            if !self.responder.is(certificate.subject, certificate.public_key) {
                continue;
            }
            match delegated(&certificate, issuer, now) {
                Ok(()) => {
                    return self
                        .signed
                        .verify(certificate.public_key)
                        .map(|()| certificate.not_after)
                        .map_err(refuse);
                }
                Err(reason) => error = OcspError::BadSigner(reason),
            }
        }
        Err(error)
    }
}

fn refuse(error: SignatureError) -> OcspError {
    match error {
        SignatureError::BadSignature => OcspError::BadSignature,
        SignatureError::UnsupportedAlgorithm => OcspError::UnsupportedAlgorithm,
    }
}

/// Whether a CA has certified, directly, that this certificate's owner answers for it: by id-kp-OCSPSigning,
/// and neither by anyExtendedKeyUsage nor by no extension.
fn delegated(certificate: &Certificate<'_>, issuer: &Authority, now: FileTime) -> Result<(), ChainError> {
    let profile = check_direct(certificate, issuer, OCSP_SIGNING, now)?;
    match profile.key_usage.is_none_or(|bits| bits & SIGNS != 0) {
        true => Ok(()),
        false => Err(ChainError::NotForSigning),
    }
}

/// A responder that the operator named.
#[derive(Clone, Debug)]
pub(super) struct Signer {
    name: Vec<u8>,
    public_key: Vec<u8>,
    not_before: FileTime,
    not_after: FileTime,
}

impl Signer {
    pub(super) fn new(encoded: &[u8]) -> Result<Self, DecodeError> {
        let certificate = Certificate::parse(encoded)?;
        subject_public_key(certificate.public_key)?;
        Ok(Self {
            name: certificate.subject.to_vec(),
            public_key: certificate.public_key.to_vec(),
            not_before: certificate.not_before,
            not_after: certificate.not_after,
        })
    }
}

fn single_response<'a>(list: &mut Der<'a>) -> Result<SingleResponse<'a>, OcspError> {
    let mut fields = list.expect("SingleResponse", der::SEQUENCE)?.inside();
    let mut id = fields.expect("certID", der::SEQUENCE)?.inside();
    let mut algorithm = id.expect("hashAlgorithm", der::SEQUENCE)?.inside();
    let algorithm = algorithm.expect("algorithm", der::OID)?.contents;
    let hash = [CertIdHash::Sha1, CertIdHash::Sha256].into_iter().find(|hash| hash.id() == algorithm);
    let name = id.expect("issuerNameHash", der::OCTET_STRING)?.contents;
    let key = id.expect("issuerKeyHash", der::OCTET_STRING)?.contents;
    let serial = id.expect("serialNumber", der::INTEGER)?.contents;
    id.finish("CertID")?;

    let status = fields.any("certStatus")?;
    let status = match status.tag {
        0x80 | 0x82 if !status.contents.is_empty() => {
            return Err(status.inside().error("certStatus", DecodeErrorKind::Trailing).into());
        }
        0x80 => OcspStatus::Good,
        0x82 => OcspStatus::Unknown,
        0xa1 => revoked_info(&status)?,
        _ => return Err(status.inside().error("certStatus", DecodeErrorKind::BadValue).into()),
    };
    let this_update = time(&mut fields, "thisUpdate")?;
    let next_update = match fields.optional("nextUpdate", 0xa0)? {
        None => None,
        Some(explicit) => {
            let mut explicit = explicit.inside();
            let next_update = time(&mut explicit, "nextUpdate")?;
            explicit.finish("nextUpdate")?;
            Some(next_update)
        }
    };
    let extensions = fields.optional("singleExtensions", 0xa1)?;
    fields.finish("SingleResponse")?;
    if let Some(extensions) = extensions {
        for_each_extension(&extensions, |_| Ok(false))?;
    }
    let id = hash.map(|hash| (hash, name, key, serial));
    Ok(SingleResponse { id, status, this_update, next_update })
}

fn revoked_info(info: &Element<'_>) -> Result<OcspStatus, OcspError> {
    let mut fields = info.inside();
    let since = time(&mut fields, "revocationTime")?;
    let mut reason = RevocationReason::UNSPECIFIED;
    if let Some(explicit) = fields.optional("revocationReason", 0xa0)? {
        let mut explicit = explicit.inside();
        let bad = explicit.error("revocationReason", DecodeErrorKind::BadValue);
        let code = explicit.expect("revocationReason", der::ENUMERATED)?.contents;
        explicit.finish("revocationReason")?;
        reason = RevocationReason::new(code).ok_or(bad)?;
    }
    fields.finish("RevokedInfo")?;
    Ok(OcspStatus::Revoked { since, reason })
}

/// Goes through explicitly tagged extensions; `known` tells which it has taken.
fn for_each_extension<'a>(
    explicit: &Element<'a>,
    mut known: impl FnMut(crate::certificate::Extension<'a>) -> Result<bool, DecodeError>,
) -> Result<(), OcspError> {
    let mut explicit = explicit.inside();
    let mut list = explicit.expect("extensions", der::SEQUENCE)?.inside();
    explicit.finish("extensions")?;
    while !list.is_empty() {
        let extension = extension(&mut list)?;
        if !known(extension)? && extension.critical {
            return Err(OcspError::UnknownCritical);
        }
    }
    Ok(())
}
