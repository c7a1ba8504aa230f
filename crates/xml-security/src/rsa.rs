//! RSA: certificates, the wrapping of keys by RSA-OAEP, and signatures that endorse another one.

use crate::key::{Key, sha1};
use crate::suite::Hash;
use ::rsa::pkcs8::DecodePrivateKey;
use ::rsa::rand_core::{TryCryptoRng, TryRng};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rsa::{
    KeyPair, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey,
    PublicEncryptingKey,
};
use aws_lc_rs::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256,
    UnparsedPublicKey,
};
use rustls_pki_types::CertificateDer;
use sha1::Sha1;
use zeroize::Zeroizing;

/// A key or certificate that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RsaError {
    /// Not an X.509 version 3 certificate in DER.
    #[error("the certificate cannot be read")]
    Certificate,
    /// Not an RSA key of 2048 to 8192 bits.
    #[error("the key is not an RSA key of 2048 to 8192 bits")]
    Key,
    /// The key does not make this kind of signature, or the operation failed.
    #[error("the key does not make this signature")]
    Operation,
}

/// A certificate with the octets of its public key. Nothing about it is validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    public_key: Vec<u8>,
}

impl Certificate {
    /// Reads a certificate.
    ///
    /// # Errors
    /// If the octets are no X.509 certificate of version 3.
    pub fn from_der(der: &[u8]) -> Result<Self, RsaError> {
        let borrowed = CertificateDer::from(der);
        let certificate = webpki::EndEntityCert::try_from(&borrowed).map_err(|_| RsaError::Certificate)?;
        Ok(Self { der: der.to_vec(), public_key: certificate.subject_public_key_info().to_vec() })
    }

    /// The certificate in DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-1 of the certificate.
    pub fn thumbprint(&self) -> [u8; 20] {
        sha1(&self.der)
    }

    /// Encrypts a key by RSA-OAEP with SHA-1 and an empty label.
    pub(crate) fn wrap(&self, key: &Key) -> Result<Vec<u8>, RsaError> {
        let public = PublicEncryptingKey::from_der(&self.public_key).map_err(|_| RsaError::Key)?;
        let public = OaepPublicEncryptingKey::new(public).map_err(|_| RsaError::Key)?;
        let mut wrapped = vec![0; public.ciphertext_size()];
        let written = public
            .encrypt(&OAEP_SHA1_MGF1SHA1, key.expose(), &mut wrapped, None)
            .map_err(|_| RsaError::Operation)?
            .len();
        wrapped.truncate(written);
        Ok(wrapped)
    }

    /// Whether a signature over octets is that of the certificate's key.
    pub(crate) fn verifies(&self, hash: Hash, octets: &[u8], signature: &[u8]) -> bool {
        let algorithm = match hash {
            Hash::Sha1 => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            Hash::Sha256 => &RSA_PKCS1_2048_8192_SHA256,
        };
        UnparsedPublicKey::new(algorithm, &self.public_key).verify(octets, signature).is_ok()
    }
}

/// The private key of a service, to which clients encrypt keys.
#[derive(Debug)]
pub struct DecryptionKey(OaepPrivateDecryptingKey);

impl DecryptionKey {
    /// Reads a key in PKCS #8.
    ///
    /// # Errors
    /// If it is no RSA key of 2048 to 8192 bits.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, RsaError> {
        let key = PrivateDecryptingKey::from_pkcs8(pkcs8).map_err(|_| RsaError::Key)?;
        OaepPrivateDecryptingKey::new(key).map(Self).map_err(|_| RsaError::Key)
    }

    /// Decrypts a wrapped key into `key`, which holds random octets: they stay if the octets are no wrapped
    /// key of that length. So what follows fails as it does with any wrong key, and shows nothing about RSA.
    pub(crate) fn unwrap_into(&self, wrapped: &[u8], mut key: Zeroizing<Vec<u8>>) -> Key {
        let mut plain = Zeroizing::new(vec![0; self.0.min_output_size()]);
        match self.0.decrypt(&OAEP_SHA1_MGF1SHA1, wrapped, &mut plain, None) {
            Ok(found) if found.len() == key.len() => key.copy_from_slice(found),
            _ => {}
        }
        Key::new(&key)
    }
}

/// Makes signatures with the private key of a certificate, such as one in a PKCS #11 token.
pub trait Signer {
    /// The certificate whose key signs.
    fn certificate(&self) -> &Certificate;

    /// RSASSA-PKCS1-v1_5 over octets.
    ///
    /// # Errors
    /// If the key does not sign with this hash, or signing failed.
    fn sign(&self, hash: Hash, octets: &[u8]) -> Result<Vec<u8>, RsaError>;
}

/// A [`Signer`] with the key in memory.
#[derive(Debug)]
pub struct SigningKey {
    key: KeyPair,
    /// The same key for SHA-1, with which aws-lc-rs verifies and does not sign.
    sha1_key: ::rsa::PrivateKey,
    certificate: Certificate,
}

impl SigningKey {
    /// Reads a key in PKCS #8.
    ///
    /// # Errors
    /// If it is no RSA key of 2048 to 8192 bits.
    pub fn from_pkcs8(pkcs8: &[u8], certificate: Certificate) -> Result<Self, RsaError> {
        let key = KeyPair::from_pkcs8(pkcs8).map_err(|_| RsaError::Key)?;
        let sha1_key = ::rsa::PrivateKey::from_pkcs8_der(pkcs8).map_err(|_| RsaError::Key)?;
        Ok(Self { key, sha1_key, certificate })
    }
}

impl Signer for SigningKey {
    fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    fn sign(&self, hash: Hash, octets: &[u8]) -> Result<Vec<u8>, RsaError> {
        match hash {
            // With randomness base and exponents are blinded, so that the time says nothing about the key.
            Hash::Sha1 => self
                .sha1_key
                .pkcs1v15_sign_with_rng::<Sha1, _>(&mut Blinding, octets)
                .map_err(|_| RsaError::Operation),
            Hash::Sha256 => {
                let mut signature = vec![0; self.key.public_modulus_len()];
                let random = aws_lc_rs::rand::SystemRandom::new();
                self.key
                    .sign(&RSA_PKCS1_SHA256, &random, octets, &mut signature)
                    .map_err(|_| RsaError::Operation)?;
                Ok(signature)
            }
        }
    }
}

/// Random octets of aws-lc-rs for blinding.
struct Blinding;

impl TryRng for Blinding {
    type Error = Unspecified;

    fn try_next_u32(&mut self) -> Result<u32, Unspecified> {
        let mut octets = [0; 4];
        aws_lc_rs::rand::fill(&mut octets)?;
        Ok(u32::from_ne_bytes(octets))
    }

    fn try_next_u64(&mut self) -> Result<u64, Unspecified> {
        let mut octets = [0; 8];
        aws_lc_rs::rand::fill(&mut octets)?;
        Ok(u64::from_ne_bytes(octets))
    }

    fn try_fill_bytes(&mut self, octets: &mut [u8]) -> Result<(), Unspecified> {
        aws_lc_rs::rand::fill(octets)
    }
}

impl TryCryptoRng for Blinding {}
