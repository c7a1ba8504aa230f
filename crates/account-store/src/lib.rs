//! Who is known here: accounts with their groups, behind one object-safe trait.
//!
//! A reader may rely on this: a look-up answers with a value. *Absence* and *more than one* are values of
//! [`Matches`]; `Err` means that the store could not answer, which is never the same as no. Text is compared
//! by the keys of [`fold`], so every backend finds the same accounts; what the battery
//! (`account_store_battery!`) does not check is not promised.

pub mod account;
pub mod admin;
pub mod alt_security_identity;
#[cfg(all(test, feature = "memory"))]
mod battery;
pub mod distinguished_name;
pub mod file_access;
pub mod fold;
#[cfg(feature = "memory")]
mod index;
pub mod json_lines;
pub mod machines;
#[cfg(feature = "memory")]
pub mod memory;
pub mod privileged;
#[cfg(feature = "profile")]
pub mod profile;
#[cfg(feature = "memory")]
mod rules;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod store;
pub mod unmatchable;
#[cfg(feature = "memory")]
mod writer;

pub use account::{Account, AccountFlags, AccountKind, Group, GroupScope, Membership, Profile};
pub use admin::{AccountAdmin, Change, Changes, Put};
pub use alt_security_identity::AltSecurityIdentity;
pub use distinguished_name::DistinguishedName;
pub use file_access::{FileAccess, FileRefused};
pub use machines::{ChannelKind, Machine, MachineRecord, MachineStore, NtHash, Secrets};
#[cfg(feature = "memory")]
pub use memory::MemoryStore;
#[cfg(feature = "profile")]
pub use profile::ProfileStore;
#[cfg(feature = "memory")]
pub use rules::RID_FIRST;
#[cfg(feature = "sqlite")]
pub use sqlite::{SealingKey, SqliteStore};
pub use store::{AccountStore, BoxFuture, Domain, Matches, Query, Record, Revision, StoreError};
pub use unmatchable::Unmatchable;
