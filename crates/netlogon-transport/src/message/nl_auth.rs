//! NL_AUTH_MESSAGE ([MS-NRPC] 2.2.1.3.1), the token of a bind to a secure channel.

use dtyp::{DecodeError, DecodeErrorKind, Reader};

const NETBIOS_DOMAIN: u32 = 0x01;
const NETBIOS_COMPUTER: u32 = 0x02;
const DNS_DOMAIN: u32 = 0x04;
const DNS_HOST: u32 = 0x08;
const NETBIOS_COMPUTER_UTF8: u32 = 0x10;

/// The server's token: message type 1, and eight bytes that mean nothing.
pub const NL_AUTH_RESPONSE: [u8; 12] = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A NetBIOS name has 15 characters; some clients send more, none sends this many bytes.
const OEM_NAME_LEN_MAX: usize = 255;
/// RFC 1035 2.3.4: 255 octets a name.
const DNS_NAME_LEN_MAX: usize = 255;
/// A name has at most 127 labels, and each pointer leads backwards, so more jumps than this are a riddle.
const DNS_POINTERS_MAX: usize = 16;

/// The client's token: which domain and which computer. It proves nothing by itself; the first call does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NlAuthRequest {
    /// NetBIOS or DNS names of the domain that the client gave.
    pub domains: Vec<String>,
    /// NetBIOS name of the computer; from its DNS name when that is all there is.
    pub computer: String,
}

impl NlAuthRequest {
    /// The token of a client of ours: NetBIOS names of domain and computer.
    pub fn encode(domain: &str, computer: &str) -> Vec<u8> {
        let mut token = vec![0; 4];
        token.extend_from_slice(&(NETBIOS_DOMAIN | NETBIOS_COMPUTER).to_le_bytes());
        for name in [domain, computer] {
            token.extend(name.bytes().filter(|byte| *byte != 0));
            token.push(0);
        }
        token
    }

    /// Reads a token: at least one name of a domain and one of a computer.
    pub fn decode(token: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(token);
        if reader.u32("MessageType")? != 0 {
            return Err(reader.error("MessageType", DecodeErrorKind::BadValue));
        }
        let flags = reader.u32("Flags")?;
        let mut domains = Vec::new();
        let mut computer = None;
        let mut host = None;
        if flags & NETBIOS_DOMAIN != 0 {
            domains.push(oem_name(&mut reader, "NetBIOS domain")?);
        }
        if flags & NETBIOS_COMPUTER != 0 {
            computer = Some(oem_name(&mut reader, "NetBIOS computer")?);
        }
        if flags & DNS_DOMAIN != 0 {
            domains.push(dns_name(token, &mut reader, "DNS domain")?);
        }
        if flags & DNS_HOST != 0 {
            host = Some(dns_name(token, &mut reader, "DNS host")?);
        }
        if flags & NETBIOS_COMPUTER_UTF8 != 0 {
            let name = dns_name(token, &mut reader, "NetBIOS computer")?;
            computer = computer.or(Some(name));
        }
        let first_label = host.and_then(|host| host.split('.').next().map(str::to_owned));
        let computer = computer.or(first_label).filter(|name| !name.is_empty());
        // An empty name, which DNS has for its root, names nothing.
        domains.retain(|name| !name.is_empty());
        match computer {
            Some(computer) if !domains.is_empty() => Ok(Self { domains, computer }),
            _ => Err(reader.error("NL_AUTH_MESSAGE", DecodeErrorKind::BadValue)),
        }
    }
}

/// A name in the OEM code page, ended by a NUL. Bytes above ASCII are read as UTF-8 or not at all.
fn oem_name(reader: &mut Reader<'_>, what: &'static str) -> Result<String, DecodeError> {
    let rest = reader.rest();
    let len =
        rest.iter().position(|byte| *byte == 0).ok_or(reader.error(what, DecodeErrorKind::Truncated))?;
    if len > OEM_NAME_LEN_MAX {
        return Err(reader.error(what, DecodeErrorKind::TooLong));
    }
    let name = reader.take(what, len + 1)?;
    match std::str::from_utf8(&name[..len]) {
        Ok(name) => Ok(name.to_owned()),
        Err(_) => Err(reader.error(what, DecodeErrorKind::BadText)),
    }
}

/// A name in labels (RFC 1035 3.1). Pointers count from the start of the message and must lead backwards.
fn dns_name(message: &[u8], reader: &mut Reader<'_>, what: &'static str) -> Result<String, DecodeError> {
    let bad = |kind| reader.error(what, kind);
    let (truncated, bad_value, too_long) =
        (bad(DecodeErrorKind::Truncated), bad(DecodeErrorKind::BadValue), bad(DecodeErrorKind::TooLong));
    let bad_text = bad(DecodeErrorKind::BadText);
    let mut name = String::new();
    let mut at = reader.position();
    let mut consumed = None;
    let mut pointers = 0;
    loop {
        let len = usize::from(*message.get(at).ok_or_else(|| truncated.clone())?);
        match len {
            0 => {
                let end = consumed.unwrap_or(at + 1);
                reader.take(what, end - reader.position())?;
                return Ok(name);
            }
            1..=63 => {
                let label = message.get(at + 1..at + 1 + len).ok_or_else(|| truncated.clone())?;
                let label = std::str::from_utf8(label).map_err(|_| bad_text.clone())?;
                if label.contains('\0') {
                    return Err(bad_text);
                }
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(label);
                if name.len() > DNS_NAME_LEN_MAX {
                    return Err(too_long);
                }
                at += 1 + len;
            }
            0xc0.. => {
                let low = usize::from(*message.get(at + 1).ok_or_else(|| truncated.clone())?);
                consumed = consumed.or(Some(at + 2));
                let target = (len & 0x3f) << 8 | low;
                pointers += 1;
                if target >= at || pointers > DNS_POINTERS_MAX {
                    return Err(bad_value);
                }
                at = target;
            }
            _ => return Err(bad_value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::unhex_vec;

    #[test]
    fn our_token_is_the_digest_s_minimal_one() {
        let token = unhex_vec("00000000 03000000 434f4e544f534f00 5745423100");
        assert_eq!(NlAuthRequest::encode("CONTOSO", "WEB1"), token);
        let expect = NlAuthRequest { domains: vec!["CONTOSO".into()], computer: "WEB1".into() };
        assert_eq!(NlAuthRequest::decode(&token), Ok(expect));
        for len in 0..token.len() {
            assert!(NlAuthRequest::decode(&token[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn reads_the_document_s_example() {
        // [MS-NRPC] 3.3.4.1.1: flags 0x17.
        let mut token = unhex_vec("00000000 17000000");
        token.extend_from_slice(b"NTDEV\0NASKO\0\x05ntdev\x04corp\x09microsoft\x03com\0\x05NASKO\0");
        let expect = NlAuthRequest {
            domains: vec!["NTDEV".into(), "ntdev.corp.microsoft.com".into()],
            computer: "NASKO".into(),
        };
        assert_eq!(NlAuthRequest::decode(&token), Ok(expect));
    }

    #[test]
    fn a_host_name_alone_names_the_computer() {
        let mut token = unhex_vec("00000000 09000000");
        token.extend_from_slice(b"CONTOSO\0\x04web1\x07contoso\x03com\0");
        assert_eq!(NlAuthRequest::decode(&token).map(|token| token.computer).as_deref(), Ok("web1"));
    }

    #[test]
    fn refuses_names_that_run_in_circles_or_are_missing() {
        for (flags, names) in [
            (0x06, &b"WEB1\0\xc0\x0d"[..]), // a pointer to itself
            (0x06, b"WEB1\0\xc0\x40\0"),    // a pointer forwards
            (0x06, b"WEB1\0\x40a\0"),       // a reserved length
            (0x06, b"WEB1\0\x05ab"),        // a label that is cut
            (0x01, b"CONTOSO\0"),           // no computer
            (0x02, b"WEB1\0"),              // no domain
            (0x03, b"CONTOSO\0\0"),         // an empty computer
            (0x03, b"\0WEB1\0"),            // an empty domain
            (0x03, b"\xff\0WEB1\0"),        // no text
            (0x00, b""),
        ] {
            let mut token = vec![0; 4];
            token.extend_from_slice(&u32::to_le_bytes(flags));
            token.extend_from_slice(names);
            assert!(NlAuthRequest::decode(&token).is_err(), "{flags:x} {names:?}");
        }
        assert!(NlAuthRequest::decode(&NL_AUTH_RESPONSE).is_err());
    }
}
