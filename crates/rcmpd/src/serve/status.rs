//! The state of a running service: whether it can answer, and what an operator asks first.

use super::http::Shared;
use crate::clock::{now, uptime};
use crate::deciders::Deciders;
use crate::sso::Sso;
use dcerpc_tokio::{NO_LABELS, encode_family};
use dtyp::FileTime;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use serde_json::{Value, json};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Whether calls are welcome, and what became of the last reload.
#[derive(Clone, Debug)]
pub(super) struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    is_ready: AtomicBool,
    started: FileTime,
    started_at: Duration,
    reload: Mutex<Reload>,
}

/// The last time that the configuration was read.
#[derive(Clone, Debug)]
struct Reload {
    at: FileTime,
    /// Why it was not taken over.
    error: Option<String>,
    /// When one was taken over.
    good: FileTime,
}

impl Health {
    /// Of a service that starts now, with a configuration that was read.
    pub(super) fn new() -> Self {
        let started = now();
        let reload = Mutex::new(Reload { at: started, error: None, good: started });
        Self(Arc::new(Inner { is_ready: AtomicBool::new(false), started, started_at: uptime(), reload }))
    }

    pub(super) fn set_ready(&self, is_ready: bool) {
        self.0.is_ready.store(is_ready, Ordering::Release);
    }

    /// Notes what became of a reload.
    pub(super) fn reloaded(&self, error: Option<String>) {
        let mut reload = self.0.reload.lock().unwrap_or_else(PoisonError::into_inner);
        let at = now();
        let good = if error.is_none() { at } else { reload.good };
        *reload = Reload { at, error, good };
    }

    fn reload(&self) -> Reload {
        self.0.reload.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Collector for Health {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Reload { error, good, .. } = self.reload();
        let help =
            "1 if the last reload of the configuration was taken over, 0 if the previous one stays in use";
        let is_good = ConstGauge::new(u32::from(error.is_none()));
        encode_family(&mut encoder, ("config_last_reload_successful", help, None), [(NO_LABELS, is_good)])?;
        let help =
            "Time of the last start or reload whose configuration was taken over, in seconds of Unix time";
        let name = "config_last_reload_success_timestamp";
        encode_family(
            &mut encoder,
            (name, help, Some(Unit::Seconds)),
            [(NO_LABELS, ConstGauge::new(good.to_unix()))],
        )
    }
}

/// One thing without which the service is not ready.
pub(super) struct Check {
    name: &'static str,
    /// What the first line of `/ready` says.
    problem: Option<&'static str>,
}

impl Check {
    /// Of what is configured. The text of the service itself is empty, because there is nothing to add.
    async fn all(shared: &Shared) -> Vec<Self> {
        let mut checks = Vec::new();
        let mut add =
            |name, is_bad: bool, problem| checks.push(Self { name, problem: is_bad.then_some(problem) });
        add("service", !shared.health.0.is_ready.load(Ordering::Acquire), "");
        if let Some(store) = &shared.store {
            let problem = "the account store cannot be used, see the log";
            add("account-store", !store.is_usable().await, problem);
        }
        if let Some(policy) = &shared.policy {
            let problem = "no CRL is valid, so no certificate can be decided, see the log";
            add("crls", policy.0.load().lacks_crls(now()), problem);
        }
        if let Some(sso) = &shared.sso {
            let problem = "the master secret was rolled back to an older file, see the log";
            add("master-secret", Sso::is_rolled_back(sso), problem);
        }
        if let Some(registration) = &shared.registration {
            let problem = "the endpoint mapper does not name the master secret interface, see the log";
            add("endpoint-mapper", !registration.is_registered().await, problem);
        }
        checks
    }
}

/// Whether the service is ready, and the answer of `/ready`: with `is_verbose` a line for each check.
pub(super) async fn ready(shared: &Shared, is_verbose: bool) -> (bool, String) {
    let checks = Check::all(shared).await;
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
pub(super) async fn status(shared: &Shared) -> Value {
    let checks = Check::all(shared).await;
    let Inner { started, started_at, .. } = &*shared.health.0;
    let reload = shared.health.reload();
    let deciders = shared.policy.as_ref().map(|policy| policy.0.load_full());
    let connections = shared.server.as_ref().map(|server| {
        let (unproved, proved) = server.limiter().open();
        json!({ "unproved": unproved, "proved": proved })
    });
    json!({
        "version": crate::cli::VERSION,
        "pid": std::process::id(),
        "started": started.to_string(),
        "uptime_s": uptime().saturating_sub(*started_at).as_secs(),
        "configuration": shared.config,
        "log_filter": shared.log_filter.shown(),
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
        "peers": peers(shared),
        "rpc_connections": connections,
        "audit_failures": shared.audit.failures(),
    })
}

fn crls(deciders: &Deciders) -> Vec<Value> {
    let facts = deciders.crls().into_iter().flat_map(|crls| crls.facts());
    facts
        .map(|(crl, facts)| {
            json!({
                "crl": crl,
                "issuer": facts.as_ref().map(|facts| &facts.issuer),
                "this_update": facts.as_ref().map(|facts| facts.this_update.to_string()),
                "next_update": facts.as_ref().map(|facts| facts.next_update.to_string()),
                "expired": facts.as_ref().is_none_or(|facts| facts.next_update <= now()),
                "entries": facts.as_ref().map(|facts| facts.entries),
            })
        })
        .collect()
}

fn peers(shared: &Shared) -> Vec<Value> {
    let servers = (shared.servers)();
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
