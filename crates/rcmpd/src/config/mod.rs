//! The configuration file: parsing and checks.
//!
//! A file is read in two steps. The parser checks sections, keys and types, and stops at the first error.
//! Then all values are checked, and all errors are reported at once, each with its line and column.

mod checked_domain;
mod checker;
mod diagnostics;
pub(crate) mod files;
mod ldap;
mod mapping;
mod mapping_keys;
mod ntlm;
mod operators;
pub(crate) mod otlp;
mod peers;
mod postgres;
pub(crate) mod reference;
pub(crate) mod schema;
mod sections;
mod several;
pub(crate) mod shape;
pub(crate) mod shown;
mod sidecar;
mod socket;
mod source;
mod sso;
mod tlsnego;
mod trust;

pub use checked_domain::CheckedDomain;
pub use diagnostics::{ConfigError, Problem};
pub use ldap::{Ldap, LdapServers};
pub use mapping::{AuthorityEntry, Mapping};
pub use ntlm::Ntlm;
pub use operators::{OVERFLOW_UID, Operator, OperatorSocket, SHARED};
pub use otlp::Otlp;
pub use peers::{Direction, Forward, Peer, PeerKind, Relay, Servers};
use pem_file::input;
pub use postgres::Postgres;
pub use rcmp_client::peer::ResponseCrypt;
pub(crate) use secret_ref::percent_decoded;
pub use secret_ref::{SEAL_FORMS, SealRef, SecretMissing, SecretRef, TokenRef};
pub use sections::{Gone, Sections};
pub use several::StorePart;
pub(crate) use shown::{Origin, Shown};
pub use sidecar::{
    Application, Listen, ListenTls, Place, Proxy, Reference, SIDECAR_METHODS, Sidecar, SocketGroup, Source,
    Speaks, Ticket, Token, UnixPlace, UpstreamPlace, UpstreamProtocol, UpstreamTls,
};
pub use socket::Socket;
pub use sso::{Kerberos, Sso};
pub use tlsnego::{BINDINGS, SUITES, Tlsnego, TlsnegoCookie};
pub use trust::{Ocsp, TrustFiles, usual_key_purposes};

use crate::stores::{BUILT_IN, Settings, added};
use account_store::{DistinguishedName, Domain, FileAccess, FileRefused, RID_FIRST};
use audit_log::{CheckpointSettings, CopySettings, Encoding, Receiver};
use checker::{Checker, UP_TO_A_DAY_S};
use dtyp::Sid;
use postgres::PostgresSection;
use rcmp_service::Misses;
use serde::Deserialize;
use socket::SocketSection;
use sso_service::LocalDomain;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// What an operator configured, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The domain that is served.
    pub domain: Domain,
    /// Suffixes of user principal names that its accounts may have beside its DNS name.
    pub upn_suffixes: Vec<String>,
    /// NetBIOS name of this server.
    pub server: String,
    /// Whether a key may be readable by a group of this process, as Kubernetes mounts it.
    pub group_readable_keys: bool,
    /// Where and how RPC is served; `None` without `[rpc]`.
    pub rpc: Option<Rpc>,
    /// Where accounts are.
    pub store: Option<Store>,
    /// How certificates are mapped.
    pub mapping: Option<Mapping>,
    /// The server and the machine account of `rcmpd map`, and of a sidecar with `source = "remote"`.
    pub client: Option<Client>,
    /// Health, metrics and status over HTTP.
    pub admin: Option<Admin>,
    /// What is logged and how.
    pub telemetry: Telemetry,
    /// The audit log.
    pub audit: audit_log::Settings,
    /// Trusted domains.
    pub peers: Vec<Peer>,
    /// Packages that are relayed to domain controllers.
    pub relays: Vec<Relay>,
    /// How questions are forwarded.
    pub forward: Forward,
    /// The sidecar for web servers.
    pub sidecar: Option<Sidecar>,
    /// The master secret server.
    pub sso: Option<Sso>,
    /// The token service for SOAP clients.
    pub tlsnego: Option<Tlsnego>,
    /// The sections and keys of the file, to be compared at a reload.
    pub sections: Sections,
}

/// `[rpc]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rpc {
    /// Addresses of Netlogon.
    pub listen: Vec<SocketAddr>,
    /// Address of the endpoint mapper.
    pub endpoint_mapper: Option<SocketAddr>,
    /// Whether clients must use the name of this server.
    pub strict_server_name: bool,
    /// Whether ValidationData is encrypted inside the seal.
    pub response_crypt: netlogon_transport::server::ResponseCrypt,
    /// Limits and timeouts of connections.
    pub limits: dcerpc_tokio::Limits,
    /// The time for calls in flight at shutdown.
    pub grace: Duration,
    /// The rate limit of an account for certificates that map no account.
    pub misses: Misses,
}

/// `[store]` and `[channels]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    /// Where accounts are.
    pub kind: StoreKind,
    /// `[store.compare]`: the store that is asked beside it, and whose answers are only compared.
    pub compare: Option<StoreKind>,
    /// The database file with the machines; that of the accounts, where there is one. `None` if a server has
    /// them.
    pub machines: Option<PathBuf>,
    /// The key file that seals the secrets of machines.
    pub key: PathBuf,
    /// Whether other servers with the same database serve the secure channels of this one.
    pub shares_channels: bool,
}

impl Store {
    /// Whether the database with the machines has the accounts, too.
    pub fn has_accounts(&self) -> bool {
        matches!(self.kind, StoreKind::Sqlite(_) | StoreKind::Postgres(_))
    }

    /// All kinds that are configured, each with the section that names it.
    pub fn kinds(&self) -> Vec<(String, &StoreKind)> {
        let mut kinds = vec![("store".to_owned(), &self.kind)];
        if let StoreKind::Several(parts) = &self.kind {
            kinds.extend(parts.iter().map(|part| (part.section(), &part.kind)));
        }
        kinds.extend(self.compare.iter().map(|kind| ("store.compare".to_owned(), kind)));
        kinds
    }
}

/// `store.kind`.
#[derive(Clone, Debug, PartialEq)]
pub enum StoreKind {
    /// The embedded database, with this file.
    Sqlite(PathBuf),
    /// A database on a server.
    Postgres(Box<Postgres>),
    /// JSON Lines, read at start and at a reload.
    Memory(PathBuf),
    /// Fixed accounts by issuer, `[[store.level]]`.
    Profile(Vec<Level>),
    /// A directory, `[store.ldap]`.
    Ldap(Box<Ldap>),
    /// A program that answers for its accounts, `[store.socket]`.
    Socket(Box<Socket>),
    /// Several stores, `[[store.part]]`.
    Several(Vec<StorePart>),
    /// A kind that this build adds, with its settings.
    Added(String, Settings),
}

/// `[[store.level]]`: all certificates of these issuers map to this account.
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
    /// The servers of the domain, in the order in which they are asked; never those of a peer.
    pub servers: Servers,
    /// The machine account, such as `WEB01$`.
    pub account: String,
    /// Reference to the password of the machine account.
    pub secret: SecretRef,
    /// Public keys that may sign hops of a path: NetBIOS names of domains, and files.
    pub proof_keys: Vec<(String, PathBuf)>,
    /// Whether it runs rcmpd, and may be sent what goes beside a question: the trace, the time left, a nonce.
    pub is_rcmpd: bool,
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The bearer token for everything except health and metrics.
    pub token: Option<SecretRef>,
    /// Accepted Host headers for requests with the token, in addition to the address.
    pub hosts: Vec<String>,
    /// The listener for operators with certificates.
    pub tls: Option<AdminTls>,
}

/// `[admin.tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminTls {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its certificate with the chain.
    pub certificate: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
    /// The CAs of the operators' certificates.
    pub client_ca: PathBuf,
    /// Their CRLs; if there are any, each CA of a path needs one.
    pub crls: Vec<PathBuf>,
}

/// `[telemetry]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// Filter directives, such as `info` or `info,dcerpc_tokio=debug`.
    pub log: String,
    /// Whether lines are JSON.
    pub json: bool,
    /// What is exported by OTLP.
    pub otlp: Otlp,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    domain: DomainSection,
    files: Option<FilesSection>,
    rpc: Option<RpcSection>,
    store: Option<StoreSection>,
    channels: Option<ChannelsSection>,
    mapping: Option<Spanned<mapping_keys::Section>>,
    client: Option<Spanned<ClientSection>>,
    admin: Option<AdminSection>,
    telemetry: Option<TelemetrySection>,
    audit: Option<AuditSection>,
    #[serde(default)]
    peer: Vec<Spanned<peers::PeerSection>>,
    #[serde(default)]
    relay: Vec<Spanned<peers::RelaySection>>,
    forward: Option<peers::ForwardSection>,
    sidecar: Option<Spanned<sidecar::Section>>,
    sso: Option<Spanned<sso::Section>>,
    tlsnego: Option<Spanned<tlsnego::Section>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DomainSection {
    netbios: Spanned<String>,
    dns: Spanned<String>,
    sid: Spanned<String>,
    server: Spanned<String>,
    #[serde(default)]
    upn_suffixes: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FilesSection {
    #[serde(default)]
    group_readable_keys: bool,
}

/// `[domain]` without its server. The SID is none if it is wrong.
struct OwnDomain {
    netbios: String,
    dns: String,
    sid: Option<Sid>,
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
    ldap: Option<Spanned<ldap::LdapSection>>,
    postgres: Option<Spanned<PostgresSection>>,
    socket: Option<Spanned<SocketSection>>,
    /// The stores of `kind = "several"`.
    #[serde(default)]
    part: Vec<Spanned<StoreSection>>,
    compare: Option<Box<Spanned<StoreSection>>>,
    /// These three are of a `[[store.part]]` alone.
    name: Option<Spanned<String>>,
    suffixes: Option<Spanned<Vec<Spanned<String>>>>,
    issuers: Option<Spanned<Vec<Spanned<String>>>>,
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
    shared: Option<Spanned<bool>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientSection {
    server: Option<Spanned<String>>,
    servers: Option<Spanned<Vec<Spanned<String>>>>,
    discovery: Option<Spanned<String>>,
    site: Option<Spanned<String>>,
    dns: Option<Spanned<Vec<Spanned<String>>>>,
    account: Spanned<String>,
    secret: Spanned<String>,
    #[serde(default)]
    proof_keys: BTreeMap<String, PathBuf>,
    kind: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdminSection {
    listen: Spanned<String>,
    token: Option<Spanned<String>>,
    #[serde(default)]
    hosts: Vec<Spanned<String>>,
    tls: Option<AdminTlsSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdminTlsSection {
    listen: Spanned<String>,
    certificate: PathBuf,
    key: PathBuf,
    client_ca: PathBuf,
    #[serde(default)]
    crls: Vec<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TelemetrySection {
    log: Option<Spanned<String>>,
    format: Option<Spanned<String>>,
    otlp: Option<otlp::Section>,
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
    journald: Option<CopySection>,
    syslog: Option<CopySection>,
    otlp: Option<OtlpCopySection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CopySection {
    socket: Option<PathBuf>,
    encoding: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OtlpCopySection {
    encoding: Option<Spanned<String>>,
}

/// How copies of audit lines are written.
pub(crate) const ENCODINGS: [(&str, Encoding); 2] = [("rcmpd", Encoding::Own), ("ocsf", Encoding::Ocsf)];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadsSection {
    path: Spanned<PathBuf>,
    key: PathBuf,
    interval_s: Option<Spanned<u64>>,
}

/// Targets of log messages: the crates that log, and `audit` for the audit log if it has no file.
const LOG_TARGETS: [&str; 28] = [
    "account_store",
    "audit",
    "audit_log",
    "dcerpc",
    "dcerpc_tokio",
    "dtyp",
    "listener_tokio",
    "netlogon_tokio",
    "netlogon_transport",
    "pac",
    "pem_file",
    "proxy_check",
    "rcmp_service",
    "rcmpd",
    "rpc_auth",
    "service_manager",
    "sidecar",
    "sidecar_tokio",
    "sso_secret",
    "sso_service",
    "sso_tokio",
    "store_ldap",
    "store_postgres",
    "store_socket",
    "tlsnego_service",
    "tlsnego_soap",
    "tlsnego_tokio",
    "trust_tokio",
];

/// What is wrong with the directives of a log filter.
pub(crate) fn log_filter_problem(directives: &str) -> Option<&'static str> {
    if tracing_subscriber::filter::EnvFilter::try_new(directives).is_err() {
        return Some("this is not a log filter");
    }
    let is_any = directives.split(',').any(is_log_directive);
    (!is_any).then_some("this has no log level and no log target of rcmpd, so nothing is logged")
}

/// Whether a filter directive is a level or a log target of this program.
fn is_log_directive(directive: &str) -> bool {
    let directive = directive.trim();
    let target = directive.split("::").next().unwrap_or_default();
    directive.contains(['=', '['])
        || directive.parse::<tracing_subscriber::filter::LevelFilter>().is_ok()
        || LOG_TARGETS.contains(&target)
}

/// The default of `audit.heads.interval_s`: at most a minute of the log is not signed.
const HEADS_INTERVAL_S: u64 = 60;
/// A larger number is no limit.
const MISSES_MAX: u64 = 1_000_000;
/// What an account may write into a required audit log in an hour, in MiB: a million decisions, which is no
/// machine's normal load.
const BUDGET_MIB: u64 = 1024;
/// A larger number is no limit.
const BUDGET_MIB_MAX: u64 = 1 << 20;

/// The text of a file that not every user may change, or of standard input.
fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |error| ConfigError::Unreadable { path: path.to_owned(), error };
    if input::is_standard(path) {
        return input::read(path).and_then(|bytes| text_of(&bytes)).map_err(unreadable);
    }
    let bytes = FileAccess::ReadByAll.read(path).map_err(|error| match error {
        FileRefused::Mode { .. } => {
            let (what, help) = (format!("this file {error}"), String::new());
            let problems = vec![Problem { span: 0..0, what, help }];
            ConfigError::Wrong { path: path.to_owned(), text: String::new(), problems }
        }
        FileRefused::Io(error) => unreadable(error),
    })?;
    text_of(&bytes).map_err(unreadable)
}

fn text_of(bytes: &[u8]) -> std::io::Result<String> {
    let text = std::str::from_utf8(bytes);
    Ok(text.map_err(|error| std::io::Error::new(ErrorKind::InvalidData, error))?.to_owned())
}

/// Reads and checks a file.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = read(path)?;
    let checked = parse(&text, base(path));
    if let Ok(config) = &checked {
        account_store::file_access::let_group_read_keys(config.group_readable_keys);
    }
    let checked = checked.and_then(|config| match config.is_written_to(path) {
        None => Ok(config),
        Some(key) => {
            let what = format!("{key} is this file itself");
            Err(vec![Problem { span: 0..0, what, help: "use a separate file".to_owned() }])
        }
    });
    checked.map_err(|problems| ConfigError::Wrong { path: path.to_owned(), text, problems })
}

/// A checked file, and its text.
pub(crate) fn load_with_text(path: &Path) -> Result<(Config, String), ConfigError> {
    let config = load(path)?;
    let text = read(path)?;
    let is_same = Sections::of(&text) == config.sections;
    let changed = || std::io::Error::other("it changed while it was read");
    is_same
        .then_some((config, text))
        .ok_or_else(|| ConfigError::Unreadable { path: path.to_owned(), error: changed() })
}

/// Reads and checks text; relative paths start at `base`.
pub fn parse(text: &str, base: &Path) -> Result<Config, Vec<Problem>> {
    let file: File = source::read(text).map_err(|error| vec![Problem::from_source(&error, text)])?;
    let config = Checker::run(base, |checker| checker.check(file))?;
    Ok(Config { sections: Sections::of(text), ..config })
}

/// The keys of the file with their types.
pub(crate) fn file_shape() -> shape::Shape {
    use shape::{Field, Shape};
    fn form_or_grant(fields: &mut [Field]) {
        for field in fields {
            match &mut field.shape {
                Shape::List(inner) if field.name == "grant" => {
                    **inner = Shape::Either(vec![Shape::Text, shape::shape_of::<mapping_keys::GrantTo>()]);
                }
                Shape::List(inner) => {
                    if let Shape::Table(fields) = &mut **inner {
                        form_or_grant(fields);
                    }
                }
                Shape::Table(fields) => form_or_grant(fields),
                _ => {}
            }
        }
    }
    let mut shape = shape::shape_of::<File>();
    if let Shape::Table(fields) = &mut shape {
        form_or_grant(fields);
    }
    shape
}

/// Reads the `[mapping]` of a file, which may hold nothing else.
pub fn load_mapping(path: &Path) -> Result<Mapping, ConfigError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Alone {
        mapping: Spanned<mapping_keys::Section>,
    }
    let text = read(path)?;
    let whole = text.parse::<toml::Table>().is_ok_and(|table| table.contains_key("domain"));
    let read = match whole {
        true => parse(&text, base(path)).map(|config| config.mapping),
        false => {
            source::read::<Alone>(&text).map_err(|error| vec![Problem::from_source(&error, &text)]).and_then(
                |file| Checker::run(base(path), |checker| Some(checker.mapping(file.mapping))).map(Some),
            )
        }
    };
    let missing = || {
        let help = "add [mapping], with the rules of the other policy".to_owned();
        vec![Problem { span: 0..0, what: "[mapping] is missing".to_owned(), help }]
    };
    read.and_then(|mapping| mapping.ok_or_else(missing)).map_err(|problems| ConfigError::Wrong {
        path: path.to_owned(),
        text,
        problems,
    })
}

/// The folder of a file, where its relative paths start.
pub(crate) fn base(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The least `store.postgres.connections` of servers that share channels: some are left for accounts.
const SHARING_CONNECTIONS_MIN: usize = 8;

/// Advice that names the kinds of store of this build.
fn store_kinds() -> String {
    let mut kinds: Vec<String> =
        BUILT_IN.into_iter().chain(added()).map(|kind| format!("\"{kind}\"")).collect();
    let last = kinds.pop().unwrap_or_default();
    format!("use kind = {} or {last}", kinds.join(", "))
}

impl Config {
    /// Whether the store knows the accounts of the whole forest.
    pub fn has_forest(&self) -> bool {
        let has_catalog =
            |kind: &StoreKind| matches!(kind, StoreKind::Ldap(ldap) if !ldap.catalog.is_empty());
        match self.store.as_ref().map(|store| &store.kind) {
            Some(StoreKind::Several(parts)) => parts.iter().any(|part| has_catalog(&part.kind)),
            kind => kind.is_some_and(has_catalog),
        }
    }
}

impl Checker<'_> {
    fn check(&mut self, file: File) -> Option<Config> {
        let domain = self.domain(&file.domain);
        self.domain_sid = domain.sid;
        let peer_names: Vec<String> =
            file.peer.iter().map(|peer| peer.get_ref().domain.get_ref().to_uppercase()).collect();
        let peers = self.peers(file.peer, &domain);
        let suffixes = file.domain.upn_suffixes.iter();
        let upn_suffixes = suffixes.map(|suffix| self.dns_name(suffix).to_lowercase()).collect();
        let store =
            file.store.as_ref().and_then(|store| self.store(store, file.channels.as_ref(), &domain.dns));
        let serves = file.rpc.is_some();
        let rpc = file.rpc.map(|rpc| self.rpc(rpc));
        let mapping_span = file.mapping.as_ref().map(Spanned::span);
        let mapping = file.mapping.map(|mapping| self.mapping(mapping));
        if serves && mapping.is_none() {
            self.problem(
                0..0,
                "[mapping] is missing",
                "say how certificates are mapped: at least anchors = [\"certs/ca.pem\"], the CAs that are trusted",
            );
        }
        if serves && file.store.is_none() {
            self.problem(
                0..0,
                "[store] is missing",
                "name the account store: kind = \"sqlite\", path = \"accounts.db\"",
            );
        }
        let is_profile = store.as_ref().is_some_and(|store| matches!(store.kind, StoreKind::Profile(_)));
        if let (Some(span), Some(mapping)) = (mapping_span, &mapping)
            && is_profile
            && peer_names.is_empty()
            && [Some(mapping), mapping.shadow.as_deref()]
                .into_iter()
                .flatten()
                .any(|it| !it.looks_up_issuers())
        {
            self.problem(
                span,
                "accounts of kind = \"profile\" are found only by issuer, and [mapping] does not look up by issuer",
                "set methods = [\"issuer\"] or [\"issuer-chain\"], and grant = [\"issuer\"], in [mapping]",
            );
        }
        let has_client = file.client.is_some();
        let client = file.client.and_then(|client| self.client(client));
        let beside = sidecar::SidecarContext {
            mapping: mapping.as_ref(),
            has_store: file.store.is_some(),
            store: store.as_ref(),
            has_client,
            client: client.as_ref(),
            peers: &peer_names,
            domain: &domain.netbios,
        };
        let sidecar = file.sidecar.map(|sidecar| self.sidecar(sidecar, &beside));
        let has_accounts = store.as_ref().is_some_and(Store::has_accounts);
        let server = file.domain.server.get_ref().to_uppercase();
        let domains = checked_domain::CheckedDomainContext { server: &server, ours: &domain };
        let local_domain = domain.sid.map(|sid| LocalDomain { netbios: domain.netbios.clone(), sid });
        let beside = sso::Beside {
            ntlm: ntlm::NtlmContext { has_accounts, domains },
            has_audit: file.audit.as_ref().is_some_and(|audit| audit.path.is_some()),
            has_mapper: rpc.as_ref().is_some_and(|rpc| rpc.endpoint_mapper.is_some()),
            domain: local_domain.clone(),
        };
        let sso = file.sso.and_then(|section| self.sso(section, &beside));
        let beside = tlsnego::TlsnegoContext {
            has_accounts,
            has_mapping: mapping.is_some(),
            domains,
            domain: local_domain,
        };
        let tlsnego = file.tlsnego.and_then(|section| self.tlsnego(section, &beside));
        let config = Config {
            domain: Domain { netbios: domain.netbios, dns: domain.dns, sid: domain.sid? },
            upn_suffixes,
            server,
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
            sso,
            tlsnego,
            sections: Sections::default(),
            group_readable_keys: file.files.is_some_and(|files| files.group_readable_keys),
        };
        Some(config)
    }

    fn domain(&mut self, section: &DomainSection) -> OwnDomain {
        let netbios = self.netbios(&section.netbios);
        self.netbios(&section.server);
        OwnDomain { netbios, dns: self.dns_name(&section.dns), sid: self.domain_sid(&section.sid) }
    }

    fn rpc(&mut self, section: RpcSection) -> Rpc {
        use netlogon_transport::server::ResponseCrypt;
        if section.listen.get_ref().is_empty() {
            self.problem(
                section.listen.span(),
                "listen is an empty list",
                "name an address, or remove [rpc] if RPC is not served",
            );
        }
        let listen = section.listen.get_ref().iter().filter_map(|address| self.listens(address)).collect();
        let endpoint_mapper = section.endpoint_mapper.as_ref().and_then(|address| self.listens(address));
        let response_crypt = self
            .one_of(
                section.response_crypt.as_ref(),
                &[("encrypt", ResponseCrypt::Encrypt), ("plain", ResponseCrypt::Plain)],
                "response_crypt",
            )
            .unwrap_or(ResponseCrypt::Encrypt);
        let mut limits = dcerpc_tokio::Limits::default();
        for (value, limit) in [
            (&section.connections_max, &mut limits.connections_max),
            (&section.connections_per_address_max, &mut limits.connections_per_address_max),
            (&section.connections_per_account_max, &mut limits.connections_per_account_max),
        ] {
            match value.as_ref().map(|value| (*value.get_ref(), value.span())) {
                Some((0, span)) => self.problem(span, "this limit allows no connection", "use at least 1"),
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
            *timeout = self.seconds(value.as_ref(), UP_TO_A_DAY_S, timeout.as_secs());
        }
        let default = Misses::default();
        let mut number = |given: &Option<Spanned<u64>>, least, default: u32| {
            self.within(given.as_ref(), least..=MISSES_MAX, "", default.into()) as u32
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

    fn store(
        &mut self,
        section: &StoreSection,
        channels: Option<&ChannelsSection>,
        dns: &str,
    ) -> Option<Store> {
        self.no_part_of_several(section);
        let mut kind = self.store_kind(section, dns)?;
        let compare = match &section.compare {
            Some(compare) => Some(self.compared(compare, dns)?),
            None => None,
        };
        let here = if matches!(kind, StoreKind::Postgres(_)) { "postgres" } else { "sqlite" };
        if let Some(store) = channels.and_then(|channels| channels.store.as_ref())
            && store.get_ref() != here
        {
            self.problem(
                store.span(),
                "machine secrets cannot be stored there",
                format!("use store = \"{here}\"; they never go into LDAP"),
            );
        }
        let path = channels.and_then(|channels| channels.path.as_ref());
        let machines = match (&kind, path) {
            (StoreKind::Postgres(_), path) => {
                if let Some(path) = path {
                    self.problem(
                        path.span(),
                        "machine accounts are in the database of [store.postgres]",
                        "remove this path",
                    );
                }
                None
            }
            (StoreKind::Sqlite(accounts), None) => Some(accounts.clone()),
            (StoreKind::Sqlite(accounts), Some(path)) => {
                if self.path(path.get_ref()) != *accounts {
                    self.problem(
                        path.span(),
                        "machine accounts are in the database of store.path",
                        "remove this path",
                    );
                }
                Some(accounts.clone())
            }
            (_, Some(path)) => Some(self.path(path.get_ref())),
            (_, None) => {
                self.problem(
                    section.kind.span(),
                    "this kind of store has no machine accounts",
                    "name a database for them: [channels] store = \"sqlite\", path = \"machines.db\"",
                );
                return None;
            }
        };
        let shared = channels.and_then(|channels| channels.shared.as_ref());
        let shared = shared.filter(|shared| *shared.get_ref());
        if let Some(shared) = shared.filter(|_| here != "postgres") {
            self.problem(
                shared.span(),
                "servers share channels in PostgreSQL only",
                "remove this key, or use [store] kind = \"postgres\"",
            );
        }
        if let (Some(shared), StoreKind::Postgres(postgres)) = (shared, &kind)
            && postgres.connections < SHARING_CONNECTIONS_MIN
        {
            self.problem(
                shared.span(),
                "too few connections to PostgreSQL: questions about shared channels take up to 6 of them",
                format!("set connections = {SHARING_CONNECTIONS_MIN} or more in [store.postgres]"),
            );
        }
        if let (Some(_), StoreKind::Postgres(postgres)) = (shared, &mut kind) {
            // A machine's rights end at all servers at once, unless the configuration says otherwise.
            postgres.fresh.get_or_insert(store_postgres::FRESH);
        }
        let key = channels.and_then(|channels| channels.key.as_deref());
        let beside = machines.clone().unwrap_or_else(|| self.path(Path::new("accounts")));
        let key = key.map_or_else(|| beside.with_extension("key"), |key| self.path(key));
        Some(Store { kind, compare, machines, key, shares_channels: shared.is_some() })
    }

    fn store_kind(&mut self, section: &StoreSection, dns: &str) -> Option<StoreKind> {
        let kind = section.kind.get_ref().as_str();
        self.tables_of_store(section, kind);
        let path = self.path_of_store(section, kind);
        match kind {
            _ if added().any(|added| added == kind) => {
                let table =
                    section.settings.as_ref().map_or_else(toml::Table::new, |it| it.get_ref().clone());
                let settings = Settings::new(section.path.as_deref(), self.base, table);
                Some(StoreKind::Added(kind.to_owned(), settings))
            }
            "sqlite" => path.map(StoreKind::Sqlite),
            "memory" => path.map(StoreKind::Memory),
            "profile" => {
                if section.level.is_empty() {
                    self.problem(
                        section.kind.span(),
                        "there are no levels",
                        "add [[store.level]] with name, rid, issuers and groups",
                    );
                }
                Some(StoreKind::Profile(section.level.iter().map(|level| self.level(level)).collect()))
            }
            "several" => self.parts(section, dns).map(StoreKind::Several),
            "ldap" => {
                let Some(ldap) = &section.ldap else {
                    self.problem(
                        section.kind.span(),
                        "the directory is not described",
                        "add [store.ldap]; docs/directories.md has examples",
                    );
                    return None;
                };
                self.ldap(ldap, dns).map(|ldap| StoreKind::Ldap(Box::new(ldap)))
            }
            "socket" => {
                let Some(socket) = &section.socket else {
                    self.problem(
                        section.kind.span(),
                        "[store.socket] is missing",
                        "say where the program listens, and which user it runs as: path and peer",
                    );
                    return None;
                };
                Some(StoreKind::Socket(Box::new(self.socket(socket.get_ref()))))
            }
            "postgres" => {
                let Some(postgres) = &section.postgres else {
                    self.problem(
                        section.kind.span(),
                        "[store.postgres] is missing",
                        "say where the database is: servers, database, user, password and ca",
                    );
                    return None;
                };
                self.postgres(postgres.get_ref()).map(|postgres| StoreKind::Postgres(Box::new(postgres)))
            }
            _ => {
                self.problem(section.kind.span(), "this is not a kind of store", store_kinds());
                None
            }
        }
    }

    /// The file of a kind that has one. A kind that has none is told where its accounts are.
    fn path_of_store(&mut self, section: &StoreSection, kind: &str) -> Option<PathBuf> {
        let missing = match kind {
            "sqlite" => Some("say which file: path = \"accounts.db\""),
            "memory" => Some("say which file of JSON Lines is read: path = \"accounts.jsonl\""),
            _ => None,
        };
        let elsewhere = match kind {
            "profile" => Some("remove path; its accounts are the [[store.level]] of this file"),
            "several" => Some("remove path; its stores are the [[store.part]] of this file"),
            "ldap" => Some("remove path; the directory is described in [store.ldap]"),
            "socket" => Some("remove path; the path of the socket is a key of [store.socket]"),
            "postgres" => Some("remove path; its server is named in [store.postgres]"),
            _ => None,
        };
        match (&section.path, missing, elsewhere) {
            (Some(path), Some(_), _) => return Some(self.path(path)),
            (None, Some(to_do), _) => self.problem(section.kind.span(), "a path is missing", to_do),
            (Some(_), _, Some(to_do)) => {
                self.problem(section.kind.span(), "this kind of store has no file", to_do);
            }
            _ => {}
        }
        None
    }

    /// Rejects the tables of other kinds.
    fn tables_of_store(&mut self, section: &StoreSection, kind: &str) {
        if kind != "profile" && !section.level.is_empty() {
            self.problem(
                section.kind.span(),
                "[[store.level]] belongs to kind = \"profile\"",
                "remove the levels, or say kind = \"profile\"",
            );
        }
        if let Some(ldap) = section.ldap.as_ref().filter(|_| kind != "ldap") {
            self.problem(
                ldap.span(),
                "[store.ldap] belongs to kind = \"ldap\"",
                "remove it, or say kind = \"ldap\"",
            );
        }
        if kind != "several" && !section.part.is_empty() {
            self.problem(
                section.kind.span(),
                "[[store.part]] belongs to kind = \"several\"",
                "remove the parts, or say kind = \"several\"",
            );
        }
        if let Some(settings) = section.settings.as_ref().filter(|_| BUILT_IN.contains(&kind)) {
            self.problem(
                settings.span(),
                format!("[store.settings] does not belong to kind = \"{kind}\""),
                "remove it: only kinds of store that a build adds have settings",
            );
        }
        if let Some(socket) = section.socket.as_ref().filter(|_| kind != "socket") {
            self.problem(
                socket.span(),
                format!("[store.socket] does not belong to kind = \"{kind}\""),
                "remove it, or say kind = \"socket\"",
            );
        }
        if let Some(postgres) = section.postgres.as_ref().filter(|_| kind != "postgres") {
            self.problem(
                postgres.span(),
                format!("[store.postgres] does not belong to kind = \"{kind}\""),
                "remove it, or say kind = \"postgres\"",
            );
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
                "an account needs a primary group",
                "name it first: groups = [{ rid = 513, name = \"Domain Users\" }]",
            );
        }
        if section.issuers.get_ref().is_empty() {
            let help = "name the issuing CAs of its certificates";
            self.problem(section.issuers.span(), "without an issuer no certificate maps to this level", help);
        }
        let issuers = section.issuers.get_ref().iter();
        let issuers = issuers.filter_map(|issuer| self.distinguished_name(issuer)).collect();
        let groups = section.groups.get_ref().iter().map(|group| (group.rid, group.name.clone()));
        Level { name: section.name.clone(), rid: *section.rid.get_ref(), issuers, groups: groups.collect() }
    }

    fn admin(&mut self, section: AdminSection) -> Option<Admin> {
        let token = section.token.as_ref().and_then(|token| self.secret(token));
        let hosts = section.hosts.iter().map(|host| self.admin_host(host)).collect();
        let tls = section.tls.as_ref().and_then(|tls| {
            let [certificate, key, client_ca] =
                [&tls.certificate, &tls.key, &tls.client_ca].map(|path| self.path(path));
            let crls = tls.crls.iter().map(|path| self.path(path)).collect();
            Some(AdminTls { listen: self.listens(&tls.listen)?, certificate, key, client_ca, crls })
        });
        Some(Admin { listen: self.listens(&section.listen)?, token, hosts, tls })
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

    fn client(&mut self, section: Spanned<ClientSection>) -> Option<Client> {
        let (span, section) = (section.span(), section.into_inner());
        if let Some(server) = section.server.as_ref().filter(|server| server.get_ref().is_empty()) {
            self.problem(server.span(), "a server is missing", "write HOST or HOST:PORT");
        }
        let servers = self.servers_of_client(&section, span);
        if !section.account.get_ref().ends_with('$') {
            self.problem(
                section.account.span(),
                "this is not a machine account",
                "its name ends in a dollar sign, as in \"WEB01$\"",
            );
        }
        let is_rcmpd = self.one_of(section.kind.as_ref(), &[("netlogon", false), ("rcmpd", true)], "kind");
        let has_keys = !section.proof_keys.is_empty();
        if let (Some(kind), Some(false), true) = (&section.kind, is_rcmpd, has_keys) {
            self.problem(kind.span(), "only servers of rcmpd sign hops", "remove it, or proof_keys");
        }
        Some(Client {
            servers: servers?,
            is_rcmpd: is_rcmpd.unwrap_or(has_keys),
            account: section.account.get_ref().clone(),
            secret: self.secret(&section.secret)?,
            proof_keys: section
                .proof_keys
                .iter()
                .map(|(domain, path)| (domain.to_uppercase(), self.path(path)))
                .collect(),
        })
    }

    fn telemetry(&mut self, section: Option<TelemetrySection>) -> Telemetry {
        let section = section.unwrap_or(TelemetrySection { log: None, format: None, otlp: None });
        let json = self.one_of(section.format.as_ref(), &[("text", false), ("json", true)], "log format");
        if let Some(log) = &section.log {
            let help = "write a level, or target=level pairs, as in \"info,dcerpc_tokio=debug\"";
            if let Some(problem) = log_filter_problem(log.get_ref()) {
                self.problem(log.span(), problem, help);
            }
        }
        Telemetry {
            log: section.log.map_or_else(|| "info".into(), Spanned::into_inner),
            json: json.unwrap_or(false),
            otlp: section.otlp.map(|otlp| self.otlp(&otlp)).unwrap_or_default(),
        }
    }

    fn audit(&mut self, section: AuditSection) -> audit_log::Settings {
        if section.required && section.path.is_none() {
            self.problem(0..0, "[audit] is required and has no path", "name a file: path = \"audit.log\"");
        }
        let chain = section.chain.as_ref().is_some_and(|chain| *chain.get_ref());
        if let Some(span) =
            section.chain.filter(|_| chain && section.path.is_none()).map(|chain| chain.span())
        {
            self.problem(span, "a chain needs a file", "name it: path = \"audit.log\"");
        }
        if let Some(heads) = section.heads.as_ref().filter(|_| !chain) {
            self.problem(heads.span(), "heads need a chain", "set chain = true in [audit]");
        }
        let path = section.path.map(|path| self.path(&path));
        let heads = section.heads.map(|heads| self.heads(heads.into_inner(), path.as_deref()));
        let certificates = section.certificates.unwrap_or(true);
        let budget =
            self.within(section.account_mib_per_hour.as_ref(), 0..=BUDGET_MIB_MAX, "MiB", BUDGET_MIB);
        let account_budget = budget << 20;
        let receivers = [
            (Receiver::Journald, section.journald, "/run/systemd/journal/socket"),
            (Receiver::Syslog, section.syslog, "/dev/log"),
        ];
        let copies = receivers.into_iter().filter_map(|(to, copy, socket)| {
            let CopySection { socket: given, encoding } = copy?;
            let encoding = self.one_of(encoding.as_ref(), &ENCODINGS, "encoding").unwrap_or(Encoding::Own);
            let socket = given.map_or_else(|| PathBuf::from(socket), |socket| self.path(&socket));
            Some(CopySettings { to, socket, encoding })
        });
        let copies = copies.collect();
        let otlp = section
            .otlp
            .map(|otlp| self.one_of(otlp.encoding.as_ref(), &ENCODINGS, "encoding").unwrap_or(Encoding::Own));
        audit_log::Settings {
            path,
            required: section.required,
            certificates,
            chain,
            heads,
            account_budget,
            copies,
            otlp,
        }
    }

    fn heads(&mut self, section: HeadsSection, log: Option<&Path>) -> CheckpointSettings {
        let path = self.path(section.path.get_ref());
        if log == Some(&path) {
            self.problem(section.path.span(), "this is the audit log itself", "name another file");
        }
        let interval = self.seconds(section.interval_s.as_ref(), UP_TO_A_DAY_S, HEADS_INTERVAL_S);
        CheckpointSettings { path, key: self.path(&section.key), interval }
    }
}

#[cfg(test)]
mod tests;
