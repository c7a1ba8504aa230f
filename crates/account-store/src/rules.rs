//! The rules that an entry keeps in every store. A store checks an entry before it writes it, and a read-only
//! store when it loads it.
//!
//! All errors are [`StoreError::Refused`] and name the entry and the rule.
//!
//! Between entries, a SID and a name are those of one account or group: [`Entries`] checks that while a
//! read-only store is loaded.

use crate::account::{Account, AccountKind};
#[cfg(feature = "memory")]
use crate::admin::Put;
use crate::fold::{casefold, wide};
#[cfg(feature = "memory")]
use crate::store::Domain;
use crate::store::StoreError;
use dtyp::Sid;
use std::collections::HashMap;

/// The smallest relative identifier that is given to new entries; smaller ones are well known.
pub const RID_FIRST: u32 = 1000;

/// The largest relative identifier that is given to new entries, as in the default of Active Directory.
pub const RID_LAST: u32 = 0x3fff_ffff;

/// The longest list of names or SIDs of one account.
const LIST_LEN_MAX: usize = 1024;

/// The relative identifier to write an entry under; `None` for the next free one.
#[cfg(feature = "memory")]
pub fn rid_to_write(domain: &Domain, put: Put, sid: &Sid) -> Result<Option<u32>, StoreError> {
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
#[cfg(feature = "memory")]
pub fn rid_named(domain: &Domain, sid: &Sid) -> Result<u32, StoreError> {
    rid_to_write(domain, Put::Existing, sid).map(|rid| rid.unwrap_or_default())
}

/// The rules for an account. Its SID is not looked at: whether it is of the domain is [`Account::sid`]
/// against [`crate::Domain::sid`].
pub fn check_account(account: &Account) -> Result<(), StoreError> {
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
    if !profile.mail.is_empty() && !is_mail(&profile.mail) {
        return refuse("the e-mail address is none: write NAME@DOMAIN, without spaces");
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

/// Whether a text is an e-mail address that may be shown to an application: one `@` with something on both
/// sides, no space and no control character, and at most 254 bytes (RFC 5321 4.5.3.1.3).
pub fn is_mail(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty() && !part.contains(|c: char| c == '@' || c.is_control() || c.is_whitespace())
    };
    text.len() <= 254 && text.split_once('@').is_some_and(|(name, domain)| is_part(name) && is_part(domain))
}

/// The rule for the home domain of an account that is written: the characters of a domain name. It is apart
/// from [`check_account`] because accounts that were stored by earlier versions may break it.
pub fn check_home_domain(account: &Account) -> Result<(), StoreError> {
    let allowed = |c: char| c.is_alphanumeric() || "!@#$%^&'(){}_-~.".contains(c);
    match &account.home_domain {
        Some(domain) if !domain.chars().all(allowed) => Err(StoreError::Refused(format!(
            "account {:?}: {domain:?} is no name of a domain; write the NetBIOS name of the account's home domain",
            account.name
        ))),
        _ => Ok(()),
    }
}

/// The rule for the name of an account, a group, a machine or a domain. `what` is one of these words, for the
/// error.
pub fn check_name(what: &str, name: &str) -> Result<(), StoreError> {
    let reason = match name {
        "" => "is empty",
        name if name.len() > Account::TEXT_LEN_MAX => "is longer than 4096 bytes",
        name if name.chars().any(char::is_control) => "contains a control character",
        name if name.trim() != name => "begins or ends with a space",
        // Members are named by name or SID, and would be those of the entry that has the SID.
        name if name.parse::<Sid>().is_ok() => "is a SID",
        _ => return Ok(()),
    };
    Err(StoreError::Refused(format!("{what} {name:?}: the name {reason}")))
}

/// The rules for a machine.
pub fn check_machine(machine: &crate::Machine) -> Result<(), StoreError> {
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

/// What has a SID and a name in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A user or a computer.
    Account,
    /// A group.
    Group,
}

impl EntryKind {
    const fn word(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Group => "group",
        }
    }
}

/// The rules between the entries of a store that is loaded whole: each SID is one account or one group, with
/// one name, and no other entry has that name or one that looks like it ([`crate::fold::wide`]).
#[derive(Debug, Default)]
pub struct Entries {
    by_sid: HashMap<Sid, (EntryKind, Option<String>)>,
    by_name: HashMap<String, Sid>,
}

impl Entries {
    /// Adds an entry with its name, or without one where it is not known. A group may be added again for each
    /// of its members. An entry that contradicts one that was added before is [`StoreError::Refused`].
    pub fn add(&mut self, kind: EntryKind, sid: Sid, name: Option<&str>) -> Result<(), StoreError> {
        let refuse = |what: String| Err(StoreError::Refused(what));
        let (known_kind, known_name) = self.by_sid.entry(sid).or_insert((kind, None));
        if *known_kind != kind {
            return refuse(format!("{sid} is an account in one place and a group in another one"));
        }
        let Some(name) = name else { return Ok(()) };
        check_name(kind.word(), name)?;
        match known_name {
            Some(known) if casefold(known) != casefold(name) => {
                return refuse(format!("{} {sid} has two names: {known:?} and {name:?}", kind.word()));
            }
            _ => *known_name = Some(name.to_owned()),
        }
        match *self.by_name.entry(wide(name)).or_insert(sid) {
            known if known != sid => {
                refuse(format!("{known} and {sid} have the same name, or names that look alike: {name:?}"))
            }
            _ => Ok(()),
        }
    }
}
