//! Moves many blobs, one in each file, to the newest secret.
//!
//! A file is replaced as a whole, and its key id says whether that was done. So a run that was killed at any
//! moment is run again, and goes on where it was: files that are done are read and not changed. Two runs at
//! once lock each file in turn (`flock`). The program that uses the blobs must not write a file while this
//! runs over it, or take the same lock. A file that changed in between is reported and left as it is.

use crate::blob::{self, Purpose};
use crate::files::{self, Disk};
use crate::secret::Keyring;
use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// End of the name of a file that replaces another. One is left where a run was killed, and the next run
/// removes it.
const DRAFT: &str = ".rcmpd-reseal";
/// Failures that are reported by name. All are counted.
const NAMED_MAX: usize = 100;
/// Files that reach the disk at once. Each is open and locked meanwhile, so this stays below the usual limit
/// of 1024 open files.
const BATCH: usize = 256;

/// What was done.
#[derive(Debug, Default)]
pub struct Report {
    /// Blobs that are under the newest secret now, and were not.
    pub resealed: usize,
    /// Blobs that were already.
    pub current: usize,
    /// Files that are as they were.
    pub failures: usize,
    /// The first of them, with the reason.
    pub failed: Vec<(PathBuf, String)>,
}

impl Report {
    /// Whether every file is under the newest secret.
    pub fn is_complete(&self) -> bool {
        self.failures == 0
    }
}

/// The regular files of a folder, without those below its folders and without links.
pub fn files_of(folder: &Path) -> io::Result<impl Iterator<Item = io::Result<PathBuf>>> {
    Ok(fs::read_dir(folder)?.filter_map(|entry| {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        let is_draft = entry.file_name().as_encoded_bytes().ends_with(DRAFT.as_bytes());
        match entry.file_type() {
            Ok(kind) if kind.is_file() && !is_draft => Some(Ok(entry.path())),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        }
    }))
}

/// Reseals each file. `associated` gives the associated data of a file, with which its blob was sealed.
pub fn reseal_files(
    disk: &dyn Disk,
    keys: &Keyring,
    purpose: &Purpose,
    associated: &dyn Fn(&Path) -> Vec<u8>,
    paths: impl IntoIterator<Item = io::Result<PathBuf>>,
) -> Report {
    let mut run = Run { disk, report: Report::default(), batch: Vec::new(), renamed: BTreeMap::new() };
    for path in paths {
        let (path, done) = match path {
            Ok(path) => {
                let done = run.prepare(keys, purpose, &associated(&path), &path);
                (path, done)
            }
            Err(error) => (PathBuf::new(), Err(error.to_string())),
        };
        match done {
            Ok(Some(draft)) => run.batch.push(draft),
            Ok(None) => run.report.current += 1,
            Err(why) => run.report.fail(&path, why),
        }
        if run.batch.len() >= BATCH {
            run.flush();
        }
    }
    run.flush();
    run.sync_renamed();
    run.report
}

impl Report {
    fn fail(&mut self, path: &Path, why: String) {
        self.failures += 1;
        if self.failed.len() < NAMED_MAX {
            self.failed.push((path.to_owned(), why));
        }
    }
}

/// A file that has its new contents beside it. Its lock is held until it is replaced.
struct Draft {
    path: PathBuf,
    draft: PathBuf,
    before: Metadata,
    _lock: File,
}

struct Run<'a> {
    disk: &'a dyn Disk,
    report: Report,
    batch: Vec<Draft>,
    /// A folder on each file system that has names which may not be on the disk yet.
    renamed: BTreeMap<u64, PathBuf>,
}

impl Run<'_> {
    /// Writes the new contents beside a file; `None` if its blob is under the newest secret already.
    fn prepare(
        &mut self,
        keys: &Keyring,
        purpose: &Purpose,
        associated: &[u8],
        path: &Path,
    ) -> Result<Option<Draft>, String> {
        let text = |error: io::Error| error.to_string();
        let (file, before) = self.open_locked(path).map_err(text)?;
        let mut old = Vec::new();
        let max = blob::PLAIN_MAX + blob::OVERHEAD;
        (&file).take(max as u64 + 1).read_to_end(&mut old).map_err(text)?;
        let Some(new) = blob::reseal(keys, purpose, associated, &old).map_err(|error| error.to_string())?
        else {
            return Ok(None);
        };
        let draft = files::beside(path, DRAFT);
        files::remove_if_there(self.disk, &draft).map_err(text)?;
        if let Err(error) = self.disk.write_new(&draft, &new).and_then(|file| like(&file, &before)) {
            let _ = self.disk.remove(&draft);
            return Err(text(error));
        }
        Ok(Some(Draft { path: path.to_owned(), draft, before, _lock: file }))
    }

    /// Opens the file and locks it, so that one process at a time replaces it. The lock belongs to the file
    /// that has the name now: another process may have replaced it while this one waited. No lock is waited
    /// for while others are held.
    fn open_locked(&mut self, path: &Path) -> io::Result<(File, Metadata)> {
        /// Each turn means that another process has done the work.
        const TURNS: usize = 16;
        for _ in 0..TURNS {
            let file = files::open_no_link(OpenOptions::new().read(true), path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    self.flush();
                    file.lock()?;
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            let (ours, named) = (file.metadata()?, fs::symlink_metadata(path)?);
            if (ours.dev(), ours.ino()) == (named.dev(), named.ino()) {
                return Ok((file, ours));
            }
        }
        Err(io::Error::other("other processes replace it again and again"))
    }

    /// Puts the new contents of the batch on the disk, then under their names.
    fn flush(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let mut systems = BTreeMap::new();
        for draft in &batch {
            systems.entry(draft.before.dev()).or_insert_with(|| self.disk.sync_system(&draft.draft));
        }
        for Draft { path, draft, before, _lock } in batch {
            let replaced = match &systems[&before.dev()] {
                Ok(()) => self.replace(&draft, &path, &before),
                Err(error) => Err(error.to_string()),
            };
            match replaced {
                Ok(()) => {
                    self.report.resealed += 1;
                    self.renamed.entry(before.dev()).or_insert(path);
                }
                Err(why) => {
                    let _ = self.disk.remove(&draft);
                    self.report.fail(&path, why);
                }
            }
        }
    }

    fn replace(&self, draft: &Path, path: &Path, before: &Metadata) -> Result<(), String> {
        let now = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
        let identity = |of: &Metadata| (of.dev(), of.ino(), of.len(), of.mtime(), of.mtime_nsec());
        match identity(&now) == identity(before) {
            true => self.disk.rename(draft, path).map_err(|error| error.to_string()),
            false => Err("the file changed while it was resealed: run again".to_owned()),
        }
    }

    /// What is reported as resealed stays so after a power failure.
    fn sync_renamed(&mut self) {
        for (_, path) in std::mem::take(&mut self.renamed) {
            if let Err(error) = self.disk.sync_system(&path) {
                self.report.fail(&path, error.to_string());
            }
        }
    }
}

/// Gives a new file the owner and permissions of the one that it replaces.
fn like(file: &File, old: &Metadata) -> io::Result<()> {
    let new = file.metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        std::os::unix::fs::fchown(file, Some(old.uid()), Some(old.gid()))?;
    }
    file.set_permissions(Permissions::from_mode(old.mode() & 0o777))
}
