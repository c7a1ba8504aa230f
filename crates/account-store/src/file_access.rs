//! Files that other users must not read or change: keys, secrets, databases, configurations.
//!
//! The file that was opened is checked, not its path, so no other file can take its place in between. Who
//! owns a file is not looked at: services are set up with files of root's, of their own user and of a
//! deployment's.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use zeroize::Zeroizing;

/// Why a file is not used, as the end of a sentence that begins with its path.
#[derive(Debug, thiserror::Error)]
pub enum FileRefused {
    /// Users may use it who must not.
    #[error("can be {what} (mode {mode:03o}): {to_do}")]
    Mode {
        /// The permission bits of the file, `mode & 0o7777`.
        mode: u32,
        /// What can be done with it, and by which users.
        what: &'static str,
        /// The command that helps.
        to_do: &'static str,
    },
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(io::Error),
}

/// Whether the group of this process may read keys.
///
/// One for the process: keys are read in many places and by all commands, and the rule must be the same in
/// all of them.
static GROUP_MAY_READ_KEYS: AtomicBool = AtomicBool::new(false);

/// Sets whether [`FileAccess::Owner`] also takes a file that the process's own group can read: Kubernetes
/// mounts keys so (mode 0440 or 0640, owner root, `fsGroup`). No other permission of others is accepted.
pub fn let_group_read_keys(is_accepted: bool) {
    GROUP_MAY_READ_KEYS.store(is_accepted, Ordering::Relaxed);
}

/// Whether others can do no more with a file than that members of a group of this process read it. Its owner
/// is root or this user, because the owner could change the mode.
fn is_readable_by_own_group(metadata: &Metadata) -> bool {
    let (own, group) = (rustix::process::geteuid().as_raw(), metadata.gid());
    let is_own = || {
        let groups = rustix::process::getgroups().unwrap_or_default();
        groups.into_iter().chain([rustix::process::getegid()]).any(|own| own.as_raw() == group)
    };
    metadata.mode() & 0o077 == 0o040 && [0, own].contains(&metadata.uid()) && is_own()
}

/// Who may use a file beside its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileAccess {
    /// No other user: keys that sign or seal for this service alone.
    Owner,
    /// Its group: keys and secrets that two services share, such as a web server and this one.
    Group,
    /// Every user may read it, and none but its owner and group may change it: configurations, databases,
    /// certificates that are trusted.
    ReadByAll,
}

impl FileAccess {
    /// Opens a file for reading, and refuses it if others may use it.
    pub fn open(self, path: &Path) -> Result<File, FileRefused> {
        let file = File::open(path).map_err(FileRefused::Io)?;
        self.check(&file.metadata().map_err(FileRefused::Io)?)?;
        Ok(file)
    }

    /// All bytes of such a file.
    pub fn read(self, path: &Path) -> Result<Zeroizing<Vec<u8>>, FileRefused> {
        let mut file = self.open(path)?;
        // Room for all of it, so that no part of a secret is left where the buffer was before it grew.
        let len = file.metadata().map_err(FileRefused::Io)?.len().min(1 << 20);
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(len).unwrap_or(0) + 1));
        file.read_to_end(&mut bytes).map_err(FileRefused::Io)?;
        Ok(bytes)
    }

    /// Refuses a file that others may use.
    pub fn check(self, metadata: &Metadata) -> Result<(), FileRefused> {
        let mode = metadata.permissions().mode() & 0o7777;
        let (refused, what, to_do) = match self {
            Self::Owner if mode & 0o077 == 0o040 => {
                if GROUP_MAY_READ_KEYS.load(Ordering::Relaxed) && is_readable_by_own_group(metadata) {
                    return Ok(());
                }
                let to_do = match GROUP_MAY_READ_KEYS.load(Ordering::Relaxed) {
                    true => "chmod 600, or give it to root and to a group of the service",
                    false => "chmod 600, or see group_readable_keys of [files] if Kubernetes mounts it",
                };
                (0o040, "read by its group", to_do)
            }
            Self::Owner => (0o077, "used by users other than its owner", "chmod 600"),
            Self::Group => (0o007, "used by every user", "chmod 600"),
            Self::ReadByAll => (0o002, "changed by every user", "chmod o-w"),
        };
        match mode & refused {
            0 => Ok(()),
            _ => Err(FileRefused::Mode { mode, what, to_do }),
        }
    }

    /// The same for a path, which need not be there.
    pub fn check_path(self, path: &Path) -> Result<(), FileRefused> {
        match path.metadata() {
            Ok(metadata) => self.check(&metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(FileRefused::Io(error)),
        }
    }
}

/// Writes a new file, which is on the disk afterwards. If a file of this name exists, it stays and the kind
/// of the error is `AlreadyExists`. If the file cannot be written as a whole, such as to a full disk, no part
/// of it is left: an empty key would look like a key, and stand in the way of the next try.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = std::fs::remove_file(path);
    }
    written
}

/// The files of an SQLite database: the file itself, its write-ahead log and the index of that.
pub fn database_files(path: &Path) -> [PathBuf; 3] {
    [path.to_owned(), beside_database(path, "-wal"), beside_database(path, "-shm")]
}

/// The name of a file that belongs to a database, by its end. If the name of the database is a link, SQLite
/// puts its files beside the file that the link leads to, under that file's name.
pub(crate) fn beside_database(path: &Path, end: &str) -> PathBuf {
    let mut name = path.canonicalize().unwrap_or_else(|_| path.to_owned()).into_os_string();
    name.push(end);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};

    #[test]
    fn a_file_is_refused_by_what_others_may_do_with_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&path, "secret").expect("it can be written");
        std::os::unix::fs::symlink(&path, &link).expect("it is new");
        for (mode, owner, group, by_all) in [
            (0o600, true, true, true),
            (0o400, true, true, true),
            (0o640, false, true, true),
            (0o660, false, true, true),
            (0o604, false, false, true),
            (0o601, false, false, true),
            (0o644, false, false, true),
            (0o602, false, false, false),
            (0o666, false, false, false),
        ] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it is ours");
            for (access, good) in
                [(FileAccess::Owner, owner), (FileAccess::Group, group), (FileAccess::ReadByAll, by_all)]
            {
                for path in [&path, &link] {
                    let read = access.read(path);
                    assert_eq!(read.is_ok_and(|bytes| *bytes == b"secret"), good, "{mode:o} {access:?}");
                    assert_eq!(access.check_path(path).is_ok(), good, "{mode:o} {access:?}");
                }
            }
        }
        let none = folder.path().join("none");
        FileAccess::Owner.check_path(&none).expect("nothing is there");
        let told = FileAccess::Owner.read(&none).expect_err("nothing is there").to_string();
        assert!(told.starts_with("cannot be read: No such file"), "{told}");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("it is ours");
        let told = FileAccess::Owner.read(&path).expect_err("others may read it").to_string();
        assert_eq!(told, "can be used by users other than its owner (mode 644): chmod 600");
    }

    #[test]
    fn the_files_of_a_database_are_beside_what_a_link_leads_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("it is there");
        fs::create_dir(root.join("data")).expect("a folder");
        let (path, link) = (root.join("data/real.db"), root.join("accounts.db"));
        std::os::unix::fs::symlink(&path, &link).expect("it is new");
        fs::write(&path, "").expect("it can be written");
        let logs = ["data/real.db-wal", "data/real.db-shm"].map(|name| root.join(name));
        assert_eq!(database_files(&path)[1..], logs);
        assert_eq!(database_files(&link)[1..], logs);
        let none = root.join("none.db");
        assert_eq!(database_files(&none)[1..], ["none.db-wal", "none.db-shm"].map(|name| root.join(name)));
    }
}
