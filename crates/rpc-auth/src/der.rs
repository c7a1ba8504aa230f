//! The Distinguished Encoding Rules (X.690), as far as Kerberos needs them (RFC 4120 5.1), and SPNEGO to
//! write: it reads by rules of its own.
//!
//! Lengths are definite and minimal, tags have one byte, integers are minimal, and no element has bytes left
//! over. The readers of the messages name each element that they enter, so a message nests no deeper than its
//! type.

use dtyp::{DecodeError, DecodeErrorKind, FileTime};

pub(crate) const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const ENUMERATED: u8 = 0x0a;
const GENERALIZED_TIME: u8 = 0x18;
const GENERAL_STRING: u8 = 0x1b;
pub(crate) const SEQUENCE: u8 = 0x30;
/// The frame of a first token of GSS-API (RFC 2743 3.1).
pub(crate) const FRAME: u8 = application(0);

/// The tag `[number]` of an element inside of a sequence.
pub(crate) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// The tag `[APPLICATION number]` of a message.
pub(crate) const fn application(number: u8) -> u8 {
    0x60 | number
}

/// The text of a KerberosString, here and in files of Kerberos: UTF-8 without NUL.
pub(crate) fn text_without_nul(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).map(str::to_owned)
}

/// Reads the elements inside of one element, one behind the other.
#[derive(Clone, Debug)]
pub(crate) struct Der<'a> {
    bytes: &'a [u8],
    position: usize,
    base: usize,
}

type Result<T> = std::result::Result<T, DecodeError>;

impl<'a> Der<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0, base: 0 }
    }

    pub(crate) const fn error(&self, what: &'static str, kind: DecodeErrorKind) -> DecodeError {
        DecodeError { what, offset: self.base + self.position, kind }
    }

    /// What has not been read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.position..]
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.position == self.bytes.len()
    }

    /// Refuses bytes that are left over.
    pub(crate) fn finish(self, what: &'static str) -> Result<()> {
        match self.is_empty() {
            true => Ok(()),
            false => Err(self.error(what, DecodeErrorKind::Trailing)),
        }
    }

    /// Enters the next element, which must have this tag.
    pub(crate) fn enter(&mut self, tag: u8, what: &'static str) -> Result<Self> {
        self.enter_if(tag, what)?.ok_or_else(|| {
            let kind = if self.is_empty() { DecodeErrorKind::Truncated } else { DecodeErrorKind::BadValue };
            self.error(what, kind)
        })
    }

    /// The same; `None` if the next element has another tag, or if there is none.
    pub(crate) fn enter_if(&mut self, tag: u8, what: &'static str) -> Result<Option<Self>> {
        let rest = &self.bytes[self.position..];
        if rest.first() != Some(&tag) {
            return Ok(None);
        }
        let truncated = self.error(what, DecodeErrorKind::Truncated);
        let not_minimal = self.error(what, DecodeErrorKind::BadValue);
        let &first = rest.get(1).ok_or_else(|| truncated.clone())?;
        let (head, len) = match first {
            0..=0x7f => (2, usize::from(first)),
            0x81..=0x84 => {
                let count = usize::from(first - 0x80);
                let digits = rest.get(2..2 + count).ok_or_else(|| truncated.clone())?;
                let len = digits.iter().fold(0usize, |len, digit| len << 8 | usize::from(*digit));
                if len < 0x80 || digits[0] == 0 {
                    return Err(not_minimal);
                }
                (2 + count, len)
            }
            _ => return Err(not_minimal),
        };
        let end = head.checked_add(len).ok_or_else(|| truncated.clone())?;
        let bytes = rest.get(head..end).ok_or(truncated)?;
        let inside = Self { bytes, position: 0, base: self.base + self.position + head };
        self.position += end;
        Ok(Some(inside))
    }

    /// Enters a whole message of this tag: nothing may follow it.
    pub(crate) fn message(bytes: &'a [u8], tag: u8, what: &'static str) -> Result<Self> {
        let mut outer = Self::new(bytes);
        let inside = outer.enter(tag, what)?;
        outer.finish(what)?;
        Ok(inside)
    }

    /// Reads the one element that this one holds.
    pub(crate) fn only<T>(
        mut self,
        what: &'static str,
        read: impl FnOnce(&mut Self, &'static str) -> Result<T>,
    ) -> Result<T> {
        let value = read(&mut self, what)?;
        self.finish(what)?;
        Ok(value)
    }

    /// Reads a sequence.
    pub(crate) fn sequence<T>(
        &mut self,
        what: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        self.enter(SEQUENCE, what)?.only(what, |inside, _| read(inside))
    }

    /// Reads the field `[number]`.
    pub(crate) fn field<T>(
        &mut self,
        number: u8,
        what: &'static str,
        read: impl FnOnce(&mut Self, &'static str) -> Result<T>,
    ) -> Result<T> {
        self.enter(context(number), what)?.only(what, read)
    }

    /// Reads the field `[number]` if it is the next one.
    pub(crate) fn optional<T>(
        &mut self,
        number: u8,
        what: &'static str,
        read: impl FnOnce(&mut Self, &'static str) -> Result<T>,
    ) -> Result<Option<T>> {
        self.enter_if(context(number), what)?.map(|inside| inside.only(what, read)).transpose()
    }

    /// Reads a sequence of at most `max` elements.
    pub(crate) fn list<T>(
        &mut self,
        what: &'static str,
        max: usize,
        mut read: impl FnMut(&mut Self, &'static str) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.sequence(what, |inside| {
            let mut list = Vec::new();
            while !inside.is_empty() {
                if list.len() == max {
                    return Err(inside.error(what, DecodeErrorKind::TooMany(max)));
                }
                list.push(read(inside, what)?);
            }
            Ok(list)
        })
    }

    fn primitive(&mut self, tag: u8, what: &'static str) -> Result<(&'a [u8], DecodeError)> {
        let inside = self.enter(tag, what)?;
        let bad = inside.error(what, DecodeErrorKind::BadValue);
        Ok((inside.bytes, bad))
    }

    /// An INTEGER of at most 64 bits.
    fn integer(&mut self, what: &'static str) -> Result<i64> {
        let (bytes, bad) = self.primitive(INTEGER, what)?;
        match bytes {
            [] => return Err(bad),
            // A first byte that only repeats the sign.
            [0x00, next, ..] if next & 0x80 == 0 => return Err(bad),
            [0xff, next, ..] if next & 0x80 != 0 => return Err(bad),
            _ if bytes.len() > 8 => return Err(bad),
            _ => {}
        }
        let sign = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
        Ok(bytes.iter().fold(sign, |value, byte| value << 8 | i64::from(*byte)))
    }

    /// Int32.
    pub(crate) fn i32(&mut self, what: &'static str) -> Result<i32> {
        let bad = self.error(what, DecodeErrorKind::BadValue);
        i32::try_from(self.integer(what)?).map_err(|_| bad)
    }

    /// UInt32. Some peers encode numbers from 2^31 on as negative ones, so a value counts modulo 2^32.
    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32> {
        let bad = self.error(what, DecodeErrorKind::BadValue);
        match self.integer(what)? {
            value @ -0x8000_0000..=0xffff_ffff => Ok(value as u32),
            _ => Err(bad),
        }
    }

    /// Microseconds.
    pub(crate) fn microseconds(&mut self, what: &'static str) -> Result<u32> {
        let bad = self.error(what, DecodeErrorKind::BadValue);
        u32::try_from(self.integer(what)?).ok().filter(|value| *value <= 999_999).ok_or(bad)
    }

    /// An INTEGER that has one value only, such as pvno.
    pub(crate) fn constant(&mut self, value: i32, what: &'static str) -> Result<()> {
        let bad = self.error(what, DecodeErrorKind::BadValue);
        if self.i32(what)? == value { Ok(()) } else { Err(bad) }
    }

    pub(crate) fn octets(&mut self, what: &'static str) -> Result<&'a [u8]> {
        Ok(self.primitive(OCTET_STRING, what)?.0)
    }

    /// KerberosFlags: 32 bits, bit 0 the most significant one.
    pub(crate) fn flags(&mut self, what: &'static str) -> Result<u32> {
        let (bytes, bad) = self.primitive(BIT_STRING, what)?;
        match bytes {
            [0, a, b, c, d] => Ok(u32::from_be_bytes([*a, *b, *c, *d])),
            _ => Err(bad),
        }
    }

    /// KerberosString: text without NUL.
    pub(crate) fn text(&mut self, what: &'static str) -> Result<String> {
        let (bytes, bad) = self.primitive(GENERAL_STRING, what)?;
        text_without_nul(bytes).ok_or(DecodeError { kind: DecodeErrorKind::BadText, ..bad })
    }

    /// KerberosTime: `YYYYMMDDHHMMSSZ`, from 1970 on.
    pub(crate) fn time(&mut self, what: &'static str) -> Result<FileTime> {
        let (bytes, bad) = self.primitive(GENERALIZED_TIME, what)?;
        let number = |range: std::ops::Range<usize>| {
            bytes.get(range)?.iter().try_fold(0u16, |number, digit| {
                digit.is_ascii_digit().then(|| number * 10 + u16::from(digit - b'0'))
            })
        };
        if bytes.len() != 15 || bytes[14] != b'Z' {
            return Err(bad);
        }
        let read = || {
            FileTime::from_civil(
                [number(0..4)?, number(4..6)?, number(6..8)?],
                [number(8..10)?, number(10..12)?, number(12..14)?],
            )
        };
        // Times of Kerberos start with the epoch of Unix.
        read().filter(|time| *time >= FileTime::from_unix(0)).ok_or(bad)
    }

    /// Any element, as its tag, length and contents.
    pub(crate) fn raw(&mut self, what: &'static str) -> Result<&'a [u8]> {
        let start = self.position;
        let tag = *self.bytes.get(start).ok_or_else(|| self.error(what, DecodeErrorKind::Truncated))?;
        if tag & 0x1f == 0x1f {
            return Err(self.error(what, DecodeErrorKind::BadValue));
        }
        self.enter(tag, what)?;
        Ok(&self.bytes[start..self.position])
    }
}

/// Appends elements to a message.
pub(crate) trait WriteDer {
    /// An element that holds what `write` appends.
    fn element(&mut self, tag: u8, write: impl FnOnce(&mut Vec<u8>));
    /// The field `[number]`.
    fn field(&mut self, number: u8, write: impl FnOnce(&mut Vec<u8>));
    fn integer(&mut self, value: i64);
    fn octets(&mut self, bytes: &[u8]);
    /// An object identifier, by its content.
    fn object_identifier(&mut self, oid: &[u8]);
    fn flags(&mut self, flags: u32);
    fn text(&mut self, text: &str);
    fn time(&mut self, time: FileTime);
}

impl WriteDer for Vec<u8> {
    fn element(&mut self, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
        self.push(tag);
        let start = self.len();
        write(self);
        let len = self.len() - start;
        if len < 0x80 {
            return self.insert(start, len as u8);
        }
        let digits = len.to_be_bytes();
        let digits = &digits[digits.iter().take_while(|digit| **digit == 0).count()..];
        self.splice(start..start, std::iter::once(0x80 | digits.len() as u8).chain(digits.iter().copied()));
    }

    fn field(&mut self, number: u8, write: impl FnOnce(&mut Vec<u8>)) {
        self.element(context(number), write);
    }

    fn integer(&mut self, value: i64) {
        let bytes = value.to_be_bytes();
        let is_sign = |pair: &&[u8]| {
            matches!(pair, [0, next] if next & 0x80 == 0) || matches!(pair, [0xff, next] if next & 0x80 != 0)
        };
        let skipped = bytes.windows(2).take_while(is_sign).count();
        self.element(INTEGER, |out| out.extend_from_slice(&bytes[skipped..]));
    }

    fn octets(&mut self, bytes: &[u8]) {
        self.element(OCTET_STRING, |out| out.extend_from_slice(bytes));
    }

    fn object_identifier(&mut self, oid: &[u8]) {
        self.element(OBJECT_IDENTIFIER, |out| out.extend_from_slice(oid));
    }

    fn flags(&mut self, flags: u32) {
        self.element(BIT_STRING, |out| {
            out.push(0);
            out.extend_from_slice(&flags.to_be_bytes());
        });
    }

    fn text(&mut self, text: &str) {
        self.element(GENERAL_STRING, |out| out.extend_from_slice(text.as_bytes()));
    }

    fn time(&mut self, time: FileTime) {
        // `2026-01-01T12:00:00Z` without its marks.
        let text = time.to_string();
        let marks = ['-', ':', 'T'];
        self.element(GENERALIZED_TIME, |out| out.extend(text.replace(marks, "").bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_der_has_no_form_for() {
        for (what, bytes) in [
            ("an indefinite length", &[0x04, 0x80, 0, 0][..]),
            ("a length that is not minimal", &[0x04, 0x81, 0x01, 0xaa]),
            ("a length with a zero in front", &[0x04, 0x82, 0x00, 0x80]),
            ("a length of five bytes", &[0x04, 0x85, 1, 0, 0, 0, 0]),
            ("more than there is", &[0x04, 0x02, 0xaa]),
            ("no length", &[0x04]),
            ("the longest length", &[0x04, 0x84, 0xff, 0xff, 0xff, 0xff, 0]),
        ] {
            assert!(Der::new(bytes).octets("it").is_err(), "{what}");
        }
        for (what, bytes) in [
            ("no digit", &[0x02, 0][..]),
            ("a zero in front", &[0x02, 2, 0, 1]),
            ("a sign in front", &[0x02, 2, 0xff, 0x80]),
            ("nine bytes", &[0x02, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            assert!(Der::new(bytes).integer("it").is_err(), "{what}");
        }
        assert!(Der::new(&[0x18, 15, b'2', b'0', b'2', b'6']).time("it").is_err());
        assert!(Der::new(b"\x18\x0f20261301120000Z").time("it").is_err());
        assert!(Der::new(b"\x18\x0f2026010112000+Z").time("it").is_err());
        assert!(Der::new(b"\x18\x0f16001231235959Z").time("it").is_err());
        assert_eq!(Der::new(b"\x18\x0f19700101000000Z").time("it"), Ok(FileTime::from_unix(0)));
        assert!(Der::new(b"\x1b\x02a\0").text("it").is_err());
        assert!(Der::new(&[0x03, 5, 1, 0, 0, 0, 0]).flags("it").is_err(), "31 bits");
        assert!(Der::message(&[0x30, 0, 0], SEQUENCE, "it").is_err(), "a byte behind");
    }

    #[test]
    fn integers_come_back() {
        for value in [0, 1, 127, 128, 255, 256, -1, -128, -129, 0xffff_ffff, i64::MIN, i64::MAX] {
            let mut bytes = Vec::new();
            bytes.integer(value);
            assert_eq!(Der::new(&bytes).integer("it"), Ok(value));
        }
        // X.690 8.3: the shortest form.
        let mut bytes = Vec::new();
        bytes.integer(128);
        bytes.integer(-128);
        assert_eq!(bytes, [2, 2, 0, 0x80, 2, 1, 0x80]);
    }

    #[test]
    fn a_sequence_number_counts_modulo_its_range() {
        assert_eq!(Der::new(&[2, 1, 0xff]).u32("it"), Ok(0xffff_ffff));
        assert_eq!(Der::new(&[2, 5, 0, 0xff, 0xff, 0xff, 0xfe]).u32("it"), Ok(0xffff_fffe));
        assert!(Der::new(&[2, 5, 1, 0, 0, 0, 0]).u32("it").is_err());
        assert!(Der::new(&[2, 5, 0xff, 0x7f, 0xff, 0xff, 0xff]).u32("it").is_err());
    }
}
