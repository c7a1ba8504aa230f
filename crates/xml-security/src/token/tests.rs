use super::*;
use crate::parse::ParseLimits;

fn derived(inside: &str, attributes: &str) -> Result<DerivedKeyToken, Reason> {
    let xml = format!(
        "<c:DerivedKeyToken xmlns:c='{}' xmlns:o='{}' xmlns:u='{}' u:Id='_0'{attributes}>{inside}</c:DerivedKeyToken>",
        CONVERSATION.uri,
        SECURITY.uri,
        names::UTILITY.uri
    );
    let document = Document::parse(xml.as_bytes(), &ParseLimits::default()).expect("well-formed");
    DerivedKeyToken::read(&document, document.root())
}

const REFERENCE: &str = "<o:SecurityTokenReference><o:Reference URI='#sct'/></o:SecurityTokenReference>";

#[test]
fn derived_keys_have_limits() {
    let nonce = "<c:Nonce>AAECAwQFBgcICQoLDA0ODw==</c:Nonce>";
    let with = |more: &str| derived(&format!("{REFERENCE}{more}{nonce}"), "");
    let plain = with("").expect("the defaults");
    assert_eq!((plain.offset, plain.length, &*plain.label), (0, 32, LABEL_DEFAULT));
    assert_eq!(plain.base, KeyReference::Id("sct".to_owned()));
    for (more, offset, length) in [
        ("<c:Offset>0</c:Offset><c:Length>24</c:Length>", 0, 24),
        ("<c:Length>16</c:Length><c:Offset>64</c:Offset>", 64, 16),
        ("<c:Generation>2</c:Generation>", 64, 32),
        ("<c:Generation>2</c:Generation><c:Length>16</c:Length>", 32, 16),
    ] {
        let read = with(more).expect(more);
        assert_eq!((read.offset, read.length), (offset, length), "{more}");
    }
    for wrong in [
        "<c:Length>0</c:Length>",
        "<c:Length>1</c:Length>",
        "<c:Length>20</c:Length>",
        "<c:Length>64</c:Length>",
        "<c:Length>+32</c:Length>",
        "<c:Length/>",
        "<c:Length>32</c:Length><c:Length>32</c:Length>",
        "<c:Offset>65</c:Offset>",
        "<c:Offset>-1</c:Offset>",
        "<c:Generation>3</c:Generation>",
        "<c:Generation>9999</c:Generation>",
        "<c:Generation>99999999999999999999</c:Generation>",
        "<c:Generation>0</c:Generation><c:Offset>0</c:Offset>",
        "<c:Properties/>",
        "<c:Label></c:Label>",
        "<x/>",
        nonce,
        REFERENCE,
    ] {
        with(wrong).expect_err(wrong);
    }
    derived(REFERENCE, "").expect_err("no nonce");
    derived(nonce, "").expect_err("no reference");
    let long = |octets: usize, label: usize| {
        let nonce = "AAAA".repeat(octets / 3);
        derived(&format!("{REFERENCE}<c:Label>{}</c:Label><c:Nonce>{nonce}</c:Nonce>", "x".repeat(label)), "")
    };
    long(126, 128).expect("as long as may be");
    long(129, 128).expect_err("a long nonce");
    long(126, 129).expect_err("a long label");
    derived(&format!("{REFERENCE}<c:Nonce></c:Nonce>"), "").expect_err("an empty nonce");
    let all = format!("{REFERENCE}{nonce}");
    derived(&all, &format!(" Algorithm='{}'", names::DERIVE_P_SHA1)).expect("the only algorithm");
    derived(&all, " Algorithm='urn:other'").expect_err("another algorithm");
}

#[test]
fn references_are_written_as_they_are_read() {
    let hash = [7; 20];
    for reference in [
        KeyReference::Id("_0".to_owned()),
        KeyReference::Token(TokenName::Context { identifier: "urn:uuid:1".to_owned(), instance: None }),
        KeyReference::Token(TokenName::Context {
            identifier: "urn:uuid:1".to_owned(),
            instance: Some("urn:uuid:2".to_owned()),
        }),
        KeyReference::Token(TokenName::EncryptedKey(hash)),
        KeyReference::Thumbprint(hash),
        KeyReference::SubjectKeyIdentifier(vec![1, 2, 3]),
        KeyReference::IssuerSerial { issuer: "CN=x".to_owned(), serial: "12".to_owned() },
    ] {
        let mut document = Document::new(names::UTILITY.name("Test"));
        let root = document.root();
        reference.write(&mut document, root, NO_VALUE_TYPE);
        let child = document.elements(root).next().expect("it was written");
        assert_eq!(KeyReference::read(&document, child), Ok(reference));
    }
}

#[test]
fn other_references_are_refused() {
    for inside in [
        "",
        "<o:Embedded/>",
        "<o:Reference/>",
        "<o:Reference URI='urn:uuid:1'/>",
        "<o:Reference URI='urn:uuid:1' ValueType='urn:x'/>",
        "<o:Reference URI='#a'/><o:Reference URI='#b'/>",
        "<o:KeyIdentifier>AAAA</o:KeyIdentifier>",
        "<o:KeyIdentifier ValueType='http://docs.oasis-open.org/wss/oasis-wss-soap-message-security-1.1#ThumbprintSHA1'>AAAA</o:KeyIdentifier>",
    ] {
        let xml = format!(
            "<o:SecurityTokenReference xmlns:o='{}'>{inside}</o:SecurityTokenReference>",
            SECURITY.uri
        );
        let document = Document::parse(xml.as_bytes(), &ParseLimits::default()).expect("well-formed");
        KeyReference::read(&document, document.root()).expect_err(inside);
    }
}

fn username(inside: &str) -> Result<UsernameToken, Reason> {
    let xml = format!(
        "<o:UsernameToken xmlns:o='{}' xmlns:u='{}' xmlns:k='{}'>{inside}</o:UsernameToken>",
        SECURITY.uri,
        names::UTILITY.uri,
        SECURITY_11.uri
    );
    let document = Document::parse(xml.as_bytes(), &ParseLimits::default()).expect("well-formed");
    UsernameToken::read(&document, document.root())
}

#[test]
fn user_names_are_whole() {
    let token = username(
        "<o:Username>ad<!-- -->min&amp;&#13;<![CDATA[<x>]]></o:Username><o:Password>p\r\nw</o:Password>",
    )
    .expect("whole");
    assert_eq!(token.username, "admin&\r<x>");
    assert_eq!(*token.password, "p\nw");
    assert!(!format!("{token:?}").contains("p\\nw"), "the password is not printed");
    let text =
        format!("<o:Username>a</o:Username><o:Password Type='{}'>b</o:Password>", names::PASSWORD_TEXT);
    username(&text).expect("the type is text");
    username(
        "<o:Username>a</o:Username><o:Password>b</o:Password><o:Nonce>AAAA</o:Nonce><u:Created>x</u:Created>",
    )
    .expect("ignored");
    for wrong in [
        "<o:Username>a</o:Username>",
        "<o:Password>b</o:Password>",
        "<o:Username>a<x/></o:Username><o:Password>b</o:Password>",
        "<o:Username>a</o:Username><o:Username>b</o:Username><o:Password>b</o:Password>",
        "<o:Username>a</o:Username><o:Password Type='urn:digest'>b</o:Password>",
        // Keys from passwords: WS-Security UsernameToken profile 1.1, section 4.
        "<o:Username>a</o:Username><o:Password>b</o:Password><k:Salt>AAAA</k:Salt><k:Iteration>1000</k:Iteration>",
    ] {
        username(wrong).expect_err(wrong);
    }
}

#[test]
fn context_tokens_are_written_as_they_are_read() {
    for instance in [None, Some("urn:uuid:2".to_owned())] {
        let name = TokenName::Context { identifier: "urn:uuid:1".to_owned(), instance };
        let mut document = Document::new(names::UTILITY.name("Test"));
        let root = document.root();
        let token = name.write_context(&mut document, root, "sct").expect("it has an element");
        document.append_text_element(token, names::UTILITY.name("Cookie"), "AAAA");
        assert_eq!(TokenName::read_context(&document, token), Ok(name.clone()));
        assert_eq!(document.id_of(token), Some("sct"));
        document.append_text_element(token, CONVERSATION.name("Identifier"), "urn:uuid:3");
        TokenName::read_context(&document, token).expect_err("two identifiers");
        TokenName::read_context(&document, root).expect_err("another element");
    }
    let key = TokenName::EncryptedKey([0; 20]);
    let mut document = Document::new(names::UTILITY.name("Test"));
    let root = document.root();
    assert_eq!(key.write_context(&mut document, root, "x"), None);
}
