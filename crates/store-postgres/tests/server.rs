//! What becomes of questions while a server is changed, stopped, killed and replaced.

#[path = "../../../tests/src/ports.rs"]
#[expect(unreachable_pub, reason = "the module is one of the harness, too")]
mod ports;
#[path = "../../../tests/src/postgres.rs"]
#[expect(dead_code, unreachable_pub, reason = "the module is one of the harness, too")]
mod postgres;

use account_store::{
    Account, AccountAdmin, AccountFlags, AccountListing, AccountStore, BoxFuture, Change, Domain, Group,
    GroupScope, Machine, MachineAdmin, MachineStore, Matches, NtHash, Put, Query, SealingKey, Secrets,
    StoreError, battery, machines::ChannelKind,
};
use dtyp::{FileTime, Sid};
use postgres::{DATABASE, PASSWORD, Postgres, USER};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use store_postgres::{
    CHANGE_WAIT, Challenge, Channel, FRESH, PostgresStore, ReplicaFacts, Server, Settings, StoredCredential,
};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

/// A loaded machine is slow, and not more wrong for it.
const PATIENCE: Duration = Duration::from_secs(60);

fn settings(servers: &[&Postgres]) -> Settings {
    let servers = servers.iter().map(|server| Server::parse(&server.address()).expect("an address"));
    let mut settings = Settings::new(servers.collect(), DATABASE, USER);
    settings.password = Some(Arc::new(|| Ok(Zeroizing::new(PASSWORD.to_owned()))));
    settings.timeout = Duration::from_secs(20);
    settings.poll = Duration::from_millis(100);
    settings.max_age = Duration::from_secs(60);
    settings
}

/// The same for a store that hears of changes in other ways only.
fn never_polled(settings: Settings) -> Settings {
    Settings { poll: Duration::from_secs(3600), max_age: Duration::from_secs(7200), ..settings }
}

fn domain() -> Domain {
    battery::domain()
}

fn sid(rid: u32) -> Sid {
    domain().sid.with_rid(rid).expect("room for a RID")
}

fn key() -> SealingKey {
    SealingKey::new([7; 32])
}

async fn create(settings: &Settings) -> PostgresStore {
    PostgresStore::create(settings, &domain()).await.expect("the schema is empty");
    open(settings).await
}

async fn open(settings: &Settings) -> PostgresStore {
    PostgresStore::open(settings.clone(), Some(&key())).await.expect("there is a store")
}

fn user(rid: u32) -> Account {
    Account::new(format!("user{rid}"), sid(rid))
}

async fn apply(store: &PostgresStore, changes: Vec<Change>) {
    store.apply(&mut changes.into_iter().map(Ok)).await.expect("the change keeps the rules");
}

async fn put(store: &PostgresStore, account: Account) {
    let put = Put::Replace { keep_created: true, keep_disabled: false };
    apply(store, vec![Change::PutAccount(put, Box::new(account))]).await;
}

fn name(text: &str) -> Query {
    Query::Name(text.to_owned())
}

async fn find(store: &PostgresStore, query: Query) -> Result<Option<Account>, StoreError> {
    match store.find(&query).await? {
        Matches::None => Ok(None),
        Matches::One(record) => Ok(Some(record.account.clone())),
        Matches::Many(names) => panic!("{query:?}: {names:?}"),
    }
}

async fn eventually(what: &str, mut is_there: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_there().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_others_are_seen_by_notify_and_without_it() {
    let server = Postgres::start();
    let settings = settings(&[&server]);
    let writer = create(&settings).await;
    let quick = open(&settings).await;
    let settings = never_polled(settings);
    let notified = open(&settings).await;
    // The first poll listens.
    eventually("the store listens", async || load(&notified.counters().connects) > 0).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = [&quick, &notified].map(|store| store.revision().expect("it answers"));
    put(&writer, user(1000)).await;
    let mine = writer.revision().expect("it answers");
    for (store, before) in [&quick, &notified].into_iter().zip(before) {
        eventually("the change is seen", async || store.revision().expect("it answers") != before).await;
        assert_eq!(store.revision().expect("it answers"), mine);
        assert_eq!(find(store, name("user1000")).await.expect("it answers"), Some(user(1000)));
    }
    // A change by SQL counts when it changes the revision, too.
    server.sql(
        "BEGIN; UPDATE rcmpd.account SET flags = flags | 2 WHERE name_key = 'user1000';
         UPDATE rcmpd.revision SET accounts = accounts + 1, accounts_epoch = (random() * 9e18)::bigint,
         machines = machines + 1, machines_epoch = (random() * 9e18)::bigint; COMMIT",
    );
    eventually("the change by SQL is seen", async || quick.revision().expect("it answers") != mine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn starters_at_one_moment_make_one_store_and_migrate_once() {
    let server = Postgres::start();
    let settings = settings(&[&server]);
    let starters: Vec<_> = (0..6)
        .map(|_| {
            let settings = settings.clone();
            tokio::spawn(async move { PostgresStore::create(&settings, &domain()).await })
        })
        .collect();
    let mut made = 0;
    for starter in starters {
        match starter.await.expect("no panic") {
            Ok(()) => made += 1,
            Err(StoreError::Refused(why)) => assert!(why.contains("has a store already"), "{why}"),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(made, 1);
    put(&open(&settings).await, user(1000)).await;
    // A store of an earlier version: what a migration makes is there already in part.
    server.sql(
        "UPDATE rcmpd.schema_version SET version = 0; DROP INDEX rcmpd.member_of; DROP TABLE rcmpd.channel",
    );
    let starters: Vec<_> = (0..6)
        .map(|_| {
            let settings = settings.clone();
            tokio::spawn(async move { PostgresStore::open(settings, Some(&key())).await.map(drop) })
        })
        .collect();
    for starter in starters {
        starter.await.expect("no panic").expect("it is migrated");
    }
    assert_eq!(server.sql("SELECT version FROM rcmpd.schema_version"), "3");
    assert_eq!(server.sql("SELECT count(*) FROM pg_indexes WHERE indexname = 'member_of'"), "1");
    assert_eq!(server.sql("SELECT count(*) FROM rcmpd.channel"), "0");
    assert_eq!(find(&open(&settings).await, name("user1000")).await.expect("it answers"), Some(user(1000)));
}

/// A demo domain that the last program with tables of version 2 made, under the key of these tests, with a
/// secret of its machine: as `pg_dump --inserts` wrote it.
#[tokio::test(flavor = "multi_thread")]
async fn tables_of_an_earlier_version_keep_what_they_have() {
    let server = Postgres::start();
    server.sql(include_str!("version-2.sql"));
    assert_eq!(server.sql("SELECT version FROM rcmpd.schema_version"), "2");
    let settings = settings(&[&server]);
    let store = open(&settings).await;
    assert_eq!(server.sql("SELECT version FROM rcmpd.schema_version"), "3");
    let alice = find(&store, name("alice")).await.expect("it answers").expect("it is there");
    assert_eq!(alice.user_principal_name.as_deref(), Some("alice@contoso.example"));
    let machine = store.machine("WEB01$").await.expect("it answers").expect("it is there");
    assert_eq!(machine.secrets.current, NtHash::from_password("the secret of the machine WEB01"));
    // What came with version 3.
    for before in 0..3 {
        let counted = store.count_guess((SOURCE, "WEB01$"), (FileTime(SECOND), FileTime(0))).await;
        assert_eq!(counted.expect("it counts"), before);
    }
    let user = Account::new("user5000", store.domain().sid.with_rid(5000).expect("room for a RID"));
    put(&store, user.clone()).await;
    assert_eq!(find(&open(&settings).await, name("user5000")).await.expect("it answers"), Some(user));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_another_type_is_damage_and_no_panic() {
    let server = Postgres::start();
    let settings = settings(&[&server]);
    drop(create(&settings).await);
    server.sql("ALTER TABLE rcmpd.schema_version ALTER version TYPE integer");
    let opened = PostgresStore::open(settings, None).await.map(drop);
    assert!(matches!(opened, Err(StoreError::Damaged(_))), "{opened:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_is_refused_at_start_and_while_serving() {
    let server = Postgres::start();
    let mut settings = settings(&[&server]);
    settings.max_age = Duration::from_millis(500);
    let store = create(&settings).await;
    server.sql("UPDATE rcmpd.schema_version SET version = 99");
    let error = PostgresStore::open(settings.clone(), None).await.map(drop).expect_err("it is newer");
    assert!(error.to_string().contains("use a newer program"), "{error}");
    eventually("the store is not used", async || store.revision().is_err()).await;
    let error = find(&store, name("user1000")).await.expect_err("its tables are newer").to_string();
    assert!(error.contains("have version 99"), "{error}");
    let error = store.revision().expect_err("it is newer").to_string();
    assert!(error.contains("have version 99"), "{error}");
    server.sql("UPDATE rcmpd.schema_version SET version = 3");
    eventually("the store is used again", async || store.revision().is_ok()).await;
    let other = PostgresStore::open(settings, Some(&SealingKey::new([8; 32]))).await.map(drop);
    assert!(matches!(other, Err(StoreError::OtherKey)));
}

/// Two transactions cannot commit in another order than that of their revisions: the second one waits.
#[tokio::test(flavor = "multi_thread")]
async fn changes_are_made_one_after_the_other() {
    let server = Postgres::start();
    let settings = settings(&[&server]);
    let (first, second) = (create(&settings).await, open(&settings).await);
    let is_begun = Arc::new(AtomicBool::new(false));
    let may_end = Arc::new(AtomicBool::new(false));
    let slow = {
        let (is_begun, may_end) = (Arc::clone(&is_begun), Arc::clone(&may_end));
        tokio::spawn(async move {
            // More than one batch, so that the change is begun before its source ends.
            let accounts = (2000..4000).map(|rid| Ok(Change::PutAccount(Put::New, Box::new(user(rid)))));
            let last = std::iter::once_with(move || {
                is_begun.store(true, Ordering::SeqCst);
                while !may_end.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Ok(Change::PutAccount(Put::New, Box::new(user(4000))))
            });
            first.apply(&mut accounts.chain(last)).await.expect("the change keeps the rules");
            first
        })
    };
    eventually("the slow change is begun", async || is_begun.load(Ordering::SeqCst)).await;
    let quick = tokio::spawn(async move {
        put(&second, user(1000)).await;
        second
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!quick.is_finished(), "it waits for the one before");
    let revision = "SELECT accounts FROM rcmpd.revision";
    let before: i64 = server.sql(revision).parse().expect("a number");
    may_end.store(true, Ordering::SeqCst);
    let (first, second) = (slow.await.expect("no panic"), quick.await.expect("no panic"));
    assert_eq!(server.sql(revision).parse::<i64>().expect("a number"), before + 2);
    for store in [first, second] {
        for rid in [1000, 2000, 4000] {
            assert!(find(&store, Query::Sid(sid(rid))).await.expect("it answers").is_some());
        }
    }
}

/// Counts what a load saw. Each account of the load has a name that its RID tells.
#[derive(Default)]
struct Seen {
    answers: AtomicU64,
    errors: AtomicU64,
    wrong: AtomicU64,
    late: AtomicU64,
}

/// Whether it is the truth about an account, or an error of the store. Half of the accounts are there.
fn is_right(rid: u32, answer: &Result<Matches, StoreError>) -> bool {
    match answer {
        Ok(Matches::One(record)) => rid < 1020 && record.account == user(rid),
        Ok(Matches::None) => rid >= 1020,
        Ok(Matches::Many(_)) => false,
        Err(error) => matches!(error, StoreError::Unavailable(_)),
    }
}

/// Asks all the time, compares every answer with the truth, and measures every error.
fn under_load(
    store: &Arc<PostgresStore>,
    seen: &Arc<Seen>,
    stop: &Arc<AtomicBool>,
    limit: Duration,
) -> Vec<tokio::task::JoinHandle<()>> {
    let ask = |of: u32| {
        let (store, seen, stop) = (Arc::clone(store), Arc::clone(seen), Arc::clone(stop));
        tokio::spawn(async move {
            let mut n = of;
            while !stop.load(Ordering::SeqCst) {
                n = n.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                let rid = 1000 + n % 40;
                let asked = Instant::now();
                let answer = store.find(&name(&format!("user{rid}"))).await;
                let took = asked.elapsed();
                let is_right = is_right(rid, &answer);
                seen.errors.fetch_add(u64::from(answer.is_err()), Ordering::SeqCst);
                seen.wrong.fetch_add(u64::from(!is_right), Ordering::SeqCst);
                seen.answers.fetch_add(u64::from(answer.is_ok()), Ordering::SeqCst);
                seen.late.fetch_add(u64::from(took > limit), Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    };
    (1..=12).map(ask).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_or_dies_is_an_error_and_never_an_absence() {
    let mut server = Postgres::start();
    let mut settings = settings(&[&server]);
    settings.timeout = Duration::from_secs(2);
    settings.max_age = Duration::from_secs(3);
    let store = Arc::new(create(&settings).await);
    apply(&store, (1000..1020).map(|rid| Change::PutAccount(Put::New, Box::new(user(rid)))).collect()).await;
    let (seen, stop) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
    // The runtime itself may be late on a loaded machine, so the limit is far from the timeout.
    let tasks = under_load(&store, &seen, &stop, Duration::from_secs(20));
    let answers = || seen.answers.load(Ordering::SeqCst);
    let errors = || seen.errors.load(Ordering::SeqCst);
    let resumes = async |what: &str| {
        let before = answers();
        eventually(what, async || answers() > before + 100).await;
        eventually("the revision counts again", async || store.revision().is_ok()).await;
    };
    resumes("questions are answered").await;

    server.pause();
    let before = errors();
    eventually("a paused server is an error", async || errors() > before + 50).await;
    eventually("cached answers end", async || store.revision().is_err()).await;
    let error = store.check().expect_err("it is paused").to_string();
    assert!(error.contains("store") && error.contains("PostgreSQL"), "{error}");
    server.resume();
    resumes("a server that goes on is asked again").await;

    server.kill();
    let before = errors();
    eventually("a killed server is an error", async || errors() > before + 50).await;
    eventually("cached answers end", async || store.revision().is_err()).await;
    server.restart();
    resumes("a server that was started again is asked again").await;

    stop.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.expect("no panic");
    }
    assert_eq!(seen.wrong.load(Ordering::SeqCst), 0, "every answer was the truth");
    assert_eq!(seen.late.load(Ordering::SeqCst), 0);
}

/// Askers that leave after a random time, of which they count how many left before the answer.
fn leaving(
    store: &Arc<PostgresStore>,
    seen: &Arc<Seen>,
    stop: &Arc<AtomicBool>,
    left: &Arc<AtomicU64>,
) -> Vec<JoinHandle<()>> {
    let ask = |of: u32| {
        let (store, seen, stop, left) =
            (Arc::clone(store), Arc::clone(seen), Arc::clone(stop), Arc::clone(left));
        tokio::spawn(async move {
            let mut n = of;
            while !stop.load(Ordering::SeqCst) {
                n = n.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                let rid = 1000 + n % 40;
                let query = match n >> 8 & 1 {
                    0 => name(&format!("user{rid}")),
                    _ => Query::Sid(sid(rid)),
                };
                let time = Duration::from_micros(u64::from((n >> 9) % 4000));
                match tokio::time::timeout(time, store.find(&query)).await {
                    Ok(answer) => {
                        seen.wrong.fetch_add(u64::from(!is_right(rid, &answer)), Ordering::SeqCst);
                    }
                    Err(_) => {
                        left.fetch_add(1, Ordering::SeqCst);
                    }
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    };
    (1..=12).map(ask).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_questions_under_load_give_no_answer_to_another_one() {
    let mut server = Postgres::start();
    let mut settings = settings(&[&server]);
    // An asker that leaves while it tries a server that was down keeps no other one from trying.
    settings.timeout = 2 * PATIENCE;
    let store = Arc::new(create(&settings).await);
    apply(&store, (1000..1020).map(|rid| Change::PutAccount(Put::New, Box::new(user(rid)))).collect()).await;
    let (seen, stop) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
    let left = Arc::new(AtomicU64::new(0));
    let mut tasks = under_load(&store, &seen, &stop, PATIENCE);
    tasks.extend(leaving(&store, &seen, &stop, &left));
    let enough = async || {
        let before = (load(&seen.answers), load(&left));
        eventually("askers leave, and others are answered", async || {
            load(&seen.answers) > before.0 + 500 && load(&left) > before.1 + 200
        })
        .await;
    };
    enough().await;
    server.kill();
    let before = load(&seen.errors);
    eventually("a killed server is an error", async || load(&seen.errors) > before + 20).await;
    server.restart();
    enough().await;
    stop.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.expect("no panic");
    }
    assert_eq!(load(&seen.wrong), 0, "every answer was the truth");
    assert_eq!(find(&store, name("user1001")).await.expect("it answers"), Some(user(1001)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_on_a_session_that_ended_is_asked_once_more() {
    let server = Postgres::start();
    let store = create(&settings(&[&server])).await;
    put(&store, user(1000)).await;
    for _ in 0..5 {
        // The connection that is idle now ends; whether the store notices before it asks is chance.
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'rcmpd'");
        assert_eq!(find(&store, name("user1000")).await.expect("it answers"), Some(user(1000)));
        assert!(!store.accounts(0, 9).await.expect("it answers").is_empty());
        put(&store, Account { logon_count: 1, ..user(1001) }).await;
    }
}

/// Starts PgBouncer in front of a server: each transaction of a session may run on another connection.
fn bouncer(server: &Postgres) -> (std::process::Child, tempfile::TempDir, u16) {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let port = ports::free_port().port();
    let (users, ini) = (folder.path().join("users"), folder.path().join("pgbouncer.ini"));
    std::fs::write(&users, format!("\"{USER}\" \"{PASSWORD}\"\n")).expect("the folder is ours");
    let text = format!(
        "[databases]\n* = host=127.0.0.1 port={} password={PASSWORD}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
         unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = 3\n",
        server.port(),
        users.display()
    );
    std::fs::write(&ini, text).expect("the folder is ours");
    let mut command = std::process::Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if rustix::process::geteuid().is_root() {
        let owned = std::process::Command::new("chown").args(["-R", "postgres"]).arg(folder.path()).status();
        assert!(owned.expect("it is installed").success());
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
    }
    command.arg("--").arg("/usr/sbin/pgbouncer").arg("-q").arg(&ini).stderr(std::process::Stdio::null());
    let child = command.spawn().expect("PgBouncer is installed");
    let deadline = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "PgBouncer listens");
        std::thread::sleep(Duration::from_millis(20));
    }
    (child, folder, port)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_may_give_each_transaction_another_connection() {
    let server = Postgres::start();
    let (mut child, _folder, port) = bouncer(&server);
    let mut settings = settings(&[&server]);
    settings.servers = vec![Server { host: "127.0.0.1".to_owned(), port }];
    let stores = [Arc::new(create(&settings).await), Arc::new(open(&settings).await)];
    let all = (1000..1020).map(|rid| Change::PutAccount(Put::New, Box::new(user(rid)))).collect();
    apply(&stores[0], all).await;
    let (seen, stop) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
    let tasks = stores.each_ref().map(|store| under_load(store, &seen, &stop, PATIENCE));
    for n in 0..10 {
        put(&stores[n % 2], user(2000)).await;
        put(&stores[n % 2], Account { logon_count: 1, ..user(2000) }).await;
    }
    eventually("questions are answered", async || seen.answers.load(Ordering::SeqCst) > 1000).await;
    stop.store(true, Ordering::SeqCst);
    for task in tasks.into_iter().flatten() {
        task.await.expect("no panic");
    }
    let [wrong, errors] = [&seen.wrong, &seen.errors].map(|counter| counter.load(Ordering::SeqCst));
    assert_eq!((wrong, errors), (0, 0));
    child.kill().and_then(|()| child.wait()).expect("it is our child");
}

/// A CA, and a certificate of it with these names in the SAN, as PEM.
fn certificate(names: &[&str]) -> (rcgen::Certificate, String, String) {
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let mut ca = rcgen::CertificateParams::new([]).expect("no names");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issued = ca.self_signed(&ca_key).expect("it signs itself");
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut leaf = rcgen::CertificateParams::new(names).expect("good names");
    leaf.distinguished_name.push(rcgen::DnType::CommonName, "localhost");
    let leaf = leaf.signed_by(&key, &issuer).expect("the CA signs");
    (issued, leaf.pem(), key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_reaches_a_server_that_its_certificate_names_and_no_other() {
    let server = Postgres::start();
    let serve = |names: &[&str]| {
        let (ca, certificate, key) = certificate(names);
        server.write("server.crt", &certificate);
        server.write("server.key", &key);
        server.sql("ALTER SYSTEM SET ssl = on");
        server.sql("SELECT pg_reload_conf()");
        store_postgres::tls([ca.der().clone()]).expect("a CA")
    };
    let mut settings = settings(&[&server]);
    settings.servers = vec![Server { host: "localhost".to_owned(), port: server.port() }];
    // Without TLS on the server, nothing is sent to it.
    settings.tls = Some(store_postgres::tls([certificate(&[]).0.der().clone()]).expect("a CA"));
    let refused = async |settings: &Settings| {
        PostgresStore::create(settings, &domain()).await.expect_err("it is refused").to_string()
    };
    let error = refused(&settings).await;
    assert!(error.contains("does not support TLS"), "{error}");
    // A common name is no name of a server.
    settings.tls = Some(serve(&["db1.example"]));
    eventually("the certificate is used", async || refused(&settings).await.contains("certificate")).await;
    let error = refused(&settings).await;
    assert!(error.contains("not valid for name"), "{error}");
    settings.tls = Some(serve(&["localhost"]));
    eventually("the certificate is used", async || PostgresStore::create(&settings, &domain()).await.is_ok())
        .await;
    put(&open(&settings).await, user(1000)).await;
    assert_eq!(
        server.sql("SELECT count(*) > 0 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'rcmpd' AND NOT ssl"),
        "f"
    );
    // Another CA.
    settings.tls = Some(store_postgres::tls([certificate(&[]).0.der().clone()]).expect("a CA"));
    let error = PostgresStore::open(settings, None).await.map(drop).expect_err("another CA").to_string();
    assert!(error.contains("UnknownIssuer") || error.contains("certificate"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgresql_cannot_hold_is_no_account_and_no_failure() {
    let server = Postgres::start();
    let store = create(&settings(&[&server])).await;
    let long = "\u{e9}".repeat(2000);
    let bob = Account {
        user_principal_name: Some("bob.upn@corp.example".to_owned()),
        alt_security_identities: vec![format!("X509:<I>CN=CA<S>CN={long}")],
        service_principal_names: vec![long.clone()],
        ..Account::new(long.clone(), sid(1000))
    };
    put(&store, bob.clone()).await;
    // Long names and keys are found by their hashes.
    for query in [
        name(&long),
        Query::ServicePrincipalName(long.to_uppercase()),
        Query::AltSecurityIdentity(bob.alt_security_identities[0].clone()),
    ] {
        assert_eq!(find(&store, query).await.expect("it answers"), Some(bob.clone()));
    }
    // One for questions and changes, and one for the revision.
    eventually("all are open", async || load(&store.counters().connects) == 2).await;
    let connects = 2;
    for n in 0..1000 {
        let text = format!("bob.upn@corp.example\0{n}.evil.example");
        for query in [
            Query::UserPrincipalName(text.clone()),
            Query::ServicePrincipalName(text.clone()),
            name(&text),
            name(&format!("\u{1}{n}")),
        ] {
            assert_eq!(store.find(&query).await.expect("it answers"), Matches::None);
        }
    }
    let huge = "x".repeat(1 << 22);
    for query in [name(&huge), Query::UserPrincipalName(huge.clone()), Query::ServicePrincipalName(huge)] {
        assert_eq!(store.find(&query).await.expect("it answers"), Matches::None);
    }
    assert_eq!(store.group_by_name("a\0b").await.expect("it answers"), None);
    assert!(store.machine("a\0$").await.expect("it answers").is_none());
    assert_eq!(load(&store.counters().connects), connects, "no connection was lost");
    assert_eq!(load(&store.counters().timeouts), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_answers_unless_it_is_behind_and_takes_no_changes() {
    let primary = Postgres::start();
    let mut settings = settings(&[&primary]);
    let writer = create(&settings).await;
    let staff = Group { name: "Staff".to_owned(), sid: sid(1100), scope: GroupScope::Global };
    apply(
        &writer,
        vec![
            Change::PutGroup(Put::New, staff),
            Change::PutAccount(Put::New, Box::new(user(1000))),
            Change::AddMember { group: sid(1100), member: sid(1000) },
        ],
    )
    .await;
    let standby = primary.standby();
    settings.replicas = vec![Server::parse(&standby.address()).expect("an address")];
    let store = open(&settings).await;
    let from_replica = || load(&store.counters().asked_replica);
    eventually("the standby answers", async || {
        let found = find(&store, name("user1000")).await.expect("it answers");
        assert_eq!(found, Some(user(1000)));
        from_replica() > 0
    })
    .await;

    // While the standby is behind, it is not believed.
    standby.sql("SELECT pg_wal_replay_pause()");
    let disabled = Account { flags: account_store::AccountFlags(514), ..user(1000) };
    put(&writer, disabled.clone()).await;
    let mine = writer.revision().expect("it answers");
    eventually("the change is seen", async || store.revision().expect("it answers") == mine).await;
    let before = from_replica();
    for _ in 0..20 {
        assert_eq!(find(&store, name("user1000")).await.expect("it answers"), Some(disabled.clone()));
    }
    assert_eq!(from_replica(), before, "no answer came from the standby");
    assert!(load(&store.counters().lagging) > 0);
    standby.sql("SELECT pg_wal_replay_resume()");
    eventually("the standby answers again", async || {
        assert_eq!(find(&store, name("user1000")).await.expect("it answers"), Some(disabled.clone()));
        from_replica() > before
    })
    .await;

    // A standby that stops leaves questions to the primary.
    standby.pause();
    for _ in 0..5 {
        assert_eq!(find(&store, name("user1000")).await.expect("it answers"), Some(disabled.clone()));
    }
    standby.resume();
    let only_standby = {
        let mut settings = settings.clone();
        settings.servers = settings.replicas.clone();
        PostgresStore::open(settings, None).await.map(drop).expect_err("it is a standby").to_string()
    };
    assert!(only_standby.contains("is a standby, or read-only"), "{only_standby}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_takes_over() {
    let mut primary = Postgres::start();
    let first = create(&settings(&[&primary])).await;
    put(&first, user(1000)).await;
    let standby = primary.standby();
    let mut both = settings(&[&primary, &standby]);
    both.timeout = Duration::from_secs(5);
    both.max_age = Duration::from_secs(2);
    let store = open(&both).await;
    // A change that the standby does not get is lost, and is not answered any more.
    standby.sql("SELECT pg_wal_replay_pause()");
    eventually("the standby has stopped", async || {
        standby.sql("SELECT pg_get_wal_replay_pause_state()") == "paused"
    })
    .await;
    put(&store, user(1001)).await;
    let lost = store.revision().expect("it answers");
    primary.kill();
    standby.sql("SELECT pg_wal_replay_resume()");
    standby.promote();
    eventually("the other server answers", async || find(&store, name("user1000")).await.is_ok()).await;
    put(&store, user(1002)).await;
    eventually("the revision counts again", async || store.revision().is_ok()).await;
    assert_ne!(store.revision().expect("it answers"), lost);
    for (rid, _) in [(1000, ()), (1002, ())] {
        assert!(find(&store, Query::Sid(sid(rid))).await.expect("it answers").is_some());
    }
}

/// Two standbys of one primary. One of them is promoted while the other one goes on to follow the former
/// primary, which takes a change.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_of_a_former_primary_is_not_believed() {
    let former = Postgres::start();
    put(&create(&settings(&[&former])).await, user(1000)).await;
    let (promoted, standby) = (former.standby(), former.standby());
    let mut settings = settings(&[&promoted]);
    promoted.promote();
    settings.replicas = vec![Server::parse(&standby.address()).expect("an address")];
    let store = open(&settings).await;
    let from_replica = || load(&store.counters().asked_replica);
    eventually("the standby has the same contents", async || {
        assert_eq!(find(&store, name("user1000")).await.expect("it answers"), Some(user(1000)));
        from_replica() > 0
    })
    .await;
    let before = from_replica();
    former.sql(CHANGED);
    let flags = "SELECT flags FROM rcmpd.account";
    eventually("the standby follows", async || standby.sql(flags) == former.sql(flags)).await;
    for _ in 0..100 {
        assert_eq!(find(&store, name("user1000")).await.expect("it answers"), Some(user(1000)));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(from_replica(), before, "no answer came from the standby");
    assert!(load(&store.counters().lagging) > 0);
    // Changes of the promoted one, to the same number and beyond it.
    for rid in 1001..1004 {
        put(&store, user(rid)).await;
        assert_eq!(find(&store, name("user1000")).await.expect("it answers"), Some(user(1000)));
        assert_eq!(find(&store, Query::Sid(sid(rid))).await.expect("it answers"), Some(user(rid)));
    }
    assert_eq!(from_replica(), before, "no answer came from the standby");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_proves_the_secret_that_another_node_has_just_stored() {
    let server = Postgres::start();
    let settings = settings(&[&server]);
    let first = create(&settings).await;
    let settings = never_polled(settings);
    let second = open(&settings).await;
    let machine = Machine {
        name: "WEB01$".to_owned(),
        sid: sid(1105),
        kind: ChannelKind::Workstation,
        enabled: true,
        rcmp: true,
        domains: vec![],
        groups: vec![],
    };
    let secret = |n| NtHash::new([n; 16]);
    let secrets = Secrets::first(secret(1), FileTime(5));
    first.put_machine(Put::New, machine, Some(secrets)).await.expect("it is new");
    for n in 2..20 {
        let stored = first.rotate(sid(1105), Some(secret(n - 1)), secret(n), FileTime(n.into())).await;
        assert!(stored.expect("it is there"));
        let found = second.machine("web01$").await.expect("it answers").expect("it is there");
        assert_eq!(found.secrets.current, secret(n));
    }
    assert!(!server.sql("SELECT encode(sealed, 'hex') FROM rcmpd.machine").contains(&"13".repeat(16)));
}

#[tokio::test(flavor = "multi_thread")]
async fn named_statements_are_prepared_again_when_tables_change() {
    let server = Postgres::start();
    let mut settings = settings(&[&server]);
    settings.prepare = true;
    settings.connections = 1;
    let store = create(&settings).await;
    put(&store, user(1000)).await;
    for _ in 0..10 {
        assert_eq!(find(&store, name("user1000")).await.expect("it answers"), Some(user(1000)));
    }
    // SQLSTATE 0A000: cached plan must not change result type.
    server.sql("ALTER TABLE rcmpd.account ALTER COLUMN name TYPE varchar");
    assert_eq!(find(&store, name("user1000")).await.expect("it answers"), Some(user(1000)));
    server.sql("DISCARD ALL");
    assert_eq!(find(&store, name("user1000")).await.expect("it answers"), Some(user(1000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_without_it() {
    let server = Postgres::start();
    let mut settings = settings(&[&server]);
    settings.password = Some(Arc::new(|| Ok(Zeroizing::new("hunter2".to_owned()))));
    let error = PostgresStore::create(&settings, &domain()).await.expect_err("it is wrong").to_string();
    assert!(error.contains("password authentication failed") && !error.contains("hunter2"), "{error}");
    settings.password = Some(Arc::new(|| Err("the secret in /x cannot be read".to_owned())));
    let error = PostgresStore::create(&settings, &domain()).await.expect_err("there is none").to_string();
    assert!(error.contains("/x cannot be read"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_whose_source_goes_away_leaves_nothing() {
    let server = Postgres::start();
    let store = create(&settings(&[&server])).await;
    let before = store.revision().expect("it answers");
    let accounts = |last: Result<Change, StoreError>| {
        let accounts = (2000..3500).map(|rid| Ok(Change::PutAccount(Put::New, Box::new(user(rid)))));
        accounts.chain([last])
    };
    let failed = store.apply(&mut accounts(Err(StoreError::Refused("the file is cut".to_owned())))).await;
    assert!(matches!(failed, Err(StoreError::Refused(why)) if why.contains("the file is cut")));
    {
        // Dropped in the middle.
        let mut all = accounts(Ok(Change::RemoveAccount(sid(2000))));
        let dropped = store.apply(&mut all);
        let _ = tokio::time::timeout(Duration::from_millis(30), dropped).await;
    }
    eventually("no transaction is open", async || {
        server.sql("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' OR state = 'active'") == "1"
    })
    .await;
    let count = server.sql("SELECT count(*) FROM rcmpd.account");
    assert!(count == "0" || count == "1499", "all or none: {count}");
    if count == "0" {
        assert_eq!(store.revision().expect("it answers"), before);
    }
}

fn channel(id: u8, rid: u32, computer: &str, ends: u64) -> Channel {
    Channel {
        id: [id; 16],
        account: format!("M{rid}$"),
        sid: sid(rid),
        computer: computer.to_owned(),
        kind: 2,
        negotiated_flags: 0x6120_ffff,
        requested_flags: 0x6160_ffff,
        ends: FileTime(ends),
        key: Zeroizing::new([id; 24]),
        credential: StoredCredential { generation: 0, octets: [id; 8] },
    }
}

/// The challenges alone.
fn challenges<'a>(
    store: &'a PostgresStore,
    (source, computer): (IpAddr, &'a str),
    now: FileTime,
) -> BoxFuture<'a, Result<Vec<Challenge>, StoreError>> {
    Box::pin(async move {
        let found = store.attempts((source, computer, "NONE$"), (now, FileTime(0))).await?;
        Ok(found.0)
    })
}

async fn answer<T>(asked: BoxFuture<'_, Result<T, StoreError>>) -> T {
    asked.await.expect("it answers")
}

async fn all<T>(tasks: Vec<JoinHandle<Option<T>>>) -> Vec<T> {
    let mut found = Vec::new();
    for task in tasks {
        found.extend(task.await.expect("it ends"));
    }
    found
}

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SECOND: u64 = 10_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn servers_share_channels_and_challenges() {
    let server = Postgres::start();
    let first = create(&settings(&[&server])).await;
    let second = open(&settings(&[&server])).await;
    let channels =
        [channel(1, 1001, "WEB01", 1000), channel(2, 1002, "WEB01", 2000), channel(3, 1001, "WEB02", 1000)];
    for channel in &channels {
        first.put_channel(channel, FileTime(1)).await.expect("it is kept");
        first.put_channel(channel, FileTime(1)).await.expect("twice is once");
    }
    assert_eq!(
        answer(second.channels("WEB01", FileTime(1))).await.0,
        channels[..2].to_vec(),
        "the newest last"
    );
    assert_eq!(
        answer(second.channels("WEB01", FileTime(1000))).await.0,
        channels[1..2],
        "the other one has ended"
    );
    assert_eq!(answer(second.channels("web01", FileTime(1))).await.0, vec![]);

    // Of calls with one stored credential, one is performed.
    let id = &channels[0].id;
    let stored = first.stored_credential(id).await.expect("it answers").expect("it is there");
    let (first, second) = (Arc::new(first), Arc::new(second));
    let at = |n: u8| Arc::clone(if n.is_multiple_of(2) { &first } else { &second });
    let advances = (0..8).map(|n| {
        let (store, id) = (at(n), *id);
        tokio::spawn(async move { answer(store.advance_credential(&id, stored, [n; 8])).await.then_some(n) })
    });
    let won = all(advances.collect()).await;
    assert_eq!(won.len(), 1, "{won:?}");
    let now = StoredCredential { generation: 1, octets: [won[0]; 8] };
    assert_eq!(answer(second.stored_credential(id)).await, Some(now));
    assert_eq!(answer(second.stored_credential(&[9; 16])).await, None);
    assert!(!answer(second.advance_credential(&[9; 16], now, [0; 8])).await);

    // A challenge is good for one channel.
    let now = FileTime(SECOND);
    first.put_challenge((SOURCE, "WEB01"), [5; 16], now).await.expect("it is kept");
    first.put_challenge((SOURCE, "WEB02"), [6; 16], now).await.expect("it is kept");
    let found = challenges(&second, (SOURCE, "WEB01"), now).await.expect("it answers");
    assert_eq!(found.iter().map(|challenge| challenge.halves).collect::<Vec<_>>(), [[5; 16]]);
    let other = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    assert_eq!(answer(challenges(&second, (other, "WEB01"), now)).await, vec![]);
    let late = FileTime(SECOND * 122);
    assert_eq!(answer(challenges(&second, (SOURCE, "WEB01"), late)).await, vec![], "two minutes are over");
    let id = found[0].id;
    let uses = (0..8).map(|n| {
        let store = at(n);
        tokio::spawn(async move { answer(store.use_up_challenge(id)).await.then_some(n) })
    });
    let used = all(uses.collect()).await;
    assert_eq!(used.len(), 1, "{used:?}");
    assert_eq!(answer(challenges(&first, (SOURCE, "WEB01"), now)).await, vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_rows_that_were_changed_without_the_key_are_no_channels() {
    let server = Postgres::start();
    let store = create(&settings(&[&server])).await;
    let ours = channel(1, 1001, "WEB01", 1000);
    let mut seen = 0;
    for change in [
        "account = 'M1002$'",
        "sid = replace(sid, '1001', '1002')",
        "computer = 'WEB02'",
        "kind = 4",
        "negotiated_flags = 0",
        "requested_flags = 0",
        "ends = 9000000000000000000",
        "generation = 1",
        "id = decode(repeat('02', 16), 'hex')",
        "sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1)",
        "credential = set_byte(credential, 15, get_byte(credential, 15) # 1)",
        "kind = -1",
        "ends = -1",
        "computer = decode('ff', 'hex')",
        "sealed = ''",
    ] {
        store.put_channel(&ours, FileTime(1)).await.expect("it is kept");
        assert_eq!(answer(store.channels("WEB01", FileTime(1))).await.0.len(), 1);
        server.sql(&format!("UPDATE rcmpd.channel SET {change}"));
        for computer in ["WEB01", "WEB02"] {
            let (found, left_out) = answer(store.channels(computer, FileTime(1))).await;
            assert_eq!(found, vec![], "{change}");
            seen += left_out;
        }
        server.sql("DELETE FROM rcmpd.channel");
    }
    assert_eq!(seen, 13, "all but those with another name of a computer and another end are counted");
    store.put_channel(&ours, FileTime(1)).await.expect("it is kept");
    server.sql("UPDATE rcmpd.channel SET generation = 7");
    let refused = store.stored_credential(&ours.id).await;
    assert!(matches!(refused, Err(StoreError::Damaged(_))), "{refused:?}");

    store.put_challenge((SOURCE, "WEB01"), [5; 16], FileTime(SECOND)).await.expect("it is kept");
    server.sql("UPDATE rcmpd.challenge SET ends = ends + 1");
    assert_eq!(answer(challenges(&store, (SOURCE, "WEB01"), FileTime(SECOND))).await, vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_lost_key_the_shared_rows_go_too() {
    let server = Postgres::start();
    let store = create(&settings(&[&server])).await;
    store.put_channel(&channel(1, 1001, "WEB01", 1000), FileTime(1)).await.expect("it is kept");
    store.put_challenge((SOURCE, "WEB01"), [5; 16], FileTime(SECOND)).await.expect("it is kept");
    store.forget_secrets(&SealingKey::new([8; 32]), FileTime(2)).await.expect("they are forgotten");
    let count = "SELECT (SELECT count(*) FROM rcmpd.channel) + (SELECT count(*) FROM rcmpd.challenge)";
    assert_eq!(server.sql(count), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_can_fill_of_shared_tables_is_bounded() {
    let server = Postgres::start();
    let store = create(&settings(&[&server])).await;
    for n in 0..20 {
        store
            .put_channel(&channel(n, 1001, "WEB01", 1000 + u64::from(n)), FileTime(1))
            .await
            .expect("it is kept");
    }
    let (found, _) = store.channels("WEB01", FileTime(1)).await.expect("it answers");
    assert_eq!(found.iter().map(|channel| channel.id[0]).collect::<Vec<_>>(), (12..20).collect::<Vec<u8>>());
    // Those of one account in all, and those of many accounts under one name.
    server.sql(
        "INSERT INTO rcmpd.channel SELECT decode(lpad(to_hex(n), 32, '0'), 'hex'), account, sid, decode(to_hex(n + 4096), 'hex'), kind,
         negotiated_flags, requested_flags, ends, sealed, generation, credential FROM rcmpd.channel, generate_series(1, 600) AS n
         WHERE id = decode(repeat('13', 16), 'hex')",
    );
    store.put_channel(&channel(98, 1001, "WEB09", 1500), FileTime(1)).await.expect("it is kept");
    assert_eq!(server.sql("SELECT count(*) FROM rcmpd.channel"), "512");
    for n in 0..40 {
        let other = channel(100 + n, 2000 + u32::from(n), "DC1", 1000 + u64::from(n));
        store.put_channel(&other, FileTime(1)).await.expect("it is kept");
    }
    let found = answer(store.channels("DC1", FileTime(1))).await.0;
    assert_eq!(
        found.iter().map(|channel| channel.id[0]).collect::<Vec<_>>(),
        (108..140).collect::<Vec<u8>>()
    );
    store.put_channel(&channel(99, 1002, "WEB01", 5000), FileTime(2000)).await.expect("it is kept");
    assert_eq!(server.sql("SELECT count(*) FROM rcmpd.channel"), "1", "what has ended is removed");

    // A few at one time do not overwrite each other: by chance alone, 16 of 64 places would.
    for n in 0..16 {
        store.put_challenge((SOURCE, "WEB01"), [n; 16], FileTime(SECOND)).await.expect("it is kept");
    }
    assert_eq!(server.sql("SELECT count(*) FROM rcmpd.challenge"), "16");
    for n in 0..200 {
        store.put_challenge((SOURCE, "WEB01"), [n; 16], FileTime(SECOND)).await.expect("it is kept");
    }
    let kept: u64 = server.sql("SELECT count(*) FROM rcmpd.challenge").parse().expect("a number");
    assert!((32..=64).contains(&kept), "{kept}");

    // Names that no computer has: nothing is written, nothing is found, and the store is well.
    let long = "W".repeat(300);
    let refused = store.put_channel(&channel(1, 1001, &long, 5000), FileTime(1)).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    for name in [long.as_str(), "WEB01\0", "", "\u{fffd}"] {
        assert_eq!(answer(store.channels(name, FileTime(1))).await.0, vec![], "{name:?}");
        store.put_challenge((SOURCE, name), [1; 16], FileTime(SECOND)).await.expect("it is kept");
        let found = challenges(&store, (SOURCE, name), FileTime(SECOND)).await.expect("it answers");
        assert_eq!(found.len(), 1, "{name:?}");
    }
}

/// A change of which no process is notified: by SQL, in one transaction that a test may hold open.
const CHANGED: &str = "UPDATE rcmpd.account SET flags = flags | 2;
    UPDATE rcmpd.revision SET accounts = accounts + 1, accounts_epoch = (random() * 9e18)::bigint,
    machines = machines + 1, machines_epoch = (random() * 9e18)::bigint";

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_answered_by_a_revision_that_was_read_after_it_arrived() {
    let server = Postgres::start();
    let mut settings = never_polled(settings(&[&server]));
    settings.fresh = Some(Duration::ZERO);
    let store = create(&settings).await;
    put(&store, user(1000)).await;
    for _ in 0..20 {
        let before = (store.revision().expect("it answers"), store.machine_revision().expect("it answers"));
        server.sql(CHANGED);
        store.refresh().await.expect("it answers");
        assert_ne!(store.revision().expect("it answers"), before.0, "what was committed before is seen");
        assert_ne!(store.machine_revision().expect("it answers"), before.1);
    }
    // Calls that come at one time wait for one question, or for the next one.
    let polls = load(&store.counters().polls);
    let mut psql = server.psql();
    psql.send("BEGIN; LOCK TABLE rcmpd.revision IN ACCESS EXCLUSIVE MODE; SELECT 'locked';");
    assert_eq!(psql.line(), "locked");
    let (store, begun) = (Arc::new(store), Arc::<AtomicU64>::default());
    let calls: Vec<_> = (0..1000)
        .map(|_| {
            let (store, begun) = (Arc::clone(&store), Arc::clone(&begun));
            tokio::spawn(async move {
                begun.fetch_add(1, Ordering::Relaxed);
                store.refresh_machines().await
            })
        })
        .collect();
    eventually("all have begun", async || load(&begun) == 1000).await;
    psql.send("COMMIT;");
    for call in calls {
        call.await.expect("no panic").expect("it answers");
    }
    let asked = load(&store.counters().polls) - polls;
    assert!((1..=10).contains(&asked), "{asked} questions");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_has_ended_counts_for_every_call_at_other_servers() {
    let server = Postgres::start();
    let mut settings = never_polled(settings(&[&server]));
    let writer = create(&settings).await;
    put(&writer, user(1000)).await;
    settings.fresh = Some(FRESH);
    let store = Arc::new(open(&settings).await);
    let ends = Arc::<AtomicBool>::default();
    let calls = {
        let (store, ends) = (Arc::clone(&store), Arc::clone(&ends));
        tokio::spawn(async move {
            let mut calls = 0_u64;
            while !ends.load(Ordering::Relaxed) {
                store.refresh().await.expect("it answers");
                calls += 1;
                tokio::task::yield_now().await;
            }
            calls
        })
    };
    let (begun, polls) = (Instant::now(), load(&store.counters().polls));
    for round in 0..20 {
        let changed = Account { flags: AccountFlags(0x202 - (round % 2) * 2), ..user(1000) };
        put(&writer, changed.clone()).await;
        store.refresh().await.expect("it answers");
        assert_eq!(store.revision().expect("it answers"), writer.revision().expect("it answers"), "{round}");
        assert_eq!(find(&store, name("user1000")).await.expect("it answers"), Some(changed), "{round}");
    }
    assert!(begun.elapsed() >= 20 * CHANGE_WAIT, "each change waits: {:?}", begun.elapsed());
    // Who makes a change that another one has just made waits, too.
    for round in 0..5 {
        let changed = Account { flags: AccountFlags(0x202 - (round % 2) * 2), ..user(1000) };
        let (first, again) = (put(&writer, changed.clone()), async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            let begun = Instant::now();
            put(&writer, changed.clone()).await;
            store.refresh().await.expect("it answers");
            assert_eq!(store.revision().expect("it answers"), writer.revision().expect("it answers"));
            begun.elapsed()
        });
        let ((), elapsed) = tokio::join!(first, again);
        assert!(elapsed >= CHANGE_WAIT, "{round}: it ended after {elapsed:?}");
    }
    // No process is notified of these.
    for round in 0..20 {
        let before = store.revision().expect("it answers");
        server.sql(CHANGED);
        tokio::time::sleep(CHANGE_WAIT).await;
        store.refresh().await.expect("it answers");
        assert_ne!(store.revision().expect("it answers"), before, "{round}");
    }
    ends.store(true, Ordering::Relaxed);
    let (calls, elapsed) = (calls.await.expect("no panic"), begun.elapsed());
    // Two reads in the time, and one for each NOTIFY.
    let reads = load(&store.counters().polls) - polls;
    let reads_max = 2 * elapsed.as_millis() / FRESH.as_millis() + 20;
    assert!(u128::from(reads) <= reads_max && calls > 20 * reads, "{reads} reads for {calls} calls");
}

/// A call that waits for the revision ends before it has its answer, as that of a client that goes away.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_ends_while_it_reads_leaves_the_others_their_answer() {
    let server = Postgres::start();
    let mut settings = never_polled(settings(&[&server]));
    settings.fresh = Some(Duration::ZERO);
    let store = Arc::new(create(&settings).await);
    put(&store, user(1000)).await;
    store.refresh().await.expect("it answers");
    let call = || {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.refresh().await })
    };
    for _ in 0..5 {
        let (before, connects) = (store.revision().expect("it answers"), load(&store.counters().connects));
        let mut psql = server.psql();
        psql.send("BEGIN; LOCK TABLE rcmpd.revision IN ACCESS EXCLUSIVE MODE; SELECT 'locked';");
        assert_eq!(psql.line(), "locked");
        let reads = call();
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        eventually("it reads", async || server.sql(waiting) == "1").await;
        let others: Vec<_> = (0..10).map(|_| call()).collect();
        reads.abort();
        assert!(reads.await.expect_err("it has ended").is_cancelled());
        psql.send(&format!("{CHANGED}; COMMIT;"));
        for other in others {
            other.await.expect("no panic").expect("it answers");
        }
        assert_ne!(store.revision().expect("it answers"), before, "what was committed before is seen");
        assert_eq!(load(&store.counters().connects), connects, "the connection is used again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_revision_cannot_be_read_no_call_is_answered_by_an_older_one() {
    let server = Postgres::start();
    let mut settings = never_polled(settings(&[&server]));
    settings.timeout = Duration::from_millis(500);
    settings.fresh = Some(Duration::ZERO);
    let store = create(&settings).await;
    settings.fresh = Some(Duration::from_secs(3600));
    let lenient = open(&settings).await;
    settings.fresh = Some(FRESH);
    let quick = open(&settings).await;
    put(&store, user(1000)).await;
    // A lock of the table: the server accepts connections and statements, and does not answer.
    let mut psql = server.psql();
    psql.send("BEGIN; LOCK TABLE rcmpd.revision IN ACCESS EXCLUSIVE MODE; SELECT 'locked';");
    assert_eq!(psql.line(), "locked");
    for _ in 0..3 {
        let error = store.refresh().await.expect_err("it was not read").to_string();
        assert!(error.contains("timeout"), "{error}");
    }
    lenient.refresh().await.expect("an hour has not passed");
    assert!(quick.refresh().await.is_err(), "more than the time has passed");
    let before = store.machine_revision().expect("it answers");
    psql.send(&format!("{CHANGED}; COMMIT; SELECT 'done';"));
    assert_eq!(psql.line(), "done");
    // The pool backs off after failures: those calls are errors, too.
    eventually("the revision is read again", async || store.refresh().await.is_ok()).await;
    assert_ne!(store.machine_revision().expect("it answers"), before);
    server.pause();
    assert!(store.refresh().await.is_err());
    assert!(store.refresh_machines().await.is_err());
    server.resume();
    eventually("the revision is read again", async || store.refresh().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_count_wrong_proofs_together_for_a_while() {
    let server = Postgres::start();
    let settings = settings(&[&server]);
    let (first, second) = (create(&settings).await, open(&settings).await);
    let at = |seconds: u64| FileTime((1000 + seconds) * SECOND);
    let since = |seconds: u64| (at(seconds), FileTime(at(seconds).0 - 900 * SECOND));
    let count = async |store: &PostgresStore, account, seconds| {
        answer(store.count_guess((SOURCE, account), since(seconds))).await
    };
    let known = async |source, account, seconds| {
        answer(second.attempts((source, "WEB01", account), since(seconds))).await.1
    };
    for before in 0..6 {
        let store = if before % 2 == 0 { &first } else { &second };
        assert_eq!(count(store, "WEB01$", u64::from(before)).await, before);
    }
    assert_eq!(known(SOURCE, "WEB01$", 6).await, 6);
    assert_eq!(known(SOURCE, "WEB02$", 6).await, 0, "each account has its own count");
    assert_eq!(known(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), "WEB01$", 6).await, 0, "and each source");
    assert_eq!(known(SOURCE, "WEB01$", 904).await, 6);
    assert_eq!(known(SOURCE, "WEB01$", 905).await, 0, "a quarter of an hour after the last one");
    assert_eq!(count(&first, "WEB01$", 905).await, 0);
    // Whatever is guessed at, the table has so many places.
    let places = "SELECT count(*), max(place) < 65536, min(place) >= 0 FROM rcmpd.guess";
    for n in 0..300 {
        let account = format!("WEB{n}$");
        answer(first.count_guess((SOURCE, &account), since(905))).await;
    }
    assert!(server.sql(places).ends_with("|t|t"), "{}", server.sql(places));
    server.sql("UPDATE rcmpd.guess SET failures = 999999");
    assert!(count(&first, "WEB01$", 906).await <= 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_say_who_they_are_and_are_forgotten_when_they_are_gone() {
    let server = Postgres::start();
    let settings = settings(&[&server]);
    let first = create(&settings).await;
    let settings = never_polled(settings);
    let second = open(&settings).await;
    let facts = |id: u8| ReplicaFacts {
        id: [id; 16],
        name: format!("host{id}"),
        version: "1.2.3".to_owned(),
        listeners: "127.0.0.1:49190".to_owned(),
    };
    assert_eq!(answer(first.replicas()).await.replicas, []);
    answer(first.announce(&facts(1), 0)).await;
    // A change of which no server is notified.
    server.sql("UPDATE rcmpd.revision SET machines = machines + 3, machines_epoch = 7");
    answer(second.announce(&facts(2), 0)).await;
    let found = answer(first.replicas()).await;
    assert_eq!(found.replicas.iter().map(|it| &it.facts).collect::<Vec<_>>(), [&facts(2), &facts(1)]);
    assert_eq!((found.replicas[0].behind, found.replicas[0].tables_version), (3, 3));
    assert_eq!(found.replicas[0].revisions[2] + 3, found.revisions[2]);
    assert!(found.replicas[0].clock_ms < 0, "its clock shows 1970");
    // A row that is old is removed by the next server that writes its own; so are those beyond the limit.
    server.sql("UPDATE rcmpd.replica SET seen_ms = seen_ms - 90000000 WHERE name = 'host2'");
    assert!(answer(first.replicas()).await.replicas[1].seen > Duration::from_secs(86_400));
    answer(first.announce(&facts(1), 0)).await;
    assert_eq!(answer(first.replicas()).await.replicas.len(), 1);
    for id in 0..=150 {
        answer(first.announce(&facts(id), 0)).await;
    }
    assert_eq!(server.sql("SELECT count(*) FROM rcmpd.replica"), "100");
    answer(first.withdraw([150; 16])).await;
    let found = answer(first.replicas()).await.replicas;
    assert!(found.len() == 99 && found.iter().all(|replica| replica.facts != facts(150)));
    let long = ReplicaFacts { name: "\u{e4}".repeat(1000), ..facts(1) };
    answer(first.announce(&long, 0)).await;
    assert_eq!(server.sql("SELECT max(length(name)) <= 255 FROM rcmpd.replica"), "t");
}
