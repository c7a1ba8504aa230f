//! Rows to values, and values to keys.

use crate::connection::{Connection, Param};
use crate::failure::Failure;
use account_store::columns::{Word, damaged, from_json, list_from_json, sids_from_json, unpack_rids};
use account_store::index::KeyKind;
use account_store::{Account, AccountFlags, Domain, Group, StoreError};
use dtyp::{FileTime, Sid, hex};
use sha2::{Digest, Sha256};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

macro_rules! columns {
    ($table:literal) => {
        concat!(
            $table,
            "rid, ",
            $table,
            "name, ",
            $table,
            "kind, ",
            $table,
            "user_principal_name, ",
            $table,
            "service_principal_names, ",
            $table,
            "alt_security_identities, ",
            $table,
            "flags, ",
            $table,
            "primary_group_id, ",
            $table,
            "expires, ",
            $table,
            "created, ",
            $table,
            "password_last_set, ",
            $table,
            "password_can_change, ",
            $table,
            "password_must_change, ",
            $table,
            "logon_hours, ",
            $table,
            "logon_count, ",
            $table,
            "bad_password_count, ",
            $table,
            "profile, ",
            $table,
            "extra_sids, ",
            $table,
            "group_rids, ",
            $table,
            "home_domain"
        )
    };
}
pub(crate) use columns;

pub(crate) const ACCOUNTS_AFTER: &str =
    concat!("SELECT ", columns!(""), " FROM @.account WHERE rid > $1 ORDER BY rid LIMIT $2");
pub(crate) const ACCOUNT_BY_RID: &str = concat!("SELECT ", columns!(""), " FROM @.account WHERE rid = $1");

/// The longest text in an index. PostgreSQL refuses entries of a third of a page, some 2,700 bytes.
pub(crate) const KEY_LEN_MAX: usize = 1000;

/// The form of a folded name in an index. A long one stands there as a control character, which no name has,
/// and its hash.
pub(crate) fn name_key(folded: &str) -> String {
    match folded.len() <= KEY_LEN_MAX {
        true => folded.to_owned(),
        false => format!("\u{1}{}", hex(&Sha256::digest(folded))),
    }
}

/// The form of a key in an index: its kind, and its text. A long one stands there as its hash, with the kind
/// negated.
pub(crate) fn key(kind: KeyKind, folded: &str) -> (i64, String) {
    match folded.len() <= KEY_LEN_MAX {
        true => (kind as i64, folded.to_owned()),
        false => (-(kind as i64), hex(&Sha256::digest(folded))),
    }
}

/// Keys of accounts, to be written at once.
#[derive(Default)]
pub(crate) struct Keys {
    kinds: Vec<i64>,
    texts: Vec<String>,
    rids: Vec<i64>,
}

impl Keys {
    pub(crate) fn extend(&mut self, rid: u32, keys: impl IntoIterator<Item = (KeyKind, String)>) {
        for (kind, text) in keys {
            let (kind, text) = key(kind, &text);
            self.kinds.push(kind);
            self.texts.push(text);
            self.rids.push(rid.into());
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rids.is_empty()
    }

    fn params(&self) -> [Param<'_>; 3] {
        [(&self.kinds, Type::INT8_ARRAY), (&self.texts, Type::TEXT_ARRAY), (&self.rids, Type::INT8_ARRAY)]
    }

    pub(crate) async fn insert(&self, connection: &Connection) -> Result<(), Failure> {
        let sql = "INSERT INTO @.account_key (kind, key, rid) SELECT k.kind, k.key, k.rid FROM unnest($1, $2, $3) AS k(kind, key, rid)";
        connection.execute(sql, &self.params()).await.map(drop)
    }

    pub(crate) async fn delete(&self, connection: &Connection) -> Result<(), Failure> {
        let sql = "DELETE FROM @.account_key USING unnest($1, $2, $3) AS k(kind, key, rid)
            WHERE account_key.kind = k.kind AND account_key.key = k.key AND account_key.rid = k.rid";
        connection.execute(sql, &self.params()).await.map(drop)
    }
}

/// A column as it is written here: of another type or absent is damage.
pub(crate) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, StoreError> {
    row.try_get(column).map_err(|error| Failure::from(error).into())
}

/// A number without a sign.
pub(crate) fn number<T: TryFrom<i64>>(row: &Row, column: usize) -> Result<T, StoreError> {
    T::try_from(get::<i64>(row, column)?).map_err(|_| damaged("a number"))
}

/// A number without a sign, or NULL.
pub(crate) fn optional<T: TryFrom<i64>>(row: &Row, column: usize) -> Result<Option<T>, StoreError> {
    let number = get::<Option<i64>>(row, column)?;
    number.map(|number| T::try_from(number).map_err(|_| damaged("a number"))).transpose()
}

pub(crate) fn sid(domain: &Domain, row: &Row, column: usize) -> Result<Sid, StoreError> {
    domain.sid.with_rid(number(row, column)?).ok_or_else(|| damaged("a SID"))
}

/// An account, whose columns begin at `at`.
pub(crate) fn account(domain: &Domain, row: &Row, at: usize) -> Result<Account, StoreError> {
    let text = |column| get::<&str>(row, at + column);
    let time = |column| Ok::<_, StoreError>(FileTime(number(row, at + column)?));
    let logon_hours = match get::<Option<&[u8]>>(row, at + 13)? {
        None => None,
        Some(hours) => Some(hours.try_into().map_err(|_| damaged("logon_hours"))?),
    };
    Ok(Account {
        name: get(row, at + 1)?,
        sid: sid(domain, row, at)?,
        kind: Word::from_word(text(2)?)?,
        user_principal_name: get(row, at + 3)?,
        service_principal_names: list_from_json(text(4)?)?,
        alt_security_identities: list_from_json(text(5)?)?,
        flags: AccountFlags(number(row, at + 6)?),
        primary_group_id: number(row, at + 7)?,
        expires: time(8)?,
        created: time(9)?,
        password_last_set: time(10)?,
        password_can_change: time(11)?,
        password_must_change: time(12)?,
        logon_hours,
        logon_count: number(row, at + 14)?,
        bad_password_count: number(row, at + 15)?,
        profile: match text(16)? {
            "{}" => Default::default(),
            profile => from_json(profile)?,
        },
        extra_sids: sids_from_json(text(17)?)?,
        home_domain: get(row, at + 19)?,
        stale_s: None,
    })
}

/// The groups of an account, whose columns begin at `at`.
pub(crate) fn group_rids(row: &Row, at: usize) -> Result<Vec<u32>, StoreError> {
    unpack_rids(get(row, at + 18)?)
}

/// A group, from the columns `rid`, `name`, `scope`.
pub(crate) fn group(domain: &Domain, row: &Row) -> Result<Group, StoreError> {
    Ok(Group { sid: sid(domain, row, 0)?, name: get(row, 1)?, scope: Word::from_word(get(row, 2)?)? })
}
