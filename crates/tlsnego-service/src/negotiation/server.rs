//! The server's side of one negotiation.

use super::{APPLIES_TO_LEN_MAX, Transcript, check_context, exchange, later_exchange, value_type};
use crate::fault::Reason;
use crate::key::{COMBINED_HASH_LEN, Key, KeySize};
use crate::message::{Context, Request, Response, TokenResponse, check_token_type, is_absent_or};
use crate::names;
use crate::tls::{Credentials, Tls, TlsVersions, UnusableCredentials, old_version, server_config};
use dtyp::FileTime;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use xml_security::names::CONTEXT_TOKEN;
use zeroize::Zeroizing;

/// Whether clients authenticate by a certificate in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ClientCertificates {
    /// It is not asked for: the client is anonymous to TLS.
    #[default]
    NotAsked,
    /// Without one the negotiation fails.
    Required,
}

/// What a server negotiates.
#[derive(Debug)]
pub struct ServerSettings {
    /// The service's certificate and key. It is shown whatever name a client asks for.
    pub credentials: Credentials,
    /// Versions of TLS.
    pub versions: TlsVersions,
    /// Client certificates.
    pub client_certificates: ClientCertificates,
    /// The key size of the algorithm suite: clients ask for it, or for none.
    pub key_size: KeySize,
}

/// Begins negotiations.
#[derive(Clone)]
pub struct Server {
    config: Arc<ServerConfig>,
    client_certificates: ClientCertificates,
    key_size: KeySize,
}

/// A negotiation between two legs.
#[derive(Debug)]
pub(super) struct ServerNegotiation {
    tls: Tls,
    transcript: Transcript,
    context: Context,
    value_type: &'static str,
    key_size: KeySize,
    applies_to: Option<Vec<u8>>,
    client_certificates: ClientCertificates,
}

/// What follows a leg of the client.
#[derive(Debug)]
pub(super) enum Progress {
    /// TLS goes on: this is the next leg.
    Reply(Response<'static>),
    /// The handshake is complete. The octets are the last flight.
    Complete(Vec<u8>),
}

/// What the server decides about a token.
pub struct Grant {
    /// `c:Identifier`: a new absolute URI, such as `urn:uuid:` with a random UUID.
    pub identifier: String,
    /// The first octets become the proof key. Random, and used for nothing else.
    pub random: Zeroizing<[u8; 32]>,
    /// `u:Created`.
    pub created: FileTime,
    /// `u:Expires`.
    pub expires: FileTime,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client_certificates, key_size, config: _ } = self;
        f.debug_struct("Server")
            .field("client_certificates", client_certificates)
            .field("key_size", key_size)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identifier, created, expires, random: _ } = self;
        f.debug_struct("Grant")
            .field("identifier", identifier)
            .field("created", created)
            .field("expires", expires)
            .finish_non_exhaustive()
    }
}

/// The last leg, which waits to be written.
#[derive(Debug)]
pub struct Issuing {
    message: TokenResponse<'static>,
    transcript: Transcript,
    key: Key,
}

/// A token that was issued.
#[derive(Debug)]
pub struct Issued {
    /// `t:CombinedHash` of the second response.
    pub combined_hash: [u8; COMBINED_HASH_LEN],
    /// The proof key.
    pub key: Key,
}

impl Server {
    /// Fails if certificate and key cannot be used together.
    pub fn new(settings: ServerSettings) -> Result<Self, UnusableCredentials> {
        let ServerSettings { credentials, versions, client_certificates, key_size } = settings;
        let asks = client_certificates == ClientCertificates::Required;
        Ok(Self { config: server_config(credentials, versions, asks)?, client_certificates, key_size })
    }

    /// Takes the first leg of a client, whose Context is known already.
    pub(super) fn accept(
        &self,
        context: Context,
        request: &Request<'_>,
        canonical: &[u8],
    ) -> Result<(ServerNegotiation, Progress), Reason> {
        is_absent_or("RequestType", request.request_type.as_deref(), names::ISSUE)?;
        check_token_type(request.token_type.as_deref())?;
        let exchange = request.binary_exchange.as_ref().ok_or(Reason::Missing("BinaryExchange"))?;
        let value_type = value_type(exchange)?;
        self.key_size.check_asked(request.key_size.as_deref())?;
        if request.applies_to.as_ref().is_some_and(|octets| octets.len() > APPLIES_TO_LEN_MAX) {
            return Err(Reason::TooLong("octets of AppliesTo"));
        }
        if let Some(version) = old_version(&exchange.octets) {
            return Err(Reason::OldTls { version });
        }
        let mut negotiation = ServerNegotiation {
            tls: Tls::server(&self.config)?,
            transcript: Transcript::default(),
            context,
            value_type,
            key_size: self.key_size,
            applies_to: request.applies_to.as_deref().map(<[u8]>::to_vec),
            client_certificates: self.client_certificates,
        };
        let progress = negotiation.step(&exchange.octets, canonical)?;
        Ok((negotiation, progress))
    }
}

impl ServerNegotiation {
    /// Takes a later leg of the client.
    pub(super) fn receive(&mut self, response: &Response<'_>, canonical: &[u8]) -> Result<Progress, Reason> {
        check_context(response.context.as_deref(), self.context.as_str())?;
        let octets = later_exchange(response.binary_exchange.as_ref(), self.value_type)?;
        self.step(octets, canonical)
    }

    fn step(&mut self, octets: &[u8], canonical: &[u8]) -> Result<Progress, Reason> {
        self.transcript.received(canonical)?;
        self.tls.receive(octets)?;
        let flight = self.tls.flight()?;
        if self.tls.is_handshaking() {
            return Ok(Progress::Reply(Response {
                context: Some(self.context.as_str().to_owned().into()),
                binary_exchange: Some(exchange(self.value_type, flight)),
            }));
        }
        match self.client_certificates {
            ClientCertificates::Required if self.certificates().is_empty() => Err(Reason::NoCertificate),
            _ => Ok(Progress::Complete(flight)),
        }
    }

    /// A leg was sent.
    pub(super) fn wrote(&mut self, canonical: &[u8]) {
        self.transcript.sent(canonical);
    }

    /// The client's certificate and its issuers; none of an anonymous client.
    pub(super) fn certificates(&self) -> &[CertificateDer<'static>] {
        self.tls.peer_certificates().unwrap_or_default()
    }

    /// Makes the last leg.
    pub(super) fn issue(mut self, last_flight: Vec<u8>, grant: Grant) -> Result<Issuing, Reason> {
        let key = Key::from_random(self.key_size, &grant.random);
        let cipher_value = self.tls.wrap(key.as_bytes())?;
        let message = TokenResponse {
            context: Some(self.context.as_str().to_owned().into()),
            token_type: Some(CONTEXT_TOKEN.into()),
            identifier: Some(grant.identifier.into()),
            applies_to: self.applies_to.map(Cow::Owned),
            wrap_algorithm: Some(names::TLS_WRAP.into()),
            cipher_value: Some(cipher_value.into()),
            lifetime: Some((grant.created, grant.expires)),
            key_size: Some(self.key_size.bits().to_string().into()),
            binary_exchange: (!last_flight.is_empty()).then(|| exchange(self.value_type, last_flight)),
        };
        Ok(Issuing { message, transcript: self.transcript, key })
    }
}

impl Issuing {
    /// The first response of the last leg.
    pub fn message(&self) -> &TokenResponse<'static> {
        &self.message
    }

    /// The message was written: `canonical` is of the response without `t:RequestedSecurityToken` and
    /// `t:RequestedProofToken`. Gives what the second response holds.
    pub fn wrote(mut self, canonical: &[u8]) -> Issued {
        self.transcript.sent(canonical);
        Issued { combined_hash: self.key.combined_hash(&self.transcript.finish()), key: self.key }
    }
}
