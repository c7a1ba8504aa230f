//! The TLS configuration of the TLS-terminating proxy.

use crate::client_verifier::ClientVerifier;
use crate::files::ReadFiles;
use crate::tls::{self, H2, HTTP_1_1};
use rustls::ServerConfig;
use std::path::Path;

/// TLS 1.2 and 1.3 with a certificate and its chain and key from PEM files, for clients whose certificates
/// this verifier accepts.
///
/// Sessions are resumed from the memory of this configuration alone (RFC 8446, section 2.2), so another
/// configuration starts with none. A handshake that resumes one does not validate the client's certificate;
/// the decision about each request does.
pub fn server_config(
    pair: (&Path, &Path),
    files: &dyn ReadFiles,
    verifier: ClientVerifier,
) -> anyhow::Result<ServerConfig> {
    let mut config = tls::server_config(pair, files, verifier)?;
    config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
    Ok(config)
}
