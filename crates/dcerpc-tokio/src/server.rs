//! The listener: accepts within the limits, starts a task a connection, and ends them all in good order.

use crate::connection::{self, ConnectionContext};
use crate::connection_limiter::{ConnectionLimiter, EvictionReason};
use crate::counters::{Counters, count};
use crate::limits::Limits;
use crate::log_limiter::LogLimiter;
use crate::registry::{Peer, Registry};
use crate::turns::Turns;
use dcerpc::association_group::AssociationGroups;
use dcerpc::limits::{ReassemblyBudget, UNPROVED_LEN_MAX};
use dcerpc::server::ServerConfig;
use dtyp::Sid;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{Instrument, debug, warn};

/// Tells connections to finish. Cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Shutdown {
    stop: Arc<watch::Sender<bool>>,
}

impl Shutdown {
    /// Nothing is to be ended yet.
    pub fn new() -> Self {
        Self { stop: Arc::new(watch::Sender::new(false)) }
    }

    /// Closes listeners; connections answer the calls in flight and close.
    pub fn begin(&self) {
        self.stop.send_replace(true);
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Waits until the shutdown begins.
    pub async fn begun(&self) {
        // The sender is held by `self`, so the wait ends only with the value.
        let _ = self.subscribe().wait_for(|stop| *stop).await;
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

/// What is served, and to how many.
#[derive(Debug)]
pub struct Server {
    registry: Arc<Registry>,
    limits: Limits,
    groups: Arc<AssociationGroups>,
    reassembly: Arc<ReassemblyBudget>,
    counters: Arc<Counters>,
    shutdown: Shutdown,
    limiter: ConnectionLimiter<Sid>,
    warnings: Arc<EvictionWarnings>,
    turns: Turns,
    /// Held by each connection; `drained` waits for the last one.
    open: Arc<watch::Sender<usize>>,
}

static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

impl Server {
    /// A server for `registry`, which stops when `shutdown` begins.
    pub fn new(registry: Registry, limits: Limits, shutdown: Shutdown) -> Arc<Self> {
        let limiter = ConnectionLimiter::with_memory(limits.of_connections(), UNPROVED_LEN_MAX);
        Self::with_limiter(registry, limits, shutdown, limiter, Arc::default(), Turns::new())
    }

    /// A server for another registry that has its connections and their memory within the same limits, and stops with
    /// this one.
    pub fn beside(&self, registry: Registry) -> Arc<Self> {
        let (shutdown, limiter) = (self.shutdown.clone(), self.limiter.clone());
        let (warnings, turns) = (Arc::clone(&self.warnings), self.turns.clone());
        Self::with_limiter(registry, self.limits, shutdown, limiter, warnings, turns)
    }

    fn with_limiter(
        registry: Registry,
        limits: Limits,
        shutdown: Shutdown,
        limiter: ConnectionLimiter<Sid>,
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
            limiter,
            warnings,
            turns,
            open: Arc::new(watch::Sender::new(0)),
        })
    }

    /// What was done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Who has permits, and who was evicted.
    pub const fn limiter(&self) -> &ConnectionLimiter<Sid> {
        &self.limiter
    }

    /// Bytes that fragments of unfinished calls under a security context take now.
    pub fn reassembly_used(&self) -> usize {
        self.reassembly.used()
    }

    /// Accepts connections until the shutdown begins. Errors of accepting are logged, and it goes on.
    pub async fn listen(self: Arc<Self>, listener: TcpListener) {
        let port = listener.local_addr().map_or(0, |address| address.port());
        let config = self.config(port);
        let mut stop = self.shutdown.subscribe();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    // Answers are written whole; waiting to fill a segment only delays them.
                    let _ = stream.set_nodelay(true);
                    self.spawn(stream, address, Arc::clone(&config));
                    // An evicted connection closes before the next one is accepted. Otherwise a burst would need more file descriptors than
                    // the limits count.
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    self.warnings
                        .log_limiter
                        .once("accept", || warn!(%error, "Accepting a connection failed"));
                    tokio::time::sleep(self.limiter.not_accepted(&error)).await;
                }
            }
        }
    }

    /// What associations on `port` share.
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
            stop: self.shutdown.subscribe(),
        };
        let task = async move {
            let _open = open;
            let exit = connection::run(stream, peer, context, permit).await;
            debug!(?exit, "Connection ended");
        };
        tokio::spawn(task.instrument(tracing::debug_span!("accept", client.addr = %address)));
    }

    /// Waits until no connection is left.
    pub async fn drained(&self) {
        // The sender is held by `self`, so the wait ends only with the value.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }
}

/// An open connection, for as long as its task lives.
struct Open {
    open: Arc<watch::Sender<usize>>,
    counters: Arc<Counters>,
    address: SocketAddr,
}

impl Open {
    fn begin(server: &Server, address: SocketAddr) -> Self {
        server.open.send_modify(|open| *open += 1);
        count(&server.counters.open);
        Self { open: Arc::clone(&server.open), counters: Arc::clone(&server.counters), address }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // The runtime catches the panic of a task, so this connection ends alone.
        if std::thread::panicking() {
            count(&self.counters.panics);
            warn!(client.addr = %self.address, "A service panicked; its connection is closed");
        }
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
        self.open.send_modify(|open| *open -= 1);
    }
}

/// Log messages about evictions, with what was evicted since the last one: a flood causes thousands of evictions a second.
#[derive(Debug, Default)]
struct EvictionWarnings {
    log_limiter: LogLimiter,
    logged: std::sync::Mutex<[u64; EvictionReason::ALL.len()]>,
    looked: AtomicU64,
}

impl EvictionWarnings {
    fn look(&self, limiter: &ConnectionLimiter<Sid>) {
        let evicted = EvictionReason::ALL.map(|reason| limiter.evictions_for(reason));
        let sum = evicted.iter().sum();
        if self.looked.swap(sum, Ordering::Relaxed) != sum {
            self.log_limiter.once("evicted", || self.log(limiter, evicted));
        }
    }

    fn log(&self, limiter: &ConnectionLimiter<Sid>, evicted: [u64; EvictionReason::ALL.len()]) {
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
