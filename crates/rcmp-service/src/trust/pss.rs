//! RSASSA-PSS with its parameters (RFC 4055 3.1), which webpki's table has for salts as long as the hash
//! alone, while `openssl` writes the longest salt by default.

use crate::der::{self, Der};
use aws_lc_rs::signature::{
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPssSaltLength, UnparsedPublicKey,
};
use dtyp::{DecodeError, DecodeErrorKind};
use std::sync::LazyLock;

/// id-RSASSA-PSS, 1.2.840.113549.1.1.10.
pub(super) const RSASSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];
/// id-mgf1, 1.2.840.113549.1.1.8.
const MGF1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08];
/// id-sha256, id-sha384 and id-sha512, 2.16.840.1.101.3.4.2.1 to 3, without the last octet.
const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
/// Longest salt: what a key of 8192 bits has room for beside SHA-256 (RFC 8017 9.1.1).
const SALT_LEN_MAX: usize = 8192 / 8 - 32 - 2;

/// The verifiers by hash and by the length of the salt; about 200 kB, made when the first signature of that
/// kind is looked at.
static VERIFIERS: [LazyLock<Vec<RsaParameters>>; 3] = [
    LazyLock::new(|| verifiers(|| RSA_PSS_2048_8192_SHA256)),
    LazyLock::new(|| verifiers(|| RSA_PSS_2048_8192_SHA384)),
    LazyLock::new(|| verifiers(|| RSA_PSS_2048_8192_SHA512)),
];

fn verifiers(base: fn() -> RsaParameters) -> Vec<RsaParameters> {
    (0..=SALT_LEN_MAX as u16).map(|len| base().with_pss_salt_length(RsaPssSaltLength::Custom(len))).collect()
}

/// RSASSA-PSS-params that are accepted: MGF1 with the hash of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pss {
    /// Which hash: 0 for SHA-256, 1 for SHA-384, 2 for SHA-512.
    hash: usize,
    salt_len: usize,
}

impl Pss {
    /// Reads the contents of an AlgorithmIdentifier behind its object identifier; `None` for parameters that
    /// are not accepted.
    pub(super) fn read(parameters: &mut Der<'_>) -> Result<Option<Self>, DecodeError> {
        let mut fields = parameters.expect("RSASSA-PSS-params", der::SEQUENCE)?.inside();
        let bad = fields.error("RSASSA-PSS-params", DecodeErrorKind::BadValue);
        let hash = fields.optional("hashAlgorithm", 0xa0)?;
        let mask = fields.optional("maskGenAlgorithm", 0xa1)?;
        let salt_len = fields.optional("saltLength", 0xa2)?;
        let trailer = fields.optional("trailerField", 0xa3)?;
        fields.finish("RSASSA-PSS-params")?;
        // The defaults are those of SHA-1.
        let (Some(hash), Some(mask)) = (hash, mask) else { return Ok(None) };
        let hash = self::hash(&mut hash.inside())?;
        let mut mask = mask.inside().expect("maskGenAlgorithm", der::SEQUENCE)?.inside();
        if mask.expect("algorithm", der::OID)?.contents != MGF1 || self::hash(&mut mask)? != hash {
            return Ok(None);
        }
        let number = |element: der::Element<'_>| {
            let mut explicit = element.inside();
            let number = explicit.expect("INTEGER", der::INTEGER)?.contents;
            explicit.finish("INTEGER")?;
            match number {
                [len @ 0..=0x7f] => Ok(usize::from(*len)),
                [0, len @ 0x80..=0xff] => Ok(usize::from(*len)),
                [high @ 1..=0x7f, low] => Ok(usize::from(*high) << 8 | usize::from(*low)),
                _ => Err(bad.clone()),
            }
        };
        let salt_len = salt_len.map_or(Ok(20), number)?;
        let is_known_trailer = trailer.map(number).transpose()?.is_none_or(|trailer| trailer == 1);
        Ok(hash.filter(|_| is_known_trailer && salt_len <= SALT_LEN_MAX).map(|hash| Self { hash, salt_len }))
    }

    /// Whether a key that is for RSASSA-PSS alone allows this signature (RFC 4055 3.3): `algorithm` is what
    /// follows its object identifier.
    pub(super) fn is_allowed_by(self, mut algorithm: Der<'_>) -> bool {
        algorithm.is_empty()
            || Self::read(&mut algorithm).is_ok_and(|key| {
                key.is_some_and(|key| key.hash == self.hash && key.salt_len <= self.salt_len)
            })
    }

    /// Whether a key, an RSAPublicKey, signed a message.
    pub(super) fn verify(self, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        let verifier: &'static RsaParameters = &VERIFIERS[self.hash][self.salt_len];
        UnparsedPublicKey::new(verifier, key).verify(message, signature).is_ok()
    }
}

/// The hash of an AlgorithmIdentifier, whose parameters are NULL or absent (RFC 4055 2.1).
fn hash(identifiers: &mut Der<'_>) -> Result<Option<usize>, DecodeError> {
    let mut fields = identifiers.expect("hashAlgorithm", der::SEQUENCE)?.inside();
    let id = fields.expect("algorithm", der::OID)?.contents;
    fields.optional("parameters", der::NULL)?;
    fields.finish("hashAlgorithm")?;
    Ok(match id {
        [prefix @ .., last @ 1..=3] if prefix == SHA2 => Some(usize::from(*last) - 1),
        _ => None,
    })
}
