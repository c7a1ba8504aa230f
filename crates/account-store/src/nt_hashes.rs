//! NT hashes of users, for services that authenticate by NTLM.

use crate::machines::NtHash;
use crate::store::{BoxFuture, StoreError};
use dtyp::Sid;

/// A store that keeps NT hashes of user accounts. An account without one cannot log on by NTLM. The contract
/// of [`crate::store`] holds here too.
pub trait NtHashes: Send + Sync {
    /// The hash of the account with this SID; `None` if there is no such account, or it has no hash. Whether
    /// the account may log on is not decided here.
    fn nt_hash<'a>(&'a self, sid: &'a Sid) -> BoxFuture<'a, Result<Option<NtHash>, StoreError>>;

    /// Writes or removes the hash of an account. An account that is not there is [`StoreError::Refused`].
    fn set_nt_hash(&self, sid: Sid, hash: Option<NtHash>) -> BoxFuture<'_, Result<(), StoreError>>;
}
