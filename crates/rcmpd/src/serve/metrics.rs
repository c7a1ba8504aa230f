//! The registry of metrics. Each part registers its own; this is the list of the parts.

use super::health::Health;
use super::process::ProcessCollector;
use super::store_health::StoreHealth;
use crate::deciders::CurrentPolicy;
use crate::sidecar::Sidecar;
use crate::sso::Sso;
use crate::telemetry::Losses;
use crate::tlsnego::Tlsnego;
use audit_log::AuditLog;
use dcerpc_tokio::{NO_LABELS, Server, encode_family};
use listener_tokio::connections::{ConnectionCollector, ConnectionMeter};
use netlogon_tokio::{ServerClient, ServerCollector, ServerLabels};
use netlogon_transport::server::NetlogonServer;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use trust_tokio::crls::CrlCollector;

/// The prefix of all names but those of the process.
const PREFIX: &str = "rcmpd";
const PROCESS_PREFIX: &str = "process";

/// Label `package` of domain controllers that check NTLM proofs.
const NTLM: &str = "NTLM";
/// The same for those that check passwords of SOAP clients.
const PASSWORD: &str = "password";

/// The parts of a service that have metrics.
pub(super) struct Parts<'a> {
    pub(super) server: Option<&'a Server>,
    pub(super) policy: Option<&'a CurrentPolicy>,
    /// With `[rpc]`.
    pub(super) netlogon: Option<&'a NetlogonServer>,
    pub(super) sso: Option<&'a Sso>,
    pub(super) audit: &'a AuditLog,
    pub(super) store: Option<&'a StoreHealth>,
    pub(super) sidecar: Option<&'a Sidecar>,
    pub(super) tlsnego: Option<&'a Tlsnego>,
    pub(super) health: &'a Health,
    pub(super) losses: &'a Losses,
    /// Of the listeners for web servers and their clients, and of the admin port.
    pub(super) connections: Vec<ConnectionMeter>,
}

/// Registers the metrics of all parts.
pub(super) fn registry(parts: Parts<'_>) -> Registry {
    let Parts { server, policy, netlogon, sso, audit, store, sidecar, tlsnego, health, losses, connections } =
        parts;
    let mut root = Registry::default();
    let of_process = root.sub_registry_with_prefix(PROCESS_PREFIX);
    of_process.register_collector(Box::new(ProcessCollector::new()));
    let registry = root.sub_registry_with_prefix(PREFIX);
    if let Some(server) = server {
        server.register(registry);
    }
    if let Some(policy) = policy {
        register_decisions(registry, policy);
    }
    if let Some(sso) = sso {
        sso.register(registry);
    }
    if policy.is_some() || sso.is_some() || tlsnego.is_some() {
        // One collector, so that each family of metrics is written once.
        registry.register_collector(Box::new(ServerCollector(asked_servers(policy, sso, tlsnego))));
    }
    audit.register(registry);
    if let Some(netlogon) = netlogon {
        audit.register_channels(registry);
        registry.register_collector(Box::new(ChannelCollector(netlogon.clone())));
    }
    if let Some(store) = store {
        registry.register_collector(Box::new(store.clone()));
    }
    if let Some(sidecar) = sidecar {
        sidecar.register(registry);
    }
    if let Some(tlsnego) = tlsnego {
        tlsnego.register(registry);
    }
    losses.register(registry);
    registry.register_collector(Box::new(health.clone()));
    registry.register_collector(Box::new(ConnectionCollector(connections)));
    root
}

/// Ages of channels: a label and the highest age. A channel ends after 12 hours.
const AGES: [(&str, u64); 5] = [("1m", 60), ("10m", 600), ("1h", 3600), ("4h", 4 * 3600), ("12h", 12 * 3600)];

/// Collects the secure channels by age.
#[derive(Debug)]
struct ChannelCollector(NetlogonServer);

impl Collector for ChannelCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counts = self.0.channels_by_age(AGES.map(|(_, seconds)| Duration::from_secs(seconds)));
        let samples =
            AGES.iter().zip(counts).map(|((age, _), count)| ([("age", *age)], ConstGauge::new(count)));
        let help = "Valid secure channels, by age: at most so old, and older than the age before";
        encode_family(&mut encoder, ("channels", help, None), samples)
    }
}

/// What decisions and other domains count.
fn register_decisions(registry: &mut Registry, policy: &CurrentPolicy) {
    let deciders = policy.0.load();
    deciders.metrics.register(registry);
    deciders.remote().register(registry);
    let crls = policy.clone();
    registry.register_collector(Box::new(CrlCollector(move || crls.0.load().crls().cloned())));
    registry.register_collector(Box::new(RevisionCollector(policy.clone())));
}

/// Collects the revision of the policy.
struct RevisionCollector(CurrentPolicy);

impl fmt::Debug for RevisionCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RevisionCollector")
    }
}

impl Collector for RevisionCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Revision of the policy: 1 at start, and one more after each reload that was taken over";
        let revision = ConstGauge::new(self.0.0.load().live.policy().revision);
        encode_family(&mut encoder, ("policy_revision", help, None), [(NO_LABELS, revision)])
    }
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
