//! Accounts, groups and machines in one SQLite file: the embedded default.
//!
//! A reader may rely on this: what another process committed is seen by the next question; a commit is on the
//! disk when it returns; a process that is killed while it writes leaves the old state or the new one.
//! Readers never wait for writers. Look-ups run where they are called, each on a read-only connection from a
//! pool; the changes a service makes run on one thread; [`AccountAdmin::apply`](crate::AccountAdmin::apply)
//! blocks its caller.
//!
//! Restore a back-up under a running service with `sqlite3 FILE '.restore BACKUP'`: that is one more commit.
//! If a file is replaced, removed or overwritten instead, the store answers no more question until it is
//! opened again.

mod admin;
mod contents;
mod look_up;
mod machines;
mod maintenance;
#[cfg(feature = "redemption")]
mod redemption;
mod rows;
mod schema;
mod serving;
#[cfg(any(feature = "redemption", feature = "tokens"))]
mod shared_file;
mod tables;
#[cfg(feature = "tokens")]
mod tokens;
mod user_secrets;
mod watch;
mod worker;

pub use crate::sealing::SealingKey;
#[cfg(feature = "redemption")]
pub use redemption::SqliteRedemption;
pub use serving::Serving;
#[cfg(feature = "tokens")]
pub use tokens::{MESSAGES_MAX, SqliteTokens, TOKENS_MAX, TokenHash};

use crate::file_access::{FileAccess, beside_database, database_files};
use crate::machines::MachineRecord;
use crate::sealing::Seal;
use crate::store::{Domain, Matches, Query, Revision, StoreError};
use look_up::{GroupNames, Weigh};
use quick_cache::sync::Cache;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use watch::{Held, Watch};

/// How long a look-up waits for the rare moments in which readers are locked out (recovery after a crash).
const READ_BUSY_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a change waits for the changes of other processes. An import of a million accounts takes longer.
const WRITE_BUSY_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });
/// Page cache of a reading connection in KiB; it fills as pages are read.
const READ_CACHE_KIB: i32 = 16 << 10;
/// Page cache of the writing connection in KiB: an import is sorted in it.
const WRITE_CACHE_KIB: i32 = 256 << 10;
/// The log is cut to this length when it begins anew.
const LOG_LEN_MAX: u32 = 64 << 20;
/// Readers kept open; more are opened and closed again when more threads ask at once.
const IDLE_READERS_MAX: usize = 64;
/// Size of the cache of answers, in bytes as [`Weigh`] counts them.
const CACHE_WEIGHT: u64 = 32 << 20;
/// Machines cached. A peer that asks for names at random replaces them; it makes nothing grow.
const MACHINES_CACHED_MAX: usize = 4096;

/// Accounts, groups and machines of one domain, in a file.
pub struct SqliteStore {
    inner: Arc<Inner>,
    worker: worker::Worker,
}

struct Inner {
    path: PathBuf,
    domain: Domain,
    seal: Option<Seal>,
    readers: Mutex<Vec<Connection>>,
    // INVARIANT: it closes after the readers. The last connection to close empties the log into the file,
    // which only this one can.
    writer: Mutex<Connection>,
    // INVARIANT: after the connections; see `Held`.
    watch: Watch,
    answers: Cache<Query, (Revision, Matches), Weigh>,
    group_names: RwLock<GroupNames>,
    machines: Cache<String, (Revision, Option<Arc<MachineRecord>>)>,
}

impl SqliteStore {
    /// Makes a file for the accounts of `domain`, readable by its owner only. A file that exists is never
    /// touched: [`StoreError::Refused`].
    pub fn create(path: &Path, domain: &Domain) -> Result<(), StoreError> {
        schema::create(path, domain)
    }

    /// Opens a file that not every user may change, brought to the present version if it is older. Machines
    /// need the key their secrets are sealed under ([`StoreError::OtherKey`] for another one); without a key,
    /// questions about them are [`StoreError::Unavailable`].
    pub fn open(path: &Path, key: Option<&SealingKey>) -> Result<Self, StoreError> {
        for file in database_files(path) {
            FileAccess::ReadByAll
                .check_path(&file)
                .map_err(|error| StoreError::Unavailable(format!("{} {error}", file.display())))?;
        }
        serving::check_log(path)?;
        let log = beside_database(path, "-wal");
        let has_log = log.metadata().is_ok_and(|log| log.len() > 0);
        Self::open_files(path, key).map_err(|error| match error {
            StoreError::Damaged(why) if has_log => StoreError::Damaged(format!(
                "{why}: if a copy was put in the place of {0} by hand, {0}-wal belongs to the file that was there before: move \
                 {0}-wal and {0}-shm away, which undoes the changes that are in {0}-wal only, and put the copy there again",
                path.display(),
            )),
            error => error,
        })
    }

    fn open_files(path: &Path, key: Option<&SealingKey>) -> Result<Self, StoreError> {
        let held = Held::new(path)?;
        let mut writer = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, WRITE_BUSY_TIMEOUT)?;
        let domain = schema::prepare(path, &mut writer)?;
        let seal = key.map(|key| schema::seal(key, &writer)).transpose()?;
        let reader = read_connection(path)?;
        let watch = Watch::open(held, path, &writer)?;
        let inner = Inner {
            path: path.to_owned(),
            domain,
            seal,
            readers: Mutex::new(vec![reader]),
            writer: Mutex::new(writer),
            watch,
            answers: Cache::with_weighter(1 << 14, CACHE_WEIGHT, Weigh),
            group_names: RwLock::default(),
            machines: Cache::new(MACHINES_CACHED_MAX),
        };
        Ok(Self { inner: Arc::new(inner), worker: worker::Worker::default() })
    }

    /// Whether questions can be answered: the files are those that were opened, by name and by contents.
    /// Questions look at less of it, each time; this is for a check at intervals.
    pub fn check(&self) -> Result<(), StoreError> {
        let inner = &self.inner;
        inner.watch.check_names()?;
        inner.revisions()?;
        if inner.watch.is_checkpoint_unfinished() {
            // Until one is finished, other writes to the database file cannot be distinguished from those of
            // the checkpoint.
            let writer = lock(&inner.writer);
            writer.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).map_err(failed)?;
            inner.watch.observe()?;
        }
        Ok(())
    }

    /// Looks at the files without a question. A service does so often: the shorter the time between two
    /// looks, the less can happen to the files that cannot be distinguished from the work of SQLite.
    pub fn observe(&self) -> Result<(), StoreError> {
        self.inner.watch.observe()
    }

    /// How often another program than SQLite changed the times of the database file, and nothing else of it.
    pub fn touched(&self) -> u64 {
        self.inner.watch.touched()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.watch.may_checkpoint() {
            // What was put in the place of the database file must not get our log.
            let _ = lock(&self.writer).set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
    }
}

impl Inner {
    fn expected(&self) -> schema::Expected<'_> {
        schema::Expected { path: &self.path, domain: &self.domain, seal: self.seal.as_ref() }
    }

    /// Reads with several statements at one moment.
    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.with_reader(|connection| {
            execute(connection, "BEGIN")?;
            let value = work(connection)?;
            execute(connection, "COMMIT")?;
            Ok(value)
        })
    }

    /// Reads with one statement, or with several that need not agree.
    fn with_reader<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let idle = lock(&self.readers).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => {
                let opened = read_connection(&self.path)?;
                // It was opened by name, so the names have to be those of the store's files still.
                self.watch.check_names()?;
                opened
            }
        };
        // A connection on which something failed is closed instead of kept: it may hold the moment it began
        // at.
        let value = work(&connection)?;
        let mut readers = lock(&self.readers);
        if readers.len() < IDLE_READERS_MAX {
            readers.push(connection);
        }
        Ok(value)
    }

    /// Writes whole or not at all.
    fn write<T>(
        &self,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.revisions()?;
        let mut writer = lock(&self.writer);
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        // Nothing else can be restored into the file until this ends, but it may have been a moment ago.
        if self.expected().counters(&transaction)?.is_none() {
            return Err(StoreError::Unavailable(format!(
                "{}: the contents were restored meanwhile",
                self.path.display()
            )));
        }
        let value = work(&transaction)?;
        self.watch.check_now()?;
        transaction.commit().map_err(failed)?;
        let _ = self.watch.observe();
        Ok(value)
    }
}

/// What a poisoned lock holds is whole: connections are only kept after they were used.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn execute(connection: &Connection, sql: &str) -> Result<(), StoreError> {
    connection.prepare_cached(sql).and_then(|mut statement| statement.execute([])).map(drop).map_err(failed)
}

fn connect(path: &Path, mode: OpenFlags, busy: Duration) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|error| StoreError::Unavailable(format!("{}: {error}", path.display())))?;
    connection.busy_timeout(busy).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(64);
    // Without this a statement with a bound limit is planned anew each time, for some 20 µs.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(failed)?;
    // The file may come from elsewhere: its schema runs nothing of ours, and its cells are checked.
    connection.pragma_update(None, "trusted_schema", false).map_err(failed)?;
    connection.pragma_update(None, "cell_size_check", true).map_err(failed)?;
    Ok(connection)
}

fn read_connection(path: &Path) -> Result<Connection, StoreError> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY, READ_BUSY_TIMEOUT)?;
    connection.pragma_update(None, "cache_size", -READ_CACHE_KIB).map_err(failed)?;
    Ok(connection)
}

/// Which kind of trouble an error of SQLite is. None of them is an absence.
fn failed(error: rusqlite::Error) -> StoreError {
    use rusqlite::Error::{
        FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, QueryReturnedNoRows,
        SqliteFailure, Utf8Error,
    };
    let is_damage = match &error {
        SqliteFailure(failure, _) => matches!(
            failure.code,
            ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::ConstraintViolation
                // A table or a column that is missing.
                | ErrorCode::Unknown
        ),
        FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) => true,
        QueryReturnedNoRows | Utf8Error(..) => true,
        _ => false,
    };
    match is_damage {
        true => StoreError::Damaged(error.to_string()),
        false => StoreError::Unavailable(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
