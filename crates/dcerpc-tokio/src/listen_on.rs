//! Listening sockets.

use crate::log_limiter::LogLimiter;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tracing::{error, warn};

/// Connections that the kernel holds until they are accepted; it allows `net.core.somaxconn`, 4096 by
/// default. The 128 of the standard library are used up by one burst, and the next client then waits a second
/// to try again.
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

/// Listens on a port, with a [`BACKLOG`] that bursts of connections do not fill. `key` names the setting that
/// the address is from.
pub async fn listen_on(address: SocketAddr, key: &'static str) -> Result<TcpListener, CannotListen> {
    bind(address).map_err(|source| CannotListen { address, key, source })
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Between two tries to listen on an address that another program may have taken.
const LISTEN_AGAIN_PAUSE: Duration = Duration::from_secs(1);

/// A listener that listens again after its socket was shut down from outside, as `ss --kill` does.
pub(crate) struct Listening {
    address: SocketAddr,
    listener: Mutex<Arc<TcpListener>>,
    limiter: LogLimiter,
}

impl Listening {
    pub(crate) fn new(listener: TcpListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        Ok(Self { address, listener: Mutex::new(Arc::new(listener)), limiter: LogLimiter::default() })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection. Cancel safe.
    pub(crate) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let listener = Arc::clone(&self.lock());
            match listener.accept().await {
                // EINVAL of accept(2): the socket does not listen any more.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.listen_again().await,
                accepted => return accepted,
            }
        }
    }

    async fn listen_again(&self) {
        let address = self.address;
        loop {
            match bind(address) {
                Ok(listener) => {
                    *self.lock() = Arc::new(listener);
                    return warn!(%address, "Listening socket was shut down: listening again");
                }
                Err(error) => self.limiter.once("listen", || {
                    error!(
                        %address, %error, advice = "stop the process that uses the port",
                        "Listening socket was shut down, and its address cannot be bound: trying again"
                    );
                }),
            }
            tokio::time::sleep(LISTEN_AGAIN_PAUSE).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Arc<TcpListener>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
