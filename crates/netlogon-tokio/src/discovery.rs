//! The servers of a domain, by the SRV records that its domain controllers register ([MS-ADTS] 6.3.2.3).
//!
//! The result is names in the order in which to try them (RFC 2782), and how long it is valid; the caller
//! keeps it. It has no ports, because a record's port is that of LDAP; the host's endpoint mapper tells that
//! of Netlogon. No server gets an LDAP ping, as Windows sends it: setting a channel up shows whether the
//! server is alive. DNS is not authenticated and need not be: a host that is not of the domain does not know
//! the shared secret.

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData};
use netlogon_transport::client::{Randomness, SystemRandomness};
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use thiserror::Error;
use tokio::time::timeout;
use tracing::debug;

/// Servers that are kept. If none of these answers, more would not help.
const SERVERS_MAX: usize = 32;
/// Addresses of one server that are kept.
const ADDRESSES_MAX: usize = 8;
/// Timeout of one look-up: a logon may wait for it.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout of one resolver, so that a datagram may be lost or a resolver may be down within [`TIMEOUT`].
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an answer is valid at least: a TTL of zero must not lead to a look-up for each request.
const TTL_MIN: Duration = Duration::from_secs(5);
/// How long an answer is valid at most: a server that was removed must not be tried for days.
const TTL_MAX: Duration = Duration::from_secs(3600);

/// Looks up the servers of one domain.
pub struct Discovery {
    resolver: TokioResolver,
    domain: String,
    site: Option<String>,
    has_resolvers: bool,
}

impl std::fmt::Debug for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Discovery of {} from site {:?}", self.domain, self.site)
    }
}

/// The servers of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// In the order in which to try them; never empty.
    pub found: Vec<Found>,
    /// How long this is valid: the smallest TTL of the records, within bounds. If one of two look-ups failed,
    /// the least bound.
    pub ttl: Duration,
}

/// A server of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its DNS name, without the last dot.
    pub host: String,
    /// Whether it is one of the site's servers.
    pub in_site: bool,
}

/// Why a [`Discovery`] cannot be made.
#[derive(Debug, Error)]
pub enum DiscoveryConfigError {
    /// The text is no DNS name.
    #[error("{0:?} is not the DNS name of a domain")]
    Domain(String),
    /// The text is no name of a site.
    #[error("{0:?} is not the name of a site")]
    Site(String),
    /// /etc/resolv.conf cannot be read or used.
    #[error("the system's resolver configuration cannot be used")]
    Resolver(#[source] NetError),
}

/// Why a look-up found no server or address.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DiscoveryError {
    /// There is no SRV record.
    #[error("DNS has no domain controller of {domain}: there is no SRV record {name}")]
    NoServers {
        /// The domain.
        domain: String,
        /// The name that was asked for.
        name: String,
    },
    /// There are SRV records, and none of them names a host.
    #[error(
        "DNS says that domain controllers of {domain} are not available: no target of {name} can be used"
    )]
    NotAvailable {
        /// The domain.
        domain: String,
        /// The name that was asked for.
        name: String,
    },
    /// There is no address record.
    #[error("DNS has no address of {host}")]
    NoAddress {
        /// The server.
        host: String,
    },
    /// No resolver answered in time, or with an error.
    #[error("DNS look-up of {name} failed: {reason}")]
    NoAnswer {
        /// The name that was asked for.
        name: String,
        /// The resolver's error, or the timeout.
        reason: String,
    },
}

impl Discovery {
    /// Whether the resolvers are those given to [`Discovery::new`], and not those of the system.
    pub const fn has_resolvers(&self) -> bool {
        self.has_resolvers
    }

    /// `dns_servers` are the resolvers; if empty, those of the system (/etc/resolv.conf).
    pub fn new(
        domain: &str,
        site: Option<&str>,
        dns_servers: &[SocketAddr],
    ) -> Result<Self, DiscoveryConfigError> {
        let domain = domain.strip_suffix('.').unwrap_or(domain);
        if !is_host(domain) {
            return Err(DiscoveryConfigError::Domain(domain.to_owned()));
        }
        if let Some(site) = site.filter(|site| !is_label(site)) {
            return Err(DiscoveryConfigError::Site(site.to_owned()));
        }
        let mut builder = match dns_servers {
            [] => TokioResolver::builder_tokio().map_err(DiscoveryConfigError::Resolver)?,
            servers => {
                let servers = servers.iter().copied().map(name_server).collect();
                let config = ResolverConfig::from_name_servers(servers);
                let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
                builder.options_mut().use_hosts_file = ResolveHosts::Never;
                builder
            }
        };
        let options = builder.options_mut();
        (options.timeout, options.attempts) = (ATTEMPT_TIMEOUT, 2);
        // The caller keeps answers. A second cache would keep them twice as long.
        options.cache_size = 0;
        let (domain, site) = (domain.to_owned(), site.map(str::to_owned));
        let resolver = builder.build().map_err(DiscoveryConfigError::Resolver)?;
        Ok(Self { resolver, domain, site, has_resolvers: !dns_servers.is_empty() })
    }

    /// The servers in the order in which to try them: the site's first, then the others; within these by
    /// priority, and within a priority at random by weight. If the site has none, all are the others.
    pub async fn servers(&self) -> Result<Located, DiscoveryError> {
        let all = format!("_ldap._tcp.dc._msdcs.{}.", self.domain);
        let (in_site, in_domain) = match &self.site {
            Some(site) => {
                let near = format!("_ldap._tcp.{site}._sites.dc._msdcs.{}.", self.domain);
                tokio::join!(self.records(&near), self.records(&all))
            }
            None => (Ok(Vec::new()), self.records(&all).await),
        };
        // One of the two answers is enough: that for the domain has every server.
        let mut ttl_max = TTL_MAX;
        let (in_site, in_domain) = match (in_site, in_domain) {
            (Ok(in_site), Ok(in_domain)) => (in_site, in_domain),
            (Ok(in_site), Err(error)) if !in_site.is_empty() => {
                debug!(%error, "DNS look-up of the domain's servers failed: only those of the site are used");
                ttl_max = TTL_MIN;
                (in_site, Vec::new())
            }
            (Err(error), Ok(in_domain)) => {
                debug!(%error, "DNS look-up of the site's servers failed: those of the domain are used");
                ttl_max = TTL_MIN;
                (Vec::new(), in_domain)
            }
            (_, Err(error)) => return Err(error),
        };
        let (domain, name) = (self.domain.clone(), all);
        if in_site.is_empty() && in_domain.is_empty() {
            return Err(DiscoveryError::NoServers { domain, name });
        }
        let random = |bound| u64::from_le_bytes(SystemRandomness.bytes()) % bound;
        let servers = servers_of(in_site, in_domain, random);
        servers
            .map(|servers| Located { ttl: servers.ttl.min(ttl_max), ..servers })
            .ok_or(DiscoveryError::NotAvailable { domain, name })
    }

    /// The first addresses of a server, from the same resolvers; at most eight.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DiscoveryError> {
        let name = format!("{host}.");
        match answer(&name, self.resolver.lookup_ip(&name)).await? {
            Some(found) => Ok(found.iter().take(ADDRESSES_MAX).collect()),
            None => Err(DiscoveryError::NoAddress { host: host.to_owned() }),
        }
    }

    /// The SRV records of a name; empty if DNS answers that there are none.
    async fn records(&self, name: &str) -> Result<Vec<Service>, DiscoveryError> {
        Ok(answer(name, self.resolver.srv_lookup(name)).await?.as_ref().map(services).unwrap_or_default())
    }
}

/// The answer of DNS within [`TIMEOUT`]; `None` if it is that there is no such record.
async fn answer<T>(
    name: &str,
    asked: impl Future<Output = Result<T, NetError>>,
) -> Result<Option<T>, DiscoveryError> {
    let reason = match timeout(TIMEOUT, asked).await {
        Ok(Ok(answer)) => return Ok(Some(answer)),
        Ok(Err(error)) if error.is_no_records_found() => return Ok(None),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", TIMEOUT.as_secs()),
    };
    Err(DiscoveryError::NoAnswer { name: name.to_owned(), reason })
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

/// The fields of a SRV record (RFC 2782) that are used.
#[derive(Clone, Debug)]
struct Service {
    priority: u16,
    weight: u16,
    /// `None` if the service is not available, or the target is no name of a host.
    target: Option<String>,
    ttl: u32,
}

fn services(found: &Lookup) -> Vec<Service> {
    let records = found.answers().iter().filter_map(|record| match &record.data {
        RData::SRV(srv) => Some((record.ttl, srv)),
        _ => None,
    });
    records
        .map(|(ttl, srv)| {
            let target = host(&srv.target);
            if target.is_none() && !srv.target.is_root() {
                debug!(target = %srv.target, "Target of a SRV record is no host name");
            }
            Service { priority: srv.priority, weight: srv.weight, target, ttl }
        })
        .collect()
}

/// A target as text. The root means that the service is not available.
fn host(target: &Name) -> Option<String> {
    // Looked at label by label: a dot within a label is no border of labels.
    let label = |label| str::from_utf8(label).ok().filter(|label| is_label(label));
    let labels = target.iter().map(label).collect::<Option<Vec<&str>>>()?;
    Some(labels.join(".")).filter(|host| is_host(host))
}

/// Whether a text can be a label of a host's name, or the name of a site: 1 to 63 letters, digits, `-` and
/// `_`.
pub fn is_label(label: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=63).contains(&label.len())
        && label.bytes().all(known)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Whether a text is the name of a host: RFC 1123, and the underscore that Windows allows.
fn is_host(host: &str) -> bool {
    host.len() <= 253 && host.split('.').all(is_label)
}

/// The servers that these records name, each once. `random` returns a number below its argument.
fn servers_of(
    in_site: Vec<Service>,
    in_domain: Vec<Service>,
    mut random: impl FnMut(u64) -> u64,
) -> Option<Located> {
    let ttl = in_site.iter().chain(&in_domain).map(|service| service.ttl).min()?;
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for (services, in_site) in [(in_site, true), (in_domain, false)] {
        let mut order = Order::new(services);
        while found.len() < SERVERS_MAX
            && let Some(host) = order.next(&mut random)
        {
            if seen.insert(host.to_ascii_lowercase()) {
                found.push(Found { host, in_site });
            }
        }
    }
    let ttl = Duration::from_secs(ttl.into()).clamp(TTL_MIN, TTL_MAX);
    (!found.is_empty()).then_some(Located { found, ttl })
}

/// The order of RFC 2782: the lowest priority first, and within one, again and again, one of the rest by
/// weight.
struct Order {
    /// INVARIANT: the lowest priority is last, and those of weight 0 stand before others of their priority.
    rest: Vec<(u16, u16, String)>,
}

impl Order {
    fn new(services: Vec<Service>) -> Self {
        let usable = services.into_iter().filter_map(|s| Some((s.priority, s.weight, s.target?)));
        let mut rest: Vec<_> = usable.collect();
        rest.sort_by_key(|&(priority, weight, _)| (std::cmp::Reverse(priority), weight != 0));
        Self { rest }
    }

    fn next(&mut self, random: &mut impl FnMut(u64) -> u64) -> Option<String> {
        let (priority, ..) = *self.rest.last()?;
        let first = self.rest.partition_point(|&(other, ..)| other > priority);
        let weights = self.rest[first..].iter().map(|&(_, weight, _)| u64::from(weight));
        // From 0 to the sum, both included: so one of weight 0 has its small chance.
        let drawn = random(weights.clone().sum::<u64>() + 1);
        let mut sum = 0;
        let at = weights.take_while(|weight| {
            sum += weight;
            sum < drawn
        });
        let chosen = first + at.count();
        Some(self.rest.remove(chosen).2)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use hickory_resolver::proto::op::{Message, ResponseCode};
    use hickory_resolver::proto::rr::Record;
    use hickory_resolver::proto::rr::rdata::SRV;
    use tokio::net::UdpSocket;

    fn service(priority: u16, weight: u16, target: &str) -> Service {
        Service { priority, weight, target: host(&target.parse().unwrap()), ttl: 600 }
    }

    /// The hosts, with `*` before those of the site.
    fn hosts(servers: &Located) -> Vec<String> {
        let star = |found: &Found| format!("{}{}", if found.in_site { "*" } else { "" }, found.host);
        servers.found.iter().map(star).collect()
    }

    /// Draws these numbers, and then the greatest.
    #[track_caller]
    fn check(in_site: &[Service], in_domain: &[Service], draws: &[u64], expect: &[&str]) {
        let mut draws = draws.iter();
        let random = |bound: u64| {
            let drawn = draws.next().map_or(bound - 1, |drawn| *drawn);
            assert!(drawn < bound, "{drawn} of {bound}");
            drawn
        };
        let servers = servers_of(in_site.to_vec(), in_domain.to_vec(), random);
        assert_eq!(servers.map(|servers| hosts(&servers)).unwrap_or_default(), expect);
    }

    #[test]
    fn a_lower_priority_comes_first_whatever_the_weights() {
        let records = [service(20, 65535, "c.x."), service(0, 0, "a.x."), service(10, 1, "b.x.")];
        check(&[], &records, &[], &["a.x", "b.x", "c.x"]);
        check(&[], &records, &[0, 0, 0], &["a.x", "b.x", "c.x"]);
    }

    #[test]
    fn weights_share_what_is_drawn() {
        // Running sums: 0, 10, 40, 100. The first that reaches the drawn number is taken.
        let records =
            [service(0, 10, "b.x."), service(0, 30, "c.x."), service(0, 0, "a.x."), service(0, 60, "d.x.")];
        for (drawn, first) in
            [(0, "a.x"), (1, "b.x"), (10, "b.x"), (11, "c.x"), (40, "c.x"), (41, "d.x"), (100, "d.x")]
        {
            let servers = servers_of(Vec::new(), records.to_vec(), |bound| drawn.min(bound - 1)).unwrap();
            assert_eq!(servers.found[0].host, first, "{drawn}");
        }
        check(&[], &records, &[41, 11, 0, 0], &["d.x", "c.x", "a.x", "b.x"]);
    }

    #[test]
    fn every_server_comes_once_whatever_is_drawn() {
        let records: Vec<_> = (0..20).map(|n| service(n / 7, n * 13 % 5, &format!("h{n}.x."))).collect();
        for seed in 0..100_u64 {
            let mut state = seed;
            let servers = servers_of(Vec::new(), records.clone(), |bound| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 33) % bound
            });
            let mut hosts = hosts(&servers.unwrap());
            let priorities: Vec<u16> =
                hosts.iter().map(|h| h[1..h.len() - 2].parse::<u16>().unwrap() / 7).collect();
            assert!(priorities.is_sorted(), "{hosts:?}");
            hosts.sort();
            hosts.dedup();
            assert_eq!(hosts.len(), records.len());
        }
    }

    #[test]
    fn the_site_s_servers_come_first_and_only_once() {
        let near = [service(100, 0, "b.x.")];
        let all = [service(0, 1, "a.x."), service(100, 1, "B.X."), service(50, 1, "c.x.")];
        check(&near, &all, &[], &["*b.x", "a.x", "c.x"]);
        check(&near, &[], &[], &["*b.x"]);
    }

    #[test]
    fn targets_that_are_no_hosts_are_left_out() {
        let labels: [&[&[u8]]; 9] = [
            &[],
            &[b"*", b"x"],
            &[b"a b", b"x"],
            &[b"-a", b"x"],
            &[b"a-"],
            &[b"a.b", b"x"],
            &[b"a\0", b"x"],
            &[b"a/b", b"x"],
            &["\u{e4}".as_bytes(), b"x"],
        ];
        for labels in labels {
            let target = host(&Name::from_labels(labels.iter().copied()).unwrap());
            assert_eq!(target, None, "{labels:?}");
            check(&[], &[Service { target, ..service(0, 0, ".") }, service(1, 0, "a.x.")], &[], &["a.x"]);
        }
        check(&[], &[service(0, 0, ".")], &[], &[]);
        // The root at the site does not hide the others.
        check(&[service(0, 0, ".")], &[service(0, 0, "under_score.x.")], &[], &["under_score.x"]);
    }

    #[test]
    fn no_more_than_the_limit_are_kept_and_the_site_s_before_others() {
        let near: Vec<_> = (0..20).map(|n| service(n, 0, &format!("near{n}.x."))).collect();
        let all: Vec<_> = (0..4000).map(|n| service(0, 1, &format!("far{n}.x."))).collect();
        let servers = servers_of(near, all, |_| 0).unwrap();
        assert_eq!(servers.found.len(), SERVERS_MAX);
        assert_eq!(servers.found.iter().filter(|found| found.in_site).count(), 20);
    }

    #[test]
    fn the_smallest_ttl_counts_within_bounds() {
        for (a, b, expect) in [(600, 900, 600), (900, 600, 600), (0, 900, 5), (u32::MAX, u32::MAX, 3600)] {
            let near = Service { ttl: a, ..service(0, 0, "a.x.") };
            let far = Service { ttl: b, ..service(0, 0, "b.x.") };
            let servers = servers_of(vec![near], vec![far], |_| 0).unwrap();
            assert_eq!(servers.ttl, Duration::from_secs(expect));
        }
    }

    #[test]
    fn names_that_cannot_be_asked_for_are_refused_at_the_start() {
        let server = ["127.0.0.1:53".parse().unwrap()];
        let long = "a".repeat(64);
        for (domain, site) in [
            ("", None),
            (".", None),
            ("a..b", None),
            ("a b.example", None),
            (&long, None),
            ("a.example", Some("")),
            ("a.example", Some("two.labels")),
            ("a.example", Some(&long[..])),
        ] {
            Discovery::new(domain, site, &server).unwrap_err();
        }
        for domain in ["a.example", "a.example.", "local"] {
            Discovery::new(domain, Some("Default-First-Site-Name"), &server).unwrap();
        }
    }

    /// A resolver that answers the query for the site's servers and that for all with targets, or a code.
    async fn resolver(
        site: Result<&'static str, ResponseCode>,
        all: Result<&'static str, ResponseCode>,
    ) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut datagram = [0; 512];
            while let Ok((len, peer)) = socket.recv_from(&mut datagram).await {
                let mut message = Message::from_vec(&datagram[..len]).unwrap().into_response();
                let name = message.queries[0].name().clone();
                match if name.to_ascii().contains("._sites.") { site } else { all } {
                    Ok(target) => {
                        let data = RData::SRV(SRV::new(0, 100, 389, target.parse().unwrap()));
                        message.add_answer(Record::from_rdata(name, 600, data));
                    }
                    Err(code) => message.metadata.response_code = code,
                }
                socket.send_to(&message.to_vec().unwrap(), peer).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn one_of_two_answers_is_enough_and_not_kept_for_long() {
        use ResponseCode::{NXDomain, ServFail};
        let unknown = |name: &str| DiscoveryError::NoServers { domain: "x".into(), name: name.into() };
        let all = "_ldap._tcp.dc._msdcs.x.";
        let cases = [
            (Ok("a.x."), Ok("b.x."), Ok((&["*a.x", "b.x"][..], 600))),
            (Err(NXDomain), Ok("b.x."), Ok((&["b.x"], 600))),
            (Err(ServFail), Ok("b.x."), Ok((&["b.x"], 5))),
            (Ok("a.x."), Err(ServFail), Ok((&["*a.x"], 5))),
            (Ok("."), Ok("."), Err(DiscoveryError::NotAvailable { domain: "x".into(), name: all.into() })),
            (Err(NXDomain), Err(NXDomain), Err(unknown(all))),
        ];
        for (site, domain, expect) in cases {
            let server = resolver(site, domain).await;
            let servers = Discovery::new("x", Some("Here"), &[server]).unwrap().servers().await;
            let got = servers.map(|servers| (hosts(&servers), servers.ttl.as_secs()));
            let expect =
                expect.map(|(hosts, ttl)| (hosts.iter().map(|host| host.to_string()).collect(), ttl));
            assert_eq!(got, expect, "{site:?} {domain:?}");
        }
        for site in [Err(NXDomain), Err(ServFail)] {
            let server = resolver(site, Err(ServFail)).await;
            let error = Discovery::new("x", Some("Here"), &[server]).unwrap().servers().await.unwrap_err();
            assert!(matches!(&error, DiscoveryError::NoAnswer { name, .. } if name == all), "{error}");
        }
    }

    #[tokio::test]
    async fn silence_is_no_answer() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = silent.local_addr().unwrap();
        let started = std::time::Instant::now();
        let error = Discovery::new("x", Some("Here"), &[server]).unwrap().servers().await.unwrap_err();
        assert!(matches!(error, DiscoveryError::NoAnswer { .. }), "{error}");
        assert!(started.elapsed() < TIMEOUT + Duration::from_secs(1));
    }
}
