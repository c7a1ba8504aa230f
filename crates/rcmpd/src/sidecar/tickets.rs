//! The roots of a farm's tickets, and the digest of the policy by which they are made.

use crate::config::{self, Config};
use crate::ticket_roots;
use ed25519_file::PublicKey;
use sha2::{Digest, Sha256};
use sidecar::{Farm, POLICY_LEN};
use std::path::PathBuf;
use trust_tokio::certificates;

/// Reads what `[sidecar.ticket]` names.
pub(super) fn farm(
    config: &Config,
    sidecar: &config::Sidecar,
    ticket: &config::Ticket,
) -> anyhow::Result<Farm> {
    Ok(Farm {
        roots: ticket_roots::read(&ticket.keys, ticket.seal_with, "[sidecar.ticket]")?,
        audience: ticket.audience.clone(),
        cookie: ticket.cookie.clone(),
        lifetime: ticket.lifetime,
        policy: policy(config, sidecar, ticket)?,
    })
}

/// SHA-256 of everything that decides what the server is asked about a certificate, and how its answer is
/// read. It is the same on all nodes that are configured alike: names of files, addresses and revisions are
/// not in it. Routes and headers are not in it either, because each node uses its own with a ticket as
/// without one.
///
/// The server answers a machine account within its scope, which a node does not know. So either the account
/// or the operator's name for the scope is in it.
fn policy(
    config: &Config,
    sidecar: &config::Sidecar,
    ticket: &config::Ticket,
) -> anyhow::Result<[u8; POLICY_LEN]> {
    let mut hash = Sha256::new();
    let mut part = |name: &str, octets: &[u8]| {
        for octets in [name.as_bytes(), octets] {
            hash.update((octets.len() as u64).to_le_bytes());
            hash.update(octets);
        }
    };
    part("domain", config.domain.netbios.to_uppercase().as_bytes());
    part("domain SID", config.domain.sid.to_string().as_bytes());
    part("methods", &sidecar.methods.0.to_le_bytes());
    match (&ticket.scope, &config.client) {
        (Some(scope), _) => part("scope", scope.as_str().as_bytes()),
        (None, Some(client)) => part("account", client.account.to_uppercase().as_bytes()),
        (None, None) => {}
    }
    let mut keys = Vec::new();
    for (domain, path) in config.client.iter().flat_map(|client| &client.proof_keys) {
        keys.push((domain.to_uppercase(), PublicKey::read(path)?.bytes()));
    }
    keys.sort();
    for (domain, key) in &keys {
        part("proof key", &[domain.as_bytes(), b"=", key].concat());
    }
    if let Some(mapping) = &config.mapping {
        let trust = &mapping.trust;
        part("validation", mapping.policy.validation.name().as_bytes());
        for (name, paths) in [("anchor", &trust.anchors), ("intermediate", &trust.intermediates)] {
            for certificate in all_of(paths)? {
                part(name, &certificate);
            }
        }
        let rules = (&trust.extended_key_usages, trust.require_extended_key_usage, &trust.policies);
        part("rules", format!("{:?}", (rules, trust.client_rsa_bits)).as_bytes());
        let mut authorities = Vec::new();
        for entry in &mapping.authorities {
            let certificates = all_of(std::slice::from_ref(&entry.certificate))?;
            authorities.push(format!("{:?}", (certificates, &entry.path_policies)));
        }
        authorities.sort();
        authorities.iter().for_each(|authority| part("authority", authority.as_bytes()));
    }
    Ok(hash.finalize().into())
}

/// The certificates of these files, whatever the files are called and in which order they are.
fn all_of(paths: &[PathBuf]) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    for path in paths {
        all.extend(certificates::read_trusted(path)?);
    }
    all.sort();
    Ok(all)
}
