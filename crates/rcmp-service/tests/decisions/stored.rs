//! Values of altSecurityIdentities for a certificate, made by another parser and plain formatting, so that
//! the mapper is not its own witness.

use dtyp::hex;
use sha1::{Digest, Sha1};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate, X509Name};

/// The value of a form for a certificate: the digest of [MS-RCMP], section 5.
#[track_caller]
pub(crate) fn value(form: &str, certificate: &[u8]) -> String {
    let (_, parsed) = X509Certificate::from_der(certificate).expect("a certificate");
    let issuer = name(parsed.issuer());
    let sha1 = |bytes: &[u8]| format!("X509:<SHA1-PUKEY>{}", hex(&Sha1::digest(bytes)));
    match form {
        "issuer-subject" => format!("X509:<I>{issuer}<S>{}", name(parsed.subject())),
        "subject" => format!("X509:<S>{}", name(parsed.subject())),
        "issuer-serial" => format!("X509:<I>{issuer}<SR>{}", serial(parsed.raw_serial())),
        "ski" => format!("X509:<SKI>{}", key_identifier(&parsed).expect("a subject key identifier")),
        // Of the three readings, the certificate's hash, and those of its key with and without its algorithm.
        "thumbprint" => sha1(certificate),
        "key-info" => sha1(parsed.public_key().raw),
        "key-bits" => sha1(&parsed.public_key().subject_public_key.data),
        "rfc822" => format!("X509:<RFC822>{}", mail(&parsed).expect("a mail address")),
        "issuer-sid" => format!("X509:<I>{issuer}<SID>{}", sid(&parsed).expect("a SID")),
        "issuer" => format!("X509:<I>{issuer}"),
        other => panic!("{other} is no form"),
    }
}

/// The value for an issuer, by its own certificate.
pub(crate) fn issuer(authority: &[u8]) -> String {
    let (_, parsed) = X509Certificate::from_der(authority).expect("a certificate");
    format!("X509:<I>{}", name(parsed.subject()))
}

/// A certificate's subject, as it is encoded.
pub(crate) fn encoded_name(certificate: &[u8]) -> Vec<u8> {
    let (_, parsed) = X509Certificate::from_der(certificate).expect("a certificate");
    parsed.subject().as_raw().to_vec()
}

/// A certificate's SubjectPublicKeyInfo.
pub(crate) fn public_key(certificate: &[u8]) -> Vec<u8> {
    let (_, parsed) = X509Certificate::from_der(certificate).expect("a certificate");
    parsed.public_key().raw.to_vec()
}

/// Section 5.1, as far as names here need it.
fn name(name: &X509Name<'_>) -> String {
    let attributes = name.iter_attributes().map(|attribute| {
        let keyword = match attribute.attr_type().to_id_string().as_str() {
            "2.5.4.3" => "CN",
            "2.5.4.6" => "C",
            "2.5.4.10" => "O",
            other => panic!("names here have no {other}"),
        };
        let value = attribute.as_str().expect("text");
        match value.contains([',', '+', '=', '"', '\n', '<', '>', '#', ';']) || value.trim() != value {
            true => format!("{keyword}=\"{}\"", value.replace('"', "\"\"")),
            false => format!("{keyword}={value}"),
        }
    });
    attributes.collect::<Vec<_>>().join(",")
}

/// Section 5.2.
fn serial(integer: &[u8]) -> String {
    let number = integer.strip_prefix(&[0]).filter(|rest| !rest.is_empty()).unwrap_or(integer);
    hex(&number.iter().rev().copied().collect::<Vec<_>>())
}

fn key_identifier(certificate: &X509Certificate<'_>) -> Option<String> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(hex(identifier.0)),
        _ => None,
    })
}

fn mail(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().expect("well formed")?;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::RFC822Name(mail) => Some((*mail).to_owned()),
        _ => None,
    })
}

/// The text at the end of the extension, or of the URI: section 8.
fn sid(certificate: &X509Certificate<'_>) -> Option<String> {
    let text = |bytes: &[u8]| {
        let at = bytes.windows(4).position(|window| window == b"S-1-")?;
        String::from_utf8(bytes[at..].to_vec()).ok()
    };
    let mut extensions = certificate.iter_extensions();
    let extension = extensions.find(|extension| extension.oid.to_id_string() == "1.3.6.1.4.1.311.25.2");
    let by_uri = || {
        let names = certificate.subject_alternative_name().ok()??;
        names.value.general_names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => text(uri.as_bytes()),
            _ => None,
        })
    };
    extension.map_or_else(by_uri, |extension| text(extension.value))
}
