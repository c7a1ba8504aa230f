//! Changes to the tables, within a transaction.
//!
//! A change asks for much before it writes a row. So what a batch of an import will ask for is read by a few
//! statements before, and rows that are new are written by a few statements after it. Whatever is asked for
//! and was not read before is read from the tables, after what is due has been written.

use crate::connection::Param;
use crate::rows::{self, ACCOUNT_BY_RID, Keys, columns, get, name_key, number, optional};
use crate::schema::note_twin;
use crate::transaction::{Changed, Transaction};
use account_store::columns::{Word, damaged, pack_rids, sids_to_json, to_json};
use account_store::fold::{casefold, wide};
use account_store::sealing::{UserSecretKind, secrets_to_write};
use account_store::writer::{Named, Rows};
use account_store::{Account, Change, Domain, Group, Machine, Secrets, StoreError, index};
use dtyp::Sid;
use std::collections::{BTreeSet, HashMap};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

/// Rows that are due at most.
const DUE_MAX: usize = 2000;
/// Accounts whose parents and primary groups are kept for the end of a change.
const KEPT_MAX: usize = 1 << 21;

/// The tables, within a transaction.
pub(crate) struct Tables<'a> {
    transaction: &'a Transaction<'a>,
    changed: Changed,
    known: Known,
    /// Kept for the whole change, which ends by asking for those of every account that moved.
    parents: HashMap<u32, Vec<u32>>,
    primary_groups: HashMap<u32, Option<u32>>,
    /// At least the next relative identifier that a new entry gets.
    next_rid: u32,
    due: Due,
}

/// What was read for a batch.
#[derive(Default)]
struct Known {
    names: HashMap<String, Named>,
    twins: HashMap<String, Vec<String>>,
    accounts: HashMap<u32, Option<Account>>,
    groups: HashMap<u32, Option<Group>>,
    /// Folded names.
    machines: HashMap<u32, Option<String>>,
}

/// What is to be written.
#[derive(Default)]
struct Due {
    accounts: Vec<(u32, Account, Vec<u8>)>,
    keys: Keys,
    members: Vec<(u32, u32)>,
    groups_of: Vec<(u32, Vec<u8>)>,
}

impl Due {
    fn len(&self) -> usize {
        self.accounts.len() + self.members.len() + self.groups_of.len()
    }
}

type Result<T> = std::result::Result<T, StoreError>;

fn wide_rids(rids: impl IntoIterator<Item = u32>) -> Vec<i64> {
    rids.into_iter().map(i64::from).collect()
}

impl<'a> Tables<'a> {
    pub(crate) fn new(transaction: &'a Transaction<'a>) -> Self {
        Self {
            transaction,
            changed: Changed::default(),
            known: Known::default(),
            parents: HashMap::new(),
            primary_groups: HashMap::new(),
            next_rid: 0,
            due: Due::default(),
        }
    }

    pub(crate) fn domain(&self) -> &'a Domain {
        self.transaction.inner.domain()
    }

    pub(crate) fn transaction(&self) -> &'a Transaction<'a> {
        self.transaction
    }

    /// Writes what is due. Returns what was changed.
    pub(crate) fn finish(mut self) -> Result<Changed> {
        self.flush()?;
        Ok(self.changed)
    }

    pub(crate) fn accounts_changed(&mut self) {
        (self.changed.accounts, self.changed.machines) = (true, true);
    }

    pub(crate) fn machines_changed(&mut self) {
        self.changed.machines = true;
    }

    /// Asks the tables, after what is due has been written.
    pub(crate) fn query(&mut self, template: &str, params: &[Param<'_>]) -> Result<Vec<Row>> {
        self.flush()?;
        self.read(template, params)
    }

    fn read(&self, template: &str, params: &[Param<'_>]) -> Result<Vec<Row>> {
        self.transaction.run(self.transaction.connection.query(template, params))
    }

    /// Changes the tables, after what is due has been written.
    pub(crate) fn execute(&mut self, template: &str, params: &[Param<'_>]) -> Result<u64> {
        self.flush()?;
        self.write(template, params)
    }

    fn write(&self, template: &str, params: &[Param<'_>]) -> Result<u64> {
        self.transaction.run(self.transaction.connection.execute(template, params))
    }

    fn by_rid(&mut self, template: &str, rid: u32) -> Result<Vec<Row>> {
        self.query(template, &[(&i64::from(rid), Type::INT8)])
    }

    fn rids(&mut self, template: &str, of: u32) -> Result<Vec<u32>> {
        self.by_rid(template, of)?.iter().map(|row| number(row, 0)).collect()
    }

    fn flush_if_full(&mut self) -> Result<()> {
        match self.due.len() < DUE_MAX {
            true => Ok(()),
            false => self.flush(),
        }
    }

    fn flush(&mut self) -> Result<()> {
        if self.due.len() == 0 && self.due.keys.is_empty() {
            return Ok(());
        }
        let Due { accounts, keys, members, groups_of } = std::mem::take(&mut self.due);
        if !accounts.is_empty() {
            self.insert_accounts(&accounts)?;
        }
        if !keys.is_empty() {
            self.transaction.run(keys.insert(self.transaction.connection))?;
        }
        if !members.is_empty() {
            let [groups, members] = [
                wide_rids(members.iter().map(|(group, _)| *group)),
                wide_rids(members.iter().map(|(_, member)| *member)),
            ];
            let sql = "INSERT INTO @.member (group_rid, member_rid) SELECT m.g, m.m FROM unnest($1, $2) AS m(g, m) ON CONFLICT DO NOTHING";
            self.write(sql, &[(&groups, Type::INT8_ARRAY), (&members, Type::INT8_ARRAY)])?;
        }
        if !groups_of.is_empty() {
            let (rids, groups): (Vec<u32>, Vec<Vec<u8>>) = groups_of.into_iter().unzip();
            let sql = "UPDATE @.account SET group_rids = n.groups FROM unnest($1, $2) AS n(rid, groups)
                WHERE account.rid = n.rid AND account.group_rids <> n.groups";
            let params: [Param<'_>; 2] = [(&wide_rids(rids), Type::INT8_ARRAY), (&groups, Type::BYTEA_ARRAY)];
            if self.write(sql, &params)? > 0 {
                self.accounts_changed();
            }
        }
        Ok(())
    }

    fn insert_accounts(&self, accounts: &[(u32, Account, Vec<u8>)]) -> Result<()> {
        let texts = |of: fn(&Account) -> String| {
            accounts.iter().map(|(_, account, _)| of(account)).collect::<Vec<String>>()
        };
        let numbers = |of: fn(&Account) -> i64| {
            accounts.iter().map(|(_, account, _)| of(account)).collect::<Vec<i64>>()
        };
        let optional = |of: fn(&Account) -> Option<String>| {
            accounts.iter().map(|(_, account, _)| of(account)).collect::<Vec<Option<String>>>()
        };
        let hours: Vec<Option<Vec<u8>>> =
            accounts.iter().map(|(_, account, _)| account.logon_hours.map(|it| it.to_vec())).collect();
        let groups: Vec<&[u8]> = accounts.iter().map(|(_, _, groups)| groups.as_slice()).collect();
        let sql = concat!(
            "INSERT INTO @.account (",
            columns!(""),
            ", name_key) SELECT ",
            columns!("n."),
            ", n.name_key FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21) AS n(",
            columns!(""),
            ", name_key)"
        );
        let params: [Param<'_>; 21] = [
            (&wide_rids(accounts.iter().map(|(rid, ..)| *rid)), Type::INT8_ARRAY),
            (&texts(|it| it.name.clone()), Type::TEXT_ARRAY),
            (&texts(|it| it.kind.word().to_owned()), Type::TEXT_ARRAY),
            (&optional(|it| it.user_principal_name.clone()), Type::TEXT_ARRAY),
            (&texts(|it| to_json(&it.service_principal_names)), Type::TEXT_ARRAY),
            (&texts(|it| to_json(&it.alt_security_identities)), Type::TEXT_ARRAY),
            (&numbers(|it| it.flags.0.into()), Type::INT8_ARRAY),
            (&numbers(|it| it.primary_group_id.into()), Type::INT8_ARRAY),
            (&numbers(|it| it.expires.0.cast_signed()), Type::INT8_ARRAY),
            (&numbers(|it| it.created.0.cast_signed()), Type::INT8_ARRAY),
            (&numbers(|it| it.password_last_set.0.cast_signed()), Type::INT8_ARRAY),
            (&numbers(|it| it.password_can_change.0.cast_signed()), Type::INT8_ARRAY),
            (&numbers(|it| it.password_must_change.0.cast_signed()), Type::INT8_ARRAY),
            (&hours, Type::BYTEA_ARRAY),
            (&numbers(|it| it.logon_count.into()), Type::INT8_ARRAY),
            (&numbers(|it| it.bad_password_count.into()), Type::INT8_ARRAY),
            (&texts(|it| to_json(&it.profile)), Type::TEXT_ARRAY),
            (&texts(|it| sids_to_json(&it.extra_sids)), Type::TEXT_ARRAY),
            (&groups, Type::BYTEA_ARRAY),
            (&optional(|it| it.home_domain.clone()), Type::TEXT_ARRAY),
            (&texts(|it| name_key(&casefold(&it.name))), Type::TEXT_ARRAY),
        ];
        self.write(sql, &params).map(drop)
    }

    fn update_account(&mut self, rid: u32, account: &Account, groups: Option<&[u32]>) -> Result<()> {
        let sql = "UPDATE @.account SET name = $2, kind = $3, user_principal_name = $4, service_principal_names = $5,
            alt_security_identities = $6, flags = $7, primary_group_id = $8, expires = $9, created = $10, password_last_set = $11,
            password_can_change = $12, password_must_change = $13, logon_hours = $14, logon_count = $15, bad_password_count = $16,
            profile = $17, extra_sids = $18, group_rids = coalesce($19, group_rids), home_domain = $20, name_key = $21
            WHERE rid = $1";
        let params: [Param<'_>; 21] = [
            (&i64::from(rid), Type::INT8),
            (&account.name, Type::TEXT),
            (&account.kind.word(), Type::TEXT),
            (&account.user_principal_name, Type::TEXT),
            (&to_json(&account.service_principal_names), Type::TEXT),
            (&to_json(&account.alt_security_identities), Type::TEXT),
            (&i64::from(account.flags.0), Type::INT8),
            (&i64::from(account.primary_group_id), Type::INT8),
            (&account.expires.0.cast_signed(), Type::INT8),
            (&account.created.0.cast_signed(), Type::INT8),
            (&account.password_last_set.0.cast_signed(), Type::INT8),
            (&account.password_can_change.0.cast_signed(), Type::INT8),
            (&account.password_must_change.0.cast_signed(), Type::INT8),
            (&account.logon_hours.map(|it| it.to_vec()), Type::BYTEA),
            (&i64::from(account.logon_count), Type::INT8),
            (&i64::from(account.bad_password_count), Type::INT8),
            (&to_json(&account.profile), Type::TEXT),
            (&sids_to_json(&account.extra_sids), Type::TEXT),
            (&groups.map(pack_rids), Type::BYTEA),
            (&account.home_domain, Type::TEXT),
            (&name_key(&casefold(&account.name)), Type::TEXT),
        ];
        self.execute(sql, &params).map(drop)
    }

    fn delete_keys(&mut self, rid: u32, account: &Account) -> Result<()> {
        let mut keys = Keys::default();
        keys.extend(rid, index::keys(account));
        if keys.is_empty() {
            return Ok(());
        }
        self.flush()?;
        self.transaction.run(keys.delete(self.transaction.connection))
    }
}

impl Tables<'_> {
    /// Reads by a few statements what a batch of changes will ask for.
    pub(crate) fn prefetch(&mut self, batch: &[Change]) -> Result<()> {
        if self.next_rid == 0 {
            self.next_rid = self.next_rid()?;
        }
        self.flush()?;
        self.known = Known::default();
        if self.parents.len() > KEPT_MAX {
            self.parents.clear();
            self.primary_groups.clear();
        }
        let (mut names, mut rids) = (BTreeSet::new(), BTreeSet::new());
        for change in batch {
            self.asked_for(change, &mut names, &mut rids);
        }
        self.read_names(names)?;
        rids.extend(self.known.names.values().flat_map(|it| [it.account, it.group, it.machine]).flatten());
        // Names without an identifier get the next ones.
        let news =
            self.next_rid..self.next_rid.saturating_add(u32::try_from(batch.len()).unwrap_or(u32::MAX));
        rids.extend(news);
        self.read_entries(&rids)
    }

    fn asked_for(&self, change: &Change, names: &mut BTreeSet<String>, rids: &mut BTreeSet<u32>) {
        let domain = self.domain().sid;
        let mut sid = |sid: &Sid| rids.extend(sid.rid_in(&domain));
        let mut name = |text: &str| {
            if text.parse::<Sid>().is_err() {
                names.extend([casefold(text), wide(text)]);
            }
        };
        match change {
            Change::PutAccount(_, account) => {
                name(&account.name);
                sid(&account.sid);
            }
            Change::PutGroup(_, group) => {
                name(&group.name);
                sid(&group.sid);
            }
            Change::PutMachine(_, machine, _) => {
                name(&machine.name);
                sid(&machine.sid);
            }
            Change::Line(_) => {}
            Change::OnlyNamedMembers(group) => name(group),
            Change::AddNamedMember { group, member, .. } => {
                name(group);
                name(member);
            }
            // Of an entry that this change has met, nothing else is asked for.
            Change::AddMember { group, member } | Change::RemoveMember { group, member } => {
                let ends = [group, member].into_iter().filter_map(|end| end.rid_in(&domain));
                rids.extend(ends.filter(|rid| !self.parents.contains_key(rid)));
            }
            Change::RemoveAccount(of) | Change::RemoveGroup(of) | Change::RemoveMachine(of) => sid(of),
        }
    }

    fn read_names(&mut self, names: BTreeSet<String>) -> Result<()> {
        let (texts, keys): (Vec<String>, Vec<String>) = names
            .into_iter()
            .map(|name| {
                let key = name_key(&name);
                (name, key)
            })
            .unzip();
        let sql = "SELECT n.at, a.rid, g.rid, m.rid FROM unnest($1, $2) AS n(at, key)
            LEFT JOIN @.account a ON a.name_key = n.key LEFT JOIN @.account_group g ON g.name_key = n.key
            LEFT JOIN @.machine m ON m.name_key = n.key";
        let numbers: Vec<i64> = (0..).take(texts.len()).collect();
        let found = self.read(sql, &[(&numbers, Type::INT8_ARRAY), (&keys, Type::TEXT_ARRAY)])?;
        for row in &found {
            let at: usize = number(row, 0)?;
            let name = texts.get(at).ok_or_else(|| damaged("a name"))?;
            self.known.names.insert(name.clone(), named(row, 1)?);
        }
        let sql = "SELECT wide_key, folded FROM @.name_twin WHERE wide_key = ANY($1)";
        let rows = self.read(sql, &[(&keys, Type::TEXT_ARRAY)])?;
        let mut twins: HashMap<String, Vec<String>> = HashMap::new();
        for row in &rows {
            twins.entry(get(row, 0)?).or_default().push(get(row, 1)?);
        }
        let known = texts.into_iter().zip(keys);
        self.known.twins =
            known.map(|(text, key)| (text, twins.get(&key).cloned().unwrap_or_default())).collect();
        Ok(())
    }

    fn read_entries(&mut self, rids: &BTreeSet<u32>) -> Result<()> {
        let (wide, domain) = (wide_rids(rids.iter().copied()), self.domain());
        let all = [(&wide as _, Type::INT8_ARRAY)];
        let sql = concat!("SELECT ", columns!(""), " FROM @.account WHERE rid = ANY($1)");
        let mut accounts: HashMap<u32, Account> = HashMap::new();
        for row in &self.read(sql, &all)? {
            accounts.insert(number(row, 0)?, rows::account(domain, row, 0)?);
        }
        let mut groups: HashMap<u32, Group> = HashMap::new();
        for row in &self.read("SELECT rid, name, scope FROM @.account_group WHERE rid = ANY($1)", &all)? {
            groups.insert(number(row, 0)?, rows::group(domain, row)?);
        }
        let mut machines: HashMap<u32, String> = HashMap::new();
        for row in &self.read("SELECT rid, name FROM @.machine WHERE rid = ANY($1)", &all)? {
            machines.insert(number(row, 0)?, casefold(get(row, 1)?));
        }
        self.read_parents(rids)?;
        for rid in rids {
            let account = accounts.remove(rid);
            self.primary_groups.insert(*rid, account.as_ref().map(|it| it.primary_group_id));
            self.known.accounts.insert(*rid, account);
            self.known.groups.insert(*rid, groups.remove(rid));
            self.known.machines.insert(*rid, machines.remove(rid));
        }
        Ok(())
    }

    /// Reads the parents of entries that this change has not met. PostgreSQL takes a table that was never
    /// analyzed for one whose members have thousands of groups each, and would read all of it: so it is asked
    /// for one member after the other, by the index.
    fn read_parents(&mut self, rids: &BTreeSet<u32>) -> Result<()> {
        let unmet: Vec<u32> = rids.iter().copied().filter(|rid| !self.parents.contains_key(rid)).collect();
        if unmet.is_empty() {
            return Ok(());
        }
        let sql = "SELECT p.member_rid, p.group_rid FROM unnest($1) AS n(rid) JOIN LATERAL
            (SELECT member_rid, group_rid FROM @.member WHERE member_rid = n.rid ORDER BY group_rid LIMIT 1000000) p ON true";
        let mut parents: HashMap<u32, Vec<u32>> = HashMap::new();
        for row in &self.read(sql, &[(&wide_rids(unmet.iter().copied()), Type::INT8_ARRAY)])? {
            parents.entry(number(row, 0)?).or_default().push(number(row, 1)?);
        }
        for rid in unmet {
            let mut parents = parents.remove(&rid).unwrap_or_default();
            parents.sort_unstable();
            self.parents.insert(rid, parents);
        }
        Ok(())
    }
}

fn named(row: &Row, at: usize) -> Result<Named> {
    Ok(Named { account: optional(row, at)?, group: optional(row, at + 1)?, machine: optional(row, at + 2)? })
}

impl Rows for &mut Tables<'_> {
    fn named(&mut self, name: &str) -> Result<Named> {
        if let Some(named) = self.known.names.get(name) {
            return Ok(*named);
        }
        let sql = "SELECT (SELECT rid FROM @.account WHERE name_key = $1), (SELECT rid FROM @.account_group WHERE name_key = $1),
            (SELECT rid FROM @.machine WHERE name_key = $1)";
        let rows = self.query(sql, &[(&name_key(name), Type::TEXT)])?;
        named(rows.first().ok_or_else(|| damaged("a name"))?, 0)
    }

    fn twins(&mut self, wide: &str) -> Result<Vec<String>> {
        if let Some(twins) = self.known.twins.get(wide) {
            return Ok(twins.clone());
        }
        let sql = "SELECT folded FROM @.name_twin WHERE wide_key = $1";
        self.query(sql, &[(&name_key(wide), Type::TEXT)])?.iter().map(|row| get(row, 0)).collect()
    }

    fn note_twin(&mut self, name: &str, wide: &str) -> Result<()> {
        self.known.twins.remove(wide);
        self.transaction.run(note_twin(self.transaction.connection, name, wide))
    }

    fn account(&mut self, rid: u32) -> Result<Option<Account>> {
        if let Some(account) = self.known.accounts.get(&rid) {
            return Ok(account.clone());
        }
        let domain = self.domain();
        self.by_rid(ACCOUNT_BY_RID, rid)?.first().map(|row| rows::account(domain, row, 0)).transpose()
    }

    fn primary_group(&mut self, account: u32) -> Result<Option<u32>> {
        if let Some(group) = self.primary_groups.get(&account) {
            return Ok(*group);
        }
        Ok(self.rids("SELECT primary_group_id FROM @.account WHERE rid = $1", account)?.first().copied())
    }

    fn accounts_with_primary_group(&mut self, group: u32) -> Result<Vec<u32>> {
        self.rids("SELECT rid FROM @.account WHERE primary_group_id = $1 ORDER BY rid", group)
    }

    fn write_account(
        &mut self,
        rid: u32,
        account: &Account,
        old: Option<&Account>,
        groups: Option<&[u32]>,
    ) -> Result<()> {
        match old {
            Some(old) => {
                self.delete_keys(rid, old)?;
                self.reseal(rid, old, account)?;
                self.update_account(rid, account, groups)?;
                self.known.names.remove(&casefold(&old.name));
            }
            None => self.due.accounts.push((rid, account.clone(), pack_rids(groups.unwrap_or_default()))),
        }
        self.due.keys.extend(rid, index::keys(account));
        // A name that was not asked for in this batch is asked for later.
        if let Some(named) = self.known.names.get_mut(&casefold(&account.name)) {
            named.account = Some(rid);
        }
        self.known.accounts.insert(rid, Some(account.clone()));
        self.primary_groups.insert(rid, Some(account.primary_group_id));
        self.next_rid = self.next_rid.max(rid.saturating_add(1));
        self.accounts_changed();
        self.flush_if_full()
    }

    fn write_groups_of(&mut self, account: u32, groups: &[u32]) -> Result<()> {
        self.due.groups_of.push((account, pack_rids(groups)));
        self.flush_if_full()
    }

    fn delete_account(&mut self, rid: u32, account: &Account) -> Result<()> {
        self.delete_keys(rid, account)?;
        for table in ["account", "machine"].into_iter().chain(UserSecretKind::ALL.map(UserSecretKind::table))
        {
            self.execute(&format!("DELETE FROM @.{table} WHERE rid = $1"), &[(&i64::from(rid), Type::INT8)])?;
        }
        self.known = Known::default();
        self.primary_groups.insert(rid, None);
        self.accounts_changed();
        Ok(())
    }

    fn group(&mut self, rid: u32) -> Result<Option<Group>> {
        if let Some(group) = self.known.groups.get(&rid) {
            return Ok(group.clone());
        }
        let domain = self.domain();
        let sql = "SELECT rid, name, scope FROM @.account_group WHERE rid = $1";
        self.by_rid(sql, rid)?.first().map(|row| rows::group(domain, row)).transpose()
    }

    fn write_group(&mut self, rid: u32, group: &Group, old: Option<&Group>) -> Result<()> {
        let sql = "INSERT INTO @.account_group (rid, name, name_key, scope) VALUES ($1, $2, $3, $4)
            ON CONFLICT (rid) DO UPDATE SET name = excluded.name, name_key = excluded.name_key, scope = excluded.scope";
        let params: [Param<'_>; 4] = [
            (&i64::from(rid), Type::INT8),
            (&group.name, Type::TEXT),
            (&name_key(&casefold(&group.name)), Type::TEXT),
            (&group.scope.word(), Type::TEXT),
        ];
        self.execute(sql, &params)?;
        if let Some(old) = old {
            self.known.names.remove(&casefold(&old.name));
        }
        if let Some(named) = self.known.names.get_mut(&casefold(&group.name)) {
            named.group = Some(rid);
        }
        self.known.groups.insert(rid, Some(group.clone()));
        self.next_rid = self.next_rid.max(rid.saturating_add(1));
        self.changed.accounts = true;
        self.changed.groups = true;
        Ok(())
    }

    fn delete_group(&mut self, rid: u32, group: &Group) -> Result<()> {
        self.execute("DELETE FROM @.account_group WHERE rid = $1", &[(&i64::from(rid), Type::INT8)])?;
        self.known.names.remove(&casefold(&group.name));
        self.known.groups.insert(rid, None);
        self.changed.accounts = true;
        self.changed.groups = true;
        Ok(())
    }

    fn parents(&mut self, member: u32) -> Result<Vec<u32>> {
        if let Some(parents) = self.parents.get(&member) {
            return Ok(parents.clone());
        }
        self.rids("SELECT group_rid FROM @.member WHERE member_rid = $1 ORDER BY group_rid", member)
    }

    fn members(&mut self, group: u32) -> Result<Vec<u32>> {
        self.rids("SELECT member_rid FROM @.member WHERE group_rid = $1 ORDER BY member_rid", group)
    }

    fn insert_member(&mut self, group: u32, member: u32) -> Result<()> {
        self.due.members.push((group, member));
        if let Some(parents) = self.parents.get_mut(&member)
            && let Err(at) = parents.binary_search(&group)
        {
            parents.insert(at, group);
        }
        self.flush_if_full()
    }

    fn delete_member(&mut self, group: u32, member: u32) -> Result<()> {
        let params: [Param<'_>; 2] = [(&i64::from(group), Type::INT8), (&i64::from(member), Type::INT8)];
        self.execute("DELETE FROM @.member WHERE group_rid = $1 AND member_rid = $2", &params)?;
        if let Some(parents) = self.parents.get_mut(&member) {
            parents.retain(|parent| *parent != group);
        }
        Ok(())
    }

    fn machine(&mut self, rid: u32) -> Result<Option<String>> {
        if let Some(machine) = self.known.machines.get(&rid) {
            return Ok(machine.clone());
        }
        let rows = self.by_rid("SELECT name FROM @.machine WHERE rid = $1", rid)?;
        rows.first().map(|row| get(row, 0).map(casefold)).transpose()
    }

    fn has_disabled_machine(&mut self, rid: u32) -> Result<bool> {
        Ok(!self.by_rid("SELECT rid FROM @.machine WHERE rid = $1 AND NOT enabled", rid)?.is_empty())
    }

    fn write_machine(&mut self, rid: u32, machine: Machine, secrets: Option<Secrets>) -> Result<()> {
        let old = self.read_machine(rid);
        let Some(secrets) = secrets_to_write(old, &machine, secrets)? else { return Ok(()) };
        self.write_sealed_machine(None, rid, &machine, &secrets)?;
        self.known.names.clear();
        self.known.machines.insert(rid, Some(casefold(&machine.name)));
        self.next_rid = self.next_rid.max(rid.saturating_add(1));
        Ok(())
    }

    fn delete_machine(&mut self, rid: u32) -> Result<()> {
        self.execute("DELETE FROM @.machine WHERE rid = $1", &[(&i64::from(rid), Type::INT8)])?;
        self.known.names.clear();
        self.known.machines.insert(rid, None);
        self.machines_changed();
        Ok(())
    }

    fn next_rid(&mut self) -> Result<u32> {
        (**self).next_rid()
    }

    fn set_next_rid(&mut self, rid: u32) -> Result<()> {
        let sql = "UPDATE @.domain SET next_rid = $1 WHERE id = 1 AND next_rid <> $1";
        self.execute(sql, &[(&i64::from(rid), Type::INT8)]).map(drop)
    }
}

impl Tables<'_> {
    fn next_rid(&mut self) -> Result<u32> {
        let rows = self.query("SELECT next_rid FROM @.domain", &[])?;
        number(rows.first().ok_or_else(|| damaged("the domain"))?, 0)
    }

    /// Waits for the other end, while a source has nothing to change.
    pub(crate) fn keep_alive(&self) -> Result<()> {
        self.read("SELECT 1", &[]).map(drop)
    }
}
