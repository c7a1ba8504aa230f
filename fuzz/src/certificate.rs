//! Certificates: what we and `x509-parser` both read, we read alike.

use dtyp::FileTime;
use rcmp_service::certificate::{AlternativeName, Certificate, name};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// Takes `bytes` apart as a certificate and as a name.
pub fn check(bytes: &[u8]) {
    if let Ok(name) = name(bytes) {
        crate::name::round_trip(&name);
    }
    let Ok(ours) = Certificate::parse(bytes) else { return };
    let names = ours.alternative_names();
    let identifier = ours.subject_key_identifier();
    let policies = ours.policies();
    let _ = (ours.sid(), ours.alternative_sids());
    for name in [ours.issuer_name(), ours.subject_name()].into_iter().flatten() {
        crate::name::round_trip(name);
    }
    let Ok((rest, theirs)) = X509Certificate::from_der(bytes) else { return };
    assert!(rest.is_empty(), "we read all of it");
    assert_eq!(ours.serial, theirs.raw_serial());
    // Of what is broken inside it keeps only the part before the break.
    if ours.issuer_name().is_ok() && ours.subject_name().is_ok() {
        assert_eq!(ours.issuer, theirs.issuer().as_raw());
        assert_eq!(ours.subject, theirs.subject().as_raw());
    }
    assert!(ours.public_key.starts_with(theirs.public_key().raw));
    // Our times begin in 1601.
    let time = |theirs: x509_parser::time::ASN1Time| FileTime::from_unix(theirs.timestamp());
    assert_eq!(ours.not_before, time(theirs.validity().not_before));
    assert_eq!(ours.not_after, time(theirs.validity().not_after));
    for extension in theirs.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(theirs) => {
                let Ok(ours) = &names else { continue };
                if ours.iter().any(|name| matches!(name, AlternativeName::Unreadable(_))) {
                    continue;
                }
                let plain = theirs.general_names.iter().filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some(AlternativeName::Dns((*name).into())),
                    GeneralName::RFC822Name(name) => Some(AlternativeName::Rfc822((*name).into())),
                    GeneralName::URI(name) => Some(AlternativeName::Uri((*name).into())),
                    _ => None,
                });
                let ours = ours.iter().filter(|name| !matches!(name, AlternativeName::PrincipalName(_)));
                assert_eq!(ours.cloned().collect::<Vec<_>>(), plain.collect::<Vec<_>>());
            }
            ParsedExtension::SubjectKeyIdentifier(theirs) => {
                if let Ok(ours) = identifier {
                    assert_eq!(ours, Some(theirs.0));
                }
            }
            ParsedExtension::CertificatePolicies(theirs) => {
                let theirs: Vec<_> = theirs.iter().map(|policy| policy.policy_id.as_bytes()).collect();
                if let Ok(ours) = &policies {
                    assert_eq!(ours, &theirs);
                }
            }
            _ => {}
        }
    }
}
