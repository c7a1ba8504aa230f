//! The listener: accepts within the limits, starts a task a connection, and ends them all in good order.

use crate::connection::{self, ConnectionContext};
use crate::connection_limiter::{ConnectionLimiter, EvictionReason};
use crate::counters::{Counters, count};
use crate::limits::Limits;
use crate::listen_on::Listening;
use crate::log_limiter::LogLimiter;
use crate::metrics::ConnectionCollector;
use crate::registry::{Peer, Registry};
use crate::turns::Turns;
use dcerpc::association_group::AssociationGroups;
use dcerpc::limits::{ReassemblyBudget, UNPROVED_LEN_MAX};
use dcerpc::security::Account;
use dcerpc::server::ServerConfig;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, error, warn};

/// A server of one registry: its limits, counters and connections.
#[derive(Debug)]
pub struct Server {
    registry: Arc<Registry>,
    limits: Limits,
    groups: Arc<AssociationGroups>,
    reassembly: Arc<ReassemblyBudget>,
    counters: Arc<Counters>,
    shutdown: CancellationToken,
    connections: TaskTracker,
    limiter: ConnectionLimiter<Account>,
    warnings: Arc<EvictionWarnings>,
    turns: Turns,
}

static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

impl Server {
    /// A server for `registry`. Once `shutdown` is cancelled it accepts no connection, and each connection
    /// closes after its calls in flight are answered. The tasks of connections are spawned on `connections`,
    /// by which the caller waits for their end.
    pub fn new(
        registry: Registry,
        limits: Limits,
        shutdown: CancellationToken,
        connections: TaskTracker,
    ) -> Arc<Self> {
        let limiter = ConnectionLimiter::with_memory(limits.of_connections(), UNPROVED_LEN_MAX);
        Self::with_limiter(registry, limits, (shutdown, connections), limiter, Arc::default(), Turns::new())
    }

    /// A server for another registry that has its connections and their memory within the same limits, and
    /// stops with this one.
    pub fn beside(&self, registry: Registry) -> Arc<Self> {
        let lifetime = (self.shutdown.clone(), self.connections.clone());
        let (limiter, warnings) = (self.limiter.clone(), Arc::clone(&self.warnings));
        Self::with_limiter(registry, self.limits, lifetime, limiter, warnings, self.turns.clone())
    }

    fn with_limiter(
        registry: Registry,
        limits: Limits,
        (shutdown, connections): (CancellationToken, TaskTracker),
        limiter: ConnectionLimiter<Account>,
        warnings: Arc<EvictionWarnings>,
        turns: Turns,
    ) -> Arc<Self> {
        Arc::new(Self {
            registry: Arc::new(registry),
            limits,
            groups: Arc::new(AssociationGroups::default()),
            reassembly: Arc::new(ReassemblyBudget::default()),
            counters: Arc::new(Counters::default()),
            shutdown,
            connections,
            limiter,
            warnings,
            turns,
        })
    }

    /// The counters of this registry's connections and calls.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The permits of connections, and the counts of evictions.
    pub const fn limiter(&self) -> &ConnectionLimiter<Account> {
        &self.limiter
    }

    /// Registers the metrics of connections and calls. Servers [beside](Self::beside) this one have counters
    /// of their own, which are not among them.
    pub fn register(&self, metrics: &mut prometheus_client::registry::Registry) {
        self.counters.register(metrics);
        let (limiter, reassembly) = (self.limiter.clone(), Arc::clone(&self.reassembly));
        metrics.register_collector(Box::new(ConnectionCollector { limiter, reassembly }));
    }

    /// Accepts connections until the shutdown is cancelled. Errors of accepting are logged, and it goes on.
    /// If the socket is shut down from outside, its address is bound again.
    pub async fn listen(self: Arc<Self>, listener: TcpListener) {
        let listening = match Listening::new(listener) {
            Ok(listening) => listening,
            Err(error) => {
                return error!(%error, "RPC listener ended: its socket has no address; restart the service");
            }
        };
        let config = self.config(listening.address().port());
        let accept = || listening.accept();
        let failed = |error: &std::io::Error| {
            self.warnings.log_limiter.once("accept", || warn!(%error, "Accepting a connection failed"));
        };
        while let Some((stream, address)) = self.limiter.accept_next(&self.shutdown, accept, failed).await {
            // Answers are written whole; waiting to fill a segment only delays them.
            let _ = stream.set_nodelay(true);
            self.spawn(stream, address, Arc::clone(&config));
        }
    }

    /// The configuration that associations on `port` share.
    pub fn config(&self, port: u16) -> Arc<ServerConfig> {
        Arc::new(ServerConfig {
            interfaces: self.registry.syntaxes(),
            secondary_address: port.to_string(),
            groups: Arc::clone(&self.groups),
            reassembly: Arc::clone(&self.reassembly),
        })
    }

    /// Serves one connection in a task of its own. Another connection may be evicted for it.
    pub fn spawn<S>(self: &Arc<Self>, stream: S, address: SocketAddr, config: Arc<ServerConfig>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let permit = self.limiter.admit(address.ip());
        self.warnings.look(&self.limiter);
        count(&self.counters.accepted);
        let open = Open::begin(self, address);
        let peer = Peer { connection: NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed), address };
        let context = ConnectionContext {
            registry: Arc::clone(&self.registry),
            config,
            limits: self.limits,
            counters: Arc::clone(&self.counters),
            turns: self.turns.clone(),
            // A token of its own: the connection's loop locks nothing that other connections lock.
            shutdown: self.shutdown.child_token(),
        };
        let task = async move {
            let _open = open;
            let exit = connection::run(stream, peer, context, permit).await;
            debug!(?exit, "Connection ended");
        };
        self.connections.spawn(task.instrument(tracing::debug_span!("accept", client.addr = %address)));
    }
}

/// An open connection, for as long as its task lives.
struct Open {
    counters: Arc<Counters>,
    address: SocketAddr,
}

impl Open {
    fn begin(server: &Server, address: SocketAddr) -> Self {
        server.counters.open.inc();
        Self { counters: Arc::clone(&server.counters), address }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // The runtime catches the panic of a task, so this connection ends alone.
        if std::thread::panicking() {
            count(&self.counters.panics);
            warn!(client.addr = %self.address, "Service panicked: connection closed");
        }
        self.counters.open.dec();
    }
}

/// Log messages about evictions, with what was evicted since the last one: a flood causes thousands of
/// evictions a second.
#[derive(Debug, Default)]
struct EvictionWarnings {
    log_limiter: LogLimiter,
    logged: std::sync::Mutex<[u64; EvictionReason::ALL.len()]>,
    looked: AtomicU64,
}

impl EvictionWarnings {
    fn look(&self, limiter: &ConnectionLimiter<Account>) {
        let evicted = EvictionReason::ALL.map(|reason| limiter.evictions_for(reason));
        let sum = evicted.iter().sum();
        if self.looked.swap(sum, Ordering::Relaxed) != sum {
            self.log_limiter.once("evicted", || self.log(limiter, evicted));
        }
    }

    fn log(&self, limiter: &ConnectionLimiter<Account>, evicted: [u64; EvictionReason::ALL.len()]) {
        let mut logged = self.logged.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = std::mem::replace(&mut *logged, evicted);
        drop(logged);
        // Another task may have looked later and logged first.
        let since = |reason: EvictionReason| evicted[reason as usize].saturating_sub(before[reason as usize]);
        let (unproved, proved) = limiter.open();
        warn!(
            unproved = since(EvictionReason::Unproved),
            address = since(EvictionReason::Address),
            memory = since(EvictionReason::Memory),
            proved = since(EvictionReason::Proved),
            account = since(EvictionReason::Account),
            open_unproved = unproved,
            open_proved = proved,
            "Connection limit reached: connections were evicted for new ones or for their memory"
        );
    }
}
