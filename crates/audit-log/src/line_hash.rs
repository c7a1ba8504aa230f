//! The hashes by which each line of the audit log names the line before it.

use dtyp::hex;
use sha2::{Digest, Sha256};

/// SHA-256.
pub(super) type Hash = [u8; 32];

/// SHA-256 of a line without its newline.
pub(super) fn hash(line: &[u8]) -> Hash {
    Sha256::digest(line).into()
}

/// What `prev` becomes by torn bytes: the SHA-256 of `prev` in hex, a newline and the bytes. So it covers the
/// last whole line, too.
pub(super) fn torn(prev: &Hash, bytes: &[u8]) -> Hash {
    Sha256::new().chain_update(hex(prev)).chain_update(b"\n").chain_update(bytes).finalize().into()
}

/// A SHA-256 in lower-case hex.
pub(super) fn parse_hash(text: &str) -> Option<Hash> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let mut hash = Hash::default();
    if pairs.len() != hash.len() {
        return None;
    }
    for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(hash)
}
