#![expect(clippy::unwrap_used, reason = "tests")]

mod curl;
mod scene;

use super::*;
use http_body_util::{BodyExt, Full};
use rcmp_service::Reason;
use rcmp_service::trust::ChainError;
use scene::{DEADLINE, Scene, body_of};
use sidecar::routes::{Route, Routes};
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_client_is_who_the_certificate_says() {
    let scene = Scene::new().await;
    let got = scene.get("localhost", Some(&scene.alice), "").await;
    assert!(got.starts_with("HTTP/1.1 200 "), "{got}");
    for line in [
        "GET /x HTTP/1.1\n",
        "host: localhost\n",
        "remote-user: CONTOSO\\alice\n",
        "x-identity-account: alice\n",
        "x-forwarded-for: 127.0.0.1\n",
        "x-forwarded-proto: https\n",
        "x-forwarded-host: localhost\n",
    ] {
        assert!(got.contains(line), "{line:?} in {got}");
    }
}

#[tokio::test]
async fn whatever_a_client_says_of_itself_is_gone() {
    let scene = Scene::new().await;
    let forged = "Remote-User: root\r\nRemote_User: root\r\nREMOTE_GROUPS: wheel\r\nX-Identity-Sid: S-1-5-18\r\n\
        Client-Cert: :AA==:\r\nX_Forwarded_Client_Cert: Hash=0\r\nSSL-Client-Verify: SUCCESS\r\nX-Sidecar-Secret: x\r\n\
        X-Forwarded-For: 198.51.100.1\r\nConnection: Remote-User, X-Identity-Account, X-Forwarded-For\r\n";
    let got = scene.get("localhost", Some(&scene.alice), forged).await;
    let mut lines: Vec<&str> = body_of(&got).lines().filter(|line| line.starts_with("remote")).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["remote-email: ", "remote-groups: ", "remote-name: ", "remote-user: CONTOSO\\alice"]);
    for said in ["root", "wheel", "S-1-5-18", ":AA==:", "Hash=0", "SUCCESS", "sidecar-secret", "198.51.100.1"]
    {
        assert!(!body_of(&got).contains(said), "{said:?} in {got}");
    }
    assert!(
        got.contains("x-identity-account: alice\n") && got.contains("x-forwarded-for: 127.0.0.1\n"),
        "{got}"
    );
}

#[tokio::test]
async fn trailers_say_nothing_of_the_client() {
    let scene = Scene::new().await;
    let names = "X-Sum, Remote-User, remote_groups, X-Identity-Sid, X.Identity.Account, Client-Cert, X-Sidecar-Secret, \
        X-Forwarded-For, X.Real.IP, X-Original-URL, Authorization, Cookie, Content-Length, Transfer-Encoding, Host, \
        Content_Length, Transfer.Encoding, Set_Cookie, Proxy~Authorization, Keep_Alive";
    let trailers: String = names.split(", ").map(|name| format!("{name}: 1\r\n")).collect();
    let request = format!(
        "POST /trailers HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\
         Trailer: {names}\r\n\r\n1\r\nx\r\n0\r\n{trailers}\r\n"
    );
    let got = scene.ask("localhost", Some(&scene.alice), &request).await;
    assert_eq!(body_of(&got), "x-sum: \"1\"\n", "{got}");
}

#[tokio::test]
async fn a_request_is_for_the_host_of_the_handshake() {
    let scene = Scene::new().await;
    let port = scene.address.port();
    let status = async |name: &str, fields: &str| {
        let request = format!("GET /x HTTP/1.1\r\nConnection: close\r\n{fields}\r\n");
        let got = scene.ask(name, Some(&scene.alice), &request).await;
        got.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    for (name, fields, expected) in [
        ("localhost", "Host: localhost\r\n".to_owned(), "200"),
        ("localhost", format!("Host: LOCALHOST.:{port}\r\n"), "200"),
        ("localhost", "Host: localhost:1\r\n".to_owned(), "200"),
        ("localhost", "Host: other.example\r\n".to_owned(), "421"),
        ("localhost", "Host: 127.0.0.1\r\n".to_owned(), "421"),
        ("localhost", String::new(), "400"),
        ("localhost", "Host: localhost:\r\n".to_owned(), "400"),
        ("localhost", "Host: localhost:x\r\n".to_owned(), "400"),
        ("localhost", "Host: localhost:443x\r\n".to_owned(), "400"),
        ("localhost", "Host: localhost:+443\r\n".to_owned(), "400"),
        ("localhost", "Host: localhost:65536\r\n".to_owned(), "400"),
        ("localhost", "Host: localhost, localhost\r\n".to_owned(), "400"),
        ("localhost", "Host: x@localhost\r\n".to_owned(), "400"),
        ("localhost", "Host: localhost..\r\n".to_owned(), "400"),
        ("localhost", "Host: localhost\r\nHost: localhost\r\n".to_owned(), "400"),
        ("127.0.0.1", format!("Host: 127.0.0.1:{port}\r\n"), "200"),
        ("127.0.0.1", "Host: 127.0.0.2\r\n".to_owned(), "421"),
        ("127.0.0.1", "Host: localhost\r\n".to_owned(), "421"),
    ] {
        assert_eq!(status(name, &fields).await, expected, "{name} {fields:?}");
    }
    let target = "GET https://localhost:443x/ HTTP/1.1\r\nHost: localhost:443x\r\nConnection: close\r\n\r\n";
    let got = scene.ask("localhost", Some(&scene.alice), target).await;
    assert!(got.starts_with("HTTP/1.1 400 "), "a port that is no number: {got}");
    let target = "GET http://localhost/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let got = scene.ask("localhost", Some(&scene.alice), target).await;
    assert!(got.starts_with("HTTP/1.1 421 "), "a URL without TLS: {got}");
}

#[tokio::test]
async fn who_is_not_let_in_learns_it_and_the_application_does_not() {
    let scene = Scene::new().await;
    let before = scene.asked.load(Ordering::SeqCst);
    for (refusal, status, text) in [
        (Refusal::NotMapped(Reason::NoMatch.into()), "403", "this certificate is not let in\n"),
        (Refusal::Chain(ChainError::Expired), "403", "this certificate is not let in\n"),
        (Refusal::Undecided(Reason::StoreUnavailable.into()), "500", "who this is could not be decided\n"),
    ] {
        scene.oracle.says(Err(refusal));
        let got = scene.get("localhost", Some(&scene.alice), "").await;
        assert!(got.starts_with(&format!("HTTP/1.1 {status} ")) && got.ends_with(text), "{refusal:?}: {got}");
        assert!(!got.to_lowercase().contains("remote-"), "names of headers are not told: {got}");
    }
    assert_eq!(scene.asked.load(Ordering::SeqCst), before);
}

#[tokio::test]
async fn a_client_that_sends_all_of_its_body_before_it_reads_gets_its_answer() {
    let scene = Scene::new().await;
    scene.oracle.says(Err(Refusal::NotMapped(Reason::NoMatch.into())));
    let long = format!("X-Long: {}\r\n", "x".repeat(HEAD_LEN_MAX));
    for (fields, body, status) in [
        ("Host: localhost\r\n", 1 << 20, "403"),
        ("Host: other.example\r\n", 1 << 20, "421"),
        ("", 1 << 20, "400"),
        (&long, 1 << 20, "431"),
        ("No colon\r\n", 1 << 20, "400"),
    ] {
        let mut stream = scene.connect("localhost", Some(&scene.alice)).await.unwrap();
        let head = format!("POST /x HTTP/1.1\r\n{fields}Content-Length: {body}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let sent = timeout(DEADLINE, stream.write_all(&vec![0; body])).await.expect("in time");
        sent.unwrap_or_else(|error| panic!("{status}: {error}"));
        let mut answer = String::new();
        let read = timeout(DEADLINE, stream.read_to_string(&mut answer)).await.expect("in time");
        read.unwrap_or_else(|error| panic!("{status}: {error}"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_sends_on_after_a_failed_handshake_gets_the_alert() {
    let scene = Scene::new().await;
    let others = Scene::new().await;
    // TLS 1.3 lets a client send before its certificate is rejected.
    for _ in 0..5 {
        let mut stream = scene.connect("localhost", Some(&others.alice)).await.unwrap();
        let _ = timeout(DEADLINE, stream.write_all(&vec![0; 1 << 20])).await.expect("in time");
        let error = timeout(DEADLINE, stream.read_u8()).await.expect("in time").unwrap_err();
        assert!(error.to_string().contains("fatal alert: "), "{error}");
    }
}

/// HTTP/2 frames after the preface and empty SETTINGS (RFC 9113, sections 3.4 and 4.1).
fn frames(frames: &[(u8, u8, u32, &[u8])]) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for (kind, flags, stream, payload) in frames {
        bytes.extend(&(payload.len() as u32).to_be_bytes()[1..]);
        bytes.extend([*kind, *flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(*payload);
    }
    bytes
}

#[tokio::test]
async fn what_is_rejected_before_a_request_is_there_is_counted() {
    let scene = Scene::new().await;
    let others = Scene::new().await;
    let meter = scene.front.meter(String::new());
    let count = |why: Rejection| meter.counts().rejected[why as usize];
    let long = format!("GET / HTTP/1.1\r\nX-Long: {}\r\n\r\n", "x".repeat(HEAD_LEN_MAX));
    // A request has :method and :scheme (RFC 9113, section 8.3.1); 0x82 is ":method: GET" alone.
    let malformed = frames(&[(1, 5, 1, &[0x82])]);
    // DATA on stream 0 is an error of the connection (section 6.1).
    let bad_data = frames(&[(0, 0, 0, b"x")]);
    let (http_1, http_2) = (&[][..], &[&b"h2"[..]][..]);
    for (why, protocols, sent) in [
        (Rejection::BadRequest, http_1, &b"GET / HTTP/1.1\r\nNo colon\r\n\r\n"[..]),
        (Rejection::BadRequest, http_1, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        // Our own 400 and 501.
        (Rejection::BadRequest, http_1, b"GET / HTTP/1.1\r\nHost: localhost:x\r\n\r\n"),
        (Rejection::BadRequest, http_1, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        (Rejection::BadRequest, http_1, b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        (Rejection::HeadTooLarge, http_1, long.as_bytes()),
        (Rejection::Http2Connection, http_2, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        (Rejection::Http2Connection, http_2, &bad_data),
        (Rejection::Http2Stream, http_2, &malformed),
    ] {
        let before = count(why);
        let mut stream = scene.connect_with("localhost", Some(&scene.alice), protocols).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let counted = async {
            let mut read = [0; 1024];
            while count(why) == before {
                let read = timeout(Duration::from_millis(10), stream.read(&mut read)).await;
                // After its end, only the count is waited for.
                if !matches!(read, Ok(Ok(1..)) | Err(_)) {
                    tokio::task::yield_now().await;
                }
            }
        };
        timeout(DEADLINE, counted).await.unwrap_or_else(|_| panic!("{why:?}: {:?}", meter.counts()));
        assert_eq!(count(why), before + 1, "{why:?}");
    }
    // Headers that are too long over HTTP/2: a client reads 431 although it sends a body. h2 rejects those of
    // twice the length itself.
    let (mut sender, _connection) = scene.http2(WINDOW).await;
    let before = count(Rejection::HeadTooLarge);
    let request = Request::post("https://localhost/x").header("x-long", "x".repeat(HEAD_LEN_MAX));
    let answer = sender.send_request(request.body(Full::from(vec![b'x'; 300_000])).unwrap());
    let answer = timeout(DEADLINE, answer).await.expect("in time").expect("an answer");
    assert_eq!(answer.status(), 431);
    assert_eq!(count(Rejection::HeadTooLarge), before + 1);
    let request = Request::get("https://localhost/x").header("x-long", "x".repeat(2 * HEAD_LEN_MAX));
    let answer = sender.send_request(request.body(Full::default()).unwrap());
    let answer = timeout(DEADLINE, answer).await.expect("in time");
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 431));
    let counted = async {
        while count(Rejection::Http2Stream) < 2 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, counted).await.expect("in time");
    // What is no TLS, and the certificate of another CA.
    let mut stream = TcpStream::connect(scene.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _ = timeout(DEADLINE, stream.read_to_end(&mut Vec::new())).await.expect("in time");
    if let Ok(mut stream) = scene.connect("localhost", Some(&others.alice)).await {
        let _ = timeout(DEADLINE, stream.read(&mut [0; 1])).await.expect("in time");
    }
    assert_eq!((count(Rejection::Handshake), count(Rejection::Certificate)), (1, 1));
    // A client that leaves, and one that is served, count for nothing.
    let before = meter.counts().rejected;
    drop(scene.connect("localhost", Some(&scene.alice)).await.unwrap());
    assert!(scene.get("localhost", Some(&scene.alice), "").await.starts_with("HTTP/1.1 200 "));
    assert_eq!(meter.counts().rejected, before);
}

#[tokio::test]
async fn what_is_revoked_ends_with_the_next_request_of_the_same_connection() {
    let scene = Scene::new().await;
    let mut stream = scene.connect("localhost", Some(&scene.alice)).await.unwrap();
    let request = b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let first = scene::read_answer(&mut stream).await;
    assert!(first.starts_with("HTTP/1.1 200 "), "{first}");
    scene.oracle.says(Err(Refusal::Chain(ChainError::Expired)));
    stream.write_all(request).await.unwrap();
    let second = scene::read_answer(&mut stream).await;
    assert!(second.starts_with("HTTP/1.1 403 "), "{second}");
}

#[tokio::test]
async fn certificates_of_others_do_not_get_through_the_handshake() {
    let scene = Scene::new().await;
    let others = Scene::new().await;
    for client in [None, Some(&others.alice)] {
        let got = match scene.connect("localhost", client).await {
            // TLS 1.3 tells a client only when it reads.
            Ok(mut stream) => timeout(DEADLINE, stream.read(&mut [0; 1])).await.expect("in time").map(drop),
            Err(error) => Err(error),
        };
        assert!(got.is_err(), "{}", client.is_some());
    }
}

#[tokio::test]
async fn no_identity_is_passed_on_where_a_route_lets_every_client_in() {
    let everybody = Route { anonymous: true, ..Route::default() };
    let scene = Scene::optional(Routes::new(vec![everybody.clone()])).await;
    let forged = "Remote-User: root\r\nRemote_User: root\r\nX-Identity-Account: root\r\n";
    let got = scene.get("localhost", None, forged).await;
    assert!(got.starts_with("HTTP/1.1 200 ") && !got.contains("root"), "{got}");
    assert!(got.contains("remote-user: \n") && got.contains("x-identity-account: \n"), "{got}");
    let got = scene.get("localhost", Some(&scene.alice), "").await;
    assert!(got.contains("remote-user: CONTOSO\\alice\n"), "{got}");

    let named =
        Route { path: Some("/x".to_owned()), domains: vec!["CONTOSO".to_owned()], ..Route::default() };
    let strong = Route { strong: true, ..Route::default() };
    let elsewhere = Route { path: Some("/y".to_owned()), ..everybody };
    let none = Routes::default();
    for routes in [named, strong, Route::default(), elsewhere]
        .map(|route| Routes::new(vec![route]))
        .into_iter()
        .chain([none])
    {
        let scene = Scene::optional(routes.clone()).await;
        let got = scene.get("localhost", None, "").await;
        assert!(got.starts_with("HTTP/1.1 401 "), "{routes:?}: {got}");
    }
}

#[tokio::test]
async fn over_http2_each_request_is_decided_about() {
    let scene = Scene::new().await;
    let (mut sender, _connection) = scene.http2(WINDOW).await;
    let mut ask = async |uri: &str| {
        let request = Request::get(uri).header("cookie", "a=1").header("cookie", "b=2");
        let request = request.body(Full::default()).unwrap();
        let response = timeout(DEADLINE, sender.send_request(request)).await.expect("in time").unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
    };
    let (status, seen) = ask("https://localhost/x").await;
    assert_eq!(status, 200);
    assert!(
        seen.starts_with("GET /x HTTP/1.1\n") && seen.contains("remote-user: CONTOSO\\alice\n"),
        "{seen}"
    );
    assert!(seen.contains("cookie: a=1; b=2\n"), "{seen}");
    assert_eq!(ask("https://other.example/x").await.0, 421);
    assert_eq!(ask("http://localhost/x").await.0, 421);
    scene.oracle.says(Err(Refusal::Chain(ChainError::Expired)));
    assert_eq!(ask("https://localhost/x").await.0, 403);
}

#[tokio::test]
async fn a_handshake_counts_only_under_its_terms() {
    let scene = Scene::new().await;
    let mut idle = scene.connect("localhost", Some(&scene.alice)).await.unwrap();
    let mut half = scene.connect("localhost", Some(&scene.alice)).await.unwrap();
    let request = b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    idle.write_all(request).await.unwrap();
    scene::read_answer(&mut idle).await;
    half.write_all(request).await.unwrap();
    scene::read_answer(&mut half).await;
    half.write_all(&request[..20]).await.unwrap();
    // It is resumed as long as the TLS settings are the same.
    let client = scene.client(Some(&scene.alice), &[]);
    assert_eq!(scene.resumed(&client).await, [false, true]);
    let others = Scene::new().await;
    scene.front.replace(others.tls_settings(false));
    let end = timeout(DEADLINE, idle.read(&mut [0; 1])).await.expect("in time");
    assert!(matches!(end, Ok(0)), "an idle connection is closed: {end:?}");
    // Whether the half request is still heard depends on who was first; it is not passed on.
    let asked = scene.asked.load(Ordering::SeqCst);
    let _ = half.write_all(&request[20..]).await;
    let mut rest = Vec::new();
    let _ = timeout(DEADLINE, half.read_to_end(&mut rest)).await.expect("in time");
    let rest = String::from_utf8(rest).unwrap();
    assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 421 "), "{rest}");
    assert_eq!(scene.asked.load(Ordering::SeqCst), asked);
    // The session that could be resumed a moment ago is gone, and its certificate maps no account here.
    let stream = scene.connect_as(&client).await;
    let read = match stream {
        Ok(mut stream) => timeout(DEADLINE, stream.read(&mut [0; 1])).await.expect("in time").map(drop),
        Err(error) => Err(error),
    };
    assert!(read.is_err());
}

/// What browsers give.
const WINDOW: u32 = 64 << 10;
/// Long enough that a test's client is in time.
const PATIENCE: Timeouts = Timeouts {
    turn: DEADLINE,
    head: DEADLINE,
    client: Duration::from_millis(300),
    application: DEADLINE,
    life: DEADLINE,
    leave: Duration::from_millis(100),
};

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("https://localhost{path}")).body(Full::default()).unwrap()
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_nothing() {
    let scene = Scene::impatient(PATIENCE).await;
    let all = scene.front.upstream.free();
    // Answers that do not begin, and one that stops: its client takes a window of it, and says no more.
    for (window, path) in [(0, "/x"), (WINDOW, "/big/64")] {
        let (mut sender, connection) = scene.http2(window).await;
        let mut answers = Vec::new();
        for _ in 0..10 {
            let answer = timeout(DEADLINE, sender.send_request(get(path))).await.expect("in time").unwrap();
            assert_eq!(answer.status(), 200);
            answers.push(answer);
        }
        assert!(scene.front.upstream.free() < all);
        timeout(DEADLINE, connection).await.expect("in time").unwrap().ok();
        scene.until_free(all).await;
    }
    // What is taken slowly is not cut off.
    let (mut sender, _connection) = scene.http2(WINDOW).await;
    let mut body = sender.send_request(get("/big/8")).await.unwrap().into_body();
    let mut len = 0;
    while let Some(frame) = body.frame().await {
        let piece = frame.unwrap().into_data().unwrap().len();
        len += piece;
        sleep(PATIENCE.client * 2 * piece as u32 / (8 * WINDOW)).await;
    }
    assert_eq!(len, 8 * (64 << 10));
}

#[tokio::test]
async fn what_is_taken_slowly_ends_with_its_time() {
    let scene = Scene::impatient(Timeouts { life: PATIENCE.client, ..PATIENCE }).await;
    let (mut sender, _connection) = scene.http2(WINDOW).await;
    let mut body = sender.send_request(get("/big/64")).await.unwrap().into_body();
    let read = async {
        while let Some(Ok(_)) = body.frame().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(4 * PATIENCE.client, read).await.expect("in time");
}

#[tokio::test]
async fn what_is_asked_beside_an_answer_that_is_not_taken_is_answered() {
    let scene = Scene::impatient(Timeouts { leave: DEADLINE, ..PATIENCE }).await;
    let (mut sender, _connection) = scene.http2(WINDOW).await;
    let _untaken = sender.send_request(get("/big/64")).await.unwrap();
    let held = tokio::spawn(sender.send_request(get("/held")));
    scene.until_asked(2).await;
    sleep(2 * PATIENCE.client).await;
    scene.release.notify_one();
    let answer = timeout(DEADLINE, held).await.expect("in time").unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.into_body().collect().await.unwrap().to_bytes().starts_with(b"GET /held"));
    assert!(sender.send_request(get("/x")).await.is_err(), "its client was told to leave");
}

#[tokio::test]
async fn what_is_open_under_other_terms_ends() {
    let scene = Scene::impatient(PATIENCE).await;
    let (mut sender, connection) = scene.http2(WINDOW).await;
    let held = tokio::spawn(sender.send_request(get("/held")));
    scene.until_asked(1).await;
    sleep(2 * PATIENCE.client).await;
    assert!(!held.is_finished(), "an application has its time");
    scene.front.replace(scene.tls_settings(false));
    assert!(timeout(DEADLINE, held).await.expect("in time").unwrap().is_err());
    timeout(DEADLINE, connection).await.expect("in time").unwrap().ok();
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_clients_that_take_nothing() {
    let scene = Scene::impatient(PATIENCE).await;
    let (mut sender, _connection) = scene.http2(0).await;
    let _answer = sender.send_request(get("/x")).await.unwrap();
    scene.shutdown.cancel();
    timeout(DEADLINE, scene.serving).await.expect("in time").unwrap();
}

#[tokio::test]
async fn a_shutdown_answers_what_was_asked() {
    let scene = Scene::new().await;
    let mut idle = scene.connect("localhost", Some(&scene.alice)).await.unwrap();
    let mut busy = scene.connect("localhost", Some(&scene.alice)).await.unwrap();
    busy.write_all(b"GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    scene.until_asked(1).await;
    scene.shutdown.cancel();
    let end = timeout(DEADLINE, idle.read(&mut [0; 1])).await.expect("in time");
    // Before the first request hyper leaves without a word of TLS.
    let is_over = match &end {
        Ok(len) => *len == 0,
        Err(error) => error.kind() == std::io::ErrorKind::UnexpectedEof,
    };
    assert!(is_over, "{end:?}");
    assert!(!scene.serving.is_finished());
    scene.release.notify_one();
    let mut answer = String::new();
    timeout(DEADLINE, busy.read_to_string(&mut answer)).await.expect("in time").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    timeout(DEADLINE, scene.serving).await.expect("in time").unwrap();
}

#[tokio::test]
async fn a_panic_ends_one_connection() {
    let scene = Scene::new().await;
    let mut other = scene.connect("localhost", Some(&scene.alice)).await.unwrap();
    scene.oracle.panics.store(true, Ordering::SeqCst);
    let mut stream = scene.connect("localhost", Some(&scene.alice)).await.unwrap();
    stream.write_all(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("in time");
    assert_eq!(answer, b"");
    scene.oracle.panics.store(false, Ordering::SeqCst);
    other.write_all(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert!(scene::read_answer(&mut other).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let scene = Scene::new().await;
    let long = format!("X-Long: {}\r\n", "x".repeat(HEAD_LEN_MAX));
    let got = scene.get("localhost", Some(&scene.alice), &long).await;
    assert!(got.starts_with("HTTP/1.1 431 "), "{got}");
    let got = scene.get("localhost", Some(&scene.alice), &format!("{}\r\n", &long[..HEAD_LEN_MAX / 2])).await;
    assert!(got.starts_with("HTTP/1.1 200 "), "{got}");
}
