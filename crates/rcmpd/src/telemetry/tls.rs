//! TLS to a collector. It trusts the configured CAs, and never those of the system.

use crate::config::otlp::is_https;
use anyhow::{Context, ensure};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::ServerName;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use trust_tokio::certificates;

/// HTTP/2, which gRPC needs, and HTTP/1.1 (RFC 7301).
const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// A connection to a collector.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// How connections to a collector are made.
#[derive(Clone, Default)]
pub(super) struct Dialer {
    tls: Option<Arc<ClientConfig>>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("has_tls", &self.tls.is_some()).finish()
    }
}

impl Dialer {
    /// With the CAs for `https://`. `is_grpc` says which protocol is spoken inside.
    pub(super) fn new(endpoint: &str, ca: &[PathBuf], is_grpc: bool) -> anyhow::Result<Self> {
        if !is_https(endpoint) {
            return Ok(Self::default());
        }
        let roots = certificates::read_roots(ca).context("cannot use the CA of the collector")?;
        ensure!(!roots.is_empty(), NO_CA);
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config.with_safe_default_protocol_versions()?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        // A certificate is not validated when a session is resumed, and may have expired since.
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![if is_grpc { H2 } else { HTTP_1_1 }.to_vec()];
        Ok(Self { tls: Some(Arc::new(config)) })
    }

    /// Connects to the host of a URL.
    pub(super) async fn connect(&self, uri: &http::Uri) -> io::Result<Box<dyn Stream>> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(Box::new(TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?))
    }
}

/// Without a CA, no certificate of a collector is accepted.
pub(super) const NO_CA: &str = "https:// needs the CA of the collector: set telemetry.otlp.ca or OTEL_EXPORTER_OTLP_CERTIFICATE; \
    the CAs of the system are not used";
