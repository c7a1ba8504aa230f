//! `rcmpd domain …`: the domain that is served, and the others.

mod add;
mod remove;
mod trust;
mod trust_commands;

use super::load;
use crate::cli::DomainCommand;
use crate::config::{Config, Direction, Peer, PeerKind, Servers};
use crate::output;
use crate::quickstart::random_domain_sid;
use anyhow::bail;
use serde_json::{Value, json};

pub(super) async fn run(command: DomainCommand) -> anyhow::Result<u8> {
    match command {
        DomainCommand::Add { name: None, config, json, .. } => {
            let made = crate::stores::create(&load(&config.config)?).await?;
            match json.json {
                true => output::json(&json!({ "files": made })),
                false => made.iter().for_each(|file| output::line(&format!("Created {}", file.display()))),
            }
            Ok(0)
        }
        DomainCommand::Add { name: Some(name), peer, config, json } => {
            add::add(&name, *peer, &config.config, json.json).await
        }
        DomainCommand::Show { name, config, json } => {
            show(name.as_deref(), &load(&config.config)?, json.json)
        }
        DomainCommand::List { config, json } => {
            list(&load(&config.config)?, json.json);
            Ok(0)
        }
        DomainCommand::NewSid { json } => {
            let sid = random_domain_sid()?.to_string();
            match json.json {
                true => output::json(&json!({ "sid": sid })),
                false => output::line(&sid),
            }
            Ok(0)
        }
        DomainCommand::Rekey(args) => super::store::rekey(&args).await,
        DomainCommand::Remove { name, config, json } => {
            remove::remove(&name, &config.config, json.json).await
        }
        DomainCommand::TrustCommands { name, side, config, json } => {
            trust_commands::print(&load(&config.config)?, &name, &side, &config.config, json.json)
        }
        DomainCommand::Test { name, timeout, config, json } => {
            trust::test(&load(&config.config)?, &name, timeout, json.json).await
        }
        DomainCommand::Rotate { name, now, config, json } => {
            trust::rotate(&load(&config.config)?, &name, now, json.json).await
        }
        DomainCommand::Key { file, json } => {
            super::audit::make_key(&file, json.json)?;
            Ok(0)
        }
    }
}

/// The peer of this NetBIOS or DNS name.
fn find<'a>(config: &'a Config, name: &str) -> anyhow::Result<&'a Peer> {
    let name = name.trim_end_matches('.');
    let is_called = |peer: &&Peer| {
        peer.domain.eq_ignore_ascii_case(name)
            || peer.names.iter().any(|other| other.eq_ignore_ascii_case(name))
    };
    match config.peers.iter().find(is_called) {
        Some(peer) => Ok(peer),
        None => bail!("there is no [[peer]] {name}; `rcmpd domain list` lists all of them"),
    }
}

const fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
        Direction::Both => "both",
    }
}

const fn kind(kind: PeerKind) -> &'static str {
    match kind {
        PeerKind::Netlogon => "netlogon",
        PeerKind::Rcmpd => "rcmpd",
    }
}

fn servers(peer: &Peer) -> String {
    match &peer.servers {
        None => String::new(),
        Some(Servers::Listed(servers)) => servers.join(", "),
        Some(Servers::Discovered { site: None, .. }) => "by DNS".to_owned(),
        Some(Servers::Discovered { site: Some(site), .. }) => format!("by DNS, site {site}"),
        Some(Servers::Via(via)) => format!("via {via}"),
    }
}

fn own_json(config: &Config) -> Value {
    let domain = &config.domain;
    json!({ "netbios": domain.netbios, "dns": domain.dns, "sid": domain.sid.to_string(), "server": config.server })
}

fn peer_json(peer: &Peer) -> Value {
    let (listed, via) = match &peer.servers {
        Some(Servers::Listed(servers)) => (Some(servers), None),
        Some(Servers::Via(via)) => (None, Some(via)),
        _ => (None, None),
    };
    json!({
        "netbios": peer.domain,
        "names": peer.names,
        "sid": peer.sid.to_string(),
        "direction": direction(peer.direction),
        "kind": kind(peer.kind),
        "servers": listed,
        "discovery": matches!(peer.servers, Some(Servers::Discovered { .. })),
        "via": via,
        "account": peer.secret.as_ref().map(|_| &peer.account),
        "channel": peer.secret.as_ref().map(|_| peer.channel),
        "transit": peer.transit,
        "issuers": peer.issuers.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn show(name: Option<&str>, config: &Config, as_json: bool) -> anyhow::Result<u8> {
    let peer = match name {
        Some(name) if !config.domain.is_called(name) => find(config, name)?,
        _ => {
            let domain = &config.domain;
            match as_json {
                true => output::json(&own_json(config)),
                false => output::facts(&[
                    ("netbios", domain.netbios.clone()),
                    ("dns", domain.dns.clone()),
                    ("sid", domain.sid.to_string()),
                    ("server", config.server.clone()),
                ]),
            }
            return Ok(0);
        }
    };
    if as_json {
        output::json(&peer_json(peer));
        return Ok(0);
    }
    let mut facts = vec![
        ("netbios", peer.domain.clone()),
        ("names", peer.names.join(", ")),
        ("sid", peer.sid.to_string()),
        ("direction", direction(peer.direction).to_owned()),
        ("kind", kind(peer.kind).to_owned()),
        ("servers", servers(peer)),
    ];
    if peer.secret.is_some() {
        facts.push(("account", peer.account.clone()));
    }
    facts.push(("transit", peer.transit.join(", ")));
    facts.extend(peer.issuers.iter().map(|issuer| ("issuer", issuer.to_string())));
    facts.retain(|(_, value)| !value.is_empty());
    output::facts(&facts);
    Ok(0)
}

fn list(config: &Config, as_json: bool) {
    if as_json {
        let mut own = own_json(config);
        own["peers"] = config.peers.iter().map(peer_json).collect();
        return output::json(&own);
    }
    let domain = &config.domain;
    let own = vec![
        domain.netbios.clone(),
        String::new(),
        "served here".to_owned(),
        config.server.clone(),
        domain.sid.to_string(),
    ];
    let peers = config.peers.iter().map(|peer| {
        vec![
            peer.domain.clone(),
            direction(peer.direction).to_owned(),
            kind(peer.kind).to_owned(),
            servers(peer),
            peer.sid.to_string(),
        ]
    });
    output::table(
        &["domain", "direction", "kind", "servers", "sid"],
        std::iter::once(own).chain(peers).collect(),
    );
}
