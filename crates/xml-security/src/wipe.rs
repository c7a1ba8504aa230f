//! Octets that are wiped when they are dropped, at the speed of a memset. [`zeroize::Zeroizing`] of a vector
//! or a text writes octet by octet. For a message that takes as long as all its cryptography.

use std::ops::{Deref, DerefMut};
use zeroize::Zeroize;

/// Octets of a message in clear.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Wiped(pub(crate) Vec<u8>);

/// Overwrites the octets of a vector, and its spare capacity, which may have held octets before.
pub(crate) fn wipe(octets: &mut Vec<u8>) {
    octets.as_mut_slice().zeroize();
    octets.spare_capacity_mut().zeroize();
}

impl Drop for Wiped {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

impl Deref for Wiped {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Wiped {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl std::fmt::Debug for Wiped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_vector_holds_is_overwritten() {
        let mut octets = Vec::with_capacity(100);
        octets.extend_from_slice(&[7; 100]);
        octets.truncate(40);
        wipe(&mut octets);
        assert_eq!(octets, [0; 40]);
    }
}
