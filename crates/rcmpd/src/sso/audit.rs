//! Lines of the audit log about the master secret.
//!
//! Each delivery has a line, on the disk before the secret leaves. Refusals have lines, too, but clients can
//! cause any number of them: for each kind the first few of a minute are written whole, and the rest is
//! counted. A kind is of one source, or of one user who was authenticated, so that no client hides what
//! another one does.

use super::secrets::SecretFacts;
use audit_log::AuditLog;
use dcerpc::limits::source_of;
use dcerpc::server::CallSecurity;
use dcerpc_tokio::LogLimiter;
use dtyp::Sid;
use rpc_auth::{IdentitySource, RefusalReason, UserIdentity};
use rpc_auth_tokio::{AuthAudit, Refused};
use serde_json::{Value, json};
use sso_service::{AuditFailed, BoxFuture, Delivery, DeliveryAudit, Denial, Outcome};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing::{info, warn};

/// How often counts of refusals are written.
pub(super) const FLUSH_INTERVAL: Duration = Duration::from_secs(60);
/// Lines of one kind of refusal in a minute; the others are counted.
const LINES_OF_A_KIND: u64 = 5;
/// Kinds of single sources and users in a minute. Beyond that a refusal counts with all others of its
/// mechanism and reason, which are about 60 more.
const KINDS_MAX: usize = 256;

/// Writes the lines.
pub(super) struct SsoAudit {
    log: Arc<AuditLog>,
    /// Refusals of the running minute, by kind.
    refused: Mutex<BTreeMap<String, u64>>,
    limiter: LogLimiter,
}

impl SsoAudit {
    pub(super) fn new(log: Arc<AuditLog>) -> Self {
        Self { log, refused: Mutex::default(), limiter: LogLimiter::default() }
    }

    /// Logs what may happen at every call, once in a while.
    pub(super) fn once(&self, event: &'static str, log: impl FnOnce()) {
        self.limiter.once(event, log);
    }

    /// What a command on this machine did to the secret: it acts on the files, and the service sees what
    /// differs.
    pub(super) fn changed(&self, before: &SecretFacts, after: &SecretFacts) {
        let facts = |facts: &SecretFacts| {
            json!({
                "state": facts.state,
                "generation": facts.generation,
                "last_backup": facts.last_backup,
                "last_drill": facts.last_drill,
                "is_copy": facts.is_copy,
            })
        };
        let event =
            json!({ "event": "master_secret_changed", "before": facts(before), "after": facts(after) });
        self.log.note(None, &event);
    }

    /// An operator is about to change the secret. Without this line nothing is changed.
    pub(super) fn operation(
        &self,
        uid: u32,
        user: Option<&str>,
        command: &str,
        facts: Value,
    ) -> Result<(), String> {
        let mut event =
            json!({ "event": "master_secret_operation", "uid": uid, "operator": user, "command": command });
        if let (Value::Object(event), Value::Object(facts)) = (&mut event, facts) {
            event.extend(facts);
        }
        self.log.record(None, &event)
    }

    /// What became of it.
    pub(super) fn operation_ended(&self, uid: u32, user: Option<&str>, command: &str, error: Option<&str>) {
        let event = json!({
            "event": "master_secret_operation_ended",
            "uid": uid,
            "operator": user,
            "command": command,
            "error": error,
        });
        self.log.note(None, &event);
    }

    /// A local user who is no operator.
    pub(super) fn operator_refused(&self, uid: u32, user: Option<&str>, command: &str) {
        self.limiter.once("operator", || {
            warn!(uid, user, command, "Rejected an operation: the user is not in operators of [sso]");
        });
        self.refusal("operator", uid, || {
            let event = json!({ "event": "operator_refused", "uid": uid, "user": user, "command": command });
            (None, event)
        });
    }

    /// A call that was answered without the secret.
    pub(super) fn answered(&self, address: SocketAddr, user: &UserIdentity, outcome: &Outcome) {
        let (code, why) = match outcome {
            // These have their line already.
            Outcome::Delivered { .. } => return,
            Outcome::Denied(denial) => (outcome.code(), denial.as_str().to_owned()),
            Outcome::Failed { detail, .. } => (outcome.code(), detail.clone()),
            Outcome::Fault(status) => (None, status.to_string()),
            Outcome::NotProtected => return,
        };
        self.refusal("denied", format_args!("{} {}", user.domain, user.name), || {
            let mut event = json!({
                "event": "master_secret_refused",
                "user": user.name,
                "domain": user.domain,
                "user_sid": user.sid.map(|sid| sid.to_string()),
                "source": address.to_string(),
                "code": code.map(|code| format!("0x{:08x}", code.0)),
                "reason": why,
            });
            if let Outcome::Denied(Denial::Delegated(services)) = outcome {
                event["delegated_by"] = json!(services);
            }
            (user.sid.map(|sid| (user.name.clone(), sid)), event)
        });
    }

    /// A call below privacy, or without a user.
    pub(super) fn below_privacy(&self, address: SocketAddr, security: Option<&CallSecurity>) {
        self.refusal(RefusalReason::Level.as_str(), source_of(address.ip()), || {
            let event = json!({
                "event": "master_secret_refused",
                "mechanism": security.map_or("none", |security| mechanism(security.auth_type.0)),
                "level": security.map(|security| security.level.0),
                "source": address.to_string(),
                "reason": RefusalReason::Level.as_str(),
            });
            (None, event)
        });
    }

    /// `cause` is one of a few words, `of` the source or user.
    fn refusal(&self, cause: &str, of: impl Display, event: impl FnOnce() -> (Option<(String, Sid)>, Value)) {
        let kind = format!("{cause} {of}");
        let mut refused = lock(&self.refused);
        let kind = match refused.len() < KINDS_MAX || refused.contains_key(&kind) {
            true => kind,
            false => cause.to_owned(),
        };
        let count = refused.entry(kind).or_default();
        *count += 1;
        if *count > LINES_OF_A_KIND {
            return;
        }
        drop(refused);
        let (account, event) = event();
        self.log.note(account.as_ref().map(|(name, sid)| (name.as_str(), *sid)), &event);
    }

    /// Writes how many refusals of a kind had no line.
    pub(super) fn flush(&self) {
        let refused = std::mem::take(&mut *lock(&self.refused));
        let counts: BTreeMap<_, _> =
            refused.into_iter().filter(|(_, count)| *count > LINES_OF_A_KIND).collect();
        if !counts.is_empty() {
            self.log.note(None, &json!({ "event": "master_secret_refusals", "counts": counts }));
        }
    }
}

impl AuthAudit for SsoAudit {
    fn refused(&self, Refused { peer, mechanism, refusal }: &Refused<'_>) {
        let reason = refusal.reason.as_str();
        let address = peer.address;
        self.limiter.once(reason, || {
            info!(client.addr = %address, mechanism, reason, detail = refusal.detail, "Authentication of a user rejected");
        });
        self.refusal(&format!("{mechanism} {reason}"), source_of(address.ip()), || {
            let event = json!({
                "event": "authentication_refused",
                "mechanism": mechanism,
                "reason": reason,
                "detail": refusal.detail,
                "source": address.to_string(),
            });
            (None, event)
        });
    }
}

impl DeliveryAudit for SsoAudit {
    fn record<'a>(&'a self, delivery: &'a Delivery<'a>) -> BoxFuture<'a, Result<(), AuditFailed>> {
        let user = delivery.user;
        let mut event = json!({
            "event": "master_secret_delivered",
            "user": user.name,
            "domain": user.domain,
            "user_sid": user.sid.map(|sid| sid.to_string()),
            "administrator": delivery.entry,
            "mechanism": mechanism(delivery.auth_type),
            "generation": delivery.generation,
            "source": delivery.address.to_string(),
        });
        match &user.source {
            IdentitySource::LocalStore => event["authenticated_by"] = json!("local store"),
            IdentitySource::DomainController { domain } => {
                event["authenticated_by"] = json!(format!("domain controller of {domain}"));
            }
            IdentitySource::Ticket { keytab_principal } => {
                event["keytab_principal"] = json!(keytab_principal)
            }
        }
        if !user.delegated_by.is_empty() {
            event["delegated_by"] = json!(user.delegated_by);
        }
        let (log, account) = (Arc::clone(&self.log), user.sid.map(|sid| (user.name.clone(), sid)));
        let write = move || log.record(account.as_ref().map(|(name, sid)| (name.as_str(), *sid)), &event);
        Box::pin(async move {
            let written = tokio::task::spawn_blocking(write).await;
            written.map_err(|error| AuditFailed(error.to_string()))?.map_err(AuditFailed)
        })
    }
}

/// The name of an RPC `auth_type` ([MS-RPCE] 2.2.1.1.7).
pub(super) const fn mechanism(auth_type: u8) -> &'static str {
    match auth_type {
        9 => "spnego",
        10 => "ntlm",
        16 => "kerberos",
        _ => "other",
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use audit_log::Settings;
    use dcerpc_tokio::Peer;
    use rpc_auth::Refusal;

    fn lines(log: &std::path::Path) -> Vec<Value> {
        let text = std::fs::read_to_string(log).expect("there is a log");
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }

    fn of_source<'a>(lines: &'a [Value], source: &str) -> Vec<&'a Value> {
        lines.iter().filter(|line| line["source"] == source).collect()
    }

    #[test]
    fn junk_of_some_sources_hides_no_refusal_of_another_and_fills_no_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let settings = Settings { path: Some(path.clone()), ..Settings::default() };
        let audit = SsoAudit::new(Arc::new(AuditLog::open(&settings).expect("it opens")));
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let refuse = |source: &str, reason| {
            let peer = Peer { connection: 1, address: address(source) };
            let refusal = Refusal::new(reason, "the test");
            audit.refused(&Refused { peer: &peer, mechanism: "ntlm", refusal: &refusal });
        };
        for _ in 0..1000 {
            refuse("192.0.2.1:1", RefusalReason::Proof);
            audit.below_privacy(address("192.0.2.1:1"), None);
        }
        refuse("192.0.2.2:1", RefusalReason::Proof);
        audit.below_privacy(address("192.0.2.2:1"), None);
        let written = lines(&path);
        assert_eq!(of_source(&written, "192.0.2.1:1").len(), 10);
        let other: Vec<_> = of_source(&written, "192.0.2.2:1").iter().map(|line| &line["reason"]).collect();
        assert_eq!(other, ["proof", "level"]);
        // A network of many sources: the number of lines has a limit, and another reason still has lines.
        for host in 0..2000 {
            refuse(&format!("[2001:db8:0:{host:x}::1]:1"), RefusalReason::Token);
        }
        let written = lines(&path).len();
        assert!(written <= 12 + KINDS_MAX + 5, "{written} lines");
        refuse("192.0.2.3:1", RefusalReason::Proof);
        assert_eq!(of_source(&lines(&path), "192.0.2.3:1").len(), 1);
        audit.flush();
        let written = lines(&path);
        let counts = &written.last().expect("there are lines")["counts"];
        assert_eq!(
            (&counts["ntlm proof 192.0.2.1"], &counts["level 192.0.2.1"]),
            (&json!(1000), &json!(1000))
        );
    }
}
