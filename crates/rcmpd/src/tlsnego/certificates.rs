//! Certificates: that of the service, and those of clients, which are mapped like everywhere else.

use super::accounts::Accounts;
use super::domains::misfits;
use crate::clock::now;
use crate::config::{self, Config};
use crate::deciders::CurrentPolicy;
use crate::sidecar;
use ::sidecar::Identify;
use ::sidecar::dialect::ClientCertificate;
use anyhow::{Context, bail};
use audit_log::AuditLog;
use rcmp_service::certificate;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use sidecar_tokio::{ReadFiles, tls};
use std::sync::Arc;
use tlsnego_service::Credentials;
use tlsnego_service::session::{Credential, Identity};
use tlsnego_soap::server::metadata::{Contract, Metadata};
use tlsnego_soap::server::{CertificateMapper, ServiceCertificate, Settings};
use xml_security::{Certificate, DecryptionKey};
use zeroize::Zeroizing;

/// Certificates of clients.
pub(super) struct MappedCertificates(Option<Arc<dyn Identify>>);

impl MappedCertificates {
    pub(super) fn new(config: &Config, policy: Option<&CurrentPolicy>, audit: &Arc<AuditLog>) -> Self {
        Self(policy.map(|policy| sidecar::embedded("tlsnego", config, policy, audit)))
    }
}

impl CertificateMapper for MappedCertificates {
    async fn map(&self, chain: &[CertificateDer<'static>]) -> Result<Identity, String> {
        let identify = self.0.as_ref().ok_or("there is no [mapping]")?;
        let mut chain = chain.iter().map(|certificate| bytes::Bytes::copy_from_slice(certificate));
        let leaf = chain.next().ok_or("there is no certificate")?;
        let refused = |refusal: ::sidecar::Refusal| refusal.name().to_owned();
        let presented = ClientCertificate::new(leaf, chain.collect()).map_err(refused)?;
        let now = now();
        let inputs = identify.decision_inputs(&presented, now).map_err(refused)?;
        // No web server has validated it.
        if inputs.path.is_none() {
            return Err("the certificate is not validated ([mapping] validation)".to_owned());
        }
        let mut decision = [0; 16];
        getrandom::fill(&mut decision).map_err(|error| error.to_string())?;
        let identified = identify.identify(&presented, &dtyp::hex(&decision), None, now).await;
        Ok(Accounts::of_identity(&identified.map_err(refused)?))
    }
}

/// Whether messages are encrypted to the certificate.
fn is_preset(section: &config::Tlsnego) -> bool {
    section.bindings.iter().any(|binding| !binding.negotiate)
}

/// Reads the certificate and the key of the service.
pub(super) fn of_service(section: &config::Tlsnego) -> anyhow::Result<ServiceCertificate> {
    let (certificate, key) = &section.certificate;
    let files = sidecar::Files;
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
            Some((public, key))
        }
        false => None,
    };
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    Ok(ServiceCertificate { tls: Credentials { chain, key: private }, versions: section.versions, preset })
}

/// The operations of the service, if metadata is published.
fn contract(section: &config::Tlsnego) -> anyhow::Result<Option<Contract>> {
    let Some(wsdl) = &section.metadata else { return Ok(None) };
    let Some(path) = wsdl else { return Ok(Some(Contract::default())) };
    let text = std::fs::read(path).with_context(|| format!("cannot read tlsnego.wsdl {}", path.display()))?;
    let contract = Contract::from_wsdl(&text);
    contract.map(Some).with_context(|| format!("cannot use tlsnego.wsdl {}", path.display()))
}

/// A digest of the files of the certificate and the key, as they are now.
pub(super) fn digest(section: &config::Tlsnego) -> Option<[u8; 32]> {
    let (certificate, key) = &section.certificate;
    let files = [certificate, key].map(|path| std::fs::read(path).ok().map(Zeroizing::new));
    let [Some(certificate), Some(key)] = files else { return None };
    Some(Sha256::new().chain_update(&*certificate).chain_update(&*key).finalize().into())
}

/// What clients read to configure themselves.
pub(super) fn metadata(
    section: &config::Tlsnego,
    settings: &Settings,
    certificate: &ServiceCertificate,
) -> anyhow::Result<Option<Metadata>> {
    let Some(contract) = contract(section)? else { return Ok(None) };
    let metadata =
        Metadata::new(settings, &contract, certificate).context("cannot write the WSDL of [tlsnego]")?;
    Ok(Some(metadata))
}

/// What an operator should look at before clients do. Fails if the service could not be served.
pub fn findings(config: &Config, section: &config::Tlsnego) -> anyhow::Result<Vec<String>> {
    let (certificate, key) = &section.certificate;
    tls::check_pair(certificate, key, &sidecar::Files).context("cannot serve [tlsnego]")?;
    let service = of_service(section).context("cannot serve [tlsnego]")?;
    contract(section)?;
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
