//! `Reader`, `Encode` and `Decode`: the byte codec under every message.

use std::fmt;

/// Byte order of the integers of a message; DCE/RPC lets the sender choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ByteOrder {
    /// Least significant byte first: all our own messages.
    #[default]
    Little,
    /// Most significant byte first: what a big-endian peer may send.
    Big,
}

/// What is wrong with bytes that could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// The field or structure, by its name in the document.
    pub what: &'static str,
    /// Where it starts, from the first byte of the outermost buffer.
    pub offset: usize,
    /// The rule that was broken.
    pub kind: DecodeErrorKind,
}

/// The rule that undecodable bytes broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// The bytes end before the value does.
    Truncated,
    /// Bytes are left over where none may be.
    Trailing,
    /// A count or length is above what this field may have.
    TooLong,
    /// There are more entries than this many, which is as many as are read.
    TooMany(usize),
    /// An offset and length point outside the message.
    OutOfBounds,
    /// An offset does not have the alignment its document demands.
    Misaligned,
    /// Two regions of the message overlap.
    Overlap,
    /// The value is not one that the document allows here.
    BadValue,
    /// Two fields that must agree do not.
    Mismatch,
    /// Text is not valid in its encoding, or holds a NUL.
    BadText,
    /// A pointer is null where a value is required.
    NullPointer,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = match self.kind {
            DecodeErrorKind::TooMany(max) => {
                return write!(f, "{} at byte {} has more than {max} entries", self.what, self.offset);
            }
            DecodeErrorKind::Truncated => "ends too early",
            DecodeErrorKind::Trailing => "has bytes left over",
            DecodeErrorKind::TooLong => "is longer than allowed",
            DecodeErrorKind::OutOfBounds => "points outside the message",
            DecodeErrorKind::Misaligned => "is not aligned",
            DecodeErrorKind::Overlap => "overlaps another region",
            DecodeErrorKind::BadValue => "has a value that is not allowed",
            DecodeErrorKind::Mismatch => "disagrees with another field",
            DecodeErrorKind::BadText => "is not valid text",
            DecodeErrorKind::NullPointer => "is a null pointer",
        };
        write!(f, "{} at byte {} {}", self.what, self.offset, rule)
    }
}

impl std::error::Error for DecodeError {}

/// A value that can be appended to a message. Limits were checked when it was built, so encoding cannot fail.
pub trait Encode {
    /// Appends the wire form to `out`.
    fn encode(&self, out: &mut Vec<u8>);

    /// The wire form alone.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

/// A value that can be read from a message; total over all inputs.
pub trait Decode<'a>: Sized {
    /// Reads one value and leaves `reader` behind it.
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError>;

    /// Reads one value that must fill `bytes`.
    fn from_bytes(what: &'static str, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let value = Self::decode(&mut reader)?;
        reader.finish(what)?;
        Ok(value)
    }
}

/// Reads a message front to back, or by offset; total over all inputs.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
    base: usize,
    order: ByteOrder,
}

macro_rules! integer {
    ($name:ident, $type:ty, $len:literal) => {
        #[doc = concat!("An unsigned integer of ", stringify!($len), " bytes in the reader's byte order.")]
        #[inline]
        pub fn $name(&mut self, what: &'static str) -> Result<$type, DecodeError> {
            let bytes = self.array::<$len>(what)?;
            Ok(match self.order {
                ByteOrder::Little => <$type>::from_le_bytes(bytes),
                ByteOrder::Big => <$type>::from_be_bytes(bytes),
            })
        }
    };
}

impl<'a> Reader<'a> {
    /// Starts at the first of `bytes`, little-endian.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0, base: 0, order: ByteOrder::Little }
    }

    /// The same reader with another byte order.
    pub const fn with_order(mut self, order: ByteOrder) -> Self {
        self.order = order;
        self
    }

    /// The byte order of the integers.
    pub const fn order(&self) -> ByteOrder {
        self.order
    }

    /// Bytes consumed so far.
    pub const fn position(&self) -> usize {
        self.position
    }

    /// Bytes not consumed yet.
    pub const fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The bytes not consumed yet, without consuming them.
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.position..]
    }

    /// An error at the current position.
    #[cold]
    pub const fn error(&self, what: &'static str, kind: DecodeErrorKind) -> DecodeError {
        DecodeError { what, offset: self.base + self.position, kind }
    }

    /// The next `len` bytes.
    #[inline]
    pub fn take(&mut self, what: &'static str, len: usize) -> Result<&'a [u8], DecodeError> {
        match self.bytes[self.position..].get(..len) {
            Some(slice) => {
                self.position += len;
                Ok(slice)
            }
            None => Err(self.error(what, DecodeErrorKind::Truncated)),
        }
    }

    /// The next `N` bytes as an array.
    #[inline]
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        match self.bytes[self.position..].first_chunk::<N>() {
            Some(chunk) => {
                self.position += N;
                Ok(*chunk)
            }
            None => Err(self.error(what, DecodeErrorKind::Truncated)),
        }
    }

    /// One byte.
    #[inline]
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(what)?[0])
    }

    integer!(u16, u16, 2);
    integer!(u32, u32, 4);
    integer!(u64, u64, 8);

    /// Skips to the next multiple of `alignment` (a power of two), counted from this reader's first byte.
    /// The bytes between may have any value.
    #[inline]
    pub fn align(&mut self, what: &'static str, alignment: usize) -> Result<(), DecodeError> {
        let pad = self.position.wrapping_neg() & (alignment - 1);
        self.take(what, pad).map(|_| ())
    }

    /// A reader over the next `len` bytes, which this one skips; errors keep counting from the outermost
    /// buffer.
    pub fn sub_reader(&mut self, what: &'static str, len: usize) -> Result<Reader<'a>, DecodeError> {
        let base = self.base + self.position;
        let bytes = self.take(what, len)?;
        Ok(Reader { bytes, position: 0, base, order: self.order })
    }

    /// `len` bytes at `offset` from the first byte of this reader's buffer, for payloads given by offset and
    /// length. Does not move the reader.
    pub fn slice_at(&self, what: &'static str, offset: u32, len: u32) -> Result<&'a [u8], DecodeError> {
        let start = offset as usize;
        start.checked_add(len as usize).and_then(|end| self.bytes.get(start..end)).ok_or(DecodeError {
            what,
            offset: self.base + start,
            kind: DecodeErrorKind::OutOfBounds,
        })
    }

    /// Refuses bytes that are left over.
    pub fn finish(self, what: &'static str) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            _ => Err(self.error(what, DecodeErrorKind::Trailing)),
        }
    }
}

/// Text as UTF-16LE without a terminator.
pub fn utf16le(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Text from UTF-16LE of even length; refuses lone surrogates and embedded NULs.
pub fn utf16le_text(what: &'static str, bytes: &[u8]) -> Result<String, DecodeError> {
    let bad = |offset| DecodeError { what, offset, kind: DecodeErrorKind::BadText };
    let (units, odd) = bytes.as_chunks::<2>();
    if !odd.is_empty() {
        return Err(bad(bytes.len() - 1));
    }
    let mut text = String::with_capacity(units.len());
    for unit in char::decode_utf16(units.iter().map(|unit| u16::from_le_bytes(*unit))) {
        match unit {
            Ok('\0') | Err(_) => return Err(bad(0)),
            Ok(c) => text.push(c),
        }
    }
    Ok(text)
}

/// Lower-case hex without separators.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)] as char);
        text.push(DIGITS[usize::from(byte & 15)] as char);
    }
    text
}

/// Fills `bytes` from hex digits in either case, two for each byte and without separators; `None` for any
/// other text. `bytes` may be filled in part then.
pub fn read_hex(digits: &[u8], bytes: &mut [u8]) -> Option<()> {
    let (pairs, odd) = digits.as_chunks::<2>();
    if pairs.len() != bytes.len() || !odd.is_empty() {
        return None;
    }
    let value = |digit: u8| char::from(digit).to_digit(16);
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = (value(*high)? << 4 | value(*low)?) as u8;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hex_digits_in_either_case() {
        let mut bytes = [0; 8];
        assert_eq!(read_hex(b"0123456789abcdef", &mut bytes), Some(()));
        assert_eq!(bytes, [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        let mut upper = [0; 8];
        assert_eq!(read_hex(b"0123456789ABCDEF", &mut upper), Some(()));
        assert_eq!(upper, bytes);
        assert_eq!(read_hex(b"", &mut []), Some(()));
        for byte in 0..=u8::MAX {
            let mut read = [0];
            assert_eq!(read_hex(hex(&[byte]).as_bytes(), &mut read), Some(()));
            assert_eq!(read, [byte]);
        }
    }

    #[test]
    fn refuses_text_of_another_length_or_with_other_digits() {
        for text in
            ["", "0", "01", "012", "012345", "0g12", "g012", "+112", " 012", "01 2", "0x12", "é12", "01\n2"]
        {
            assert_eq!(read_hex(text.as_bytes(), &mut [0; 2]), None, "{text:?}");
        }
        assert_eq!(read_hex(b"00", &mut []), None);
    }

    #[test]
    fn reads_both_byte_orders() {
        let bytes = [1, 2, 3, 4];
        assert_eq!(Reader::new(&bytes).u32("n"), Ok(0x0403_0201));
        assert_eq!(Reader::new(&bytes).with_order(ByteOrder::Big).u32("n"), Ok(0x0102_0304));
    }

    #[test]
    fn says_where_a_value_was_cut() {
        let mut reader = Reader::new(&[0; 7]);
        reader.take("head", 5).expect("five of seven");
        let error = reader.u32("count").expect_err("two of four");
        assert_eq!(error, DecodeError { what: "count", offset: 5, kind: DecodeErrorKind::Truncated });
        assert_eq!(error.to_string(), "count at byte 5 ends too early");
    }

    #[test]
    fn an_offset_and_length_cannot_wrap_around() {
        let reader = Reader::new(&[0; 16]);
        for (offset, len) in [(16, 1), (u32::MAX, u32::MAX), (1, u32::MAX), (17, 0)] {
            assert!(reader.slice_at("blob", offset, len).is_err(), "{offset} {len}");
        }
        assert_eq!(reader.slice_at("blob", 16, 0), Ok(&[][..]));
    }

    #[test]
    fn aligns_from_the_first_byte_of_a_sub_reader() {
        let bytes = [0; 12];
        let mut outer = Reader::new(&bytes);
        outer.u8("head").expect("one byte");
        let mut inner = outer.sub_reader("body", 10).expect("ten bytes");
        inner.u8("n").expect("one byte");
        inner.align("pad", 4).expect("three bytes");
        assert_eq!(inner.position(), 4);
        assert_eq!(inner.take("rest", 7).expect_err("six left").offset, 5);
    }

    #[test]
    fn refuses_lone_surrogates_odd_lengths_and_nul() {
        assert_eq!(utf16le_text("name", &utf16le("Müller 🔑")).as_deref(), Ok("Müller 🔑"));
        for bytes in [&[0x00, 0xd8][..], &[0x41, 0x00, 0x42], &[0x00, 0x00]] {
            assert!(utf16le_text("name", bytes).is_err(), "{bytes:?}");
        }
    }
}
