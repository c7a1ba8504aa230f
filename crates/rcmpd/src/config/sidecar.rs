//! `[sidecar]`: listeners for web servers, routes, identity headers and tokens.

use super::{Checker, Client, Mapping, SecretRef, Store, StoreKind};
use dtyp::Sid;
use http::HeaderName;
use rcmp_service::message::MappingFlags;
use rcmp_service::{Method, Validation, has_method};
use rustls_pki_types::ServerName;
use serde::Deserialize;
use sidecar::CookieName;
use sidecar::dialect::{Dialect, Target};
use sidecar::headers::{
    Encoding, Format, GroupForm, Meaning, Preset, UserForm, VALUE_LEN_DEFAULT, custom_name,
};
use sidecar::routes::{Route, route_audience, route_host, route_path};
pub use sidecar_tokio::settings::{
    Application, ListenTls, Place, SocketGroup, Speaks, UnixPlace, UpstreamPlace, UpstreamProtocol,
    UpstreamTls,
};
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

/// The mode of a Unix socket: a local user who cannot connect to it cannot fill its backlog either.
const SOCKET_MODE: u32 = 0o660;
/// Listeners and routes in one file.
const ENTRIES_MAX: usize = 1024;

/// `[sidecar]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar {
    /// Where accounts come from.
    pub source: Source,
    /// The methods of a question (Flags of SSL_CERT_LOGON_REQ, [MS-RCMP] 2.2.1).
    pub methods: MappingFlags,
    /// Listeners for proxies.
    pub listen: Vec<Listen>,
    /// Its own TLS-terminating proxy.
    pub proxy: Option<Proxy>,
    /// Which accounts may use which paths.
    pub routes: Vec<Route>,
    /// The identity headers.
    pub format: Format,
    /// Signed identity tokens.
    pub token: Option<Token>,
    /// Tickets of the farm in cookies.
    pub ticket: Option<Ticket>,
    /// References that all nodes know.
    pub reference: Option<Reference>,
    /// How long a decision is cached.
    pub remember: Duration,
    /// Limit of cached decisions.
    pub remembered_max: usize,
    /// Timeout of a question over Netlogon.
    pub timeout: Duration,
}

/// `source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// This process: `[store]` and `[[peer]]`.
    Embedded,
    /// A service or a domain controller: `[client]`.
    Remote,
}

/// `[[sidecar.listen]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Everything but the secret.
    pub settings: sidecar_tokio::settings::Listen,
    /// What a proxy has to show.
    pub secret: Option<SecretRef>,
}

impl Listen {
    /// Whether an answer can set a cookie in the client.
    fn sets_cookies(&self) -> bool {
        let is_asked = matches!(self.settings.speaks, Speaks::Http(Dialect::Nginx) | Speaks::EnvoyGrpc);
        is_asked || self.settings.upstream.is_some()
    }
}

/// `[sidecar.proxy]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Address and port on which the TLS-terminating proxy accepts clients.
    pub listen: SocketAddr,
    /// The certificate with its chain.
    pub certificate: PathBuf,
    /// The private key of the certificate: a PEM file.
    pub key: PathBuf,
    /// The application.
    pub upstream: Application,
    /// Whether a client without a certificate reaches the application, without an identity.
    pub anonymous: bool,
}

/// `[sidecar.token]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// An Ed25519 or P-256 key in PKCS#8.
    pub key: PathBuf,
    /// Public keys that are published beside it: the next one, and the previous one.
    pub published: Vec<PathBuf>,
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// How long a token counts.
    pub lifetime: Duration,
}

/// `[sidecar.ticket]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Lines of roots, as `rcmpd sidecar ticket-key` writes them.
    pub keys: Vec<SecretRef>,
    /// The generation that seals; the highest one if it is not named.
    pub seal_with: Option<u32>,
    /// The name of the farm.
    pub audience: ticket::Name,
    /// What the operator calls the scope that the machine accounts of all nodes have. Without it the nodes
    /// have one account.
    pub scope: Option<ticket::Name>,
    /// The cookie.
    pub cookie: CookieName,
    /// How long a ticket counts.
    pub lifetime: Duration,
}

/// `[sidecar.reference]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Lines of roots, as `rcmpd sidecar ticket-key` writes them.
    pub keys: Vec<SecretRef>,
    /// The generation that seals; the highest one if it is not named.
    pub seal_with: Option<u32>,
    /// The name of the nodes.
    pub audience: ticket::Name,
    /// How long a reference counts.
    pub lifetime: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    source: Option<Spanned<String>>,
    methods: Option<Spanned<Vec<Spanned<String>>>>,
    validation: Option<Spanned<String>>,
    headers: Option<Spanned<String>>,
    #[serde(default)]
    header_names: BTreeMap<Spanned<String>, Spanned<String>>,
    user: Option<Spanned<String>>,
    groups: Option<Spanned<String>>,
    #[serde(default)]
    group_names: BTreeMap<Spanned<String>, String>,
    encoding: Option<Spanned<String>>,
    header_len_max: Option<Spanned<u64>>,
    remember_s: Option<Spanned<u64>>,
    remembered_max: Option<Spanned<u64>>,
    timeout_s: Option<Spanned<u64>>,
    #[serde(default)]
    listen: Vec<Spanned<ListenSection>>,
    route: Option<Vec<Spanned<RouteSection>>>,
    proxy: Option<ProxySection>,
    token: Option<TokenSection>,
    ticket: Option<Spanned<TicketSection>>,
    reference: Option<ReferenceSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenSection {
    dialect: Spanned<String>,
    address: Option<Spanned<String>>,
    unix: Option<Spanned<PathBuf>>,
    mode: Option<Spanned<String>>,
    group: Option<Spanned<String>>,
    peers: Option<Spanned<Vec<Spanned<String>>>>,
    secret: Option<Spanned<String>>,
    tls: Option<Spanned<ListenTlsSection>>,
    upstream: Option<Spanned<String>>,
    upstream_ca: Option<Spanned<PathBuf>>,
    upstream_name: Option<Spanned<String>>,
    upstream_certificate: Option<Spanned<PathBuf>>,
    upstream_key: Option<Spanned<PathBuf>>,
    upstream_protocol: Option<Spanned<String>>,
    target: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenTlsSection {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: PathBuf,
    names: Spanned<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteSection {
    host: Option<Spanned<String>>,
    path: Option<Spanned<String>>,
    groups: Option<Spanned<Vec<Spanned<String>>>>,
    sids: Option<Spanned<Vec<Spanned<String>>>>,
    domains: Option<Spanned<Vec<Spanned<String>>>>,
    strength: Option<Spanned<String>>,
    audience: Option<Spanned<String>>,
    anonymous: Option<Spanned<bool>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProxySection {
    listen: Spanned<String>,
    certificate: PathBuf,
    key: PathBuf,
    upstream: Spanned<String>,
    upstream_ca: Option<Spanned<PathBuf>>,
    upstream_name: Option<Spanned<String>>,
    upstream_certificate: Option<Spanned<PathBuf>>,
    upstream_key: Option<Spanned<PathBuf>>,
    upstream_protocol: Option<Spanned<String>>,
    client_certificates: Option<Spanned<String>>,
}

/// The keys beside `upstream`.
struct UpstreamKeys<'a> {
    ca: Option<&'a Spanned<PathBuf>>,
    name: Option<&'a Spanned<String>>,
    certificate: Option<&'a Spanned<PathBuf>>,
    key: Option<&'a Spanned<PathBuf>>,
    protocol: Option<&'a Spanned<String>>,
}

impl UpstreamKeys<'_> {
    /// Those of TLS that are there.
    fn of_tls(&self) -> impl Iterator<Item = Range<usize>> {
        let paths = [self.ca, self.certificate, self.key].into_iter().flatten().map(Spanned::span);
        paths.chain(self.name.map(Spanned::span))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenSection {
    key: PathBuf,
    published: Option<Spanned<Vec<PathBuf>>>,
    issuer: Spanned<String>,
    audience: Spanned<String>,
    lifetime_s: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TicketSection {
    keys: Spanned<Vec<Spanned<String>>>,
    seal_with: Option<u32>,
    audience: Spanned<String>,
    scope: Option<Spanned<String>>,
    cookie: Option<Spanned<String>>,
    lifetime_s: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReferenceSection {
    keys: Spanned<Vec<Spanned<String>>>,
    seal_with: Option<u32>,
    audience: Spanned<String>,
    lifetime_s: Option<Spanned<u64>>,
}

/// The default of sidecar.methods: methods that need only the names in the certificate of the client.
pub const SIDECAR_METHODS: MappingFlags = Method::Upn.flag().with(Method::Subject.flag());
/// Where a route names groups, SIDs and domains, which may not exist.
struct RouteSpans {
    /// The first group that is named and not written as a SID.
    group: Option<(String, Range<usize>)>,
    domains: Vec<Range<usize>>,
    sids: Vec<(Sid, Range<usize>)>,
    strength: Option<Range<usize>>,
}

impl RouteSpans {
    fn of(section: &RouteSection) -> Self {
        let is_named = |group: &&Spanned<String>| !group.get_ref().starts_with("S-1-");
        let group = entries(&section.groups).iter().find(is_named);
        let sids = entries(&section.sids).iter().chain(entries(&section.groups));
        Self {
            group: group.map(|group| (group.get_ref().clone(), group.span())),
            domains: entries(&section.domains).iter().map(Spanned::span).collect(),
            sids: sids.filter_map(|sid| Some((sid.get_ref().parse().ok()?, sid.span()))).collect(),
            strength: section.strength.as_ref().map(Spanned::span),
        }
    }
}

/// The entries of a list, or none without the key.
fn entries<T>(list: &Option<Spanned<Vec<T>>>) -> &[T] {
    list.as_ref().map_or(&[], |list| list.get_ref())
}

pub(super) const SOURCES: [(&str, Source); 2] = [("embedded", Source::Embedded), ("remote", Source::Remote)];
pub(super) const PRESETS: [(&str, Preset); 4] = [
    ("remote", Preset::Remote),
    ("x-forwarded", Preset::Forwarded),
    ("lookup-identity", Preset::LookupIdentity),
    ("none", Preset::None),
];
pub(super) const USERS: [(&str, UserForm); 3] =
    [("domain", UserForm::Domain), ("upn", UserForm::Upn), ("plain", UserForm::Plain)];
pub(super) const GROUPS: [(&str, GroupForm); 2] = [("names", GroupForm::Names), ("sids", GroupForm::Sids)];
pub(super) const ENCODINGS: [(&str, Encoding); 3] =
    [("percent", Encoding::Percent), ("utf-8", Encoding::Utf8), ("structured", Encoding::Structured)];
pub(super) const SPEAKS: [(&str, Speaks); 8] = [
    ("nginx", Speaks::Http(Dialect::Nginx)),
    ("traefik", Speaks::Http(Dialect::Traefik)),
    ("caddy", Speaks::Http(Dialect::Caddy)),
    ("haproxy", Speaks::Http(Dialect::Haproxy)),
    ("apache", Speaks::Http(Dialect::Apache)),
    ("envoy", Speaks::Http(Dialect::Envoy)),
    ("client-cert", Speaks::Http(Dialect::ClientCert)),
    ("envoy-grpc", Speaks::EnvoyGrpc),
];
pub(super) const TARGETS: [(&str, Target); 3] =
    [("request", Target::Request), ("x-original", Target::XOriginal), ("x-forwarded", Target::XForwarded)];
/// Help for an empty list of a route.
const ROUTE_OPEN: &str = "name at least one, or remove the key: a route without groups, sids and domains lets every mapped account in";
pub(super) const STRENGTHS: [(&str, bool); 2] = [("any", false), ("strong", true)];
pub(super) const PROTOCOLS: [(&str, UpstreamProtocol); 2] =
    [("http/1.1", UpstreamProtocol::Http1), ("h2", UpstreamProtocol::Http2)];
pub(super) const CLIENT_CERTIFICATES: [(&str, bool); 2] = [("required", false), ("optional", true)];
const HEADER_LEN: RangeInclusive<u64> = 256..=16_384;
const REMEMBER_S: RangeInclusive<u64> = 0..=3600;
const REMEMBERED: RangeInclusive<u64> = 1..=1_000_000;
const TIMEOUT_S: RangeInclusive<u64> = 1..=120;
/// Keys that are published beside the one that signs: applications read the set often.
const PUBLISHED_MAX: usize = 16;
const LIFETIME_S: RangeInclusive<u64> = 10..=3600;
/// The default of sidecar.ticket.cookie.
const COOKIE: &str = "__Host-rcmpd";

/// Other sections that a sidecar needs.
pub(super) struct SidecarContext<'a> {
    pub(super) mapping: Option<&'a Mapping>,
    /// Whether there is a `[store]`; if it is wrong, `store` is none.
    pub(super) has_store: bool,
    pub(super) store: Option<&'a Store>,
    /// Whether there is a `[client]`; if it is wrong, `client` is none.
    pub(super) has_client: bool,
    pub(super) client: Option<&'a Client>,
    /// NetBIOS names of peers.
    pub(super) peers: &'a [String],
    /// NetBIOS name of `[domain]`.
    pub(super) domain: &'a str,
}

impl SidecarContext<'_> {
    /// Whether every account that can be found is one of `[[store.level]]`.
    fn knows_issuers_alone(&self) -> bool {
        let is_profile = self.store.is_some_and(|store| matches!(store.kind, StoreKind::Profile(_)));
        is_profile && self.peers.is_empty()
    }
}

impl Checker<'_> {
    pub(super) fn sidecar(&mut self, section: Spanned<Section>, beside: &SidecarContext<'_>) -> Sidecar {
        let span = section.span();
        let section = section.into_inner();
        let source = self.one_of(section.source.as_ref(), &SOURCES, "source").unwrap_or(Source::Embedded);
        let is_off = self.sidecar_needs(&section, &span, source, beside);
        if section.listen.is_empty() && section.proxy.is_none() {
            self.problem(
                span.clone(),
                "this sidecar has no listener",
                "add [[sidecar.listen]] or [sidecar.proxy]",
            );
        }
        let routes = section.route.as_deref();
        if routes.is_some_and(<[_]>::is_empty) {
            let help = "write a [[sidecar.route]], or remove the key: without routes every mapped account is allowed";
            self.problem(span.clone(), "route is an empty list", help);
        }
        if section.listen.len() > ENTRIES_MAX || routes.is_some_and(|routes| routes.len() > ENTRIES_MAX) {
            self.problem(
                0..0,
                "there are too many listeners or routes",
                format!("at most {ENTRIES_MAX} each are served"),
            );
        }
        if let Some(proxy) = section.proxy.as_ref().filter(|_| is_off) {
            self.problem(
                proxy.listen.span(),
                "any certificate would be accepted",
                "validate certificates: validation = \"chain\" and anchors in [mapping]",
            );
        }
        let methods = self.sidecar_methods(&section, &span, source, beside);
        let format = self.format(&section);
        let proxy = section.proxy.and_then(|proxy| self.proxy(proxy));
        let has_anonymous = proxy.as_ref().is_some_and(|proxy| proxy.anonymous);
        let mut places = HashSet::new();
        let listen = section.listen.into_iter().filter_map(|listen| {
            let span = listen.span();
            let listen = self.sidecar_listen(listen.into_inner(), &span, is_off)?;
            if let Place::Unix(socket) = &listen.settings.at
                && !places.insert(socket.path.clone())
            {
                self.problem(span, "another listener has this path", "choose another path");
            }
            Some(listen)
        });
        let listen: Vec<Listen> = listen.collect();
        let ticket = section.ticket.and_then(|ticket| {
            let sets_cookies = proxy.is_some() || listen.iter().any(Listen::sets_cookies);
            self.ticket(ticket, source, is_off, sets_cookies)
        });
        Sidecar {
            source,
            methods,
            listen,
            routes: self.routes(
                section.route.unwrap_or_default(),
                &format,
                (has_anonymous, section.token.is_some()),
                source,
                beside,
            ),
            proxy,
            format,
            token: section.token.map(|token| self.token(token)),
            ticket,
            reference: section.reference.and_then(|reference| self.reference(reference)),
            remember: self.seconds(section.remember_s.as_ref(), REMEMBER_S, 60),
            remembered_max: self.count(section.remembered_max.as_ref(), REMEMBERED, 10_000),
            timeout: self.seconds(section.timeout_s.as_ref(), TIMEOUT_S, 10),
        }
    }

    /// Checks the other sections that the sidecar needs. Returns true if certificates are not validated here.
    fn sidecar_needs(
        &mut self,
        section: &Section,
        span: &Range<usize>,
        source: Source,
        beside: &SidecarContext<'_>,
    ) -> bool {
        let given = section.validation.as_ref();
        let wants_off = self.one_of(given, &[("chain", false), ("off", true)], "validation").unwrap_or(false);
        match (source, beside.has_store, beside.has_client) {
            (Source::Embedded, false, _) => self.problem(
                span.clone(),
                "`[sidecar]` needs an account source: [store] is missing",
                "add [store], or ask a server: source = \"remote\" with [client]",
            ),
            (Source::Remote, _, false) => self.problem(
                span.clone(),
                "`[sidecar]` with source = \"remote\" needs a server to ask: [client] is missing",
                "name the server or domain controller to ask, and the machine account",
            ),
            _ => {}
        }
        match beside.mapping.map(|mapping| mapping.policy.validation) {
            None => self.problem(
                span.clone(),
                "[mapping] is missing",
                "name the CAs that certificates are validated by: anchors = [\"certs/ca.pem\"]",
            ),
            Some(Validation::Off) if !wants_off => self.problem(
                given.map_or(span.clone(), Spanned::span),
                "certificates are not validated here ([mapping] validation = \"off\")",
                "validate them, or trust the validation of the proxies: set validation = \"off\" in [sidecar] as well",
            ),
            Some(Validation::Off) => {}
            Some(_) if wants_off => self.problem(
                given.map_or(span.clone(), Spanned::span),
                "this contradicts [mapping], which validates certificates",
                "remove it here, or set validation = \"off\" in [mapping] as well",
            ),
            Some(_) => {}
        }
        wants_off
    }

    /// The methods of a question. A set that the policy of this process never answers is refused: each client
    /// would get an error.
    fn sidecar_methods(
        &mut self,
        section: &Section,
        span: &Range<usize>,
        source: Source,
        beside: &SidecarContext<'_>,
    ) -> MappingFlags {
        let given = section.methods.as_ref();
        let methods = given.map_or(SIDECAR_METHODS, |names| self.methods(names.get_ref()));
        let at = given.map_or_else(|| span.clone(), Spanned::span);
        if methods.0 == 0 {
            let help = "name \"upn\", \"subject\", \"issuer\" or \"issuer-chain\", or remove methods";
            self.problem(at, "methods is an empty list, so no certificate is mapped", help);
            return methods;
        }
        // With `source = "remote"` the policy that answers is the server's.
        let Some(mapping) = beside.mapping.filter(|_| source == Source::Embedded) else { return methods };
        let common = methods.and(mapping.policy.methods);
        if !has_method(common) {
            self.problem(
                at,
                "mapping.methods allows none of these methods, so no certificate is mapped",
                "name a method in both",
            );
        } else if !common.contains(MappingFlags::ISSUER) && beside.knows_issuers_alone() {
            self.problem(
                at,
                "accounts of kind = \"profile\" are found only by issuer, and the sidecar does not ask by issuer",
                "set methods = [\"issuer\"] or [\"issuer-chain\"], here and in [mapping]",
            );
        }
        methods
    }

    fn format(&mut self, section: &Section) -> Format {
        let mut group_names = std::collections::HashMap::new();
        for (sid, name) in &section.group_names {
            match sid.get_ref().parse::<Sid>() {
                Ok(sid) => _ = group_names.insert(sid, name.clone()),
                Err(_) => self.problem(sid.span(), "this is not a SID", "write it as S-1-5-21-A-B-C-RID"),
            }
        }
        let preset = self.one_of(section.headers.as_ref(), &PRESETS, "set of headers").unwrap_or_default();
        Format {
            preset,
            names: self.header_names(section, preset),
            user: self.one_of(section.user.as_ref(), &USERS, "form of names").unwrap_or_default(),
            groups: self.one_of(section.groups.as_ref(), &GROUPS, "form of groups").unwrap_or_default(),
            group_names,
            encoding: self.one_of(section.encoding.as_ref(), &ENCODINGS, "encoding").unwrap_or_default(),
            value_len_max: self.within(
                section.header_len_max.as_ref(),
                HEADER_LEN,
                "bytes",
                VALUE_LEN_DEFAULT as u64,
            ) as usize,
        }
    }

    /// `[sidecar.header_names]`: no two headers have the same name.
    fn header_names(&mut self, section: &Section, preset: Preset) -> BTreeMap<Meaning, HeaderName> {
        let (mut names, mut places) = (BTreeMap::new(), Vec::new());
        for (key, name) in &section.header_names {
            let known = Meaning::KEYS.iter().find(|(known, _)| known == key.get_ref());
            let Some((_, meaning)) = known else {
                let known: Vec<&str> = Meaning::KEYS.iter().map(|(key, _)| *key).collect();
                let help = format!("use one of {}", known.join(", "));
                self.problem(key.span(), "unknown identity header", help);
                continue;
            };
            match custom_name(name.get_ref()) {
                Ok(parsed) => {
                    places.push((parsed.clone(), name.span()));
                    names.insert(*meaning, parsed);
                }
                Err(why) => self.problem(
                    name.span(),
                    format!("this name cannot be used for an identity header: {why}"),
                    "write it as in \"X-WEBAUTH-USER\"",
                ),
            }
        }
        let format = Format { preset, names, ..Format::default() };
        let advertised: Vec<HeaderName> = format.advertised().collect();
        for (name, place) in places {
            if advertised.iter().filter(|known| **known == name).count() > 1 {
                let help = "give each header its own name; headers = \"none\" removes the headers of the set";
                self.problem(place, "two identity headers have this name", help);
            }
        }
        format.names
    }

    fn sidecar_listen(
        &mut self,
        section: ListenSection,
        span: &Range<usize>,
        is_off: bool,
    ) -> Option<Listen> {
        let speaks = self.one_of(Some(&section.dialect), &SPEAKS, "dialect")?;
        let says_verification = matches!(speaks, Speaks::Http(dialect) if dialect.says_verification());
        if is_off && !says_verification {
            self.problem(
                section.dialect.span(),
                "this proxy does not report how it validated a certificate, and [mapping] does not validate it",
                "validate certificates here: validation = \"chain\"",
            );
        }
        self.check_way(&section, span, speaks);
        let target = self.target(&section, speaks);
        let at = self.place(&section, span)?;
        let is_unix = matches!(at, Place::Unix(..));
        let secret = section.secret.as_ref().and_then(|secret| self.secret(secret));
        let help = "name the users of the proxy processes, or remove the key: without it each local process with the secret may ask";
        let peers = self.restricting("peers", &section.peers, help);
        if let Some(peer) = peers.first().filter(|_| !is_unix) {
            self.problem(
                peer.span(),
                "peers is for Unix sockets: TCP does not tell the user of a process",
                "use unix = \"…\", a secret or tls",
            );
        }
        self.check_keys_of_place(&section, is_unix);
        let tls = section.tls.filter(|_| !is_unix).map(|tls| self.listen_tls(tls));
        let knows_users = is_unix && !peers.is_empty();
        if section.secret.is_none() && tls.is_none() && !knows_users {
            self.problem(
                span.clone(),
                "this listener would trust every process that can connect to it",
                "restrict it: peers = [\"www-data\"] on a Unix socket, secret = \"file:…\", or tls with client_ca and names",
            );
        }
        let keys = UpstreamKeys {
            ca: section.upstream_ca.as_ref(),
            name: section.upstream_name.as_ref(),
            certificate: section.upstream_certificate.as_ref(),
            key: section.upstream_key.as_ref(),
            protocol: section.upstream_protocol.as_ref(),
        };
        let upstream = match &section.upstream {
            Some(upstream) => self.upstream(upstream, &keys),
            None => {
                let help = "name the application: upstream = \"https://HOST:PORT\", or remove this";
                let spans = keys.of_tls().chain(keys.protocol.map(Spanned::span));
                spans.for_each(|span| self.problem(span, "this listener has no upstream", help));
                None
            }
        };
        let peers = peers.iter().map(|peer| peer.get_ref().clone()).collect();
        let settings = sidecar_tokio::settings::Listen { speaks, target, at, peers, tls, upstream };
        Some(Listen { settings, secret })
    }

    /// Whether there is an upstream where the sidecar is in the way of requests, and none where it is not.
    fn check_way(&mut self, section: &ListenSection, span: &Range<usize>, speaks: Speaks) {
        let is_in_path = matches!(speaks, Speaks::Http(dialect) if dialect.is_in_path());
        match (&section.upstream, is_in_path, speaks) {
            (None, true, _) => self.problem(
                span.clone(),
                "with this dialect the proxy passes its requests through the sidecar, so an upstream is needed",
                "name the application: upstream = \"http://127.0.0.1:8080\"",
            ),
            (
                Some(upstream),
                _,
                Speaks::EnvoyGrpc | Speaks::Http(Dialect::Nginx | Dialect::Traefik | Dialect::Caddy),
            ) => {
                self.problem(
                    upstream.span(),
                    "with this dialect the proxy connects to the application itself, so there is no upstream",
                    "remove upstream",
                );
            }
            _ => {}
        }
    }

    /// The address or the socket of a listener.
    fn place(&mut self, section: &ListenSection, span: &Range<usize>) -> Option<Place> {
        match (&section.address, &section.unix) {
            (Some(address), None) => Some(Place::Tcp(self.listens(address)?)),
            (None, Some(path)) => {
                let mode = section.mode.as_ref().map(|mode| self.mode(mode));
                let group = match (&section.group, mode) {
                    (Some(group), _) => SocketGroup::Named(group.get_ref().clone()),
                    (None, None) => SocketGroup::OfPeers,
                    (None, Some(_)) => SocketGroup::Unchanged,
                };
                let mode = mode.unwrap_or(SOCKET_MODE);
                Some(Place::Unix(UnixPlace { path: self.path(path.get_ref()), mode, group }))
            }
            _ => {
                self.problem(
                    span.clone(),
                    "a listener has either address or unix",
                    "set address = \"127.0.0.1:9480\" or unix = \"nginx.sock\"",
                );
                None
            }
        }
    }

    /// Keys that are for TCP alone, or for Unix sockets alone.
    fn check_keys_of_place(&mut self, section: &ListenSection, is_unix: bool) {
        if let Some(tls) = section.tls.as_ref().filter(|_| is_unix) {
            self.problem(
                tls.span(),
                "there is no TLS on a Unix socket",
                "use peers = [\"www-data\"] or a secret",
            );
        }
        if let Some(mode) = section.mode.as_ref().filter(|_| !is_unix) {
            self.problem(mode.span(), "only a Unix socket has a mode", "remove it");
        }
        if let Some(group) = section.group.as_ref().filter(|_| !is_unix) {
            self.problem(group.span(), "only a Unix socket has a group", "remove it");
        }
    }

    /// Where a listener reads the host and path of a request: fixed by the dialect, or configured if the
    /// dialect leaves it open.
    fn target(&mut self, section: &ListenSection, speaks: Speaks) -> Target {
        let of_dialect = match speaks {
            Speaks::Http(dialect) => dialect.target(section.upstream.is_some()),
            Speaks::EnvoyGrpc => Target::Request,
        };
        match &section.target {
            Some(target) if of_dialect != Target::Unknown => {
                self.problem(
                    target.span(),
                    "this dialect has a fixed place for the host and path of a request",
                    "remove target: it is for the dialects envoy and client-cert without upstream",
                );
                of_dialect
            }
            given => self.one_of(given.as_ref(), &TARGETS, "target").unwrap_or(of_dialect),
        }
    }

    fn mode(&mut self, text: &Spanned<String>) -> u32 {
        match u32::from_str_radix(text.get_ref(), 8) {
            Ok(mode @ 0..=0o777) => mode,
            _ => {
                self.problem(text.span(), "this is not a file mode", "write it in octal, as in \"0660\"");
                SOCKET_MODE
            }
        }
    }

    fn listen_tls(&mut self, section: Spanned<ListenTlsSection>) -> ListenTls {
        let section = section.into_inner();
        if section.names.get_ref().is_empty() {
            self.problem(
                section.names.span(),
                "names is an empty list, so every certificate of the CA would be trusted as a proxy",
                "name the proxies: names = [\"proxy.contoso.example\"]",
            );
        }
        let names = section.names.get_ref().iter().map(|name| self.host(name)).collect();
        ListenTls {
            certificate: self.path(&section.certificate),
            key: self.path(&section.key),
            client_ca: self.path(&section.client_ca),
            names,
        }
    }

    fn upstream(&mut self, text: &Spanned<String>, keys: &UpstreamKeys<'_>) -> Option<Application> {
        let protocol = self.one_of(keys.protocol, &PROTOCOLS, "upstream_protocol");
        let given = text.get_ref().as_str();
        let url =
            given.split_once("://").map(|(scheme, rest)| (scheme, rest.strip_suffix('/').unwrap_or(rest)));
        let has_port = |(_, authority): &(&str, &str)| {
            authority.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty()
                    && port.parse::<u16>().is_ok_and(|port| port != 0)
                    && !authority.contains(['/', '@', '?'])
            })
        };
        match (url.filter(has_port), given.strip_prefix("unix:")) {
            (Some(("https", authority)), _) => {
                let tls = self.upstream_tls(text.span(), authority, keys)?;
                Some(Application {
                    place: UpstreamPlace::Tcp(authority.to_owned()),
                    tls: Some(tls),
                    protocol,
                })
            }
            (Some(("http", authority)), _) => {
                self.no_upstream_tls(keys);
                Some(Application { place: UpstreamPlace::Tcp(authority.to_owned()), tls: None, protocol })
            }
            (None, Some(path)) if !path.is_empty() => {
                self.no_upstream_tls(keys);
                Some(Application { place: UpstreamPlace::Unix(self.base.join(path)), tls: None, protocol })
            }
            _ => {
                self.problem(
                    text.span(),
                    "this is not the address of an application",
                    "write http://HOST:PORT, https://HOST:PORT or unix:PATH",
                );
                None
            }
        }
    }

    fn no_upstream_tls(&mut self, keys: &UpstreamKeys<'_>) {
        let help = "remove it, or reach the application over TLS: upstream = \"https://HOST:PORT\"";
        keys.of_tls().for_each(|span| self.problem(span, "there is no TLS to this upstream", help));
    }

    fn upstream_tls(
        &mut self,
        span: Range<usize>,
        authority: &str,
        keys: &UpstreamKeys<'_>,
    ) -> Option<UpstreamTls> {
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let name = keys.name.map_or_else(
            || host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            |name| name.get_ref().clone(),
        );
        if ServerName::try_from(name.as_str()).is_err() {
            self.problem(
                keys.name.map_or_else(|| span.clone(), Spanned::span),
                format!("{name} is not a DNS name or IP address of a certificate"),
                "set the name in the certificate of the application: upstream_name = \"app.example\"",
            );
        }
        let own = match (keys.certificate, keys.key) {
            (Some(certificate), Some(key)) => {
                Some((self.path(certificate.get_ref()), self.path(key.get_ref())))
            }
            (None, None) => None,
            (Some(one), None) | (None, Some(one)) => {
                let help = "set both upstream_certificate and upstream_key";
                self.problem(one.span(), "a certificate needs its key", help);
                None
            }
        };
        let Some(ca) = keys.ca else {
            self.problem(
                span,
                "the CA of the application's certificate is not configured, and the CAs of the system are not used",
                "set upstream_ca = \"certs/app-ca.pem\"",
            );
            return None;
        };
        Some(UpstreamTls { ca: self.path(ca.get_ref()), name, own })
    }

    /// The routes. A route that can allow no account, or for which another route takes all requests, is
    /// refused: the requests that it is meant for would use another route.
    fn routes(
        &mut self,
        sections: Vec<Spanned<RouteSection>>,
        format: &Format,
        (has_anonymous, has_token): (bool, bool),
        source: Source,
        beside: &SidecarContext<'_>,
    ) -> Vec<Route> {
        let mut targets = HashSet::new();
        let mut routes = Vec::with_capacity(sections.len());
        for section in sections {
            let (span, at) = (section.span(), RouteSpans::of(section.get_ref()));
            let route = self.route(section, (has_anonymous, has_token));
            self.route_matches(&route, &at, format, source, beside);
            let path = route.path.as_deref().map(|path| path.trim_end_matches('/').to_owned());
            if !targets.insert((route.host.clone(), path)) {
                let help = "merge them: only the first one is used";
                self.problem(span, "another route has the same host and path", help);
            }
            routes.push(route);
        }
        routes
    }

    /// Refuses a route that allows none of the identities that this sidecar can get.
    fn route_matches(
        &mut self,
        route: &Route,
        at: &RouteSpans,
        format: &Format,
        source: Source,
        beside: &SidecarContext<'_>,
    ) {
        if let (Source::Remote, Some((name, span))) = (source, at.group.clone()) {
            let known =
                format.group_names.iter().find(|(_, known)| known.to_lowercase() == name.to_lowercase());
            let help = known.map_or_else(
                || "write the group's SID: groups = [\"S-1-5-21-A-B-C-RID\"]".to_owned(),
                |(sid, _)| format!("write the group's SID: groups = [\"{sid}\"]"),
            );
            self.problem(
                span,
                "with source = \"remote\" only SIDs of groups are known, so this allows no account",
                help,
            );
        }
        let is_ours = |domain: &String| beside.domain.eq_ignore_ascii_case(domain);
        let is_known = |domain: &String| {
            is_ours(domain) || beside.peers.iter().any(|peer| peer.eq_ignore_ascii_case(domain))
        };
        if source == Source::Embedded {
            for (domain, span) in
                route.domains.iter().zip(&at.domains).filter(|(domain, _)| !is_known(domain))
            {
                let what = format!("{domain} is neither [domain] nor a [[peer]], so this allows no account");
                self.problem(span.clone(), what, "write the NetBIOS name of the domain, or add its [[peer]]");
            }
        }
        for (sid, span) in at.sids.iter().filter(|(sid, _)| sid.is_domain()) {
            let help = "write the SID of an account or group, or the domain's NetBIOS name in domains";
            self.problem(
                span.clone(),
                format!("{sid} is the SID of a domain, so this allows no account"),
                help,
            );
        }
        let Some(span) = at.strength.clone().filter(|_| route.strong) else { return };
        match source {
            Source::Remote if beside.client.is_some_and(|client| client.proof_keys.is_empty()) => self.problem(
                span,
                "without proof_keys in [client] the strength of a mapping is not known, so this allows no account",
                "name the public keys of the servers' domains: proof_keys = { CONTOSO = \"contoso.pub\" }",
            ),
            Source::Embedded
                if beside.mapping.is_some_and(|mapping| mapping.policy.validation == Validation::Off) =>
            {
                self.problem(
                    span,
                    "without validation no mapping is strong, so this allows no account",
                    "use validation = \"chain\" in [mapping], or remove strength",
                );
            }
            Source::Embedded
                if !route.domains.is_empty()
                    && !route.domains.iter().any(is_ours)
                    && route.sids.is_empty()
                    && route.groups.is_empty() =>
            {
                self.problem(
                    span,
                    "the strength of a mapping in another domain is not known here, so this allows no account",
                    "remove strength, or ask that domain directly: source = \"remote\"",
                );
            }
            _ => {}
        }
    }

    fn route(&mut self, section: Spanned<RouteSection>, (has_anonymous, has_token): (bool, bool)) -> Route {
        let section = section.into_inner();
        let host = section.host.as_ref().map(|host| {
            route_host(host.get_ref()).unwrap_or_else(|why| {
                self.problem(
                    host.span(),
                    format!("this is not a host: {why}"),
                    "write a name without a port, as in \"app.example\", or \"*.example\" for all names below",
                );
                host.get_ref().clone()
            })
        });
        let path = section.path.as_ref().map(|path| {
            if let Err(why) = route_path(path.get_ref()) {
                let help = "write it as in \"/admin\": that is /admin and everything below it";
                self.problem(path.span(), format!("this is not a plain path: {why}"), help);
            }
            path.get_ref().clone()
        });
        let mut sids = Vec::new();
        let mut sid = |checker: &mut Self, text: &Spanned<String>| match text.get_ref().parse::<Sid>() {
            Ok(sid) => sids.push(sid),
            Err(_) => checker.problem(text.span(), "this is not a SID", "write it as S-1-5-21-A-B-C-RID"),
        };
        self.restricting("sids", &section.sids, ROUTE_OPEN).iter().for_each(|text| sid(self, text));
        let mut groups = Vec::new();
        for group in self.restricting("groups", &section.groups, ROUTE_OPEN) {
            match group.get_ref().starts_with("S-1-") {
                true => sid(self, group),
                false if group.get_ref().trim() != group.get_ref() || group.get_ref().is_empty() => {
                    let help = "write it as `rcmpd group list` prints it, without spaces at its ends";
                    self.problem(group.span(), "this is not the name of a group", help);
                }
                false => groups.push(group.get_ref().clone()),
            }
        }
        let domains = self.restricting("domains", &section.domains, ROUTE_OPEN);
        let domains: Vec<String> = domains.iter().map(|domain| self.netbios(domain)).collect();
        let strong = self.one_of(section.strength.as_ref(), &STRENGTHS, "strength").unwrap_or(false);
        let anonymous = section.anonymous.filter(|anonymous| *anonymous.get_ref());
        let has_restriction = strong || !(sids.is_empty() && groups.is_empty() && domains.is_empty());
        if let Some(anonymous) = anonymous.as_ref().filter(|_| has_restriction) {
            self.problem(
                anonymous.span(),
                "this route restricts accounts, but anonymous = true allows every request",
                "remove anonymous, or groups, sids, domains and strength",
            );
        }
        if let Some(anonymous) = anonymous.as_ref().filter(|_| !has_anonymous) {
            self.problem(
                anonymous.span(),
                "no request gets here without a certificate",
                "allow handshakes without one by client_certificates = \"optional\" in [sidecar.proxy]; other web servers decide it themselves",
            );
        }
        if let Some(audience) = &section.audience {
            if let Err(why) = route_audience(audience.get_ref()) {
                self.problem(
                    audience.span(),
                    format!("this is not an audience: {why}"),
                    "write the name or the URI that the application expects in aud",
                );
            }
            if !has_token {
                self.problem(
                    audience.span(),
                    "audience needs [sidecar.token]",
                    "add [sidecar.token], or remove audience",
                );
            }
        }
        let audience = section.audience.map(Spanned::into_inner);
        Route { host, path, sids, groups, domains, strong, audience, anonymous: anonymous.is_some() }
    }

    fn proxy(&mut self, section: ProxySection) -> Option<Proxy> {
        let certificates = section.client_certificates.as_ref();
        let anonymous = self.one_of(certificates, &CLIENT_CERTIFICATES, "client_certificates");
        Some(Proxy {
            listen: self.listens(&section.listen)?,
            certificate: self.path(&section.certificate),
            key: self.path(&section.key),
            upstream: {
                let keys = UpstreamKeys {
                    ca: section.upstream_ca.as_ref(),
                    name: section.upstream_name.as_ref(),
                    certificate: section.upstream_certificate.as_ref(),
                    key: section.upstream_key.as_ref(),
                    protocol: section.upstream_protocol.as_ref(),
                };
                self.upstream(&section.upstream, &keys)?
            },
            anonymous: anonymous.unwrap_or(false),
        })
    }

    /// References to the roots of tickets.
    pub(super) fn ticket_keys(&mut self, given: &Spanned<Vec<Spanned<String>>>) -> Vec<SecretRef> {
        let count = given.get_ref().len();
        if !(1..=ticket::Roots::MAX).contains(&count) {
            let help = format!("name 1 to {} keys of `rcmpd sidecar ticket-key`", ticket::Roots::MAX);
            self.problem(given.span(), format!("{count} keys are configured"), help);
        }
        given.get_ref().iter().filter_map(|key| self.secret(key)).collect()
    }

    /// The name of a farm or scope.
    pub(super) fn ticket_name(
        &mut self,
        given: &Spanned<String>,
        of: &str,
        example: &str,
    ) -> Option<ticket::Name> {
        let name = ticket::Name::new(given.get_ref());
        if name.is_none() {
            self.problem(
                given.span(),
                format!("this is not the name of a {of}"),
                format!(
                    "use 1 to 64 letters, digits and . _ : / -, the same on each node, as in \"{example}\""
                ),
            );
        }
        name
    }

    /// `[sidecar.ticket]`. A ticket stands for the answer of a server, so a process that knows the accounts
    /// itself has none.
    fn ticket(
        &mut self,
        section: Spanned<TicketSection>,
        source: Source,
        is_off: bool,
        sets_cookies: bool,
    ) -> Option<Ticket> {
        let span = section.span();
        let section = section.into_inner();
        if source == Source::Embedded {
            self.problem(
                span.clone(),
                "tickets are for source = \"remote\": this process knows the accounts as they are now, and a ticket does not",
                "remove [sidecar.ticket]",
            );
        }
        if is_off {
            self.problem(
                span.clone(),
                "tickets need validation: without it this node accepts a ticket with a certificate that it has not validated",
                "use validation = \"chain\" and anchors in [mapping], or remove [sidecar.ticket]",
            );
        }
        if !sets_cookies {
            self.problem(
                span,
                "no answer of a listener can set a cookie in the client",
                "use dialect = \"nginx\" or \"envoy-grpc\", a listener with an upstream, or [sidecar.proxy]",
            );
        }
        let keys = self.ticket_keys(&section.keys);
        let audience = self.ticket_name(&section.audience, "farm", "shop.contoso.example");
        let scope = section.scope.as_ref().and_then(|given| self.ticket_name(given, "scope", "staff"));
        let given = section.cookie.as_ref();
        let cookie = CookieName::new(given.map_or(COOKIE, |name| name.get_ref()));
        if let (None, Some(given)) = (&cookie, given) {
            self.problem(
                given.span(),
                "this cannot be the name of the cookie: without the prefix __Host- another host of the domain could set it",
                "use __Host- with letters, digits, _ and -, at most 64 characters, as in \"__Host-rcmpd\"",
            );
        }
        Some(Ticket {
            keys,
            seal_with: section.seal_with,
            audience: audience?,
            scope,
            cookie: cookie?,
            lifetime: self.seconds(section.lifetime_s.as_ref(), LIFETIME_S, 900),
        })
    }

    /// `[sidecar.reference]`.
    fn reference(&mut self, section: ReferenceSection) -> Option<Reference> {
        Some(Reference {
            keys: self.ticket_keys(&section.keys),
            seal_with: section.seal_with,
            audience: self.ticket_name(&section.audience, "group of servers", "shop.contoso.example")?,
            lifetime: self.seconds(section.lifetime_s.as_ref(), LIFETIME_S, 600),
        })
    }

    fn token(&mut self, section: TokenSection) -> Token {
        for text in [&section.issuer, &section.audience] {
            if text.get_ref().is_empty() {
                self.problem(text.span(), "a token needs an issuer and an audience", "write a name or a URL");
            }
        }
        if let Some(published) = section.published.as_ref().filter(|it| it.get_ref().len() > PUBLISHED_MAX) {
            let help = format!("at most {PUBLISHED_MAX}: the next key and the previous ones");
            self.problem(published.span(), "there are too many keys", help);
        }
        let published = section.published.iter().flat_map(Spanned::get_ref).map(|path| self.path(path));
        let published = published.collect();
        Token {
            key: self.path(&section.key),
            published,
            issuer: section.issuer.into_inner(),
            audience: section.audience.into_inner(),
            lifetime: self.seconds(section.lifetime_s.as_ref(), LIFETIME_S, 300),
        }
    }
}
