//! How the tables write bytes down, so that a reader sees what is in them.
//!
//! `30{ 06{ 1.2.840 } 0c{ "a" } }` is an element of tag 30 (hex) with two elements in it: an object
//! identifier and a text.
//!
//! | written | is |
//! | --- | --- |
//! | `30{ … }` | an element, its length as DER has it |
//! | `30:1{ … }`, `30:2{ … }`, `30:4{ … }` | its length in that many octets behind 81, 82, 84 |
//! | `30:+1{ … }`, `30:-1{ … }` | its length one too many, one too few |
//! | `30:i{ … }` | of indefinite length |
//! | `1.2.840` | contents octets of an object identifier |
//! | `"text"`, `u16"text"`, `u32"text"`, `l1"text"` | text in UTF-8, UTF-16 and UTF-32 (big-endian), Latin-1 |
//! | `00ff` | bytes |
//! | `65*( … )` | the same, 65 times |
//! | `$word` | what the word stands for |

use serde::Deserialize;
use std::collections::BTreeMap;

/// What words stand for.
pub(crate) type Words<'a> = BTreeMap<&'a str, &'a str>;

/// The bytes that a text in the notation describes.
#[track_caller]
pub(crate) fn bytes(text: &str, words: &Words<'_>) -> Vec<u8> {
    let mut rest = text;
    let out = sequence(&mut rest, words);
    assert!(rest.is_empty(), "something is closed that was not opened: {rest}");
    out
}

/// Reads up to the end or to what closes.
fn sequence(rest: &mut &str, words: &Words<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        *rest = rest.trim_start();
        if rest.is_empty() || rest.starts_with(['}', ')']) {
            return out;
        }
        if let Some(after) = rest.strip_prefix('$') {
            let (word, after) = split(after, |c: char| !c.is_ascii_alphanumeric() && c != '_');
            *rest = after;
            out.extend(bytes(words.get(word).unwrap_or_else(|| panic!("${word} stands for nothing")), words));
            continue;
        }
        let (token, after) = split(rest, |c: char| c.is_whitespace() || "{}()\"*".contains(c));
        match after.chars().next() {
            Some('"') => {
                let (text, after) = after[1..].split_once('"').expect("a text ends");
                out.extend(encoded_text(token, text));
                *rest = after;
            }
            Some('{') => {
                *rest = &after[1..];
                let contents = sequence(rest, words);
                *rest = rest.strip_prefix('}').expect("an element is closed");
                let (tag, form) = token.split_once(':').unwrap_or((token, ""));
                out.extend(element(u8::from_str_radix(tag, 16).expect("a tag"), form, &contents));
            }
            Some('*') => {
                *rest = after[1..].strip_prefix('(').expect("what is repeated is in parentheses");
                let once = sequence(rest, words);
                *rest = rest.strip_prefix(')').expect("what is repeated is closed");
                out.extend(once.repeat(token.parse().expect("a number")));
            }
            _ if token.contains('.') => {
                out.extend(oid(token));
                *rest = after;
            }
            _ => {
                out.extend(unhex(token));
                *rest = after;
            }
        }
    }
}

fn split(text: &str, ends: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

/// An element with its length in DER's form, or in another.
fn element(tag: u8, form: &str, contents: &[u8]) -> Vec<u8> {
    let len = contents.len();
    let octets = |count: usize| [&[0x80 | count as u8], &(len as u32).to_be_bytes()[4 - count..]].concat();
    let shortest = |len: usize| match len {
        0..=0x7f => vec![len as u8],
        0x80..=0xff => vec![0x81, len as u8],
        _ => [&[0x82], &(len as u16).to_be_bytes()[..]].concat(),
    };
    let (length, end): (_, &[u8]) = match form {
        "" => (shortest(len), &[]),
        "+1" => (shortest(len + 1), &[]),
        "-1" => (shortest(len - 1), &[]),
        "i" => (vec![0x80], &[0, 0]),
        count => (octets(count.parse().expect("how many octets")), &[]),
    };
    [&[tag], &length[..], contents, end].concat()
}

fn encoded_text(encoding: &str, text: &str) -> Vec<u8> {
    match encoding {
        "" => text.as_bytes().to_vec(),
        "u16" => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        "u32" => text.chars().flat_map(|c| u32::from(c).to_be_bytes()).collect(),
        "l1" => text.chars().map(|c| u8::try_from(c).expect("Latin-1")).collect(),
        other => panic!("{other} is no encoding"),
    }
}

/// Contents octets of a dotted object identifier.
pub(crate) fn oid(dotted: &str) -> Vec<u8> {
    let mut arcs: Vec<u128> = dotted.split('.').map(|arc| arc.parse().expect("an arc")).collect();
    let root = arcs.remove(0);
    arcs[0] += 40 * root;
    let mut out = Vec::new();
    for arc in arcs {
        let digits = (1..).find(|n| arc.checked_shr(7 * n).unwrap_or(0) == 0).expect("it ends");
        out.extend((0..digits).rev().map(|n| (arc >> (7 * n)) as u8 & 0x7f | if n > 0 { 0x80 } else { 0 }));
    }
    out
}

/// Bytes from hex; white space is passed over.
#[track_caller]
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    let mut bytes = vec![0; digits.len() / 2];
    dtyp::read_hex(digits.as_bytes(), &mut bytes).unwrap_or_else(|| panic!("not hex: {text}"));
    bytes
}

/// A distinguished name: of relative names, or in the notation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NameCase {
    /// Relative names of attributes.
    pub(crate) name: Option<Vec<Vec<Attribute>>>,
    /// The whole name in the notation.
    pub(crate) der: Option<String>,
    /// Windows' text for it.
    pub(crate) text: Option<String>,
    /// It cannot be read.
    #[serde(default)]
    pub(crate) malformed: bool,
}

/// One attribute of a name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attribute {
    oid: String,
    /// The kind of string, or of something else.
    #[serde(default = "utf8")]
    tag: String,
    text: Option<String>,
    hex: Option<String>,
}

fn utf8() -> String {
    "utf8".into()
}

impl NameCase {
    /// The encoded `Name`.
    pub(crate) fn encoded(&self) -> Vec<u8> {
        match (&self.name, &self.der) {
            (Some(rdns), None) => {
                element(0x30, "", &rdns.iter().flat_map(|rdn| relative(rdn)).collect::<Vec<_>>())
            }
            (None, Some(der)) => bytes(der, &Words::new()),
            _ => panic!("a name is written in one way"),
        }
    }
}

fn relative(attributes: &[Attribute]) -> Vec<u8> {
    element(0x31, "", &attributes.iter().flat_map(Attribute::encoded).collect::<Vec<_>>())
}

impl Attribute {
    fn encoded(&self) -> Vec<u8> {
        let (tag, encoding) = match self.tag.as_str() {
            "boolean" => (0x01, ""),
            "integer" => (0x02, ""),
            "bits" => (0x03, ""),
            "octets" => (0x04, ""),
            "null" => (0x05, ""),
            "utf8" => (0x0c, ""),
            "numeric" => (0x12, ""),
            "printable" => (0x13, ""),
            "teletex" => (0x14, "l1"),
            "videotex" => (0x15, ""),
            "ia5" => (0x16, ""),
            "graphic" => (0x19, ""),
            "visible" => (0x1a, ""),
            "general" => (0x1b, ""),
            "universal" => (0x1c, "u32"),
            "bmp" => (0x1e, "u16"),
            "sequence" => (0x30, ""),
            other => panic!("{other} is no kind of value"),
        };
        let contents = match (&self.text, &self.hex) {
            (Some(text), None) => encoded_text(encoding, text),
            (None, Some(hex)) => unhex(hex),
            _ => panic!("a value is written in one way"),
        };
        let value = [element(0x06, "", &oid(&self.oid)), element(tag, "", &contents)].concat();
        element(0x30, "", &value)
    }
}

/// The parts of a certificate, which a case may replace. It has no valid signature: nothing here looks at it.
pub(crate) const CERTIFICATE: &[(&str, &str)] = &[
    ("certificate", "30{ $tbs $algorithm $signature }"),
    ("tbs", "30{ $version $serial $algorithm $issuer $validity $subject $key $unique $extensions }"),
    ("version", "a0{ 02{ 02 } }"),
    ("serial", "02{ 2b0000000011ac0000000012 }"),
    ("algorithm", "30{ 06{ 1.2.840.10045.4.3.2 } }"),
    (
        "issuer",
        r#"30{ 31{ 30{ 06{ 0.9.2342.19200300.100.1.25 } 16{ "com" } } }
               31{ 30{ 06{ 0.9.2342.19200300.100.1.25 } 16{ "contoso" } } }
               31{ 30{ 06{ 2.5.4.3 } 0c{ "CONTOSO-CA" } } } }"#,
    ),
    ("validity", "30{ $not_before $not_after }"),
    ("not_before", r#"17{ "240101000000Z" }"#),
    ("not_after", r#"17{ "340101000000Z" }"#),
    ("subject", r#"30{ 31{ 30{ 06{ 2.5.4.3 } 0c{ "Alice Smith" } } } }"#),
    (
        "key",
        "30{ 30{ 06{ 1.2.840.10045.2.1 } 06{ 1.2.840.10045.3.1.7 } }
             03{ 00 04 d65a93977caa3d1b081852ff57a79e465f1660577304baead505dd3a48589cf3
                       50185e895372df6221ea3a137557e473fddb6755f05bd507c3c533fce9c91285 } }",
    ),
    ("unique", ""),
    ("extensions", "a3{ 30{ $key_usage $more } }"),
    ("key_usage", "30{ 06{ 2.5.29.15 } 01{ ff } 04{ 03{ 07 80 } } }"),
    ("more", ""),
    ("signature", "03{ 00 30{ 02{ 01 } 02{ 01 } } }"),
];

/// A certificate with some parts replaced.
#[track_caller]
pub(crate) fn certificate<'a>(with: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut words: Words<'_> = CERTIFICATE.iter().copied().collect();
    for (part, text) in with {
        assert!(words.insert(part, text).is_some(), "a certificate has no part {part}");
    }
    bytes("$certificate", &words)
}

/// A certificate with one more extension.
#[track_caller]
pub(crate) fn with_extension(id: &str, value: &str) -> Vec<u8> {
    let extension = format!("30{{ 06{{ {id} }} 04{{ {value} }} }}");
    certificate([("more", extension.as_str())])
}

/// A certificate of this encoded name, which is its issuer's too.
#[track_caller]
pub(crate) fn certificate_of(name: &[u8]) -> Vec<u8> {
    let name: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
    certificate([("issuer", name.as_str()), ("subject", name.as_str())])
}
