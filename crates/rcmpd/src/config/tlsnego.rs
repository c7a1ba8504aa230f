//! `[tlsnego]`: the token service for SOAP clients, as a gateway in front of a plain SOAP 1.2 service.

use super::checked_domain::{CheckedDomainContext, CheckedDomainSection};
use super::{CheckedDomain, Checker, SecretRef, UP_TO_A_DAY_S};
use serde::Deserialize;
use sso_service::{AccessRules, LocalDomain};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tlsnego_service::password::PasswordSettings;
use tlsnego_service::session::{Credential, SessionTimes};
use tlsnego_service::{TlsVersions, freshness::Skew};
use tlsnego_soap::address::Address;
use tlsnego_soap::server::Binding;
use toml::Spanned;
use xml_security::{Cipher, Hash, Suite};

/// `[tlsnego]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tlsnego {
    /// Where clients, or the web server in front, reach it over HTTP.
    pub listen: SocketAddr,
    /// What `a:To` may be.
    pub addresses: Vec<Address>,
    /// The certificate of the service with its chain, and the key.
    pub certificate: (PathBuf, PathBuf),
    /// The certificate and the key of the listener, if it speaks TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The file that keeps a restart from making messages new.
    pub state: Option<PathBuf>,
    /// The service: `http://HOST:PORT/PATH`.
    pub upstream: http::Uri,
    /// How long the service may take to answer.
    pub upstream_timeout: Duration,
    /// By what clients prove who they are.
    pub credential: Credential,
    /// Which ways to a call are open.
    pub bindings: Vec<Binding>,
    /// Algorithms.
    pub suite: Suite,
    /// TLS versions of negotiations.
    pub versions: TlsVersions,
    /// Whether clients may speak WS-Trust 1.3 as well.
    pub trust13: bool,
    /// Difference of clocks.
    pub skew: Skew,
    /// Lives of tokens and sessions.
    pub times: SessionTimes,
    /// Sessions in cookies, which each node of a farm serves; none if they are in a table of this process.
    pub cookie: Option<TlsnegoCookie>,
    /// Longest message in octets.
    pub message_len_max: usize,
    /// Whether clients may read the WSDL, and the WSDL of the service behind the gateway.
    pub metadata: Option<Option<PathBuf>>,
    /// How passwords are checked.
    pub passwords: PasswordSettings,
    /// Whether accounts of the local store have passwords here.
    pub local: bool,
    /// Domains whose controllers check the passwords of their users.
    pub domains: Vec<CheckedDomain>,
    /// Which SIDs those users may have. There are no administrators in it.
    pub sid_rules: AccessRules,
}

/// `[tlsnego.cookie]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsnegoCookie {
    /// Lines of roots, as `rcmpd sidecar ticket-key` writes them.
    pub keys: Vec<SecretRef>,
    /// The generation that seals; the highest one if it is not named.
    pub seal_with: Option<u32>,
    /// The name of the farm.
    pub audience: ticket::Name,
    /// The file in which the nodes of this machine keep accepted messages and ended sessions.
    pub store: PathBuf,
}

impl Tlsnego {
    /// Whether accounts of the local store authenticate by their passwords.
    pub fn has_local_users(&self) -> bool {
        self.credential == Credential::UserName && self.local
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    listen: Spanned<String>,
    addresses: Spanned<Vec<Spanned<String>>>,
    certificate: PathBuf,
    key: PathBuf,
    tls: Option<TlsFiles>,
    state: Option<PathBuf>,
    upstream: Spanned<String>,
    upstream_timeout_s: Option<Spanned<u64>>,
    credential: Spanned<String>,
    bindings: Option<Spanned<Vec<Spanned<String>>>>,
    suite: Option<Spanned<String>>,
    #[serde(default)]
    tls13: bool,
    #[serde(default)]
    trust13: bool,
    clock_skew_s: Option<Spanned<u64>>,
    session_s: Option<Spanned<u64>>,
    idle_timeout_s: Option<Spanned<u64>>,
    message_kib: Option<Spanned<u64>>,
    metadata: Option<Spanned<bool>>,
    wsdl: Option<Spanned<PathBuf>>,
    password_checks: Option<Spanned<u64>>,
    password_cache_s: Option<Spanned<u64>>,
    local: Option<Spanned<bool>>,
    #[serde(default)]
    domain: Vec<Spanned<CheckedDomainSection>>,
    cookie: Option<CookieSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CookieSection {
    keys: Spanned<Vec<Spanned<String>>>,
    seal_with: Option<u32>,
    audience: Spanned<String>,
    store: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsFiles {
    certificate: PathBuf,
    key: PathBuf,
}

/// What `[tlsnego]` needs of the rest of the file.
pub(super) struct TlsnegoContext<'a> {
    /// Whether the local store keeps passwords.
    pub(super) has_accounts: bool,
    pub(super) has_mapping: bool,
    pub(super) domains: CheckedDomainContext<'a>,
    /// The domain of this server, with its SID.
    pub(super) domain: Option<LocalDomain>,
}

/// The names of WCF's settings, as this configuration has them.
pub const BINDINGS: [(&str, Binding); 4] = [
    ("session", Binding { negotiate: true, establish: true }),
    ("negotiated", Binding { negotiate: true, establish: false }),
    ("preset-session", Binding { negotiate: false, establish: true }),
    ("one-shot", Binding { negotiate: false, establish: false }),
];

/// Credentials of clients by the name of WCF's `clientCredentialType`, in lower case.
const CREDENTIALS: [(&str, Credential); 3] = [
    ("none", Credential::None),
    ("username", Credential::UserName),
    ("certificate", Credential::Certificate),
];

const fn suite(cipher: Cipher, hash: Hash) -> Suite {
    Suite { cipher, hash }
}

/// Algorithm suites by the names of WCF, in lower case.
pub const SUITES: [(&str, Suite); 8] = [
    ("basic256", suite(Cipher::Aes256, Hash::Sha1)),
    ("basic192", suite(Cipher::Aes192, Hash::Sha1)),
    ("basic128", suite(Cipher::Aes128, Hash::Sha1)),
    ("tripledes", suite(Cipher::TripleDes, Hash::Sha1)),
    ("basic256sha256", suite(Cipher::Aes256, Hash::Sha256)),
    ("basic192sha256", suite(Cipher::Aes192, Hash::Sha256)),
    ("basic128sha256", suite(Cipher::Aes128, Hash::Sha256)),
    ("tripledessha256", suite(Cipher::TripleDes, Hash::Sha256)),
];

/// For the service to answer: as long as a .NET client waits.
const UPSTREAM_TIMEOUT_S: u64 = 60;
/// Clients of .NET take 64 KiB by default; signature and encryption add some 10 KiB to what an application
/// sends.
const MESSAGE_KIB: u64 = 256;
/// Each connection may hold one message.
const MESSAGE_KIB_MAX: u64 = 16 << 10;
/// An hour: a larger difference is an error of a clock.
const CLOCK_SKEW_MAX_S: u64 = 3_600;
/// Each check takes a core and 19 MiB for some 30 ms.
const PASSWORD_CHECKS_MAX: u64 = 64;

impl Checker<'_> {
    pub(super) fn tlsnego(
        &mut self,
        section: Spanned<Section>,
        beside: &TlsnegoContext<'_>,
    ) -> Option<Tlsnego> {
        let span = section.span();
        let section = section.into_inner();
        let credential = self.one_of(Some(&section.credential), &CREDENTIALS, "credential");
        let local = section.local.as_ref().is_none_or(|local| *local.get_ref());
        self.check_credential(&section, credential, beside);
        let addresses = self.addresses_of_gateway(&section.addresses);
        let defaults = SessionTimes::default();
        let bindings = self.tlsnego_bindings(section.bindings.as_ref());
        let suite = self.one_of(section.suite.as_ref(), &SUITES, "suite").unwrap_or(Suite::BASIC256);
        let skew =
            self.seconds(section.clock_skew_s.as_ref(), 0..=CLOCK_SKEW_MAX_S, Skew::default().0.as_secs());
        let established =
            self.seconds(section.session_s.as_ref(), UP_TO_A_DAY_S, defaults.established.as_secs());
        let idle = self.seconds(section.idle_timeout_s.as_ref(), UP_TO_A_DAY_S, defaults.idle.as_secs());
        if let (Some(idle), Some(_)) = (&section.idle_timeout_s, &section.cookie) {
            self.problem(
                idle.span(),
                "sessions in cookies have no idle timeout: no node knows when another one served them last",
                "remove it, and set session_s",
            );
        }
        if section.state.is_some() && section.cookie.is_some() {
            self.problem(
                span.clone(),
                "state and [tlsnego.cookie] exclude each other: the store of cookies remembers messages over a restart",
                "remove state",
            );
        }
        // The only token of such clients lives as long as a session.
        let is_for_calls = bindings.contains(&Binding { negotiate: true, establish: false });
        let times = SessionTimes {
            negotiated: if is_for_calls { established } else { defaults.negotiated },
            established,
            idle,
            ..defaults
        };
        let passwords = PasswordSettings::default();
        let checks =
            self.count(section.password_checks.as_ref(), 1..=PASSWORD_CHECKS_MAX, passwords.parallel as u64);
        let accepted =
            self.seconds(section.password_cache_s.as_ref(), 0..=86_400, passwords.accepted.as_secs());
        let has_metadata = section.metadata.as_ref().is_none_or(|metadata| *metadata.get_ref());
        if let (false, Some(wsdl)) = (has_metadata, &section.wsdl) {
            self.problem(wsdl.span(), "no client gets this WSDL: metadata = false", "remove one of the two");
        }
        let message_kib = self.count(section.message_kib.as_ref(), 16..=MESSAGE_KIB_MAX, MESSAGE_KIB);
        if self.base.join(&section.certificate) == self.base.join(&section.key) {
            self.problem(span, "certificate and key are the same file", "name the file of each");
        }
        let mut sid_filters = Vec::new();
        let domains = self.checked_domains(section.domain, beside.domains, &mut sid_filters);
        let cookie = section.cookie.and_then(|cookie| self.tlsnego_cookie(cookie));
        let own_domain = beside.domain.clone().filter(|_| local && beside.has_accounts);
        Some(Tlsnego {
            listen: self.listens(&section.listen)?,
            addresses,
            certificate: (self.path(&section.certificate), self.path(&section.key)),
            tls: section.tls.map(|tls| (self.path(&tls.certificate), self.path(&tls.key))),
            state: section.state.map(|path| self.path(&path)),
            upstream: self.upstream_of_gateway(&section.upstream)?,
            upstream_timeout: self.seconds(
                section.upstream_timeout_s.as_ref(),
                1..=3_600,
                UPSTREAM_TIMEOUT_S,
            ),
            credential: credential?,
            bindings,
            suite,
            versions: if section.tls13 { TlsVersions::Tls12And13 } else { TlsVersions::Tls12 },
            trust13: section.trust13,
            skew: Skew(skew),
            times,
            cookie,
            message_len_max: message_kib << 10,
            metadata: has_metadata.then(|| section.wsdl.map(|wsdl| self.path(wsdl.get_ref()))),
            passwords: PasswordSettings { parallel: checks, accepted, ..passwords },
            local,
            domains,
            sid_rules: AccessRules { own_domain, sid_filters, ..AccessRules::default() },
        })
    }

    fn tlsnego_cookie(&mut self, section: CookieSection) -> Option<TlsnegoCookie> {
        let keys = self.ticket_keys(&section.keys);
        let audience = self.ticket_name(&section.audience, "farm", "orders.contoso.example");
        let (seal_with, store) = (section.seal_with, self.path(&section.store));
        Some(TlsnegoCookie { keys, seal_with, audience: audience?, store })
    }

    /// Whether clients can prove who they are as `credential` has it.
    fn check_credential(
        &mut self,
        section: &Section,
        credential: Option<Credential>,
        beside: &TlsnegoContext<'_>,
    ) {
        let local = section.local.as_ref().is_none_or(|local| *local.get_ref());
        match credential {
            Some(Credential::UserName) if local && !beside.has_accounts => self.problem(
                section.credential.span(),
                "user names need accounts with passwords, and this store keeps none",
                "add [store] kind = \"sqlite\", set local = false, or choose another credential",
            ),
            Some(Credential::UserName) if !local && section.domain.is_empty() => self.problem(
                section.credential.span(),
                "no user name can be accepted: there are neither local accounts nor domains",
                "add [[tlsnego.domain]], set local = true, or choose another credential",
            ),
            Some(Credential::Certificate) if !beside.has_mapping => self.problem(
                section.credential.span(),
                "certificates need rules that map them, and there is no [mapping]",
                "add [mapping], or choose another credential",
            ),
            _ => {}
        }
        if let Some(domain) = section.domain.first()
            && credential.is_some_and(|credential| credential != Credential::UserName)
        {
            self.problem(
                domain.span(),
                "no client sends a password for this domain to check",
                "set credential = \"username\", or remove [[tlsnego.domain]]",
            );
        }
    }

    /// What `a:To` of a message may be.
    fn addresses_of_gateway(&mut self, given: &Spanned<Vec<Spanned<String>>>) -> Vec<Address> {
        if given.get_ref().is_empty() {
            self.problem(
                given.span(),
                "addresses is an empty list, so every message is for another service",
                "name the URL that clients have, as in \"https://orders.contoso.example/service\"",
            );
        }
        let mut addresses = Vec::new();
        for address in given.get_ref() {
            match Address::new(address.get_ref()) {
                Ok(address) => addresses.push(address),
                Err(error) => self.problem(
                    address.span(),
                    error.to_string(),
                    "write the URL that clients have, as in \"https://orders.contoso.example/service\"",
                ),
            }
        }
        addresses
    }

    fn tlsnego_bindings(&mut self, given: Option<&Spanned<Vec<Spanned<String>>>>) -> Vec<Binding> {
        let Some(given) = given else { return vec![BINDINGS[0].1, BINDINGS[1].1] };
        if given.get_ref().is_empty() {
            self.problem(
                given.span(),
                "bindings is an empty list, so no client can call",
                "name at least one, as in [\"session\"]",
            );
        }
        given.get_ref().iter().filter_map(|name| self.one_of(Some(name), &BINDINGS, "binding")).collect()
    }

    /// A URL of a service that is spoken to without TLS.
    fn upstream_of_gateway(&mut self, given: &Spanned<String>) -> Option<http::Uri> {
        let uri: Option<http::Uri> = given.get_ref().parse().ok();
        let uri = uri.filter(|uri| {
            uri.scheme_str() == Some("http")
                && uri.authority().is_some_and(|at| !at.as_str().contains('@') && !at.host().is_empty())
        });
        if uri.is_none() {
            self.problem(
                given.span(),
                "this is not the URL of a service over plain HTTP",
                "write it as in \"http://127.0.0.1:8080/service\"",
            );
        }
        uri
    }
}
