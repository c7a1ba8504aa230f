//! Active Directory and Samba: which entries are accounts and groups, and what their attributes mean.
//!
//! A look-up reads three times over one connection: the candidates; `tokenGroups` of the account that
//! matches, which works in a base search only; the groups of these SIDs. The second read goes by `<GUID=…>`
//! and has to bring the same objectSid, so an account that is renamed or moved meanwhile is still itself.
//!
//! Absence counts as "no restriction" only if another value of the same property set ([MS-ADTS] 3.1.1.2.3.3)
//! could be read: `userAccountControl` for state and expiry, `logonCount` for logon hours, `tokenGroups`,
//! which always has a value, for groups.

use crate::candidate_filter::{self, Accents};
use crate::connection::{Connection, TOGETHER_MAX};
use crate::entry::{self, Entry};
use crate::failed::Failed;
use crate::filter::{Attribute, Filter};
use crate::mail;
use crate::matching::{self, Found};
use crate::message::{Scope, Search};
use crate::settings::{AdSettings, Settings};
use crate::walk::{self, Flaw, Pages, See, Seen, SeenAccount, SeenGroup};
use account_store::fold::casefold;
use account_store::index::{KeyKind, Place};
use account_store::{
    Account, AccountFlags, AccountKind, GroupScope, Matches, Membership, Profile, Query, Record, rules,
};
use dtyp::{Encode, FileTime, Guid, Sid};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Groups of one account: as many as one answer carries.
pub(crate) const GROUPS_MAX: usize = 5000;
/// Groups that one search asks for.
const BATCH: usize = 100;

/// ADS_GROUP_TYPE ([MS-ADTS] 2.2.12).
mod group_type {
    pub(super) const GLOBAL: u32 = 0x2;
    pub(super) const LOCAL: u32 = 0x4;
    pub(super) const UNIVERSAL: u32 = 0x8;
    pub(super) const SECURITY: u32 = 0x8000_0000;
}

const ACCOUNT: [&str; 23] = [
    "objectGUID",
    "objectSid",
    "sAMAccountName",
    "userPrincipalName",
    "servicePrincipalName",
    "altSecurityIdentities",
    "userAccountControl",
    "msDS-User-Account-Control-Computed",
    "primaryGroupID",
    "accountExpires",
    "logonHours",
    "logonCount",
    "badPwdCount",
    "pwdLastSet",
    "whenCreated",
    "displayName",
    "mail",
    "scriptPath",
    "profilePath",
    "homeDirectory",
    "homeDrive",
    "sIDHistory",
    "msDS-UserPasswordExpiryTimeComputed",
];

const GROUP: [&str; 3] = ["objectSid", "sAMAccountName", "groupType"];

/// Checks after a bind: the account of the store reads its own entry, and the base is of the domain. An
/// anonymous bind, or one of an account without rights, does not.
pub(crate) async fn probe(
    connection: &mut Connection,
    settings: &Settings,
    ad: &AdSettings,
) -> Result<(), Failed> {
    let any = Filter::Present(Attribute::object_class());
    let read = async |connection: &mut Connection, base: &str, attribute| {
        let search = Search {
            base,
            scope: Scope::Base,
            filter: &any,
            attributes: &[attribute],
            entries_max: 1,
            domain_scope: true,
        };
        let entry = connection.search(search).await?.and_then(|mut answer| answer.entries.pop());
        entry.ok_or_else(|| Failed::Rights(format!("the store's account may not read {base:?}")))
    };
    read(connection, &settings.bind_dn, "objectClass").await?;
    let base = read(connection, &ad.base, "objectSid").await?;
    match base.sid("objectSid")? {
        Some(sid) if sid != settings.domain.sid => Err(Failed::Data(format!(
            "{:?} is of domain {sid}, and [domain] has the SID {}",
            ad.base, settings.domain.sid
        ))),
        // A part of the domain has none.
        _ => Ok(()),
    }
}

/// Looks accounts up.
pub(crate) async fn find(
    connection: &mut Connection,
    settings: &Settings,
    ad: &AdSettings,
    query: &Query,
    place: &Place,
) -> Result<Matches, Failed> {
    let dns = Some(&*settings.domain.dns);
    let Some(filter) = filter(dns, query, settings.accents) else { return Ok(Matches::None) };
    let answer =
        search(connection, &ad.base, Scope::Subtree, &filter, &ACCOUNT, settings.candidates_max).await?;
    let answer = answer.ok_or_else(|| Failed::Search(format!("the base {:?} is not there", ad.base)))?;
    let candidates = answer.entries.iter().map(|entry| Candidate::read(entry, settings));
    let candidates = candidates.collect::<Result<Vec<_>, _>>()?;
    let is_claimed = |candidate: &Candidate<'_>| {
        matching::is_at(&settings.domain, &candidate.keys, place)
            || mail::is_among(candidate.entry, "mail", place)
            || is_implicit(&settings.domain.dns, &candidate.keys.name, place)
    };
    let matching: Vec<_> = candidates.iter().filter(|candidate| is_claimed(candidate)).collect();
    let count = answer.entries.len();
    let found =
        matching::decide(matching, |one| &one.keys.name, count, settings.candidates_max, answer.is_cut)?;
    match found {
        Found::None => Ok(Matches::None),
        Found::Many(names) => Ok(names),
        // An account that has the name by its sAMAccountName alone stands in the way of others, and is not
        // found.
        Found::One(one) if !matching::is_at(&settings.domain, &one.keys, place) => Ok(Matches::None),
        // Whose the address is, is all that is asked.
        Found::One(one) if matches!(query, Query::Mail(_)) => {
            Ok(Matches::One(Arc::new(Record { account: one.keys.clone(), memberships: Vec::new() })))
        }
        Found::One(one) => {
            let mut account = one.account()?;
            let memberships = memberships(connection, settings, ad, one, &mut account).await?;
            rules::check_account(&account).map_err(|error| Failed::Data(error.to_string()))?;
            Ok(Matches::One(Arc::new(Record { account, memberships })))
        }
    }
}

/// Reads all accounts and groups. A group that an account is in and that cannot be read is told, too.
pub(crate) async fn walk(
    connection: &mut Connection,
    settings: &Settings,
    ad: &AdSettings,
    see: &mut See<'_>,
) -> Result<(), Failed> {
    let class = |name| Filter::equal(&Attribute::object_class(), name);
    let (users, groups) = (class("user"), class("group"));
    let mut needed = BTreeMap::new();
    let mut pages = Pages::new(settings, &ad.base, &users, &ACCOUNT);
    while let Some(entries) = pages.next(connection, see).await? {
        let mut candidates = Vec::with_capacity(entries.len());
        for entry in &entries {
            match Candidate::read(entry, settings) {
                Ok(candidate) => candidates.push(candidate),
                Err(failed) => see(walk::wrong(Flaw::Unreadable, &entry.dn, &entry.dn, failed)?),
            }
        }
        for candidate in &candidates {
            see(Seen::Account(claims(candidate.entry, &candidate.keys, &settings.domain.dns)));
        }
        for together in candidates.chunks(TOGETHER_MAX) {
            look_at(connection, settings, together, &mut needed, see).await?;
        }
    }
    let mut pages = Pages::new(settings, &ad.base, &groups, &GROUP);
    while let Some(entries) = pages.next(connection, see).await? {
        for entry in &entries {
            match entry
                .sid("objectSid")
                .and_then(|sid| Ok(sid.zip(sid.map(|sid| membership(entry, sid)).transpose()?)))
            {
                // Those of BUILTIN are in no PAC.
                Ok(Some((sid, group))) if sid.rid_in(&settings.domain.sid).is_some() => {
                    needed.remove(&sid);
                    let seen = |group: Membership| SeenGroup { names: group.name.into_iter().collect(), sid };
                    group.into_iter().for_each(|group| see(Seen::Group(seen(group))));
                }
                Ok(_) => {}
                Err(failed) => see(walk::wrong(Flaw::Unreadable, &entry.dn, &entry.dn, failed)?),
            }
        }
    }
    for (sid, who) in needed {
        see(walk::wrong(Flaw::Unreadable, &who, "", hidden_group(&sid, ad))?);
    }
    Ok(())
}

/// What an account is found by, with the name that it has by its domain.
pub(crate) fn claims(entry: &Entry, account: &Account, own: &str) -> SeenAccount {
    let mails = mail::all(entry, "mail").map(str::to_owned).collect();
    let dns = account.home_domain.as_deref().unwrap_or(own);
    let mut seen = walk::seen(account, Some(account.sid), mails);
    seen.claims.push(Query::UserPrincipalName(format!("{}@{dns}", account.name)));
    seen
}

/// Looks whether all of some accounts can be read. Their groups go to `needed`, with the name of one that is in
/// it.
async fn look_at(
    connection: &mut Connection,
    settings: &Settings,
    candidates: &[Candidate<'_>],
    needed: &mut BTreeMap<Sid, String>,
    see: &mut See<'_>,
) -> Result<(), Failed> {
    let any = Filter::Present(Attribute::object_class());
    let mut whole = Vec::new();
    for candidate in candidates {
        let guid = candidate.guid();
        match candidate.account().and_then(|account| Ok((account, guid?))) {
            Ok((account, guid)) => whole.push((candidate, account, format!("<GUID={guid}>"))),
            Err(failed) => {
                see(walk::wrong(Flaw::Unreadable, &candidate.keys.name, &candidate.entry.dn, failed)?)
            }
        }
    }
    let searches = whole.iter().map(|(_, _, base)| Search {
        base,
        scope: Scope::Base,
        filter: &any,
        attributes: &["objectSid", "tokenGroups"],
        entries_max: 1,
        domain_scope: true,
    });
    let searches: Vec<_> = searches.collect();
    let answers =
        walk::within(settings.timeout, connection, async |connection| connection.search_all(&searches).await);
    for ((candidate, account, _), answer) in whole.iter().zip(answers.await?) {
        // An account that was removed meanwhile, or is another one now, is not looked at.
        let Some(entry) = answer.and_then(|mut answer| answer.entries.pop()) else { continue };
        if entry.sid("objectSid")? != Some(account.sid) {
            continue;
        }
        let checked = rules::check_account(account).map_err(|error| Failed::Data(error.to_string()));
        if let Err(failed) = checked.and_then(|()| take_needed(settings, account, &entry, needed)) {
            see(walk::wrong(Flaw::Unreadable, &candidate.keys.name, &candidate.entry.dn, failed)?);
        }
    }
    Ok(())
}

/// The groups of an account in the domain. Of a list in ranges, the first range is looked at.
fn take_needed(
    settings: &Settings,
    account: &Account,
    entry: &Entry,
    needed: &mut BTreeMap<Sid, String>,
) -> Result<(), Failed> {
    let range = entry.range("tokenGroups");
    let is_whole = range.is_none();
    let values = range.map_or_else(|| entry.values("tokenGroups"), |(values, _)| values);
    let sids: BTreeSet<Sid> = values.into_iter().filter_map(entry::sid).collect();
    let primary = settings.domain.sid.with_rid(account.primary_group_id);
    if sids.is_empty() || is_whole && primary.is_none_or(|primary| !sids.contains(&primary)) {
        return Err(entry.wrong("tokenGroups", "lacks the primary group, or may not be read"));
    }
    for sid in sids.into_iter().filter(|sid| sid.rid_in(&settings.domain.sid).is_some()) {
        needed.entry(sid).or_insert_with(|| account.name.clone());
    }
    Ok(())
}

fn hidden_group(sid: &Sid, ad: &AdSettings) -> Failed {
    Failed::Data(format!(
        "the group {sid} may not be read by the store's account, or is outside of the base {:?}",
        ad.base
    ))
}

async fn search(
    connection: &mut Connection,
    base: &str,
    scope: Scope,
    filter: &Filter,
    attributes: &[&str],
    entries_max: usize,
) -> Result<Option<crate::connection::Answer>, Failed> {
    let domain_scope = true;
    connection.search(Search { base, scope, filter, attributes, entries_max, domain_scope }).await
}

/// What a question looks for among users, computers and managed service accounts: in the domain with this DNS
/// name, or in all domains of a forest.
pub(crate) fn filter(dns: Option<&str>, query: &Query, accents: Accents) -> Option<Filter> {
    let named = |attribute, text: &str| candidate_filter::name(&Attribute::known(attribute), text);
    let of_query = match query {
        Query::UserPrincipalName(text) => {
            let explicit = named("userPrincipalName", text);
            // `sAMAccountName@domain` is a name of that account, whatever userPrincipalName others have.
            let is_of = |suffix: &str| dns.is_none_or(|dns| suffix.eq_ignore_ascii_case(dns));
            match text.rsplit_once('@') {
                Some((name, suffix)) if !name.is_empty() && is_of(suffix) => {
                    Filter::Or(vec![explicit, named("sAMAccountName", name)])
                }
                _ => explicit,
            }
        }
        Query::ServicePrincipalName(text) => named("servicePrincipalName", text),
        Query::AltSecurityIdentity(text) => {
            candidate_filter::identity(&Attribute::known("altSecurityIdentities"), text, accents)?
        }
        Query::Mail(text) => named("mail", text),
        Query::Name(text) => named("sAMAccountName", text),
        Query::Sid(sid) => Filter::Equal(Attribute::known("objectSid"), sid.to_bytes()),
        _ => return None,
    };
    Some(Filter::And(vec![Filter::equal(&Attribute::object_class(), "user"), of_query]))
}

/// Whether a user principal name is the one that every account of a domain has by its name.
pub(crate) fn is_implicit(dns: &str, name: &str, place: &Place) -> bool {
    match place {
        Place::Key(KeyKind::UserPrincipalName, wanted) => *wanted == casefold(&format!("{name}@{dns}")),
        _ => false,
    }
}

/// Name, SID and what certificates are compared with.
pub(crate) fn keys(entry: &Entry, mail_domain: Option<&str>) -> Result<Account, Failed> {
    let missing = |name| entry.wrong(name, "is missing, or may not be read by the store's account");
    let sid = entry.sid("objectSid")?.ok_or_else(|| missing("objectSid"))?;
    let name = entry.text("sAMAccountName")?.ok_or_else(|| missing("sAMAccountName"))?;
    Ok(Account {
        user_principal_name: entry.texts("userPrincipalName")?.pop(),
        service_principal_names: entry.texts("servicePrincipalName")?,
        alt_security_identities: entry.texts("altSecurityIdentities")?,
        profile: Profile { mail: mail::chosen(entry, "mail", mail_domain), ..Profile::default() },
        ..Account::new(name, sid)
    })
}

/// An entry that may be the account.
struct Candidate<'a> {
    entry: &'a Entry,
    /// Name, SID and what certificates are compared with; nothing else is read yet.
    keys: Account,
}

impl<'a> Candidate<'a> {
    fn read(entry: &'a Entry, settings: &Settings) -> Result<Self, Failed> {
        let keys = keys(entry, settings.mail_domain.as_deref())?;
        match keys.sid.rid_in(&settings.domain.sid) {
            Some(_) => Ok(Self { entry, keys }),
            None => Err(entry.wrong("objectSid", "is of another domain")),
        }
    }

    /// The whole account, without its groups.
    fn account(&self) -> Result<Account, Failed> {
        let entry = self.entry;
        let text = |name| Ok::<_, Failed>(entry.text(name)?.unwrap_or_default().to_owned());
        let control: i32 = entry.required("userAccountControl")?;
        let computed: i32 = entry.required("msDS-User-Account-Control-Computed")?;
        let is_locked = AccountFlags(computed.cast_unsigned()).contains(AccountFlags::LOCKED);
        let logon_count: u32 = entry.required("logonCount")?;
        let bad_password_count: u32 = entry.number("badPwdCount")?.unwrap_or_default();
        let mut extra_sids = Vec::new();
        for value in entry.values("sIDHistory") {
            let sid = entry::sid(value).ok_or_else(|| entry.wrong("sIDHistory", "is not a SID"))?;
            let is_own = sid.rid_in(&self.domain()).is_some();
            if is_own || !is_account_sid(&sid) {
                return Err(entry
                    .wrong("sIDHistory", &format!("has {sid}, which only this domain's own entries have")));
            }
            extra_sids.push(sid);
        }
        let kind = if self.keys.name.ends_with('$') { AccountKind::Computer } else { AccountKind::User };
        Ok(Account {
            kind,
            flags: AccountFlags(control.cast_unsigned()).with(AccountFlags::LOCKED, is_locked),
            primary_group_id: entry.required("primaryGroupID")?,
            expires: expiry(entry, "accountExpires")?,
            created: entry.time("whenCreated")?.unwrap_or(FileTime::UNSET),
            password_last_set: FileTime(entry.number::<u64>("pwdLastSet")?.unwrap_or_default()),
            password_must_change: expiry(entry, "msDS-UserPasswordExpiryTimeComputed")?,
            logon_hours: logon_hours(entry)?,
            logon_count: u16::try_from(logon_count).unwrap_or(u16::MAX),
            bad_password_count: u16::try_from(bad_password_count).unwrap_or(u16::MAX),
            profile: Profile {
                full_name: text("displayName")?,
                logon_script: text("scriptPath")?,
                profile_path: text("profilePath")?,
                home_directory: text("homeDirectory")?,
                home_directory_drive: text("homeDrive")?,
                mail: self.keys.profile.mail.clone(),
            },
            extra_sids,
            ..self.keys.clone()
        })
    }

    fn guid(&self) -> Result<Guid, Failed> {
        let guid = self.entry.guid("objectGUID")?;
        guid.ok_or_else(|| self.entry.wrong("objectGUID", "may not be read by the store's account"))
    }

    fn domain(&self) -> Sid {
        self.keys.sid.split_rid().map_or(self.keys.sid, |(domain, _)| domain)
    }
}

/// A time of [MS-ADTS] 2.2.18: 0 and all that is after the year 9999 are never.
fn expiry(entry: &Entry, name: &str) -> Result<FileTime, Failed> {
    /// 9999-12-31T23:59:59Z, as FILETIME.
    const LAST: i64 = 2_650_467_743_990_000_000;
    Ok(match entry.number::<i64>(name)? {
        Some(time @ 1..=LAST) => FileTime(time.cast_unsigned()),
        _ => FileTime::NEVER,
    })
}

fn logon_hours(entry: &Entry) -> Result<Option<[u8; 21]>, Failed> {
    match entry.values("logonHours")[..] {
        [] => Ok(None),
        [hours] => {
            let hours = hours.try_into();
            hours.map(Some).map_err(|_| entry.wrong("logonHours", "does not have 21 bytes"))
        }
        _ => Err(entry.wrong("logonHours", "has several values")),
    }
}

/// A SID of an account domain, with a RID.
fn is_account_sid(sid: &Sid) -> bool {
    sid.split_rid().is_some_and(|(domain, rid)| domain.is_domain() && rid != 0)
}

/// Of the group `BUILTIN`, whose groups are local to each server and in no PAC.
fn is_builtin(sid: &Sid) -> bool {
    sid.authority() == 5 && sid.sub_authorities().first() == Some(&32)
}

/// The groups of an account. Those of other domains become extra SIDs.
async fn memberships(
    connection: &mut Connection,
    settings: &Settings,
    ad: &AdSettings,
    candidate: &Candidate<'_>,
    account: &mut Account,
) -> Result<Vec<Membership>, Failed> {
    let guid = candidate.guid()?;
    let sids = token_groups(connection, &guid, account).await?;
    let mut own = BTreeSet::new();
    for sid in sids {
        match sid.rid_in(&settings.domain.sid) {
            Some(_) => drop(own.insert(sid)),
            None if is_builtin(&sid) => {}
            None if is_account_sid(&sid) => {
                if !account.extra_sids.contains(&sid) {
                    account.extra_sids.push(sid);
                }
            }
            None => {
                return Err(candidate
                    .entry
                    .wrong("tokenGroups", &format!("has {sid}, which is no group of a domain")));
            }
        }
    }
    let primary = settings.domain.sid.with_rid(account.primary_group_id);
    if primary.is_none_or(|primary| !own.contains(&primary)) {
        return Err(candidate.entry.wrong("tokenGroups", "lacks the primary group, or may not be read"));
    }
    let own: Vec<Sid> = own.into_iter().collect();
    groups(connection, ad, &own).await
}

/// `tokenGroups`, read to its end.
async fn token_groups(
    connection: &mut Connection,
    guid: &Guid,
    account: &Account,
) -> Result<BTreeSet<Sid>, Failed> {
    let base = format!("<GUID={guid}>");
    let any = Filter::Present(Attribute::object_class());
    let mut sids = BTreeSet::new();
    let mut from = None;
    loop {
        let attribute = from.map_or("tokenGroups".to_owned(), |from| format!("tokenGroups;range={from}-*"));
        let answer = search(connection, &base, Scope::Base, &any, &["objectSid", &attribute], 1).await?;
        let entry = answer.and_then(|mut answer| answer.entries.pop()).ok_or(Failed::Changed)?;
        if entry.sid("objectSid")? != Some(account.sid) {
            return Err(Failed::Changed);
        }
        let (values, next) = match entry.range("tokenGroups") {
            Some(range) => range,
            None => (entry.values("tokenGroups"), None),
        };
        for value in values {
            sids.insert(entry::sid(value).ok_or_else(|| entry.wrong("tokenGroups", "is not a SID"))?);
        }
        if sids.len() > GROUPS_MAX {
            return Err(entry.wrong("tokenGroups", "has more than 5000 groups"));
        }
        match next {
            // A server that repeats itself ends here.
            Some(next) if from.is_none_or(|from| next > from) => from = Some(next),
            Some(_) => return Err(entry.wrong("tokenGroups", "comes in ranges that do not end")),
            None if sids.is_empty() => {
                return Err(entry.wrong("tokenGroups", "may not be read by the store's account"));
            }
            None => return Ok(sids),
        }
    }
}

/// Name and scope of the security groups with these SIDs. Each SID has to be an entry that can be read.
async fn groups(
    connection: &mut Connection,
    ad: &AdSettings,
    sids: &[Sid],
) -> Result<Vec<Membership>, Failed> {
    let by_sid = Attribute::known("objectSid");
    let batches: Vec<_> = sids.chunks(BATCH).collect();
    let of_batch =
        |batch: &&[Sid]| Filter::any(batch.iter().map(|sid| Filter::Equal(by_sid.clone(), sid.to_bytes())));
    let filters: Vec<_> = batches.iter().map(of_batch).collect();
    let searches = filters.iter().zip(&batches).map(|(filter, batch)| Search {
        base: &ad.base,
        scope: Scope::Subtree,
        filter,
        attributes: &GROUP,
        entries_max: batch.len(),
        domain_scope: true,
    });
    let searches: Vec<_> = searches.collect();
    let mut known = BTreeMap::new();
    for answer in connection.search_all(&searches).await? {
        for entry in answer.ok_or(Failed::Changed)?.whole("groups")? {
            if let Some(sid) = entry.sid("objectSid")? {
                known.insert(sid, membership(&entry, sid)?);
            }
        }
    }
    let mut memberships = Vec::with_capacity(sids.len());
    for sid in sids {
        match known.remove(sid) {
            Some(membership) => memberships.extend(membership),
            None => return Err(hidden_group(sid, ad)),
        }
    }
    Ok(memberships)
}

/// A group as it stands in a PAC; `None` for a distribution group.
fn membership(entry: &Entry, sid: Sid) -> Result<Option<Membership>, Failed> {
    let kind = entry.required::<i32>("groupType")?.cast_unsigned();
    if kind & group_type::SECURITY == 0 {
        return Ok(None);
    }
    let scope = match kind & (group_type::GLOBAL | group_type::LOCAL | group_type::UNIVERSAL) {
        group_type::GLOBAL => GroupScope::Global,
        group_type::LOCAL => GroupScope::Local,
        group_type::UNIVERSAL => GroupScope::Universal,
        _ => return Err(entry.wrong("groupType", "has a scope that is not known")),
    };
    let name = entry.text("sAMAccountName")?.filter(|name| rules::check_name("group", name).is_ok());
    Ok(Some(Membership { sid, name: name.map(str::to_owned), scope }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use account_store::battery::domain;

    #[test]
    fn expiry_is_never_for_zero_and_after_the_year_9999() {
        for (value, expected) in [
            ("0", FileTime::NEVER),
            ("9223372036854775807", FileTime::NEVER),
            ("-1", FileTime::NEVER),
            ("2650467743990000001", FileTime::NEVER),
            ("132223104000000000", FileTime(132_223_104_000_000_000)),
        ] {
            assert_eq!(
                expiry(&Entry::of("CN=a", &[("accountExpires", &[value])]), "accountExpires"),
                Ok(expected)
            );
        }
        assert!(expiry(&Entry::of("CN=a", &[("accountExpires", &["soon"])]), "accountExpires").is_err());
    }

    #[test]
    fn groups_are_of_the_pac_by_their_type() {
        let sid: Sid = "S-1-5-21-1-2-3-1100".parse().expect("a SID");
        for (kind, expected) in [
            ("-2147483646", Some(GroupScope::Global)),
            ("-2147483644", Some(GroupScope::Local)),
            ("-2147483640", Some(GroupScope::Universal)),
            ("2", None),
            ("8", None),
        ] {
            let entry = Entry::of("CN=g", &[("groupType", &[kind]), ("sAMAccountName", &["g"])]);
            let scope = membership(&entry, sid).expect("a group").map(|membership| membership.scope);
            assert_eq!(scope, expected, "{kind}");
        }
        for kind in ["-2147483648", "-2147483634", "x"] {
            assert!(membership(&Entry::of("CN=g", &[("groupType", &[kind])]), sid).is_err(), "{kind}");
        }
        assert!(membership(&Entry::of("CN=g", &[]), sid).is_err(), "a scope that cannot be read is no scope");
    }

    #[test]
    fn absence_is_no_permission() {
        let whole: &[(&str, &[&str])] = &[
            ("sAMAccountName", &["alice"]),
            ("userAccountControl", &["512"]),
            ("msDS-User-Account-Control-Computed", &["16"]),
            ("primaryGroupID", &["513"]),
            ("logonCount", &["0"]),
        ];
        let keys = Account::new("alice", domain().sid.with_rid(1100).expect("room"));
        let read = |attributes: &[(&str, &[&str])]| {
            let entry = Entry::of("CN=alice", attributes);
            Candidate { entry: &entry, keys: keys.clone() }.account()
        };
        let account = read(whole).expect("an account");
        assert!(account.flags.contains(AccountFlags::LOCKED), "locked by the computed state alone");
        assert_eq!((account.expires, account.logon_hours), (FileTime::NEVER, None));
        for without in 1..whole.len() {
            let less: Vec<_> =
                whole.iter().enumerate().filter(|(at, _)| *at != without).map(|(_, it)| *it).collect();
            let error = read(&less).expect_err("it is missing").to_string();
            assert!(error.contains(whole[without].0), "{error}");
        }
    }

    /// Samba refuses such a user principal name itself.
    #[test]
    fn the_name_of_an_account_is_a_user_principal_name_of_its_own() {
        let place =
            |text: &str| account_store::index::place(&domain(), &Query::UserPrincipalName(text.to_owned()));
        assert!(is_implicit(&domain().dns, "Bob", &place("bob@CONTOSO.example")));
        for other in ["bob@contoso.com", "bobby@contoso.example", "bob"] {
            assert!(!is_implicit(&domain().dns, "Bob", &place(other)), "{other}");
        }
        assert!(!is_implicit(&domain().dns, "Bob", &Place::Name("bob@contoso.example".to_owned())));
    }

    #[test]
    fn guids_are_written_as_windows_writes_them() {
        let bytes: [u8; 16] = std::array::from_fn(|at| at as u8);
        let guid = <Guid as dtyp::Decode>::from_bytes("GUID", &bytes).expect("16 bytes");
        assert_eq!(guid.to_string(), "03020100-0504-0706-0809-0a0b0c0d0e0f");
    }
}
