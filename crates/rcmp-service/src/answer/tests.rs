use super::*;
use account_store::{Membership, Profile};
use pac::VerifiedPac;

fn domain() -> Domain {
    Domain {
        netbios: "CONTOSO".into(),
        dns: "contoso.com".into(),
        sid: "S-1-5-21-3623811015-3361044348-30300820".parse().expect("a SID"),
    }
}

fn record(memberships: &[(&str, GroupScope)]) -> Arc<Record> {
    let member = |(sid, scope): &(&str, GroupScope)| Membership {
        sid: sid.parse().expect("a SID"),
        name: None,
        scope: *scope,
    };
    Arc::new(Record {
        account: Account {
            user_principal_name: Some("alice@contoso.com".into()),
            expires: FileTime::UNSET,
            password_last_set: FileTime(133_400_000_000_000_000),
            password_can_change: FileTime(133_400_864_000_000_000),
            logon_count: 7,
            profile: Profile { full_name: "Alice Smith".into(), ..Profile::default() },
            ..Account::new("alice", domain().sid.with_rid(1013).expect("a SID"))
        },
        memberships: memberships.iter().map(member).collect(),
    })
}

const NOW: FileTime = FileTime(133_500_000_000_000_000);

fn answer(record: &Record, now: FileTime) -> VerifiedPac {
    let (message, _) = build(record, &domain(), "DC1", None, now).expect("it is of the domain");
    let response = Response::decode(&message).expect("it is well formed");
    assert_eq!(response.domain, "CONTOSO");
    VerifiedPac::decode(response.auth_data).expect("it agrees with itself")
}

#[test]
fn the_worked_response_is_byte_exact() {
    let record = record(&[
        ("S-1-5-21-3623811015-3361044348-30300820-513", GroupScope::Global),
        ("S-1-5-21-3623811015-3361044348-30300820-1107", GroupScope::Universal),
    ]);
    let identity = Some(Sid::AUTHENTICATION_AUTHORITY_ASSERTED_IDENTITY);
    let (message, _) = build(&record, &domain(), "DC1", identity, NOW).expect("it is of the domain");
    assert_eq!(message.len(), 782);
    assert_eq!(
        crate::test::sha256(&message),
        "d2bcfc8a2d8f02c65aa4e3004f57086686ab29f7069a2f46780f830f83f111cf"
    );
}

#[test]
fn each_group_stands_where_its_scope_puts_it() {
    let own = |rid: u32| domain().sid.with_rid(rid).expect("a SID").to_string();
    let foreign = "S-1-5-21-1-2-3-1105";
    let record = record(&[
        (&own(1107), GroupScope::Universal),
        (&own(1200), GroupScope::Local),
        (foreign, GroupScope::Universal),
        ("S-1-5-21-1-2-3-1106", GroupScope::Local),
    ]);
    let info = answer(&record, NOW).logon_info;
    let rids = |groups: &[GroupMembership]| groups.iter().map(|group| group.rid).collect::<Vec<_>>();
    assert_eq!(rids(&info.group_ids), [513, 1107], "the primary group is always there");
    let resource = info.resource_groups.as_ref().expect("there is a local group");
    assert_eq!((rids(&resource.groups), resource.groups[0].attributes), (vec![1200], 0x2000_0007));
    assert_eq!(info.extra_sids.iter().map(|extra| extra.sid.to_string()).collect::<Vec<_>>(), [foreign]);
    assert_eq!(info.user_flags, 0x220);
}

#[test]
fn an_account_without_a_principal_name_gets_one_that_says_so() {
    let mut record = (*record(&[])).clone();
    record.account.user_principal_name = None;
    let info = answer(&record, NOW).upn_dns_info.expect("it is always there");
    assert_eq!((info.upn.as_str(), info.is_constructed), ("alice@contoso.com", true));
    assert_eq!(info.dns_domain_name, "CONTOSO.COM");
}

#[test]
fn the_time_to_go_is_the_earlier_of_hours_and_expiry() {
    // 2024-01-17T21:20:00Z, a Wednesday: allowed until 22:00.
    let mut record = (*record(&[])).clone();
    let mut hours = [0xff; 21];
    let hour = 3 * 24 + 22;
    hours[hour / 8] &= !(1 << (hour % 8));
    record.account.logon_hours = Some(hours);
    assert_eq!(answer(&record, NOW).logon_info.logoff_time.to_string(), "2024-01-17T22:00:00Z");
    record.account.expires = FileTime(NOW.0 + 600_000_000);
    assert_eq!(answer(&record, NOW).logon_info.logoff_time.to_string(), "2024-01-17T21:21:00Z");
    record.account.logon_hours = Some([0xff; 21]);
    record.account.expires = FileTime::NEVER;
    assert_eq!(answer(&record, NOW).logon_info.logoff_time, FileTime::NEVER);
}

#[test]
fn an_account_of_another_domain_is_not_answered() {
    let mut record = (*record(&[])).clone();
    record.account.sid = "S-1-5-21-1-2-3-1013".parse().expect("a SID");
    assert!(build(&record, &domain(), "DC1", None, NOW).is_none());
}

#[test]
fn an_answer_keeps_its_bytes_for_its_record_and_a_while() {
    let cache = Cache::default();
    let first = record(&[]);
    let response = |record: &Arc<Record>, now| {
        cache.response(record, &domain(), "DC1", None, now).expect("it is of the domain")
    };
    let built = response(&first, NOW);
    assert_eq!(response(&first, NOW + LIFETIME - Duration::from_nanos(100)), built, "the same bytes");
    assert_ne!(response(&first, NOW + LIFETIME), built, "built anew");
    let mut changed = (*first).clone();
    changed.account.logon_count = 8;
    let changed = Arc::new(changed);
    assert_ne!(response(&changed, NOW), built, "another record");
    assert_ne!(response(&first, FileTime(NOW.0 - 1)), built, "the clock went back");
}
