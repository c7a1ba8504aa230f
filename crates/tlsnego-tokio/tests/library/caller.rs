//! Calls over HTTP: replies, faults, and what is not to be taken for one of them.

use crate::support::*;
use dtyp::FileTime;
use http::{HeaderMap, StatusCode};
use rustls_pki_types::CertificateDer;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tlsnego_service::freshness::Skew;
use tlsnego_service::session::Credential;
use tlsnego_service::{Moment, TlsVersions, negotiation};
use tlsnego_soap::TrustVersion;
use tlsnego_soap::client::{Client, ClientError};
use tlsnego_soap::server::Binding;
use tlsnego_tokio::Clock;
use tlsnego_tokio::client::{Answer, Bootstrap, CallError, Caller, ServerCertificates, Settings};
use xml_security::{ParseLimits, Suite, TokenName, UsernameToken};

pub(crate) const SESSION: Binding = Binding { negotiate: true, establish: true };
pub(crate) const ECHO: &str = "urn:echo";
/// Longer than a call takes on a busy machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// Accepts one certificate.
struct Pinned(Vec<u8>);

impl ServerCertificates for Pinned {
    fn check(&self, chain: &[CertificateDer<'static>]) -> Result<(), String> {
        match chain.first() {
            Some(shown) if **shown == *self.0 => Ok(()),
            _ => Err("another certificate".to_owned()),
        }
    }
}

pub(crate) fn settings(
    certificates: &Certificates,
    address: SocketAddr,
    binding: Binding,
    credential: Credential,
) -> Settings {
    let client = Client {
        to: TO.to_owned(),
        suite: Suite::BASIC256,
        version: TrustVersion::February2005,
        skew: Skew::default(),
        limits: ParseLimits::default(),
        random: random(),
        trace: None,
    };
    let is_certificate = credential == Credential::Certificate;
    let bootstrap = match binding.negotiate {
        true => Bootstrap::Negotiate {
            tls: negotiation::Client::new(
                is_certificate.then(|| certificates.client.credentials()),
                TlsVersions::Tls12,
            )
            .expect("a client"),
            certificates: Box::new(Pinned(certificates.service.der.clone())),
        },
        false => Bootstrap::Certificate {
            service: certificates.service.certificate(),
            signer: is_certificate.then(|| Box::new(certificates.client.signer()) as Box<_>),
        },
    };
    let user = || UsernameToken { username: USER.to_owned(), password: PASSWORD.to_owned().into() };
    Settings {
        url: format!("http://{address}/echo").parse().expect("a URL"),
        https: None,
        client,
        bootstrap,
        establish: binding.establish,
        username: (credential == Credential::UserName).then(user),
        timeout: TIMEOUT,
        headers: HeaderMap::new(),
    }
}

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A client of a host with a session and a user name.
async fn caller_of(
    certificates: &Certificates,
    host: &Arc<Host>,
    change: impl FnOnce(&mut Settings),
) -> (Caller, Listening) {
    let listening = listen(host, loopback(), None).await;
    let mut settings = settings(certificates, listening.address, SESSION, Credential::UserName);
    change(&mut settings);
    (Caller::new(settings, now), listening)
}

pub(crate) fn body(text: &str) -> Vec<u8> {
    format!("<s:Body xmlns:s='http://www.w3.org/2003/05/soap-envelope'><Echo xmlns='urn:echo'>{text}</Echo></s:Body>")
        .into_bytes()
}

async fn echo(caller: &mut Caller, text: &str) -> Result<String, CallError> {
    match caller.call(ECHO, &body(text)).await? {
        Answer::Reply(reply) => {
            assert!(!reply.is_fault);
            Ok(String::from_utf8(reply.body().expect("a body")).expect("UTF-8"))
        }
        Answer::Accepted => panic!("a reply was due"),
    }
}

fn name(caller: &Caller) -> TokenName {
    caller.token().expect("a token").name.clone()
}

/// Whether a message has a security header, so that it is no leg of a negotiation.
fn is_secured(message: &[u8]) -> bool {
    message.windows(9).any(|window| window == b":Security")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_binding_calls_renews_and_cancels_with_each_credential() {
    let certificates = Arc::new(Certificates::new());
    for binding in Binding::ALL {
        for credential in [Credential::None, Credential::UserName, Credential::Certificate] {
            let host = Host::plain(&certificates, binding, credential);
            let listening = listen(&host, loopback(), None).await;
            let settings = settings(&certificates, listening.address, binding, credential);
            let mut caller = Caller::new(settings, now);
            for text in ["one", "two"] {
                assert!(echo(&mut caller, text).await.expect("a reply").contains(text));
            }
            let Ok(Answer::Reply(fault)) = caller.call(ECHO, &body("fail")).await else { panic!("a fault") };
            assert!(fault.is_fault, "a fault of the application is a verified reply");
            let one_way = caller.call("urn:one-way", &body("x")).await.expect("it is taken");
            assert!(matches!(one_way, Answer::Accepted));
            if binding.establish {
                let before = name(&caller);
                caller.renew().await.expect("a new key");
                let (
                    TokenName::Context { identifier, .. },
                    TokenName::Context { identifier: same, instance },
                ) = (before, name(&caller))
                else {
                    panic!("tokens")
                };
                assert!(identifier == same && instance.is_some(), "Renew keeps the name");
            }
            echo(&mut caller, "after").await.expect("a reply");
            caller.cancel().await.expect("it ends");
            assert_eq!(host.ran(), 5);
            assert!(caller.token().is_none());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn https_needs_a_certificate_that_its_settings_accept() {
    let certificates = Arc::new(Certificates::new());
    let host = Host::plain(&certificates, SESSION, Credential::UserName);
    let listening = listen(&host, loopback(), Some(Arc::new(tls_of(&certificates.service)))).await;
    for (trusted, is_trusted) in [(&certificates.service, true), (&certificates.client, false)] {
        let mut settings = settings(&certificates, listening.address, SESSION, Credential::UserName);
        settings.url = format!("https://localhost:{}/echo", listening.address.port()).parse().expect("a URL");
        settings.https = Some(Arc::new(https_to(trusted)));
        let called = echo(&mut Caller::new(settings, now), "x").await;
        assert_eq!(called.is_ok(), is_trusted, "{called:?}");
        if let Err(error) = called {
            assert!(matches!(&error, CallError::NotReached(why) if why.contains("certificate")), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_a_service_whose_certificate_is_rejected() {
    let certificates = Arc::new(Certificates::new());
    let host = Host::plain(&certificates, SESSION, Credential::UserName);
    let (mut caller, _listening) = caller_of(&certificates, &host, |settings| {
        let Bootstrap::Negotiate { certificates: pinned, .. } = &mut settings.bootstrap else { panic!() };
        *pinned = Box::new(Pinned(certificates.client.der.clone()));
    })
    .await;
    let error = echo(&mut caller, "x").await.expect_err("another certificate");
    assert_eq!(error, CallError::ServerCertificate("another certificate".to_owned()));
    assert_eq!(host.messages.load(Ordering::SeqCst), 1, "the first leg alone");
}

/// A message that is not secured, as anyone on the way can write it.
fn forged(body: &str) -> Vec<u8> {
    format!(
        "<s:Envelope xmlns:s='http://www.w3.org/2003/05/soap-envelope' xmlns:a='http://www.w3.org/2005/08/addressing'>\
         <s:Header><a:Action>http://www.w3.org/2005/08/addressing/soap/fault</a:Action></s:Header><s:Body>{body}</s:Body></s:Envelope>"
    )
    .into_bytes()
}

fn forged_fault(namespace: &str, local: &str) -> Vec<u8> {
    forged(&format!(
        "<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value xmlns:x='{namespace}'>x:{local}</s:Value></s:Subcode></s:Code>\
         <s:Reason><s:Text xml:lang='en'>no</s:Text></s:Reason></s:Fault>"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_secured_is_no_reply_and_no_fault_of_the_application() {
    let certificates = Arc::new(Certificates::new());
    let trust = "http://schemas.xmlsoap.org/ws/2005/02/trust";
    let conversation = "http://schemas.xmlsoap.org/ws/2005/02/sc";
    let cases = [
        (forged("<Echo xmlns='urn:echo'>x</Echo>"), "not secured, and no fault"),
        (forged_fault("urn:application", "Broken"), "Broken"),
        (forged_fault("urn:application", "BadContextToken"), "BadContextToken"),
        (forged_fault(trust, "BadContextToken"), "BadContextToken"),
        (forged_fault(conversation, "badcontexttoken"), "badcontexttoken"),
        (forged_fault(conversation, "RenewNeeded"), "RenewNeeded"),
        (b"<html><body>502</body></html>".to_vec(), "cannot be read"),
        (b"502".to_vec(), "cannot be read"),
        (Vec::new(), "cannot be read"),
    ];
    for (forged, words) in cases {
        let answers = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&answers);
        let answer = forged.clone();
        let host =
            Host::new(&certificates, SESSION, Credential::UserName, now, move |host, _, status, body| {
                match host.ran() {
                    0 => Way::Sent(status, body),
                    _ => {
                        seen.fetch_add(1, Ordering::SeqCst);
                        Way::Sent(StatusCode::INTERNAL_SERVER_ERROR, answer.clone())
                    }
                }
            });
        let (mut caller, _listening) = caller_of(&certificates, &host, |_| {}).await;
        let error = echo(&mut caller, "x").await.expect_err(words);
        let text = error.to_string();
        assert!(text.starts_with("not authenticated: ") && text.contains(words), "{text}");
        assert_eq!((host.ran(), answers.load(Ordering::SeqCst)), (1, 1), "{words}: it is not repeated");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_to_another_call_is_rejected() {
    let certificates = Arc::new(Certificates::new());
    let first = Mutex::new(None);
    let host = Host::new(&certificates, SESSION, Credential::UserName, now, move |host, _, status, body| {
        let mut first = first.lock().expect("no panic");
        match host.ran() {
            0 => Way::Sent(status, body),
            1 => {
                *first = Some(body.clone());
                Way::Sent(status, body)
            }
            // The reply to the first call, whole and secured under the session.
            _ => Way::Sent(status, first.clone().expect("a reply")),
        }
    });
    let (mut caller, _listening) = caller_of(&certificates, &host, |_| {}).await;
    assert!(echo(&mut caller, "first").await.expect("a reply").contains("first"));
    let error = echo(&mut caller, "second").await.expect_err("the first reply");
    assert_eq!(error, CallError::Protocol(ClientError::OtherMessage));
    assert_eq!(host.ran(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_over_a_restart_run_as_often_as_they_are_reported() {
    let certificates = Arc::new(Certificates::new());
    for binding in [SESSION, Binding { negotiate: true, establish: false }] {
        for credential in [Credential::UserName, Credential::Certificate] {
            // All sessions are lost after call 30. Before call 60 the whole service ends, and it is back
            // before call 62.
            let is_lost = AtomicBool::new(false);
            let host = Host::new(&certificates, binding, credential, now, move |host, _, status, body| {
                if host.ran() == 30 && !is_lost.swap(true, Ordering::SeqCst) {
                    host.restart();
                }
                Way::Sent(status, body)
            });
            let listening = listen(&host, loopback(), None).await;
            let address = listening.address;
            let mut caller = Caller::new(settings(&certificates, address, binding, credential), now);
            let (mut good, mut not_reached, mut listening) = (0, 0, Some(listening));
            for n in 0..100 {
                if n == 60 {
                    listening.take().expect("it listens").stop().await;
                    host.restart();
                }
                if n == 62 {
                    listening = Some(listen(&host, address, None).await);
                }
                match echo(&mut caller, &format!("call {n}")).await {
                    Ok(body) => {
                        assert!(body.contains(&format!("call {n}<")), "{body}");
                        good += 1;
                    }
                    Err(error) => {
                        assert!(matches!(error, CallError::NotReached(_) | CallError::Lost(_)), "{error}");
                        not_reached += 1;
                    }
                }
            }
            assert_eq!((good, not_reached), (98, 2));
            assert_eq!(host.ran(), good, "{binding:?} {credential:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_which_the_end_is_not_known_is_not_repeated() {
    let certificates = Arc::new(Certificates::new());
    for is_stuck in [false, true] {
        let host =
            Host::new(&certificates, SESSION, Credential::UserName, now, move |host, _, status, body| {
                match host.ran() {
                    1 if is_stuck => Way::Stuck,
                    1 => Way::Lost,
                    _ => Way::Sent(status, body),
                }
            });
        // Enough for each message of a busy machine, except for the one that is stuck.
        let short = if is_stuck { Duration::from_secs(5) } else { TIMEOUT };
        let (mut caller, _listening) =
            caller_of(&certificates, &host, |settings| settings.timeout = short).await;
        let error = echo(&mut caller, "x").await.expect_err("there is no answer");
        assert_eq!(error == CallError::TimedOut, is_stuck, "{error}");
        assert!(error.is_open(), "{error}");
        assert_eq!(host.ran(), 1);
        // The session is still there.
        let before = name(&caller);
        echo(&mut caller, "y").await.expect("a reply");
        assert_eq!((host.ran(), name(&caller)), (2, before));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_comes_is_a_time_out() {
    let certificates = Arc::new(Certificates::new());
    let host = Host::new(&certificates, SESSION, Credential::UserName, now, |_, _, _, _| Way::Stuck);
    let (mut caller, _listening) =
        caller_of(&certificates, &host, |settings| settings.timeout = Duration::from_millis(50)).await;
    assert_eq!(caller.open().await, Err(CallError::TimedOut));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_does_not_listen_is_not_reached() {
    let certificates = Certificates::new();
    let settings = settings(&certificates, UNUSED, SESSION, Credential::UserName);
    let error = echo(&mut Caller::new(settings, now), "x").await.expect_err("nothing listens");
    assert!(matches!(error, CallError::NotReached(_)) && !error.is_open(), "{error}");
}

/// Seconds that have passed for the test of renewal.
static PASSED: AtomicU64 = AtomicU64::new(0);

fn later() -> Moment {
    let passed = Duration::from_secs(PASSED.load(Ordering::SeqCst));
    Moment { wall: FileTime::from(SystemTime::now()) + passed, uptime: passed + Duration::from_secs(1_000) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_key_is_due_is_renewed_and_keeps_its_name() {
    let certificates = Arc::new(Certificates::new());
    let clock: Clock = later;
    for credential in [Credential::UserName, Credential::Certificate, Credential::None] {
        for negotiate in [true, false] {
            let binding = Binding { negotiate, establish: true };
            let host = Host::new(&certificates, binding, credential, clock, |_, _, status, body| {
                Way::Sent(status, body)
            });
            let listening = listen(&host, loopback(), None).await;
            let mut caller =
                Caller::new(settings(&certificates, listening.address, binding, credential), clock);
            echo(&mut caller, "x").await.expect("a reply");
            let token = caller.token().expect("a token").clone();
            // Past three quarters of its life, a minute at a time, so that it is not idle.
            let due = token.expires.since(token.created).as_secs() * 3 / 4;
            for passed in 0..=due / 60 + 1 {
                PASSED.fetch_add(60, Ordering::SeqCst);
                echo(&mut caller, "x").await.unwrap_or_else(|error| panic!("after {passed} min: {error}"));
            }
            let (TokenName::Context { identifier, .. }, TokenName::Context { identifier: same, instance }) =
                (token.name, name(&caller))
            else {
                panic!("tokens")
            };
            assert!(identifier == same && instance.is_some(), "{credential:?} {negotiate}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_dropped_is_opened_anew_once() {
    let certificates = Arc::new(Certificates::new());
    // The service loses each session at the moment at which it is to be used.
    let host = Host::new(&certificates, SESSION, Credential::UserName, now, |host, message, status, body| {
        if is_secured(message) {
            host.restart();
        }
        Way::Sent(status, body)
    });
    let (mut caller, _listening) = caller_of(&certificates, &host, |_| {}).await;
    let error = echo(&mut caller, "x").await.expect_err("no session stays");
    assert!(error.to_string().starts_with("not authenticated: BadContextToken"), "{error}");
    // Four legs and RST/SCT, twice, and two calls: TLS 1.2 needs two exchanges.
    assert_eq!((host.ran(), host.messages.load(Ordering::SeqCst)), (0, 2 * 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_an_observer_ended_is_opened_anew() {
    let certificates = Arc::new(Certificates::new());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let copy = Arc::clone(&seen);
    let host =
        Host::new(&certificates, SESSION, Credential::UserName, now, move |_, message, status, body| {
            *copy.lock().expect("no panic") = message.to_vec();
            Way::Sent(status, body)
        });
    let (mut caller, _listening) = caller_of(&certificates, &host, |_| {}).await;
    echo(&mut caller, "x").await.expect("a reply");
    let before = name(&caller);
    // An observer of an Identifier can send messages under it that do not decrypt: the third ends the
    // session.
    let call = seen.lock().expect("no panic").clone();
    let end = b"</e:CipherValue>";
    let at = call.windows(end.len()).rposition(|window| window == end).expect("a cipher value");
    for n in 1..=3 {
        let mut broken = call.clone();
        broken[at - 8 - n] = if broken[at - 8 - n] == b'A' { b'B' } else { b'A' };
        assert_eq!(host.post(&broken).await, 500);
    }
    assert!(echo(&mut caller, "after").await.expect("a reply").contains("after"));
    assert_ne!(name(&caller), before);
    assert_eq!(host.ran(), 2);
}
