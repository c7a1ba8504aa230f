//! Proof of path: no hop is believed but those that were signed, for the question and in their place.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use dtyp::{FileTime, Sid};
use rcmp_service::proof::{self, BLOCK_LEN_MAX, HOPS_MAX, Hop, HopStrength, Question, Role, Signed};
use std::sync::LazyLock;

const DOMAINS: [&str; 3] = ["FABRIKAM", "NORTHWIND", "CONTOSO"];
/// A response with a hop of each domain behind it.
const GENUINE: &[u8] = include_bytes!("../corpus/proof/three-hops");

/// Reads `bytes` as a response with hops, and adds one.
pub fn check(bytes: &[u8]) {
    let (response, block) = proof::split(bytes);
    assert_eq!([response, block].concat(), bytes);
    let Ok(hops) = proof::verify(bytes, &QUESTION, key_of) else {
        let mut message = bytes.to_vec();
        assert!(proof::append(&mut message, &HOP, &QUESTION, &KEYS[2]).is_err());
        assert_eq!(message, bytes, "what is refused is left alone");
        return;
    };
    assert_eq!(hops.is_empty(), block.is_empty());
    let genuine = proof::verify(GENUINE, &QUESTION, key_of).expect("our own");
    for (at, hop) in hops.iter().enumerate().filter(|(_, hop)| hop.signed == Signed::Good) {
        assert_eq!(hops.get(..=at), genuine.get(..=at), "{hop:?} was never signed");
    }
    let another = Question { nonce: [0; 16], ..*QUESTION };
    let replayed = proof::verify(bytes, &another, key_of).expect("it was read");
    assert!(replayed.iter().all(|hop| hop.signed != Signed::Good));

    let mut message = bytes.to_vec();
    match proof::append(&mut message, &HOP, &QUESTION, &KEYS[2]) {
        Ok(()) => {
            let mut more = proof::verify(&message, &QUESTION, key_of).expect("our own");
            let last = more.pop().expect("one was added");
            assert_eq!((&last.hop, last.signed), (&*HOP, Signed::Good));
            assert_eq!(more, hops, "what was there is as it was");
        }
        Err(_) => assert!(hops.len() == HOPS_MAX || block.len() > BLOCK_LEN_MAX - 256),
    }
}

fn key_of(domain: &str) -> Vec<[u8; 32]> {
    let key = DOMAINS.iter().position(|known| *known == domain).map(|at| KEYS[at].public_key());
    key.into_iter().map(|key| key.as_ref().try_into().expect("32 bytes")).collect()
}

static KEYS: LazyLock<[Ed25519KeyPair; 3]> =
    LazyLock::new(|| [1, 2, 3].map(|seed| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed")));

static QUESTION: LazyLock<Question> =
    LazyLock::new(|| Question::new(b"whose certificate is this?", [0x6e; 16]));

static HOP: LazyLock<Hop> = LazyLock::new(|| {
    let domain_sid = Sid::new(5, &[21, 1000, 2000, 3002]).expect("four parts");
    Hop {
        role: Role::Forwarded,
        domain: "CONTOSO".into(),
        domain_sid,
        server: "CONTOSO-DC2".into(),
        policy_revision: 42,
        strength: HopStrength::Weak,
        account_sid: domain_sid.with_rid(1000).expect("a SID"),
        at: FileTime(133_500_000_000_000_000),
    }
});
