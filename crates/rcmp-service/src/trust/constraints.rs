//! Name constraints (RFC 5280 4.2.1.10) on all forms of names.
//!
//! Where the document leaves open how to read a name, permitted subtrees are read narrowly and excluded ones
//! widely: a name that is not well formed in a form that is constrained is in no permitted subtree and in
//! every excluded one. Text is in an excluded subtree, too, when a look-up of an account finds it equal:
//! otherwise a name that is excluded maps in another spelling.

use super::extensions::value;
use super::name::Name;
use super::refusal::{ChainError, Detail, Fault};
use super::work::Work;
use crate::certificate::{Certificate, Extension};
use crate::der::{self, Der, Element};
use account_store::fold::Comparison;
use dtyp::{DecodeError, DecodeErrorKind};
use std::sync::OnceLock;

/// id-ce-nameConstraints, 2.5.29.30.
pub(super) const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x1e];
/// id-ce-subjectAltName, 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// emailAddress, 1.2.840.113549.1.9.1.
const EMAIL_ADDRESS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01];
/// szOID_NT_PRINCIPAL_NAME, 1.3.6.1.4.1.311.20.2.3.
const PRINCIPAL_NAME: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x14, 0x02, 0x03];
/// id-on-SmtpUTF8Mailbox, 1.3.6.1.5.5.7.8.9: constraints on rfc822Name are its own, too (RFC 9598 6).
const SMTP_UTF8_MAILBOX: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x08, 0x09];
/// Most subtrees of one certificate. The largest real ones, of hosting companies, have some hundred.
pub(super) const SUBTREES_MAX: usize = 2048;

/// A kind of name that can be constrained by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Rfc822,
    Dns,
    Uri,
    Ip,
    Directory,
    PrincipalName,
    /// Another otherName, by its type-id.
    Other(Box<[u8]>),
    /// x400Address, ediPartyName or registeredID, by the tag.
    Unsupported(u8),
}

impl Form {
    const fn name(&self) -> &'static str {
        match self {
            Self::Rfc822 => "rfc822Name",
            Self::Dns => "dNSName",
            Self::Uri => "uniformResourceIdentifier",
            Self::Ip => "iPAddress",
            Self::Directory => "directoryName",
            Self::PrincipalName => "otherName userPrincipalName",
            Self::Other(_) => "otherName",
            Self::Unsupported(0x88) => "registeredID",
            Self::Unsupported(0xa3) => "x400Address",
            Self::Unsupported(_) => "ediPartyName",
        }
    }

    const fn is_supported(&self) -> bool {
        !matches!(self, Self::Other(_) | Self::Unsupported(_))
    }
}

/// A name, or the base of a subtree.
#[derive(Clone, Debug)]
struct General {
    form: Form,
    /// `None` when it is not well formed in its form.
    value: Option<Value>,
}

#[derive(Clone, Debug)]
enum Value {
    Text(String),
    Octets(Vec<u8>),
    Name(Directory),
}

/// A directoryName.
#[derive(Clone, Debug)]
struct Directory {
    name: Name,
    encoded: Box<[u8]>,
    /// See [`Directory::widened`].
    widened: OnceLock<[Option<Name>; 2]>,
}

impl Directory {
    fn read(encoded: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { name: Name::read(encoded)?, encoded: encoded.into(), widened: OnceLock::new() })
    }

    /// The name with the text of its values folded as look-ups fold it, before it is prepared for 7.1. It is
    /// made when an excluded subtree asks for it, which is after the signatures of the path were verified.
    /// `None`: its text became too long.
    fn widened(&self) -> &[Option<Name>; 2] {
        let casefold = |text: &str| Comparison::Casefold.key(text).into_owned();
        let windows = |text: &str| casefold(&Comparison::Windows.key(text));
        self.widened
            .get_or_init(|| [widened(&self.encoded, casefold).ok(), widened(&self.encoded, windows).ok()])
    }

    /// Whether it lies in the subtree of `base`: by 7.1, and where the subtree is excluded, also by that and
    /// a comparison of a look-up together. A name that cannot be folded is in every excluded subtree.
    fn is_within(&self, base: &Self, excluded: bool) -> bool {
        let is_within = |(name, base): (&Option<Name>, &Option<Name>)| match (name, base) {
            (Some(name), Some(base)) => name.is_within(base),
            _ => true,
        };
        let widened = || self.widened().iter().zip(base.widened());
        self.name.is_within(&base.name) || excluded && widened().any(is_within)
    }
}

/// A name with the text of its values folded.
fn widened(encoded: &[u8], fold: impl Fn(&str) -> String) -> Result<Name, DecodeError> {
    const UTF8_STRING: u8 = 0x0c;
    let mut rdns = Vec::with_capacity(encoded.len());
    let mut sequence = Der::new(encoded).expect("Name", der::SEQUENCE)?.inside();
    while !sequence.is_empty() {
        let mut set = sequence.expect("RelativeDistinguishedName", der::SET)?.inside();
        let mut attributes = Vec::new();
        while !set.is_empty() {
            let mut attribute = set.expect("AttributeTypeAndValue", der::SEQUENCE)?.inside();
            let id = attribute.expect("type", der::OID)?.encoded;
            let value = attribute.any("value")?;
            let folded = der::text(&value).map(|text| der::encode(UTF8_STRING, &[fold(&text).as_bytes()]));
            let value = folded.as_deref().unwrap_or(value.encoded);
            attributes.extend(der::encode(der::SEQUENCE, &[id, value]));
        }
        rdns.extend(der::encode(der::SET, &[&attributes]));
    }
    Name::read(&der::encode(der::SEQUENCE, &[&rdns]))
}

/// Whether a look-up may find two texts equal, by any comparison that an account is looked for with.
fn is_same_to_a_lookup(left: &str, right: &str) -> bool {
    Comparison::ALL.iter().any(|comparison| comparison.key(left) == comparison.key(right))
}

/// The names of a certificate that constraints are about.
#[derive(Clone, Debug)]
pub(super) struct Names(Vec<General>);

/// What a CA may certify.
#[derive(Clone, Debug)]
pub(super) struct Constraints {
    permitted: Vec<General>,
    excluded: Vec<General>,
    critical: bool,
}

impl Names {
    /// The names in the subject and in the subjectAltName. emailAddress in the subject counts as an
    /// rfc822Name, also beside others in the subjectAltName: RFC 5280 4.2.1.10 demands it without them, and
    /// the subject is mapped in either case.
    pub(super) fn of(certificate: &Certificate<'_>) -> Result<Self, Fault> {
        let mut names = Vec::new();
        if let Some(extension) = certificate.extension(SUBJECT_ALT_NAME) {
            let malformed = |_| Fault::extension(ChainError::Malformed, SUBJECT_ALT_NAME);
            let mut list = value(&extension, "subjectAltName", der::SEQUENCE).map_err(malformed)?.inside();
            while !list.is_empty() {
                let element = list.any("GeneralName").map_err(malformed)?;
                names.push(General::read(&element, false).map_err(malformed)?);
            }
        }
        let malformed = |_| Fault::from(ChainError::Malformed);
        addresses(certificate.subject, &mut names).map_err(malformed)?;
        let subject = Directory::read(certificate.subject).map_err(malformed)?;
        if !subject.name.is_empty() {
            names.push(General { form: Form::Directory, value: Some(Value::Name(subject)) });
        }
        Ok(Self(names))
    }
}

/// The values of emailAddress in a name.
fn addresses(subject: &[u8], names: &mut Vec<General>) -> Result<(), DecodeError> {
    let mut sequence = Der::new(subject).expect("Name", der::SEQUENCE)?.inside();
    while !sequence.is_empty() {
        let mut set = sequence.expect("RelativeDistinguishedName", der::SET)?.inside();
        while !set.is_empty() {
            let mut attribute = set.expect("AttributeTypeAndValue", der::SEQUENCE)?.inside();
            if attribute.expect("type", der::OID)?.contents == EMAIL_ADDRESS {
                let value = der::text(&attribute.any("value")?).map(Value::Text);
                names.push(General { form: Form::Rfc822, value });
            }
        }
    }
    Ok(())
}

impl General {
    /// A GeneralName (RFC 5280 4.2.1.6); the base of a subtree has its own form for addresses.
    fn read(element: &Element<'_>, is_base: bool) -> Result<Self, DecodeError> {
        let bad = || element.inside().error("GeneralName", DecodeErrorKind::BadValue);
        let ascii = || {
            let text = std::str::from_utf8(element.contents).ok();
            text.filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '))
                .map(|text| Value::Text(text.to_owned()))
        };
        let (form, value) = match element.tag {
            0xa0 => return other_name(element),
            0x81 => (Form::Rfc822, ascii()),
            0x82 => (Form::Dns, ascii()),
            0x86 => (Form::Uri, ascii()),
            0xa4 => {
                let mut explicit = element.inside();
                let name = explicit.expect("directoryName", der::SEQUENCE)?;
                explicit.finish("directoryName")?;
                (Form::Directory, Some(Value::Name(Directory::read(name.encoded)?)))
            }
            0x87 => {
                let lens: &[usize] = if is_base { &[8, 32] } else { &[4, 16] };
                let octets = lens.contains(&element.contents.len()).then(|| element.contents.to_vec());
                (Form::Ip, octets.map(Value::Octets))
            }
            tag @ (0xa3 | 0xa5 | 0x88) => (Form::Unsupported(tag), None),
            _ => return Err(bad()),
        };
        Ok(Self { form, value })
    }

    fn text(&self) -> Option<&str> {
        match &self.value {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }
}

fn other_name(element: &Element<'_>) -> Result<General, DecodeError> {
    let mut fields = element.inside();
    let id = fields.expect("type-id", der::OID)?.contents;
    let mut explicit = fields.expect("value", 0xa0)?.inside();
    fields.finish("otherName")?;
    let form = match id {
        PRINCIPAL_NAME => Form::PrincipalName,
        SMTP_UTF8_MAILBOX => Form::Rfc822,
        id => return Ok(General { form: Form::Other(id.into()), value: None }),
    };
    let text = explicit.any("value")?;
    explicit.finish("value")?;
    Ok(General { form, value: der::text(&text).map(Value::Text) })
}

impl Constraints {
    pub(super) fn read(extension: &Extension<'_>) -> Result<Self, Fault> {
        let malformed = |_| Fault::extension(ChainError::Malformed, NAME_CONSTRAINTS);
        let mut fields = value(extension, "nameConstraints", der::SEQUENCE).map_err(malformed)?.inside();
        let permitted = fields.optional("permittedSubtrees", 0xa0).map_err(malformed)?;
        let excluded = fields.optional("excludedSubtrees", 0xa1).map_err(malformed)?;
        fields.finish("nameConstraints").map_err(malformed)?;
        if permitted.is_none() && excluded.is_none() {
            return Err(Fault::extension(ChainError::Malformed, NAME_CONSTRAINTS));
        }
        let subtrees = |list: Option<Element<'_>>| -> Result<Vec<General>, Fault> {
            let Some(list) = list else { return Ok(Vec::new()) };
            let mut list = list.inside();
            let mut subtrees = Vec::new();
            loop {
                if subtrees.len() >= SUBTREES_MAX {
                    return Err(Fault::limit(
                        ChainError::TooMany,
                        "subtrees",
                        SUBTREES_MAX,
                        SUBTREES_MAX + 1,
                    ));
                }
                let mut subtree = list.expect("GeneralSubtree", der::SEQUENCE).map_err(malformed)?.inside();
                let base = subtree.any("base").map_err(malformed)?;
                // minimum is 0, whether it is left out or not, and there is no maximum.
                if subtree.optional("minimum", 0x80).map_err(malformed)?.is_some_and(|it| it.contents != [0])
                {
                    return Err(Fault::extension(ChainError::Malformed, NAME_CONSTRAINTS));
                }
                subtree.finish("GeneralSubtree").map_err(malformed)?;
                let base = General::read(&base, true).map_err(malformed)?;
                if base.form.is_supported() && !is_base(&base) {
                    return Err(Fault::extension(ChainError::Malformed, NAME_CONSTRAINTS));
                }
                subtrees.push(base);
                if list.is_empty() {
                    return Ok(subtrees);
                }
            }
        };
        Ok(Self {
            permitted: subtrees(permitted)?,
            excluded: subtrees(excluded)?,
            critical: extension.critical,
        })
    }

    /// Whether a CA with these constraints may certify these names.
    pub(super) fn check(&self, names: &Names, work: &mut Work) -> Result<(), Fault> {
        for name in &names.0 {
            work.spend(1 + self.permitted.len() + self.excluded.len())?;
            let of_form = |base: &&General| base.form == name.form;
            let mut permitted = self.permitted.iter().filter(of_form).peekable();
            let mut excluded = self.excluded.iter().filter(of_form).peekable();
            if permitted.peek().is_none() && excluded.peek().is_none() {
                continue;
            }
            let fault = |error| Fault { error, detail: Detail::NameForm(name.form.name()) };
            if !name.form.is_supported() {
                match self.critical {
                    true => return Err(fault(ChainError::UnsupportedNameConstraint)),
                    false => continue,
                }
            }
            let is_permitted = permitted.peek().is_none() || permitted.any(|base| lies_in(name, base, false));
            if !is_permitted || name.value.is_none() || excluded.any(|base| lies_in(name, base, true)) {
                return Err(fault(ChainError::NameConstraints));
            }
        }
        Ok(())
    }
}

/// Whether a base is well formed in its form.
fn is_base(base: &General) -> bool {
    match &base.value {
        None => false,
        Some(Value::Octets(octets)) => {
            // The mask is ones and then zeroes: CIDR (RFC 4632).
            let mask = &octets[octets.len() / 2..];
            let ones = mask.iter().map(|octet| octet.leading_ones()).sum::<u32>();
            let all = mask.iter().map(|octet| octet.count_ones()).sum::<u32>();
            let leading = mask.iter().take_while(|octet| **octet == 0xff).count();
            let after = mask.get(leading + 1..).unwrap_or_default();
            ones == all && after.iter().all(|octet| *octet == 0)
        }
        Some(Value::Name(_)) => true,
        Some(Value::Text(text)) => {
            let host = match base.form {
                Form::Dns => text.strip_suffix('.').unwrap_or(text),
                Form::Uri => text,
                _ => text.rsplit_once('@').map_or(&text[..], |(_, host)| host),
            };
            text.is_empty() || is_host(host.strip_prefix('.').unwrap_or(host))
        }
    }
}

/// Whether a name lies in a subtree of its form. What is not well formed lies in every excluded one.
fn lies_in(name: &General, base: &General, excluded: bool) -> bool {
    match (&name.value, &base.value) {
        (Some(Value::Name(name)), Some(Value::Name(base))) => name.is_within(base, excluded),
        (Some(Value::Octets(name)), Some(Value::Octets(base))) => {
            let (address, mask) = base.split_at(base.len() / 2);
            name.len() == address.len()
                && name.iter().zip(address).zip(mask).all(|((name, base), mask)| (name ^ base) & mask == 0)
        }
        _ => {
            let (Some(text), Some(base_text)) = (name.text(), base.text()) else { return excluded };
            match name.form {
                Form::Dns => dns(text, base_text, excluded),
                Form::Uri => uri(text, base_text, excluded),
                _ => mailbox(text, base_text, excluded),
            }
        }
    }
}

/// Labels on the left of the base are free. With a dot before it, there must be one.
fn dns(name: &str, base: &str, excluded: bool) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let labels = name.strip_prefix("*.").unwrap_or(name);
    if !is_host(labels) {
        return excluded;
    }
    let base = base.strip_suffix('.').unwrap_or(base);
    if host_is_in(name, base, true) {
        return true;
    }
    // A wildcard stands for every label: it is excluded with each of them.
    excluded
        && name.starts_with("*.")
        && base.split_once('.').is_some_and(|(_, parent)| parent.eq_ignore_ascii_case(labels))
}

/// Whether a host name is a base, or below it. `.base` is what is below it; `base` is it alone, or, for
/// dNSName, with all that is below it.
fn host_is_in(host: &str, base: &str, with_below: bool) -> bool {
    let ends_with = |suffix: &str| {
        let at = host.len().checked_sub(suffix.len());
        at.and_then(|at| host.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
    };
    match base.strip_prefix('.') {
        _ if base.is_empty() => true,
        Some(_) => host.len() > base.len() && ends_with(base),
        None if host.len() == base.len() => ends_with(base),
        None => with_below && ends_with(base) && host.as_bytes()[host.len() - base.len() - 1] == b'.',
    }
}

/// Whether text is a host name: labels of letters, digits, hyphens and underscores.
fn is_host(host: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    host.split('.').all(is_label)
}

/// rfc822Name, and userPrincipalName in the same way: `user@host`, `host`, `@host` (as AD CS writes it) or
/// `.host`.
///
/// The local part is compared as it is. For an excluded mailbox it is the same when a look-up finds it equal,
/// and a quoted one may be any. Hosts are ASCII here ([`is_host`]), so that case is all that a look-up folds
/// in them.
fn mailbox(name: &str, base: &str, excluded: bool) -> bool {
    let Some((local, host)) = name.rsplit_once('@') else { return excluded };
    let host = host.strip_suffix('.').unwrap_or(host);
    // Two `@` are one mailbox only when the first is quoted.
    let is_quoted = local.len() > 1 && local.starts_with('"') && local.ends_with('"');
    if local.is_empty() || local.contains('@') && !is_quoted || !is_host(host) {
        return excluded;
    }
    match base.rsplit_once('@') {
        None => host_is_in(host, base, false),
        Some(("", base)) => host_is_in(host, base, false),
        Some((base_local, base)) => {
            let same = match excluded {
                true => is_same_to_a_lookup(local, base_local) || local.contains(['"', '\\']),
                false => local == base_local,
            };
            same && host.eq_ignore_ascii_case(base)
        }
    }
}

/// The host of the authority component. A URI without one, or with an address, is refused by the document.
fn uri(name: &str, base: &str, excluded: bool) -> bool {
    match uri_host(name) {
        Some(host) => host_is_in(host, base, false),
        None => excluded,
    }
}

fn uri_host(uri: &str) -> Option<&str> {
    let (scheme, rest) = uri.split_once("://")?;
    let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    if scheme.is_empty()
        || !scheme.bytes().all(is_scheme)
        || uri.contains(['\\', ' ', '<', '>', '"', '^', '`'])
    {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) => return None,
        None => host,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next()?;
    // A name whose last label is a number is an address (WHATWG URL, and RFC 3986 3.2.2 for the usual form).
    (is_host(host) && !last.bytes().all(|byte| byte.is_ascii_digit())).then_some(host)
}

#[cfg(test)]
#[path = "constraints/tests.rs"]
mod tests;
