//! Files of one owner, replaced atomically, through a layer that tests cut at each step.

use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The steps of which each write consists. A test injects its own, which fails at any one of them.
pub trait Disk: Send + Sync {
    /// Writes a new file with mode 0600; [`io::ErrorKind::AlreadyExists`] if there is one. Owner and mode are
    /// set on the file that is returned: the owner of the folder may put another file under its name.
    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<File>;
    /// Appends to a file that is open for it.
    fn append(&self, file: &File, bytes: &[u8]) -> io::Result<()>;
    /// Waits until the contents of a file, or the names in a folder, are on the disk.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// The same for all that was written so far to the file system of a file: for many files at once.
    fn sync_system(&self, path: &Path) -> io::Result<()>;
    /// Gives a file another name; a file of that name is replaced in the same step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<File> {
        let mut file = create_new(path)?;
        file.write_all(bytes)?;
        Ok(file)
    }

    fn append(&self, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        open_to_sync(path)?.sync_all()
    }

    fn sync_system(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::syncfs(open_to_sync(path)?)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

/// Replaces `path`, or creates it: after a crash at any moment it has the old contents or the new ones.
///
/// The caller holds the write lock: a temporary file that is there already was left by a writer that was
/// killed.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = beside(path, ".tmp");
    remove_if_there(disk, &draft)?;
    if let Err(error) = write_owned(disk, &draft, bytes).and_then(|()| disk.rename(&draft, path)) {
        let _ = disk.remove(&draft);
        return Err(error);
    }
    disk.sync(folder_of(path))
}

/// Writes a new file that belongs to the owner of its folder, and waits until it is on the disk.
pub(crate) fn write_owned(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = disk.write_new(path, bytes)?;
    own_like_folder(&file, path)?;
    disk.sync(path)
}

/// Removes a file that may be there.
pub(crate) fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Opens a lock file and takes its lock; creates the file if there is none, and syncs its name.
pub(crate) fn open_lock(
    disk: &dyn Disk,
    options: &mut OpenOptions,
    path: &Path,
) -> Result<File, TryLockError> {
    let created = match disk.write_new(path, &[]) {
        Ok(file) => own_like_folder(&file, path).and_then(|()| disk.sync(folder_of(path))),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    };
    let lock = created.and_then(|()| open_no_link(options, path)).map_err(TryLockError::Error)?;
    // A user who can open it can hold the lock.
    check_owner_only(&lock).map_err(TryLockError::Error)?;
    lock.try_lock()?;
    Ok(lock)
}

/// Gives a new file to the owner of the folder of `path`. An operator who works as root leaves files that the
/// service can read.
fn own_like_folder(file: &File, path: &Path) -> io::Result<()> {
    let folder = folder_of(path).metadata()?;
    if !rustix::process::geteuid().is_root() || file.metadata()?.uid() == folder.uid() {
        return Ok(());
    }
    std::os::unix::fs::fchown(file, Some(folder.uid()), Some(folder.gid()))
}

/// Opens the file of this name. A link is refused, and a pipe is not waited for: an operator who works as
/// root in the folder of another user must not be led elsewhere.
pub(crate) fn open_no_link(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    open_regular(options, path, OFlags::NOFOLLOW).map_err(|error| {
        match error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
            true => io::Error::other("a symbolic link, which is not followed here"),
            false => error,
        }
    })
}

/// Opens a folder, which may be named by a link, or the file of this name: see [`open_no_link`].
fn open_to_sync(path: &Path) -> io::Result<File> {
    // With this flag nothing but a folder is opened.
    let flags = OFlags::DIRECTORY.bits() as i32;
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            open_no_link(OpenOptions::new().read(true), path)
        }
        opened => opened,
    }
}

/// Opens a regular file. A pipe has no reader or writer to wait for, and is refused like a device.
fn open_regular(options: &mut OpenOptions, path: &Path, flags: OFlags) -> io::Result<File> {
    let file = options.custom_flags((flags | OFlags::NONBLOCK).bits() as i32).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("not a regular file")),
    }
}

/// Writes a new file with mode 0600, which is on the disk afterwards. A file that exists is never touched. If
/// the file cannot be written as a whole, no part of it is left.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create_new(path)?;
    if let Err(error) = file.write_all(bytes).and_then(|()| file.sync_all()) {
        let _ = fs::remove_file(path);
        return Err(error);
    }
    RealDisk.sync(folder_of(path))
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// All bytes of a file that only its owner may use, and that has at most `max` of them. A link is followed:
/// key files are often mounted as links.
///
/// The file that was opened is checked, not its path, so no other file can take its place in between.
pub(crate) fn read_bounded(path: &Path, max: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = open_regular(OpenOptions::new().read(true), path, OFlags::empty())?;
    check_owner_only(&file)?;
    read_at_most(&file, max)
}

/// The same for a file that this crate replaces: it is never a link.
pub(crate) fn read_replaced(path: &Path, max: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = open_no_link(OpenOptions::new().read(true), path)?;
    check_owner_only(&file)?;
    read_at_most(&file, max)
}

/// The bytes of a file that belongs to the owner of its folder, whatever its permissions are. What is read
/// may be given to that owner: a link, or a second name of the file of another user, would give away what the
/// owner cannot read.
pub(crate) fn read_of_folder_owner(path: &Path, max: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = open_no_link(OpenOptions::new().read(true), path)?;
    if file.metadata()?.uid() != folder_of(path).metadata()?.uid() {
        return Err(io::Error::other("belongs to another user than its folder: chown it, or move it away"));
    }
    read_at_most(&file, max)
}

fn read_at_most(file: &File, max: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    // Room for all of it, so that no part of a secret is left where the buffer was before it grew.
    let mut bytes = Zeroizing::new(Vec::with_capacity(max + 1));
    file.take(max as u64 + 1).read_to_end(&mut bytes)?;
    match bytes.len() > max {
        true => Err(io::Error::other(format!("longer than {max} octets"))),
        false => Ok(bytes),
    }
}

/// Refuses a file that other users may use.
fn check_owner_only(file: &File) -> io::Result<()> {
    let mode = file.metadata()?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("can be used by users other than its owner (mode {mode:03o}): chmod 600"),
        ));
    }
    Ok(())
}

/// The mode of a folder, if users other than its owner can write to it.
pub(crate) fn mode_if_shared(folder: &Path) -> io::Result<Option<u32>> {
    let mode = folder.metadata()?.permissions().mode() & 0o7777;
    Ok((mode & 0o022 != 0).then_some(mode))
}

/// The folder of a file.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The file of the same name with `end` appended.
pub(crate) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::os::unix::fs::symlink;

    /// The owner of the folder may put anything under the name of a file, and root must not wait for it.
    #[test]
    fn a_pipe_or_link_is_not_synced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name| folder.path().join(name);
        fs::write(path("file"), b"").expect("it is written");
        mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
        for (target, link) in [("file", "link"), ("pipe", "link to a pipe"), (".", "link to a folder")] {
            symlink(path(target), path(link)).expect("it is new");
        }
        for (name, refused) in [
            ("file", None),
            ("link to a folder", None),
            ("pipe", Some("not a regular file")),
            ("link", Some("symbolic link")),
            ("link to a pipe", Some("symbolic link")),
        ] {
            for synced in [RealDisk.sync(&path(name)), RealDisk.sync_system(&path(name))] {
                let why = synced.err().map(|error| error.to_string());
                match refused {
                    Some(part) => assert!(why.is_some_and(|why| why.contains(part)), "{name}"),
                    None => assert_eq!(why, None, "{name}"),
                }
            }
        }
        for synced in [RealDisk.sync(folder.path()), RealDisk.sync_system(folder.path())] {
            synced.expect("a folder is synced");
        }
    }
}
