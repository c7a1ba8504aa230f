//! A service on a loopback port: what it does with each message is the test's, between the network and
//! `tlsnego_soap::server`.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tlsnego_service::freshness::Skew;
use tlsnego_service::password::{Found, PasswordSettings, PasswordStore, Passwords};
use tlsnego_service::session::{BoxFuture, Credential, Identity, SessionTimes, StoreFailed};
use tlsnego_service::{Credentials, Moment, TlsVersions};
use tlsnego_soap::address::Address;
use tlsnego_soap::server::{Answer, Binding, CertificateMapper, Server, ServiceCertificate, Settings};
use tlsnego_soap::{CONTENT_TYPE, HttpRequest, Random};
use tlsnego_tokio::Clock;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use xml_security::names::SOAP;
use xml_security::{Certificate, DecryptionKey, Document, ParseLimits, SigningKey, Suite};

pub(crate) const TO: &str = "https://service.example/echo";
pub(crate) const USER: &str = "alice";
pub(crate) const PASSWORD: &str = "a \u{e9}&<password>";

/// A certificate with its RSA key.
pub(crate) struct Pair {
    pub(crate) der: Vec<u8>,
    pkcs8: Vec<u8>,
}

impl Pair {
    pub(crate) fn new(name: &str) -> Self {
        let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
            .expect("a key");
        let parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        Self { der: certificate.der().to_vec(), pkcs8: key.serialize_der() }
    }

    pub(crate) fn certificate(&self) -> Certificate {
        Certificate::from_der(&self.der).expect("a certificate")
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.pkcs8.clone()).expect("PKCS #8")
    }

    pub(crate) fn credentials(&self) -> Credentials {
        Credentials { chain: vec![self.der.clone().into()], key: self.key() }
    }

    pub(crate) fn signer(&self) -> SigningKey {
        SigningKey::from_pkcs8(&self.pkcs8, self.certificate()).expect("an RSA key")
    }
}

/// One account with a password.
pub(crate) struct OnePassword;

impl PasswordStore for OnePassword {
    type Account = ();

    async fn find(&self, name: &str) -> Result<Found<()>, StoreFailed> {
        Ok(Found { account: (), revision: Some(1), guessed: vec![name.to_owned()] })
    }

    async fn after(&self, _: Duration) {}

    async fn check(&self, name: &str, password: &str, (): ()) -> Result<Option<Identity>, StoreFailed> {
        Ok((name == USER && password == PASSWORD).then(|| identity("S-1-5-21-1-2-3-1001")))
    }
}

/// One account with a certificate.
pub(crate) struct OneCertificate(Vec<u8>);

impl CertificateMapper for OneCertificate {
    fn map<'a>(&'a self, chain: &'a [CertificateDer<'static>]) -> BoxFuture<'a, Result<Identity, String>> {
        Box::pin(async move {
            match chain.first() {
                Some(shown) if **shown == *self.0 => Ok(identity("S-1-5-21-1-2-3-1002")),
                _ => Err("unknown certificate".to_owned()),
            }
        })
    }
}

fn identity(account: &str) -> Identity {
    Identity { account: account.to_owned(), detail: Arc::from(&b""[..]) }
}

pub(crate) fn random() -> Random {
    Arc::new(|octets: &mut [u8]| {
        use std::hash::{BuildHasher, RandomState};
        for chunk in octets.chunks_mut(8) {
            let fresh = RandomState::new().hash_one(SystemTime::now()).to_le_bytes();
            chunk.copy_from_slice(&fresh[..chunk.len()]);
        }
    })
}

pub(crate) fn now() -> Moment {
    Moment { wall: SystemTime::now().into(), uptime: Duration::from_secs(1_000) }
}

/// The certificates of both sides.
pub(crate) struct Certificates {
    pub(crate) service: Pair,
    pub(crate) client: Pair,
}

impl Certificates {
    pub(crate) fn new() -> Self {
        Self { service: Pair::new("localhost"), client: Pair::new("client.example") }
    }
}

/// What becomes of an answer on its way.
pub(crate) enum Way {
    /// It arrives like this.
    Sent(StatusCode, Vec<u8>),
    /// The connection ends in its place.
    Lost,
    /// It never arrives.
    Stuck,
}

type Change = Box<dyn Fn(&Host, &[u8], StatusCode, Vec<u8>) -> Way + Send + Sync>;

/// A service with an application.
pub(crate) struct Host {
    certificates: Arc<Certificates>,
    binding: Binding,
    credential: Credential,
    clock: Clock,
    server: Mutex<Arc<Server>>,
    change: Change,
    /// Calls that the application ran.
    pub(crate) ran: AtomicUsize,
    /// Messages of all kinds.
    pub(crate) messages: AtomicUsize,
}

impl Host {
    pub(crate) fn new(
        certificates: &Arc<Certificates>,
        binding: Binding,
        credential: Credential,
        clock: Clock,
        change: impl Fn(&Self, &[u8], StatusCode, Vec<u8>) -> Way + Send + Sync + 'static,
    ) -> Arc<Self> {
        let certificates = Arc::clone(certificates);
        Arc::new(Self {
            server: Mutex::new(Arc::new(server(&certificates, binding, credential))),
            certificates,
            binding,
            credential,
            clock,
            change: Box::new(change),
            ran: AtomicUsize::new(0),
            messages: AtomicUsize::new(0),
        })
    }

    /// A service that changes nothing of its answers.
    pub(crate) fn plain(
        certificates: &Arc<Certificates>,
        binding: Binding,
        credential: Credential,
    ) -> Arc<Self> {
        Self::new(certificates, binding, credential, now, |_, _, status, body| Way::Sent(status, body))
    }

    /// All that is in memory is lost.
    pub(crate) fn restart(&self) {
        let fresh = Arc::new(server(&self.certificates, self.binding, self.credential));
        *self.server.lock().expect("no panic") = fresh;
    }

    pub(crate) fn ran(&self) -> usize {
        self.ran.load(Ordering::SeqCst)
    }

    /// Takes a message that did not come from the client; returns the status of its answer.
    pub(crate) async fn post(&self, body: &[u8]) -> u16 {
        let server = Arc::clone(&self.server.lock().expect("no panic"));
        let source = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let request = HttpRequest { content_type: Some(CONTENT_TYPE), body, source };
        match server.receive(&request, (self.clock)()).await {
            Answer::Reply(reply) => reply.response.status,
            Answer::Call(_) => 200,
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, &'static str> {
        let content_type = request.headers().get("content-type").cloned().expect("a type");
        let body = request.into_body().collect().await.map_err(|_| "the request ended")?.to_bytes();
        self.messages.fetch_add(1, Ordering::SeqCst);
        let server = Arc::clone(&self.server.lock().expect("no panic"));
        let request = HttpRequest {
            content_type: content_type.to_str().ok(),
            body: &body,
            source: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let response = match server.receive(&request, (self.clock)()).await {
            Answer::Reply(reply) => reply.response,
            Answer::Call(call) => {
                self.ran.fetch_add(1, Ordering::SeqCst);
                let body = call.body().expect("a body");
                let envelope = match (&*call.action, String::from_utf8_lossy(&body)) {
                    ("urn:one-way", _) => None,
                    (_, body) if body.contains("fail") => Some(FAULT.as_bytes().to_vec()),
                    _ => Some(enveloped(&body)),
                };
                match envelope {
                    None => call.one_way(),
                    Some(envelope) => {
                        call.reply(&envelope, &ParseLimits::default(), (self.clock)()).expect("a reply")
                    }
                }
            }
        };
        let status = StatusCode::from_u16(response.status).expect("a status");
        match (self.change)(self, &body, status, response.body) {
            Way::Sent(status, body) => {
                let mut response = Response::new(Full::new(Bytes::from(body)));
                *response.status_mut() = status;
                response.headers_mut().insert("content-type", CONTENT_TYPE.parse().expect("a value"));
                Ok(response)
            }
            Way::Lost => Err("the connection ends"),
            Way::Stuck => std::future::pending().await,
        }
    }
}

const FAULT: &str = "<s:Envelope xmlns:s='http://www.w3.org/2003/05/soap-envelope'><s:Body><s:Fault><s:Code><s:Value>s:Sender</s:Value></s:Code>\
    <s:Reason><s:Text xml:lang='en'>no</s:Text></s:Reason></s:Fault></s:Body></s:Envelope>";

pub(crate) fn enveloped(body: &[u8]) -> Vec<u8> {
    let mut envelope = Document::new(SOAP.name("Envelope"));
    let root = envelope.root();
    envelope.append_xml(root, body, &ParseLimits::default()).expect("a body");
    envelope.write().expect("XML")
}

pub(crate) fn service_certificate(pair: &Pair) -> ServiceCertificate {
    let key = DecryptionKey::from_pkcs8(&pair.pkcs8).expect("an RSA key");
    ServiceCertificate {
        tls: pair.credentials(),
        versions: TlsVersions::Tls12And13,
        preset: Some((pair.certificate(), key)),
    }
}

pub(crate) fn server(certificates: &Certificates, binding: Binding, credential: Credential) -> Server {
    let settings = Settings {
        metadata: None,
        addresses: vec![Address::new(TO).expect("an address")],
        suite: Suite::BASIC256,
        bindings: vec![binding],
        credential,
        times: SessionTimes::default(),
        trust13: false,
        skew: Skew::default(),
        limits: ParseLimits::default(),
    };
    let certificate = service_certificate(&certificates.service);
    let passwords = Passwords::new(OnePassword, [7; 32], PasswordSettings::default());
    let mapper = OneCertificate(certificates.client.der.clone());
    Server::new(settings, certificate, passwords, mapper, random()).expect("a certificate for TLS")
}

/// TLS of a listener.
pub(crate) fn tls_of(pair: &Pair) -> rustls::ServerConfig {
    rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![pair.der.clone().into()], pair.key())
        .expect("a pair")
}

/// TLS of a client that trusts this certificate.
pub(crate) fn https_to(trusted: &Pair) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.der.clone().into()).expect("a root");
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// A listener with its connections.
pub(crate) struct Listening {
    pub(crate) address: SocketAddr,
    stopping: CancellationToken,
    task: JoinHandle<()>,
}

impl Listening {
    /// Ends the listener and its connections.
    pub(crate) async fn stop(self) {
        self.stopping.cancel();
        self.task.await.expect("no panic");
    }
}

/// Listens on the port of `address`, which may be 0; with TLS if there are settings for it.
pub(crate) async fn listen(
    host: &Arc<Host>,
    address: SocketAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
) -> Listening {
    let listener = TcpListener::bind(address).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (host, stopping) = (Arc::clone(host), CancellationToken::new());
    let stopped = stopping.clone();
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Some(Ok((stream, _))) = stopped.run_until_cancelled(listener.accept()).await {
            connections.spawn(connection(Arc::clone(&host), stream, tls.clone()));
        }
        connections.shutdown().await;
    });
    Listening { address, stopping, task }
}

async fn connection(host: Arc<Host>, stream: TcpStream, tls: Option<Arc<rustls::ServerConfig>>) {
    let service = service_fn(move |request| {
        let host = Arc::clone(&host);
        async move { host.answer(request).await }
    });
    // An error is a connection that a test ends.
    let _ = match tls {
        None => http1::Builder::new().serve_connection(TokioIo::new(stream), service).await,
        Some(tls) => {
            let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await else { return };
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
        }
    };
}

/// An address that gets no connection: nothing listens at tcpmux's port, and the kernel gives it to no
/// listener that names no port.
pub(crate) const UNUSED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
