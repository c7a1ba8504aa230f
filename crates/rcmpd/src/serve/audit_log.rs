//! The audit log: one JSON line for each channel and each decision.
//!
//! Refusals of callers who proved nothing are counted and written once a minute: anybody can cause them, and nobody may
//! fill a disk. They are never the reason why a decision stops.

use crate::config::Audit as AuditConfig;
use anyhow::Context;
use netlogon_transport::server::{Audit, AuditUnavailable, ChannelEvent, ChannelOutcome, ChannelRefusal};
use rcmp_service::{Answer, Asker};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Writes to a file, or to the log when there is none.
pub struct AuditLog {
    file: Mutex<Option<File>>,
    required: bool,
    /// Refusals that anybody can cause, by reason.
    anonymous: Mutex<BTreeMap<&'static str, u64>>,
    /// Decisions by reason, for metrics.
    decisions: Mutex<BTreeMap<&'static str, u64>>,
    failed: AtomicU64,
}

fn open(path: Option<&Path>) -> anyhow::Result<Option<File>> {
    let Some(path) = path else { return Ok(None) };
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(path)
        .with_context(|| format!("cannot write the audit log {}", path.display()))?;
    Ok(Some(file))
}

impl AuditLog {
    /// Opens the log.
    pub fn open(config: &AuditConfig) -> anyhow::Result<Self> {
        Ok(Self {
            file: Mutex::new(open(config.path.as_deref())?),
            required: config.required,
            anonymous: Mutex::default(),
            decisions: Mutex::default(),
            failed: AtomicU64::new(0),
        })
    }

    /// Opens the file anew, for instance after it was rotated.
    pub fn reopen(&self, config: &AuditConfig) -> anyhow::Result<()> {
        *lock(&self.file) = open(config.path.as_deref())?;
        Ok(())
    }

    /// Writes down how many anonymous callers were refused since the last time.
    pub fn flush(&self) {
        let counts = std::mem::take(&mut *lock(&self.anonymous));
        if !counts.is_empty() {
            let _ = self.write(&json!({ "event": "channels_refused", "counts": counts }));
        }
    }

    /// Decisions so far, by reason.
    pub fn decisions(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.decisions).clone()
    }

    /// Lines that could not be written.
    pub fn failures(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Writes down a decision. When it must be written and cannot be, the decision must not be told.
    pub fn decision(
        &self,
        answer: &Answer,
        asker: &Asker,
        source: SocketAddr,
    ) -> Result<(), AuditUnavailable> {
        *lock(&self.decisions).entry(answer.reason.name()).or_default() += 1;
        if lock(&self.file).is_none() && !tracing::enabled!(target: "audit", tracing::Level::DEBUG) {
            return Ok(());
        }
        let account = answer.mapped.as_ref().map(|mapped| &mapped.record.account);
        self.write(&json!({
            "event": "map",
            "asker": asker.account,
            "asker_sid": asker.sid.to_string(),
            "source": source.to_string(),
            "reason": answer.reason.name(),
            "status": format!("0x{:08x}", answer.status.0),
            "method": answer.mapped.as_ref().map(|mapped| mapped.method.name()),
            "account": account.map(|account| &account.name),
            "account_sid": account.map(|account| account.sid.to_string()),
            "policy_revision": answer.policy_revision,
        }))
    }

    fn write(&self, event: &Value) -> Result<(), AuditUnavailable> {
        let mut file = lock(&self.file);
        let Some(file) = file.as_mut() else {
            tracing::debug!(target: "audit", %event, "Audit");
            return Ok(());
        };
        let mut line = json!({ "version": 1, "time": super::now().to_string() });
        if let (Value::Object(line), Value::Object(event)) = (&mut line, event) {
            line.extend(event.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        let mut line = line.to_string();
        line.push('\n');
        match file.write_all(line.as_bytes()) {
            Ok(()) => Ok(()),
            Err(error) => {
                if self.failed.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::error!(%error, "The audit log cannot be written");
                }
                if self.required { Err(AuditUnavailable) } else { Ok(()) }
            }
        }
    }
}

impl Audit for AuditLog {
    fn channel(&self, event: &ChannelEvent<'_>) -> Result<(), AuditUnavailable> {
        let (name, reason) = match event.outcome {
            ChannelOutcome::Established => ("channel_established", None),
            ChannelOutcome::Rotated => ("secret_rotated", None),
            ChannelOutcome::Refused(reason) => ("channel_refused", Some(reason)),
        };
        match reason {
            None => tracing::info!(
                target: "audit", account = event.account, computer = event.computer, source = %event.address, name
            ),
            Some(reason) => {
                // A peer cannot fill the log: these are told one by one at debug only.
                tracing::debug!(
                    target: "audit", account = event.account, computer = event.computer, source = %event.address,
                    reason = reason.text(), "Refused a channel"
                );
                *lock(&self.anonymous).entry(refusal_name(reason)).or_default() += 1;
                return Ok(());
            }
        }
        self.write(&json!({
            "event": name,
            "account": event.account,
            "account_sid": event.sid.map(|sid| sid.to_string()),
            "computer": event.computer,
            "channel_type": event.channel_type.0,
            "source": event.address.to_string(),
        }))
    }
}

/// A stable name for logs and metrics.
const fn refusal_name(reason: ChannelRefusal) -> &'static str {
    match reason {
        ChannelRefusal::Downgrade => "downgrade",
        ChannelRefusal::ChannelType => "channel_type",
        ChannelRefusal::UnknownAccount => "unknown_account",
        ChannelRefusal::AccountDisabled => "account_disabled",
        ChannelRefusal::OtherChannelType => "other_channel_type",
        ChannelRefusal::NameMismatch => "name_mismatch",
        ChannelRefusal::NoChallenge => "no_challenge",
        ChannelRefusal::WeakChallenge => "weak_challenge",
        ChannelRefusal::WrongCredential => "wrong_credential",
        ChannelRefusal::Backoff => "backoff",
        ChannelRefusal::RecordOfAnother => "record_of_another",
        ChannelRefusal::SecretsUnavailable => "secrets_unavailable",
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
