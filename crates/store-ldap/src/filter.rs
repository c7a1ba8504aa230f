//! Search filters (RFC 4511 4.5.1.7) as values. Text becomes a filter in one place, [`Filter::text`], and each
//! byte of a value that is no ASCII letter or digit is escaped there (RFC 4515 3): what a certificate says
//! never changes the shape of a filter.

use std::fmt::Write;

/// The name of an attribute, checked: letters, digits and hyphens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attribute(String);

impl Attribute {
    /// `None` if the text is no short name of an attribute (RFC 4512 1.4).
    pub fn new(name: &str) -> Option<Self> {
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.len() <= 128
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        is_name.then(|| Self(name.to_owned()))
    }

    /// One that is known to be right.
    pub(crate) fn known(name: &'static str) -> Self {
        debug_assert!(Self::new(name).is_some());
        Self(name.to_owned())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    And(Vec<Filter>),
    Or(Vec<Filter>),
    Not(Box<Filter>),
    Present(Attribute),
    Equal(Attribute, Vec<u8>),
    /// The value begins with the first text, and has the others in it, in this order. No text is empty.
    Pattern(Attribute, Vec<u8>, Vec<Vec<u8>>),
}

impl Filter {
    pub(crate) fn equal(attribute: &Attribute, value: impl Into<Vec<u8>>) -> Self {
        Self::Equal(attribute.clone(), value.into())
    }

    pub(crate) fn not(inner: Self) -> Self {
        Self::Not(Box::new(inner))
    }

    /// One of several; the only one, if there is one.
    pub(crate) fn any(filters: impl IntoIterator<Item = Self>) -> Self {
        let mut filters: Vec<_> = filters.into_iter().collect();
        match filters.len() {
            1 => filters.remove(0),
            _ => Self::Or(filters),
        }
    }

    /// The string representation (RFC 4515).
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        out.push('(');
        match self {
            Self::And(filters) | Self::Or(filters) => {
                out.push(if matches!(self, Self::And(_)) { '&' } else { '|' });
                filters.iter().for_each(|filter| filter.write(out));
            }
            Self::Not(filter) => {
                out.push('!');
                filter.write(out);
            }
            Self::Present(attribute) => {
                out.push_str(&attribute.0);
                out.push_str("=*");
            }
            Self::Equal(attribute, value) => {
                out.push_str(&attribute.0);
                out.push('=');
                escape(value, out);
            }
            Self::Pattern(attribute, initial, others) => {
                out.push_str(&attribute.0);
                out.push('=');
                escape(initial, out);
                out.push('*');
                for other in others {
                    escape(other, out);
                    out.push('*');
                }
            }
        }
        out.push(')');
    }
}

fn escape(value: &[u8], out: &mut String) {
    for byte in value {
        match byte.is_ascii_alphanumeric() {
            true => out.push(char::from(*byte)),
            // Writing to a string does not fail.
            false => drop(write!(out, "\\{byte:02x}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ldap3::asn1::{PL, StructureTag, Tag};
    use ldap3::parse_filter;
    use proptest::prelude::*;

    /// The tree that ldap3 reads: identifiers, and the values at its leaves.
    fn shape(tag: &StructureTag, leaves: &mut Vec<Vec<u8>>) -> String {
        match &tag.payload {
            PL::P(value) => {
                leaves.push(value.clone());
                format!("{}", tag.id)
            }
            PL::C(parts) => {
                format!(
                    "{}({})",
                    tag.id,
                    parts.iter().map(|part| shape(part, leaves)).collect::<Vec<_>>().join(" ")
                )
            }
        }
    }

    pub(crate) fn read(filter: &Filter) -> (String, Vec<Vec<u8>>) {
        let text = filter.text();
        let read: Tag = parse_filter(&text).unwrap_or_else(|()| panic!("{text} is no filter"));
        let mut leaves = Vec::new();
        let shape = shape(&ldap3::asn1::ASNTag::into_structure(read), &mut leaves);
        (shape, leaves)
    }

    fn with(value: &[u8]) -> Filter {
        let attribute = Attribute::known("altSecurityIdentities");
        Filter::And(vec![
            Filter::equal(&Attribute::known("objectClass"), "user"),
            Filter::Or(vec![
                Filter::equal(&attribute, value),
                Filter::not(Filter::Present(attribute.clone())),
                Filter::Pattern(attribute.clone(), value.to_vec(), vec![value.to_vec(), value.to_vec()]),
            ]),
        ])
    }

    proptest! {
        /// Whatever bytes a certificate puts into a value: the filter is the same, and the value is theirs.
        #[test]
        fn no_byte_changes_the_shape(value in proptest::collection::vec(any::<u8>(), 1..200)) {
            let (expected, _) = read(&with(b"a"));
            let (shape, leaves) = read(&with(&value));
            prop_assert_eq!(shape, expected);
            prop_assert_eq!(leaves.iter().filter(|leaf| **leaf == value).count(), 4);
        }
    }

    #[test]
    fn each_single_byte_is_itself() {
        for byte in 0..=255 {
            let (shape, leaves) = read(&Filter::equal(&Attribute::known("cn"), [byte]));
            assert_eq!((shape.as_str(), &leaves[1][..]), ("3(4 4)", &[byte][..]));
        }
    }

    #[test]
    fn names_of_attributes_are_checked() {
        for name in ["uid", "msDS-User-Account-Control-Computed", "x1"] {
            assert!(Attribute::new(name).is_some(), "{name}");
        }
        for name in ["", "1a", "a b", "a)(b", "a=*", "a;binary", "\u{e9}", "a\0"] {
            assert!(Attribute::new(name).is_none(), "{name}");
        }
    }
}
