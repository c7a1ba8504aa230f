//! `rcmpd machine import`: makes a machine account with the secret that the machine already has, from a
//! keytab or from Samba's `secrets.tdb`.

use super::{domains, groups, put_new, show, warn_of_short_secret};
use crate::cli::{ImportMachine, MachineRights, PermissionArg};
use crate::clock::now;
use crate::commands::{UNUSABLE, failed, load};
use crate::config::Config;
use account_import::samba_secrets;
use account_store::fold::casefold;
use account_store::machines::{ChannelKind, Machine, NtHash};
use account_store::{FileAccess, file_access};
use anyhow::{Context, anyhow, bail};
use rpc_auth::kerberos::{Keytab, KeytabEntry};
use std::io::Read;
use std::path::Path;
use zeroize::Zeroizing;

/// RC4-HMAC (RFC 4757 2): its key is the NT hash of the password.
const RC4_HMAC: i32 = 23;

/// The secret in a file.
struct Found {
    hash: NtHash,
    /// The password, if the file has it.
    password: Option<Zeroizing<String>>,
}

pub(super) async fn run(import: ImportMachine) -> anyhow::Result<u8> {
    let ImportMachine { name, keytab, secrets_tdb, write_secret, rights, config, json } = import;
    let MachineRights { permission, domain, group } = rights;
    if !name.ends_with('$') {
        bail!("{name}: the name of a machine account ends in a dollar sign, as in 'WEB01$'");
    }
    let config = load(&config.config)?;
    let found = match (keytab, secrets_tdb) {
        (Some(path), _) => of_keytab(&path, &name, &config),
        (None, Some(path)) => of_secrets_tdb(&path, &config),
        (None, None) => Err(anyhow!("no file is given")),
    };
    let found = found.map_err(|error| failed(UNUSABLE, crate::output::chain(&error)))?;
    let store = crate::stores::machines_with_secrets(&config).await?;
    let known = store.machine(&name).await?;
    if known.is_some() && !(permission.is_empty() && domain.is_empty() && group.is_empty()) {
        bail!(
            "the machine account {name} already exists: `rcmpd machine set` changes its permissions and scope"
        );
    }
    let (domains, groups) = (domains(&config, &domain)?, groups(&config, &*store, &group).await?);
    if let (Some(path), Some(password)) = (&write_secret, &found.password) {
        let line = Zeroizing::new(format!("{}\n", password.as_str()));
        let written = file_access::write_new(path, line.as_bytes(), 0o600);
        written.with_context(|| {
            let shown = path.display();
            format!("cannot write {shown}: if it is left from an earlier try of this command, remove it")
        })?;
    }
    match known {
        Some(known) => {
            store.rotate(known.machine.sid, None, found.hash, now()).await?;
        }
        None => {
            let (sid, kind) = (store.domain().sid, ChannelKind::Workstation);
            let rcmp = permission.contains(&PermissionArg::Rcmp);
            let machine = Machine { name: name.clone(), sid, kind, enabled: true, rcmp, domains, groups };
            put_new(&config, &store, machine, found.hash).await?;
        }
    }
    show(&*store, &name, json.json).await
}

fn read(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let file = FileAccess::Group.open(path).map_err(|error| anyhow!("{} {error}", path.display()))?;
    // Room for all of it, so that no part of a secret is left where the buffer was before it grew.
    let mut bytes = Zeroizing::new(Vec::with_capacity(samba_secrets::LEN_MAX + 1));
    let read = file.take(samba_secrets::LEN_MAX as u64 + 1).read_to_end(&mut bytes);
    read.with_context(|| format!("{} cannot be read", path.display()))?;
    if bytes.len() > samba_secrets::LEN_MAX {
        bail!("{} is longer than {} MiB", path.display(), samba_secrets::LEN_MAX >> 20);
    }
    Ok(bytes)
}

fn of_keytab(path: &Path, name: &str, config: &Config) -> anyhow::Result<Found> {
    let bytes = read(path)?;
    let keytab = Keytab::decode(&bytes);
    let keytab = keytab.with_context(|| format!("{} is not a keytab that can be used", path.display()))?;
    let hash = newest_nt_hash(&keytab, name, &config.domain.dns)
        .map_err(|why| anyhow!("{}: {why}", path.display()))?;
    Ok(Found { hash, password: None })
}

/// The RC4 key of the highest version of a machine account.
fn newest_nt_hash(keytab: &Keytab, name: &str, realm: &str) -> Result<NtHash, String> {
    let is_of_machine = |entry: &&KeytabEntry| {
        let principal = &entry.principal;
        matches!(&*principal.components, [one] if casefold(one) == casefold(name))
            && principal.realm.eq_ignore_ascii_case(realm)
    };
    let of_machine: Vec<&KeytabEntry> = keytab.entries.iter().filter(is_of_machine).collect();
    if of_machine.is_empty() {
        let mut others: Vec<String> = keytab.entries.iter().map(|it| it.principal.to_string()).collect();
        others.sort();
        others.dedup();
        others.truncate(8);
        let realm = realm.to_uppercase();
        return Err(format!("it has no key of {name}@{realm}; it has keys of {}", others.join(", ")));
    }
    // A version of eight bits begins again after 255. If a file has such versions, the newest entry is the
    // one with the latest time.
    let has_versions = of_machine.iter().all(|entry| entry.has_wide_kvno);
    let age = |entry: &KeytabEntry| match has_versions {
        true => u64::from(entry.kvno),
        false => entry.time.0,
    };
    let newest = of_machine.iter().map(|entry| age(entry)).max().unwrap_or_default();
    let newest = || of_machine.iter().filter(|entry| age(entry) == newest);
    let mut keys = newest().filter(|entry| entry.key.etype == RC4_HMAC);
    let Some(key) = keys.next() else {
        let mut etypes: Vec<i32> = newest().map(|entry| entry.key.etype).collect();
        etypes.sort_unstable();
        etypes.dedup();
        return Err(format!(
            "its newest keys of {name} have no RC4 key (type 23), only types {etypes:?} are there: a secure channel needs the NT hash of \
             the password, which cannot be made of AES keys; take over the password (--secrets-tdb), or set a new one with `rcmpd machine \
             add --secret-file`"
        ));
    };
    if keys.any(|other| other.key != key.key) {
        return Err(format!(
            "it has two RC4 keys of {name} with one version, so it is not known which one counts"
        ));
    }
    let hash = <[u8; 16]>::try_from(&**key.key.bytes);
    hash.map(NtHash::new).map_err(|_| format!("its RC4 key of {name} does not have 16 bytes"))
}

fn of_secrets_tdb(path: &Path, config: &Config) -> anyhow::Result<Found> {
    let bytes = read(path)?;
    let domain = &config.domain;
    let secret = samba_secrets::machine_secret(&bytes, &domain.netbios);
    let secret =
        secret.with_context(|| format!("{} is not a secrets.tdb that can be used", path.display()))?;
    let secret = secret.with_context(|| {
        format!("{} has no password of a machine account in the domain {}", path.display(), domain.netbios)
    })?;
    if secret.domain_sid.is_some_and(|sid| sid != domain.sid) {
        bail!("{} is of another domain {}: its SID is not that of [domain]", path.display(), domain.netbios);
    }
    warn_of_short_secret(&secret.password);
    Ok(Found { hash: NtHash::from_password(&secret.password), password: Some(secret.password) })
}
