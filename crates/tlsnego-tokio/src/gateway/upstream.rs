//! The plain SOAP 1.2 service behind a gateway.

use super::Settings;
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::error::Error;
use std::time::Duration;
use tokio::time::timeout;

/// How long a connection may take to be made: a service that is there takes as long as light does.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle timeout of a kept connection: less than that of services (Node.js five seconds).
const KEPT_TIMEOUT: Duration = Duration::from_secs(4);
/// Connections that are kept.
const KEPT_MAX: usize = 64;

/// Why there is no answer of the service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The account of the session may not call any more.
    #[error("the account of the session cannot be used: {0}")]
    Account(String),
    /// The action is no URI that an HTTP header holds.
    #[error("the action is no URI")]
    Action,
    /// The body of the call, or of the answer, cannot be written for itself.
    #[error("the body cannot be passed on: {0}")]
    Body(String),
    /// No connection, or it ended before the answer.
    #[error("the service cannot be reached: {0}")]
    Connection(String),
    /// It took too long.
    #[error("the service did not answer in time")]
    TimedOut,
    /// The answer is too long.
    #[error("the answer of the service is longer than message_kib allows")]
    TooLong,
    /// The answer is no SOAP 1.2 message.
    #[error("the answer of the service is no SOAP 1.2 message: {0}")]
    NotSoap(String),
}

impl Failure {
    /// One word for metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Account(_) => "account",
            Self::Action => "action",
            Self::Body(_) => "body",
            Self::Connection(_) => "connection",
            Self::TimedOut => "timeout",
            Self::TooLong => "too_long",
            Self::NotSoap(_) => "not_soap",
        }
    }
}

/// What the service answered.
pub(super) enum Answer {
    /// 202, or another success without a body: it has no answer.
    Taken,
    /// A message. Whether it is a SOAP message is not known yet.
    Message { is_success: bool, body: Bytes },
}

/// Requests to one service.
pub(super) struct Upstream {
    client: Client<HttpConnector, Full<Bytes>>,
    uri: Uri,
    timeout: Duration,
    answer_len_max: usize,
}

impl Upstream {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEPT_TIMEOUT)
            .pool_max_idle_per_host(KEPT_MAX)
            // A call is sent once: if the connection fails, it is not known whether the service has it.
            .retry_canceled_requests(false)
            .build(connector);
        Self {
            client,
            uri: settings.upstream.clone(),
            timeout: settings.upstream_timeout,
            answer_len_max: settings.message_len_max,
        }
    }

    /// Sends the `s:Body` of a call in an envelope. `headers` say who calls.
    pub(super) async fn ask(&self, action: &str, headers: HeaderMap, body: &[u8]) -> Result<Answer, Failure> {
        let content_type = content_type(action).ok_or(Failure::Action)?;
        let mut request = Request::new(Full::new(envelope(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = headers;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, content_type);
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let exchange = async {
            let answer =
                self.client.request(request).await.map_err(|error| Failure::Connection(causes(&error)))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, self.answer_len_max).collect().await;
            let body = body.map_err(|error| match error.is::<http_body_util::LengthLimitError>() {
                true => Failure::TooLong,
                false => Failure::Connection(causes(&*error)),
            })?;
            let (is_success, body) = (head.status.is_success(), body.to_bytes());
            if is_success && body.is_empty() {
                return Ok(Answer::Taken);
            }
            if !is_soap(&head.headers) {
                let of =
                    head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("none");
                let of: String = of.chars().take(80).collect();
                return Err(Failure::NotSoap(format!("status {}, Content-Type {of}", head.status.as_u16())));
            }
            Ok(Answer::Message { is_success, body })
        };
        timeout(self.timeout, exchange).await.unwrap_or(Err(Failure::TimedOut))
    }
}

/// `Content-Type` with the action of SOAP 1.2 (RFC 3902). None for an action that is no URI.
fn content_type(action: &str) -> Option<HeaderValue> {
    let is_uri = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'<' | b'>');
    if !action.bytes().all(is_uri) {
        return None;
    }
    HeaderValue::try_from(format!("{}; action=\"{action}\"", tlsnego_soap::CONTENT_TYPE)).ok()
}

fn is_soap(headers: &HeaderMap) -> bool {
    let of = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    of.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/soap+xml")
}

/// The body in an envelope without headers. `body` is an `s:Body` element that stands for itself.
fn envelope(body: &[u8]) -> Bytes {
    const START: &[u8] = b"<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\">";
    const END: &[u8] = b"</s:Envelope>";
    Bytes::from([START, body, END].concat())
}

/// An error with its causes.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn action_is_quoted_and_never_ends_its_quotes() {
        let value = content_type("urn:echo/Echo").expect("a URI");
        assert_eq!(value, "application/soap+xml; charset=utf-8; action=\"urn:echo/Echo\"");
        for wrong in ["urn:a\"; x=\"", "urn:a b", "urn:a\r\nX: y", "urn:\u{e4}", "urn:a\\"] {
            assert_eq!(content_type(wrong), None, "{wrong:?}");
        }
    }
}
