//! The thread on which a service's changes wait for the disk, so that its tasks need not.

use crate::store::{BoxFuture, StoreError};
use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// A change that is done for itself.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// Starts its thread with the first job. A job that was begun is done even if its future was dropped.
pub(super) struct Worker<J = Job>(Mutex<Option<Sender<J>>>);

impl<J> Default for Worker<J> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl Worker {
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let (promise, outcome) = promise();
        let job: Job = Box::new(move || promise.keep(work()));
        match self.send(job, |jobs| jobs.iter().for_each(|job| job())) {
            Ok(()) => Box::pin(outcome),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

impl<J: Send + 'static> Worker<J> {
    /// `work` is what the thread does with all jobs, if there is none yet.
    pub(super) fn send(
        &self,
        job: J,
        work: impl FnOnce(&Receiver<J>) + Send + 'static,
    ) -> Result<(), StoreError> {
        let mut sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let job = match &*sender {
            // The thread is gone if a job panicked; that job's caller knows, and the next one gets a new
            // thread.
            Some(running) => match running.send(job) {
                Ok(()) => return Ok(()),
                Err(rejected) => rejected.0,
            },
            None => job,
        };
        let (new, jobs) = channel();
        std::thread::Builder::new()
            .name("account-store".to_owned())
            .spawn(move || work(&jobs))
            .map_err(|error| StoreError::Unavailable(format!("no thread to write on: {error}")))?;
        // The thread was started a moment ago and waits for this.
        let _ = new.send(job);
        *sender = Some(new);
        Ok(())
    }
}

/// What becomes of a job, and who waits for that.
pub(super) fn promise<T>() -> (Promise<T>, Outcome<T>) {
    let slot = Arc::default();
    (Promise(Arc::clone(&slot)), Outcome(slot))
}

struct Slot<T> {
    outcome: Option<Result<T, StoreError>>,
    waker: Option<Waker>,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { outcome: None, waker: None }
    }
}

pub(super) struct Outcome<T>(Arc<Mutex<Slot<T>>>);

impl<T> Future for Outcome<T> {
    type Output = Result<T, StoreError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                slot.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Dropped before it is kept, it is an error.
pub(super) struct Promise<T>(Arc<Mutex<Slot<T>>>);

impl<T> Promise<T> {
    pub(super) fn keep(self, outcome: Result<T, StoreError>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).outcome = Some(outcome);
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.outcome
            .get_or_insert_with(|| Err(StoreError::Unavailable("the writing thread has ended".to_owned())));
        if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
    }
}
