//! A note beside the database file: which file, and which log, a service has open under this name.
//!
//! The name of a file says nothing of what a process has open under it. With the note, a command knows that the service
//! reads another file than the one that it is about to change, and the next process that opens the file knows that the log
//! beside it belongs to another one. SQLite cannot know either, and would apply that log.
//!
//! The note (`FILE-serving`) is a line of five numbers: process, device and inode of the database file, device and inode of
//! the log. The process holds a shared lock (`flock`) on it, which ends with the process however that ends.

use super::SqliteStore;
use super::watch::{FileId, file_id};
use crate::file_access::{beside_database, database_files};
use crate::store::StoreError;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// That a process serves a store, for as long as this lives.
#[derive(Debug)]
pub struct Serving {
    note: File,
    path: PathBuf,
    is_kept: bool,
}

struct Note {
    process: u32,
    ids: [FileId; 2],
}

fn note_path(path: &Path) -> PathBuf {
    beside_database(path, "-serving")
}

impl Note {
    fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(note_path(path)).ok()?;
        let numbers: Option<Vec<u64>> = text.split_ascii_whitespace().map(|word| word.parse().ok()).collect();
        let [process, a, b, c, d] = numbers?.try_into().ok()?;
        Some(Self { process: process.try_into().ok()?, ids: [(a, b), (c, d)] })
    }

    fn write(&self, file: &File) -> std::io::Result<()> {
        let [(a, b), (c, d)] = self.ids;
        file.set_len(0)?;
        let text = format!("{} {a} {b} {c} {d}\n", self.process);
        std::os::unix::fs::FileExt::write_all_at(file, text.as_bytes(), 0)
    }
}

/// Refuses to open a file beside which the log of another one stands, because SQLite would apply that log to it.
pub(super) fn check_log(path: &Path) -> Result<(), StoreError> {
    let Some(note) = Note::read(path) else { return Ok(()) };
    let [_, log, index] = database_files(path);
    let is_in_use = fs::metadata(&log).is_ok_and(|log| log.len() > 0);
    let is_same = |path: &Path, id| file_id(path).is_ok_and(|present| present == id);
    if !is_in_use || !is_same(&log, note.ids[1]) || is_same(path, note.ids[0]) {
        return Ok(());
    }
    Err(StoreError::Unavailable(format!(
        "{} was replaced while process {} served it, and {} belongs to the file that was there before: stop the service, \
         move {} and {} away, and try again",
        path.display(),
        note.process,
        log.display(),
        log.display(),
        index.display(),
    )))
}

impl SqliteStore {
    /// Notes that this process serves the store.
    pub fn announce(&self) -> Result<Serving, StoreError> {
        let path = note_path(&self.inner.path);
        let failed = |error| StoreError::Unavailable(format!("{}: {error}", path.display()));
        let open = || OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut note = open().map_err(failed)?;
        note.lock_shared().map_err(failed)?;
        // A process that ended meanwhile may have removed what was opened here.
        let is_there = |note: &File| {
            let opened = note.metadata().ok().map(|note| {
                (std::os::unix::fs::MetadataExt::dev(&note), std::os::unix::fs::MetadataExt::ino(&note))
            });
            opened.is_some_and(|opened| file_id(&path).is_ok_and(|present| present == opened))
        };
        if !is_there(&note) {
            note = open().map_err(failed)?;
            note.lock_shared().map_err(failed)?;
        }
        let line = Note { process: std::process::id(), ids: self.inner.watch.identity() };
        line.write(&note).and_then(|()| note.flush()).map_err(failed)?;
        Ok(Serving { note, path, is_kept: false })
    }

    /// The process that serves another file, or another log, under the name of this store's file: what is changed here does
    /// not reach it.
    pub fn served_otherwise(&self) -> Option<u32> {
        let line = Note::read(&self.inner.path)?;
        let note = File::open(note_path(&self.inner.path)).ok()?;
        let is_served = matches!(note.try_lock(), Err(TryLockError::WouldBlock));
        (is_served && line.ids != self.inner.watch.identity()).then_some(line.process)
    }
}

impl Serving {
    /// Notes that the log belongs to no file of this name any more, for the next process that opens one.
    pub fn disown(&mut self, store: &SqliteStore) {
        let nowhere = (0, 0);
        if !self.is_kept && !store.inner.watch.may_checkpoint() {
            let line = Note { process: std::process::id(), ids: [nowhere, store.inner.watch.identity()[1]] };
            self.is_kept = line.write(&self.note).is_ok();
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Another service may have the same note.
        if !self.is_kept && self.note.try_lock().is_ok() {
            let _ = fs::remove_file(&self.path);
        }
    }
}
