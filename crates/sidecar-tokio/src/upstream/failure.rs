//! Why an application did not answer, for the log, the metric and the client's status.

use http::StatusCode;
use listener_tokio::connections::{Causes, causes};
use rustls::{AlertDescription, CertificateError};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;

/// What went wrong between us and the application.
#[derive(Debug, Error)]
pub(super) enum Failure {
    #[error("unreachable: {0}")]
    Unreachable(io::Error),
    #[error("connect timeout")]
    ConnectTimeout,
    #[error("the TLS handshake failed: {0}")]
    Tls(io::Error),
    #[error("HTTP/2 was not agreed on in the TLS handshake")]
    NoProtocol,
    #[error("response timeout")]
    ResponseTimeout,
    #[error("connection lost, or not HTTP: {}", Causes(.0))]
    Broken(hyper::Error),
    #[error("invalid upstream response: unsupported Transfer-Encoding or unexpected 101")]
    Protocol,
}

/// The kind of a [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// No connection.
    Unreachable,
    /// No connection, or no TLS, in time.
    ConnectTimeout,
    /// No path leads from the application's certificate to a CA of `upstream_ca`.
    CertificateUntrusted,
    /// The certificate is for another name.
    CertificateName,
    /// The certificate, or one on its path, has expired.
    CertificateExpired,
    /// The certificate, or one on its path, is not valid yet.
    CertificateNotYetValid,
    /// The certificate is rejected for anything else.
    Certificate,
    /// An alert of either side, or what came is not TLS.
    Tls,
    /// None of the protocols that we offer by ALPN is the application's, or it did not agree to the one that
    /// is configured.
    NoProtocol,
    /// Nothing was taken of a request, or no answer begun, in time.
    ResponseTimeout,
    /// The connection ended, a stream was reset, or what came is not HTTP.
    Broken,
    /// The answer has an unknown transfer coding, or changes the protocol.
    Protocol,
}

impl Reason {
    const ALL: [Self; 12] = [
        Self::Unreachable,
        Self::ConnectTimeout,
        Self::CertificateUntrusted,
        Self::CertificateName,
        Self::CertificateExpired,
        Self::CertificateNotYetValid,
        Self::Certificate,
        Self::Tls,
        Self::NoProtocol,
        Self::ResponseTimeout,
        Self::Broken,
        Self::Protocol,
    ];

    /// A stable name, for logs and metrics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::ConnectTimeout => "connect_timeout",
            Self::CertificateUntrusted => "certificate_untrusted",
            Self::CertificateName => "certificate_name",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateNotYetValid => "certificate_not_yet_valid",
            Self::Certificate => "certificate",
            Self::Tls => "tls",
            Self::NoProtocol => "no_protocol",
            Self::ResponseTimeout => "response_timeout",
            Self::Broken => "broken",
            Self::Protocol => "protocol",
        }
    }

    /// What the operator can do, where the error does not say it.
    pub(super) const fn advice(self) -> Option<&'static str> {
        Some(match self {
            Self::CertificateUntrusted => {
                "name the CA of the application's certificate in upstream_ca, and let the application send its intermediate CAs"
            }
            Self::CertificateName => {
                "say in upstream_name which name the application's certificate has, or give it one with the host of upstream"
            }
            Self::CertificateExpired => "renew the application's certificate",
            Self::CertificateNotYetValid => "compare the clocks",
            Self::NoProtocol => "compare upstream_protocol with what the application offers by ALPN",
            _ => return None,
        })
    }

    /// Why a certificate was rejected.
    const fn of_certificate(error: &CertificateError) -> Self {
        match error {
            // A CA with another key has often the same name: it was renewed.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::CertificateUntrusted,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::CertificateName
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::CertificateExpired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::CertificateNotYetValid
            }
            _ => Self::Certificate,
        }
    }
}

impl Failure {
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Unreachable(_) => Reason::Unreachable,
            Self::ConnectTimeout => Reason::ConnectTimeout,
            Self::Tls(error) => match of_rustls(error) {
                Some(rustls::Error::InvalidCertificate(error)) => Reason::of_certificate(error),
                Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
                    Reason::NoProtocol
                }
                _ => Reason::Tls,
            },
            Self::NoProtocol => Reason::NoProtocol,
            Self::ResponseTimeout => Reason::ResponseTimeout,
            // With TLS 1.3 an application rejects our certificate when the handshake is over for us.
            Self::Broken(error) => {
                let is_tls = causes(error).any(|cause| {
                    let of_stream = cause.downcast_ref::<io::Error>();
                    let of_http2 = || cause.downcast_ref::<h2::Error>()?.get_io();
                    of_stream.or_else(of_http2).is_some_and(|error| of_rustls(error).is_some())
                });
                if is_tls { Reason::Tls } else { Reason::Broken }
            }
            Self::Protocol => Reason::Protocol,
        }
    }

    /// What the client is answered.
    pub(super) const fn answer(&self) -> (StatusCode, &'static str) {
        match self {
            Self::ConnectTimeout | Self::ResponseTimeout => {
                (StatusCode::GATEWAY_TIMEOUT, "the application did not answer in time\n")
            }
            Self::Unreachable(_) | Self::Tls(_) | Self::NoProtocol | Self::Broken(_) | Self::Protocol => {
                (StatusCode::BAD_GATEWAY, "the application did not answer\n")
            }
        }
    }
}

/// The error of TLS in one of a stream.
fn of_rustls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Failures of one application, counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Failures(Arc<[AtomicU64; Reason::ALL.len()]>);

impl Failures {
    pub(super) fn count(&self, reason: Reason) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// By the name of the reason.
    pub(super) fn counts(&self) -> Vec<(&'static str, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        Reason::ALL.into_iter().map(Reason::name).zip(counts).collect()
    }
}
