//! The other domains: from `[[peer]]` and `[[relay]]` to services that ask them.
//!
//! ```text
//! rcmp-service decides whither ─► peer (time, trace) ─► servers (failover, budget) ─► server (channel, connections, breaker)
//! ```

pub mod breaker;
pub mod discovery;
pub mod meter;
pub mod peer;
pub mod relay;
pub mod server;
pub mod servers;
pub mod trace;
pub mod turns;

pub use relay::RelayPackage;

use crate::config::{self, Config};
use crate::signing::{PublicKey, SigningKey};
use account_store::ChannelKind;
use anyhow::Context;
use discovery::Discovery;
use netlogon_transport::secrets::ChannelType;
use peer::PeerClient;
use rcmp_service::foreign::ForeignDomain;
use rcmp_service::{Domains, Forwarder, PeerDomain, PeerService};
use relay::Rule;
use server::{Identity, Room};
use servers::{Servers, Whereabouts};
use std::sync::Arc;

/// Everything that is asked of others.
#[derive(Debug)]
pub struct Forwarding {
    /// Decides whom to ask, and what of the answer is believed.
    pub forwarder: Arc<Forwarder>,
    /// Servers of peers, with what they were made from.
    peers: Vec<(config::Peer, Option<Arc<Servers>>)>,
    /// What is relayed.
    relays: Vec<(config::Relay, Arc<Rule>)>,
}

impl Forwarding {
    /// Makes what a configuration asks for; nobody is asked yet. Servers of peers that did not change are taken over from `before`,
    /// with their channels.
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
        let domains = Domains::new(config.domain.clone(), domains, config.forward.hops_max)?;
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

    /// The servers that are asked: the domain and, of a relay, the package.
    pub fn servers(&self) -> impl Iterator<Item = (&str, Option<&str>, &Arc<Servers>)> {
        let peers = self.peers.iter();
        let peers = peers.filter_map(|(peer, servers)| Some((peer.domain.as_str(), None, servers.as_ref()?)));
        let relays = self.relays.iter();
        let relays = relays
            .map(|(relay, rule)| (rule.domain.netbios.as_str(), Some(relay.package.as_str()), &rule.servers));
        peers.chain(relays)
    }
}

/// Whether two entries lead to the same servers in the same way, whatever else they say of the peer.
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

/// What the mapping service knows of a peer.
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

fn servers_of(config: &Config, peer: &config::Peer) -> anyhow::Result<Option<Servers>> {
    let at = match &peer.servers {
        Some(config::Servers::Listed(servers)) => Whereabouts::Listed(servers.clone()),
        Some(config::Servers::Discovered { site, dns }) => {
            let name = peer.names.first().context("a peer has a name")?;
            let discovery = Discovery::new(name, site.as_deref(), dns);
            Whereabouts::Discovered(Box::new(
                discovery.with_context(|| format!("cannot look for the servers of {}", peer.domain))?,
            ))
        }
        Some(config::Servers::Via(_)) | None => return Ok(None),
    };
    let Some(secret) = peer.secret.clone() else { return Ok(None) };
    let identity = Identity {
        domain: peer.domain.clone(),
        computer: config.server.clone(),
        // Type 3 names the trusted domain by its DNS name ([MS-NRPC] 3.5.4.4.2).
        account: match peer.channel {
            ChannelKind::TrustedDnsDomain => format!("{}.", config.domain.dns),
            _ => peer.account.clone(),
        },
        channel_type: ChannelType(peer.channel.value()),
        secret,
    };
    let room = Room { connections_max: peer.connections_max, queue_max: peer.queue_max };
    Ok(Some(Servers::new(at, named_after_account(identity), room, peer.hedge)))
}

fn rule(config: &Config, relay: &config::Relay) -> Rule {
    let identity = Identity {
        domain: config.domain.netbios.clone(),
        computer: config.server.clone(),
        account: relay.account.clone(),
        channel_type: ChannelType(relay.channel.value()),
        secret: relay.secret.clone(),
    };
    let room = Room { connections_max: relay.connections_max, queue_max: relay.queue_max };
    Rule {
        package: relay.package.clone(),
        domain: config.domain.clone(),
        servers: Arc::new(Servers::new(
            Whereabouts::Listed(relay.servers.clone()),
            named_after_account(identity),
            room,
            None,
        )),
        machines: relay.machines.iter().cloned().collect(),
        response_crypt: relay.response_crypt,
        timeout: relay.timeout,
    }
}

/// Members and controllers are computers of the name that their account has.
fn named_after_account(mut identity: Identity) -> Identity {
    if identity.channel_type.names_its_computer() {
        identity.computer = identity.account.trim_end_matches('$').to_owned();
    }
    identity
}
