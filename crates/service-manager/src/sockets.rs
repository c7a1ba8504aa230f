//! Sockets that the service manager has opened (sd_listen_fds(3)): they are taken instead of binding an
//! address of the configuration.
//!
//! Each has the name of a listener, and is used only if it is what the configuration says: the same kind of
//! socket, at the same address, listening. One that the configuration does not name is refused at start, so a
//! port that nothing serves is never left open.

use anyhow::{Context, bail, ensure};
use dcerpc_tokio::listen_on;
use listenfd::ListenFd;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use tokio::net::{TcpListener, UnixListener};

/// More than any configuration names.
const SOCKETS_MAX: usize = 64;

/// A listener that a socket can be passed for: the name of the socket (`FileDescriptorName=`), and the key of
/// the configuration that has its address.
pub type Listener = (&'static str, &'static str);

enum Socket {
    Tcp(std::net::TcpListener, SocketAddr),
    Unix(std::os::unix::net::UnixListener),
}

/// Sockets of the service manager that no listener has taken yet.
#[derive(Default)]
pub struct PassedSockets(Mutex<Vec<(String, Socket)>>);

impl PassedSockets {
    /// Takes them, with `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES` of the environment. Call it once,
    /// before any thread is started.
    pub fn of_environment() -> anyhow::Result<Self> {
        let variable = |name| std::env::var(name).ok();
        let (Some(count), Some(process)) = (variable("LISTEN_FDS"), variable("LISTEN_PID")) else {
            return Ok(Self::default());
        };
        // They may be meant for the process that started this one.
        if process != std::process::id().to_string() {
            return Ok(Self::default());
        }
        let count: usize = count.parse().context("LISTEN_FDS is not a number")?;
        ensure!(count <= SOCKETS_MAX, "LISTEN_FDS names {count} sockets, and the limit is {SOCKETS_MAX}");
        let names = variable("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<_> = names.split(':').collect();
        ensure!(
            names.len() == count,
            "LISTEN_FDNAMES names {} of {count} sockets: set FileDescriptorName= in each unit of type socket",
            names.len()
        );
        let mut sockets = ListenFd::from_env();
        let taken = names
            .into_iter()
            .enumerate()
            .map(|(at, name)| Ok((name.to_owned(), take(&mut sockets, at, name)?)));
        Ok(Self(Mutex::new(taken.collect::<anyhow::Result<_>>()?)))
    }

    fn remove(&self, is_it: impl Fn(&str, &Socket) -> bool) -> Option<Socket> {
        let mut sockets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = sockets.iter().position(|(name, socket)| is_it(name, socket))?;
        Some(sockets.remove(at).1)
    }

    /// Listens at an address of the configuration: by the socket that was passed for it, or by a new one.
    pub async fn listen(&self, (name, key): Listener, address: SocketAddr) -> anyhow::Result<TcpListener> {
        match self.tcp(name, address)? {
            Some(listener) => Ok(listener),
            None => Ok(listen_on(address, key).await?),
        }
    }

    /// The listener of this name at an address of the configuration, if it was passed. With port 0 any port
    /// is meant.
    pub fn tcp(&self, name: &str, address: SocketAddr) -> anyhow::Result<Option<TcpListener>> {
        let is_it = |passed: &str, socket: &Socket| match socket {
            Socket::Tcp(_, at) => {
                passed == name
                    && at.ip() == address.ip()
                    && (address.port() == 0 || at.port() == address.port())
            }
            Socket::Unix(_) => false,
        };
        match self.remove(is_it) {
            Some(Socket::Tcp(listener, _)) => Ok(Some(TcpListener::from_std(listener)?)),
            _ => self.check_name(name, address).map(|()| None),
        }
    }

    /// Refuses a socket at this address that has another name: the address cannot be bound once more.
    fn check_name(&self, name: &str, address: SocketAddr) -> anyhow::Result<()> {
        let sockets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_at = |socket: &Socket| matches!(socket, Socket::Tcp(_, at) if *at == address);
        match sockets.iter().find(|(_, socket)| is_at(socket)) {
            Some((passed, _)) => bail!(
                "the service manager calls the socket at {address} {passed:?}: set FileDescriptorName={name} in its unit"
            ),
            None => Ok(()),
        }
    }

    /// The listener of this name at a path of the configuration, if it was passed.
    pub fn unix(&self, name: &str, path: &Path) -> anyhow::Result<Option<UnixListener>> {
        let is_it = |passed: &str, socket: &Socket| match socket {
            Socket::Unix(listener) => {
                let at = listener.local_addr().ok();
                passed == name && at.as_ref().and_then(|at| at.as_pathname()) == Some(path)
            }
            Socket::Tcp(..) => false,
        };
        match self.remove(is_it) {
            Some(Socket::Unix(listener)) => Ok(Some(UnixListener::from_std(listener)?)),
            _ => Ok(None),
        }
    }

    /// Refuses what none of these listeners has taken.
    pub fn check_all_taken(&self, listeners: &[Listener]) -> anyhow::Result<()> {
        let sockets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((name, socket)) = sockets.first() else { return Ok(()) };
        let at = match socket {
            Socket::Tcp(_, address) => address.to_string(),
            Socket::Unix(listener) => format!("{:?}", listener.local_addr().ok()),
        };
        match listeners.iter().find(|(known, _)| known == name) {
            Some((_, key)) => bail!(
                "the service manager passes a socket {name} at {at}, and {key} does not name that address: make ListenStream= of its unit and the configuration the same"
            ),
            None => bail!(
                "the service manager passes a socket with the unknown name {name:?} at {at}: set FileDescriptorName= to {}",
                one_of(listeners)
            ),
        }
    }
}

/// The names of listeners, as in `a, b or c`.
fn one_of(listeners: &[Listener]) -> String {
    let names: Vec<_> = listeners.iter().map(|(name, _)| *name).collect();
    match &names[..] {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        names => names.concat(),
    }
}

/// One socket: a stream that listens, of TCP or in the file system.
fn take(sockets: &mut ListenFd, at: usize, name: &str) -> anyhow::Result<Socket> {
    let wrong = || {
        format!(
            "the socket {name:?} of the service manager cannot be used: it must be a stream (ListenStream=) of TCP or with a path"
        )
    };
    if let Ok(Some(listener)) = sockets.take_tcp_listener(at) {
        let listening = rustix::net::sockopt::socket_acceptconn(&listener).with_context(wrong)?;
        ensure!(listening, "{}, and listen", wrong());
        listener.set_nonblocking(true).with_context(wrong)?;
        let address = listener.local_addr().with_context(wrong)?;
        return Ok(Socket::Tcp(listener, address));
    }
    let listener = sockets.take_unix_listener(at).with_context(wrong)?.with_context(wrong)?;
    let listening = rustix::net::sockopt::socket_acceptconn(&listener).with_context(wrong)?;
    ensure!(listening, "{}, and listen", wrong());
    listener.set_nonblocking(true).with_context(wrong)?;
    Ok(Socket::Unix(listener))
}
