//! What a client shows of its messages.

use crate::matrix::*;
use crate::support::*;
use std::sync::{Arc, Mutex};
use tlsnego_service::TlsVersions;
use tlsnego_service::negotiation;
use tlsnego_service::session::{Credential, SessionKind};
use tlsnego_soap::CONTENT_TYPE;
use tlsnego_soap::client::{Client, Proof, Under};
use tlsnego_soap::server::Binding;
use tlsnego_soap::trace::{Content, Message, Traced};
use xml_security::{CarriedKind, KeyReference, TokenName};

/// A client that notes what happens.
fn traced() -> (Client, impl Fn() -> Vec<Traced>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let trace = move |traced| noted.lock().expect("no panic").push(traced);
    let client = Client { trace: Some(Arc::new(trace)), ..client() };
    (client, move || std::mem::take(&mut *seen.lock().expect("no panic")))
}

fn tls_of(traced: &Traced) -> Vec<&'static str> {
    match traced {
        Traced::Sent(Message { content: Content::Leg { tls }, .. })
        | Traced::Received(Message { content: Content::Leg { tls }, .. }) => tls.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_trace_shows_the_handshake_the_session_and_the_keys_and_no_secret() {
    let certificates = Certificates::new();
    let binding = Binding { negotiate: true, establish: true };
    let service = service(&certificates, &[binding], Credential::UserName);
    let (client, taken) = traced();
    let tls = negotiation::Client::new(None, TlsVersions::Tls12).expect("a client");
    let token = negotiate_with(&client, &service, &tls, &certificates.service.der, |answer| answer);
    let token = token.expect("a token");
    let mut all = taken();
    // RFC 5246, figure 1.
    let [first, second, Traced::Certificate(shown), third, Traced::Received(fourth), last] = &all[..] else {
        panic!("{all:#?}")
    };
    assert_eq!(tls_of(first), ["ClientHello"]);
    assert_eq!(tls_of(second), ["ServerHello", "Certificate", "ServerKeyExchange", "ServerHelloDone"]);
    assert_eq!(**shown, *certificates.service.der);
    assert_eq!(tls_of(third), ["ClientKeyExchange", "ChangeCipherSpec", "Finished (encrypted)"]);
    let Content::Token(leg) = &fourth.content else { panic!("{fourth:?}") };
    assert_eq!(leg.tls, ["ChangeCipherSpec", "Finished (encrypted)"]);
    // One record with a key of 256 bits, and P_SHA1 to 32 octets.
    assert_eq!((&leg.wrapped_key[..], leg.wrapped_key_len), (&["application data"][..], 61));
    assert_eq!(leg.authenticator_len, Some(32));
    let TokenName::Context { identifier, .. } = &token.name else { panic!("a token") };
    assert_eq!(leg.identifier, *identifier);
    let Traced::Session { session, .. } = last else { panic!("{last:?}") };
    assert_eq!((session.kind, &session.name, &session.parent), (SessionKind::Negotiated, identifier, &None));

    let user = user();
    let (octets, establishing) =
        client.establish(Under::Token(&token), Proof::UserName(&user), now().wall).expect("RST/SCT");
    let said = post(&service, CONTENT_TYPE, &octets);
    let established = establishing.receive(&said.response.body, now().wall).expect("a token");
    let (octets, cancelling) = client.cancel(&established, now().wall).expect("Cancel");
    cancelling.receive(&post(&service, CONTENT_TYPE, &octets).response.body, now().wall).expect("cancelled");
    let events = taken();
    let [
        Traced::Sent(request),
        Traced::Received(reply),
        Traced::Session { session, .. },
        ..,
        Traced::Cancelled(name),
    ] = &events[..]
    else {
        panic!("{events:#?}")
    };
    assert_eq!((session.kind, session.parent.as_ref()), (SessionKind::Established, Some(identifier)));
    assert_eq!(session.name, *name);
    let (Content::Secured(request), Content::Secured(reply)) = (&request.content, &reply.content) else {
        panic!("{events:#?}")
    };
    // A request carries its token, and a reply names it.
    let [carried] = &request.tokens[..] else { panic!("{request:?}") };
    assert_eq!(carried.kind, CarriedKind::Context(token.name.clone()));
    assert!(reply.tokens.is_empty());
    assert!(reply.derived_keys.iter().all(|key| key.base == KeyReference::Token(token.name.clone())));
    for layout in [request, reply] {
        let lengths: Vec<_> = layout.derived_keys.iter().map(|key| (key.offset, key.length)).collect();
        assert_eq!(lengths, [(0, 24), (0, 32)]);
        let id = |n: usize| KeyReference::Id(layout.derived_keys[n].id.clone());
        let [signed] = &layout.signatures[..] else { panic!("{layout:?}") };
        let [encrypted] = &layout.encryptions[..] else { panic!("{layout:?}") };
        assert!(signed.key == id(0) && signed.parts.iter().any(|part| part == "s:Body"));
        assert!(encrypted.key == id(1) && encrypted.parts.iter().any(|part| part == "content of s:Body"));
    }
    assert!(request.encryptions[0].parts.iter().any(|part| part == "o:UsernameToken"));

    all.extend(events);
    let printed = format!("{all:?}");
    for secret in [PASSWORD, USER, "BinarySecret", "Nonce"] {
        assert!(!printed.contains(secret), "{secret}");
    }
}

#[test]
fn a_trace_says_what_is_rejected() {
    let certificates = Certificates::new();
    let service = service(&certificates, &[Binding { negotiate: true, establish: false }], Credential::None);
    let (client, taken) = traced();
    let tls = negotiation::Client::new(None, TlsVersions::Tls12And13).expect("a client");
    // The lifetime is covered by the authenticator.
    let change = |mut answer: Vec<u8>| {
        let end = b"Z</u:Expires>";
        if let Some(at) = answer.windows(end.len()).position(|window| window == end) {
            answer[at - 1] = if answer[at - 1] == b'1' { b'2' } else { b'1' };
        }
        answer
    };
    negotiate_with(&client, &service, &tls, &certificates.service.der, change).expect_err("it is changed");
    let events = taken();
    let [.., Traced::Received(last), Traced::Rejected(why)] = &events[..] else { panic!("{events:#?}") };
    assert!(matches!(last.content, Content::Token(_)));
    assert_eq!(why, "the answer is rejected: the authenticator does not match the messages");

    let token = negotiate_with(&client, &service, &tls, &certificates.service.der, |answer| answer);
    let token = token.expect("a token");
    taken();
    let (_, pending) =
        client.call(Under::Token(&token), Proof::None, (ECHO, &body("x")), now().wall).expect("a call");
    pending.receive(b"<html/>", now().wall).expect_err("no reply");
    let events = taken();
    let [Traced::Sent(_), Traced::Received(page), Traced::Rejected(why)] = &events[..] else {
        panic!("{events:#?}")
    };
    assert_eq!((page.content.clone(), &*page.action), (Content::Other, ""));
    assert!(why.starts_with("not authenticated: "), "{why}");
}
