//! Certificates of clients, mapped to accounts like everywhere else.

use crate::clock::{now, uptime};
use crate::config::Config;
use crate::deciders::CurrentPolicy;
use audit_log::AuditLog;
use bytes::Bytes;
use quick_cache::sync::Cache;
use sidecar::dialect::ClientCertificate;
use sidecar::{DecisionInputs, Identify, Identity, Refusal, Undecided};
use std::sync::Arc;
use std::time::Duration;

/// Decisions about so many certificates are kept. A client has no more certificates than its CA gives it.
const DECISIONS_MAX: usize = 10_000;
/// How long a decision counts, if nothing changes of which it was made: until then a client causes no other
/// line of the audit log with the same certificate, however often it shows it.
const DECIDED: Duration = Duration::from_secs(60);
/// The same if it could not be decided.
const UNDECIDED: Duration = Duration::from_secs(5);

/// Certificates of clients, mapped to accounts.
#[derive(Clone)]
pub(super) struct MappedCertificates {
    identify: Option<Arc<dyn Identify>>,
    decisions: Arc<Cache<Key, Decision>>,
}

/// SHA-256 of a certificate, and of what it was decided. What a client sends with its certificate is no part
/// of it: the path is validated here.
type Key = ([u8; 32], DecisionInputs);

#[derive(Clone)]
struct Decision {
    outcome: Result<Arc<Identity>, Refusal>,
    until: Duration,
}

impl Decision {
    fn counts(&self) -> bool {
        let has_ended = self.outcome.as_ref().is_ok_and(|identity| identity.not_after <= now());
        self.until > uptime() && !has_ended
    }
}

/// Why a certificate has no account.
pub(super) struct NoAccount {
    /// For the log.
    pub(super) why: String,
    /// It could not be decided, so another time it may have one.
    pub(super) is_undecided: bool,
}

impl From<Refusal> for NoAccount {
    fn from(refusal: Refusal) -> Self {
        let is_undecided = matches!(refusal, Refusal::Undecided(_));
        Self { why: refusal.name().to_owned(), is_undecided }
    }
}

impl MappedCertificates {
    pub(super) fn new(config: &Config, policy: Option<&CurrentPolicy>, audit: &Arc<AuditLog>) -> Self {
        let identify = policy.map(|policy| crate::sidecar::embedded("tlsnego", config, policy, audit));
        Self { identify, decisions: Arc::new(Cache::new(DECISIONS_MAX)) }
    }

    /// The account of a certificate now.
    pub(super) async fn account(&self, leaf: Bytes, chain: Vec<Bytes>) -> Result<Arc<Identity>, NoAccount> {
        let no = |why: &str| NoAccount { why: why.to_owned(), is_undecided: false };
        let identify = self.identify.as_ref().ok_or_else(|| no("there is no [mapping]"))?;
        let presented = ClientCertificate::new(leaf, chain)?;
        identify.refresh().await?;
        let inputs = identify.decision_inputs(&presented, now())?;
        // No web server has validated it.
        if inputs.path.is_none() {
            return Err(no("the certificate is not validated ([mapping] validation)"));
        }
        let key = (presented.sha256, inputs);
        self.decisions.remove_if(&key, |known| !known.counts());
        // Messages that come meanwhile wait for the same decision.
        let decision = match self.decisions.get_value_or_guard_async(&key).await {
            Ok(known) => known,
            Err(guard) => {
                let made = decide(&**identify, &presented, &key.1).await;
                // INVARIANT: a place that is held is not removed, so this does not fail.
                let _ = guard.insert(made.clone());
                made
            }
        };
        Ok(decision.outcome?)
    }
}

async fn decide(identify: &dyn Identify, presented: &ClientCertificate, inputs: &DecisionInputs) -> Decision {
    let mut name = [0; 16];
    if getrandom::fill(&mut name).is_err() {
        let outcome = Err(Refusal::Undecided(Undecided::NoRandomness));
        return Decision { outcome, until: Duration::ZERO };
    }
    let outcome = identify.identify(presented, &dtyp::hex(&name), None, now()).await;
    // What changed meanwhile may be part of it, or not.
    let is_of_inputs =
        identify.decision_inputs(presented, now()).is_ok_and(|after| after.is_unbroken_since(inputs));
    let kept = match &outcome {
        _ if !is_of_inputs => Duration::ZERO,
        Err(Refusal::Undecided(_)) => UNDECIDED,
        _ => DECIDED,
    };
    Decision { outcome: outcome.map(Arc::new), until: uptime() + kept }
}
