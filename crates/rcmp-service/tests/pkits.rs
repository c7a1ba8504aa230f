//! NIST's Public Key Interoperability Test Suite: every case, at the settings that it asks for, revocation
//! included.
//!
//! What each case must come to is in `pkits.toml`, from the document. `tests/peers/install` gets the
//! certificates; without them the test fails.
#![expect(clippy::unwrap_used, reason = "tests")]

use dtyp::FileTime;
use rcmp_service::certificate::{Certificate, object_identifier};
use rcmp_service::trust::{ChainError, Configured, Parts, PolicyInputs, Revocation, Trust, TrustError};
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Table {
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    section: String,
    end_entity: String,
    valid: bool,
    #[serde(default)]
    policies: Vec<u8>,
    #[serde(default)]
    require_explicit_policy: bool,
    #[serde(default)]
    inhibit_policy_mapping: bool,
    #[serde(default)]
    inhibit_any_policy: bool,
    /// Why the path is refused, though the document has it as valid.
    refused: Option<String>,
    /// Why it is not known, or not true, that nothing on the path is revoked, though the document has it so.
    unknown: Option<String>,
}

/// What became of a case.
#[derive(Debug)]
#[expect(dead_code, reason = "the texts explain a failure")]
enum Outcome {
    Accepted,
    Refused(ChainError, String),
    NotGood(String),
}

/// 2026-06-15, inside the dates of whatever is meant to be valid.
const NOW: i64 = 1_781_481_600;

fn folder() -> PathBuf {
    let private = std::env::var_os("RCMPD_PRIVATE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/private"), PathBuf::from);
    private.join("pkits/PKITS_data")
}

struct File {
    name: String,
    der: Vec<u8>,
}

fn files(folder: &Path) -> Vec<File> {
    let entries = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}; run tests/peers/install", folder.display()));
    let mut files: Vec<File> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| File {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            der: std::fs::read(&path).unwrap(),
        })
        .collect();
    files.sort_by(|left, right| left.name.cmp(&right.name));
    files
}

/// A name without what may differ in equal ones: which certificates a case is given is not what is tested.
fn loosely(name: &[u8]) -> String {
    let name = rcmp_service::certificate::name(name).map(|name| name.to_string()).unwrap_or_default();
    name.replace('"', "").split_whitespace().collect::<String>().to_lowercase()
}

struct Suite {
    certificates: Vec<File>,
    lists: Vec<File>,
}

impl Suite {
    fn certificate(&self, name: &str) -> &[u8] {
        &self.certificates.iter().find(|file| file.name == name).unwrap_or_else(|| panic!("no {name}")).der
    }

    /// All certificates of the CAs above one.
    fn above(&self, leaf: &[u8]) -> Vec<Vec<u8>> {
        let mut found: Vec<Vec<u8>> = Vec::new();
        let mut wanted = vec![loosely(Certificate::parse(leaf).unwrap().issuer)];
        let mut at = 0;
        while at < wanted.len() {
            for file in &self.certificates {
                let Ok(certificate) = Certificate::parse(&file.der) else { continue };
                let is_new = loosely(certificate.subject) == wanted[at] && !found.contains(&file.der);
                if is_new && file.name != "TrustAnchorRootCertificate" {
                    found.push(file.der.clone());
                    let issuer = loosely(certificate.issuer);
                    if !wanted.contains(&issuer) {
                        wanted.push(issuer);
                    }
                }
            }
            at += 1;
        }
        found
    }

    fn outcome(&self, case: &Case) -> Outcome {
        let now = FileTime::from_unix(NOW);
        let leaf = self.certificate(&case.end_entity);
        let policy = |number: &u8| object_identifier(&format!("2.16.840.1.101.3.2.1.48.{number}")).unwrap();
        let mut parts = Parts {
            anchors: vec![self.certificate("TrustAnchorRootCertificate").to_vec()],
            intermediates: self.above(leaf),
            policies: PolicyInputs {
                initial: case.policies.iter().map(policy).collect(),
                require_explicit_policy: case.require_explicit_policy,
                inhibit_policy_mapping: case.inhibit_policy_mapping,
                inhibit_any_policy: case.inhibit_any_policy,
            },
            crls: self.lists.len(),
            ..Parts::default()
        };
        // A CA that cannot be used is left out, as an operator would have to.
        let mut unusable = Vec::new();
        let trust = loop {
            match Trust::new(parts.clone()) {
                Ok(trust) => break trust,
                Err(TrustError::Certificate { which: Configured::Intermediate(at), why, .. }) => {
                    parts.intermediates.remove(at);
                    unusable.push(why.to_string());
                }
                Err(error) => panic!("{error}"),
            }
        };
        // The same CAs in a handshake, as a client sends them.
        let anchored = Trust::new(Parts { intermediates: Vec::new(), ..parts.clone() }).unwrap();
        let shown = anchored.verify_shown(leaf, &self.above(leaf), now);
        match (&shown, trust.verify(leaf, now)) {
            (Ok(shown), Ok(path)) => assert_eq!(shown.policies, path.policies, "{}", case.section),
            (Err(_), Err(_)) => {}
            (shown, path) => panic!("{}: sent {shown:?}, configured {path:?}", case.section),
        }
        if let Err(rejected) = shown {
            let is_told = case.valid || reasons_sent(&case.section).contains(&rejected.refusal.error);
            assert!(is_told, "{}: {rejected}", case.section);
        }
        parts.intermediates.reverse();
        let other_way = Trust::new(parts).unwrap().verify(leaf, now);
        assert_eq!(other_way, trust.verify(leaf, now), "{}: the order does not count", case.section);
        let path = match trust.verify(leaf, now) {
            Ok(path) => path,
            Err(refusal) => return Outcome::Refused(refusal.error, format!("{refusal} {unusable:?}")),
        };
        let mut lists = Vec::new();
        for (slot, file) in self.lists.iter().enumerate() {
            if let Err(error) = trust.install_crl(slot, &file.der, now)
                && !matches!(error, rcmp_service::trust::CrlError::UnknownIssuer)
            {
                lists.push(error.to_string());
            }
        }
        match trust.revocation(&path, now) {
            Revocation::Good => Outcome::Accepted,
            Revocation::Revoked { .. } => Outcome::NotGood("revoked".to_owned()),
            Revocation::Unknown { why, .. } => Outcome::NotGood(format!("{} {lists:?}", why.text())),
        }
    }
}

/// What may be wrong with the path of an invalid case, by what its section is about.
fn reasons(section: &str) -> &'static [ChainError] {
    use ChainError::{
        BadSignature, Expired, IsACa, IssuerExpired, IssuerNotYetValid, Malformed, NameConstraints,
        NoExplicitPolicy, NoKeyCertSign, NotYetValid, PathLength, PolicyMapping, UnknownCritical,
        UnknownIssuer, UnsupportedKey,
    };
    // A certificate of a CA is no client's, whatever is wrong above it. A CA that cannot be configured is no
    // issuer.
    match section.split('.').nth(1) {
        // The wrong signature by DSA is not of whole octets.
        Some("1") => &[BadSignature, UnsupportedKey, UnknownIssuer, Malformed],
        Some("2") => &[Expired, NotYetValid, IssuerExpired, IssuerNotYetValid],
        Some("3") => &[UnknownIssuer],
        Some("6") => &[PathLength, IsACa, UnknownIssuer],
        // A CA without keyCertSign.
        Some("7") => &[NoKeyCertSign, UnknownIssuer],
        Some("8" | "9" | "11" | "12") => &[NoExplicitPolicy, IsACa],
        Some("10") => &[NoExplicitPolicy, PolicyMapping],
        Some("13") => &[NameConstraints],
        // The certificate is signed with a key that is for lists alone (4.5.7, 4.5.8); all else is in the
        // lists.
        Some("5") => &[BadSignature, NoKeyCertSign],
        // A list for users alone, and a CA (4.14.11).
        Some("14") => &[IsACa],
        Some("16") => &[UnknownCritical],
        _ => &[],
    }
}

/// The same where CAs are sent: a configured CA that is of no use is left out, a sent one is told of.
fn reasons_sent(section: &str) -> &'static [ChainError] {
    match section.split('.').nth(1) {
        Some("1") => &[ChainError::BadSignature, ChainError::UnsupportedKey, ChainError::Malformed],
        Some("6") => &[ChainError::NotACa, ChainError::PathLength, ChainError::IsACa],
        Some("5" | "7") => &[ChainError::NoKeyCertSign, ChainError::NotACa, ChainError::BadSignature],
        _ => reasons(section),
    }
}

#[test]
fn every_case_comes_out_as_the_document_says() {
    let folder = folder();
    let suite = Suite { certificates: files(&folder.join("certs")), lists: files(&folder.join("crls")) };
    let table: Table = toml::from_str(include_str!("pkits.toml")).unwrap();
    assert_eq!(table.case.len(), 249, "every case and its variants");
    let mut wrong = Vec::new();
    for case in &table.case {
        let outcome = suite.outcome(case);
        let is_right = match (&outcome, case.valid) {
            (Outcome::Accepted, valid) => valid && case.refused.is_none() && case.unknown.is_none(),
            (Outcome::Refused(error, _), false) => reasons(&case.section).contains(error),
            (Outcome::Refused(..), true) => case.refused.is_some(),
            (Outcome::NotGood(_), valid) => !valid || case.unknown.is_some(),
        };
        if !is_right {
            wrong.push(format!("{} {}: {outcome:?}", case.section, case.end_entity));
        }
        let explained = case.refused.is_some() || case.unknown.is_some();
        assert!(case.valid || !explained, "{}: nothing to explain", case.section);
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}
