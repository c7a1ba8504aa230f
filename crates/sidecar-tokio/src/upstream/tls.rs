//! TLS to an application: by the CAs of `upstream_ca` alone, never those of the system.

use super::failure::Failure;
use crate::files::ReadFiles;
use crate::server_verifier::anchored;
use crate::settings::{Application, UpstreamProtocol, UpstreamTls};
use crate::tls::{H2, HTTP_1_1, private_key_in};
use anyhow::{Context, anyhow};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::{CertificateDer, ServerName};
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What connections to an application are made with, read from files.
#[derive(Clone)]
pub struct Tls {
    /// For requests, by the protocols that are configured.
    requests: TlsConnector,
    /// For WebSockets, which HTTP/1.1 alone opens.
    websockets: TlsConnector,
    name: ServerName<'static>,
    needs_http2: bool,
    made_of: [u8; 32],
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    /// What an application needs, if that is TLS.
    pub fn of(application: &Application, files: &dyn ReadFiles) -> anyhow::Result<Option<Self>> {
        application.tls.as_ref().map(|tls| Self::read(tls, application.protocol, files)).transpose()
    }

    /// Reads what a configuration names.
    fn read(
        config: &UpstreamTls,
        protocol: Option<UpstreamProtocol>,
        files: &dyn ReadFiles,
    ) -> anyhow::Result<Self> {
        let anchors = files.trusted(&config.ca).context("cannot use upstream_ca")?;
        let mut made_of = Sha256::new();
        anchors.iter().for_each(|anchor| made_of.update(Sha256::digest(anchor)));
        let verifier = anchored(&anchors)
            .with_context(|| format!("cannot use upstream_ca ({})", config.ca.display()))?;
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut tls = match &config.own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let unusable = "cannot use upstream_certificate and upstream_key";
                let chain = files.chain(certificate).context(unusable)?;
                chain.iter().for_each(|certificate| made_of.update(Sha256::digest(certificate)));
                let text = files.private_key(key).context(unusable)?;
                made_of.update(Sha256::digest(&text));
                let key = private_key_in(&text, key).context(unusable)?;
                let chain = chain.into_iter().map(CertificateDer::from).collect();
                builder.with_client_auth_cert(chain, key).context(unusable)?
            }
        };
        // A certificate is not validated when a session is resumed, and may have expired since.
        tls.resumption = Resumption::disabled();
        let with = |protocols: &[&[u8]]| {
            let mut tls = tls.clone();
            tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            TlsConnector::from(Arc::new(tls))
        };
        let requests = with(match protocol {
            None => &[H2, HTTP_1_1],
            Some(UpstreamProtocol::Http1) => &[HTTP_1_1],
            Some(UpstreamProtocol::Http2) => &[H2],
        });
        let name = ServerName::try_from(config.name.clone());
        Ok(Self {
            requests,
            websockets: with(&[HTTP_1_1]),
            needs_http2: protocol == Some(UpstreamProtocol::Http2),
            name: name.map_err(|_| anyhow!("{} is no name that a certificate can have", config.name))?,
            made_of: made_of.finalize().into(),
        })
    }

    /// Whether it was read from the same contents.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.made_of == other.made_of
    }

    /// Makes the handshake, and says whether HTTP/2 was agreed on.
    pub(super) async fn connect<S>(
        &self,
        stream: S,
        is_websocket: bool,
    ) -> Result<(TlsStream<S>, bool), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = if is_websocket { &self.websockets } else { &self.requests };
        let stream = connector.connect(self.name.clone(), stream).await.map_err(Failure::Tls)?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(H2);
        match is_http2 || !self.needs_http2 {
            true => Ok((stream, is_http2)),
            false => Err(Failure::NoProtocol),
        }
    }
}
