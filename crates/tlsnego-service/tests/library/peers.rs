//! OpenSSL and JSSE as the other side, over TLS in memory: they find the same key and, by Python's and Java's
//! own hashes, the same authenticator.

use crate::support::*;
use dtyp::{hex, read_hex};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use tlsnego_service::TlsVersions::{self, Tls12, Tls12And13};
use tlsnego_service::fault::{Fault, Reason};
use tlsnego_service::message::{BinaryExchange, Request, Response, TokenResponse};
use tlsnego_service::names;
use tlsnego_service::negotiation::{Answer, ClientCertificates, Step, Token};
use xml_security::names::CONTEXT_TOKEN;

const CONTEXT: &str = "uuid-0c2a2a0e-1d1b-4a51-8d9a-3f4a5b6c7d8e-1";
/// Debian's, so that its OpenSSL is the one that other Debian peers have.
const PYTHON: &str = "/usr/bin/python3";

struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// The TLS of the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    OpenSsl,
    Jsse,
}

impl Peer {
    fn start(program: Program) -> Self {
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peers");
        let mut command = match program {
            Program::OpenSsl => {
                let mut command = Command::new(PYTHON);
                command.args(["-W", "ignore::DeprecationWarning"]).arg(peers.join("tlsnego_openssl.py"));
                // The settings of the system may forbid what a test is about.
                command.env("OPENSSL_CONF", "/dev/null");
                command
            }
            Program::Jsse => {
                let mut command = Command::new("java");
                command.args(["-XX:TieredStopAtLevel=1", "-Xshare:auto"]).arg(peers.join("TlsnegoJsse.java"));
                command
            }
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{error}: {command:?}"));
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, input, output }
    }

    /// Begins another negotiation.
    fn begin(&mut self, settings: Value) {
        writeln!(self.input, "{settings}").expect("it runs");
    }

    fn ask(&mut self, question: Value) -> Value {
        writeln!(self.input, "{question}").expect("it runs");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?} to {question}"))
    }

    /// Gives octets of a flight; what is sent back, and whether the handshake is complete.
    fn receive(&mut self, octets: &[u8]) -> (Vec<u8>, bool) {
        let answer = self.ask(json!({ "receive": hex(octets) }));
        assert_eq!(answer["error"], Value::Null, "{answer}");
        (octets_of(&answer, "send"), answer["done"] == true)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn octets_of(answer: &Value, field: &str) -> Vec<u8> {
    let text = answer[field].as_str().unwrap_or_else(|| panic!("{field} in {answer}"));
    let mut octets = vec![0; text.len() / 2];
    read_hex(text.as_bytes(), &mut octets).expect("hexadecimal");
    octets
}

/// The files of a certificate, in a folder that is gone at the end.
struct Files {
    _folder: tempfile::TempDir,
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn new(certificate: &Certificate) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, key) = (folder.path().join("certificate.pem"), folder.path().join("key.pem"));
        std::fs::write(&path, &certificate.pem).expect("written");
        std::fs::write(&key, certificate.key_pem()).expect("written");
        Self { _folder: folder, certificate: path, key }
    }
}

fn exchange(octets: Vec<u8>) -> Option<BinaryExchange<'static>> {
    Some(BinaryExchange { value_type: names::TLSNEGO.into(), octets: octets.into() })
}

fn response(octets: Vec<u8>) -> Response<'static> {
    Response { context: Some(CONTEXT.into()), binary_exchange: exchange(octets) }
}

fn first(octets: Vec<u8>) -> Request<'static> {
    Request {
        context: Some(CONTEXT.into()),
        request_type: Some(names::ISSUE.into()),
        key_size: Some("256".into()),
        binary_exchange: exchange(octets),
        ..Request::default()
    }
}

#[test]
fn an_openssl_client_gets_the_key_of_our_token() {
    give_tokens(Program::OpenSsl);
}

#[test]
fn a_jsse_client_gets_the_key_of_our_token() {
    give_tokens(Program::Jsse);
}

fn give_tokens(program: Program) {
    let mut peer = Peer::start(program);
    let (service, alice) = (Certificate::new("service.example"), Certificate::new("alice.example"));
    let files = Files::new(&alice);
    for (offered, versions, expected) in [
        (["1.2", "1.2"], Tls12, "TLSv1.2"),
        (["1.2", "1.3"], Tls12, "TLSv1.2"),
        (["1.2", "1.3"], Tls12And13, "TLSv1.3"),
        (["1.3", "1.3"], Tls12And13, "TLSv1.3"),
    ] {
        for clients in [ClientCertificates::NotAsked, ClientCertificates::Required] {
            let server = server(&service, versions, clients);
            peer.begin(json!({
                "role": "client", "versions": offered, "certificate": files.certificate, "key": files.key,
            }));
            let mut legs = vec![b"leg 1".to_vec()];
            let (hello, _) = peer.receive(b"");
            let mut answer = server.first(&first(hello), &legs[0], SOURCE, NOW).expect("leg 1");
            let established = loop {
                let reply = match answer {
                    Answer::Established(established) => break established,
                    Answer::Reply(reply) => reply,
                };
                let flight = reply.message().binary_exchange.as_ref().expect("a flight").octets.to_vec();
                legs.push(format!("leg {}", legs.len() + 1).into_bytes());
                reply.wrote(&legs[legs.len() - 1]);
                let (flight, _) = peer.receive(&flight);
                legs.push(format!("leg {}", legs.len() + 1).into_bytes());
                answer = server.next(&response(flight), &legs[legs.len() - 1], NOW).expect("a leg");
            };
            let shown = established.certificates().first().map(|shown| shown.to_vec());
            assert_eq!(shown, (clients == ClientCertificates::Required).then(|| alice.der.clone()));
            let issuing = established.issue(grant(), NOW).expect("the last leg");
            let message = issuing.message().clone();
            legs.push(b"final".to_vec());
            let issued = issuing.wrote(b"final");
            let mut flight = Vec::new();
            if let Some(exchange) = message.binary_exchange {
                let (more, done) = peer.receive(&exchange.octets);
                assert!(more.is_empty() && done);
            }
            flight.extend(message.cipher_value.expect("a key").iter());
            let legs: Vec<String> = legs.iter().map(|leg| hex(leg)).collect();
            let facts = peer.ask(json!({ "unwrap": hex(&flight), "legs": legs }));
            assert_eq!(facts["version"], expected, "{facts}");
            assert_eq!(octets_of(&facts, "key"), RANDOM);
            assert_eq!(octets_of(&facts, "combined_hash"), issued.combined_hash);
            assert_eq!(octets_of(&facts, "peer"), service.der, "without SNI");
        }
    }
}

#[test]
fn an_openssl_client_that_has_no_tls_1_2_is_named() {
    let mut peer = Peer::start(Program::OpenSsl);
    let service = Certificate::new("service.example");
    for (offered, name) in [(["1.0", "1.0"], "TLS 1.0"), (["1.0", "1.1"], "TLS 1.1")] {
        for versions in [Tls12, Tls12And13] {
            let server = server(&service, versions, ClientCertificates::NotAsked);
            peer.begin(json!({ "role": "client", "versions": offered }));
            let (hello, _) = peer.receive(b"");
            assert!(hello.len() > 40, "a ClientHello");
            let reason = server.first(&first(hello), b"leg 1", SOURCE, NOW).expect_err("too old");
            assert_eq!(
                (&reason, reason.fault()),
                (&Reason::OldTls { version: name }, Fault::NegotiationFailed)
            );
            assert!(
                reason.to_string().contains("4.7") && reason.to_string().contains("AppContext"),
                "{reason}"
            );
            assert!(server.is_empty());
        }
    }
}

/// What a server does, beside its versions.
struct Behaviour {
    versions: [&'static str; 2],
    tickets: u32,
    /// The tickets come in the CipherValue, before the key.
    tickets_with_key: bool,
    /// The last flight comes in a leg of its own, before that with the token.
    has_additional_leg: bool,
    /// Each flight is split over two messages.
    is_split: bool,
    close_notify: bool,
}

/// A negotiation with such a server, and the certificate that it saw.
fn token_of_peer(
    peer: &mut Peer,
    files: &Files,
    alice: Option<&Certificate>,
    behaviour: &Behaviour,
) -> Result<(Token, Vec<u8>), Reason> {
    peer.begin(json!({
        "role": "server", "versions": behaviour.versions, "certificate": files.certificate, "key": files.key,
        "asks": alice.map(|alice| {
            let path = files.certificate.with_file_name("alice.pem");
            std::fs::write(&path, &alice.pem).expect("written");
            path
        }),
        "tickets": behaviour.tickets, "tickets_with_key": behaviour.tickets_with_key,
        "close_notify": behaviour.close_notify,
    }));
    let outgoing = start(&client(alice, Tls12And13), CONTEXT);
    let mut flight = outgoing.message().binary_exchange.as_ref().expect("a ClientHello").octets.to_vec();
    let mut legs: Vec<Vec<u8>> = vec![b"leg 1".to_vec()];
    let mut waiting = outgoing.wrote(b"leg 1");
    let leg = |legs: &mut Vec<Vec<u8>>| {
        legs.push(format!("leg {}", legs.len() + 1).into_bytes());
        legs[legs.len() - 1].clone()
    };
    let last_flight = loop {
        let (answer, done) = peer.receive(&flight);
        flight.clear();
        if done && !behaviour.has_additional_leg {
            break answer;
        }
        let half = if behaviour.is_split { answer.len() / 2 } else { 0 };
        for part in [&answer[..half], &answer[half..]].into_iter().skip(usize::from(half == 0)) {
            let step = waiting.receive(&response(part.to_vec()), &leg(&mut legs))?;
            let outgoing = match step {
                Step::Send(outgoing) => outgoing,
                Step::Certificate(unverified) => unverified.accept()?,
            };
            flight.extend(outgoing.message().binary_exchange.as_ref().expect("a flight").octets.iter());
            waiting = outgoing.wrote(&leg(&mut legs));
        }
        if done {
            break Vec::new();
        }
    };
    legs.push(b"final".to_vec());
    let legs: Vec<String> = legs.iter().map(|leg| hex(leg)).collect();
    let facts = peer.ask(json!({ "wrap": hex(&RANDOM), "legs": legs }));
    assert_eq!(facts["error"], Value::Null, "{facts}");
    let message = TokenResponse {
        context: Some(CONTEXT.into()),
        token_type: Some(CONTEXT_TOKEN.into()),
        identifier: Some(IDENTIFIER.into()),
        applies_to: None,
        wrap_algorithm: Some(names::TLS_WRAP.into()),
        cipher_value: Some(octets_of(&facts, "cipher_value").into()),
        lifetime: Some((grant().created, grant().expires)),
        key_size: Some("256".into()),
        binary_exchange: (!last_flight.is_empty()).then(|| exchange(last_flight)).flatten(),
    };
    let hash = octets_of(&facts, "combined_hash");
    let token = waiting.finish(&message, b"final", &[authenticator(CONTEXT, &hash)])?;
    Ok((token, octets_of(&facts, "peer")))
}

#[test]
fn our_client_gets_the_key_of_an_openssl_server() {
    let mut peer = Peer::start(Program::OpenSsl);
    let (service, alice) = (Certificate::new("service.example"), Certificate::new("alice.example"));
    let files = Files::new(&service);
    let mut tried = 0;
    for versions in [["1.2", "1.2"], ["1.3", "1.3"]] {
        for tickets in 0..3 {
            for (tickets_with_key, has_additional_leg, is_split) in [
                (false, false, false),
                (true, false, false),
                (false, true, false),
                (false, true, true),
                (false, false, true),
            ] {
                // TLS 1.2 has its Finished in the last flight, which cannot come with the key.
                if versions == ["1.2", "1.2"] && (tickets_with_key || tickets > 0) {
                    continue;
                }
                for close_notify in [false, true] {
                    let alice = (tried % 2 == 1).then_some(&alice);
                    let behaviour = Behaviour {
                        versions,
                        tickets,
                        tickets_with_key,
                        has_additional_leg,
                        is_split,
                        close_notify,
                    };
                    let (token, shown) = token_of_peer(&mut peer, &files, alice, &behaviour).unwrap_or_else(|reason| {
                        panic!("{reason}: {versions:?}, {tickets} tickets ({tickets_with_key}), additional leg \
                            {has_additional_leg}, split {is_split}, close_notify {close_notify}")
                    });
                    assert_eq!(token.key.as_bytes(), RANDOM);
                    assert_eq!(shown, alice.map(|alice| alice.der.clone()).unwrap_or_default());
                    tried += 1;
                }
            }
        }
    }
    assert_eq!(tried, 38);
}

#[test]
fn our_client_gets_the_key_of_a_jsse_server() {
    let mut peer = Peer::start(Program::Jsse);
    let (service, alice) = (Certificate::new("service.example"), Certificate::new("alice.example"));
    let files = Files::new(&service);
    for versions in [["1.2", "1.2"], ["1.3", "1.3"]] {
        for (alice, close_notify) in [(None, false), (Some(&alice), false), (None, true)] {
            let behaviour = Behaviour {
                versions,
                tickets: 0,
                tickets_with_key: false,
                has_additional_leg: false,
                is_split: false,
                close_notify,
            };
            let (token, shown) = token_of_peer(&mut peer, &files, alice, &behaviour).expect("a token");
            assert_eq!(token.key.as_bytes(), RANDOM);
            assert_eq!(shown, alice.map(|alice| alice.der.clone()).unwrap_or_default());
        }
    }
}

#[test]
fn an_alert_of_an_openssl_server_ends_the_negotiation() {
    let files = Files::new(&Certificate::new("service.example"));
    let mut peer = Peer::start(Program::OpenSsl);
    peer.begin(json!({
        "role": "server", "versions": ["1.3", "1.3"], "certificate": files.certificate, "key": files.key,
    }));
    let outgoing = start(&client(None, TlsVersions::Tls12), CONTEXT);
    let hello = outgoing.message().binary_exchange.as_ref().expect("a ClientHello").octets.to_vec();
    let answer = peer.ask(json!({ "receive": hex(&hello) }));
    assert!(
        answer["error"].as_str().is_some_and(|error| error.to_lowercase().contains("protocol")),
        "{answer}"
    );
    let reason =
        outgoing.wrote(b"1").receive(&response(octets_of(&answer, "send")), b"2").expect_err("an alert");
    assert_eq!(reason.name(), "tls");
    assert!(reason.to_string().contains("alert"), "{reason}");
}
