use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The master secret: 16 octets ([MS-SSP] 2.2.1), wiped when they are dropped and never printed.
///
/// They are in a place of their own, which does not move with the value: a value that passes through futures
/// leaves no octets behind.
#[derive(Clone)]
pub struct MasterSecret(Box<Zeroizing<[u8; Self::LEN]>>);

impl MasterSecret {
    /// MAX_MASTER_SECRET_BYTES. The interface definition allows no other length.
    pub const LEN: usize = 16;

    /// A secret of these octets. The caller wipes its own copy.
    pub fn new(octets: [u8; Self::LEN]) -> Self {
        Self::copy(&Zeroizing::new(octets))
    }

    /// A secret of these octets, which the caller keeps.
    pub fn copy(octets: &[u8; Self::LEN]) -> Self {
        let mut secret = Box::new(Zeroizing::new([0; Self::LEN]));
        secret.copy_from_slice(octets);
        Self(secret)
    }

    /// A secret of another length than 16 octets cannot be delivered by this interface.
    pub fn from_slice(octets: &[u8]) -> Option<Self> {
        octets.try_into().ok().map(Self::copy)
    }

    /// The octets, for the one who delivers or uses them.
    pub fn octets(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

/// In constant time.
impl PartialEq for MasterSecret {
    fn eq(&self, other: &Self) -> bool {
        self.octets().ct_eq(other.octets()).into()
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
