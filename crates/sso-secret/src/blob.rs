//! What callers seal under the master secret: credentials, tickets of other products, connection strings.
//!
//! [`seal`] uses the newest secret of a [`Keyring`], [`open`] finds the secret by the key id in the blob, and
//! [`reseal`] moves a blob to the newest secret. Our own tickets never use this key: see the crate `ticket`.
//!
//! # Format, version 1
//!
//! | offset | octets | field |
//! | --- | --- | --- |
//! | 0 | 4 | `4d 53 42 4c` ("MSBL") |
//! | 4 | 1 | version, 1 |
//! | 5 | 1 | algorithm, 1: HKDF-SHA256 and AES-256-GCM-SIV |
//! | 6 | 8 | key id of the secret: HKDF-SHA256 without salt, info `rcmpd master secret 1: key id` |
//! | 14 | 32 | salt, random for each blob |
//! | 46 | n | ciphertext |
//! | 46 + n | 16 | tag |
//!
//! `HKDF-SHA256(salt = the salt, secret = the master secret, info = "rcmpd blob 1: " || purpose)` gives 44
//! octets: the key (32), then the nonce (12). The associated data are the first 46 octets of the blob, then
//! what the caller passed as associated data.
//!
//! The wire of [MS-SSP] carries no generation number. So the blob names its generation by the key id, which a
//! node computes from the 16 octets that it was given. If [`open`] does not know the key id, the blob is
//! older than the node's keys, or newer: the node fetches the secret once and tries again.

use crate::secret::{KeyId, Keyring};
use aes_gcm_siv::aead::{AeadInOut, KeyInit};
use aes_gcm_siv::{Aes256GcmSiv, Nonce, Tag};
use dtyp::{DecodeError, DecodeErrorKind, Reader};
use std::fmt;
use zeroize::Zeroizing;

/// A blob is read into memory as a whole, and callers keep credentials in it: 1 MiB of plaintext is far more
/// than those need.
pub const PLAIN_MAX: usize = 1 << 20;
/// Octets that a blob has beside its plaintext.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN;

const MAGIC: [u8; 4] = *b"MSBL";
const VERSION: u8 = 1;
const HKDF_AES_256_GCM_SIV: u8 = 1;
const SALT_LEN: usize = 32;
const HEADER_LEN: usize = 4 + 1 + 1 + KeyId::LEN + SALT_LEN;
const KEY_LEN: usize = 32;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;

/// What a blob is for. A blob that was sealed for one purpose does not open for another.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Purpose(String);

impl Purpose {
    /// Purposes are names in configurations and commands: 64 octets are enough, and bound what is derived.
    pub const LEN_MAX: usize = 64;

    /// 1 to 64 of `a-z A-Z 0-9 . _ / -`; `None` for other text.
    pub fn new(name: &str) -> Option<Self> {
        let allowed = |octet: u8| octet.is_ascii_alphanumeric() || b"._/-".contains(&octet);
        let fits = (1..=Self::LEN_MAX).contains(&name.len()) && name.bytes().all(allowed);
        fits.then(|| Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Purpose({})", self.0)
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a blob was not sealed or opened.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum BlobError {
    /// These octets are no blob.
    #[error("not a sealed blob: {0}")]
    Format(#[from] DecodeError),
    /// A newer rcmpd sealed it.
    #[error("the blob has version {version} and algorithm {algorithm}, and this program knows 1 and 1")]
    Version {
        /// Octet 4.
        version: u8,
        /// Octet 5.
        algorithm: u8,
    },
    /// The keyring has no secret of this name: fetch the newest secret, or get the older one from the
    /// server's operator.
    #[error("the blob is sealed under key {0}, which is not at hand")]
    UnknownKey(KeyId),
    /// The octets, the purpose or the associated data are not those that were sealed.
    #[error(
        "the blob does not open: it was changed, or sealed for another purpose or with other associated data"
    )]
    Rejected,
    /// More than [`PLAIN_MAX`].
    #[error("{0} octets are more than a blob may have ({PLAIN_MAX})")]
    TooLong(usize),
    /// The system has no randomness.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// What [`open`] gives.
#[derive(Debug)]
pub struct Opened {
    /// The plaintext, wiped when dropped.
    pub plain: Zeroizing<Vec<u8>>,
    /// The secret that it was sealed under.
    pub key_id: KeyId,
    /// Whether that is the newest one. If not, the blob is to be resealed before the overlap ends.
    pub is_newest: bool,
}

/// Seals `plain` under the newest secret. [`open`] needs the same `purpose` and `associated` data, such as
/// the name of the record.
pub fn seal(
    keys: &Keyring,
    purpose: &Purpose,
    associated: &[u8],
    plain: &[u8],
) -> Result<Vec<u8>, BlobError> {
    let mut salt = [0; SALT_LEN];
    getrandom::fill(&mut salt)?;
    seal_with_salt(keys, purpose, associated, plain, salt)
}

fn seal_with_salt(
    keys: &Keyring,
    purpose: &Purpose,
    associated: &[u8],
    plain: &[u8],
    salt: [u8; SALT_LEN],
) -> Result<Vec<u8>, BlobError> {
    if plain.len() > PLAIN_MAX {
        return Err(BlobError::TooLong(plain.len()));
    }
    let (key_id, _) = keys.newest();
    let mut blob = Vec::with_capacity(OVERHEAD + plain.len());
    blob.extend(MAGIC);
    blob.extend([VERSION, HKDF_AES_256_GCM_SIV]);
    blob.extend(key_id.0);
    blob.extend(salt);
    let data = [&blob, associated].concat();
    blob.extend(plain);
    let (cipher, nonce) = cipher(keys, key_id, purpose, &salt)?;
    // INVARIANT: the lengths are far below the 64 GiB of RFC 8452.
    let tag = cipher
        .encrypt_inout_detached(&nonce, &data, (&mut blob[HEADER_LEN..]).into())
        .expect("plaintext and associated data are short");
    blob.extend(tag);
    Ok(blob)
}

/// Opens a blob under whichever secret of the keyring sealed it.
pub fn open(keys: &Keyring, purpose: &Purpose, associated: &[u8], blob: &[u8]) -> Result<Opened, BlobError> {
    let Parts { key_id, salt, cipher: sealed, tag } = Parts::read(blob)?;
    let (cipher, nonce) = cipher(keys, key_id, purpose, &salt)?;
    let data = [&blob[..HEADER_LEN], associated].concat();
    let mut plain = Zeroizing::new(sealed.to_vec());
    cipher
        .decrypt_inout_detached(&nonce, &data, plain.as_mut_slice().into(), &Tag::from(tag))
        .map_err(|_| BlobError::Rejected)?;
    Ok(Opened { plain, key_id, is_newest: key_id == keys.newest().0 })
}

/// Seals what `blob` holds under the newest secret. `None` if it is already: such a blob was not opened.
pub fn reseal(
    keys: &Keyring,
    purpose: &Purpose,
    associated: &[u8],
    blob: &[u8],
) -> Result<Option<Vec<u8>>, BlobError> {
    if key_id(blob)? == keys.newest().0 {
        return Ok(None);
    }
    let opened = open(keys, purpose, associated, blob)?;
    seal(keys, purpose, associated, &opened.plain).map(Some)
}

/// The name of the secret that a blob says it is sealed under; not authenticated.
pub fn key_id(blob: &[u8]) -> Result<KeyId, BlobError> {
    Parts::read(blob).map(|parts| parts.key_id)
}

struct Parts<'a> {
    key_id: KeyId,
    salt: [u8; SALT_LEN],
    cipher: &'a [u8],
    tag: [u8; TAG_LEN],
}

impl<'a> Parts<'a> {
    fn read(blob: &'a [u8]) -> Result<Self, BlobError> {
        let mut reader = Reader::new(blob);
        if reader.array("blob magic")? != MAGIC {
            return Err(reader.error("blob magic", DecodeErrorKind::BadValue).into());
        }
        let (version, algorithm) = (reader.u8("blob version")?, reader.u8("blob algorithm")?);
        if (version, algorithm) != (VERSION, HKDF_AES_256_GCM_SIV) {
            return Err(BlobError::Version { version, algorithm });
        }
        let key_id = KeyId(reader.array("blob key id")?);
        let salt = reader.array("blob salt")?;
        let Some(len) = reader.remaining().checked_sub(TAG_LEN) else {
            return Err(reader.error("blob tag", DecodeErrorKind::Truncated).into());
        };
        if len > PLAIN_MAX {
            return Err(BlobError::TooLong(len));
        }
        Ok(Self { key_id, salt, cipher: reader.take("blob", len)?, tag: reader.array("blob tag")? })
    }
}

fn cipher(
    keys: &Keyring,
    key_id: KeyId,
    purpose: &Purpose,
    salt: &[u8; SALT_LEN],
) -> Result<(Aes256GcmSiv, Nonce), BlobError> {
    let secret = keys.get(key_id).ok_or(BlobError::UnknownKey(key_id))?;
    let derived =
        secret.derive::<{ KEY_LEN + NONCE_LEN }>(salt, &[b"rcmpd blob 1: ", purpose.as_str().as_bytes()]);
    let (key, nonce) = derived.split_first_chunk::<KEY_LEN>().expect("both are derived at once");
    let nonce: [u8; NONCE_LEN] = nonce.try_into().expect("both are derived at once");
    Ok((Aes256GcmSiv::new(key.into()), nonce.into()))
}
