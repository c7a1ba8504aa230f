//! Paths: certificates with whatever extensions, signed here, so that what is tried is behind the signature.
//!
//! Bytes of the first kind are extensions as they are: nothing panics or takes long, and the order of the
//! configuration does not count. Bytes of the second kind choose certificate policies, and the result is that
//! of the tree in RFC 5280 6.1.

#[path = "../../crates/rcmp-service/src/trust/policies/document.rs"]
mod document;

use crate::{Choices, der, signed};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use document::{ANY, Said, by_the_document};
use rcmp_service::trust::{ChainError, Parts, PolicyInputs, Refusal, Trust};

/// Most CAs below the anchor.
const CAS_MAX: usize = 4;
/// id-Ed25519, 1.3.101.112.
const ED25519: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
/// The last arc of extensions below 2.5.29 that paths go by.
const EXTENSIONS: [u8; 10] = [15, 17, 19, 30, 31, 32, 33, 36, 37, 54];
const BASIC_CONSTRAINTS: u8 = 19;

/// Builds a path of what `bytes` say, and verifies it.
pub fn check(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    match choices.byte() % 2 {
        0 => extensions(&mut choices),
        _ => policies(&mut choices),
    }
}

fn extension(id: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[0x01, 0x01, 0xff] } else { &[] };
    der(0x30, &[&[0x06, 0x03, 0x55, 0x1d, id], critical, &der(0x04, &[value])])
}

fn key(number: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[number; 32]).expect("32 bytes")
}

/// A certificate of the key `number`, signed by the key before it; the names are numbers, too.
fn certificate(number: u8, issuer: u8, subject: u8, extensions: &[Vec<u8>]) -> Vec<u8> {
    let name = |number: u8| {
        let attribute = der(0x30, &[&[0x06, 0x03, 0x55, 0x04, 0x03], &der(0x0c, &[&[b'A' + number]])]);
        der(0x30, &[&der(0x31, &[&attribute])])
    };
    let public = der(0x30, &[ED25519, &der(0x03, &[&[0], key(number).public_key().as_ref()])]);
    let validity = der(0x30, &[&der(0x17, &[b"200101000000Z"]), &der(0x17, &[b"400101000000Z"])]);
    let list = der(0xa3, &[&der(0x30, &[&extensions.concat()])]);
    let (issuer, subject) = (name(issuer), name(subject));
    let version: &[u8] = &[0xa0, 0x03, 0x02, 0x01, 0x02];
    let serial = [0x02, 0x01, number + 1];
    let tbs = der(0x30, &[version, &serial, ED25519, &issuer, &validity, &subject, &public, &list]);
    let signature = key(number.saturating_sub(1)).sign(&tbs);
    der(0x30, &[&tbs, ED25519, &der(0x03, &[&[0], signature.as_ref()])])
}

fn ca() -> Vec<u8> {
    extension(BASIC_CONSTRAINTS, true, &[0x30, 0x03, 0x01, 0x01, 0xff])
}

fn verify(parts: &Parts, leaf: &[u8]) -> Option<Result<Vec<Box<[u8]>>, Refusal>> {
    // The same CAs as a client sends them in a handshake.
    let anchored = Trust::new(Parts { intermediates: Vec::new(), ..parts.clone() });
    let shown = anchored.map(|trust| trust.verify_shown(leaf, &parts.intermediates, signed::now()));
    let trust = Trust::new(parts.clone()).ok()?;
    let policies = trust.verify(leaf, signed::now()).map(|path| path.policies.clone());
    let shown = shown.expect("an anchor is enough").ok().map(|path| path.policies.clone());
    assert_eq!(
        shown,
        policies.as_ref().ok().cloned(),
        "a CA that is sent counts like one that is configured"
    );
    Some(policies)
}

fn extensions(choices: &mut Choices<'_>) {
    let cas = usize::from(choices.byte()) % (CAS_MAX + 1);
    let mut made = Vec::new();
    for number in 0..cas + 2 {
        let is_leaf = number == cas + 1;
        let mut extensions = Vec::new();
        let mut left = EXTENSIONS.to_vec();
        if !is_leaf {
            extensions.push(ca());
            left.retain(|id| *id != BASIC_CONSTRAINTS);
        }
        for _ in 0..choices.byte() % 4 {
            let id = left.remove(usize::from(choices.byte()) % left.len());
            let critical = choices.byte() % 2 == 0;
            let len = usize::from(choices.byte());
            extensions.push(extension(id, critical, choices.take(len)));
        }
        let number = number as u8;
        made.push(certificate(number, number.saturating_sub(1), number, &extensions));
    }
    let leaf = made.pop().expect("there is one");
    let mut parts = Parts { anchors: vec![made.remove(0)], intermediates: made, ..Parts::default() };
    let result = verify(&parts, &leaf);
    parts.intermediates.reverse();
    assert_eq!(verify(&parts, &leaf), result, "the order of the configuration does not count");
}

fn oid(policy: u8) -> Vec<u8> {
    match policy {
        ANY => vec![0x06, 0x04, 0x55, 0x1d, 0x20, 0x00],
        policy => vec![0x06, 0x02, 0x2a, policy],
    }
}

fn said(choices: &mut Choices<'_>) -> Said {
    let flags = choices.byte();
    let count =
        |choices: &mut Choices<'_>, bit: u8| (flags & bit != 0).then(|| usize::from(choices.byte() % 4));
    let mut policies: Vec<u8> = (0..1 + choices.byte() % 4).map(|_| choices.byte() % 6).collect();
    policies.sort_unstable();
    policies.dedup();
    Said {
        self_issued: flags & 1 != 0,
        policies: (flags & 2 == 0).then_some(policies),
        require_explicit: count(choices, 4),
        inhibit_mapping: count(choices, 8),
        inhibit_any: count(choices, 16),
        mappings: (0..choices.byte() % 4).map(|_| (1 + choices.byte() % 5, 1 + choices.byte() % 5)).collect(),
    }
}

fn encoded(said: &Said) -> Vec<Vec<u8>> {
    let mut extensions = Vec::new();
    let integer = |tag: u8, count: usize| vec![tag, 0x01, count as u8];
    if let Some(policies) = &said.policies {
        let list: Vec<u8> = policies.iter().flat_map(|policy| der(0x30, &[&oid(*policy)])).collect();
        extensions.push(extension(32, false, &der(0x30, &[&list])));
    }
    if !said.mappings.is_empty() {
        let pair = |(issuer, subject): &(u8, u8)| der(0x30, &[&oid(*issuer), &oid(*subject)]);
        let list: Vec<u8> = said.mappings.iter().flat_map(pair).collect();
        extensions.push(extension(33, true, &der(0x30, &[&list])));
    }
    if said.require_explicit.is_some() || said.inhibit_mapping.is_some() {
        let explicit = said.require_explicit.map_or(Vec::new(), |count| integer(0x80, count));
        let mapping = said.inhibit_mapping.map_or(Vec::new(), |count| integer(0x81, count));
        extensions.push(extension(36, true, &der(0x30, &[&explicit, &mapping])));
    }
    if let Some(count) = said.inhibit_any {
        extensions.push(extension(54, true, &integer(0x02, count)));
    }
    extensions
}

fn policies(choices: &mut Choices<'_>) {
    let flags = choices.byte();
    let flags = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
    let initial: Vec<u8> = (0..choices.byte() % 3).map(|_| 1 + choices.byte() % 5).collect();
    let cas = usize::from(choices.byte()) % (CAS_MAX + 1);
    let mut path: Vec<Said> = (0..=cas).map(|_| said(choices)).collect();
    let leaf = path.last_mut().expect("there is one");
    (leaf.self_issued, leaf.mappings) = (false, Vec::new());

    let mut made = vec![certificate(0, 0, 0, &[ca()])];
    let mut name = 0;
    for (at, said) in path.iter().enumerate() {
        let issuer = name;
        name += u8::from(!said.self_issued);
        let mut extensions = encoded(said);
        if at < cas {
            extensions.push(ca());
        }
        made.push(certificate(at as u8 + 1, issuer, name, &extensions));
    }
    let leaf = made.pop().expect("there is one");
    let inputs = PolicyInputs {
        initial: initial.iter().map(|policy| oid(*policy)[2..].to_vec()).collect(),
        require_explicit_policy: flags.0,
        inhibit_policy_mapping: flags.1,
        inhibit_any_policy: flags.2,
    };
    let parts =
        Parts { anchors: vec![made.remove(0)], intermediates: made, policies: inputs, ..Parts::default() };
    let expected = by_the_document(&path, &initial, flags);
    match (verify(&parts, &leaf).expect("the CAs can be used"), expected) {
        (Ok(found), Some(expected)) => {
            let found: Vec<u8> = found.iter().map(|oid| oid[1]).collect();
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        }
        (Err(refusal), None) => assert_eq!(refusal.error, ChainError::NoExplicitPolicy),
        (found, expected) => panic!("{found:?}, and the document says {expected:?}"),
    }
}
