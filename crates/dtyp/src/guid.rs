use crate::{Decode, DecodeError, Encode, Reader};
use std::fmt;
use std::str::FromStr;

/// [MS-DTYP] 2.3.4 GUID: the first three fields in the message's byte order, the last eight bytes as they
/// stand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Guid {
    /// First field.
    pub data1: u32,
    /// Second field.
    pub data2: u16,
    /// Third field.
    pub data3: u16,
    /// Clock sequence and node.
    pub data4: [u8; 8],
}

impl Guid {
    /// The GUID of zeroes.
    pub const NIL: Self = Self::new(0, 0, 0, [0; 8]);

    /// A GUID from its fields, in the order they are printed.
    pub const fn new(data1: u32, data2: u16, data3: u16, data4: [u8; 8]) -> Self {
        Self { data1, data2, data3, data4 }
    }
}

impl Encode for Guid {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.data1.to_le_bytes());
        out.extend_from_slice(&self.data2.to_le_bytes());
        out.extend_from_slice(&self.data3.to_le_bytes());
        out.extend_from_slice(&self.data4);
    }
}

impl Decode<'_> for Guid {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            data1: reader.u32("GUID.Data1")?,
            data2: reader.u16("GUID.Data2")?,
            data3: reader.u16("GUID.Data3")?,
            data4: reader.array("GUID.Data4")?,
        })
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let d = &self.data4;
        write!(f, "{:08x}-{:04x}-{:04x}-{:02x}{:02x}-", self.data1, self.data2, self.data3, d[0], d[1])?;
        d[2..].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not a GUID of the form `8-4-4-4-12` hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseGuidError;

impl fmt::Display for ParseGuidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a GUID (expected 8-4-4-4-12 hex digits)")
    }
}

impl std::error::Error for ParseGuidError {}

impl FromStr for Guid {
    type Err = ParseGuidError;

    fn from_str(text: &str) -> Result<Self, ParseGuidError> {
        let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        let hyphens = [8, 13, 18, 23];
        let shape = text.len() == 36
            && text.bytes().enumerate().all(|(at, byte)| match hyphens.contains(&at) {
                true => byte == b'-',
                false => byte.is_ascii_hexdigit(),
            });
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        match u128::from_str_radix(&digits, 16) {
            Ok(value) if shape => Ok(Self::new(
                (value >> 96) as u32,
                (value >> 80) as u16,
                (value >> 64) as u16,
                (value as u64).to_be_bytes(),
            )),
            _ => Err(ParseGuidError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_and_text_agree_on_the_netlogon_interface() {
        // [MS-NRPC] 2.1, and the bytes of the bind in its traces.
        let text = "12345678-1234-abcd-ef00-01234567cffb";
        let guid: Guid = text.parse().expect("a GUID");
        let wire = [0x78, 0x56, 0x34, 0x12, 0x34, 0x12, 0xcd, 0xab, 0xef, 0, 1, 0x23, 0x45, 0x67, 0xcf, 0xfb];
        assert_eq!(guid.to_bytes(), wire);
        assert_eq!(Guid::from_bytes("GUID", &wire), Ok(guid));
        assert_eq!(guid.to_string(), text);
        assert_eq!("{12345678-1234-ABCD-EF00-01234567CFFB}".parse(), Ok(guid));
    }

    #[test]
    fn refuses_other_shapes() {
        for text in [
            "",
            "12345678",
            "123456781234abcdef0001234567cffb",
            "+2345678-1234-abcd-ef00-01234567cffb",
            "12345678-1234-abcd-ef00-01234567cff-",
        ] {
            assert_eq!(text.parse::<Guid>(), Err(ParseGuidError), "{text}");
        }
    }
}
