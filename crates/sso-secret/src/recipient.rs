//! Recipients of backups: X25519 key pairs. A server encrypts for the public key and cannot open its own
//! backup.

use crate::derive;
use crate::memory::Locked;
use crate::source::{self, HeldKey, PassphraseCost, SealingSource, SourceError, SourceKey, SourceKind};
use aws_lc_rs::agreement::{self, EphemeralPrivateKey, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::rand::SystemRandom;
use std::path::Path;

/// The public key of a recipient of backups. The machine that encrypts a backup for it cannot open the backup
/// again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient(pub [u8; 32]);

impl Recipient {
    /// `rcmpd-recipient-1:` and 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.trim().strip_prefix("rcmpd-recipient-1:")?;
        let mut key = [0; 32];
        dtyp::read_hex(digits.as_bytes(), &mut key)?;
        Some(Self(key))
    }
}

impl std::fmt::Display for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rcmpd-recipient-1:{}", dtyp::hex(&self.0))
    }
}

impl SealingSource for Recipient {
    fn name(&self) -> String {
        self.to_string()
    }

    fn kind(&self) -> SourceKind {
        SourceKind::Recipient
    }

    fn key(&self, _: &[u8; 32], _: Option<PassphraseCost>) -> Result<SourceKey, SourceError> {
        Err(SourceError::Unusable("is a public key: its private key opens the backup".to_owned()))
    }

    fn fresh(&self) -> Result<([u8; 32], SourceKey), SourceError> {
        let sender =
            EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).map_err(|_| no_agreement())?;
        let public = sender.compute_public_key().map_err(|_| no_agreement())?;
        let public: [u8; 32] = public.as_ref().try_into().map_err(|_| no_agreement())?;
        let peer = UnparsedPublicKey::new(&X25519, self.0);
        let key = agreement::agree_ephemeral(sender, peer, no_agreement(), |shared| {
            Ok(agreed(&public, &self.0, shared))
        })?;
        Ok((public, key))
    }
}

/// The private key of a recipient, in a file as [`KeyFile`](crate::KeyFile) reads it.
#[derive(Debug)]
pub struct RecipientKey(HeldKey);

impl RecipientKey {
    /// Writes a new private key to a file with mode 0600. A file that exists is never touched.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        let private = source::create_key(path)?;
        Ok(Self(HeldKey::new(&source::file_name(path), private.expose())))
    }

    /// Reads a private key.
    pub fn read(path: &Path) -> Result<Self, SourceError> {
        HeldKey::read(path).map(Self)
    }

    /// Its public key.
    pub fn recipient(&self) -> Result<Recipient, SourceError> {
        let public = self.agreement()?.compute_public_key().map_err(|_| no_agreement())?;
        public.as_ref().try_into().map(Recipient).map_err(|_| no_agreement())
    }

    fn agreement(&self) -> Result<PrivateKey, SourceError> {
        PrivateKey::from_private_key(&X25519, self.0.expose()).map_err(|_| no_agreement())
    }
}

impl From<HeldKey> for RecipientKey {
    fn from(private: HeldKey) -> Self {
        Self(private)
    }
}

impl SealingSource for RecipientKey {
    fn name(&self) -> String {
        self.0.name()
    }

    fn kind(&self) -> SourceKind {
        SourceKind::Recipient
    }

    fn key(&self, salt: &[u8; 32], _: Option<PassphraseCost>) -> Result<SourceKey, SourceError> {
        let Recipient(ours) = self.recipient()?;
        let peer = UnparsedPublicKey::new(&X25519, salt);
        agreement::agree(&self.agreement()?, peer, no_agreement(), |shared| Ok(agreed(salt, &ours, shared)))
    }

    fn fresh(&self) -> Result<([u8; 32], SourceKey), SourceError> {
        self.recipient()?.fresh()
    }
}

fn no_agreement() -> SourceError {
    SourceError::Unusable("is no usable X25519 key".to_owned())
}

fn agreed(sender: &[u8; 32], recipient: &[u8; 32], shared: &[u8]) -> SourceKey {
    let salt = [sender.as_slice(), recipient].concat();
    Locked::copy(&derive::<32>(Some(&salt), shared, &[b"rcmpd recipient key 1"]))
}
