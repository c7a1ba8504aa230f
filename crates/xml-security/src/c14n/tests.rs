use super::*;
use crate::parse::ParseLimits;

fn whole(xml: &str, prefixes: &[&str]) -> String {
    let document = Document::parse(xml.as_bytes(), &ParseLimits::default()).expect("well-formed");
    String::from_utf8(canonicalize(&document, document.root(), prefixes)).expect("UTF-8")
}

/// The element `local`, as a subtree.
fn part(xml: &str, local: &str, prefixes: &[&str]) -> String {
    let document = Document::parse(xml.as_bytes(), &ParseLimits::default()).expect("well-formed");
    let apex = document.descendants(document.root()).find(|id| document.name(*id).local == local);
    String::from_utf8(canonicalize(&document, apex.expect("it is there"), prefixes)).expect("UTF-8")
}

/// Canonical XML 1.0, section 3.2 to 3.4, without comments and document types.
#[test]
fn examples_of_canonical_xml() {
    assert_eq!(
        whole(
            "<doc>\n   <clean>   </clean>\n   <mixed>\n      A\n      <clean>   </clean>\n      B\n   </mixed>\n</doc>",
            &[]
        ),
        "<doc>\n   <clean>   </clean>\n   <mixed>\n      A\n      <clean>   </clean>\n      B\n   </mixed>\n</doc>"
    );
    assert_eq!(
        whole(
            "<doc>\n   <e1   />\n   <e2   ></e2>\n   <e3   name = \"elem3\"   id=\"elem3\"   />\n   \
             <e5 a:attr=\"out\" b:attr=\"sorted\" attr2=\"all\" attr=\"I'm\"\n      \
             xmlns:b=\"http://www.ietf.org\"\n      xmlns:a=\"http://www.w3.org\"\n      \
             xmlns=\"http://example.org\"/>\n</doc>",
            &[]
        ),
        "<doc>\n   <e1></e1>\n   <e2></e2>\n   <e3 id=\"elem3\" name=\"elem3\"></e3>\n   \
         <e5 xmlns=\"http://example.org\" xmlns:a=\"http://www.w3.org\" xmlns:b=\"http://www.ietf.org\" attr=\"I'm\" \
         attr2=\"all\" b:attr=\"sorted\" a:attr=\"out\"></e5>\n</doc>"
    );
    assert_eq!(
        whole(
            "<doc>\n   <text>First line&#x0d;&#10;Second line</text>\n   <value>&#x32;</value>\n   \
             <compute><![CDATA[value>\"0\" && value<\"10\" ?\"valid\":\"error\"]]></compute>\n   \
             <compute expr='value>\"0\" &amp;&amp; value&lt;\"10\" ?\"valid\":\"error\"'>valid</compute>\n   \
             <norm attr=' &apos;   &#x20;&#13;&#xa;&#9;   &apos; '/>\n</doc>",
            &[]
        ),
        "<doc>\n   <text>First line&#xD;\nSecond line</text>\n   <value>2</value>\n   \
         <compute>value&gt;\"0\" &amp;&amp; value&lt;\"10\" ?\"valid\":\"error\"</compute>\n   \
         <compute expr=\"value>&quot;0&quot; &amp;&amp; value&lt;&quot;10&quot; ?&quot;valid&quot;:&quot;error&quot;\">valid</compute>\n   \
         <norm attr=\" '    &#xD;&#xA;&#x9;   ' \"></norm>\n</doc>"
    );
}

/// Exclusive XML Canonicalization 1.0, section 2.2: the same element in two places.
#[test]
fn examples_of_exclusive_canonicalization() {
    let first = "<n0:pdu xmlns:n0='http://a.example'\n xmlns:n1='http://b.example' xmlns:n2='http://c.example'>\n\
        <n1:elem2 xmlns:n1='http://b.example' xml:lang='en'>\n<n3:stuff xmlns:n3='ftp://example.org'/>\n</n1:elem2></n0:pdu>";
    let second = "<n2:pdu xmlns:n1='http://example.com' xmlns:n2='http://foo.example' xml:lang='fr' xml:space='retain'>\n\
        <n1:elem2 xmlns:n1='http://b.example' xml:lang='en'>\n<n3:stuff xmlns:n3='ftp://example.org'/>\n</n1:elem2></n2:pdu>";
    let expected = "<n1:elem2 xmlns:n1=\"http://b.example\" xml:lang=\"en\">\n\
        <n3:stuff xmlns:n3=\"ftp://example.org\"></n3:stuff>\n</n1:elem2>";
    assert_eq!(part(first, "elem2", &[]), expected);
    assert_eq!(part(second, "elem2", &[]), expected);
}

#[test]
fn inherited_language_is_not_rendered() {
    // Exclusive XML Canonicalization 1.0, section 3: attributes in the XML namespace are not imported.
    assert_eq!(
        part("<a xml:lang='de'><b xml:space='preserve'/></a>", "b", &[]),
        "<b xml:space=\"preserve\"></b>"
    );
}

#[test]
fn undeclared_default_namespace_is_rendered_where_it_matters() {
    assert_eq!(
        whole("<a xmlns='urn:a'><b xmlns=''><c/></b></a>", &[]),
        "<a xmlns=\"urn:a\"><b xmlns=\"\"><c></c></b></a>"
    );
    assert_eq!(part("<a xmlns='urn:a'><b xmlns=''><c/></b></a>", "b", &[]), "<b><c></c></b>");
    assert_eq!(
        whole("<p:a xmlns='urn:a' xmlns:p='urn:p'><b xmlns=''/></p:a>", &[]),
        "<p:a xmlns:p=\"urn:p\"><b></b></p:a>"
    );
}

#[test]
fn listed_prefixes_are_rendered() {
    let xml = "<a xmlns:q='urn:q' xmlns='urn:a'><p:b xmlns:p='urn:p'><c q='q:x' xmlns:q='urn:r'/></p:b></a>";
    assert_eq!(
        part(xml, "b", &["q", "#default"]),
        "<p:b xmlns=\"urn:a\" xmlns:p=\"urn:p\" xmlns:q=\"urn:q\"><c xmlns:q=\"urn:r\" q=\"q:x\"></c></p:b>"
    );
    assert_eq!(part(xml, "b", &["zz"]), "<p:b xmlns:p=\"urn:p\"><c xmlns=\"urn:a\" q=\"q:x\"></c></p:b>");
}

#[test]
fn omitted_children_leave_the_rest_as_it_is() {
    let xml = "<t:c xmlns:t='urn:t'><t:r><t:Type/>\n<t:Token>x</t:Token><t:Proof/><t:Lifetime/></t:r></t:c>";
    let document = Document::parse(xml.as_bytes(), &ParseLimits::default()).expect("well-formed");
    let response = document.elements(document.root()).next().expect("an element");
    let octets = canonicalize_without(&document, response, &[], |id| {
        document.is_white_space(id) || matches!(document.name(id).local, "Token" | "Proof")
    });
    assert_eq!(
        String::from_utf8(octets).expect("UTF-8"),
        "<t:r xmlns:t=\"urn:t\"><t:Type></t:Type><t:Lifetime></t:Lifetime></t:r>"
    );
}

/// W3C's interoperability vector for exclusive canonicalisation (merlin-exc-c14n-one): SHA-1 of the element
/// with and without a PrefixList. What is around and before the element is shortened; no namespace of it is
/// left out.
#[test]
fn vectors_of_exclusive_canonicalization() {
    let xml = "<Foo xmlns:bar=\"urn:bar\" xmlns=\"urn:foo\" xml:space=\"preserve\">\n  \
        <dsig:Signature xmlns:dsig=\"http://www.w3.org/2000/09/xmldsig#\">\n    \
        <dsig:Object Id=\"to-be-signed\">\n      <bar:Baz>\n        <!--  comment -->\n      </bar:Baz>\n    </dsig:Object>\n  \
        </dsig:Signature>\n</Foo>";
    let digest = |prefixes: &[&str]| {
        let octets = part(xml, "Object", prefixes);
        crate::tree::encode_base64(&crate::key::sha1(octets.as_bytes()))
    };
    assert_eq!(digest(&[]), "7yOTjUu+9oEhShgyIIXDLjQ08aY=");
    assert_eq!(digest(&["bar", "#default"]), "09xMy0RTQM1Q91demYe/0F6AGXo=");
}
