//! How proxies prove themselves to a listener.

use crate::files::ReadFiles;
use crate::settings::{Listen, ListenTls, Place};
use crate::tls::of_listener;
use anyhow::ensure;
use http::HeaderMap;
use rcmp_service::certificate::{AlternativeName, Certificate};
use rcmp_service::trust::Trust;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

/// What proxies prove themselves by that is read from files, anew when the configuration is reloaded.
pub struct Proof {
    secret: Option<Zeroizing<String>>,
    pub(super) tls: Option<Tls>,
}

/// How proxies prove themselves by a certificate.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) acceptor: TlsAcceptor,
    pub(super) trust: Arc<Trust>,
    /// DNS names, one of which a proxy's certificate has.
    pub(super) names: Vec<String>,
}

impl Proof {
    /// `secret` is the text that proxies show; the files of `tls` are read. An empty secret is refused,
    /// because an empty header would show it.
    pub fn new(
        secret: Option<Zeroizing<String>>,
        tls: Option<&ListenTls>,
        files: &dyn ReadFiles,
    ) -> anyhow::Result<Self> {
        ensure!(
            secret.as_ref().is_none_or(|secret| !secret.is_empty()),
            "the secret of [[sidecar.listen]] is empty: openssl rand -base64 32 makes one"
        );
        let tls = tls.map(|tls| {
            let (config, trust) = of_listener(tls, files)?;
            anyhow::Ok(Tls { acceptor: Arc::new(config).into(), trust, names: tls.names.clone() })
        });
        Ok(Self { secret, tls: tls.transpose()? })
    }

    /// Refuses a listener that would trust every process that can connect to it. The user of a process is
    /// known on a Unix socket alone, and there is no TLS on one.
    pub(super) fn check(&self, listen: &Listen) -> anyhow::Result<()> {
        let knows_proxies = match listen.at {
            Place::Tcp(_) => self.tls.is_some(),
            Place::Unix(_) => !listen.peers.is_empty(),
        };
        ensure!(
            knows_proxies || self.secret.is_some(),
            "the listener at {} would trust every process that can connect to it: restrict it by peers on a Unix socket, by a \
             secret, or by tls on a TCP port",
            listen.at
        );
        Ok(())
    }

    /// Whether a request shows the secret, or there is none.
    pub(super) fn shows_secret(&self, headers: &HeaderMap) -> bool {
        self.secret.as_ref().is_none_or(|secret| sidecar::shows_secret(headers, secret))
    }
}

/// The proof that a proxy has shown. Connections with the same proof count as one proxy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Proxy {
    /// By the kernel's word for the process.
    User(u32),
    /// By the listener's secret.
    Secret,
    /// By a certificate with this SHA-256.
    Certificate([u8; 32]),
}

/// Whether a certificate has one of these DNS names.
pub(super) fn is_named(certificate: &[u8], names: &[String]) -> bool {
    let Ok(certificate) = Certificate::parse(certificate) else { return false };
    let Ok(found) = certificate.alternative_names() else { return false };
    found
        .iter()
        .any(|name| matches!(name, AlternativeName::Dns(name) if names.contains(&name.to_lowercase())))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::files::test::AnyFile;

    pub(in super::super) fn proof(secret: Option<&str>) -> anyhow::Result<Proof> {
        Proof::new(secret.map(|secret| secret.to_owned().into()), None, &AnyFile)
    }

    #[test]
    fn an_empty_secret_is_refused() {
        let error = proof(Some("")).err().expect("it is refused").to_string();
        assert!(error.contains("is empty"), "{error}");
        assert!(proof(Some("x")).is_ok());
        assert!(proof(None).is_ok(), "users or certificates can be the proof");
    }
}
