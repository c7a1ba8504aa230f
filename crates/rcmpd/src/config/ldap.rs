//! `[store.ldap]`: accounts in a directory.

use super::checker::UP_TO_A_DAY_S;
use super::{Checker, SecretRef};
use account_store::cache::CacheSettings;
use serde::Deserialize;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;
use store_ldap::{
    Accents, AdSettings, Attribute, GenericSettings, GroupMembership, RidRange, Schema, Server, StatePreset,
    TlsMode,
};
use toml::Spanned;

/// `[store.ldap]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Ldap {
    /// The servers.
    pub servers: LdapServers,
    /// Global catalog servers of the forest; none if accounts are searched in the domain alone.
    pub catalog: Vec<Server>,
    /// Files with the CAs of their certificates.
    pub ca: Vec<PathBuf>,
    /// The store's own account.
    pub bind_dn: String,
    /// Its secret.
    pub secret: SecretRef,
    /// How accounts look.
    pub schema: Schema,
    /// The time for one question.
    pub timeout: Duration,
    /// Connections at once.
    pub connections_max: usize,
    /// How long a connection is kept without a question.
    pub idle_timeout: Duration,
    /// How long a connection is kept at all.
    pub age_max: Duration,
    /// Entries that one look-up compares.
    pub candidates_max: usize,
    /// Who ignores accents.
    pub accents: Accents,
    /// Of several e-mail addresses, the one in this domain counts.
    pub mail_domain: Option<String>,
    /// The cache in front of it.
    pub cache: CacheSettings,
    /// How long a decision may be used.
    pub fresh: Duration,
}

/// Where the servers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LdapServers {
    /// In the order in which to try them.
    Listed(Vec<Server>),
    /// By SRV records of the domain.
    Discovered {
        /// Servers of this site come first.
        site: Option<String>,
        /// DNS servers; those of the system if empty.
        dns: Vec<SocketAddr>,
        /// How they speak TLS.
        tls: TlsMode,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LdapSection {
    schema: Spanned<String>,
    servers: Option<Spanned<Vec<Spanned<String>>>>,
    discovery: Option<Spanned<String>>,
    site: Option<Spanned<String>>,
    dns: Option<Spanned<Vec<Spanned<String>>>>,
    tls: Option<Spanned<String>>,
    catalog: Option<Spanned<Vec<Spanned<String>>>>,
    ca: Spanned<Vec<PathBuf>>,
    bind_dn: Spanned<String>,
    secret: Spanned<String>,
    base: Option<Spanned<String>>,
    timeout_s: Option<Spanned<u64>>,
    connections_max: Option<Spanned<u64>>,
    idle_timeout_s: Option<Spanned<u64>>,
    age_max_s: Option<Spanned<u64>>,
    candidates_max: Option<Spanned<u64>>,
    accents: Option<Spanned<String>>,
    mail_domain: Option<Spanned<String>>,
    cache_mib: Option<Spanned<u64>>,
    stale_if_error_s: Option<Spanned<u64>>,
    fresh_s: Option<Spanned<u64>>,
    generic: Option<Spanned<GenericSection>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GenericSection {
    user_base: Spanned<String>,
    group_base: Spanned<String>,
    user_class: Spanned<String>,
    group_class: Spanned<String>,
    name: Spanned<String>,
    number: Spanned<String>,
    primary_group: Spanned<String>,
    user_principal_name: Option<Spanned<String>>,
    service_principal_name: Option<Spanned<String>>,
    mapping: Option<Spanned<String>>,
    mail: Option<Spanned<String>>,
    display_name: Option<Spanned<String>>,
    created: Option<Spanned<String>>,
    group_name: Spanned<String>,
    group_number: Spanned<String>,
    membership: Spanned<String>,
    membership_attribute: Spanned<String>,
    user_rids: Spanned<RidSection>,
    group_rids: Spanned<RidSection>,
    #[serde(default)]
    listed_rids: Vec<u32>,
    state: Spanned<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RidSection {
    first: u32,
    last: u32,
    rid: u32,
}

/// Memory for cached look-ups: the values that are allowed, and the default.
const CACHE_MIB: (RangeInclusive<u64>, u64) = (1..=65_536, 64);
const TLS_MODES: [(&str, TlsMode); 2] = [("ldaps", TlsMode::Ldaps), ("starttls", TlsMode::StartTls)];
const ACCENTS: [(&str, Accents); 2] = [("wildcards", Accents::Wildcards), ("server", Accents::Server)];
/// Active Directory closes a connection that was idle for this long (MaxConnIdleTime).
const IDLE_MAX_S: u64 = 899;
/// An RPC client waits about this long.
const TIMEOUT_MAX_S: u64 = 60;

impl Checker<'_> {
    /// `dns` is the DNS name of the domain.
    pub(super) fn ldap(&mut self, section: &Spanned<LdapSection>, dns: &str) -> Option<Ldap> {
        let span = section.span();
        let section = section.get_ref();
        let servers = self.ldap_servers(section, &span);
        let catalog = self.ldap_catalog(section);
        if section.ca.get_ref().is_empty() {
            self.problem(
                section.ca.span(),
                "no CA is named",
                "name the CA of the directory's certificates: CAs of the system are never used",
            );
        }
        let bind_dn = self.directory_name(&section.bind_dn);
        let secret = self.secret(&section.secret);
        let schema = self.ldap_schema(section, &span, dns);
        let mail_domain = section.mail_domain.as_ref().map(|domain| self.dns_name(domain));
        let fresh = self.seconds(section.fresh_s.as_ref(), 1..=3600, 10);
        let cache = CacheSettings {
            bytes: self.within(section.cache_mib.as_ref(), CACHE_MIB.0, "MiB", CACHE_MIB.1) << 20,
            ttl: fresh,
            stale_if_error: self.seconds(section.stale_if_error_s.as_ref(), 0..=86_400, 0),
        };
        let accents = self.one_of(section.accents.as_ref(), &ACCENTS, "value of accents");
        Some(Ldap {
            servers: servers?,
            catalog,
            ca: section.ca.get_ref().iter().map(|path| self.path(path)).collect(),
            bind_dn: bind_dn?,
            secret: secret?,
            schema: schema?,
            timeout: self.seconds(section.timeout_s.as_ref(), 1..=TIMEOUT_MAX_S, 5),
            connections_max: self.count(section.connections_max.as_ref(), 1..=1000, 8),
            idle_timeout: self.seconds(section.idle_timeout_s.as_ref(), 1..=IDLE_MAX_S, 600),
            age_max: self.seconds(section.age_max_s.as_ref(), UP_TO_A_DAY_S, 3600),
            candidates_max: self.count(section.candidates_max.as_ref(), 1..=1000, 100),
            accents: accents.unwrap_or_default(),
            mail_domain,
            cache,
            fresh,
        })
    }

    fn ldap_servers(&mut self, section: &LdapSection, span: &Range<usize>) -> Option<LdapServers> {
        let belongs = [
            ("site", section.site.as_ref().map(Spanned::span)),
            ("dns", section.dns.as_ref().map(Spanned::span)),
            ("tls", section.tls.as_ref().map(Spanned::span)),
        ];
        for (key, place) in belongs {
            if let Some(place) = place.filter(|_| section.discovery.is_none()) {
                self.problem(
                    place,
                    format!("{key} belongs to discovery"),
                    "set discovery = \"dns\", or remove it",
                );
            }
        }
        match (&section.servers, &section.discovery) {
            (Some(servers), None) => {
                if servers.get_ref().is_empty() {
                    self.problem(
                        servers.span(),
                        "no server is named",
                        "write servers = [\"ldaps://dc1.contoso.example\"]",
                    );
                }
                let servers = servers.get_ref().iter().map(|url| self.ldap_server(url));
                servers.collect::<Vec<_>>().into_iter().collect::<Option<_>>().map(LdapServers::Listed)
            }
            (None, Some(discovery)) => {
                self.one_of(Some(discovery), &[("dns", ())], "discovery")?;
                let help =
                    "name a DNS server, or remove the key: without it the resolver of the system is asked";
                let dns = self.restricting("dns", &section.dns, help).iter();
                let dns = dns.filter_map(|address| self.address(address)).collect();
                if let Some(site) =
                    section.site.as_ref().filter(|site| !netlogon_tokio::is_label(site.get_ref()))
                {
                    self.problem(
                        site.span(),
                        "this is not a site name",
                        "write it as in \"Default-First-Site-Name\"",
                    );
                }
                let tls = match &section.tls {
                    Some(tls) => self.one_of(Some(tls), &TLS_MODES, "value of tls")?,
                    None => TlsMode::Ldaps,
                };
                Some(LdapServers::Discovered {
                    site: section.site.as_ref().map(|site| site.get_ref().clone()),
                    dns,
                    tls,
                })
            }
            (Some(_), Some(discovery)) => {
                self.problem(
                    discovery.span(),
                    "there are two sources of servers",
                    "keep one of servers and discovery",
                );
                None
            }
            (None, None) => {
                self.problem(
                    span.clone(),
                    "there are no servers",
                    "name them: servers = [\"ldaps://dc1.contoso.example\"], or set discovery = \"dns\"",
                );
                None
            }
        }
    }

    /// The global catalog's servers. Their ports are others than those of the domain.
    fn ldap_catalog(&mut self, section: &LdapSection) -> Vec<Server> {
        if let Some(catalog) = section.catalog.as_ref().filter(|_| section.schema.get_ref() != "ad") {
            self.problem(
                catalog.span(),
                "catalog belongs to schema = \"ad\"",
                "remove it: other directories have no global catalog",
            );
        }
        let help = "name the servers: catalog = [\"ldaps://dc1.contoso.example\"], or remove the key: without it accounts are searched in the domain alone";
        let catalog = self.restricting("catalog", &section.catalog, help).iter();
        catalog.filter_map(|url| self.ldap_server_at(url, Server::CATALOG_PORTS)).collect()
    }

    fn ldap_server(&mut self, url: &Spanned<String>) -> Option<Server> {
        self.ldap_server_at(url, Server::PORTS)
    }

    fn ldap_server_at(&mut self, url: &Spanned<String>, ports: (u16, u16)) -> Option<Server> {
        let server = Server::parse(url.get_ref(), ports);
        if server.is_none() {
            self.problem(
                url.span(),
                "this is not the URL of a directory server",
                "write ldaps://HOST[:PORT], or ldap://HOST[:PORT] for StartTLS; there is no connection without TLS",
            );
        }
        server
    }

    fn ldap_schema(&mut self, section: &LdapSection, span: &Range<usize>, dns: &str) -> Option<Schema> {
        let is_ad = self.one_of(Some(&section.schema), &[("ad", true), ("generic", false)], "schema")?;
        match (is_ad, &section.generic) {
            (true, None) => {
                let base = match &section.base {
                    Some(base) => self.directory_name(base)?,
                    None => dns.split('.').map(|label| format!("DC={label}")).collect::<Vec<_>>().join(","),
                };
                Some(Schema::Ad(AdSettings { base }))
            }
            (true, Some(generic)) => {
                self.problem(
                    generic.span(),
                    "[store.ldap.generic] belongs to schema = \"generic\"",
                    "remove it",
                );
                None
            }
            (false, None) => {
                self.problem(
                    span.clone(),
                    "the attributes of the directory are missing",
                    "add [store.ldap.generic]; docs/directories.md has an example for OpenLDAP",
                );
                None
            }
            (false, Some(generic)) => {
                if let Some(base) = &section.base {
                    self.problem(
                        base.span(),
                        "base belongs to schema = \"ad\"",
                        "use user_base and group_base",
                    );
                }
                self.generic(generic.get_ref()).map(|generic| Schema::Generic(Box::new(generic)))
            }
        }
    }

    fn generic(&mut self, section: &GenericSection) -> Option<GenericSettings> {
        let optional = [
            &section.user_principal_name,
            &section.service_principal_name,
            &section.mapping,
            &section.mail,
            &section.display_name,
            &section.created,
        ];
        let optional = optional.map(|name| name.as_ref().and_then(|name| self.attribute(name)));
        let required = [
            &section.name,
            &section.number,
            &section.primary_group,
            &section.group_name,
            &section.group_number,
            &section.membership_attribute,
        ];
        let required = required.map(|name| self.attribute(name));
        let classes = [&section.user_class, &section.group_class].map(|name| self.attribute(name));
        let bases = [&section.user_base, &section.group_base].map(|base| self.directory_name(base));
        type Kind = fn(Attribute) -> GroupMembership;
        let kinds: [(&str, Kind); 3] = [
            ("member", GroupMembership::Member),
            ("memberUid", GroupMembership::MemberUid),
            ("memberOf", GroupMembership::MemberOf),
        ];
        let membership = self.one_of(Some(&section.membership), &kinds, "membership");
        let (user_rids, group_rids) = (self.rids(&section.user_rids), self.rids(&section.group_rids));
        if user_rids.overlaps(&group_rids) {
            self.problem(
                section.group_rids.span(),
                "an account and a group could have the same SID",
                "choose ranges of relative identifiers that do not overlap: rid is that of the number first",
            );
        }
        let known = StatePreset::ALL.map(|preset| (preset.name(), preset));
        let state = section.state.get_ref().iter();
        let state =
            state.filter_map(|name| self.one_of(Some(name), &known, "preset of account state")).collect();
        let [user_principal_name, service_principal_name, mapping, mail, display_name, created] = optional;
        let [name, number, primary_group, group_name, group_number, membership_attribute] = required;
        let [user_class, group_class] = classes;
        let [user_base, group_base] = bases;
        Some(GenericSettings {
            user_base: user_base?,
            group_base: group_base?,
            user_class: user_class?.as_str().to_owned(),
            group_class: group_class?.as_str().to_owned(),
            name: name?,
            number: number?,
            primary_group: primary_group?,
            user_principal_name,
            service_principal_name,
            mapping,
            mail,
            display_name,
            created,
            group_name: group_name?,
            group_number: group_number?,
            membership: membership?(membership_attribute?),
            user_rids,
            group_rids,
            listed_rids: section.listed_rids.iter().copied().collect(),
            state,
        })
    }

    fn attribute(&mut self, name: &Spanned<String>) -> Option<Attribute> {
        let attribute = Attribute::new(name.get_ref());
        if attribute.is_none() {
            self.problem(
                name.span(),
                "this is not the name of an attribute",
                "use letters, digits and hyphens",
            );
        }
        attribute
    }

    /// A distinguished name of an entry. Its spelling is the server's matter.
    fn directory_name(&mut self, name: &Spanned<String>) -> Option<String> {
        let text = name.get_ref();
        if !text.contains('=') || text.contains(char::is_control) || text.len() > 4096 {
            self.problem(
                name.span(),
                "this is not a distinguished name",
                "write it as the directory does, as in \"CN=rcmpd,OU=Services,DC=contoso,DC=example\"",
            );
            return None;
        }
        Some(text.clone())
    }

    fn rids(&mut self, section: &Spanned<RidSection>) -> RidRange {
        let RidSection { first, last, rid } = *section.get_ref();
        if first > last
            || rid == 0
            || rid
                .checked_add(last.saturating_sub(first))
                .is_none_or(|rid| rid > account_store::rules::RID_LAST)
        {
            self.problem(
                section.span(),
                "this is not a range of numbers and their relative identifiers",
                "write { first = 1000, last = 59999, rid = 100000 }: the number first becomes rid; relative identifiers end at 1073741823",
            );
        }
        RidRange { first, last, rid }
    }
}
