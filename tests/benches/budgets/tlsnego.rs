//! The gateway for SOAP clients: negotiations and secured calls, beside the TLS handshake alone.

use crate::cores::apart;
use crate::generator::together;
use crate::table::Table;
use crate::{cpu, least};
use dtyp::FileTime;
use rcmpd_tests::{Demo, Service};
use rustix::time::{ClockId, clock_gettime};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::version::TLS12;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tlsnego_service::freshness::Skew;
use tlsnego_service::{Moment, TlsVersions, negotiation};
use tlsnego_soap::TrustVersion;
use tlsnego_soap::client::Client;
use tlsnego_tokio::client::{Answer, Bootstrap, Caller, ServerCertificates, Settings};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;
use xml_security::{ParseLimits, Suite, UsernameToken};

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
    format!("<{name} xmlns=\"urn:echo\">{}</{name}>", "x".repeat(BODY_LEN))
}

fn envelope(name: &str) -> String {
    let soap = "http://www.w3.org/2003/05/soap-envelope";
    format!("<s:Envelope xmlns:s=\"{soap}\"><s:Body>{}</s:Body></s:Envelope>", content(name))
}

fn caller(service: &Service, establish: bool) -> Caller {
    let url = format!("http://{}/service", service.gateway());
    let client = Client {
        to: url.clone(),
        suite: Suite::BASIC256,
        version: TrustVersion::February2005,
        skew: Skew::default(),
        limits: ParseLimits::default(),
        random: Arc::new(|octets: &mut [u8]| getrandom::fill(octets).unwrap()),
        trace: None,
    };
    let tls = negotiation::Client::new(None, TlsVersions::Tls12).unwrap();
    let settings = Settings {
        url: url.parse().unwrap(),
        https: None,
        client,
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
    for (establish, what) in
        [(true, "of a session"), (false, "under a negotiated token, with a cached password")]
    {
        let each = least(async || calls(&service, establish, CONNECTIONS, CALLS).await.0).await;
        let what = format!(
            "secured call {what}, {BODY_LEN} octets there and back, {CONNECTIONS} connections, server CPU with HTTP"
        );
        table.row(&what, each, "µs", Some(150.0));
    }
    drop(service);
    cookies(table).await;
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
    let body =
        format!("<s:Body xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\">{}</s:Body>", content("Echo"));
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
