//! Listeners for proxies: how a proxy proves itself, and which dialect it speaks.
//!
//! A proxy is never trusted because of its source address. On a Unix socket the kernel names the user of its
//! process; over TCP it shows a certificate or the listener's secret. A listener without one of these is not
//! configured.
//!
//! Connections are accepted at once. One that has proved nothing is evicted for a newer one, so it never
//! keeps a proxy out.

mod connection;
mod proof;

pub use proof::Proof;

use super::unix::{self, User};
use super::unproved::Long;
use super::upstream::{
    Body, RequestOrigin, Upstream, authority, closing, no_host, refusal, strip, whole, with_cookie,
};
use crate::Clock;
use crate::envoy;
use crate::refusals;
use crate::settings::{Listen, Place, Speaks};
use anyhow::bail;
use arc_swap::ArcSwap;
use connection::{Origin, connection, over_tcp};
use dcerpc_tokio::{ConnectionLimits, LogLimiter, listen_on};
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use listener_tokio::connections::{ConnectionMeter, Connections};
use listener_tokio::lingering::Lingering;
use proof::Proxy;
use sidecar::dialect::{Dialect, Target};
use sidecar::{Decided, Decision, Moment, Refusal, RequestHead, Sidecar};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span, info, warn};

/// Connections of proxies at once, which keep some open for each of their workers. One proxy may have all of
/// them: if another one comes, that one's oldest connection is evicted.
const PROVED_MAX: usize = 4096;
/// Connections whose proof is still to come; [`Unproved`](super::unproved::Unproved) says what each may hold.
/// A proxy that connects has to prove itself before so many others have connected after it: within 0.8
/// seconds where 5,000 connect in a second. One address may have all of them, because it is the address with
/// most that makes room.
const UNPROVED_MAX: usize = 4096;
/// Those that have sent something. Each may hold the head of a request, or with HTTP/2 about 100 KiB before
/// its first call is read, and proves itself within milliseconds if it is a proxy's.
const STARTED_MAX: usize = 1024;

/// A listener that is bound.
pub struct Listener {
    socket: Socket,
    /// Where it is, for metrics.
    address: String,
    state: Arc<State>,
}

/// A socket that listens.
#[derive(Debug)]
pub enum Socket {
    /// Of TCP.
    Tcp(TcpListener),
    /// In the file system.
    Unix(UnixListener),
}

/// A connection that was accepted.
enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// Connections of a listener at once.
pub const CONNECTIONS_MAX: usize = UNPROVED_MAX + STARTED_MAX + PROVED_MAX;

/// What connections of a listener share.
struct State {
    sidecar: Arc<ArcSwap<Sidecar>>,
    speaks: Speaks,
    target: Target,
    proof: Arc<ArcSwap<Proof>>,
    /// Users whose processes are accepted as the proxy; empty if any user's process is.
    users: Vec<User>,
    connections: Connections<Proxy>,
    long: Long,
    upstream: Option<Arc<Upstream>>,
    log_limiter: LogLimiter,
    /// For certificates that are rejected in a handshake.
    handshake_log: LogLimiter,
    clock: Clock,
    shutdown: CancellationToken,
    is_ending: AtomicBool,
}

impl Listener {
    /// Binds what a configuration names, or takes the socket that the service manager has opened for it. A
    /// listener without any proof of proxies is refused.
    pub async fn bind(
        listen: &Listen,
        sidecar: Arc<ArcSwap<Sidecar>>,
        (proof, upstream): (Arc<ArcSwap<Proof>>, Option<Arc<Upstream>>),
        clock: Clock,
        (shutdown, opened): (CancellationToken, Option<Socket>),
    ) -> anyhow::Result<Self> {
        proof.load().check(listen)?;
        let users = unix::users(&listen.peers)?;
        let dialect = listen.speaks.name();
        let socket = match (opened, &listen.at) {
            (Some(opened), _) => opened,
            (None, Place::Tcp(address)) => Socket::Tcp(listen_on(*address, "[[sidecar.listen]]").await?),
            (None, Place::Unix(place)) => Socket::Unix(unix::bind(place, &users)?),
        };
        let address = match (&socket, &listen.at) {
            (Socket::Tcp(socket), _) => {
                let address = socket.local_addr()?;
                info!(dialect, %address, "Serving web servers");
                address.to_string()
            }
            (Socket::Unix(_), Place::Unix(place)) => {
                info!(dialect, path = %place.path.display(), "Serving web servers");
                format!("unix:{}", place.path.display())
            }
            (Socket::Unix(_), Place::Tcp(address)) => bail!("the socket for {address} is not one of TCP"),
        };
        let limits = ConnectionLimits {
            unproved_max: UNPROVED_MAX,
            started_max: STARTED_MAX,
            unproved_per_address_max: UNPROVED_MAX,
            proved_max: PROVED_MAX,
            proved_per_identity_max: PROVED_MAX,
        };
        let state = State {
            sidecar,
            speaks: listen.speaks,
            target: listen.target,
            proof,
            users,
            connections: Connections::new(dialect, limits),
            long: Long::new(),
            upstream,
            log_limiter: LogLimiter::default(),
            handshake_log: LogLimiter::default(),
            clock,
            shutdown,
            is_ending: AtomicBool::new(false),
        };
        Ok(Self { socket, address, state: Arc::new(state) })
    }

    /// What counts its connections.
    pub fn meter(&self) -> ConnectionMeter {
        let upstream = self.state.upstream.as_ref().map(|upstream| upstream.meter());
        self.state.connections.meter(self.address.clone()).with_upstream(upstream)
    }

    /// Serves until the shutdown begins and all requests are answered.
    pub async fn serve(self) {
        let tasks = TaskTracker::new();
        let Self { socket, state, .. } = self;
        while let Some(accepted) = state.connections.accept_next(&state.shutdown, || socket.accept()).await {
            state.spawn(&tasks, accepted);
        }
        state.is_ending.store(true, Ordering::Relaxed);
        drop(socket);
        tasks.close();
        tasks.wait().await;
    }
}

impl Socket {
    async fn accept(&self) -> io::Result<Accepted> {
        Ok(match self {
            Self::Tcp(socket) => {
                socket.accept().await.map(|(stream, address)| Accepted::Tcp(stream, address))?
            }
            Self::Unix(socket) => Accepted::Unix(socket.accept().await?.0),
        })
    }
}

impl State {
    /// Serves a connection in a task of its own, unless its user may not ask.
    fn spawn(self: &Arc<Self>, tasks: &TaskTracker, accepted: Accepted) {
        let state = Arc::clone(self);
        match accepted {
            Accepted::Tcp(stream, address) => {
                let origin = Origin::new(&state, Some(address), address.ip());
                tasks.spawn(over_tcp(state, stream, origin));
            }
            Accepted::Unix(stream) => {
                let Ok(user) = stream.peer_cred().map(|credentials| credentials.uid()) else { return };
                let is_known = state.users.iter().any(|known| known.number == user);
                if !state.users.is_empty() && !is_known {
                    state.log_limiter.once("foreign_user", || {
                        warn!(
                            user,
                            dialect = state.speaks.name(),
                            advice = "add it to peers of [[sidecar.listen]], or run the web server as one of these users",
                            "Rejected Unix-socket connection: the user of the process is not in peers"
                        );
                    });
                    return;
                }
                let origin = Origin::new(&state, None, source_of(user));
                if is_known {
                    origin.permit.prove(Proxy::User(user));
                }
                tasks.spawn(connection(state, Lingering::new(stream), origin));
            }
        }
    }
}

/// What unproved connections of a user count for where others count for their address: both have 32 bits.
fn source_of(user: u32) -> IpAddr {
    Ipv4Addr::from_bits(user).into()
}

impl State {
    /// Whether a request shows the secret, where there is one. The connection is the proxy's then.
    fn is_proved(&self, headers: &HeaderMap, origin: &Origin) -> bool {
        let is_proved = self.shows_secret(headers);
        if is_proved {
            origin.prove_by_secret();
        }
        is_proved
    }

    fn shows_secret(&self, headers: &HeaderMap) -> bool {
        self.proof.load().shows_secret(headers)
    }

    fn log_refusal(&self, refusal: Refusal, decision: &Decision, client: Option<SocketAddr>) {
        let (dialect, reason) = (self.speaks.name(), refusal.name());
        let address = client.map(tracing::field::display);
        match refusal {
            Refusal::Broken(broken) => self.log_limiter.counted(reason, |left_out| {
                warn!(
                    dialect,
                    client.addr = address,
                    reason,
                    advice = broken.advice(),
                    left_out,
                    "Rejected request of a proxy: its headers are not as the dialect has them"
                );
            }),
            // Clients do this, and so does a proxy of another dialect.
            Refusal::Forged => self.log_limiter.counted(reason, |left_out| {
                warn!(
                    dialect,
                    client.addr = address,
                    reason,
                    advice = "if the proxy sends them, set its dialect in [[sidecar.listen]]",
                    left_out,
                    "Rejected request: certificate headers of another dialect, or names that look like identity headers"
                );
            }),
            _ => refusals::log(&self.log_limiter, (dialect, client), refusal, decision),
        }
    }
}

impl envoy::Listener for State {
    fn sidecar(&self) -> Arc<Sidecar> {
        self.sidecar.load_full()
    }

    fn now(&self) -> Moment {
        (self.clock)()
    }

    fn is_proved(&self, metadata: &HeaderMap) -> bool {
        self.shows_secret(metadata)
    }

    fn is_ready(&self) -> bool {
        !self.is_ending.load(Ordering::Relaxed)
    }

    fn refused(&self, refusal: Refusal, decision: &Decision, client: Option<SocketAddr>) {
        self.log_refusal(refusal, decision, client);
    }
}

/// Answers a request, in a span of its own.
async fn respond(
    state: &State,
    dialect: Dialect,
    origin: &Origin,
    request: Request<Incoming>,
) -> Response<Body> {
    let sidecar = state.sidecar.load_full();
    let is_proved = state.is_proved(request.headers(), origin);
    let parent = is_proved.then_some(request.headers());
    let span = sidecar.spans().begin(dialect.name(), &RequestHead::of(&request), parent);
    let answering = respond_in_span(state, &sidecar, (dialect, is_proved), origin, request);
    let answer = answering.instrument(span.clone()).await;
    sidecar.spans().answered(&span, answer.status());
    answer
}

async fn respond_in_span(
    state: &State,
    sidecar: &Arc<Sidecar>,
    (dialect, is_proved): (Dialect, bool),
    origin: &Origin,
    request: Request<Incoming>,
) -> Response<Body> {
    // Of two hosts none is asked for.
    let authority = authority(&request);
    if authority.is_none() && state.target == Target::Request {
        return closing(no_host());
    }
    let host = authority.as_ref().map_or("", |authority| authority.as_str());
    let path = request.uri().path_and_query().map_or("", |path| path.as_str());
    let from = (origin.address, (state.clock)());
    let speaks = (dialect, state.target, state.upstream.is_some());
    let decision = sidecar.check(speaks, request.headers(), (host, path), is_proved, from).await;
    let (span, decided) = (Span::current(), &decision.decided);
    sidecar.spans().decided(&span, &decision);
    let cookies = dialect.cookies(state.upstream.is_some(), request.headers());
    let set_cookie = sidecar.set_cookie(decided, cookies);
    if let Some(refusal) = decision.refusal() {
        state.log_refusal(refusal, &decision, origin.address);
    }
    match (decided, &state.upstream) {
        (Decided::Allowed(allowed), Some(upstream)) => {
            let stamp = |headers: &mut HeaderMap| {
                sidecar.stamp(Some(allowed), headers);
                sidecar.spans().put(&span, headers);
            };
            // Boxed: a connection that asks for nothing has no room for it.
            let answer =
                Box::pin(upstream.forward(request, RequestOrigin::Proxy, stamp, strip(sidecar))).await;
            with_cookie(answer, set_cookie)
        }
        _ => {
            let answer = with_cookie(refusal(request, whole(sidecar.answer(decided))), set_cookie);
            if is_proved { answer } else { closing(answer) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{SocketGroup, UnixPlace};
    use proof::tests::proof;
    use std::path::Path;
    use std::time::Duration;

    async fn bound(at: Place, peers: &[&str], secret: Option<&str>) -> Result<(), String> {
        let listen = Listen {
            speaks: Speaks::EnvoyGrpc,
            target: Target::Request,
            at,
            peers: peers.iter().map(|&peer| peer.to_owned()).collect(),
            tls: None,
            upstream: None,
        };
        let proof = Arc::new(ArcSwap::from_pointee(proof(secret).expect("the secret can be used")));
        let sidecar =
            Arc::new(ArcSwap::new(envoy::tests::sidecar(&[], Err(Refusal::NoCertificate), vec![]).0));
        let clock = || Moment { wall: dtyp::FileTime::default(), uptime: Duration::ZERO };
        let bound =
            Listener::bind(&listen, sidecar, (proof, None), clock, (CancellationToken::new(), None)).await;
        bound.map(drop).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_listener_without_any_proof_is_not_bound() {
        let folder = tempfile::tempdir().expect("a folder");
        let unix = |name: &str| {
            let path = folder.path().join(name);
            Place::Unix(UnixPlace { path, mode: 0o600, group: SocketGroup::Unchanged })
        };
        let tcp = || Place::Tcp(([127, 0, 0, 1], 0).into());
        let user = "0";
        for refused in [
            bound(tcp(), &[], None).await,
            // TCP does not tell the user of a process.
            bound(tcp(), &[user], None).await,
            bound(unix("refused"), &[], None).await,
        ] {
            let error = refused.expect_err("each process would be trusted");
            assert!(error.contains("would trust every process"), "{error}");
        }
        assert!(!Path::exists(&folder.path().join("refused")), "there is no socket to connect to");
        assert_eq!(bound(tcp(), &[], Some("secret")).await, Ok(()));
        assert_eq!(bound(unix("secret"), &[], Some("secret")).await, Ok(()));
        assert_eq!(bound(unix("user"), &[user], None).await, Ok(()));
    }
}
