//! The other domains: from `[[peer]]` and `[[relay]]` to services that send them requests.
//!
//! ```text
//! rcmp-service chooses the domain ─► peer (deadline, trace) ─► netlogon-tokio: servers of the domain
//! ```

pub mod relay;

pub use relay::RelayPackage;

use crate::config::{self, Config};
use account_store::ChannelKind;
use anyhow::Context;
use ed25519_file::{PublicKey, SigningKey};
use netlogon_tokio::{ClientAccount, Discovery, PoolLimits, ServerSource, Servers};
use netlogon_transport::secrets::ChannelType;
use rcmp_client::peer::PeerClient;
use rcmp_service::foreign::ForeignDomain;
use rcmp_service::{Domains, Forwarder, PeerDomain, PeerService, Suffixes};
use relay::Rule;
use std::sync::Arc;

/// The peers and relays of a configuration.
#[derive(Debug)]
pub struct Forwarding {
    /// Chooses the peer for a question and validates its answer.
    pub forwarder: Arc<Forwarder>,
    /// Peers with their servers; without servers if the peer only asks, or is reached through another one.
    peers: Vec<(config::Peer, Option<Arc<Servers>>)>,
    /// Relays with their rules.
    relays: Vec<(config::Relay, Arc<Rule>)>,
}

impl Forwarding {
    /// Reads the keys that the configuration names; opens no connection. Servers of peers that did not change
    /// are taken over from `before`, with their channels.
    pub fn load(config: &Config, before: Option<&Self>) -> anyhow::Result<Self> {
        let mut peers = Vec::with_capacity(config.peers.len());
        for peer in &config.peers {
            let known = before
                .and_then(|before| before.peers.iter().find(|(known, _)| reaches_the_same(known, peer)));
            let servers = match known {
                Some((_, servers)) => servers.clone(),
                None => servers_of(config, peer)?.map(Arc::new),
            };
            peers.push((peer.clone(), servers));
        }
        let services = peers.iter().map(|(peer, servers)| {
            servers.as_ref().map(|servers| {
                PeerService::new(PeerClient {
                    domain: peer.domain.as_str().into(),
                    servers: Arc::clone(servers),
                    is_rcmpd: peer.kind == config::PeerKind::Rcmpd,
                    response_crypt: peer.response_crypt,
                    timeout: peer.timeout,
                })
            })
        });
        let services = services.collect();
        let domains = config.peers.iter().map(domain).collect::<anyhow::Result<Vec<_>>>()?;
        let suffixes = Suffixes { listed: config.upn_suffixes.clone(), is_forest: config.has_forest() };
        let hops_max = config.forward.hops_max;
        let domains = Domains::with_suffixes(config.domain.clone(), &suffixes, domains, hops_max)?;
        let key = config
            .forward
            .proof_key
            .as_deref()
            .map(|path| anyhow::Ok(SigningKey::read(path)?.pair))
            .transpose()?;
        let relays = config.relays.iter().map(|relay| {
            let known = before.and_then(|before| before.relays.iter().find(|(known, _)| known == relay));
            let rule = known.map_or_else(|| Arc::new(rule(config, relay)), |(_, rule)| Arc::clone(rule));
            (relay.clone(), rule)
        });
        let relays = relays.collect();
        Ok(Self { forwarder: Arc::new(Forwarder::new(domains, services, key)), peers, relays })
    }

    /// The rules by which opaque packages are relayed.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.relays.iter().map(|(_, rule)| rule)
    }

    /// All servers, with their domain and, of a relay, the package.
    pub fn servers(&self) -> impl Iterator<Item = (&str, Option<&str>, &Arc<Servers>)> {
        let peers = self.peers.iter();
        let peers = peers.filter_map(|(peer, servers)| Some((peer.domain.as_str(), None, servers.as_ref()?)));
        let relays = self.relays.iter();
        let relays = relays
            .map(|(relay, rule)| (rule.domain.netbios.as_str(), Some(relay.package.as_str()), &rule.servers));
        peers.chain(relays)
    }
}

/// Whether two entries have the same servers, account and limits, so that channels can be kept.
fn reaches_the_same(a: &config::Peer, b: &config::Peer) -> bool {
    let way = |peer: &config::Peer| {
        (
            peer.domain.clone(),
            peer.servers.clone(),
            peer.names.first().cloned(),
            (peer.account.clone(), peer.secret.clone(), peer.channel),
            (peer.connections_max, peer.queue_max, peer.hedge),
        )
    };
    way(a) == way(b)
}

/// What the mapping service has to know of a peer.
fn domain(peer: &config::Peer) -> anyhow::Result<PeerDomain> {
    let via = match &peer.servers {
        Some(config::Servers::Via(via)) => Some(via.clone()),
        _ => None,
    };
    let keys = peer.proof_key.iter().map(|path| Ok(PublicKey::read(path)?.bytes()));
    Ok(PeerDomain {
        domain: ForeignDomain {
            netbios: peer.domain.clone(),
            sid: peer.sid,
            names: peer.names.clone(),
            foreign_sids: peer.foreign_sids,
        },
        is_asked: peer.is_asked(),
        may_ask: peer.may_ask(),
        is_rcmpd: peer.kind == config::PeerKind::Rcmpd,
        via,
        transit: peer.transit.clone(),
        issuers: peer.issuers.clone(),
        proof_keys: keys.collect::<anyhow::Result<_>>()?,
    })
}

/// The servers of a peer that is asked directly; it opens no connection.
pub(crate) fn servers_of(config: &Config, peer: &config::Peer) -> anyhow::Result<Option<Servers>> {
    let at = match &peer.servers {
        Some(config::Servers::Listed(servers)) => ServerSource::Listed(servers.clone()),
        Some(config::Servers::Discovered { site, dns }) => {
            let name = peer.names.first().context("a peer has a name")?;
            let discovery = Discovery::new(name, site.as_deref(), dns);
            ServerSource::Discovered(Box::new(
                discovery.with_context(|| format!("cannot look for the servers of {}", peer.domain))?,
            ))
        }
        Some(config::Servers::Via(_)) | None => return Ok(None),
    };
    let Some(secret) = peer.secret.clone() else { return Ok(None) };
    let identity = ClientAccount {
        domain: peer.domain.clone(),
        computer: config.server.clone(),
        // Type 3 names the trusted domain by its DNS name ([MS-NRPC] 3.5.4.4.2).
        account: match peer.channel {
            ChannelKind::TrustedDnsDomain => format!("{}.", config.domain.dns),
            _ => peer.account.clone(),
        },
        channel_type: ChannelType(peer.channel.value()),
        secrets: Arc::new(secret),
        now: crate::ask::now,
    };
    let limits = PoolLimits { connections_max: peer.connections_max, queue_max: peer.queue_max };
    Ok(Some(Servers::new(at, named_after_account(identity), limits, peer.hedge)))
}

fn rule(config: &Config, relay: &config::Relay) -> Rule {
    let identity = ClientAccount {
        domain: config.domain.netbios.clone(),
        computer: config.server.clone(),
        account: relay.account.clone(),
        channel_type: ChannelType(relay.channel.value()),
        secrets: Arc::new(relay.secret.clone()),
        now: crate::ask::now,
    };
    let limits = PoolLimits { connections_max: relay.connections_max, queue_max: relay.queue_max };
    Rule {
        package: relay.package.clone(),
        domain: config.domain.clone(),
        servers: Arc::new(Servers::new(
            ServerSource::Listed(relay.servers.clone()),
            named_after_account(identity),
            limits,
            None,
        )),
        machines: relay.machines.iter().cloned().collect(),
        response_crypt: relay.response_crypt,
        timeout: relay.timeout,
    }
}

/// Members and controllers are named after their account.
fn named_after_account(mut identity: ClientAccount) -> ClientAccount {
    if identity.channel_type.names_its_computer() {
        identity.computer = identity.account.trim_end_matches('$').to_owned();
    }
    identity
}
