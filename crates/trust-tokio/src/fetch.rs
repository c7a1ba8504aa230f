//! HTTP to configured hosts, for CRLs and OCSP: without redirects, and with limits of time and length.

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpStream;

/// Timeout of a download; CRLs are large.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout of a connection: a host that is reachable answers in milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a request failed.
#[derive(Debug, Error)]
pub(crate) enum FetchError {
    /// This URL names no host.
    #[error("this is not an http:// URL")]
    Url,
    /// No host accepts a connection.
    #[error("the host is unreachable: {0}")]
    Unreachable(std::io::Error),
    /// It took too long.
    #[error("timeout: no answer within {} s", .0.as_secs())]
    Late(Duration),
    /// It is not HTTP, or breaks off.
    #[error("the answer is broken: {0}")]
    Broken(String),
    /// Another HTTP status than 200. A redirect is not followed, because its host is not configured.
    #[error("the answer is {0}")]
    Status(StatusCode),
    /// The answer is too long.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
}

impl FetchError {
    /// Whether the host has answered.
    pub(crate) const fn is_answer(&self) -> bool {
        matches!(self, Self::Status(_) | Self::TooLong(_))
    }
}

impl From<hyper::Error> for FetchError {
    fn from(error: hyper::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Downloads a CRL.
pub(crate) async fn get(url: &str, len_max: usize) -> Result<Bytes, FetchError> {
    within(LIST_TIMEOUT, send(url, Request::new(Full::default()), len_max)).await
}

/// The result of a request, with a timeout.
pub(crate) async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, FetchError>>,
) -> Result<T, FetchError> {
    tokio::time::timeout(timeout, work).await.unwrap_or(Err(FetchError::Late(timeout)))
}

/// Sends a request, whose target and host are those of the URL, on a connection of its own.
pub(crate) async fn send(
    url: &str,
    mut request: Request<Full<Bytes>>,
    len_max: usize,
) -> Result<Bytes, FetchError> {
    let url: Uri = url.parse().map_err(|_| FetchError::Url)?;
    let authority = url.authority().ok_or(FetchError::Url)?;
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    *request.uri_mut() = target.parse().map_err(|_| FetchError::Url)?;
    let host = authority.as_str().parse().map_err(|_| FetchError::Url)?;
    request.headers_mut().insert(HOST, host);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("rcmpd"));

    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = within(CONNECT_TIMEOUT, async {
        let connected = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await;
        connected.map_err(FetchError::Unreachable)
    });
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream.await?)).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = response.into_body();
        if body.size_hint().lower() > len_max as u64 {
            return Err(FetchError::TooLong(len_max));
        }
        let body = Limited::new(body, len_max).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| match error.is::<LengthLimitError>() {
            true => FetchError::TooLong(len_max),
            false => FetchError::Broken(error.to_string()),
        })
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection may end together with the answer; what arrived is in the answer's hands.
        _ = &mut connection => answer.await,
    }
}

/// A request that carries something.
pub(crate) fn post(content_type: &'static str, accept: &'static str, body: Vec<u8>) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::from(body));
    *request.method_mut() = Method::POST;
    let headers = request.headers_mut();
    headers.insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(hyper::header::ACCEPT, HeaderValue::from_static(accept));
    request
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// The result if the host sends this.
    async fn check(said: &str, expected: Result<&str, &str>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/ca.crl?all", listener.local_addr().unwrap());
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 1024];
            let len = stream.read(&mut asked).await.unwrap();
            assert!(asked[..len].starts_with(b"GET /ca.crl?all HTTP/1.1\r\n"));
            stream.write_all(said.as_bytes()).await.unwrap();
        };
        let (got, ()) = tokio::join!(get(&url, 8), serving);
        let got = got.map_err(|error| error.to_string());
        assert_eq!(got.as_deref().map_err(String::as_str), expected.map(str::as_bytes), "{said:?}");
    }

    #[tokio::test]
    async fn an_answer_is_whole_and_no_longer_than_allowed() {
        let too_long = Err("the answer is longer than 8 bytes");
        check("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n12345678", Ok("12345678")).await;
        check("HTTP/1.0 200 OK\r\n\r\n12345678", Ok("12345678")).await;
        check("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", too_long).await;
        check("HTTP/1.0 200 OK\r\n\r\n123456789", too_long).await;
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n5\r\n67890\r\n0\r\n\r\n";
        check(chunked, too_long).await;
    }

    #[tokio::test]
    async fn a_redirection_is_no_list() {
        let moved = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
        check(moved, Err("the answer is 302 Found")).await;
    }
}
