//! Certificate mapping ([MS-RCMP] 3.5.2), without a store: a certificate and a policy give queries, what they match gives
//! a decision.
//!
//! The methods are tried in their order, and only absence goes on to the next: an account that is ambiguous, restricted or
//! not the certificate's own ends the request. Otherwise a disabled account's certificate would fall through to whomever
//! another of its names names.

use crate::certificate::{AlternativeName, Certificate, name};
use crate::message::MappingFlags;
use account_store::alt_security_identity::AltSecurityIdentity;
use account_store::{Account, AccountFlags, Query, Record};
use dtyp::{FileTime, NtStatus};
use sha1::{Digest, Sha1};
use std::fmt;

/// A mapping method, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// By subjectAltName: user principal name or DNS name.
    Upn,
    /// By what names this certificate or its key: issuer and subject, and the strong forms.
    Subject,
    /// By the issuer, or an issuer's issuer.
    Issuer,
}

impl Method {
    /// The methods in their order.
    pub const ALL: [Self; 3] = [Self::Upn, Self::Subject, Self::Issuer];

    /// The flag that asks for it.
    pub const fn flag(self) -> MappingFlags {
        match self {
            Self::Upn => MappingFlags::UPN,
            Self::Subject => MappingFlags::SUBJECT,
            Self::Issuer => MappingFlags::ISSUER,
        }
    }

    /// Its name in configuration, logs and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Upn => "upn",
            Self::Subject => "subject",
            Self::Issuer => "issuer",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a request was answered as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// An account was found by this method.
    Mapped(Method),
    /// The message cannot be decoded.
    MalformedRequest,
    /// The certificate cannot be decoded.
    MalformedCertificate,
    /// No method is both asked for and allowed.
    NoMethod,
    /// No method found an account.
    NoMatch,
    /// More than one account was found.
    Ambiguous,
    /// The certificate carries the SID of another account, or one that cannot be read.
    SidMismatch,
    /// The account is disabled.
    Disabled,
    /// The account is locked.
    Locked,
    /// The account is expired.
    Expired,
    /// The account may not log on at this hour.
    LogonHours,
    /// The asker may not ask.
    AskerDenied,
    /// The account belongs to a domain that is not served here.
    OtherDomain,
    /// The store could not answer.
    StoreUnavailable,
    /// An answer could not be built from what the store holds.
    Unanswerable,
    /// Audit is required and cannot be written.
    AuditUnavailable,
}

impl Reason {
    /// A stable name for logs, metrics and audit.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mapped(_) => "mapped",
            Self::MalformedRequest => "malformed_request",
            Self::MalformedCertificate => "malformed_certificate",
            Self::NoMethod => "no_method",
            Self::NoMatch => "no_match",
            Self::Ambiguous => "ambiguous",
            Self::SidMismatch => "sid_mismatch",
            Self::Disabled => "disabled",
            Self::Locked => "locked",
            Self::Expired => "expired",
            Self::LogonHours => "logon_hours",
            Self::AskerDenied => "asker_denied",
            Self::OtherDomain => "other_domain",
            Self::StoreUnavailable => "store_unavailable",
            Self::Unanswerable => "unanswerable",
            Self::AuditUnavailable => "audit_unavailable",
        }
    }

    /// The reason in one sentence, for operators.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Mapped(Method::Upn) => "mapped by a name in the subjectAltName",
            Self::Mapped(Method::Subject) => {
                "mapped by issuer and subject, or by a strong form of altSecurityIdentities"
            }
            Self::Mapped(Method::Issuer) => "mapped by the issuer alone",
            Self::MalformedRequest => "the message cannot be decoded",
            Self::MalformedCertificate => "the certificate cannot be decoded",
            Self::NoMethod => "no mapping method is both asked for and allowed",
            Self::NoMatch => "no account matches",
            Self::Ambiguous => "more than one account matches",
            Self::SidMismatch => "the certificate carries the SID of another account",
            Self::Disabled => "the account is disabled",
            Self::Locked => "the account is locked",
            Self::Expired => "the account is expired",
            Self::LogonHours => "the account may not log on at this hour",
            Self::AskerDenied => "the machine account lacks the permission rcmp",
            Self::OtherDomain => "the account's domain is not served here",
            Self::StoreUnavailable => "the account store could not answer",
            Self::Unanswerable => "the account cannot be put into an answer",
            Self::AuditUnavailable => "audit is required and cannot be written",
        }
    }

    /// What the client is told ([MS-RCMP] 3.5.2; the rest is our choice). `tell_restrictions` is the policy's.
    pub const fn status(self, tell_restrictions: bool) -> NtStatus {
        match self {
            Self::Mapped(_) => NtStatus::SUCCESS,
            Self::MalformedRequest => NtStatus::INVALID_PARAMETER,
            Self::Disabled if tell_restrictions => NtStatus::ACCOUNT_DISABLED,
            Self::Locked if tell_restrictions => NtStatus::ACCOUNT_LOCKED_OUT,
            Self::Expired if tell_restrictions => NtStatus::ACCOUNT_EXPIRED,
            Self::LogonHours if tell_restrictions => NtStatus::INVALID_LOGON_HOURS,
            Self::AskerDenied => NtStatus::ACCESS_DENIED,
            Self::OtherDomain => NtStatus::NO_SUCH_USER,
            Self::StoreUnavailable => NtStatus::DS_BUSY,
            Self::Unanswerable => NtStatus::INTERNAL_ERROR,
            Self::AuditUnavailable => NtStatus::INSUFFICIENT_RESOURCES,
            Self::MalformedCertificate
            | Self::NoMethod
            | Self::NoMatch
            | Self::Ambiguous
            | Self::SidMismatch
            | Self::Disabled
            | Self::Locked
            | Self::Expired
            | Self::LogonHours => NtStatus::LOGON_FAILURE,
        }
    }

    /// Whether another server need not be asked: everything but our own inability.
    pub const fn is_authoritative(self) -> bool {
        !matches!(self, Self::StoreUnavailable | Self::Unanswerable | Self::AuditUnavailable)
    }
}

/// Why a method has no queries for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotApplicable {
    /// There is no subjectAltName with a user principal name or a DNS name.
    NoAlternativeName,
    /// The subjectAltName cannot be read.
    MalformedAlternativeName,
    /// The subject is empty.
    EmptySubject,
    /// A distinguished name cannot be read.
    MalformedName,
}

impl NotApplicable {
    /// The reason in a few words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoAlternativeName => "the certificate has no user principal name and no DNS name",
            Self::MalformedAlternativeName => "the subjectAltName cannot be read",
            Self::EmptySubject => "the subject is empty",
            Self::MalformedName => "a distinguished name cannot be read",
        }
    }
}

/// The queries of a method. With [`Method::Issuer`] the first that finds anything decides; with the others all are asked,
/// and all that are found must be one account.
pub fn queries(
    method: Method,
    certificate: &Certificate<'_>,
    issuers: &[&[u8]],
    flags: MappingFlags,
) -> Result<Vec<Query>, NotApplicable> {
    match method {
        Method::Upn => alternative_names(certificate),
        Method::Subject => subject_forms(certificate),
        Method::Issuer => issuer_names(certificate, issuers, flags.contains(MappingFlags::ISSUER_CHAIN)),
    }
}

fn alternative_names(certificate: &Certificate<'_>) -> Result<Vec<Query>, NotApplicable> {
    let names = certificate.alternative_names().map_err(|_| NotApplicable::MalformedAlternativeName)?;
    let mut queries = Vec::new();
    for name in &names {
        if let AlternativeName::PrincipalName(name) = name {
            queries.push(Query::UserPrincipalName(name.clone()));
        }
    }
    for name in &names {
        if let AlternativeName::Dns(name) = name
            && is_host_name(name)
        {
            queries.push(Query::ServicePrincipalName(format!("host/{name}")));
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

fn subject_forms(certificate: &Certificate<'_>) -> Result<Vec<Query>, NotApplicable> {
    let issuer = certificate.issuer_name().map_err(|_| NotApplicable::MalformedName)?;
    let subject = certificate.subject_name().map_err(|_| NotApplicable::MalformedName)?;
    let mut forms = Vec::with_capacity(4);
    if !subject.is_empty() {
        forms.push(AltSecurityIdentity::IssuerSubject { issuer: issuer.clone(), subject });
    }
    if !issuer.is_empty() {
        forms.push(AltSecurityIdentity::issuer_serial(issuer, certificate.serial));
    }
    if let Ok(Some(identifier)) = certificate.subject_key_identifier() {
        forms.push(AltSecurityIdentity::SubjectKeyIdentifier(identifier.to_vec()));
    }
    forms.push(AltSecurityIdentity::Sha1PublicKey(Sha1::digest(certificate.encoded).into()));
    match forms.is_empty() {
        true => Err(NotApplicable::EmptySubject),
        false => Ok(forms.into_iter().map(|form| Query::AltSecurityIdentity(form.to_string())).collect()),
    }
}

fn issuer_names(
    certificate: &Certificate<'_>,
    issuers: &[&[u8]],
    chain: bool,
) -> Result<Vec<Query>, NotApplicable> {
    let mut encoded = vec![certificate.issuer];
    if chain {
        // The first is nearly always the certificate's own issuer again.
        encoded.extend(issuers.iter().filter(|issuer| **issuer != certificate.issuer));
    }
    encoded
        .into_iter()
        .map(|encoded| match name(encoded) {
            Ok(name) if !name.is_empty() => {
                Ok(Query::AltSecurityIdentity(AltSecurityIdentity::Issuer(name).to_string()))
            }
            _ => Err(NotApplicable::MalformedName),
        })
        .collect()
}

/// Whether the account that was found may have this certificate, now.
pub fn judge(certificate: &Certificate<'_>, record: &Record, now: FileTime) -> Result<(), Reason> {
    match certificate.sid() {
        Ok(None) => {}
        Ok(Some(sid)) if sid == record.account.sid => {}
        Ok(Some(_)) | Err(_) => return Err(Reason::SidMismatch),
    }
    restriction(&record.account, now).map_or(Ok(()), Err)
}

/// What forbids the account to log on now.
fn restriction(account: &Account, now: FileTime) -> Option<Reason> {
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

/// `logonHours`: one bit an hour from Sunday midnight UTC. 1601-01-01 was a Monday.
fn is_allowed_hour(hours: &[u8; 21], now: FileTime) -> bool {
    let hour = (now.0 / 36_000_000_000 + 24) % 168;
    hours[(hour / 8) as usize] & 1 << (hour % 8) != 0
}

/// The end of the allowed hours that `now` lies in; `NEVER` when all hours are allowed.
pub(crate) fn end_of_allowed_hours(hours: &[u8; 21], now: FileTime) -> FileTime {
    let hour = now.0 / 36_000_000_000;
    match (1..=168).find(|ahead| !is_allowed_hour(hours, FileTime((hour + ahead) * 36_000_000_000))) {
        Some(ahead) => FileTime((hour + ahead) * 36_000_000_000),
        None => FileTime::NEVER,
    }
}
