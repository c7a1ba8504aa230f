//! The rules of a change, once for all backends: a backend gives [`Rows`], the [`Writer`] decides what
//! becomes of them.
//!
//! Each account keeps the relative identifiers of all groups it is in, so that a look-up follows no graph.
//! The writer renews them when it is done: of the accounts whose own memberships changed, and of those below
//! groups that moved.

use crate::account::{Account, AccountFlags, Group};
use crate::admin::{Change, Put};
use crate::fold::{self, casefold};
use crate::privileged;
use crate::rules;
use crate::store::{Domain, StoreError};
use std::collections::{BTreeSet, HashMap, HashSet};

type Result<T> = std::result::Result<T, StoreError>;

/// What a backend keeps, by relative identifier, within one transaction. Names are folded.
pub trait Rows {
    /// Which entries have this name.
    fn named(&mut self, name: &str) -> Result<Named>;

    /// The folded names that were noted under a wider key; some may be in use no more.
    fn twins(&mut self, wide: &str) -> Result<Vec<String>>;
    /// Notes a folded name whose wider key is another text.
    fn note_twin(&mut self, name: &str, wide: &str) -> Result<()>;

    /// The account with this identifier.
    fn account(&mut self, rid: u32) -> Result<Option<Account>>;
    /// The primary group of an account; `None` if there is no such account.
    fn primary_group(&mut self, account: u32) -> Result<Option<u32>>;
    /// Accounts whose primary group this is.
    fn accounts_with_primary_group(&mut self, group: u32) -> Result<Vec<u32>>;
    /// Writes an account, in the place of `old` or as a new one.
    /// `groups` are the account's groups, ascending; `None` leaves those of an existing account.
    fn write_account(
        &mut self,
        rid: u32,
        account: &Account,
        old: Option<&Account>,
        groups: Option<&[u32]>,
    ) -> Result<()>;
    /// Writes all groups that an account is in, ascending.
    fn write_groups_of(&mut self, account: u32, groups: &[u32]) -> Result<()>;
    /// Removes an account, with its keys, its secrets and the machine that shares its identifier.
    fn delete_account(&mut self, rid: u32, account: &Account) -> Result<()>;

    /// The group with this identifier.
    fn group(&mut self, rid: u32) -> Result<Option<Group>>;
    /// Writes a group, in the place of `old` or as a new one.
    fn write_group(&mut self, rid: u32, group: &Group, old: Option<&Group>) -> Result<()>;
    /// Removes a group; its memberships are removed before.
    fn delete_group(&mut self, rid: u32, group: &Group) -> Result<()>;

    /// The groups that have this direct member, ascending.
    fn parents(&mut self, member: u32) -> Result<Vec<u32>>;
    /// The direct members of a group, ascending.
    fn members(&mut self, group: u32) -> Result<Vec<u32>>;
    /// Writes a membership; one that exists stays.
    fn insert_member(&mut self, group: u32, member: u32) -> Result<()>;
    /// Removes a membership; one that is not there is no error.
    fn delete_member(&mut self, group: u32, member: u32) -> Result<()>;

    /// The folded name of the machine with this identifier.
    fn machine(&mut self, rid: u32) -> Result<Option<String>>;
    /// Whether there is a machine that is disabled.
    fn has_disabled_machine(&mut self, rid: u32) -> Result<bool>;
    /// Without secrets those of the existing machine stay; a new one gets [`crate::NtHash::unknown`].
    fn write_machine(
        &mut self,
        rid: u32,
        machine: crate::Machine,
        secrets: Option<crate::Secrets>,
    ) -> Result<()>;
    /// Removes a machine.
    fn delete_machine(&mut self, rid: u32) -> Result<()>;

    /// The next relative identifier to give, and its successor when the change is done.
    fn next_rid(&mut self) -> Result<u32>;
    /// Notes the next relative identifier to give.
    fn set_next_rid(&mut self, rid: u32) -> Result<()>;
}

/// The identifiers of those that have one name. Only an account and a machine can have it both.
#[derive(Clone, Copy, Debug, Default)]
pub struct Named {
    /// The account.
    pub account: Option<u32>,
    /// The group.
    pub group: Option<u32>,
    /// The machine.
    pub machine: Option<u32>,
}

/// What a relative identifier is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Account,
    Group,
}

/// One change in the making.
pub struct Writer<'a, R> {
    rows: R,
    domain: &'a Domain,
    next_rid: Option<u32>,
    /// Parents of groups met so far; emptied when a group moves.
    parents: HashMap<u32, Vec<u32>>,
    /// Accounts and groups met so far.
    kinds: HashMap<u32, Kind>,
    stale_accounts: BTreeSet<u32>,
    stale_groups: BTreeSet<u32>,
    /// Memberships whose ends did not both exist when they were written, with the lines that say so.
    unproven: Vec<(u32, u32, u64)>,
    /// Memberships whose names no entry had when they were written, with the lines that say so.
    unnamed: Vec<(String, String, u64)>,
    /// Memberships that this change made.
    made: HashSet<(u32, u32)>,
    /// Accounts and groups of [`Put::Replace`]: they keep the memberships in `made` alone.
    replaced: BTreeSet<u32>,
    /// Machines of [`Put::Replace`].
    replaced_machines: BTreeSet<u32>,
    /// Groups that keep the members in `made` alone.
    only_members: BTreeSet<u32>,
    /// The line of the changes that are made now; 0 for none.
    line: u64,
}

impl<'a, R: Rows> Writer<'a, R> {
    /// A change to `rows`.
    pub fn new(domain: &'a Domain, rows: R) -> Self {
        Self {
            rows,
            domain,
            next_rid: None,
            parents: HashMap::new(),
            kinds: HashMap::new(),
            stale_accounts: BTreeSet::new(),
            stale_groups: BTreeSet::new(),
            unproven: Vec::new(),
            unnamed: Vec::new(),
            made: HashSet::new(),
            replaced: BTreeSet::new(),
            replaced_machines: BTreeSet::new(),
            only_members: BTreeSet::new(),
            line: 0,
        }
    }

    /// The rows, for a backend that prepares them for the steps to come.
    pub fn rows(&mut self) -> &mut R {
        &mut self.rows
    }

    /// Makes one step.
    pub fn change(&mut self, change: Change) -> Result<()> {
        if let Change::Line(line) = change {
            self.line = line;
            return Ok(());
        }
        self.step(change).map_err(|error| match error {
            StoreError::Refused(why) => StoreError::Refused(at_line(self.line, why)),
            StoreError::Exists(what) => StoreError::Exists(at_line(self.line, what)),
            error => error,
        })
    }

    fn step(&mut self, change: Change) -> Result<()> {
        match change {
            Change::Line(_) => Ok(()),
            Change::PutAccount(put, account) => self.put_account(put, *account),
            Change::RemoveAccount(sid) => self.remove_account(rules::rid_named(self.domain, &sid)?),
            Change::PutGroup(put, group) => self.put_group(put, group),
            Change::OnlyNamedMembers(group) => {
                let rid = self.group_named(&group)?;
                let rid = rid.ok_or_else(|| StoreError::Refused(format!("there is no group {group:?}")))?;
                self.only_members.insert(rid);
                Ok(())
            }
            Change::RemoveGroup(sid) => self.remove_group(rules::rid_named(self.domain, &sid)?),
            Change::AddMember { group, member } => {
                let domain = self.domain;
                self.add_member(rules::rid_named(domain, &group)?, rules::rid_named(domain, &member)?, 0)
            }
            Change::AddNamedMember { group, member, line } => {
                match (self.group_named(&group)?, self.entry_named(&member)?) {
                    (Some(group), Some(member)) => self.add_member(group, member, line),
                    _ => {
                        self.unnamed.push((group, member, line));
                        Ok(())
                    }
                }
            }
            Change::PutMachine(put, machine, secrets) => self.put_machine(put, *machine, secrets),
            Change::RemoveMachine(sid) => {
                let rid = rules::rid_named(self.domain, &sid)?;
                self.rows.machine(rid)?.ok_or_else(|| self.unknown("machine", rid))?;
                self.rows.delete_machine(rid)
            }
            Change::RemoveMember { group, member } => {
                let domain = self.domain;
                self.remove_member(rules::rid_named(domain, &group)?, rules::rid_named(domain, &member)?)
            }
        }
    }

    fn put_account(&mut self, put: Put, mut account: Account) -> Result<()> {
        rules::check_account(&account)?;
        let name = casefold(&account.name);
        let named = self.rows.named(&name)?;
        let rid =
            match (rules::rid_to_write(self.domain, put, &account.sid)?, named.account.or(named.machine)) {
                (Some(rid), _) => rid,
                (None, Some(named)) => named,
                (None, None) => self.take_rid()?,
            };
        account.sid = self.sid(rid)?;
        let old = self.rows.account(rid)?;
        check_put(put, old.is_some(), || format!("account {} ({:?})", account.sid, account.name))?;
        if let Put::Replace { keep_created, keep_disabled } = put {
            if !self.replaced.insert(rid) {
                return Err(replaced_twice("account", &account.name, &account.sid));
            }
            if let Some(old) = old.as_ref().filter(|_| keep_created) {
                account.created = old.created;
            }
            if keep_disabled && old.as_ref().is_some_and(|old| old.flags.contains(AccountFlags::DISABLED)) {
                account.flags = account.flags.with(AccountFlags::DISABLED, true);
            }
        }
        let taken =
            |by: String| StoreError::Refused(format!("account {:?} ({}): {by}", account.name, account.sid));
        if let Some(group) = self.rows.group(rid)? {
            return Err(taken(format!("the SID is that of group {:?}", group.name)));
        }
        self.check_name("account", &account.name, Named { machine: None, ..named }, rid)?;
        if named.machine.is_some_and(|machine| machine != rid)
            || self.rows.machine(rid)?.is_some_and(|machine| machine != name)
        {
            return Err(taken("a machine has the same name or the same SID, but not both".to_owned()));
        }
        if old.as_ref().is_none_or(|old| old.home_domain != account.home_domain) {
            rules::check_home_domain(&account)?;
        }
        self.check_twins("account", rid, &account.name, old.as_ref().map(|old| old.name.as_str()))?;
        self.note_rid(rid)?;
        let moved = old.as_ref().is_none_or(|old| old.primary_group_id != account.primary_group_id);
        let groups = match moved {
            true => Some(self.groups_of(rid, account.primary_group_id)?),
            false => None,
        };
        self.kinds.insert(rid, Kind::Account);
        match old {
            Some(old) if old == account => Ok(()),
            old => self.rows.write_account(rid, &account, old.as_ref(), groups.as_deref()),
        }
    }

    fn put_machine(
        &mut self,
        put: Put,
        mut machine: crate::Machine,
        secrets: Option<crate::Secrets>,
    ) -> Result<()> {
        rules::check_machine(&machine)?;
        let name = casefold(&machine.name);
        let named = self.rows.named(&name)?;
        let account = named.account;
        let rid = match (rules::rid_to_write(self.domain, put, &machine.sid)?, named.machine.or(account)) {
            (Some(rid), _) => rid,
            (None, Some(named)) => named,
            (None, None) => self.take_rid()?,
        };
        machine.sid = self.sid(rid)?;
        let old = self.rows.machine(rid)?;
        check_put(put, old.is_some(), || format!("machine {} ({:?})", machine.sid, machine.name))?;
        if let Put::Replace { keep_disabled, .. } = put {
            if !self.replaced_machines.insert(rid) {
                return Err(replaced_twice("machine", &machine.name, &machine.sid));
            }
            if keep_disabled && self.rows.has_disabled_machine(rid)? {
                machine.enabled = false;
            }
        }
        let taken = |by: &str| {
            Err(StoreError::Refused(format!("machine {:?} ({}): {by}", machine.name, machine.sid)))
        };
        if self.rows.group(rid)?.is_some() || named.group.is_some() {
            return taken("a group has this name or SID");
        }
        if account.is_some_and(|account| account != rid)
            || (account.is_none() && self.rows.primary_group(rid)?.is_some())
        {
            return taken("an account has the same name or the same SID, but not both");
        }
        self.check_name("machine", &machine.name, Named { machine: named.machine, ..Named::default() }, rid)?;
        self.check_twins("machine", rid, &machine.name, old.as_deref())?;
        self.note_rid(rid)?;
        self.rows.write_machine(rid, machine, secrets)
    }

    /// Refuses a name that looks like another entry's ([`fold::wide`]): an operator who reads the one in a
    /// log or a list takes it for the other. So does a name with a backslash for one of another domain. The
    /// rule of accounts, groups and machines alike. `old` is the entry's present name: what an older file has
    /// stays until it is renamed.
    fn check_twins(&mut self, what: &str, rid: u32, name: &str, old: Option<&str>) -> Result<()> {
        let key = casefold(name);
        if old.is_some_and(|old| casefold(old) == key) {
            return Ok(());
        }
        if name.contains('\\') {
            return Err(StoreError::Refused(format!(
                "{what} {name:?}: a name has no \\, which stands between a domain and a name"
            )));
        }
        let wide = fold::wide(name);
        let mut others = self.rows.twins(&wide)?;
        if wide != key {
            self.rows.note_twin(&key, &wide)?;
            others.push(wide);
        }
        for other in others.into_iter().filter(|other| *other != key) {
            if let Some(known) = self.name_of(&other, rid)? {
                return Err(StoreError::Refused(format!(
                    "{what} {}: the name looks like that of {known}, so the one would be taken for the other; rename one \
                     of them (in the lines of an import: change its \"name\")",
                    spelled(name)
                )));
            }
        }
        Ok(())
    }

    /// The entry with this folded name, as text, unless it is the one with this relative identifier.
    fn name_of(&mut self, name: &str, except: u32) -> Result<Option<String>> {
        let named = self.rows.named(name)?;
        let is_another = |rid: &u32| *rid != except;
        if let Some(rid) = named.account.filter(is_another) {
            return Ok(self.rows.account(rid)?.map(|account| format!("account {}", spelled(&account.name))));
        }
        if let Some(rid) = named.group.filter(is_another) {
            return Ok(self.rows.group(rid)?.map(|group| format!("group {}", spelled(&group.name))));
        }
        Ok(named.machine.filter(is_another).map(|_| format!("machine {}", spelled(name))))
    }

    fn remove_account(&mut self, rid: u32) -> Result<()> {
        let account = self.rows.account(rid)?.ok_or_else(|| self.unknown("account", rid))?;
        for group in self.rows.parents(rid)? {
            self.rows.delete_member(group, rid)?;
        }
        self.stale_accounts.remove(&rid);
        self.kinds.remove(&rid);
        self.rows.delete_account(rid, &account)
    }

    fn put_group(&mut self, put: Put, mut group: Group) -> Result<()> {
        rules::check_name("group", &group.name)?;
        let name = casefold(&group.name);
        let named = self.rows.named(&name)?;
        let rid = match (rules::rid_to_write(self.domain, put, &group.sid)?, named.group) {
            (Some(rid), _) => rid,
            (None, Some(named)) => named,
            (None, None) => self.take_rid()?,
        };
        group.sid = self.sid(rid)?;
        let old = self.rows.group(rid)?;
        check_put(put, old.is_some(), || format!("group {} ({:?})", group.sid, group.name))?;
        if matches!(put, Put::Replace { .. }) && !self.replaced.insert(rid) {
            return Err(replaced_twice("group", &group.name, &group.sid));
        }
        let taken =
            |by: &str| Err(StoreError::Refused(format!("group {:?} ({}): {by}", group.name, group.sid)));
        if self.rows.primary_group(rid)?.is_some() || self.rows.machine(rid)?.is_some() {
            return taken("the SID is that of an account");
        }
        self.check_name("group", &group.name, named, rid)?;
        self.check_twins("group", rid, &group.name, old.as_ref().map(|old| old.name.as_str()))?;
        // A group that an older file has under such a name stays until it is renamed, as twins do.
        if old.as_ref().is_none_or(|old| casefold(&old.name) != name)
            && let Some(why) = privileged::group_name_refused(&group.name, &group.sid, &self.domain.sid)
        {
            return Err(StoreError::Refused(why));
        }
        self.note_rid(rid)?;
        self.kinds.insert(rid, Kind::Group);
        match old {
            Some(old) if old == group => Ok(()),
            old => self.rows.write_group(rid, &group, old.as_ref()),
        }
    }

    fn remove_group(&mut self, rid: u32) -> Result<()> {
        let group = self.rows.group(rid)?.ok_or_else(|| self.unknown("group", rid))?;
        for member in self.rows.members(rid)? {
            self.moved(member)?;
            self.rows.delete_member(rid, member)?;
        }
        for parent in self.rows.parents(rid)? {
            self.rows.delete_member(parent, rid)?;
        }
        self.stale_accounts.extend(self.rows.accounts_with_primary_group(rid)?);
        self.stale_groups.remove(&rid);
        self.kinds.remove(&rid);
        self.parents.clear();
        self.rows.delete_group(rid, &group)
    }

    fn add_member(&mut self, group: u32, member: u32, line: u64) -> Result<()> {
        self.made.insert((group, member));
        self.rows.insert_member(group, member)?;
        if self.kind(group)? != Some(Kind::Group) || !self.moved(member)? {
            self.unproven.push((group, member, line));
        }
        Ok(())
    }

    fn group_named(&mut self, name: &str) -> Result<Option<u32>> {
        match name.parse() {
            Ok(sid) => rules::rid_named(self.domain, &sid).map(Some),
            Err(_) => Ok(self.rows.named(&casefold(name))?.group),
        }
    }

    /// The group or the account of this name, or with this SID.
    fn entry_named(&mut self, name: &str) -> Result<Option<u32>> {
        match name.parse() {
            Ok(sid) => rules::rid_named(self.domain, &sid).map(Some),
            Err(_) => self.rows.named(&casefold(name)).map(|named| named.group.or(named.account)),
        }
    }

    fn remove_member(&mut self, group: u32, member: u32) -> Result<()> {
        self.rows.delete_member(group, member)?;
        self.made.remove(&(group, member));
        self.unproven.retain(|(above, below, _)| (*above, *below) != (group, member));
        self.moved(member).map(drop)
    }

    /// Remembers that an account or a group changed its place; `false` when there is no such thing.
    fn moved(&mut self, member: u32) -> Result<bool> {
        match self.kind(member)? {
            Some(Kind::Group) => {
                self.parents.clear();
                self.stale_groups.insert(member);
            }
            Some(Kind::Account) => drop(self.stale_accounts.insert(member)),
            None => return Ok(false),
        }
        Ok(true)
    }

    fn kind(&mut self, rid: u32) -> Result<Option<Kind>> {
        if let Some(kind) = self.kinds.get(&rid) {
            return Ok(Some(*kind));
        }
        let kind = match self.rows.group(rid)? {
            Some(_) => Some(Kind::Group),
            None => self.rows.primary_group(rid)?.map(|_| Kind::Account),
        };
        self.kinds.extend(kind.map(|kind| (rid, kind)));
        Ok(kind)
    }

    /// The last step: everything that is derived is made true again.
    pub fn finish(mut self) -> Result<R> {
        for (group, member, line) in std::mem::take(&mut self.unnamed) {
            let unknown =
                |what, name| StoreError::Refused(at_line(line, format!("there is no {what} {name:?}")));
            let above = self.group_named(&group)?.ok_or_else(|| unknown("group", &group))?;
            let below = self.entry_named(&member)?.ok_or_else(|| unknown("account or group", &member))?;
            self.add_member(above, below, line)?;
        }
        self.end_other_memberships()?;
        for (group, member, line) in std::mem::take(&mut self.unproven) {
            // What was removed after it was made a member has left no membership behind.
            if !self.rows.parents(member)?.contains(&group) {
                continue;
            }
            if self.kind(group)? != Some(Kind::Group) {
                return Err(self.unknown_at(line, "group", group));
            }
            if !self.moved(member)? {
                return Err(self.unknown_at(line, "account or group", member));
            }
        }
        let mut below: Vec<u32> = std::mem::take(&mut self.stale_groups).into_iter().collect();
        let mut seen: HashSet<u32> = below.iter().copied().collect();
        while let Some(group) = below.pop() {
            for member in self.rows.members(group)? {
                match self.kind(member)? {
                    Some(Kind::Group) if seen.insert(member) => below.push(member),
                    Some(Kind::Group) => {}
                    _ => drop(self.stale_accounts.insert(member)),
                }
            }
            self.stale_accounts.extend(self.rows.accounts_with_primary_group(group)?);
        }
        for account in std::mem::take(&mut self.stale_accounts) {
            if let Some(primary) = self.rows.primary_group(account)? {
                let groups = self.groups_of(account, primary)?;
                self.rows.write_groups_of(account, &groups)?;
            }
        }
        if let Some(rid) = self.next_rid {
            self.rows.set_next_rid(rid)?;
        }
        Ok(self.rows)
    }

    /// Ends the memberships of replaced entries that this change has not made.
    fn end_other_memberships(&mut self) -> Result<()> {
        let mut ended = Vec::new();
        for member in std::mem::take(&mut self.replaced) {
            let edges = self.rows.parents(member)?.into_iter().map(|group| (group, member));
            ended.extend(edges.filter(|edge| !self.made.contains(edge)));
        }
        for group in std::mem::take(&mut self.only_members) {
            let edges = self.rows.members(group)?.into_iter().map(|member| (group, member));
            ended.extend(edges.filter(|edge| !self.made.contains(edge)));
        }
        ended.into_iter().try_for_each(|(group, member)| self.remove_member(group, member))
    }

    /// Refuses a name that another entry has: that of `named`, unless it is the one with this relative
    /// identifier.
    fn check_name(&self, what: &str, name: &str, named: Named, rid: u32) -> Result<()> {
        for (kind, other) in [("account", named.account), ("group", named.group), ("machine", named.machine)]
        {
            if let Some(other) = other.filter(|other| *other != rid) {
                let other = self.sid(other)?;
                return Err(StoreError::Refused(format!(
                    "{what} {name:?}: the {kind} {other} has this name already"
                )));
            }
        }
        Ok(())
    }

    /// All groups an account is in, ascending.
    fn groups_of(&mut self, account: u32, primary: u32) -> Result<Vec<u32>> {
        let mut found = BTreeSet::from([primary]);
        let mut above = vec![primary];
        for group in self.rows.parents(account)? {
            if found.insert(group) {
                above.push(group);
            }
        }
        while let Some(group) = above.pop() {
            if !self.parents.contains_key(&group) {
                let parents = self.rows.parents(group)?;
                self.parents.insert(group, parents);
            }
            let parents = self.parents[&group].iter();
            above.extend(parents.copied().filter(|parent| found.insert(*parent)));
        }
        Ok(found.into_iter().collect())
    }

    /// A relative identifier that was never given.
    fn take_rid(&mut self) -> Result<u32> {
        let rid = self.next_rid.map_or_else(|| self.rows.next_rid(), Ok)?;
        if rid > rules::RID_LAST {
            return Err(StoreError::Refused("the domain has no relative identifiers left".to_owned()));
        }
        self.next_rid = Some(rid + 1);
        Ok(rid)
    }

    /// Remembers that an identifier is in use, so that it is not given after its owner has gone.
    fn note_rid(&mut self, rid: u32) -> Result<()> {
        let next = self.next_rid.map_or_else(|| self.rows.next_rid(), Ok)?;
        self.next_rid = Some(match rid >= next && rid <= rules::RID_LAST {
            true => rid + 1,
            false => next,
        });
        Ok(())
    }

    fn sid(&self, rid: u32) -> Result<dtyp::Sid> {
        let sid = self.domain.sid.with_rid(rid);
        sid.ok_or_else(|| StoreError::Refused(format!("{} is not the SID of a domain", self.domain.sid)))
    }

    fn unknown(&self, what: &str, rid: u32) -> StoreError {
        self.unknown_at(0, what, rid)
    }

    fn unknown_at(&self, line: u64, what: &str, rid: u32) -> StoreError {
        StoreError::Refused(at_line(line, format!("there is no {what} {}-{rid}", self.domain.sid)))
    }
}

/// An error with the line of a file that it is about; 0 is none.
fn at_line(line: u64, error: String) -> String {
    match line {
        0 => error,
        line => format!("line {line}: {error}"),
    }
}

fn replaced_twice(what: &str, name: &str, sid: &dtyp::Sid) -> StoreError {
    StoreError::Refused(format!(
        "{what} {name:?} ({sid}) is to be replaced twice, by two entries of the same change"
    ))
}

fn check_put(put: Put, exists: bool, what: impl FnOnce() -> String) -> Result<()> {
    match (put, exists) {
        (Put::New, true) => Err(StoreError::Exists(what())),
        (Put::Existing, false) => Err(StoreError::Refused(format!("there is no {}", what()))),
        _ => Ok(()),
    }
}

/// A name in quotes, and its code points where some of them may look like others.
fn spelled(name: &str) -> String {
    match name.is_ascii() {
        true => format!("{name:?}"),
        false => format!("{name:?} ({})", name.escape_default()),
    }
}
