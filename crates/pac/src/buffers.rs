//! The buffers of fixed form: PAC_CLIENT_INFO and UPN_DNS_INFO.

use dtyp::{Decode, DecodeError, DecodeErrorKind, Encode, FileTime, Reader, Sid, utf16le, utf16le_text};

/// [MS-PAC] 2.7 PAC_CLIENT_INFO: `ClientId` (8 bytes), `NameLength` in bytes (2 bytes), the name in UTF-16LE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// When the ticket was issued; with us, when the answer was built.
    pub client_id: FileTime,
    /// The account's name.
    pub name: String,
}

impl Encode for ClientInfo {
    fn encode(&self, out: &mut Vec<u8>) {
        let name = utf16le(&self.name);
        out.extend_from_slice(&self.client_id.0.to_le_bytes());
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend_from_slice(&name);
    }
}

impl Decode<'_> for ClientInfo {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let client_id = FileTime(reader.u64("ClientId")?);
        let len = reader.u16("NameLength")?;
        let name = utf16le_text("Name", reader.take("Name", usize::from(len))?)?;
        Ok(Self { client_id, name })
    }
}

/// Flags U: the account has no userPrincipalName, and this one was made up for it.
const UPN_CONSTRUCTED: u32 = 0x1;
/// Flags S: name and SID are there too.
const EXTENDED: u32 = 0x2;

/// [MS-PAC] 2.10 UPN_DNS_INFO: pairs of length and offset (2 bytes each), flags (4 bytes), and what they
/// point to, on offsets that are multiples of 8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpnDnsInfo {
    /// The user principal name.
    pub upn: String,
    /// Whether it was made up.
    pub is_constructed: bool,
    /// DNS name of the account's domain.
    pub dns_domain_name: String,
    /// Account name and SID, in the extended form.
    pub extended: Option<(String, Sid)>,
}

impl Encode for UpnDnsInfo {
    fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let mut items = vec![utf16le(&self.upn), utf16le(&self.dns_domain_name)];
        let mut flags = if self.is_constructed { UPN_CONSTRUCTED } else { 0 };
        if let Some((name, sid)) = &self.extended {
            flags |= EXTENDED;
            items.push(utf16le(name));
            items.push(sid.to_bytes());
        }
        let head_len = 4 + 4 + 4 + if self.extended.is_some() { 8 } else { 0 };
        let mut offset = usize::next_multiple_of(head_len, 8);
        for (at, item) in items.iter().enumerate() {
            if at == 2 {
                out.extend_from_slice(&flags.to_le_bytes());
            }
            out.extend_from_slice(&(item.len() as u16).to_le_bytes());
            out.extend_from_slice(&(offset as u16).to_le_bytes());
            offset = (offset + item.len()).next_multiple_of(8);
        }
        if items.len() == 2 {
            out.extend_from_slice(&flags.to_le_bytes());
        }
        out.resize(start + usize::next_multiple_of(head_len, 8), 0);
        for item in items {
            out.extend_from_slice(&item);
            out.resize(start + (out.len() - start).next_multiple_of(8), 0);
        }
    }
}

impl Decode<'_> for UpnDnsInfo {
    /// Reads a buffer that fills the rest of `reader`.
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let whole = Reader::new(reader.rest());
        let item = |reader: &mut Reader<'_>, what: &'static str| {
            let (len, offset) = (reader.u16(what)?, reader.u16(what)?);
            whole.slice_at(what, u32::from(offset), u32::from(len)).map(<[u8]>::to_vec)
        };
        let upn = utf16le_text("Upn", &item(reader, "Upn")?)?;
        let dns_domain_name = utf16le_text("DnsDomainName", &item(reader, "DnsDomainName")?)?;
        let flags = reader.u32("Flags")?;
        let extended = match flags & EXTENDED {
            0 => None,
            _ => {
                let name = utf16le_text("SamName", &item(reader, "SamName")?)?;
                let sid = item(reader, "Sid")?;
                Some((name, Sid::from_bytes("Sid", &sid)?))
            }
        };
        if upn.is_empty() && dns_domain_name.is_empty() {
            return Err(reader.error("UPN_DNS_INFO", DecodeErrorKind::BadValue));
        }
        reader.take("UPN_DNS_INFO", reader.remaining())?;
        Ok(Self { upn, is_constructed: flags & UPN_CONSTRUCTED != 0, dns_domain_name, extended })
    }
}
