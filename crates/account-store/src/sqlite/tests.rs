use super::{SealingKey, SqliteStore};
use crate::battery;

fn empty() -> (SqliteStore, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("accounts.db");
    SqliteStore::create(&path, &battery::domain()).expect("a new file");
    let store = SqliteStore::open(&path, Some(&SealingKey::new([7; 32]))).expect("it opens");
    (store, folder)
}

battery::account_store_battery!(empty);
battery::machine_store_battery!(empty);
