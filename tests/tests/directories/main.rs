//! Stores that ask a directory of another program, which the tests start.

#![expect(clippy::unwrap_used, reason = "tests")]

mod forest;
mod hostile;
mod openldap;
mod openldap_battery;
mod openldap_outages;
mod proxy;
mod samba;
mod stub;
mod verify;

use account_store::{AccountStore, Matches, Query, Record, StoreError};
use rcmpd_tests::directory_store::{attribute, certificates, ldaps, posix, settings, settings_at};
use std::sync::Arc;
use store_ldap::{LdapStore, Meter, Settings};
use tokio::runtime::Runtime;

/// A store, and the runtime of its tasks.
struct Opened {
    store: LdapStore,
    runtime: Runtime,
    meter: Arc<Meter>,
}

impl Opened {
    fn of(settings: Settings) -> Self {
        let runtime = runtime();
        let meter = Arc::clone(&settings.meter);
        let store = runtime.block_on(async { LdapStore::open(settings) }).expect("good settings");
        Self { store, runtime, meter }
    }

    fn find(&self, query: Query) -> Result<Matches, StoreError> {
        self.runtime.block_on(self.store.find(&query))
    }

    #[track_caller]
    fn one(&self, query: Query) -> Arc<Record> {
        match self.find(query.clone()) {
            Ok(Matches::One(record)) => record,
            other => panic!("{query:?}: {other:?}"),
        }
    }

    #[track_caller]
    fn fails(&self, query: Query, why: &str) {
        let error = self.find(query).expect_err(why).to_string();
        assert!(error.contains(why), "{error} instead of {why}");
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn name(text: &str) -> Query {
    Query::Name(text.to_owned())
}

fn upn(text: &str) -> Query {
    Query::UserPrincipalName(text.to_owned())
}

fn identity(text: &str) -> Query {
    Query::AltSecurityIdentity(text.to_owned())
}
