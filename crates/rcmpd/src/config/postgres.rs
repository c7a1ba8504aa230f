//! `[store.postgres]`: where the database is, and how it is asked.

use super::{Checker, SecretRef};
use account_store::CacheSettings;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;
use store_postgres::{Schema, Server};
use toml::Spanned;

const TIMEOUT_MS: (std::ops::RangeInclusive<u64>, u64) = (100..=10_000, 2000);
const POLL_MS: (std::ops::RangeInclusive<u64>, u64) = (50..=60_000, 1000);
const MAX_AGE_S: (std::ops::RangeInclusive<u64>, u64) = (1..=3600, 5);
const FRESH_MS: std::ops::RangeInclusive<u64> = 0..=60_000;
const CONNECTIONS: (std::ops::RangeInclusive<u64>, u64) = (2..=200, 8);
const CACHE_MIB: (std::ops::RangeInclusive<u64>, u64) = (1..=65_536, 64);
const CACHE_TTL_S: (std::ops::RangeInclusive<u64>, u64) = (1..=86_400, 60);
const STALE_IF_ERROR_S: (std::ops::RangeInclusive<u64>, u64) = (0..=86_400, 0);

/// The database of `kind = "postgres"`.
#[derive(Clone, Debug, PartialEq)]
pub struct Postgres {
    /// Servers of which one is the primary.
    pub servers: Vec<Server>,
    /// Standbys that look-ups are asked from.
    pub replicas: Vec<Server>,
    /// The database.
    pub database: String,
    /// The role.
    pub user: String,
    /// The password of the role.
    pub password: Option<SecretRef>,
    /// The CA of the certificates of the servers; without one they are local.
    pub ca: Option<PathBuf>,
    /// The schema with the tables.
    pub schema: Schema,
    /// The limit of a whole question.
    pub timeout: Duration,
    /// How often the revision is polled.
    pub poll: Duration,
    /// For how long cached answers count if the revision cannot be polled.
    pub max_age: Duration,
    /// How old the revision may be by which a call is answered; without, as old as the last poll.
    pub fresh: Option<Duration>,
    /// Connections to the primary, and to each replica.
    pub connections: usize,
    /// Whether look-ups use named statements.
    pub prepare: bool,
    /// The cache in front of it.
    pub cache: CacheSettings,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PostgresSection {
    servers: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    replicas: Vec<Spanned<String>>,
    database: Spanned<String>,
    user: Spanned<String>,
    password: Option<Spanned<String>>,
    ca: Option<PathBuf>,
    sslmode: Option<Spanned<String>>,
    schema: Option<Spanned<String>>,
    timeout_ms: Option<Spanned<u64>>,
    poll_ms: Option<Spanned<u64>>,
    max_age_s: Option<Spanned<u64>>,
    pub(super) fresh_ms: Option<Spanned<u64>>,
    connections: Option<Spanned<u64>>,
    #[serde(default)]
    prepare: bool,
    cache_mib: Option<Spanned<u64>>,
    cache_ttl_s: Option<Spanned<u64>>,
    stale_if_error_s: Option<Spanned<u64>>,
}

impl Checker<'_> {
    pub(super) fn postgres(&mut self, section: &PostgresSection) -> Option<Postgres> {
        let servers = self.servers_of_postgres(section.servers.get_ref());
        if section.servers.get_ref().is_empty() {
            self.problem(
                section.servers.span(),
                "no server is named",
                "write HOST, HOST:PORT, or the folder of a Unix socket: servers = [\"db1.example:5432\"]",
            );
        }
        let replicas = self.servers_of_postgres(&section.replicas);
        self.tls_of_postgres(section);
        for (text, what) in [(&section.database, "database"), (&section.user, "role")] {
            if text.get_ref().is_empty() || text.get_ref().contains('\0') {
                self.problem(text.span(), format!("this is not the name of a {what}"), "write its name");
            }
        }
        let schema = match &section.schema {
            None => Some(Schema::default()),
            Some(name) => {
                let schema = Schema::new(name.get_ref());
                if schema.is_none() {
                    self.problem(
                        name.span(),
                        "this is not a name of a schema that can be used here",
                        "use lower-case letters, digits and underscores, a letter first: schema = \"rcmpd\"",
                    );
                }
                schema
            }
        };
        let password = section.password.as_ref().and_then(|password| self.secret(password));
        let ms = |checker: &mut Self, given: Option<&Spanned<u64>>, (range, default)| {
            Duration::from_millis(checker.within(given, range, "milliseconds", default))
        };
        let s = |checker: &mut Self, given: Option<&Spanned<u64>>, (range, default)| {
            checker.seconds(given, range, default)
        };
        let mib = self.within(section.cache_mib.as_ref(), CACHE_MIB.0, "MiB", CACHE_MIB.1);
        Some(Postgres {
            servers,
            replicas,
            database: section.database.get_ref().clone(),
            user: section.user.get_ref().clone(),
            password,
            ca: section.ca.as_ref().map(|ca| self.path(ca)),
            schema: schema?,
            timeout: ms(self, section.timeout_ms.as_ref(), TIMEOUT_MS),
            poll: ms(self, section.poll_ms.as_ref(), POLL_MS),
            max_age: s(self, section.max_age_s.as_ref(), MAX_AGE_S),
            fresh: section.fresh_ms.as_ref().map(|given| ms(self, Some(given), (FRESH_MS, 0))),
            connections: self.count(section.connections.as_ref(), CONNECTIONS.0, CONNECTIONS.1),
            prepare: section.prepare,
            cache: CacheSettings {
                bytes: mib << 20,
                ttl: s(self, section.cache_ttl_s.as_ref(), CACHE_TTL_S),
                stale_if_error: s(self, section.stale_if_error_s.as_ref(), STALE_IF_ERROR_S),
            },
        })
    }

    fn servers_of_postgres(&mut self, servers: &[Spanned<String>]) -> Vec<Server> {
        let mut read = Vec::new();
        for text in servers {
            match Server::parse(text.get_ref()) {
                Some(server) => read.push(server),
                None => self.problem(
                    text.span(),
                    "this is not a server of PostgreSQL",
                    "write HOST, HOST:PORT, [ADDRESS]:PORT, or the folder of a Unix socket",
                ),
            }
        }
        read
    }

    /// TLS with a CA, or none to servers that are local.
    fn tls_of_postgres(&mut self, section: &PostgresSection) {
        let is_off = match &section.sslmode {
            None => false,
            Some(mode) => match mode.get_ref().as_str() {
                "verify-full" => false,
                "disable" => true,
                _ => {
                    self.problem(
                        mode.span(),
                        "this mode of TLS does not check the server",
                        "use sslmode = \"verify-full\" with ca = \"certs/postgres-ca.pem\", or \"disable\" for a server on this machine",
                    );
                    return;
                }
            },
        };
        match (&section.ca, &section.sslmode) {
            (Some(_), Some(mode)) if is_off => self.problem(
                mode.span(),
                "there is a CA for TLS, and TLS is disabled",
                "remove ca, or remove sslmode",
            ),
            (Some(_), _) => {}
            (None, _) => {
                for text in section.servers.get_ref().iter().chain(&section.replicas) {
                    let server = Server::parse(text.get_ref());
                    if server.as_ref().is_some_and(|server| !server.is_local()) {
                        self.problem(
                            text.span(),
                            "this server is not on this machine, and TLS needs the CA of its certificate",
                            "name it: ca = \"certs/postgres-ca.pem\"; the certificate names the server in its SAN",
                        );
                    } else if server.is_some_and(|server| !server.is_socket()) && !is_off {
                        self.problem(
                            text.span(),
                            "neither TLS is set up nor is it disabled",
                            "name a CA: ca = \"certs/postgres-ca.pem\"; or say sslmode = \"disable\" for a server on this machine",
                        );
                    }
                }
            }
        }
    }
}
