//! Which requests of a connection are not answered to their end.

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

#[derive(Clone, Debug)]
pub(super) struct Requests(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    open: usize,
    /// When there was one more or one less.
    changed: Instant,
}

/// A request's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Requests);

/// The body of an answer, with the place of its request.
#[derive(Debug)]
pub(super) struct Counted<B> {
    body: B,
    _place: Place,
}

impl Default for Requests {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { open: 0, changed: Instant::now() })))
    }
}

impl Requests {
    pub(super) fn begin(&self) -> Place {
        self.change(|open| open + 1);
        Place(self.clone())
    }

    fn change(&self, change: impl FnOnce(usize) -> usize) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { open: change(state.open), changed: Instant::now() };
    }

    /// Waits until there has been none for a while.
    pub(super) async fn idle(&self, limit: Duration) {
        loop {
            let since = {
                let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if state.open > 0 { Instant::now() } else { state.changed }
            };
            let end = since + limit;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.change(|open| open - 1);
    }
}

impl<B> Counted<B> {
    pub(super) const fn new(body: B, place: Place) -> Self {
        Self { body, _place: place }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
