//! `[[peer]]`, `[[relay]]` and `[forward]`: the other domains, what is relayed to our own, and how questions are sent on.

use super::{Checker, SecretRef};
use account_store::fold::casefold;
use account_store::{ChannelKind, DistinguishedName, Domain};
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

/// Peers and relays in one file: each costs connections and a look at every question.
const ENTRIES_MAX: usize = 256;

/// Who asks whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The peer asks us.
    Inbound,
    /// We ask the peer.
    Outbound,
    /// Each asks the other.
    Both,
}

/// What a peer's servers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerKind {
    /// Any Netlogon server.
    Netlogon,
    /// A node of ours: it understands what is sent beside a call.
    Rcmpd,
}

/// Whether ValidationData of a server's answers is encrypted inside the seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseCrypt {
    /// It is ([MS-NRPC] 4.1).
    Encrypt,
    /// It is not.
    Plain,
    /// Whichever makes an answer of it.
    Auto,
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
        /// Who is asked; the system's resolver when there is none.
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
    /// DNS names that are its own, its DNS name first: lower case, without a dot at the end.
    pub names: Vec<String>,
    /// Who asks whom.
    pub direction: Direction,
    /// Its servers, where it is asked.
    pub servers: Option<Servers>,
    /// Our account at its domain.
    pub account: String,
    /// The account's secret, where it is asked directly.
    pub secret: Option<SecretRef>,
    /// The type of channel that the account is for.
    pub channel: ChannelKind,
    /// What its servers are.
    pub kind: PeerKind,
    /// NetBIOS names of other peers about which it may ask through us.
    pub transit: Vec<String>,
    /// Issuers whose certificates it answers for.
    pub issuers: Vec<DistinguishedName>,
    /// Whether its answers are encrypted inside.
    pub response_crypt: ResponseCrypt,
    /// What becomes of answers with SIDs of third domains.
    pub foreign_sids: ForeignSids,
    /// For a question in all.
    pub timeout: Duration,
    /// Connections to each server.
    pub connections_max: usize,
    /// Questions that wait for one.
    pub queue_max: usize,
    /// After how long a second server is asked too.
    pub hedge: Option<Duration>,
    /// The public key that signs its hops in a proof of path.
    pub proof_key: Option<PathBuf>,
}

impl Peer {
    /// Whether we ask it.
    pub const fn is_asked(&self) -> bool {
        matches!(self.direction, Direction::Outbound | Direction::Both)
    }

    /// Whether it asks us.
    pub const fn may_ask(&self) -> bool {
        matches!(self.direction, Direction::Inbound | Direction::Both)
    }
}

/// `[[relay]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// PackageName.
    pub package: String,
    /// Domain controllers of our own domain.
    pub servers: Vec<String>,
    /// Our account there.
    pub account: String,
    /// Its secret.
    pub secret: SecretRef,
    /// The type of channel that the account is for.
    pub channel: ChannelKind,
    /// Machine accounts that may use the package.
    pub machines: Vec<String>,
    /// Whether answers are encrypted inside; never to be guessed, for nobody here can tell an answer from noise.
    pub response_crypt: ResponseCrypt,
    /// For a call in all.
    pub timeout: Duration,
    /// Connections to each server.
    pub connections_max: usize,
    /// Calls that wait for one.
    pub queue_max: usize,
}

/// `[forward]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Domains that a question may pass before the one that answers.
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
    domain: Spanned<String>,
    sid: Spanned<String>,
    names: Spanned<Vec<Spanned<String>>>,
    direction: Spanned<String>,
    servers: Option<Spanned<Vec<Spanned<String>>>>,
    discovery: Option<Spanned<String>>,
    site: Option<Spanned<String>>,
    dns: Option<Spanned<Vec<Spanned<String>>>>,
    account: Option<Spanned<String>>,
    secret: Option<Spanned<String>>,
    channel: Option<Spanned<String>>,
    kind: Option<Spanned<String>>,
    via: Option<Spanned<String>>,
    #[serde(default)]
    transit: Vec<Spanned<String>>,
    #[serde(default)]
    issuers: Vec<Spanned<String>>,
    response_crypt: Option<Spanned<String>>,
    foreign_sids: Option<Spanned<String>>,
    timeout_s: Option<Spanned<u64>>,
    connections_max: Option<Spanned<u64>>,
    queue_max: Option<Spanned<u64>>,
    hedge_ms: Option<Spanned<u64>>,
    proof_key: Option<PathBuf>,
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
const CONNECTIONS: RangeInclusive<u64> = 1..=256;
const QUEUE: RangeInclusive<u64> = 0..=65_536;

const CHANNELS: [(&str, ChannelKind); 4] = [
    ("workstation", ChannelKind::Workstation),
    ("server", ChannelKind::Server),
    ("trusted_domain", ChannelKind::TrustedDomain),
    ("trusted_dns_domain", ChannelKind::TrustedDnsDomain),
];
const RESPONSE_CRYPT: [(&str, ResponseCrypt); 3] =
    [("encrypt", ResponseCrypt::Encrypt), ("plain", ResponseCrypt::Plain), ("auto", ResponseCrypt::Auto)];

impl Checker<'_> {
    pub(super) fn peers(&mut self, sections: Vec<Spanned<PeerSection>>, ours: &Domain) -> Vec<Peer> {
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
            let span = section.span();
            claims.section += 1;
            let section = section.into_inner();
            let (via, transit) = (section.via.clone(), section.transit.clone());
            let peer = self.peer(section, &span, ours, &mut claims);
            checked.push((peer, span, via, transit));
        }
        for (peer, span, via, transit) in &checked {
            let named = |name: &Spanned<String>| {
                checked
                    .iter()
                    .map(|(other, ..)| other)
                    .find(|other| other.domain == name.get_ref().to_uppercase())
            };
            if let Some(via) = via {
                let is_direct = |other: &Peer| {
                    other.is_asked()
                        && matches!(other.servers, Some(Servers::Listed(_) | Servers::Discovered { .. }))
                };
                if !named(via).is_some_and(is_direct) {
                    self.problem(
                        via.span(),
                        "this is no peer that is asked directly",
                        "name the peer that is asked in its place; it must be outbound and have servers of its own",
                    );
                }
            }
            for name in transit {
                if !named(name).is_some_and(|other| other.is_asked() && other.domain != peer.domain) {
                    self.problem(
                        name.span(),
                        "this is no other peer that is asked",
                        "name domains that have a [[peer]] with direction \"outbound\" or \"both\"",
                    );
                }
            }
            if !transit.is_empty() && !peer.may_ask() {
                self.problem(
                    span.clone(),
                    "this peer does not ask, so it has no transit",
                    "remove transit, or say direction = \"inbound\" or \"both\"",
                );
            }
        }
        checked.into_iter().map(|(peer, ..)| peer).collect()
    }

    fn peer(
        &mut self,
        section: PeerSection,
        span: &Range<usize>,
        ours: &Domain,
        claims: &mut Claims,
    ) -> Peer {
        let domain = self.netbios(&section.domain);
        self.claim(claims, Claim::Name, domain.to_lowercase(), section.domain.span(), &domain);
        let sid = self.domain_sid(&section.sid);
        self.claim(claims, Claim::Sid, sid.to_string(), section.sid.span(), &domain);
        if section.names.get_ref().is_empty() {
            self.problem(
                section.names.span(),
                "a peer without names may say nothing",
                "name its DNS name, then its other suffixes of user principal names: names = [\"fabrikam.example\"]",
            );
        }
        let mut names = Vec::new();
        for name in section.names.get_ref() {
            let text = self.dns_name(name).to_lowercase();
            self.claim(claims, Claim::Name, text.clone(), name.span(), &domain);
            names.push(text);
        }
        let direction = self.one_of(
            Some(&section.direction),
            &[("outbound", Direction::Outbound), ("inbound", Direction::Inbound), ("both", Direction::Both)],
            "direction",
        );
        let direction = direction.unwrap_or(Direction::Inbound);
        let is_asked = direction != Direction::Inbound;
        let channel =
            self.one_of(section.channel.as_ref(), &CHANNELS, "channel").unwrap_or(ChannelKind::TrustedDomain);
        let servers = self.servers_of(&section, span, is_asked);
        let is_direct = matches!(servers, Some(Servers::Listed(_) | Servers::Discovered { .. }));
        let secret = section.secret.as_ref().map(|secret| self.secret(secret));
        if is_direct && secret.is_none() {
            self.problem(
                span.clone(),
                "the secret of our account there is missing",
                "say where it is: secret = \"file:trusts/NAME.secret\"",
            );
        }
        if !is_direct {
            let useless = [
                ("secret", section.secret.as_ref().map(Spanned::span)),
                ("account", section.account.as_ref().map(Spanned::span)),
                ("channel", section.channel.as_ref().map(Spanned::span)),
                ("hedge_ms", section.hedge_ms.as_ref().map(Spanned::span)),
                ("response_crypt", section.response_crypt.as_ref().map(Spanned::span)),
                ("timeout_s", section.timeout_s.as_ref().map(Spanned::span)),
                ("connections_max", section.connections_max.as_ref().map(Spanned::span)),
                ("queue_max", section.queue_max.as_ref().map(Spanned::span)),
            ];
            for (key, place) in useless {
                if let Some(place) = place {
                    self.problem(
                        place,
                        format!("{key} is for peers that are asked directly"),
                        "remove it, or give the peer servers and direction = \"outbound\" or \"both\"",
                    );
                }
            }
        }
        let account = section
            .account
            .as_ref()
            .map_or_else(|| format!("{}$", ours.netbios), |account| account.get_ref().clone());
        if let Some(given) = section.account.as_ref().filter(|_| !account.ends_with('$')) {
            self.problem(
                given.span(),
                "this is not an account of a trust or a machine",
                "its name ends in a dollar sign, as in \"CONTOSO$\"",
            );
        }
        if let Some(issuer) = section.issuers.first().filter(|_| !is_asked) {
            self.problem(
                issuer.span(),
                "this peer is not asked, so no certificate is its own to answer for",
                "remove issuers, or say direction = \"outbound\" or \"both\"",
            );
        }
        let mut issuers = Vec::new();
        for issuer in &section.issuers {
            match issuer.get_ref().parse::<DistinguishedName>() {
                Ok(name) => {
                    let key = name.key_by(account_store::fold::Comparison::Windows);
                    self.claim(claims, Claim::Issuer, key, issuer.span(), &domain);
                    issuers.push(name);
                }
                Err(error) => self.problem(
                    issuer.span(),
                    format!("this is not a distinguished name: {error}"),
                    "write it as the certificate has it, the country first: \"C=US,O=Partners,CN=Partner CA\"",
                ),
            }
        }
        Peer {
            domain,
            sid,
            names,
            direction,
            servers,
            account,
            secret: secret.filter(|_| is_direct),
            channel,
            kind: self
                .one_of(
                    section.kind.as_ref(),
                    &[("netlogon", PeerKind::Netlogon), ("rcmpd", PeerKind::Rcmpd)],
                    "kind",
                )
                .unwrap_or(PeerKind::Netlogon),
            transit: section.transit.iter().map(|name| name.get_ref().to_uppercase()).collect(),
            issuers,
            response_crypt: self
                .one_of(section.response_crypt.as_ref(), &RESPONSE_CRYPT, "response_crypt")
                .unwrap_or(ResponseCrypt::Auto),
            foreign_sids: self
                .one_of(
                    section.foreign_sids.as_ref(),
                    &[("refuse", ForeignSids::Refuse), ("drop", ForeignSids::Drop)],
                    "foreign_sids",
                )
                .unwrap_or_default(),
            timeout: Duration::from_secs(self.within(section.timeout_s.as_ref(), TIMEOUT_S, 10)),
            connections_max: self.within(section.connections_max.as_ref(), CONNECTIONS, 8) as usize,
            queue_max: self.within(section.queue_max.as_ref(), QUEUE, 256) as usize,
            hedge: section
                .hedge_ms
                .as_ref()
                .map(|ms| Duration::from_millis(self.within(Some(ms), 1..=60_000, 1))),
            proof_key: section.proof_key.map(|path| self.path(&path)),
        }
    }

    /// Exactly one way to a peer that is asked, and none to one that is not.
    fn servers_of(&mut self, section: &PeerSection, span: &Range<usize>, is_asked: bool) -> Option<Servers> {
        for (key, place) in [
            ("site", section.site.as_ref().map(Spanned::span)),
            ("dns", section.dns.as_ref().map(Spanned::span)),
        ] {
            if let Some(place) = place.filter(|_| section.discovery.is_none()) {
                self.problem(
                    place,
                    format!("{key} belongs to discovery"),
                    "say discovery = \"dns\", or remove it",
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
                    "it is not said where to ask this peer",
                    "name its servers, or say discovery = \"dns\", or via = the peer that is asked in its place",
                );
                return None;
            }
            (true, Some(_), Some(second)) => {
                self.problem(
                    second,
                    "there are two ways to this peer",
                    "keep one of servers, discovery and via",
                );
                return None;
            }
            (false, None, _) => return None,
            (false, Some(place), _) => {
                self.problem(
                    place,
                    "this peer is not asked",
                    "remove it, or say direction = \"outbound\" or \"both\"",
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
        self.one_of(section.discovery.as_ref(), &[("dns", ())], "discovery")?;
        let help = "name a DNS server, or remove the key: without it the resolver of the system is asked";
        let dns = self.restricting("dns", &section.dns, help).iter();
        let dns = dns.filter_map(|address| self.address(address)).collect();
        if let Some(site) = section.site.as_ref().filter(|site| !netlogon_tokio::is_label(site.get_ref())) {
            self.problem(
                site.span(),
                "this is not the name of a site",
                "write it as in \"Default-First-Site-Name\"",
            );
        }
        Some(Servers::Discovered { site: section.site.as_ref().map(|site| site.get_ref().clone()), dns })
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
                    "write HOST or HOST:PORT; without a port its endpoint mapper is asked",
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
        sections
            .into_iter()
            .map(|section| {
                let section = section.into_inner();
                let name = section.package.get_ref().to_ascii_lowercase();
                if name.is_empty() || name == PACKAGE_NAME.to_ascii_lowercase() {
                    self.problem(
                        section.package.span(),
                        "this package is answered here",
                        "relay others, such as \"Kerberos\"",
                    );
                }
                if packages.contains(&name) {
                    self.problem(
                        section.package.span(),
                        "this package is relayed already",
                        "keep one [[relay]] for it, with all its servers",
                    );
                }
                packages.push(name);
                if section.machines.get_ref().is_empty() {
                    self.problem(
                        section.machines.span(),
                        "nobody may use this package",
                        "name machine accounts: machines = [\"WEB01$\"]",
                    );
                }
                for machine in section.machines.get_ref() {
                    if !machine.get_ref().ends_with('$') {
                        self.problem(
                            machine.span(),
                            "this is not a machine account",
                            "its name ends in a dollar sign, as in \"WEB01$\"",
                        );
                    }
                }
                if !section.account.get_ref().ends_with('$') {
                    self.problem(
                        section.account.span(),
                        "this is not a machine account",
                        "its name ends in a dollar sign, as in \"RCMPD$\"",
                    );
                }
                let channel = self
                    .one_of(section.channel.as_ref(), &CHANNELS[..2], "channel")
                    .unwrap_or(ChannelKind::Workstation);
                if section.response_crypt.get_ref() == "auto" {
                    self.problem(
                        section.response_crypt.span(),
                        "what a package answers cannot be told from what it looks like encrypted",
                        "say \"encrypt\" or \"plain\", as the domain controller does it",
                    );
                }
                Relay {
                    package: section.package.get_ref().clone(),
                    servers: self.hosts(&section.servers),
                    account: section.account.get_ref().clone(),
                    secret: self.secret(&section.secret),
                    channel,
                    machines: section
                        .machines
                        .get_ref()
                        .iter()
                        .map(|machine| casefold(machine.get_ref()))
                        .collect(),
                    response_crypt: self
                        .one_of(Some(&section.response_crypt), &RESPONSE_CRYPT, "response_crypt")
                        .unwrap_or(ResponseCrypt::Encrypt),
                    timeout: Duration::from_secs(self.within(section.timeout_s.as_ref(), TIMEOUT_S, 10)),
                    connections_max: self.within(section.connections_max.as_ref(), CONNECTIONS, 8) as usize,
                    queue_max: self.within(section.queue_max.as_ref(), QUEUE, 256) as usize,
                }
            })
            .collect()
    }

    pub(super) fn forward(&mut self, section: ForwardSection) -> Forward {
        let most = rcmp_service::context::HOPS_MAX as u64;
        Forward {
            hops_max: self.within(section.hops_max.as_ref(), 1..=most, 4) as usize,
            proof_key: section.proof_key.map(|path| self.path(&path)),
        }
    }

    fn claim(&mut self, claims: &mut Claims, of: Claim, what: String, place: Range<usize>, domain: &str) {
        match claims.by.get(&(of, what.clone())) {
            // A domain may be called the same twice.
            Some((section, _)) if *section == claims.section && of == Claim::Name => {}
            Some((_, other)) => self.problem(
                place,
                format!("{} is claimed by {other} already", of.text()),
                "each name, SID and issuer belongs to one domain: what two claim, either could say of the other's accounts",
            ),
            None => {
                claims.by.insert((of, what), (claims.section, domain.to_owned()));
            }
        }
    }
}

/// What only one domain may have.
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

/// What is claimed, by which section of the file and which domain. Our own domain is section 0.
struct Claims {
    by: HashMap<(Claim, String), (usize, String)>,
    section: usize,
}

impl Claims {
    fn new(ours: &Domain) -> Self {
        let own = || (0, format!("{} (this domain)", ours.netbios));
        let name = |name: &str| ((Claim::Name, name.to_lowercase()), own());
        let mut by: HashMap<_, _> = [name(&ours.netbios), name(&ours.dns)].into();
        by.insert((Claim::Sid, ours.sid.to_string()), own());
        Self { by, section: 0 }
    }
}
