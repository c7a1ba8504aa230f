//! The master secret server ([MS-SSP]): its interface on a port of its own, and what stands behind its
//! traits.

mod accounts;
mod audit;
mod authentication;
mod domains;
mod findings;
mod keytab;
mod metrics;
pub mod operations;
pub mod operators;
mod secrets;
pub(crate) mod socket_folder;

pub use accounts::Stores;
pub use authentication::providers;
pub use findings::check;
pub use keytab::WatchedKeytab;
pub use metrics::SsoMetrics;
pub use secrets::{LiveSecrets, passphrase, seal_source, store, token_key};

use crate::checked_domains::CheckedDomain;
use crate::config::{self, Config};
use account_store::AccountStore;
use accounts::{CurrentAccounts, PasswordMarks, look_up};
use anyhow::Context;
use arc_swap::ArcSwap;
use audit::SsoAudit;
use audit_log::AuditLog;
use dcerpc::endpoint_mapper::Endpoint;
use dcerpc::pdu::{FaultStatus, SyntaxId};
use dcerpc::server::Reply;
use dcerpc_tokio::{Interface, Registry, RpcCall, SecurityProvider, Server, listen_on};
use dtyp::Decode;
use keytab::MachineAccounts;
use netlogon_tokio::Servers;
use operations::{Done, Keep, Operation, Right};
use rcmp_service::CallContext;
use rpc_auth::kerberos::ReplayCache;
use rpc_auth_tokio::{AuthAudit, AuthCounters};
use sso_secret::Recipient;
use sso_service::{AccessRules, MASTER_SECRET, MasterSecretCall, MasterSecretServer, NdrRange, Outcome};
use sso_tokio::{Aging, Clocks};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::service_fn;
use tower::util::BoxCloneSyncService;
use trace_context as trace;
use tracing::{info, warn};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Those of the process.
const CLOCKS: Clocks = Clocks { now: crate::clock::now, uptime: crate::clock::uptime };

/// What a reload replaces.
#[derive(Debug)]
pub struct Policy {
    rules: AccessRules,
    range: NdrRange,
    operators: Vec<config::Operator>,
    backup_recipients: Vec<Recipient>,
}

/// The service, wired.
#[derive(Clone)]
pub struct Sso(Arc<Inner>);

struct Inner {
    /// NetBIOS name of this server, for spans.
    name: String,
    server: MasterSecretServer,
    policy: ArcSwap<Policy>,
    secrets: Arc<LiveSecrets>,
    audit: Arc<SsoAudit>,
    metrics: SsoMetrics,
    keytab: Option<Arc<WatchedKeytab>>,
    /// One for all listeners, the endpoint mapper's included: they share the keys.
    replay: Arc<ReplayCache>,
    password_marks: PasswordMarks,
    stores: Option<Stores>,
    domains: Vec<CheckedDomain>,
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
    /// Wires the service. `stores` are those of local users, if there are any.
    pub async fn new(
        config: &Config,
        section: &config::Sso,
        secrets: Arc<LiveSecrets>,
        stores: Option<&Stores>,
        audit: Arc<AuditLog>,
    ) -> anyhow::Result<Self> {
        let machines = MachineAccounts::new(config, section);
        let keytab = section.kerberos.as_ref().map(|it| WatchedKeytab::open(&it.keytab, machines));
        let keytab = keytab.transpose()?.map(Arc::new);
        let audit = Arc::new(SsoAudit::new(audit));
        let password_marks = PasswordMarks::new()?;
        let accounts = Arc::new(CurrentAccounts::new(stores.cloned(), password_marks.clone()));
        let server = MasterSecretServer::new(Arc::clone(&secrets) as _, accounts, Arc::clone(&audit) as _);
        let metrics = SsoMetrics::default();
        let policy = ArcSwap::from_pointee(Policy::load(section, stores).await?);
        let domains = section.ntlm.iter().flat_map(|ntlm| &ntlm.domains);
        let domains = CheckedDomain::all(config, domains)?;
        let stores = stores.cloned();
        Ok(Self(Arc::new(Inner {
            name: config.server.clone(),
            server,
            policy,
            secrets,
            audit,
            metrics,
            keytab,
            replay: Arc::default(),
            password_marks,
            stores,
            domains,
        })))
    }

    /// The keys of the service, if it speaks Kerberos.
    pub fn keytab(&self) -> Option<&Arc<WatchedKeytab>> {
        self.0.keytab.as_ref()
    }

    /// The authenticators that were accepted.
    fn replay(&self) -> Arc<ReplayCache> {
        Arc::clone(&self.0.replay)
    }

    /// The domain controllers that check NTLM proofs, with the NetBIOS name of their domain.
    pub fn domain_controllers(&self) -> impl Iterator<Item = (&str, &Arc<Servers>)> {
        self.0.domains.iter().map(|domain| (domain.domain.as_str(), &domain.servers))
    }

    /// What providers of this service count with.
    pub fn authentications(&self) -> AuthCounters {
        self.0.metrics.authentications.clone()
    }

    /// What marks passwords, for the identities of local users.
    fn password_marks(&self) -> &PasswordMarks {
        &self.0.password_marks
    }

    /// What records users who were not authenticated.
    pub fn authentication_audit(&self) -> Arc<dyn AuthAudit> {
        Arc::clone(&self.0.audit) as _
    }

    /// Registers all metrics of the service.
    pub fn register(&self, registry: &mut prometheus_client::registry::Registry) {
        self.0.metrics.register(registry, &self.0.secrets);
        metrics::register_replay_cache(registry, &self.0.replay);
    }

    /// What a reload may change.
    pub async fn load(&self, section: &config::Sso) -> anyhow::Result<Policy> {
        Policy::load(section, self.0.stores.as_ref()).await
    }

    /// Takes over what a reload changed.
    pub fn take_over(&self, policy: Policy) {
        self.0.policy.store(Arc::new(policy));
    }

    /// Whether an older sealed file was put back.
    pub fn is_rolled_back(&self) -> bool {
        self.0.secrets.facts().is_rolled_back
    }

    /// Reads the sealed file, and asks its sealing source again. Blocks.
    pub fn reload_secret(&self) {
        self.0.secrets.reload();
    }

    /// Does what an operator asks, with its audit lines. Blocks.
    fn operate(
        &self,
        operation: &Operation,
        section: &config::Sso,
        (uid, user): (u32, Option<&str>),
        keep: Keep<'_>,
    ) -> anyhow::Result<Done> {
        let Inner { secrets, audit, metrics, policy, .. } = &*self.0;
        let command = operation.name();
        let policy = policy.load_full();
        let right = Right::Operator(&policy.backup_recipients);
        if matches!(operation, Operation::Status) {
            return secrets.operate(operation, section, right, keep);
        }
        audit
            .operation(uid, user, command, operation.facts())
            .map_err(|error| anyhow::anyhow!("not done, because the audit log cannot be written: {error}"))?;
        let outcome = secrets.operate(operation, section, right, keep);
        let error = outcome.as_ref().err().map(crate::output::chain);
        audit.operation_ended(uid, user, command, error.as_deref());
        metrics.count_operation(if outcome.is_ok() { "done" } else { "failed" });
        operators::log(uid, user, command, &outcome);
        outcome
    }

    /// Records that a user asked who is no operator.
    fn operator_refused(&self, uid: u32, user: Option<&str>, command: &str) {
        self.0.metrics.count_operation("refused");
        self.0.audit.operator_refused(uid, user, command);
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
            method: |opnum| {
                (opnum == sso_service::REMOTE_GET_MASTER_SECRET).then_some("sso/RemoteGetMasterSecret")
            },
            service: BoxCloneSyncService::new(service),
        };
        let registry = Registry::default().interface(interface).management();
        providers.iter().fold(registry, |registry, provider| {
            registry.provider(Arc::new(Aging::new(Arc::clone(provider), section.max_context_age, CLOCKS)))
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
        let mut recorded = self.0.secrets.facts();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = second.tick() => {
                    let inner = Arc::clone(&self.0);
                    let look = move || {
                        inner.secrets.watch();
                        inner.keytab.as_ref().inspect(|keytab| keytab.look());
                    };
                    let _ = tokio::task::spawn_blocking(look).await;
                    let facts = self.0.secrets.facts();
                    if facts != recorded {
                        self.0.audit.changed(&recorded, &facts);
                        recorded = facts;
                    }
                }
                _ = minute.tick() => self.0.audit.flush(),
            }
        }
        self.0.audit.flush();
    }

    async fn answer(&self, RpcCall { peer, call, .. }: RpcCall) -> Result<Reply, FaultStatus> {
        let Inner { name, server, policy, audit, metrics, .. } = &*self.0;
        let policy = policy.load_full();
        let call = MasterSecretCall { address: peer.address, call };
        let answer = server.answer(&policy.rules, policy.range, &call).await;
        metrics.count(&answer);
        record(name, call.call.extension.as_deref(), &answer.outcome);
        if let Outcome::Failed { code, detail } = &answer.outcome {
            audit.once(code.name().unwrap_or_default(), || {
                warn!(client.addr = %call.address, %code, detail, "Master secret not delivered");
            });
        }
        match &answer.user {
            Some(user) => audit.answered(call.address, user, &answer.outcome),
            None => audit.below_privacy(call.address, call.call.security.as_ref()),
        }
        answer.reply.map(Reply::from)
    }
}

/// Records a call in its span. A delivery is in the trace of its caller, if that is sampled; it comes under
/// the seal as between other nodes of ours. No user hides a call: an unsampled trace is only linked to a
/// delivery, and other calls are in no trace of their caller's.
fn record(server: &str, extension: Option<&[u8]>, outcome: &Outcome) {
    let span = tracing::Span::current();
    span.set_attribute("sso.server", server.to_owned());
    let result = outcome.code().and_then(sso_service::ReturnCode::name).unwrap_or("fault");
    span.set_attribute("sso.result", result);
    if let Outcome::Delivered { generation } = *outcome {
        span.set_attribute("sso.generation", i64::try_from(generation).unwrap_or(i64::MAX));
        let context = extension.map(|bytes| CallContext::from_bytes("CallContext", bytes));
        if let Some(Ok(context)) = context {
            trace::take_if_sampled(&span, &context);
        }
    }
}

impl Policy {
    /// The policy of the configuration, with the accounts that `local:` entries name now.
    async fn load(section: &config::Sso, stores: Option<&Stores>) -> anyhow::Result<Self> {
        let mut rules = section.rules.clone();
        let store = stores.map(|stores| &*stores.accounts);
        let unknown = look_up(&mut rules.administrators, store).await;
        for name in unknown.context("cannot look up accounts of sso.administrators")? {
            warn!(name, "SSO administrator unknown: {NO_ACCOUNT}");
        }
        let of = section.clone();
        let shared = tokio::task::spawn_blocking(move || operators::shared_accounts(&of)).await?;
        if let Some(problem) = shared.into_iter().next() {
            anyhow::bail!(problem);
        }
        let (operators, backup_recipients) = (section.operators.clone(), section.backup_recipients.clone());
        Ok(Self { rules, range: section.ndr_range, operators, backup_recipients })
    }
}

/// What an operator is told of a `local:` entry without an account.
const NO_ACCOUNT: &str = "no local user has the name, so the entry counts only after a reload that finds one";

/// Warnings about `local:` entries that no account of the store has.
pub async fn unknown_administrators(section: &config::Sso, store: Option<&dyn AccountStore>) -> Vec<String> {
    let unknown = look_up(&mut section.rules.administrators.clone(), store).await.unwrap_or_default();
    unknown.iter().map(|name| format!("sso.administrators names \"local:{name}\": {NO_ACCOUNT}")).collect()
}
