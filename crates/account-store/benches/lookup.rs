//! What a look-up costs: `ACCOUNTS=1000,1000000 cargo bench -p account-store --features sqlite`.
//!
//! Each account has a UPN, an SPN, two mappings and five groups of its own; with those above them it is in
//! twelve. "Cold" asks for accounts in an order that the cache of answers cannot hold, with the file in the
//! page cache.

use account_store::{
    Account, AccountStore, Change, Domain, Group, GroupScope, Matches, MemoryStore, Profile, Put, Query,
    SqliteStore,
};
use account_store::{AccountAdmin, StoreError, json_lines};
use divan::{Bencher, black_box};
use dtyp::FileTime;
use std::future::Future;
use std::io::{BufReader, Write};
use std::pin::pin;
use std::sync::{LazyLock, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

fn main() {
    divan::main();
}

fn sizes() -> Vec<u32> {
    let sizes = std::env::var("ACCOUNTS").unwrap_or_else(|_| "1000,1000000".to_owned());
    sizes.split(',').map(|size| size.trim().parse().expect("ACCOUNTS is a list of numbers")).collect()
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a look-up is answered at once"),
    }
}

fn domain() -> Domain {
    Domain {
        netbios: "CONTOSO".to_owned(),
        dns: "contoso.example".to_owned(),
        sid: "S-1-5-21-3623811015-3361044348-30300820".parse().expect("a SID"),
    }
}

const FIRST: u32 = 10_000;
const GROUPS: u32 = 1_000;

fn account(n: u32) -> Account {
    Account {
        user_principal_name: Some(upn(n)),
        service_principal_names: vec![format!("host/host{n}.contoso.example")],
        alt_security_identities: vec![
            format!("X509:<I>DC=com,DC=contoso,CN=CONTOSO-CA<S>DC=com,DC=contoso,OU=Users,CN=User {n}"),
            identity(n),
        ],
        created: FileTime(133_500_000_000_000_000),
        password_last_set: FileTime(133_500_000_000_000_000),
        logon_count: 7,
        profile: Profile { full_name: format!("User {n}"), ..Profile::default() },
        ..Account::new(format!("user{n}"), domain().sid.with_rid(FIRST + n).expect("room for a RID"))
    }
}

fn upn(n: u32) -> String {
    format!("user{n}@contoso.example")
}

fn identity(n: u32) -> String {
    format!("X509:<I>DC=com,DC=contoso,CN=CONTOSO-CA<SR>{:08x}ac11000000002b", n.swap_bytes())
}

/// Groups in pairs of pairs: each has one above it, six deep.
fn changes(accounts: u32) -> impl Iterator<Item = Change> {
    let sid = |rid| domain().sid.with_rid(rid).expect("room for a RID");
    let group = move |n| {
        let group = Group { name: format!("group{n}"), sid: sid(1000 + n), scope: GroupScope::Global };
        let above = (n % 8 != 0).then(|| Change::AddMember { group: sid(999 + n), member: sid(1000 + n) });
        [Some(Change::PutGroup(Put::New, group)), above].into_iter().flatten()
    };
    let account = move |n: u32| {
        let groups = (0..5).map(move |m| (n * 7 + m * 211) % GROUPS);
        let member = move |group| Change::AddMember { group: sid(1000 + group), member: sid(FIRST + n) };
        std::iter::once(Change::PutAccount(Put::New, Box::new(account(n)))).chain(groups.map(member))
    };
    (0..GROUPS).flat_map(group).chain((0..accounts).flat_map(account))
}

struct Stored {
    accounts: u32,
    store: SqliteStore,
    _folder: tempfile::TempDir,
}

static STORES: LazyLock<Mutex<Vec<&'static Stored>>> = LazyLock::new(Mutex::default);

/// One store of each size, made by importing the lines that another one was exported as.
fn stored(accounts: u32) -> &'static Stored {
    let mut stores = STORES.lock().expect("no bench panics");
    if let Some(stored) = stores.iter().find(|stored| stored.accounts == accounts) {
        return stored;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let [first, second] = ["first.db", "accounts.db"].map(|name| folder.path().join(name));
    let open = |path| {
        SqliteStore::create(path, &domain()).expect("a new file");
        SqliteStore::open(path, None).expect("it opens")
    };
    let time = |what: &str, work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        eprintln!("{accounts} accounts: {what} {:.2?}", start.elapsed());
    };
    let source = open(&first);
    time("written in", &mut || {
        now(source.apply(&mut changes(accounts).map(Ok::<_, StoreError>))).expect("the rules are kept");
    });
    let lines = folder.path().join("lines");
    time("exported in", &mut || {
        let mut file = std::io::BufWriter::new(std::fs::File::create(&lines).expect("a file"));
        now(json_lines::export(&source, &mut file, &mut |_| ())).expect("the store can be read");
        file.flush().expect("the disk has room");
    });
    let store = open(&second);
    let len = lines.metadata().expect("it was written").len();
    time("imported in", &mut || {
        let mut file = BufReader::new(std::fs::File::open(&lines).expect("a file"));
        now(json_lines::import(&store, json_lines::ImportOptions::NEW, &mut file, len, &mut |_, _| ()))
            .expect("good lines");
    });
    eprintln!(
        "{accounts} accounts: {} MiB of lines, {} MiB in the file",
        len >> 20,
        second.metadata().expect("it exists").len() >> 20
    );
    drop(source);
    std::fs::remove_file(first).expect("it exists");
    let stored = Box::leak(Box::new(Stored { accounts, store, _folder: folder }));
    stores.push(stored);
    stored
}

fn ask(store: &dyn AccountStore, query: &Query) {
    match now(store.find(query)).expect("the store answers") {
        Matches::One(record) => drop(black_box(record)),
        other => panic!("{query:?}: {other:?}"),
    }
}

/// Visits every account once before it visits one again.
fn walk(accounts: u32) -> impl FnMut() -> u32 {
    let mut at = 0;
    move || {
        at = (at + 611_953) % accounts;
        at
    }
}

#[divan::bench(args = sizes())]
fn revision(bencher: Bencher<'_, '_>, accounts: u32) {
    let store = &stored(accounts).store;
    bencher.bench(|| store.revision().expect("the store answers"));
}

#[divan::bench(args = sizes())]
fn cached(bencher: Bencher<'_, '_>, accounts: u32) {
    let store = &stored(accounts).store;
    let query = Query::UserPrincipalName(upn(7));
    bencher.bench(|| ask(store, &query));
}

#[divan::bench(args = sizes(), sample_count = 200, sample_size = 100)]
fn cold_by_user_principal_name(bencher: Bencher<'_, '_>, accounts: u32) {
    cold(bencher, accounts, |n| Query::UserPrincipalName(upn(n)));
}

#[divan::bench(args = sizes(), sample_count = 200, sample_size = 100)]
fn cold_by_alt_security_identity(bencher: Bencher<'_, '_>, accounts: u32) {
    cold(bencher, accounts, |n| Query::AltSecurityIdentity(identity(n)));
}

#[divan::bench(args = sizes(), sample_count = 200, sample_size = 100)]
fn cold_absent(bencher: Bencher<'_, '_>, accounts: u32) {
    let store = &stored(accounts).store;
    let mut n = 0;
    bencher
        .with_inputs(|| {
            n += 1;
            Query::UserPrincipalName(format!("nobody{n}@contoso.example"))
        })
        .bench_local_refs(|query| now(store.find(query)).expect("the store answers"));
}

/// A commit between two questions makes every cached answer stale, so small stores are cold too.
fn cold(bencher: Bencher<'_, '_>, accounts: u32, query: impl Fn(u32) -> Query) {
    let store = &stored(accounts).store;
    let mut next = walk(accounts);
    if accounts < 100_000 {
        // Small enough to be cached whole: ask in a spelling that was not asked in before.
        let mut spelling = 0u64;
        return bencher
            .with_inputs(|| {
                spelling += 1;
                respell(query(next()), spelling)
            })
            .bench_local_refs(|query| ask(store, query));
    }
    bencher.with_inputs(|| query(next())).bench_local_refs(|query| ask(store, query));
}

fn respell(query: Query, n: u64) -> Query {
    let spell = |text: String| {
        let letter = |(at, c): (usize, char)| match n >> (at % 40) & 1 {
            0 => c.to_ascii_lowercase(),
            _ => c.to_ascii_uppercase(),
        };
        text.chars().enumerate().map(letter).collect()
    };
    match query {
        Query::UserPrincipalName(text) => Query::UserPrincipalName(spell(text)),
        Query::AltSecurityIdentity(text) => Query::AltSecurityIdentity(spell(text)),
        other => other,
    }
}

#[divan::bench]
fn memory(bencher: Bencher<'_, '_>) {
    let store = MemoryStore::new(domain());
    now(store.apply(&mut changes(1000).map(Ok))).expect("the rules are kept");
    let mut next = walk(1000);
    bencher
        .with_inputs(|| Query::UserPrincipalName(upn(next())))
        .bench_local_refs(|query| ask(&store, query));
}
