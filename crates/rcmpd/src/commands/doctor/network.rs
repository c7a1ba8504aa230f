//! Names that the configuration uses, and a channel to each server.

use super::report::{Check, Grade, Report};
use crate::ask::AskError;
use crate::checked_domains::CheckedDomain;
use crate::config::{Config, Peer, PeerKind, Servers as At, Source, UpstreamPlace};
use crate::forward::Forwarding;
use crate::sidecar;
use dcerpc_tokio::host_and_port;
use futures_util::future::join_all;
use netlogon_tokio::{Discovery, ServerFailed, Servers};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};
use trust_tokio::crls::CrlSource;

/// The host names of a configuration, and the domains whose servers are found by SRV records.
pub(super) struct Names<'a> {
    hosts: BTreeSet<(String, &'static str)>,
    discovered: Vec<(&'a Peer, Option<&'a str>, &'a [SocketAddr])>,
}

impl<'a> Names<'a> {
    pub(super) fn of(config: &'a Config) -> Self {
        let mut names = Self { hosts: BTreeSet::new(), discovered: Vec::new() };
        if let Some(At::Listed(servers)) = config.client.as_ref().map(|client| &client.servers) {
            names.server(servers.iter().map(String::as_str), "[client]");
        }
        names.peers(&config.peers, "[[peer]]");
        for (section, domain) in config.checked_domains() {
            names.peers([&domain.peer], section);
        }
        for relay in &config.relays {
            names.server(relay.servers.iter().map(String::as_str), "[[relay]]");
        }
        let sidecar = || config.sidecar.iter();
        let upstreams = sidecar().flat_map(|sidecar| &sidecar.listen);
        let upstreams = upstreams.filter_map(|listen| listen.settings.upstream.as_ref());
        for upstream in upstreams.chain(sidecar().filter_map(|it| Some(&it.proxy.as_ref()?.upstream))) {
            if let UpstreamPlace::Tcp(server) = &upstream.place {
                names.server([server.as_str()], "upstream");
            }
        }
        names.server(config.tlsnego.iter().filter_map(|it| it.upstream.host()), "tlsnego.upstream");
        let mappings = config.mapping.iter().flat_map(|mapping| [Some(mapping), mapping.shadow.as_deref()]);
        for mapping in mappings.flatten() {
            let urls = mapping.trust.crls.iter().filter_map(|crl| match crl {
                CrlSource::Url(url) => Some(url.as_str()),
                CrlSource::File(_) => None,
            });
            names.urls(urls, "mapping.crls");
            let responders = mapping.authorities.iter().filter_map(|entry| Some(&*entry.ocsp.as_ref()?.url));
            names.urls(responders, "[[mapping.authority]] ocsp");
        }
        names
    }

    fn peers(&mut self, peers: impl IntoIterator<Item = &'a Peer>, key: &'static str) {
        for peer in peers {
            match &peer.servers {
                Some(At::Listed(servers)) => self.server(servers.iter().map(String::as_str), key),
                Some(At::Discovered { site, dns }) => {
                    self.discovered.push((peer, site.as_deref(), dns));
                }
                Some(At::Via(_)) | None => {}
            }
        }
    }

    fn urls<'b>(&mut self, urls: impl IntoIterator<Item = &'b str>, key: &'static str) {
        let parsed: Vec<http::Uri> = urls.into_iter().filter_map(|url| url.parse().ok()).collect();
        self.server(parsed.iter().filter_map(http::Uri::host), key);
    }

    /// Each `HOST` or `HOST:PORT`. Addresses are no names.
    fn server<'b>(&mut self, servers: impl IntoIterator<Item = &'b str>, key: &'static str) {
        for (host, _) in servers.into_iter().filter_map(host_and_port) {
            if host.parse::<IpAddr>().is_err() {
                self.hosts.insert((host.to_owned(), key));
            }
        }
    }
}

/// Looks each name up, all at once.
pub(super) async fn names(names: &Names<'_>, time: Duration, report: &mut Report) {
    let hosts = names.hosts.iter().map(async |(host, key)| {
        let found = match timeout(time, lookup_host((host.as_str(), 0))).await {
            Ok(Ok(found)) => Ok(found.map(|at| at.ip().to_string()).collect::<BTreeSet<_>>()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", time.as_secs())),
        };
        (format!("{host} ({key})"), found)
    });
    let discovered = names.discovered.iter().map(async |(peer, site, dns)| {
        let what = format!("the domain controllers of {}", peer.domain);
        let domain = peer.names.first().map_or("", String::as_str);
        let found = match Discovery::new(domain, *site, dns) {
            Ok(discovery) => discovery.servers().await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        (what, found.map(|located| located.found.into_iter().map(|found| found.host).collect()))
    });
    for (what, found) in join_all(hosts).await.into_iter().chain(join_all(discovered).await) {
        match found {
            Ok(found) if !found.is_empty() => {
                let found: Vec<String> = found.into_iter().collect();
                report.ok(Check::Names, format!("{what}: {}", found.join(", ")));
            }
            found => report.add(
                Check::Names,
                Grade::Error,
                format!("{what} cannot be looked up: {}", found.err().unwrap_or("no address".to_owned())),
                "correct the name, or the resolver of this system (/etc/resolv.conf)",
            ),
        }
    }
    if names.hosts.is_empty() && names.discovered.is_empty() {
        report.ok(Check::Names, "the configuration uses addresses only");
    }
}

/// Servers with what they are for.
struct Target {
    what: String,
    servers: Arc<Servers>,
    /// Whether they may be domain controllers, which tell the time.
    may_be_controllers: bool,
    /// How bad it is if none can be asked.
    grade: Grade,
}

/// Sets a channel up to each server, as `domain test` does, to all domains at once. Returns the hosts that
/// may be domain controllers.
pub(super) async fn channels(config: &Config, time: Duration, report: &mut Report) -> BTreeSet<String> {
    let targets = targets(config);
    let probed = targets.iter().map(async |target| {
        let found = target.servers.find(Instant::now() + time).await;
        join_all(
            found
                .iter()
                .map(async |client| (client.server().to_owned(), client.probe(Instant::now() + time).await)),
        )
        .await
    });
    let mut controllers = BTreeSet::new();
    for (target, results) in targets.iter().zip(join_all(probed).await) {
        if target.may_be_controllers {
            let hosts = results.iter().filter_map(|(server, _)| host_and_port(server));
            controllers.extend(hosts.map(|(host, _)| host.to_owned()));
        }
        outcomes(target, results, report);
    }
    controllers
}

fn outcomes(target: &Target, results: Vec<(String, Result<(), ServerFailed>)>, report: &mut Report) {
    let what = &target.what;
    if results.is_empty() {
        let text = format!("{what}: no server was found");
        report.add(Check::Channels, target.grade, text, "see the check of names");
    }
    // The others answer in place of a server that is down.
    let one_is_good = results.iter().any(|(_, outcome)| outcome.is_ok());
    let grade = if one_is_good { Grade::Warning } else { target.grade };
    for (server, outcome) in results {
        match outcome {
            Ok(()) => report.ok(Check::Channels, format!("{what}: {server} has accepted the channel")),
            Err(failed) => {
                let hint = match &failed {
                    ServerFailed::Refused(text) => AskError::Channel(text.clone()).hint(),
                    other => AskError::Unreachable(other.to_string()).hint(),
                };
                report.add(Check::Channels, grade, format!("{what}: {server}: {failed}"), hint);
            }
        }
    }
}

/// All servers that a configuration asks. Why keys of peers cannot be read is among the findings of the
/// configuration.
fn targets(config: &Config) -> Vec<Target> {
    let mut targets = Vec::new();
    if let Some(client) = &config.client
        && let Ok(servers) = sidecar::servers_of_client(config, client)
    {
        // Without a sidecar that asks there, only `rcmpd map` does.
        let is_needed = config.sidecar.as_ref().is_some_and(|sidecar| sidecar.source == Source::Remote);
        targets.push(Target {
            what: "[client]".to_owned(),
            servers: Arc::new(servers),
            may_be_controllers: true,
            grade: if is_needed { Grade::Error } else { Grade::Warning },
        });
    }
    let forwarding = Forwarding::load(config, None).ok();
    for (domain, package, servers) in forwarding.iter().flat_map(Forwarding::servers) {
        let peer = config.peers.iter().find(|peer| peer.domain == domain && package.is_none());
        targets.push(Target {
            what: match package {
                Some(package) => format!("[[relay]] {package}"),
                None => format!("[[peer]] {domain}"),
            },
            servers: Arc::clone(servers),
            may_be_controllers: peer.is_none_or(|peer| peer.kind == PeerKind::Netlogon),
            grade: Grade::Error,
        });
    }
    for (section, domain) in config.checked_domains() {
        for checked in CheckedDomain::all(config, [domain]).unwrap_or_default() {
            targets.push(Target {
                what: format!("{section} {}", checked.domain),
                servers: checked.servers,
                may_be_controllers: true,
                grade: Grade::Error,
            });
        }
    }
    targets
}
