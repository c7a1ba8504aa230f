//! A local endpoint for plain SOAP 1.2 clients: it calls one service outward with message security, so that
//! the client needs none.
//!
//! Who reaches the endpoint calls as its account. So it is for the loopback address, and pages of browsers
//! are refused: requests with an `Origin`, with another media type than SOAP's, or for another host.

use crate::Clock;
use crate::client::{Answer, CallError, Caller, Settings};
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use xml_security::names::{ADDRESSING, SOAP};
use xml_security::{Document, ParseLimits};

/// Calls at once, each in a session of its own: the service holds 128 that are not used yet.
const CALLS_MAX: usize = 64;
/// How long a call waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections at once.
const CONNECTIONS_MAX: usize = 256;
/// For the head of a request, and between two of them.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// For the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest head of a request in octets.
const HEAD_LEN_MAX: usize = 16 << 10;

/// The endpoint.
pub struct Endpoint {
    settings: Arc<Settings>,
    clock: Clock,
    /// Clients with their sessions, the last used at the end.
    idle: Mutex<Vec<Caller>>,
    turns: Semaphore,
    connections: Arc<Semaphore>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("url", &self.settings.url).finish_non_exhaustive()
    }
}

/// A message of a plain client.
struct Plain {
    action: String,
    /// `a:MessageID`, if the client speaks WS-Addressing.
    message_id: Option<String>,
    speaks_addressing: bool,
    /// `s:Body` as it stands for itself.
    body: Vec<u8>,
}

impl Endpoint {
    /// Calls the service of these settings. Opens no connection.
    pub fn new(settings: Settings, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            settings: Arc::new(settings),
            clock,
            idle: Mutex::default(),
            turns: Semaphore::new(CALLS_MAX),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        })
    }

    /// Serves until `shutdown` is cancelled, and then cancels its sessions.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        loop {
            let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else { break };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let connection = Arc::clone(&self).connection(stream, shutdown.clone());
                    tasks.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    warn!(%error, "Cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        tasks.close();
        tasks.wait().await;
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for mut caller in idle {
            if let Err(error) = caller.cancel().await {
                info!(%error, "A session was not cancelled");
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, shutdown: CancellationToken) {
        let _ = stream.set_nodelay(true);
        let endpoint = Arc::clone(&self);
        let service = service_fn(move |request| {
            let endpoint = Arc::clone(&endpoint);
            async move { Ok::<_, Infallible>(endpoint.answer(request).await) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_LEN_MAX);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => {}
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if let Err((status, text)) = check(&request) {
            let mut response = response(status, "text/plain; charset=utf-8", text.as_bytes().to_vec());
            if status == StatusCode::METHOD_NOT_ALLOWED {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            }
            return response;
        }
        let headers = request.headers().clone();
        let limits = self.settings.client.limits;
        let body = Limited::new(request.into_body(), limits.octets).collect();
        let body = match timeout(BODY_TIMEOUT, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) => return fault("Sender", "the message is too long, or did not come whole", None),
            Err(_) => return fault("Sender", "the message did not come in time", None),
        };
        let plain = match Plain::read(&headers, &body, &limits) {
            Ok(plain) => plain,
            Err(error) => return fault("Sender", &error, None),
        };
        match self.call(&plain).await {
            Ok(Answer::Reply(reply)) => {
                let status = if reply.is_fault { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
                let body = reply.body().map_err(|error| error.to_string());
                match body.and_then(|body| plain.reply(&reply.action, &body)) {
                    Ok(octets) => response(status, tlsnego_soap::CONTENT_TYPE, octets),
                    Err(error) => fault("Receiver", &error, Some(&plain)),
                }
            }
            Ok(Answer::Accepted) => response(StatusCode::ACCEPTED, tlsnego_soap::CONTENT_TYPE, Vec::new()),
            Err(error) => {
                warn!(action = plain.action, %error, "A call outward failed");
                fault("Receiver", &error.to_string(), Some(&plain))
            }
        }
    }

    async fn call(&self, plain: &Plain) -> Result<Answer, CallError> {
        let Ok(Ok(_turn)) = timeout(TURN_TIMEOUT, self.turns.acquire()).await else {
            return Err(CallError::NotReached(format!("{CALLS_MAX} calls are in progress")));
        };
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut caller = idle.unwrap_or_else(|| Caller::shared(Arc::clone(&self.settings), self.clock));
        let answer = caller.call(&plain.action, &plain.body).await;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(caller);
        answer
    }
}

/// Whether it is a request of a local SOAP client, and of no page in a browser.
fn check(request: &Request<Incoming>) -> Result<(), (StatusCode, &'static str)> {
    let headers = request.headers();
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    let is_local = host.is_some_and(|host| {
        let name = host.host().trim_matches(['[', ']']);
        name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    });
    if headers.contains_key(ORIGIN) || !is_local {
        return Err((StatusCode::FORBIDDEN, "this endpoint is for SOAP clients of this machine\n"));
    }
    if request.method() != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "this endpoint takes SOAP 1.2 messages by POST\n"));
    }
    match content_type(headers) {
        Some(found) if tlsnego_soap::is_soap(found) => Ok(()),
        _ => Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content type has to be application/soap+xml\n")),
    }
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(CONTENT_TYPE)?.to_str().ok()
}

/// The action in a content type (RFC 3902).
fn action_of(headers: &HeaderMap) -> Option<String> {
    let value = content_type(headers)?;
    let at = value.to_ascii_lowercase().find("action=")?;
    let rest = value[at + "action=".len()..].trim_start();
    let action = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => rest.split(';').next()?.trim(),
    };
    (!action.is_empty()).then(|| action.to_owned())
}

impl Plain {
    fn read(headers: &HeaderMap, octets: &[u8], limits: &ParseLimits) -> Result<Self, String> {
        let document = Document::parse(octets, limits).map_err(|error| error.to_string())?;
        let root = document.root();
        if !document.is(root, SOAP.name("Envelope")) {
            return Err("it is no SOAP 1.2 envelope".to_owned());
        }
        let body = document.only(root, SOAP.name("Body")).ok_or("the envelope has no s:Body")?;
        let header = document.only(root, SOAP.name("Header"));
        let text = |local| {
            let node = document.only(header?, ADDRESSING.name(local))?;
            document.text(node).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        let addressed = text("Action");
        let speaks_addressing = addressed.is_some();
        let action = addressed.or_else(|| action_of(headers)).ok_or(
            "the message has no action: set action in the Content-Type, or a:Action of WS-Addressing",
        )?;
        let body = document.extract(body).map_err(|error| error.to_string())?;
        Ok(Self { action, message_id: text("MessageID"), speaks_addressing, body })
    }

    /// The reply in an envelope of its own.
    fn reply(&self, action: &str, body: &[u8]) -> Result<Vec<u8>, String> {
        let mut document = self.envelope(action);
        let root = document.root();
        let limits = ParseLimits { octets: usize::MAX, ..ParseLimits::default() };
        document.append_xml(root, body, &limits).map_err(|error| error.to_string())?;
        document.write().map_err(|error| error.to_string())
    }

    /// An envelope without a body, with headers if the client speaks WS-Addressing.
    fn envelope(&self, action: &str) -> Document {
        let mut document = Document::new(SOAP.name("Envelope"));
        if self.speaks_addressing {
            let root = document.root();
            document.declare(root, ADDRESSING.prefix, ADDRESSING.uri);
            let header = document.append_element(root, SOAP.name("Header"));
            document.append_text_element(header, ADDRESSING.name("Action"), action);
            if let Some(message_id) = &self.message_id {
                document.append_text_element(header, ADDRESSING.name("RelatesTo"), message_id);
            }
        }
        document
    }
}

/// A fault of this endpoint, which no service has made.
fn fault(code: &str, text: &str, plain: Option<&Plain>) -> Response<Full<Bytes>> {
    let mut document = match plain {
        Some(plain) => plain.envelope("http://www.w3.org/2005/08/addressing/soap/fault"),
        None => Document::new(SOAP.name("Envelope")),
    };
    let root = document.root();
    let body = document.append_element(root, SOAP.name("Body"));
    let element = document.append_element(body, SOAP.name("Fault"));
    let inner = document.append_element(element, SOAP.name("Code"));
    document.append_text_element(inner, SOAP.name("Value"), &format!("{}:{code}", SOAP.prefix));
    let reason = document.append_element(element, SOAP.name("Reason"));
    let node = document.append_text_element(reason, SOAP.name("Text"), &visible(text));
    document.set_attribute(node, xml_security::names::XML.name("lang"), "en");
    let octets = document.write().unwrap_or_default();
    let status = if code == "Sender" { StatusCode::BAD_REQUEST } else { StatusCode::INTERNAL_SERVER_ERROR };
    response(status, tlsnego_soap::CONTENT_TYPE, octets)
}

/// Without characters that XML has no place for.
fn visible(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(500).collect()
}

fn response(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let is_empty = body.is_empty();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    if !is_empty {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
