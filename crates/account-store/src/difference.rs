//! What differs between the answers of two stores to one question, without values: for logs and counters.

use crate::account::Account;
use crate::store::{Matches, Query, Record};
use std::collections::BTreeSet;

/// Compares two answers. The result is the number of accounts, as in `accounts: one here, none there`, or the
/// names of the fields that differ. It is empty if both answers lead to the same decision.
///
/// Names that only help to explain an ambiguity do not count, and neither do the names of groups that one of
/// the stores does not know. Whose an e-mail address is, is all that a question about one asks, so only the
/// SID counts: some stores answer it without the rest of the record.
pub fn difference(query: &Query, here: &Matches, there: &Matches) -> Vec<String> {
    let count = |matches: &Matches| match matches {
        Matches::None => "none",
        Matches::One(_) => "one",
        Matches::Many(_) => "several",
    };
    match (here, there) {
        (Matches::One(here), Matches::One(there)) => match query {
            Query::Mail(_) => names_of([of_sids(&here.account, &there.account)]),
            _ => of_records(here, there),
        },
        _ if count(here) == count(there) => Vec::new(),
        _ => vec![format!("accounts: {} here, {} there", count(here), count(there))],
    }
}

fn of_records(here: &Record, there: &Record) -> Vec<String> {
    let mut found = of_accounts(&here.account, &there.account);
    let sids = |record: &Record| record.memberships.iter().map(|group| group.sid).collect::<BTreeSet<_>>();
    let (sids_here, sids_there) = (sids(here), sids(there));
    let more = sids_here.difference(&sids_there).count();
    let fewer = sids_there.difference(&sids_here).count();
    if more + fewer > 0 {
        found.push(format!("groups: {more} here only, {fewer} there only"));
    }
    let of_both = |group: &crate::Membership| there.memberships.iter().find(|other| other.sid == group.sid);
    let pairs = || here.memberships.iter().filter_map(|group| Some((group, of_both(group)?)));
    let scopes = pairs().filter(|(here, there)| here.scope != there.scope).count();
    let names = pairs().filter(|(here, there)| match (&here.name, &there.name) {
        (Some(here), Some(there)) => here != there,
        _ => false,
    });
    for (what, count) in [("scopes", scopes), ("names", names.count())] {
        if count > 0 {
            found.push(format!("{what} of {count} groups"));
        }
    }
    found
}

/// The names of fields that differ. `logonCount` and `badPwdCount` change with each logon and decide nothing.
fn of_accounts(here: &Account, there: &Account) -> Vec<String> {
    let set = |values: &[String]| values.iter().cloned().collect::<BTreeSet<_>>();
    let sids = |account: &Account| account.extra_sids.iter().copied().collect::<BTreeSet<_>>();
    let times = |it: &Account| (it.password_last_set, it.password_can_change, it.password_must_change);
    let fields = [
        ("name", here.name != there.name),
        of_sids(here, there),
        ("kind", here.kind != there.kind),
        ("user principal name", here.user_principal_name != there.user_principal_name),
        (
            "service principal names",
            set(&here.service_principal_names) != set(&there.service_principal_names),
        ),
        ("mappings", set(&here.alt_security_identities) != set(&there.alt_security_identities)),
        ("flags", here.flags != there.flags),
        ("primary group", here.primary_group_id != there.primary_group_id),
        ("expiry", here.expires != there.expires),
        ("creation", here.created != there.created),
        ("password times", times(here) != times(there)),
        ("logon hours", here.logon_hours != there.logon_hours),
        ("profile", here.profile != there.profile),
        ("extra SIDs", sids(here) != sids(there)),
        ("home domain", here.home_domain != there.home_domain),
    ];
    names_of(fields)
}

fn of_sids(here: &Account, there: &Account) -> (&'static str, bool) {
    ("SID", here.sid != there.sid)
}

fn names_of<const N: usize>(fields: [(&str, bool); N]) -> Vec<String> {
    fields.into_iter().filter(|(_, differ)| *differ).map(|(name, _)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AccountFlags, GroupScope, Membership};
    use std::sync::Arc;

    fn record(change: impl FnOnce(&mut Record)) -> Matches {
        let domain: dtyp::Sid = "S-1-5-21-1-2-3".parse().expect("a SID");
        let sid = |rid| domain.with_rid(rid).expect("room for a RID");
        let group = |rid, name: &str| Membership {
            sid: sid(rid),
            name: Some(name.to_owned()),
            scope: GroupScope::Global,
        };
        let mut account = Account::new("alice", sid(1001));
        account.alt_security_identities = vec!["a".to_owned(), "b".to_owned()];
        let mut record = Record { account, memberships: vec![group(513, "Users"), group(1101, "Staff")] };
        change(&mut record);
        Matches::One(Arc::new(record))
    }

    fn by_name() -> Query {
        Query::Name("alice".to_owned())
    }

    #[test]
    fn what_differs_is_named_without_values() {
        let same = record(|_| {});
        type Change = fn(&mut Record);
        let cases: [(Change, &str); 7] = [
            (|it| it.account.name = "bob".to_owned(), "name"),
            (|it| it.account.flags = AccountFlags::DISABLED, "flags"),
            (|it| it.account.expires = dtyp::FileTime::UNSET, "expiry"),
            (|it| it.account.alt_security_identities.truncate(1), "mappings"),
            (|it| it.memberships.truncate(1), "groups: 1 here only, 0 there only"),
            (|it| it.memberships[0].scope = GroupScope::Local, "scopes of 1 groups"),
            (|it| it.memberships[0].name = Some("Others".to_owned()), "names of 1 groups"),
        ];
        for (change, expected) in cases {
            assert_eq!(difference(&by_name(), &same, &record(change)), [expected]);
        }
        let order: Change = |it| it.account.alt_security_identities.reverse();
        let unnamed: Change = |it| it.memberships[0].name = None;
        let counted: Change = |it| it.account.logon_count = 7;
        for change in [order, unnamed, counted] {
            assert!(difference(&by_name(), &same, &record(change)).is_empty());
        }
    }

    #[test]
    fn how_many_were_found_differs_whatever_their_names() {
        let (one, many) = (record(|_| {}), |name: &str| Matches::Many(vec![name.to_owned()]));
        assert_eq!(difference(&by_name(), &one, &Matches::None), ["accounts: one here, none there"]);
        assert_eq!(
            difference(&by_name(), &Matches::None, &many("a")),
            ["accounts: none here, several there"]
        );
        assert!(difference(&by_name(), &many("a"), &many("b")).is_empty());
        assert!(difference(&by_name(), &Matches::None, &Matches::None).is_empty());
    }

    #[test]
    fn of_a_mail_address_only_its_account_counts() {
        let by_mail = Query::Mail("alice@contoso.example".to_owned());
        let whole = record(|_| {});
        let sid = |it: &Record| it.account.sid;
        let bare =
            record(|it| *it = Record { account: Account::new("alice", sid(it)), memberships: Vec::new() });
        assert!(difference(&by_mail, &bare, &whole).is_empty());
        assert!(!difference(&by_name(), &bare, &whole).is_empty());
        let other = record(|it| it.account.sid = it.memberships[1].sid);
        assert_eq!(difference(&by_mail, &whole, &other), ["SID"]);
        assert_eq!(difference(&by_mail, &whole, &Matches::None), ["accounts: one here, none there"]);
    }
}
