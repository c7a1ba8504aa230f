//! Certificates of CAs that a client sends in a handshake.

use super::*;
use crate::trust::work::SIGNATURE_CHECKS_MAX;
use rcgen::KeyUsagePurpose;
use std::time::{Duration, Instant};

fn shown(trust: &Trust, leaf: &[u8], sent: &[&Ca]) -> Result<Arc<Path>, Rejected> {
    trust.verify_shown(leaf, &sent.iter().map(|ca| &ca.der).collect::<Vec<_>>(), now())
}

#[track_caller]
fn told(trust: &Trust, leaf: &[u8], sent: &[&Ca], error: ChainError, facts: &str) {
    let rejected = shown(trust, leaf, sent).unwrap_err();
    assert_eq!(rejected.refusal.error, error, "{rejected}");
    let facts = if facts.is_empty() { String::new() } else { format!(" ({facts})") };
    assert_eq!(rejected.to_string(), format!("{}{facts}", error.text()));
}

#[test]
fn a_sent_ca_counts_in_its_handshake_alone() {
    let root = Ca::root("Root");
    let (upper, other) = (root.ca("Upper"), Ca::root("Other"));
    let issuing = upper.ca("Issuing");
    let trust = trust(&[&root], &[]);
    let leaf = issuing.leaf("alice");
    // In any order, several times, and beside what does not belong to the path.
    for sent in [vec![&issuing, &upper], vec![&upper, &other, &issuing, &upper, &root]] {
        let path = shown(&trust, &leaf, &sent).unwrap();
        assert_eq!(path.authorities, [issuing.id(), upper.id(), root.id()]);
    }
    assert_eq!(trust.verify(&leaf, now()).map_err(|it| it.error), Err(ChainError::UnknownIssuer));
    told(&trust, &leaf, &[], ChainError::UnknownIssuer, "");
    told(&trust, &leaf, &[&issuing], ChainError::UnknownIssuer, "CA at depth 1: CN=Issuing");
    told(&trust, &leaf, &[&upper], ChainError::UnknownIssuer, "");
    // A path through configured CAs is the one that counts elsewhere, and is cached.
    let path = trust.verify(&root.leaf("bob"), now());
    assert!(path.is_ok());
}

#[test]
fn a_sent_ca_vouches_for_nothing_that_no_anchor_vouches_for() {
    let (root, twin) = (Ca::root("Root"), Ca::root("Root"));
    let trust = trust(&[&root], &[]);
    let mallory = Ca::root("Mallory");
    told(&trust, &mallory.leaf("alice"), &[&mallory], ChainError::UnknownIssuer, "CA at depth 1: CN=Mallory");
    // The anchor's name with another key, and its own certificate beside.
    told(&trust, &twin.leaf("alice"), &[&twin, &root], ChainError::BadSignature, "");
    let below = twin.ca("Below");
    told(&trust, &below.leaf("alice"), &[&below, &twin], ChainError::BadSignature, "CA at depth 1: CN=Below");
    // A client's certificate is no CA's.
    let client = root.ca_as(params("client"));
    let facts = "CA at depth 1: CN=client; extension 2.5.29.19";
    told(&trust, &client.leaf("alice"), &[&client], ChainError::NotACa, facts);
    let mut lists = ca_params("Lists");
    lists.key_usages = vec![KeyUsagePurpose::CrlSign];
    let lists = root.ca_as(lists);
    let facts = "CA at depth 1: CN=Lists; extension 2.5.29.15";
    told(&trust, &lists.leaf("alice"), &[&lists], ChainError::NoKeyCertSign, facts);
    let mut last = ca_params("Last");
    last.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let last = root.ca_as(last);
    let beyond = last.ca("Beyond");
    let facts = "CA at depth 2: CN=Last; CAs below it: 1, limit 0";
    told(&trust, &beyond.leaf("alice"), &[&beyond, &last], ChainError::PathLength, facts);
    let mut expired = ca_params("Expired");
    expired.not_after = date_time_ymd(2026, 6, 14);
    let expired = root.ca_as(expired);
    told(&trust, &expired.leaf("alice"), &[&expired], ChainError::IssuerExpired, "CA at depth 1: CN=Expired");
    // A renewed certificate of the same CA beside the expired one.
    let renewed = ca_params("Expired").signed_by(&expired.key, &root.issuer).unwrap().der().to_vec();
    let leaf = expired.leaf("alice");
    assert!(trust.verify_shown(&leaf, &[&expired.der, &renewed], now()).is_ok());
    assert!(trust.verify_shown(&leaf, &[&renewed, &expired.der], now()).is_ok());
}

/// All that fits into the 64 KiB of a handshake, made to cost as much as it can.
#[test]
fn what_a_client_sends_is_bounded() {
    let root = Ca::root("Root");
    let trust = trust(&[&root], &[]);
    let within = |begun: Instant| assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    // A loop, and a line that ends nowhere.
    let mallory = Ca::root("A");
    let mut line = vec![mallory.ca("B")];
    for n in 2..SENT_CAS_MAX {
        line.push(line[line.len() - 1].ca(&format!("{n}")));
    }
    let closing = ca_params("A").signed_by(&mallory.key, &line[line.len() - 1].issuer).unwrap();
    let mut sent: Vec<Vec<u8>> = line.iter().map(|ca| ca.der.clone()).collect();
    sent.push(closing.der().to_vec());
    let begun = Instant::now();
    let leaf = line[line.len() - 1].leaf("alice");
    let rejected = trust.verify_shown(&leaf, &sent, now()).unwrap_err();
    assert_eq!(rejected.refusal.error, ChainError::UnknownIssuer);
    within(begun);
    // More than are read.
    for count in [SENT_CAS_MAX + 1, 13_000] {
        let begun = Instant::now();
        let rejected = trust.verify_shown(&leaf, &vec![b"\x30\x00"; count], now()).unwrap_err();
        let limit = format!("(CAs' certificates from the client: {count}, limit {SENT_CAS_MAX})");
        assert!(rejected.to_string().ends_with(&limit), "{rejected}");
        within(begun);
    }
    assert!(trust.verify_shown(&root.leaf("bob"), &vec![b"\x30\x00"; 13_000], now()).is_ok(), "not needed");
    // Each with the anchor's name, so that each costs a signature; and one that is right, at the end.
    let good = root.ca("Good");
    let made_up = Ca::root("Root");
    let fakes: Vec<Ca> = (0..SENT_CAS_MAX - 1).map(|n| made_up.ca(&format!("Fake {n}"))).collect();
    let sent: Vec<&Ca> = fakes.iter().chain([&good]).collect();
    let begun = Instant::now();
    let result = shown(&trust, &good.leaf("bob"), &sent);
    let limit = format!("signatures to check: {}, limit {SIGNATURE_CHECKS_MAX}", SIGNATURE_CHECKS_MAX + 1);
    assert!(result.as_ref().is_err_and(|it| it.to_string().contains(&limit)), "{result:?}");
    within(begun);
    assert!(shown(&trust, &good.leaf("bob"), &sent[SENT_CAS_MAX / 2..]).is_ok());
}
