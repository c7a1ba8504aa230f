//! LDAP: what a directory sends.

use ldap3::asn1::{PL, StructureTag, parse_tag};

/// Reads `bytes` as the answer to each operation. An entry that is read has the name and the values that
/// ldap3's reader of BER finds in it.
pub fn check(bytes: &[u8]) {
    let Some((dn, attributes)) = store_ldap::read_any(bytes) else { return };
    let Ok((_, message)) = parse_tag(bytes) else { panic!("ldap3 cannot read the message") };
    let entry = parts(message).into_iter().nth(1).expect("an operation");
    let mut entry = parts(entry).into_iter();
    assert_eq!(value(entry.next().expect("a name")), dn.into_bytes());
    let of_attribute = |attribute| {
        let mut attribute = parts(attribute).into_iter();
        let name = value(attribute.next().expect("a name")).to_ascii_lowercase();
        let values: Vec<_> = parts(attribute.next().expect("values")).into_iter().map(value).collect();
        (name, values)
    };
    let mut expected: Vec<_> =
        parts(entry.next().expect("attributes")).into_iter().map(of_attribute).collect();
    expected.retain(|(_, values)| !values.is_empty());
    expected.sort_unstable();
    assert_eq!(attributes, expected);
}

fn parts(tag: StructureTag) -> Vec<StructureTag> {
    match tag.payload {
        PL::C(parts) => parts,
        PL::P(_) => panic!("a primitive element"),
    }
}

fn value(tag: StructureTag) -> Vec<u8> {
    match tag.payload {
        PL::P(value) => value,
        PL::C(_) => panic!("a constructed element"),
    }
}
