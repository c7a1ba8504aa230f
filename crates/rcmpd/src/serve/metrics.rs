//! The registry of metrics. Each part registers its own; this is the list of the parts.

use super::health::Health;
use super::store_health::StoreHealth;
use crate::deciders::CurrentPolicy;
use crate::sidecar::Sidecar;
use crate::sso::Sso;
use crate::tlsnego::Tlsnego;
use audit_log::AuditLog;
use dcerpc_tokio::Server;
use listener_tokio::connections::{ConnectionCollector, ConnectionMeter};
use netlogon_tokio::{ServerClient, ServerCollector, ServerLabels};
use prometheus_client::registry::Registry;
use std::sync::Arc;
use trust_tokio::crls::CrlCollector;

/// The prefix of all names.
const PREFIX: &str = "rcmpd";

/// Label `package` of domain controllers that check NTLM proofs.
const NTLM: &str = "NTLM";
/// The same for those that check passwords of SOAP clients.
const PASSWORD: &str = "password";

/// The parts of a service that have metrics.
pub(super) struct Parts<'a> {
    pub(super) server: Option<&'a Server>,
    pub(super) policy: Option<&'a CurrentPolicy>,
    pub(super) sso: Option<&'a Sso>,
    pub(super) audit: &'a AuditLog,
    pub(super) store: Option<&'a StoreHealth>,
    pub(super) sidecar: Option<&'a Sidecar>,
    pub(super) tlsnego: Option<&'a Tlsnego>,
    pub(super) health: &'a Health,
    /// Of the listeners for web servers and their clients, and of the admin port.
    pub(super) connections: Vec<ConnectionMeter>,
}

/// Registers the metrics of all parts.
pub(super) fn registry(parts: Parts<'_>) -> Registry {
    let Parts { server, policy, sso, audit, store, sidecar, tlsnego, health, connections } = parts;
    let mut registry = Registry::with_prefix(PREFIX);
    if let Some(server) = server {
        server.register(&mut registry);
    }
    if let Some(policy) = policy {
        register_decisions(&mut registry, policy);
    }
    if let Some(sso) = sso {
        sso.register(&mut registry);
    }
    if policy.is_some() || sso.is_some() || tlsnego.is_some() {
        // One collector, so that each family of metrics is written once.
        registry.register_collector(Box::new(ServerCollector(asked_servers(policy, sso, tlsnego))));
    }
    audit.register(&mut registry);
    if let Some(store) = store {
        registry.register_collector(Box::new(store.clone()));
    }
    if let Some(sidecar) = sidecar {
        sidecar.register(&mut registry);
    }
    if let Some(tlsnego) = tlsnego {
        tlsnego.register(&mut registry);
    }
    registry.register_collector(Box::new(health.clone()));
    registry.register_collector(Box::new(ConnectionCollector(connections)));
    registry
}

/// What decisions and other domains count.
fn register_decisions(registry: &mut Registry, policy: &CurrentPolicy) {
    let deciders = policy.0.load();
    deciders.metrics.register(registry);
    deciders.remote().register(registry);
    let crls = policy.clone();
    registry.register_collector(Box::new(CrlCollector(move || crls.0.load().crls().cloned())));
}

/// Servers that this process asks.
pub(super) type AskedServers = Vec<(ServerLabels, Arc<ServerClient>)>;

/// Returns all servers that this process asks, at each call: a reload and discovery change them.
pub(super) fn asked_servers(
    policy: Option<&CurrentPolicy>,
    sso: Option<&Sso>,
    tlsnego: Option<&Tlsnego>,
) -> impl Fn() -> AskedServers + Send + Sync + 'static {
    let (policy, sso, tlsnego) = (policy.cloned(), sso.cloned(), tlsnego.cloned());
    move || {
        let deciders = policy.as_ref().map(|policy| policy.0.load());
        let peers = deciders.iter().flat_map(|deciders| deciders.forwarding.servers());
        let of_proofs = sso.iter().flat_map(Sso::domain_controllers);
        let of_passwords = tlsnego.iter().flat_map(Tlsnego::domain_controllers);
        // The same server may be asked as a peer, too, over other channels.
        let of_proofs = of_proofs.map(|(domain, servers)| (domain, Some(NTLM), servers));
        let of_passwords = of_passwords.map(|(domain, servers)| (domain, Some(PASSWORD), servers));
        let labelled = peers.chain(of_proofs).chain(of_passwords).flat_map(|(domain, package, servers)| {
            servers.clients().into_iter().map(move |client| {
                let (domain, server) = (domain.to_owned(), client.server().to_owned());
                (ServerLabels { domain, server, package: package.map(str::to_owned) }, client)
            })
        });
        labelled.collect()
    }
}
