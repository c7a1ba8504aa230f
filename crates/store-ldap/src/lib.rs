//! A read-only store of accounts in an LDAP directory: Active Directory and Samba, or OpenLDAP, 389 and
//! others with configured attributes.
//!
//! ```text
//! LdapStore ─► Pool (servers, back-off, binds) ─► Connection (searches that are sent together) ─► TLS ─► server
//!     └─► schema: ad, generic (filters, entries, groups)
//! ```
//!
//! A reader may rely on this:
//! - **The directory finds, our comparison decides.** Filters are as wide as [`account_store::index`] needs
//!   (`candidate_filter` says which part of it), and each candidate is compared again here.
//! - **Only success is an answer.** Every other result, a reference to another server, a limit, an attribute that
//!   may not be read is an error, never "no such account" and never a shorter list of groups.
//! - **One answer is of one server and one deadline.** A question has [`Settings::timeout`], whatever it waits for.
//!   With a global catalog, the catalog says whose the account is, and one server of our domain says all else.
//! - **What a server sends is checked while it is read** (`message`): lengths, nesting, shapes, IDs.
//! - **Nothing but TLS.** Before TLS, StartTLS alone is sent. The CAs are those of [`Settings::ca`], and the
//!   certificate has to name the server in its subjectAltName.
//! - **A filter is a value.** No byte of a certificate changes its shape (`filter`).
//!
//! It never has secrets of machines or users, and never binds as a user.

mod ad;
mod backoff;
mod ber;
mod binds;
mod candidate_filter;
mod connection;
mod entry;
mod failed;
mod failover_refusals;
mod filter;
mod forest;
mod generic;
mod log_limiter;
mod mail;
mod matching;
mod message;
mod meter;
mod pool;
mod schema;
mod server;
mod settings;
mod store;
mod walk;

pub use binds::Binds;
pub use candidate_filter::Accents;
pub use failover_refusals::Refusals;
pub use filter::Attribute;
#[doc(hidden)]
pub use message::{Attributes, read_any};
pub use meter::{Meter, STEPS};
pub use server::{Server, TlsMode};
pub use settings::{
    AdSettings, Discover, GenericSettings, GroupMembership, ReadSecrets, RidRange, Schema, Servers, Settings,
    StatePreset,
};
pub use store::LdapStore;
pub use walk::{Flaw, Seen, SeenAccount, SeenGroup, Wrong};
