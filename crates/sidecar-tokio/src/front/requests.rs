//! Which requests of a connection are not answered to their end, and whether their client takes what is
//! answered.
//!
//! Over HTTP/2 a body is not polled while its client reads nothing, so a timer in the body would not fire.

use super::memory::RequestMemory;
use crate::idle::idle_for;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Clone, Debug)]
pub(super) struct Requests {
    state: Arc<Mutex<State>>,
    /// How long an answer's body may wait for the application.
    application: Duration,
}

#[derive(Debug)]
struct State {
    /// By number: since when it is the client that an answer waits for, unless it moves before. None before
    /// its head.
    open: HashMap<u64, Option<Instant>>,
    begun: u64,
    /// When there was one more or one less.
    changed: Instant,
}

/// A request that is open until this is dropped.
#[derive(Debug)]
pub(super) struct OpenRequest {
    requests: Requests,
    number: u64,
    _memory: Option<RequestMemory>,
}

/// The body of an answer, with its open request.
#[derive(Debug)]
pub(super) struct Counted<B> {
    body: B,
    open: OpenRequest,
    /// Is counted up with each header block that is to be written.
    blocks: Arc<AtomicUsize>,
}

impl Requests {
    pub(super) fn new(application: Duration) -> Self {
        let state = State { open: HashMap::new(), begun: 0, changed: Instant::now() };
        Self { state: Arc::new(Mutex::new(state)), application }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, memory: impl Into<Option<RequestMemory>>) -> OpenRequest {
        let mut state = self.state();
        state.begun += 1;
        state.changed = Instant::now();
        let number = state.begun;
        state.open.insert(number, None);
        OpenRequest { requests: self.clone(), number, _memory: memory.into() }
    }

    /// Waits until there has been none for a while.
    pub(super) async fn idle(&self, limit: Duration) {
        idle_for(limit, || {
            let state = self.state();
            if state.open.is_empty() { state.changed } else { Instant::now() }
        })
        .await;
    }

    /// Waits until one has been answered for so long and its client took nothing.
    pub(super) async fn stalled(&self, limit: Duration) {
        idle_for(limit, || {
            let now = Instant::now();
            self.state().open.values().flatten().min().map_or(now, |since| now.min(*since))
        })
        .await;
    }
}

impl OpenRequest {
    /// The client has its turn, after the application.
    fn moved(&self, application: Duration) {
        self.requests.state().open.insert(self.number, Some(Instant::now() + application));
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let mut state = self.requests.state();
        state.open.remove(&self.number);
        state.changed = Instant::now();
    }
}

impl<B> Counted<B> {
    /// `blocks` is counted up with trailers.
    pub(super) fn new(body: B, open: OpenRequest, blocks: Arc<AtomicUsize>) -> Self {
        open.moved(Duration::ZERO);
        Self { body, open, blocks }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        // A body gives up on the application by itself, when it is asked then.
        let application = if polled.is_pending() { self.open.requests.application } else { Duration::ZERO };
        self.open.moved(application);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && frame.is_trailers()
        {
            self.blocks.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::StreamBody;
    use std::convert::Infallible;
    use tokio::time::timeout;

    #[tokio::test]
    async fn an_application_has_its_time_before_the_client() {
        let (short, long) = (Duration::from_millis(20), Duration::from_millis(200));
        let requests = Requests::new(long);
        let asked = requests.begin(None);
        assert!(timeout(2 * short, requests.stalled(short)).await.is_err(), "there is nothing to take");
        let silent = futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
        let mut answer = Counted::new(StreamBody::new(silent), asked, Arc::default());
        let begun = Instant::now();
        let polled = Pin::new(&mut answer).poll_frame(&mut Context::from_waker(std::task::Waker::noop()));
        assert!(polled.is_pending());
        requests.stalled(short).await;
        assert!(begun.elapsed() >= long, "{:?}", begun.elapsed());
    }
}
