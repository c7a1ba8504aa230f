use super::{Header, PacketFlags, PacketType, finish_pdu, start_pdu};
use dtyp::{Decode, DecodeError, Encode, Guid, Reader};
use std::fmt;

/// The fields of a request before its stub (\[C706\] 12.6.4.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// `alloc_hint`: the length of the whole stub, if the peer sets it; never trusted.
    pub alloc_hint: u32,
    /// `p_cont_id`: the presentation context.
    pub context_id: u16,
    /// The method.
    pub opnum: u16,
    /// The object, when the flag says that there is one.
    pub object: Option<Guid>,
}

impl RequestHead {
    /// Length from the start of the PDU, without an object.
    pub const LEN: usize = Header::LEN
        + 4 // alloc_hint
        + 2 // p_cont_id
        + 2; // opnum

    /// Reads the fields behind the common header.
    pub fn decode(reader: &mut Reader<'_>, flags: PacketFlags) -> Result<Self, DecodeError> {
        Ok(Self {
            alloc_hint: reader.u32("alloc_hint")?,
            context_id: reader.u16("p_cont_id")?,
            opnum: reader.u16("opnum")?,
            object: match flags.contains(PacketFlags::OBJECT_UUID) {
                true => Some(Guid::decode(reader)?),
                false => None,
            },
        })
    }
}

impl Encode for RequestHead {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.alloc_hint.to_le_bytes());
        out.extend_from_slice(&self.context_id.to_le_bytes());
        out.extend_from_slice(&self.opnum.to_le_bytes());
        if let Some(object) = &self.object {
            object.encode(out);
        }
    }
}

/// The fields of a response before its stub (\[C706\] 12.6.4.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// `alloc_hint`: bytes of stub from here to the end of the message.
    pub alloc_hint: u32,
    /// `p_cont_id`, as in the request.
    pub context_id: u16,
    /// `cancel_count`.
    pub cancel_count: u8,
}

impl ResponseHead {
    /// Length from the start of the PDU.
    pub const LEN: usize = Header::LEN
        + 4 // alloc_hint
        + 2 // p_cont_id
        + 1 // cancel_count
        + 1; // reserved
}

impl Encode for ResponseHead {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.alloc_hint.to_le_bytes());
        out.extend_from_slice(&self.context_id.to_le_bytes());
        out.extend_from_slice(&[self.cancel_count, 0]);
    }
}

impl Decode<'_> for ResponseHead {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let head = Self {
            alloc_hint: reader.u32("alloc_hint")?,
            context_id: reader.u16("p_cont_id")?,
            cancel_count: reader.u8("cancel_count")?,
        };
        reader.u8("reserved")?;
        Ok(head)
    }
}

/// Body of a fault (\[C706\] 12.6.4.7): a response's head, the status and four zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultBody {
    /// `p_cont_id`, as in the request.
    pub context_id: u16,
    /// `status`.
    pub status: FaultStatus,
}

impl FaultBody {
    /// The whole PDU of 32 bytes. It never carries a token, not even under a security context.
    /// `did_not_execute` says that no method was reached.
    pub fn to_pdu(self, call_id: u32, did_not_execute: bool) -> Vec<u8> {
        let flags = match did_not_execute {
            true => PacketFlags::WHOLE.with(PacketFlags::DID_NOT_EXECUTE),
            false => PacketFlags::WHOLE,
        };
        let mut pdu = start_pdu(PacketType::FAULT, flags, call_id);
        ResponseHead { alloc_hint: 24, context_id: self.context_id, cancel_count: 0 }.encode(&mut pdu);
        pdu.extend_from_slice(&self.status.0.to_le_bytes());
        pdu.extend_from_slice(&[0; 4]);
        finish_pdu(&mut pdu, 0, 0);
        pdu
    }
}

impl Decode<'_> for FaultBody {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let head = ResponseHead::decode(reader)?;
        Ok(Self { context_id: head.context_id, status: FaultStatus(reader.u32("status")?) })
    }
}

/// `status` of a fault: a code of \[C706\] appendix E or a Win32 error ([MS-RPCE] 2.2.2.1, 3.3.3.5.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FaultStatus(pub u32);

macro_rules! fault_statuses {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        impl FaultStatus {
            $(#[doc = concat!($text, ".")] pub const $name: Self = Self($value);)*

            /// What the status means, for the values of this project's documents.
            pub const fn text(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

fault_statuses! {
    ACCESS_DENIED = 0x0000_0005, "access denied";
    SERVER_UNAVAILABLE = 0x0000_06ba, "the server is not available";
    NO_CALL_ACTIVE = 0x0000_06bd, "no call is active";
    CANNOT_PERFORM = 0x0000_06d8, "the operation cannot be performed";
    OUT_OF_RESOURCES = 0x0000_06d9, "the server is out of resources";
    BAD_STUB_DATA = 0x0000_06f7, "the stub cannot be decoded";
    SEC_PKG_ERROR = 0x0000_0721, "the security context is broken or refused";
    COMM_FAILURE = 0x1c01_0001, "communication failure";
    OP_RANGE_ERROR = 0x1c01_0002, "no such method";
    UNKNOWN_IF = 0x1c01_0003, "no such interface";
    PROTO_ERROR = 0x1c01_000b, "protocol error";
    OUT_ARGS_TOO_BIG = 0x1c01_0013, "the result is too large";
    SERVER_TOO_BUSY = 0x1c01_0014, "the server is too busy";
    UNSUPPORTED_TYPE = 0x1c01_0017, "the object type is not supported";
    INVALID_TAG = 0x1c00_0006, "a union's tag is not known";
    INVALID_BOUND = 0x1c00_0007, "an array's bound is not allowed";
    CANCEL = 0x1c00_000d, "the call was cancelled";
    UNSPECIFIED = 0x1c00_0012, "the call failed";
    CONTEXT_MISMATCH = 0x1c00_001a, "the context handle is not known";
    REMOTE_NO_MEMORY = 0x1c00_001b, "the server has no memory for this";
    INVALID_PRES_CONTEXT_ID = 0x1c00_001c, "no such presentation context";
    UNSUPPORTED_AUTHN_LEVEL = 0x1c00_001d, "the authentication level is not supported";
    INVALID_CHECKSUM = 0x1c00_001f, "the signature is wrong";
}

impl FaultStatus {
    /// Whether the flag DID_NOT_EXECUTE always goes with it: the call reached no method.
    pub(crate) const fn did_not_execute(self) -> bool {
        matches!(self, Self::UNKNOWN_IF | Self::OP_RANGE_ERROR | Self::NO_CALL_ACTIVE)
    }
}

/// An undecodable stub is what [MS-RPCE] 3.3.3.5.1 calls bad stub data.
impl From<DecodeError> for FaultStatus {
    fn from(_: DecodeError) -> Self {
        Self::BAD_STUB_DATA
    }
}

impl fmt::Display for FaultStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Some(text) => write!(f, "{text} (fault 0x{:08x})", self.0),
            None => write!(f, "fault 0x{:08x}", self.0),
        }
    }
}

impl fmt::Debug for FaultStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
