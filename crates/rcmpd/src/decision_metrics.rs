//! Counters of decisions, by what decides.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rcmp_service::Reason;

/// Counters of decisions. Clones share them, so they count on after a reload.
#[derive(Clone, Debug, Default)]
pub struct DecisionMetrics {
    decisions: Family<ReasonLabels, Counter>,
    askers_refused: Family<ReasonLabels, Counter>,
    shadow_decisions: Family<ShadowLabels, Counter>,
    shadow_divergences: Family<DivergenceLabels, Counter>,
    relays: Family<RelayLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    /// The name of a [`Reason`], or of a refusal of the sidecar.
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShadowLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DivergenceLabels {
    live: &'static str,
    shadow: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RelayLabels {
    /// Packages are configured, so there are few.
    package: String,
    outcome: &'static str,
}

const SHADOW_SAME: ShadowLabels = ShadowLabels { outcome: "same" };
const SHADOW_LEFT_OUT: ShadowLabels = ShadowLabels { outcome: "left_out" };
const RELAYED: &str = "relayed";

impl DecisionMetrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        // A rate is right from the first event on only if the sample is there before.
        for reason in [Reason::MissRate, Reason::AuditBudget] {
            drop(self.askers_refused.get_or_create(&ReasonLabels { reason: reason.name() }));
        }
        for labels in [SHADOW_SAME, SHADOW_LEFT_OUT] {
            drop(self.shadow_decisions.get_or_create(&labels));
        }
        registry.register("decisions", "Answers to questions, by the reason", self.decisions.clone());
        registry.register(
            "askers_refused",
            "Questions and channels rejected because a machine account was over a limit, by the limit",
            self.askers_refused.clone(),
        );
        registry.register(
            "shadow_decisions",
            "Decisions of the shadow policy: the same as that of the live policy, or left out for lack of time",
            self.shadow_decisions.clone(),
        );
        registry.register(
            "shadow_divergences",
            "Decisions of the shadow policy that differ from that of the live policy, by the reasons of both",
            self.shadow_divergences.clone(),
        );
        registry.register(
            "relays",
            "Calls of packages that are relayed to domain controllers, by package and outcome",
            self.relays.clone(),
        );
    }

    /// Counts an answer with its reason, or with the reason that took its place because it could not be
    /// audited.
    pub fn decided(&self, answer: Reason, audited: Result<(), Reason>) -> Result<(), Reason> {
        self.identified(audited.err().unwrap_or(answer).name());
        audited
    }

    /// Counts what another service answered to the sidecar. The reason is `mapped`, or the name of a refusal.
    pub fn identified(&self, reason: &'static str) {
        self.decisions.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Counts a question that is rejected, undecided, because its asker is over a limit.
    pub fn over_limit(&self, reason: Reason) {
        self.identified(reason.name());
        self.askers_refused.get_or_create(&ReasonLabels { reason: reason.name() }).inc();
    }

    /// The counter of what is rejected because an account is over its budget of the audit log.
    pub fn over_audit_budget(&self) -> Counter {
        self.askers_refused.get_or_create(&ReasonLabels { reason: Reason::AuditBudget.name() }).clone()
    }

    /// Counts a decision that the shadow made, too: the same one if the account is the same.
    pub fn shadow_same(&self) {
        self.shadow_decisions.get_or_create(&SHADOW_SAME).inc();
    }

    /// Counts a decision that the shadow did not make, because too many were waiting.
    pub fn shadow_left_out(&self) {
        self.shadow_decisions.get_or_create(&SHADOW_LEFT_OUT).inc();
    }

    /// Counts a decision that the shadow made in another way.
    pub fn shadow_diverged(&self, live: Reason, shadow: Reason) {
        let labels = DivergenceLabels { live: live.name(), shadow: shadow.name() };
        self.shadow_divergences.get_or_create(&labels).inc();
    }

    /// Lets the outcomes of a package be exported before its first call.
    pub fn expect_relays(&self, package: &str, withheld: impl IntoIterator<Item = &'static str>) {
        for outcome in withheld.into_iter().chain([RELAYED]) {
            drop(self.relays.get_or_create(&RelayLabels { package: package.to_owned(), outcome }));
        }
    }

    /// Counts a call of a package: relayed, or the name of why not.
    pub fn relayed(&self, package: &str, withheld: Option<&'static str>) {
        let labels = RelayLabels { package: package.to_owned(), outcome: withheld.unwrap_or(RELAYED) };
        self.relays.get_or_create(&labels).inc();
    }
}
