//! Accounts in a directory, as `[store.ldap]` names it.

use super::Accounts;
use crate::config::{self, Config, LdapServers, SecretRef};
use account_store::{BoxFuture, Domain};
use anyhow::Context;
use dcerpc_tokio::{NO_LABELS, encode_family};
use netlogon_tokio::Discovery;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::ConstCounter;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use store_ldap::{Binds, Discover, LdapStore, Meter, Refusals, Schema, Server, Servers, Settings, TlsMode};
use trust_tokio::certificates;
use zeroize::Zeroizing;

/// Counts of all stores of this process, one after the other: a reload opens the store again.
static METER: OnceLock<Arc<Meter>> = OnceLock::new();

/// Refusals by the section that names a directory, its domain and its bases: a reload opens the store again,
/// and nothing that was refused is undone by that.
static REFUSALS: Mutex<BTreeMap<String, Refusals>> = Mutex::new(BTreeMap::new());

/// Binds by account and servers: a reload opens the store again, and a second section may have the same account.
/// A wrong secret is not tried once for each.
static BINDS: Mutex<BTreeMap<String, Binds>> = Mutex::new(BTreeMap::new());

/// The servers that the domain's SRV records name.
struct Dns {
    discovery: Discovery,
    tls: TlsMode,
}

impl Discover for Dns {
    fn servers(&self) -> BoxFuture<'_, Result<(Vec<Server>, Duration), String>> {
        Box::pin(async {
            let located = self.discovery.servers().await.map_err(|error| error.to_string())?;
            // A record's port is that of LDAP without TLS.
            let port = match self.tls {
                TlsMode::Ldaps => 636,
                TlsMode::StartTls => 389,
            };
            let servers =
                located.found.into_iter().map(|found| Server { host: found.host, port, tls: self.tls });
            Ok((servers.collect(), located.ttl))
        })
    }

    fn addresses<'a>(&'a self, server: &'a Server) -> BoxFuture<'a, Result<Option<Vec<IpAddr>>, String>> {
        Box::pin(async {
            match self.discovery.has_resolvers() {
                true => {
                    self.discovery.addresses(&server.host).await.map(Some).map_err(|error| error.to_string())
                }
                false => Ok(None),
            }
        })
    }
}

/// The refusals of the store before this one, if it was of the same directory. `section` names it.
fn refusals(section: &str, domain: &Domain, schema: &Schema) -> Refusals {
    let bases = match schema {
        Schema::Ad(ad) => vec![&ad.base],
        Schema::Generic(generic) => vec![&generic.user_base, &generic.group_base],
    };
    of_key(&REFUSALS, format!("{section} {} {bases:?}", domain.sid).to_lowercase(), Refusals::is_used)
}

/// The binds of an account at its directory, also of stores before this one.
fn binds(domain: &Domain, ldap: &config::Ldap) -> Binds {
    let key = format!("{} {} {:?}", domain.dns, ldap.bind_dn, ldap.servers).to_lowercase();
    of_key(&BINDS, key, Binds::is_used)
}

/// What outlives a store: the value of a key. Those that no store uses any more are given up.
fn of_key<T: Clone + Default>(
    all: &Mutex<BTreeMap<String, T>>,
    key: String,
    is_used: impl Fn(&T) -> bool,
) -> T {
    // It is whole between any two statements.
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|known, value| *known == key || is_used(value));
    all.entry(key).or_default().clone()
}

/// Opens the accounts of a section. No server is asked before the first question.
pub(super) fn open(config: &Config, section: &str, ldap: &config::Ldap) -> anyhow::Result<Accounts> {
    Ok(Accounts::read_only(Arc::new(open_directory(config, section, ldap)?)))
}

/// The directory of a section.
pub(super) fn open_directory(
    config: &Config,
    section: &str,
    ldap: &config::Ldap,
) -> anyhow::Result<LdapStore> {
    let servers = match &ldap.servers {
        LdapServers::Listed(servers) => Servers::Listed(servers.clone()),
        LdapServers::Discovered { site, dns, tls } => {
            let discovery = Discovery::new(&config.domain.dns, site.as_deref(), dns);
            let discovery = discovery.context("cannot look for the servers of store.ldap")?;
            Servers::Discovered(Arc::new(Dns { discovery, tls: *tls }))
        }
    };
    let mut ca = Vec::new();
    for path in &ldap.ca {
        let trusted = certificates::read_trusted(path).context("cannot use store.ldap.ca")?;
        ca.extend(trusted.into_iter().map(Into::into));
    }
    let secret = ldap.secret.clone();
    let store = LdapStore::open(Settings {
        domain: config.domain.clone(),
        servers,
        catalog: ldap.catalog.clone(),
        ca,
        bind_dn: ldap.bind_dn.clone(),
        secrets: Arc::new(move || read_secrets(&secret)),
        schema: ldap.schema.clone(),
        timeout: ldap.timeout,
        connections_max: ldap.connections_max,
        idle_timeout: ldap.idle_timeout,
        age_max: ldap.age_max,
        candidates_max: ldap.candidates_max,
        accents: ldap.accents,
        mail_domain: ldap.mail_domain.clone(),
        fresh: ldap.fresh,
        refusals: refusals(section, &config.domain, &ldap.schema),
        binds: binds(&config.domain, ldap),
        meter: Arc::clone(METER.get_or_init(Arc::default)),
    });
    Ok(store?)
}

/// The present secret, and the next one if its file is there.
fn read_secrets(secret: &SecretRef) -> Result<Vec<Zeroizing<String>>, String> {
    let present = secret.read().map_err(|error| error.to_string())?;
    let next = match secret {
        SecretRef::File(path) => SecretRef::File(secret_ref::rotation::next(path)).read().ok(),
        _ => None,
    };
    Ok([present].into_iter().chain(next).collect())
}

/// Writes the metrics, if a directory is asked.
pub(crate) fn encode(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Some(meter) = METER.get() else { return Ok(()) };
    let one = |count| [(NO_LABELS, ConstCounter::new(count))];
    let help = "look-ups that the directory was asked for";
    encode_family(encoder, ("store_ldap_questions", help, None), one(meter.questions()))?;
    let help = "LDAP searches that were sent for look-ups";
    encode_family(encoder, ("store_ldap_searches", help, None), one(meter.requests()))?;
    let help = "connections to the directory that were made and bound";
    encode_family(encoder, ("store_ldap_connections", help, None), one(meter.connections()))?;
    let help = "accounts of other domains that the global catalog named";
    encode_family(encoder, ("store_ldap_elsewhere", help, None), one(meter.accounts_elsewhere()))?;
    let help = "failures of servers and of look-ups, by step";
    let failures = meter.failures().map(|(step, count)| ([("step", step)], ConstCounter::new(count)));
    encode_family(encoder, ("store_ldap_failures", help, None), failures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use store_ldap::AdSettings;

    fn domain() -> Domain {
        let sid = "S-1-5-21-1-2-3".parse().expect("a SID");
        Domain { netbios: "CONTOSO".to_owned(), dns: "contoso.example".to_owned(), sid }
    }

    #[test]
    fn a_store_of_the_same_directory_gets_the_refusals_of_the_one_before() {
        let base = |base: &str| Schema::Ad(AdSettings { base: base.to_owned() });
        let first = refusals("[store]", &domain(), &base("DC=contoso,DC=example"));
        assert!(!Refusals::default().is_used());
        let again = refusals("[store]", &domain(), &base("dc=Contoso,dc=example"));
        assert!(again.is_same(&first));
        for other in [
            refusals("[store.compare]", &domain(), &base("DC=contoso,DC=example")),
            refusals("[store]", &domain(), &base("OU=a,DC=contoso,DC=example")),
        ] {
            assert!(!other.is_same(&first));
        }
        // What no store uses any more is given up.
        drop((first, again));
        drop(refusals("[store]", &domain(), &base("DC=other")));
        let all = REFUSALS.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(all.keys().filter(|key| key.contains("dc=contoso")).count(), 0, "{:?}", all.keys());
    }
}
