//! The stores that a configuration names: made, opened, read.

use crate::config::{self, Config, StoreKind};
use crate::output;
use account_store::file_access::database_files;
use account_store::profile::{self, ProfileStore};
use account_store::sqlite::{SealingKey, SqliteStore};
use account_store::{
    Account, AccountAdmin, AccountStore, Change, Domain, FileAccess, Group, GroupScope, Membership,
    MemoryStore, Put, Record, StoreError, Unmatchable, json_lines,
};
use anyhow::{Context, anyhow, bail};
use dtyp::Sid;
use std::collections::HashMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing::warn;

/// Groups that every domain has, and that new accounts are in.
const GROUPS: [(u32, &str); 2] = [(513, "Domain Users"), (515, "Domain Computers")];

/// Accounts read at once.
const PAGE: usize = 1000;

/// Makes the database that a configuration names, with the groups that every domain has, and the key that seals its secrets.
/// Nothing that exists is touched.
pub async fn create(config: &Config) -> anyhow::Result<Vec<PathBuf>> {
    let store = section(config)?;
    let mut made = Vec::new();
    if store.machines.exists() {
        bail!("{} already exists", store.machines.display());
    }
    for path in [&store.machines, &store.key] {
        if let Some(folder) =
            path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        {
            bail!(
                "cannot create {}: the folder {} does not exist; create it first, for the user of the service",
                path.display(),
                folder.display()
            );
        }
    }
    let filled = fill(config, &mut made).await;
    if filled.is_err() {
        // What is half made would stand in the way of the next try.
        for path in made.iter().flat_map(|path| database_files(path)) {
            let _ = std::fs::remove_file(path);
        }
    }
    filled.map(|()| made)
}

/// The files themselves; `made` has those that were not there before.
async fn fill(config: &Config, made: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let store = section(config)?;
    if !store.key.exists() {
        SealingKey::create(&store.key)?;
        made.push(store.key.clone());
    }
    SqliteStore::create(&store.machines, &config.domain)
        .with_context(|| format!("cannot create {}", store.machines.display()))?;
    made.push(store.machines.clone());
    let groups = GROUPS.map(|(rid, name)| {
        let sid = config.domain.sid.with_rid(rid).context("a domain's SID has room for a RID")?;
        let group = Group { name: name.to_owned(), sid, scope: GroupScope::Global };
        anyhow::Ok(Change::PutGroup(Put::New, group))
    });
    let groups = groups.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    machines_with_secrets(config)?.apply(&mut groups.into_iter().map(Ok)).await?;
    Ok(())
}

/// What helps when the key file of the database is not there, or is another one.
const LOST_KEY: &str = "put the key file back from its copy; if there is none, `rcmpd domain rekey --forget-secrets -c FILE` makes \
                        a new key file, and then each machine needs a new secret";

/// The database with the machines. If the key file cannot be used, it is opened without: accounts can be read and changed,
/// questions about the secrets of machines fail, and a warning says so.
pub fn machines(config: &Config) -> anyhow::Result<Arc<SqliteStore>> {
    match open_with_secrets(config)? {
        Ok(store) => Ok(store),
        Err(lost) => {
            output::warning(&format!("machine secrets cannot be used: {lost}"));
            open(config, None)?.context("it was opened without a key")
        }
    }
}

/// The database with the machines and their secrets.
pub fn machines_with_secrets(config: &Config) -> anyhow::Result<Arc<SqliteStore>> {
    open_with_secrets(config)?.map_err(|lost| anyhow!("machine secrets cannot be used: {lost}"))
}

/// Makes a new key file for the database with the machines, and forgets all secrets in it. Returns the names of the machines.
pub fn forget_secrets(config: &Config) -> anyhow::Result<Vec<String>> {
    let key = &database_made(config)?.key;
    if key.exists() {
        let shown = key.display();
        bail!(
            "{shown} is there; if it is the wrong file or damaged, move it away (mv {shown} {shown}.old), and run this again. \
             Nothing was changed"
        );
    }
    let store = open(config, None)?.context("it was opened without a key")?;
    let made = SealingKey::create(key)?;
    store.forget_secrets(&made, crate::clock::now()).map_err(|error| {
        let _ = std::fs::remove_file(key);
        error.into()
    })
}

/// `[store]` and `[channels]`, where their database is there. Without it nothing is said of its key, which is made with it.
fn database_made(config: &Config) -> anyhow::Result<&config::Store> {
    let store = section(config)?;
    let path = &store.machines;
    if !path.try_exists().with_context(|| format!("cannot open the account store {}", path.display()))? {
        bail!(
            "{} does not exist; `rcmpd domain add` creates it for the domain of the configuration",
            path.display()
        );
    }
    Ok(store)
}

/// The database with the machines and their secrets, or why its key file cannot be used and what to do about it.
fn open_with_secrets(config: &Config) -> anyhow::Result<Result<Arc<SqliteStore>, String>> {
    let path = &database_made(config)?.key;
    match SealingKey::open(path) {
        Ok(key) => Ok(open(config, Some(&key))?
            .ok_or_else(|| format!("{}: {}: {LOST_KEY}", path.display(), StoreError::OtherKey))),
        // The error says what to do, and a new key would cost every machine its secret.
        Err(StoreError::Unavailable(why)) if FileAccess::Owner.check_path(path).is_err() => Ok(Err(why)),
        Err(StoreError::Unavailable(why)) => Ok(Err(format!("{why}: {LOST_KEY}"))),
        Err(error) => Err(error.into()),
    }
}

/// Opens the database; `None` if its secrets are sealed under another key.
fn open(config: &Config, key: Option<&SealingKey>) -> anyhow::Result<Option<Arc<SqliteStore>>> {
    let path = &database_made(config)?.machines;
    let opened = match SqliteStore::open(path, key) {
        Err(StoreError::OtherKey) => return Ok(None),
        opened => opened.with_context(|| format!("cannot open the account store {}", path.display()))?,
    };
    check_domain(path, opened.domain(), config)?;
    if let Some(process) = opened.served_otherwise() {
        output::warning(&format!(
            "the running service (process {process}) does not read this {}: the file, its -wal or its -shm was \
             replaced or removed while it was served. What is changed here takes effect when the service is started again",
            path.display()
        ));
    }
    Ok(Some(Arc::new(opened)))
}

/// The names that groups have in the database of a configuration. There are none if it has no database, or one that this user cannot read.
pub async fn group_names(config: &Config, groups: impl Iterator<Item = Sid>) -> HashMap<Sid, String> {
    let is_database = config.store.as_ref().is_some_and(|store| matches!(store.kind, StoreKind::Sqlite(_)));
    let mut names = HashMap::new();
    let Some(Ok(Some(store))) = is_database.then(|| open(config, None)) else { return names };
    for sid in groups {
        if let Ok(Some(group)) = store.group_by_sid(&sid).await {
            names.insert(sid, group.name);
        }
    }
    names
}

/// The database with the accounts, to be changed.
pub fn database(config: &Config) -> anyhow::Result<Arc<SqliteStore>> {
    match &section(config)?.kind {
        StoreKind::Sqlite(_) => machines(config),
        StoreKind::Memory(path) => {
            bail!("accounts are read from {}: change them there, and reload", path.display())
        }
        StoreKind::Profile(_) => {
            bail!("accounts are the [[store.level]] of the configuration: change them there")
        }
    }
}

/// The accounts of a configuration.
#[derive(Clone)]
pub struct Accounts {
    /// To be asked.
    pub store: Arc<dyn AccountStore>,
    /// To be read as a whole, where that is possible.
    pub admin: Option<Arc<dyn AccountAdmin>>,
}

impl Accounts {
    /// None.
    pub fn nobody(domain: Domain) -> Self {
        Self::listed(Arc::new(MemoryStore::new(domain)))
    }

    fn listed(admin: Arc<dyn AccountAdmin>) -> Self {
        Self { store: Arc::clone(&admin) as _, admin: Some(admin) }
    }

    /// Looks at one account after the other, in the order of their RIDs, for as long as `look_at` wants more; at none where the store
    /// cannot be read as a whole. It may take seconds without a pause.
    pub async fn each(&self, mut look_at: impl FnMut(&Account) -> bool) -> anyhow::Result<()> {
        let Some(admin) = &self.admin else { return Ok(()) };
        let mut after = 0;
        loop {
            let page = admin.accounts(after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.sid.split_rid().map_or(u32::MAX, |(_, rid)| rid);
            if !page.iter().all(&mut look_at) {
                return Ok(());
            }
        }
    }
}

/// The accounts, to be asked; `machines` are those of the same configuration.
pub async fn accounts(config: &Config, machines: &Arc<SqliteStore>) -> anyhow::Result<Accounts> {
    match &section(config)?.kind {
        StoreKind::Sqlite(_) => Ok(Accounts::listed(Arc::clone(machines) as _)),
        StoreKind::Memory(path) => Ok(Accounts::listed(Arc::new(memory(path, &config.domain).await?))),
        StoreKind::Profile(levels) => {
            let levels = levels.iter().map(|level| record(level, &config.domain));
            let levels = levels.collect::<anyhow::Result<Vec<_>>>()?;
            let store = Arc::new(ProfileStore::new(config.domain.clone(), levels)?);
            Ok(Accounts { store, admin: None })
        }
    }
}

fn section(config: &Config) -> anyhow::Result<&config::Store> {
    config.store.as_ref().context("the configuration has no [store]")
}

fn check_domain(path: &Path, found: &Domain, config: &Config) -> anyhow::Result<()> {
    if *found != config.domain {
        bail!(
            "{} holds the accounts of {} ({}), but [domain] is {} ({})",
            path.display(),
            found.netbios,
            found.sid,
            config.domain.netbios,
            config.domain.sid
        );
    }
    Ok(())
}

async fn memory(path: &Path, domain: &Domain) -> anyhow::Result<MemoryStore> {
    let file = FileAccess::ReadByAll.open(path).map_err(|error| anyhow!("{} {error}", path.display()))?;
    let len = file.metadata().map_or(0, |metadata| metadata.len());
    let store = MemoryStore::new(domain.clone());
    let mut count = 0_u64;
    let mut see = |line: u64, seen: json_lines::Seen<'_>| {
        let json_lines::Seen::Account(account) = seen else { return };
        for found in account.unmatchable() {
            if count == 0 {
                let Unmatchable { attribute, value, why } = found;
                warn!(
                    file = %path.display(), line, account = account.name, attribute, value, why,
                    "Stored value matches no certificate"
                );
            }
            count += 1;
        }
    };
    let mut lines = BufReader::new(file);
    let imported = json_lines::import_seen(
        &store,
        json_lines::ImportOptions::NEW,
        &mut lines,
        len,
        &mut |_, _| {},
        &mut see,
    )
    .await;
    if count > 1 {
        warn!(file = %path.display(), count, "Stored values match no certificate; `rcmpd mapping audit` lists them all");
    }
    imported.with_context(|| format!("cannot use the accounts in {}", path.display()))?;
    Ok(store)
}

fn record(level: &config::Level, domain: &Domain) -> anyhow::Result<profile::Level> {
    let sid = |rid| domain.sid.with_rid(rid).context("a domain's SID has room for a RID");
    let memberships = level.groups.iter().map(|(rid, name)| {
        anyhow::Ok(Membership { sid: sid(*rid)?, name: name.clone(), scope: GroupScope::Global })
    });
    let primary_group_id = level.groups.first().map_or(0, |(rid, _)| *rid);
    let account = Account { primary_group_id, ..Account::new(level.name.as_str(), sid(level.rid)?) };
    let record = Record { account, memberships: memberships.collect::<anyhow::Result<_>>()? };
    Ok(profile::Level { record, issuers: level.issuers.clone() })
}
