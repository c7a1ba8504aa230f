//! `rcmpd quickstart`: a domain to try everything on.

use crate::stores::Passwords;
use account_store::file_access;
use account_store::machines::{ChannelKind, Machine, NtHash, Secrets};
use account_store::{
    Account, AltSecurityIdentity, Change, Domain, DomainStore, Group, GroupScope, Profile, Put,
};
use anyhow::{Context, bail};
use dtyp::{FileTime, Sid};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rcmp_service::certificate::Certificate;
use sso_secret::{KeyFile, MachineId, Passphrase, SecretStore, UnixTime};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

/// The created files.
#[derive(Debug)]
pub struct Made {
    /// The configuration file.
    pub config: PathBuf,
    /// All files, in the order in which they were written.
    pub files: Vec<PathBuf>,
}

const DNS: &str = "contoso.example";
const PEOPLE: [&str; 5] = ["alice", "bob", "carol", "web01", "mallory"];

/// The last port that has two behind it.
pub const PORT_MAX: u16 = u16::MAX - 2;

/// What a demo has beside the mapping of certificates.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts {
    /// The master secret server.
    pub sso: bool,
    /// The gateway for SOAP clients.
    pub tlsnego: bool,
}

/// The port of the master secret server.
pub const fn sso_port(first: Option<u16>) -> u16 {
    ports(first)[0].saturating_add(3)
}

/// The port of the gateway for SOAP clients. The service behind it has the next one.
pub const fn tlsnego_port(first: Option<u16>) -> u16 {
    ports(first)[0].saturating_add(4)
}

/// The ports of Netlogon, the endpoint mapper and `/metrics`.
const fn ports(first: Option<u16>) -> [u16; 3] {
    match first {
        None => [11490, 1135, 9464],
        Some(first) => [first, first.saturating_add(1), first.saturating_add(2)],
    }
}

/// Makes everything in `dir`, or nothing when one of the files exists. With a port Netlogon, the endpoint
/// mapper and `/metrics` are served at it and the two behind it, so no two are the same; it is at most
/// [`PORT_MAX`] and not 0. The master secret and the gateway are served at ports after them.
pub async fn make(dir: &Path, port: Option<u16>, parts: Parts) -> anyhow::Result<Made> {
    let Parts { sso: with_sso, tlsnego: with_tlsnego } = parts;
    let at = |name: &str| dir.join(name);
    for (is_wanted, option, count) in [(with_tlsnego, "--tlsnego", 6), (with_sso, "--sso", 4)] {
        let last = PORT_MAX - (count - 3);
        if is_wanted && port.is_some_and(|port| port > last) {
            bail!("with {option} the ports up to N+{} are used: choose a port up to {last}", count - 1);
        }
    }
    let mut files = vec![
        at("rcmpd.toml"),
        at("accounts.db"),
        at("accounts.key"),
        at("machines/WEB01.secret"),
        at("certs/ca.pem"),
        at("certs/ca.key"),
    ];
    for name in PEOPLE {
        files.push(at(&format!("certs/{name}.pem")));
        files.push(at(&format!("certs/{name}.key")));
    }
    files.extend([at("certs/site.pem"), at("certs/site.key")]);
    if with_sso {
        files.extend(SSO_FILES.map(at));
    }
    if with_sso || with_tlsnego {
        files.extend(USER_FILES.map(at));
    }
    if with_tlsnego {
        files.push(at(TOKEN_FILE));
    }
    if let Some(taken) = files.iter().find(|file| file.symlink_metadata().is_ok()) {
        bail!("{} already exists and is not overwritten; choose another folder", taken.display());
    }
    for (folder, mode) in [(dir.to_owned(), 0o755), (at("machines"), 0o700), (at("certs"), 0o755)] {
        make_folder(&folder, mode)?;
    }
    let domain_sid = random_domain_sid()?;
    let domain = Domain { netbios: "CONTOSO".into(), dns: DNS.into(), sid: domain_sid };
    let now: FileTime = std::time::SystemTime::now().into();

    let ca = authority()?;
    write_new(&at("certs/ca.pem"), &ca.pem(), 0o644)?;
    write_new(&at("certs/ca.key"), &ca.key().serialize_pem(), 0o600)?;
    let mut mappings = Vec::new();
    for (name, rid) in PEOPLE.into_iter().zip([1001, 1002, 1003, 1004, 0]) {
        let sid = domain_sid.with_rid(rid).context("a SID has room for a RID")?;
        let (certificate, key) = certificate(name, &sid, &ca)?;
        write_new(&at(&format!("certs/{name}.pem")), &certificate.pem(), 0o644)?;
        write_new(&at(&format!("certs/{name}.key")), &key.serialize_pem(), 0o600)?;
        mappings.push(mapping(name, certificate.der())?);
    }

    let (certificate, key) = site(&ca)?;
    write_new(&at("certs/site.pem"), &certificate.pem(), 0o644)?;
    write_new(&at("certs/site.key"), &key.serialize_pem(), 0o600)?;

    let crate::stores::Made { store, passwords } =
        crate::stores::make_database(&at("accounts.db"), &at("accounts.key"), &domain)?;
    fill(&*store, &domain, now, &mappings).await?;

    let password = random_password()?;
    write_new(&at("machines/WEB01.secret"), &format!("{password}\n"), 0o600)?;
    let machine = Machine {
        name: "WEB01$".into(),
        sid: domain_sid,
        kind: ChannelKind::Workstation,
        enabled: true,
        rcmp: true,
        domains: vec![],
        groups: vec![],
    };
    let secrets = Secrets { current: NtHash::from_password(&password), current_since: now, previous: None };
    store.put_machine(Put::New, machine, Some(secrets)).await?;
    let mut text = configuration(&domain, ports(port));
    if with_tlsnego {
        // [admin] is the last section so far.
        text.push_str(&format!("token  = \"file:{TOKEN_FILE}\"\n"));
        write_new(&at(TOKEN_FILE), &format!("{}\n", random_password()?), 0o600)?;
    }
    if with_sso {
        text.push_str(&sso_configuration(&domain, sso_port(port))?);
        make_sso(dir, &*store, &domain).await?;
    }
    if with_tlsnego {
        text.push_str(&tlsnego_configuration(tlsnego_port(port)));
    }
    if with_sso || with_tlsnego {
        make_users(dir, &passwords, &domain).await?;
    }
    text.push_str(AUDIT);
    write_new(&at("rcmpd.toml"), &text, 0o644)?;
    Ok(Made { config: at("rcmpd.toml"), files })
}

/// What `--sso` adds.
const SSO_FILES: [&str; 5] = [
    "sso/seal.key",
    "sso/master-secret.sealed",
    "sso/master-secret.instance",
    "sso/first.backup",
    "sso/backup.passphrase",
];

/// What users with passwords add.
const USER_FILES: [&str; 2] = ["users/alice.password", "users/bob.password"];

/// The token of operators, with which a gateway's sessions are listed.
const TOKEN_FILE: &str = "admin.token";

/// The audit log: the first place to look at for why a certificate is mapped or not.
const AUDIT: &str = r#"
[audit]                     # who asked about which certificate, and what was decided
path = "audit.log"
"#;

/// The group whose members may get the master secret.
const SSO_GROUP: (u32, &str) = (1105, "SSO Administrators");

/// The sealed secret, with its first backup.
async fn make_sso(dir: &Path, store: &dyn DomainStore, domain: &Domain) -> anyhow::Result<()> {
    let at = |name: &str| dir.join("sso").join(name);
    make_folder(&dir.join("sso"), 0o700)?;
    let key =
        KeyFile::create(&at("seal.key")).context("cannot create the key that seals the master secret")?;
    let secrets = SecretStore::new(&dir.join("sso"), Arc::new(key), MachineId::from_system());
    secrets.generate(UnixTime::now())?;
    let passphrase = Zeroizing::new(random_password()?);
    write_new(&at("backup.passphrase"), &format!("{}\n", &*passphrase), 0o600)?;
    secrets.backup_to(&at("first.backup"), &Passphrase::typed(passphrase), UnixTime::now())?;
    let (rid, name) = SSO_GROUP;
    let sid = |rid| domain.sid.with_rid(rid).context("a SID has room for a RID");
    let group = Group { name: name.into(), sid: sid(rid)?, scope: GroupScope::Global };
    let changes =
        [Change::PutGroup(Put::New, group), Change::AddMember { group: sid(rid)?, member: sid(1001)? }];
    store.apply(&mut changes.into_iter().map(Ok)).await?;
    Ok(())
}

/// Passwords of alice, who may get the master secret, and of bob, who may not.
async fn make_users(dir: &Path, passwords: &Passwords, domain: &Domain) -> anyhow::Result<()> {
    make_folder(&dir.join("users"), 0o700)?;
    for (name, rid) in [("alice", 1001), ("bob", 1002)] {
        let password = Zeroizing::new(random_password()?);
        write_new(&dir.join(format!("users/{name}.password")), &format!("{}\n", &*password), 0o600)?;
        let sid = domain.sid.with_rid(rid).context("a SID has room for a RID")?;
        passwords.set(sid, &password, true).await?;
    }
    Ok(())
}

fn sso_configuration(domain: &Domain, port: u16) -> anyhow::Result<String> {
    let group = domain.sid.with_rid(SSO_GROUP.0).context("a SID has room for a RID")?;
    Ok(format!(
        r#"
[sso]                       # the master secret server
listen         = ["127.0.0.1:{port}"]
administrators = ["sid:{group}"]   # the group "{name}"
folder         = "sso"
seal           = "file:sso/seal.key"

[sso.ntlm]                  # accounts of the store with a password: alice and bob
"#,
        name = SSO_GROUP.1
    ))
}

fn tlsnego_configuration(port: u16) -> String {
    format!(
        r#"
[tlsnego]                   # SOAP clients with message security (WSHttpBinding)
listen      = "127.0.0.1:{port}"
addresses   = ["http://127.0.0.1:{port}/service"]     # what clients name in a:To
certificate = "certs/site.pem"
key         = "certs/site.key"
credential  = "username"   # alice and bob have passwords
upstream    = "http://127.0.0.1:{upstream}/service"   # the service behind the gateway
"#,
        upstream = port.saturating_add(1)
    )
}

/// Makes a folder and those above it with a mode, which a umask may make narrower and never wider. One that
/// is there stays as it is.
pub(crate) fn make_folder(path: &Path, mode: u32) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.with_context(|| format!("cannot create {}", path.display()))
}

fn write_new(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    file_access::write_new(path, text.as_bytes(), mode)
        .with_context(|| format!("cannot write {}", path.display()))
}

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).context("the operating system has no randomness")?;
    Ok(bytes)
}

/// A SID for a new domain: three random numbers.
pub fn random_domain_sid() -> anyhow::Result<Sid> {
    let bytes: [u8; 12] = random()?;
    let (words, _) = bytes.as_chunks::<4>();
    let [a, b, c] = std::array::from_fn(|n| u32::from_le_bytes(words[n]));
    Sid::new(5, &[21, a, b, c]).context("four sub-authorities fit")
}

/// A machine's password: 120 characters of printable ASCII, some 700 bits.
pub fn random_password() -> anyhow::Result<String> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bytes: [u8; 120] = random()?;
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 63)])).collect())
}

/// A name under the demo's organization.
fn name(unit: Option<&str>, common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Contoso");
    if let Some(unit) = unit {
        name.push(DnType::OrganizationalUnitName, unit);
    }
    name.push(DnType::CommonName, common_name);
    name
}

/// A certificate that is valid for ten years, from a little ago because of clocks that differ.
fn params() -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.not_before = now - Duration::minutes(5);
    params.not_after = now + Duration::days(3650);
    params
}

fn authority() -> anyhow::Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = params();
    params.distinguished_name = name(None, "Contoso Demo CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// The certificate of an account. The demo shows where each name is.
fn certificate(
    who: &str,
    sid: &Sid,
    ca: &CertifiedIssuer<'_, KeyPair>,
) -> anyhow::Result<(rcgen::Certificate, KeyPair)> {
    let mut params = params();
    let common_name = match who {
        "alice" => "Alice Adams",
        "bob" => "Bob Baker",
        "carol" => "Carol Carter",
        "web01" => "web01.contoso.example",
        _ => "Mallory Malone",
    };
    let unit = if who == "web01" { "Servers" } else { "People" };
    params.distinguished_name = name(Some(unit), common_name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let mut serial: [u8; 16] = random()?;
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    match who {
        "alice" => {
            params.subject_alt_names = vec![principal_name(&format!("alice@{DNS}"))];
            params.custom_extensions = vec![sid_extension(sid)];
        }
        "web01" => {
            params.subject_alt_names = vec![SanType::DnsName(format!("web01.{DNS}").try_into()?)];
            params.custom_extensions = vec![sid_extension(sid)];
        }
        "mallory" => params.subject_alt_names = vec![principal_name(&format!("mallory@{DNS}"))],
        _ => {}
    }
    let key = KeyPair::generate()?;
    let issuer: &Issuer<'_, KeyPair> = ca;
    let certificate = params.signed_by(&key, issuer)?;
    Ok((certificate, key))
}

/// The certificate of a web server, to try the sidecar behind.
fn site(ca: &CertifiedIssuer<'_, KeyPair>) -> anyhow::Result<(rcgen::Certificate, KeyPair)> {
    let mut params = params();
    // Browsers and others take no longer ones from servers.
    params.not_after = params.not_before + Duration::days(397);
    params.distinguished_name = name(Some("Servers"), &format!("site.{DNS}"));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.subject_alt_names = vec![
        SanType::DnsName(format!("site.{DNS}").try_into()?),
        SanType::DnsName("localhost".try_into()?),
        SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()),
    ];
    let key = KeyPair::generate()?;
    let issuer: &Issuer<'_, KeyPair> = ca;
    let certificate = params.signed_by(&key, issuer)?;
    Ok((certificate, key))
}

/// otherName with a user principal name, 1.3.6.1.4.1.311.20.2.3 (RFC 4556 C).
fn principal_name(name: &str) -> SanType {
    SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], name.into()))
}

/// szOID_NTDS_CA_SECURITY_EXT, 1.3.6.1.4.1.311.25.2 ([MS-WCCE] 2.2.2.7.7.4): one otherName whose value is the
/// SID as text in an OCTET STRING. All lengths are below 128.
fn sid_extension(sid: &Sid) -> CustomExtension {
    const OBJECT_SID: [u8; 12] = [0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x19, 0x02, 0x01];
    let text = sid.to_string();
    let wrap = |tag: u8, contents: &[u8]| [&[tag, contents.len() as u8], contents].concat();
    let value = wrap(0xa0, &wrap(0x04, text.as_bytes()));
    let other_name = wrap(0xa0, &[&OBJECT_SID[..], &value].concat());
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 311, 25, 2], wrap(0x30, &other_name))
}

/// The value of altSecurityIdentities that the demo stores for a certificate.
fn mapping(who: &str, der: &[u8]) -> anyhow::Result<Vec<String>> {
    let certificate = Certificate::parse(der)?;
    let issuer = certificate.issuer_name()?.clone();
    Ok(match who {
        "bob" => vec![AltSecurityIdentity::issuer_serial(issuer, certificate.serial).to_string()],
        "carol" => {
            vec![
                AltSecurityIdentity::IssuerSubject { issuer, subject: certificate.subject_name()?.clone() }
                    .to_string(),
            ]
        }
        _ => vec![],
    })
}

async fn fill(
    store: &dyn DomainStore,
    domain: &Domain,
    now: FileTime,
    mappings: &[Vec<String>],
) -> anyhow::Result<()> {
    let sid = |rid| domain.sid.with_rid(rid).context("a SID has room for a RID");
    let mut changes = Vec::new();
    for (rid, name, scope) in [
        (513, "Domain Users", GroupScope::Global),
        (515, "Domain Computers", GroupScope::Global),
        (1101, "Engineers", GroupScope::Global),
        (1102, "Web Team", GroupScope::Universal),
        (1103, "Wiki Editors", GroupScope::Local),
        (1104, "Web Servers", GroupScope::Global),
    ] {
        changes.push(Change::PutGroup(Put::New, Group { name: name.into(), sid: sid(rid)?, scope }));
    }
    for (at, (rid, name, full_name)) in [
        (1001, "alice", "Alice Adams"),
        (1002, "bob", "Bob Baker"),
        (1003, "carol", "Carol Carter"),
        (1004, "WEB01$", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let is_computer = name.ends_with('$');
        changes.push(Change::PutAccount(
            Put::New,
            Box::new(Account {
                user_principal_name: (!is_computer).then(|| format!("{name}@{DNS}")),
                service_principal_names: if is_computer { vec![format!("host/web01.{DNS}")] } else { vec![] },
                alt_security_identities: mappings[at].clone(),
                created: now,
                password_last_set: now,
                password_can_change: now,
                profile: Profile { full_name: full_name.into(), ..Profile::default() },
                ..Account::new(name, sid(rid)?)
            }),
        ));
    }
    // alice is an engineer; engineers are in the web team, which edits the wiki.
    for (group, member) in
        [(1101, 1001), (1102, 1101), (1103, 1102), (1102, 1002), (1103, 1003), (1104, 1004)]
    {
        changes.push(Change::AddMember { group: sid(group)?, member: sid(member)? });
    }
    store.apply(&mut changes.into_iter().map(Ok)).await?;
    Ok(())
}

fn configuration(domain: &Domain, [port, mapper, admin]: [u16; 3]) -> String {
    format!(
        r#"# A demo domain, created by `rcmpd quickstart`. Relative paths start at this file.

[domain]
netbios = "{netbios}"
dns     = "{dns}"
sid     = "{sid}"
server  = "DC1"            # NetBIOS name of this server

[rpc]
listen          = ["127.0.0.1:{port}"]
endpoint_mapper = "127.0.0.1:{mapper}"

[store]
kind = "sqlite"
path = "accounts.db"

[channels]                  # secrets of machines, sealed in the same database
store = "sqlite"
key   = "accounts.key"

[mapping]
methods    = ["upn", "subject"]
binding    = "full"        # strong mappings only: names alone are not enough
validation = "chain"       # validate certificates by these CAs:
anchors    = ["certs/ca.pem"]

[client]                    # how `rcmpd map -c` asks
server  = "127.0.0.1:{port}"
account = "WEB01$"
secret  = "file:machines/WEB01.secret"

[admin]                     # /live, /ready and /metrics; with a token also /explain
listen = "127.0.0.1:{admin}"
"#,
        netbios = domain.netbios,
        dns = domain.dns,
        sid = domain.sid,
    )
}
