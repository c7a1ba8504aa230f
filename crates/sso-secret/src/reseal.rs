//! Moves many blobs, one in each file, to the newest secret.
//!
//! A file is replaced as a whole, and its key id says whether that was done. So a run that was killed at any moment is run again, and
//! goes on where it was: files that are done are read and left alone. The program that uses the blobs must not write a file while this
//! runs over it. A file that changed in between is reported and left as it is.

use crate::blob::{self, Purpose};
use crate::files::{self, Disk};
use crate::secret::Keyring;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// End of the name of a file that replaces another. One is left where a run was killed, and the next run removes it.
const DRAFT: &str = ".rcmpd-reseal";
/// Failures that are reported by name. All are counted.
const NAMED_MAX: usize = 100;
/// Names in a folder reach the disk at once for this many files.
const SYNC_EVERY: usize = 256;

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
    let mut report = Report::default();
    let fail = |report: &mut Report, path: &Path, why: String| {
        report.failures += 1;
        if report.failed.len() < NAMED_MAX {
            report.failed.push((path.to_owned(), why));
        }
    };
    let mut unsynced: Option<(PathBuf, usize)> = None;
    for path in paths {
        let path = match path {
            Ok(path) => path,
            Err(error) => {
                fail(&mut report, Path::new(""), error.to_string());
                continue;
            }
        };
        match reseal_file(disk, keys, purpose, &associated(&path), &path) {
            Ok(false) => report.current += 1,
            Ok(true) => {
                report.resealed += 1;
                let folder = files::folder_of(&path);
                let count = match unsynced.take() {
                    Some((known, count)) if known == folder => count + 1,
                    Some((known, _)) => {
                        if let Err(error) = disk.sync(&known) {
                            fail(&mut report, &known, error.to_string());
                        }
                        1
                    }
                    None => 1,
                };
                if count < SYNC_EVERY {
                    unsynced = Some((folder.to_owned(), count));
                } else if let Err(error) = disk.sync(folder) {
                    fail(&mut report, folder, error.to_string());
                }
            }
            Err(why) => fail(&mut report, &path, why),
        }
    }
    if let Some((folder, _)) = unsynced
        && let Err(error) = disk.sync(&folder)
    {
        fail(&mut report, &folder, error.to_string());
    }
    report
}

/// Whether the file was replaced.
fn reseal_file(
    disk: &dyn Disk,
    keys: &Keyring,
    purpose: &Purpose,
    associated: &[u8],
    path: &Path,
) -> Result<bool, String> {
    let text = |error: io::Error| error.to_string();
    let file = File::open(path).map_err(text)?;
    let before = file.metadata().map_err(text)?;
    let max = blob::PLAIN_MAX + blob::OVERHEAD;
    let mut old = Vec::new();
    (&file).take(max as u64 + 1).read_to_end(&mut old).map_err(text)?;
    let Some(new) = blob::reseal(keys, purpose, associated, &old).map_err(|error| error.to_string())? else {
        return Ok(false);
    };
    let draft = files::beside(path, DRAFT);
    match disk.remove(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(text(error)),
        _ => {}
    }
    disk.write_new(&draft, &new)
        .and_then(|()| like(&draft, &before))
        .and_then(|()| disk.sync(&draft))
        .map_err(text)
        .and_then(|()| {
            let now = fs::symlink_metadata(path).map_err(text)?;
            let identity = |of: &Metadata| (of.dev(), of.ino(), of.len(), of.mtime(), of.mtime_nsec());
            match identity(&now) == identity(&before) {
                true => disk.rename(&draft, path).map_err(text),
                false => Err("the file changed while it was resealed: run again".to_owned()),
            }
        })
        .inspect_err(|_| drop(disk.remove(&draft)))?;
    Ok(true)
}

/// Gives a new file the owner and permissions of the one that it replaces.
fn like(draft: &Path, old: &Metadata) -> io::Result<()> {
    let file = File::open(draft)?;
    let new = file.metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
    }
    file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))
}
