use super::{NdrReader, NdrWriter, WideStr};
use dtyp::{DecodeError, DecodeErrorKind, Guid};

/// [MS-DTYP] 2.3.10 RPC_UNICODE_STRING in the scalar pass: lengths in bytes, then a pointer.
#[derive(Clone, Copy, Debug)]
pub struct UnicodeStringHeader {
    length: u16,
    present: bool,
}

impl UnicodeStringHeader {
    /// Reads the fields in place.
    pub fn scalars(reader: &mut NdrReader<'_>, what: &'static str) -> Result<Self, DecodeError> {
        reader.align_pointer(what)?;
        let length = reader.u16(what)?;
        let maximum_length = reader.u16(what)?;
        let present = reader.pointer(what)?;
        match length {
            _ if length % 2 != 0 || length > maximum_length => {
                Err(reader.error(what, DecodeErrorKind::BadValue))
            }
            1.. if !present => Err(reader.error(what, DecodeErrorKind::NullPointer)),
            _ => Ok(Self { length, present }),
        }
    }

    /// Reads the text behind the pointer. The actual count must be what the length says; a maximum above it
    /// is what peers send ([MS-RPCE] 4.7 asks for more strictness than they keep).
    pub fn referent<'a>(
        self,
        reader: &mut NdrReader<'a>,
        what: &'static str,
    ) -> Result<WideStr<'a>, DecodeError> {
        if !self.present {
            return Ok(WideStr::new(&[], reader.order()));
        }
        let (_, text) = reader.varying_units(what)?;
        match text.units().len() * 2 == usize::from(self.length) {
            true => Ok(text),
            false => Err(reader.error(what, DecodeErrorKind::Mismatch)),
        }
    }

    /// Writes the fields in place for `text`: empty text with a null pointer. Text beyond 32,766 units cannot
    /// be said in this structure; callers bound theirs far below.
    pub fn write_scalars(writer: &mut NdrWriter, text: &str) {
        let length = (text.encode_utf16().count() * 2) as u16;
        writer.align_pointer();
        writer.u16(length);
        writer.u16(length);
        writer.pointer(length != 0);
    }

    /// Writes what [`Self::write_scalars`] pointed to.
    pub fn write_referent(writer: &mut NdrWriter, text: &str) {
        if !text.is_empty() {
            writer.varying_units(text.encode_utf16().count(), text, false);
        }
    }

    /// Writes text whose buffer has room for a NUL that is not sent, as Windows does for names of servers and
    /// domains; empty text with a pointer to nothing. `extra` is that room in bytes: 0 or 2.
    pub fn write_scalars_with_room(writer: &mut NdrWriter, text: &str, extra: u16) {
        let length = (text.encode_utf16().count() * 2) as u16;
        writer.align_pointer();
        writer.u16(length);
        writer.u16(length + extra);
        writer.pointer(true);
    }

    /// Writes what [`Self::write_scalars_with_room`] pointed to.
    pub fn write_referent_with_room(writer: &mut NdrWriter, text: &str, extra: u16) {
        writer.varying_units(text.encode_utf16().count() + usize::from(extra) / 2, text, false);
    }
}

/// \[C706\] context handle: 20 bytes, aligned to 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ContextHandle {
    /// Attributes, zero in practice.
    pub attributes: u32,
    /// The server's name for what it keeps; nil for nothing.
    pub id: Guid,
}

impl ContextHandle {
    /// Reads a handle.
    pub fn read(reader: &mut NdrReader<'_>, what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self { attributes: reader.u32(what)?, id: reader.guid(what)? })
    }

    /// Writes a handle.
    pub fn write(&self, writer: &mut NdrWriter) {
        writer.u32(self.attributes);
        writer.guid(&self.id);
    }
}
