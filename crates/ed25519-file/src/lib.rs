//! Ed25519 keys in files, for what this program signs: checkpoints of the audit log, hops of a path. Each has
//! a key of its own.

use account_store::FileAccess;
use account_store::file_access::write_new;
use anyhow::{Context, anyhow, bail};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use pem_file::input;
use std::fmt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// RFC 8410, section 4: a SubjectPublicKeyInfo of an Ed25519 key up to the key.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A public key that signatures can be verified by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// From a SubjectPublicKeyInfo in DER; `None` if it is not that of an Ed25519 key.
    pub fn from_spki(der: &[u8]) -> Option<Self> {
        der.strip_prefix(&SPKI_PREFIX)?.try_into().ok().map(Self)
    }

    /// Reads a SubjectPublicKeyInfo in PEM from a file that not every user can change, or from standard
    /// input.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = match input::is_standard(path) {
            true => input::read(path).context("the public key cannot be read from standard input")?.into(),
            false => FileAccess::ReadByAll
                .read(path)
                .map_err(|error| anyhow!("the public key {} {error}", path.display()))?,
        };
        let spki = pem_file::public_key(&text)
            .with_context(|| format!("{} is not a public key in PEM", path.display()))?;
        Self::from_spki(&spki).with_context(|| format!("{} is not an Ed25519 key", path.display()))
    }

    /// The key itself.
    pub const fn bytes(&self) -> [u8; 32] {
        self.0
    }

    /// As PEM.
    pub fn pem(&self) -> String {
        section("PUBLIC KEY", &self.to_string())
    }
}

/// The SubjectPublicKeyInfo in base64: the middle line of its PEM.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode([&SPKI_PREFIX[..], &self.0].concat()))
    }
}

/// PEM of something whose base64 fits one line, as all of an Ed25519 key does.
fn section(label: &str, base64: &str) -> String {
    format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
}

/// The key that signs.
#[derive(Debug)]
pub struct SigningKey {
    /// Both halves.
    pub pair: Ed25519KeyPair,
    /// The half that verifies.
    pub public: PublicKey,
}

impl SigningKey {
    fn from_pair(pair: Ed25519KeyPair) -> anyhow::Result<Self> {
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().context("the key has no public half")?;
        let public = PublicKey::from_spki(spki.as_ref()).context("this is not an Ed25519 key")?;
        Ok(Self { pair, public })
    }

    /// Reads a key that only its owner can read.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = FileAccess::Owner
            .read(path)
            .map_err(|error| anyhow!("the signing key {} {error}", path.display()))?;
        let der = pem_file::pkcs8(&text)
            .with_context(|| format!("{} is not a PKCS#8 key in PEM", path.display()))?;
        let pair = Ed25519KeyPair::from_pkcs8(&der)
            .with_context(|| format!("{} is not an Ed25519 key", path.display()))?;
        Self::from_pair(pair)
    }
}

/// Makes a signing key in a file, and its public half beside it in `FILE.pub`. Overwrites nothing.
pub fn make_key(path: &Path) -> anyhow::Result<(PathBuf, PublicKey)> {
    let mut public_path = path.as_os_str().to_owned();
    public_path.push(".pub");
    let public_path = PathBuf::from(public_path);
    if let Some(taken) = [path, &public_path].into_iter().find(|path| path.symlink_metadata().is_ok()) {
        bail!("{} already exists and is not overwritten; choose another name", taken.display());
    }
    let key = SigningKey::from_pair(Ed25519KeyPair::generate().context("no key could be made")?)?;
    // Version 1 of PKCS#8, which OpenSSL reads, too.
    let pkcs8 = key.pair.to_pkcs8v1().context("no key could be made")?;
    let text = Zeroizing::new(section("PRIVATE KEY", &Zeroizing::new(BASE64.encode(pkcs8.as_ref()))));
    let cannot_write = |path: &Path| format!("cannot write {}", path.display());
    write_new(path, text.as_bytes(), 0o600).with_context(|| cannot_write(path))?;
    if let Err(error) = write_new(&public_path, key.public.pem().as_bytes(), 0o644) {
        // Without its public half the key is of no use, and would stand in the way of the next try.
        let _ = std::fs::remove_file(path);
        return Err(error).with_context(|| cannot_write(&public_path));
    }
    Ok((public_path, key.public))
}
