//! The certificates and revocation lists that a configuration names: read, believed, kept fresh.

use crate::certificates;
use crate::config::{CrlSource, Mapping};
use crate::fetch::{self, HttpResponder};
use account_store::AccountStore;
use anyhow::{Context, bail};
use dtyp::FileTime;
use rcmp_service::certificate::Certificate;
use rcmp_service::trust::crl::CRL_LEN_MAX;
use rcmp_service::trust::{CrlError, CrlFacts, KeyId, OcspResponder, Parts, Trust};
use rcmp_service::{Mapper, MapperParts, OcspTransport, Policy, Validation};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::SystemTime;
use tracing::{info, warn};

/// A policy with all that it needs.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The policy.
    pub policy: Policy,
    /// What chains are verified by, where they are.
    pub trust: Option<Arc<Trust>>,
    /// Lists that are behind a URL, and have not been fetched yet.
    remote: Vec<(usize, String)>,
    has_responders: bool,
}

impl Loaded {
    /// A mapper by this policy.
    pub fn mapper(&self, store: Arc<dyn AccountStore>, server: String) -> anyhow::Result<Mapper> {
        let responder =
            self.has_responders.then(|| Arc::new(HttpResponder::default()) as Arc<dyn OcspTransport>);
        let (policy, trust) = (self.policy.clone(), self.trust.clone());
        Ok(Mapper::new(MapperParts { policy, trust, responder, store, server })?)
    }

    /// Fetches the lists that are behind URLs, once. One that cannot be had leaves its certificates undecided, and is asked for
    /// again.
    pub async fn fetch(&self, now: fn() -> FileTime) {
        let Some(trust) = &self.trust else { return };
        for (slot, url) in &self.remote {
            fetch_one(trust, *slot, url, now).await;
        }
    }
}

/// Reads everything that a mapping names. What is missing or cannot be used is an error: nothing else takes its place.
pub fn load(mapping: &Mapping, now: FileTime) -> anyhow::Result<Loaded> {
    let mut policy = mapping.policy.clone();
    if policy.validation == Validation::Off {
        return Ok(Loaded { policy, trust: None, remote: Vec::new(), has_responders: false });
    }
    let files = &mapping.trust;
    let mut parts = Parts {
        anchors: read_all(&files.anchors, "mapping.anchors")?,
        intermediates: read_all(&files.intermediates, "mapping.intermediates")?,
        extended_key_usages: files.extended_key_usages.clone(),
        require_extended_key_usage: files.require_extended_key_usage,
        revocation: policy.validation == Validation::ChainAndRevocation,
        crls: files.crls.len(),
        ..Parts::default()
    };
    for entry in &mapping.authorities {
        let certificate = read_one(&entry.certificate, "certificate of [[mapping.authority]]")?;
        let key = key_id(&certificate)?;
        // An authority is its key, in whichever of its certificates.
        let mut configured = parts.anchors.iter().chain(&parts.intermediates);
        let Some(authority) = configured.find(|known| key_id(known).is_ok_and(|known| known == key)).cloned()
        else {
            bail!(
                "{} has rules in [[mapping.authority]] and is neither among mapping.anchors nor mapping.intermediates",
                entry.certificate.display()
            );
        };
        if policy.authorities.insert(key, entry.policy.clone()).is_some() {
            bail!("{} is the same authority as another [[mapping.authority]]", entry.certificate.display());
        }
        if let Some(ocsp) = &entry.ocsp {
            let signer = ocsp.signer.as_ref().map(|path| read_one(path, "mapping.authority.ocsp_signer"));
            parts.ocsp.push(OcspResponder { authority, url: ocsp.url.clone(), signer: signer.transpose()? });
        }
    }
    let has_responders = parts.revocation && !parts.ocsp.is_empty();
    let trust = Trust::new(parts).context("the certificates of [mapping] cannot be used")?;
    let mut remote = Vec::new();
    for (slot, source) in files.crls.iter().enumerate() {
        match source {
            CrlSource::Url(url) => remote.push((slot, url.clone())),
            CrlSource::File(path) => match install_file(&trust, slot, path, now) {
                // Its certificates stay undecided until a newer list is there, which needs no restart.
                Err(error) if matches!(error.downcast_ref(), Some(CrlError::Expired(_))) => {
                    warn!(
                        error = format!("{error:#}"),
                        "A revocation list is expired: nobody below its authority is mapped"
                    );
                }
                installed => drop(installed?),
            },
        }
    }
    Ok(Loaded { policy, trust: Some(Arc::new(trust)), remote, has_responders })
}

fn key_id(certificate: &[u8]) -> anyhow::Result<KeyId> {
    Ok(KeyId::of(&Certificate::parse(certificate)?))
}

fn read_all(paths: &[std::path::PathBuf], key: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    for path in paths {
        all.extend(certificates::read_file(path).with_context(|| format!("cannot use {key}"))?);
    }
    Ok(all)
}

fn read_one(path: &Path, key: &str) -> anyhow::Result<Vec<u8>> {
    let mut certificates = certificates::read_file(path).with_context(|| format!("cannot use the {key}"))?;
    match certificates.len() {
        1 => Ok(certificates.remove(0)),
        more => bail!("{} has {more} certificates, and one is meant ({key})", path.display()),
    }
}

fn install_file(trust: &Trust, slot: usize, path: &Path, now: FileTime) -> anyhow::Result<CrlFacts> {
    let bytes = certificates::read_crl(path)?;
    trust
        .install_crl(slot, &bytes, now)
        .with_context(|| format!("{} cannot be used as a revocation list", path.display()))
}

async fn fetch_one(trust: &Arc<Trust>, slot: usize, url: &str, now: fn() -> FileTime) {
    let fetched = match fetch::get(url, CRL_LEN_MAX).await {
        Ok(bytes) => {
            let trust = Arc::clone(trust);
            // A large list takes a second: not on a thread that answers.
            tokio::task::spawn_blocking(move || {
                trust
                    .install_crl(slot, &certificates::der_of_crl(&bytes), now())
                    .map_err(|error| error.to_string())
            })
            .await
            .unwrap_or_else(|error| Err(error.to_string()))
        }
        Err(error) => Err(error),
    };
    match fetched {
        Ok(facts) => {
            info!(url, entries = facts.entries, next_update = %facts.next_update, "Took a revocation list")
        }
        Err(error) => warn!(url, error, "A revocation list could not be fetched"),
    }
}

/// Looks after the lists for as long as somebody decides by them.
pub fn keep_fresh(loaded: &Loaded, mapping: &Mapping, now: fn() -> FileTime) {
    let Some(trust) = &loaded.trust else { return };
    if mapping.trust.crls.is_empty() {
        return;
    }
    let (trust, sources) = (Arc::downgrade(trust), mapping.trust.crls.clone());
    let every = mapping.trust.crl_refresh;
    tokio::spawn(async move {
        let mut seen: Vec<_> = sources.iter().map(modified).collect();
        loop {
            tokio::time::sleep(every).await;
            for (at, source) in sources.iter().enumerate() {
                let Some(trust) = Weak::upgrade(&trust) else { return };
                match source {
                    CrlSource::Url(url) => fetch_one(&trust, at, url, now).await,
                    CrlSource::File(path) => {
                        let changed = modified(source);
                        if changed == seen[at] {
                            continue;
                        }
                        seen[at] = changed;
                        let (path, shown) = (path.clone(), path.display().to_string());
                        let installed =
                            tokio::task::spawn_blocking(move || install_file(&trust, at, &path, now())).await;
                        match installed {
                            Ok(Ok(facts)) => info!(
                                path = shown, entries = facts.entries, next_update = %facts.next_update,
                                "Took a revocation list"
                            ),
                            Ok(Err(error)) => {
                                warn!(
                                    path = shown,
                                    error = format!("{error:#}"),
                                    "A revocation list is not taken"
                                );
                            }
                            Err(error) => warn!(path = shown, %error, "A revocation list is not taken"),
                        }
                    }
                }
            }
        }
    });
}

/// When a file was changed, and how long it is.
fn modified(source: &CrlSource) -> Option<(SystemTime, u64)> {
    let CrlSource::File(path) = source else { return None };
    let metadata = path.metadata().ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
