//! The secret of a trust in a file, with the next secret beside it during a rotation.
//!
//! `rcmpd domain rotate` writes `FILE.next`, sends it to the other side, and renames `FILE.next` to `FILE`.
//! If it is interrupted, one of the two is the secret that the other side has. The previous secret is not
//! kept, because it must not be accepted any more.

use crate::{SecretMissing, SecretRef};
use netlogon_tokio::{AccountSecrets, BoxError};
use netlogon_transport::secret::SharedSecret;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The secrets to try, the present one first.
pub fn candidates(secret: &SecretRef) -> Result<Vec<Zeroizing<String>>, SecretMissing> {
    let mut secrets = Vec::with_capacity(2);
    let present = secret.read();
    if let SecretRef::File(path) = secret {
        let read = [present, SecretRef::File(next(path)).read()];
        let mut missing = None;
        for secret in read {
            match secret {
                Ok(secret) if !secrets.contains(&secret) => secrets.push(secret),
                Ok(_) => {}
                Err(error) => missing = missing.or(Some(error)),
            }
        }
        return match missing {
            Some(missing) if secrets.is_empty() => Err(missing),
            _ => Ok(secrets),
        };
    }
    secrets.push(present?);
    Ok(secrets)
}

impl AccountSecrets for SecretRef {
    fn candidates(&self) -> Result<Vec<SharedSecret>, BoxError> {
        Ok(candidates(self)?.iter().map(|text| SharedSecret::from_password(text)).collect())
    }

    fn is_changing(&self) -> bool {
        is_changing(self)
    }
}

/// Whether a rotation is running or was interrupted.
pub fn is_changing(secret: &SecretRef) -> bool {
    matches!(secret, SecretRef::File(path) if next(path).exists())
}

/// The file of the next secret.
pub fn next(path: &Path) -> PathBuf {
    beside(path, ".next")
}

/// Writes the next secret. It is on disk before it is sent to the other side. An existing one is never
/// replaced, because the other side may have accepted it.
pub fn write_next(path: &Path, secret: &str) -> std::io::Result<()> {
    let draft = beside(path, &format!(".{}.new", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let written = file
        .write_all(secret.as_bytes())
        .and_then(|()| file.write_all(b"\n"))
        .and_then(|()| file.sync_all())
        // A user that can read the current one must be able to read the next.
        .and_then(|()| match path.metadata() {
            Ok(present) => fchown(&file, Some(present.uid()), Some(present.gid())),
            Err(_) => Ok(()),
        })
        // It gets its name when it is complete, and replaces no file.
        .and_then(|()| std::fs::hard_link(&draft, next(path)));
    std::fs::remove_file(&draft)?;
    written?;
    sync_folder(path)
}

/// Renames `FILE.next` to `FILE`, atomically: the next secret becomes the present one.
pub fn advance(path: &Path) -> std::io::Result<()> {
    std::fs::rename(next(path), path)?;
    sync_folder(path)
}

/// Syncs the folder of a file. A new name is on the disk only after that (fsync(2)).
fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_leaves_a_usable_secret_wherever_it_is_stopped() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.secret");
        let tried = || {
            candidates(&SecretRef::File(file.clone()))
                .map(|secrets| secrets.iter().map(|secret| secret.as_str().to_owned()).collect::<Vec<_>>())
                .ok()
        };
        assert_eq!(tried(), None);
        let secret = SecretRef::File(file.clone());
        std::fs::write(&file, "one\n").expect("it can be written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&file, mode).expect("it is ours");
        assert!(!is_changing(&secret));
        write_next(&file, "two").expect("it can be written");
        assert!(is_changing(&secret));
        assert_eq!(tried().expect("there are two"), ["one", "two"], "the present one first");
        assert!(write_next(&file, "three").is_err(), "the other side may know the second already");
        assert_eq!(tried().expect("there are two"), ["one", "two"]);
        advance(&file).expect("it can be moved");
        assert_eq!(tried().expect("there is one"), ["two"], "what was is forgotten");
        assert!(
            advance(&file).is_err() && tried().is_some(),
            "there is nothing to move, and nothing is lost"
        );
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&file.metadata().expect("it is there").permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(
            std::fs::read_dir(folder.path()).expect("a folder").count(),
            1,
            "and nothing is left behind"
        );
    }
}
