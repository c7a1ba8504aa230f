//! Bodies that are passed on piece by piece, by whoever keeps them coming.

use super::RequestPermit;
use crate::sidecar::lingering::discard;
use crate::sidecar::still::still;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use thiserror::Error;
use tokio::time::{Instant, Sleep, sleep_until};

/// The body of an answer, whoever makes it.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Why a body ends early.
#[derive(Clone, Debug, Error)]
pub enum BodyError {
    /// Nothing came for too long, or it lasted too long.
    #[error("it did not come in time")]
    Late,
    /// Whoever sent it broke off.
    #[error("it broke off: {0}")]
    Broken(Arc<hyper::Error>),
}

/// A body without its trailers, that comes within its time. None of it is kept.
#[derive(Debug, Default)]
pub(super) struct Paced {
    body: Option<Incoming>,
    timeout: Duration,
    /// However busy it is.
    end: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    /// For a request's body.
    sending: Option<Sending>,
    /// Whether that comes over HTTP/2.
    is_http2: bool,
    _permit: Option<RequestPermit>,
}

impl Paced {
    /// `limits` are the time between two pieces, and when it ends in any case.
    pub(super) fn request(
        body: Incoming,
        is_http2: bool,
        limits: (Duration, Instant),
        sending: &Sending,
    ) -> Self {
        let (timeout, end) = limits;
        let mut paced = Self::new(body, timeout, end);
        (paced.sending, paced.is_http2) = (Some(sending.clone()), is_http2);
        paced
    }

    pub(super) fn response(body: Incoming, timeout: Duration, end: Instant, permit: RequestPermit) -> Self {
        let mut paced = Self::new(body, timeout, end);
        paced._permit = Some(permit);
        paced
    }

    fn new(body: Incoming, timeout: Duration, end: Instant) -> Self {
        Self {
            body: Some(body),
            timeout,
            end: Some(end),
            timer: None,
            sending: None,
            is_http2: false,
            _permit: None,
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let (Some(body), Some(end)) = (&mut self.body, self.end) else { return Poll::Ready(None) };
        if end <= Instant::now() {
            return Poll::Ready(Some(Err(BodyError::Late)));
        }
        loop {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(frame) => {
                    self.timer = None;
                    match frame {
                        Some(Ok(frame)) => match frame.into_data() {
                            Ok(data) => return Poll::Ready(Some(Ok(data))),
                            Err(_trailers) => {}
                        },
                        Some(Err(error)) => {
                            return Poll::Ready(Some(Err(BodyError::Broken(Arc::new(error)))));
                        }
                        None => return Poll::Ready(None),
                    }
                }
                Poll::Pending => {
                    let late = || Box::pin(sleep_until(end.min(Instant::now() + self.timeout)));
                    let timer = self.timer.get_or_insert_with(late);
                    ready!(timer.as_mut().poll(cx));
                    return Poll::Ready(Some(Err(BodyError::Late)));
                }
            }
        }
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.poll_data(cx);
        if let Some(sending) = &self.sending {
            sending.note(&polled);
        }
        polled.map(|data| data.map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Paced {
    /// If the application has answered before it took all of a request, the client may still be sending.
    fn drop(&mut self) {
        if let Some(body) = self.body.take_if(|_| self.is_http2) {
            discard(body);
        }
    }
}

/// Where a request is on its way to the application, told by its body.
#[derive(Clone, Debug, Default)]
pub(super) struct Sending(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// When the application last took something.
    moved: Instant,
    /// Whether it waits for the client.
    is_clients_turn: bool,
    failed: Option<BodyError>,
}

impl Default for State {
    fn default() -> Self {
        Self { moved: Instant::now(), is_clients_turn: false, failed: None }
    }
}

impl Sending {
    fn note(&self, polled: &Poll<Option<Result<Bytes, BodyError>>>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_clients_turn = polled.is_pending();
        state.moved = Instant::now();
        if let Poll::Ready(Some(Err(error))) = polled {
            state.failed = Some(error.clone());
        }
    }

    /// Why the client's part failed, if it did.
    pub(super) fn failed(&self) -> Option<BodyError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).failed.clone()
    }

    /// Waits until the application has taken nothing for so long, though there was something to take, or all was taken.
    pub(super) async fn stands_still(&self, limit: Duration) {
        still(limit, || {
            let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // The client's time is measured where it is waited for.
            if state.is_clients_turn { Instant::now() } else { state.moved }
        })
        .await;
    }
}
