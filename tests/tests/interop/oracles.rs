//! What OpenSSL and SSSD make of the certificates of the tables. Neither writes Windows' text as it is; how
//! far their texts are put into its form is here, and what differs after that is in `differences.toml`, with
//! its reason.

use crate::differences::{Comparison, Differences, cases, names};
use crate::notation::{certificate, certificate_of, unhex};
use account_store::AltSecurityIdentity;
use rcmp_service::certificate::{AlternativeName, Certificate};
use rcmpd_tests::peers;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/rcmp-service/tests/tables")
}

fn worked(name: &str) -> Vec<u8> {
    unhex(&std::fs::read_to_string(folder().join("worked").join(name)).unwrap())
}

/// A name as an oracle tells it: relative names of a word and a value's text.
type Parts = Vec<Vec<(String, String)>>;

/// Windows' text of parts, by the rules of CertNameToStr and not by ours: a value is quoted that is empty,
/// begins or ends with white space, or has one of these characters in it, and a quote in it is doubled. `#`
/// and hex from a dump stay as they are.
fn quoted(parts: &Parts) -> String {
    let value = |value: &str| {
        let blank = value.trim() != value || value.is_empty();
        match blank || value.chars().any(|c| ",+=\"\n\r<>#;".contains(c)) {
            true => format!("\"{}\"", value.replace('"', "\"\"")),
            false => value.to_owned(),
        }
    };
    let part = |(word, text): &(String, String)| match text.strip_prefix('\u{0}') {
        Some(dumped) => format!("{word}=#{}", dumped.to_lowercase()),
        None => format!("{word}={}", value(text)),
    };
    let rdn = |rdn: &Vec<(String, String)>| rdn.iter().map(part).collect::<Vec<_>>().join(" + ");
    parts.iter().map(rdn).collect::<Vec<_>>().join(",")
}

/// A text with `,` and `+` between parts and RFC 2253's escapes, as both write it, taken apart. A dumped
/// value is marked by a NUL at its beginning, which no text of ours has.
fn escaped_parts(line: &[u8]) -> Parts {
    let mut parts: Vec<Vec<(Vec<u8>, Vec<u8>)>> = vec![vec![(vec![], vec![])]];
    let mut in_value = false;
    let mut rest = line.iter().copied();
    while let Some(byte) = rest.next() {
        let rdn = parts.last_mut().expect("there is one");
        match byte {
            b'\\' => {
                let escaped = rest.next().expect("something is escaped");
                let value = &mut rdn.last_mut().expect("there is one").1;
                match char::from(escaped).to_digit(16) {
                    Some(high) => {
                        let low = rest.next().and_then(|low| char::from(low).to_digit(16)).expect("hex");
                        value.push((high << 4 | low) as u8);
                    }
                    None => value.push(escaped),
                }
            }
            b',' | b'+' => {
                match byte {
                    b',' => parts.push(vec![(vec![], vec![])]),
                    _ => rdn.push((vec![], vec![])),
                }
                in_value = false;
            }
            b'=' if !in_value => in_value = true,
            byte => {
                let (word, value) = rdn.last_mut().expect("there is one");
                match in_value {
                    true if value.is_empty() && byte == b'#' => value.push(0),
                    true => value.push(byte),
                    false => word.push(byte),
                }
            }
        }
    }
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let part = |(word, value): (Vec<u8>, Vec<u8>)| (text(word), text(value));
    parts.into_iter().map(|rdn| rdn.into_iter().map(part).collect()).collect()
}

/// An oracle's name as Windows writes it: our words for its words, quotes for its escapes.
fn windows(comparison: &Comparison<'_>, line: &[u8]) -> String {
    if line.is_empty() {
        return String::new();
    }
    let mut parts = escaped_parts(line);
    for (word, _) in parts.iter_mut().flatten() {
        *word = match word.starts_with(|c: char| c.is_ascii_digit()) {
            true => format!("OID.{word}"),
            false => comparison.word(word),
        };
    }
    quoted(&parts)
}

/// The subject as OpenSSL prints it.
fn openssl_subject(encoded: &[u8], options: &str) -> Option<Vec<u8>> {
    let printed = peers::openssl_x509(encoded, &["-subject", "-nameopt", options])?;
    Some(printed.strip_prefix(b"subject=")?.strip_suffix(b"\n")?.to_vec())
}

#[test]
fn openssl_reads_the_names_of_the_table_as_we_do() {
    let mut comparison = Differences::read(&folder()).with("openssl");
    for (what, case) in names(&folder()) {
        let encoded = certificate_of(&case.encoded());
        let read = Certificate::parse(&encoded).and_then(|read| read.subject_name().cloned());
        let ours = read.map_or_else(|_| "refused".into(), |name| name.to_string());
        // The order of the certificate, RFC 2253's escapes, text as UTF-8, and DER where there is no text.
        let options = "sep_comma_plus,esc_2253,esc_ctrl,utf8,dump_nostr,dump_der,sname";
        let theirs = match openssl_subject(&encoded, options) {
            None => "refused".into(),
            Some(line) => windows(&comparison, &line),
        };
        comparison.note(&what, &ours, &theirs);
    }
    comparison.finish(130);
}

/// What OpenSSL prints of a certificate's serial number and times, in our words; nothing that it would not
/// print.
fn serial_and_times(read: &Certificate<'_>) -> String {
    let number = read.serial.iter().position(|byte| *byte != 0).map_or(&[0][..], |at| &read.serial[at..]);
    let time = |time: dtyp::FileTime| time.to_string().replace('T', " ");
    let serial = dtyp::hex(number).to_uppercase();
    format!("serial={serial}\nnotBefore={}\nnotAfter={}\n", time(read.not_before), time(read.not_after))
}

/// Holds what both say of serial number and times against each other; of what only one of them reads it is
/// told that it does.
fn note_serial_and_times(comparison: &mut Comparison<'_>, what: &str, encoded: &[u8]) {
    let ours = Certificate::parse(encoded).ok().map(|read| serial_and_times(&read));
    // It folds long numbers, and looks at times when it prints them.
    let theirs = peers::openssl_x509(encoded, &["-serial", "-dates", "-dateopt", "iso_8601"])
        .map(|text| String::from_utf8_lossy(&text).replace("\\\n", ""))
        .filter(|text| !text.contains("Bad time value"));
    let word = |text: &Option<String>| if text.is_some() { "read" } else { "refused" };
    match (&ours, &theirs) {
        (Some(ours), Some(theirs)) => {
            let differs = ours.lines().zip(theirs.lines()).find(|(ours, theirs)| ours != theirs);
            let (ours, theirs) = differs.unwrap_or(("", ""));
            comparison.note(what, ours, theirs);
        }
        _ => comparison.note(what, word(&ours), word(&theirs)),
    }
}

#[test]
fn openssl_reads_the_certificates_of_the_table_as_we_do() {
    #[derive(serde::Deserialize)]
    struct Case {
        #[serde(default)]
        with: BTreeMap<String, String>,
    }
    let mut comparison = Differences::read(&folder()).with("openssl, certificates");
    for (what, case) in cases::<Case>(&folder(), "certificate.toml") {
        let with = case.with.iter().map(|(part, text)| (part.as_str(), text.as_str()));
        note_serial_and_times(&mut comparison, &what, &certificate(with));
    }
    comparison.finish(70);
}

#[test]
fn openssl_reads_the_serial_numbers_of_the_table_as_we_do() {
    #[derive(serde::Deserialize)]
    struct Case {
        integer: String,
    }
    let mut comparison = Differences::read(&folder()).with("openssl, serial numbers");
    for (what, case) in cases::<Case>(&folder(), "serial.toml") {
        let serial = format!("02{{ {} }}", case.integer);
        note_serial_and_times(&mut comparison, &what, &certificate([("serial", serial.as_str())]));
    }
    comparison.finish(12);
}

#[test]
fn sssd_reads_the_names_of_the_table_as_we_do() {
    let mut comparison = Differences::read(&folder()).with("sssd");
    let names = names(&folder());
    let encoded: Vec<_> = names.iter().map(|(_, case)| certificate_of(&case.encoded())).collect();
    let questions: Vec<_> = encoded.iter().map(|encoded| dtyp::hex(encoded)).collect();
    let answers = peers::sssd(&questions, &["LDAPU1:(name={subject_dn!ad_x500})"]);
    assert_eq!(answers.len(), names.len());
    for ((what, _), (encoded, answer)) in names.iter().zip(encoded.iter().zip(answers)) {
        let read = Certificate::parse(encoded).and_then(|read| read.subject_name().cloned());
        let ours = read.map_or_else(|_| "refused".into(), |name| name.to_string());
        let theirs = match &answer[0] {
            None => "refused".into(),
            Some(text) => windows(&comparison, text.as_bytes()),
        };
        comparison.note(what, &ours, &theirs);
    }
    comparison.finish(100);
}

/// Our mapping values of a certificate, in the order of [`RULES`], with an empty text for what it has not.
fn mappings(certificate: &Certificate<'_>) -> Vec<String> {
    use sha1::Digest;
    let issuer = certificate.issuer_name().unwrap().clone();
    let subject = certificate.subject_name().unwrap().clone();
    let mail = certificate.alternative_names().unwrap().iter().find_map(|name| match name {
        AlternativeName::Rfc822(mail) => Some(mail.clone()),
        _ => None,
    });
    let identifier = certificate.subject_key_identifier().unwrap();
    let hash: [u8; 20] = sha1::Sha1::digest(certificate.encoded).into();
    let forms = [
        Some(AltSecurityIdentity::IssuerSubject { issuer: issuer.clone(), subject: subject.clone() }),
        Some(AltSecurityIdentity::Subject(subject)),
        Some(AltSecurityIdentity::issuer_serial(issuer.clone(), certificate.serial)),
        identifier.map(|identifier| AltSecurityIdentity::SubjectKeyIdentifier(identifier.to_vec())),
        Some(AltSecurityIdentity::Sha1PublicKey(hash)),
        mail.map(AltSecurityIdentity::Rfc822),
        certificate.sid().unwrap().map(|sid| AltSecurityIdentity::IssuerSid { issuer: issuer.clone(), sid }),
        Some(AltSecurityIdentity::Issuer(issuer)),
    ];
    forms.into_iter().map(|form| form.map(|form| form.to_string()).unwrap_or_default()).collect()
}

/// An oracle's mapping with its names as Windows writes them. In a value `<` is escaped, so each that is not
/// begins a tag.
fn windows_mapping(comparison: &Comparison<'_>, text: &str) -> String {
    let mut out = String::new();
    for (n, piece) in text.split('<').enumerate() {
        match piece.split_once('>') {
            Some((tag @ ("I" | "S"), name)) => {
                out.push_str(&format!("<{tag}>{}", windows(comparison, name.as_bytes())));
            }
            _ if n == 0 => out.push_str(piece),
            _ => out.push_str(&format!("<{piece}")),
        }
    }
    out
}

/// The forms of altSecurityIdentities as templates of sss-certmap(5).
const RULES: [&str; 8] = [
    "LDAPU1:(a=X509:<I>{issuer_dn!ad_x500}<S>{subject_dn!ad_x500})",
    "LDAPU1:(a=X509:<S>{subject_dn!ad_x500})",
    "LDAPU1:(a=X509:<I>{issuer_dn!ad_x500}<SR>{serial_number!hex_r})",
    "LDAPU1:(a=X509:<SKI>{subject_key_id!hex})",
    "LDAPU1:(a=X509:<SHA1-PUKEY>{cert!sha1})",
    "LDAPU1:(a=X509:<RFC822>{subject_rfc822_name})",
    "LDAPU1:(a=X509:<I>{issuer_dn!ad_x500}<SID>{sid})",
    "LDAPU1:(a=X509:<I>{issuer_dn!ad_x500})",
];

#[test]
fn sssd_makes_the_mapping_strings_of_certificates_that_we_make() {
    let root = worked("root.hex").iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let several = r#"30{ 31{ 30{ 06{ 2.5.4.6 } 13{ "DE" } } }
                         31{ 30{ 06{ 2.5.4.3 } 0c{ "Alice" } } 30{ 06{ 2.5.4.5 } 13{ "7" } } } }"#;
    let with_identifiers = r#"30{ 06{ 2.5.29.14 } 04{ 04{ 00ab } } }
        30{ 06{ 2.5.29.17 } 04{ 30{ 81{ "alice@contoso.com" } 81{ "a.smith@contoso.com" } } } }
        30{ 06{ 1.3.6.1.4.1.311.25.2 } 04{ 30{ a0{ 06{ 1.3.6.1.4.1.311.25.2.1 } a0{ 04{ "S-1-5-21-1-2-3-4" } } } } } }"#;
    let certificates = [
        ("alice", worked("alice.hex")),
        ("a quoted comma", certificate([("issuer", root.as_str()), ("subject", root.as_str())])),
        ("several values", certificate([("subject", several)])),
        ("identifiers", certificate([("more", with_identifiers)])),
        ("a serial number with a sign byte", certificate([("serial", "02{ 00ff01 }")])),
        ("a serial number with zeros at its low end", certificate([("serial", "02{ 2b0000 }")])),
        ("a serial number with half a byte", certificate([("serial", "02{ 0b00ac }")])),
        (
            "a serial number of twenty octets",
            certificate([("serial", "02{ 0102030405060708090a0b0c0d0e0f1011121314 }")]),
        ),
        ("the serial number one", certificate([("serial", "02{ 01 }")])),
        ("the serial number zero", certificate([("serial", "02{ 00 }")])),
        ("a negative serial number", certificate([("serial", "02{ ff7f }")])),
    ];
    let questions: Vec<_> = certificates.iter().map(|(_, encoded)| dtyp::hex(encoded)).collect();
    let answers = peers::sssd(&questions, &RULES);
    let mut comparison = Differences::read(&folder()).with("sssd, mappings");
    for ((what, encoded), answers) in certificates.iter().zip(answers) {
        let ours = mappings(&Certificate::parse(encoded).unwrap());
        for ((ours, theirs), rule) in ours.iter().zip(answers).zip(RULES) {
            let form = rule.trim_start_matches("LDAPU1:(a=X509:").trim_end_matches(')');
            let theirs = theirs.map(|text| windows_mapping(&comparison, &text)).unwrap_or_default();
            comparison.note(&format!("{what}: {form}"), ours, &theirs);
        }
    }
    comparison.finish(70);
}
