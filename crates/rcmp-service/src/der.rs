//! The Distinguished Encoding Rules (X.690), as far as a certificate needs them: definite, minimal lengths
//! and tags of one byte. BER's other forms are refused: the client has verified the certificate as DER, and
//! two parsers that read the same bytes differently are how certificates lie.

use dtyp::{DecodeError, DecodeErrorKind};

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const NULL: u8 = 0x05;
pub(crate) const OID: u8 = 0x06;
pub(crate) const ENUMERATED: u8 = 0x0a;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
/// The bit of a tag whose element holds elements.
pub(crate) const CONSTRUCTED: u8 = 0x20;

/// Reads elements one behind the other.
#[derive(Clone, Debug)]
pub(crate) struct Der<'a> {
    bytes: &'a [u8],
    position: usize,
    base: usize,
}

/// One element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) contents: &'a [u8],
    /// Tag, length and contents.
    pub(crate) encoded: &'a [u8],
    /// Where the contents start, for errors.
    start: usize,
}

impl<'a> Element<'a> {
    /// The elements inside.
    pub(crate) const fn inside(&self) -> Der<'a> {
        Der { bytes: self.contents, position: 0, base: self.start }
    }
}

impl<'a> Der<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0, base: 0 }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.position == self.bytes.len()
    }

    /// What has not been read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.position..]
    }

    pub(crate) const fn error(&self, what: &'static str, kind: DecodeErrorKind) -> DecodeError {
        DecodeError { what, offset: self.base + self.position, kind }
    }

    /// The tag of the next element, without reading it.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.position).copied()
    }

    /// The next element, whatever it is.
    pub(crate) fn any(&mut self, what: &'static str) -> Result<Element<'a>, DecodeError> {
        let truncated = self.error(what, DecodeErrorKind::Truncated);
        let bad = self.error(what, DecodeErrorKind::BadValue);
        let rest = &self.bytes[self.position..];
        let (&tag, after) = rest.split_first().ok_or_else(|| truncated.clone())?;
        if tag & 0x1f == 0x1f {
            return Err(bad);
        }
        let (&first, after) = after.split_first().ok_or_else(|| truncated.clone())?;
        let (len, after) = match first {
            0..=0x7f => (usize::from(first), after),
            0x81..=0x84 => {
                let octets = after.get(..usize::from(first & 0x7f)).ok_or_else(|| truncated.clone())?;
                let len = octets.iter().fold(0usize, |len, octet| len << 8 | usize::from(*octet));
                if octets[0] == 0 || len < 0x80 {
                    return Err(bad);
                }
                (len, &after[octets.len()..])
            }
            _ => return Err(bad),
        };
        let contents = after.get(..len).ok_or(truncated)?;
        let header = rest.len() - after.len();
        let element = Element {
            tag,
            contents,
            encoded: &rest[..header + len],
            start: self.base + self.position + header,
        };
        self.position += header + len;
        Ok(element)
    }

    /// The next element, which must have this tag.
    pub(crate) fn expect(&mut self, what: &'static str, tag: u8) -> Result<Element<'a>, DecodeError> {
        if self.peek().is_some_and(|next| next != tag) {
            return Err(self.error(what, DecodeErrorKind::BadValue));
        }
        self.any(what)
    }

    /// The next element if it has this tag.
    pub(crate) fn optional(
        &mut self,
        what: &'static str,
        tag: u8,
    ) -> Result<Option<Element<'a>>, DecodeError> {
        match self.peek() == Some(tag) {
            true => self.any(what).map(Some),
            false => Ok(None),
        }
    }

    /// Refuses elements that are left over.
    pub(crate) fn finish(self, what: &'static str) -> Result<(), DecodeError> {
        match self.is_empty() {
            true => Ok(()),
            false => Err(self.error(what, DecodeErrorKind::Trailing)),
        }
    }
}

/// An element of these contents, one behind the other.
pub(crate) fn encode(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let len = contents.iter().map(|part| part.len()).sum::<usize>();
    let octets = len.to_be_bytes();
    let octets = &octets[len.leading_zeros() as usize / 8..];
    let mut encoded = Vec::with_capacity(2 + octets.len() + len);
    encoded.push(tag);
    match len {
        0..0x80 => encoded.push(len as u8),
        _ => {
            encoded.push(0x80 | octets.len() as u8);
            encoded.extend_from_slice(octets);
        }
    }
    for part in contents {
        encoded.extend_from_slice(part);
    }
    encoded
}

/// A BOOLEAN's contents; DER has one form for each value.
pub(crate) fn boolean(element: &Element<'_>) -> Result<bool, DecodeError> {
    match element.contents {
        [0xff] => Ok(true),
        [0] => Ok(false),
        _ => Err(element.inside().error("BOOLEAN", DecodeErrorKind::BadValue)),
    }
}

/// The octets of a BIT STRING of whole octets: a signature, a key.
pub(crate) fn octets<'a>(element: &Element<'a>) -> Result<&'a [u8], DecodeError> {
    match element.contents.split_first() {
        Some((0, octets)) => Ok(octets),
        _ => Err(element.inside().error("BIT STRING", DecodeErrorKind::BadValue)),
    }
}

/// A BIT STRING of named bits: the first sixteen, bit 0 the highest.
pub(crate) fn named_bits(element: &Element<'_>) -> Result<u16, DecodeError> {
    let bad = element.inside().error("BIT STRING", DecodeErrorKind::BadValue);
    match element.contents {
        [0] => Ok(0),
        [unused @ 0..8, bits @ ..] if !bits.is_empty() => {
            let last = bits[bits.len() - 1];
            if last & ((1u16 << unused) - 1) as u8 != 0 {
                return Err(bad);
            }
            let octet = |at: usize| u16::from(bits.get(at).copied().unwrap_or(0));
            Ok(octet(0) << 8 | octet(1))
        }
        _ => Err(bad),
    }
}

/// Whether contents octets are those of an object identifier (X.690 8.19): whole arcs, none of them padded.
pub(crate) fn is_oid(contents: &[u8]) -> bool {
    let starts_arc = |at: usize| at == 0 || contents[at - 1] & 0x80 == 0;
    contents.last().is_some_and(|last| last & 0x80 == 0)
        && contents.iter().enumerate().all(|(at, octet)| *octet != 0x80 || !starts_arc(at))
}

/// An object identifier in dotted decimal; `None` when it is not well formed or an arc does not fit 64 bits.
pub(crate) fn dotted(oid: &[u8]) -> Option<String> {
    let mut text = String::new();
    let mut arc = 0u64;
    let mut first = true;
    let mut inside = false;
    for octet in oid {
        if !inside && *octet == 0x80 {
            return None;
        }
        arc = arc.checked_mul(128)? | u64::from(octet & 0x7f);
        inside = octet & 0x80 != 0;
        if inside {
            continue;
        }
        if first {
            let root = (arc / 40).min(2);
            text = format!("{root}.{}", arc - root * 40);
            first = false;
        } else {
            text.push('.');
            text.push_str(&arc.to_string());
        }
        arc = 0;
    }
    (!first && !inside).then_some(text)
}

/// The text of an element of one of ASN.1's string types; `None` for other types and for text that is not
/// well formed. A NUL makes text unusable: it is how one name is made to look like another.
pub(crate) fn text(element: &Element<'_>) -> Option<String> {
    let bytes = element.contents;
    let text = match element.tag {
        // UTF8String.
        0x0c => String::from_utf8(bytes.to_vec()).ok()?,
        // NumericString, PrintableString, IA5String, VisibleString.
        0x12 | 0x13 | 0x16 | 0x1a => bytes.is_ascii().then(|| String::from_utf8_lossy(bytes).into_owned())?,
        // TeletexString: what is found in it in practice is Latin-1.
        0x14 => bytes.iter().map(|byte| char::from(*byte)).collect(),
        // BMPString.
        0x1e => {
            let (units, odd) = bytes.as_chunks::<2>();
            if !odd.is_empty() {
                return None;
            }
            let units = units.iter().map(|unit| u16::from_be_bytes(*unit));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()?
        }
        // UniversalString.
        0x1c => {
            let (units, odd) = bytes.as_chunks::<4>();
            if !odd.is_empty() {
                return None;
            }
            units.iter().map(|unit| char::from_u32(u32::from_be_bytes(*unit))).collect::<Option<_>>()?
        }
        _ => return None,
    };
    (!text.contains('\0')).then_some(text)
}

/// Whether an element is of one of the string types that [`text`] reads.
pub(crate) const fn is_string(tag: u8) -> bool {
    matches!(tag, 0x0c | 0x12 | 0x13 | 0x14 | 0x16 | 0x1a | 0x1c | 0x1e)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_definite_and_minimal() {
        for (bytes, expect) in [
            (&[0x04, 0x01, 0xaa][..], true),
            (&[0x04, 0x81, 0x01, 0xaa], false),       // not minimal
            (&[0x04, 0x82, 0x00, 0x81], false),       // leading zero
            (&[0x30, 0x80, 0x00, 0x00], false),       // indefinite
            (&[0x04, 0x85, 0, 0, 0, 0, 1, 0], false), // beyond reason
            (&[0x04, 0x84, 0xff, 0xff, 0xff, 0xff], false),
            (&[0x1f, 0x01, 0x00], false), // a tag of more than one byte
            (&[0x04], false),
            (&[], false),
        ] {
            assert_eq!(Der::new(bytes).any("element").is_ok(), expect, "{bytes:x?}");
        }
        let mut long = vec![0x04, 0x81, 0x80];
        long.extend_from_slice(&[0; 0x80]);
        assert_eq!(Der::new(&long).any("element").map(|element| element.contents.len()), Ok(0x80));
    }

    #[test]
    fn object_identifiers_are_printed_as_everybody_prints_them() {
        for (bytes, expect) in [
            (&[0x55, 0x04, 0x03][..], Some("2.5.4.3")),
            (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01], Some("1.2.840.113549.1.9.1")),
            (&[0x88, 0x37], Some("2.999")),
            (&[], None),
            (&[0x55, 0x84], None),
            (&[0x55, 0x80, 0x01], None),
            (&[0x55, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], None),
        ] {
            assert_eq!(dotted(bytes).as_deref(), expect, "{bytes:x?}");
        }
    }

    #[test]
    fn every_string_type_is_read_and_nul_is_not() {
        let element = |tag, contents| Element { tag, contents, encoded: &[], start: 0 };
        for (tag, bytes, expect) in [
            (0x0c, "M\u{fc}ller".as_bytes(), Some("M\u{fc}ller")),
            (0x0c, b"\xff", None),
            (0x13, b"abc", Some("abc")),
            (0x13, b"\xe9", None),
            (0x14, b"M\xfcller", Some("M\u{fc}ller")),
            (0x1e, b"\0a\x20\xac", Some("a\u{20ac}")),
            (0x1e, b"\0a\0", None),
            (0x1e, b"\xd8\0\0a", None),
            (0x1c, b"\0\x01\xf5\x11", Some("\u{1f511}")),
            (0x1c, b"\0\0\xd8\0", None),
            (0x0c, b"alice\0bob", None),
            (0x04, b"abc", None),
        ] {
            assert_eq!(text(&element(tag, bytes)).as_deref(), expect, "{tag:x} {bytes:x?}");
        }
    }
}
