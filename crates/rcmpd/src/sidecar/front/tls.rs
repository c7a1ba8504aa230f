//! TLS as a front speaks it.

use crate::sidecar::tls;
use rustls::ServerConfig;
use std::path::Path;

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
    let mut config = tls::server_config(certificate, key, anchors, optional)?;
    config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
    Ok(config)
}
