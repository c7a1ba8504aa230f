//! `rcmpd serve`: from a configuration to listeners, and from a signal to the end.

mod channel_secrets;
mod http;
mod metrics;
mod open_files;
mod rcmp_package;
mod sso;
mod store_health;

pub use audit_log::AuditLog;
pub use channel_secrets::StoredSecrets;
pub use rcmp_package::RcmpPackage;

use crate::config::{self, Config, Gone, Sections, StoreKind};
use crate::deciders::{CurrentPolicy, Deciders};
use crate::findings;
use crate::forward::RelayPackage;
use crate::sidecar::Sidecar;
use crate::stores;
use crate::tlsnego::{self, Tlsnego};
use account_store::{DomainStore, MachineStore};
use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use dcerpc::endpoint_mapper::Endpoint;
use dcerpc::pdu::SyntaxId;
use dcerpc_tokio::{Endpoints, Interface, Peer, Registry, RpcCall, SecurityProvider, Server, listen_on};
use dtyp::Guid;
use netlogon_transport::message::PrimaryDomain;
use netlogon_transport::package::Packages;
use netlogon_transport::server::{NETLOGON, NetlogonCall, NetlogonServer, ServerNames, ServerParts};
use rcmp_service::MissLimits;
use rcmp_service::message::PACKAGE_NAME;
use sso::{RunningSso, SsoParts};
use sso_service::{AccessRules, NdrRange};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use store_health::StoreHealth;
use tlsnego_tokio::gateway;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
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

/// Everything that a port serves. The order of layers, from the network inwards: the association's own
/// limits, then the method, then the package, whose layers are in [`crate::handler`].
pub fn registry(
    config: &Config,
    machines: Arc<dyn MachineStore>,
    policy: CurrentPolicy,
    audit: Arc<AuditLog>,
) -> Registry {
    let mut packages = Packages::default();
    for rule in policy.0.load().forwarding.rules() {
        let metrics = policy.0.load().metrics.clone();
        let relay = RelayPackage::new(Arc::clone(rule), Arc::clone(&audit), metrics);
        packages = packages.with(&rule.package, tower::util::BoxCloneSyncService::new(relay));
    }
    let misses = config.rpc.as_ref().map_or(rcmp_service::Misses::default(), |rpc| rpc.misses);
    let rcmp = RcmpPackage::new(policy.clone(), Arc::clone(&audit), Arc::new(MissLimits::new(misses)));
    let packages = packages.with(PACKAGE_NAME, tower::util::BoxCloneSyncService::new(rcmp));
    let rpc = config.rpc.as_ref();
    let server = NetlogonServer::new(ServerParts {
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
    });
    let service = server.clone().map_request(|call: RpcCall| NetlogonCall {
        connection: call.peer.connection,
        address: call.peer.address,
        caller: call.connection,
        call: call.call,
    });
    Registry::default()
        .interface(Interface {
            syntax: NETLOGON,
            name: "netlogon",
            service: tower::util::BoxCloneSyncService::new(service),
        })
        .provider(Arc::new(ChannelProvider(server)))
        .management()
}

/// Serves until SIGTERM or SIGINT.
pub async fn run(path: &Path, config: Config) -> anyhow::Result<()> {
    let maps = config.mapping.is_some() && (config.rpc.is_some() || config.sidecar.is_some());
    if !maps && config.sso.is_none() && config.tlsnego.is_none() {
        bail!(
            "{} enables no service: add [sso], [tlsnego], or [mapping] with [rpc] or [sidecar]",
            path.display()
        );
    }
    let rpc_connections = config.rpc.as_ref().map_or(0, |rpc| rpc.limits.connections_max);
    let others = config.sso.as_ref().map_or(0, |sso| sso.limits.connections_max)
        + config.sidecar.as_ref().map_or(0, crate::sidecar::connections_max)
        + config.tlsnego.as_ref().map_or(0, |_| gateway::CONNECTIONS_MAX + gateway::CALLS_MAX)
        + config.admin.as_ref().map_or(0, |_| http::CONNECTIONS_MAX);
    let connections_max = open_files::raise(rpc_connections, others);
    config.check_files()?;
    // What can be missing is looked at before a client is served.
    let token = config.admin.as_ref().and_then(|admin| admin.token.as_ref());
    let token = token.map(|token| token.read()).transpose().context("cannot use admin.token")?;
    let needs_hashes = config.sso.as_ref().is_some_and(config::Sso::has_local_users);
    // Sidecars and their accounts need no secret of a machine.
    let needs_passwords = config.tlsnego.as_ref().is_some_and(config::Tlsnego::has_local_users);
    let needs_key = match (&config.rpc, needs_hashes, needs_passwords) {
        (Some(_), ..) => {
            Some("[rpc] cannot be served, because each secure channel needs the secret of its machine")
        }
        (None, true, _) => {
            Some("[sso.ntlm] cannot be served, because each user needs the NT hash of the account")
        }
        (None, false, true) => {
            Some("[tlsnego] cannot be served, because each user needs the password hash of the account")
        }
        (None, false, false) => None,
    };
    let served = match &config.store {
        Some(_) => {
            let opened = stores::served_machines(&config, needs_key.is_some()).await;
            Some(match needs_key {
                Some(why) => opened.context(why)?,
                None => opened?,
            })
        }
        None => None,
    };
    let local_users = served.as_ref().filter(|_| needs_hashes).and_then(|served| {
        let hashes = Arc::clone(served.hashes.as_ref()?);
        Some(crate::sso::Stores { accounts: Arc::clone(&served.machines) as _, hashes })
    });
    let passwords = served.as_ref().map(|served| tlsnego::Stores {
        accounts: Arc::clone(&served.machines) as _,
        hashes: served.password_hashes.clone(),
    });
    let (machines, database) = served.map(|served| (served.machines, served.database)).unzip();
    let accounts = accounts(&config, machines.as_ref()).await?;
    let audit = AuditLog::open(&config.audit)?;
    let deciders = match &config.mapping {
        Some(mapping) => Some(Deciders::load(mapping, 1, accounts, &config, None).await?),
        None => None,
    };
    let audit = Arc::new(match &deciders {
        Some(deciders) => audit.counting(deciders.metrics.over_audit_budget()),
        None => audit,
    });
    let current = deciders.map(|deciders| CurrentPolicy(Arc::new(ArcSwap::from_pointee(deciders))));
    let store = database.map(|database| StoreHealth::new(database, current.clone()));
    let sidecar = config.sidecar.as_ref().zip(current.as_ref());
    let sidecar = sidecar.map(|(sidecar, current)| Sidecar::load(&config, sidecar, current, &audit));
    let sidecar = sidecar.transpose()?;
    let sso = match &config.sso {
        Some(section) => Some(SsoParts::load(&config, section, local_users.as_ref(), &audit).await?),
        None => None,
    };
    let tlsnego = match &config.tlsnego {
        Some(section) => {
            for finding in tlsnego::findings(&config, section)? {
                warn!(finding, "Check the certificate of [tlsnego]");
            }
            Some((Tlsnego::load(&config, section, passwords, current.as_ref(), &audit)?, section))
        }
        None => None,
    };
    // What serves clients is one tree: cancelling the token closes every listener, and connections end after
    // what is in flight is answered. The tracker knows each of these tasks.
    let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
    let mapped_endpoints = Endpoints::default();
    let mut mapper = None;
    let server = match (&config.rpc, &machines, &current) {
        (Some(rpc), Some(machines), Some(current)) => {
            let registry = registry(&config, Arc::clone(machines) as _, current.clone(), Arc::clone(&audit));
            let limits = dcerpc_tokio::Limits { connections_max, ..rpc.limits };
            let server = Server::new(registry, limits, shutdown.child_token(), tasks.clone());
            let providers = sso.as_ref().map_or(&[][..], SsoParts::providers);
            mapper = listen(rpc, &server, (&mapped_endpoints, providers), &tasks).await?;
            Some(server)
        }
        _ => None,
    };
    let sso = match sso {
        Some(parts) => Some(parts.serve(&config, (&mapped_endpoints, mapper), &shutdown, &tasks).await?),
        None => None,
    };
    let mut connections = Vec::new();
    if let (Some(sidecar), Some(section)) = (&sidecar, &config.sidecar) {
        let listeners = sidecar.bind(section, &shutdown).await?;
        connections = listeners.meters();
        tasks.spawn(listeners.serve());
    }
    if let Some((tlsnego, section)) = &tlsnego {
        connections.push(tlsnego.serve(Tlsnego::bind(section).await?, &shutdown, &tasks));
    }
    let tlsnego = tlsnego.map(|(tlsnego, _)| tlsnego);
    let health = http::Health::default();
    if let Some(admin) = &config.admin {
        let port = http::Port::bind(admin).await?;
        let address = port.address();
        info!(operators = token.is_some(), %address, "Serving the admin port");
        connections.push(port.meter());
        let parts = metrics::Parts {
            server: server.as_deref().or(sso.as_ref().map(|sso| &*sso.server)),
            sso: sso.as_ref().map(|sso| &sso.service),
            policy: current.as_ref(),
            audit: &audit,
            store: store.as_ref(),
            sidecar: sidecar.as_ref(),
            tlsnego: tlsnego.as_ref(),
            connections,
        };
        let shared = http::Shared {
            health: health.clone(),
            store: store.clone(),
            sidecar: sidecar.as_ref().map(|sidecar| Arc::clone(&sidecar.current)),
            operators: token.map(|token| Arc::new(http::Operators::new(admin, token, address))),
            policy: current.clone(),
            sso: sso.as_ref().map(|sso| sso.service.clone()),
            tlsnego: tlsnego.clone(),
            registration: sso.as_ref().and_then(|sso| sso.registration.clone()),
            config: path.display().to_string(),
            metrics: Arc::new(metrics::registry(parts)),
        };
        tokio::spawn(port.serve(shared));
    }
    if let Some(store) = &store {
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(store.clone().watch()));
    }
    if let Some(current) = &current {
        let deciders = current.0.load_full();
        findings::shared_names(&deciders.live).iter().for_each(findings::Warning::log);
        warn_of_findings(&config, &deciders, machines.as_deref()).await;
    }
    health.set_ready(true);
    info!(domain = config.domain.netbios, server = config.server, "Ready");
    let running = Running {
        config: &config,
        machines: machines.as_ref(),
        current: current.as_ref(),
        sidecar: sidecar.as_ref(),
        sso: sso.as_ref(),
        tlsnego: tlsnego.as_ref(),
        audit: &audit,
    };
    signals(path, &running).await?;

    health.set_ready(false);
    info!("Stopping: answering calls in flight");
    if let (Some(sso), Some(section)) = (&sso, &config.sso) {
        sso.drain(section.drain).await;
    }
    shutdown.cancel();
    tasks.close();
    let grace = config.rpc.as_ref().map_or(GRACE, |rpc| rpc.grace);
    match tokio::time::timeout(grace, tasks.wait()).await {
        Ok(()) => info!("Stopped"),
        Err(_) => {
            warn!(grace_s = grace.as_secs(), "Stopped before all calls were answered: grace period timed out")
        }
    }
    audit.flush();
    audit.sign();
    Ok(())
}

/// How long calls in flight have at the end, where `[rpc]` does not say.
const GRACE: std::time::Duration = std::time::Duration::from_secs(10);

/// Binds Netlogon and the endpoint mapper, whose address is returned.
async fn listen(
    rpc: &config::Rpc,
    server: &Arc<Server>,
    (mapped, providers): (&Endpoints, &[Arc<dyn SecurityProvider>]),
    tasks: &TaskTracker,
) -> anyhow::Result<Option<SocketAddr>> {
    let mut addresses = Vec::new();
    for address in &rpc.listen {
        let listener = listen_on(*address, "rpc.listen").await?;
        addresses.push(listener.local_addr()?);
        info!(address = %listener.local_addr()?, "Serving Netlogon");
        tasks.spawn(Arc::clone(server).listen(listener));
    }
    let Some(address) = rpc.endpoint_mapper else { return Ok(None) };
    let listener = listen_on(address, "rpc.endpoint_mapper").await?;
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
    Ok(Some(address))
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

/// Reloads on SIGHUP; returns on SIGTERM or SIGINT.
async fn signals(path: &Path, running: &Running<'_>) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut every_minute = tokio::time::interval(std::time::Duration::from_secs(60));
    let mut watch = tokio::time::interval(audit_log::WATCH_INTERVAL);
    watch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Nothing is signed when nothing is to be.
    let mut head_due = tokio::time::Instant::now();
    let mut heads = true;
    let mut loaded = Loaded { sections: running.config.sections.clone(), refused: None };
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = every_minute.tick() => running.audit.flush(),
            _ = watch.tick() => running.audit.watch(),
            () = tokio::time::sleep_until(head_due), if heads => match running.audit.sign() {
                Some(again) => head_due = tokio::time::Instant::now() + again,
                None => heads = false,
            },
            _ = hangup.recv() => match reload(path, running, &mut loaded).await {
                Ok(Some(revision)) => info!(policy_revision = revision, "Reloaded"),
                Ok(None) => info!("Reloaded"),
                Err(error) => error!(error = crate::output::chain(&error), "Not reloaded: the previous configuration stays in use"),
            },
        }
    }
}

/// Takes over what can change while serving, all of it or nothing.
async fn reload(path: &Path, running: &Running<'_>, loaded: &mut Loaded) -> anyhow::Result<Option<u64>> {
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
    if let (Some(tlsnego), Some(section)) = (running.tlsnego, &new.tlsnego) {
        tlsnego.warn_of_changes(section);
    }
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
        peers: _,
        forward: _,
        // `Loaded::compare` looks at it.
        sections: _,
    } = new;
    let audit_log::Settings {
        required,
        chain,
        heads,
        account_budget,
        // A reload reopens the file with these.
        path: _,
        certificates: _,
    } = audit;
    [
        ("[domain]", *domain == old.domain && *server == old.server),
        ("[rpc]", *rpc == old.rpc),
        ("[store] and [channels]", same_store(store.as_ref(), old.store.as_ref())),
        ("[admin]", *admin == old.admin),
        ("[telemetry]", *telemetry == old.telemetry),
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
        ("[tlsnego]", *tlsnego == old.tlsnego),
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

/// A master secret server without what a reload replaces.
fn fixed_of_sso(sso: &config::Sso) -> config::Sso {
    let (rules, ndr_range) = (AccessRules::default(), NdrRange::Idl);
    config::Sso { rules, ndr_range, operators: Vec::new(), backup_recipients: Vec::new(), ..sso.clone() }
}

/// Levels are part of the configuration and change with it; everything else about stores stays.
fn same_store(new: Option<&config::Store>, old: Option<&config::Store>) -> bool {
    match (new, old) {
        (Some(new), Some(old)) => {
            let both_profiles =
                matches!((&new.kind, &old.kind), (StoreKind::Profile(_), StoreKind::Profile(_)));
            (new.kind == old.kind || both_profiles) && new.machines == old.machines && new.key == old.key
        }
        (new, old) => new == old,
    }
}
