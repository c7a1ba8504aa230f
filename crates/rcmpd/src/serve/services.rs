//! The services of a configuration: loaded, then serving.

use super::admin_tls::CurrentTls;
use super::health::Health;
use super::shared_channels::SharedTables;
use super::sso::{RunningSso, SsoParts};
use super::store_health::StoreHealth;
use super::{
    AuditLog, Running, accounts, admin, http, listen, metrics, operators, registry, replica, status,
};
use crate::config::{self, Config};
use crate::deciders::{CurrentPolicy, Deciders};
use crate::sidecar::Sidecar;
use crate::socket_activation::PassedSockets;
use crate::stores::{self, Served};
use crate::telemetry::{AuditCopies, LogFilter, Losses};
use crate::tlsnego::{self, Tlsnego};
use account_store::DomainStore;
use anyhow::Context;
use arc_swap::ArcSwap;
use dcerpc_tokio::{Endpoints, Server};
use listener_tokio::connections::ConnectionMeter;
use netlogon_transport::server::NetlogonServer;
use prometheus_client::registry::Registry;
use rcmp_service::MissLimits;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use store_postgres::PostgresStore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use zeroize::Zeroizing;

/// What serves clients is one tree: cancelling the token closes every listener, and connections end after
/// what is in flight is answered. The tracker knows each of these tasks.
#[derive(Default)]
pub(super) struct Tree {
    /// Sockets of the service manager, until a listener takes them.
    pub(super) passed_sockets: PassedSockets,
    pub(super) shutdown: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// The parts of the services. No port is bound yet, so what is missing is found before a client is served.
pub(super) struct Services {
    machines: Option<Arc<dyn DomainStore>>,
    channels: Option<Arc<PostgresStore>>,
    audit: Arc<AuditLog>,
    current: Option<CurrentPolicy>,
    store: Option<StoreHealth>,
    sidecar: Option<Sidecar>,
    sso: Option<SsoParts>,
    tlsnego: Option<Tlsnego>,
}

impl Services {
    pub(super) async fn load(config: &Config, copies: Option<AuditCopies>) -> anyhow::Result<Self> {
        let opened = open_store(config).await?;
        let local_users = opened.as_ref().and_then(|opened| opened.local_users(config));
        let passwords = opened.as_ref().map(Opened::passwords);
        let channels = opened.as_ref().and_then(|opened| opened.0.channels.clone());
        let (machines, database) = opened.map(|opened| (opened.0.machines, opened.0.database)).unzip();
        let accounts = accounts(config, machines.as_ref()).await?;
        let audit = AuditLog::open(&config.audit)?;
        let audit = match copies {
            Some(AuditCopies { records, lost }) => audit.recording(records, lost),
            None => audit,
        };
        let deciders = match &config.mapping {
            Some(mapping) => Some(Deciders::load(mapping, 1, accounts, config, None).await?),
            None => None,
        };
        let audit = Arc::new(match &deciders {
            Some(deciders) => audit.counting(deciders.metrics.over_audit_budget()),
            None => audit,
        });
        let current = deciders.map(|deciders| CurrentPolicy(Arc::new(ArcSwap::from_pointee(deciders))));
        let store = database.map(|database| StoreHealth::new(database, current.clone()));
        let sidecar = config.sidecar.as_ref().zip(current.as_ref());
        let sidecar = sidecar.map(|(sidecar, current)| Sidecar::load(config, sidecar, current, &audit));
        let sidecar = sidecar.transpose()?;
        let sso = match &config.sso {
            Some(section) => Some(SsoParts::load(config, section, local_users.as_ref(), &audit).await?),
            None => None,
        };
        let tlsnego = match &config.tlsnego {
            Some(section) => {
                let files = tlsnego::FilesOnce::default();
                for finding in tlsnego::findings(config, section, &files)? {
                    warn!(finding, "Check [tlsnego]");
                }
                Some(Tlsnego::load(config, section, &files, passwords, current.as_ref(), &audit)?)
            }
            None => None,
        };
        Ok(Self { machines, channels, audit, current, store, sidecar, sso, tlsnego })
    }

    /// Binds the ports and serves, with so many connections of `[rpc]` at most.
    pub(super) async fn serve(
        self,
        config: &Config,
        connections_max: usize,
        tree: &Tree,
    ) -> anyhow::Result<Serving> {
        let Tree { passed_sockets, shutdown, tasks } = tree;
        let endpoints = Endpoints::default();
        let (server, netlogon, mapper) = self.serve_rpc(config, connections_max, &endpoints, tree).await?;
        let Self { machines, audit, current, store, sidecar, sso, tlsnego, .. } = self;
        let sso = match sso {
            Some(parts) => Some(parts.serve(config, (&endpoints, mapper), shutdown, tasks).await?),
            None => None,
        };
        let mut connections = Vec::new();
        if let (Some(sidecar), Some(section)) = (&sidecar, &config.sidecar) {
            let listeners = sidecar.bind(section, shutdown, passed_sockets).await?;
            connections = listeners.meters();
            tasks.spawn(listeners.serve());
        }
        if let (Some(tlsnego), Some(section)) = (&tlsnego, &config.tlsnego) {
            connections.push(tlsnego.serve(Tlsnego::bind(section).await?, shutdown, tasks));
        }
        if let Some(store) = &store {
            tasks.spawn(shutdown.clone().run_until_cancelled_owned(store.clone().watch()));
        }
        Ok(Serving { machines, audit, current, store, sidecar, sso, tlsnego, server, netlogon, connections })
    }

    /// Serves Netlogon and the endpoint mapper, whose address is returned.
    async fn serve_rpc(
        &self,
        config: &Config,
        connections_max: usize,
        endpoints: &Endpoints,
        tree: &Tree,
    ) -> anyhow::Result<(Option<Arc<Server>>, Option<NetlogonServer>, Option<SocketAddr>)> {
        let (Some(rpc), Some(machines), Some(current)) = (&config.rpc, &self.machines, &self.current) else {
            return Ok((None, None, None));
        };
        let shared = self.channels.clone().map(|store| Arc::new(SharedTables::new(store)) as _);
        let machines = Arc::clone(machines) as _;
        let misses = Arc::new(MissLimits::new(rpc.misses));
        let audit = Arc::clone(&self.audit);
        let (registry, netlogon) =
            registry(config, machines, shared, current.clone(), audit, Arc::clone(&misses));
        let limits = dcerpc_tokio::Limits { connections_max, ..rpc.limits };
        let server = Server::new(registry, limits, tree.shutdown.child_token(), tree.tasks.clone());
        let providers = self.sso.as_ref().map_or(&[][..], SsoParts::providers);
        let (addresses, mapper) = listen(rpc, &server, (endpoints, providers), tree).await?;
        if let Some(store) = &self.channels {
            tree.tasks.spawn(replica::announce(Arc::clone(store), addresses, misses, tree.shutdown.clone()));
        }
        Ok((Some(server), Some(netlogon), mapper))
    }
}

/// The services, with their ports bound.
pub(super) struct Serving {
    pub(super) machines: Option<Arc<dyn DomainStore>>,
    pub(super) audit: Arc<AuditLog>,
    pub(super) current: Option<CurrentPolicy>,
    store: Option<StoreHealth>,
    sidecar: Option<Sidecar>,
    pub(super) sso: Option<RunningSso>,
    tlsnego: Option<Tlsnego>,
    server: Option<Arc<Server>>,
    netlogon: Option<NetlogonServer>,
    /// What counts connections, until it is registered.
    connections: Vec<ConnectionMeter>,
}

impl Serving {
    /// Registers the metrics of everything that is served. It is called once.
    pub(super) fn metrics(
        &mut self,
        port: Option<&http::Port>,
        health: &Health,
        losses: &Losses,
    ) -> Arc<Registry> {
        let mut connections = std::mem::take(&mut self.connections);
        connections.extend(port.iter().flat_map(|port| port.meters()));
        let sso = self.sso.as_ref();
        let parts = metrics::Parts {
            server: self.server.as_deref().or(sso.map(|sso| &*sso.server)),
            sso: sso.map(|sso| &sso.service),
            policy: self.current.as_ref(),
            netlogon: self.netlogon.as_ref(),
            audit: &self.audit,
            store: self.store.as_ref(),
            sidecar: self.sidecar.as_ref(),
            tlsnego: self.tlsnego.as_ref(),
            health,
            losses,
            connections,
        };
        Arc::new(metrics::registry(parts))
    }

    /// Serves the admin port of the configuration at `path`, for as long as the process lives.
    pub(super) fn serve_admin(
        &self,
        (path, config): (&Path, &Config),
        (port, admin): (http::Port, &config::Admin),
        (token, log_filter): (Option<Zeroizing<String>>, LogFilter),
        (health, metrics): (&Health, Arc<Registry>),
    ) {
        let addresses = port.addresses();
        if let [_, with_tls] = addresses[..] {
            info!(address = %with_tls, "Serving operators with certificates");
        }
        if let Some(address) = addresses.first() {
            info!(operators = token.is_some(), %address, "Serving the admin port");
        }
        let sso = self.sso.as_ref();
        let servers =
            metrics::asked_servers(self.current.as_ref(), sso.map(|sso| &sso.service), self.tlsnego.as_ref());
        let shared = admin::Shared {
            state: status::State {
                health: health.clone(),
                store: self.store.clone(),
                policy: self.current.clone(),
                sso: sso.map(|sso| sso.service.clone()),
                registration: sso.and_then(|sso| sso.registration.clone()),
                server: self.server.clone().or(sso.map(|sso| Arc::clone(&sso.server))),
                netlogon: self.netlogon.clone(),
                store_kind: config.store.as_ref().map(|store| stores::kind_name(&store.kind)),
                servers: Arc::new(servers),
                audit: Arc::clone(&self.audit),
                log_filter,
                config: path.display().to_string(),
                domain: config.domain.clone(),
                server_name: config.server.clone(),
            },
            sidecar: self.sidecar.as_ref().map(|sidecar| Arc::clone(&sidecar.current)),
            operators: token.map(|token| Arc::new(operators::Operators::new(admin, token, &addresses))),
            tlsnego: self.tlsnego.clone(),
            metrics,
        };
        tokio::spawn(port.serve(shared));
    }

    /// What a reload starts from.
    pub(super) fn running<'a>(
        &'a self,
        config: &'a Config,
        admin_tls: Option<&'a CurrentTls>,
    ) -> Running<'a> {
        Running {
            config,
            machines: self.machines.as_ref(),
            current: self.current.as_ref(),
            sidecar: self.sidecar.as_ref(),
            sso: self.sso.as_ref(),
            tlsnego: self.tlsnego.as_ref(),
            audit: &self.audit,
            admin_tls,
        }
    }
}

/// The store of a configuration, opened.
struct Opened(Served);

impl Opened {
    /// The users of `[sso.ntlm]`.
    fn local_users(&self, config: &Config) -> Option<crate::sso::Stores> {
        let has_users = config.sso.as_ref().is_some_and(config::Sso::has_local_users);
        let hashes = self.0.hashes.as_ref().filter(|_| has_users)?;
        Some(crate::sso::Stores { accounts: Arc::clone(&self.0.machines) as _, hashes: Arc::clone(hashes) })
    }

    /// The users of `[tlsnego]`.
    fn passwords(&self) -> tlsnego::Stores {
        tlsnego::Stores {
            accounts: Arc::clone(&self.0.machines) as _,
            hashes: self.0.password_hashes.clone(),
        }
    }
}

async fn open_store(config: &Config) -> anyhow::Result<Option<Opened>> {
    if config.store.is_none() {
        return Ok(None);
    }
    let needed_by = stores::key_needed_by(config);
    let opened = stores::served_machines(config, needed_by.is_some()).await;
    Ok(Some(Opened(match needed_by {
        Some(why) => opened.context(why)?,
        None => opened?,
    })))
}
