//! `[[peer]]`, `[[relay]]` and `[forward]`: trusted domains, packages that are relayed to domain controllers,
//! and how questions are forwarded.

use super::{Checker, OwnDomain, ResponseCrypt, SecretRef};
use account_store::fold::casefold;
use account_store::{ChannelKind, DistinguishedName};
use dtyp::Sid;
use rcmp_service::foreign::ForeignSids;
use rcmp_service::message::PACKAGE_NAME;
use serde::Deserialize;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

/// Limit of peers and of relays in one file: each costs connections, and each question is compared with all
/// of them.
const ENTRIES_MAX: usize = 256;

/// Which domain sends questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The peer asks this domain.
    Inbound,
    /// This domain asks the peer.
    Outbound,
    /// Each asks the other.
    Both,
}

/// The program of the servers of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerKind {
    /// Any Netlogon server.
    Netlogon,
    /// rcmpd: it understands the extension bytes of a call.
    Rcmpd,
}

/// Where the servers of a peer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// `HOST` or `HOST:PORT`.
    Listed(Vec<String>),
    /// By SRV records.
    Discovered {
        /// Servers of this site come first.
        site: Option<String>,
        /// DNS servers to ask; if empty, the resolver of the system.
        dns: Vec<SocketAddr>,
    },
    /// Behind another peer, by its NetBIOS name.
    Via(String),
}

/// `[[peer]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// NetBIOS name.
    pub domain: String,
    /// The domain's SID.
    pub sid: Sid,
    /// Its DNS name, then its other UPN suffixes: lower case, without a dot at the end.
    pub names: Vec<String>,
    /// Which domain sends questions.
    pub direction: Direction,
    /// Its servers, if it is asked.
    pub servers: Option<Servers>,
    /// Our account at its domain.
    pub account: String,
    /// The secret of the account, if the peer is asked directly.
    pub secret: Option<SecretRef>,
    /// The type of channel that the account is for.
    pub channel: ChannelKind,
    /// What its servers are.
    pub kind: PeerKind,
    /// NetBIOS names of other peers about which it may ask through this domain.
    pub transit: Vec<String>,
    /// Issuers whose certificates it answers for.
    pub issuers: Vec<DistinguishedName>,
    /// Whether its responses are encrypted inside the seal.
    pub response_crypt: ResponseCrypt,
    /// What happens to answers with SIDs of third domains.
    pub foreign_sids: ForeignSids,
    /// Timeout of a question.
    pub timeout: Duration,
    /// Connections to each server.
    pub connections_max: usize,
    /// Limit of questions that wait for a connection.
    pub queue_max: usize,
    /// The time after which a second server is asked as well.
    pub hedge: Option<Duration>,
    /// The public key that verifies its hops in a proof of path.
    pub proof_key: Option<PathBuf>,
}

impl Direction {
    /// Whether this domain asks the peer.
    pub const fn asks(self) -> bool {
        matches!(self, Self::Outbound | Self::Both)
    }

    /// Whether this domain answers the peer.
    pub const fn answers(self) -> bool {
        matches!(self, Self::Inbound | Self::Both)
    }
}

impl Peer {
    /// Whether this domain asks it.
    pub const fn is_asked(&self) -> bool {
        self.direction.asks()
    }

    /// Whether it asks this domain.
    pub const fn may_ask(&self) -> bool {
        self.direction.answers()
    }
}

/// `[[relay]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// PackageName.
    pub package: String,
    /// Domain controllers of our own domain.
    pub servers: Vec<String>,
    /// The account at these servers.
    pub account: String,
    /// Reference to the secret of that account.
    pub secret: SecretRef,
    /// The type of channel that the account is for.
    pub channel: ChannelKind,
    /// Machine accounts that may use the package.
    pub machines: Vec<String>,
    /// Whether responses are encrypted inside the seal. Never `Auto`: rcmpd cannot tell a decrypted answer of
    /// another package from noise.
    pub response_crypt: ResponseCrypt,
    /// Timeout of a call.
    pub timeout: Duration,
    /// Connections to each server.
    pub connections_max: usize,
    /// Limit of calls that wait for a connection.
    pub queue_max: usize,
}

/// `[forward]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Limit of domains that a question may pass before the one that answers.
    pub hops_max: usize,
    /// The key that signs our hops in proofs of path.
    pub proof_key: Option<PathBuf>,
}

impl Default for Forward {
    fn default() -> Self {
        Self { hops_max: 4, proof_key: None }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PeerSection {
    pub(super) domain: Spanned<String>,
    pub(super) sid: Spanned<String>,
    pub(super) names: Spanned<Vec<Spanned<String>>>,
    pub(super) direction: Spanned<String>,
    pub(super) servers: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) discovery: Option<Spanned<String>>,
    pub(super) site: Option<Spanned<String>>,
    pub(super) dns: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) account: Option<Spanned<String>>,
    pub(super) secret: Option<Spanned<String>>,
    pub(super) channel: Option<Spanned<String>>,
    pub(super) kind: Option<Spanned<String>>,
    pub(super) via: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) transit: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) issuers: Vec<Spanned<String>>,
    pub(super) response_crypt: Option<Spanned<String>>,
    pub(super) foreign_sids: Option<Spanned<String>>,
    pub(super) timeout_s: Option<Spanned<u64>>,
    pub(super) connections_max: Option<Spanned<u64>>,
    pub(super) queue_max: Option<Spanned<u64>>,
    pub(super) hedge_ms: Option<Spanned<u64>>,
    pub(super) proof_key: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RelaySection {
    package: Spanned<String>,
    servers: Spanned<Vec<Spanned<String>>>,
    account: Spanned<String>,
    secret: Spanned<String>,
    channel: Option<Spanned<String>>,
    machines: Spanned<Vec<Spanned<String>>>,
    response_crypt: Spanned<String>,
    timeout_s: Option<Spanned<u64>>,
    connections_max: Option<Spanned<u64>>,
    queue_max: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ForwardSection {
    hops_max: Option<Spanned<u64>>,
    proof_key: Option<PathBuf>,
}

const TIMEOUT_S: RangeInclusive<u64> = 1..=120;
const TIMEOUT_DEFAULT_S: u64 = 10;
const CONNECTIONS: RangeInclusive<u64> = 1..=256;
const CONNECTIONS_DEFAULT: u64 = 8;
const QUEUE: RangeInclusive<u64> = 0..=65_536;
const QUEUE_DEFAULT: u64 = 256;
const HEDGE_MS: RangeInclusive<u64> = 1..=60_000;

pub(super) const CHANNELS: [(&str, ChannelKind); 4] = [
    ("workstation", ChannelKind::Workstation),
    ("server", ChannelKind::Server),
    ("trusted_domain", ChannelKind::TrustedDomain),
    ("trusted_dns_domain", ChannelKind::TrustedDnsDomain),
];
const RESPONSE_CRYPT: [(&str, ResponseCrypt); 3] =
    [("encrypt", ResponseCrypt::Encrypt), ("plain", ResponseCrypt::Plain), ("auto", ResponseCrypt::Auto)];

/// A section that was checked. What other sections refer to is known even if the peer is wrong.
struct CheckedPeer {
    peer: Option<Peer>,
    span: Range<usize>,
    domain: String,
    direction: Direction,
    /// Whether it is asked at servers of its own.
    is_direct: bool,
    via: Option<Spanned<String>>,
    transit: Vec<Spanned<String>>,
}

impl Checker<'_> {
    pub(super) fn peers(&mut self, sections: Vec<Spanned<PeerSection>>, ours: &OwnDomain) -> Vec<Peer> {
        if let Some(one_more) = sections.get(ENTRIES_MAX) {
            self.problem(
                one_more.span(),
                "there are too many peers",
                format!("at most {ENTRIES_MAX} are served"),
            );
            return vec![];
        }
        let mut claims = Claims::new(ours);
        let mut checked = Vec::with_capacity(sections.len());
        for section in sections {
            claims.section += 1;
            checked.push(self.peer(section, ours, &mut claims));
        }
        for peer in &checked {
            self.references(peer, &checked);
        }
        checked.into_iter().filter_map(|checked| checked.peer).collect()
    }

    /// Checks `via` and `transit`, which name other peers.
    fn references(&mut self, peer: &CheckedPeer, all: &[CheckedPeer]) {
        let named =
            |name: &Spanned<String>| all.iter().find(|other| other.domain == name.get_ref().to_uppercase());
        if let Some(via) = peer.via.as_ref().filter(|via| !named(via).is_some_and(|other| other.is_direct)) {
            self.problem(
                via.span(),
                "this is not a peer that is asked directly",
                "name the peer that questions are sent through; it must be outbound and have servers of its own",
            );
        }
        for name in &peer.transit {
            if !named(name).is_some_and(|other| other.direction.asks() && other.domain != peer.domain) {
                self.problem(
                    name.span(),
                    "this is not another peer that is asked",
                    "name domains that have a [[peer]] with direction \"outbound\" or \"both\"",
                );
            }
        }
        if !peer.transit.is_empty() && !peer.direction.answers() {
            self.problem(
                peer.span.clone(),
                "this peer does not ask, so it has no transit",
                "remove transit, or set direction = \"inbound\" or \"both\"",
            );
        }
    }

    /// A domain whose controllers are asked for its users alone; it is no peer of the forwarder.
    pub(super) fn checked_peer(
        &mut self,
        section: Spanned<PeerSection>,
        ours: &OwnDomain,
        claims: &mut Claims,
    ) -> Option<Peer> {
        claims.section += 1;
        self.peer(section, ours, claims).peer
    }

    fn peer(&mut self, section: Spanned<PeerSection>, ours: &OwnDomain, claims: &mut Claims) -> CheckedPeer {
        let span = section.span();
        let section = section.into_inner();
        let domain = self.netbios(&section.domain);
        self.claim(claims, Claim::Name, domain.to_lowercase(), section.domain.span(), &domain);
        let sid = self.domain_sid(&section.sid);
        if let Some(sid) = &sid {
            self.claim(claims, Claim::Sid, sid.to_string(), section.sid.span(), &domain);
        }
        let names = self.names_of(&section, claims, &domain);
        let directions =
            [("outbound", Direction::Outbound), ("inbound", Direction::Inbound), ("both", Direction::Both)];
        let direction = self.one_of(Some(&section.direction), &directions, "direction");
        let direction = direction.unwrap_or(Direction::Inbound);
        let servers = self.servers_of(&section, &span, direction.asks());
        let is_direct = matches!(servers, Some(Servers::Listed(_) | Servers::Discovered { .. }));
        if !is_direct {
            self.refuse_keys_of_direct_peers(&section);
        }
        let (account, secret, channel) = self.account_of(&section, &span, ours, is_direct);
        let issuers = self.issuers_of(&section, direction, claims, &domain);
        let kinds = [("netlogon", PeerKind::Netlogon), ("rcmpd", PeerKind::Rcmpd)];
        let foreign = [("refuse", ForeignSids::Refuse), ("drop", ForeignSids::Drop)];
        let kind = self.one_of(section.kind.as_ref(), &kinds, "kind").unwrap_or(PeerKind::Netlogon);
        let response_crypt = self.one_of(section.response_crypt.as_ref(), &RESPONSE_CRYPT, "response_crypt");
        let foreign_sids = self.one_of(section.foreign_sids.as_ref(), &foreign, "foreign_sids");
        let timeout = self.seconds(section.timeout_s.as_ref(), TIMEOUT_S, TIMEOUT_DEFAULT_S);
        let connections_max = self.count(section.connections_max.as_ref(), CONNECTIONS, CONNECTIONS_DEFAULT);
        let queue_max = self.count(section.queue_max.as_ref(), QUEUE, QUEUE_DEFAULT);
        let hedge = section.hedge_ms.as_ref().map(|ms| self.within(Some(ms), HEDGE_MS, "milliseconds", 1));
        let transit = section.transit.iter().map(|name| name.get_ref().to_uppercase()).collect();
        let proof_key = section.proof_key.as_ref().map(|path| self.path(path));
        CheckedPeer {
            peer: sid.map(|sid| Peer {
                domain: domain.clone(),
                sid,
                names,
                direction,
                servers,
                account,
                secret,
                channel,
                kind,
                transit,
                issuers,
                response_crypt: response_crypt.unwrap_or(ResponseCrypt::Auto),
                foreign_sids: foreign_sids.unwrap_or_default(),
                timeout,
                connections_max,
                queue_max,
                hedge: hedge.map(Duration::from_millis),
                proof_key,
            }),
            span,
            domain,
            direction,
            is_direct,
            via: section.via,
            transit: section.transit,
        }
    }

    fn names_of(&mut self, section: &PeerSection, claims: &mut Claims, domain: &str) -> Vec<String> {
        if section.names.get_ref().is_empty() {
            self.problem(
                section.names.span(),
                "names is an empty list, so no answer of this peer would be accepted",
                "name its DNS name, then its other UPN suffixes: names = [\"fabrikam.example\"]",
            );
        }
        let mut names = Vec::new();
        for name in section.names.get_ref() {
            let text = self.dns_name(name).to_lowercase();
            if names.is_empty() || !claims.share_suffixes {
                self.claim(claims, Claim::Name, text.clone(), name.span(), domain);
            }
            names.push(text);
        }
        names
    }

    fn refuse_keys_of_direct_peers(&mut self, section: &PeerSection) {
        for (key, place) in [
            ("secret", section.secret.as_ref().map(Spanned::span)),
            ("account", section.account.as_ref().map(Spanned::span)),
            ("channel", section.channel.as_ref().map(Spanned::span)),
            ("hedge_ms", section.hedge_ms.as_ref().map(Spanned::span)),
            ("response_crypt", section.response_crypt.as_ref().map(Spanned::span)),
            ("timeout_s", section.timeout_s.as_ref().map(Spanned::span)),
            ("connections_max", section.connections_max.as_ref().map(Spanned::span)),
            ("queue_max", section.queue_max.as_ref().map(Spanned::span)),
        ] {
            if let Some(place) = place {
                self.problem(
                    place,
                    format!("{key} is for peers that are asked directly"),
                    "remove it, or give the peer servers and direction = \"outbound\" or \"both\"",
                );
            }
        }
    }

    /// Our account at the peer, its secret and the type of its channel.
    fn account_of(
        &mut self,
        section: &PeerSection,
        span: &Range<usize>,
        ours: &OwnDomain,
        is_direct: bool,
    ) -> (String, Option<SecretRef>, ChannelKind) {
        let channel = self.one_of(section.channel.as_ref(), &CHANNELS, "channel");
        let secret = section.secret.as_ref().and_then(|secret| self.secret(secret)).filter(|_| is_direct);
        if is_direct && section.secret.is_none() {
            self.problem(
                span.clone(),
                "the secret of the account in that domain is missing",
                "name its file: secret = \"file:trusts/NAME.secret\"",
            );
        }
        let account =
            section.account.as_ref().map_or_else(|| format!("{}$", ours.netbios), |it| it.get_ref().clone());
        if let Some(given) = section.account.as_ref().filter(|_| !account.ends_with('$')) {
            self.problem(
                given.span(),
                "this is not an account of a trust or a machine",
                "its name ends in a dollar sign, as in \"CONTOSO$\"",
            );
        }
        (account, secret, channel.unwrap_or(ChannelKind::TrustedDomain))
    }

    fn issuers_of(
        &mut self,
        section: &PeerSection,
        direction: Direction,
        claims: &mut Claims,
        domain: &str,
    ) -> Vec<DistinguishedName> {
        if let Some(issuer) = section.issuers.first().filter(|_| !direction.asks()) {
            self.problem(
                issuer.span(),
                "this peer is not asked, so it answers for no certificate",
                "remove issuers, or set direction = \"outbound\" or \"both\"",
            );
        }
        let mut issuers = Vec::new();
        for issuer in &section.issuers {
            if let Some(name) = self.distinguished_name(issuer) {
                let key = name.key_by(account_store::fold::Comparison::Windows);
                self.claim(claims, Claim::Issuer, key, issuer.span(), domain);
                issuers.push(name);
            }
        }
        issuers
    }

    /// The servers: exactly one source of them for a peer that is asked, and none for others.
    fn servers_of(&mut self, section: &PeerSection, span: &Range<usize>, is_asked: bool) -> Option<Servers> {
        for (key, place) in [
            ("site", section.site.as_ref().map(Spanned::span)),
            ("dns", section.dns.as_ref().map(Spanned::span)),
        ] {
            if let Some(place) = place.filter(|_| section.discovery.is_none()) {
                self.problem(
                    place,
                    format!("{key} belongs to discovery"),
                    "set discovery = \"dns\", or remove it",
                );
            }
        }
        let given = [
            section.servers.as_ref().map(Spanned::span),
            section.discovery.as_ref().map(Spanned::span),
            section.via.as_ref().map(Spanned::span),
        ];
        let mut given = given.into_iter().flatten();
        match (is_asked, given.next(), given.next()) {
            (true, Some(_), None) => {}
            (true, None, _) => {
                self.problem(
                    span.clone(),
                    "this peer is asked, but it has no servers",
                    "name its servers, or set discovery = \"dns\", or via = the peer that questions are sent through",
                );
                return None;
            }
            (true, Some(_), Some(second)) => {
                self.problem(
                    second,
                    "this peer has two sources of servers",
                    "keep one of servers, discovery and via",
                );
                return None;
            }
            (false, None, _) => return None,
            (false, Some(place), _) => {
                self.problem(
                    place,
                    "this peer is not asked",
                    "remove it, or set direction = \"outbound\" or \"both\"",
                );
                return None;
            }
        }
        if let Some(via) = &section.via {
            return Some(Servers::Via(via.get_ref().to_uppercase()));
        }
        if let Some(servers) = &section.servers {
            return Some(Servers::Listed(self.hosts(servers)));
        }
        self.discovered(section.discovery.as_ref(), section.site.as_ref(), &section.dns)
    }

    fn discovered(
        &mut self,
        discovery: Option<&Spanned<String>>,
        site: Option<&Spanned<String>>,
        dns: &Option<Spanned<Vec<Spanned<String>>>>,
    ) -> Option<Servers> {
        self.one_of(discovery, &[("dns", ())], "discovery")?;
        let help = "name a DNS server, or remove the key: without it the resolver of the system is asked";
        let dns = self.restricting("dns", dns, help).iter();
        let dns = dns.filter_map(|address| self.address(address)).collect();
        if let Some(site) = site.filter(|site| !netlogon_tokio::is_label(site.get_ref())) {
            self.problem(
                site.span(),
                "this is not a site name",
                "write it as in \"Default-First-Site-Name\"",
            );
        }
        Some(Servers::Discovered { site: site.map(|site| site.get_ref().clone()), dns })
    }

    /// The servers of `[client]`.
    pub(super) fn servers_of_client(
        &mut self,
        section: &super::ClientSection,
        span: Range<usize>,
    ) -> Option<Servers> {
        let keys = [
            ("site", section.site.as_ref().map(Spanned::span)),
            ("dns", section.dns.as_ref().map(Spanned::span)),
        ];
        for (key, place) in keys {
            if let Some(place) = place.filter(|_| section.discovery.is_none()) {
                let help = "set discovery = \"dns\", or remove it";
                self.problem(place, format!("{key} belongs to discovery"), help);
            }
        }
        match (&section.server, &section.servers, &section.discovery) {
            (Some(server), None, None) => Some(Servers::Listed(vec![server.get_ref().clone()])),
            (None, Some(servers), None) => Some(Servers::Listed(self.hosts(servers))),
            (None, None, Some(_)) => {
                self.discovered(section.discovery.as_ref(), section.site.as_ref(), &section.dns)
            }
            (None, None, None) => {
                let help = "name it: server = \"HOST\" or servers = [\"HOST\", \"HOST:PORT\"], or set discovery = \"dns\"";
                self.problem(span, "[client] has no server", help);
                None
            }
            _ => {
                let help = "keep one of server, servers and discovery";
                self.problem(span, "[client] has two sources of servers", help);
                None
            }
        }
    }

    fn hosts(&mut self, servers: &Spanned<Vec<Spanned<String>>>) -> Vec<String> {
        if servers.get_ref().is_empty() {
            self.problem(servers.span(), "there are no servers", "name at least one: HOST or HOST:PORT");
        }
        for server in servers.get_ref() {
            let text = server.get_ref();
            let is_host =
                !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/');
            if !is_host {
                self.problem(
                    server.span(),
                    "this is not a server",
                    "write HOST or HOST:PORT; without a port, the port is looked up at its endpoint mapper",
                );
            }
        }
        servers.get_ref().iter().map(|server| server.get_ref().clone()).collect()
    }

    pub(super) fn relays(&mut self, sections: Vec<Spanned<RelaySection>>) -> Vec<Relay> {
        if let Some(one_more) = sections.get(ENTRIES_MAX) {
            self.problem(
                one_more.span(),
                "there are too many relays",
                format!("at most {ENTRIES_MAX} are served"),
            );
            return vec![];
        }
        let mut packages: Vec<String> = Vec::new();
        for section in &sections {
            let package = &section.get_ref().package;
            let name = package.get_ref().to_ascii_lowercase();
            if name.is_empty() || name == PACKAGE_NAME.to_ascii_lowercase() {
                self.problem(
                    package.span(),
                    "this package is answered here",
                    "relay others, such as \"Kerberos\"",
                );
            }
            if packages.contains(&name) {
                self.problem(
                    package.span(),
                    "another [[relay]] has this package",
                    "keep one [[relay]] for it, with all its servers",
                );
            }
            packages.push(name);
        }
        sections.into_iter().filter_map(|section| self.relay(section.into_inner())).collect()
    }

    fn relay(&mut self, section: RelaySection) -> Option<Relay> {
        if section.machines.get_ref().is_empty() {
            self.problem(
                section.machines.span(),
                "machines is an empty list, so no client may use this package",
                "name machine accounts: machines = [\"WEB01$\"]",
            );
        }
        for machine in section.machines.get_ref().iter().chain([&section.account]) {
            if !machine.get_ref().ends_with('$') {
                self.problem(
                    machine.span(),
                    "this is not a machine account",
                    "its name ends in a dollar sign, as in \"WEB01$\"",
                );
            }
        }
        // An answer of another package has no form by which noise could be told from it, so "auto" is not
        // possible.
        let response_crypt = match section.response_crypt.get_ref().as_str() {
            "auto" => {
                self.problem(
                    section.response_crypt.span(),
                    "\"auto\" is not possible for a relay: rcmpd cannot tell whether the answer is encrypted",
                    "use \"encrypt\" or \"plain\", as the domain controller does it",
                );
                None
            }
            _ => self.one_of(Some(&section.response_crypt), &RESPONSE_CRYPT[..2], "response_crypt"),
        };
        let channel = self.one_of(section.channel.as_ref(), &CHANNELS[..2], "channel");
        let servers = self.hosts(&section.servers);
        let secret = self.secret(&section.secret);
        let timeout = self.seconds(section.timeout_s.as_ref(), TIMEOUT_S, TIMEOUT_DEFAULT_S);
        let connections_max = self.count(section.connections_max.as_ref(), CONNECTIONS, CONNECTIONS_DEFAULT);
        let queue_max = self.count(section.queue_max.as_ref(), QUEUE, QUEUE_DEFAULT);
        Some(Relay {
            package: section.package.into_inner(),
            servers,
            account: section.account.into_inner(),
            secret: secret?,
            channel: channel.unwrap_or(ChannelKind::Workstation),
            machines: section.machines.get_ref().iter().map(|machine| casefold(machine.get_ref())).collect(),
            response_crypt: response_crypt?,
            timeout,
            connections_max,
            queue_max,
        })
    }

    pub(super) fn forward(&mut self, section: ForwardSection) -> Forward {
        let most = rcmp_service::context::HOPS_MAX as u64;
        Forward {
            hops_max: self.count(section.hops_max.as_ref(), 1..=most, 4),
            proof_key: section.proof_key.map(|path| self.path(&path)),
        }
    }

    fn claim(&mut self, claims: &mut Claims, of: Claim, what: String, place: Range<usize>, domain: &str) {
        match claims.by.get(&(of, what.clone())) {
            // The NetBIOS name and a DNS name of one domain may be equal.
            Some((section, _)) if *section == claims.section && of == Claim::Name => {}
            Some((_, other)) => self.problem(
                place,
                format!("{other} already has {}", of.text()),
                "each name, SID and issuer belongs to one domain: with a shared one, each domain could answer for accounts of the other",
            ),
            None => {
                claims.by.insert((of, what), (claims.section, domain.to_owned()));
            }
        }
    }
}

/// What belongs to one domain only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Claim {
    Name,
    Sid,
    Issuer,
}

impl Claim {
    const fn text(self) -> &'static str {
        match self {
            Self::Name => "this name",
            Self::Sid => "this SID",
            Self::Issuer => "this issuer",
        }
    }
}

/// Names, SIDs and issuers with the section of the file and the domain that has them. The served domain is
/// section 0.
#[derive(Default)]
pub(super) struct Claims {
    by: HashMap<(Claim, String), (usize, String)>,
    section: usize,
    /// Whether domains may have the same suffixes beside their DNS names.
    share_suffixes: bool,
}

impl Claims {
    fn new(ours: &OwnDomain) -> Self {
        let own = || (0, format!("{} (this domain)", ours.netbios));
        let name = |name: &str| ((Claim::Name, name.to_lowercase()), own());
        let mut by: HashMap<_, _> = [name(&ours.netbios), name(&ours.dns)].into();
        by.extend(ours.sid.map(|sid| ((Claim::Sid, sid.to_string()), own())));
        Self { by, section: 0, share_suffixes: true }
    }
}
