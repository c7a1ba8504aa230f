//! TLS of listeners: certificates and keys from files, and who may show which.

use crate::certificates;
use crate::config::ListenTls;
use crate::pem;
use account_store::FileAccess;
use anyhow::{Context, anyhow};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

/// TLS for proxies, each with a certificate of its own.
pub(super) fn of_listener(tls: &ListenTls) -> anyhow::Result<ServerConfig> {
    let anchors =
        certificates::read_trusted(&tls.client_ca).context("cannot use client_ca of [[sidecar.listen]]")?;
    server_config(&tls.certificate, &tls.key, &anchors, false)
}

/// A configuration with a certificate from a file, which asks for client certificates of these authorities. With `optional`, whoever
/// has none is served, too.
pub(super) fn server_config(
    certificate: &Path,
    key: &Path,
    anchors: &[Vec<u8>],
    optional: bool,
) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for anchor in anchors {
        roots.add(CertificateDer::from(anchor.as_slice())).context("an authority cannot be used for TLS")?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let verifier = if optional { verifier.allow_unauthenticated() } else { verifier };
    let verifier = verifier.build().context("the authorities cannot be used for TLS")?;
    let chain = certificates::read_file(certificate)?.into_iter().map(CertificateDer::from).collect();
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, private_key(key)?)
        .with_context(|| format!("{} and {} cannot be used together", certificate.display(), key.display()))
}

fn private_key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    pem::private_key(&read_private(path)?)
        .with_context(|| format!("{} is not a private key in PEM", path.display()))
}

/// The bytes of a key, which a group may share: web servers have the same.
pub(super) fn read_private(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    FileAccess::Group.read(path).map_err(|error| anyhow!("{} {error}", path.display()))
}
