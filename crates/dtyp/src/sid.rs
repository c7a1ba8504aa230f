use crate::{Decode, DecodeError, DecodeErrorKind, Encode, Reader};
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// [MS-DTYP] 2.4.2.2 SID: a security identifier, revision 1, with at most 15 sub-authorities.
///
/// Its packed form is the revision (1 byte), the count (1 byte), the identifier authority (6 bytes,
/// big-endian) and that many sub-authorities (4 bytes each, little-endian).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sid {
    authority: u64,
    count: u8,
    // INVARIANT: entries from `count` on are zero, so that derived equality and hashing hold.
    sub_authorities: [u32; Sid::SUB_AUTHORITIES_MAX],
}

impl Sid {
    /// A SID has no more sub-authorities than this ([MS-DTYP] 2.4.2.2).
    pub const SUB_AUTHORITIES_MAX: usize = 15;

    /// S-1-18-1, the authority saw the proof of possession ([MS-DTYP] 2.4.2.4).
    pub const AUTHENTICATION_AUTHORITY_ASSERTED_IDENTITY: Self = Self::constant(18, 1);
    /// S-1-18-2, a service saw the proof of possession ([MS-DTYP] 2.4.2.4).
    pub const SERVICE_ASSERTED_IDENTITY: Self = Self::constant(18, 2);

    const fn constant(authority: u64, sub_authority: u32) -> Self {
        let mut sub_authorities = [0; Self::SUB_AUTHORITIES_MAX];
        sub_authorities[0] = sub_authority;
        Self { authority, count: 1, sub_authorities }
    }

    /// A SID of an identifier authority below 2^48 and at most 15 sub-authorities; otherwise `None`.
    pub fn new(authority: u64, sub_authorities: &[u32]) -> Option<Self> {
        if authority >> 48 != 0 || sub_authorities.len() > Self::SUB_AUTHORITIES_MAX {
            return None;
        }
        let mut sid = Self {
            authority,
            count: sub_authorities.len() as u8,
            sub_authorities: [0; Self::SUB_AUTHORITIES_MAX],
        };
        sid.sub_authorities[..sub_authorities.len()].copy_from_slice(sub_authorities);
        Some(sid)
    }

    /// The identifier authority.
    pub const fn authority(&self) -> u64 {
        self.authority
    }

    /// The sub-authorities, the relative identifier last.
    pub fn sub_authorities(&self) -> &[u32] {
        &self.sub_authorities[..usize::from(self.count)]
    }

    /// The SID of a member of this domain; `None` when the domain already has 15 sub-authorities.
    pub fn with_rid(&self, rid: u32) -> Option<Self> {
        let mut sid = *self;
        *sid.sub_authorities.get_mut(usize::from(self.count))? = rid;
        sid.count += 1;
        Some(sid)
    }

    /// Domain and relative identifier: all but the last sub-authority, and the last.
    pub fn split_rid(&self) -> Option<(Self, u32)> {
        let last = usize::from(self.count.checked_sub(1)?);
        let mut domain = *self;
        domain.count -= 1;
        let rid = std::mem::take(&mut domain.sub_authorities[last]);
        Some((domain, rid))
    }

    /// The relative identifier of a member of `domain`; `None` for everyone else's SIDs.
    pub fn rid_in(&self, domain: &Sid) -> Option<u32> {
        self.split_rid().filter(|(prefix, _)| prefix == domain).map(|(_, rid)| rid)
    }

    /// Whether this is the SID of an account domain: `S-1-5-21` and three more sub-authorities.
    pub fn is_domain(&self) -> bool {
        self.authority == 5 && self.count == 4 && self.sub_authorities[0] == 21
    }

    /// Length of the packed form in bytes.
    pub fn packed_len(&self) -> usize {
        8 + 4 * usize::from(self.count)
    }

    /// Revision, count and authority, from which the sub-authorities follow: the packed form's first 8 bytes.
    fn header(&self) -> [u8; 8] {
        let mut header = self.authority.to_be_bytes();
        header[0] = 1;
        header[1] = self.count;
        header
    }
}

impl Encode for Sid {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.header());
        for sub_authority in self.sub_authorities() {
            out.extend_from_slice(&sub_authority.to_le_bytes());
        }
    }
}

impl Decode<'_> for Sid {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if reader.u8("SID.Revision")? != 1 {
            return Err(reader.error("SID.Revision", DecodeErrorKind::BadValue));
        }
        let count = reader.u8("SID.SubAuthorityCount")?;
        if usize::from(count) > Self::SUB_AUTHORITIES_MAX {
            return Err(reader.error("SID.SubAuthorityCount", DecodeErrorKind::TooLong));
        }
        let mut authority = [0; 8];
        authority[2..].copy_from_slice(&reader.array::<6>("SID.IdentifierAuthority")?);
        let mut sub_authorities = [0; Self::SUB_AUTHORITIES_MAX];
        for sub_authority in &mut sub_authorities[..usize::from(count)] {
            *sub_authority = reader.u32("SID.SubAuthority")?;
        }
        Ok(Self { authority: u64::from_be_bytes(authority), count, sub_authorities })
    }
}

impl Ord for Sid {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.authority, self.sub_authorities()).cmp(&(other.authority, other.sub_authorities()))
    }
}

impl PartialOrd for Sid {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // [MS-DTYP] 2.4.2.1: an authority of 2^32 or more is printed in hex.
        match self.authority >> 32 {
            0 => write!(f, "S-1-{}", self.authority)?,
            _ => write!(f, "S-1-0x{:012X}", self.authority)?,
        }
        self.sub_authorities().iter().try_for_each(|n| write!(f, "-{n}"))
    }
}

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not a SID in the string format of [MS-DTYP] 2.4.2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseSidError;

impl fmt::Display for ParseSidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a SID (expected S-1-AUTHORITY-SUBAUTHORITY…)")
    }
}

impl std::error::Error for ParseSidError {}

impl FromStr for Sid {
    type Err = ParseSidError;

    fn from_str(text: &str) -> Result<Self, ParseSidError> {
        let digits = |part: &str| match part.bytes().all(|byte| byte.is_ascii_digit()) && !part.is_empty() {
            true => part.parse::<u64>().map_err(|_| ParseSidError),
            false => Err(ParseSidError),
        };
        let (start, rest) = text.split_at_checked(4).ok_or(ParseSidError)?;
        if !start.eq_ignore_ascii_case("S-1-") {
            return Err(ParseSidError);
        }
        let mut parts = rest.split('-');
        let authority = parts.next().ok_or(ParseSidError)?;
        let authority = match authority.split_at_checked(2) {
            // Every byte is looked at, because `from_str_radix` would take a sign.
            Some(("0x" | "0X", hex))
                if !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
            {
                u64::from_str_radix(hex, 16).map_err(|_| ParseSidError)?
            }
            _ => digits(authority)?,
        };
        let sub_authorities: Vec<u32> = parts
            .take(Self::SUB_AUTHORITIES_MAX + 1)
            .map(|part| digits(part)?.try_into().map_err(|_| ParseSidError))
            .collect::<Result<_, _>>()?;
        Self::new(authority, &sub_authorities).ok_or(ParseSidError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "S-1-5-21-3623811015-3361044348-30300820-1013";

    #[test]
    fn packed_form_is_the_document_s() {
        let sid: Sid = TEXT.parse().expect("a SID");
        // The REQUESTOR_SID of the worked example in the digest of [MS-PAC].
        let packed = "010500000000000515000000c7f7fed77c7755c8945ace01f5030000";
        assert_eq!(crate::hex(&sid.to_bytes()), packed);
        assert_eq!(Sid::from_bytes("SID", &sid.to_bytes()), Ok(sid));
        assert_eq!(sid.packed_len(), 28);
        assert_eq!(sid.to_string(), TEXT);
    }

    #[test]
    fn splits_domain_and_rid() {
        let sid: Sid = TEXT.parse().expect("a SID");
        let (domain, rid) = sid.split_rid().expect("it has a RID");
        assert!(domain.is_domain() && !sid.is_domain());
        assert_eq!((rid, domain.with_rid(1013)), (1013, Some(sid)));
        assert_eq!(sid.rid_in(&domain), Some(1013));
        assert_eq!(domain.rid_in(&domain), None);
        assert_eq!(Sid::new(5, &[1; 15]).expect("fifteen fit").with_rid(1), None);
    }

    #[test]
    fn refuses_what_is_not_a_sid() {
        for text in [
            "",
            "S-1",
            "S-1-",
            "S-2-5-21",
            "S-1-5-",
            "S-1-5-+1",
            "S-1-5-4294967296",
            "S-1-281474976710656-1",
            "S-1-0x-1",
            "S-1-0x+1-1",
            "S-1-é-1",
            "S-1-5\u{344}-1",
        ] {
            assert_eq!(text.parse::<Sid>(), Err(ParseSidError), "{text}");
        }
        assert!(format!("S-1-5{}", "-1".repeat(16)).parse::<Sid>().is_err());
        let packed = TEXT.parse::<Sid>().expect("a SID").to_bytes();
        for len in 0..packed.len() {
            assert!(Sid::from_bytes("SID", &packed[..len]).is_err(), "{len}");
        }
        assert!(Sid::from_bytes("SID", &[1, 16, 0, 0, 0, 0, 0, 5]).is_err());
        assert!(Sid::from_bytes("SID", &[2, 0, 0, 0, 0, 0, 0, 5]).is_err());
    }

    #[test]
    fn large_authorities_are_hex() {
        let sid = Sid::new(0x1234_5678_9abc, &[7]).expect("a SID");
        assert_eq!(sid.to_string(), "S-1-0x123456789ABC-7");
        assert_eq!(sid.to_string().parse(), Ok(sid));
    }
}
