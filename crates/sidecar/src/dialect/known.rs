//! A cache of certificates by their text in a header: decoding and hashing one costs more than all the rest
//! of a cached decision.

use super::{ClientCertificate, Dialect};
use crate::refusal::Refusal;
use quick_cache::sync::Cache;
use quick_cache::{Equivalent, Weighter};

/// All that is kept, in bytes.
const BYTES_MAX: u64 = 16 << 20;
/// What most texts take: a certificate of 1 KiB as base64, and as DER.
const TEXT_LEN: usize = 4 << 10;

/// Texts that were read, and what they say. Nothing is decided by them: the same text always says the same.
pub(crate) struct Known(Cache<Key, ClientCertificate, Weight>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key(Dialect, Box<[u8]>);

#[derive(Hash)]
struct Text<'a>(Dialect, &'a [u8]);

impl Equivalent<Key> for Text<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.0 == key.0 && *self.1 == *key.1
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<Key, ClientCertificate> for Weight {
    fn weight(&self, key: &Key, presented: &ClientCertificate) -> u64 {
        let chain: usize = presented.chain.iter().map(|certificate| certificate.len()).sum();
        (key.1.len() + presented.leaf.len() + chain + size_of::<ClientCertificate>()) as u64
    }
}

impl Known {
    pub(crate) fn new() -> Self {
        Self(Cache::with_weighter(BYTES_MAX as usize / TEXT_LEN, BYTES_MAX, Weight))
    }

    /// What a text says; what it says if it is read for the first time. What cannot be read is not kept.
    pub(super) fn read(
        &self,
        dialect: Dialect,
        text: &[u8],
        read: impl FnOnce(&[u8]) -> Result<ClientCertificate, Refusal>,
    ) -> Result<ClientCertificate, Refusal> {
        if let Some(known) = self.0.get(&Text(dialect, text)) {
            return Ok(known);
        }
        let presented = read(text)?;
        self.0.insert(Key(dialect, text.into()), presented.clone());
        Ok(presented)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Broken;

    #[test]
    fn a_text_is_read_once_in_each_dialect_and_too_many_push_each_other_out() {
        let known = Known::new();
        let presented = |byte: u8, len: usize| ClientCertificate {
            leaf: vec![byte; len].into(),
            chain: Vec::new(),
            sha256: [byte; 32],
        };
        let read = |dialect, text: &[u8], said: Result<ClientCertificate, Refusal>| {
            let mut was_read = false;
            let told = known.read(dialect, text, |_| {
                was_read = true;
                said
            });
            (told, was_read)
        };
        let broken = Err(Refusal::Broken(Broken::Certificate));
        for _ in 0..2 {
            assert_eq!(read(Dialect::Caddy, b"a", broken.clone()), (broken.clone(), true));
        }
        let (one, another) = (presented(1, 9), presented(2, 9));
        assert_eq!(read(Dialect::Caddy, b"a", Ok(one.clone())), (Ok(one.clone()), true));
        assert_eq!(read(Dialect::Nginx, b"a", Ok(another.clone())), (Ok(another.clone()), true));
        assert_eq!(read(Dialect::Caddy, b"a", Ok(another.clone())), (Ok(one), false));
        assert_eq!(read(Dialect::Nginx, b"a", broken), (Ok(another), false));
        for number in 0..512_u16 {
            let _ = read(
                Dialect::Nginx,
                &[&number.to_be_bytes()[..], &[0; 96 << 10]].concat(),
                Ok(presented(3, 64 << 10)),
            );
            assert!(known.0.weight() <= BYTES_MAX);
        }
        assert!(known.0.len() > 32);
    }
}
