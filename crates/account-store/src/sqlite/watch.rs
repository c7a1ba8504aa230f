//! How a change by any process is noticed, and that the files are still those that were opened.
//!
//! **Commits.** Each commit to a write-ahead log ends by writing the header of the index of the log, twice,
//! into the file `-shm` that all processes map (SQLite, *WAL-mode File Format*, 2.1): 48 bytes with a
//! counter, the log's length, salts and checksums. Two equal headers mean that nothing was committed between
//! them: within one log its length and checksums only go forward, and a log that begins anew gets a new
//! random salt. That holds for a restore as well, because to SQLite a restore is one more commit. A read of
//! the header costs a quarter of `PRAGMA data_version`.
//!
//! **Files.** SQLite does not notice when a file is replaced. Connections that are open go on with files that
//! have no name any more, new connections open the new ones, and a log is applied to a database that it does
//! not belong to. So each query first compares what `stat` reports of the path of the database file, and
//! `fstat` of its directory, with what was there before. If either differs, the three names have to lead to
//! the same files still, and a database file that was written to must have been written by a checkpoint. Else
//! the store is unusable until it is opened again:
//!
//! - *Another file under one of the names, or none*: the path leads to another inode then, also where a link
//!   in one of its folders was switched, or the directory has another time.
//! - *Other contents in the same file* (`cp backup.db accounts.db`): while the log is in use, nothing but a
//!   checkpoint writes to the database file, and a checkpoint changes its progress in the index before its
//!   first write and after its last one. So a write without a trace of a checkpoint since the last look may
//!   be another program's; see [`Checkpoint::explains`]. The contents decide then ([`Contents`]). If the log
//!   is the same, no checkpoint wrote, and they have to be equal: a `touch` changes the times only. If the
//!   log began anew, which takes a commit and may have taken a checkpoint, they have to be ones that SQLite
//!   may have made of those before: a copy of an earlier time has smaller counters. What was committed is read
//!   and verified anew in any case (`Expected::counters`). A write by another program between the same two
//!   looks as a checkpoint is not distinguished from it, which is why a service looks often
//!   ([`Watch::observe`]).

use super::contents::{Contents, Counters, Row};
use super::failed;
use crate::file_access::{beside_database, database_files};
use crate::store::{Revision, StoreError};
use rusqlite::Connection;
use rustix::fs::{Stat, fstat, stat};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// The revisions of the contents.
#[derive(Clone, Copy, Debug)]
pub(super) struct Revisions {
    /// Of the answers about accounts; every change to a group counts here too.
    pub(super) accounts: Revision,
    /// Of the answers about machines; every change to an account counts here too.
    pub(super) machines: Revision,
}

/// The header of the index, both copies.
type Header = [u8; 96];
/// The rest of what is read of the index: nBackfill, read marks, lock bytes, nBackfillAttempted.
const INDEX_LEN: usize = 136;

pub(super) struct Watch {
    // INVARIANT: closed before `held` is let go.
    files: Files,
    seen: RwLock<Option<(Header, Revisions)>>,
    _held: Held,
}

impl Watch {
    /// `connection` is open on the file and stays so, or another one does.
    pub(super) fn open(held: Held, path: &Path, connection: &Connection) -> Result<Self, StoreError> {
        // The first read makes the index.
        connection.query_row("SELECT id FROM revision", [], |_| Ok(())).map_err(failed)?;
        let row = connection
            .query_row(
                "SELECT schema_version, rootpage FROM sqlite_schema, pragma_schema_version
                 WHERE type = 'table' AND name = 'revision'",
                [],
                |row| Ok(Row { schema: row.get(0)?, page: row.get(1)? }),
            )
            .map_err(failed)?;
        let files = Files::open(&held, path, connection, row)?;
        Ok(Self { files, seen: RwLock::new(None), _held: held })
    }

    /// The present revisions; `read` reads them from the database, if need be.
    pub(super) fn revisions(
        &self,
        read: impl FnOnce() -> Result<(Counters, Row), StoreError>,
    ) -> Result<Revisions, StoreError> {
        self.files.check()?;
        let header = self.files.header()?;
        if let Some((seen, revisions)) = *self.seen.read().unwrap_or_else(PoisonError::into_inner)
            && seen == header
        {
            return Ok(revisions);
        }
        self.files.observe()?;
        let (counters, row) = read()?;
        self.files.learn(row);
        let noticed = Revision::notice();
        let stored = |(number, epoch)| Revision::stored(number, epoch, noticed);
        let new = Revisions { accounts: stored(counters.accounts), machines: stored(counters.machines) };
        // Only a header whose copies agree stands for a finished commit, and only if it is the same before
        // and after the read, the counters are those of its contents.
        if header[..48] != header[48..] || self.files.header()? != header {
            return Ok(new);
        }
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        match *seen {
            // Two questions that notice one commit together count it once.
            Some((by_another, revisions)) if by_another == header => Ok(revisions),
            _ => {
                *seen = Some((header, new));
                Ok(new)
            }
        }
    }

    /// Notes how far checkpoints have come, so that the next write to the database file is compared with
    /// that.
    pub(super) fn observe(&self) -> Result<(), StoreError> {
        self.files.observe()
    }

    /// Whether a checkpoint is under way, or was cut off.
    pub(super) fn is_checkpoint_unfinished(&self) -> bool {
        self.files.known.read().unwrap_or_else(PoisonError::into_inner).is_writing
    }

    /// Whether the files are still those that were opened.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.files.check()
    }

    /// The same, compared now: nothing is committed to files that were replaced a moment ago.
    pub(super) fn check_now(&self) -> Result<(), StoreError> {
        self.files.check_anew(false)
    }

    /// The same, looking at every name whatever the times say.
    pub(super) fn check_names(&self) -> Result<(), StoreError> {
        self.files.check_anew(true)
    }

    /// Whether the log may be written into the database file at the end. It may not when either is another's.
    pub(super) fn may_checkpoint(&self) -> bool {
        let _ = self.check_names();
        self.files.broken.get().is_none_or(|broken| broken.what == Breach::LogRemoved)
    }

    /// Which file the log under its name belongs to.
    pub(super) fn log_owner(&self) -> LogOwner {
        let is_ours = |at: usize| file_id(&self.files.names[at]).is_ok_and(|id| id == self.files.ids[at]);
        match self.files.broken.get() {
            _ if !is_ours(1) => LogOwner::Unknown,
            _ if !is_ours(0) => LogOwner::AnotherFile,
            Some(Broken { what: Breach::Overwritten, .. }) => LogOwner::OtherContents,
            _ => LogOwner::ThisFile,
        }
    }

    /// How often the times of the database file were changed without its contents by a program other than
    /// SQLite.
    pub(super) fn touched(&self) -> u64 {
        self.files.touched.load(Ordering::Relaxed)
    }

    /// Device and inode of the database file and of the log.
    pub(super) const fn identity(&self) -> [FileId; 2] {
        [self.files.ids[0], self.files.ids[1]]
    }
}

/// Device and inode.
pub(super) type FileId = (u64, u64);

pub(super) fn file_id(path: &Path) -> std::io::Result<FileId> {
    fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Whose changes the log under its name has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogOwner {
    /// The database file that is there.
    ThisFile,
    /// This file, but it has been overwritten since.
    OtherContents,
    /// The file that was there before.
    AnotherFile,
    /// The log is not the one that this store has open.
    Unknown,
}

/// What `stat` reports of a file that changes when its contents, its names or its links do.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    id: FileId,
    modified: (i64, u64),
    changed: (i64, u64),
    len: i64,
}

impl Stamp {
    #[expect(clippy::useless_conversion, reason = "the fields differ in width between platforms")]
    fn new(stat: Stat) -> Self {
        let Stat { st_dev, st_ino, st_mtime, st_mtime_nsec, st_ctime, st_ctime_nsec, st_size, .. } = stat;
        Self {
            id: (st_dev.try_into().unwrap_or(0), st_ino.into()),
            modified: (st_mtime.into(), st_mtime_nsec.into()),
            changed: (st_ctime.into(), st_ctime_nsec.into()),
            len: st_size.into(),
        }
    }
}

/// Of the path of the database file, all links followed, and of the directory that it is in.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamps {
    /// `None` if the path leads nowhere.
    main: Option<Stamp>,
    folder: Stamp,
}

impl Stamps {
    fn of(path: &Path, folder: &File) -> Result<Self, StoreError> {
        let folder = fstat(folder)
            .map_err(|error| StoreError::Unavailable(format!("directory of the database file: {error}")))?;
        Ok(Self { main: stat(path).ok().map(Stamp::new), folder: Stamp::new(folder) })
    }

    /// What changes when the database file is written to.
    fn contents(&self) -> Option<(FileId, (i64, u64), i64)> {
        self.main.map(|main| (main.id, main.modified, main.len))
    }
}

/// How far checkpoints have come.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Checkpoint {
    /// Which log it is: new ones each time that it begins anew.
    salts: [u8; 8],
    /// mxFrame: frames of the log that are committed.
    frames: u32,
    /// nBackfill: those of them that are in the database file.
    done: u32,
    /// nBackfillAttempted: those that a checkpoint has begun to write there.
    begun: u32,
}

impl Checkpoint {
    const fn is_unfinished(&self) -> bool {
        self.begun > self.done
    }

    /// Whether a checkpoint may have written to the database file between the state `before` and this one.
    /// `beginnings` reads how often the process that began the present log had begun it anew.
    fn explains(&self, before: &Self, was_writing: bool, beginnings: impl FnOnce() -> u32) -> bool {
        if self.salts == before.salts {
            return (self.done, self.begun) != (before.done, before.begun)
                || (was_writing && self.is_unfinished());
        }
        // The log began anew, for which a checkpoint has to have finished with the one before: it had work if
        // not all of that log was in the database file yet. An empty log is what a checkpoint leaves that
        // truncates it; and then there is nothing that could be mixed with other contents.
        if self.begun > 0 || self.frames == 0 || before.done < before.frames {
            return true;
        }
        // There was no work for that checkpoint. For a second one there was, if the log began anew more than
        // once: each time counts the first salt up by one. The first frames after an empty log have random
        // salts instead; then the log's own count of beginnings decides.
        match before.frames {
            0 => beginnings() > 0,
            _ => self.first_salt() != before.first_salt().wrapping_add(1),
        }
    }

    fn first_salt(&self) -> u32 {
        let [a, b, c, d, ..] = self.salts;
        u32::from_be_bytes([a, b, c, d])
    }
}

#[derive(Clone, Copy)]
struct Known {
    stamps: Stamps,
    row: Row,
    /// At least as new as `checkpoint`.
    contents: Option<Contents>,
    checkpoint: Checkpoint,
    /// A checkpoint is under way, or one was cut off; until one is finished the database file may change.
    is_writing: bool,
}

impl Known {
    /// `file` is the database file, to be read after `checkpoint` was.
    fn note(&mut self, checkpoint: Checkpoint, file: &File) {
        if (checkpoint.salts, checkpoint.begun, checkpoint.done)
            != (self.checkpoint.salts, self.checkpoint.begun, self.checkpoint.done)
        {
            self.is_writing = checkpoint.is_unfinished();
            // The clock of the file system has ticks: several checkpoints may have left one time.
            self.contents = Contents::read(file, self.row);
        }
        self.checkpoint = checkpoint;
    }
}

struct Broken {
    why: String,
    what: Breach,
}

/// What was done to the files of a store.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Breach {
    /// The database file has contents that SQLite did not write there.
    Overwritten,
    /// The name of the database file leads to another one, or to none.
    Replaced,
    /// The log has no name any more, and nothing else is amiss.
    LogRemoved,
    /// The log or the index is another one, or both are gone.
    LogReplaced,
}

impl Breach {
    /// What an operator can do once the service is stopped, and what each way costs.
    pub(super) fn advice(self, [main, log, index]: [&Path; 3]) -> String {
        let (main, log, index) = (main.display(), log.display(), index.display());
        match self {
            Self::Overwritten => format!(
                "{log} may have committed changes that do not belong to these contents: either move {log} and {index} away, \
                 which undoes the changes that are in {log} only, and {main} is used as it is now; or move all three away and \
                 put a back-up in the place of {main}"
            ),
            Self::Replaced => format!(
                "{log} belongs to the file that was there before and may have its last changes: either put that file back to \
                 keep them; or move {log} and {index} away, which undoes the changes that are in {log} only, and {main} is \
                 used as it is now"
            ),
            Self::LogRemoved | Self::LogReplaced => format!(
                "what was committed to the former {log} only is lost unless that file is put back; {main} is used with the \
                 {log} that is there then, if any"
            ),
        }
    }
}

/// The result of comparing the files counts for so long: a store that is asked often pays for few
/// comparisons. A replaced file is noticed at most this much later, as if the question had arrived that much
/// earlier.
pub(super) const LOOK_COUNTS: Duration = Duration::from_millis(1);

/// The files of a store, as they were opened.
struct Files {
    index: Arc<File>,
    main: Arc<File>,
    folder: File,
    /// Of the database file, the log and the index.
    names: [PathBuf; 3],
    ids: [FileId; 3],
    known: RwLock<Known>,
    opened: Instant,
    /// When the files were last found to be as they were, in nanoseconds since `opened`.
    looked: AtomicU64,
    touched: AtomicU64,
    /// Once set it stays: what was written in between, by which process to which file, cannot be known.
    broken: OnceLock<Broken>,
}

impl Files {
    fn open(held: &Held, path: &Path, connection: &Connection, row: Row) -> Result<Self, StoreError> {
        let (main, index) = held.files(path)?;
        let real = real(path)?;
        let names = database_files(path);
        let failed_at = |path: &Path, error| StoreError::Unavailable(format!("{}: {error}", path.display()));
        let id = |path: &PathBuf| file_id(path).map_err(|error| failed_at(path, error));
        let ids = [id(&names[0])?, id(&names[1])?, id(&names[2])?];
        let folder = real.parent().unwrap_or(Path::new("/"));
        let folder = File::open(folder).map_err(|error| failed_at(folder, error))?;
        if ids[0] != held.0 {
            return Err(StoreError::Unavailable(format!(
                "{} was replaced while it was opened",
                path.display()
            )));
        }
        let mut files = Self {
            known: RwLock::new(Known {
                stamps: Stamps::of(path, &folder)?,
                row,
                contents: None,
                checkpoint: checkpoint(&index)?,
                is_writing: false,
            }),
            index,
            main,
            folder,
            names,
            ids,
            opened: Instant::now(),
            looked: AtomicU64::new(0),
            touched: AtomicU64::new(0),
            broken: OnceLock::new(),
        };
        let mut known = *files.known.get_mut().unwrap_or_else(PoisonError::into_inner);
        if known.checkpoint.is_unfinished() {
            // After a crash the index says that everything was begun. A checkpoint settles that; if others
            // are reading it may not finish, and a later one will.
            connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).map_err(failed)?;
            known.stamps = files.stamps()?;
            known.checkpoint = checkpoint(&files.index)?;
        }
        known.is_writing = known.checkpoint.is_unfinished();
        known.contents = Contents::read(&files.main, row);
        files.known = RwLock::new(known);
        Ok(files)
    }

    fn stamps(&self) -> Result<Stamps, StoreError> {
        Stamps::of(&self.names[0], &self.folder)
    }

    /// Where the row is under the present schema.
    fn learn(&self, row: Row) {
        if self.known.read().unwrap_or_else(PoisonError::into_inner).row == row {
            return;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.row = row;
        // What is found to differ from these is explained by a checkpoint, or was written by another program.
        let is_as_known = self.stamps().is_ok_and(|stamps| stamps.contents() == known.stamps.contents());
        let new = Contents::read(&self.main, row);
        if is_as_known && self.stamps().is_ok_and(|stamps| stamps.contents() == known.stamps.contents()) {
            known.contents = new;
        }
    }

    fn header(&self) -> Result<Header, StoreError> {
        let mut header: Header = [0; 96];
        self.index.read_exact_at(&mut header, 0).map_err(index_failed)?;
        Ok(header)
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.broken.get().is_none() {
            let now = u64::try_from(self.opened.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let looked = self.looked.load(Ordering::Acquire);
            if looked > 0 && now.saturating_sub(looked) < LOOK_COUNTS.as_nanos() as u64 {
                return Ok(());
            }
            let stamps = self.stamps()?;
            if self.known.read().unwrap_or_else(PoisonError::into_inner).stamps == stamps {
                self.looked.store(now, Ordering::Release);
                return Ok(());
            }
        }
        self.check_anew(false)
    }

    /// The checkpoint sequence number in the header of the log. SQLite has no locks on the log itself, so
    /// closing it here takes none away.
    fn beginnings(&self) -> u32 {
        let mut number = [0; 4];
        let read = File::open(&self.names[1]).and_then(|log| log.read_exact_at(&mut number, 12));
        read.map_or(0, |()| u32::from_be_bytes(number))
    }

    fn observe(&self) -> Result<(), StoreError> {
        self.check()?;
        let checkpoint = checkpoint(&self.index)?;
        if self.known.read().unwrap_or_else(PoisonError::into_inner).checkpoint == checkpoint {
            return Ok(());
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        // If the database file was written to in between, the next question compares that with what was known
        // before.
        if self.stamps()?.contents() == known.stamps.contents() {
            known.note(checkpoint, &self.main);
        }
        Ok(())
    }

    fn check_anew(&self, names: bool) -> Result<(), StoreError> {
        let unusable = |broken: &Broken| {
            Err(StoreError::Unavailable(format!(
                "{}: stop the service; {}; then start it. Restore a back-up under a running service with `sqlite3 {} \
                 '.restore BACKUP'` only",
                broken.why,
                broken.what.advice(std::array::from_fn(|at| self.names[at].as_path())),
                self.names[0].display(),
            )))
        };
        if let Some(broken) = self.broken.get() {
            return unusable(broken);
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        // The times come first: what happens after them, the next question sees by them.
        let stamps = self.stamps()?;
        if (names || known.stamps != stamps)
            && let Some(broken) = self.moved()
        {
            return unusable(self.broken.get_or_init(|| broken));
        }
        if stamps.main.is_none_or(|main| main.id != self.ids[0]) {
            // The name leads to our file again; the next look compares with what was known.
            return Ok(());
        }
        if known.stamps.contents() != stamps.contents() {
            // The contents come before the progress: the progress shows what a checkpoint wrote of them.
            let contents = Contents::read(&self.main, known.row);
            let checkpoint = checkpoint(&self.index)?;
            let is_explained = checkpoint.explains(&known.checkpoint, known.is_writing, || self.beginnings());
            let is_same_log = checkpoint.salts == known.checkpoint.salts;
            let is_sqlite = is_explained
                || contents.zip(known.contents).is_some_and(|(new, old)| match is_same_log {
                    true => new == old && len(&stamps) == len(&known.stamps),
                    false => new.follows(&old),
                });
            if !is_sqlite {
                let why =
                    format!("{} was overwritten by a program other than SQLite", self.names[0].display());
                return unusable(self.broken.get_or_init(|| Broken { why, what: Breach::Overwritten }));
            }
            // A checkpoint that wrote again after the times were read may have finished before its progress
            // was: its write would look like one without a trace to the next question. That one compares with
            // what was known.
            if self.stamps()?.contents() != stamps.contents() {
                return Ok(());
            }
            if !is_explained && is_same_log {
                self.touched.fetch_add(1, Ordering::Relaxed);
            }
            known.note(checkpoint, &self.main);
        }
        known.stamps = stamps;
        Ok(())
    }

    /// The name that leads to another file, or to none.
    fn moved(&self) -> Option<Broken> {
        let mut is_ours: [bool; 3] =
            std::array::from_fn(|at| file_id(&self.names[at]).is_ok_and(|id| id == self.ids[at]));
        // Another name of the same file has another log.
        is_ours[0] &=
            real(&self.names[0]).is_ok() && beside_database(&self.names[0], "-wal") == self.names[1];
        let at = is_ours.iter().position(|ours| !ours)?;
        let name = &self.names[at];
        let is_gone = !name.exists();
        let what = match is_ours {
            [false, ..] => Breach::Replaced,
            [true, false, true] if is_gone => Breach::LogRemoved,
            _ => Breach::LogReplaced,
        };
        let verb = if is_gone { "removed" } else { "replaced" };
        Some(Broken { why: format!("{} was {verb} while it was in use", name.display()), what })
    }
}

fn len(stamps: &Stamps) -> Option<i64> {
    stamps.main.map(|main| main.len)
}

fn index_failed(error: std::io::Error) -> StoreError {
    StoreError::Unavailable(format!("index of the write-ahead log: {error}"))
}

fn checkpoint(index: &File) -> Result<Checkpoint, StoreError> {
    let mut bytes = [0; INDEX_LEN];
    index.read_exact_at(&mut bytes, 0).map_err(index_failed)?;
    let number = |at: usize| {
        let [a, b, c, d] = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        u32::from_ne_bytes([a, b, c, d])
    };
    let salts = std::array::from_fn(|at| bytes[32 + at]);
    Ok(Checkpoint { salts, frames: number(16), done: number(96), begun: number(128) })
}

/// Where a file is, without links: SQLite puts the log beside that.
fn real(path: &Path) -> Result<PathBuf, StoreError> {
    fs::canonicalize(path).map_err(|error| StoreError::Unavailable(format!("{}: {error}", path.display())))
}

/// A database file that this process has stores of, by device and inode.
///
/// When a process closes any descriptor of a file, POSIX takes *all* its locks on that file away, and
/// SQLite's locks on the database file and the index are what keeps processes apart. So a file has one
/// descriptor, and one of its index, for all its stores here; they are closed when the last store has closed
/// its connections, and a store is counted before it opens any.
pub(super) struct Held(FileId);

struct Entry {
    key: FileId,
    stores: usize,
    main: Arc<File>,
    index: Option<Arc<File>>,
}

static HELD: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

impl Held {
    /// Before the first connection to `path`.
    pub(super) fn new(path: &Path) -> Result<Self, StoreError> {
        let mut held = super::lock(&HELD);
        let failed = |error| StoreError::Unavailable(format!("{}: {error}", path.display()));
        let key = file_id(path).map_err(failed)?;
        match held.iter_mut().find(|entry| entry.key == key) {
            Some(entry) => entry.stores += 1,
            None => {
                let main = Arc::new(File::open(path).map_err(failed)?);
                let opened = main.metadata().map_err(failed)?;
                if (opened.dev(), opened.ino()) != key {
                    // It may be one that a store here has locks on, so it is not closed.
                    std::mem::forget(main);
                    return Err(StoreError::Unavailable(format!(
                        "{} was replaced while it was opened",
                        path.display()
                    )));
                }
                held.push(Entry { key, stores: 1, main, index: None });
            }
        }
        Ok(Self(key))
    }

    /// The database file and the index.
    fn files(&self, path: &Path) -> Result<(Arc<File>, Arc<File>), StoreError> {
        let [_, _, index] = database_files(path);
        let failed = |error| StoreError::Unavailable(format!("{}: {error}", index.display()));
        let mut held = super::lock(&HELD);
        // INVARIANT: the entry is there as long as anything holds it.
        let entry = held.iter_mut().find(|entry| entry.key == self.0).expect("it is held");
        let main = entry.main.clone();
        let present = file_id(&index).map_err(failed)?;
        if let Some(file) = &entry.index {
            let metadata = file.metadata().map_err(failed)?;
            // Another store may have closed the last connection before this one was opened, and so have
            // deleted the index; there are no locks on it then.
            if (metadata.dev(), metadata.ino()) == present {
                return Ok((main, file.clone()));
            }
        }
        let file = Arc::new(File::open(&index).map_err(failed)?);
        entry.index = Some(file.clone());
        Ok((main, file))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = super::lock(&HELD);
        if let Some(at) = held.iter().position(|entry| entry.key == self.0) {
            held[at].stores -= 1;
            if held[at].stores == 0 {
                held.swap_remove(at);
            }
        }
    }
}
