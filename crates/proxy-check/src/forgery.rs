//! What a client forges: a certificate of an authority of its own, and the headers by which proxies pass
//! certificates on.

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use sha2::{Digest, Sha256};
use sidecar::Dialect;
use std::fmt::Write;

/// ecdsa-with-SHA256 (RFC 5758, section 3.2), as an AlgorithmIdentifier.
const ECDSA_WITH_SHA256: [u8; 12] = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// A certificate that says what another one says, for another key, signed by an authority that only calls
/// itself the same.
pub(super) fn twin(certificate: &[u8]) -> anyhow::Result<(Vec<u8>, KeyPair)> {
    let unreadable = || anyhow::anyhow!("the certificate cannot be read");
    let (key, authority) = (KeyPair::generate()?, KeyPair::generate()?);
    let (whole, _) = element(certificate).context("the certificate cannot be read")?;
    let (signed, _) = element(contents(whole)).ok_or_else(unreadable)?;
    // RFC 5280, section 4.1: version, serialNumber, signature, issuer, validity, subject,
    // subjectPublicKeyInfo, and more.
    let mut fields = Vec::new();
    let mut rest = contents(signed);
    while let Some((field, after)) = element(rest) {
        fields.push(field.to_vec());
        rest = after;
    }
    let first = usize::from(fields.first().is_some_and(|field| field[0] == 0xa0));
    let public_key = key.subject_public_key_info();
    for (at, value) in [(first + 1, ECDSA_WITH_SHA256.to_vec()), (first + 5, public_key)] {
        *fields.get_mut(at).ok_or_else(unreadable)? = value;
    }
    let signed = wrap(0x30, &fields.concat());
    let signature = authority.sign(&signed)?;
    let signature = wrap(0x03, &[&[0], signature.as_slice()].concat());
    Ok((wrap(0x30, &[signed, ECDSA_WITH_SHA256.to_vec(), signature].concat()), key))
}

/// The first DER element with its header, and what follows it (X.690, section 8.1).
fn element(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, len) = header(bytes)?;
    bytes.split_at_checked(header.checked_add(len)?)
}

/// What is in an element.
fn contents(element: &[u8]) -> &[u8] {
    header(element).and_then(|(header, _)| element.get(header..)).unwrap_or_default()
}

/// The lengths of an element's header and of what is in it.
fn header(bytes: &[u8]) -> Option<(usize, usize)> {
    let [_, first, rest @ ..] = bytes else { return None };
    match *first {
        short @ 0..=0x7f => Some((2, usize::from(short))),
        long @ 0x81..=0x84 => {
            let count = usize::from(long & 0x7f);
            let len = rest.get(..count)?.iter().fold(0_usize, |len, byte| len << 8 | usize::from(*byte));
            Some((2 + count, len))
        }
        _ => None,
    }
}

fn wrap(tag: u8, contents: &[u8]) -> Vec<u8> {
    let len = contents.len();
    let mut element = vec![tag];
    match len {
        0..=0x7f => element.push(len as u8),
        _ => {
            let bytes = len.to_be_bytes();
            let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            element.push(0x80 | bytes.len() as u8);
            element.extend_from_slice(bytes);
        }
    }
    element.extend_from_slice(contents);
    element
}

/// The headers by which a proxy says in a dialect that it has verified this certificate.
pub(super) fn passed_on(dialect: Dialect, certificate: &[u8]) -> Vec<(&'static str, String)> {
    let base64 = BASE64.encode(certificate);
    let success = || "SUCCESS".to_owned();
    match dialect {
        Dialect::Nginx => {
            vec![("SSL-Client-Cert", escaped(&pem(&base64, "\n"))), ("SSL-Client-Verify", success())]
        }
        Dialect::Traefik => vec![("X-Forwarded-Tls-Client-Cert", base64)],
        Dialect::Caddy => vec![("X-Tls-Client-Cert", base64)],
        Dialect::Haproxy => vec![
            ("X-SSL-Client-Cert", base64),
            ("X-SSL-Client-Verify", "0".to_owned()),
            ("X-SSL-Client-Used", "1".to_owned()),
        ],
        Dialect::Apache => {
            vec![("X-SSL-Client-Cert", pem(&base64, " ")), ("X-SSL-Client-Verify", success())]
        }
        Dialect::Envoy => {
            let hash = dtyp::hex(&Sha256::digest(certificate));
            let value = format!("Hash={hash};Cert=\"{}\"", escaped(&pem(&base64, "\n")));
            vec![("X-Forwarded-Client-Cert", value)]
        }
        Dialect::ClientCert => vec![("Client-Cert", format!(":{base64}:"))],
    }
}

fn pem(base64: &str, separator: &str) -> String {
    let lines: Vec<&str> =
        base64.as_bytes().chunks(64).map(|line| str::from_utf8(line).expect("base64 is ASCII")).collect();
    let lines = lines.join(separator);
    format!("-----BEGIN CERTIFICATE-----{separator}{lines}{separator}-----END CERTIFICATE-----{separator}")
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            byte => _ = write!(escaped, "%{byte:02X}"),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use http::{HeaderMap, HeaderName, HeaderValue};
    use rcgen::CertificateParams;
    use rcmp_service::certificate::{AlternativeName, Certificate};
    use sidecar::dialect::OWNED;

    fn original() -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["alice.example".to_owned()]).unwrap();
        params.use_authority_key_identifier_extension = true;
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_twin_says_the_same_for_another_key() {
        let original = original();
        let (twin, key) = twin(&original).unwrap();
        let (original, twin) = (Certificate::parse(&original).unwrap(), Certificate::parse(&twin).unwrap());
        assert_eq!(
            (twin.issuer, twin.subject, twin.serial),
            (original.issuer, original.subject, original.serial)
        );
        let names = |certificate: &Certificate<'_>| certificate.alternative_names().unwrap().to_vec();
        assert_eq!(names(&twin), [AlternativeName::Dns("alice.example".to_owned())]);
        assert_eq!(names(&twin), names(&original));
        assert_ne!(twin.public_key, original.public_key);
        assert!(twin.public_key.ends_with(key.der_bytes()));
    }

    #[test]
    fn what_is_no_certificate_has_no_twin() {
        for bytes in [&b""[..], b"\x30\x03\x30\x01\x00", b"\x30\x82\xff\xff\x00", b"nothing"] {
            assert!(twin(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_sidecar_that_trusts_the_headers_reads_the_certificate() {
        let certificate = original();
        let mut all = Vec::new();
        for dialect in Dialect::ALL {
            let passed = passed_on(dialect, &certificate);
            let headers: HeaderMap = passed
                .iter()
                .map(|(name, value)| {
                    (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
                })
                .collect();
            let presented = dialect.presented(&headers).unwrap().unwrap();
            assert_eq!(presented.leaf, certificate, "{}", dialect.name());
            all.extend(passed.into_iter().map(|(name, _)| name.to_ascii_lowercase()));
        }
        for name in OWNED.iter().filter(|name| !name.contains("chain")) {
            assert!(all.iter().any(|known| known == name), "{name}");
        }
    }
}
