//! The sealed files of a master secret: store, backup, node's cache, key texts and shares.
//!
//! Octets of a stranger have no tag that matches, so they would show the readers of headers alone. Here the
//! octets are the header and the secrets of a file that is sealed as the documentation says, under a known
//! key: what an owner of the key could write.

use crate::Choices;
use aes_gcm_siv::aead::{Aead, KeyInit, Payload};
use aes_gcm_siv::{Aes256GcmSiv, Nonce};
use hkdf::Hkdf;
use sha2::Sha256;
use sso_secret::backup::Backup;
use sso_secret::memory::Locked;
use sso_secret::share::Share;
use sso_secret::{
    GENERATIONS_MAX, Generation, KeyId, PassphraseCost, Recipient, SealingSource, SourceError, SourceKind,
    node, store,
};

/// Reads `bytes` as each kind of file, and as what is inside of one.
pub fn check(bytes: &[u8]) {
    if let Ok(facts) = store::facts_of(bytes, &[0; 32]) {
        listed(&facts.generations);
    }
    if let Ok((_, keys)) = node::facts_of(bytes) {
        assert!((1..=GENERATIONS_MAX).contains(&keys.len()));
    }
    if let Ok(backup) = Backup::read(bytes) {
        listed(backup.generations());
        let cost = backup.key_header().cost;
        assert!(cost.is_none_or(PassphraseCost::is_allowed), "a stranger's file has no price");
        backup.keyring(&Key).expect_err("the octets are not sealed under this key");
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(share) = Share::parse(text) {
            assert!(text.trim().eq_ignore_ascii_case(&share.text()));
        }
        if let Some(recipient) = Recipient::parse(text) {
            assert!(text.trim().eq_ignore_ascii_case(&recipient.to_string()));
        }
    }
    let mut choices = Choices(bytes);
    let len = usize::from(choices.byte()) * 16;
    let plain = choices.take(len);
    let file = sealed(*b"MSBK", choices.take(bytes.len()), plain);
    if let Ok(backup) = Backup::read(&file) {
        let generations = backup.generations().to_vec();
        listed(&generations);
        if let Ok(keys) = backup.keyring(&Key) {
            assert_eq!(plain.len(), 16 * generations.len());
            let mut named: Vec<KeyId> = Vec::new();
            for generation in &generations {
                if !named.contains(&generation.key_id) {
                    named.push(generation.key_id);
                }
            }
            assert_eq!(keys.key_ids().collect::<Vec<_>>(), named, "each secret is the one that is named");
        }
        for len in [file.len() / 2, file.len() - 1] {
            assert!(Backup::read(&file[..len]).map_or(true, |cut| cut.keyring(&Key).is_err()), "cut short");
        }
    }
}

fn listed(generations: &[Generation]) {
    assert!((1..=GENERATIONS_MAX).contains(&generations.len()));
    assert!(generations.windows(2).all(|pair| pair[0].number > pair[1].number), "newest first");
    assert!(
        generations[0].superseded.is_none()
            && generations[1..].iter().all(|older| older.superseded.is_some())
    );
}

const SALT: [u8; 32] = [7; 32];
const RAW: [u8; 32] = [9; 32];

/// A source with one key.
struct Key;

impl SealingSource for Key {
    fn name(&self) -> String {
        "fuzz".to_owned()
    }

    fn kind(&self) -> SourceKind {
        SourceKind::Key
    }

    fn key(&self, _: &[u8; 32], _: Option<PassphraseCost>) -> Result<Locked<32>, SourceError> {
        Ok(Locked::copy(&RAW))
    }
}

/// A file whose key header is right, as the documentation of the formats has it.
fn sealed(magic: [u8; 4], rest: &[u8], plain: &[u8]) -> Vec<u8> {
    // Kind 1, a name of 4 octets, the salt, no cost, which key.
    let mut header = [[1, 4].as_slice(), b"fuzz", &SALT, &[0; 12]].concat();
    header.extend(derived::<16>(b"rcmpd sealing key 1: which key: ", magic));
    header.extend(rest);
    let mut file =
        [magic.as_slice(), &1u16.to_le_bytes(), &(header.len() as u32).to_le_bytes(), &header].concat();
    let key = derived::<32>(b"rcmpd sealing key 1: ", magic);
    let nonce = Nonce::from([0; 12]);
    let cipher = Aes256GcmSiv::new(&key.into());
    let secrets = cipher.encrypt(&nonce, Payload { msg: plain, aad: &file }).expect("it is short");
    file.extend([0; 12]);
    file.extend(secrets);
    file
}

fn derived<const N: usize>(label: &[u8], magic: [u8; 4]) -> [u8; N] {
    let mut octets = [0; N];
    let info = [label, &magic].concat();
    Hkdf::<Sha256>::new(Some(&SALT), &RAW).expand(&info, &mut octets).expect("some octets");
    octets
}
