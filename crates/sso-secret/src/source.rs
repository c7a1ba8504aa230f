//! Where the sealing key comes from: a key file, a systemd credential, a passphrase, a PKCS#11 token, or
//! shares of a key.
//!
//! A source gives 32 octets for a salt. The key of a file is `HKDF-SHA256(salt, the 32 octets, "rcmpd sealing
//! key 1: " || magic)`, so each file has a key of its own. 16 octets of a second derivation (`… which key: `)
//! stand in the header: a wrong key is told from a changed file.
//!
//! # The key header, which begins each header
//!
//! | octets | field |
//! | --- | --- |
//! | 1 | kind: 1 key, 2 passphrase, 3 PKCS#11, 4 recipient |
//! | 1 + n | length and UTF-8 text of the source's name, for people |
//! | 32 | salt; for a recipient the sender's X25519 public key |
//! | 4, 4, 4 | argon2id memory in KiB, passes, lanes; 0 for other kinds |
//! | 16 | which key |

use crate::derive;
use crate::files::{self, read_bounded};
use crate::memory::Locked;
use argon2::{Algorithm, Argon2, Params, Version};
use dtyp::{DecodeError, DecodeErrorKind, Reader};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Length of a source's name. Longer names are cut: the name is for people, and the key is told by its check.
const NAME_MAX: usize = 255;
pub(crate) const SALT_LEN: usize = 32;
const CHECK_LEN: usize = 16;

/// How a source makes its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// 32 random octets: a file, a systemd credential, or shares.
    Key,
    /// Text, through argon2id.
    Passphrase,
    /// HMAC-SHA256 under a key that does not leave its token.
    Pkcs11,
    /// X25519: the file was encrypted for a public key.
    Recipient,
}

impl SourceKind {
    const ALL: [Self; 4] = [Self::Key, Self::Passphrase, Self::Pkcs11, Self::Recipient];

    fn octet(self) -> u8 {
        self as u8 + 1
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Passphrase => "passphrase",
            Self::Pkcs11 => "PKCS#11 key",
            Self::Recipient => "recipient key",
        })
    }
}

/// What argon2id costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PassphraseCost {
    /// KiB.
    pub memory: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl PassphraseCost {
    /// The second recommendation of RFC 9106, section 4.
    pub const DEFAULT: Self = Self { memory: 64 << 10, passes: 3, lanes: 4 };
    /// The least that is written or read: OWASP's minimum for argon2id.
    pub const MIN: Self = Self { memory: 19 << 10, passes: 2, lanes: 1 };
    /// The most that is read: a file of a stranger must not take a machine's memory or its hours.
    pub const MAX: Self = Self { memory: 1 << 20, passes: 16, lanes: 16 };

    /// Whether each parameter is within the limits.
    pub fn is_allowed(self) -> bool {
        let within = |value: u32, min: u32, max: u32| (min..=max).contains(&value);
        within(self.memory, Self::MIN.memory, Self::MAX.memory)
            && within(self.passes, Self::MIN.passes, Self::MAX.passes)
            && within(self.lanes, Self::MIN.lanes, Self::MAX.lanes)
    }
}

/// 32 octets of a source, or a key derived from them.
pub type SourceKey = Locked<32>;

/// Why a source gives no key.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file, credential, passphrase, token or key is not there.
    #[error("is missing")]
    Missing,
    /// It is there and cannot be used, with the reason as the end of a sentence about it.
    #[error("{0}")]
    Unusable(String),
}

/// Something that gives a sealing key.
pub trait SealingSource: Send + Sync {
    /// Its name for people and for the header, such as `file:/etc/rcmpd/unseal.key`. Never a secret.
    fn name(&self) -> String;

    /// How it makes its key.
    fn kind(&self) -> SourceKind;

    /// What a new file's passphrase costs; `None` for other kinds.
    fn cost(&self) -> Option<PassphraseCost> {
        None
    }

    /// The 32 octets for a salt.
    fn key(&self, salt: &[u8; SALT_LEN], cost: Option<PassphraseCost>) -> Result<SourceKey, SourceError>;

    /// The same of a source that may have several: the one that is right, or else one that is not.
    fn key_that(
        &self,
        salt: &[u8; SALT_LEN],
        cost: Option<PassphraseCost>,
        _is_right: &dyn Fn(&SourceKey) -> bool,
    ) -> Result<SourceKey, SourceError> {
        self.key(salt, cost)
    }

    /// A new salt with its 32 octets, to seal with.
    fn fresh(&self) -> Result<([u8; SALT_LEN], SourceKey), SourceError> {
        let mut salt = [0; SALT_LEN];
        getrandom::fill(&mut salt)
            .map_err(|error| SourceError::Unusable(format!("no random numbers: {error}")))?;
        let key = self.key(&salt, self.cost())?;
        Ok((salt, key))
    }
}

/// Why a file stays sealed: the name of what is missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {why}")]
pub struct Sealed {
    /// The sealing source or file.
    pub what: String,
    /// The end of a sentence about it.
    pub why: String,
}

/// How the key of a file is made: see the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyHeader {
    /// How the source makes its key.
    pub kind: SourceKind,
    /// The source's name when the file was written.
    pub name: String,
    /// What argon2id costs.
    pub cost: Option<PassphraseCost>,
    salt: [u8; SALT_LEN],
    check: [u8; CHECK_LEN],
}

impl KeyHeader {
    /// Draws a salt, and makes the key of a new file.
    pub(crate) fn fresh(source: &dyn SealingSource, magic: [u8; 4]) -> Result<(Self, SourceKey), Sealed> {
        let (salt, raw) = source.fresh().map_err(|error| sealed(source, &error))?;
        let mut name = source.name();
        while name.len() > NAME_MAX {
            name.pop();
        }
        let check = which_key(&salt, &raw, magic);
        let header = Self { kind: source.kind(), name, cost: source.cost(), salt, check };
        let key = header.file_key(&raw, magic);
        Ok((header, key))
    }

    /// The key of this file, if the source is the one that sealed it. The only place that decides so.
    pub(crate) fn unlock(&self, source: &dyn SealingSource, magic: [u8; 4]) -> Result<SourceKey, Sealed> {
        let refused = |why: String| Sealed { what: source.name(), why };
        if source.kind() != self.kind {
            return Err(refused(format!(
                "is a {}, and the file is sealed with {}, a {}",
                source.kind(),
                self.name,
                self.kind
            )));
        }
        let is_right = |raw: &SourceKey| which_key(&self.salt, raw, magic).ct_eq(&self.check).into();
        let raw =
            source.key_that(&self.salt, self.cost, &is_right).map_err(|error| sealed(source, &error))?;
        if !is_right(&raw) {
            return Err(refused(format!(
                "has another key than the one that the file is sealed with ({})",
                self.name
            )));
        }
        Ok(self.file_key(&raw, magic))
    }

    /// Whether another header has the same key.
    pub(crate) fn has_key_of(&self, other: &Self) -> bool {
        (self.kind, self.cost, self.salt, self.check) == (other.kind, other.cost, other.salt, other.check)
    }

    fn file_key(&self, raw: &SourceKey, magic: [u8; 4]) -> SourceKey {
        let key = derive::<32>(Some(&self.salt), raw.expose(), &[b"rcmpd sealing key 1: ", &magic]);
        Locked::copy(&key)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let cost = self.cost.unwrap_or(PassphraseCost { memory: 0, passes: 0, lanes: 0 });
        out.extend([self.kind.octet(), self.name.len() as u8]);
        out.extend(self.name.as_bytes());
        out.extend(self.salt);
        out.extend([cost.memory, cost.passes, cost.lanes].map(u32::to_le_bytes).concat());
        out.extend(self.check);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bad = |reader: &Reader<'_>, what| reader.error(what, DecodeErrorKind::BadValue);
        let kind = reader.u8("sealing source kind")?;
        let kind = SourceKind::ALL
            .into_iter()
            .find(|known| known.octet() == kind)
            .ok_or_else(|| bad(reader, "sealing source kind"))?;
        let len = reader.u8("sealing source name")?;
        let name = reader.take("sealing source name", len.into())?;
        let name = std::str::from_utf8(name)
            .map_err(|_| reader.error("sealing source name", DecodeErrorKind::BadText))?
            .to_owned();
        let salt = reader.array("salt")?;
        let cost = PassphraseCost {
            memory: reader.u32("argon2id memory")?,
            passes: reader.u32("argon2id passes")?,
            lanes: reader.u32("argon2id lanes")?,
        };
        let cost = match kind {
            SourceKind::Passphrase if cost.is_allowed() => Some(cost),
            SourceKind::Key | SourceKind::Pkcs11 | SourceKind::Recipient
                if [cost.memory, cost.passes, cost.lanes] == [0; 3] =>
            {
                None
            }
            _ => return Err(bad(reader, "argon2id cost")),
        };
        Ok(Self { kind, name, cost, salt, check: reader.array("which key")? })
    }
}

/// The octets by which a wrong key is told from a changed file: see the module.
fn which_key(salt: &[u8; SALT_LEN], raw: &SourceKey, magic: [u8; 4]) -> [u8; CHECK_LEN] {
    *derive(Some(salt), raw.expose(), &[b"rcmpd sealing key 1: which key: ", &magic])
}

fn sealed(source: &dyn SealingSource, error: &SourceError) -> Sealed {
    Sealed { what: source.name(), why: error.to_string() }
}

/// 32 random octets in a file, which only its owner may read: raw, or as 64 hexadecimal digits.
#[derive(Clone, Debug)]
pub struct KeyFile {
    name: String,
    path: Result<PathBuf, String>,
}

impl KeyFile {
    /// A file.
    pub fn file(path: &Path) -> Self {
        Self { name: file_name(path), path: Ok(path.to_owned()) }
    }

    /// A systemd credential: a file below `directory`, which is `$CREDENTIALS_DIRECTORY` of the process.
    pub fn credential(name: &str, directory: Option<&Path>) -> Self {
        let path = match directory {
            Some(directory) if !name.is_empty() && !name.contains('/') && name != ".." && name != "." => {
                Ok(directory.join(name))
            }
            Some(_) => Err("is no name of a credential".to_owned()),
            None => Err("cannot be read: $CREDENTIALS_DIRECTORY is not set; systemd sets it for units with LoadCredential=".to_owned()),
        };
        Self { name: format!("cred:{name}"), path }
    }

    /// Writes a new key file with mode 0600. A file that exists is never touched.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        create_key(path).map(|_| Self::file(path))
    }
}

impl SealingSource for KeyFile {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn kind(&self) -> SourceKind {
        SourceKind::Key
    }

    fn key(&self, _: &[u8; SALT_LEN], _: Option<PassphraseCost>) -> Result<SourceKey, SourceError> {
        let path = self.path.as_ref().map_err(|why| SourceError::Unusable(why.clone()))?;
        read_key(path)
    }
}

/// 32 octets that were read, or that never were in a file.
pub struct HeldKey {
    name: String,
    key: SourceKey,
}

impl HeldKey {
    /// A key with its name for people, such as the one of the file that it came from.
    pub fn new(name: &str, key: &[u8; 32]) -> Self {
        Self { name: name.to_owned(), key: SourceKey::copy(key) }
    }

    /// A key that exists only in this process.
    pub(crate) fn random(name: &str) -> Result<Self, getrandom::Error> {
        Ok(Self { name: name.to_owned(), key: SourceKey::fill(|bytes| getrandom::fill(bytes))? })
    }

    /// Reads a key file, now and not at each use.
    pub fn read(path: &Path) -> Result<Self, SourceError> {
        Ok(Self { name: file_name(path), key: read_key(path)? })
    }

    /// The 32 octets, which are secret.
    pub fn expose(&self) -> &[u8; 32] {
        self.key.expose()
    }
}

impl fmt::Debug for HeldKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeldKey({}, [redacted])", self.name)
    }
}

impl SealingSource for HeldKey {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn kind(&self) -> SourceKind {
        SourceKind::Key
    }

    fn key(&self, _: &[u8; SALT_LEN], _: Option<PassphraseCost>) -> Result<SourceKey, SourceError> {
        Ok(Locked::copy(self.key.expose()))
    }
}

/// The name of a source that is a file.
pub(crate) fn file_name(path: &Path) -> String {
    format!("file:{}", path.display())
}

/// Writes 32 random octets to a new key file with mode 0600. A file that exists is never touched.
pub(crate) fn create_key(path: &Path) -> std::io::Result<SourceKey> {
    let key = SourceKey::fill(|bytes| getrandom::fill(bytes))
        .map_err(|error| std::io::Error::other(error.to_string()))?;
    files::write_new(path, key.expose())?;
    Ok(key)
}

/// Reads a key file.
pub(crate) fn read_key(path: &Path) -> Result<SourceKey, SourceError> {
    let bytes = read_bounded(path, KEY_TEXT_MAX).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => SourceError::Missing,
        _ => SourceError::Unusable(format!("cannot be read: {error}")),
    })?;
    key_of_text(&bytes)
}

/// A key file has 32 octets, or 64 digits and an end of line.
const KEY_TEXT_MAX: usize = 66;

/// 32 octets as they are, or 64 hexadecimal digits and at most one end of line.
fn key_of_text(bytes: &[u8]) -> Result<SourceKey, SourceError> {
    if let Ok(raw) = bytes.try_into() {
        return Ok(SourceKey::copy(raw));
    }
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let digits = line.strip_suffix(b"\r").unwrap_or(line);
    SourceKey::fill(|key| dtyp::read_hex(digits, key).ok_or(()))
        .map_err(|()| SourceError::Unusable("is not a key of 32 octets or 64 hexadecimal digits".to_owned()))
}

/// Text, which is read each time that it is needed.
pub struct Passphrase {
    name: String,
    cost: PassphraseCost,
    read: Box<dyn Fn() -> Result<Zeroizing<String>, SourceError> + Send + Sync>,
}

impl Passphrase {
    /// `name` is where the text comes from, such as `cred:master-secret-passphrase`; `read` fetches it.
    /// `cost` is used for new files; a file that exists has its own.
    pub fn new(
        name: &str,
        cost: PassphraseCost,
        read: impl Fn() -> Result<Zeroizing<String>, SourceError> + Send + Sync + 'static,
    ) -> Self {
        Self { name: format!("passphrase:{name}"), cost, read: Box::new(read) }
    }

    /// A passphrase that an operator typed.
    pub fn typed(text: Zeroizing<String>) -> Self {
        Self::new("typed", PassphraseCost::DEFAULT, move || Ok(text.clone()))
    }

    /// The same with another cost of new files.
    pub fn with_cost(self, cost: PassphraseCost) -> Self {
        Self { cost, ..self }
    }
}

impl SealingSource for Passphrase {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn kind(&self) -> SourceKind {
        SourceKind::Passphrase
    }

    fn cost(&self) -> Option<PassphraseCost> {
        Some(self.cost)
    }

    fn key(&self, salt: &[u8; SALT_LEN], cost: Option<PassphraseCost>) -> Result<SourceKey, SourceError> {
        let unusable = |error: &dyn fmt::Display| SourceError::Unusable(format!("cannot be used: {error}"));
        let cost = cost
            .filter(|cost| cost.is_allowed())
            .ok_or_else(|| unusable(&"its argon2id cost is outside the limits"))?;
        let text = (self.read)()?;
        if text.is_empty() {
            return Err(unusable(&"it is empty"));
        }
        let params =
            Params::new(cost.memory, cost.passes, cost.lanes, Some(32)).map_err(|error| unusable(&error))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        SourceKey::fill(|key| argon2.hash_password_into(text.as_bytes(), salt, key))
            .map_err(|error| unusable(&error))
    }
}
