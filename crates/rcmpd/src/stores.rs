//! The stores that a configuration names: made, opened, read.
//!
//! Everything else of `rcmpd` knows stores by their traits. Machines are in a database of this program;
//! accounts are in the same database, or in a store of another kind, which a build may add ([`Kinds`]).

mod backup;
mod compared;
mod database;
mod kinds;
mod ldap;
mod passwords;
mod served;
mod several;
mod socket;
mod status;
mod traced;
mod verify;
mod walk;

pub use backup::{Copied, back_up, restore};
pub(crate) use compared::{Compared, encode as encode_compared};
pub use kinds::{Accounts, Kinds, OpenError, Settings};
pub(crate) use kinds::{BUILT_IN, added};
pub(crate) use ldap::encode as encode_ldap;
pub use passwords::{PasswordForms, Passwords};
pub use served::ServedDatabase;
pub(crate) use socket::encode as encode_socket;
pub(crate) use status::kind_name;
pub use status::{StoreStatus, status};
pub use verify::{Finding, Read, Verified, verify};

use self::database::Database;
use crate::config::{self, Config, StoreKind};
use crate::output;
use account_store::file_access::database_files;
use account_store::profile::{self, ProfileStore};
use account_store::sqlite::{SealingKey, SqliteStore};
use account_store::{
    Account, AccountAdmin, AccountStore, Change, Domain, DomainStore, FileAccess, Forgotten, Group,
    GroupScope, Membership, MemoryStore, NtHashes, PasswordHashes, Put, Record, StoreError, Unmatchable,
    json_lines,
};
use anyhow::{Context, anyhow, bail};
use dtyp::Sid;
use std::collections::HashMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store_postgres::PostgresStore;
use tracing::warn;

/// Groups that every domain has, and that new accounts are members of.
const GROUPS: [(u32, &str); 2] = [(513, "Domain Users"), (515, "Domain Computers")];

/// Makes the database that a configuration names, with the groups that every domain has, and the key that
/// seals its secrets. Nothing that exists is touched.
pub async fn create(config: &Config) -> anyhow::Result<Vec<PathBuf>> {
    let store = section(config)?;
    let mut made = Vec::new();
    if let Some(path) = store.machines.as_ref().filter(|path| path.exists()) {
        bail!("{} already exists", path.display());
    }
    for path in store.machines.iter().chain([&store.key]) {
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
        // A file that is left would be in the way of the next try.
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
    match (&store.kind, &store.machines) {
        (StoreKind::Postgres(postgres), _) => {
            PostgresStore::create(&database::settings(postgres)?, &config.domain)
                .await
                .with_context(|| format!("cannot make a store in {}", database::place(postgres)))?;
        }
        (_, Some(path)) => {
            SqliteStore::create(path, &config.domain)
                .with_context(|| format!("cannot create {}", path.display()))?;
            made.push(path.clone());
        }
        (_, None) => bail!("the configuration names no database for machines"),
    }
    let groups = GROUPS.map(|(rid, name)| {
        let sid = config.domain.sid.with_rid(rid).context("a domain's SID has room for a RID")?;
        let group = Group { name: name.to_owned(), sid, scope: GroupScope::Global };
        anyhow::Ok(Change::PutGroup(Put::New, group))
    });
    let groups = groups.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    machines_with_secrets(config).await?.apply(&mut groups.into_iter().map(Ok)).await?;
    Ok(())
}

/// What an operator can do if the key file of the database is missing or is another one.
const LOST_KEY: &str = "put the key file back from its copy; if there is none, `rcmpd store rekey --forget-secrets -c FILE` makes \
                        a new key file, and then each machine needs a new secret, and each user a new password";

/// The database with the machines. If the key file cannot be used, it is opened without: accounts can be read
/// and changed, queries about the secrets of machines fail, and a warning says so.
pub async fn machines(config: &Config) -> anyhow::Result<Arc<dyn DomainStore>> {
    Ok(open_without_lost_secrets(config).await?.store())
}

/// The database with the machines and their secrets.
pub async fn machines_with_secrets(config: &Config) -> anyhow::Result<Arc<dyn DomainStore>> {
    Ok(open_whole(config).await?.store())
}

/// The database with the machines for a service, which needs their secrets if it has secure channels.
pub async fn served_machines(config: &Config, with_secrets: bool) -> anyhow::Result<Served> {
    let opened = match with_secrets {
        true => open_whole(config).await?,
        false => open_without_lost_secrets(config).await?,
    };
    let database = opened.served();
    let (hashes, password_hashes) = match is_one_database(config) {
        true => (Some(opened.nt_hashes()), Some(opened.password_hashes())),
        false => (None, None),
    };
    let channels = opened.server().filter(|_| section(config).is_ok_and(|store| store.shares_channels));
    Ok(Served { machines: opened.store(), database, hashes, password_hashes, channels })
}

/// The database in which servers share their channels.
pub async fn shared_database(config: &Config) -> anyhow::Result<Arc<PostgresStore>> {
    let opened = match section(config)?.shares_channels {
        true => open(config, None).await?,
        false => None,
    };
    opened
        .and_then(|opened| opened.server())
        .context("no servers share this store: [channels] shared is not true")
}

/// What cannot be served without the key file of the store. Sidecars and their accounts need no secret of a
/// machine.
pub fn key_needed_by(config: &Config) -> Option<&'static str> {
    let needs_hashes = config.sso.as_ref().is_some_and(config::Sso::has_local_users);
    let needs_passwords = config.tlsnego.as_ref().is_some_and(config::Tlsnego::has_local_users);
    match (&config.rpc, needs_hashes, needs_passwords) {
        (Some(_), ..) => {
            Some("[rpc] cannot be served, because each secure channel needs the secret of its machine")
        }
        (None, true, _) => {
            Some("[sso.ntlm] cannot be served, because each user needs the NT hash of the account")
        }
        (None, false, true) => {
            Some("[tlsnego] cannot be served, because each user needs the password hash of the account")
        }
        (None, false, false) => None,
    }
}

/// The database of a service.
pub struct Served {
    /// The machines; where one database has everything, the accounts, too.
    pub machines: Arc<dyn DomainStore>,
    /// Whether that database can be used: its files are checked for replacement and removal while they are
    /// served, and its server is polled.
    pub database: ServedDatabase,
    /// The NT hashes of its accounts, if it has the accounts.
    pub hashes: Option<Arc<dyn NtHashes>>,
    /// The argon2id hashes of their passwords, if it has the accounts.
    pub password_hashes: Option<Arc<dyn PasswordHashes>>,
    /// Where servers share their secure channels, if they do.
    pub channels: Option<Arc<PostgresStore>>,
}

/// The passwords of accounts, to be written.
pub async fn passwords(config: &Config) -> anyhow::Result<Passwords> {
    if !is_one_database(config) {
        bail!("only accounts of kind = \"sqlite\" or \"postgres\" have passwords");
    }
    Ok(open_whole(config).await?.passwords())
}

/// A new database.
pub struct Made {
    /// Accounts, groups and machines.
    pub store: Arc<dyn DomainStore>,
    /// The passwords of its accounts.
    pub passwords: Passwords,
}

/// Makes a database and its key file, and opens it. A file that exists is never touched.
pub fn make_database(path: &Path, key: &Path, domain: &Domain) -> Result<Made, StoreError> {
    let key = SealingKey::create(key)?;
    SqliteStore::create(path, domain)?;
    let store = Arc::new(SqliteStore::open(path, Some(&key))?);
    let database = Database::Sqlite(store);
    Ok(Made { store: database.store(), passwords: database.passwords() })
}

async fn open_without_lost_secrets(config: &Config) -> anyhow::Result<Database> {
    match open_with_secrets(config).await? {
        Ok(store) => Ok(store),
        Err(lost) => {
            output::warning(&format!("machine secrets cannot be used: {lost}"));
            open(config, None).await?.context("it was opened without a key")
        }
    }
}

async fn open_whole(config: &Config) -> anyhow::Result<Database> {
    open_with_secrets(config).await?.map_err(|lost| anyhow!("machine secrets cannot be used: {lost}"))
}

/// Makes a new key file for the database with the machines, and replaces all secrets in it by random ones.
/// Returns whose they were.
pub async fn forget_secrets(config: &Config) -> anyhow::Result<Forgotten> {
    let key = &database_made(config)?.key;
    if key.exists() {
        let shown = key.display();
        bail!(
            "{shown} is there; if it is the wrong file or damaged, move it away (mv {shown} {shown}.old), and run this again. \
             Nothing was changed"
        );
    }
    let store = open(config, None).await?.context("it was opened without a key")?;
    let made = SealingKey::create(key)?;
    store.forget_secrets(&made, crate::clock::now()).await.map_err(|error| {
        let _ = std::fs::remove_file(key);
        error.into()
    })
}

/// `[store]` and `[channels]`, if their database exists. If it does not, the error does not mention the key
/// file, which is made with it.
fn database_made(config: &Config) -> anyhow::Result<&config::Store> {
    let store = section(config)?;
    let Some(path) = &store.machines else { return Ok(store) };
    if !path.try_exists().with_context(|| format!("cannot open the account store {}", path.display()))? {
        bail!(
            "{} does not exist; `rcmpd domain add` creates it for the domain of the configuration",
            path.display()
        );
    }
    Ok(store)
}

/// The database with the machines and their secrets, or why its key file cannot be used and what to do about
/// it.
async fn open_with_secrets(config: &Config) -> anyhow::Result<Result<Database, String>> {
    let path = &database_made(config)?.key;
    match SealingKey::open(path) {
        Ok(key) => Ok(open(config, Some(&key))
            .await?
            .ok_or_else(|| format!("{}: {}: {LOST_KEY}", path.display(), StoreError::OtherKey))),
        // The error says what to do, and a new key would cost every machine its secret.
        Err(StoreError::Unavailable(why)) if FileAccess::Owner.check_path(path).is_err() => Ok(Err(why)),
        Err(StoreError::Unavailable(why)) => Ok(Err(format!("{why}: {LOST_KEY}"))),
        Err(error) => Err(error.into()),
    }
}

/// Opens the database; `None` if its secrets are sealed under another key.
async fn open(config: &Config, key: Option<&SealingKey>) -> anyhow::Result<Option<Database>> {
    let store = database_made(config)?;
    match (&store.kind, &store.machines) {
        (StoreKind::Postgres(postgres), _) => open_server(config, postgres, key).await,
        (_, Some(path)) => open_file(config, path, key),
        (_, None) => bail!("the configuration names no database for machines"),
    }
}

async fn open_server(
    config: &Config,
    postgres: &config::Postgres,
    key: Option<&SealingKey>,
) -> anyhow::Result<Option<Database>> {
    let place = database::place(postgres);
    let opened = match PostgresStore::open(database::settings(postgres)?, key).await {
        Err(StoreError::OtherKey) => return Ok(None),
        opened => opened.with_context(|| format!("cannot open the account store in {place}"))?,
    };
    check_domain(&place, opened.domain(), config)?;
    Ok(Some(Database::Postgres(Arc::new(opened))))
}

fn open_file(config: &Config, path: &Path, key: Option<&SealingKey>) -> anyhow::Result<Option<Database>> {
    let opened = match SqliteStore::open(path, key) {
        Err(StoreError::OtherKey) => return Ok(None),
        opened => opened.with_context(|| format!("cannot open the account store {}", path.display()))?,
    };
    check_domain(&path.display().to_string(), opened.domain(), config)?;
    if let Some(process) = opened.served_otherwise() {
        output::warning(&format!(
            "the running service (process {process}) does not read this {}: the file, its -wal or its -shm was \
             replaced or removed while it was served. What is changed here takes effect when the service is started again",
            path.display()
        ));
    }
    Ok(Some(Database::Sqlite(Arc::new(opened))))
}

/// The names that groups have in the database of a configuration; none if it has no database with accounts,
/// or this user cannot read it.
pub async fn group_names(config: &Config, groups: impl Iterator<Item = Sid>) -> HashMap<Sid, String> {
    let mut names = HashMap::new();
    if !is_one_database(config) {
        return names;
    }
    let Ok(Some(opened)) = open(config, None).await else { return names };
    let store = opened.store();
    for sid in groups {
        if let Ok(Some(group)) = store.group_by_sid(&sid).await {
            names.insert(sid, group.name);
        }
    }
    names
}

/// The accounts of a configuration, to be changed, and the machines beside them.
pub struct Writable {
    /// The accounts and groups.
    pub accounts: Arc<dyn AccountAdmin>,
    /// The machines; where one database has everything, the same store.
    pub machines: Arc<dyn DomainStore>,
    /// The passwords of the accounts, if the store keeps them. Without the key file they cannot be written:
    /// [`passwords`] opens them for that.
    pub passwords: Option<Passwords>,
}

/// The accounts of a configuration, to be changed. Refused if its kind of store is read-only.
pub async fn writable(config: &Config) -> anyhow::Result<Writable> {
    match &section(config)?.kind {
        StoreKind::Sqlite(_) | StoreKind::Postgres(_) => {
            let opened = open_without_lost_secrets(config).await?;
            let store = opened.store();
            let passwords = Some(opened.passwords());
            Ok(Writable { accounts: Arc::clone(&store) as _, machines: store, passwords })
        }
        StoreKind::Memory(path) => {
            bail!("accounts are read from {}: change them there, and reload", path.display())
        }
        StoreKind::Profile(_) => {
            bail!("accounts are the [[store.level]] of the configuration: change them there")
        }
        StoreKind::Ldap(_) => {
            bail!("accounts are in a directory (kind = \"ldap\"): change them there")
        }
        StoreKind::Socket(_) => {
            bail!("accounts are with the program of [store.socket]: change them there")
        }
        StoreKind::Several(_) => {
            bail!(
                "accounts are in several stores: change those of a [[store.part]] by a configuration whose [store] is that one"
            )
        }
        StoreKind::Added(kind, settings) => match open_added(config, kind, settings).await?.admin {
            Some(accounts) => Ok(Writable { accounts, machines: machines(config).await?, passwords: None }),
            None => bail!(
                "stores of kind = \"{kind}\" are read-only: change the accounts where they are kept, and reload"
            ),
        },
    }
}

/// Whether the database with the machines has the accounts, too.
pub fn is_one_database(config: &Config) -> bool {
    config.store.as_ref().is_some_and(|store| store.has_accounts())
}

/// The accounts, for look-ups; `machines` are those of the same configuration.
pub async fn accounts(config: &Config, machines: &Arc<dyn DomainStore>) -> anyhow::Result<Accounts> {
    let store = section(config)?;
    let compared = store.compare.as_ref().map(|kind| {
        let (config, kind) = (config.clone(), kind.clone());
        Compared::new(Box::new(move || {
            let (config, kind) = (config.clone(), kind.clone());
            Box::pin(async move {
                let opened = several::accounts_of(&config, "[store.compare]", &kind, None).await;
                Ok(opened.context("cannot open [store.compare]")?.store)
            })
        }))
    });
    let compare = |accounts: Accounts| match compared {
        Some(compared) => accounts.compared(compared),
        None => accounts,
    };
    match &store.kind {
        StoreKind::Sqlite(_) => Ok(compare(Accounts::writable(Arc::clone(machines) as _).traced("sqlite"))),
        // What the cache answers is not compared again.
        StoreKind::Postgres(postgres) => {
            let accounts = Accounts::writable(Arc::clone(machines) as _).traced("postgres");
            Ok(compare(accounts).cached(postgres.cache))
        }
        StoreKind::Ldap(directory) => {
            Ok(compare(ldap::open(config, "[store]", directory)?.traced("ldap")).cached(directory.cache))
        }
        StoreKind::Socket(socket) => {
            Ok(compare(socket::open(config, socket)?.traced("socket")).cached(socket.cache))
        }
        StoreKind::Several(parts) => Ok(compare(several::open(config, parts, machines).await?)),
        kind => Ok(compare(read_only(config, kind).await?)),
    }
}

/// The accounts of a kind that has no machines, and no cache.
async fn read_only(config: &Config, kind: &StoreKind) -> anyhow::Result<Accounts> {
    match kind {
        StoreKind::Sqlite(_)
        | StoreKind::Postgres(_)
        | StoreKind::Several(_)
        | StoreKind::Ldap(_)
        | StoreKind::Socket(_) => {
            bail!("this kind of store is opened elsewhere")
        }
        StoreKind::Memory(path) => {
            Ok(Accounts::listed(Arc::new(memory(path, &config.domain).await?)).traced("memory"))
        }
        StoreKind::Profile(levels) => {
            let levels = levels.iter().map(|level| record(level, &config.domain));
            let levels = levels.collect::<anyhow::Result<Vec<_>>>()?;
            Ok(Accounts::read_only(Arc::new(ProfileStore::new(config.domain.clone(), levels)?))
                .traced("profile"))
        }
        StoreKind::Added(kind, settings) => Ok(open_added(config, kind, settings).await?.traced("added")),
    }
}

async fn open_added(config: &Config, kind: &str, settings: &Settings) -> anyhow::Result<Accounts> {
    let opened = kinds::open(kind, &config.domain, settings).await.map_err(anyhow::Error::from_boxed);
    opened.with_context(|| format!("cannot open the account store of kind = \"{kind}\""))
}

fn section(config: &Config) -> anyhow::Result<&config::Store> {
    config.store.as_ref().context("the configuration has no [store]")
}

fn check_domain(place: &str, found: &Domain, config: &Config) -> anyhow::Result<()> {
    if *found != config.domain {
        bail!(
            "{place} holds the accounts of {} ({}), but [domain] is {} ({})",
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
