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
use std::sync::{Arc, Mutex, PoisonError, RwLock};

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
    // INVARIANT: closed before `held` is let go.
    index: Arc<File>,
    seen: RwLock<Option<(Header, Revisions)>>,
    _held: Held,
}

impl Watch {
    /// `connection` is open on `path` and stays so, or another one does.
    pub(super) fn open(held: Held, path: &Path, connection: &Connection) -> Result<Self, StoreError> {
        Revisions::read(connection)?; // The first read makes the index.
        Ok(Self { index: held.index(path)?, seen: RwLock::new(None), _held: held })
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

/// A database file that this process has stores of, by device and inode.
///
/// When a process closes any descriptor of a file, POSIX takes *all* its locks on that file away, and SQLite's locks
/// on the index are what keeps processes apart. So a file has one descriptor of its index for all its stores here; it
/// is closed when the last store has closed its connections, and a store is counted before it opens any.
pub(super) struct Held(u64, u64);

struct Entry {
    key: (u64, u64),
    stores: usize,
    index: Option<Arc<File>>,
}

static HELD: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

impl Held {
    /// Before the first connection to `path`.
    pub(super) fn new(path: &Path) -> Result<Self, StoreError> {
        let mut held = super::lock(&HELD);
        let file = fs::metadata(path)
            .map_err(|error| StoreError::Unavailable(format!("{}: {error}", path.display())))?;
        let key = (file.dev(), file.ino());
        match held.iter_mut().find(|entry| entry.key == key) {
            Some(entry) => entry.stores += 1,
            None => held.push(Entry { key, stores: 1, index: None }),
        }
        Ok(Self(key.0, key.1))
    }

    fn index(&self, path: &Path) -> Result<Arc<File>, StoreError> {
        let mut held = super::lock(&HELD);
        let mut index = path.as_os_str().to_owned();
        index.push("-shm");
        let index = Path::new(&index);
        let failed = |error| StoreError::Unavailable(format!("{}: {error}", index.display()));
        // INVARIANT: the entry is there as long as anything holds it.
        let entry = held.iter_mut().find(|entry| entry.key == (self.0, self.1)).expect("it is held");
        let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let present = inode(fs::metadata(index).map_err(failed)?);
        if let Some(file) = &entry.index
            // Another store may have closed the last connection before the caller opened his, and so have deleted
            // this file; nobody has locks on it then.
            && inode(file.metadata().map_err(failed)?) == present
        {
            return Ok(file.clone());
        }
        let file = Arc::new(File::open(index).map_err(failed)?);
        entry.index = Some(file.clone());
        Ok(file)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = super::lock(&HELD);
        if let Some(at) = held.iter().position(|entry| entry.key == (self.0, self.1)) {
            held[at].stores -= 1;
            if held[at].stores == 0 {
                held.swap_remove(at);
            }
        }
    }
}
