//! The SHA-256 of certificates that were seen lately. Paths are cached by it, and it takes most of the time
//! of a cached decision: a comparison of all octets takes a tenth.

use arc_swap::ArcSwapOption;
use sha2::{Digest, Sha256};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// Certificates kept, each in the slot that its last octets choose: with [`CERTIFICATE_LEN_MAX`], 8 MiB.
const SLOTS: usize = 4_096;
/// The longest certificate that is kept.
const CERTIFICATE_LEN_MAX: usize = 2_048;
/// The octets that choose the slot are the last ones, those of the signature.
const CHOOSING_LEN: usize = 32;

/// SHA-256 by certificate. All octets are compared, so that no certificate is taken for another one. A client
/// can only displace what is kept of others.
#[derive(Debug)]
pub(super) struct Digests {
    slots: Box<[ArcSwapOption<Known>]>,
    /// Random, so that no client knows which certificates share a slot.
    hasher: RandomState,
}

#[derive(Debug)]
struct Known {
    certificate: Box<[u8]>,
    sha256: [u8; 32],
}

impl Default for Digests {
    fn default() -> Self {
        let slots = (0..SLOTS).map(|_| ArcSwapOption::empty()).collect();
        Self { slots, hasher: RandomState::new() }
    }
}

impl Digests {
    /// The SHA-256 of a certificate.
    pub(super) fn of(&self, certificate: &[u8]) -> [u8; 32] {
        if certificate.len() > CERTIFICATE_LEN_MAX {
            return Sha256::digest(certificate).into();
        }
        let choosing = &certificate[certificate.len().saturating_sub(CHOOSING_LEN)..];
        let slot = &self.slots[self.hasher.hash_one(choosing) as usize % SLOTS];
        if let Some(known) = &*slot.load()
            && *known.certificate == *certificate
        {
            return known.sha256;
        }
        let sha256 = Sha256::digest(certificate).into();
        slot.store(Some(Arc::new(Known { certificate: certificate.into(), sha256 })));
        sha256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_that_end_alike_are_told_apart() {
        let digests = Digests::default();
        let long = vec![7; CERTIFICATE_LEN_MAX + 1];
        let one = [[1; 100].as_slice(), &[9; CHOOSING_LEN]].concat();
        let other = [[2; 100].as_slice(), &[9; CHOOSING_LEN]].concat();
        let shorter = one[1..].to_vec();
        for certificate in [&one, &one, &other, &one, &shorter, &other, &long, &long, &vec![], &vec![9]] {
            assert_eq!(digests.of(certificate)[..], Sha256::digest(certificate)[..]);
        }
    }
}
