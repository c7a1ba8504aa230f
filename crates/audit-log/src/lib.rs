//! The audit log: one JSON line for each channel and each decision.
//!
//! Where lines are required, each account has a budget of them (`budget`). Questions beyond it, and beyond
//! the rate limit of misses, are counted and written once a minute.
//!
//! Refusals of clients that proved nothing are counted and written once a minute: every client can cause
//! them, and none may fill a disk. They never stop decisions.
//!
//! With a chain, a changed, missing or additional line is found by [`verify`]; with signed checkpoints, so is
//! a chain that was made anew or cut.

mod budget;
mod checkpoints;
mod copies;
mod decision;
mod line_hash;
mod ocsf;
mod settings;
mod strict;
pub mod verify;
mod watched_file;
mod writer;

pub use copies::{CopySettings, Encoding, Receiver, Records};
pub use decision::IdentifiedBy;
pub use settings::{CheckpointSettings, Settings};

use anyhow::Context;
use budget::Budget;
use checkpoints::Checkpoints;
use copies::Copies;
use decision::Written;
use dtyp::{FileTime, NtStatus, Sid};
use netlogon_transport::server::{Audit, AuditUnavailable, ChannelEvent, ChannelOutcome, ChannelRefusal};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rcmp_service::{Answer, Asker, Question, Reason};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use watched_file::Change;
use writer::{Opened, Writer};

/// Writes to a file, or to the log when there is none.
pub struct AuditLog {
    file: Mutex<Option<Writer>>,
    copies: Copies,
    otlp: Option<Encoding>,
    /// Whether there is one, for code that need not wait for the lock.
    has_file: AtomicBool,
    required: bool,
    /// What accounts may write, where lines are required.
    budget: Option<Mutex<Budget>>,
    /// Checkpoints and how often they are signed. Code that locks both locks this first.
    heads: Option<(Mutex<Checkpoints>, Duration)>,
    /// Whether the last checkpoint could not be written.
    heads_failing: AtomicBool,
    heads_failed: Counter,
    /// Refusals that every client can cause, by reason.
    anonymous: Mutex<BTreeMap<&'static str, u64>>,
    /// What was refused to askers over a limit since the last flush.
    over_limits: Mutex<OverLimits>,
    /// Askers, by name, that got no account since the last flush, and why: the log has a line for each. At
    /// most as many as there are accounts that can ask, times the reasons.
    refused: Mutex<BTreeSet<(String, &'static str)>>,
    /// How often a line was rejected because its account is over its budget.
    over_budget: Counter,
    failed: Counter,
    channels: ChannelCounters,
    /// How often the log or its checkpoints were found changed by another program.
    changed: Counter,
    /// Whether lines go to a file that has lost its name: that is not where they are kept.
    is_lost: AtomicBool,
    /// Whether certificates are written whole, each once in a file.
    certificates: AtomicBool,
    written: Mutex<Written>,
}

/// Attempts to set up a secure channel.
#[derive(Default)]
struct ChannelCounters {
    established: Counter,
    refused: Family<RefusalLabels, Counter>,
    slowed: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    /// [`refusal_name`].
    reason: &'static str,
}

/// Refusals by the SID of an account and the reason: the account's name, and how many.
type OverLimits = BTreeMap<(Sid, &'static str), (String, u64)>;

/// A decision, for comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionSummary {
    /// What the decision is: mapped, or why not.
    pub reason: Reason,
    /// The account's name.
    pub account: Option<String>,
    /// The account's SID.
    pub sid: Option<Sid>,
}

impl From<&Answer> for DecisionSummary {
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
    /// The status that the machine got.
    pub status: NtStatus,
    /// Why it was not told what the other server said.
    pub withheld: Option<&'static str>,
}

/// How often files are looked at for what other programs did to them.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(5);

/// How soon a checkpoint that could not be written is tried again, at the latest.
const HEAD_RETRY: Duration = Duration::from_secs(5);

/// Whether an audit log can be opened, as far as that can be told without writing.
pub fn check(config: &Settings) -> anyhow::Result<()> {
    let heads = config.heads.as_ref();
    heads.map(checkpoints::signing_key).transpose()?;
    let paths = config.path.iter().chain(heads.map(|heads| &heads.path));
    paths.map(|path| path.as_path()).try_for_each(|path| {
        has_folder(path)?;
        anyhow::ensure!(
            !path.is_dir(),
            "cannot write the audit log {}: it is a folder; name a file",
            path.display()
        );
        Ok(())
    })?;
    config.path.iter().filter(|_| config.chain).try_for_each(|path| writer::check_chained(path))
}

/// Whether a file can be made in the folder of this path.
fn has_folder(path: &Path) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = folder.metadata().with_context(|| format!("{} cannot be made", path.display()))?;
    anyhow::ensure!(
        found.is_dir(),
        "{} cannot be made: {} is not a folder",
        path.display(),
        folder.display()
    );
    Ok(())
}

impl AuditLog {
    /// Opens the log.
    pub fn open(config: &Settings) -> anyhow::Result<Self> {
        let heads = config.heads.as_ref().map(Checkpoints::open).transpose()?;
        let newest = heads.as_ref().map(Checkpoints::newest);
        let changed = Counter::default();
        let file = match &config.path {
            Some(path) if config.chain => {
                let (writer, opened) = Writer::chained(path, newest)?;
                changed.inc_by(opened.map_or(0, |opened| report_opened(path, opened)));
                Some(writer)
            }
            Some(path) => Some(Writer::plain(path)?),
            None => None,
        };
        let interval = config.heads.as_ref().map(|heads| heads.interval);
        Ok(Self {
            has_file: AtomicBool::new(file.is_some()),
            file: Mutex::new(file),
            copies: Copies::new(&config.copies).context("cannot make a socket for copies of audit lines")?,
            otlp: config.otlp,
            required: config.required,
            budget: (config.required && config.account_budget > 0)
                .then(|| Mutex::new(Budget::new(config.account_budget))),
            heads: heads.map(Mutex::new).zip(interval),
            heads_failing: AtomicBool::new(false),
            heads_failed: Counter::default(),
            anonymous: Mutex::default(),
            over_limits: Mutex::default(),
            refused: Mutex::default(),
            over_budget: Counter::default(),
            failed: Counter::default(),
            channels: ChannelCounters::default(),
            changed,
            is_lost: AtomicBool::new(false),
            certificates: AtomicBool::new(config.certificates),
            written: Mutex::default(),
        })
    }

    /// Counts with this counter the lines that are rejected because their account is over its budget.
    pub fn counting(self, over_budget: Counter) -> Self {
        Self { over_budget, ..self }
    }

    /// Sends copies of lines as records, too, if it is configured. `lost` counts what is lost of all copies.
    pub fn recording(mut self, records: std::sync::Arc<dyn Records>, lost: Counter) -> Self {
        if let Some(encoding) = self.otlp {
            self.copies.record(encoding, records, lost);
        }
        self
    }

    /// Registers the metrics of the log itself.
    pub fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            ("audit_failures", "Lines of the audit log that could not be written", &self.failed),
            (
                "audit_head_failures",
                "Checkpoints (signed heads) of the audit log that could not be written",
                &self.heads_failed,
            ),
            (
                "audit_changes",
                "Changes of the audit log or its checkpoints by other programs, and disagreements of the two",
                &self.changed,
            ),
            (
                "audit_copies_lost",
                "Copies of audit lines that journald, syslog or the collector did not take",
                &self.copies.lost,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
    }

    /// Registers the metrics of secure channels, for a process that serves Netlogon.
    pub fn register_channels(&self, registry: &mut Registry) {
        let ChannelCounters { established, refused, slowed } = &self.channels;
        for reason in ChannelRefusal::ALL {
            drop(refused.get_or_create(&RefusalLabels { reason: refusal_name(reason) }));
        }
        registry.register("channels_established", "Secure channels set up", established.clone());
        registry.register("channels_refused", "Secure channels refused, by the reason", refused.clone());
        registry.register(
            "channels_slowed",
            "Attempts at a secure channel that were answered late, because secrets of their account are guessed",
            slowed.clone(),
        );
    }

    /// Opens the files anew, for instance after they were rotated. A chain goes on in the new file, and its
    /// end in the old one is signed. Whether there is a chain, and how it is signed, does not change.
    pub fn reopen(&self, config: &Settings) -> anyhow::Result<()> {
        self.sign();
        let new_heads = config.heads.as_ref().map(Checkpoints::open).transpose()?;
        let mut heads = self.heads.as_ref().map(|(heads, _)| lock(heads));
        let mut file = lock(&self.file);
        match (&mut *file, &config.path) {
            (Some(file), Some(path)) => file.reopen(path)?,
            (file, Some(path)) if config.chain => {
                let (writer, opened) = Writer::chained(path, new_heads.as_ref().map(Checkpoints::newest))?;
                let changed = opened.map_or(0, |opened| report_opened(path, opened));
                self.changed.inc_by(changed);
                *file = Some(writer);
            }
            (file, Some(path)) => *file = Some(Writer::plain(path)?),
            (file, None) => *file = None,
        }
        self.has_file.store(file.is_some(), Ordering::Relaxed);
        self.is_lost.store(false, Ordering::Relaxed);
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

    /// Looks what other programs did to the log and its checkpoints, and reports each thing once. A log or
    /// checkpoints that are not found under their path any more go on in a new file there.
    pub fn watch(&self) {
        let heads = self.heads.as_ref().map(|(heads, _)| lock(heads));
        if let Some(mut heads) = heads {
            let path = heads.path().to_owned();
            self.report(&path, "audit checkpoints", heads.look_around());
            if heads.is_away()
                && let Err(error) = heads.reopen()
            {
                let (path, error) = (path.display(), format!("{error:#}"));
                tracing::error!(%path, error, "The file of audit checkpoints was removed or replaced, and no new file can be created at its path");
            }
        }
        let mut file = lock(&self.file);
        let Some(writer) = file.as_mut() else { return };
        let path = writer.path().to_owned();
        let change = writer.look_around();
        match change {
            // `copytruncate` of a rotation does this, and nothing promises that such a log is whole.
            Ok(Some(change @ (Change::Emptied | Change::Cut))) if !writer.is_chained() => tracing::warn!(
                path = %path.display(),
                %change,
                advice = "if this was not a rotation, set audit.chain: a log with a chain reports it as an error and counts it",
                "Another program shortened the audit log, which has no chain"
            ),
            change => self.report(&path, "audit log", change),
        }
        if !writer.is_away() {
            return;
        }
        match writer.reopen(&path) {
            Ok(()) => {
                self.is_lost.store(false, Ordering::Relaxed);
                lock(&self.written).forget();
            }
            Err(error) if !self.is_lost.swap(true, Ordering::Relaxed) => {
                let (path, error) = (path.display(), format!("{error:#}"));
                tracing::error!(%path, error, "The audit log file was removed or replaced, and no new file can be created at its path");
            }
            Err(_) => {}
        }
    }

    fn report<E: Display>(&self, path: &Path, file: &'static str, change: Result<Option<Change>, E>) {
        match change {
            Ok(None) => {}
            Ok(Some(change)) => {
                self.changed.inc();
                tracing::error!(path = %path.display(), file, %change, "Audit file changed by another program");
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), file, %error, "Cannot check an audit file for changes")
            }
        }
    }

    /// How often the log or its checkpoints were found emptied, cut, overwritten, removed or replaced, or not
    /// as the checkpoints say.
    pub fn changes(&self) -> u64 {
        self.changed.get()
    }

    /// Signs the end of the chain, if checkpoints are configured and there are new lines. Returns when to do
    /// so again.
    pub fn sign(&self) -> Option<Duration> {
        let (heads, interval) = self.heads.as_ref()?;
        let mut heads = lock(heads);
        let end = lock(&self.file).as_ref().and_then(Writer::position);
        let (position, log) = end?;
        match log.and_then(|log| heads.sign(position, &log)) {
            Ok(()) => {
                if self.heads_failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("Checkpoints are written again");
                }
                Some(*interval)
            }
            Err(error) => {
                self.heads_failed.inc();
                if !self.heads_failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, "Cannot write a checkpoint of the audit log");
                }
                Some(HEAD_RETRY.min(*interval))
            }
        }
    }

    /// Checkpoints that could not be written.
    pub fn head_failures(&self) -> u64 {
        self.heads_failed.get()
    }

    /// Writes down how many anonymous callers, and askers over a limit, were refused since the last time.
    pub fn flush(&self) {
        lock(&self.refused).clear();
        let counts = std::mem::take(&mut *lock(&self.anonymous));
        if !counts.is_empty() {
            tracing::info!(?counts, "Secure channels refused in the last minute");
            let _ = self.write(None, &json!({ "event": "channels_refused", "counts": counts }));
        }
        for ((sid, reason), (account, count)) in std::mem::take(&mut *lock(&self.over_limits)) {
            let event = json!({
                "event": "asker_refused",
                "asker": account,
                "asker_sid": sid.to_string(),
                "reason": reason,
                "count": count,
            });
            let _ = self.write(None, &event);
        }
    }

    /// Whether the asker may write a line more, where lines are required.
    pub fn admits(&self, asker: &Sid) -> bool {
        let Some(budget) = &self.budget else { return true };
        lock(budget).admits(asker, Instant::now(), || self.free_bytes())
    }

    /// Notes a question that is rejected because its asker is over a limit, for a line a minute.
    pub fn over_limit(&self, asker: &Asker, reason: Reason) {
        self.note_over_limit(&asker.account, asker.sid, reason);
    }

    fn note_over_limit(&self, account: &str, sid: Sid, reason: Reason) {
        let mut over_limits = lock(&self.over_limits);
        let (_, count) = over_limits.entry((sid, reason.name())).or_insert_with(|| (account.to_owned(), 0));
        *count += 1;
        // The counts are taken once a minute, so this is the first of a minute.
        if *count == 1 {
            tracing::warn!(
                account,
                %sid,
                reason = reason.text(),
                "Rate limit of an account reached: its requests are rejected, mapping questions with STATUS_DS_BUSY"
            );
        }
    }

    /// Lines that could not be written.
    pub fn failures(&self) -> u64 {
        self.failed.get()
    }

    /// Whether decisions are written down, so that it is worth to take down how they are made.
    pub fn is_written(&self) -> bool {
        self.has_file.load(Ordering::Relaxed)
            || !self.copies.is_empty()
            || tracing::enabled!(target: "audit", tracing::Level::DEBUG)
    }

    /// Writes down a decision and the steps to it, with the name of it that the asker got. If it must be
    /// written and cannot be, the decision must not be answered; the reason to answer instead is returned.
    pub fn decision(
        &self,
        answer: &Answer,
        question: &Question,
        source: &dyn Display,
        name: Option<&str>,
    ) -> Result<(), Reason> {
        let written = match self.is_written() {
            true => self.write_decision(answer, question, source, name),
            false => Ok(()),
        };
        let answered = written.err().unwrap_or(answer.reason);
        self.note_refusal(answer, answered, question, (source, name));
        written
    }

    /// Logs a question that was answered with no account, once a minute for each asker and reason: `rcmpd
    /// map` sends its user here.
    fn note_refusal(
        &self,
        answer: &Answer,
        reason: Reason,
        question: &Question,
        (source, decision): (&dyn Display, Option<&str>),
    ) {
        let asker = &question.asker;
        if matches!(reason, Reason::Mapped(_) | Reason::Forwarded)
            || !lock(&self.refused).insert((asker.account.clone(), reason.name()))
        {
            return;
        }
        let (account, sid, name, why) = (&asker.account, &asker.sid, reason.name(), reason.text());
        let (status, thumbprint) = (reason.status(false), decision::thumbprint(question));
        let source = tracing::field::display(source);
        let elsewhere = answer.elsewhere.as_ref();
        let (domain, peer) = (elsewhere.map(|it| &it.domain), elsewhere.map(|it| &it.peer));
        let server = elsewhere.and_then(|it| it.server.as_ref());
        match reason {
            // The client sees the same as if there were no account.
            Reason::OutOfScope => tracing::info!(
                account,
                %sid,
                reason = name,
                thumbprint,
                source,
                decision,
                "Account out of scope: a question was rejected with STATUS_LOGON_FAILURE (rcmpd machine show)"
            ),
            _ if reason.is_undecided() => {
                tracing::warn!(account, %sid, reason = name, why, %status, thumbprint, source, decision, domain, peer, server, "Question not decided");
            }
            _ => {
                tracing::info!(account, %sid, reason = name, why, %status, thumbprint, source, decision, domain, peer, server, "Question rejected");
            }
        }
    }

    /// Logs a refused secure channel: at info the first one of each reason in a minute, because a client can
    /// cause as many as it likes. The names are the client's own and prove nothing.
    fn note_refused_channel(&self, event: &ChannelEvent<'_>, reason: ChannelRefusal) {
        let mut anonymous = lock(&self.anonymous);
        let count = anonymous.entry(refusal_name(reason)).or_default();
        *count += 1;
        let is_first = *count == 1;
        drop(anonymous);
        let (account, computer, source) = (event.account, event.computer, event.address);
        let reason = reason.text();
        match is_first {
            true => tracing::info!(account, computer, %source, reason, "Secure channel rejected"),
            false => {
                tracing::debug!(target: "audit", account, computer, %source, reason, "Secure channel rejected");
            }
        }
    }

    fn write_decision(
        &self,
        answer: &Answer,
        question: &Question,
        source: &dyn Display,
        name: Option<&str>,
    ) -> Result<(), Reason> {
        let is_new = |thumbprint: &[u8; 20]| {
            self.certificates.load(Ordering::Relaxed) && lock(&self.written).is_new(thumbprint)
        };
        let (mut event, certificate) = decision::event(answer, question, source, is_new);
        if let (Some(name), Value::Object(fields)) = (name, &mut event) {
            fields.insert("decision".to_owned(), name.into());
        }
        let asker = &question.asker;
        let is_in_file = self.write(Some((&asker.account, asker.sid)), &event)?;
        // A certificate whose line could not be written is written with the next decision about it.
        if let (true, Some(thumbprint)) = (is_in_file, certificate) {
            lock(&self.written).insert(thumbprint);
        }
        Ok(())
    }

    /// Writes down which account another service found for a certificate, for a sidecar.
    /// `is_denied_elsewhere` if that service answered that there is none.
    pub fn identified(
        &self,
        decision: &str,
        (reason, is_denied_elsewhere): (&'static str, bool),
        account: Option<&(Sid, String)>,
        certificate: (&[u8], IdentifiedBy),
        source: &str,
    ) -> Result<(), AuditUnavailable> {
        // No asker is named so.
        if is_denied_elsewhere && lock(&self.refused).insert((String::new(), reason)) {
            let thumbprint = decision::thumbprint_of(certificate.0);
            tracing::info!(reason, thumbprint, source, decision, "Another service mapped no account");
        }
        match self.is_written() {
            true => {
                let event = decision::identified(decision, reason, account, certificate, source);
                self.write(None, &event).map(drop).map_err(|_| AuditUnavailable)
            }
            false => Ok(()),
        }
    }

    /// Writes down that a package's call was relayed, or why it was not.
    pub fn relayed(&self, relayed: &Relayed<'_>) -> Result<(), AuditUnavailable> {
        let outcome = relayed.withheld.unwrap_or("relayed");
        if !self.is_written() {
            return Ok(());
        }
        let event = json!({
            "event": "relay",
            "package": relayed.package,
            "asker": relayed.account,
            "asker_sid": relayed.account_sid.to_string(),
            "source": relayed.source.to_string(),
            "status": format!("0x{:08x}", relayed.status.0),
            "outcome": outcome,
        });
        let asker = Some((relayed.account, relayed.account_sid));
        self.write(asker, &event).map(drop).map_err(|_| AuditUnavailable)
    }

    /// Writes down a decision that the shadow policy made in another way.
    pub fn divergence(
        &self,
        question: &Question,
        live: &DecisionSummary,
        shadow: &DecisionSummary,
        policy_revision: u64,
    ) {
        let event = decision::shadow_event(
            question,
            (live.reason, live.account.as_deref()),
            (shadow.reason, shadow.account.as_deref()),
            policy_revision,
        );
        let _ = self.write(Some((&question.asker.account, question.asker.sid)), &event);
    }

    /// Writes a line that an account caused, and says whether it is in a file now. Lines of no account are
    /// once a minute at most, or this process's own.
    fn write(&self, account: Option<(&str, Sid)>, event: &Value) -> Result<bool, Reason> {
        self.write_and(account, event, |_| ()).map(|written| written.is_some())
    }

    /// As [`Self::write`], and asks the writer for something before another line is written or another file
    /// is opened.
    fn write_and<T>(
        &self,
        account: Option<(&str, Sid)>,
        event: &Value,
        then: impl FnOnce(&Writer) -> T,
    ) -> Result<Option<T>, Reason> {
        if !self.has_file.load(Ordering::Relaxed) {
            tracing::debug!(target: "audit", %event, "Audit");
            self.copies.send(event);
            return Ok(None);
        }
        if self.required
            && (self.heads_failing.load(Ordering::Relaxed) || self.is_lost.load(Ordering::Relaxed))
        {
            return Err(Reason::AuditUnavailable);
        }
        let line = writer::start_line(event);
        let len = line.len();
        let spending = self.budget.as_ref().zip(account);
        if let Some((budget, (account, sid))) = spending
            && !lock(budget).spend(&sid, len, Instant::now(), || self.free_bytes())
        {
            self.note_over_limit(account, sid, Reason::AuditBudget);
            self.over_budget.inc();
            return Err(Reason::AuditBudget);
        }
        let written = lock(&self.file).as_mut().map(|file| file.write(line).map(|()| then(file))).transpose();
        // A copy may be there where the file could not be written.
        self.copies.send(event);
        match written {
            Ok(then) => Ok(then),
            Err(error) => {
                if let Some((budget, (_, sid))) = spending {
                    lock(budget).give_back(&sid, len);
                }
                if self.failed.inc() == 0 {
                    tracing::error!(%error, "The audit log cannot be written");
                }
                if self.required { Err(Reason::AuditUnavailable) } else { Ok(None) }
            }
        }
    }

    /// Writes a line that an account caused and waits until it is on the disk, whether lines are required or
    /// not: for what must not happen without its line. The error says what to do. Blocks for the disk.
    pub fn record(&self, account: Option<(&str, Sid)>, event: &Value) -> Result<(), String> {
        // No reader would find a line in that file.
        if self.is_lost.load(Ordering::Relaxed) {
            return Err(
                "the audit log file was removed or replaced, and no new file can be created at its path"
                    .to_owned(),
            );
        }
        let (path, handle) =
            match self.write_and(account, event, |file| (file.path().to_owned(), file.handle())) {
                Ok(Some(written)) => written,
                Ok(None) => {
                    return Err(
                        "the audit log has no file, or cannot be written: see its first error in the log"
                            .to_owned(),
                    );
                }
                Err(reason) => return Err(reason.text().to_owned()),
            };
        handle.and_then(|file| file.sync_data()).map_err(|error| {
            if self.failed.inc() == 0 {
                tracing::error!(%error, "The audit log cannot be written to the disk");
            }
            let path = path.display();
            format!("the audit log {path} cannot be written to the disk: {error}: check free space and permissions")
        })
    }

    /// Writes a line about something that happens only with its line, if lines are required.
    pub fn event(&self, account: Option<(&str, Sid)>, event: &Value) -> Result<(), Reason> {
        self.write(account, event).map(drop)
    }

    /// Writes a line about something that was refused, which happens whether there is a line or not.
    pub fn note(&self, account: Option<(&str, Sid)>, event: &Value) {
        let _ = self.write(account, event);
    }

    /// Bytes that are free where the file is; `None` where that is not known.
    fn free_bytes(&self) -> Option<u64> {
        lock(&self.file).as_ref().and_then(Writer::free_bytes)
    }
}

impl Audit for AuditLog {
    fn channel(&self, event: &ChannelEvent<'_>) -> Result<(), AuditUnavailable> {
        let (name, message) = match event.outcome {
            ChannelOutcome::Established => ("channel_established", "Secure channel established"),
            ChannelOutcome::Rotated => ("secret_rotated", "Secret rotated"),
            ChannelOutcome::RotationDenied => ("secret_rotation_denied", "Secret rotation rejected"),
            ChannelOutcome::Refused(reason) => {
                self.channels.refused.get_or_create(&RefusalLabels { reason: refusal_name(reason) }).inc();
                self.note_refused_channel(event, reason);
                return Ok(());
            }
        };
        let line = json!({
            "event": name,
            "account": event.account,
            "account_sid": event.sid.map(|sid| sid.to_string()),
            "computer": event.computer,
            "channel_type": event.channel_type.0,
            "source": event.address.to_string(),
        });
        let account = event.sid.map(|sid| (event.account, sid));
        self.write(account, &line).map_err(|_| AuditUnavailable)?;
        if event.outcome == ChannelOutcome::Established {
            self.channels.established.inc();
        }
        tracing::info!(
            target: "audit", account = event.account, computer = event.computer, source = %event.address,
            "{message}"
        );
        Ok(())
    }

    fn slowed(&self, account: &str, source: IpAddr) {
        self.channels.slowed.inc();
        if lock(&self.refused).insert((account.to_owned(), "slowed")) {
            tracing::warn!(
                account,
                %source,
                "Answers delayed: many wrong secrets of a machine account from this address"
            );
        }
    }
}

/// Logs what was found when a log was opened, and returns how many changes by other programs that is.
fn report_opened(path: &Path, opened: Opened) -> u64 {
    let path = path.display();
    match opened {
        Opened::EndsBeforeHead { last, head } => tracing::error!(
            %path,
            last,
            head,
            "The audit log ends before its newest checkpoint: lines are missing, or in a file that was moved while the \
             service was stopped"
        ),
        Opened::NoCheckpoint { last } => tracing::error!(
            %path,
            last,
            "The audit log has lines and no checkpoint: unless [audit.heads] is new here, the checkpoints were removed"
        ),
        Opened::NewChain { is_emptied: false } => {
            tracing::info!(%path, "A new chain of the audit log starts in a new file");
            return 0;
        }
        // An installer may have made the file, so this is no more than a warning.
        Opened::NewChain { is_emptied: true } => {
            tracing::warn!(%path, "A new chain of the audit log starts: the file is there and has no lines, so it may have been emptied");
            return 0;
        }
    }
    1
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
        ChannelRefusal::RecordOfAnother => "record_of_another",
        ChannelRefusal::SecretsUnavailable => "secrets_unavailable",
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The date of what is written.
fn now() -> FileTime {
    SystemTime::now().into()
}

#[cfg(test)]
mod tests;
