//! The trait of whoever administers a store: what is in it, and changes to it.

use crate::account::{Account, Group};
use crate::store::{AccountStore, BoxFuture, StoreError};
use dtyp::Sid;

/// Whether what is written must be new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Nothing has this SID yet.
    New,
    /// Something has this SID and is replaced.
    Existing,
    /// Either. The entry with this SID is replaced or, where the SID is the domain's own, the entry of this name; if there
    /// is none, a new one is written. When the whole change is done, an account or a group has no direct memberships but
    /// those that the change makes. One change replaces an entry once.
    Replace {
        /// Whether an account that exists keeps its `created`.
        keep_created: bool,
    },
}

/// One step of a change. Stores of accounts alone refuse what concerns machines.
///
/// The rules: SIDs are of the store's domain, and no two accounts or groups share a SID or a name. UPNs, SPNs and
/// `altSecurityIdentities` may be shared; the look-up then finds many. An account or group to be written as
/// [`Put::New`] or [`Put::Replace`] whose SID is the domain's own gets the next relative identifier; none is given twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes an account with all its fields; except with [`Put::Replace`], memberships stay.
    PutAccount(Put, Box<Account>),
    /// Removes an account, its memberships and its machine.
    RemoveAccount(Sid),
    /// Writes a group; members stay, and except with [`Put::Replace`] the groups that it is in.
    PutGroup(Put, Group),
    /// When the whole change is done, the group of this name has no direct members but those that the change makes.
    OnlyNamedMembers(String),
    /// Removes a group and its memberships.
    RemoveGroup(Sid),
    /// Makes an account or a group a direct member. Both have to exist when the whole change is done; a membership
    /// that exists already is no error, nor is a circle of groups.
    AddMember {
        /// The group.
        group: Sid,
        /// The member.
        member: Sid,
    },
    /// The same by name, or by SID as text; a name may belong to an entry that comes later in the change.
    AddNamedMember {
        /// The group.
        group: String,
        /// The member.
        member: String,
        /// The line of a file that says so, from 1, which the error names if there is no such group or member; 0 for none.
        line: u64,
    },
    /// Writes a machine. Without secrets those of the existing one stay; a new one gets one that nobody knows.
    PutMachine(Put, Box<crate::Machine>, Option<crate::Secrets>),
    /// Removes a machine; its computer account stays.
    RemoveMachine(Sid),
    /// Ends a direct membership; one that does not exist is no error. The primary group is a field of the account.
    RemoveMember {
        /// The group.
        group: Sid,
        /// The member.
        member: Sid,
    },
}

/// Changes as they arrive; an error from the source ends the change without a trace.
pub type Changes<'a> = dyn Iterator<Item = Result<Change, StoreError>> + Send + 'a;

/// A store that can be read as a whole and written.
///
/// Lists come in ascending order of relative identifier, at most `limit` after `after` (0 for the first page).
pub trait AccountAdmin: AccountStore {
    /// A page of accounts.
    fn accounts(&self, after: u32, limit: usize) -> BoxFuture<'_, Result<Vec<Account>, StoreError>>;

    /// A page of groups.
    fn groups(&self, after: u32, limit: usize) -> BoxFuture<'_, Result<Vec<Group>, StoreError>>;

    /// The group of this name, compared by [`crate::fold::casefold`].
    fn group_by_name<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Group>, StoreError>>;

    /// The group with this SID.
    fn group_by_sid<'a>(&'a self, sid: &'a Sid) -> BoxFuture<'a, Result<Option<Group>, StoreError>>;

    /// The direct members of a group, in ascending order.
    fn members<'a>(&'a self, group: &'a Sid) -> BoxFuture<'a, Result<Vec<Sid>, StoreError>>;

    /// The groups that have this account or group as a direct member, in ascending order; the primary group is not
    /// among them.
    fn member_of<'a>(&'a self, member: &'a Sid) -> BoxFuture<'a, Result<Vec<Sid>, StoreError>>;

    /// Makes all changes or, on the first error, none. Blocks for as long as it takes: call it where that is fine.
    fn apply<'a>(&'a self, changes: &'a mut Changes<'a>) -> BoxFuture<'a, Result<(), StoreError>>;
}
