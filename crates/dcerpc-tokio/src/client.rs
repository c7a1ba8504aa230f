//! The client channel: one connection with one call at a time, and a pool of them for parallel work.

use crate::connection::ready;
use dcerpc::client::{ClientAssociation, ClientConfig, ClientError, ClientEvent, ReplyStub, RequestStub};
use dcerpc::pdu::FaultStatus;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Why a call has no results.
#[derive(Debug)]
pub enum CallError {
    /// No connection could be made.
    Connect(io::Error),
    /// The connection broke.
    Io(io::Error),
    /// The server closed the connection before it answered.
    Closed,
    /// The server broke the protocol, or refused the bind.
    Association(ClientError),
    /// The server answered with a fault.
    Fault(FaultStatus),
    /// The deadline passed.
    DeadlinePassed,
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Io(error) => write!(f, "the connection broke: {error}"),
            Self::Closed => f.write_str("the server closed the connection without an answer"),
            Self::Association(error) => error.fmt(f),
            Self::Fault(status) => write!(f, "the server answered with a fault: {status}"),
            Self::DeadlinePassed => f.write_str("the server did not answer in time"),
        }
    }
}

impl std::error::Error for CallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(error) | Self::Io(error) => Some(error),
            Self::Association(error) => Some(error),
            Self::Closed | Self::Fault(_) | Self::DeadlinePassed => None,
        }
    }
}

impl From<ClientError> for CallError {
    fn from(error: ClientError) -> Self {
        Self::Association(error)
    }
}

/// A bound connection.
pub struct Connection {
    stream: TcpStream,
    association: ClientAssociation,
    peer: SocketAddr,
    /// A call was begun and not finished, so the stream is in nobody knows what state.
    spoiled: bool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection to {}", self.peer)
    }
}

impl Connection {
    /// Connects and binds by `deadline`. The security provider's token of the answer comes back for the caller to
    /// judge before it calls.
    pub async fn open(
        address: impl ToSocketAddrs,
        config: ClientConfig,
        deadline: Instant,
    ) -> Result<(Self, Vec<u8>), CallError> {
        let stream = timeout_at(deadline, TcpStream::connect(address))
            .await
            .map_err(|_| CallError::Connect(io::ErrorKind::TimedOut.into()))?
            .map_err(CallError::Connect)?;
        let _ = stream.set_nodelay(true);
        let peer = stream.peer_addr().map_err(CallError::Connect)?;
        let association = ClientAssociation::new(config);
        let mut connection = Self { stream, association, peer, spoiled: false };
        match connection.event(deadline).await? {
            ClientEvent::Bound { token, .. } => Ok((connection, token)),
            ClientEvent::Reply { .. } => Err(CallError::Association(ClientError::NotReady)),
        }
    }

    /// The server's address.
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Performs a call. After any error but a fault, and when the future is dropped, the connection is of no more use
    /// and says so to every further call.
    pub async fn call(
        &mut self,
        opnum: u16,
        request: RequestStub,
        deadline: Instant,
    ) -> Result<ReplyStub, CallError> {
        if std::mem::replace(&mut self.spoiled, true) {
            return Err(CallError::Closed);
        }
        let started = self.association.call(opnum, request)?;
        match self.event(deadline).await? {
            ClientEvent::Reply { call_id, outcome } if call_id == started => {
                self.spoiled = false;
                outcome.map_err(CallError::Fault)
            }
            _ => Err(CallError::Association(ClientError::NotReady)),
        }
    }

    /// Whether the server has closed the connection, or sent what nobody asked for, since the last call.
    pub fn is_stale(&self) -> bool {
        self.spoiled
            || !matches!(self.stream.try_read(&mut [0; 1]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    async fn event(&mut self, deadline: Instant) -> Result<ClientEvent, CallError> {
        timeout_at(deadline, async {
            let mut buffer = [0; 8 * 1024];
            loop {
                while let Some(transmit) = self.association.poll_transmit() {
                    let bytes = ready(transmit).await;
                    self.stream.write_all(&bytes).await.map_err(CallError::Io)?;
                }
                if let Some(event) = self.association.poll_event() {
                    return Ok(event);
                }
                match self.stream.read(&mut buffer).await.map_err(CallError::Io)? {
                    0 => return Err(CallError::Closed),
                    n => self.association.receive(&buffer[..n])?,
                }
            }
        })
        .await
        .unwrap_or(Err(CallError::DeadlinePassed))
    }
}

/// Connections to one server, made by `connect` when all others are busy, up to a number.
pub struct Pool<F> {
    connect: F,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl<F> std::fmt::Debug for Pool<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool {{ {} free }}", self.permits.available_permits())
    }
}

impl<F, C, E> Pool<F>
where
    F: Fn(Instant) -> C,
    C: Future<Output = Result<Connection, E>>,
    E: From<CallError>,
{
    /// A pool of at most `connections_max` connections; `connect` opens one by a deadline.
    pub const fn new(connections_max: usize, connect: F) -> Self {
        Self { connect, idle: Mutex::new(Vec::new()), permits: Semaphore::const_new(connections_max) }
    }

    /// Performs a call on an idle connection or a new one. A connection that turns out to be closed before anything
    /// was sent on it is replaced; a call that was sent is never sent twice. Dropping the future closes its connection.
    pub async fn call(&self, opnum: u16, request: RequestStub, deadline: Instant) -> Result<ReplyStub, E> {
        let _permit = match timeout_at(deadline, self.permits.acquire()).await {
            Ok(Ok(permit)) => permit,
            _ => return Err(CallError::DeadlinePassed.into()),
        };
        let mut connection = match self.idle_connection() {
            Some(connection) => connection,
            None => (self.connect)(deadline).await?,
        };
        let outcome = connection.call(opnum, request, deadline).await;
        if !connection.spoiled {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
        outcome.map_err(E::from)
    }

    fn idle_connection(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(connection) = idle.pop() {
            if !connection.is_stale() {
                return Some(connection);
            }
        }
        None
    }

    /// Closes all idle connections, for instance because the channel's key is no longer good.
    pub fn clear(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
