//! The keytab, read again when the file changes. Contexts that are set up stay.

use account_store::FileAccess;
use anyhow::{Context, bail};
use rpc_auth::kerberos::{Keytab, MachineAccount, SharedKeytab};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tracing::{error, info, warn};

/// A keytab that follows its file.
#[derive(Debug)]
pub struct WatchedKeytab {
    path: PathBuf,
    shared: Arc<SharedKeytab>,
    stamp: Mutex<Option<Stamp>>,
}

/// Inode, length and time of change.
type Stamp = (u64, u64, i64, i64);

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = path.metadata().ok()?;
    Some((metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec()))
}

/// Reads a keytab that only its owner and group may read.
pub(crate) fn read(path: &Path) -> anyhow::Result<Keytab> {
    let bytes =
        FileAccess::Group.read(path).map_err(|error| anyhow::anyhow!("{} {error}", path.display()))?;
    Keytab::decode(&bytes).with_context(|| format!("{} is not a keytab", path.display()))
}

impl WatchedKeytab {
    /// Reads the keytab for the first time. A keytab without AES keys is an error.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let stamp = stamp(path);
        let keytab = read(path).context("cannot use sso.kerberos.keytab")?;
        for problem in keytab.problems(&MachineAccount::default()) {
            match problem.is_error() {
                true => bail!("cannot use sso.kerberos.keytab {}: {problem}", path.display()),
                false => warn!(path = %path.display(), problem = %problem, "Keytab has a weakness"),
            }
        }
        let shared = Arc::new(SharedKeytab::new(keytab));
        Ok(Self { path: path.to_owned(), shared, stamp: Mutex::new(stamp) })
    }

    /// The keytab that acceptors use.
    pub fn shared(&self) -> Arc<SharedKeytab> {
        Arc::clone(&self.shared)
    }

    /// Reads the file again if it changed. A file that cannot be used leaves the keys as they are. Blocks.
    pub fn look(&self) {
        let now = stamp(&self.path);
        let mut known = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == now {
            return;
        }
        *known = now;
        match read(&self.path) {
            Ok(keytab) if keytab.problems(&MachineAccount::default()).iter().any(|it| it.is_error()) => {
                error!(path = %self.path.display(), "Keytab has no AES key: the previous keys stay in use");
            }
            Ok(keytab) => {
                info!(path = %self.path.display(), keys = keytab.entries.len(), "Keytab read again");
                self.shared.store(keytab);
            }
            Err(error) => {
                error!(path = %self.path.display(), error = format!("{error:#}"), "Keytab cannot be read: the previous keys stay in use");
            }
        }
    }
}
