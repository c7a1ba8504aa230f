//! Whether the stores can be used, looked at also without queries.

use crate::deciders::CurrentPolicy;
use crate::stores::ServedDatabase;
use account_store::{CachedStore, SeveralStore, StoreError};
use dcerpc_tokio::{NO_LABELS, encode_family};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store_postgres::Counters;
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
    /// The names of those of several stores that could not be used at the last look.
    unusable: Mutex<BTreeSet<String>>,
}

impl StoreHealth {
    /// Of the database with the machines, and of the accounts of a policy.
    pub(super) fn new(database: ServedDatabase, policy: Option<CurrentPolicy>) -> Self {
        Self(Arc::new(Inner {
            database,
            policy,
            is_usable: AtomicBool::new(true),
            unusable: Mutex::default(),
        }))
    }

    /// Whether they can be used now. Looks at the files, and waits for the disk where a restored back-up has
    /// to be read.
    pub(super) async fn is_usable(&self) -> bool {
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || inner.look()).await.unwrap_or(false)
    }

    /// The memory of the caches in front of the accounts.
    pub(super) fn cache_bytes(&self) -> u64 {
        self.0.caches().iter().map(|(_, cache)| cache.bytes()).sum()
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
        let help = "1 while the account store can be used, 0 if its file was replaced, removed or cannot be read, or its server or directory does not answer";
        let usable = ConstGauge::new(u32::from(self.was_usable()));
        encode_family(&mut encoder, ("store_usable", help, None), [(NO_LABELS, usable)])?;
        if let Some(counters) = self.0.database.counters() {
            encode_server(&mut encoder, &counters)?;
        }
        encode_caches(&mut encoder, &self.0.caches())?;
        self.0.encode_parts(&mut encoder)?;
        crate::stores::encode_compared(&mut encoder)?;
        crate::stores::encode_ldap(&mut encoder)?;
        crate::stores::encode_socket(&mut encoder)
    }
}

/// What a store on a server counts.
fn encode_server(encoder: &mut DescriptorEncoder<'_>, counters: &Counters) -> fmt::Result {
    let Counters {
        asked_primary,
        asked_replica,
        lagging,
        repeated,
        timeouts,
        connects,
        polls,
        connect_failures,
    } = counters;
    let help = "Questions to the database of the accounts: answered by the primary or a replica, not used because the replica lags, \
                asked once more because the connection had ended, ended by the timeout, or polls of the revision";
    let questions = [
        ("primary", asked_primary),
        ("replica", asked_replica),
        ("lagging", lagging),
        ("repeated", repeated),
        ("timeout", timeouts),
        ("revision", polls),
    ];
    encode_family(encoder, ("store_questions", help, None), questions.map(counted))?;
    let help = "Connections to the database of the accounts that were opened, or could not be";
    let connections = [("opened", connects), ("failed", connect_failures)];
    encode_family(encoder, ("store_connects", help, None), connections.map(counted))
}

/// A cache, and the name of its store if there are several.
type Named = (Option<String>, Arc<CachedStore>);
type Labels = Vec<(&'static str, String)>;

/// What the caches in front of stores count.
fn encode_caches(encoder: &mut DescriptorEncoder<'_>, caches: &[Named]) -> fmt::Result {
    if caches.is_empty() {
        return Ok(());
    }
    let store = |name: &Option<String>| name.iter().map(|name| ("store", name.clone())).collect::<Labels>();
    let help = "Look-ups of accounts by how the cache answered: from memory, from memory that there is no such account, by asking the \
                store, with the answer to an equal look-up, or with an older answer because the store could not answer";
    let lookups = caches.iter().flat_map(|(name, cache)| {
        let counters = cache.counters();
        let outcomes = [
            ("hit", &counters.hits),
            ("absent", &counters.absent_hits),
            ("miss", &counters.misses),
            ("joined", &counters.joined),
            ("stale", &counters.stale),
        ];
        outcomes.map(|(outcome, count)| {
            let labels = [store(name), vec![("outcome", outcome.to_owned())]].concat();
            (labels, ConstCounter::new(count.load(Ordering::Relaxed)))
        })
    });
    encode_family(encoder, ("store_lookups", help, None), lookups)?;
    let help = "Memory of the cache of accounts";
    let bytes = caches.iter().map(|(name, cache)| (store(name), ConstGauge::new(cache.bytes())));
    encode_family(encoder, ("store_cache", help, Some(Unit::Bytes)), bytes)
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

fn counted((outcome, counter): (&'static str, &AtomicU64)) -> (OutcomeLabels, ConstCounter<u64>) {
    (OutcomeLabels { outcome }, ConstCounter::new(counter.load(Ordering::Relaxed)))
}

impl Inner {
    /// The caches in front of the accounts.
    fn caches(&self) -> Vec<Named> {
        let Some(policy) = &self.policy else { return Vec::new() };
        let accounts = policy.0.load().accounts.clone();
        let of_parts = accounts.part_caches.into_iter().map(|(name, cache)| (Some(name), cache));
        accounts.cache.map(|cache| (None, cache)).into_iter().chain(of_parts).collect()
    }

    /// Those of several stores.
    fn parts(&self) -> Option<Arc<SeveralStore>> {
        self.policy.as_ref().and_then(|policy| policy.0.load().accounts.several.clone())
    }

    /// Looks at each of several stores. One that is down does not make the service unusable, as long as
    /// another one answers.
    fn look_at_parts(&self) {
        let Some(several) = self.parts() else { return };
        // Before the lock: a look may wait for the disk.
        let looks: Vec<_> = several.parts().iter().map(|part| (part, part.store.revision())).collect();
        let mut unusable = self.unusable.lock().unwrap_or_else(PoisonError::into_inner);
        for (part, found) in looks {
            let store = part.name.as_str();
            match found {
                Err(error) if unusable.insert(part.name.clone()) => {
                    error!(store, %error, "Account store unavailable: questions to it are errors");
                }
                Ok(_) if unusable.remove(store) => info!(store, "Account store available again"),
                _ => {}
            }
        }
    }

    fn encode_parts(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(several) = self.parts() else { return Ok(()) };
        let unusable = self.unusable.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let help = "1 while one of several account stores can be used, otherwise 0";
        let usable = several.parts().iter().map(|part| {
            let gauge = ConstGauge::new(u32::from(!unusable.contains(&part.name)));
            ([("store", part.name.clone())], gauge)
        });
        encode_family(encoder, ("store_part_usable", help, None), usable)
    }

    fn look(&self) -> bool {
        self.look_at_parts();
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
