//! A service whose accounts are in OpenLDAP, as users and operators meet it.

use crate::sidecar::{ask_about, sidecar};
use rcmpd_tests::directory_store::{into_directory, into_directory_with};
use rcmpd_tests::slapd::{GROUPS, Options, PEOPLE, READER, SECRET, Slapd, entry};
use rcmpd_tests::{Demo, Service, eventually, write_secret};
use std::fs;
use std::time::{Duration, Instant};

fn alice() -> String {
    format!("uid=alice,{PEOPLE}")
}

/// A group at a place below the base of groups, with alice in it.
fn group(rdn: &str, cn: &str, number: u32, member: &str) -> String {
    let number = number.to_string();
    let attributes = [
        ("objectClass", "posixGroup"),
        ("objectClass", "memberGroup"),
        ("cn", cn),
        ("gidNumber", &number),
        ("member", member),
    ];
    entry(&format!("{rdn},{GROUPS}"), &attributes)
}

/// alice is in more groups than the server sends. A part of them is no answer.
#[test]
fn a_search_that_the_server_cuts_is_an_error_whose_code_is_told() {
    let demo = Demo::new();
    let groups: String =
        (0..6).map(|n| group(&format!("cn=g{n}"), &format!("g{n}"), 1100 + n, &alice())).collect();
    let options = Options { global: "sizelimit 5", ..Options::default() };
    let slapd = into_directory_with(&demo, &groups, "", &options);
    let explained = demo.rcmpd(&["explain", "certs/alice.pem", "-c", "rcmpd.toml"]).code(7);
    assert!(explained.stdout.contains("sizeLimitExceeded (4)"), "{explained:?}");
    let mut service = demo.serve();
    service.map("alice").code(7);
    service.wait_for_log("sizeLimitExceeded (4)");
    // With her primary group, five are left, and she is mapped with all of them.
    for gone in ["g0", "g1"] {
        slapd.modify(&format!("dn: cn={gone},{GROUPS}\nchangetype: delete\n"));
    }
    eventually("alice is mapped", || service.map("alice").code == 0);
    let mapped = service.map("alice").code(0).json();
    let rids = mapped["groups"].as_array().unwrap().iter().filter_map(|group| {
        let (domain, rid) = group["sid"].as_str()?.rsplit_once('-')?;
        (domain == service.domain_sid()).then(|| rid.to_owned())
    });
    let mut rids: Vec<_> = rids.collect();
    rids.sort();
    assert_eq!(rids, ["200000", "200102", "200103", "200104", "200105"], "{mapped:#}");
}

#[test]
fn a_route_for_a_name_that_two_groups_have_lets_in_nobody() {
    let demo = Demo::new();
    let unit =
        |ou: &str| entry(&format!("ou={ou},{GROUPS}"), &[("objectClass", "organizationalUnit"), ("ou", ou)]);
    let bob = format!("uid=bob,{PEOPLE}");
    let groups = [
        unit("a"),
        unit("b"),
        group("cn=admins,ou=a", "admins", 1001, &alice()),
        group("cn=admins,ou=b", "Admins", 1002, &bob),
        group("cn=web", "web", 1003, &alice()),
    ];
    let slapd = into_directory(&demo, &groups.concat(), "fresh_s = 1");
    let sid = demo.domain_sid();
    let route = |path: &str, of: &str| format!("[[sidecar.route]]\npath = \"{path}\"\n{of}\n");
    let routes = [
        route("/named", "groups = [\"admins\"]"),
        route("/sid", &format!("sids = [\"{sid}-200001\"]")),
        route("/other", &format!("sids = [\"{sid}-200002\"]")),
        route("/web", "groups = [\"web\"]"),
    ];
    let service = sidecar(demo, &routes.concat());
    let status = |path: &str| {
        let target = [("X-Original-Host", "app.example"), ("X-Original-URI", path)];
        ask_about(&service, "alice", &target).status
    };
    assert_eq!(["/named", "/sid", "/other", "/web"].map(status), [403, 200, 403, 200]);
    // The name is that of one group again.
    slapd.modify(&format!("dn: cn=admins,ou=b,{GROUPS}\nchangetype: delete\n"));
    eventually("the name counts", || status("/named") == 200);
}

/// No question that is asked later than the stated time after a change lets alice in.
#[track_caller]
fn refused_in_time(service: &Service, what: &str, change: impl FnOnce()) {
    let checked = service.rcmpd(&["check-config", "rcmpd.toml", "--json"]).code(0).json();
    let stated = Duration::from_secs(checked["refused_after"][0]["seconds"].as_u64().unwrap());
    eventually(&format!("alice is let in before: {what}"), || ask_about(service, "alice", &[]).status == 200);
    change();
    let changed = Instant::now();
    loop {
        let asked = Instant::now();
        match ask_about(service, "alice", &[]).status {
            403 => return,
            200 => assert!(asked <= changed + stated, "{what}: unknown after {stated:?}"),
            status => panic!("{what}: {status}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn each_preset_of_state_locks_alice_within_the_stated_time() {
    let demo = Demo::new();
    let options = Options { overlays: "overlay ppolicy", ..Options::default() };
    let slapd = into_directory_with(&demo, "", "fresh_s = 1", &options);
    let all = "state = [\"ppolicy\", \"nsAccountLock\", \"krbPrincipalExpiration\", \"shadowExpire\"]";
    demo.edit(|text| text.replace("state = [\"nsAccountLock\"]", all));
    let service = sidecar(demo, "");
    let change = |what: &str| slapd.modify(&format!("dn: {}\nchangetype: modify\n{what}\n", alice()));
    change("add: objectClass\nobjectClass: shadowAccount");
    for (attribute, value) in [
        ("pwdAccountLockedTime", "000001010000Z"),
        ("pwdAccountLockedTime", "20261130000000Z"),
        ("pwdEndTime", "20200101000000Z"),
        ("nsAccountLock", "TRUE"),
        ("krbPrincipalExpiration", "20200101000000Z"),
        ("shadowExpire", "1"),
    ] {
        refused_in_time(&service, attribute, || change(&format!("add: {attribute}\n{attribute}: {value}")));
        change(&format!("delete: {attribute}"));
    }
}

#[test]
fn a_directory_whose_locks_are_not_read_is_warned_of() {
    let demo = Demo::new();
    let _slapd = into_directory(&demo, "", "");
    let warning = "says that an account of the directory may not log on";
    let check = |demo: &Demo| demo.rcmpd(&["check-config", "rcmpd.toml", "--json"]).code(0).stdout;
    assert!(!check(&demo).contains(warning));
    demo.edit(|text| text.replace("state = [\"nsAccountLock\"]", "state = []"));
    assert!(check(&demo).contains(warning));
    let mut service = demo.serve();
    service.wait_for_lines(&["WARN", warning], 1);
}

/// Changes the password of the store's account. Connections end meanwhile: their rights are those of the bind.
fn set_password(slapd: &mut Slapd, password: &str) {
    slapd.modify(&format!(
        "dn: {READER}\nchangetype: modify\nreplace: userPassword\nuserPassword: {password}\n"
    ));
    slapd.stop();
    slapd.run();
}

#[test]
fn a_changed_password_is_used_by_the_service_that_runs() {
    let demo = Demo::new();
    let mut slapd = into_directory(&demo, "", "fresh_s = 1");
    let mut service = demo.serve();
    let secret = service.path("directory.secret");
    let next = service.path("directory.secret.next");
    let is_mapped = || match service.map("alice").code {
        0 => true,
        7 => false,
        code => panic!("{code}: an error of the store is no refusal"),
    };
    assert!(is_mapped());
    // As the documentation has it: beside the file, in the directory, in place.
    write_secret(&next, "second\n");
    set_password(&mut slapd, "second");
    eventually("the next password is used", is_mapped);
    fs::rename(&next, &secret).unwrap();
    set_password(&mut slapd, "second");
    eventually("it is used in its place", is_mapped);
    // The other way round: the directory has it first.
    set_password(&mut slapd, "third");
    eventually("the password is wrong", || !is_mapped());
    assert!(!fs::read_to_string(&secret).unwrap().contains("third"));
    write_secret(&secret, "third\n");
    eventually("it is used once it is there", is_mapped);
    service.wait_for_lines(&["store: bind: "], 1);
    let log = service.log();
    for password in ["second", "third", SECRET] {
        assert!(!log.contains(password), "{log}");
    }
}
