//! What a client can make a gateway do.

use crate::caller::{ECHO, SESSION, TIMEOUT, body, loopback, settings};
use crate::support::*;
use bytes::Bytes;
use http::{HeaderMap, Response, Uri};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use listener_tokio::connections::Rejection;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tlsnego_service::session::{BoxFuture, Credential, Ended, Session};
use tlsnego_soap::CONTENT_TYPE;
use tlsnego_soap::client::{Client, Pending, Proof, Under};
use tlsnego_soap::server::{Binding, Event, Server};
use tlsnego_tokio::client::{Answer, Caller};
use tlsnego_tokio::gateway::{AccountRefused, Accounting, CallOutcome, Gateway, Settings};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Span;
use xml_security::UsernameToken;

/// Lets every account call, and keeps the outcomes.
#[derive(Clone, Default)]
struct Outcomes {
    all: Arc<Mutex<Vec<&'static str>>>,
    /// The audit log takes no renewals.
    is_full: Arc<AtomicBool>,
}

impl Outcomes {
    fn all(&self) -> Vec<&'static str> {
        self.all.lock().expect("no panic").clone()
    }

    fn kept(&self, outcome: &'static str) {
        self.all.lock().expect("no panic").push(outcome);
    }
}

impl Accounting for Outcomes {
    fn headers<'a>(&'a self, _: &'a Session) -> BoxFuture<'a, Result<HeaderMap, AccountRefused>> {
        Box::pin(async { Ok(HeaderMap::new()) })
    }

    fn span(&self, _: &HeaderMap) -> Span {
        Span::none()
    }

    fn answered(&self, event: &Event, _: IpAddr) -> Result<(), String> {
        match event {
            Event::Renewed(_) if self.is_full.load(Ordering::Relaxed) => Err("it is full".to_owned()),
            Event::Refused(refusal) => {
                self.kept(refusal.name());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn called(&self, _: &Session, _: &str, outcome: &CallOutcome, _: IpAddr, _: &Uri) {
        self.kept(outcome.name());
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

fn upstream(address: SocketAddr) -> Settings {
    Settings {
        upstream: format!("http://{address}/").parse().expect("a URL"),
        upstream_timeout: TIMEOUT,
        message_len_max: 1 << 20,
        calls_max: 100,
        calls_of_caller_max: 100,
        unproved_len_max: usize::MAX,
    }
}

/// A gateway at a port of its own.
async fn serve(
    certificates: &Certificates,
    credential: Credential,
    settings: Settings,
    outcomes: &Outcomes,
) -> (SocketAddr, Arc<Gateway>) {
    serve_by(server(certificates, SESSION, credential), settings, outcomes).await
}

async fn serve_by(server: Server, settings: Settings, outcomes: &Outcomes) -> (SocketAddr, Arc<Gateway>) {
    let gateway = Gateway::new(server, settings, Arc::new(outcomes.clone()), now);
    let listener = TcpListener::bind(loopback()).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(Arc::clone(&gateway).serve(listener, CancellationToken::new(), TaskTracker::new()));
    (address, gateway)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_hang_up_do_not_have_more_calls_in_progress_than_the_limit() {
    let certificates = Certificates::new();
    let (slow, outcomes) = (Slow::start().await, Outcomes::default());
    let two = Settings { calls_max: 2, ..upstream(slow.address) };
    let (address, _) = serve(&certificates, Credential::UserName, two, &outcomes).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn one_account_leaves_calls_to_others() {
    let certificates = Certificates::new();
    let (slow, outcomes) = (Slow::start().await, Outcomes::default());
    let of_two = Settings { calls_of_caller_max: 2, ..upstream(slow.address) };
    // A service with each kind of credential, because the test has one account of each.
    for credential in [Credential::UserName, Credential::None] {
        let (address, _) = serve(&certificates, credential, of_two.clone(), &outcomes).await;
        let caller = || Caller::new(settings(&certificates, address, SESSION, credential), now);
        for _ in 0..2 {
            let mut caller = caller();
            tokio::spawn(async move { caller.call(ECHO, &body("x")).await.map(drop) });
            slow.asked.acquire().await.expect("it is open").forget();
        }
        let Ok(Answer::Reply(refused)) = caller().call(ECHO, &body("x")).await else { panic!("a fault") };
        assert!(refused.is_fault, "{credential:?}");
    }
    assert_eq!(outcomes.all(), ["busy", "busy"]);
    assert_eq!(slow.asked.available_permits(), 0, "the service was not asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_calls_in_progress_have_a_budget_and_accounts_have_none() {
    let certificates = Certificates::new();
    let (slow, outcomes) = (Slow::start().await, Outcomes::default());
    // A call of 200 KiB is a message of some 270 KiB.
    let small = Settings { unproved_len_max: 4 * (600 << 10), ..upstream(slow.address) };
    let text = "x".repeat(200 << 10);
    for (credential, taken) in [(Credential::None, 2), (Credential::UserName, 3)] {
        let (address, _) = serve(&certificates, credential, small.clone(), &outcomes).await;
        let caller = || Caller::new(settings(&certificates, address, SESSION, credential), now);
        for _ in 0..taken {
            let (mut caller, body) = (caller(), body(&text));
            let call = tokio::spawn(async move { caller.call(ECHO, &body).await.map(drop) });
            slow.asked.acquire().await.expect("it is open").forget();
            call.abort();
        }
        if credential == Credential::None {
            let Ok(Answer::Reply(refused)) = caller().call(ECHO, &body(&text)).await else {
                panic!("a fault")
            };
            assert!(refused.is_fault);
            assert_eq!(outcomes.all(), ["busy"]);
            assert_eq!(slow.asked.available_permits(), 0, "the service was not asked");
            // A short one has room, and so has a long one when the others are answered.
            slow.may_answer.add_permits(3);
            let Ok(Answer::Reply(reply)) = caller().call(ECHO, &body("x")).await else { panic!("a reply") };
            assert!(!reply.is_fault);
            while outcomes.all().len() < 4 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            slow.asked.acquire().await.expect("it is open").forget();
            slow.may_answer.add_permits(1);
            let Ok(Answer::Reply(reply)) = caller().call(ECHO, &body(&text)).await else { panic!("a reply") };
            assert!(!reply.is_fault);
            slow.asked.acquire().await.expect("it is open").forget();
        }
    }
}

/// A connection from a loopback address with another last octet than that of the clients.
async fn connect_from(last: u8, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).expect("an address");
    socket.connect(address).await.expect("it listens")
}

/// Whether the other side has closed it.
fn is_closed(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0; 1]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_do_not_end_have_a_budget_and_a_client_is_served_meanwhile() {
    const BODY: usize = 200 << 10;
    let certificates = Certificates::new();
    let (slow, outcomes) = (Slow::start().await, Outcomes::default());
    slow.may_answer.add_permits(100);
    let small = Settings { unproved_len_max: 1 << 20, ..upstream(slow.address) };
    let (address, gateway) = serve(&certificates, Credential::UserName, small, &outcomes).await;
    let mut flood = Vec::new();
    for n in 0..40 {
        let mut stream = connect_from(2, address).await;
        let head = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {}\r\n\r\n",
            BODY + 1
        );
        // It may be closed while it writes.
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(&vec![b' '; BODY]).await;
        flood.push(stream);
        if n % 10 == 0 {
            // With a longer body than one of the flood may hold.
            let mut caller =
                Caller::new(settings(&certificates, address, SESSION, Credential::UserName), now);
            let text = "x".repeat(50_000);
            let Ok(Answer::Reply(reply)) = caller.call(ECHO, &body(&text)).await else { panic!("a reply") };
            assert!(!reply.is_fault);
        }
    }
    // As many as fit are open.
    let open = || flood.iter().filter(|stream| !is_closed(stream)).count();
    let ends = std::time::Instant::now() + TIMEOUT;
    while open() > (1 << 20) / BODY {
        assert!(std::time::Instant::now() < ends, "{} bodies are held", open());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(open() > 0, "what fits is not ended");
    let counts = format!("{:?}", gateway.meter(address.to_string()));
    assert!(counts.contains("has_budget: true"), "{counts}");
    assert_eq!(outcomes.all(), ["answered"; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn listener_with_tls_serves_nothing_without_it() {
    let certificates = Certificates::new();
    let (slow, outcomes) = (Slow::start().await, Outcomes::default());
    slow.may_answer.add_permits(100);
    let (address, gateway) =
        serve(&certificates, Credential::UserName, upstream(slow.address), &outcomes).await;
    gateway.set_tls(Some(Arc::new(tls_of(&certificates.service))));
    let mut over_tls = settings(&certificates, address, SESSION, Credential::UserName);
    over_tls.url = format!("https://localhost:{}/echo", address.port()).parse().expect("a URL");
    over_tls.https = Some(Arc::new(https_to(&certificates.service)));
    Caller::new(over_tls, now).call(ECHO, &body("x")).await.expect("a reply");
    let mut plain = Caller::new(settings(&certificates, address, SESSION, Credential::UserName), now);
    plain.call(ECHO, &body("x")).await.expect_err("it speaks no TLS");
    assert_eq!(outcomes.all(), ["answered"]);
    let at = Rejection::ALL.iter().position(|why| *why == Rejection::Handshake).expect("it is one");
    // The gateway counts when it has closed the connection.
    let ends = std::time::Instant::now() + TIMEOUT;
    while gateway.meter(address.to_string()).counts().rejected[at] == 0 {
        assert!(std::time::Instant::now() < ends, "the handshake is not counted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn renewal_without_a_line_of_the_audit_log_is_refused_and_ends_the_session() {
    let certificates = Certificates::new();
    let (slow, outcomes) = (Slow::start().await, Outcomes::default());
    slow.may_answer.add_permits(100);
    let (address, gateway) =
        serve(&certificates, Credential::UserName, upstream(slow.address), &outcomes).await;
    let mut caller = Caller::new(settings(&certificates, address, SESSION, Credential::UserName), now);
    caller.call(ECHO, &body("x")).await.expect("a reply");
    caller.renew().await.expect("a new key");
    outcomes.is_full.store(true, Ordering::Relaxed);
    let refused = caller.renew().await.expect_err("there is no line").to_string();
    assert!(refused.contains("ServerTooBusy"), "{refused}");
    let sessions = gateway.server().tokens().list(now()).await.expect("a table");
    assert!(sessions.iter().all(|session| session.instance.is_none()));
    assert_eq!(outcomes.all(), ["answered", "audit"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_while_sessions_go_on() {
    let (before, after) = (Certificates::new(), Certificates::new());
    let (slow, outcomes) = (Slow::start().await, Outcomes::default());
    slow.may_answer.add_permits(100);
    let (address, gateway) = serve(&before, Credential::UserName, upstream(slow.address), &outcomes).await;
    let caller =
        |known: &Certificates| Caller::new(settings(known, address, SESSION, Credential::UserName), now);
    let mut open = caller(&before);
    open.call(ECHO, &body("x")).await.expect("a reply");
    gateway.server().set_certificate(service_certificate(&after.service), None).expect("a certificate");
    open.call(ECHO, &body("x")).await.expect("its session goes on");
    caller(&after).call(ECHO, &body("x")).await.expect("the new certificate is shown");
    caller(&before).call(ECHO, &body("x")).await.expect_err("and the old one is not");
}

/// `Content-Type` as other programs than this one may write it.
const QUOTED: &str = "application/soap+xml; charset=\"UTF-8\"; action=\"urn:echo\"";

/// A client that writes HTTP by hand, and keeps its connection.
struct RawHttp {
    stream: BufReader<TcpStream>,
    client: Client,
    certificates: Arc<Certificates>,
}

impl RawHttp {
    async fn connect(address: SocketAddr, certificates: &Arc<Certificates>) -> Self {
        let stream = TcpStream::connect(address).await.expect("it listens");
        // Each write is a packet.
        stream.set_nodelay(true).expect("a socket");
        let client = settings(certificates, address, ONE_SHOT, Credential::UserName).client;
        Self { stream: BufReader::new(stream), client, certificates: Arc::clone(certificates) }
    }

    /// A call.
    fn message(&self) -> (Vec<u8>, Pending) {
        let user = UsernameToken { username: USER.to_owned(), password: PASSWORD.to_owned().into() };
        let service = self.certificates.service.certificate();
        let under = Under::Certificate(&service);
        self.client.call(under, Proof::UserName(&user), (ECHO, &body("x")), now().wall).expect("a call")
    }

    async fn write(&mut self, octets: &[u8]) {
        self.stream.get_mut().write_all(octets).await.expect("it reads");
    }

    async fn head(&mut self, fields: &str) {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Type: {QUOTED}\r\n{fields}\r\n\r\n");
        self.write(head.as_bytes()).await;
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = tokio::time::timeout(TIMEOUT, self.stream.read_line(&mut line)).await;
        read.expect("in time").expect("a line");
        line.trim_end().to_owned()
    }

    /// Reads an answer, which is a reply to that call.
    async fn reply(&mut self, pending: Pending) {
        assert_eq!(self.line().await, "HTTP/1.1 200 OK");
        let mut len = 0;
        loop {
            let line = self.line().await.to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("content-length", value)) => len = value.parse().expect("a number"),
                Some(_) => {}
                None => break,
            }
        }
        let mut answer = vec![0; len];
        self.stream.read_exact(&mut answer).await.expect("the whole answer");
        assert!(!pending.receive(&answer, now().wall).expect("it is secured").is_fault);
    }
}

const ONE_SHOT: Binding = Binding { negotiate: false, establish: false };

/// A gateway that takes calls each for itself.
async fn serve_one_shot() -> (SocketAddr, Arc<Certificates>, Outcomes) {
    let certificates = Arc::new(Certificates::new());
    let (slow, outcomes) = (Slow::start().await, Outcomes::default());
    slow.may_answer.add_permits(100);
    let server = server(&certificates, ONE_SHOT, Credential::UserName);
    let (address, _) = serve_by(server, upstream(slow.address), &outcomes).await;
    (address, certificates, outcomes)
}

#[tokio::test(flavor = "multi_thread")]
async fn body_that_waits_for_a_status_gets_one_at_once() {
    let (address, certificates, outcomes) = serve_one_shot().await;
    let mut soonest = Duration::MAX;
    for _ in 0..20 {
        let mut http = RawHttp::connect(address, &certificates).await;
        let (message, pending) = http.message();
        let begun = std::time::Instant::now();
        http.head(&format!("Expect: 100-continue\r\nContent-Length: {}", message.len())).await;
        // Nothing of the body was sent.
        assert_eq!(http.line().await, "HTTP/1.1 100 Continue");
        soonest = soonest.min(begun.elapsed());
        assert_eq!(http.line().await, "");
        http.write(&message).await;
        http.reply(pending).await;
    }
    // .NET waits for 350 ms and sends the body in any case. A busy machine is late, but not each time.
    assert!(soonest < Duration::from_millis(100), "{soonest:?}");
    assert_eq!(outcomes.all(), ["answered"; 20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_in_octets_and_in_chunks_are_read_on_one_connection() {
    let (address, certificates, outcomes) = serve_one_shot().await;
    let mut http = RawHttp::connect(address, &certificates).await;
    let (message, pending) = http.message();
    http.head(&format!("Content-Length: {}", message.len())).await;
    for octet in &message {
        http.write(&[*octet]).await;
    }
    http.reply(pending).await;
    for size in [1, 7, 1_000, usize::MAX] {
        let (message, pending) = http.message();
        http.head("Transfer-Encoding: chunked").await;
        for chunk in message.chunks(size) {
            http.write(format!("{:X}\r\n", chunk.len()).as_bytes()).await;
            http.write(chunk).await;
            http.write(b"\r\n").await;
        }
        http.write(b"0\r\n\r\n").await;
        http.reply(pending).await;
    }
    assert_eq!(outcomes.all(), ["answered"; 5]);
}
