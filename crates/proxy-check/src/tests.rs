//! Proxies with one hole each, so that every check is seen to fail, and a sound one.

#![expect(clippy::unwrap_used, reason = "tests")]

use super::wire::{Field, Framing, Head, Incoming, folded};
use super::{Check, Failed, Finding, Options, Report, Verdict, certified, check_these, identity, page};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming as Streamed;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{HandshakeKind, RootCertStore, ServerConfig};
use sidecar::Dialect;
use sidecar::headers::Meaning;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What a proxy does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hole {
    /// Nothing.
    None,
    DoublesUser,
    TellsSecret,
    LetsEverybodyIn,
    TrustsAnyAuthority,
    /// Strips headers under their own spelling only.
    KeepsUnderscores,
    KeepsOtherCase,
    KeepsSpaced,
    KeepsDoubled,
    KeepsTrailers,
    TrustsUserHeader,
    /// Takes the certificate out of a dialect's header when none was shown.
    TrustsHeader(Dialect),
    /// The same, where one was shown that the proxy rejects.
    TrustsHeaderBesideUntrusted,
    PrefersHeader,
    DropsHopByHop,
    PassesSecret,
    TrustsSecret,
    SkipsDoubleSlash,
    /// Has a location for scripts that asks nothing.
    SkipsScripts,
    /// Has a location for scripts that is asked about, and keeps what a client says.
    KeepsInScripts,
    /// Has another rule for a path that the operator names.
    SkipsPrivate,
    /// Passes on a header that moves the path.
    KeepsOriginalUrl,
    /// The same under another spelling.
    KeepsSpelledAddress,
    /// Passes on a header that the operator names.
    KeepsNamed,
    SkipsAbsolute,
    SkipsOtherHost,
    SkipsNoHost,
    /// Goes by the host of a whole URL, and tells the other one.
    KeepsHost,
    SkipsMethod(&'static str),
    SkipsExpect,
    SkipsUpgrade,
    HandsOverUpgrade,
    SkipsOldVersion,
    ForgetsResumed,
    RemembersAddress,
    /// Judges the first request of a connection only.
    JudgesFirst,
    /// Judges what comes over HTTP/1 only.
    JudgesHttp1,
    /// Takes what is behind a last chunk for a request of its own that was judged already.
    SplitsBodies,
    ServesPlain,
    ServesPlainElsewhere,
    /// A client that the other host has accepted, by whichever CA, is accepted everywhere.
    SharesSessions,
    /// Names another user after so many requests.
    Changes,
}

const HOST: &str = "app.example";

/// Certificates, made once.
struct Made {
    folder: TempDir,
    server: CertificateDer<'static>,
    server_key: Vec<u8>,
    authority: CertificateDer<'static>,
}

static MADE: LazyLock<Made> = LazyLock::new(|| {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Trial CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
    let issue = |name: &str, hosts: &[&str]| {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        write(&format!("{name}.pem"), certificate.pem());
        write(&format!("{name}.key"), key.serialize_pem());
        (certificate.der().clone(), key.serialize_der())
    };
    issue("alice", &[]);
    issue("bob", &[]);
    let (server, server_key) = issue("server", &[HOST, "other.example"]);
    write("ca.pem", authority.pem());
    let authority = authority.der().clone();
    Made { folder, server, server_key, authority }
});

fn path(name: &str) -> PathBuf {
    MADE.folder.path().join(name)
}

/// A certificate of the folder, with its key.
fn pair(name: &str) -> Arc<CertifiedKey> {
    let chain = CertificateDer::pem_file_iter(path(&format!("{name}.pem"))).unwrap().map(Result::unwrap);
    let key = PrivateKeyDer::from_pem_file(path(&format!("{name}.key"))).unwrap();
    Arc::new(certified(chain.collect(), key).unwrap())
}

/// Validates web servers by this CA.
fn trusting(name: &str) -> Arc<dyn ServerCertVerifier> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(path(name)).unwrap()).unwrap();
    WebPkiServerVerifier::builder(Arc::new(roots)).build().unwrap()
}

/// The common name of a certificate, which is all that these proxies go by.
fn common_name(certificate: &[u8]) -> &'static str {
    let has = |name: &str| certificate.windows(name.len()).any(|part| part == name.as_bytes());
    match (has("alice"), has("bob")) {
        (true, _) => "alice",
        (_, true) => "bob",
        _ => "nobody",
    }
}

/// A proxy, its sidecar and the page, in one.
#[derive(Debug)]
struct Proxy {
    hole: Hole,
    names: BTreeSet<String>,
    /// Another client was here before.
    remembers: AtomicBool,
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
struct Peer {
    /// Whose certificate was verified.
    verified: Option<&'static str>,
    /// Whether one was shown, verified or not.
    has_shown: bool,
    is_resumed: bool,
    is_plain: bool,
}

impl Proxy {
    /// The user of a request, or the status of the refusal. `None` is a request without a user.
    fn decide(&self, request: &Head, peer: Peer, number: usize) -> Result<Option<&'static str>, u16> {
        let start = String::from_utf8_lossy(&request.start).into_owned();
        let mut words = start.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap_or_default());
        let hosts: Vec<&[u8]> = request.values("host").collect();
        let skips = match self.hole {
            Hole::LetsEverybodyIn => true,
            Hole::SkipsDoubleSlash => target.starts_with("//"),
            Hole::SkipsScripts => target.ends_with(".php"),
            Hole::SkipsPrivate => target == "/private",
            Hole::SkipsAbsolute => target.starts_with("http"),
            Hole::SkipsOtherHost => hosts == [b"elsewhere.invalid"],
            Hole::SkipsNoHost => hosts.is_empty(),
            Hole::SkipsMethod(skipped) => method == skipped,
            Hole::SkipsExpect => request.values("expect").next().is_some(),
            Hole::SkipsUpgrade => request.says("connection", "upgrade"),
            Hole::SkipsOldVersion => start.ends_with("HTTP/1.0"),
            Hole::JudgesFirst => number > 0,
            Hole::JudgesHttp1 => start.ends_with("HTTP/2"),
            Hole::ServesPlain | Hole::ServesPlainElsewhere => peer.is_plain,
            Hole::TrustsUserHeader => request.values("remote-user").next().is_some(),
            Hole::TrustsSecret => request.values("x-sidecar-secret").next().is_some(),
            Hole::ForgetsResumed => peer.is_resumed,
            _ => false,
        };
        if skips {
            return Ok(None);
        }
        if self.hole == Hole::HandsOverUpgrade && request.says("upgrade", "websocket") {
            return Err(101);
        }
        // What a sound one does not understand.
        let is_odd = request.fields.iter().any(|field| field.name.trim_ascii() != field.name)
            || request.values("content-length").count() > 1
            || request.values("content-length").count() + request.values("transfer-encoding").count() > 1
            || hosts.len() != 1
            || !(target.starts_with('/') || self.hole == Hole::KeepsHost);
        if is_odd && !matches!(self.hole, Hole::KeepsSpaced | Hole::SplitsBodies) {
            return Err(400);
        }
        let claimed = Dialect::ALL.into_iter().find_map(|dialect| self.claimed(dialect, request));
        let trusted = match self.hole {
            Hole::TrustsHeader(dialect) if !peer.has_shown => self.claimed(dialect, request),
            Hole::TrustsHeaderBesideUntrusted if peer.has_shown && peer.verified.is_none() => claimed,
            Hole::PrefersHeader if peer.verified.is_some() => claimed,
            Hole::RemembersAddress if peer.is_resumed && self.remembers.load(Ordering::Acquire) => {
                Some("alice")
            }
            _ => None,
        };
        if self.hole == Hole::Changes && self.remembers.load(Ordering::Acquire) {
            return Ok(Some("bob"));
        }
        match trusted.or(peer.verified) {
            Some("nobody") => Err(403),
            Some(account) => {
                self.remembers.store(true, Ordering::Release);
                Ok(Some(account))
            }
            None if peer.has_shown => Err(403),
            None => Err(401),
        }
    }

    fn claimed(&self, dialect: Dialect, request: &Head) -> Option<&'static str> {
        let headers = request.fields.iter().filter_map(|field| {
            let name = http::HeaderName::from_bytes(&field.name).ok()?;
            Some((name, http::HeaderValue::from_bytes(&field.value).ok()?))
        });
        let presented = dialect.presented(&headers.collect()).ok()??;
        Some(common_name(&presented.leaf))
    }

    /// The request as the page gets it.
    fn forwarded(&self, mut request: Head, account: Option<&str>) -> Head {
        let is_script = request.start.windows(5).any(|part| part == b".php ");
        let is_kept = |field: &Field| {
            let name = String::from_utf8_lossy(&field.name).into_owned();
            match self.hole {
                Hole::KeepsUnderscores => name.contains('_'),
                Hole::KeepsOtherCase => name.contains('-') && name == name.to_ascii_lowercase(),
                Hole::KeepsSpaced => name != name.trim(),
                Hole::KeepsInScripts => is_script,
                Hole::KeepsNamed => folded(&field.name) == "x-webauth-user",
                _ => false,
            }
        };
        let told = BTreeSet::from(["remote-user", "x-identity-sid", "x-identity-decision"]);
        let doubled = request.values("remote-user").count() > 1;
        let dropped: Vec<String> = request
            .values("connection")
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(folded)
            .collect();
        request.fields.retain(|field| {
            let name = folded(&field.name);
            if sidecar::forwarding::NAMES.contains(&name.as_str()) {
                return match self.hole {
                    Hole::KeepsOriginalUrl => name == "x-original-url",
                    // By an address alone.
                    Hole::KeepsSpelledAddress => {
                        field.name.contains(&b'.') && field.value.first().is_some_and(u8::is_ascii_digit)
                    }
                    _ => false,
                };
            }
            match self.names.contains(&name) || name == "x-sidecar-secret" {
                true if name == "x-sidecar-secret" => self.hole == Hole::PassesSecret,
                true => is_kept(field) || self.hole == Hole::KeepsDoubled && doubled,
                false => !Dialect::ALL.iter().any(|_| sidecar::dialect::OWNED.contains(&name.as_str())),
            }
        });
        let mut add = |name: &str, value: &str| {
            let drops = self.hole == Hole::DropsHopByHop && dropped.iter().any(|dropped| dropped == name);
            if !drops {
                request.fields.push(Field { name: name.into(), value: value.into() });
            }
        };
        if let Some(account) = account {
            for name in told {
                add(name, account);
            }
            if self.hole == Hole::DoublesUser {
                add("Remote_User", account);
            }
        }
        if self.hole == Hole::TellsSecret {
            add("X-Sidecar-Secret", "the secret");
        }
        request
    }

    async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        peer: Peer,
    ) -> std::io::Result<()> {
        let mut incoming = Incoming::new(stream);
        let mut number = 0;
        while let Some(request) = incoming.head().await? {
            let decided = self.decide(&request, peer, number);
            number += 1;
            let is_last = request.says("connection", "close") || decided.is_err();
            let account = match decided {
                Ok(account) => account,
                Err(status) => {
                    let answer =
                        format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                    incoming.stream.write_all(answer.as_bytes()).await?;
                    return incoming.stream.shutdown().await;
                }
            };
            let body = incoming.body(request.framing().unwrap_or(Framing::None)).await?;
            let trailers = match self.hole {
                Hole::KeepsTrailers => body.trailers,
                _ => Vec::new(),
            };
            let request = match self.hole {
                // As the page sees what the proxy took for a body.
                Hole::SplitsBodies if number > 1 => request,
                _ => self.forwarded(request, account),
            };
            incoming.stream.write_all(&page::answer(&request, &trailers, is_last)).await?;
            if is_last {
                return incoming.stream.shutdown().await;
            }
        }
        Ok(())
    }

    async fn converse_http2(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin + Send, peer: Peer) {
        let service = service_fn(|request: http::Request<Streamed>| {
            let proxy = Arc::clone(&self);
            async move { Ok::<_, Infallible>(proxy.answer_http2(&request, peer)) }
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    }

    fn answer_http2(&self, request: &http::Request<Streamed>, peer: Peer) -> http::Response<Full<Bytes>> {
        let host = request.uri().authority().map_or("", |authority| authority.as_str());
        let path = request.uri().path_and_query().map_or("", |path| path.as_str());
        let field = |name: &str, value: &[u8]| Field { name: name.into(), value: value.into() };
        let fields = request.headers().iter().map(|(name, value)| field(name.as_str(), value.as_bytes()));
        let request = Head {
            start: format!("{} {path} HTTP/2", request.method()).into(),
            fields: std::iter::once(field("host", host.as_bytes())).chain(fields).collect(),
        };
        let answer = http::Response::builder();
        match self.decide(&request, peer, 0) {
            Err(status) => answer.status(status).body(Full::default()).unwrap(),
            Ok(account) => {
                let page = page::answer(&self.forwarded(request, account), &[], false);
                let body = page.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
                let answer = answer.header(identity::PAGE_HEADER, identity::PAGE);
                answer.body(Full::from(page[body..].to_vec())).unwrap()
            }
        }
    }

    fn acceptor(&self, protocols: &[&[u8]]) -> TlsAcceptor {
        let made = &*MADE;
        let mut roots = RootCertStore::empty();
        roots.add(made.authority.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
        let chain = vec![made.server.clone()];
        let key = PrivatePkcs8KeyDer::from(made.server_key.clone());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(Arc::new(Lenient { verifier, hole: self.hole }))
            .with_single_cert(chain, key.into())
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    async fn serve(self: Arc<Self>, listener: TcpListener) {
        let acceptor = self.acceptor(&[b"h2", b"http/1.1"]);
        while let Ok((stream, _)) = listener.accept().await {
            let (proxy, acceptor) = (Arc::clone(&self), acceptor.clone());
            tokio::spawn(async move {
                let mut first = [0];
                stream.peek(&mut first).await.unwrap();
                if first != [0x16] {
                    let peer = Peer { verified: None, has_shown: false, is_resumed: false, is_plain: true };
                    let _ = proxy.converse(stream, peer).await;
                    return;
                }
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let connection = stream.get_ref().1;
                let shown = connection.peer_certificates().and_then(<[_]>::first);
                let is_trusted = |certificate: &&CertificateDer<'_>| {
                    let at_other_host = connection.server_name() != Some(HOST);
                    let trusts = match proxy.hole {
                        Hole::TrustsAnyAuthority => true,
                        Hole::SharesSessions if at_other_host => {
                            proxy.remembers.store(true, Ordering::Release);
                            false
                        }
                        Hole::SharesSessions => proxy.remembers.load(Ordering::Acquire),
                        _ => false,
                    };
                    trusts || is_issued(certificate)
                };
                let peer = Peer {
                    verified: shown.filter(is_trusted).map(|certificate| common_name(certificate)),
                    has_shown: shown.is_some(),
                    is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
                    is_plain: false,
                };
                match connection.alpn_protocol() {
                    Some(b"h2") => proxy.converse_http2(stream, peer).await,
                    _ => _ = proxy.converse(stream, peer).await,
                }
            });
        }
    }
}

/// Whether a certificate is one of ours.
fn is_issued(certificate: &CertificateDer<'_>) -> bool {
    ["alice.pem", "bob.pem"]
        .iter()
        .any(|name| CertificateDer::from_pem_file(path(name)).unwrap() == *certificate)
}

/// Leaves certificates of other authorities to the sidecar, as `ssl_verify_client optional_no_ca` does.
#[derive(Debug)]
struct Lenient {
    verifier: Arc<dyn rustls::server::danger::ClientCertVerifier>,
    hole: Hole,
}

impl rustls::server::danger::ClientCertVerifier for Lenient {
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::server::danger::ClientCertVerified, rustls::Error> {
        match self.hole {
            Hole::TrustsAnyAuthority | Hole::TrustsHeaderBesideUntrusted | Hole::SharesSessions => {
                Ok(rustls::server::danger::ClientCertVerified::assertion())
            }
            _ => self.verifier.verify_client_cert(end_entity, intermediates, now),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

fn options(address: SocketAddr, plain: SocketAddr) -> Options {
    Options {
        url: format!("https://{HOST}:{}/", address.port()),
        connect: Some(address.to_string()),
        pair: pair("alice"),
        other: Some(pair("bob")),
        expect_user: Some("alice".to_owned()),
        verifier: Some(trusting("ca.pem")),
        other_host: Some(format!("other.example:{}", address.port())),
        presets: Vec::new(),
        headers: vec![("X-WEBAUTH-USER".to_owned(), Meaning::User)],
        paths: vec!["/private".to_owned()],
        plain_port: plain.port(),
        timeout: Duration::from_secs(30),
    }
}

/// What these checks find out about a proxy with this hole.
async fn checked(hole: Hole, checks: &[Check], change: impl FnOnce(&mut Options)) -> Report {
    let mut names = identity::names(&identity::PRESETS);
    names.insert("x-webauth-user".to_owned());
    let proxy = Arc::new(Proxy { hole, names, remembers: AtomicBool::new(false) });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = options(listener.local_addr().unwrap(), plain.local_addr().unwrap());
    change(&mut options);
    let serving = tokio::spawn(Arc::clone(&proxy).serve(listener));
    // A redirection, as plain ports should have it.
    let elsewhere = tokio::spawn(async move {
        while let Ok((stream, _)) = plain.accept().await {
            let peer = Peer { verified: None, has_shown: false, is_resumed: false, is_plain: true };
            let _ = proxy.converse(stream, peer).await;
        }
    });
    let mut told = Vec::new();
    let report =
        check_these(checks, &options, &mut |finding: &Finding| told.push(finding.check)).await.unwrap();
    assert_eq!(told, checks, "each is told as it ends");
    serving.abort();
    elsewhere.abort();
    report
}

/// A web server that says nothing but yes to alice and no to everybody else.
async fn another_page(listener: TcpListener) {
    let names = identity::names(&identity::PRESETS);
    let proxy = Proxy { hole: Hole::None, names, remembers: AtomicBool::new(false) };
    let acceptor = proxy.acceptor(&[]);
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(stream) = acceptor.accept(stream).await else { continue };
        let status =
            match stream.get_ref().1.peer_certificates().and_then(<[_]>::first).is_some_and(is_issued) {
                true => "200 OK",
                false => "401 No",
            };
        let mut incoming = Incoming::new(stream);
        let Ok(Some(_)) = incoming.head().await else { continue };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
        let _ = incoming.stream.write_all(answer.as_bytes()).await;
        let _ = incoming.stream.shutdown().await;
    }
}

fn leaks(report: &Report) -> Vec<&'static str> {
    let leaks = report.findings.iter().filter(|finding| finding.verdict == Verdict::Leak);
    leaks.map(|finding| finding.check.name()).collect()
}

#[tokio::test]
async fn a_sound_proxy_is_clean() {
    let report = checked(Hole::None, Check::ALL, |_| {}).await;
    assert_eq!((report.is_page, report.user.as_deref()), (true, Some("alice")));
    for finding in &report.findings {
        assert_eq!(finding.verdict, Verdict::Pass, "{finding:#?}");
    }
}

#[tokio::test]
async fn every_hole_is_found_by_its_check() {
    let mut seen = BTreeSet::new();
    for (hole, expected) in [
        (Hole::DoublesUser, Check::Certificate),
        (Hole::TellsSecret, Check::Certificate),
        (Hole::LetsEverybodyIn, Check::NoCertificate),
        (Hole::TrustsAnyAuthority, Check::WrongAuthority),
        (Hole::KeepsUnderscores, Check::ForgedIdentity),
        (Hole::KeepsOtherCase, Check::ForgedIdentity),
        (Hole::KeepsSpaced, Check::ForgedIdentity),
        (Hole::KeepsDoubled, Check::ForgedIdentity),
        (Hole::KeepsTrailers, Check::ForgedIdentity),
        (Hole::TrustsUserHeader, Check::ForgedIdentityAnonymous),
        (Hole::TrustsHeader(Dialect::Nginx), Check::ForgedCertificate),
        (Hole::TrustsHeader(Dialect::Traefik), Check::ForgedCertificate),
        (Hole::TrustsHeader(Dialect::Caddy), Check::ForgedCertificate),
        (Hole::TrustsHeader(Dialect::Haproxy), Check::ForgedCertificate),
        (Hole::TrustsHeader(Dialect::Apache), Check::ForgedCertificate),
        (Hole::TrustsHeader(Dialect::Envoy), Check::ForgedCertificate),
        (Hole::TrustsHeader(Dialect::ClientCert), Check::ForgedCertificate),
        (Hole::TrustsHeaderBesideUntrusted, Check::ForgedCertificateWrongAuthority),
        (Hole::PrefersHeader, Check::ForgedCertificateBeside),
        (Hole::DropsHopByHop, Check::HopByHop),
        (Hole::PassesSecret, Check::Secret),
        (Hole::TrustsSecret, Check::Secret),
        (Hole::KeepsNamed, Check::ForgedIdentity),
        (Hole::KeepsOriginalUrl, Check::ForwardingHeaders),
        (Hole::KeepsSpelledAddress, Check::ForwardingHeaders),
        (Hole::KeepsOriginalUrl, Check::Http2),
        (Hole::SkipsDoubleSlash, Check::Paths),
        (Hole::SkipsScripts, Check::Paths),
        (Hole::KeepsInScripts, Check::Paths),
        (Hole::SkipsPrivate, Check::OtherPaths),
        (Hole::SkipsAbsolute, Check::Paths),
        (Hole::SkipsOtherHost, Check::Hosts),
        (Hole::SkipsNoHost, Check::Hosts),
        (Hole::KeepsHost, Check::Hosts),
        (Hole::SkipsMethod("OPTIONS"), Check::Methods),
        (Hole::SkipsMethod("HEAD"), Check::Methods),
        (Hole::SkipsMethod("TRACE"), Check::Methods),
        (Hole::SkipsMethod("POST"), Check::Methods),
        (Hole::SkipsExpect, Check::Methods),
        (Hole::SkipsUpgrade, Check::Methods),
        (Hole::HandsOverUpgrade, Check::Methods),
        (Hole::SkipsOldVersion, Check::Methods),
        (Hole::ForgetsResumed, Check::Resumption),
        (Hole::RemembersAddress, Check::AnonymousSession),
        (Hole::JudgesFirst, Check::Pipelining),
        (Hole::SplitsBodies, Check::Pipelining),
        (Hole::JudgesHttp1, Check::Http2),
        (Hole::KeepsUnderscores, Check::Http2),
        (Hole::ServesPlain, Check::PlainHttp),
        (Hole::ServesPlainElsewhere, Check::PlainHttp),
        (Hole::SharesSessions, Check::OtherHost),
        (Hole::Changes, Check::CertificateAgain),
    ] {
        let checks: Vec<Check> = match expected {
            Check::Certificate => vec![expected],
            expected => vec![Check::Certificate, expected],
        };
        let report = checked(hole, &checks, |_| {}).await;
        assert!(leaks(&report).contains(&expected.name()), "{hole:?}: {report:#?}");
        seen.insert(expected.name());
    }
    let others = Check::ALL.iter().map(|check| check.name()).filter(|name| !seen.contains(name));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&str>::new(), "checks that were never seen to fail");
}

#[tokio::test]
async fn another_page_is_judged_by_its_status_and_nothing_is_changed_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(another_page(listener));
    let report = check_these(Check::ALL, &options(address, address), &mut |_| {}).await.unwrap();
    serving.abort();
    assert!(!report.is_page);
    let verdict = |check: Check| {
        report.findings.iter().find(|finding| finding.check == check).map(|finding| finding.verdict).unwrap()
    };
    for check in [
        Check::Certificate,
        Check::ForgedIdentity,
        Check::ForwardingHeaders,
        Check::Resumption,
        Check::CertificateAgain,
    ] {
        assert_eq!(verdict(check), Verdict::NotSeen, "{report:#?}");
    }
    assert!(!Check::Certificate.is_optional() && Check::Resumption.is_optional());
    for check in [Check::NoCertificate, Check::WrongAuthority, Check::ForgedCertificate, Check::Methods] {
        assert_eq!(verdict(check), Verdict::Pass, "{report:#?}");
    }
    assert_eq!(leaks(&report), Vec::<&str>::new());
}

#[tokio::test]
async fn a_certificate_that_is_not_let_in_proves_nothing() {
    let report = checked(Hole::None, Check::ALL, |options| {
        options.pair = pair("server");
        options.expect_user = None;
    })
    .await;
    let finding = &report.findings[0];
    assert_eq!((finding.check, finding.verdict), (Check::Certificate, Verdict::NotChecked));
    assert!(finding.seen[0].contains("403"), "{finding:?}");
}

/// The certificate of a made-up CA is another one that is not let in.
#[tokio::test]
async fn another_certificate_proves_something_only_if_it_is_let_in_and_of_another_account() {
    let checks = [Check::Certificate, Check::ForgedCertificateBeside];
    let other = |name: &str| Some(pair(name));
    for hole in [Hole::None, Hole::PrefersHeader] {
        let report = checked(hole, &checks, |options| options.other = other("server")).await;
        let finding = &report.findings[1];
        assert_eq!(finding.verdict, Verdict::NotChecked, "{finding:?}");
        assert_eq!(finding.seen, ["--other-certificate: this certificate is refused: 403"]);
    }
    let names = identity::names(&identity::PRESETS);
    let proxy = Arc::new(Proxy { hole: Hole::None, names, remembers: AtomicBool::new(false) });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(proxy.serve(listener));
    let options = Options { other: other("alice"), ..options(address, address) };
    let failed = check_these(&checks, &options, &mut |_| {}).await.unwrap_err();
    let Failed::Usage(text) = failed else { panic!("{failed:?}") };
    assert!(text.contains("--other-certificate is of alice"), "{text}");
    serving.abort();
}

/// Says something else than TLS, or nothing, to each connection.
async fn no_web_server(listener: TcpListener, says: &'static [u8]) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let _ = stream.write_all(says).await;
        let _ = stream.shutdown().await;
    }
}

/// Shakes hands by TLS, and says this.
async fn tls_without_http(listener: TcpListener, says: &'static [u8]) {
    let names = identity::names(&identity::PRESETS);
    let acceptor = Proxy { hole: Hole::None, names, remembers: AtomicBool::new(false) }.acceptor(&[]);
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(mut stream) = acceptor.accept(stream).await else { continue };
        let _ = stream.write_all(says).await;
        let _ = stream.shutdown().await;
    }
}

#[tokio::test]
async fn what_is_no_web_server_passes_nothing() {
    for (is_tls, says) in [
        (false, &b"SSH-2.0-OpenSSH_9.9\r\n"[..]),
        (false, b"\x00\xff\x00\xff\x00\xff\x00\xff"),
        (false, b""),
        (true, b"220 mail.example ESMTP\r\n"),
        (true, b""),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = match is_tls {
            true => tokio::spawn(tls_without_http(listener, says)),
            false => tokio::spawn(no_web_server(listener, says)),
        };
        let failed = check_these(Check::ALL, &options(address, address), &mut |_| {}).await.unwrap_err();
        let Failed::Unreachable(text) = failed else { panic!("{failed:?}") };
        assert!(text.contains("no TLS or HTTP server answers"), "{text}");
        serving.abort();
    }
}

/// A web server that refuses our certificate in the handshake is one; what it refuses then says nothing of
/// what was sent.
#[tokio::test]
async fn a_certificate_that_no_handshake_takes_proves_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(MADE.authority.clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let key = PrivatePkcs8KeyDer::from(MADE.server_key.clone());
    let config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![MADE.server.clone()], key.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    let key = KeyPair::generate().unwrap();
    let stranger = CertificateParams::default().self_signed(&key).unwrap();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let pair = certified(vec![stranger.der().clone()], key.into()).unwrap();
    let options =
        Options { pair: Arc::new(pair), other: None, expect_user: None, ..options(address, address) };
    let report = check_these(Check::ALL, &options, &mut |_| {}).await.unwrap();
    for check in [
        Check::Certificate,
        Check::ForgedIdentity,
        Check::ForgedCertificateBeside,
        Check::HopByHop,
        Check::Paths,
        Check::Hosts,
        Check::Pipelining,
        Check::CertificateAgain,
    ] {
        let finding = report.findings.iter().find(|finding| finding.check == check).unwrap();
        assert_eq!(finding.verdict, Verdict::NotChecked, "{finding:#?}");
    }
    assert_eq!(leaks(&report), Vec::<&str>::new());
    serving.abort();
}

/// Where identity headers pass as they are, other checks see them arrive, and advice about locations and
/// lengths would mislead.
#[tokio::test]
async fn headers_that_simply_pass_have_one_remedy() {
    let checks = [Check::Certificate, Check::ForgedIdentity, Check::Paths, Check::Pipelining];
    let report = checked(Hole::KeepsNamed, &checks, |_| {}).await;
    assert_eq!(leaks(&report), ["forged-identity", "paths", "pipelining"]);
    assert_eq!(report.findings[1].advice, Check::ForgedIdentity.advice());
    for finding in &report.findings[2..] {
        assert!(finding.advice.contains("forged-identity"), "{finding:#?}");
    }
    // What passes in one location only is that location's, and a page without a question is no header.
    for hole in [Hole::KeepsInScripts, Hole::SkipsScripts, Hole::KeepsUnderscores] {
        let report = checked(hole, &checks, |_| {}).await;
        let of_paths = report.findings.iter().find(|finding| finding.check == Check::Paths).unwrap();
        assert_eq!(of_paths.advice, Check::Paths.advice(), "{hole:?}");
    }
}

#[tokio::test]
async fn the_wrong_account_leaks() {
    let report = checked(Hole::None, &[Check::Certificate], |options| {
        options.expect_user = Some("carol".to_owned());
    })
    .await;
    assert_eq!(leaks(&report), ["certificate"]);
    assert_eq!(report.findings[0].seen, ["GET: this is alice, not carol"]);
}

#[tokio::test]
async fn what_is_not_told_apart_is_not_asked_for() {
    let unknown = checked(
        Hole::None,
        &[Check::Certificate, Check::OtherHost, Check::ForgedCertificateBeside],
        |options| {
            options.other_host = None;
            options.other = None;
        },
    )
    .await;
    assert_eq!(unknown.findings[1].verdict, Verdict::NotSeen);
    assert_eq!(unknown.findings[2].verdict, Verdict::Pass);
    assert!(unknown.findings[2].seen[0].contains("--other-certificate"), "{unknown:?}");
}

#[tokio::test]
async fn nothing_is_found_out_where_no_user_is_accepted() {
    let names = identity::names(&identity::PRESETS);
    let proxy = Arc::new(Proxy { hole: Hole::None, names, remembers: AtomicBool::new(false) });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(proxy.serve(listener));
    let failed = async |change: &dyn Fn(&mut Options)| {
        let mut options = options(address, address);
        change(&mut options);
        let failed = check_these(Check::ALL, &options, &mut |_| {}).await.unwrap_err();
        match failed {
            Failed::Usage(text) => ("usage", text),
            Failed::Input(error) => ("input", format!("{error:#}")),
            Failed::Unreachable(text) => ("unreachable", text),
        }
    };
    // Nothing listens at tcpmux's port.
    let nowhere = "127.0.0.1:1".to_owned();
    let (kind, text) = failed(&|options| options.verifier = Some(trusting("alice.pem"))).await;
    assert!(kind == "unreachable" && text.contains("--ca"), "{kind}: {text}");
    // The CA is right, and the certificate is for another name: advice about CAs would be wrong.
    let elsewhere = |options: &mut Options| options.url = options.url.replace(HOST, "elsewhere.example");
    let (kind, text) = failed(&elsewhere).await;
    assert!(kind == "unreachable" && text.contains(HOST) && text.contains("--connect"), "{kind}: {text}");
    assert!(!text.contains("--ca"), "{text}");
    let (kind, text) =
        failed(&|options| options.headers = vec![("X WEBAUTH".to_owned(), Meaning::User)]).await;
    assert!(kind == "usage" && text.contains("--header X WEBAUTH"), "{kind}: {text}");
    let (kind, text) = failed(&|options| options.paths = vec!["private".to_owned()]).await;
    assert!(kind == "usage" && text.contains("--path private"), "{kind}: {text}");
    let (kind, text) = failed(&|options| options.connect = Some(nowhere.clone())).await;
    assert!(kind == "unreachable", "{kind}: {text}");
    let (kind, text) = failed(&|options| options.url = options.url.replace("https", "http")).await;
    assert!(kind == "usage" && text.contains("https"), "{kind}: {text}");
    serving.abort();
    // Any certificate is accepted only if that is asked for.
    let report = checked(Hole::None, &[Check::Certificate], |options| options.verifier = None).await;
    assert_eq!(report.findings[0].verdict, Verdict::Pass);
}
