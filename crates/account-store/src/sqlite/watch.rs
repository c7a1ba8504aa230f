//! How a change by any process is noticed at the price of one small read.
//!
//! Each commit to a write-ahead log ends by writing the header of the index of the log, twice, into the file `-shm`
//! that all processes map (SQLite, *WAL-mode File Format*, 2.1): 48 bytes with a counter, the log's length, salts and
//! checksums. As long as these 96 bytes are the same, nothing was committed. A read of them costs a quarter of
//! `PRAGMA data_version`, which takes and drops a lock. What is read while a commit writes them is equal to nothing
//! that a finished commit leaves, so it only makes us ask SQLite.

use super::failed;
use crate::store::StoreError;
use rusqlite::Connection;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock};

/// The counters of the table `revision`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Revisions {
    /// Of the answers about accounts; every change to a group counts here too.
    pub(super) accounts: u64,
    /// Of the names and scopes of groups.
    pub(super) groups: u64,
    /// Of machines.
    pub(super) machines: u64,
}

impl Revisions {
    pub(super) fn read(connection: &Connection) -> Result<Self, StoreError> {
        let mut statement = connection
            .prepare_cached("SELECT accounts, groups, machines FROM revision WHERE id = 1")
            .map_err(failed)?;
        let row = statement.query_row([], |row| {
            Ok(Self { accounts: row.get(0)?, groups: row.get(1)?, machines: row.get(2)? })
        });
        row.map_err(failed)
    }
}

type Header = [u8; 96];

pub(super) struct Watch {
    index: &'static File,
    seen: RwLock<Option<(Header, Revisions)>>,
}

impl Watch {
    /// `connection` is open on `path` and stays so, or another one does.
    pub(super) fn open(path: &Path, connection: &Connection) -> Result<Self, StoreError> {
        Revisions::read(connection)?; // The first read makes the file.
        let mut index = path.as_os_str().to_owned();
        index.push("-shm");
        let index = Path::new(&index);
        let index = open_for_good(index)
            .map_err(|error| StoreError::Unavailable(format!("{}: {error}", index.display())))?;
        Ok(Self { index, seen: RwLock::new(None) })
    }

    /// The present counters; `read` reads them from the database, if need be.
    pub(super) fn revisions(
        &self,
        read: impl FnOnce() -> Result<Revisions, StoreError>,
    ) -> Result<Revisions, StoreError> {
        let mut header: Header = [0; 96];
        self.index
            .read_exact_at(&mut header, 0)
            .map_err(|error| StoreError::Unavailable(format!("index of the write-ahead log: {error}")))?;
        if let Some((seen, revisions)) = *self.seen.read().unwrap_or_else(PoisonError::into_inner)
            && seen == header
        {
            return Ok(revisions);
        }
        // The header was read first: if a commit comes in between, it belongs to older counters, and the next
        // question sees another header. Only a header whose copies agree stands for a finished commit.
        let revisions = read()?;
        if header[..48] == header[48..] {
            *self.seen.write().unwrap_or_else(PoisonError::into_inner) = Some((header, revisions));
        }
        Ok(revisions)
    }
}

/// Opens a file that is never closed again. POSIX takes *all* locks of a process on a file away when it closes any
/// descriptor of it, and SQLite's locks on this file are what keeps processes apart. One descriptor a file is kept.
fn open_for_good(path: &Path) -> std::io::Result<&'static File> {
    static OPEN: Mutex<Vec<&File>> = Mutex::new(Vec::new());
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = fs::metadata(path)?;
    for file in open.iter() {
        let known = file.metadata()?;
        if (known.dev(), known.ino()) == (wanted.dev(), wanted.ino()) {
            return Ok(file);
        }
    }
    let file = Box::leak(Box::new(File::open(path)?));
    open.push(file);
    Ok(file)
}
