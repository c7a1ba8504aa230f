//! The master secret server among the services of a process.

use crate::config::{self, Config};
use crate::sso::operators::BoundOperators;
use crate::sso::{self, Bound, LiveSecrets, Policy, Sso};
use audit_log::AuditLog;
use dcerpc_tokio::{Endpoints, Registry, SecurityProvider, Server, listen_on};
use sso_tokio::Registration;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

/// What can fail before a port is bound.
pub(super) struct SsoParts {
    service: Sso,
    providers: Vec<Arc<dyn SecurityProvider>>,
}

/// The service, while it serves.
pub(super) struct RunningSso {
    pub(super) service: Sso,
    pub(super) server: Arc<Server>,
    pub(super) registration: Option<Registration>,
}

/// The endpoint mapper. Hardened clients authenticate to it, too.
pub(super) fn endpoint_mapper(mapped: &Endpoints, providers: &[Arc<dyn SecurityProvider>]) -> Registry {
    let registry = Registry::default().endpoint_mapper(mapped.clone()).management();
    providers.iter().fold(registry, |registry, provider| registry.provider(Arc::clone(provider)))
}

impl SsoParts {
    /// What authenticates users.
    pub(super) fn providers(&self) -> &[Arc<dyn SecurityProvider>] {
        &self.providers
    }

    pub(super) async fn load(
        config: &Config,
        section: &config::Sso,
        stores: Option<&sso::Stores>,
        audit: &Arc<AuditLog>,
    ) -> anyhow::Result<Self> {
        // One store, so that a passphrase or a PIN is used once.
        let store = sso::store(section);
        let found = sso::check(config, section, &store);
        if let Some(problem) = found.problems.first() {
            anyhow::bail!("the master secret cannot be served: {}", problem.text);
        }
        for finding in found.warnings {
            warn!(finding = finding.text, "Master secret needs an operator");
        }
        let secrets = Arc::new(LiveSecrets::open(store));
        let service = Sso::new(config, section, secrets, stores, Arc::clone(audit)).await?;
        let providers = sso::providers(config, section, stores, &service)?;
        Ok(Self { service, providers })
    }

    /// Binds and serves. `mapper` is the endpoint mapper of `[rpc]`, and `mapped` what is registered there.
    pub(super) async fn serve(
        self,
        config: &Config,
        (mapped, mapper): (&Endpoints, Option<SocketAddr>),
        shutdown: &CancellationToken,
        tasks: &TaskTracker,
    ) -> anyhow::Result<RunningSso> {
        let Self { service, providers } = self;
        let Some(section) = &config.sso else { anyhow::bail!("there is no [sso]") };
        let registry = service.registry(section, &providers);
        let server = Server::new(registry, section.limits, shutdown.child_token(), tasks.clone());
        let bound = Bound::bind(section).await?;
        let endpoints = bound.endpoints();
        let mapper = match section.endpoint_mapper {
            Some(address) => {
                let listener = listen_on(address, "sso.endpoint_mapper").await?;
                let address = listener.local_addr()?;
                info!(%address, "Serving the endpoint mapper");
                tasks.spawn(server.beside(endpoint_mapper(mapped, &providers)).listen(listener));
                Some(address)
            }
            None => mapper,
        };
        let registration = mapper.map(|mapper| Registration::new(mapper, mapped.clone(), endpoints));
        Sso::serve(bound, &server, tasks);
        if let Some(registration) = &registration {
            tasks.spawn(registration.clone().watch(shutdown.clone()));
        }
        if let Some(socket) = &section.operator_socket {
            let bound = BoundOperators::bind(socket)?;
            tasks.spawn(bound.serve(service.clone(), section.clone(), shutdown.clone(), tasks.clone()));
        }
        tasks.spawn(service.clone().watch(shutdown.clone()));
        Ok(RunningSso { service, server, registration })
    }
}

impl RunningSso {
    /// Takes over what a reload changed, and asks the sealing source again.
    pub(super) async fn take_over(&self, policy: Policy) {
        self.service.take_over(policy);
        let service = self.service.clone();
        let _ = tokio::task::spawn_blocking(move || service.reload_secret()).await;
    }

    /// Tells clients that the server is stopping, before the port closes.
    pub(super) async fn drain(&self, time: Duration) {
        if let Some(registration) = &self.registration {
            registration.unregister();
        }
        self.service.stop();
        tokio::time::sleep(time).await;
    }
}
