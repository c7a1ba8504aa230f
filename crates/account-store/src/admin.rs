//! Traits of stores that can be listed, and of stores that can be written.
//!
//! A service needs none of them to decide. Commands list and change accounts and machines by them, and
//! warnings of a service look up the groups that a configuration names.

use crate::account::{Account, Group};
use crate::machines::{Machine, MachineStore, Secrets};
use crate::store::{AccountStore, BoxFuture, Matches, Query, StoreError};
use dtyp::Sid;

/// Whether what is written must be new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Nothing has this SID yet.
    New,
    /// Something has this SID and is replaced.
    Existing,
    /// Either. The entry with this SID is replaced or, where the SID is the domain's own, the entry of this
    /// name; if there is none, a new one is written. When the whole change is done, an account or a group has
    /// no direct memberships but those that the change makes. One change replaces an entry once.
    Replace {
        /// Whether an account that exists keeps its `created`.
        keep_created: bool,
        /// Whether an account that exists and is disabled stays so, whatever the new one says.
        keep_disabled: bool,
    },
}

/// One step of a change. Stores of accounts alone refuse what concerns machines.
///
/// The rules: SIDs are of the store's domain, and no two accounts or groups share a SID or a name. UPNs, SPNs
/// and `altSecurityIdentities` may be shared; the look-up then finds many. An account or group to be written
/// as [`Put::New`] or [`Put::Replace`] whose SID is the domain's own gets the next relative identifier; none
/// is given twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The changes that follow are those of this line of a file, from 1; an error that one of them breaks a
    /// rule names it. A store may have read further lines by then.
    Line(u64),
    /// Writes an account with all its fields; except with [`Put::Replace`], memberships stay.
    PutAccount(Put, Box<Account>),
    /// Removes an account, its memberships and its machine.
    RemoveAccount(Sid),
    /// Writes a group; members stay, and except with [`Put::Replace`] the groups that it is in.
    PutGroup(Put, Group),
    /// When the whole change is done, the group of this name has no direct members but those that the change
    /// makes.
    OnlyNamedMembers(String),
    /// Removes a group and its memberships.
    RemoveGroup(Sid),
    /// Makes an account or a group a direct member. Both have to exist when the whole change is done; a
    /// membership that exists already is no error, nor is a circle of groups.
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
        /// The line of a file that says so, from 1, which the error names if there is no such group or
        /// member; 0 for none.
        line: u64,
    },
    /// Writes a machine. Without secrets those of the existing one stay; a new one gets a random one.
    PutMachine(Put, Box<Machine>, Option<Secrets>),
    /// Removes a machine; its computer account stays.
    RemoveMachine(Sid),
    /// Ends a direct membership; one that does not exist is no error. The primary group is a field of the
    /// account.
    RemoveMember {
        /// The group.
        group: Sid,
        /// The member.
        member: Sid,
    },
}

/// Changes as they arrive; an error from the source ends the change without a trace.
pub type Changes<'a> = dyn Iterator<Item = Result<Change, StoreError>> + Send + 'a;

/// A store whose accounts and groups can be listed.
///
/// Lists come in ascending order of relative identifier, at most `limit` after `after` (0 for the first
/// page). An empty page is the end. A page is of one moment; a change between two pages may be seen or not,
/// so a caller that needs one moment compares revisions.
///
/// A service calls these methods beside its decisions, at start, at reload and for an explanation, never for
/// a decision. The methods of the embedded stores work where they are called: they may block for as long as
/// the disk does.
pub trait AccountListing: AccountStore {
    /// A page of accounts.
    fn accounts(&self, after: u32, limit: usize) -> BoxFuture<'_, Result<Vec<Account>, StoreError>>;

    /// A page of groups.
    fn groups(&self, after: u32, limit: usize) -> BoxFuture<'_, Result<Vec<Group>, StoreError>>;

    /// The group of this name, compared by [`crate::fold::casefold`].
    fn group_by_name<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Group>, StoreError>>;

    /// The group with this SID. A SID of another domain is `None`.
    fn group_by_sid<'a>(&'a self, sid: &'a Sid) -> BoxFuture<'a, Result<Option<Group>, StoreError>>;

    /// The direct members of a group, in ascending order. A group that is not there has none.
    fn members<'a>(&'a self, group: &'a Sid) -> BoxFuture<'a, Result<Vec<Sid>, StoreError>>;

    /// The groups that have this account or group as a direct member, in ascending order; the primary group
    /// is not among them.
    fn member_of<'a>(&'a self, member: &'a Sid) -> BoxFuture<'a, Result<Vec<Sid>, StoreError>>;
}

/// Accounts that [`each_account`] reads at once.
const PAGE: usize = 1000;

/// Passes all accounts to `look_at`, in ascending order of RID, until it returns `false`. It may take seconds
/// without a pause.
pub async fn each_account(
    listing: &dyn AccountListing,
    mut look_at: impl FnMut(&Account) -> bool,
) -> Result<(), StoreError> {
    let mut after = 0;
    loop {
        let page = listing.accounts(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.sid.split_rid().map_or(u32::MAX, |(_, rid)| rid);
        if !page.iter().all(&mut look_at) {
            return Ok(());
        }
    }
}

/// A store of accounts and groups that can be written.
pub trait AccountAdmin: AccountListing {
    /// Makes all changes or, at the first error, none. The rules are those of [`Change`]; a broken rule is
    /// [`StoreError::Refused`], or [`StoreError::Exists`] if the entry could be replaced.
    ///
    /// `Ok` means that the changes are on disk and that the next look-up finds them. A future that is dropped
    /// before it is ready makes all changes or none. Changes may be as many as an import has lines: the
    /// source is read while the change is made, and the call blocks its caller for as long as that takes. A
    /// store whose kind takes no changes does not have this trait; one that takes none at present answers
    /// [`StoreError::ReadOnly`].
    fn apply<'a>(&'a self, changes: &'a mut Changes<'a>) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// A store of machines that can be listed and written.
pub trait MachineAdmin: MachineStore {
    /// A page of machines as in [`AccountListing`], without the work of unsealing their secrets.
    fn machines(&self, after: u32, limit: usize) -> BoxFuture<'_, Result<Vec<Machine>, StoreError>>;

    /// Writes a machine. Without secrets those of the existing one stay; a new one gets a random one.
    fn put_machine(
        &self,
        put: Put,
        machine: Machine,
        secrets: Option<Secrets>,
    ) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Removes a machine; its computer account stays. A machine that is not there is [`StoreError::Refused`].
    fn remove_machine(&self, sid: Sid) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// What a database says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The version of its tables.
    pub schema: u32,
    /// How often accounts and groups were changed.
    pub revision: u64,
    /// How many accounts there are.
    pub accounts: u64,
    /// How many groups there are.
    pub groups: u64,
    /// How many machines there are.
    pub machines: u64,
}

/// Whose secrets a database lost with its key, by name, in ascending order of relative identifier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Machines, each of which has a random secret now.
    pub machines: Vec<String>,
    /// Accounts that had a password.
    pub users: Vec<String>,
}

/// A store that holds accounts and machines together, so that a machine follows its computer account.
pub trait DomainStore: AccountAdmin + MachineAdmin {}

impl<S: AccountAdmin + MachineAdmin + ?Sized> DomainStore for S {}

/// The first relative identifier of machines whose store is not that of the accounts. It is above all
/// identifiers that a store gives to accounts ([`crate::rules::RID_LAST`]).
const MACHINE_RID_FIRST: u32 = 1 << 30;

/// A SID for a new computer account in `machines`, a store apart from that of the accounts: the SID that
/// `accounts` has for this name, or else one that neither store has. Where one store has all accounts, the
/// domain's SID stands for the next one, and this function is not needed.
///
/// Refused if several accounts have the name, or if no relative identifier is left.
pub async fn free_machine_sid(
    accounts: &dyn AccountStore,
    machines: &dyn AccountStore,
    name: &str,
) -> Result<Sid, StoreError> {
    match accounts.find(&Query::Name(name.to_owned())).await? {
        Matches::One(record) => return Ok(record.account.sid),
        Matches::Many(_) => return Err(StoreError::Refused(format!("several accounts are called {name}"))),
        Matches::None => {}
    }
    let domain = machines.domain().sid;
    let no_room = || StoreError::Refused(format!("{domain} has no room for a relative identifier"));
    for rid in MACHINE_RID_FIRST.. {
        let sid = domain.with_rid(rid).ok_or_else(no_room)?;
        let query = Query::Sid(sid);
        if accounts.find(&query).await? == Matches::None && machines.find(&query).await? == Matches::None {
            return Ok(sid);
        }
    }
    Err(StoreError::Refused("there is no RID left".to_owned()))
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use super::*;
    use crate::battery::{add, apply, domain, now, sid, user};
    use crate::{Account, MemoryStore};

    #[test]
    fn a_machine_apart_from_the_accounts_has_a_sid_that_neither_store_has() {
        let [accounts, machines] = [(); 2].map(|()| MemoryStore::new(domain()));
        let free = |name: &str| now(free_machine_sid(&accounts, &machines, name));
        assert_eq!(free("WEB01$").expect("there is room"), sid(1 << 30));
        let at = |rid, name: &str| add(Account { name: name.to_owned(), ..user(rid) });
        apply(&machines, [at(1 << 30, "WEB01$"), at((1 << 30) + 2, "WEB03$")]);
        apply(&accounts, [at((1 << 30) + 1, "WEB02$")]);
        assert_eq!(free("WEB04$").expect("there is room"), sid((1 << 30) + 3));
        assert_eq!(free("web02$").expect("it is an account"), sid((1 << 30) + 1), "the account of this name");
    }
}
