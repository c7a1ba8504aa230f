//! Whether the account store can be used, looked at also without questions.

use account_store::StoreError;
use account_store::sqlite::{Serving, SqliteStore};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing::{error, info, warn};

/// How often the files are looked at where no question does. Each question looks for itself, so this is for logs, metrics
/// and the note beside the file only.
const INTERVAL: Duration = Duration::from_secs(1);

/// How often it is noted what SQLite has done to the files, so that what another program does to them is told from it. It
/// costs three system calls: two for the files, one for the index.
const OBSERVED_EVERY: Duration = Duration::from_millis(10);

/// The store of a service, and whether it could be used at the last look.
#[derive(Clone)]
pub(super) struct StoreHealth(Arc<Inner>);

struct Inner {
    store: Arc<SqliteStore>,
    serving: Option<Mutex<Serving>>,
    is_usable: AtomicBool,
    touched: AtomicU64,
}

impl StoreHealth {
    /// Notes beside the file that it is served.
    pub(super) fn new(store: Arc<SqliteStore>) -> Self {
        let serving = store.announce();
        if let Err(error) = &serving {
            warn!(%error, "Cannot write the note beside the database file: commands cannot warn that the database is served");
        }
        let serving = serving.ok();
        if serving.as_ref().is_some_and(|serving| !serving.is_locked()) {
            warn!("Another program holds a lock on the note beside the database file");
        }
        let serving = serving.map(Mutex::new);
        Self(Arc::new(Inner { store, serving, is_usable: AtomicBool::new(true), touched: AtomicU64::new(0) }))
    }

    /// Whether it can be used now. Looks at the files, and waits for the disk where a restored back-up has to be read.
    pub(super) async fn is_usable(&self) -> bool {
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || inner.look()).await.unwrap_or(false)
    }

    /// Whether it could be used when it was last looked at.
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
                    if self.0.store.observe().is_err() && self.was_usable() {
                        looked_at.reset_immediately();
                    }
                }
            }
        }
    }
}

impl Inner {
    fn look(&self) -> bool {
        let found: Result<(), StoreError> = self.store.check();
        let was_usable = self.is_usable.swap(found.is_ok(), Ordering::AcqRel);
        if self.touched.swap(self.store.touched(), Ordering::AcqRel) != self.store.touched() {
            warn!(
                "A program other than SQLite changed the timestamps of the database file; its contents are unchanged"
            );
        }
        if let (Some(serving), false) = (&self.serving, found.is_ok() && was_usable) {
            serving.lock().unwrap_or_else(PoisonError::into_inner).update(&self.store);
        }
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
