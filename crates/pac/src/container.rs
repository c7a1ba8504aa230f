use dtyp::{Decode, DecodeError, DecodeErrorKind, Encode, Reader};
use std::ops::Range;

/// `ulType` of a buffer ([MS-PAC] 2.4), by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufferType(pub u32);

impl BufferType {
    /// KERB_VALIDATION_INFO.
    pub const LOGON_INFO: Self = Self(1);
    /// The server's signature, under the key of the ticket's service ([MS-PAC] 2.8.1).
    pub const SERVER_CHECKSUM: Self = Self(6);
    /// The KDC's signature over the server's ([MS-PAC] 2.8.2).
    pub const KDC_CHECKSUM: Self = Self(7);
    /// PAC_CLIENT_INFO.
    pub const CLIENT_INFO: Self = Self(10);
    /// S4U_DELEGATION_INFO.
    pub const DELEGATION_INFO: Self = Self(11);
    /// UPN_DNS_INFO.
    pub const UPN_DNS_INFO: Self = Self(12);
    /// PAC_REQUESTOR: a SID.
    pub const REQUESTOR_SID: Self = Self(18);
}

/// One buffer of a PAC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// What is in it.
    pub buffer_type: BufferType,
    /// Its bytes, without the padding behind them.
    pub data: Vec<u8>,
}

/// [MS-PAC] 2.3 PACTYPE: `cBuffers` and `Version`, 16 bytes of table for each buffer, then the buffers on
/// offsets that are multiples of 8.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Pac {
    /// The buffers, in the order of the table.
    pub buffers: Vec<Buffer>,
}

/// There are twenty types, and each counts once.
const BUFFERS_MAX: usize = 32;
const HEADER_LEN: usize = 4 // cBuffers
    + 4; // Version
const ENTRY_LEN: usize = 4 // ulType
    + 4 // cbBufferSize
    + 8; // Offset

impl Pac {
    /// The first buffer of a type: others of the same type do not count.
    pub fn find(&self, buffer_type: BufferType) -> Option<&[u8]> {
        self.buffers.iter().find(|buffer| buffer.buffer_type == buffer_type).map(|buffer| &buffer.data[..])
    }
}

impl Encode for Pac {
    fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&(self.buffers.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        let mut offset = HEADER_LEN + ENTRY_LEN * self.buffers.len();
        for Buffer { buffer_type, data } in &self.buffers {
            out.extend_from_slice(&buffer_type.0.to_le_bytes());
            out.extend_from_slice(&(data.len() as u32).to_le_bytes());
            out.extend_from_slice(&(offset as u64).to_le_bytes());
            offset += data.len().next_multiple_of(8);
        }
        for Buffer { data, .. } in &self.buffers {
            out.extend_from_slice(data);
            out.resize(start + (out.len() - start).next_multiple_of(8), 0);
        }
    }
}

impl Decode<'_> for Pac {
    /// Reads a PAC that fills the rest of `reader`. Regions must lie behind the table, aligned, and not
    /// overlap.
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bytes = reader.rest();
        let buffers = table(reader)?
            .into_iter()
            .map(|(buffer_type, region)| Buffer { buffer_type, data: bytes[region].to_vec() })
            .collect();
        Ok(Self { buffers })
    }
}

/// The buffers' types and where they are, from the first byte of the PAC. INVARIANT: the regions are inside
/// of it.
pub(crate) fn table(reader: &mut Reader<'_>) -> Result<Vec<(BufferType, Range<usize>)>, DecodeError> {
    let whole = Reader::new(reader.rest());
    let count = reader.u32("cBuffers")? as usize;
    if count > BUFFERS_MAX {
        return Err(reader.error("cBuffers", DecodeErrorKind::TooLong));
    }
    if reader.u32("Version")? != 0 {
        return Err(reader.error("Version", DecodeErrorKind::BadValue));
    }
    let data_start = (HEADER_LEN + ENTRY_LEN * count) as u64;
    let mut buffers = Vec::with_capacity(count);
    let mut regions = Vec::with_capacity(count);
    for _ in 0..count {
        let buffer_type = BufferType(reader.u32("ulType")?);
        let size = reader.u32("cbBufferSize")?;
        let offset = reader.u64("Offset")?;
        let bad = |kind| DecodeError { what: "Offset", offset: offset as usize, kind };
        if offset < data_start {
            return Err(bad(DecodeErrorKind::OutOfBounds));
        }
        if offset % 8 != 0 {
            return Err(bad(DecodeErrorKind::Misaligned));
        }
        let offset = u32::try_from(offset).map_err(|_| bad(DecodeErrorKind::OutOfBounds))?;
        whole.slice_at("PAC buffer", offset, size)?;
        let region = offset as usize..offset as usize + size as usize;
        if size > 0 {
            regions.push((region.start, region.end));
        }
        buffers.push((buffer_type, region));
    }
    regions.sort_unstable();
    if regions.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err(reader.error("PAC buffer", DecodeErrorKind::Overlap));
    }
    reader.take("PAC", reader.remaining())?;
    Ok(buffers)
}
