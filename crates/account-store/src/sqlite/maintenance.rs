//! What operators ask of a database as a whole: how much is in it, whether it is sound, a copy of it.

use super::{SqliteStore, WRITE_BUSY_TIMEOUT, connect, failed, rows};
use crate::admin::Summary;
use crate::file_access::write_new;
use crate::store::StoreError;
use rusqlite::OpenFlags;
use std::fs::{self, File};
use std::path::Path;

/// Faults of one file that are named. The first ones say what has to be done.
const FAULTS_MAX: u32 = 20;

impl SqliteStore {
    /// What the file says about itself, at one moment.
    pub fn summary(&self) -> Result<Summary, StoreError> {
        let sql = "SELECT (SELECT user_version FROM pragma_user_version), (SELECT accounts FROM revision),
            (SELECT count(*) FROM account), (SELECT count(*) FROM account_group), (SELECT count(*) FROM machine)";
        let summary = self.inner.read_checked(|connection| {
            rows::one(connection, sql, [], |row| {
                let number = |column| row.get::<_, u64>(column).map_err(failed);
                Ok(Summary {
                    schema: row.get(0).map_err(failed)?,
                    revision: number(1)?,
                    accounts: number(2)?,
                    groups: number(3)?,
                    machines: number(4)?,
                })
            })
        })?;
        summary.ok_or_else(|| StoreError::Damaged("the revision is missing".to_owned()))
    }

    /// Faults of the file as SQLite sees them: pages, indexes, rules of columns. It reads the whole file.
    pub fn faults(&self) -> Result<Vec<String>, StoreError> {
        self.inner.read_checked(|connection| {
            let sql = format!("PRAGMA integrity_check({FAULTS_MAX})");
            let found = rows::all(connection, &sql, [], |row| row.get::<_, String>(0).map_err(failed))?;
            Ok(found.into_iter().filter(|line| line != "ok").collect())
        })
    }

    /// Writes a copy of the present contents into a new file, readable by its owner only, also while another
    /// process changes them. The copy is on the disk afterwards; if it is not whole, nothing is left of it.
    pub fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        let failed_at =
            |error: std::io::Error| StoreError::Unavailable(format!("{}: {error}", path.display()));
        let name = path.to_str().ok_or_else(|| {
            StoreError::Refused(format!(
                "{}: SQLite cannot write to a path that is not UTF-8",
                path.display()
            ))
        })?;
        // SQLite takes an empty file, and keeps its mode.
        write_new(path, b"", 0o600).map_err(failed_at)?;
        let copy = || {
            let connection =
                connect(&self.inner.path, OpenFlags::SQLITE_OPEN_READ_WRITE, WRITE_BUSY_TIMEOUT)?;
            // It was opened by name.
            self.inner.watch.check_names()?;
            connection.execute("VACUUM INTO ?1", [name]).map_err(failed)?;
            File::open(path).and_then(|file| file.sync_all()).map_err(failed_at)
        };
        copy().inspect_err(|_| drop(fs::remove_file(path)))
    }
}
