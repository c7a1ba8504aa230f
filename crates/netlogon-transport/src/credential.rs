//! Session key, credentials and authenticators ([MS-NRPC] 3.1.4.3 to 3.1.4.6), AES only.

use crate::cfb8;
use crate::secret::{SessionKey, SharedSecret};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// A challenge, or what a key makes of one: 8 bytes as they stand ([MS-NRPC] 2.2.1.3.4 NETLOGON_CREDENTIAL).
pub type Credential = [u8; 8];

/// [MS-NRPC] 3.1.4.3.1: HMAC-SHA256 of both challenges under the shared secret, its first 16 bytes.
pub fn session_key(
    secret: &SharedSecret,
    client_challenge: &Credential,
    server_challenge: &Credential,
) -> SessionKey {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose()).expect("HMAC takes keys of any length");
    mac.update(client_challenge);
    mac.update(server_challenge);
    let digest = mac.finalize().into_bytes();
    SessionKey::new(std::array::from_fn(|n| digest[n]))
}

/// [MS-NRPC] 3.1.4.4.1: AES-128-CFB8 over 8 bytes with a zero initialisation vector.
pub fn credential(key: &cfb8::Key, input: &Credential) -> Credential {
    let mut output = *input;
    key.encrypt([0; 16], &mut output);
    output
}

/// [MS-NRPC] 3.1.4.1 and 3.1.4.6: a challenge whose first five bytes are all equal is refused. With such
/// input and a zero initialisation vector one key in 256 gives a credential that needs no secret
/// (CVE-2020-1472).
pub fn is_random_enough(challenge: &Credential) -> bool {
    challenge[1..5].iter().any(|byte| *byte != challenge[0])
}

/// Compares credentials in constant time.
pub fn equal(a: &Credential, b: &Credential) -> bool {
    a.ct_eq(b).into()
}

/// [MS-NRPC] 2.2.1.1.5 NETLOGON_AUTHENTICATOR: a credential (8 bytes) and a timestamp (4 bytes), aligned to
/// 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Authenticator {
    /// Proof that the sender knows seed and key.
    pub credential: Credential,
    /// Seconds since 1970; what it adds to the seed is all that counts.
    pub timestamp: u32,
}

/// The stored credential of one channel. Both sides add the same numbers to it, and never what the key made
/// of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(Credential);

impl Seed {
    /// Starts with the client credential of the handshake.
    pub const fn new(client_credential: Credential) -> Self {
        Self(client_credential)
    }

    /// The stored credential as it is now.
    pub const fn credential(&self) -> Credential {
        self.0
    }

    /// Adds to the low four bytes, little-endian; there is no carry into the high four ([MS-NRPC] 3.1.4.5).
    const fn plus(self, n: u32) -> Self {
        let [a, b, c, d, w, x, y, z] = self.0;
        let [a, b, c, d] = u32::from_le_bytes([a, b, c, d]).wrapping_add(n).to_le_bytes();
        Self([a, b, c, d, w, x, y, z])
    }

    /// Client: the authenticator for a call made now.
    pub fn authenticator(&mut self, key: &cfb8::Key, now: u32) -> Authenticator {
        *self = self.plus(now);
        Authenticator { credential: credential(key, &self.0), timestamp: now }
    }

    /// Server: checks a client's authenticator and makes the one to return. When it is wrong the seed stays.
    pub fn check(&mut self, key: &cfb8::Key, received: &Authenticator) -> Option<Authenticator> {
        let advanced = self.plus(received.timestamp);
        let expected = credential(key, &advanced.0);
        if !equal(&expected, &received.credential) || !is_random_enough(&expected) {
            return None;
        }
        *self = advanced.plus(1);
        Some(Authenticator { credential: credential(key, &self.0), timestamp: 0 })
    }

    /// Client: checks what the server returned.
    pub fn check_return(&mut self, key: &cfb8::Key, returned: &Authenticator) -> bool {
        *self = self.plus(1);
        equal(&credential(key, &self.0), &returned.credential)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::unhex;

    fn vector() -> (SessionKey, cfb8::Key) {
        // The digest of [MS-NRPC], section 4.3; the hash and the challenges are from [MS-NRPC] 4.2.
        let secret = SharedSecret::new(unhex("31a590170a351fd51148b2a10af2c305"));
        let key = session_key(&secret, &unhex("3a0390a46d0c3d4f"), &unhex("0c4c13d16041c860"));
        let expanded = cfb8::Key::new(key.expose());
        (key, expanded)
    }

    #[test]
    fn session_key_and_credentials_are_the_vector_s() {
        let (key, expanded) = vector();
        assert_eq!(dtyp::hex(key.expose()), "fdc7815fdbdbb1a6a08d0fda749edb18");
        assert_eq!(credential(&expanded, &unhex("3a0390a46d0c3d4f")), unhex("c43e8c706184b992"));
        assert_eq!(credential(&expanded, &unhex("0c4c13d16041c860")), unhex("f2c027dca409fad7"));
    }

    #[test]
    fn authenticators_are_the_vector_s_on_both_sides() {
        let (_, key) = vector();
        let (mut client, mut server) =
            (Seed::new(unhex("c43e8c706184b992")), Seed::new(unhex("c43e8c706184b992")));
        for (now, sent, returned) in [
            (0x6592_0080, "ba3c3e2432982851", "bb03621d2514b7cb"),
            (0x6592_0085, "3495482fdc1be09c", "354fcfa77d4eede8"),
        ] {
            let authenticator = client.authenticator(&key, now);
            assert_eq!(authenticator, Authenticator { credential: unhex(sent), timestamp: now });
            let answer = server.check(&key, &authenticator).expect("it is right");
            assert_eq!(answer, Authenticator { credential: unhex(returned), timestamp: 0 });
            assert!(client.check_return(&key, &answer));
        }
        assert_eq!(client, server);
    }

    #[test]
    fn a_wrong_authenticator_leaves_the_seed_alone() {
        let (_, key) = vector();
        let mut server = Seed::new(unhex("c43e8c706184b992"));
        let before = server;
        let right = Seed::new(unhex("c43e8c706184b992")).authenticator(&key, 7);
        for bit in 0..64 {
            let mut wrong = right;
            wrong.credential[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(server.check(&key, &wrong), None);
        }
        assert_eq!(server.check(&key, &Authenticator { timestamp: 8, ..right }), None);
        assert_eq!(server, before);
        assert!(server.check(&key, &right).is_some());
        assert_eq!(server.check(&key, &right), None, "a replayed one is wrong");
    }

    #[test]
    fn zeroes_are_not_random_enough() {
        for (challenge, expect) in [
            ("0000000000000000", false),
            ("0000000000010203", false),
            ("4141414141000000", false),
            ("0000000001000000", true),
            ("0100000000000000", true),
        ] {
            assert_eq!(is_random_enough(&unhex(challenge)), expect, "{challenge}");
        }
    }
}
