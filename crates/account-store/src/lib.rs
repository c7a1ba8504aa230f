//! Accounts with their groups, and machines with their secrets, behind object-safe traits.
//!
//! A reader may rely on this: a look-up answers with a value. *Absence* and *more than one* are values of
//! [`Matches`]; `Err` means that the store could not answer, which is never the same as no. Text is compared
//! by the keys of [`index`], so every store finds the same accounts. The [contract](store) says what a store
//! keeps and what a caller may expect; the `battery` (feature `battery`) tests it.
//!
//! | trait | who needs it |
//! | --- | --- |
//! | [`AccountStore`] | a service that decides |
//! | [`AccountListing`] | `mapping audit`, explanations, warnings about names that are not there |
//! | [`AccountAdmin`] | commands that change accounts and groups |
//! | [`MachineStore`], [`MachineAdmin`] | a service with secure channels; commands that change machines |
//! | [`NtHashes`] | a service that authenticates users by NTLM; commands that set their passwords |
//! | [`PasswordHashes`] | a service that gets passwords from users; commands that set them |
//!
//! ```
//! use account_store::{Account, AccountAdmin, AccountStore, Change, Domain, Matches, MemoryStore, Put, Query};
//! # fn now<T>(future: impl Future<Output = T>) -> T {
//! #     let mut context = std::task::Context::from_waker(std::task::Waker::noop());
//! #     match std::pin::pin!(future).poll(&mut context) {
//! #         std::task::Poll::Ready(value) => value,
//! #         std::task::Poll::Pending => unreachable!("a store in memory answers at once"),
//! #     }
//! # }
//! # now(async {
//! let domain = Domain { netbios: "CONTOSO".into(), dns: "contoso.example".into(), sid: "S-1-5-21-1-2-3".parse()? };
//! let store = MemoryStore::new(domain);
//!
//! // The SID of the domain stands for the next free one.
//! let mut alice = Account::new("alice", store.domain().sid);
//! alice.user_principal_name = Some("alice@contoso.example".into());
//! store.apply(&mut [Ok(Change::PutAccount(Put::New, Box::new(alice)))].into_iter()).await?;
//!
//! let query = Query::UserPrincipalName("ALICE@contoso.example".into());
//! let Matches::One(record) = store.find(&query).await? else { panic!("alice is there") };
//! assert_eq!(record.account.sid.to_string(), "S-1-5-21-1-2-3-1000");
//! assert_eq!(store.find(&Query::Name("bob".into())).await?, Matches::None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod account;
pub mod admin;
pub mod alt_security_identity;
#[cfg(any(feature = "battery", all(test, feature = "memory")))]
pub mod battery;
#[cfg(feature = "cache")]
pub mod cache;
#[cfg(feature = "database")]
pub mod columns;
pub mod difference;
pub mod distinguished_name;
pub mod file_access;
pub mod fold;
pub mod index;
pub mod json_lines;
pub mod machines;
#[cfg(feature = "memory")]
pub mod memory;
pub mod nt_hashes;
pub mod password_hashes;
pub mod privileged;
#[cfg(feature = "profile")]
pub mod profile;
pub mod rules;
#[cfg(feature = "database")]
pub mod sealing;
pub mod search_parts;
#[cfg(feature = "several")]
pub mod several;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod store;
pub mod unmatchable;
pub mod visible;
#[cfg(feature = "memory")]
pub mod writer;

pub use account::{Account, AccountFlags, AccountKind, Group, GroupScope, Membership, Profile};
pub use admin::{
    AccountAdmin, AccountListing, Change, Changes, DomainStore, Forgotten, MachineAdmin, Put, Summary,
};
pub use alt_security_identity::AltSecurityIdentity;
#[cfg(feature = "cache")]
pub use cache::{CacheSettings, CachedStore};
pub use distinguished_name::DistinguishedName;
pub use file_access::{FileAccess, FileRefused};
pub use machines::{ChannelKind, Machine, MachineRecord, MachineStore, NtHash, Secrets};
#[cfg(feature = "memory")]
pub use memory::MemoryStore;
pub use nt_hashes::NtHashes;
pub use password_hashes::{PasswordHash, PasswordHashes};
#[cfg(feature = "profile")]
pub use profile::ProfileStore;
pub use rules::RID_FIRST;
#[cfg(feature = "database")]
pub use sealing::SealingKey;
#[cfg(feature = "several")]
pub use several::{Part, SeveralStore};
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteStore;
#[cfg(feature = "tokens")]
pub use sqlite::{MESSAGES_MAX, SqliteTokens, TOKENS_MAX, TokenHash};
pub use store::{AccountStore, BoxFuture, Domain, Matches, Query, Record, Revision, StoreError};
pub use unmatchable::Unmatchable;
