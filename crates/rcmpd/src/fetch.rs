//! HTTP to hosts that the operator named, for revocation lists and OCSP: nothing is followed, nothing is unbounded.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rcmp_service::OcspTransport;
use rcmp_service::trust::{Nonce, ocsp::OCSP_RESPONSE_LEN_MAX};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// How long a list may take to arrive; they are large.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a responder may take: somebody waits for a decision.
const RESPONDER_TIMEOUT: Duration = Duration::from_secs(3);
/// Questions to responders that are open at once. More wait, each until its time is up.
const QUESTIONS_MAX: usize = 64;

/// Gets a list.
pub async fn get(url: &str, len_max: usize) -> Result<Bytes, String> {
    let request = Request::builder().method(Method::GET).body(Full::default());
    within(LIST_TIMEOUT, send(url, request, len_max)).await
}

/// Asks OCSP responders (RFC 6960 A.1).
#[derive(Debug)]
pub struct HttpResponder {
    questions: Semaphore,
}

impl Default for HttpResponder {
    fn default() -> Self {
        Self { questions: Semaphore::new(QUESTIONS_MAX) }
    }
}

impl OcspTransport for HttpResponder {
    fn nonce(&self) -> Option<Nonce> {
        let mut nonce = Nonce::default();
        getrandom::fill(&mut nonce).ok().map(|()| nonce)
    }

    fn ask<'a>(
        &'a self,
        url: &'a str,
        request: Vec<u8>,
    ) -> account_store::BoxFuture<'a, Result<Vec<u8>, String>> {
        Box::pin(within(RESPONDER_TIMEOUT, async move {
            let _permit = self.questions.acquire().await.map_err(|error| error.to_string())?;
            let request = Request::builder()
                .method(Method::POST)
                .header(CONTENT_TYPE, "application/ocsp-request")
                .header(ACCEPT, "application/ocsp-response")
                .body(Full::from(request));
            send(url, request, OCSP_RESPONSE_LEN_MAX).await.map(Vec::from)
        }))
    }
}

async fn within<T>(timeout: Duration, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let late = |_| Err(format!("no answer within {} s", timeout.as_secs()));
    tokio::time::timeout(timeout, work).await.unwrap_or_else(late)
}

async fn send(
    url: &str,
    request: Result<Request<Full<Bytes>>, hyper::http::Error>,
    len_max: usize,
) -> Result<Bytes, String> {
    let url: Uri = url.parse().map_err(|_| "this is not a URL".to_owned())?;
    let authority = url.authority().ok_or("the URL has no host")?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80)))
        .await
        .map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let mut request = request.map_err(|error| error.to_string())?;
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    *request.uri_mut() = target.parse().map_err(|_| "this is not a URL".to_owned())?;
    let host = authority.as_str().parse().map_err(|_| "the URL's host is no header".to_owned())?;
    request.headers_mut().insert(HOST, host);
    request.headers_mut().insert(USER_AGENT, hyper::header::HeaderValue::from_static("rcmpd"));
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        // A redirection leads to a host that nobody configured.
        if response.status() != StatusCode::OK {
            return Err(format!("the answer is {}", response.status()));
        }
        let body = Limited::new(response.into_body(), len_max).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| error.to_string())
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection may end together with the answer; what arrived is in the answer's hands.
        _ = &mut connection => answer.await,
    }
}
