//! `rcmpd` with one more kind of store: `[store] kind = "csv"`.

use csv_store::CsvStore;
use rcmpd::stores::{Accounts, Kinds};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// `[store.settings]`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Between the fields of a line.
    separator: Option<char>,
}

/// How often the file is read: a cached decision may outlive a change to the file by this long.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Ends when the store is dropped, as at a reload.
async fn poll(store: Weak<CsvStore>) {
    while let Some(store) = store.upgrade() {
        store.refresh();
        drop(store);
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn main() -> std::process::ExitCode {
    rcmpd::main_with(Kinds::default().with("csv", |domain, settings| async move {
        let path = settings.path.clone().ok_or("store.path is missing: name the CSV file")?;
        let separator = settings.read::<Settings>()?.separator.unwrap_or(',');
        let store = Arc::new(CsvStore::open(domain, path, separator)?);
        tokio::spawn(poll(Arc::downgrade(&store)));
        Ok(Accounts::read_only(store))
    }))
}
