//! The hashes by which OCSP names an issuer (RFC 6960 4.1.1).

use sha1::{Digest, Sha1};
use sha2::Sha256;

/// The hash in a CertID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CertIdHash {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// SHA-1 and SHA-256 of one thing, by which CertIDs name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hashes {
    sha1: [u8; 20],
    sha256: [u8; 32],
}

impl Hashes {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self { sha1: Sha1::digest(bytes).into(), sha256: Sha256::digest(bytes).into() }
    }

    pub(super) fn by(&self, hash: CertIdHash) -> Vec<u8> {
        match hash {
            CertIdHash::Sha1 => self.sha1.to_vec(),
            CertIdHash::Sha256 => self.sha256.to_vec(),
        }
    }
}
