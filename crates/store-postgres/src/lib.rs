//! Accounts, groups and machines in PostgreSQL.
//!
//! A reader may rely on this:
//!
//! - An answer is never older than what this process has seen before the question: each answer brings the
//!   row of the table `revision`, which every change changes in its own transaction.
//! - A whole question, in which it waits for a connection, is asked and may be repeated once, ends within
//!   [`Settings::timeout`]. A server that cannot answer is an error, never an absence.
//! - Accounts are looked up on replicas first, and on the primary if no replica has what was seen. Machines,
//!   secrets and lists are read from the primary. Changes are made on the primary, one after the other: the
//!   row of `revision` is the lock.
//! - A server that was the primary before a standby was promoted is not used, as far as this process can see
//!   the promoted one.
//! - The revision is polled. NOTIFY makes that faster and is not needed. With [`Settings::fresh`], no call is
//!   answered by an older one: it waits for a poll.
//! - A change ends [`CHANGE_WAIT`] after its commit. So what is asked after the change is answered by it, at
//!   every server whose [`Settings::fresh`] is [`FRESH`] or less.
//! - Only unnamed statements are used unless [`Settings::prepare`] is set, so a pooler may give a session
//!   another server for each transaction.
//!
//! The store needs a tokio runtime: it keeps the handle of the one in which it was opened.

mod admin;
mod connection;
mod counters;
mod failure;
mod identity;
mod look_up;
mod machines;
mod moment;
mod poll;
mod pool;
mod replicas;
mod revision;
mod rows;
mod schema;
mod sealed;
mod settings;
mod shared;
mod tables;
mod timeline;
mod tls;
mod transaction;
mod user_secrets;
mod writing;

pub use counters::Counters;
pub use replicas::{Replica, ReplicaFacts, Replicas};
pub use settings::{Password, Schema, Server, Settings};
pub use shared::{Challenge, Channel, ChannelId, StoredCredential};
pub use tls::tls;
pub use writing::{CHANGE_WAIT, FRESH};

use account_store::sealing::{Seal, no_key};
use account_store::{BoxFuture, Domain, SealingKey, StoreError};
use connection::Param;
use failure::Failure;
use identity::Expected;
use look_up::GroupNames;
use pool::{Pool, Pooled, Role};
use revision::Seen;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, RwLock};
use std::task::{Context, Poll};
use timeline::{Timeline, find_primary};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_postgres::Row;

/// Accounts, groups and machines of one domain, in a database.
pub struct PostgresStore {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Arc<Settings>,
    expected: Arc<Expected>,
    runtime: Handle,
    primary: Pool,
    replicas: Vec<Pool>,
    /// The replica that is asked next.
    next: AtomicUsize,
    seen: Seen,
    /// Is told of each NOTIFY.
    notified: Arc<Notify>,
    /// Is told of each call that waits for a poll.
    wanted: Arc<Notify>,
    /// Tells those calls that a poll has ended.
    polled: watch::Sender<()>,
    group_names: RwLock<GroupNames>,
    /// One change of this process at a time: those that wait hold no connection, which look-ups need.
    changing: tokio::sync::Mutex<()>,
    counters: Arc<Counters>,
}

impl PostgresStore {
    /// Makes the tables for the accounts of `domain`, in a schema that may be there already. A store that is
    /// there is never touched: [`StoreError::Refused`].
    pub async fn create(settings: &Settings, domain: &Domain) -> Result<(), StoreError> {
        settings.check()?;
        let connection = find_primary(&Arc::new(settings.clone()), &Arc::default()).await?;
        schema::create(&connection, settings, domain).await
    }

    /// Opens a store, brought to the present version if it is older. Machines need the key that their secrets
    /// are sealed under ([`StoreError::OtherKey`] for another one); without a key, questions about them are
    /// [`StoreError::Unavailable`].
    pub async fn open(settings: Settings, key: Option<&SealingKey>) -> Result<Self, StoreError> {
        settings.check()?;
        let (settings, notified) = (Arc::new(settings), Arc::<Notify>::default());
        let connection = find_primary(&settings, &notified).await?;
        let identity = schema::prepare(&connection, &settings).await?;
        let seal = key.map(SealingKey::new_seal);
        if let Some(seal) = &seal {
            schema::seal(&connection, &identity, seal).await?;
        }
        let expected =
            Arc::new(Expected { domain: identity.domain, seal, timeline: Timeline::of(connection.timeline) });
        let counters = Arc::<Counters>::default();
        let pool = |role, servers| Pool::new(&settings, (role, servers), &expected, &notified, &counters);
        let replicas = settings.replicas.iter().map(|replica| pool(Role::Replica, vec![replica.clone()]));
        let inner = Arc::new(Inner {
            primary: pool(Role::Primary, settings.servers.clone()),
            replicas: replicas.collect(),
            next: AtomicUsize::new(0),
            seen: Seen::new(identity.revision_row),
            runtime: Handle::current(),
            group_names: RwLock::default(),
            changing: tokio::sync::Mutex::default(),
            settings,
            expected,
            notified,
            wanted: Arc::default(),
            polled: watch::Sender::new(()),
            counters,
        });
        tokio::spawn(poll::poll(Arc::downgrade(&inner)));
        if inner.settings.servers.len() > 1 {
            tokio::spawn(timeline::watch(Arc::downgrade(&inner)));
        }
        Ok(Self { inner })
    }

    /// Whether questions can be answered, as far as the last poll knows.
    pub fn check(&self) -> Result<(), StoreError> {
        self.inner.seen.accounts(self.inner.settings.max_age).map(drop)
    }

    /// What the store counts about itself.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.inner.counters)
    }

    /// A future that can be polled from any thread.
    fn run<'a, T: 'a>(
        &'a self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        Box::pin(InRuntime { runtime: self.inner.runtime.clone(), work: Box::pin(work) })
    }
}

fn late(settings: &Settings) -> StoreError {
    StoreError::Unavailable(format!("PostgreSQL: timeout after {} ms", settings.timeout.as_millis()))
}

impl Inner {
    fn domain(&self) -> &Domain {
        &self.expected.domain
    }

    fn seal(&self) -> Result<&Seal, StoreError> {
        self.expected.seal.as_ref().ok_or_else(no_key)
    }

    /// The limit of a whole question.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        timeout(self.settings.timeout, work).await.unwrap_or_else(|_| {
            Counters::count(&self.counters.timeouts);
            Err(late(&self.settings))
        })
    }

    /// Asks the primary, once more if the connection had ended before.
    async fn ask_primary(&self, template: &str, params: &[Param<'_>]) -> Result<Vec<Row>, StoreError> {
        self.in_time(async {
            let pooled = self.primary.get().await?;
            match pooled.connection.query(template, params).await {
                Ok(answer) => return Ok(self.answered(pooled, answer)),
                Err(Failure::Ended(_)) => Counters::count(&self.counters.repeated),
                Err(error) => return Err(error.into()),
            }
            drop(pooled);
            let pooled = self.primary.get_new().await?;
            let answer = pooled.connection.query(template, params).await?;
            Ok(self.answered(pooled, answer))
        })
        .await
    }

    /// Closes all connections that were opened until now.
    fn flush(&self) {
        self.primary.flush();
        self.replicas.iter().for_each(Pool::flush);
    }

    fn answered<T>(&self, pooled: Pooled<'_>, answer: T) -> T {
        pooled.keep();
        Counters::count(&self.counters.asked_primary);
        answer
    }
}

/// A future that is polled in the context of a runtime, whichever thread polls it.
struct InRuntime<'a, T> {
    runtime: Handle,
    work: BoxFuture<'a, T>,
}

impl<T> Future for InRuntime<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let runtime = self.runtime.clone();
        let _entered = runtime.enter();
        self.work.as_mut().poll(context)
    }
}
