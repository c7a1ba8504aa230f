//! Tells the other servers that share the store of this one: `rcmpd replica status` shows them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use store_postgres::{PostgresStore, ReplicaFacts};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// How often the row is written. One that is three times as old is stale.
pub(crate) const EVERY: Duration = Duration::from_secs(5);
/// How long the end of the process waits for the row to be removed.
const WITHDRAW: Duration = Duration::from_secs(1);

/// Writes the row of this server until it ends, and removes it then.
pub(super) async fn announce(
    store: Arc<PostgresStore>,
    listeners: Vec<SocketAddr>,
    shutdown: CancellationToken,
) {
    let mut id = [0; 16];
    crate::random::fill(&mut id);
    let listeners: Vec<String> = listeners.iter().map(ToString::to_string).collect();
    let facts = ReplicaFacts {
        id,
        name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        listeners: listeners.join(" "),
    };
    let mut was_written = true;
    let announcing = async {
        loop {
            let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let clock = i64::try_from(clock.as_millis()).unwrap_or(i64::MAX);
            let written = store.announce(&facts, clock).await;
            match &written {
                Err(error) if was_written => warn!(%error, "Row of the table replica not written"),
                Err(error) => debug!(%error, "Row of the table replica not written"),
                Ok(()) => {}
            }
            was_written = written.is_ok();
            sleep(EVERY).await;
        }
    };
    shutdown.run_until_cancelled(announcing).await;
    let _ = timeout(WITHDRAW, store.withdraw(id)).await;
}
