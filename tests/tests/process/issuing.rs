//! Certificates that a demo's authority did not issue when it was made: for the users that a test needs.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, SanType, SerialNumber,
};
use rcmpd_tests::Demo;
use std::fs;

/// A CA.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// What is in a certificate.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted<'a> {
    pub(crate) common_name: &'a str,
    pub(crate) upn: Option<&'a str>,
    pub(crate) sid: Option<String>,
    /// A SID as a URI of the subjectAltName ([MS-PKCA] 3.1.5.2.1.6).
    pub(crate) sid_uri: Option<String>,
    pub(crate) serial: Option<Vec<u8>>,
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Contoso");
    name.push(DnType::CommonName, "Contoso Demo CA");
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params
}

impl Authority {
    /// The demo's own.
    pub(crate) fn of(demo: &Demo) -> Self {
        let key = fs::read_to_string(demo.path("certs/ca.key")).unwrap();
        let pem = fs::read_to_string(demo.path("certs/ca.pem")).unwrap();
        Self { issuer: Issuer::new(authority_params(), KeyPair::from_pem(&key).unwrap()), pem }
    }

    /// Another one that calls itself the same.
    pub(crate) fn impostor() -> Self {
        let key = KeyPair::generate().unwrap();
        let pem = authority_params().self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(authority_params(), key), pem }
    }

    /// One whose own certificate has another common name, and whose certificates are issued under the demo's.
    pub(crate) fn imitator(common_name: &str) -> Self {
        let mut params = authority_params();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(authority_params(), key), pem }
    }

    /// Its own certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// Issues a certificate into the demo's folder, as `certs/NAME.pem`.
    pub(crate) fn issue(&self, demo: &Demo, name: &str, wanted: &Wanted<'_>) {
        fs::write(demo.path("certs").join(format!("{name}.pem")), self.certificate(wanted)).unwrap();
    }

    /// Issues a certificate, PEM.
    pub(crate) fn certificate(&self, wanted: &Wanted<'_>) -> String {
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "Contoso");
        name.push(DnType::CommonName, wanted.common_name);
        params.distinguished_name = name;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = wanted.serial.as_deref().map(SerialNumber::from_slice);
        if let Some(upn) = wanted.upn {
            let upn = SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], upn.into()));
            params.subject_alt_names = vec![upn];
        }
        if let Some(sid) = &wanted.sid_uri {
            let uri = format!("tag:microsoft.com,2022-09-14:sid:{sid}");
            params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        }
        if let Some(sid) = &wanted.sid {
            let wrap = |tag: u8, contents: &[u8]| [&[tag, contents.len() as u8], contents].concat();
            let id = [0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x19, 0x02, 0x01];
            let value = wrap(0xa0, &wrap(0x04, sid.as_bytes()));
            let content = wrap(0x30, &wrap(0xa0, &[&id[..], &value].concat()));
            params.custom_extensions =
                vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 311, 25, 2], content)];
        }
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().pem()
    }
}
