//! How long a change in a store is unknown at a web server: at most the time that `rcmpd check-config` says.

use rcmpd_tests::directory_store::into_directory;
use rcmpd_tests::postgres::Postgres;
use rcmpd_tests::slapd::{GROUPS, PEOPLE, Slapd, entry};
use rcmpd_tests::web::{Site, WebServer, values};
use rcmpd_tests::{Demo, eventually};
use std::cell::OnceCell;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// After how long a disabled account is refused, as the program says.
fn stated(site: &Site) -> Duration {
    let checked = site.service.rcmpd(&["check-config", "rcmpd.toml", "--json"]).code(0).json();
    let times = checked["refused_after"].as_array().expect("a list");
    let own = times.iter().find(|time| time["accounts"] == "this domain").expect("our own accounts");
    Duration::from_secs(own["seconds"].as_u64().expect("a number"))
}

/// No question that is asked later than the stated time after a change is answered as before it.
#[track_caller]
fn counts_in_time(site: &Site, what: &str, is_as_before: impl Fn() -> bool, change: impl FnOnce()) {
    let stated = stated(site);
    // It is cached.
    assert!(is_as_before(), "{what}: {}", site.service.log());
    change();
    let changed = Instant::now();
    loop {
        let asked = Instant::now();
        if !is_as_before() {
            return;
        }
        assert!(asked <= changed + stated, "{what}: unknown after {stated:?}\n{}", site.service.log());
        sleep(Duration::from_millis(50));
    }
}

fn is_mapped(site: &Site) -> bool {
    match site.get(Some("alice"), "/", &[]).0 {
        200 => true,
        403 => false,
        status => panic!("{status}: {}", site.service.log()),
    }
}

fn member_group(cn: &str, number: &str, member: &str) -> String {
    let class = |class| ("objectClass", class);
    let attributes =
        [class("posixGroup"), class("memberGroup"), ("cn", cn), ("gidNumber", number), ("member", member)];
    entry(&format!("cn={cn},{GROUPS}"), &attributes)
}

/// A directory tells of no change: neither of one at the account, nor of one at a group that it is in by another.
#[test]
fn changes_in_openldap_count_at_nginx_within_the_stated_time() {
    let (alice, staff) = (format!("uid=alice,{PEOPLE}"), format!("cn=staff,{GROUPS}"));
    let nested = [member_group("staff", "1001", &alice), member_group("web", "1002", &staff)].concat();
    let slapd: OnceCell<Slapd> = OnceCell::new();
    let site = Site::start_in(WebServer::Nginx, "", &|demo: &Demo| {
        assert!(slapd.set(into_directory(demo, &nested, "fresh_s = 2")).is_ok());
    });
    let slapd = slapd.get().expect("it was started");
    let is_in_web = || {
        let page = site.page(Some("alice"), "/", &[]);
        values(&page, "Remote-Groups")[0].split(',').any(|group| group == "web")
    };
    counts_in_time(&site, "a nested group", is_in_web, || {
        slapd.modify(&format!("dn: cn=web,{GROUPS}\nchangetype: modify\ndelete: member\nmember: {staff}\n"));
    });
    counts_in_time(
        &site,
        "a lock",
        || is_mapped(&site),
        || {
            slapd.modify(&format!(
                "dn: {alice}\nchangetype: modify\nadd: nsAccountLock\nnsAccountLock: true\n"
            ));
        },
    );
}

/// The command that an operator has for it ends alice's rights.
fn disabled_alice_counts_in_time(site: &Site) {
    counts_in_time(
        site,
        "a disabled account",
        || is_mapped(site),
        || {
            site.service.rcmpd(&["account", "set", "--disable", "-c", "rcmpd.toml", "--", "alice"]).code(0);
        },
    );
}

#[test]
fn changes_in_postgresql_count_at_nginx_within_the_stated_time() {
    let server = Postgres::start();
    let site = Site::start_in(WebServer::Nginx, "", &|demo: &Demo| demo.move_into_postgres(&server, ""));
    disabled_alice_counts_in_time(&site);
}

/// A replica that answers, and that has not heard of any change since: it is not asked for what may be older.
#[test]
fn changes_in_postgresql_count_at_nginx_in_time_while_a_replica_stands_still() {
    let primary = Postgres::start();
    let standby: OnceCell<Postgres> = OnceCell::new();
    let site = Site::start_in(WebServer::Nginx, "", &|demo: &Demo| {
        demo.move_into_postgres(&primary, "");
        assert!(standby.set(primary.standby()).is_ok());
        let replicas = format!("replicas = [\"{}\"]\n", standby.get().expect("it was started").address());
        demo.edit(|text| text.replace("[store.postgres]\n", &format!("[store.postgres]\n{replicas}")));
    });
    let standby = standby.get().expect("it was started");
    assert!(is_mapped(&site));
    standby.sql("SELECT pg_wal_replay_pause()");
    eventually("the replay is paused", || standby.sql("SELECT pg_get_wal_replay_pause_state()") == "paused");
    let flags = "SELECT flags FROM rcmpd.account WHERE name_key = 'alice'";
    let before = standby.sql(flags);
    disabled_alice_counts_in_time(&site);
    assert_eq!(standby.sql(flags), before, "the replica has not heard of it");
    assert_ne!(primary.sql(flags), before);
}
