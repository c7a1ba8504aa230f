//! [MS-NLMP] 3.3.2 and 3.4.5: the computations of NTLM version 2.

use dtyp::utf16le;
use hmac::{Hmac, KeyInit, Mac};
use md4::Md4;
use md5::{Digest, Md5};
use rc4::{Rc4, StreamCipher};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Takes the bytes.
            pub const fn new(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The bytes, for the primitives that need them.
            pub const fn expose(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("[redacted]")
            }
        }
    };
}

secret! {
    /// The NT hash of a password, NTOWFv1: MD4 of its UTF-16LE form. It is as good as the password.
    NtHash
}

secret! {
    /// SessionBaseKey, which for NTLM version 2 is the key exchange key, too.
    SessionBaseKey
}

secret! {
    /// ExportedSessionKey: the client draws it, and all keys of the context are made from it.
    SessionKey
}

impl NtHash {
    /// The hash of the empty password.
    pub(super) const OF_NOTHING: Self = Self([
        0x31, 0xd6, 0xcf, 0xe0, 0xd1, 0x6a, 0xe9, 0x31, 0xb7, 0x3c, 0x59, 0xd7, 0xe0, 0xc0, 0x89, 0xc0,
    ]);

    /// The hash of a password.
    pub fn from_password(password: &str) -> Self {
        Self(Md4::digest(Zeroizing::new(utf16le(password))).into())
    }

    /// Whether it is the hash of the empty password, in constant time.
    pub(super) fn is_of_nothing(&self) -> Choice {
        self.0.ct_eq(&Self::OF_NOTHING.0)
    }

    /// The other hash where `choice` is set, in constant time.
    pub(super) fn or(&self, other: &Self, choice: Choice) -> Self {
        Self(std::array::from_fn(|n| u8::conditional_select(&self.0[n], &other.0[n], choice)))
    }
}

pub(super) fn hmac_md5(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = Hmac::<Md5>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// NTOWFv2: the key of an account in one domain. The user's name is upper-cased, the domain's is not.
pub(super) fn ntowf_v2(hash: &NtHash, user: &str, domain: &str) -> Zeroizing<[u8; 16]> {
    let user = utf16le(&upper_case(user));
    Zeroizing::new(hmac_md5(hash.expose(), &[&user, &utf16le(domain)]))
}

/// NTProofStr over the client's blob as it was received.
pub(super) fn proof(ntowf: &[u8; 16], server_challenge: &[u8; 8], blob: &[u8]) -> [u8; 16] {
    hmac_md5(ntowf, &[server_challenge, blob])
}

/// SessionBaseKey of a proof.
pub(super) fn session_base_key(ntowf: &[u8; 16], proof: &[u8; 16]) -> SessionBaseKey {
    SessionBaseKey(hmac_md5(ntowf, &[proof]))
}

/// RC4 with a new state: turns EncryptedRandomSessionKey into ExportedSessionKey, and back.
pub(super) fn exchange_key(key: &SessionBaseKey, mut random: [u8; 16]) -> SessionKey {
    rc4(key.expose()).apply_keystream(&mut random);
    SessionKey(random)
}

pub(super) fn rc4(key: &[u8; 16]) -> Rc4 {
    Rc4::new_from_slice(key).expect("RC4 takes keys of 1 to 256 bytes")
}

/// Upper case as Windows has it in this computation: each UTF-16 unit for itself, one unit for one. `ß`
/// stays, because no single character is its upper case; characters outside of the basic plane are two units
/// and stay.
pub(super) fn upper_case(text: &str) -> String {
    text.chars().map(upper).collect()
}

fn upper(c: char) -> char {
    match c {
        // These have an upper case in Unicode, from which no lower case leads back to them. In Samba's table,
        // which was made from that of Windows, they stay.
        'µ' | 'ı' | 'ſ' | '\u{1fbe}' => c,
        // Georgian and Cherokee got a case in Unicode 11 and 8, after that table.
        '\u{10d0}'..='\u{10ff}' | '\u{13f8}'..='\u{13fd}' | '\u{ab70}'..='\u{abbf}' => c,
        // Their simple mapping is their title case, which the standard library does not have.
        '\u{1f80}'..='\u{1f87}' | '\u{1f90}'..='\u{1f97}' | '\u{1fa0}'..='\u{1fa7}' => {
            char::from_u32(u32::from(c) + 8).unwrap_or(c)
        }
        '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => char::from_u32(u32::from(c) + 9).unwrap_or(c),
        '\u{1_0000}'.. => c,
        c => {
            let mut upper = c.to_uppercase();
            match (upper.next(), upper.next()) {
                (Some(single), None) => single,
                _ => c,
            }
        }
    }
}

/// The keys of one direction.
pub(super) struct DirectionKeys {
    pub(super) sign: Zeroizing<[u8; 16]>,
    pub(super) seal: Zeroizing<[u8; 16]>,
}

/// Who sends a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    Client,
    Server,
}

impl Sender {
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

impl DirectionKeys {
    /// SIGNKEY and SEALKEY of 128 bits (3.4.5.2, 3.4.5.3). The constants end with a NUL.
    pub(super) fn new(key: &SessionKey, sender: Sender) -> Self {
        let (sign, seal): (&[u8], &[u8]) = match sender {
            Sender::Client => (
                b"session key to client-to-server signing key magic constant\0",
                b"session key to client-to-server sealing key magic constant\0",
            ),
            Sender::Server => (
                b"session key to server-to-client signing key magic constant\0",
                b"session key to server-to-client sealing key magic constant\0",
            ),
        };
        let derive = |constant| {
            Zeroizing::new(Md5::new().chain_update(key.expose()).chain_update(constant).finalize().into())
        };
        Self { sign: derive(sign), seal: derive(seal) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::bytes;

    /// [MS-NLMP] 4.2.4: user "User", domain "Domain", password "Password".
    fn key() -> ([u8; 16], [u8; 8], Vec<u8>) {
        let ntowf = *ntowf_v2(&NtHash::from_password("Password"), "User", "Domain");
        let blob = bytes(
            "0101000000000000 0000000000000000 aaaaaaaaaaaaaaaa 00000000
             02000c0044006f006d00610069006e00 01000c00530065007200760065007200 00000000 00000000",
        );
        (ntowf, [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef], blob)
    }

    #[test]
    fn computes_what_the_document_computes() {
        let hash = NtHash::from_password("Password");
        assert_eq!(dtyp::hex(hash.expose()), "a4f49c406510bdcab6824ee7c30fd852");
        let (ntowf, challenge, blob) = key();
        assert_eq!(dtyp::hex(&ntowf), "0c868a403bfd7a93a3001ef22ef02e3f");
        let proof = proof(&ntowf, &challenge, &blob);
        assert_eq!(dtyp::hex(&proof), "68cd0ab851e51c96aabc927bebef6a1c");
        let base = session_base_key(&ntowf, &proof);
        assert_eq!(dtyp::hex(base.expose()), "8de40ccadbc14a82f15cb0ad0de95ca3");
        let encrypted = exchange_key(&base, [0x55; 16]);
        assert_eq!(dtyp::hex(encrypted.expose()), "c5dad2544fc9799094ce1ce90bc9d03e");
        assert_eq!(exchange_key(&base, *encrypted.expose()).expose(), &[0x55; 16]);
        let lm = hmac_md5(&ntowf, &[&challenge, &[0xaa; 8]]);
        assert_eq!(dtyp::hex(&lm), "86c35097ac9cec102554764a57cccc19");
    }

    #[test]
    fn derives_the_four_keys_of_the_document() {
        let key = SessionKey::new([0x55; 16]);
        let keys = |sender| {
            let keys = DirectionKeys::new(&key, sender);
            (dtyp::hex(&*keys.sign), dtyp::hex(&*keys.seal))
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let client = pair("4788dc861b4782f35d43fd98fe1a2d39", "59f600973cc4960a25480a7c196e4c58");
        assert_eq!(keys(Sender::Client), client);
        let server = pair("d04d6f10741041d1d246d64188d7a8ad", "9355f3a957c1583d25c4c2f11e40390e");
        assert_eq!(keys(Sender::Server), server);
    }

    /// By Samba's `strcasecmp_m`.
    #[test]
    fn upper_case_of_letters_is_samba_s() {
        for (lower, expected) in [
            ('é', 'É'),
            ('ÿ', 'Ÿ'),
            ('ς', 'Σ'),
            ('ⅰ', 'Ⅰ'),
            ('ⓐ', 'Ⓐ'),
            ('µ', 'µ'),
            ('ı', 'ı'),
            ('ſ', 'ſ'),
            ('\u{10d0}', '\u{10d0}'),
        ] {
            assert_eq!(upper(lower), expected, "{lower}");
        }
    }

    #[test]
    fn upper_case_maps_one_unit_to_one() {
        // ß has no single upper case, µ and ı have none in their block, and 𐐨 is two units.
        assert_eq!(upper_case("straße Ünal émile µ ı 𐐨"), "STRAßE ÜNAL ÉMILE µ ı 𐐨");
        assert_eq!(upper_case("ᾳ \u{1f80}"), "\u{1fbc} \u{1f88}");
        for c in '\0'..='\u{ffff}' {
            assert_eq!(upper(c).len_utf16(), 1, "{c:?}");
        }
    }

    #[test]
    fn prints_no_secret() {
        assert_eq!(format!("{:?}", NtHash::from_password("Password")), "[redacted]");
        assert_eq!(
            format!("{:?} {:?}", SessionBaseKey::new([1; 16]), SessionKey::new([1; 16])),
            "[redacted] [redacted]"
        );
    }

    #[test]
    fn knows_the_hash_of_the_empty_password() {
        assert_eq!(NtHash::from_password("").expose(), NtHash::OF_NOTHING.expose());
    }
}
