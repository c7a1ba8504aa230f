//! The secret of a trust, which is being changed now and then: in a file, with what it was before and what it will be beside it.
//!
//! `rcmpd domain rotate` writes `FILE.next`, tells the other side, moves `FILE` to `FILE.previous` and `FILE.next` to `FILE`. Whatever
//! it is stopped at, one of the three is the secret that the other side knows.

use crate::config::{SecretMissing, SecretRef};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The secrets to try, the present one first.
pub fn candidates(secret: &SecretRef) -> Result<Vec<Zeroizing<String>>, SecretMissing> {
    let mut secrets = Vec::with_capacity(3);
    let present = secret.read();
    if let SecretRef::File(path) = secret {
        let others = [next(path), previous(path)].map(|path| SecretRef::File(path).read());
        let read = [present].into_iter().chain(others);
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

/// What the secret will be, while it is changed.
pub fn next(path: &Path) -> PathBuf {
    beside(path, ".next")
}

/// What it was before.
pub fn previous(path: &Path) -> PathBuf {
    beside(path, ".previous")
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
    fn whatever_is_there_is_tried_the_present_one_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.secret");
        let tried = || {
            candidates(&SecretRef::File(file.clone()))
                .map(|secrets| secrets.iter().map(|secret| secret.as_str().to_owned()).collect::<Vec<_>>())
                .ok()
        };
        assert_eq!(tried(), None);
        std::fs::write(previous(&file), "old\n").expect("it can be written");
        assert_eq!(tried().as_deref(), Some(&["old".to_owned()][..]), "stopped between two moves");
        std::fs::write(&file, "present\n").expect("it can be written");
        std::fs::write(next(&file), "new\n").expect("it can be written");
        assert_eq!(tried().expect("there are some"), ["present", "new", "old"]);
        std::fs::write(next(&file), "present").expect("it can be written");
        assert_eq!(tried().expect("there are some"), ["present", "old"]);
    }
}
