//! Lists and changes.

use super::{Inner, SqliteStore, failed, rows, tables::Tables};
use crate::account::{Account, Group};
use crate::admin::{AccountAdmin, AccountListing, Changes};
use crate::columns::damaged;
use crate::fold::casefold;
use crate::store::{BoxFuture, StoreError};
use crate::writer::Writer;
use dtyp::Sid;
use rusqlite::Row;

type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

fn ready<'a, T: Send + 'a>(value: Result<T, StoreError>) -> Answer<'a, T> {
    Box::pin(std::future::ready(value))
}

fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

impl SqliteStore {
    fn edges(&self, sql: &str, of: &Sid) -> Result<Vec<Sid>, StoreError> {
        let domain = &self.inner.domain;
        let Some(of) = of.rid_in(&domain.sid) else { return Ok(Vec::new()) };
        let sid =
            |row: &Row<'_>| domain.sid.with_rid(row.get(0).map_err(failed)?).ok_or_else(|| damaged("a SID"));
        self.inner.read_checked(|connection| rows::all(connection, sql, [of], sid))
    }
}

impl AccountListing for SqliteStore {
    fn accounts(&self, after: u32, limit_: usize) -> Answer<'_, Vec<Account>> {
        let account = |row: &Row<'_>| rows::account(&self.inner.domain, row);
        ready(self.inner.read_checked(|connection| {
            rows::all(connection, rows::ACCOUNTS_AFTER, (after, limit(limit_)), account)
        }))
    }

    fn groups(&self, after: u32, limit_: usize) -> Answer<'_, Vec<Group>> {
        let sql = "SELECT rid, name, scope FROM account_group WHERE rid > ?1 ORDER BY rid LIMIT ?2";
        let group = |row: &Row<'_>| rows::group_of_row(&self.inner.domain, row);
        ready(self.inner.read_checked(|connection| rows::all(connection, sql, (after, limit(limit_)), group)))
    }

    fn group_by_name<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Group>> {
        let sql = "SELECT rid, name, scope FROM account_group WHERE name_key = ?1";
        let group = |row: &Row<'_>| rows::group_of_row(&self.inner.domain, row);
        ready(self.inner.read_checked(|connection| rows::one(connection, sql, [casefold(name)], group)))
    }

    fn group_by_sid<'a>(&'a self, sid: &'a Sid) -> Answer<'a, Option<Group>> {
        let domain = &self.inner.domain;
        let Some(rid) = sid.rid_in(&domain.sid) else { return ready(Ok(None)) };
        ready(self.inner.read_checked(|connection| rows::group(domain, connection, rid)))
    }

    fn members<'a>(&'a self, group: &'a Sid) -> Answer<'a, Vec<Sid>> {
        ready(self.edges("SELECT member_rid FROM member WHERE group_rid = ?1 ORDER BY member_rid", group))
    }

    fn member_of<'a>(&'a self, member: &'a Sid) -> Answer<'a, Vec<Sid>> {
        ready(self.edges("SELECT group_rid FROM member WHERE member_rid = ?1 ORDER BY group_rid", member))
    }
}

impl AccountAdmin for SqliteStore {
    fn apply<'a>(&'a self, changes: &'a mut Changes<'a>) -> Answer<'a, ()> {
        ready(self.inner.apply(changes))
    }
}

impl Inner {
    pub(super) fn apply(&self, changes: &mut Changes<'_>) -> Result<(), StoreError> {
        let (domain, seal) = (&self.domain, self.seal.as_ref());
        self.write(|connection| {
            let mut writer = Writer::new(domain, Tables { domain, seal, connection });
            for change in changes {
                writer.change(change?)?;
            }
            writer.finish().map(drop)
        })
    }
}
