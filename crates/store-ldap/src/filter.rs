//! Search filters (RFC 4511 4.5.1.7) as values. They are never text: what a certificate says stands in an
//! element of its own, with its length before it, and never changes the shape of a filter.

use crate::ber::{self, OCTET_STRING, SEQUENCE};
use std::sync::{Arc, LazyLock};

const AND: u8 = 0xa0;
const OR: u8 = 0xa1;
const NOT: u8 = 0xa2;
const EQUAL: u8 = 0xa3;
const SUBSTRINGS: u8 = 0xa4;
const PRESENT: u8 = 0x87;
const INITIAL: u8 = 0x80;
const ANY: u8 = 0x81;

/// The name of an attribute, checked: letters, digits and hyphens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attribute(Arc<str>);

impl Attribute {
    /// `None` if the text is no short name of an attribute (RFC 4512 1.4).
    pub fn new(name: &str) -> Option<Self> {
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.len() <= 128
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        is_name.then(|| Self(name.into()))
    }

    /// One that is known to be right.
    pub(crate) fn known(name: &'static str) -> Self {
        debug_assert!(Self::new(name).is_some());
        Self(name.into())
    }

    /// `objectClass`, which is in each filter.
    pub(crate) fn object_class() -> Self {
        static NAME: LazyLock<Attribute> = LazyLock::new(|| Attribute::known("objectClass"));
        NAME.clone()
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

    /// Appends the filter in BER.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::And(filters) => {
                ber::put_nested(out, AND, |out| filters.iter().for_each(|filter| filter.write(out)));
            }
            Self::Or(filters) => {
                ber::put_nested(out, OR, |out| filters.iter().for_each(|filter| filter.write(out)));
            }
            Self::Not(filter) => ber::put_nested(out, NOT, |out| filter.write(out)),
            Self::Present(attribute) => ber::put(out, PRESENT, attribute.0.as_bytes()),
            Self::Equal(attribute, value) => ber::put_nested(out, EQUAL, |out| {
                ber::put(out, OCTET_STRING, attribute.0.as_bytes());
                ber::put(out, OCTET_STRING, value);
            }),
            Self::Pattern(attribute, initial, others) => ber::put_nested(out, SUBSTRINGS, |out| {
                ber::put(out, OCTET_STRING, attribute.0.as_bytes());
                ber::put_nested(out, SEQUENCE, |out| {
                    ber::put(out, INITIAL, initial);
                    others.iter().for_each(|other| ber::put(out, ANY, other));
                });
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ldap3::asn1::{ASNTag, PL, StructureTag, parse_tag};
    use ldap3::parse_filter;
    use proptest::prelude::*;
    use std::fmt::Write;

    /// The string representation (RFC 4515), with each byte of a value escaped.
    fn text(filter: &Filter) -> String {
        let escaped = |value: &[u8]| {
            value.iter().fold(String::new(), |mut out, byte| {
                let _ = write!(out, "\\{byte:02x}");
                out
            })
        };
        let all = |filters: &[Filter]| filters.iter().map(text).collect::<String>();
        match filter {
            Filter::And(filters) => format!("(&{})", all(filters)),
            Filter::Or(filters) => format!("(|{})", all(filters)),
            Filter::Not(filter) => format!("(!{})", text(filter)),
            Filter::Present(attribute) => format!("({}=*)", attribute.0),
            Filter::Equal(attribute, value) => format!("({}={})", attribute.0, escaped(value)),
            Filter::Pattern(attribute, initial, others) => {
                let others: String = others.iter().map(|other| escaped(other) + "*").collect();
                format!("({}={}*{others})", attribute.0, escaped(initial))
            }
        }
    }

    /// The tree of identifiers, and the values at its leaves.
    fn shape(tag: &StructureTag, leaves: &mut Vec<Vec<u8>>) -> String {
        match &tag.payload {
            PL::P(value) => {
                leaves.push(value.clone());
                format!("{:?}{}", tag.class, tag.id)
            }
            PL::C(parts) => {
                let parts: Vec<_> = parts.iter().map(|part| shape(part, leaves)).collect();
                format!("{:?}{}({})", tag.class, tag.id, parts.join(" "))
            }
        }
    }

    /// As ldap3 reads what is written here.
    fn read(filter: &Filter) -> (String, Vec<Vec<u8>>) {
        let mut written = Vec::new();
        filter.write(&mut written);
        let (rest, tag) = parse_tag(&written).unwrap_or_else(|_| panic!("{filter:?} is no element"));
        assert!(rest.is_empty());
        let mut leaves = Vec::new();
        (shape(&tag, &mut leaves), leaves)
    }

    /// As ldap3 makes it of the string representation.
    fn expected(filter: &Filter) -> (String, Vec<Vec<u8>>) {
        let text = text(filter);
        let tag = parse_filter(&text).unwrap_or_else(|()| panic!("{text} is no filter"));
        let mut leaves = Vec::new();
        (shape(&tag.into_structure(), &mut leaves), leaves)
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
        fn no_byte_changes_the_shape(value in proptest::collection::vec(any::<u8>(), 1..300)) {
            let (wanted, _) = read(&with(b"a"));
            let (shape, leaves) = read(&with(&value));
            prop_assert_eq!(&shape, &wanted);
            prop_assert_eq!(leaves.iter().filter(|leaf| **leaf == value).count(), 4);
            prop_assert_eq!((shape, leaves), expected(&with(&value)));
        }
    }

    #[test]
    fn filters_are_those_of_ldap3() {
        let cn = Attribute::known("cn");
        for filter in [
            Filter::Or(Vec::new()),
            Filter::Pattern(cn.clone(), b"X509:".to_vec(), vec![b"b".to_vec()]),
            Filter::not(Filter::not(Filter::equal(&cn, "a"))),
            Filter::And(vec![Filter::Present(cn.clone()), Filter::any([Filter::equal(&cn, [0; 70_000])])]),
        ] {
            assert_eq!(read(&filter), expected(&filter), "{filter:?}");
        }
    }

    #[test]
    fn each_single_byte_is_itself() {
        for byte in 0..=255 {
            let (shape, leaves) = read(&Filter::equal(&Attribute::known("cn"), [byte]));
            assert_eq!(
                (shape, leaves[1].clone()),
                (read(&Filter::equal(&Attribute::known("cn"), "a")).0, vec![byte])
            );
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
