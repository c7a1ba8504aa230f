//! Certificates as x509-parser sees them: whatever both read, both read alike.

#[expect(dead_code, reason = "each suite uses its part of the notation")]
#[path = "tables/differences.rs"]
mod differences;
#[expect(dead_code, reason = "each suite uses its part of the notation")]
#[path = "tables/notation.rs"]
mod notation;

use account_store::distinguished_name::{Attribute, DistinguishedName, Value};
use differences::{Differences, cases, names};
use notation::{certificate, certificate_of, with_extension};
use rcgen::{
    CertificateParams, CustomExtension, DnType, DnValue, Issuer, KeyIdMethod, KeyPair, SanType, SerialNumber,
};
use rcmp_service::certificate::{AlternativeName, Certificate};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate, X509Name};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tables")
}

/// What both say of a certificate, in one text each: nothing is compared that is not in it.
fn both(encoded: &[u8]) -> (String, String) {
    let ours = Certificate::parse(encoded).map_or_else(|_| "refused".into(), |read| our_view(&read));
    let theirs = match X509Certificate::from_der(encoded) {
        Ok(([], read)) => their_view(&read),
        _ => "refused".into(),
    };
    (ours, theirs)
}

/// One line each for the fields that both know.
fn view(fields: [(&str, String); 8]) -> String {
    fields.map(|(field, value)| format!("{field}: {value}")).join("\n")
}

fn our_view(read: &Certificate<'_>) -> String {
    let names = read.alternative_names().map(|names| {
        let name = |name: &AlternativeName| match name {
            AlternativeName::PrincipalName(name) => Ok(format!("upn {name}")),
            AlternativeName::Dns(name) => Ok(format!("dns {name}")),
            AlternativeName::Rfc822(name) => Ok(format!("mail {name}")),
            AlternativeName::Uri(name) => Ok(format!("uri {name}")),
            AlternativeName::Unreadable(kind) => Err(kind.name()),
        };
        names.iter().map(name).collect::<Result<Vec<_>, _>>().map(|names| names.join(", "))
    });
    let identifier = read.subject_key_identifier().map(|found| found.map(dtyp::hex).unwrap_or_default());
    let policies =
        read.policies().map(|found| found.into_iter().map(dtyp::hex).collect::<Vec<_>>().join(", "));
    view([
        ("serial", dtyp::hex(read.serial)),
        ("issuer", dtyp::hex(read.issuer)),
        ("subject", dtyp::hex(read.subject)),
        ("not before", read.not_before.to_unix().to_string()),
        ("not after", read.not_after.to_unix().to_string()),
        ("names", names.ok().and_then(Result::ok).unwrap_or_else(|| "refused".into())),
        ("key identifier", identifier.unwrap_or_else(|_| "refused".into())),
        ("policies", policies.unwrap_or_else(|_| "refused".into())),
    ])
}

fn their_view(read: &X509Certificate<'_>) -> String {
    let mut names = Vec::new();
    let (mut identifier, mut policies) = (String::new(), Vec::new());
    for extension in read.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(found) => {
                names.extend(found.general_names.iter().filter_map(their_name));
            }
            ParsedExtension::SubjectKeyIdentifier(found) => identifier = dtyp::hex(found.0),
            ParsedExtension::CertificatePolicies(found) => {
                policies.extend(found.iter().map(|policy| dtyp::hex(policy.policy_id.as_bytes())));
            }
            ParsedExtension::ParseError { .. } => match extension.oid.to_id_string().as_str() {
                "2.5.29.17" => names = vec!["refused".into()],
                "2.5.29.14" => identifier = "refused".into(),
                "2.5.29.32" => policies = vec!["refused".into()],
                _ => {}
            },
            _ => {}
        }
    }
    view([
        ("serial", dtyp::hex(read.raw_serial())),
        ("issuer", dtyp::hex(read.issuer().as_raw())),
        ("subject", dtyp::hex(read.subject().as_raw())),
        ("not before", read.validity().not_before.timestamp().to_string()),
        ("not after", read.validity().not_after.timestamp().to_string()),
        ("names", names.join(", ")),
        ("key identifier", identifier),
        ("policies", policies.join(", ")),
    ])
}

fn their_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(format!("dns {name}")),
        GeneralName::RFC822Name(name) => Some(format!("mail {name}")),
        GeneralName::URI(name) => Some(format!("uri {name}")),
        GeneralName::OtherName(id, explicit) if id.to_id_string() == "1.3.6.1.4.1.311.20.2.3" => {
            let (_, explicit) = x509_parser::asn1_rs::Any::from_der(explicit).ok()?;
            let (_, value) = x509_parser::asn1_rs::Any::from_der(explicit.data).ok()?;
            let units: Vec<u16> =
                value.data.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            Some(match value.tag() == x509_parser::asn1_rs::Tag::BmpString {
                true => format!("upn {}", String::from_utf16(&units).ok()?),
                false => format!("upn {}", std::str::from_utf8(value.data).ok()?),
            })
        }
        _ => None,
    }
}

/// The types of a name's attributes, in its order.
fn types(ours: &DistinguishedName, theirs: &X509Name<'_>) -> (String, String) {
    let word = |id: String| Attribute::from_oid(&id).as_str().to_owned();
    let ours = ours.0.iter().flat_map(|rdn| &rdn.0).map(|part| part.attribute.as_str().to_owned());
    let theirs = theirs.iter_attributes().map(|part| word(part.attr_type().to_id_string()));
    (ours.collect::<Vec<_>>().join(", "), theirs.collect::<Vec<_>>().join(", "))
}

/// A name as x509-parser takes it apart. It decodes four of the string types; of the others we take its
/// bytes' word.
fn assert_same_name(ours: &DistinguishedName, theirs: &X509Name<'_>) {
    let theirs: Vec<Vec<_>> = theirs.iter_rdn().map(|rdn| rdn.iter().collect()).collect();
    assert_eq!(ours.0.len(), theirs.len());
    for (ours, theirs) in ours.0.iter().zip(theirs) {
        assert_eq!(ours.0.len(), theirs.len());
        for (ours, theirs) in ours.0.iter().zip(theirs) {
            match (&ours.value, theirs.as_str()) {
                (Value::Text(ours), Ok(theirs)) => assert_eq!(ours, theirs),
                (Value::Text(ours), Err(_)) => {
                    let len = ours.chars().count();
                    assert!(theirs.as_slice().len() >= len, "{ours} is of its bytes");
                }
                (Value::Encoded(ours), theirs_text) => {
                    assert!(theirs_text.is_err() && ours.ends_with(theirs.as_slice()), "{ours:x?}");
                }
            }
        }
    }
}

#[test]
fn names_of_the_table_are_taken_apart_alike() {
    let mut compared = 0;
    let mut comparison = Differences::read(&folder()).with("x509-parser, names");
    for (what, case) in names(&folder()) {
        let encoded = certificate_of(&case.encoded());
        let ours = Certificate::parse(&encoded).and_then(|read| read.subject_name().cloned());
        let theirs = X509Certificate::from_der(&encoded);
        match (ours, theirs) {
            (Ok(ours), Ok((_, theirs))) => {
                let (our_view, their_view) = both(&encoded);
                comparison.note(&what, &our_view, &their_view);
                assert_same_name(&ours, theirs.subject());
                let (our_types, their_types) = types(&ours, theirs.subject());
                comparison.note(&what, &our_types, &their_types);
                compared += 1;
            }
            (Ok(_), Err(error)) => comparison.note(&what, "read", &format!("refused: {error}")),
            // It does not decode most text, so it cannot refuse what is none.
            (Err(_), _) => {}
        }
    }
    comparison.finish(compared);
    assert!(compared > 120, "{compared}");
}

#[test]
fn alternative_names_and_policies_of_the_tables_are_found_alike() {
    #[derive(Deserialize)]
    struct Case {
        san: Option<String>,
        policies: Option<String>,
        #[serde(default)]
        malformed: bool,
    }
    let mut comparison = Differences::read(&folder()).with("x509-parser, extensions");
    let files = [("san.toml", "2.5.29.17"), ("sid.toml", "2.5.29.17"), ("policies.toml", "2.5.29.32")];
    for (file, id) in files {
        for (what, case) in cases::<Case>(&folder(), file) {
            if let Some(value) = case.san.or(case.policies)
                && !case.malformed
            {
                let (ours, theirs) = both(&with_extension(id, &value));
                comparison.note(&what, &ours, &theirs);
            }
        }
    }
    comparison.finish(60);
}

#[test]
fn certificates_of_the_table_are_read_alike() {
    #[derive(Deserialize)]
    struct Case {
        #[serde(default)]
        with: BTreeMap<String, String>,
    }
    let mut comparison = Differences::read(&folder()).with("x509-parser, certificates");
    for (what, case) in cases::<Case>(&folder(), "certificate.toml") {
        let with = case.with.iter().map(|(part, text)| (part.as_str(), text.as_str()));
        let (ours, theirs) = both(&certificate(with));
        // What is told of a difference is its first line that differs.
        let differs = ours.lines().zip(theirs.lines()).find(|(ours, theirs)| ours != theirs);
        let (ours, theirs) = differs.unwrap_or(("", ""));
        let theirs = if theirs.starts_with("serial") { "read" } else { theirs };
        comparison.note(&what, ours, theirs);
    }
    comparison.finish(60);
}

/// A certificate of rcgen's, which writes DER by itself.
fn made(
    subject: &[(DnType, DnValue)],
    names: Vec<SanType>,
    serial: &[u8],
    policies: &[&[u64]],
    years: (i32, i32),
) -> Vec<u8> {
    let mut issuer = CertificateParams::default();
    issuer.distinguished_name.push(DnType::OrganizationName, "Contoso, Ltd.");
    issuer.distinguished_name.push(DnType::CommonName, "CONTOSO-CA");
    let issuer = Issuer::new(issuer, KeyPair::generate().expect("a key"));
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (attribute, value) in subject {
        params.distinguished_name.push(attribute.clone(), value.clone());
    }
    params.subject_alt_names = names;
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.not_before = rcgen::date_time_ymd(years.0, 2, 28);
    params.not_after = rcgen::date_time_ymd(years.1, 12, 31);
    params.use_authority_key_identifier_extension = true;
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    params.key_identifier_method = KeyIdMethod::PreSpecified(serial.to_vec());
    if !policies.is_empty() {
        let dotted = |id: &[u64]| id.iter().map(u64::to_string).collect::<Vec<_>>().join(".");
        let list: String = policies.iter().map(|id| format!("30{{ 06{{ {} }} }} ", dotted(id))).collect();
        let content = notation::bytes(&format!("30{{ {list}}}"), &notation::Words::new());
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 32], content)];
    }
    params.signed_by(&KeyPair::generate().expect("a key"), &issuer).expect("signed").der().to_vec()
}

#[test]
fn certificates_of_rcgen_are_read_alike() {
    let text = |text: &str| DnValue::Utf8String(text.into());
    let ia5 = |text: &str| text.try_into().expect("ASCII");
    let user_id = DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 1]);
    let component = DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 25]);
    let subjects: [Vec<(DnType, DnValue)>; 8] = [
        vec![],
        vec![(DnType::CommonName, text("alice"))],
        vec![(DnType::CountryName, DnValue::PrintableString("DE".try_into().expect("printable")))],
        vec![(component, DnValue::Ia5String(ia5("com"))), (user_id, text("alice"))],
        vec![(DnType::CommonName, DnValue::BmpString("M\u{fc}ller".try_into().expect("BMP")))],
        vec![(DnType::CommonName, DnValue::TeletexString("Muller".try_into().expect("Teletex")))],
        vec![(DnType::CommonName, DnValue::UniversalString("\u{1f511}".try_into().expect("UTF-32")))],
        vec![(DnType::OrganizationName, text("a, \"b\" + c")), (DnType::StateOrProvinceName, text(" x "))],
    ];
    let principal = |name: &str| SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], name.into()));
    let names: [Vec<SanType>; 4] = [
        vec![],
        vec![principal("alice@contoso.example"), SanType::Rfc822Name(ia5("alice@contoso.example"))],
        vec![SanType::DnsName(ia5("*.contoso.example")), SanType::DnsName(ia5("web01"))],
        vec![
            SanType::IpAddress(std::net::Ipv6Addr::LOCALHOST.into()),
            SanType::URI(ia5("tag:microsoft.com,2022-09-14:sid:S-1-5-18")),
            SanType::OtherName((vec![1, 3, 6, 1, 5, 2, 2], "no principal of ours".into())),
        ],
    ];
    let serials: [&[u8]; 3] = [&[1], &[0x80, 0, 0, 1], &[0xff; 20]];
    let policies: [&[&[u64]]; 2] = [&[], &[&[1, 3, 6, 1, 4, 1, 311, 21, 8, 1], &[2, 5, 29, 32, 0]]];
    let years = [(1951, 1999), (2024, 2049), (2049, 2050), (2050, 9999)];
    let mut comparison = Differences::read(&folder()).with("x509-parser, rcgen");
    for (n, subject) in subjects.iter().enumerate() {
        for (m, names) in names.iter().enumerate() {
            let (serial, policies) = (serials[(n + m) % 3], policies[(n + m) % 2]);
            let encoded = made(subject, names.clone(), serial, policies, years[(n + 2 * m) % 4]);
            let (ours, theirs) = both(&encoded);
            comparison.note(&format!("subject {n}, names {m}"), &ours, &theirs);
            let read = Certificate::parse(&encoded).expect("rcgen writes DER");
            let (_, their) = X509Certificate::from_der(&encoded).expect("rcgen writes DER");
            for (ours, theirs) in
                [(read.subject_name(), their.subject()), (read.issuer_name(), their.issuer())]
            {
                let ours = ours.expect("rcgen writes DER");
                assert_same_name(ours, theirs);
                let (our_types, their_types) = types(ours, theirs);
                assert_eq!(our_types, their_types);
            }
        }
    }
    comparison.finish(subjects.len() * names.len());
}
