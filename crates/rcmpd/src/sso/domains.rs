//! Domains whose controllers check the NTLM proofs of their users.

use crate::config::{self, Config};
use crate::forward::servers_of;
use anyhow::Context;
use netlogon_tokio::Servers;
use rpc_auth::ntlm::{DomainNames, ProofChecker, ServerNames};
use rpc_auth_tokio::DomainChecker;
use std::sync::Arc;

/// A domain with its controllers.
#[derive(Clone)]
pub(super) struct CheckedDomain {
    /// NetBIOS name.
    pub(super) domain: String,
    /// Its domain controllers.
    pub(super) servers: Arc<Servers>,
    /// What the router compares with the names that a client sends.
    names: DomainNames,
    checker: Arc<dyn ProofChecker>,
}

impl CheckedDomain {
    /// The domains of a configuration. Opens no connection.
    pub(super) fn all(config: &Config, section: &config::Sso) -> anyhow::Result<Vec<Self>> {
        let domains = section.ntlm.iter().flat_map(|ntlm| &ntlm.domains);
        domains.map(|domain| Self::new(config, domain)).collect()
    }

    fn new(
        config: &Config,
        config::NtlmDomain { peer, computers }: &config::NtlmDomain,
    ) -> anyhow::Result<Self> {
        let servers = servers_of(config, peer)?.context("a domain of [sso.ntlm] has no servers")?;
        let (servers, domain) = (Arc::new(servers), peer.domain.clone());
        let names = DomainNames { netbios: domain.clone(), dns: peer.names.clone() };
        let checker = DomainChecker::new(Arc::clone(&servers), domain.clone(), peer.timeout, *computers);
        Ok(Self { domain, servers, names, checker: Arc::new(checker) })
    }

    /// Its entry in the router. There is one, whatever the number of names: guesses are counted by entry.
    pub(super) fn route(&self) -> (DomainNames, Arc<dyn ProofChecker>) {
        (self.names.clone(), Arc::clone(&self.checker))
    }
}

/// The names that a CHALLENGE carries. Where a domain controller checks proofs, they are those of our member
/// of its domain: hardened controllers compare them with the account of the channel ([MS-APDS] 3.1.5.2).
pub(super) fn server_names(config: &Config, ntlm: &config::Ntlm) -> ServerNames {
    let member_of =
        ntlm.domains.first().and_then(|domain| Some((&domain.peer.domain, domain.peer.names.first()?)));
    let (netbios, dns) = member_of.unwrap_or((&config.domain.netbios, &config.domain.dns));
    ServerNames {
        netbios_computer: config.server.clone(),
        netbios_domain: netbios.clone(),
        dns_computer: Some(format!("{}.{dns}", config.server.to_lowercase())),
        dns_domain: Some(dns.clone()),
        dns_tree: None,
    }
}

/// Domains whose controllers would refuse each proof, because the CHALLENGE does not carry the names of the
/// channel's account.
pub(super) fn misfits(config: &Config, ntlm: &config::Ntlm) -> Vec<String> {
    let names = server_names(config, ntlm);
    let fit = |peer: &config::Peer| names.fit_channel(&peer.account, &peer.domain).err();
    let found = ntlm.domains.iter().filter_map(|domain| Some((&domain.peer.domain, fit(&domain.peer)?)));
    found.map(|(domain, misfit)| format!("[[sso.ntlm.domain]] {domain}: {misfit}")).collect()
}
