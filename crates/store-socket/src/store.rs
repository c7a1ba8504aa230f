//! The store: questions to the program within a deadline, and whether the program can be asked.

use crate::connection::Connection;
use crate::failed::Failed;
use crate::record::record;
use crate::settings::Settings;
use crate::wire::{Answer, Ask};
use account_store::index::{Place, is_at, place_on_server};
use account_store::{AccountStore, BoxFuture, Domain, Matches, Query, Record, Revision, StoreError};
use dcerpc_tokio::LogLimiter;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

/// Questions at once, most of which wait for a connection. Each has its own deadline.
const QUESTIONS_MAX: usize = 1024;
/// A connection is not used for longer: another process may have taken the path of the socket over.
const AGE_MAX: Duration = Duration::from_secs(60);
/// How often a program with revisions is asked for the present one, and one that does not answer is asked
/// again.
const POLL: Duration = Duration::from_secs(1);

/// Accounts that a program answers for.
pub struct SocketStore {
    shared: Arc<Shared>,
    runtime: Handle,
    is_watched: Once,
}

struct Shared {
    settings: Settings,
    /// For each connection.
    permits: Semaphore,
    /// For each question, waiting ones included.
    questions: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
    /// The number of the last question, over all connections.
    number: AtomicU64,
    health: Mutex<Health>,
    log: LogLimiter,
}

/// What is known about the program.
struct Health {
    revision: Revision,
    /// When the revision was made.
    revised: Instant,
    /// What the program calls its present contents: nothing was heard yet, or it has no revisions, or this.
    name: Option<Option<String>>,
    /// When the last question was asked that was answered.
    answered: Instant,
    /// Why there was no answer since then.
    failed: Option<String>,
}

impl Health {
    fn revise(&mut self) {
        (self.revision, self.revised) = (Revision::unique(), Instant::now());
    }

    /// Whether decisions that were made before may still be used.
    fn is_fresh(&self, fresh: Duration) -> bool {
        let confirmed = match self.name {
            Some(Some(_)) => self.answered.max(self.revised),
            _ => self.revised,
        };
        confirmed.elapsed() < fresh
    }
}

impl std::fmt::Debug for SocketStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SocketStore({:?})", self.shared.settings)
    }
}

impl SocketStore {
    /// A store that connects when it is asked. Its tasks run in the present runtime, and end with it.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn open(settings: Settings) -> Self {
        let now = Instant::now();
        let health =
            Health { revision: Revision::unique(), revised: now, name: None, answered: now, failed: None };
        let shared = Arc::new(Shared {
            permits: Semaphore::new(settings.connections_max),
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            settings,
            idle: Mutex::default(),
            number: AtomicU64::new(0),
            health: Mutex::new(health),
            log: LogLimiter::default(),
        });
        Self { shared, runtime: Handle::current(), is_watched: Once::new() }
    }

    /// Looks at the program from the first use on: a command that only checks a configuration asks nothing.
    fn watch(&self) {
        self.is_watched.call_once(|| drop(self.runtime.spawn(watch(Arc::downgrade(&self.shared)))));
    }
}

impl AccountStore for SocketStore {
    fn domain(&self) -> &Domain {
        &self.shared.settings.domain
    }

    fn find<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Result<Matches, StoreError>> {
        let Some(place) = place_on_server(self.domain(), query) else {
            return Box::pin(std::future::ready(Ok(Matches::None)));
        };
        self.watch();
        let (shared, query) = (Arc::clone(&self.shared), query.clone());
        // A question whose caller is gone ends in a task of its own: its answer is read and thrown away, and
        // the connection is as good as before.
        Box::pin(async move {
            let Ok(permit) = Arc::clone(&shared.questions).try_acquire_owned() else {
                shared.settings.meter.failed("busy");
                return Err(Failed::Busy(format!("{QUESTIONS_MAX} questions are waiting")).into());
            };
            let (answer, answered) = oneshot::channel();
            self.runtime.spawn(async move { shared.answer(query, place, answer, permit).await });
            let ended = || StoreError::Unavailable("store: ended by the shutdown".to_owned());
            answered.await.unwrap_or_else(|_| Err(ended()))
        })
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        self.watch();
        let Settings { fresh, timeout, .. } = self.shared.settings;
        let mut health = self.shared.health();
        if !health.is_fresh(fresh) {
            health.revise();
        }
        match &health.failed {
            Some(why) if health.answered.elapsed() > fresh + timeout => {
                Err(StoreError::Unavailable(why.clone()))
            }
            _ => Ok(health.revision),
        }
    }
}

impl Shared {
    fn health(&self) -> MutexGuard<'_, Health> {
        // It is whole between any two statements.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a question within its time. A caller that is gone while it waits for a connection asks
    /// nothing.
    async fn answer(
        &self,
        query: Query,
        place: Place,
        mut answer: oneshot::Sender<Result<Matches, StoreError>>,
        _question: OwnedSemaphorePermit,
    ) {
        let deadline = Instant::now() + self.settings.timeout;
        let permit = tokio::select! {
            permit = self.permits.acquire() => permit,
            () = answer.closed() => return,
            () = sleep_until(deadline) => {
                self.settings.meter.failed("busy");
                let why = format!("all {} connections are in use", self.settings.connections_max);
                let _ = answer.send(Err(Failed::Busy(why).into()));
                return;
            }
        };
        self.settings.meter.asked();
        let found = self.ask(Ask::Accounts(&query), deadline).await;
        drop(permit);
        let found = found.and_then(|found| self.decide(&place, found));
        if let Err(failed) = &found {
            self.settings.meter.failed(failed.step());
        }
        let _ = answer.send(found.map_err(StoreError::from));
    }

    /// The accounts that match. If not all candidates were sent, one that matches is not known to be the only
    /// one.
    fn decide(&self, place: &Place, found: Answer) -> Result<Matches, Failed> {
        let domain = &self.settings.domain;
        let mut matching: Vec<Arc<Record>> = Vec::new();
        for candidate in found.accounts {
            let record = record(domain, candidate).inspect_err(|failed| {
                self.log.counted("data", |left_out| {
                    warn!(error = %failed, left_out, "Account of the store's program cannot be used: no account is mapped");
                });
            })?;
            if is_at(domain, &record.account, place) {
                if matching.iter().any(|other| other.account.sid == record.account.sid) {
                    let sid = record.account.sid;
                    return Err(Failed::Data(format!("two accounts in one answer have the SID {sid}")));
                }
                matching.push(Arc::new(record));
            }
        }
        match found.has_more && matching.len() < 2 {
            false => Ok(matching.into_iter().collect()),
            true => {
                self.log.counted("more", |left_out| {
                    warn!(
                        left_out,
                        "Certificate is ambiguous: the store's program has more candidates than it sent"
                    );
                });
                Ok(Matches::Many(matching.iter().map(|record| record.account.name.clone()).collect()))
            }
        }
    }

    /// Asks over a connection that was idle or a new one. Notes what that says about the program.
    async fn ask(&self, ask: Ask<'_>, deadline: Instant) -> Result<Answer, Failed> {
        let started = Instant::now();
        let mut asked = self.ask_once(ask, deadline).await;
        if let Err((Failed::Connection(_), true)) = &asked {
            // A connection that ended while it was idle says nothing. The others have ended, too.
            self.idle().clear();
            asked = self.ask_once(ask, deadline).await;
        }
        let asked = asked.map_err(|(failed, _)| failed);
        self.note(&asked, started);
        asked
    }

    /// The error comes with whether the connection had been used before.
    async fn ask_once(&self, ask: Ask<'_>, deadline: Instant) -> Result<Answer, (Failed, bool)> {
        let mut connection = match self.idle_connection() {
            Some(connection) => connection,
            None => {
                let opened = Connection::open(&self.settings, deadline).await;
                let (connection, revision) = opened.map_err(|failed| (failed, false))?;
                self.health().hear(revision);
                connection
            }
        };
        let was_used = connection.is_used;
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let answer = connection.ask(number, ask, deadline).await;
        if answer.as_ref().err().is_none_or(|failed| !failed.ends_connection()) {
            self.idle().push(connection);
        }
        answer.map_err(|failed| (failed, was_used))
    }

    /// A connection that is idle and not too old. Those over which something came unasked are closed.
    fn idle_connection(&self) -> Option<Connection> {
        loop {
            let connection = self.idle().pop()?;
            match connection.check_quiet() {
                Ok(()) if connection.opened.elapsed() < AGE_MAX => return Some(connection),
                Err(failed @ Failed::Protocol(_)) => {
                    self.settings.meter.failed(failed.step());
                    self.log.counted("unasked", |left_out| {
                        warn!(error = %failed, left_out, "Connection to the store's program closed");
                    });
                }
                _ => {}
            }
        }
    }

    /// What a question says about the program. One that cannot answer, or sends what is no account, is there.
    fn note(&self, asked: &Result<Answer, Failed>, started: Instant) {
        let mut health = self.health();
        match asked {
            Ok(answer) => {
                health.hear(answer.revision.clone());
                health.answered = health.answered.max(started);
                if health.failed.take().is_some() {
                    self.log.once("well", || info!("Store's program answers again"));
                }
            }
            Err(failed) => {
                health.failed = Some(failed.to_string());
                drop(health);
                self.log.counted(failed.step(), |left_out| {
                    warn!(error = %failed, left_out, "Store's program does not answer: no certificate can be mapped");
                });
            }
        }
    }

    /// Asks for the revision, unless all connections are in use: then questions show what is new.
    async fn poll(&self) {
        let Ok(_permit) = self.permits.try_acquire() else { return };
        let deadline = Instant::now() + self.settings.timeout;
        if let Err(failed) = self.ask(Ask::Revision, deadline).await {
            self.settings.meter.failed(failed.step());
        }
    }
}

impl Health {
    /// Notes what the program calls its present contents. Any other name than before is a change.
    fn hear(&mut self, name: Option<String>) {
        if self.name.as_ref().is_some_and(|known| *known != name) {
            self.revise();
        }
        self.name = Some(name);
    }
}

/// Asks the program for its revision until the store is dropped, also while there are no questions.
async fn watch(store: Weak<Shared>) {
    loop {
        let Some(shared) = store.upgrade() else { return };
        shared.poll().await;
        let fresh = shared.settings.fresh;
        let is_slow = {
            let health = shared.health();
            health.failed.is_none() && health.name == Some(None)
        };
        drop(shared);
        sleep(if is_slow { fresh } else { POLL.min(fresh) }).await;
    }
}
