//! Connections of one listener for web servers, their clients or monitoring: which one is evicted for a new
//! one, how it ends, and what is counted.
//!
//! Each connection is accepted at once. It has a permit of a [`ConnectionLimiter`] and is unproved until its
//! client has proved who it is, so connections that prove nothing are evicted for each other and for nothing
//! else.

use dcerpc_tokio::{ConnectionLimiter, ConnectionLimits, ConnectionPermit, LogLimiter, encode_family};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use std::error::Error;
use std::fmt::{self, Write};
use std::hash::Hash;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Evicted connections of proved clients that may still be answering. They have no permit any more, so more
/// than these end at once: a client that opens connections faster than its requests are answered would hold
/// descriptors without a limit.
const DRAINING_MAX: usize = 256;
/// How long such a connection may take.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The connections of one listener. `I` is what its clients prove.
#[derive(Debug)]
pub struct Connections<I> {
    listener: &'static str,
    limiter: ConnectionLimiter<I>,
    has_budget: bool,
    draining: Arc<Semaphore>,
    /// By [`Rejection`].
    rejected: Arc<[AtomicU64; Rejection::ALL.len()]>,
    log_limiter: LogLimiter,
}

/// Why a connection or a request was rejected before a handler had a request to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The client's certificate, in the handshake.
    Certificate,
    /// A TLS alert was sent or received, or what came is not TLS.
    Handshake,
    /// The handshake took too long.
    HandshakeTimeout,
    /// What came is not HTTP/1.1: 400, or no answer.
    BadRequest,
    /// The head of a request, or its URI, is longer than the limit: 431 or 414.
    HeadTooLarge,
    /// A bad preface, or a frame that breaks the rules of HTTP/2: the connection ends with GOAWAY.
    Http2Connection,
    /// A request that breaks the rules of HTTP/2, a head that is too long (431), or one stream too many: the
    /// stream is reset.
    Http2Stream,
}

impl Rejection {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Self; 7] = [
        Self::Certificate,
        Self::Handshake,
        Self::HandshakeTimeout,
        Self::BadRequest,
        Self::HeadTooLarge,
        Self::Http2Connection,
        Self::Http2Stream,
    ];

    /// A stable name, for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Handshake => "handshake",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::BadRequest => "bad_request",
            Self::HeadTooLarge => "head_too_large",
            Self::Http2Connection => "http2_connection",
            Self::Http2Stream => "http2_stream",
        }
    }

    /// What the end of an HTTP connection says of its peer. None if the peer has left, or was too slow.
    fn of(error: &hyper::Error, is_http2: bool) -> Option<Self> {
        match error {
            error if error.is_parse_too_large() => Some(Self::HeadTooLarge),
            error if error.is_parse() => Some(Self::BadRequest),
            error if error.is_timeout() || error.is_canceled() || error.is_user() => None,
            // The peer ended it: with GOAWAY, or a reset.
            error if h2_errors(error).any(h2::Error::is_remote) => None,
            // hyper tells errors of HTTP/2 from others by their cause alone.
            error
                if is_http2
                    && error.source().is_some()
                    && !causes(error).any(<dyn Error>::is::<io::Error>) =>
            {
                Some(Self::Http2Connection)
            }
            _ => None,
        }
    }
}

/// Connections of a listener, counted.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// Open now: unproved, proved.
    open: (usize, usize),
    /// Evicted since the start: unproved, proved.
    evicted: (u64, u64),
    /// Whether memory of unproved connections is counted, and how much there is.
    has_budget: bool,
    /// Bytes held by unproved connections, by what their permits say.
    unproved_bytes: usize,
    /// By [`Rejection`], in the order of `ALL`.
    pub rejected: [u64; Rejection::ALL.len()],
}

/// Reads the counts of a listener.
pub struct ConnectionMeter {
    /// The dialect of a listener for web servers, `proxy` or `admin`.
    pub listener: &'static str,
    /// The address or the path.
    pub address: String,
    counts: Box<dyn Fn() -> Counts + Send + Sync>,
    /// Of the application behind the listener, if there is one.
    pub upstream: Option<UpstreamMeter>,
}

/// Reads the failures of a listener's application.
pub struct UpstreamMeter {
    /// The URL, or the path.
    pub application: String,
    /// By reason.
    pub failures: Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>,
}

impl ConnectionMeter {
    /// The counts now.
    pub fn counts(&self) -> Counts {
        (self.counts)()
    }

    /// The same with the failures of the listener's application.
    pub fn with_upstream(self, upstream: Option<UpstreamMeter>) -> Self {
        Self { upstream, ..self }
    }
}

impl fmt::Debug for ConnectionMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {:?}", self.listener, self.address, self.counts())
    }
}

/// Collects the counts of listeners and of the applications behind them, at each scrape.
#[derive(Debug)]
pub struct ConnectionCollector(pub Vec<ConnectionMeter>);

#[derive(Clone, Debug, EncodeLabelSet)]
struct ListenerLabels {
    listener: &'static str,
    address: String,
}

#[derive(Debug, EncodeLabelSet)]
struct ClientLabels {
    #[prometheus(flatten)]
    listener: ListenerLabels,
    client: &'static str,
}

#[derive(Debug, EncodeLabelSet)]
struct RejectionLabels {
    #[prometheus(flatten)]
    listener: ListenerLabels,
    reason: Rejection,
}

#[derive(Debug, EncodeLabelSet)]
struct UpstreamLabels {
    #[prometheus(flatten)]
    listener: ListenerLabels,
    upstream: String,
    reason: &'static str,
}

impl EncodeLabelValue for Rejection {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.name().encode(encoder)
    }
}

impl ConnectionMeter {
    fn labels(&self) -> ListenerLabels {
        ListenerLabels { listener: self.listener, address: self.address.clone() }
    }

    /// What is counted by whether clients have proved who they are: unproved, proved.
    fn by_client<T>(&self, (unproved, proved): (T, T)) -> [(ClientLabels, T); 2] {
        let labels = |client| ClientLabels { listener: self.labels(), client };
        [(labels("unproved"), unproved), (labels("proved"), proved)]
    }
}

impl Collector for ConnectionCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counts: Vec<_> = self.0.iter().map(|meter| (meter, meter.counts())).collect();
        encode_family(
            &mut encoder,
            (
                "listener_connections_open",
                "Connections of the listener open now, by whether their client has proved who it is",
                None,
            ),
            counts
                .iter()
                .flat_map(|(meter, counts)| meter.by_client(counts.open))
                .map(|(labels, count)| (labels, ConstGauge::new(count))),
        )?;
        encode_family(
            &mut encoder,
            (
                "listener_connections_evicted",
                "Connections of the listener closed for newer ones because a connection limit was reached",
                None,
            ),
            counts
                .iter()
                .flat_map(|(meter, counts)| meter.by_client(counts.evicted))
                .map(|(labels, count)| (labels, ConstCounter::new(count))),
        )?;
        encode_family(
            &mut encoder,
            (
                "listener_rejected",
                "Connections and requests rejected before a request could be handled, by reason",
                None,
            ),
            counts.iter().flat_map(|(meter, counts)| {
                Rejection::ALL.into_iter().zip(counts.rejected).map(|(reason, count)| {
                    (RejectionLabels { listener: meter.labels(), reason }, ConstCounter::new(count))
                })
            }),
        )?;
        let upstreams = self.0.iter().filter_map(|meter| Some((meter, meter.upstream.as_ref()?)));
        encode_family(
            &mut encoder,
            (
                "upstream_failures",
                "Requests that the application behind the listener did not answer, by reason",
                None,
            ),
            upstreams.flat_map(|(meter, upstream)| {
                (upstream.failures)().into_iter().map(|(reason, count)| {
                    let (listener, upstream) = (meter.labels(), upstream.application.clone());
                    (UpstreamLabels { listener, upstream, reason }, ConstCounter::new(count))
                })
            }),
        )?;
        encode_family(
            &mut encoder,
            (
                "listener_unproved",
                "Estimated bytes held by connections whose client has proved nothing, beyond those that each may hold",
                Some(Unit::Bytes),
            ),
            counts
                .iter()
                .filter(|(_, counts)| counts.has_budget)
                .map(|(meter, counts)| (meter.labels(), ConstGauge::new(counts.unproved_bytes))),
        )
    }
}

/// The causes of an error, the nearest first.
pub fn causes(error: &hyper::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    fn source<'a>(error: &&'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
        (**error).source()
    }
    std::iter::successors(error.source(), source)
}

/// The errors of HTTP/2 among the causes of an error.
pub fn h2_errors(error: &hyper::Error) -> impl Iterator<Item = &h2::Error> {
    causes(error).filter_map(|cause| cause.downcast_ref::<h2::Error>())
}

/// Bytes of an error in the log.
const CAUSES_LEN_MAX: usize = 240;

/// An error with its causes: hyper names the part of HTTP alone.
pub struct Causes<'a>(pub &'a hyper::Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        for cause in causes(self.0) {
            let _ = write!(text, ": {cause}");
        }
        // GOAWAY may have as much text of the peer's as fits into a frame (RFC 9113, section 6.8).
        text.truncate(text.floor_char_boundary(CAUSES_LEN_MAX));
        f.write_str(&text)
    }
}

impl<I: Clone + Eq + Hash + Send + 'static> Connections<I> {
    /// `listener` is its name in logs and metrics.
    pub fn new(listener: &'static str, limits: ConnectionLimits) -> Self {
        Self::with_memory(listener, limits, usize::MAX)
    }

    /// Clients that have proved nothing hold at most so many bytes together, by what their permits say
    /// ([`ConnectionPermit::hold`]).
    pub fn with_memory(listener: &'static str, limits: ConnectionLimits, unproved_bytes_max: usize) -> Self {
        Self {
            listener,
            limiter: ConnectionLimiter::with_memory(limits, unproved_bytes_max),
            has_budget: unproved_bytes_max < usize::MAX,
            draining: Arc::new(Semaphore::new(DRAINING_MAX)),
            rejected: Arc::default(),
            log_limiter: LogLimiter::default(),
        }
    }

    /// The name of this listener in logs and metrics.
    pub const fn listener(&self) -> &'static str {
        self.listener
    }

    /// A permit for a new connection.
    pub fn admit(&self, address: IpAddr) -> ConnectionPermit<I> {
        self.limiter.admit(address)
    }

    /// Waits for the first bytes of a new connection: until they come, it costs a descriptor and nothing
    /// else. False if they do not come within the limit, or the connection is evicted.
    pub async fn wait_for_first_bytes(
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

    /// Is called once [`ConnectionPermit::evicted`] has returned. A connection of a proved client may answer
    /// what is in flight for [`DRAIN_TIMEOUT`], and holds what is returned for as long; without it, the
    /// connection has to end at once.
    pub fn evicted(&self, is_proved: bool) -> Option<OwnedSemaphorePermit> {
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

    /// Counts what was rejected.
    pub fn count_rejected(&self, why: Rejection) {
        self.rejected[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts and logs what was rejected. `address` is none for a Unix socket.
    pub fn rejected(&self, why: Rejection, address: Option<SocketAddr>, error: &dyn fmt::Display) {
        self.count_rejected(why);
        let (listener, reason) = (self.listener, why.name());
        let client = address.map(tracing::field::display);
        self.log_limiter.once(reason, || {
            info!(listener, client.addr = client, reason, %error, "Rejected before a request could be handled");
        });
    }

    /// Is called when an HTTP connection has ended with an error.
    pub fn ended(&self, error: &hyper::Error, is_http2: bool, address: Option<SocketAddr>) {
        match Rejection::of(error, is_http2) {
            Some(why) => self.rejected(why, address, &Causes(error)),
            None => debug!(listener = self.listener, error = %Causes(error), "A connection ended"),
        }
    }

    /// The next connection that `accept` accepts, or `None` once `shutdown` is cancelled; see
    /// [`ConnectionLimiter::accept_next`].
    pub async fn accept_next<A, F>(
        &self,
        shutdown: &CancellationToken,
        accept: impl FnMut() -> F,
    ) -> Option<A>
    where
        F: Future<Output = io::Result<A>>,
    {
        let listener = self.listener;
        let failed = |error: &io::Error| {
            self.log_limiter.once("accept", || warn!(listener, %error, "Cannot accept a connection"));
        };
        self.limiter.accept_next(shutdown, accept, failed).await
    }

    /// What reads the counts of this listener, at its address or path.
    pub fn meter(&self, address: String) -> ConnectionMeter
    where
        I: Sync,
    {
        let limiter = self.limiter.clone();
        let has_budget = self.has_budget;
        let rejected = Arc::clone(&self.rejected);
        let counts = move || Counts {
            open: limiter.open(),
            evicted: limiter.evictions(),
            has_budget,
            unproved_bytes: limiter.unproved_bytes(),
            rejected: std::array::from_fn(|at| rejected[at].load(Ordering::Relaxed)),
        };
        ConnectionMeter { listener: self.listener, address, counts: Box::new(counts), upstream: None }
    }
}
