//! How strongly a certificate is bound to the account that was found ([MS-PKCA] 3.1.5.2.1.5 and 6).
//!
//! It is pure: certificate, account and rules give a verdict. The order is part of the decision: the SID of
//! another account ends the request in every mode, then the binding is weighed, and only then is it looked at
//! whether the account may log on, so that a certificate which is not bound to the account tells nothing of
//! its restrictions.

use crate::certificate::Certificate;
use crate::claim::SidClaim;
use crate::form::{Form, Strength};
use crate::mapping;
use crate::policy::{Binding, Policy, Rules};
use crate::reason::Reason;
use crate::trace::{Evidence, EvidenceState, Step, Trace};
use account_store::{AltSecurityIdentity, Record};
use dtyp::FileTime;
use std::sync::Arc;

/// Whether the account that was found by `forms` may have this certificate, now, and how strongly it is its
/// own.
pub(crate) fn check_binding(
    certificate: &Certificate<'_>,
    record: &Arc<Record>,
    forms: &[Form],
    rules: &Rules<'_>,
    policy: &Policy,
    now: FileTime,
    trace: &mut impl Trace,
) -> Result<Strength, Reason> {
    let claim = SidClaim::of(certificate);
    let is_contradicted = !claim.allows(&record.account.sid);
    let mut evidence = Vec::new();
    if is_contradicted {
        evidence.push(Evidence { form: Form::Sid, state: EvidenceState::Contradicts });
    } else {
        gather(certificate, record, forms, claim, rules, policy, &mut evidence);
    }
    let counts = |state| matches!(state, EvidenceState::Counts | EvidenceState::StrongByPolicy);
    let strongest = evidence.iter().find(|evidence| counts(evidence.state));
    let strength = strongest.map_or(Strength::Weak, |evidence| Strength::Strong(evidence.form));
    let withheld = evidence.iter().any(|evidence| evidence.state == EvidenceState::NotGranted);
    trace.step(|| Step::BindingChecked {
        record: Arc::clone(record),
        forms: forms.to_vec(),
        evidence,
        strength,
        binding: rules.binding,
    });
    if is_contradicted {
        return Err(Reason::SidMismatch);
    }
    if strength == Strength::Weak {
        weak(certificate, record, forms, rules, withheld)?;
    }
    mapping::restriction(&record.account, now).map_or(Ok(strength), Err)
}

/// Whether names alone are enough.
fn weak(
    certificate: &Certificate<'_>,
    record: &Record,
    forms: &[Form],
    rules: &Rules<'_>,
    withheld: bool,
) -> Result<(), Reason> {
    let no_strong = match (withheld, rules.is_verified()) {
        (false, _) => Reason::NoStrongMapping,
        (true, false) => Reason::NotVerified,
        (true, true) => Reason::AuthorityNotAllowed,
    };
    match rules.binding {
        Binding::Full => Err(no_strong),
        _ if forms.iter().all(|form| form.is_proposal()) => Err(no_strong),
        Binding::Compat if rules.is_too_old(certificate.not_before, record.account.created) => {
            Err(Reason::CertificateOlder)
        }
        Binding::Compat | Binding::Off => Ok(()),
    }
}

/// Everything strong that binds the certificate to the account, the decisive first.
fn gather(
    certificate: &Certificate<'_>,
    record: &Record,
    forms: &[Form],
    claim: SidClaim,
    rules: &Rules<'_>,
    policy: &Policy,
    evidence: &mut Vec<Evidence>,
) {
    let mut found = |form| {
        let state = match rules.allow(form, record) {
            true => EvidenceState::Counts,
            false => EvidenceState::NotGranted,
        };
        evidence.push(Evidence { form, state });
    };
    if claim == SidClaim::Account(record.account.sid) {
        found(Form::Sid);
    }
    // Names that a policy of the certificate may make strong: those that found the account, and one that is
    // stored with it.
    let mut names = if rules.strong_names.is_empty() { Vec::new() } else { forms.to_vec() };
    let stored = &record.account.alt_security_identities;
    if !stored.is_empty() {
        let own = mapping::identities(certificate, policy.sha1_public_key);
        let key = |identity: &AltSecurityIdentity| identity.key_by(policy.comparison);
        let keys: Vec<(Form, String)> =
            own.iter().map(|own| (Form::of(&own.identity), key(&own.identity))).collect();
        for identity in stored.iter().filter_map(|value| value.parse().ok()) {
            let stored = key(&identity);
            match keys.iter().find(|(_, own)| *own == stored) {
                Some((form, _)) if form.is_strong() => found(*form),
                Some((form @ Form::IssuerSubject, _)) if rules.allow(*form, record) => names.push(*form),
                _ => {}
            }
        }
    }
    let strong = names.iter().find(|form| {
        rules.strong_names.iter().any(|name| name.makes_strong(**form, rules.policies, &record.account))
    });
    evidence.extend(strong.map(|form| Evidence { form: *form, state: EvidenceState::StrongByPolicy }));
    evidence.sort_by_key(|evidence| evidence.state == EvidenceState::NotGranted);
}
