//! Backups of all generations, encrypted for a passphrase, a key file, or a recipient's public key.
//!
//! # Format, version 1
//!
//! An envelope (see `envelope.rs`) with magic `MSBK`. Its header: the key header (see
//! [`source`](crate::source)); 8 octets: time of the backup, Unix seconds; 16 octets: instance id of the
//! folder that it was made of; the generations (see `generation.rs`), which begin with the lineage. The
//! plaintext is 16 octets for each generation.
//!
//! For a recipient the salt of the key header is the sender's X25519 public key, drawn for this backup. The
//! 32 octets of the source are `HKDF-SHA256(salt = sender's public key || recipient's public key, secret =
//! X25519, "rcmpd recipient key 1")`. The sender's key is new for each backup, so it does not show who wrote
//! the backup.

use crate::envelope::{self, Envelope, FormatError};
use crate::files;
use crate::generation::{Generation, Generations, Listed};
use crate::secret::Keyring;
use crate::source::{KeyHeader, Sealed, SealingSource};
use crate::time::UnixTime;
use std::path::Path;

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
    envelope: Envelope<'a>,
    key_header: KeyHeader,
    /// When it was written; not authenticated: see [`Backup::generations`].
    pub created: UnixTime,
    /// The folder that it was made of.
    pub instance: [u8; 16],
    pub(crate) listed: Listed,
}

impl<'a> Backup<'a> {
    /// Whether the octets begin as a backup does.
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

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
        Ok(Self { envelope, key_header, created, instance, listed })
    }

    /// The generations that it says it has, newest first. Nothing of it is authenticated before it is opened.
    /// A backup that a key file or passphrase opens was written by a program that has it. Each program that
    /// has the public key of a recipient can write a backup that the private key opens: see
    /// [`RestoreRules`](crate::RestoreRules) and [`NodeKeys::take_backup`](crate::NodeKeys::take_backup).
    pub fn generations(&self) -> &[Generation] {
        &self.listed.generations
    }

    /// How it was encrypted.
    pub fn key_header(&self) -> &KeyHeader {
        &self.key_header
    }

    /// The secrets in it, each of which has opened its sentinel.
    pub fn keyring(self, key: &dyn SealingSource) -> Result<Keyring, BackupError> {
        Ok(self.open(key)?.keyring())
    }

    /// Opens it; each secret has opened its sentinel.
    pub(crate) fn open(self, key: &dyn SealingSource) -> Result<Generations, BackupError> {
        let key = self.key_header.unlock(key, MAGIC)?;
        Ok(self.listed.open(&self.envelope.open(&key)?)?)
    }
}

/// Writes a backup to a new file with mode 0600, which is on the disk afterwards. A file that exists is never
/// touched.
pub fn write_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    files::write_new(path, bytes)
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
