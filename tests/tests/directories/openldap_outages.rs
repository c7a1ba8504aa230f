//! Directories that stop, stand still and come back, under load. No answer is wrong, each error says that it
//! is the store's, and the store goes on by itself.

use super::openldap::{account, group};
use super::proxy::Proxy;
use super::{Opened, certificates, identity, ldaps, name, posix, settings};
use account_store::{AccountFlags, AccountStore, Matches, StoreError};
use rcmpd_tests::slapd::{Options, PEOPLE, SECRET, Slapd};
use rcmpd_tests::{eventually, eventually_within};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use store_ldap::{Refusals, Servers, Settings, TlsMode};

const TIMEOUT: Duration = Duration::from_secs(3);
/// A busy machine is slow, and not more wrong for it.
const SLACK: Duration = Duration::from_secs(20);

fn people() -> String {
    let people = (0..20).map(|n| account(&format!("user{n}"), 1000 + n, &[])).collect::<String>();
    people + &group("users", 1000, &[])
}

/// What the questions of a while were answered with.
#[derive(Debug, Default)]
struct Load {
    answered: AtomicUsize,
    failed: AtomicUsize,
    /// Questions whose asker left before the answer.
    left: AtomicUsize,
}

impl Load {
    /// The checker knows the truth: who has which SID, and who is not there.
    fn check(&self, who: u32, found: Result<Matches, StoreError>) {
        let is_there = who < 20;
        match found {
            Ok(Matches::One(record)) => {
                assert!(is_there && record.account.sid.split_rid().unwrap().1 == 100_000 + who);
                assert_eq!(record.account.name, format!("user{who}"));
                assert_eq!(record.memberships.len(), 1);
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Matches::None) => {
                assert!(!is_there, "user{who} is there");
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(StoreError::Unavailable(why)) => {
                assert!(why.starts_with("store: "), "{why}");
                self.failed.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
            other => panic!("user{who}: {other:?}"),
        }
    }
}

/// Asks from four threads while `during` runs.
fn under_load(opened: &Opened, during: impl FnOnce(&Load)) -> Load {
    let ask = |load: &Load, n: u32| {
        let who = n % 30;
        let begun = Instant::now();
        let found = opened.runtime.block_on(opened.store.find(&name(&format!("user{who}"))));
        assert!(begun.elapsed() < TIMEOUT + SLACK, "{:?}", begun.elapsed());
        load.check(who, found);
    };
    asked_by(4, ask, during)
}

/// Asks from so many threads, each of which counts in steps of seven, while `during` runs.
fn asked_by(threads: u32, ask: impl Fn(&Load, u32) + Sync, during: impl FnOnce(&Load)) -> Load {
    let (load, is_over) = (Load::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (load, is_over, ask) = (&load, &is_over, &ask);
            scope.spawn(move || {
                let mut n = thread;
                while !is_over.load(Ordering::Relaxed) {
                    n += 7;
                    ask(load, n);
                }
            });
        }
        // The threads end also if it panics.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| during(&load)));
        is_over.store(true, Ordering::Relaxed);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
    load
}

fn wait_for(counter: &AtomicUsize, what: &str) {
    let before = counter.load(Ordering::Relaxed);
    eventually(what, || counter.load(Ordering::Relaxed) > before + 20);
}

fn short(slapd: &Slapd) -> Settings {
    Settings { timeout: TIMEOUT, fresh: Duration::from_secs(1), ..settings(slapd, posix()) }
}

#[test]
fn a_directory_that_stops_or_stands_still_gives_errors_and_comes_back() {
    let mut slapd = Slapd::start(&people());
    let opened = Opened::of(short(&slapd));
    under_load(&opened, |load| {
        wait_for(&load.answered, "questions are answered");
        for round in 0..2 {
            if round == 0 {
                slapd.stop()
            } else {
                slapd.signal("STOP")
            }
            wait_for(&load.failed, "questions fail");
            eventually("cached decisions are not used", || opened.store.revision().is_err());
            if round == 0 {
                slapd.run()
            } else {
                slapd.signal("CONT")
            }
            wait_for(&load.answered, "questions are answered again");
            eventually("the store can be used", || opened.store.revision().is_ok());
        }
    });
}

#[test]
fn cancelled_questions_under_load_give_no_answer_to_another_one() {
    let mut slapd = Slapd::start(&people());
    let opened = Opened::of(short(&slapd));
    let random = |below: u32| getrandom::u32().expect("the system has randomness") % below;
    let ask = |load: &Load, n: u32| {
        let who = random(30);
        let sid = account_store::battery::domain().sid.with_rid(100_000 + who).expect("room for a RID");
        let query = if random(2) == 0 { name(&format!("user{who}")) } else { account_store::Query::Sid(sid) };
        let time = Duration::from_micros(u64::from(random(4000)));
        let find = opened.store.find(&query);
        // Every second asker may leave before the answer.
        let found = opened.runtime.block_on(async {
            match n % 2 == 1 {
                true => tokio::time::timeout(time, find).await,
                false => Ok(find.await),
            }
        });
        match found {
            Ok(found) => load.check(who, found),
            Err(_) => {
                load.left.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    asked_by(8, ask, |load| {
        let enough = || {
            wait_for(&load.left, "askers leave");
            (0..10).for_each(|_| wait_for(&load.answered, "questions are answered"));
        };
        enough();
        slapd.stop();
        wait_for(&load.failed, "questions fail");
        slapd.run();
        wait_for(&load.answered, "questions are answered again");
        enough();
    });
    assert_eq!(opened.one(name("user1")).account.name, "user1");
}

#[test]
fn a_directory_behind_a_black_hole_gives_errors_and_comes_back() {
    let slapd = Slapd::start(&people());
    let proxy = Proxy::start(slapd.ldaps);
    let mut behind = short(&slapd);
    behind.servers = Servers::Listed(vec![ldaps(proxy.port)]);
    let opened = Opened::of(behind);
    under_load(&opened, |load| {
        wait_for(&load.answered, "questions are answered");
        proxy.stand_still(true);
        wait_for(&load.failed, "questions fail");
        proxy.stand_still(false);
        wait_for(&load.answered, "questions are answered again");
    });
}

#[test]
fn while_one_server_is_left_no_question_fails() {
    let (mut first, second) = (Slapd::start(&people()), Slapd::start(&people()));
    let mut both = short(&first);
    // Half of the time is for the second server, whatever the first one does.
    both.timeout = Duration::from_secs(20);
    let proxy = Proxy::start(first.ldaps);
    both.servers = Servers::Listed(vec![ldaps(proxy.port), ldaps(second.ldaps)]);
    both.ca.extend(certificates(&second.path("ca.pem")));
    let opened = Opened::of(both);
    let load = under_load(&opened, |load| {
        wait_for(&load.answered, "questions are answered");
        first.stop();
        wait_for(&load.answered, "questions are answered by the second server");
        first.run();
        wait_for(&load.answered, "questions are answered");
        first.signal("STOP");
        wait_for(&load.answered, "questions are answered by the second server");
        first.signal("CONT");
        wait_for(&load.answered, "questions are answered");
        // As if each packet were dropped.
        proxy.stand_still(true);
        wait_for(&load.answered, "questions are answered by the second server");
        proxy.stand_still(false);
        wait_for(&load.answered, "questions are answered");
    });
    assert_eq!(load.failed.load(Ordering::Relaxed), 0);
}

/// One question after the other finds its connection idle each time, so none is opened for it.
#[test]
fn the_first_server_is_used_again_within_a_minute_after_it_works() {
    let alice = |mail| people() + &account("alice", 1999, &[("mail", mail)]);
    let (mut first, second) =
        (Slapd::start(&alice("first@contoso.example")), Slapd::start(&alice("second@contoso.example")));
    let mut both = settings(&first, posix());
    both.fresh = Duration::from_secs(600);
    both.servers = Servers::Listed(vec![ldaps(first.ldaps), ldaps(second.ldaps)]);
    both.ca.extend(certificates(&second.path("ca.pem")));
    let opened = Opened::of(both);
    let is_first = || opened.one(name("alice")).account.profile.mail.starts_with("first");
    assert!(is_first());
    first.stop();
    assert!(!is_first(), "the second server answers");
    first.run();
    let works = Instant::now();
    eventually_within(Duration::from_secs(90), "the first server answers", is_first);
    assert!(works.elapsed() < Duration::from_secs(60) + SLACK, "{:?}", works.elapsed());
}

#[test]
fn a_server_that_lags_undoes_no_refusal_of_the_one_before() {
    let mapping = "X509:<SKI>0a0b";
    let people = ["carol", "dave", "erin"].map(|uid| {
        let number = 2000 + u32::from(uid.as_bytes()[0]);
        account(uid, number, &[("altSecurityIdentities", &format!("{mapping}{}0", &uid[..1]))])
    });
    let people = people.concat() + &group("users", 1000, &[]);
    let (mut first, second) = (Slapd::start(&people), Slapd::start(&people));
    let mut both = short(&first);
    both.timeout = Duration::from_secs(20);
    both.servers = Servers::Listed(vec![ldaps(first.ldaps), ldaps(second.ldaps)]);
    both.ca.extend(certificates(&second.path("ca.pem")));
    let opened = Opened::of(both.clone());
    let of = |uid: &str| identity(&format!("{mapping}{}0", &uid[..1]));
    let is_usable_in = |opened: &Opened, uid: &str| match opened.find(of(uid)).unwrap() {
        Matches::One(record) => !record.account.flags.contains(AccountFlags::DISABLED),
        _ => false,
    };
    let is_usable = |uid: &str| is_usable_in(&opened, uid);
    assert!(["carol", "dave", "erin"].iter().all(|uid| is_usable(uid)));
    let change = |uid: &str, what: &str| format!("dn: uid={uid},{PEOPLE}\nchangetype: modify\n{what}\n\n");
    first.modify(&change("carol", "add: nsAccountLock\nnsAccountLock: TRUE"));
    first.modify(&change("dave", "delete: altSecurityIdentities"));
    assert!(!is_usable("carol") && !is_usable("dave") && is_usable("erin"));
    // The second server has not heard of it.
    first.stop();
    assert!(is_usable("erin"));
    assert!(!is_usable("carol") && !is_usable("dave"));
    assert!(opened.one(name("carol")).account.flags.contains(AccountFlags::DISABLED), "by whatever name");
    // After a reload there is another store, which gets the refusals of the one before.
    let reloaded = Opened::of(both.clone());
    assert!(is_usable_in(&reloaded, "erin"));
    assert!(!is_usable_in(&reloaded, "carol") && !is_usable_in(&reloaded, "dave"));
    let of_another_directory = Opened::of(Settings { refusals: Refusals::default(), ..both });
    assert!(is_usable_in(&of_another_directory, "carol") && is_usable_in(&of_another_directory, "dave"));
    // The first one takes its word back.
    first.run();
    first.modify(&change("carol", "delete: nsAccountLock"));
    eventually("carol is enabled again", || is_usable("carol"));
    assert!(!is_usable("dave"));
}

#[test]
fn idle_connections_that_the_server_closes_are_replaced() {
    let slapd = Slapd::with(&people(), &Options { global: "idletimeout 1", ..Options::default() });
    let opened = Opened::of(settings(&slapd, posix()));
    for _ in 0..3 {
        let before = opened.meter.connections();
        opened.one(name("user1"));
        let failures = || opened.meter.failures().map(|(_, count)| count).sum::<u64>();
        assert_eq!(failures(), 0);
        // slapd closes it after a second.
        std::thread::sleep(Duration::from_millis(2500));
        opened.one(name("user1"));
        assert!(opened.meter.connections() > before);
    }
}

#[test]
fn the_secret_is_in_no_capture_of_a_failing_connection() {
    let contains = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
    for (subject_alt_name, tls, own_ca) in [
        ("", TlsMode::Ldaps, true),
        ("", TlsMode::StartTls, true),
        ("DNS:other.example", TlsMode::Ldaps, true),
        ("IP:127.0.0.1", TlsMode::Ldaps, false),
        ("IP:127.0.0.1", TlsMode::StartTls, false),
    ] {
        let slapd = Slapd::with(&people(), &Options { subject_alt_name, ..Options::default() });
        let proxy = Proxy::start(if tls == TlsMode::Ldaps { slapd.ldaps } else { slapd.ldap });
        let mut failing = short(&slapd);
        failing.servers = Servers::Listed(vec![store_ldap::Server { tls, ..ldaps(proxy.port) }]);
        let other = tempfile::tempdir().unwrap();
        if !own_ca {
            rcmpd_tests::slapd::certificates(other.path(), "");
            failing.ca = certificates(&other.path().join("ca.pem"));
        }
        Opened::of(failing).fails(name("user1"), "store: tls: ");
        let sent = proxy.sent();
        assert!(!sent.is_empty() && !contains(&sent, SECRET) && !contains(&sent, "cn=rcmpd"));
    }
    // A server that refuses StartTLS; and one that sends bytes before TLS.
    let slapd = Slapd::start(&people());
    for (answer, why) in [
        (&b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x35\x04\x00\x04\x00"[..], "StartTLS: the server refuses it"),
        (b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00\x30\x0c\x02\x01\x02\x61\x07\x0a\x01\x00\x04\x00\x04\x00", "bytes before TLS"),
        (b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00", "another operation"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no LDAP message"),
        (b"\x30\x84\xff\xff\xff\xff", "more than 1 MiB"),
    ] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let rest = Arc::new(Mutex::new(Vec::new()));
        let recorded = Arc::clone(&rest);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 31];
                stream.read_exact(&mut request).unwrap();
                stream.write_all(answer).unwrap();
                let mut more = Vec::new();
                let _ = stream.read_to_end(&mut more);
                recorded.lock().unwrap().extend(more);
            }
        });
        let mut failing = short(&slapd);
        failing.servers = Servers::Listed(vec![store_ldap::Server { tls: TlsMode::StartTls, ..ldaps(port) }]);
        let opened = Opened::of(failing);
        opened.fails(name("user1"), why);
        drop(opened);
        assert_eq!(*rest.lock().unwrap(), b"", "{why}: nothing is sent after it");
    }
}
