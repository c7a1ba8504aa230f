//! Both roles against each other, and what neither accepts.

use crate::support::*;
use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;
use tlsnego_service::TlsVersions::{self, Tls12, Tls12And13};
use tlsnego_service::fault::{Fault, Reason};
use tlsnego_service::key::KeySize;
use tlsnego_service::message::{BinaryExchange, Context, Request, Response, TokenResponse};
use tlsnego_service::names;
use tlsnego_service::negotiation::{
    Answer, ClientCertificates, LEGS_MAX, NEGOTIATIONS_MAX, Negotiations, Step, TIME_MAX, TokenRequest,
};
use xml_security::names::CONTEXT_TOKEN;

const CONTEXT: &str = "uuid-8b61a3b4-9c3f-4f5e-8f0e-7f2f6f2f3c1e-1";

fn anonymous(versions: TlsVersions) -> (Certificate, Negotiations) {
    let certificate = Certificate::new("service.example");
    let server = server(&certificate, versions, ClientCertificates::NotAsked);
    (certificate, server)
}

fn request(exchange: &str, octets: &[u8]) -> Request<'static> {
    Request {
        context: Some(CONTEXT.into()),
        token_type: Some(CONTEXT_TOKEN.into()),
        request_type: Some(names::ISSUE.into()),
        key_size: Some("256".into()),
        binary_exchange: Some(BinaryExchange {
            value_type: Cow::Owned(exchange.to_owned()),
            octets: Cow::Owned(octets.to_vec()),
        }),
        applies_to: None,
    }
}

fn hello() -> Vec<u8> {
    let first = start(&client(None, Tls12), "x");
    first.message().binary_exchange.as_ref().expect("a ClientHello").octets.to_vec()
}

#[test]
fn an_anonymous_client_gets_a_token_in_four_legs() {
    for (client_versions, server_versions) in
        [(Tls12, Tls12), (Tls12And13, Tls12), (Tls12, Tls12And13), (Tls12And13, Tls12And13)]
    {
        let (certificate, server) = anonymous(server_versions);
        let client = client(None, client_versions);
        let Finishing { waiting, established, server: shown, legs } = negotiate(&client, &server, CONTEXT);
        assert_eq!((shown, legs), (certificate.der, 3));
        assert!(established.certificates().is_empty());
        let (response, issued) = issue(established);
        let is_13 = (client_versions, server_versions) == (Tls12And13, Tls12And13);
        assert_eq!(response.binary_exchange.is_none(), is_13, "TLS 1.3 has nothing to send after Finished");
        let record = response.cipher_value.as_ref().expect("the proof key");
        assert_eq!(
            (record[0], record.len()),
            (23, if is_13 { 54 } else { 61 }),
            "one application_data record"
        );
        let token = finish(waiting, &response, &issued);
        assert_eq!(token.key.as_bytes(), RANDOM);
        assert_eq!(token.key, issued.key);
        assert_eq!(
            (token.identifier.as_str(), token.created, token.expires),
            (IDENTIFIER, grant().created, grant().expires)
        );
        assert!(server.is_empty());
    }
}

#[test]
fn a_client_proves_its_certificate() {
    let (service, alice) = (Certificate::new("service.example"), Certificate::new("alice.example"));
    for versions in [Tls12, Tls12And13] {
        let server = server(&service, versions, ClientCertificates::Required);
        let Finishing { waiting, established, .. } =
            negotiate(&client(Some(&alice), versions), &server, CONTEXT);
        assert_eq!(established.certificates()[0].as_ref(), alice.der);
        let (response, issued) = issue(established);
        finish(waiting, &response, &issued);
    }
}

#[test]
fn a_client_without_the_certificate_that_is_required_gets_no_token() {
    let service = Certificate::new("service.example");
    for versions in [Tls12, Tls12And13] {
        let server = server(&service, versions, ClientCertificates::Required);
        let (reply, waiting) = first_reply(&server, versions);
        let reason = server.next(&client_leg(waiting, &reply), b"leg 3", NOW).expect_err("no certificate");
        assert_eq!((&reason, reason.fault()), (&Reason::NoCertificate, Fault::NegotiationFailed));
        assert!(server.is_empty());
    }
}

/// Leg 2, and the client that waits for it.
fn first_reply(
    server: &Negotiations,
    versions: TlsVersions,
) -> (Response<'static>, tlsnego_service::negotiation::Waiting) {
    let first = start(&client(None, versions), CONTEXT);
    let Ok(Answer::Reply(reply)) = server.first(first.message(), b"leg 1", SOURCE, NOW) else {
        panic!("leg 2")
    };
    let message = reply.message().clone();
    reply.wrote(b"leg 2");
    (message, first.wrote(b"leg 1"))
}

/// Leg 3.
fn client_leg(waiting: tlsnego_service::negotiation::Waiting, reply: &Response<'_>) -> Response<'static> {
    let Ok(Step::Certificate(unverified)) = waiting.receive(reply, b"leg 2") else { panic!("a certificate") };
    unverified.accept().expect("leg 3").message().clone()
}

#[test]
fn first_legs_that_are_not_as_they_have_to_be_are_refused() {
    let (_, server) = anonymous(Tls12);
    let good = || request(names::TLSNEGO, &hello());
    let mut cases: Vec<(&str, Request<'static>, Fault)> = vec![
        ("no Context", Request { context: None, ..good() }, Fault::InvalidRequest),
        ("an empty Context", Request { context: Some("".into()), ..good() }, Fault::InvalidRequest),
        (
            "a Context of 1,000 characters",
            Request { context: Some("x".repeat(1_000).into()), ..good() },
            Fault::InvalidRequest,
        ),
        ("no BinaryExchange", Request { binary_exchange: None, ..good() }, Fault::InvalidRequest),
        ("Renew", Request { request_type: Some(names::RENEW.into()), ..good() }, Fault::InvalidRequest),
        ("another token type", Request { token_type: Some("urn:x".into()), ..good() }, Fault::InvalidRequest),
        (
            "a long AppliesTo",
            Request { applies_to: Some(vec![b'x'; 4_097].into()), ..good() },
            Fault::InvalidRequest,
        ),
        ("no TLS", request(names::TLSNEGO, b"GET / HTTP/1.1\r\n\r\n"), Fault::NegotiationFailed),
        ("an alert", request(names::TLSNEGO, &[21, 3, 3, 0, 2, 2, 40]), Fault::NegotiationFailed),
        ("application data", request(names::TLSNEGO, &[23, 3, 3, 0, 2, 2, 40]), Fault::NegotiationFailed),
        ("too many octets", request(names::TLSNEGO, &vec![22; 200_000]), Fault::InvalidRequest),
    ];
    for size in ["128", "192", "255", "-256", "", "256 bits", "99999999999999999999"] {
        cases.push(("a key size", Request { key_size: Some(size.into()), ..good() }, Fault::InvalidRequest));
    }
    for value_type in [
        "",
        "http://schemas.xmlsoap.org/ws/2005/02/trust/spnego",
        "http://schemas.xmlsoap.org/ws/2005/02/trust/tlsnego ",
        "  http://schemas.xmlsoap.org/ws/2005/02/trust/tlsnego",
        "http://schemas.xmlsoap.org/2005/02/trust/tlsnego",
    ] {
        cases.push(("a value type", request(value_type, &hello()), Fault::InvalidRequest));
    }
    for (what, request, fault) in cases {
        let reason = server.first(&request, b"leg 1", SOURCE, NOW).expect_err(what);
        assert_eq!(reason.fault(), fault, "{what}: {reason}");
        assert!(server.is_empty(), "{what}");
    }
    for size in [None, Some("0"), Some("256"), Some(" 256\n")] {
        let request =
            Request { key_size: size.map(Into::into), request_type: None, token_type: None, ..good() };
        let answer = server.first(&request, b"leg 1", SOURCE, NOW);
        assert!(matches!(answer, Ok(Answer::Reply(_))), "{size:?}: {answer:?}");
    }
}

#[test]
fn the_value_type_is_echoed_to_the_letter() {
    let (_, server) = anonymous(Tls12);
    for value_type in [names::TLSNEGO, names::TLSNEGO_WITHOUT_SPACE] {
        let Ok(Answer::Reply(reply)) = server.first(&request(value_type, &hello()), b"leg 1", SOURCE, NOW)
        else {
            panic!("leg 2");
        };
        assert_eq!(reply.message().binary_exchange.as_ref().expect("a flight").value_type, value_type);
    }
    assert!(names::TLSNEGO.starts_with(" http"));
    // Later legs have the spelling of the first, on both sides.
    let (reply, waiting) = first_reply(&server, Tls12);
    let mut other = reply.clone();
    other.binary_exchange.as_mut().expect("a flight").value_type = names::TLSNEGO_WITHOUT_SPACE.into();
    let reason = waiting.receive(&other, b"leg 2").expect_err("another spelling");
    assert_eq!(reason.name(), "unsupported");
    other.binary_exchange.as_mut().expect("a flight").value_type = names::TLSNEGO_WITHOUT_SPACE.into();
    assert_eq!(
        server.next(&other, b"leg 3", NOW).expect_err("another spelling").fault(),
        Fault::InvalidRequest
    );
    assert!(server.is_empty(), "any error ends a negotiation");
}

#[test]
fn applies_to_is_echoed() {
    let (_, server) = anonymous(Tls12);
    let request = TokenRequest {
        context: Context::new(Some(CONTEXT)).expect("a Context"),
        key_size: KeySize::Bits256,
        value_type: names::TLSNEGO,
        applies_to: Some(b"<wsp:AppliesTo/>".to_vec()),
    };
    let first = client(None, Tls12).start(request).expect("leg 1");
    let Ok(Answer::Reply(reply)) = server.first(first.message(), b"1", SOURCE, NOW) else { panic!("leg 2") };
    let Ok(Step::Certificate(unverified)) = first.wrote(b"1").receive(reply.message(), b"2") else {
        panic!("leg 2")
    };
    reply.wrote(b"2");
    let Ok(Answer::Established(established)) =
        server.next(unverified.accept().expect("leg 3").message(), b"3", NOW)
    else {
        panic!("leg 4");
    };
    let (response, _) = issue(established);
    assert_eq!(response.applies_to.as_deref(), Some(&b"<wsp:AppliesTo/>"[..]));
}

/// A last leg, and what to change in it.
struct Last {
    response: TokenResponse<'static>,
    /// The canonical octets that the client sees; those of the response if none.
    canonical: Option<Vec<u8>>,
    authenticators: Vec<tlsnego_service::message::Authenticator<'static>>,
}

#[test]
fn a_last_leg_that_was_changed_gives_no_token() {
    fn exchange(last: &mut Last, change: impl FnOnce(&mut Vec<u8>)) {
        change(last.response.binary_exchange.as_mut().expect("the last flight").octets.to_mut());
    }
    type Change = fn(&mut Last);
    let changes: &[(&str, Change)] = &[
        ("BinaryExchange: a bit", |last| exchange(last, |octets| octets[20] ^= 1)),
        ("BinaryExchange: an octet more", |last| exchange(last, |octets| octets.push(0))),
        ("BinaryExchange: dropped", |last| last.response.binary_exchange = None),
        ("BinaryExchange: its value type", |last| {
            last.response.binary_exchange.as_mut().expect("a flight").value_type =
                names::TLSNEGO_WITHOUT_SPACE.into();
        }),
        ("Lifetime: later", |last| {
            let (created, expires) = last.response.lifetime.expect("it has one");
            last.response.lifetime = Some((created, expires + Duration::from_secs(1)));
        }),
        ("Lifetime: dropped", |last| last.response.lifetime = None),
        ("KeySize: another", |last| last.response.key_size = Some("128".into())),
        ("KeySize: dropped", |last| last.response.key_size = None),
        ("TokenType: another", |last| last.response.token_type = Some("urn:x".into())),
        ("TokenType: dropped", |last| last.response.token_type = None),
        ("AppliesTo: added", |last| last.response.applies_to = Some(b"<wsp:AppliesTo/>".as_slice().into())),
        ("a reference: another", |last| last.canonical = Some(b"<o:Reference URI='#other'/>".to_vec())),
        ("Context: another", |last| last.response.context = Some("other".into())),
        ("Context: dropped", |last| last.response.context = None),
        ("Identifier: dropped", |last| last.response.identifier = None),
        ("Identifier: empty", |last| last.response.identifier = Some("".into())),
        ("algorithm: another", |last| {
            last.response.wrap_algorithm =
                Some("http://schemas.xmlsoap.org/ws/2005/02/trust/tlsnego#TLS_Wrap".into());
        }),
        ("CipherValue: a bit", |last| last.response.cipher_value.as_mut().expect("a key").to_mut()[30] ^= 1),
        ("CipherValue: an octet less", |last| {
            last.response.cipher_value.as_mut().expect("a key").to_mut().pop();
        }),
        ("CipherValue: an octet more", |last| {
            last.response.cipher_value.as_mut().expect("a key").to_mut().push(0)
        }),
        ("CipherValue: dropped", |last| last.response.cipher_value = None),
        ("CipherValue: empty", |last| last.response.cipher_value = Some(b"".as_slice().into())),
        ("CipherValue: the raw key", |last| last.response.cipher_value = Some(RANDOM.as_slice().into())),
        ("CipherValue: twice", |last| {
            let record = last.response.cipher_value.clone().expect("a key");
            last.response.cipher_value.as_mut().expect("a key").to_mut().extend_from_slice(&record);
        }),
        ("authenticator: missing", |last| last.authenticators.clear()),
        ("authenticator: twice", |last| last.authenticators.push(last.authenticators[0].clone())),
        ("authenticator: its hash missing", |last| last.authenticators[0].combined_hash = None),
        ("authenticator: another Context", |last| last.authenticators[0].context = Some("other".into())),
        ("authenticator: a bit", |last| {
            last.authenticators[0].combined_hash.as_mut().expect("a hash").to_mut()[31] ^= 0x80;
        }),
        ("authenticator: 31 octets", |last| {
            last.authenticators[0].combined_hash.as_mut().expect("a hash").to_mut().pop();
        }),
        ("authenticator: empty", |last| last.authenticators[0].combined_hash = Some(b"".as_slice().into())),
    ];
    let (_, server) = anonymous(Tls12);
    let client = client(None, Tls12);
    for (what, change) in changes {
        let Finishing { waiting, established, .. } = negotiate(&client, &server, CONTEXT);
        let (response, issued) = issue(established);
        let mut last = Last {
            response,
            canonical: None,
            authenticators: vec![authenticator(CONTEXT, &issued.combined_hash)],
        };
        change(&mut last);
        let octets = last.canonical.unwrap_or_else(|| canonical_of_token(&last.response));
        let finished = waiting.finish(&last.response, &octets, &last.authenticators);
        assert!(finished.is_err(), "{what}");
    }
}

#[test]
fn earlier_legs_that_were_changed_or_swapped_give_no_token() {
    // The client hashes another leg 2 than the server sent, and the server another leg 1 or 3 than the client
    // sent.
    for changed in 1..=3 {
        let (_, server) = anonymous(Tls12);
        let seen =
            |leg: usize, octets: &'static [u8]| if leg == changed { b"changed".as_slice() } else { octets };
        let first = start(&client(None, Tls12), CONTEXT);
        let Ok(Answer::Reply(reply)) = server.first(first.message(), seen(1, b"leg 1"), SOURCE, NOW) else {
            panic!("leg 2");
        };
        let Ok(Step::Certificate(unverified)) =
            first.wrote(b"leg 1").receive(reply.message(), seen(2, b"leg 2"))
        else {
            panic!("leg 2");
        };
        reply.wrote(b"leg 2");
        let third = unverified.accept().expect("leg 3");
        let Ok(Answer::Established(established)) = server.next(third.message(), seen(3, b"leg 3"), NOW)
        else {
            panic!("leg 4");
        };
        let waiting = third.wrote(b"leg 3");
        let (response, issued) = issue(established);
        let authenticators = [authenticator(CONTEXT, &issued.combined_hash)];
        let finished = waiting.finish(&response, &canonical_of_token(&response), &authenticators);
        assert_eq!(finished.map(|_| ()), Err(Reason::Authenticator), "leg {changed}");
    }

    // Leg 2 of another negotiation.
    let (_, server) = anonymous(Tls12);
    let (mut reply, _) = first_reply(&server, Tls12);
    reply.context = Some("other".into());
    let first = start(&client(None, Tls12), "other");
    let Ok(Answer::Reply(own)) = server.first(first.message(), b"leg 1", SOURCE, NOW) else {
        panic!("leg 2")
    };
    own.wrote(b"leg 2");
    // TLS finds it: the signature is over the random octets of the other ClientHello.
    let swapped = first.wrote(b"leg 1").receive(&reply, b"leg 2");
    assert!(swapped.is_err_and(|reason| reason.name() == "tls"));
}

#[test]
fn a_server_that_was_not_accepted_gives_no_token() {
    let (_, server) = anonymous(Tls12);
    let (reply, waiting) = first_reply(&server, Tls12);
    // Leg 2 carries the last flight of nothing: the token comes before the handshake is complete.
    let response = TokenResponse {
        context: Some(CONTEXT.into()),
        token_type: Some(CONTEXT_TOKEN.into()),
        identifier: Some(IDENTIFIER.into()),
        wrap_algorithm: Some(names::TLS_WRAP.into()),
        cipher_value: Some(RANDOM.as_slice().into()),
        lifetime: Some((grant().created, grant().expires)),
        key_size: Some("256".into()),
        binary_exchange: reply.binary_exchange,
        applies_to: None,
    };
    let finished = waiting.finish(&response, b"x", &[authenticator(CONTEXT, &[0; 32])]);
    assert!(finished.is_err_and(|reason| reason.name() == "tls"));
}

#[test]
fn records_may_be_split_over_messages() {
    for versions in [Tls12, Tls12And13] {
        let (_, server) = anonymous(versions);
        let client = client(None, versions);
        let first = start(&client, CONTEXT);
        // The client's legs in four parts: the server answers each with an empty flight but the last.
        let part =
            |octets: &[u8], n: usize| octets[octets.len() * n / 4..octets.len() * (n + 1) / 4].to_vec();
        let hello = first.message().binary_exchange.clone().expect("a flight");
        let mut whole = Vec::new();
        let mut request = first.message().clone();
        let mut legs = Vec::new();
        for n in 0..4 {
            let octets = part(&hello.octets, n);
            let answer = if n == 0 {
                request.binary_exchange.as_mut().expect("a flight").octets = octets.into();
                server.first(&request, b"first", SOURCE, NOW)
            } else {
                server.next(&response(octets), b"next", NOW)
            };
            let Ok(Answer::Reply(reply)) = answer else { panic!("{answer:?}") };
            let flight = reply.message().binary_exchange.clone().expect("a flight").octets.to_vec();
            assert_eq!(flight.is_empty(), n < 3);
            whole.extend(flight);
            legs.push(n);
            reply.wrote(b"sent");
        }
        // The server's flight in four parts: the client answers those before its certificate with nothing.
        let mut waiting = Some(first.wrote(b"sent"));
        let mut sent = Vec::new();
        for n in 0..4 {
            let step = waiting.take().expect("it waits").receive(&response(part(&whole, n)), b"part");
            let outgoing = match step.expect("a part of a flight") {
                Step::Send(outgoing) => outgoing,
                Step::Certificate(unverified) => unverified.accept().expect("a leg"),
            };
            sent.extend(outgoing.message().binary_exchange.as_ref().expect("a flight").octets.iter());
            waiting = Some(outgoing.wrote(b"sent"));
        }
        let answer = server.next(&response(sent), b"last", NOW);
        assert!(matches!(answer, Ok(Answer::Established(_))), "{answer:?}");
    }
}

fn response(octets: Vec<u8>) -> Response<'static> {
    Response {
        context: Some(CONTEXT.into()),
        binary_exchange: Some(BinaryExchange { value_type: names::TLSNEGO.into(), octets: octets.into() }),
    }
}

#[test]
fn a_negotiation_has_few_legs_and_little_time() {
    let (_, server) = anonymous(Tls12);
    let begin = |at: Duration| {
        let answer = server.first(&request(names::TLSNEGO, &hello()), b"1", SOURCE, at);
        let Ok(Answer::Reply(reply)) = answer else { panic!("{answer:?}") };
        reply.wrote(b"2");
    };
    begin(NOW);
    for _ in 1..LEGS_MAX {
        let answer = server.next(&response(Vec::new()), b"x", NOW);
        let Ok(Answer::Reply(reply)) = answer else { panic!("{answer:?}") };
        reply.wrote(b"x");
    }
    let reason = server.next(&response(Vec::new()), b"x", NOW).expect_err("too many legs");
    assert_eq!((reason.fault(), server.len()), (Fault::InvalidRequest, 0));

    begin(NOW);
    let late = server.next(&response(Vec::new()), b"x", NOW + TIME_MAX).expect_err("too late");
    assert_eq!((late, server.len()), (Reason::UnknownContext, 0));
    begin(NOW);
    server.expire(NOW + TIME_MAX - Duration::from_nanos(1));
    assert_eq!(server.len(), 1);
    server.expire(NOW + TIME_MAX);
    assert!(server.is_empty());

    let Finishing { established, .. } = negotiate(&client(None, Tls12), &server, CONTEXT);
    let issued = established.issue(grant(), NOW + TIME_MAX);
    assert_eq!(issued.map(|_| ()), Err(Reason::TimedOut));
}

#[test]
fn a_context_is_of_one_negotiation() {
    let (_, server) = anonymous(Tls12);
    let (reply, waiting) = first_reply(&server, Tls12);
    let again = server.first(&request(names::TLSNEGO, &hello()), b"1", SOURCE, NOW).expect_err("it is alive");
    assert_eq!((again, server.len()), (Reason::DuplicateContext, 1));
    assert_eq!(
        server.next(&Response { context: Some("other".into()), ..reply.clone() }, b"3", NOW).map(|_| ()),
        Err(Reason::UnknownContext)
    );
    let third = client_leg(waiting, &reply);
    let established = server.next(&third, b"3", NOW);
    // While the caller decides on the client, the Context is taken, and a copy of leg 3 ends nothing.
    assert_eq!(server.next(&third, b"3", NOW).map(|_| ()), Err(Reason::UnknownContext));
    let Ok(Answer::Established(established)) = established else { panic!("{established:?}") };
    issue(established);
    assert!(server.is_empty());
    assert_eq!(server.next(&third, b"3", NOW).map(|_| ()), Err(Reason::UnknownContext));
}

#[test]
fn a_flood_from_one_address_keeps_no_other_out() {
    let (_, server) = anonymous(Tls12);
    let hello = hello();
    let begin = |n: usize, source: IpAddr| {
        let request = Request { context: Some(n.to_string().into()), ..request(names::TLSNEGO, &hello) };
        match server.first(&request, b"1", source, NOW) {
            Ok(Answer::Reply(reply)) => {
                reply.wrote(b"2");
                Ok(())
            }
            Ok(Answer::Established(_)) => panic!("after one leg"),
            Err(reason) => Err(reason),
        }
    };
    for n in 0..NEGOTIATIONS_MAX {
        begin(n, SOURCE).expect("there is room");
    }
    let busy = begin(1_000, SOURCE).expect_err("the server is too busy");
    assert_eq!((busy.fault(), server.len()), (Fault::ServerTooBusy, NEGOTIATIONS_MAX));
    let Finishing { waiting, established, .. } = {
        // The same through the whole negotiation, from another address.
        let other = IpAddr::from([198, 51, 100, 7]);
        begin(2_000, other).expect("it evicts one of the flood");
        negotiate_from(&server, other)
    };
    let (response, issued) = issue(established);
    finish(waiting, &response, &issued);
    assert_eq!(server.next(&response_to("0"), b"3", NOW).map(|_| ()), Err(Reason::UnknownContext));
}

fn response_to(context: &str) -> Response<'static> {
    Response { context: Some(context.to_owned().into()), ..response(Vec::new()) }
}

fn negotiate_from(server: &Negotiations, source: IpAddr) -> Finishing {
    let first = start(&client(None, Tls12), CONTEXT);
    let octets = canonical(first.message());
    let Ok(Answer::Reply(reply)) = server.first(first.message(), &octets, source, NOW) else {
        panic!("leg 2")
    };
    let waiting = first.wrote(&octets);
    let octets = canonical(reply.message());
    let Ok(Step::Certificate(unverified)) = waiting.receive(reply.message(), &octets) else {
        panic!("leg 3")
    };
    reply.wrote(&octets);
    let third = unverified.accept().expect("leg 3");
    let octets = canonical(third.message());
    let Ok(Answer::Established(established)) = server.next(third.message(), &octets, NOW) else {
        panic!("leg 4")
    };
    Finishing { waiting: third.wrote(&octets), established, server: Vec::new(), legs: 3 }
}

/// Where the octets of record headers are that name a version, which is frozen and says nothing (RFC 8446
/// 5.1).
fn record_versions(flight: &[u8]) -> Vec<usize> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < flight.len() {
        found.extend([at + 1, at + 2]);
        at += 5 + usize::from(u16::from_be_bytes([flight[at + 3], flight[at + 4]]));
    }
    found
}

#[test]
fn a_server_that_does_not_have_the_key_of_its_certificate_is_refused() {
    for versions in [Tls12, Tls12And13] {
        let (certificate, server) = anonymous(versions);
        let mut accepted = 0;
        for n in (0..).step_by(5) {
            let first = start(&client(None, versions), &format!("{CONTEXT}{n}"));
            let answer = server.first(first.message(), b"1", SOURCE, NOW).expect("leg 1");
            let Answer::Reply(reply) = answer else { panic!("leg 2") };
            let mut message = reply.message().clone();
            let octets = message.binary_exchange.as_mut().expect("a flight").octets.to_mut();
            let says_nothing = record_versions(octets);
            let Some(octet) = octets.get_mut(n) else { break };
            *octet ^= 1;
            // What is changed in the certificate itself is found when its chain is validated.
            match first.wrote(b"1").receive(&message, b"2") {
                Ok(Step::Certificate(unverified))
                    if unverified.certificates()[0].as_ref() == certificate.der =>
                {
                    assert!(says_nothing.contains(&n), "octet {n} of {versions:?}");
                    accepted += 1;
                }
                Ok(Step::Certificate(_)) | Err(_) => {}
                Ok(Step::Send(_)) => accepted += 1,
            }
        }
        assert!(accepted < 4, "{accepted}");
    }
}

#[test]
fn a_client_that_does_not_have_the_key_of_its_certificate_is_refused() {
    let (service, alice) = (Certificate::new("service.example"), Certificate::new("alice.example"));
    for versions in [Tls12, Tls12And13] {
        let server = server(&service, versions, ClientCertificates::Required);
        for n in (0..).step_by(5) {
            let context = format!("{CONTEXT}{n}");
            let first = start(&client(Some(&alice), versions), &context);
            let answer = server.first(first.message(), b"1", SOURCE, NOW).expect("leg 1");
            let Answer::Reply(reply) = answer else { panic!("leg 2") };
            let mut third = client_leg(first.wrote(b"1"), reply.message());
            reply.wrote(b"2");
            let octets = third.binary_exchange.as_mut().expect("a flight").octets.to_mut();
            let says_nothing = record_versions(octets);
            let Some(octet) = octets.get_mut(n) else { break };
            *octet ^= 1;
            let is_established = matches!(server.next(&third, b"3", NOW), Ok(Answer::Established(_)));
            assert!(!is_established || says_nothing.contains(&n), "octet {n} of {versions:?}");
        }
    }
    // The certificate of another one, which our own client does not show.
    for versions in [Tls12, Tls12And13] {
        let server = server(&service, versions, ClientCertificates::Required);
        for (key, is_owner) in [(&alice, true), (&service, false)] {
            let answer = raw_client::leg_3(&server, &alice.der, key);
            assert_eq!(matches!(answer, Ok(Answer::Established(_))), is_owner, "{versions:?}: {answer:?}");
            assert!(is_owner || answer.is_err_and(|reason| reason.name() == "tls"));
        }
    }
    let stolen = tlsnego_service::Credentials { key: service.credentials().key, ..alice.credentials() };
    assert!(
        tlsnego_service::negotiation::Client::new(Some(stolen), Tls12).is_err(),
        "they do not belong together"
    );
}

#[test]
fn a_new_certificate_is_shown_in_new_negotiations() {
    let (_, negotiations) = anonymous(Tls12);
    let (reply, waiting) = first_reply(&negotiations, Tls12);
    let other = Certificate::new("other.example");
    negotiations.set_server(settings(&other, Tls12, ClientCertificates::NotAsked));
    let Finishing { server: shown, .. } = negotiate(&client(None, Tls12), &negotiations, "other");
    assert_eq!(shown, other.der);
    let answer = negotiations.next(&client_leg(waiting, &reply), b"leg 3", NOW);
    assert!(matches!(answer, Ok(Answer::Established(_))), "{answer:?}");
}

/// A client on rustls itself, which shows any certificate with any key.
mod raw_client {
    use super::*;
    use rustls::client::ResolvesClientCert;
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::aws_lc_rs::{default_provider, sign::any_supported_type};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::sign::CertifiedKey;
    use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
    use std::sync::Arc;

    /// The answer to its second leg.
    pub(super) fn leg_3(server: &Negotiations, shown: &[u8], key: &Certificate) -> Result<Answer, Reason> {
        let key = any_supported_type(&key.credentials().key).expect("a key");
        let shown = Arc::new(CertifiedKey::new(vec![shown.to_vec().into()], key));
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustAll))
            .with_client_cert_resolver(Arc::new(Shows(shown)));
        let name = ServerName::try_from("service.example").expect("a name");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let Ok(Answer::Reply(reply)) =
            server.first(&request(names::TLSNEGO, &sent(&mut client)), b"1", SOURCE, NOW)
        else {
            panic!("leg 2");
        };
        let flight = reply.message().binary_exchange.as_ref().expect("a flight").octets.to_vec();
        reply.wrote(b"2");
        client.read_tls(&mut flight.as_slice()).expect("it is taken");
        client.process_new_packets().expect("a flight");
        server.next(&response(sent(&mut client)), b"3", NOW)
    }

    fn sent(client: &mut ClientConnection) -> Vec<u8> {
        let mut octets = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut octets).expect("into memory");
        }
        octets
    }

    #[derive(Debug)]
    struct Shows(Arc<CertifiedKey>);

    impl ResolvesClientCert for Shows {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }

        fn has_certs(&self) -> bool {
            true
        }
    }

    #[derive(Debug)]
    struct TrustAll;

    impl ServerCertVerifier for TrustAll {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }
}
