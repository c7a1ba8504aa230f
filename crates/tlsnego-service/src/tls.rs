//! rustls over octets in memory: the settings of both roles, and one conversation.
//!
//! No name is sent or checked, no session is resumed, no ticket is issued and no early data is taken. Neither
//! role validates a certificate: each only checks that the peer has its key, and the caller decides on the
//! chain when the handshake shows it.

use crate::fault::Reason;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, DistinguishedName, Error,
    PeerIncompatible, ServerConfig, ServerConnection, SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;

/// Octets of TLS that one negotiation takes from its peer. A handshake with a long chain of certificates has
/// some 20 KiB, and rustls holds a message of 64 KiB at most.
pub const OCTETS_MAX: usize = 128 << 10;
/// Octets of a CipherValue: a record with 32 octets has 61, and two TLS 1.3 tickets before it have some 600.
pub const CIPHER_VALUE_LEN_MAX: usize = 4 << 10;

const RECORD_HEADER_LEN: usize = 5;
const APPLICATION_DATA: u8 = 23;

/// The versions of TLS that are offered or accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TlsVersions {
    /// TLS 1.2, as .NET Framework from 4.7 on speaks it.
    #[default]
    Tls12,
    /// TLS 1.2 and 1.3.
    Tls12And13,
}

impl TlsVersions {
    fn list(self) -> &'static [&'static SupportedProtocolVersion] {
        const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];
        match self {
            Self::Tls12 => &BOTH[..1],
            Self::Tls12And13 => BOTH,
        }
    }
}

/// A certificate with the chain above it, and its key.
pub struct Credentials {
    /// The certificate, then its issuers.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its private key.
    pub key: PrivateKeyDer<'static>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

/// The certificate and the key cannot be used, or not together.
#[derive(Debug, thiserror::Error)]
#[error("the certificate and the key cannot be used for TLS: {0}")]
pub struct UnusableCredentials(Error);

/// Settings of a server.
pub(crate) fn server_config(
    credentials: Credentials,
    versions: TlsVersions,
    asks_for_certificate: bool,
) -> Result<Arc<ServerConfig>, UnusableCredentials> {
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions.list())
        .map_err(UnusableCredentials)?;
    let builder = match asks_for_certificate {
        true => builder.with_client_cert_verifier(Arc::new(PossessionOnly::new(&provider))),
        false => builder.with_no_client_auth(),
    };
    let mut config =
        builder.with_single_cert(credentials.chain, credentials.key).map_err(UnusableCredentials)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// Settings of a client.
pub(crate) fn client_config(
    credentials: Option<Credentials>,
    versions: TlsVersions,
) -> Result<Arc<ClientConfig>, UnusableCredentials> {
    let provider = Arc::new(default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions.list())
        .map_err(UnusableCredentials)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PossessionOnly::new(&provider)));
    let mut config = match credentials {
        Some(Credentials { chain, key }) => {
            builder.with_client_auth_cert(chain, key).map_err(UnusableCredentials)?
        }
        None => builder.with_no_client_auth(),
    };
    config.enable_sni = false;
    config.enable_early_data = false;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// One handshake and what follows it.
pub(crate) struct Tls {
    connection: Connection,
    received: usize,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("is_handshaking", &self.is_handshaking()).finish_non_exhaustive()
    }
}

impl Tls {
    pub(crate) fn server(config: &Arc<ServerConfig>) -> Result<Self, Reason> {
        let connection = ServerConnection::new(Arc::clone(config)).map_err(failed)?;
        Ok(Self { connection: connection.into(), received: 0 })
    }

    pub(crate) fn client(config: &Arc<ClientConfig>) -> Result<Self, Reason> {
        // Not sent: there is no SNI. The caller compares the certificate with the endpoint's identity.
        let name = ServerName::try_from("tlsnego.invalid").expect("a DNS name");
        let connection = ClientConnection::new(Arc::clone(config), name).map_err(failed)?;
        Ok(Self { connection: connection.into(), received: 0 })
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// The peer's certificate and its issuers, once the handshake has shown them.
    pub(crate) fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.connection.peer_certificates()
    }

    /// Takes octets of a BinaryExchange. Nothing in them may be application data.
    pub(crate) fn receive(&mut self, octets: &[u8]) -> Result<(), Reason> {
        match self.take(octets)? {
            0 => Ok(()),
            _ => Err(Reason::UnexpectedData("application data in a BinaryExchange")),
        }
    }

    /// Takes octets, and returns how many of application data wait to be read.
    fn take(&mut self, mut octets: &[u8]) -> Result<usize, Reason> {
        self.received = self.received.saturating_add(octets.len());
        if self.received > OCTETS_MAX {
            return Err(Reason::TooLong("octets of TLS"));
        }
        let mut waiting = 0;
        while !octets.is_empty() {
            match self.connection.read_tls(&mut octets) {
                Ok(0) => return Err(Reason::UnexpectedData("TLS records behind a close_notify")),
                Ok(_) => {}
                Err(error) => return Err(Reason::Tls(error.to_string())),
            }
            waiting = self.connection.process_new_packets().map_err(failed)?.plaintext_bytes_to_read();
        }
        Ok(waiting)
    }

    /// What TLS has to send; may be empty.
    pub(crate) fn flight(&mut self) -> Result<Vec<u8>, Reason> {
        let mut flight = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut flight).map_err(|error| Reason::Tls(error.to_string()))?;
        }
        Ok(flight)
    }

    /// TLS_Wrap: the octets as exactly one application_data record. [`Self::flight`] was taken before.
    pub(crate) fn wrap(&mut self, octets: &[u8]) -> Result<Vec<u8>, Reason> {
        self.connection.writer().write_all(octets).map_err(|error| Reason::Tls(error.to_string()))?;
        let record = self.flight()?;
        match records(&record) {
            Some(records) if records.len() == 1 && record.first() == Some(&APPLICATION_DATA) => Ok(record),
            _ => Err(Reason::Tls("the proof key did not become one record".to_owned())),
        }
    }

    /// The reverse: whole records, of which one has these octets and the others none. The others are TLS 1.3
    /// tickets before the key, or an alert behind it.
    pub(crate) fn unwrap(&mut self, cipher_value: &[u8], octets: &mut [u8]) -> Result<(), Reason> {
        let bits = u32::try_from(octets.len() * 8).unwrap_or(u32::MAX);
        if cipher_value.len() > CIPHER_VALUE_LEN_MAX {
            return Err(Reason::ProofKey(bits));
        }
        let mut waiting = 0;
        for record in records(cipher_value).ok_or(Reason::ProofKey(bits))? {
            let before = std::mem::replace(&mut waiting, self.take(record)?);
            if waiting != before && (before != 0 || waiting != octets.len()) {
                return Err(Reason::ProofKey(bits));
            }
        }
        // What waits are all octets of the key, or none.
        self.connection.reader().read_exact(octets).map_err(|_| Reason::ProofKey(bits))
    }
}

/// Whole records; `None` if the last one is cut off.
fn records(mut octets: &[u8]) -> Option<Vec<&[u8]>> {
    let mut records = Vec::new();
    while !octets.is_empty() {
        let len = octets.get(3..RECORD_HEADER_LEN)?;
        let len = usize::from(u16::from_be_bytes([len[0], len[1]]));
        let (record, rest) = octets.split_at_checked(RECORD_HEADER_LEN + len)?;
        records.push(record);
        octets = rest;
    }
    Some(records)
}

fn failed(error: Error) -> Reason {
    match error {
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => Reason::OldTls { version: "another version" },
        error => Reason::Tls(error.to_string()),
    }
}

/// The newest version that a ClientHello offers, if that is older than TLS 1.2. From TLS 1.2 on,
/// `legacy_version` is 0x0303 (RFC 8446 4.1.2), so the first octets tell.
pub(crate) fn old_version(flight: &[u8]) -> Option<&'static str> {
    let version = match flight {
        // A record with a ClientHello: header (5), type (1) and length (3) of the message, then its version.
        [22, 3, _, _, _, 1, _, _, _, major, minor, ..] => [*major, *minor],
        // The form of SSL 2: length with the high bit, type 1, version.
        [length, _, 1, major, minor, ..] if length & 0x80 != 0 => [*major, *minor],
        _ => return None,
    };
    match version {
        [3, 2] => Some("TLS 1.1"),
        [3, 1] => Some("TLS 1.0"),
        [3, 0] => Some("SSL 3"),
        [0..=2, _] => Some("SSL 2"),
        _ => None,
    }
}

/// Accepts every chain of a peer that proves to have the key of its certificate: the chain is validated
/// afterwards, by the caller.
#[derive(Debug)]
struct PossessionOnly(WebPkiSupportedAlgorithms);

impl PossessionOnly {
    fn new(provider: &CryptoProvider) -> Self {
        Self(provider.signature_verification_algorithms)
    }
}

impl ClientCertVerifier for PossessionOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    /// If it is required and not there, that is found after the handshake.
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

impl ServerCertVerifier for PossessionOnly {
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
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_hello_below_tls_1_2_is_named() {
        let record = |minor| [22, 3, 1, 0, 60, 1, 0, 0, 56, 3, minor, 0];
        for (flight, expected) in [
            (&record(0)[..], Some("SSL 3")),
            (&record(1)[..], Some("TLS 1.0")),
            (&record(2)[..], Some("TLS 1.1")),
            (&record(3)[..], None),
            (&record(3)[..10], None),
            (&[0x80, 46, 1, 0, 2, 0, 21], Some("SSL 2")),
            (&[0x80, 46, 1, 3, 1, 0, 21], Some("TLS 1.0")),
            (&[], None),
            (&[21, 3, 1, 0, 2, 1, 0, 0, 0, 3, 1], None),
        ] {
            assert_eq!(old_version(flight), expected, "{flight:?}");
        }
    }

    #[test]
    fn records_are_whole() {
        assert_eq!(records(&[]), Some(vec![]));
        let two = [23, 3, 3, 0, 1, 7, 21, 3, 3, 0, 2, 8, 9];
        assert_eq!(records(&two), Some(vec![&two[..6], &two[6..]]));
        for len in (1..two.len()).filter(|len| *len != 6) {
            assert_eq!(records(&two[..len]), None, "{len}");
        }
    }
}
