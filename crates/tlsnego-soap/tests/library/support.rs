//! A service with an application that echoes, and the clocks, certificates and passwords of the tests.

use dtyp::FileTime;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};
use tlsnego_service::freshness::Skew;
use tlsnego_service::password::{Found, PasswordSettings, PasswordStore, Passwords};
use tlsnego_service::session::{
    BoxFuture, Credential, Identity, SessionTimes, SharedTokens, StoreFailed, TicketSealer, TokenHash,
};
use tlsnego_service::{Credentials, Moment, TlsVersions};
use tlsnego_soap::address::Address;
use tlsnego_soap::server::{
    Answer, Binding, Call, CertificateMapper, Event, Server, ServiceCertificate, Settings,
};
use tlsnego_soap::{HttpRequest, HttpResponse, Random};
use xml_security::{Certificate, DecryptionKey, Document, ParseLimits, SigningKey, Suite};
use zeroize::Zeroizing;

/// Debian's, which has lxml and `cryptography`.
pub(crate) const PYTHON: &str = "/usr/bin/python3";
pub(crate) const TO: &str = "https://service.example/echo";
pub(crate) const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
pub(crate) const USER: &str = "alice & <bob>";
pub(crate) const PASSWORD: &str = "a \u{e9}&<password>";

/// A certificate with its RSA key.
pub(crate) struct Pair {
    pub(crate) der: Vec<u8>,
    pub(crate) pem: String,
    pub(crate) key_pem: String,
    pkcs8: Vec<u8>,
}

impl Pair {
    pub(crate) fn new(name: &str) -> Self {
        let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
            .expect("a key");
        let parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        Self {
            der: certificate.der().to_vec(),
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            pkcs8: key.serialize_der(),
        }
    }

    pub(crate) fn certificate(&self) -> Certificate {
        Certificate::from_der(&self.der).expect("a certificate")
    }

    pub(crate) fn credentials(&self) -> Credentials {
        Credentials {
            chain: vec![self.der.clone().into()],
            key: PrivateKeyDer::try_from(self.pkcs8.clone()).expect("PKCS #8"),
        }
    }

    pub(crate) fn signer(&self) -> SigningKey {
        SigningKey::from_pkcs8(&self.pkcs8, self.certificate()).expect("an RSA key")
    }

    fn decryption_key(&self) -> DecryptionKey {
        DecryptionKey::from_pkcs8(&self.pkcs8).expect("an RSA key")
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
pub(crate) struct OneCertificate(pub(crate) Vec<u8>);

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
        for chunk in octets.chunks_mut(16) {
            let fresh = fresh_octets();
            chunk.copy_from_slice(&fresh[..chunk.len()]);
        }
    })
}

fn fresh_octets() -> [u8; 16] {
    use std::hash::{BuildHasher, RandomState};
    let half = || RandomState::new().hash_one(SystemTime::now()).to_le_bytes();
    [half(), half()].concat().try_into().expect("16 octets")
}

pub(crate) fn now() -> Moment {
    let wall = FileTime::from(SystemTime::now());
    Moment { wall, uptime: Duration::from_secs(1_000) }
}

pub(crate) type Service = Server;

/// The certificates of both sides.
pub(crate) struct Certificates {
    pub(crate) service: Pair,
    pub(crate) client: Pair,
}

impl Certificates {
    pub(crate) fn new() -> Self {
        Self { service: Pair::new("service.example"), client: Pair::new("client.example") }
    }
}

pub(crate) fn service(certificates: &Certificates, bindings: &[Binding], credential: Credential) -> Service {
    service_with(certificates, bindings, credential, |_| {})
}

pub(crate) fn service_with(
    certificates: &Certificates,
    bindings: &[Binding],
    credential: Credential,
    change: impl FnOnce(&mut Settings),
) -> Service {
    let mut settings = Settings {
        addresses: vec![Address::new(TO).expect("an address")],
        suite: Suite::BASIC256,
        bindings: bindings.to_vec(),
        credential,
        times: SessionTimes::default(),
        trust13: false,
        skew: Skew::default(),
        limits: ParseLimits::default(),
        metadata: None,
    };
    change(&mut settings);
    let certificate = service_certificate(certificates);
    let passwords = Passwords::new(OnePassword, [7; 32], PasswordSettings::default());
    let mapper = OneCertificate(certificates.client.der.clone());
    Server::new(settings, certificate, passwords, mapper, random()).expect("a certificate for TLS")
}

/// The same service, with its sessions in cookies that are not sealed, and a store in memory.
pub(crate) fn with_cookies(service: Service) -> Service {
    service.with_cookies(Arc::new(Open), Arc::<InMemory>::default())
}

struct Open;

impl TicketSealer for Open {
    fn seal(&self, state: &[u8], _: FileTime) -> Result<Vec<u8>, String> {
        Ok(state.to_vec())
    }

    fn open(&self, ticket: &[u8], _: FileTime) -> Result<Zeroizing<Vec<u8>>, String> {
        Ok(Zeroizing::new(ticket.to_vec()))
    }
}

#[derive(Default)]
struct InMemory {
    messages: Mutex<HashSet<TokenHash>>,
    ended: Mutex<HashMap<TokenHash, FileTime>>,
    failures: Mutex<HashMap<TokenHash, u32>>,
}

fn ready<T: Send + 'static>(value: T) -> BoxFuture<'static, Result<T, StoreFailed>> {
    Box::pin(std::future::ready(Ok(value)))
}

impl SharedTokens for InMemory {
    fn begun(&self) -> FileTime {
        FileTime::UNSET
    }

    fn insert_message(
        &self,
        message: TokenHash,
        _: FileTime,
        _: FileTime,
    ) -> BoxFuture<'_, Result<bool, StoreFailed>> {
        ready(self.messages.lock().expect("no panic").insert(message))
    }

    fn end_token(
        &self,
        token: TokenHash,
        at: FileTime,
        _: FileTime,
        _: FileTime,
        _: bool,
    ) -> BoxFuture<'_, Result<(), StoreFailed>> {
        let mut ended = self.ended.lock().expect("no panic");
        let end = ended.entry(token).or_insert(at);
        *end = at.min(*end);
        ready(())
    }

    fn fail_token(
        &self,
        token: TokenHash,
        max: u32,
        now: FileTime,
        _: FileTime,
    ) -> BoxFuture<'_, Result<u32, StoreFailed>> {
        let mut failures = self.failures.lock().expect("no panic");
        let count = failures.entry(token).or_default();
        *count += 1;
        if *count >= max {
            self.ended.lock().expect("no panic").entry(token).or_insert(now);
        }
        ready(*count)
    }

    fn end_of(&self, tokens: [TokenHash; 2]) -> BoxFuture<'_, Result<Option<FileTime>, StoreFailed>> {
        let ended = self.ended.lock().expect("no panic");
        ready(tokens.iter().filter_map(|token| ended.get(token).copied()).min())
    }
}

pub(crate) fn service_certificate(certificates: &Certificates) -> ServiceCertificate {
    let pair = &certificates.service;
    ServiceCertificate {
        tls: pair.credentials(),
        versions: TlsVersions::Tls12And13,
        preset: Some((pair.certificate(), pair.decryption_key())),
    }
}

/// Runs a future that waits for nothing outside of it.
pub(crate) fn run<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1_000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
    panic!("it waits")
}

/// What the service says to a body, with the echo of a call.
pub(crate) struct Said {
    pub(crate) response: HttpResponse,
    pub(crate) event: Option<Event>,
    pub(crate) call: Option<Box<Call>>,
}

pub(crate) fn post(service: &Service, content_type: &str, body: &[u8]) -> Said {
    post_at(service, content_type, body, now())
}

pub(crate) fn post_at(service: &Service, content_type: &str, body: &[u8], now: Moment) -> Said {
    let request = HttpRequest { content_type: Some(content_type), body, source: SOURCE };
    // Servers have several threads.
    fn on_any_thread<F: Future + Send>(future: F) -> F {
        future
    }
    match run(on_any_thread(service.receive(&request, now))) {
        Answer::Reply(reply) => Said { response: reply.response, event: Some(reply.event), call: None },
        Answer::Call(call) => {
            let response = echo(&call);
            Said { response, event: None, call: Some(call) }
        }
    }
}

/// The application: it returns the body.
fn echo(call: &Call) -> HttpResponse {
    let body = call.body().expect("a body");
    let mut envelope = Document::new(xml_security::names::SOAP.name("Envelope"));
    let root = envelope.root();
    envelope.append_xml(root, &body, &ParseLimits::default()).expect("a body");
    let envelope = envelope.write().expect("XML");
    call.reply(&envelope, &ParseLimits::default(), now()).expect("a reply")
}
