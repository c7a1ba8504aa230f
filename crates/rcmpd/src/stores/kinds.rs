//! Kinds of store: the accounts that a kind opens, and the kinds that a build of `rcmpd` adds to its own.
//!
//! A program of its own adds a kind and runs everything else of `rcmpd`:
//!
//! ```no_run
//! use account_store::MemoryStore;
//! use rcmpd::stores::{Accounts, Kinds};
//! use std::sync::Arc;
//!
//! fn main() -> std::process::ExitCode {
//!     // [store]
//!     // kind = "empty"
//!     let kinds = Kinds::default().with("empty", |domain, _settings| async {
//!         Ok(Accounts::read_only(Arc::new(MemoryStore::new(domain))))
//!     });
//!     rcmpd::main_with(kinds)
//! }
//! ```

use super::compared::{Compared, ComparedStore};
use super::traced::TracedStore;
use account_store::admin::each_account;
use account_store::{
    Account, AccountAdmin, AccountListing, AccountStore, BoxFuture, CacheSettings, CachedStore, Domain,
    MemoryStore, SeveralStore,
};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Why a kind cannot open its accounts: what is wrong, where, and what to do.
pub type OpenError = Box<dyn std::error::Error + Send + Sync>;

/// The kinds that `rcmpd` has itself.
pub(crate) const BUILT_IN: [&str; 7] =
    ["sqlite", "postgres", "memory", "profile", "ldap", "socket", "several"];

/// The accounts of a configuration, with what their kind of store can do.
#[derive(Clone)]
pub struct Accounts {
    /// For decisions.
    pub store: Arc<dyn AccountStore>,
    /// For commands and explanations that look through all accounts; `None` if the store cannot be listed.
    pub listing: Option<Arc<dyn AccountListing>>,
    /// For commands that change accounts; `None` if the store is read-only.
    pub admin: Option<Arc<dyn AccountAdmin>>,
    /// The cache in front of the store, where that is elsewhere.
    pub(crate) cache: Option<Arc<CachedStore>>,
    /// The caches in front of those of several stores that are elsewhere, by the name of the store.
    pub(crate) part_caches: Vec<(String, Arc<CachedStore>)>,
    /// The stores of `kind = "several"`.
    pub(crate) several: Option<Arc<SeveralStore>>,
    /// The second store, whose answers are only compared.
    pub(crate) compared: Option<Arc<Compared>>,
}

impl Accounts {
    /// Accounts that can be looked up one by one, and not be listed.
    pub fn read_only(store: Arc<dyn AccountStore>) -> Self {
        Self {
            store,
            listing: None,
            admin: None,
            cache: None,
            part_caches: Vec::new(),
            several: None,
            compared: None,
        }
    }

    /// Accounts that can be listed, and not be changed by commands.
    pub fn listed(listing: Arc<dyn AccountListing>) -> Self {
        Self { listing: Some(Arc::clone(&listing)), ..Self::read_only(listing as _) }
    }

    /// Accounts that can be listed and changed.
    pub fn writable(admin: Arc<dyn AccountAdmin>) -> Self {
        Self { admin: Some(Arc::clone(&admin)), ..Self::listed(admin as _) }
    }

    /// The same, and look-ups are spans below those of their calls. `kind` is the word of the configuration.
    pub(super) fn traced(self, kind: &'static str) -> Self {
        Self { store: Arc::new(TracedStore { store: self.store, kind }), ..self }
    }

    /// The same, with a cache in front of the look-ups.
    pub(crate) fn cached(self, settings: CacheSettings) -> Self {
        let cache = Arc::new(CachedStore::new(self.store, settings));
        Self { store: Arc::clone(&cache) as _, cache: Some(cache), ..self }
    }

    /// Accounts of several stores.
    pub(super) fn several(several: Arc<SeveralStore>, part_caches: Vec<(String, Arc<CachedStore>)>) -> Self {
        Self { several: Some(Arc::clone(&several)), part_caches, ..Self::read_only(several as _) }
    }

    /// The same, and look-ups are compared with those in another store.
    pub(super) fn compared(self, second: Arc<Compared>) -> Self {
        let store = Arc::new(ComparedStore::new(Arc::clone(&self.store), Arc::clone(&second)));
        Self { store, compared: Some(second), ..self }
    }

    /// No accounts, for a service that decides about none itself.
    pub fn none(domain: Domain) -> Self {
        Self::listed(Arc::new(MemoryStore::new(domain)))
    }

    /// Passes all accounts to `look_at`, in ascending order of RID, until it returns `false`; none if the
    /// store cannot be listed. It may take seconds without a pause.
    pub async fn each(&self, look_at: impl FnMut(&Account) -> bool) -> anyhow::Result<()> {
        match &self.listing {
            Some(listing) => Ok(each_account(&**listing, look_at).await?),
            None => Ok(()),
        }
    }
}

/// What `[store]` has for an added kind: `path` and the table `[store.settings]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `store.path`, resolved against the folder of the configuration file.
    pub path: Option<PathBuf>,
    folder: PathBuf,
    table: toml::Table,
}

impl Settings {
    pub(crate) fn new(path: Option<&Path>, folder: &Path, table: toml::Table) -> Self {
        Self { path: path.map(|path| folder.join(path)), folder: folder.to_owned(), table }
    }

    /// Reads `[store.settings]`. A type with `#[serde(deny_unknown_fields)]` refuses keys that are misspelt.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, OpenError> {
        let read = toml::Value::Table(self.table.clone()).try_into();
        read.map_err(|error: toml::de::Error| format!("[store.settings]: {}", error.message()).into())
    }

    /// A path of the settings, resolved against the folder of the configuration file.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }
}

type Open = dyn Fn(Domain, Settings) -> BoxFuture<'static, Result<Accounts, OpenError>> + Send + Sync;

/// The kinds of store that a build of `rcmpd` adds.
#[derive(Clone, Default)]
pub struct Kinds(BTreeMap<String, Arc<Open>>);

static ADDED: OnceLock<Kinds> = OnceLock::new();

impl Kinds {
    /// Adds a kind for `[store] kind = "KIND"`. `open` is called in a tokio runtime: once by `serve` at its
    /// start and again at each reload, which drops the accounts of before, and once by each command that
    /// reads accounts. The store that it opens has to be of the domain it is given.
    ///
    /// # Panics
    ///
    /// If `rcmpd` has a kind of this name.
    #[must_use]
    pub fn with<F, Opened>(mut self, kind: &str, open: F) -> Self
    where
        F: Fn(Domain, Settings) -> Opened + Send + Sync + 'static,
        Opened: Future<Output = Result<Accounts, OpenError>> + Send + 'static,
    {
        assert!(!BUILT_IN.contains(&kind), "rcmpd has a kind of store with the name {kind:?}");
        self.0.insert(kind.to_owned(), Arc::new(move |domain, settings| Box::pin(open(domain, settings))));
        self
    }

    /// Adds these kinds to the ones of this process, once, before its configuration is read.
    pub(crate) fn install(self) {
        // A process has one command line, so nothing else has set them.
        let _ = ADDED.set(self);
    }
}

/// The names of the added kinds.
pub(crate) fn added() -> impl Iterator<Item = &'static str> {
    ADDED.get().into_iter().flat_map(|kinds| kinds.0.keys()).map(String::as_str)
}

/// Opens the accounts of an added kind.
pub(super) async fn open(kind: &str, domain: &Domain, settings: &Settings) -> Result<Accounts, OpenError> {
    let open = ADDED.get().and_then(|kinds| kinds.0.get(kind)).ok_or("this build has no such kind")?;
    let accounts = open(domain.clone(), settings.clone()).await?;
    match accounts.store.domain() == domain {
        true => Ok(accounts),
        false => Err("the store is of another domain than [domain]".into()),
    }
}
