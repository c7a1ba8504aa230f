//! An application that answers with the request that it got, the TLS-terminating proxy in front of it, and
//! clients with certificates that are made here.

use super::super::*;
use crate::client_verifier::ClientVerifier;
use crate::files::test::AnyFile;
use crate::settings::{Application, UpstreamPlace};
use account_store::BoxFuture;
use dtyp::FileTime;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper::server::conn::http1;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rcmp_service::Reason;
use rcmp_service::trust::{Parts as TrustParts, Trust};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sidecar::headers::Format;
use sidecar::routes::Routes;
use sidecar::{Assurance, DecisionInputs, Identify, Identity, Moment, NoSpans, Parts};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// Nothing that is waited for in a test takes longer, unless it hangs.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

pub(super) type SendRequest = http2::SendRequest<Full<Bytes>>;
pub(super) type Stream = tokio_rustls::client::TlsStream<TcpStream>;

/// Maps every certificate to the account that the test wants.
pub(super) struct Oracle {
    refusal: Mutex<Result<(), Refusal>>,
    pub(super) panics: AtomicBool,
}

impl Oracle {
    pub(super) fn says(&self, refusal: Result<(), Refusal>) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
    }
}

impl Identify for Oracle {
    fn decision_inputs(&self, _: &ClientCertificate, _: FileTime) -> Result<DecisionInputs, Refusal> {
        assert!(!self.panics.load(Ordering::SeqCst), "as the test wants it");
        (*self.refusal.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(DecisionInputs {
            path: None,
            policy_revision: 1,
            store_revision: account_store::Revision::FIXED,
            is_settled: true,
        })
    }

    fn identify<'a>(
        &'a self,
        presented: &'a ClientCertificate,
        _: &'a str,
        _: Option<SocketAddr>,
        _: FileTime,
    ) -> BoxFuture<'a, Result<Identity, Refusal>> {
        let is_alice = presented.leaf.windows(5).any(|name| name == b"alice");
        let identity = Identity {
            domain: "CONTOSO".to_owned(),
            is_ours: true,
            account: "alice".to_owned(),
            upn: None,
            full_name: None,
            mail: None,
            sid: "S-1-5-21-1-2-3-1000".parse().unwrap(),
            groups: Vec::new(),
            method: None,
            assurance: Assurance::Weak,
            policy_revision: 1,
            stale_s: None,
            not_after: FileTime::NEVER,
        };
        Box::pin(
            async move { is_alice.then_some(identity).ok_or(Refusal::NotMapped(Reason::NoMatch.into())) },
        )
    }
}

/// A certificate with its key, and the files that hold them.
pub(super) struct Owned {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: Vec<u8>,
    pub(super) files: (PathBuf, PathBuf),
}

pub(super) struct Scene {
    pub(super) front: Arc<Front>,
    pub(super) address: SocketAddr,
    pub(super) oracle: Arc<Oracle>,
    /// Requests that reached the application.
    pub(super) asked: Arc<AtomicUsize>,
    /// Lets the application answer `/held`.
    pub(super) release: Arc<Notify>,
    pub(super) shutdown: CancellationToken,
    pub(super) serving: JoinHandle<()>,
    pub(super) alice: Owned,
    pub(super) ca: (CertificateDer<'static>, PathBuf),
    server: Owned,
    _folder: tempfile::TempDir,
}

impl Scene {
    pub(super) async fn new() -> Self {
        Self::with(Routes::default(), false, Timeouts::default()).await
    }

    /// A proxy with short timeouts.
    pub(super) async fn impatient(timeouts: Timeouts) -> Self {
        Self::with(Routes::default(), false, timeouts).await
    }

    /// A proxy that asks for certificates, and serves clients without one.
    pub(super) async fn optional(routes: Routes) -> Self {
        Self::with(routes, true, Timeouts::default()).await
    }

    async fn with(routes: Routes, optional: bool, timeouts: Timeouts) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Test authority");
        let certificate = params.self_signed(&key).unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, certificate.pem()).unwrap();
        let ca = (certificate.der().clone(), path);
        let issuer = Issuer::new(params, key);
        let issue = |name: &str, usage, names: Vec<SanType>| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![usage];
            params.subject_alt_names = names;
            let certificate = params.signed_by(&key, &issuer).unwrap();
            let file = |kind: &str| folder.path().join(format!("{name}.{kind}"));
            std::fs::write(file("pem"), certificate.pem()).unwrap();
            std::fs::write(file("key"), key.serialize_pem()).unwrap();
            std::fs::set_permissions(file("key"), std::fs::Permissions::from_mode(0o600)).unwrap();
            let files = (file("pem"), file("key"));
            Owned { certificate: certificate.der().clone(), key: key.serialize_der(), files }
        };
        let names = vec![
            SanType::DnsName("localhost".try_into().unwrap()),
            SanType::IpAddress(IpAddr::from([127, 0, 0, 1])),
        ];
        let server = issue("server", ExtendedKeyUsagePurpose::ServerAuth, names);
        let alice = issue("alice", ExtendedKeyUsagePurpose::ClientAuth, Vec::new());

        let oracle = Arc::new(Oracle { refusal: Mutex::new(Ok(())), panics: AtomicBool::new(false) });
        let sidecar = Sidecar::new(Parts {
            spans: Arc::new(NoSpans),
            identify: Arc::clone(&oracle) as _,
            routes,
            format: Format::default(),
            token: None,
            tickets: None,
            references: None,
            remember: Duration::from_secs(60),
            remembered_max: 16,
        });
        let (asked, release) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let place = application(Arc::clone(&asked), Arc::clone(&release)).await;
        let tls_settings = tls_settings(&server, &ca.0, optional);
        let upstream =
            Upstream::with_timeouts(&Application { place, tls: None, protocol: None }, timeouts, &AnyFile)
                .unwrap();
        let front =
            Front::new(Arc::new(ArcSwap::from_pointee(sidecar)), Arc::new(upstream), tls_settings, moment);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(Arc::clone(&front).serve(listener, shutdown.clone()));
        Self { front, address, oracle, asked, release, shutdown, serving, alice, ca, server, _folder: folder }
    }

    pub(super) fn tls_settings(&self, optional: bool) -> TlsSettings {
        tls_settings(&self.server, &self.ca.0, optional)
    }

    /// A client's side of TLS.
    pub(super) fn client(&self, owned: Option<&Owned>, protocols: &[&[u8]]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.0.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match owned {
            None => builder.with_no_client_auth(),
            Some(owned) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(owned.key.clone()));
                builder.with_client_auth_cert(vec![owned.certificate.clone()], key).unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }

    pub(super) async fn connect(&self, name: &str, owned: Option<&Owned>) -> io::Result<Stream> {
        self.connect_with(name, owned, &[]).await
    }

    pub(super) async fn connect_with(
        &self,
        name: &str,
        owned: Option<&Owned>,
        protocols: &[&[u8]],
    ) -> io::Result<Stream> {
        self.handshake(name, self.client(owned, protocols)).await
    }

    pub(super) async fn connect_as(&self, client: &Arc<ClientConfig>) -> io::Result<Stream> {
        self.handshake("localhost", Arc::clone(client)).await
    }

    async fn handshake(&self, name: &str, client: Arc<ClientConfig>) -> io::Result<Stream> {
        let stream = TcpStream::connect(self.address).await?;
        let name = name.to_owned().try_into().unwrap();
        timeout(DEADLINE, TlsConnector::from(client).connect(name, stream)).await.expect("in time")
    }

    /// Whether the first and the second of two connections are resumed.
    pub(super) async fn resumed(&self, client: &Arc<ClientConfig>) -> [bool; 2] {
        let mut resumed = [false; 2];
        for resumed in &mut resumed {
            let mut stream = self.connect_as(client).await.unwrap();
            // Tickets come with the first bytes.
            stream
                .write_all(b"GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .await
                .unwrap();
            assert!(read_answer(&mut stream).await.starts_with("HTTP/1.1 200 "));
            *resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        }
        resumed
    }

    /// What is answered to a request that says it is the last.
    pub(super) async fn ask(&self, name: &str, owned: Option<&Owned>, request: &str) -> String {
        let mut stream = self.connect(name, owned).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A client that sends on is cut off.
        let _ = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("in time");
        String::from_utf8(answer).unwrap()
    }

    pub(super) async fn get(&self, name: &str, owned: Option<&Owned>, fields: &str) -> String {
        let request = format!("GET /x HTTP/1.1\r\nHost: {name}\r\n{fields}Connection: close\r\n\r\n");
        self.ask(name, owned, &request).await
    }

    /// Speaks HTTP/2, with so much room for each answer.
    pub(super) async fn http2(&self, window: u32) -> (SendRequest, JoinHandle<hyper::Result<()>>) {
        let stream = self.connect_with("localhost", Some(&self.alice), &[b"h2"]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(window);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        (sender, tokio::spawn(connection))
    }

    /// Waits until so many of the application's permits are free.
    pub(super) async fn until_free(&self, free: usize) {
        let all = async {
            while self.front.upstream.free() != free {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(DEADLINE, all).await.expect("in time");
    }

    pub(super) async fn until_asked(&self, times: usize) {
        let asked = async {
            while self.asked.load(Ordering::SeqCst) < times {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, asked).await.expect("in time");
    }
}

/// The time since the first call stands for that of the system.
fn moment() -> Moment {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    Moment { wall: SystemTime::now().into(), uptime: BEGUN.elapsed() }
}

fn tls_settings(server: &Owned, anchor: &CertificateDer<'_>, optional: bool) -> TlsSettings {
    let anchors = [anchor.to_vec()];
    let trust = Trust::new(TrustParts { anchors: anchors.to_vec(), ..TrustParts::default() }).unwrap();
    let verifier = {
        let trust = Arc::new(trust);
        ClientVerifier::new(Box::new(move || Some(Arc::clone(&trust))), &anchors, optional)
    };
    let config = server_config((&server.files.0, &server.files.1), &AnyFile, verifier).unwrap();
    TlsSettings::new(config, optional)
}

/// An answer with the length that its head tells.
pub(super) async fn read_answer(stream: &mut Stream) -> String {
    let read = async {
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            read.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(read).unwrap();
        let len = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; len.parse().unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        head + str::from_utf8(&body).unwrap()
    };
    timeout(DEADLINE, read).await.expect("in time")
}

pub(super) fn body_of(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

/// Pieces in which `/big` comes.
const PIECE: Bytes = Bytes::from_static(&[b'x'; 64 << 10]);

/// Answers with what it was asked; `/big/N` with N pieces of 64 KiB, `/count` with the length of the body,
/// `/trailers` with its trailers, `/held` when it may.
async fn application(asked: Arc<AtomicUsize>, release: Arc<Notify>) -> UpstreamPlace {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = UpstreamPlace::Tcp(listener.local_addr().unwrap().to_string());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (asked, release) = (Arc::clone(&asked), Arc::clone(&release));
            let service = service_fn(move |request: Request<Incoming>| {
                let (asked, release) = (Arc::clone(&asked), Arc::clone(&release));
                async move {
                    asked.fetch_add(1, Ordering::SeqCst);
                    let path = request.uri().path().to_owned();
                    if path == "/held" {
                        release.notified().await;
                    }
                    let pieces = path.strip_prefix("/big/").map(|pieces| pieces.parse().unwrap());
                    if let Some(pieces) = pieces {
                        let pieces = std::iter::repeat_n(PIECE, pieces);
                        let pieces = pieces.map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
                        let body = StreamBody::new(futures_util::stream::iter(pieces));
                        return Ok::<_, hyper::Error>(Response::new(BodyExt::boxed_unsync(body)));
                    }
                    let mut text =
                        format!("{} {} {:?}\n", request.method(), request.uri(), request.version());
                    for (name, value) in request.headers() {
                        text += &format!("{name}: {}\n", value.to_str().unwrap());
                    }
                    if path == "/trailers" {
                        let collected = request.into_body().collect().await?;
                        let trailers = collected.trailers().into_iter().flatten();
                        text = trailers.map(|(name, value)| format!("{name}: {value:?}\n")).collect();
                    } else if path == "/count" {
                        let mut body = request.into_body();
                        let mut len = 0;
                        while let Some(frame) = body.frame().await {
                            len += frame?.into_data().map_or(0, |data| data.len());
                        }
                        text = format!("{len}\n");
                    }
                    Ok(Response::new(Full::from(text).boxed_unsync()))
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    place
}
