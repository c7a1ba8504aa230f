//! The way to an application: HTTP/1.1 or HTTP/2 over TCP, TLS or a Unix socket, with connections that are
//! kept, and bodies that are passed on as they come.
//!
//! Hop-by-hop headers are removed, both ways (RFC 9110, section 7.6.1). Identity and forwarding headers are
//! set after that, so that a client's `Connection` cannot remove them. Messages are framed anew: of
//! `Content-Length` and `Transfer-Encoding` in one request hyper reads the latter, and the application sees
//! no other. `Expect` is dropped: a client that waits for 100 gets it here, when the application takes the
//! body. Trailers pass, except for those that say what only headers may. Over HTTP/1.1 they pass only if
//! `Trailer` announces them, and those of an answer only if the client says that it reads them (`TE:
//! trailers`).
//!
//! The application's permits are shared fairly among clients (`request_limit`). A request and all that comes
//! of it, WebSockets included, ends within an hour, because no decision about it is made again.
//!
//! The application's certificate is validated by the CAs of `upstream_ca` and nothing else. When these are
//! replaced, so is the pool: what is open ends by itself, and no connection that was made by other CAs gets
//! another request.
//!
//! Absent on purpose: `CONNECT`, pings over HTTP/2 (gRPC's servers close connections with more than one in
//! five minutes), and any change of a path.

mod body;
mod failure;
mod hop;
mod pool;
mod request_limit;
mod tls;
mod tunnel;

pub use body::{Body, BodyError};
pub use hop::authority;
pub use request_limit::Client;
pub(super) use request_limit::REQUESTS_MAX;
pub use tls::Tls;

use crate::files::ReadFiles;
use crate::settings::{Application, UpstreamProtocol};
use arc_swap::ArcSwap;
use body::{Paced, Sending, Strip};
use bytes::Bytes;
use dcerpc_tokio::LogLimiter;
use failure::{Failure, Failures};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use listener_tokio::connections::{Connections, Rejection, UpstreamMeter};
use listener_tokio::lingering::discard;
use pool::{Answered, Pool, Target};
use request_limit::{Full as NoPermit, RequestLimit, RequestPermit};
use sidecar::Sidecar;
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

/// How long a request waits for a permit.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);
/// For the head of an answer, from when the application has the request, or the last it took of it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two pieces that a client sends or takes: a network that is there takes less. To an application
/// over HTTP/2 a client may pause for [`APPLICATION_TIMEOUT`] in what it sends, and for longer while the
/// answer goes on.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two pieces of an answer's body. Streams of events are silent for a while, and their authors know
/// that hops forget.
const APPLICATION_TIMEOUT: Duration = Duration::from_secs(300);
/// For a request with all that comes of it: a certificate that is revoked is good there until then.
const LIFE_MAX: Duration = Duration::from_secs(3600);
/// How long a request counts whose client took it back: the application may not notice, or work on.
const CANCELLED_HOLD: Duration = Duration::from_secs(1);
/// For a peer to close its connection after it was asked to, if no request is open.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a request came from.
#[derive(Clone, Debug)]
pub enum RequestOrigin {
    /// A proxy, whose `X-Forwarded-…` stay as they are.
    Proxy,
    /// Nothing: this client spoke TLS with us. `X-Forwarded-…` and `Forwarded` are ours to say.
    Tls(Client),
}

/// Timeouts of a request. Tests have shorter ones than the defaults.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) turn: Duration,
    pub(crate) head: Duration,
    /// Between two pieces of a request's body that come, if the application is not spoken to in HTTP/2, or of
    /// an answer's that are taken.
    pub(crate) client: Duration,
    /// Between two pieces of an answer's body; over HTTP/2, in which neither direction moves.
    pub(crate) application: Duration,
    /// In all, once the application is asked.
    pub(crate) life: Duration,
    /// For a peer to close its connection after it was asked to.
    pub(crate) leave: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            turn: TURN_TIMEOUT,
            head: HEAD_TIMEOUT,
            client: CLIENT_TIMEOUT,
            application: APPLICATION_TIMEOUT,
            life: LIFE_MAX,
            leave: LEAVE_TIMEOUT,
        }
    }
}

/// Holds the permit of a request whose client takes it back before its answer comes. A client that begins
/// requests and resets them has no more of them at once than others (RFC 9113, section 10.5).
struct Unanswered(Option<Arc<RequestPermit>>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        // Without a runtime, its connections are gone.
        if let (Some(permit), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move {
                sleep(CANCELLED_HOLD).await;
                drop(permit);
            });
        }
    }
}

/// In an answer of ours: why the request was not passed on.
#[derive(Clone, Copy, Debug)]
struct NotPassedOn(&'static str);

/// An answer to a request that is not passed on because of what it is.
fn not_passed_on(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut answer = plain(status, text);
    answer.extensions_mut().insert(NotPassedOn(text.trim_ascii_end()));
    answer
}

/// The answer to a request that names no host, or two.
pub(super) fn no_host() -> Response<Body> {
    not_passed_on(StatusCode::BAD_REQUEST, "one host has to be named\n")
}

/// Counts and logs an answer of [`not_passed_on`], and no other.
pub(super) fn count_not_passed_on<I: Clone + Eq + Hash + Send + 'static>(
    answer: &Response<Body>,
    connections: &Connections<I>,
    client: Option<SocketAddr>,
) {
    if let Some(NotPassedOn(why)) = answer.extensions().get() {
        connections.rejected(Rejection::BadRequest, client, why);
    }
}

/// An application.
#[derive(Debug)]
pub struct Upstream {
    application: Application,
    pool: ArcSwap<Pool>,
    failures: Failures,
    request_limit: RequestLimit,
    timeouts: Timeouts,
    log_limiter: LogLimiter,
}

/// A whole answer of our own.
pub fn whole(response: Response<Bytes>) -> Response<Body> {
    response.map(|body| Full::new(body).map_err(|never| match never {}).boxed_unsync())
}

/// A line of text for the client.
pub fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    whole(response)
}

/// Whether an answer that is given now comes before the end of the request's body, and its connection is
/// closed for that: over HTTP/1.1.
fn is_last(request: &Request<Incoming>) -> bool {
    request.version() < Version::HTTP_2 && !request.body().is_end_stream()
}

/// An answer of our own to a request of which nothing is read.
pub fn refusal(request: Request<Incoming>, answer: Response<Body>) -> Response<Body> {
    if is_last(&request) {
        return closing(answer);
    }
    discard(request.into_body());
    answer
}

/// An answer with a cookie of ours beside those of the application.
pub fn with_cookie(mut answer: Response<Body>, set_cookie: Option<HeaderValue>) -> Response<Body> {
    if let Some(set_cookie) = set_cookie {
        answer.headers_mut().append(header::SET_COOKIE, set_cookie);
    }
    answer
}

/// An answer after which the connection is closed. A client that reads this sends no further request on it
/// (RFC 9112 9.6).
pub fn closing(mut answer: Response<Body>) -> Response<Body> {
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

impl Upstream {
    /// Reads the files that the configuration names. Nothing is connected to yet.
    pub fn new(application: &Application, files: &dyn ReadFiles) -> anyhow::Result<Self> {
        Self::with_timeouts(application, Timeouts::default(), files)
    }

    pub(crate) fn with_timeouts(
        application: &Application,
        timeouts: Timeouts,
        files: &dyn ReadFiles,
    ) -> anyhow::Result<Self> {
        let tls = Tls::of(application, files)?;
        Ok(Self {
            pool: ArcSwap::from_pointee(Pool::new(application, tls)),
            application: application.clone(),
            failures: Failures::default(),
            request_limit: RequestLimit::new(),
            timeouts,
            log_limiter: LogLimiter::default(),
        })
    }

    /// Reads the files anew: what is to be used from now on, if it is other than before.
    pub fn reload(&self, files: &dyn ReadFiles) -> anyhow::Result<Option<Tls>> {
        let tls = Tls::of(&self.application, files)?;
        Ok(tls.filter(|tls| !self.pool.load().is_made_with(tls)))
    }

    /// Makes connections with other CAs and certificates from now on. Those that are kept get no further
    /// request.
    pub fn replace(&self, tls: Tls) {
        self.pool.store(Arc::new(Pool::new(&self.application, Some(tls))));
    }

    /// What counts its failures.
    pub(super) fn meter(&self) -> UpstreamMeter {
        let failures = self.failures.clone();
        UpstreamMeter {
            application: self.application.to_string(),
            failures: Box::new(move || failures.counts()),
        }
    }

    /// Whether HTTP/1.1 can be spoken, which alone opens WebSockets.
    fn opens_websockets(&self) -> bool {
        self.application.protocol != Some(UpstreamProtocol::Http2)
    }

    pub(super) const fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// How many permits are free.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.request_limit.free()
    }

    /// Asks the application. `stamp` writes what we say of the client, after everything that is not to be
    /// passed on is gone; `strip` takes away from trailers what only we say.
    ///
    /// What it cannot have answered is answered here: 400 and 501 for requests that are not passed on, 408
    /// for a body that stops, 502, 503 and 504 for an application that is not there, not right, or not in
    /// time. A connection is cut where that is noticed later.
    pub async fn forward(
        &self,
        mut request: Request<Incoming>,
        origin: RequestOrigin,
        stamp: impl FnOnce(&mut HeaderMap),
        strip: impl Fn(&mut HeaderMap) + Send + 'static,
    ) -> Response<Body> {
        if let Some(refused) = refused(&request) {
            return refusal(request, refused);
        }
        let named = authority(&request);
        let named = named.and_then(|it| HeaderValue::from_str(it.as_str()).ok().map(|host| (it, host)));
        let Some((authority, host)) = named else {
            return refusal(request, no_host());
        };
        let is_websocket = hop::wants_websocket(&request) && self.opens_websockets();
        let upgrade = is_websocket.then(|| hyper::upgrade::on(&mut request));
        let client = match &origin {
            RequestOrigin::Proxy => None,
            RequestOrigin::Tls(client) => Some(client),
        };
        let permit = match self.request_limit.acquire(client, self.timeouts.turn).await {
            Ok(permit) => Arc::new(permit),
            Err(full) => return refusal(request, self.full(full, client)),
        };
        let mut unanswered = Unanswered(Some(Arc::clone(&permit)));
        let is_last = is_last(&request);
        let own = |answer| if is_last { closing(answer) } else { answer };

        let is_http2 = request.version() == Version::HTTP_2;
        let reads_trailers = hop::reads_trailers(&request);
        let (mut parts, body) = request.into_parts();
        parts.extensions.clear();
        let target = Target {
            authority,
            host,
            // Only what `refused` has looked at gets here.
            path: parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")),
            is_websocket,
            idle: self.timeouts.application,
        };
        let has_body = !body.is_end_stream();
        let trailer = has_body.then(|| hop::announced(&parts.headers, &strip)).flatten();
        hop::prepare_request(&mut parts.headers, reads_trailers, trailer);
        match client {
            Some(client) => hop::set_forwarded(&mut parts.headers, client.address, &target.host),
            None => hop::strip_client_forwarded(&mut parts.headers),
        }
        stamp(&mut parts.headers);
        let end = Instant::now() + self.timeouts.life;
        let sending = Sending::default();
        let body = has_body.then(|| {
            let limits = (self.timeouts.client, end);
            Paced::request(body, is_http2, limits, &sending, Strip::new(strip), &permit)
        });
        let request = Request::from_parts(parts, body.unwrap_or_default());

        let pool = self.pool.load_full();
        let answered = tokio::select! {
            answered = pool.send(request, &target) => answered,
            () = sending.stands_still(self.timeouts.head) => Err(Failure::ResponseTimeout),
        };
        unanswered.0 = None;
        let Answered { mut response, lease, task } = match answered {
            Ok(answered) => answered,
            Err(failure) => return own(self.failed(&sending, failure)),
        };
        match (response.status(), upgrade) {
            (StatusCode::SWITCHING_PROTOCOLS, Some(client)) if hop::is_websocket(response.headers()) => {
                tunnel::run(client, hyper::upgrade::on(&mut response), end, permit);
                let (mut parts, _) = response.into_parts();
                hop::strip_hop_by_hop(&mut parts.headers);
                hop::websocket(&mut parts.headers);
                parts.extensions.clear();
                whole(Response::from_parts(parts, Bytes::new()))
            }
            (StatusCode::SWITCHING_PROTOCOLS, _) => own(self.failed(&sending, Failure::Protocol)),
            _ if hop::has_unknown_coding(response.headers()) => own(self.failed(&sending, Failure::Protocol)),
            (status, _) => {
                let (mut parts, body) = response.into_parts();
                parts.extensions.clear();
                parts.version = Version::HTTP_11;
                let may_trail = !body.is_end_stream() && (is_http2 || reads_trailers);
                hop::prepare_response(status, &mut parts.headers, may_trail);
                let stream = lease.map(|lease| (lease as _, &sending));
                let mut body = Paced::response(body, (self.timeouts.application, end), &permit, stream);
                if has_body {
                    body.before_the_end(&sending, task);
                }
                Response::from_parts(parts, body.map_err(Into::into).boxed_unsync())
            }
        }
    }

    /// Logs that there are too many requests, and answers 503.
    fn full(&self, full: NoPermit, client: Option<&Client>) -> Response<Body> {
        let client = client.map(|client| tracing::field::display(client.address));
        match full {
            NoPermit::Client => self
                .log_limiter
                .once("share", || warn!(client.addr = client, "Request limit of a client reached")),
            NoPermit::Anonymous => self
                .log_limiter
                .once("anonymous", || warn!("Request limit of clients without a certificate reached")),
            NoPermit::All => self
                .log_limiter
                .once("full", || warn!(limit = REQUESTS_MAX, "Request limit of the application reached")),
        }
        plain(StatusCode::SERVICE_UNAVAILABLE, "there are too many requests\n")
    }

    /// Logs why there is no answer, and gives the client a status and one line.
    fn failed(&self, sending: &Sending, failure: Failure) -> Response<Body> {
        if let Some(error) = sending.failed() {
            debug!(%error, "Request body aborted");
            return match error {
                BodyError::Late => plain(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time\n"),
                BodyError::Broken(_) | BodyError::Reset(_) => {
                    plain(StatusCode::BAD_REQUEST, "the request broke off\n")
                }
            };
        }
        let kind = failure.reason();
        self.failures.count(kind);
        let (application, reason, advice) = (&self.application, kind.name(), kind.advice());
        self.log_limiter.once(reason, || {
            warn!(%application, reason, error = %failure, advice, "The application did not answer");
        });
        let (status, text) = failure.answer();
        plain(status, text)
    }
}

/// Takes away from trailers what only a sidecar says.
pub fn strip(sidecar: &Arc<Sidecar>) -> impl Fn(&mut HeaderMap) + Send + 'static {
    let sidecar = Arc::clone(sidecar);
    move |trailers| sidecar.strip(trailers)
}

/// What is not passed on.
fn refused(request: &Request<Incoming>) -> Option<Response<Body>> {
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Some(not_passed_on(StatusCode::NOT_IMPLEMENTED, "this method is not served\n"));
    }
    if hop::has_unknown_coding(request.headers()) {
        return Some(not_passed_on(StatusCode::NOT_IMPLEMENTED, "this transfer coding is not served\n"));
    }
    match request.uri().path_and_query() {
        Some(path) if path.as_str().starts_with('/') => None,
        // An absolute URL may have no path (RFC 9112, section 3.2.1).
        _ => Some(not_passed_on(StatusCode::BAD_REQUEST, "a path is needed\n")),
    }
}

#[cfg(test)]
mod tests;
