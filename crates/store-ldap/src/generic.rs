//! Directories whose attributes are configured: OpenLDAP, 389 and others.
//!
//! SIDs are made of the domain's SID and a numeric attribute, with a range of relative identifiers for users and
//! another one for groups. This store never binds as the user, so the server does not enforce the state of an
//! account. Presets of account state ([`StatePreset`]) read it.
//!
//! An attribute that is not there may be hidden instead. So absence is proved: a base search with the filter
//! `(!(attribute=*))` finds the entry only if the attribute may be searched and has no value (RFC 4511 4.5.1.7:
//! what may not be searched is Undefined, and so is its negation).

use crate::ad::GROUPS_MAX;
use crate::connection::{Answer, Connection, Search};
use crate::entry::Entry;
use crate::failed::Failed;
use crate::filter::{Attribute, Filter};
use crate::mail;
use crate::matching::{self, Found};
use crate::settings::{GenericSettings, GroupMembership, RidRange, Settings, StatePreset};
use crate::widen;
use account_store::fold::wide;
use account_store::index::Place;
use account_store::{
    Account, AccountFlags, GroupScope, Matches, Membership, Profile, Query, RID_FIRST, Record, rules,
};
use dtyp::{FileTime, Sid};
use ldap3::Scope;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Groups in groups, one level below the other.
const DEPTH_MAX: usize = 32;
/// Names or numbers that one search asks for.
const BATCH: usize = 50;

/// What the attributes of a preset say about an account.
fn apply_state(preset: StatePreset, entry: &Entry, account: &mut Account) -> Result<(), Failed> {
    let mut end = |time: Option<FileTime>| {
        if let Some(time) = time {
            account.expires = account.expires.min(time);
        }
    };
    match preset {
        StatePreset::Ppolicy => {
            end(entry.time("pwdEndTime")?);
            match entry.text("pwdAccountLockedTime")? {
                None => {}
                // Locked for ever (draft-behera-ldap-password-policy 5.3.3).
                Some("000001010000Z") => account.flags = account.flags.with(AccountFlags::DISABLED, true),
                Some(_) => account.flags = account.flags.with(AccountFlags::LOCKED, true),
            }
        }
        StatePreset::NsAccountLock => {
            let is_locked = !matches!(
                entry.text("nsAccountLock")?.map(str::to_ascii_lowercase).as_deref(),
                None | Some("false")
            );
            if is_locked {
                account.flags = account.flags.with(AccountFlags::DISABLED, true);
            }
        }
        StatePreset::Kerberos => end(entry.time("krbPrincipalExpiration")?),
        StatePreset::Shadow => {
            let days: Option<i64> = entry.number("shadowExpire")?;
            end(days.filter(|days| *days >= 0).map(|days| FileTime::from_unix(days.saturating_mul(86_400))));
        }
    }
    Ok(())
}

/// Checks after a bind: the store's account reads its own entry and both bases.
pub(crate) async fn probe(
    connection: &mut Connection,
    settings: &Settings,
    generic: &GenericSettings,
) -> Result<(), Failed> {
    let any = Filter::Present(Attribute::known("objectClass"));
    for base in [&settings.bind_dn, &generic.user_base, &generic.group_base] {
        let answer = search(connection, (base, Scope::Base), &any, &["objectClass"], 1).await?;
        if answer.is_none_or(|answer| answer.entries.is_empty()) {
            return Err(Failed::Rights(format!("the store's account may not read {base:?}")));
        }
    }
    Ok(())
}

/// Looks accounts up.
pub(crate) async fn find(
    connection: &mut Connection,
    settings: &Settings,
    generic: &GenericSettings,
    query: &Query,
    place: &Place,
) -> Result<Matches, Failed> {
    let Some(filter) = filter(settings, generic, query) else { return Ok(Matches::None) };
    let attributes = attributes(generic);
    let base = (generic.user_base.as_str(), Scope::Subtree);
    let answer = search(connection, base, &filter, &attributes, settings.candidates_max).await?;
    let answer = answer.ok_or_else(|| no_base(&generic.user_base))?;
    let mut matching = Vec::new();
    for entry in &answer.entries {
        let keys = keys(settings, generic, entry)?;
        let has_mail = |name: &Attribute| mail::is_among(entry, name.as_str(), place);
        if matching::is_at(&settings.domain, &keys, place) || generic.mail.as_ref().is_some_and(has_mail) {
            matching.push((entry, keys));
        }
    }
    let count = answer.entries.len();
    match matching::decide(matching, |(_, keys)| &keys.name, count, settings.candidates_max, answer.is_cut)? {
        Found::None => Ok(Matches::None),
        Found::Many(names) => Ok(names),
        // Whose the address is, is all that is asked.
        Found::One((_, account)) if matches!(query, Query::Mail(_)) => {
            Ok(Matches::One(Arc::new(Record { account, memberships: Vec::new() })))
        }
        Found::One((entry, keys)) => {
            let record = Reader { connection, settings, generic }.record(entry, keys).await?;
            rules::check_account(&record.account).map_err(|error| Failed::Data(error.to_string()))?;
            Ok(Matches::One(Arc::new(record)))
        }
    }
}

fn no_base(base: &str) -> Failed {
    Failed::Search(format!("the base {base:?} is not there"))
}

/// Searches, without the control for Active Directory.
pub(crate) async fn search(
    connection: &mut Connection,
    (base, scope): (&str, Scope),
    filter: &Filter,
    attributes: &[&str],
    entries_max: usize,
) -> Result<Option<Answer>, Failed> {
    let domain_scope = false;
    connection.search(Search { base, scope, filter, attributes, entries_max, domain_scope }).await
}

/// Entries of a class, and no aliases of them.
fn of_class(class: &str, filter: Filter) -> Filter {
    let object_class = Attribute::known("objectClass");
    Filter::And(vec![
        Filter::equal(&object_class, class),
        Filter::not(Filter::equal(&object_class, "alias")),
        filter,
    ])
}

fn filter(settings: &Settings, generic: &GenericSettings, query: &Query) -> Option<Filter> {
    let of_query = match query {
        Query::UserPrincipalName(text) => widen::name(generic.user_principal_name.as_ref()?, text),
        Query::ServicePrincipalName(text) => widen::name(generic.service_principal_name.as_ref()?, text),
        Query::AltSecurityIdentity(text) => {
            widen::identity(generic.mapping.as_ref()?, text, settings.accents)?
        }
        Query::Mail(text) => widen::name(generic.mail.as_ref()?, text),
        Query::Name(text) => widen::name(&generic.name, text),
        Query::Sid(sid) => {
            let number = generic.user_rids.number(sid.rid_in(&settings.domain.sid)?)?;
            Filter::equal(&generic.number, number.to_string())
        }
        _ => return None,
    };
    Some(of_class(&generic.user_class, of_query))
}

/// What is read of an account.
fn attributes(generic: &GenericSettings) -> Vec<&str> {
    let optional = [
        &generic.user_principal_name,
        &generic.service_principal_name,
        &generic.mapping,
        &generic.mail,
        &generic.display_name,
        &generic.created,
    ];
    let mut names = vec![generic.name.as_str(), generic.number.as_str(), generic.primary_group.as_str()];
    names.extend(optional.into_iter().flatten().map(Attribute::as_str));
    names.extend(provable(generic));
    names
}

/// The attributes whose absence has to be proved.
fn provable(generic: &GenericSettings) -> impl Iterator<Item = &str> {
    let member_of = match &generic.membership {
        GroupMembership::MemberOf(attribute) => Some(attribute.as_str()),
        _ => None,
    };
    generic.state.iter().flat_map(|preset| preset.attributes().iter().copied()).chain(member_of)
}

/// Name, SID and what certificates are compared with. A number that is no SID leaves the domain's SID there,
/// at which no account is found; it is an error once the account is the one that is asked for.
fn keys(settings: &Settings, generic: &GenericSettings, entry: &Entry) -> Result<Account, Failed> {
    let texts = |attribute: &Option<Attribute>| match attribute {
        Some(attribute) => entry.texts(attribute.as_str()),
        None => Ok(Vec::new()),
    };
    let name = entry.text(generic.name.as_str())?;
    let name = name.ok_or_else(|| {
        entry.wrong(generic.name.as_str(), "is missing, or may not be read by the store's account")
    })?;
    let sid = user_sid(settings, generic, entry).unwrap_or(settings.domain.sid);
    let mail = generic.mail.as_ref();
    let mail = mail.map(|name| mail::chosen(entry, name.as_str(), settings.mail_domain.as_deref()));
    let mut upns = texts(&generic.user_principal_name)?;
    if upns.len() > 1 {
        return Err(entry.wrong("the user principal name", "has several values"));
    }
    Ok(Account {
        user_principal_name: upns.pop(),
        service_principal_names: texts(&generic.service_principal_name)?,
        alt_security_identities: texts(&generic.mapping)?,
        profile: Profile { mail: mail.unwrap_or_default(), ..Profile::default() },
        ..Account::new(name, sid)
    })
}

fn user_sid(settings: &Settings, generic: &GenericSettings, entry: &Entry) -> Result<Sid, Failed> {
    let name = generic.number.as_str();
    sid(settings, generic, &generic.user_rids, entry.required(name)?).map_err(|why| entry.wrong(name, &why))
}

/// The SID of a number.
fn sid(settings: &Settings, generic: &GenericSettings, range: &RidRange, number: u32) -> Result<Sid, String> {
    let rid = range
        .rid(number)
        .ok_or_else(|| format!("is {number}, which is out of the range of the configuration"))?;
    if rid < RID_FIRST && !generic.listed_rids.contains(&rid) {
        return Err(format!(
            "is {number}, which is the RID {rid} of a built-in account or group; list it in listed_rids if it is meant"
        ));
    }
    settings.domain.sid.with_rid(rid).ok_or_else(|| "has no room in the domain's SID".to_owned())
}

/// A group that was found.
#[derive(Clone, Debug)]
struct GroupFound {
    dn: String,
    sid: Sid,
    name: Option<String>,
}

/// Reads what belongs to one account.
struct Reader<'a> {
    connection: &'a mut Connection,
    settings: &'a Settings,
    generic: &'a GenericSettings,
}

impl Reader<'_> {
    async fn record(&mut self, entry: &Entry, keys: Account) -> Result<Record, Failed> {
        let generic = self.generic;
        let sid = user_sid(self.settings, generic, entry)?;
        self.prove(entry).await?;
        self.check_number(entry).await?;
        let mut account = Account { sid, ..keys };
        for preset in &generic.state {
            apply_state(*preset, entry, &mut account)?;
        }
        if let Some(display_name) = &generic.display_name {
            account.profile.full_name =
                entry.texts(display_name.as_str())?.into_iter().next().unwrap_or_default();
        }
        if let Some(created) = &generic.created {
            account.created = entry.time(created.as_str())?.unwrap_or(FileTime::UNSET);
        }
        let primary: u32 = entry.required(generic.primary_group.as_str())?;
        let primary_sid =
            self.group_sid(primary).map_err(|why| entry.wrong(generic.primary_group.as_str(), &why))?;
        account.primary_group_id = primary_sid.split_rid().map_or(0, |(_, rid)| rid);
        let mut groups = self.groups(entry, &account).await?;
        let of_primary = Filter::equal(&generic.group_number, primary.to_string());
        for group in self.group_search(of_primary, BATCH, &[]).await? {
            groups.insert(group.0.dn.to_lowercase(), group.0);
        }
        let mut memberships = self.memberships(groups.into_values().collect()).await?;
        memberships.entry(primary_sid).or_insert(None);
        let memberships = memberships
            .into_iter()
            .map(|(sid, name)| Membership { sid, name, scope: GroupScope::Global })
            .collect();
        Ok(Record { account, memberships })
    }

    fn group_sid(&self, number: u32) -> Result<Sid, String> {
        sid(self.settings, self.generic, &self.generic.group_rids, number)
    }

    /// Proves that what was not read of an account is not there.
    async fn prove(&mut self, entry: &Entry) -> Result<(), Failed> {
        let absent: Vec<_> = provable(self.generic).filter(|name| !entry.has(name)).collect();
        if absent.is_empty() {
            return Ok(());
        }
        let of_absent = absent.iter().filter_map(|name| Attribute::new(name));
        let filter = Filter::And(of_absent.map(|name| Filter::not(Filter::Present(name))).collect());
        let number = self.generic.number.as_str();
        let answer = search(self.connection, (&entry.dn, Scope::Base), &filter, &[number], 1).await?;
        match answer.ok_or(Failed::Changed)?.entries.pop() {
            Some(again) if again.values(number) == entry.values(number) => Ok(()),
            Some(_) => Err(Failed::Changed),
            None => Err(entry.wrong(
                &absent.join(", "),
                "may not be searched by the store's account, is not known to the server, or has changed",
            )),
        }
    }

    /// Another account with the same number would have the same SID.
    async fn check_number(&mut self, entry: &Entry) -> Result<(), Failed> {
        let name = self.generic.number.as_str();
        let number: u32 = entry.required(name)?;
        let filter =
            of_class(&self.generic.user_class, Filter::equal(&self.generic.number, number.to_string()));
        let base = (self.generic.user_base.as_str(), Scope::Subtree);
        let answer = search(self.connection, base, &filter, &[name], 2).await?;
        match answer.ok_or_else(|| no_base(&self.generic.user_base))?.entries.len() {
            1 => Ok(()),
            0 => Err(Failed::Changed),
            _ => Err(entry.wrong(name, &format!("is {number}, as that of another account"))),
        }
    }

    /// The groups of an account by the lower case of their DN, without its primary group.
    async fn groups(
        &mut self,
        entry: &Entry,
        account: &Account,
    ) -> Result<BTreeMap<String, GroupFound>, Failed> {
        let mut found = BTreeMap::new();
        let mut seen: HashSet<String> = HashSet::new();
        let mut level = match &self.generic.membership {
            GroupMembership::Member(_) => vec![entry.dn.clone()],
            GroupMembership::MemberUid(_) => vec![account.name.clone()],
            GroupMembership::MemberOf(attribute) => entry.texts(attribute.as_str())?,
        };
        // One search more shows that nothing is above the last level, and one turn more ends.
        for _ in 0..DEPTH_MAX + 2 {
            level.retain(|dn| seen.insert(dn.to_lowercase()));
            if level.is_empty() {
                return Ok(found);
            }
            let mut next = Vec::new();
            for batch in level.chunks(BATCH) {
                for (group, above) in self.groups_by(batch).await? {
                    next.extend(above);
                    found.insert(group.dn.to_lowercase(), group);
                    if found.len() > GROUPS_MAX {
                        return Err(entry.wrong("membership", "has more than 5000 groups"));
                    }
                }
            }
            level = next;
        }
        Err(entry.wrong("membership", "has groups in groups more than 32 levels deep"))
    }

    /// Groups one level up, each with what to look for on the level after.
    async fn groups_by(&mut self, batch: &[String]) -> Result<Vec<(GroupFound, Vec<String>)>, Failed> {
        let any = |attribute: &Attribute| {
            Filter::any(batch.iter().map(|text| Filter::equal(attribute, text.as_str())))
        };
        match &self.generic.membership {
            GroupMembership::Member(attribute) => {
                let found = self.group_search(any(attribute), GROUPS_MAX, &[]).await?;
                Ok(found
                    .into_iter()
                    .map(|(group, _)| {
                        let dn = group.dn.clone();
                        (group, vec![dn])
                    })
                    .collect())
            }
            GroupMembership::MemberUid(attribute) => {
                let found = self.group_search(any(attribute), GROUPS_MAX, &[]).await?;
                Ok(found.into_iter().map(|(group, _)| (group, Vec::new())).collect())
            }
            GroupMembership::MemberOf(attribute) => {
                let by_name = any(&Attribute::known("entryDN"));
                let found = self.group_search(by_name.clone(), batch.len(), &[attribute.as_str()]).await?;
                let without = found.iter().filter(|(_, entry)| !entry.has(attribute.as_str())).count();
                if without > 0 {
                    let absent = Filter::not(Filter::Present(attribute.clone()));
                    let proved =
                        self.group_search(Filter::And(vec![by_name, absent]), batch.len(), &[]).await?;
                    if proved.len() != without {
                        return Err(Failed::Data(format!(
                            "{} of groups may not be searched by the store's account, or has changed",
                            attribute.as_str()
                        )));
                    }
                }
                found
                    .into_iter()
                    .map(|(group, entry)| Ok((group, entry.texts(attribute.as_str())?)))
                    .collect()
            }
        }
    }

    /// Groups below the base for groups, all of them.
    async fn group_search(
        &mut self,
        filter: Filter,
        entries_max: usize,
        more: &[&str],
    ) -> Result<Vec<(GroupFound, Entry)>, Failed> {
        let filter = of_class(&self.generic.group_class, filter);
        let mut attributes = vec![self.generic.group_name.as_str(), self.generic.group_number.as_str()];
        attributes.extend(more);
        let base = (self.generic.group_base.as_str(), Scope::Subtree);
        let answer = search(self.connection, base, &filter, &attributes, entries_max).await?;
        let entries = answer.ok_or_else(|| no_base(&self.generic.group_base))?.whole("groups")?;
        entries.into_iter().map(|entry| Ok((self.group(&entry)?, entry))).collect()
    }

    fn group(&self, entry: &Entry) -> Result<GroupFound, Failed> {
        let number = self.generic.group_number.as_str();
        let sid = self.group_sid(entry.required(number)?).map_err(|why| entry.wrong(number, &why))?;
        let name = match &entry.texts(self.generic.group_name.as_str())?[..] {
            [name] if rules::check_name("group", name).is_ok() => Some(name.clone()),
            _ => None,
        };
        Ok(GroupFound { dn: entry.dn.clone(), sid, name })
    }

    /// The groups by SID, with the name of those whose name no other group has. Two groups with one number are
    /// an error.
    async fn memberships(
        &mut self,
        groups: Vec<GroupFound>,
    ) -> Result<BTreeMap<Sid, Option<String>>, Failed> {
        let mut by_sid: HashMap<Sid, String> = HashMap::new();
        let mut by_name: HashMap<String, HashSet<Sid>> = HashMap::new();
        for batch in groups.chunks(BATCH) {
            let of_group = |group: &GroupFound| {
                let rid = group.sid.rid_in(&self.settings.domain.sid);
                let number = rid.and_then(|rid| self.generic.group_rids.number(rid)).unwrap_or_default();
                let name = group.name.as_ref().map(|name| widen::name(&self.generic.group_name, name));
                name.into_iter().chain([Filter::equal(&self.generic.group_number, number.to_string())])
            };
            let same = Filter::any(batch.iter().flat_map(of_group));
            for (group, entry) in self.group_search(same, GROUPS_MAX, &[]).await? {
                let first = by_sid.entry(group.sid).or_insert_with(|| group.dn.clone());
                if *first != group.dn {
                    let number = self.generic.group_number.as_str();
                    return Err(entry.wrong(number, &format!("is that of another group, {first:?}")));
                }
                for name in entry.texts(self.generic.group_name.as_str())? {
                    by_name.entry(wide(&name)).or_default().insert(group.sid);
                }
            }
        }
        let own = |name: &String| by_name.get(&wide(name)).is_some_and(|sids| sids.len() == 1);
        Ok(groups.into_iter().map(|group| (group.sid, group.name.filter(own))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_relative_identifiers_and_back() {
        let range = RidRange { first: 1000, last: 1999, rid: 100_000 };
        assert_eq!((range.rid(1000), range.rid(1999)), (Some(100_000), Some(100_999)));
        assert_eq!((range.rid(999), range.rid(2000), range.rid(u32::MAX)), (None, None, None));
        assert_eq!((range.number(100_000), range.number(100_999)), (Some(1000), Some(1999)));
        assert_eq!((range.number(99_999), range.number(101_000), range.number(u32::MAX)), (None, None, None));
        let at = |rid| RidRange { first: 0, last: 999, rid };
        assert!(range.overlaps(&at(100_999)) && range.overlaps(&at(99_001)) && range.overlaps(&range));
        assert!(!range.overlaps(&at(101_000)) && !range.overlaps(&at(99_000)));
    }

    #[test]
    fn each_preset_bars_an_account() {
        let apply = |preset: StatePreset, attributes: &[(&str, &[&str])]| {
            let mut account = Account::new("alice", "S-1-5-21-1-2-3-1000".parse().expect("a SID"));
            apply_state(preset, &Entry::new("uid=alice", attributes), &mut account)
                .map(|()| (account.flags, account.expires))
        };
        let normal = AccountFlags::NORMAL;
        let disabled = normal.with(AccountFlags::DISABLED, true);
        let day = FileTime::from_unix(86_400);
        for (preset, attributes, expected) in [
            (StatePreset::Ppolicy, &[][..], (normal, FileTime::NEVER)),
            (
                StatePreset::Ppolicy,
                &[("pwdAccountLockedTime", &["000001010000Z"][..])][..],
                (disabled, FileTime::NEVER),
            ),
            (
                StatePreset::Ppolicy,
                &[("pwdAccountLockedTime", &["20261130075539Z"][..])][..],
                (normal.with(AccountFlags::LOCKED, true), FileTime::NEVER),
            ),
            (StatePreset::Ppolicy, &[("pwdEndTime", &["19700102000000Z"][..])][..], (normal, day)),
            (
                StatePreset::NsAccountLock,
                &[("nsAccountLock", &["TRUE"][..])][..],
                (disabled, FileTime::NEVER),
            ),
            (StatePreset::NsAccountLock, &[("nsAccountLock", &["false"][..])][..], (normal, FileTime::NEVER)),
            (
                StatePreset::NsAccountLock,
                &[("nsAccountLock", &["perhaps"][..])][..],
                (disabled, FileTime::NEVER),
            ),
            (
                StatePreset::Kerberos,
                &[("krbPrincipalExpiration", &["19700102000000Z"][..])][..],
                (normal, day),
            ),
            (StatePreset::Shadow, &[("shadowExpire", &["1"][..])][..], (normal, day)),
            (StatePreset::Shadow, &[("shadowExpire", &["-1"][..])][..], (normal, FileTime::NEVER)),
        ] {
            assert_eq!(apply(preset, attributes), Ok(expected), "{preset:?} {attributes:?}");
        }
        assert!(apply(StatePreset::Shadow, &[("shadowExpire", &["soon"])]).is_err());
        assert!(apply(StatePreset::Kerberos, &[("krbPrincipalExpiration", &["soon"])]).is_err());
    }
}
