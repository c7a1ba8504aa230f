//! A server of the directory, and how it speaks TLS.

use std::fmt;

/// How a connection becomes TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// From the first byte (`ldaps://`).
    Ldaps,
    /// By StartTLS, before anything else (`ldap://`).
    StartTls,
}

/// What the servers of a pool have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// The accounts of the domain, whole.
    Domain,
    /// The names and mappings of the forest.
    Catalog,
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
    /// Ports of a directory: LDAPS, and StartTLS.
    pub const PORTS: (u16, u16) = (636, 389);
    /// Ports of a global catalog ([MS-ADTS] 3.1.1.3.1.10).
    pub const CATALOG_PORTS: (u16, u16) = (3269, 3268);

    /// Reads `ldaps://HOST[:PORT]` or `ldap://HOST[:PORT]`, without a path. `ports` are those of LDAPS and of
    /// StartTLS, if the URL has none.
    pub fn parse(url: &str, ports: (u16, u16)) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (tls, default) = match scheme.to_ascii_lowercase().as_str() {
            "ldaps" => (TlsMode::Ldaps, ports.0),
            "ldap" => (TlsMode::StartTls, ports.1),
            _ => return None,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                match after {
                    "" => (host, None),
                    after => (host, Some(after.strip_prefix(':')?)),
                }
            }
            None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '_');
        let port = port.map_or(Some(default), |port| port.parse().ok().filter(|port| *port != 0))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalog_has_ports_of_its_own() {
        let shown = |url| Server::parse(url, Server::CATALOG_PORTS).map(|server| server.to_string());
        assert_eq!(shown("ldaps://dc1.example").as_deref(), Some("ldaps://dc1.example:3269"));
        assert_eq!(shown("ldap://dc1.example").as_deref(), Some("ldap://dc1.example:3268"));
        assert_eq!(shown("ldaps://dc1.example:1").as_deref(), Some("ldaps://dc1.example:1"));
    }

    #[test]
    fn servers_are_urls_without_a_path() {
        for (url, shown) in [
            ("ldaps://dc1.example", "ldaps://dc1.example:636"),
            ("LDAP://dc1.example/", "ldap://dc1.example:389"),
            ("ldaps://127.0.0.1:10636", "ldaps://127.0.0.1:10636"),
            ("ldaps://[::1]:10636", "ldaps://[::1]:10636"),
            ("ldaps://[::1]", "ldaps://[::1]:636"),
        ] {
            assert_eq!(
                Server::parse(url, Server::PORTS).map(|server| server.to_string()).as_deref(),
                Some(shown),
                "{url}"
            );
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
            assert_eq!(Server::parse(url, Server::PORTS), None, "{url}");
        }
    }
}
