//! Listening sockets.

use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket};

/// Connections that the kernel holds until they are accepted; it allows `net.core.somaxconn`, 4096 by default. The 128 of the standard
/// library are used up by one burst, and the next client then waits a second to try again.
pub const BACKLOG: u32 = 4096;

/// A port that cannot be listened on. `key` is where the operator wrote the address.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address} ({key}): choose another address or port, or stop the process that uses it"
)]
pub struct CannotListen {
    address: SocketAddr,
    key: &'static str,
    source: io::Error,
}

/// Listens on a port, with a [`BACKLOG`] that bursts of connections do not fill. `key` names the setting that the address is from.
pub async fn listen_on(address: SocketAddr, key: &'static str) -> Result<TcpListener, CannotListen> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let bound = socket.and_then(|socket| {
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    });
    bound.map_err(|source| CannotListen { address, key, source })
}
