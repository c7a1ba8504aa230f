//! [MS-NLMP] 2.2.2.1 AV_PAIR: the list of target information.

use dtyp::{DecodeError, DecodeErrorKind, FileTime, Reader, utf16le};

/// AvId.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AvId(pub u16);

impl AvId {
    /// The end of the list.
    pub const EOL: Self = Self(0);
    /// NetBIOS name of the server.
    pub const NB_COMPUTER_NAME: Self = Self(1);
    /// NetBIOS name of its domain.
    pub const NB_DOMAIN_NAME: Self = Self(2);
    /// DNS name of the server.
    pub const DNS_COMPUTER_NAME: Self = Self(3);
    /// DNS name of its domain.
    pub const DNS_DOMAIN_NAME: Self = Self(4);
    /// DNS name of its forest.
    pub const DNS_TREE_NAME: Self = Self(5);
    /// MsvAvFlags.
    pub const FLAGS: Self = Self(6);
    /// The server's time.
    pub const TIMESTAMP: Self = Self(7);
    /// The SPN that the client means.
    pub const TARGET_NAME: Self = Self(9);
    /// MD5 of the channel bindings.
    pub const CHANNEL_BINDINGS: Self = Self(10);
}

/// MsvAvFlags: the AUTHENTICATE has a MIC.
pub(super) const AV_FLAG_MIC: u32 = 2;
/// MsvAvFlags: the SPN comes from a source that the client does not trust.
pub(super) const AV_FLAG_UNTRUSTED_SPN: u32 = 4;

/// A list without its end. Each AvId is there once at most: which of two counts would be the reader's choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AvPairs(Vec<(AvId, Vec<u8>)>);

impl AvPairs {
    /// Reads a list up to its end. Bytes behind it are allowed (note <30> of the document) and left unread.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut pairs = Self::default();
        loop {
            let id = AvId(reader.u16("AvId")?);
            let len = usize::from(reader.u16("AvLen")?);
            if id == AvId::EOL {
                return match len {
                    0 => Ok(pairs),
                    _ => Err(reader.error("AvLen of MsvAvEOL", DecodeErrorKind::BadValue)),
                };
            }
            if pairs.get(id).is_some() {
                return Err(reader.error("AvId that came before", DecodeErrorKind::BadValue));
            }
            let value = reader.take("AV_PAIR value", len)?;
            let has_its_length = match id {
                AvId::FLAGS => len == 4,
                AvId::TIMESTAMP => len == 8,
                AvId::CHANNEL_BINDINGS => len == 16,
                _ => true,
            };
            if !has_its_length {
                return Err(reader.error("AvLen", DecodeErrorKind::BadValue));
            }
            pairs.0.push((id, value.to_vec()));
        }
    }

    /// The value of an AvId.
    pub fn get(&self, id: AvId) -> Option<&[u8]> {
        self.0.iter().find(|(other, _)| *other == id).map(|(_, value)| &value[..])
    }

    /// MsvAvFlags; zero if they are not there.
    pub fn flags(&self) -> u32 {
        self.get(AvId::FLAGS).and_then(|value| value.try_into().ok()).map_or(0, u32::from_le_bytes)
    }

    /// The time of the server.
    pub fn timestamp(&self) -> Option<FileTime> {
        self.get(AvId::TIMESTAMP)
            .and_then(|value| value.try_into().ok())
            .map(|value| FileTime(u64::from_le_bytes(value)))
    }

    /// Adds a value at the end, or replaces the one that is there.
    pub fn set(&mut self, id: AvId, value: Vec<u8>) {
        match self.0.iter_mut().find(|(other, _)| *other == id) {
            Some((_, old)) => *old = value,
            None => self.0.push((id, value)),
        }
    }

    /// The same with text in UTF-16LE.
    pub fn set_text(&mut self, id: AvId, text: &str) {
        self.set(id, utf16le(text));
    }

    /// The pairs, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (AvId, &[u8])> {
        self.0.iter().map(|(id, value)| (*id, &value[..]))
    }

    /// Appends the list and its end. A value has at most 65,535 bytes: names have at most 255 characters.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let end = (AvId::EOL, &[][..]);
        for (id, value) in self.iter().chain([end]) {
            out.extend_from_slice(&id.0.to_le_bytes());
            out.extend_from_slice(&(value.len() as u16).to_le_bytes());
            out.extend_from_slice(value);
        }
    }
}
