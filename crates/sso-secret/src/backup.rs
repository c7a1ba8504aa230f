//! Backups of all generations, encrypted for a passphrase, a key file, or a recipient's public key.
//!
//! # Format, version 1
//!
//! An envelope (see `envelope.rs`) with magic `MSBK`. Its header: the key header (see [`source`](crate::source)); 8 octets: time of the
//! backup, Unix seconds; 16 octets: instance id of the folder that it was made of; the generations (see `generation.rs`), which begin
//! with the lineage. The plaintext is 16 octets for each generation.
//!
//! For a recipient the salt of the key header is the sender's X25519 public key, drawn for this backup. The 32 octets of the source are
//! `HKDF-SHA256(salt = sender's public key || recipient's public key, secret = X25519, "rcmpd recipient key 1")`.

use crate::derive;
use crate::envelope::{self, Envelope, FormatError};
use crate::files::{self, read_bounded};
use crate::generation::{Generation, Generations, Listed};
use crate::memory::Locked;
use crate::secret::Keyring;
use crate::source::{self, KeyHeader, Sealed, SealingSource, SourceError, SourceKey, SourceKind};
use crate::store::{MachineId, RestoreRules, SecretStore, StoreError};
use crate::time::UnixTime;
use crate::{Purpose, blob};
use aws_lc_rs::agreement::{self, EphemeralPrivateKey, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::rand::SystemRandom;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const MAGIC: [u8; 4] = *b"MSBK";

/// Why a backup was not written or does not open.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file is none, or was changed.
    #[error("the backup is damaged: {0}")]
    Format(#[from] FormatError),
    /// The key does not open it, or is missing.
    #[error("the backup does not open: {0}")]
    Sealed(#[from] Sealed),
    /// The system has no randomness.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// A backup whose header was read.
#[derive(Debug)]
pub struct Backup<'a> {
    bytes: &'a [u8],
    key_header: KeyHeader,
    /// When it was written; not authenticated until it is opened.
    pub created: UnixTime,
    /// The folder that it was made of.
    pub instance: [u8; 16],
    pub(crate) listed: Listed,
}

impl<'a> Backup<'a> {
    /// Reads the header.
    pub fn read(bytes: &'a [u8]) -> Result<Self, BackupError> {
        let envelope = Envelope::read("backup", MAGIC, bytes)?;
        let (key_header, mut reader) = envelope::key_header(envelope.header).map_err(FormatError::from)?;
        let mut rest = || -> Result<_, dtyp::DecodeError> {
            let created = UnixTime(reader.u64("time of the backup")?);
            let instance = reader.array("instance id")?;
            let listed = Listed::decode(&mut reader)?;
            Ok((created, instance, listed))
        };
        let (created, instance, listed) = rest().map_err(FormatError::from)?;
        reader.finish("header").map_err(FormatError::from)?;
        Ok(Self { bytes, key_header, created, instance, listed })
    }

    /// The generations that it says it has, newest first; not authenticated until it is opened.
    pub fn generations(&self) -> &[Generation] {
        &self.listed.generations
    }

    /// How it was encrypted.
    pub fn key_header(&self) -> &KeyHeader {
        &self.key_header
    }

    /// Opens it; each secret has opened its sentinel.
    pub(crate) fn open(self, key: &dyn SealingSource) -> Result<Generations, BackupError> {
        let envelope = Envelope::read("backup", MAGIC, self.bytes)?;
        let key = self.key_header.unlock(key, MAGIC)?;
        Ok(self.listed.open(&envelope.open(&key)?)?)
    }
}

pub(crate) fn write(
    generations: &Generations,
    instance: [u8; 16],
    now: UnixTime,
    recipient: &dyn SealingSource,
) -> Result<Vec<u8>, BackupError> {
    let (key_header, key) = KeyHeader::fresh(recipient, MAGIC)?;
    let mut header = Vec::new();
    key_header.encode(&mut header);
    header.extend(now.0.to_le_bytes());
    header.extend(instance);
    generations.encode(&mut header);
    Ok(envelope::seal(MAGIC, &header, &key, &generations.secrets())?)
}

/// Restores a backup into the empty folder `scratch`, reads it from there, and opens what each live generation seals.
pub(crate) fn prove(
    live: &Generations,
    bytes: &[u8],
    key: &dyn SealingSource,
    scratch: &Path,
    now: UnixTime,
) -> Result<(), StoreError> {
    let failed = |error| StoreError::Backup(BackupError::Random(error));
    let purpose = Purpose::new("rcmpd/drill").expect("the name is short and plain");
    let mut expected = [0; 32];
    getrandom::fill(&mut expected).map_err(failed)?;
    let mut probes = Vec::new();
    for (generation, secret) in live.iter() {
        let ring = Keyring::new(secret.clone());
        let probe = blob::seal(&ring, &purpose, &[], &expected)
            .map_err(|error| StoreError::NotAdded(error.to_string()))?;
        probes.push((generation, probe));
    }
    let source = Arc::new(MemoryKey(SourceKey::fill(|bytes| getrandom::fill(bytes)).map_err(failed)?));
    let machine = MachineId::new("drill");
    SecretStore::new(scratch, source.clone(), machine.clone()).restore(
        bytes,
        key,
        now,
        Duration::ZERO,
        RestoreRules::default(),
    )?;
    let restored = SecretStore::new(scratch, source, machine).open()?.keyring();
    for (generation, probe) in probes {
        let opens =
            blob::open(&restored, &purpose, &[], &probe).is_ok_and(|opened| *opened.plain == expected);
        if !opens {
            return Err(StoreError::Drill { number: generation.number, key_id: generation.key_id });
        }
    }
    Ok(())
}

/// A key that exists only in this process.
struct MemoryKey(SourceKey);

impl SealingSource for MemoryKey {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn kind(&self) -> SourceKind {
        SourceKind::Key
    }

    fn key(&self, _: &[u8; 32], _: Option<source::PassphraseCost>) -> Result<SourceKey, SourceError> {
        Ok(Locked::copy(self.0.expose()))
    }
}

/// The public key of a recipient, for whom a backup is encrypted on a machine that cannot open it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient(pub [u8; 32]);

impl Recipient {
    /// `rcmpd-recipient-1:` and 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: &[u8; 64] = text.trim().strip_prefix("rcmpd-recipient-1:")?.as_bytes().try_into().ok()?;
        let mut key = [0; 32];
        source::unhex(digits, &mut key)?;
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

    fn key(&self, _: &[u8; 32], _: Option<source::PassphraseCost>) -> Result<SourceKey, SourceError> {
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
pub struct RecipientKey {
    name: String,
    private: SourceKey,
}

impl RecipientKey {
    /// Writes a new private key to a file with mode 0600. A file that exists is never touched.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        let private = SourceKey::fill(|bytes| getrandom::fill(bytes))
            .map_err(|error| std::io::Error::other(error.to_string()))?;
        files::write_new(path, private.expose())?;
        Ok(Self { name: format!("file:{}", path.display()), private })
    }

    /// Reads a private key.
    pub fn read(path: &Path) -> Result<Self, SourceError> {
        let bytes = read_bounded(path, source::KEY_TEXT_MAX).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => SourceError::Missing,
            _ => SourceError::Unusable(format!("cannot be read: {error}")),
        })?;
        let private = source::key_of_text(&bytes)?;
        Ok(Self { name: format!("file:{}", path.display()), private })
    }

    /// Its public key.
    pub fn recipient(&self) -> Result<Recipient, SourceError> {
        let public = self.agreement()?.compute_public_key().map_err(|_| no_agreement())?;
        public.as_ref().try_into().map(Recipient).map_err(|_| no_agreement())
    }

    fn agreement(&self) -> Result<PrivateKey, SourceError> {
        PrivateKey::from_private_key(&X25519, self.private.expose()).map_err(|_| no_agreement())
    }
}

impl SealingSource for RecipientKey {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn kind(&self) -> SourceKind {
        SourceKind::Recipient
    }

    fn key(&self, salt: &[u8; 32], _: Option<source::PassphraseCost>) -> Result<SourceKey, SourceError> {
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
