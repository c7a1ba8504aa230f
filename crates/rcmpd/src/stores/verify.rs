//! `rcmpd store verify`: what is wrong with the stores of a configuration.

mod claims;
mod directory;

use self::claims::{Claims, shared_names};
use super::several::accounts_of;
use super::status::places;
use super::walk::walk;
use super::{Accounts, Passwords, database, open, open_with_secrets, section};
use crate::config::{Config, StoreKind, StorePart};
use account_store::sqlite::SqliteStore;
use account_store::{
    Account, AccountListing, AccountStore, DomainStore, Group, Matches, Part, Query, SeveralStore,
    StoreError, rules,
};
use anyhow::Context;
use serde::Serialize;
use std::collections::BTreeSet;
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
    claims: &'a mut Claims,
    progress: &'a mut Progress<'a>,
}

/// Is told how many accounts and groups of a store were read.
type Progress<'a> = dyn FnMut(u64) + Send + 'a;

impl Reader<'_> {
    fn add(&mut self, what: &'static str, text: String) {
        self.verified.findings.push(Finding { store: self.read.store.clone(), what, text });
    }

    /// Reports the accounts that the store finds together.
    async fn add_shared(&mut self, store: &dyn AccountStore) {
        let (twice, left_out) = self.claims.take_twice();
        for query in twice {
            match store.find(&query).await {
                Ok(Matches::Many(names)) => {
                    self.add(shared(&query), format!("{}: {}", of_query(&query), names.join(", ")));
                }
                Ok(_) => {}
                Err(error) => self.add("unreadable", format!("{}: {error}", of_query(&query))),
            }
        }
        if left_out > 0 {
            self.add(
                "ambiguous",
                format!("{left_out} more names, mappings or addresses that accounts have together"),
            );
        }
    }
}

/// Reads all stores. In a directory the accounts with these names are looked up as a whole, too, and a store
/// that cannot be listed is asked for them only.
pub async fn verify(
    config: &Config,
    names: &[String],
    progress: &mut Progress<'_>,
) -> anyhow::Result<Verified> {
    let mut verified = Verified::default();
    let mut unknown: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let (mut claims, mut stores) = (Claims::new(config.domain.clone()), Vec::new());
    let parts = parts(config);
    for (section, kind) in places(config)? {
        claims.begin(parts.iter().position(|part| part.section() == section));
        let read = Read { store: section, ..Read::default() };
        let mut reader =
            Reader { verified: &mut verified, read, claims: &mut claims, progress: &mut *progress };
        match verify_one(config, &kind, names, &mut unknown, &mut reader).await {
            Ok(store) => stores.push((reader.read.store.clone(), store)),
            Err(error) => reader.add("unreadable", crate::output::chain(&error)),
        }
        let Reader { read, .. } = reader;
        verified.read.push(read);
    }
    let between = between_parts(config, parts, stores, &mut claims).await?;
    verified.findings.extend(between);
    let unknown = unknown.into_iter().map(|name| Finding {
        store: "all".to_owned(),
        what: "unknown",
        text: format!("no store has an account with the name {name}"),
    });
    verified.findings.extend(unknown);
    Ok(verified)
}

fn parts(config: &Config) -> &[StorePart] {
    match config.store.as_ref().map(|store| &store.kind) {
        Some(StoreKind::Several(parts)) => parts,
        _ => &[],
    }
}

/// What accounts of different parts claim, and all of these parts are asked for. A part that could not be read
/// is left out.
async fn between_parts(
    config: &Config,
    parts: &[StorePart],
    mut stores: Vec<(String, Arc<dyn AccountStore>)>,
    claims: &mut Claims,
) -> anyhow::Result<Vec<Finding>> {
    let mut opened = Vec::new();
    for part in parts {
        if let Some(at) = stores.iter().position(|(section, _)| *section == part.section()) {
            let (name, store) = (part.name.clone(), stores.swap_remove(at).1);
            let (suffixes, issuers) = (part.suffixes.clone(), part.issuers.clone());
            opened.push(Part { name, store, suffixes, issuers });
        }
    }
    let mut findings = Vec::new();
    if opened.is_empty() {
        return Ok(findings);
    }
    let several = SeveralStore::new(config.domain.clone(), opened)?;
    let mut add = |what, text| findings.push(Finding { store: "store".to_owned(), what, text });
    let (apart, left_out) = claims.take_apart();
    for query in apart {
        let asked: Vec<&str> = several.asked(&query).collect();
        let mut found = Vec::new();
        for part in several.parts().iter().filter(|part| asked.contains(&part.name.as_str())) {
            match part.store.find(&query).await {
                Ok(Matches::None) => {}
                Ok(Matches::One(record)) => found.push(format!("{} in {}", record.account.name, part.name)),
                Ok(Matches::Many(names)) => found.push(format!("{} in {}", names.join(", "), part.name)),
                Err(error) => {
                    found.push(format!("an account that cannot be read in {} ({error})", part.name))
                }
            }
        }
        if found.len() > 1 {
            add(shared(&query), format!("{}: {}", of_query(&query), found.join(", ")));
        }
    }
    if left_out > 0 {
        add(
            "ambiguous",
            format!("{left_out} more names, mappings, SIDs or addresses that parts have together"),
        );
    }
    Ok(findings)
}

async fn verify_one(
    config: &Config,
    kind: &StoreKind,
    names: &[String],
    unknown: &mut BTreeSet<&str>,
    reader: &mut Reader<'_>,
) -> anyhow::Result<Arc<dyn AccountStore>> {
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
        StoreKind::Ldap(ldap) => {
            let directory = Arc::new(super::ldap::open_directory(config, &reader.read.store, ldap)?);
            directory::verify(&directory, kind, reader).await?;
            Accounts::read_only(directory)
        }
        StoreKind::Sqlite(path) => Accounts::listed(Arc::new(SqliteStore::open(path, None)?)),
        StoreKind::Postgres(postgres) => {
            Accounts::listed(Arc::new(PostgresStore::open(database::settings(postgres)?, None).await?))
        }
        kind => accounts_of(config, &reader.read.store, kind, None).await?,
    };
    match &accounts.listing {
        Some(listing) => verify_listing(&**listing, reader).await?,
        None => verify_by_name(&accounts, kind, names, unknown, reader).await?,
    }
    Ok(accounts.store)
}

/// A database of this program, with its secrets if its key can be used.
async fn verify_database(config: &Config, reader: &mut Reader<'_>) -> anyhow::Result<Arc<dyn AccountStore>> {
    match open_with_secrets(config).await? {
        Ok(opened) => {
            let store = opened.store();
            verify_listing(&*store, reader).await?;
            verify_secrets(&*store, &opened.passwords(), reader).await?;
            Ok(store)
        }
        Err(lost) => {
            reader.add("unread", format!("secrets cannot be read: {lost}"));
            let opened = open(config, None).await?.context("it was opened without a key")?;
            let store = opened.store();
            verify_listing(&*store, reader).await?;
            Ok(store)
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
    let (mut wrong, mut damaged) = (Vec::new(), Vec::new());
    let (mut accounts, mut groups, mut names) = (0, 0, Vec::new());
    let read = async |after, limit| listing.accounts(after, limit).await;
    let look = |account: Account| {
        accounts += 1;
        (reader.progress)(accounts);
        wrong.extend(rules::check_account(&account).err().map(|error| error.to_string()));
        reader.claims.add(claims::of(&account));
    };
    let skipped = |rid, error: &StoreError| damaged.push(format!("account with RID {rid}: {error}"));
    walk(read, |account: &Account| account.sid, look, skipped).await?;
    let read = async |after, limit| listing.groups(after, limit).await;
    let look = |group: Group| {
        groups += 1;
        (reader.progress)(accounts + groups);
        names.push((group.name, group.sid));
    };
    let skipped = |rid, error: &StoreError| damaged.push(format!("group with RID {rid}: {error}"));
    walk(read, |group: &Group| group.sid, look, skipped).await?;
    (reader.read.accounts, reader.read.groups) = (accounts, groups);
    damaged.into_iter().for_each(|text| reader.add("damaged", text));
    wrong.into_iter().for_each(|text| reader.add("damaged", text));
    reader.add_shared(listing).await;
    shared_names(names).into_iter().for_each(|text| reader.add("shared name", text));
    Ok(())
}

/// What it is if accounts have this together.
const fn shared(query: &Query) -> &'static str {
    match query {
        Query::Mail(_) => "shared address",
        _ => "ambiguous",
    }
}

fn of_query(query: &Query) -> String {
    match query {
        Query::UserPrincipalName(text) => format!("userPrincipalName {text}"),
        Query::ServicePrincipalName(text) => format!("servicePrincipalName {text}"),
        Query::AltSecurityIdentity(text) => format!("altSecurityIdentities {text}"),
        Query::Mail(text) => format!("e-mail address {text}"),
        Query::Name(text) => format!("name {text}"),
        Query::Sid(sid) => format!("SID {sid}"),
        other => format!("{other:?}"),
    }
}

/// Asks for accounts one by one, as a service does.
async fn verify_by_name(
    accounts: &Accounts,
    kind: &StoreKind,
    names: &[String],
    unknown: &mut BTreeSet<&str>,
    reader: &mut Reader<'_>,
) -> anyhow::Result<()> {
    if !matches!(kind, StoreKind::Ldap(_)) {
        accounts.store.find(&Query::Name("rcmpd-store-verify".to_owned())).await?;
    }
    for name in names {
        match accounts.store.find(&Query::Name(name.clone())).await {
            Ok(Matches::None) => {}
            Ok(found) => {
                reader.read.accounts += u64::from(!matches!(kind, StoreKind::Ldap(_)));
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
