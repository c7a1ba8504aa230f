//! Applications that speak HTTP/2 without TLS.

use super::*;
use crate::settings::UpstreamProtocol;
use futures_util::stream::{self, StreamExt};
use http_body_util::combinators::BoxBody;
use http_body_util::{Empty, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2::SendRequest;
use hyper::server::conn::http2;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::DropGuard;

type Answer = Response<BoxBody<Bytes, h2::Error>>;

/// What the application has.
#[derive(Default)]
struct App {
    connections: AtomicUsize,
    /// Lets `/held` answer.
    release: Notify,
    /// Is cancelled when a stream of `/endless` is over.
    ended: CancellationToken,
    /// Bytes that `/flood` had taken of it.
    flooded: AtomicUsize,
}

const PIECE: Bytes = Bytes::from_static(&[b'x'; 16 << 10]);

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
}

/// `/trailers` tells the request's target, headers and trailers, and has trailers. `/held` answers when it
/// may, `/refused` before it reads the body, `/endless` with a piece now and then, `/flood` as fast as it
/// can, `/reset/N` with one piece, and the code N when it may.
async fn answer(app: Arc<App>, request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/refused" => {
            let mut answer = Response::new(Empty::new().map_err(|never| match never {}).boxed());
            answer.headers_mut().insert("grpc-status", HeaderValue::from_static("7"));
            return Ok(answer);
        }
        "/held" => app.release.notified().await,
        "/endless" => {
            let guard: DropGuard = app.ended.clone().drop_guard();
            let pieces = stream::unfold(guard, |guard| async {
                tokio::time::sleep(SHORT / 5).await;
                Some((Ok(Frame::data(Bytes::from_static(b"x"))), guard))
            });
            return Ok(Response::new(BodyExt::boxed(StreamBody::new(pieces))));
        }
        "/flood" => {
            let pieces = stream::repeat_with(move || {
                app.flooded.fetch_add(PIECE.len(), Ordering::SeqCst);
                Ok(Frame::data(PIECE))
            });
            return Ok(Response::new(BodyExt::boxed(StreamBody::new(pieces))));
        }
        path if path.starts_with("/reset/") => {
            let code: u32 = path["/reset/".len()..].parse().unwrap();
            let reset = h2::Error::from(h2::Reason::from(code));
            let pieces = stream::once(async { Ok(Frame::data(PIECE)) }).chain(stream::once(async move {
                app.release.notified().await;
                Err(reset)
            }));
            return Ok(Response::new(BodyExt::boxed(StreamBody::new(pieces))));
        }
        _ => {}
    }
    let mut seen = format!("{} {} {:?}\n", request.method(), request.uri(), request.version());
    for (name, value) in request.headers() {
        seen += &format!("{name}: {}\n", value.to_str().unwrap());
    }
    let collected = request.into_body().collect().await?;
    for (name, value) in collected.trailers().into_iter().flatten() {
        seen += &format!("trailer {name}: {}\n", value.to_str().unwrap());
    }
    seen += &format!("{} bytes\n", collected.to_bytes().len());
    let trailers = headers(&[("grpc-status", "0"), ("x-sum", "2"), ("content-length", "9")]);
    let trailers = async move { Some(Ok(trailers)) };
    let body = Full::from(seen).with_trailers(trailers);
    Ok(Response::new(body.map_err(|never| match never {}).boxed()))
}

/// An application, and the way to it.
async fn application(timeouts: Timeouts) -> (Arc<App>, Upstream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = UpstreamPlace::Tcp(listener.local_addr().unwrap().to_string());
    let app = Arc::new(App::default());
    let here = Arc::clone(&app);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            here.connections.fetch_add(1, Ordering::SeqCst);
            let here = Arc::clone(&here);
            let service = service_fn(move |request| answer(Arc::clone(&here), request));
            let builder = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    let application = Application { place, tls: None, protocol: Some(UpstreamProtocol::Http2) };
    (app, Upstream::with_timeouts(&application, timeouts, &AnyFile).unwrap())
}

type Sent = BoxBody<Bytes, Infallible>;

/// A client over HTTP/2.
async fn client_of(upstream: Upstream) -> SendRequest<Sent> {
    let stream = TokioIo::new(hop(upstream, tls()).await);
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn post(path: &str, body: Sent) -> Request<Sent> {
    let request = Request::post(format!("http://app.example{path}")).header("te", "trailers");
    request.header("x-forwarded-for", "198.51.100.1").header("remote-user", "root").body(body).unwrap()
}

/// A body of which the test sends each piece.
fn pieces() -> (mpsc::Sender<Frame<Bytes>>, Sent) {
    let (sender, receiver) = mpsc::channel(1);
    let pieces = stream::unfold(receiver, |mut receiver: mpsc::Receiver<_>| async {
        Some((Ok::<_, Infallible>(receiver.recv().await?), receiver))
    });
    (sender, BodyExt::boxed(StreamBody::new(pieces)))
}

async fn ask(sender: &mut SendRequest<Sent>, request: Request<Sent>) -> Response<Incoming> {
    timeout(DEADLINE, sender.send_request(request)).await.expect("in time").unwrap()
}

#[tokio::test]
async fn trailers_pass_both_ways_and_say_nothing_of_the_client() {
    let (_, upstream) = application(Timeouts::default()).await;
    let mut client = client_of(upstream).await;
    let forged = headers(&[
        ("x-sum", "1"),
        ("remote-user", "root"),
        ("x-forwarded-for", "198.51.100.2"),
        ("x_real.ip", "198.51.100.3"),
        ("authorization", "Basic eA=="),
        ("content-length", "9"),
        ("host", "other"),
    ]);
    let body = Full::from("abc").with_trailers(async { Some(Ok(forged)) }).boxed();
    let answer = ask(&mut client, post("/trailers?x", body)).await;
    let answer = timeout(DEADLINE, answer.into_body().collect()).await.expect("in time").unwrap();
    let trailers = answer.trailers().cloned().unwrap();
    assert_eq!(trailers, headers(&[("grpc-status", "0"), ("x-sum", "2")]));
    let seen = String::from_utf8(answer.to_bytes().to_vec()).unwrap();
    let mut lines: Vec<&str> = seen.lines().collect();
    lines[1..].sort_unstable();
    assert_eq!(
        lines,
        [
            "POST http://app.example/trailers?x HTTP/2.0",
            "3 bytes",
            "content-length: 3",
            "remote-user: CONTOSO\\alice",
            "te: trailers",
            "trailer x-sum: 1",
            "x-forwarded-for: 192.0.2.7",
            "x-forwarded-host: app.example",
            "x-forwarded-proto: https",
        ]
    );
}

#[tokio::test]
async fn a_connection_has_one_request_at_a_time_and_is_kept() {
    let (app, upstream) = application(Timeouts::default()).await;
    let pool = upstream.pool.load_full();
    let mut client = client_of(upstream).await;
    for path in ["/trailers", "/refused"] {
        for _ in 0..3 {
            let answer = ask(&mut client, post(path, Full::from("x").boxed())).await;
            assert_eq!(answer.headers().contains_key("grpc-status"), path == "/refused");
            answer.into_body().collect().await.unwrap();
            if path == "/trailers" {
                is_kept(&pool).await;
            }
        }
        if path == "/trailers" {
            assert_eq!(app.connections.load(Ordering::SeqCst), 1);
        }
    }
    let before = app.connections.load(Ordering::SeqCst);
    let held: Vec<_> = (0..4).map(|_| client.send_request(post("/held", Empty::new().boxed()))).collect();
    let held = tokio::spawn(futures_util::future::join_all(held));
    let all = async {
        while app.connections.load(Ordering::SeqCst) < before + 3 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, all).await.expect("each has a connection");
    let answers = async {
        while !held.is_finished() {
            app.release.notify_waiters();
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, answers).await.expect("in time");
    assert!(held.await.unwrap().iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_stream() {
    let (app, upstream) = application(Timeouts::default()).await;
    let permits = upstream.request_limit.clone();
    let pool = upstream.pool.load_full();
    let mut client = client_of(upstream).await;
    let mut answer = ask(&mut client, post("/endless", Empty::new().boxed())).await.into_body();
    timeout(DEADLINE, answer.frame()).await.expect("in time").unwrap().unwrap();
    assert_eq!(permits.free(), REQUESTS_MAX - 1);
    drop(answer);
    timeout(DEADLINE, app.ended.cancelled()).await.expect("the application is told");
    let free = async {
        while permits.free() < REQUESTS_MAX {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, free).await.expect("the permit is given back");
    assert_eq!(pool.len(), 0, "a connection with a reset stream is not kept");
}

#[tokio::test]
async fn the_code_of_a_reset_passes_unless_it_is_about_a_hop() {
    let (app, upstream) = application(Timeouts::default()).await;
    let mut client = client_of(upstream).await;
    // RFC 9113, section 7: CANCEL and ENHANCE_YOUR_CALM; PROTOCOL_ERROR and REFUSED_STREAM, for which there
    // is INTERNAL_ERROR.
    for (code, expected) in [(8, 8), (11, 11), (1, 2), (7, 2)] {
        let mut answer =
            ask(&mut client, post(&format!("/reset/{code}"), Empty::new().boxed())).await.into_body();
        timeout(DEADLINE, answer.frame()).await.expect("in time").unwrap().expect("a piece");
        app.release.notify_one();
        let error = timeout(DEADLINE, answer.collect()).await.expect("in time").unwrap_err();
        let reset = listener_tokio::connections::causes(&error)
            .find_map(|cause| cause.downcast_ref::<h2::Error>()?.reason());
        assert_eq!(reset, Some(h2::Reason::from(expected)), "{code}: {error}");
    }
}

#[tokio::test]
async fn a_direction_may_pause_while_the_other_one_moves() {
    let timeouts = Timeouts { client: SHORT, application: 4 * SHORT, ..Timeouts::default() };
    let (app, upstream) = application(timeouts).await;
    let mut client = client_of(upstream).await;
    let (sender, body) = pieces();
    let mut answer = ask(&mut client, post("/endless", body)).await.into_body();
    let begun = Instant::now();
    while begun.elapsed() < 3 * timeouts.application {
        timeout(DEADLINE, answer.frame()).await.expect("in time").unwrap().expect("it is not cut off");
    }
    assert!(!app.ended.is_cancelled());
    drop((sender, answer));
    // Where neither moves, both end.
    let (_sender, body) = pieces();
    let answer = ask(&mut client, post("/trailers", body)).await;
    assert_eq!(answer.status(), 408);
}

/// Waits until nothing more of a flood is taken, and says how much was.
async fn taken(flooded: &AtomicUsize) -> usize {
    let stopped = async {
        let mut before = 0;
        loop {
            tokio::time::sleep(4 * SHORT).await;
            match flooded.load(Ordering::SeqCst) {
                now if now > 0 && now == before => return now,
                now => before = now,
            }
        }
    };
    timeout(DEADLINE, stopped).await.expect("it is held back")
}

#[tokio::test]
async fn neither_direction_is_read_faster_than_it_is_taken() {
    // The windows here: 1 MiB of hyper's servers, 128 KiB of ours, twice with what waits to be written.
    const MOST: usize = 3 << 20;
    let (app, upstream) = application(Timeouts::default()).await;
    let mut client = client_of(upstream).await;
    let _answer = ask(&mut client, post("/flood", Empty::new().boxed())).await;
    let answered = taken(&app.flooded).await;
    assert!(answered < MOST, "{answered}");

    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let pieces = stream::repeat_with(move || {
        count.fetch_add(PIECE.len(), Ordering::SeqCst);
        Ok::<_, Infallible>(Frame::data(PIECE))
    });
    let held = client.send_request(post("/held", BodyExt::boxed(StreamBody::new(pieces))));
    let held = tokio::spawn(held);
    let sent = taken(&sent).await;
    assert!(sent < MOST, "{sent}");
    held.abort();
}

#[tokio::test]
async fn an_application_that_speaks_http_1_alone_is_a_bad_gateway() {
    let (place, listener) = super::application().await;
    let application = Application { place, tls: None, protocol: Some(UpstreamProtocol::Http2) };
    let mut client =
        client_of(Upstream::with_timeouts(&application, Timeouts::default(), &AnyFile).unwrap()).await;
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_until(&mut stream, "SM\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await.unwrap();
        stream
    });
    assert_eq!(ask(&mut client, post("/", Empty::new().boxed())).await.status(), 502);
    serving.await.unwrap();
}

/// The application has answered and gives the request no window: it neither reads nor resets.
#[tokio::test]
async fn the_rest_of_an_answered_request_ends_soon_without_a_window() {
    let (place, listener) = super::application().await;
    let application = Application { place, tls: None, protocol: Some(UpstreamProtocol::Http2) };
    let upstream = Upstream::with_timeouts(&application, Timeouts::default(), &AnyFile).unwrap();
    let permits = upstream.request_limit.clone();
    let mut client = hop(upstream, tls()).await;
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").await.unwrap();
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        respond.send_response(Response::builder().status(413).body(()).unwrap(), true).unwrap();
        let ended = connection.accept().await;
        drop(request);
        assert!(!matches!(ended, Some(Ok(_))));
    };
    let asking = async {
        let _ = client.write_all(&vec![b'x'; 1_000_000]).await;
        read_until(&mut client, "\r\n\r\n").await
    };
    let both = async { tokio::join!(serving, asking) };
    let ((), got) = timeout(DEADLINE, both).await.expect("in time");
    assert!(got.starts_with("HTTP/1.1 413 "), "{got}");
    all_are_free(&permits).await;
}
