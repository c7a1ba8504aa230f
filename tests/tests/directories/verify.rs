//! `rcmpd store verify` over whole directories.

use super::openldap::{account, group};
use rcmpd_tests::slapd::{GROUPS, Options, PEOPLE, READER, SECRET, Slapd, entry};
use rcmpd_tests::{Demo, Finished, write_secret};
use serde_json::Value;

/// The keys of `[store.ldap]`, below this section, for POSIX accounts.
fn directory(section: &str, slapd: &Slapd, user_base: &str) -> String {
    format!(
        r#"[{section}.ldap]
schema  = "generic"
servers = ["ldaps://127.0.0.1:{port}"]
ca      = ["{ca}"]
bind_dn = "{READER}"
secret  = "file:directory.secret"
timeout_s = 20
[{section}.ldap.generic]
user_base = "{user_base}"
group_base = "{GROUPS}"
user_class = "posixAccount"
group_class = "posixGroup"
name = "uid"
number = "uidNumber"
primary_group = "gidNumber"
user_principal_name = "userPrincipalName"
mapping = "altSecurityIdentities"
mail = "mail"
group_name = "cn"
group_number = "gidNumber"
membership = "member"
membership_attribute = "member"
user_rids = {{ first = 1000, last = 9999, rid = 100000 }}
group_rids = {{ first = 500, last = 9999, rid = 200000 }}
state = ["nsAccountLock"]
"#,
        port = slapd.ldaps,
        ca = slapd.path("ca.pem").display(),
    )
}

/// A service with this `[store]` and machines beside it.
fn demo(store: &str) -> Demo {
    let demo = Demo::new();
    write_secret(demo.path("directory.secret"), SECRET);
    demo.edit(|text| {
        let (before, rest) = text.split_once("[store]").expect("there is a store");
        let (_, rest) = rest.split_once("[channels]").expect("there are machines");
        let after = &rest[rest.find("\n[").expect("there is more")..];
        format!("{before}{store}[channels]\nstore = \"sqlite\"\npath = \"accounts.db\"\n{after}")
    });
    demo
}

pub(crate) fn of_directory(slapd: &Slapd) -> Demo {
    demo(&format!("[store]\nkind = \"ldap\"\n{}", directory("store", slapd, PEOPLE)))
}

/// What `rcmpd store verify --json` reports: what was read of the first store, and the findings of all.
pub(crate) fn reported(verified: &Finished) -> (Value, Vec<String>) {
    let verified = verified.json();
    let text = |finding: &Value| {
        let part = |name: &str| finding[name].as_str().expect("text").to_owned();
        format!("{}: {}: {}", part("store"), part("what"), part("text"))
    };
    let findings = verified["findings"].as_array().expect("a list").iter().map(text).collect();
    (verified["read"][0].clone(), findings)
}

pub(crate) fn verify(demo: &Demo, names: &[&str], code: i32) -> (Value, Vec<String>) {
    reported(&demo.rcmpd(&[&["store", "verify"], names, &["--json", "-c", "rcmpd.toml"]].concat()).code(code))
}

#[track_caller]
fn has(findings: &[String], parts: &[&str]) {
    let is_it = |finding: &&String| parts.iter().all(|part| finding.contains(part));
    assert_eq!(findings.iter().filter(is_it).count(), 1, "{parts:?} once in {findings:#?}");
}

fn dn(uid: &str) -> String {
    format!("uid={uid},{PEOPLE}")
}

/// More accounts than any limit of a search, which pages are not bound by.
#[test]
fn a_whole_directory_is_read_page_by_page_and_a_sound_one_has_no_findings() {
    let mut entries = group("users", 1000, &[]);
    for n in 0..1203 {
        let upn = format!("user{n}@contoso.example");
        entries += &account(&format!("user{n}"), 1001 + n, &[("userPrincipalName", &upn)]);
    }
    let paged = "sizelimit size.soft=100 size.hard=100 size.prtotal=unlimited";
    let slapd = Slapd::with(&entries, &Options { global: paged, ..Options::default() });
    let (read, findings) = verify(&of_directory(&slapd), &[], 0);
    assert_eq!((&read["accounts"], &read["groups"]), (&1203.into(), &1.into()), "{read}");
    assert_eq!(findings, Vec::<String>::new());
    drop(slapd);
    // A limit over all pages is told, and what was read before it is looked at.
    let slapd =
        Slapd::with(&entries, &Options { global: "sizelimit size.prtotal=700", ..Options::default() });
    let (read, findings) = verify(&of_directory(&slapd), &[], 3);
    assert_eq!(read["groups"], 1, "{read}");
    assert!(read["accounts"].as_u64().is_some_and(|read| (1..=700).contains(&read)), "{read}");
    has(&findings, &["store: unread: ou=people,", "sizeLimitExceeded (4)", "size.prtotal=unlimited"]);
}

#[test]
fn names_numbers_mappings_and_addresses_of_several_entries_are_found() {
    let mapping = |issuer: &str| format!("X509:<I>O=Contoso,CN={issuer}<SR>0504030201");
    let own = format!("ou=own,{GROUPS}");
    let slapd = Slapd::start(
        &[
            account("alice", 1001, &[("altSecurityIdentities", &mapping("C\u{f4}ntoso CA"))]),
            account("bob", 1002, &[("altSecurityIdentities", &mapping("Contoso CA"))]),
            account(
                "carol",
                1003,
                &[("userPrincipalName", "carol@x"), ("mail", "carol@x"), ("mail", "team@x")],
            ),
            account("dave", 1004, &[("userPrincipalName", "Carol@X"), ("mail", "Team@x")]),
            account("same1", 1005, &[]),
            account("same2", 1005, &[]),
            account("low", 500, &[]),
            account("high", 4_000_000, &[]),
            entry(&own, &[("objectClass", "organizationalUnit"), ("ou", "own")]),
            group("users", 1000, &[]),
            group("admins", 1100, &[]),
            entry(
                &format!("cn=Admins,{own}"),
                &[("objectClass", "posixGroup"), ("cn", "Admins"), ("gidNumber", "1101")],
            ),
            group("double1", 1200, &[]),
            group("double2", 1200, &[]),
            group("far", 20_000, &[]),
        ]
        .concat(),
    );
    let (read, findings) = verify(&of_directory(&slapd), &[], 3);
    assert_eq!(read["accounts"], 8, "{read}");
    has(&findings, &["ambiguous: altSecurityIdentities", "ntoso CA<SR>0504030201: alice, bob"]);
    has(&findings, &["ambiguous: userPrincipalName", "carol, dave"]);
    has(&findings, &["shared address: e-mail address", "carol, dave"]);
    has(&findings, &["number: account same1, account same2 have the SID ", "-100005 together"]);
    has(&findings, &["number: group double1, group double2 have the SID ", "-200700 together"]);
    has(&findings, &["number: low: uidNumber is 500, which is out of the range"]);
    has(&findings, &["number: high: uidNumber is 4000000, which is out of the range"]);
    has(&findings, &["number: cn=far,", "gidNumber is 20000, which is out of the range"]);
    has(&findings, &["shared name: groups ", "admins (S-1-5-21-", "Admins (S-1-5-21-"]);
    assert_eq!(findings.len(), 9, "{findings:#?}");
}

/// `nsAccountLock` of bob alone may not be searched, and so it is not known whether he is barred.
#[test]
fn accounts_whose_state_may_not_be_read_are_named() {
    let entries =
        [account("alice", 1001, &[]), account("bob", 1002, &[]), group("users", 1000, &[])].concat();
    let access = format!(
        "access to attrs=userPassword by anonymous auth by * none
access to dn.exact=\"{}\" attrs=nsAccountLock by * none
access to * by dn.exact=\"{READER}\" read by * none",
        dn("bob"),
    );
    let slapd = Slapd::with(&entries, &Options { access: access.leak(), ..Options::default() });
    let demo = of_directory(&slapd);
    let (_, findings) = verify(&demo, &[], 3);
    has(&findings, &["store: unreadable: bob: nsAccountLock may not be searched by the store's account"]);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    // As a person reads it.
    let told = demo.rcmpd(&["store", "verify", "-c", "rcmpd.toml"]).code(3).stdout;
    let rows: Vec<_> = told.lines().map(|line| line.split_whitespace().take(4).collect::<Vec<_>>()).collect();
    assert_eq!(rows[0], ["STORE", "FAULT", "DETAILS"], "{told}");
    assert_eq!(rows[1], ["store", "unreadable", "bob:", "nsAccountLock"], "{told}");
    assert_eq!(told.lines().nth(2), Some("store: read 2 accounts, 1 group, 0 machine secrets"), "{told}");
}

#[test]
fn what_two_parts_of_several_stores_claim_is_found() {
    let elsewhere = "ou=more,dc=contoso,dc=example";
    let other = |uid: &str, number: u32, more: &[(&str, &str)]| {
        account(uid, number, more).replacen(
            account(uid, number, more).lines().next().expect("a name"),
            entry(&format!("uid={uid},{elsewhere}"), &[]).lines().next().expect("a name"),
            1,
        )
    };
    let mapping = "X509:<I>O=Contoso,CN=Contoso CA<SR>0504030201";
    let slapd = Slapd::start(
        &[
            account("alice", 1001, &[("userPrincipalName", "alice@contoso.example")]),
            account("bob", 1002, &[("altSecurityIdentities", mapping)]),
            account("erin", 1007, &[("userPrincipalName", "erin@routed.example")]),
            entry(elsewhere, &[("objectClass", "organizationalUnit"), ("ou", "more")]),
            other("ann", 1003, &[("userPrincipalName", "Alice@contoso.example")]),
            other("ben", 1002, &[("altSecurityIdentities", mapping)]),
            // Only the other part is asked for this suffix.
            other("eve", 1008, &[("userPrincipalName", "erin@routed.example")]),
            group("users", 1000, &[]),
        ]
        .concat(),
    );
    let part = |name: &str, base: &str, more: &str| {
        let part = format!("[[store.part]]\nname = \"{name}\"\nkind = \"ldap\"\n{more}");
        part + &directory("store.part", &slapd, base)
    };
    let store = format!(
        "[store]\nkind = \"several\"\n{}{}",
        part("people", PEOPLE, ""),
        part("more", elsewhere, "suffixes = [\"contoso.example\", \"routed.example\"]\n")
    );
    // Both parts are asked for all suffixes that no part names.
    let both = demo(&store.replace("suffixes = [\"contoso.example\", \"routed.example\"]\n", ""));
    let (read, findings) = verify(&both, &[], 3);
    assert_eq!((&read["store"], &read["accounts"]), (&"[[store.part]] people".into(), &3.into()), "{read}");
    has(&findings, &["store: ambiguous: userPrincipalName", "alice in people, ann in more"]);
    has(&findings, &["store: ambiguous: userPrincipalName", "erin in people, eve in more"]);
    has(&findings, &["store: ambiguous: altSecurityIdentities", "bob in people, ben in more"]);
    has(&findings, &["store: ambiguous: SID S-1-5-21-", "-100002: bob in people, ben in more"]);
    assert_eq!(findings.len(), 4, "{findings:#?}");
    let (_, findings) = verify(&demo(&store), &[], 3);
    has(&findings, &["store: ambiguous: altSecurityIdentities"]);
    has(&findings, &["store: ambiguous: SID S-1-5-21-"]);
    assert_eq!(findings.len(), 2, "the suffix says which part is asked: {findings:#?}");
}
