//! What certificates, revocation lists and OCSP responses have in common (RFC 5280 4.1.1): something, who signed it how,
//! and the signature.

use crate::der::{self, Der, Element};
use dtyp::DecodeError;

/// Something signed, taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signed<'a> {
    /// What is signed: the element as it is encoded.
    pub(super) tbs: Element<'a>,
    /// The contents of the AlgorithmIdentifier.
    pub(super) algorithm: &'a [u8],
    signature: &'a [u8],
}

/// Why a signature is not a key's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignatureError {
    /// The algorithm is not one that is believed, or not the key's.
    UnsupportedAlgorithm,
    /// It is wrong.
    BadSignature,
}

impl<'a> Signed<'a> {
    /// Reads the three fields, and not what follows them.
    pub(super) fn read(fields: &mut Der<'a>) -> Result<Self, DecodeError> {
        let tbs = fields.expect("what is signed", der::SEQUENCE)?;
        let algorithm = fields.expect("signatureAlgorithm", der::SEQUENCE)?.contents;
        let signature = der::octets(&fields.expect("signatureValue", der::BIT_STRING)?)?;
        Ok(Self { tbs, algorithm, signature })
    }

    /// Reads something signed and nothing else.
    pub(super) fn parse(encoded: &'a [u8], what: &'static str) -> Result<Self, DecodeError> {
        let mut outer = Der::new(encoded);
        let mut fields = outer.expect(what, der::SEQUENCE)?.inside();
        outer.finish(what)?;
        let signed = Self::read(&mut fields)?;
        fields.finish(what)?;
        Ok(signed)
    }

    /// Whether the owner of this key, an encoded SubjectPublicKeyInfo, has signed it.
    pub(super) fn verify(&self, public_key: &[u8]) -> Result<(), SignatureError> {
        let (key_algorithm, key) =
            subject_public_key(public_key).map_err(|_| SignatureError::UnsupportedAlgorithm)?;
        let mut verdict = Err(SignatureError::UnsupportedAlgorithm);
        for algorithm in webpki::ALL_VERIFICATION_ALGS {
            if algorithm.signature_alg_id().as_ref() == self.algorithm
                && algorithm.public_key_alg_id().as_ref() == key_algorithm
            {
                match algorithm.verify_signature(key, self.tbs.encoded, self.signature) {
                    Ok(()) => return Ok(()),
                    Err(_) => verdict = Err(SignatureError::BadSignature),
                }
            }
        }
        verdict
    }
}

/// The contents of the AlgorithmIdentifier and the key itself of an encoded SubjectPublicKeyInfo.
pub(super) fn subject_public_key(encoded: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
    let mut outer = Der::new(encoded);
    let mut fields = outer.expect("SubjectPublicKeyInfo", der::SEQUENCE)?.inside();
    outer.finish("SubjectPublicKeyInfo")?;
    let algorithm = fields.expect("algorithm", der::SEQUENCE)?.contents;
    let key = der::octets(&fields.expect("subjectPublicKey", der::BIT_STRING)?)?;
    fields.finish("SubjectPublicKeyInfo")?;
    Ok((algorithm, key))
}
