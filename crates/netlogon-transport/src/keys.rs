//! The keys of one secure channel.

use crate::cfb8;
use crate::secret::{SessionKey, SharedSecret};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The session key of a channel, expanded for each use. All security contexts of the channel share it.
pub struct ChannelKeys {
    /// The key itself, for credentials and the inner encryption.
    pub(crate) inner: cfb8::Key,
    /// The key that seals: every byte of the session key with 0xf0.
    pub(crate) outer: cfb8::Key,
    mac: Hmac<Sha256>,
}

impl std::fmt::Debug for ChannelKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl ChannelKeys {
    /// Expands a session key.
    pub fn new(key: SessionKey) -> Self {
        let outer = SessionKey::new(key.expose().map(|byte| byte ^ 0xf0));
        Self {
            inner: cfb8::Key::new(key.expose()),
            outer: cfb8::Key::new(outer.expose()),
            mac: Hmac::new_from_slice(key.expose()).expect("HMAC takes keys of any length"),
        }
    }

    /// The key for credentials and authenticators.
    pub(crate) const fn credential_key(&self) -> &cfb8::Key {
        &self.inner
    }

    /// Which secret a channel under these keys was set up with, for those who know the secrets.
    pub(crate) fn secret_check(&self, secret: &SharedSecret) -> [u8; 8] {
        self.checksum(&[b"secret of the channel", secret.expose()])
    }

    /// Decrypts generic data ([MS-NRPC] 3.4.5.3.2) in place.
    pub fn decrypt_inner(&self, data: &mut [u8]) {
        self.inner.decrypt([0; 16], data);
    }

    /// Encrypts generic data in place. Answers do not need it: their context does it while it seals.
    pub fn encrypt_inner(&self, data: &mut [u8]) {
        self.inner.encrypt([0; 16], data);
    }

    pub(crate) fn checksum(&self, parts: &[&[u8]]) -> [u8; 8] {
        let mut mac = self.mac.clone();
        parts.iter().for_each(|part| mac.update(part));
        let digest = mac.finalize().into_bytes();
        std::array::from_fn(|n| digest[n])
    }

    pub(crate) fn encrypted_sequence(&self, checksum: [u8; 8], sequence: [u8; 8]) -> [u8; 8] {
        let mut sequence = sequence;
        self.inner.encrypt(doubled_iv(checksum), &mut sequence);
        sequence
    }
}

/// Eight bytes, twice: the initialisation vector of what is encrypted under a checksum or a sequence number
/// ([MS-NRPC] 3.3.4.2.1).
pub(crate) fn doubled_iv(half: [u8; 8]) -> [u8; 16] {
    std::array::from_fn(|n| half[n % 8])
}
