//! Settings of listeners and applications, as plain values. The files that they name are read through
//! [`ReadFiles`](crate::ReadFiles).

use sidecar::dialect::{Dialect, Target};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The protocol of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP, with certificates in headers.
    Http(Dialect),
    /// Envoy's `ext_authz` over gRPC.
    EnvoyGrpc,
}

impl Speaks {
    /// Its name in configuration, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http(dialect) => dialect.name(),
            Self::EnvoyGrpc => "envoy-grpc",
        }
    }
}

/// A listener for proxies, without its secret (`[[sidecar.listen]]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The protocol and dialect.
    pub speaks: Speaks,
    /// Which headers have the host and the path that a client asked for; for HTTP.
    pub target: Target,
    /// The address or the socket.
    pub at: Place,
    /// Users whose processes are accepted as the proxy, by name or number; on a Unix socket.
    pub peers: Vec<String>,
    /// TLS with certificates of proxies.
    pub tls: Option<ListenTls>,
    /// The application, where the sidecar stands between it and the proxy.
    pub upstream: Option<Application>,
}

/// The address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(UnixPlace),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(socket) => socket.path.display().fmt(f),
        }
    }
}

/// A Unix socket, and which local users can connect to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixPlace {
    /// Path of the socket. The listener creates it.
    pub path: PathBuf,
    /// Permission bits of the socket, such as 0o660.
    pub mode: u32,
    /// The group that owns the socket, and so may connect if `mode` lets it.
    pub group: SocketGroup,
}

/// The group of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketGroup {
    /// `group`: a name or a number.
    Named(String),
    /// The primary group of `peers`, where neither `mode` nor `group` is set.
    OfPeers,
    /// The group that the kernel gives it, where `mode` alone is set.
    Unchanged,
}

/// An application, and the protocol to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// Host and port, or path of the socket, of the application.
    pub place: UpstreamPlace,
    /// For `https://`.
    pub tls: Option<UpstreamTls>,
    /// `upstream_protocol`. Without it, an application at an `https` URL chooses, and every other one is
    /// spoken to in HTTP/1.1.
    pub protocol: Option<UpstreamProtocol>,
}

impl fmt::Display for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.place, &self.tls) {
            (UpstreamPlace::Tcp(host), None) => write!(f, "http://{host}"),
            (UpstreamPlace::Tcp(host), Some(_)) => write!(f, "https://{host}"),
            (UpstreamPlace::Unix(path), _) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The HTTP version of an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, without TLS by prior knowledge (RFC 9113, section 3.3).
    Http2,
}

/// TLS to an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The CAs of its certificate.
    pub ca: PathBuf,
    /// The DNS name or address that its certificate has: `upstream_name`, or the host of the URL.
    pub name: String,
    /// The certificate that is shown to it, with its chain, and the key.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// The address of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamPlace {
    /// `http://HOST:PORT` or `https://HOST:PORT`, without the scheme.
    Tcp(String),
    /// `unix:PATH`.
    Unix(PathBuf),
}

/// `tls` of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenTls {
    /// The listener's certificate with its chain.
    pub certificate: PathBuf,
    /// The private key of the certificate: a PEM file.
    pub key: PathBuf,
    /// The CAs of certificates of proxies.
    pub client_ca: PathBuf,
    /// DNS names, one of which the certificate of a proxy has.
    pub names: Vec<String>,
}
