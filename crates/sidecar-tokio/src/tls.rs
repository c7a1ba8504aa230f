//! TLS of listeners: certificates and keys from files, and who may show which.

use super::client_verifier::ClientVerifier;
use crate::files::ReadFiles;
use crate::settings::ListenTls;
use anyhow::Context;
use rcmp_service::trust::{Parts, Trust};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;
use tracing::warn;

/// Protocols of ALPN (RFC 7301).
pub(super) const H2: &[u8] = b"h2";
pub(super) const HTTP_1_1: &[u8] = b"http/1.1";

/// id-kp-clientAuth, 1.3.6.1.5.5.7.3.2.
const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

/// TLS for proxies, each with a certificate of its own, and what validates these.
pub fn of_listener(tls: &ListenTls, files: &dyn ReadFiles) -> anyhow::Result<(ServerConfig, Arc<Trust>)> {
    let unusable = "cannot use client_ca of [[sidecar.listen]]";
    let anchors = files.trusted(&tls.client_ca).context(unusable)?;
    let trust = Trust::new(Parts {
        anchors: anchors.clone(),
        extended_key_usages: vec![CLIENT_AUTH.to_vec()],
        ..Parts::default()
    });
    let trust = trust.context(unusable)?;
    for (authority, why) in trust.authorities().filter_map(|it| Some((it, it.closed()?))) {
        warn!(subject = authority.subject, why, "No path leads through a CA of client_ca");
    }
    let trust = Arc::new(trust);
    let verifier = {
        let trust = Arc::clone(&trust);
        ClientVerifier::new(Box::new(move || Some(Arc::clone(&trust))), &anchors, false)
    };
    Ok((server_config((&tls.certificate, &tls.key), files, verifier)?, trust))
}

/// A configuration with a certificate from a file, which asks for client certificates that this verifier
/// accepts.
pub(super) fn server_config(
    (certificate, key): (&Path, &Path),
    files: &dyn ReadFiles,
    verifier: ClientVerifier,
) -> anyhow::Result<ServerConfig> {
    let chain = files.chain(certificate)?.into_iter().map(CertificateDer::from).collect();
    ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain, private_key(key, files)?)
        .with_context(|| format!("{} and {} cannot be used together", certificate.display(), key.display()))
}

/// A configuration with a certificate from a file, which asks for no client certificates. Fails if
/// certificate and key cannot be read, or do not belong together.
pub fn without_clients(
    certificate: &Path,
    key: &Path,
    files: &dyn ReadFiles,
) -> anyhow::Result<ServerConfig> {
    let chain = files.chain(certificate)?.into_iter().map(CertificateDer::from).collect();
    ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private_key(key, files)?)
        .with_context(|| format!("{} and {} cannot be used together", certificate.display(), key.display()))
}

/// Whether a certificate and a key can be read and belong together.
pub fn check_pair(certificate: &Path, key: &Path, files: &dyn ReadFiles) -> anyhow::Result<()> {
    without_clients(certificate, key, files).map(drop)
}

/// A key of a certificate.
fn private_key(path: &Path, files: &dyn ReadFiles) -> anyhow::Result<PrivateKeyDer<'static>> {
    private_key_in(&files.private_key(path)?, path)
}

/// The key in a text, which is that of this file.
pub(super) fn private_key_in(text: &[u8], path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    pem_file::private_key(text).with_context(|| format!("{} is not a private key in PEM", path.display()))
}
