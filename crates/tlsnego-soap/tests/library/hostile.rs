//! What a service refuses: other dialects, other addresses, broken negotiations, and messages that are
//! secured wrongly or by the wrong token.

use crate::matrix::*;
use crate::support::*;
use dtyp::FileTime;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tlsnego_service::Moment;
use tlsnego_service::fault::Reason;
use tlsnego_service::freshness::Horizon;
use tlsnego_service::session::{Credential, PENDING_MAX, SessionKind};
use tlsnego_soap::CONTENT_TYPE;
use tlsnego_soap::client::{Client, ClientError, ContextToken, Proof, Under};
use tlsnego_soap::refusal::{Dialect, Refusal};
use tlsnego_soap::server::{Binding, CallFault, Event};
use xml_security::names::SOAP;
use xml_security::{Document, NodeId, ParseLimits, TokenName};

const SESSION: Binding = Binding { negotiate: true, establish: true };
const PER_CALL: Binding = Binding { negotiate: true, establish: false };
const PRESET_SESSION: Binding = Binding { negotiate: false, establish: true };
const ONE_SHOT: Binding = Binding { negotiate: false, establish: false };

/// A fault as a peer reads it: codes from the outermost on with their namespaces, action, RelatesTo, text.
struct Fault {
    codes: Vec<String>,
    action: String,
    relates_to: Option<String>,
    text: String,
}

fn fault(body: &[u8]) -> Fault {
    let document = Document::parse(body, &ParseLimits::default()).expect("XML");
    let find =
        |name: &str| document.descendants(document.root()).find(|node| document.name(*node).local == name);
    let text = |node: NodeId| document.text(node).expect("a text").into_owned();
    let values = document.descendants(document.root()).filter(|node| document.is(*node, SOAP.name("Value")));
    let codes = values.map(|node| {
        let value = text(node);
        let (prefix, local) = value.split_once(':').expect("a prefix");
        let namespace = document.namespace_at(node, prefix).expect("it is bound");
        format!("{}:{local}", namespace.rsplit(['/', '#']).next().unwrap_or_default())
    });
    Fault {
        codes: codes.collect(),
        action: text(find("Action").expect("an action")),
        relates_to: find("RelatesTo").map(text),
        text: text(find("Text").expect("a reason")),
    }
}

fn reason(event: Option<Event>) -> Refusal {
    match event {
        Some(Event::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// A message that is not secured, as a client writes it.
fn plain(action: &str, headers: &str, body: &str) -> String {
    format!(
        "<s:Envelope xmlns:s='http://www.w3.org/2003/05/soap-envelope' xmlns:a='http://www.w3.org/2005/08/addressing'>\
         <s:Header><a:Action s:mustUnderstand='1'>{action}</a:Action><a:MessageID>urn:uuid:1</a:MessageID>\
         <a:To s:mustUnderstand='1'>{TO}</a:To>{headers}</s:Header><s:Body>{body}</s:Body></s:Envelope>"
    )
}

const ISSUE: &str = "http://schemas.xmlsoap.org/ws/2005/02/trust/RST/Issue";
const NEXT: &str = "http://schemas.xmlsoap.org/ws/2005/02/trust/RSTR/Issue";

fn first_leg(attributes: &str, children: &str) -> String {
    plain(
        ISSUE,
        "",
        &format!(
            "<t:RequestSecurityToken xmlns:t='http://schemas.xmlsoap.org/ws/2005/02/trust' {attributes}>{children}</t:RequestSecurityToken>"
        ),
    )
}

/// What it is, content type, body, and the refusal with its name in metrics, its status and its codes.
type Case = (&'static str, &'static str, Vec<u8>, (Dialect, &'static str), u16, &'static [&'static str]);

const VERSION: &[&str] = &["soap-envelope:VersionMismatch"];
const SENDER: &[&str] = &["soap-envelope:Sender"];
const HEADER: &[&str] = &["soap-envelope:Sender", "addressing:MessageAddressingHeaderRequired"];
const ACTION: &[&str] = &["soap-envelope:Sender", "addressing:ActionNotSupported"];
const REQUEST: &[&str] = &["soap-envelope:Sender", "trust:InvalidRequest"];

/// Other versions of SOAP, WS-Addressing and WS-Trust, and protocols that are not spoken here.
fn other_protocols() -> Vec<Case> {
    let soap_11 =
        "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/'><s:Header/><s:Body/></s:Envelope>";
    let old_addressing = "<s:Envelope xmlns:s='http://www.w3.org/2003/05/soap-envelope' xmlns:a='http://schemas.xmlsoap.org/ws/2004/08/addressing'>\
        <s:Header><a:Action s:mustUnderstand='1'>urn:echo</a:Action></s:Header><s:Body/></s:Envelope>";
    let spnego = first_leg(
        "Context='c'",
        "<t:BinaryExchange ValueType='http://schemas.xmlsoap.org/ws/2005/02/trust/spnego'>AAAA</t:BinaryExchange>",
    );
    let sequence = "<r:Sequence xmlns:r='http://schemas.xmlsoap.org/ws/2005/02/rm' s:mustUnderstand='1'/>";
    vec![
        ("SOAP 1.1", "text/xml; charset=utf-8", soap_11.into(), (Dialect::Soap11, "soap-1.1"), 500, VERSION),
        ("SOAP 1.1 inside", CONTENT_TYPE, soap_11.into(), (Dialect::Soap11, "soap-1.1"), 500, VERSION),
        (
            "WS-Addressing 2004",
            CONTENT_TYPE,
            old_addressing.into(),
            (Dialect::Addressing2004, "addressing-2004"),
            500,
            HEADER,
        ),
        (
            "WS-Trust 1.3, first leg",
            CONTENT_TYPE,
            plain("http://docs.oasis-open.org/ws-sx/ws-trust/200512/RST/Issue", "", "").into(),
            (Dialect::Trust13, "trust-1.3"),
            500,
            ACTION,
        ),
        (
            "WS-Trust 1.3, RST/SCT",
            CONTENT_TYPE,
            plain("http://docs.oasis-open.org/ws-sx/ws-trust/200512/RST/SCT", "", "").into(),
            (Dialect::Trust13, "trust-1.3"),
            500,
            ACTION,
        ),
        (
            "reliable messaging",
            CONTENT_TYPE,
            plain("http://schemas.xmlsoap.org/ws/2005/02/rm/CreateSequence", "", "").into(),
            (Dialect::Reliable, "reliable-messaging"),
            500,
            ACTION,
        ),
        (
            "a sequence",
            CONTENT_TYPE,
            plain("urn:echo", sequence, "").into(),
            (Dialect::Reliable, "reliable-messaging"),
            500,
            ACTION,
        ),
        ("Windows credentials", CONTENT_TYPE, spnego.into(), (Dialect::Spnego, "spnego"), 500, REQUEST),
    ]
}

/// Other encodings, and what is no XML.
fn other_encodings() -> Vec<Case> {
    let utf_16 = |with_mark: bool| {
        let units = plain("urn:echo", "", "");
        let mark = with_mark.then_some(0xfeff);
        mark.into_iter().chain(units.encode_utf16()).flat_map(u16::to_le_bytes).collect::<Vec<u8>>()
    };
    vec![
        (
            "UTF-16",
            "application/soap+xml; charset=utf-16",
            utf_16(true),
            (Dialect::Encoding, "encoding"),
            415,
            SENDER,
        ),
        ("UTF-16 as UTF-8", CONTENT_TYPE, utf_16(true), (Dialect::Encoding, "encoding"), 415, SENDER),
        ("UTF-16 unmarked", CONTENT_TYPE, utf_16(false), (Dialect::Encoding, "encoding"), 415, SENDER),
        (
            "MTOM",
            "multipart/related; type=\"application/xop+xml\"; boundary=b",
            Vec::new(),
            (Dialect::Mtom, "mtom"),
            415,
            SENDER,
        ),
        (
            "binary XML",
            "application/soap+msbin1",
            Vec::new(),
            (Dialect::BinaryXml, "binary-xml"),
            415,
            SENDER,
        ),
        (
            "a form",
            "application/x-www-form-urlencoded",
            Vec::new(),
            (Dialect::ContentType, "content-type"),
            415,
            SENDER,
        ),
    ]
}

#[test]
fn each_other_dialect_has_one_status_one_fault_and_an_advice() {
    let certificates = Certificates::new();
    let service = service(&certificates, &Binding::ALL, Credential::None);
    for (what, content_type, body, (dialect, name), status, codes) in
        other_protocols().into_iter().chain(other_encodings())
    {
        let said = post(&service, content_type, &body);
        let fault = fault(&said.response.body);
        println!("{what:24} {} {} | {}", said.response.status, fault.codes.join(" "), dialect.advice());
        let refusal = reason(said.event);
        assert_eq!((refusal.name(), dialect.name()), (name, name), "{what}");
        assert_eq!(refusal, Refusal::Dialect(dialect), "{what}");
        assert_eq!(said.response.status, status, "{what}");
        assert_eq!(fault.codes, codes, "{what}");
        assert_eq!(fault.text, dialect.advice(), "{what}");
    }
}

#[test]
fn a_message_for_another_address_is_refused_in_every_form() {
    let certificates = Certificates::new();
    let service = service(&certificates, &Binding::ALL, Credential::None);
    let other = |to: &str| Client { to: to.to_owned(), ..client() };
    let tls = tls_client(&certificates, Credential::None);
    let token = negotiate(&service, &certificates, Credential::None);
    let preset = certificates.service.certificate();
    for to in ["https://service.example:443/echo/", "HTTPS://SERVICE.example/echo"] {
        let (octets, _) = other(to).negotiate(&tls).expect("a leg");
        assert_eq!(post(&service, CONTENT_TYPE, &octets).response.status, 200, "{to}");
    }
    for to in
        ["https://other.example/echo", "http://service.example/echo", "https://service.example/", "urn:x"]
    {
        let (leg, _) = other(to).negotiate(&tls).expect("a leg");
        let calls = [Under::Token(&token), Under::Certificate(&preset)].map(|under| {
            other(to).call(under, Proof::None, (ECHO, &body("x")), now().wall).expect("a call").0
        });
        for octets in calls.iter().chain([&leg]) {
            let said = post(&service, CONTENT_TYPE, octets);
            assert!(said.call.is_none());
            assert_eq!(
                fault(&said.response.body).codes,
                ["soap-envelope:Sender", "addressing:DestinationUnreachable"]
            );
            let addresses = TO.to_owned();
            assert_eq!(reason(said.event), Refusal::Address { to: to.to_owned(), addresses });
        }
    }
    let without_to =
        plain("urn:echo", "", "").replace(&format!("<a:To s:mustUnderstand='1'>{TO}</a:To>"), "");
    let said = post(&service, CONTENT_TYPE, without_to.as_bytes());
    assert_eq!(reason(said.event), Refusal::MissingHeader("To"));

    for header in ["ReplyTo", "FaultTo"] {
        let anonymous = "http://www.w3.org/2005/08/addressing/anonymous";
        for (address, passes) in [
            (anonymous, true),
            ("https://elsewhere.example/", false),
            ("http://www.w3.org/2005/08/addressing/none", false),
        ] {
            let header = format!("<a:{header}><a:Address>{address}</a:Address></a:{header}>");
            let said = post(&service, CONTENT_TYPE, plain("urn:echo", &header, "").as_bytes());
            let is_refused = matches!(reason(said.event), Refusal::NotAnonymous(_));
            assert_eq!(is_refused, !passes, "{header}");
            if !passes {
                assert_eq!(
                    fault(&said.response.body).codes[1..],
                    ["addressing:InvalidAddressingHeader", "addressing:OnlyAnonymousAddressSupported"]
                );
            }
        }
    }
    for (header, passes) in [
        ("<x xmlns='urn:x' s:mustUnderstand='1'/>", false),
        ("<x xmlns='urn:x' s:mustUnderstand='true'/>", false),
        ("<x xmlns='urn:x' s:mustUnderstand='0'/>", true),
        ("<x xmlns='urn:x'/>", true),
    ] {
        let said = post(&service, CONTENT_TYPE, plain("urn:echo", header, "").as_bytes());
        let codes = fault(&said.response.body).codes;
        assert_eq!(codes == ["soap-envelope:MustUnderstand"], !passes, "{header}");
    }
}

#[test]
fn a_header_of_addressing_has_at_most_1024_octets() {
    let certificates = Certificates::new();
    let service = service(&certificates, &[SESSION], Credential::None);
    let message = plain("urn:echo", "", "");
    for (local, text) in [("Action", "urn:echo"), ("MessageID", "urn:uuid:1"), ("To", TO)] {
        for (len, is_valid) in [(1_024, true), (1_025, false)] {
            let long = message.replacen(&format!(">{text}<"), &format!(">{}<", "x".repeat(len)), 1);
            assert_ne!(long, message);
            let refusal = reason(post(&service, CONTENT_TYPE, long.as_bytes()).event);
            assert_eq!(refusal != Refusal::InvalidHeader(local), is_valid, "{local} of {len}: {refusal}");
        }
    }
}

#[test]
fn a_broken_negotiation_has_the_fault_of_its_kind_and_leaves_nothing() {
    let certificates = Certificates::new();
    let service = service(&certificates, &Binding::ALL, Credential::None);
    let exchange = |value_type: &str, octets: &str| {
        format!("<t:BinaryExchange ValueType='{value_type}'>{octets}</t:BinaryExchange>")
    };
    let tlsnego = " http://schemas.xmlsoap.org/ws/2005/02/trust/tlsnego";
    // A ClientHello of TLS 1.0, and octets that are no TLS.
    let old = exchange(tlsnego, "FgMBAAYBAAACAwE=");
    let garbage = exchange(tlsnego, "AAAAAAAAAAA=");
    let hello = exchange(tlsnego, "");
    let long = format!("Context='{}'", "x".repeat(1_000));
    let next = plain(
        NEXT,
        "",
        "<t:RequestSecurityTokenResponse xmlns:t='http://schemas.xmlsoap.org/ws/2005/02/trust' Context='unknown'/>",
    );
    for (what, message, code) in [
        ("no Context", first_leg("", &hello), "trust:InvalidRequest"),
        ("empty Context", first_leg("Context=''", &hello), "trust:InvalidRequest"),
        ("long Context", first_leg(&long, &hello), "trust:InvalidRequest"),
        ("no exchange", first_leg("Context='c'", ""), "trust:InvalidRequest"),
        ("two exchanges", first_leg("Context='c'", &format!("{hello}{hello}")), "trust:InvalidRequest"),
        (
            "trimmed twice",
            first_leg("Context='c'", &exchange(&format!(" {tlsnego}"), "")),
            "trust:InvalidRequest",
        ),
        ("no base64", first_leg("Context='c'", &exchange(tlsnego, "&lt;")), "trust:InvalidRequest"),
        (
            "RequestType",
            first_leg(
                "Context='c'",
                &format!(
                    "<t:RequestType>http://schemas.xmlsoap.org/ws/2005/02/trust/Renew</t:RequestType>{hello}"
                ),
            ),
            "trust:InvalidRequest",
        ),
        (
            "KeySize",
            first_leg("Context='c'", &format!("<t:KeySize>128</t:KeySize>{hello}")),
            "trust:InvalidRequest",
        ),
        ("unknown Context", next.clone(), "trust:InvalidRequest"),
        ("wrong element", next.replace("RSTR/Issue", "RST/Issue"), "trust:InvalidRequest"),
        ("no element", plain(ISSUE, "", ""), "trust:InvalidRequest"),
        ("old TLS", first_leg("Context='c'", &old), "trust:FailedAuthentication"),
        ("no TLS", first_leg("Context='c'", &garbage), "trust:FailedAuthentication"),
        ("no XML", "<a".to_owned(), "oasis-200401-wss-wssecurity-secext-1.0.xsd:InvalidSecurity"),
        (
            "not secured",
            plain("urn:echo", "", ""),
            "oasis-200401-wss-wssecurity-secext-1.0.xsd:InvalidSecurity",
        ),
    ] {
        let said = post(&service, CONTENT_TYPE, message.as_bytes());
        let fault = fault(&said.response.body);
        assert_eq!(said.response.status, 500, "{what}");
        assert_eq!(fault.codes, ["soap-envelope:Sender", code], "{what}: {:?}", said.event);
        assert_eq!(fault.action, "http://www.w3.org/2005/08/addressing/soap/fault", "{what}");
        let expected = (what != "no XML").then(|| "urn:uuid:1".to_owned());
        assert_eq!(fault.relates_to, expected, "{what}");
        if what == "old TLS" {
            let text = reason(said.event).to_string();
            assert!(text.contains("TLS 1.0") && text.contains("4.7"), "{text}");
        }
    }
    assert!(service.negotiations().is_empty());
}

/// Changes the octets of the last CipherValue: it is in the body.
fn broken(message: &[u8], seed: u8) -> Vec<u8> {
    let mut changed = message.to_vec();
    let end = b"</e:CipherValue>";
    let at = changed.windows(end.len()).rposition(|window| window == end).expect("a cipher value") - 8;
    changed[at] = if changed[at] == b'A' + seed { b'a' } else { b'A' + seed };
    changed
}

#[test]
fn the_fourth_changed_copy_is_refused_before_it_is_decrypted() {
    let certificates = Certificates::new();
    let service = service(&certificates, &Binding::ALL, Credential::None);
    let preset = certificates.service.certificate();
    let token = negotiate(&service, &certificates, Credential::None);
    for under in [Under::Certificate(&preset), Under::Token(&token)] {
        let (octets, pending) =
            client().call(under, Proof::None, (ECHO, &body("x")), now().wall).expect("a call");
        let mut faults = Vec::new();
        for seed in 0..3 {
            let said = post(&service, CONTENT_TYPE, &broken(&octets, seed));
            assert!(matches!(reason(said.event), Refusal::Security(_)));
            faults.push(said.response);
        }
        faults.dedup();
        assert_eq!(faults.len(), 1, "one fault, to the octet");
        assert!(fault(&faults[0].body).codes[1].ends_with(":InvalidSecurity"));
        // Even the good one.
        let said = post(&service, CONTENT_TYPE, &octets);
        assert!(said.call.is_none());
        match under {
            Under::Certificate(_) => {
                assert_eq!(reason(said.event), Refusal::Trust(Reason::TooManyFailures));
                assert_eq!(said.response, faults[0]);
            }
            Under::Token(_) => {
                let error = pending.receive(&said.response.body, now().wall).expect_err("it ended");
                assert_eq!(
                    error.to_string(),
                    "the service refused the message: SecuritySessionAborted: The security session was ended."
                );
            }
        }
    }
    assert_eq!(service.failures().len(), 1, "those of the token are counted by its session");
    assert!(service.replay().is_empty());
    // Another message is another key.
    call(&service, Under::Certificate(&preset), Proof::None, "x").expect("a reply");
    assert_eq!(service.replay().len(), 1);
}

#[test]
fn a_message_counts_once_and_in_its_time() {
    let certificates = Certificates::new();
    let service = service(&certificates, &Binding::ALL, Credential::UserName);
    let preset = certificates.service.certificate();
    let user = user();
    let token = negotiate(&service, &certificates, Credential::UserName);
    for under in [Under::Certificate(&preset), Under::Token(&token)] {
        let make = |wall: FileTime| {
            client().call(under, Proof::UserName(&user), (ECHO, &body("x")), wall).expect("a call").0
        };
        let octets = make(now().wall);
        assert!(post(&service, CONTENT_TYPE, &octets).call.is_some());
        let again = post(&service, CONTENT_TYPE, &octets);
        assert!(again.call.is_none());
        assert_eq!(reason(again.event), Refusal::Trust(Reason::Replay));
        assert!(fault(&again.response.body).codes[1].ends_with(":InvalidSecurity"));
        let rst = |wall| client().establish(under, Proof::UserName(&user), wall).expect("RST/SCT").0;
        let minutes = |n: u64| Duration::from_secs(60 * n);
        for (octets, what) in [
            (make(now().wall + minutes(6)), "early"),
            (make(now().wall - minutes(11)), "late"),
            (rst(now().wall + minutes(6)), "early RST"),
            (rst(now().wall - minutes(11)), "late RST"),
        ] {
            let said = post(&service, CONTENT_TYPE, &octets);
            let refusal = reason(said.event);
            assert!(
                matches!(refusal, Refusal::Security(xml_security::Reason::Timestamp { .. })),
                "{what}: {refusal}"
            );
        }
        for wall in [now().wall + minutes(4), now().wall - minutes(4)] {
            assert!(post(&service, CONTENT_TYPE, &make(wall)).call.is_some());
        }
    }
    for wall in [now().wall + Duration::from_secs(240), now().wall - Duration::from_secs(240)] {
        let (octets, _) =
            client().establish(Under::Certificate(&preset), Proof::UserName(&user), wall).expect("RST/SCT");
        assert!(matches!(post(&service, CONTENT_TYPE, &octets).event, Some(Event::Opened(_))));
    }
}

#[test]
fn no_message_counts_again_after_a_restart_whatever_the_clock_of_its_client() {
    let certificates = Certificates::new();
    let preset = certificates.service.certificate();
    let user = user();
    let kept = Arc::new(Mutex::new(FileTime::UNSET));
    let start = || {
        let keep = Arc::clone(&kept);
        let before = *kept.lock().expect("no panic");
        let horizon = Horizon::new(before, move |created| {
            let later = created + Duration::from_secs(1);
            *keep.lock().expect("no panic") = later;
            std::future::ready(Ok(later))
        });
        let service = service(&certificates, &Binding::ALL, Credential::UserName);
        service.started_at(now().wall.max(before)).with_horizon(horizon)
    };
    let call = |under: Under<'_>, wall: FileTime| {
        client().call(under, Proof::UserName(&user), (ECHO, &body("x")), wall).expect("a call").0
    };
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let first = start();
    // Times in messages are cut to milliseconds: one of the same millisecond would be from before the start.
    std::thread::sleep(Duration::from_millis(2));
    let ahead = call(Under::Certificate(&preset), now().wall + minutes(2));
    let on_time = call(Under::Certificate(&preset), now().wall);
    // A token is forgotten with what was seen under it, so its messages are not written down.
    let token = negotiate(&first, &certificates, Credential::UserName);
    assert!(post(&first, CONTENT_TYPE, &call(Under::Token(&token), now().wall + minutes(4))).call.is_some());
    for octets in [&ahead, &on_time] {
        assert!(post(&first, CONTENT_TYPE, octets).call.is_some());
    }
    let second = start();
    for octets in [&ahead, &on_time] {
        let said = post(&second, CONTENT_TYPE, octets);
        assert!(said.call.is_none());
        assert_eq!(reason(said.event), Refusal::Trust(Reason::Replay));
        assert!(fault(&said.response.body).codes[1].ends_with(":InvalidSecurity"));
    }
    // Messages that were created later count.
    assert!(
        post(&second, CONTENT_TYPE, &call(Under::Certificate(&preset), now().wall + minutes(3)))
            .call
            .is_some()
    );
}

fn establish(
    service: &Service,
    certificates: &Certificates,
    credential: Credential,
    proof: Proof<'_>,
) -> ContextToken {
    let bootstrap = negotiate(service, certificates, credential);
    let (octets, establishing) =
        client().establish(Under::Token(&bootstrap), proof, now().wall).expect("RST/SCT");
    establishing.receive(&post(service, CONTENT_TYPE, &octets).response.body, now().wall).expect("a token")
}

#[track_caller]
fn refused(service: &Service, octets: &[u8]) -> Refusal {
    let said = post(service, CONTENT_TYPE, octets);
    assert!(said.call.is_none());
    assert_eq!(said.response.status, 500);
    reason(said.event)
}

#[track_caller]
fn is_policy(refusal: Refusal, what: &str) {
    assert!(matches!(refusal, Refusal::Policy(_)), "{what}: {refusal}");
}

fn echo(under: Under<'_>, proof: Proof<'_>) -> Vec<u8> {
    client().call(under, proof, (ECHO, &body("x")), now().wall).expect("a call").0
}

#[test]
fn a_bootstrap_token_only_establishes_a_session() {
    let certificates = Certificates::new();
    let preset = certificates.service.certificate();
    let user = user();
    let of_session = service(&certificates, &[SESSION], Credential::UserName);
    let bootstrap = negotiate(&of_session, &certificates, Credential::UserName);
    for (proof, what) in
        [(Proof::None, "anonymous call"), (Proof::UserName(&user), "call under the bootstrap")]
    {
        is_policy(refused(&of_session, &echo(Under::Token(&bootstrap), proof)), what);
        // No binding is without negotiation: the key is not even unwrapped.
        let refusal = refused(&of_session, &echo(Under::Certificate(&preset), proof));
        assert_eq!(refusal, Refusal::Security(xml_security::Reason::Key("the token")), "{what}");
    }
    let (octets, _) = client().establish(Under::Token(&bootstrap), Proof::None, now().wall).expect("RST/SCT");
    is_policy(refused(&of_session, &octets), "RST/SCT without a user name");
    for action in ["RSTR/SCT", "RST/Issue", "RST/Validate"] {
        let action = format!("http://schemas.xmlsoap.org/ws/2005/02/trust/{action}");
        let call = client().call(
            Under::Token(&bootstrap),
            Proof::UserName(&user),
            (&action, &body("x")),
            now().wall,
        );
        let refusal = refused(&of_session, &call.expect("a call").0);
        assert!(
            matches!(refusal, Refusal::Trust(Reason::Unsupported { .. } | Reason::NotAllowed(_))),
            "{refusal}"
        );
    }
    let wrong = xml_security::UsernameToken { username: USER.to_owned(), password: "x".to_owned().into() };
    let (octets, _) =
        client().establish(Under::Token(&bootstrap), Proof::UserName(&wrong), now().wall).expect("RST/SCT");
    assert_eq!(refused(&of_session, &octets), Refusal::Password(USER.to_owned()));
}

#[test]
fn a_binding_without_negotiation_does_only_what_it_is_for() {
    let certificates = Certificates::new();
    let preset = certificates.service.certificate();
    let user = user();
    let of_preset = service(&certificates, &[PRESET_SESSION], Credential::UserName);
    is_policy(
        refused(&of_preset, &echo(Under::Certificate(&preset), Proof::UserName(&user))),
        "one-shot call",
    );
    let only_one_shot = service(&certificates, &[ONE_SHOT], Credential::UserName);
    let (octets, _) =
        client().establish(Under::Certificate(&preset), Proof::UserName(&user), now().wall).expect("RST/SCT");
    is_policy(refused(&only_one_shot, &octets), "a session where each call is for itself");
    let (leg, _) = client().negotiate(&tls_client(&certificates, Credential::None)).expect("a leg");
    assert!(matches!(refused(&only_one_shot, &leg), Refusal::Trust(Reason::NotAllowed(_))));
}

#[test]
fn a_session_signs_only_for_itself() {
    let certificates = Certificates::new();
    let user = user();
    let of_session = service(&certificates, &[SESSION], Credential::UserName);
    let session = establish(&of_session, &certificates, Credential::UserName, Proof::UserName(&user));
    let other = establish(&of_session, &certificates, Credential::UserName, Proof::UserName(&user));
    is_policy(
        refused(&of_session, &echo(Under::Token(&session), Proof::UserName(&user))),
        "user name in a session",
    );
    let signer = certificates.client.signer();
    is_policy(
        refused(&of_session, &echo(Under::Token(&session), Proof::Certificate(&signer))),
        "certificate in a session",
    );
    let (octets, _) = client().establish(Under::Token(&session), Proof::None, now().wall).expect("RST/SCT");
    is_policy(refused(&of_session, &octets), "a session under a session");
    // Renew of another session than the one that signs.
    let (octets, _) = client().renew(&other, Under::Token(&session), Proof::None, now().wall).expect("Renew");
    is_policy(refused(&of_session, &octets), "Renew of another session");
    // Requests under one session, or endorsed by it, that name the other one.
    let mut forged = session.clone();
    forged.name = other.name.clone();
    let again = negotiate(&of_session, &certificates, Credential::UserName);
    let requests = [
        client().cancel(&forged, now().wall).expect("Cancel").0,
        client().renew(&forged, Under::Token(&forged), Proof::None, now().wall).expect("Renew").0,
        client().renew(&forged, Under::Token(&again), Proof::UserName(&user), now().wall).expect("Renew").0,
    ];
    for octets in requests {
        let refusal = refused(&of_session, &octets);
        assert!(matches!(refusal, Refusal::Trust(Reason::NotAllowed(_))), "{refusal}");
    }
    assert_eq!(
        run(of_session.tokens().list(now()))
            .expect("a table")
            .iter()
            .filter(|it| it.kind == SessionKind::Established)
            .count(),
        2
    );
    for token in [&session, &other] {
        call(&of_session, Under::Token(token), Proof::None, "x").expect("it goes on");
    }
}

#[test]
fn a_one_shot_call_needs_its_certificate() {
    let certificates = Certificates::new();
    let preset = certificates.service.certificate();
    let user = user();
    let one_shot = service(&certificates, &[ONE_SHOT, PER_CALL], Credential::Certificate);
    for (proof, what) in [(Proof::None, "no certificate"), (Proof::UserName(&user), "a user name instead")] {
        is_policy(refused(&one_shot, &echo(Under::Certificate(&preset), proof)), what);
    }
    let foreign = Certificates::new().client.signer();
    let refusal = refused(&one_shot, &echo(Under::Certificate(&preset), Proof::Certificate(&foreign)));
    assert_eq!(refusal, Refusal::Certificate("unknown certificate".to_owned()));
    let tls = tls_client(&certificates, Credential::None);
    let anonymous = negotiate_with(&client(), &one_shot, &tls, &certificates.service.der, |answer| answer);
    assert_eq!(
        anonymous.expect_err("no certificate").to_string(),
        "not authenticated: FailedAuthentication: Authentication failed."
    );
}

#[test]
fn long_text_of_a_peer_is_short_in_the_reason() {
    let certificates = Certificates::new();
    let service = service(&certificates, &[PRESET_SESSION], Credential::None);
    let preset = certificates.service.certificate();
    let long = "x".repeat(10_000);
    let issue = "http://schemas.xmlsoap.org/ws/2005/02/trust/Issue";
    let nonce = "http://schemas.xmlsoap.org/ws/2005/02/trust/Nonce";
    let token_type = "http://schemas.xmlsoap.org/ws/2005/02/sc/sct";
    for (expected, request_type, token_type, secret_type, key_size) in [
        (None, issue, token_type, nonce, "256"),
        (Some("RequestType"), &long, token_type, nonce, "256"),
        (Some("TokenType"), issue, &long, nonce, "256"),
        (Some("Type of BinarySecret"), issue, token_type, &long, "256"),
        (Some("KeySize"), issue, token_type, nonce, &long),
    ] {
        let body = format!(
            "<s:Body xmlns:s='http://www.w3.org/2003/05/soap-envelope'>\
             <t:RequestSecurityToken xmlns:t='http://schemas.xmlsoap.org/ws/2005/02/trust'>\
             <t:TokenType>{token_type}</t:TokenType><t:RequestType>{request_type}</t:RequestType>\
             <t:Entropy><t:BinarySecret Type='{secret_type}'>AAECAwQFBgcICQoLDA0ODw==</t:BinarySecret></t:Entropy>\
             <t:KeySize>{key_size}</t:KeySize></t:RequestSecurityToken></s:Body>"
        );
        let action = "http://schemas.xmlsoap.org/ws/2005/02/trust/RST/SCT";
        let request = (action, body.as_bytes());
        let (octets, _) =
            client().call(Under::Certificate(&preset), Proof::None, request, now().wall).expect("RST/SCT");
        let said = post(&service, CONTENT_TYPE, &octets);
        let Some(expected) = expected else {
            assert!(matches!(said.event, Some(Event::Opened(_))), "{:?}", said.event);
            continue;
        };
        let refusal = reason(said.event);
        let Refusal::Trust(Reason::Unsupported { what, value }) = &refusal else { panic!("{refusal}") };
        assert_eq!(*what, expected);
        assert_eq!(*value, "x".repeat(128), "{what}");
        assert!(refusal.to_string().len() < 256, "{refusal}");
    }
    let of_users = service_with(&certificates, &[PRESET_SESSION], Credential::UserName, |_| {});
    let user = xml_security::UsernameToken { username: long, password: PASSWORD.to_owned().into() };
    let (octets, _) =
        client().establish(Under::Certificate(&preset), Proof::UserName(&user), now().wall).expect("RST/SCT");
    assert_eq!(reason(post(&of_users, CONTENT_TYPE, &octets).event), Refusal::Password("x".repeat(128)));
}

#[test]
fn a_key_that_is_due_is_told_under_itself_and_renewed() {
    let certificates = Certificates::new();
    let service = service_with(&certificates, &[SESSION], Credential::None, |settings| {
        settings.times.established = Duration::from_secs(100);
    });
    let token = establish(&service, &certificates, Credential::None, Proof::None);
    let later = |seconds: u64| Moment { uptime: Duration::from_secs(1_000 + seconds), ..now() };
    let (octets, pending) =
        client().call(Under::Token(&token), Proof::None, (ECHO, &body("x")), now().wall).expect("a call");
    let said = post_at(&service, CONTENT_TYPE, &octets, later(75));
    let error = pending.receive(&said.response.body, now().wall).expect_err("it is due");
    let ClientError::Session(fault) = error else { panic!("{error}") };
    assert_eq!(
        (&*fault.local, &*fault.namespace),
        ("RenewNeeded", "http://schemas.xmlsoap.org/ws/2005/02/sc")
    );
    let (octets, renewing) =
        client().renew(&token, Under::Token(&token), Proof::None, now().wall).expect("Renew");
    let said = post_at(&service, CONTENT_TYPE, &octets, later(75));
    let renewed = renewing.receive(&said.response.body, now().wall).expect("a new key");
    assert_eq!(renewed.expires, token.expires, "Renew does not lengthen it");
    for (token, uptime, passes) in [(&token, 76, true), (&renewed, 76, true), (&renewed, 100, false)] {
        let (octets, _) =
            client().call(Under::Token(token), Proof::None, (ECHO, &body("x")), now().wall).expect("a call");
        assert_eq!(
            post_at(&service, CONTENT_TYPE, &octets, later(uptime)).call.is_some(),
            passes,
            "{:?}",
            token.name
        );
    }
}

#[test]
fn what_the_application_says_or_fails_to_say_comes_back_secured() {
    let certificates = Certificates::new();
    let service = service(&certificates, &[PER_CALL], Credential::None);
    let token = negotiate(&service, &certificates, Credential::None);
    let make = || {
        let echo = body("a &amp; b&#13;<![CDATA[<c>]]>");
        let (octets, pending) =
            client().call(Under::Token(&token), Proof::None, (ECHO, &echo), now().wall).expect("a call");
        (post(&service, CONTENT_TYPE, &octets).call.expect("a call"), pending)
    };
    let (call, _) = make();
    let sent = String::from_utf8(call.body().expect("a body")).expect("UTF-8");
    assert!(sent.contains("a &amp; b&#13;&lt;c&gt;"), "the whole text: {sent}");
    assert!(sent.contains("xmlns:b=\"urn:types\"") && sent.contains("xsi:type=\"b:text\""), "{sent}");
    let TokenName::Context { identifier, .. } = &token.name else { panic!("a token") };
    assert_eq!(call.session.name, *identifier);
    assert_eq!(call.one_way().status, 202);

    for fault in [CallFault::Application, CallFault::TimedOut] {
        let (call, pending) = make();
        let response = call.fault(fault, now()).expect("a fault");
        assert_eq!(response.status, 500);
        let reply = pending.receive(&response.body, now().wall).expect("it is secured");
        assert!(reply.is_fault);
    }
    let fault = "<e:Envelope xmlns:e='http://www.w3.org/2003/05/soap-envelope' xmlns:app='urn:app'><e:Body><e:Fault><e:Code><e:Value>e:Sender</e:Value>\
                 <e:Subcode><e:Value>app:Broken</e:Value></e:Subcode></e:Code><e:Reason><e:Text xml:lang='en'>no</e:Text></e:Reason></e:Fault></e:Body></e:Envelope>";
    let (call, pending) = make();
    let response = call.reply(fault.as_bytes(), &ParseLimits::default(), now()).expect("a reply");
    assert_eq!(response.status, 500);
    let reply = pending.receive(&response.body, now().wall).expect("it is secured");
    assert!(reply.is_fault && reply.action == "http://www.w3.org/2005/08/addressing/soap/fault");
    let body = String::from_utf8(reply.body().expect("a body")).expect("UTF-8");
    assert!(body.contains("xmlns:app=\"urn:app\"") && body.contains("app:Broken"), "{body}");
    for nonsense in
        ["<html/>", "no", "<Envelope xmlns='http://schemas.xmlsoap.org/soap/envelope/'><Body/></Envelope>"]
    {
        call.reply(nonsense.as_bytes(), &ParseLimits::default(), now()).expect_err(nonsense);
    }
}

#[test]
fn a_place_is_free_as_soon_as_a_session_is_cancelled() {
    let certificates = Certificates::new();
    let service = service(&certificates, &[PRESET_SESSION], Credential::UserName);
    let preset = certificates.service.certificate();
    let user = user();
    let open = || {
        let (octets, establishing) = client()
            .establish(Under::Certificate(&preset), Proof::UserName(&user), now().wall)
            .expect("RST/SCT");
        let said = post(&service, CONTENT_TYPE, &octets);
        (establishing.receive(&said.response.body, now().wall), said)
    };
    // More than may be pending at once, opened and cancelled without a call.
    for _ in 0..1_000 {
        let token = open().0.expect("a token");
        let (octets, cancelling) = client().cancel(&token, now().wall).expect("Cancel");
        let said = post(&service, CONTENT_TYPE, &octets);
        cancelling.receive(&said.response.body, now().wall).expect("it is cancelled");
    }
    let tokens: Vec<_> = (0..PENDING_MAX).map(|_| open().0.expect("a token")).collect();
    // A busy machine is late, but not each time.
    let mut soonest = Duration::MAX;
    for _ in 0..10 {
        let begun = std::time::Instant::now();
        let (refused, said) = open();
        soonest = soonest.min(begun.elapsed());
        refused.expect_err("too many");
        let busy = fault(&said.response.body);
        assert_eq!(busy.codes, ["soap-envelope:Receiver", "security:ServerTooBusy"]);
        assert_eq!(reason(said.event), Refusal::Trust(Reason::TooManyPending(PENDING_MAX)));
    }
    assert!(soonest < Duration::from_millis(100), "{soonest:?}");
    for token in &tokens {
        call(&service, Under::Token(token), Proof::None, "x").expect("a reply");
    }
    open().0.expect("there is room");
}
