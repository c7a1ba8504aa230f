//! Our client against our server: every way to a call with every credential.

use crate::support::*;
use tlsnego_service::fault::Reason;
use tlsnego_service::negotiation;
use tlsnego_service::session::{Credential, Session, SessionKind};
use tlsnego_service::{TlsVersions, freshness::Skew};
use tlsnego_soap::client::{Client, ClientError, ContextToken, Negotiated, Proof, Reply, Under};
use tlsnego_soap::server::{Binding, Event};
use tlsnego_soap::{CONTENT_TYPE, TrustVersion};
use xml_security::{Cipher, Hash, ParseLimits, Signer, SigningKey, Suite, TokenName, UsernameToken};

pub(crate) const ECHO: &str = "urn:echo";

pub(crate) fn client() -> Client {
    Client {
        to: TO.to_owned(),
        suite: Suite::BASIC256,
        version: TrustVersion::February2005,
        skew: Skew::default(),
        limits: ParseLimits::default(),
        random: random(),
        trace: None,
    }
}

pub(crate) fn tls_client(certificates: &Certificates, credential: Credential) -> negotiation::Client {
    let shown = (credential == Credential::Certificate).then(|| certificates.client.credentials());
    negotiation::Client::new(shown, TlsVersions::Tls12And13).expect("a client")
}

pub(crate) fn user() -> UsernameToken {
    UsernameToken { username: USER.to_owned(), password: PASSWORD.to_owned().into() }
}

/// A negotiation, leg by leg; `change` is what happens to each answer of the server on its way.
pub(crate) fn negotiate_with(
    client: &Client,
    service: &Service,
    tls: &negotiation::Client,
    server: &[u8],
    change: impl Fn(Vec<u8>) -> Vec<u8>,
) -> Result<ContextToken, ClientError> {
    let (mut octets, mut negotiating) = client.negotiate(tls).expect("the first leg");
    loop {
        let answer = change(post(service, CONTENT_TYPE, &octets).response.body);
        (octets, negotiating) = match negotiating.receive(&answer, now().wall)? {
            Negotiated::Token(token) => return Ok(token),
            Negotiated::Send(octets, negotiating) => (octets, negotiating),
            Negotiated::Certificate(unverified) => {
                assert_eq!(unverified.certificates().first().map(|shown| &**shown), Some(server));
                unverified.accept()?
            }
        };
    }
}

pub(crate) fn negotiate(
    service: &Service,
    certificates: &Certificates,
    credential: Credential,
) -> ContextToken {
    let tls = tls_client(certificates, credential);
    negotiate_with(&client(), service, &tls, &certificates.service.der, |answer| answer).expect("a token")
}

/// A call of the body with a text; the reply, and the session that the application saw.
pub(crate) fn call(
    service: &Service,
    under: Under<'_>,
    proof: Proof<'_>,
    text: &str,
) -> Result<(Reply, Session), ClientError> {
    let body = body(text);
    let (octets, pending) = client().call(under, proof, (ECHO, &body), now().wall)?;
    let said = post(service, CONTENT_TYPE, &octets);
    let reply = pending.receive(&said.response.body, now().wall)?;
    let call = said.call.expect("the application was called");
    assert_eq!(call.action, ECHO);
    Ok((reply, Session::clone(&call.session)))
}

pub(crate) fn body(text: &str) -> Vec<u8> {
    format!(
        "<s:Body xmlns:s='http://www.w3.org/2003/05/soap-envelope' xmlns:b='urn:types' xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance'>\
         <Echo xmlns='urn:echo' xsi:type='b:text'>{text}</Echo></s:Body>"
    )
    .into_bytes()
}

fn proof<'a>(
    credential: Credential,
    negotiate: bool,
    user: &'a UsernameToken,
    signer: &'a SigningKey,
) -> Proof<'a> {
    match credential {
        Credential::UserName => Proof::UserName(user),
        Credential::Certificate if !negotiate => Proof::Certificate(signer as &dyn Signer),
        _ => Proof::None,
    }
}

fn identifier(token: &ContextToken) -> &str {
    match &token.name {
        TokenName::Context { identifier, .. } => identifier,
        TokenName::EncryptedKey(_) => panic!("an encrypted key is no token"),
    }
}

const BAD_TOKEN: &str = "not authenticated: BadContextToken: The security context token is not valid.";

/// One way to a call: a binding with a credential, and a service for it alone.
struct Way<'a> {
    binding: Binding,
    credential: Credential,
    in_cookies: bool,
    certificates: &'a Certificates,
    service: Service,
    proof: Proof<'a>,
    /// The names of the sessions of calls, each once.
    names: Vec<String>,
}

impl Way<'_> {
    /// The token of a negotiation, if the binding has one.
    fn negotiated(&self) -> Option<ContextToken> {
        self.binding.negotiate.then(|| negotiate(&self.service, self.certificates, self.credential))
    }

    fn check(&mut self, session: &Session, kind: SessionKind) {
        assert_eq!(session.kind, kind);
        assert_eq!(session.credential, self.credential);
        let account = session.identity.as_ref().map(|identity| &*identity.account);
        let expected = match self.credential {
            Credential::None => None,
            Credential::UserName => Some("S-1-5-21-1-2-3-1001"),
            Credential::Certificate => Some("S-1-5-21-1-2-3-1002"),
        };
        assert_eq!(account, expected);
        self.names.push(session.name.clone());
        self.names.dedup();
    }

    /// Calls without a session, then Cancel. Returns whether it was possible, and the fault of a fifth call.
    fn calls_directly(&mut self) -> (&'static str, String) {
        let preset = self.certificates.service.certificate();
        let token = self.negotiated();
        let kind = match self.binding.negotiate {
            true => SessionKind::Negotiated,
            false => SessionKind::OneShot,
        };
        for n in 0..4 {
            let text = format!("call {n}");
            let outer = token.as_ref().map_or(Under::Certificate(&preset), Under::Token);
            let (reply, session) = call(&self.service, outer, self.proof, &text).expect("a reply");
            assert!(!reply.is_fault && reply.action == "urn:echoResponse");
            let body = String::from_utf8(reply.body().expect("a body")).expect("UTF-8");
            assert!(body.contains(&text), "{body}");
            self.check(&session, kind);
        }
        assert_eq!(self.names.len(), if self.binding.negotiate { 1 } else { 4 }, "names of sessions");
        match &token {
            Some(token) => ("yes", cancel_and_call(&self.service, token, self.proof)),
            None => ("-", "-".to_owned()),
        }
    }

    /// Establishes a session, and returns its token.
    fn establishes(&self) -> ContextToken {
        let preset = self.certificates.service.certificate();
        let bootstrap = self.negotiated();
        let outer = bootstrap.as_ref().map_or(Under::Certificate(&preset), Under::Token);
        let (octets, establishing) = client().establish(outer, self.proof, now().wall).expect("RST/SCT");
        let said = post(&self.service, CONTENT_TYPE, &octets);
        let Some(Event::Opened(opened)) = said.event else { panic!("{:?}", said.event) };
        let token = establishing.receive(&said.response.body, now().wall).expect("a token");
        assert_eq!(opened.name, identifier(&token));
        if let Some(bootstrap) = &bootstrap {
            assert_eq!(opened.parent.as_deref(), Some(identifier(bootstrap)));
        }
        // In a table, its purpose is fulfilled.
        if let Some(bootstrap) = bootstrap.as_ref().filter(|_| !self.in_cookies) {
            let under = Under::Token(bootstrap);
            let gone = call(&self.service, under, self.proof, "x").expect_err("it is forgotten");
            assert_eq!(gone.to_string(), BAD_TOKEN);
        }
        token
    }

    fn calls_in_session(&mut self, token: &ContextToken) -> Session {
        let under = || Under::Token(token);
        let (_, first) = call(&self.service, under(), Proof::None, "1").expect("a reply");
        self.check(&first, SessionKind::Established);
        let (_, second) = call(&self.service, under(), Proof::None, "2").expect("a reply");
        self.check(&second, SessionKind::Established);
        assert_eq!(first.instance.is_some(), second.instance.is_some());
        second
    }

    /// Renews a session under its token, and as .NET does, under a new bootstrap, endorsed.
    fn renews(&self, token: &ContextToken) -> (ContextToken, &'static str) {
        let preset = self.certificates.service.certificate();
        let (octets, renewing) =
            client().renew(token, Under::Token(token), Proof::None, now().wall).expect("Renew");
        let said = post(&self.service, CONTENT_TYPE, &octets);
        let renewed = renewing.receive(&said.response.body, now().wall).expect("a renewed token");
        assert_ne!(renewed.name, token.name);
        let again = self.negotiated();
        let outer = again.as_ref().map_or(Under::Certificate(&preset), Under::Token);
        match client().renew(&renewed, outer, self.proof, now().wall) {
            // A message of ours has one endorsing signature.
            Err(ClientError::Message(_)) => (renewed, "own"),
            Err(error) => panic!("{error}"),
            Ok((octets, renewing)) => {
                let said = post(&self.service, CONTENT_TYPE, &octets);
                let twice = renewing.receive(&said.response.body, now().wall);
                (twice.unwrap_or_else(|error| panic!("{error} {:?}", said.event)), "own, endorsed")
            }
        }
    }

    fn print(&self, renewed: &str, cancel: &str, fifth: &str) {
        let place = if self.in_cookies { "cookies" } else { "table" };
        println!(
            "{place:9} {:9} {:9} {:11} | 4 of 4  {renewed:17} {cancel:6} {fifth}",
            self.binding.negotiate,
            self.binding.establish,
            self.credential.as_str()
        );
    }
}

#[test]
fn every_way_to_a_call_works_with_every_credential() {
    let certificates = Certificates::new();
    let (user, signer) = (user(), certificates.client.signer());
    println!("sessions  negotiate establish credential  | calls   renew             cancel fifth");
    let credentials = [Credential::UserName, Credential::Certificate, Credential::None];
    let cases = credentials.into_iter().flat_map(|credential| [(credential, false), (credential, true)]);
    for binding in Binding::ALL {
        for (credential, in_cookies) in cases.clone() {
            let service = service(&certificates, &[binding], credential);
            let service = if in_cookies { with_cookies(service) } else { service };
            let proof = proof(credential, binding.negotiate, &user, &signer);
            let certificates = &certificates;
            let mut way =
                Way { binding, credential, in_cookies, certificates, service, proof, names: Vec::new() };
            if !binding.establish {
                let (cancel, fifth) = way.calls_directly();
                way.print("-", cancel, &fifth);
                continue;
            }
            let token = way.establishes();
            way.calls_in_session(&token);
            let (renewed, ways) = way.renews(&token);
            let session = way.calls_in_session(&renewed);
            assert!(session.instance.is_some());
            assert_eq!(way.names, [identifier(&token)], "Renew keeps the name");
            let fault = cancel_and_call(&way.service, &renewed, Proof::None);
            assert!(in_cookies || way.service.tokens().is_empty());
            way.print(ways, "yes", &fault);
        }
    }
}

/// Cancels, and returns the fault of the call after it.
fn cancel_and_call(service: &Service, token: &ContextToken, proof: Proof<'_>) -> String {
    let (octets, cancelling) = client().cancel(token, now().wall).expect("Cancel");
    let said = post(service, CONTENT_TYPE, &octets);
    cancelling.receive(&said.response.body, now().wall).expect("it is cancelled");
    let fifth = call(service, Under::Token(token), proof, "fifth").expect_err("it is cancelled");
    assert_eq!(fifth.to_string(), BAD_TOKEN);
    "c:BadContextToken".to_owned()
}

#[test]
fn a_changed_answer_of_a_negotiation_gives_no_token() {
    let certificates = Certificates::new();
    let server = &certificates.service.der;
    for (what, from, to) in [
        ("BinaryExchange", "<t:BinaryExchange", "<t:BinaryExchange x=\"\""),
        ("an added attribute", "<t:Lifetime", "<t:Lifetime x=\"\""),
        ("Lifetime", "Z</u:Expires>", "0Z</u:Expires>"),
        ("reference", "<t:RequestedAttachedReference", "<t:RequestedAttachedReference x=\"\""),
        ("unattached", "<t:RequestedUnattachedReference", "<t:RequestedUnattachedReference x=\"\""),
        ("KeySize", "<t:KeySize>256", "<t:KeySize> 256"),
        ("TokenType", "<t:TokenType>", "<t:TokenType> "),
        ("hash", "<t:CombinedHash>", "<t:CombinedHash>AAAA"),
    ] {
        let service = service(&certificates, &Binding::ALL, Credential::None);
        // With TLS 1.3 the last leg has no BinaryExchange.
        let tls = negotiation::Client::new(None, TlsVersions::Tls12).expect("a client");
        let changed = negotiate_with(&client(), &service, &tls, server, |answer| {
            let text = String::from_utf8(answer).expect("UTF-8");
            match text.contains("ResponseCollection") {
                true => {
                    assert!(text.contains(from), "{what}: {text}");
                    text.replacen(from, to, 1).into_bytes()
                }
                false => text.into_bytes(),
            }
        });
        assert_eq!(changed.expect_err(what), ClientError::Trust(Reason::Authenticator), "{what}");
    }
    // Without the authenticator, or with two of them.
    for times in [0, 2] {
        let service = service(&certificates, &Binding::ALL, Credential::None);
        let tls = negotiation::Client::new(None, TlsVersions::Tls12).expect("a client");
        let changed = negotiate_with(&client(), &service, &tls, server, |answer| {
            let text = String::from_utf8(answer).expect("UTF-8");
            let Some(end) = text.find("</t:RequestSecurityTokenResponseCollection>") else {
                return text.into_bytes();
            };
            let start = text.rfind("<t:RequestSecurityTokenResponse ").expect("the second response");
            [&text[..start], &text[start..end].repeat(times), &text[end..]].concat().into_bytes()
        });
        assert_eq!(
            changed.expect_err("no token"),
            ClientError::Trust(Reason::Missing("Authenticator")),
            "{times}"
        );
    }
}

#[test]
fn white_space_between_trust_elements_is_not_hashed() {
    let certificates = Certificates::new();
    let service = service(&certificates, &Binding::ALL, Credential::None);
    let tls = tls_client(&certificates, Credential::None);
    let changed = negotiate_with(&client(), &service, &tls, &certificates.service.der, |answer| {
        String::from_utf8(answer).expect("UTF-8").replace("><t:", ">\n  <t:").into_bytes()
    });
    changed.expect("a token");
}

#[test]
fn an_answer_that_is_not_secured_or_not_ours_is_no_reply() {
    let certificates = Certificates::new();
    let service = service(&certificates, &Binding::ALL, Credential::None);
    let token = negotiate(&service, &certificates, Credential::None);
    let echo = body("x");
    let make =
        || client().call(Under::Token(&token), Proof::None, (ECHO, &echo), now().wall).expect("a call");

    // Replies of one session that are swapped.
    let [(first, first_pending), (second, second_pending)] = [make(), make()];
    let first = post(&service, CONTENT_TYPE, &first).response.body;
    let second = post(&service, CONTENT_TYPE, &second).response.body;
    let swapped = first_pending.receive(&second, now().wall).expect_err("another answer");
    assert_eq!(swapped, ClientError::OtherMessage);
    second_pending.receive(&first, now().wall).expect_err("another answer");

    // A forged fault, and a forged reply.
    let id = |octets: &[u8]| {
        let text = String::from_utf8(octets.to_vec()).expect("UTF-8");
        let start = text.find("urn:uuid:").expect("a MessageID");
        text[start..start + 45].to_owned()
    };
    let (octets, pending) = make();
    let forged = format!(
        "<s:Envelope xmlns:s='http://www.w3.org/2003/05/soap-envelope' xmlns:a='http://www.w3.org/2005/08/addressing'>\
         <s:Header><a:Action>urn:echoResponse</a:Action><a:RelatesTo>{}</a:RelatesTo></s:Header>\
         <s:Body><s:Fault><s:Code><s:Value>s:Sender</s:Value></s:Code><s:Reason><s:Text>forged</s:Text></s:Reason></s:Fault></s:Body></s:Envelope>",
        id(&octets)
    );
    let error = pending.receive(forged.as_bytes(), now().wall).expect_err("it is not secured");
    assert_eq!(error.to_string(), "not authenticated: Sender: forged");
    let (_, pending) = make();
    let plain = forged.replace("s:Fault", "s:Other");
    let error = pending.receive(plain.as_bytes(), now().wall).expect_err("it is not secured");
    assert_eq!(error.to_string(), "not authenticated: the answer is not secured, and no fault");

    // The page of a proxy, nothing, and SOAP 1.1.
    let soap_11 = forged
        .replace("http://www.w3.org/2003/05/soap-envelope", "http://schemas.xmlsoap.org/soap/envelope/");
    for answer in ["<html><body>502</body></html>", "<p>an <br>", "", &soap_11] {
        let (_, pending) = make();
        let error = pending.receive(answer.as_bytes(), now().wall).expect_err("it is no message");
        assert!(error.to_string().starts_with("not authenticated: the answer cannot be read"), "{error}");
        let (_, negotiating) =
            client().negotiate(&tls_client(&certificates, Credential::None)).expect("a leg");
        let error = negotiating.receive(answer.as_bytes(), now().wall).expect_err("it is no message");
        assert!(matches!(error, ClientError::Unreadable(_)), "{error}");
    }

    // A reply of another session.
    let other = negotiate(&service, &certificates, Credential::None);
    let (octets, _) =
        client().call(Under::Token(&other), Proof::None, (ECHO, &echo), now().wall).expect("a call");
    let (_, pending) = make();
    let foreign = post(&service, CONTENT_TYPE, &octets).response.body;
    let error = pending.receive(&foreign, now().wall).expect_err("another session");
    assert!(matches!(error, ClientError::Rejected(_)), "{error}");
}

#[test]
fn every_suite_has_its_own_key_size() {
    let certificates = Certificates::new();
    let preset = certificates.service.certificate();
    for cipher in [Cipher::Aes256, Cipher::Aes192, Cipher::Aes128, Cipher::TripleDes] {
        for hash in [Hash::Sha1, Hash::Sha256] {
            let suite = Suite { cipher, hash };
            let service = service_with(&certificates, &Binding::ALL, Credential::None, |settings| {
                settings.suite = suite
            });
            let client = Client { suite, ..client() };
            let tls = tls_client(&certificates, Credential::None);
            let token = negotiate_with(&client, &service, &tls, &certificates.service.der, |answer| answer);
            let token = token.expect("a token");
            let (octets, establishing) =
                client.establish(Under::Token(&token), Proof::None, now().wall).expect("RST/SCT");
            let said = post(&service, CONTENT_TYPE, &octets);
            let session = establishing.receive(&said.response.body, now().wall).expect("a token");
            for under in [Under::Token(&session), Under::Certificate(&preset)] {
                let (octets, pending) =
                    client.call(under, Proof::None, (ECHO, &body("x")), now().wall).expect("a call");
                let said = post(&service, CONTENT_TYPE, &octets);
                pending
                    .receive(&said.response.body, now().wall)
                    .unwrap_or_else(|error| panic!("{suite:?}: {error}"));
            }
            // A client of another suite is told nothing.
            if suite != Suite::BASIC256 {
                call(&service, Under::Certificate(&preset), Proof::None, "x").expect_err("another suite");
            }
        }
    }
}
