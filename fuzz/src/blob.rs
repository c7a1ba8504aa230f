//! Blobs under the master secret: a stranger's do not open, and ours open for what they were sealed for
//! alone.

use crate::Choices;
use sso_secret::blob::{self, OVERHEAD, Purpose};
use sso_secret::{BlobError, Keyring, MasterSecret};

/// Reads `bytes` as a blob, and seals them as the plaintext of one.
pub fn check(bytes: &[u8]) {
    let [old, new] = [[1; 16], [2; 16]].map(|octets| MasterSecret::from_octets(&octets).expect("a secret"));
    let (before, after) = (Keyring::new(old.clone()), Keyring::new(new.clone()).with_older(old));
    let purpose = Purpose::new("fuzz").expect("a purpose");
    match blob::open(&after, &purpose, &[], bytes) {
        Ok(_) => panic!("a blob that was not sealed here opens"),
        Err(BlobError::Rejected | BlobError::UnknownKey(_)) => {
            assert!(bytes.len() >= OVERHEAD && blob::key_id(bytes).is_ok())
        }
        Err(_) => assert!(blob::key_id(bytes).is_err()),
    }
    let mut choices = Choices(bytes);
    let (at, bit) = (usize::from(choices.word()), choices.byte() % 8);
    let len = usize::from(choices.byte());
    let associated = choices.take(len);
    let name = String::from_utf8_lossy(choices.take(8)).into_owned();
    let purpose = Purpose::new(&name).unwrap_or(purpose);
    let plain = choices.take(bytes.len());
    let sealed = blob::seal(&before, &purpose, associated, plain).expect("it is short enough");
    assert_eq!(sealed.len(), plain.len() + OVERHEAD);
    let opened = blob::open(&after, &purpose, associated, &sealed).expect("it opens");
    assert!(*opened.plain == plain && !opened.is_newest);
    let mut changed = sealed.clone();
    changed[at % sealed.len()] ^= 1 << bit;
    blob::open(&after, &purpose, associated, &changed).expect_err("changed");
    blob::open(&after, &purpose, associated, &sealed[..at % sealed.len()]).expect_err("cut short");
    let other = [associated, &[0]].concat();
    assert_eq!(blob::open(&after, &purpose, &other, &sealed).map(drop), Err(BlobError::Rejected));
    let other = Purpose::new(&format!("{}x", purpose.as_str())).expect("a purpose");
    assert_eq!(blob::open(&after, &other, associated, &sealed).map(drop), Err(BlobError::Rejected));
    let moved = blob::reseal(&after, &purpose, associated, &sealed).expect("it opens").expect("it was older");
    assert!(
        *blob::open(&Keyring::new(new), &purpose, associated, &moved).expect("the newest opens it").plain
            == plain
    );
}
