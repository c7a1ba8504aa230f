//! Signed heads: at intervals the last line of the chain is signed, into a file of its own.
//!
//! A head proves the chain up to its line to whoever has the public key, and that the chain was so long. What it proves is
//! worth as much as the place to which heads are copied is out of reach of whoever can write here.

use super::writer::{self, Hash, Position};
use crate::config::AuditHeads;
use anyhow::{Context, bail};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use dtyp::hex;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// What is looked at for the newest head; one has some 350 bytes.
const TAIL_LEN_MAX: u64 = 64 * 1024;

/// The longest line of a file of heads.
pub(super) const HEAD_LEN_MAX: usize = 4096;

/// RFC 8410, section 4: a SubjectPublicKeyInfo of an Ed25519 key up to the key.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A public key that heads can be verified by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// From a SubjectPublicKeyInfo in DER.
    fn from_spki(der: &[u8]) -> Option<Self> {
        der.strip_prefix(&SPKI_PREFIX)?.try_into().ok().map(Self)
    }

    /// Reads a SubjectPublicKeyInfo in PEM.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let spki = SubjectPublicKeyInfoDer::from_pem_file(path)
            .with_context(|| format!("{} is not a public key in PEM", path.display()))?;
        Self::from_spki(&spki).with_context(|| format!("{} is not an Ed25519 key", path.display()))
    }

    /// As PEM.
    pub fn pem(&self) -> String {
        pem("PUBLIC KEY", &self.to_string())
    }
}

/// The SubjectPublicKeyInfo in base64: the middle line of its PEM.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode([&SPKI_PREFIX[..], &self.0].concat()))
    }
}

/// PEM of something whose base64 fits one line, as all of an Ed25519 key does.
fn pem(label: &str, base64: &str) -> String {
    format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
}

/// A line of the file of heads.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Head {
    pub(super) version: u32,
    pub(super) time: String,
    pub(super) seq: u64,
    pub(super) hash: String,
    pub(super) public_key: String,
    pub(super) signature: String,
}

/// The bytes that are signed.
fn message(seq: u64, hash: &str, time: &str) -> Vec<u8> {
    format!("rcmpd audit head v1\n{seq}\n{hash}\n{time}\n").into_bytes()
}

impl Head {
    /// Whether its own key signed it: that key, and the hash that it is about.
    pub(super) fn verified(&self) -> Option<(PublicKey, Hash)> {
        let key = PublicKey::from_spki(&BASE64.decode(&self.public_key).ok()?)?;
        let signature = BASE64.decode(&self.signature).ok()?;
        let message = message(self.seq, &self.hash, &self.time);
        UnparsedPublicKey::new(&ED25519, key.0).verify(&message, &signature).ok()?;
        Some((key, writer::parse_hash(&self.hash)?)).filter(|_| self.version == 1)
    }
}

/// The key that signs.
pub(super) struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl SigningKey {
    fn from_pair(pair: Ed25519KeyPair) -> anyhow::Result<Self> {
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().context("the key has no public half")?;
        let public = PublicKey::from_spki(spki.as_ref()).context("this is not an Ed25519 key")?;
        Ok(Self { pair, public })
    }

    /// Reads a key that only its owner can read.
    fn read(path: &Path) -> anyhow::Result<Self> {
        let unreadable = || format!("the signing key {} cannot be read", path.display());
        let mode = path.metadata().with_context(unreadable)?.permissions().mode();
        if mode & 0o077 != 0 {
            bail!(
                "the signing key {} can be used by others than its owner (mode {:o}): chmod 600",
                path.display(),
                mode & 0o777
            );
        }
        let text = Zeroizing::new(std::fs::read(path).with_context(unreadable)?);
        let der = PrivatePkcs8KeyDer::from_pem_slice(&text)
            .with_context(|| format!("{} is not a PKCS#8 key in PEM", path.display()))?;
        let pair = Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der())
            .with_context(|| format!("{} is not an Ed25519 key", path.display()))?;
        Self::from_pair(pair)
    }

    pub(super) fn sign(&self, position: Position, time: String) -> Head {
        let hash = hex(&position.hash);
        let signature = BASE64.encode(self.pair.sign(&message(position.seq, &hash, &time)));
        Head { version: 1, time, seq: position.seq, hash, public_key: self.public.to_string(), signature }
    }
}

/// Makes a signing key in a file, and its public half beside it in `FILE.pub`. Overwrites nothing.
pub fn make_key(path: &Path) -> anyhow::Result<(PathBuf, PublicKey)> {
    let mut public_path = path.as_os_str().to_owned();
    public_path.push(".pub");
    let public_path = PathBuf::from(public_path);
    if let Some(taken) = [path, &public_path].into_iter().find(|path| path.symlink_metadata().is_ok()) {
        bail!("{} exists already, and nothing is overwritten; choose another name", taken.display());
    }
    let key = SigningKey::from_pair(Ed25519KeyPair::generate().context("no key could be made")?)?;
    // Version 1 of PKCS#8, which OpenSSL reads, too.
    let pkcs8 = key.pair.to_pkcs8v1().context("no key could be made")?;
    let text = Zeroizing::new(pem("PRIVATE KEY", &Zeroizing::new(BASE64.encode(pkcs8.as_ref()))));
    for (path, text, mode) in [(path, &*text, 0o600), (&public_path, &key.public.pem(), 0o644)] {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok((public_path, key.public))
}

/// The file of heads.
pub(super) struct Heads {
    file: File,
    key: SigningKey,
    /// The newest in the file.
    newest: Position,
}

impl Heads {
    /// Opens the file, or makes it.
    pub(super) fn open(config: &AuditHeads) -> anyhow::Result<Self> {
        let key = SigningKey::read(&config.key)?;
        let path = config.path.display();
        if config.path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            bail!("heads of the audit log need a file, and {path} is none");
        }
        let file = writer::open(&config.path, true)?;
        let (bytes, _) = writer::last_bytes(&file, TAIL_LEN_MAX)
            .with_context(|| format!("the heads of the audit log in {path} cannot be read"))?;
        let mut is_signed = false;
        let newest = bytes.rsplit(|byte| *byte == b'\n').find_map(|line| {
            let head: Head = serde_json::from_slice(line).ok()?;
            let (signer, hash) = head.verified()?;
            // Anybody who can write here can sign something with a key of his own: it says nothing about our log.
            if signer != key.public && !std::mem::replace(&mut is_signed, true) {
                tracing::warn!(seq = head.seq, "The newest audit head was signed by another key");
            }
            is_signed = true;
            (signer == key.public).then_some(Position { seq: head.seq, hash })
        });
        if !is_signed && !bytes.is_empty() {
            bail!("{path} has no head at its end: move it away, and a new one is made");
        }
        Ok(Self { file, key, newest: newest.unwrap_or_default() })
    }

    /// What the newest head is about; `seq` 0 when there is none.
    pub(super) const fn newest(&self) -> Position {
        self.newest
    }

    /// Signs a position of the log, unless it is signed already. The log is on the disk before its head is.
    pub(super) fn sign(&mut self, position: Position, log: &File) -> io::Result<()> {
        if position.seq <= self.newest.seq {
            return Ok(());
        }
        log.sync_data()?;
        let head = self.key.sign(position, crate::serve::now().to_string());
        let mut line = serde_json::to_vec(&head)?;
        line.push(b'\n');
        writer::append_line(&self.file, &line)?;
        self.newest = position;
        Ok(())
    }

    /// Writes elsewhere.
    #[cfg(test)]
    pub(super) fn swap_file(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }
}
