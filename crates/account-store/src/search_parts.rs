//! What every stored spelling of a mapping has in it, for servers that compare more narrowly than
//! [`crate::alt_security_identity`]: a search for these parts finds all accounts with the mapping, and
//! others.
//!
//! The digits of a serial number, a key identifier, a hash and a SID cannot be spelled otherwise. Of names,
//! only the characters that languages put no accents on count. What is *not* found: hex digits with spaces
//! between them, and a full-width or marked form of a character that counts.

use crate::alt_security_identity::AltSecurityIdentity;
use crate::distinguished_name::{DistinguishedName, Rdn, Value};
use crate::fold;

/// Parts of one tag. A server looks for each of them.
const PARTS_MAX: usize = 32;

/// What every stored spelling has in it after [`fold::windows`], for servers that fold as well: the tags,
/// whole values of names, and digits. Values are cut at quotes, which are stored twice.
pub fn folded(identity: &AltSecurityIdentity) -> Vec<String> {
    let words = |text: &str| {
        let folded = fold::windows(text);
        folded.split('"').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let of_name = |tag: &str, name: &DistinguishedName| {
        let values = name.0.iter().flat_map(|Rdn(parts)| parts).flat_map(|part| match &part.value {
            Value::Text(text) => words(text),
            Value::Encoded(der) => vec![dtyp::hex(der)],
        });
        [format!("<{tag}>")].into_iter().chain(values).collect::<Vec<_>>()
    };
    match identity {
        AltSecurityIdentity::Subject(subject) => of_name("S", subject),
        AltSecurityIdentity::Issuer(issuer) => of_name("I", issuer),
        AltSecurityIdentity::IssuerSubject { issuer, subject } => {
            [of_name("I", issuer), of_name("S", subject)].concat()
        }
        AltSecurityIdentity::Rfc822(mail) => [vec!["<RFC822>".to_owned()], words(mail)].concat(),
        _ => exact(identity).concat(),
    }
}

/// For each tag that is looked for, the tag and the parts behind it, in this order. Upper and lower case of
/// ASCII are the same. The tags may stand in any order.
pub fn exact(identity: &AltSecurityIdentity) -> Vec<Vec<String>> {
    let of_tag = |tag: &str, parts: Vec<String>| {
        [format!("<{tag}>")].into_iter().chain(parts).take(PARTS_MAX).collect::<Vec<_>>()
    };
    let tag = match identity {
        AltSecurityIdentity::IssuerSerial { serial_reversed, .. } => {
            of_tag("SR", vec![dtyp::hex(serial_reversed)])
        }
        AltSecurityIdentity::SubjectKeyIdentifier(identifier) => of_tag("SKI", vec![dtyp::hex(identifier)]),
        AltSecurityIdentity::Sha1PublicKey(hash) => of_tag("SHA1-PUKEY", vec![dtyp::hex(hash)]),
        AltSecurityIdentity::IssuerSid { sid, .. } => of_tag("SID", vec![sid.to_string()]),
        AltSecurityIdentity::Rfc822(mail) => of_tag("RFC822", of_text(mail)),
        AltSecurityIdentity::Subject(subject) => of_tag("S", of_name(subject)),
        AltSecurityIdentity::Issuer(issuer) => of_tag("I", of_name(issuer)),
        AltSecurityIdentity::IssuerSubject { issuer, subject } => {
            return vec![of_tag("I", of_name(issuer)), of_tag("S", of_name(subject))];
        }
    };
    vec![tag]
}

/// What a stored spelling of this name has in it, in this order.
fn of_name(name: &DistinguishedName) -> Vec<String> {
    let values = name.0.iter().filter_map(|Rdn(parts)| match &parts[..] {
        [part] => Some(&part.value),
        // The values of one relative name may stand in any order.
        _ => None,
    });
    values
        .flat_map(|value| match value {
            Value::Text(text) => of_text(text),
            Value::Encoded(der) => vec![dtyp::hex(der)],
        })
        .collect()
}

/// The runs of characters that are written in one way only.
fn of_text(text: &str) -> Vec<String> {
    let folded = fold::windows(text);
    folded.split(|c| !has_one_spelling(c)).filter(|run| !run.is_empty()).map(str::to_owned).collect()
}

/// Whether a character of a folded text stands for itself in stored values: digits, punctuation that is never
/// quoted, and the letters of ASCII that languages do not put accents on. All other letters may be stored
/// with one, and a space may be one that does not break.
fn has_one_spelling(c: char) -> bool {
    matches!(c, '0'..='9' | 'B' | 'F' | 'M' | 'P' | 'Q' | 'V' | 'X' | '-' | '.' | '_' | '@')
}
