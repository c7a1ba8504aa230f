//! NDR 2.0 (\[C706\] chapter 14) and NDR64 ([MS-RPCE] 2.2.5), as far as our interfaces use them.
//!
//! A structure with embedded pointers travels in two passes, and our code says so: `scalars` reads or writes
//! the fields in place, `referents` what the pointers among them lead to, after the outermost scalars.
//! Top-level pointers are followed at once. Alignment counts from the first byte of the stub.
//!
//! Deliberately absent: full pointers with aliases, pipes, varying arrays that do not start at 0, and writing
//! big-endian data (a peer's big-endian stub is read; ours are little-endian).

mod reader;
mod serialization;
mod strings;
mod wide_str;
mod writer;

pub use reader::NdrReader;
pub use serialization::{read_type_serialization, write_type_serialization};
pub use strings::{ContextHandle, UnicodeStringHeader};
pub use wide_str::WideStr;
pub use writer::NdrWriter;

/// The form of a stub, negotiated for each presentation context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum NdrSyntax {
    /// NDR 2.0: pointers and counts of 4 bytes, enumerations of 2.
    #[default]
    Ndr,
    /// NDR64: pointers and counts of 8 bytes, enumerations of 4; little-endian only.
    Ndr64,
}

impl NdrSyntax {
    /// Size and alignment of a pointer, a count, an offset.
    pub const fn pointer_len(self) -> usize {
        match self {
            Self::Ndr => 4,
            Self::Ndr64 => 8,
        }
    }

    /// Size and alignment of an enumeration that is not `v1_enum`.
    const fn enum_len(self) -> usize {
        match self {
            Self::Ndr => 2,
            Self::Ndr64 => 4,
        }
    }
}

#[cfg(test)]
mod tests;
