//! Files of their own, beside the accounts, that all processes of one machine share.
//!
//! What is written into one is on the disk before it counts. SQLite's locks do not reach across a network
//! file system, so nodes on several machines need another store.
//!
//! A folder that other users may write to is refused, and each use checks that the file is still the one that
//! was opened: a copy that is put in its place lacks what was written since, and other processes would open
//! it.

use super::{connect, failed};
use crate::file_access::{FileAccess, database_files};
use crate::store::StoreError;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a change waits for those of other processes: a client waits for it.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Permissions of a folder that are refused: writing by its group or by every user, also with the sticky bit.
const FOLDER_REFUSED: u32 = 0o022;
/// Where the header of a database has its application id.
const APPLICATION_ID_OFFSET: u64 = 68;

/// A file that was opened: its path and its device and inode.
pub(super) struct OpenedFile {
    path: PathBuf,
    id: (u64, u64),
}

impl OpenedFile {
    fn new(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { path: path.to_owned(), id: Self::id_at(path)? })
    }

    fn id_at(path: &Path) -> Result<(u64, u64), StoreError> {
        let metadata = path.metadata().map_err(|error| unavailable(path, &error))?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// Refuses if another file has the path now.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match Self::id_at(&self.path)? == self.id {
            true => Ok(()),
            false => Err(StoreError::Refused(format!(
                "{} was replaced while it was open, and what was written since is not in it: end all processes that use it before it is replaced",
                self.path.display()
            ))),
        }
    }
}

fn unavailable(path: &Path, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unavailable(format!("{} {error}", path.display()))
}

/// Refuses a folder in which other users may put another file in the place of the database.
fn check_folder(of: &Path) -> Result<(), StoreError> {
    let folder = of.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mode = folder.metadata().map_err(|error| unavailable(folder, &error))?.permissions().mode();
    match mode & FOLDER_REFUSED {
        0 => Ok(()),
        _ => Err(StoreError::Refused(format!(
            "{} can be written to by users other than its owner (mode {:03o}), who could replace {}: chmod go-w",
            folder.display(),
            mode & 0o7777,
            of.display()
        ))),
    }
}

/// Looks at a file that need not be there yet: whether [`open`] would refuse it for its folder, its mode or
/// its mark. Writes nothing.
pub(super) fn check(path: &Path, application_id: i32) -> Result<(), StoreError> {
    check_access(path)?;
    match mark(path).map_err(|error| unavailable(path, &error))? {
        Some(id) if ![0, application_id].contains(&id) => Err(for_something_else(path)),
        _ => Ok(()),
    }
}

/// The application id in the header of a database (SQLite's file format, section 1.3.15). It is 0 as long as
/// the log has the first change of it.
fn mark(path: &Path) -> std::io::Result<Option<i32>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut id = [0; 4];
    match file.read_exact_at(&mut id, APPLICATION_ID_OFFSET) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        read => read.map(|()| Some(i32::from_be_bytes(id))),
    }
}

fn for_something_else(path: &Path) -> StoreError {
    StoreError::Refused(format!("{} is a database for something else: name another file", path.display()))
}

fn check_access(path: &Path) -> Result<(), StoreError> {
    check_folder(path)?;
    for file in database_files(path) {
        FileAccess::Owner.check_path(&file).map_err(|error| unavailable(path, &error))?;
    }
    match path.canonicalize() {
        // If the path is a link, the file is in another folder.
        Ok(file) => check_folder(&file),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(unavailable(path, &error)),
    }
}

/// Opens the file, or makes it, readable by its owner only. A file that other users may read or change, or
/// whose folder they may write to, is refused. `application_id` marks it, so that no other database is taken
/// for it; `prepare` makes what it has to have.
pub(super) fn open(
    path: &Path,
    application_id: i32,
    prepare: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
) -> Result<(Connection, OpenedFile), StoreError> {
    check_folder(path)?;
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(unavailable(path, &error)),
        _ => {}
    }
    check_access(path)?;
    let file = OpenedFile::new(path)?;
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "wal").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "full").map_err(failed)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let id: i32 = transaction.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(failed)?;
    let tables = "SELECT count(*) FROM sqlite_schema";
    let tables: u32 = transaction.query_row(tables, [], |row| row.get(0)).map_err(failed)?;
    if id != application_id && (id != 0 || tables != 0) {
        return Err(for_something_else(path));
    }
    transaction.pragma_update(None, "application_id", application_id).map_err(failed)?;
    prepare(&transaction).map_err(failed)?;
    transaction.commit().map_err(failed)?;
    file.check()?;
    Ok((connection, file))
}
