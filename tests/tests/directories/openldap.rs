//! OpenLDAP: what is found, what is refused, and what is an error.

use super::verify::{of_directory, verify};
use super::{Opened, attribute, identity, ldaps, name, posix, settings, upn};
use account_store::{AccountFlags, Matches, Query};
use rcmpd_tests::slapd::{GROUPS, Options, PEOPLE, READER, SECRET, Slapd, entry};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use store_ldap::{GroupMembership, Servers, StatePreset, TlsMode};
use zeroize::Zeroizing;

/// An account with this number; its primary group is 1000.
pub(crate) fn account(uid: &str, number: u32, more: &[(&str, &str)]) -> String {
    let number = number.to_string();
    let attributes = [
        ("objectClass", "inetOrgPerson"),
        ("objectClass", "posixAccount"),
        ("objectClass", "shadowAccount"),
        ("objectClass", "mappedAccount"),
        ("cn", uid),
        ("sn", uid),
        ("homeDirectory", "/"),
        ("uid", uid),
        ("uidNumber", &number),
        ("gidNumber", "1000"),
    ];
    entry(&dn(uid), &[&attributes[..], more].concat())
}

fn dn(uid: &str) -> String {
    format!("uid={uid},{PEOPLE}")
}

pub(crate) fn group(cn: &str, number: u32, members: &[&str]) -> String {
    group_at(&format!("cn={cn},{GROUPS}"), cn, number, members)
}

fn group_at(dn: &str, cn: &str, number: u32, members: &[&str]) -> String {
    let number = number.to_string();
    let mut attributes = vec![
        ("objectClass", "posixGroup"),
        ("objectClass", "memberGroup"),
        ("cn", cn),
        ("gidNumber", &number),
    ];
    attributes.extend(members.iter().map(|member| ("member", *member)));
    entry(dn, &attributes)
}

/// Names of the groups of an account, `-` for those without.
fn groups(opened: &Opened, uid: &str) -> Vec<String> {
    let record = opened.one(name(uid));
    let names = record.memberships.iter().map(|group| group.name.clone().unwrap_or_else(|| "-".to_owned()));
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn alice_has_a_sid_of_her_number_and_nested_groups_whose_cycles_end() {
    let nested = |cn: &str| format!("cn={cn},{GROUPS}");
    let slapd = Slapd::start(
        &[
            account("alice", 1001, &[("displayName", "Alice Adams")]),
            group("users", 1000, &[]),
            group("staff", 1001, &[&dn("alice"), &nested("all")]),
            group("web", 1002, &[&nested("staff")]),
            group("all", 1003, &[&nested("web")]),
            group("others", 1004, &[&dn("bob")]),
        ]
        .concat(),
    );
    let mut generic = posix();
    generic.display_name = Some(attribute("displayName"));
    generic.created = Some(attribute("createTimestamp"));
    let opened = Opened::of(settings(&slapd, generic));
    let record = opened.one(name("ALICE"));
    assert_eq!(record.account.sid.split_rid().expect("a RID").1, 100_001);
    assert_eq!(
        (record.account.profile.full_name.as_str(), record.account.primary_group_id),
        ("Alice Adams", 200_500)
    );
    assert!(record.account.created.to_unix() > 1_700_000_000);
    assert_eq!(groups(&opened, "alice"), ["all", "staff", "users", "web"]);
    assert_eq!(opened.one(Query::Sid(record.account.sid)), record);
}

#[test]
fn an_address_is_one_value_of_one_account() {
    let slapd = Slapd::start(
        &[
            account("alice", 1001, &[("mail", "alice@contoso.example")]),
            account("bob", 1002, &[("mail", "bob@contoso.example"), ("mail", "bob@mail.example")]),
            account("carol", 1003, &[("mail", "shared@contoso.example")]),
            account("dave", 1004, &[("mail", "dave@mail.example"), ("mail", "Shared@contoso.example")]),
            account("erin", 1005, &[("mail", "erin@contoso.example\r\nX-Admin: 1")]),
            group("users", 1000, &[]),
        ]
        .concat(),
    );
    let mut chosen = settings(&slapd, posix());
    chosen.mail_domain = Some("mail.example".to_owned());
    let (opened, chosen) = (Opened::of(settings(&slapd, posix())), Opened::of(chosen));
    let mail = |opened: &Opened, uid: &str| opened.one(name(uid)).account.profile.mail.clone();
    for (uid, expected, with_domain) in [
        ("alice", "alice@contoso.example", "alice@contoso.example"),
        ("bob", "", "bob@mail.example"),
        ("carol", "shared@contoso.example", "shared@contoso.example"),
        ("dave", "", "dave@mail.example"),
        ("erin", "", ""),
    ] {
        assert_eq!(
            (mail(&opened, uid).as_str(), mail(&chosen, uid).as_str()),
            (expected, with_domain),
            "{uid}"
        );
    }
    // Whose an address is does not depend on which one is chosen.
    let having = |address: &str| match opened.find(Query::Mail(address.to_owned())).unwrap() {
        Matches::One(record) => vec![record.account.name.clone()],
        Matches::None => vec![],
        Matches::Many(mut names) => {
            names.sort();
            names
        }
    };
    assert_eq!(having("ALICE@contoso.example"), ["alice"]);
    assert_eq!(having("shared@contoso.example"), ["carol", "dave"]);
    assert_eq!(having("bob@mail.example"), ["bob"]);
    assert_eq!(having("nobody@contoso.example"), Vec::<String>::new());
}

/// Over a limit the answer is an error, never a shorter list.
#[test]
fn groups_are_as_many_and_as_deep_as_an_answer_carries() {
    let nested = |level: u32| format!("cn=level{level},{GROUPS}");
    let mut entries =
        [account("alice", 1001, &[]), account("bob", 1002, &[]), group("users", 1000, &[])].concat();
    for level in 0..32 {
        let below = if level == 0 { dn("alice") } else { nested(level - 1) };
        entries += &group(&format!("level{level}"), 2000 + level, &[&below]);
    }
    for number in 0..5000 {
        entries += &group(&format!("g{number}"), 3000 + number, &[&dn("bob")]);
    }
    let slapd = Slapd::with(&entries, &Options { global: "sizelimit unlimited", ..Options::default() });
    let mut all = settings(&slapd, posix());
    all.timeout = Duration::from_secs(120);
    let opened = Opened::of(all);
    assert_eq!(groups(&opened, "alice").len(), 33, "with the primary group");
    let before = opened.meter.requests();
    assert_eq!(groups(&opened, "bob").len(), 5001, "with the primary group");
    // One for bob, four about him, and two for each fifty groups: whether another group has a name or number of
    // theirs, and what is above them.
    let searches = opened.meter.requests() - before;
    assert!(searches <= 1 + 4 + 2 * 101, "{searches}");
    let add = |entry: String| slapd.modify(&entry.replacen('\n', "\nchangetype: add\n", 1));
    add(group("level32", 2032, &[&nested(31)]));
    opened.fails(name("alice"), "more than 32 levels deep");
    add(group("more", 2100, &[&dn("bob")]));
    opened.fails(name("bob"), "there are more entries than the limit");
}

#[test]
fn member_uid_and_member_of_are_other_ways_to_the_same_groups() {
    let slapd = Slapd::with(
        &[
            account("alice", 1001, &[]),
            group("users", 1000, &[]),
            group("staff", 1001, &[&dn("alice")]),
            group("all", 1003, &[&format!("cn=staff,{GROUPS}")]),
            entry(
                &format!("cn=posix,{GROUPS}"),
                &[
                    ("objectClass", "posixGroup"),
                    ("cn", "posix"),
                    ("gidNumber", "1007"),
                    ("memberUid", "alice"),
                ],
            ),
        ]
        .concat(),
        &Options { overlays: "overlay memberof\nmemberof-group-oc memberGroup", ..Options::default() },
    );
    let mut generic = posix();
    generic.membership = GroupMembership::MemberUid(attribute("memberUid"));
    assert_eq!(groups(&Opened::of(settings(&slapd, generic.clone())), "alice"), ["posix", "users"]);
    // The overlay writes memberOf when a group changes.
    for group in ["staff", "all"] {
        let member = if group == "staff" { dn("alice") } else { format!("cn=staff,{GROUPS}") };
        let dn = format!("cn={group},{GROUPS}");
        slapd.modify(&format!("dn: {dn}\nchangetype: modify\ndelete: member\nmember: {member}\n\n"));
        slapd.modify(&format!("dn: {dn}\nchangetype: modify\nadd: member\nmember: {member}\n\n"));
    }
    generic.membership = GroupMembership::MemberOf(attribute("memberOf"));
    assert_eq!(groups(&Opened::of(settings(&slapd, generic)), "alice"), ["all", "staff", "users"]);
}

/// An alias entry that has what an account has.
fn alias(rdn: &str, uid: &str, number: &str, of: &str) -> String {
    let (_, cn) = rdn.split_once('=').expect("a name");
    entry(
        &format!("{rdn},{PEOPLE}"),
        &[
            ("objectClass", "alias"),
            ("objectClass", "extensibleObject"),
            ("objectClass", "posixAccount"),
            ("objectClass", "mappedAccount"),
            ("aliasedObjectName", of),
            ("cn", cn),
            ("homeDirectory", "/"),
            ("uid", uid),
            ("uidNumber", number),
            ("gidNumber", "1000"),
            ("altSecurityIdentities", "X509:<I>CN=CA<SR>0504"),
        ],
    )
}

#[test]
fn what_an_ordinary_person_can_write_gives_no_group_by_name() {
    let own = format!("ou=bobs,{GROUPS}");
    let slapd = Slapd::start(
        &[
            account("alice", 1001, &[("altSecurityIdentities", "X509:<I>CN=CA<SR>0504")]),
            account("bob", 1002, &[]),
            group("users", 1000, &[]),
            group("admins", 1100, &[&dn("alice")]),
            entry(&own, &[("objectClass", "organizationalUnit"), ("ou", "bobs")]),
            group_at(&format!("cn=Admins,{own}"), "Admins", 1101, &[&dn("bob")]),
            // Outside of the bases.
            group_at("cn=root,dc=contoso,dc=example", "root", 1102, &[&dn("bob")]),
            entry(
                "uid=eve,dc=contoso,dc=example",
                &[
                    ("objectClass", "account"),
                    ("objectClass", "posixAccount"),
                    ("objectClass", "mappedAccount"),
                    ("cn", "eve"),
                    ("homeDirectory", "/"),
                    ("uid", "eve"),
                    ("uidNumber", "1009"),
                    ("gidNumber", "1000"),
                    ("altSecurityIdentities", "X509:<I>CN=CA<SR>0504"),
                ],
            ),
            // An alias of bob with all that alice has, and an alias of an entry that is not there.
            alias("cn=mirror", "alice", "1001", &dn("bob")),
            alias("cn=own", "frank", "1008", &dn("nobody")),
        ]
        .concat(),
    );
    let opened = Opened::of(settings(&slapd, posix()));
    assert_eq!(opened.find(name("frank")).unwrap(), Matches::None);
    assert_eq!(groups(&opened, "alice"), ["-", "users"]);
    let (_, findings) = verify(&of_directory(&slapd), &["alice"], 3);
    let is_told = |what: &str| findings.iter().any(|finding| finding.starts_with(what));
    assert!(is_told("store: shared name: another group has the name of S-1-5-21-"), "{findings:?}");
    assert!(is_told("store: shared name: groups "), "{findings:?}");
    assert_eq!(groups(&opened, "bob"), ["-", "users"]);
    assert_ne!(
        opened.one(name("alice")).memberships,
        opened.one(name("bob")).memberships,
        "SIDs are their own"
    );
    assert_eq!(opened.find(name("eve")).unwrap(), Matches::None);
    assert_eq!(opened.one(identity("X509:<I>CN=CA<SR>0504")).account.name, "alice");
}

#[test]
fn numbers_become_no_well_known_and_no_shared_sids() {
    let slapd = Slapd::start(
        &[
            account("root", 500, &[]),
            account("same1", 1001, &[]),
            account("same2", 1001, &[]),
            account("alice", 1002, &[]),
            account("large", 4_000_000, &[]),
            account("carol", 1003, &[]),
            group("users", 1000, &[]),
            group("users2", 1002, &[]),
            group("low", 512, &[&dn("alice")]),
            group("double1", 1200, &[&dn("carol")]),
            group("double2", 1200, &[]),
        ]
        .concat(),
    );
    let mut generic = posix();
    // As they are.
    generic.user_rids.rid = 1000;
    generic.group_rids.rid = 500;
    let opened = Opened::of(settings(&slapd, generic.clone()));
    opened.fails(name("root"), "out of the range");
    opened.fails(name("large"), "out of the range");
    opened.fails(name("same1"), "as that of another account");
    opened.fails(name("alice"), "RID 512 of a built-in account or group");
    opened.fails(name("carol"), "is that of another group");
    generic.listed_rids = [512].into();
    let record = Opened::of(settings(&slapd, generic)).one(name("alice"));
    assert!(
        record.memberships.iter().any(|group| group.sid.split_rid().expect("a RID").1 == 512),
        "it is listed"
    );
    let mut generic = posix();
    generic.user_rids = store_ldap::RidRange { first: 0, last: 9999, rid: 0 };
    Opened::of(settings(&slapd, generic)).fails(name("root"), "RID 500 of a built-in account");
}

#[test]
fn twins_that_the_server_keeps_apart_are_ambiguous() {
    let strong = |issuer: &str| format!("X509:<I>O=Contoso,CN={issuer}<SR>0504030201");
    let weak = |cn: &str| format!("X509:<S>O=x,CN={cn}");
    let slapd = Slapd::start(
        &[
            account("alice", 1001, &[("altSecurityIdentities", &strong("C\u{f4}ntoso CA"))]),
            account("bob", 1002, &[("altSecurityIdentities", &strong("Contoso CA"))]),
            account(
                "carol",
                1003,
                &[("altSecurityIdentities", &weak("jos\u{e9}")), ("userPrincipalName", "jos\u{e9}@x")],
            ),
            account(
                "dave",
                1004,
                &[("altSecurityIdentities", &weak("jose")), ("userPrincipalName", "jose@x")],
            ),
            account("erin", 1005, &[("altSecurityIdentities", &weak("\u{3072}\u{3089}"))]),
            account("frank", 1006, &[("altSecurityIdentities", &weak("\u{ff8b}\u{ff97}"))]),
            account(
                "gina",
                1007,
                &[("altSecurityIdentities", r#"X509:<S>O="Contoso, Ltd.",Phone=49 30 1,CN=a + OU=b"#)],
            ),
            group("users", 1000, &[]),
        ]
        .concat(),
    );
    let opened = Opened::of(settings(&slapd, posix()));
    for asked in [
        identity(&strong("Contoso CA")),
        identity(&strong("C\u{f4}ntoso CA")),
        identity(&weak("jose")),
        identity(&weak("jose\u{301}")),
        identity(&weak("\u{30d2}\u{30e9}")),
    ] {
        assert!(
            matches!(opened.find(asked.clone()), Ok(Matches::Many(names)) if names.len() == 2),
            "{asked:?}"
        );
    }
    // User principal names keep accents apart.
    assert_eq!(opened.one(upn("JOS\u{c9}@X")).account.name, "carol");
    assert_eq!(opened.one(upn("jose\u{301}@x")).account.name, "carol");
    assert_eq!(opened.one(upn("jose@x")).account.name, "dave");
    let gina = r#"X509:<S>o="contoso, ltd.",OID.2.5.4.20=49 30 1,OU=B + CN=A"#;
    assert_eq!(opened.one(identity(gina)).account.name, "gina");
}

#[test]
fn too_many_candidates_are_ambiguous_and_a_limit_of_the_server_is_an_error() {
    let people: String = (0..20)
        .map(|n| {
            account(
                &format!("user{n}"),
                1000 + n,
                &[("altSecurityIdentities", &format!("X509:<S>CN=Uwe {n} Stade"))],
            )
        })
        .collect();
    let entries = people + &group("users", 1000, &[]);
    let slapd = Slapd::start(&entries);
    let mut few = settings(&slapd, posix());
    few.candidates_max = 5;
    let few = Opened::of(few);
    assert!(matches!(few.find(identity("X509:<S>CN=Uwe Stade")), Ok(Matches::Many(_))));
    assert_eq!(few.one(identity("X509:<S>CN=Uwe 7 Stade")).account.name, "user7");
    assert_eq!(
        Opened::of(settings(&slapd, posix())).find(identity("X509:<S>CN=Uwe Stade")).unwrap(),
        Matches::None
    );
    let slapd = Slapd::with(&entries, &Options { global: "sizelimit 5", ..Options::default() });
    let limited = Opened::of(settings(&slapd, posix()));
    limited.fails(identity("X509:<S>CN=Uwe Stade"), "sizeLimitExceeded (4)");
    assert_eq!(limited.one(name("user7")).account.name, "user7");
}

#[test]
fn each_preset_of_state_bars_alice_and_a_hidden_attribute_is_an_error() {
    let alice = [
        account("alice", 1001, &[]),
        account("expired", 1002, &[("krbPrincipalExpiration", "20200101000000Z")]),
        account("shadow", 1003, &[("shadowExpire", "1")]),
        group("users", 1000, &[]),
    ]
    .concat();
    let overlays = "overlay ppolicy";
    let slapd = Slapd::with(&alice, &Options { overlays, ..Options::default() });
    let mut generic = posix();
    generic.state = StatePreset::ALL.to_vec();
    let opened = Opened::of(settings(&slapd, generic.clone()));
    assert_eq!(opened.one(name("alice")).account.flags, AccountFlags::NORMAL);
    assert!(opened.one(name("expired")).account.expires.to_unix() < 1_600_000_000);
    assert_eq!(opened.one(name("shadow")).account.expires.to_unix(), 86_400);
    let change = |what: &str| slapd.modify(&format!("dn: {}\nchangetype: modify\n{what}\n", dn("alice")));
    change("add: pwdAccountLockedTime\npwdAccountLockedTime: 000001010000Z\n");
    assert!(opened.one(name("alice")).account.flags.contains(AccountFlags::DISABLED), "at the next question");
    change("replace: pwdAccountLockedTime\npwdAccountLockedTime: 20261130000000Z\n");
    assert!(opened.one(name("alice")).account.flags.contains(AccountFlags::LOCKED));
    change("delete: pwdAccountLockedTime\n");
    change("add: nsAccountLock\nnsAccountLock: true\n");
    assert!(opened.one(name("alice")).account.flags.contains(AccountFlags::DISABLED));
    change("delete: nsAccountLock\n");
    assert_eq!(opened.one(name("alice")).account.flags, AccountFlags::NORMAL);
    drop(slapd);

    // Not readable, not searchable, or not there at all: never "no restriction".
    let hidden = |rights: &str| -> &'static str {
        format!(
            "access to attrs=userPassword by anonymous auth by * none
access to attrs=nsAccountLock by dn.exact=\"{READER}\" {rights} by * none
access to * by dn.exact=\"{READER}\" read by * none"
        )
        .leak()
    };
    for rights in ["none", "compare"] {
        let slapd = Slapd::with(&alice, &Options { overlays, access: hidden(rights), ..Options::default() });
        let opened = Opened::of(settings(&slapd, generic.clone()));
        opened.fails(name("alice"), "may not be searched by the store's account");
    }
    let slapd = Slapd::with(&alice, &Options { overlays, access: hidden("search"), ..Options::default() });
    let opened = Opened::of(settings(&slapd, generic.clone()));
    assert_eq!(
        opened.one(name("alice")).account.flags,
        AccountFlags::NORMAL,
        "it can be seen that there is none"
    );
    slapd.modify(&format!(
        "dn: {}\nchangetype: modify\nadd: nsAccountLock\nnsAccountLock: true\n\n",
        dn("alice")
    ));
    opened.fails(name("alice"), "may not be searched by the store's account");
    // Without the overlay the server knows no such attribute.
    let slapd = Slapd::start(&alice);
    Opened::of(settings(&slapd, generic)).fails(name("alice"), "is not known to the server");
}

#[test]
fn input_that_no_directory_holds_finds_no_account_and_fails_nothing() {
    let alice = account("alice", 1001, &[("userPrincipalName", "bob.upn@corp.example")]);
    let slapd = Slapd::start(&(alice + &group("users", 1000, &[])));
    let opened = Opened::of(settings(&slapd, posix()));
    opened.one(upn("bob.upn@corp.example"));
    let before = opened.meter.connections();
    for n in 0..1000 {
        let text = format!("bob.upn@corp.example\0{n}.evil.example");
        let query = match n % 4 {
            0 => upn(&text),
            1 => identity(&format!("X509:<RFC822>{text}")),
            2 => upn(&"a".repeat(5000 + n)),
            _ => Query::ServicePrincipalName(text),
        };
        assert_eq!(opened.find(query).unwrap(), Matches::None);
    }
    let meter = &opened.meter;
    assert_eq!(
        (meter.questions(), meter.connections()),
        (1, before),
        "nothing was sent, no connection was lost"
    );
    assert_eq!(meter.failures().map(|(_, count)| count).sum::<u64>(), 0);
}

#[test]
fn a_base_that_refers_elsewhere_or_is_not_there_is_an_error() {
    let referral = entry(
        &format!("ou=elsewhere,{PEOPLE}"),
        &[
            ("objectClass", "referral"),
            ("objectClass", "extensibleObject"),
            ("ou", "elsewhere"),
            ("ref", "ldap://127.0.0.1:1/dc=elsewhere"),
        ],
    );
    let slapd = Slapd::start(&(account("alice", 1001, &[]) + &referral + &group("users", 1000, &[])));
    let opened = Opened::of(settings(&slapd, posix()));
    opened.fails(name("alice"), "refers to another server");
    opened.fails(name("nobody"), "refers to another server");
    let mut generic = posix();
    generic.user_base = format!("ou=elsewhere,{PEOPLE}");
    Opened::of(settings(&slapd, generic)).fails(name("alice"), "referral (10)");
    let mut generic = posix();
    generic.user_base = format!("ou=nowhere,{PEOPLE}");
    Opened::of(settings(&slapd, generic))
        .fails(name("alice"), "store: bind: the store's account may not read");
}

#[test]
fn start_tls_works_and_certificates_name_their_server() {
    let alice = account("alice", 1001, &[]) + &group("users", 1000, &[]);
    let slapd = Slapd::start(&alice);
    let mut start_tls = settings(&slapd, posix());
    start_tls.servers =
        Servers::Listed(vec![store_ldap::Server { tls: TlsMode::StartTls, ..ldaps(slapd.ldap) }]);
    assert_eq!(Opened::of(start_tls.clone()).one(name("alice")).account.name, "alice");
    // The other port speaks TLS at once.
    start_tls.servers =
        Servers::Listed(vec![store_ldap::Server { tls: TlsMode::StartTls, ..ldaps(slapd.ldaps) }]);
    start_tls.timeout = Duration::from_secs(3);
    Opened::of(start_tls).fails(name("alice"), "store: ");
    let mut other_ca = settings(&slapd, posix());
    let folder = tempfile::tempdir().unwrap();
    rcmpd_tests::slapd::certificates(folder.path(), "");
    other_ca.ca = super::certificates(&folder.path().join("ca.pem"));
    Opened::of(other_ca).fails(name("alice"), "store: tls: ");
    for subject_alt_name in ["", "DNS:other.example", "IP:127.0.0.2"] {
        let slapd = Slapd::with(
            &alice,
            &Options { subject_alt_name: subject_alt_name.to_owned().leak(), ..Options::default() },
        );
        Opened::of(settings(&slapd, posix()))
            .fails(name("alice"), "does not name this server in its subjectAltName");
    }
}

#[test]
fn an_account_of_the_store_that_is_wrong_or_may_read_nothing_is_a_bind_error() {
    let alice = account("alice", 1001, &[]) + &group("users", 1000, &[]);
    let slapd = Slapd::start(&alice);
    let reads = Arc::new(AtomicUsize::new(0));
    let mut wrong = settings(&slapd, posix());
    let counted = Arc::clone(&reads);
    wrong.secrets = Arc::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(vec![Zeroizing::new("wrong".to_owned())])
    });
    let opened = Opened::of(wrong);
    for _ in 0..20 {
        opened
            .fails(name("alice"), "store: bind: \"cn=rcmpd,dc=contoso,dc=example\": invalidCredentials (49)");
    }
    assert!(reads.load(Ordering::Relaxed) >= 20, "the secret is read again each time");
    let mut missing = settings(&slapd, posix());
    missing.secrets = Arc::new(|| Err("the secret in FILE cannot be read".to_owned()));
    Opened::of(missing).fails(name("alice"), "store: bind: the secret in FILE cannot be read");
    let mut empty = settings(&slapd, posix());
    empty.secrets = Arc::new(|| Ok(vec![Zeroizing::new(String::new())]));
    Opened::of(empty).fails(name("alice"), "store: bind: ");
    let slapd = Slapd::with(
        &alice,
        &Options {
            access: "access to attrs=userPassword by anonymous auth by * none\naccess to * by * none",
            ..Options::default()
        },
    );
    Opened::of(settings(&slapd, posix())).fails(name("alice"), "store: bind: ");
}

#[test]
fn the_next_secret_is_used_when_the_present_one_is_refused() {
    let alice = account("alice", 1001, &[]) + &group("users", 1000, &[]);
    let slapd = Slapd::start(&alice);
    let mut both = settings(&slapd, posix());
    both.secrets = Arc::new(|| Ok(vec![Zeroizing::new("old".to_owned()), Zeroizing::new(SECRET.to_owned())]));
    let opened = Opened::of(both);
    rcmpd_tests::eventually("the next secret is used", || opened.find(name("alice")).is_ok());
    assert_eq!(opened.one(name("alice")).account.name, "alice");
}

/// `make demo-ldap` runs this script with the program that it has built.
#[test]
fn the_demo_shows_alice_s_groups_and_address() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/demo-ldap");
    let done = std::process::Command::new(script).arg(rcmpd_tests::binary()).output().expect("bash starts");
    let (shown, stderr) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{shown}{stderr}");
    for (header, value) in [
        ("Remote-User", "CONTOSO\\alice"),
        ("Remote-Groups", "users,engineers,staff"),
        ("Remote-Email", "alice@contoso.example"),
    ] {
        let line = shown.lines().find(|line| line.starts_with(header)).unwrap_or_else(|| panic!("{shown}"));
        assert_eq!(line[header.len()..].trim(), value);
    }
    assert!(shown.contains("\n403\n") && shown.trim_end().ends_with("\n401"), "{shown}");
}
