//! Reads the revision: a task at an interval and at each NOTIFY, and calls that need a new one.

use crate::Inner;
use crate::connection::{Checked, Connection};
use crate::counters::Counters;
use crate::failure::Failure;
use crate::identity::{IDENTITY, Identity, REVISION_ROW, revision_row_of};
use crate::revision::Noted;
use account_store::StoreError;
use account_store::columns::damaged;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::MutexGuard;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, trace, warn};

/// The least time between two polls: NOTIFY needs no permission, so any role of the database may send many.
const PAUSE: Duration = Duration::from_millis(10);

/// Runs until the store is dropped.
pub(crate) async fn poll(store: Weak<Inner>) {
    let mut connection = None;
    loop {
        let Some(inner) = store.upgrade() else { return };
        let started = Instant::now();
        if let Err(error) = inner.in_time(poll_once(&inner, started, &mut connection)).await {
            connection = None;
            inner.seen.poll_failed(started, error);
        }
        let (every, notified) = (inner.settings.poll, Arc::clone(&inner.notified));
        drop(inner);
        sleep(PAUSE).await;
        let _ = timeout(every, notified.notified()).await;
    }
}

impl Inner {
    /// Waits until the revision is as new as [`crate::Settings::fresh`] says.
    ///
    /// A call waits for a read that begins after the call arrived. One of those that wait reads, and all that
    /// arrive meanwhile wait for the next read. So there is one question to the database at a time, whatever
    /// there is to do.
    pub(crate) async fn refresh(&self) -> Result<(), StoreError> {
        let Some(fresh) = self.settings.fresh else { return Ok(()) };
        let arrived = Instant::now();
        let since = arrived.checked_sub(fresh).unwrap_or(arrived);
        if let Some(known) = self.seen.since(since, arrived) {
            return known;
        }
        self.in_time(async {
            let mut has_read = self.has_read.subscribe();
            loop {
                if let Some(known) = self.seen.since(since, arrived) {
                    return known;
                }
                match self.reading.try_lock() {
                    Ok(connection) => Turn { connection, told: Told(self) }.read().await,
                    // The sender lives as long as this store.
                    Err(_) => drop(has_read.changed().await),
                }
            }
        })
        .await
    }

    /// Notes what was read by a question that began at a moment, over a connection that was opened at another.
    fn read(&self, started: Instant, opened: Instant, found: &Identity) -> Result<(), StoreError> {
        // What was opened for the former store asks no more; a new connection is checked when it is opened.
        let revision_row = self.expected.check(found).inspect_err(|_| self.flush())?;
        if self.seen.note(revision_row) == Noted::Other {
            // An answer under way may have brought newer ones, or a server that was the primary answers.
            if !self.seen.take_over(revision_row, opened) {
                let why = "PostgreSQL has an older revision than was seen".to_owned();
                return Err(StoreError::Unavailable(why));
            }
            warn!(
                "PostgreSQL has another history: a back-up was restored, or a standby without the last changes promoted"
            );
            self.flush();
        }
        self.polled(started);
        Ok(())
    }

    fn polled(&self, started: Instant) {
        self.seen.polled(started);
        Counters::count(&self.counters.polls);
        trace!("Polled");
    }
}

async fn poll_once(
    inner: &Inner,
    started: Instant,
    connection: &mut Option<Connection>,
) -> Result<(), StoreError> {
    let is_usable = |it: &Connection| !it.is_closed() && !inner.expected.timeline.is_past(it);
    if !connection.as_ref().is_some_and(is_usable) {
        *connection = Some(listen(inner).await?);
    }
    let Some(asked) = connection else { return Ok(()) };
    let found = Identity::read_often(asked).await?;
    inner.read(started, asked.opened, &found)
}

/// The turn of a call to read the revision for all that wait. Its fields are dropped in this order, so those
/// that are told find no turn taken. This is also so when the call ends meanwhile: another one reads then.
struct Turn<'a> {
    connection: MutexGuard<'a, Option<Checked>>,
    told: Told<'a>,
}

/// Tells the calls that wait, when it is dropped.
struct Told<'a>(&'a Inner);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.has_read.send_replace(());
    }
}

impl Turn<'_> {
    async fn read(mut self) {
        let (started, inner) = (Instant::now(), self.told.0);
        if let Err(error) = self.ask(started, inner).await {
            *self.connection = None;
            inner.seen.poll_failed(started, error);
        }
    }

    async fn ask(&mut self, started: Instant, inner: &Inner) -> Result<(), StoreError> {
        let is_usable = |it: &Checked| {
            !inner.expected.timeline.is_past(&it.connection) && it.may_be_asked(inner.settings.timeout / 2)
        };
        let mut is_new = false;
        loop {
            if !self.connection.as_ref().is_some_and(is_usable) {
                is_new = true;
                let (connection, _) = inner.primary.connect().await?;
                *self.connection = Checked::of(connection).await;
            }
            let Some(checked) = &mut *self.connection else { return Err(Failure::ended().into()) };
            match read_by(checked, started, inner).await {
                Err(Failure::Ended(_)) if !is_new => {
                    Counters::count(&inner.counters.repeated);
                    *self.connection = None;
                }
                read => return Ok(read?),
            }
        }
    }
}

/// Reads the row of the revision, and the rest if it is not the known one, or if the last read failed.
async fn read_by(checked: &mut Checked, started: Instant, inner: &Inner) -> Result<(), Failure> {
    let rows = checked.query(REVISION_ROW).await?;
    let revision_row = revision_row_of(rows.first().ok_or_else(|| damaged("the revision"))?)?;
    if revision_row == inner.seen.revision_row() && !inner.seen.has_failed() {
        inner.polled(started);
        return Ok(());
    }
    let found = Identity::of(&checked.query(IDENTITY).await?)?;
    Ok(inner.read(started, checked.connection.opened, &found)?)
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
