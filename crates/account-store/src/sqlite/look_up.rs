//! Questions about accounts: from the cache, else by one key and one row.

use super::{Inner, SqliteStore, damaged, failed, rows, watch::Revisions};
use crate::account::{GroupScope, Membership};
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
        Ok(Revision(self.inner.revisions()?.accounts))
    }
}

/// What the groups with these identifiers were called at a revision of the groups; `None` for those there are not.
#[derive(Default)]
pub(super) struct GroupNames {
    revision: u64,
    names: HashMap<u32, Option<(String, GroupScope)>>,
}

impl Inner {
    pub(super) fn revisions(&self) -> Result<Revisions, StoreError> {
        self.watch.revisions(|| self.read(Revisions::read))
    }

    fn find(&self, query: &Query) -> Result<Matches, StoreError> {
        let revision = self.revisions()?.accounts;
        if let Some((of, matches)) = self.answers.get(query)
            && of == revision
        {
            return Ok(matches);
        }
        // If a commit comes in between, the answer is newer than the revision it is remembered under: that revision
        // has gone by then, so nobody is given it.
        let matches = match index::place(&self.domain, query) {
            Place::Nowhere => Matches::None,
            Place::Key(kind, key) => self.matches(rows::ACCOUNTS_BY_KEY, &[&(kind as i64), &key, &LIMIT])?,
            Place::Name(name) => self.matches(rows::ACCOUNT_BY_NAME, &[&name])?,
            Place::Rid(rid) => self.matches(rows::ACCOUNT_BY_RID, &[&rid])?,
        };
        self.answers.insert(query.clone(), (revision, matches.clone()));
        Ok(matches)
    }

    fn matches(&self, sql: &str, params: &[&dyn ToSql]) -> Result<Matches, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(sql).map_err(failed)?;
            let mut found = statement.query(params).map_err(failed)?;
            let Some(row) = found.next().map_err(failed)? else { return Ok(Matches::None) };
            let account = rows::account(&self.domain, row)?;
            let groups = rows::group_rids(row)?;
            let mut names = Vec::new();
            while let Some(row) = found.next().map_err(failed)? {
                if names.is_empty() {
                    names.push(account.name.clone());
                }
                names.push(rows::account_name(row)?);
            }
            if !names.is_empty() {
                return Ok(Matches::Many(names));
            }
            let memberships = self.memberships(connection, &groups)?;
            Ok(Matches::One(Arc::new(Record { account, memberships })))
        })
    }

    fn memberships(&self, connection: &Connection, groups: &[u32]) -> Result<Vec<Membership>, StoreError> {
        let revision = Revisions::read(connection)?.groups;
        let membership = |rid: u32, group: &Option<(String, GroupScope)>| {
            Ok(Membership {
                sid: self.domain.sid.with_rid(rid).ok_or_else(|| damaged("a SID"))?,
                name: group.as_ref().map(|(name, _)| name.clone()),
                scope: group.as_ref().map_or(GroupScope::Global, |(_, scope)| *scope),
            })
        };
        {
            let known = self.group_names.read().unwrap_or_else(PoisonError::into_inner);
            if known.revision == revision {
                let all: Option<Vec<_>> =
                    groups.iter().map(|rid| Some(membership(*rid, known.names.get(rid)?))).collect();
                if let Some(all) = all {
                    return all.into_iter().collect();
                }
            }
        }
        let mut read = Vec::new();
        for rid in groups {
            let group = rows::group(&self.domain, connection, *rid)?.map(|group| (group.name, group.scope));
            read.push((*rid, group));
        }
        let all = read.iter().map(|(rid, group)| membership(*rid, group)).collect();
        let mut known = self.group_names.write().unwrap_or_else(PoisonError::into_inner);
        if known.revision < revision {
            *known = GroupNames { revision, names: HashMap::new() };
        }
        if known.revision == revision {
            known.names.extend(read);
        }
        all
    }
}

const LIMIT: i64 = Matches::NAMES_MAX as i64;

/// What an answer weighs: about its bytes in memory.
#[derive(Clone)]
pub(super) struct Weigh;

impl quick_cache::Weighter<Query, (u64, Matches)> for Weigh {
    fn weight(&self, query: &Query, (_, matches): &(u64, Matches)) -> u64 {
        let key = match query {
            Query::UserPrincipalName(text)
            | Query::ServicePrincipalName(text)
            | Query::AltSecurityIdentity(text)
            | Query::Name(text) => text.len(),
            Query::Sid(_) => 0,
        };
        let value = match matches {
            Matches::None => 0,
            Matches::One(record) => {
                let account = &record.account;
                let names = account.service_principal_names.iter().chain(&account.alt_security_identities);
                512 + names.map(|text| 24 + text.len()).sum::<usize>()
                    + (account.extra_sids.len() + record.memberships.len()) * 128
                    + account.profile.full_name.len()
            }
            Matches::Many(names) => names.iter().map(|name| 24 + name.len()).sum(),
        };
        (256 + key + value) as u64
    }
}
