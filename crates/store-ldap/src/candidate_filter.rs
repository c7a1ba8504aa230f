//! The filters that find every account which our comparison may accept (`account_store::index`), for servers
//! that compare more narrowly.
//!
//! Names (userPrincipalName, servicePrincipalName, the account's own) are looked for as they are folded, in
//! NFC and in NFD: servers ignore case themselves, and some keep the two apart. What is *not* found: a stored
//! name that is partly in NFC and partly in NFD, one with a ligature-like letter whose fold is ASCII (the
//! Kelvin sign, the long s), and `ẞ` for `ß`.
//!
//! Mappings are looked for by what cannot be spelled otherwise: the digits of a serial number, a key
//! identifier, a hash or a SID. Where a mapping has names alone, the parts of the names that have no other
//! spelling stand in the filter, and wildcards for the rest ([`Accents`]). What is *not* found: hex digits
//! with spaces between them, and a full-width or marked form of a
//! character that [`account_store::search_parts`] keeps.

use crate::filter::{Attribute, Filter};
use account_store::alt_security_identity::AltSecurityIdentity;
use account_store::{fold, search_parts};
use unicode_normalization::UnicodeNormalization;

/// Who ignores accents, width and kana type when mappings with names are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accents {
    /// The server does not: filters have wildcards where a letter may have an accent (Samba, OpenLDAP, 389).
    #[default]
    Wildcards,
    /// The server does, as Active Directory on Windows Server: mappings are looked for as they are.
    Server,
}

/// Accounts with this name, or one that is equal by [`fold::casefold`].
pub(crate) fn name(attribute: &Attribute, text: &str) -> Filter {
    let composed = fold::casefold(text);
    let decomposed: String = composed.nfd().collect();
    let mut variants = vec![composed];
    if decomposed != variants[0] {
        variants.push(decomposed);
    }
    Filter::any(variants.into_iter().map(|variant| Filter::equal(attribute, variant)))
}

/// Accounts with this mapping, or one that is equal by `windows` comparison. `None` for what maps nothing.
pub(crate) fn identity(attribute: &Attribute, value: &str, accents: Accents) -> Option<Filter> {
    let identity: AltSecurityIdentity = value.parse().ok()?;
    if accents == Accents::Server {
        return Some(Filter::equal(attribute, identity.to_string()));
    }
    let pattern = |parts: Vec<String>| {
        Filter::Pattern(
            attribute.clone(),
            b"X509:".to_vec(),
            parts.into_iter().map(String::into_bytes).collect(),
        )
    };
    let mut patterns = search_parts::exact(&identity).into_iter().map(pattern);
    match (patterns.next(), patterns.next()) {
        // Tags may stand in either order, so each is looked for by itself.
        (Some(first), Some(second)) => Some(Filter::And(vec![first, second])),
        (first, _) => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use account_store::alt_security_identity::key;

    fn attribute() -> Attribute {
        Attribute::known("altSecurityIdentities")
    }

    /// Whether a server that ignores the case of ASCII and nothing else finds one of the values.
    fn finds(filter: &Filter, values: &[&str]) -> bool {
        match filter {
            Filter::And(filters) => filters.iter().all(|filter| finds(filter, values)),
            Filter::Or(filters) => filters.iter().any(|filter| finds(filter, values)),
            Filter::Not(filter) => !finds(filter, values),
            Filter::Present(_) => !values.is_empty(),
            Filter::Equal(_, wanted) => {
                values.iter().any(|value| value.as_bytes().eq_ignore_ascii_case(wanted))
            }
            Filter::Pattern(_, initial, others) => values.iter().any(|value| {
                let value = value.to_ascii_lowercase().into_bytes();
                let Some(mut rest) = value.strip_prefix(&initial.to_ascii_lowercase()[..]) else {
                    return false;
                };
                others.iter().all(|other| {
                    let other = other.to_ascii_lowercase();
                    let found = rest.windows(other.len()).position(|window| window == other);
                    found.is_some_and(|at| {
                        rest = &rest[at + other.len()..];
                        true
                    })
                })
            }),
        }
    }

    /// Pairs of a stored value and a question, which are equal here: a server has to find the one by the
    /// other.
    #[test]
    fn what_is_equal_here_is_found_there() {
        for (stored, asked) in [
            ("X509:<S>CN=Jos\u{e9}", "X509:<S>CN=jose"),
            ("X509:<S>CN=jose", "X509:<S>CN=JOSE\u{301}"),
            ("X509:<S>CN=Jose\u{301}", "X509:<S>CN=\u{ff2a}\u{ff2f}\u{ff33}\u{ff25}"),
            (
                "X509:<I>O=Contoso,CN=C\u{f4}ntoso CA<SR>0504030201",
                "X509:<I>O=Contoso,CN=Contoso CA<SR>0504030201",
            ),
            (
                "X509:<I>O=Contoso,CN=Contoso CA<SR>0504030201",
                "X509:<I>O=Contoso,CN=C\u{f4}ntoso CA<SR>0504030201",
            ),
            ("x509: <I>dc=COM, dc=Contoso <SR>0A0B00", "X509:<I>DC=com,DC=contoso<SR>0a0b"),
            ("X509:<S>CN=Alice Smith<I>CN=CA", "X509:<I>CN=CA<S>CN=Alice\u{a0}Smith"),
            ("X509:<S>CN=\u{3072}\u{3089}", "X509:<S>CN=\u{30d2}\u{30e9}"),
            ("X509:<S>CN=\u{ff8b}\u{ff97}", "X509:<S>CN=\u{3072}\u{3089}"),
            (r#"X509:<I>O="Contoso, Ltd.",CN=a<S>CN=b"#, r#"X509:<I>O="contoso, ltd.",CN=A<S>CN=B"#),
            (r#"X509:<S>CN="say ""hi""""#, r#"X509:<S>CN="SAY ""HI""""#),
            ("X509:<S>CN=a + OU=b,O=x", "X509:<S>OU=B+CN=A,O=X"),
            ("X509:<S>Phone=49 30 1,CN=a", "X509:<S>OID.2.5.4.20=49 30 1,CN=a"),
            ("X509:<S>S=Bavaria,E=a@b.c", "X509:<S>ST=Bavaria,emailAddress=A@B.C"),
            ("X509:<S>OU=a\u{ad}b", "X509:<S>OU=ab"),
            ("X509:<RFC822>m\u{fc}ller@contoso.com", "X509:<RFC822>muller@contoso.com"),
            ("X509:<SKI>0B6993F12D", "X509:<SKI>0b6993f12d"),
            ("X509:<I>CN=\u{c9}<SID>s-1-5-21-1-2-3-1013", "X509:<I>CN=E<SID>S-1-5-21-1-2-3-1013"),
            ("X509:<I>CN=#0403AbCd", "X509:<I>CN=#0403abcd"),
        ] {
            assert!(key(stored).is_some(), "{stored}");
            assert_eq!(key(stored), key(asked), "{stored} {asked}");
            let filter = identity(&attribute(), asked, Accents::Wildcards).expect("a mapping");
            assert!(finds(&filter, &[stored]), "{filter:?} does not find {stored}");
        }
    }

    #[test]
    fn strong_forms_and_names_of_letters_with_one_spelling_are_narrow() {
        for (asked, other) in [
            ("X509:<I>CN=CA<SR>0504030201", "X509:<I>CN=CA<SR>0504030202"),
            ("X509:<SKI>0102", "X509:<SHA1-PUKEY>76060f8af26895d6556b20005de961ef40505f69"),
            ("X509:<S>CN=Bob", "X509:<S>CN=Alice"),
            ("X509:<I>CN=Firm 7<S>CN=a", "X509:<I>CN=Firm 8<S>CN=a"),
            ("X509:<I>CN=CA", "Kerberos:alice@EXAMPLE.COM"),
        ] {
            let filter = identity(&attribute(), asked, Accents::Wildcards).expect("a mapping");
            assert!(!finds(&filter, &[other]), "{filter:?} finds {other}");
        }
        assert_eq!(identity(&attribute(), "Kerberos:alice@EXAMPLE.COM", Accents::Wildcards), None);
        let exact = identity(&attribute(), "x509:<s>cn=a", Accents::Server).expect("a mapping");
        assert_eq!(exact, Filter::equal(&attribute(), "X509:<S>CN=a"));
    }

    #[test]
    fn names_are_looked_for_composed_and_decomposed() {
        let upn = Attribute::known("userPrincipalName");
        assert_eq!(name(&upn, "Alice@Contoso.com"), Filter::equal(&upn, "alice@contoso.com"));
        let both = Filter::Or(vec![Filter::equal(&upn, "jos\u{e9}@x"), Filter::equal(&upn, "jose\u{301}@x")]);
        assert_eq!(name(&upn, "JOS\u{c9}@x"), both);
        assert_eq!(name(&upn, "jose\u{301}@x"), both);
    }
}
