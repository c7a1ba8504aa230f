//! The task that asks for the revision: at an interval, at each NOTIFY, and for calls that need a new one.

use crate::Inner;
use crate::connection::Connection;
use crate::counters::Counters;
use crate::identity::Identity;
use crate::moment::Moment;
use crate::revision::{Noted, RevisionRow};
use account_store::StoreError;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// The least time between two polls: NOTIFY needs no permission, so any role of the database may send many.
const PAUSE: Duration = Duration::from_millis(10);

/// Runs until the store is dropped.
pub(crate) async fn poll(store: Weak<Inner>) {
    let mut connection = None;
    loop {
        let Some(inner) = store.upgrade() else { return };
        let started = Moment::now();
        inner.seen.poll_begun(started);
        let polled = inner.in_time(poll_once(&inner, started, &mut connection)).await;
        let has_failed = polled.is_err();
        if let Err(error) = polled {
            connection = None;
            inner.seen.poll_failed(started, error);
        }
        inner.polled.send_replace(());
        let (every, notified) = (inner.settings.poll, Arc::clone(&inner.notified));
        let wanted = Arc::clone(&inner.wanted);
        drop(inner);
        if has_failed {
            sleep(PAUSE).await;
        }
        tokio::select! {
            () = wanted.notified() => {}
            () = async {
                sleep(PAUSE).await;
                let _ = timeout(every, notified.notified()).await;
            } => {}
        }
    }
}

impl Inner {
    /// Waits until the revision is as new as [`crate::Settings::fresh`] says.
    ///
    /// If the last answered poll began too long before the call arrived, the call waits for one that did not.
    /// There is one question to the database at a time, whatever there is to do. After half of the time, a call asks for the next poll and does not
    /// wait for it: while calls arrive, most find a revision that is new enough.
    pub(crate) async fn refresh(&self) -> Result<(), StoreError> {
        let Some(fresh) = self.settings.fresh else { return Ok(()) };
        let arrived = Moment::now();
        let since = arrived.before(fresh);
        if let Some(known) = self.seen.since(since, arrived) {
            if self.seen.is_due(arrived.before(fresh / 2)) {
                self.wanted.notify_one();
            }
            return known;
        }
        self.in_time(async {
            let mut polled = self.polled.subscribe();
            self.wanted.notify_one();
            loop {
                // The sender lives as long as this store.
                let _ = polled.changed().await;
                if let Some(known) = self.seen.since(since, arrived) {
                    return known;
                }
            }
        })
        .await
    }
}

async fn poll_once(
    inner: &Inner,
    started: Moment,
    connection: &mut Option<Connection>,
) -> Result<(), StoreError> {
    let is_usable = |it: &Connection| !it.is_closed() && !inner.expected.timeline.is_past(it);
    if !connection.as_ref().is_some_and(is_usable) {
        *connection = Some(listen(inner).await?);
    }
    let Some(asked) = connection else { return Ok(()) };
    let known = inner.seen.revision_row();
    let mut revision_row = read(inner, asked).await?;
    let mut noted = inner.seen.note(revision_row);
    if noted == Noted::Other && inner.seen.revision_row() != known {
        // An answer under way has brought a newer row.
        revision_row = read(inner, asked).await?;
        noted = inner.seen.note(revision_row);
    }
    if noted == Noted::Other {
        // A server that was the primary may answer.
        if !inner.seen.take_over(revision_row, asked.opened) {
            return Err(StoreError::Unavailable("PostgreSQL has an older revision than was seen".to_owned()));
        }
        warn!(
            "PostgreSQL has another history: a back-up was restored, or a standby without the last changes promoted"
        );
        inner.flush();
    }
    inner.seen.polled(started);
    Counters::count(&inner.counters.polls);
    debug!(?revision_row, "Polled");
    Ok(())
}

async fn read(inner: &Inner, asked: &mut Connection) -> Result<RevisionRow, StoreError> {
    let found = Identity::read_often(asked).await?;
    // What was opened for the former store asks no more; a new connection is checked when it is opened.
    inner.expected.check(&found).inspect_err(|_| inner.flush())
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
