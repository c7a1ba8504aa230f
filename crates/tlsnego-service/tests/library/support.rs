//! Certificates, and canonical octets of messages that were never XML.

use dtyp::FileTime;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use std::fmt::Debug;
use std::net::IpAddr;
use std::time::Duration;
use tlsnego_service::key::KeySize;
use tlsnego_service::message::{Authenticator, Context, TokenResponse};
use tlsnego_service::negotiation::{
    Answer, Client, ClientCertificates, Established, Grant, Issued, Negotiations, Outgoing, Server,
    ServerSettings, Step, Token, TokenRequest, Waiting,
};
use tlsnego_service::{Credentials, TlsVersions, message};
use zeroize::Zeroizing;

pub(crate) const NOW: Duration = Duration::from_secs(1_000);
pub(crate) const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
pub(crate) const RANDOM: [u8; 32] = *b"the proof key of this one token.";
pub(crate) const IDENTIFIER: &str = "urn:uuid:3c1ff1a4-41c3-4b0e-9d1c-0f7b6a8f4f2e";

/// A certificate and its key, for TLS and as files.
pub(crate) struct Certificate {
    pub(crate) der: Vec<u8>,
    pub(crate) pem: String,
    key: KeyPair,
}

impl Certificate {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let certificate =
            CertificateParams::new(vec![name.to_owned()]).expect("a name").self_signed(&key).expect("it");
        Self { der: certificate.der().to_vec(), pem: certificate.pem(), key }
    }

    pub(crate) fn credentials(&self) -> Credentials {
        Credentials {
            chain: vec![self.der.clone().into()],
            key: PrivateKeyDer::try_from(self.key.serialize_der()).expect("PKCS #8"),
        }
    }

    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

/// Stands for canonicalisation: a function of all that a message says.
pub(crate) fn canonical(message: &impl Debug) -> Vec<u8> {
    format!("{message:?}").into_bytes()
}

/// The same of the last leg, without the token and the proof key.
pub(crate) fn canonical_of_token(response: &TokenResponse<'_>) -> Vec<u8> {
    canonical(&TokenResponse {
        identifier: None,
        wrap_algorithm: None,
        cipher_value: None,
        ..response.clone()
    })
}

pub(crate) fn settings(
    certificate: &Certificate,
    versions: TlsVersions,
    clients: ClientCertificates,
) -> Server {
    let settings = ServerSettings {
        credentials: certificate.credentials(),
        versions,
        client_certificates: clients,
        key_size: KeySize::Bits256,
    };
    Server::new(settings).expect("they belong together")
}

pub(crate) fn server(
    certificate: &Certificate,
    versions: TlsVersions,
    clients: ClientCertificates,
) -> Negotiations {
    Negotiations::new(settings(certificate, versions, clients))
}

pub(crate) fn client(certificate: Option<&Certificate>, versions: TlsVersions) -> Client {
    Client::new(certificate.map(Certificate::credentials), versions).expect("they belong together")
}

pub(crate) fn start(client: &Client, context: &str) -> Outgoing<message::Request<'static>> {
    let context = Context::new(Some(context)).expect("a Context");
    client
        .start(TokenRequest {
            context,
            key_size: KeySize::Bits256,
            value_type: tlsnego_service::names::TLSNEGO,
            applies_to: None,
        })
        .expect("it starts")
}

pub(crate) fn grant() -> Grant {
    let created = FileTime::from_unix(1_800_000_000);
    Grant {
        identifier: IDENTIFIER.to_owned(),
        random: Zeroizing::new(RANDOM),
        created,
        expires: created + Duration::from_secs(900),
    }
}

/// A negotiation before its last leg.
pub(crate) struct Finishing {
    pub(crate) waiting: Waiting,
    pub(crate) established: Established,
    /// The certificate that the server showed.
    pub(crate) server: Vec<u8>,
    /// Legs of both sides so far.
    pub(crate) legs: usize,
}

/// Runs all legs but the last.
pub(crate) fn negotiate(client: &Client, server: &Negotiations, context: &str) -> Finishing {
    let first = start(client, context);
    let canonical_first = canonical(first.message());
    let mut answer = server.first(first.message(), &canonical_first, SOURCE, NOW).expect("leg 1");
    let mut waiting = first.wrote(&canonical_first);
    let (mut shown, mut legs) = (Vec::new(), 1);
    loop {
        legs += 1;
        let reply = match answer {
            Answer::Established(established) => {
                return Finishing { waiting, established, server: shown, legs: legs - 1 };
            }
            Answer::Reply(reply) => reply,
        };
        let octets = canonical(reply.message());
        let step = waiting.receive(reply.message(), &octets).expect("a leg of the server");
        reply.wrote(&octets);
        let outgoing = match step {
            Step::Send(outgoing) => outgoing,
            Step::Certificate(unverified) => {
                shown = unverified.certificates().first().expect("a certificate").to_vec();
                unverified.accept().expect("the next leg")
            }
        };
        legs += 1;
        let octets = canonical(outgoing.message());
        answer = server.next(outgoing.message(), &octets, NOW).expect("a leg of the client");
        waiting = outgoing.wrote(&octets);
    }
}

/// The last leg.
pub(crate) fn issue(established: Established) -> (TokenResponse<'static>, Issued) {
    let issuing = established.issue(grant(), NOW).expect("the last leg");
    let message = issuing.message().clone();
    let octets = canonical_of_token(&message);
    (message, issuing.wrote(&octets))
}

pub(crate) fn authenticator(context: &str, combined_hash: &[u8]) -> Authenticator<'static> {
    Authenticator {
        context: Some(context.to_owned().into()),
        combined_hash: Some(combined_hash.to_vec().into()),
    }
}

/// Takes the last leg as it was sent.
pub(crate) fn finish(waiting: Waiting, response: &TokenResponse<'_>, issued: &Issued) -> Token {
    let context = response.context.clone().expect("it has one");
    let authenticators = [authenticator(&context, &issued.combined_hash)];
    waiting.finish(response, &canonical_of_token(response), &authenticators).expect("the token")
}
