//! One server of another domain: its secure channel, the connections that share it, and who may use them when.
//!
//! ```text
//! ask ─► left alone? ─► wait for a place ─► channel (set up by one for all) ─► connection (idle or new) ─► call
//! ```
//!
//! A call that the server has surely not performed is made again on a new connection or a new channel; one that it may have performed,
//! only when asking twice harms nobody.

use crate::breaker::Breaker;
use crate::meter::{Gauge, Meter, count};
use crate::transport::TcpTransport;
use crate::turns::{AskerId, QueueFull, Turn, Turns};
use dcerpc::pdu::FaultStatus;
use dcerpc_tokio::LogLimiter;
use dtyp::NtStatus;
use netlogon_transport::client::{
    Association, ChannelError, ClientChannel, ClientIdentity, PackageAnswer, SystemRandomness, TransportError,
};
use netlogon_transport::secret::SharedSecret;
use netlogon_transport::secrets::ChannelType;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

/// An error of the caller's.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The secret of an account, which may be changed while channels are set up.
pub trait AccountSecrets: Send + Sync + std::fmt::Debug {
    /// The secrets to try, the present one first. Read before each channel, so it has to be cheap and must not wait for the network.
    fn candidates(&self) -> Result<Vec<SharedSecret>, BoxError>;

    /// Whether the secret is being changed now, so that a refused call may be due to that.
    fn is_changing(&self) -> bool;
}

/// Makes the extension of a request ([`dcerpc::client::RequestStub::extension`]) from the time that is left for it.
pub type Extension<'a> = dyn Fn(Duration) -> Vec<u8> + Sync + 'a;

/// As whom servers of a domain are asked.
#[derive(Clone, Debug)]
pub struct Identity {
    /// NetBIOS name of their domain.
    pub domain: String,
    /// NetBIOS name of this server.
    pub computer: String,
    /// The account at their domain: `NAME$`, or a DNS name for a channel of type 3.
    pub account: String,
    /// The type of channel it is for.
    pub channel_type: ChannelType,
    /// Its secret.
    pub secrets: Arc<dyn AccountSecrets>,
    /// The wall clock for authenticators, in seconds since 1970.
    pub now: fn() -> u32,
}

/// What a server may be burdened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Connections, and so questions in flight.
    pub connections_max: usize,
    /// Questions that wait for one.
    pub queue_max: usize,
}

/// A question for a package of a server.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// PackageName.
    pub package: &'a str,
    /// LogonDomainName.
    pub logon_domain_name: &'a str,
    /// LogonData, in the clear.
    pub data: &'a [u8],
    /// The asker that it is asked for: askers have turns when the server is slow.
    pub asker: AskerId,
    /// What a server that knows it is told beside.
    pub extension: Option<&'a Extension<'a>>,
    /// Whether asking twice harms nobody.
    pub repeatable: bool,
}

/// Why a server gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerFailed {
    /// It failed before, and is left alone.
    LeftAlone,
    /// Too many wait already.
    QueueFull,
    /// No connection came free in time.
    Waited,
    /// It could not be reached: nothing was asked.
    Unreachable(String),
    /// It does not let us in: nothing was asked.
    Refused(String),
    /// It may have been asked, and did not answer.
    Silent(String),
}

impl std::fmt::Display for ServerFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::LeftAlone => f.write_str("left alone for a while, because it failed before"),
            Self::QueueFull => f.write_str("too many wait for a connection"),
            Self::Waited => f.write_str("no connection came free in time"),
            Self::Unreachable(text) => write!(f, "not reachable: {text}"),
            Self::Refused(text) => write!(f, "no secure channel: {text}"),
            Self::Silent(text) => write!(f, "no answer: {text}"),
        }
    }
}

impl ServerFailed {
    /// A stable name, for spans and logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::LeftAlone => "left_alone",
            Self::QueueFull => "queue_full",
            Self::Waited => "waited",
            Self::Unreachable(_) => "unreachable",
            Self::Refused(_) => "channel_refused",
            Self::Silent(_) => "silent",
        }
    }

    /// Whether the server cannot have performed what it was asked.
    pub const fn is_unasked(&self) -> bool {
        !matches!(self, Self::Silent(_))
    }
}

/// A channel that is set up, and the connections on it that nobody uses.
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
    identity: Identity,
    link: Mutex<Option<Arc<Link>>>,
    /// Held by whoever sets a channel up for all.
    connecting: tokio::sync::Mutex<()>,
    turns: Turns,
    log_limiter: LogLimiter,
    breaker: Mutex<Breaker>,
    /// When a call was last refused over a channel that had been good.
    denied: Mutex<Option<Instant>>,
    /// The secret with which the channel was refused: another one is tried at once.
    refused_secret: Mutex<Option<SharedSecret>>,
    meter: Meter,
}

impl std::fmt::Debug for ServerClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerClient of {} at {}", self.identity.account, self.server)
    }
}

/// A new channel after a refused call, at most so often ([MS-NRPC] 3.1.4.6).
const DENIED_PAUSE: Duration = Duration::from_secs(45);
/// What the transport allows for one step, on connections that outlive the question: each question has a deadline of its own.
const CALL_TIMEOUT: Duration = Duration::from_secs(150);
/// With less time than this nothing is asked.
const TIME_MIN: Duration = Duration::from_millis(50);
/// With less than this a silence says nothing of the server.
const TIME_FAIR: Duration = Duration::from_secs(1);
/// How often a channel is set up in one go, when secrets change meanwhile.
const SET_UPS_MAX: usize = 3;
/// How often a question is begun anew, for one reason or another.
const ATTEMPTS_MAX: usize = 4;

impl ServerClient {
    /// A client that does nothing yet. `server` is `HOST` or `HOST:PORT`.
    pub fn new(server: String, identity: Identity, room: Room) -> Self {
        Self {
            server,
            identity,
            turns: Turns::new(room.connections_max, room.queue_max),
            log_limiter: LogLimiter::default(),
            link: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            breaker: Mutex::default(),
            denied: Mutex::default(),
            refused_secret: Mutex::default(),
            meter: Meter::default(),
        }
    }

    /// Where it is.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// What is counted.
    pub const fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Whether it is left alone at present.
    pub fn is_left_alone(&self) -> bool {
        lock(&self.breaker).is_open(Instant::now())
    }

    /// Asks, and is answered by `deadline` or not at all.
    pub async fn ask(&self, asked: &Asked<'_>, deadline: Instant) -> Result<PackageAnswer, ServerFailed> {
        if !self.may_try(deadline) {
            count(&self.meter.left_alone);
            return Err(ServerFailed::LeftAlone);
        }
        // Whether the server has a fair time to answer: how long the asker waits is no fault of its.
        let is_fair;
        let outcome = match self.turn(asked.asker, deadline).await {
            Ok(_turn) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left < TIME_MIN {
                    count(&self.meter.timeouts);
                    return Err(ServerFailed::Waited);
                }
                is_fair = left >= TIME_FAIR;
                let _holding = Gauge::new(&self.meter.holders);
                let since = Instant::now();
                let outcome = self.ask_now(asked, deadline).await;
                self.meter.held(since.elapsed());
                outcome
            }
            // That others take long says nothing of the server.
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
                let mut breaker = lock(&self.breaker);
                let now = Instant::now();
                let was_open = breaker.is_tripped();
                match failed {
                    ServerFailed::Refused(_) => breaker.refused(now),
                    _ => breaker.failed(now),
                }
                // Said once, not for each question.
                if !was_open && breaker.is_tripped() {
                    let reason = failed.name();
                    warn!(
                        domain = self.identity.domain,
                        server = self.server,
                        reason,
                        "A server is left alone for a while"
                    );
                }
            }
        }
        outcome
    }

    /// Sets the channel up, and nothing else.
    pub async fn probe(&self, deadline: Instant) -> Result<(), ServerFailed> {
        self.link(deadline).await.map(drop)
    }

    /// The secret that the server takes, of those that may be the present one; `first` is tried before the others.
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

    /// Sets a channel up with this secret, and keeps the one that is in use.
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

    /// Gives our account a new secret (NetrServerPasswordSet2). After [`ServerFailed::Silent`] it is not known whether it has it.
    pub async fn set_password(&self, password: &str, deadline: Instant) -> Result<(), ServerFailed> {
        let link = self.link(deadline).await?;
        let mut association = match link.idle() {
            Some(association) => association,
            None => match self.open(&link, deadline).await? {
                Some(association) => association,
                None => return Err(ServerFailed::Refused("the server has forgotten the channel".into())),
            },
        };
        let units = Zeroizing::new(dtyp::utf16le(password));
        let call = link.channel.set_password(&mut *association, &units, &SystemRandomness);
        match timeout_at(deadline, call).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(ChannelError::Refused(status))) => {
                Err(ServerFailed::Refused(format!("the server refused the new secret: {status}")))
            }
            Ok(Err(error)) => Err(ServerFailed::Silent(error.to_string())),
            Err(_) => Err(ServerFailed::Silent("no answer in time".into())),
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
        // Whoever mended the secret should not have to wait.
        refused && {
            let known = lock(&self.refused_secret).clone();
            let present = self.secrets().ok().and_then(|secrets| secrets.into_iter().next());
            known.is_some() && present.is_some() && known != present
        }
    }

    /// A turn for a question in flight.
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
                        return Err(ServerFailed::Waited);
                    }
                }
            }
            Err(QueueFull) => return Err(self.queue_full(asker)),
        };
        count(&self.meter.acquires);
        Ok(turn)
    }

    /// Counts a question that was refused because the queue is full, and logs it now and then.
    fn queue_full(&self, asker: AskerId) -> ServerFailed {
        count(&self.meter.overflows);
        self.log_limiter.once("queue_full", || {
            warn!(
                domain = self.identity.domain,
                server = self.server,
                asker = asker.map(tracing::field::display),
                "The queue for a server is full: questions of the asker with the most in it are refused"
            );
        });
        ServerFailed::QueueFull
    }

    async fn ask_now(&self, asked: &Asked<'_>, deadline: Instant) -> Result<PackageAnswer, ServerFailed> {
        let mut last = ServerFailed::Refused("the server forgets its channels".into());
        for _ in 0..ATTEMPTS_MAX {
            let link = self.link(deadline).await?;
            let (mut association, is_fresh) = match link.idle() {
                Some(association) => (association, false),
                None => match self.open(&link, deadline).await? {
                    Some(association) => (association, true),
                    // The server has forgotten the channel.
                    None => continue,
                },
            };
            let call = link.channel.ask_with(
                &mut *association,
                asked.package,
                asked.logon_domain_name,
                asked.data,
                asked
                    .extension
                    .map(|extension| extension(deadline.saturating_duration_since(Instant::now()))),
            );
            match timeout_at(deadline, call).await {
                Err(_) => return Err(ServerFailed::Silent("no answer in time".into())),
                Ok(Ok(answer))
                    if answer.status == NtStatus::ACCESS_DENIED && self.may_set_up_again(&link) =>
                {
                    debug!(server = self.server, "A call was refused; the channel is set up anew");
                    self.forget(&link);
                    // It may be the package's word, and not the channel's.
                    if !asked.repeatable {
                        return Ok(answer);
                    }
                    last = ServerFailed::Refused("calls are refused over a new channel".into());
                }
                Ok(Ok(answer)) => {
                    if answer.status != NtStatus::ACCESS_DENIED {
                        link.has_worked.store(true, Ordering::Relaxed);
                    }
                    lock(&link.idle).push(association);
                    return Ok(answer);
                }
                // The faults of a context that is no longer good; a call under it is not performed.
                Ok(Err(ChannelError::Transport(TransportError::Fault(
                    status @ (FaultStatus::ACCESS_DENIED | FaultStatus::SEC_PKG_ERROR),
                )))) => {
                    self.forget(&link);
                    last = ServerFailed::Refused(format!("the server answered with a fault: {status}"));
                }
                Ok(Err(error)) => {
                    let failed = ServerFailed::Silent(error.to_string());
                    // A connection that lay idle may have been closed at the other end without our knowing.
                    if is_fresh || !asked.repeatable {
                        return Err(failed);
                    }
                    last = failed;
                }
            }
        }
        Err(last)
    }

    /// Whether a refused call is worth a new channel: this one was good before, its secret is being changed, or the last time is long
    /// ago. A server that refuses every call is not asked for a channel for each.
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

    /// One more connection on a channel; `None` when the server does not know the channel any more.
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
                debug!(server = self.server, %error, "A channel is no longer good");
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

    /// The secrets to try, the present one first.
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
            // What was refused once is refused again; only another secret, or a channel that was lost on the way, is worth more.
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
                    // It cannot judge now, which is no refusal.
                    Err(ChannelError::Refused(
                        status @ (NtStatus::DS_BUSY | NtStatus::INVALID_SERVER_STATE),
                    )) => {
                        return Err(ServerFailed::Unreachable(format!(
                            "the server cannot judge channels: {status}"
                        )));
                    }
                    // The channel was there, and gone before it was used: the secret was changed in between.
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
            "No secure channel"
        );
        Err(refused)
    }

    /// A channel that was checked for a downgrade, and the connection on which it was.
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
    /// A connection that nobody uses and that the server has not closed.
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
