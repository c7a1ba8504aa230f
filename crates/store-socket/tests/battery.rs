//! What every store keeps, over the example in Python; and what only a program of its own can show.

mod common;

use account_store::battery::domain;
use account_store::{
    Account, AccountStore, CacheSettings, CachedStore, GroupScope, Matches, Membership, Query, Record,
    StoreError,
};
use common::{Program, export, open, runtime, settings};
use std::sync::Arc;
use std::time::{Duration, Instant};
use store_socket::{Settings, SocketStore};

account_store::read_only_store_battery!(|records: &[Record]| {
    let program = Program::start(&export(records));
    // Futures are polled outside of it, so it must not be dropped by a panic there.
    let runtime = Box::leak(Box::new(runtime()));
    (open(runtime, settings(&program.socket())), program)
});

fn record(rid: u32, groups: u32) -> Record {
    let sid = |rid| domain().sid.with_rid(rid).expect("room for a RID");
    let mut account = Account::new(format!("user{rid}"), sid(rid));
    account.user_principal_name = Some(format!("user{rid}@contoso.com"));
    account.alt_security_identities = vec![format!("X509:<I>CN=CA<SR>{rid:08x}")];
    let group = |rid, name| Membership { sid: sid(rid), name, scope: GroupScope::Global };
    let groups =
        (0..groups).map(|number| group(100_000 + number, Some(format!("A group with a name {number}"))));
    let memberships = [group(513, Some("Domain Users".to_owned()))].into_iter().chain(groups).collect();
    Record { account, memberships }
}

fn upn(rid: u32) -> Query {
    Query::UserPrincipalName(format!("user{rid}@contoso.com"))
}

#[test]
fn five_thousand_groups_come_whole_and_one_more_is_an_error() {
    let (most, more) = (record(2000, 4999), record(2001, 5000));
    let program = Program::start(&export(&[most.clone(), more]));
    let runtime = runtime();
    let store = open(&runtime, settings(&program.socket()));
    let found = runtime.block_on(store.find(&upn(2000))).expect("the program answers");
    assert_eq!(found, Matches::One(most.into()));
    let refused = runtime.block_on(store.find(&upn(2001))).expect_err("too many groups").to_string();
    assert!(refused.contains("store: protocol") && refused.contains("more than 5000"), "{refused}");
}

/// Pairs of a stored value and a question, which are equal here: the program has to find the one by the
/// other.
#[test]
fn spellings_that_are_equal_here_are_found_there() {
    let pairs = [
        ("X509:<S>CN=Jos\u{e9}", "X509:<S>CN=jose"),
        ("X509:<S>CN=Jose\u{301} L", "X509:<S>CN=\u{ff2a}\u{ff2f}\u{ff33}\u{ff25} l"),
        (
            "X509:<I>O=Contoso,CN=C\u{f4}ntoso CA<SR>0504030201",
            "X509:<I>O=Contoso,CN=Contoso CA<SR>0504030201",
        ),
        ("x509: <I>dc=COM, dc=Contoso <SR>0A 0B 00", "X509:<I>DC=com,DC=contoso<SR>0a0b"),
        ("X509:<S>CN=Alice Smith<I>CN=CA", "X509:<I>CN=CA<S>CN=Alice\u{a0}Smith"),
        ("X509:<S>CN=\u{3072}\u{3089}", "X509:<S>CN=\u{30d2}\u{30e9}"),
        ("X509:<S>CN=\u{ff8b}\u{ff97}\u{ff8b}", "X509:<S>CN=\u{3072}\u{3089}\u{3072}"),
        (r#"X509:<I>O="Contoso, Ltd.",CN=a<S>CN=b"#, r#"X509:<I>O="contoso, ltd.",CN=A<S>CN=B"#),
        (r#"X509:<S>CN="say ""hi""""#, r#"X509:<S>CN="SAY ""HI""""#),
        ("X509:<S>CN=a + OU=b,O=x", "X509:<S>OU=B+CN=A,O=X"),
        ("X509:<S>Phone=49 30 1,CN=a", "X509:<S>OID.2.5.4.20=49 30 1,CN=a"),
        ("X509:<S>S=Bavaria,E=a@b.c", "X509:<S>ST=Bavaria,emailAddress=A@B.C"),
        ("X509:<S>OU=a\u{ad}b", "X509:<S>OU=ab"),
        ("X509:<S>OU=a\u{3164}c", "X509:<S>OU=ac"),
        ("X509:<S>CN=Stra\u{df}e", "X509:<S>CN=STRA\u{df}E"),
        ("X509:<RFC822>m\u{fc}ller@contoso.com", "X509:<RFC822>muller@contoso.com"),
        ("X509:<SKI>0B6993F12D", "X509:<SKI>0b6993f12d"),
        ("X509:<I>CN=\u{c9}<SID>s-1-5-21-1-2-3-1013", "X509:<I>CN=E<SID>S-1-5-21-1-2-3-1013"),
        ("X509:<I>CN=#0403AbCd", "X509:<I>CN=#0403abcd"),
    ];
    let mut records: Vec<_> = (2000..).take(pairs.len()).map(|rid| record(rid, 0)).collect();
    // Many with one issuer and other subjects are no candidates.
    records.extend((3000..3200).map(|rid| record(rid, 0)));
    for (record, (stored, _)) in records.iter_mut().zip(pairs) {
        record.account.alt_security_identities = vec![stored.to_owned()];
    }
    for record in &mut records[pairs.len()..] {
        let subject = format!("X509:<I>CN=CA<S>CN=Alice Smith-{}", record.account.name);
        record.account.alt_security_identities = vec![subject];
    }
    let program = Program::start(&export(&records));
    let runtime = runtime();
    let store = open(&runtime, settings(&program.socket()));
    for (record, (stored, asked)) in records.iter().zip(pairs) {
        let found = runtime.block_on(store.find(&Query::AltSecurityIdentity(asked.to_owned())));
        // "Alice Smith" is a part of 200 other names, so not all candidates can be sent.
        match stored.contains("Alice Smith") {
            true => assert!(matches!(found, Ok(Matches::Many(_))), "{found:?}"),
            false => {
                assert_eq!(found.expect("it is an answer"), Matches::One(record.clone().into()), "{stored}")
            }
        }
    }
}

#[test]
fn input_that_no_account_has_is_never_sent() {
    let program = Program::start(&export(&[record(2000, 0)]));
    let runtime = runtime();
    let settings = settings(&program.socket());
    let meter = Arc::clone(&settings.meter);
    let store = open(&runtime, settings);
    for number in 0..1000 {
        for text in [format!("user2000@contoso.com\0{number}"), "a".repeat(4097 + number), String::new()] {
            for query in [Query::UserPrincipalName(text.clone()), Query::AltSecurityIdentity(text)] {
                assert_eq!(runtime.block_on(store.find(&query)).expect("it is an answer"), Matches::None);
            }
        }
    }
    assert_eq!((meter.questions(), meter.failures().map(|(_, count)| count).sum::<u64>()), (0, 0));
    assert!(matches!(runtime.block_on(store.find(&upn(2000))), Ok(Matches::One(_))));
}

/// Waits for what happens within a second or so.
fn eventually(what: &str, mut is_there: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_there() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_change_in_the_file_ends_cached_answers_and_a_file_that_is_cut_is_an_error() {
    let program = Program::start(&export(&[record(2000, 0)]));
    let runtime = runtime();
    let store = Arc::new(open(&runtime, settings(&program.socket())));
    let hour = Duration::from_secs(3600);
    let cache = CacheSettings { bytes: 1 << 20, ttl: hour, stale_if_error: Duration::ZERO };
    let cached = CachedStore::new(Arc::clone(&store) as _, cache);
    let find = |rid| runtime.block_on(cached.find(&upn(rid)));
    assert!(matches!(find(2000), Ok(Matches::One(_))));
    assert_eq!(find(2001).expect("it is an answer"), Matches::None);
    let replace = |lines: &[u8]| {
        let path = program.folder.path().join("accounts.jsonl");
        std::fs::write(path.with_extension("new"), lines).expect("it is writable");
        std::fs::rename(path.with_extension("new"), path).expect("it is writable");
    };
    let lines = export(&[record(2001, 1)]);
    replace(&lines);
    eventually("the account is there", || matches!(find(2001), Ok(Matches::One(_))));
    eventually("the account is gone", || find(2000).is_ok_and(|found| found == Matches::None));
    replace(&lines[..lines.len() - 20]);
    eventually("the file is an error", || {
        let error = runtime.block_on(store.find(&upn(2001))).err();
        error.is_some_and(|error| error.to_string().contains("store: program: the accounts cannot be read"))
    });
}

#[test]
fn a_program_that_stops_ends_or_returns_is_an_error_meanwhile() {
    let mut program = Program::start(&export(&[record(2000, 0)]));
    let runtime = runtime();
    let short = Duration::from_millis(400);
    let store = open(&runtime, Settings { timeout: short, fresh: short, ..settings(&program.socket()) });
    let find = || runtime.block_on(store.find(&upn(2000)));
    let is_found = || matches!(find(), Ok(Matches::One(_)));
    eventually("it answers", is_found);
    program.stop();
    for _ in 0..6 {
        let error = find().expect_err("the program stands still");
        assert!(matches!(&error, StoreError::Unavailable(why) if why.starts_with("store: ")), "{error}");
    }
    eventually("the revision is an error", || store.revision().is_err());
    program.resume();
    eventually("it answers again", is_found);
    eventually("there is a revision", || store.revision().is_ok());
    // Connections that were idle have ended, and no question fails for it.
    program.restart();
    eventually("it answers again", is_found);
    program.child.kill().expect("it runs");
    eventually("nothing listens", || find().is_err_and(|error| error.to_string().contains("store: connect")));
}

#[test]
fn cancelled_questions_under_load_give_no_answer_to_another_one() {
    let records: Vec<_> = (2000..2040).map(|rid| record(rid, rid % 7)).collect();
    let mut program = Program::start(&export(&records));
    let runtime = runtime();
    let store: Arc<SocketStore> = Arc::new(open(&runtime, settings(&program.socket())));
    let random = |below: u32| {
        let number = getrandom::u32().expect("the system has randomness");
        number % below
    };
    let ask = |task: u32| {
        let (store, records) = (Arc::clone(&store), records.clone());
        runtime.spawn(async move {
            let mut answered = 0;
            for _ in 0..150 {
                let rid = 2000 + random(50);
                let query = match random(3) {
                    0 => upn(rid),
                    1 => Query::AltSecurityIdentity(format!("X509:<I>CN=CA<SR>{rid:08x}")),
                    _ => Query::Sid(domain().sid.with_rid(rid).expect("room for a RID")),
                };
                let time = Duration::from_micros(u64::from(random(4000)));
                // Tasks with an odd number are clients that leave.
                let found = match task % 2 {
                    0 => Ok(store.find(&query).await),
                    _ => tokio::time::timeout(time, store.find(&query)).await,
                };
                let Ok(found) = found else { continue };
                let truth = records.iter().filter(|record| record.account.name == format!("user{rid}"));
                let truth: Matches = truth.cloned().map(Arc::new).collect();
                match found {
                    Ok(found) => assert_eq!(found, truth, "{query:?}"),
                    // The program was killed in the middle of it.
                    Err(error) => assert!(error.to_string().contains("store: "), "{error}"),
                }
                answered += 1;
            }
            answered
        })
    };
    let tasks: Vec<_> = (0..16).map(ask).collect();
    std::thread::sleep(Duration::from_millis(300));
    program.restart();
    let answered: u32 =
        tasks.into_iter().map(|task| runtime.block_on(task).expect("no answer is wrong")).sum();
    assert!(answered >= 8 * 150, "{answered}");
    assert!(matches!(runtime.block_on(store.find(&upn(2001))), Ok(Matches::One(_))));
}

#[test]
fn a_cancelled_leader_fails_no_other_asker() {
    let program = Program::start(&export(&[record(2000, 0)]));
    let runtime = runtime();
    let store = Arc::new(open(&runtime, settings(&program.socket())));
    let hour = Duration::from_secs(3600);
    let cache = CacheSettings { bytes: 1 << 20, ttl: hour, stale_if_error: Duration::ZERO };
    let cached = Arc::new(CachedStore::new(store as _, cache));
    program.stop();
    let ask = || {
        let cached = Arc::clone(&cached);
        runtime.spawn(async move { cached.find(&upn(2000)).await })
    };
    let leader = ask();
    eventually("the leader asks", || {
        cached.counters().misses.load(std::sync::atomic::Ordering::Relaxed) == 1
    });
    let others: Vec<_> = (0..20).map(|_| ask()).collect();
    eventually("the others wait", || {
        cached.counters().joined.load(std::sync::atomic::Ordering::Relaxed) == 20
    });
    leader.abort();
    program.resume();
    for other in others {
        let found = runtime.block_on(other).expect("it ends");
        assert!(matches!(found, Ok(Matches::One(_))), "{found:?}");
    }
}
