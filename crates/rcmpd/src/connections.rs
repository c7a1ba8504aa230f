//! Connections of one listener for web servers, their clients or monitoring: which one is evicted for a new one, how it ends, and what is
//! counted.
//!
//! Each connection is accepted at once. It has a permit of a [`ConnectionLimiter`] and is unproved until its client has proved who it is,
//! so connections that prove nothing are evicted for each other and for nothing else.

use dcerpc_tokio::{ConnectionLimiter, ConnectionLimits, ConnectionPermit, LogLimiter};
use std::fmt;
use std::hash::Hash;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tracing::warn;

/// Connections that the kernel holds until they are accepted; it allows `net.core.somaxconn`, 4096 by default. The 128 of the standard
/// library are used up by one burst, and the next client then waits a second to try again.
pub(crate) const BACKLOG: u32 = 4096;
/// Evicted connections of proved clients that may still be answering. They have no permit any more, so more than these end at once: a
/// client that opens connections faster than its requests are answered would hold descriptors without a limit.
const DRAINING_MAX: usize = 256;
/// How long such a connection may take.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The connections of one listener. `I` is what its clients prove.
#[derive(Debug)]
pub(crate) struct Connections<I> {
    listener: &'static str,
    limiter: ConnectionLimiter<I>,
    has_budget: bool,
    draining: Arc<Semaphore>,
    log_limiter: LogLimiter,
}

/// Connections of a listener, counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    /// Open now: unproved, proved.
    pub(crate) open: (usize, usize),
    /// Evicted since the start: unproved, proved.
    pub(crate) evicted: (u64, u64),
    /// Whether memory of unproved connections is counted, and how much there is.
    pub(crate) has_budget: bool,
    pub(crate) unproved_bytes: usize,
}

/// Reads the counts of a listener, for `/metrics`.
pub(crate) struct ConnectionMeter {
    /// The dialect of a listener for web servers, `proxy` or `admin`.
    pub(crate) listener: &'static str,
    /// The address or the path.
    pub(crate) address: String,
    counts: Box<dyn Fn() -> Counts + Send + Sync>,
}

impl ConnectionMeter {
    pub(crate) fn counts(&self) -> Counts {
        (self.counts)()
    }
}

impl fmt::Debug for ConnectionMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {:?}", self.listener, self.address, self.counts())
    }
}

impl<I: Clone + Eq + Hash + Send + 'static> Connections<I> {
    pub(crate) fn new(listener: &'static str, limits: ConnectionLimits) -> Self {
        Self::with_memory(listener, limits, usize::MAX)
    }

    /// Clients that have proved nothing hold at most so many bytes together, by what their permits say
    /// ([`ConnectionPermit::hold`]).
    pub(crate) fn with_memory(
        listener: &'static str,
        limits: ConnectionLimits,
        unproved_bytes_max: usize,
    ) -> Self {
        Self {
            listener,
            limiter: ConnectionLimiter::with_memory(limits, unproved_bytes_max),
            has_budget: unproved_bytes_max < usize::MAX,
            draining: Arc::new(Semaphore::new(DRAINING_MAX)),
            log_limiter: LogLimiter::default(),
        }
    }

    /// A permit for a new connection.
    pub(crate) fn admit(&self, address: IpAddr) -> ConnectionPermit<I> {
        self.limiter.admit(address)
    }

    /// Waits for the first bytes of a new connection: until they come, it costs a descriptor and nothing else. False if they do not come
    /// within the limit, or the connection is evicted.
    pub(crate) async fn wait_for_first_bytes(
        &self,
        stream: &TcpStream,
        permit: &ConnectionPermit<I>,
        limit: Duration,
    ) -> bool {
        tokio::select! {
            // What has come is looked at before the connection makes room for another one.
            biased;
            ready = timeout(limit, stream.readable()) => matches!(ready, Ok(Ok(()))),
            () = permit.evicted() => {
                self.evicted(false);
                false
            }
        }
    }

    /// Is called once [`ConnectionPermit::evicted`] has returned. A connection of a proved client may answer what is in flight for
    /// [`DRAIN_TIMEOUT`], and holds what is returned for as long; without it, the connection has to end at once.
    pub(crate) fn evicted(&self, is_proved: bool) -> Option<OwnedSemaphorePermit> {
        let (what, limit) = match is_proved {
            true => ("proved", "Connection limit of a client reached: its oldest connection is evicted"),
            false => ("unproved", "Connection limit reached: the oldest unproved connections are evicted"),
        };
        let (unproved, proved) = self.limiter.open();
        let unproved_bytes = self.limiter.unproved_bytes();
        self.log_limiter
            .once(what, || warn!(listener = self.listener, unproved, unproved_bytes, proved, "{limit}"));
        if is_proved { Arc::clone(&self.draining).try_acquire_owned().ok() } else { None }
    }

    /// Is called when a connection cannot be accepted.
    pub(crate) async fn not_accepted(&self, error: io::Error) {
        let listener = self.listener;
        self.log_limiter.once("accept", || warn!(listener, %error, "Cannot accept a connection"));
        sleep(self.limiter.not_accepted(&error)).await;
    }

    /// What reads the counts of this listener, at its address or path.
    pub(crate) fn meter(&self, address: String) -> ConnectionMeter
    where
        I: Sync,
    {
        let limiter = self.limiter.clone();
        let has_budget = self.has_budget;
        let counts = move || Counts {
            open: limiter.open(),
            evicted: limiter.evictions(),
            has_budget,
            unproved_bytes: limiter.unproved_bytes(),
        };
        ConnectionMeter { listener: self.listener, address, counts: Box::new(counts) }
    }
}
