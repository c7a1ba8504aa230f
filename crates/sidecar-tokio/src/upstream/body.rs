//! Bodies that are passed on piece by piece.

use super::RequestPermit;
use super::hop;
use crate::idle::idle_for;
use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use listener_tokio::connections::h2_errors;
use listener_tokio::lingering::{LIMITS, discard};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// The body of an answer, of the application or our own.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Why a body ends early.
#[derive(Clone, Debug, Error)]
pub enum BodyError {
    /// Nothing came for too long, or it lasted too long.
    #[error("it did not come in time")]
    Late,
    /// Its sender broke off.
    #[error("it broke off: {0}")]
    Broken(Arc<hyper::Error>),
    /// Its sender reset the stream, with a code that the next hop gets, too.
    #[error(transparent)]
    Reset(Arc<Reset>),
}

/// A reset of a stream. hyper finds the code of its own reset among the causes of an error.
#[derive(Debug, Error)]
#[error("it was reset: {0}")]
pub struct Reset(#[source] h2::Error);

impl From<hyper::Error> for BodyError {
    /// Codes that say of a request that it breaks the rules, or was not begun, are this hop's alone.
    fn from(error: hyper::Error) -> Self {
        let reset = h2_errors(&error).find_map(h2::Error::reason);
        match reset {
            Some(reason @ (Reason::NO_ERROR | Reason::CANCEL | Reason::ENHANCE_YOUR_CALM)) => {
                Self::Reset(Arc::new(Reset(reason.into())))
            }
            _ => Self::Broken(Arc::new(error)),
        }
    }
}

/// Takes away from trailers what the sender may not say.
pub(super) struct Strip(Box<dyn Fn(&mut HeaderMap) + Send>);

impl Strip {
    pub(super) fn new(strip: impl Fn(&mut HeaderMap) + Send + 'static) -> Self {
        Self(Box::new(strip))
    }
}

impl fmt::Debug for Strip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Strip").finish_non_exhaustive()
    }
}

/// A stream of HTTP/2 to the application.
pub(super) trait Stream: fmt::Debug + Send + Sync {
    /// One direction is at its end, without a reset.
    fn finished(&self);
}

/// A body with its trailers, as far as these are passed on, that comes within its time. None of it is kept.
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
    strip: Option<Strip>,
    /// Where the application is spoken to in HTTP/2: the exchange that this is one direction of.
    exchange: Option<Sending>,
    /// The stream there, until the end of this direction.
    stream: Option<Arc<dyn Stream>>,
    /// For an answer's body that may come to its end before the request does.
    early: Option<Sending>,
    _permit: Option<Arc<RequestPermit>>,
}

impl Paced {
    /// `limits` are the time between two pieces, and when it ends in any case.
    pub(super) fn request(
        body: Incoming,
        is_http2: bool,
        limits: (Duration, Instant),
        sending: &Sending,
        strip: Strip,
        permit: &Arc<RequestPermit>,
    ) -> Self {
        let mut paced = Self::new(body, limits, permit);
        (paced.sending, paced.is_http2, paced.strip) = (Some(sending.clone()), is_http2, Some(strip));
        paced
    }

    /// `stream` is that of the application, if it is spoken to in HTTP/2, with the state of the request.
    pub(super) fn response(
        body: Incoming,
        limits: (Duration, Instant),
        permit: &Arc<RequestPermit>,
        stream: Option<(Arc<dyn Stream>, &Sending)>,
    ) -> Self {
        let is_over = body.is_end_stream();
        let mut paced = Self::new(body, limits, permit);
        if let Some((stream, sending)) = stream {
            (paced.stream, paced.exchange) = (Some(stream), Some(sending.clone()));
        }
        if is_over {
            paced.finish();
        }
        paced
    }

    /// The answer comes while the request is still being sent over this connection. Once the answer is over,
    /// the rest of the request has the time of a lingering connection.
    pub(super) fn before_the_end(&mut self, sending: &Sending, connection: AbortHandle) {
        if sending.is_over() {
            return;
        }
        self.early = Some(sending.clone());
        tokio::spawn(sending.clone().linger(connection));
    }

    fn new(body: Incoming, (timeout, end): (Duration, Instant), permit: &Arc<RequestPermit>) -> Self {
        Self {
            body: Some(body),
            timeout,
            end: Some(end),
            timer: None,
            sending: None,
            is_http2: false,
            strip: None,
            exchange: None,
            stream: None,
            early: None,
            _permit: Some(Arc::clone(permit)),
        }
    }

    /// A request goes over a stream of HTTP/2. From now on its body may pause for as long as the answer's
    /// may, and neither direction is late while the other one moves: a client may have said all that it has
    /// to say for now, and wait for events.
    pub(super) fn on_stream(&mut self, stream: Arc<dyn Stream>, idle: Duration) {
        (self.timeout, self.exchange, self.timer) = (idle, self.sending.clone(), None);
        self.stream = Some(stream);
        if self.is_end_stream() {
            self.finish();
        }
    }

    /// This direction is at its end, without a reset.
    fn finish(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.finished();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (Some(body), Some(end)) = (&mut self.body, self.end) else { return Poll::Ready(None) };
        if end <= Instant::now() {
            return Poll::Ready(Some(Err(BodyError::Late)));
        }
        if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) {
            let is_over = body.is_end_stream();
            self.timer = None;
            if let Some(exchange) = &self.exchange {
                exchange.pass();
            }
            return Poll::Ready(match frame {
                Some(Ok(frame)) => match frame.into_trailers() {
                    Ok(trailers) => {
                        self.finish();
                        self.trailers(trailers).map(Ok)
                    }
                    Err(data) => {
                        if is_over {
                            self.finish();
                        }
                        Some(Ok(data))
                    }
                },
                Some(Err(error)) => Some(Err(error.into())),
                None => {
                    self.finish();
                    None
                }
            });
        }
        loop {
            let now = Instant::now();
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end.min(now + self.timeout))));
            ready!(timer.as_mut().poll(cx));
            let due = self.exchange.as_ref().map(|exchange| exchange.passed() + self.timeout);
            match due.filter(|due| *due > now && end > now) {
                Some(due) => timer.as_mut().reset(end.min(due)),
                None => return Poll::Ready(Some(Err(BodyError::Late))),
            }
        }
    }

    /// What is passed on of trailers, if anything.
    fn trailers(&self, mut trailers: HeaderMap) -> Option<Frame<Bytes>> {
        hop::strip_trailers(&mut trailers);
        if let Some(Strip(strip)) = &self.strip {
            strip(&mut trailers);
        }
        (!trailers.is_empty()).then(|| Frame::trailers(trailers))
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.poll(cx);
        if let Some(sending) = &self.sending {
            sending.note(&polled);
        }
        polled
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
        if let Some(request) = &self.sending {
            request.end();
        }
        if let Some(request) = &self.early {
            request.0.answered.notify_one();
        }
    }
}

/// How far a request is sent to the application. Its body updates this.
#[derive(Clone, Debug, Default)]
pub(super) struct Sending(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// The request's body was sent, or given up.
    over: Notify,
    /// The answer to a request that is not over has come to its end, or was given up.
    answered: Notify,
}

#[derive(Debug)]
struct State {
    is_over: bool,
    /// When the application last took something.
    moved: Instant,
    /// Whether it waits for the client.
    is_clients_turn: bool,
    failed: Option<BodyError>,
    /// When something of the request or the answer last passed.
    passed: Instant,
}

impl Default for State {
    fn default() -> Self {
        let now = Instant::now();
        Self { is_over: false, moved: now, is_clients_turn: false, failed: None, passed: now }
    }
}

impl Sending {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.state().is_over = true;
        self.0.over.notify_one();
    }

    fn is_over(&self) -> bool {
        self.state().is_over
    }

    /// Waits for the end of the answer, and then for the end of the request within the time of a lingering
    /// connection; else ends the connection to the application. The application may neither take the rest nor
    /// close, and the client may send as slowly as it likes.
    async fn linger(self, connection: AbortHandle) {
        tokio::select! {
            () = self.0.over.notified() => return,
            () = self.0.answered.notified() => {}
        }
        let is_late = async {
            tokio::select! {
                () = sleep(LIMITS.timeout) => {}
                () = idle_for(LIMITS.idle, || self.state().moved) => {}
            }
        };
        tokio::select! {
            () = self.0.over.notified() => {}
            () = is_late => connection.abort(),
        }
    }

    fn pass(&self) {
        self.state().passed = Instant::now();
    }

    fn passed(&self) -> Instant {
        self.state().passed
    }

    fn note(&self, polled: &Poll<Option<Result<Frame<Bytes>, BodyError>>>) {
        let mut state = self.state();
        state.is_clients_turn = polled.is_pending();
        state.moved = Instant::now();
        if let Poll::Ready(Some(Err(error))) = polled {
            state.failed = Some(error.clone());
        }
    }

    /// Why the client's part failed, if it did.
    pub(super) fn failed(&self) -> Option<BodyError> {
        self.state().failed.clone()
    }

    /// Waits until the application has taken nothing for so long, though there was something to take, or all
    /// was taken.
    pub(super) async fn stands_still(&self, limit: Duration) {
        idle_for(limit, || {
            let state = self.state();
            // The client's time is measured where it is waited for.
            if state.is_clients_turn { Instant::now() } else { state.moved }
        })
        .await;
    }
}
