//! Client certificates in TLS handshakes, for every listener that asks for them: by the rules of paths that
//! mapping goes by ([`rcmp_service::trust`]), with the reasons that `rcmpd explain` has.
//!
//! Revocation is not looked at: a decision does that for each request, where `[mapping]` asks for it.

use dcerpc_tokio::LogLimiter;
use dtyp::FileTime;
use listener_tokio::connections::{self, Connections};
use rcmp_service::certificate::Certificate;
use rcmp_service::trust::{ChainError, Rejected, Trust};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerMisbehaved,
    RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info};
use webpki::RawPublicKeyEntity;

/// Most characters of a client's name in the log: a certificate may have 64 KiB of them.
const SUBJECT_LEN_MAX: usize = 256;
/// Most bytes of CA names in a handshake: the extension has room for 64 KiB (RFC 8446 4.2.4), and each
/// handshake carries them. Without names a client chooses among all its certificates.
const HINTS_LEN_MAX: usize = 32 << 10;

tokio::task_local! {
    /// Why the certificate of the handshake in progress was rejected. rustls has no place for it beside an
    /// alert of its choice.
    static REJECTION: Cell<Option<Box<Rejection>>>;
}

/// The trust that client certificates are validated by, at each handshake. If it is the trust of decisions,
/// its cache of paths is, too, and a path is validated once. None if no CA is trusted.
pub type CurrentTrust = Box<dyn Fn() -> Option<Arc<Trust>> + Send + Sync>;

/// Validates client certificates.
pub struct ClientVerifier {
    trust: CurrentTrust,
    /// Names of CAs, which clients choose their certificate by.
    hints: Vec<DistinguishedName>,
    is_optional: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier").field("is_optional", &self.is_optional).finish_non_exhaustive()
    }
}

/// A client certificate that was rejected.
#[derive(Debug)]
pub(super) struct Rejection {
    subject: String,
    rejected: Rejected,
}

/// Why there is no connection after a handshake.
#[derive(Debug)]
pub(super) enum HandshakeError {
    /// The client's certificate was rejected.
    Rejected(Box<Rejection>),
    /// Anything else.
    Failed(io::Error),
}

impl ClientVerifier {
    /// `named` are the CAs in DER whose names are sent to clients: anchors, and intermediates, because many
    /// clients look for the issuer of their certificate alone. With `is_optional`, a client without a
    /// certificate is served, too.
    pub fn new(trust: CurrentTrust, named: &[Vec<u8>], is_optional: bool) -> Self {
        let algorithms = default_provider().signature_verification_algorithms;
        Self { trust, hints: hints(named), is_optional, algorithms }
    }
}

/// The names of CAs, each once; none if they are longer than [`HINTS_LEN_MAX`], or if one has a value that is
/// no text of its type: OpenSSL's clients read every name, and end the handshake at such a one. Without
/// names, clients choose among all their certificates.
fn hints(named: &[Vec<u8>]) -> Vec<DistinguishedName> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(named.iter().map(|der| CertificateDer::from(der.as_slice())));
    let mut hints = store.subjects();
    let mut seen = HashSet::new();
    hints.retain(|name| seen.insert(name.as_ref().to_vec()));
    let len: usize = hints.iter().map(|name| name.as_ref().len() + 2).sum();
    let is_text = |der: &Vec<u8>| Certificate::parse(der).is_ok_and(|it| it.subject_name().is_ok());
    if len > HINTS_LEN_MAX || !named.iter().all(is_text) {
        hints.clear();
    }
    hints
}

/// Validates a certificate with what came with it.
pub(super) fn check(
    trust: &Trust,
    shown: (&[u8], &[CertificateDer<'_>]),
    now: FileTime,
) -> Result<(), Box<Rejection>> {
    let (certificate, sent) = shown;
    trust.verify_shown(certificate, sent, now).map(drop).map_err(|rejected| {
        let subject = Certificate::parse(certificate)
            .and_then(|it| it.subject_name().map(ToString::to_string))
            .unwrap_or_default();
        let cut = |name: String| name.chars().take(SUBJECT_LEN_MAX).collect();
        let rejected = Rejected { subject: rejected.subject.map(cut), ..rejected };
        Box::new(Rejection { subject: cut(subject), rejected })
    })
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.is_optional
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let now = FileTime::from_unix(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let shown = (certificate.as_ref(), sent);
        let Some(trust) = (self.trust)() else {
            return Err(Error::General("no CA is trusted".to_owned()));
        };
        let Err(rejection) = check(&trust, shown, now) else { return Ok(ClientCertVerified::assertion()) };
        let error = Error::InvalidCertificate(certificate_error(&rejection.rejected));
        // Outside of a handshake of ours there is no log message to make.
        let _ = REJECTION.try_with(|place| place.set(Some(rejection)));
        Err(error)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let mut schemes = self.algorithms.mapping.iter();
        let Some((_, algorithms)) = schemes.find(|(scheme, _)| *scheme == signed.scheme) else {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        };
        let key = public_key(certificate)?;
        let key = RawPublicKeyEntity::try_from(&key).map_err(|_| CertificateError::BadEncoding)?;
        // A scheme of TLS 1.2 does not name the curve.
        let is_signed =
            algorithms.iter().any(|it| key.verify_signature(*it, message, signed.signature()).is_ok());
        match is_signed {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => Err(CertificateError::BadSignature.into()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature_with_raw_key(message, &public_key(certificate)?, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The key of a certificate. rustls reads the whole certificate for it, and rejects critical extensions that
/// paths are validated with.
fn public_key<'a>(certificate: &'a CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'a>, Error> {
    let certificate = Certificate::parse(certificate).map_err(|_| CertificateError::BadEncoding)?;
    Ok(certificate.public_key.into())
}

/// The error of rustls that leads to the alert of a reason (RFC 8446 6.2): certificate_expired, unknown_ca,
/// decrypt_error, unsupported_certificate, bad_certificate, or certificate_unknown.
fn certificate_error(rejected: &Rejected) -> CertificateError {
    use ChainError::{
        AlgorithmMismatch, AnchorExpired, AnchorNotYetValid, BadSignature, Expired, IsACa, IssuerExpired,
        IssuerNotYetValid, Malformed, NameConstraints, NoExplicitPolicy, NoKeyCertSign, NotACa,
        NotForClientAuthentication, NotForSigning, NotYetValid, OldVersion, PathLength, PathTooLong,
        PolicyMapping, SerialTooLong, TooComplex, TooMany, UnknownCritical, UnknownIssuer,
        UnsupportedAlgorithm, UnsupportedKey, UnsupportedNameConstraint, WeakKey,
    };
    match rejected.refusal.error {
        Expired | IssuerExpired | AnchorExpired => CertificateError::Expired,
        NotYetValid | IssuerNotYetValid | AnchorNotYetValid => CertificateError::NotValidYet,
        UnknownIssuer | NotACa | NoKeyCertSign | PathLength | PathTooLong => CertificateError::UnknownIssuer,
        BadSignature => CertificateError::BadSignature,
        NotForClientAuthentication
        | NotForSigning
        | IsACa
        | WeakKey
        | UnsupportedKey
        | UnsupportedAlgorithm
        | OldVersion => CertificateError::InvalidPurpose,
        UnknownCritical => CertificateError::UnhandledCriticalExtension,
        AlgorithmMismatch | SerialTooLong | TooMany | Malformed => CertificateError::BadEncoding,
        NameConstraints | UnsupportedNameConstraint | NoExplicitPolicy | PolicyMapping | TooComplex => {
            CertificateError::Other(OtherError(Arc::new(rejected.clone())))
        }
    }
}

/// Makes a handshake under a configuration with a [`ClientVerifier`]. If it fails, the alert is written, and
/// the stream is still to be shut down.
pub(super) async fn accept<S>(acceptor: TlsAcceptor, stream: S) -> Result<TlsStream<S>, (HandshakeError, S)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let accepted = async {
        acceptor.accept(stream).into_fallible().await.map_err(|(error, stream)| {
            let error = match REJECTION.with(Cell::take) {
                Some(rejection) => HandshakeError::Rejected(rejection),
                None => HandshakeError::Failed(error),
            };
            (error, stream)
        })
    };
    REJECTION.scope(Cell::new(None), accepted).await
}

impl HandshakeError {
    /// Counts and logs why there is no connection: each at debug level, and what was rejected also where an
    /// operator sees it.
    pub(super) fn report<I: Clone + Eq + Hash + Send + 'static>(
        &self,
        connections: &Connections<I>,
        address: SocketAddr,
        log_limiter: &LogLimiter,
    ) {
        let listener = connections.listener();
        match self {
            Self::Failed(error) => {
                debug!(listener, client.addr = %address, %error, "A handshake failed");
                // A client that leaves has rejected nothing, and nothing of it was.
                if error.kind() == io::ErrorKind::InvalidData {
                    connections.rejected(connections::Rejection::Handshake, Some(address), error);
                }
            }
            Self::Rejected(rejection) => {
                let Rejection { subject, rejected } = &**rejection;
                let (reason, depth) = (rejected.refusal.error.name(), rejected.refusal.depth);
                debug!(listener, client.addr = %address, reason, depth, subject, error = %rejected, "A handshake failed");
                connections.count_rejected(connections::Rejection::Certificate);
                log_limiter.once(reason, || {
                    info!(
                        listener, client.addr = %address, reason, depth, subject, error = %rejected,
                        "Client certificate rejected in the handshake"
                    );
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    #[test]
    fn clients_are_told_each_name_once_and_none_where_there_are_too_many() {
        let key = KeyPair::generate().unwrap();
        let named = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.self_signed(&key).unwrap().der().to_vec()
        };
        let (one, another) = (named("one"), named("another"));
        assert_eq!(hints(&[one.clone(), another.clone(), one.clone()]).len(), 2);
        // Each is longer than 512 bytes.
        let many: Vec<Vec<u8>> = (0..64).map(|n| named(&format!("{n}{}", "x".repeat(512)))).collect();
        assert_eq!(hints(&many[..32]).len(), 32);
        assert!(hints(&many).is_empty());
    }
}
