//! NT hashes of users, sealed, in a table of their own: most accounts have none.

use super::rows::{ACCOUNT_BY_RID, account, one, run};
use super::sealing::{Seal, no_key};
use super::{SqliteStore, failed};
use crate::account::Account;
use crate::machines::NtHash;
use crate::nt_hashes::NtHashes;
use crate::rules;
use crate::store::{BoxFuture, StoreError};
use dtyp::Sid;
use rusqlite::{Connection, params};

impl NtHashes for SqliteStore {
    fn nt_hash<'a>(&'a self, sid: &'a Sid) -> BoxFuture<'a, Result<Option<NtHash>, StoreError>> {
        let inner = &self.inner;
        let hash = inner.seal().and_then(|seal| {
            let Some(rid) = sid.rid_in(&inner.domain.sid) else { return Ok(None) };
            inner.read_checked(|connection| match sealed(connection, rid)? {
                Some(sealed) => {
                    let account = one(connection, ACCOUNT_BY_RID, [rid], |row| account(&inner.domain, row))?;
                    account.map(|account| seal.open_hash(&account, &sealed)).transpose()
                }
                None => Ok(None),
            })
        });
        Box::pin(std::future::ready(hash))
    }

    fn set_nt_hash(&self, sid: Sid, hash: Option<NtHash>) -> BoxFuture<'_, Result<(), StoreError>> {
        let inner = &self.inner;
        let written = inner.write(|transaction| {
            let rid = rules::rid_named(&inner.domain, &sid)?;
            let account = one(transaction, ACCOUNT_BY_RID, [rid], |row| account(&inner.domain, row))?;
            let account =
                account.ok_or_else(|| StoreError::Refused(format!("no account has the SID {sid}")))?;
            match hash {
                Some(hash) => put(transaction, inner.seal()?, rid, &account, &hash),
                None => run(transaction, "DELETE FROM nt_hash WHERE rid = ?1", [rid]),
            }
        });
        Box::pin(std::future::ready(written))
    }
}

fn sealed(connection: &Connection, rid: u32) -> Result<Option<Vec<u8>>, StoreError> {
    one(connection, "SELECT sealed FROM nt_hash WHERE rid = ?1", [rid], |row| row.get(0).map_err(failed))
}

fn put(
    connection: &Connection,
    seal: &Seal,
    rid: u32,
    account: &Account,
    hash: &NtHash,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO nt_hash (rid, sealed) VALUES (?1, ?2) ON CONFLICT (rid) DO UPDATE SET sealed = ?2";
    run(connection, sql, params![rid, seal.seal_hash(account, hash)?])
}

/// Seals the hash of an account that changes for what the account becomes.
pub(super) fn reseal(
    connection: &Connection,
    seal: Option<&Seal>,
    rid: u32,
    old: &Account,
    new: &Account,
) -> Result<(), StoreError> {
    let [before, after] =
        [old, new].map(|account| (account.sid, &account.name, account.flags, account.expires));
    if before == after {
        return Ok(());
    }
    let Some(sealed) = sealed(connection, rid)? else { return Ok(()) };
    let seal = seal.ok_or_else(no_key)?;
    put(connection, seal, rid, new, &seal.open_hash(old, &sealed)?)
}

/// Removes all hashes, which no key opens any more.
pub(super) fn forget(connection: &Connection) -> Result<(), StoreError> {
    run(connection, "DELETE FROM nt_hash", [])
}
