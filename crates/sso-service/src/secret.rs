use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The master secret: 16 octets ([MS-SSP] 2.2.1), wiped when they are dropped and never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MasterSecret([u8; Self::LEN]);

impl MasterSecret {
    /// MAX_MASTER_SECRET_BYTES. The interface definition allows no other length.
    pub const LEN: usize = 16;

    /// A secret of these octets. The caller wipes its own copy.
    pub const fn new(octets: [u8; Self::LEN]) -> Self {
        Self(octets)
    }

    /// A secret of another length than 16 octets cannot be delivered by this interface.
    pub fn from_slice(octets: &[u8]) -> Option<Self> {
        octets.try_into().ok().map(Self)
    }

    /// The octets, for the one who delivers or uses them.
    pub const fn octets(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

/// In constant time.
impl PartialEq for MasterSecret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for MasterSecret {}

impl fmt::Debug for MasterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_no_octet_and_has_one_length() {
        let secret = MasterSecret::new([0x5a; 16]);
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert_eq!(MasterSecret::from_slice(&[0x5a; 16]), Some(secret));
        assert_eq!(MasterSecret::from_slice(&[0x5a; 15]), None);
        assert_eq!(MasterSecret::from_slice(&[0x5a; 17]), None);
        assert_ne!(MasterSecret::new([0; 16]), MasterSecret::new([1; 16]));
    }
}
