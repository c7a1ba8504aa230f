//! What a store is made of. Whoever reads a configuration fills this; nothing here reads a file.

use crate::ad::AdSettings;
use crate::generic::GenericSettings;
use crate::meter::Meter;
use crate::widen::Accents;
use account_store::{BoxFuture, Domain};
use rustls_pki_types::CertificateDer;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How a connection becomes TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// From the first byte (`ldaps://`).
    Ldaps,
    /// By StartTLS, before anything else (`ldap://`).
    StartTls,
}

/// A server of the directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// Its DNS name or address, which its certificate has to have.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How it speaks TLS.
    pub tls: TlsMode,
}

impl Server {
    /// Reads `ldaps://HOST[:PORT]` or `ldap://HOST[:PORT]`, without a path.
    pub fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (tls, default) = match scheme.to_ascii_lowercase().as_str() {
            "ldaps" => (TlsMode::Ldaps, 636),
            "ldap" => (TlsMode::StartTls, 389),
            _ => return None,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (
                    host,
                    after
                        .strip_prefix(':')
                        .or_else(|| after.is_empty().then_some(""))
                        .filter(|port| !after.starts_with(':') || !port.is_empty())?,
                )
            }
            None => match rest.split_once(':') {
                Some((_, "")) => return None,
                Some((host, port)) => (host, port),
                None => (rest, ""),
            },
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '_');
        let port = if port.is_empty() { default } else { port.parse().ok().filter(|port| *port != 0)? };
        (!host.is_empty() && host.chars().all(is_host)).then(|| Self { host: host.to_owned(), port, tls })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.tls {
            TlsMode::Ldaps => "ldaps",
            TlsMode::StartTls => "ldap",
        };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

/// Looks the servers up, in the order in which to try them.
pub trait Discover: Send + Sync {
    /// The servers and how long they are valid, or why there are none.
    fn servers(&self) -> BoxFuture<'_, Result<(Vec<Server>, Duration), String>>;
}

/// Where the servers are.
#[derive(Clone)]
pub enum Servers {
    /// In the configuration, in the order in which to try them; never empty.
    Listed(Vec<Server>),
    /// Elsewhere, such as in DNS.
    Discovered(Arc<dyn Discover>),
}

/// Reads the secret of the store's account: the present one, and the next one if there is one. Read again
/// whenever a connection is made.
pub type ReadSecrets = dyn Fn() -> Result<Vec<Zeroizing<String>>, String> + Send + Sync;

/// How a directory describes accounts and groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schema {
    /// Active Directory and Samba.
    Ad(AdSettings),
    /// Configured attributes.
    Generic(Box<GenericSettings>),
}

/// Everything about a store.
#[derive(Clone)]
pub struct Settings {
    /// The domain whose accounts it has.
    pub domain: Domain,
    /// The servers.
    pub servers: Servers,
    /// The CAs of their certificates: no others count.
    pub ca: Vec<CertificateDer<'static>>,
    /// The distinguished name of the store's own account; never empty.
    pub bind_dn: String,
    /// Its secret.
    pub secrets: Arc<ReadSecrets>,
    /// How accounts look.
    pub schema: Schema,
    /// The time for one question, failover included.
    pub timeout: Duration,
    /// Connections, and so questions at once.
    pub connections_max: usize,
    /// How long a connection is kept without a question. Active Directory closes it after 900 s.
    pub idle_timeout: Duration,
    /// How long a connection is kept at all: its rights are those of its bind.
    pub age_max: Duration,
    /// How many entries one look-up compares; more are ambiguous.
    pub candidates_max: usize,
    /// Who ignores accents.
    pub accents: Accents,
    /// How long a decision that was made from an answer may be used.
    pub fresh: Duration,
    /// Counts what the store does.
    pub meter: Arc<Meter>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("bind_dn", &self.bind_dn)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_urls_without_a_path() {
        for (url, shown) in [
            ("ldaps://dc1.example", "ldaps://dc1.example:636"),
            ("LDAP://dc1.example/", "ldap://dc1.example:389"),
            ("ldaps://127.0.0.1:10636", "ldaps://127.0.0.1:10636"),
            ("ldaps://[::1]:10636", "ldaps://[::1]:10636"),
            ("ldaps://[::1]", "ldaps://[::1]:636"),
        ] {
            assert_eq!(Server::parse(url).map(|server| server.to_string()).as_deref(), Some(shown), "{url}");
        }
        for url in [
            "",
            "dc1",
            "ldapi:///",
            "http://a",
            "ldaps://",
            "ldaps://a:0",
            "ldaps://a:",
            "ldaps://a:x",
            "ldaps://a/b",
            "ldaps://a@b",
            "ldaps://[::1",
            "ldaps://[::1]:",
            "ldaps://[a]",
            "ldaps://[::1]x",
        ] {
            assert_eq!(Server::parse(url), None, "{url}");
        }
    }
}
