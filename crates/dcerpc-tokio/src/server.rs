//! The listener: accepts within the limits, starts a task a connection, and ends them all in good order.

use crate::connection::{self, ConnectionContext};
use crate::counters::{Counters, Refused, count};
use crate::registry::{Peer, Registry};
use dcerpc::association_group::AssociationGroups;
use dcerpc::limits::{self, ReassemblyBudget};
use dcerpc::server::ServerConfig;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{Instrument, debug, warn};

/// What connections may take, in number and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all: each costs a task, a descriptor and some kilobytes.
    pub connections_max: usize,
    /// Connections from one address, so that one client cannot take them all.
    pub connections_per_address_max: usize,
    /// From accept to a finished bind: nobody needs longer who means it.
    pub bind_timeout: Duration,
    /// Without any byte from the peer.
    pub idle_timeout: Duration,
    /// The same of a peer that has not proved who it is; it needs a connection for a handshake or a look-up, not to keep.
    pub anonymous_idle_timeout: Duration,
    /// For the peer to take an answer.
    pub write_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connections_per_address_max: 1_000,
            bind_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(15 * 60),
            anonymous_idle_timeout: Duration::from_secs(2 * 60),
            write_timeout: Duration::from_secs(30),
        }
    }
}

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
    addresses: Mutex<HashMap<IpAddr, usize>>,
    /// Held by each connection; `drained` waits for the last one.
    open: Arc<watch::Sender<usize>>,
}

static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

impl Server {
    /// A server for `registry`, which stops when `shutdown` begins.
    pub fn new(registry: Registry, limits: Limits, shutdown: Shutdown) -> Arc<Self> {
        Arc::new(Self {
            registry: Arc::new(registry),
            limits,
            groups: Arc::new(AssociationGroups::default()),
            reassembly: Arc::new(ReassemblyBudget::default()),
            counters: Arc::new(Counters::default()),
            shutdown,
            addresses: Mutex::new(HashMap::new()),
            open: Arc::new(watch::Sender::new(0)),
        })
    }

    /// What was done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Bytes that fragments of unfinished calls take now.
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
                }
                Err(error) => {
                    warn!(%error, "Accepting a connection failed");
                    // Out of descriptors: without a pause this loop would take a whole core.
                    tokio::time::sleep(Duration::from_millis(100)).await;
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

    /// Serves one connection in a task of its own, unless there are too many.
    pub fn spawn<S>(self: &Arc<Self>, stream: S, address: SocketAddr, config: Arc<ServerConfig>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let slot = match self.admit(address.ip()) {
            Ok(slot) => slot,
            Err(reason) => {
                count(match reason {
                    Refused::Total => &self.counters.refused_total,
                    Refused::Address => &self.counters.refused_address,
                });
                debug!(client.addr = %address, ?reason, "Refused a connection");
                return;
            }
        };
        count(&self.counters.accepted);
        let peer = Peer { connection: NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed), address };
        let context = ConnectionContext {
            registry: Arc::clone(&self.registry),
            config,
            limits: self.limits,
            counters: Arc::clone(&self.counters),
            stop: self.shutdown.subscribe(),
        };
        let counters = Arc::clone(&self.counters);
        let task = async move {
            let _slot = slot;
            let exit = connection::run(stream, peer, context).await;
            debug!(?exit, "Connection ended");
        };
        let task = task.instrument(tracing::debug_span!("accept", client.addr = %address));
        tokio::spawn(async move {
            // A panic ends this connection alone; it is a fault of ours, so it is said aloud.
            if let Err(error) = tokio::spawn(task).await
                && error.is_panic()
            {
                count(&counters.panics);
                warn!(client.addr = %address, "A service panicked; its connection is closed");
            }
        });
    }

    fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Slot, Refused> {
        let address = limits::source_of(address);
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if *self.open.borrow() >= self.limits.connections_max {
            return Err(Refused::Total);
        }
        let here = addresses.entry(address).or_insert(0);
        if *here >= self.limits.connections_per_address_max {
            return Err(Refused::Address);
        }
        *here += 1;
        self.open.send_modify(|open| *open += 1);
        count(&self.counters.open);
        Ok(Slot { server: Arc::clone(self), address })
    }

    /// Waits until no connection is left.
    pub async fn drained(&self) {
        // The sender is held by `self`, so the wait ends only with the value.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }
}

/// One connection's place within the limits.
struct Slot {
    server: Arc<Server>,
    address: IpAddr,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut addresses = self.server.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(here) = addresses.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                addresses.remove(&self.address);
            }
        }
        drop(addresses);
        self.server.counters.open.fetch_sub(1, Ordering::Relaxed);
        self.server.open.send_modify(|open| *open -= 1);
    }
}
