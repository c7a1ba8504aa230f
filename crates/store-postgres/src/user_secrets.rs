//! NT hashes and password hashes of users, sealed, each kind in a table of its own: most accounts have none.

use crate::connection::Param;
use crate::rows::{self, columns, get};
use crate::tables::Tables;
use crate::{Inner, PostgresStore};
use account_store::sealing::UserSecret;
use account_store::writer::Rows as _;
use account_store::{BoxFuture, NtHash, NtHashes, PasswordHash, PasswordHashes, StoreError, rules};
use dtyp::Sid;
use tokio_postgres::types::Type;

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
            tables.put_user_secret(seal, (T::KIND, rid), &account, secret.to_plain())
        }
        None => {
            let sql = format!("DELETE FROM @.{} WHERE rid = $1", T::KIND.table());
            tables.execute(&sql, &[(&i64::from(rid), Type::INT8)]).map(drop)
        }
    }
}
