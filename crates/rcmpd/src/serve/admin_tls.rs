//! TLS of the admin port (`[admin.tls]`). The handshake accepts only clients with a certificate below
//! `client_ca`. With `crls`, revoked certificates are rejected.

use crate::config::AdminTls;
use anyhow::Context;
use arc_swap::ArcSwap;
use pem_file::private_key;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls_pki_types::CertificateRevocationListDer;
use std::path::Path;
use std::sync::Arc;
use trust_tokio::certificates;

/// The TLS settings of new handshakes. A reload replaces them.
pub(super) type CurrentTls = Arc<ArcSwap<ServerConfig>>;

/// A CRL of operators' certificates is short: one of a million entries has some 40 MiB.
const CRL_FILE_LEN_MAX: u64 = 64 << 20;

pub(crate) fn crl(path: &Path) -> anyhow::Result<CertificateRevocationListDer<'static>> {
    let bytes = certificates::read_file_up_to(path, CRL_FILE_LEN_MAX)?;
    let der = certificates::der_of_crl(&bytes).with_context(|| path.display().to_string())?;
    Ok(der.into_owned().into())
}

/// Reads the certificate, the key, the CAs and the CRLs.
pub(crate) fn server_config(tls: &AdminTls) -> anyhow::Result<ServerConfig> {
    let roots = certificates::read_roots([&tls.client_ca]).context("cannot use admin.tls.client_ca")?;
    let provider = Arc::new(default_provider());
    let crls = tls.crls.iter().map(|path| crl(path)).collect::<anyhow::Result<Vec<_>>>();
    // With CRLs, webpki rejects a certificate if a CA of its path has no current CRL. Without CRLs, revocation
    // is not checked.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .with_crls(crls.context("cannot use admin.tls.crls")?)
        .enforce_revocation_expiration()
        .build()
        .context("cannot use admin.tls.client_ca and admin.tls.crls")?;
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
    Ok(config)
}
