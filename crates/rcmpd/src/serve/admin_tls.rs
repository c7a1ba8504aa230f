//! TLS of the admin port: only clients with a certificate below the CAs of operators finish the handshake.

use crate::config::AdminTls;
use anyhow::Context;
use pem_file::private_key;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use trust_tokio::certificates;

/// Reads the certificate, the key and the CAs.
pub(crate) fn acceptor(tls: &AdminTls) -> anyhow::Result<TlsAcceptor> {
    let roots = certificates::read_roots([&tls.client_ca]).context("cannot use admin.tls.client_ca")?;
    let provider = Arc::new(default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let chain = certificates::read_file(&tls.certificate).context("cannot use admin.tls.certificate")?;
    let chain = chain.into_iter().map(Into::into).collect();
    let text = account_store::FileAccess::Group.read(&tls.key);
    let text = text.map_err(|error| anyhow::anyhow!("admin.tls.key: {} {error}", tls.key.display()))?;
    let key =
        private_key(&text).with_context(|| format!("{} is not a private key in PEM", tls.key.display()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .context("admin.tls.certificate and admin.tls.key cannot be used together")?;
    // A certificate is not validated when a session is resumed, and may have expired since.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
