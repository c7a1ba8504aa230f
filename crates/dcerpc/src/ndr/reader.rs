use super::{NdrSyntax, WideStr};
use dtyp::{ByteOrder, DecodeError, DecodeErrorKind, Guid, Reader, Sid};

/// Reads a stub; total over all inputs, and no count of a peer is used before it is compared with the
/// bytes that are there.
#[derive(Clone, Debug)]
pub struct NdrReader<'a> {
    reader: Reader<'a>,
    syntax: NdrSyntax,
}

impl<'a> NdrReader<'a> {
    /// Starts at the first byte of `stub`, in the byte order of the PDU's data representation.
    pub const fn new(stub: &'a [u8], syntax: NdrSyntax, order: ByteOrder) -> Self {
        Self { reader: Reader::new(stub).with_order(order), syntax }
    }

    /// The form of this stub.
    pub const fn syntax(&self) -> NdrSyntax {
        self.syntax
    }

    /// The byte order of the integers and of the text.
    pub const fn order(&self) -> ByteOrder {
        self.reader.order()
    }

    /// Bytes consumed so far.
    pub const fn position(&self) -> usize {
        self.reader.position()
    }

    /// Bytes not consumed yet: padding, a verification trailer, or what a newer peer adds.
    pub const fn remaining(&self) -> usize {
        self.reader.remaining()
    }

    /// An error at the current position.
    #[cold]
    pub const fn error(&self, what: &'static str, kind: DecodeErrorKind) -> DecodeError {
        self.reader.error(what, kind)
    }

    /// Skips to a multiple of `alignment`.
    pub fn align(&mut self, what: &'static str, alignment: usize) -> Result<(), DecodeError> {
        self.reader.align(what, alignment)
    }

    /// Skips to where a structure that holds a pointer starts: in NDR64 it ends there too.
    pub fn align_pointer(&mut self, what: &'static str) -> Result<(), DecodeError> {
        self.reader.align(what, self.syntax.pointer_len())
    }

    /// Skips to where the tag of a union starts whose arms hold pointers. In NDR 2.0 the tag has its own
    /// alignment alone: a 16-bit one may stand at 2 modulo 4.
    pub fn align_union(&mut self, what: &'static str) -> Result<(), DecodeError> {
        self.end_of_structure(what)
    }

    /// Skips the padding that NDR64 puts at the end of a structure that holds a pointer; nothing in NDR 2.0.
    pub fn end_of_structure(&mut self, what: &'static str) -> Result<(), DecodeError> {
        match self.syntax {
            NdrSyntax::Ndr => Ok(()),
            NdrSyntax::Ndr64 => self.reader.align(what, 8),
        }
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.reader.u8(what)
    }

    /// Two bytes, aligned.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        self.reader.align(what, 2)?;
        self.reader.u16(what)
    }

    /// Four bytes, aligned.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.reader.align(what, 4)?;
        self.reader.u32(what)
    }

    /// Eight bytes, aligned.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.reader.align(what, 8)?;
        self.reader.u64(what)
    }

    /// An enumeration of 16 bits, which NDR64 sends as 32; a value that does not fit is refused.
    pub fn enum16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        self.reader.align(what, self.syntax.enum_len())?;
        match self.syntax {
            NdrSyntax::Ndr => self.reader.u16(what),
            NdrSyntax::Ndr64 => {
                u16::try_from(self.reader.u32(what)?).map_err(|_| self.error(what, DecodeErrorKind::BadValue))
            }
        }
    }

    /// `N` bytes without alignment.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        self.reader.array(what)
    }

    /// `len` bytes without alignment.
    pub fn bytes(&mut self, what: &'static str, len: usize) -> Result<&'a [u8], DecodeError> {
        self.reader.take(what, len)
    }

    /// A GUID, aligned to 4.
    pub fn guid(&mut self, what: &'static str) -> Result<Guid, DecodeError> {
        self.reader.align(what, 4)?;
        dtyp::Decode::decode(&mut self.reader)
    }

    /// A referent identifier: whether the pointer leads anywhere.
    pub fn pointer(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        Ok(self.pointer_sized(what)? != 0)
    }

    /// A pointer that must lead somewhere.
    pub fn some_pointer(&mut self, what: &'static str) -> Result<(), DecodeError> {
        match self.pointer(what)? {
            true => Ok(()),
            false => Err(self.error(what, DecodeErrorKind::NullPointer)),
        }
    }

    fn pointer_sized(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        match self.syntax {
            NdrSyntax::Ndr => Ok(u64::from(self.u32(what)?)),
            NdrSyntax::Ndr64 => self.u64(what),
        }
    }

    /// A count, maximum or offset, at most `max`.
    pub fn count(&mut self, what: &'static str, max: usize) -> Result<usize, DecodeError> {
        let count = self.pointer_sized(what)?;
        match usize::try_from(count) {
            Ok(count) if count <= max => Ok(count),
            _ => Err(self.error(what, DecodeErrorKind::TooLong)),
        }
    }

    /// The maximum count of a conformant array that must be `expected`, and must fit into the bytes left when
    /// each element takes at least `element_len`.
    pub fn conformance(
        &mut self,
        what: &'static str,
        expected: usize,
        element_len: usize,
    ) -> Result<(), DecodeError> {
        if self.count(what, usize::MAX)? != expected {
            return Err(self.error(what, DecodeErrorKind::Mismatch));
        }
        match expected.checked_mul(element_len) {
            Some(len) if len <= self.remaining() => Ok(()),
            _ => Err(self.error(what, DecodeErrorKind::Truncated)),
        }
    }

    /// `[size_is(len)] u8*`, behind its pointer.
    pub fn conformant_bytes(&mut self, what: &'static str, len: usize) -> Result<&'a [u8], DecodeError> {
        self.conformance(what, len, 1)?;
        self.reader.take(what, len)
    }

    /// Maximum, offset and actual count of a conformant varying array of 16-bit units, and those units.
    pub(super) fn varying_units(&mut self, what: &'static str) -> Result<(usize, WideStr<'a>), DecodeError> {
        let max = self.count(what, usize::MAX)?;
        if self.count(what, usize::MAX)? != 0 {
            return Err(self.error(what, DecodeErrorKind::BadValue));
        }
        let actual = self.count(what, max)?;
        let len = actual.checked_mul(2).ok_or(self.error(what, DecodeErrorKind::TooLong))?;
        Ok((max, WideStr::new(self.reader.take(what, len)?, self.order())))
    }

    /// `[string] wchar_t*` behind its pointer: units that end in a NUL, which is counted on the wire and left
    /// out here. `units_max` is the parameter's `range`, the NUL included.
    pub fn string(&mut self, what: &'static str, units_max: usize) -> Result<WideStr<'a>, DecodeError> {
        let (max, text) = self.varying_units(what)?;
        if max > units_max {
            return Err(self.error(what, DecodeErrorKind::TooLong));
        }
        text.without_nul().ok_or(self.error(what, DecodeErrorKind::BadText))
    }

    /// `[unique, string] wchar_t*` as a parameter.
    pub fn unique_string(
        &mut self,
        what: &'static str,
        units_max: usize,
    ) -> Result<Option<WideStr<'a>>, DecodeError> {
        match self.pointer(what)? {
            true => self.string(what, units_max).map(Some),
            false => Ok(None),
        }
    }

    /// [MS-DTYP] 2.4.2.3 RPC_SID behind its pointer: a conformant structure.
    pub fn sid(&mut self, what: &'static str) -> Result<Sid, DecodeError> {
        let count = self.count(what, Sid::SUB_AUTHORITIES_MAX)?;
        if usize::from(*self.reader.rest().get(1).unwrap_or(&0)) != count {
            return Err(self.error(what, DecodeErrorKind::Mismatch));
        }
        dtyp::Decode::decode(&mut self.reader)
    }
}
