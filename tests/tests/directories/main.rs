//! Stores that ask a directory of another program, which the tests start.

#![expect(clippy::unwrap_used, reason = "tests")]

mod forest;
mod hostile;
mod openldap;
mod openldap_battery;
mod openldap_outages;
mod proxy;
mod samba;

use account_store::{AccountStore, Matches, Query, Record, StoreError};
use rcmpd_tests::slapd::{GROUPS, PEOPLE, READER, SECRET, Slapd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store_ldap::{
    Accents, Attribute, GenericSettings, GroupMembership, LdapStore, Meter, RidRange, Schema, Server,
    Servers, Settings, StatePreset, TlsMode,
};
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

/// A store, and the runtime of its tasks.
struct Opened {
    store: LdapStore,
    runtime: Runtime,
    meter: Arc<Meter>,
}

impl Opened {
    fn of(settings: Settings) -> Self {
        let runtime = runtime();
        let meter = Arc::clone(&settings.meter);
        let store = runtime.block_on(async { LdapStore::open(settings) }).expect("good settings");
        Self { store, runtime, meter }
    }

    fn find(&self, query: Query) -> Result<Matches, StoreError> {
        self.runtime.block_on(self.store.find(&query))
    }

    #[track_caller]
    fn one(&self, query: Query) -> Arc<Record> {
        match self.find(query.clone()) {
            Ok(Matches::One(record)) => record,
            other => panic!("{query:?}: {other:?}"),
        }
    }

    #[track_caller]
    fn fails(&self, query: Query, why: &str) {
        let error = self.find(query).expect_err(why).to_string();
        assert!(error.contains(why), "{error} instead of {why}");
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn name(text: &str) -> Query {
    Query::Name(text.to_owned())
}

fn upn(text: &str) -> Query {
    Query::UserPrincipalName(text.to_owned())
}

fn identity(text: &str) -> Query {
    Query::AltSecurityIdentity(text.to_owned())
}

fn attribute(name: &str) -> Attribute {
    Attribute::new(name).expect("a name of an attribute")
}

/// A file of certificates in PEM.
fn certificates(path: &std::path::Path) -> Vec<rustls_pki_types::CertificateDer<'static>> {
    use rustls_pki_types::pem::PemObject;
    rustls_pki_types::CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect()
}

fn ldaps(port: u16) -> Server {
    Server { host: "127.0.0.1".to_owned(), port, tls: TlsMode::Ldaps }
}

/// POSIX accounts and groups with `member`.
fn posix() -> GenericSettings {
    GenericSettings {
        user_base: PEOPLE.to_owned(),
        group_base: GROUPS.to_owned(),
        user_class: "posixAccount".to_owned(),
        group_class: "posixGroup".to_owned(),
        name: attribute("uid"),
        number: attribute("uidNumber"),
        primary_group: attribute("gidNumber"),
        user_principal_name: Some(attribute("userPrincipalName")),
        service_principal_name: Some(attribute("servicePrincipalName")),
        mapping: Some(attribute("altSecurityIdentities")),
        mail: Some(attribute("mail")),
        display_name: None,
        created: None,
        group_name: attribute("cn"),
        group_number: attribute("gidNumber"),
        membership: GroupMembership::Member(attribute("member")),
        user_rids: RidRange { first: 1000, last: 9999, rid: 100_000 },
        group_rids: RidRange { first: 500, last: 9999, rid: 200_000 },
        listed_rids: [].into(),
        state: vec![StatePreset::NsAccountLock],
    }
}

/// A store of a directory with POSIX accounts.
fn settings(slapd: &Slapd, generic: GenericSettings) -> Settings {
    settings_at(slapd.ldaps, &slapd.path("ca.pem"), generic)
}

/// A directory at a port of the loopback interface, with its CA.
fn settings_at(port: u16, ca: &Path, generic: GenericSettings) -> Settings {
    Settings {
        domain: account_store::battery::domain(),
        servers: Servers::Listed(vec![ldaps(port)]),
        catalog: Vec::new(),
        ca: certificates(ca),
        bind_dn: READER.to_owned(),
        secrets: Arc::new(|| Ok(vec![Zeroizing::new(SECRET.to_owned())])),
        schema: Schema::Generic(Box::new(generic)),
        timeout: Duration::from_secs(20),
        connections_max: 4,
        idle_timeout: Duration::from_secs(600),
        age_max: Duration::from_secs(3600),
        candidates_max: 100,
        accents: Accents::Wildcards,
        mail_domain: None,
        fresh: Duration::from_secs(600),
        meter: Arc::default(),
    }
}
