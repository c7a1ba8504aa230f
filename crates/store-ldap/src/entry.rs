//! Entries of a search, decoded. Values are bytes until a schema reads them as a type.

use crate::ber::{self, ELEMENTS_MAX, Elements, Malformed, OCTET_STRING, SEQUENCE, SET};
use crate::failed::Failed;
use account_store::Account;
use dtyp::{Decode, FileTime, Guid, Sid};
use std::ops::Range;
use std::str::FromStr;

/// SearchResultEntry (RFC 4511 4.5.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its distinguished name.
    pub(crate) dn: String,
    /// PartialAttributeList, as it came.
    list: Box<[u8]>,
    /// Names, options included, and their values in `list`, sorted by name without case. Each has a value.
    attributes: Vec<Attribute>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Attribute {
    name: Range<usize>,
    values: Range<usize>,
}

fn lower(name: &[u8]) -> impl Iterator<Item = u8> {
    name.iter().map(u8::to_ascii_lowercase)
}

impl Entry {
    /// Reads the name and the attributes of an entry. Names are UTF-8, and none is there twice.
    pub(crate) fn read(dn: &[u8], list: &[u8]) -> Result<Self, Malformed> {
        let dn = utf8(dn)?.to_owned();
        let at = |part: &[u8]| {
            let begin = part.as_ptr().addr() - list.as_ptr().addr();
            begin..begin + part.len()
        };
        let mut count = ELEMENTS_MAX;
        // Groups have two attributes, and accounts some more.
        let mut attributes = Vec::with_capacity(4);
        let mut rest = Elements(list);
        while let Some(attribute) = rest.next()? {
            ber::spend(&mut count)?;
            if attribute.tag != SEQUENCE {
                return Err(Malformed("no attribute where one is expected"));
            }
            let mut parts = Elements(attribute.contents);
            let name = parts.expect(OCTET_STRING, "an attribute without a name")?;
            let values = parts.expect(SET, "an attribute without values")?;
            parts.end("bytes behind an attribute")?;
            utf8(name)?;
            ber::octet_strings(values, &mut count)?;
            if !values.is_empty() {
                attributes.push(Attribute { name: at(name), values: at(values) });
            }
        }
        let name = |attribute: &Attribute| lower(&list[attribute.name.clone()]);
        attributes.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        match attributes.windows(2).any(|pair| name(&pair[0]).eq(name(&pair[1]))) {
            true => Err(Malformed("an attribute twice in one entry")),
            false => Ok(Self { dn, list: list.into(), attributes }),
        }
    }

    #[cfg(test)]
    pub(crate) fn of(dn: &str, attributes: &[(&str, &[&str])]) -> Self {
        let mut list = Vec::new();
        for (name, values) in attributes {
            ber::put_nested(&mut list, SEQUENCE, |out| {
                ber::put(out, OCTET_STRING, name.as_bytes());
                ber::put_nested(out, SET, |out| {
                    values.iter().for_each(|value| ber::put(out, OCTET_STRING, value.as_bytes()));
                });
            });
        }
        Self::read(dn.as_bytes(), &list).expect("an entry")
    }

    /// The names of the attributes with their values.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = (&[u8], Vec<&[u8]>)> {
        self.attributes
            .iter()
            .map(|attribute| (&self.list[attribute.name.clone()], self.values_of(attribute).collect()))
    }

    fn values_of(&self, attribute: &Attribute) -> impl Iterator<Item = &[u8]> {
        let mut values = Elements(&self.list[attribute.values.clone()]);
        // All of them were read before.
        std::iter::from_fn(move || values.next().ok().flatten().map(|value| value.contents))
    }

    fn attribute(&self, name: &str) -> Option<&Attribute> {
        let order = |known: &Attribute| lower(&self.list[known.name.clone()]).cmp(lower(name.as_bytes()));
        self.attributes.binary_search_by(order).ok().map(|at| &self.attributes[at])
    }

    /// The values of an attribute; none if it is not there.
    pub(crate) fn values(&self, name: &str) -> Vec<&[u8]> {
        self.attribute(name).map(|attribute| self.values_of(attribute).collect()).unwrap_or_default()
    }

    /// The values of one part of an attribute that the server sends in ranges ([MS-ADTS] 3.1.1.3.1.3.3), and
    /// where the next part begins; `None` if there is no part.
    pub(crate) fn range(&self, name: &str) -> Option<(Vec<&[u8]>, Option<usize>)> {
        const OPTION: &[u8] = b";range=";
        let (range, attribute) = self.attributes.iter().find_map(|attribute| {
            let (base, rest) = self.list[attribute.name.clone()].split_at_checked(name.len())?;
            let (option, range) = rest.split_at_checked(OPTION.len())?;
            let is_range = base.eq_ignore_ascii_case(name.as_bytes()) && option.eq_ignore_ascii_case(OPTION);
            is_range.then_some((std::str::from_utf8(range).ok()?, attribute))
        })?;
        let next = match range.split_once('-') {
            Some((_, "*")) => None,
            // An end that is no number is never the last part: the next read does not advance, and fails.
            other => {
                let last = other.and_then(|(_, last)| last.parse::<usize>().ok());
                Some(last.map_or(usize::MAX, |last| last.saturating_add(1)))
            }
        };
        Some((self.values_of(attribute).collect(), next))
    }

    /// Whether the attribute came with a value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.attribute(name).is_some()
    }

    /// The only value; several are an error.
    fn single(&self, name: &str) -> Result<Option<&[u8]>, Failed> {
        let Some(attribute) = self.attribute(name) else { return Ok(None) };
        let mut values = self.values_of(attribute);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
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
        Ok(self.each_text(name)?.map(str::to_owned).collect())
    }

    /// The same, without copies.
    pub(crate) fn each_text(&self, name: &str) -> Result<impl Iterator<Item = &str>, Failed> {
        if self.range(name).is_some() {
            return Err(self.wrong(name, "has more values than the server sends at once"));
        }
        let texts = self.attribute(name).into_iter().flat_map(|attribute| self.values_of(attribute));
        let texts = texts.filter_map(|value| std::str::from_utf8(value).ok());
        let usable =
            |text: &&str| !text.is_empty() && text.len() <= Account::TEXT_LEN_MAX && !text.contains('\0');
        Ok(texts.filter(usable))
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

fn utf8(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed("a name that is not UTF-8"))
}

/// A SID in its packed form, and nothing after it.
pub(crate) fn sid(value: &[u8]) -> Option<Sid> {
    Sid::from_bytes("SID", value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_their_attribute_says_or_an_error() {
        let entry = Entry::of(
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
            Entry::of("CN=a", &[("tokenGroups;range=0-1499", &["x"]), ("member;range=1500-*", &["y"])]);
        assert_eq!(
            entry.range("tokenGroups").map(|(values, next)| (values.len(), next)),
            Some((1, Some(1500)))
        );
        assert_eq!(entry.range("member").map(|(_, next)| next), Some(None));
        assert_eq!(entry.range("uid"), None);
        for range in ["a;range=0-18446744073709551615", "a;range=0-1499x", "a;range=0"] {
            let entry = Entry::of("CN=a", &[(range, &["x"])]);
            assert_eq!(entry.range("a").map(|(_, next)| next), Some(Some(usize::MAX)), "{range}");
        }
        assert!(entry.texts("member").is_err());
    }
}
