//! Domains whose controllers check the proofs and passwords of their users.

use crate::config::{self, Config};
use crate::forward::servers_of;
use anyhow::Context;
use netlogon_tokio::Servers;
use rpc_auth::ntlm::{DomainNames, ProofChecker};
use rpc_auth_tokio::DomainChecker;
use std::sync::Arc;

/// A domain with its controllers.
#[derive(Clone)]
pub(crate) struct CheckedDomain {
    /// NetBIOS name.
    pub(crate) domain: String,
    /// Its domain controllers.
    pub(crate) servers: Arc<Servers>,
    /// What is compared with the names that a client sends.
    pub(crate) names: DomainNames,
    /// Asks the controllers.
    pub(crate) checker: Arc<dyn ProofChecker>,
}

impl CheckedDomain {
    /// The domains of a configuration. Opens no connection.
    pub(crate) fn all<'a>(
        config: &Config,
        domains: impl IntoIterator<Item = &'a config::CheckedDomain>,
    ) -> anyhow::Result<Vec<Self>> {
        domains.into_iter().map(|domain| Self::new(config, domain)).collect()
    }

    fn new(
        config: &Config,
        config::CheckedDomain { peer, computers }: &config::CheckedDomain,
    ) -> anyhow::Result<Self> {
        let servers = servers_of(config, peer)?;
        let servers = servers.with_context(|| format!("the domain {} has no servers", peer.domain))?;
        let (servers, domain) = (Arc::new(servers), peer.domain.clone());
        let names = DomainNames { netbios: domain.clone(), dns: peer.names.clone() };
        let checker = DomainChecker::new(Arc::clone(&servers), domain.clone(), peer.timeout, *computers);
        Ok(Self { domain, servers, names, checker: Arc::new(checker) })
    }

    /// Its entry in the router. There is one, whatever the number of names: guesses are counted by entry.
    pub(crate) fn route(&self) -> (DomainNames, Arc<dyn ProofChecker>) {
        (self.names.clone(), Arc::clone(&self.checker))
    }
}
