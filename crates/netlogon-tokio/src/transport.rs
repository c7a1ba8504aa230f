//! The Netlogon client's transport, over the runtime's connections.

use dcerpc::client::{ClientConfig, ClientError, ClientSecurity, ReplyStub, RequestStub};
use dcerpc::ndr::NdrSyntax;
use dcerpc_tokio::{CallError, Connection, host_and_port};
use netlogon_transport::client::{Association, Randomness, SystemRandomness, Transport, TransportError};
use netlogon_transport::secrets::BoxFuture;
use netlogon_transport::server::NETLOGON;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::time::Instant;

/// The port of the endpoint mapper ([MS-RPCE] 2.1.1.1).
const ENDPOINT_MAPPER: u16 = 135;

/// Why the address of a server could not be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// The part after the last colon is not a port.
    InvalidPort(String),
    /// The name has no address, or the endpoint mapper did not answer with a port.
    Unreachable(String),
}

impl std::fmt::Display for ResolveError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InvalidPort(text) | Self::Unreachable(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for ResolveError {}

/// The address of one server. Opens associations over TCP, each over a connection of its own.
#[derive(Debug)]
pub struct TcpTransport {
    host: String,
    addresses: Vec<SocketAddr>,
    timeout: Duration,
}

impl TcpTransport {
    /// Resolves `HOST:PORT`, or `HOST` whose endpoint mapper is then asked for the port. An IPv6 address with
    /// a port stands in brackets. `timeout` is for the question to the endpoint mapper, for each connection
    /// with its bind, and for each call.
    pub async fn resolve(server: &str, timeout: Duration) -> Result<Self, ResolveError> {
        let (host, port) = host_and_port(server)
            .ok_or_else(|| ResolveError::InvalidPort(format!("{server}: the port is not a number")))?;
        let host = host.to_owned();
        let unreachable =
            |error: &dyn std::fmt::Display| ResolveError::Unreachable(format!("{server}: {error}"));
        let port = match port {
            Some(port) => port,
            None => endpoint(&host, timeout).await.map_err(|error| {
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                ResolveError::Unreachable(format!(
                    "{host}:{ENDPOINT_MAPPER} (the endpoint mapper, because {server} has no port): {error}"
                ))
            })?,
        };
        let addresses: Vec<_> =
            lookup_host((host.as_str(), port)).await.map_err(|error| unreachable(&error))?.collect();
        match addresses.is_empty() {
            true => Err(unreachable(&"the name has no address")),
            false => Ok(Self { host, addresses, timeout }),
        }
    }

    /// The server's name, without the port.
    pub fn host(&self) -> &str {
        &self.host
    }
}

/// Asks the endpoint mapper on port 135 where Netlogon is.
async fn endpoint(host: &str, timeout: Duration) -> Result<u16, CallError> {
    dcerpc_tokio::resolve_endpoint((host, ENDPOINT_MAPPER), &NETLOGON, Instant::now() + timeout).await
}

fn transport_error(error: CallError) -> TransportError {
    match error {
        CallError::Fault(status) => TransportError::Fault(status),
        CallError::Association(error) => match error {
            ClientError::BindRefused(_) | ClientError::BindFault(_) | ClientError::HeaderSigningRefused => {
                TransportError::Refused(error.to_string())
            }
            error => TransportError::Protocol(error.to_string()),
        },
        error => TransportError::Unreachable(error.to_string()),
    }
}

impl Transport for TcpTransport {
    fn open<'a>(
        &'a self,
        security: Option<ClientSecurity>,
    ) -> BoxFuture<'a, Result<Box<dyn Association>, TransportError>> {
        Box::pin(async move {
            let [a, b, c, d, ..] = SystemRandomness.bytes();
            let config = ClientConfig {
                interface: NETLOGON,
                syntax: NdrSyntax::Ndr,
                first_call_id: u32::from_le_bytes([a, b, c, d]) & 0x3fff_ffff,
                security,
            };
            let deadline = Instant::now() + self.timeout;
            let (connection, token) = Connection::open(&self.addresses[..], config, deadline)
                .await
                .map_err(transport_error)
                .map_err(|error| match error {
                    TransportError::Unreachable(text) => {
                        TransportError::Unreachable(format!("{}: {text}", self.addresses[0]))
                    }
                    error => error,
                })?;
            Ok(Box::new(TcpAssociation { connection, token, timeout: self.timeout }) as _)
        })
    }
}

struct TcpAssociation {
    connection: Connection,
    token: Vec<u8>,
    timeout: Duration,
}

impl Association for TcpAssociation {
    fn token(&self) -> &[u8] {
        &self.token
    }

    fn is_stale(&self) -> bool {
        self.connection.is_stale()
    }

    fn call<'a>(
        &'a mut self,
        opnum: u16,
        request: RequestStub,
    ) -> BoxFuture<'a, Result<ReplyStub, TransportError>> {
        Box::pin(async move {
            let deadline = Instant::now() + self.timeout;
            self.connection.call(opnum, request, deadline).await.map_err(transport_error)
        })
    }
}
