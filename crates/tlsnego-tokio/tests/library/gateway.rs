//! What a client can make a gateway do.

use crate::caller::{ECHO, SESSION, TIMEOUT, body, loopback, settings};
use crate::support::*;
use bytes::Bytes;
use http::{HeaderMap, Response, Uri};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tlsnego_service::session::{Credential, Ended, Session};
use tlsnego_soap::CONTENT_TYPE;
use tlsnego_soap::server::Event;
use tlsnego_tokio::client::{Answer, Caller};
use tlsnego_tokio::gateway::{AccountRefused, Accounting, CallOutcome, Gateway, Settings};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Span;

/// Lets every account call, and keeps the outcomes.
#[derive(Clone, Default)]
struct Outcomes(Arc<Mutex<Vec<&'static str>>>);

impl Outcomes {
    fn all(&self) -> Vec<&'static str> {
        self.0.lock().expect("no panic").clone()
    }
}

impl Accounting for Outcomes {
    async fn headers(&self, _: &Session) -> Result<HeaderMap, AccountRefused> {
        Ok(HeaderMap::new())
    }

    fn span(&self, _: &HeaderMap) -> Span {
        Span::none()
    }

    fn answered(&self, _: &Event, _: IpAddr) -> bool {
        true
    }

    fn called(&self, _: &Session, _: &str, outcome: &CallOutcome, _: IpAddr, _: &Uri) {
        self.0.lock().expect("no panic").push(outcome.name());
    }

    fn ended(&self, _: &Ended) {}
}

/// A service that has its requests wait.
struct Slow {
    address: SocketAddr,
    /// One for each request that it got.
    asked: Arc<Semaphore>,
    /// One for each request that it may answer.
    may_answer: Arc<Semaphore>,
}

impl Slow {
    async fn start() -> Self {
        let listener = TcpListener::bind(loopback()).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let slow =
            Self { address, asked: Arc::new(Semaphore::new(0)), may_answer: Arc::new(Semaphore::new(0)) };
        let (asked, may_answer) = (Arc::clone(&slow.asked), Arc::clone(&slow.may_answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (asked, may_answer) = (Arc::clone(&asked), Arc::clone(&may_answer));
                let service = service_fn(move |_| {
                    asked.add_permits(1);
                    let may_answer = Arc::clone(&may_answer);
                    async move {
                        may_answer.acquire().await.expect("it is open").forget();
                        let body = Full::new(Bytes::from(enveloped(&body("done"))));
                        Response::builder().header("content-type", CONTENT_TYPE).body(body)
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        slow
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_hang_up_do_not_have_more_calls_in_progress_than_the_limit() {
    let certificates = Certificates::new();
    let (slow, outcomes) = (Slow::start().await, Outcomes::default());
    let upstream = Settings {
        upstream: format!("http://{}/", slow.address).parse().expect("a URL"),
        upstream_timeout: TIMEOUT,
        message_len_max: 1 << 20,
        calls_max: 2,
    };
    let server = server(&certificates, SESSION, Credential::UserName);
    let gateway = Gateway::new(server, upstream, outcomes.clone(), now);
    let listener = TcpListener::bind(loopback()).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(gateway.serve(listener, CancellationToken::new(), TaskTracker::new()));
    let caller = || Caller::new(settings(&certificates, address, SESSION, Credential::UserName), now);

    for _ in 0..2 {
        let mut caller = caller();
        let call = tokio::spawn(async move { caller.call(ECHO, &body("x")).await.map(drop) });
        slow.asked.acquire().await.expect("it is open").forget();
        call.abort();
        assert!(call.await.is_err(), "the client hangs up");
    }
    let mut third = caller();
    let Ok(Answer::Reply(refused)) = third.call(ECHO, &body("x")).await else { panic!("a secured fault") };
    assert!(refused.is_fault);
    assert_eq!(outcomes.all(), ["busy"]);
    assert_eq!(slow.asked.available_permits(), 0, "the service was not asked");

    // Both calls have an outcome, and then there is room.
    slow.may_answer.add_permits(3);
    while outcomes.all().len() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let Ok(Answer::Reply(reply)) = third.call(ECHO, &body("x")).await else { panic!("a reply") };
    assert!(!reply.is_fault);
    assert_eq!(outcomes.all(), ["busy", "answered", "answered", "answered"]);
}
