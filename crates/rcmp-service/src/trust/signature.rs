//! What certificates, CRLs and OCSP responses have in common (RFC 5280 4.1.1): something, who signed it how,
//! and the signature.

use super::pss::{Pss, RSASSA_PSS};
use super::refusal::{ChainError, Detail, Fault};
use crate::der::{self, Der, Element};
use dtyp::DecodeError;

/// Most bits of an RSA modulus: larger ones cost time and no verifier accepts them.
const RSA_BITS_MAX: usize = 8192;
/// rsaEncryption, 1.2.840.113549.1.1.1.
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// id-Ed25519, 1.3.101.112.
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
/// Octets of a key of Ed25519 (RFC 8032 5.1.5).
const ED25519_LEN: usize = 32;
/// id-ml-dsa-44, -65 and -87, 2.16.840.1.101.3.4.3.17 to 19, without the last octet.
const ML_DSA: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03];
/// The last octet of each, and the octets of its keys (FIPS 204, table 2).
const ML_DSA_LENS: [(u8, usize); 3] = [(17, 1312), (18, 1952), (19, 2592)];
/// id-ecPublicKey, 1.2.840.10045.2.1.
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// secp256r1, secp384r1 and secp521r1, each with the length of a coordinate.
const CURVES: [(&[u8], usize); 3] = [
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07], 32),
    (&[0x2b, 0x81, 0x04, 0x00, 0x22], 48),
    (&[0x2b, 0x81, 0x04, 0x00, 0x23], 66),
];

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
    /// The algorithm is not one that is accepted.
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

    /// The object identifier of the algorithm.
    pub(super) fn algorithm_id(&self) -> &'a [u8] {
        Der::new(self.algorithm).expect("algorithm", der::OID).map_or(&[], |id| id.contents)
    }

    /// Whether the owner of this key, an encoded SubjectPublicKeyInfo, has signed it.
    pub(super) fn verify(&self, public_key: &[u8]) -> Result<(), SignatureError> {
        let (key_algorithm, key) =
            subject_public_key(public_key).map_err(|_| SignatureError::UnsupportedAlgorithm)?;
        if self.algorithm_id() == RSASSA_PSS {
            return self.verify_pss(key_algorithm, key);
        }
        let mut verdict = Err(SignatureError::UnsupportedAlgorithm);
        for algorithm in webpki::ALL_VERIFICATION_ALGS {
            if algorithm.signature_alg_id().as_ref() != self.algorithm {
                continue;
            }
            // The algorithm is accepted; with a key of another kind it is another key's signature.
            verdict = Err(SignatureError::BadSignature);
            if algorithm.public_key_alg_id().as_ref() == key_algorithm
                && algorithm.verify_signature(key, self.tbs.encoded, self.signature).is_ok()
            {
                return Ok(());
            }
        }
        verdict
    }

    fn verify_pss(&self, key_algorithm: &[u8], key: &[u8]) -> Result<(), SignatureError> {
        let mut algorithm = Der::new(self.algorithm);
        let pss = algorithm.expect("algorithm", der::OID).and_then(|_| Pss::read(&mut algorithm));
        let pss = pss.ok().flatten().filter(|_| algorithm.is_empty());
        let pss = pss.ok_or(SignatureError::UnsupportedAlgorithm)?;
        let mut key_algorithm = Der::new(key_algorithm);
        let is_allowed = match key_algorithm.expect("algorithm", der::OID).map(|id| id.contents) {
            Ok(RSA_ENCRYPTION) => true,
            Ok(RSASSA_PSS) => pss.is_allowed_by(key_algorithm),
            _ => false,
        };
        match is_allowed && pss.verify(key, self.tbs.encoded, self.signature) {
            true => Ok(()),
            false => Err(SignatureError::BadSignature),
        }
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

/// The octets of a positive number, from the contents of an INTEGER of DER: neither padded nor negative
/// (X.690 8.3.2), nor 0.
const fn positive(contents: &[u8]) -> Option<&[u8]> {
    match contents {
        [] | [0x80..=0xff, ..] | [0, 0..=0x7f, ..] | [0] => None,
        [0, rest @ ..] => Some(rest),
        number => Some(number),
    }
}

fn key_fault(what: &'static str) -> Fault {
    Fault { error: ChainError::UnsupportedKey, detail: Detail::Key(what) }
}

/// Whether a key, an encoded SubjectPublicKeyInfo, is of a kind that is accepted, and long enough: RSA with a
/// modulus from `rsa_bits_min` to [`RSA_BITS_MAX`] bits, the named curves P-256, P-384 and P-521 with a point
/// that is not compressed, Ed25519, ML-DSA.
pub(super) fn check_key(public_key: &[u8], rsa_bits_min: usize) -> Result<(), Fault> {
    let unsupported = Fault::from(ChainError::UnsupportedKey);
    let malformed = |_: DecodeError| unsupported;
    let (algorithm, key) = subject_public_key(public_key).map_err(malformed)?;
    let mut algorithm = Der::new(algorithm);
    let id = algorithm.expect("algorithm", der::OID).map_err(malformed)?.contents;
    let octets = |key: &[u8], len| match key.len() == len {
        true => Ok(()),
        false => Err(Fault::limit(ChainError::UnsupportedKey, "octets of the key", len, key.len())),
    };
    match id {
        RSA_ENCRYPTION | RSASSA_PSS => {
            let mut outer = Der::new(key);
            let mut fields = outer.expect("RSAPublicKey", der::SEQUENCE).map_err(malformed)?.inside();
            let modulus = fields.expect("modulus", der::INTEGER).map_err(malformed)?.contents;
            let exponent = fields.expect("publicExponent", der::INTEGER).map_err(malformed)?.contents;
            fields.finish("RSAPublicKey").and_then(|()| outer.finish("RSAPublicKey")).map_err(malformed)?;
            let (modulus, exponent) = (positive(modulus), positive(exponent));
            let modulus = modulus.ok_or(key_fault("the modulus is no positive INTEGER of DER"))?;
            let exponent = exponent.ok_or(key_fault("the public exponent is no positive INTEGER of DER"))?;
            let bits = |number: &[u8]| {
                8 * number.len() - number.first().map_or(0, |first| first.leading_zeros() as usize)
            };
            let is_odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
            match bits(modulus) {
                _ if !is_odd(modulus) => Err(key_fault("the modulus is even")),
                // With an exponent of 1 everything is its own signature.
                _ if !is_odd(exponent) || bits(exponent) < 2 => {
                    Err(key_fault("the public exponent is even, or 1"))
                }
                found if found < rsa_bits_min => {
                    Err(Fault::limit(ChainError::WeakKey, "bits of the RSA key", rsa_bits_min, found))
                }
                found if found > RSA_BITS_MAX => {
                    Err(Fault::limit(ChainError::UnsupportedKey, "bits of the RSA key", RSA_BITS_MAX, found))
                }
                _ => Ok(()),
            }
        }
        EC => {
            // Parameters that are not a name are the attacker's to choose.
            let curve = algorithm.expect("namedCurve", der::OID).map_err(malformed)?.contents;
            let len = CURVES.iter().find(|(id, _)| *id == curve).ok_or(unsupported)?.1;
            match key {
                [0x04, point @ ..] if point.len() == 2 * len => Ok(()),
                // No verifier here reads it, and RFC 5480 2.2 leaves it to each whether it does.
                [0x02 | 0x03, ..] => Err(key_fault("a compressed point")),
                _ => Err(key_fault("the point has not the length of its curve")),
            }
        }
        ED25519 => octets(key, ED25519_LEN),
        [prefix @ .., last] if prefix == ML_DSA => match ML_DSA_LENS.iter().find(|(id, _)| id == last) {
            Some((_, len)) => octets(key, *len),
            None => Err(unsupported),
        },
        _ => Err(unsupported),
    }
}
