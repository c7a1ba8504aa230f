use dtyp::{ByteOrder, DecodeError, DecodeErrorKind, Reader};

/// `PTYPE`, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PacketType(pub u8);

impl PacketType {
    /// A call's parameters, client to server.
    pub const REQUEST: Self = Self(0);
    /// A call's results.
    pub const RESPONSE: Self = Self(2);
    /// A call that failed in the RPC layer.
    pub const FAULT: Self = Self(3);
    /// Starts an association.
    pub const BIND: Self = Self(11);
    /// Accepts a bind.
    pub const BIND_ACK: Self = Self(12);
    /// Refuses a bind.
    pub const BIND_NAK: Self = Self(13);
    /// Adds presentation or security contexts.
    pub const ALTER_CONTEXT: Self = Self(14);
    /// Answers alter_context.
    pub const ALTER_CONTEXT_RESP: Self = Self(15);
    /// Last leg of an authentication, never answered.
    pub const AUTH3: Self = Self(16);
    /// The server asks for the connection to be closed.
    pub const SHUTDOWN: Self = Self(17);
    /// The client wants a call to end soon.
    pub const CO_CANCEL: Self = Self(18);
    /// The client no longer waits for a call.
    pub const ORPHANED: Self = Self(19);
}

/// `pfc_flags`; unknown bits are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct PacketFlags(pub u8);

impl PacketFlags {
    /// First fragment of a message.
    pub const FIRST: Self = Self(0x01);
    /// Last fragment of a message.
    pub const LAST: Self = Self(0x02);
    /// A message of one fragment.
    pub const WHOLE: Self = Self(0x03);
    /// On binds and alters: header signing is supported ([MS-RPCE] 2.2.2.3).
    pub const SUPPORT_HEADER_SIGN: Self = Self(0x04);
    /// On all others: a cancel is pending.
    pub const PENDING_CANCEL: Self = Self(0x04);
    /// Several calls may be outstanding.
    pub const CONC_MPX: Self = Self(0x10);
    /// On a fault: the call was not executed.
    pub const DID_NOT_EXECUTE: Self = Self(0x20);
    /// An object UUID follows the header of a request.
    pub const OBJECT_UUID: Self = Self(0x80);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The common header of every PDU, 16 bytes (\[C706\] 12.6.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// `rpc_vers`: 5, or the peer speaks another protocol.
    pub version: u8,
    /// `rpc_vers_minor`: 0 or 1.
    pub version_minor: u8,
    /// `PTYPE`.
    pub packet_type: PacketType,
    /// `pfc_flags`.
    pub flags: PacketFlags,
    /// Byte order of all integers, from `packed_drep`.
    pub order: ByteOrder,
    /// `frag_length`: length of the PDU, this header and a token included.
    pub frag_length: u16,
    /// `auth_length`: length of the token alone.
    pub auth_length: u16,
    /// `call_id`.
    pub call_id: u32,
}

impl Header {
    /// Length on the wire.
    pub const LEN: usize = 1 // rpc_vers
        + 1 // rpc_vers_minor
        + 1 // PTYPE
        + 1 // pfc_flags
        + 4 // packed_drep
        + 2 // frag_length
        + 2 // auth_length
        + 4; // call_id

    /// Whether this is a version of the protocol that we speak.
    pub const fn is_supported(&self) -> bool {
        self.version == 5 && self.version_minor <= 1
    }

    /// `call_id` alone, of a header whose lengths contradict each other; 0 of fewer bytes than a header has.
    pub(crate) fn call_id(bytes: &[u8]) -> u32 {
        match (bytes.get(4), bytes.get(12..16).and_then(|id| id.first_chunk())) {
            (Some(0x10), Some(id)) => u32::from_le_bytes(*id),
            (Some(_), Some(id)) => u32::from_be_bytes(*id),
            _ => 0,
        }
    }

    /// Reads a header from the front of `bytes`; `None` while there are too few of them. A data
    /// representation other than ASCII and IEEE in either byte order, and a `frag_length` that cannot hold
    /// header and token, are refused.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, DecodeError> {
        if bytes.len() < Self::LEN {
            return Ok(None);
        }
        let mut reader = Reader::new(bytes);
        let version = reader.u8("rpc_vers")?;
        let version_minor = reader.u8("rpc_vers_minor")?;
        let packet_type = PacketType(reader.u8("PTYPE")?);
        let flags = PacketFlags(reader.u8("pfc_flags")?);
        let order = match reader.array::<4>("packed_drep")? {
            [0x10, 0, ..] => ByteOrder::Little,
            [0x00, 0, ..] => ByteOrder::Big,
            _ => return Err(reader.error("packed_drep", DecodeErrorKind::BadValue)),
        };
        let mut reader = reader.with_order(order);
        let frag_length = reader.u16("frag_length")?;
        let auth_length = reader.u16("auth_length")?;
        let call_id = reader.u32("call_id")?;
        let auth = match auth_length {
            0 => 0,
            len => 8 + usize::from(len),
        };
        if usize::from(frag_length) < Self::LEN + auth {
            return Err(reader.error("frag_length", DecodeErrorKind::Mismatch));
        }
        Ok(Some(Self {
            version,
            version_minor,
            packet_type,
            flags,
            order,
            frag_length,
            auth_length,
            call_id,
        }))
    }
}

/// Starts a PDU of ours: a header whose lengths are still zero.
pub fn start_pdu(packet_type: PacketType, flags: PacketFlags, call_id: u32) -> Vec<u8> {
    let mut pdu = vec![5, 0, packet_type.0, flags.0, 0x10, 0, 0, 0, 0, 0, 0, 0];
    pdu.extend_from_slice(&call_id.to_le_bytes());
    pdu
}

/// Writes `frag_length`, which counts `more` bytes that are still to come, and `auth_length` into a PDU begun
/// by [`start_pdu`].
pub fn finish_pdu(pdu: &mut [u8], more: usize, auth_length: usize) {
    // Fragments are cut to 5,840 bytes, and binds of ours are shorter still.
    let frag_length = (pdu.len() + more) as u16;
    pdu[8..10].copy_from_slice(&frag_length.to_le_bytes());
    pdu[10..12].copy_from_slice(&(auth_length as u16).to_le_bytes());
}
