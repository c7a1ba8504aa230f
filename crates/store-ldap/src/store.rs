//! The store: questions to the directory within a deadline, and whether the directory can be asked.

use crate::failed::Failed;
use crate::log_limiter::LogLimiter;
use crate::matching;
use crate::pool::{Pool, Pooled, attempt_end};
use crate::schema;
use crate::server::{Role, Server};
use crate::settings::Settings;
use crate::walk::Seen;
use account_store::index::Place;
use account_store::{AccountStore, BoxFuture, Domain, Matches, Query, Revision, StoreError};
use dtyp::FileTime;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::field::Empty;
use tracing::{Instrument, Span, debug_span, info, warn};

/// Attempts of one question: over a connection that was idle, over a new one, at another server.
const ATTEMPTS_MAX: usize = 4;

/// Accounts in an LDAP directory.
pub struct LdapStore {
    shared: Arc<Shared>,
    runtime: Handle,
    is_watched: Once,
}

struct Shared {
    settings: Arc<Settings>,
    pool: Pool,
    /// Connections to the global catalog, if there is one.
    catalog: Option<Pool>,
    /// For all that takes a connection. Who has one takes one connection at a time, so no pool has more
    /// connections than there are permits.
    permits: Semaphore,
    health: Mutex<Health>,
    /// Logs of look-ups that fail, and of a directory that does.
    unusable: LogLimiter,
    unreachable: LogLimiter,
}

/// What is known about the directory.
struct Health {
    revision: Revision,
    /// When the revision was made.
    revised: Instant,
    /// When it last answered.
    answered: Instant,
    /// Why it did not, since then.
    failed: Option<String>,
}

impl std::fmt::Debug for LdapStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LdapStore({:?})", self.shared.settings)
    }
}

impl LdapStore {
    /// A store that connects when it is asked. Its tasks run in the present runtime, and end with it.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn open(settings: Settings) -> Result<Self, StoreError> {
        let runtime = Handle::current();
        let settings = Arc::new(settings);
        let pool = Pool::new(Arc::clone(&settings)).map_err(StoreError::Refused)?;
        let health = Health {
            revision: Revision::unique(),
            revised: Instant::now(),
            answered: Instant::now(),
            failed: None,
        };
        let permits = Semaphore::new(settings.connections_max);
        let shared = Arc::new(Shared {
            settings,
            permits,
            catalog: pool.catalog(),
            pool,
            health: Mutex::new(health),
            unusable: LogLimiter::new(),
            unreachable: LogLimiter::new(),
        });
        Ok(Self { shared, runtime, is_watched: Once::new() })
    }

    /// Reads the whole directory, page by page, and the catalog if there is one. `see` is told each account and
    /// group, and what is wrong with an entry. An error says that the directory cannot be read to its end.
    pub async fn walk(&self, see: &mut (dyn FnMut(Seen) + Send)) -> Result<(), StoreError> {
        let shared = &self.shared;
        let permit = shared.permits.acquire().await;
        let _permit =
            permit.map_err(|_| StoreError::Unavailable("store: the store was closed".to_owned()))?;
        for pool in shared.pools() {
            let mut pooled = pool.connection(Instant::now() + shared.settings.timeout).await?;
            schema::walk(&mut pooled.connection, &shared.settings, pool.role, see).await?;
            pool.put(pooled);
        }
        Ok(())
    }

    /// The task is made here, so that the future of the caller, which waits for it, does not have its size.
    fn spawn(
        &self,
        shared: Arc<Shared>,
        query: Query,
        place: Place,
    ) -> oneshot::Receiver<Result<Matches, StoreError>> {
        let (answer, answered) = oneshot::channel();
        let answering = async move { shared.answer(query, place, answer).await };
        self.runtime.spawn(answering.in_current_span());
        answered
    }

    /// Looks at the directory from the first use on: a command that only checks a configuration asks no
    /// server.
    fn watch(&self) {
        self.is_watched.call_once(|| {
            drop(self.runtime.spawn(watch(Arc::downgrade(&self.shared))));
            drop(self.runtime.spawn(prefer_first(Arc::downgrade(&self.shared))));
        });
    }
}

impl AccountStore for LdapStore {
    fn domain(&self) -> &Domain {
        &self.shared.settings.domain
    }

    fn find<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Result<Matches, StoreError>> {
        let Some(place) = matching::wanted(self.domain(), query) else {
            return Box::pin(std::future::ready(Ok(Matches::None)));
        };
        self.watch();
        let (shared, query) = (Arc::clone(&self.shared), query.clone());
        // A question whose caller is gone ends in a task of its own: if its connection were closed,
        // clients that cancel could make the store connect and bind again and again.
        Box::pin(async move {
            let answered = self.spawn(shared, query, place);
            let ended =
                || StoreError::Unavailable("store: the question was ended by the shutdown".to_owned());
            answered.await.unwrap_or_else(|_| Err(ended()))
        })
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        self.watch();
        let settings = &self.shared.settings;
        let mut health = self.shared.health();
        // A directory has no feed of changes that all servers agree on, so decisions are used for a time.
        if health.revised.elapsed() >= settings.fresh {
            (health.revision, health.revised) = (Revision::unique(), Instant::now());
        }
        match &health.failed {
            Some(why) if health.answered.elapsed() > settings.fresh + settings.timeout => {
                Err(StoreError::Unavailable(why.clone()))
            }
            _ => Ok(health.revision),
        }
    }
}

/// The span of the searches of a look-up over one connection, below that of the look-up; none if there is no
/// such span.
fn search_span(server: &Server) -> Span {
    if Span::current().is_disabled() {
        return Span::none();
    }
    debug_span!(
        target: "rcmpd::call",
        "ldap_search",
        otel.kind = "client",
        otel.status_code = Empty,
        server.address = %server.host,
        server.port = server.port,
        searches = Empty,
    )
}

impl Shared {
    fn health(&self) -> MutexGuard<'_, Health> {
        // It is whole between any two statements.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a question within its time. A caller that is gone while it waits for a connection asks
    /// nothing.
    async fn answer(
        &self,
        query: Query,
        place: Place,
        mut answer: oneshot::Sender<Result<Matches, StoreError>>,
    ) {
        let deadline = Instant::now() + self.settings.timeout;
        let permit = tokio::select! {
            // A permit that is free needs no timer.
            biased;
            permit = self.permits.acquire() => permit,
            () = answer.closed() => return,
            () = sleep_until(deadline) => {
                self.settings.meter.failed("busy");
                let why = format!("store: busy: all {} connections are in use", self.settings.connections_max);
                let _ = answer.send(Err(StoreError::Unavailable(why)));
                return;
            }
        };
        let found = self.ask(&query, &place, deadline).await;
        drop(permit);
        self.note(&found);
        let _ = answer.send(found.map_err(StoreError::from));
    }

    /// What a question says about the directory.
    fn note<T>(&self, found: &Result<T, Failed>) {
        let mut health = self.health();
        match found {
            Ok(_) => {
                health.answered = Instant::now();
                if health.failed.take().is_some() {
                    info!("Directory answers again");
                }
            }
            Err(failed) => {
                self.settings.meter.failed(failed.step());
                if !failed.is_of_server() && !matches!(failed, Failed::Bind(_) | Failed::Rights(_)) {
                    drop(health);
                    if let Some(left_out) = self.unusable.allow(Instant::now()) {
                        warn!(error = %failed, left_out, "Directory data cannot be used: an account is not mapped");
                    }
                    return;
                }
                let is_first = health.failed.replace(failed.to_string()).is_none();
                drop(health);
                if is_first && let Some(left_out) = self.unreachable.allow(Instant::now()) {
                    warn!(error = %failed, left_out, "Directory does not answer: no certificate can be mapped");
                }
            }
        }
    }

    /// Asks the catalog whose the account is, if there is a catalog and other domains may have the account.
    /// All else is asked in the domain; for an e-mail address there is nothing else.
    async fn ask(&self, query: &Query, place: &Place, deadline: Instant) -> Result<Matches, Failed> {
        self.settings.meter.asked();
        let asked = (query, place);
        let Some(catalog) = self.catalog.as_ref().filter(|_| matches!(place, Place::Key(..))) else {
            return self.ask_pool(&self.pool, asked, deadline).await;
        };
        let known = match self.ask_pool(catalog, asked, attempt_end(deadline, 2)).await? {
            Matches::One(known) if matches!(query, Query::Mail(_)) => return Ok(Matches::One(known)),
            Matches::One(known) if known.account.home_domain.is_none() => known,
            Matches::One(known) => {
                self.settings.meter.elsewhere();
                return Ok(Matches::One(known));
            }
            none_or_many => return Ok(none_or_many),
        };
        match self.ask_pool(&self.pool, asked, deadline).await? {
            // The catalog lags: which account is the only one in the forest is not known yet.
            Matches::One(record) if record.account.sid != known.account.sid => Err(Failed::Changed),
            found => Ok(found),
        }
    }

    /// Asks over one connection, and over another one if that fails. One answer never mixes two servers.
    async fn ask_pool(
        &self,
        pool: &Pool,
        asked: (&Query, &Place),
        deadline: Instant,
    ) -> Result<Matches, Failed> {
        let mut changed = false;
        let mut last = None;
        for _ in 0..ATTEMPTS_MAX {
            let mut pooled = match pool.connection(deadline).await {
                Ok(pooled) => pooled,
                // The failure of the attempt before says more than that its server is backed off.
                Err(failed) => return Err(last.unwrap_or(failed)),
            };
            // If there is another server, it gets its share of the time.
            let end = attempt_end(deadline, if pool.has_others() { 2 } else { 1 });
            let found = self.ask_over(pool.role, &mut pooled, asked, end).await;
            match found {
                Ok(matches) => {
                    let now = (Instant::now(), now());
                    let (refusals, server) = (&self.settings.refusals.0, pooled.connection.server());
                    let found = refusals.resolve((pool.role, asked.1), server, matches, now);
                    pool.put(pooled);
                    return Ok(found);
                }
                Err(Failed::Changed) if !changed => {
                    changed = true;
                    pool.put(pooled);
                    last = Some(Failed::Changed);
                }
                // A connection that died while it was idle says nothing about the server.
                // The others that were idle are dead, too.
                Err(failed @ Failed::Connection(_)) if pooled.is_used => {
                    pool.forget_idle(pooled.connection.server());
                    last = Some(failed);
                }
                Err(failed) if failed.is_of_server() => {
                    pool.server_failed(pooled.connection.server(), &failed);
                    last = Some(failed);
                }
                Err(failed) => {
                    pool.put(pooled);
                    return Err(failed);
                }
            }
        }
        Err(last.unwrap_or_else(|| Failed::Timeout("no attempt is left".to_owned())))
    }

    async fn ask_over(
        &self,
        role: Role,
        pooled: &mut Pooled,
        asked: (&Query, &Place),
        end: Instant,
    ) -> Result<Matches, Failed> {
        let before = pooled.connection.searches();
        let span = search_span(pooled.connection.server());
        let asking = schema::find(&mut pooled.connection, &self.settings, role, asked);
        let found = timeout_at(end, asking.instrument(span.clone())).await;
        let searches = pooled.connection.searches() - before;
        span.record("searches", searches);
        if !matches!(found, Ok(Ok(_))) {
            span.record("otel.status_code", "error");
        }
        self.settings.meter.requested(searches);
        found.unwrap_or_else(|_| {
            Err(Failed::Timeout(format!("{}: no answer in time", pooled.connection.server())))
        })
    }

    fn pools(&self) -> impl Iterator<Item = &Pool> {
        [&self.pool].into_iter().chain(&self.catalog)
    }

    /// Looks whether the directory answers, and its catalog.
    async fn look(&self) -> Option<Result<(), Failed>> {
        // If all connections are in use, questions say.
        let _permit = self.permits.try_acquire().ok()?;
        for pool in self.pools() {
            if let Err(failed) = self.probe(pool).await {
                return Some(Err(failed));
            }
        }
        Some(Ok(()))
    }

    async fn probe(&self, pool: &Pool) -> Result<(), Failed> {
        let deadline = Instant::now() + self.settings.timeout;
        let mut pooled = pool.connection(deadline).await?;
        let probing = schema::probe(&mut pooled.connection, &self.settings, pool.role);
        let probed = timeout_at(deadline, probing).await;
        let server = pooled.connection.server().clone();
        match probed.unwrap_or_else(|_| Err(Failed::Timeout(format!("{server}: no answer in time")))) {
            Ok(()) => {
                pool.put(pooled);
                Ok(())
            }
            Err(failed) => {
                if failed.is_of_server() && !(pooled.is_used && matches!(failed, Failed::Connection(_))) {
                    pool.server_failed(&server, &failed);
                }
                Err(failed)
            }
        }
    }

    /// Probes connections that were idle for a while.
    async fn check_idle(&self, pool: &Pool, interval: Duration) {
        for _ in 0..pool.idle_count() {
            // While a connection is probed, no question opens one in its place beyond the limit.
            let Ok(_permit) = self.permits.try_acquire() else { return };
            let Some(mut pooled) = pool.oldest_idle(interval) else { return };
            let deadline = Instant::now() + self.settings.timeout;
            let probing = schema::probe(&mut pooled.connection, &self.settings, pool.role);
            if matches!(timeout_at(deadline, probing).await, Ok(Ok(()))) {
                pool.put(pooled);
            }
        }
    }
}

/// By the wall clock.
fn now() -> FileTime {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    FileTime::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// How soon the directory is looked at again after a failure, if its back-off allows it.
const RETRY: Duration = Duration::from_secs(1);

/// How often the first server is looked for while others are used, if its back-off allows it.
const LOOK_FOR_FIRST: Duration = Duration::from_secs(5);

/// Goes back to the first server when it works again, until the store is dropped.
async fn prefer_first(store: Weak<Shared>) {
    loop {
        tokio::time::sleep(LOOK_FOR_FIRST).await;
        let Some(shared) = store.upgrade() else { return };
        for pool in shared.pools() {
            let Ok(_permit) = shared.permits.acquire().await else { return };
            pool.return_to_first().await;
        }
    }
}

/// Probes the directory until the store is dropped, also while there are no questions.
async fn watch(store: Weak<Shared>) {
    loop {
        let Some(shared) = store.upgrade() else { return };
        let mut looked = shared.look().await;
        if matches!(&looked, Some(Err(Failed::Connection(_)))) {
            // The connection may have died while it was idle.
            looked = shared.look().await;
        }
        let interval = shared.settings.fresh;
        let is_well = !matches!(&looked, Some(Err(_)));
        if let Some(looked) = &looked {
            shared.note(looked);
        }
        if is_well {
            for pool in shared.pools() {
                shared.check_idle(pool, interval).await;
            }
        }
        let wait = if is_well { interval } else { RETRY.min(interval) };
        drop(shared);
        tokio::time::sleep(wait).await;
    }
}
