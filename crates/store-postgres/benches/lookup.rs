//! What a look-up in PostgreSQL costs: `ACCOUNTS=1000000 cargo bench -p store-postgres`.
//!
//! The cost is processor time of this process, with all its threads; that of the server is beside it. Each
//! account has a UPN, an SPN, two mappings and five groups; with those above them it is in twelve. "Cold"
//! asks for each account once.

#[path = "../../../tests/src/ports.rs"]
#[expect(unreachable_pub, reason = "the module is one of the harness, too")]
mod ports;
#[path = "../../../tests/src/postgres.rs"]
#[expect(dead_code, unreachable_pub, reason = "the module is one of the harness, too")]
mod postgres;

use account_store::{
    Account, AccountAdmin, AccountStore, CacheSettings, CachedStore, Change, Domain, Group, GroupScope,
    Matches, Profile, Put, Query, battery,
};
use dtyp::{FileTime, Sid};
use postgres::{DATABASE, PASSWORD, Postgres, USER};
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::{Duration, Instant};
use store_postgres::{PostgresStore, Server, Settings};
use zeroize::Zeroizing;

const FIRST: u32 = 10_000;
const GROUPS: u32 = 1000;
/// The least of so many runs counts: neighbours on the same machine only ever add.
const RUNS: u32 = 5;
const LOOK_UPS: u32 = 20_000;
const AT_ONCE: u32 = 8;

fn sid(rid: u32) -> Sid {
    domain().sid.with_rid(rid).expect("room for a RID")
}

fn domain() -> Domain {
    battery::domain()
}

fn account(n: u32) -> Account {
    Account {
        user_principal_name: Some(format!("user{n}@contoso.example")),
        service_principal_names: vec![format!("host/host{n}.contoso.example")],
        alt_security_identities: vec![
            format!("X509:<I>DC=com,DC=contoso,CN=CONTOSO-CA<S>DC=com,DC=contoso,OU=Users,CN=User {n}"),
            identity(n),
        ],
        created: FileTime(133_500_000_000_000_000),
        profile: Profile { full_name: format!("User {n}"), ..Profile::default() },
        ..Account::new(format!("user{n}"), sid(FIRST + n))
    }
}

fn identity(n: u32) -> String {
    format!("X509:<I>DC=com,DC=contoso,CN=CONTOSO-CA<SR>{n:032x}")
}

/// Groups 5000 to 5999 are in groups 6000 to 6099, and those in 6100 to 6109.
fn changes(accounts: u32) -> impl Iterator<Item = Change> + Send {
    let group = |rid: u32| {
        let group = Group { name: format!("group {rid}"), sid: sid(rid), scope: GroupScope::Global };
        Change::PutGroup(Put::New, group)
    };
    let member = |group: u32, member: u32| Change::AddMember { group: sid(group), member: sid(member) };
    let groups = (5000..5000 + GROUPS).chain(6000..6100).chain(6100..6110).map(group);
    let above = (0..GROUPS).map(move |n| member(6000 + n % 100, 5000 + n));
    let top = (0..100).map(move |n| member(6100 + n % 10, 6000 + n));
    let users = (0..accounts).map(|n| Change::PutAccount(Put::New, Box::new(account(n))));
    let memberships = (0..accounts)
        .flat_map(move |n| (0..5).map(move |k| member(5000 + (n * 7 + k * 211) % GROUPS, FIRST + n)));
    groups.chain(above).chain(top).chain(users).chain(memberships)
}

/// Processor time of this process.
fn cpu() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().expect("it runs forward")
}

async fn ask(store: &Arc<dyn AccountStore>, accounts: u32, offset: u32) {
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|of| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                for n in (of..LOOK_UPS).step_by(AT_ONCE as usize) {
                    let n = (offset + n).wrapping_mul(2_654_435_761) % accounts;
                    let query = Query::AltSecurityIdentity(identity(n));
                    let found = store.find(&query).await.expect("the server answers");
                    let Matches::One(record) = found else { panic!("{query:?}: {found:?}") };
                    assert!(record.memberships.len() > 5);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
}

fn report(what: &str, cost: f64, budget: f64) {
    let verdict = if cost <= budget { "within" } else { "OVER" };
    println!("| {what} | {cost:.2} µs | {budget} µs | {verdict} |");
}

#[tokio::main(worker_threads = 1)]
async fn main() {
    let accounts: u32 = std::env::var("ACCOUNTS").map_or(1_000_000, |text| text.parse().expect("a number"));
    let server = Postgres::start_with(&["shared_buffers=512MB", "max_wal_size=4GB"]);
    let mut settings =
        Settings::new(vec![Server::parse(&server.address()).expect("an address")], DATABASE, USER);
    settings.password = Some(Arc::new(|| Ok(Zeroizing::new(PASSWORD.to_owned()))));
    settings.timeout = Duration::from_secs(60);
    settings.max_age = Duration::from_secs(3600);
    PostgresStore::create(&settings, &domain()).await.expect("the schema is empty");
    let store = PostgresStore::open(settings.clone(), None).await.expect("there is a store");
    let begun = Instant::now();
    store.apply(&mut changes(accounts).map(Ok)).await.expect("the change keeps the rules");
    println!("import of {accounts} accounts: {:.0} s", begun.elapsed().as_secs_f64());
    server.sql("VACUUM ANALYZE");
    for prepare in [false, true] {
        let settings = Settings { prepare, ..settings.clone() };
        let store = PostgresStore::open(settings, None).await.expect("there is a store");
        let store: Arc<dyn AccountStore> = Arc::new(store);
        ask(&store, accounts, 0).await;
        let mut least = [f64::MAX; 2];
        for run in 0..RUNS {
            let (before, begun) = (cpu(), Instant::now());
            ask(&store, accounts, (run + 1) * LOOK_UPS).await;
            let each = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(LOOK_UPS);
            least = [least[0].min(each(cpu() - before)), least[1].min(each(begun.elapsed()))];
        }
        let how = if prepare { "named statements" } else { "unnamed statements" };
        report(
            &format!(
                "look-up in PostgreSQL, cold, with groups, our processor time, {how}, {accounts} accounts"
            ),
            least[0],
            150.0,
        );
        println!("  wall clock at {AT_ONCE} questions at once: {:.0} µs each", least[1]);
        if !prepare {
            cached(store).await;
        }
    }
}

async fn cached(store: Arc<dyn AccountStore>) {
    let settings =
        CacheSettings { bytes: 64 << 20, ttl: Duration::from_secs(3600), stale_if_error: Duration::ZERO };
    let cache = CachedStore::new(store, settings);
    let queries: Vec<Query> = (0..1000).map(|n| Query::AltSecurityIdentity(identity(n))).collect();
    let mut least = f64::MAX;
    for _ in 0..RUNS + 1 {
        let begun = cpu();
        for _ in 0..100 {
            for query in &queries {
                assert!(matches!(cache.find(query).await, Ok(Matches::One(_))));
            }
        }
        least = least.min((cpu() - begun).as_secs_f64() * 1e6 / 100_000.0);
    }
    report("look-up in PostgreSQL, cached", least, 1.0);
}
