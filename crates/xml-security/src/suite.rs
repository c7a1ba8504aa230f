//! Algorithm suites of WS-SecurityPolicy as WCF names them: Basic256, Basic192, Basic128, TripleDes, each
//! with SHA-1 or SHA-256.

use crate::names;

/// Block cipher, always in CBC mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// AES with 256-bit keys.
    Aes256,
    /// AES with 192-bit keys.
    Aes192,
    /// AES with 128-bit keys.
    Aes128,
    /// Triple DES with 192-bit keys, parity included.
    TripleDes,
}

/// Hash of digests, HMAC and RSA signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hash {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// An algorithm suite. Keys are always derived by P_SHA1, and wrapped by RSA-OAEP with SHA-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Suite {
    /// Encryption.
    pub cipher: Cipher,
    /// Digests and signatures.
    pub hash: Hash,
}

impl Suite {
    /// Basic256, the default of WCF.
    pub const BASIC256: Self = Self { cipher: Cipher::Aes256, hash: Hash::Sha1 };
    /// Basic256Sha256.
    pub const BASIC256_SHA256: Self = Self { cipher: Cipher::Aes256, hash: Hash::Sha256 };

    /// Octets of a derived signature key.
    pub fn signature_key_len(self) -> usize {
        match self.cipher {
            Cipher::Aes128 => 16,
            _ => 24,
        }
    }

    /// Octets of a key that is agreed on or wrapped, from which others are derived.
    pub fn key_len(self) -> usize {
        self.cipher.key_len()
    }
}

impl Cipher {
    /// Octets of a key.
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes256 => 32,
            Self::Aes192 | Self::TripleDes => 24,
            Self::Aes128 => 16,
        }
    }

    /// Octets of a block and of an initialisation vector.
    pub fn block_len(self) -> usize {
        match self {
            Self::TripleDes => 8,
            _ => 16,
        }
    }

    /// Algorithm of EncryptionMethod.
    pub fn uri(self) -> &'static str {
        match self {
            Self::Aes256 => "http://www.w3.org/2001/04/xmlenc#aes256-cbc",
            Self::Aes192 => "http://www.w3.org/2001/04/xmlenc#aes192-cbc",
            Self::Aes128 => "http://www.w3.org/2001/04/xmlenc#aes128-cbc",
            Self::TripleDes => "http://www.w3.org/2001/04/xmlenc#tripledes-cbc",
        }
    }
}

impl Hash {
    /// Algorithm of DigestMethod.
    pub fn digest_uri(self) -> &'static str {
        match self {
            Self::Sha1 => names::SHA1,
            Self::Sha256 => names::SHA256,
        }
    }

    /// Algorithm of SignatureMethod under a symmetric key.
    pub fn hmac_uri(self) -> &'static str {
        match self {
            Self::Sha1 => names::HMAC_SHA1,
            Self::Sha256 => names::HMAC_SHA256,
        }
    }

    /// Algorithm of SignatureMethod under an RSA key.
    pub fn rsa_uri(self) -> &'static str {
        match self {
            Self::Sha1 => names::RSA_SHA1,
            Self::Sha256 => names::RSA_SHA256,
        }
    }
}
