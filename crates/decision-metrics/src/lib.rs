//! Counters of decisions, by what decides, and what the status page shows of the last hour.

pub mod recent;

use crate::recent::{Minute, Outcome, Recent, Refusal, Totals};
use dtyp::FileTime;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};
use rcmp_service::{Form, Method, Reason, Strength};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use trace_context as trace;
use tracing::Span;

/// Counters of decisions. Clones share them, so they count on after a reload.
#[derive(Clone, Debug, Default)]
pub struct DecisionMetrics {
    decisions: Family<ReasonLabels, Counter>,
    mappings: Family<MappingLabels, Counter>,
    askers_refused: Family<ReasonLabels, Counter>,
    shadow_decisions: Family<ShadowLabels, Counter>,
    shadow_divergences: Family<DivergenceLabels, Counter>,
    relays: Family<RelayLabels, Counter>,
    durations: Durations,
    recent: Arc<Recent>,
    /// The reasons that were counted, with what each means. They are literals in the code.
    outcomes: Arc<Mutex<BTreeMap<&'static str, Outcome>>>,
}

/// Bounds of the buckets of durations, in seconds: a decision in memory takes less than a millisecond, one
/// that asks a directory or an OCSP responder some milliseconds, and a peer may take seconds.
const DURATION_BOUNDS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

/// Durations of decisions.
#[derive(Clone, Debug)]
struct Durations(Family<ResultLabels, HistogramWithExemplars<TraceLabels>>);

impl Default for Durations {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| HistogramWithExemplars::new(DURATION_BOUNDS.into_iter())))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    /// The name of an [`Outcome`].
    result: &'static str,
}

/// The exemplar of a duration: a decision of about this duration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TraceLabels {
    trace_id: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    /// The name of a [`Reason`], or of a refusal of the sidecar.
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MappingLabels {
    /// The name of a [`Method`].
    method: &'static str,
    /// `strong` or `weak`.
    strength: &'static str,
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

impl MappingLabels {
    const fn of(method: Method, strength: Strength) -> Self {
        Self { method: method.name(), strength: strength.name() }
    }
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
        for method in Method::ALL {
            // The name is the same for every form.
            for strength in [Strength::Weak, Strength::Strong(Form::Sid)] {
                drop(self.mappings.get_or_create(&MappingLabels::of(method, strength)));
            }
        }
        registry.register(
            "mappings",
            "Certificates that were mapped to an account of this domain, by method and strength",
            self.mappings.clone(),
        );
        for outcome in Outcome::ALL {
            drop(self.durations.0.get_or_create(&ResultLabels { result: outcome.name() }));
        }
        registry.register_with_unit(
            "decision_duration",
            "From a question to its answer, by the result",
            Unit::Seconds,
            self.durations.0.clone(),
        );
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
        let reason = audited.err().unwrap_or(answer);
        self.identified(reason.name(), outcome(reason));
        audited
    }

    /// Counts an account of this domain that was found.
    pub fn mapped(&self, method: Method, strength: Strength) {
        self.mappings.get_or_create(&MappingLabels::of(method, strength)).inc();
    }

    /// Counts what another service answered to the sidecar. The reason is `mapped`, or the name of a refusal.
    pub fn identified(&self, reason: &'static str, outcome: Outcome) {
        let labels = ReasonLabels { reason };
        if let Some(counter) = self.decisions.get(&labels) {
            counter.inc();
            return;
        }
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).insert(reason, outcome);
        self.decisions.get_or_create(&labels).inc();
    }

    /// Notes how long an answer took, with the trace of the call if that is exported.
    pub fn took(&self, result: Outcome, time: Duration) {
        let exemplar = trace::sampled(&Span::current()).map(|id| TraceLabels { trace_id: dtyp::hex(&id) });
        let at = exemplar.is_some().then(SystemTime::now);
        let durations = self.durations.0.get_or_create(&ResultLabels { result: result.name() });
        durations.observe(time.as_secs_f64(), exemplar, at);
    }

    /// Notes a refusal for the status page.
    pub fn refused(&self, refusal: Refusal) {
        self.recent.refused(refusal);
    }

    /// The newest refusals.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.recent.refusals()
    }

    /// Ends a minute of the last hour.
    pub fn end_minute(&self, now: FileTime) {
        self.recent.end_minute(now, self.totals());
    }

    /// The minutes of the last hour.
    pub fn minutes(&self, now: FileTime) -> Vec<Minute> {
        self.recent.minutes(now, self.totals())
    }

    /// What each reason means that was counted.
    pub fn outcomes(&self) -> BTreeMap<&'static str, Outcome> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn totals(&self) -> Totals {
        let total = |reason| self.decisions.get(&ReasonLabels { reason }).map_or(0, |counter| counter.get());
        self.outcomes().into_keys().map(|reason| (reason, total(reason))).collect()
    }

    /// Counts a question that is rejected, undecided, because its asker is over a limit.
    pub fn over_limit(&self, reason: Reason) {
        self.identified(reason.name(), outcome(reason));
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

/// What a decision means for the user.
pub const fn outcome(reason: Reason) -> Outcome {
    match reason {
        Reason::Mapped(_) | Reason::Forwarded => Outcome::Mapped,
        _ if reason.is_undecided() => Outcome::Undecided,
        _ => Outcome::Rejected,
    }
}
