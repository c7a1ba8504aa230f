//! Cutting a message into fragments, for both sides ([MS-RPCE] 2.2.2.11, \[C706\] 12.6.2).

use crate::pdu::{PacketFlags, SecTrailer, finish_pdu};
use crate::security::{AuthLevel, AuthType, Outgoing, OutgoingFragment};
use std::ops::Range;

/// Stub, padding and trailer are aligned to this, from the start of the stub, as Windows does it.
const AUTH_ALIGNMENT: usize = 16;

/// What a fragment of a protected message carries at its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verifier {
    pub(crate) auth_type: AuthType,
    pub(crate) auth_level: AuthLevel,
    pub(crate) auth_context_id: u32,
    pub(crate) token_len: usize,
}

/// Plans the fragments of `stub`. `head` makes the header of one of them from its FIRST and LAST flags and
/// the length of the stub from there on; `head_len` is that header's length.
pub(crate) fn plan(
    stub: Vec<u8>,
    inner: Option<Range<usize>>,
    fragment_len: usize,
    head_len: usize,
    verifier: Option<Verifier>,
    head: impl Fn(PacketFlags, u32) -> Vec<u8>,
) -> Outgoing {
    let room = fragment_len - head_len;
    let (chunk_max, token_len) = match verifier {
        Some(v) => ((room - SecTrailer::LEN - v.token_len) / AUTH_ALIGNMENT * AUTH_ALIGNMENT, v.token_len),
        None => (room / 8 * 8, 0),
    };
    let mut fragments = Vec::with_capacity(stub.len() / chunk_max + 1);
    let mut start = 0;
    loop {
        let end = stub.len().min(start + chunk_max);
        let mut flags = PacketFlags::default();
        if start == 0 {
            flags = flags.with(PacketFlags::FIRST);
        }
        if end == stub.len() {
            flags = flags.with(PacketFlags::LAST);
        }
        let mut header = head(flags, (stub.len() - start) as u32);
        let body = start..end;
        let pad = match verifier {
            Some(_) => body.len().next_multiple_of(AUTH_ALIGNMENT) - body.len(),
            None => 0,
        };
        let trailer_len = if verifier.is_some() { SecTrailer::LEN } else { 0 };
        finish_pdu(&mut header, body.len() + pad + trailer_len + token_len, token_len);
        fragments.push(OutgoingFragment {
            header,
            body,
            pad: pad as u8,
            trailer: SecTrailer {
                auth_type: verifier.map_or(AuthType::NONE, |v| v.auth_type),
                auth_level: verifier.map_or(AuthLevel::NONE, |v| v.auth_level),
                auth_pad_length: pad as u8,
                auth_context_id: verifier.map_or(0, |v| v.auth_context_id),
            },
        });
        if end == stub.len() {
            return Outgoing { stub, inner, fragments };
        }
        start = end;
    }
}

/// The bytes of a message that nothing protects.
pub(crate) fn unprotected(message: Outgoing) -> Vec<u8> {
    let len = message.fragments.iter().map(|fragment| fragment.header.len() + fragment.body.len()).sum();
    let mut bytes = Vec::with_capacity(len);
    for fragment in message.fragments {
        bytes.extend_from_slice(&fragment.header);
        bytes.extend_from_slice(&message.stub[fragment.body]);
    }
    bytes
}
