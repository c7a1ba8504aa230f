//! The token service for SOAP clients (WS-Trust TLSNEGO), as a gateway in front of a plain SOAP 1.2 service.
//!
//! ```text
//! SOAP client ─► tlsnego_tokio::gateway ─► tlsnego_soap (decides about messages) ─► the service
//!                      └► passwords, certificates: accounts of this process      └► headers that name the account
//! ```

mod accounting;
mod accounts;
mod certificates;
mod cookies;
mod domains;
mod mapped;
mod metrics;
mod passwords;
mod replay_state;

pub use certificates::{FilesOnce, findings};
pub use cookies::check_files;

use crate::clock::{now, uptime};
use crate::config::{self, Config};
use crate::deciders::CurrentPolicy;
use crate::random;
use account_store::{AccountStore, PasswordHashes};
use accounting::Accounting;
use accounts::Accounts;
use anyhow::Context;
use arc_swap::ArcSwap;
use audit_log::AuditLog;
use cookies::{Sealer, Shared};
use dcerpc_tokio::listen_on;
use domains::UserDomains;
use listener_tokio::connections::ConnectionMeter;
use mapped::MappedCertificates;
use metrics::Counters;
use netlogon_tokio::Servers;
use passwords::{LocalPasswords, UserPasswords};
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use ticket::Roots;
use tlsnego_service::Moment;
use tlsnego_service::password::Passwords;
use tlsnego_service::session::{Session, StoreFailed};
use tlsnego_soap::server::metadata::Metadata;
use tlsnego_soap::server::{Ending, Server, ServiceCertificate, Settings};
use tlsnego_tokio::gateway::{self, Gateway};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use xml_security::{ParseLimits, format_time};

/// The stores of local accounts.
pub struct Stores {
    /// The accounts.
    pub accounts: Arc<dyn AccountStore>,
    /// Their passwords, where the store keeps them.
    pub hashes: Option<Arc<dyn PasswordHashes>>,
}

/// The service.
#[derive(Clone)]
pub struct Tlsnego {
    gateway: Arc<Gateway>,
    accounting: Arc<Accounting>,
    domains: Arc<UserDomains>,
    cookies: Option<Cookies>,
    audit: Arc<AuditLog>,
    /// Of the files of certificates and keys when they were read.
    made_of: Arc<ArcSwap<Option<[u8; 32]>>>,
}

/// What a reload takes over.
pub struct Reloaded {
    /// Of cookies.
    roots: Option<Roots>,
    /// None if their files are as they were.
    certificates: Option<Renewed>,
}

/// Certificates that were renewed.
struct Renewed {
    certificate: ServiceCertificate,
    metadata: Option<Arc<Metadata>>,
    tls: Option<Arc<ServerConfig>>,
    made_of: Option<[u8; 32]>,
}

impl std::fmt::Debug for Tlsnego {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tlsnego")
    }
}

/// Sessions in cookies.
#[derive(Clone)]
struct Cookies {
    sealer: Arc<Sealer>,
    shared: Shared,
}

/// The service with its listener.
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

/// What the service accepts. Metadata is not made yet.
fn settings(section: &config::Tlsnego) -> Settings {
    Settings {
        metadata: None,
        addresses: section.addresses.clone(),
        suite: section.suite,
        bindings: section.bindings.clone(),
        credential: section.credential,
        times: section.times,
        trust13: section.trust13,
        skew: section.skew,
        limits: ParseLimits { octets: section.message_len_max, ..ParseLimits::default() },
    }
}

/// Both clocks.
pub(crate) fn moment() -> Moment {
    Moment { wall: now(), uptime: uptime() }
}

impl Tlsnego {
    /// Makes what a configuration asks for; no port is bound yet. `policy` maps certificates.
    pub fn load(
        config: &Config,
        section: &config::Tlsnego,
        files: &FilesOnce,
        stores: Option<Stores>,
        policy: Option<&CurrentPolicy>,
        audit: &Arc<AuditLog>,
    ) -> anyhow::Result<Self> {
        let made_of = certificates::digest(section, files);
        let certificate = certificates::of_service(section, files).context("cannot serve [tlsnego]")?;
        let (accounts, hashes) = stores.map(|Stores { accounts, hashes }| (accounts, hashes)).unzip();
        let hashes = hashes.flatten();
        let mapped = MappedCertificates::new(config, policy, audit);
        let accounts = Accounts::new(config, accounts, hashes.clone(), mapped.clone());
        let counters = Counters::default();
        let local = section.has_local_users().then(|| {
            let (parallel, computed) = (section.passwords.parallel, counters.computed.clone());
            LocalPasswords::new(accounts.clone(), hashes, parallel, computed)
        });
        let domains = Arc::new(UserDomains::new(config, section)?);
        let slowed = counters.slowed.clone();
        let passwords = UserPasswords::new(local, Arc::clone(&domains), Arc::clone(audit), slowed);
        let mut key = [0; 32];
        getrandom::fill(&mut key).context("the operating system has no randomness")?;
        let mut settings = settings(section);
        settings.metadata = certificates::metadata(section, files, &settings, &certificate)?.map(Arc::new);
        let server = Server::new(
            settings,
            certificate,
            Passwords::new(passwords, key, section.passwords).with_queues(domains.parallel()),
            mapped,
            Arc::new(random::fill),
        );
        let server = server.context("cannot serve [tlsnego]")?;
        let server = match &section.state {
            Some(path) => {
                let (started, horizon) = replay_state::open(path, section.skew)?;
                server.started_at(started).with_horizon(horizon)
            }
            None => server.started_at(now()),
        };
        let cookies = section.cookie.as_ref().map(cookies::open).transpose()?;
        let cookies = cookies.map(|(sealer, shared)| Cookies { sealer: Arc::new(sealer), shared });
        let server = match &cookies {
            Some(Cookies { sealer, shared }) => {
                server.with_cookies(Arc::clone(sealer) as _, Arc::new(shared.clone()))
            }
            None => server,
        };
        let upstream = gateway::Settings {
            upstream: section.upstream.clone(),
            upstream_timeout: section.upstream_timeout,
            message_len_max: section.message_len_max,
            calls_max: gateway::CALLS_MAX,
            calls_of_caller_max: gateway::CALLS_OF_CALLER_MAX,
            unproved_len_max: gateway::unproved_len_max(section.message_len_max),
        };
        let accounting = Arc::new(Accounting::new(accounts, Arc::clone(audit), counters, cookies.is_some()));
        let gateway = Gateway::new(server, upstream, Arc::clone(&accounting) as _, moment);
        gateway.set_tls(certificates::of_listener(section, files)?);
        let made_of = Arc::new(ArcSwap::from_pointee(made_of));
        Ok(Self { gateway, accounting, domains, cookies, audit: Arc::clone(audit), made_of })
    }

    /// Reads the keys of cookies and the certificates again; nothing changes yet.
    pub fn reload(&self, section: &config::Tlsnego) -> anyhow::Result<Reloaded> {
        let roots = section.cookie.as_ref().map(cookies::roots).transpose()?;
        Ok(Reloaded { roots, certificates: self.renewed(section)? })
    }

    fn renewed(&self, section: &config::Tlsnego) -> anyhow::Result<Option<Renewed>> {
        let files = &FilesOnce::default();
        let made_of = certificates::digest(section, files);
        if made_of.is_some() && made_of == **self.made_of.load() {
            return Ok(None);
        }
        let certificate = certificates::of_service(section, files).context("cannot reload [tlsnego]")?;
        let metadata =
            certificates::metadata(section, files, &settings(section), &certificate)?.map(Arc::new);
        let tls = certificates::check(section, files)?;
        Ok(Some(Renewed { certificate, metadata, tls, made_of }))
    }

    /// Goes by a reload from now on. Sessions, negotiations and connections stay.
    pub fn take_over(&self, Reloaded { roots, certificates }: Reloaded) {
        // First what can fail: then the keys stay as well.
        if let Some(Renewed { certificate, metadata, tls, made_of }) = certificates {
            if let Err(error) = self.gateway.server().set_certificate(certificate, metadata) {
                warn!(%error, "The renewed certificate of [tlsnego] cannot be used: the previous one and the previous cookie keys stay");
                return;
            }
            self.gateway.set_tls(tls);
            self.made_of.store(Arc::new(made_of));
            info!("The certificates of [tlsnego] have changed, and are used from now on");
        }
        if let (Some(cookies), Some(roots)) = (&self.cookies, roots) {
            cookies.sealer.take_over(roots);
        }
    }

    /// Binds the address of the configuration.
    pub async fn bind(section: &config::Tlsnego) -> anyhow::Result<Bound> {
        let listener = listen_on(section.listen, "tlsnego.listen").await?;
        let address = listener.local_addr()?;
        Ok(Bound { listener, address })
    }

    /// Serves until `shutdown` is cancelled.
    pub fn serve(&self, bound: Bound, shutdown: &CancellationToken, tasks: &TaskTracker) -> ConnectionMeter {
        let Bound { listener, address } = bound;
        info!(%address, upstream = %self.gateway.settings().upstream, "Serving the TLSNEGO gateway");
        tasks.spawn(Arc::clone(&self.gateway).serve(listener, shutdown.clone(), tasks.clone()));
        self.gateway.meter(address.to_string())
    }

    /// The domain controllers that check passwords, with the NetBIOS name of their domain.
    pub fn domain_controllers(&self) -> impl Iterator<Item = (&str, &Arc<Servers>)> {
        self.domains.controllers()
    }

    /// Registers what is counted.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let shared = self.cookies.as_ref().map(|cookies| cookies.shared.clone());
        metrics::register(&self.gateway, &self.accounting.counters, shared, registry);
    }

    /// The sessions, the oldest first; of sessions in cookies, those that this process opened or served.
    pub async fn sessions(&self) -> Result<Vec<Value>, StoreFailed> {
        let mut sessions = self.gateway.server().tokens().list(moment()).await?;
        sessions.sort_by(|one, other| (one.since, &one.name).cmp(&(other.since, &other.name)));
        Ok(sessions.iter().map(|session| as_json(session)).collect())
    }

    /// A session by its name.
    pub async fn session(&self, name: &str) -> Result<Option<Value>, StoreFailed> {
        let session = self.gateway.server().tokens().get(name, moment()).await?;
        Ok(session.map(|session| as_json(&session)))
    }

    /// Ends a session for an operator.
    pub async fn end(&self, name: &str) -> Result<Ending, StoreFailed> {
        let ending = self.gateway.server().tokens().end_by_name(name, moment()).await?;
        if ending == Ending::Noted {
            // Whose it is, another node knows.
            info!(session = name, "Session of another node ended by the operator");
            let event =
                json!({ "event": "session_ended", "name": name, "cookie": true, "reason": "operator" });
            self.audit.note(None, &event);
        }
        Ok(ending)
    }
}

/// A session in the words of every place that names one.
fn as_json(session: &Session) -> Value {
    json!({
        "kind": session.kind.as_str(),
        "name": session.name,
        "instance": session.instance,
        "parent": session.parent,
        "account_sid": session.identity.as_ref().map(|identity| &identity.account),
        "credential": session.credential.as_str(),
        "since": format_time(session.since),
        "until": format_time(session.until),
    })
}
