#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

const RFC822: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;
const IP: u8 = 0x87;
const REGISTERED_ID: u8 = 0x88;

fn general(tag: u8, contents: &[u8]) -> Vec<u8> {
    der::encode(tag, &[contents])
}

fn principal_name(text: &str) -> Vec<u8> {
    let text = der::encode(0x0c, &[text.as_bytes()]);
    der::encode(0xa0, &[&der::encode(der::OID, &[PRINCIPAL_NAME]), &der::encode(0xa0, &[&text])])
}

fn subtrees(tag: u8, bases: &[Vec<u8>]) -> Vec<u8> {
    let subtrees: Vec<u8> = bases.iter().flat_map(|base| der::encode(der::SEQUENCE, &[base])).collect();
    if bases.is_empty() { Vec::new() } else { der::encode(tag, &[&subtrees]) }
}

fn constraints(permitted: &[Vec<u8>], excluded: &[Vec<u8>], critical: bool) -> Result<Constraints, Fault> {
    let value = der::encode(der::SEQUENCE, &[&subtrees(0xa0, permitted), &subtrees(0xa1, excluded)]);
    Constraints::read(&Extension { id: NAME_CONSTRAINTS, critical, value: &value })
}

fn names(names: &[Vec<u8>]) -> Names {
    let read = |encoded: &Vec<u8>| General::read(&Der::new(encoded).any("name").unwrap(), false).unwrap();
    Names(names.iter().map(read).collect())
}

/// Whether a name is allowed by a permitted and by an excluded subtree of its form.
fn verdict(name: Vec<u8>, base: Vec<u8>) -> (bool, bool) {
    let name = names(&[name]);
    let allows = |constraints: Constraints| constraints.check(&name, &mut Work::new()).is_ok();
    let base = std::slice::from_ref(&base);
    (allows(constraints(base, &[], true).unwrap()), allows(constraints(&[], base, true).unwrap()))
}

#[test]
fn each_form_has_its_own_subtrees() {
    const IN: (bool, bool) = (true, false);
    const OUT: (bool, bool) = (false, true);
    /// Not well formed: neither permitted nor free of the excluded.
    const BAD: (bool, bool) = (false, false);
    for (tag, name, base, expect) in [
        // RFC 5280 4.2.1.10: "www.host.example.com" is within "host.example.com", "host1.example.com" is not.
        (DNS, "www.host.example.com", "host.example.com", IN),
        (DNS, "host.example.com", "host.example.com", IN),
        (DNS, "HOST.example.COM", "host.Example.com", IN),
        (DNS, "host1.example.com", "host.example.com", OUT),
        (DNS, "xhost.example.com", "host.example.com", OUT),
        (DNS, "example.com", "host.example.com", OUT),
        (DNS, "anything.example", "", IN),
        (DNS, "a.example.com", ".example.com", IN),
        (DNS, "example.com", ".example.com", OUT),
        (DNS, "host.example.com.", "example.com", IN),
        (DNS, "*.example.com", "example.com", IN),
        // The wildcard may be the excluded host, and may be another than the permitted one.
        (DNS, "*.example.com", "host.example.com", BAD),
        (DNS, "*.example.com", "host.example.org", OUT),
        (DNS, "host..example.com", "example.com", BAD),
        (DNS, ".example.com", "example.com", BAD),
        (DNS, "host.example.com/evil", "example.com", BAD),
        (DNS, "", "example.com", BAD),
        // "root@example.com" is one mailbox, "example.com" all of a host, ".example.com" all below it.
        (RFC822, "root@example.com", "root@example.com", IN),
        (RFC822, "admin@example.com", "root@example.com", OUT),
        (RFC822, "Root@example.com", "root@example.com", BAD),
        (RFC822, "\"root\"@example.com", "root@example.com", BAD),
        (RFC822, "root@EXAMPLE.com", "example.com", IN),
        (RFC822, "root@host.example.com", "example.com", OUT),
        (RFC822, "root@host.example.com", ".example.com", IN),
        (RFC822, "root@example.com", ".example.com", OUT),
        (RFC822, "root@example.com", "@example.com", IN),
        (RFC822, "\"a@good.example\"@evil.example", "good.example", OUT),
        (RFC822, "a@evil.example@good.example", "good.example", BAD),
        (RFC822, "root", "example.com", BAD),
        (RFC822, "@example.com", "example.com", BAD),
        (RFC822, "root@", "example.com", BAD),
        (RFC822, "root@[192.0.2.1]", "example.com", BAD),
        (RFC822, "r\u{f6}\u{f6}t@example.com", "example.com", BAD),
        // A host alone is that host; a dot before it, what is below.
        (URI, "http://host.example.com/path", "host.example.com", IN),
        (URI, "http://www.host.example.com/", "host.example.com", OUT),
        (URI, "https://a.example.com:8443/x@evil", ".example.com", IN),
        (URI, "https://example.com", ".example.com", OUT),
        (URI, "https://user@evil.example/", "example.com", OUT),
        (URI, "https://example.com@evil.example/", "example.com", OUT),
        (URI, "https://evil.example?@example.com", "example.com", OUT),
        (URI, "https://evil.example#@example.com", "example.com", OUT),
        (URI, "https://evil.example\\@example.com", "example.com", BAD),
        (URI, "https://192.0.2.1/", "example.com", BAD),
        (URI, "https://[2001:db8::1]/", "example.com", BAD),
        (URI, "urn:example:com", "example.com", BAD),
        (URI, "tag:microsoft.com,2022-09-14:sid:S-1-5-21-1-2-3-1001", "microsoft.com", BAD),
        (URI, "//example.com/", "example.com", BAD),
    ] {
        assert_eq!(
            verdict(general(tag, name.as_bytes()), general(tag, base.as_bytes())),
            expect,
            "{name} {base}"
        );
    }
    for (name, base, expect) in [
        ("alice@contoso.example", "contoso.example", IN),
        ("alice@contoso.example", "@contoso.example", IN),
        ("alice@CONTOSO.example", ".contoso.example", OUT),
        ("alice@sub.contoso.example", ".contoso.example", IN),
        ("alice@fabrikam.example", "contoso.example", OUT),
        ("alice", "contoso.example", BAD),
        ("boss@contoso.example", "boss@contoso.example", IN),
        // The store finds the account of `boss` by each of these (UnicodeData.txt: U+017F and U+212A have the
        // simple upper cases and lower cases S and k; U+03C2 has that of U+03C3; U+FF42 is a full-width b).
        // Permitted is what is told, alone.
        ("bo\u{17f}s@contoso.example", "boss@contoso.example", BAD),
        ("bo\u{17f}\u{17f}@contoso.example", "boss@contoso.example", BAD),
        ("\u{ff42}oss@contoso.example", "boss@contoso.example", BAD),
        ("BOSS@contoso.example", "boss@contoso.example", BAD),
        ("\u{212a}arl@contoso.example", "karl@contoso.example", BAD),
        ("mu\u{308}ller@contoso.example", "m\u{fc}ller@contoso.example", BAD),
        ("\u{3c0}\u{3b1}\u{3c2}@contoso.example", "\u{3c0}\u{3b1}\u{3c3}@contoso.example", BAD),
        ("boss@conto\u{17f}o.example", "contoso.example", BAD),
        ("bob@contoso.example", "boss@contoso.example", OUT),
    ] {
        assert_eq!(verdict(principal_name(name), principal_name(base)), expect, "{name} {base}");
    }
}

#[test]
fn addresses_are_compared_by_prefix() {
    let mask = |octets: &[u8]| general(IP, octets);
    for (address, base, expect) in [
        (&[192, 0, 2, 7][..], &[192, 0, 2, 0, 255, 255, 255, 0][..], (true, false)),
        (&[192, 0, 3, 7], &[192, 0, 2, 0, 255, 255, 255, 0], (false, true)),
        (&[192, 0, 3, 7], &[192, 0, 2, 0, 255, 255, 254, 0], (true, false)),
        (&[1, 2, 3, 4], &[0; 8], (true, false)),
        // Another family is another place, and none of an address's length is none at all.
        (&[0; 16], &[0; 8], (false, true)),
        (&[1, 2, 3], &[0; 8], (false, false)),
    ] {
        assert_eq!(verdict(general(IP, address), mask(base)), expect, "{address:?} {base:?}");
    }
    for base in
        [&[192, 0, 2, 0, 255, 0, 255, 0][..], &[192, 0, 2, 0, 255, 253, 0, 0], &[192, 0, 2, 0], &[0; 7]]
    {
        assert!(constraints(&[general(IP, base)], &[], true).is_err(), "{base:?}");
    }
}

#[test]
fn forms_do_not_touch_each_other() {
    let only_dns = constraints(&[general(DNS, b"example.com")], &[], true).unwrap();
    let other = names(&[
        general(RFC822, b"a@evil.example"),
        principal_name("a@evil.example"),
        general(IP, &[1, 2, 3, 4]),
    ]);
    assert!(only_dns.check(&other, &mut Work::new()).is_ok());
    let only_mail = constraints(&[general(RFC822, b"example.com")], &[], true).unwrap();
    assert!(only_mail.check(&names(&[principal_name("a@evil.example")]), &mut Work::new()).is_ok());
    assert!(only_mail.check(&names(&[general(RFC822, b"a@evil.example")]), &mut Work::new()).is_err());
}

/// RFC 5280 4.2.1.10: what cannot be processed and is critical is refused where a name of that form appears.
#[test]
fn a_form_that_is_not_supported_is_refused_where_there_is_such_a_name() {
    let base = [general(REGISTERED_ID, &[0x2a, 0x03])];
    let name = names(&[general(REGISTERED_ID, &[0x2a, 0x03])]);
    for (critical, expect) in [(true, Err(ChainError::UnsupportedNameConstraint)), (false, Ok(()))] {
        let constraints = constraints(&[], &base, critical).unwrap();
        assert_eq!(constraints.check(&name, &mut Work::new()).map_err(|fault| fault.error), expect);
        assert!(constraints.check(&names(&[general(DNS, b"a.example")]), &mut Work::new()).is_ok());
    }
}

#[test]
fn constraints_that_are_not_well_formed_are_refused() {
    let empty = Extension { id: NAME_CONSTRAINTS, critical: true, value: &[0x30, 0x00] };
    assert_eq!(Constraints::read(&empty).map(|_| ()).unwrap_err().error, ChainError::Malformed);
    let subtree = |after: &[u8]| {
        let base = general(DNS, b"example.com");
        let subtree = der::encode(der::SEQUENCE, &[&base, after]);
        let value = der::encode(der::SEQUENCE, &[&der::encode(0xa0, &[&subtree])]);
        Constraints::read(&Extension { id: NAME_CONSTRAINTS, critical: true, value: &value }).is_ok()
    };
    assert!(subtree(&[]) && subtree(&[0x80, 0x01, 0x00]), "minimum is 0, told or not");
    assert!(
        !subtree(&[0x80, 0x01, 0x01]) && !subtree(&[0x81, 0x01, 0x05]),
        "there is no other minimum, and no maximum"
    );
    for (tag, base) in [(DNS, "a b"), (DNS, "*.example.com"), (URI, "https://example.com"), (RFC822, "a@")] {
        assert!(constraints(&[general(tag, base.as_bytes())], &[], true).is_err(), "{base}");
    }
    let many = vec![general(DNS, b"a"); SUBTREES_MAX + 1];
    assert_eq!(constraints(&many, &[], true).unwrap_err().error, ChainError::TooMany);
    assert!(constraints(&many[1..], &[], true).is_ok());
}

#[test]
fn the_work_is_bounded() {
    let constraints = constraints(&vec![general(DNS, b"a"); SUBTREES_MAX], &[], true).unwrap();
    let names = names(&vec![general(URI, b"x"); 1000]);
    let refused = constraints.check(&names, &mut Work::new()).unwrap_err();
    assert_eq!(refused.error, ChainError::TooComplex);
}

/// A directoryName of one relative name for each value, which is organizationalUnitName.
fn directory_name(values: &[(u8, &str)]) -> Vec<u8> {
    let rdn = |(tag, text): &(u8, &str)| {
        let attribute =
            [der::encode(der::OID, &[&[0x55, 0x04, 0x0b]]), der::encode(*tag, &[text.as_bytes()])];
        der::encode(der::SET, &[&der::encode(der::SEQUENCE, &[&attribute.concat()])])
    };
    let rdns: Vec<u8> = values.iter().flat_map(rdn).collect();
    der::encode(0xa4, &[&der::encode(der::SEQUENCE, &[&rdns])])
}

/// [MS-RCMP] note <2>: altSecurityIdentities are compared without case, nonspacing marks, width and kind of
/// kana.
#[test]
fn an_excluded_directory_name_is_excluded_in_each_spelling_that_maps() {
    const UTF8: u8 = 0x0c;
    for (name, base, expect) in [
        ("Admins", "admins", (true, false)),
        ("\u{c1}dmins", "Admins", (false, false)),
        ("A\u{301}dmins", "Admins", (false, false)),
        ("\u{ff21}dmins", "Admins", (true, false)),
        ("Admin\u{17f}", "Admins", (true, false)),
        ("\u{3042}", "\u{30a2}", (false, false)),
        ("\u{131}ntern", "Intern", (false, false)),
        // Both kinds of folding at once: by 7.1 `\u{df}` is `ss`.
        ("STRASSE \u{c1}", "stra\u{df}e a", (false, false)),
        ("Users", "Admins", (false, true)),
    ] {
        let (name, base) =
            ([(UTF8, "Contoso"), (UTF8, name), (UTF8, "x")], [(UTF8, "contoso"), (UTF8, base)]);
        assert_eq!(verdict(directory_name(&name), directory_name(&base)), expect, "{name:?} {base:?}");
    }
    let whole = directory_name(&[(UTF8, "Contoso"), (UTF8, "Admins")]);
    assert_eq!(verdict(directory_name(&[(UTF8, "Contoso")]), whole), (false, true), "it is above the base");
}

/// Each comparison of the store is within the one of excluded subtrees, whatever character it folds.
#[test]
fn what_the_store_folds_is_excluded() {
    for c in char::MIN..=char::MAX {
        let text = format!("x{c}x");
        for comparison in Comparison::ALL {
            let folded = comparison.key(&text);
            if c == '\0' || folded == text {
                continue;
            }
            assert!(is_same_to_a_lookup(&text, &folded), "{c:?} {comparison:?}");
            let read = |text: &str| {
                let name = directory_name(&[(0x0c, text)]);
                let name = Der::new(&name).any("name").unwrap();
                Directory::read(name.contents).unwrap()
            };
            assert!(read(&text).is_within(&read(&folded), true), "{c:?} {comparison:?}");
        }
    }
}

/// By 7.1 `ẞ` is one character, and two as look-ups fold it, so that the folded name is beyond the limit of
/// names.
#[test]
fn a_name_that_cannot_be_folded_is_excluded() {
    const UTF8: u8 = 0x0c;
    let long = "\u{1e9e}".repeat(crate::trust::name::PREPARED_CHARS_MAX - 10);
    let base = directory_name(&[(UTF8, "Contoso"), (UTF8, "Admins")]);
    for unit in ["\u{c1}dmins", "Users"] {
        let name = directory_name(&[(UTF8, "Contoso"), (UTF8, unit), (UTF8, &long)]);
        assert_eq!(verdict(name, base.clone()), (false, false), "{unit}");
    }
}
