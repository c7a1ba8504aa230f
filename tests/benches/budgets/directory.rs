//! Look-ups in OpenLDAP: what they cost this process, and what they cost slapd.

use crate::cpu_ns;
use crate::table::Table;
use account_store::{AccountStore, CacheSettings, CachedStore, Matches, Query};
use rcmpd_tests::directory_store;
use rcmpd_tests::slapd::{GROUPS, Options, PEOPLE, Slapd, entry};
use std::sync::Arc;
use std::time::{Duration, Instant};
use store_ldap::{GenericSettings, LdapStore, RidRange, Settings};

const PEOPLE_COUNT: u32 = 100_000;
const GROUPS_COUNT: u32 = 1_000;
const GROUPS_EACH: u32 = 4;
const LOOK_UPS: u32 = 10_000;
const AT_ONCE: u32 = 8;

fn dn(person: u32) -> String {
    format!("uid=user{person:06},{PEOPLE}")
}

/// By issuer and serial number. Serial numbers are random, as those of a CA are.
fn mapping(person: u32) -> String {
    let serial = u64::from(person + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("X509:<I>O=Contoso,CN=Contoso CA<SR>{serial:016x}a5")
}

/// People with a mapping, each in four groups.
fn entries() -> String {
    let mut members = vec![Vec::new(); GROUPS_COUNT as usize];
    let mut text = String::new();
    for person in 0..PEOPLE_COUNT {
        let uid = format!("user{person:06}");
        text += &entry(
            &dn(person),
            &[
                ("objectClass", "inetOrgPerson"),
                ("objectClass", "posixAccount"),
                ("objectClass", "mappedAccount"),
                ("cn", &uid),
                ("sn", &uid),
                ("uid", &uid),
                ("homeDirectory", "/"),
                ("uidNumber", &(1_000_000 + person).to_string()),
                ("gidNumber", "1000"),
                ("altSecurityIdentities", &mapping(person)),
            ],
        );
        for n in 0..GROUPS_EACH {
            members[((person.wrapping_mul(31) + n * 257) % GROUPS_COUNT) as usize].push(dn(person));
        }
    }
    for (group, members) in members.iter().enumerate() {
        let (cn, number) = (format!("group{group}"), (1000 + group).to_string());
        let mut attributes = vec![
            ("objectClass", "posixGroup"),
            ("objectClass", "memberGroup"),
            ("cn", cn.as_str()),
            ("gidNumber", number.as_str()),
        ];
        attributes.extend(members.iter().map(|member| ("member", member.as_str())));
        text += &entry(&format!("cn={cn},{GROUPS}"), &attributes);
    }
    text
}

fn settings(slapd: &Slapd) -> Settings {
    let generic = GenericSettings {
        user_rids: RidRange { first: 1_000_000, last: 1_999_999, rid: 1_000_000 },
        group_rids: RidRange { first: 500, last: 9999, rid: 10_000 },
        ..directory_store::posix()
    };
    Settings {
        timeout: Duration::from_secs(60),
        connections_max: AT_ONCE as usize,
        ..directory_store::settings(slapd, generic)
    }
}

/// Looks people up that were not looked up before, several at once. Each has its groups.
async fn look_ups(store: &Arc<LdapStore>, first: u32) {
    let each = (0..AT_ONCE).map(|lane| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            for n in (lane..LOOK_UPS).step_by(AT_ONCE as usize) {
                let person = (first + n).wrapping_mul(7_919) % PEOPLE_COUNT;
                let found = store.find(&Query::AltSecurityIdentity(mapping(person))).await;
                let Ok(Matches::One(record)) = found else { panic!("{person}: {found:?}") };
                assert!(record.memberships.len() > GROUPS_EACH as usize - 1, "{record:?}");
            }
        })
    });
    for lane in each.collect::<Vec<_>>() {
        lane.await.unwrap();
    }
}

pub(crate) async fn measure(table: &mut Table) {
    let started = Instant::now();
    let access = "access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact=\"cn=rcmpd,dc=contoso,dc=example\" read by * none
maxsize 4294967296";
    let slapd = Slapd::with(&entries(), &Options { access, ..Options::default() });
    eprintln!("{PEOPLE_COUNT} people in slapd in {:.1} s", started.elapsed().as_secs_f64());
    let store = Arc::new(LdapStore::open(settings(&slapd)).unwrap());
    // Connections, and slapd's caches.
    look_ups(&store, 0).await;
    let own = std::process::id();
    let (mut ours, mut theirs) = (f64::INFINITY, f64::INFINITY);
    for run in 1..=crate::RUNS as u32 {
        let before = (cpu_ns(own, ""), cpu_ns(slapd.pid(), ""));
        look_ups(&store, run * LOOK_UPS).await;
        let each = |now: u64, before: u64| (now - before) as f64 / 1000.0 / f64::from(LOOK_UPS);
        ours = ours.min(each(cpu_ns(own, ""), before.0));
        theirs = theirs.min(each(cpu_ns(slapd.pid(), ""), before.1));
    }
    let what = format!("look-up in slapd, cold, with groups, {PEOPLE_COUNT} accounts");
    table.row(&format!("{what}, our processor time"), ours, "µs", Some(100.0));
    table.row(&format!("{what}, slapd's"), theirs, "µs", None);

    let cache =
        CacheSettings { bytes: 64 << 20, ttl: Duration::from_secs(600), stale_if_error: Duration::ZERO };
    let cached = CachedStore::new(store, cache);
    let query = Query::AltSecurityIdentity(mapping(7));
    let rounds = 100_000;
    assert!(matches!(cached.find(&query).await, Ok(Matches::One(_))));
    let started = Instant::now();
    for _ in 0..rounds {
        assert!(matches!(cached.find(&query).await, Ok(Matches::One(_))));
    }
    let each = started.elapsed().as_secs_f64() * 1e6 / f64::from(rounds);
    table.row("look-up in slapd, cached", each, "µs", Some(1.0));
}
