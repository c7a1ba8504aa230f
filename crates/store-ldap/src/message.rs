//! Messages of LDAP (RFC 4511): the three requests of this store, and what a server may answer.
//!
//! What a server sends is checked against the operation that was asked. Matched names, referrals and controls
//! are not read, except for the cookie of a page of results (RFC 2696).

use crate::ber::{
    self, BOOLEAN, ELEMENTS_MAX, ENUMERATED, Element, Elements, INTEGER, Malformed, OCTET_STRING, SEQUENCE,
};
use crate::entry::Entry;
use crate::filter::Filter;
use zeroize::Zeroizing;

const BIND_REQUEST: u8 = 0x60;
const BIND_RESPONSE: u8 = 0x61;
const SEARCH_REQUEST: u8 = 0x63;
const ENTRY: u8 = 0x64;
const DONE: u8 = 0x65;
const REFERENCE: u8 = 0x73;
const EXTENDED_RESPONSE: u8 = 0x78;
/// AuthenticationChoice: simple.
const SIMPLE: u8 = 0x80;
const CONTROLS: u8 = 0xa0;
/// Where Active Directory puts the name of a Notice of Disconnection.
const MISPLACED_NAME: u8 = 0x8a;

/// The longest diagnostic text of a server that is kept, in bytes.
const TEXT_LEN_MAX: usize = 512;

/// LDAP_SERVER_DOMAIN_SCOPE_OID ([MS-ADTS] 3.1.1.3.4.1.5): no references to other parts of the forest.
const DOMAIN_SCOPE: &str = "1.2.840.113556.1.4.1339";

/// pagedResultsControl (RFC 2696 2).
const PAGED_RESULTS: &str = "1.2.840.113556.1.4.319";

/// ExtendedRequest of StartTLS with message ID 1 (RFC 4511 4.14.1).
pub(crate) const START_TLS: &[u8] = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037";
pub(crate) const START_TLS_ID: u32 = 1;

/// What was asked, and so what may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Bind,
    Search,
    /// A search whose entries come page by page.
    Page,
    StartTls,
}

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// An entry; more follows.
    Entry(Entry),
    /// A reference to another server; more follows.
    Reference,
    /// The result, with which the operation ends.
    Result(u32, String),
    /// The result of a page, and the cookie of the next one: empty if this is the last one.
    PageEnd(u32, String, Vec<u8>),
}

/// How far below its base a search looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Base = 0,
    Subtree = 2,
}

/// What is searched for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search<'a> {
    pub(crate) base: &'a str,
    pub(crate) scope: Scope,
    pub(crate) filter: &'a Filter,
    pub(crate) attributes: &'a [&'a str],
    /// The server is asked for one more entry than this. More than this are too many.
    pub(crate) entries_max: usize,
    /// Whether the server is Active Directory or Samba, and shall not refer to other parts of the forest.
    pub(crate) domain_scope: bool,
}

impl Search<'_> {
    /// Appends SearchRequest (RFC 4511 4.5.1). Aliases are never followed. With a cookie, one page of
    /// `entries_max` entries is asked for; the cookie of the first page is empty.
    pub(crate) fn write(&self, out: &mut Vec<u8>, id: u32, page: Option<&[u8]>) {
        ber::put_nested(out, SEQUENCE, |out| {
            ber::put_number(out, INTEGER, id);
            ber::put_nested(out, SEARCH_REQUEST, |out| {
                ber::put(out, OCTET_STRING, self.base.as_bytes());
                ber::put_number(out, ENUMERATED, self.scope as u32);
                ber::put_number(out, ENUMERATED, 0);
                // All pages together have no limit.
                let limit = if page.is_some() { 0 } else { small(self.entries_max + 1) };
                ber::put_number(out, INTEGER, limit);
                ber::put_number(out, INTEGER, 0);
                ber::put(out, BOOLEAN, &[0]);
                self.filter.write(out);
                ber::put_nested(out, SEQUENCE, |out| {
                    self.attributes.iter().for_each(|name| ber::put(out, OCTET_STRING, name.as_bytes()));
                });
            });
            if self.domain_scope || page.is_some() {
                ber::put_nested(out, CONTROLS, |out| self.write_controls(out, page));
            }
        });
    }

    fn write_controls(&self, out: &mut Vec<u8>, page: Option<&[u8]>) {
        let critical = |out: &mut Vec<u8>, control: &str| {
            ber::put(out, OCTET_STRING, control.as_bytes());
            ber::put(out, BOOLEAN, &[0xff]);
        };
        if self.domain_scope {
            ber::put_nested(out, SEQUENCE, |out| critical(out, DOMAIN_SCOPE));
        }
        if let Some(cookie) = page {
            ber::put_nested(out, SEQUENCE, |out| {
                critical(out, PAGED_RESULTS);
                ber::put_nested(out, OCTET_STRING, |out| {
                    ber::put_nested(out, SEQUENCE, |out| {
                        ber::put_number(out, INTEGER, small(self.entries_max));
                        ber::put(out, OCTET_STRING, cookie);
                    });
                });
            });
        }
    }
}

/// maxInt (RFC 4511 4.1.1) at most.
fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX).min(i32::MAX.unsigned_abs())
}

/// BindRequest with a name and a password (RFC 4511 4.2).
pub(crate) fn bind(id: u32, dn: &str, secret: &str) -> Zeroizing<Vec<u8>> {
    // It never grows, so no copy of the secret stays behind.
    let mut out = Zeroizing::new(Vec::with_capacity(dn.len() + secret.len() + 64));
    ber::put_nested(&mut out, SEQUENCE, |out| {
        ber::put_number(out, INTEGER, id);
        ber::put_nested(out, BIND_REQUEST, |out| {
            ber::put_number(out, INTEGER, 3);
            ber::put(out, OCTET_STRING, dn.as_bytes());
            ber::put(out, SIMPLE, secret.as_bytes());
        });
    });
    out
}

/// Reads one whole message. `asked` is what the request with an ID asked for; `None` if none is open with it.
pub(crate) fn read(
    message: &[u8],
    asked: impl FnOnce(u32) -> Option<Asked>,
) -> Result<(u32, Answered), Malformed> {
    let mut envelope = Elements(message);
    let mut parts = Elements(envelope.expect(SEQUENCE, "no LDAP message")?);
    envelope.end("bytes behind the message")?;
    let id = ber::number(parts.expect(INTEGER, "no message ID")?)?;
    let operation = parts.next()?.ok_or(Malformed("no operation"))?;
    let controls = match parts.next()? {
        Some(Element { tag: CONTROLS, contents }) => contents,
        None | Some(Element { tag: MISPLACED_NAME, .. }) => &[],
        Some(_) => return Err(Malformed("unknown part of a message")),
    };
    parts.end("bytes behind the message")?;
    if id == 0 && operation.tag == EXTENDED_RESPONSE {
        return Err(Malformed("a Notice of Disconnection, and closes the connection"));
    }
    let asked = asked(id).ok_or(Malformed("an answer with the ID of no question"))?;
    let answered = match (asked, operation.tag) {
        (Asked::Search | Asked::Page, ENTRY) => Answered::Entry(entry(operation.contents)?),
        (Asked::Search | Asked::Page, REFERENCE) => {
            ber::octet_strings(operation.contents, &mut { ELEMENTS_MAX })?;
            Answered::Reference
        }
        (Asked::Search, DONE) | (Asked::Bind, BIND_RESPONSE) | (Asked::StartTls, EXTENDED_RESPONSE) => {
            let (code, text) = result(operation.contents)?;
            Answered::Result(code, text)
        }
        (Asked::Page, DONE) => {
            let (code, text) = result(operation.contents)?;
            let cookie = next_page(controls)?;
            // The control is critical, so a server that says nothing of it may have left entries out.
            if code == 0 && cookie.is_none() {
                return Err(Malformed("a page without the control of paged results"));
            }
            Answered::PageEnd(code, text, cookie.unwrap_or_default())
        }
        _ => return Err(Malformed("an answer of another operation")),
    };
    Ok((id, answered))
}

/// The cookie among the controls of a result.
fn next_page(controls: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let mut controls = Elements(controls);
    while let Some(control) = controls.next()? {
        let mut parts = Elements(control.contents);
        let is_it = parts.expect(OCTET_STRING, "a control without a name")? == PAGED_RESULTS.as_bytes();
        let value = match parts.next()? {
            Some(Element { tag: BOOLEAN, .. }) => parts.next()?,
            value => value,
        };
        let Some(Element { tag: OCTET_STRING, contents }) = value.filter(|_| is_it) else { continue };
        let mut page = Elements(Elements(contents).expect(SEQUENCE, "a page without a size")?);
        page.expect(INTEGER, "a page without a size")?;
        return Ok(Some(page.expect(OCTET_STRING, "a page without a cookie")?.to_vec()));
    }
    Ok(None)
}

/// Names in lower case, and values.
#[doc(hidden)]
pub type Attributes = Vec<(Vec<u8>, Vec<Vec<u8>>)>;

/// For the fuzzer: reads whatever a server sends as the answer to each operation. Returns the name and the
/// attributes of an entry.
#[doc(hidden)]
pub fn read_any(bytes: &[u8]) -> Option<(String, Attributes)> {
    let len = ber::message_len(bytes).ok()??;
    let message = bytes.get(..len)?;
    for asked in [Asked::Bind, Asked::StartTls, Asked::Page] {
        drop(read(message, |_| Some(asked)));
    }
    match read(message, |_| Some(Asked::Search)) {
        Ok((_, Answered::Entry(entry))) => {
            let owned = |(name, values): (&[u8], Vec<&[u8]>)| {
                (name.to_ascii_lowercase(), values.into_iter().map(<[u8]>::to_vec).collect())
            };
            Some((entry.dn.clone(), entry.attributes().map(owned).collect()))
        }
        _ => None,
    }
}

/// SearchResultEntry: a name, and attributes with their values (RFC 4511 4.5.2).
fn entry(contents: &[u8]) -> Result<Entry, Malformed> {
    let mut parts = Elements(contents);
    let dn = parts.expect(OCTET_STRING, "an entry without a name")?;
    let list = parts.expect(SEQUENCE, "an entry without attributes")?;
    parts.end("bytes behind an entry")?;
    Entry::read(dn, list)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ber::SET;
    use crate::filter::Attribute;
    use ldap3::asn1::{PL, StructureTag, parse_tag};

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

    /// The controls of a page; another one stands before it.
    fn control(value: &[u8]) -> Vec<u8> {
        let parts = [leaf(4, PAGED_RESULTS.as_bytes()), leaf(BOOLEAN, &[0]), leaf(4, value)];
        leaf(CONTROLS, &[leaf(SEQUENCE, &leaf(4, b"1.2.3")), element(SEQUENCE, &parts)].concat())
    }

    fn a_page(cookie: &[u8]) -> Vec<u8> {
        control(&element(SEQUENCE, &[leaf(INTEGER, &[0]), leaf(4, cookie)]))
    }

    /// As the answer to a request with the ID 7 or 1.
    fn check(message: &[u8], asked: Asked) -> Result<Answered, Malformed> {
        read(message, |id| matches!(id, 1 | 7).then_some(asked)).map(|(_, answered)| answered)
    }

    #[test]
    fn controls_and_referrals_are_left_out() {
        for more in [&b""[..], &leaf(CONTROLS, &leaf(SEQUENCE, b"junk"))] {
            let Ok(Answered::Entry(entry)) = check(&message(7, an_entry(), more), Asked::Search) else {
                panic!("it is an entry")
            };
            assert_eq!((entry.dn.as_str(), entry.values("OBJECTSID")), ("CN=a", vec![&[1, 0xff][..], &[]]));
        }
        let referred =
            a_result(DONE, 10, b"80090308: data 52e\0\n", &element(0xa3, &[leaf(4, b"ldap://other")]));
        let answered = check(&message(7, referred, b""), Asked::Search);
        assert_eq!(answered, Ok(Answered::Result(10, "80090308: data 52e".to_owned())));
        let long = a_result(BIND_RESPONSE, 49, &[0xff; 2000], b"");
        let answered = check(&message(1, long, b""), Asked::Bind);
        assert!(matches!(answered, Ok(Answered::Result(49, text)) if text.len() <= 3 * TEXT_LEN_MAX));
    }

    /// The example of RFC 2696 4 has a cookie like this.
    #[test]
    fn the_cookie_of_a_page_is_read_and_asked_with() {
        let done = |controls: &[u8]| check(&message(7, a_result(DONE, 0, b"", b""), controls), Asked::Page);
        let end = |cookie: &[u8]| Ok(Answered::PageEnd(0, String::new(), cookie.to_vec()));
        assert_eq!(done(&a_page(b"cookie")), end(b"cookie"));
        assert_eq!(done(&a_page(b"")), end(b""));
        // A server that does not know the control may have left entries out.
        for unknown in [leaf(CONTROLS, b""), Vec::new()] {
            assert!(done(&unknown).is_err());
        }
        let limited = check(&message(7, a_result(DONE, 4, b"", b""), b""), Asked::Page);
        assert_eq!(limited, Ok(Answered::PageEnd(4, String::new(), Vec::new())));
        for wrong in [&b"junk"[..], b"", &leaf(SEQUENCE, b""), &leaf(SEQUENCE, &leaf(INTEGER, &[0]))] {
            assert!(done(&control(wrong)).is_err(), "{wrong:?}");
        }
        let filter = Filter::Present(Attribute::known("cn"));
        let (base, scope, entries_max) = ("", Scope::Subtree, 500);
        let search =
            Search { base, scope, filter: &filter, attributes: &[], entries_max, domain_scope: false };
        let mut out = Vec::new();
        search.write(&mut out, 5, Some(b"cookie"));
        let expected = ldap3::controls::PagedResults { size: 500, cookie: b"cookie".to_vec() };
        let expected = ldap3::controls::RawControl::from(expected).val.expect("it has a value");
        // The oracle writes lengths in fewer octets.
        let read = |value: &[u8]| {
            let mut page = Elements(Elements(value).expect(SEQUENCE, "a page").expect("a page"));
            let size = ber::number(page.expect(INTEGER, "a size").expect("a size")).expect("a number");
            (size, page.expect(OCTET_STRING, "a cookie").expect("a cookie").to_vec())
        };
        let at = out.windows(PAGED_RESULTS.len()).position(|part| part == PAGED_RESULTS.as_bytes());
        let mut rest = Elements(&out[at.expect("the control is there") + PAGED_RESULTS.len()..]);
        assert_eq!(rest.expect(BOOLEAN, "criticality"), Ok(&[0xff][..]));
        let ours = rest.expect(OCTET_STRING, "a value").expect("a value");
        assert_eq!(read(ours), read(&expected));
    }

    #[test]
    fn no_truncation_is_read_and_no_changed_byte_panics() {
        for (whole, asked) in [
            (message(1, an_entry(), b""), Asked::Search),
            (message(1, a_result(DONE, 0, b"text", b""), b""), Asked::Search),
            (message(1, a_result(BIND_RESPONSE, 0, b"", b""), b""), Asked::Bind),
            (message(1, a_result(DONE, 0, b"", b""), &a_page(b"cookie")), Asked::Page),
        ] {
            assert!(check(&whole, asked).is_ok());
            for len in 0..whole.len() {
                assert!(check(&whole[..len], asked).is_err());
            }
            for at in 0..whole.len() {
                for byte in 0..=255 {
                    let mut changed = whole.clone();
                    changed[at] = byte;
                    drop(check(&changed, asked));
                    drop(read_any(&changed));
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
            (
                message(7, element(ENTRY, &[leaf(4, &[0xff]), leaf(SEQUENCE, b"")]), b""),
                Asked::Search,
                "not UTF-8",
            ),
            (message(7, element(REFERENCE, &[leaf(0x24, b"")]), b""), Asked::Search, "no value"),
        ] {
            let error = check(&sent, asked).expect_err(why);
            assert!(error.0.contains(why), "{error:?} instead of {why}");
        }
        let many = vec![leaf(4, b""); ELEMENTS_MAX + 1];
        let attribute = element(SEQUENCE, &[leaf(4, b"a"), element(SET, &many)]);
        let large = element(ENTRY, &[leaf(4, b""), element(SEQUENCE, &[attribute])]);
        assert!(check(&message(7, large, b""), Asked::Search).is_err_and(|error| error.0.contains("20000")));
        let attribute = |name| element(SEQUENCE, &[leaf(4, name), element(SET, &[leaf(4, b"x")])]);
        let twice = element(SEQUENCE, &[attribute(b"uid"), attribute(b"UID")]);
        let twice = message(7, element(ENTRY, &[leaf(4, b""), twice]), b"");
        assert!(check(&twice, Asked::Search).is_err_and(|error| error.0.contains("twice")));
    }

    #[test]
    fn nesting_is_as_deep_as_an_entry_and_no_deeper() {
        let mut nested = leaf(4, b"");
        for _ in 0..10_000 {
            nested = element(0x30, &[nested]);
        }
        let deep = element(ENTRY, &[leaf(4, b""), element(SEQUENCE, &[nested.clone()])]);
        assert!(check(&message(7, deep, b""), Asked::Search).is_err());
        // What is left out is not read.
        assert!(check(&message(7, an_entry(), &leaf(CONTROLS, &nested)), Asked::Search).is_ok());
    }

    /// The leaves of a message as ldap3 reads it, each with the identifiers above it.
    fn leaves(tag: &StructureTag, above: &str, out: &mut Vec<(String, Vec<u8>)>) {
        let name = format!("{above}/{:?}{}", tag.class, tag.id);
        match &tag.payload {
            PL::P(value) => out.push((name, value.clone())),
            PL::C(parts) => parts.iter().for_each(|part| leaves(part, &name, out)),
        }
    }

    /// By RFC 4511 4.2 and 4.5.1.
    #[test]
    fn requests_are_those_of_the_document() {
        let read = |bytes: &[u8]| {
            let (rest, tag) = parse_tag(bytes).expect("an element");
            assert!(rest.is_empty());
            let mut out = Vec::new();
            leaves(&tag, "", &mut out);
            out
        };
        let top = "/Universal16";
        let bound = read(&bind(300, "cn=a", "secret"));
        let expected: [(&str, &[u8]); 4] = [
            ("/Universal2", &[1, 44]),
            ("/Application0/Universal2", &[3]),
            ("/Application0/Universal4", b"cn=a"),
            ("/Application0/Context0", b"secret"),
        ];
        assert_eq!(bound, expected.map(|(at, value)| (format!("{top}{at}"), value.to_vec())));
        let search = Search {
            base: "dc=x",
            scope: Scope::Subtree,
            filter: &Filter::Present(Attribute::known("cn")),
            attributes: &["uid", "cn"],
            entries_max: 127,
            domain_scope: true,
        };
        let mut out = Vec::new();
        search.write(&mut out, 5, None);
        let expected: [(&str, &[u8]); 12] = [
            ("/Universal2", &[5]),
            ("/Application3/Universal4", b"dc=x"),
            ("/Application3/Universal10", &[2]),
            ("/Application3/Universal10", &[0]),
            ("/Application3/Universal2", &[0, 128]),
            ("/Application3/Universal2", &[0]),
            ("/Application3/Universal1", &[0]),
            ("/Application3/Context7", b"cn"),
            ("/Application3/Universal16/Universal4", b"uid"),
            ("/Application3/Universal16/Universal4", b"cn"),
            ("/Context0/Universal16/Universal4", b"1.2.840.113556.1.4.1339"),
            ("/Context0/Universal16/Universal1", &[0xff]),
        ];
        assert_eq!(read(&out), expected.map(|(at, value)| (format!("{top}{at}"), value.to_vec())));
    }
}
