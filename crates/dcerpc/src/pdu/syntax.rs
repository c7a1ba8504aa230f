use crate::ndr::NdrSyntax;
use dtyp::{Decode, DecodeError, Encode, Guid, Reader};
use std::fmt;

/// `p_syntax_id_t`: an interface or a transfer syntax, with its version (\[C706\] 12.6.3.1).
///
/// 20 bytes: the UUID and the version, major in the low 16 bits, minor in the high ones.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SyntaxId {
    /// The UUID.
    pub uuid: Guid,
    /// Major version.
    pub major: u16,
    /// Minor version.
    pub minor: u16,
}

impl SyntaxId {
    /// NDR 2.0.
    pub const NDR: Self = Self::new(
        Guid::new(0x8a88_5d04, 0x1ceb, 0x11c9, [0x9f, 0xe8, 0x08, 0x00, 0x2b, 0x10, 0x48, 0x60]),
        2,
        0,
    );
    /// NDR64 ([MS-RPCE] 2.2.5).
    pub const NDR64: Self = Self::new(
        Guid::new(0x7171_0533, 0xbeba, 0x4937, [0x83, 0x19, 0xb5, 0xdb, 0xef, 0x9c, 0xcc, 0x36]),
        1,
        0,
    );
    /// All zeroes: the transfer syntax of a rejected presentation context.
    pub const NIL: Self = Self::new(Guid::NIL, 0, 0);

    /// An identifier from its parts.
    pub const fn new(uuid: Guid, major: u16, minor: u16) -> Self {
        Self { uuid, major, minor }
    }

    /// Whether an interface of this identifier serves a client that asks for `wanted`: the same UUID and
    /// major version, and at least its minor version (\[C706\] 6.1.2).
    pub fn serves(&self, wanted: &Self) -> bool {
        self.uuid == wanted.uuid && self.major == wanted.major && self.minor >= wanted.minor
    }

    /// The form of stubs under this transfer syntax.
    pub fn ndr_syntax(&self) -> Option<NdrSyntax> {
        match *self {
            Self::NDR => Some(NdrSyntax::Ndr),
            Self::NDR64 => Some(NdrSyntax::Ndr64),
            _ => None,
        }
    }

    /// The bits of a transfer syntax that negotiates features ([MS-RPCE] 2.2.2.14).
    pub fn bind_time_features(&self) -> Option<Features> {
        let known = matches!(
            (self.uuid, self.major, self.minor),
            (Guid { data1: 0x6cb7_1c2c, data2: 0x9812, data3: 0x4540, .. }, 1, 0)
        );
        known.then(|| Features(u64::from_le_bytes(self.uuid.data4)))
    }
}

impl From<NdrSyntax> for SyntaxId {
    fn from(syntax: NdrSyntax) -> Self {
        match syntax {
            NdrSyntax::Ndr => Self::NDR,
            NdrSyntax::Ndr64 => Self::NDR64,
        }
    }
}

impl Encode for SyntaxId {
    fn encode(&self, out: &mut Vec<u8>) {
        self.uuid.encode(out);
        out.extend_from_slice(&self.major.to_le_bytes());
        out.extend_from_slice(&self.minor.to_le_bytes());
    }
}

impl Decode<'_> for SyntaxId {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let uuid = Guid::decode(reader)?;
        let version = reader.u32("if_version")?;
        Ok(Self { uuid, major: version as u16, minor: (version >> 16) as u16 })
    }
}

impl fmt::Debug for SyntaxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} v{}.{}", self.uuid, self.major, self.minor)
    }
}

/// Bits of bind-time feature negotiation; unknown bits are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// Several security contexts on one connection.
    pub const SECURITY_CONTEXT_MULTIPLEXING: Self = Self(0x01);
    /// The connection stays open after an orphaned PDU.
    pub const KEEP_CONNECTION_ON_ORPHAN: Self = Self(0x02);
    /// What we support.
    pub const SUPPORTED: Self = Self(0x03);

    /// The transfer syntax that offers these bits.
    pub const fn syntax(self) -> SyntaxId {
        SyntaxId::new(Guid::new(0x6cb7_1c2c, 0x9812, 0x4540, self.0.to_le_bytes()), 1, 0)
    }
}
