//! A decision as a line of the audit log: who asked, about which certificate, what was decided and by what.
//!
//! Certificates are named as event 4768 of Windows names them. A certificate itself is written with its first
//! decision in a file, so that a dry run can decide again under another policy.

use base64::prelude::{BASE64_STANDARD, Engine};
use dtyp::Sid;
use rcmp_service::certificate::Certificate;
use rcmp_service::explain::trail;
use rcmp_service::{Answer, Question, Reason, Strength};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use std::collections::HashSet;
use std::fmt::Display;

/// The longest name of an issuer that is written.
const NAME_LEN_MAX: usize = 1024;
/// SIDs of a peer's that are written when they are dropped; how many there were is written in any case.
const DROPPED_MAX: usize = 16;
/// Certificates remembered as written; when there are more, they are written again.
const WRITTEN_MAX: usize = 65_536;

/// Which certificates a file has already.
#[derive(Debug, Default)]
pub(super) struct Written(HashSet<[u8; 20]>);

impl Written {
    /// Whether it is not in the file yet.
    pub(super) fn is_new(&self, thumbprint: &[u8; 20]) -> bool {
        !self.0.contains(thumbprint)
    }

    /// The file has it from now on.
    pub(super) fn insert(&mut self, thumbprint: [u8; 20]) {
        if self.0.len() >= WRITTEN_MAX {
            self.0.clear();
        }
        self.0.insert(thumbprint);
    }

    /// Another file has none.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

/// The flags and the certificate of a question that can be read.
fn asked(question: &Question) -> Option<(u32, Certificate<'_>)> {
    let asked = question.asked().ok()?;
    Some((asked.flags.0, asked.certificate.as_ref().ok()?.get()))
}

/// The thumbprint of the certificate of a question that can be read, as lines have it.
pub(super) fn thumbprint(question: &Question) -> Option<String> {
    asked(question).map(|(_, certificate)| dtyp::hex(certificate.sha1()))
}

/// The thumbprint of a certificate, as lines have it.
pub(super) fn thumbprint_of(certificate: &[u8]) -> String {
    dtyp::hex(&Sha1::digest(certificate))
}

/// The event, and the thumbprint of the certificate that is written whole in it. `is_new` says whether one is
/// to be.
pub(super) fn event(
    answer: &Answer,
    question: &Question,
    source: &dyn Display,
    is_new: impl FnOnce(&[u8; 20]) -> bool,
) -> (Value, Option<[u8; 20]>) {
    let mapped = answer.mapped.as_ref();
    let account = mapped.map(|mapped| &mapped.record.account);
    let mut event = json!({
        "event": "map",
        "asker": question.asker.account,
        "asker_sid": question.asker.sid.to_string(),
        "source": source.to_string(),
        "reason": answer.reason.name(),
        "status": format!("0x{:08x}", answer.status.0),
        "method": mapped.map(|mapped| mapped.method.name()),
        "strength": mapped.map(|mapped| mapped.strength.name()),
        "account": account.map(|account| &account.name),
        "account_sid": account.map(|account| account.sid.to_string()),
        "policy_revision": answer.policy_revision,
        "store_revision": answer.store_revision,
        "trail": trail(&answer.steps),
    });
    let mut whole = None;
    let Value::Object(fields) = &mut event else { return (event, whole) };
    if let Some(Strength::Strong(form)) = mapped.map(|mapped| mapped.strength) {
        fields.insert("strong_by".to_owned(), form.name().into());
    }
    // What is not mapped may have been decided by older answers, too.
    let age =
        account.and_then(|account| account.stale_s).or_else(|| rcmp_service::trace::stale_s(&answer.steps));
    if let Some(age) = age {
        fields.insert("stale_s".to_owned(), age.into());
    }
    if let Some(trust) = &question.asker.trust {
        fields.insert("asker_domain".to_owned(), trust.as_str().into());
    }
    if let Some(elsewhere) = &answer.elsewhere {
        let account = elsewhere.account.as_ref();
        fields.insert("domain".to_owned(), elsewhere.domain.as_str().into());
        fields.insert("peer".to_owned(), elsewhere.peer.as_str().into());
        fields.insert("routed_by".to_owned(), elsewhere.by.name().into());
        fields.insert("server".to_owned(), elsewhere.server.as_deref().into());
        fields.insert("request_digest".to_owned(), dtyp::hex(&elsewhere.digest).into());
        if let Some(account) = account {
            // A foreign account is its domain's.
            fields.insert("account".to_owned(), format!("{}\\{}", elsewhere.domain, account.name).into());
            fields.insert("account_sid".to_owned(), account.sid.to_string().into());
            let dropped: Vec<_> = account.dropped.iter().take(DROPPED_MAX).map(ToString::to_string).collect();
            if !dropped.is_empty() {
                fields.insert("sids_dropped".to_owned(), dropped.into());
                fields.insert("sids_dropped_count".to_owned(), account.dropped.len().into());
            }
        }
    }
    if let Reason::ResponseRejected(rejection) = answer.reason {
        fields.insert("rejection".to_owned(), rejection.name().into());
    }
    if let Reason::Chain(error) = answer.reason {
        fields.insert("chain".to_owned(), error.name().into());
    }
    if let Some(id) = answer.reason.event_id() {
        fields.insert("event_id".to_owned(), id.into());
    }
    if let Some((flags, certificate)) = asked(question) {
        let mut issuer = certificate.issuer_name().map(ToString::to_string).unwrap_or_default();
        issuer.truncate(issuer.floor_char_boundary(NAME_LEN_MAX));
        let thumbprint = *certificate.sha1();
        fields.insert("flags".to_owned(), flags.into());
        fields.insert("CertIssuerName".to_owned(), issuer.into());
        fields.insert("CertSerialNumber".to_owned(), dtyp::hex(certificate.serial).into());
        fields.insert("CertThumbprint".to_owned(), dtyp::hex(&thumbprint).into());
        // An asker without permission, or a certificate that no trusted CA issued, writes no kilobytes into
        // the log.
        if is_accepted(answer.reason) && is_new(&thumbprint) {
            fields.insert("certificate".to_owned(), BASE64_STANDARD.encode(certificate.encoded).into());
            whole = Some(thumbprint);
        }
    }
    (event, whole)
}

/// Whether the asker has the permission to ask, and the certificate was not refused for its chain.
const fn is_accepted(reason: Reason) -> bool {
    match reason {
        Reason::AskerDenied
        | Reason::Chain(_)
        | Reason::MalformedRequest
        | Reason::MalformedCertificate
        | Reason::NoMethod
        // The chain was not validated here, and no other domain said that it is good.
        | Reason::OtherDomain
        | Reason::HomeNotServed
        | Reason::TransitDenied
        | Reason::Loop
        | Reason::ChainTooLong
        | Reason::NotForwarded
        | Reason::TooLongToForward
        | Reason::NoLogonServers
        | Reason::RefusedElsewhere { .. }
        | Reason::ResponseRejected(_)
        | Reason::Unproved => false,
        Reason::Mapped(_)
        | Reason::Forwarded
        | Reason::NoMatch
        | Reason::Ambiguous
        | Reason::SidMismatch
        | Reason::Revoked
        | Reason::RevocationUnknown
        | Reason::NoStrongMapping
        | Reason::CertificateOlder
        | Reason::AuthorityNotAllowed
        | Reason::NotVerified
        | Reason::Disabled
        | Reason::Locked
        | Reason::Expired
        | Reason::LogonHours
        | Reason::OutOfScope
        | Reason::MissRate
        | Reason::AuditBudget
        | Reason::StoreUnavailable
        | Reason::Unanswerable
        | Reason::AuditUnavailable => true,
    }
}

/// How a sidecar without accounts of its own knows an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentifiedBy {
    /// Another service was asked.
    Server,
    /// By a ticket, which stands for an earlier answer.
    Ticket,
}

/// The event of a certificate that another service was asked about, for a sidecar.
pub(super) fn identified(
    decision: &str,
    reason: &str,
    account: Option<&(Sid, String)>,
    (certificate, by): (&[u8], IdentifiedBy),
    source: &str,
) -> Value {
    json!({
        "event": "identify",
        "by": match by {
            IdentifiedBy::Server => "server",
            IdentifiedBy::Ticket => "ticket",
        },
        "decision": decision,
        "source": source,
        "reason": reason,
        "account": account.map(|(_, name)| name),
        "account_sid": account.map(|(sid, _)| sid.to_string()),
        "CertThumbprint": thumbprint_of(certificate),
    })
}

/// The event of a shadow that decided otherwise.
pub(super) fn shadow_event(
    question: &Question,
    (live, live_account): (Reason, Option<&str>),
    (shadow, shadow_account): (Reason, Option<&str>),
    policy_revision: u64,
) -> Value {
    let asked = asked(question).map(|(_, certificate)| certificate);
    json!({
        "event": "shadow_divergence",
        "asker": question.asker.account,
        "reason": live.name(),
        "account": live_account,
        "shadow_reason": shadow.name(),
        "shadow_account": shadow_account,
        "policy_revision": policy_revision,
        "CertThumbprint": asked.map(|certificate| dtyp::hex(certificate.sha1())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_has_many_certificates_forgets_them() {
        let mut written = Written::default();
        let thumbprint = |n: usize| {
            let mut bytes = [0; 20];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            bytes
        };
        for n in 0..WRITTEN_MAX {
            assert!(written.is_new(&thumbprint(n)));
            written.insert(thumbprint(n));
        }
        assert!(!written.is_new(&thumbprint(0)));
        written.insert(thumbprint(WRITTEN_MAX));
        assert!(written.is_new(&thumbprint(0)), "it is written once more, and nothing grows");
        assert_eq!(written.0.len(), 1);
    }
}
