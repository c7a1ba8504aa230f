//! The trait of whoever administers a store: what is in it, and changes to it.

use crate::account::{Account, Group};
use crate::store::{AccountStore, BoxFuture, Domain, StoreError};
use dtyp::Sid;

/// Whether what is written must be new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Nothing has this SID yet.
    New,
    /// Something has this SID and is replaced.
    Existing,
    /// Either.
    Either,
}

/// One step of a change.
///
/// The rules: SIDs are of the store's domain, and no two accounts or groups share a SID or a name. UPNs, SPNs and
/// `altSecurityIdentities` may be shared; the look-up then finds many. An account or group to be written as
/// [`Put::New`] whose SID is the domain's own gets the next relative identifier; none is given twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes an account with all its fields; memberships stay.
    PutAccount(Put, Box<Account>),
    /// Removes an account, its memberships and its machine.
    RemoveAccount(Sid),
    /// Writes a group; members stay.
    PutGroup(Put, Group),
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

/// The smallest relative identifier that is given to new entries; smaller ones are well known.
pub(crate) const RID_FIRST: u32 = 1000;

/// The largest one, as in the directory's default.
pub(crate) const RID_LAST: u32 = 0x3fff_ffff;

/// The longest list of names or SIDs of one account.
const LIST_LEN_MAX: usize = 1024;

/// The relative identifier to write an entry under; `None` for the next free one.
pub(crate) fn rid_to_write(domain: &Domain, put: Put, sid: &Sid) -> Result<Option<u32>, StoreError> {
    match sid.rid_in(&domain.sid) {
        Some(rid) if rid != 0 => Ok(Some(rid)),
        None if put == Put::New && *sid == domain.sid => Ok(None),
        _ => Err(StoreError::Refused(format!("{sid} is not of domain {} ({})", domain.netbios, domain.sid))),
    }
}

/// The relative identifier of an entry that is named in a change.
pub(crate) fn rid_named(domain: &Domain, sid: &Sid) -> Result<u32, StoreError> {
    rid_to_write(domain, Put::Existing, sid).map(|rid| rid.unwrap_or_default())
}

/// What every backend asks of an account before it writes it.
pub(crate) fn check_account(account: &Account) -> Result<(), StoreError> {
    let refuse = |what: &str| Err(StoreError::Refused(format!("account {:?}: {what}", account.name)));
    check_name("account", &account.name)?;
    if account.kind == crate::AccountKind::Computer && !account.name.ends_with('$') {
        return refuse("the name of a computer ends in $");
    }
    let profile = &account.profile;
    let texts = [
        &profile.full_name,
        &profile.logon_script,
        &profile.profile_path,
        &profile.home_directory,
        &profile.home_directory_drive,
    ];
    let names = account
        .user_principal_name
        .iter()
        .chain(&account.service_principal_names)
        .chain(&account.alt_security_identities);
    for text in names.clone() {
        if text.is_empty() {
            return refuse("a principal name or mapping is empty");
        }
    }
    for text in names.chain(texts) {
        if text.len() > Account::TEXT_LEN_MAX {
            return refuse("a text is longer than 4096 bytes");
        }
        if text.contains('\0') {
            return refuse("a text contains a NUL character");
        }
    }
    let lists = [
        account.service_principal_names.len(),
        account.alt_security_identities.len(),
        account.extra_sids.len(),
    ];
    if lists.iter().any(|len| *len > LIST_LEN_MAX) {
        return refuse("a list has more than 1024 entries");
    }
    let times = [
        account.expires,
        account.created,
        account.password_last_set,
        account.password_can_change,
        account.password_must_change,
    ];
    if times.iter().any(|time| *time > dtyp::FileTime::NEVER) {
        return refuse("a time is later than never");
    }
    match account.primary_group_id {
        0 => refuse("the primary group is missing"),
        _ => Ok(()),
    }
}

/// The same for the name of an account or a group.
pub(crate) fn check_name(what: &str, name: &str) -> Result<(), StoreError> {
    let reason = match name {
        "" => "is empty",
        name if name.len() > Account::TEXT_LEN_MAX => "is longer than 4096 bytes",
        name if name.chars().any(char::is_control) => "contains a control character",
        name if name.trim() != name => "begins or ends with a space",
        _ => return Ok(()),
    };
    Err(StoreError::Refused(format!("{what} {name:?}: the name {reason}")))
}

/// The same for a machine.
#[cfg(feature = "machines")]
pub(crate) fn check_machine(machine: &crate::Machine) -> Result<(), StoreError> {
    check_name("machine", &machine.name)?;
    let refuse = |what: &str| Err(StoreError::Refused(format!("machine {:?}: {what}", machine.name)));
    if !machine.name.ends_with('$') {
        return refuse("the name of a machine ends in $");
    }
    if machine.domains.len() > LIST_LEN_MAX || machine.groups.len() > LIST_LEN_MAX {
        return refuse("a list has more than 1024 entries");
    }
    machine.domains.iter().try_for_each(|domain| check_name("domain", domain))
}
