//! Comparison of distinguished names by RFC 5280 7.1: the text of values by the preparation of RFC 4518, in
//! whichever string type they are encoded; all other values byte for byte.

use crate::der::{self, Der};
use dtyp::{DecodeError, DecodeErrorKind};
use unicode_normalization::UnicodeNormalization;

/// Most characters of the text of one name that is not all ASCII, before and after its preparation. Each
/// bound of X.520 for the attributes of one certificate together allows about as many. U+FDFA alone becomes
/// 18 characters, so without a limit 64 KiB of names would take 0.1 s.
pub(super) const PREPARED_CHARS_MAX: usize = 2048;

/// A distinguished name as it is compared: two names are one exactly when these bytes are equal, and a name
/// lies in the subtree of another one exactly when its bytes begin with the other's.
///
/// ```text
/// name       RDNs
/// RDN        Length 4, Attributes in the order of their bytes
/// attribute  Length 4, OIDLength 4, OID, Kind 1 (0 text, 1 other), Value (of another kind: its tag 1 and its contents)
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Name(Box<[u8]>);

impl Name {
    /// Reads an encoded `Name`.
    pub(super) fn read(encoded: &[u8]) -> Result<Self, DecodeError> {
        let mut outer = Der::new(encoded);
        let mut sequence = outer.expect("Name", der::SEQUENCE)?.inside();
        outer.finish("Name")?;
        let mut bytes = Vec::with_capacity(encoded.len() + 32);
        let mut left = PREPARED_CHARS_MAX;
        while !sequence.is_empty() {
            let mut set = sequence.expect("RelativeDistinguishedName", der::SET)?.inside();
            let mut attributes = Vec::new();
            while !set.is_empty() {
                let mut attribute = set.expect("AttributeTypeAndValue", der::SEQUENCE)?.inside();
                let id = attribute.expect("type", der::OID)?.contents;
                let value = attribute.any("value")?;
                attribute.finish("AttributeTypeAndValue")?;
                let mut body = Vec::with_capacity(9 + id.len() + value.contents.len());
                prefixed(&mut body, id);
                // A value that is not well formed in its string type is no text. Nothing equals it but
                // itself.
                match der::text(&value) {
                    Some(text) => {
                        body.push(0);
                        let long = set.error("text of Name", DecodeErrorKind::TooLong);
                        body.extend_from_slice(prepare(&text, &mut left).ok_or(long)?.as_bytes());
                    }
                    None => {
                        body.extend_from_slice(&[1, value.tag]);
                        body.extend_from_slice(value.contents);
                    }
                }
                attributes.push(body);
            }
            if attributes.is_empty() {
                return Err(sequence.error("RelativeDistinguishedName", DecodeErrorKind::BadValue));
            }
            // A set has no order, and encoders that are not strict about DER write it in any.
            attributes.sort_unstable();
            let mut rdn = Vec::new();
            attributes.iter().for_each(|attribute| prefixed(&mut rdn, attribute));
            prefixed(&mut bytes, &rdn);
        }
        Ok(Self(bytes.into()))
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it lies in the subtree of `base` (RFC 5280 4.2.1.10).
    pub(super) fn is_within(&self, base: &Self) -> bool {
        self.0.starts_with(&base.0)
    }

    /// The bytes that are compared.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn prefixed(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&(part.len() as u32).to_be_bytes());
    bytes.extend_from_slice(part);
}

/// RFC 4518 2: white space and what is mapped to nothing, case, NFKC, insignificant spaces. Code points that
/// it prohibits stay as they are and equal themselves alone. Takes the characters of text that is not ASCII
/// from `left`; `None` if there are not so many.
fn prepare(text: &str, left: &mut usize) -> Option<String> {
    let folded: String = if text.is_ascii() {
        text.chars().filter_map(map).map(|c| c.to_ascii_lowercase()).collect()
    } else {
        if text.chars().nth(*left).is_some() {
            return None;
        }
        let before = text.chars().filter_map(map).nfkc().take(*left + 1).collect::<String>();
        let folded: String = before.chars().flat_map(fold).nfkc().take(*left + 1).collect();
        *left = left.checked_sub(before.chars().count().max(folded.chars().count()))?;
        folded
    };
    let mut prepared = String::with_capacity(folded.len());
    for word in folded.split(' ').filter(|word| !word.is_empty()) {
        if !prepared.is_empty() {
            prepared.push(' ');
        }
        prepared.push_str(word);
    }
    Some(prepared)
}

/// RFC 4518 2.2, without case.
fn map(c: char) -> Option<char> {
    match c {
        '\t'..='\r' | '\u{85}' => Some(' '),
        '\u{ad}'
        | '\u{1806}'
        | '\u{34f}'
        | '\u{180b}'..='\u{180d}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{fffc}' => None,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' => None,
        '\u{6dd}' | '\u{70f}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' => None,
        '\u{2060}'..='\u{2063}' | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' => None,
        '\u{1d173}'..='\u{1d17a}' | '\u{e0001}' | '\u{e0020}'..='\u{e007f}' => None,
        c if c.is_whitespace() => Some(' '),
        c => Some(c),
    }
}

/// Full case folding (RFC 3454 B.2), by way of the upper case: `ß` is `ss`, and `ς` is `σ`. The dotless `ı`
/// is another letter than `i` in that table.
fn fold(c: char) -> impl Iterator<Item = char> {
    let kept = (c == 'ı').then_some(c);
    let folded =
        (c != 'ı').then_some(c).into_iter().flat_map(char::to_uppercase).flat_map(char::to_lowercase);
    kept.into_iter().chain(folded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(rdns: &[&[(u8, u8, &[u8])]]) -> Name {
        let rdn = |rdn: &&[(u8, u8, &[u8])]| {
            let attributes: Vec<u8> = rdn
                .iter()
                .flat_map(|(id, tag, value)| {
                    let id = der::encode(der::OID, &[&[0x55, 0x04, *id]]);
                    der::encode(der::SEQUENCE, &[&id, &der::encode(*tag, &[value])])
                })
                .collect();
            der::encode(der::SET, &[&attributes])
        };
        let rdns: Vec<u8> = rdns.iter().flat_map(rdn).collect();
        Name::read(&der::encode(der::SEQUENCE, &[&rdns])).expect("well formed")
    }

    /// Examples of RFC 5280 7.1 and RFC 4518 2: string types, case, white space, compatibility forms.
    #[test]
    fn names_are_compared_by_their_prepared_text() {
        const UTF8: u8 = 0x0c;
        const PRINTABLE: u8 = 0x13;
        const BMP: u8 = 0x1e;
        const TELETEX: u8 = 0x14;
        let cn = |tag, value: &[u8]| name(&[&[(3, tag, value)]]);
        for (left, right, same) in [
            (cn(UTF8, b"Contoso CA"), cn(PRINTABLE, b"Contoso CA"), true),
            (cn(UTF8, b"Contoso CA"), cn(BMP, b"\0C\0o\0n\0t\0o\0s\0o\0 \0C\0A"), true),
            (cn(UTF8, b"Contoso CA"), cn(UTF8, b"  CONTOSO \t  ca "), true),
            (cn(UTF8, b"Contoso CA"), cn(UTF8, b"ContosoCA"), false),
            (cn(UTF8, "M\u{fc}ller".as_bytes()), cn(TELETEX, b"M\xfcLLER"), true),
            (cn(UTF8, "M\u{fc}ller".as_bytes()), cn(UTF8, "Mu\u{308}ller".as_bytes()), true),
            (cn(UTF8, "M\u{fc}ller".as_bytes()), cn(UTF8, b"Muller"), false),
            (cn(UTF8, "stra\u{df}e".as_bytes()), cn(UTF8, b"STRASSE"), true),
            (cn(UTF8, "\u{131}".as_bytes()), cn(UTF8, b"I"), false),
            (cn(UTF8, "a\u{ad}b\u{200b}".as_bytes()), cn(UTF8, b"ab"), true),
            (cn(UTF8, "a\u{a0}b".as_bytes()), cn(UTF8, b"A B"), true),
            (cn(UTF8, "\u{fb01}n".as_bytes()), cn(UTF8, b"FIN"), true),
            // Latin-1 in a PrintableString is no text: it equals itself alone.
            (cn(PRINTABLE, b"M\xfcller"), cn(PRINTABLE, b"M\xfcller"), true),
            (cn(PRINTABLE, b"M\xfcller"), cn(PRINTABLE, b"M\xfcLLER"), false),
            (cn(PRINTABLE, b"a"), name(&[&[(10, PRINTABLE, b"a")]]), false),
            // Tags that are of no string type.
            (cn(0, b"a"), cn(PRINTABLE, b"a"), false),
            (cn(1, b"a"), cn(PRINTABLE, b"a"), false),
            (cn(0, b"a"), cn(0, b"a"), true),
        ] {
            assert_eq!(left == right, same, "{left:?} {right:?}");
        }
    }

    /// U+FDFA is 18 characters in NFKC, U+0390 is three when it is folded.
    #[test]
    fn the_text_of_a_name_is_bounded() {
        let read = |values: &[String]| {
            let rdns: Vec<u8> = values
                .iter()
                .flat_map(|value| {
                    let id = der::encode(der::OID, &[&[0x55, 0x04, 3]]);
                    let value = der::encode(0x0c, &[value.as_bytes()]);
                    der::encode(der::SET, &[&der::encode(der::SEQUENCE, &[&id, &value])])
                })
                .collect();
            Name::read(&der::encode(der::SEQUENCE, &[&rdns])).map(|_| ()).map_err(|error| error.kind)
        };
        let long = Err(DecodeErrorKind::TooLong);
        let max = PREPARED_CHARS_MAX;
        for (values, expect) in [
            (vec!["a".repeat(30_000)], Ok(())),
            (vec!["\u{416}".repeat(max)], Ok(())),
            (vec!["\u{416}".repeat(max + 1)], long),
            (vec!["\u{416}".repeat(max), "a".repeat(1000)], Ok(())),
            (vec!["\u{416}".repeat(max / 2), "\u{416}".repeat(max / 2)], Ok(())),
            (vec!["\u{416}".repeat(max / 2), "\u{416}".repeat(max / 2 + 1)], long),
            (vec!["\u{fdfa}".repeat(max / 18)], Ok(())),
            (vec!["\u{fdfa}".repeat(max / 18 + 1)], long),
            (vec!["\u{fdfa}".repeat(10_000)], long),
            (vec!["e\u{301}".repeat(max / 2)], Ok(())),
            (vec!["e\u{301}".repeat(max)], long),
            (vec!["\u{301}".repeat(20_000)], long),
        ] {
            assert_eq!(read(&values), expect, "{} values", values.len());
        }
    }

    #[test]
    fn a_relative_name_is_a_set_and_a_name_a_sequence() {
        const A: (u8, u8, &[u8]) = (3, 0x13, b"a");
        const B: (u8, u8, &[u8]) = (10, 0x13, b"b");
        let (a, b) = (A, B);
        assert_eq!(name(&[&[a, b]]), name(&[&[b, a]]));
        assert_ne!(name(&[&[a], &[b]]), name(&[&[b], &[a]]));
        assert_ne!(name(&[&[a, b]]), name(&[&[a], &[b]]));
        assert!(name(&[&[a], &[b]]).is_within(&name(&[&[a]])));
        assert!(name(&[&[a], &[b]]).is_within(&name(&[])));
        assert!(!name(&[&[a], &[b]]).is_within(&name(&[&[b]])));
        assert!(!name(&[&[a, b]]).is_within(&name(&[&[a]])));
        assert!(!name(&[&[(3, 0x13, b"ab")]]).is_within(&name(&[&[a]])));
    }
}
