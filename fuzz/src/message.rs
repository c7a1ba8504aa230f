//! Messages to a service and to a client that wait for any octets, by a peer that has no key: whole messages,
//! and legs of a negotiation whose TLS records are changed.

use crate::{Choices, now};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dtyp::FileTime;
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tlsnego_service::fault::Reason;
use tlsnego_service::freshness::Skew;
use tlsnego_service::password::PasswordCheck;
use tlsnego_service::session::{BoxFuture, Credential, Identity, SessionTimes};
use tlsnego_service::{Credentials, Moment, TlsVersions, negotiation};
use tlsnego_soap::address::Address;
use tlsnego_soap::client::{Client, Negotiated, Proof, Under};
use tlsnego_soap::server::{Answer, Binding, CertificateMapper, Event, Server, ServiceCertificate, Settings};
use tlsnego_soap::{CONTENT_TYPE, HttpRequest, TrustVersion};
use xml_security::{Certificate, DecryptionKey, Document, ParseLimits, Suite};

const TO: &str = "https://service.example/";
const NOW: Moment = Moment { wall: FileTime(134_000_000_000_000_000), uptime: Duration::from_secs(1_000) };
const CONTENT_TYPES: [Option<&str>; 4] =
    [Some(CONTENT_TYPE), Some("text/xml"), Some("multipart/related"), None];

/// No client has an account.
struct NoAccounts;

impl PasswordCheck for NoAccounts {
    fn check<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: IpAddr,
        _: Duration,
    ) -> BoxFuture<'a, Result<Option<Identity>, Reason>> {
        Box::pin(async { Ok(None) })
    }
}

impl CertificateMapper for NoAccounts {
    fn map<'a>(&'a self, _: &'a [CertificateDer<'static>]) -> BoxFuture<'a, Result<Identity, String>> {
        Box::pin(async { Err("unknown".to_owned()) })
    }
}

/// What both sides have, made once.
struct Fixture {
    settings: Settings,
    tls: Credentials,
    preset: (Certificate, Vec<u8>),
    client: Client,
    client_tls: negotiation::Client,
}

fn random() -> Arc<dyn Fn(&mut [u8]) + Send + Sync> {
    Arc::new(|octets: &mut [u8]| octets.fill(7))
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let issue = |key: &KeyPair| {
        let certificate = CertificateParams::new(vec!["service.example".to_owned()]).expect("a name");
        certificate.self_signed(key).expect("it signs itself").der().to_vec()
    };
    // Handshakes by ECDSA, because they are many.
    let key = KeyPair::generate().expect("a key");
    let chain = vec![issue(&key).into()];
    let tls = Credentials { chain, key: PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS #8") };
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key");
    let certificate = Certificate::from_der(&issue(&rsa)).expect("a certificate");
    let settings = Settings {
        metadata: None,
        addresses: vec![Address::new(TO).expect("an address")],
        suite: Suite::BASIC256,
        bindings: Binding::ALL.to_vec(),
        credential: Credential::UserName,
        times: SessionTimes::default(),
        trust13: true,
        skew: Skew::default(),
        limits: ParseLimits::default(),
    };
    let client = Client {
        to: TO.to_owned(),
        suite: Suite::BASIC256,
        version: TrustVersion::February2005,
        skew: Skew::default(),
        limits: ParseLimits::default(),
        random: random(),
        trace: None,
    };
    let client_tls = negotiation::Client::new(None, TlsVersions::Tls12And13).expect("no certificate");
    Fixture { settings, tls, preset: (certificate, rsa.serialize_der()), client, client_tls }
});

/// A service that has seen no message yet.
fn service() -> Server {
    let fixture = &*FIXTURE;
    let (certificate, key) = &fixture.preset;
    let key = DecryptionKey::from_pkcs8(key).expect("an RSA key");
    let tls = Credentials { chain: fixture.tls.chain.clone(), key: fixture.tls.key.clone_key() };
    let certificate = ServiceCertificate {
        tls,
        versions: TlsVersions::Tls12And13,
        preset: Some((certificate.clone(), key)),
    };
    Server::new(fixture.settings.clone(), certificate, NoAccounts, NoAccounts, random()).expect("they fit")
}

/// Sends `bytes` to a service and to a client, or has them change the TLS records of an answer to the client.
pub fn check(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let choice = choices.byte();
    match choice % 8 {
        0 => changed_records(&mut choices),
        _ => {
            let answer = served(CONTENT_TYPES[usize::from(choice / 8) % 4], choices.0);
            for octets in [choices.0, &answer] {
                is_no_answer(octets);
            }
        }
    }
}

/// What the service answers: a fault, or a leg of a negotiation.
fn served(content_type: Option<&str>, body: &[u8]) -> Vec<u8> {
    let server = service();
    let request = HttpRequest { content_type, body, source: IpAddr::V4(Ipv4Addr::LOCALHOST) };
    let Answer::Reply(reply) = now(server.receive(&request, NOW)) else { panic!("a call without a key") };
    let text = match &reply.event {
        Event::Leg => None,
        Event::Refused(refusal) => Some(refusal.fault().text),
        event => panic!("{event:?} without a key"),
    };
    let expected: &[u16] = if text.is_some() { &[415, 500] } else { &[200] };
    assert!(expected.contains(&reply.response.status), "{}", reply.response.status);
    assert!(server.tokens().is_empty(), "a session without a key");
    let body = reply.response.body;
    let read = Document::parse(&body, &ParseLimits::default()).expect("what is written can be read");
    if let Some(text) = text {
        let texts = read.descendants(read.root()).filter_map(|node| read.text(node));
        assert!(texts.into_iter().any(|found| found == text), "the fault of the refusal");
    }
    body
}

/// To a client that waits for a leg, or for a reply, this is none.
fn is_no_answer(octets: &[u8]) {
    let Fixture { client, client_tls, preset, .. } = &*FIXTURE;
    let (_, negotiating) = client.negotiate(client_tls).expect("a leg");
    negotiating.receive(octets, NOW.wall).expect_err("no handshake of ours is in it");
    let body = b"<s:Body xmlns:s='http://www.w3.org/2003/05/soap-envelope'/>";
    let under = Under::Certificate(&preset.0);
    let (_, pending) = client.call(under, Proof::None, ("urn:a", body), NOW.wall).expect("a call");
    pending.receive(octets, NOW.wall).expect_err("the reply needs the key");
}

/// The service's first answer with other octets in its BinaryExchange.
fn changed_records(choices: &mut Choices<'_>) {
    let Fixture { client, client_tls, .. } = &*FIXTURE;
    let (leg, negotiating) = client.negotiate(client_tls).expect("a leg");
    let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let request = HttpRequest { content_type: Some(CONTENT_TYPE), body: &leg, source };
    let Answer::Reply(reply) = now(service().receive(&request, NOW)) else { panic!("it is a leg") };
    let answer = String::from_utf8(reply.response.body).expect("UTF-8");
    let end = answer.find("</t:BinaryExchange>").expect("a handshake");
    let start = answer[..end].rfind('>').expect("a start") + 1;
    let original = STANDARD.decode(&answer[start..end]).expect("base64");
    let mut records = original.clone();
    while !choices.is_empty() && !records.is_empty() {
        let at = usize::from(choices.word()) % records.len();
        let len = usize::from(choices.byte() % 8).min(records.len() - at);
        let count = usize::from(choices.byte() % 8);
        records.splice(at..at + len, choices.take(count).iter().copied());
    }
    let changed = format!("{}{}{}", &answer[..start], STANDARD.encode(&records), &answer[end..]);
    match negotiating.receive(changed.as_bytes(), NOW.wall) {
        Ok(Negotiated::Certificate(_)) => {}
        Ok(Negotiated::Send(..)) => assert_ne!(records, original, "the certificate is asked about"),
        Ok(Negotiated::Token(_)) => panic!("a token after one leg"),
        Err(error) => assert_ne!(records, original, "{error}"),
    }
}
