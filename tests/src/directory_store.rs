//! Settings of a store over a directory that a test has started.

use crate::slapd::{GROUPS, Options, PEOPLE, READER, SECRET, Slapd, entry};
use crate::{Demo, write_secret};
use account_store::Domain;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store_ldap::{
    Accents, Attribute, Binds, GenericSettings, GroupMembership, Refusals, RidRange, Schema, Server, Servers,
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
        binds: Binds::default(),
        meter: Arc::default(),
    }
}

/// Moves alice into OpenLDAP, with `entries` beside her and her primary group. The database keeps the machines.
/// `keys` are added to `[store.ldap]`.
pub fn into_directory(demo: &Demo, entries: &str, keys: &str) -> Slapd {
    into_directory_with(demo, entries, keys, &Options::default())
}

/// The same with options of slapd.
pub fn into_directory_with(demo: &Demo, entries: &str, keys: &str, options: &Options) -> Slapd {
    let account = ["account", "show", "alice", "-c", "rcmpd.toml", "--json"];
    let account = demo.rcmpd(&account).code(0).json();
    let number = account["sid"].as_str().and_then(|sid| sid.rsplit('-').next()).expect("a SID").to_owned();
    let strings = demo.rcmpd(&["mapping", "strings", "certs/alice.pem"]).code(0).stdout;
    let mapping = strings.lines().find_map(|line| {
        let mapping = &line[line.find("X509:<I>")?..];
        let serial = mapping.find("<SR>")? + 4;
        let end = mapping[serial..]
            .find(|c: char| !c.is_ascii_hexdigit())
            .map_or(mapping.len(), |end| serial + end);
        Some(mapping[..end].to_owned())
    });
    let mapping = mapping.unwrap_or_else(|| panic!("{strings}"));
    let classes = ["inetOrgPerson", "posixAccount", "mappedAccount"].map(|class| ("objectClass", class));
    let person = [
        ("cn", "alice"),
        ("sn", "alice"),
        ("uid", "alice"),
        ("uidNumber", &number),
        ("gidNumber", "1000"),
        ("homeDirectory", "/"),
        ("altSecurityIdentities", &mapping),
    ];
    let dn = format!("uid=alice,{PEOPLE}");
    let group = [
        ("objectClass", "posixGroup"),
        ("objectClass", "memberGroup"),
        ("cn", "users"),
        ("gidNumber", "1000"),
        ("member", &dn),
    ];
    let slapd = Slapd::with(
        &[
            entry(&dn, &[&classes[..], &person].concat()),
            entry(&format!("cn=users,{GROUPS}"), &group),
            entries.to_owned(),
        ]
        .concat(),
        options,
    );
    write_secret(demo.path("directory.secret"), SECRET);
    demo.edit(|text| {
        let (before, rest) = text.split_once("[store]").expect("there is a store");
        let (_, after) = rest.split_once("[channels]").expect("it has channels");
        let (port, ca) = (slapd.ldaps, slapd.path("ca.pem").display().to_string());
        format!(
            "{before}[store]\nkind = \"ldap\"\n[store.ldap]\nschema = \"generic\"\nservers = [\"ldaps://127.0.0.1:{port}\"]\n\
             ca = [\"{ca}\"]\nbind_dn = \"{READER}\"\nsecret = \"file:directory.secret\"\n{keys}\n\
             [store.ldap.generic]\nuser_base = \"{PEOPLE}\"\ngroup_base = \"{GROUPS}\"\nuser_class = \"posixAccount\"\n\
             group_class = \"posixGroup\"\nname = \"uid\"\nnumber = \"uidNumber\"\nprimary_group = \"gidNumber\"\n\
             mapping = \"altSecurityIdentities\"\ngroup_name = \"cn\"\ngroup_number = \"gidNumber\"\n\
             membership = \"member\"\nmembership_attribute = \"member\"\nstate = [\"nsAccountLock\"]\n\
             user_rids = {{ first = 1000, last = 59999, rid = 1000 }}\n\
             group_rids = {{ first = 1000, last = 59999, rid = 200000 }}\n\
             [channels]\npath = \"accounts.db\"\n{after}"
        )
    });
    slapd
}
