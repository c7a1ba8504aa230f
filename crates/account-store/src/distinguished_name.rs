//! Distinguished names as text, the way Windows writes them into `altSecurityIdentities`.
//!
//! Order is the certificate's (root-most first), values are quoted as CertNameToStr quotes X.500 names,
//! relative names are joined by a bare `,` and the values of one by ` + `. Reading accepts what operators
//! type: a space after the comma, `ST` for `S`, `emailAddress` for `E`, dotted object identifiers. It accepts
//! values of one relative name that are joined by a space, as Active Directory's own tools store them
//! (CERT_NAME_STR_NO_PLUS_FLAG of CertNameToStr): a value with a `=` is quoted, so a known word and a `=`
//! after a space begin the next value. A `,` or `+` that should have been quoted makes the text unreadable
//! instead of making it another name.

use crate::fold::Comparison;
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// [X.501] Name: relative distinguished names, root-most first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DistinguishedName(pub Vec<Rdn>);

/// [X.501] RelativeDistinguishedName: one value, rarely more; in the order of the certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rdn(pub Vec<AttributeTypeAndValue>);

/// [X.501] AttributeTypeAndValue.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttributeTypeAndValue {
    /// What the value is of.
    pub attribute: Attribute,
    /// The value.
    pub value: Value,
}

/// An attribute type by the word Windows prints for it: `CN`, `S`, `OID.1.2.3`. Equal words are equal types.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attribute(Cow<'static, str>);

/// An attribute's value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    /// A string of any ASN.1 string type, decoded.
    Text(String),
    /// The DER of a value that is no string; printed as `#` and hex.
    Encoded(Vec<u8>),
}

/// Object identifier, Windows' word and other words for it.
const KEYWORDS: &[(&str, &str, &[&str])] = &[
    ("2.5.4.3", "CN", &["COMMONNAME"]),
    ("2.5.4.6", "C", &["COUNTRYNAME"]),
    ("2.5.4.8", "S", &["ST", "STATEORPROVINCENAME"]),
    ("2.5.4.10", "O", &["ORGANIZATIONNAME"]),
    ("2.5.4.11", "OU", &["ORGANIZATIONALUNITNAME"]),
    ("0.9.2342.19200300.100.1.25", "DC", &["DOMAINCOMPONENT"]),
    ("2.5.4.9", "STREET", &["STREETADDRESS"]),
    ("2.5.4.7", "L", &["LOCALITYNAME"]),
    ("2.5.4.12", "T", &["TITLE"]),
    ("2.5.4.5", "SERIALNUMBER", &[]),
    ("1.2.840.113549.1.9.1", "E", &["EMAIL", "EMAILADDRESS"]),
    ("2.5.4.46", "dnQualifier", &[]),
    ("2.5.4.4", "SN", &["SURNAME"]),
    ("2.5.4.42", "G", &["GN", "GIVENNAME"]),
    ("2.5.4.43", "I", &["INITIALS"]),
    ("2.5.4.13", "Description", &[]),
    ("2.5.4.17", "PostalCode", &[]),
    ("2.5.4.18", "POBox", &["POSTOFFICEBOX"]),
    ("2.5.4.20", "Phone", &["TELEPHONENUMBER"]),
    ("2.5.4.24", "X21Address", &["X121ADDRESS"]),
    ("0.9.2342.19200300.100.1.1", "OID.0.9.2342.19200300.100.1.1", &["UID", "USERID"]),
];

impl Attribute {
    /// Of a dotted object identifier, as the certificate has it.
    pub fn from_oid(oid: &str) -> Self {
        match KEYWORDS.iter().find(|(known, ..)| *known == oid) {
            Some((_, word, _)) => Self(Cow::Borrowed(word)),
            None => Self(Cow::Owned(format!("OID.{oid}"))),
        }
    }

    /// Of a word in a text, in any case and by any of its names. An unknown word is kept.
    fn from_word(word: &str) -> Option<Self> {
        let dotted = match word.get(..4) {
            Some(prefix) if prefix.eq_ignore_ascii_case("OID.") => Some(&word[4..]),
            _ => word.starts_with(|c: char| c.is_ascii_digit()).then_some(word),
        };
        if let Some(oid) = dotted {
            let is_arc = |arc: &str| {
                !arc.is_empty()
                    && arc.bytes().all(|b| b.is_ascii_digit())
                    && (arc == "0" || !arc.starts_with('0'))
            };
            return (oid.contains('.') && oid.split('.').all(is_arc)).then(|| Self::from_oid(oid));
        }
        if word.is_empty() || !word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return None;
        }
        let known = KEYWORDS.iter().find(|(_, own, others)| {
            own.eq_ignore_ascii_case(word) || others.iter().any(|other| other.eq_ignore_ascii_case(word))
        });
        Some(match known {
            Some((_, own, _)) => Self(Cow::Borrowed(own)),
            None => Self(Cow::Owned(word.to_ascii_uppercase())),
        })
    }

    /// The word.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a certificate can have it: its object identifier is known. A word of another program that is
    /// not known here is kept and matches nothing.
    pub fn is_known(&self) -> bool {
        self.0.starts_with("OID.") || KEYWORDS.iter().any(|(_, own, _)| *own == self.0)
    }
}

impl DistinguishedName {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first attribute type that no certificate has, because its word is not known.
    pub fn unknown_attribute(&self) -> Option<&Attribute> {
        self.0
            .iter()
            .flat_map(|rdn| &rdn.0)
            .map(|part| &part.attribute)
            .find(|attribute| !attribute.is_known())
    }

    /// The text that is the same for all spellings of this name: names are equal when their keys are.
    pub fn key_by(&self, comparison: Comparison) -> String {
        self.folded(comparison).to_string()
    }

    /// The name all spellings of which are equal: values folded, and the values of one relative name sorted,
    /// since they are a set. Folding comes before quoting, so a wide comma in a value stays inside its value.
    pub(crate) fn folded(&self, comparison: Comparison) -> Self {
        let fold = |part: &AttributeTypeAndValue| AttributeTypeAndValue {
            attribute: part.attribute.clone(),
            value: match &part.value {
                Value::Text(text) => Value::Text(comparison.key(text).into_owned()),
                Value::Encoded(der) => Value::Encoded(der.clone()),
            },
        };
        Self(
            self.0
                .iter()
                .map(|rdn| {
                    let mut parts: Vec<_> = rdn.0.iter().map(fold).collect();
                    parts.sort();
                    Rdn(parts)
                })
                .collect(),
        )
    }
}

impl fmt::Display for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, rdn) in self.0.iter().enumerate() {
            for (m, part) in rdn.0.iter().enumerate() {
                f.write_str(match (n, m) {
                    (0, 0) => "",
                    (_, 0) => ",",
                    _ => " + ",
                })?;
                write!(f, "{}={}", part.attribute.0, part.value)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => match needs_quotes(text) {
                true => write!(f, "\"{}\"", text.replace('"', "\"\"")),
                false => f.write_str(text),
            },
            Self::Encoded(der) => write!(f, "#{}", dtyp::hex(der)),
        }
    }
}

fn needs_quotes(text: &str) -> bool {
    text.is_empty()
        || text.starts_with(char::is_whitespace)
        || text.ends_with(char::is_whitespace)
        || text.contains([',', '+', '=', '"', '\n', '\r', '<', '>', '#', ';'])
}

/// Why a text is no distinguished name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseNameError {
    /// There is no `=` after an attribute's word, or the word is none.
    #[error("attribute type expected")]
    Attribute,
    /// A quote that is not closed, or that stands inside of a value.
    #[error("misplaced quote")]
    Quote,
    /// Characters that have to be quoted, or `#` without hex.
    #[error("value has to be quoted")]
    Value,
    /// No name, or no value, between two separators.
    #[error("empty name or value")]
    Empty,
}

impl FromStr for DistinguishedName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        let mut rest = text;
        let mut rdns = Vec::new();
        let mut rdn = Vec::new();
        loop {
            let (word, after) = rest.split_once('=').ok_or(match rest.trim().is_empty() {
                true => ParseNameError::Empty,
                false => ParseNameError::Attribute,
            })?;
            let attribute = Attribute::from_word(word.trim()).ok_or(ParseNameError::Attribute)?;
            let (value, after) = value(after.trim_start_matches(' '))?;
            rdn.push(AttributeTypeAndValue { attribute, value });
            let mut separator = after.chars();
            rest = match separator.next() {
                Some('+') => separator.as_str(),
                Some(',') => {
                    rdns.push(Rdn(std::mem::take(&mut rdn)));
                    separator.as_str()
                }
                // The next value of the same relative name, behind a space.
                Some(_) => after,
                None => {
                    rdns.push(Rdn(rdn));
                    return Ok(Self(rdns));
                }
            };
        }
    }
}

/// Whether a text begins with a known word and a `=`: with the next value of a relative name whose values are
/// joined by a space.
fn begins_value(text: &str) -> bool {
    let word = text.split_once('=').map(|(word, _)| word.trim_end_matches(' '));
    word.is_some_and(|word| {
        !word.contains(' ') && Attribute::from_word(word).is_some_and(|attribute| attribute.is_known())
    })
}

/// One value, and what follows it: nothing, a separator, or the next value of the same relative name.
fn value(text: &str) -> Result<(Value, &str), ParseNameError> {
    if let Some(quoted) = text.strip_prefix('"') {
        let mut value = String::new();
        let mut rest = quoted;
        loop {
            let (part, after) = rest.split_once('"').ok_or(ParseNameError::Quote)?;
            value.push_str(part);
            match after.strip_prefix('"') {
                Some(after) => {
                    value.push('"');
                    rest = after;
                }
                None => {
                    let spaced = after.starts_with(' ');
                    let after = after.trim_start_matches(' ');
                    let is_next = spaced && begins_value(after);
                    return match after.is_empty() || after.starts_with([',', '+']) || is_next {
                        true => Ok((Value::Text(value), after)),
                        false => Err(ParseNameError::Quote),
                    };
                }
            }
        }
    }
    let end = text.find([',', '+']).unwrap_or(text.len());
    // The first `=` can only be that of the next value, whose word begins behind the last space before it.
    let next = text[..end].split_once('=').and_then(|(before, _)| {
        let at = before.trim_end_matches(' ').rfind(' ')? + 1;
        begins_value(&text[at..end]).then_some(at)
    });
    let (value, after) = text.split_at(next.unwrap_or(end));
    let value = value.trim_matches(' ');
    if value.is_empty() {
        return Err(ParseNameError::Empty);
    }
    if let Some(digits) = value.strip_prefix('#') {
        return Ok((Value::Encoded(from_hex(digits).ok_or(ParseNameError::Value)?), after));
    }
    match value.contains(['"', '=']) {
        true => Err(if value.contains('"') { ParseNameError::Quote } else { ParseNameError::Value }),
        false => Ok((Value::Text(value.to_owned()), after)),
    }
}

/// Bytes from hex digits in either case; `None` for anything else and for nothing.
pub(crate) fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let mut bytes = vec![0; digits.len() / 2];
    dtyp::read_hex(digits.as_bytes(), &mut bytes)?;
    Some(bytes).filter(|bytes| !bytes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_writes_the_canonical_text() {
        for (text, canonical) in [
            ("DC=com,DC=contoso,OU=Users,CN=Alice Smith", "DC=com,DC=contoso,OU=Users,CN=Alice Smith"),
            ("dc=com, dc = contoso ,ou= Users", "DC=com,DC=contoso,OU=Users"),
            (r#"C=US,O="Contoso, Ltd.",CN=Contoso Root"#, r#"C=US,O="Contoso, Ltd.",CN=Contoso Root"#),
            ("ST=Bavaria,emailAddress=a@b.c", "S=Bavaria,E=a@b.c"),
            ("OID.2.5.4.3=a,2.5.4.8=b,OID.1.2.3=c", "CN=a,S=b,OID.1.2.3=c"),
            ("UID=alice", "OID.0.9.2342.19200300.100.1.1=alice"),
            (r#"CN="say ""hi""""#, r#"CN="say ""hi""""#),
            (r#"CN="plain""#, "CN=plain"),
            (r#"CN="""#, r#"CN="""#),
            (r#"CN=" lead""#, r#"CN=" lead""#),
            ("CN=a+E=b, CN=c", "CN=a + E=b,CN=c"),
            (r#"CN="a+b" + OU="c;d""#, r#"CN="a+b" + OU="c;d""#),
            ("CN=#0403AbCd", "CN=#0403abcd"),
            (r##"CN="#0403""##, r##"CN="#0403""##),
            ("X-UNKNOWN=x", "X-UNKNOWN=x"),
            ("Phone=49 30 1,telephoneNumber=1", "Phone=49 30 1,Phone=1"),
            (r#"OID.2.5.4.20="+49 30 1",2.5.4.24=1"#, r#"Phone="+49 30 1",X21Address=1"#),
            ("x121address=1,X21ADDRESS=2", "X21Address=1,X21Address=2"),
            ("CN=a  b", "CN=a  b"),
            ("CN=a\\b", "CN=a\\b"),
        ] {
            let name: DistinguishedName = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(name.to_string(), canonical, "{text}");
            assert_eq!(canonical.parse(), Ok(name), "{text}");
        }
    }

    #[test]
    fn reads_multi_valued_names_as_active_directory_stores_them() {
        let parsed = |text: &str| text.parse::<DistinguishedName>();
        for (stored, canonical) in [
            (
                "C=US,O=Agency,OID.0.9.2342.19200300.100.1.1=1337 CN=JANE DOE (Affiliate)",
                "C=US,O=Agency,OID.0.9.2342.19200300.100.1.1=1337 + CN=JANE DOE (Affiliate)",
            ),
            ("CN=JANE DOE UID=1337,O=x", "CN=JANE DOE + OID.0.9.2342.19200300.100.1.1=1337,O=x"),
            ("CN=a  SERIALNUMBER=b E=c@d", "CN=a + SERIALNUMBER=b + E=c@d"),
            ("CN=a OU =b", "CN=a + OU=b"),
            (r#"UID=1 CN="DOE, JANE",C=US"#, r#"OID.0.9.2342.19200300.100.1.1=1 + CN="DOE, JANE",C=US"#),
            (r#"O="Contoso, Ltd." CN=a"#, r#"O="Contoso, Ltd." + CN=a"#),
            (r#"CN="a OU=b""#, r#"CN="a OU=b""#),
            ("CN=a OID.1.2.3=#0401aa", "CN=a + OID.1.2.3=#0401aa"),
        ] {
            let name = parsed(stored).unwrap_or_else(|error| panic!("{stored}: {error}"));
            assert_eq!(name.to_string(), canonical, "{stored}");
            assert_eq!(parsed(canonical).map(|name| name.to_string()).as_deref(), Ok(canonical));
        }
        // A set has no order; and a value that pretends to be two is quoted.
        let key = |text: &str| parsed(text).expect("it is a name").key_by(Comparison::Windows);
        assert_eq!(key("CN=a OU=b"), key("OU=b + CN=a"));
        assert_ne!(key("CN=a OU=b"), key(r#"CN="a OU=b""#));
        for (text, error) in [
            // A word that is not known may be part of a value.
            ("CN=a FOO=b", ParseNameError::Value),
            ("CN=a 1+1=b", ParseNameError::Attribute),
            ("CN=OU=b", ParseNameError::Value),
            (r#"CN="a"OU=b"#, ParseNameError::Quote),
            ("CN=a OU=", ParseNameError::Empty),
        ] {
            assert_eq!(parsed(text), Err(error), "{text}");
        }
    }

    #[test]
    fn words_of_other_programs_are_told() {
        let unknown = |text: &str| {
            let name = text.parse::<DistinguishedName>().expect("it is a name");
            name.unknown_attribute().map(|attribute| attribute.as_str().to_owned())
        };
        assert_eq!(unknown("CN=a,Phone=1,UID=b,OID.1.2.3=c,emailAddress=d"), None);
        assert_eq!(unknown("CN=a,pseudonym=b").as_deref(), Some("PSEUDONYM"));
    }

    #[test]
    fn refuses_what_could_be_read_in_two_ways() {
        use ParseNameError::{Attribute, Empty, Quote, Value};
        for (text, error) in [
            ("", Empty),
            (" ", Empty),
            ("CN", Attribute),
            ("=a", Attribute),
            ("C N=a", Attribute),
            ("1=a", Attribute),
            ("1.02=a", Attribute),
            ("OID.=a", Attribute),
            ("CN=", Empty),
            ("CN=,O=a", Empty),
            ("CN=a,", Empty),
            ("CN=a,,O=b", Attribute),
            ("O=Contoso, Ltd.", Attribute),
            ("CN=a+b", Attribute),
            ("CN=a=b", Value),
            ("CN=#", Value),
            ("CN=#123", Value),
            ("CN=#zz", Value),
            (r#"CN="a"#, Quote),
            (r#"CN=a"b"#, Quote),
            (r#"CN="a"b"#, Quote),
            (r#"CN="a" b=c"#, Quote),
        ] {
            assert_eq!(text.parse::<DistinguishedName>(), Err(error), "{text}");
        }
    }
}
