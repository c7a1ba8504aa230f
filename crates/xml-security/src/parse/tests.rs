use super::*;
use crate::names::{Name, SECURITY};

fn parse(text: &str) -> Result<Document, XmlError> {
    Document::parse(text.as_bytes(), &ParseLimits::default())
}

fn text(xml: &str) -> String {
    let document = parse(xml).expect("well-formed");
    document.text(document.root()).expect("text alone").into_owned()
}

#[test]
fn text_is_whole_across_references_sections_and_comments() {
    // XML 1.0: sections 2.4, 2.5, 2.7, 2.11 and 4.1.
    for (xml, expected) in [
        ("<a>R&amp;D &lt;x&gt; &quot;&apos;</a>", "R&D <x> \"'"),
        ("<a>a&#13;&#x0D;\n</a>", "a\r\r\n"),
        ("<a>one\r\ntwo\rthree\n</a>", "one\ntwo\nthree\n"),
        ("<a>a<![CDATA[b&lt;]]>c</a>", "ab&lt;c"),
        ("<a><![CDATA[]]></a>", ""),
        ("<a>admin<!-- -->istrator</a>", "administrator"),
        ("<a><!--x-->b<!----></a>", "b"),
        ("<a></a>", ""),
        ("<a b='1'/>", ""),
        ("<a>&#x1F600;\u{e4}</a>", "\u{1f600}\u{e4}"),
    ] {
        assert_eq!(text(xml), expected, "{xml}");
    }
}

#[test]
fn text_beside_an_element_is_no_text() {
    let document = parse("<a>admin<b/></a>").expect("well-formed");
    assert_eq!(document.text(document.root()), None);
    assert_eq!(document.base64(document.root()), None);
}

#[test]
fn values_are_normalised() {
    // XML 1.0, section 3.3.3.
    let document = parse("<a b=' x\t\r\ny&#10;&#9;&#13;&amp;&lt;\"' c=\"'\"/>").expect("well-formed");
    assert_eq!(document.attribute(document.root(), Name::plain("b")), Some(" x  y\n\t\r&<\""));
    assert_eq!(document.attribute(document.root(), Name::plain("c")), Some("'"));
}

#[test]
fn base64_is_whole_or_refused() {
    let octets = |xml: &str| {
        let document = parse(xml).expect("well-formed");
        document.base64(document.root())
    };
    assert_eq!(octets("<a>AQ\r\n ID</a>"), Some(vec![1, 2, 3]));
    assert_eq!(octets("<a>AQ<!-- x -->ID</a>"), Some(vec![1, 2, 3]));
    assert_eq!(octets("<a>AQ&#73;D</a>"), Some(vec![1, 2, 3]));
    for wrong in ["<a>AQI</a>", "<a>AQ=ID</a>", "<a>AQ.ID</a>", "<a>AR==</a>", "<a>AQID<b/></a>"] {
        assert_eq!(octets(wrong), None, "{wrong}");
    }
}

#[test]
fn names_have_namespaces() {
    let document = parse(
        "<o:Username xmlns:o='http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd' \
         xmlns='urn:x' b='1' o:b='2' xml:lang='de'><y xmlns=''/></o:Username>",
    )
    .expect("well-formed");
    let root = document.root();
    assert!(document.is(root, SECURITY.name("Username")));
    assert_eq!(document.attribute(root, Name::plain("b")), Some("1"));
    assert_eq!(document.attribute(root, SECURITY.name("b")), Some("2"));
    assert_eq!(document.attribute(root, XML.name("lang")), Some("de"));
    let child = document.elements(root).next().expect("an element");
    assert_eq!(document.name(child).namespace, "");
    assert_eq!(document.namespace_at(root, ""), Some("urn:x"));
}

#[test]
fn refuses_what_is_not_well_formed() {
    for xml in [
        "",
        " ",
        "<a>",
        "</a>",
        "<a></b>",
        "<a/><b/>",
        "x<a/>",
        "<a/>x",
        "<a/>&#32;",
        "<![CDATA[]]><a/>",
        "<a",
        "<a b>",
        "<a b=c/>",
        "<a b='1'c='2'/>",
        "<a b='1' b='2'/>",
        "<a b='<'/>",
        "<a b='&'/>",
        "<a>&</a>",
        "<a>&#;</a>",
        "<a>&#x;</a>",
        "<a>&#+13;</a>",
        "<a>&#x0;</a>",
        "<a>&#xFFFE;</a>",
        "<a>&#xD800;</a>",
        "<a>&#x110000;</a>",
        "<a>]]></a>",
        "<a>\u{1}</a>",
        "<a>\u{ffff}</a>",
        "<a><!-- -- --></a>",
        "<a><!--- ---></a>",
        "<1/>",
        "< a/>",
        "<a/ >",
        "<a / >",
        "<:a/>",
        "<a:/>",
        "<a:b:c/>",
        "<a xmlns:b='urn:b' xmlns:c='urn:b' b:d='1' c:d='2'/>",
        " <?xml version='1.0'?><a/>",
        "<?xml version='1.1'?><a/>",
        "<?xml?><a/>",
        "<a><?xml version='1.0'?></a>",
        "<?xml version='1.0' standalone='maybe'?><a/>",
        "<a><![CDATA[</a>",
        "<a><![cdata[]]></a>",
        "<a b=\"1'/>",
        "<a></a b='1'>",
        "<a><b></a></b>",
    ] {
        let error = parse(xml).expect_err(xml);
        assert!(matches!(error, XmlError::IllFormed(_)), "{xml}: {error}");
    }
}

#[test]
fn refuses_document_types_instructions_and_entities() {
    assert_eq!(parse("<!DOCTYPE a><a/>").expect_err("it is refused"), XmlError::DocumentType);
    assert_eq!(
        parse("<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>").expect_err("it is refused"),
        XmlError::DocumentType
    );
    assert_eq!(parse("<!doctype a><a/>").expect_err("it is refused"), XmlError::DocumentType);
    assert_eq!(parse("<a><?x y?></a>").expect_err("it is refused"), XmlError::ProcessingInstruction);
    assert_eq!(parse("<?x y?><a/>").expect_err("it is refused"), XmlError::ProcessingInstruction);
    assert_eq!(parse("<a>&x;</a>").expect_err("it is refused"), XmlError::Entity);
    assert_eq!(parse("<a>&;</a>").expect_err("it is refused"), XmlError::Entity);
    assert_eq!(parse("<a b='&AMP;'/>").expect_err("it is refused"), XmlError::Entity);
}

#[test]
fn refuses_other_encodings() {
    let utf16: Vec<u8> = "\u{feff}<a/>".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for octets in
        [&utf16[..], b"<a>\xe4</a>", b"<a>\xc0\x80</a>", b"<?xml version='1.0' encoding='ISO-8859-1'?><a/>"]
    {
        assert_eq!(
            Document::parse(octets, &ParseLimits::default()).expect_err("it is refused"),
            XmlError::Encoding
        );
    }
    for fine in [
        "\u{feff}<a/>",
        "<?xml version='1.0' encoding='UTF-8'?><a/>",
        "<?xml version=\"1.0\" standalone='no' ?>\n<a/>\n",
    ] {
        parse(fine).expect(fine);
    }
}

#[test]
fn refuses_misused_namespaces() {
    for xml in [
        "<p:a/>",
        "<a p:b='1'/>",
        "<a xmlns:p=''/>",
        "<a xmlns='relative'/>",
        "<a xmlns:p='../x'/>",
        "<a xmlns:p='//host/x'/>",
        "<a xmlns:xmlns='urn:x'/>",
        "<a xmlns:xml='urn:x'/>",
        "<a xmlns:p='http://www.w3.org/2000/xmlns/'/>",
        "<a xmlns='http://www.w3.org/XML/1998/namespace'/>",
        "<a xmlns:p='http://www.w3.org/XML/1998/namespace'/>",
        "<a xmlns:p='urn:a' xmlns:p='urn:b'/>",
        "<a xmlns='urn:a' xmlns='urn:a'/>",
        "<a xmlns='urn: x'/>",
        "<a xmlns='urn:x#y#z'/>",
        "<a xmlns='urn:%4'/>",
        "<a xmlns='http://x:y/'/>",
        "<a xmlns='urn:\u{e4}'/>",
        "<xmlns:a/>",
        "<a><b xmlns:p='urn:p'/><p:c/></a>",
    ] {
        let error = parse(xml).expect_err(xml);
        assert!(matches!(error, XmlError::Namespace(_)), "{xml}: {error}");
    }
    parse("<a xmlns:xml='http://www.w3.org/XML/1998/namespace' xml:lang='de'/>").expect("redundant");
}

#[test]
fn limits_are_exact() {
    let nested = |depth: usize| format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
    parse(&nested(DEPTH_MAX)).expect("as deep as may be");
    assert_eq!(
        parse(&nested(DEPTH_MAX + 1)).expect_err("it is refused"),
        XmlError::TooMany("elements inside each other")
    );

    let attributes = |count: usize| {
        let all: String = (0..count).map(|n| format!(" a{n}=''")).collect();
        format!("<a{all}/>")
    };
    parse(&attributes(ATTRIBUTES_MAX)).expect("as many as may be");
    assert_eq!(
        parse(&attributes(ATTRIBUTES_MAX + 1)).expect_err("it is refused"),
        XmlError::TooMany("attributes")
    );

    let declared = |count: usize| {
        let tag = |n: usize| format!("<a xmlns:p{n}='urn:x'>");
        let open: String = (0..count)
            .step_by(4)
            .map(|n| {
                let more: String =
                    (n + 1..(n + 4).min(count)).map(|n| format!(" xmlns:p{n}='urn:x'")).collect();
                tag(n).replace('>', &format!("{more}>"))
            })
            .collect();
        format!("{open}{}", "</a>".repeat(count.div_ceil(4)))
    };
    parse(&declared(DECLARATIONS_MAX)).expect("as many as may be");
    assert_eq!(
        parse(&declared(DECLARATIONS_MAX + 1)).expect_err("it is refused"),
        XmlError::TooMany("namespace declarations")
    );

    let limits = ParseLimits { octets: 7, depth: 9, nodes: 2 };
    Document::parse(b"<a>b</a>", &ParseLimits { octets: 8, ..limits }).expect("as large as may be");
    assert_eq!(Document::parse(b"<a>b</a>", &limits).expect_err("it is refused"), XmlError::TooLarge);
    let limits = ParseLimits { octets: 99, ..limits };
    assert_eq!(
        Document::parse(b"<a>b<c/></a>", &limits).expect_err("it is refused"),
        XmlError::TooMany("elements and texts")
    );
}

#[test]
fn written_and_read_again_it_is_the_same_tree() {
    for xml in [
        "<a xmlns='urn:a' xmlns:p='urn:p' p:b='&#9;&#10;&#13;&quot;&lt;&amp;'>x&#13;]]&gt;<p:b/><!-- c --><b xmlns=''>&lt;</b></a>",
        "<a>\n <b c=''/>\n</a>",
    ] {
        let document = parse(xml).expect("well-formed");
        let written = document.write().expect("it was read");
        assert_eq!(Document::parse(&written, &ParseLimits::default()), Ok(document));
    }
}

#[test]
fn a_built_document_declares_what_it_uses() {
    let mut document = Document::new(crate::names::SOAP.name("Envelope"));
    let root = document.root();
    let header = document.append_element(root, crate::names::SOAP.name("Header"));
    let to = document.append_text_element(header, crate::names::ADDRESSING.name("To"), "http://x/?a&b\r");
    document.set_attribute(to, crate::names::SOAP.name("mustUnderstand"), "1");
    let plain = document.append_element(header, Name { prefix: "", namespace: "urn:x", local: "y" });
    document.append_element(plain, Name::plain("z"));
    assert_eq!(
        String::from_utf8(document.write().expect("writable")).expect("UTF-8"),
        "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\"><s:Header>\
         <a:To xmlns:a=\"http://www.w3.org/2005/08/addressing\" s:mustUnderstand=\"1\">http://x/?a&amp;b&#13;</a:To>\
         <y xmlns=\"urn:x\"><z xmlns=\"\"/></y></s:Header></s:Envelope>"
    );
    for wrong in ["\u{0}", "\u{b}", "\u{ffff}"] {
        let mut document = document.clone();
        document.append_text(header, wrong);
        assert!(document.write().is_err());
    }
    document.set_attribute(to, Name::plain("a b"), "");
    assert!(document.write().is_err());
}

#[test]
fn fragments_are_read_in_the_namespaces_of_their_place() {
    let mut document =
        parse("<a xmlns='urn:a' xmlns:p='urn:p'><b xmlns:p='urn:q'/></a>").expect("well-formed");
    let b = document.elements(document.root()).next().expect("an element");
    let limits = ParseLimits::default();
    let nodes = document.parse_inside(b, b"x<p:c/><c xmlns=''/>", &limits).expect("well-formed");
    assert_eq!(nodes.len(), 3);
    assert_eq!(document.name(nodes[1]).namespace, "urn:q");
    assert_eq!(document.name(nodes[2]).namespace, "");
    for wrong in ["<q:c/>", "</b>", "</b><b>", "<?xml version='1.0'?><c/>", "<c>"] {
        document.parse_inside(b, wrong.as_bytes(), &limits).expect_err(wrong);
    }
    let two_left = ParseLimits { depth: 4, ..limits };
    document.parse_inside(b, b"<c><c/></c>", &two_left).expect("as deep as may be");
    document.parse_inside(b, b"<c><c><c/></c></c>", &two_left).expect_err("too deep");
}
