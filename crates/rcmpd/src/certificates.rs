//! The certificates that a configuration names, and when they expire.

use crate::config::{Config, StoreKind};
use crate::serve::admin_tls;
use rcmp_service::certificate::Certificate;
use rcmp_service::trust::crl::UnverifiedCrl;
use std::collections::BTreeMap;
use std::path::Path;
use trust_tokio::certificates;

/// The files with certificates that listeners show or that peers of TLS are verified by, with their key.
pub(crate) fn of_tls(config: &Config) -> Vec<(&'static str, &Path)> {
    let mut found = Vec::new();
    let sidecar = || config.sidecar.iter();
    for listen in sidecar().flat_map(|sidecar| &sidecar.listen) {
        if let Some(tls) = &listen.settings.tls {
            found.push(("sidecar.listen.tls.certificate", tls.certificate.as_path()));
            found.push(("sidecar.listen.tls.client_ca", tls.client_ca.as_path()));
        }
    }
    for proxy in sidecar().filter_map(|sidecar| sidecar.proxy.as_ref()) {
        found.push(("sidecar.proxy.certificate", proxy.certificate.as_path()));
    }
    let upstreams = sidecar().flat_map(|sidecar| &sidecar.listen);
    let upstreams = upstreams.filter_map(|listen| listen.settings.upstream.as_ref());
    let upstreams = upstreams.chain(sidecar().filter_map(|it| Some(&it.proxy.as_ref()?.upstream)));
    for tls in upstreams.filter_map(|upstream| upstream.tls.as_ref()) {
        found.push(("upstream_ca", tls.ca.as_path()));
        found.extend(tls.own.iter().map(|(own, _)| ("upstream_certificate", own.as_path())));
    }
    for tls in config.admin.iter().filter_map(|admin| admin.tls.as_ref()) {
        found.push(("admin.tls.certificate", tls.certificate.as_path()));
        found.push(("admin.tls.client_ca", tls.client_ca.as_path()));
    }
    found.extend(config.tlsnego.iter().map(|it| ("tlsnego.certificate", it.certificate.0.as_path())));
    let listeners = config.tlsnego.iter().filter_map(|it| it.tls.as_ref());
    found.extend(listeners.map(|(certificate, _)| ("tlsnego.tls.certificate", certificate.as_path())));
    for (_, kind) in config.store.iter().flat_map(|store| store.kinds()) {
        match kind {
            StoreKind::Ldap(ldap) => found.extend(ldap.ca.iter().map(|ca| ("store.ldap.ca", ca.as_path()))),
            StoreKind::Postgres(it) => {
                found.extend(it.ca.iter().map(|ca| ("store.postgres.ca", ca.as_path())))
            }
            _ => {}
        }
    }
    found.extend(config.telemetry.otlp.ca.iter().map(|ca| ("telemetry.otlp.ca", ca.as_path())));
    found
}

/// The files with certificates that the certificates of users are verified by, with their key.
fn of_mapping(config: &Config) -> Vec<(&'static str, &Path)> {
    let mut found = Vec::new();
    if let Some(mapping) = &config.mapping {
        found.extend(mapping.trust.anchors.iter().map(|path| ("mapping.anchors", path.as_path())));
        found
            .extend(mapping.trust.intermediates.iter().map(|path| ("mapping.intermediates", path.as_path())));
        let signers = mapping.authorities.iter().filter_map(|it| it.ocsp.as_ref()?.signer.as_deref());
        found.extend(signers.map(|path| ("mapping.authority.ocsp_signer", path)));
    }
    found
}

/// When certificates and the CRLs of operators expire, in seconds of Unix time.
#[derive(Debug, Default)]
pub(crate) struct Expiries {
    /// By key and file: the end of the certificate in it that expires first.
    pub(crate) certificates: BTreeMap<(&'static str, String), i64>,
    /// By file.
    pub(crate) admin_crls: BTreeMap<String, i64>,
}

impl Expiries {
    /// Reads all files that a configuration names. Files that cannot be read are reported by the part that
    /// uses them.
    pub(crate) fn read(config: &Config) -> Self {
        let mut expiries = Self::default();
        for (key, path) in of_tls(config).into_iter().chain(of_mapping(config)) {
            let Ok(chain) = certificates::read_file(path) else { continue };
            let ends = chain.iter().filter_map(|der| Some(Certificate::parse(der).ok()?.not_after.to_unix()));
            if let Some(end) = ends.min() {
                expiries.certificates.insert((key, path.display().to_string()), end);
            }
        }
        let admin_tls = config.admin.iter().filter_map(|admin| admin.tls.as_ref());
        for path in admin_tls.flat_map(|tls| &tls.crls) {
            let Ok(der) = admin_tls::crl(path) else { continue };
            if let Ok(crl) = UnverifiedCrl::parse(&der) {
                expiries.admin_crls.insert(path.display().to_string(), crl.next_update.to_unix());
            }
        }
        expiries
    }
}
