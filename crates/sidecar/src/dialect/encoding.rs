//! How certificates are written into headers.

use crate::limits::{CERTIFICATE_LEN_MAX, CHAIN_MAX};
use crate::refusal::{Broken, Refusal};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use percent_encoding::percent_decode;
use sfv::{BareItem, Item, List, ListEntry};
use std::borrow::Cow;

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
const END: &[u8] = b"-----END CERTIFICATE-----";
const UNREADABLE: Refusal = Refusal::Broken(Broken::Certificate);
/// Base64 of the longest certificate, with a line's end in each of its lines.
const TEXT_LEN_MAX: usize = CERTIFICATE_LEN_MAX * 3 / 2;

/// DER in base64 (RFC 4648, section 4), in one line.
pub(super) fn base64(value: &[u8]) -> Result<Vec<u8>, Refusal> {
    BASE64.decode(value).map_err(|_| UNREADABLE)
}

/// Undoes percent-encoding (RFC 3986, section 2.1). A `+` is a plus: it is one of base64's.
pub(super) fn unescaped(value: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
    // The library leaves a `%` without two digits as it is.
    let are_digits = |after: &[u8]| after.get(..2).is_some_and(|it| it.iter().all(u8::is_ascii_hexdigit));
    match value.split(|byte| *byte == b'%').skip(1).all(are_digits) {
        true => Ok(percent_decode(value).into()),
        false => Err(UNREADABLE),
    }
}

/// One certificate in percent-encoded PEM, as nginx and Envoy write it.
pub(super) fn escaped_pem(value: &[u8]) -> Result<Vec<u8>, Refusal> {
    spaced_pem(&unescaped(value)?)
}

/// Certificates in percent-encoded PEM, one after the other.
pub(super) fn escaped_pems(value: &[u8]) -> Result<Vec<Bytes>, Refusal> {
    spaced_pems(&unescaped(value)?)
}

/// One certificate in PEM whose line ends may be spaces, as Apache writes them.
pub(super) fn spaced_pem(text: &[u8]) -> Result<Vec<u8>, Refusal> {
    match pem(text)? {
        Some((certificate, [])) => Ok(certificate),
        Some(_) => Err(Refusal::Broken(Broken::ManyCertificates)),
        None => Err(UNREADABLE),
    }
}

/// Certificates in PEM whose line ends may be spaces.
pub(super) fn spaced_pems(text: &[u8]) -> Result<Vec<Bytes>, Refusal> {
    let mut certificates = Vec::new();
    let mut rest = text;
    while let Some((certificate, after)) = pem(rest)? {
        if certificates.len() > CHAIN_MAX {
            return Err(Refusal::Broken(Broken::TooLong));
        }
        certificates.push(certificate.into());
        rest = after;
    }
    Ok(certificates)
}

/// A chain without the `(null)` at its end, which Apache writes for each variable of a certificate that did
/// not come.
pub(super) fn without_nulls(mut text: &[u8]) -> &[u8] {
    while let Some(before) = text.strip_suffix(b"(null)") {
        text = before.trim_ascii_end();
    }
    text
}

/// Certificates in base64 without the lines of PEM around them, separated by commas, as Traefik writes them:
/// percent-encoded or not.
pub(super) fn bare_pems(value: &[u8]) -> Result<Vec<Bytes>, Refusal> {
    let plain = unescaped(value)?;
    let parts: Vec<&[u8]> = plain.split(|byte| *byte == b',').take(CHAIN_MAX + 2).collect();
    if parts.len() > CHAIN_MAX + 1 {
        return Err(Refusal::Broken(Broken::TooLong));
    }
    parts.into_iter().map(|part| base64(part).map(Bytes::from)).collect()
}

/// An item of structured fields that is a byte sequence (RFC 9651, sections 3.3 and 3.3.5). Parameters are
/// allowed and mean nothing.
pub(super) fn byte_sequence(value: &[u8]) -> Result<Vec<u8>, Refusal> {
    match sfv::Parser::new(value).parse::<Item>() {
        Ok(Item { bare_item: BareItem::ByteSequence(bytes), .. }) => Ok(bytes),
        Ok(_) => Err(UNREADABLE),
        // A list where one item is meant: another hop has appended to the header.
        Err(_) if value.contains(&b',') => Err(Refusal::Broken(Broken::ManyCertificates)),
        Err(_) => Err(UNREADABLE),
    }
}

/// A list of byte sequences (RFC 9440, section 2.3).
pub(super) fn byte_sequences(value: &[u8]) -> Result<Vec<Bytes>, Refusal> {
    // A member of many bytes in memory may be one of four in the header, so they are counted before.
    if value.split(|byte| *byte == b',').count() > CHAIN_MAX {
        return Err(Refusal::Broken(Broken::TooLong));
    }
    let members = sfv::Parser::new(value).parse::<List>().map_err(|_| UNREADABLE)?;
    let bytes = |member| match member {
        ListEntry::Item(Item { bare_item: BareItem::ByteSequence(bytes), .. }) => Ok(bytes.into()),
        _ => Err(UNREADABLE),
    };
    members.into_iter().map(bytes).collect()
}

/// DER values one after the other, as HAProxy writes a chain.
pub(super) fn concatenated(mut bytes: &[u8]) -> Result<Vec<Bytes>, Refusal> {
    let mut certificates = Vec::new();
    while !bytes.is_empty() {
        if certificates.len() >= CHAIN_MAX {
            return Err(Refusal::Broken(Broken::TooLong));
        }
        let len = der_len(bytes).filter(|len| *len <= bytes.len()).ok_or(UNREADABLE)?;
        let (certificate, rest) = bytes.split_at(len);
        certificates.push(Bytes::copy_from_slice(certificate));
        bytes = rest;
    }
    Ok(certificates)
}

/// Whether this is one SEQUENCE, and nothing else.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    der_len(bytes) == Some(bytes.len())
}

/// The length of a SEQUENCE with its header (X.690, section 8.1.3).
fn der_len(bytes: &[u8]) -> Option<usize> {
    let [0x30, first, rest @ ..] = bytes else { return None };
    match *first {
        short @ 0..=0x7f => Some(2 + usize::from(short)),
        long @ 0x81..=0x84 => {
            let count = usize::from(long & 0x7f);
            let len = rest.get(..count)?.iter().fold(0_usize, |len, byte| len << 8 | usize::from(*byte));
            len.checked_add(2 + count)
        }
        _ => None,
    }
}

/// A certificate, and what follows it.
type First<'a> = (Vec<u8>, &'a [u8]);

/// The first certificate; `None` at the end.
fn pem(text: &[u8]) -> Result<Option<First<'_>>, Refusal> {
    let text = text.trim_ascii();
    if text.is_empty() {
        return Ok(None);
    }
    let body = text.strip_prefix(BEGIN).ok_or(UNREADABLE)?;
    // There is no hyphen in base64.
    let end = body.iter().position(|byte| *byte == b'-').ok_or(UNREADABLE)?;
    if end > TEXT_LEN_MAX {
        return Err(Refusal::Broken(Broken::TooLong));
    }
    let after = body[end..].strip_prefix(END).ok_or(UNREADABLE)?;
    let base64: Vec<u8> = body[..end].iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let certificate = BASE64.decode(base64).map_err(|_| UNREADABLE)?;
    Ok(Some((certificate, after.trim_ascii())))
}
