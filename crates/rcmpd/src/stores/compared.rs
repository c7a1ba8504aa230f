//! `[store.compare]`: a second store that is asked the same questions as the first one. Its answers are
//! compared, counted and logged, and never decide anything.
//!
//! Questions wait in a queue for a task that asks the second store one question at a time. No answer waits
//! for the task: if the queue is full, the question is not compared.

use account_store::difference::difference;
use account_store::{AccountStore, BoxFuture, Domain, Matches, Query, Revision, StoreError};
use anyhow::Context;
use dcerpc_tokio::{LogLimiter, encode_family};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::counter::ConstCounter;
use rcmp_service::explain::attribute;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tracing::warn;

/// Questions that wait to be compared, with their answers: enough for a burst. An answer has at most some
/// hundred KiB.
const QUEUE_MAX: usize = 256;
/// How long the store may take to open, and to answer. The stores have limits of their own; this one is for
/// stores that a build adds.
const TIMEOUT: Duration = Duration::from_secs(30);
/// After this time, a store that could not be opened is opened again.
const REOPENED_AFTER: Duration = Duration::from_secs(10);

/// The counters are of the process, because a reload makes a new [`ComparedStore`].
static COUNTERS: LazyLock<Counters> = LazyLock::new(Counters::default);
static LIMITER: LazyLock<LogLimiter> = LazyLock::new(LogLimiter::default);
/// Whether a comparison was ever configured in this process.
static IS_CONFIGURED: AtomicBool = AtomicBool::new(false);

#[derive(Default)]
struct Counters {
    same: AtomicU64,
    different: AtomicU64,
    failed: AtomicU64,
    skipped: AtomicU64,
}

type Open = dyn Fn() -> BoxFuture<'static, anyhow::Result<Arc<dyn AccountStore>>> + Send + Sync;

/// A second store, opened when it is first needed: it may be down while the first one serves.
pub(crate) struct Compared {
    open: Box<Open>,
    opened: OnceCell<Arc<dyn AccountStore>>,
    /// When it last could not be opened, and why.
    failed: Mutex<Option<(Instant, String)>>,
}

impl Compared {
    /// The store of `[store.compare]`, and how it is opened.
    pub(super) fn new(open: Box<Open>) -> Arc<Self> {
        IS_CONFIGURED.store(true, Ordering::Relaxed);
        Arc::new(Self { open, opened: OnceCell::new(), failed: Mutex::new(None) })
    }

    /// Opens the store at the first call. An error for [`REOPENED_AFTER`] after opening has failed.
    pub(crate) async fn store(&self) -> anyhow::Result<Arc<dyn AccountStore>> {
        self.opened.get_or_try_init(|| self.try_open()).await.map(Arc::clone)
    }

    async fn try_open(&self) -> anyhow::Result<Arc<dyn AccountStore>> {
        if let Some((failed, why)) = &*self.failed()
            && failed.elapsed() < REOPENED_AFTER
        {
            anyhow::bail!("the store could not be opened a moment ago: {why}");
        }
        let opened = timeout(TIMEOUT, (self.open)()).await.context("the store could not be opened in time");
        let opened = opened.flatten();
        *self.failed() = opened.as_ref().err().map(|error| (Instant::now(), crate::output::chain(error)));
        opened
    }

    fn failed(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        // It is whole between any two statements.
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the second store, and returns what differs from `here`, the answer of the first store.
    pub(crate) async fn difference(&self, query: &Query, here: &Matches) -> anyhow::Result<Vec<String>> {
        let store = self.store().await?;
        let there = timeout(TIMEOUT, store.find(query)).await.context("timeout")??;
        Ok(difference(query, here, &there))
    }
}

/// The first store. It answers, and puts each question with its answer into the queue.
pub(super) struct ComparedStore {
    first: Arc<dyn AccountStore>,
    questions: Sender<(Query, Matches)>,
    task: AbortHandle,
}

impl Drop for ComparedStore {
    /// A reload makes another one. What still waits is not compared.
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ComparedStore {
    /// Starts the task that compares. It ends with the store.
    pub(super) fn new(first: Arc<dyn AccountStore>, second: Arc<Compared>) -> Self {
        let (questions, asked) = channel(QUEUE_MAX);
        let task = tokio::spawn(compare(Arc::clone(&first), second, asked)).abort_handle();
        Self { first, questions, task }
    }
}

impl AccountStore for ComparedStore {
    fn domain(&self) -> &Domain {
        self.first.domain()
    }

    fn find<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Result<Matches, StoreError>> {
        Box::pin(async {
            let matches = self.first.find(query).await?;
            match self.questions.try_reserve() {
                Ok(permit) => permit.send((query.clone(), matches.clone())),
                Err(_) => count(&COUNTERS.skipped),
            }
            Ok(matches)
        })
    }

    fn stale_s(&self, query: &Query) -> Option<u64> {
        self.first.stale_s(query)
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        self.first.revision()
    }

    fn refresh(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.first.refresh()
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

async fn compare(first: Arc<dyn AccountStore>, second: Arc<Compared>, mut asked: Receiver<(Query, Matches)>) {
    while let Some((query, matches)) = asked.recv().await {
        match compare_one(&*first, &second, &query, matches).await {
            Ok((_, differs)) if differs.is_empty() => count(&COUNTERS.same),
            Ok((account, differs)) => {
                count(&COUNTERS.different);
                let (asked_by, differs) = (attribute(&query).0, differs.join("; "));
                LIMITER.counted("different", |left_out| {
                    warn!(
                        account,
                        asked_by, differs, left_out, "Stores differ: [store.compare] has another answer"
                    );
                });
            }
            Err(error) => {
                count(&COUNTERS.failed);
                let error = crate::output::chain(&error);
                LIMITER.counted("failed", |left_out| {
                    warn!(error, left_out, "Comparison failed: [store.compare] is unavailable");
                });
            }
        }
    }
}

/// The account, as the first store names it, and what differs. If something differs, both stores are asked a
/// second time, because an account may have been changed between the two questions.
async fn compare_one(
    first: &dyn AccountStore,
    second: &Compared,
    query: &Query,
    mut here: Matches,
) -> anyhow::Result<(String, Vec<String>)> {
    let mut differs = second.difference(query, &here).await?;
    if !differs.is_empty() {
        here = first.find(query).await.context("the store that is compared with does not answer")?;
        differs = second.difference(query, &here).await?;
    }
    Ok((name_of(&here), differs))
}

fn name_of(matches: &Matches) -> String {
    match matches {
        Matches::None => String::new(),
        Matches::One(record) => record.account.name.clone(),
        Matches::Many(names) => names.join(", "),
    }
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// Writes the metrics, if `[store.compare]` was ever configured in this process.
pub(crate) fn encode(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    if !IS_CONFIGURED.load(Ordering::Relaxed) {
        return Ok(());
    }
    let Counters { same, different, failed, skipped } = &*COUNTERS;
    let help = "Look-ups that were compared with the store of [store.compare]: the answer was the same or different, the comparison \
                failed, or was skipped because too many waited";
    let outcomes = [("same", same), ("different", different), ("failed", failed), ("skipped", skipped)];
    let counted = outcomes.map(|(outcome, counter)| {
        (OutcomeLabels { outcome }, ConstCounter::new(counter.load(Ordering::Relaxed)))
    });
    encode_family(encoder, ("store_compared", help, None), counted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[tokio::test]
    async fn a_store_that_cannot_be_opened_is_not_opened_again_at_once() {
        let opened = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&opened);
        let compared = Compared::new(Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Box::pin(async {
                tokio::task::yield_now().await;
                anyhow::bail!("it is down")
            })
        }));
        let query = Query::Mail("alice@contoso.example".to_owned());
        let ask = || async {
            let differs = compared.difference(&query, &Matches::None).await;
            differs.expect_err("the store is down").to_string()
        };
        // The second one waits for the first one, and does not open the store after it.
        let (first, second) = tokio::join!(ask(), ask());
        assert_eq!(first, "it is down");
        assert!(second.contains("a moment ago"), "{second}");
        assert!(ask().await.contains("a moment ago"));
        assert_eq!(opened.load(Ordering::Relaxed), 1);
        assert!(second.contains("it is down"), "{second}");
    }

    #[tokio::test]
    async fn the_task_that_compares_ends_with_its_store() {
        let sid = "S-1-5-21-1-2-3".parse().expect("a SID");
        let domain = Domain { netbios: "CONTOSO".into(), dns: "contoso.example".into(), sid };
        let first: Arc<dyn AccountStore> = Arc::new(account_store::memory::MemoryStore::new(domain));
        let second = Compared::new(Box::new(|| Box::pin(std::future::pending())));
        let (held, store) = (Arc::downgrade(&second), ComparedStore::new(first, second));
        for _ in 0..3 {
            store.find(&Query::Name("alice".to_owned())).await.expect("it answers");
            tokio::task::yield_now().await;
        }
        drop(store);
        // Without that, it waits for the second store to open.
        while held.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
