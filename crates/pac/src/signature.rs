//! PAC_SIGNATURE_DATA ([MS-PAC] 2.8) of a ticket's PAC, as far as the ticket's service can check it.

use crate::BufferType;
use crate::container::table;
use dtyp::{DecodeError, DecodeErrorKind, Reader};
use std::ops::Range;

/// `SignatureType` (4 bytes), before the signature.
const TYPE_LEN: usize = 4;

/// The server's signature of a PAC, and the bytes that it covers. The holder of the service's key computes
/// the checksum and compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSignature {
    /// `SignatureType`: a checksum type of Kerberos, as a signed number.
    pub signature_type: i32,
    /// The signature.
    pub signature: Vec<u8>,
    /// The PAC with the octets of the server's and the KDC's signature zeroed.
    pub signed: Vec<u8>,
}

/// Length of a signature of this type; `None` of a type that no KDC uses.
const fn signature_len(signature_type: i32) -> Option<usize> {
    match signature_type {
        15 | 16 => Some(12),
        19 | -138 => Some(16),
        20 => Some(24),
        _ => None,
    }
}

impl ServerSignature {
    /// Finds the server's signature of a PAC. Each of the two signatures must be there once.
    pub fn from_pac(bytes: &[u8]) -> Result<Self, DecodeError> {
        let buffers = table(&mut Reader::new(bytes))?;
        let find = |buffer_type| {
            let mut found = buffers.iter().filter(|(other, _)| *other == buffer_type);
            match (found.next(), found.next()) {
                (Some((_, region)), None) => signature(bytes, region.clone()),
                _ => Err(bad(0)),
            }
        };
        let (signature_type, server) = find(BufferType::SERVER_CHECKSUM)?;
        let (_, kdc) = find(BufferType::KDC_CHECKSUM)?;
        let mut signed = bytes.to_vec();
        for region in [server.clone(), kdc] {
            signed[region].fill(0);
        }
        Ok(Self { signature_type, signature: bytes[server].to_vec(), signed })
    }
}

const fn bad(offset: usize) -> DecodeError {
    DecodeError { what: "PAC_SIGNATURE_DATA", offset, kind: DecodeErrorKind::BadValue }
}

/// The type of a signature, and where its octets are. RODCIdentifier (2 bytes) may follow them.
fn signature(bytes: &[u8], region: Range<usize>) -> Result<(i32, Range<usize>), DecodeError> {
    let signature_type = Reader::new(&bytes[region.clone()]).u32("SignatureType")? as i32;
    let start = region.start + TYPE_LEN;
    let end = start + signature_len(signature_type).ok_or(bad(region.start))?;
    match region.end.checked_sub(end) {
        Some(0 | 2) => Ok((signature_type, start..end)),
        _ => Err(bad(region.start)),
    }
}
