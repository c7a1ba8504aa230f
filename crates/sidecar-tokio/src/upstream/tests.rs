#![expect(clippy::unwrap_used, reason = "tests")]

mod http2;

use super::request_limit::PER_CLIENT_MAX;
use super::*;
use crate::files::test::AnyFile;
use crate::settings::UpstreamPlace;
use futures_util::FutureExt;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use listener_tokio::lingering::Lingering;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const CLIENT: &str = "192.0.2.7";
/// Nothing that is waited for in a test takes longer, unless it hangs.
const DEADLINE: Duration = Duration::from_secs(20);

/// The application at a place, without TLS.
fn upstream(place: &UpstreamPlace) -> Upstream {
    impatient(place, Timeouts::default())
}

fn impatient(place: &UpstreamPlace, timeouts: Timeouts) -> Upstream {
    Upstream::with_timeouts(
        &Application { place: place.clone(), tls: None, protocol: None },
        timeouts,
        &AnyFile,
    )
    .unwrap()
}

/// Somewhere to send requests, which are passed on.
async fn hop(upstream: Upstream, origin: RequestOrigin) -> TcpStream {
    hop_to(Arc::new(upstream), origin).await
}

async fn hop_to(upstream: Arc<Upstream>, origin: RequestOrigin) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let service = service_fn(move |request| {
        let (upstream, origin) = (Arc::clone(&upstream), origin.clone());
        async move {
            let stamp = |headers: &mut HeaderMap| {
                headers.insert("remote-user", HeaderValue::from_static("CONTOSO\\alice"));
            };
            let strip = |trailers: &mut HeaderMap| {
                trailers.remove("remote-user");
            };
            Ok::<_, Infallible>(upstream.forward(request, origin, stamp, strip).await)
        }
    });
    tokio::spawn(async move {
        let builder = auto::Builder::new(TokioExecutor::new());
        let stream = TokioIo::new(Lingering::new(stream));
        let _ = builder.serve_connection_with_upgrades(stream, service).await;
    });
    client
}

fn client(address: &str) -> Client {
    Client { address: address.parse().unwrap(), account: None, close: CancellationToken::new() }
}

fn tls() -> RequestOrigin {
    RequestOrigin::Tls(client(CLIENT))
}

/// An application's place, and where it listens.
async fn application() -> (UpstreamPlace, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (UpstreamPlace::Tcp(listener.local_addr().unwrap().to_string()), listener)
}

/// Reads until this has come.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let read = async {
        let mut read = Vec::new();
        while !read.ends_with(end.as_bytes()) {
            let byte = stream.read_u8().await;
            read.push(byte.unwrap_or_else(|_| panic!("{end:?} after {:?}", String::from_utf8_lossy(&read))));
        }
        String::from_utf8(read).unwrap()
    };
    timeout(DEADLINE, read).await.expect("in time")
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut read = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut read)).await.expect("in time").unwrap();
    read
}

/// What an application sees of a request, and the client of its answer.
async fn through(origin: RequestOrigin, request: &str, end: &str, answer: &str) -> (Vec<String>, String) {
    let (place, listener) = application().await;
    let mut client = hop(upstream(&place), origin).await;
    client.write_all(request.as_bytes()).await.unwrap();
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let seen = read_until(&mut stream, end).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        seen
    };
    let (seen, got) = tokio::join!(serving, read_all(&mut client));
    let mut lines: Vec<String> =
        seen.split("\r\n").filter(|line| !line.is_empty()).map(str::to_owned).collect();
    lines[1..].sort();
    (lines, got)
}

const DONE: &str = "HTTP/1.1 204 No Content\r\n\r\n";

/// What an application sees of a request without a body.
async fn seen(origin: RequestOrigin, fields: &str) -> Vec<String> {
    let request = format!("GET /a?b HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n{fields}\r\n");
    through(origin, &request, "\r\n\r\n", DONE).await.0
}

#[tokio::test]
async fn what_belongs_to_a_hop_ends_there() {
    let fields = "Connection: X-Mine, remote-user, host\r\nX-Mine: 1\r\nTE: trailers\r\nTrailer: x\r\n\
        Keep-Alive: timeout=5\r\nProxy-Authorization: Basic eA==\r\nProxy-Connection: keep-alive\r\nProxy: http://127.0.0.1:1\r\n\
        Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nExpect: 100-continue\r\nAccept: */*\r\n";
    let expected = ["GET /a?b HTTP/1.1", "accept: */*", "host: app.example", "remote-user: CONTOSO\\alice"];
    assert_eq!(seen(RequestOrigin::Proxy, fields).await, expected);
}

#[tokio::test]
async fn the_front_says_whom_it_got_a_request_from_and_a_proxy_is_believed() {
    let fields = "Connection: X-Forwarded-For\r\nX-Forwarded-For: 198.51.100.1\r\nX-Forwarded-Port: 1\r\n\
        X_Forwarded_Host: other\r\nForwarded: for=198.51.100.1\r\nX-Real-IP: 198.51.100.1\r\nX-Original-URL: /moved\r\n\
        X-Rewrite-URL: /moved\r\nX_Original.URL: /moved\r\nX-Real_IP: 198.51.100.2\r\nX.Forwarded.Proto: moved\r\n";
    let expected = [
        "GET /a?b HTTP/1.1",
        "host: app.example",
        "remote-user: CONTOSO\\alice",
        "x-forwarded-for: 192.0.2.7",
        "x-forwarded-host: app.example",
        "x-forwarded-proto: https",
    ];
    assert_eq!(seen(tls(), fields).await, expected);
    let kept = seen(RequestOrigin::Proxy, fields).await;
    let is_clients =
        |line: &String| line.contains("moved") || line.contains('_') || line.ends_with("198.51.100.2");
    assert!(!kept.iter().any(is_clients), "{kept:?}");
    assert!(kept.contains(&"x-forwarded-for: 198.51.100.1".to_owned()), "{kept:?}");
    assert!(kept.contains(&"forwarded: for=198.51.100.1".to_owned()), "{kept:?}");
}

#[tokio::test]
async fn a_body_has_one_length() {
    let head = "POST / HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n";
    for fields in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
    ] {
        let request = format!("{head}{fields}\r\n5\r\n12345\r\n0\r\nX-Trailer: 1\r\n\r\n");
        let (seen, got) = through(RequestOrigin::Proxy, &request, "0\r\n\r\n", DONE).await;
        assert!(seen.contains(&"transfer-encoding: chunked".to_owned()), "{seen:?}");
        assert!(!seen.iter().any(|line| line.starts_with("content-length")), "{seen:?}");
        assert!(
            seen.contains(&"12345".to_owned()) && !seen.iter().any(|line| line.contains("railer")),
            "{seen:?}"
        );
        assert!(got.starts_with("HTTP/1.1 204 "), "{got}");
    }
    let request = format!("{head}Content-Length: 5\r\n\r\n12345");
    let (seen, _) = through(RequestOrigin::Proxy, &request, "12345", DONE).await;
    assert!(seen.contains(&"content-length: 5".to_owned()), "{seen:?}");
}

#[tokio::test]
async fn announced_trailers_pass_over_http_1() {
    let request = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close, TE\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
        Trailer: X-Sum, Remote-User, X-Forwarded-For\r\nTrailer: Content-Length\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 1\r\n\
        Remote-User: root\r\nX-Forwarded-For: 1\r\nContent-Length: 9\r\nX-Other: 1\r\n\r\n";
    let answer = "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n1\r\ny\r\n0\r\nX-Sum: 2\r\nX-Other: 2\r\n\r\n";
    let (seen, got) = through(tls(), request, "0\r\nx-sum: 1\r\n\r\n", answer).await;
    for line in ["connection: te", "te: trailers", "trailer: x-sum", "remote-user: CONTOSO\\alice"] {
        assert!(seen.contains(&line.to_owned()), "{line}: {seen:?}");
    }
    assert!(!seen.iter().any(|line| line.contains("root") || line.contains("other")), "{seen:?}");
    assert!(got.contains("trailer: x-sum\r\n") && got.ends_with("\r\n0\r\nx-sum: 2\r\n\r\n"), "{got}");
    // A client that does not say that it reads them gets none.
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTE: trailers\r\n\r\n";
    let (seen, got) = through(tls(), request, "\r\n\r\n", answer).await;
    assert!(!seen.iter().any(|line| line.starts_with("te:")), "{seen:?}");
    assert!(!got.contains("x-sum") && got.ends_with("\r\n0\r\n\r\n"), "{got}");
}

#[tokio::test]
async fn over_http2_too_a_body_has_one_length() {
    for (other, is_passed_on) in [("5", true), ("6", false)] {
        let (place, listener) = application().await;
        let client = TokioIo::new(hop(upstream(&place), RequestOrigin::Proxy).await);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), client).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post("http://app.example/");
        let request = request.header("content-length", "5").header("content-length", other);
        let answer = sender.send_request(request.body(Full::<Bytes>::from("12345")).unwrap());
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let seen = read_until(&mut stream, "12345").await;
            assert_eq!(seen.matches("content-length: 5\r\n").count(), 1, "{seen}");
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
            std::future::pending().await
        };
        let answer = tokio::select! {
            answer = timeout(DEADLINE, answer) => answer.expect("in time"),
            () = serving => unreachable!("it does not end"),
        };
        assert_eq!(answer.is_ok(), is_passed_on, "{other}: {answer:?}");
        let lengths = answer.map(|answer| answer.headers().get_all(header::CONTENT_LENGTH).iter().count());
        assert_eq!(lengths.unwrap_or(1), 1);
    }
}

/// What is answered to a request that must not reach the application.
async fn refuses(request: &str, status: &str) {
    let (place, listener) = application().await;
    let mut client = hop(upstream(&place), RequestOrigin::Proxy).await;
    client.write_all(request.as_bytes()).await.unwrap();
    let got = tokio::select! {
        got = read_all(&mut client) => got,
        _ = listener.accept() => panic!("{request:?} is passed on"),
    };
    assert!(got.starts_with(&format!("HTTP/1.1 {status}")), "{request:?}: {got}");
}

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_not_passed_on() {
    let end = "Connection: close\r\n\r\n";
    refuses(&format!("TRACE / HTTP/1.1\r\nHost: a\r\n{end}"), "501").await;
    refuses(&format!("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n{end}"), "501").await;
    refuses(
        &format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n{end}0\r\n\r\n"),
        "501",
    )
    .await;
    refuses(&format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n{end}"), "400").await;
    refuses(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n{end}"), "400")
        .await;
    refuses(&format!("GET / HTTP/1.1\r\n{end}"), "400").await;
    refuses(&format!("GET / HTTP/1.1\r\nHost:\r\n{end}"), "400").await;
    refuses(&format!("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n{end}"), "400").await;
    refuses(&format!("GET / HTTP/1.1\r\nHost: b@a\r\n{end}"), "400").await;
    refuses(&format!("GET http://a/ HTTP/1.1\r\nHost: b\r\n{end}"), "400").await;
    refuses(&format!("OPTIONS * HTTP/1.1\r\nHost: a\r\n{end}"), "400").await;
}

#[tokio::test]
async fn a_whole_url_is_a_path_and_a_host() {
    let request = "GET http://app.example/x HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n\r\n";
    let (seen, _) = through(RequestOrigin::Proxy, request, "\r\n\r\n", DONE).await;
    assert_eq!(seen, ["GET /x HTTP/1.1", "host: app.example", "remote-user: CONTOSO\\alice"]);
}

/// What a client gets of an answer, head in lower case without its date.
async fn got(method: &str, answer: &str) -> String {
    let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let (_, got) = through(RequestOrigin::Proxy, &request, "\r\n\r\n", answer).await;
    let (head, body) = got.split_once("\r\n\r\n").unwrap();
    let head: Vec<_> = head.split("\r\n").filter(|line| !line.starts_with("date: ")).collect();
    format!("{}|{body}", head.join("|"))
}

#[tokio::test]
async fn answers_keep_their_meaning() {
    let head = got("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await;
    assert_eq!(head, "HTTP/1.1 200 OK|content-length: 5|connection: close|");
    let none = got("GET", "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n").await;
    assert_eq!(none, "HTTP/1.1 204 No Content|x-a: 1|connection: close|");
    let same = got("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 5\r\n\r\n").await;
    assert_eq!(same, "HTTP/1.1 304 Not Modified|etag: \"x\"|connection: close|");
    let hints = got(
        "GET",
        "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
    )
    .await;
    assert_eq!(hints, "HTTP/1.1 200 OK|content-length: 1|connection: close|x");
    let hop = got(
        "GET",
        "HTTP/1.1 200 OK\r\nConnection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n\
         Upgrade: h2c\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n2\r\nhi\r\n0\r\nT: 1\r\n\r\n",
    )
    .await;
    let expected = "HTTP/1.1 200 OK|set-cookie: a|set-cookie: b|connection: close|transfer-encoding: chunked|2\r\nhi\r\n0\r\n\r\n";
    assert_eq!(hop, expected);
}

#[tokio::test]
async fn an_application_that_breaks_the_rules_is_a_bad_gateway() {
    for answer in [
        "",
        "HTTP/1.1 200 ",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    ] {
        let got = got("GET", answer).await;
        assert!(got.starts_with("HTTP/1.1 502 Bad Gateway|"), "{answer:?}: {got}");
        assert!(got.ends_with("|the application did not answer\n"), "{answer:?}: {got}");
    }
}

#[tokio::test]
async fn an_application_that_is_down_is_a_bad_gateway() {
    let (place, listener) = application().await;
    drop(listener);
    for place in [place, UpstreamPlace::Unix("/nonexistent/app.sock".into())] {
        let mut client = hop(upstream(&place), RequestOrigin::Proxy).await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let got = read_all(&mut client).await;
        assert!(got.starts_with("HTTP/1.1 502 "), "{place:?}: {got}");
    }
}

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn an_application_that_is_silent_is_a_gateway_timeout() {
    let (place, _listener) = application().await;
    let timeouts =
        Timeouts { turn: SHORT, head: SHORT, client: LONG, application: LONG, ..Timeouts::default() };
    let mut client = hop(impatient(&place, timeouts), RequestOrigin::Proxy).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let got = read_all(&mut client).await;
    assert!(got.starts_with("HTTP/1.1 504 "), "{got}");
}

#[tokio::test]
async fn a_client_that_stops_is_not_the_applications_fault() {
    let (place, listener) = application().await;
    let timeouts =
        Timeouts { turn: SHORT, head: SHORT, client: 4 * SHORT, application: LONG, ..Timeouts::default() };
    let mut client = hop(impatient(&place, timeouts), RequestOrigin::Proxy).await;
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 10\r\n\r\n12345")
        .await
        .unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    read_until(&mut stream, "12345").await;
    let got = read_all(&mut client).await;
    assert!(got.starts_with("HTTP/1.1 408 "), "{got}");
    let end = timeout(DEADLINE, stream.read(&mut [0; 8])).await.expect("in time");
    assert!(matches!(end, Ok(0) | Err(_)), "the application gets no more of it");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_made_whole() {
    let timeouts =
        Timeouts { turn: SHORT, head: LONG, client: LONG, application: SHORT, ..Timeouts::default() };
    for (answer, is_closed) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", false),
    ] {
        let (place, listener) = application().await;
        let mut client = hop(impatient(&place, timeouts), RequestOrigin::Proxy).await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        let held = (!is_closed).then_some(stream);
        // The client's connection ends, which is how it learns.
        let got = read_all(&mut client).await;
        assert!(got.contains("12345") && !got.contains("\r\n0\r\n"), "{answer:?}: {got}");
        drop(held);
    }
}

#[tokio::test]
async fn an_application_may_answer_before_the_end_of_a_body_and_close() {
    const LEN: usize = 4 << 20;
    for _ in 0..10 {
        let (place, listener) = application().await;
        let mut client = hop(upstream(&place), tls()).await;
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_until(&mut stream, "\r\n\r\n").await;
            let answer = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\n\r\ntoo large";
            stream.write_all(answer.as_bytes()).await.unwrap();
            // It is closed with the body unread, so it is reset.
            drop(stream);
        };
        let asking = async {
            let head =
                format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {LEN}\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            timeout(DEADLINE, client.write_all(&vec![0; LEN])).await.expect("in time").unwrap();
            read_all(&mut client).await
        };
        let (got, ()) = tokio::join!(asking, serving);
        assert!(got.starts_with("HTTP/1.1 413 ") && got.ends_with("\r\n\r\ntoo large"), "{got}");
    }
}

#[tokio::test]
async fn nothing_lasts_longer_than_a_decision_is_good() {
    let timeouts = Timeouts { life: 4 * SHORT, ..Timeouts::default() };
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (request, answer, piece) in
        [("GET / HTTP/1.1\r\nHost: a\r\n\r\n", chunked, "1\r\nx\r\n"), (OPEN, CHANGED, "x")]
    {
        let (place, listener) = application().await;
        let upstream = impatient(&place, timeouts);
        let permits = upstream.request_limit.clone();
        let mut client = hop(upstream, tls()).await;
        client.write_all(request.as_bytes()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        let busy = async {
            while stream.write_all(piece.as_bytes()).await.is_ok() {
                tokio::time::sleep(SHORT / 10).await;
            }
        };
        let (got, ()) = tokio::join!(read_all(&mut client), timeout(DEADLINE, busy).map(Result::unwrap));
        assert!(got.contains(piece) && !got.contains("\r\n0\r\n"), "{got}");
        assert_eq!(permits.free(), REQUESTS_MAX);
    }
    // The same for what a client sends, however busily.
    let (place, listener) = application().await;
    let mut client = hop(impatient(&place, timeouts), tls()).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let (_stream, _) = listener.accept().await.unwrap();
    let (mut from, mut to) = client.split();
    let busy = async {
        while to.write_all(b"1\r\nx\r\n").await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    let mut got = [0; 12];
    tokio::select! {
        () = busy => panic!("it ends without a word"),
        read = timeout(DEADLINE, from.read_exact(&mut got)) => { read.expect("in time").unwrap(); }
    }
    assert_eq!(&got, b"HTTP/1.1 408");
}

#[tokio::test]
async fn a_client_that_waits_for_100_gets_it_when_the_body_is_taken() {
    let (place, listener) = application().await;
    let mut client = hop(upstream(&place), RequestOrigin::Proxy).await;
    client
        .write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(read_until(&mut client, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"hi").await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    assert!(!read_until(&mut stream, "hi").await.contains("xpect"));
    stream.write_all(DONE.as_bytes()).await.unwrap();
    assert!(read_all(&mut client).await.starts_with("HTTP/1.1 204 "));
}

/// Waits until a connection is kept.
async fn is_kept(pool: &Pool) {
    let kept = async {
        while pool.len() == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, kept).await.expect("in time");
}

#[tokio::test]
async fn connections_are_kept_and_one_that_was_closed_is_no_failure() {
    let (place, listener) = application().await;
    let upstream = upstream(&place);
    let pool = upstream.pool.load_full();
    let mut client = hop(upstream, RequestOrigin::Proxy).await;
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let serving = tokio::spawn(async move {
        // The first connection answers twice, and closes when it is asked for the third time, as if it had
        // closed a moment before.
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let number = counted.fetch_add(1, Ordering::SeqCst);
            for _ in 0..2 {
                read_until(&mut stream, "\r\n\r\n").await;
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            }
            if number == 0 {
                read_until(&mut stream, "\r\n\r\n").await;
            }
        }
    });
    for (number, expected) in [(1, 1), (2, 1), (3, 2)] {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let got = read_until(&mut client, "ok").await;
        assert!(got.starts_with("HTTP/1.1 200 "), "{number}: {got}");
        assert_eq!(connections.load(Ordering::SeqCst), expected, "after {number}");
        is_kept(&pool).await;
    }
    serving.abort();
}

#[tokio::test]
async fn what_is_not_safe_is_not_sent_twice() {
    let (place, listener) = application().await;
    let upstream = upstream(&place);
    let pool = upstream.pool.load_full();
    let mut client = hop(upstream, RequestOrigin::Proxy).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    read_until(&mut client, "ok").await;
    is_kept(&pool).await;
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    assert!(read_until(&mut stream, "\r\n\r\n").await.starts_with("POST / "), "on the same connection");
    drop(stream);
    let got = tokio::select! {
        got = read_all(&mut client) => got,
        _ = listener.accept() => panic!("it is sent again"),
    };
    assert!(got.starts_with("HTTP/1.1 502 "), "{got}");
}

#[tokio::test]
async fn an_application_may_be_at_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut client = hop(upstream(&UpstreamPlace::Unix(path)), RequestOrigin::Proxy).await;
    client.write_all(b"GET /u HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut start = [0; 16];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"GET /u HTTP/1.1\r");
    stream.write_all(DONE.as_bytes()).await.unwrap();
    assert!(read_all(&mut client).await.starts_with("HTTP/1.1 204 "));
}

const OPEN: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade, remote-user\r\nUpgrade: WebSocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
const CHANGED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: x\r\n\r\n";

#[tokio::test]
async fn a_websocket_is_bytes_both_ways() {
    let (place, listener) = application().await;
    let upstream = upstream(&place);
    let permits = upstream.request_limit.clone();
    let mut client = hop(upstream, tls()).await;
    client.write_all(OPEN.as_bytes()).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let seen = read_until(&mut stream, "\r\n\r\n").await;
    for line in ["connection: upgrade\r\n", "upgrade: websocket\r\n", "remote-user: CONTOSO\\alice\r\n"] {
        assert!(seen.contains(line), "{seen}");
    }
    // The first frame may come together with the head.
    stream.write_all(format!("{CHANGED}from the application").as_bytes()).await.unwrap();
    let got = read_until(&mut client, "from the application").await;
    assert!(got.starts_with("HTTP/1.1 101 ") && got.contains("sec-websocket-accept: x\r\n"), "{got}");
    client.write_all(b"from the client").await.unwrap();
    read_until(&mut stream, "from the client").await;
    assert_eq!(permits.free(), REQUESTS_MAX - 1);
    drop(stream);
    assert_eq!(read_all(&mut client).await, "");
    drop(client);
    let all = async {
        while permits.free() < REQUESTS_MAX {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(DEADLINE, all).await.expect("the permit is given back");
}

#[tokio::test]
async fn a_websocket_that_is_evicted_ends() {
    let (place, listener) = application().await;
    let client = client(CLIENT);
    let mut stream = hop(upstream(&place), RequestOrigin::Tls(client.clone())).await;
    stream.write_all(OPEN.as_bytes()).await.unwrap();
    let (mut application, _) = listener.accept().await.unwrap();
    read_until(&mut application, "\r\n\r\n").await;
    application.write_all(format!("{CHANGED}x").as_bytes()).await.unwrap();
    read_until(&mut stream, "\r\n\r\nx").await;
    client.close.cancel();
    assert_eq!(read_all(&mut stream).await, "");
}

#[tokio::test]
async fn a_websocket_that_is_refused_is_an_answer_like_others() {
    let (_, got) = through(
        RequestOrigin::Proxy,
        &OPEN.replace("keep-alive, ", "close, "),
        "\r\n\r\n",
        "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nno",
    )
    .await;
    assert!(got.starts_with("HTTP/1.1 426 ") && got.ends_with("\r\n\r\nno"), "{got}");
}

#[tokio::test]
async fn more_requests_than_there_is_room_for_are_told_so() {
    let (place, _listener) = application().await;
    let upstream = impatient(&place, Timeouts { turn: SHORT, ..Timeouts::default() });
    let mut all = Vec::new();
    for _ in 0..REQUESTS_MAX {
        all.push(upstream.request_limit.acquire(None, SHORT).await.unwrap());
    }
    let mut client = hop(upstream, RequestOrigin::Proxy).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let got = read_all(&mut client).await;
    assert!(got.starts_with("HTTP/1.1 503 "), "{got}");
}

#[tokio::test]
async fn a_client_has_a_share_and_others_have_theirs() {
    for (origin, is_full) in
        [(tls(), true), (RequestOrigin::Tls(client("192.0.2.8")), false), (RequestOrigin::Proxy, false)]
    {
        let (place, listener) = application().await;
        let upstream = impatient(&place, Timeouts { turn: SHORT, ..Timeouts::default() });
        let mut all = Vec::new();
        for _ in 0..PER_CLIENT_MAX {
            all.push(upstream.request_limit.acquire(Some(&client(CLIENT)), SHORT).await.unwrap());
        }
        let mut client = hop(upstream, origin.clone()).await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        tokio::select! {
            got = read_all(&mut client) => {
                assert!(got.starts_with("HTTP/1.1 503 ") && got.ends_with("too many requests\n"), "{got}");
                assert!(is_full, "{origin:?}");
            }
            _ = listener.accept() => assert!(!is_full, "{origin:?}"),
        }
    }
}

#[test]
fn cookies_are_one_field() {
    let mut headers = HeaderMap::new();
    for cookie in ["a=1", "b=2; c=3"] {
        headers.append(header::COOKIE, HeaderValue::from_static(cookie));
    }
    hop::join_cookies(&mut headers);
    let cookies: Vec<_> = headers.get_all(header::COOKIE).iter().collect();
    assert_eq!(cookies, ["a=1; b=2; c=3"]);
}

/// Waits until all permits are free.
async fn all_are_free(permits: &RequestLimit) {
    let all = async {
        while permits.free() < REQUESTS_MAX {
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    timeout(DEADLINE, all).await.expect("the permit is given back");
}

/// Applications may refuse an upload by its head, and neither read nor close.
#[tokio::test]
async fn the_rest_of_an_answered_request_has_its_permit_and_ends_soon() {
    let (place, listener) = application().await;
    let upstream = upstream(&place);
    let permits = upstream.request_limit.clone();
    let mut client = hop(upstream, tls()).await;
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        .await
        .unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    read_until(&mut stream, "x\r\n").await;
    stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
    assert!(read_until(&mut client, "no").await.starts_with("HTTP/1.1 413 "));
    assert_eq!(permits.free(), REQUESTS_MAX - 1, "the application still has the request");
    // Neither the application nor the client does anything more.
    let ended = timeout(DEADLINE, stream.read_to_end(&mut Vec::new())).await.expect("in time");
    assert!(ended.is_ok_and(|len| len == 0));
    all_are_free(&permits).await;
}

/// The request is larger than the buffers between, and the application reads nothing of it.
#[tokio::test]
async fn an_answer_arrives_at_a_client_that_sends_everything_first() {
    const LEN: usize = 32 << 20;
    let (place, listener) = application().await;
    let mut client = hop(upstream(&place), RequestOrigin::Proxy).await;
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LEN}\r\n\r\n");
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
        stream
    };
    let asking = async {
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![b'x'; LEN]).await.unwrap();
        read_until(&mut client, "no").await
    };
    let (_stream, got) = tokio::join!(serving, timeout(DEADLINE, asking));
    assert!(got.expect("in time").starts_with("HTTP/1.1 413 "));
}

#[tokio::test]
async fn a_request_that_is_taken_back_counts_for_a_moment() {
    let (place, listener) = application().await;
    let upstream = upstream(&place);
    let permits = upstream.request_limit.clone();
    let mut client = hop(upstream, tls()).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    drop(client);
    let _ = timeout(DEADLINE, stream.read_to_end(&mut Vec::new())).await.expect("the connection ends");
    assert_eq!(permits.free(), REQUESTS_MAX - 1, "the application may work on");
    all_are_free(&permits).await;
}

/// RFC 9110, section 9.2.2: a client does not repeat a repeated request.
#[tokio::test]
async fn a_request_that_ends_connections_is_sent_twice_at_most() {
    let (place, listener) = application().await;
    let upstream = upstream(&place);
    let pool = upstream.pool.load_full();
    let upstream = Arc::new(upstream);
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(hop_to(Arc::clone(&upstream), RequestOrigin::Proxy).await);
    }
    let mut streams = Vec::new();
    for client in &mut clients {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        read_until(&mut stream, "\r\n\r\n").await;
        streams.push(stream);
    }
    for (client, stream) in clients.iter_mut().zip(&mut streams) {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        read_until(client, "ok").await;
    }
    let kept = async {
        while pool.len() < 3 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, kept).await.expect("in time");
    // Each of them ends without an answer from now on, and so do new ones.
    let asked = Arc::new(AtomicUsize::new(0));
    let crash = |mut stream: TcpStream| {
        let asked = Arc::clone(&asked);
        tokio::spawn(async move {
            read_until(&mut stream, "\r\n\r\n").await;
            asked.fetch_add(1, Ordering::SeqCst);
        });
    };
    streams.into_iter().for_each(crash);
    clients[0].write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let serving = async {
        loop {
            crash(listener.accept().await.unwrap().0);
        }
    };
    tokio::select! {
        () = serving => unreachable!(),
        got = read_until(&mut clients[0], "\r\n\r\n") => assert!(got.starts_with("HTTP/1.1 502 "), "{got}"),
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn the_length_of_a_body_is_written_anew() {
    let request = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 03\r\n\r\nabc";
    let (lines, _) = through(tls(), request, "abc", DONE).await;
    assert!(lines.iter().any(|line| line.eq_ignore_ascii_case("content-length: 3")), "{lines:?}");
}
