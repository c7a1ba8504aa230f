//! Listeners for proxies: who may speak, and in which dialect.
//!
//! Nobody is believed for being near. A process on a Unix socket is asked of the kernel whose it is, a connection over TCP shows a
//! certificate of a proxy or the listener's secret; without one of them there is no listener.

use super::complaints::Complaints;
use super::front::slots::{Slot, Slots};
use super::tls::{check_private, of_listener};
use super::upstream::{Behind, Body, Upstream, authority, whole};
use crate::clock::moment;
use crate::config::{Listen, Place, SecretRef, Speaks};
use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use dcerpc_tokio::Shutdown;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rcmp_service::certificate::{AlternativeName, Certificate};
use sidecar::dialect::Dialect;
use sidecar::{Decided, Moment, Refusal, Sidecar, envoy};
use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

/// Connections of a listener at once: proxies keep some open for each of their workers.
const CONNECTIONS_MAX: usize = 4096;
/// Connections over TCP whose secret or certificate is still to come, in all and of one address. Each may hold the head of a request.
const UNPROVED_MAX: usize = 256;
const UNPROVED_PER_ADDRESS_MAX: usize = 64;
/// How long that may take: a proxy connects when it has something to ask.
const PROOF_TIMEOUT: Duration = Duration::from_secs(10);
/// For the head of a request, and between two: longer than proxies keep connections that nobody uses.
const HEAD_TIMEOUT: Duration = Duration::from_secs(90);
/// When a connection of Envoy's is asked whether its peer is still there, and how long that may take.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// All headers of a request: a certificate of 64 KiB in percent-encoded PEM, and a chain.
const HEAD_LEN_MAX: usize = 512 << 10;
/// When nothing can be accepted, trying at once changes nothing.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener that is bound.
pub(super) struct Listener {
    socket: Socket,
    state: Arc<State>,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// What proxies prove themselves by that is read from files, anew when the configuration is reloaded.
pub(super) struct Proof {
    secret: Option<Zeroizing<String>>,
    tls: Option<(TlsAcceptor, Vec<String>)>,
}

impl Proof {
    /// Reads what a listener names.
    pub(super) fn read(listen: &Listen) -> anyhow::Result<Self> {
        let secret = listen.secret.as_ref().map(secret).transpose()?;
        let tls = listen.tls.as_ref().map(of_listener).transpose()?;
        let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        Ok(Self { secret, tls: tls.zip(listen.tls.as_ref().map(|tls| tls.names.clone())) })
    }
}

/// Reads the secret of a listener.
pub fn secret(reference: &SecretRef) -> anyhow::Result<Zeroizing<String>> {
    let unusable = "cannot use the secret of [[sidecar.listen]]";
    if let SecretRef::File(path) = reference {
        check_private(path).context(unusable)?;
    }
    let secret = reference.read().context(unusable)?;
    // It stands in the configurations of web servers, each of which has its own way with other characters.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=_.~-".contains(&byte);
    match secret.bytes().all(is_plain) {
        true => Ok(secret),
        false => bail!(
            "the secret of [[sidecar.listen]] has other characters than letters, digits and + / = _ . ~ -: openssl rand -base64 32 makes one"
        ),
    }
}

/// What connections of a listener share.
struct State {
    sidecar: Arc<ArcSwap<Sidecar>>,
    speaks: Speaks,
    proof: Arc<ArcSwap<Proof>>,
    /// Users whose processes are believed; none where that is not asked.
    users: Vec<u32>,
    unproved: Slots,
    upstream: Option<Upstream>,
    complaints: Complaints,
    shutdown: Shutdown,
    is_ending: AtomicBool,
}

/// A connection: where it comes from, and its place among those that have still to prove whose they are.
struct Origin {
    address: Option<SocketAddr>,
    unproved: Mutex<Option<Slot>>,
}

impl Origin {
    fn lock(&self) -> MutexGuard<'_, Option<Slot>> {
        self.unproved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when too much time has passed without a proof, and never where there is one.
    async fn overdue(&self) {
        sleep(PROOF_TIMEOUT).await;
        let is_proved = self.lock().is_none();
        if is_proved {
            pending::<()>().await;
        }
    }
}

impl Listener {
    /// Binds what a configuration names.
    pub(super) async fn bind(
        listen: &Listen,
        sidecar: Arc<ArcSwap<Sidecar>>,
        proof: Arc<ArcSwap<Proof>>,
        shutdown: Shutdown,
    ) -> anyhow::Result<Self> {
        let users = listen.peers.iter().map(|name| user(name)).collect::<anyhow::Result<Vec<_>>>()?;
        let dialect = listen.speaks.name();
        let socket = match &listen.at {
            Place::Tcp(address) => {
                let socket = TcpListener::bind(*address).await.with_context(|| {
                    format!("cannot listen on {address} ([[sidecar.listen]]): choose another address or port, or stop who has it")
                })?;
                info!(dialect, address = %socket.local_addr()?, "Serving proxies");
                Socket::Tcp(socket)
            }
            Place::Unix(path, mode) => {
                let socket = bind_unix(path, *mode)?;
                info!(dialect, path = %path.display(), "Serving proxies");
                Socket::Unix(socket)
            }
        };
        let state = State {
            sidecar,
            speaks: listen.speaks,
            proof,
            users,
            unproved: Slots::new(UNPROVED_MAX, UNPROVED_PER_ADDRESS_MAX),
            upstream: listen.upstream.as_ref().map(Upstream::new),
            complaints: Complaints::default(),
            shutdown,
            is_ending: AtomicBool::new(false),
        };
        Ok(Self { socket, state: Arc::new(state) })
    }

    /// Serves until the shutdown begins.
    pub(super) async fn serve(self) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let accept = async {
                match Arc::clone(&room).acquire_owned().await {
                    Ok(permit) => self.accept(permit).await,
                    // It is never closed.
                    Err(_) => Ok(()),
                }
            };
            let accepted = tokio::select! {
                () = self.state.shutdown.begun() => break,
                accepted = accept => accepted,
            };
            if let Err(error) = accepted {
                warn!(%error, dialect = self.state.speaks.name(), "A connection of a proxy cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        let Self { socket, state } = self;
        state.is_ending.store(true, Ordering::Relaxed);
        drop(socket);
        // Requests in flight are answered.
        let _ = room.acquire_many(CONNECTIONS_MAX as u32).await;
    }

    async fn accept(&self, permit: OwnedSemaphorePermit) -> std::io::Result<()> {
        let state = Arc::clone(&self.state);
        match &self.socket {
            Socket::Tcp(socket) => {
                let (stream, address) = socket.accept().await?;
                let _ = stream.set_nodelay(true);
                let Some(slot) = state.unproved.admit(address.ip()) else {
                    state.complaints.say("unproved", || {
                        warn!(%address, dialect = state.speaks.name(), "Too many connect and prove nothing; some are not heard");
                    });
                    return Ok(());
                };
                let origin = Origin { address: Some(address), unproved: Mutex::new(Some(slot)) };
                tokio::spawn(async move {
                    let tls = state.proof.load_full().tls.clone();
                    match tls {
                        None => connection(state, stream, origin).await,
                        Some(tls) => over_tls(state, tls, stream, origin).await,
                    }
                    drop(permit);
                });
            }
            Socket::Unix(socket) => {
                let (stream, _) = socket.accept().await?;
                let user = stream.peer_cred()?.uid();
                if !state.users.is_empty() && !state.users.contains(&user) {
                    state.complaints.say("foreign_user", || {
                        warn!(
                            user,
                            dialect = state.speaks.name(),
                            advice = "add it to peers of [[sidecar.listen]], or let the web server run as one of them",
                            "A process of another user asks, and is not heard"
                        );
                    });
                    return Ok(());
                }
                tokio::spawn(async move {
                    connection(state, stream, Origin { address: None, unproved: Mutex::new(None) }).await;
                    drop(permit);
                });
            }
        }
        Ok(())
    }
}

impl State {
    /// Whether a request shows the secret, where there is one. The connection is the proxy's then.
    fn is_proved(&self, headers: &HeaderMap, origin: &Origin) -> bool {
        let is_proved = self.shows_secret(headers);
        if is_proved {
            origin.lock().take();
        }
        is_proved
    }

    fn shows_secret(&self, headers: &HeaderMap) -> bool {
        let proof = self.proof.load();
        proof.secret.as_ref().is_none_or(|secret| sidecar::shows_secret(headers, secret))
    }

    fn tell(&self, refusal: Refusal) {
        let (dialect, reason) = (self.speaks.name(), refusal.name());
        match refusal {
            Refusal::Broken(broken) => self.complaints.say(reason, || {
                warn!(dialect, reason, advice = broken.advice(), "A proxy's request cannot be used");
            }),
            Refusal::Undecided(_) => self.complaints.say(reason, || {
                warn!(dialect, reason, "Who somebody is could not be decided");
            }),
            // Clients do this, and so does a proxy of another dialect.
            Refusal::Forged => self.complaints.say(reason, || {
                warn!(
                    dialect,
                    reason,
                    advice = "if it is the proxy who sends them, say its dialect in [[sidecar.listen]]",
                    "Certificate headers of another dialect, or names that look like ours, were sent"
                );
            }),
            Refusal::Chain(error) => debug!(dialect, reason, error, "Refused"),
            _ => debug!(dialect, reason, "Refused"),
        }
    }
}

impl envoy::Listener for State {
    fn sidecar(&self) -> Arc<Sidecar> {
        self.sidecar.load_full()
    }

    fn now(&self) -> Moment {
        moment()
    }

    fn is_proved(&self, metadata: &HeaderMap) -> bool {
        self.shows_secret(metadata)
    }

    fn is_ready(&self) -> bool {
        !self.is_ending.load(Ordering::Relaxed)
    }

    fn refused(&self, refusal: Refusal) {
        self.tell(refusal);
    }
}

async fn over_tls(
    state: Arc<State>,
    (acceptor, names): (TlsAcceptor, Vec<String>),
    stream: TcpStream,
    origin: Origin,
) {
    let address = origin.address;
    let stream = match timeout(PROOF_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(?address, %error, "A proxy's handshake failed"),
        Err(_) => return debug!(?address, "A proxy's handshake took too long"),
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let is_proxy = certificates.first().is_some_and(|certificate| is_named(certificate, &names));
    match is_proxy {
        true => {
            origin.lock().take();
            connection(state, stream, origin).await;
        }
        false => state.complaints.say("foreign_proxy", || {
            warn!(
                ?address,
                dialect = state.speaks.name(),
                advice =
                    "if it is the proxy, add a DNS name of its certificate to names of [[sidecar.listen]]",
                "A certificate that names no proxy was shown, and whoever did is not heard"
            );
        }),
    }
}

/// Whether a certificate has one of these DNS names.
fn is_named(certificate: &[u8], names: &[String]) -> bool {
    let Ok(certificate) = Certificate::parse(certificate) else { return false };
    let Ok(found) = certificate.alternative_names() else { return false };
    found
        .iter()
        .any(|name| matches!(name, AlternativeName::Dns(name) if names.contains(&name.to_lowercase())))
}

async fn connection<S>(state: Arc<State>, stream: S, origin: Origin)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = TokioIo::new(stream);
    let origin = Arc::new(origin);
    // Carries requests until the connection ends, or the shutdown begins and what is asked is answered. How it ends is the peer's business.
    macro_rules! carry {
        ($connection:expr) => {{
            let mut connection = pin!($connection);
            tokio::select! {
                _ = connection.as_mut() => return,
                () = origin.overdue() => {
                    return debug!(address = ?origin.address, "A connection proved nothing, and is closed");
                }
                () = state.shutdown.begun() => {}
            }
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }};
    }
    match state.speaks {
        Speaks::Http(dialect) => {
            let service = service_fn(|request| {
                let (state, origin) = (Arc::clone(&state), Arc::clone(&origin));
                async move { Ok::<_, Infallible>(respond(&state, dialect, &origin, request).await) }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_LEN_MAX);
            carry!(builder.serve_connection(stream, service).with_upgrades());
        }
        Speaks::EnvoyGrpc => {
            let routes = envoy::routes(Arc::clone(&state));
            let service = service_fn(|request| {
                let (state, origin, routes) = (Arc::clone(&state), Arc::clone(&origin), routes.clone());
                async move { Ok::<_, Infallible>(call(&state, routes, &origin, request).await) }
            });
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).max_header_list_size(HEAD_LEN_MAX as u32);
            // Who is silent is asked whether he is there.
            builder.keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT);
            carry!(builder.serve_connection(stream, service));
        }
    }
}

/// A call of Envoy's.
async fn call(
    state: &State,
    routes: tonic::service::Routes,
    origin: &Origin,
    mut request: Request<Incoming>,
) -> Response<Body> {
    state.is_proved(request.headers(), origin);
    if let Some(source) = origin.address {
        request.extensions_mut().insert(envoy::Source(source));
    }
    match routes.oneshot(request).await {
        Ok(response) => response.map(|body| body.map_err(Into::into).boxed_unsync()),
        Err(never) => match never {},
    }
}

async fn respond(
    state: &State,
    dialect: Dialect,
    origin: &Origin,
    request: Request<Incoming>,
) -> Response<Body> {
    let sidecar = state.sidecar.load_full();
    // Of two hosts none is asked for.
    let authority = authority(&request);
    let host = authority.as_ref().map_or("", |authority| authority.as_str());
    let path = request.uri().path_and_query().map_or("", |path| path.as_str());
    let is_proved = state.is_proved(request.headers(), origin);
    let from = (origin.address, moment());
    let decided = sidecar.check(dialect, request.headers(), (host, path), is_proved, from).await;
    if let Decided::Refused(refusal) = decided {
        state.tell(refusal);
    }
    match (&decided, &state.upstream) {
        (Decided::Allowed(allowed), Some(upstream)) => {
            upstream.forward(request, Behind::Proxy, |headers| sidecar.stamp(Some(allowed), headers)).await
        }
        _ => {
            let mut answer = sidecar.answer(&decided);
            if !is_proved {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            whole(answer)
        }
    }
}

/// Binds a socket, in place of one that nobody listens on any more.
fn bind_unix(path: &Path, mode: u32) -> anyhow::Result<UnixListener> {
    let failed = || format!("cannot listen on {} ([[sidecar.listen]])", path.display());
    if path.symlink_metadata().is_ok_and(|there| there.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            bail!("{}: somebody else listens there; stop it, or choose another path", failed());
        }
        std::fs::remove_file(path).with_context(failed)?;
    }
    if path.symlink_metadata().is_ok() {
        bail!("{}: there is a file that is no socket; remove it, or choose another path", failed());
    }
    if path.parent().is_some_and(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
        bail!("{}: its folder is not there; make it (with systemd: RuntimeDirectory=)", failed());
    }
    let socket = UnixListener::bind(path).with_context(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).with_context(failed)?;
    Ok(socket)
}

/// A user's number.
fn user(name: &str) -> anyhow::Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let users = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let mut lines = users.lines().map(|line| line.split(':'));
    let number = lines.find_map(|mut fields| match fields.next() {
        Some(user) if user == name => fields.nth(1)?.parse().ok(),
        _ => None,
    });
    number.with_context(|| {
        format!("there is no user {name} in /etc/passwd (peers of [[sidecar.listen]]): write the number that `id -u {name}` prints")
    })
}
