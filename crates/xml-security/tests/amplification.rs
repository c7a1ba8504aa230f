//! A canonical form is bounded by what was read.

use std::time::Instant;
use xml_security::{Document, ParseLimits, XmlError, canonicalize};

/// A root that declares a namespace, and children that use it.
fn siblings(namespace: &str, count: usize) -> String {
    format!("<r xmlns:p=\"{namespace}\">{}</r>", "<p:a/>".repeat(count))
}

#[test]
fn long_namespace_of_many_siblings_is_refused_before_it_is_written_out() {
    let limits = ParseLimits { octets: 256 << 10, ..ParseLimits::default() };
    let long = format!("urn:{}", "x".repeat(100 << 10));
    let started = Instant::now();
    let refused = Document::parse(siblings(&long, 15_000).as_bytes(), &limits);
    assert_eq!(refused.err(), Some(XmlError::TooLarge));
    // Written out it would have 1.5 GiB.
    assert!(started.elapsed().as_secs() < 10);
    // By attributes as well.
    let attributes: String = (0..3_000).map(|_| "<a p:b=\"\"/>").collect();
    let text = format!("<r xmlns:p=\"{long}\">{attributes}</r>");
    assert_eq!(Document::parse(text.as_bytes(), &limits).err(), Some(XmlError::TooLarge));
}

#[test]
fn usual_namespaces_of_many_elements_are_read() {
    let limits = ParseLimits { octets: 256 << 10, ..ParseLimits::default() };
    let usual = "http://schemas.example.com/services/2026/orders/messages";
    // Alternating namespaces, each written out at each element.
    let both = format!(
        "<r xmlns:p=\"{usual}\" xmlns:q=\"{usual}/types\">{}</r>",
        "<p:Item><q:Value>1</q:Value></p:Item>".repeat(5_000)
    );
    let document = Document::parse(both.as_bytes(), &limits).expect("it is read");
    let canonical = canonicalize(&document, document.root(), &[]);
    assert!(canonical.len() < both.len() * 5, "{} of {}", canonical.len(), both.len());
    // One default namespace is written out once.
    let default = format!("<r xmlns=\"{usual}\">{}</r>", "<a/>".repeat(30_000));
    Document::parse(default.as_bytes(), &limits).expect("it is read");
}
