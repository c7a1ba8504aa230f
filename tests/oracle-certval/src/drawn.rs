//! Hierarchies drawn at random: policies, mappings, policy constraints, path lengths, constraints on host
//! names, self-issued CAs.

use crate::{Differences, ONE_KEY_OF_A_NAME, Question, take};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType, date_time_ymd,
};
use rcmp_service::trust::ChainError;

/// How many.
const CASES: usize = 2000;
/// anyPolicy; the other policies are 1.2.1.1 to 1.2.1.3.
const ANY: u8 = 0;

/// A generator that draws the same each time (Knuth's MMIX).
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn policies(&mut self) -> Vec<u8> {
        (0..4).filter(|policy| if *policy == ANY { self.one_in(4) } else { self.one_in(2) }).collect()
    }

    fn count(&mut self) -> Option<u8> {
        self.one_in(5).then(|| self.below(3) as u8)
    }
}

fn der(tag: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    let contents = parts.concat();
    let len = u8::try_from(contents.len()).expect("all is short");
    let len = if len < 0x80 { vec![len] } else { vec![0x81, len] };
    [vec![tag], len, contents].concat()
}

fn oid(policy: u8) -> Vec<u8> {
    match policy {
        ANY => der(0x06, &[vec![0x55, 0x1d, 0x20, 0x00]]),
        policy => der(0x06, &[vec![0x2a, 0x01, policy]]),
    }
}

fn extension(id: u64, critical: bool, value: Vec<u8>) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, id], value);
    extension.set_criticality(critical);
    extension
}

fn policies(list: &[u8]) -> Option<CustomExtension> {
    let entries: Vec<Vec<u8>> = list.iter().map(|policy| der(0x30, &[oid(*policy)])).collect();
    (!list.is_empty()).then(|| extension(32, false, der(0x30, &entries)))
}

fn counts(tag: u8, count: Option<u8>) -> Vec<u8> {
    count.map_or(Vec::new(), |count| der(tag, &[vec![count]]))
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (date_time_ymd(2025, 1, 1), date_time_ymd(2030, 1, 1));
    params.use_authority_key_identifier_extension = true;
    params
}

/// What differences are about.
#[derive(Clone, Copy, Default)]
struct Traits {
    /// A CA asserts anyPolicy and maps a policy.
    maps_beside_any: bool,
    /// A CA maps a policy to one that it asserts, too.
    maps_to_asserted: bool,
    is_self_issued: bool,
}

fn ca_params(draw: &mut Draw, name: &str, traits: &mut Traits) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(match draw.count() {
        Some(len) => BasicConstraints::Constrained(len),
        None => BasicConstraints::Unconstrained,
    });
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let list = draw.policies();
    params.custom_extensions.extend(policies(&list));
    if !list.is_empty() && draw.one_in(3) {
        let (from, to) = (1 + draw.below(3) as u8, 1 + draw.below(3) as u8);
        let pair = der(0x30, &[oid(from), oid(to)]);
        traits.maps_beside_any |= list.contains(&ANY);
        traits.maps_to_asserted |= list.contains(&to);
        params.custom_extensions.push(extension(33, true, der(0x30, &[pair])));
    }
    let (explicit, mapping) = (draw.count(), draw.count());
    if explicit.is_some() || mapping.is_some() {
        let value = der(0x30, &[counts(0x80, explicit), counts(0x81, mapping)]);
        params.custom_extensions.push(extension(36, true, value));
    }
    if let Some(count) = draw.count() {
        params.custom_extensions.push(extension(54, true, counts(0x02, Some(count))));
    }
    if draw.one_in(3) {
        let hosts = ["a.example", "b.example", "www.a.example"];
        let host = |draw: &mut Draw| vec![GeneralSubtree::DnsName(hosts[draw.below(3) as usize].to_owned())];
        let permitted_subtrees = if draw.one_in(2) { host(draw) } else { vec![] };
        let excluded_subtrees = if permitted_subtrees.is_empty() { host(draw) } else { vec![] };
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees });
    }
    params
}

/// Why one accepts what the other refuses.
fn differs(
    ours: Result<(), ChainError>,
    theirs: &Result<(), String>,
    traits: Traits,
) -> Option<&'static str> {
    let theirs = theirs.as_ref().err().map_or("", String::as_str);
    match ours {
        Ok(())
            if traits.is_self_issued && (theirs.contains("SignatureVerification") || theirs == "no path") =>
        {
            Some(ONE_KEY_OF_A_NAME)
        }
        // A CA that asserts anyPolicy and maps policies: which mappings survive below another anyPolicy is
        // read differently, and ours is compared with the tree of RFC 5280, step by step, in the tests of
        // rcmp-service.
        Ok(()) | Err(ChainError::NoExplicitPolicy) if traits.maps_beside_any => {
            Some("mapping beside anyPolicy")
        }
        // RFC 5280 6.1.4 (b) (1) changes what the mapped policy expects, not the other. OpenSSL accepts
        // these, too.
        Ok(()) if traits.maps_to_asserted && theirs.contains("NullPolicySet") => {
            Some("certval loses a policy that a CA asserts and maps another one to")
        }
        _ => None,
    }
}

/// How many hierarchies, and how many of them both accept.
pub fn compare(differences: &mut Differences) -> (usize, usize) {
    let mut draw = Draw(1);
    let keys: Vec<KeyPair> = (0..5).map(|_| KeyPair::generate().expect("a key")).collect();
    let copy = |key: &KeyPair| KeyPair::try_from(key.serialize_der()).expect("a key");
    let mut root = params("Root");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let anchor = root.self_signed(&keys[0]).expect("it is signed").der().to_vec();
    let mut accepted = 0;
    for number in 0..CASES {
        let mut issuer = Issuer::new(root.clone(), copy(&keys[0]));
        let (mut name, mut intermediates) = ("Root".to_owned(), Vec::new());
        let mut traits = Traits::default();
        for at in 1..=draw.below(4) as usize {
            match draw.one_in(5) {
                true => traits.is_self_issued = true,
                false => name = format!("CA {at}"),
            }
            let params = ca_params(&mut draw, &name, &mut traits);
            intermediates.push(params.signed_by(&keys[at], &issuer).expect("it is signed").der().to_vec());
            issuer = Issuer::new(params, copy(&keys[at]));
        }
        let mut leaf = params("some user");
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.custom_extensions.extend(policies(&draw.policies()));
        let hosts = ["www.a.example", "b.example", "A.example"];
        let host = hosts[draw.below(3) as usize].to_owned();
        leaf.subject_alt_names = vec![SanType::DnsName(host.try_into().expect("it is ASCII"))];
        let leaf = leaf.signed_by(&keys[4], &issuer).expect("it is signed").der().to_vec();
        let initial = if draw.one_in(4) { 1 + draw.below(3) } else { 0 };
        let question = Question {
            anchor: anchor.clone(),
            intermediates,
            leaf,
            policies: (initial > 0).then(|| format!("1.2.1.{initial}")).into_iter().collect(),
            require_explicit_policy: draw.one_in(3),
            inhibit_policy_mapping: draw.one_in(10),
            inhibit_any_policy: draw.one_in(10),
        };
        let (ours, theirs) = (question.ours(), question.theirs());
        accepted += usize::from(ours.is_ok() && theirs.is_ok());
        if ours.is_ok() != theirs.is_ok() {
            let why = differs(ours, &theirs, traits);
            take(differences, || format!("hierarchy {number}: {ours:?} {theirs:?}"), why);
        }
    }
    (CASES, accepted)
}
