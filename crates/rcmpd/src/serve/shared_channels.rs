//! Connects the Netlogon server ([`SharedChannels`]) with the tables of PostgreSQL in which several servers
//! keep their secure channels.

use crate::clock::now;
use account_store::StoreError;
use account_store::fold::casefold;
use dcerpc::backoff::MEMORY;
use dcerpc_tokio::LogLimiter;
use dtyp::FileTime;
use netlogon_transport::credential::Credential;
use netlogon_transport::secret::SessionKey;
use netlogon_transport::secrets::{BoxFuture, ChannelType, SecretsUnavailable};
use netlogon_transport::server::{
    Attempts, ChannelId, ChannelState, SharedChallenge, SharedChannels, StoredCredential,
};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use store_postgres::{Challenge, Channel, PostgresStore};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use zeroize::Zeroizing;

/// Questions of each kind at one time. Look-ups of accounts need connections of the same pool.
const TURNS: usize = 2;
/// Wrong proofs that are counted at one time.
const GUESSES: usize = 1;
/// How long a question waits for its turn.
const TURN: Duration = Duration::from_secs(2);

/// The tables `channel`, `challenge` and `guess`, with limits for each kind of question.
pub(super) struct SharedTables {
    store: Arc<PostgresStore>,
    /// Clients that have proved nothing cause questions about challenges and about channels. A flood of the
    /// one does not stop the other, nor the calls of machines.
    handshakes: Turns,
    /// Of handshakes that name the same account or computer, one asks at a time: guesses at one account use
    /// only one of the turns of handshakes.
    names: Names,
    /// Wrong proofs for one account wait for the lock of one row, at all servers. They have a turn of their
    /// own, and do not wait for it: the answer to one that is not counted is slow.
    guesses: Turns,
    binds: Turns,
    calls: Turns,
    log: LogLimiter,
}

/// One permit for each name that is in use.
#[derive(Default)]
struct Names(Mutex<HashMap<String, Weak<Semaphore>>>);

impl Names {
    /// The permit of a name. The table has at most twice as many names as there are handshakes at a time, and
    /// [`NAMES_KEPT`].
    fn of(&self, name: &str) -> Arc<Semaphore> {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.get(name).and_then(Weak::upgrade) {
            return known;
        }
        if names.len() >= names.capacity().max(NAMES_KEPT) {
            names.retain(|_, known| known.strong_count() > 0);
        }
        let new = Arc::new(Semaphore::new(1));
        names.insert(name.to_owned(), Arc::downgrade(&new));
        new
    }
}

/// Names without use that stay in the table.
const NAMES_KEPT: usize = 256;

/// What a question holds until the database has answered.
type Turn = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

/// The turns of one kind of question.
struct Turns {
    /// Its name, for the log.
    of: &'static str,
    permits: Arc<Semaphore>,
}

impl SharedTables {
    pub(super) fn new(store: Arc<PostgresStore>) -> Self {
        let turns = |of, count| Turns { of, permits: Arc::new(Semaphore::new(count)) };
        let [handshakes, binds, calls] = ["handshakes", "binds", "calls"].map(|of| turns(of, TURNS));
        let guesses = turns("guesses", GUESSES);
        let (names, log) = (Names::default(), LogLimiter::default());
        Self { store, handshakes, names, guesses, binds, calls, log }
    }

    /// Asks when it is its turn.
    async fn ask<T, F>(
        &self,
        turns: &Turns,
        question: impl FnOnce(Arc<PostgresStore>) -> F + Send,
    ) -> Result<T, SecretsUnavailable>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let turn = timeout(TURN, Arc::clone(&turns.permits).acquire_owned()).await;
        let turn = turn.ok().and_then(Result::ok).map(|turn| (turn, None));
        self.ask_in(turn, turns.of, question).await
    }

    /// Asks for a handshake when it is the turn of the account or computer that it names.
    async fn ask_for<T, F>(
        &self,
        name: &str,
        question: impl FnOnce(Arc<PostgresStore>) -> F + Send,
    ) -> Result<T, SecretsUnavailable>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let turn = timeout(TURN, async {
            let of_name = self.names.of(&casefold(name)).acquire_owned().await.ok()?;
            let turn = Arc::clone(&self.handshakes.permits).acquire_owned().await.ok()?;
            Some((turn, Some(of_name)))
        });
        self.ask_in(turn.await.ok().flatten(), self.handshakes.of, question).await
    }

    /// Asks, if there is a turn. A client that goes away meanwhile neither ends the question, whose
    /// connection would be closed with it, nor gives its turn back before the database has answered.
    async fn ask_in<T, F>(
        &self,
        turn: Option<Turn>,
        of: &'static str,
        question: impl FnOnce(Arc<PostgresStore>) -> F + Send,
    ) -> Result<T, SecretsUnavailable>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let Some(turn) = turn else {
            self.log.counted(of, |left_out| {
                tracing::warn!(of, left_out, "Too many questions about shared channels at one time");
            });
            return Err(SecretsUnavailable("too many questions at one time".to_owned()));
        };
        let question = question(Arc::clone(&self.store));
        let asked = tokio::spawn(async move {
            let _turn = turn;
            question.await
        });
        let answer = asked.await.map_err(|error| error.to_string());
        answer.and_then(|answer| answer.map_err(|error| error.to_string())).map_err(|error| {
            self.log.counted("unavailable", |left_out| {
                tracing::warn!(error, of, left_out, "Shared channels unavailable");
            });
            SecretsUnavailable(error)
        })
    }
}

impl SharedChannels for SharedTables {
    fn put_challenge<'a>(
        &'a self,
        source: IpAddr,
        computer: &'a str,
        client: Credential,
        server: Credential,
    ) -> BoxFuture<'a, Result<(), SecretsUnavailable>> {
        let name = computer.to_owned();
        Box::pin(self.ask_for(computer, move |store| async move {
            let mut halves = [0; 16];
            halves[..8].copy_from_slice(&client);
            halves[8..].copy_from_slice(&server);
            store.put_challenge((source, &name), halves, now()).await
        }))
    }

    fn attempts<'a>(
        &'a self,
        source: IpAddr,
        computer: &'a str,
        account: &'a str,
    ) -> BoxFuture<'a, Result<Attempts, SecretsUnavailable>> {
        let (computer, name) = (computer.to_owned(), account.to_owned());
        Box::pin(self.ask_for(account, move |store| async move {
            let (found, failures) = store.attempts((source, &computer, &name), lately()).await?;
            Ok(Attempts { challenges: found.into_iter().map(challenge).collect(), failures })
        }))
    }

    fn failed<'a>(
        &'a self,
        source: IpAddr,
        account: &'a str,
    ) -> BoxFuture<'a, Result<u32, SecretsUnavailable>> {
        let account = account.to_owned();
        let turn = Arc::clone(&self.guesses.permits).try_acquire_owned().ok().map(|turn| (turn, None));
        Box::pin(self.ask_in(turn, self.guesses.of, move |store| async move {
            store.count_guess((source, &account), lately()).await
        }))
    }

    fn use_up<'a>(
        &'a self,
        challenge: &'a SharedChallenge,
    ) -> BoxFuture<'a, Result<bool, SecretsUnavailable>> {
        let id = challenge.id;
        Box::pin(self.ask(&self.calls, move |store| async move { store.use_up_challenge(id).await }))
    }

    fn put<'a>(&'a self, state: &'a ChannelState) -> BoxFuture<'a, Result<(), SecretsUnavailable>> {
        let now = now();
        let row = row(state, now);
        Box::pin(self.ask(&self.calls, move |store| async move { store.put_channel(&row, now).await }))
    }

    fn find<'a>(&'a self, computer: &'a str) -> BoxFuture<'a, Result<Vec<ChannelState>, SecretsUnavailable>> {
        let now = now();
        Box::pin(async move {
            let name = computer.to_owned();
            let found = self.ask(&self.binds, move |store| async move { store.channels(&name, now).await });
            let (found, rows) = found.await?;
            if rows > 0 {
                self.log.counted("damaged", |left_out| {
                    tracing::warn!(
                        computer,
                        rows,
                        left_out,
                        "Row of the table channel left out: it was changed without the key"
                    );
                });
            }
            Ok(found.into_iter().map(|row| state(row, now)).collect())
        })
    }

    fn remove<'a>(&'a self, id: &'a ChannelId) -> BoxFuture<'a, Result<(), SecretsUnavailable>> {
        let id = *id;
        Box::pin(self.ask(&self.calls, move |store| async move { store.remove_channel(&id).await }))
    }

    fn credential<'a>(
        &'a self,
        id: &'a ChannelId,
    ) -> BoxFuture<'a, Result<Option<StoredCredential>, SecretsUnavailable>> {
        let id = *id;
        Box::pin(self.ask(&self.calls, move |store| async move {
            let stored = store.stored_credential(&id).await?;
            Ok(stored.map(|store_postgres::StoredCredential { generation, octets }| StoredCredential {
                generation,
                credential: octets,
            }))
        }))
    }

    fn advance<'a>(
        &'a self,
        id: &'a ChannelId,
        from: &'a StoredCredential,
        to: Credential,
    ) -> BoxFuture<'a, Result<bool, SecretsUnavailable>> {
        let id = *id;
        let from = store_postgres::StoredCredential { generation: from.generation, octets: from.credential };
        Box::pin(
            self.ask(&self.calls, move |store| async move { store.advance_credential(&id, from, to).await }),
        )
    }
}

/// Now, and since when a wrong proof counts.
fn lately() -> (FileTime, FileTime) {
    let now = now();
    (now, now - MEMORY)
}

fn challenge(Challenge { id, halves }: Challenge) -> SharedChallenge {
    let half = |at: usize| std::array::from_fn(|n| halves[at + n]);
    SharedChallenge { client: half(0), server: half(8), id }
}

fn row(state: &ChannelState, now: FileTime) -> Channel {
    let mut key = Zeroizing::new([0; 24]);
    key[..16].copy_from_slice(state.key.expose());
    key[16..].copy_from_slice(&state.secret_check);
    let StoredCredential { generation, credential } = state.seed;
    Channel {
        id: state.id,
        account: state.account.clone(),
        sid: state.sid,
        computer: state.computer.clone(),
        kind: state.channel_type.0,
        negotiated_flags: state.negotiated_flags,
        requested_flags: state.requested_flags,
        ends: now + state.left,
        key,
        credential: store_postgres::StoredCredential { generation, octets: credential },
    }
}

fn state(row: Channel, now: FileTime) -> ChannelState {
    let store_postgres::StoredCredential { generation, octets } = row.credential;
    ChannelState {
        id: row.id,
        account: row.account,
        sid: row.sid,
        computer: row.computer,
        channel_type: ChannelType(row.kind),
        negotiated_flags: row.negotiated_flags,
        requested_flags: row.requested_flags,
        key: SessionKey::new(std::array::from_fn(|n| row.key[n])),
        secret_check: std::array::from_fn(|n| row.key[16 + n]),
        left: Duration::from_nanos(row.ends.0.saturating_sub(now.0).saturating_mul(100)),
        seed: StoredCredential { generation, credential: octets },
    }
}
