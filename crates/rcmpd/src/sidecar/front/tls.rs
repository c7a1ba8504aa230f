//! TLS as a front speaks it.

use crate::certificates;
use anyhow::Context;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;

pub(super) const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// TLS 1.2 and 1.3 with a certificate and its chain and key from PEM files, for clients with certificates of these authorities (DER), or
/// also, with `optional`, for those without.
///
/// Sessions are resumed from the memory of this configuration alone (RFC 8446, section 2.2): their clients' certificates are as they
/// were at the first handshake, so another configuration starts with none.
pub fn server_config(
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
    let private_key = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("{} is not a private key in PEM", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, private_key)
        .with_context(|| {
            format!("{} and {} cannot be used together", certificate.display(), key.display())
        })?;
    config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
    Ok(config)
}
