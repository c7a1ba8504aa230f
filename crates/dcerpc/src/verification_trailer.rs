//! The verification trailer ([MS-RPCE] 2.2.2.13): what the client believes was negotiated, under the seal.

use crate::pdu::{PacketType, SyntaxId};
use dtyp::{ByteOrder, Decode, Encode, Reader};

const MAGIC: [u8; 8] = [0x8a, 0xe3, 0x13, 0x71, 0x02, 0xf4, 0x36, 0x71];
const COMMAND_BITMASK: u16 = 1;
const COMMAND_PCONTEXT: u16 = 2;
const COMMAND_HEADER2: u16 = 3;
const COMMAND_END: u16 = 0x4000;
const MUST_PROCESS: u16 = 0x8000;
const CLIENT_SUPPORTS_HEADER_SIGNING: u32 = 1;

/// What the server knows of a call, to be compared with what the client says.
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

/// Looks for a trailer at the end of `stub`, cuts it off and compares it. `Ok` when there is none.
pub(crate) fn check(stub: &mut Vec<u8>, negotiated: &Negotiated) -> Result<(), Mismatch> {
    let search_from =
        stub.len().saturating_sub(crate::limits::VERIFICATION_TRAILER_SEARCH).next_multiple_of(4);
    let found = (search_from..stub.len()).step_by(4).rev().find(|at| stub[*at..].starts_with(&MAGIC));
    let Some(at) = found else { return Ok(()) };
    let result = compare(&stub[at + MAGIC.len()..], negotiated);
    stub.truncate(at);
    result
}

fn compare(commands: &[u8], negotiated: &Negotiated) -> Result<(), Mismatch> {
    // Always little-endian, whatever the data representation says.
    let mut reader = Reader::new(commands);
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
            // What we do not know is passed over, unless the client insists.
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
            return Ok(());
        }
    }
}

/// Appends a trailer with the bitmask and the presentation context, as Windows sends it on a connection's first
/// request.
pub(crate) fn append(
    stub: &mut Vec<u8>,
    interface: &SyntaxId,
    transfer_syntax: &SyntaxId,
    header_signing: bool,
) {
    stub.resize(stub.len().next_multiple_of(4), 0);
    stub.extend_from_slice(&MAGIC);
    stub.extend_from_slice(&COMMAND_BITMASK.to_le_bytes());
    stub.extend_from_slice(&4u16.to_le_bytes());
    stub.extend_from_slice(&u32::from(header_signing).to_le_bytes());
    stub.extend_from_slice(&(COMMAND_PCONTEXT | COMMAND_END).to_le_bytes());
    stub.extend_from_slice(&40u16.to_le_bytes());
    interface.encode(stub);
    transfer_syntax.encode(stub);
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
        append(&mut stub, &INTERFACE, &SyntaxId::NDR, true);
        assert_eq!(check(&mut stub, &NEGOTIATED), Ok(()));
        assert_eq!(stub, [1, 2, 3, 0]);
        assert_eq!(check(&mut stub, &NEGOTIATED), Ok(()), "no trailer is no mismatch");
    }

    #[test]
    fn every_lie_is_found() {
        let mut pcontext = Vec::new();
        INTERFACE.encode(&mut pcontext);
        SyntaxId::NDR64.encode(&mut pcontext);
        for (what, commands, expect) in [
            ("header", vec![(0x4003, &header2(7)[..])], Ok(())),
            ("other call", vec![(0x4003, &header2(8)[..])], Err(Mismatch)),
            ("other syntax", vec![(0x4002, &pcontext[..])], Err(Mismatch)),
            ("bitmask", vec![(0x4001, &[1, 0, 0, 0][..])], Ok(())),
            ("short bitmask", vec![(0x4001, &[1, 0, 0][..])], Err(Mismatch)),
            ("long bitmask", vec![(0x4001, &[1, 0, 0, 0, 0][..])], Err(Mismatch)),
            ("unknown", vec![(5, &[9, 9][..]), (0x4001, &[0; 4][..])], Ok(())),
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
