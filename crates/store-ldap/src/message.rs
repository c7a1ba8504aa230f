//! Messages of a server (RFC 4511), checked before ldap3 reads them: it panics on what is not of the right
//! shape, and on an answer of another operation than the one that was asked.
//!
//! What is passed on is of the shape that ldap3 expects: an entry, a reference, or a result of a code and a
//! text. Controls, matched names and referrals are left out.

use crate::ber::{
    self, ELEMENTS_MAX, ENUMERATED, Element, Elements, INTEGER, Malformed, OCTET_STRING, SEQUENCE, SET,
};
use crate::entry::Entry;

const BIND_REQUEST: u8 = 0x60;
const BIND_RESPONSE: u8 = 0x61;
const UNBIND_REQUEST: u8 = 0x42;
const SEARCH_REQUEST: u8 = 0x63;
const ENTRY: u8 = 0x64;
const DONE: u8 = 0x65;
const REFERENCE: u8 = 0x73;
const EXTENDED_RESPONSE: u8 = 0x78;
const CONTROLS: u8 = 0xa0;
/// Where Active Directory puts the name of a Notice of Disconnection.
const MISPLACED_NAME: u8 = 0x8a;

/// The longest diagnostic text of a server that is kept, in bytes.
const TEXT_LEN_MAX: usize = 512;

/// ExtendedRequest of StartTLS with message ID 1 (RFC 4511 4.14.1).
pub(crate) const START_TLS: &[u8] = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037";
pub(crate) const START_TLS_ID: u32 = 1;

/// What was asked, and so what may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Bind,
    Search,
    StartTls,
    /// Nothing is answered to it.
    Unbind,
}

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// An entry or a reference; more follows.
    Part,
    /// The result, with which the operation ends.
    Result(u32, String),
}

/// Message ID and operation of a request of ldap3.
pub(crate) fn request(message: &[u8]) -> Result<(u32, Asked), Malformed> {
    let mut parts = Elements(Elements(message).expect(SEQUENCE, "no LDAP message")?);
    let id = ber::number(parts.expect(INTEGER, "no message ID")?)?;
    let asked = match parts.next()? {
        Some(Element { tag: BIND_REQUEST, .. }) => Asked::Bind,
        Some(Element { tag: SEARCH_REQUEST, .. }) => Asked::Search,
        Some(Element { tag: UNBIND_REQUEST, .. }) => Asked::Unbind,
        _ => return Err(Malformed("an operation that this store does not ask for")),
    };
    Ok((id, asked))
}

/// Checks a message that answers the request with this ID. Returns what it is, and the message for ldap3.
pub(crate) fn check(message: &[u8], id: u32, asked: Asked) -> Result<(Answered, Vec<u8>), Malformed> {
    let mut envelope = Elements(message);
    let mut parts = Elements(envelope.expect(SEQUENCE, "no LDAP message")?);
    envelope.end("bytes behind the message")?;
    let answered_id = ber::number(parts.expect(INTEGER, "no message ID")?)?;
    let operation = parts.next()?.ok_or(Malformed("no operation"))?;
    match parts.next()? {
        None | Some(Element { tag: CONTROLS | MISPLACED_NAME, .. }) => {
            parts.end("bytes behind the message")?
        }
        Some(_) => return Err(Malformed("unknown part of a message")),
    }
    if answered_id == 0 && operation.tag == EXTENDED_RESPONSE {
        return Err(Malformed("a Notice of Disconnection, and closes the connection"));
    }
    if answered_id != id {
        return Err(Malformed("an answer with the ID of no question"));
    }
    let mut count = ELEMENTS_MAX;
    let answered = match (asked, operation.tag) {
        (Asked::Search, ENTRY) => {
            entry(operation.contents, &mut count)?;
            Answered::Part
        }
        (Asked::Search, REFERENCE) => {
            octet_strings(operation.contents, &mut count)?;
            Answered::Part
        }
        (Asked::Search, DONE) | (Asked::Bind, BIND_RESPONSE) | (Asked::StartTls, EXTENDED_RESPONSE) => {
            let (code, text) = result(operation.contents)?;
            Answered::Result(code, text)
        }
        _ => return Err(Malformed("an answer of another operation")),
    };
    let mut contents = Vec::with_capacity(message.len());
    ber::put(&mut contents, INTEGER, &id.to_be_bytes());
    match &answered {
        Answered::Part => ber::put(&mut contents, operation.tag, operation.contents),
        Answered::Result(code, text) => {
            let mut of_result = Vec::new();
            ber::put(&mut of_result, ENUMERATED, &code.to_be_bytes());
            ber::put(&mut of_result, OCTET_STRING, b"");
            ber::put(&mut of_result, OCTET_STRING, text.as_bytes());
            ber::put(&mut contents, operation.tag, &of_result);
        }
    }
    let mut whole = Vec::with_capacity(contents.len() + 6);
    ber::put(&mut whole, SEQUENCE, &contents);
    Ok((answered, whole))
}

/// For the fuzzer: whatever a server sends, ldap3 reads what passes here without a panic, and so do we.
#[doc(hidden)]
pub fn check_any(bytes: &[u8]) {
    let Ok(Some(len)) = ber::message_len(bytes) else { return };
    let Some(message) = bytes.get(..len) else { return };
    for asked in [Asked::Bind, Asked::Search, Asked::StartTls] {
        let Ok((answered, passed)) = check(message, START_TLS_ID, asked) else { continue };
        assert_eq!(ber::message_len(&passed), Ok(Some(passed.len())));
        let again = check(&passed, START_TLS_ID, asked);
        assert_eq!(
            again,
            Ok((answered.clone(), passed.clone())),
            "what passes, passes again, and is the same"
        );
        let read = ldap3::asn1::parse_tag(&passed).map(|(rest, tag)| (rest.len(), tag));
        let Ok((0, tag)) = read else { panic!("ldap3 cannot read what passes") };
        let operation = tag.expect_constructed().and_then(|mut parts| parts.pop()).expect("an operation");
        match answered {
            Answered::Result(code, text) => {
                let result = ldap3::LdapResult::from(ldap3::asn1::Tag::StructureTag(operation));
                assert_eq!((result.rc, result.text), (code, text));
            }
            Answered::Part if operation.id == u64::from(ENTRY & 0x1f) => {
                let dn = ldap3::SearchEntry::construct(ldap3::ResultEntry::new(operation.clone())).dn;
                assert_eq!(Entry::read(operation).map(|entry| entry.dn), Some(dn));
            }
            Answered::Part => {}
        }
    }
}

/// SearchResultEntry: a name, and attributes with their values.
fn entry(contents: &[u8], count: &mut usize) -> Result<(), Malformed> {
    let mut parts = Elements(contents);
    utf8(parts.expect(OCTET_STRING, "an entry without a name")?)?;
    let mut attributes = Elements(parts.expect(SEQUENCE, "an entry without attributes")?);
    parts.end("bytes behind an entry")?;
    while let Some(attribute) = attributes.next()? {
        spend(count)?;
        if attribute.tag != SEQUENCE {
            return Err(Malformed("no attribute where one is expected"));
        }
        let mut parts = Elements(attribute.contents);
        utf8(parts.expect(OCTET_STRING, "an attribute without a name")?)?;
        octet_strings(parts.expect(SET, "an attribute without values")?, count)?;
        parts.end("bytes behind an attribute")?;
    }
    Ok(())
}

fn octet_strings(contents: &[u8], count: &mut usize) -> Result<(), Malformed> {
    let mut values = Elements(contents);
    while let Some(value) = values.next()? {
        spend(count)?;
        if value.tag != OCTET_STRING {
            return Err(Malformed("no value where one is expected"));
        }
    }
    Ok(())
}

fn spend(count: &mut usize) -> Result<(), Malformed> {
    *count = count.checked_sub(1).ok_or(Malformed("more than 20000 elements in one message"))?;
    Ok(())
}

/// The code of an LDAPResult, and its text without what a log should not have.
fn result(contents: &[u8]) -> Result<(u32, String), Malformed> {
    let mut parts = Elements(contents);
    let code = ber::number(parts.expect(ENUMERATED, "a result without a code")?)?;
    parts.expect(OCTET_STRING, "a result without a matched name")?;
    let text = parts.expect(OCTET_STRING, "a result without a text")?;
    // Referrals, SASL credentials, a name and a value of an extended operation.
    while let Some(part) = parts.next()? {
        if !matches!(part.tag, 0xa3 | 0x87 | 0x8a | 0x8b) {
            return Err(Malformed("unknown part of a result"));
        }
    }
    let text = String::from_utf8_lossy(&text[..text.len().min(TEXT_LEN_MAX)]);
    let text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    Ok((code, text.trim().to_owned()))
}

fn utf8(bytes: &[u8]) -> Result<(), Malformed> {
    std::str::from_utf8(bytes).map(drop).map_err(|_| Malformed("a name that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(tag: u8, parts: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        ber::put(&mut out, tag, &parts.concat());
        out
    }

    fn leaf(tag: u8, contents: &[u8]) -> Vec<u8> {
        element(tag, &[contents.to_vec()])
    }

    fn message(id: u8, operation: Vec<u8>, more: &[u8]) -> Vec<u8> {
        element(SEQUENCE, &[leaf(INTEGER, &[id]), operation, more.to_vec()])
    }

    fn an_entry() -> Vec<u8> {
        let attribute =
            element(SEQUENCE, &[leaf(4, b"objectSid"), element(SET, &[leaf(4, &[1, 0xff]), leaf(4, b"")])]);
        element(ENTRY, &[leaf(4, b"CN=a"), element(SEQUENCE, &[attribute])])
    }

    fn a_result(tag: u8, code: u8, text: &[u8], more: &[u8]) -> Vec<u8> {
        element(tag, &[leaf(ENUMERATED, &[code]), leaf(4, b"DC=x"), leaf(4, text), more.to_vec()])
    }

    #[test]
    fn the_answer_to_a_question_passes_without_controls_and_referrals() {
        let bare = message(7, an_entry(), b"");
        for more in [&b""[..], &leaf(CONTROLS, &leaf(SEQUENCE, b"junk"))] {
            let (answered, passed) =
                check(&message(7, an_entry(), more), 7, Asked::Search).expect("an entry");
            assert_eq!(answered, Answered::Part);
            assert_eq!(check(&passed, 7, Asked::Search), check(&bare, 7, Asked::Search));
        }
        let referred =
            a_result(DONE, 10, b"80090308: data 52e\0\n", &element(0xa3, &[leaf(4, b"ldap://other")]));
        let (answered, passed) = check(&message(7, referred, b""), 7, Asked::Search).expect("a result");
        assert_eq!(answered, Answered::Result(10, "80090308: data 52e".to_owned()));
        assert!(!passed.windows(5).any(|part| part == b"other"));
        let long = a_result(BIND_RESPONSE, 49, &[0xff; 2000], b"");
        let (answered, _) = check(&message(1, long, b""), 1, Asked::Bind).expect("a result");
        assert!(matches!(answered, Answered::Result(49, text) if text.len() <= 3 * TEXT_LEN_MAX));
    }

    #[test]
    fn each_truncation_and_each_changed_byte_is_refused_or_harmless() {
        for (whole, asked) in [
            (message(1, an_entry(), b""), Asked::Search),
            (message(1, a_result(DONE, 0, b"text", b""), b""), Asked::Search),
            (message(1, a_result(BIND_RESPONSE, 0, b"", b""), b""), Asked::Bind),
        ] {
            for len in 0..whole.len() {
                assert!(check(&whole[..len], 1, asked).is_err());
            }
            for at in 0..whole.len() {
                for byte in 0..=255 {
                    let mut changed = whole.clone();
                    changed[at] = byte;
                    if let Ok((_, passed)) = check(&changed, 1, asked) {
                        assert!(check(&passed, 1, asked).is_ok(), "what passes, passes again");
                    }
                    check_any(&changed);
                }
            }
        }
    }

    #[test]
    fn answers_of_other_questions_are_refused() {
        for (sent, asked, why) in [
            (message(8, an_entry(), b""), Asked::Search, "the ID of no question"),
            (message(0, an_entry(), b""), Asked::Search, "the ID of no question"),
            (message(7, an_entry(), b""), Asked::Bind, "another operation"),
            (message(7, a_result(BIND_RESPONSE, 0, b"", b""), b""), Asked::Search, "another operation"),
            (message(7, a_result(DONE, 0, b"", b""), b""), Asked::Bind, "another operation"),
            (message(7, leaf(0x79, b""), b""), Asked::Search, "another operation"),
            (
                message(0, a_result(EXTENDED_RESPONSE, 52, b"", b""), b""),
                Asked::Search,
                "closes the connection",
            ),
            (
                message(0, a_result(EXTENDED_RESPONSE, 52, b"", b""), &leaf(0x8a, b"1.3.6")),
                Asked::Bind,
                "closes",
            ),
            (message(7, an_entry(), &leaf(4, b"")), Asked::Search, "unknown part"),
            (message(7, leaf(ENTRY, &leaf(4, &[0xff])), b""), Asked::Search, "not UTF-8"),
            (message(7, element(REFERENCE, &[leaf(0x24, b"")]), b""), Asked::Search, "no value"),
        ] {
            let error = check(&sent, 7, asked).expect_err(why);
            assert!(error.0.contains(why), "{error:?} instead of {why}");
        }
        let many = vec![leaf(4, b""); ELEMENTS_MAX + 1];
        let attribute = element(SEQUENCE, &[leaf(4, b"a"), element(SET, &many)]);
        let large = element(ENTRY, &[leaf(4, b""), element(SEQUENCE, &[attribute])]);
        assert!(
            check(&message(7, large, b""), 7, Asked::Search).is_err_and(|error| error.0.contains("20000"))
        );
    }

    #[test]
    fn nesting_is_as_deep_as_an_entry_and_no_deeper() {
        let mut nested = leaf(4, b"");
        for _ in 0..10_000 {
            nested = element(0x30, &[nested]);
        }
        let deep = element(ENTRY, &[leaf(4, b""), element(SEQUENCE, &[nested.clone()])]);
        assert!(check(&message(7, deep, b""), 7, Asked::Search).is_err());
        // What is left out is not read.
        let (_, passed) =
            check(&message(7, an_entry(), &leaf(CONTROLS, &nested)), 7, Asked::Search).expect("an entry");
        assert!(passed.len() < 100);
    }
}
