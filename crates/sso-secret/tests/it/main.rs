//! The life of a secret on real files.

mod crash;
mod farm;
mod formats;
mod store;
#[cfg(feature = "pkcs11")]
mod token;

use sso_secret::{
    Disk, KeyFile, MachineId, Passphrase, PassphraseCost, Purpose, RealDisk, SealingSource, SecretStore,
    UnixTime,
};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use zeroize::Zeroizing;

/// A file that `vectors/make.py` wrote.
fn vector(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)).expect(name)
}

fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("it can be written");
    fs::set_permissions(path, Permissions::from_mode(0o600)).expect("it is ours");
}

/// The same key in each folder.
fn key_file(folder: &Path) -> Arc<dyn SealingSource> {
    let path = folder.join("key");
    if !path.exists() {
        put(&path, &vector("key.bin"));
    }
    Arc::new(KeyFile::file(&path))
}

fn passphrase(text: &'static str) -> Arc<dyn SealingSource> {
    Arc::new(Passphrase::typed(Zeroizing::new(text.to_owned())).with_cost(PassphraseCost::MIN))
}

fn purpose(name: &str) -> Purpose {
    Purpose::new(name).expect("a purpose")
}

/// Before all times of the tests, so that no overlap ends at a look.
fn long_ago() -> UnixTime {
    UnixTime(0)
}

/// A store in a folder, on machine `m`.
fn store_in(folder: &Path) -> SecretStore {
    SecretStore::new(folder, key_file(folder), MachineId::new("m")).with_clock(long_ago)
}

/// A disk that works for some steps and fails for all later ones, as if the process had ended. A write that
/// is cut leaves its first half.
struct CutDisk {
    left: AtomicUsize,
}

impl CutDisk {
    fn after(steps: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(steps) })
    }

    fn was_cut(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    fn step(&self) -> io::Result<()> {
        let before = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        before.map(drop).map_err(|_| io::Error::other("cut"))
    }
}

impl Disk for CutDisk {
    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<fs::File> {
        if let Err(error) = self.step() {
            let _ = RealDisk.write_new(path, &bytes[..bytes.len() / 2]);
            return Err(error);
        }
        RealDisk.write_new(path, bytes)
    }

    fn append(&self, file: &fs::File, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.step() {
            let _ = RealDisk.append(file, &bytes[..bytes.len() / 2]);
            return Err(error);
        }
        RealDisk.append(file, bytes)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.step().and_then(|()| RealDisk.sync(path))
    }

    fn sync_system(&self, path: &Path) -> io::Result<()> {
        self.step().and_then(|()| RealDisk.sync_system(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step().and_then(|()| RealDisk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        // Removing what is not there changes nothing.
        match path.exists() {
            true => self.step().and_then(|()| RealDisk.remove(path)),
            false => RealDisk.remove(path),
        }
    }
}
