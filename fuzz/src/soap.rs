//! SOAP messages with a WS-Security header: the reader, the writer, the canonical form, and opening what
//! claims to be secured.

use crate::Choices;
use dtyp::FileTime;
use xml_security::names::{ADDRESSING, SOAP};
use xml_security::{
    ContextToken, Document, Key, Keys, NoKey, OpenPolicy, ParseLimits, Presence, ProtectionToken,
    SecurePolicy, Suite, UsernameToken, canonicalize, open, secure,
};

const NOW: FileTime = FileTime(134_000_000_000_000_000);
const TOKEN: &[u8] = b"<c:SecurityContextToken xmlns:c='http://schemas.xmlsoap.org/ws/2005/02/sc' \
    xmlns:u='http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd' u:Id='sct'>\
    <c:Identifier>urn:uuid:1</c:Identifier></c:SecurityContextToken>";

/// Reads `bytes` as a document and as a secured message, and as changes of a message that is secured.
pub fn check(bytes: &[u8]) {
    let limits = ParseLimits::default();
    if let Ok(document) = Document::parse(bytes, &limits) {
        let written = document.write().expect("what was read can be written");
        let again = Document::parse(&written, &ParseLimits { octets: usize::MAX, ..limits });
        assert_eq!(again, Ok(document.clone()), "what was written is read as the same tree");
        for apex in [Some(document.root()), document.elements(document.root()).last()].into_iter().flatten() {
            let canonical = canonicalize(&document, apex, &[]);
            let again = Document::parse(&canonical, &ParseLimits { octets: usize::MAX, ..limits });
            let again = again.expect("canonical octets are well-formed");
            assert_eq!(
                canonicalize(&again, again.root(), &[]),
                canonical,
                "the canonical form has itself as form"
            );
            let extracted = document.extract(apex).expect("what was read can be written");
            let alone = Document::parse(&extracted, &ParseLimits { octets: usize::MAX, ..limits });
            // It may have more declarations on one element than a message may.
            if let Ok(alone) = alone {
                assert_eq!(
                    canonicalize(&alone, alone.root(), &[]),
                    canonical,
                    "an element alone means the same"
                );
            }
        }
    }
    assert!(opened(bytes).is_none(), "nothing outside has the key");

    let mut choices = Choices(bytes);
    let text: String = choices.take(64).iter().map(|octet| char::from(*octet)).collect();
    let Some(message) = secured(&text) else { return };
    assert_eq!(opened(&message).as_deref(), Some(&*text), "what was secured is opened");
    let mut changed = message;
    while !choices.is_empty() {
        let at = usize::from(choices.word()) % changed.len();
        let len = usize::from(choices.byte() % 8).min(changed.len() - at);
        let count = usize::from(choices.byte() % 8);
        changed.splice(at..at + len, choices.take(count).iter().copied());
        if changed.is_empty() {
            return;
        }
    }
    if let Some(read) = opened(&changed) {
        assert_eq!(read, text, "a message that was changed is refused, or says the same");
    }
}

/// A request whose body and user name have a text; `None` if XML cannot carry it.
fn secured(text: &str) -> Option<Vec<u8>> {
    let mut document = Document::new(SOAP.name("Envelope"));
    let root = document.root();
    let header = document.append_element(root, SOAP.name("Header"));
    document.append_text_element(header, ADDRESSING.name("Action"), text);
    document.append_text_element(header, ADDRESSING.name("To"), text);
    let body = document.append_element(root, SOAP.name("Body"));
    document.append_text_element(body, SOAP.name("Text"), text);
    let key = Key::new(&[1; 32]);
    let user = UsernameToken { username: text.to_owned(), password: text.to_owned().into() };
    let token = ProtectionToken::CarriedContext { element: TOKEN, key: &key };
    let policy = SecurePolicy { username: Some(&user), ..SecurePolicy::new(Suite::BASIC256, token, NOW) };
    secure(document, &policy, &mut |octets| octets.fill(7)).ok().map(|secured| secured.octets)
}

/// The text, if all places have the same.
fn opened(message: &[u8]) -> Option<String> {
    let policy = OpenPolicy { username: Presence::Required, ..OpenPolicy::request(Suite::BASIC256, NOW) };
    let opened = open(message, &policy, &mut Context, &mut |octets| octets.fill(9)).ok()?;
    let document = &opened.document;
    let body = document.elements(opened.envelope.body).next().expect("the body has a child");
    let text = document.text(body).expect("the child has a text").into_owned();
    for local in ["Action", "To"] {
        let header = opened.envelope.addressing(document, local).expect("it was required");
        assert_eq!(document.text(header).as_deref(), Some(&*text));
    }
    let user = opened.username.expect("it was required");
    assert_eq!((&*user.username, &**user.password), (&*text, &*text));
    Some(text)
}

struct Context;

impl Keys for Context {
    fn context(&mut self, token: ContextToken<'_>) -> Result<Key, NoKey> {
        if token.identifier == "urn:uuid:1" { Ok(Key::new(&[1; 32])) } else { Err(NoKey::UnknownContext) }
    }
}
