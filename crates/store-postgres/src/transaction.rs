//! A transaction on the primary, asked from a thread that waits for each answer.

use crate::connection::Connection;
use crate::failure::Failure;
use crate::identity::{IDENTITY, Identity};
use crate::revision::RevisionRow;
use crate::{Inner, schema};
use account_store::StoreError;
use std::time::Duration;
use tokio::time::timeout;
use tokio_postgres::types::Type;

/// How long a change waits for those of other processes. An import takes longer.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// The limit of one statement of a change.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// What of the contents a change changed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Changed {
    pub(crate) accounts: bool,
    pub(crate) groups: bool,
    pub(crate) machines: bool,
}

/// A connection within a transaction, asked from a thread that waits for each answer.
pub(crate) struct Transaction<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) connection: &'a Connection,
}

impl Transaction<'_> {
    /// Waits for an answer.
    pub(crate) fn wait<T>(
        &self,
        limit: Duration,
        asked: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, StoreError> {
        let late = || StoreError::Unavailable(format!("PostgreSQL: timeout after {} s", limit.as_secs()));
        self.inner
            .runtime
            .block_on(async { timeout(limit, asked).await })
            .map_err(|_| late())?
            .map_err(Into::into)
    }

    /// Waits for the answer to a statement of a change.
    pub(crate) fn run<T>(&self, asked: impl Future<Output = Result<T, Failure>>) -> Result<T, StoreError> {
        self.wait(STATEMENT_TIMEOUT, asked)
    }

    /// Begins it, and waits for the lock.
    pub(crate) fn begin(&self) -> Result<RevisionRow, StoreError> {
        // A client that has gone without a trace must not hold the lock for ever.
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '{}s'; SET LOCAL idle_in_transaction_session_timeout = '{}s'",
            LOCK_TIMEOUT.as_secs(),
            STATEMENT_TIMEOUT.as_secs(),
        );
        self.run(self.connection.batch(&begin))?;
        let limit = LOCK_TIMEOUT + self.inner.settings.timeout;
        // A standby, or a server that was set to read-only, rejects FOR UPDATE.
        let lock = format!("{IDENTITY} FOR UPDATE OF r");
        let rows = self.wait(limit, self.connection.query(&lock, &[]))?;
        self.inner.expected.check(&Identity::of(&rows)?)
    }

    /// Writes the counters of what was changed, and commits.
    pub(crate) fn commit(&self, before: RevisionRow, changed: Changed) -> Result<RevisionRow, StoreError> {
        let next = |(number, epoch): (i64, i64), is_changed| match is_changed {
            true => Ok::<_, StoreError>((number + 1, schema::random()?)),
            false => Ok((number, epoch)),
        };
        let revision_row = RevisionRow {
            accounts: next(before.accounts, changed.accounts)?,
            groups: next(before.groups, changed.groups)?,
            machines: next(before.machines, changed.machines)?,
        };
        if revision_row != before {
            let sql = "UPDATE @.revision SET accounts = $1, accounts_epoch = $2, account_groups = $3, account_groups_epoch = $4,
                machines = $5, machines_epoch = $6 WHERE id = 1";
            let RevisionRow { accounts, groups, machines } = revision_row;
            let values = [accounts.0, accounts.1, groups.0, groups.1, machines.0, machines.1];
            self.run(self.connection.execute(sql, &values.each_ref().map(|value| (value as _, Type::INT8))))?;
        }
        let unknown =
            |error| StoreError::Unavailable(format!("it is not known whether the change was made: {error}"));
        self.run(self.connection.batch("COMMIT")).map_err(unknown)?;
        Ok(revision_row)
    }

    /// Tells the other processes. Where the server has no NOTIFY, they find out by polling.
    pub(crate) fn notify(&self) {
        let channel = self.inner.settings.schema.channel();
        let _ = self.run(self.connection.batch(&format!("NOTIFY {channel}")));
    }
}
