//! CRLs: read from files or downloaded, kept from the previous configuration, and refreshed.
//!
//! A CRL that cannot be used never replaces one that can. An unchanged file is not parsed again.

use super::certificates;
use super::fetch;
use anyhow::Context;
use dcerpc_tokio::encode_family;
use dtyp::FileTime;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use rcmp_service::trust::crl::CRL_LEN_MAX;
use rcmp_service::trust::{CrlError, CrlFacts, Trust};
use sha2::{Digest, Sha256};
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

/// How soon a CRL is read again while there is no current one.
const RETRY: Duration = Duration::from_secs(10);
/// How long a start or a reload waits for downloads of CRLs. Afterwards it continues, and certificates that
/// need them are undecided.
const START_WAIT: Duration = Duration::from_secs(3);
/// How long before its expiry a CRL should have been replaced. For CRLs with less than four times that
/// lifetime, it is a quarter of the lifetime.
const NEAR_END: Duration = Duration::from_secs(3600);
/// Limit of concurrent downloads, each of which is held in memory.
const FETCHES_MAX: usize = 8;
/// PEM is a third longer than DER.
const FILE_LEN_MAX: u64 = CRL_LEN_MAX as u64 * 3 / 2;

/// Where a CRL is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CrlSource {
    /// A file, DER or PEM.
    File(PathBuf),
    /// An `http://` URL.
    Url(String),
}

impl fmt::Display for CrlSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => f.write_str(url),
        }
    }
}

/// Downloads CRLs, for all configurations of a process.
#[derive(Debug)]
pub struct Fetcher {
    fetches: Semaphore,
    failures: Counter,
}

impl Default for Fetcher {
    fn default() -> Self {
        Self { fetches: Semaphore::new(FETCHES_MAX), failures: Counter::default() }
    }
}

impl Fetcher {
    /// Registers the metrics of refreshes.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "crl_refresh_failures",
            "CRL refreshes that failed: download or validation",
            self.failures.clone(),
        );
    }
}

/// A configured CRL.
#[derive(Debug)]
pub struct ConfiguredCrl {
    source: CrlSource,
    slot: usize,
    seen: Mutex<Seen>,
}

/// The last read.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// The file at the last read, whether it was usable or not.
    stamp: Option<Stamp>,
    /// Whether it was not usable.
    refused: bool,
    /// SHA-256 of the loaded CRL.
    taken: Option<[u8; 32]>,
}

/// Inode, length and ctime of a file. Programs cannot set the ctime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    len: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let file = path.metadata().ok()?;
        Some(Self { inode: file.ino(), len: file.len(), changed: (file.ctime(), file.ctime_nsec()) })
    }
}

impl ConfiguredCrl {
    /// The CRL of a slot in [`Trust`], which is not read yet.
    pub fn new(slot: usize, source: CrlSource) -> Self {
        Self { source, slot, seen: Mutex::default() }
    }

    /// Its name in the configuration, with its facts if it is loaded.
    pub fn facts(&self, trust: &Trust) -> (String, Option<CrlFacts>) {
        (self.source.to_string(), trust.crl_facts(self.slot))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads the CRL for the first time: from the previous configuration, if it has it, and from its file. A
    /// CRL with a URL is downloaded later. A problem that may go away by itself is returned as a warning.
    pub fn begin(
        &self,
        trust: &Trust,
        before: &[Arc<CrlSet>],
        now: FileTime,
    ) -> anyhow::Result<Option<String>> {
        let kept = before.iter().any(|before| self.adopt(trust, before));
        if kept && let Some(facts) = trust.crl_facts(self.slot) {
            info!(crl = %self.source, issuer = facts.issuer, entries = facts.entries, "CRL kept from the previous configuration");
        }
        let CrlSource::File(path) = &self.source else { return Ok(None) };
        // A CRL that was rejected is read again, so that a reload reports it.
        if kept && self.is_unchanged(path) && !self.seen().refused {
            return Ok(None);
        }
        match self.read(path, trust, now) {
            Ok(_) => Ok(None),
            Err(error) if kept || is_for_now(&error) => Ok(Some(format!("{error:#}"))),
            Err(error) => Err(error),
        }
    }

    /// Takes over the same CRL from the previous configuration.
    fn adopt(&self, trust: &Trust, before: &CrlSet) -> bool {
        let Some(previous) = before.crls.iter().find(|crl| crl.source == self.source) else { return false };
        // First what is known of the CRL, then the CRL: if another one is installed in between, it is only
        // read once more.
        let seen = *previous.seen();
        let kept = trust.adopt_crl(self.slot, &before.trust, previous.slot);
        if kept {
            *self.seen() = seen;
        }
        kept
    }

    fn is_unchanged(&self, path: &Path) -> bool {
        let stamp = Stamp::of(path);
        stamp.is_some() && stamp == self.seen().stamp
    }

    /// Reads the file. `None` when it is what is there already.
    fn read(&self, path: &Path, trust: &Trust, now: FileTime) -> anyhow::Result<Option<CrlFacts>> {
        // First the stamp, then the bytes: what is changed between is read once more.
        let stamp = Stamp::of(path);
        self.seen().stamp = None;
        let bytes = certificates::read_file_up_to(path, FILE_LEN_MAX)?;
        let result = self
            .install(&bytes, trust, now)
            .with_context(|| format!("{} cannot be used as a CRL", path.display()));
        // A CRL that is not yet valid becomes valid without a change of the file.
        let is_early = |error: &anyhow::Error| {
            matches!(error.downcast_ref::<CrlError>(), Some(CrlError::NotYetValid(_)))
        };
        let mut seen = self.seen();
        seen.refused = result.is_err();
        if !result.as_ref().is_err_and(is_early) {
            seen.stamp = stamp;
        }
        drop(seen);
        result
    }

    fn install(&self, bytes: &[u8], trust: &Trust, now: FileTime) -> anyhow::Result<Option<CrlFacts>> {
        let digest = Sha256::digest(bytes).into();
        if self.seen().taken == Some(digest) {
            debug!(crl = %self.source, "CRL is unchanged");
            return Ok(None);
        }
        let facts = trust.install_crl(self.slot, &certificates::der_of_crl(bytes)?, now)?;
        self.seen().taken = Some(digest);
        info!(
            crl = %self.source, issuer = facts.issuer, number = facts.number.as_deref().unwrap_or("none"),
            entries = facts.entries, this_update = %facts.this_update, next_update = %facts.next_update,
            "CRL loaded"
        );
        Ok(Some(facts))
    }

    /// Reads or downloads the CRL if it has changed.
    async fn look(
        self: &Arc<Self>,
        trust: &Arc<Trust>,
        fetcher: &Fetcher,
        now: fn() -> FileTime,
    ) -> Result<(), String> {
        let (this, trust) = (Arc::clone(self), Arc::clone(trust));
        // A large CRL takes a second: not on a thread that answers.
        let done = match &self.source {
            CrlSource::File(path) if self.is_unchanged(path) => return Ok(()),
            CrlSource::File(path) => {
                let path = path.clone();
                tokio::task::spawn_blocking(move || this.read(&path, &trust, now()).map(drop)).await
            }
            CrlSource::Url(url) => {
                let _permit = fetcher.fetches.acquire().await.map_err(|error| error.to_string())?;
                let bytes = fetch::get(url, CRL_LEN_MAX).await.map_err(|error| error.to_string())?;
                tokio::task::spawn_blocking(move || this.install(&bytes, &trust, now()).map(drop)).await
            }
        };
        let done = done.map_err(|error| error.to_string())?;
        done.map_err(|error| format!("{error:#}"))
    }

    /// Refreshes the CRL forever. `first` is dropped after the first download.
    async fn keep(self: Arc<Self>, care: Care, first: mpsc::Sender<()>) {
        let Care { trust, every, fetcher, now } = care;
        let facts = || trust.crl_facts(self.slot);
        let mut first = Some(first).filter(|_| facts().is_none() && matches!(self.source, CrlSource::Url(_)));
        let mut log = LoggedState::default();
        // A file was read when the configuration was.
        if matches!(self.source, CrlSource::File(_)) {
            log.age(&self.source, facts().as_ref(), now());
            tokio::time::sleep(pause(facts().as_ref(), every, now())).await;
        }
        loop {
            let looked = self.look(&trust, &fetcher, now).await;
            if looked.is_err() {
                fetcher.failures.inc();
            }
            log.result(&self.source, looked, facts().is_some());
            log.age(&self.source, facts().as_ref(), now());
            drop(first.take());
            tokio::time::sleep(pause(facts().as_ref(), every, now())).await;
        }
    }
}

/// Whether an error goes away by itself: when the next CRL is there, or when the clock is right.
fn is_for_now(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(CrlError::Expired(_) | CrlError::NotYetValid(_)))
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// Whether a newer CRL should have replaced this one.
pub fn is_near_end(facts: &CrlFacts, now: FileTime) -> bool {
    now.to_unix() >= near_end(facts)
}

/// When a newer CRL should have replaced this one.
fn near_end(facts: &CrlFacts) -> i64 {
    let (start, end) = (facts.this_update.to_unix(), facts.next_update.to_unix());
    end - seconds(NEAR_END).min(end.saturating_sub(start).max(0) / 4)
}

/// How long until the next look: as configured, or sooner while there is no CRL, and when one becomes old.
fn pause(facts: Option<&CrlFacts>, every: Duration, now: FileTime) -> Duration {
    let Some(facts) = facts.filter(|facts| !facts.is_expired(now)) else { return RETRY.min(every) };
    let now = now.to_unix();
    // A second later it has happened.
    let until = |time: i64| u64::try_from(time - now).ok().map(|seconds| Duration::from_secs(seconds + 1));
    [until(near_end(facts)), until(facts.next_update.to_unix())]
        .into_iter()
        .flatten()
        .fold(every, Duration::min)
}

/// What was logged about a CRL, so that it is logged once.
#[derive(Debug, Default)]
struct LoggedState {
    error: Option<String>,
    near_end: Option<FileTime>,
    expired: Option<FileTime>,
}

impl LoggedState {
    fn result(&mut self, source: &CrlSource, looked: Result<(), String>, is_there: bool) {
        match looked {
            Ok(()) if self.error.take().is_some() => {
                info!(crl = %source, "CRL is available again");
            }
            Ok(()) => {}
            Err(error) if self.error.as_ref() == Some(&error) => {
                debug!(crl = %source, error, "CRL is still unavailable");
            }
            Err(error) => {
                match is_there {
                    true => {
                        warn!(crl = %source, error, "CRL unavailable or rejected: the previous one stays in use")
                    }
                    false => warn!(
                        crl = %source, error,
                        "CRL unavailable or rejected: certificates that need it are undecided"
                    ),
                }
                self.error = Some(error);
            }
        }
    }

    fn age(&mut self, source: &CrlSource, facts: Option<&CrlFacts>, now: FileTime) {
        let Some(facts) = facts else { return };
        let end = Some(facts.next_update);
        if facts.is_expired(now) {
            if self.expired != end {
                self.expired = end;
                warn!(
                    crl = %source, issuer = facts.issuer, next_update = %facts.next_update,
                    "CRL has expired: certificates that need it are undecided until a newer one is loaded"
                );
            }
        } else if is_near_end(facts, now) && self.near_end != end {
            self.near_end = end;
            warn!(
                crl = %source, issuer = facts.issuer, next_update = %facts.next_update,
                "CRL expires soon, and no newer one is available"
            );
        }
    }
}

/// What a CRL is refreshed with.
#[derive(Clone, Debug)]
struct Care {
    trust: Arc<Trust>,
    every: Duration,
    fetcher: Arc<Fetcher>,
    now: fn() -> FileTime,
}

/// The CRLs of a configuration. They are refreshed for as long as this lives.
#[derive(Debug)]
pub struct CrlSet {
    trust: Arc<Trust>,
    crls: Vec<Arc<ConfiguredCrl>>,
    _tasks: JoinSet<()>,
}

/// The first download of CRLs.
#[derive(Debug)]
pub struct InitialFetch(mpsc::Receiver<()>);

impl CrlSet {
    /// Copies the ages of CRLs to a new trust, so that an older CRL is rejected.
    pub fn remember_ages(&self, trust: &Trust) {
        trust.remember_ages(&self.trust);
    }

    /// Refreshes CRLs until the value is dropped. The other value waits for the first download of each.
    pub fn keep(
        trust: Arc<Trust>,
        crls: &[Arc<ConfiguredCrl>],
        every: Duration,
        fetcher: &Arc<Fetcher>,
        now: fn() -> FileTime,
    ) -> (Self, InitialFetch) {
        let mut tasks = JoinSet::new();
        let (first, all) = mpsc::channel(1);
        let care = Care { trust: Arc::clone(&trust), every, fetcher: Arc::clone(fetcher), now };
        for crl in crls {
            tasks.spawn(Arc::clone(crl).keep(care.clone(), first.clone()));
        }
        (Self { trust, crls: crls.to_vec(), _tasks: tasks }, InitialFetch(all))
    }

    /// Each CRL by its name in the configuration, with its facts if it is loaded.
    pub fn facts(&self) -> impl Iterator<Item = (String, Option<CrlFacts>)> {
        self.crls.iter().map(|crl| crl.facts(&self.trust))
    }
}

/// Collects what the CRLs of the live policy say about themselves, at each scrape. The function returns those
/// CRLs.
pub struct CrlCollector<F>(pub F);

impl<F> fmt::Debug for CrlCollector<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CrlCollector")
    }
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct CrlLabels {
    crl: String,
    issuer: String,
}

impl<F: Fn() -> Option<Arc<CrlSet>> + Send + Sync + 'static> Collector for CrlCollector<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let set = (self.0)();
        let crls: Vec<_> = set.iter().flat_map(|set| set.facts()).collect();
        type Value = fn(&CrlFacts) -> i64;
        let families: [(&str, &str, Option<Unit>, Value); 3] = [
            (
                "crl_this_update",
                "Time at which the CRL was made, in seconds of Unix time; 0 while there is none",
                Some(Unit::Seconds),
                |facts| facts.this_update.to_unix(),
            ),
            (
                "crl_next_update",
                "Time at which the CRL expires, in seconds of Unix time; 0 while there is none",
                Some(Unit::Seconds),
                |facts| facts.next_update.to_unix(),
            ),
            ("crl_entries", "Certificates that the CRL revokes", None, |facts| {
                i64::try_from(facts.entries).unwrap_or(i64::MAX)
            }),
        ];
        for (name, help, unit, value) in families {
            let samples = crls.iter().map(|(crl, facts)| {
                let issuer = facts.as_ref().map_or_else(String::new, |facts| facts.issuer.clone());
                let value = facts.as_ref().map_or(0, value);
                (CrlLabels { crl: crl.clone(), issuer }, ConstGauge::new(value))
            });
            encode_family(&mut encoder, (name, help, unit), samples)?;
        }
        Ok(())
    }
}

impl InitialFetch {
    /// Waits for the first download of each, for a limited time.
    pub async fn wait(looks: impl IntoIterator<Item = Self>) {
        let all = async {
            for Self(mut look) in looks {
                while look.recv().await.is_some() {}
            }
        };
        if tokio::time::timeout(START_WAIT, all).await.is_err() {
            debug!("CRL download timed out at start: continuing without it");
        }
    }
}

/// Downloads CRLs once, for a command; returns the failures.
pub async fn fetch_once(
    trust: &Arc<Trust>,
    crls: &[Arc<ConfiguredCrl>],
    now: fn() -> FileTime,
) -> Vec<String> {
    let fetcher = Arc::new(Fetcher::default());
    let mut looks = JoinSet::new();
    for crl in crls.iter().filter(|crl| matches!(crl.source, CrlSource::Url(_))) {
        let (crl, trust, fetcher) = (Arc::clone(crl), Arc::clone(trust), Arc::clone(&fetcher));
        looks.spawn(async move {
            let looked = crl.look(&trust, &fetcher, now).await;
            looked.err().map(|error| format!("{}: {error}", crl.source))
        });
    }
    looks.join_all().await.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcmp_service::trust::KeyId;

    fn facts(this_update: i64, next_update: i64) -> CrlFacts {
        CrlFacts {
            issuer: "CN=CA".to_owned(),
            authority: KeyId([0; 32]),
            number: None,
            this_update: FileTime::from_unix(this_update),
            next_update: FileTime::from_unix(next_update),
            entries: 0,
        }
    }

    #[test]
    fn a_list_is_looked_at_sooner_when_it_becomes_old() {
        let hour = 3600;
        let day = facts(1_000_000, 1_000_000 + 24 * hour);
        assert_eq!(near_end(&day), 1_000_000 + 23 * hour, "an hour before its end");
        let short = facts(1_000_000, 1_000_000 + 2 * hour);
        assert_eq!(near_end(&short), 1_000_000 + 2 * hour - hour / 2, "in its last quarter");
        let every = Duration::from_secs(300);
        for (facts, now, expect) in [
            (Some(&day), 1_000_000, 300),
            // What is about to happen is told a second after it did.
            (Some(&day), 1_000_000 + 23 * hour - 10, 11),
            (Some(&day), 1_000_000 + 23 * hour, 1),
            (Some(&day), 1_000_000 + 24 * hour - 5, 6),
            (Some(&day), 1_000_000 + 24 * hour, 10),
            (None, 1_000_000, 10),
        ] {
            assert_eq!(pause(facts, every, FileTime::from_unix(now)).as_secs(), expect, "{now}");
        }
        assert_eq!(
            pause(None, Duration::from_secs(1), FileTime::from_unix(0)).as_secs(),
            1,
            "never later than configured"
        );
    }
}
