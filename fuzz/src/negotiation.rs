//! A server's negotiations under any sequence of legs, times and floods, beside a table that is searched from
//! end to end.

use crate::Choices;
use dtyp::FileTime;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;
use tlsnego_service::fault::Reason;
use tlsnego_service::key::KeySize;
use tlsnego_service::message::{Authenticator, BinaryExchange, Context, Request, Response};
use tlsnego_service::negotiation::{
    Answer, Client, ClientCertificates, Established, Grant, NEGOTIATIONS_MAX, Negotiations, Server,
    ServerSettings, Step, TIME_MAX, TokenRequest, Waiting,
};
use tlsnego_service::{Credentials, TlsVersions, names};
use zeroize::Zeroizing;

const OPERATIONS_MAX: usize = 60;
/// Each costs a signature.
const FLOOD_MAX: usize = 200;
const SLOTS: u8 = 4;
const RANDOM: [u8; 32] = [7; 32];

/// What both sides have, made once.
struct Fixture {
    servers: [Server; 2],
    client: Client,
    hello: Vec<u8>,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(vec!["service.example".to_owned()]).expect("a name");
    let certificate = certificate.self_signed(&key).expect("it signs itself");
    let server = |versions| {
        let chain = vec![certificate.der().to_vec().into()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS #8");
        Server::new(ServerSettings {
            credentials: Credentials { chain, key },
            versions,
            client_certificates: ClientCertificates::NotAsked,
            key_size: KeySize::Bits256,
        })
    };
    let servers =
        [TlsVersions::Tls12, TlsVersions::Tls12And13].map(|versions| server(versions).expect("they fit"));
    let client = Client::new(None, TlsVersions::Tls12And13).expect("no certificate");
    let started = client.start(token_request("hello")).expect("it starts");
    let hello = started.message().binary_exchange.as_ref().expect("a ClientHello").octets.to_vec();
    Fixture { servers, client, hello }
});

fn token_request(context: &str) -> TokenRequest {
    let context = Context::new(Some(context)).expect("a URI");
    TokenRequest { context, key_size: KeySize::Bits256, value_type: names::TLSNEGO, applies_to: None }
}

/// One negotiation as the table has to have it.
struct Row {
    context: String,
    source: IpAddr,
    deadline: Duration,
    is_busy: bool,
}

/// A client of ours.
enum Slot {
    Idle,
    Waiting { waiting: Waiting, reply: Response<'static> },
    Established { waiting: Waiting, established: Established },
}

struct Model(Vec<Row>);

impl Model {
    fn expire(&mut self, now: Duration) {
        self.0.retain(|row| row.deadline > now);
    }

    fn find(&mut self, context: &str) -> Option<&mut Row> {
        self.0.iter_mut().find(|row| row.context == context)
    }

    fn remove(&mut self, context: &str) {
        self.0.retain(|row| row.context != context);
    }

    fn remove_unless_busy(&mut self, context: &str) {
        self.0.retain(|row| row.context != context || row.is_busy);
    }

    /// What a first leg that TLS accepts has to give.
    fn begin(&mut self, context: &str, source: IpAddr, now: Duration) -> Result<(), Reason> {
        self.expire(now);
        if self.find(context).is_some() {
            return Err(Reason::DuplicateContext);
        }
        if self.0.len() >= NEGOTIATIONS_MAX {
            // Rows are in the order of their age: the first row of a source that has most is the next to go.
            let mut held = HashMap::new();
            self.0.iter().for_each(|row| *held.entry(row.source).or_insert(0) += 1);
            let most = held.values().copied().max().unwrap_or_default();
            if held.get(&source).copied().unwrap_or_default() + 1 >= most {
                return Err(Reason::TooManyNegotiations(NEGOTIATIONS_MAX));
            }
            let oldest = self.0.iter().position(|row| held[&row.source] == most).expect("one has most");
            self.0.remove(oldest);
        }
        let row = Row { context: context.to_owned(), source, deadline: now + TIME_MAX, is_busy: false };
        self.0.push(row);
        Ok(())
    }
}

fn exchange(octets: &[u8]) -> Option<BinaryExchange<'_>> {
    Some(BinaryExchange { value_type: names::TLSNEGO.into(), octets: octets.into() })
}

/// Performs the operations that `bytes` choose.
pub fn check(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let fixture = &*FIXTURE;
    let table = Negotiations::new(fixture.servers[usize::from(choices.byte() & 1)].clone());
    let mut model = Model(Vec::new());
    let mut now = Duration::from_secs(1);
    let mut slots: Vec<Slot> = (0..SLOTS).map(|_| Slot::Idle).collect();
    let (mut fresh, mut flood) = (0, 0);
    for _ in 0..OPERATIONS_MAX {
        if choices.is_empty() {
            break;
        }
        let operation = choices.byte() % 8;
        let at = usize::from(choices.byte() % SLOTS);
        let source = IpAddr::from([192, 0, 2, choices.byte() % 3]);
        let context = format!("context-{at}");
        match operation {
            // A flood of first legs that nothing follows.
            0 => {
                for _ in 0..usize::from(choices.byte()).min(FLOOD_MAX - flood) {
                    (fresh, flood) = (fresh + 1, flood + 1);
                    let context = format!("flood-{fresh}");
                    let request = Request {
                        context: Some(context.as_str().into()),
                        binary_exchange: exchange(&fixture.hello),
                        ..Request::default()
                    };
                    let expected = model.begin(&context, source, now);
                    let answer = table.first(&request, b"first", source, now);
                    assert_eq!(answer.map(wrote), expected);
                }
            }
            1 => {
                let first = fixture.client.start(token_request(&context)).expect("it starts");
                let expected = model.begin(&context, source, now);
                let answer = table.first(first.message(), b"first", source, now);
                assert_eq!(answer.as_ref().err(), expected.as_ref().err());
                if let Ok(Answer::Reply(reply)) = answer {
                    slots[at] =
                        Slot::Waiting { waiting: first.wrote(b"first"), reply: reply.message().clone() };
                    reply.wrote(b"second");
                }
            }
            2 => {
                slots[at] =
                    go_on(std::mem::replace(&mut slots[at], Slot::Idle), &context, &table, &mut model, now)
            }
            3 => {
                // Any octets as a first leg, which leave nothing behind unless TLS waits for more of them.
                let octets = choices.take(64);
                let request = Request {
                    context: Some(context.as_str().into()),
                    binary_exchange: exchange(octets),
                    ..Request::default()
                };
                let expected = model.begin(&context, source, now);
                match (table.first(&request, b"first", source, now), expected) {
                    (Err(reason), Err(expected)) => assert_eq!(reason, expected),
                    (Err(reason), Ok(())) => {
                        assert_ne!(reason, Reason::DuplicateContext);
                        model.remove(&context);
                    }
                    (Ok(answer), Ok(())) => {
                        wrote(answer);
                        slots[at] = Slot::Idle;
                    }
                    (Ok(_), Err(expected)) => panic!("accepted, and not {expected}"),
                }
            }
            4 => {
                let octets = choices.take(64);
                let response =
                    Response { context: Some(context.as_str().into()), binary_exchange: exchange(octets) };
                model.expire(now);
                let is_there = model.find(&context).map(|row| row.is_busy);
                match (table.next(&response, b"next", now), is_there) {
                    (Err(reason), None | Some(true)) => assert_eq!(reason, Reason::UnknownContext),
                    (Err(reason), Some(false)) => {
                        assert_ne!(reason, Reason::UnknownContext);
                        model.remove(&context);
                    }
                    (Ok(answer), Some(false)) => {
                        assert!(matches!(answer, Answer::Reply(_)), "established without a client");
                        wrote(answer);
                        // The two sides have seen different messages now.
                        slots[at] = Slot::Idle;
                    }
                    (Ok(_), _) => panic!("a leg of no negotiation was accepted"),
                }
            }
            5 => {
                // The client hangs up; an answer that was not sent ends the negotiation.
                if let Slot::Established { established, .. } = std::mem::replace(&mut slots[at], Slot::Idle) {
                    drop(established);
                    model.remove(&context);
                }
            }
            6 => now += Duration::from_secs(u64::from(choices.byte() % 64)),
            _ => {
                table.expire(now);
                model.expire(now);
            }
        }
        if model.0.len() != table.len() {
            // What is over goes with the next leg.
            table.expire(now);
            model.expire(now);
        }
        assert_eq!(table.len(), model.0.len());
        assert!(table.len() <= NEGOTIATIONS_MAX);
    }
    drop(slots);
}

fn wrote(answer: Answer) {
    match answer {
        Answer::Reply(reply) => reply.wrote(b"reply"),
        Answer::Established(_) => panic!("established after one leg"),
    }
}

/// The next leg of a client of ours, or the last.
fn go_on(slot: Slot, context: &str, table: &Negotiations, model: &mut Model, now: Duration) -> Slot {
    match slot {
        Slot::Idle => Slot::Idle,
        Slot::Waiting { waiting, reply } => {
            let step = waiting.receive(&reply, b"second").expect("our own leg");
            let Step::Certificate(unverified) = step else { panic!("a certificate comes first") };
            let third = unverified.accept().expect("our own leg");
            model.expire(now);
            let is_there = model.find(context).is_some_and(|row| !row.is_busy);
            match table.next(third.message(), b"third", now) {
                Ok(Answer::Established(established)) => {
                    assert!(is_there);
                    model.find(context).expect("it is there").is_busy = true;
                    Slot::Established { waiting: third.wrote(b"third"), established }
                }
                Ok(Answer::Reply(_)) => panic!("a whole flight was sent"),
                Err(reason) => {
                    // It ended and began again with another ClientHello, or it is gone.
                    assert_eq!(reason == Reason::UnknownContext, !is_there);
                    model.remove_unless_busy(context);
                    Slot::Idle
                }
            }
        }
        Slot::Established { waiting, established } => {
            let created = FileTime::from_unix(1_800_000_000);
            let grant = Grant {
                identifier: "urn:token".to_owned(),
                random: Zeroizing::new(RANDOM),
                created,
                expires: created + Duration::from_secs(900),
            };
            // Its place may be that of another negotiation by now.
            let issued = established.issue(grant, now);
            model.expire(now);
            if model.find(context).is_some_and(|row| row.is_busy) {
                model.remove(context);
            }
            let Ok(issuing) = issued else { return Slot::Idle };
            let message = issuing.message().clone();
            let issued = issuing.wrote(b"final");
            let authenticator = Authenticator {
                context: Some(context.into()),
                combined_hash: Some(issued.combined_hash.as_slice().into()),
            };
            let token = waiting.finish(&message, b"final", &[authenticator]).expect("our own token");
            assert_eq!(token.key.as_bytes(), RANDOM);
            assert_eq!(token.key, issued.key);
            Slot::Idle
        }
    }
}
