//! Type serialization version 1 ([MS-RPCE] 2.2.6): a common header of 8 bytes, a private header of 8, then
//! NDR.

use super::{NdrReader, NdrSyntax, NdrWriter};
use dtyp::{ByteOrder, DecodeError, DecodeErrorKind, Reader};

/// Reads both headers and returns a reader over the NDR behind them. `ObjectBufferLength` must lie within
/// `bytes`; what follows it is padding of the container and is ignored.
pub fn read_type_serialization<'a>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<NdrReader<'a>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let version = reader.u8(what)?;
    let order = match reader.u8(what)? {
        0x10 => ByteOrder::Little,
        0x00 => ByteOrder::Big,
        _ => return Err(reader.error(what, DecodeErrorKind::BadValue)),
    };
    let mut reader = reader.with_order(order);
    let header_len = reader.u16(what)?;
    let _filler = reader.u32(what)?;
    if (version, header_len) != (1, 8) {
        return Err(reader.error(what, DecodeErrorKind::BadValue));
    }
    let len = reader.u32(what)?;
    let _filler = reader.u32(what)?;
    let object = reader.slice_at(what, 16, len)?;
    Ok(NdrReader::new(object, NdrSyntax::Ndr, order))
}

/// Appends both headers and the NDR that `write` makes, padded to 8 bytes. The length written counts the
/// padding.
pub fn write_type_serialization(out: &mut Vec<u8>, write: impl FnOnce(&mut NdrWriter)) {
    let mut writer = NdrWriter::with_capacity(NdrSyntax::Ndr, 512);
    write(&mut writer);
    writer.align(8);
    let object = writer.into_bytes();
    out.extend_from_slice(&[0x01, 0x10, 0x08, 0x00, 0xcc, 0xcc, 0xcc, 0xcc]);
    out.extend_from_slice(&(object.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&object);
}
