//! The audit log: one JSON line for each channel and each decision.
//!
//! Refusals of callers who proved nothing are counted and written once a minute: anybody can cause them, and nobody may
//! fill a disk. They are never the reason why a decision stops.
//!
//! With a chain, a changed, missing or additional line is found by [`verify`]; with signed heads, so is a chain that was
//! made anew or cut.

mod decision;
mod heads;
pub mod verify;
mod writer;

pub use crate::signing::{PublicKey, make_key};

use crate::config::Audit as AuditConfig;
use decision::Written;
use dtyp::{NtStatus, Sid};
use heads::Heads;
use netlogon_transport::server::{Audit, AuditUnavailable, ChannelEvent, ChannelOutcome, ChannelRefusal};
use rcmp_service::trace::Step;
use rcmp_service::{Answer, Question, Reason};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use writer::Writer;

/// Writes to a file, or to the log when there is none.
pub struct AuditLog {
    file: Mutex<Option<Writer>>,
    /// Whether there is one, for whoever need not wait for it.
    has_file: AtomicBool,
    required: bool,
    /// Heads and how often they are signed. Whoever locks both locks this first.
    heads: Option<(Mutex<Heads>, Duration)>,
    /// Whether the last head could not be written.
    heads_failing: AtomicBool,
    heads_failed: AtomicU64,
    /// Refusals that anybody can cause, by reason.
    anonymous: Mutex<BTreeMap<&'static str, u64>>,
    /// Decisions by reason, for metrics.
    decisions: Mutex<BTreeMap<&'static str, u64>>,
    /// Relayed calls by package and outcome, for metrics; packages are configured, so there are few.
    relays: Mutex<BTreeMap<(String, &'static str), u64>>,
    failed: AtomicU64,
    /// Whether certificates are written whole, each once in a file.
    certificates: AtomicBool,
    written: Mutex<Written>,
    shadow_agreed: AtomicU64,
    shadow_left_out: AtomicU64,
    shadow_divergences: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
}

/// What somebody decided, for comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// Why.
    pub reason: Reason,
    /// The account's name.
    pub account: Option<String>,
    /// The account's SID.
    pub sid: Option<Sid>,
}

impl From<&Answer> for Decided {
    fn from(answer: &Answer) -> Self {
        let account = answer.mapped.as_ref().map(|mapped| &mapped.record.account);
        Self {
            reason: answer.reason,
            account: account.map(|account| account.name.clone()),
            sid: account.map(|account| account.sid),
        }
    }
}

/// A call of a package that is answered elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Relayed<'a> {
    /// PackageName.
    pub package: &'a str,
    /// The machine account that asked.
    pub account: &'a str,
    /// Its SID.
    pub account_sid: Sid,
    /// Where it asked from.
    pub source: SocketAddr,
    /// What it was told.
    pub status: NtStatus,
    /// Why it was not told what the other server said.
    pub withheld: Option<&'static str>,
}

/// What shadow policies decided, beside the live ones.
#[derive(Clone, Debug, Default)]
pub struct Shadows {
    /// The same.
    pub agreed: u64,
    /// Nothing, for want of time.
    pub left_out: u64,
    /// Something else: how often, by the live reason and the shadow's.
    pub divergences: BTreeMap<(&'static str, &'static str), u64>,
}

/// How soon a head that could not be written is tried again, at the latest.
const HEAD_RETRY: Duration = Duration::from_secs(5);

impl AuditLog {
    /// Opens the log.
    pub fn open(config: &AuditConfig) -> anyhow::Result<Self> {
        let heads = config.heads.as_ref().map(Heads::open).transpose()?;
        let newest = heads.as_ref().map(Heads::newest);
        let file = match &config.path {
            Some(path) if config.chain => Some(Writer::chained(path, newest)?),
            Some(path) => Some(Writer::plain(path)?),
            None => None,
        };
        let interval = config.heads.as_ref().map(|heads| heads.interval);
        Ok(Self {
            has_file: AtomicBool::new(file.is_some()),
            file: Mutex::new(file),
            required: config.required,
            heads: heads.map(Mutex::new).zip(interval),
            heads_failing: AtomicBool::new(false),
            heads_failed: AtomicU64::new(0),
            anonymous: Mutex::default(),
            decisions: Mutex::default(),
            relays: Mutex::default(),
            failed: AtomicU64::new(0),
            certificates: AtomicBool::new(config.certificates),
            written: Mutex::default(),
            shadow_agreed: AtomicU64::new(0),
            shadow_left_out: AtomicU64::new(0),
            shadow_divergences: Mutex::default(),
        })
    }

    /// Opens the files anew, for instance after they were rotated. A chain goes on in the new file, and its end in the old
    /// one is signed. Whether there is a chain, and how it is signed, does not change.
    pub fn reopen(&self, config: &AuditConfig) -> anyhow::Result<()> {
        self.sign();
        let new_heads = config.heads.as_ref().map(Heads::open).transpose()?;
        let mut heads = self.heads.as_ref().map(|(heads, _)| lock(heads));
        let mut file = lock(&self.file);
        match (&mut *file, &config.path) {
            (Some(file), Some(path)) => file.reopen(path)?,
            (file, Some(path)) if config.chain => {
                *file = Some(Writer::chained(path, new_heads.as_ref().map(Heads::newest))?);
            }
            (file, Some(path)) => *file = Some(Writer::plain(path)?),
            (file, None) => *file = None,
        }
        self.has_file.store(file.is_some(), Ordering::Relaxed);
        drop(file);
        self.certificates.store(config.certificates, Ordering::Relaxed);
        lock(&self.written).forget();
        if let (Some(heads), Some(new_heads)) = (&mut heads, new_heads) {
            **heads = new_heads;
        }
        drop(heads);
        self.sign();
        Ok(())
    }

    /// Signs the end of the chain, if heads are configured and there are new lines. Returns when to do so again.
    pub fn sign(&self) -> Option<Duration> {
        let (heads, interval) = self.heads.as_ref()?;
        let mut heads = lock(heads);
        let end = lock(&self.file).as_ref().and_then(Writer::position);
        let (position, log) = end?;
        match log.and_then(|log| heads.sign(position, &log)) {
            Ok(()) => {
                if self.heads_failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("Heads of the audit log are written again");
                }
                Some(*interval)
            }
            Err(error) => {
                self.heads_failed.fetch_add(1, Ordering::Relaxed);
                if !self.heads_failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, "A head of the audit log cannot be written");
                }
                Some(HEAD_RETRY.min(*interval))
            }
        }
    }

    /// Heads that could not be written.
    pub fn head_failures(&self) -> u64 {
        self.heads_failed.load(Ordering::Relaxed)
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

    /// Whether decisions are written down, so that it is worth to take down how they are made.
    pub fn is_written(&self) -> bool {
        self.has_file.load(Ordering::Relaxed) || tracing::enabled!(target: "audit", tracing::Level::DEBUG)
    }

    /// Writes down a decision and the steps to it, with the name that somebody was told of it. When it must be written and cannot be,
    /// the decision must not be told.
    pub fn decision(
        &self,
        answer: &Answer,
        question: &Question,
        steps: &[Step],
        source: &dyn Display,
        name: Option<&str>,
    ) -> Result<(), AuditUnavailable> {
        *lock(&self.decisions).entry(answer.reason.name()).or_default() += 1;
        if !self.is_written() {
            return Ok(());
        }
        let is_new = |thumbprint: &[u8; 20]| {
            self.certificates.load(Ordering::Relaxed) && lock(&self.written).is_new(thumbprint)
        };
        let (mut event, certificate) = decision::event(answer, question, steps, source, is_new);
        if let (Some(name), Value::Object(fields)) = (name, &mut event) {
            fields.insert("decision".to_owned(), name.into());
        }
        // A certificate whose line could not be written is written with the next decision about it.
        if let (true, Some(thumbprint)) = (self.write(&event)?, certificate) {
            lock(&self.written).insert(thumbprint);
        }
        Ok(())
    }

    /// Writes down whom somebody else said a certificate to be, for a sidecar.
    pub fn identified(
        &self,
        decision: &str,
        reason: &'static str,
        account: Option<&(Sid, String)>,
        certificate: &[u8],
        source: &str,
    ) -> Result<(), AuditUnavailable> {
        *lock(&self.decisions).entry(reason).or_default() += 1;
        match self.is_written() {
            true => {
                self.write(&decision::identified(decision, reason, account, certificate, source)).map(drop)
            }
            false => Ok(()),
        }
    }

    /// Writes down that a package's call was relayed, or why it was not.
    pub fn relayed(&self, relayed: &Relayed<'_>) -> Result<(), AuditUnavailable> {
        let outcome = relayed.withheld.unwrap_or("relayed");
        *lock(&self.relays).entry((relayed.package.to_owned(), outcome)).or_default() += 1;
        if !self.is_written() {
            return Ok(());
        }
        self.write(&json!({
            "event": "relay",
            "package": relayed.package,
            "asker": relayed.account,
            "asker_sid": relayed.account_sid.to_string(),
            "source": relayed.source.to_string(),
            "status": format!("0x{:08x}", relayed.status.0),
            "outcome": outcome,
        }))
        .map(drop)
    }

    /// Calls of packages that are answered elsewhere, by package and outcome.
    pub fn relays(&self) -> BTreeMap<(String, &'static str), u64> {
        lock(&self.relays).clone()
    }

    /// Counts what a shadow policy decided, and writes it down where it is something else.
    pub fn shadow(&self, question: &Question, live: &Decided, shadow: &Decided, policy_revision: u64) {
        // How an account was found is no difference; whether, and which, is.
        if live.sid == shadow.sid {
            self.shadow_agreed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let _ = self.write(&decision::shadow_event(
            question,
            (live.reason, live.account.as_deref()),
            (shadow.reason, shadow.account.as_deref()),
            policy_revision,
        ));
        // Whoever sees the count finds the line.
        let reasons = (live.reason.name(), shadow.reason.name());
        *lock(&self.shadow_divergences).entry(reasons).or_default() += 1;
    }

    /// Counts a decision that the shadow had no time for.
    pub fn shadow_left_out(&self) {
        self.shadow_left_out.fetch_add(1, Ordering::Relaxed);
    }

    /// What shadows decided so far.
    pub fn shadows(&self) -> Shadows {
        Shadows {
            agreed: self.shadow_agreed.load(Ordering::Relaxed),
            left_out: self.shadow_left_out.load(Ordering::Relaxed),
            divergences: lock(&self.shadow_divergences).clone(),
        }
    }

    /// Writes a line, and says whether it is in a file now.
    fn write(&self, event: &Value) -> Result<bool, AuditUnavailable> {
        if !self.has_file.load(Ordering::Relaxed) {
            tracing::debug!(target: "audit", %event, "Audit");
            return Ok(false);
        }
        if self.required && self.heads_failing.load(Ordering::Relaxed) {
            return Err(AuditUnavailable);
        }
        let line = writer::start_line(event);
        let written = lock(&self.file).as_mut().map_or(Ok(()), |file| file.write(line));
        match written {
            Ok(()) => Ok(true),
            Err(error) => {
                if self.failed.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::error!(%error, "The audit log cannot be written");
                }
                if self.required { Err(AuditUnavailable) } else { Ok(false) }
            }
        }
    }
}

impl Audit for AuditLog {
    fn channel(&self, event: &ChannelEvent<'_>) -> Result<(), AuditUnavailable> {
        let (name, reason) = match event.outcome {
            ChannelOutcome::Established => ("channel_established", None),
            ChannelOutcome::Rotated => ("secret_rotated", None),
            ChannelOutcome::RotationDenied => ("secret_rotation_denied", None),
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
        .map(drop)
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

#[cfg(test)]
mod tests;
