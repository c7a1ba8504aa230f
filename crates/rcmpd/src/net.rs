//! Listening sockets.

use crate::connections::BACKLOG;
use anyhow::Context;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket};

/// Listens on a port, with a [`BACKLOG`] that bursts of connections do not fill.
pub(crate) async fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let bound = socket.and_then(|socket| {
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    });
    bound.with_context(|| {
        format!("cannot listen on {address} ({key}): choose another address or port, or stop who has it")
    })
}
