//! Certificates, lists and responses that the tests share. Certificates are rcgen's, so are some lists; what
//! no honest program makes is built here, and openssl judges with us in `openssl`.
#![expect(clippy::unwrap_used, reason = "tests")]

mod chain;
mod crl;
mod generated;
mod ocsp;
mod openssl;
mod sent;

use super::*;

use crate::der;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SigningKey,
    date_time_ymd,
};

/// id-kp-clientAuth, 1.3.6.1.5.5.7.3.2.
const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

fn day(year: i32, month: u8, day: u8) -> FileTime {
    FileTime::from_unix(date_time_ymd(year, month, day).unix_timestamp())
}

/// When the tests are.
fn now() -> FileTime {
    day(2026, 6, 15)
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2030, 1, 1);
    params
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// A CA with its key.
struct Ca {
    der: Vec<u8>,
    key: KeyPair,
    issuer: Issuer<'static, KeyPair>,
}

fn copy(key: &KeyPair) -> KeyPair {
    KeyPair::try_from(key.serialize_der()).unwrap()
}

impl Ca {
    fn root(name: &str) -> Self {
        Self::root_as(ca_params(name))
    }

    fn root_as(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self { der, issuer: Issuer::new(params, copy(&key)), key }
    }

    fn ca(&self, name: &str) -> Self {
        self.ca_as(ca_params(name))
    }

    fn ca_as(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        Self { der, issuer: Issuer::new(params, copy(&key)), key }
    }

    fn leaf(&self, name: &str) -> Vec<u8> {
        self.leaf_as(&params(name))
    }

    fn leaf_as(&self, params: &CertificateParams) -> Vec<u8> {
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().to_vec()
    }

    fn id(&self) -> KeyId {
        KeyId::of(&Certificate::parse(&self.der).unwrap())
    }
}

fn parts(anchors: &[&Ca], intermediates: &[&Ca]) -> Parts {
    let all = |all: &[&Ca]| all.iter().map(|ca| ca.der.clone()).collect();
    Parts {
        anchors: all(anchors),
        intermediates: all(intermediates),
        extended_key_usages: vec![CLIENT_AUTH.to_vec()],
        crls: 4,
        ..Parts::default()
    }
}

fn trust(anchors: &[&Ca], intermediates: &[&Ca]) -> Trust {
    Trust::new(parts(anchors, intermediates)).unwrap()
}

fn extension(id: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { der::encode(der::BOOLEAN, &[&[0xff]]) } else { Vec::new() };
    let (id, value) = (der::encode(der::OID, &[id]), der::encode(der::OCTET_STRING, &[value]));
    der::encode(der::SEQUENCE, &[&id, &critical, &value])
}

/// ecdsa-with-SHA256, 1.2.840.10045.4.3.2.
fn algorithm() -> Vec<u8> {
    der::encode(der::SEQUENCE, &[&[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]])
}

/// Signs an element; `after` follows the signature.
fn signed(tbs: &[u8], key: &KeyPair, after: &[u8]) -> Vec<u8> {
    let signature = der::encode(der::BIT_STRING, &[&[0], &key.sign(tbs).unwrap()]);
    der::encode(der::SEQUENCE, &[tbs, &algorithm(), &signature, after])
}
