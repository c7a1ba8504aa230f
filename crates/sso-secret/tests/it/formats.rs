//! Files that another program wrote from the description of the formats open here (`vectors/make.py`), and no
//! other octets do.

use crate::{key_file, long_ago, passphrase, purpose, put, vector};
use sha2::Digest;
use sso_secret::blob::{self, Purpose};
use sso_secret::node::{CacheLimits, NodeError};
use sso_secret::share::{self, Share, ShareError, ShareFileError, ShareFolder, SharesThere};
use sso_secret::{
    BlobError, KeyFile, Keyring, MachineId, MasterSecret, NodeKeys, RecipientKey, RestoreRules,
    SealingSource, SecretStore, State, UnixTime,
};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn secrets() -> [MasterSecret; 2] {
    let secret = |from: u8| MasterSecret::from_octets(&std::array::from_fn::<u8, 16, _>(|i| from + i as u8));
    [secret(0), secret(0x80)].map(|secret| secret.expect("16 octets"))
}

fn store(
    name: &str,
    source: impl FnOnce(&Path) -> Arc<dyn SealingSource>,
) -> (tempfile::TempDir, SecretStore) {
    let folder = tempfile::tempdir().expect("a folder");
    put(&folder.path().join("master-secret.sealed"), &vector(name));
    let store =
        SecretStore::new(folder.path(), source(folder.path()), MachineId::new("m")).with_clock(long_ago);
    (folder, store)
}

#[test]
fn a_sealed_file_of_another_program_opens() {
    for (_folder, store) in [
        store("store-key.bin", key_file),
        store("store-passphrase.bin", |_| passphrase("correct horse battery staple")),
    ] {
        let open = store.open().expect("it opens");
        let found: Vec<_> =
            open.generations().map(|(generation, secret)| (generation.number, secret.clone())).collect();
        let [newest, older] = secrets();
        assert_eq!(found, [(5, newest), (4, older)]);
        let facts = store.status().facts.expect("there are facts");
        assert_eq!(
            (facts.last_backup, facts.backup_is_current, facts.last_drill),
            (Some(UnixTime(1100)), true, None)
        );
        assert_eq!(facts.lineage, "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf");
        assert!(facts.is_copy, "it was written by a program that does not know this folder");
    }
}

#[test]
fn a_wrong_passphrase_or_key_names_what_is_missing() {
    let (_folder, wrong) = store("store-passphrase.bin", |_| passphrase("wrong"));
    let (_other, other_kind) = store("store-passphrase.bin", key_file);
    let (folder, other_key) = store("store-key.bin", |folder| {
        put(&folder.join("other"), &[7; 32]);
        Arc::new(KeyFile::file(&folder.join("other")))
    });
    for (store, expected) in [
        (
            &wrong,
            "passphrase:typed has another key than the one that the file is sealed with (passphrase:typed)",
        ),
        (&other_kind, "is a key, and the file is sealed with passphrase:typed, a passphrase"),
        (&other_key, "has another key than the one that the file is sealed with (file:key.bin)"),
    ] {
        let State::Sealed(sealed) = store.state() else { panic!("it is sealed") };
        assert!(sealed.to_string().ends_with(expected), "{sealed}");
        assert_eq!(store.status().state, "sealed");
        assert_eq!(store.status().facts.expect("the header is readable").generations.len(), 2);
        store.rotate(UnixTime(1), Duration::ZERO).expect_err("sealed");
        store.generate(UnixTime(1)).expect_err("nothing is generated");
    }
    assert_eq!(
        fs::read(folder.path().join("master-secret.sealed")).expect("it is there"),
        vector("store-key.bin")
    );
}

#[test]
fn a_sealed_file_is_refused_at_each_length_and_with_each_octet_changed() {
    let (folder, store) = store("store-key.bin", key_file);
    let path = folder.path().join("master-secret.sealed");
    let whole = vector("store-key.bin");
    let refused = |bytes: &[u8]| {
        put(&path, bytes);
        matches!(store.reload(), State::Sealed(_))
    };
    for len in 0..whole.len() {
        assert!(refused(&whole[..len]), "cut to {len}");
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(refused(&changed), "octet {at} changed");
    }
    assert!(refused(&[whole.as_slice(), &[0]].concat()));
    assert!(refused(&vec![0; 70 << 10]), "an enormous file");
    put(&path, &whole);
    assert!(matches!(store.reload(), State::Open(_)));
}

#[test]
fn a_cost_outside_the_limits_is_not_paid() {
    let (folder, store) = store("store-passphrase.bin", |_| passphrase("correct horse battery staple"));
    let whole = vector("store-passphrase.bin");
    let at = whole.windows(4).position(|four| four == (19u32 << 10).to_le_bytes()).expect("the memory");
    for (offset, value) in [(0, (1u32 << 20) + 1), (0, 8 << 10), (4, 17), (4, 1), (8, 0), (8, 17)] {
        let mut changed = whole.clone();
        changed[at + offset..at + offset + 4].copy_from_slice(&value.to_le_bytes());
        put(&folder.path().join("master-secret.sealed"), &changed);
        let State::Sealed(sealed) = store.reload() else { panic!("refused") };
        assert!(sealed.to_string().contains("is damaged: argon2id cost"), "{sealed}");
    }
}

#[test]
fn a_backup_of_another_program_restores_with_the_private_key_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    put(&folder.path().join("recipient"), &vector("key.bin"));
    let key = RecipientKey::read(&folder.path().join("recipient")).expect("a key");
    let store =
        SecretStore::new(folder.path(), key_file(folder.path()), MachineId::new("m")).with_clock(long_ago);
    let restore = |bytes: &[u8], key: &dyn SealingSource| {
        let rules = RestoreRules { key_id: Some(secrets()[0].key_id()), ..RestoreRules::default() };
        store.restore(bytes, key, UnixTime(9), Duration::ZERO, rules)
    };
    let bytes = vector("backup-recipient.bin");
    for at in 0..bytes.len() {
        restore(&bytes[..at], &key).expect_err("cut short");
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        restore(&changed, &key).expect_err("changed");
    }
    restore(&bytes, &key.recipient().expect("a public key")).expect_err("a public key opens nothing");
    restore(&bytes, &*passphrase("correct horse battery staple")).expect_err("another kind of key");
    assert!(matches!(store.state(), State::None), "nothing was written");
    let open = restore(&bytes, &key).expect("it restores");
    assert_eq!(open.newest().1, &secrets()[0]);
    assert_eq!(open.generations().count(), 2);
}

#[test]
fn a_secret_that_does_not_open_its_sentinel_is_not_restored() {
    let folder = tempfile::tempdir().expect("a folder");
    let store =
        SecretStore::new(folder.path(), key_file(folder.path()), MachineId::new("m")).with_clock(long_ago);
    for (name, generation) in [("backup-other-sentinel.bin", 4), ("backup-changed-places.bin", 5)] {
        let key = key_file(folder.path());
        let refused = store
            .restore(&vector(name), &*key, UnixTime(9), Duration::ZERO, RestoreRules::default())
            .expect_err("it is wrong");
        let expected = format!("the secret of generation {generation} does not open its sentinel");
        assert!(refused.to_string().ends_with(&expected), "{refused}");
        assert!(matches!(store.state(), State::None), "nothing was written");
    }
}

#[test]
fn a_blob_of_another_program_opens_for_its_purpose_and_record_alone() {
    let [newest, older] = secrets();
    let ring = Keyring::new(newest.clone());
    assert_eq!(newest.key_id().to_string(), "3c611f6e54b04f1b");
    let bytes = vector("blob.bin");
    let open = |bytes: &[u8]| blob::open(&ring, &purpose("credentials/db"), b"record 7", bytes);
    let opened = open(&bytes).expect("it opens");
    assert_eq!((opened.plain.as_slice(), opened.is_newest), (b"the password".as_slice(), true));
    let rejected = Err(BlobError::Rejected);
    let as_error = |result: Result<blob::Opened, BlobError>| result.map(drop);
    assert_eq!(as_error(blob::open(&ring, &purpose("credentials/dc"), b"record 7", &bytes)), rejected);
    assert_eq!(as_error(blob::open(&ring, &purpose("credentials/db"), b"record 8", &bytes)), rejected);
    let other = Keyring::new(older.clone());
    let unknown = Err(BlobError::UnknownKey(newest.key_id()));
    assert_eq!(as_error(blob::open(&other, &purpose("credentials/db"), b"record 7", &bytes)), unknown);
    for at in 0..bytes.len() {
        open(&bytes[..at]).expect_err("cut short");
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        open(&changed).expect_err("changed");
    }
    open(&[bytes.as_slice(), &[0]].concat()).expect_err("longer");
    // The overlap: the newest key is another one, and this one is still there.
    let overlap = Keyring::new(older).with_older(newest);
    assert!(
        !blob::open(&overlap, &purpose("credentials/db"), b"record 7", &bytes).expect("it opens").is_newest
    );
    let moved = blob::reseal(&overlap, &purpose("credentials/db"), b"record 7", &bytes)
        .expect("resealed")
        .expect("it was older");
    let opened =
        blob::open(&other, &purpose("credentials/db"), b"record 7", &moved).expect("under the newest");
    assert_eq!(opened.plain.as_slice(), b"the password");
    assert_eq!(blob::reseal(&overlap, &purpose("credentials/db"), b"record 7", &moved), Ok(None));
}

#[test]
fn a_blob_is_bounded() {
    let ring = Keyring::new(secrets()[0].clone());
    let seal = |len| blob::seal(&ring, &purpose("p"), &[], &vec![1; len]);
    assert_eq!(seal(blob::PLAIN_MAX + 1), Err(BlobError::TooLong(blob::PLAIN_MAX + 1)));
    let largest = seal(blob::PLAIN_MAX).expect("it fits");
    assert_eq!(largest.len(), blob::PLAIN_MAX + blob::OVERHEAD);
    blob::open(&ring, &purpose("p"), &[], &[largest, vec![0; 1]].concat()).expect_err("too long");
    for name in ["", "with space", "ü", &"a".repeat(65)] {
        assert_eq!(Purpose::new(name), None);
    }
}

#[test]
fn zero_octets_and_other_lengths_are_no_secret() {
    for octets in [[0; 16].as_slice(), &[1; 15], &[1; 17], &[]] {
        MasterSecret::from_octets(octets).expect_err("no secret");
    }
}

#[test]
fn no_secret_is_printed() {
    let [secret, _] = secrets();
    let ring = Keyring::new(secret.clone());
    let (_folder, store) = store("store-key.bin", key_file);
    let open = store.open().expect("it opens");
    for text in
        [format!("{secret:?}"), format!("{ring:?}"), format!("{open:?}"), format!("{:?}", store.status())]
    {
        assert!(!text.contains("000102") && !text.contains("0, 1, 2, 3, 4"), "{text}");
    }
}

#[test]
fn the_cached_keys_of_another_program_open() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("node");
    let limits = CacheLimits { max_age: Duration::from_secs(600), overlap: Duration::from_secs(3600) };
    let open = |bytes: &[u8]| {
        put(&path, bytes);
        NodeKeys::open(&path, key_file(folder.path()), limits)
    };
    let bytes = vector("node.bin");
    let node = open(&bytes).expect("it opens");
    let cached = node.keys(UnixTime(5100)).expect("keys");
    assert_eq!(cached.age, Duration::from_secs(100));
    assert_eq!(cached.keys.key_ids().collect::<Vec<_>>(), secrets().map(|secret| secret.key_id()));
    for at in 0..bytes.len() {
        assert!(matches!(open(&bytes[..at]), Err(NodeError::Sealed(_))));
        let mut changed = bytes.clone();
        changed[at] ^= 4;
        assert!(matches!(open(&changed), Err(NodeError::Sealed(_))));
    }
}

fn shares() -> Vec<Share> {
    let text = String::from_utf8(vector("shares.txt")).expect("text");
    text.lines().map(|line| Share::parse(line).expect("a share")).collect()
}

#[test]
fn any_three_of_the_shares_of_another_program_give_the_key() {
    for skipped in 0..1u8 << 5 {
        let chosen: Vec<Share> = shares()
            .into_iter()
            .enumerate()
            .filter(|(i, _)| skipped >> i & 1 == 0)
            .map(|(_, share)| share)
            .collect();
        let key = share::combine(&chosen);
        match chosen.len() {
            3.. => assert_eq!(key.expect("enough shares").expose().as_slice(), vector("key.bin")),
            have => {
                assert_eq!(key.err(), Some(ShareError::TooFew { have, need: if have == 0 { 2 } else { 3 } }))
            }
        }
    }
    let twice = [0, 0, 1].map(|at| shares().swap_remove(at));
    assert_eq!(share::combine(&twice).err(), Some(ShareError::TooFew { have: 2, need: 3 }));
}

#[test]
fn our_shares_give_the_key_and_mistyped_ones_are_told() {
    let key = share::combine(&shares()).expect("the key");
    let made = share::split(&key, 2, 3).expect("shares");
    let read: Vec<_> =
        made.iter().map(|share| Share::parse(&share.text()).expect("it reads what it wrote")).collect();
    assert_eq!(share::combine(&read[1..]).expect("two of three").expose(), key.expose());
    let mixed = [shares().remove(0), Share::parse(&made[0].text()).expect("a share")];
    assert_eq!(share::combine(&mixed).err(), Some(ShareError::Sets));
    let text = made[0].text();
    for at in 0..text.len() {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'7' { b'8' } else { b'7' };
        assert_eq!(Share::parse(std::str::from_utf8(&bytes).expect("ASCII")).err(), Some(ShareError::Text));
        assert_eq!(Share::parse(&text[..at]).err(), Some(ShareError::Text));
    }
    for (threshold, count) in [(1, 3), (4, 3), (2, 17), (0, 0)] {
        assert_eq!(
            share::split(&key, threshold, count).err(),
            Some(ShareError::Numbers { threshold, count })
        );
    }
    assert!(format!("{:?}", made[0]).contains("[redacted]"));
}

/// The same share with another y, and its check right.
fn wrong_share(line: &str) -> Share {
    let digits = line.trim().strip_prefix("rcmpd-share-1:").expect("a share");
    let mut octets = [0; 42];
    dtyp::read_hex(digits.as_bytes(), &mut octets).expect("digits");
    octets[20] ^= 1;
    let check = sha2::Sha256::digest(&octets[..38]);
    octets[38..].copy_from_slice(&check[..4]);
    Share::parse(&format!("rcmpd-share-1:{}", dtyp::hex(&octets))).expect("its check is right")
}

#[test]
fn shares_in_a_folder_open_what_the_key_file_sealed() {
    let lines = String::from_utf8(vector("shares.txt")).expect("text");
    let line = |at: usize| lines.lines().nth(at).expect("five shares");
    let (folder, store) = store("store-key.bin", |folder| {
        let shares = folder.join("shares");
        fs::create_dir(&shares).expect("it is new");
        (2..5).for_each(|at| put(&shares.join(format!("{at}.share")), format!("{}\n", line(at)).as_bytes()));
        put(&shares.join("README"), b"not a share");
        Arc::new(ShareFolder::new(&shares))
    });
    assert!(matches!(store.state(), State::Open(_)));
    fs::remove_file(folder.path().join("shares/3.share")).expect("it is there");
    let sealed = || match store.reload() {
        State::Sealed(sealed) => sealed,
        other => panic!("{other:?}"),
    };
    assert!(sealed().why.contains("2 shares are there, and 3 are needed"), "{}", sealed());
    // Operators bring them back one by one.
    let shares = ShareFolder::new(&folder.path().join("shares"));
    let add = |at| shares.add(&Share::parse(line(at)).expect("a share"));
    assert_eq!(add(4).expect("it is there already"), SharesThere { have: 2, need: 3, is_new: false });
    let other = KeyFile::create(&folder.path().join("other")).expect("a key");
    let other = other.key(&[0; 32], None).expect("a key");
    let foreign = &share::split(&other, 2, 3).expect("shares")[0];
    // Nothing that is there already keeps good shares from giving the key: not a share of another key, a
    // whole set of one, a wrong share with the right set and x, or what a killed writer left.
    assert!(shares.add(foreign).expect("it is written").is_new);
    shares.add(&share::split(&other, 2, 3).expect("shares")[1]).expect("it is written");
    let wrong = wrong_share(line(1));
    assert_eq!(shares.add(&wrong).expect("it is written"), SharesThere { have: 3, need: 3, is_new: true });
    put(&folder.path().join("shares/empty.share"), b"");
    put(&folder.path().join("shares/half.share"), &line(0).as_bytes()[..40]);
    assert!(sealed().why.contains("half.share: not a share"), "{}", sealed());
    assert_eq!(add(1).expect("it is written"), SharesThere { have: 3, need: 3, is_new: true });
    assert!(matches!(store.reload(), State::Open(_)), "{:?}", store.reload());
    let names = |end: &str| shares.findings().iter().filter(|finding| finding.contains(end)).count();
    assert_eq!(
        (names("not a share"), names("a wrong share"), names("of another key")),
        (2, 1, 2),
        "{:?}",
        shares.findings()
    );
    for file in fs::read_dir(folder.path().join("shares")).expect("a folder") {
        let name = file.expect("an entry").file_name().into_string().expect("text");
        assert!(!name.contains(&line(1)[26..40]), "no name has a part of a share: {name}");
    }
    // 64 files, some of them wrong: no share is added that would close the folder to all.
    let is_share = |entry: &io::Result<fs::DirEntry>| {
        entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|end| end == "share"))
    };
    let there = fs::read_dir(folder.path().join("shares")).expect("a folder").filter(is_share).count();
    for file in there..64 {
        put(&folder.path().join(format!("shares/again{file}.share")), line(0).as_bytes());
    }
    assert!(matches!(add(3), Err(ShareFileError::TooMany(_))), "{:?}", add(3));
    assert!(matches!(store.reload(), State::Open(_)), "{:?}", store.reload());
    put(&folder.path().join("shares/again.share"), line(0).as_bytes());
    assert!(sealed().why.contains("64 shares or more"), "{}", sealed());
    fs::set_permissions(folder.path().join("shares"), fs::Permissions::from_mode(0o777)).expect("own folder");
    assert!(sealed().why.contains("can be changed by other users"), "{}", sealed());
}
