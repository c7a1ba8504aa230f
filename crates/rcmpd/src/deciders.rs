//! Who decides at a moment: the live policy, and the one in its shadow. Both are replaced together, by one
//! store to a pointer, so every answer belongs to one configuration.

use crate::clock::now;
use crate::config::{self, Config, Mapping};
use crate::forward::Forwarding;
use crate::handler::Handler;
use crate::stores::Accounts;
use crate::trust::{self, Remote};
use arc_swap::ArcSwap;
use audit_log::{AuditLog, DecisionSummary};
use decision_metrics::recent::{Outcome, Refusal};
use decision_metrics::{DecisionMetrics, outcome};
use dtyp::FileTime;
use rcmp_service::message::MappingFlags;
use rcmp_service::{Answer, MapCertificate, Mapper, Question, Reason, Validation};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt;
use tracing::warn;
use trust_tokio::crls::{CrlSet, InitialFetch};

/// Questions that the shadow works on at once; when it falls behind, those beyond are left out and counted.
const SHADOW_MAX: usize = 256;

/// The live policy, and its shadow.
pub struct Deciders {
    /// The policy whose decisions are answered.
    pub live: Arc<Mapper>,
    /// The same with the way to other domains.
    pub handler: MapCertificate,
    /// The policy of `[mapping.shadow]`, whose decisions are only compared and counted.
    pub shadow: Option<Shadow>,
    /// The accounts of both policies.
    pub accounts: Accounts,
    /// The methods by which the sidecar asks under this policy.
    pub sidecar_methods: MappingFlags,
    /// The way to other domains.
    pub forwarding: Arc<Forwarding>,
    /// Counters of decisions, of all policies of this process.
    pub metrics: DecisionMetrics,
    crls: Option<Arc<CrlSet>>,
    /// Whether CRLs are the only source of revocation, and it is checked.
    needs_crls: bool,
    remote: Remote,
}

/// A policy that decides nothing.
#[derive(Clone, Debug)]
pub struct Shadow {
    mapper: Arc<Mapper>,
    crls: Option<Arc<CrlSet>>,
    working: Arc<Semaphore>,
    metrics: DecisionMetrics,
}

impl Deciders {
    /// Reads what a mapping names, and keeps its CRLs fresh for as long as this lives. CRLs that `before` has
    /// are taken over, with what is known of their age.
    pub async fn load(
        mapping: &Mapping,
        revision: u64,
        accounts: Accounts,
        config: &Config,
        before: Option<&Self>,
    ) -> anyhow::Result<Self> {
        let forwarding = Forwarding::load(config, before.map(|before| &*before.forwarding))?;
        let remote = before.map(|before| before.remote.clone()).unwrap_or_default();
        let metrics = before.map(|before| before.metrics.clone()).unwrap_or_default();
        let known = || before.into_iter().flat_map(Self::all_crls).cloned();
        let load = async |mapping: &Mapping, known: Vec<Arc<CrlSet>>| {
            let of = mapping.clone();
            // Large CRLs take a second, and calls are answered meanwhile.
            let loaded = tokio::task::spawn_blocking(move || trust::load_after(&of, &known, now()));
            let mut loaded = loaded.await??;
            for warning in &loaded.warnings {
                warn!(warning, "CRL is not usable now");
            }
            loaded.policy.revision = revision;
            let mapper = loaded.mapper_asking(&remote, Arc::clone(&accounts.store), config.server.clone())?;
            let (crls, first) = loaded.keep_fresh(mapping, &remote, now).unzip();
            anyhow::Ok((Arc::new(mapper), crls.map(Arc::new), first))
        };
        let (live, crls, first) = load(mapping, known().collect()).await?;
        let mut looks = vec![first];
        let shadow = match &mapping.shadow {
            None => None,
            Some(shadow) => {
                let known = crls.iter().cloned().chain(known()).collect();
                let (mapper, crls, first) = load(shadow, known).await?;
                looks.push(first);
                let working = Arc::new(Semaphore::new(SHADOW_MAX));
                Some(Shadow { mapper, crls, working, metrics: metrics.clone() })
            }
        };
        InitialFetch::wait(looks.into_iter().flatten()).await;
        let sidecar_methods =
            config.sidecar.as_ref().map_or(config::SIDECAR_METHODS, |sidecar| sidecar.methods);
        let forwarding = Arc::new(forwarding);
        let handler = MapCertificate::new(Arc::clone(&live), Some(Arc::clone(&forwarding.forwarder)));
        let needs_crls = mapping.policy.validation == Validation::ChainAndRevocation
            && mapping.authorities.iter().all(|authority| authority.ocsp.is_none());
        Ok(Self {
            live,
            handler,
            crls,
            needs_crls,
            shadow,
            accounts,
            sidecar_methods,
            forwarding,
            metrics,
            remote,
        })
    }

    /// Decides by `handler`, which is [`Deciders::handler`] with the layers of its asker, and writes the
    /// decision to the audit log with where the question came from and the name that the asker gets for it. A
    /// decision that must be written and cannot be is not given: the error is the reason to answer instead.
    /// What was decided and written is compared with the shadow's decision, in the background.
    pub async fn decide_audited(
        &self,
        handler: impl Handler,
        mut question: Question,
        audit: &Arc<AuditLog>,
        source: &(dyn Display + Sync),
        name: Option<&str>,
    ) -> Result<Answer, Reason> {
        question.is_traced = audit.is_written();
        let begun = Instant::now();
        let Ok(answer) = handler.oneshot(question.clone()).await;
        self.metrics.took(outcome(answer.reason), begun.elapsed());
        if matches!(answer.reason, Reason::MissRate | Reason::AuditBudget) {
            audit.over_limit(&question.asker, answer.reason);
            self.metrics.over_limit(answer.reason);
            self.note_refusal(answer.reason, &question, name);
            return Err(answer.reason);
        }
        let audited = audit.decision(&answer, &question, &source, name);
        self.note_refusal(audited.err().unwrap_or(answer.reason), &question, name);
        self.metrics.decided(answer.reason, audited)?;
        if let (Reason::Mapped(method), Some(mapped)) = (answer.reason, &answer.mapped) {
            self.metrics.mapped(method, mapped.strength);
        }
        // A shadow decides about accounts of this domain.
        if let Some(shadow) = self.shadow.as_ref().filter(|_| answer.decided_here) {
            shadow.compare(question, &answer, audit);
        }
        Ok(answer)
    }

    /// Notes an answer without an account for the status page.
    fn note_refusal(&self, reason: Reason, question: &Question, decision: Option<&str>) {
        let outcome = outcome(reason);
        if outcome == Outcome::Mapped {
            return;
        }
        let certificate = question.asked().ok().and_then(|asked| asked.certificate.as_ref().ok());
        self.metrics.refused(Refusal {
            at: now(),
            count: 1,
            reason: reason.name(),
            text: reason.text(),
            is_undecided: outcome == Outcome::Undecided,
            asker: question.asker.account.clone(),
            thumbprint: certificate.map(|certificate| dtyp::hex(certificate.get().sha1())),
            decision: decision.map(str::to_owned),
        });
    }

    /// The CRLs of the live policy; `None` if it validates no chains.
    pub const fn crls(&self) -> Option<&Arc<CrlSet>> {
        self.crls.as_ref()
    }

    /// Whether no certificate can be decided, because revocation is known by CRLs alone and none is valid.
    pub fn lacks_crls(&self, now: FileTime) -> bool {
        let has_valid =
            |crls: &CrlSet| crls.facts().any(|(_, facts)| facts.is_some_and(|it| it.is_current(now)));
        self.needs_crls && !self.crls.as_deref().is_some_and(has_valid)
    }

    /// The OCSP responders and the downloads of CRLs, for all policies of this process.
    pub const fn remote(&self) -> &Remote {
        &self.remote
    }

    fn all_crls(&self) -> impl Iterator<Item = &Arc<CrlSet>> {
        self.crls.iter().chain(self.shadow.iter().flat_map(|shadow| &shadow.crls))
    }
}

impl Shadow {
    /// Decides a question once more, in the background, and writes down where the answer would have been
    /// another one.
    fn compare(&self, mut question: Question, live: &Answer, audit: &Arc<AuditLog>) {
        let permit: OwnedSemaphorePermit = match Arc::clone(&self.working).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => return self.metrics.shadow_left_out(),
        };
        let (mapper, audit, metrics) = (Arc::clone(&self.mapper), Arc::clone(audit), self.metrics.clone());
        let (live, revision) = (DecisionSummary::from(live), live.policy_revision);
        question.is_traced = false;
        tokio::spawn(async move {
            let answer = mapper.answer(&question).await;
            let shadow = DecisionSummary::from(&answer);
            // How an account was found is no difference; whether, and which, is.
            match live.sid == shadow.sid {
                true => metrics.shadow_same(),
                false => {
                    // The line is there before it is counted.
                    audit.divergence(&question, &live, &shadow, revision);
                    metrics.shadow_diverged(live.reason, shadow.reason);
                }
            }
            drop(permit);
        });
    }
}

/// The deciders of the newest configuration.
#[derive(Clone)]
pub struct CurrentPolicy(pub Arc<ArcSwap<Deciders>>);
