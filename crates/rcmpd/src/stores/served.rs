//! A database while a service has it open.

use account_store::StoreError;
use account_store::sqlite::{Serving, SqliteStore};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use store_postgres::{Counters, PostgresStore};
use tracing::warn;

/// A served database: whether it can be used.
pub struct ServedDatabase(Kind);

enum Kind {
    File(Box<ServedFile>),
    Server(Arc<PostgresStore>),
}

impl ServedDatabase {
    /// Writes the note beside the file.
    pub(super) fn of_file(store: Arc<SqliteStore>) -> Self {
        Self(Kind::File(Box::new(ServedFile::new(store))))
    }

    pub(super) const fn of_server(store: Arc<PostgresStore>) -> Self {
        Self(Kind::Server(store))
    }

    /// What is looked at often. A server is polled by its store.
    pub fn observe(&self) -> Result<(), StoreError> {
        match &self.0 {
            Kind::File(file) => file.observe(),
            Kind::Server(_) => Ok(()),
        }
    }

    /// Whether queries can be answered. Blocks for the disk where a restored back-up has to be read.
    pub fn check(&self) -> Result<(), StoreError> {
        match &self.0 {
            Kind::File(file) => file.check(),
            Kind::Server(store) => store.check(),
        }
    }

    /// What the store of a server counts.
    pub fn counters(&self) -> Option<Arc<Counters>> {
        match &self.0 {
            Kind::File(_) => None,
            Kind::Server(store) => Some(store.counters()),
        }
    }
}

/// A served database file: whether its files can be used, and the note beside them that a process serves
/// them.
struct ServedFile {
    store: Arc<SqliteStore>,
    note: Option<Mutex<Serving>>,
    was_usable: AtomicBool,
    touched: AtomicU64,
}

impl ServedFile {
    /// Writes the note.
    fn new(store: Arc<SqliteStore>) -> Self {
        let note = store.announce();
        if let Err(error) = &note {
            warn!(%error, "Cannot write the note beside the database file: commands cannot warn that the database is served");
        }
        let note = note.ok();
        if note.as_ref().is_some_and(|note| !note.is_locked()) {
            warn!("Another program holds a lock on the note beside the database file");
        }
        let (note, was_usable) = (note.map(Mutex::new), AtomicBool::new(true));
        Self { store, note, was_usable, touched: AtomicU64::new(0) }
    }

    /// Notes what SQLite has done to the files, so that what another program does to them is distinguished
    /// from it. It costs three system calls: two for the files, one for the index.
    fn observe(&self) -> Result<(), StoreError> {
        self.store.observe()
    }

    /// Whether queries can be answered. Blocks for the disk where a restored back-up has to be read.
    fn check(&self) -> Result<(), StoreError> {
        let found = self.store.check();
        let was_usable = self.was_usable.swap(found.is_ok(), Ordering::AcqRel);
        if self.touched.swap(self.store.touched(), Ordering::AcqRel) != self.store.touched() {
            warn!(
                "A program other than SQLite changed the timestamps of the database file; its contents are unchanged"
            );
        }
        if let (Some(note), false) = (&self.note, found.is_ok() && was_usable) {
            note.lock().unwrap_or_else(PoisonError::into_inner).update(&self.store);
        }
        found
    }
}
