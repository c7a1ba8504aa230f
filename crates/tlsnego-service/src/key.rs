//! Key sizes and keys, and what is computed by P_SHA-1 (RFC 2246 section 5; WS-SecureConversation 1.0).

use crate::fault::Reason;
use std::fmt;
use subtle::ConstantTimeEq;
use xml_security::{Suite, p_sha1};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The label of the authenticator.
const AUTHENTICATOR_LABEL: &[u8] = b"AUTH-HASH";
/// Length of a CombinedHash in octets.
pub const COMBINED_HASH_LEN: usize = 32;
/// Length of SHA-1 in octets.
pub(crate) const SHA1_LEN: usize = 20;

/// `t:KeySize`: the length of a negotiated or established key, which the algorithm suite decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeySize {
    /// Basic128.
    Bits128,
    /// Basic192 and TripleDes.
    Bits192,
    /// Basic256, the default of WCF.
    Bits256,
}

impl KeySize {
    /// As the message has it.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Bits128 => 128,
            Self::Bits192 => 192,
            Self::Bits256 => 256,
        }
    }

    /// Octets of the key.
    pub const fn octets(self) -> usize {
        self.bits() as usize / 8
    }

    /// Whether a request is for this size. A request without a size, or with 0, leaves it to the server.
    pub fn check_asked(self, asked: Option<&str>) -> Result<(), Reason> {
        let is_ours = |text: &str| [Ok(self.bits()), Ok(0)].contains(&text.trim().parse());
        match asked {
            Some(other) if !is_ours(other) => Err(Reason::unsupported("KeySize", other)),
            _ => Ok(()),
        }
    }

    /// `None` for a size that no suite has.
    pub fn from_bits(bits: u32) -> Option<Self> {
        [Self::Bits128, Self::Bits192, Self::Bits256].into_iter().find(|size| size.bits() == bits)
    }
}

impl From<Suite> for KeySize {
    fn from(suite: Suite) -> Self {
        match suite.key_len() {
            16 => Self::Bits128,
            24 => Self::Bits192,
            _ => Self::Bits256,
        }
    }
}

/// A proof key or session key. Wiped when dropped, compared in constant time, and never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Key {
    octets: [u8; Self::LEN_MAX],
    #[zeroize(skip)]
    len: u8,
}

impl Key {
    const LEN_MAX: usize = 32;

    /// The key of these octets; `None` if no suite has keys of this length.
    pub fn new(octets: &[u8]) -> Option<Self> {
        let size = KeySize::from_bits(u32::try_from(octets.len()).ok()?.checked_mul(8)?)?;
        Some(Self::of(size, |key| key.copy_from_slice(octets)))
    }

    /// The first octets of what was drawn at random.
    pub fn from_random(size: KeySize, random: &[u8; 32]) -> Self {
        Self::of(size, |key| key.copy_from_slice(&random[..size.octets()]))
    }

    /// `P_SHA1(client entropy, server entropy)`: the key of RST/SCT and of Renew.
    pub fn from_entropy(size: KeySize, client: &[u8], server: &[u8]) -> Self {
        Self::of(size, |key| key.copy_from_slice(&p_sha1(client, &[server], size.octets())))
    }

    fn of(size: KeySize, fill: impl FnOnce(&mut [u8])) -> Self {
        let mut key = Self { octets: [0; Self::LEN_MAX], len: size.octets() as u8 };
        fill(&mut key.octets[..size.octets()]);
        key
    }

    /// The octets.
    pub fn as_bytes(&self) -> &[u8] {
        &self.octets[..usize::from(self.len)]
    }

    /// The hash of an authenticator, from SHA-1 over the canonical octets of all legs.
    pub fn combined_hash(&self, legs: &[u8; SHA1_LEN]) -> [u8; COMBINED_HASH_LEN] {
        let mut hash = [0; COMBINED_HASH_LEN];
        hash.copy_from_slice(&p_sha1(self.as_bytes(), &[AUTHENTICATOR_LABEL, legs], COMBINED_HASH_LEN));
        hash
    }
}

impl From<&Key> for xml_security::Key {
    fn from(key: &Key) -> Self {
        Self::new(key.as_bytes())
    }
}

impl ConstantTimeEq for Key {
    fn ct_eq(&self, other: &Self) -> subtle::Choice {
        self.as_bytes().ct_eq(other.as_bytes())
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.ct_eq(other).into()
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dtyp::hex;
    use sha1::{Digest, Sha1};
    use xml_security::Cipher;

    fn ascending<const N: usize>(first: u8) -> [u8; N] {
        std::array::from_fn(|n| first + n as u8)
    }

    // Known answers: computed in Python and with the openssl command line.

    #[test]
    fn the_combined_hash_is_that_of_other_implementations() {
        let key = Key::new(&ascending::<32>(0)).expect("a size of keys");
        let legs: [u8; 20] = Sha1::digest(b"abc").into();
        let expected = "20fba1bd2eb6bc60a4d67b01aea4dc411d65f1648767cac19b134a2bee7a1122";
        assert_eq!(hex(&key.combined_hash(&legs)), expected);
    }

    #[test]
    fn the_session_key_has_the_client_entropy_as_its_secret() {
        let (client, server) = (ascending::<32>(0), ascending::<32>(0x40));
        let key = Key::from_entropy(KeySize::Bits256, &client, &server);
        let expected = "fbff07694b1a7b94568191da6d5881c89f2df6d37c1b4bbaa8f3ed65803e35da";
        assert_eq!(hex(key.as_bytes()), expected);
        let shorter = Key::from_entropy(KeySize::Bits128, &client, &server);
        assert_eq!(hex(shorter.as_bytes()), expected[..32]);
    }

    #[test]
    fn a_client_asks_for_the_size_of_the_suite_or_for_none() {
        for asked in [None, Some("256"), Some(" 256\n"), Some("0")] {
            assert_eq!(KeySize::Bits256.check_asked(asked), Ok(()), "{asked:?}");
        }
        for other in ["", "128", "192", "-256", "256 bits", "4294967552"] {
            let refused = KeySize::Bits256.check_asked(Some(other));
            assert_eq!(refused, Err(Reason::unsupported("KeySize", other)));
        }
        let ciphers =
            [(Cipher::Aes128, 128), (Cipher::Aes192, 192), (Cipher::TripleDes, 192), (Cipher::Aes256, 256)];
        for (cipher, bits) in ciphers {
            let suite = Suite { cipher, ..Suite::BASIC256 };
            assert_eq!(KeySize::from(suite).bits(), bits, "{cipher:?}");
        }
    }

    #[test]
    fn keys_have_the_sizes_of_suites_and_print_nothing() {
        for (len, is_key) in
            [(0, false), (15, false), (16, true), (24, true), (31, false), (32, true), (33, false)]
        {
            assert_eq!(Key::new(&vec![7; len]).is_some(), is_key, "{len}");
        }
        let key = Key::from_random(KeySize::Bits192, &[7; 32]);
        assert_eq!(key.as_bytes(), [7; 24]);
        assert_ne!(Some(&key), Key::new(&[7; 16]).as_ref());
        assert_eq!(format!("{key:?}"), "Key([redacted])");
    }
}
