//! Lists and changes.

use crate::connection::Param;
use crate::rows::{self, ACCOUNTS_AFTER, name_key, sid};
use crate::tables::Tables;
use crate::{Inner, PostgresStore};
use account_store::fold::casefold;
use account_store::writer::Writer;
use account_store::{
    Account, AccountAdmin, AccountListing, BoxFuture, Change, Changes, Group, StoreError, Summary,
};
use dtyp::Sid;
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Changes that are made with the same few statements.
const BATCH: usize = 512;
/// How often a server hears from a change whose source has nothing to say.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

pub(crate) fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

impl Inner {
    /// All rows of a statement on the primary.
    pub(crate) async fn all<T>(
        &self,
        template: &str,
        params: &[Param<'_>],
        read: impl Fn(&Row) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        self.ask_primary(template, params).await?.iter().map(read).collect()
    }

    async fn edges(&self, template: &str, of: &Sid) -> Result<Vec<Sid>, StoreError> {
        let Some(of) = of.rid_in(&self.domain().sid) else { return Ok(Vec::new()) };
        self.all(template, &[(&i64::from(of), Type::INT8)], |row| sid(self.domain(), row, 0)).await
    }
}

impl AccountListing for PostgresStore {
    fn accounts(&self, after: u32, limit_: usize) -> Answer<'_, Vec<Account>> {
        self.run(async move {
            let params: [Param<'_>; 2] = [(&i64::from(after), Type::INT8), (&limit(limit_), Type::INT8)];
            self.inner.all(ACCOUNTS_AFTER, &params, |row| rows::account(self.inner.domain(), row, 0)).await
        })
    }

    fn groups(&self, after: u32, limit_: usize) -> Answer<'_, Vec<Group>> {
        self.run(async move {
            let sql = "SELECT rid, name, scope FROM @.account_group WHERE rid > $1 ORDER BY rid LIMIT $2";
            let params: [Param<'_>; 2] = [(&i64::from(after), Type::INT8), (&limit(limit_), Type::INT8)];
            self.inner.all(sql, &params, |row| rows::group(self.inner.domain(), row)).await
        })
    }

    fn group_by_name<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Group>> {
        self.run(async move {
            let name = casefold(name);
            if name.chars().any(char::is_control) {
                return Ok(None);
            }
            let sql = "SELECT rid, name, scope FROM @.account_group WHERE name_key = $1";
            let params: [Param<'_>; 1] = [(&name_key(&name), Type::TEXT)];
            let found = self.inner.all(sql, &params, |row| rows::group(self.inner.domain(), row)).await?;
            Ok(found.into_iter().next())
        })
    }

    fn group_by_sid<'a>(&'a self, sid: &'a Sid) -> Answer<'a, Option<Group>> {
        self.run(async move {
            let Some(rid) = sid.rid_in(&self.inner.domain().sid) else { return Ok(None) };
            let sql = "SELECT rid, name, scope FROM @.account_group WHERE rid = $1";
            let params: [Param<'_>; 1] = [(&i64::from(rid), Type::INT8)];
            let found = self.inner.all(sql, &params, |row| rows::group(self.inner.domain(), row)).await?;
            Ok(found.into_iter().next())
        })
    }

    fn members<'a>(&'a self, group: &'a Sid) -> Answer<'a, Vec<Sid>> {
        let sql = "SELECT member_rid FROM @.member WHERE group_rid = $1 ORDER BY member_rid";
        self.run(self.inner.edges(sql, group))
    }

    fn member_of<'a>(&'a self, member: &'a Sid) -> Answer<'a, Vec<Sid>> {
        let sql = "SELECT group_rid FROM @.member WHERE member_rid = $1 ORDER BY group_rid";
        self.run(self.inner.edges(sql, member))
    }
}

impl PostgresStore {
    /// What the tables say about themselves, at one moment.
    pub async fn summary(&self) -> Result<Summary, StoreError> {
        let sql = "SELECT (SELECT version FROM @.schema_version WHERE id = 1), (SELECT accounts FROM @.revision WHERE id = 1),
            (SELECT count(*) FROM @.account), (SELECT count(*) FROM @.account_group), (SELECT count(*) FROM @.machine)";
        let read = |row: &Row| {
            Ok(Summary {
                schema: rows::number(row, 0)?,
                revision: rows::number(row, 1)?,
                accounts: rows::number(row, 2)?,
                groups: rows::number(row, 3)?,
                machines: rows::number(row, 4)?,
            })
        };
        let found = self.run(self.inner.all(sql, &[], read)).await?;
        found.into_iter().next().ok_or_else(|| StoreError::Damaged("the revision is missing".to_owned()))
    }
}

/// What the source of a change sends to the thread that makes it.
enum Part {
    Batch(Vec<Change>),
    Failed(StoreError),
    End,
}

impl AccountAdmin for PostgresStore {
    fn apply<'a>(&'a self, changes: &'a mut Changes<'a>) -> Answer<'a, ()> {
        let (sender, receiver) = channel(2);
        let done = self.write(move |tables| make(tables, receiver));
        self.run(async move {
            loop {
                let mut batch = Vec::with_capacity(BATCH);
                let mut end = Part::End;
                for change in &mut *changes {
                    match change {
                        Ok(change) => batch.push(change),
                        Err(error) => {
                            end = Part::Failed(error);
                            break;
                        }
                    }
                    if batch.len() == BATCH {
                        break;
                    }
                }
                let is_last = batch.len() < BATCH;
                // If the thread has ended, its outcome says why.
                if sender.send(Part::Batch(batch)).await.is_err() {
                    break;
                }
                if is_last {
                    let _ = sender.send(end).await;
                    break;
                }
            }
            drop(sender);
            done.await
        })
    }
}

/// Makes the changes that arrive. Without an end, none is made: the source has gone.
fn make(tables: &mut Tables<'_>, mut parts: Receiver<Part>) -> Result<(), StoreError> {
    let domain = tables.domain();
    let transaction = tables.transaction();
    let mut writer = Writer::new(domain, &mut *tables);
    loop {
        let next = transaction.inner.runtime.block_on(async { timeout(KEEP_ALIVE, parts.recv()).await });
        match next {
            Err(_) => writer.rows().keep_alive()?,
            Ok(Some(Part::Batch(batch))) => {
                writer.rows().prefetch(&batch)?;
                batch.into_iter().try_for_each(|change| writer.change(change))?;
            }
            Ok(Some(Part::Failed(error))) => return Err(error),
            Ok(Some(Part::End)) => return writer.finish().map(drop),
            Ok(None) => return Err(StoreError::Refused("the source of the change has gone".to_owned())),
        }
    }
}
