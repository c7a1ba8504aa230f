//! NT hashes and password hashes of users, sealed, each kind in a table of its own: most accounts have none.

use super::rows::{ACCOUNT_BY_RID, account, all, one, run};
use super::{Inner, SqliteStore, failed};
use crate::account::Account;
use crate::machines::NtHash;
use crate::nt_hashes::NtHashes;
use crate::password_hashes::{PasswordHash, PasswordHashes};
use crate::rules;
use crate::sealing::{Seal, UserSecret, UserSecretKind, needs_reseal, no_key};
use crate::store::{BoxFuture, StoreError};
use dtyp::Sid;
use rusqlite::{Connection, params};
use zeroize::Zeroizing;

impl NtHashes for SqliteStore {
    fn nt_hash<'a>(&'a self, sid: &'a Sid) -> BoxFuture<'a, Result<Option<NtHash>, StoreError>> {
        Box::pin(std::future::ready(self.inner.user_secret(sid)))
    }

    fn set_nt_hash(&self, sid: Sid, hash: Option<NtHash>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(std::future::ready(self.inner.set_user_secret(&sid, hash)))
    }
}

impl PasswordHashes for SqliteStore {
    fn password_hash<'a>(&'a self, sid: &'a Sid) -> BoxFuture<'a, Result<Option<PasswordHash>, StoreError>> {
        Box::pin(std::future::ready(self.inner.user_secret(sid)))
    }

    fn set_password_hash(
        &self,
        sid: Sid,
        hash: Option<PasswordHash>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(std::future::ready(self.inner.set_user_secret(&sid, hash)))
    }
}

impl Inner {
    fn user_secret<T: UserSecret>(&self, sid: &Sid) -> Result<Option<T>, StoreError> {
        let Some(rid) = sid.rid_in(&self.domain.sid) else { return Ok(None) };
        self.read_checked(|connection| {
            // That there is none can be said without the key.
            let Some(sealed) = sealed(connection, T::KIND, rid)? else { return Ok(None) };
            let seal = self.seal()?;
            let account = one(connection, ACCOUNT_BY_RID, [rid], |row| account(&self.domain, row))?;
            account.map(|account| T::from_plain(&seal.open_of_user(T::KIND, &account, &sealed)?)).transpose()
        })
    }

    fn set_user_secret<T: UserSecret>(&self, sid: &Sid, secret: Option<T>) -> Result<(), StoreError> {
        self.write(|transaction| {
            let rid = rules::rid_named(&self.domain, sid)?;
            let account = one(transaction, ACCOUNT_BY_RID, [rid], |row| account(&self.domain, row))?;
            let account =
                account.ok_or_else(|| StoreError::Refused(format!("no account has the SID {sid}")))?;
            match secret {
                Some(secret) => put(transaction, self.seal()?, T::KIND, rid, &account, secret.to_plain()),
                None => {
                    let sql = format!("DELETE FROM {} WHERE rid = ?1", T::KIND.table());
                    run(transaction, &sql, [rid])
                }
            }
        })
    }
}

fn sealed(connection: &Connection, kind: UserSecretKind, rid: u32) -> Result<Option<Vec<u8>>, StoreError> {
    let sql = format!("SELECT sealed FROM {} WHERE rid = ?1", kind.table());
    one(connection, &sql, [rid], |row| row.get(0).map_err(failed))
}

fn put(
    connection: &Connection,
    seal: &Seal,
    kind: UserSecretKind,
    rid: u32,
    account: &Account,
    mut secret: Zeroizing<Vec<u8>>,
) -> Result<(), StoreError> {
    let sealed = seal.seal_of_user(kind, account, &mut secret)?;
    let sql = format!(
        "INSERT INTO {} (rid, sealed) VALUES (?1, ?2) ON CONFLICT (rid) DO UPDATE SET sealed = ?2",
        kind.table()
    );
    run(connection, &sql, params![rid, sealed])
}

/// Seals the secrets of an account that changes for what the account becomes.
pub(super) fn reseal(
    connection: &Connection,
    seal: Option<&Seal>,
    rid: u32,
    old: &Account,
    new: &Account,
) -> Result<(), StoreError> {
    if !needs_reseal(old, new) {
        return Ok(());
    }
    for kind in UserSecretKind::ALL {
        let Some(sealed) = sealed(connection, kind, rid)? else { continue };
        let seal = seal.ok_or_else(no_key)?;
        put(connection, seal, kind, rid, new, seal.open_of_user(kind, old, &sealed)?)?;
    }
    Ok(())
}

/// Removes all secrets of users, which no key opens any more. Returns whose they were.
pub(super) fn forget(connection: &Connection) -> Result<Vec<String>, StoreError> {
    let with_secret =
        UserSecretKind::ALL.map(|kind| format!("SELECT rid FROM {}", kind.table())).join(" UNION ");
    let sql = format!("SELECT name FROM account WHERE rid IN ({with_secret}) ORDER BY rid");
    let users = all(connection, &sql, [], |row| row.get(0).map_err(failed))?;
    for kind in UserSecretKind::ALL {
        run(connection, &format!("DELETE FROM {}", kind.table()), [])?;
    }
    Ok(users)
}
