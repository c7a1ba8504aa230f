//! The CA certificates, CRLs and OCSP responders that a configuration names: read from files, fetched, and
//! made into a policy.

use crate::clock::now;
use crate::config::Mapping;
use crate::output;
use account_store::AccountStore;
use anyhow::{Context, bail};
use dtyp::FileTime;
use prometheus_client::registry::Registry;
use rcmp_service::certificate::Certificate;
use rcmp_service::trust::{CrlFacts, KeyId, OcspResponder, Parts, PolicyInputs, Trust};
use rcmp_service::{Mapper, MapperParts, OcspTransport, Policy, Validation};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use trust_tokio::certificates;
use trust_tokio::crls::{self, ConfiguredCrl, CrlSet, Fetcher, InitialFetch};
use trust_tokio::responder::HttpResponder;

/// Clients for CRLs and OCSP, shared by all configurations of a process.
#[derive(Clone, Debug, Default)]
pub struct Remote {
    /// OCSP responders.
    pub responder: Arc<HttpResponder>,
    /// Downloads of CRLs.
    pub fetcher: Arc<Fetcher>,
}

impl Remote {
    /// Registers the metrics of both.
    pub fn register(&self, registry: &mut Registry) {
        self.fetcher.register(registry);
        self.responder.register(registry);
    }
}

/// A policy with all that it needs.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The policy.
    pub policy: Policy,
    /// What chains are validated by, if they are.
    pub trust: Option<Arc<Trust>>,
    /// CRLs that cannot be used now: certificates that need them are not mapped. No restart is needed when
    /// they are replaced.
    pub warnings: Vec<String>,
    crls: Vec<Arc<ConfiguredCrl>>,
    has_responders: bool,
}

impl Loaded {
    /// A mapper by this policy.
    pub fn mapper(&self, store: Arc<dyn AccountStore>, server: String) -> anyhow::Result<Mapper> {
        self.mapper_asking(&Remote::default(), store, server)
    }

    /// A mapper by this policy that asks OCSP responders together with others.
    pub fn mapper_asking(
        &self,
        remote: &Remote,
        store: Arc<dyn AccountStore>,
        server: String,
    ) -> anyhow::Result<Mapper> {
        let responder = self.has_responders.then(|| Arc::clone(&remote.responder) as Arc<dyn OcspTransport>);
        let (policy, trust) = (self.policy.clone(), self.trust.clone());
        Ok(Mapper::new(MapperParts { policy, trust, responder, store, server })?)
    }

    /// Downloads the CRLs with URLs, once. Returns those that are unavailable, with the reason: their
    /// certificates are undecided.
    pub async fn fetch(&self, now: fn() -> FileTime) -> Vec<String> {
        match &self.trust {
            Some(trust) => crls::fetch_once(trust, &self.crls, now).await,
            None => Vec::new(),
        }
    }

    /// What verifies chains; `None` where they are not verified.
    pub const fn trust(&self) -> Option<&Arc<Trust>> {
        self.trust.as_ref()
    }

    /// Each CRL by its name in the configuration, with its facts if it is loaded.
    pub fn crls(&self) -> Vec<(String, Option<CrlFacts>)> {
        let trust = self.trust.iter();
        trust.flat_map(|trust| self.crls.iter().map(move |crl| crl.facts(trust))).collect()
    }

    /// Refreshes the CRLs from now on.
    pub(crate) fn keep_fresh(
        &self,
        mapping: &Mapping,
        remote: &Remote,
        now: fn() -> FileTime,
    ) -> Option<(CrlSet, InitialFetch)> {
        let trust = Arc::clone(self.trust.as_ref()?);
        Some(CrlSet::keep(trust, &self.crls, mapping.trust.crl_refresh, &remote.fetcher, now))
    }
}

/// The mapper of a command: files are read and CRLs downloaded once, and warnings go to standard error.
pub async fn mapper(
    mapping: &Mapping,
    store: Arc<dyn AccountStore>,
    server: String,
) -> anyhow::Result<Mapper> {
    let loaded = load(mapping, now())?;
    for warning in loaded.warnings.iter().chain(&loaded.fetch(now).await) {
        output::warning(warning);
    }
    loaded.mapper(store, server)
}

/// The same for another mapping of the same accounts. If both trust the same, a chain that one has validated
/// is valid for the other.
pub async fn mapper_beside(
    mapping: &Mapping,
    (other, other_mapper): (&Mapping, &Mapper),
    store: Arc<dyn AccountStore>,
    server: String,
) -> anyhow::Result<Mapper> {
    let mut loaded = load(mapping, now())?;
    let rules_of_paths = |mapping: &Mapping| -> Vec<_> {
        let rules = mapping.authorities.iter();
        let rules = rules.map(|it| (it.certificate.clone(), it.ocsp.clone(), it.path_policies.clone()));
        rules.filter(|(_, ocsp, policies)| ocsp.is_some() || *policies != PolicyInputs::default()).collect()
    };
    match other_mapper.trust() {
        Some(trust)
            if loaded.trust.is_some()
                && mapping.trust == other.trust
                && rules_of_paths(mapping) == rules_of_paths(other) =>
        {
            loaded.trust = Some(Arc::clone(trust));
        }
        _ => {
            for warning in loaded.warnings.iter().chain(&loaded.fetch(now).await) {
                output::warning(warning);
            }
        }
    }
    loaded.mapper(store, server)
}

/// Reads everything that a mapping names. A file that is missing or not usable is an error.
pub fn load(mapping: &Mapping, now: FileTime) -> anyhow::Result<Loaded> {
    load_after(mapping, &[], now)
}

/// Reads everything that a mapping names, except CRLs that are loaded already.
pub fn load_after(mapping: &Mapping, before: &[Arc<CrlSet>], now: FileTime) -> anyhow::Result<Loaded> {
    let (draft, mut rules) = (mapping.policy.clone(), HashMap::new());
    if draft.validation == Validation::Off {
        let policy = draft.complete(rules);
        return Ok(Loaded { policy, trust: None, warnings: vec![], crls: vec![], has_responders: false });
    }
    let files = &mapping.trust;
    let mut parts = Parts {
        anchors: read_all(&files.anchors, "mapping.anchors")?,
        intermediates: read_all(&files.intermediates, "mapping.intermediates")?,
        extended_key_usages: files.extended_key_usages.clone(),
        require_extended_key_usage: files.require_extended_key_usage,
        policies: files.policies.clone(),
        rsa_bits_min: files.client_rsa_bits,
        crls: files.crls.len(),
        require_all_crls: files.require_all_crls,
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
                "{} has rules in [[mapping.authority]], but is neither in mapping.anchors nor in mapping.intermediates",
                entry.certificate.display()
            );
        };
        if rules.insert(key, entry.policy.clone()).is_some() {
            bail!("{} is the same CA as another [[mapping.authority]]", entry.certificate.display());
        }
        if entry.path_policies != PolicyInputs::default() {
            parts.authority_policies.insert(key, entry.path_policies.clone());
        }
        if let Some(ocsp) = &entry.ocsp {
            let signer = ocsp.signer.as_ref().map(|path| read_one(path, "mapping.authority.ocsp_signer"));
            let (url, asking) = (ocsp.url.clone(), ocsp.asking);
            parts.ocsp.push(OcspResponder { authority, url, signer: signer.transpose()?, asking });
        }
    }
    let has_responders = !parts.ocsp.is_empty();
    let trust = Trust::new(parts).context("the certificates of [mapping] cannot be used")?;
    before.iter().for_each(|before| before.remember_ages(&trust));
    let closed = trust.authorities().filter_map(|it| Some((it.subject.as_str(), it.closed()?)));
    let mut warnings: Vec<String> =
        closed.map(|(subject, why)| format!("no path leads through the CA {subject}: {why}")).collect();
    let mut crls = Vec::new();
    for (slot, source) in files.crls.iter().enumerate() {
        let crl = ConfiguredCrl::new(slot, source.clone());
        if let Some(warning) = crl.begin(&trust, before, now)? {
            warnings.push(warning);
        }
        crls.push(Arc::new(crl));
    }
    let policy = draft.complete(rules);
    Ok(Loaded { policy, trust: Some(Arc::new(trust)), warnings, crls, has_responders })
}

fn key_id(certificate: &[u8]) -> anyhow::Result<KeyId> {
    Ok(KeyId::of(&Certificate::parse(certificate)?))
}

fn read_all(paths: &[std::path::PathBuf], key: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    for path in paths {
        all.extend(certificates::read_trusted(path).with_context(|| format!("cannot use {key}"))?);
    }
    Ok(all)
}

fn read_one(path: &Path, key: &str) -> anyhow::Result<Vec<u8>> {
    let mut certificates =
        certificates::read_trusted(path).with_context(|| format!("cannot use the {key}"))?;
    match certificates.len() {
        1 => Ok(certificates.remove(0)),
        more => bail!("{} has {more} certificates, but {key} needs one", path.display()),
    }
}
