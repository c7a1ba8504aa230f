//! Names as text: distinguished names, altSecurityIdentities, and the keys by which they are compared.

use account_store::{AltSecurityIdentity, DistinguishedName, alt_security_identity, fold};

/// Reads `bytes` as each kind of name.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for fold in [fold::casefold, fold::windows] {
        let folded = fold(text);
        assert_eq!(fold(&folded), folded, "a key is its own key");
    }
    if let Ok(name) = text.parse::<DistinguishedName>() {
        round_trip(&name);
    }
    let key = alt_security_identity::key(text);
    if let Ok(identity) = text.parse::<AltSecurityIdentity>() {
        assert_eq!(key, Some(identity.key()));
        // Canonical text can be longer than what was written, and too long to be looked at.
        let canonical = identity.to_string();
        if canonical.len() <= alt_security_identity::LEN_MAX {
            assert_eq!(canonical.parse().as_ref(), Ok(&identity));
            assert_eq!(
                alt_security_identity::key(&canonical),
                key,
                "a spelling does not change who is meant"
            );
        }
    } else {
        assert_eq!(key, None);
    }
}

/// A name that is written is read as the same name, unless it is empty, which as text is none.
pub(crate) fn round_trip(name: &DistinguishedName) {
    if name.0.is_empty() {
        return;
    }
    let text = name.to_string();
    assert_eq!(text.parse().as_ref(), Ok(name), "{text:?}");
}
