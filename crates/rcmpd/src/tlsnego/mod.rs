//! The token service for SOAP clients (WS-Trust TLSNEGO), as a gateway in front of a plain SOAP 1.2 service.
//!
//! ```text
//! SOAP client ─► tlsnego_tokio::gateway ─► tlsnego_soap (decides about messages) ─► the service
//!                      └► passwords, certificates: accounts of this process      └► headers that name the account
//! ```

mod accounting;
mod accounts;
mod certificates;
mod domains;
mod metrics;
mod passwords;

pub use certificates::findings;

use crate::clock::{now, uptime};
use crate::config::{self, Config};
use crate::deciders::CurrentPolicy;
use crate::random;
use account_store::{AccountStore, PasswordHashes};
use accounting::Accounting;
use accounts::Accounts;
use anyhow::Context;
use audit_log::AuditLog;
use certificates::MappedCertificates;
use dcerpc_tokio::listen_on;
use domains::UserDomains;
use listener_tokio::connections::ConnectionMeter;
use netlogon_tokio::Servers;
use passwords::{LocalPasswords, UserPasswords};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use tlsnego_service::Moment;
use tlsnego_service::password::Passwords;
use tlsnego_service::session::Session;
use tlsnego_soap::server::{Server, Settings};
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

type ThisGateway = Gateway<UserPasswords, MappedCertificates, Accounting>;

/// The service.
#[derive(Clone)]
pub struct Tlsnego {
    gateway: Arc<ThisGateway>,
    domains: Arc<UserDomains>,
    /// Of the files of the certificate and the key when they were read.
    made_of: Option<[u8; 32]>,
}

impl std::fmt::Debug for Tlsnego {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tlsnego")
    }
}

/// The service with its listener.
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
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
        stores: Option<Stores>,
        policy: Option<&CurrentPolicy>,
        audit: &Arc<AuditLog>,
    ) -> anyhow::Result<Self> {
        let made_of = certificates::digest(section);
        let certificate = certificates::of_service(section).context("cannot serve [tlsnego]")?;
        let (accounts, hashes) = stores.map(|Stores { accounts, hashes }| (accounts, hashes)).unzip();
        let hashes = hashes.flatten();
        let accounts = Accounts::new(config, accounts, hashes.clone());
        let local = section
            .has_local_users()
            .then(|| LocalPasswords::new(accounts.clone(), hashes, section.passwords.parallel));
        let domains = Arc::new(UserDomains::new(config, section)?);
        let passwords = UserPasswords::new(local, Arc::clone(&domains), Arc::clone(audit));
        let mut key = [0; 32];
        getrandom::fill(&mut key).context("the operating system has no randomness")?;
        let mut settings = Settings {
            metadata: None,
            addresses: section.addresses.clone(),
            suite: section.suite,
            bindings: section.bindings.clone(),
            credential: section.credential,
            times: section.times,
            trust13: section.trust13,
            skew: section.skew,
            limits: ParseLimits { octets: section.message_len_max, ..ParseLimits::default() },
        };
        settings.metadata = certificates::metadata(section, &settings, &certificate)?.map(Arc::new);
        let server = Server::new(
            settings,
            certificate,
            Passwords::new(passwords, key, section.passwords).with_queues(domains.parallel()),
            MappedCertificates::new(config, policy, audit),
            Arc::new(random::fill),
        );
        let server = server.context("cannot serve [tlsnego]")?.started_at(now());
        let upstream = gateway::Settings {
            upstream: section.upstream.clone(),
            upstream_timeout: section.upstream_timeout,
            message_len_max: section.message_len_max,
            calls_max: gateway::CALLS_MAX,
        };
        let accounting = Accounting::new(accounts, Arc::clone(audit));
        Ok(Self { gateway: Gateway::new(server, upstream, accounting, moment), domains, made_of })
    }

    /// Says at a reload what only a restart takes over.
    pub fn warn_of_changes(&self, section: &config::Tlsnego) {
        if certificates::digest(section) != self.made_of {
            let (certificate, key) = &section.certificate;
            warn!(
                certificate = %certificate.display(), key = %key.display(),
                advice = "restart the service",
                "Certificate or key of [tlsnego] has changed, and is not used before a restart"
            );
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
        metrics::register(&self.gateway, registry);
    }

    /// The sessions, the oldest first.
    pub fn sessions(&self) -> Vec<Value> {
        let mut sessions = self.gateway.server().sessions().list();
        sessions.sort_by(|one, other| (one.since, &one.name).cmp(&(other.since, &other.name)));
        sessions.iter().map(|session| as_json(session)).collect()
    }

    /// A session by its name.
    pub fn session(&self, name: &str) -> Option<Value> {
        self.gateway.server().sessions().get(name).map(|session| as_json(&session))
    }

    /// Ends a session for an operator. False if there is none of this name.
    pub fn end(&self, name: &str) -> bool {
        self.gateway.server().sessions().end(name)
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
