//! Stored values that no certificate matches, whatever the policy is: slips, words of other programs,
//! characters that cannot be seen. They are kept, and reported to the operator who stores them or looks for
//! them.

use crate::account::Account;
use crate::alt_security_identity::{AltSecurityIdentity, Ignored, TAGS};
use crate::distinguished_name::DistinguishedName;
use crate::fold::{is_invisible, windows};

/// A value of an account that no certificate matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmatchable<'a> {
    /// The attribute, by its name in the directory.
    pub attribute: &'static str,
    /// The value.
    pub value: &'a str,
    /// Why no certificate matches it.
    pub why: String,
}

impl Account {
    /// The values of this account that no certificate matches.
    pub fn unmatchable(&self) -> impl Iterator<Item = Unmatchable<'_>> {
        let names = self.user_principal_name.iter().map(|value| ("userPrincipalName", value));
        let services = self.service_principal_names.iter().map(|value| ("servicePrincipalName", value));
        let mappings = self.alt_security_identities.iter().map(|value| ("altSecurityIdentities", value));
        names.chain(services).chain(mappings).filter_map(|(attribute, value)| {
            let why = match attribute {
                "altSecurityIdentities" => unmatchable(value),
                _ => hidden(value),
            };
            Some(Unmatchable { attribute, value, why: why? })
        })
    }
}

/// Why no certificate matches a value of altSecurityIdentities; `None` for values that certificates may
/// match, and for values of other systems, which stand in the same attribute.
pub fn unmatchable(value: &str) -> Option<String> {
    let identity = match value.parse::<AltSecurityIdentity>() {
        Ok(identity) => identity,
        Err(Ignored::OtherKind) if is_of_other_system(value) => return None,
        Err(Ignored::OtherKind) => {
            return Some(match value.chars().next().filter(|first| is_hidden(*first)) {
                Some(first) => format!(
                    "it begins with U+{:04X}, which cannot be seen, and not with X509:",
                    u32::from(first)
                ),
                None => "it does not begin with X509:".to_owned(),
            });
        }
        Err(error) => {
            return Some(match hidden(value) {
                Some(hidden) => format!("it cannot be read: {error}; {hidden}"),
                None => format!("it cannot be read: {error}"),
            });
        }
    };
    if let AltSecurityIdentity::Rfc822(mail) = &identity
        && !windows(mail).is_ascii()
    {
        return Some("mail addresses in certificates are ASCII (RFC 5280 4.2.1.6)".to_owned());
    }
    let attribute = names(&identity).into_iter().flatten().find_map(DistinguishedName::unknown_attribute)?;
    Some(format!(
        "{attribute} is no word for an attribute type that is known; write OID. and its object identifier",
        attribute = attribute.as_str()
    ))
}

fn names(identity: &AltSecurityIdentity) -> [Option<&DistinguishedName>; 2] {
    match identity {
        AltSecurityIdentity::IssuerSubject { issuer, subject } => [Some(issuer), Some(subject)],
        AltSecurityIdentity::Subject(name) | AltSecurityIdentity::Issuer(name) => [Some(name), None],
        AltSecurityIdentity::IssuerSerial { issuer, .. } | AltSecurityIdentity::IssuerSid { issuer, .. } => {
            [Some(issuer), None]
        }
        AltSecurityIdentity::SubjectKeyIdentifier(_)
        | AltSecurityIdentity::Sha1PublicKey(_)
        | AltSecurityIdentity::Rfc822(_) => [None, None],
    }
}

/// Whether a value is of a kind of its own, such as `Kerberos:`, and does not resemble one of ours: it has no
/// tag of ours, and its kind has no 509 in it.
fn is_of_other_system(value: &str) -> bool {
    let Some((kind, rest)) = value.split_once(':') else { return false };
    let is_kind = |kind: &str| {
        kind.starts_with(|c: char| c.is_ascii_alphabetic())
            && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let rest = rest.to_ascii_uppercase();
    let has_tag = TAGS.iter().any(|tag| rest.contains(&format!("<{tag}>")));
    is_kind(kind) && !has_tag && !kind.contains("509")
}

/// The report of a value with a character that cannot be seen, where none belongs.
fn hidden(value: &str) -> Option<String> {
    let at_end = value.chars().next().into_iter().chain(value.chars().next_back());
    let found = at_end
        .filter(|c| is_hidden(*c))
        // A byte order mark belongs nowhere in a text; joiners belong into words of some scripts.
        .chain(value.chars().filter(|c| *c == '\u{feff}' || c.is_control()))
        .next()?;
    Some(match found {
        ' ' => "it begins or ends with a space".to_owned(),
        found => format!("it has U+{:04X} in it, which cannot be seen", u32::from(found)),
    })
}

fn is_hidden(c: char) -> bool {
    c.is_whitespace() || c.is_control() || is_invisible(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_any_spelling_that_no_certificate_matches_are_told() {
        for (value, why) in [
            ("X509N:<I>O=Contoso,CN=CA<SR>0504030201", Some("does not begin with X509:")),
            ("X.509:<S>CN=a", Some("does not begin with X509:")),
            ("X509;<S>CN=a", Some("does not begin with X509:")),
            ("X509 :<S>CN=a", Some("does not begin with X509:")),
            ("x509cert:CN=a", Some("does not begin with X509:")),
            ("\u{ff38}509:<S>CN=a", Some("does not begin with X509:")),
            ("XSO9:<SKI>0102", Some("does not begin with X509:")),
            ("<I>CN=CA<S>CN=a", Some("does not begin with X509:")),
            ("CN=alice", Some("does not begin with X509:")),
            ("", Some("does not begin with X509:")),
            ("\u{feff}X509:<S>CN=a", Some("begins with U+FEFF")),
            ("\u{200b}X509:<S>CN=a", Some("begins with U+200B")),
            (" X509:<S>CN=a", Some("begins with U+0020")),
            ("X509:\u{feff}<S>CN=a", Some("unknown tag; it has U+FEFF in it")),
            ("X509:<S>\u{feff}CN=a", Some("it has U+FEFF in it")),
            ("X509:<I>CN=CA<SR>0102\u{200b}", Some("it has U+200B in it")),
            ("X509:<SUBJECT>CN=a", Some("cannot be read: unknown tag")),
            ("X509:<S>O=Contoso, Ltd.,CN=a", Some("cannot be read: distinguished name")),
            ("X509:<S>CN=a,pseudonym=b", Some("PSEUDONYM is no word")),
            ("X509:<I>CN=CA,MAIL=a@b<SR>01", Some("MAIL is no word")),
            ("X509:<I>CN=CA<S>CN=a,2.5.4.65=b", None),
            ("X509:<RFC822>m\u{fc}ller@contoso.com", None),
            ("X509:<RFC822>\u{5c71}@contoso.com", Some("are ASCII")),
            ("X509:<S>CN=a,Phone=1", None),
            ("X509:<S>UID=1 CN=a", None),
            ("x509:<s>cn=a", None),
            ("Kerberos:alice@EXAMPLE.COM", None),
            ("SSHKey:ssh-ed25519 AAAA", None),
        ] {
            match (unmatchable(value), why) {
                (None, None) => {}
                (Some(told), Some(why)) => assert!(told.contains(why), "{value:?}: {told}"),
                (told, why) => panic!("{value:?}: {told:?} instead of {why:?}"),
            }
        }
    }

    #[test]
    fn hidden_characters_in_names_are_told() {
        let account = Account {
            user_principal_name: Some("\u{feff}alice@contoso.com".into()),
            service_principal_names: vec!["host/web01 ".into(), "host/web01".into()],
            ..Account::new("alice", "S-1-5-21-1-2-3-1001".parse().expect("a SID"))
        };
        let told: Vec<_> = account.unmatchable().map(|found| (found.attribute, found.why)).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].0 == "userPrincipalName" && told[0].1.contains("U+FEFF"), "{told:?}");
        assert!(told[1].0 == "servicePrincipalName" && told[1].1.contains("space"), "{told:?}");
        let joined = Account {
            user_principal_name: Some("\u{645}\u{6cc}\u{200c}\u{62e}@contoso.com".into()),
            ..Account::new("bob", account.sid)
        };
        assert_eq!(joined.unmatchable().count(), 0, "joiners belong into words");
    }
}
