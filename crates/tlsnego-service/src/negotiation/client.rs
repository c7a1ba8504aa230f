//! The client's side of one negotiation.

use super::{Transcript, check_context, exchange, later_exchange};
use crate::fault::Reason;
use crate::key::{Key, KeySize};
use crate::message::{Authenticator, Context, Request, Response, TokenResponse};
use crate::names::{self, CONTEXT_LEN_MAX};
use crate::tls::{Credentials, Tls, TlsVersions, UnusableCredentials, client_config};
use dtyp::FileTime;
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use subtle::ConstantTimeEq;
use xml_security::names::CONTEXT_TOKEN;
use zeroize::Zeroizing;

/// Begins negotiations.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// A new Context, such as `uuid-` with a random UUID and `-1`.
    pub context: Context,
    /// The key size of the algorithm suite.
    pub key_size: KeySize,
    /// How the value type of BinaryExchange is spelled: [`names::TLSNEGO`], or
    /// [`names::TLSNEGO_WITHOUT_SPACE`] in WS-Trust 1.3.
    pub value_type: &'static str,
    /// The canonical octets of `wsp:AppliesTo`. .NET sends none.
    pub applies_to: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Negotiation {
    tls: Tls,
    transcript: Transcript,
    context: Context,
    key_size: KeySize,
    value_type: &'static str,
    /// The caller accepted the server's certificate.
    is_server_accepted: bool,
}

/// A leg that waits to be sent.
#[derive(Debug)]
pub struct Outgoing<M> {
    message: M,
    negotiation: Negotiation,
}

/// A negotiation that waits for the server.
#[derive(Debug)]
pub struct Waiting(Negotiation);

/// The server showed its certificate, and has the key of it. Nothing is sent before the caller accepts it.
#[derive(Debug)]
pub struct Unverified(Negotiation);

/// What follows a leg of the server.
#[derive(Debug)]
pub enum Step {
    /// The caller decides on the server's certificate.
    Certificate(Unverified),
    /// The next leg.
    Send(Outgoing<Response<'static>>),
}

/// A security context token. The server has the certificate that was accepted, and all messages arrived as
/// they were sent.
#[derive(Debug)]
pub struct Token {
    /// `c:Identifier`.
    pub identifier: String,
    /// The proof key.
    pub key: Key,
    /// `u:Created`, by the clock of the server.
    pub created: FileTime,
    /// `u:Expires`, by the clock of the server.
    pub expires: FileTime,
}

impl Client {
    /// `credentials` is the client's certificate, which is shown if the server asks for one.
    pub fn new(credentials: Option<Credentials>, versions: TlsVersions) -> Result<Self, UnusableCredentials> {
        Ok(Self { config: client_config(credentials, versions)? })
    }

    /// The first leg.
    pub fn start(&self, request: TokenRequest) -> Result<Outgoing<Request<'static>>, Reason> {
        let TokenRequest { context, key_size, value_type, applies_to } = request;
        let mut tls = Tls::client(&self.config)?;
        let message = Request {
            context: Some(context.as_str().to_owned().into()),
            token_type: Some(CONTEXT_TOKEN.into()),
            request_type: Some(names::ISSUE.into()),
            key_size: Some(key_size.bits().to_string().into()),
            binary_exchange: Some(exchange(value_type, tls.flight()?)),
            applies_to: applies_to.map(Into::into),
        };
        let transcript = Transcript::default();
        let negotiation =
            Negotiation { tls, transcript, context, key_size, value_type, is_server_accepted: false };
        Ok(Outgoing { message, negotiation })
    }
}

impl<M> Outgoing<M> {
    /// The leg.
    pub fn message(&self) -> &M {
        &self.message
    }

    /// The leg was written with these canonical octets.
    pub fn wrote(mut self, canonical: &[u8]) -> Waiting {
        self.negotiation.transcript.sent(canonical);
        Waiting(self.negotiation)
    }
}

impl Waiting {
    /// Takes a leg of the server that is not the last.
    pub fn receive(self, response: &Response<'_>, canonical: &[u8]) -> Result<Step, Reason> {
        let Self(mut negotiation) = self;
        check_context(response.context.as_deref(), negotiation.context.as_str())?;
        let octets = later_exchange(response.binary_exchange.as_ref(), negotiation.value_type)?;
        negotiation.transcript.received(canonical)?;
        negotiation.tls.receive(octets)?;
        match !negotiation.is_server_accepted && negotiation.tls.peer_certificates().is_some() {
            true => Ok(Step::Certificate(Unverified(negotiation))),
            false => negotiation.next().map(Step::Send),
        }
    }

    /// Takes the last leg: its first response, the canonical octets of that without
    /// `t:RequestedSecurityToken` and `t:RequestedProofToken`, and all further responses. If anything in it
    /// is not as it has to be, there is no token.
    pub fn finish(
        self,
        response: &TokenResponse<'_>,
        canonical: &[u8],
        authenticators: &[Authenticator<'_>],
    ) -> Result<Token, Reason> {
        let Self(Negotiation { mut tls, mut transcript, context, key_size, value_type, is_server_accepted }) =
            self;
        check_context(response.context.as_deref(), context.as_str())?;
        let [authenticator] = authenticators else { return Err(Reason::Missing("Authenticator")) };
        check_context(authenticator.context.as_deref(), context.as_str())?;
        let combined_hash = authenticator.combined_hash.as_deref().ok_or(Reason::Missing("CombinedHash"))?;

        // The record with the key follows these in the server's sequence.
        if response.binary_exchange.is_some() {
            tls.receive(later_exchange(response.binary_exchange.as_ref(), value_type)?)?;
        }
        if tls.is_handshaking() || !is_server_accepted {
            return Err(Reason::Tls("the token came before the end of the handshake".to_owned()));
        }
        let is = |what, found: Option<&str>, expected: &str| match found {
            Some(found) if found.trim() == expected => Ok(()),
            Some(found) => Err(Reason::unsupported(what, found)),
            None => Err(Reason::Missing(what)),
        };
        is("TokenType", response.token_type.as_deref(), CONTEXT_TOKEN)?;
        is("algorithm of the proof key", response.wrap_algorithm.as_deref(), names::TLS_WRAP)?;
        if response.key_size.is_some() {
            is("KeySize", response.key_size.as_deref(), &key_size.bits().to_string())?;
        }
        let cipher_value = response.cipher_value.as_deref().ok_or(Reason::Missing("CipherValue"))?;
        let mut octets = Zeroizing::new([0; 32]);
        let octets = &mut octets[..key_size.octets()];
        tls.unwrap(cipher_value, octets)?;
        let key = Key::new(octets).ok_or(Reason::ProofKey(key_size.bits()))?;

        transcript.received(canonical)?;
        if !bool::from(key.combined_hash(&transcript.finish()).ct_eq(combined_hash)) {
            return Err(Reason::Authenticator);
        }
        let identifier = response.identifier.as_deref().ok_or(Reason::Missing("Identifier"))?;
        if identifier.is_empty() || identifier.len() > CONTEXT_LEN_MAX {
            return Err(Reason::unsupported("Identifier", identifier));
        }
        let (created, expires) = response.lifetime.ok_or(Reason::Missing("Lifetime"))?;
        if expires <= created {
            return Err(Reason::unsupported("Lifetime", &expires.to_string()));
        }
        Ok(Token { identifier: identifier.to_owned(), key, created, expires })
    }
}

impl Unverified {
    /// The server's certificate, then those that it sent with it.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        self.0.tls.peer_certificates().unwrap_or_default()
    }

    /// The certificate is the one of the service: the chain was validated, and its name or key compared with
    /// the identity of the endpoint.
    pub fn accept(self) -> Result<Outgoing<Response<'static>>, Reason> {
        let Self(mut negotiation) = self;
        negotiation.is_server_accepted = true;
        negotiation.next()
    }
}

impl Negotiation {
    /// What TLS has to send, which is nothing if the server's flight is not complete, or sent more than it
    /// had to.
    fn next(mut self) -> Result<Outgoing<Response<'static>>, Reason> {
        let message = Response {
            context: Some(self.context.as_str().to_owned().into()),
            binary_exchange: Some(exchange(self.value_type, self.tls.flight()?)),
        };
        Ok(Outgoing { message, negotiation: self })
    }
}
