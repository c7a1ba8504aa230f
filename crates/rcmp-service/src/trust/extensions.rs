//! The extensions of a certificate that path validation reads in several places (RFC 5280 4.2.1).

use crate::certificate::{Certificate, Extension};
use crate::der::{self, Der};
use dtyp::{DecodeError, DecodeErrorKind};

/// id-ce-keyUsage, 2.5.29.15.
pub(super) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
/// id-ce-basicConstraints, 2.5.29.19.
pub(super) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
/// id-ce-extKeyUsage, 2.5.29.37.
pub(super) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];

/// keyUsage digitalSignature (0).
pub(super) const SIGNS_DIGITALLY: u16 = 0x8000;
/// keyUsage digitalSignature (0) or nonRepudiation (1).
pub(super) const SIGNS: u16 = SIGNS_DIGITALLY | 0x4000;
/// keyUsage keyEncipherment (2).
const ENCIPHERS_KEYS: u16 = 0x2000;
/// keyUsage keyCertSign (5).
pub(super) const SIGNS_CERTIFICATES: u16 = 0x0400;
/// keyUsage cRLSign (6).
pub(super) const SIGNS_CRLS: u16 = 0x0200;

/// The one element that an extension's value is.
pub(super) fn value<'a>(
    extension: &Extension<'a>,
    what: &'static str,
    tag: u8,
) -> Result<der::Element<'a>, DecodeError> {
    let mut outer = Der::new(extension.value);
    let element = outer.expect(what, tag)?;
    outer.finish(what)?;
    Ok(element)
}

/// RFC 5280 4.2.1.9: whether the subject is a CA, and how many CAs may follow it.
pub(super) fn basic_constraints(certificate: &Certificate<'_>) -> Result<(bool, Option<usize>), DecodeError> {
    let Some(extension) = certificate.extension(BASIC_CONSTRAINTS) else { return Ok((false, None)) };
    let mut fields = value(&extension, "basicConstraints", der::SEQUENCE)?.inside();
    let ca = fields.optional("cA", der::BOOLEAN)?;
    let path_len = fields.optional("pathLenConstraint", der::INTEGER)?;
    let bad = fields.error("pathLenConstraint", DecodeErrorKind::BadValue);
    fields.finish("basicConstraints")?;
    let path_len = match path_len.map(|path_len| path_len.contents) {
        None => None,
        Some([len @ 0..=0x7f]) => Some(usize::from(*len)),
        // Negative, or not the shortest form.
        Some([] | [0x80..=0xff, ..] | [0x00, 0x00..=0x7f, ..]) => return Err(bad),
        // More than any path has.
        Some(_) => Some(usize::MAX),
    };
    Ok((ca.map(|ca| der::boolean(&ca)).transpose()?.unwrap_or(false), path_len))
}

/// RFC 5280 4.2.1.3.
pub(super) fn key_usage(certificate: &Certificate<'_>) -> Result<Option<u16>, DecodeError> {
    let Some(extension) = certificate.extension(KEY_USAGE) else { return Ok(None) };
    der::named_bits(&value(&extension, "keyUsage", der::BIT_STRING)?).map(Some)
}

/// Whether keys may be encrypted to the subject: keyUsage has keyEncipherment, or there is no keyUsage.
pub fn enciphers_keys(certificate: &Certificate<'_>) -> Result<bool, DecodeError> {
    key_usage(certificate).map(|usage| usage.is_none_or(|bits| bits & ENCIPHERS_KEYS != 0))
}

/// RFC 5280 4.2.1.12: the object identifiers, `None` without the extension.
pub(super) fn extended_key_usages<'a>(
    certificate: &Certificate<'a>,
) -> Result<Option<Vec<&'a [u8]>>, DecodeError> {
    let Some(extension) = certificate.extension(EXTENDED_KEY_USAGE) else { return Ok(None) };
    let mut list = value(&extension, "extKeyUsage", der::SEQUENCE)?.inside();
    let mut usages = Vec::new();
    while !list.is_empty() {
        usages.push(list.expect("KeyPurposeId", der::OID)?.contents);
    }
    Ok(Some(usages))
}
