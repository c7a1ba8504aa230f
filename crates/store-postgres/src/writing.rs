//! Changes: one transaction on the primary, on a thread that may wait.
//!
//! The row of `revision` is locked first, so that changes are made one after the other, and a revision is
//! never seen before an earlier one. Its new counters are written last.
//!
//! A change is not done before every server knows of it, or will read the revision before it answers:
//! [`CHANGE_WAIT`] after the commit.

use crate::tables::Tables;
use crate::transaction::{LOCK_TIMEOUT, Transaction};
use crate::{Inner, PostgresStore};
use account_store::{BoxFuture, StoreError};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// The highest [`crate::Settings::fresh`] with which a server never answers by what a finished change has
/// replaced.
pub const FRESH: Duration = Duration::from_millis(100);
/// A change is finished so long after its commit. It is longer than [`FRESH`], because the clocks of two
/// machines do not run equally fast.
pub const CHANGE_WAIT: Duration = Duration::from_millis(150);

impl PostgresStore {
    /// Changes whole or not at all. What was begun is done even if the future is dropped. Ends when no server
    /// can answer by the contents before, if its [`crate::Settings::fresh`] is [`FRESH`] or less. This is so
    /// also if nothing was changed: another process may have just made the same change.
    pub(crate) fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tables<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let inner = Arc::clone(&self.inner);
        let done = self.inner.runtime.spawn_blocking(move || {
            let (value, since) = inner.write(work)?;
            std::thread::sleep(CHANGE_WAIT.saturating_sub(since.elapsed()));
            Ok(value)
        });
        Box::pin(async move {
            done.await.unwrap_or_else(|_| {
                Err(StoreError::Unavailable("the thread that makes changes has ended".to_owned()))
            })
        })
    }
}

impl Inner {
    /// The moment after which the contents were not changed any more, too.
    fn write<T>(
        &self,
        work: impl FnOnce(&mut Tables<'_>) -> Result<T, StoreError>,
    ) -> Result<(T, Instant), StoreError> {
        let turn = self.runtime.block_on(async { timeout(LOCK_TIMEOUT, self.changing.lock()).await });
        let _turn = turn.map_err(|_| {
            let seconds = LOCK_TIMEOUT.as_secs();
            StoreError::Unavailable(format!(
                "PostgreSQL: timeout after {seconds} s: another change is being made"
            ))
        })?;
        // An idle connection may have ended without a trace: a change is not repeated, so it is asked first.
        let pooled = self.runtime.block_on(self.in_time(async {
            let pooled = self.primary.get().await?;
            match pooled.connection.batch("").await {
                Ok(()) => Ok(pooled),
                Err(_) => {
                    drop(pooled);
                    self.primary.get_new().await
                }
            }
        }))?;
        let transaction = Transaction { inner: self, connection: &pooled.connection };
        let before = transaction.begin()?;
        let locked = Instant::now();
        let mut tables = Tables::new(&transaction);
        let value = work(&mut tables)?;
        let changed = tables.finish()?;
        let revision_row = transaction.commit(before, changed)?;
        self.changed(revision_row);
        let since = if revision_row == before { locked } else { Instant::now() };
        if revision_row != before {
            transaction.notify();
        }
        pooled.keep();
        Ok((value, since))
    }
}
