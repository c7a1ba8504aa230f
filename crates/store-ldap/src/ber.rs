//! The few rules of BER that LDAP uses (RFC 4511 5.1), over bytes that a server sent.

use std::fmt;

/// Longest message of a server. An entry with 5,000 SIDs has about 200 KiB.
pub(crate) const MESSAGE_LEN_MAX: usize = 1 << 20;
/// Elements of one message: each costs its reader some fifty bytes, however short it is.
pub(crate) const ELEMENTS_MAX: usize = 20_000;

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const ENUMERATED: u8 = 0x0a;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// Bytes that are no element, or not the one that is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// A message or an element over [`MESSAGE_LEN_MAX`].
const TOO_LONG: Malformed = Malformed("a message of more than 1 MiB");
/// A message with more elements than [`ELEMENTS_MAX`].
const TOO_MANY: Malformed = Malformed("more than 20000 elements in one message");

impl Malformed {
    /// Whether the server may be in order, and an entry is larger than is read here.
    pub(crate) fn is_over_a_limit(self) -> bool {
        self == TOO_LONG || self == TOO_MANY
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Identifier and contents of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) contents: &'a [u8],
}

/// Identifier, length of identifier and length octets, and length of the contents; `None` if more bytes are
/// needed to tell. No length beyond [`MESSAGE_LEN_MAX`] is accepted, so no reader waits for one.
fn header(bytes: &[u8]) -> Result<Option<(u8, usize, usize)>, Malformed> {
    let [tag, rest @ ..] = bytes else { return Ok(None) };
    if tag & 0x1f == 0x1f {
        return Err(Malformed("an identifier of several octets"));
    }
    let [first, rest @ ..] = rest else { return Ok(None) };
    let (octets, len) = match first {
        0x00..=0x7f => (0, usize::from(*first)),
        0x81..=0x84 => {
            let octets = usize::from(first & 0x7f);
            let Some(length) = rest.get(..octets) else { return Ok(None) };
            (octets, length.iter().fold(0, |len, octet| len << 8 | usize::from(*octet)))
        }
        _ => return Err(Malformed("an indefinite length, or one of more than four octets")),
    };
    match len <= MESSAGE_LEN_MAX {
        true => Ok(Some((*tag, 2 + octets, len))),
        false => Err(TOO_LONG),
    }
}

/// The length of the message that `bytes` begin with; `None` while its header is not whole.
pub(crate) fn message_len(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    match header(bytes)? {
        Some((SEQUENCE, before, len)) => Ok(Some(before + len)),
        Some(_) => Err(Malformed("no LDAP message")),
        None => Ok(None),
    }
}

/// The elements of a constructed one, one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elements<'a>(pub(crate) &'a [u8]);

impl<'a> Elements<'a> {
    /// The next element; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Element<'a>>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (tag, before, len) = header(self.0)?.ok_or(Malformed("an element that is cut off"))?;
        let contents =
            self.0.get(before..before + len).ok_or(Malformed("an element longer than its parent"))?;
        self.0 = &self.0[before + len..];
        Ok(Some(Element { tag, contents }))
    }

    /// The contents of the next element, which has this identifier.
    pub(crate) fn expect(&mut self, tag: u8, what: &'static str) -> Result<&'a [u8], Malformed> {
        match self.next()? {
            Some(element) if element.tag == tag => Ok(element.contents),
            _ => Err(Malformed(what)),
        }
    }

    /// Nothing follows.
    pub(crate) fn end(&self, what: &'static str) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed(what)) }
    }
}

/// An INTEGER or ENUMERATED that is not negative and has at most 31 bits.
pub(crate) fn number(contents: &[u8]) -> Result<u32, Malformed> {
    match contents {
        [first, ..] if contents.len() <= 4 && first & 0x80 == 0 => {
            Ok(contents.iter().fold(0, |number, octet| number << 8 | u32::from(*octet)))
        }
        _ => Err(Malformed("a number out of range")),
    }
}

/// Checks that all elements are octet strings, and takes them from those that a message may have.
pub(crate) fn octet_strings(contents: &[u8], count: &mut usize) -> Result<(), Malformed> {
    let mut values = Elements(contents);
    while let Some(value) = values.next()? {
        spend(count)?;
        if value.tag != OCTET_STRING {
            return Err(Malformed("no value where one is expected"));
        }
    }
    Ok(())
}

pub(crate) fn spend(count: &mut usize) -> Result<(), Malformed> {
    *count = count.checked_sub(1).ok_or(TOO_MANY)?;
    Ok(())
}

/// Appends a constructed element, whose contents `write` appends.
pub(crate) fn put_nested(out: &mut Vec<u8>, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
    // How long it becomes is not known yet, so its length always has four octets, as Active Directory writes
    // it.
    out.extend_from_slice(&[tag, 0x84, 0, 0, 0, 0]);
    let begin = out.len();
    write(out);
    let len = (out.len() - begin) as u32;
    out[begin - 4..begin].copy_from_slice(&len.to_be_bytes());
}

/// Appends an INTEGER or ENUMERATED, in as few octets as it has.
pub(crate) fn put_number(out: &mut Vec<u8>, tag: u8, number: u32) {
    let [a, b, c, d] = number.to_be_bytes();
    let octets = [0, a, b, c, d];
    let redundant = octets.windows(2).take_while(|pair| pair[0] == 0 && pair[1] & 0x80 == 0).count();
    put(out, tag, &octets[redundant..]);
}

/// Appends a primitive element.
pub(crate) fn put(out: &mut Vec<u8>, tag: u8, contents: &[u8]) {
    out.push(tag);
    match contents.len() {
        len @ 0..=0x7f => out.push(len as u8),
        len => {
            out.push(0x84);
            out.extend_from_slice(&(len as u32).to_be_bytes());
        }
    }
    out.extend_from_slice(contents);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_by_their_rules_and_refused_beyond_the_limit() {
        for (bytes, expected) in [
            (&[][..], Ok(None)),
            (&[0x30][..], Ok(None)),
            (&[0x30, 5][..], Ok(Some(7))),
            (&[0x30, 0x81, 0x80][..], Ok(Some(0x83))),
            (&[0x30, 0x84, 0, 0, 1][..], Ok(None)),
            // As Active Directory writes all lengths.
            (&[0x30, 0x84, 0, 0, 0, 5][..], Ok(Some(11))),
            (&[0x30, 0x83, 0x10, 0, 0][..], Ok(Some((1 << 20) + 5))),
        ] {
            assert_eq!(message_len(bytes), expected, "{bytes:x?}");
        }
        for bytes in [
            &[0x30, 0x80][..],
            &[0x30, 0x85, 0, 0, 0, 0, 1][..],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff][..],
            &[0x30, 0x83, 0x10, 0, 1][..],
            &[0x30, 0xff][..],
            &[0x3f, 0x81, 0x01][..],
            &[0x04, 1][..],
            b"HTTP/1.1",
        ] {
            assert!(message_len(bytes).is_err(), "{bytes:x?}");
        }
    }

    #[test]
    fn elements_end_with_their_parent() {
        let mut elements = Elements(&[4, 1, b'a', 2, 1, 7]);
        assert_eq!(elements.expect(OCTET_STRING, "text"), Ok(&b"a"[..]));
        assert_eq!(elements.expect(INTEGER, "number").and_then(number), Ok(7));
        assert_eq!(elements.next(), Ok(None));
        for cut in [&[4][..], &[4, 1][..], &[4, 0x81][..], &[4, 3, 1, 2][..]] {
            assert!(Elements(cut).next().is_err(), "{cut:x?}");
        }
        assert!(number(&[0x80]).is_err() && number(&[]).is_err() && number(&[0; 5]).is_err());
    }

    #[test]
    fn numbers_have_no_redundant_octet() {
        for (value, expected) in [
            (0, &[2, 1, 0][..]),
            (127, &[2, 1, 127][..]),
            (128, &[2, 2, 0, 128][..]),
            (256, &[2, 2, 1, 0][..]),
            (0x7fff_ffff, &[2, 4, 0x7f, 0xff, 0xff, 0xff][..]),
        ] {
            let mut out = Vec::new();
            put_number(&mut out, INTEGER, value);
            assert_eq!(out, expected);
            assert_eq!(number(&out[2..]), Ok(value));
        }
    }

    #[test]
    fn what_is_put_is_read_again() {
        for len in [0, 1, 127, 128, 255, 256, 70_000] {
            let mut out = Vec::new();
            put(&mut out, OCTET_STRING, &vec![7; len]);
            let mut elements = Elements(&out);
            assert_eq!(elements.expect(OCTET_STRING, "text").map(<[u8]>::len), Ok(len));
            assert_eq!(elements.next(), Ok(None));
        }
    }
}
