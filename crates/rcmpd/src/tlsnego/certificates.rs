//! Certificates: that of the service, and those of clients, which are mapped like everywhere else.

use super::accounts::Accounts;
use super::domains::misfits;
use super::mapped::MappedCertificates;
use crate::clock::now;
use crate::config::{self, Config};
use crate::sidecar;
use anyhow::{Context, bail};
use bytes::Bytes;
use rcmp_service::certificate;
use rcmp_service::trust::enciphers_keys;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use sidecar_tokio::{ReadFiles, tls};
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tlsnego_service::Credentials;
use tlsnego_service::session::{BoxFuture, Credential, Identity};
use tlsnego_soap::server::metadata::{Contract, Metadata};
use tlsnego_soap::server::{CertificateMapper, ServiceCertificate, Settings};
use xml_security::{Certificate, DecryptionKey};
use zeroize::Zeroizing;

impl CertificateMapper for MappedCertificates {
    fn map<'a>(&'a self, chain: &'a [CertificateDer<'static>]) -> BoxFuture<'a, Result<Identity, String>> {
        Box::pin(async move {
            let mut chain = chain.iter().map(|certificate| Bytes::copy_from_slice(certificate));
            let leaf = chain.next().ok_or("there is no certificate")?;
            let account = self.account(leaf.clone(), chain.collect()).await.map_err(|no| no.why)?;
            Ok(Accounts::of_certificate(&account, &leaf))
        })
    }
}

/// Whether messages are encrypted to the certificate.
fn is_preset(section: &config::Tlsnego) -> bool {
    section.bindings.iter().any(|binding| !binding.negotiate)
}

/// The files of one start or reload. Each is read once, so all that is made of it is of the same contents.
#[derive(Default)]
pub struct FilesOnce {
    chains: RefCell<HashMap<PathBuf, Vec<Vec<u8>>>>,
    /// Keys, and the WSDL.
    texts: RefCell<HashMap<PathBuf, Zeroizing<Vec<u8>>>>,
}

fn once<T: Clone>(
    known: &RefCell<HashMap<PathBuf, T>>,
    path: &Path,
    read: impl FnOnce(&Path) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    if let Some(known) = known.borrow().get(path) {
        return Ok(known.clone());
    }
    let value = read(path)?;
    known.borrow_mut().insert(path.to_owned(), value.clone());
    Ok(value)
}

impl ReadFiles for FilesOnce {
    fn trusted(&self, path: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
        sidecar::Files.trusted(path)
    }

    fn chain(&self, path: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
        once(&self.chains, path, |path| sidecar::Files.chain(path))
    }

    fn private_key(&self, path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        once(&self.texts, path, |path| sidecar::Files.private_key(path))
    }
}

impl FilesOnce {
    fn wsdl(&self, path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let read = |path: &Path| {
            let text = std::fs::read(path);
            text.map(Zeroizing::new).with_context(|| format!("cannot read tlsnego.wsdl {}", path.display()))
        };
        once(&self.texts, path, read)
    }
}

/// The certificate and the key of the service.
pub(super) fn of_service(section: &config::Tlsnego, files: &FilesOnce) -> anyhow::Result<ServiceCertificate> {
    let (certificate, key) = &section.certificate;
    let chain = files.chain(certificate)?;
    let text = files.private_key(key)?;
    let private = pem_file::private_key(&text)
        .with_context(|| format!("{} is no private key in PEM", key.display()))?;
    let leaf = chain.first().with_context(|| format!("{} has no certificate", certificate.display()))?;
    let preset = match is_preset(section) {
        true => {
            let public = Certificate::from_der(leaf).with_context(|| certificate.display().to_string())?;
            let pkcs8 =
                pem_file::pkcs8(&text).with_context(|| format!("{} is no key in PKCS #8", key.display()))?;
            let key = DecryptionKey::from_pkcs8(&pkcs8).with_context(|| {
                format!("{}: the bindings preset-session and one-shot need an RSA key", key.display())
            })?;
            check_usage(leaf).with_context(|| certificate.display().to_string())?;
            Some((public, key))
        }
        false => None,
    };
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    Ok(ServiceCertificate { tls: Credentials { chain, key: private }, versions: section.versions, preset })
}

/// Clients of .NET, and others that read keyUsage, encrypt no key to a certificate that forbids it.
fn check_usage(leaf: &[u8]) -> anyhow::Result<()> {
    let leaf = certificate::Certificate::parse(leaf)?;
    if !enciphers_keys(&leaf)? {
        bail!(
            "the bindings preset-session and one-shot need keyEncipherment in the keyUsage of the certificate"
        );
    }
    Ok(())
}

/// The operations of the service, if metadata is published.
fn contract(section: &config::Tlsnego, files: &FilesOnce) -> anyhow::Result<Option<Contract>> {
    let Some(wsdl) = &section.metadata else { return Ok(None) };
    let Some(path) = wsdl else { return Ok(Some(Contract::default())) };
    let contract = Contract::from_wsdl(&files.wsdl(path)?);
    contract.map(Some).with_context(|| format!("cannot use tlsnego.wsdl {}", path.display()))
}

/// A digest of certificates, keys and the WSDL. None if one cannot be read.
pub(super) fn digest(section: &config::Tlsnego, files: &FilesOnce) -> Option<[u8; 32]> {
    let mut digest = Sha256::new();
    let mut add = |octets: &[u8]| {
        digest.update(octets.len().to_le_bytes());
        digest.update(octets);
    };
    for (certificate, key) in [Some(&section.certificate), section.tls.as_ref()].into_iter().flatten() {
        let chain = files.chain(certificate).ok()?;
        add(&chain.len().to_le_bytes());
        chain.iter().for_each(|certificate| add(certificate));
        add(&files.private_key(key).ok()?);
    }
    for path in section.metadata.iter().flatten() {
        add(&files.wsdl(path).ok()?);
    }
    Some(digest.finalize().into())
}

/// TLS of the listener, if it speaks TLS.
pub(super) fn of_listener(
    section: &config::Tlsnego,
    files: &FilesOnce,
) -> anyhow::Result<Option<Arc<ServerConfig>>> {
    let Some((certificate, key)) = &section.tls else { return Ok(None) };
    let mut tls = tls::without_clients(certificate, key, files).context("cannot use tlsnego.tls")?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(Arc::new(tls)))
}

/// Whether each certificate belongs to its key. Returns TLS of the listener, if it speaks TLS.
pub(super) fn check(
    section: &config::Tlsnego,
    files: &FilesOnce,
) -> anyhow::Result<Option<Arc<ServerConfig>>> {
    let (certificate, key) = &section.certificate;
    tls::check_pair(certificate, key, files).context("cannot serve [tlsnego]")?;
    of_listener(section, files)
}

/// What clients read to configure themselves.
pub(super) fn metadata(
    section: &config::Tlsnego,
    files: &FilesOnce,
    settings: &Settings,
    certificate: &ServiceCertificate,
) -> anyhow::Result<Option<Metadata>> {
    let Some(contract) = contract(section, files)? else { return Ok(None) };
    let metadata =
        Metadata::new(settings, &contract, certificate).context("cannot write the WSDL of [tlsnego]")?;
    Ok(Some(metadata))
}

/// What an operator should look at before clients do. Fails if the service could not be served.
pub fn findings(
    config: &Config,
    section: &config::Tlsnego,
    files: &FilesOnce,
) -> anyhow::Result<Vec<String>> {
    check(section, files)?;
    let service = of_service(section, files).context("cannot serve [tlsnego]")?;
    contract(section, files)?;
    if section.credential == Credential::Certificate
        && config
            .mapping
            .as_ref()
            .is_none_or(|mapping| mapping.policy.validation == rcmp_service::Validation::Off)
    {
        bail!(
            "tlsnego.credential = \"certificate\" needs validated certificates: set validation = \"chain\" and anchors in [mapping]"
        );
    }
    if let Some(misfit) = misfits(config, section).into_iter().next() {
        bail!(misfit);
    }
    let mut warnings = Vec::new();
    // The store of cookies remembers messages over a restart.
    if section.state.is_none() && section.cookie.is_none() && is_preset(section) {
        warnings.push(
            "[tlsnego] has bindings without negotiation and no state: after a restart, messages of clients whose clocks are ahead can be replayed for as long as they are ahead"
                .to_owned(),
        );
    }
    let path = section.certificate.0.display();
    let Some(leaf) = service.tls.chain.first() else { return Ok(warnings) };
    let certificate =
        certificate::Certificate::parse(leaf).with_context(|| format!("{path} cannot be read"))?;
    let names = certificate.alternative_names().map(|names| {
        names.iter().filter(|name| matches!(name, certificate::AlternativeName::Dns(_))).count()
    });
    if names.is_ok_and(|names| names > 1) {
        warnings.push(format!(
            "{path}: the certificate has several DNS names, and clients on .NET Framework before 4.6.1 compare the last one alone"
        ));
    }
    if certificate.not_after < now() {
        warnings.push(format!("{path}: the certificate has expired"));
    }
    Ok(warnings)
}
