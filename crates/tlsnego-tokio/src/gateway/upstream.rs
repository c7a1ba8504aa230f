//! The plain SOAP 1.2 service behind a gateway.

use super::Settings;
use crate::http_client::{HttpClient, HttpError};
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Uri};

/// Why there is no answer of the service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The account of the session may not call any more.
    #[error("the account of the session cannot be used: {0}")]
    Account(String),
    /// As many calls as there may be wait for the service. This one was not sent.
    #[error("the service has not answered {limit} {of} yet, the limit")]
    Busy {
        /// The limit.
        limit: usize,
        /// Of what, and whose.
        of: &'static str,
    },
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
            Self::Busy { .. } => "busy",
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

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::NotSent(why) | HttpError::Lost(why) => Self::Connection(why),
            HttpError::TimedOut => Self::TimedOut,
            HttpError::TooLong => Self::TooLong,
        }
    }
}

/// Requests to one service.
pub(super) struct Upstream {
    client: HttpClient,
    uri: Uri,
}

impl Upstream {
    pub(super) fn new(settings: &Settings) -> Self {
        let client = HttpClient::new(None, settings.upstream_timeout, settings.message_len_max);
        Self { client, uri: settings.upstream.clone() }
    }

    /// Sends the `s:Body` of a call in an envelope. `headers` say who calls.
    pub(super) async fn ask(
        &self,
        action: &str,
        mut headers: HeaderMap,
        body: &[u8],
    ) -> Result<Answer, Failure> {
        headers.insert(CONTENT_TYPE, content_type(action).ok_or(Failure::Action)?);
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let answer = self.client.post(&self.uri, headers, envelope(body)).await?;
        let (is_success, body) = (answer.status.is_success(), answer.body);
        if is_success && body.is_empty() {
            return Ok(Answer::Taken);
        }
        let of = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("none");
        if !tlsnego_soap::is_soap(of) {
            let of: String = of.chars().take(80).collect();
            return Err(Failure::NotSoap(format!("status {}, Content-Type {of}", answer.status.as_u16())));
        }
        Ok(Answer::Message { is_success, body })
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

/// The body in an envelope without headers. `body` is an `s:Body` element that stands for itself.
fn envelope(body: &[u8]) -> Bytes {
    const START: &[u8] = b"<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\">";
    const END: &[u8] = b"</s:Envelope>";
    Bytes::from([START, body, END].concat())
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
