//! TLS to the database, by rustls.

use account_store::StoreError;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

/// TLS that trusts these CAs and no other. A server has to be named in the SAN of its certificate.
pub fn tls(ca: impl IntoIterator<Item = CertificateDer<'static>>) -> Result<Arc<ClientConfig>, StoreError> {
    let mut roots = RootCertStore::empty();
    for certificate in ca {
        roots
            .add(certificate)
            .map_err(|error| StoreError::Refused(format!("a certificate cannot be a CA: {error}")))?;
    }
    if roots.is_empty() {
        return Err(StoreError::Refused("there is no CA for the certificates of PostgreSQL".to_owned()));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| StoreError::Refused(format!("TLS cannot be set up: {error}")))?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    // A certificate is not validated when a session is resumed, and may have expired since.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Makes connections with TLS for a host.
#[derive(Clone)]
pub(crate) struct MakeTls(pub(crate) Arc<ClientConfig>);

impl MakeTlsConnect<Socket> for MakeTls {
    type Stream = Stream;
    type TlsConnect = Connect;
    type Error = rustls_pki_types::InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<Connect, Self::Error> {
        Ok(Connect { tls: Arc::clone(&self.0), server: ServerName::try_from(host.to_owned())? })
    }
}

pub(crate) struct Connect {
    tls: Arc<ClientConfig>,
    server: ServerName<'static>,
}

impl TlsConnect<Socket> for Connect {
    type Stream = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            Ok(Stream(Box::new(TlsConnector::from(self.tls).connect(self.server, socket).await?)))
        })
    }
}

pub(crate) struct Stream(Box<tokio_rustls::client::TlsStream<Socket>>);

/// Without channel binding: the certificate is checked against the configured CA already.
impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(context)
    }
}
