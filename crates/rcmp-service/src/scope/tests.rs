use super::*;
use account_store::privileged::privileged_sid;
use account_store::{Account, GroupScope, Membership};

const OURS: &str = "S-1-5-21-1-2-3";
const OTHER: &str = "S-1-5-21-7-8-9";

fn sid(text: &str) -> Sid {
    text.parse().expect("a SID")
}

fn ours(rid: u32) -> Sid {
    sid(OURS).with_rid(rid).expect("there is room")
}

fn scope(groups: &[Sid]) -> Scope {
    Scope::new(Arc::default(), groups.into())
}

#[test]
fn privileged_accounts_and_groups_are_those_of_the_document() {
    // [MS-DTYP] 2.4.2.4, by SID.
    for rid in [498, 500, 502, 512, 516, 518, 519, 520, 521, 526, 527] {
        for domain in [OURS, OTHER] {
            assert!(is_privileged(&sid(&format!("{domain}-{rid}"))), "{domain}-{rid}");
        }
    }
    for rid in [544, 548, 549, 550, 551, 552] {
        assert!(is_privileged(&sid(&format!("S-1-5-32-{rid}"))), "{rid}");
    }
    for plain in [
        "S-1-5-21-1-2-3-501",
        "S-1-5-21-1-2-3-513",
        "S-1-5-21-1-2-3-515",
        "S-1-5-21-1-2-3-544",
        "S-1-5-21-1-2-3-1001",
        "S-1-5-21-1-2-512",
        "S-1-5-21-1-2-3-4-512",
        "S-1-5-32-545",
        "S-1-5-32-512",
        "S-1-18-512",
    ] {
        assert!(!is_privileged(&sid(plain)), "{plain}");
    }
}

#[test]
fn well_known_names_lead_to_the_sids_of_the_document() {
    // [MS-DTYP] 2.4.2.4.
    for (name, expect) in [
        ("Domain Admins", Some("S-1-5-21-1-2-3-512")),
        ("enterprise ADMINS", Some("S-1-5-21-1-2-3-519")),
        ("Administrator", Some("S-1-5-21-1-2-3-500")),
        ("Administrators", Some("S-1-5-32-544")),
        ("Backup Operators", Some("S-1-5-32-551")),
        ("Domain Users", None),
        ("Domain  Admins", None),
        ("", None),
    ] {
        assert_eq!(privileged_sid(name, &sid(OURS)), expect.map(sid), "{name}");
    }
}

#[test]
fn a_sid_without_a_relative_identifier_is_no_group() {
    for (text, expect) in [
        ("S-1-5-21-1-2-3-512", true),
        ("S-1-5-32-544", true),
        ("S-1-5-11", true),
        ("S-1-18-1", true),
        ("S-1-5-21", false),
        ("S-1-5-21-1-2", false),
        ("S-1-5-21-1-2-3", false),
        ("S-1-5-21-1-2-3-0", false),
        ("S-1-5-21-1-2-3-4-512", false),
        ("S-1-5-32", false),
        ("S-1-5-32-544-1", false),
    ] {
        assert_eq!(is_account_or_group(&sid(text)), expect, "{text}");
    }
}

#[test]
fn a_scope_covers_members_of_its_groups_and_privileged_accounts_by_name_only() {
    let (alice, administrator) = (ours(1001), ours(500));
    let (users, admins, schema, team) = (ours(513), ours(512), ours(518), ours(1102));
    let theirs = sid(&format!("{OTHER}-512"));
    // What, the scope's groups, the account, its groups, and whether it is covered.
    type Case<'a> = (&'a str, &'a [Sid], Sid, &'a [Sid], bool);
    let cases: &[Case<'_>] = &[
        ("every account, where no group is named", &[], alice, &[users, team], true),
        ("an account without groups", &[], alice, &[], true),
        ("a member of Domain Admins", &[], alice, &[users, admins], false),
        ("a member of another domain's", &[], alice, &[users, theirs], false),
        ("Administrator", &[], administrator, &[users], false),
        ("a member of the group", &[team], alice, &[users, team], true),
        ("no member of the group", &[team], alice, &[users], false),
        ("a privileged member of the group", &[team], alice, &[users, team, admins], false),
        ("Administrator as a member of the group", &[team, users], administrator, &[users, team], false),
        ("the privileged group", &[admins], alice, &[users, admins], true),
        ("the privileged group, of a plain account", &[admins], alice, &[users], false),
        ("the privileged group beside a plain one", &[users, admins], alice, &[users, admins], true),
        ("another privileged group", &[schema], alice, &[users, admins], false),
        ("another domain's privileged group", &[theirs], alice, &[users, admins], false),
        ("Administrator by a group", &[admins], administrator, &[users, admins], true),
        ("Administrator by its SID", &[administrator], administrator, &[users, admins], true),
        ("another account than Administrator", &[administrator], alice, &[users], false),
        ("a single account", &[alice], alice, &[users], true),
    ];
    for (what, groups, account, is_in, expect) in cases {
        assert_eq!(scope(groups).covers(account, is_in.iter().copied(), &[]), *expect, "{what}");
        assert!(Scope::total().covers(account, is_in.iter().copied(), &[]), "{what}");
    }
}

#[test]
fn what_an_asker_is_not_told_makes_privileged_and_brings_into_no_scope() {
    let (alice, users, admins) = (ours(1001), ours(513), ours(512));
    assert!(!scope(&[]).covers(&alice, [users], &[admins]));
    assert!(!scope(&[admins]).covers(&alice, [users], &[admins]));
    assert!(!scope(&[users]).covers(&alice, [users], &[admins]));
    assert!(!scope(&[ours(1102)]).covers(&alice, [users], &[ours(1102)]));
}

#[test]
fn of_a_record_its_primary_group_and_extra_sids_count_too() {
    let member = |sid| Membership { sid, name: None, scope: GroupScope::Global };
    let plain = Record { account: Account::new("alice", ours(1001)), memberships: vec![member(ours(513))] };
    let changed = |change: fn(&mut Record)| {
        let mut record = plain.clone();
        change(&mut record);
        record
    };
    assert!(scope(&[]).covers_record("CONTOSO", &plain));
    let refused = [
        changed(|record| record.account.primary_group_id = 512),
        changed(|record| record.account.extra_sids.push(sid("S-1-5-21-7-8-9-500"))),
        changed(|record| record.account.extra_sids.push(sid("S-1-5-32-544"))),
        changed(|record| record.account.sid = ours(500)),
    ];
    for record in refused {
        assert!(!scope(&[]).covers_record("CONTOSO", &record), "{record:?}");
    }
    let of = |domain: &str| Scope::new([domain.to_owned()].into(), Arc::default());
    assert!(of("contoso").covers_record("CONTOSO", &plain));
    assert!(!of("FABRIKAM").covers_record("CONTOSO", &plain));
}
