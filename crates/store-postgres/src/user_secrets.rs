//! NT hashes and password hashes of users, sealed, each kind in a table of its own: most accounts have none.

use crate::connection::Param;
use crate::rows::{self, columns, get};
use crate::tables::Tables;
use crate::{Inner, PostgresStore};
use account_store::sealing::{Seal, UserSecret, UserSecretKind, no_key};
use account_store::writer::Rows as _;
use account_store::{Account, BoxFuture, NtHash, NtHashes, PasswordHash, PasswordHashes, StoreError, rules};
use dtyp::Sid;
use tokio_postgres::types::Type;
use zeroize::Zeroizing;

impl NtHashes for PostgresStore {
    fn nt_hash<'a>(&'a self, sid: &'a Sid) -> BoxFuture<'a, Result<Option<NtHash>, StoreError>> {
        self.run(self.inner.user_secret(sid))
    }

    fn set_nt_hash(&self, sid: Sid, hash: Option<NtHash>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.write(move |tables| set(tables, &sid, hash))
    }
}

impl PasswordHashes for PostgresStore {
    fn password_hash<'a>(&'a self, sid: &'a Sid) -> BoxFuture<'a, Result<Option<PasswordHash>, StoreError>> {
        self.run(self.inner.user_secret(sid))
    }

    fn set_password_hash(
        &self,
        sid: Sid,
        hash: Option<PasswordHash>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        self.write(move |tables| {
            set(tables, &sid, hash)?;
            // No cache keeps what it made from the former hash.
            tables.accounts_changed();
            Ok(())
        })
    }
}

impl Inner {
    async fn user_secret<T: UserSecret>(&self, sid: &Sid) -> Result<Option<T>, StoreError> {
        let Some(rid) = sid.rid_in(&self.domain().sid) else { return Ok(None) };
        // One statement: the secret and its account are of one moment.
        let sql = format!(
            "SELECT {}, s.sealed FROM @.{} s JOIN @.account a ON a.rid = s.rid WHERE s.rid = $1",
            columns!("a."),
            T::KIND.table()
        );
        let params: [Param<'_>; 1] = [(&i64::from(rid), Type::INT8)];
        let found = self.all(&sql, &params, |row| {
            let account = rows::account(self.domain(), row, 0)?;
            T::from_plain(&self.seal()?.open_of_user(T::KIND, &account, get(row, 20)?)?)
        });
        Ok(found.await?.into_iter().next())
    }
}

fn set<T: UserSecret>(tables: &mut Tables<'_>, sid: &Sid, secret: Option<T>) -> Result<(), StoreError> {
    let rid = rules::rid_named(tables.domain(), sid)?;
    let account = (&mut *tables).account(rid)?;
    let account = account.ok_or_else(|| StoreError::Refused(format!("no account has the SID {sid}")))?;
    match secret {
        Some(secret) => {
            let seal = tables.transaction().inner.seal()?;
            put(tables, seal, (T::KIND, rid), &account, secret.to_plain())
        }
        None => {
            let sql = format!("DELETE FROM @.{} WHERE rid = $1", T::KIND.table());
            tables.execute(&sql, &[(&i64::from(rid), Type::INT8)]).map(drop)
        }
    }
}

fn put(
    tables: &mut Tables<'_>,
    seal: &Seal,
    (kind, rid): (UserSecretKind, u32),
    account: &Account,
    mut secret: Zeroizing<Vec<u8>>,
) -> Result<(), StoreError> {
    let sealed = seal.seal_of_user(kind, account, &mut secret)?;
    let sql = format!(
        "INSERT INTO @.{} (rid, sealed) VALUES ($1, $2) ON CONFLICT (rid) DO UPDATE SET sealed = excluded.sealed",
        kind.table()
    );
    let params: [Param<'_>; 2] = [(&i64::from(rid), Type::INT8), (&sealed, Type::BYTEA)];
    tables.execute(&sql, &params).map(drop)
}

/// Seals the secrets of an account that changes for what the account becomes.
pub(crate) fn reseal(
    tables: &mut Tables<'_>,
    rid: u32,
    old: &Account,
    new: &Account,
) -> Result<(), StoreError> {
    let [before, after] =
        [old, new].map(|account| (account.sid, &account.name, account.flags, account.expires));
    if before == after {
        return Ok(());
    }
    for kind in UserSecretKind::ALL {
        let sql = format!("SELECT sealed FROM @.{} WHERE rid = $1", kind.table());
        let rows = tables.query(&sql, &[(&i64::from(rid), Type::INT8)])?;
        let Some(row) = rows.first() else { continue };
        let seal = tables.transaction().inner.expected.seal.as_ref().ok_or_else(no_key)?;
        let opened = seal.open_of_user(kind, old, get(row, 0)?)?;
        put(tables, seal, (kind, rid), new, opened)?;
    }
    Ok(())
}
