//! The configuration file: what it may say, and what this version makes of it.
//!
//! A file is read in two steps. Its shape is checked by the parser, which stops at the first thing it does not know; then
//! everything that has a meaning is checked, and all that is wrong is told at once, each with its place.

mod diagnostics;
pub(crate) mod files;
mod mapping;
mod peers;
mod secret_ref;
mod sections;
mod sidecar;

pub use diagnostics::{ConfigError, Problem};
pub use mapping::{AuthorityEntry, CrlSource, Mapping, Ocsp, TrustFiles, usual_key_purposes};
pub use peers::{Direction, Forward, Peer, PeerKind, Relay, ResponseCrypt, Servers};
pub use secret_ref::{SecretMissing, SecretRef};
pub use sections::{Gone, Sections};
pub use sidecar::{
    Application, Listen, ListenTls, Place, Proxy, SIDECAR_METHODS, Sidecar, SocketGroup, Source, Speaks,
    Token, UnixPlace, UpstreamPlace, UpstreamProtocol, UpstreamTls,
};

use crate::stores::{BUILT_IN, Settings, added};
use account_store::{DistinguishedName, Domain, FileAccess, FileRefused, RID_FIRST};
use dtyp::Sid;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// What an operator configured, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The domain that is served.
    pub domain: Domain,
    /// NetBIOS name of this server.
    pub server: String,
    /// Where and how RPC is served; `None` when only the client is configured.
    pub rpc: Option<Rpc>,
    /// Where accounts are.
    pub store: Option<Store>,
    /// How certificates are mapped.
    pub mapping: Option<Mapping>,
    /// How `rcmpd map` asks.
    pub client: Option<Client>,
    /// Health over HTTP, and what operators may ask.
    pub admin: Option<Admin>,
    /// What is logged and how.
    pub telemetry: Telemetry,
    /// Who may not be forgotten.
    pub audit: Audit,
    /// The other domains.
    pub peers: Vec<Peer>,
    /// Packages that are answered elsewhere.
    pub relays: Vec<Relay>,
    /// How questions are sent on.
    pub forward: Forward,
    /// What web servers are told.
    pub sidecar: Option<Sidecar>,
    /// What the file has, for a comparison with what it will have.
    pub sections: Sections,
}

/// `[rpc]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rpc {
    /// Netlogon.
    pub listen: Vec<SocketAddr>,
    /// The endpoint mapper.
    pub endpoint_mapper: Option<SocketAddr>,
    /// Whether clients must name this server as it is called.
    pub strict_server_name: bool,
    /// Whether ValidationData is encrypted inside the seal.
    pub response_crypt: netlogon_transport::server::ResponseCrypt,
    /// What connections may take.
    pub limits: dcerpc_tokio::Limits,
    /// How long calls in flight have at the end.
    pub grace: Duration,
    /// How often an account may ask for what maps no account.
    pub misses: Misses,
}

/// The rate limit of misses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misses {
    /// How many a second, on average; 0 for no limit.
    pub per_second: u32,
    /// How many at once.
    pub burst: u32,
}

impl Default for Misses {
    /// A web server sees some certificates that map no account; a machine that guesses at this rate tries some 800,000 a day.
    fn default() -> Self {
        Self { per_second: 10, burst: 100 }
    }
}

/// `[store]` and `[channels]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    /// Where accounts are.
    pub kind: StoreKind,
    /// The database file with the machines; that of the accounts, where there is one.
    pub machines: PathBuf,
    /// The key file that seals the secrets of machines.
    pub key: PathBuf,
}

/// `store.kind`.
#[derive(Clone, Debug, PartialEq)]
pub enum StoreKind {
    /// The embedded database, with this file.
    Sqlite(PathBuf),
    /// JSON Lines, read at start and at a reload.
    Memory(PathBuf),
    /// Fixed accounts by issuer, `[[store.level]]`.
    Profile(Vec<Level>),
    /// A kind that this build adds, with its settings.
    Added(String, Settings),
}

/// `[[store.level]]`: whoever these issuers certified is this account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// The account's name.
    pub name: String,
    /// Its RID.
    pub rid: u32,
    /// The issuers.
    pub issuers: Vec<DistinguishedName>,
    /// Its groups by RID, each with a name or none; the first is its primary group.
    pub groups: Vec<(u32, Option<String>)>,
}

/// `[client]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// `HOST` or `HOST:PORT`.
    pub server: String,
    /// The machine account, such as `WEB01$`.
    pub account: String,
    /// Its password.
    pub secret: SecretRef,
    /// Public keys that may sign hops of a path: NetBIOS names of domains, and files.
    pub proof_keys: Vec<(String, PathBuf)>,
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What an operator shows to be told more than health.
    pub token: Option<SecretRef>,
    /// Host names by which it may be asked for that, beside its address.
    pub hosts: Vec<String>,
}

/// `[telemetry]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// Filter directives, such as `info` or `info,dcerpc_tokio=debug`.
    pub log: String,
    /// Whether lines are JSON.
    pub json: bool,
}

/// `[audit]`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Audit {
    /// The file of JSON lines.
    pub path: Option<PathBuf>,
    /// Whether nothing may be decided that cannot be written down.
    pub required: bool,
    /// Whether certificates are written, each with its first decision in a file.
    pub certificates: bool,
    /// Whether each line carries the hash of the one before it.
    pub chain: bool,
    /// Whether and how the end of the chain is signed.
    pub heads: Option<AuditHeads>,
    /// Bytes that one account may write in an hour, where lines are required; 0 for no limit.
    pub account_budget: u64,
}

/// `[audit.heads]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditHeads {
    /// The file of signed heads.
    pub path: PathBuf,
    /// The file of the key that signs them.
    pub key: PathBuf,
    /// How often.
    pub interval: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    domain: DomainSection,
    rpc: Option<RpcSection>,
    store: Option<StoreSection>,
    channels: Option<ChannelsSection>,
    mapping: Option<Spanned<mapping::Section>>,
    client: Option<ClientSection>,
    admin: Option<AdminSection>,
    telemetry: Option<TelemetrySection>,
    audit: Option<AuditSection>,
    #[serde(default)]
    peer: Vec<Spanned<peers::PeerSection>>,
    #[serde(default)]
    relay: Vec<Spanned<peers::RelaySection>>,
    forward: Option<peers::ForwardSection>,
    sidecar: Option<Spanned<sidecar::Section>>,
    sso: Option<Spanned<toml::Value>>,
    tlsnego: Option<Spanned<toml::Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DomainSection {
    netbios: Spanned<String>,
    dns: Spanned<String>,
    sid: Spanned<String>,
    server: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RpcSection {
    listen: Spanned<Vec<Spanned<String>>>,
    endpoint_mapper: Option<Spanned<String>>,
    #[serde(default)]
    strict_server_name: bool,
    response_crypt: Option<Spanned<String>>,
    connections_max: Option<Spanned<usize>>,
    connections_per_address_max: Option<Spanned<usize>>,
    connections_per_account_max: Option<Spanned<usize>>,
    bind_timeout_s: Option<Spanned<u64>>,
    idle_timeout_s: Option<Spanned<u64>>,
    write_timeout_s: Option<Spanned<u64>>,
    grace_s: Option<u64>,
    misses_per_s: Option<Spanned<u64>>,
    misses_burst: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreSection {
    kind: Spanned<String>,
    path: Option<PathBuf>,
    #[serde(default)]
    level: Vec<LevelSection>,
    settings: Option<Spanned<toml::Table>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LevelSection {
    name: String,
    rid: Spanned<u32>,
    issuers: Spanned<Vec<Spanned<String>>>,
    groups: Spanned<Vec<LevelGroupSection>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LevelGroupSection {
    rid: u32,
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChannelsSection {
    store: Option<Spanned<String>>,
    path: Option<Spanned<PathBuf>>,
    key: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientSection {
    server: Spanned<String>,
    account: Spanned<String>,
    secret: Spanned<String>,
    #[serde(default)]
    proof_keys: BTreeMap<String, PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdminSection {
    listen: Spanned<String>,
    token: Option<Spanned<String>>,
    #[serde(default)]
    hosts: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TelemetrySection {
    log: Option<Spanned<String>>,
    format: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditSection {
    path: Option<PathBuf>,
    #[serde(default)]
    required: bool,
    certificates: Option<bool>,
    chain: Option<Spanned<bool>>,
    heads: Option<Spanned<HeadsSection>>,
    account_mib_per_hour: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadsSection {
    path: Spanned<PathBuf>,
    key: PathBuf,
    interval_s: Option<Spanned<u64>>,
}

/// Targets of the log: the crates, and the audit log where it has no file.
const LOG_TARGETS: [&str; 12] = [
    "account_store",
    "audit",
    "dcerpc",
    "dcerpc_tokio",
    "dtyp",
    "netlogon_transport",
    "pac",
    "pem_file",
    "rcmp_service",
    "rcmpd",
    "sidecar",
    "sidecar_tokio",
];

/// Whether a filter directive says a level, or names what this program logs. A word that is neither is the target of another program.
fn is_log_directive(directive: &str) -> bool {
    let directive = directive.trim();
    let target = directive.split("::").next().unwrap_or_default();
    directive.contains(['=', '['])
        || directive.parse::<tracing_subscriber::filter::LevelFilter>().is_ok()
        || LOG_TARGETS.contains(&target)
}

/// More is no limit.
const MISSES_MAX: u64 = 1_000_000;
/// What an account may write into a required audit log in an hour, in MiB: a million decisions, which is no machine's normal load.
const BUDGET_MIB: u64 = 1024;
/// More is no limit.
const BUDGET_MIB_MAX: u64 = 1 << 20;

/// The text of a file that not every user may change.
fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |error| ConfigError::Unreadable { path: path.to_owned(), error };
    let bytes = FileAccess::ReadByAll.read(path).map_err(|error| match error {
        FileRefused::Mode { .. } => {
            let (what, help) = (format!("this file {error}"), String::new());
            let problems = vec![Problem { span: 0..0, what, help }];
            ConfigError::Wrong { path: path.to_owned(), text: String::new(), problems }
        }
        FileRefused::Io(error) => unreadable(error),
    })?;
    let text = std::str::from_utf8(&bytes);
    Ok(text.map_err(|error| unreadable(std::io::Error::new(ErrorKind::InvalidData, error)))?.to_owned())
}

/// Reads and checks a file.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = read(path)?;
    let checked = parse(&text, base(path)).and_then(|config| match config.is_written_to(path) {
        None => Ok(config),
        Some(key) => {
            let what = format!("{key} is this file itself");
            Err(vec![Problem { span: 0..0, what, help: "name a file of its own".to_owned() }])
        }
    });
    checked.map_err(|problems| ConfigError::Wrong { path: path.to_owned(), text, problems })
}

/// Reads and checks text; relative paths start at `base`.
pub fn parse(text: &str, base: &Path) -> Result<Config, Vec<Problem>> {
    let file: File = toml::from_str(text).map_err(|error| vec![Problem::from_parser(&error, text)])?;
    let config = Checker::run(base, |checker| checker.check(file))?;
    Ok(Config { sections: Sections::of(text), ..config })
}

/// Reads the `[mapping]` of a file, which may hold nothing else.
pub fn load_mapping(path: &Path) -> Result<Mapping, ConfigError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Alone {
        mapping: Spanned<mapping::Section>,
    }
    let text = read(path)?;
    let whole = text.parse::<toml::Table>().is_ok_and(|table| table.contains_key("domain"));
    let read = match whole {
        true => parse(&text, base(path)).map(|config| config.mapping),
        false => toml::from_str::<Alone>(&text)
            .map_err(|error| vec![Problem::from_parser(&error, &text)])
            .and_then(|file| Checker::run(base(path), |checker| Some(checker.mapping(file.mapping)))),
    };
    let missing = || {
        let help = "say how certificates would be mapped".to_owned();
        vec![Problem { span: 0..0, what: "[mapping] is missing".to_owned(), help }]
    };
    read.and_then(|mapping| mapping.ok_or_else(missing)).map_err(|problems| ConfigError::Wrong {
        path: path.to_owned(),
        text,
        problems,
    })
}

/// Where the relative paths of a file start.
pub(crate) fn base(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether the kernel refuses to listen on both addresses. The unspecified address is every one of its family; that of IPv6 is every one
/// of IPv4, too, unless the system says otherwise. With port 0 the kernel chooses.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    let covers = |all: IpAddr, ip: IpAddr| {
        all.is_unspecified() && (all.is_ipv4() == ip.is_ipv4() || (all.is_ipv6() && !is_ipv6_alone()))
    };
    one.port() == other.port() && one.port() != 0 && (a == b || covers(a, b) || covers(b, a))
}

/// Whether sockets for `[::]` take no connections over IPv4 (ipv6(7), `bindv6only`).
fn is_ipv6_alone() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|setting| setting.trim() == "1")
}

/// Says which kinds of store this build has.
fn store_kinds() -> String {
    let mut kinds: Vec<String> =
        BUILT_IN.into_iter().chain(added()).map(|kind| format!("\"{kind}\"")).collect();
    let last = kinds.pop().unwrap_or_default();
    format!("use kind = {} or {last}", kinds.join(", "))
}

struct Checker<'a> {
    base: &'a Path,
    /// The addresses that are listened on, as far as the file was read.
    listened: Vec<SocketAddr>,
    /// The SID of `[domain]`; none where a file has `[mapping]` alone.
    domain_sid: Option<Sid>,
    problems: Vec<Problem>,
}

impl<'a> Checker<'a> {
    /// Checks something, and tells all that is wrong with it.
    fn run<T>(base: &'a Path, check: impl FnOnce(&mut Self) -> T) -> Result<T, Vec<Problem>> {
        let mut checker = Checker { base, listened: Vec::new(), domain_sid: None, problems: Vec::new() };
        let checked = check(&mut checker);
        match checker.problems.is_empty() {
            true => Ok(checked),
            false => {
                checker.problems.sort_by_key(|problem| problem.span.start);
                Err(checker.problems)
            }
        }
    }

    fn problem(&mut self, span: std::ops::Range<usize>, what: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Problem { span, what: what.into(), help: help.into() });
    }

    fn check(&mut self, file: File) -> Config {
        for (name, section) in [("sso", &file.sso), ("tlsnego", &file.tlsnego)] {
            if let Some(section) = section {
                self.problem(
                    section.span(),
                    format!("[{name}] is not part of this version"),
                    "remove the section: serving without it would be something else than what it asks for",
                );
            }
        }
        let domain = self.domain(&file.domain);
        self.domain_sid = Some(domain.sid).filter(Sid::is_domain);
        let peers = self.peers(file.peer, &domain);
        let store = file.store.as_ref().and_then(|store| self.store(store, file.channels.as_ref()));
        let serves = file.rpc.is_some();
        let rpc = file.rpc.map(|rpc| self.rpc(rpc));
        let mapping_span = file.mapping.as_ref().map(Spanned::span);
        let mapping = file.mapping.map(|mapping| self.mapping(mapping));
        if serves && mapping.is_none() {
            self.problem(
                0..0,
                "[mapping] is missing",
                "say how certificates are mapped: at least anchors = [\"certs/ca.pem\"], the authorities that are believed",
            );
        }
        if serves && file.store.is_none() {
            self.problem(
                0..0,
                "[store] is missing",
                "say where the accounts are: kind = \"sqlite\", path = \"accounts.db\"",
            );
        }
        let is_profile = store.as_ref().is_some_and(|store| matches!(store.kind, StoreKind::Profile(_)));
        if let (Some(span), Some(mapping)) = (mapping_span, &mapping)
            && is_profile
            && peers.is_empty()
            && [Some(mapping), mapping.shadow.as_deref()]
                .into_iter()
                .flatten()
                .any(|it| !it.looks_up_issuers())
        {
            self.problem(
                span,
                "accounts of kind = \"profile\" are found by their issuers alone, and no certificate is looked up by its issuer",
                "say methods = [\"issuer\"] or [\"issuer-chain\"], and grant = [\"issuer\"], in [mapping]",
            );
        }
        let client = file.client.map(|client| self.client(&client));
        let beside = sidecar::Beside {
            mapping: mapping.as_ref(),
            has_store: file.store.is_some(),
            store: store.as_ref(),
            client: client.as_ref(),
            peers: &peers,
            domain: &domain,
        };
        let sidecar = file.sidecar.map(|sidecar| self.sidecar(sidecar, &beside));
        Config {
            domain,
            server: file.domain.server.get_ref().to_uppercase(),
            rpc,
            store,
            mapping,
            client,
            admin: file.admin.and_then(|admin| self.admin(admin)),
            telemetry: self.telemetry(file.telemetry),
            audit: file.audit.map(|audit| self.audit(audit)).unwrap_or_default(),
            peers,
            relays: self.relays(file.relay),
            forward: file.forward.map(|forward| self.forward(forward)).unwrap_or_default(),
            sidecar,
            sections: Sections::default(),
        }
    }

    fn path(&self, path: &Path) -> PathBuf {
        self.base.join(path)
    }

    fn netbios(&mut self, name: &Spanned<String>) -> String {
        let text = name.get_ref();
        let allowed = |c: char| c.is_alphanumeric() || "!@#$%^&'(){}_-~".contains(c);
        if text.is_empty() || text.chars().count() > 15 || !text.chars().all(allowed) {
            self.problem(name.span(), "this is not a NetBIOS name", "use 1 to 15 letters, digits or hyphens");
        }
        text.to_uppercase()
    }

    fn domain(&mut self, section: &DomainSection) -> Domain {
        let netbios = self.netbios(&section.netbios);
        self.netbios(&section.server);
        Domain { netbios, dns: self.dns_name(&section.dns), sid: self.domain_sid(&section.sid) }
    }

    /// A DNS name, without a dot at its end.
    fn dns_name(&mut self, name: &Spanned<String>) -> String {
        let dns = name.get_ref().trim_end_matches('.');
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
        };
        if dns.len() > 253 || !dns.split('.').all(label) {
            self.problem(name.span(), "this is not a DNS name", "write it as in contoso.example");
        }
        dns.to_owned()
    }

    fn domain_sid(&mut self, sid: &Spanned<String>) -> Sid {
        match sid.get_ref().parse::<Sid>() {
            Ok(sid) if sid.is_domain() => sid,
            _ => {
                self.problem(
                    sid.span(),
                    "this is not the SID of a domain",
                    "it has the form S-1-5-21-A-B-C, with three numbers below 4294967296",
                );
                Sid::SERVICE_ASSERTED_IDENTITY
            }
        }
    }

    fn address(&mut self, address: &Spanned<String>) -> Option<SocketAddr> {
        let parsed = address.get_ref().parse().ok();
        if parsed.is_none() {
            self.problem(
                address.span(),
                "this is not an address and port",
                "write an IP address and a port, as in \"127.0.0.1:11490\" or \"[::1]:11490\"",
            );
        }
        parsed
    }

    /// An address that is listened on. The kernel gives it to one listener.
    fn listens(&mut self, address: &Spanned<String>) -> Option<SocketAddr> {
        let parsed = self.address(address)?;
        if let Some(other) = self.listened.iter().find(|other| overlap(**other, parsed)) {
            let what =
                format!("{other} is listened on already, and this is the same address or one of the same");
            self.problem(address.span(), what, "choose another address or port");
        }
        self.listened.push(parsed);
        Some(parsed)
    }

    fn rpc(&mut self, section: RpcSection) -> Rpc {
        use netlogon_transport::server::ResponseCrypt;
        if section.listen.get_ref().is_empty() {
            self.problem(
                section.listen.span(),
                "nothing is listened on",
                "name an address, or remove [rpc] if nothing is to be served",
            );
        }
        let listen = section.listen.get_ref().iter().filter_map(|address| self.listens(address)).collect();
        let endpoint_mapper = section.endpoint_mapper.as_ref().and_then(|address| self.listens(address));
        let response_crypt =
            match section.response_crypt.as_ref().map(|text| (text.get_ref().as_str(), text.span())) {
                None | Some(("encrypt", _)) => ResponseCrypt::Encrypt,
                Some(("plain", _)) => ResponseCrypt::Plain,
                Some((_, span)) => {
                    self.problem(
                        span,
                        "this is not a form of answers",
                        "use \"encrypt\" (the default) or \"plain\"",
                    );
                    ResponseCrypt::Encrypt
                }
            };
        let mut limits = dcerpc_tokio::Limits::default();
        for (value, limit) in [
            (&section.connections_max, &mut limits.connections_max),
            (&section.connections_per_address_max, &mut limits.connections_per_address_max),
            (&section.connections_per_account_max, &mut limits.connections_per_account_max),
        ] {
            match value.as_ref().map(|value| (*value.get_ref(), value.span())) {
                Some((0, span)) => self.problem(span, "this limit lets nobody in", "use at least 1"),
                Some((value, _)) => *limit = value,
                None => {}
            }
        }
        if section.connections_per_account_max.is_none() {
            limits.connections_per_account_max = limits.connections_per_address_max;
        }
        for (value, timeout) in [
            (&section.bind_timeout_s, &mut limits.bind_timeout),
            (&section.idle_timeout_s, &mut limits.idle_timeout),
            (&section.write_timeout_s, &mut limits.write_timeout),
        ] {
            match value.as_ref().map(|value| (*value.get_ref(), value.span())) {
                Some((seconds @ 1..=86_400, _)) => *timeout = Duration::from_secs(seconds),
                Some((_, span)) => {
                    self.problem(span, "this is not a sensible time", "use 1 to 86400 seconds")
                }
                None => {}
            }
        }
        let default = Misses::default();
        let mut number = |given: &Option<Spanned<u64>>, least, default: u32| {
            self.within(given.as_ref(), least..=MISSES_MAX, default.into()) as u32
        };
        let misses = Misses {
            per_second: number(&section.misses_per_s, 0, default.per_second),
            burst: number(&section.misses_burst, 1, default.burst),
        };
        Rpc {
            misses,
            listen,
            endpoint_mapper,
            strict_server_name: section.strict_server_name,
            response_crypt,
            limits,
            grace: Duration::from_secs(section.grace_s.unwrap_or(10)),
        }
    }

    fn store(&mut self, section: &StoreSection, channels: Option<&ChannelsSection>) -> Option<Store> {
        let kind = self.store_kind(section)?;
        if let Some(store) = channels.and_then(|channels| channels.store.as_ref())
            && store.get_ref() != "sqlite"
        {
            self.problem(
                store.span(),
                "secrets of machines cannot be kept there",
                "use store = \"sqlite\"; they never go into LDAP",
            );
        }
        let path = channels.and_then(|channels| channels.path.as_ref());
        let machines = match (&kind, path) {
            (StoreKind::Sqlite(accounts), None) => accounts.clone(),
            (StoreKind::Sqlite(accounts), Some(path)) => {
                if self.path(path.get_ref()) != *accounts {
                    self.problem(
                        path.span(),
                        "machines are kept with the accounts, in store.path",
                        "remove this path",
                    );
                }
                accounts.clone()
            }
            (_, Some(path)) => self.path(path.get_ref()),
            (_, None) => {
                self.problem(
                    section.kind.span(),
                    "this kind of store keeps no machines",
                    "say where they are: [channels] store = \"sqlite\", path = \"machines.db\"",
                );
                return None;
            }
        };
        let key = channels.and_then(|channels| channels.key.as_deref());
        let key = key.map_or_else(|| machines.with_extension("key"), |key| self.path(key));
        Some(Store { kind, machines, key })
    }

    fn store_kind(&mut self, section: &StoreSection) -> Option<StoreKind> {
        let kind = section.kind.get_ref().as_str();
        if kind != "profile" && !section.level.is_empty() {
            self.problem(
                section.kind.span(),
                "[[store.level]] belongs to kind = \"profile\"",
                "remove the levels, or say kind = \"profile\"",
            );
        }
        let is_added = added().any(|added| added == kind);
        if let Some(settings) = section.settings.as_ref().filter(|_| BUILT_IN.contains(&kind)) {
            self.problem(
                settings.span(),
                format!("[store.settings] does not belong to kind = \"{kind}\""),
                "remove it: only kinds of store that a build adds have settings",
            );
        }
        match (kind, &section.path) {
            (_, path) if is_added => {
                let table =
                    section.settings.as_ref().map_or_else(toml::Table::new, |it| it.get_ref().clone());
                let settings = Settings::new(path.as_deref(), self.base, table);
                Some(StoreKind::Added(kind.to_owned(), settings))
            }
            ("sqlite", Some(path)) => Some(StoreKind::Sqlite(self.path(path))),
            ("memory", Some(path)) => Some(StoreKind::Memory(self.path(path))),
            ("sqlite", None) => {
                self.problem(
                    section.kind.span(),
                    "a path is missing",
                    "say which file: path = \"accounts.db\"",
                );
                None
            }
            ("memory", None) => {
                self.problem(
                    section.kind.span(),
                    "a path is missing",
                    "say which file of JSON Lines is read: path = \"accounts.jsonl\"",
                );
                None
            }
            ("profile", path) => {
                if path.is_some() {
                    self.problem(
                        section.kind.span(),
                        "this kind of store has no file",
                        "remove path; its accounts are the [[store.level]] of this file",
                    );
                }
                if section.level.is_empty() {
                    self.problem(
                        section.kind.span(),
                        "there are no levels",
                        "add [[store.level]] with name, rid, issuers and groups",
                    );
                }
                Some(StoreKind::Profile(section.level.iter().map(|level| self.level(level)).collect()))
            }
            ("postgres" | "ldap", _) => {
                self.problem(
                    section.kind.span(),
                    format!("kind = \"{kind}\" cannot be served by this version"),
                    store_kinds(),
                );
                None
            }
            _ => {
                self.problem(section.kind.span(), "this is not a kind of store", store_kinds());
                None
            }
        }
    }

    fn level(&mut self, section: &LevelSection) -> Level {
        if *section.rid.get_ref() < RID_FIRST {
            let help = format!("use {RID_FIRST} or more, as accounts have it");
            self.problem(section.rid.span(), "this is the RID of a built-in account or group", help);
        }
        if section.groups.get_ref().is_empty() {
            self.problem(
                section.groups.span(),
                "an account has a primary group",
                "name it first: groups = [{ rid = 513, name = \"Domain Users\" }]",
            );
        }
        if section.issuers.get_ref().is_empty() {
            let help = "name the CAs whose clients it is for";
            self.problem(section.issuers.span(), "without an issuer no certificate is of this level", help);
        }
        let mut issuers = Vec::with_capacity(section.issuers.get_ref().len());
        for issuer in section.issuers.get_ref() {
            match issuer.get_ref().parse() {
                Ok(name) => issuers.push(name),
                Err(error) => self.problem(
                    issuer.span(),
                    format!("this is not a distinguished name: {error}"),
                    "write it as the certificate has it, the country first: \"C=US,O=Partners,CN=Partner CA\"",
                ),
            }
        }
        let groups = section.groups.get_ref().iter().map(|group| (group.rid, group.name.clone()));
        Level { name: section.name.clone(), rid: *section.rid.get_ref(), issuers, groups: groups.collect() }
    }

    /// The value of a name, if it is one of those that are known.
    fn one_of<T: Copy>(
        &mut self,
        given: Option<&Spanned<String>>,
        known: &[(&str, T)],
        what: &str,
    ) -> Option<T> {
        let given = given?;
        let found = known.iter().find(|(name, _)| name == given.get_ref()).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<String> = known.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            self.problem(given.span(), format!("this is no {what}"), format!("use {}", names.join(" or ")));
        }
        found
    }

    /// The entries of a list that restricts something. Without the key nothing is restricted. An empty list reads as "none" and would
    /// mean "all", so it is refused.
    fn restricting<'t, T>(
        &mut self,
        key: &str,
        list: &'t Option<Spanned<Vec<T>>>,
        help: &'static str,
    ) -> &'t [T] {
        let Some(list) = list else { return &[] };
        if list.get_ref().is_empty() {
            self.problem(list.span(), format!("{key} is an empty list"), help);
        }
        list.get_ref()
    }

    /// A number, or its default.
    fn within(&mut self, given: Option<&Spanned<u64>>, range: RangeInclusive<u64>, default: u64) -> u64 {
        match given {
            None => default,
            Some(value) if range.contains(value.get_ref()) => *value.get_ref(),
            Some(value) => {
                self.problem(
                    value.span(),
                    "this is not a sensible number",
                    format!("use {} to {}", range.start(), range.end()),
                );
                default
            }
        }
    }

    fn secret(&mut self, reference: &Spanned<String>) -> SecretRef {
        SecretRef::parse(reference.get_ref(), self.base).unwrap_or_else(|| {
            self.problem(
                reference.span(),
                "this is not a reference to a secret",
                "write file:PATH, env:NAME or cred:NAME; secrets never stand in this file",
            );
            SecretRef::Environment(String::new())
        })
    }

    fn admin(&mut self, section: AdminSection) -> Option<Admin> {
        let token = section.token.as_ref().map(|token| self.secret(token));
        let hosts = section.hosts.iter().map(|host| self.admin_host(host)).collect();
        Some(Admin { listen: self.listens(&section.listen)?, token, hosts })
    }

    /// A host as clients name it, in lower case: in a Host header, or in a certificate.
    fn host(&mut self, host: &Spanned<String>) -> String {
        let name = host.get_ref().strip_suffix('.').unwrap_or(host.get_ref());
        match ::sidecar::routes::route_host(name) {
            Ok(name) if !name.starts_with('*') => name,
            checked => {
                let why = checked.err().unwrap_or("it is a pattern");
                let help = "write one name, as in \"app.example\"";
                self.problem(host.span(), format!("this is not a host: {why}"), help);
                host.get_ref().clone()
            }
        }
    }

    /// A host, with a port where clients ask at another one than that of `admin.listen`.
    fn admin_host(&mut self, host: &Spanned<String>) -> String {
        match host.get_ref().rsplit_once(':') {
            Some((name, port)) if port.parse::<u16>().is_ok() => {
                format!("{}:{port}", self.host(&Spanned::new(host.span(), name.to_owned())))
            }
            _ => self.host(host),
        }
    }

    fn client(&mut self, section: &ClientSection) -> Client {
        if section.server.get_ref().is_empty() {
            self.problem(section.server.span(), "a server is missing", "write HOST or HOST:PORT");
        }
        if !section.account.get_ref().ends_with('$') {
            self.problem(
                section.account.span(),
                "this is not a machine account",
                "its name ends in a dollar sign, as in \"WEB01$\"",
            );
        }
        let secret = self.secret(&section.secret);
        Client {
            server: section.server.get_ref().clone(),
            account: section.account.get_ref().clone(),
            secret,
            proof_keys: section
                .proof_keys
                .iter()
                .map(|(domain, path)| (domain.to_uppercase(), self.path(path)))
                .collect(),
        }
    }

    fn telemetry(&mut self, section: Option<TelemetrySection>) -> Telemetry {
        let section = section.unwrap_or(TelemetrySection { log: None, format: None });
        let json = match section.format.as_ref().map(|text| (text.get_ref().as_str(), text.span())) {
            None | Some(("text", _)) => false,
            Some(("json", _)) => true,
            Some((_, span)) => {
                self.problem(span, "this is not a format of logs", "use \"text\" or \"json\"");
                false
            }
        };
        if let Some(log) = &section.log {
            let help = "write a level, or target=level pairs, as in \"info,dcerpc_tokio=debug\"";
            if tracing_subscriber::filter::EnvFilter::try_new(log.get_ref()).is_err() {
                self.problem(log.span(), "these are not filter directives", help);
            } else if !log.get_ref().split(',').any(is_log_directive) {
                self.problem(
                    log.span(),
                    "this is no level and no target of the log, so nothing is logged",
                    help,
                );
            }
        }
        Telemetry { log: section.log.map_or_else(|| "info".into(), Spanned::into_inner), json }
    }

    fn audit(&mut self, section: AuditSection) -> Audit {
        if section.required && section.path.is_none() {
            self.problem(0..0, "[audit] is required and has no path", "say where: path = \"audit.log\"");
        }
        let chain = section.chain.as_ref().is_some_and(|chain| *chain.get_ref());
        if let Some(span) =
            section.chain.filter(|_| chain && section.path.is_none()).map(|chain| chain.span())
        {
            self.problem(span, "a chain needs a file", "say which: path = \"audit.log\"");
        }
        if let Some(heads) = section.heads.as_ref().filter(|_| !chain) {
            self.problem(heads.span(), "only a chain has heads", "say chain = true in [audit]");
        }
        let path = section.path.map(|path| self.path(&path));
        let heads = section.heads.map(|heads| self.heads(heads.into_inner(), path.as_deref()));
        let certificates = section.certificates.unwrap_or(true);
        let budget = self.within(section.account_mib_per_hour.as_ref(), 0..=BUDGET_MIB_MAX, BUDGET_MIB);
        let account_budget = budget << 20;
        Audit { path, required: section.required, certificates, chain, heads, account_budget }
    }

    fn heads(&mut self, section: HeadsSection, log: Option<&Path>) -> AuditHeads {
        let path = self.path(section.path.get_ref());
        if log == Some(&path) {
            self.problem(section.path.span(), "this is the audit log itself", "name another file");
        }
        let interval = match section.interval_s.as_ref().map(|value| (*value.get_ref(), value.span())) {
            Some((seconds @ 1..=86_400, _)) => seconds,
            None => 60,
            Some((_, span)) => {
                self.problem(span, "this is not a sensible time", "use 1 to 86400 seconds");
                60
            }
        };
        AuditHeads { path, key: self.path(&section.key), interval: Duration::from_secs(interval) }
    }
}

#[cfg(test)]
mod tests;
