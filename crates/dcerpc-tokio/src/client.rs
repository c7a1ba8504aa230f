//! The client's connection: one call at a time. For parallel calls, open several connections.

use crate::connection::ready;
use dcerpc::client::{
    ClientAssociation, ClientConfig, ClientError, ClientEvent, ClientLeg, ReplyStub, RequestStub,
};
use dcerpc::pdu::FaultStatus;
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, ToSocketAddrs};
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
    /// The server's token of a security context was refused on this side.
    Security(Box<dyn std::error::Error + Send + Sync>),
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
            Self::Security(error) => write!(f, "the server was not authenticated: {error}"),
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
            Self::Security(error) => Some(&**error),
            Self::Closed | Self::Fault(_) | Self::DeadlinePassed => None,
        }
    }
}

impl From<ClientError> for CallError {
    fn from(error: ClientError) -> Self {
        Self::Association(error)
    }
}

/// Answers the server's tokens while a security context is set up in several legs
/// ([`dcerpc::client::ClientEvent::Challenge`]).
pub type AnswerLeg<'a> =
    &'a mut (dyn FnMut(&[u8]) -> Result<ClientLeg, Box<dyn std::error::Error + Send + Sync>> + Send);

/// A bound connection.
pub struct Connection {
    stream: TcpStream,
    association: ClientAssociation,
    peer: SocketAddr,
    /// A call was begun and not finished, so the state of the stream is unknown.
    spoiled: bool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection to {}", self.peer)
    }
}

impl Connection {
    /// Connects and binds by `deadline`. Returns the security provider's token of the answer, which the
    /// caller checks before its first call.
    pub async fn open(
        address: impl ToSocketAddrs,
        config: ClientConfig,
        deadline: Instant,
    ) -> Result<(Self, Vec<u8>), CallError> {
        let mut none = |_: &[u8]| Err("the provider has one leg".into());
        Self::open_with(address, config, &mut none, deadline).await
    }

    /// The same with a security context of several legs: `answer` is asked for each after the first.
    pub async fn open_with(
        address: impl ToSocketAddrs,
        config: ClientConfig,
        answer: AnswerLeg<'_>,
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
        loop {
            match connection.event(deadline).await? {
                ClientEvent::Challenge { token } => {
                    let leg = answer(&token).map_err(CallError::Security)?;
                    connection.association.answer(leg)?;
                }
                ClientEvent::Bound { token, .. } => return Ok((connection, token)),
                ClientEvent::Reply { .. } => return Err(CallError::Association(ClientError::NotReady)),
            }
        }
    }

    /// The server's address.
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Performs a call. After any error except a fault, and after the future was dropped, the connection
    /// cannot be used: every further call fails with [`CallError::Closed`].
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

    /// Whether the server has closed the connection, or has sent something that was not asked for, since the
    /// last call.
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
