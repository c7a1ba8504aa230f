//! Writes the row of this server into the table `replica`, which `rcmpd replica status` shows. Servers whose
//! rows are not stale share the rate limit of misses.

use rcmp_service::MissLimits;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use store_postgres::{PostgresStore, Replica, ReplicaFacts};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// How often the row is written. One that is three times as old is stale.
const EVERY: Duration = Duration::from_secs(5);
/// A server that has not written its row for so long is stale: it has ended, or cannot write.
const STALE_AFTER: Duration = EVERY.saturating_mul(3);
/// How long the end of the process waits for the row to be removed.
const WITHDRAW: Duration = Duration::from_secs(1);

/// Whether a server has ended, or cannot write.
pub(crate) fn is_stale(replica: &Replica) -> bool {
    replica.seen > STALE_AFTER
}

/// Writes the row of this server until it ends, and removes it then.
pub(super) async fn announce(
    store: Arc<PostgresStore>,
    listeners: Vec<SocketAddr>,
    misses: Arc<MissLimits>,
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
    let (mut was_written, mut servers) = (true, 1);
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
            // While it is not known who is there, the last number counts.
            if let Ok(found) = store.replicas().await {
                let now = found.replicas.iter().filter(|replica| !is_stale(replica)).count().max(1);
                if now != servers {
                    info!(servers = now, "Number of servers that share the store has changed");
                    servers = now;
                    misses.share(u32::try_from(servers).unwrap_or(u32::MAX));
                }
            }
            sleep(EVERY).await;
        }
    };
    shutdown.run_until_cancelled(announcing).await;
    let _ = timeout(WITHDRAW, store.withdraw(id)).await;
}
