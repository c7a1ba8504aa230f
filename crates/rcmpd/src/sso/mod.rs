//! The master secret server ([MS-SSP]): its interface on a port of its own, and what stands behind its traits.

mod accounts;
mod aging;
mod audit;
mod authentication;
pub mod client;
mod findings;
mod keytab;
mod metrics;
mod registration;
mod secrets;

pub use authentication::{Stores, providers};
pub use findings::{SsoFindings, check};
pub use keytab::WatchedKeytab;
pub use metrics::SsoMetrics;
pub use registration::Registration;
pub use secrets::{LiveSecrets, passphrase, seal_source, store};

use crate::config;
use crate::forward::trace;
use account_store::AccountStore;
use accounts::CurrentAccounts;
use aging::Aging;
use anyhow::Context;
use arc_swap::ArcSwap;
use audit::SsoAudit;
use audit_log::AuditLog;
use dcerpc::endpoint_mapper::Endpoint;
use dcerpc::pdu::{FaultStatus, SyntaxId};
use dcerpc::server::Reply;
use dcerpc_tokio::{Interface, Registry, RpcCall, SecurityProvider, Server, listen_on};
use dtyp::Decode;
use rcmp_service::CallContext;
use rpc_auth_tokio::{AuthAudit, AuthCounters};
use sso_service::{AccessRules, MASTER_SECRET, MasterSecretCall, MasterSecretServer, NdrRange, Outcome};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::service_fn;
use tower::util::BoxCloneSyncService;
use tracing::{Instrument, field, info, warn};

/// What a reload replaces.
#[derive(Debug)]
struct Policy {
    rules: AccessRules,
    range: NdrRange,
}

/// The service, wired.
#[derive(Clone)]
pub struct Sso(Arc<Inner>);

struct Inner {
    server: MasterSecretServer,
    policy: ArcSwap<Policy>,
    secrets: Arc<LiveSecrets>,
    audit: Arc<SsoAudit>,
    metrics: SsoMetrics,
    keytab: Option<Arc<WatchedKeytab>>,
}

impl std::fmt::Debug for Sso {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sso")
    }
}

/// Where the service listens.
pub struct Bound {
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
}

impl Bound {
    /// Binds the addresses of the configuration.
    pub async fn bind(section: &config::Sso) -> anyhow::Result<Self> {
        let mut listeners = Vec::new();
        for address in &section.listen {
            listeners.push(listen_on(*address, "sso.listen").await?);
        }
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>();
        Ok(Self { listeners, addresses: addresses.context("a listener has no address")? })
    }

    /// What clients look up: each address in both transfer syntaxes.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let in_syntax = |address: &SocketAddr, transfer_syntax| Endpoint {
            interface: MASTER_SECRET,
            transfer_syntax,
            address: *address,
            annotation: "rcmpd master secret",
        };
        let both = |address| [SyntaxId::NDR, SyntaxId::NDR64].map(|syntax| in_syntax(address, syntax));
        self.addresses.iter().flat_map(both).collect()
    }
}

impl Sso {
    /// Wires the service. `accounts` are those of the local store, if there is one with NT hashes.
    pub fn new(
        section: &config::Sso,
        secrets: Arc<LiveSecrets>,
        accounts: Option<Arc<dyn AccountStore>>,
        audit: Arc<AuditLog>,
    ) -> anyhow::Result<Self> {
        let keytab = section.kerberos.as_ref().map(|kerberos| WatchedKeytab::open(&kerberos.keytab));
        let keytab = keytab.transpose()?.map(Arc::new);
        let audit = Arc::new(SsoAudit::new(audit));
        let accounts = Arc::new(CurrentAccounts(accounts));
        let server = MasterSecretServer::new(Arc::clone(&secrets) as _, accounts, Arc::clone(&audit) as _);
        let metrics = SsoMetrics::default();
        let policy = ArcSwap::from_pointee(policy(section));
        Ok(Self(Arc::new(Inner { server, policy, secrets, audit, metrics, keytab })))
    }

    /// The keys of the service, if it speaks Kerberos.
    pub fn keytab(&self) -> Option<&Arc<WatchedKeytab>> {
        self.0.keytab.as_ref()
    }

    /// What providers of this service count with.
    pub fn authentications(&self) -> AuthCounters {
        self.0.metrics.authentications.clone()
    }

    /// What records users who were not authenticated.
    pub fn authentication_audit(&self) -> Arc<dyn AuthAudit> {
        Arc::clone(&self.0.audit) as _
    }

    /// Registers all metrics of the service.
    pub fn register(&self, registry: &mut prometheus_client::registry::Registry) {
        self.0.metrics.register(registry, &self.0.secrets);
    }

    /// Takes over what a reload may change.
    pub fn reload(&self, section: &config::Sso) {
        self.0.policy.store(Arc::new(policy(section)));
    }

    /// Whether an older sealed file was put back.
    pub fn is_rolled_back(&self) -> bool {
        self.0.secrets.facts().is_rolled_back
    }

    /// Reads the sealed file, and asks its sealing source again. Blocks.
    pub fn reload_secret(&self) {
        self.0.secrets.reload();
    }

    /// Answers further calls with RPC_S_SERVER_UNAVAILABLE.
    pub fn stop(&self) {
        self.0.secrets.stop();
    }

    /// The interface, with the management interface that Samba's client needs to reach it.
    pub fn registry(&self, section: &config::Sso, providers: &[Arc<dyn SecurityProvider>]) -> Registry {
        let sso = self.clone();
        let service = service_fn(move |call: RpcCall| {
            let sso = sso.clone();
            async move { sso.answer(call).await }
        });
        let interface = Interface {
            syntax: MASTER_SECRET,
            name: "master secret",
            service: BoxCloneSyncService::new(service),
        };
        let registry = Registry::default().interface(interface).management();
        providers.iter().fold(registry, |registry, provider| {
            registry.provider(Arc::new(Aging::new(Arc::clone(provider), section.max_context_age)))
        })
    }

    /// Serves on the bound listeners.
    pub fn serve(bound: Bound, server: &Arc<Server>, tasks: &TaskTracker) {
        for (listener, address) in bound.listeners.into_iter().zip(bound.addresses) {
            info!(%address, "Serving the master secret");
            tasks.spawn(Arc::clone(server).listen(listener));
        }
    }

    /// Watches the sealed file, and writes counts of refusals, until the shutdown.
    pub async fn watch(self, shutdown: CancellationToken) {
        let mut second = tokio::time::interval(secrets::WATCH_INTERVAL);
        let mut minute = tokio::time::interval(audit::FLUSH_INTERVAL);
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = second.tick() => {
                    let inner = Arc::clone(&self.0);
                    let look = move || {
                        inner.secrets.look();
                        inner.keytab.as_ref().inspect(|keytab| keytab.look());
                    };
                    let _ = tokio::task::spawn_blocking(look).await;
                }
                _ = minute.tick() => self.0.audit.flush(),
            }
        }
        self.0.audit.flush();
    }

    async fn answer(&self, RpcCall { peer, call, .. }: RpcCall) -> Result<Reply, FaultStatus> {
        let span = tracing::info_span!(
            target: "rcmpd::call",
            "RemoteGetMasterSecret",
            otel.kind = "server",
            client.addr = %peer.address,
            server = field::Empty,
            sso.generation = field::Empty,
            sso.result = field::Empty,
        );
        // The trace of the caller comes under the seal, as between other nodes of ours.
        if let Some(Ok(context)) =
            call.extension.as_deref().map(|bytes| CallContext::from_bytes("CallContext", bytes))
        {
            trace::take(&span, &context);
        }
        self.answer_within(MasterSecretCall { address: peer.address, call }, &span)
            .instrument(span.clone())
            .await
    }

    async fn answer_within(
        &self,
        call: MasterSecretCall,
        span: &tracing::Span,
    ) -> Result<Reply, FaultStatus> {
        let Inner { server, policy, audit, metrics, .. } = &*self.0;
        let policy = policy.load_full();
        let answer = server.answer(&policy.rules, policy.range, &call).await;
        metrics.count(&answer);
        let result = answer.outcome.code().and_then(sso_service::ReturnCode::name).unwrap_or("fault");
        span.record("sso.result", result);
        if let Outcome::Delivered { generation } = answer.outcome {
            span.record("sso.generation", generation);
        }
        if let Outcome::Failed { code, detail } = &answer.outcome {
            audit.once(code.name().unwrap_or_default(), || {
                warn!(client.addr = %call.address, %code, detail, "Master secret not delivered");
            });
        }
        if let Some(user) = &answer.user {
            audit.answered(call.address, user, &answer.outcome);
        }
        answer.reply.map(Reply::from)
    }
}

fn policy(section: &config::Sso) -> Policy {
    Policy { rules: section.rules.clone(), range: section.ndr_range }
}
