//! PEM: files of certificates, CRLs and keys.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use pem_file::{Purpose, bare_base64, certificates, crl, der_kind, is_der, pkcs8, private_key, public_key};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Shorter lines may be part of an error's own words.
const TELLING_LEN: usize = 24;

/// Reads `bytes` as each kind of file.
pub fn check(bytes: &[u8]) {
    let _ = der_kind::of(bytes);
    if let Some(der) = bare_base64(bytes) {
        assert!(is_der(&der), "base64 alone is read where it is one element of DER");
    }
    let asked = certificates(bytes, Purpose::Certificates);
    if let Ok(trusted) = certificates(bytes, Purpose::TrustedCertificates) {
        assert_eq!(asked.as_ref(), Ok(&trusted), "what is trusted is what is shown");
    }
    if let Ok(ours) = &asked {
        assert!(!ours.is_empty());
        let written: String = ours.iter().map(|der| section("CERTIFICATE", der)).collect();
        assert_eq!(certificates(written.as_bytes(), Purpose::TrustedCertificates).as_ref(), Ok(ours));
        // The reader of rustls passes over what it does not know. What it finds is not passed over here.
        let mut rest = ours.iter();
        for theirs in CertificateDer::pem_slice_iter(bytes).filter_map(Result::ok) {
            assert!(rest.any(|der| **der == *theirs), "a certificate was passed over");
        }
    }
    if let Ok(list) = crl(bytes) {
        assert_eq!(crl(section("X509 CRL", &list).as_bytes()), Ok(list));
    }
    if let Ok(key) = public_key(bytes) {
        assert_eq!(public_key(section("PUBLIC KEY", &key).as_bytes()), Ok(key));
    }
    match (private_key(bytes), pkcs8(bytes)) {
        (Ok(key), Ok(der)) => assert_eq!(key.secret_der(), &**der),
        (Err(error), Ok(_)) => panic!("a key as PKCS#8 is a key: {error}"),
        (_, Err(error)) => tells_nothing_of(bytes, &error.to_string()),
    }
    if let Err(error) = private_key(bytes) {
        tells_nothing_of(bytes, &error.to_string());
    }
}

/// No error holds a line of a section. Labels may be told.
fn tells_nothing_of(bytes: &[u8], error: &str) {
    let text = String::from_utf8_lossy(bytes);
    let lines = || text.split(['\r', '\n']);
    for line in lines().filter(|line| line.len() >= TELLING_LEN && !line.contains('-')) {
        let is_label = lines().any(|other| other.contains('-') && other.contains(line));
        assert!(is_label || !error.contains(line), "{error:?} holds {line:?}");
    }
}

fn section(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64.encode(der))
}
