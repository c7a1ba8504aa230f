//! Headers with certificates: what is presented is what was given, and no header of another dialect was among
//! them.

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD as BASE64};
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};
use sidecar::{ClientCertificate, Dialect};

/// Readers of RFC 9651, section 4.2.7, take what ends in bits that stand for nothing, and what has no
/// padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Each dialect's headers: the certificate, its chain, and what goes with them.
const NAMES: [(Dialect, &[&str]); 7] = [
    (Dialect::Nginx, &["ssl-client-cert", "ssl-client-verify"]),
    (Dialect::Traefik, &["x-forwarded-tls-client-cert"]),
    (Dialect::Caddy, &["x-tls-client-cert"]),
    (
        Dialect::Haproxy,
        &["x-ssl-client-cert", "x-ssl-client-chain", "x-ssl-client-verify", "x-ssl-client-used"],
    ),
    (Dialect::Apache, &["x-ssl-client-cert", "x-ssl-client-chain", "x-ssl-client-verify"]),
    (Dialect::Envoy, &["x-forwarded-client-cert"]),
    (Dialect::ClientCert, &["client-cert", "client-cert-chain"]),
];

/// Takes the first byte as a dialect, and each line of the rest as a header.
pub fn check(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let (dialect, own) = NAMES[usize::from(*first) % NAMES.len()];
    let mut headers = HeaderMap::new();
    for line in rest.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let presented = dialect.presented(&headers);
    let is_forged = headers.keys().any(|name| {
        let plain: String =
            name.as_str().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let is_owned = NAMES.iter().any(|(_, names)| names.contains(&plain.as_str()));
        is_owned && !own.contains(&name.as_str())
    });
    assert!(!is_forged || presented.is_err(), "a header of another dialect is let through");
    let Ok(Some(presented)) = presented else { return };
    assert_eq!(presented.sha256[..], Sha256::digest(&presented.leaf)[..]);
    let given: Vec<Vec<u8>> = headers.values().map(|value| plain(value.as_bytes())).collect();
    let is_given = |certificate: &[u8]| {
        let text = BASE64.encode(certificate);
        let text = text.trim_end_matches('=');
        let (start, _) = text.split_at(text.len().saturating_sub(4));
        let is_it = |window: &[u8]| {
            window.starts_with(start.as_bytes())
                && LENIENT.decode(window).is_ok_and(|decoded| decoded == certificate)
        };
        given.iter().any(|value| value.windows(text.len()).any(is_it))
    };
    assert!(is_given(&presented.leaf), "a certificate that was not given");
    // HAProxy's chain is one value, whose certificates have no text of their own.
    if dialect == Dialect::Haproxy {
        assert!(presented.chain.is_empty() || is_given(&presented.chain.concat()));
    } else {
        assert!(presented.chain.iter().all(|certificate| is_given(certificate)));
    }
    let written = write(dialect, &presented);
    assert_eq!(dialect.presented(&written), Ok(Some(presented)), "{written:?}");
}

/// A value without white space, percent-encoding and backslashes.
fn plain(value: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut rest = value;
    while let [byte, after @ ..] = rest {
        rest = after;
        let digits = after.get(..2).filter(|_| *byte == b'%').and_then(|digits| str::from_utf8(digits).ok());
        let decoded = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = if decoded.is_some() { &rest[2..] } else { rest };
        let byte = decoded.unwrap_or(*byte);
        if !byte.is_ascii_whitespace() && byte != b'\\' {
            plain.push(byte);
        }
    }
    plain
}

/// Headers as the dialect's proxy writes them.
fn write(dialect: Dialect, presented: &ClientCertificate) -> HeaderMap {
    let leaf = BASE64.encode(&presented.leaf);
    let chain: Vec<String> = presented.chain.iter().map(|certificate| BASE64.encode(certificate)).collect();
    let pem = |text: &String| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    let all = || [&leaf].into_iter().chain(&chain);
    let values = match dialect {
        Dialect::Nginx => vec![escaped(&pem(&leaf)), "SUCCESS".to_owned()],
        Dialect::Traefik => vec![all().cloned().collect::<Vec<_>>().join(",")],
        Dialect::Caddy => vec![leaf],
        Dialect::Haproxy => {
            vec![leaf, BASE64.encode(presented.chain.concat()), "0".to_owned(), "1".to_owned()]
        }
        Dialect::Apache => {
            let spaced = |pem: String| pem.replace('\n', " ");
            vec![spaced(pem(&leaf)), spaced(chain.iter().map(pem).collect()), "SUCCESS".to_owned()]
        }
        Dialect::Envoy => {
            let hash = dtyp::hex(&presented.sha256);
            let chain: String = all().map(pem).collect();
            vec![format!("By=x;Hash={hash};Cert=\"{}\";Chain=\"{}\"", escaped(&pem(&leaf)), escaped(&chain))]
        }
        Dialect::ClientCert => {
            let list: Vec<String> = chain.iter().map(|text| format!(":{text}:")).collect();
            vec![format!(":{leaf}:"), list.join(", ")]
        }
    };
    let (_, names) = NAMES.into_iter().find(|(name, _)| *name == dialect).expect("each has its names");
    assert!(presented.chain.is_empty() || !matches!(dialect, Dialect::Nginx | Dialect::Caddy));
    let headers = names.iter().zip(values);
    headers.map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("text"))).collect()
}

fn escaped(text: &str) -> String {
    let stands = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if stands(byte) { char::from(byte).into() } else { format!("%{byte:02X}") })
        .collect()
}
