//! A whole directory: what a walk over it sees.

use super::claims::{shared_names, some_of};
use super::{Reader, missing_right};
use crate::config::StoreKind;
use account_store::Query;
use dtyp::Sid;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use store_ldap::{Flaw, LdapStore, Seen, Wrong};

/// Names that are shown of the entries with the same fault.
const NAMES_MAX: usize = 5;
/// Different faults, and different SIDs of several entries, that are shown.
const SHOWN_MAX: usize = 1_000;

/// Entries with the same fault.
#[derive(Default)]
struct Faulty {
    names: Vec<String>,
    count: usize,
}

/// What was seen, beside the claims of accounts.
#[derive(Default)]
struct Found {
    accounts: u64,
    groups: u64,
    elsewhere: u64,
    state: RandomState,
    /// Who has a SID, by the hash of it: some 60 bytes for each entry.
    owners: HashMap<u64, Box<str>>,
    doubled: BTreeMap<Sid, Faulty>,
    names: Vec<(String, Sid)>,
    faults: BTreeMap<(&'static str, String), Faulty>,
    left_out: u64,
}

impl Found {
    fn own(&mut self, sid: Sid, owner: String) {
        match self.owners.entry(self.state.hash_one(sid)) {
            Entry::Vacant(free) => drop(free.insert(owner.into())),
            Entry::Occupied(first) => {
                let is_known = self.doubled.contains_key(&sid);
                if is_known || self.doubled.len() < SHOWN_MAX {
                    let owners = self.doubled.entry(sid).or_insert_with(|| Faulty::of(first.get()));
                    owners.add(owner);
                } else {
                    self.left_out += 1;
                }
            }
        }
    }

    fn wrong(&mut self, wrong: Wrong) {
        let what = match wrong.flaw {
            Flaw::Unreadable => "unreadable",
            Flaw::Number => "number",
            Flaw::Cut => "unread",
        };
        let key = (what, wrong.why);
        if self.faults.len() >= SHOWN_MAX && !self.faults.contains_key(&key) {
            self.left_out += 1;
            return;
        }
        self.faults.entry(key).or_default().add(wrong.who);
    }
}

impl Faulty {
    fn of(name: &str) -> Self {
        Self { names: vec![name.to_owned()], count: 1 }
    }

    fn add(&mut self, name: String) {
        self.count += 1;
        if self.names.len() < NAMES_MAX {
            self.names.push(name);
        }
    }

    fn shown(&self) -> String {
        some_of(&self.names, self.count)
    }
}

/// Reads all of a directory.
pub(super) async fn verify(
    directory: &LdapStore,
    kind: &StoreKind,
    reader: &mut Reader<'_>,
) -> anyhow::Result<()> {
    let mut found = Found::default();
    let Reader { claims, progress, .. } = &mut *reader;
    let mut see = |seen| {
        match seen {
            Seen::Account(account) => {
                let sid = account.sid.filter(|_| !account.is_elsewhere);
                match account.is_elsewhere {
                    true => found.elsewhere += 1,
                    false => found.accounts += 1,
                }
                if let Some(sid) = sid {
                    found.own(sid, format!("account {}", account.name));
                }
                claims.add(account.claims.into_iter().chain(sid.map(Query::Sid)).collect());
            }
            Seen::Group(group) => {
                found.groups += 1;
                found.own(group.sid, format!("group {}", group.names.join(", ")));
                found.names.extend(group.names.into_iter().map(|name| (name, group.sid)));
            }
            Seen::Wrong(wrong) => found.wrong(wrong),
        }
        progress(found.accounts + found.groups + found.elsewhere);
    };
    let walked = directory.walk(&mut see).await;
    (reader.read.accounts, reader.read.groups) = (found.accounts, found.groups);
    report(found, kind, reader);
    reader.add_shared(directory).await;
    Ok(walked?)
}

fn report(found: Found, kind: &StoreKind, reader: &mut Reader<'_>) {
    for ((what, why), faulty) in &found.faults {
        let right = missing_right(kind, why);
        let right = right.map_or_else(String::new, |right| format!("; it needs the right {right}"));
        reader.add(what, format!("{}: {why}{right}", faulty.shown()));
    }
    for (sid, owners) in found.doubled {
        reader.add("number", format!("{} have the SID {sid} together", owners.shown()));
    }
    shared_names(found.names).into_iter().for_each(|text| reader.add("shared name", text));
    if found.left_out > 0 {
        reader.add("unread", format!("{} more faults, which are not shown", found.left_out));
    }
}
