//! What path validation asks of a certificate, read once (RFC 5280 4.1 and 4.2).

use super::constraints::{Constraints, NAME_CONSTRAINTS};
use super::extensions::{EXTENDED_KEY_USAGE, basic_constraints, extended_key_usages, key_usage, value};
use super::name::Name;
use super::refusal::{ChainError, Fault};
use super::serial::SERIAL_LEN_MAX;
use crate::certificate::{Certificate, Extension};
use crate::der::{self, Der};
use dtyp::DecodeError;
use std::collections::HashSet;

/// Most policies, and most mappings, of one certificate; bridges between governments have some fifty.
pub(super) const POLICIES_MAX: usize = 256;

/// id-ce-keyUsage, id-ce-subjectAltName, id-ce-basicConstraints, id-ce-cRLDistributionPoints,
/// id-ce-extKeyUsage: what else is read, here or elsewhere, and so is known when it is critical.
const READ_ELSEWHERE: [&[u8]; 5] =
    [&[0x55, 0x1d, 0x0f], &[0x55, 0x1d, 0x11], &[0x55, 0x1d, 0x13], &[0x55, 0x1d, 0x1f], EXTENDED_KEY_USAGE];
/// id-ce-certificatePolicies, 2.5.29.32.
const CERTIFICATE_POLICIES: &[u8] = &[0x55, 0x1d, 0x20];
/// anyPolicy, 2.5.29.32.0.
const ANY_POLICY: &[u8] = &[0x55, 0x1d, 0x20, 0x00];
/// id-ce-policyMappings, 2.5.29.33.
const POLICY_MAPPINGS: &[u8] = &[0x55, 0x1d, 0x21];
/// id-ce-policyConstraints, 2.5.29.36.
const POLICY_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x24];
/// id-ce-inhibitAnyPolicy, 2.5.29.54.
const INHIBIT_ANY_POLICY: &[u8] = &[0x55, 0x1d, 0x36];
/// id-qt-cps and id-qt-unotice, 1.3.6.1.5.5.7.2.1 and .2.
const QUALIFIERS: [&[u8]; 2] =
    [&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x02, 0x01], &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x02, 0x02]];
/// szOID_NTDS_CA_SECURITY_EXT, 1.3.6.1.4.1.311.25.2, which mapping reads.
const SID_EXTENSION: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x19, 0x02];
/// szOID_APPLICATION_CERT_POLICIES, 1.3.6.1.4.1.311.21.10: extended key usages in the form of certificate
/// policies.
const APPLICATION_POLICIES: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x15, 0x0a];

/// An object identifier's contents octets.
pub(super) type Oid = Box<[u8]>;

/// What path validation asks of a certificate.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    pub(super) issuer: Name,
    pub(super) is_self_issued: bool,
    pub(super) is_ca: bool,
    pub(super) path_len: Option<usize>,
    pub(super) key_usage: Option<u16>,
    /// Object identifiers of the extended key usages that it is limited to.
    pub(super) usages: Option<Vec<Vec<u8>>>,
    /// Application policies, when they are critical.
    pub(super) application_policies: Option<Vec<Oid>>,
    pub(super) policies: Option<Policies>,
    /// issuerDomainPolicy and subjectDomainPolicy.
    pub(super) mappings: Vec<(Oid, Oid)>,
    pub(super) policy_constraints: PolicyConstraints,
    pub(super) inhibit_any: Option<usize>,
    pub(super) constraints: Option<Constraints>,
}

/// Certificate policies (RFC 5280 4.2.1.4).
#[derive(Clone, Debug, Default)]
pub(super) struct Policies {
    pub(super) any: bool,
    /// All but anyPolicy.
    pub(super) named: Vec<Oid>,
}

/// RFC 5280 4.2.1.11.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PolicyConstraints {
    pub(super) require_explicit: Option<usize>,
    pub(super) inhibit_mapping: Option<usize>,
}

/// Which rules a certificate has to keep by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The operator chose it: its critical extensions, its policies, its serial number and its signature are
    /// the operator's to judge.
    Anchor,
    /// Every other certificate of a path.
    Other,
}

impl Profile {
    /// Reads a certificate, and checks the rules that it has to keep by itself, wherever it is on a path.
    pub(super) fn read(certificate: &Certificate<'_>, role: Role) -> Result<Self, Fault> {
        if certificate.version < 3 {
            return Err(ChainError::OldVersion.into());
        }
        let octets = certificate.serial.strip_prefix(&[0]).unwrap_or(certificate.serial).len();
        if octets > SERIAL_LEN_MAX && role == Role::Other {
            return Err(Fault::limit(ChainError::SerialTooLong, "octets", SERIAL_LEN_MAX, octets));
        }
        if !certificate.algorithms_agree && role == Role::Other {
            return Err(ChainError::AlgorithmMismatch.into());
        }
        let malformed = |id: &'static [u8]| move |_: DecodeError| Fault::extension(ChainError::Malformed, id);
        let name = |encoded| Name::read(encoded).map_err(|_| Fault::from(ChainError::Malformed));
        let (subject, issuer) = (name(certificate.subject)?, name(certificate.issuer)?);
        let (is_ca, path_len) = basic_constraints(certificate).map_err(malformed(READ_ELSEWHERE[2]))?;
        let usages = extended_key_usages(certificate).map_err(malformed(EXTENDED_KEY_USAGE))?;
        let mut profile = Self {
            is_self_issued: subject == issuer,
            issuer,
            is_ca,
            path_len,
            key_usage: key_usage(certificate).map_err(malformed(READ_ELSEWHERE[0]))?,
            usages: usages.map(|usages| usages.into_iter().map(<[u8]>::to_vec).collect()),
            application_policies: None,
            policies: None,
            mappings: Vec::new(),
            policy_constraints: PolicyConstraints::default(),
            inhibit_any: None,
            constraints: None,
        };
        for extension in certificate.extensions() {
            profile.read_extension(&extension, role)?;
        }
        Ok(profile)
    }

    fn read_extension(&mut self, extension: &Extension<'_>, role: Role) -> Result<(), Fault> {
        let malformed = |_| Fault::extension(ChainError::Malformed, extension.id);
        let unknown = || Fault::extension(ChainError::UnknownCritical, extension.id);
        match extension.id {
            CERTIFICATE_POLICIES | POLICY_MAPPINGS if role == Role::Anchor => {}
            CERTIFICATE_POLICIES => {
                let list = policies(extension)?;
                if extension.critical && list.has_unknown_qualifier {
                    return Err(unknown());
                }
                let any = list.ids.iter().any(|id| **id == *ANY_POLICY);
                let named = list.ids.into_iter().filter(|id| **id != *ANY_POLICY).collect();
                self.policies = Some(Policies { any, named });
            }
            POLICY_MAPPINGS => self.mappings = mappings(extension)?,
            POLICY_CONSTRAINTS => {
                self.policy_constraints = policy_constraints(extension).map_err(malformed)?
            }
            INHIBIT_ANY_POLICY => {
                let count = value(extension, "inhibitAnyPolicy", der::INTEGER).map_err(malformed)?;
                self.inhibit_any = Some(
                    skip_certs(count.contents)
                        .ok_or_else(|| Fault::extension(ChainError::Malformed, extension.id))?,
                );
            }
            // What issues nothing constrains nothing (RFC 5280 4.2.1.10).
            NAME_CONSTRAINTS if !self.is_ca => {}
            NAME_CONSTRAINTS => self.constraints = Some(Constraints::read(extension)?),
            APPLICATION_POLICIES if extension.critical && self.usages.is_some() => {
                self.application_policies = Some(policies(extension)?.ids);
            }
            SID_EXTENSION => {}
            id if READ_ELSEWHERE.contains(&id) => {}
            _ if extension.critical && role == Role::Other => return Err(unknown()),
            _ => {}
        }
        Ok(())
    }
}

struct PolicyList {
    ids: Vec<Oid>,
    has_unknown_qualifier: bool,
}

/// RFC 5280 4.2.1.4. A policy must not appear twice, and a list has at least one.
fn policies(extension: &Extension<'_>) -> Result<PolicyList, Fault> {
    let mut read = PolicyList { ids: Vec::new(), has_unknown_qualifier: false };
    let mut seen = HashSet::new();
    entries(extension, |list: &mut Der<'_>| {
        let mut information = list.expect("PolicyInformation", der::SEQUENCE)?.inside();
        let bad = information.error("policyIdentifier", dtyp::DecodeErrorKind::BadValue);
        let id: Oid = information.expect("policyIdentifier", der::OID)?.contents.into();
        if let Some(qualifiers) = information.optional("policyQualifiers", der::SEQUENCE)? {
            let mut qualifiers = qualifiers.inside();
            while !qualifiers.is_empty() {
                let mut qualifier = qualifiers.expect("PolicyQualifierInfo", der::SEQUENCE)?.inside();
                let kind = qualifier.expect("policyQualifierId", der::OID)?.contents;
                read.has_unknown_qualifier |= !QUALIFIERS.contains(&kind);
            }
        }
        information.finish("PolicyInformation")?;
        if !der::is_oid(&id) || !seen.insert(id.clone()) {
            return Err(bad);
        }
        read.ids.push(id);
        Ok(())
    })?;
    Ok(read)
}

/// RFC 5280 4.2.1.5. Policies must not be mapped to or from anyPolicy.
fn mappings(extension: &Extension<'_>) -> Result<Vec<(Oid, Oid)>, Fault> {
    let mut mappings = Vec::new();
    entries(extension, |list: &mut Der<'_>| {
        let mut pair = list.expect("PolicyMapping", der::SEQUENCE)?.inside();
        let issuer: Oid = pair.expect("issuerDomainPolicy", der::OID)?.contents.into();
        let subject: Oid = pair.expect("subjectDomainPolicy", der::OID)?.contents.into();
        pair.finish("PolicyMapping")?;
        mappings.push((issuer, subject));
        Ok(())
    })?;
    match mappings.iter().any(|(issuer, subject)| **issuer == *ANY_POLICY || **subject == *ANY_POLICY) {
        true => Err(Fault::extension(ChainError::PolicyMapping, extension.id)),
        false => Ok(mappings),
    }
}

/// Goes through a sequence of one to [`POLICIES_MAX`] entries.
fn entries<'a>(
    extension: &Extension<'a>,
    mut read: impl FnMut(&mut Der<'a>) -> Result<(), DecodeError>,
) -> Result<(), Fault> {
    let malformed = |_| Fault::extension(ChainError::Malformed, extension.id);
    let mut list = value(extension, "sequence", der::SEQUENCE).map_err(malformed)?.inside();
    let mut count = 0;
    loop {
        read(&mut list).map_err(malformed)?;
        count += 1;
        if list.is_empty() {
            return Ok(());
        }
        if count >= POLICIES_MAX {
            return Err(Fault::limit(ChainError::TooMany, "policies", POLICIES_MAX, POLICIES_MAX + 1));
        }
    }
}

fn policy_constraints(extension: &Extension<'_>) -> Result<PolicyConstraints, DecodeError> {
    let mut fields = value(extension, "policyConstraints", der::SEQUENCE)?.inside();
    let bad = fields.error("policyConstraints", dtyp::DecodeErrorKind::BadValue);
    let require_explicit = fields.optional("requireExplicitPolicy", 0x80)?;
    let inhibit_mapping = fields.optional("inhibitPolicyMapping", 0x81)?;
    fields.finish("policyConstraints")?;
    let count = |field: Option<der::Element<'_>>| match field {
        None => Ok(None),
        Some(field) => skip_certs(field.contents).map(Some).ok_or(bad.clone()),
    };
    match (require_explicit, inhibit_mapping) {
        // "Conforming CAs MUST NOT issue certificates where policy constraints is an empty sequence."
        (None, None) => Err(bad),
        _ => Ok(PolicyConstraints {
            require_explicit: count(require_explicit)?,
            inhibit_mapping: count(inhibit_mapping)?,
        }),
    }
}

/// SkipCerts: an INTEGER that is not negative. What is larger than any path is the same as no limit.
fn skip_certs(contents: &[u8]) -> Option<usize> {
    match contents {
        [] | [0x80..=0xff, ..] | [0x00, 0x00..=0x7f, ..] => None,
        _ => Some(
            contents
                .iter()
                .try_fold(0usize, |count, octet| {
                    count.checked_mul(256).map(|count| count | usize::from(*octet))
                })
                .unwrap_or(usize::MAX),
        ),
    }
}
