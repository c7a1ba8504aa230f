//! Rows to values, and values to keys.

use super::failed;
use crate::account::{Account, AccountFlags, Group};
use crate::columns::{Word, damaged, from_json, list_from_json, sids_from_json, unpack_rids};
use crate::fold::{casefold, wide};
use crate::index::{self, KeyKind};
use crate::store::{Domain, StoreError};
use dtyp::{FileTime, Sid};
use rusqlite::{Connection, OptionalExtension, Params, Row, Transaction, params};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

macro_rules! columns {
    ($prefix:literal) => {
        concat!(
            $prefix,
            "rid, ",
            $prefix,
            "name, ",
            $prefix,
            "kind, ",
            $prefix,
            "user_principal_name, ",
            $prefix,
            "service_principal_names, ",
            $prefix,
            "alt_security_identities, ",
            $prefix,
            "flags, ",
            $prefix,
            "primary_group_id, ",
            $prefix,
            "expires, ",
            $prefix,
            "created, ",
            $prefix,
            "password_last_set, ",
            $prefix,
            "password_can_change, ",
            $prefix,
            "password_must_change, ",
            $prefix,
            "logon_hours, ",
            $prefix,
            "logon_count, ",
            $prefix,
            "bad_password_count, ",
            $prefix,
            "profile, ",
            $prefix,
            "extra_sids, ",
            $prefix,
            "group_rids, ",
            $prefix,
            "home_domain"
        )
    };
}
pub(super) use columns;

macro_rules! groups_revision {
    () => {
        ", (SELECT groups FROM revision), (SELECT groups_epoch FROM revision)"
    };
}

// An outer join: a key without its account is damage, not absence.
pub(super) const ACCOUNTS_BY_KEY: &str = concat!(
    "SELECT ",
    columns!("account."),
    groups_revision!(),
    " FROM account_key LEFT JOIN account ON account.rid = account_key.rid",
    " WHERE account_key.hash = ?1 LIMIT ?2"
);
pub(super) const ACCOUNT_BY_NAME: &str =
    concat!("SELECT ", columns!(""), groups_revision!(), " FROM account WHERE name_key = ?1");
pub(super) const ACCOUNT_BY_RID: &str =
    concat!("SELECT ", columns!(""), groups_revision!(), " FROM account WHERE rid = ?1");
pub(super) const ACCOUNTS_AFTER: &str =
    concat!("SELECT ", columns!(""), " FROM account WHERE rid > ?1 ORDER BY rid LIMIT ?2");

pub(super) fn account(domain: &Domain, row: &Row<'_>) -> Result<Account, StoreError> {
    let rid: u32 = row.get(0).map_err(failed)?;
    let time = |column| Ok(FileTime(row.get::<_, u64>(column).map_err(failed)?));
    let logon_hours = match row.get_ref(13).map_err(failed)?.as_blob_or_null() {
        Ok(None) => None,
        Ok(Some(hours)) => Some(hours.try_into().map_err(|_| damaged("logon_hours"))?),
        Err(_) => return Err(damaged("logon_hours")),
    };
    Ok(Account {
        name: account_name(row)?,
        sid: domain.sid.with_rid(rid).ok_or_else(|| damaged("a SID"))?,
        kind: Word::from_word(text(row, 2)?)?,
        user_principal_name: row.get(3).map_err(failed)?,
        service_principal_names: list(row, 4)?,
        alt_security_identities: list(row, 5)?,
        flags: AccountFlags(row.get(6).map_err(failed)?),
        primary_group_id: row.get(7).map_err(failed)?,
        expires: time(8)?,
        created: time(9)?,
        password_last_set: time(10)?,
        password_can_change: time(11)?,
        password_must_change: time(12)?,
        logon_hours,
        logon_count: row.get(14).map_err(failed)?,
        bad_password_count: row.get(15).map_err(failed)?,
        profile: match text(row, 16)? {
            "{}" => Default::default(),
            profile => from_json(profile)?,
        },
        extra_sids: sids_from_json(text(row, 17)?)?,
        home_domain: row.get(19).map_err(failed)?,
        stale_s: None,
    })
}

pub(super) fn account_name(row: &Row<'_>) -> Result<String, StoreError> {
    Ok(text(row, 1)?.to_owned())
}

pub(super) fn group_rids(row: &Row<'_>) -> Result<Vec<u32>, StoreError> {
    let blob = row.get_ref(18).map_err(failed)?.as_blob().map_err(|_| damaged("group_rids"))?;
    unpack_rids(blob)
}

/// The revision of the groups at the moment of a look-up, with its random number.
pub(super) fn groups_revision(row: &Row<'_>) -> Result<(u64, u64), StoreError> {
    Ok((row.get(20).map_err(failed)?, row.get::<_, i64>(21).map_err(failed)?.cast_unsigned()))
}

pub(super) fn text<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a str, StoreError> {
    row.get_ref(column).map_err(failed)?.as_str().map_err(|_| damaged("a text"))
}

/// A list in JSON.
pub(super) fn list<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<Vec<T>, StoreError> {
    list_from_json(text(row, column)?)
}

pub(super) fn group(domain: &Domain, connection: &Connection, rid: u32) -> Result<Option<Group>, StoreError> {
    one(connection, "SELECT rid, name, scope FROM account_group WHERE rid = ?1", [rid], |row| {
        group_of_row(domain, row)
    })
}

pub(super) fn group_of_row(domain: &Domain, row: &Row<'_>) -> Result<Group, StoreError> {
    Ok(Group {
        sid: domain.sid.with_rid(row.get(0).map_err(failed)?).ok_or_else(|| damaged("a SID"))?,
        name: text(row, 1)?.to_owned(),
        scope: Word::from_word(text(row, 2)?)?,
    })
}

/// The only row of a statement, if it has one.
pub(super) fn one<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnOnce(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let mut rows = statement.query(params).map_err(failed)?;
    rows.next().map_err(failed)?.map(read).transpose()
}

/// All rows of a statement.
pub(super) fn all<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    mut read: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let mut rows = statement.query(params).map_err(failed)?;
    let mut values = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        values.push(read(row)?);
    }
    Ok(values)
}

pub(super) fn run(connection: &Connection, sql: &str, params: impl Params) -> Result<(), StoreError> {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute(params))
        .map(drop)
        .map_err(failed)
}

pub(super) fn rid_of(
    connection: &Connection,
    sql: &str,
    params: impl Params,
) -> Result<Option<u32>, StoreError> {
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.query_row(params, |row| row.get(0)).optional().map_err(failed)
}

/// Makes all folded text anew.
pub(super) fn renew_keys(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    let domain = Domain {
        netbios: String::new(),
        dns: String::new(),
        sid: Sid::new(5, &[21]).ok_or_else(|| damaged("a SID"))?,
    };
    run(transaction, "DELETE FROM account_key", [])?;
    // Names may have been different before and equal now, and then be in each other's way for a moment.
    for table in ["account", "account_group", "machine"] {
        run(transaction, &format!("UPDATE {table} SET name_key = '/' || rid"), [])?;
        let names = all(transaction, &format!("SELECT rid, name FROM {table}"), [], |row| {
            Ok((row.get::<_, u32>(0).map_err(failed)?, text(row, 1)?.to_owned()))
        })?;
        for (rid, name) in names {
            let sql = format!("UPDATE {table} SET name_key = ?2 WHERE rid = ?1");
            run(transaction, &sql, params![rid, casefold(&name)])?;
        }
    }
    let mut statement =
        transaction.prepare(concat!("SELECT ", columns!(""), " FROM account")).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        write_keys(transaction, row.get(0).map_err(failed)?, &account(&domain, row)?)?;
    }
    note_all_twins(transaction)
}

/// Notes the names of all entries that have twins.
pub(super) fn note_all_twins(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    run(transaction, "DELETE FROM name_twin", [])?;
    let sql = "SELECT name FROM account UNION SELECT name FROM account_group UNION SELECT name FROM machine";
    let mut statement = transaction.prepare(sql).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let name = row.get_ref(0).map_err(failed)?.as_str().map_err(|_| damaged("a text"))?;
        let (key, wide) = (casefold(name), wide(name));
        if key != wide {
            note_twin(transaction, &key, &wide)?;
        }
    }
    Ok(())
}

pub(super) fn note_twin(connection: &Connection, name: &str, wide: &str) -> Result<(), StoreError> {
    run(connection, "INSERT OR REPLACE INTO name_twin (name_key, wide_key) VALUES (?1, ?2)", [name, wide])
}

pub(super) fn write_keys(connection: &Connection, rid: u32, account: &Account) -> Result<(), StoreError> {
    for (kind, key) in index::keys(account) {
        run(
            connection,
            "INSERT INTO account_key (hash, rid) VALUES (?1, ?2)",
            params![key_hash(kind, &key), rid],
        )?;
    }
    Ok(())
}

/// What a key is found by: half a SHA-256, so that the index of a million long names stays small. To be found
/// by the key of another account, a key would have to match 128 given bits.
pub(super) fn key_hash(kind: KeyKind, key: &str) -> [u8; 16] {
    let hash: [u8; 32] = Sha256::new().chain_update([kind as u8]).chain_update(key).finalize().into();
    let (half, _) = hash.split_first_chunk().expect("a hash has 32 bytes");
    *half
}
