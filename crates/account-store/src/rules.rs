//! What every backend asks of an entry before it is written.

use crate::account::{Account, AccountKind};
use crate::admin::Put;
use crate::store::{Domain, StoreError};
use dtyp::Sid;

/// The smallest relative identifier that is given to new entries; smaller ones are well known.
pub const RID_FIRST: u32 = 1000;

/// The largest one, as in the directory's default.
pub(crate) const RID_LAST: u32 = 0x3fff_ffff;

/// The longest list of names or SIDs of one account.
const LIST_LEN_MAX: usize = 1024;

/// The relative identifier to write an entry under; `None` for the next free one.
pub(crate) fn rid_to_write(domain: &Domain, put: Put, sid: &Sid) -> Result<Option<u32>, StoreError> {
    match sid.rid_in(&domain.sid) {
        Some(rid) if rid != 0 => Ok(Some(rid)),
        None if put != Put::Existing && *sid == domain.sid => Ok(None),
        None if *sid == domain.sid => {
            Err(StoreError::Refused(format!("{sid} is the SID of the domain itself, and no entry has it")))
        }
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
    if account.kind == AccountKind::Computer && !account.name.ends_with('$') {
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
    if account.home_domain.as_deref() == Some("") {
        return refuse("the home domain is empty");
    }
    for text in names.chain(texts).chain(&account.home_domain) {
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

/// The same for a home domain that an account gets: no domain has another name.
pub(crate) fn check_home_domain(account: &Account) -> Result<(), StoreError> {
    let allowed = |c: char| c.is_alphanumeric() || "!@#$%^&'(){}_-~.".contains(c);
    match &account.home_domain {
        Some(domain) if !domain.chars().all(allowed) => Err(StoreError::Refused(format!(
            "account {:?}: {domain:?} is no name of a domain; write the NetBIOS name of the account's home domain",
            account.name
        ))),
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
