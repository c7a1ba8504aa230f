//! Whether the stores can be used, looked at also without queries.

use crate::deciders::CurrentPolicy;
use crate::stores::ServedDatabase;
use account_store::StoreError;
use dcerpc_tokio::{NO_LABELS, encode_family};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tracing::{error, info};

/// How often the stores are looked at where no query does. Each query looks for itself, so this is for logs,
/// metrics and the note beside the database file only.
const INTERVAL: Duration = Duration::from_secs(1);

/// How often [`ServedDatabase::observe`] is called.
const OBSERVED_EVERY: Duration = Duration::from_millis(10);

/// The stores of a service, and whether they could be used at the last look.
#[derive(Clone)]
pub(super) struct StoreHealth(Arc<Inner>);

struct Inner {
    database: ServedDatabase,
    /// Has the accounts, which a reload replaces.
    policy: Option<CurrentPolicy>,
    is_usable: AtomicBool,
}

impl StoreHealth {
    /// Of the database with the machines, and of the accounts of a policy.
    pub(super) fn new(database: ServedDatabase, policy: Option<CurrentPolicy>) -> Self {
        Self(Arc::new(Inner { database, policy, is_usable: AtomicBool::new(true) }))
    }

    /// Whether they can be used now. Looks at the files, and waits for the disk where a restored back-up has
    /// to be read.
    pub(super) async fn is_usable(&self) -> bool {
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || inner.look()).await.unwrap_or(false)
    }

    /// Whether they could be used at the last look.
    pub(super) fn was_usable(&self) -> bool {
        self.0.is_usable.load(Ordering::Acquire)
    }

    /// Looks again and again.
    pub(super) async fn watch(self) {
        let every = |period| {
            let mut interval = tokio::time::interval(period);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            interval
        };
        let (mut looked_at, mut observed) = (every(INTERVAL), every(OBSERVED_EVERY));
        loop {
            tokio::select! {
                _ = looked_at.tick() => drop(self.is_usable().await),
                _ = observed.tick() => {
                    // The next look reports the error.
                    if self.0.database.observe().is_err() && self.was_usable() {
                        looked_at.reset_immediately();
                    }
                }
            }
        }
    }
}

impl fmt::Debug for StoreHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreHealth({})", self.was_usable())
    }
}

impl Collector for StoreHealth {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "1 while the account store can be used, 0 if its file was replaced, removed or cannot be read, or if the directory does not answer";
        let usable = ConstGauge::new(u32::from(self.was_usable()));
        encode_family(&mut encoder, ("store_usable", help, None), [(NO_LABELS, usable)])?;
        crate::stores::encode_ldap(&mut encoder)
    }
}

impl Inner {
    fn look(&self) -> bool {
        let database = self.database.check();
        // Where accounts are in the same database, this is the same again.
        let policy = self.policy.as_ref();
        let accounts = || policy.map_or(Ok(()), |policy| policy.0.load().accounts.store.revision().map(drop));
        let found: Result<(), StoreError> = database.and_then(|()| accounts());
        let was_usable = self.is_usable.swap(found.is_ok(), Ordering::AcqRel);
        match &found {
            Err(error) => {
                if was_usable {
                    error!(%error, "Account store unavailable: no certificate can be mapped");
                }
            }
            Ok(()) if !was_usable => info!("Account store available again"),
            Ok(()) => {}
        }
        found.is_ok()
    }
}
