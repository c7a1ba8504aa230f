//! Directories whose attributes are configured: OpenLDAP, 389 and others.
//!
//! SIDs are made of the domain's SID and a numeric attribute, with a range of relative identifiers for users
//! and another one for groups. This store never binds as the user, so the server does not enforce the state
//! of an account. Presets of account state ([`StatePreset`]) read it.
//!
//! An attribute that is not there may be hidden instead. So absence is proved: a base search with the filter
//! `(!(attribute=*))` finds the entry only if the attribute may be searched and has no value (RFC 4511
//! 4.5.1.7: what may not be searched is Undefined, and so is its negation).

use crate::ad::GROUPS_MAX;
use crate::candidate_filter;
use crate::connection::{Answer, Connection, TOGETHER_MAX};
use crate::entry::Entry;
use crate::failed::Failed;
use crate::filter::{Attribute, Filter};
use crate::mail;
use crate::matching::{self, Found};
use crate::message::{Scope, Search};
use crate::settings::{GenericSettings, GroupMembership, RidRange, Settings, StatePreset};
use crate::walk::{self, Flaw, Pages, See, Seen, SeenGroup};
use account_store::fold::wide;
use account_store::index::Place;
use account_store::{
    Account, AccountFlags, GroupScope, Matches, Membership, Profile, Query, RID_FIRST, Record, rules,
};
use dtyp::{FileTime, Sid};
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
    let any = Filter::Present(Attribute::object_class());
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

/// Reads all accounts and groups.
pub(crate) async fn walk(
    connection: &mut Connection,
    settings: &Settings,
    generic: &GenericSettings,
    see: &mut See<'_>,
) -> Result<(), Failed> {
    let all = |class| of_class(class, Filter::Present(Attribute::object_class()));
    let (users, groups) = (all(&generic.user_class), all(&generic.group_class));
    let attributes = attributes(generic);
    let mut pages = Pages::new(settings, &generic.user_base, &users, &attributes);
    while let Some(entries) = pages.next(connection, see).await? {
        for together in entries.chunks(TOGETHER_MAX) {
            Reader { connection, settings, generic }.look_at(together, see).await?;
        }
    }
    let attributes = [generic.group_name.as_str(), generic.group_number.as_str()];
    let mut pages = Pages::new(settings, &generic.group_base, &groups, &attributes);
    while let Some(entries) = pages.next(connection, see).await? {
        let reader = Reader { connection, settings, generic };
        for entry in &entries {
            let names = entry.texts(generic.group_name.as_str());
            match reader.group(entry).and_then(|group| Ok((names?, group.sid))) {
                Ok((names, sid)) => see(Seen::Group(SeenGroup { names, sid })),
                Err(failed) => {
                    see(walk::wrong(flaw(entry, &generic.group_number), &entry.dn, &entry.dn, failed)?)
                }
            }
        }
    }
    Ok(())
}

/// What is wrong with an entry whose number is no SID.
fn flaw(entry: &Entry, number: &Attribute) -> Flaw {
    match entry.required::<u32>(number.as_str()) {
        Ok(_) => Flaw::Number,
        Err(_) => Flaw::Unreadable,
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
    let object_class = Attribute::object_class();
    Filter::And(vec![
        Filter::equal(&object_class, class),
        Filter::not(Filter::equal(&object_class, "alias")),
        filter,
    ])
}

fn filter(settings: &Settings, generic: &GenericSettings, query: &Query) -> Option<Filter> {
    let of_query = match query {
        Query::UserPrincipalName(text) => candidate_filter::name(generic.user_principal_name.as_ref()?, text),
        Query::ServicePrincipalName(text) => {
            candidate_filter::name(generic.service_principal_name.as_ref()?, text)
        }
        Query::AltSecurityIdentity(text) => {
            candidate_filter::identity(generic.mapping.as_ref()?, text, settings.accents)?
        }
        Query::Mail(text) => candidate_filter::name(generic.mail.as_ref()?, text),
        Query::Name(text) => candidate_filter::name(&generic.name, text),
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
    dn: Arc<str>,
    sid: Sid,
    name: Option<Arc<str>>,
}

/// What a search is for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    /// What was not read of the account is not there.
    Absence,
    /// No other account has its number.
    Number,
    /// Its primary group.
    Primary,
    /// Groups one level up.
    Above,
    /// Groups that have nothing above them, so many.
    NothingAbove(usize),
    /// Groups with the name or the number of one that was found.
    Same,
}

/// A search that waits for its turn.
struct Planned<'a> {
    purpose: Purpose,
    base: &'a str,
    scope: Scope,
    filter: Filter,
    attributes: Vec<&'a str>,
    entries_max: usize,
}

/// The groups of an account, while they are read.
#[derive(Default)]
struct Groups {
    /// The account's, and those above them, by the lower case of their DN.
    found: BTreeMap<String, GroupFound>,
    /// The one with the number of the primary group. What is above it does not count.
    primary: Vec<GroupFound>,
    /// What was looked for, in lower case.
    seen: HashSet<String>,
    /// What to look for on the next level: members of groups, or groups.
    level: Vec<String>,
    /// Groups whose names and numbers are not compared with those of all others yet.
    unchecked: Vec<GroupFound>,
    by_sid: HashMap<Sid, Arc<str>>,
    /// Whose a name is; `None` if several groups have it.
    by_name: HashMap<String, Option<Sid>>,
}

impl Groups {
    fn insert(&mut self, group: GroupFound) {
        let is_primary = self.primary.iter().any(|primary| primary.dn == group.dn);
        let is_new = self.found.insert(group.dn.to_lowercase(), group.clone()).is_none();
        if is_new && !is_primary {
            self.unchecked.push(group);
        }
    }

    /// The groups by SID, with the name of those whose name no other group has.
    fn memberships(&self) -> BTreeMap<Sid, Option<String>> {
        let own = |name: &&str| self.by_name.get(&wide(name)).is_some_and(Option::is_some);
        let groups = self.found.values().chain(&self.primary);
        groups.map(|group| (group.sid, group.name.as_deref().filter(own).map(str::to_owned))).collect()
    }
}

/// Reads what belongs to one account.
struct Reader<'a> {
    connection: &'a mut Connection,
    settings: &'a Settings,
    generic: &'a GenericSettings,
}

impl<'a> Reader<'a> {
    /// Looks at accounts without their groups.
    async fn look_at(&mut self, entries: &'a [Entry], see: &mut See<'_>) -> Result<(), Failed> {
        let generic = self.generic;
        let (mut lacking, mut planned) = (Vec::new(), Vec::new());
        for entry in entries {
            let keys = match keys(self.settings, generic, entry) {
                Ok(keys) => keys,
                Err(failed) => {
                    see(walk::wrong(Flaw::Unreadable, &entry.dn, &entry.dn, failed)?);
                    continue;
                }
            };
            let sid = user_sid(self.settings, generic, entry);
            let mails = generic.mail.iter().flat_map(|name| mail::all(entry, name.as_str()));
            let seen = walk::seen(&keys, sid.as_ref().ok().copied(), mails.map(str::to_owned).collect());
            see(Seen::Account(seen));
            let primary = entry.required(generic.primary_group.as_str());
            let flaw = match (sid, primary.map(|number| self.group_sid(number))) {
                (Err(_), _) => flaw(entry, &generic.number),
                (Ok(_), Ok(Err(_))) => Flaw::Number,
                _ => Flaw::Unreadable,
            };
            let name = keys.name.clone();
            if let Err(failed) = self.account(entry, keys) {
                see(walk::wrong(flaw, &name, &entry.dn, failed)?);
            }
            if let Some(search) = self.absence(entry) {
                lacking.push((entry, name));
                planned.push(search);
            }
        }
        let searches: Vec<_> = planned.iter().map(Planned::search).collect();
        let answers = walk::within(self.settings.timeout, self.connection, async |connection| {
            connection.search_all(&searches).await
        });
        for ((entry, name), answer) in lacking.into_iter().zip(answers.await?) {
            match self.check_absence(entry, answer) {
                // It was removed or changed meanwhile.
                Ok(()) | Err(Failed::Changed) => {}
                Err(failed) => see(walk::wrong(Flaw::Unreadable, &name, &entry.dn, failed)?),
            }
        }
        Ok(())
    }

    /// The searches of a turn are sent together: what the account lacks is proved while its groups are looked
    /// for, and groups are compared with others while the level above them is looked for.
    async fn record(&mut self, entry: &'a Entry, keys: Account) -> Result<Record, Failed> {
        let generic = self.generic;
        let (account, primary, primary_sid) = self.account(entry, keys)?;
        let level = match &generic.membership {
            GroupMembership::Member(_) => vec![entry.dn.clone()],
            GroupMembership::MemberUid(_) => vec![account.name.clone()],
            GroupMembership::MemberOf(attribute) => entry.texts(attribute.as_str())?,
        };
        let mut groups = Groups { level, ..Groups::default() };
        let mut planned = self.of_account(entry, primary)?;
        // One turn more shows that nothing is above the last level, and one more ends.
        for _ in 0..DEPTH_MAX + 2 {
            planned.extend(self.of_groups(&mut groups));
            if planned.is_empty() {
                let mut memberships = groups.memberships();
                memberships.entry(primary_sid).or_insert(None);
                let of_group = |(sid, name)| Membership { sid, name, scope: GroupScope::Global };
                return Ok(Record { account, memberships: memberships.into_iter().map(of_group).collect() });
            }
            let mut next = Vec::new();
            // No more is held than what is sent together.
            for planned in planned.chunks(TOGETHER_MAX) {
                let searches: Vec<_> = planned.iter().map(Planned::search).collect();
                let answers = self.connection.search_all(&searches).await?;
                for (planned, answer) in planned.iter().zip(answers) {
                    match planned.purpose {
                        Purpose::Absence => self.check_absence(entry, answer)?,
                        Purpose::Number => self.check_number(entry, answer)?,
                        _ => next.extend(self.take_groups(planned, answer, &mut groups)?),
                    }
                }
                if groups.found.len() > GROUPS_MAX {
                    return Err(entry.wrong("membership", "has more than 5000 groups"));
                }
            }
            planned = next;
        }
        Err(entry.wrong("membership", "has groups in groups more than 32 levels deep"))
    }

    /// The account without its groups; the number of its primary group, and the SID of it.
    fn account(&self, entry: &Entry, keys: Account) -> Result<(Account, u32, Sid), Failed> {
        let generic = self.generic;
        let sid = user_sid(self.settings, generic, entry)?;
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
        Ok((account, primary, primary_sid))
    }

    fn group_sid(&self, number: u32) -> Result<Sid, String> {
        sid(self.settings, self.generic, &self.generic.group_rids, number)
    }

    /// What is asked about the account itself.
    fn of_account(&self, entry: &'a Entry, primary: u32) -> Result<Vec<Planned<'a>>, Failed> {
        let generic = self.generic;
        let name = generic.number.as_str();
        let number: u32 = entry.required(name)?;
        let mut planned = Vec::new();
        planned.extend(self.absence(entry));
        planned.push(Planned {
            purpose: Purpose::Number,
            base: &generic.user_base,
            scope: Scope::Subtree,
            filter: of_class(&generic.user_class, Filter::equal(&generic.number, number.to_string())),
            attributes: vec![name],
            entries_max: 2,
        });
        let of_primary = Filter::equal(&generic.group_number, primary.to_string());
        planned.push(self.of_group(Purpose::Primary, of_primary, BATCH));
        Ok(planned)
    }

    /// The search that proves that what was not read of an account is not there; `None` if all was read.
    fn absence(&self, entry: &'a Entry) -> Option<Planned<'a>> {
        let absent = absent(self.generic, entry).filter_map(Attribute::new);
        let absent: Vec<_> = absent.map(|name| Filter::not(Filter::Present(name))).collect();
        (!absent.is_empty()).then(|| Planned {
            purpose: Purpose::Absence,
            base: &entry.dn,
            scope: Scope::Base,
            filter: Filter::And(absent),
            attributes: vec![self.generic.number.as_str()],
            entries_max: 1,
        })
    }

    /// What was not read of an account is not there, and not only hidden.
    fn check_absence(&self, entry: &Entry, answer: Option<Answer>) -> Result<(), Failed> {
        let number = self.generic.number.as_str();
        match answer.ok_or(Failed::Changed)?.entries.pop() {
            Some(again) if again.values(number) == entry.values(number) => Ok(()),
            Some(_) => Err(Failed::Changed),
            None => Err(entry.wrong(
                &absent(self.generic, entry).collect::<Vec<_>>().join(", "),
                "may not be searched by the store's account, is not known to the server, or has changed",
            )),
        }
    }

    /// Another account with the same number would have the same SID.
    fn check_number(&self, entry: &Entry, answer: Option<Answer>) -> Result<(), Failed> {
        let name = self.generic.number.as_str();
        let answer = answer.ok_or_else(|| no_base(&self.generic.user_base))?;
        match answer.entries.len() {
            1 if !answer.is_cut => Ok(()),
            0 => Err(Failed::Changed),
            _ => {
                let number: u32 = entry.required(name)?;
                Err(entry.wrong(name, &format!("is {number}, as that of another account")))
            }
        }
    }

    /// What is asked next about the groups: the level above, and whether those that were found have names and
    /// numbers of their own.
    fn of_groups(&self, groups: &mut Groups) -> Vec<Planned<'a>> {
        let Groups { level, seen, unchecked, .. } = groups;
        let level: Vec<_> = level.drain(..).filter(|text| seen.insert(text.to_lowercase())).collect();
        let above = level.chunks(BATCH).map(|batch| {
            let any = |attribute: &Attribute| {
                Filter::any(batch.iter().map(|text| Filter::equal(attribute, text.as_str())))
            };
            match &self.generic.membership {
                GroupMembership::Member(attribute) | GroupMembership::MemberUid(attribute) => {
                    self.of_group(Purpose::Above, any(attribute), GROUPS_MAX)
                }
                GroupMembership::MemberOf(attribute) => {
                    let by_name = any(&Attribute::known("entryDN"));
                    let mut planned = self.of_group(Purpose::Above, by_name, batch.len());
                    planned.attributes.push(attribute.as_str());
                    planned
                }
            }
        });
        let mut planned: Vec<_> = above.collect();
        let of_same = |group: &GroupFound| {
            let rid = group.sid.rid_in(&self.settings.domain.sid);
            let number = rid.and_then(|rid| self.generic.group_rids.number(rid)).unwrap_or_default();
            let name = group.name.as_ref().map(|name| candidate_filter::name(&self.generic.group_name, name));
            name.into_iter().chain([Filter::equal(&self.generic.group_number, number.to_string())])
        };
        planned.extend(unchecked.chunks(BATCH).map(|batch| {
            self.of_group(Purpose::Same, Filter::any(batch.iter().flat_map(of_same)), GROUPS_MAX)
        }));
        unchecked.clear();
        planned
    }

    /// A search for groups below the base for groups.
    fn of_group(&self, purpose: Purpose, filter: Filter, entries_max: usize) -> Planned<'a> {
        let generic = self.generic;
        Planned {
            purpose,
            base: &generic.group_base,
            scope: Scope::Subtree,
            filter: of_class(&generic.group_class, filter),
            attributes: vec![generic.group_name.as_str(), generic.group_number.as_str()],
            entries_max,
        }
    }

    /// Takes the groups of an answer, which have to be all of them. Returns what has to be asked because of
    /// it.
    fn take_groups(
        &self,
        planned: &Planned<'a>,
        answer: Option<Answer>,
        groups: &mut Groups,
    ) -> Result<Option<Planned<'a>>, Failed> {
        let entries = answer.ok_or_else(|| no_base(&self.generic.group_base))?.whole("groups")?;
        let found = entries.iter().map(|entry| Ok((self.group(entry)?, entry)));
        let found = found.collect::<Result<Vec<_>, Failed>>()?;
        match planned.purpose {
            Purpose::NothingAbove(count) if found.len() == count => Ok(None),
            Purpose::NothingAbove(_) => Err(Failed::Data(format!(
                "{} of groups may not be searched by the store's account, or has changed",
                planned.attributes.last().copied().unwrap_or_default()
            ))),
            Purpose::Same => {
                for (group, entry) in found {
                    self.compare(group, entry, groups)?;
                }
                Ok(None)
            }
            Purpose::Above => self.take_above(planned, found, groups),
            _ => {
                groups.primary.extend(found.into_iter().map(|(group, _)| group));
                groups.unchecked.extend(groups.primary.iter().cloned());
                Ok(None)
            }
        }
    }

    fn take_above(
        &self,
        planned: &Planned<'a>,
        found: Vec<(GroupFound, &Entry)>,
        groups: &mut Groups,
    ) -> Result<Option<Planned<'a>>, Failed> {
        let mut without = 0;
        for (group, entry) in found {
            match &self.generic.membership {
                GroupMembership::Member(_) => groups.level.push(String::from(&*group.dn)),
                GroupMembership::MemberUid(_) => {}
                GroupMembership::MemberOf(attribute) => {
                    let above = entry.texts(attribute.as_str())?;
                    without += usize::from(!entry.has(attribute.as_str()));
                    groups.level.extend(above);
                }
            }
            groups.insert(group);
        }
        let GroupMembership::MemberOf(attribute) = &self.generic.membership else { return Ok(None) };
        let absent = Filter::not(Filter::Present(attribute.clone()));
        let proof = Planned {
            purpose: Purpose::NothingAbove(without),
            filter: Filter::And(vec![planned.filter.clone(), absent]),
            attributes: planned.attributes.clone(),
            ..*planned
        };
        Ok((without > 0).then_some(proof))
    }

    fn group(&self, entry: &Entry) -> Result<GroupFound, Failed> {
        let number = self.generic.group_number.as_str();
        let sid = self.group_sid(entry.required(number)?).map_err(|why| entry.wrong(number, &why))?;
        // A group with several names has none.
        let name = entry.text(self.generic.group_name.as_str()).ok().flatten();
        let name = name.filter(|name| rules::check_name("group", name).is_ok());
        Ok(GroupFound { dn: entry.dn.as_str().into(), sid, name: name.map(Into::into) })
    }

    /// Notes the number and the names of a group. Two groups with one number are an error.
    fn compare(&self, group: GroupFound, entry: &Entry, groups: &mut Groups) -> Result<(), Failed> {
        let first = groups.by_sid.entry(group.sid).or_insert_with(|| Arc::clone(&group.dn));
        if *first != group.dn {
            let number = self.generic.group_number.as_str();
            return Err(entry.wrong(number, &format!("is that of another group, {first:?}")));
        }
        for name in entry.each_text(self.generic.group_name.as_str())? {
            let owner = groups.by_name.entry(wide(name)).or_insert(Some(group.sid));
            *owner = owner.filter(|owner| *owner == group.sid);
        }
        Ok(())
    }
}

impl Planned<'_> {
    fn search(&self) -> Search<'_> {
        Search {
            base: self.base,
            scope: self.scope,
            filter: &self.filter,
            attributes: &self.attributes,
            entries_max: self.entries_max,
            domain_scope: false,
        }
    }
}

/// The attributes that the entry lacks, and whose absence has to be proved.
fn absent<'a>(generic: &'a GenericSettings, entry: &Entry) -> impl Iterator<Item = &'a str> {
    provable(generic).filter(|name| !entry.has(name))
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
            apply_state(preset, &Entry::of("uid=alice", attributes), &mut account)
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
