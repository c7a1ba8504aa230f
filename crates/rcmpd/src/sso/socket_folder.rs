//! Who could put another file in the place of one: the folders on the way to it.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Checks that only `owners` can put something under the name of this file. The error is a sentence.
///
/// Each folder on the way belongs to one of them, and other users cannot write to it. A folder above, as
/// /tmp, may be written to by all if it has the sticky bit and what is below it belongs to one of `makers`:
/// others cannot rename that, but could have made their own before.
pub(crate) fn check(file: &Path, owners: &[u32], makers: &[u32]) -> Result<(), String> {
    let folder = crate::config::base(file);
    let failed = |error| format!("the folder {} cannot be used: {error}", folder.display());
    let real = folder.canonicalize().map_err(failed)?;
    let mut below = None;
    for folder in real.ancestors() {
        let metadata = folder.metadata().map_err(failed)?;
        let (mode, owner) = (metadata.permissions().mode() & 0o7777, metadata.uid());
        if !owners.contains(&owner) {
            return Err(format!(
                "the folder {} belongs to user {owner}, who could put another file there",
                folder.display()
            ));
        }
        let is_sticky = mode & 0o1000 != 0 && below.is_some_and(|below| makers.contains(&below));
        if mode & 0o022 != 0 && !is_sticky {
            return Err(format!(
                "other users can write to the folder {} (mode {mode:03o}): choose a folder of the service, as below /run, or chmod go-w",
                folder.display()
            ));
        }
        below = Some(owner);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::geteuid;
    use std::fs::{self, Permissions};

    #[test]
    fn a_folder_that_others_can_write_to_or_made_is_refused() {
        let above = tempfile::tempdir().expect("a folder");
        let folder = above.path().join("run");
        fs::create_dir(&folder).expect("it is new");
        let socket = folder.join("s");
        let set =
            |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).expect("own folder");
        let us = [0, geteuid().as_raw()];
        for (above_mode, mode, why) in [
            (0o755, 0o755, None),
            (0o755, 0o700, None),
            (0o755, 0o770, Some("other users can write")),
            (0o755, 0o777, Some("other users can write")),
            (0o755, 0o1777, Some("other users can write")),
            (0o777, 0o755, Some("other users can write")),
            (0o1777, 0o755, None),
        ] {
            set(above.path(), above_mode);
            set(&folder, mode);
            let checked = check(&socket, &us, &us);
            match why {
                Some(why) => {
                    assert!(checked.is_err_and(|error| error.contains(why)), "{above_mode:o} {mode:o}")
                }
                None => assert_eq!(checked, Ok(()), "{above_mode:o} {mode:o}"),
            }
        }
        // Below a sticky folder, a folder that another user may have made first.
        set(above.path(), 0o1777);
        let no_makers = check(&socket, &us, &[]);
        assert!(no_makers.is_err_and(|error| error.contains("other users can write")));
        let others = check(&socket, &[u32::MAX], &us);
        assert!(others.is_err_and(|error| error.contains("belongs to user")));
        let missing = check(&above.path().join("none/s"), &us, &us);
        assert!(missing.is_err_and(|error| error.contains("cannot be used")));
    }
}
