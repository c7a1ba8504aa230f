//! Opens the stores of `[[store.part]]` and `[store.compare]`, for look-ups only.

use super::{Accounts, check_domain, database, read_only};
use crate::config::{Config, StoreKind, StorePart};
use account_store::sqlite::SqliteStore;
use account_store::{DomainStore, Part, SeveralStore};
use anyhow::Context;
use std::sync::{Arc, Weak};
use std::time::Duration;
use store_postgres::PostgresStore;

/// How often [`SqliteStore::observe`] is called, as for the database with the machines.
const OBSERVED_EVERY: Duration = Duration::from_millis(10);

/// Opens all stores.
pub(super) async fn open(
    config: &Config,
    parts: &[StorePart],
    machines: &Arc<dyn DomainStore>,
) -> anyhow::Result<Accounts> {
    let (mut opened, mut caches) = (Vec::new(), Vec::new());
    for part in parts {
        let accounts = accounts_of(config, &part.section(), &part.kind, Some(machines)).await;
        let accounts = accounts.with_context(|| format!("cannot open {}", part.section()))?;
        caches.extend(accounts.cache.map(|cache| (part.name.clone(), cache)));
        opened.push(Part {
            name: part.name.clone(),
            store: accounts.store,
            suffixes: part.suffixes.clone(),
            issuers: part.issuers.clone(),
        });
    }
    Ok(Accounts::several(Arc::new(SeveralStore::new(config.domain.clone(), opened)?), caches))
}

/// Opens the accounts of a kind, for look-ups. If they are in the database with the machines, `machines` is
/// used and the database is not opened twice. `section` names the store.
pub(super) async fn accounts_of(
    config: &Config,
    section: &str,
    kind: &StoreKind,
    machines: Option<&Arc<dyn DomainStore>>,
) -> anyhow::Result<Accounts> {
    let is_of_machines = |path| config.store.as_ref().and_then(|store| store.machines.as_ref()) == Some(path);
    match (kind, machines) {
        (StoreKind::Sqlite(path), Some(machines)) if is_of_machines(path) => {
            Ok(Accounts::read_only(Arc::clone(machines) as _).traced("sqlite"))
        }
        (StoreKind::Sqlite(path), _) => {
            let context = || format!("cannot open the account store {}", path.display());
            let store = Arc::new(SqliteStore::open(path, None).with_context(context)?);
            check_domain(&path.display().to_string(), account_store::AccountStore::domain(&*store), config)?;
            tokio::spawn(observe(Arc::downgrade(&store)));
            Ok(Accounts::read_only(store).traced("sqlite"))
        }
        (StoreKind::Postgres(postgres), _) => {
            let place = database::place(postgres);
            let opened = PostgresStore::open(database::settings(postgres)?, None).await;
            let store = opened.with_context(|| format!("cannot open the account store in {place}"))?;
            check_domain(&place, account_store::AccountStore::domain(&store), config)?;
            Ok(Accounts::read_only(Arc::new(store)).traced("postgres").cached(postgres.cache))
        }
        (StoreKind::Ldap(directory), _) => {
            Ok(super::ldap::open(config, section, directory)?.traced("ldap").cached(directory.cache))
        }
        (StoreKind::Socket(socket), _) => {
            Ok(super::socket::open(config, socket)?.traced("socket").cached(socket.cache))
        }
        (kind, _) => read_only(config, kind).await,
    }
}

/// Notes what SQLite does to the files, for as long as the store is open.
async fn observe(store: Weak<SqliteStore>) {
    let mut interval = tokio::time::interval(OBSERVED_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let Some(store) = store.upgrade() else { return };
        // The next question reports the error.
        let _ = store.observe();
    }
}
