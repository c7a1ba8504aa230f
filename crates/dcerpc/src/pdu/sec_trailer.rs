use dtyp::{Decode, DecodeError, DecodeErrorKind, Encode, Reader};

/// `auth_type` of a security trailer ([MS-RPCE] 2.2.1.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AuthType(pub u8);

impl AuthType {
    /// No provider.
    pub const NONE: Self = Self(0);
    /// SPNEGO.
    pub const SPNEGO: Self = Self(9);
    /// NTLM.
    pub const NTLM: Self = Self(10);
    /// Kerberos.
    pub const KERBEROS: Self = Self(16);
    /// The Netlogon secure channel.
    pub const NETLOGON: Self = Self(0x44);
}

/// `auth_level` of a security trailer ([MS-RPCE] 2.2.1.1.8), by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuthLevel(pub u8);

impl AuthLevel {
    /// No authentication.
    pub const NONE: Self = Self(1);
    /// The peer is known, nothing is protected.
    pub const CONNECT: Self = Self(2);
    /// Each call is signed: only for transports without connections.
    pub const CALL: Self = Self(3);
    /// Each fragment is signed, as with [`Self::INTEGRITY`] on a connection.
    pub const PACKET: Self = Self(4);
    /// Each fragment is signed.
    pub const INTEGRITY: Self = Self(5);
    /// Each fragment is signed and sealed.
    pub const PRIVACY: Self = Self(6);

    /// Whether a security context can have this level. Other numbers have no meaning, and [`Self::NONE`] has
    /// no security context.
    pub const fn is_defined(self) -> bool {
        matches!(self, Self::CONNECT | Self::CALL | Self::PACKET | Self::INTEGRITY | Self::PRIVACY)
    }
}

/// [MS-RPCE] 2.2.2.11 sec_trailer: eight bytes before the token, at the end of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecTrailer {
    /// The provider.
    pub auth_type: AuthType,
    /// The level of protection.
    pub auth_level: AuthLevel,
    /// Bytes of padding between the body and this trailer.
    pub auth_pad_length: u8,
    /// The security context, by the client's number.
    pub auth_context_id: u32,
}

impl SecTrailer {
    /// Length on the wire.
    pub const LEN: usize = 1 // auth_type
        + 1 // auth_level
        + 1 // auth_pad_length
        + 1 // auth_reserved
        + 4; // auth_context_id

    /// The wire form as an array.
    pub fn to_array(self) -> [u8; Self::LEN] {
        let [a, b, c, d] = self.auth_context_id.to_le_bytes();
        [self.auth_type.0, self.auth_level.0, self.auth_pad_length, 0, a, b, c, d]
    }
}

impl Encode for SecTrailer {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_array());
    }
}

impl Decode<'_> for SecTrailer {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            auth_type: AuthType(reader.u8("auth_type")?),
            auth_level: AuthLevel(reader.u8("auth_level")?),
            auth_pad_length: reader.u8("auth_pad_length")?,
            auth_context_id: {
                let _reserved = reader.u8("auth_reserved")?;
                reader.u32("auth_context_id")?
            },
        })
    }
}

/// The end of a fragment that carries authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthVerifier<'a> {
    /// The trailer.
    pub trailer: SecTrailer,
    /// The provider's token.
    pub token: &'a [u8],
    /// Where padding begins and the body ends, from the start of the PDU.
    pub body_end: usize,
}

/// Finds trailer and token of a PDU whose header passed [`Header::decode`](super::Header::decode); `None`
/// when it carries none. `body_start` is where the stub or body begins: padding cannot reach before it.
pub fn split_auth<'a>(
    header: &super::Header,
    pdu: &'a [u8],
    body_start: usize,
) -> Result<Option<AuthVerifier<'a>>, DecodeError> {
    if header.auth_length == 0 {
        return Ok(None);
    }
    let token_start = pdu.len() - usize::from(header.auth_length);
    let trailer_start = token_start - SecTrailer::LEN;
    let bad = DecodeError { what: "sec_trailer", offset: trailer_start, kind: DecodeErrorKind::OutOfBounds };
    let mut reader = Reader::new(&pdu[trailer_start..token_start]).with_order(header.order);
    let trailer = SecTrailer::decode(&mut reader)?;
    let body_end = trailer_start
        .checked_sub(usize::from(trailer.auth_pad_length))
        .filter(|end| *end >= body_start)
        .ok_or(bad)?;
    Ok(Some(AuthVerifier { trailer, token: &pdu[token_start..], body_end }))
}
