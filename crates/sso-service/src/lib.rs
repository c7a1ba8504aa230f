//! [MS-SSP]: the master secret server and its client, without sockets.
//!
//! - [`message`] has the two stubs of RemoteGetMasterSecret, for both sides.
//! - [`Administrators`] is the list of users who may obtain the secret, and the rules by which an identity
//!   matches it.
//! - [`MasterSecretServer`] answers calls. It gets the secret, the accounts and the audit log by traits.
//! - [`client`] reads an answer and returns each code and fault unchanged. It never acts on one.

mod administrators;
pub mod client;
pub mod message;
mod return_code;
mod secret;
mod server;

pub use administrators::{AccessRules, Administrator, Administrators, Denial, EntryRefused, LocalDomain};
pub use message::{MASTER_SECRET, NdrRange, REMOTE_GET_MASTER_SECRET};
pub use return_code::ReturnCode;
pub use rpc_auth::kerberos::RealmKind;
pub use secret::MasterSecret;
pub use server::{
    Accounts, Answer, AuditFailed, BoxFuture, CurrentSecret, Delivery, DeliveryAudit, MasterSecretCall,
    MasterSecretServer, MasterSecrets, Outcome, SecretState, StoreFailed,
};
