//! The interface ISingleSignonRemoteMasterSecret and the stubs of its one method ([MS-SSP] 2.2, 3.1.4.1, 6).
//!
//! ```text
//! error_status_t RemoteGetMasterSecret(
//!     [in] handle_t hBinding,
//!     [in, out] [range(16,16)] unsigned long *pcbSecret,
//!     [out, size_is(*pcbSecret)] byte *pbSecret);
//! ```
//!
//! Both pointers are top-level and have no attribute, so they are `[ref]` pointers and have no referent
//! identifier on the wire. The request is `*pcbSecret`. The response is `*pcbSecret`, the array with its
//! maximum count, and the return value: 28 octets in NDR, 36 in NDR64.

use crate::{MasterSecret, ReturnCode};
use dcerpc::ndr::{NdrReader, NdrSyntax, NdrWriter};
use dcerpc::pdu::{FaultStatus, SyntaxId};
use dtyp::{ByteOrder, DecodeError, DecodeErrorKind, Guid};
use zeroize::Zeroizing;

/// The interface's identifier, version 1.0 ([MS-SSP] 1.9).
pub const MASTER_SECRET: SyntaxId = SyntaxId::new(
    Guid::new(0x9d07_ca0d, 0x8f02, 0x4ed5, [0xb7, 0x27, 0xac, 0xf3, 0x7f, 0xea, 0x5b, 0xbc]),
    1,
    0,
);

/// RemoteGetMasterSecret, the only method.
pub const REMOTE_GET_MASTER_SECRET: u16 = 0;

/// Which sizes the stub accepts. The document's prose says 0 to 16, its interface definition 16 to 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NdrRange {
    /// `range(16,16)`, as compilers generate it from the interface definition.
    #[default]
    Idl,
    /// 0 to 16, as the prose of 2.2.2 says. The method answers sizes below 16 with a return code.
    Prose,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// `*pcbSecret`: in the range.
    pub size: u32,
    /// Octets behind the parameter that are no verification trailer. They are ignored.
    pub trailing: usize,
}

impl Request {
    /// Reads the stub. A size out of range is the fault nca_s_fault_invalid_bound; a stub that is cut short
    /// is bad stub data.
    pub fn read(
        stub: &[u8],
        syntax: NdrSyntax,
        order: ByteOrder,
        range: NdrRange,
    ) -> Result<Self, FaultStatus> {
        let mut reader = NdrReader::new(stub, syntax, order);
        let size = reader.u32("pcbSecret")?;
        let accepted = match range {
            NdrRange::Idl => size == SIZE,
            NdrRange::Prose => size <= SIZE,
        };
        match accepted {
            true => Ok(Self { size, trailing: reader.remaining() }),
            false => Err(FaultStatus::INVALID_BOUND),
        }
    }
}

/// MAX_MASTER_SECRET_BYTES on the wire.
pub(crate) const SIZE: u32 = MasterSecret::LEN as u32;

/// The parameters of a request, in both transfer syntaxes: 16.
pub fn write_request() -> Vec<u8> {
    SIZE.to_le_bytes().to_vec()
}

/// The results of a successful call. The security contexts of `rpc-auth` wipe the stub when they have sealed
/// it.
pub fn write_secret(secret: &MasterSecret, syntax: NdrSyntax) -> Vec<u8> {
    write_response(secret.octets(), ReturnCode::SUCCESS, syntax)
}

/// The results of a call that failed: 16 zero octets and the code. A client that checks the range accepts no
/// other size, whatever it asked for.
pub fn write_failure(code: ReturnCode, syntax: NdrSyntax) -> Vec<u8> {
    write_response(&[0; MasterSecret::LEN], code, syntax)
}

fn write_response(octets: &[u8; MasterSecret::LEN], code: ReturnCode, syntax: NdrSyntax) -> Vec<u8> {
    // With room for all of it, so that no octet is left behind in a buffer that was outgrown.
    let mut writer = NdrWriter::with_capacity(syntax, RESPONSE_LEN_NDR64);
    writer.u32(SIZE);
    writer.align_pointer();
    writer.conformant_bytes(octets);
    writer.u32(code.0);
    writer.into_bytes()
}

const RESPONSE_LEN_NDR64: usize = 4 // *pcbSecret
    + 4 // alignment
    + 8 // maximum count
    + MasterSecret::LEN
    + 4; // return value

/// Reads the results. The size, the maximum count and the length are checked before the code counts.
pub fn read_response(
    stub: &[u8],
    syntax: NdrSyntax,
    order: ByteOrder,
) -> Result<(ReturnCode, MasterSecret), DecodeError> {
    let mut reader = NdrReader::new(stub, syntax, order);
    if reader.u32("pcbSecret")? != SIZE {
        return Err(reader.error("pcbSecret", DecodeErrorKind::BadValue));
    }
    reader.align_pointer("pbSecret")?;
    reader.conformance("pbSecret", MasterSecret::LEN, 1)?;
    let octets = Zeroizing::new(reader.array::<{ MasterSecret::LEN }>("pbSecret")?);
    let code = ReturnCode(reader.u32("return value")?);
    match reader.remaining() {
        0 => Ok((code, MasterSecret::copy(&octets))),
        _ => Err(reader.error("response", DecodeErrorKind::Trailing)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    #[test]
    fn identifier_is_the_documents_one_on_the_wire() {
        let mut wire = Vec::new();
        dtyp::Encode::encode(&MASTER_SECRET, &mut wire);
        assert_eq!(dtyp::hex(&wire), "0dca079d028fd54eb727acf37fea5bbc01000000");
    }

    #[test]
    fn responses_are_the_vectors_that_pidl_stubs_make() {
        let secret = MasterSecret::new(KEY);
        assert_eq!(
            dtyp::hex(&write_secret(&secret, NdrSyntax::Ndr)),
            "1000000010000000000102030405060708090a0b0c0d0e0f00000000"
        );
        assert_eq!(
            dtyp::hex(&write_secret(&secret, NdrSyntax::Ndr64)),
            "10000000000000001000000000000000000102030405060708090a0b0c0d0e0f00000000"
        );
        for (code, last) in [
            (ReturnCode::ACCESS_DENIED, "05006380"),
            (ReturnCode::NO_SECRET, "02006380"),
            (ReturnCode::NOT_CONFIGURED, "4a066380"),
            (ReturnCode::EXCEPTION, "28046380"),
            (ReturnCode::OUT_OF_MEMORY, "0e000780"),
            (ReturnCode::INVALID_ARGUMENT, "57000780"),
            (ReturnCode::UNEXPECTED, "ffff0080"),
            (ReturnCode::SERVER_UNAVAILABLE, "170002c0"),
        ] {
            let ndr = dtyp::hex(&write_failure(code, NdrSyntax::Ndr));
            assert_eq!(ndr, format!("1000000010000000{}{last}", "00".repeat(16)), "{code}");
            let ndr64 = dtyp::hex(&write_failure(code, NdrSyntax::Ndr64));
            assert_eq!(ndr64, format!("10000000000000001000000000000000{}{last}", "00".repeat(16)), "{code}");
        }
    }

    /// The table of sizes and answers, in both byte orders and forms.
    #[test]
    fn range_is_tested_after_the_bytes_are_swapped() {
        use NdrRange::{Idl, Prose};
        let bound = Err(FaultStatus::INVALID_BOUND);
        for (size, idl, prose) in [
            (16, Ok(16), Ok(16)),
            (0, bound, Ok(0)),
            (1, bound, Ok(1)),
            (15, bound, Ok(15)),
            (17, bound, bound),
            (0x1000_0000, bound, bound),
            (0x8000_0000, bound, bound),
            (0xffff_ffff_u32, bound, bound),
        ] {
            for syntax in [NdrSyntax::Ndr, NdrSyntax::Ndr64] {
                for (range, expected) in [(Idl, idl), (Prose, prose)] {
                    let read =
                        |stub: [u8; 4], order| Request::read(&stub, syntax, order, range).map(|it| it.size);
                    assert_eq!(read(size.to_le_bytes(), ByteOrder::Little), expected, "{size:#x} {range:?}");
                    assert_eq!(read(size.to_be_bytes(), ByteOrder::Big), expected, "{size:#x} {range:?}");
                }
            }
        }
    }

    #[test]
    fn short_stub_is_bad_data_and_trailing_octets_are_counted() {
        for range in [NdrRange::Idl, NdrRange::Prose] {
            let read = |stub: &[u8]| Request::read(stub, NdrSyntax::Ndr, ByteOrder::Little, range);
            for len in 0..4 {
                assert_eq!(read(&write_request()[..len]), Err(FaultStatus::BAD_STUB_DATA), "{len}");
            }
            let longer = [write_request(), vec![0xee; 5]].concat();
            assert_eq!(read(&longer), Ok(Request { size: 16, trailing: 5 }));
        }
    }

    #[test]
    fn response_is_read_whole_or_not_at_all() {
        for syntax in [NdrSyntax::Ndr, NdrSyntax::Ndr64] {
            let stub = write_secret(&MasterSecret::new(KEY), syntax);
            let read = |stub: &[u8]| read_response(stub, syntax, ByteOrder::Little);
            assert_eq!(read(&stub), Ok((ReturnCode::SUCCESS, MasterSecret::new(KEY))));
            for len in 0..stub.len() {
                assert!(read(&stub[..len]).is_err(), "{len}");
            }
            assert!(read(&[&stub[..], &[0]].concat()).is_err());
            let count_at = if syntax == NdrSyntax::Ndr { 4 } else { 8 };
            for (at, value) in
                [(0, 0), (0, 15), (0, 17), (count_at, 15), (count_at, 17), (count_at + 3, 0x80)]
            {
                let mut wrong = stub.clone();
                wrong[at] = value;
                assert!(read(&wrong).is_err(), "{syntax:?} {at} {value}");
            }
            // A code that the document does not name passes unchanged.
            let mut other = stub.clone();
            let len = other.len();
            other[len - 4..].copy_from_slice(&0x8007_0005_u32.to_le_bytes());
            assert_eq!(read(&other).map(|(code, _)| code), Ok(ReturnCode(0x8007_0005)));
        }
    }
}
