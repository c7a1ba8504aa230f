//! The task that asks for the revision, at an interval and at each NOTIFY.

use crate::Inner;
use crate::connection::Connection;
use crate::identity::Identity;
use crate::numbers::Noted;
use account_store::StoreError;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

/// The least time between two polls: NOTIFY needs no permission, so any role of the database may send many.
const PAUSE: Duration = Duration::from_millis(10);

/// Runs until the store is dropped.
pub(crate) async fn poll(store: Weak<Inner>) {
    let mut connection = None;
    loop {
        let Some(inner) = store.upgrade() else { return };
        if let Err(error) = inner.in_time(poll_once(&inner, &mut connection)).await {
            connection = None;
            inner.seen.poll_failed(error);
        }
        let (every, notified) = (inner.settings.poll, Arc::clone(&inner.notified));
        drop(inner);
        sleep(PAUSE).await;
        let _ = timeout(every, notified.notified()).await;
    }
}

async fn poll_once(inner: &Inner, connection: &mut Option<Connection>) -> Result<(), StoreError> {
    let started = Instant::now();
    if connection.as_ref().is_none_or(Connection::is_closed) {
        *connection = Some(listen(inner).await?);
    }
    let Some(asked) = connection else { return Ok(()) };
    let found = Identity::read(asked).await?;
    // What was opened for the former store asks no more; a new connection is checked when it is opened.
    let numbers = inner.expected.check(&found).inspect_err(|_| inner.flush())?;
    if inner.seen.note(numbers) == Noted::Other {
        // An answer under way may have brought newer ones, or a server that was the primary answers.
        if !inner.seen.take_over(numbers, asked.opened) {
            return Err(StoreError::Unavailable("PostgreSQL has an older revision than was seen".to_owned()));
        }
        warn!(
            "PostgreSQL has another history: a back-up was restored, or a standby without the last changes promoted"
        );
        inner.flush();
    }
    inner.seen.polled(started);
    debug!(?numbers, "Polled");
    Ok(())
}

/// A connection for polls, on which NOTIFY arrives where the server has it. What was cached while there was
/// none does not count any more.
async fn listen(inner: &Inner) -> Result<Connection, StoreError> {
    let (connection, _) = inner.primary.connect().await?;
    let channel = inner.settings.schema.channel();
    if let Err(error) = connection.batch(&format!("LISTEN {channel}")).await {
        debug!(error = %StoreError::from(error), "LISTEN rejected: changes are found by polling only");
    }
    inner.seen.flush();
    Ok(connection)
}
