//! What every store keeps, read-only ones included.

use super::{alice, domain, find, identity, name, now, one, sid, spn, upn, user};
use crate::{Account, AccountFlags, AccountStore, GroupScope, Matches, Membership, Query, Record};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

/// An account that is in these groups, by relative identifier and name, and in its primary group, whose name
/// is not known if it is not among them.
fn record(account: Account, groups: &[(u32, &str)]) -> Record {
    let membership = |rid, name: Option<&str>| Membership {
        sid: sid(rid),
        name: name.map(str::to_owned),
        scope: GroupScope::Global,
    };
    let mut memberships: Vec<_> = groups.iter().map(|(rid, name)| membership(*rid, Some(name))).collect();
    if groups.iter().all(|(rid, _)| *rid != account.primary_group_id) {
        memberships.push(membership(account.primary_group_id, None));
    }
    memberships.sort_by_key(|membership| membership.sid);
    Record { account, memberships }
}

fn records(accounts: impl IntoIterator<Item = Account>) -> Vec<Record> {
    accounts.into_iter().map(|account| record(account, &[])).collect()
}

/// A query that names no account is answered with [`Matches::None`].
pub fn absence_is_a_value<S: AccountStore, K>(make: impl Fn(&[Record]) -> (S, K)) {
    let (store, _keep) = make(&records([alice()]));
    for query in [
        name("bob"),
        name(""),
        name("alice$"),
        upn("Alice"),
        upn("alice@contoso.example"),
        spn("alice@contoso.com"),
        spn("host/alice2"),
        identity("X509:<S>DC=com,DC=contoso,OU=Users,CN=Alice Smith"),
        identity("Kerberos:alice@EXAMPLE.COM"),
        identity("host/alice"),
        identity("X509:"),
        Query::Sid(sid(1014)),
        Query::Sid(domain().sid),
        Query::Sid("S-1-5-21-1-2-3-1013".parse().expect("a SID")),
        Query::Sid("S-1-5-32-1013".parse().expect("a SID")),
    ] {
        assert_eq!(find(&store, query.clone()), Matches::None, "{query:?}");
    }
}

/// An account is found by its name, user principal name, service principal names, mappings and SID.
pub fn every_kind_of_query_finds_its_account<S: AccountStore, K>(make: impl Fn(&[Record]) -> (S, K)) {
    let (store, _keep) = make(&records([alice(), user(1014)]));
    assert_eq!(*store.domain(), domain());
    for query in [
        name("Alice"),
        upn("alice@contoso.com"),
        spn("HTTP/alice"),
        spn("host/alice"),
        identity(&alice().alt_security_identities[0]),
        identity(&alice().alt_security_identities[1]),
        Query::Sid(sid(1013)),
    ] {
        assert_eq!(one(&store, query).account, alice());
    }
}

/// Names and mappings are compared by the keys of [`crate::index`].
pub fn text_is_folded_as_its_kind_is<S: AccountStore, K>(make: impl Fn(&[Record]) -> (S, K)) {
    let jose = Account {
        name: "Jos\u{e9}".to_owned(),
        user_principal_name: Some("JOS\u{c9}@contoso.com".to_owned()),
        alt_security_identities: vec!["X509:<S>CN=Jos\u{e9}".to_owned()],
        ..user(1020)
    };
    let (store, _keep) = make(&records([alice(), jose]));
    for (query, found) in [
        (name("ALICE"), true),
        (upn("ALICE@Contoso.Com"), true),
        (spn("HOST/Alice"), true),
        (
            identity(
                "x509:<I>dc=com, dc=contoso, cn=contoso-ca<S>DC=COM, DC=Contoso, OU=users, CN=alice smith",
            ),
            true,
        ),
        (identity("X509:<I>DC=com,DC=contoso,CN=CONTOSO-CA<SR>1200000000AC11000000002B"), true),
        (name("JOSE\u{301}"), true),
        (name("jose"), false),
        (upn("jose\u{301}@contoso.com"), true),
        (upn("jose@contoso.com"), false),
        (identity("X509:<S>CN=jose"), true),
        (identity("X509:<S>CN=\u{ff2a}\u{ff2f}\u{ff33}\u{ff25}"), true),
        (upn(" alice@contoso.com"), false),
    ] {
        assert_eq!(matches!(find(&store, query.clone()), Matches::One(_)), found, "{query:?}");
    }
}

/// An account with a name, a service and a mapping that the others have too.
pub(super) fn twin(rid: u32) -> Account {
    Account {
        user_principal_name: Some("Twin@contoso.com".to_owned()),
        service_principal_names: vec!["host/twin".to_owned(), "HOST/twin".to_owned()],
        alt_security_identities: vec!["X509:<S>CN=twin".to_owned(), "x509:<S>cn=TWIN".to_owned()],
        ..user(rid)
    }
}

/// Several accounts with one name or mapping are [`Matches::Many`]; two spellings in one account are one.
pub fn several_accounts_are_many_and_some_are_named<S: AccountStore, K>(make: impl Fn(&[Record]) -> (S, K)) {
    let queries = [upn("twin@contoso.com"), spn("host/Twin"), identity("X509:<S>CN=Twin")];
    let (store, keep) = make(&records([twin(2000)]));
    for query in queries.clone() {
        assert_eq!(one(&store, query).account, twin(2000), "two spellings in one account are one");
    }
    drop((store, keep));
    let (store, _keep) = make(&records((2000..2012).map(twin)));
    for query in queries {
        let Matches::Many(mut names) = find(&store, query) else { panic!("several are many") };
        let len = names.len();
        names.dedup();
        assert_eq!((names.len(), len), (Matches::NAMES_MAX, Matches::NAMES_MAX));
        assert!(names.iter().all(|name| name.starts_with("user20")));
    }
}

/// A query of any text is answered, and finds nothing that it does not name.
pub fn questions_may_be_hostile<S: AccountStore, K>(make: impl Fn(&[Record]) -> (S, K)) {
    let (store, _keep) = make(&records([alice()]));
    for text in [
        "\0".to_owned(),
        "' OR 1=1 --".to_owned(),
        "%".to_owned(),
        "a".repeat(1 << 20),
        format!("X509:<S>{}", "CN=a,".repeat(700)),
        format!("X509:<S>CN={}", "\"".repeat(4000)),
        format!("X509:<I>{}", "<".repeat(4000)),
        "\u{fdfa}".repeat(100_000),
    ] {
        for query in [name(&text), upn(&text), spn(&text), identity(&text)] {
            assert_eq!(find(&store, query), Matches::None);
        }
    }
}

/// A disabled account is found: whether it maps is decided by the service. If the store did not find it,
/// another account with the same name or mapping would map instead.
pub fn disabled_accounts_are_found<S: AccountStore, K>(make: impl Fn(&[Record]) -> (S, K)) {
    let flags = AccountFlags::NORMAL.with(AccountFlags::DISABLED, true);
    let twin = Account { user_principal_name: alice().user_principal_name, ..user(1014) };
    let disabled = Account { flags, ..alice() };
    let (store, keep) = make(&records([disabled.clone()]));
    assert_eq!(one(&store, upn("alice@contoso.com")).account, disabled);
    drop((store, keep));
    let (store, _keep) = make(&records([disabled, twin]));
    assert!(matches!(find(&store, upn("alice@contoso.com")), Matches::Many(_)));
}

/// An account comes with all its groups, the primary group included, each once and in ascending order of SID.
pub fn memberships_come_with_their_account<S: AccountStore, K>(make: impl Fn(&[Record]) -> (S, K)) {
    let of_alice = record(alice(), &[(513, "Domain Users"), (1100, "Staff"), (1101, "Web Team")]);
    let of_other = record(Account { primary_group_id: 1100, ..user(1014) }, &[(1100, "Staff")]);
    let (store, _keep) = make(&[of_other.clone(), of_alice.clone()]);
    assert_eq!(*one(&store, name("alice")), of_alice);
    assert_eq!(*one(&store, Query::Sid(sid(1014))), of_other);
}

/// While nothing changes, the revision stays, and look-ups do not count as changes.
pub fn the_revision_stays_while_nothing_changes<S: AccountStore, K>(make: impl Fn(&[Record]) -> (S, K)) {
    let (store, _keep) = make(&records([alice()]));
    let before = store.revision().expect("the store answers");
    one(&store, name("alice"));
    assert_eq!(find(&store, name("bob")), Matches::None);
    let after = store.revision().expect("the store answers");
    assert_eq!(before, after);
    assert!(after.is_unbroken_since(&before));
}

/// Stores with different contents have different revisions, so no cached answer of one is taken for an answer
/// of another.
pub fn another_store_has_another_revision<S: AccountStore, K>(make: impl Fn(&[Record]) -> (S, K)) {
    let (one, _keep) = make(&records([alice()]));
    let (other, _keep) = make(&records([user(1014)]));
    assert_ne!(one.revision().expect("the store answers"), other.revision().expect("the store answers"));
}

/// A look-up that is dropped, before it is polled or after, leaves nothing behind.
pub fn dropped_look_ups_leave_nothing<S: AccountStore, K>(make: impl Fn(&[Record]) -> (S, K)) {
    let (store, _keep) = make(&records([alice()]));
    for polls in [0, 1, 2].into_iter().cycle().take(100) {
        let query = name("alice");
        let mut dropped = pin!(store.find(&query));
        for _ in 0..polls {
            if dropped.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                break;
            }
        }
    }
    assert_eq!(one(&store, name("alice")).account, alice());
}

/// Many threads are answered at once, each with its own answer.
pub fn many_threads_are_answered<S: AccountStore, K>(make: impl Fn(&[Record]) -> (S, K)) {
    let (store, _keep) = make(&records((1000..1008).map(user)));
    let store = &store;
    std::thread::scope(|scope| {
        for rid in 1000..1008 {
            scope.spawn(move || {
                for _ in 0..100 {
                    let query = Query::Sid(sid(rid));
                    let found = now(store.find(&query)).expect("the store answers");
                    assert!(matches!(found, Matches::One(record) if record.account == user(rid)));
                }
            });
        }
    });
}
