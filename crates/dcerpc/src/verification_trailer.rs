//! The verification trailer ([MS-RPCE] 2.2.2.13): what the client takes as negotiated, under the seal.

use crate::pdu::{PacketType, SyntaxId};
use dtyp::{ByteOrder, Decode, Encode, Reader};

const MAGIC: [u8; 8] = [0x8a, 0xe3, 0x13, 0x71, 0x02, 0xf4, 0x36, 0x71];
const COMMAND_BITMASK: u16 = 1;
const COMMAND_PCONTEXT: u16 = 2;
const COMMAND_HEADER2: u16 = 3;
/// Our own command: bytes for the service. Receivers that do not know it skip it. Of the 14 bits that a
/// command has, the document defines three values.
const COMMAND_EXTENSION: u16 = 0x3a52;
const COMMAND_END: u16 = 0x4000;
const MUST_PROCESS: u16 = 0x8000;
const CLIENT_SUPPORTS_HEADER_SIGNING: u32 = 1;

/// The negotiated values of a call, to be compared with those in the trailer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Negotiated {
    pub(crate) interface: SyntaxId,
    pub(crate) transfer_syntax: SyntaxId,
    pub(crate) header_signing: bool,
    pub(crate) order: ByteOrder,
    pub(crate) call_id: u32,
    pub(crate) context_id: u16,
    pub(crate) opnum: u16,
}

/// The trailer lies, or cannot be read: the call is refused with access denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch;

/// Looks for a trailer at the end of `stub`, cuts it off and compares it. `Ok` when there is none. The bytes
/// of an extension, if there is one, come back.
pub(crate) fn check(stub: &mut Vec<u8>, negotiated: &Negotiated) -> Result<Option<Vec<u8>>, Mismatch> {
    let search_from =
        stub.len().saturating_sub(crate::limits::VERIFICATION_TRAILER_SEARCH).next_multiple_of(4);
    let found = (search_from..stub.len()).step_by(4).rev().find(|at| stub[*at..].starts_with(&MAGIC));
    let Some(at) = found else { return Ok(None) };
    let result = compare(&stub[at + MAGIC.len()..], negotiated);
    stub.truncate(at);
    result
}

fn compare(commands: &[u8], negotiated: &Negotiated) -> Result<Option<Vec<u8>>, Mismatch> {
    // Always little-endian, whatever the data representation says.
    let mut reader = Reader::new(commands);
    let mut extension = None;
    loop {
        let command = reader.u16("command").map_err(|_| Mismatch)?;
        let length = reader.u16("length").map_err(|_| Mismatch)?;
        let mut data = reader.sub_reader("data", usize::from(length)).map_err(|_| Mismatch)?;
        let agrees = match command & !(COMMAND_END | MUST_PROCESS) {
            COMMAND_BITMASK => {
                let bits = data.u32("bitmask").map_err(|_| Mismatch)?;
                bits & CLIENT_SUPPORTS_HEADER_SIGNING == 0 || negotiated.header_signing
            }
            COMMAND_PCONTEXT => {
                let interface = SyntaxId::decode(&mut data).map_err(|_| Mismatch)?;
                let transfer_syntax = SyntaxId::decode(&mut data).map_err(|_| Mismatch)?;
                (interface, transfer_syntax) == (negotiated.interface, negotiated.transfer_syntax)
            }
            COMMAND_HEADER2 => {
                let packet_type = data.array::<4>("ptype").map_err(|_| Mismatch)?[0];
                let order = data.array::<4>("drep").map_err(|_| Mismatch)?[0];
                let expected = match negotiated.order {
                    ByteOrder::Little => 0x10,
                    ByteOrder::Big => 0,
                };
                let call_id = data.u32("call_id").map_err(|_| Mismatch)?;
                let context_id = data.u16("p_cont_id").map_err(|_| Mismatch)?;
                let opnum = data.u16("opnum").map_err(|_| Mismatch)?;
                (packet_type, order, call_id, context_id, opnum)
                    == (
                        PacketType::REQUEST.0,
                        expected,
                        negotiated.call_id,
                        negotiated.context_id,
                        negotiated.opnum,
                    )
            }
            COMMAND_EXTENSION if command & MUST_PROCESS == 0 => {
                let bytes = data.take("data", usize::from(length)).map_err(|_| Mismatch)?;
                extension.replace(bytes.to_vec()).is_none()
            }
            // An unknown command is skipped, unless it is marked as mandatory.
            _ if command & MUST_PROCESS == 0 => {
                data.take("data", usize::from(length)).map_err(|_| Mismatch)?;
                true
            }
            _ => false,
        };
        if !agrees || data.remaining() != 0 {
            return Err(Mismatch);
        }
        if command & COMMAND_END != 0 {
            return Ok(extension);
        }
    }
}

/// The negotiated values in a trailer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) interface: &'a SyntaxId,
    pub(crate) transfer_syntax: &'a SyntaxId,
    pub(crate) header_signing: bool,
}

/// Appends a trailer: the bitmask and the presentation context, as Windows sends them on a connection's first
/// request, and an extension. There must be something to say.
pub(crate) fn append(stub: &mut Vec<u8>, claim: Option<Claim<'_>>, extension: Option<&[u8]>) {
    stub.resize(stub.len().next_multiple_of(4), 0);
    stub.extend_from_slice(&MAGIC);
    let mut command = |number: u16, data: &[u8], is_last: bool| {
        let number = if is_last { number | COMMAND_END } else { number };
        stub.extend_from_slice(&number.to_le_bytes());
        stub.extend_from_slice(&(data.len() as u16).to_le_bytes());
        stub.extend_from_slice(data);
    };
    if let Some(claim) = claim {
        let mut pcontext = Vec::with_capacity(40);
        claim.interface.encode(&mut pcontext);
        claim.transfer_syntax.encode(&mut pcontext);
        command(COMMAND_BITMASK, &u32::from(claim.header_signing).to_le_bytes(), false);
        command(COMMAND_PCONTEXT, &pcontext, extension.is_none());
    }
    if let Some(extension) = extension {
        command(COMMAND_EXTENSION, extension, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dtyp::Guid;

    const INTERFACE: SyntaxId = SyntaxId::new(Guid::new(1, 2, 3, [4; 8]), 1, 0);
    const NEGOTIATED: Negotiated = Negotiated {
        interface: INTERFACE,
        transfer_syntax: SyntaxId::NDR,
        header_signing: true,
        order: ByteOrder::Little,
        call_id: 7,
        context_id: 1,
        opnum: 39,
    };

    const CLAIM: Claim<'static> =
        Claim { interface: &INTERFACE, transfer_syntax: &SyntaxId::NDR, header_signing: true };

    fn with_trailer(commands: &[(u16, &[u8])]) -> Vec<u8> {
        let mut stub = vec![0xaa; 8];
        stub.extend_from_slice(&MAGIC);
        for (command, data) in commands {
            stub.extend_from_slice(&command.to_le_bytes());
            stub.extend_from_slice(&(data.len() as u16).to_le_bytes());
            stub.extend_from_slice(data);
        }
        stub
    }

    fn header2(call_id: u8) -> [u8; 16] {
        [0, 0, 0, 0, 0x10, 0, 0, 0, call_id, 0, 0, 0, 1, 0, 39, 0]
    }

    #[test]
    fn our_own_trailer_is_cut_off_and_agrees() {
        let mut stub = vec![1, 2, 3];
        append(&mut stub, Some(CLAIM), None);
        assert_eq!(check(&mut stub, &NEGOTIATED), Ok(None));
        assert_eq!(stub, [1, 2, 3, 0]);
        assert_eq!(check(&mut stub, &NEGOTIATED), Ok(None), "no trailer is no mismatch");
    }

    #[test]
    fn an_extension_comes_through_alone_or_behind_the_claim() {
        for claim in [None, Some(CLAIM)] {
            let mut stub = vec![1, 2, 3, 4];
            append(&mut stub, claim, Some(b"for the service"));
            assert_eq!(check(&mut stub, &NEGOTIATED), Ok(Some(b"for the service".to_vec())));
            assert_eq!(stub, [1, 2, 3, 4]);
        }
        let mut twice = with_trailer(&[(COMMAND_EXTENSION, b"a"), (COMMAND_EXTENSION | COMMAND_END, b"b")]);
        assert_eq!(check(&mut twice, &NEGOTIATED), Err(Mismatch), "which of two is meant?");
        let mut insisting = with_trailer(&[(COMMAND_EXTENSION | COMMAND_END | MUST_PROCESS, b"a")]);
        assert_eq!(check(&mut insisting, &NEGOTIATED), Err(Mismatch), "it never has to be processed");
    }

    #[test]
    fn every_lie_is_found() {
        let mut pcontext = Vec::new();
        INTERFACE.encode(&mut pcontext);
        SyntaxId::NDR64.encode(&mut pcontext);
        for (what, commands, expect) in [
            ("header", vec![(0x4003, &header2(7)[..])], Ok(None)),
            ("other call", vec![(0x4003, &header2(8)[..])], Err(Mismatch)),
            ("other syntax", vec![(0x4002, &pcontext[..])], Err(Mismatch)),
            ("bitmask", vec![(0x4001, &[1, 0, 0, 0][..])], Ok(None)),
            ("short bitmask", vec![(0x4001, &[1, 0, 0][..])], Err(Mismatch)),
            ("long bitmask", vec![(0x4001, &[1, 0, 0, 0, 0][..])], Err(Mismatch)),
            ("unknown", vec![(5, &[9, 9][..]), (0x4001, &[0; 4][..])], Ok(None)),
            ("unknown, must process", vec![(0x8005, &[9, 9][..]), (0x4001, &[0; 4][..])], Err(Mismatch)),
            ("no end", vec![(1, &[0; 4][..])], Err(Mismatch)),
            ("nothing", vec![], Err(Mismatch)),
        ] {
            let mut stub = with_trailer(&commands);
            assert_eq!(check(&mut stub, &NEGOTIATED), expect, "{what}");
            assert_eq!(stub.len(), 8, "{what}");
        }
        let mut stub = with_trailer(&[(0x4001, &[1, 0, 0, 0])]);
        let unsigned = Negotiated { header_signing: false, ..NEGOTIATED };
        assert_eq!(check(&mut stub, &unsigned), Err(Mismatch), "the flag was removed on the way");
    }
}
