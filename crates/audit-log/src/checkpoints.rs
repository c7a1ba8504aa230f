//! Signed checkpoints: at intervals the last line of the chain is signed, into a file of its own.
//!
//! A reader with the public key verifies by a checkpoint the chain up to its line, and that the chain was so
//! long. Copy checkpoints to a place where users who can write here cannot write: otherwise they can remove
//! the newest checkpoints together with lines.

use super::line_hash::{self, Hash};
use super::strict::{self, Flaw};
use super::watched_file::{Change, WatchedFile};
use super::writer::{self, Position};
use crate::CheckpointSettings;
use anyhow::{Context, bail};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use dtyp::hex;
use ed25519_file::{PublicKey, SigningKey};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;

/// What is looked at for the newest checkpoint; one has some 350 bytes.
const TAIL_LEN_MAX: u64 = 64 * 1024;

/// The longest line of a file of checkpoints.
pub(super) const CHECKPOINT_LEN_MAX: usize = 4096;

/// A line of the file of checkpoints.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Checkpoint {
    pub(super) version: u32,
    pub(super) time: String,
    pub(super) seq: u64,
    pub(super) hash: String,
    pub(super) public_key: String,
    pub(super) signature: String,
}

/// Why a line is no checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotACheckpoint {
    /// It is the first part of one, as a crash leaves it.
    Torn,
    /// It is something that is never written.
    Wrong(&'static str),
}

/// How each checkpoint begins.
const START: &[u8] = b"{\"version\":1,\"time\":\"";

/// The bytes that are signed.
fn message(seq: u64, hash: &str, time: &str) -> Vec<u8> {
    format!("rcmpd audit head v1\n{seq}\n{hash}\n{time}\n").into_bytes()
}

impl Checkpoint {
    /// Reads a line. One that says the same as a checkpoint in other bytes is no checkpoint: the signature
    /// covers only some of them.
    pub(super) fn read(line: &[u8]) -> Result<Self, NotACheckpoint> {
        match strict::check(line) {
            Err(Flaw::Twice) => {
                return Err(NotACheckpoint::Wrong("a member of this checkpoint is there twice"));
            }
            Err(Flaw::Part) if !line.is_empty() && (line.starts_with(START) || START.starts_with(line)) => {
                return Err(NotACheckpoint::Torn);
            }
            Err(_) => return Err(NotACheckpoint::Wrong("this is not a checkpoint")),
            Ok(()) => {}
        }
        let head: Self =
            serde_json::from_slice(line).map_err(|_| NotACheckpoint::Wrong("this is not a checkpoint"))?;
        match serde_json::to_vec(&head).is_ok_and(|written| written == line) {
            true => Ok(head),
            false => Err(NotACheckpoint::Wrong(
                "this checkpoint is not in the form in which checkpoints are written",
            )),
        }
    }

    /// Whether its own key signed it: that key, and the hash that it is about.
    pub(super) fn verified(&self) -> Option<(PublicKey, Hash)> {
        let key = PublicKey::from_spki(&BASE64.decode(&self.public_key).ok()?)?;
        let signature = BASE64.decode(&self.signature).ok()?;
        let message = message(self.seq, &self.hash, &self.time);
        UnparsedPublicKey::new(&ED25519, key.bytes()).verify(&message, &signature).ok()?;
        Some((key, line_hash::parse_hash(&self.hash)?)).filter(|_| self.version == 1)
    }
}

/// A checkpoint for a place in the log.
pub(super) fn sign(key: &SigningKey, position: Position, time: String) -> Checkpoint {
    let hash = hex(&position.hash);
    let signature = BASE64.encode(key.pair.sign(&message(position.seq, &hash, &time)));
    Checkpoint { version: 1, time, seq: position.seq, hash, public_key: key.public.to_string(), signature }
}

/// The file of checkpoints.
pub(super) struct Checkpoints {
    file: File,
    watched: WatchedFile,
    config: CheckpointSettings,
    key: SigningKey,
    /// The newest in the file.
    newest: Position,
}

/// The key that signs checkpoints.
pub(super) fn signing_key(config: &CheckpointSettings) -> anyhow::Result<SigningKey> {
    let key = config.key.display();
    if matches!(config.key.try_exists(), Ok(false)) {
        bail!("the signing key of the audit log is missing: `rcmpd audit key {key}` makes it");
    }
    SigningKey::read(&config.key)
}

impl Checkpoints {
    /// Opens the file, or makes it.
    pub(super) fn open(config: &CheckpointSettings) -> anyhow::Result<Self> {
        let key = signing_key(config)?;
        let path = config.path.display();
        if config.path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            bail!("checkpoints of the audit log need a regular file, and {path} is none");
        }
        let file = writer::open(&config.path, true)?;
        let (bytes, _) = writer::last_bytes(&file, TAIL_LEN_MAX)
            .with_context(|| format!("cannot read the checkpoints of the audit log in {path}"))?;
        let mut is_signed = false;
        let newest = bytes.rsplit(|byte| *byte == b'\n').find_map(|line| {
            let head = Checkpoint::read(line).ok()?;
            let (signer, hash) = head.verified()?;
            // A user who can write here can sign with a key of their own. Such a checkpoint says nothing
            // about our log.
            if signer != key.public && !std::mem::replace(&mut is_signed, true) {
                tracing::warn!(seq = head.seq, "The newest audit checkpoint was signed by another key");
            }
            is_signed = true;
            (signer == key.public).then_some(Position { seq: head.seq, hash })
        });
        if !is_signed && !bytes.is_empty() {
            bail!(
                "{path} has no checkpoint at its end: move the file away, and the service creates a new one"
            );
        }
        let watched = WatchedFile::new(&config.path, &file, true);
        Ok(Self { file, watched, config: config.clone(), key, newest: newest.unwrap_or_default() })
    }

    /// What other programs did to the file, each thing once.
    pub(super) fn look_around(&mut self) -> io::Result<Option<Change>> {
        self.watched.look(&self.file)
    }

    /// Whether checkpoints are not found under the path any more.
    pub(super) const fn is_away(&self) -> bool {
        self.watched.is_away()
    }

    /// Goes on in the file that is there now.
    pub(super) fn reopen(&mut self) -> anyhow::Result<()> {
        let newest = self.newest;
        *self = Self::open(&self.config)?;
        self.newest = newest;
        Ok(())
    }

    /// The path under which it is written.
    pub(super) fn path(&self) -> &std::path::Path {
        self.watched.path()
    }

    /// What the newest checkpoint is about; `seq` 0 when there is none.
    pub(super) const fn newest(&self) -> Position {
        self.newest
    }

    /// Signs a position of the log, unless it is signed already. The log is on the disk before its checkpoint
    /// is.
    pub(super) fn sign(&mut self, position: Position, log: &File) -> io::Result<()> {
        if position.seq <= self.newest.seq {
            return Ok(());
        }
        log.sync_data()?;
        let head = sign(&self.key, position, crate::now().to_string());
        let mut line = serde_json::to_vec(&head)?;
        let last = (line.len(), line_hash::hash(&line));
        line.push(b'\n');
        let written = writer::append_line(&self.file, &line);
        match &written {
            Ok(count) => self.watched.wrote(*count, Some(last)),
            Err(_) => self.watched.forget(&self.file),
        }
        written?;
        self.newest = position;
        Ok(())
    }

    /// Writes elsewhere.
    #[cfg(test)]
    pub(super) fn swap_file(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }
}
