//! Metrics of the gateway.

use super::cookies::Shared;
use dcerpc_tokio::{NO_LABELS, encode_family};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use tlsnego_service::session::{EndReason, Ended, Session, SessionKind};
use tlsnego_soap::server::Event;
use tlsnego_tokio::gateway::{CallOutcome, Gateway};

/// The counters.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    messages: Family<MessageLabels, Counter>,
    refused: Family<RefusedLabels, Counter>,
    calls: Family<CallLabels, Counter>,
    ended: Family<EndedLabels, Counter>,
    /// Answers that were delayed for guesses.
    pub(super) slowed: Counter,
    /// Passwords of local accounts that were computed.
    pub(super) computed: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MessageLabels {
    result: &'static str,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    reason: &'static str,
    fault: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    kind: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndedLabels {
    reason: &'static str,
}

/// Why a session ended, in one word.
pub(super) const fn why_ended(reason: Option<EndReason>) -> &'static str {
    match reason {
        None => "expired",
        Some(EndReason::Idle) => "idle",
        Some(EndReason::Failures) => "failures",
        Some(EndReason::Operator) => "operator",
        Some(EndReason::Account) => "account",
        Some(EndReason::Evicted) => "evicted",
    }
}

const KINDS: [SessionKind; 3] = [SessionKind::Negotiated, SessionKind::Established, SessionKind::OneShot];

impl Counters {
    pub(super) fn answered(&self, event: &Event) {
        let result = event.name();
        if let Event::Refused(refusal) = event {
            let fault = refusal.fault();
            let fault = fault.subcodes[0].map_or(fault.code, |(_, local)| local);
            self.refused.get_or_create(&RefusedLabels { reason: result, fault }).inc();
            return;
        }
        let kind = match event {
            Event::Leg => Some(SessionKind::Negotiated),
            _ => event.session().map(|session| session.kind),
        };
        let kind = kind.map_or("none", SessionKind::as_str);
        self.messages.get_or_create(&MessageLabels { result, kind }).inc();
    }

    pub(super) fn called(&self, session: &Session, outcome: &CallOutcome) {
        self.calls.get_or_create(&CallLabels { kind: session.kind.as_str(), result: outcome.name() }).inc();
    }

    pub(super) fn ended(&self, ended: &Ended) {
        let reason = why_ended(ended.reason);
        self.ended.get_or_create(&EndedLabels { reason }).inc();
    }
}

pub(super) fn register(
    gateway: &Arc<Gateway>,
    counters: &Counters,
    shared: Option<Shared>,
    registry: &mut Registry,
) {
    for kind in KINDS {
        drop(counters.calls.get_or_create(&CallLabels { kind: kind.as_str(), result: "answered" }));
    }
    let reasons =
        [EndReason::Idle, EndReason::Failures, EndReason::Operator, EndReason::Account, EndReason::Evicted];
    for reason in reasons.map(Some).into_iter().chain([None]) {
        drop(counters.ended.get_or_create(&EndedLabels { reason: why_ended(reason) }));
    }
    registry.register(
        "tlsnego_messages",
        "Messages of the protocol that were answered, by result and kind of session",
        counters.messages.clone(),
    );
    registry.register(
        "tlsnego_refused",
        "Messages that were refused, by reason and by the fault that the client got",
        counters.refused.clone(),
    );
    registry.register(
        "tlsnego_calls",
        "Verified calls by kind of session and result; other results than answered, fault and one_way mean that the service gave no answer",
        counters.calls.clone(),
    );
    registry.register(
        "tlsnego_sessions_ended",
        "Sessions that ended without a Cancel of their client, by reason",
        counters.ended.clone(),
    );
    registry.register(
        "tlsnego_passwords_slowed",
        "Answers that were delayed because passwords of the account were guessed from the address",
        counters.slowed.clone(),
    );
    registry.register(
        "tlsnego_password_checks",
        "Passwords of local accounts that argon2id was computed for; cached ones need none",
        counters.computed.clone(),
    );
    registry.register_collector(Box::new(Gauges { gateway: Arc::clone(gateway), shared }));
}

/// Collects what is there now.
struct Gauges {
    gateway: Arc<Gateway>,
    shared: Option<Shared>,
}

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let server = self.gateway.server();
        let tokens = server.tokens();
        let mut gauges = vec![
            ("tlsnego_sessions", "Tokens that are valid now", tokens.len() as u64),
            (
                "tlsnego_sessions_pending",
                "Established sessions that were not used yet",
                tokens.pending() as u64,
            ),
            ("tlsnego_negotiations", "Negotiations in progress", server.negotiations().len() as u64),
        ];
        let replay = "Messages that are remembered against replay";
        match &self.shared {
            None => gauges.push(("tlsnego_replay_entries", replay, server.replay().len() as u64)),
            // A store that does not answer has no samples.
            Some(shared) => {
                if let Ok((messages, ended)) = shared.0.sizes() {
                    gauges.push(("tlsnego_replay_entries", replay, messages));
                    gauges.push((
                        "tlsnego_ended_entries",
                        "Tokens in cookies that ended before their time or had failures, in the shared store",
                        ended,
                    ));
                }
            }
        }
        for (name, help, value) in gauges {
            encode_family(&mut encoder, (name, help, None), [(NO_LABELS, ConstGauge::new(value))])?;
        }
        Ok(())
    }
}
