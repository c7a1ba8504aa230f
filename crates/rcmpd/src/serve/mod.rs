//! `rcmpd serve`: from a configuration to listeners, and from a signal to the end.

mod admin;
pub(crate) mod admin_tls;
mod channel_secrets;
mod health;
mod http;
mod metrics;
pub(crate) mod open_files;
mod operators;
mod page;
mod process;
mod rcmp_package;
pub(crate) mod replica;
mod services;
mod shared_channels;
mod sso;
mod status;
mod store_health;

pub use audit_log::AuditLog;
pub use channel_secrets::StoredSecrets;
pub use rcmp_package::RcmpPackage;

use self::admin_tls::CurrentTls;
use crate::clock;
use crate::config::{self, Config, Gone, Sections, StoreKind};
use crate::deciders::{CurrentPolicy, Deciders};
use crate::findings;
use crate::forward::RelayPackage;
use crate::sidecar::Sidecar;
use crate::socket_activation::{ENDPOINT_MAPPER, LISTENERS, NETLOGON as NETLOGON_SOCKET, PassedSockets};
use crate::stores;
use crate::telemetry::{LogFilter, RegistrySlot};
use crate::tlsnego::Tlsnego;
use account_store::{DomainStore, MachineStore};
use anyhow::{Context, bail};
use dcerpc::endpoint_mapper::Endpoint;
use dcerpc::pdu::SyntaxId;
use dcerpc_tokio::{Endpoints, Interface, Peer, Registry, RpcCall, SecurityProvider, Server};
use dtyp::Guid;
use netlogon_transport::message::PrimaryDomain;
use netlogon_transport::package::Packages;
use netlogon_transport::server::{
    NETLOGON, NetlogonCall, NetlogonServer, ServerNames, ServerParts, SharedChannels,
};
use rcmp_service::MissLimits;
use rcmp_service::message::PACKAGE_NAME;
use service_manager::notification;
use services::{Services, Serving, Tree};
use sso::RunningSso;
use sso_service::{AccessRules, NdrRange};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tower::ServiceExt;
use tracing::{error, info, warn};

/// The Netlogon server as a security provider of the runtime.
struct ChannelProvider(NetlogonServer);

impl SecurityProvider for ChannelProvider {
    fn auth_type(&self) -> dcerpc::security::AuthType {
        dcerpc::security::AuthType::NETLOGON
    }

    fn accept<'a>(
        &'a self,
        _: &'a Peer,
        request: dcerpc::server::Authenticate,
    ) -> dcerpc_tokio::BoxFuture<'a, dcerpc::security::Authentication> {
        Box::pin(self.0.accept(request))
    }
}

/// Everything that a port serves, and the server of Netlogon in it. The order of layers, from the network
/// inwards: the association's own limits, then the method, then the package, whose layers are in
/// [`crate::handler`].
pub fn registry(
    config: &Config,
    machines: Arc<dyn MachineStore>,
    shared: Option<Arc<dyn SharedChannels>>,
    policy: CurrentPolicy,
    audit: Arc<AuditLog>,
    misses: Arc<MissLimits>,
) -> (Registry, NetlogonServer) {
    let mut packages = Packages::default();
    for rule in policy.0.load().forwarding.rules() {
        let metrics = policy.0.load().metrics.clone();
        let relay = RelayPackage::new(Arc::clone(rule), Arc::clone(&audit), metrics);
        packages = packages.with(&rule.package, tower::util::BoxCloneSyncService::new(relay));
    }
    let rcmp = RcmpPackage::new(policy.clone(), Arc::clone(&audit), misses);
    let packages = packages.with(PACKAGE_NAME, tower::util::BoxCloneSyncService::new(rcmp));
    let rpc = config.rpc.as_ref();
    let parts = ServerParts {
        names: ServerNames {
            domain: PrimaryDomain {
                netbios: config.domain.netbios.clone(),
                dns: config.domain.dns.clone(),
                guid: Guid::NIL,
                sid: config.domain.sid,
            },
            server: config.server.clone(),
            strict_server_name: rpc.is_some_and(|rpc| rpc.strict_server_name),
        },
        secrets: Arc::new(StoredSecrets::new(machines, policy)),
        packages,
        audit,
        environment: Arc::new(crate::clock::SystemEnvironment),
        response_crypt: rpc.map(|rpc| rpc.response_crypt).unwrap_or_default(),
    };
    let server = match shared {
        Some(shared) => NetlogonServer::with_shared_channels(parts, shared),
        None => NetlogonServer::new(parts),
    };
    let service = server.clone().map_request(|call: RpcCall| NetlogonCall {
        connection: call.peer.connection,
        address: call.peer.address,
        caller: call.connection,
        call: call.call,
    });
    let registry = Registry::default()
        .interface(Interface {
            syntax: NETLOGON,
            name: "netlogon",
            service: tower::util::BoxCloneSyncService::new(service),
        })
        .provider(Arc::new(ChannelProvider(server.clone())))
        .management();
    (registry, server)
}

/// Serves until SIGTERM or SIGINT.
pub async fn run(
    path: &Path,
    config: Config,
    (log_filter, exported): (LogFilter, Option<RegistrySlot>),
    passed_sockets: PassedSockets,
) -> anyhow::Result<()> {
    let maps = config.mapping.is_some() && (config.rpc.is_some() || config.sidecar.is_some());
    if !maps && config.sso.is_none() && config.tlsnego.is_none() {
        bail!(
            "{} enables no service: add [sso], [tlsnego], or [mapping] with [rpc] or [sidecar]",
            path.display()
        );
    }
    let (rpc_connections, others) = open_files::connections_of(&config);
    let connections_max = open_files::raise(rpc_connections, others);
    config.check_files()?;
    let token = config.admin.as_ref().and_then(|admin| admin.token.as_ref());
    let mut token = token.map(|token| token.read()).transpose().context("cannot use admin.token")?;
    if token.is_none() && config.admin.as_ref().is_some_and(|admin| admin.tls.is_some()) {
        // Operators show certificates alone: a random token that is never shown.
        let mut octets = zeroize::Zeroizing::new([0; 32]);
        crate::random::fill(&mut *octets);
        token = Some(zeroize::Zeroizing::new(dtyp::hex(&*octets)));
    }
    let tree = Tree { passed_sockets, ..Tree::default() };
    let services = Services::load(&config).await?;
    // Before the first port is open. So whatever was answered has its lines in the audit log, and a
    // checkpoint, however early a signal comes.
    let mut received = Signals::new()?;
    let mut serving = services.serve(&config, connections_max, &tree).await?;
    let health = health::Health::new();
    let port = match &config.admin {
        Some(admin) => Some(http::Port::bind(admin, &tree.passed_sockets).await?),
        None => None,
    };
    let admin_tls = port.as_ref().and_then(http::Port::tls);
    let metrics = serving.metrics(port.as_ref(), &health);
    if let Some(slot) = exported {
        let _ = slot.set(Arc::clone(&metrics));
    }
    if let (Some(port), Some(admin)) = (port, &config.admin) {
        health.configured(config.sections.keys());
        let served = (path, &config);
        serving.serve_admin(served, (port, admin), (token, log_filter.clone()), (&health, metrics));
    }
    tree.passed_sockets.check_all_taken(&LISTENERS)?;
    if let Some(current) = &serving.current {
        let deciders = current.0.load_full();
        findings::shared_names(&deciders.live).iter().for_each(findings::Warning::log);
        warn_of_findings(&config, &deciders, serving.machines.as_deref()).await;
    }
    health.set_ready(true);
    info!(domain = config.domain.netbios, server = config.server, "Ready");
    notification::ready();
    let running = serving.running(&config, admin_tls.as_ref());
    until_stopped(&mut received, path, &running, (&log_filter, &health)).await;

    health.set_ready(false);
    notification::stopping();
    info!("Stopping: answering calls in flight");
    stop(&config, &serving, &tree).await;
    Ok(())
}

/// Answers the calls in flight and closes the ports.
async fn stop(config: &Config, serving: &Serving, tree: &Tree) {
    if let (Some(sso), Some(section)) = (&serving.sso, &config.sso) {
        sso.drain(section.drain).await;
    }
    tree.shutdown.cancel();
    tree.tasks.close();
    let grace = config.rpc.as_ref().map_or(GRACE, |rpc| rpc.grace);
    match tokio::time::timeout(grace, tree.tasks.wait()).await {
        Ok(()) => info!("Stopped"),
        Err(_) => {
            warn!(grace_s = grace.as_secs(), "Stopped before all calls were answered: grace period timed out")
        }
    }
    serving.audit.flush();
    serving.audit.sign();
}

/// How long calls in flight have at the end, where `[rpc]` does not say.
const GRACE: std::time::Duration = std::time::Duration::from_secs(10);

/// Binds Netlogon and the endpoint mapper, and returns their addresses.
async fn listen(
    rpc: &config::Rpc,
    server: &Arc<Server>,
    (mapped, providers): (&Endpoints, &[Arc<dyn SecurityProvider>]),
    Tree { passed_sockets, tasks, .. }: &Tree,
) -> anyhow::Result<(Vec<SocketAddr>, Option<SocketAddr>)> {
    let mut addresses = Vec::new();
    for address in &rpc.listen {
        let listener = passed_sockets.listen(NETLOGON_SOCKET, *address).await?;
        addresses.push(listener.local_addr()?);
        info!(address = %listener.local_addr()?, "Serving Netlogon");
        tasks.spawn(Arc::clone(server).listen(listener));
    }
    let Some(address) = rpc.endpoint_mapper else { return Ok((addresses, None)) };
    let listener = passed_sockets.listen(ENDPOINT_MAPPER, address).await?;
    let address = listener.local_addr()?;
    info!(%address, "Serving the endpoint mapper");
    mapped.register(addresses.iter().map(|address| Endpoint {
        interface: NETLOGON,
        transfer_syntax: SyntaxId::NDR,
        address: *address,
        annotation: "rcmpd",
    }));
    let registry = sso::endpoint_mapper(mapped, providers);
    tasks.spawn(server.beside(registry).listen(listener));
    Ok((addresses, Some(address)))
}

/// The accounts of the store; none if a sidecar asks another server.
async fn accounts(
    config: &Config,
    machines: Option<&Arc<dyn DomainStore>>,
) -> anyhow::Result<stores::Accounts> {
    match machines {
        Some(machines) => stores::accounts(config, machines).await,
        None => Ok(stores::Accounts::none(config.domain.clone())),
    }
}

/// Says what is laxer than the defaults, and what matches nothing today.
async fn warn_of_findings(config: &Config, deciders: &Deciders, machines: Option<&dyn DomainStore>) {
    let levels = deciders.live.trust().into_iter().flat_map(|trust| findings::levels(config, trust));
    findings::lax(config)
        .into_iter()
        .chain(findings::without_target(config))
        .chain(findings::useless_entries(config))
        .chain(levels)
        .for_each(|warning| warning.log());
    let nothing = findings::matches_nothing(config, &deciders.accounts, machines).await;
    nothing.iter().for_each(findings::Warning::log);
}

/// What a reload starts from.
struct Running<'a> {
    config: &'a Config,
    machines: Option<&'a Arc<dyn DomainStore>>,
    current: Option<&'a CurrentPolicy>,
    sidecar: Option<&'a Sidecar>,
    sso: Option<&'a RunningSso>,
    tlsnego: Option<&'a Tlsnego>,
    audit: &'a AuditLog,
    admin_tls: Option<&'a CurrentTls>,
}

/// What the configuration had at the last load.
struct Loaded {
    sections: Sections,
    /// The digest of the file that lacked rules at the last signal, and was not taken over for that.
    refused: Option<[u8; 32]>,
}

impl Loaded {
    /// Says what a new file lacks. A file that is cut off may be well formed, too: one that lacks rules is
    /// taken over only when the next signal finds the same bytes.
    fn compare(&mut self, new: &Sections) -> anyhow::Result<()> {
        let list = |gone: &[Gone]| gone.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let gone = new.lack(&self.sections);
        if gone.is_empty() {
            self.refused = None;
            return Ok(());
        }
        warn!(gone = list(&gone), "Configuration lacks settings that it had at the last load");
        if gone.iter().any(Gone::is_rule) && self.refused != Some(new.digest()) {
            self.refused = Some(new.digest());
            bail!(
                "without {} it may allow more: if the file was cut off, restore it; if the removal is intended, send SIGHUP again",
                list(&gone)
            );
        }
        Ok(())
    }
}

/// The signals that the service acts on. From `new` on they do not end the process by themselves.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// Reloads on SIGHUP; returns on SIGTERM or SIGINT.
async fn until_stopped(
    received: &mut Signals,
    path: &Path,
    running: &Running<'_>,
    (log_filter, health): (&LogFilter, &health::Health),
) {
    let Signals { hangup, terminate, interrupt } = received;
    let mut every_minute = tokio::time::interval(std::time::Duration::from_secs(60));
    let mut watch = tokio::time::interval(audit_log::WATCH_INTERVAL);
    watch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Nothing is signed when nothing is to be.
    let mut head_due = tokio::time::Instant::now();
    let mut heads = true;
    // In this loop, so that it stops when the loop does.
    let mut watchdog = notification::Watchdog::of_environment();
    let mut loaded = Loaded { sections: running.config.sections.clone(), refused: None };
    loop {
        tokio::select! {
            _ = terminate.recv() => return,
            _ = interrupt.recv() => return,
            _ = every_minute.tick() => {
                running.audit.flush();
                if let Some(current) = running.current {
                    current.0.load().metrics.end_minute(clock::now());
                }
            }
            _ = watch.tick() => running.audit.watch(),
            () = tokio::time::sleep_until(head_due), if heads => match running.audit.sign() {
                Some(again) => head_due = tokio::time::Instant::now() + again,
                None => heads = false,
            },
            () = watchdog.tick() => {}
            _ = hangup.recv() => {
                notification::reloading();
                let reloaded = watchdog.during(reload(path, (running, log_filter), &mut loaded)).await;
                health.configured(loaded.sections.keys());
                health.reloaded(reloaded.as_ref().err().map(crate::output::chain));
                match reloaded {
                    Ok(Some(revision)) => info!(policy_revision = revision, "Reloaded"),
                    Ok(None) => info!("Reloaded"),
                    Err(error) => error!(error = crate::output::chain(&error), "Not reloaded: the previous configuration stays in use"),
                }
                notification::ready();
            },
        }
    }
}

/// Takes over what can change while serving, all of it or nothing.
async fn reload(
    path: &Path,
    (running, log_filter): (&Running<'_>, &LogFilter),
    loaded: &mut Loaded,
) -> anyhow::Result<Option<u64>> {
    let new = config::load(path)?;
    // First, because a second signal does not help against it.
    if let Some(section) = needs_restart(&new, running.config) {
        bail!("{section} changed, and that needs a restart");
    }
    loaded.compare(&new.sections)?;
    new.check_files()?;
    let deciders = match (running.current, &new.mapping) {
        (Some(current), Some(mapping)) => {
            let accounts = accounts(&new, running.machines).await?;
            let before = current.0.load_full();
            let revision = before.live.policy().revision + 1;
            let deciders = Deciders::load(mapping, revision, accounts, &new, Some(&before)).await?;
            Some((current, revision, deciders))
        }
        (None, None) => None,
        (Some(_), None) => bail!("[mapping] is gone"),
        (None, Some(_)) => bail!("[mapping] is new, and that needs a restart"),
    };
    let sidecar = running.sidecar.zip(new.sidecar.as_ref());
    let sidecar = sidecar.map(|(running, section)| anyhow::Ok((running, running.reload(&new, section)?)));
    let sidecar = sidecar.transpose()?;
    let sso = match (running.sso, &new.sso) {
        (Some(running), Some(section)) => Some((running, running.service.load(section).await?)),
        _ => None,
    };
    let tlsnego = running.tlsnego.zip(new.tlsnego.as_ref());
    let tlsnego = tlsnego.map(|(running, section)| anyhow::Ok((running, running.reload(section)?)));
    let tlsnego = tlsnego.transpose()?;
    let admin_tls = running.admin_tls.zip(new.admin.as_ref().and_then(|admin| admin.tls.as_ref()));
    let admin_tls = admin_tls.map(|(current, tls)| anyhow::Ok((current, admin_tls::server_config(tls)?)));
    let admin_tls = admin_tls.transpose()?;
    // What can fail comes first.
    running.audit.reopen(&new.audit)?;
    let mut revision = None;
    if let Some((current, next, deciders)) = deciders {
        findings::shared_names(&deciders.live).iter().for_each(findings::Warning::log);
        current.0.store(Arc::new(deciders));
        revision = Some(next);
    }
    if let Some((running, reloaded)) = sidecar {
        running.take_over(reloaded);
    }
    if let Some((running, policy)) = sso {
        running.take_over(policy).await;
    }
    if let Some(current) = running.current {
        warn_of_findings(&new, &current.0.load_full(), running.machines.map(Arc::as_ref)).await;
    }
    if let Some((running, reloaded)) = tlsnego {
        running.take_over(reloaded);
    }
    if let Some((current, config)) = admin_tls {
        current.store(Arc::new(config));
    }
    log_filter.configured(&new.telemetry.log);
    *loaded = Loaded { sections: new.sections, refused: None };
    Ok(revision)
}

/// The section whose change a reload cannot apply. Every field is named, so that a new section is either
/// compared here or applied by [`reload`].
fn needs_restart(new: &Config, old: &Config) -> Option<&'static str> {
    let Config {
        domain,
        server,
        rpc,
        store,
        client,
        admin,
        telemetry,
        audit,
        relays,
        sidecar,
        sso,
        tlsnego,
        // A reload applies these.
        mapping: _,
        upn_suffixes: _,
        peers: _,
        forward: _,
        group_readable_keys: _,
        // `Loaded::compare` looks at it.
        sections: _,
    } = new;
    let audit_log::Settings {
        required,
        chain,
        heads,
        account_budget,
        copies,
        // A reload reopens the file with these.
        path: _,
        certificates: _,
    } = audit;
    [
        ("[domain]", *domain == old.domain && *server == old.server),
        ("[rpc]", *rpc == old.rpc),
        ("[store] and [channels]", same_store(store.as_ref(), old.store.as_ref())),
        (
            "[admin] other than the files of [admin.tls]",
            admin.as_ref().map(fixed_of_admin) == old.admin.as_ref().map(fixed_of_admin),
        ),
        ("telemetry.format", telemetry.json == old.telemetry.json),
        ("[telemetry.otlp]", telemetry.otlp == old.telemetry.otlp),
        ("[audit.journald] and [audit.syslog]", *copies == old.audit.copies),
        ("[client] of a sidecar", !is_remote(old) || *client == old.client),
        (
            "[sidecar] source, listen, proxy or timeout_s",
            sidecar.as_ref().map(reached_by) == old.sidecar.as_ref().map(reached_by),
        ),
        ("[[relay]]", *relays == old.relays),
        (
            "[sso] other than administrators, operators, backup_recipients, allow_delegated, ndr_range and sids",
            sso.as_ref().map(fixed_of_sso) == old.sso.as_ref().map(fixed_of_sso),
        ),
        (
            "[tlsnego] other than keys and seal_with of [tlsnego.cookie]",
            tlsnego.as_ref().map(fixed_of_tlsnego) == old.tlsnego.as_ref().map(fixed_of_tlsnego),
        ),
        (
            "audit.required or audit.account_mib_per_hour",
            // There is a budget only where lines are required.
            *required == old.audit.required && (!required || *account_budget == old.audit.account_budget),
        ),
        ("audit.chain", *chain == old.audit.chain),
        ("[audit.heads]", *heads == old.audit.heads),
    ]
    .into_iter()
    .find_map(|(section, is_same)| (!is_same).then_some(section))
}

fn is_remote(config: &Config) -> bool {
    config.sidecar.as_ref().is_some_and(|sidecar| sidecar.source == config::Source::Remote)
}

/// What of a sidecar stays as it is while it serves.
const fn reached_by(
    sidecar: &config::Sidecar,
) -> (config::Source, &Vec<config::Listen>, &Option<config::Proxy>, std::time::Duration) {
    (sidecar.source, &sidecar.listen, &sidecar.proxy, sidecar.timeout)
}

/// The admin port without what a reload replaces.
fn fixed_of_admin(admin: &config::Admin) -> config::Admin {
    let none = PathBuf::new;
    let tls = admin.tls.as_ref().map(|tls| config::AdminTls {
        listen: tls.listen,
        certificate: none(),
        key: none(),
        client_ca: none(),
        crls: Vec::new(),
    });
    config::Admin { tls, ..admin.clone() }
}

/// A master secret server without what a reload replaces.
fn fixed_of_sso(sso: &config::Sso) -> config::Sso {
    let (rules, ndr_range) = (AccessRules::default(), NdrRange::Idl);
    config::Sso { rules, ndr_range, operators: Vec::new(), backup_recipients: Vec::new(), ..sso.clone() }
}

/// The gateway without what a reload replaces.
fn fixed_of_tlsnego(tlsnego: &config::Tlsnego) -> config::Tlsnego {
    let cookie = tlsnego.cookie.clone();
    let cookie = cookie.map(|cookie| config::TlsnegoCookie { keys: Vec::new(), seal_with: None, ..cookie });
    config::Tlsnego { cookie, ..tlsnego.clone() }
}

/// Levels are part of the configuration and change with it; everything else about stores stays.
fn same_store(new: Option<&config::Store>, old: Option<&config::Store>) -> bool {
    match (new, old) {
        (Some(new), Some(old)) => {
            let both_profiles =
                matches!((&new.kind, &old.kind), (StoreKind::Profile(_), StoreKind::Profile(_)));
            (new.kind == old.kind || both_profiles)
                && new.machines == old.machines
                && new.key == old.key
                && new.shares_channels == old.shares_channels
        }
        (new, old) => new == old,
    }
}
