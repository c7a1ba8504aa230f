//! RFC 4178 4.2 and [MS-SPNG] 2.2.1: NegTokenInit, NegTokenInit2 and NegTokenResp.
//!
//! What we write is DER. What we read has definite lengths, which need not be minimal, and may have fields at
//! the end that we do not know.

use crate::der::{ENUMERATED, FRAME, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, WriteDer, context};
use dtyp::{ByteOrder, DecodeError, DecodeErrorKind, Reader};

/// Mechanisms that one list may offer; clients offer five.
const MECHANISMS_MAX: usize = 16;

/// The number of a NegTokenResp among the messages that follow a first token.
const RESPONSE: u8 = 1;

/// An object identifier: the content of its DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Oid(pub(super) Vec<u8>);

/// 1.3.6.1.5.5.2, SPNEGO itself.
const SPNEGO: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x02];

type Result<T> = std::result::Result<T, DecodeError>;

/// The next element: its tag, its content, and all of its octets.
fn element<'a>(reader: &mut Reader<'a>, what: &'static str) -> Result<(u8, Reader<'a>, &'a [u8])> {
    let whole = reader.rest();
    let before = reader.remaining();
    let tag = reader.u8(what)?;
    let len = match reader.u8(what)? {
        short @ 0..=0x7f => usize::from(short),
        long @ 0x81..=0x84 => {
            let digits = reader.take(what, usize::from(long - 0x80))?;
            digits.iter().fold(0, |len, digit| len << 8 | usize::from(*digit))
        }
        // Of indefinite length, or longer than any message.
        _ => return Err(reader.error(what, DecodeErrorKind::BadValue)),
    };
    let content = reader.sub_reader(what, len)?;
    Ok((tag, content, &whole[..before - reader.remaining()]))
}

/// The content of the next element, which must have this tag.
fn enter<'a>(reader: &mut Reader<'a>, tag: u8, what: &'static str) -> Result<Reader<'a>> {
    match element(reader, what)? {
        (found, content, _) if found == tag => Ok(content),
        _ => Err(reader.error(what, DecodeErrorKind::BadValue)),
    }
}

/// The content of the one element inside, which must have this tag.
fn only<'a>(mut inside: Reader<'a>, tag: u8, what: &'static str) -> Result<&'a [u8]> {
    let content = enter(&mut inside, tag, what)?;
    inside.finish(what)?;
    Ok(content.rest())
}

/// Calls `read` with each field of a sequence and its number; the numbers ascend. Fields above `[4]` are not
/// known and skipped.
fn fields<'a>(mut sequence: Reader<'a>, mut read: impl FnMut(u8, Reader<'a>) -> Result<()>) -> Result<()> {
    let mut next = context(0);
    while sequence.remaining() > 0 {
        let (tag, content, _) = element(&mut sequence, "NegotiationToken field")?;
        if tag < next {
            return Err(sequence.error("NegotiationToken field", DecodeErrorKind::BadValue));
        }
        next = tag.saturating_add(1);
        if (context(0)..=context(4)).contains(&tag) {
            read(tag - context(0), content)?;
        }
    }
    Ok(())
}

/// The initiator's first message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NegTokenInit {
    /// MechTypeList, all of its octets as they were received: the MICs cover it.
    pub(super) list: Vec<u8>,
    /// The mechanisms, in the initiator's order.
    pub(super) mechanisms: Vec<Oid>,
    /// A token of the first one.
    pub(super) token: Vec<u8>,
    /// mechListMIC.
    pub(super) mic: Option<Vec<u8>>,
}

impl NegTokenInit {
    pub(super) fn read(token: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(token).with_order(ByteOrder::Big);
        let mut frame = enter(&mut reader, FRAME, "InitialContextToken")?;
        reader.finish("InitialContextToken")?;
        if enter(&mut frame, OBJECT_IDENTIFIER, "thisMech")?.rest() != SPNEGO {
            return Err(frame.error("thisMech", DecodeErrorKind::BadValue));
        }
        let mut choice = enter(&mut frame, context(0), "NegTokenInit")?;
        frame.finish("NegTokenInit")?;
        let sequence = enter(&mut choice, SEQUENCE, "NegTokenInit")?;
        choice.finish("NegTokenInit")?;
        let mut init = Self::default();
        fields(sequence, |number, mut inside| match number {
            0 => {
                let (tag, mut list, whole) = element(&mut inside, "mechTypes")?;
                if tag != SEQUENCE {
                    return Err(inside.error("mechTypes", DecodeErrorKind::BadValue));
                }
                inside.finish("mechTypes")?;
                init.list = whole.to_vec();
                while list.remaining() > 0 {
                    if init.mechanisms.len() == MECHANISMS_MAX {
                        return Err(list.error("mechTypes", DecodeErrorKind::TooMany(MECHANISMS_MAX)));
                    }
                    let oid = enter(&mut list, OBJECT_IDENTIFIER, "MechType")?;
                    init.mechanisms.push(Oid(oid.rest().to_vec()));
                }
                Ok(())
            }
            // reqFlags.
            1 => Ok(()),
            2 => {
                init.token = only(inside, OCTET_STRING, "mechToken")?.to_vec();
                Ok(())
            }
            // In NegTokenInit2 [3] is negHints and [4] the MIC. The tag inside tells which it is.
            3 if inside.rest().first() == Some(&SEQUENCE) => Ok(()),
            _ => {
                init.mic = Some(only(inside, OCTET_STRING, "mechListMIC")?.to_vec());
                Ok(())
            }
        })?;
        match init.mechanisms.is_empty() {
            true => Err(reader_error("mechTypes", DecodeErrorKind::Truncated)),
            false => Ok(init),
        }
    }

    /// The message of an initiator: MechTypeList and the first one's token.
    pub(super) fn to_bytes(list: &[u8], token: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.element(FRAME, |out| {
            out.object_identifier(SPNEGO);
            out.field(0, |out| {
                out.element(SEQUENCE, |out| {
                    out.field(0, |out| out.extend_from_slice(list));
                    out.field(2, |out| out.octets(token));
                });
            });
        });
        out
    }
}

const fn reader_error(what: &'static str, kind: DecodeErrorKind) -> DecodeError {
    DecodeError { what, offset: 0, kind }
}

/// MechTypeList.
pub(super) fn mech_list(mechanisms: &[Oid]) -> Vec<u8> {
    let mut out = Vec::new();
    out.element(SEQUENCE, |out| mechanisms.iter().for_each(|oid| out.object_identifier(&oid.0)));
    out
}

/// negState.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NegState {
    Completed = 0,
    Incomplete = 1,
    Reject = 2,
    RequestMic = 3,
}

/// Every later message, of either side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NegTokenResp {
    pub(super) state: Option<NegState>,
    pub(super) mechanism: Option<Oid>,
    pub(super) token: Option<Vec<u8>>,
    /// mechListMIC. Windows 2000 repeats the token here, which is no MIC.
    pub(super) mic: Option<Vec<u8>>,
}

impl NegTokenResp {
    pub(super) fn read(token: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(token).with_order(ByteOrder::Big);
        let mut choice = enter(&mut reader, context(RESPONSE), "NegTokenResp")?;
        reader.finish("NegTokenResp")?;
        let sequence = enter(&mut choice, SEQUENCE, "NegTokenResp")?;
        choice.finish("NegTokenResp")?;
        let mut response = Self::default();
        fields(sequence, |number, inside| {
            match number {
                0 => {
                    response.state = Some(match only(inside, ENUMERATED, "negState")? {
                        [0] => NegState::Completed,
                        [1] => NegState::Incomplete,
                        [2] => NegState::Reject,
                        [3] => NegState::RequestMic,
                        _ => return Err(reader_error("negState", DecodeErrorKind::BadValue)),
                    });
                }
                1 => {
                    let oid = only(inside, OBJECT_IDENTIFIER, "supportedMech")?;
                    response.mechanism = Some(Oid(oid.to_vec()));
                }
                2 => response.token = Some(only(inside, OCTET_STRING, "responseToken")?.to_vec()),
                3 => response.mic = Some(only(inside, OCTET_STRING, "mechListMIC")?.to_vec()),
                _ => {}
            }
            Ok(())
        })?;
        if response.mic.is_some() && response.mic == response.token {
            response.mic = None;
        }
        Ok(response)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.field(RESPONSE, |out| {
            out.element(SEQUENCE, |out| {
                if let Some(state) = self.state {
                    out.field(0, |out| out.element(ENUMERATED, |out| out.push(state as u8)));
                }
                if let Some(Oid(oid)) = &self.mechanism {
                    out.field(1, |out| out.object_identifier(oid));
                }
                if let Some(token) = &self.token {
                    out.field(2, |out| out.octets(token));
                }
                if let Some(mic) = &self.mic {
                    out.field(3, |out| out.octets(mic));
                }
            });
        });
        out
    }
}
