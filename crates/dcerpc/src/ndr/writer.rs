use super::NdrSyntax;
use dtyp::{Encode, Guid, Sid};

/// Writes a stub, little-endian. Counts are taken from the values, so writing cannot fail.
#[derive(Debug)]
pub struct NdrWriter {
    out: Vec<u8>,
    syntax: NdrSyntax,
    next_referent: u32,
}

impl NdrWriter {
    /// An empty stub.
    pub const fn new(syntax: NdrSyntax) -> Self {
        Self { out: Vec::new(), syntax, next_referent: 0x0002_0000 }
    }

    /// An empty stub with room for `capacity` bytes.
    pub fn with_capacity(syntax: NdrSyntax, capacity: usize) -> Self {
        Self { out: Vec::with_capacity(capacity), ..Self::new(syntax) }
    }

    /// The form of this stub.
    pub const fn syntax(&self) -> NdrSyntax {
        self.syntax
    }

    /// Bytes written so far.
    pub const fn position(&self) -> usize {
        self.out.len()
    }

    /// The finished stub.
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// Zeroes up to a multiple of `alignment`, a power of two.
    pub fn align(&mut self, alignment: usize) {
        let pad = self.out.len().wrapping_neg() & (alignment - 1);
        self.out.extend_from_slice(&[0; 16][..pad]);
    }

    /// Zeroes up to where a structure that holds a pointer starts.
    pub fn align_pointer(&mut self) {
        self.align(self.syntax.pointer_len());
    }

    /// Zeroes up to where the tag of a union starts whose arms hold pointers; in NDR 2.0 the tag has its own
    /// alignment alone.
    pub fn align_union(&mut self) {
        self.end_of_structure();
    }

    /// The padding that NDR64 puts at the end of a structure that holds a pointer; nothing in NDR 2.0.
    pub fn end_of_structure(&mut self) {
        if self.syntax == NdrSyntax::Ndr64 {
            self.align(8);
        }
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    /// Two bytes, aligned.
    pub fn u16(&mut self, value: u16) {
        self.align(2);
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// Four bytes, aligned.
    pub fn u32(&mut self, value: u32) {
        self.align(4);
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// Eight bytes, aligned.
    pub fn u64(&mut self, value: u64) {
        self.align(8);
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// An enumeration of 16 bits, which NDR64 sends as 32.
    pub fn enum16(&mut self, value: u16) {
        match self.syntax {
            NdrSyntax::Ndr => self.u16(value),
            NdrSyntax::Ndr64 => self.u32(u32::from(value)),
        }
    }

    /// Bytes without alignment.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// A GUID, aligned to 4.
    pub fn guid(&mut self, guid: &Guid) {
        self.align(4);
        guid.encode(&mut self.out);
    }

    /// A count, maximum or offset.
    pub fn count(&mut self, count: usize) {
        match self.syntax {
            // Nothing of 4 Gi elements can be in a message of at most 4 MiB.
            NdrSyntax::Ndr => self.u32(count as u32),
            NdrSyntax::Ndr64 => self.u64(count as u64),
        }
    }

    /// A pointer: the next referent identifier, or null.
    pub fn pointer(&mut self, present: bool) {
        let referent = match present {
            true => {
                let referent = self.next_referent;
                self.next_referent += 4;
                referent as usize
            }
            false => 0,
        };
        self.count(referent);
    }

    /// `[size_is] u8*` behind its pointer.
    pub fn conformant_bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.bytes(bytes);
    }

    /// Maximum count, offset 0, actual count, and the units of `text` with or without a NUL.
    pub(super) fn varying_units(&mut self, max: usize, text: &str, nul: bool) {
        self.count(max);
        self.count(0);
        self.count(text.encode_utf16().count() + usize::from(nul));
        self.out.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
        if nul {
            self.out.extend_from_slice(&[0, 0]);
        }
    }

    /// `[string] wchar_t*` behind its pointer, with its NUL.
    pub fn string(&mut self, text: &str) {
        self.varying_units(text.encode_utf16().count() + 1, text, true);
    }

    /// `[unique, string] wchar_t*` as a parameter.
    pub fn unique_string(&mut self, text: Option<&str>) {
        self.pointer(text.is_some());
        if let Some(text) = text {
            self.string(text);
        }
    }

    /// [MS-DTYP] 2.4.2.3 RPC_SID behind its pointer.
    pub fn sid(&mut self, sid: &Sid) {
        self.count(sid.sub_authorities().len());
        sid.encode(&mut self.out);
    }
}
