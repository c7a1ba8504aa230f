//! Metrics of the master secret server.

use super::LiveSecrets;
use dcerpc_tokio::encode_family;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use rpc_auth::kerberos::ReplayCache;
use rpc_auth_tokio::AuthCounters;
use sso_service::Answer;
use std::fmt;
use std::sync::Arc;

/// The counters.
#[derive(Clone, Debug, Default)]
pub struct SsoMetrics {
    calls: Family<CallLabels, Counter>,
    pub(super) authentications: AuthCounters,
    trailing: Counter,
    operations: Family<OperationLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    result: &'static str,
}

impl SsoMetrics {
    /// Counts what an operator asked for: `done`, `failed` or `refused`.
    pub(super) fn count_operation(&self, result: &'static str) {
        self.operations.get_or_create(&OperationLabels { result }).inc();
    }

    /// Counts a call.
    pub(super) fn count(&self, answer: &Answer) {
        let code = match answer.outcome.code() {
            Some(code) => code.name().unwrap_or("other"),
            None => "fault",
        };
        self.calls.get_or_create(&CallLabels { code }).inc();
        self.trailing.inc_by(answer.trailing as u64);
    }

    pub(super) fn register(&self, registry: &mut Registry, secrets: &Arc<LiveSecrets>) {
        // Deliveries and the usual refusal are there from the start, so that their rate is known.
        for code in ["ERROR_SUCCESS", "SSO_E_ACCESSDENIED"] {
            drop(self.calls.get_or_create(&CallLabels { code }));
        }
        registry.register(
            "sso_calls",
            "Calls of RemoteGetMasterSecret by return code; `fault` where the runtime answered",
            self.calls.clone(),
        );
        self.authentications.register(registry);
        registry.register(
            "sso_trailing_octets",
            "Octets behind the parameters of calls, which are ignored",
            self.trailing.clone(),
        );
        for result in ["done", "failed", "refused"] {
            drop(self.operations.get_or_create(&OperationLabels { result }));
        }
        registry.register(
            "sso_operations",
            "Operations that local users asked for at the operators' socket, by result",
            self.operations.clone(),
        );
        registry.register_collector(Box::new(SecretCollector(Arc::clone(secrets))));
    }
}

/// Registers what the replay cache of Kerberos holds and lost.
pub(super) fn register_replay_cache(registry: &mut Registry, cache: &Arc<ReplayCache>) {
    registry.register_collector(Box::new(ReplayCollector(Arc::clone(cache))));
}

#[derive(Debug)]
struct ReplayCollector(Arc<ReplayCache>);

impl Collector for ReplayCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let entries = i64::try_from(self.0.len()).unwrap_or(i64::MAX);
        encode_family(
            &mut encoder,
            ("sso_replay_cache_entries", "Kerberos authenticators that may not come again", None),
            [(dcerpc_tokio::NO_LABELS, ConstGauge::new(entries))],
        )?;
        encode_family(
            &mut encoder,
            (
                "sso_replay_cache_evictions",
                "Kerberos authenticators that the full replay cache evicted before they expired",
                None,
            ),
            [(dcerpc_tokio::NO_LABELS, ConstCounter::new(self.0.evictions()))],
        )
    }
}

/// Facts of the secret: none of them is secret.
#[derive(Debug)]
struct SecretCollector(Arc<LiveSecrets>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

impl Collector for SecretCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let facts = self.0.facts();
        let states = ["none", "sealed", "open"]
            .map(|state| (StateLabels { state }, ConstGauge::new(u32::from(state == facts.state))));
        encode_family(
            &mut encoder,
            ("sso_secret_state", "1 for the state of the master secret", None),
            states,
        )?;
        let none = dcerpc_tokio::NO_LABELS;
        for (name, help, unit, value) in [
            (
                "sso_secret_generation",
                "Newest generation of the master secret; 0 if there is none",
                None,
                facts.generation,
            ),
            (
                "sso_secret_created_timestamp",
                "When the newest generation was made; 0 if there is none",
                Some(Unit::Seconds),
                facts.created,
            ),
            (
                "sso_backup_timestamp",
                "When the last backup was written; 0 if there never was one",
                Some(Unit::Seconds),
                facts.last_backup,
            ),
            (
                "sso_backup_is_current",
                "1 if the last backup has the newest generation",
                None,
                u64::from(facts.backup_is_current),
            ),
            (
                "sso_drill_timestamp",
                "When the last drill passed; 0 if none ever did",
                Some(Unit::Seconds),
                facts.last_drill,
            ),
            (
                "sso_secret_is_copy",
                "1 if the data folder is a copy, in which no rotation is allowed",
                None,
                u64::from(facts.is_copy),
            ),
            (
                "sso_secret_is_rolled_back",
                "1 if the sealed file is older than one that was there before",
                None,
                u64::from(facts.is_rolled_back),
            ),
        ] {
            encode_family(
                &mut encoder,
                (name, help, unit),
                [(none, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)))],
            )?;
        }
        Ok(())
    }
}
