use super::{SealingKey, SqliteStore};
use crate::battery::{
    self, add, alice, apply, domain, find, group, machine, member, now, one, secrets, sid, user, web01,
};
use crate::sealing::UserSecretKind;
use crate::{
    Account, AccountAdmin, AccountFlags, AccountListing, AccountStore, Change, Machine, MachineAdmin,
    MachineStore, Matches, MemoryStore, NtHash, NtHashes, PasswordHash, PasswordHashes, Put, Query,
    StoreError,
};
use proptest::prelude::*;
use rusqlite::Connection;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use tempfile::TempDir;

fn key() -> SealingKey {
    SealingKey::new([7; 32])
}

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, Some(&key())).expect("it opens")
}

fn new_file() -> (PathBuf, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("accounts.db");
    SqliteStore::create(&path, &domain()).expect("a new file");
    (path, folder)
}

fn empty() -> (SqliteStore, TempDir) {
    let (path, folder) = new_file();
    (open(&path), folder)
}

battery::account_store_battery!(empty);
battery::machine_store_battery!(empty);

/// What a hand with the shell does.
fn shell(path: &Path, sql: &str) {
    Connection::open(path).and_then(|connection| connection.execute_batch(sql)).expect("good SQL");
}

fn name(text: &str) -> Query {
    Query::Name(text.to_owned())
}

fn open_error(path: &Path) -> StoreError {
    match SqliteStore::open(path, Some(&key())) {
        Ok(_) => panic!("{} opens", path.display()),
        Err(error) => error,
    }
}

#[test]
fn a_file_that_exists_is_not_made_anew() {
    let (path, folder) = new_file();
    apply(&open(&path), [add(alice())]);
    assert!(matches!(SqliteStore::create(&path, &domain()), Err(StoreError::Refused(_))));
    assert_eq!(one(&open(&path), name("alice")).account, alice());
    let names: Vec<_> = fs::read_dir(folder.path()).expect("it is there").flatten().collect();
    assert_eq!(names.len(), 1, "nothing unfinished is left: {names:?}");
    assert_eq!(path.metadata().expect("it is there").permissions().mode() & 0o777, 0o600);
}

#[test]
fn files_that_cannot_be_used_say_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let missing = open_error(&at("missing.db"));
    assert!(matches!(&missing, StoreError::Unavailable(why) if why.contains("missing.db")), "{missing}");
    assert!(!at("missing.db").exists(), "opening makes nothing");

    fs::write(at("text.db"), "these are not the accounts".repeat(100)).expect("a file");
    assert!(matches!(open_error(&at("text.db")), StoreError::Damaged(_)));

    shell(&at("other.db"), "CREATE TABLE account (name TEXT)");
    let other = open_error(&at("other.db")).to_string();
    assert!(other.contains("not a store of accounts"), "{other}");

    SqliteStore::create(&at("newer.db"), &domain()).expect("a new file");
    shell(&at("newer.db"), "PRAGMA user_version = 99");
    let newer = open_error(&at("newer.db")).to_string();
    assert!(newer.contains("version 99") && newer.contains("newer program"), "{newer}");

    SqliteStore::create(&at("nobody.db"), &domain()).expect("a new file");
    shell(&at("nobody.db"), "DELETE FROM domain");
    assert!(matches!(open_error(&at("nobody.db")), StoreError::Damaged(_)));
}

#[test]
fn an_unfinished_migration_is_done_when_the_file_is_opened() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("old.db");
    // Version 0 has no tables; the domain is what a first version would have put there.
    shell(&path, &format!("PRAGMA application_id = {}", 0x7263_6d70));
    assert!(matches!(open_error(&path), StoreError::Damaged(_)), "tables, but no domain");
    let version: i64 = Connection::open(&path)
        .and_then(|connection| connection.pragma_query_value(None, "user_version", |row| row.get(0)))
        .expect("a file");
    assert_eq!(version, 5);
}

#[test]
fn keys_folded_by_other_tables_are_made_anew() {
    let (path, _folder) = new_file();
    apply(&open(&path), [add(alice()), Change::PutGroup(Put::New, group(1100, "Staff"))]);
    shell(
        &path,
        "UPDATE domain SET fold = 'older'; UPDATE account SET name_key = 'x'; UPDATE account_group SET name_key = 'y';
         UPDATE account_key SET hash = CAST('z' || hex(hash) AS BLOB)",
    );
    let store = open(&path);
    assert_eq!(one(&store, name("ALICE")).account, alice());
    assert_eq!(
        one(&store, Query::AltSecurityIdentity(alice().alt_security_identities[0].clone())).account,
        alice()
    );
    assert!(now(store.group_by_name("staff")).expect("the store answers").is_some());
}

#[test]
fn what_others_commit_is_seen_by_the_next_question() {
    let (path, _folder) = new_file();
    let store = open(&path);
    apply(&store, [add(alice())]);
    let command_line = open(&path);
    for n in 1..50 {
        let revision = store.revision().expect("the store answers");
        assert_eq!(one(&store, name("alice")).account.logon_count, n - 1);
        let changed = Account { logon_count: n, ..alice() };
        apply(&command_line, [Change::PutAccount(Put::Existing, Box::new(changed))]);
        assert_eq!(one(&store, name("alice")).account.logon_count, n);
        assert_ne!(store.revision().expect("the store answers"), revision);
    }
    // The log begins anew, is emptied, or grows by what concerns no reader.
    for sql in [
        "PRAGMA wal_checkpoint(RESTART); UPDATE account SET flags = flags | 2",
        "PRAGMA wal_checkpoint(TRUNCATE); UPDATE account SET flags = flags & ~2",
        "CREATE TABLE mine (x); UPDATE account SET flags = flags | 2",
    ] {
        let before = one(&store, name("alice")).account.flags;
        shell(&path, sql);
        let after = one(&store, name("alice")).account.flags;
        assert_ne!(before.contains(AccountFlags::DISABLED), after.contains(AccountFlags::DISABLED), "{sql}");
    }
    shell(&path, "DELETE FROM account_key; DELETE FROM account");
    assert_eq!(find(&store, name("alice")), Matches::None);
}

#[test]
fn readers_on_all_threads_see_each_commit_at_once() {
    let (store, _folder) = empty();
    let pair = |n| [alice(), user(1014)].map(|account| Account { logon_count: n, ..account });
    let put = |n| pair(n).map(|account| Change::PutAccount(battery::REPLACE, Box::new(account)));
    apply(&store, put(0));
    let committed = AtomicU16::new(0);
    std::thread::scope(|scope| {
        for rid in [1013, 1014, 1013, 1014] {
            let (store, committed) = (&store, &committed);
            scope.spawn(move || {
                loop {
                    let least = committed.load(Ordering::SeqCst);
                    let query = Query::Sid(sid(rid));
                    let Ok(Matches::One(record)) = now(store.find(&query)) else { panic!("it is there") };
                    assert!(record.account.logon_count >= least, "an answer from the past");
                    if least == u16::MAX {
                        break;
                    }
                }
            });
        }
        for n in 1..200 {
            apply(&store, put(n));
            committed.store(n, Ordering::SeqCst);
        }
        apply(&store, put(u16::MAX));
        committed.store(u16::MAX, Ordering::SeqCst);
    });
}

#[test]
fn stores_of_one_file_come_and_go() {
    let (path, _folder) = new_file();
    apply(&open(&path), [add(alice())]);
    // A store that opens while the last one closes, many times.
    let mut store = open(&path);
    for n in 1..40 {
        let next = std::thread::scope(|scope| {
            let next = scope.spawn(|| open(&path));
            drop(store);
            next.join().expect("it opens")
        });
        let other = open(&path);
        let changed = Account { logon_count: n, ..alice() };
        apply(&other, [Change::PutAccount(Put::Existing, Box::new(changed))]);
        assert_eq!(one(&next, name("alice")).account.logon_count, n);
        store = next;
    }
}

#[test]
fn a_lock_is_an_error_and_not_an_absence() {
    let (path, _folder) = new_file();
    let store = open(&path);
    apply(&store, [add(alice())]);
    let other = Connection::open(&path).expect("it opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("no other writer");
    let error = battery::try_apply(&store, [add(user(2000))]).expect_err("another writer is there");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert_eq!(one(&store, name("alice")).account, alice(), "readers do not wait");
    other.execute_batch("COMMIT").expect("it was begun");
    apply(&store, [add(user(2000))]);
    drop((store, other));

    let owner = Connection::open(&path).expect("it opens");
    owner
        .execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE; COMMIT")
        .expect("no other writer is there");
    assert!(matches!(open_error(&path), StoreError::Unavailable(_)));
}

#[test]
fn damaged_pages_are_errors_and_not_absences() {
    let (path, folder) = new_file();
    let accounts = (0..600u32).map(|n| Account {
        user_principal_name: Some(format!("user{n}@contoso.com")),
        alt_security_identities: vec![format!("X509:<S>DC=com,DC=contoso,CN=User {n}")],
        ..user(2000 + n)
    });
    apply(&open(&path), accounts.map(add));
    let whole = fs::read(&path).expect("it is there");
    let queries = [
        name("user2300"),
        Query::UserPrincipalName("user300@contoso.com".to_owned()),
        Query::AltSecurityIdentity("X509:<S>DC=com,DC=contoso,CN=User 300".to_owned()),
        Query::Sid(sid(2300)),
    ];
    let damaged = folder.path().join("damaged.db");
    let (mut errors, mut answers) = (0, 0);
    let mut check = |what: &str| {
        let store = match SqliteStore::open(&damaged, None) {
            Ok(store) => store,
            Err(StoreError::Damaged(_)) => return errors += 1,
            Err(error) => panic!("{what}: {error}"),
        };
        for query in &queries {
            match now(store.find(query)) {
                Ok(Matches::One(record)) if record.account.sid == sid(2300) => answers += 1,
                Err(StoreError::Damaged(_)) => errors += 1,
                other => panic!("{what}: {query:?}: {other:?}"),
            }
        }
    };
    let pages = whole.len() / 4096;
    for page in 0..pages {
        for fill in [0x00, 0xff, 0x41] {
            let mut bytes = whole.clone();
            bytes[page * 4096..][..4096].fill(fill);
            if page == 0 {
                // Keep what says that this is one of our files at all.
                bytes[..100].copy_from_slice(&whole[..100]);
            }
            fs::write(&damaged, bytes).expect("the disk has room");
            check(&format!("page {page} of {fill:02x}"));
        }
    }
    for page in 1..pages {
        fs::write(&damaged, &whole[..page * 4096]).expect("the disk has room");
        check(&format!("{page} pages"));
    }
    assert!(errors > pages && answers > pages, "{errors} errors, {answers} answers");
}

#[test]
fn values_that_cannot_be_understood_are_damage() {
    for sql in [
        "UPDATE account SET kind = 'robot'",
        "UPDATE account SET service_principal_names = '[1]'",
        "UPDATE account SET service_principal_names = 'x'",
        "UPDATE account SET profile = '{\"x\":1}'",
        "UPDATE account SET extra_sids = '[\"S-2\"]'",
        "UPDATE account SET logon_hours = x'00'",
        "UPDATE account SET flags = -1",
        "UPDATE account SET expires = -1",
        "UPDATE account SET logon_count = 65536",
        "UPDATE account SET group_rids = x'010000'",
        "UPDATE account SET primary_group_id = 4294967296",
        "UPDATE account SET name = CAST(x'ff' AS TEXT)",
        "DELETE FROM account",
        "UPDATE account_group SET scope = 'galaxy'",
        "DELETE FROM revision",
    ] {
        let (path, _folder) = new_file();
        let store = open(&path);
        apply(&store, [add(alice()), Change::PutGroup(Put::New, group(1100, "Staff")), member(1100, 1013)]);
        let query = Query::UserPrincipalName("alice@contoso.com".to_owned());
        assert_eq!(one(&store, query.clone()).account, alice());
        shell(&path, sql);
        let answer = now(store.find(&query));
        assert!(matches!(answer, Err(StoreError::Damaged(_))), "{sql}: {answer:?}");
    }
}

#[test]
fn a_secret_belongs_to_its_row() {
    let (path, _folder) = new_file();
    let store = open(&path);
    let other = Machine { name: "OTHER$".to_owned(), sid: sid(1106), ..web01() };
    for (machine, secret) in [(web01(), 1), (other, 2)] {
        now(store.put_machine(Put::New, machine, Some(secrets(secret)))).expect("the rules are kept");
    }
    for sql in [
        "UPDATE machine SET sealed = (SELECT sealed FROM machine WHERE rid = 1106) WHERE rid = 1105",
        "UPDATE machine SET enabled = 0 WHERE rid = 1105",
        "UPDATE machine SET enabled = 2 WHERE rid = 1105",
        "UPDATE machine SET rcmp = 0 WHERE rid = 1105",
        "UPDATE machine SET kind = 'server' WHERE rid = 1105",
        "UPDATE machine SET name = 'web01$' WHERE rid = 1105",
        "UPDATE machine SET domains = '[\"CONTOSO\"]' WHERE rid = 1105",
        "UPDATE machine SET domains = '[\"CONTOSO\",\"FABRIKAM\",\"S-1-5\"]' WHERE rid = 1105",
        "UPDATE machine SET groups = '[]' WHERE rid = 1105",
        "UPDATE machine SET current_since = current_since + 1 WHERE rid = 1105",
        "UPDATE machine SET rid = 1107 WHERE rid = 1105",
        "UPDATE machine SET sealed = x'' WHERE rid = 1105",
        "UPDATE machine SET sealed = substr(sealed, 1, 60) WHERE rid = 1105",
        "UPDATE machine SET sealed = CAST(sealed || x'00' AS BLOB) WHERE rid = 1105",
    ] {
        shell(&path, &format!("CREATE TABLE kept AS SELECT * FROM machine; {sql}"));
        let answer = now(store.machine("WEB01$"));
        assert!(matches!(answer, Err(StoreError::Damaged(_))), "{sql}: {answer:?}");
        shell(&path, "DELETE FROM machine; INSERT INTO machine SELECT * FROM kept; DROP TABLE kept");
        assert!(machine(&store, "web01$").is_some(), "put back, it opens");
    }
    let sealed: Vec<u8> = Connection::open(&path)
        .and_then(|file| file.query_row("SELECT sealed FROM machine WHERE rid = 1105", [], |row| row.get(0)))
        .expect("it is there");
    for at in 0..sealed.len() {
        let mut sealed = sealed.clone();
        sealed[at] ^= 1;
        shell(&path, &format!("UPDATE machine SET sealed = x'{}' WHERE rid = 1105", dtyp::hex(&sealed)));
        assert!(matches!(now(store.machine("WEB01$")), Err(StoreError::Damaged(_))), "byte {at}");
    }
    drop(store);
    let text = fs::read(&path).expect("it is there");
    assert!(!text.windows(16).any(|bytes| bytes == [1; 16] || bytes == [2; 16]), "no secret lies open");
}

#[test]
fn without_its_key_a_store_tells_no_secrets() {
    let (path, _folder) = new_file();
    now(open(&path).put_machine(Put::New, web01(), Some(secrets(1)))).expect("the rules are kept");
    let other = SqliteStore::open(&path, Some(&SealingKey::new([8; 32])));
    assert!(matches!(other, Err(StoreError::OtherKey)));
    let without = SqliteStore::open(&path, None).expect("accounts need no key");
    for answer in [
        now(without.machine("web01$")).map(drop),
        now(without.rotate(sid(1105), None, crate::NtHash::new([1; 16]), dtyp::FileTime(1))).map(drop),
        now(without.put_machine(battery::REPLACE, web01(), Some(secrets(1)))),
    ] {
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    }
    assert_eq!(now(without.machines(0, 9)).expect("names are no secrets"), [web01()]);
    assert_eq!(find(&without, name("web01$")), Matches::None);
}

#[test]
fn secrets_of_a_lost_key_are_forgotten_and_nothing_else() {
    let (path, _folder) = new_file();
    let former = open(&path);
    apply(&former, [add(alice())]);
    let off = Machine { name: "X$".to_owned(), sid: sid(1106), enabled: false, ..web01() };
    for machine in [web01(), off.clone()] {
        now(former.put_machine(Put::New, machine, Some(secrets(1)))).expect("the rules are kept");
    }
    let key = SealingKey::new([8; 32]);
    let without = SqliteStore::open(&path, None).expect("accounts need no key");
    let forgotten = without.forget_secrets(&key, dtyp::FileTime(7)).expect("it is written");
    assert_eq!(forgotten.machines, ["WEB01$", "X$"]);
    let why = unavailable(&former, "a service under the former key");
    assert!(why.contains("another key file"), "{why}");
    assert!(matches!(SqliteStore::open(&path, Some(&SealingKey::new([7; 32]))), Err(StoreError::OtherKey)));
    let store = SqliteStore::open(&path, Some(&key)).expect("the new key opens it");
    let held = |name| machine(&store, name).expect("it is there");
    let (first, second) = (held("web01$"), held("x$"));
    assert_eq!((&first.machine, &second.machine), (&web01(), &off));
    assert_ne!(first.secrets.current, second.secrets.current);
    for held in [&first.secrets, &second.secrets] {
        assert_ne!(held.current, secrets(1).current);
        assert_eq!((held.current_since, &held.previous), (dtyp::FileTime(7), &None));
    }
    assert_eq!(one(&store, name("alice")).account, alice());
}

#[test]
fn key_files_are_their_owner_s_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("accounts.key");
    let made = SealingKey::create(&path).expect("a new file");
    let bytes = fs::read(&path).expect("it is there");
    assert_eq!(
        (bytes.len(), path.metadata().expect("it is there").permissions().mode() & 0o777),
        (32, 0o600)
    );
    assert!(matches!(SealingKey::create(&path), Err(StoreError::Refused(_))), "never made twice");
    assert_eq!(fs::read(&path).expect("it is there"), bytes);
    let reopened = SealingKey::open(&path).expect("it opens").new_seal();
    assert_eq!(reopened.check(), made.new_seal().check());
    assert_eq!(format!("{made:?}"), "[redacted]");
    for mode in [0o640, 0o604, 0o620, 0o610] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
        assert!(matches!(SealingKey::open(&path), Err(StoreError::Unavailable(_))), "{mode:o}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("it is ours");
    SealingKey::open(&path).expect("read-only will do");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
    for len in [0, 31, 33] {
        fs::write(&path, vec![1; len]).expect("it is ours");
        assert!(matches!(SealingKey::open(&path), Err(StoreError::Unavailable(_))), "{len} bytes");
    }
    assert!(matches!(SealingKey::open(folder.path()), Err(StoreError::Unavailable(_))));
    assert!(matches!(SealingKey::open(&folder.path().join("none")), Err(StoreError::Unavailable(_))));
}

const CHILD: &str = "ACCOUNT_STORE_TEST_CHILD";
const KILLS: u32 = 60;

/// Both accounts and a machine carry the same number; each change counts them on together.
fn numbered(n: u16) -> Vec<Change> {
    let put = |account: Account| {
        Change::PutAccount(battery::REPLACE, Box::new(Account { logon_count: n, ..account }))
    };
    let mut changes = vec![
        put(alice()),
        put(user(1014)),
        Change::PutGroup(battery::REPLACE, group(1100, &format!("g{n}"))),
    ];
    changes.push(match n % 2 {
        0 => member(1100, 1013),
        _ => Change::RemoveMember { group: sid(1100), member: sid(1013) },
    });
    let machine = Machine { domains: vec![n.to_string()], ..web01() };
    changes.push(Change::PutMachine(battery::REPLACE, Box::new(machine), Some(secrets(n as u8))));
    changes
}

/// The child of the next test; nothing without it.
#[test]
fn writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store = open(Path::new(&path));
    let start = one(&store, name("alice")).account.logon_count;
    for n in start + 1.. {
        apply(&store, numbered(n));
        println!("committed {n}");
    }
}

#[test]
fn a_writer_killed_at_any_moment_leaves_the_old_or_the_new() {
    let (path, _folder) = new_file();
    apply(&open(&path), numbered(0));
    let reader = open(&path);
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "sqlite::tests::writes_until_it_is_killed", "--nocapture", "--test-threads=1"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut committed = || {
            lines.by_ref().map_while(Result::ok).find_map(|line| {
                line.split_once("committed ").and_then(|(_, n)| n.trim().parse::<u16>().ok())
            })
        };
        let mut last = committed().expect("it commits");
        for _ in 0..round % 3 {
            last = committed().expect("it commits");
        }
        // Somewhere in the next commits, which take some hundred microseconds each.
        let mut random = [0; 2];
        getrandom::fill(&mut random).expect("random numbers");
        (0..u32::from(u16::from_le_bytes(random))).for_each(|_| std::hint::spin_loop());
        child.kill().expect("it runs");
        child.wait().expect("it was started");
        while let Some(n) = committed() {
            last = n;
        }
        // One store has been open all the time, one meets what was left.
        for store in [&reader, &open(&path)] {
            let alice = one(store, name("alice"));
            let n = alice.account.logon_count;
            assert!(n == last || n == last + 1, "{n} after {last} was committed");
            assert_eq!(one(store, name("user1014")).account.logon_count, n);
            assert_eq!(alice.memberships.len(), if n.is_multiple_of(2) { 2 } else { 1 }, "{n}");
            assert!(now(store.group_by_name(&format!("g{n}"))).expect("the store answers").is_some());
            let machine = machine(store, "web01$").expect("it is there");
            assert_eq!(
                (&machine.machine.domains, &machine.secrets),
                (&vec![n.to_string()], &secrets(n as u8))
            );
        }
    }
    let check: String = Connection::open(&path)
        .and_then(|file| file.query_row("PRAGMA integrity_check", [], |row| row.get(0)))
        .expect("it opens");
    assert_eq!(check, "ok");
}

#[test]
fn a_torn_log_loses_only_what_was_not_committed() {
    let (path, folder) = new_file();
    let store = open(&path);
    apply(&store, numbered(1));
    let log = path.with_extension("db-wal");
    let before = log.metadata().expect("it is there").len();
    apply(&store, numbered(2));
    let (file, log) = (fs::read(&path).expect("it is there"), fs::read(&log).expect("it is there"));
    let copy = folder.path().join("copy.db");
    let copy_log = folder.path().join("copy.db-wal");
    for cut in (before as usize..=log.len()).step_by(509).chain([log.len() - 1, log.len()]) {
        fs::write(&copy, &file).expect("the disk has room");
        fs::write(&copy_log, &log[..cut]).expect("the disk has room");
        // A page that did not reach the disk whole.
        if cut < log.len() && cut > before as usize {
            let torn = fs::OpenOptions::new().write(true).open(&copy_log).expect("it is there");
            torn.write_all_at(&[0x55], cut as u64 - 1).expect("the disk has room");
        }
        let _ = fs::remove_file(folder.path().join("copy.db-shm"));
        let n = one(&open(&copy), name("alice")).account.logon_count;
        assert_eq!(n, if cut == log.len() { 2 } else { 1 }, "{cut} of {} bytes", log.len());
    }
}

fn any_change() -> impl Strategy<Value = Change> {
    let (account, group) = (1000..1006u32, 1100..1105u32);
    let put = prop_oneof![Just(Put::New), Just(Put::Existing), Just(battery::REPLACE)];
    let entry = prop_oneof![account.clone(), group.clone()];
    let put_account = (put.clone(), account.clone(), 0..4u32, group.clone(), 0..3u32).prop_map(
        |(put, rid, name, primary_group_id, key)| {
            let account = Account {
                name: format!("n{name}"),
                primary_group_id,
                user_principal_name: Some(format!("U{key}@x")),
                ..user(rid)
            };
            Change::PutAccount(put, Box::new(account))
        },
    );
    let put_group = (put, group.clone(), 0..7u32)
        .prop_map(|(put, rid, name)| Change::PutGroup(put, battery::group(rid, &format!("n{name}"))));
    prop_oneof![
        4 => put_account,
        3 => put_group,
        1 => account.prop_map(|rid| Change::RemoveAccount(sid(rid))),
        1 => group.clone().prop_map(|rid| Change::RemoveGroup(sid(rid))),
        6 => (group.clone(), entry.clone()).prop_map(|(group, rid)| member(group, rid)),
        1 => (0..7u32, 0..7u32).prop_map(|(a, b)| Change::AddNamedMember { group: format!("n{a}"), member: format!("N{b}"), line: 0 }),
        2 => (group, entry).prop_map(|(group, rid)| Change::RemoveMember { group: sid(group), member: sid(rid) }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// The derived memberships against those of another backend and against a plain walk of the graph.
    #[test]
    fn any_changes_leave_the_same_in_memory_and_in_a_file(
        batches in prop::collection::vec(prop::collection::vec(any_change(), 1..6), 1..30)
    ) {
        let (file, _folder) = empty();
        let memory = MemoryStore::new(domain());
        for batch in batches {
            let outcomes = [&file as &dyn AccountAdmin, &memory]
                .map(|store| battery::try_apply(store, batch.clone()).map_err(|error| error.to_string()));
            prop_assert_eq!(&outcomes[0], &outcomes[1]);
            let questions = (1000..1006).map(|rid| Query::Sid(sid(rid)))
                .chain((0..3).map(|key| Query::UserPrincipalName(format!("u{key}@X"))));
            for query in questions {
                let found = find(&file, query.clone());
                prop_assert_eq!(&found, &find(&memory, query));
                if let Matches::One(record) = found {
                    let told: Vec<_> = record.memberships.iter().map(|membership| membership.sid).collect();
                    prop_assert_eq!(told, walked(&memory, &record.account));
                }
            }
        }
    }
}

/// All groups above an account, by asking for the direct ones again and again.
fn walked(store: &dyn AccountAdmin, account: &Account) -> Vec<dtyp::Sid> {
    let mut found = std::collections::BTreeSet::from([sid(account.primary_group_id)]);
    found.extend(now(store.member_of(&account.sid)).expect("the store answers"));
    loop {
        let above: Vec<_> =
            found.iter().flat_map(|group| now(store.member_of(group)).expect("the store answers")).collect();
        let len = found.len();
        found.extend(above);
        if found.len() == len {
            return found.into_iter().collect();
        }
    }
}

/// A copy as `.backup` of the shell makes it.
fn back_up(path: &Path, copy: &Path) {
    shell(path, &format!("VACUUM INTO '{}'", copy.display()));
}

/// `.restore` of the shell: the backup API of SQLite, into the file.
fn restore(path: &Path, copy: &Path) {
    let mut file = Connection::open(path).expect("it opens");
    file.restore("main", copy, None::<fn(rusqlite::backup::Progress)>).expect("it is restored");
}

/// Waits until the last comparison of the files counts no more.
fn look_again() {
    std::thread::sleep(super::watch::LOOK_COUNTS * 3 / 2);
}

fn unavailable(store: &SqliteStore, what: &str) -> String {
    look_again();
    let why = match store.revision() {
        Err(StoreError::Unavailable(why)) => why,
        other => panic!("{what}: {other:?}"),
    };
    for answer in [
        now(store.find(&name("alice"))).map(drop),
        now(store.machine("WEB01$")).map(drop),
        now(store.accounts(0, 9)).map(drop),
        now(store.groups(0, 9)).map(drop),
        now(store.members(&sid(1100))).map(drop),
        battery::try_apply(store, [add(user(3000))]),
        now(store.rotate(sid(1105), None, crate::NtHash::new([9; 16]), dtyp::FileTime(9))).map(drop),
    ] {
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{what}: {answer:?}");
    }
    why
}

#[test]
fn a_restored_back_up_makes_no_undone_answer_count_again() {
    let (path, folder) = new_file();
    let copy = folder.path().join("copy.db");
    let store = open(&path);
    let owned_by = |n: u16| Account { logon_count: n, ..alice() };
    let put = |n| Change::PutAccount(Put::Existing, Box::new(owned_by(n)));
    apply(&store, [add(owned_by(1)), Change::PutGroup(Put::New, group(1100, "Staff")), member(1100, 1013)]);
    now(store.put_machine(Put::New, web01(), Some(secrets(1)))).expect("the rules are kept");
    back_up(&path, &copy);
    let ask = || {
        let record = one(&store, name("alice"));
        let group = record.memberships[1].name.clone().expect("it has a name");
        (record.account.logon_count, group, machine(&store, "WEB01$").map(|record| record.secrets.clone()))
    };
    let revisions = || (store.revision().expect("it answers"), store.machine_revision().expect("it answers"));
    let first = (ask(), revisions());
    let mut undone = Vec::new();
    for n in 2..6u8 {
        // Each history counts to the same numbers.
        let changes = [put(n.into()), Change::PutGroup(Put::Existing, group(1100, &format!("g{n}")))];
        apply(&open(&path), changes);
        now(store.rotate(sid(1105), None, crate::NtHash::new([n; 16]), dtyp::FileTime(n.into())))
            .expect("it is there");
        let (count, called, held) = ask();
        assert_eq!((count, called), (n.into(), format!("g{n}")));
        assert_eq!(held.expect("it is there").current, crate::NtHash::new([n; 16]));
        let present = revisions();
        assert!(!undone.contains(&present), "a revision that was undone counts again");
        assert!(!present.0.is_unbroken_since(&first.1.0) && !present.1.is_unbroken_since(&first.1.1));
        undone.push(present);
        restore(&path, &copy);
        assert_eq!((ask(), revisions()), first, "what was restored is what it was");
        assert!(!revisions().0.is_unbroken_since(&first.1.0), "and something happened in between");
    }
}

#[test]
fn answers_of_contents_that_are_undone_while_they_are_read_are_not_kept() {
    let (path, folder) = new_file();
    let copy = folder.path().join("copy.db");
    let store = open(&path);
    let put = |n: u16| Change::PutAccount(battery::REPLACE, Box::new(Account { logon_count: n, ..alice() }));
    apply(&store, [put(1)]);
    back_up(&path, &copy);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    // Another spelling each time is another key, so most of these are read anew.
                    for spelling in ["alice", "Alice", "aLice", "alIce"] {
                        one_of(&store, spelling);
                    }
                }
            });
        }
        for _ in 0..40 {
            apply(&store, [put(2)]);
            restore(&path, &copy);
            for spelling in ["alice", "Alice", "aLice", "alIce"] {
                assert_eq!(one_of(&store, spelling), 1, "an answer that was undone is served");
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
}

fn one_of(store: &SqliteStore, spelling: &str) -> u16 {
    match now(store.find(&name(spelling))).expect("the store answers") {
        Matches::One(record) => record.account.logon_count,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_back_up_of_another_version_domain_or_key_is_noticed() {
    let (path, folder) = new_file();
    let at = |name: &str| folder.path().join(name);
    let store = open(&path);
    apply(&store, [add(alice())]);
    now(store.put_machine(Put::New, web01(), Some(secrets(1)))).expect("the rules are kept");
    back_up(&path, &at("copy.db"));

    // An older one is brought to the present version by the store that has it open.
    old_file(&at("old.db"), 2);
    restore(&path, &at("old.db"));
    assert_eq!(one(&store, name("alice")).account.logon_count, 77);
    apply(&store, [add(user(1099))]);
    assert_eq!(one(&store, name("user1099")).account, user(1099));
    // So is one whose names were folded by other tables.
    fs::copy(at("copy.db"), at("folded.db")).expect("a copy");
    shell(&at("folded.db"), "UPDATE domain SET fold = 'older'; UPDATE account SET name_key = 'x'");
    restore(&path, &at("folded.db"));
    assert_eq!(one(&store, name("alice")).account, alice());

    let other = crate::Domain { sid: "S-1-5-21-1-2-3".parse().expect("a SID"), ..domain() };
    SqliteStore::create(&at("other.db"), &other).expect("a new file");
    restore(&path, &at("other.db"));
    assert!(unavailable(&store, "another domain").contains("another domain"));
    restore(&path, &at("copy.db"));
    assert_eq!(one(&store, name("alice")).account, alice(), "the right one is served again");

    SqliteStore::create(&at("key.db"), &domain()).expect("a new file");
    drop(SqliteStore::open(&at("key.db"), Some(&SealingKey::new([8; 32]))).expect("it opens"));
    restore(&path, &at("key.db"));
    assert!(unavailable(&store, "another key").contains("another key"));
    shell(&at("any.db"), "CREATE TABLE account (name TEXT)");
    restore(&path, &at("any.db"));
    assert!(unavailable(&store, "no store").contains("no store of accounts"));
}

/// A file as an earlier version made it, with alice in it.
fn old_file(path: &Path, version: usize) {
    for migration in &super::schema::MIGRATIONS[..version] {
        shell(path, migration);
    }
    let domain = domain();
    shell(
        path,
        &format!(
            "PRAGMA application_id = {}; PRAGMA user_version = {version};
             INSERT INTO domain (id, netbios, dns, sid, next_rid, fold) VALUES (1, '{}', '{}', '{}', 1100, '{}');
             INSERT INTO account (rid, name, name_key, kind, service_principal_names, alt_security_identities, flags,
                 primary_group_id, expires, created, password_last_set, password_can_change, password_must_change,
                 logon_count, bad_password_count, profile, extra_sids, group_rids)
             VALUES (1013, 'Alice', 'alice', 'user', '[]', '[]', 512, 513, 0, 0, 0, 0, 0, 77, 0, '{{}}', '[]', x'01020000'),
                    (1014, 'ｂob', 'ｂob', 'user', '[]', '[]', 512, 513, 0, 0, 0, 0, 0, 78, 0, '{{}}', '[]', x'01020000')",
            0x7263_6d70,
            domain.netbios,
            domain.dns,
            domain.sid,
            crate::fold::version(),
        ),
    );
    if version >= 3 {
        // Since then, each name that is written is noted with what it looks like.
        shell(path, "INSERT INTO name_twin VALUES ('ｂob', 'bob')");
    }
}

#[test]
fn files_of_earlier_versions_are_brought_up() {
    for version in 1..super::schema::MIGRATIONS.len() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("old.db");
        old_file(&path, version);
        let store = open(&path);
        assert_eq!(one(&store, name("alice")).account.logon_count, 77);
        let elsewhere = Account { home_domain: Some("FABRIKAM".to_owned()), ..user(1099) };
        apply(&store, [add(elsewhere.clone())]);
        assert_eq!(one(&store, name("user1099")).account, elsewhere);
        let twin = battery::try_apply(&store, [add(Account { name: "bob".to_owned(), ..user(1098) })]);
        assert!(matches!(&twin, Err(StoreError::Refused(why)) if why.contains("looks like")), "{twin:?}");
    }
}

#[test]
fn a_replaced_file_is_not_served() {
    type Replace = fn(&Path, &Path);
    let wal = |path: &Path| path.with_extension("db-wal");
    let shm = |path: &Path| path.with_extension("db-shm");
    let cases: [(&str, Replace, &str); 7] = [
        ("moved over", |path, other| fs::rename(other, path).expect("it moves"), "replaced"),
        (
            "moved away and made anew",
            |path, other| {
                fs::rename(path, path.with_extension("gone")).expect("it moves");
                fs::copy(other, path).map(drop).expect("a copy");
            },
            "replaced",
        ),
        ("moved away", |path, _| fs::rename(path, path.with_extension("gone")).expect("it moves"), "removed"),
        (
            "copied over",
            |path, other| fs::write(path, fs::read(other).expect("it is there")).expect("a copy"),
            "overwritten",
        ),
        (
            "log removed",
            |path, _| fs::remove_file(path.with_extension("db-wal")).expect("it is there"),
            "removed",
        ),
        (
            "index removed",
            |path, _| fs::remove_file(path.with_extension("db-shm")).expect("it is there"),
            "removed",
        ),
        (
            "log and index removed",
            |path, _| {
                fs::remove_file(path.with_extension("db-wal")).expect("it is there");
                fs::remove_file(path.with_extension("db-shm")).expect("it is there");
            },
            "removed",
        ),
    ];
    for (what, replace, why) in cases {
        let (path, folder) = new_file();
        let other = folder.path().join("other.db");
        let store = open(&path);
        apply(&store, [add(alice())]);
        back_up(&path, &other);
        let changed = Account { logon_count: 5, ..alice() };
        apply(&store, [Change::PutAccount(Put::Existing, Box::new(changed))]);
        assert_eq!(one(&store, name("alice")).account.logon_count, 5);
        // Nothing that SQLite does by itself is a replacement, nor is a change of the mode.
        shell(&path, "PRAGMA wal_checkpoint(PASSIVE)");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("it is ours");
        tick(folder.path());
        touch(&path);
        fs::write(folder.path().join("beside"), "").expect("a file");
        assert_eq!(one(&store, name("alice")).account.logon_count, 5);
        assert!(wal(&path).exists() && shm(&path).exists());
        // The clock of the file system has ticks: what is done within one is one.
        tick(folder.path());
        replace(&path, &other);
        let told = unavailable(&store, what);
        assert!(told.contains(why) && told.contains("stop the service"), "{what}: {told}");
        // What was put there is left as it is.
        let there = fs::read(&path).ok();
        drop(store);
        if what != "log removed" {
            assert_eq!(fs::read(&path).ok(), there, "{what}");
        }
    }
}

/// Waits until the clock of the file system has moved.
fn tick(folder: &Path) {
    let probe = folder.join("clock");
    let time = || {
        fs::write(&probe, "x").expect("a file");
        probe.metadata().expect("it is there").modified().expect("it has a time")
    };
    let before = time();
    while time() == before {
        std::thread::yield_now();
    }
}

#[test]
fn checkpoints_of_any_process_are_no_replacement() {
    let (path, _folder) = new_file();
    let store = open(&path);
    apply(&store, [add(alice())]);
    let other = Connection::open(&path).expect("it opens");
    for n in 1..60u16 {
        let changed = Account { logon_count: n, ..alice() };
        apply(&store, [Change::PutAccount(Put::Existing, Box::new(changed))]);
        let how = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][usize::from(n) % 4];
        other.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |_| Ok(())).expect("it runs");
        assert_eq!(one_of(&store, "alice"), n, "{how}");
        store.check().expect("the files are ours");
    }
    // Nor are several between two looks.
    for n in 0..60usize {
        for (how, again) in [("RESTART", true), ("TRUNCATE", n % 3 == 0), ("FULL", n % 2 == 0)] {
            let change = "UPDATE account SET flags = flags";
            shell(&path, &format!("{change}; PRAGMA wal_checkpoint({how})"));
            if again {
                shell(&path, change);
            }
        }
        assert_eq!(one_of(&store, "alice"), 59, "round {n}");
    }
    other.execute_batch("VACUUM").expect("it runs");
    assert_eq!(one_of(&store, "alice"), 59);
}

#[test]
fn a_copy_over_the_file_is_noticed_right_after_a_change_by_another_process() {
    // Whether the log is empty, has frames, or was all written into the file before.
    for prepare in [
        "",
        "UPDATE account SET flags = flags",
        "UPDATE account SET flags = flags; PRAGMA wal_checkpoint(FULL)",
    ] {
        let (path, folder) = new_file();
        let copy = folder.path().join("copy.db");
        apply(&open(&path), [add(alice())]);
        back_up(&path, &copy);
        let store = open(&path);
        assert_eq!(one_of(&store, "alice"), 0);
        shell(&path, prepare);
        tick(folder.path());
        assert_eq!(one_of(&store, "alice"), 0);
        shell(&path, "UPDATE account SET logon_count = 9");
        tick(folder.path());
        fs::write(&path, fs::read(&copy).expect("it is there")).expect("a copy");
        let told = unavailable(&store, prepare);
        assert!(told.contains("overwritten"), "{prepare}: {told}");
    }
}

#[test]
fn logs_that_every_user_can_change_are_refused_behind_a_link() {
    use std::os::unix::fs::PermissionsExt;
    let (path, folder) = new_file();
    let link = folder.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).expect("a link");
    let store = open(&link);
    apply(&store, [add(alice())]);
    let serving = store.announce().expect("a note");
    let beside = |end: &str| std::path::PathBuf::from(format!("{}{end}", path.display()));
    assert!(beside("-serving").exists(), "the note is beside the file, so that every name leads to it");
    assert_eq!(open(&path).served_otherwise(), None);
    for end in ["-wal", "-shm"] {
        let mode =
            |mode| fs::set_permissions(beside(end), fs::Permissions::from_mode(mode)).expect("it is ours");
        mode(0o666);
        for name in [&path, &link] {
            let refused = SqliteStore::open(name, None).err().expect("it is refused").to_string();
            assert!(refused.contains(&format!("{end} can be changed by every user")), "{refused}");
        }
        mode(0o600);
    }
    open(&link);
    drop(serving);
}

#[test]
fn a_link_that_leads_elsewhere_is_noticed() {
    let (path, folder) = new_file();
    let (other, links) = (folder.path().join("other.db"), folder.path().join("links"));
    apply(&open(&path), [add(alice())]);
    back_up(&path, &other);
    fs::create_dir(&links).expect("a folder");
    let link = links.join("accounts.db");
    std::os::unix::fs::symlink(&path, &link).expect("a link");
    let store = open(&link);
    assert_eq!(one(&store, name("alice")).account, alice());
    tick(folder.path());
    std::os::unix::fs::symlink(&other, links.join("new")).expect("a link");
    fs::rename(links.join("new"), &link).expect("it moves");
    assert!(unavailable(&store, "another link").contains("replaced"));
}

fn touch(path: &Path) {
    let file = fs::OpenOptions::new().append(true).open(path).expect("it opens");
    file.set_modified(std::time::SystemTime::now()).expect("it is ours");
    // When a process closes a file, its locks on it are gone, SQLite's as well.
    std::mem::forget(file);
}

#[test]
fn a_touched_file_is_served_and_counted() {
    let (path, folder) = new_file();
    let store = open(&path);
    apply(&store, [add(alice())]);
    for change in ["SELECT 1", "PRAGMA wal_checkpoint(FULL)", "VACUUM"] {
        let before = store.touched();
        Connection::open(&path)
            .and_then(|connection| connection.query_row(change, [], |_| Ok(())).or(Ok(())))
            .expect("it runs");
        // The change and the touch are seen one after the other.
        look_again();
        assert_eq!(one(&store, name("alice")).account, alice(), "{change}");
        tick(folder.path());
        touch(&path);
        look_again();
        assert_eq!(one(&store, name("alice")).account, alice(), "{change}");
        assert_eq!(store.touched(), before + 1, "{change}");
    }
}

#[test]
fn checkpoints_of_several_connections_between_two_looks_are_no_replacement() {
    let (path, folder) = new_file();
    let store = open(&path);
    apply(&store, [add(alice())]);
    let copy = folder.path().join("copy.db");
    back_up(&path, &copy);
    let connections = [(); 2].map(|()| Connection::open(&path).expect("it opens"));
    let truncate = |n: usize| {
        connections[n].query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("it runs");
    };
    let change = |n: usize, sql: &str| connections[n].execute_batch(sql).expect("good SQL");
    let count = "UPDATE account SET logon_count = logon_count + 1";
    for (round, first) in [count, count, "CREATE TABLE mine (x)", "DROP TABLE mine", count].iter().enumerate()
    {
        truncate(1);
        tick(folder.path());
        store.check().expect("the files are ours");
        change(0, first);
        truncate(1);
        change(0, count);
        store.check().unwrap_or_else(|error| panic!("round {round}: {error}"));
        tick(folder.path());
        touch(&path);
        store.check().unwrap_or_else(|error| panic!("touched in round {round}: {error}"));
    }
    assert_eq!(one_of(&store, "alice"), 8);
    // A copy of an earlier time is none of this, whether it is SQLite's or of the file.
    drop(connections);
    for made_by_sqlite in [true, false] {
        let (path, folder) = new_file();
        let copy = folder.path().join("copy.db");
        apply(&open(&path), [add(alice())]);
        match made_by_sqlite {
            true => back_up(&path, &copy),
            false => drop(fs::copy(&path, &copy).expect("a copy")),
        }
        shell(&path, count);
        let store = open(&path);
        assert_eq!(one_of(&store, "alice"), 1);
        tick(folder.path());
        shell(&path, count);
        fs::write(&path, fs::read(&copy).expect("it is there")).expect("a copy");
        assert!(unavailable(&store, "copied over").contains("overwritten"));
    }
}

#[test]
fn what_was_committed_is_there_when_a_store_is_opened_again_after_an_alarm() {
    let (path, folder) = new_file();
    let away = folder.path().join("away");
    let store = open(&path);
    let mut serving = store.announce().expect("a note");
    apply(&store, [add(alice())]);
    tick(folder.path());
    fs::rename(&path, &away).expect("it moves");
    assert!(store.check().is_err());
    serving.update(&store);
    // Another file beside the log of this one is not opened, and the message says what each way costs.
    fs::copy(&away, &path).expect("a copy");
    serving.update(&store);
    let told = open_error(&path).to_string();
    assert!(told.contains("put that file back") && told.contains("undoes the changes"), "{told}");
    fs::rename(&away, &path).expect("it moves");
    assert!(store.check().is_err(), "it stays so until it is opened again");
    serving.update(&store);
    drop((serving, store));
    assert_eq!(one(&open(&path), name("alice")).account, alice());
}

#[test]
fn an_overwritten_file_is_not_opened_with_the_log_of_its_former_contents() {
    let (path, folder) = new_file();
    let copy = folder.path().join("copy.db");
    apply(&open(&path), [add(alice())]);
    back_up(&path, &copy);
    let store = open(&path);
    let mut serving = store.announce().expect("a note");
    shell(&path, "UPDATE account SET logon_count = 9");
    assert_eq!(one_of(&store, "alice"), 9);
    tick(folder.path());
    fs::write(&path, fs::read(&copy).expect("it is there")).expect("a copy");
    assert!(unavailable(&store, "copied over").contains("overwritten"));
    serving.update(&store);
    drop((serving, store));
    let told = open_error(&path).to_string();
    for part in ["undoes the changes", "back-up", "-serving"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    for suffix in ["-wal", "-shm"] {
        fs::rename(crate::file_access::beside_database(&path, suffix), folder.path().join(suffix))
            .expect("it moves");
    }
    assert_eq!(one_of(&open(&path), "alice"), 0);
}

#[test]
fn a_link_in_a_folder_of_the_path_is_noticed_at_once() {
    let (path, folder) = new_file();
    apply(&open(&path), [add(alice())]);
    let at = |name: &str| folder.path().join(name);
    for version in ["v1", "v2"] {
        fs::create_dir(at(version)).expect("a folder");
        back_up(&path, &at(version).join("accounts.db"));
    }
    std::os::unix::fs::symlink("v1", at("current")).expect("a link");
    let store = open(&at("current").join("accounts.db"));
    assert_eq!(one(&store, name("alice")).account, alice());
    std::os::unix::fs::symlink("v2", at("next")).expect("a link");
    fs::rename(at("next"), at("current")).expect("it moves");
    assert!(unavailable(&store, "another folder").contains("replaced"));
}

#[test]
fn a_note_that_is_no_file_of_ours_is_neither_followed_nor_waited_for() {
    let (path, folder) = new_file();
    let note = crate::file_access::beside_database(&path, "-serving");
    let other = folder.path().join("other");
    fs::write(&other, "other data").expect("a file");
    let store = open(&path);
    let is_refused = || {
        assert!(matches!(store.announce(), Err(StoreError::Unavailable(_))));
        assert_eq!(store.served_otherwise(), None);
        drop(open(&path));
        fs::remove_file(&note).expect("it is there still");
    };
    std::os::unix::fs::symlink(&other, &note).expect("a link");
    is_refused();
    fs::hard_link(&other, &note).expect("a link");
    is_refused();
    assert!(Command::new("mkfifo").arg(&note).status().expect("it runs").success());
    is_refused();
    assert_eq!(fs::read(&other).expect("it is there"), b"other data");
    // A lock of another program does not stop a service.
    let locked = fs::File::create(&note).expect("a file");
    locked.lock().expect("it is free");
    assert!(!store.announce().expect("a note").is_locked());
    locked.unlock().expect("it is locked");
    assert!(store.announce().expect("a note").is_locked());
    assert!(!note.exists(), "it is removed at the end");
}

/// The secret of the account with RID 1040, which `read` reads, opens only for the state of the account for
/// which it was sealed: `renamed`, 512, 77.
fn each_change_by_the_shell_is_found<S: PartialEq + std::fmt::Debug>(
    path: &Path,
    read: impl Fn() -> Result<S, StoreError>,
    sealed: &S,
) {
    for sql in [
        "UPDATE account SET flags = 514 WHERE rid = 1040",
        "UPDATE account SET expires = 0 WHERE rid = 1040",
        "UPDATE account SET name = 'other' WHERE rid = 1040",
    ] {
        shell(path, sql);
        assert!(matches!(read(), Err(StoreError::Damaged(_))), "{sql}");
        shell(path, "UPDATE account SET flags = 512, expires = 77, name = 'renamed' WHERE rid = 1040");
        assert_eq!(&read().expect("it is read"), sealed, "{sql}");
    }
}

#[test]
fn nt_hash_of_a_user_follows_its_account_and_opens_for_no_other_state() {
    let (path, _folder) = new_file();
    let store = open(&path);
    apply(&store, [add(user(1040)), add(user(1041))]);
    let read = |store: &SqliteStore| now(store.nt_hash(&sid(1040)));
    let is = |hash: Result<Option<NtHash>, StoreError>| hash.map(|hash| hash.map(|hash| *hash.expose()));
    assert_eq!(is(read(&store)).expect("it is read"), None);
    now(store.set_nt_hash(sid(1040), Some(NtHash::new([5; 16])))).expect("it is written");
    assert_eq!(is(read(&store)).expect("it is read"), Some([5; 16]));
    assert!(matches!(
        now(store.set_nt_hash(sid(1999), Some(NtHash::new([5; 16])))),
        Err(StoreError::Refused(_))
    ));

    // A change by the rules seals it again; one by the shell is found.
    let changed = Account { name: "renamed".to_owned(), expires: dtyp::FileTime(77), ..user(1040) };
    apply(&store, [Change::PutAccount(Put::Existing, Box::new(changed.clone()))]);
    assert_eq!(is(read(&store)).expect("it is read"), Some([5; 16]));
    each_change_by_the_shell_is_found(&path, || is(read(&store)), &Some([5; 16]));
    shell(&path, "INSERT INTO nt_hash SELECT 1041, sealed FROM nt_hash WHERE rid = 1040");
    assert!(matches!(now(store.nt_hash(&sid(1041))), Err(StoreError::Damaged(_))));
    let refused = now(store.nt_hash(&sid(1041))).expect_err("it is that of another account").to_string();
    assert!(refused.contains(&format!("({})", sid(1041))), "{refused}");
    // What the message says: the hash is removed, and a password is set again.
    assert!(refused.contains("--no-nt-hash"), "{refused}");
    now(store.set_nt_hash(sid(1041), None)).expect("it is removed");
    assert_eq!(is(now(store.nt_hash(&sid(1041)))).expect("it is read"), None);
    now(store.set_nt_hash(sid(1041), Some(NtHash::new([7; 16])))).expect("it is written");
    assert_eq!(is(now(store.nt_hash(&sid(1041)))).expect("it is read"), Some([7; 16]));

    // Without the key nothing is read, and no change loses the hash.
    drop(store);
    let without = SqliteStore::open(&path, None).expect("it opens");
    assert!(matches!(read(&without), Err(StoreError::Unavailable(_))));
    let disabled = Account { flags: AccountFlags(514), ..changed };
    let change = Change::PutAccount(Put::Existing, Box::new(disabled));
    assert!(matches!(battery::try_apply(&without, [change]), Err(StoreError::Unavailable(_))));
    drop(without);

    let store = open(&path);
    apply(&store, [Change::RemoveAccount(sid(1040)), add(user(1040))]);
    assert_eq!(is(read(&store)).expect("it is read"), None, "another account has the RID now");
    now(store.set_nt_hash(sid(1040), Some(NtHash::new([6; 16])))).expect("it is written");
    store.forget_secrets(&SealingKey::new([8; 32]), dtyp::FileTime(1)).expect("all are forgotten");
    drop(store);
    let store = SqliteStore::open(&path, Some(&SealingKey::new([8; 32]))).expect("it opens");
    assert_eq!(is(read(&store)).expect("it is read"), None);
}

/// Some hash; `n` is in its salt.
fn password_hash(n: u8) -> PasswordHash {
    let salt = ["AAAAAAAAAAAAAAAAAAAAAA", "AQEBAQEBAQEBAQEBAQEBAQ", "AgICAgICAgICAgICAgICAg"][usize::from(n)];
    let text = format!("$argon2id$v=19$m=19456,t=2,p=1${salt}$9D4GtnL4D3IG3x2S/kF8x9eZ+29BQtA5GGDvoE5CmzY");
    PasswordHash::from_phc(&text).expect("it is a hash")
}

fn phc(hash: Result<Option<PasswordHash>, StoreError>) -> Option<String> {
    hash.expect("it is read").map(|hash| hash.to_phc().to_string())
}

#[test]
fn password_hash_of_a_user_follows_its_account_and_opens_for_no_other_state() {
    let (path, _folder) = new_file();
    let store = open(&path);
    apply(&store, [add(user(1040)), add(user(1041))]);
    let read = |store: &SqliteStore| now(store.password_hash(&sid(1040)));
    let set = |store: &SqliteStore, n| now(store.set_password_hash(sid(1040), n));
    let text = |n| phc(Ok(Some(password_hash(n))));
    assert_eq!(phc(read(&store)), None);
    assert_eq!(phc(now(store.password_hash(&"S-1-5-21-9-9-9-1040".parse().expect("a SID")))), None);
    set(&store, Some(password_hash(0))).expect("it is written");
    assert_eq!(phc(read(&store)), text(0));
    set(&store, Some(password_hash(1))).expect("it is written");
    assert_eq!(phc(read(&store)), text(1));
    assert!(matches!(
        now(store.set_password_hash(sid(1999), Some(password_hash(0)))),
        Err(StoreError::Refused(_))
    ));
    for file in crate::file_access::database_files(&path) {
        let bytes = fs::read(&file).unwrap_or_default();
        assert!(!bytes.windows(8).any(|part| part == b"argon2id"), "{} has it in the clear", file.display());
    }

    // A change by the rules seals both kinds again; one by the shell is found.
    now(store.set_nt_hash(sid(1040), Some(NtHash::new([5; 16])))).expect("it is written");
    let changed = Account { name: "renamed".to_owned(), expires: dtyp::FileTime(77), ..user(1040) };
    apply(&store, [Change::PutAccount(Put::Existing, Box::new(changed.clone()))]);
    assert_eq!(phc(read(&store)), text(1));
    assert_eq!(now(store.nt_hash(&sid(1040))).expect("it is read"), Some(NtHash::new([5; 16])));
    each_change_by_the_shell_is_found(&path, || read(&store).map(|hash| phc(Ok(hash))), &text(1));
    // The hash of another account, and a secret of another kind.
    for sql in [
        "INSERT INTO password_hash SELECT 1041, sealed FROM password_hash WHERE rid = 1040",
        "UPDATE password_hash SET sealed = (SELECT sealed FROM nt_hash WHERE rid = 1040) WHERE rid = 1041",
        "UPDATE password_hash SET sealed = x'' WHERE rid = 1041",
        "UPDATE password_hash SET sealed = x'00' WHERE rid = 1041",
    ] {
        shell(&path, sql);
        let refused = now(store.password_hash(&sid(1041))).expect_err(sql);
        assert!(matches!(refused, StoreError::Damaged(_)), "{sql}: {refused}");
        let refused = refused.to_string();
        assert!(refused.contains("password hash") && refused.contains("--no-password"), "{refused}");
    }
    shell(&path, "INSERT INTO nt_hash SELECT 1041, sealed FROM password_hash WHERE rid = 1040");
    assert!(matches!(now(store.nt_hash(&sid(1041))), Err(StoreError::Damaged(_))));
    now(store.set_password_hash(sid(1041), None)).expect("it is removed");
    assert_eq!(phc(now(store.password_hash(&sid(1041)))), None);

    // Without the key nothing is read, and no change loses the hash.
    now(store.set_nt_hash(sid(1040), None)).expect("it is removed");
    drop(store);
    let without = SqliteStore::open(&path, None).expect("it opens");
    assert!(matches!(read(&without), Err(StoreError::Unavailable(_))));
    assert!(matches!(set(&without, Some(password_hash(0))), Err(StoreError::Unavailable(_))));
    let disabled = Account { flags: AccountFlags(514), ..changed };
    let change = Change::PutAccount(Put::Existing, Box::new(disabled));
    assert!(matches!(battery::try_apply(&without, [change]), Err(StoreError::Unavailable(_))));
    drop(without);
    assert!(matches!(SqliteStore::open(&path, Some(&SealingKey::new([8; 32]))), Err(StoreError::OtherKey)));

    let store = open(&path);
    assert_eq!(phc(read(&store)), text(1));
    apply(&store, [Change::RemoveAccount(sid(1040)), add(user(1040))]);
    assert_eq!(phc(read(&store)), None, "another account has the RID now");
    set(&store, Some(password_hash(2))).expect("it is written");
    store.forget_secrets(&SealingKey::new([8; 32]), dtyp::FileTime(1)).expect("all are forgotten");
    drop(store);
    let store = SqliteStore::open(&path, Some(&SealingKey::new([8; 32]))).expect("it opens");
    assert_eq!(phc(read(&store)), None);
}

#[test]
fn each_change_of_a_password_hash_is_another_revision() {
    let (path, _folder) = new_file();
    let (store, service) = (open(&path), open(&path));
    apply(&store, [add(user(1040)), add(user(1041))]);
    let mut seen = service.revision().expect("it is read");
    let mut changes = |what: &str, expected: bool| {
        let revision = service.revision().expect("it is read");
        assert_eq!(revision != seen, expected, "{what}");
        seen = revision;
    };
    changes("nothing", false);
    now(store.set_password_hash(sid(1040), Some(password_hash(0)))).expect("it is written");
    changes("a new hash", true);
    now(store.set_password_hash(sid(1040), Some(password_hash(0)))).expect("it is written");
    changes("the same hash, which is sealed again", true);
    now(store.set_password_hash(sid(1040), None)).expect("it is removed");
    changes("a removed hash", true);
    now(store.set_password_hash(sid(1040), None)).expect("there is none");
    changes("no hash to remove", false);
    shell(&path, "INSERT INTO password_hash VALUES (1040, x'00')");
    changes("a hash by the shell", true);
    shell(&path, "UPDATE password_hash SET sealed = x'01'");
    changes("a change by the shell", true);
    shell(&path, "DELETE FROM password_hash");
    changes("a removal by the shell", true);
}

#[test]
fn secrets_that_an_earlier_version_sealed_still_open() {
    // A key file, an account, and the hash that a program of version 4 of the file sealed for it. The NT hash
    // of the password is that of `openssl dgst -md4`.
    let key = bytes::<32>("c8ec399143b598900c66c12b2b13eefe2ddb9c40a5cfe74c69bffc435145bec4");
    let sealed = bytes::<44>(
        "04a2b589bfbc60e97c7761766c78bd9801df1b282afedcfd1f25e02b9848f33cb9bdf77827c2a95393606d1c",
    );
    let sid = "S-1-5-21-858322016-1448407485-166416515-1001".parse().expect("a SID");
    let account = Account { flags: AccountFlags(512), ..Account::new("alice", sid) };
    assert_eq!(account.expires.0, i64::MAX.cast_unsigned());
    let seal = SealingKey::new(key).new_seal();
    let open = |kind| seal.open_of_user(kind, &account, &sealed);
    let hash = open(UserSecretKind::NtHash).expect("it opens");
    assert_eq!(dtyp::hex(&hash), "4ae9c10a8c7d1b1ee41bb81e54076743");
    assert!(matches!(open(UserSecretKind::PasswordHash), Err(StoreError::Damaged(_))));
}

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    let mut bytes = [0; N];
    dtyp::read_hex(hex.as_bytes(), &mut bytes).expect("hexadecimal digits");
    bytes
}
