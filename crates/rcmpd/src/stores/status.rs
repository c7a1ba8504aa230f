//! `rcmpd store status`: what is in the stores of a configuration.

use super::several::accounts_of;
use super::walk::walk;
use super::{database, section};
use crate::config::{Config, LdapServers, StoreKind};
use crate::stated_time;
use account_store::file_access::database_files;
use account_store::sqlite::SqliteStore;
use account_store::{Account, Group, Query, Summary};
use dtyp::FileTime;
use serde::Serialize;
use std::path::PathBuf;
use store_postgres::PostgresStore;

/// What is in one store.
#[derive(Debug, Serialize)]
pub struct StoreStatus {
    /// The section that names it.
    pub store: String,
    /// `store.kind`.
    pub kind: String,
    /// A path, servers.
    pub place: String,
    /// The version of its tables.
    pub schema: Option<u32>,
    /// How often its accounts were changed.
    pub revision: Option<u64>,
    /// How many accounts it has.
    pub accounts: Option<u64>,
    /// How many groups it has.
    pub groups: Option<u64>,
    /// How many machines it has.
    pub machines: Option<u64>,
    /// When its files were changed last.
    pub changed: Option<String>,
    /// For how long answers from it may be used.
    pub age_max_s: u64,
    /// Why it cannot be read.
    pub error: Option<String>,
}

/// All stores of a configuration, each with the section that names it. The database with the machines is
/// among them; that of `kind = "several"` is not, because its parts are.
pub(super) fn places(config: &Config) -> anyhow::Result<Vec<(String, StoreKind)>> {
    let store = section(config)?;
    let kinds = store.kinds().into_iter().map(|(section, kind)| (section, kind.clone()));
    let mut kinds: Vec<_> = kinds.filter(|(_, kind)| !matches!(kind, StoreKind::Several(_))).collect();
    let machines = store.machines.iter().map(|path| StoreKind::Sqlite(path.clone()));
    for machines in machines {
        if kinds.iter().all(|(_, kind)| *kind != machines) {
            kinds.push(("channels".to_owned(), machines));
        }
    }
    Ok(kinds)
}

pub(crate) fn kind_name(kind: &StoreKind) -> String {
    match kind {
        StoreKind::Sqlite(_) => "sqlite",
        StoreKind::Postgres(_) => "postgres",
        StoreKind::Memory(_) => "memory",
        StoreKind::Profile(_) => "profile",
        StoreKind::Ldap(_) => "ldap",
        StoreKind::Socket(_) => "socket",
        StoreKind::Several(_) => "several",
        StoreKind::Added(kind, _) => kind,
    }
    .to_owned()
}

fn place_of(kind: &StoreKind) -> String {
    match kind {
        StoreKind::Sqlite(path) | StoreKind::Memory(path) => path.display().to_string(),
        StoreKind::Postgres(postgres) => database::place(postgres),
        StoreKind::Socket(socket) => socket.path.display().to_string(),
        StoreKind::Ldap(ldap) => match &ldap.servers {
            LdapServers::Listed(servers) => {
                servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            }
            LdapServers::Discovered { .. } => "servers by DNS".to_owned(),
        },
        StoreKind::Profile(_) | StoreKind::Several(_) => "the configuration".to_owned(),
        StoreKind::Added(_, settings) => {
            settings.path.as_ref().map_or_else(String::new, |path| path.display().to_string())
        }
    }
}

/// When one of these files was changed last.
fn changed(files: &[PathBuf]) -> Option<String> {
    let times = files.iter().filter_map(|path| path.metadata().ok()?.modified().ok());
    times.max().map(|time| FileTime::from(time).to_string())
}

/// What is in each store.
pub async fn status(config: &Config) -> anyhow::Result<Vec<StoreStatus>> {
    let mut all = Vec::new();
    for (section, kind) in places(config)? {
        let changed = match &kind {
            // The third one, the index of the log, is changed by each program that opens the database.
            StoreKind::Sqlite(path) => changed(&database_files(path)[..2]),
            StoreKind::Memory(path) => changed(std::slice::from_ref(path)),
            _ => None,
        };
        let counted = count(config, &section, &kind).await;
        let (counts, error) = match counted {
            Ok(counts) => (counts, None),
            Err(error) => (Counts::default(), Some(crate::output::chain(&error))),
        };
        all.push(StoreStatus {
            store: section,
            kind: kind_name(&kind),
            place: place_of(&kind),
            schema: counts.schema,
            revision: counts.revision,
            accounts: counts.accounts,
            groups: counts.groups,
            machines: counts.machines,
            changed,
            age_max_s: stated_time::age_max(&kind),
            error,
        });
    }
    Ok(all)
}

#[derive(Default)]
struct Counts {
    schema: Option<u32>,
    revision: Option<u64>,
    accounts: Option<u64>,
    groups: Option<u64>,
    machines: Option<u64>,
}

impl From<Summary> for Counts {
    fn from(summary: Summary) -> Self {
        Self {
            schema: Some(summary.schema),
            revision: Some(summary.revision),
            accounts: Some(summary.accounts),
            groups: Some(summary.groups),
            machines: Some(summary.machines),
        }
    }
}

async fn count(config: &Config, section: &str, kind: &StoreKind) -> anyhow::Result<Counts> {
    match kind {
        StoreKind::Sqlite(path) => return Ok(SqliteStore::open(path, None)?.summary()?.into()),
        StoreKind::Postgres(postgres) => {
            let store = PostgresStore::open(database::settings(postgres)?, None).await?;
            return Ok(store.summary().await?.into());
        }
        _ => {}
    }
    let accounts = accounts_of(config, section, kind, None).await?;
    let Some(listing) = &accounts.listing else {
        // It cannot be listed, and can be asked.
        accounts.store.find(&Query::Name("rcmpd-store-status".to_owned())).await?;
        return Ok(Counts::default());
    };
    let (mut users, mut groups) = (0, 0);
    let read = async |after, limit| listing.accounts(after, limit).await;
    walk(read, |account: &Account| account.sid, |_| users += 1, |_, _| ()).await?;
    let read = async |after, limit| listing.groups(after, limit).await;
    walk(read, |group: &Group| group.sid, |_| groups += 1, |_, _| ()).await?;
    Ok(Counts { accounts: Some(users), groups: Some(groups), ..Counts::default() })
}
