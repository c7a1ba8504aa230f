//! Where the database is, and how it is asked.

use account_store::StoreError;
use rustls::ClientConfig;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// Fetches the password. It is called for each new connection, so a changed password needs no restart.
pub type Password = Arc<dyn Fn() -> Result<Zeroizing<String>, String> + Send + Sync>;

/// The port of PostgreSQL.
const PORT: u16 = 5432;

/// Where the database is, and how it is asked.
#[derive(Clone)]
pub struct Settings {
    /// Servers of which one is the primary, in the order in which they are tried.
    pub servers: Vec<Server>,
    /// Standbys that look-ups of accounts are asked from first.
    pub replicas: Vec<Server>,
    /// The database.
    pub database: String,
    /// The role.
    pub user: String,
    /// The password of the role; none for `peer` and `trust`.
    pub password: Option<Password>,
    /// TLS, by [`crate::tls`]. Without it, all servers have to be local.
    pub tls: Option<Arc<ClientConfig>>,
    /// The schema with the tables.
    pub schema: Schema,
    /// The limit of a whole question, in which it waits for a connection, is asked and may be repeated.
    pub timeout: Duration,
    /// How often the revision is polled.
    pub poll: Duration,
    /// For how long cached answers count if the revision cannot be polled.
    pub max_age: Duration,
    /// How old the revision may be by which a call or a request is answered: with zero it is read after the
    /// call arrived. With [`crate::FRESH`] or less, a change that has ended counts. Without, the revision is
    /// as old as the last poll.
    pub fresh: Option<Duration>,
    /// Connections to the primary, and to each replica.
    pub connections: usize,
    /// Whether look-ups use named statements. A pooler that gives a session another server between two
    /// transactions has to know of them.
    pub prepare: bool,
}

impl Settings {
    /// The defaults, for these servers.
    pub fn new(servers: Vec<Server>, database: impl Into<String>, user: impl Into<String>) -> Self {
        Self {
            servers,
            replicas: Vec::new(),
            database: database.into(),
            user: user.into(),
            password: None,
            tls: None,
            schema: Schema::default(),
            timeout: Duration::from_secs(2),
            poll: Duration::from_secs(1),
            max_age: Duration::from_secs(5),
            fresh: None,
            connections: 8,
            prepare: false,
        }
    }

    /// Refuses to speak without TLS to a server that is not local.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if self.servers.is_empty() {
            return Err(StoreError::Refused("no server of PostgreSQL is named".to_owned()));
        }
        let distant = self.servers.iter().chain(&self.replicas).find(|server| !server.is_local());
        match distant {
            Some(server) if self.tls.is_none() => Err(StoreError::Refused(format!(
                "{server} is not local, and is asked over TLS only: name the CA of its certificate"
            ))),
            _ => Ok(()),
        }
    }
}

/// A server: a host with a port, or the folder of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// A name, an address, or the folder of the socket, which begins with `/`.
    pub host: String,
    /// The port; it is in the name of a socket, too.
    pub port: u16,
}

impl Server {
    /// Reads `HOST`, `HOST:PORT`, `[ADDRESS]:PORT`, `/FOLDER` or `/FOLDER:PORT`.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => (host, Some(rest.strip_prefix(':')?)),
            // An address without brackets has several colons.
            None if text.parse::<IpAddr>().is_ok() => (text, None),
            None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Some(PORT), |port| port.parse().ok().filter(|port| *port != 0))?;
        let is_address = !host.contains(':') || host.starts_with('/') || host.parse::<IpAddr>().is_ok();
        let is_name = !host.is_empty() && is_address && !host.contains(['\0', ',', ' ', '@', '[', ']']);
        is_name.then(|| Self { host: host.to_owned(), port })
    }

    /// Whether it is a Unix socket.
    pub fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }

    /// Whether nothing between here and there can listen: a Unix socket or a loopback address.
    pub fn is_local(&self) -> bool {
        let address = self.host.parse::<IpAddr>();
        self.is_socket() || self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        match host.contains(':') && !self.is_socket() {
            true => write!(f, "[{host}]:{port}"),
            false => write!(f, "{host}:{port}"),
        }
    }
}

/// The name of the schema with the tables. It stands in statements, so it is of plain characters only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema(String);

impl Schema {
    /// Takes a name of lower-case ASCII letters, digits and underscores, which begins with a letter.
    pub fn new(name: &str) -> Option<Self> {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let begins = name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.starts_with("pg_");
        (begins && name.len() <= 48 && name.chars().all(is_plain)).then(|| Self(name.to_owned()))
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// A statement for this schema: `@` stands for its name.
    pub(crate) fn sql(&self, template: &str) -> String {
        template.replace('@', &self.0)
    }

    /// The channel of NOTIFY.
    pub(crate) fn channel(&self) -> String {
        format!("{}_revision", self.0)
    }
}

impl Default for Schema {
    fn default() -> Self {
        Self("rcmpd".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_hosts_addresses_and_sockets() {
        for (text, host, port, is_local) in [
            ("db1.example", "db1.example", 5432, false),
            ("db1.example:6432", "db1.example", 6432, false),
            ("localhost", "localhost", 5432, true),
            ("127.0.0.1:5433", "127.0.0.1", 5433, true),
            ("::1", "::1", 5432, true),
            ("[::1]:5433", "::1", 5433, true),
            ("[2001:db8::1]", "2001:db8::1", 5432, false),
            ("/run/postgresql", "/run/postgresql", 5432, true),
            ("/run/postgresql:5433", "/run/postgresql", 5433, true),
            ("10.0.0.1", "10.0.0.1", 5432, false),
            ("localhost.evil.example", "localhost.evil.example", 5432, false),
        ] {
            let server = Server::parse(text).expect(text);
            assert_eq!((&*server.host, server.port, server.is_local()), (host, port, is_local), "{text}");
            assert_eq!(Server::parse(&server.to_string()), Some(server), "{text}");
        }
        for text in ["", ":5432", "db1:0", "db1:x", "[::1", "a,b", "db1:70000", "user@db1"] {
            assert_eq!(Server::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_distant_server_needs_tls() {
        let settings = |server| Settings::new(vec![Server::parse(server).expect(server)], "d", "u");
        assert!(settings("127.0.0.1").check().is_ok());
        let error = settings("db1.example").check().expect_err("it is distant").to_string();
        assert!(error.contains("db1.example:5432 is not local"), "{error}");
    }

    #[test]
    fn names_of_schemas_are_plain() {
        assert!(Schema::new("rcmpd_2").is_some());
        for name in ["", "Rcmpd", "a b", "a\"", "1a", "pg_x", "a.b", "a;drop", &"a".repeat(64)] {
            assert_eq!(Schema::new(name), None, "{name}");
        }
    }
}
