//! `rcmpd store verify`: what is wrong with the stores of a configuration.

use super::several::accounts_of;
use super::status::places;
use super::walk::walk;
use super::{Accounts, Passwords, database, open, open_with_secrets, section};
use crate::config::{Config, StoreKind};
use account_store::index::{self, KeyKind};
use account_store::sqlite::SqliteStore;
use account_store::{Account, AccountListing, DomainStore, Group, Matches, Query, StoreError, fold, rules};
use anyhow::Context;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use store_ldap::Schema;
use store_postgres::PostgresStore;

/// Something that is wrong with a store.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// The section of the store.
    pub store: String,
    /// What kind of thing it is.
    pub what: &'static str,
    /// Names, and what is wrong.
    pub text: String,
}

/// What was read of one store.
#[derive(Debug, Default, Serialize)]
pub struct Read {
    /// The section of the store.
    pub store: String,
    /// Accounts that were read.
    pub accounts: u64,
    /// Groups that were read.
    pub groups: u64,
    /// Machines whose secrets were opened.
    pub machines: u64,
}

/// What was read, and what is wrong.
#[derive(Debug, Default)]
pub struct Verified {
    /// One entry for each store.
    pub read: Vec<Read>,
    /// All that is wrong.
    pub findings: Vec<Finding>,
}

/// One store while it is read.
struct Reader<'a> {
    verified: &'a mut Verified,
    read: Read,
}

impl Reader<'_> {
    fn add(&mut self, what: &'static str, text: String) {
        self.verified.findings.push(Finding { store: self.read.store.clone(), what, text });
    }
}

/// Reads all stores. A store that cannot be listed is asked for the accounts with these names.
pub async fn verify(config: &Config, names: &[String]) -> anyhow::Result<Verified> {
    let mut verified = Verified::default();
    let mut unknown: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    for (section, kind) in places(config)? {
        let read = Read { store: section, ..Read::default() };
        let mut reader = Reader { verified: &mut verified, read };
        if let Err(error) = verify_one(config, &kind, names, &mut unknown, &mut reader).await {
            reader.add("unreadable", crate::output::chain(&error));
        }
        let Reader { read, .. } = reader;
        verified.read.push(read);
    }
    let unknown = unknown.into_iter().map(|name| Finding {
        store: "all".to_owned(),
        what: "unknown",
        text: format!("no store has an account with the name {name}"),
    });
    verified.findings.extend(unknown);
    Ok(verified)
}

async fn verify_one(
    config: &Config,
    kind: &StoreKind,
    names: &[String],
    unknown: &mut BTreeSet<&str>,
    reader: &mut Reader<'_>,
) -> anyhow::Result<()> {
    let store = section(config)?;
    let of_machines = |path: &PathBuf| store.machines.as_ref() == Some(path);
    match kind {
        StoreKind::Sqlite(path) => {
            for fault in SqliteStore::open(path, None)?.faults()? {
                reader.add("damaged", format!("{}: {fault}", path.display()));
            }
            if of_machines(path) {
                return verify_database(config, reader).await;
            }
        }
        StoreKind::Postgres(_) if store.machines.is_none() => return verify_database(config, reader).await,
        _ => {}
    }
    let accounts = match kind {
        StoreKind::Sqlite(path) => Accounts::listed(Arc::new(SqliteStore::open(path, None)?)),
        StoreKind::Postgres(postgres) => {
            Accounts::listed(Arc::new(PostgresStore::open(database::settings(postgres)?, None).await?))
        }
        kind => accounts_of(config, &reader.read.store, kind, None).await?,
    };
    let Some(listing) = &accounts.listing else {
        return verify_by_name(&accounts, kind, names, unknown, reader).await;
    };
    verify_listing(&**listing, reader).await
}

/// A database of this program, with its secrets if its key can be used.
async fn verify_database(config: &Config, reader: &mut Reader<'_>) -> anyhow::Result<()> {
    match open_with_secrets(config).await? {
        Ok(opened) => {
            let store = opened.store();
            verify_listing(&*store, reader).await?;
            verify_secrets(&*store, &opened.passwords(), reader).await
        }
        Err(lost) => {
            reader.add("unread", format!("secrets cannot be read: {lost}"));
            let opened = open(config, None).await?.context("it was opened without a key")?;
            verify_listing(&*opened.store(), reader).await
        }
    }
}

/// Opens all sealed secrets.
async fn verify_secrets(
    store: &dyn DomainStore,
    passwords: &Passwords,
    reader: &mut Reader<'_>,
) -> anyhow::Result<()> {
    let (mut machines, mut sids) = (Vec::new(), Vec::new());
    let mut damaged = Vec::new();
    let read = async |after, limit| store.machines(after, limit).await;
    let sid = |machine: &account_store::Machine| machine.sid;
    let skipped = |rid, error: &StoreError| damaged.push(format!("machine with RID {rid}: {error}"));
    walk(read, sid, |machine| machines.push(machine.name), skipped).await?;
    for name in machines {
        match store.machine(&name).await {
            Ok(_) => reader.read.machines += 1,
            Err(error @ StoreError::Damaged(_)) => damaged.push(format!("machine {name}: {error}")),
            Err(error) => return Err(error.into()),
        }
    }
    let read = async |after, limit| store.accounts(after, limit).await;
    walk(read, |account: &Account| account.sid, |account| sids.push((account.sid, account.name)), |_, _| ())
        .await?;
    for (sid, name) in sids {
        match passwords.forms(&sid).await {
            Ok(_) => {}
            Err(error @ StoreError::Damaged(_)) => damaged.push(format!("password of {name}: {error}")),
            Err(error) => return Err(error.into()),
        }
    }
    damaged.into_iter().for_each(|text| reader.add("damaged", text));
    Ok(())
}

/// Reads all accounts and groups.
async fn verify_listing(listing: &dyn AccountListing, reader: &mut Reader<'_>) -> anyhow::Result<()> {
    let mut keys = Keys::default();
    let (mut wrong, mut damaged) = (Vec::new(), Vec::new());
    let mut accounts = 0;
    let read = async |after, limit| listing.accounts(after, limit).await;
    let look = |account: Account| {
        accounts += 1;
        wrong.extend(rules::check_account(&account).err().map(|error| error.to_string()));
        keys.add(&account);
    };
    let skipped = |rid, error: &StoreError| damaged.push(format!("account with RID {rid}: {error}"));
    walk(read, |account: &Account| account.sid, look, skipped).await?;
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut groups = 0;
    let read = async |after, limit| listing.groups(after, limit).await;
    let look = |group: Group| {
        groups += 1;
        names.entry(fold::wide(&group.name)).or_default().push(format!("{} ({})", group.name, group.sid));
    };
    let skipped = |rid, error: &StoreError| damaged.push(format!("group with RID {rid}: {error}"));
    walk(read, |group: &Group| group.sid, look, skipped).await?;
    (reader.read.accounts, reader.read.groups) = (accounts, groups);
    damaged.into_iter().for_each(|text| reader.add("damaged", text));
    wrong.into_iter().for_each(|text| reader.add("damaged", text));
    for (kind, key) in keys.twice {
        let query = match kind {
            KeyKind::UserPrincipalName => Query::UserPrincipalName(key),
            KeyKind::ServicePrincipalName => Query::ServicePrincipalName(key),
            KeyKind::AltSecurityIdentity => Query::AltSecurityIdentity(key),
            // Certificates are not mapped by it.
            KeyKind::Mail => continue,
        };
        if let Matches::Many(names) = listing.find(&query).await? {
            reader.add("ambiguous", format!("{}: {}", of_query(&query), names.join(", ")));
        }
    }
    let shared = names.into_values().filter(|groups| groups.len() > 1);
    shared.for_each(|groups| reader.add("shared name", format!("groups {}", groups.join(", "))));
    Ok(())
}

fn of_query(query: &Query) -> String {
    match query {
        Query::UserPrincipalName(text) => format!("userPrincipalName {text}"),
        Query::ServicePrincipalName(text) => format!("servicePrincipalName {text}"),
        Query::AltSecurityIdentity(text) => format!("altSecurityIdentities {text}"),
        other => format!("{other:?}"),
    }
}

/// The keys of all accounts, by their hashes: texts would take much memory.
#[derive(Default)]
struct Keys {
    state: RandomState,
    seen: HashSet<u64>,
    /// Keys of several accounts, or whose hashes are equal: the store says.
    twice: BTreeSet<(KeyKind, String)>,
}

impl Keys {
    fn add(&mut self, account: &Account) {
        for key in index::keys(account) {
            if !self.seen.insert(self.state.hash_one(&key)) {
                self.twice.insert(key);
            }
        }
    }
}

/// Asks a store that cannot be listed.
async fn verify_by_name(
    accounts: &Accounts,
    kind: &StoreKind,
    names: &[String],
    unknown: &mut BTreeSet<&str>,
    reader: &mut Reader<'_>,
) -> anyhow::Result<()> {
    accounts.store.find(&Query::Name("rcmpd-store-verify".to_owned())).await?;
    for name in names {
        match accounts.store.find(&Query::Name(name.clone())).await {
            Ok(Matches::None) => {}
            Ok(found) => {
                reader.read.accounts += 1;
                unknown.remove(name.as_str());
                // A directory has a name for each group, and one that several groups have is none.
                let Matches::One(record) = found else { continue };
                let of_groups = record.memberships.iter().filter(|_| matches!(kind, StoreKind::Ldap(_)));
                for group in of_groups.filter(|group| group.name.is_none()) {
                    let text = format!("another group has the name of {}, a group of {name}", group.sid);
                    reader.add("shared name", text);
                }
            }
            Err(error) => {
                unknown.remove(name.as_str());
                let right = missing_right(kind, &error.to_string());
                let right = right.map_or_else(String::new, |right| format!("; it needs the right {right}"));
                reader.add("unreadable", format!("account {name}: {error}{right}"));
            }
        }
    }
    Ok(())
}

/// Attributes of Active Directory, and the property set ([MS-ADTS] 3.1.1.2.3.3) whose right to read has them.
const RIGHTS: [(&[&str], &str); 3] = [
    (&["userAccountControl", "msDS-User-Account-Control-Computed"], "Read Account Restrictions"),
    (&["logonCount", "logonHours"], "Read Logon Information"),
    (&["tokenGroups"], "Read Remote Access Information"),
];

/// The right of the store's account without which an attribute that an error names cannot be read.
fn missing_right(kind: &StoreKind, error: &str) -> Option<&'static str> {
    let is_ad = matches!(kind, StoreKind::Ldap(ldap) if matches!(ldap.schema, Schema::Ad(_)));
    let of = RIGHTS.iter().find(|(attributes, _)| attributes.iter().any(|name| error.contains(name)));
    of.filter(|_| is_ad && error.contains("read")).map(|(_, right)| *right)
}
