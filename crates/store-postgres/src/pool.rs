//! A bounded pool of connections to one role: the primary, wherever it is, or one replica.
//!
//! A connection goes back only when its answer was read to the end. One that was dropped in the middle is
//! closed. After a failure no server is asked for a while, which grows, and every question fails at once in
//! that time; then one question tries.

use crate::connection::Connection;
use crate::counters::Counters;
use crate::identity::{Expected, Identity};
use crate::moment::Moment;
use crate::revision::RevisionRow;
use crate::settings::{Server, Settings};
use account_store::StoreError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

/// Firewalls and servers end connections that are idle for longer, often without a trace.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// A connection keeps the rights of the moment in which it was opened.
const AGE_MAX: Duration = Duration::from_secs(1800);
/// The pause after the first failure; it doubles with each.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(4);

/// What the servers of a pool are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Everything. It takes changes.
    Primary,
    /// Look-ups of accounts.
    Replica,
}

pub(crate) struct Pool {
    settings: Arc<Settings>,
    servers: Vec<Server>,
    pub(crate) role: Role,
    expected: Arc<Expected>,
    notified: Arc<Notify>,
    counters: Arc<Counters>,
    permits: Semaphore,
    state: Mutex<State>,
}

struct State {
    idle: Vec<Connection>,
    /// Connections that were opened before are closed.
    flushed: Instant,
    /// The server that was the right one last.
    preferred: usize,
    failures: u32,
    not_before: Instant,
    failed: Option<StoreError>,
    /// A replica is not asked before this moment, because it lacks changes, or has changes that the primary
    /// has not shown.
    backed_off_until: Instant,
    /// When a replica first had a revision that the primary had not shown, and that revision. An answer that is
    /// used resets it.
    ahead: Option<(Moment, RevisionRow)>,
    /// Whether the replica follows another primary. It is logged once.
    follows_other_primary: bool,
}

impl Pool {
    pub(crate) fn new(
        settings: &Arc<Settings>,
        (role, servers): (Role, Vec<Server>),
        expected: &Arc<Expected>,
        notified: &Arc<Notify>,
        counters: &Arc<Counters>,
    ) -> Self {
        let now = Instant::now();
        Self {
            settings: Arc::clone(settings),
            servers,
            role,
            expected: Arc::clone(expected),
            notified: Arc::clone(notified),
            counters: Arc::clone(counters),
            permits: Semaphore::new(settings.connections.max(1)),
            state: Mutex::new(State {
                idle: Vec::new(),
                flushed: now,
                preferred: 0,
                failures: 0,
                not_before: now,
                failed: None,
                backed_off_until: now,
                ahead: None,
                follows_other_primary: false,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What a poisoned lock holds is whole: nothing panics between two assignments.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that is idle, or a new one. Waits while all are in use.
    pub(crate) async fn get(&self) -> Result<Pooled<'_>, StoreError> {
        let permit = self.permit().await?;
        let idle = {
            let mut state = self.state();
            let now = Instant::now();
            let flushed = state.flushed;
            let is_usable = |it: &Connection| {
                !it.is_closed()
                    && it.opened >= flushed
                    && now - it.used < IDLE_MAX
                    && now - it.opened < AGE_MAX
            };
            std::iter::from_fn(|| state.idle.pop()).find(is_usable)
        };
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect().await?.0,
        };
        Ok(Pooled { pool: self, connection, _permit: permit })
    }

    /// A connection that is opened now.
    pub(crate) async fn get_new(&self) -> Result<Pooled<'_>, StoreError> {
        let permit = self.permit().await?;
        let (connection, _) = self.connect().await?;
        Ok(Pooled { pool: self, connection, _permit: permit })
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>, StoreError> {
        let closed = |_| StoreError::Unavailable("the store is being closed".to_owned());
        self.permits.acquire().await.map_err(closed)
    }

    /// Opens a connection beside those that are counted, with the row of the revision that it saw first.
    pub(crate) async fn connect(&self) -> Result<(Connection, RevisionRow), StoreError> {
        let _trial = self.wait_for_turn().await?;
        let all = self.settings.timeout * 2 / 3;
        let each = all / u32::try_from(self.servers.len()).unwrap_or(u32::MAX).max(1);
        let first = self.state().preferred;
        let mut failed = None;
        for at in (first..self.servers.len()).chain(0..first) {
            let server = &self.servers[at];
            let opened = timeout(each, self.open(server)).await.unwrap_or_else(|_| {
                Err(StoreError::Unavailable(format!("{server}: timeout after {} ms", each.as_millis())))
            });
            match opened {
                Ok(opened) => {
                    self.succeeded(at);
                    return Ok(opened);
                }
                Err(error) => failed = Some(error),
            }
        }
        let failed = failed.unwrap_or_else(|| StoreError::Unavailable("no server is named".to_owned()));
        self.failed(&failed);
        Err(failed)
    }

    async fn open(&self, server: &Server) -> Result<(Connection, RevisionRow), StoreError> {
        let mut connection = Connection::open(&self.settings, server, &self.notified).await?;
        if self.role == Role::Primary {
            connection.check_primary(server).await?;
        }
        let identity = Identity::read(&connection).await?;
        let revision_row = self.expected.check(&identity)?;
        if self.role == Role::Primary && self.expected.timeline.check(server, connection.timeline)? {
            warn!(%server, timeline = connection.timeline, "PostgreSQL has another primary: a standby was promoted");
            self.flush();
        }
        Ok((connection, revision_row))
    }

    /// Looks whether a server that is not in use is the primary now.
    pub(crate) async fn look_elsewhere(&self) -> Result<(), StoreError> {
        let preferred = self.state().preferred;
        let mut outcome = Ok(());
        for (_, server) in self.servers.iter().enumerate().filter(|(at, _)| *at != preferred) {
            let late = |_| Err(StoreError::Unavailable(format!("{server}: timeout")));
            outcome = timeout(self.settings.timeout, self.open(server)).await.unwrap_or_else(late).map(drop);
        }
        outcome
    }

    /// Fails while no server is asked. The question that may try keeps the others waiting meanwhile. After
    /// one failure, which may be that of one connection, questions wait for the short pause and try.
    async fn wait_for_turn(&self) -> Result<Option<Trial<'_>>, StoreError> {
        let pause = {
            let mut state = self.state();
            let Some(failed) = &state.failed else { return Ok(None) };
            let now = Instant::now();
            match (state.failures, now < state.not_before) {
                (1, true) => state.not_before - now,
                (1, false) => return Ok(None),
                (_, true) => return Err(failed.clone()),
                (_, false) => {
                    state.not_before = now + self.settings.timeout;
                    return Ok(Some(Trial { pool: self, until: state.not_before }));
                }
            }
        };
        sleep(pause).await;
        Ok(None)
    }

    fn failed(&self, error: &StoreError) {
        Counters::count(&self.counters.connect_failures);
        let mut state = self.state();
        let pause = BACKOFF_FIRST * 2_u32.saturating_pow(state.failures.min(16));
        let pause = jittered(pause.min(BACKOFF_MAX));
        state.failures = state.failures.saturating_add(1);
        state.not_before = Instant::now() + pause;
        if state.failed.replace(error.clone()).is_none() {
            let role = self.role;
            warn!(%error, ?role, retry_after_ms = pause.as_millis(), "PostgreSQL unreachable: backed off");
        }
    }

    fn succeeded(&self, at: usize) {
        Counters::count(&self.counters.connects);
        let mut state = self.state();
        state.preferred = at;
        state.failures = 0;
        if state.failed.take().is_some() {
            info!(server = %self.servers[at], role = ?self.role, "PostgreSQL reachable again");
        }
    }

    /// Closes all connections that were opened until now, those in use when they come back.
    pub(crate) fn flush(&self) {
        let mut state = self.state();
        state.flushed = Instant::now();
        state.idle.clear();
    }

    /// Asks a replica nothing for a time.
    pub(crate) fn back_off(&self, pause: Duration) {
        self.state().backed_off_until = Instant::now() + pause;
    }

    /// Notes that a replica has a revision that the primary has not shown. Returns the first such revision since
    /// its last answer that was used, and when it showed it.
    pub(crate) fn first_ahead(&self, revision_row: RevisionRow) -> (Moment, RevisionRow) {
        *self.state().ahead.get_or_insert((Moment::now(), revision_row))
    }

    /// A replica has changes that its primary never had.
    pub(crate) fn follows_another(&self) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.follows_other_primary, true) {
            let server = &self.servers[0];
            warn!(
                %server,
                advice = "make it a standby of the present primary, or take it out of store.postgres.replicas",
                "PostgreSQL replica not used: it has changes that the primary does not have, so it follows another primary"
            );
        }
    }

    /// Whether a question to this replica may be answered.
    pub(crate) fn may_be_asked(&self) -> bool {
        let (state, now) = (self.state(), Instant::now());
        now >= state.backed_off_until && (state.failed.is_none() || now >= state.not_before)
    }

    /// Treats a server that accepts connections and does not answer as one that cannot be reached.
    pub(crate) fn does_not_answer(&self) {
        self.flush();
        self.failed(&StoreError::Unavailable(format!("{} does not answer: timeout", self.servers[0])));
    }
}

/// Between half of a pause and one and a half: clients that failed together come back apart.
fn jittered(pause: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or_default();
    pause / 2 + pause.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// The question that tries, for which others wait until then. If its asker leaves, the next one tries.
struct Trial<'a> {
    pool: &'a Pool,
    until: Instant,
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        // A failure has set another moment.
        if state.not_before == self.until {
            state.not_before = Instant::now();
        }
    }
}

/// A connection that is counted. It is closed when it is dropped, unless [`Pooled::keep`] gives it back.
pub(crate) struct Pooled<'a> {
    pool: &'a Pool,
    pub(crate) connection: Connection,
    _permit: SemaphorePermit<'a>,
}

impl Pooled<'_> {
    /// Gives it back: its answer was read to the end, and no transaction is open.
    pub(crate) fn keep(self) {
        let Self { pool, mut connection, _permit } = self;
        let mut state = pool.state();
        (state.ahead, state.follows_other_primary) = (None, false);
        if connection.opened >= state.flushed && !connection.is_closed() {
            connection.used = Instant::now();
            state.idle.push(connection);
        }
    }
}
