//! Questions about accounts: from the cache, else by one key and one row.

use super::{Inner, SqliteStore, failed, lock, rows, schema, watch::Revisions};
use crate::account::{Account, GroupScope, Membership};
use crate::columns::damaged;
use crate::index::{self, Place};
use crate::store::{AccountStore, BoxFuture, Domain, Matches, Query, Record, Revision, StoreError};
use rusqlite::{Connection, ToSql};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

impl AccountStore for SqliteStore {
    fn domain(&self) -> &Domain {
        &self.inner.domain
    }

    fn find<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Result<Matches, StoreError>> {
        Box::pin(std::future::ready(self.inner.find(query)))
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.inner.revisions()?.accounts)
    }
}

/// What the groups with these identifiers were called at a revision of the groups; `None` for those there are
/// not. The revision is read in the transaction in which the names are, so it is exactly theirs.
#[derive(Default)]
pub(super) struct GroupNames {
    revision: (u64, u64),
    names: HashMap<u32, Option<(String, GroupScope)>>,
}

impl Inner {
    /// Reads what questions beside look-ups ask for, at one moment, from files that are still the store's.
    pub(super) fn read_checked<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.revisions()?;
        let value = self.read(work)?;
        self.watch.check()?;
        Ok(value)
    }

    pub(super) fn revisions(&self) -> Result<Revisions, StoreError> {
        self.watch.revisions(|| {
            let counters = || self.read(|connection| self.expected().counters(connection));
            if let Some(counters) = counters()? {
                return Ok(counters);
            }
            // A back-up of an earlier version was restored.
            schema::prepare(&self.path, &mut lock(&self.writer))?;
            counters()?.ok_or_else(|| {
                StoreError::Unavailable(format!(
                    "{}: the restored contents change meanwhile",
                    self.path.display()
                ))
            })
        })
    }

    fn find(&self, query: &Query) -> Result<Matches, StoreError> {
        let revision = self.revisions()?.accounts;
        if let Some((of, matches)) = self.answers.get(query)
            && of == revision
        {
            return Ok(matches);
        }
        let matches = match index::place(&self.domain, query) {
            Place::Nowhere => Matches::None,
            Place::Key(kind, key) => {
                self.matches(rows::ACCOUNTS_BY_KEY, &[&rows::key_hash(kind, &key), &LIMIT])?
            }
            Place::Name(name) => self.matches(rows::ACCOUNT_BY_NAME, &[&name])?,
            Place::Rid(rid) => self.matches(rows::ACCOUNT_BY_RID, &[&rid])?,
        };
        // What was read while something was committed may be newer than `revision`, and a restore can bring
        // that revision back: only what was read between two looks at the same contents is kept under it. The
        // second look also finds that the files were replaced meanwhile.
        if self.revisions()?.accounts.is_unbroken_since(&revision) {
            self.answers.insert(query.clone(), (revision, matches.clone()));
        }
        Ok(matches)
    }

    fn matches(&self, sql: &str, params: &[&dyn ToSql]) -> Result<Matches, StoreError> {
        // One statement is one moment. Only if a group is not known yet, it takes two, and a transaction.
        let found = self.with_reader(|connection| self.found(connection, sql, params))?;
        let (account, groups, revision) = match found {
            Found::None => return Ok(Matches::None),
            Found::Many(names) => return Ok(Matches::Many(names)),
            Found::One(account, groups, revision) => (account, groups, revision),
        };
        if let Some(memberships) = self.known_memberships(&groups, revision) {
            return Ok(Matches::One(Arc::new(Record { account: *account, memberships: memberships? })));
        }
        self.read(|connection| match self.found(connection, sql, params)? {
            Found::None => Ok(Matches::None),
            Found::Many(names) => Ok(Matches::Many(names)),
            Found::One(account, groups, revision) => {
                let memberships = self.read_memberships(connection, &groups, revision)?;
                Ok(Matches::One(Arc::new(Record { account: *account, memberships })))
            }
        })
    }

    fn found(&self, connection: &Connection, sql: &str, params: &[&dyn ToSql]) -> Result<Found, StoreError> {
        let mut statement = connection.prepare_cached(sql).map_err(failed)?;
        let mut rows = statement.query(params).map_err(failed)?;
        let Some(row) = rows.next().map_err(failed)? else { return Ok(Found::None) };
        let account = rows::account(&self.domain, row)?;
        let (groups, revision) = (rows::group_rids(row)?, rows::groups_revision(row)?);
        let mut others = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            others.push(rows::account_name(row)?);
        }
        if others.is_empty() {
            return Ok(Found::One(Box::new(account), groups, revision));
        }
        others.insert(0, account.name);
        Ok(Found::Many(others))
    }

    fn membership(&self, rid: u32, group: &Option<(String, GroupScope)>) -> Result<Membership, StoreError> {
        Ok(Membership {
            sid: self.domain.sid.with_rid(rid).ok_or_else(|| damaged("a SID"))?,
            name: group.as_ref().map(|(name, _)| name.clone()),
            scope: group.as_ref().map_or(GroupScope::Global, |(_, scope)| *scope),
        })
    }

    /// `None` if one of the groups has not been read at this revision.
    fn known_memberships(
        &self,
        groups: &[u32],
        revision: (u64, u64),
    ) -> Option<Result<Vec<Membership>, StoreError>> {
        let known = self.group_names.read().unwrap_or_else(PoisonError::into_inner);
        if known.revision != revision {
            return None;
        }
        groups.iter().map(|rid| Some(self.membership(*rid, known.names.get(rid)?))).collect()
    }

    fn read_memberships(
        &self,
        connection: &Connection,
        groups: &[u32],
        revision: (u64, u64),
    ) -> Result<Vec<Membership>, StoreError> {
        let mut read = Vec::with_capacity(groups.len());
        for rid in groups {
            let group = rows::group(&self.domain, connection, *rid)?.map(|group| (group.name, group.scope));
            read.push((*rid, group));
        }
        let memberships = read.iter().map(|(rid, group)| self.membership(*rid, group)).collect();
        let mut known = self.group_names.write().unwrap_or_else(PoisonError::into_inner);
        if known.revision != revision {
            *known = GroupNames { revision, names: HashMap::new() };
        }
        known.names.extend(read);
        memberships
    }
}

/// What a statement found, and at which revision of the groups.
enum Found {
    None,
    One(Box<Account>, Vec<u32>, (u64, u64)),
    Many(Vec<String>),
}

const LIMIT: i64 = Matches::NAMES_MAX as i64;

/// What an answer weighs: about its bytes in memory.
#[derive(Clone)]
pub(super) struct Weigh;

impl quick_cache::Weighter<Query, (Revision, Matches)> for Weigh {
    fn weight(&self, query: &Query, (_, matches): &(Revision, Matches)) -> u64 {
        crate::cache::weight(query, matches)
    }
}
