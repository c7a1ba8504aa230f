//! The database with the machines, in a file or in PostgreSQL.

use super::passwords::Passwords;
use super::served::ServedDatabase;
use crate::config;
use account_store::sqlite::SqliteStore;
use account_store::{DomainStore, Forgotten, NtHashes, PasswordHashes, SealingKey, StoreError};
use anyhow::Context;
use dtyp::FileTime;
use std::sync::Arc;
use store_postgres::{PostgresStore, Settings};
use trust_tokio::certificates;

/// An open database.
#[derive(Clone)]
pub(super) enum Database {
    Sqlite(Arc<SqliteStore>),
    Postgres(Arc<PostgresStore>),
}

impl Database {
    pub(super) fn store(&self) -> Arc<dyn DomainStore> {
        match self {
            Self::Sqlite(store) => Arc::clone(store) as _,
            Self::Postgres(store) => Arc::clone(store) as _,
        }
    }

    /// The database on a server, if it is one.
    pub(super) fn server(&self) -> Option<Arc<PostgresStore>> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(store) => Some(Arc::clone(store)),
        }
    }

    pub(super) fn nt_hashes(&self) -> Arc<dyn NtHashes> {
        match self {
            Self::Sqlite(store) => Arc::clone(store) as _,
            Self::Postgres(store) => Arc::clone(store) as _,
        }
    }

    pub(super) fn password_hashes(&self) -> Arc<dyn PasswordHashes> {
        match self {
            Self::Sqlite(store) => Arc::clone(store) as _,
            Self::Postgres(store) => Arc::clone(store) as _,
        }
    }

    pub(super) fn passwords(&self) -> Passwords {
        Passwords::new(self.nt_hashes(), self.password_hashes())
    }

    pub(super) fn served(&self) -> ServedDatabase {
        match self {
            Self::Sqlite(store) => ServedDatabase::of_file(Arc::clone(store)),
            Self::Postgres(store) => ServedDatabase::of_server(Arc::clone(store)),
        }
    }

    pub(super) async fn forget_secrets(
        &self,
        key: &SealingKey,
        now: FileTime,
    ) -> Result<Forgotten, StoreError> {
        match self {
            Self::Sqlite(store) => store.forget_secrets(key, now),
            Self::Postgres(store) => store.forget_secrets(key, now).await,
        }
    }
}

/// What a configuration says about PostgreSQL, with the files that it names.
pub(super) fn settings(config: &config::Postgres) -> anyhow::Result<Settings> {
    let mut settings = Settings::new(config.servers.clone(), &config.database, &config.user);
    settings.replicas.clone_from(&config.replicas);
    settings.schema = config.schema.clone();
    settings.timeout = config.timeout;
    settings.poll = config.poll;
    settings.max_age = config.max_age;
    settings.fresh = config.fresh;
    settings.connections = config.connections;
    settings.prepare = config.prepare;
    settings.password = config.password.clone().map(|password| {
        let read = move || password.read().map_err(|error| error.to_string());
        Arc::new(read) as store_postgres::Password
    });
    if let Some(path) = &config.ca {
        let ca = certificates::read_trusted(path).context("cannot use store.postgres.ca")?;
        let tls = store_postgres::tls(ca.into_iter().map(Into::into));
        let context = || format!("cannot use store.postgres.ca, {}", path.display());
        settings.tls = Some(tls.with_context(context)?);
    }
    Ok(settings)
}

/// Where the database is, for messages.
pub(super) fn place(config: &config::Postgres) -> String {
    let servers: Vec<String> = config.servers.iter().map(ToString::to_string).collect();
    format!("the database {} on {}", config.database, servers.join(", "))
}
