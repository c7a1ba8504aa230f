//! The two messages of [MS-RCMP] 2.2. All integers are little-endian, all offsets count from the message's
//! first byte.

use dtyp::{DecodeError, DecodeErrorKind, Reader, utf16le, utf16le_text};

/// PackageName of generic pass-through ([MS-RCMP] 3.5.1).
pub const PACKAGE_NAME: &str = "Microsoft Unified Security Protocol Provider";

/// Longest request: the longest certificate and a chain of names, twice over.
pub const REQUEST_LEN_MAX: usize = 256 * 1024;
/// Longest certificate: the ones in use have one or two kilobytes.
pub const CERTIFICATE_LEN_MAX: usize = 64 * 1024;
/// Most names of issuers: chains have three or four.
pub const ISSUERS_MAX: usize = 64;
/// Longest name of an issuer.
pub const ISSUER_LEN_MAX: usize = 8 * 1024;
/// Longest response that a client takes.
pub const RESPONSE_LEN_MAX: usize = 1024 * 1024;

/// MessageType of both messages: SSL_CERT_LOGON.
const MESSAGE_TYPE: u32 = 2;

/// [MS-RCMP] 2.2.1 SSL_CERT_LOGON_REQ, up to `NameInfo`.
const REQUEST_FIXED_LEN: usize = 4 // MessageType
    + 4  // Length
    + 4  // OffsetCertificate
    + 4  // CertLength
    + 4  // Flags
    + 4; // IssuerCount
/// One entry of `NameInfo`.
const NAME_INFO_LEN: usize = 4 // IssuerOffset
    + 4; // IssuerLength

/// [MS-RCMP] 2.2.2 SSL_CERT_LOGON_RESP, up to `Payload`.
const RESPONSE_FIXED_LEN: usize = 4 // MessageType
    + 4  // Length
    + 4  // OffsetAuthData
    + 4  // AuthDataLength
    + 4  // Flags
    + 4  // OffsetDomain
    + 4  // DomainLength
    + 4; // Align

/// `Flags` of a request: which methods the client asks for. Unknown bits are kept and mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct MappingFlags(pub u32);

impl MappingFlags {
    /// REQ_UPN_MAPPING: by subjectAltName.
    pub const UPN: Self = Self(0x10);
    /// REQ_SUBJECT_MAPPING: by issuer and subject.
    pub const SUBJECT: Self = Self(0x20);
    /// REQ_ISSUER_MAPPING: by the issuer alone.
    pub const ISSUER: Self = Self(0x40);
    /// REQ_ISSUER_CHAIN_MAPPING: with ISSUER, by the names of the issuer's issuers too.
    pub const ISSUER_CHAIN: Self = Self(0x80);
    /// All four.
    pub const ALL: Self = Self(0xf0);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The bits both have.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// [MS-RCMP] 2.2.1 SSL_CERT_LOGON_REQ: which account is this certificate's?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Which methods to try.
    pub flags: MappingFlags,
    /// The certificate. [MS-RCMP] 2.2.1 allows BER; readers of this crate take DER alone.
    pub certificate: &'a [u8],
    /// Encoded X.501 names, the certificate's issuer first.
    pub issuers: Vec<&'a [u8]>,
}

impl<'a> Request<'a> {
    /// Reads a request in the order in which its fields have to be believed. Bytes behind `Length` are
    /// ignored; gaps and overlaps in the payload are allowed, for it is only read.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let error = |what, kind| DecodeError { what, offset: 0, kind };
        if message.len() > REQUEST_LEN_MAX {
            return Err(error("SSL_CERT_LOGON_REQ", DecodeErrorKind::TooLong));
        }
        let mut reader = Reader::new(message);
        if reader.u32("MessageType")? != MESSAGE_TYPE {
            return Err(error("MessageType", DecodeErrorKind::BadValue));
        }
        let length = reader.u32("Length")?;
        let mut reader = Reader::new(reader_prefix(message, length, REQUEST_FIXED_LEN)?);
        reader.take("header", 8)?;
        let (certificate_offset, certificate_len) =
            (reader.u32("OffsetCertificate")?, reader.u32("CertLength")?);
        let flags = MappingFlags(reader.u32("Flags")?);
        let count = reader.u32("IssuerCount")? as usize;
        if count > ISSUERS_MAX {
            return Err(error("IssuerCount", DecodeErrorKind::TooLong));
        }
        let payload_start = REQUEST_FIXED_LEN + count * NAME_INFO_LEN;
        let mut infos = reader.sub_reader("NameInfo", count * NAME_INFO_LEN)?;
        let region = |what, offset: u32, len: u32, len_max: usize| {
            if (offset as usize) < payload_start {
                return Err(DecodeError {
                    what,
                    offset: offset as usize,
                    kind: DecodeErrorKind::OutOfBounds,
                });
            }
            if len == 0 {
                return Err(DecodeError { what, offset: offset as usize, kind: DecodeErrorKind::BadValue });
            }
            if len as usize > len_max {
                return Err(DecodeError { what, offset: offset as usize, kind: DecodeErrorKind::TooLong });
            }
            reader.slice_at(what, offset, len)
        };
        let certificate = region("Certificate", certificate_offset, certificate_len, CERTIFICATE_LEN_MAX)?;
        let mut issuers = Vec::with_capacity(count);
        for _ in 0..count {
            let (offset, len) = (infos.u32("IssuerOffset")?, infos.u32("IssuerLength")?);
            if offset % 2 != 0 {
                return Err(DecodeError {
                    what: "IssuerOffset",
                    offset: offset as usize,
                    kind: DecodeErrorKind::Misaligned,
                });
            }
            issuers.push(region("Issuer", offset, len, ISSUER_LEN_MAX)?);
        }
        Ok(Self { flags, certificate, issuers })
    }

    /// Writes a request: the certificate first, each name behind it on an even offset. `None` when it would
    /// break a limit that servers keep.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let payload_start = REQUEST_FIXED_LEN + self.issuers.len() * NAME_INFO_LEN;
        let fits = self.issuers.len() <= ISSUERS_MAX
            && (1..=CERTIFICATE_LEN_MAX).contains(&self.certificate.len())
            && self.issuers.iter().all(|issuer| (1..=ISSUER_LEN_MAX).contains(&issuer.len()));
        let mut offset = (payload_start + self.certificate.len()).next_multiple_of(2);
        let mut placed = Vec::with_capacity(self.issuers.len());
        for issuer in &self.issuers {
            placed.push(offset);
            offset = (offset + issuer.len()).next_multiple_of(2);
        }
        let length = match (placed.last(), self.issuers.last()) {
            (Some(start), Some(issuer)) => start + issuer.len(),
            _ => payload_start + self.certificate.len(),
        };
        if !fits || length > REQUEST_LEN_MAX {
            return None;
        }
        let mut message = Vec::with_capacity(length);
        let mut word = |value: usize| message.extend_from_slice(&(value as u32).to_le_bytes());
        word(MESSAGE_TYPE as usize);
        word(length);
        word(payload_start);
        word(self.certificate.len());
        word(self.flags.0 as usize);
        word(self.issuers.len());
        for (start, issuer) in placed.iter().zip(&self.issuers) {
            word(*start);
            word(issuer.len());
        }
        message.extend_from_slice(self.certificate);
        for (start, issuer) in placed.into_iter().zip(&self.issuers) {
            message.resize(start, 0);
            message.extend_from_slice(issuer);
        }
        Some(message)
    }
}

/// The first `length` bytes, which must be there and hold the fixed fields.
fn reader_prefix(message: &[u8], length: u32, fixed_len: usize) -> Result<&[u8], DecodeError> {
    message.get(..length as usize).filter(|prefix| prefix.len() >= fixed_len).ok_or(DecodeError {
        what: "Length",
        offset: 4,
        kind: DecodeErrorKind::OutOfBounds,
    })
}

/// [MS-RCMP] 2.2.2 SSL_CERT_LOGON_RESP: the account, as a privilege attribute certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// The PAC.
    pub auth_data: &'a [u8],
    /// NetBIOS name of the account's domain.
    pub domain: String,
}

impl<'a> Response<'a> {
    /// Writes a response: the PAC at 32, the name behind it.
    pub fn encode(auth_data: &[u8], domain: &str) -> Vec<u8> {
        let domain = utf16le(domain);
        let domain_offset = (RESPONSE_FIXED_LEN + auth_data.len()).next_multiple_of(2);
        let length = domain_offset + domain.len();
        let mut message = Vec::with_capacity(length);
        for value in [
            MESSAGE_TYPE as usize,
            length,
            RESPONSE_FIXED_LEN,
            auth_data.len(),
            0,
            domain_offset,
            domain.len(),
            0,
        ] {
            message.extend_from_slice(&(value as u32).to_le_bytes());
        }
        message.extend_from_slice(auth_data);
        message.resize(domain_offset, 0);
        message.extend_from_slice(&domain);
        message
    }

    /// A response as long as `Length` says, and what follows it, which receivers ignore.
    pub fn split(message: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
        let mut reader = Reader::new(message);
        if reader.u32("MessageType")? != MESSAGE_TYPE {
            return Err(DecodeError { what: "MessageType", offset: 0, kind: DecodeErrorKind::BadValue });
        }
        let length = reader.u32("Length")?;
        let response = reader_prefix(message, length, RESPONSE_FIXED_LEN)?;
        Ok((response, &message[response.len()..]))
    }

    /// Reads a response, as strictly as a client should.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let error = |what, kind| DecodeError { what, offset: 0, kind };
        if message.len() > RESPONSE_LEN_MAX {
            return Err(error("SSL_CERT_LOGON_RESP", DecodeErrorKind::TooLong));
        }
        let mut reader = Reader::new(Self::split(message)?.0);
        reader.take("header", 8)?;
        let (offset, len) = (reader.u32("OffsetAuthData")?, reader.u32("AuthDataLength")?);
        if offset % 8 != 0 {
            return Err(error("OffsetAuthData", DecodeErrorKind::Misaligned));
        }
        if (offset as usize) < RESPONSE_FIXED_LEN || len < 8 {
            return Err(error("AuthData", DecodeErrorKind::OutOfBounds));
        }
        let auth_data = reader.slice_at("AuthData", offset, len)?;
        let _flags = reader.u32("Flags")?;
        let (offset, len) = (reader.u32("OffsetDomain")?, reader.u32("DomainLength")?);
        if (offset as usize) < RESPONSE_FIXED_LEN {
            return Err(error("OffsetDomain", DecodeErrorKind::OutOfBounds));
        }
        if len == 0 {
            return Err(error("DomainLength", DecodeErrorKind::BadValue));
        }
        let domain = utf16le_text("Domain", reader.slice_at("Domain", offset, len)?)?;
        Ok(Self { auth_data, domain })
    }

    /// Whether bytes look like a response in the clear: type, length and the zero of `Align` agree. This is
    /// how a client tells whether its server encrypted them, where documents do not say.
    pub fn is_plausible(message: &[u8]) -> bool {
        let word = |at: usize| {
            message.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes)
        };
        word(0) == Some(MESSAGE_TYPE)
            && word(28) == Some(0)
            && word(4).is_some_and(|length| (RESPONSE_FIXED_LEN..=message.len()).contains(&(length as usize)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::{ALICE, ISSUER, ROOT, sha256, unhex};

    fn worked_request() -> Vec<u8> {
        let (certificate, issuer, root) = (unhex(ALICE), unhex(ISSUER), unhex(ROOT));
        let request =
            Request { flags: MappingFlags::ALL, certificate: &certificate, issuers: vec![&issuer, &root] };
        let message = request.encode().expect("it is within the limits");
        assert_eq!(Request::decode(&message), Ok(request));
        message
    }

    #[test]
    fn the_worked_request_is_byte_exact() {
        let message = worked_request();
        assert_eq!(message.len(), 778);
        assert_eq!(sha256(&message), "260e2ecddac1dd8f9ca038a58e93a20664e0e2e0e856ca07933804dab41eb057");
    }

    #[test]
    fn no_truncated_request_is_read() {
        let message = worked_request();
        for len in 0..message.len() {
            assert!(Request::decode(&message[..len]).is_err(), "{len}");
        }
        let mut longer = message.clone();
        longer.extend_from_slice(&[0xaa; 9]);
        assert_eq!(Request::decode(&longer), Request::decode(&message), "what follows Length is ignored");
    }

    #[test]
    fn every_number_of_a_request_is_checked() {
        use DecodeErrorKind::{BadValue, Misaligned, OutOfBounds, TooLong};
        for (what, at, value, expect) in [
            ("MessageType", 0, 1, BadValue),
            ("Length below the fields", 4, 23, OutOfBounds),
            ("Length above the data", 4, 779, OutOfBounds),
            ("Length extreme", 4, u32::MAX, OutOfBounds),
            ("certificate in the header", 8, 39, OutOfBounds),
            ("certificate beyond", 8, 778, OutOfBounds),
            ("certificate offset extreme", 8, u32::MAX, OutOfBounds),
            ("no certificate", 12, 0, BadValue),
            ("certificate ends beyond", 12, 739, OutOfBounds),
            ("certificate length extreme", 12, u32::MAX, TooLong),
            ("too many issuers", 20, 65, TooLong),
            ("issuers extreme", 20, u32::MAX, TooLong),
            ("NameInfo reaches into the certificate", 20, 3, OutOfBounds),
            ("issuer in the header", 24, 38, OutOfBounds),
            ("issuer at an odd offset", 24, 0x287, Misaligned),
            ("issuer offset extreme", 24, u32::MAX - 1, OutOfBounds),
            ("empty issuer", 28, 0, BadValue),
            ("issuer ends beyond", 36, 63, OutOfBounds),
            ("issuer length extreme", 36, u32::MAX, TooLong),
        ] {
            let mut message = worked_request();
            message[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            assert_eq!(Request::decode(&message).map_err(|error| error.kind), Err(expect), "{what}");
        }
        let mut none = worked_request();
        none[20..24].fill(0);
        assert_eq!(Request::decode(&none).map(|request| request.issuers.len()), Ok(0), "no issuers are fine");
        assert!(Request::decode(&vec![0; REQUEST_LEN_MAX + 1]).is_err());
    }

    #[test]
    fn a_request_beyond_the_limits_is_not_written() {
        let (long, name) = (vec![0x30; CERTIFICATE_LEN_MAX + 1], [0x30; 2]);
        let request =
            |certificate, issuers| Request { flags: MappingFlags::UPN, certificate, issuers }.encode();
        assert_eq!(request(&long, vec![]), None);
        assert_eq!(request(&[], vec![]), None);
        assert_eq!(request(&name, vec![&name; ISSUERS_MAX + 1]), None);
        assert_eq!(request(&name, vec![&long[..ISSUER_LEN_MAX + 1]]), None);
        assert!(request(&name, vec![&name; ISSUERS_MAX]).is_some());
    }

    #[test]
    fn a_response_comes_back_and_no_truncation_does() {
        let pac = [7; 736];
        let message = Response::encode(&pac, "CONTOSO");
        // Lengths and offsets of the worked response in the digest of [MS-RCMP], section 3.
        assert_eq!(
            message[..32],
            unhex("02000000 0e030000 20000000 e0020000 00000000 00030000 0e000000 00000000")
        );
        assert_eq!(Response::decode(&message), Ok(Response { auth_data: &pac, domain: "CONTOSO".into() }));
        assert!(Response::is_plausible(&message));
        for len in 0..message.len() {
            assert!(Response::decode(&message[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn every_number_of_a_response_is_checked() {
        for (what, at, value) in [
            ("MessageType", 0, 1),
            ("Length below the fields", 4, 31),
            ("Length above the data", 4, 783),
            ("PAC not aligned", 8, 36),
            ("PAC in the header", 8, 24),
            ("PAC beyond", 8, 784),
            ("PAC too short", 12, 7),
            ("PAC ends beyond", 12, 751),
            ("domain in the header", 20, 30),
            ("domain beyond", 20, 770),
            ("no domain", 24, 0),
            ("odd domain", 24, 13),
            ("domain length extreme", 24, u32::MAX),
        ] {
            let mut message = Response::encode(&[7; 736], "CONTOSO");
            message[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            assert!(Response::decode(&message).is_err(), "{what}");
        }
        assert!(!Response::is_plausible(&[0; 40]));
    }
}
