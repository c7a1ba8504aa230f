//! Accounts in memory: for tests, examples and stores that are filled from elsewhere.
//!
//! Readers share a snapshot that a change replaces whole. A change copies the snapshot first, so many small
//! changes to many accounts are slow; make them as one.

use crate::account::{Account, Group, GroupScope, Membership};
use crate::admin::{AccountAdmin, AccountListing, Changes};
use crate::fold::casefold;
use crate::index::{self, KeyKind, Place};
mod machines;

use crate::machines::{Machine, Secrets};
use crate::rules;
use crate::store::{AccountStore, BoxFuture, Domain, Matches, Query, Record, Revision, StoreError};
use crate::writer::{Named, Rows, Writer};
use dtyp::Sid;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Accounts, groups and machines of one domain, in memory.
pub struct MemoryStore {
    domain: Domain,
    snapshot: RwLock<Arc<Snapshot>>,
    // Held while a change is made, so that none is lost.
    writing: Mutex<()>,
}

#[derive(Clone)]
struct Snapshot {
    revision: Revision,
    domain_sid: Sid,
    next_rid: u32,
    accounts: BTreeMap<u32, Arc<Record>>,
    account_names: HashMap<String, u32>,
    keys: HashMap<(KeyKind, String), BTreeSet<u32>>,
    by_primary_group: HashMap<u32, BTreeSet<u32>>,
    groups: BTreeMap<u32, Group>,
    group_names: HashMap<String, u32>,
    /// Names by their wider key, where that is another; names that are not used any more may stay.
    twins: HashMap<String, BTreeSet<String>>,
    members: HashMap<u32, BTreeSet<u32>>,
    parents: HashMap<u32, BTreeSet<u32>>,
    machines: BTreeMap<u32, (Machine, Secrets)>,
    machine_names: HashMap<String, u32>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(domain: Domain) -> Self {
        let snapshot = Snapshot {
            revision: Revision::unique(),
            domain_sid: domain.sid,
            next_rid: rules::RID_FIRST,
            accounts: BTreeMap::new(),
            account_names: HashMap::new(),
            keys: HashMap::new(),
            by_primary_group: HashMap::new(),
            groups: BTreeMap::new(),
            group_names: HashMap::new(),
            twins: HashMap::new(),
            members: HashMap::new(),
            parents: HashMap::new(),
            machines: BTreeMap::new(),
            machine_names: HashMap::new(),
        };
        Self { domain, snapshot: RwLock::new(Arc::new(snapshot)), writing: Mutex::new(()) }
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        // A poisoned lock still holds a whole snapshot: it is only ever replaced.
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The next snapshot is what `work` makes of a copy of this one.
    fn change(&self, work: impl FnOnce(Snapshot) -> Result<Snapshot, StoreError>) -> Result<(), StoreError> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = work(Snapshot::clone(&self.snapshot()))?;
        next.revision = Revision::unique();
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        Ok(())
    }
}

/// A future that is done.
fn ready<'a, T: Send + 'a>(value: Result<T, StoreError>) -> BoxFuture<'a, Result<T, StoreError>> {
    Box::pin(std::future::ready(value))
}

impl AccountStore for MemoryStore {
    fn domain(&self) -> &Domain {
        &self.domain
    }

    fn find<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Result<Matches, StoreError>> {
        let snapshot = self.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        ready(Ok(snapshot.find(index::place(&self.domain, query))))
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.snapshot.read().unwrap_or_else(PoisonError::into_inner).revision)
    }
}

impl AccountListing for MemoryStore {
    fn accounts(&self, after: u32, limit: usize) -> BoxFuture<'_, Result<Vec<Account>, StoreError>> {
        let snapshot = self.snapshot();
        let page = snapshot.accounts.range((Bound::Excluded(after), Bound::Unbounded)).take(limit);
        ready(Ok(page.map(|(_, record)| record.account.clone()).collect()))
    }

    fn groups(&self, after: u32, limit: usize) -> BoxFuture<'_, Result<Vec<Group>, StoreError>> {
        let snapshot = self.snapshot();
        let page = snapshot.groups.range((Bound::Excluded(after), Bound::Unbounded)).take(limit);
        ready(Ok(page.map(|(_, group)| group.clone()).collect()))
    }

    fn group_by_name<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Group>, StoreError>> {
        let snapshot = self.snapshot();
        let rid = snapshot.group_names.get(&casefold(name));
        ready(Ok(rid.and_then(|rid| snapshot.groups.get(rid)).cloned()))
    }

    fn group_by_sid<'a>(&'a self, sid: &'a Sid) -> BoxFuture<'a, Result<Option<Group>, StoreError>> {
        let rid = sid.rid_in(&self.domain.sid);
        ready(Ok(rid.and_then(|rid| self.snapshot().groups.get(&rid).cloned())))
    }

    fn members<'a>(&'a self, group: &'a Sid) -> BoxFuture<'a, Result<Vec<Sid>, StoreError>> {
        let snapshot = self.snapshot();
        ready(Ok(snapshot.edges(&snapshot.members, group)))
    }

    fn member_of<'a>(&'a self, member: &'a Sid) -> BoxFuture<'a, Result<Vec<Sid>, StoreError>> {
        let snapshot = self.snapshot();
        ready(Ok(snapshot.edges(&snapshot.parents, member)))
    }
}

impl AccountAdmin for MemoryStore {
    fn apply<'a>(&'a self, changes: &'a mut Changes<'a>) -> BoxFuture<'a, Result<(), StoreError>> {
        ready(self.change(|snapshot| {
            let mut writer = Writer::new(&self.domain, snapshot);
            for change in changes {
                writer.change(change?)?;
            }
            writer.finish()
        }))
    }
}

impl Snapshot {
    fn find(&self, place: Place) -> Matches {
        let none = BTreeSet::new();
        let one;
        let rids = match place {
            Place::Key(kind, key) => self.keys.get(&(kind, key)).unwrap_or(&none),
            Place::Name(name) => {
                one = self.account_names.get(&name).copied().into_iter().collect();
                &one
            }
            Place::Rid(rid) => {
                one = BTreeSet::from([rid]);
                &one
            }
            Place::Nowhere => &none,
        };
        rids.iter().filter_map(|rid| self.accounts.get(rid)).cloned().collect()
    }

    fn edges(&self, of: &HashMap<u32, BTreeSet<u32>>, sid: &Sid) -> Vec<Sid> {
        let rids = sid.rid_in(&self.domain_sid).and_then(|rid| of.get(&rid)).into_iter().flatten();
        rids.filter_map(|rid| self.domain_sid.with_rid(*rid)).collect()
    }

    fn memberships(&self, groups: &[u32]) -> Vec<Membership> {
        let membership = |rid: &u32| {
            let group = self.groups.get(rid);
            Some(Membership {
                sid: self.domain_sid.with_rid(*rid)?,
                name: group.map(|group| group.name.clone()),
                scope: group.map_or(GroupScope::Global, |group| group.scope),
            })
        };
        groups.iter().filter_map(membership).collect()
    }

    /// Updates the memberships of a group that got another name or scope, was added or was removed.
    fn renew_members_of(&mut self, group: u32) {
        let Some(sid) = self.domain_sid.with_rid(group) else { return };
        let mut accounts = std::mem::take(&mut self.accounts);
        for record in accounts.values_mut() {
            if record.memberships.iter().any(|membership| membership.sid == sid) {
                let groups: Vec<u32> = rids(&record.memberships);
                Arc::make_mut(record).memberships = self.memberships(&groups);
            }
        }
        self.accounts = accounts;
    }
}

fn rids(memberships: &[Membership]) -> Vec<u32> {
    memberships.iter().filter_map(|membership| Some(membership.sid.split_rid()?.1)).collect()
}

fn list(of: &HashMap<u32, BTreeSet<u32>>, rid: u32) -> Vec<u32> {
    of.get(&rid).into_iter().flatten().copied().collect()
}

fn unlink<K: std::hash::Hash + Eq>(of: &mut HashMap<K, BTreeSet<u32>>, key: &K, rid: u32) {
    if let Some(rids) = of.get_mut(key) {
        rids.remove(&rid);
        if rids.is_empty() {
            of.remove(key);
        }
    }
}

impl Rows for Snapshot {
    fn account(&mut self, rid: u32) -> Result<Option<Account>, StoreError> {
        Ok(self.accounts.get(&rid).map(|record| record.account.clone()))
    }

    fn named(&mut self, name: &str) -> Result<Named, StoreError> {
        Ok(Named {
            account: self.account_names.get(name).copied(),
            group: self.group_names.get(name).copied(),
            machine: self.machine_names.get(name).copied(),
        })
    }

    fn twins(&mut self, wide: &str) -> Result<Vec<String>, StoreError> {
        Ok(self.twins.get(wide).into_iter().flatten().cloned().collect())
    }

    fn note_twin(&mut self, name: &str, wide: &str) -> Result<(), StoreError> {
        self.twins.entry(wide.to_owned()).or_default().insert(name.to_owned());
        Ok(())
    }

    fn primary_group(&mut self, account: u32) -> Result<Option<u32>, StoreError> {
        Ok(self.accounts.get(&account).map(|record| record.account.primary_group_id))
    }

    fn accounts_with_primary_group(&mut self, group: u32) -> Result<Vec<u32>, StoreError> {
        Ok(list(&self.by_primary_group, group))
    }

    fn write_account(
        &mut self,
        rid: u32,
        account: &Account,
        old: Option<&Account>,
        groups: Option<&[u32]>,
    ) -> Result<(), StoreError> {
        let kept = self.accounts.get(&rid).map(|record| rids(&record.memberships)).unwrap_or_default();
        if let Some(old) = old {
            self.delete_account_only(rid, old);
        }
        self.account_names.insert(casefold(&account.name), rid);
        self.by_primary_group.entry(account.primary_group_id).or_default().insert(rid);
        for key in index::keys(account) {
            self.keys.entry(key).or_default().insert(rid);
        }
        let memberships = self.memberships(groups.unwrap_or(&kept));
        self.accounts.insert(rid, Arc::new(Record { account: account.clone(), memberships }));
        Ok(())
    }

    fn write_groups_of(&mut self, account: u32, groups: &[u32]) -> Result<(), StoreError> {
        let memberships = self.memberships(groups);
        if let Some(record) = self.accounts.get_mut(&account) {
            Arc::make_mut(record).memberships = memberships;
        }
        Ok(())
    }

    fn delete_account(&mut self, rid: u32, account: &Account) -> Result<(), StoreError> {
        self.delete_account_only(rid, account);
        self.take_machine(rid);
        Ok(())
    }

    fn group(&mut self, rid: u32) -> Result<Option<Group>, StoreError> {
        Ok(self.groups.get(&rid).cloned())
    }

    fn write_group(&mut self, rid: u32, group: &Group, old: Option<&Group>) -> Result<(), StoreError> {
        if let Some(old) = old {
            self.group_names.remove(&casefold(&old.name));
        }
        self.group_names.insert(casefold(&group.name), rid);
        self.groups.insert(rid, group.clone());
        self.renew_members_of(rid);
        Ok(())
    }

    fn delete_group(&mut self, rid: u32, group: &Group) -> Result<(), StoreError> {
        self.group_names.remove(&casefold(&group.name));
        self.groups.remove(&rid);
        self.renew_members_of(rid);
        Ok(())
    }

    fn parents(&mut self, member: u32) -> Result<Vec<u32>, StoreError> {
        Ok(list(&self.parents, member))
    }

    fn members(&mut self, group: u32) -> Result<Vec<u32>, StoreError> {
        Ok(list(&self.members, group))
    }

    fn insert_member(&mut self, group: u32, member: u32) -> Result<(), StoreError> {
        self.members.entry(group).or_default().insert(member);
        self.parents.entry(member).or_default().insert(group);
        Ok(())
    }

    fn delete_member(&mut self, group: u32, member: u32) -> Result<(), StoreError> {
        unlink(&mut self.members, &group, member);
        unlink(&mut self.parents, &member, group);
        Ok(())
    }

    fn machine(&mut self, rid: u32) -> Result<Option<String>, StoreError> {
        Ok(self.machines.get(&rid).map(|(machine, _)| casefold(&machine.name)))
    }

    fn has_disabled_machine(&mut self, rid: u32) -> Result<bool, StoreError> {
        Ok(self.machines.get(&rid).is_some_and(|(machine, _)| !machine.enabled))
    }

    fn write_machine(
        &mut self,
        rid: u32,
        machine: Machine,
        secrets: Option<Secrets>,
    ) -> Result<(), StoreError> {
        let old = self.take_machine(rid);
        let secrets = match secrets.or(old.map(|(_, secrets)| secrets)) {
            Some(secrets) => secrets,
            None => Secrets::first(crate::NtHash::unknown()?, dtyp::FileTime::UNSET),
        };
        self.machine_names.insert(casefold(&machine.name), rid);
        self.machines.insert(rid, (machine, secrets));
        Ok(())
    }

    fn delete_machine(&mut self, rid: u32) -> Result<(), StoreError> {
        self.take_machine(rid);
        Ok(())
    }

    fn next_rid(&mut self) -> Result<u32, StoreError> {
        Ok(self.next_rid)
    }

    fn set_next_rid(&mut self, rid: u32) -> Result<(), StoreError> {
        self.next_rid = rid;
        Ok(())
    }
}

impl Snapshot {
    fn delete_account_only(&mut self, rid: u32, account: &Account) {
        self.accounts.remove(&rid);
        self.account_names.remove(&casefold(&account.name));
        unlink(&mut self.by_primary_group, &account.primary_group_id, rid);
        for key in index::keys(account) {
            unlink(&mut self.keys, &key, rid);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{MemoryStore, battery};

    battery::account_store_battery!(|| (MemoryStore::new(battery::domain()), ()));
    battery::machine_store_battery!(|| (MemoryStore::new(battery::domain()), ()));
}
