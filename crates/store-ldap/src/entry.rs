//! Entries of a search, decoded. Values are bytes until a schema reads them as a type.

use crate::failed::Failed;
use account_store::Account;
use dtyp::{Decode, FileTime, Guid, Sid};
use ldap3::asn1::{PL, StructureTag};
use std::collections::HashMap;
use std::str::FromStr;

/// SearchResultEntry (RFC 4511 4.5.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its distinguished name.
    pub(crate) dn: String,
    /// By name in lower case, options included.
    attributes: HashMap<String, Vec<Vec<u8>>>,
}

impl Entry {
    /// Of what ldap3 has read; `None` for anything but an entry.
    pub(crate) fn read(tag: StructureTag) -> Option<Self> {
        let mut parts = constructed(tag)?.into_iter();
        let dn = String::from_utf8(primitive(parts.next()?)?).ok()?;
        let mut attributes = HashMap::new();
        for attribute in constructed(parts.next()?)? {
            let mut parts = constructed(attribute)?.into_iter();
            let name = String::from_utf8(primitive(parts.next()?)?).ok()?.to_ascii_lowercase();
            let values =
                constructed(parts.next()?)?.into_iter().map(primitive).collect::<Option<Vec<_>>>()?;
            if !values.is_empty() {
                attributes.insert(name, values);
            }
        }
        Some(Self { dn, attributes })
    }

    #[cfg(test)]
    pub(crate) fn new(dn: &str, attributes: &[(&str, &[&str])]) -> Self {
        let attributes = attributes.iter().map(|(name, values)| {
            (name.to_ascii_lowercase(), values.iter().map(|value| value.as_bytes().to_vec()).collect())
        });
        Self { dn: dn.to_owned(), attributes: attributes.collect() }
    }

    /// The values of an attribute; none if it is not there.
    pub(crate) fn values(&self, name: &str) -> &[Vec<u8>] {
        self.attributes.get(&name.to_ascii_lowercase()).map_or(&[], Vec::as_slice)
    }

    /// The values of one part of an attribute that the server sends in ranges ([MS-ADTS] 3.1.1.3.1.3.3), and
    /// where the next part begins; `None` if there is no part.
    pub(crate) fn range(&self, name: &str) -> Option<(&[Vec<u8>], Option<usize>)> {
        let prefix = format!("{};range=", name.to_ascii_lowercase());
        let (range, values) =
            self.attributes.iter().find_map(|(name, values)| Some((name.strip_prefix(&prefix)?, values)))?;
        let next = match range.split_once('-') {
            Some((_, "*")) => None,
            // An end that is no number is never the last part: the next read does not advance, and fails.
            other => {
                let last = other.and_then(|(_, last)| last.parse::<usize>().ok());
                Some(last.map_or(usize::MAX, |last| last.saturating_add(1)))
            }
        };
        Some((values, next))
    }

    /// Whether the attribute came with a value.
    pub(crate) fn has(&self, name: &str) -> bool {
        !self.values(name).is_empty()
    }

    /// The only value; several are an error.
    fn single(&self, name: &str) -> Result<Option<&[u8]>, Failed> {
        match self.values(name) {
            [] => Ok(None),
            [value] => Ok(Some(value)),
            _ => Err(self.wrong(name, "has several values")),
        }
    }

    /// The only value as text.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, Failed> {
        let text = |value| std::str::from_utf8(value).map_err(|_| self.wrong(name, "is not UTF-8"));
        self.single(name)?.map(text).transpose()
    }

    /// The values that are text which an account can have. A value that is not UTF-8, has a NUL or is longer
    /// than [`Account::TEXT_LEN_MAX`] equals no value of a certificate.
    pub(crate) fn texts(&self, name: &str) -> Result<Vec<String>, Failed> {
        if self.range(name).is_some() {
            return Err(self.wrong(name, "has more values than the server sends at once"));
        }
        let texts = self.values(name).iter().filter_map(|value| std::str::from_utf8(value).ok());
        let usable =
            |text: &&str| !text.is_empty() && text.len() <= Account::TEXT_LEN_MAX && !text.contains('\0');
        Ok(texts.filter(usable).map(str::to_owned).collect())
    }

    /// The only value as a number.
    pub(crate) fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, Failed> {
        let number = |text: &str| text.parse().map_err(|_| self.wrong(name, "is not a number in its range"));
        self.text(name)?.map(number).transpose()
    }

    /// A number that has to be there: if it is not, the store may not read it.
    pub(crate) fn required<T: FromStr>(&self, name: &str) -> Result<T, Failed> {
        self.number(name)?
            .ok_or_else(|| self.wrong(name, "is missing, or may not be read by the store's account"))
    }

    /// The only value as a SID.
    pub(crate) fn sid(&self, name: &str) -> Result<Option<Sid>, Failed> {
        let sid = |value| sid(value).ok_or_else(|| self.wrong(name, "is not a SID"));
        self.single(name)?.map(sid).transpose()
    }

    /// The only value as a GUID.
    pub(crate) fn guid(&self, name: &str) -> Result<Option<Guid>, Failed> {
        let guid =
            |value: &[u8]| Guid::from_bytes("GUID", value).map_err(|_| self.wrong(name, "is not a GUID"));
        self.single(name)?.map(guid).transpose()
    }

    /// The only value as a time of the form `YYYYMMDDhhmmss[.f]Z` (RFC 4517 3.3.13).
    pub(crate) fn time(&self, name: &str) -> Result<Option<FileTime>, Failed> {
        let time = |text: &str| {
            FileTime::from_generalized_time(text).ok_or_else(|| self.wrong(name, "is not a time in UTC"))
        };
        self.text(name)?.map(time).transpose()
    }

    /// The error for an attribute that is not as it has to be. Its value is not in it.
    pub(crate) fn wrong(&self, name: &str, why: &str) -> Failed {
        Failed::Data(format!("{name} of {:?} {why}", self.dn))
    }
}

/// A SID in its packed form, and nothing after it.
pub(crate) fn sid(value: &[u8]) -> Option<Sid> {
    Sid::from_bytes("SID", value).ok()
}

fn constructed(tag: StructureTag) -> Option<Vec<StructureTag>> {
    match tag.payload {
        PL::C(parts) => Some(parts),
        PL::P(_) => None,
    }
}

fn primitive(tag: StructureTag) -> Option<Vec<u8>> {
    match tag.payload {
        PL::P(value) => Some(value),
        PL::C(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_their_attribute_says_or_an_error() {
        let entry = Entry::new(
            "CN=a",
            &[
                ("uid", &["alice"]),
                ("uidNumber", &["1000"]),
                ("wrong", &["x"]),
                ("two", &["1", "2"]),
                ("whenCreated", &["20261130075539.0Z"]),
                ("mapping", &["X509:<S>CN=a", "", "a\0b"]),
            ],
        );
        assert_eq!(entry.text("UID"), Ok(Some("alice")));
        assert_eq!(entry.required::<u32>("uidnumber"), Ok(1000));
        assert_eq!(
            entry.time("whenCreated").map(|time| time.map(FileTime::to_unix)),
            Ok(Some(1_796_025_339))
        );
        assert_eq!(entry.texts("mapping"), Ok(vec!["X509:<S>CN=a".to_owned()]));
        assert_eq!(entry.number::<u32>("absent"), Ok(None));
        assert!(entry.number::<u8>("uidNumber").is_err());
        for error in [
            entry.number::<u32>("wrong").map(drop),
            entry.text("two").map(drop),
            entry.required::<u32>("absent").map(drop),
            entry.sid("wrong").map(drop),
            entry.guid("wrong").map(drop),
            entry.time("wrong").map(drop),
        ] {
            assert!(error.is_err_and(|error| error.to_string().starts_with("store: data: ")));
        }
        for text in [
            "2026113007553Z",
            "20261130075539",
            "20261330075539Z",
            "20261130075539.Z",
            "2026113007553\u{e9}Z",
            "+0261130075539Z",
        ] {
            assert_eq!(FileTime::from_generalized_time(text), None, "{text}");
        }
    }

    #[test]
    fn ranges_tell_where_the_next_part_begins() {
        let entry =
            Entry::new("CN=a", &[("tokenGroups;range=0-1499", &["x"]), ("member;range=1500-*", &["y"])]);
        assert_eq!(
            entry.range("tokenGroups").map(|(values, next)| (values.len(), next)),
            Some((1, Some(1500)))
        );
        assert_eq!(entry.range("member").map(|(_, next)| next), Some(None));
        assert_eq!(entry.range("uid"), None);
        for range in ["a;range=0-18446744073709551615", "a;range=0-1499x", "a;range=0"] {
            let entry = Entry::new("CN=a", &[(range, &["x"])]);
            assert_eq!(entry.range("a").map(|(_, next)| next), Some(Some(usize::MAX)), "{range}");
        }
        assert!(entry.texts("member").is_err());
    }
}
