//! Which stored value came nearest to what was asked for, and where it parts.

use crate::explain::attribute;
use crate::trace::Step;
use account_store::fold::{casefold, is_invisible, windows};
use account_store::unmatchable::unmatchable;
use account_store::{Account, AltSecurityIdentity, DistinguishedName, Matches};
use serde::Serialize;

/// The stored value that came nearest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NearMiss {
    /// Whose it is.
    pub account: String,
    /// The attribute.
    pub attribute: &'static str,
    /// What was asked for.
    pub asked: String,
    /// What is stored.
    pub stored: String,
    /// The first byte, from 0, in which the stored value differs from the one that was asked for.
    pub differs_at: usize,
    /// What was probably done wrong.
    pub because: Option<String>,
}

/// Looks for the nearest miss in one account after the other.
#[derive(Debug)]
pub struct Nearest {
    asked: Vec<Wanted>,
    best: Option<(u64, NearMiss)>,
}

#[derive(Debug)]
struct Wanted {
    attribute: &'static str,
    value: String,
    folded: String,
    /// Without what is forgotten when a value is written by hand.
    bare: String,
    identity: Option<AltSecurityIdentity>,
}

/// Questions that are compared with every stored value; a certificate may have more names than accounts
/// store.
const QUESTIONS_MAX: usize = 16;

/// A stored value is near when this share of the longer text is the same, in thousandths, from both ends
/// together.
const NEAR: u64 = 600;
/// A slip that is known by its shape is nearer than any resemblance.
const KNOWN_SLIP: u64 = 2000;

impl Nearest {
    /// Of the questions that found no account.
    pub fn new(steps: &[Step]) -> Self {
        let asked = steps.iter().filter_map(|step| match step {
            Step::Asked { query, found: Some(Matches::None), .. } => {
                let (attribute, value) = attribute(query);
                let identity = value.parse().ok();
                Some(Wanted {
                    attribute,
                    folded: fold(attribute, &value),
                    bare: bare(&value),
                    value,
                    identity,
                })
            }
            _ => None,
        });
        Self { asked: asked.take(QUESTIONS_MAX).collect(), best: None }
    }

    /// Whether there is anything to look for.
    pub fn is_needed(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Looks at one account.
    pub fn look_at(&mut self, account: &Account) {
        let stored = account
            .user_principal_name
            .iter()
            .map(|value| ("userPrincipalName", value))
            .chain(account.service_principal_names.iter().map(|value| ("servicePrincipalName", value)))
            .chain(account.alt_security_identities.iter().map(|value| ("altSecurityIdentities", value)));
        for (attribute, stored) in stored {
            let folded = fold(attribute, stored);
            let identity = stored.parse::<AltSecurityIdentity>().ok();
            for asked in self.asked.iter().filter(|asked| asked.attribute == attribute) {
                let because = slip(asked.identity.as_ref(), &asked.bare, identity.as_ref(), stored)
                    .map(ToOwned::to_owned)
                    .or_else(|| unmatchable_slip(asked.identity.as_ref()?, stored));
                let same_kind = match (&asked.identity, &identity) {
                    (Some(asked), Some(stored)) => {
                        std::mem::discriminant(asked) == std::mem::discriminant(stored)
                    }
                    (None, None) => true,
                    // A value that cannot be read may still be meant.
                    _ => attribute == "altSecurityIdentities",
                };
                let score = match (&because, same_kind) {
                    (Some(_), _) => KNOWN_SLIP,
                    (None, true) => likeness(&asked.folded, &folded),
                    (None, false) => 0,
                };
                if score >= NEAR && self.best.as_ref().is_none_or(|(best, _)| *best < score) {
                    let canonical = identity.as_ref().map_or_else(|| stored.clone(), ToString::to_string);
                    let miss = NearMiss {
                        account: account.name.clone(),
                        attribute,
                        asked: asked.value.clone(),
                        differs_at: common(asked.value.bytes(), canonical.bytes()),
                        stored: canonical,
                        because,
                    };
                    self.best = Some((score, miss));
                }
            }
        }
    }

    /// What came nearest.
    pub fn into_miss(self) -> Option<NearMiss> {
        self.best.map(|(_, miss)| miss)
    }
}

fn fold(attribute: &str, value: &str) -> String {
    match attribute {
        "altSecurityIdentities" => windows(value),
        _ => casefold(value),
    }
}

fn common<T: PartialEq>(left: impl Iterator<Item = T>, right: impl Iterator<Item = T>) -> usize {
    left.zip(right).take_while(|(left, right)| left == right).count()
}

/// How much of two texts is the same, from both ends, in thousandths of the longer one.
fn likeness(left: &str, right: &str) -> u64 {
    let (shorter, longer) = (left.len().min(right.len()), left.len().max(right.len()));
    let prefix = common(left.bytes(), right.bytes());
    let suffix = common(left.bytes().rev(), right.bytes().rev()).min(shorter - prefix);
    match longer {
        0 => 0,
        longer => (prefix + suffix) as u64 * 1000 / longer as u64,
    }
}

/// Why a stored value that is the one that was asked for, apart from what no certificate matches, does not
/// match: the value without characters that cannot be seen, with the right prefix, and with any word for an
/// attribute type that is not known.
fn unmatchable_slip(asked: &AltSecurityIdentity, stored: &str) -> Option<String> {
    let why = unmatchable(stored)?;
    let seen: String = stored.chars().filter(|c| !is_invisible(*c) && !c.is_control()).collect();
    let tags = seen.find('<').map_or(seen.trim(), |at| &seen[at..]);
    let repaired: AltSecurityIdentity = format!("X509:{tags}").parse().ok()?;
    is_same_but_for_words(asked, &repaired).then_some(why)
}

/// Whether two values are the same when an attribute type whose word is not known may be any.
fn is_same_but_for_words(asked: &AltSecurityIdentity, stored: &AltSecurityIdentity) -> bool {
    use AltSecurityIdentity::{Issuer, IssuerSerial, IssuerSid, IssuerSubject, Subject};
    let name = |asked: &DistinguishedName, stored: &DistinguishedName| {
        let mut stored = stored.clone();
        for (stored, asked) in stored.0.iter_mut().zip(&asked.0) {
            for (stored, asked) in stored.0.iter_mut().zip(&asked.0) {
                if !stored.attribute.is_known() {
                    stored.attribute = asked.attribute.clone();
                }
            }
        }
        key(asked) == key(&stored)
    };
    match (asked, stored) {
        (
            IssuerSubject { issuer, subject },
            IssuerSubject { issuer: stored_issuer, subject: stored_subject },
        ) => name(issuer, stored_issuer) && name(subject, stored_subject),
        (
            IssuerSerial { issuer, serial_reversed },
            IssuerSerial { issuer: stored_issuer, serial_reversed: stored_serial },
        ) => serial_reversed == stored_serial && name(issuer, stored_issuer),
        (IssuerSid { issuer, sid }, IssuerSid { issuer: stored_issuer, sid: stored_sid }) => {
            sid == stored_sid && name(issuer, stored_issuer)
        }
        (Subject(asked), Subject(stored)) | (Issuer(asked), Issuer(stored)) => name(asked, stored),
        _ => asked.key() == stored.key(),
    }
}

/// The slips that everybody makes once.
fn slip(
    asked: Option<&AltSecurityIdentity>,
    asked_bare: &str,
    stored: Option<&AltSecurityIdentity>,
    text: &str,
) -> Option<&'static str> {
    use AltSecurityIdentity::{IssuerSerial, IssuerSubject};
    let asked = asked?;
    let Some(stored) = stored else {
        // What cannot be read may still be what was meant, such as a comma that is not quoted.
        return (asked_bare == bare(text)).then_some("a value in it has to be quoted");
    };
    let turned = |name: &DistinguishedName| DistinguishedName(name.0.iter().rev().cloned().collect());
    match (asked, stored) {
        (
            IssuerSerial { issuer, serial_reversed },
            IssuerSerial { issuer: stored_issuer, serial_reversed: stored_serial },
        ) => {
            let backwards: Vec<u8> = stored_serial.iter().rev().copied().collect();
            let same_issuer = key(issuer) == key(stored_issuer);
            let turned_issuer = key(issuer) == key(&turned(stored_issuer));
            match (
                same_issuer,
                turned_issuer,
                serial_reversed == stored_serial,
                *serial_reversed == backwards,
            ) {
                (true, _, false, true) => {
                    Some("the bytes of the serial number after <SR> are in reverse order")
                }
                (false, true, true, _) => Some("the parts of the issuer are in reverse order"),
                (false, true, false, true) => {
                    Some("the parts of the issuer and the bytes of the serial number are in reverse order")
                }
                _ => None,
            }
        }
        (
            IssuerSubject { issuer, subject },
            IssuerSubject { issuer: stored_issuer, subject: stored_subject },
        ) => {
            let is = |asked: &DistinguishedName, stored: &DistinguishedName| {
                key(asked) == key(stored) || key(asked) == key(&turned(stored))
            };
            (is(issuer, stored_issuer) && is(subject, stored_subject))
                .then_some("the parts of a name are in reverse order")
        }
        _ => None,
    }
}

fn bare(text: &str) -> String {
    text.replace([' ', '"', '\\'], "").to_lowercase()
}

fn key(name: &DistinguishedName) -> String {
    AltSecurityIdentity::Subject(name.clone()).key()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::form::{Form, Method};
    use account_store::Query;

    const ASKED: &str = "X509:<I>DC=com,DC=contoso,CN=CONTOSO-CA<SR>1200000000ac11000000002b";

    fn nearest(asked: Query, account: &Account) -> Option<NearMiss> {
        let found = Some(Matches::None);
        let (method, form) = (Method::Subject, Form::IssuerSerial);
        let mut nearest = Nearest::new(&[Step::Asked {
            method,
            form,
            query: asked,
            found,
            stale_s: None,
            error: None,
            granted: true,
        }]);
        assert!(nearest.is_needed());
        nearest.look_at(account);
        nearest.into_miss()
    }

    fn account(mapping: &str) -> Account {
        let sid = "S-1-5-21-1-2-3-1001".parse().expect("a SID");
        Account {
            user_principal_name: Some("alice@contoso.example".to_owned()),
            alt_security_identities: vec![mapping.to_owned()],
            ..Account::new("alice", sid)
        }
    }

    #[test]
    fn slips_are_known_by_their_shape() {
        for (stored, because) in [
            (
                "X509:<I>DC=com,DC=contoso,CN=CONTOSO-CA<SR>2b0000000011ac0000000012",
                "the bytes of the serial number after <SR> are in reverse order",
            ),
            (
                "X509:<I>CN=CONTOSO-CA,DC=contoso,DC=com<SR>1200000000ac11000000002b",
                "the parts of the issuer are in reverse order",
            ),
            ("X509:<I>CN=CONTOSO-CA,DC=contoso,DC=com<SR>2b0000000011ac0000000012", "and the bytes"),
        ] {
            let miss = nearest(Query::AltSecurityIdentity(ASKED.to_owned()), &account(stored));
            let miss = miss.unwrap_or_else(|| panic!("{stored} is near"));
            assert!(miss.because.as_ref().is_some_and(|text| text.contains(because)), "{miss:?}");
        }
        let asked = r#"X509:<I>O="Contoso, Ltd.",CN=CA<S>CN=Alice"#;
        let miss = nearest(
            Query::AltSecurityIdentity(asked.to_owned()),
            &account("X509:<I>O=Contoso, Ltd.,CN=CA<S>CN=Alice"),
        );
        assert_eq!(miss.and_then(|miss| miss.because).as_deref(), Some("a value in it has to be quoted"));
        for (stored, because) in [
            (format!("X509N:{}", &ASKED[5..]), "does not begin with X509:"),
            (ASKED[5..].to_owned(), "does not begin with X509:"),
            (format!("\u{feff}{ASKED}"), "begins with U+FEFF"),
            (ASKED.replace("<SR>", "\u{200b}<SR>\u{feff}"), "U+FEFF"),
            (ASKED.replace("CN=CONTOSO-CA", "COMMON=CONTOSO-CA"), "COMMON is no word"),
        ] {
            let miss = nearest(Query::AltSecurityIdentity(ASKED.to_owned()), &account(&stored));
            let told = miss.and_then(|miss| miss.because).unwrap_or_else(|| panic!("{stored:?} is a slip"));
            assert!(told.contains(because), "{stored:?}: {told}");
        }
    }

    #[test]
    fn the_first_byte_that_differs_is_told() {
        let miss = nearest(
            Query::AltSecurityIdentity(ASKED.to_owned()),
            &account("X509:<I>DC=com,DC=contoso,CN=CONTOSO-CA<SR>1200000000ac11000000002c"),
        );
        assert_eq!(miss.map(|miss| miss.differs_at), Some(ASKED.len() - 1));
        let upn = Query::UserPrincipalName("alise@contoso.example".to_owned());
        let miss = nearest(upn, &account(ASKED)).expect("it is near");
        assert_eq!((miss.differs_at, miss.stored.as_str()), (3, "alice@contoso.example"));
    }

    #[test]
    fn what_is_far_is_no_miss() {
        let far = account("X509:<I>DC=com,DC=contoso,CN=CONTOSO-CA<S>CN=Bob");
        assert_eq!(nearest(Query::AltSecurityIdentity(ASKED.to_owned()), &far), None);
        assert_eq!(nearest(Query::UserPrincipalName("x@y".to_owned()), &far), None);
    }
}
