//! The drill: a backup is restored elsewhere, and opens what the live store seals.

use crate::backup::BackupError;
use crate::blob::{self, Purpose};
use crate::secret::Keyring;
use crate::source::{HeldKey, SealingSource};
use crate::store::{MachineId, OpenSecret, SecretStore, StoreError};
use crate::time::UnixTime;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl SecretStore {
    /// Restores a backup into a new folder below `scratch`, opens it from there, and proves that it opens
    /// what each live generation seals. Notes the time if all of it passed. The copy is sealed under a key
    /// that exists only in memory, and is removed.
    pub fn drill(
        &self,
        bytes: &[u8],
        key: &dyn SealingSource,
        scratch: &Path,
        now: UnixTime,
    ) -> Result<Arc<OpenSecret>, StoreError> {
        let live = self.open()?;
        let purpose = Purpose::new("rcmpd/drill").expect("the name is short and plain");
        let mut expected = [0; 32];
        getrandom::fill(&mut expected).map_err(BackupError::Random)?;
        let mut probes = Vec::new();
        for (generation, secret) in live.generations() {
            let probe = blob::seal(&Keyring::new(secret.clone()), &purpose, &[], &expected);
            probes.push((generation, probe.map_err(|error| StoreError::NotAdded(error.to_string()))?));
        }
        let folder = Scratch::new(scratch)?;
        let source = Arc::new(HeldKey::random("memory").map_err(BackupError::Random)?);
        let elsewhere =
            || SecretStore::new(&folder.0, source.clone(), MachineId::new("drill")).with_clock(self.clock());
        elsewhere().restore_scratch(bytes, key, now)?;
        let restored = elsewhere().open()?.keyring();
        drop(folder);
        for (generation, probe) in probes {
            if !blob::open(&restored, &purpose, &[], &probe).is_ok_and(|opened| *opened.plain == expected) {
                return Err(StoreError::Drill { number: generation.number, key_id: generation.key_id });
            }
        }
        self.note_drill(now)
    }
}

/// A folder that is removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(below: &Path) -> Result<Self, StoreError> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(BackupError::Random)?;
        let name = dtyp::hex(&random);
        let path = below.join(format!("master-secret-drill-{name}"));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| StoreError::File { path: path.clone(), error })?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
