//! Values of the account model as columns of a database, the same in all databases.

use crate::account::{AccountKind, GroupScope};
use crate::machines::ChannelKind;
use crate::store::StoreError;
use dtyp::Sid;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value that is not in the form in which it is written here.
pub fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(format!("{what} cannot be understood"))
}

/// A list or a profile in JSON.
pub fn to_json<T: Serialize>(value: &T) -> String {
    // INVARIANT: strings, lists of them and structs of them have a form in JSON.
    serde_json::to_string(value).expect("plain values have a form in JSON")
}

/// What [`to_json`] wrote.
pub fn from_json<T: DeserializeOwned>(json: &str) -> Result<T, StoreError> {
    serde_json::from_str(json).map_err(|_| damaged("a list"))
}

/// A list in JSON, which is empty for most accounts.
pub fn list_from_json<T: DeserializeOwned>(json: &str) -> Result<Vec<T>, StoreError> {
    match json {
        "[]" => Ok(Vec::new()),
        json => from_json(json),
    }
}

/// SIDs as a list of their texts in JSON.
pub fn sids_to_json(sids: &[Sid]) -> String {
    to_json(&sids.iter().map(Sid::to_string).collect::<Vec<_>>())
}

/// What [`sids_to_json`] wrote.
pub fn sids_from_json(json: &str) -> Result<Vec<Sid>, StoreError> {
    let texts = list_from_json::<String>(json)?;
    texts.iter().map(|sid| sid.parse().map_err(|_| damaged("a SID"))).collect()
}

/// Relative identifiers, four bytes each, little-endian.
pub fn pack_rids(rids: &[u32]) -> Vec<u8> {
    rids.iter().flat_map(|rid| rid.to_le_bytes()).collect()
}

/// What [`pack_rids`] wrote.
pub fn unpack_rids(bytes: &[u8]) -> Result<Vec<u32>, StoreError> {
    match bytes.as_chunks() {
        (rids, []) => Ok(rids.iter().copied().map(u32::from_le_bytes).collect()),
        _ => Err(damaged("group_rids")),
    }
}

const ACCOUNT_KINDS: [(AccountKind, &str); 2] =
    [(AccountKind::User, "user"), (AccountKind::Computer, "computer")];

const GROUP_SCOPES: [(GroupScope, &str); 3] =
    [(GroupScope::Global, "global"), (GroupScope::Universal, "universal"), (GroupScope::Local, "local")];

const CHANNEL_KINDS: [(ChannelKind, &str); 5] = [
    (ChannelKind::Workstation, "workstation"),
    (ChannelKind::TrustedDnsDomain, "trusted_dns_domain"),
    (ChannelKind::TrustedDomain, "trusted_domain"),
    (ChannelKind::Server, "server"),
    (ChannelKind::CdcServer, "cdc_server"),
];

/// A value of an enumeration that has a word in the database.
pub trait Word: Copy + PartialEq + Sized + 'static {
    /// All values, each with its word, and the name of the column for errors.
    const WORDS: (&'static [(Self, &'static str)], &'static str);

    /// The word for a value.
    fn word(self) -> &'static str {
        // INVARIANT: the table has every value; `every_value_has_a_word` counts them.
        Self::WORDS.0.iter().find(|(known, _)| *known == self).map_or("", |(_, word)| word)
    }

    /// The value of a word.
    fn from_word(text: &str) -> Result<Self, StoreError> {
        let found = Self::WORDS.0.iter().find(|(_, word)| *word == text);
        found.map(|(value, _)| *value).ok_or_else(|| damaged(Self::WORDS.1))
    }
}

impl Word for AccountKind {
    const WORDS: (&'static [(Self, &'static str)], &'static str) = (&ACCOUNT_KINDS, "account.kind");
}

impl Word for GroupScope {
    const WORDS: (&'static [(Self, &'static str)], &'static str) = (&GROUP_SCOPES, "account_group.scope");
}

impl Word for ChannelKind {
    const WORDS: (&'static [(Self, &'static str)], &'static str) = (&CHANNEL_KINDS, "machine.kind");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_word() {
        for value in (0..=u16::from(u8::MAX)).filter_map(ChannelKind::from_value) {
            assert_eq!(ChannelKind::from_word(value.word()).expect("it has a word"), value);
        }
        for value in [AccountKind::User, AccountKind::Computer] {
            assert_eq!(AccountKind::from_word(value.word()).expect("it has a word"), value);
        }
        for value in [GroupScope::Global, GroupScope::Universal, GroupScope::Local] {
            assert_eq!(GroupScope::from_word(value.word()).expect("it has a word"), value);
        }
        assert!(AccountKind::from_word("").is_err());
    }

    #[test]
    fn relative_identifiers_are_packed_and_damage_is_seen() {
        assert_eq!(unpack_rids(&pack_rids(&[513, u32::MAX])).expect("they are whole"), [513, u32::MAX]);
        assert!(unpack_rids(&[1, 2, 0]).is_err());
    }
}
