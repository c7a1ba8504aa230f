//! The client of one server: its secure channel, the connections on it, and the permits to use them.
//!
//! ```text
//! ask ─► circuit open? ─► wait for a permit ─► channel (set up once for all requests) ─► connection (idle or new) ─► call
//! ```
//!
//! If the server has certainly not performed a call, the call is made again on a new connection or a new
//! channel. If it may have performed the call, that is done only for a repeatable request.

use crate::breaker::Breaker;
use crate::meter::{Gauge, Meter, count};
use crate::transport::TcpTransport;
use crate::turns::{AskerId, QueueFull, Turn, Turns};
use dcerpc::pdu::FaultStatus;
use dcerpc_tokio::LogLimiter;
use dtyp::NtStatus;
use netlogon_transport::client::{
    Association, ChannelError, ClientChannel, ClientIdentity, NetworkLogon, PackageAnswer, SystemRandomness,
    TransportError,
};
use netlogon_transport::message::LogonReply;
use netlogon_transport::secret::SharedSecret;
use netlogon_transport::secrets::ChannelType;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

/// An error of [`AccountSecrets`].
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The secret of an account. It may change while channels are set up.
pub trait AccountSecrets: Send + Sync + std::fmt::Debug {
    /// The secrets to try, the present one first. Called before each channel is set up and at each refused
    /// call, so it must not block for long.
    fn candidates(&self) -> Result<Vec<SharedSecret>, BoxError>;

    /// Whether the secret is being changed now. Then a refused call leads to a new channel at once.
    fn is_changing(&self) -> bool;
}

/// A secret that does not change.
impl AccountSecrets for SharedSecret {
    fn candidates(&self) -> Result<Vec<SharedSecret>, BoxError> {
        Ok(vec![self.clone()])
    }

    fn is_changing(&self) -> bool {
        false
    }
}

/// Makes the extension of a request ([`dcerpc::client::RequestStub::extension`]) from the time that is left
/// for it.
pub type Extension<'a> = dyn Fn(Duration) -> Vec<u8> + Sync + 'a;

/// The account under which the servers of a domain are called.
#[derive(Clone, Debug)]
pub struct ClientAccount {
    /// NetBIOS name of the servers' domain.
    pub domain: String,
    /// NetBIOS name of the calling computer.
    pub computer: String,
    /// The account at their domain: `NAME$`, or a DNS name for a channel of type 3.
    pub account: String,
    /// The type of channel that the account is for.
    pub channel_type: ChannelType,
    /// The account's secret.
    pub secrets: Arc<dyn AccountSecrets>,
    /// The wall clock for authenticators, in seconds since 1970.
    pub now: fn() -> u32,
}

/// Limits of the requests to one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Connections, each with one request in flight.
    pub connections_max: usize,
    /// Requests that wait for a connection.
    pub queue_max: usize,
}

/// A request to a package of a server ([MS-NRPC] 3.2.4.1).
#[derive(Clone, Copy)]
pub struct PackageRequest<'a> {
    /// PackageName.
    pub package: &'a str,
    /// LogonDomainName.
    pub logon_domain_name: &'a str,
    /// LogonData, in the clear.
    pub data: &'a [u8],
    /// The asker on whose behalf it is sent. Permits go round robin over the askers.
    pub asker: AskerId,
    /// Data for a server that knows it, sent beside the parameters. `None` for all other servers.
    pub extension: Option<&'a Extension<'a>>,
    /// Whether the server may perform it twice without harm.
    pub repeatable: bool,
}

/// An NTLM proof for a domain controller.
#[derive(Clone, Copy)]
pub struct LogonRequest<'a> {
    /// The proof.
    pub logon: NetworkLogon<'a>,
    /// The asker on whose behalf it is sent: a client that has proved nothing yet, so its source.
    pub asker: AskerId,
}

/// A request to a server over its secure channel.
pub trait ServerRequest: Sync {
    /// The answer. A refusal is one, too.
    type Answer: Send;

    /// The asker on whose behalf it is sent. Permits go round robin over the askers.
    fn asker(&self) -> AskerId;

    /// Whether the server may perform it twice without harm.
    fn is_repeatable(&self) -> bool;

    /// Whether a second server may be sent it while the first one works on it.
    fn may_be_hedged(&self) -> bool;

    /// The status of an answer.
    fn status(answer: &Self::Answer) -> NtStatus;

    /// Performs it. `left` is the time that is left for it.
    fn send(
        &self,
        channel: &ClientChannel,
        association: &mut dyn Association,
        left: Duration,
    ) -> impl Future<Output = Result<Self::Answer, ChannelError>> + Send;
}

impl ServerRequest for PackageRequest<'_> {
    type Answer = PackageAnswer;

    fn asker(&self) -> AskerId {
        self.asker
    }

    fn is_repeatable(&self) -> bool {
        self.repeatable
    }

    fn may_be_hedged(&self) -> bool {
        self.repeatable
    }

    fn status(answer: &PackageAnswer) -> NtStatus {
        answer.status
    }

    async fn send(
        &self,
        channel: &ClientChannel,
        association: &mut dyn Association,
        left: Duration,
    ) -> Result<PackageAnswer, ChannelError> {
        let extension = self.extension.map(|extension| extension(left));
        channel.ask_with(association, self.package, self.logon_domain_name, self.data, extension).await
    }
}

/// A domain controller counts a wrong proof against its account each time, so no second one is sent the same
/// while the first one works on it.
impl ServerRequest for LogonRequest<'_> {
    type Answer = LogonReply;

    fn asker(&self) -> AskerId {
        self.asker
    }

    fn is_repeatable(&self) -> bool {
        true
    }

    fn may_be_hedged(&self) -> bool {
        false
    }

    fn status(answer: &LogonReply) -> NtStatus {
        answer.status
    }

    async fn send(
        &self,
        channel: &ClientChannel,
        association: &mut dyn Association,
        _: Duration,
    ) -> Result<LogonReply, ChannelError> {
        channel.network_logon(association, &self.logon).await
    }
}

/// Why a server gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerFailed {
    /// Too many requests failed before. The request was not performed.
    CircuitOpen,
    /// Too many requests wait for a connection. The request was not performed.
    QueueFull,
    /// No connection became free in time. The request was not performed.
    QueueTimeout,
    /// It could not be reached. The request was not performed.
    Unreachable(String),
    /// It refused the secure channel. The request was not performed.
    Refused(String),
    /// The request may have been performed, and no answer came.
    NoAnswer(String),
}

impl std::fmt::Display for ServerFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::CircuitOpen => f.write_str("circuit breaker open after failures"),
            Self::QueueFull => f.write_str("too many requests wait for a connection"),
            Self::QueueTimeout => f.write_str("timeout while waiting for a free connection"),
            Self::Unreachable(text) => write!(f, "unreachable: {text}"),
            Self::Refused(text) => write!(f, "no secure channel: {text}"),
            Self::NoAnswer(text) => write!(f, "no answer: {text}"),
        }
    }
}

impl ServerFailed {
    /// A stable name, for spans and logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::CircuitOpen => "circuit_open",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::Unreachable(_) => "unreachable",
            Self::Refused(_) => "channel_refused",
            Self::NoAnswer(_) => "no_answer",
        }
    }

    /// Whether the server cannot have performed the request.
    pub const fn is_unperformed(&self) -> bool {
        !matches!(self, Self::NoAnswer(_))
    }
}

/// A channel that is set up, and its idle connections.
struct Link {
    channel: ClientChannel,
    transport: TcpTransport,
    secret: SharedSecret,
    idle: Mutex<Vec<Box<dyn Association>>>,
    /// Whether a call was answered over it.
    has_worked: AtomicBool,
}

/// The client of one server.
pub struct ServerClient {
    server: String,
    identity: ClientAccount,
    link: Mutex<Option<Arc<Link>>>,
    /// Held by the request that sets the channel up for all requests.
    connecting: tokio::sync::Mutex<()>,
    turns: Turns,
    log_limiter: LogLimiter,
    breaker: Mutex<Breaker>,
    /// When a call was last refused over a channel that was set up.
    denied: Mutex<Option<Instant>>,
    /// The secret with which the channel was refused. With another one the channel is tried at once, circuit
    /// open or not.
    refused_secret: Mutex<Option<SharedSecret>>,
    meter: Meter,
}

impl std::fmt::Debug for ServerClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerClient of {} at {}", self.identity.account, self.server)
    }
}

/// After a refused call, a new channel is set up at most this often ([MS-NRPC] 3.1.4.6).
const DENIED_PAUSE: Duration = Duration::from_secs(45);
/// Timeout of the transport for one call. Connections outlive a request, and each request has a deadline of
/// its own.
const CALL_TIMEOUT: Duration = Duration::from_secs(150);
/// With less time left than this nothing is sent.
const TIME_MIN: Duration = Duration::from_millis(50);
/// With less time left than this, a timeout does not count as a failure of the server.
const TIME_FAIR: Duration = Duration::from_secs(1);
/// Rounds of setting a channel up for one request, because the secret may change meanwhile.
const SET_UPS_MAX: usize = 3;
/// Attempts for one request on this server, each with another connection or channel.
const ATTEMPTS_MAX: usize = 4;

impl ServerClient {
    /// A client without a connection. `server` is `HOST` or `HOST:PORT`; without a port, the endpoint mapper
    /// of the host is asked.
    pub fn new(server: String, identity: ClientAccount, limits: PoolLimits) -> Self {
        Self {
            server,
            identity,
            turns: Turns::new(limits.connections_max, limits.queue_max),
            log_limiter: LogLimiter::default(),
            link: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            breaker: Mutex::default(),
            denied: Mutex::default(),
            refused_secret: Mutex::default(),
            meter: Meter::default(),
        }
    }

    /// `HOST` or `HOST:PORT`, as given to [`ServerClient::new`].
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The counters of this server.
    pub const fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Whether the circuit breaker is open: requests fail at once with [`ServerFailed::CircuitOpen`].
    pub fn is_circuit_open(&self) -> bool {
        lock(&self.breaker).is_open(Instant::now())
    }

    /// Sends a request. Returns by `deadline`.
    pub async fn ask<R: ServerRequest>(
        &self,
        request: &R,
        deadline: Instant,
    ) -> Result<R::Answer, ServerFailed> {
        if !self.may_try(deadline) {
            count(&self.meter.circuit_rejections);
            return Err(ServerFailed::CircuitOpen);
        }
        // Whether the server has enough time to answer. That the asker waits no longer is no failure of the
        // server.
        let is_fair;
        let outcome = match self.turn(request.asker(), deadline).await {
            Ok(_turn) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left < TIME_MIN {
                    count(&self.meter.timeouts);
                    return Err(ServerFailed::QueueTimeout);
                }
                is_fair = left >= TIME_FAIR;
                let _holding = Gauge::new(&self.meter.holders);
                let since = Instant::now();
                let outcome = self.ask_now(request, deadline).await;
                self.meter.held(since.elapsed());
                outcome
            }
            // Slow requests of others are no failure of the server.
            Err(failed) => return Err(failed),
        };
        match &outcome {
            Ok(_) => {
                count(&self.meter.answered);
                lock(&self.breaker).succeeded();
            }
            Err(_) if !is_fair => count(&self.meter.failed),
            Err(failed) => {
                count(&self.meter.failed);
                self.log_limiter.counted(failed.name(), |left_out| {
                    let domain = &self.identity.domain;
                    warn!(domain, server = self.server, error = %failed, left_out, "Request to a server failed");
                });
                let mut breaker = lock(&self.breaker);
                let now = Instant::now();
                let was_open = breaker.is_tripped();
                match failed {
                    ServerFailed::Refused(_) => breaker.refused(now),
                    _ => breaker.failed(now),
                }
                // Logged once, not for each request.
                if !was_open && breaker.is_tripped() {
                    let reason = failed.name();
                    let retry_after_ms = breaker.retry_after(now).as_millis() as u64;
                    warn!(
                        domain = self.identity.domain,
                        server = self.server,
                        reason,
                        retry_after_ms,
                        "Circuit breaker opened"
                    );
                }
            }
        }
        outcome
    }

    /// Sets the channel up if there is none, and sends no request.
    pub async fn probe(&self, deadline: Instant) -> Result<(), ServerFailed> {
        self.link(deadline).await.map(drop)
    }

    /// The secret with which the server accepts the channel: `first`, or one of
    /// [`AccountSecrets::candidates`].
    pub async fn secret_in_use(
        &self,
        first: Option<&SharedSecret>,
        deadline: Instant,
    ) -> Result<SharedSecret, ServerFailed> {
        if let Some(first) = first {
            match self.use_secret(first, deadline).await {
                Ok(()) => return Ok(first.clone()),
                Err(ServerFailed::Refused(_)) => {}
                Err(failed) => return Err(failed),
            }
        }
        self.link(deadline).await.map(|link| link.secret.clone())
    }

    /// Sets a channel up with this secret and drops it. The channel in use stays.
    pub async fn use_secret(&self, secret: &SharedSecret, deadline: Instant) -> Result<(), ServerFailed> {
        let set_up = async {
            let transport = TcpTransport::resolve(&self.server, CALL_TIMEOUT)
                .await
                .map_err(|error| ServerFailed::Unreachable(error.to_string()))?;
            match self.establish(&transport, secret.clone()).await {
                Ok(_) => Ok(()),
                Err(ChannelError::Transport(TransportError::Unreachable(text))) => {
                    Err(ServerFailed::Unreachable(text))
                }
                Err(error) => Err(ServerFailed::Refused(error.to_string())),
            }
        };
        timeout_at(deadline, set_up)
            .await
            .unwrap_or_else(|_| Err(ServerFailed::Unreachable("no channel in time".into())))
    }

    /// Gives the account a new secret (NetrServerPasswordSet2). After [`ServerFailed::NoAnswer`] it is
    /// unknown which secret it has.
    pub async fn set_password(&self, password: &str, deadline: Instant) -> Result<(), ServerFailed> {
        let link = self.link(deadline).await?;
        let mut association = match link.idle() {
            Some(association) => association,
            None => match self.open(&link, deadline).await? {
                Some(association) => association,
                None => return Err(ServerFailed::Refused("the server no longer knows the channel".into())),
            },
        };
        let units = Zeroizing::new(dtyp::utf16le(password));
        let call = link.channel.set_password(&mut *association, &units, &SystemRandomness);
        match timeout_at(deadline, call).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(ChannelError::Refused(status))) => {
                Err(ServerFailed::Refused(format!("the server refused the new secret: {status}")))
            }
            Ok(Err(error)) => Err(ServerFailed::NoAnswer(error.to_string())),
            Err(_) => Err(ServerFailed::NoAnswer("no answer in time".into())),
        }
    }

    fn may_try(&self, deadline: Instant) -> bool {
        let now = Instant::now();
        let mut breaker = lock(&self.breaker);
        if breaker.admits(now, deadline.saturating_duration_since(now)) {
            return true;
        }
        let refused = breaker.is_refused();
        drop(breaker);
        // After the operator has corrected the secret, it is tried at once.
        refused && {
            let known = lock(&self.refused_secret).clone();
            let present = self.secrets().ok().and_then(|secrets| secrets.into_iter().next());
            known.is_some() && present.is_some() && known != present
        }
    }

    /// The permit of a request in flight.
    async fn turn(&self, asker: AskerId, deadline: Instant) -> Result<Turn, ServerFailed> {
        let turn = match self.turns.acquire(asker) {
            Ok(Ok(turn)) => turn,
            Ok(Err(mut waiting)) => {
                let _waiters = Gauge::new(&self.meter.waiters);
                let since = Instant::now();
                let turn = timeout_at(deadline, waiting.granted()).await;
                self.meter.waited(since.elapsed());
                match turn {
                    Ok(Ok(turn)) => turn,
                    Ok(Err(QueueFull)) => return Err(self.queue_full(asker)),
                    Err(_) => {
                        count(&self.meter.timeouts);
                        return Err(ServerFailed::QueueTimeout);
                    }
                }
            }
            Err(QueueFull) => return Err(self.queue_full(asker)),
        };
        count(&self.meter.acquires);
        Ok(turn)
    }

    /// Counts a request that was rejected because the queue is full, with a rate-limited log message.
    fn queue_full(&self, asker: AskerId) -> ServerFailed {
        count(&self.meter.overflows);
        self.log_limiter.once("queue_full", || {
            warn!(
                domain = self.identity.domain,
                server = self.server,
                asker = asker.map(tracing::field::display),
                "Queue for a server is full: requests of the asker with the most are rejected"
            );
        });
        ServerFailed::QueueFull
    }

    async fn ask_now<R: ServerRequest>(
        &self,
        request: &R,
        deadline: Instant,
    ) -> Result<R::Answer, ServerFailed> {
        let mut last = ServerFailed::Refused("the server does not keep its channels".into());
        for _ in 0..ATTEMPTS_MAX {
            let link = self.link(deadline).await?;
            let (mut association, is_fresh) = match link.idle() {
                Some(association) => (association, false),
                None => match self.open(&link, deadline).await? {
                    Some(association) => (association, true),
                    // The server no longer knows the channel.
                    None => continue,
                },
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let call = request.send(&link.channel, &mut *association, left);
            match timeout_at(deadline, call).await {
                Err(_) => return Err(ServerFailed::NoAnswer("no answer in time".into())),
                Ok(Ok(answer))
                    if R::status(&answer) == NtStatus::ACCESS_DENIED && self.may_set_up_again(&link) =>
                {
                    debug!(server = self.server, "Call refused: setting up a new channel");
                    self.forget(&link);
                    // The package may have refused, and not the channel.
                    if !request.is_repeatable() {
                        return Ok(answer);
                    }
                    last = ServerFailed::Refused("calls are refused over a new channel".into());
                }
                Ok(Ok(answer)) => {
                    if R::status(&answer) != NtStatus::ACCESS_DENIED {
                        link.has_worked.store(true, Ordering::Relaxed);
                    }
                    lock(&link.idle).push(association);
                    return Ok(answer);
                }
                // Faults of a security context that is no longer valid. A call under it is not performed.
                Ok(Err(ChannelError::Transport(TransportError::Fault(
                    status @ (FaultStatus::ACCESS_DENIED | FaultStatus::SEC_PKG_ERROR),
                )))) => {
                    self.forget(&link);
                    last = ServerFailed::Refused(format!("the server answered with a fault: {status}"));
                }
                Ok(Err(error)) => {
                    let failed = ServerFailed::NoAnswer(error.to_string());
                    // The server may have closed an idle connection, unnoticed here.
                    if is_fresh || !request.is_repeatable() {
                        return Err(failed);
                    }
                    last = failed;
                }
            }
        }
        Err(last)
    }

    /// Whether a new channel is set up after a refused call: if this channel has worked before, the secret is
    /// being changed, or the last new channel was [`DENIED_PAUSE`] ago. A server that refuses every call is
    /// not sent a handshake for each.
    fn may_set_up_again(&self, link: &Link) -> bool {
        let is_changing = self.identity.secrets.is_changing()
            || self.secrets().is_ok_and(|secrets| secrets.first() != Some(&link.secret));
        let mut denied = lock(&self.denied);
        let now = Instant::now();
        let is_due = denied.is_none_or(|since| now >= since + DENIED_PAUSE);
        if is_due {
            *denied = Some(now);
        }
        is_due || link.has_worked.load(Ordering::Relaxed) || is_changing
    }

    fn forget(&self, link: &Arc<Link>) {
        let mut present = lock(&self.link);
        if present.as_ref().is_some_and(|present| Arc::ptr_eq(present, link)) {
            *present = None;
        }
        lock(&link.idle).clear();
    }

    /// One more connection on a channel. `None` if the server no longer knows the channel.
    async fn open(
        &self,
        link: &Arc<Link>,
        deadline: Instant,
    ) -> Result<Option<Box<dyn Association>>, ServerFailed> {
        match timeout_at(deadline, link.channel.open(&link.transport, &SystemRandomness)).await {
            Err(_) => Err(ServerFailed::Unreachable("no connection in time".into())),
            Ok(Ok(association)) => Ok(Some(association)),
            Ok(Err(ChannelError::Transport(TransportError::Unreachable(text)))) => {
                Err(ServerFailed::Unreachable(text))
            }
            Ok(Err(error)) => {
                debug!(server = self.server, %error, "Channel is no longer valid");
                self.forget(link);
                Ok(None)
            }
        }
    }

    /// The channel, set up if there is none.
    async fn link(&self, deadline: Instant) -> Result<Arc<Link>, ServerFailed> {
        let present = || lock(&self.link).clone();
        if let Some(link) = present() {
            return Ok(link);
        }
        let connecting = timeout_at(deadline, self.connecting.lock()).await;
        let _connecting = connecting.map_err(|_| ServerFailed::Unreachable("no channel in time".into()))?;
        if let Some(link) = present() {
            return Ok(link);
        }
        let link = timeout_at(deadline, self.set_up()).await;
        let link = Arc::new(link.map_err(|_| ServerFailed::Unreachable("no channel in time".into()))??);
        *lock(&self.link) = Some(Arc::clone(&link));
        Ok(link)
    }

    fn secrets(&self) -> Result<Vec<SharedSecret>, ServerFailed> {
        self.identity.secrets.candidates().map_err(|error| ServerFailed::Refused(error.to_string()))
    }

    async fn set_up(&self) -> Result<Link, ServerFailed> {
        let transport = TcpTransport::resolve(&self.server, CALL_TIMEOUT)
            .await
            .map_err(|error| ServerFailed::Unreachable(error.to_string()))?;
        let mut refused = ServerFailed::Refused("there is no secret".into());
        let mut tried = Vec::new();
        for _ in 0..SET_UPS_MAX {
            let secrets = self.secrets()?;
            // A secret that was refused is not tried again. Another one is, and so is one whose channel was
            // lost before its use.
            let untried = secrets.into_iter().filter(|secret| !tried.contains(secret)).collect::<Vec<_>>();
            if untried.is_empty() {
                break;
            }
            for secret in untried {
                match self.establish(&transport, secret.clone()).await {
                    Ok((channel, association)) => {
                        count(&self.meter.channels);
                        lock(&self.refused_secret).take();
                        info!(
                            domain = self.identity.domain,
                            server = self.server,
                            account = self.identity.account,
                            "Set up a secure channel"
                        );
                        return Ok(Link {
                            channel,
                            transport,
                            secret,
                            idle: Mutex::new(vec![association]),
                            has_worked: AtomicBool::new(false),
                        });
                    }
                    Err(ChannelError::Transport(TransportError::Unreachable(text))) => {
                        return Err(ServerFailed::Unreachable(text));
                    }
                    Err(ChannelError::Refused(NtStatus::ACCESS_DENIED)) => {
                        tried.push(secret);
                        refused = ServerFailed::Refused("the secret is wrong".into());
                    }
                    // The server cannot decide now, which is no refusal.
                    Err(ChannelError::Refused(
                        status @ (NtStatus::DS_BUSY | NtStatus::INVALID_SERVER_STATE),
                    )) => {
                        return Err(ServerFailed::Unreachable(format!(
                            "the server cannot set up channels now: {status}"
                        )));
                    }
                    // The channel was set up and was gone before its first use: the secret was changed in
                    // between.
                    Err(
                        error
                        @ ChannelError::Transport(TransportError::Refused(_) | TransportError::Fault(_)),
                    ) => {
                        refused = ServerFailed::Refused(error.to_string());
                        break;
                    }
                    Err(error) => {
                        tried.push(secret);
                        refused = ServerFailed::Refused(error.to_string());
                        break;
                    }
                }
            }
        }
        count(&self.meter.channels_refused);
        *lock(&self.refused_secret) = self.secrets().ok().and_then(|secrets| secrets.into_iter().next());
        let ServerFailed::Refused(reason) = &refused else { return Err(refused) };
        warn!(
            domain = self.identity.domain,
            server = self.server,
            account = self.identity.account,
            reason,
            "Secure channel rejected"
        );
        Err(refused)
    }

    /// A channel that was checked for a downgrade, and the connection of that check.
    async fn establish(
        &self,
        transport: &TcpTransport,
        secret: SharedSecret,
    ) -> Result<(ClientChannel, Box<dyn Association>), ChannelError> {
        let identity = ClientIdentity {
            server_name: transport.host().to_owned(),
            domain: self.identity.domain.clone(),
            computer: self.identity.computer.clone(),
            account: self.identity.account.clone(),
            channel_type: self.identity.channel_type,
            secret,
        };
        let channel =
            ClientChannel::establish(transport, identity, &SystemRandomness, self.identity.now).await?;
        let mut association = channel.open(transport, &SystemRandomness).await?;
        channel.check_capabilities(&mut *association).await?;
        Ok((channel, association))
    }
}

impl Link {
    /// An idle connection that the server has not closed.
    fn idle(&self) -> Option<Box<dyn Association>> {
        let mut idle = lock(&self.idle);
        while let Some(association) = idle.pop() {
            if !association.is_stale() {
                return Some(association);
            }
        }
        None
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
