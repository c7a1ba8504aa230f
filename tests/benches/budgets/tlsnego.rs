//! The gateway for SOAP clients: negotiations and secured calls, beside the TLS handshake alone.

use crate::cores::apart;
use crate::generator::together;
use crate::kernels::us;
use crate::table::Table;
use crate::{cpu, least};
use aes::Aes256;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cbc::cipher::array::Array;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use dtyp::FileTime;
use hmac::{Hmac, KeyInit, Mac};
use rcmpd_tests::soap::open_all_bindings;
use rcmpd_tests::{Demo, Service};
use rustix::time::{ClockId, clock_gettime};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::version::TLS12;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sha1::Sha1;
use std::fs;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tlsnego_service::freshness::Skew;
use tlsnego_service::{Moment, TlsVersions, negotiation};
use tlsnego_soap::TrustVersion;
use tlsnego_soap::client::{Client, Proof, Under};
use tlsnego_soap::trace::{Traced, Tracer};
use tlsnego_tokio::client::{Answer, Bootstrap, Caller, ServerCertificates, Settings};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;
use xml_security::{Certificate, ParseLimits, Suite, UsernameToken};

const CONNECTIONS: usize = 8;
const CALLS: usize = 1_600;
const NEGOTIATIONS: usize = 2_000;
const HANDSHAKES: usize = 400;
/// Octets in the body of a call.
const BODY_LEN: usize = 2 << 10;

/// The certificate of the demo, whatever it is.
struct Any;

impl ServerCertificates for Any {
    fn check(&self, _: &[CertificateDer<'static>]) -> Result<(), String> {
        Ok(())
    }
}

fn moment() -> Moment {
    let wall = SystemTime::now();
    let uptime = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Moment { wall: FileTime::from(wall), uptime }
}

/// A service that answers each call with a body of the same length. Its time is not counted.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let body = envelope("EchoResponse");
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/soap+xml\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = answer.clone();
            std::thread::spawn(move || serve(&stream.unwrap(), &answer));
        }
    });
    address
}

fn serve(stream: &TcpStream, answer: &str) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut len, mut line) = (0, String::new());
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                len = value.trim().parse().ok()?;
            }
        }
        reader.read_exact(&mut vec![0; len]).ok()?;
        (&*stream).write_all(answer.as_bytes()).ok()?;
    }
}

fn content(name: &str) -> String {
    content_of(name, BODY_LEN)
}

fn content_of(name: &str, len: usize) -> String {
    format!("<{name} xmlns=\"urn:echo\">{}</{name}>", "x".repeat(len))
}

/// The body of a call.
fn body_of(len: usize) -> String {
    let soap = "http://www.w3.org/2003/05/soap-envelope";
    format!("<s:Body xmlns:s=\"{soap}\">{}</s:Body>", content_of("Echo", len))
}

fn envelope(name: &str) -> String {
    let soap = "http://www.w3.org/2003/05/soap-envelope";
    format!("<s:Envelope xmlns:s=\"{soap}\"><s:Body>{}</s:Body></s:Envelope>", content(name))
}

fn url(service: &Service) -> String {
    format!("http://{}/service", service.gateway())
}

fn client(service: &Service, trace: Option<Tracer>) -> Client {
    Client {
        to: url(service),
        suite: Suite::BASIC256,
        version: TrustVersion::February2005,
        skew: Skew::default(),
        limits: ParseLimits::default(),
        random: Arc::new(|octets: &mut [u8]| getrandom::fill(octets).unwrap()),
        trace,
    }
}

fn caller(service: &Service, establish: bool) -> Caller {
    traced(service, establish, None)
}

fn traced(service: &Service, establish: bool, trace: Option<Tracer>) -> Caller {
    let tls = negotiation::Client::new(None, TlsVersions::Tls12).unwrap();
    let settings = Settings {
        url: url(service).parse().unwrap(),
        https: None,
        client: client(service, trace),
        bootstrap: Bootstrap::Negotiate { tls, certificates: Box::new(Any) },
        establish,
        username: Some(UsernameToken {
            username: "alice".to_owned(),
            password: service.password("alice").into(),
        }),
        timeout: Duration::from_secs(60),
        headers: http::HeaderMap::new(),
    };
    Caller::new(settings, moment)
}

pub(crate) async fn measure(table: &mut Table) {
    let demo = Demo::with_gateway(upstream(), "");
    let service = apart(|| demo.serve_with(&[("TOKIO_WORKER_THREADS", "1")]));
    let config = tls_client(&service);
    let in_memory = handshakes(&service, &config);
    table.row("TLS 1.2 handshake of the gateway's certificate in memory, server side", in_memory, "µs", None);
    let handshake = connections().await;
    let what = format!("TLS 1.2 connection to the gateway, {CONNECTIONS} at once, server CPU");
    table.row(&what, handshake, "µs", None);
    let each = least(async || {
        let before = cpu(service.pid(), "");
        together((0..CONNECTIONS).map(|_| async {
            for _ in 0..NEGOTIATIONS / CONNECTIONS {
                caller(&service, false).open().await.unwrap();
            }
        }))
        .await;
        cpu(service.pid(), "").since(&before) as f64 / 1000.0 / NEGOTIATIONS as f64
    });
    let each = each.await;
    let what = format!("TLSNEGO negotiation, {CONNECTIONS} at once, server CPU");
    table.row(&what, each, "µs", None);
    table.row("a negotiation, times the TLS connection", each / handshake, "", Some(1.5));
    table.row("a negotiation, times the handshake in memory", each / in_memory, "", None);
    let raw = raw();
    let what = format!("AES-256-CBC and HMAC-SHA-1 alone, {BODY_LEN} octets there and back");
    table.row(&what, raw, "µs", None);
    for (establish, what) in
        [(true, "of a session"), (false, "under a negotiated token, with a cached password")]
    {
        let each = least(async || calls(&service, establish, CONNECTIONS, CALLS).await.0).await;
        let what = format!(
            "secured call {what}, {BODY_LEN} octets there and back, {CONNECTIONS} connections, server CPU with HTTP"
        );
        table.row(&what, each, "µs", Some(150.0));
    }
    overhead(table, &service).await;
    drop(service);
    refusals(table);
    cookies(table).await;
}

/// The cipher and the HMAC of a call, over its body there and back, by the crates that the gateway uses.
fn raw() -> f64 {
    let (key, vector, mut body) = ([1; 32], [2; 16], vec![3; BODY_LEN]);
    let mac = |octets: &[u8]| Hmac::<Sha1>::new_from_slice(&key).unwrap().chain_update(octets).finalize();
    us(|| {
        let mut there = cbc::Decryptor::<Aes256>::new(&key.into(), &vector.into());
        there.decrypt_blocks(Array::slice_as_chunks_mut(black_box(&mut body)).0);
        black_box(mac(&body));
        black_box(mac(&body));
        let mut back = cbc::Encryptor::<Aes256>::new(&key.into(), &vector.into());
        back.encrypt_blocks(Array::slice_as_chunks_mut(black_box(&mut body)).0);
    })
}

/// What message security adds to a body on the wire, without HTTP.
async fn overhead(table: &mut Table, service: &Service) {
    for len in [BODY_LEN, 60_000] {
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&sent);
        let trace: Tracer = Arc::new(move |traced| {
            if let Traced::Sent(message) = traced
                && message.action == "urn:echo"
            {
                counter.store(message.len, Ordering::Relaxed);
            }
        });
        let body = body_of(len);
        call(&mut traced(service, true, Some(trace)), body.as_bytes()).await;
        let more = sent.load(Ordering::Relaxed) - body.len();
        let what = format!("a call of a session on the wire, octets beyond its body of {len}");
        table.row(&what, more as f64, "", None);
    }
}

/// What is changed in a one-shot message.
const CHANGES: [&str; 3] = ["bad key", "bad padding", "bad digest"];
const REFUSALS: usize = 300;

/// How long the gateway takes to refuse changed messages, each with a key of its own. The time must not tell
/// what is wrong.
fn refusals(table: &mut Table) {
    let demo = Demo::with_gateway(upstream(), "");
    open_all_bindings(&demo, "none");
    let service = apart(|| demo.serve_with(&[("TOKIO_WORKER_THREADS", "1")]));
    let certificate = fs::read(service.path("certs/site.rsa.pem")).unwrap();
    let certificate = CertificateDer::from_pem_slice(&certificate).unwrap();
    let certificate = Certificate::from_der(&certificate).unwrap();
    let mut stream = BufReader::new(TcpStream::connect(service.gateway()).unwrap());
    stream.get_ref().set_nodelay(true).unwrap();
    let one_shot = || {
        let body = body_of(BODY_LEN).replacen("<Echo", "<first/><Echo", 1);
        let request = ("urn:echo", body.as_bytes());
        let now = moment().wall;
        let (octets, _) =
            client(&service, None).call(Under::Certificate(&certificate), Proof::None, request, now).unwrap();
        String::from_utf8(octets).unwrap()
    };
    assert_eq!(post(&mut stream, &one_shot()), 200, "what is not changed is answered");
    let mut times = CHANGES.map(|_| Vec::new());
    for _ in 0..REFUSALS {
        for (change, times) in CHANGES.iter().zip(&mut times) {
            let message = changed(&one_shot(), change);
            let started = Instant::now();
            assert_eq!(post(&mut stream, &message), 500, "{change}");
            times.push(started.elapsed().as_secs_f64() * 1e6);
        }
    }
    for times in &mut times {
        times.sort_unstable_by(f64::total_cmp);
    }
    let at = |share: f64| times.each_ref().map(|times| times[(share * (REFUSALS - 1) as f64) as usize]);
    let (medians, low, high) = (at(0.5), at(0.1), at(0.9));
    for (change, median) in CHANGES.iter().zip(medians) {
        let what = format!("refusal of a one-shot message ({change}), median of {REFUSALS}, wall with HTTP");
        table.row(&what, median, "µs", None);
    }
    let most = |of: [f64; 3]| of.into_iter().fold(0.0, f64::max);
    let least = |of: [f64; 3]| of.into_iter().fold(f64::INFINITY, f64::min);
    table.row("largest difference of these medians", most(medians) - least(medians), "µs", None);
    table.row("from 10 to 90 of 100 such refusals, common to all three", least(high) - most(low), "µs", None);
}

/// Changes one octet of what is encrypted.
fn changed(message: &str, change: &str) -> String {
    let end = match change {
        // The first value is the wrapped key, and the last one is the body.
        "bad key" => message.find("</e:CipherValue>"),
        _ => message.rfind("</e:CipherValue>"),
    };
    let end = end.unwrap();
    let start = message[..end].rfind('>').unwrap() + 1;
    let mut octets = STANDARD.decode(&message[start..end]).unwrap();
    let last = octets.len() - 1;
    match change {
        "bad key" => octets[last / 2] ^= 1,
        // The last octet of the block before the last one changes the length of the padding.
        "bad padding" => octets[last - 16] ^= 0x80,
        // The vector changes the first block alone: a letter of `<first/>`.
        _ => octets[2] ^= 1,
    }
    format!("{}{}{}", &message[..start], STANDARD.encode(octets), &message[end..])
}

/// Posts a message, reads the whole answer, and returns its status.
fn post(stream: &mut BufReader<TcpStream>, message: &str) -> u16 {
    let request = format!(
        "POST /service HTTP/1.1\r\nHost: a\r\nContent-Type: application/soap+xml\r\nContent-Length: {}\r\n\r\n{message}",
        message.len()
    );
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    let (mut line, mut status, mut len) = (String::new(), 0, 0);
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line).unwrap();
        if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
            status = rest[..3].parse().unwrap();
        } else if let Some(value) = line.strip_prefix("content-length: ") {
            len = value.trim().parse().unwrap();
        }
    }
    stream.read_exact(&mut vec![0; len]).unwrap();
    status
}

/// Sessions in cookies: each call waits for the disk, and calls that come together wait together.
async fn cookies(table: &mut Table) {
    let demo = Demo::with_gateway(upstream(), "");
    demo.rcmpd(&["sidecar", "ticket-key", "farm-1.key", "--generation", "1"]).code(0);
    demo.configure(
        "[tlsnego.cookie]\nkeys = [\"file:farm-1.key\"]\naudience = \"bench.example\"\nstore = \"sessions.db\"",
    );
    let service = apart(|| demo.serve_with(&[("TOKIO_WORKER_THREADS", "1")]));
    for connections in [1, CONNECTIONS, 8 * CONNECTIONS] {
        let (cpu, wall) = calls(&service, true, connections, 200 * connections.min(CONNECTIONS)).await;
        let what =
            format!("secured call of a session in a cookie, {BODY_LEN} octets, {connections} connections");
        table.row(&format!("{what}, server CPU with HTTP"), cpu, "µs", None);
        table.row(&format!("{what}, wall"), wall, "µs", None);
    }
}

/// Processor time of the server, and time, of each call.
async fn calls(service: &Service, establish: bool, connections: usize, calls: usize) -> (f64, f64) {
    let body = body_of(BODY_LEN);
    let body = body.as_bytes();
    let mut callers = Vec::new();
    for _ in 0..connections {
        let mut caller = caller(service, establish);
        call(&mut caller, body).await;
        callers.push(caller);
    }
    let (before, started) = (cpu(service.pid(), ""), Instant::now());
    together(callers.into_iter().map(|mut caller| async move {
        for _ in 0..calls / connections {
            call(&mut caller, body).await;
        }
    }))
    .await;
    let wall = started.elapsed().as_secs_f64() * 1e6 / calls as f64;
    (cpu(service.pid(), "").since(&before) as f64 / 1000.0 / calls as f64, wall)
}

async fn call(caller: &mut Caller, body: &[u8]) {
    match caller.call("urn:echo", body).await.unwrap() {
        Answer::Reply(reply) => assert!(!reply.is_fault),
        Answer::Accepted => panic!("a reply was due"),
    }
}

/// A client of TLS 1.2 that, as a negotiation, resumes no session.
fn tls_client(demo: &Demo) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(&fs::read(demo.path("certs/ca.pem")).unwrap()).unwrap();
    roots.add(ca).unwrap();
    let mut client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.resumption = Resumption::disabled();
    Arc::new(client)
}

/// What a TLS handshake costs a gateway that speaks TLS itself, with the connection that it needs, as a
/// negotiation needs one.
async fn connections() -> f64 {
    let tls = "tls = { certificate = \"certs/site.pem\", key = \"certs/site.key\" }";
    let demo = Demo::with_gateway(upstream(), tls);
    let config = &TlsConnector::from(tls_client(&demo));
    let service = apart(|| demo.serve_with(&[("TOKIO_WORKER_THREADS", "1")]));
    let address = service.gateway();
    least(async || {
        let before = cpu(service.pid(), "");
        together((0..CONNECTIONS).map(|_| async {
            for _ in 0..NEGOTIATIONS / CONNECTIONS {
                let stream = tokio::net::TcpStream::connect(address).await.unwrap();
                let name = ServerName::try_from("localhost").unwrap();
                config.connect(name, stream).await.unwrap().shutdown().await.unwrap();
            }
        }))
        .await;
        cpu(service.pid(), "").since(&before) as f64 / 1000.0 / NEGOTIATIONS as f64
    })
    .await
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
}

/// What the server's side of a TLS handshake takes, with the same key.
fn handshakes(service: &Service, client: &Arc<ClientConfig>) -> f64 {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&fs::read(service.path("certs/site.pem")).unwrap())
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_slice(&fs::read(service.path("certs/site.key")).unwrap()).unwrap();
    let server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let server = Arc::new(server);
    let mut spent = Duration::ZERO;
    for _ in 0..HANDSHAKES {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
        let started = thread_time();
        let mut server = ServerConnection::new(Arc::clone(&server)).unwrap();
        spent += thread_time() - started;
        while client.is_handshaking() || server.is_handshaking() {
            let mut flight = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut flight).unwrap();
            }
            let started = thread_time();
            let mut flight = flight.as_slice();
            while !flight.is_empty() {
                server.read_tls(&mut flight).unwrap();
                server.process_new_packets().unwrap();
            }
            let mut answer = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut answer).unwrap();
            }
            spent += thread_time() - started;
            let mut answer = answer.as_slice();
            while !answer.is_empty() {
                client.read_tls(&mut answer).unwrap();
                client.process_new_packets().unwrap();
            }
        }
    }
    spent.as_secs_f64() * 1e6 / HANDSHAKES as f64
}
