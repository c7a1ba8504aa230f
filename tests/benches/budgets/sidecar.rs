//! What a sidecar costs: nginx that asks it, beside nginx that asks an upstream which only ever answers 204,
//! with the same configuration, in one run. All processes share one core, and the cost is that of all of them
//! together; the clients have the other core.

use crate::cores::apart;
use crate::table::Table;
use crate::{cpu_ns, least};
use rcmpd_tests::Demo;
use rcmpd_tests::web::{Site, WebServer};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

const CONNECTIONS: usize = 8;
const REQUESTS: usize = 16_000;
/// How the kernel knows the bare handler's thread.
const THREAD: &str = "bench-bare";
/// The least of so many turns counts; the variants take turns, so that whatever the machine does it does to
/// all of them.
const TURNS: usize = 5;

/// An upstream that only answers 204, as one writes it with axum.
struct Bare {
    socket: PathBuf,
    runtime: Option<Runtime>,
}

impl Bare {
    fn serve(socket: PathBuf) -> Self {
        let runtime = apart(|| {
            Builder::new_multi_thread().worker_threads(1).thread_name(THREAD).enable_all().build().unwrap()
        });
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        fs::set_permissions(&socket, mode).unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::UnixListener::from_std(listener).unwrap();
            let router = axum::Router::new().fallback(async || axum::http::StatusCode::NO_CONTENT);
            axum::serve(listener, router).await.unwrap();
        });
        Self { socket, runtime: Some(runtime) }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

/// nginx with something that it asks.
struct Variant {
    what: &'static str,
    budget: Option<f64>,
    site: Site,
    is_bare: bool,
    least: f64,
}

impl Variant {
    fn cpu(&self) -> u64 {
        let asked = match self.is_bare {
            true => cpu_ns(std::process::id(), THREAD),
            false => cpu_ns(self.site.service.pid(), ""),
        };
        self.site.processes().into_iter().map(|process| cpu_ns(process, "")).sum::<u64>() + asked
    }
}

pub(crate) async fn measure(table: &mut Table) {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let bare = Bare::serve(folder.path().join("bare.sock"));
    let site = |more: &str, socket: Option<&Path>| {
        let change = |text: String| {
            // What nginx does for itself is the least it can: a pixel.
            let text = text.replace("proxy_pass http://rcmpd_application_localhost;", "empty_gif;");
            // By default it ends a connection after a thousand requests.
            let text = text.replace("keepalive 16;", "keepalive 16;\n    keepalive_requests 1000000;");
            let text = text
                .replace("underscores_in_headers", "keepalive_requests 1000000;\n    underscores_in_headers");
            match socket {
                Some(socket) => {
                    let at = text.find("server unix:").unwrap();
                    let end = at + text[at..].find(';').unwrap();
                    format!("{}server unix:{}{}", &text[..at], socket.display(), &text[end..])
                }
                None => text,
            }
        };
        apart(|| Site::start_by(WebServer::Nginx, more, change, &[("TOKIO_WORKER_THREADS", "1")]))
    };
    let mut variants = vec![
        Variant {
            what: "an upstream that only answers 204",
            budget: None,
            site: site("", Some(&bare.socket)),
            is_bare: true,
            least: f64::INFINITY,
        },
        Variant {
            what: "the sidecar, decision cached",
            budget: Some(1.2),
            site: site("", None),
            is_bare: false,
            least: f64::INFINITY,
        },
        Variant {
            what: "the sidecar, decision made from the embedded store",
            budget: Some(2.0),
            site: site("remember_s = 0", None),
            is_bare: false,
            least: f64::INFINITY,
        },
    ];
    for _ in 0..TURNS {
        for variant in &mut variants {
            let connections = clients(&variant.site).await;
            let before = variant.cpu();
            exchange(connections, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
            variant.least = variant.least.min((variant.cpu() - before) as f64 / 1000.0 / REQUESTS as f64);
        }
    }
    let base = variants[0].least;
    for variant in &variants {
        let what =
            format!("request over nginx and {}, all processes, {CONNECTIONS} connections", variant.what);
        table.row(&what, variant.least, "µs", None);
    }
    for variant in &variants[1..] {
        table.row(
            &format!("nginx and {}, times nginx and the 204", variant.what),
            variant.least / base,
            "",
            variant.budget,
        );
    }
    alone(table, &bare, &variants).await;
}

/// The same without nginx: what the sidecar itself takes, beside the bare handler.
async fn alone(table: &mut Table, bare: &Bare, variants: &[Variant]) {
    let request = |demo: &Demo| {
        let certificate = fs::read(demo.path("certs/alice.pem")).unwrap();
        let escaped = certificate.iter().fold(String::new(), |text, byte| match byte {
            b'\n' | b' ' | b'+' | b'/' | b'=' => text + &format!("%{byte:02X}"),
            byte => text + &char::from(*byte).to_string(),
        });
        format!(
            "GET / HTTP/1.1\r\nHost: rcmpd-sidecar\r\nX-Original-Host: localhost\r\nX-Original-URI: /\r\nSSL-Client-Verify: SUCCESS\r\nSSL-Client-Cert: {escaped}\r\n\r\n"
        )
    };
    for (at, what) in
        [(0, "a bare axum handler"), (1, "the sidecar, decision cached"), (2, "the sidecar, decision made")]
    {
        let variant = &variants[at];
        let socket =
            if variant.is_bare { bare.socket.clone() } else { variant.site.service.path("sidecar.sock") };
        answers(table, what, &socket, &request(&variant.site.service), || variant.cpu()).await;
    }
    // The one that asks, and the service that is asked.
    let service = &variants[1].site.service;
    let asking =
        apart(|| Demo::web(service, "", "remember_s = 0").serve_bare_with(&[("TOKIO_WORKER_THREADS", "1")]));
    answers(
        table,
        "the sidecar, decision made by a service over Netlogon, both",
        &asking.path("nginx.sock"),
        &request(service),
        || cpu_ns(asking.pid(), "") + cpu_ns(service.pid(), ""),
    )
    .await;
}

async fn answers(table: &mut Table, what: &str, socket: &Path, request: &str, cpu: impl Fn() -> u64) {
    let each = least(async || {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(UnixStream::connect(socket).await.unwrap());
        }
        let before = cpu();
        exchange(connections, request.as_bytes()).await;
        (cpu() - before) as f64 / 1000.0 / REQUESTS as f64
    });
    table.row(
        &format!("answer of {what} on a Unix socket, {CONNECTIONS} connections"),
        each.await,
        "µs",
        None,
    );
}

/// Connections with alice's certificate.
async fn clients(site: &Site) -> Vec<tokio_rustls::client::TlsStream<TcpStream>> {
    let pem = |name: &str| fs::read(site.service.path(&format!("certs/{name}"))).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem("ca.pem")).unwrap()).unwrap();
    let certificate = CertificateDer::from_pem_slice(&pem("alice.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&pem("alice.key")).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(site.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        // The first request brings everything into being.
        ask(&mut stream, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", &mut Vec::new()).await;
        connections.push(stream);
    }
    connections
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(connections: Vec<S>, request: &[u8]) {
    let each = REQUESTS / connections.len();
    let tasks = connections.into_iter().map(|mut stream| async move {
        let mut buffer = Vec::with_capacity(8192);
        for _ in 0..each {
            ask(&mut stream, request, &mut buffer).await;
        }
    });
    crate::generator::together(tasks).await;
}

/// One request and its answer, which must be a good one.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, request: &[u8], buffer: &mut Vec<u8>) {
    stream.write_all(request).await.unwrap();
    buffer.clear();
    loop {
        assert_ne!(stream.read_buf(buffer).await.unwrap(), 0, "the server ends the connection");
        let Some(head) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let text = str::from_utf8(&buffer[..head]).unwrap();
        assert!(text.starts_with("HTTP/1.1 20"), "{text}");
        let length = text
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if buffer.len() >= head + 4 + length.unwrap_or(0) {
            return;
        }
    }
}
