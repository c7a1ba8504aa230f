//! Judges paths beside certval, another implementation of RFC 5280: NIST's PKITS, and hierarchies drawn at
//! random.
//!
//! Each difference is explained, in `explained` or `drawn::differs`; another one ends the program with 1.
//! Revocation is not compared: each has rules of its own for lists.

mod drawn;

use certval::{
    CertFile, CertSource, CertVector, CertificationPathResults, CertificationPathSettings, PkiEnvironment,
    TaSource, TimeOfInterest, parse_cert,
};
use dtyp::FileTime;
use rcmp_service::certificate::{Certificate, object_identifier};
use rcmp_service::trust::{ChainError, Configured, Parts, PolicyInputs, Trust, TrustError};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// 2026-06-15, inside the dates of all that is meant to be valid.
pub const NOW: i64 = 1_781_481_600;

#[derive(Deserialize)]
struct Table {
    case: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    section: String,
    end_entity: String,
    #[serde(default)]
    policies: Vec<u8>,
    #[serde(default)]
    require_explicit_policy: bool,
    #[serde(default)]
    inhibit_policy_mapping: bool,
    #[serde(default)]
    inhibit_any_policy: bool,
}

/// What both are asked.
pub struct Question {
    pub anchor: Vec<u8>,
    pub intermediates: Vec<Vec<u8>>,
    pub leaf: Vec<u8>,
    /// Dotted.
    pub policies: Vec<String>,
    pub require_explicit_policy: bool,
    pub inhibit_policy_mapping: bool,
    pub inhibit_any_policy: bool,
}

impl Question {
    /// Our verdict, or the rule that is broken.
    pub fn ours(&self) -> Result<(), ChainError> {
        let initial = self.policies.iter().map(|id| object_identifier(id).expect("an identifier")).collect();
        let mut parts = Parts {
            anchors: vec![self.anchor.clone()],
            intermediates: self.intermediates.clone(),
            policies: PolicyInputs {
                initial,
                require_explicit_policy: self.require_explicit_policy,
                inhibit_policy_mapping: self.inhibit_policy_mapping,
                inhibit_any_policy: self.inhibit_any_policy,
            },
            ..Parts::default()
        };
        // A CA that cannot be used is left out, as an operator would have to.
        let trust = loop {
            match Trust::new(parts.clone()) {
                Ok(trust) => break trust,
                Err(TrustError::Certificate { which: Configured::Intermediate(at), .. }) => {
                    parts.intermediates.remove(at);
                }
                Err(error) => panic!("{error}"),
            }
        };
        trust.verify(&self.leaf, FileTime::from_unix(NOW)).map(|_| ()).map_err(|refusal| refusal.error)
    }

    /// certval's verdict, or the error of the last path that it tried.
    pub fn theirs(&self) -> Result<(), String> {
        let mut settings = CertificationPathSettings::new();
        let now = TimeOfInterest::from_unix_secs(NOW as u64).expect("a time");
        settings.set_time_of_interest(now);
        settings.set_check_revocation_status(false);
        settings.set_initial_explicit_policy_indicator(self.require_explicit_policy);
        settings.set_initial_policy_mapping_inhibit_indicator(self.inhibit_policy_mapping);
        settings.set_initial_inhibit_any_policy_indicator(self.inhibit_any_policy);
        settings.set_enforce_trust_anchor_constraints(true);
        if !self.policies.is_empty() {
            settings.set_initial_policy_set(self.policies.clone());
        }
        let file = |name: String, bytes: &[u8]| CertFile { filename: name, bytes: bytes.to_vec() };
        let told = |error: certval::Error| format!("{error:?}");
        let mut anchors = TaSource::new();
        anchors.push(file("anchor".into(), &self.anchor));
        anchors.initialize().map_err(told)?;
        let mut environment = PkiEnvironment::default();
        environment.populate_5280_pki_environment();
        environment.add_trust_anchor_source(Box::new(anchors));
        let mut certificates = CertSource::new();
        for (at, der) in self.intermediates.iter().enumerate() {
            certificates.push(file(format!("intermediate {at}"), der));
        }
        certificates.initialize(&settings).map_err(told)?;
        certificates.find_all_partial_paths(&environment, &settings);
        environment.add_certificate_source(Box::new(certificates));
        let target = parse_cert(&self.leaf, "leaf").map_err(told)?;
        let mut paths = Vec::new();
        environment.get_paths_for_target(&target, &mut paths, 0, now).map_err(told)?;
        let mut last = Err("no path".to_owned());
        for path in &paths {
            let mut results = CertificationPathResults::new();
            last = environment.validate_path(&environment, &settings, path, &mut results).map_err(told);
            if last.is_ok() {
                break;
            }
        }
        last
    }
}

/// A builder that tries one of several keys of a name, as certval's does where key identifiers do not tell
/// them apart.
pub const ONE_KEY_OF_A_NAME: &str =
    "certval does not try each key of a CA's name, so it misses paths through self-issued certificates";

/// Why the verdicts about a case of PKITS differ. In each, ours is that of the document, or a refusal that
/// `pkits.toml` has a reason for.
fn explained(section: &str, ours: Result<(), ChainError>) -> Option<&'static str> {
    match (ours, section) {
        (Err(ChainError::IsACa), _) => Some("the certificate of a CA is not a client's"),
        (Ok(()), "4.2.3") => Some("certval does not read a UTCTime before 1970"),
        (Ok(()), "4.6.15" | "4.6.17") => Some(ONE_KEY_OF_A_NAME),
        _ => None,
    }
}

/// Counts an explained difference, or takes down one that is not.
pub fn take(differences: &mut Differences, what: impl FnOnce() -> String, why: Option<&'static str>) {
    match why {
        Some(why) => *differences.explained.entry(why).or_default() += 1,
        None => differences.other.push(what()),
    }
}

/// Where the verdicts differ.
#[derive(Default)]
pub struct Differences {
    explained: BTreeMap<&'static str, usize>,
    other: Vec<String>,
}

fn loosely(name: &[u8]) -> String {
    let name = rcmp_service::certificate::name(name).map(|name| name.to_string()).unwrap_or_default();
    name.replace('"', "").split_whitespace().collect::<String>().to_lowercase()
}

/// All certificates of the CAs above one.
fn above(certificates: &[Vec<u8>], anchor: &[u8], leaf: &[u8]) -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> = Vec::new();
    let mut wanted = vec![loosely(Certificate::parse(leaf).expect("it can be read").issuer)];
    let mut at = 0;
    while at < wanted.len() {
        for der in certificates {
            let Ok(certificate) = Certificate::parse(der) else { continue };
            if loosely(certificate.subject) == wanted[at] && der != anchor && !found.contains(der) {
                found.push(der.clone());
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

/// How many cases were compared.
fn pkits(folder: &Path, differences: &mut Differences) -> usize {
    let folder = folder.join("certs");
    let read = |name: &str| {
        let path = folder.join(format!("{name}.crt"));
        std::fs::read(&path)
            .unwrap_or_else(|error| panic!("{}: {error}; run tests/peers/install", path.display()))
    };
    let mut names: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}; run tests/peers/install", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    names.sort();
    let certificates: Vec<Vec<u8>> =
        names.iter().map(|path| std::fs::read(path).expect("it can be read")).collect();
    let anchor = read("TrustAnchorRootCertificate");
    let table: Table =
        toml::from_str(include_str!("../../../crates/rcmp-service/tests/pkits.toml")).expect("a table");
    for case in &table.case {
        let leaf = read(&case.end_entity);
        let question = Question {
            anchor: anchor.clone(),
            intermediates: above(&certificates, &anchor, &leaf),
            leaf,
            policies: case.policies.iter().map(|it| format!("2.16.840.1.101.3.2.1.48.{it}")).collect(),
            require_explicit_policy: case.require_explicit_policy,
            inhibit_policy_mapping: case.inhibit_policy_mapping,
            inhibit_any_policy: case.inhibit_any_policy,
        };
        let (ours, theirs) = (question.ours(), question.theirs());
        if ours.is_ok() != theirs.is_ok() {
            let what = || format!("{} {}: {ours:?} {theirs:?}", case.section, case.end_entity);
            take(differences, what, explained(&case.section, ours));
        }
    }
    table.case.len()
}

fn main() {
    let private =
        std::env::args().nth(1).expect("usage: oracle-certval FOLDER, where tests/peers/install puts PKITS");
    let mut differences = Differences::default();
    let cases = pkits(&Path::new(&private).join("pkits/PKITS_data"), &mut differences);
    println!("PKITS: {cases} cases compared");
    let (cases, accepted) = drawn::compare(&mut differences);
    println!("hierarchies drawn: {cases}, of which both accept {accepted}");
    for (why, count) in &differences.explained {
        println!("differs, explained: {count} times: {why}");
    }
    for what in &differences.other {
        println!("differs: {what}");
    }
    std::process::exit(i32::from(!differences.other.is_empty()));
}
