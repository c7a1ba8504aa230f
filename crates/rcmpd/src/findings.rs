//! Checks by `serve` and `check-config` beyond the text of a configuration: lax settings, names that match
//! nothing today, and files that are missing.

use crate::checked::{Area, Checked};
use crate::clock::now;
use crate::config::{Config, Level, Listen, Mapping, Peer, Place, SecretRef, Source, Sso, Store, StoreKind};
use crate::forward::Forwarding;
use crate::sidecar;
use crate::stores::{self, Accounts};
use crate::trust::{self, Loaded};
use ::sidecar::dialect::Target;
use account_store::fold::{Comparison, casefold};
use account_store::{Account, AccountKind, DistinguishedName, DomainStore, Matches, Query};
use dtyp::Sid;
use rcmp_service::policy::{Grantee, has_suffix};
use rcmp_service::trust::Trust;
use rcmp_service::{Binding, Mapper, Validation};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use tracing::warn;

/// Write permission of all other users, which is needed to connect to a Unix socket.
const OTHERS_WRITE: u32 = 0o002;

/// A setting that an operator should check, although it can be served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warning {
    what: &'static str,
    /// The number of the route, from 1.
    route: Option<usize>,
    group: Option<String>,
    account: Option<String>,
    machine: Option<String>,
    sid: Option<String>,
    suffix: Option<String>,
    peer: Option<String>,
    /// A CA's name or file, for which the setting is.
    authority: Option<String>,
    key: Option<String>,
    listener: Option<String>,
    level: Option<String>,
    binding: Option<&'static str>,
    validation: Option<&'static str>,
}

impl Warning {
    fn new(what: &'static str) -> Self {
        Self { what, ..Self::default() }
    }

    /// Writes it to the log.
    pub fn log(&self) {
        warn!(
            binding = self.binding,
            validation = self.validation,
            route = self.route,
            group = self.group.as_deref(),
            account = self.account.as_deref(),
            machine = self.machine.as_deref(),
            sid = self.sid.as_deref(),
            suffix = self.suffix.as_deref(),
            peer = self.peer.as_deref(),
            authority = self.authority.as_deref(),
            key = self.key.as_deref(),
            listener = self.listener.as_deref(),
            level = self.level.as_deref(),
            "{}",
            self.what
        );
    }
}

/// As one line: what it is, and its facts.
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut letters = self.what.chars();
        let first = letters.next().into_iter().flat_map(char::to_lowercase);
        write!(f, "{}{}", first.collect::<String>(), letters.as_str())?;
        let facts = [
            ("binding", self.binding),
            ("validation", self.validation),
            ("group", self.group.as_deref()),
            ("account", self.account.as_deref()),
            ("machine", self.machine.as_deref()),
            ("sid", self.sid.as_deref()),
            ("suffix", self.suffix.as_deref()),
            ("peer", self.peer.as_deref()),
            ("authority", self.authority.as_deref()),
            ("key", self.key.as_deref()),
            ("listener", self.listener.as_deref()),
            ("level", self.level.as_deref()),
        ];
        let mut facts = facts.into_iter().filter_map(|(name, value)| Some((name, value?))).peekable();
        if self.route.is_some() || facts.peek().is_some() {
            f.write_str(":")?;
        }
        self.route.map_or(Ok(()), |route| write!(f, " route={route}"))?;
        facts.try_for_each(|(name, value)| write!(f, " {name}={value:?}"))
    }
}

/// Settings that are laxer than the defaults.
pub fn lax(config: &Config) -> Vec<Warning> {
    let mut found = Vec::new();
    if let Some(mapping) = &config.mapping {
        let policy = &mapping.policy;
        let what = match (policy.validation, policy.binding) {
            (Validation::Off, _) => Some(
                "Certificates are not validated here and names alone are enough: any certificate that a proxy accepts can \
                 impersonate the account that it names",
            ),
            (_, Binding::Full) => None,
            _ => Some(
                "Names alone are enough: a certificate of a configured CA can impersonate the account that it names",
            ),
        };
        let (binding, validation) = (Some(policy.binding.name()), Some(policy.validation.name()));
        found.extend(what.map(|what| Warning { binding, validation, ..Warning::new(what) }));
    }
    if config.rpc.as_ref().is_some_and(|rpc| rpc.misses.per_second == 0) {
        found.push(Warning::new("No rate limit for certificates that map no account: misses_per_s is 0"));
    }
    let kinds = config.store.iter().flat_map(Store::kinds);
    if kinds.into_iter().any(|(_, kind)| {
        matches!(kind, StoreKind::Ldap(ldap)
            if matches!(&ldap.schema, store_ldap::Schema::Generic(generic) if generic.state.is_empty()))
    }) {
        found.push(Warning::new(
            "Nothing says that an account of the directory may not log on: store.ldap.generic.state is empty",
        ));
    }
    for listen in config.sidecar.iter().flat_map(|sidecar| &sidecar.listen) {
        let what = match &listen.settings.at {
            Place::Unix(socket) if socket.mode & OTHERS_WRITE != 0 => {
                "Every local user can connect to this socket"
            }
            Place::Tcp(address) if listen.settings.tls.is_none() && !address.ip().is_loopback() => {
                "The secret of this listener is sent over the network without TLS"
            }
            _ => continue,
        };
        found.push(Warning { listener: Some(listen.settings.at.to_string()), ..Warning::new(what) });
    }
    found
}

/// Listeners that answer every question with 500, because routes need a host and a path that they do not get.
pub fn without_target(config: &Config) -> Vec<Warning> {
    let sidecar = config.sidecar.iter().filter(|sidecar| !sidecar.routes.is_empty());
    let listeners = sidecar.flat_map(|sidecar| &sidecar.listen);
    let unknown = listeners.filter(|listen| listen.settings.target == Target::Unknown);
    let warning = |listen: &Listen| Warning {
        listener: Some(listen.settings.at.to_string()),
        ..Warning::new(
            "Routes are configured, but this listener has no target, so it answers 500: set target to \"request\" if a question has the \
             path of the request, otherwise to \"x-original\" or \"x-forwarded\"",
        )
    };
    unknown.map(warning).collect()
}

/// CAs whose rules map no certificate.
pub fn useless_entries(config: &Config) -> Vec<Warning> {
    let mappings = config.mapping.iter().flat_map(|mapping| [Some(mapping), mapping.shadow.as_deref()]);
    let entries = mappings.flatten().flat_map(Mapping::useless_entries);
    let mut found: Vec<Warning> = entries
        .map(|entry| Warning {
            authority: Some(entry.certificate.display().to_string()),
            ..Warning::new(
                "No certificate of this CA is mapped: no method that is allowed for it looks up by a form that is granted, \
                 or no granted form is strong enough",
            )
        })
        .collect();
    // A shadow has the same entries by default.
    found.dedup();
    found
}

/// CAs with the same name.
pub fn shared_names(mapper: &Mapper) -> Vec<Warning> {
    let authorities = mapper.trust().into_iter().flat_map(|trust| trust.authorities());
    let shared = authorities.filter(|authority| mapper.shared_names().contains(&authority.key));
    let has_no_grant = |key| mapper.policy().authorities.get(key).is_none_or(|entry| entry.grants.is_none());
    let shared = shared.filter(|authority| has_no_grant(&authority.key)).map(|authority| Warning {
        authority: Some(authority.subject.clone()),
        key: Some(authority.key.to_string()),
        ..Warning::new(
            "Another CA has the same name: mappings that name it are not accepted for this CA, unless a \
             [[mapping.authority]] for it grants them",
        )
    });
    shared.collect()
}

/// Levels whose issuers are not configured CAs, so that no chain leads to them.
pub fn levels(config: &Config, trust: &Trust) -> Vec<Warning> {
    let Some(StoreKind::Profile(levels)) = config.store.as_ref().map(|store| &store.kind) else {
        return Vec::new();
    };
    let key = |name: &DistinguishedName| name.key_by(Comparison::Windows);
    let known: Vec<_> = trust.authorities().filter_map(|it| Some(key(&it.subject.parse().ok()?))).collect();
    let mut found = Vec::new();
    for level in levels {
        for issuer in level.issuers.iter().filter(|issuer| !known.contains(&key(issuer))) {
            found.push(Warning {
                level: Some(level.name.clone()),
                authority: Some(issuer.to_string()),
                ..Warning::new("A level names an issuer that is not among the configured CAs")
            });
        }
    }
    found
}

/// The accounts and groups of a configuration, as far as they can be looked up.
struct Known<'a> {
    accounts: &'a Accounts,
    /// The accounts and groups of a store of kind "profile".
    levels: Option<&'a [Level]>,
    domain: Sid,
}

impl Known<'_> {
    /// Whether there is a group of this name; true if the store cannot answer, or cannot be listed.
    async fn has_group(&self, name: &str) -> bool {
        match &self.accounts.listing {
            Some(listing) => !matches!(listing.group_by_name(name).await, Ok(None)),
            None => self.levels.is_none_or(|levels| {
                let mut groups = levels.iter().flat_map(|level| &level.groups);
                groups.any(|(_, known)| known.as_ref().is_some_and(|known| casefold(known) == casefold(name)))
            }),
        }
    }

    async fn has_group_sid(&self, sid: &Sid) -> bool {
        match &self.accounts.listing {
            Some(listing) => !matches!(listing.group_by_sid(sid).await, Ok(None)),
            None => self.levels.is_none_or(|levels| {
                let mut groups = levels.iter().flat_map(|level| &level.groups);
                groups.any(|(rid, _)| sid.rid_in(&self.domain) == Some(*rid))
            }),
        }
    }

    async fn has_account(&self, query: Query) -> bool {
        !matches!(self.accounts.store.find(&query).await, Ok(Matches::None))
    }

    async fn has_suffix(&self, suffix: &str) -> bool {
        let mut has = self.accounts.listing.is_none();
        let looked = self.accounts.each(|account| {
            has |= has_suffix(account, suffix);
            !has
        });
        looked.await.is_err() || has
    }
}

/// Names of accounts, groups, SIDs and machines that do not exist today: they may be added later, or are
/// misspelled.
pub async fn matches_nothing(
    config: &Config,
    accounts: &Accounts,
    machines: Option<&dyn DomainStore>,
) -> Vec<Warning> {
    if config.store.is_none() {
        return Vec::new();
    }
    let levels: Option<&[Level]> = match config.store.as_ref().map(|store| &store.kind) {
        Some(StoreKind::Profile(levels)) => Some(levels),
        _ => None,
    };
    let known = Known { accounts, levels, domain: config.domain.sid };
    let mut found = Vec::new();
    let sidecar = config.sidecar.iter().filter(|sidecar| sidecar.source == Source::Embedded);
    for (route, rule) in sidecar.flat_map(|sidecar| (1..).zip(&sidecar.routes)) {
        let route = Some(route);
        for group in &rule.groups {
            if !known.has_group(group).await {
                let what = "A route names a group that does not exist";
                found.push(Warning { route, group: Some(group.clone()), ..Warning::new(what) });
            }
        }
        for sid in &rule.sids {
            let domain = sid.split_rid().map(|(domain, _)| domain);
            let is_peer = config.peers.iter().any(|peer| Some(peer.sid) == domain);
            let is_there = match domain == Some(config.domain.sid) {
                true => known.has_group_sid(sid).await || known.has_account(Query::Sid(*sid)).await,
                false => is_peer,
            };
            if !is_there {
                let what = "A route names a SID that no account and no group has";
                found.push(Warning { route, sid: Some(sid.to_string()), ..Warning::new(what) });
            }
        }
    }
    let mappings = config.mapping.iter().flat_map(|mapping| [Some(mapping), mapping.shadow.as_deref()]);
    for mapping in mappings.flatten() {
        grants(mapping, &known, &mut found).await;
    }
    found.extend(names_of_peers(config, accounts).await);
    for machine in config.relays.iter().flat_map(|relay| &relay.machines) {
        if let Some(machines) = machines
            && let Ok(None) = machines.machine(machine).await
        {
            let what = "A relay names a machine account that does not exist";
            found.push(Warning { machine: Some(machine.clone()), ..Warning::new(what) });
        }
    }
    found.dedup();
    found
}

/// Names of peers that local accounts also have: questions about their certificates are sent to the peer and
/// not looked up here. For an account with a home domain that is intended. If the store cannot be read as a
/// whole, there is no warning.
async fn names_of_peers(config: &Config, accounts: &Accounts) -> Vec<Warning> {
    // With a catalog, the store is asked before each peer.
    let asked = config.peers.iter().filter(|peer| peer.is_asked() && !config.has_forest());
    // For suffixes that are shared, too.
    let is_shared = |peer: &Peer, name: &String| {
        let mut others = config.peers.iter().filter(|other| other.domain != peer.domain);
        config.upn_suffixes.contains(name)
            || config.domain.is_called(name)
            || others.any(|other| other.names.contains(name))
    };
    let names = asked.flat_map(|peer| peer.names.iter().map(move |name| (peer, name)));
    let names = names.filter(|(peer, name)| !is_shared(peer, name));
    let names = names.map(|(peer, name)| (casefold(name), (peer, name)));
    let mut open: HashMap<String, (&Peer, &String)> = names.collect();
    let mut found = Vec::new();
    if open.is_empty() {
        return found;
    }
    let looked = accounts.each(|account| {
        for suffix in suffixes(account).filter(|_| account.home_domain.is_none()) {
            let Some((peer, name)) = open.remove(&casefold(suffix)) else { continue };
            found.push(Warning {
                account: Some(account.name.clone()),
                suffix: Some(name.clone()),
                peer: Some(peer.domain.clone()),
                ..Warning::new(
                    "A local account has a name of a peer: questions about its certificates are sent to the peer, and not looked up here, unless domain.upn_suffixes names the suffix",
                )
            });
        }
        !open.is_empty()
    });
    // After an error, what was found until then is reported.
    let _ = looked.await;
    found
}

/// The suffixes that an account has by [`has_suffix`].
fn suffixes(account: &Account) -> impl Iterator<Item = &str> {
    let hosts = account.service_principal_names.iter().filter(|_| account.kind == AccountKind::Computer);
    let above = hosts.flat_map(|name| name.match_indices('.').map(move |(at, _)| &name[at + 1..]));
    let principal = account.user_principal_name.as_deref().and_then(|name| name.rsplit_once('@'));
    principal.map(|(_, suffix)| suffix).into_iter().chain(above)
}

async fn grants(mapping: &Mapping, known: &Known<'_>, found: &mut Vec<Warning>) {
    let entries = mapping.authorities.iter();
    let entries = entries.filter_map(|entry| Some((Some(&entry.certificate), entry.policy.grants.as_ref()?)));
    for (authority, grants) in entries.chain([(None, &mapping.policy.grants)]) {
        let authority = authority.map(|path| path.display().to_string());
        for grantee in grants.iter().flat_map(|grant| grant.to.iter().flatten()) {
            let warning = match grantee {
                Grantee::NamedGroup(name) if !known.has_group(name).await => Warning {
                    group: Some(name.clone()),
                    ..Warning::new("A grant is for a group that does not exist")
                },
                Grantee::Group(sid) if !known.has_group_sid(sid).await => Warning {
                    group: Some(sid.to_string()),
                    ..Warning::new("A grant is for a group that does not exist")
                },
                Grantee::NamedAccount(name) if !known.has_account(Query::Name(name.clone())).await => {
                    Warning {
                        account: Some(name.clone()),
                        ..Warning::new("A grant is for an account that does not exist")
                    }
                }
                Grantee::Account(sid) if !known.has_account(Query::Sid(*sid)).await => Warning {
                    account: Some(sid.to_string()),
                    ..Warning::new("A grant is for an account that does not exist")
                },
                Grantee::Suffix(suffix) if !known.has_suffix(suffix).await => Warning {
                    suffix: Some(suffix.clone()),
                    ..Warning::new("A grant is for a suffix that no account has")
                },
                _ => continue,
            };
            let warning = Warning { authority: authority.clone(), ..warning };
            if !found.contains(&warning) {
                found.push(warning);
            }
        }
    }
}

/// Checks that a secret is there. The environment of this command need not be that of the service.
fn secret(checked: &mut Checked, key: &str, secret: &SecretRef, is_needed_at_start: bool) {
    let Err(error) = secret.read() else { return };
    match secret {
        SecretRef::File(_) if is_needed_at_start => {
            checked.problem(Area::Configuration, format!("cannot use {key}: {error}"));
        }
        SecretRef::File(_) => checked.warning(Area::Configuration, format!("cannot use {key}: {error}")),
        SecretRef::Environment(_) | SecretRef::Credential(_) => {
            checked.warning(Area::Configuration, format!("{key} was not checked: {error}"));
        }
    }
}

/// Makes all checks of `serve`, without listening or writing. Of the network, only the server of a store is
/// used.
pub async fn check(config: &Config) -> Checked {
    let mut checked = Checked::default();
    checked.add(Area::Permissions, config.check_files());
    let known = [lax(config), without_target(config), useless_entries(config)];
    checked.warnings(Area::Configuration, known.iter().flatten());
    secrets(config, &mut checked);
    of_services(config, &mut checked);
    checked.add(Area::Configuration, audit_log::check(&config.audit));
    checked.add(Area::Configuration, Forwarding::load(config, None));
    let (machines, accounts) = of_store(config, &mut checked).await;
    let mut loaded = Vec::new();
    for mapping in
        config.mapping.iter().flat_map(|mapping| [Some(mapping), mapping.shadow.as_deref()]).flatten()
    {
        loaded.extend(checked.add(Area::Certificates, trust::load(mapping, now())));
    }
    // A shadow has the same lists, unless it says otherwise.
    checked.warnings(Area::Certificates, loaded.iter().flat_map(|loaded| &loaded.warnings));
    if let Some(live) = loaded.first() {
        of_trust(config, live, &accounts, &mut checked);
    }
    if machines.is_some() {
        let nothing = matches_nothing(config, &accounts, machines.as_deref()).await;
        checked.warnings(Area::Store, nothing);
    }
    checked
}

/// What the sidecar, the master secret server and the token service name.
fn of_services(config: &Config, checked: &mut Checked) {
    if let Some(sidecar) = &config.sidecar {
        let users = checked.add(Area::Users, sidecar::check_users(sidecar));
        checked.warnings(Area::Users, users.into_iter().flatten());
        for file in sidecar::check_files(config, sidecar) {
            checked.add(Area::Configuration, file);
        }
    }
    for tls in config.admin.iter().filter_map(|admin| admin.tls.as_ref()) {
        checked.add(Area::Certificates, crate::serve::admin_tls::server_config(tls));
    }
    if let Some(section) = &config.sso {
        checked.extend(crate::sso::check(config, section, &crate::sso::store(section)));
    }
    if let Some(section) = &config.tlsnego {
        let found = crate::tlsnego::findings(config, section, &crate::tlsnego::FilesOnce::default());
        let found = checked.add(Area::Configuration, found);
        checked.warnings(Area::Certificates, found.into_iter().flatten());
        for file in section.cookie.iter().flat_map(crate::tlsnego::check_files) {
            checked.add(Area::Configuration, file);
        }
    }
}

/// Opens the store. Secure channels need the secrets of machines.
async fn of_store(config: &Config, checked: &mut Checked) -> (Option<Arc<dyn DomainStore>>, Accounts) {
    let needs_hashes = config.sso.as_ref().is_some_and(Sso::has_local_users);
    let machines = match (&config.store, stores::key_needed_by(config).is_some()) {
        (None, _) => None,
        (Some(_), true) => checked.add(Area::Store, stores::machines_with_secrets(config).await),
        (Some(_), false) => checked.add(Area::Store, stores::machines(config).await),
    };
    if let Some(section) = &config.sso {
        let users = machines.as_deref().filter(|_| needs_hashes);
        let unknown = crate::sso::unknown_administrators(section, users.map(|users| users as _)).await;
        checked.warnings(Area::Store, unknown);
    }
    let accounts = match &machines {
        Some(machines) => checked.add(Area::Store, stores::accounts(config, machines).await),
        None => None,
    };
    // Nothing depends on it.
    if let Some(compared) = accounts.as_ref().and_then(|accounts| accounts.compared.as_ref())
        && let Err(error) = compared.store().await
    {
        let error = crate::output::chain(&error);
        checked.warning(Area::Store, format!("no look-up is compared: {error}"));
    }
    (machines, accounts.unwrap_or_else(|| Accounts::none(config.domain.clone())))
}

fn of_trust(config: &Config, live: &Loaded, accounts: &Accounts, checked: &mut Checked) {
    let mapper = live.mapper(Arc::clone(&accounts.store), config.server.clone());
    let mapper = checked.add(Area::Configuration, mapper);
    let names = mapper.iter().flat_map(shared_names);
    let levels = live.trust.iter().flat_map(|trust| levels(config, trust));
    checked.warnings(Area::Configuration, names.chain(levels));
}

fn secrets(config: &Config, checked: &mut Checked) {
    if let Some(token) = config.admin.as_ref().and_then(|admin| admin.token.as_ref()) {
        secret(checked, "admin.token", token, true);
    }
    let is_remote = config.sidecar.as_ref().is_some_and(|sidecar| sidecar.source == Source::Remote);
    if let Some(client) = &config.client {
        secret(checked, "client.secret", &client.secret, is_remote);
    }
    for (section, kind) in config.store.iter().flat_map(Store::kinds) {
        if let StoreKind::Ldap(ldap) = kind {
            let key = match section.as_str() {
                "store" => "store.ldap.secret".to_owned(),
                section => format!("the ldap.secret of {section}"),
            };
            secret(checked, &key, &ldap.secret, false);
        }
    }
    for peer in &config.peers {
        if let Some(of_peer) = &peer.secret {
            secret(checked, &format!("the secret of [[peer]] {}", peer.domain), of_peer, false);
        }
    }
    for (section, domain) in config.checked_domains() {
        if let Some(of_domain) = &domain.peer.secret {
            let key = format!("the secret of {section} {}", domain.peer.domain);
            secret(checked, &key, of_domain, false);
        }
    }
    for relay in &config.relays {
        secret(checked, &format!("the secret of [[relay]] {}", relay.package), &relay.secret, false);
    }
    for listen in config.sidecar.iter().flat_map(|sidecar| &sidecar.listen) {
        if let Some(of_listener) = &listen.secret {
            secret(checked, "the secret of [[sidecar.listen]]", of_listener, true);
        }
    }
    for (section, key) in config.ticket_keys() {
        secret(checked, &format!("a key of {section}"), key, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use account_store::{Domain, MemoryStore};
    use std::sync::Arc;

    #[tokio::test]
    async fn nothing_is_said_of_groups_in_a_store_that_cannot_be_listed() {
        let domain: Sid = "S-1-5-21-1-2-3".parse().expect("a SID");
        let group = domain.with_rid(1100).expect("room for a RID");
        let of = Domain { netbios: "CONTOSO".into(), dns: "contoso.example".into(), sid: domain };
        let listed = Accounts::none(of.clone());
        let read_only = Accounts::read_only(Arc::new(MemoryStore::new(of)));
        for (accounts, levels, is_known) in
            [(&listed, None, false), (&read_only, Some(&[][..]), false), (&read_only, None, true)]
        {
            let known = Known { accounts, levels, domain };
            assert_eq!(known.has_group("Staff").await, is_known);
            assert_eq!(known.has_group_sid(&group).await, is_known);
            assert!(!known.has_account(Query::Name("alice".to_owned())).await, "it can be looked up");
        }
    }
}
