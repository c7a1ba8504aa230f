//! Certificates of servers that we connect to, by CAs that the operator names: those of the system are never
//! asked.

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::CertificateDer;
use std::sync::Arc;

/// Accepts a server whose certificate leads to one of these CAs (in DER) and has the name that was connected
/// to.
pub fn anchored(anchors: &[Vec<u8>]) -> anyhow::Result<Arc<dyn ServerCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for anchor in anchors {
        roots.add(CertificateDer::from(anchor.as_slice()))?;
    }
    let provider = Arc::new(default_provider());
    Ok(WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?)
}
