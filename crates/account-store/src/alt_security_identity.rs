//! Values of `altSecurityIdentities`: which certificates an account says are its own ([MS-PKCA] 3.1.5.2.1).
//!
//! What is no known form (`Kerberos:…`, tags of the future, a slip of the pen) is data: it is kept with the
//! account and finds no account.

use crate::distinguished_name::{DistinguishedName, ParseNameError, from_hex};
use crate::fold::Comparison;
use dtyp::Sid;
use std::fmt;
use std::str::FromStr;

/// The longest value that is looked at, in bytes.
pub const LEN_MAX: usize = 4096;

const PREFIX: &str = "X509:";

/// One way to name certificates. Its text is the canonical value of the attribute.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AltSecurityIdentity {
    /// `X509:<I>issuer<S>subject`; weak.
    IssuerSubject {
        /// The certificate's issuer.
        issuer: DistinguishedName,
        /// The certificate's subject.
        subject: DistinguishedName,
    },
    /// `X509:<S>subject`; weak.
    Subject(DistinguishedName),
    /// `X509:<I>issuer<SR>serial`; strong.
    IssuerSerial {
        /// The certificate's issuer.
        issuer: DistinguishedName,
        /// The serial number as it is printed: its bytes from the last to the first, without the sign byte.
        serial_reversed: Vec<u8>,
    },
    /// `X509:<SKI>hex`, the value of the subject key identifier; strong.
    SubjectKeyIdentifier(Vec<u8>),
    /// `X509:<SHA1-PUKEY>hex`; strong. What is hashed is the certificate's reader's business.
    Sha1PublicKey([u8; 20]),
    /// `X509:<RFC822>mail`; weak.
    Rfc822(String),
    /// `X509:<I>issuer<SID>S-1-…`; strong.
    IssuerSid {
        /// The certificate's issuer.
        issuer: DistinguishedName,
        /// The SID in the certificate.
        sid: Sid,
    },
    /// `X509:<I>issuer` and nothing after it: every client of this issuer ([MS-RCMP] note <4>); weakest.
    Issuer(DistinguishedName),
}

/// Why a value names no certificate; it is kept and passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// It does not begin with `X509:`.
    #[error("not an X.509 mapping")]
    OtherKind,
    /// Longer than [`LEN_MAX`].
    #[error("longer than 4096 bytes")]
    TooLong,
    /// A tag that is not known, or text where a tag should be.
    #[error("unknown tag")]
    UnknownTag,
    /// A tag that occurs twice.
    #[error("repeated tag")]
    RepeatedTag,
    /// A tag without a value.
    #[error("empty value")]
    EmptyValue,
    /// Tags that are known but not together.
    #[error("unknown combination of tags")]
    UnknownForm,
    /// A distinguished name that cannot be read.
    #[error("distinguished name: {0}")]
    Name(ParseNameError),
    /// Hex digits of a wrong number, or no hex digits.
    #[error("not the hex digits that this tag has")]
    Hex,
    /// Not a SID.
    #[error("not a SID")]
    Sid,
}

/// The tags of all forms.
pub(crate) const TAGS: [&str; 7] = ["I", "S", "SR", "SKI", "SHA1-PUKEY", "RFC822", "SID"];

/// The index key of a value: equal mappings have equal keys, whatever their spelling. `None` for what names
/// nothing.
pub fn key(value: &str) -> Option<String> {
    value.parse::<AltSecurityIdentity>().ok().map(|identity| identity.key())
}

impl AltSecurityIdentity {
    /// The serial number form of a certificate's INTEGER contents octets.
    pub fn issuer_serial(issuer: DistinguishedName, integer: &[u8]) -> Self {
        Self::IssuerSerial {
            issuer,
            serial_reversed: without_padding(integer.iter().rev().copied().collect()),
        }
    }

    /// The key of [`key`], which compares as Windows does.
    pub fn key(&self) -> String {
        self.key_by(Comparison::Windows)
    }

    /// The text that is the same for all spellings of this mapping: mappings are equal when their keys are.
    /// Names and mail addresses are compared as asked; bytes and SIDs have one spelling, and the values of
    /// one relative name are a set.
    pub fn key_by(&self, comparison: Comparison) -> String {
        let folded = |name: &DistinguishedName| name.folded(comparison);
        match self {
            Self::IssuerSubject { issuer, subject } => {
                Self::IssuerSubject { issuer: folded(issuer), subject: folded(subject) }
            }
            Self::Subject(subject) => Self::Subject(folded(subject)),
            Self::IssuerSerial { issuer, serial_reversed } => Self::IssuerSerial {
                issuer: folded(issuer),
                serial_reversed: without_padding(serial_reversed.clone()),
            },
            Self::Rfc822(mail) => Self::Rfc822(comparison.key(mail).into_owned()),
            Self::IssuerSid { issuer, sid } => Self::IssuerSid { issuer: folded(issuer), sid: *sid },
            Self::Issuer(issuer) => Self::Issuer(folded(issuer)),
            Self::SubjectKeyIdentifier(_) | Self::Sha1PublicKey(_) => self.clone(),
        }
        .to_string()
    }
}

/// A reversed serial number without the zero bytes that lead the number.
fn without_padding(mut reversed: Vec<u8>) -> Vec<u8> {
    while reversed.len() > 1 && reversed.last() == Some(&0) {
        reversed.pop();
    }
    reversed
}

impl fmt::Display for AltSecurityIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        match self {
            Self::IssuerSubject { issuer, subject } => write!(f, "<I>{issuer}<S>{subject}"),
            Self::Subject(subject) => write!(f, "<S>{subject}"),
            Self::IssuerSerial { issuer, serial_reversed } => {
                write!(f, "<I>{issuer}<SR>{}", dtyp::hex(serial_reversed))
            }
            Self::SubjectKeyIdentifier(identifier) => write!(f, "<SKI>{}", dtyp::hex(identifier)),
            Self::Sha1PublicKey(hash) => write!(f, "<SHA1-PUKEY>{}", dtyp::hex(hash)),
            Self::Rfc822(mail) => write!(f, "<RFC822>{mail}"),
            Self::IssuerSid { issuer, sid } => write!(f, "<I>{issuer}<SID>{sid}"),
            Self::Issuer(issuer) => write!(f, "<I>{issuer}"),
        }
    }
}

impl FromStr for AltSecurityIdentity {
    type Err = Ignored;

    fn from_str(value: &str) -> Result<Self, Ignored> {
        if value.len() > LEN_MAX {
            return Err(Ignored::TooLong);
        }
        let (prefix, rest) = value.split_at_checked(PREFIX.len()).ok_or(Ignored::OtherKind)?;
        if !prefix.eq_ignore_ascii_case(PREFIX) {
            return Err(Ignored::OtherKind);
        }
        let [issuer, subject, serial, identifier, hash, mail, sid] = tags(rest.trim())?;
        let name = |text: &str| text.parse::<DistinguishedName>().map_err(Ignored::Name);
        let bytes = |text: &str| from_hex(&text.replace(' ', "")).ok_or(Ignored::Hex);
        match (issuer, subject, serial, identifier, hash, mail, sid) {
            (Some(issuer), Some(subject), None, None, None, None, None) => {
                Ok(Self::IssuerSubject { issuer: name(issuer)?, subject: name(subject)? })
            }
            (None, Some(subject), None, None, None, None, None) => Ok(Self::Subject(name(subject)?)),
            (Some(issuer), None, Some(serial), None, None, None, None) => Ok(Self::IssuerSerial {
                issuer: name(issuer)?,
                serial_reversed: without_padding(bytes(serial)?),
            }),
            (None, None, None, Some(identifier), None, None, None) => {
                Ok(Self::SubjectKeyIdentifier(bytes(identifier)?))
            }
            (None, None, None, None, Some(hash), None, None) => {
                Ok(Self::Sha1PublicKey(bytes(hash)?.try_into().map_err(|_| Ignored::Hex)?))
            }
            (None, None, None, None, None, Some(mail), None) => Ok(Self::Rfc822(mail.to_owned())),
            (Some(issuer), None, None, None, None, None, Some(sid)) => {
                Ok(Self::IssuerSid { issuer: name(issuer)?, sid: sid.parse().map_err(|_| Ignored::Sid)? })
            }
            (Some(issuer), None, None, None, None, None, None) => Ok(Self::Issuer(name(issuer)?)),
            _ => Err(Ignored::UnknownForm),
        }
    }
}

/// The value of each of [`TAGS`]. A value runs to the next `<…>` outside of quotes, or to the end.
fn tags(text: &str) -> Result<[Option<&str>; TAGS.len()], Ignored> {
    let mut values = [None; TAGS.len()];
    let mut rest = text;
    loop {
        let (tag, after) = tag_at(rest).ok_or(Ignored::UnknownTag)?;
        let tag = TAGS.iter().position(|known| known.eq_ignore_ascii_case(tag)).ok_or(Ignored::UnknownTag)?;
        let (value, following) = after.split_at(value_len(after));
        let value = value.trim_matches(' ');
        if value.is_empty() {
            return Err(Ignored::EmptyValue);
        }
        if values[tag].replace(value).is_some() {
            return Err(Ignored::RepeatedTag);
        }
        if following.is_empty() {
            return Ok(values);
        }
        rest = following;
    }
}

/// The tag that `text` begins with, and what follows it.
fn tag_at(text: &str) -> Option<(&str, &str)> {
    let (tag, after) = text.strip_prefix('<')?.split_once('>')?;
    let is_tag = !tag.is_empty() && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    is_tag.then_some((tag, after))
}

fn value_len(text: &str) -> usize {
    let mut quoted = false;
    let end = text.bytes().enumerate().find(|(at, b)| {
        quoted ^= *b == b'"';
        *b == b'<' && !quoted && tag_at(&text[*at..]).is_some()
    });
    end.map_or(text.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "DC=com,DC=contoso,CN=CONTOSO-CA";

    /// The worked strings for alice, section 5.4 of the digest of [MS-RCMP].
    const ALICE: [&str; 8] = [
        "X509:<I>DC=com,DC=contoso,CN=CONTOSO-CA<S>DC=com,DC=contoso,OU=Users,CN=Alice Smith",
        "X509:<S>DC=com,DC=contoso,OU=Users,CN=Alice Smith",
        "X509:<I>DC=com,DC=contoso,CN=CONTOSO-CA<SR>1200000000ac11000000002b",
        "X509:<SKI>0b6993f12d0755df63a9622afee00aac88cb69db",
        "X509:<SHA1-PUKEY>76060f8af26895d6556b20005de961ef40505f69",
        "X509:<RFC822>alice@contoso.com",
        "X509:<I>DC=com,DC=contoso,CN=CONTOSO-CA<SID>S-1-5-21-3623811015-3361044348-30300820-1013",
        r#"X509:<I>C=US,O="Contoso, Ltd.",CN=Contoso Root"#,
    ];

    #[test]
    fn canonical_values_are_read_and_written_unchanged() {
        let mut keys = std::collections::HashSet::new();
        for value in ALICE {
            let identity: AltSecurityIdentity = value.parse().unwrap_or_else(|e| panic!("{value}: {e}"));
            assert_eq!(identity.to_string(), value);
            assert!(keys.insert(identity.key()), "{value} has a key of its own");
            assert_eq!(key(&identity.key()), Some(identity.key()), "the key of a key is itself");
        }
    }

    #[test]
    fn serial_numbers_are_printed_from_the_last_byte() {
        let issuer: DistinguishedName = ISSUER.parse().expect("a name");
        // Microsoft's published pair, and the same with a sign byte.
        for serial in ["2b0000000011ac0000000012", "002b0000000011ac0000000012"] {
            let serial = from_hex(serial).expect("hex");
            let identity = AltSecurityIdentity::issuer_serial(issuer.clone(), &serial);
            assert_eq!(identity.to_string(), ALICE[2]);
        }
        let zero = AltSecurityIdentity::issuer_serial(issuer, &[0]);
        assert!(zero.to_string().ends_with("<SR>00"));
    }

    #[test]
    fn spellings_of_one_mapping_have_one_key() {
        for (left, right) in [
            (
                ALICE[0],
                "x509: <I>dc=COM, dc=Contoso, cn=contoso-ca <S> DC=com,DC=contoso,OU=Users,CN=ALICE SMITH",
            ),
            (ALICE[0], "X509:<S>DC=com,DC=contoso,OU=Users,CN=Alice Smith<I>DC=com,DC=contoso,CN=CONTOSO-CA"),
            (ALICE[2], "X509:<I>DC=com,DC=contoso,CN=CONTOSO-CA<sr>12 00 00 00 00 AC 11 00 00 00 00 2B 00"),
            (ALICE[3], "X509:<SKI>0B6993F12D0755DF63A9622AFEE00AAC 88CB69DB"),
            (ALICE[5], "X509:<RFC822>Alice@Contoso.com"),
            ("X509:<S>S=a,E=b@c", "X509:<S>ST=a,emailAddress=b@c"),
            ("X509:<S>CN=jose", "X509:<S>CN=Jos\u{e9}"),
            ("X509:<S>CN=a", r#"X509:<S>CN="a""#),
            ("X509:<S>CN=a + OU=b", "X509:<S>OU=b+CN=a"),
        ] {
            assert!(key(left).is_some(), "{left}");
            assert_eq!(key(left), key(right), "{left} {right}");
        }
    }

    #[test]
    fn a_value_cannot_pretend_to_be_structure() {
        // A certificate may hold any text: wide forms of the separators fold into separators.
        for (left, right) in [
            ("X509:<S>CN=a\u{ff0c}OU=b", "X509:<S>CN=a,OU=b"),
            ("X509:<S>CN=a\u{ff0c}OU\u{ff1d}b", "X509:<S>CN=a,OU=b"),
            (r#"X509:<S>CN="a,OU=b""#, "X509:<S>CN=a,OU=b"),
            ("X509:<I>CN=a\u{ff1c}S\u{ff1e}CN\u{ff1d}b", "X509:<I>CN=a<S>CN=b"),
            (r#"X509:<I>CN="a<S>CN=b""#, "X509:<I>CN=a<S>CN=b"),
            (r##"X509:<S>CN="#0401""##, "X509:<S>CN=#0401"),
            ("X509:<S>CN=\u{ff03}0401", "X509:<S>CN=#0401"),
            ("X509:<S>CN=a\u{ff0b}OU\u{ff1d}b", "X509:<S>CN=a + OU=b"),
            ("X509:<I>CN=a", "X509:<S>CN=a"),
        ] {
            assert_ne!(key(left), key(right), "{left} {right}");
        }
    }

    #[test]
    fn what_is_no_known_form_is_passed_over() {
        use Ignored::*;
        let long = format!("X509:<S>CN={}", "a".repeat(LEN_MAX));
        for (value, reason) in [
            ("", OtherKind),
            ("X509", OtherKind),
            ("Kerberos:alice@EXAMPLE.COM", OtherKind),
            ("X50é:<S>CN=a", OtherKind),
            ("X509:", UnknownTag),
            ("X509:CN=a", UnknownTag),
            ("X509:<>CN=a", UnknownTag),
            ("X509:<S", UnknownTag),
            ("X509:<SHA1-TP-PUBKEY>76060f+aa", UnknownTag),
            ("X509:<I>CN=a<NEW>b", UnknownTag),
            ("X509:<S>", EmptyValue),
            ("X509:<I> <S>CN=a", EmptyValue),
            ("X509:<S>CN=a<S>CN=b", RepeatedTag),
            ("X509:<I>CN=a<S>CN=b<SR>01", UnknownForm),
            ("X509:<SR>01", UnknownForm),
            ("X509:<SKI>01<RFC822>a@b", UnknownForm),
            ("X509:<SKI>0", Hex),
            ("X509:<SKI>zz", Hex),
            ("X509:<SHA1-PUKEY>0102", Hex),
            ("X509:<I>CN=a<SID>S-1-x", Sid),
            ("X509:<S>CN", Name(ParseNameError::Attribute)),
            (r#"X509:<I>CN="a<S>CN=b"#, Name(ParseNameError::Quote)),
            (&long, TooLong),
        ] {
            assert_eq!(value.parse::<AltSecurityIdentity>(), Err(reason), "{value}");
            assert_eq!(key(value), None);
        }
    }
}
