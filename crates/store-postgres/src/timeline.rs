//! Timelines: a standby that is promoted begins a new one, with a higher number. A server that was the
//! primary before, and comes back, still takes changes on the old one. What is written there is lost.
//!
//! So no server is used whose timeline is lower than the highest one that this process has seen, and the
//! process looks for higher ones at all servers: when the store is opened, and then at an interval. A
//! database that has no timelines is used as it is.

use crate::Inner;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::settings::{Server, Settings};
use account_store::StoreError;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_postgres::error::SqlState;
use tracing::debug;

/// How often other servers are asked whether they are the primary.
const EVERY: Duration = Duration::from_secs(5);

/// The highest timeline that was seen; 0 if none was.
#[derive(Debug, Default)]
pub(crate) struct Timeline(AtomicU32);

impl Timeline {
    pub(crate) fn of(highest: u32) -> Self {
        Self(AtomicU32::new(highest))
    }

    /// Whether a connection leads to the primary of an older timeline.
    pub(crate) fn is_past(&self, connection: &Connection) -> bool {
        connection.timeline < self.0.load(Ordering::Relaxed)
    }

    /// Rejects a server whose timeline is not the highest. Whether the timeline is a new one.
    pub(crate) fn check(&self, server: &Server, timeline: u32) -> Result<bool, StoreError> {
        let before = self.0.fetch_max(timeline, Ordering::Relaxed);
        match timeline < before {
            true => Err(StoreError::Unavailable(format!(
                "{server} is rejected: it was the primary before a standby was promoted (its timeline is {timeline}, and {before} was seen): stop it, and make it a standby with pg_rewind or pg_basebackup"
            ))),
            false => Ok(before != 0 && timeline > before),
        }
    }
}

impl Connection {
    /// Reads the timeline of a primary: the first eight digits of the name of a WAL file. A database without
    /// timelines has the number 0.
    pub(crate) async fn read_timeline(&mut self) -> Result<(), Failure> {
        let sql = "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";
        self.timeline = match self.client.query_typed(sql, &[]).await {
            Ok(rows) => {
                let digits: Option<String> = rows.first().map(|row| row.try_get(0)).transpose()?;
                digits.and_then(|digits| u32::from_str_radix(&digits, 16).ok()).unwrap_or(0)
            }
            Err(error) if has_no_timelines(&error) => 0,
            Err(error) => return Err(error.into()),
        };
        Ok(())
    }
}

/// Whether a database of another kind says that it has no such function. Any other error may be that of a
/// former primary.
fn has_no_timelines(error: &tokio_postgres::Error) -> bool {
    let code = error.code();
    code == Some(&SqlState::UNDEFINED_FUNCTION) || code == Some(&SqlState::FEATURE_NOT_SUPPORTED)
}

/// The primary with the highest timeline, among all servers. Each is asked at the same time.
pub(crate) async fn find_primary(
    settings: &Arc<Settings>,
    notified: &Arc<Notify>,
) -> Result<Connection, StoreError> {
    let mut asked = JoinSet::new();
    for (at, server) in settings.servers.iter().cloned().enumerate() {
        let (settings, notified) = (Arc::clone(settings), Arc::clone(notified));
        asked.spawn(async move {
            let opened = timeout(settings.timeout, async {
                let mut connection = Connection::open(&settings, &server, &notified).await?;
                connection.check_primary(&server).await?;
                Ok::<_, StoreError>(connection)
            });
            (at, opened.await.unwrap_or_else(|_| Err(crate::late(&settings))))
        });
    }
    let mut found: Vec<_> = asked.join_all().await;
    found.sort_by_key(|(at, _)| *at);
    let mut failed = StoreError::Unavailable("no server is named".to_owned());
    let mut newest: Option<Connection> = None;
    for (_, opened) in found {
        match opened {
            Err(error) => failed = error,
            Ok(other) if newest.as_ref().is_none_or(|newest| other.timeline > newest.timeline) => {
                newest = Some(other)
            }
            Ok(_) => {}
        }
    }
    newest.ok_or(failed)
}

/// Looks for a primary with a higher timeline at the servers that are not in use, until the store is dropped.
pub(crate) async fn watch(store: Weak<Inner>) {
    loop {
        sleep(EVERY).await;
        let Some(inner) = store.upgrade() else { return };
        if let Err(error) = inner.primary.look_elsewhere().await {
            debug!(%error, "No other primary");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_highest_timeline_counts() {
        let server = Server::parse("db1.contoso.example").expect("it is a name");
        let timeline = Timeline::of(1);
        assert_eq!(timeline.check(&server, 1).ok(), Some(false));
        assert_eq!(timeline.check(&server, 3).ok(), Some(true), "a standby was promoted");
        assert_eq!(timeline.check(&server, 3).ok(), Some(false));
        let error = timeline.check(&server, 2).expect_err("it was the primary before").to_string();
        assert!(
            error.contains("db1.contoso.example") && error.contains("its timeline is 2, and 3"),
            "{error}"
        );
        assert!(timeline.check(&server, 0).is_err(), "all servers of a database have timelines, or none");
        // A database without timelines.
        assert_eq!(Timeline::of(0).check(&server, 0).ok(), Some(false));
        assert_eq!(Timeline::of(0).check(&server, 1).ok(), Some(false), "no timeline was seen before");
    }
}
