//! The outer form of each file of this crate: a readable, authenticated header, and sealed secrets.
//!
//! | offset | octets | field |
//! | --- | --- | --- |
//! | 0 | 4 | magic: which file |
//! | 4 | 2 | version, 1; integers are little-endian |
//! | 6 | 4 | length h of the header |
//! | 10 | h | header, see the file's module |
//! | 10 + h | 12 | nonce, random for each write |
//! | 22 + h | n | ciphertext |
//! | 22 + h + n | 16 | tag |
//!
//! AES-256-GCM-SIV (RFC 8452). The associated data are the first 10 + h octets. Each header begins with a
//! [`KeyHeader`], which says how the key is made.

use crate::memory::Locked;
use crate::secret::KeyId;
use crate::source::KeyHeader;
use aes_gcm_siv::aead::{AeadInOut, KeyInit};
use aes_gcm_siv::{Aes256GcmSiv, Nonce, Tag};
use dtyp::{DecodeError, DecodeErrorKind, Reader};
use zeroize::Zeroizing;

/// 8 generations with their sentinels and names take less than 2 KiB. A file of more than 64 KiB is not ours.
pub(crate) const FILE_MAX: usize = 64 << 10;

const VERSION: u16 = 1;
const PREFIX_LEN: usize = 4 + 2 + 4;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;

/// Why a file of this crate is not usable.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum FormatError {
    /// Octets that no version of this program writes.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// A newer rcmpd wrote it.
    #[error("it has version {0}, and this program knows version {VERSION}")]
    Version(u16),
    /// The key is right, and the file was changed after it was written.
    #[error("it was changed: its authentication tag does not match")]
    Changed,
    /// A secret is not the one whose sentinel is beside it.
    #[error("the secret of generation {0} does not open its sentinel")]
    Sentinel(u32),
    /// A cached secret is not the one whose key id is beside it.
    #[error("the secret beside key id {0} has another key id")]
    KeyId(KeyId),
}

/// An envelope whose header was read, and whose secrets were not opened.
#[derive(Debug)]
pub(crate) struct Envelope<'a> {
    pub(crate) header: &'a [u8],
    authenticated: &'a [u8],
    nonce: [u8; NONCE_LEN],
    cipher: &'a [u8],
    tag: [u8; TAG_LEN],
}

impl<'a> Envelope<'a> {
    /// Splits `bytes`; `what` names the file in errors.
    pub(crate) fn read(what: &'static str, magic: [u8; 4], bytes: &'a [u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        if bytes.len() > FILE_MAX {
            return Err(reader.error(what, DecodeErrorKind::TooLong).into());
        }
        if reader.array(what)? != magic {
            return Err(reader.error(what, DecodeErrorKind::BadValue).into());
        }
        match reader.u16(what)? {
            VERSION => {}
            other => return Err(FormatError::Version(other)),
        }
        let len = reader.u32(what)? as usize;
        let header = reader.take(what, len)?;
        let nonce = reader.array(what)?;
        let Some(cipher_len) = reader.remaining().checked_sub(TAG_LEN) else {
            return Err(reader.error(what, DecodeErrorKind::Truncated).into());
        };
        Ok(Self {
            header,
            authenticated: &bytes[..PREFIX_LEN + len],
            nonce,
            cipher: reader.take(what, cipher_len)?,
            tag: reader.array(what)?,
        })
    }

    /// The secrets; authenticates the header too.
    pub(crate) fn open(&self, key: &Locked<32>) -> Result<Zeroizing<Vec<u8>>, FormatError> {
        let mut plain = Zeroizing::new(self.cipher.to_vec());
        Aes256GcmSiv::new(key.expose().into())
            .decrypt_inout_detached(
                &Nonce::from(self.nonce),
                self.authenticated,
                plain.as_mut_slice().into(),
                &Tag::from(self.tag),
            )
            .map_err(|_| FormatError::Changed)?;
        Ok(plain)
    }
}

/// Seals `plain` with `header` beside it.
pub(crate) fn seal(
    magic: [u8; 4],
    header: &[u8],
    key: &Locked<32>,
    plain: &[u8],
) -> Result<Vec<u8>, getrandom::Error> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce)?;
    let mut bytes = Vec::with_capacity(PREFIX_LEN + header.len() + NONCE_LEN + plain.len() + TAG_LEN);
    bytes.extend(magic);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((header.len() as u32).to_le_bytes());
    bytes.extend(header);
    let mut cipher = Zeroizing::new(plain.to_vec());
    // INVARIANT: the lengths are far below the 64 GiB of RFC 8452.
    let tag = Aes256GcmSiv::new(key.expose().into())
        .encrypt_inout_detached(&Nonce::from(nonce), &bytes, cipher.as_mut_slice().into())
        .expect("the secrets are short");
    bytes.extend(nonce);
    bytes.extend(cipher.iter());
    bytes.extend(tag);
    Ok(bytes)
}

/// Reads the [`KeyHeader`] at the start of a header.
pub(crate) fn key_header<'a>(header: &'a [u8]) -> Result<(KeyHeader, Reader<'a>), DecodeError> {
    let mut reader = Reader::new(header);
    let key = KeyHeader::decode(&mut reader)?;
    Ok((key, reader))
}
