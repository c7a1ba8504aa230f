//! Dry run of another policy: the accounts that would gain or lose access.
//!
//! Certificates come from a folder, from the file of one certificate, or from an audit log that has them. A
//! certificate is decided once by either policy for each set of methods that was asked for, on all
//! processors, however often it occurs.

use account_store::Record;
use anyhow::{Context, bail};
use base64::prelude::{BASE64_STANDARD, Engine};
use rcmp_service::certificate::Certificate;
use rcmp_service::message::{MappingFlags, Request};
use rcmp_service::{Asked, Mapper, Reason};
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;
use trust_tokio::certificates::{Chain, Unusable};

/// A certificate, what was asked about it, and how often.
#[derive(Clone, Debug)]
pub struct Case {
    certificate: Arc<Vec<u8>>,
    /// The encoded names of its issuers, where more than its own are known.
    issuers: Vec<Vec<u8>>,
    flags: MappingFlags,
    thumbprint: [u8; 20],
    /// The name to show, if not its subject.
    label: Option<String>,
    count: u64,
}

impl Case {
    fn request(&self) -> Option<Vec<u8>> {
        let certificate = Certificate::parse(&self.certificate).ok()?;
        let issuers = match self.issuers.is_empty() {
            true => vec![certificate.issuer],
            false => self.issuers.iter().map(Vec::as_slice).collect(),
        };
        Request { flags: self.flags, certificate: &self.certificate, issuers }.encode()
    }

    fn label(&self) -> String {
        let subject = || Some(Certificate::parse(&self.certificate).ok()?.subject_name().ok()?.to_string());
        self.label.clone().unwrap_or_else(|| subject().unwrap_or_default())
    }
}

/// The certificates of a dry run.
#[derive(Debug, Default)]
pub struct Cases {
    /// Each once.
    pub cases: Vec<Case>,
    /// Decisions in the log whose certificate is not in it.
    pub without_certificate: u64,
    /// Files that hold no certificate, with the reason.
    pub unreadable: Vec<String>,
}

/// How both policies compare.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Decisions that the dry run made.
    pub decisions: u64,
    /// Different certificates among them.
    pub certificates: u64,
    /// Decisions whose certificate the log does not have.
    pub without_certificate: u64,
    /// Decisions that stay as they are.
    pub unchanged: u64,
    /// Decisions that turn from refused to mapped.
    pub gained: u64,
    /// Decisions that turn from mapped to refused.
    pub lost: u64,
    /// Decisions that turn to another account.
    pub moved: u64,
    /// Decisions that could not be made.
    pub undecided: u64,
    /// How many decisions go from which reason to which, where they differ.
    pub reasons: BTreeMap<String, u64>,
    /// The certificates that gain, lose or move.
    pub changes: Vec<Change>,
}

/// One certificate with another answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// `gained`, `lost` or `moved`.
    pub change: &'static str,
    /// The certificate: its file, or its subject.
    pub certificate: String,
    /// The account now.
    pub account_now: Option<String>,
    /// The account then.
    pub account_then: Option<String>,
    /// The reason now.
    pub reason_now: &'static str,
    /// The reason then.
    pub reason_then: &'static str,
    /// How many decisions it is.
    pub decisions: u64,
}

/// A line of the audit log, as far as it matters here.
#[derive(Deserialize)]
struct Line<'a> {
    event: &'a str,
    #[serde(rename = "CertThumbprint")]
    thumbprint: Option<&'a str>,
    #[serde(borrow)]
    certificate: Option<std::borrow::Cow<'a, str>>,
    flags: Option<u32>,
}

/// The certificate of a file.
fn case(file: &Path, flags: MappingFlags) -> Result<Case, Unusable> {
    let chain = Chain::read(file, None)?;
    let certificate = Arc::new(chain.certificate().to_vec());
    let issuers = chain.issuers()?.into_iter().map(<[u8]>::to_vec).collect();
    let thumbprint = Sha1::digest(certificate.as_slice()).into();
    let label = Some(file.file_name().unwrap_or_default().to_string_lossy().into_owned());
    Ok(Case { certificate, issuers, flags, thumbprint, label, count: 1 })
}

impl Cases {
    /// How many decisions they are.
    pub fn decisions(&self) -> u64 {
        self.cases.iter().map(|case| case.count).sum()
    }

    /// Reads a folder of certificates, one certificate, or an audit log; tells how far it is.
    pub fn read(path: &Path, flags: MappingFlags, progress: &mut impl FnMut(u64)) -> anyhow::Result<Self> {
        if path.is_dir() {
            return Self::read_folder(path, flags, progress);
        }
        // A line of a log is an object, and no file of a certificate begins like one.
        let mut start = [0];
        let read = File::open(path).and_then(|mut file| file.read(&mut start));
        match read.is_ok_and(|len| len == 1 && start != *b"{").then(|| case(path, flags)) {
            Some(Ok(case)) => Ok(Self { cases: vec![case], ..Self::default() }),
            _ => Self::read_log(path, flags, progress),
        }
    }

    fn read_folder(path: &Path, flags: MappingFlags, progress: &mut impl FnMut(u64)) -> anyhow::Result<Self> {
        let mut cases = Self::default();
        let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut files = Vec::new();
        for entry in entries {
            let file = entry.with_context(|| format!("cannot read {}", path.display()))?.path();
            let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
            if ["pem", "crt", "cer", "der"].contains(&extension.to_ascii_lowercase().as_str()) {
                files.push(file);
            }
        }
        files.sort();
        for (at, file) in files.iter().enumerate() {
            match case(file, flags) {
                Ok(case) => cases.cases.push(case),
                Err(error) => cases.unreadable.push(error.to_string()),
            }
            progress(at as u64 + 1);
        }
        if cases.cases.is_empty() {
            bail!("{} has no certificates (.pem, .crt, .cer or .der)", path.display());
        }
        Ok(cases)
    }

    fn read_log(path: &Path, flags: MappingFlags, progress: &mut impl FnMut(u64)) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        // By thumbprint: where its certificate is, and how often which methods were asked for.
        let mut known: HashMap<[u8; 20], Arc<Vec<u8>>> = HashMap::new();
        let mut asked: HashMap<([u8; 20], u32), u64> = HashMap::new();
        let (mut line, mut number, mut decisions) = (Vec::new(), 0u64, 0u64);
        loop {
            line.clear();
            if reader
                .read_until(b'\n', &mut line)
                .with_context(|| format!("cannot read {}", path.display()))?
                == 0
            {
                break;
            }
            number += 1;
            progress(number);
            // What is no line of ours, such as one that a crash cut off, was no decision either.
            let Ok(entry) = serde_json::from_slice::<Line<'_>>(&line) else { continue };
            if entry.event != "map" {
                continue;
            }
            let Some(thumbprint) = entry.thumbprint.and_then(thumbprint) else { continue };
            decisions += 1;
            if let Some(certificate) = &entry.certificate
                && let Ok(certificate) = BASE64_STANDARD.decode(certificate.as_bytes())
                && <[u8; 20]>::from(Sha1::digest(&certificate)) == thumbprint
            {
                known.insert(thumbprint, Arc::new(certificate));
            }
            *asked.entry((thumbprint, entry.flags.unwrap_or(flags.0))).or_default() += 1;
        }
        if decisions == 0 {
            bail!("{} has no decisions about certificates in it", path.display());
        }
        let mut cases = Self::default();
        for ((thumbprint, flags), count) in asked {
            let flags = MappingFlags(flags);
            match known.get(&thumbprint).map(Arc::clone) {
                Some(certificate) => {
                    let (issuers, label) = (Vec::new(), None);
                    cases.cases.push(Case { certificate, issuers, flags, thumbprint, label, count });
                }
                None => cases.without_certificate += count,
            }
        }
        if cases.cases.is_empty() {
            bail!("{} has no certificates in it: set audit.certificates = true", path.display());
        }
        Ok(cases)
    }
}

fn thumbprint(hex: &str) -> Option<[u8; 20]> {
    let mut bytes = [0; 20];
    dtyp::read_hex(hex.as_bytes(), &mut bytes)?;
    Some(bytes)
}

/// Decides every case by both policies, on all processors; `progress` is told how many decisions are done.
pub async fn run(
    cases: Cases,
    now_by: Arc<Mapper>,
    then_by: Arc<Mapper>,
    progress: impl Fn(u64) + Send + Sync + 'static,
) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome {
        without_certificate: cases.without_certificate,
        certificates: cases.cases.iter().map(|case| case.thumbprint).collect::<HashSet<_>>().len() as u64,
        ..Outcome::default()
    };
    let cases = Arc::new(cases.cases);
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let progress = Arc::new(progress);
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
        let (cases, next, progress) = (Arc::clone(&cases), Arc::clone(&next), Arc::clone(&progress));
        let (now_by, then_by) = (Arc::clone(&now_by), Arc::clone(&then_by));
        workers.spawn(async move {
            let mut part = Outcome::default();
            loop {
                let start = next.fetch_add(BATCH, std::sync::atomic::Ordering::Relaxed);
                let Some(batch) = cases.get(start..).map(|rest| &rest[..rest.len().min(BATCH)]) else {
                    break;
                };
                if batch.is_empty() {
                    break;
                }
                let mut done = 0;
                for case in batch {
                    done += case.count;
                    let asked = case.request().and_then(|request| Asked::read(&request.into()).ok());
                    let Some(asked) = asked else {
                        part.decisions += case.count;
                        part.undecided += case.count;
                        continue;
                    };
                    let live = now_by.rehearse(&asked, SystemTime::now().into()).await;
                    let other = then_by.rehearse(&asked, SystemTime::now().into()).await;
                    part.compare(case, &live, &other);
                }
                progress(done);
                // Others of this process want to go on, too.
                tokio::task::yield_now().await;
            }
            part
        });
    }
    while let Some(part) = workers.join_next().await {
        outcome.add(part?);
    }
    outcome.changes.sort();
    // What was asked by several sets of methods with the same outcome is one change.
    outcome.changes.dedup_by(|later, earlier| {
        let same = Change { decisions: earlier.decisions, ..later.clone() } == *earlier;
        if same {
            earlier.decisions += later.decisions;
        }
        same
    });
    Ok(outcome)
}

/// Cases that a worker takes at once.
const BATCH: usize = 64;

impl Outcome {
    fn compare(&mut self, case: &Case, live: &Decided, other: &Decided) {
        self.decisions += case.count;
        let account = |decided: &Decided| {
            decided.as_ref().ok().map(|record| (record.account.sid, record.account.name.clone()))
        };
        let (reason_now, reason_then) = (reason(live), reason(other));
        if reason_now != reason_then {
            let change = format!("{reason_now} -> {reason_then}");
            *self.reasons.entry(change).or_default() += case.count;
        }
        let (now, then) = (account(live), account(other));
        let (change, counter) = match (&now, &then) {
            _ if [live, other]
                .iter()
                .any(|decided| decided.as_ref().is_err_and(|reason| reason.is_undecided())) =>
            {
                self.undecided += case.count;
                return;
            }
            (None, Some(_)) => ("gained", &mut self.gained),
            (Some(_), None) => ("lost", &mut self.lost),
            (Some((now, _)), Some((then, _))) if now != then => ("moved", &mut self.moved),
            _ => {
                self.unchanged += case.count;
                return;
            }
        };
        *counter += case.count;
        self.changes.push(Change {
            change,
            certificate: case.label(),
            account_now: now.map(|(_, name)| name),
            account_then: then.map(|(_, name)| name),
            reason_now,
            reason_then,
            decisions: case.count,
        });
    }

    fn add(&mut self, part: Self) {
        self.decisions += part.decisions;
        self.unchanged += part.unchanged;
        self.gained += part.gained;
        self.lost += part.lost;
        self.moved += part.moved;
        self.undecided += part.undecided;
        for (change, count) in part.reasons {
            *self.reasons.entry(change).or_default() += count;
        }
        self.changes.extend(part.changes);
    }
}

/// What a policy decides.
type Decided = Result<Arc<Record>, Reason>;

/// The reason by name. A chain is refused for many reasons; here they matter.
fn reason(decided: &Decided) -> &'static str {
    match decided {
        Ok(_) => "mapped",
        Err(Reason::Chain(error)) => error.name(),
        Err(reason) => reason.name(),
    }
}
