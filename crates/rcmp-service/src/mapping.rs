//! Certificate mapping ([MS-RCMP] 3.5.2), without a store: a certificate and a policy give queries, what they
//! match gives a decision.
//!
//! The methods are tried in their order, and only absence goes on to the next: an account that is ambiguous,
//! restricted or not the certificate's own ends the request. Otherwise a disabled account's certificate would
//! fall through to an account that another of its names names.

use crate::certificate::{
    AlternativeName, Certificate, NameKind, SUBJECT_ALT_NAMES_MAX, has_unreadable, name,
};
use crate::form::{Form, Method};
use crate::logon_hours::is_allowed_hour;
use crate::message::MappingFlags;
use crate::policy::{Policy, Sha1PublicKeyInput};
use crate::reason::Reason;
use account_store::alt_security_identity::AltSecurityIdentity;
use account_store::fold::Comparison;
use account_store::{Account, AccountFlags, DistinguishedName, Query};
use dtyp::{DecodeErrorKind, FileTime};
use sha1::{Digest, Sha1};

/// Why a method has no queries for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotApplicable {
    /// There is no subjectAltName with a user principal name or a DNS name.
    NoAlternativeName,
    /// The subjectAltName, or a name in it that is looked up, cannot be read.
    MalformedAlternativeName,
    /// The subjectAltName has more than [`SUBJECT_ALT_NAMES_MAX`] names.
    TooManyAlternativeNames,
    /// The name of the issuer cannot be read.
    MalformedName,
}

impl NotApplicable {
    /// The reason in a few words.
    pub const fn text(self) -> &'static str {
        // A constant in a text: the compiler rejects the text when the constant changes.
        const { assert!(SUBJECT_ALT_NAMES_MAX == 64) };
        match self {
            Self::NoAlternativeName => "the certificate has no user principal name and no DNS name",
            Self::MalformedAlternativeName => {
                "the subjectAltName, or a user principal name or DNS name in it, cannot be read"
            }
            Self::TooManyAlternativeNames => {
                "the subjectAltName has more than 64 names, and none of them is looked up"
            }
            Self::MalformedName => "the name of the issuer cannot be read",
        }
    }
}

/// A question to the store, and the form it is asked by.
pub type FormQuery = (Form, Query);

/// The queries of a method, the decisive ones and those that may only propose an account when the first found
/// none. With [`Method::Issuer`] the first that finds anything decides; with the others all are asked, and
/// all that are found must be one account. `issuers` are the encoded names behind the certificate's own
/// issuer that may be believed, and `flags` are those of the request: without REQ_UPN_MAPPING nothing is
/// looked up that comes from the subjectAltName ([MS-RCMP] 2.2.1).
pub fn queries(
    method: Method,
    certificate: &Certificate<'_>,
    issuers: &[&[u8]],
    input: Sha1PublicKeyInput,
    flags: MappingFlags,
) -> Result<Vec<FormQuery>, NotApplicable> {
    match method {
        Method::Upn => alternative_names(certificate),
        Method::Subject => {
            let found = identities(certificate, input).into_iter();
            let is_asked =
                |found: &Identity| !found.is_of_alternative_name || flags.contains(MappingFlags::UPN);
            let forms = found.filter(is_asked).map(|found| (Form::of(&found.identity), found.identity));
            Ok(forms.map(|(form, identity)| (form, query(&identity))).collect())
        }
        Method::Issuer => issuer_names(certificate, issuers),
    }
}

/// Whether an account that a store found has the value that was asked for, by the policy's comparison.
pub(crate) fn is_same(query: &Query, account: &Account, policy: &Policy) -> bool {
    match query {
        Query::UserPrincipalName(name) if policy.name_comparison == Comparison::Exact => {
            account.user_principal_name.as_ref() == Some(name)
        }
        Query::ServicePrincipalName(name) if policy.name_comparison == Comparison::Exact => {
            // The class of a service is a word of the protocol, which has no case; the host is the
            // certificate's.
            let parts = |name: &str| {
                name.split_once('/').map(|(class, host)| (class.to_ascii_lowercase(), host.to_owned()))
            };
            account.service_principal_names.iter().any(|known| parts(known) == parts(name))
        }
        Query::AltSecurityIdentity(value) if policy.comparison != Comparison::Windows => {
            let key = |value: &str| {
                value.parse::<AltSecurityIdentity>().ok().map(|identity| identity.key_by(policy.comparison))
            };
            let asked = key(value);
            account.alt_security_identities.iter().any(|known| key(known) == asked)
        }
        _ => true,
    }
}

fn query(identity: &AltSecurityIdentity) -> Query {
    Query::AltSecurityIdentity(identity.to_string())
}

/// Kinds of names in the subjectAltName that are looked up together: all accounts that they find must be one,
/// so one that cannot be read makes all of them unusable.
pub(crate) const LOOKED_UP_TOGETHER: [NameKind; 2] = [NameKind::Other, NameKind::Dns];

fn alternative_names(certificate: &Certificate<'_>) -> Result<Vec<FormQuery>, NotApplicable> {
    let names = certificate.alternative_names().map_err(|error| match error.kind {
        DecodeErrorKind::TooMany(_) => NotApplicable::TooManyAlternativeNames,
        _ => NotApplicable::MalformedAlternativeName,
    })?;
    if has_unreadable(names, &LOOKED_UP_TOGETHER) {
        return Err(NotApplicable::MalformedAlternativeName);
    }
    let mut queries = Vec::new();
    for name in names {
        if let AlternativeName::PrincipalName(name) = name {
            queries.push((Form::Upn, Query::UserPrincipalName(name.clone())));
        }
    }
    for name in names {
        if let AlternativeName::Dns(name) = name
            && is_host_name(name)
        {
            queries.push((Form::Dns, Query::ServicePrincipalName(format!("host/{name}"))));
        }
    }
    match queries.is_empty() {
        true => Err(NotApplicable::NoAlternativeName),
        false => Ok(queries),
    }
}

/// A wildcard must never become a service principal name, nor anything with a `/` in it.
fn is_host_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// A value of altSecurityIdentities that names a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The value.
    pub identity: AltSecurityIdentity,
    /// Whether it is made of a name in the subjectAltName.
    pub is_of_alternative_name: bool,
}

/// Every value of altSecurityIdentities that names this certificate, except the issuer alone: strong ones and
/// the one of issuer and subject first, then those that only propose. A field that cannot be read takes away
/// the values that it is part of, and no others.
pub fn identities(certificate: &Certificate<'_>, input: Sha1PublicKeyInput) -> Vec<Identity> {
    let readable = |name: Result<&DistinguishedName, _>| name.ok().filter(|name| !name.is_empty()).cloned();
    let issuer = readable(certificate.issuer_name());
    let subject = readable(certificate.subject_name());
    let mut forms = Vec::with_capacity(8);
    if let (Some(issuer), Some(subject)) = (&issuer, &subject) {
        forms.push(of_field(AltSecurityIdentity::IssuerSubject {
            issuer: issuer.clone(),
            subject: subject.clone(),
        }));
    }
    forms.extend(strong_identities(certificate, issuer, input));
    forms.extend(subject.map(AltSecurityIdentity::Subject).map(of_field));
    let names = certificate.alternative_names().unwrap_or_default();
    if has_unreadable(names, &[NameKind::Rfc822]) {
        return forms;
    }
    for name in names {
        if let AlternativeName::Rfc822(mail) = name
            && !mail.trim().is_empty()
        {
            forms.push(of_alternative_name(AltSecurityIdentity::Rfc822(mail.clone())));
        }
    }
    forms
}

const fn of_field(identity: AltSecurityIdentity) -> Identity {
    Identity { identity, is_of_alternative_name: false }
}

const fn of_alternative_name(identity: AltSecurityIdentity) -> Identity {
    Identity { identity, is_of_alternative_name: true }
}

/// The hashes by which a certificate is known.
pub fn sha1_identities(
    certificate: &Certificate<'_>,
    input: Sha1PublicKeyInput,
) -> impl Iterator<Item = AltSecurityIdentity> {
    let hash = |bytes: &[u8]| Sha1::digest(bytes).into();
    let hashes = match input {
        Sha1PublicKeyInput::Thumbprint => [Some(*certificate.sha1()), None],
        Sha1PublicKeyInput::PublicKey => {
            [Some(hash(certificate.public_key)), certificate.public_key_bits().map(hash)]
        }
    };
    hashes.into_iter().flatten().map(AltSecurityIdentity::Sha1PublicKey)
}

/// The strong values among them. `issuer` is the issuer's name, where it can be read.
fn strong_identities(
    certificate: &Certificate<'_>,
    issuer: Option<DistinguishedName>,
    input: Sha1PublicKeyInput,
) -> Vec<Identity> {
    let mut forms = Vec::with_capacity(5);
    if let Some(issuer) = &issuer {
        forms.push(of_field(AltSecurityIdentity::issuer_serial(issuer.clone(), certificate.serial)));
    }
    if let Ok(Some(identifier)) = certificate.subject_key_identifier()
        && !identifier.is_empty()
    {
        forms.push(of_field(AltSecurityIdentity::SubjectKeyIdentifier(identifier.to_vec())));
    }
    forms.extend(sha1_identities(certificate, input).map(of_field));
    if let Some(issuer) = issuer {
        let of_issuer = |sid| AltSecurityIdentity::IssuerSid { issuer: issuer.clone(), sid };
        match certificate.sid() {
            Ok(None) => {
                let sids = certificate.alternative_sids().unwrap_or_default().into_iter();
                forms.extend(sids.map(of_issuer).map(of_alternative_name));
            }
            Ok(Some(sid)) => forms.push(of_field(of_issuer(sid))),
            Err(_) => {}
        }
    }
    forms
}

/// The issuer's own name, and the others that can be read: one that cannot does not hide those behind it.
fn issuer_names(certificate: &Certificate<'_>, issuers: &[&[u8]]) -> Result<Vec<FormQuery>, NotApplicable> {
    // The first is nearly always the certificate's own issuer again.
    let others = issuers.iter().filter(|issuer| **issuer != certificate.issuer).copied();
    let names = std::iter::once(certificate.issuer).chain(others).filter_map(|encoded| name(encoded).ok());
    let queries: Vec<FormQuery> = names
        .filter(|name| !name.is_empty())
        .map(|name| (Form::Issuer, query(&AltSecurityIdentity::Issuer(name))))
        .collect();
    match queries.is_empty() {
        true => Err(NotApplicable::MalformedName),
        false => Ok(queries),
    }
}

/// What forbids the account to log on now: it is disabled, locked or expired, or this is not one of its
/// hours. The one rule for certificates and passwords.
pub fn restriction(account: &Account, now: FileTime) -> Option<Reason> {
    let expires = account.expires != FileTime::UNSET && account.expires < FileTime::NEVER;
    match () {
        () if account.flags.contains(AccountFlags::DISABLED) => Some(Reason::Disabled),
        () if account.flags.contains(AccountFlags::LOCKED) => Some(Reason::Locked),
        () if expires && account.expires <= now => Some(Reason::Expired),
        () if !account.logon_hours.is_none_or(|hours| is_allowed_hour(&hours, now)) => {
            Some(Reason::LogonHours)
        }
        () => None,
    }
}
