//! The proxy that is checked: connections to it, with TLS or without, requests and their answers.

use super::identity::EchoedRequest;
use super::wire::{Framing, Head, Incoming};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionStore, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, HandshakeKind, SignatureScheme,
    SupportedProtocolVersion,
};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::Client;

/// Answers before the one that counts (RFC 9110, section 15.2).
const INTERIM_MAX: usize = 8;

/// Where the proxy is, and which certificate it has to have.
#[derive(Debug)]
pub(super) struct Proxy {
    /// The host of the URL, as `Host` has it.
    pub(super) authority: String,
    /// The name in the handshake.
    pub(super) name: ServerName<'static>,
    /// The host and the port to connect to.
    pub(super) connect: (String, u16),
    /// The path of the URL, with its query.
    pub(super) path: String,
    pub(super) verifier: Arc<dyn ServerCertVerifier>,
    pub(super) timeout: Duration,
    /// Whether a TLS server or an HTTP server answered: with an alert or a certificate, or with a status.
    pub(super) is_web: AtomicBool,
}

/// What came back.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Answered(Answer),
    /// The handshake, or a connection that was closed without an answer; why.
    Refused(String),
    /// The server's certificate is not trusted.
    Untrusted(String),
    /// No server listens there.
    Unreachable(String),
    Late,
}

/// An answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// What the page was told, if it is the page's answer and has a body.
    pub(super) told: Option<EchoedRequest>,
    pub(super) is_page: bool,
    /// Whether the TLS session was an earlier one.
    pub(super) is_resumed: bool,
}

impl Answer {
    pub(super) const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }
}

/// A connection to the proxy.
pub(super) type Secured = Incoming<TlsStream<TcpStream>>;

impl Proxy {
    /// The TLS settings of a client; with one version, and with sessions to resume, where that is asked for.
    pub(super) fn config(
        &self,
        client: &Arc<Client>,
        version: Option<&'static SupportedProtocolVersion>,
        sessions: Option<Arc<dyn ClientSessionStore>>,
    ) -> anyhow::Result<Arc<ClientConfig>> {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = match version {
            Some(version) => builder.with_protocol_versions(&[version])?,
            None => builder.with_safe_default_protocol_versions()?,
        };
        let mut config = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&self.verifier))
            .with_client_cert_resolver(Arc::clone(client) as _);
        config.resumption = sessions.map_or(Resumption::disabled(), Resumption::store);
        Ok(Arc::new(config))
    }

    /// Connects and shakes hands, under the name of the URL or another one.
    pub(super) async fn open(
        &self,
        config: &Arc<ClientConfig>,
        name: Option<&ServerName<'static>>,
    ) -> Result<Secured, Outcome> {
        let stream = self.reach(self.connect.1).await?;
        let name = name.unwrap_or(&self.name).clone();
        let shaken = TlsConnector::from(Arc::clone(config)).connect(name, stream);
        match tokio::time::timeout(self.timeout, shaken).await {
            Ok(Ok(stream)) => Ok(Incoming::new(stream)),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_) => Err(Outcome::Late),
        }
    }

    /// Connects without TLS.
    pub(super) async fn reach(&self, port: u16) -> Result<TcpStream, Outcome> {
        let connected = TcpStream::connect((self.connect.0.as_str(), port));
        match tokio::time::timeout(self.timeout, connected).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(Outcome::Unreachable(error.to_string())),
            Err(_) => Err(Outcome::Unreachable("no answer to a connection".to_owned())),
        }
    }

    /// Sends bytes over a connection of their own, and reads the answer.
    pub(super) async fn ask(&self, config: &Arc<ClientConfig>, request: &[u8]) -> Outcome {
        match self.open(config, None).await {
            Ok(mut secured) => self.exchange(&mut secured, request).await,
            Err(outcome) => outcome,
        }
    }

    /// Sends bytes, and reads the answer.
    pub(super) async fn exchange(&self, secured: &mut Secured, request: &[u8]) -> Outcome {
        let mut outcome = self.talk(secured, request).await;
        if let Outcome::Answered(answer) = &mut outcome {
            answer.is_resumed = secured.stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        }
        outcome
    }

    /// The same over any stream.
    pub(super) async fn talk<S>(&self, incoming: &mut Incoming<S>, request: &[u8]) -> Outcome
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let answered = async {
            // Who refuses need not read to the end, and what it says counts.
            let sent = incoming.stream.write_all(request).await;
            let _ = incoming.stream.flush().await;
            match answer(incoming, request.starts_with(b"HEAD ")).await {
                Ok(Some(answer)) => {
                    self.is_web.store(true, Ordering::Relaxed);
                    Ok(Outcome::Answered(answer))
                }
                Ok(None) => sent.map(|()| Outcome::Refused("closed without an answer".to_owned())),
                Err(error) => Err(error),
            }
        };
        match tokio::time::timeout(self.timeout, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => self.failed(&error),
            Err(_) => Outcome::Late,
        }
    }

    /// Reads one more answer.
    pub(super) async fn next(&self, secured: &mut Secured) -> Outcome {
        self.exchange(secured, b"").await
    }

    fn failed(&self, error: &io::Error) -> Outcome {
        let error = match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
            Some(error) => error,
            None => return Outcome::Refused(format!("the connection broke: {error}")),
        };
        if matches!(error, Error::AlertReceived(_) | Error::InvalidCertificate(_)) {
            self.is_web.store(true, Ordering::Relaxed);
        }
        match error {
            Error::InvalidCertificate(cause) => Outcome::Untrusted(format!("{error}: {}", advice(cause))),
            error => Outcome::Refused(error.to_string()),
        }
    }
}

/// What to do about a server's certificate that is rejected.
const fn advice(cause: &CertificateError) -> &'static str {
    match cause {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the CA is right and the name is not; ask with a URL whose host is in the certificate, and say where the web server is with --connect HOST:PORT if the name leads elsewhere"
        }
        CertificateError::UnknownIssuer => {
            "give the CA of the server's certificate with --ca, and let the web server send its intermediates"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "renew it",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "look at the clocks",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not for servers; give the web server one that is"
        }
        _ => "give the web server another certificate",
    }
}

async fn answer<S: AsyncRead + Unpin>(
    incoming: &mut Incoming<S>,
    is_head: bool,
) -> io::Result<Option<Answer>> {
    for _ in 0..INTERIM_MAX {
        let Some(head) = incoming.head().await? else { return Ok(None) };
        let Some(status) = status(&head) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "this is not HTTP/1.1"));
        };
        if (100..200).contains(&status) && status != 101 {
            continue;
        }
        let framing = match status {
            101 | 204 | 304 => Framing::None,
            _ if is_head => Framing::None,
            _ => head.framing().unwrap_or(Framing::ToEnd),
        };
        let body = incoming.body(framing).await?;
        let told = EchoedRequest::parse(&body.bytes);
        let is_marked = head.values(super::identity::PAGE_HEADER).next().is_some();
        return Ok(Some(Answer { status, is_page: told.is_some() || is_marked, told, is_resumed: false }));
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "interim answers without end"))
}

fn status(head: &Head) -> Option<u16> {
    let rest = head.start.strip_prefix(b"HTTP/1.")?;
    str::from_utf8(rest.get(2..5)?).ok()?.parse().ok().filter(|status| (100..600).contains(status))
}

/// Accepts every server that has the key of the certificate that it shows.
#[derive(Debug)]
pub(super) struct AnyServer(CryptoProvider);

impl AnyServer {
    pub(super) fn new() -> Self {
        Self(aws_lc_rs::default_provider())
    }
}

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
