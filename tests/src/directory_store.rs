//! Settings of a store over a directory that a test has started.

use crate::slapd::{GROUPS, PEOPLE, READER, SECRET, Slapd};
use account_store::Domain;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store_ldap::{
    Accents, Attribute, GenericSettings, GroupMembership, Refusals, RidRange, Schema, Server, Servers,
    Settings, StatePreset, TlsMode,
};
use zeroize::Zeroizing;

/// An attribute by its name.
pub fn attribute(name: &str) -> Attribute {
    Attribute::new(name).expect("a name of an attribute")
}

/// A file of certificates in PEM.
pub fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    let sections = CertificateDer::pem_file_iter(path).expect("the file can be read");
    sections.map(|section| section.expect("it is a certificate")).collect()
}

/// A server at a port of the loopback interface, with LDAP over TLS.
pub fn ldaps(port: u16) -> Server {
    Server { host: "127.0.0.1".to_owned(), port, tls: TlsMode::Ldaps }
}

/// POSIX accounts and groups with `member`.
pub fn posix() -> GenericSettings {
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
pub fn settings(slapd: &Slapd, generic: GenericSettings) -> Settings {
    settings_at(slapd.ldaps, &slapd.path("ca.pem"), generic)
}

/// A directory at a port of the loopback interface, with its CA.
pub fn settings_at(port: u16, ca: &Path, generic: GenericSettings) -> Settings {
    let bind = (READER.to_owned(), SECRET);
    settings_of(account_store::battery::domain(), ldaps(port), ca, bind, Schema::Generic(Box::new(generic)))
}

/// A domain whose accounts are in a directory that is asked under a name with a password.
pub fn settings_of(
    domain: Domain,
    server: Server,
    ca: &Path,
    (bind_dn, secret): (String, &'static str),
    schema: Schema,
) -> Settings {
    Settings {
        domain,
        servers: Servers::Listed(vec![server]),
        catalog: Vec::new(),
        ca: certificates(ca),
        bind_dn,
        secrets: Arc::new(move || Ok(vec![Zeroizing::new(secret.to_owned())])),
        schema,
        timeout: Duration::from_secs(20),
        connections_max: 4,
        idle_timeout: Duration::from_secs(600),
        age_max: Duration::from_secs(3600),
        candidates_max: 100,
        accents: Accents::Wildcards,
        mail_domain: None,
        fresh: Duration::from_secs(600),
        refusals: Refusals::default(),
        meter: Arc::default(),
    }
}
