//! The tables: what the documents say about bytes, names, forms and comparison, one sentence a case.
//!
//! A file in `tables/` is an array of `[[case]]`. Each case has `what`, a fact in a short sentence, and
//! `rule`, the document and section that says so with its sentence in our words; where the product does
//! otherwise, `differs` tells why. What else is in a case is its file's own and is read strictly: an unknown
//! key fails. All cases of a file run, and all that fail are told.

mod cases;
#[path = "tables/notation.rs"]
mod notation;

use account_store::alt_security_identity::Ignored;
use account_store::fold::Comparison;
use account_store::{AltSecurityIdentity, DistinguishedName, Query};
use notation::{NameCase, Words, bytes, certificate, certificate_of, unhex, with_extension};
use rcmp_service::Method;
use rcmp_service::certificate::{AlternativeName, Certificate, name};
use rcmp_service::mapping::{self, FormQuery};
use rcmp_service::message::{MappingFlags, Request, Response};
use rcmp_service::policy::Sha1PublicKeyInput;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

/// There are no fewer cases than this; the number only grows.
const CASES_MIN: usize = 1000;

/// The files of cases, each of which has its test below.
const FILES: [&str; 10] = [
    "altsecid",
    "certificate",
    "comparison",
    "names",
    "policies",
    "request",
    "response",
    "san",
    "serial",
    "sid",
];

/// Files in the folder that are no cases: what the oracles say otherwise, and why.
const NO_CASES: [&str; 1] = ["differences"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tables")
}

/// Runs a file, case by case.
#[track_caller]
fn table<Case: DeserializeOwned>(file: &str, check: impl Fn(&Case)) {
    cases::run(&folder(), &[file], check);
}

/// A result that is as the case says: a value, or malformed.
#[track_caller]
fn expect<T: PartialEq + Debug, E: Debug>(read: Result<T, E>, value: Option<T>, malformed: bool) {
    match (read, value, malformed) {
        (Ok(read), Some(value), false) => assert_eq!(read, value),
        (Err(_), None, true) => {}
        (read, value @ Some(_), false) => panic!("{read:?} instead of {value:?}"),
        (read, None, true) => panic!("{read:?} instead of malformed"),
        _ => panic!("a case expects a value or `malformed = true`"),
    }
}

#[test]
fn the_folder_holds_as_many_cases_as_promised() {
    cases::count(&folder(), &FILES, &NO_CASES, CASES_MIN);
}

#[test]
fn names_of_certificates_become_the_text_of_windows() {
    table("names", |case: &NameCase| {
        let encoded = case.encoded();
        let read = name(&encoded);
        // What Windows writes is what an operator may store.
        if let Ok(name) = &read
            && !name.is_empty()
        {
            assert_eq!(name.to_string().parse().as_ref(), Ok(name), "the text is read as the same name");
        }
        expect(read.map(|name| name.to_string()), case.text.clone(), case.malformed);
        // A certificate has it as its issuer and as its subject.
        if encoded.first() == Some(&0x30)
            && let Ok(certificate) = Certificate::parse(&certificate_of(&encoded))
        {
            let text = |read: Result<&DistinguishedName, _>| read.map(|name| name.to_string());
            expect(text(certificate.issuer_name()), case.text.clone(), case.malformed);
            expect(text(certificate.subject_name()), case.text.clone(), case.malformed);
        }
    });
}

#[test]
fn stored_values_are_read_or_passed_over() {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        stored: String,
        /// Makes the value longer by that many letters.
        #[serde(default)]
        longer: usize,
        canonical: Option<String>,
        ignored: Option<String>,
    }
    table("altsecid", |case: &Case| {
        let stored = format!("{}{}", case.stored, "a".repeat(case.longer));
        let read = stored.parse::<AltSecurityIdentity>();
        let canonical = case.canonical.as_ref().map(|text| format!("{text}{}", "a".repeat(case.longer)));
        let ignored = read.as_ref().err().map(|reason| match reason {
            Ignored::OtherKind => "other kind",
            Ignored::TooLong => "too long",
            Ignored::UnknownTag => "unknown tag",
            Ignored::RepeatedTag => "repeated tag",
            Ignored::EmptyValue => "empty value",
            Ignored::UnknownForm => "unknown form",
            Ignored::Name(_) => "name",
            Ignored::Hex => "hex",
            Ignored::Sid => "sid",
        });
        assert_eq!(read.as_ref().map(ToString::to_string).ok(), canonical);
        assert_eq!(ignored, case.ignored.as_deref());
        if let Some(canonical) = canonical {
            assert_eq!(canonical.parse(), read, "the canonical text is read as the same");
        }
    });
}

#[test]
fn texts_are_equal_by_the_comparisons_that_say_so() {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        left: String,
        right: String,
        /// Whether both are values of altSecurityIdentities.
        #[serde(default)]
        mapping: bool,
        /// By which comparisons they are equal; by the others they are not.
        equal: Vec<Comparison>,
    }
    table("comparison", |case: &Case| {
        let key = |comparison: Comparison, text: &str| match case.mapping {
            false => comparison.key(text).into_owned(),
            true => {
                let identity: AltSecurityIdentity =
                    text.parse().unwrap_or_else(|reason| panic!("{text}: {reason}"));
                identity.key_by(comparison)
            }
        };
        let equal: Vec<_> = Comparison::ALL
            .into_iter()
            .filter(|comparison| key(*comparison, &case.left) == key(*comparison, &case.right))
            .collect();
        assert_eq!(equal, case.equal);
        for text in [&case.left, &case.right] {
            for comparison in Comparison::ALL {
                let once = key(comparison, text);
                assert_eq!(key(comparison, &once), once, "the key of a key is itself");
            }
        }
    });
}

#[test]
fn serial_numbers_are_printed_from_their_last_byte() {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        /// Contents octets of the INTEGER.
        integer: String,
        sr: String,
    }
    table("serial", |case: &Case| {
        let certificate = certificate([("serial", format!("02{{ {} }}", case.integer).as_str())]);
        let certificate = Certificate::parse(&certificate).expect("it is well formed");
        assert_eq!(certificate.serial, unhex(&case.integer));
        let issuer = certificate.issuer_name().expect("it is well formed").clone();
        let form = AltSecurityIdentity::issuer_serial(issuer, certificate.serial).to_string();
        assert_eq!(form, format!("X509:<I>DC=com,DC=contoso,CN=CONTOSO-CA<SR>{}", case.sr));
        assert_eq!(form.parse::<AltSecurityIdentity>().map(|read| read.to_string()), Ok(form));
    });
}

#[test]
fn alternative_names_are_found_or_the_extension_is_unusable() {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        /// The extension's value in the notation.
        san: String,
        names: Option<Vec<String>>,
        /// What is looked up by it, where that is not none.
        #[serde(default)]
        keys: Vec<String>,
        #[serde(default)]
        malformed: bool,
    }
    table("san", |case: &Case| {
        let certificate = with_extension("2.5.29.17", &case.san);
        let certificate = Certificate::parse(&certificate).expect("the certificate is not concerned");
        let names = certificate.alternative_names().map_err(|error| error.to_string()).and_then(|names| {
            let name = |name: &AlternativeName| match name {
                AlternativeName::PrincipalName(name) => Ok(format!("upn {name}")),
                AlternativeName::Dns(name) => Ok(format!("dns {name}")),
                AlternativeName::Rfc822(name) => Ok(format!("mail {name}")),
                AlternativeName::Uri(name) => Ok(format!("uri {name}")),
                AlternativeName::Unreadable(kind) => Err(kind.name().to_owned()),
            };
            names.iter().map(name).collect()
        });
        expect(names, case.names.clone(), case.malformed);
        let queries = mapping::queries(
            Method::Upn,
            &certificate,
            &[],
            Sha1PublicKeyInput::Thumbprint,
            MappingFlags::ALL,
        )
        .unwrap_or_default();
        let key = |(_, query): &FormQuery| match query {
            Query::UserPrincipalName(name) => format!("upn {name}"),
            Query::ServicePrincipalName(name) => format!("spn {name}"),
            other => format!("{other:?}"),
        };
        assert_eq!(queries.iter().map(key).collect::<Vec<_>>(), case.keys);
    });
}

#[test]
fn sids_in_certificates_are_whole_or_nothing() {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        /// The value of the SID extension in the notation.
        extension: Option<String>,
        /// The value of the subjectAltName in the notation.
        san: Option<String>,
        sids: Option<Vec<String>>,
        #[serde(default)]
        malformed: bool,
    }
    table("sid", |case: &Case| {
        let sids = match (&case.extension, &case.san) {
            (Some(extension), None) => {
                let certificate = with_extension("1.3.6.1.4.1.311.25.2", extension);
                let certificate = Certificate::parse(&certificate).expect("the certificate is not concerned");
                assert_eq!(certificate.alternative_sids(), Ok(vec![]));
                certificate.sid().map(|sid| sid.into_iter().collect())
            }
            (None, Some(san)) => {
                let certificate = with_extension("2.5.29.17", san);
                let certificate = Certificate::parse(&certificate).expect("the certificate is not concerned");
                assert_eq!(certificate.sid(), Ok(None));
                certificate.alternative_sids()
            }
            _ => panic!("a SID is in one place"),
        };
        let sids = sids.map(|sids: Vec<dtyp::Sid>| sids.iter().map(ToString::to_string).collect());
        expect(sids, case.sids.clone(), case.malformed);
    });
}

#[test]
fn policies_are_read_once_each() {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        /// The extension's value in the notation.
        policies: String,
        /// Object identifiers, dotted.
        found: Option<Vec<String>>,
        #[serde(default)]
        malformed: bool,
    }
    table("policies", |case: &Case| {
        let certificate = with_extension("2.5.29.32", &case.policies);
        let certificate = Certificate::parse(&certificate).expect("the certificate is not concerned");
        let found: Option<Vec<_>> =
            case.found.as_ref().map(|found| found.iter().map(|id| notation::oid(id)).collect());
        let policies = certificate.policies().map(|found| found.into_iter().map(<[u8]>::to_vec).collect());
        expect(policies, found, case.malformed);
    });
}

#[test]
fn a_certificate_is_der_from_the_first_byte_to_the_last() {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        /// Parts that are other than in `notation.rs`.
        #[serde(default)]
        with: BTreeMap<String, String>,
        #[serde(default)]
        malformed: bool,
        not_before: Option<String>,
        not_after: Option<String>,
        serial: Option<String>,
        key_identifier: Option<String>,
        #[serde(default)]
        key_identifier_malformed: bool,
    }
    table("certificate", |case: &Case| {
        let encoded = certificate(case.with.iter().map(|(part, text)| (part.as_str(), text.as_str())));
        let read = match Certificate::parse(&encoded) {
            Err(_) if case.malformed => return,
            Ok(read) if !case.malformed => read,
            other => panic!("{other:?}"),
        };
        for (read, said) in [(read.not_before, &case.not_before), (read.not_after, &case.not_after)] {
            assert!(said.as_ref().is_none_or(|said| *said == read.to_string()), "{read} is not {said:?}");
        }
        if let Some(serial) = &case.serial {
            assert_eq!(dtyp::hex(read.serial), *serial);
        }
        let identifier = read.subject_key_identifier();
        match case.key_identifier_malformed {
            true => assert!(identifier.is_err(), "{identifier:x?}"),
            false => {
                assert_eq!(identifier.map(|found| found.map(dtyp::hex)), Ok(case.key_identifier.clone()))
            }
        }
    });
}

/// The worked example of the digest of [MS-RCMP], section 2.3.
fn worked(name: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(folder().join("worked").join(name)).expect("the example is there");
    unhex(&text.lines().filter(|line| !line.starts_with("#")).collect::<String>())
}

/// Changes to a message.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    at: usize,
    u32: Option<u32>,
    hex: Option<String>,
}

fn edited(mut message: Vec<u8>, edits: &[Edit], cut: Option<usize>, more: Option<&str>) -> Vec<u8> {
    for edit in edits {
        let new = match (edit.u32, &edit.hex) {
            (Some(number), None) => number.to_le_bytes().to_vec(),
            (None, Some(hex)) => unhex(hex),
            _ => panic!("an edit is a number or hex"),
        };
        message[edit.at..edit.at + new.len()].copy_from_slice(&new);
    }
    message.truncate(cut.unwrap_or(message.len()));
    message.extend(more.map(|more| bytes(more, &Words::new())).unwrap_or_default());
    message
}

#[test]
fn requests_are_accepted_or_malformed_field_by_field() {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        /// The whole message in the notation, instead of the worked one.
        message: Option<String>,
        #[serde(default)]
        edit: Vec<Edit>,
        cut: Option<usize>,
        more: Option<String>,
        #[serde(default)]
        malformed: bool,
        flags: Option<u32>,
        /// Offset and length in the message.
        certificate: Option<[usize; 2]>,
        issuers: Option<Vec<[usize; 2]>>,
    }
    let (certificate, issuer, root) = (worked("alice.hex"), worked("issuer.hex"), worked("root.hex"));
    // As the digest lays it out, not as our encoder does.
    let header = "02000000 0a030000 28000000 5d020000 f0000000 02000000 86020000 45000000 cc020000 3e000000";
    let example = [&unhex(header)[..], &certificate, &[0], &issuer, &[0], &root].concat();
    let digest = "260e2ecddac1dd8f9ca038a58e93a20664e0e2e0e856ca07933804dab41eb057";
    assert_eq!(dtyp::hex(&Sha256::digest(&example)), digest);
    table("request", |case: &Case| {
        let start = case.message.as_ref().map_or(example.clone(), |text| bytes(text, &Words::new()));
        let message = edited(start, &case.edit, case.cut, case.more.as_deref());
        match Request::decode(&message) {
            Ok(request) if !case.malformed => {
                let slice = |[at, len]: &[usize; 2]| &message[*at..at + len];
                assert!(case.flags.is_none_or(|flags| request.flags == MappingFlags(flags)), "{request:?}");
                assert!(case.certificate.is_none_or(|at| request.certificate == slice(&at)), "{request:?}");
                if let Some(issuers) = &case.issuers {
                    assert_eq!(request.issuers, issuers.iter().map(slice).collect::<Vec<_>>());
                }
                let expects = case.flags.is_some() || case.certificate.is_some() || case.issuers.is_some();
                assert!(expects, "a case expects something");
            }
            Err(_) if case.malformed => {}
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn responses_are_accepted_or_malformed_field_by_field() {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        /// The whole message in the notation, instead of the worked one.
        message: Option<String>,
        #[serde(default)]
        edit: Vec<Edit>,
        cut: Option<usize>,
        more: Option<String>,
        #[serde(default)]
        malformed: bool,
        domain: Option<String>,
        /// Offset and length in the message.
        auth_data: Option<[usize; 2]>,
        /// Whether it looks like a response in the clear.
        plausible: Option<bool>,
    }
    let header = "02000000 0e030000 20000000 e0020000 00000000 00030000 0e000000 00000000";
    let domain = unhex("43 00 4f 00 4e 00 54 00 4f 00 53 00 4f 00");
    let example =
        [&unhex(header)[..], &worked("../../../../pac/tests/vectors/worked-example.hex"), &domain].concat();
    let digest = "d2bcfc8a2d8f02c65aa4e3004f57086686ab29f7069a2f46780f830f83f111cf";
    assert_eq!(dtyp::hex(&Sha256::digest(&example)), digest);
    table("response", |case: &Case| {
        let start = case.message.as_ref().map_or(example.clone(), |text| bytes(text, &Words::new()));
        let message = edited(start, &case.edit, case.cut, case.more.as_deref());
        if let Some(plausible) = case.plausible {
            assert_eq!(Response::is_plausible(&message), plausible);
        }
        match Response::decode(&message) {
            Ok(response) if !case.malformed => {
                assert_eq!(Some(&response.domain), case.domain.as_ref());
                let [at, len] = case.auth_data.unwrap_or([0x20, 0x2e0]);
                assert_eq!(response.auth_data, &message[at..at + len]);
            }
            Err(_) if case.malformed => {}
            other => panic!("{other:?}"),
        }
    });
}
