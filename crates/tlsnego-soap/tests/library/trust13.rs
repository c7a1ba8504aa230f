//! WS-Trust 1.3: the same protocol under other URIs, if the service has it switched on.

use crate::matrix::{ECHO, body, client, negotiate_with, tls_client, user};
use crate::support::*;
use tlsnego_service::session::Credential;
use tlsnego_soap::client::{Client, ClientError, ContextToken, Proof, Under};
use tlsnego_soap::refusal::{Dialect, Refusal};
use tlsnego_soap::server::{Binding, Event};
use tlsnego_soap::{CONTENT_TYPE, TrustVersion};
use xml_security::Signer;

fn client_13() -> Client {
    Client { version: TrustVersion::V13, ..client() }
}

fn service_13(certificates: &Certificates, bindings: &[Binding], credential: Credential) -> Service {
    service_with(certificates, bindings, credential, |settings| settings.trust13 = true)
}

fn negotiate(
    client: &Client,
    service: &Service,
    certificates: &Certificates,
) -> Result<ContextToken, ClientError> {
    let tls = tls_client(certificates, Credential::None);
    negotiate_with(client, service, &tls, &certificates.service.der, |answer| answer)
}

#[test]
fn every_way_to_a_call_works_with_every_credential() {
    let certificates = Certificates::new();
    let (preset, user, signer) = (certificates.service.certificate(), user(), certificates.client.signer());
    let client = client_13();
    let now = || now().wall;
    println!("negotiate establish credential  | WS-Trust 1.3");
    for binding in Binding::ALL {
        for credential in [Credential::UserName, Credential::Certificate, Credential::None] {
            let service = service_13(&certificates, &[binding], credential);
            let proof = match credential {
                Credential::UserName => Proof::UserName(&user),
                Credential::Certificate if !binding.negotiate => Proof::Certificate(&signer as &dyn Signer),
                _ => Proof::None,
            };
            let bootstrap = || {
                let tls = tls_client(&certificates, credential);
                binding.negotiate.then(|| {
                    negotiate_with(&client, &service, &tls, &certificates.service.der, |answer| answer)
                        .expect("a token")
                })
            };
            let first = bootstrap();
            let outer = first.as_ref().map_or(Under::Certificate(&preset), Under::Token);
            let send = |octets: &[u8]| {
                let text = String::from_utf8(octets.to_vec()).expect("UTF-8");
                assert!(!text.contains("schemas.xmlsoap.org/ws/2005/02"), "{text}");
                let reply = post(&service, CONTENT_TYPE, octets).response.body;
                let text = String::from_utf8(reply.clone()).expect("UTF-8");
                assert!(!text.contains("schemas.xmlsoap.org/ws/2005/02"), "{text}");
                reply
            };
            let session = binding.establish.then(|| {
                let (octets, establishing) = client.establish(outer, proof, now()).expect("RST/SCT");
                let token = establishing.receive(&send(&octets), now()).expect("a session");
                let (octets, renewing) =
                    client.renew(&token, Under::Token(&token), Proof::None, now()).expect("Renew");
                renewing.receive(&send(&octets), now()).expect("a renewed session")
            });
            let (under, proof) = match &session {
                Some(token) => (Under::Token(token), Proof::None),
                None => (outer, proof),
            };
            for n in 0..4 {
                let text = body(&format!("call {n}"));
                let (octets, pending) = client.call(under, proof, (ECHO, &text), now()).expect("a call");
                let reply = pending.receive(&send(&octets), now()).expect("a reply");
                assert_eq!(reply.action, "urn:echoResponse");
            }
            if let Under::Token(token) = under {
                let (octets, cancelling) = client.cancel(token, now()).expect("Cancel");
                cancelling.receive(&send(&octets), now()).expect("it is cancelled");
                let (octets, pending) = client.call(under, proof, (ECHO, &body("x")), now()).expect("a call");
                let fault = pending.receive(&send(&octets), now()).expect_err("it is cancelled");
                // The names of February 2005 stand for both, so that programs compare one.
                let ClientError::NotAuthenticated(fault) = fault else { panic!("{fault}") };
                assert_eq!(
                    (&*fault.namespace, &*fault.local),
                    ("http://schemas.xmlsoap.org/ws/2005/02/sc", "BadContextToken")
                );
            }
            let (negotiate, establish) = (binding.negotiate, binding.establish);
            println!("{negotiate:9} {establish:9} {:11} | 4 of 4", credential.as_str());
        }
    }
}

#[test]
fn it_is_refused_where_it_is_switched_off() {
    let certificates = Certificates::new();
    let preset = certificates.service.certificate();
    let off = service(&certificates, &Binding::ALL, Credential::None);
    let (leg, _) = client_13().negotiate(&tls_client(&certificates, Credential::None)).expect("a leg");
    // An action of the application, under tokens of 1.3.
    let (call, _) = client_13()
        .call(Under::Certificate(&preset), Proof::None, (ECHO, &body("x")), now().wall)
        .expect("a call");
    for octets in [leg, call] {
        let said = post(&off, CONTENT_TYPE, &octets);
        let Some(Event::Refused(refusal)) = &said.event else { panic!("{:?}", said.event) };
        assert_eq!(*refusal, Refusal::Dialect(Dialect::Trust13));
        assert!(
            refusal.advice().is_some_and(|advice| advice.contains("set trust13 of this service to true"))
        );
        let text = String::from_utf8(said.response.body).expect("UTF-8");
        assert!(
            text.contains(":ActionNotSupported")
                && text.contains("WS-Trust 1.3 is not supported: use wsHttpBinding")
        );
        assert!(!text.contains("trust13"), "{text}");
    }
}

#[test]
fn a_message_and_its_answer_are_of_one_version() {
    let certificates = Certificates::new();
    let preset = certificates.service.certificate();
    let service = service_13(&certificates, &Binding::ALL, Credential::None);
    // February 2005 goes on.
    negotiate(&client(), &service, &certificates).expect("a token");
    let (octets, _) =
        client_13().establish(Under::Certificate(&preset), Proof::None, now().wall).expect("RST/SCT");
    let text = String::from_utf8(octets).expect("UTF-8");
    let mixed = text.replacen(
        "http://docs.oasis-open.org/ws-sx/ws-secureconversation/200512",
        "http://schemas.xmlsoap.org/ws/2005/02/sc",
        1,
    );
    assert_ne!(mixed, text);
    let said = post(&service, CONTENT_TYPE, mixed.as_bytes());
    assert!(matches!(said.event, Some(Event::Refused(Refusal::Security(_)))), "{:?}", said.event);

    // A client takes no answer of the other version, secured or not.
    let (octets, pending) = client_13()
        .call(Under::Certificate(&preset), Proof::None, (ECHO, &body("x")), now().wall)
        .expect("a call");
    let reply = String::from_utf8(post(&service, CONTENT_TYPE, &octets).response.body).expect("UTF-8");
    let other = reply.replace(
        "http://docs.oasis-open.org/ws-sx/ws-secureconversation/200512",
        "http://schemas.xmlsoap.org/ws/2005/02/sc",
    );
    let error = pending.receive(other.as_bytes(), now().wall).expect_err("another version");
    assert!(error.to_string().contains("another version of WS-Trust"), "{error}");
    let tls = tls_client(&certificates, Credential::None);
    let answer = negotiate_with(&client_13(), &service, &tls, &certificates.service.der, |answer| {
        let text = String::from_utf8(answer).expect("UTF-8");
        text.replace(
            "http://docs.oasis-open.org/ws-sx/ws-trust/200512",
            "http://schemas.xmlsoap.org/ws/2005/02/trust",
        )
        .into_bytes()
    });
    let error = answer.expect_err("another version");
    assert!(error.to_string().contains("another version of WS-Trust"), "{error}");
}
