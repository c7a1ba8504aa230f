//! The sealed master secret, as the service has it: read again when another process changed the file.

use super::operations::{Done, Keep, Operation, Right};
use crate::config::{SealRef, SecretRef, Sso, TokenRef};
use anyhow::bail;
use sso_secret::share::ShareFolder;
use sso_secret::token::TokenKey;
use sso_secret::{
    KeyFile, MachineId, OpenSecret, Passphrase, PassphraseCost, Sealed, SealingSource, SecretStore,
    SourceError, SourceKind, State, Status, StoreError,
};
use sso_service::{BoxFuture, CurrentSecret, MasterSecret, MasterSecrets, SecretState, StoreFailed};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing::{error, info};

/// How often the sealed file is looked at where no call does, for metrics and the log.
pub(super) const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The store of a running service.
pub struct LiveSecrets {
    store: SecretStore,
    stopping: AtomicBool,
    /// What the last look found.
    seen: Mutex<Seen>,
    /// That a token gave no key. It counts wrong PINs, so operations do not ask it again before a reload.
    refused: Mutex<Option<Sealed>>,
}

struct Seen {
    state: State,
    /// What is delivered. While the file is one that was rolled back, this is the newest secret that this
    /// process has seen.
    delivered: Option<Arc<OpenSecret>>,
    facts: SecretFacts,
}

impl Seen {
    fn new(state: State, facts: SecretFacts, before: Option<Arc<OpenSecret>>) -> Self {
        let delivered = match &state {
            // Of two looks at once, the later one may have read the newer file.
            State::Open(open) => Some(before.filter(|before| open.is_behind(before)).unwrap_or(open.clone())),
            State::RolledBack(_) => before,
            State::None | State::Sealed(_) => None,
        };
        Self { state, delivered, facts }
    }
}

/// Facts for metrics: none of them is secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretFacts {
    /// `none`, `sealed` or `open`.
    pub state: &'static str,
    /// The newest generation; 0 if there is none.
    pub generation: u64,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// When the last backup was written.
    pub last_backup: u64,
    /// Whether that backup has the newest generation.
    pub backup_is_current: bool,
    /// When the last drill passed.
    pub last_drill: u64,
    /// Whether the data folder is a copy.
    pub is_copy: bool,
    /// Whether an older sealed file was put back.
    pub is_rolled_back: bool,
}

impl SecretFacts {
    fn new(state: &State, status: &Status) -> Self {
        let facts = status.facts.as_ref();
        let newest = facts.and_then(|facts| facts.generations.first());
        Self {
            state: status.state,
            generation: newest.map_or(0, |newest| u64::from(newest.number)),
            created: newest.map_or(0, |newest| newest.created.0),
            last_backup: facts.and_then(|facts| facts.last_backup).map_or(0, |time| time.0),
            backup_is_current: facts.is_some_and(|facts| facts.backup_is_current),
            last_drill: facts.and_then(|facts| facts.last_drill).map_or(0, |time| time.0),
            is_copy: facts.is_some_and(|facts| facts.is_copy),
            is_rolled_back: matches!(state, State::RolledBack(_)),
        }
    }
}

impl std::fmt::Debug for LiveSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LiveSecrets")
    }
}

/// The store that a configuration names; nothing is read yet.
pub fn store(section: &Sso) -> SecretStore {
    SecretStore::new(&section.folder, seal_source(&section.seal), MachineId::from_system())
}

/// What a configuration seals the secret with.
pub fn seal_source(seal: &SealRef) -> Arc<dyn SealingSource> {
    match seal {
        SealRef::Key(SecretRef::File(path)) => Arc::new(KeyFile::file(path)),
        SealRef::Key(SecretRef::Credential(name)) => {
            let directory = std::env::var_os("CREDENTIALS_DIRECTORY");
            Arc::new(KeyFile::credential(name, directory.as_deref().map(Path::new)))
        }
        // INVARIANT: a configuration refuses a key in the environment.
        SealRef::Key(reference) | SealRef::Passphrase(reference) => passphrase(reference),
        SealRef::Shares(folder) => Arc::new(ShareFolder::new(folder)),
        SealRef::Token(token) => Arc::new(token_key(token)),
    }
}

/// A key in a token.
pub fn token_key(token: &TokenRef) -> TokenKey {
    let TokenRef { module, token, serial, key, pin } = token;
    let pin = pin.clone();
    let read =
        move || pin.read().map_err(|missing| SourceError::Unusable(format!("cannot be used: {missing}")));
    TokenKey::new(module, token, key, read).with_serial(serial.clone())
}

/// A passphrase by reference.
pub fn passphrase(reference: &SecretRef) -> Arc<dyn SealingSource> {
    let name = match reference {
        SecretRef::File(path) => format!("file:{}", path.display()),
        SecretRef::Environment(name) => format!("env:{name}"),
        SecretRef::Credential(name) => format!("cred:{name}"),
    };
    let reference = reference.clone();
    let read = move || reference.read().map_err(|missing| SourceError::Unusable(missing.to_string()));
    Arc::new(Passphrase::new(&name, PassphraseCost::DEFAULT, read))
}

impl LiveSecrets {
    /// Looks at the store, which may have been looked at before. Blocks for the disk, and for argon2id if the
    /// secret is sealed by a passphrase.
    pub fn open(store: SecretStore) -> Self {
        let state = store.state();
        let facts = SecretFacts::new(&state, &store.status_of(&state));
        let seen = Seen::new(state, facts, None);
        report(&seen);
        let seen = Mutex::new(seen);
        Self { store, stopping: AtomicBool::new(false), seen, refused: Mutex::default() }
    }

    /// Looks whether the file was replaced. Blocks.
    pub fn look(&self) {
        self.see(self.store.state());
    }

    /// The same from time to time. A key or shares that were missing are asked for again: that costs little,
    /// as a passphrase does not, and no token counts it as a wrong PIN. Blocks.
    pub fn watch(&self) {
        let is_sealed =
            matches!(self.seen.lock().unwrap_or_else(PoisonError::into_inner).state, State::Sealed(_));
        match is_sealed && self.store.source_kind() == SourceKind::Key {
            true => self.reload(),
            false => self.look(),
        }
    }

    /// Does what an operator asks, and looks at what became of it. Blocks.
    pub fn operate(
        &self,
        operation: &Operation,
        section: &Sso,
        right: Right<'_>,
        keep: Keep<'_>,
    ) -> anyhow::Result<Done> {
        if let Some(sealed) = self.refused_by_token().filter(|_| !matches!(operation, Operation::Status)) {
            bail!(
                "the master secret is sealed: {sealed}; the token is asked again at SIGHUP, because it may count wrong PINs"
            );
        }
        let done = operation.perform(&self.store, section, right, keep);
        if let Some(StoreError::Sealed(sealed)) = done.as_ref().err().and_then(|error| error.downcast_ref())
            && self.store.is_of_source(sealed)
        {
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(sealed.clone());
        }
        self.look();
        done
    }

    /// Why a token gave no key since the last reload.
    fn refused_by_token(&self) -> Option<Sealed> {
        if self.store.source_kind() != SourceKind::Pkcs11 {
            return None;
        }
        let at_look = match &self.seen.lock().unwrap_or_else(PoisonError::into_inner).state {
            State::Sealed(sealed) if self.store.is_of_source(sealed) => Some(sealed.clone()),
            _ => None,
        };
        at_look.or_else(|| self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Asks the sealing source again. Blocks.
    pub fn reload(&self) {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.see(self.store.reload());
    }

    fn see(&self, state: State) {
        let lock = || self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // The facts of an open secret are part of it.
        if let (State::Open(old), State::Open(new)) = (&lock().state, &state)
            && Arc::ptr_eq(old, new)
        {
            return;
        }
        // Outside the lock: the facts of a sealed file are read from it.
        let facts = SecretFacts::new(&state, &self.store.status_of(&state));
        let mut seen = lock();
        let of = |facts: &SecretFacts| (facts.state, facts.generation, facts.is_rolled_back);
        let is_news = of(&facts) != of(&seen.facts);
        let before = seen.delivered.take();
        *seen = Seen::new(state, facts, before);
        if is_news {
            report(&seen);
        }
    }

    /// Facts for metrics, as of the last look.
    pub fn facts(&self) -> SecretFacts {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).facts.clone()
    }

    /// Answers calls from now on that the server is stopping.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }
}

fn report(seen: &Seen) {
    match &seen.state {
        State::None => {
            info!("There is no master secret yet: `rcmpd sso secret generate` or `import` makes one")
        }
        State::Sealed(sealed) => error!(missing = sealed.what, why = sealed.why, "Master secret is sealed"),
        State::RolledBack(sealed) => {
            let delivered = seen.delivered.as_ref().map(|open| open.newest().0.number);
            error!(
                file = sealed.what,
                why = sealed.why,
                generation_delivered = delivered,
                "Master secret was rolled back to an older file"
            );
        }
        State::Open(open) => {
            let (newest, _) = open.newest();
            let page_lock = format!("{:?}", open.page_lock());
            info!(generation = newest.number, key_id = %newest.key_id, page_lock, "Master secret is open");
            if open.is_copy() {
                error!(
                    "The data folder of the master secret is a copy: no rotation is allowed until `rcmpd sso secret adopt`"
                );
            }
        }
    }
}

/// Callers hold the service as an `Arc`, so that a look may run on another thread.
impl MasterSecrets for LiveSecrets {
    fn state(&self) -> BoxFuture<'_, SecretState> {
        let state = match self.stopping.load(Ordering::Acquire) {
            true => SecretState::Stopping,
            // A look costs one `stat` while the file is the same.
            false => {
                tokio::task::block_in_place(|| self.look());
                let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                match (&seen.state, &seen.delivered) {
                    (State::Sealed(sealed), _) | (State::RolledBack(sealed), None) => {
                        SecretState::NotOpen(sealed.to_string())
                    }
                    (State::RolledBack(_), Some(_)) | (State::None | State::Open(_), _) => SecretState::Open,
                }
            }
        };
        Box::pin(std::future::ready(state))
    }

    fn current(&self) -> BoxFuture<'_, Result<Option<CurrentSecret>, StoreFailed>> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let current = match (&seen.state, &seen.delivered) {
            (State::None, _) => Ok(None),
            (State::Sealed(sealed) | State::RolledBack(sealed), None) => Err(StoreFailed(sealed.to_string())),
            (_, None) => Err(StoreFailed("there is no open master secret".to_owned())),
            (_, Some(open)) => {
                let (generation, secret) = open.newest();
                let (secret, generation) =
                    (MasterSecret::copy(secret.expose()), u64::from(generation.number));
                Ok(Some(CurrentSecret { secret, generation }))
            }
        };
        drop(seen);
        Box::pin(std::future::ready(current))
    }
}
