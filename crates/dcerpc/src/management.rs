//! The management interface (\[C706\] appendix Q, [MS-RPCE] 2.2.1.3.4), which every endpoint has.

use crate::ndr::{NdrReader, NdrSyntax, NdrWriter};
use crate::pdu::{FaultStatus, SyntaxId};
use dtyp::{ByteOrder, Guid};
use std::sync::atomic::{AtomicU64, Ordering};

/// The interface.
pub const MANAGEMENT: SyntaxId = SyntaxId::new(
    Guid::new(0xafa8_bd80, 0x7d8a, 0x11c9, [0xbe, 0xf4, 0x08, 0x00, 0x2b, 0x10, 0x29, 0x89]),
    1,
    0,
);

/// `statistics`: calls in, calls out, packets in, packets out. Only the first is counted.
const STATISTICS: usize = 4;
/// Longest vector that is asked for (`range(0,50)`).
const STATISTICS_MAX: u32 = 50;
/// Longest principal name that is asked for (`range(0,4096)`).
const NAME_LEN_MAX: u32 = 4096;
/// error_status_t: access denied.
const ACCESS_DENIED: u32 = 5;
/// error_status_t: the binding has no authentication (rpc_s_binding_has_no_auth).
const BINDING_HAS_NO_AUTH: u32 = 0x6d2;

/// The service. Its only state is a counter.
#[derive(Debug, Default)]
pub struct Management {
    /// The interfaces of the endpoint.
    pub interfaces: Vec<SyntaxId>,
    calls: AtomicU64,
}

impl Management {
    /// The service of an endpoint that serves `interfaces`.
    pub const fn new(interfaces: Vec<SyntaxId>) -> Self {
        Self { interfaces, calls: AtomicU64::new(0) }
    }

    /// Performs a call.
    pub fn call(
        &self,
        opnum: u16,
        stub: &[u8],
        syntax: NdrSyntax,
        order: ByteOrder,
    ) -> Result<Vec<u8>, FaultStatus> {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let mut reader = NdrReader::new(stub, syntax, order);
        let mut writer = NdrWriter::new(syntax);
        match opnum {
            0 => self.inq_if_ids(&mut writer),
            1 => {
                // inq_stats: as many as were asked for, and there are.
                let asked = reader.u32("count")?;
                if asked > STATISTICS_MAX {
                    return Err(FaultStatus::BAD_STUB_DATA);
                }
                let count = STATISTICS.min(asked as usize);
                writer.u32(count as u32);
                writer.count(count);
                (0..count).for_each(|at| writer.u32(if at == 0 { calls as u32 } else { 0 }));
                writer.u32(0);
            }
            2 => {
                // is_server_listening: we answer, therefore we listen.
                writer.u32(0);
                writer.u32(1);
            }
            // stop_server_listening: a remote client cannot stop the server.
            3 => writer.u32(ACCESS_DENIED),
            4 => {
                let (_auth_type, len) = (reader.u32("authn_proto")?, reader.u32("princ_name_size")?);
                if len > NAME_LEN_MAX {
                    return Err(FaultStatus::BAD_STUB_DATA);
                }
                writer.count(len as usize);
                writer.count(0);
                writer.count(1.min(len as usize));
                if len > 0 {
                    writer.u8(0);
                }
                writer.u32(BINDING_HAS_NO_AUTH);
            }
            _ => return Err(FaultStatus::OP_RANGE_ERROR),
        }
        Ok(writer.into_bytes())
    }

    /// rpc_if_id_vector_p_t: a pointer to a count and an array of pointers to identifiers.
    fn inq_if_ids(&self, writer: &mut NdrWriter) {
        writer.pointer(true);
        writer.count(self.interfaces.len());
        writer.u32(self.interfaces.len() as u32);
        for _ in &self.interfaces {
            writer.pointer(true);
        }
        for interface in &self.interfaces {
            writer.guid(&interface.uuid);
            writer.u16(interface.major);
            writer.u16(interface.minor);
        }
        writer.u32(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(opnum: u16, stub: &[u8]) -> Result<Vec<u8>, FaultStatus> {
        Management::new(vec![MANAGEMENT]).call(opnum, stub, NdrSyntax::Ndr, ByteOrder::Little)
    }

    #[test]
    fn it_lists_the_interfaces() {
        let stub = call(0, &[]).expect("it takes nothing");
        // Pointer, conformance, count, one pointer, the identifier, status.
        assert_eq!(
            dtyp::hex(&stub),
            "0000020001000000010000000400020080bda8af8a7dc911bef408002b1029890100000000000000"
        );
    }

    #[test]
    fn it_listens_and_does_not_stop() {
        assert_eq!(call(2, &[]), Ok(vec![0, 0, 0, 0, 1, 0, 0, 0]));
        assert_eq!(call(3, &[]), Ok(vec![5, 0, 0, 0]));
        assert_eq!(call(5, &[]), Err(FaultStatus::OP_RANGE_ERROR));
    }

    #[test]
    fn it_counts_as_many_as_were_asked_for() {
        for (asked, len) in [(0u32, 12), (1, 16), (4, 28), (50, 28)] {
            assert_eq!(call(1, &asked.to_le_bytes()).map(|stub| stub.len()), Ok(len), "{asked}");
        }
        assert_eq!(call(1, &51u32.to_le_bytes()), Err(FaultStatus::BAD_STUB_DATA));
        assert_eq!(call(4, &[0; 7]), Err(FaultStatus::BAD_STUB_DATA));
    }
}
