//! What a store keeps, as tests that the crate of the store runs (feature `battery`).
//!
//! - [`read_only_store_battery!`] runs what every store keeps ([`read_only`]). Its argument makes a store of
//!   [`domain`] from a list of [`Record`]s: it writes them into the store's own form and opens that.
//! - [`account_store_battery!`] runs the same, and what a writable store keeps beside it. Its argument makes
//!   an empty store of [`domain`].
//! - [`machine_store_battery!`] runs what a store keeps that holds machines together with accounts.
//!
//! Each argument is a closure that returns the store and a value that has to outlive it, such as a temporary
//! folder, or `()`. Each promise becomes a `#[test]` of its own, so a macro is invoked once in a module:
//!
//! ```
//! # use account_store::{AccountAdmin, MemoryStore, battery};
//! #[cfg(test)]
//! mod tests {
//!     use account_store::{MemoryStore, battery};
//!
//!     account_store::account_store_battery!(|| (MemoryStore::new(battery::domain()), ()));
//! }
//! ```
//!
//! Futures are polled on the thread of the test. A store that needs a runtime gets its context from the value
//! that outlives it: for tokio, the guard of `Runtime::enter` on a multi-threaded runtime that was leaked.

pub mod read_only;

pub use crate::{account_store_battery, machine_store_battery, read_only_store_battery};
pub use machines::*;

use crate::{
    Account, AccountAdmin, AccountFlags, AccountKind, AccountStore, Change, Domain, Group, GroupScope,
    Matches, Membership, Profile, Put, Query, Record, StoreError,
};
use dtyp::{FileTime, Sid};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Tests what every store keeps: see [`battery`](crate::battery).
#[macro_export]
macro_rules! read_only_store_battery {
    ($make:expr) => {
        $crate::read_only_store_battery!(
            $make,
            absence_is_a_value,
            every_kind_of_query_finds_its_account,
            text_is_folded_as_its_kind_is,
            several_accounts_are_many_and_some_are_named,
            disabled_accounts_are_found,
            memberships_come_with_their_account,
            the_revision_stays_while_nothing_changes,
            another_store_has_another_revision,
            dropped_look_ups_leave_nothing,
            many_threads_are_answered,
            questions_may_be_hostile
        );
    };
    ($make:expr, $($promise:ident),*) => {
        $(
            #[test]
            fn $promise() {
                $crate::battery::read_only::$promise($make);
            }
        )*
    };
}

/// Tests what a writable store of accounts keeps: see [`battery`](crate::battery).
#[macro_export]
macro_rules! account_store_battery {
    ($make:expr) => {
        $crate::read_only_store_battery!(|records: &[$crate::Record]| $crate::battery::filled($make(), records));
        $crate::account_store_battery!(
            $make,
            ambiguity_ends_with_the_other_accounts,
            fields_come_back_as_they_were_written,
            disabled_locked_and_expired_accounts_are_found,
            memberships_are_transitive_and_each_once,
            circles_of_groups_end,
            memberships_follow_every_change_of_the_graph,
            groups_tell_their_present_name_and_scope,
            replacing_an_account_moves_its_keys,
            removed_accounts_leave_nothing,
            names_and_sids_are_unique,
            names_that_look_alike_are_refused,
            groups_have_the_name_of_a_privileged_group_with_its_sid_only,
            home_domains_have_names_of_domains,
            an_address_that_two_accounts_have_is_of_neither,
            relative_identifiers_are_given_once,
            bad_entries_are_refused,
            a_change_is_whole_or_not_at_all,
            memberships_may_come_before_their_ends,
            revisions_follow_changes,
            lists_come_in_pages
        );
    };
    ($make:expr, $($promise:ident),*) => {
        $(
            #[test]
            fn $promise() {
                let (store, _keep) = $make();
                $crate::battery::$promise(&store);
            }
        )*
    };
}

/// Tests what a store keeps that holds machines together with accounts: see [`battery`](crate::battery).
#[macro_export]
macro_rules! machine_store_battery {
    ($make:expr) => {
        $crate::account_store_battery!(
            $make,
            machines_come_back_as_they_were_written,
            a_channel_is_its_account,
            a_machine_and_its_account_share_name_and_sid,
            secrets_rotate_and_the_previous_one_goes,
            a_machine_without_a_secret_gets_a_random_one,
            machine_revisions_follow_changes,
            bad_machines_are_refused,
            lines_carry_everything_to_another_store,
            replaced_entries_are_as_their_lines_say,
            disabled_accounts_stay_disabled_if_wanted
        );
    };
}

/// A writable store with these accounts and their groups.
pub fn filled<S: AccountAdmin, K>((store, keep): (S, K), records: &[Record]) -> (S, K) {
    let mut groups = BTreeMap::new();
    let mut members = Vec::new();
    for Record { account, memberships } in records {
        for Membership { sid, name, scope } in memberships {
            if let Some(name) = name {
                groups.insert(*sid, Group { name: name.clone(), sid: *sid, scope: *scope });
            }
            if sid.rid_in(&domain().sid) != Some(account.primary_group_id) {
                members.push(Change::AddMember { group: *sid, member: account.sid });
            }
        }
    }
    let groups = groups.into_values().map(|group| Change::PutGroup(Put::New, group));
    let accounts = records.iter().map(|record| add(record.account.clone()));
    apply(&store, groups.chain(accounts).chain(members).collect::<Vec<_>>());
    (store, keep)
}

/// Written whether new or not.
pub(crate) const REPLACE: Put = Put::Replace { keep_created: false, keep_disabled: false };

/// The domain of the stores under test.
pub fn domain() -> Domain {
    Domain {
        netbios: "CONTOSO".to_owned(),
        dns: "contoso.example".to_owned(),
        sid: "S-1-5-21-3623811015-3361044348-30300820".parse().expect("a SID"),
    }
}

/// The value of a future that has to be ready, or becomes so by another thread.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

pub(crate) fn sid(rid: u32) -> Sid {
    domain().sid.with_rid(rid).expect("room for a RID")
}

/// A user with this RID, named `user` and the RID, of primary group 513.
pub(crate) fn user(rid: u32) -> Account {
    Account::new(format!("user{rid}"), sid(rid))
}

pub(crate) fn alice() -> Account {
    Account {
        name: "Alice".to_owned(),
        user_principal_name: Some("alice@contoso.com".to_owned()),
        service_principal_names: vec!["HTTP/alice".to_owned(), "host/alice".to_owned()],
        alt_security_identities: vec![
            "X509:<I>DC=com,DC=contoso,CN=CONTOSO-CA<S>DC=com,DC=contoso,OU=Users,CN=Alice Smith".to_owned(),
            "X509:<I>DC=com,DC=contoso,CN=CONTOSO-CA<SR>1200000000ac11000000002b".to_owned(),
            "Kerberos:alice@EXAMPLE.COM".to_owned(),
        ],
        ..user(1013)
    }
}

pub(crate) fn group(rid: u32, name: &str) -> Group {
    Group { name: name.to_owned(), sid: sid(rid), scope: GroupScope::Global }
}

pub(crate) fn add(account: Account) -> Change {
    Change::PutAccount(Put::New, Box::new(account))
}

pub(crate) fn member(group: u32, member: u32) -> Change {
    Change::AddMember { group: sid(group), member: sid(member) }
}

fn not_member(group: u32, member: u32) -> Change {
    Change::RemoveMember { group: sid(group), member: sid(member) }
}

pub(crate) fn try_apply(
    store: &dyn AccountAdmin,
    changes: impl IntoIterator<Item = Change, IntoIter: Send>,
) -> Result<(), StoreError> {
    now(store.apply(&mut changes.into_iter().map(Ok)))
}

pub(crate) fn apply(store: &dyn AccountAdmin, changes: impl IntoIterator<Item = Change, IntoIter: Send>) {
    try_apply(store, changes).expect("the change keeps the rules");
}

fn refused(store: &dyn AccountAdmin, changes: Vec<Change>) -> String {
    match try_apply(store, changes.clone()) {
        Err(error @ (StoreError::Refused(_) | StoreError::Exists(_))) => error.to_string(),
        other => panic!("{changes:?}: {other:?}"),
    }
}

pub(crate) fn find(store: &dyn AccountStore, query: Query) -> Matches {
    let first = now(store.find(&query)).expect("the store answers");
    let second = now(store.find(&query)).expect("the store answers");
    assert_eq!(first, second, "asked twice, {query:?} finds the same");
    first
}

pub(crate) fn one(store: &dyn AccountStore, query: Query) -> Arc<Record> {
    match find(store, query.clone()) {
        Matches::One(record) => record,
        other => panic!("{query:?}: {other:?}"),
    }
}

fn name(text: &str) -> Query {
    Query::Name(text.to_owned())
}

fn upn(text: &str) -> Query {
    Query::UserPrincipalName(text.to_owned())
}

fn spn(text: &str) -> Query {
    Query::ServicePrincipalName(text.to_owned())
}

fn identity(text: &str) -> Query {
    Query::AltSecurityIdentity(text.to_owned())
}

/// The RIDs of the groups an account is in.
fn groups_of(store: &dyn AccountStore, rid: u32) -> Vec<u32> {
    let record = one(store, Query::Sid(sid(rid)));
    record.memberships.iter().map(|membership| membership.sid.split_rid().expect("it has a RID").1).collect()
}

/// An account that shared its names with others is found again when the others are removed.
pub fn ambiguity_ends_with_the_other_accounts(store: &dyn AccountAdmin) {
    apply(store, (2000..2012).map(|rid| add(read_only::twin(rid))));
    assert!(matches!(find(store, upn("twin@contoso.com")), Matches::Many(_)));
    apply(store, (2001..2012).map(|rid| Change::RemoveAccount(sid(rid))));
    assert_eq!(one(store, upn("twin@contoso.com")).account, read_only::twin(2000));
}

/// An account with something in every field.
pub(crate) fn full() -> Account {
    Account {
        flags: AccountFlags(0x8001_0202),
        primary_group_id: 515,
        expires: FileTime(94_354_848_000_000_001),
        created: FileTime(94_354_848_000_000_000),
        password_last_set: FileTime(94_354_848_000_000_003),
        password_can_change: FileTime(94_354_848_000_000_004),
        password_must_change: FileTime(0x7fff_ffff_ffff_fffe),
        logon_hours: Some(std::array::from_fn(|n| n as u8)),
        logon_count: u16::MAX,
        bad_password_count: 7,
        profile: Profile {
            full_name: "Web \"01\"\n\u{1f600}".to_owned(),
            logon_script: "logon.cmd".to_owned(),
            profile_path: r"\\dc1\profiles".to_owned(),
            home_directory: r"\\dc1\home".to_owned(),
            home_directory_drive: "H:".to_owned(),
            mail: "web\u{f6}1@contoso.example".to_owned(),
        },
        extra_sids: vec![
            "S-1-5-32-544".parse().expect("a SID"),
            "S-1-0x123456789ABC-5".parse().expect("a SID"),
        ],
        home_domain: Some("FABRIKAM".to_owned()),
        kind: AccountKind::Computer,
        name: "WEB01$".to_owned(),
        user_principal_name: Some("WEB01$@contoso.example".to_owned()),
        service_principal_names: vec!["host/web01.contoso.example".to_owned(), "HOST/WEB01".to_owned()],
        alt_security_identities: vec!["junk".to_owned(), "X509:<S>CN=\u{e9}, CN=b".to_owned()],
        ..user(1105)
    }
}

/// Every field of an account comes back as it was written.
pub fn fields_come_back_as_they_were_written(store: &dyn AccountAdmin) {
    apply(store, [add(full()), add(user(1106))]);
    assert_eq!(one(store, name("web01$")).account, full());
    assert_eq!(one(store, name("user1106")).account, user(1106));
    assert_eq!(now(store.accounts(0, 9)).expect("the store answers"), [full(), user(1106)]);
}

/// Accounts that may not log on are found.
pub fn disabled_locked_and_expired_accounts_are_found(store: &dyn AccountAdmin) {
    // Whether they map is decided elsewhere, and if a store hid them, another account could map.
    let flags = AccountFlags::NORMAL.with(AccountFlags::DISABLED, true).with(AccountFlags::LOCKED, true);
    let barred = Account { flags, expires: FileTime(1), logon_hours: Some([0; 21]), ..alice() };
    apply(store, [add(barred.clone())]);
    assert_eq!(one(store, upn("alice@contoso.com")).account, barred);
}

/// Memberships follow groups in groups; each group counts once.
pub fn memberships_are_transitive_and_each_once(store: &dyn AccountAdmin) {
    let local = Group { scope: GroupScope::Local, ..group(1102, "Local") };
    let groups = [group(513, "Domain Users"), group(1101, "Mid"), group(1103, "Top"), group(1100, "Staff")];
    apply(store, groups.into_iter().chain([local]).map(|group| Change::PutGroup(Put::New, group)));
    apply(store, [add(alice()), add(Account { primary_group_id: 999, ..user(1014) })]);
    // Alice is in Staff and Mid, Staff in Mid, Mid in Local and Top, and so are the Domain Users.
    apply(
        store,
        [(1100, 1013), (1101, 1013), (1101, 1100), (1102, 1101), (1103, 1101), (1102, 513), (1100, 1013)]
            .map(|(group, rid)| member(group, rid)),
    );
    let record = one(store, name("alice"));
    let membership =
        |rid, name: &str, scope| Membership { sid: sid(rid), name: Some(name.to_owned()), scope };
    assert_eq!(
        record.memberships,
        [
            membership(513, "Domain Users", GroupScope::Global),
            membership(1100, "Staff", GroupScope::Global),
            membership(1101, "Mid", GroupScope::Global),
            membership(1102, "Local", GroupScope::Local),
            membership(1103, "Top", GroupScope::Global),
        ]
    );
    let unknown_primary = Membership { sid: sid(999), name: None, scope: GroupScope::Global };
    assert_eq!(one(store, name("user1014")).memberships, [unknown_primary]);
    assert_eq!(now(store.members(&sid(1101))).expect("the store answers"), [sid(1013), sid(1100)]);
    assert_eq!(now(store.member_of(&sid(1013))).expect("the store answers"), [sid(1100), sid(1101)]);
    assert_eq!(now(store.member_of(&sid(1101))).expect("the store answers"), [sid(1102), sid(1103)]);
    assert_eq!(now(store.members(&domain().sid)).expect("the store answers"), []);
}

/// Groups that contain each other end no look-up.
pub fn circles_of_groups_end(store: &dyn AccountAdmin) {
    let groups = (1100..1104).map(|rid| Change::PutGroup(Put::New, group(rid, &format!("g{rid}"))));
    let edges = [(1100, 1101), (1101, 1102), (1102, 1100), (1103, 1103), (1103, 1102), (1100, 1013)];
    apply(store, groups.chain([add(alice())]).chain(edges.map(|(group, rid)| member(group, rid))));
    assert_eq!(groups_of(store, 1013), [513, 1100, 1101, 1102, 1103]);
}

/// A change to any group changes the memberships of all accounts below it.
pub fn memberships_follow_every_change_of_the_graph(store: &dyn AccountAdmin) {
    let groups = (1100..1104).map(|rid| Change::PutGroup(Put::New, group(rid, &format!("g{rid}"))));
    apply(store, groups.chain([add(alice()), add(user(1014)), member(1100, 1013)]));
    let check = |what: &str, changes: Vec<Change>, alice: &[u32], other: &[u32]| {
        apply(store, changes);
        assert_eq!(
            (groups_of(store, 1013), groups_of(store, 1014)),
            (alice.to_vec(), other.to_vec()),
            "{what}"
        );
    };
    check("at first", vec![], &[513, 1100], &[513]);
    check("the group joins another", vec![member(1101, 1100)], &[513, 1100, 1101], &[513]);
    check("and that a third", vec![member(1102, 1101)], &[513, 1100, 1101, 1102], &[513]);
    let with_primary = Account { primary_group_id: 1101, ..user(1014) };
    check(
        "the primary group counts",
        vec![Change::PutAccount(Put::Existing, Box::new(with_primary))],
        &[513, 1100, 1101, 1102],
        &[1101, 1102],
    );
    check(
        "a group above moves",
        vec![member(1103, 1101)],
        &[513, 1100, 1101, 1102, 1103],
        &[1101, 1102, 1103],
    );
    check("a membership ends above", vec![not_member(1102, 1101)], &[513, 1100, 1101, 1103], &[1101, 1103]);
    check("a primary group goes", vec![Change::RemoveGroup(sid(1101))], &[513, 1100], &[1101]);
    check(
        "its old place is not kept",
        vec![Change::PutGroup(Put::New, group(1101, "again"))],
        &[513, 1100],
        &[1101],
    );
    check(
        "in and out in one change",
        vec![member(1103, 1013), not_member(1103, 1013)],
        &[513, 1100],
        &[1101],
    );
    check("the own membership ends", vec![not_member(1100, 1013)], &[513], &[1101]);
    check("what is not there can end", vec![not_member(1100, 1013)], &[513], &[1101]);
    check(
        "a group goes with its members",
        vec![member(1103, 1013), member(1102, 1103), Change::RemoveGroup(sid(1103))],
        &[513],
        &[1101],
    );
}

/// A membership has the present name and scope of its group.
pub fn groups_tell_their_present_name_and_scope(store: &dyn AccountAdmin) {
    let staff = group(1100, "Staff");
    apply(store, [Change::PutGroup(Put::New, staff.clone()), add(alice()), member(1100, 1013)]);
    let told = || one(store, name("alice")).memberships[1].clone();
    assert_eq!(
        told(),
        Membership { sid: sid(1100), name: Some("Staff".to_owned()), scope: GroupScope::Global }
    );
    let crew = Group { name: "Crew".to_owned(), scope: GroupScope::Universal, ..staff };
    apply(store, [Change::PutGroup(Put::Existing, crew.clone())]);
    assert_eq!(
        told(),
        Membership { sid: sid(1100), name: Some("Crew".to_owned()), scope: GroupScope::Universal }
    );
    assert_eq!(now(store.group_by_name("CREW")).expect("the store answers"), Some(crew.clone()));
    assert_eq!(now(store.group_by_name("Staff")).expect("the store answers"), None);
    assert_eq!(now(store.group_by_sid(&sid(1100))).expect("the store answers"), Some(crew));
    assert_eq!(now(store.group_by_sid(&sid(1013))).expect("the store answers"), None);
    // A primary group that becomes known is told by its name from then on.
    apply(store, [Change::PutGroup(Put::New, group(513, "Domain Users"))]);
    assert_eq!(one(store, name("alice")).memberships[0].name.as_deref(), Some("Domain Users"));
    apply(store, [Change::RemoveGroup(sid(513))]);
    assert_eq!(one(store, name("alice")).memberships[0].name, None);
}

/// A replaced account is found by its new names and mappings only.
pub fn replacing_an_account_moves_its_keys(store: &dyn AccountAdmin) {
    apply(store, [Change::PutGroup(Put::New, group(1100, "Staff")), add(alice()), member(1100, 1013)]);
    let renamed = Account {
        name: "Alicia".to_owned(),
        user_principal_name: Some("alicia@contoso.com".to_owned()),
        service_principal_names: vec!["host/alice".to_owned()],
        alt_security_identities: vec!["X509:<S>CN=Alicia".to_owned()],
        ..alice()
    };
    apply(store, [Change::PutAccount(Put::Existing, Box::new(renamed.clone()))]);
    for query in [
        name("alice"),
        upn("alice@contoso.com"),
        spn("http/alice"),
        identity(&alice().alt_security_identities[0]),
    ] {
        assert_eq!(find(store, query), Matches::None);
    }
    for query in [name("alicia"), upn("alicia@contoso.com"), spn("host/alice"), identity("X509:<S>CN=Alicia")]
    {
        assert_eq!(one(store, query).account, renamed);
    }
    assert_eq!(groups_of(store, 1013), [513, 1100], "memberships stay");
    apply(store, [Change::PutAccount(REPLACE, Box::new(alice()))]);
    assert_eq!(one(store, name("alice")).account, alice());
}

/// A removed account is not found, and a new one with its SID has none of its memberships.
pub fn removed_accounts_leave_nothing(store: &dyn AccountAdmin) {
    apply(store, [Change::PutGroup(Put::New, group(1100, "Staff")), add(alice()), member(1100, 1013)]);
    apply(store, [Change::RemoveAccount(sid(1013))]);
    for query in [name("alice"), upn("alice@contoso.com"), spn("host/alice"), Query::Sid(sid(1013))] {
        assert_eq!(find(store, query), Matches::None);
    }
    assert_eq!(now(store.members(&sid(1100))).expect("the store answers"), []);
    apply(store, [add(user(1013))]);
    assert_eq!(groups_of(store, 1013), [513], "who comes after inherits nothing");
}

/// No two entries have one SID or one name.
pub fn names_and_sids_are_unique(store: &dyn AccountAdmin) {
    apply(store, [add(alice()), add(user(1014)), Change::PutGroup(Put::New, group(1100, "Staff"))]);
    for changes in [
        vec![add(Account { name: "ALICE".to_owned(), ..user(1015) })],
        vec![add(Account { name: "staff".to_owned(), ..user(1015) })],
        vec![add(user(1013))],
        vec![add(user(1100))],
        vec![Change::PutGroup(Put::New, group(1101, "alice"))],
        vec![Change::PutGroup(Put::New, group(1101, "STAFF"))],
        vec![Change::PutGroup(Put::New, group(1013, "other"))],
        vec![Change::PutGroup(Put::New, group(1100, "other"))],
        vec![Change::PutAccount(Put::Existing, Box::new(Account { name: "alice".to_owned(), ..user(1014) }))],
        vec![
            add(Account { name: "x".to_owned(), ..user(1015) }),
            add(Account { name: "X".to_owned(), ..user(1016) }),
        ],
    ] {
        refused(store, changes);
    }
    assert_eq!(one(store, name("alice")).account, alice());
}

/// No two entries have names that look alike.
pub fn names_that_look_alike_are_refused(store: &dyn AccountAdmin) {
    let named = |name: &str, rid| Account { name: name.to_owned(), ..user(rid) };
    let put_group = |rid, name: &str| Change::PutGroup(Put::New, group(rid, name));
    apply(
        store,
        [add(alice()), add(named("ｂｏｂ", 1014)), put_group(1100, "Staﬀ"), put_group(1101, "Crew")],
    );
    for (change, existing) in [
        (add(named("ａlice", 1015)), "account \"Alice\""),
        (add(named("ＡＬＩＣＥ", 1015)), "account \"Alice\""),
        (add(named("ali\u{200b}ce", 1015)), "account \"Alice\""),
        (add(named("ali\u{34f}ce", 1015)), "account \"Alice\""),
        (add(named("ali\u{fff5}ce", 1015)), "account \"Alice\""),
        (add(named("ali\u{2800}ce", 1015)), "account \"Alice\""),
        (add(named("bob", 1015)), "account \"ｂｏｂ\""),
        (add(named("ｂob", 1015)), "account \"ｂｏｂ\""),
        (add(named("STAFF", 1015)), "group \"Staﬀ\""),
        (put_group(1102, "ａlice"), "account \"Alice\""),
        (put_group(1102, "ｃrew"), "group \"Crew\""),
        (put_group(1102, "staff"), "group \"Staﬀ\""),
        (Change::PutGroup(Put::Existing, group(1101, "Bob")), "account \"ｂｏｂ\""),
        (Change::PutAccount(Put::Existing, Box::new(named("ｃＲＥＷ", 1014))), "group \"Crew\""),
    ] {
        let why = refused(store, vec![change]);
        assert!(why.contains("looks like that of") && why.contains(existing), "{why}");
    }
    for change in [add(named(r"CONTOSO\carol", 1015)), put_group(1102, r"CONTOSO\Staff")] {
        let why = refused(store, vec![change]);
        assert!(why.contains("stands between a domain and a name"), "{why}");
    }
    // Its own name in another spelling, and one that has become free.
    apply(store, [Change::PutAccount(Put::Existing, Box::new(named("bob", 1014)))]);
    apply(store, [Change::PutAccount(Put::Existing, Box::new(named("ｂob", 1014)))]);
    apply(store, [Change::RemoveAccount(sid(1014)), add(named("bob", 1015)), add(named("jos\u{e9}", 1016))]);
    apply(store, [add(named("jose", 1017))]);
    assert_eq!(find(store, name("ａlice")), Matches::None, "no look-up goes by it");
}

/// A group has the well-known name of a privileged group with the SID of that group only ([MS-DTYP] 2.4.2.4).
pub fn groups_have_the_name_of_a_privileged_group_with_its_sid_only(store: &dyn AccountAdmin) {
    let put = |put, rid, name: &str| Change::PutGroup(put, group(rid, name));
    apply(store, [put(Put::New, 512, "Domain Admins"), put(Put::New, 1100, "Staff")]);
    for (change, known) in [
        (
            Change::PutGroup(Put::New, Group { sid: domain().sid, ..group(1, "Schema Admins") }),
            sid(518).to_string(),
        ),
        (put(Put::New, 1101, "schema ADMINS"), sid(518).to_string()),
        (put(Put::New, 1101, "\u{ff33}chema Admins"), sid(518).to_string()),
        (put(Put::New, 513, "Schema Admins"), sid(518).to_string()),
        (put(REPLACE, 1101, "Enterprise Admins"), sid(519).to_string()),
        (put(Put::Existing, 1100, "Enterprise Admins"), sid(519).to_string()),
        (put(Put::New, 1101, "Administrators"), "S-1-5-32-544".to_owned()),
    ] {
        let why = refused(store, vec![change]);
        assert!(why.contains(&format!("is the name of the privileged group {known}")), "{why}");
    }
    // By its name alone, it is the group that has the SID.
    let named = Group { sid: domain().sid, scope: GroupScope::Universal, ..group(1, "Domain Admins") };
    apply(store, [Change::PutGroup(REPLACE, named)]);
    let found = now(store.group_by_sid(&sid(512))).expect("the store answers").expect("it is there");
    assert_eq!(found.scope, GroupScope::Universal);
}

/// A home domain is written with the characters of a domain name.
pub fn home_domains_have_names_of_domains(store: &dyn AccountAdmin) {
    let at_home = |domain: &str, rid| Account { home_domain: Some(domain.to_owned()), ..user(rid) };
    for domain in ["no pe", "FABRIKAM\\", "a/b", "fabrikam:1", "a*", "\"FABRIKAM\"", " FABRIKAM", "a,b"] {
        let why = refused(store, vec![add(at_home(domain, 1014))]);
        assert!(why.contains("is no name of a domain"), "{why}");
    }
    apply(
        store,
        [add(at_home("FABRIKAM", 1014)), add(at_home("R&D-1", 1015)), add(at_home("fabrikam.example", 1016))],
    );
    refused(store, vec![Change::PutAccount(Put::Existing, Box::new(at_home("no pe", 1014)))]);
}

/// An e-mail address finds all accounts that have it, and is compared as names are.
pub fn an_address_that_two_accounts_have_is_of_neither(store: &dyn AccountAdmin) {
    let with = |mail: &str, rid| Account {
        profile: Profile { mail: mail.to_owned(), ..Profile::default() },
        ..user(rid)
    };
    let asked = |text: &str| find(store, Query::Mail(text.to_owned()));
    for wrong in
        ["a", "a@", "@b", "a@b@c", "a b@c", "a@b\r\nX: c", "a@b\u{85}", &format!("a@{}", "b".repeat(253))]
    {
        let why = refused(store, vec![add(with(wrong, 1014))]);
        assert!(why.contains("e-mail address"), "{why}");
    }
    apply(store, [add(with("Jos\u{e9}@contoso.example", 1014)), add(user(1015))]);
    let account = &one(store, Query::Mail("JOSE\u{301}@Contoso.Example".to_owned())).account;
    assert_eq!((account.sid, account.profile.mail.as_str()), (sid(1014), "Jos\u{e9}@contoso.example"));
    for other in ["jose@contoso.example", "", "jos\u{e9}"] {
        assert_eq!(asked(other), Matches::None, "{other}");
    }
    apply(store, [Change::PutAccount(Put::Existing, Box::new(with("jos\u{e9}@contoso.example", 1015)))]);
    assert!(matches!(asked("jos\u{e9}@contoso.example"), Matches::Many(names) if names.len() == 2));
    apply(store, [Change::PutAccount(Put::Existing, Box::new(user(1014)))]);
    assert!(
        matches!(asked("jos\u{e9}@contoso.example"), Matches::One(record) if record.account.sid == sid(1015))
    );
}

/// The domain's SID stands for the next relative identifier, and none is given twice.
pub fn relative_identifiers_are_given_once(store: &dyn AccountAdmin) {
    let new = |name: &str| Account { name: name.to_owned(), sid: domain().sid, ..user(1) };
    let rid = |text: &str| one(store, name(text)).account.sid.rid_in(&domain().sid);
    apply(store, [add(new("a")), add(new("b"))]);
    assert_eq!((rid("a"), rid("b")), (Some(1000), Some(1001)));
    apply(store, [Change::RemoveAccount(sid(1001))]);
    apply(store, [add(new("c")), add(user(5000)), add(new("d"))]);
    assert_eq!((rid("c"), rid("d")), (Some(1002), Some(5001)));
    apply(store, [Change::PutGroup(Put::New, Group { sid: domain().sid, ..group(1, "g") }), add(user(501))]);
    let group = now(store.group_by_name("g")).expect("the store answers").expect("it is there");
    assert_eq!(group.sid, sid(5002));
    apply(store, [add(user(0x3fff_ffff))]);
    assert!(refused(store, vec![add(new("e"))]).contains("relative identifiers"));
}

/// Entries that break the rules of [`crate::rules`] are refused.
pub fn bad_entries_are_refused(store: &dyn AccountAdmin) {
    let long = "a".repeat(Account::TEXT_LEN_MAX + 1);
    let foreign: Sid = "S-1-5-21-1-2-3-1000".parse().expect("a SID");
    let put = |account: Account| vec![add(account)];
    apply(store, put(Account { name: "a".repeat(Account::TEXT_LEN_MAX), ..user(3000) }));
    for changes in [
        put(Account { name: String::new(), ..user(1) }),
        put(Account { name: " a".to_owned(), ..user(1) }),
        put(Account { name: "a\nb".to_owned(), ..user(1) }),
        put(Account { name: long.clone(), ..user(1) }),
        put(Account { kind: AccountKind::Computer, ..user(1) }),
        put(Account { user_principal_name: Some(long.clone()), ..user(1) }),
        put(Account { user_principal_name: Some(String::new()), ..user(1) }),
        put(Account { service_principal_names: vec!["a\0".to_owned()], ..user(1) }),
        put(Account { service_principal_names: vec!["a".to_owned(); 1025], ..user(1) }),
        put(Account { alt_security_identities: vec![long.clone()], ..user(1) }),
        put(Account { extra_sids: vec![foreign; 1025], ..user(1) }),
        put(Account { primary_group_id: 0, ..user(1) }),
        put(Account { expires: FileTime(u64::MAX), ..user(1) }),
        put(Account { sid: foreign, ..user(1) }),
        put(Account { sid: sid(0), ..user(1) }),
        put(Account { profile: Profile { full_name: long.clone(), ..Profile::default() }, ..user(1) }),
        vec![Change::PutAccount(Put::Existing, Box::new(user(1)))],
        vec![Change::PutAccount(Put::Existing, Box::new(Account { sid: domain().sid, ..user(1) }))],
        vec![Change::RemoveAccount(sid(1))],
        vec![Change::RemoveAccount(foreign)],
        vec![Change::RemoveGroup(sid(1))],
        vec![Change::PutGroup(Put::New, group(1, &long))],
        vec![Change::PutGroup(Put::Existing, group(1, "a"))],
        vec![member(1, 3000)],
        vec![member(3000, 3000)],
        vec![Change::PutGroup(Put::New, group(1, "g")), member(1, 2)],
        vec![Change::AddMember { group: foreign, member: sid(3000) }],
    ] {
        refused(store, changes);
    }
    assert_eq!(now(store.accounts(0, 9)).expect("the store answers").len(), 1);
    assert_eq!(now(store.groups(0, 9)).expect("the store answers"), []);
}

/// A change that fails leaves no trace.
pub fn a_change_is_whole_or_not_at_all(store: &dyn AccountAdmin) {
    apply(store, [add(alice()), Change::PutGroup(Put::New, group(1100, "Staff"))]);
    let before = store.revision().expect("the store answers");
    let first = [member(1100, 1013), add(user(2000)), Change::RemoveAccount(sid(1013))];
    refused(store, first.iter().cloned().chain([add(user(2000))]).collect());
    let broken_source = first.into_iter().map(Ok).chain([Err(StoreError::Damaged("the source".to_owned()))]);
    let error = now(store.apply(&mut { broken_source })).expect_err("the source failed");
    assert!(matches!(error, StoreError::Damaged(_)), "the source's error is passed on");
    assert_eq!(find(store, name("user2000")), Matches::None);
    assert_eq!(groups_of(store, 1013), [513]);
    assert_eq!(store.revision().expect("the store answers"), before);
    apply(store, [add(Account { sid: domain().sid, ..user(1) })]);
    assert_eq!(one(store, name("user1")).account.sid, sid(1101), "identifiers are not lost with it");
}

/// Within one change, a membership may come before its group and its member.
pub fn memberships_may_come_before_their_ends(store: &dyn AccountAdmin) {
    apply(
        store,
        [
            member(1101, 1100),
            member(1100, 1013),
            member(1102, 1013),
            add(alice()),
            Change::PutGroup(Put::New, group(1101, "Above")),
            Change::PutGroup(Put::New, group(1100, "Staff")),
            not_member(1102, 1013),
        ],
    );
    assert_eq!(groups_of(store, 1013), [513, 1100, 1101]);
}

/// Every change has a new revision.
pub fn revisions_follow_changes(store: &dyn AccountAdmin) {
    let revision = || store.revision().expect("the store answers");
    let mut seen = vec![revision()];
    assert_eq!(revision(), seen[0], "equal while nothing changes");
    let changed = Account { bad_password_count: 1, ..alice() };
    for change in [
        Change::PutGroup(Put::New, group(1100, "Staff")),
        add(alice()),
        member(1100, 1013),
        Change::PutAccount(Put::Existing, Box::new(changed)),
        Change::PutGroup(Put::Existing, group(1100, "Crew")),
        not_member(1100, 1013),
        Change::RemoveGroup(sid(1100)),
        Change::RemoveAccount(sid(1013)),
    ] {
        apply(store, [change.clone()]);
        assert!(!seen.contains(&revision()), "{change:?}");
        seen.push(revision());
        find(store, name("alice"));
        assert_eq!(Some(&revision()), seen.last(), "a question changes nothing");
    }
}

/// Lists come in pages, in ascending order of relative identifier.
pub fn lists_come_in_pages(store: &dyn AccountAdmin) {
    apply(store, (1000..1025).rev().map(|rid| add(user(rid))));
    apply(store, (2000..2005).map(|rid| Change::PutGroup(Put::New, group(rid, &format!("g{rid}")))));
    let (mut after, mut all) = (0, Vec::new());
    loop {
        let page = now(store.accounts(after, 10)).expect("the store answers");
        assert!(page.len() <= 10);
        let Some(last) = page.last() else { break };
        after = last.sid.rid_in(&domain().sid).expect("of the domain");
        all.extend(page);
    }
    assert_eq!(all, (1000..1025).map(user).collect::<Vec<_>>());
    let groups = now(store.groups(2001, 2)).expect("the store answers");
    assert_eq!(groups, [group(2002, "g2002"), group(2003, "g2003")]);
    assert_eq!(now(store.groups(u32::MAX, 2)).expect("the store answers"), []);
}

mod machines {
    use super::*;
    use crate::json_lines::{self, Counts};
    use crate::{ChannelKind, Machine, MachineAdmin, MachineRecord, MachineStore, NtHash, Secrets};

    pub(crate) fn web01() -> Machine {
        Machine {
            name: "WEB01$".to_owned(),
            sid: sid(1105),
            kind: ChannelKind::Workstation,
            enabled: true,
            rcmp: true,
            domains: vec!["CONTOSO".to_owned(), "FABRIKAM".to_owned()],
            groups: vec![sid(1100), "S-1-5-21-1-2-3-4".parse().expect("a SID")],
        }
    }

    pub(crate) fn secrets(n: u8) -> Secrets {
        Secrets::first(NtHash::new([n; 16]), FileTime(130_000_000_000_000_000 + u64::from(n)))
    }

    fn put(store: &dyn MachineAdmin, put: Put, machine: Machine, secrets: Option<Secrets>) {
        now(store.put_machine(put, machine, secrets)).expect("the machine keeps the rules");
    }

    pub(crate) fn machine(store: &dyn MachineStore, name: &str) -> Option<Arc<MachineRecord>> {
        let first = now(store.machine(name)).expect("the store answers");
        assert_eq!(first, now(store.machine(name)).expect("the store answers"));
        first
    }

    /// Every field of a machine comes back as it was written.
    pub fn machines_come_back_as_they_were_written(store: &impl MachineAdmin) {
        let dc = Machine {
            name: "DC2$".to_owned(),
            sid: sid(1200),
            kind: ChannelKind::Server,
            enabled: false,
            rcmp: false,
            domains: Vec::new(),
            groups: Vec::new(),
        };
        let rotated = Secrets { previous: Some(NtHash::new([9; 16])), ..secrets(2) };
        put(store, Put::New, web01(), Some(secrets(1)));
        put(store, Put::New, dc.clone(), Some(rotated.clone()));
        for (name, machine_, secrets) in [("web01$", web01(), secrets(1)), ("DC2$", dc.clone(), rotated)] {
            let record = machine(store, name).expect("it is there");
            let expected = MachineRecord { machine: machine_, secrets, account: None };
            assert_eq!((record.is_enabled(), &*record), (expected.machine.enabled, &expected));
        }
        assert_eq!(machine(store, "WEB01"), None);
        assert_eq!(machine(store, ""), None);
        assert_eq!(now(store.machines(0, 9)).expect("the store answers"), [web01(), dc.clone()]);
        assert_eq!(now(store.machines(1105, 9)).expect("the store answers"), std::slice::from_ref(&dc));
        // Attributes change without the secrets, and the name with them.
        let renamed = Machine { name: "WEB02$".to_owned(), rcmp: false, ..web01() };
        put(store, Put::Existing, renamed.clone(), None);
        assert_eq!(machine(store, "web01$"), None);
        let record = machine(store, "web02$").expect("it is there");
        assert_eq!((&record.machine, &record.secrets), (&renamed, &secrets(1)));
        now(store.remove_machine(sid(1105))).expect("it is there");
        assert_eq!(machine(store, "web02$"), None);
        assert!(matches!(now(store.remove_machine(sid(1105))), Err(StoreError::Refused(_))));
    }

    /// A machine is enabled only while its computer account is, and goes with it.
    pub fn a_channel_is_its_account<S: AccountAdmin + MachineAdmin>(store: &S) {
        put(store, Put::New, web01(), Some(secrets(1)));
        let account = |flags| Box::new(Account { flags, ..full() });
        for (flags, enabled) in [
            (AccountFlags::WORKSTATION_TRUST, true),
            (AccountFlags::WORKSTATION_TRUST.with(AccountFlags::DISABLED, true), false),
            (AccountFlags::WORKSTATION_TRUST.with(AccountFlags::LOCKED, true), true),
        ] {
            apply(store, [Change::PutAccount(REPLACE, account(flags))]);
            let record = machine(store, "web01$").expect("it is there");
            assert_eq!((record.account, record.is_enabled()), (Some(flags), enabled));
        }
        apply(store, [Change::RemoveAccount(sid(1105))]);
        assert_eq!(machine(store, "web01$"), None, "it goes with its account");
        apply(store, [add(full())]);
        assert_eq!(machine(store, "web01$"), None, "and does not come back with a new one");
    }

    /// A machine and its computer account have one name and one SID.
    pub fn a_machine_and_its_account_share_name_and_sid<S: AccountAdmin + MachineAdmin>(store: &S) {
        let unplaced = |name: &str| Machine { name: name.to_owned(), sid: domain().sid, ..web01() };
        apply(store, [add(full()), add(alice()), Change::PutGroup(Put::New, group(1300, "crew$"))]);
        put(store, Put::New, unplaced("web01$"), Some(secrets(1)));
        assert_eq!(machine(store, "WEB01$").expect("it is there").machine.sid, sid(1105), "the account's");
        put(store, Put::New, unplaced("NEW$"), Some(secrets(2)));
        let new = machine(store, "new$").expect("it is there").machine.sid;
        assert_eq!(new, sid(1301), "the next one");
        let account = |name: &str, sid| Account { name: name.to_owned(), sid, ..full() };
        for changes in [
            vec![add(account("NEW$", sid(1400)))],
            vec![add(account("OTHER$", new))],
            vec![Change::PutAccount(Put::Existing, Box::new(account("OTHER$", sid(1105))))],
            vec![Change::PutGroup(Put::New, group(1301, "g"))],
            vec![Change::PutGroup(Put::New, group(1302, "new$"))],
        ] {
            refused(store, changes);
        }
        for machine in [
            Machine { sid: sid(1400), ..web01() },
            Machine { name: "X$".to_owned(), ..web01() },
            Machine { name: "X$".to_owned(), sid: sid(1013), ..web01() },
            Machine { name: "X$".to_owned(), sid: sid(1300), ..web01() },
            Machine { name: "CREW$".to_owned(), sid: sid(1500), ..web01() },
            Machine { name: "WEB01$".to_owned(), sid: new, ..web01() },
        ] {
            let outcome = now(store.put_machine(REPLACE, machine.clone(), Some(secrets(3))));
            assert!(matches!(outcome, Err(StoreError::Refused(_))), "{machine:?}: {outcome:?}");
        }
        // An account that comes after its machine gets the machine's SID.
        apply(store, [add(account("NEW$", domain().sid))]);
        assert_eq!(one(store, name("new$")).account.sid, new);
        assert!(machine(store, "NEW$").expect("it is there").account.is_some());
    }

    /// A rotated secret becomes the previous one until the new one is used.
    pub fn secrets_rotate_and_the_previous_one_goes(store: &impl MachineAdmin) {
        let hash = |n| NtHash::new([n; 16]);
        put(store, Put::New, web01(), Some(secrets(1)));
        let told = || {
            let secrets = machine(store, "web01$").expect("it is there").secrets.clone();
            (secrets.current, secrets.current_since.0, secrets.previous)
        };
        let rotate_from = |expected, n, at| {
            now(store.rotate(sid(1105), expected, hash(n), FileTime(at))).expect("it is there")
        };
        let rotate = |n, at| assert!(rotate_from(None, n, at));
        let forget = |n| now(store.drop_previous(sid(1105), hash(n))).expect("it is there");
        forget(1);
        assert_eq!(told(), (hash(1), 130_000_000_000_000_001, None));
        rotate(2, 50);
        assert_eq!(told(), (hash(2), 50, Some(hash(1))));
        rotate(2, 60);
        assert_eq!(told(), (hash(2), 50, Some(hash(1))), "a repeated request changes nothing");
        rotate(3, 70);
        assert_eq!(told(), (hash(3), 70, Some(hash(2))));
        forget(2);
        assert_eq!(told(), (hash(3), 70, Some(hash(2))), "the secret that was used is current no more");
        forget(3);
        assert_eq!(told(), (hash(3), 70, None));
        assert!(!rotate_from(Some(hash(2)), 4, 80), "the secret that chose the next one is current no more");
        assert_eq!(told(), (hash(3), 70, None));
        assert!(rotate_from(Some(hash(3)), 4, 80));
        assert_eq!(told(), (hash(4), 80, Some(hash(3))));
        for outcome in [
            now(store.rotate(sid(9), None, hash(1), FileTime(1))).map(drop),
            now(store.drop_previous(sid(9), hash(1))),
        ] {
            assert!(matches!(outcome, Err(StoreError::Refused(_))));
        }
    }

    /// A machine that is written without a secret gets a random one.
    pub fn a_machine_without_a_secret_gets_a_random_one(store: &impl MachineAdmin) {
        put(store, Put::New, web01(), None);
        put(store, Put::New, Machine { name: "X$".to_owned(), sid: sid(1106), ..web01() }, None);
        let secret = |name| machine(store, name).expect("it is there").secrets.current.clone();
        assert_ne!(secret("web01$"), secret("x$"));
        assert_ne!(secret("web01$"), NtHash::new([0; 16]));
    }

    /// Every change to a machine or its account has a new machine revision.
    pub fn machine_revisions_follow_changes<S: AccountAdmin + MachineAdmin>(store: &S) {
        let revision = || store.machine_revision().expect("the store answers");
        let mut seen = vec![revision()];
        let mut changed = |what: &str| {
            assert!(!seen.contains(&revision()), "{what}");
            seen.push(revision());
            machine(store, "web01$");
            assert_eq!(seen.last(), Some(&revision()), "a question changes nothing");
        };
        put(store, Put::New, web01(), Some(secrets(1)));
        changed("a new machine");
        now(store.rotate(sid(1105), None, NtHash::new([2; 16]), FileTime(2))).expect("it is there");
        changed("a new secret");
        now(store.drop_previous(sid(1105), NtHash::new([2; 16]))).expect("it is there");
        changed("no previous secret");
        apply(store, [add(full())]);
        changed("an account");
        let flags = full().flags.with(AccountFlags::DISABLED, !full().flags.contains(AccountFlags::DISABLED));
        apply(store, [Change::PutAccount(Put::Existing, Box::new(Account { flags, ..full() }))]);
        changed("another flag of the account");
        now(store.remove_machine(sid(1105))).expect("it is there");
        changed("no machine");
    }

    /// Machines that break the rules of [`crate::rules`] are refused.
    pub fn bad_machines_are_refused(store: &impl MachineAdmin) {
        for machine in [
            Machine { sid: sid(0), ..web01() },
            Machine { name: "WEB01".to_owned(), ..web01() },
            Machine { name: String::new(), ..web01() },
            Machine { sid: "S-1-5-21-1-2-3-4".parse().expect("a SID"), ..web01() },
            Machine { domains: vec![String::new()], ..web01() },
            Machine { domains: vec!["D".to_owned(); 1025], ..web01() },
            Machine { groups: vec![sid(1); 1025], ..web01() },
        ] {
            let outcome = now(store.put_machine(Put::New, machine.clone(), Some(secrets(1))));
            assert!(matches!(outcome, Err(StoreError::Refused(_))), "{machine:?}");
        }
        let missing = now(store.put_machine(Put::Existing, web01(), Some(secrets(1))));
        assert!(matches!(missing, Err(StoreError::Refused(_))));
        put(store, Put::New, web01(), Some(secrets(1)));
        let twice = now(store.put_machine(Put::New, web01(), Some(secrets(1))));
        assert!(matches!(twice, Err(StoreError::Exists(_))));
    }

    fn exported<S: AccountAdmin + MachineAdmin>(store: &S, with_secrets: bool) -> (String, Counts) {
        let mut out = Vec::new();
        let mut counts =
            now(json_lines::export(store, &mut out, &mut |_| ())).expect("the store can be read");
        let machines = json_lines::Machines { store, with_secrets };
        counts.machines =
            now(json_lines::export_machines(machines, &mut out)).expect("the store can be read").machines;
        (String::from_utf8(out).expect("lines are text"), counts)
    }

    /// An export has all that an import needs to make an equal store.
    pub fn lines_carry_everything_to_another_store<S: AccountAdmin + MachineAdmin>(store: &S) {
        let other = crate::MemoryStore::new(domain());
        let local = Group { scope: GroupScope::Local, ..group(1101, "Local") };
        apply(
            &other,
            [
                add(full()),
                add(alice()),
                add(user(1014)),
                Change::PutGroup(Put::New, group(1100, "Staff")),
                Change::PutGroup(Put::New, local),
                member(1100, 1013),
                member(1101, 1100),
                member(1100, 1101),
            ],
        );
        let rotated = Secrets { previous: Some(NtHash::new([9; 16])), ..secrets(2) };
        put(&other, Put::New, web01(), Some(rotated));
        let (text, counts) = exported(&other, true);
        assert_eq!(counts, Counts { accounts: 3, groups: 2, machines: 1 });
        let import = |replace| {
            let mut last = None;
            let len = text.len() as u64;
            let options = json_lines::ImportOptions { replace, ..json_lines::ImportOptions::NEW };
            let done = now(json_lines::import(store, options, &mut text.as_bytes(), len, &mut |read, of| {
                last = Some((read, of));
            }));
            done.map(|counts| (counts, last))
        };
        assert_eq!(
            import(false).expect("good lines"),
            (counts, Some((text.len() as u64, text.len() as u64)))
        );
        assert_eq!(exported(store, true), (text.clone(), counts));
        assert_eq!(groups_of(store, 1013), groups_of(&other, 1013));
        let twice = import(false).expect_err("nothing is new").to_string();
        assert!(twice.starts_with("line 1: group") && twice.ends_with("exists already"), "{twice}");
        import(true).expect("the same again");
        assert_eq!(exported(store, true), (text, counts));
        assert!(!exported(store, false).0.contains("secret"));
    }

    fn replace(store: &dyn AccountAdmin, text: &str) -> Result<Counts, json_lines::LinesError> {
        let created = FileTime(130_000_000_000_000_077);
        let options = json_lines::ImportOptions { replace: true, created, ..json_lines::ImportOptions::NEW };
        now(json_lines::import(store, options, &mut text.as_bytes(), text.len() as u64, &mut |_, _| ()))
    }

    fn direct(store: &dyn AccountAdmin, rid: u32) -> Vec<u32> {
        let groups = now(store.member_of(&sid(rid))).expect("the store answers");
        groups.iter().map(|group| group.split_rid().expect("it has a RID").1).collect()
    }

    /// With `keep_disabled`, an account that is disabled in the store stays so, and nothing else of it stays.
    pub fn disabled_accounts_stay_disabled_if_wanted<S: AccountAdmin + MachineAdmin>(store: &S) {
        let disabled =
            |account: Account| Account { flags: account.flags.with(AccountFlags::DISABLED, true), ..account };
        apply(store, [add(disabled(alice())), add(user(1014))]);
        put(store, Put::New, Machine { enabled: false, ..web01() }, Some(secrets(2)));
        let import = |keep_disabled, lines: &str| {
            let options =
                json_lines::ImportOptions { replace: true, keep_disabled, ..json_lines::ImportOptions::NEW };
            let len = lines.len() as u64;
            now(json_lines::import(store, options, &mut lines.as_bytes(), len, &mut |_, _| ()))
                .expect("good lines");
        };
        let is_disabled = |name: &str| {
            one(store, Query::Name(name.to_owned())).account.flags.contains(AccountFlags::DISABLED)
        };
        let name = user(1014).name;
        let lines = format!(
            r#"
            {{"type":"account","name":"alice","flags":66048}}
            {{"type":"account","name":"{name}","flags":514}}
            {{"type":"machine","name":"web01$","kind":"workstation"}}
            {{"type":"account","name":"newone"}}"#
        );
        import(true, &lines);
        let is_enabled = || machine(store, "WEB01$").expect("it is there").machine.enabled;
        assert!(!is_enabled());
        let alice = one(store, Query::Name("alice".to_owned()));
        assert_eq!(alice.account.flags, AccountFlags(66048 | AccountFlags::DISABLED.0));
        assert!(is_disabled(&name) && !is_disabled("newone"));
        // A later import does not enable it, whichever side disabled it.
        import(true, &lines.replace("514", "512"));
        assert!(is_disabled(&name));
        import(false, &lines.replace("514", "512"));
        assert!(!is_disabled("alice") && !is_disabled(&name) && is_enabled());
    }

    /// An import with replacement leaves entries as their lines say.
    pub fn replaced_entries_are_as_their_lines_say<S: AccountAdmin + MachineAdmin>(store: &S) {
        let groups = [(1100, "Staff"), (1101, "Night"), (1102, "All")];
        apply(store, groups.map(|(rid, name)| Change::PutGroup(Put::New, group(rid, name))));
        let old = Account { created: FileTime(130_000_000_000_000_005), logon_count: 9, ..alice() };
        apply(store, [add(old), add(user(1014)), member(1100, 1013), member(1101, 1013), member(1102, 1100)]);
        apply(store, [member(1101, 1014)]);
        put(store, Put::New, web01(), Some(secrets(2)));

        // By name and by SID, new and old; a group without `members` keeps them, one with them has no others.
        let lines = format!(
            r#"
            {{"type":"account","name":"ALICE","member_of":["Later","staff"]}}
            {{"type":"group","name":"Staff"}}
            {{"type":"group","name":"night","members":["newone"]}}
            {{"type":"group","name":"Later","member_of":["All"]}}
            {{"type":"account","name":"newone"}}
            {{"type":"account","name":"dated","created":130000000000000006}}
            {{"type":"machine","name":"web01$","kind":"workstation","rcmp":false}}
            {{"type":"account","name":"{}","sid":"{}","created":"unset","member_of":["All"]}}"#,
            user(1014).name,
            sid(1014)
        );
        let counts = replace(store, &lines).expect("good lines");
        assert_eq!(counts, Counts { accounts: 4, groups: 3, machines: 1 });
        let later = now(store.group_by_name("Later")).expect("it answers").expect("it was made").sid;
        let later = later.split_rid().expect("it has a RID").1;
        let account = |name_: &str| one(store, name(name_)).account.clone();
        assert_eq!(
            account("alice"),
            Account {
                created: FileTime(130_000_000_000_000_005),
                name: "ALICE".to_owned(),
                ..Account::new("alice", sid(1013))
            }
        );
        let direct_groups = direct(store, 1013);
        assert_eq!(direct_groups.len(), 2, "{direct_groups:?}");
        assert!(direct_groups.contains(&1100) && direct_groups.contains(&later), "not Night any more");
        assert_eq!(groups_of(store, 1013).len(), 4, "Domain Users, Staff, Later, All");
        assert_eq!(direct(store, 1100), [] as [u32; 0], "the line of Staff names no group above it");
        assert_eq!(direct(store, 1014), [1102]);
        assert_eq!(account(&user(1014).name).created, FileTime::UNSET);
        let new = account("newone");
        assert_eq!(
            (new.created, account("dated").created),
            (FileTime(130_000_000_000_000_077), FileTime(130_000_000_000_000_006))
        );
        assert_eq!(direct(store, new.sid.split_rid().expect("it has a RID").1), [1101]);
        assert_eq!(now(store.members(&sid(1101))).expect("it answers"), [new.sid]);
        let machine = now(store.machine("WEB01$")).expect("it answers").expect("it is there");
        assert_eq!((machine.machine.sid, machine.machine.rcmp), (web01().sid, false));
        assert_eq!(machine.secrets, secrets(2), "a line has no secret, so the machine keeps its own");

        // Once more: nothing changes.
        let before = exported(store, true);
        replace(store, &lines).expect("good lines");
        assert_eq!(exported(store, true), before);
        let counts = replace(store, &before.0).expect("good lines");
        assert_eq!((counts, exported(store, true)), (before.1, before.clone()));

        // A name of another SID, another kind, and two lines of one entry are told as what they are.
        for (line, why) in [
            (
                format!(r#"{{"type":"account","name":"alice","sid":"{}"}}"#, sid(1014)),
                format!("the account {} has this name already", sid(1013)),
            ),
            (
                r#"{"type":"group","name":"alice"}"#.to_owned(),
                format!("the account {} has this name already", sid(1013)),
            ),
            (
                r#"{"type":"account","name":"Night"}"#.to_owned(),
                format!("the group {} has this name already", sid(1101)),
            ),
            (
                format!(r#"{0}{1}{0}"#, r#"{"type":"account","name":"bob"}"#, '\n'),
                "is to be replaced twice".to_owned(),
            ),
            (
                r#"{"type":"account","name":"bob","member_of":["Nowhere"]}"#.to_owned(),
                "no group \"Nowhere\"".to_owned(),
            ),
        ] {
            let error = replace(store, &line).expect_err("it is refused").to_string();
            assert!(error.contains(&why), "{line}: {error}");
            assert_eq!(exported(store, true), before);
        }
    }
}
