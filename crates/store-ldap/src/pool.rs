//! Connections that are bound, from the server that comes first and works.

use crate::backoff::{BindBackoff, ServerBackoff};
use crate::binds::BindState;
use crate::connection::{BindResult, Connection};
use crate::failed::{Failed, bind_reason, counts_as_wrong_password};
use crate::schema;
use crate::server::{Role, Server};
use crate::settings::{Discover, Servers, Settings};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore};
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tracing::{info, warn};
use zeroize::Zeroizing;

/// How long a connection to a server is kept that is not the first one, while the first one works.
const AWAY_MAX: Duration = Duration::from_secs(60);

/// The connections of a store to the servers of one role. It has no limit of its own: who takes a connection
/// has a permit of the store.
pub(crate) struct Pool {
    settings: Arc<Settings>,
    servers: Known,
    pub(crate) role: Role,
    tls: TlsConnector,
    state: Mutex<State>,
    binds: Arc<BindState>,
}

/// Where the servers are. Each look-up reads the list, so it is shared.
enum Known {
    Listed(Arc<[Server]>),
    Discovered(Arc<dyn Discover>),
}

impl From<&Servers> for Known {
    fn from(servers: &Servers) -> Self {
        match servers {
            Servers::Listed(servers) => Self::Listed(servers[..].into()),
            Servers::Discovered(discover) => Self::Discovered(Arc::clone(discover)),
        }
    }
}

#[derive(Default)]
struct State {
    idle: Vec<Idle>,
    servers: ServerBackoff,
    discovered: Option<(Arc<[Server]>, Instant)>,
}

/// A connection that no question uses.
struct Idle {
    pooled: Pooled,
    since: Instant,
}

/// A connection that is bound.
pub(crate) struct Pooled {
    pub(crate) connection: Connection,
    since: Instant,
    /// Whether it answered a question before.
    pub(crate) is_used: bool,
}

impl Pool {
    pub(crate) fn new(settings: Arc<Settings>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in &settings.ca {
            roots.add(certificate.clone()).map_err(|error| format!("store.ldap.ca: {error}"))?;
        }
        if roots.is_empty() {
            return Err("store.ldap.ca has no certificate".to_owned());
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
        let mut tls = builder.with_root_certificates(roots).with_no_client_auth();
        // A certificate is not validated when a session is resumed, and may have expired since.
        tls.resumption = Resumption::disabled();
        Ok(Self {
            tls: TlsConnector::from(Arc::new(tls)),
            state: Mutex::default(),
            binds: Arc::clone(&settings.binds.0),
            servers: Known::from(&settings.servers),
            role: Role::Domain,
            settings,
        })
    }

    /// Connections to the global catalog, if there is one.
    pub(crate) fn catalog(&self) -> Option<Self> {
        (!self.settings.catalog.is_empty()).then(|| Self {
            settings: Arc::clone(&self.settings),
            servers: Known::Listed(self.settings.catalog[..].into()),
            role: Role::Catalog,
            tls: self.tls.clone(),
            state: Mutex::default(),
            binds: Arc::clone(&self.binds),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // It is whole between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection: one that is idle, or a new one to the first server that accepts it.
    pub(crate) async fn connection(&self, deadline: Instant) -> Result<Pooled, Failed> {
        let servers = self.servers(deadline).await?;
        if let Some(pooled) = self.idle(&servers, Instant::now()) {
            return Ok(pooled);
        }
        // If no secret may be tried, no connection is opened. A bind that is under way decides for itself.
        if let Ok(mut backoff) = self.binds.backoff.try_lock() {
            self.secret(&mut backoff)?;
        }
        let mut failed = None;
        for (at, server) in servers.iter().enumerate() {
            if !self.state().servers.may_try(server, Instant::now()) {
                continue;
            }
            let opened = self.open(server, attempt_end(deadline, servers.len() - at)).await;
            match opened {
                Ok(pooled) => return Ok(pooled),
                // The account is the same at all servers, and each refused bind counts.
                Err(error @ (Failed::Bind(_) | Failed::Rights(_))) => return Err(error),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| {
            let state = self.state();
            let whys = servers.iter().filter_map(|server| state.servers.why(server));
            let whys = whys.collect::<Vec<_>>().join("; ");
            Failed::Connect(format!("no server can be used, and none is tried for a moment: {whys}"))
        }))
    }

    /// Keeps a connection for the next question.
    pub(crate) fn put(&self, mut pooled: Pooled) {
        if pooled.connection.is_whole() {
            pooled.is_used = true;
            self.state().idle.push(Idle { pooled, since: Instant::now() });
        }
    }

    /// Closes the idle connections to a server.
    pub(crate) fn forget_idle(&self, server: &Server) {
        self.state().idle.retain(|idle| idle.pooled.connection.server() != server);
    }

    /// A server did not answer. Its idle connections are not used either.
    pub(crate) fn server_failed(&self, server: &Server, failed: &Failed) {
        let mut state = self.state();
        let was_good = state.servers.is_good(server);
        let retry = state.servers.failed(server, failed.to_string(), Instant::now(), random());
        state.idle.retain(|idle| idle.pooled.connection.server() != server);
        drop(state);
        self.settings.meter.failed(failed.step());
        if was_good {
            let retry_after_ms = u64::try_from(retry.as_millis()).unwrap_or(u64::MAX);
            warn!(%server, error = %failed, retry_after_ms, "Directory server failed");
        }
    }

    /// Looks for the first server if it failed before, and its back-off is over. Otherwise the others would be
    /// used for as long as their connections live.
    pub(crate) async fn return_to_first(&self) {
        let deadline = Instant::now() + self.settings.timeout;
        let Ok(servers) = self.servers(deadline).await else { return };
        let [first, _, ..] = &*servers else { return };
        let has_secret =
            self.binds.backoff.try_lock().is_ok_and(|mut backoff| self.secret(&mut backoff).is_ok());
        if !has_secret {
            return;
        }
        {
            let servers = &mut self.state().servers;
            if servers.is_good(first) || !servers.may_try(first, Instant::now()) {
                return;
            }
        }
        // Questions wait for its bind to end, and have more time than this.
        match self.open(first, attempt_end(deadline, 3)).await {
            Ok(pooled) => self.put(pooled),
            // While the secret is wrong, connections to other servers are worth keeping.
            Err(Failed::Bind(why)) => {
                self.state().servers.failed(first, why, Instant::now(), random());
            }
            Err(_) => {}
        }
    }

    /// The idle connection that was used last, to the first server if it works. Connections that are too old, and those to a server behind the
    /// first one while the first one works, are closed.
    fn idle(&self, servers: &[Server], now: Instant) -> Option<Pooled> {
        let mut state = self.state();
        let State { idle, servers: backoff, .. } = &mut *state;
        let is_first_good = servers.first().is_some_and(|first| backoff.is_good(first));
        idle.retain(|idle| {
            let pooled = &idle.pooled;
            let server = pooled.connection.server();
            let age_max = match servers.first() == Some(server) || !is_first_good {
                true => self.settings.age_max,
                false => AWAY_MAX.min(self.settings.age_max),
            };
            servers.contains(server)
                && now.duration_since(pooled.since) < age_max
                && now.duration_since(idle.since) < self.settings.idle_timeout
        });
        let is_of_first = |idle: &Idle| servers.first() == Some(idle.pooled.connection.server());
        while let Some(last) = idle.len().checked_sub(1) {
            let at = if is_first_good { idle.iter().rposition(is_of_first) } else { None };
            let Idle { mut pooled, .. } = idle.remove(at.unwrap_or(last));
            if pooled.connection.is_silent() {
                return Some(pooled);
            }
        }
        None
    }

    /// Takes the connection that was idle longest, if it has been for this long.
    pub(crate) fn oldest_idle(&self, at_least: Duration) -> Option<Pooled> {
        let mut state = self.state();
        let is_due = state.idle.first().is_some_and(|idle| idle.since.elapsed() >= at_least);
        is_due.then(|| state.idle.remove(0).pooled)
    }

    /// Whether there are several servers.
    pub(crate) fn has_others(&self) -> bool {
        match &self.servers {
            Known::Listed(servers) => servers.len() > 1,
            Known::Discovered(_) => {
                self.state().discovered.as_ref().is_some_and(|(servers, _)| servers.len() > 1)
            }
        }
    }

    /// Connections that are idle.
    pub(crate) fn idle_count(&self) -> usize {
        self.state().idle.len()
    }

    /// The servers, looked up again when the last look-up is too old.
    async fn servers(&self, deadline: Instant) -> Result<Arc<[Server]>, Failed> {
        let discover = match &self.servers {
            Known::Listed(servers) => return Ok(Arc::clone(servers)),
            Known::Discovered(discover) => discover,
        };
        let known = self.state().discovered.clone();
        if let Some((servers, until)) = &known
            && *until > Instant::now()
        {
            return Ok(Arc::clone(servers));
        }
        match timeout_at(deadline, discover.servers()).await {
            Ok(Ok((servers, valid))) if !servers.is_empty() => {
                let mut state = self.state();
                state.servers.retain(&servers);
                let servers: Arc<[Server]> = servers.into();
                state.discovered = Some((Arc::clone(&servers), Instant::now() + valid));
                Ok(servers)
            }
            failed => {
                let why = match failed {
                    Ok(Err(why)) => why,
                    Ok(Ok(_)) => "there is none".to_owned(),
                    Err(_) => "no answer in time".to_owned(),
                };
                // Servers that were there a moment ago are better than none.
                match known {
                    Some((servers, _)) => {
                        self.state().discovered =
                            Some((Arc::clone(&servers), Instant::now() + Duration::from_secs(5)));
                        Ok(servers)
                    }
                    None => Err(Failed::Connect(format!("discovery: {why}"))),
                }
            }
        }
    }

    async fn open(&self, server: &Server, deadline: Instant) -> Result<Pooled, Failed> {
        let mut trial = Trial { pool: self, server, has_ended: false };
        let opened = timeout_at(deadline, self.open_and_bind(server, deadline)).await;
        trial.has_ended = true;
        let opened =
            opened.unwrap_or_else(|_| Err(Failed::Timeout(format!("{server}: no connection in time"))));
        match &opened {
            Ok(_) => {
                let was_good = self.state().servers.is_good(server);
                self.state().servers.succeeded(server);
                if !was_good {
                    info!(%server, "Directory server works again");
                }
            }
            // A refused bind says nothing about the server.
            Err(Failed::Bind(_)) => {
                self.state().servers.succeeded(server);
                self.settings.meter.failed("bind");
            }
            // A server at which the account may read nothing is backed off: otherwise each question would
            // bind.
            Err(failed) => self.server_failed(server, failed),
        }
        opened
    }

    async fn open_and_bind(&self, server: &Server, deadline: Instant) -> Result<Pooled, Failed> {
        let time = deadline.saturating_duration_since(Instant::now());
        let addresses = match &self.servers {
            Known::Listed(_) => None,
            Known::Discovered(discover) => {
                let found = discover.addresses(server).await;
                found.map_err(|why| Failed::Connect(format!("{server}: {why}")))?
            }
        };
        let mut connection = Connection::open(server, addresses, &self.tls, time).await?;
        self.bind(&mut connection).await?;
        schema::probe(&mut connection, &self.settings, self.role).await?;
        self.settings.meter.connected();
        Ok(Pooled { connection, since: Instant::now(), is_used: false })
    }

    /// The first secret that was not refused lately, and its hash.
    fn secret(&self, backoff: &mut BindBackoff) -> Result<(Zeroizing<String>, u64), Failed> {
        let mut secrets = (self.settings.secrets)().map_err(Failed::Bind)?;
        let hashes: Vec<u64> =
            secrets.iter().map(|secret| self.binds.hasher.hash_one(secret.as_bytes())).collect();
        let at = backoff.choose(&hashes, Instant::now()).map_err(|why| {
            Failed::Bind(match why.as_str() {
                "" => "there is no secret".to_owned(),
                why => format!("{why} (not tried again for a while; a changed secret is used at once)"),
            })
        })?;
        Ok((secrets.swap_remove(at), hashes[at]))
    }

    /// Binds by the first secret that was not refused lately.
    async fn bind(&self, connection: &mut Connection) -> Result<(), Failed> {
        let mut backoff = self.binds.backoff.lock().await;
        let (secret, hash) = self.secret(&mut backoff)?;
        let BindResult { code, text } = connection.bind(&self.settings.bind_dn, &secret).await?;
        match code {
            0 => {
                backoff.succeeded();
                Ok(())
            }
            51 | 52 => Err(Failed::Server(format!("{}: {}", connection.server(), bind_reason(code, &text)))),
            _ => {
                let why = format!("{:?}: {}", self.settings.bind_dn, bind_reason(code, &text));
                let counts = counts_as_wrong_password(code, &text);
                backoff.refused(hash, why.clone(), counts, Instant::now(), random());
                warn!(server = %connection.server(), reason = %why, "Directory rejected the bind of the store's account");
                Err(Failed::Bind(why))
            }
        }
    }
}

/// The one attempt at a server whose back-off is over.
struct Trial<'a> {
    pool: &'a Pool,
    server: &'a Server,
    has_ended: bool,
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.pool.state().servers.given_up(self.server, Instant::now());
        }
    }
}

/// The end of an attempt that is followed by others: each has its share of the time that is left.
pub(crate) fn attempt_end(deadline: Instant, attempts: usize) -> Instant {
    let left = deadline.saturating_duration_since(Instant::now());
    deadline - left + left / u32::try_from(attempts.clamp(1, 3)).unwrap_or(1)
}

fn random() -> u32 {
    // Without randomness all services come back together, and that is all.
    getrandom::u32().unwrap_or(u32::MAX / 2)
}
