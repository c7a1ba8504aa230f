//! The life of the master secret: sealed at rest, generations, backups, and what callers seal under it.
//!
//! Two sides use this crate.
//!
//! **The master secret server** and its operator's commands hold a [`SecretStore`]: one sealed file in a data
//! folder. It is in one of four states: there is no secret; it is sealed, with the name of what is missing;
//! it was rolled back to an older file; or it is open. `generate`, `rotate`, `import`, `restore` change it;
//! `backup`, `drill`, `status` tell of it. A secret is never generated because something is missing.
//!
//! ```no_run
//! use sso_secret::{KeyFile, MachineId, SecretStore, State, UnixTime};
//! use std::sync::Arc;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let source = Arc::new(KeyFile::file("/etc/rcmpd/unseal.key".as_ref()));
//! let store = SecretStore::new("/var/lib/rcmpd/sso".as_ref(), source, MachineId::from_system());
//! match store.state() {
//!     State::None => drop(store.generate(UnixTime::now())?),
//!     State::Sealed(sealed) | State::RolledBack(sealed) => eprintln!("Master secret is sealed: {sealed}"),
//!     State::Open(open) => drop(open.newest().1.expose()),
//! }
//! # Ok(()) }
//! ```
//!
//! **A node of the farm** gets 16 octets from the server. It keeps them, and older ones for the overlap, in
//! [`NodeKeys`], and uses [`blob::seal`], [`blob::open`], [`blob::reseal`] and [`reseal::reseal_files`].
//!
//! The wire carries no generation number. A secret is named by its [`KeyId`], 8 public octets derived from
//! it, which each blob carries.
//!
//! The crate reads files and draws random numbers. It has no tasks and no sockets. The wall clock is an
//! argument; a store reads it itself ([`SecretStore::with_clock`]) to drop generations whose overlap has
//! ended.

pub mod backup;
pub mod blob;
mod drill;
mod envelope;
mod files;
mod generation;
pub mod memory;
pub mod node;
pub mod recipient;
mod record;
pub mod reseal;
mod secret;
pub mod share;
pub mod source;
pub mod status;
pub mod store;
mod time;

#[cfg(feature = "pkcs11")]
pub mod token;

pub use blob::{BlobError, Opened, Purpose};
pub use envelope::FormatError;
pub use files::{Disk, RealDisk};
pub use generation::{GENERATIONS_MAX, Generation, Origin, Overlap};
pub use memory::PageLock;
pub use node::NodeKeys;
pub use recipient::{Recipient, RecipientKey};
pub use secret::{KeyId, Keyring, MasterSecret, NotASecret};
pub use source::{
    HeldKey, KeyFile, Passphrase, PassphraseCost, Sealed, SealingSource, SourceError, SourceKind,
};
pub use status::Status;
pub use store::{MachineId, MadeBackup, OpenSecret, RestoreRules, SecretStore, State, StoreError};
pub use time::UnixTime;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

/// HKDF-SHA256 (RFC 5869) over the concatenated `info`.
fn derive<const N: usize>(salt: Option<&[u8]>, secret: &[u8], info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    let mut key = Zeroizing::new([0; N]);
    // INVARIANT: N is far below the 255 hashes that HKDF gives.
    Hkdf::<Sha256>::new(salt, secret).expand_multi_info(info, key.as_mut()).expect("the key is short");
    key
}
