//! What travels beside a question between nodes of ours, under the seal, in a part of the call that others
//! pass over: whose trace it belongs to, how much time is left, which domains have sent it on, and whether a
//! proof of its path is wanted.
//!
//! ```text
//! 52 43 4d 01                        "RCM", version 1
//! { u8 kind, u16 length, bytes }     little-endian, to the end; kinds that are not known are passed over
//!   1  trace context: trace-id (16), parent-id (8), trace-flags (1)      W3C Trace Context, section 3.2
//!   2  tracestate: ASCII, at most 256 bytes                              section 3.3
//!   3  time left: u32 milliseconds
//!   4  a domain that sent the question on: its SID, packed; the first one first
//!   5  a proof of path is wanted: nonce (16)
//! ```

use dtyp::{Decode, DecodeError, DecodeErrorKind, Encode, Reader, Sid};
use std::time::Duration;

const MAGIC: [u8; 4] = *b"RCM\x01";
const TRACE_PARENT: u8 = 1;
const TRACE_STATE: u8 = 2;
const TIME_LEFT: u8 = 3;
const HOP: u8 = 4;
const PROOF: u8 = 5;

/// The longest context: eight domains, a trace state and the rest take less.
pub const CONTEXT_LEN_MAX: usize = 768;
/// Most domains on the way of a question, whatever is configured.
pub const HOPS_MAX: usize = 8;
/// The longest `tracestate` that is sent on; a longer one is left out, as its document allows.
pub const TRACE_STATE_LEN_MAX: usize = 256;

/// The trace that a call belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// trace-id.
    pub trace_id: [u8; 16],
    /// parent-id: the span that made the call.
    pub span_id: [u8; 8],
    /// trace-flags.
    pub flags: u8,
}

/// The context of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallContext {
    /// The trace it belongs to.
    pub trace_parent: Option<TraceParent>,
    /// `tracestate`, as it came.
    pub trace_state: String,
    /// How long the caller will wait.
    pub time_left: Option<Duration>,
    /// The domains that sent the question on, the first one first.
    pub hops: Vec<Sid>,
    /// The nonce of the asker that wants a proof of path.
    pub proof_nonce: Option<[u8; 16]>,
}

impl Encode for CallContext {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        let mut field = |kind: u8, data: &[u8]| {
            out.push(kind);
            out.extend_from_slice(&(data.len() as u16).to_le_bytes());
            out.extend_from_slice(data);
        };
        if let Some(TraceParent { trace_id, span_id, flags }) = &self.trace_parent {
            field(TRACE_PARENT, &[&trace_id[..], span_id, &[*flags]].concat());
        }
        if !self.trace_state.is_empty() && self.trace_state.len() <= TRACE_STATE_LEN_MAX {
            field(TRACE_STATE, self.trace_state.as_bytes());
        }
        if let Some(left) = self.time_left {
            field(TIME_LEFT, &u32::try_from(left.as_millis()).unwrap_or(u32::MAX).to_le_bytes());
        }
        for hop in &self.hops {
            field(HOP, &hop.to_bytes());
        }
        if let Some(nonce) = &self.proof_nonce {
            field(PROOF, nonce);
        }
    }
}

impl Decode<'_> for CallContext {
    /// Reads a context that fills the rest of `reader`. What may be there once may not be there twice.
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if reader.remaining() > CONTEXT_LEN_MAX {
            return Err(reader.error("CallContext", DecodeErrorKind::TooLong));
        }
        if reader.array("CallContext")? != MAGIC {
            return Err(reader.error("CallContext", DecodeErrorKind::BadValue));
        }
        let mut context = Self::default();
        let mut seen = [false; 6];
        while reader.remaining() > 0 {
            let kind = reader.u8("kind")?;
            let length = reader.u16("length")?;
            let mut data = reader.sub_reader("field", usize::from(length))?;
            if let Some(seen) = seen.get_mut(usize::from(kind)).filter(|_| kind != HOP)
                && std::mem::replace(seen, true)
            {
                return Err(reader.error("kind", DecodeErrorKind::BadValue));
            }
            match kind {
                TRACE_PARENT => {
                    let (trace_id, span_id) = (data.array("trace-id")?, data.array("parent-id")?);
                    // All zeroes mean nothing (section 3.2.2.3).
                    if trace_id == [0; 16] || span_id == [0; 8] {
                        return Err(data.error("trace context", DecodeErrorKind::BadValue));
                    }
                    let flags = data.u8("trace-flags")?;
                    context.trace_parent = Some(TraceParent { trace_id, span_id, flags });
                }
                TRACE_STATE => {
                    let text = data.take("tracestate", data.remaining())?;
                    let is_text = text.iter().all(|byte| matches!(byte, 0x20..=0x7e));
                    match std::str::from_utf8(text) {
                        Ok(text) if is_text && text.len() <= TRACE_STATE_LEN_MAX => {
                            context.trace_state = text.to_owned();
                        }
                        _ => return Err(data.error("tracestate", DecodeErrorKind::BadValue)),
                    }
                }
                TIME_LEFT => {
                    context.time_left = Some(Duration::from_millis(u64::from(data.u32("time left")?)));
                }
                HOP if context.hops.len() >= HOPS_MAX => {
                    return Err(data.error("hop", DecodeErrorKind::TooLong));
                }
                HOP => match Sid::decode(&mut data)? {
                    sid if sid.is_domain() => context.hops.push(sid),
                    _ => return Err(data.error("hop", DecodeErrorKind::BadValue)),
                },
                PROOF => context.proof_nonce = Some(data.array("nonce")?),
                _ => {
                    data.take("field", data.remaining())?;
                }
            }
            data.finish("field")?;
        }
        Ok(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> CallContext {
        CallContext {
            trace_parent: Some(TraceParent { trace_id: [1; 16], span_id: [2; 8], flags: 1 }),
            trace_state: "vendor=1,other=2".into(),
            time_left: Some(Duration::from_millis(4_321)),
            hops: vec!["S-1-5-21-1-2-3".parse().expect("a SID"), "S-1-5-21-4-5-6".parse().expect("a SID")],
            proof_nonce: Some([9; 16]),
        }
    }

    #[test]
    fn a_context_comes_back_and_no_truncation_says_the_same() {
        let context = full();
        let bytes = context.to_bytes();
        assert_eq!(CallContext::from_bytes("CallContext", &bytes), Ok(context.clone()));
        for len in 0..bytes.len() {
            assert_ne!(CallContext::from_bytes("CallContext", &bytes[..len]), Ok(context.clone()), "{len}");
        }
        let empty = CallContext::default();
        assert_eq!(empty.to_bytes(), MAGIC);
        assert_eq!(CallContext::from_bytes("CallContext", &MAGIC), Ok(empty));
    }

    #[test]
    fn the_longest_context_fits() {
        let domain: Sid = "S-1-5-21-1-2-3".parse().expect("a SID");
        let context = CallContext {
            trace_state: "x".repeat(TRACE_STATE_LEN_MAX),
            hops: vec![domain; HOPS_MAX],
            ..full()
        };
        assert_eq!(CallContext::from_bytes("CallContext", &context.to_bytes()), Ok(context));
    }

    #[test]
    fn every_lie_is_refused() {
        let field =
            |kind: u8, data: &[u8]| [&MAGIC[..], &[kind], &(data.len() as u16).to_le_bytes(), data].concat();
        let sid = "S-1-5-21-1-2-3".parse::<Sid>().expect("a SID").to_bytes();
        let many = (0..=HOPS_MAX).flat_map(|_| field(HOP, &sid).split_off(4));
        for (what, bytes) in [
            ("nothing", vec![]),
            ("another version", b"RCM\x02".to_vec()),
            ("a trace of zeroes", field(TRACE_PARENT, &[0; 25])),
            ("a short trace", field(TRACE_PARENT, &[1; 24])),
            ("a long trace", field(TRACE_PARENT, &[1; 26])),
            ("a state that is no text", field(TRACE_STATE, b"a\nb")),
            ("a long state", field(TRACE_STATE, &[b'x'; 257])),
            ("a short time", field(TIME_LEFT, &[1; 3])),
            ("a SID of no domain", field(HOP, &Sid::new(5, &[32, 544]).expect("a SID").to_bytes())),
            ("a broken SID", field(HOP, &sid[..23])),
            ("more than a SID", field(HOP, &[&sid[..], &[0]].concat())),
            ("a short nonce", field(PROOF, &[1; 15])),
            ("a field beyond the end", [&MAGIC[..], &[5, 16, 0, 1]].concat()),
            ("the same twice", [field(TIME_LEFT, &[1; 4]), field(TIME_LEFT, &[1; 4]).split_off(4)].concat()),
            ("too many hops", MAGIC.into_iter().chain(many).collect()),
            ("too long", field(200, &[0; CONTEXT_LEN_MAX])),
        ] {
            assert!(CallContext::from_bytes("CallContext", &bytes).is_err(), "{what}");
        }
        let unknown = field(200, b"of a later version");
        assert_eq!(CallContext::from_bytes("CallContext", &unknown), Ok(CallContext::default()));
    }
}
