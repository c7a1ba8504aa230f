//! Changes to the tables, within a transaction.

use super::rows::{
    ACCOUNT_BY_RID, account, all, columns, group, key_hash, note_twin, one, rid_of, run, text, write_keys,
};
use super::{failed, machines, user_secrets};
use crate::account::{Account, Group};
use crate::columns::{Word, damaged, pack_rids, sids_to_json, to_json};
use crate::fold::casefold;
use crate::index;
use crate::machines::{Machine, Secrets};
use crate::sealing::{Seal, no_key, secrets_to_write};
use crate::store::{Domain, StoreError};
use crate::writer::{Named, Rows};
use rusqlite::{Connection, OptionalExtension, params};

/// The tables, within a transaction.
pub(super) struct Tables<'a> {
    pub(super) domain: &'a Domain,
    pub(super) seal: Option<&'a Seal>,
    pub(super) connection: &'a Connection,
}

impl Tables<'_> {
    fn delete_keys(&self, rid: u32, account: &Account) -> Result<(), StoreError> {
        for (kind, key) in index::keys(account) {
            let sql = "DELETE FROM account_key WHERE hash = ?1 AND rid = ?2";
            run(self.connection, sql, params![key_hash(kind, &key), rid])?;
        }
        Ok(())
    }

    fn rids(&self, sql: &str, of: u32) -> Result<Vec<u32>, StoreError> {
        all(self.connection, sql, [of], |row| row.get(0).map_err(failed))
    }
}

const INSERT_ACCOUNT: &str = concat!(
    "INSERT INTO account (",
    columns!(""),
    ", name_key) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)"
);
const UPDATE_ACCOUNT: &str = concat!(
    "UPDATE account SET (",
    columns!(""),
    ", name_key) = (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,",
    " coalesce(?19, group_rids), ?20, ?21) WHERE rid = ?1"
);

impl Rows for Tables<'_> {
    fn account(&mut self, rid: u32) -> Result<Option<Account>, StoreError> {
        one(self.connection, ACCOUNT_BY_RID, [rid], |row| account(self.domain, row))
    }

    fn named(&mut self, name: &str) -> Result<Named, StoreError> {
        let sql = "SELECT (SELECT rid FROM account WHERE name_key = ?1),
            (SELECT rid FROM account_group WHERE name_key = ?1), (SELECT rid FROM machine WHERE name_key = ?1)";
        let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
        let row = statement.query_row([name], |row| {
            Ok(Named { account: row.get(0)?, group: row.get(1)?, machine: row.get(2)? })
        });
        row.map_err(failed)
    }

    fn twins(&mut self, wide: &str) -> Result<Vec<String>, StoreError> {
        all(self.connection, "SELECT name_key FROM name_twin WHERE wide_key = ?1", [wide], |row| {
            text(row, 0).map(str::to_owned)
        })
    }

    fn note_twin(&mut self, name: &str, wide: &str) -> Result<(), StoreError> {
        note_twin(self.connection, name, wide)
    }

    fn primary_group(&mut self, account: u32) -> Result<Option<u32>, StoreError> {
        rid_of(self.connection, "SELECT primary_group_id FROM account WHERE rid = ?1", [account])
    }

    fn accounts_with_primary_group(&mut self, group: u32) -> Result<Vec<u32>, StoreError> {
        self.rids("SELECT rid FROM account WHERE primary_group_id = ?1", group)
    }

    fn write_account(
        &mut self,
        rid: u32,
        account: &Account,
        old: Option<&Account>,
        groups: Option<&[u32]>,
    ) -> Result<(), StoreError> {
        if let Some(old) = old {
            self.delete_keys(rid, old)?;
            user_secrets::reseal(self.connection, self.seal, rid, old, account)?;
        }
        let sql = match old {
            Some(_) => UPDATE_ACCOUNT,
            None => INSERT_ACCOUNT,
        };
        run(
            self.connection,
            sql,
            params![
                rid,
                account.name,
                account.kind.word(),
                account.user_principal_name,
                to_json(&account.service_principal_names),
                to_json(&account.alt_security_identities),
                account.flags.0,
                account.primary_group_id,
                account.expires.0,
                account.created.0,
                account.password_last_set.0,
                account.password_can_change.0,
                account.password_must_change.0,
                account.logon_hours,
                account.logon_count,
                account.bad_password_count,
                to_json(&account.profile),
                sids_to_json(&account.extra_sids),
                groups.map(pack_rids),
                account.home_domain,
                casefold(&account.name),
            ],
        )?;
        write_keys(self.connection, rid, account)
    }

    fn write_groups_of(&mut self, account: u32, groups: &[u32]) -> Result<(), StoreError> {
        let sql = "UPDATE account SET group_rids = ?2 WHERE rid = ?1 AND group_rids <> ?2";
        run(self.connection, sql, params![account, pack_rids(groups)])
    }

    fn delete_account(&mut self, rid: u32, account: &Account) -> Result<(), StoreError> {
        self.delete_keys(rid, account)?;
        run(self.connection, "DELETE FROM account WHERE rid = ?1", [rid])
    }

    fn group(&mut self, rid: u32) -> Result<Option<Group>, StoreError> {
        group(self.domain, self.connection, rid)
    }

    fn write_group(&mut self, rid: u32, group: &Group, _old: Option<&Group>) -> Result<(), StoreError> {
        let sql = "INSERT INTO account_group (rid, name, name_key, scope) VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT (rid) DO UPDATE SET (name, name_key, scope) = (?2, ?3, ?4)";
        run(self.connection, sql, params![rid, group.name, casefold(&group.name), group.scope.word()])
    }

    fn delete_group(&mut self, rid: u32, _group: &Group) -> Result<(), StoreError> {
        run(self.connection, "DELETE FROM account_group WHERE rid = ?1", [rid])
    }

    fn parents(&mut self, member: u32) -> Result<Vec<u32>, StoreError> {
        self.rids("SELECT group_rid FROM member WHERE member_rid = ?1 ORDER BY group_rid", member)
    }

    fn members(&mut self, group: u32) -> Result<Vec<u32>, StoreError> {
        self.rids("SELECT member_rid FROM member WHERE group_rid = ?1 ORDER BY member_rid", group)
    }

    fn insert_member(&mut self, group: u32, member: u32) -> Result<(), StoreError> {
        let sql = "INSERT OR IGNORE INTO member (group_rid, member_rid) VALUES (?1, ?2)";
        run(self.connection, sql, [group, member])
    }

    fn delete_member(&mut self, group: u32, member: u32) -> Result<(), StoreError> {
        run(self.connection, "DELETE FROM member WHERE group_rid = ?1 AND member_rid = ?2", [group, member])
    }

    fn machine(&mut self, rid: u32) -> Result<Option<String>, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT name_key FROM machine WHERE rid = ?1").map_err(failed)?;
        statement.query_row([rid], |row| row.get(0)).optional().map_err(failed)
    }

    fn has_disabled_machine(&mut self, rid: u32) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM machine WHERE rid = ?1 AND enabled = 0)";
        let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
        statement.query_row([rid], |row| row.get(0)).map_err(failed)
    }

    fn write_machine(
        &mut self,
        rid: u32,
        machine: Machine,
        secrets: Option<Secrets>,
    ) -> Result<(), StoreError> {
        let seal = self.seal.ok_or_else(no_key)?;
        let old = machines::read(self.domain, seal, self.connection, rid);
        match secrets_to_write(old, &machine, secrets)? {
            Some(secrets) => machines::write(seal, self.connection, rid, &machine, &secrets),
            None => Ok(()),
        }
    }

    fn delete_machine(&mut self, rid: u32) -> Result<(), StoreError> {
        run(self.connection, "DELETE FROM machine WHERE rid = ?1", [rid])
    }

    fn next_rid(&mut self) -> Result<u32, StoreError> {
        rid_of(self.connection, "SELECT next_rid FROM domain", [])?.ok_or_else(|| damaged("the domain"))
    }

    fn set_next_rid(&mut self, rid: u32) -> Result<(), StoreError> {
        run(self.connection, "UPDATE domain SET next_rid = ?1 WHERE next_rid <> ?1", [rid])
    }
}
