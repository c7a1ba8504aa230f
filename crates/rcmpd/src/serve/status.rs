//! The state of a running service, for `/ready`, `/status` and `rcmpd status`.

use super::health::Health;
use super::metrics::AskedServers;
use super::store_health::StoreHealth;
use crate::clock::now;
use crate::config::{Origin, Shown};
use crate::deciders::{CurrentPolicy, Deciders};
use crate::sso::Sso;
use crate::telemetry::LogFilter;
use account_store::Domain;
use audit_log::AuditLog;
use dcerpc_tokio::Server;
use decision_metrics::recent::{Minute, Outcome};
use serde_json::{Value, json};
use sso_tokio::Registration;
use std::sync::Arc;

/// The parts of the service that the state is read from.
#[derive(Clone)]
pub(super) struct State {
    pub(super) health: Health,
    pub(super) store: Option<StoreHealth>,
    pub(super) policy: Option<CurrentPolicy>,
    pub(super) sso: Option<Sso>,
    pub(super) registration: Option<Registration>,
    /// The RPC server; none without `[rpc]`.
    pub(super) server: Option<Arc<Server>>,
    /// Returns the servers that this process asks.
    pub(super) servers: Arc<dyn Fn() -> AskedServers + Send + Sync>,
    pub(super) audit: Arc<AuditLog>,
    pub(super) log_filter: LogFilter,
    /// The path of the configuration.
    pub(super) config: String,
    pub(super) domain: Domain,
    /// The NetBIOS name of this server.
    pub(super) server_name: String,
}

/// One condition of readiness.
pub(super) struct Check {
    name: &'static str,
    /// The text of `/ready` if the condition is not met; empty if there is nothing to add to "not ready".
    problem: Option<&'static str>,
}

impl Check {
    /// The conditions of all parts that are configured.
    async fn all(state: &State) -> Vec<Self> {
        let mut checks = Vec::new();
        let mut add =
            |name, is_bad: bool, problem| checks.push(Self { name, problem: is_bad.then_some(problem) });
        add("service", !state.health.is_ready(), "");
        if let Some(store) = &state.store {
            let problem = "the account store cannot be used, see the log";
            add("account-store", !store.is_usable().await, problem);
        }
        if let Some(policy) = &state.policy {
            let problem = "no CRL is valid, so no certificate can be decided, see the log";
            add("crls", policy.0.load().lacks_crls(now()), problem);
        }
        if let Some(sso) = &state.sso {
            let problem = "the master secret was rolled back to an older file, see the log";
            add("master-secret", Sso::is_rolled_back(sso), problem);
        }
        if let Some(registration) = &state.registration {
            let problem = "the endpoint mapper does not name the master secret interface, see the log";
            add("endpoint-mapper", !registration.is_registered().await, problem);
        }
        checks
    }
}

/// Whether the service is ready, and the answer of `/ready`: with `is_verbose` a line for each check.
pub(super) async fn ready(state: &State, is_verbose: bool) -> (bool, String) {
    let checks = Check::all(state).await;
    let problem = checks.iter().find_map(|check| check.problem);
    let mut text = String::new();
    for Check { name, problem } in checks.iter().filter(|_| is_verbose) {
        text.push_str(&match problem {
            None => format!("{name}: ok\n"),
            Some("") => format!("{name}: starting or stopping\n"),
            Some(problem) => format!("{name}: {problem}\n"),
        });
    }
    text.push_str(&match problem {
        None => "ready\n".to_owned(),
        Some("") => "not ready\n".to_owned(),
        Some(problem) => format!("not ready: {problem}\n"),
    });
    (problem.is_none(), text)
}

/// What `rcmpd status` prints.
pub(super) async fn status(state: &State) -> Value {
    let checks = Check::all(state).await;
    let reload = state.health.reload();
    let deciders = state.policy.as_ref().map(|policy| policy.0.load_full());
    let connections = state.server.as_ref().map(|server| {
        let (unproved, proved) = server.limiter().open();
        json!({ "unproved": unproved, "proved": proved })
    });
    json!({
        "version": crate::cli::VERSION,
        "domain": state.domain.netbios,
        "server": state.server_name,
        "at": now().to_string(),
        "pid": std::process::id(),
        "started": state.health.started().to_string(),
        "uptime_s": state.health.age().as_secs(),
        "configuration": state.config,
        "log_filter": state.log_filter.shown(),
        "ready": checks.iter().all(|check| check.problem.is_none()),
        "checks": checks.iter().map(|check| json!({
            "check": check.name,
            "ok": check.problem.is_none(),
            "problem": check.problem.filter(|problem| !problem.is_empty()),
        })).collect::<Vec<_>>(),
        "reload": {
            "at": reload.at.to_string(),
            "ok": reload.error.is_none(),
            "error": reload.error,
            "in_use_since": reload.good.to_string(),
        },
        "policy_revision": deciders.as_ref().map(|deciders| deciders.live.policy().revision),
        "crls": deciders.as_deref().map(crls),
        "peers": peers(state),
        "rpc_connections": connections,
        "audit_failures": state.audit.failures(),
        "hour": deciders.as_deref().map(hour),
        "refusals": deciders.as_deref().map(refusals),
        "domains": deciders.as_deref().map(domains),
        "settings": state.health.settings().iter().map(setting).collect::<Vec<_>>(),
    })
}

fn crls(deciders: &Deciders) -> Vec<Value> {
    let now = now();
    let facts = deciders.crls().into_iter().flat_map(|crls| crls.facts());
    facts
        .map(|(crl, facts)| {
            json!({
                "crl": crl,
                "issuer": facts.as_ref().map(|facts| &facts.issuer),
                "this_update": facts.as_ref().map(|facts| facts.this_update.to_string()),
                "next_update": facts.as_ref().map(|facts| facts.next_update.to_string()),
                "current": facts.as_ref().is_some_and(|facts| facts.is_current(now)),
                "expired": facts.as_ref().is_none_or(|facts| facts.is_expired(now)),
                "entries": facts.as_ref().map(|facts| facts.entries),
            })
        })
        .collect()
}

fn peers(state: &State) -> Vec<Value> {
    let servers = (state.servers)();
    servers
        .iter()
        .map(|(labels, client)| {
            json!({
                "domain": labels.domain,
                "server": labels.server,
                "package": labels.package,
                "circuit_open": client.is_circuit_open(),
                "answers": client.meter().answered.get(),
                "failures": client.meter().failed.get(),
            })
        })
        .collect()
}

/// The decisions of the last hour: by minute and outcome, and by reason.
fn hour(deciders: &Deciders) -> Value {
    let (minutes, outcomes) = (deciders.metrics.minutes(now()), deciders.metrics.outcomes());
    let outcome_of = |reason: &str| outcomes.get(reason).copied().unwrap_or(Outcome::Rejected);
    let count = |minute: &Minute, outcome| -> u64 {
        let answers = minute.answers.iter().filter(|(reason, _)| outcome_of(reason) == outcome);
        answers.map(|(_, count)| count).sum()
    };
    let mut reasons = std::collections::BTreeMap::new();
    for (reason, count) in minutes.iter().flat_map(|minute| &minute.answers) {
        *reasons.entry(*reason).or_insert(0_u64) += count;
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    json!({
        "minutes": minutes.iter().map(|minute| json!({
            "ends": minute.ends.to_string(),
            "mapped": count(minute, Outcome::Mapped),
            "rejected": count(minute, Outcome::Rejected),
            "undecided": count(minute, Outcome::Undecided),
        })).collect::<Vec<_>>(),
        "reasons": reasons.iter().map(|(reason, count)| json!({
            "reason": reason,
            "outcome": outcome_of(reason).name(),
            "count": count,
        })).collect::<Vec<_>>(),
    })
}

fn refusals(deciders: &Deciders) -> Vec<Value> {
    let refusals = deciders.metrics.refusals();
    refusals
        .iter()
        .map(|refusal| {
            json!({
                "at": refusal.at.to_string(),
                "count": refusal.count,
                "reason": refusal.reason,
                "text": refusal.text,
                "outcome": if refusal.is_undecided { "undecided" } else { "rejected" },
                "asker": refusal.asker,
                "thumbprint": refusal.thumbprint,
                "decision": refusal.decision,
            })
        })
        .collect()
}

/// The other domains that the configuration names.
fn domains(deciders: &Deciders) -> Vec<Value> {
    let peers = deciders.forwarding.forwarder.domains().peers();
    peers
        .iter()
        .map(|peer| {
            json!({
                "domain": peer.domain.netbios,
                "dns": peer.domain.names.first(),
                "is_asked": peer.is_asked,
                "may_ask": peer.may_ask,
                "via": peer.via,
            })
        })
        .collect()
}

/// A key of the configuration. The value is a text as in TOML, or says what counts in its place.
fn setting(shown: &Shown) -> Value {
    let (origin, line) = match &shown.origin {
        Origin::Line(line) => ("file", Some(*line)),
        Origin::Environment(name) => (*name, None),
        Origin::Default => ("default", None),
    };
    let value = shown.value.as_ref().unwrap_or(&shown.otherwise);
    json!({ "key": shown.path, "value": value, "origin": origin, "line": line })
}
