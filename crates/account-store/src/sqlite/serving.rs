//! A note beside the database file: which file, and which log, a service has open under this name.
//!
//! The name of a file says nothing of what a process has open under it. With the note, a command knows that
//! the service reads another file than the one that it is about to change, and the next process that opens
//! the file knows that the log beside it belongs to another one. SQLite cannot know either, and would apply
//! that log.
//!
//! The note (`FILE-serving`) is a line of five numbers: process, device and inode of the database file,
//! device and inode of the log; and the word `overwritten` where the database file was. The process holds a
//! shared lock (`flock`) on it, which ends with the process however that ends. The note is never followed
//! where it is a link, and never waited for.

use super::SqliteStore;
use super::watch::{Breach, FileId, LogOwner, file_id};
use crate::file_access::{beside_database, database_files};
use crate::store::StoreError;
use rustix::fs::{Mode, OFlags, open};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often, and how long apart, the lock on the note is tried: commands hold it for a moment.
const LOCK_TRIES: u32 = 20;
const LOCK_RETRY: Duration = Duration::from_millis(5);
/// More than the five numbers and the word take.
const NOTE_LEN_MAX: u64 = 256;
/// Written in the place of device and inode where no file is meant: the inode of a file that is gone may be
/// given to another one.
const NOWHERE: FileId = (0, 0);

/// That a process serves a store, for as long as this lives.
#[derive(Debug)]
pub struct Serving {
    note: File,
    path: PathBuf,
    owner: LogOwner,
    is_locked: bool,
}

struct Note {
    process: u32,
    ids: [FileId; 2],
    is_overwritten: bool,
}

fn note_path(path: &Path) -> PathBuf {
    beside_database(path, "-serving")
}

/// Opens a note for the owner of the database file or this process: a file with one name that one of them
/// owns, and no link, pipe or device, which any user of the folder could put there.
fn open_note(database: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let note = File::from(open(note_path(database), flags, Mode::RUSR | Mode::WUSR)?);
    let metadata = note.metadata()?;
    let owner = metadata.uid();
    let is_owned = owner == rustix::process::geteuid().as_raw() || owner == fs::metadata(database)?.uid();
    match metadata.is_file() && metadata.nlink() <= 1 && is_owned {
        true => Ok(note),
        false => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "not a regular file with one name, of the owner of the database or of this process",
        )),
    }
}

impl Note {
    fn read(database: &Path) -> Option<Self> {
        let mut text = String::new();
        open_note(database, OFlags::RDONLY).ok()?.take(NOTE_LEN_MAX).read_to_string(&mut text).ok()?;
        let mut words = text.split_ascii_whitespace();
        let mut number = || words.next()?.parse::<u64>().ok();
        let process = number()?.try_into().ok()?;
        let ids = [(number()?, number()?), (number()?, number()?)];
        Some(Self { process, ids, is_overwritten: words.next() == Some("overwritten") })
    }

    fn write(&self, file: &File) -> io::Result<()> {
        let [(a, b), (c, d)] = self.ids;
        let word = if self.is_overwritten { " overwritten" } else { "" };
        let text = format!("{} {a} {b} {c} {d}{word}\n", self.process);
        file.set_len(0)?;
        file.write_all_at(text.as_bytes(), 0)
    }
}

/// Refuses to open a file beside which the log of another one, or of its former contents, stands: SQLite
/// would apply that log to it.
pub(super) fn check_log(path: &Path) -> Result<(), StoreError> {
    let Some(note) = Note::read(path) else { return Ok(()) };
    let [_, log, index] = database_files(path);
    let is_in_use = fs::metadata(&log).is_ok_and(|log| log.len() > 0);
    let is_same = |path: &Path, id| file_id(path).is_ok_and(|present| present == id);
    if !is_in_use || !is_same(&log, note.ids[1]) {
        return Ok(());
    }
    let (what, breach, more) = match is_same(path, note.ids[0]) {
        true if !note.is_overwritten => return Ok(()),
        true => (
            "overwritten by a program other than SQLite",
            Breach::Overwritten,
            format!("; if it was not, remove {}, and both are used", note_path(path).display()),
        ),
        false => (
            "replaced",
            Breach::Replaced,
            format!("; if the former file is back already, remove {}", note_path(path).display()),
        ),
    };
    Err(StoreError::Unavailable(format!(
        "{} was {what} while process {} served it: stop the service; {}{more}",
        path.display(),
        note.process,
        breach.advice([path, &log, &index]),
    )))
}

impl SqliteStore {
    /// Notes that this process serves the store.
    pub fn announce(&self) -> Result<Serving, StoreError> {
        let database = &self.inner.path;
        let path = note_path(database);
        let failed = |error| StoreError::Unavailable(format!("{}: {error}", path.display()));
        let mut tries = 0..LOCK_TRIES;
        let (note, is_locked) = loop {
            let note = open_note(database, OFlags::RDWR | OFlags::CREATE).map_err(failed)?;
            let is_locked = note.try_lock_shared().is_ok();
            // A process that ended meanwhile may have removed what was opened here.
            let opened = note.metadata().map(|note| (note.dev(), note.ino())).map_err(failed)?;
            let is_there = file_id(&path).is_ok_and(|present| present == opened);
            if (is_locked && is_there) || tries.next().is_none() {
                break (note, is_locked);
            }
            std::thread::sleep(LOCK_RETRY);
        };
        let serving = Serving { note, path, owner: LogOwner::ThisFile, is_locked };
        serving
            .write(self)
            .map_err(|error| StoreError::Unavailable(format!("{}: {error}", serving.path.display())))?;
        Ok(serving)
    }

    /// The process that serves another file, or another log, under the name of this store's file: what is
    /// changed here does not reach it.
    pub fn served_otherwise(&self) -> Option<u32> {
        let line = Note::read(&self.inner.path)?;
        let note = open_note(&self.inner.path, OFlags::RDONLY).ok()?;
        let is_served = matches!(note.try_lock(), Err(TryLockError::WouldBlock));
        (is_served && line.ids != self.inner.watch.identity()).then_some(line.process)
    }
}

impl Serving {
    /// Whether the note is locked; another program may keep its own lock on it.
    pub fn is_locked(&self) -> bool {
        self.is_locked
    }

    /// Notes for the next process that opens a file of this name whether the log belongs to it. A file that
    /// was moved away and back has its log still.
    pub fn update(&mut self, store: &SqliteStore) {
        let owner = store.inner.watch.log_owner();
        if owner != self.owner {
            let before = std::mem::replace(&mut self.owner, owner);
            if self.write(store).is_err() {
                self.owner = before;
            }
        }
    }

    fn write(&self, store: &SqliteStore) -> io::Result<()> {
        let [main, log] = store.inner.watch.identity();
        let (main, is_overwritten) = match self.owner {
            LogOwner::ThisFile | LogOwner::Unknown => (main, false),
            LogOwner::OtherContents => (main, true),
            LogOwner::AnotherFile => (NOWHERE, false),
        };
        Note { process: std::process::id(), ids: [main, log], is_overwritten }.write(&self.note)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let is_needed = matches!(self.owner, LogOwner::OtherContents | LogOwner::AnotherFile);
        // Another service may have the same note.
        if !is_needed && self.note.try_lock().is_ok() {
            let _ = fs::remove_file(&self.path);
        }
    }
}
