//! What a store keeps, with a server that the tests start.

#[path = "../../../tests/src/ports.rs"]
#[expect(unreachable_pub, reason = "the module is one of the harness, too")]
mod ports;
#[path = "../../../tests/src/postgres.rs"]
#[expect(dead_code, unreachable_pub, reason = "the module is one of the harness, too")]
mod postgres;

use account_store::{SealingKey, StoreError, battery};
use postgres::{DATABASE, PASSWORD, Postgres, USER};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex};
use store_postgres::{PostgresStore, Schema, Server, Settings};
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
/// A test makes one or two stores, each in a schema of its own.
static SCHEMAS: AtomicU32 = AtomicU32::new(0);
static SERVER: LazyLock<Mutex<Option<Arc<Postgres>>>> = LazyLock::new(Mutex::default);

fn empty() -> (PostgresStore, Arc<Postgres>) {
    let server = Arc::clone(
        SERVER.lock().expect("no test panicked in it").get_or_insert_with(|| Arc::new(Postgres::start())),
    );
    let mut settings =
        Settings::new(vec![Server::parse(&server.address()).expect("an address")], DATABASE, USER);
    settings.password = Some(Arc::new(|| Ok(Zeroizing::new(PASSWORD.to_owned()))));
    settings.timeout = std::time::Duration::from_secs(30);
    settings.max_age = std::time::Duration::from_secs(60);
    let number = SCHEMAS.fetch_add(1, Ordering::Relaxed);
    settings.schema = Schema::new(&format!("rcmpd_{number}")).expect("a plain name");
    let store = RUNTIME.block_on(async {
        PostgresStore::create(&settings, &battery::domain()).await?;
        let store = PostgresStore::open(settings, Some(&SealingKey::new([7; 32]))).await?;
        // What was known before the store listens for changes does not count when it does.
        while store.counters().polls.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        Ok::<_, StoreError>(store)
    });
    (store.expect("the server answers"), server)
}

account_store::account_store_battery!(empty);
account_store::machine_store_battery!(empty);

/// A store in SQLite and one in PostgreSQL keep together what one of them keeps: each second account is in
/// the other one.
mod beside_sqlite {
    use account_store::{AccountStore, Part, Record, SeveralStore, SqliteStore, battery};
    use std::sync::Arc;

    fn every_second(records: &[Record], from: usize) -> Vec<Record> {
        records.iter().skip(from).step_by(2).cloned().collect()
    }

    fn both(records: &[Record]) -> (SeveralStore, (tempfile::TempDir, Arc<super::Postgres>)) {
        let folder = tempfile::tempdir().expect("there is room");
        let path = folder.path().join("accounts.db");
        SqliteStore::create(&path, &battery::domain()).expect("a new file");
        let file = SqliteStore::open(&path, None).expect("it was just made");
        let (file, folder) = battery::filled((file, folder), &every_second(records, 0));
        let (server, keep) = battery::filled(super::empty(), &every_second(records, 1));
        let part = |name: &str, store: Arc<dyn AccountStore>| Part {
            name: name.to_owned(),
            store,
            suffixes: Vec::new(),
            issuers: Vec::new(),
        };
        let parts = vec![part("file", Arc::new(file)), part("server", Arc::new(server))];
        (SeveralStore::new(battery::domain(), parts).expect("two stores"), (folder, keep))
    }

    account_store::read_only_store_battery!(both);
}
