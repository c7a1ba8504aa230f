//! argon2id hashes of users' passwords, for services to which clients send the password itself.

use crate::store::{BoxFuture, StoreError};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use dtyp::Sid;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use subtle::ConstantTimeEq;
use zeroize::{ZeroizeOnDrop, Zeroizing};

/// A store that keeps argon2id hashes of the passwords of user accounts. An account without one cannot log on
/// with a password that the client sends. The contract of [`crate::store`] holds here too.
///
/// A change of a hash changes [`crate::AccountStore::revision`], so that no cache keeps what it made from the
/// former hash.
pub trait PasswordHashes: Send + Sync {
    /// The hash of the account with this SID; `None` if there is no such account, or it has no hash. Whether
    /// the account may log on is not decided here.
    fn password_hash<'a>(&'a self, sid: &'a Sid) -> BoxFuture<'a, Result<Option<PasswordHash>, StoreError>>;

    /// Writes or removes the hash of an account. An account that is not there is [`StoreError::Refused`].
    fn set_password_hash(
        &self,
        sid: Sid,
        hash: Option<PasswordHash>,
    ) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// What argon2id costs (RFC 9106, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Cost {
    /// What a new hash costs, and the least that a stored one may cost: OWASP's minimum for argon2id
    /// (Password Storage Cheat Sheet). Each concurrent verification has this much memory.
    const NEW: Self = Self { memory_kib: 19 << 10, passes: 2, lanes: 1 };
    /// The most that a stored hash may cost: a verification then takes 256 MiB, and some seconds. There is
    /// room for a later version that writes stronger hashes, and none for a string that takes the memory of
    /// the machine.
    const MAX: Self = Self { memory_kib: 256 << 10, passes: 8, lanes: 8 };

    fn is_allowed(self) -> bool {
        let (least, most) = (Self::NEW, Self::MAX);
        (least.memory_kib..=most.memory_kib).contains(&self.memory_kib)
            && (least.passes..=most.passes).contains(&self.passes)
            && (least.lanes..=most.lanes).contains(&self.lanes)
    }
}

const SALT_LEN: usize = 16;
const HASH_LEN: usize = 32;

/// The argon2id hash of a password in UTF-8, with its salt and its cost. The password is hashed as it is:
/// without Unicode normalization, as for its NT hash.
#[derive(Clone, ZeroizeOnDrop)]
pub struct PasswordHash {
    #[zeroize(skip)]
    cost: Cost,
    salt: [u8; SALT_LEN],
    hash: [u8; HASH_LEN],
}

impl PasswordHash {
    /// Hashes a password with 19 MiB of memory, two passes and one lane. The salt is random, and never used
    /// twice. This takes some 20 ms of a processor: call it where a thread may block.
    pub fn new(password: &str, salt: [u8; SALT_LEN]) -> Result<Self, StoreError> {
        let mut hashed = Self { cost: Cost::NEW, salt, hash: [0; HASH_LEN] };
        hashed.hash = *hashed.hash_of(password)?;
        Ok(hashed)
    }

    /// A hash of no known password. If there is no such account, or the account has no hash, verify the
    /// password with this one: the answer takes the same time.
    pub const fn decoy() -> Self {
        Self { cost: Cost::NEW, salt: [0; SALT_LEN], hash: [0; HASH_LEN] }
    }

    /// Whether this is the hash of `password`. The hashes are compared in constant time.
    ///
    /// This takes the time and the memory of [`PasswordHash::new`]: call it where a thread may block, and
    /// limit how many run at once. If there is not that much memory, the answer is
    /// [`StoreError::Unavailable`].
    pub fn verify(&self, password: &str) -> Result<bool, StoreError> {
        Ok(self.hash_of(password)?.ct_eq(&self.hash).into())
    }

    /// Reads a string in PHC format, such as `$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH`, with a salt of 16
    /// octets and a hash of 32. Another form, and a cost beyond the limits, is [`StoreError::Damaged`].
    pub fn from_phc(text: &str) -> Result<Self, StoreError> {
        let damaged = |what: &str| StoreError::Damaged(format!("a stored password hash has {what}"));
        let form = || damaged("not the form $argon2id$v=19$m=KIB,t=PASSES,p=LANES$SALT$HASH");
        let fields = text.strip_prefix("$argon2id$v=19$").ok_or_else(form)?;
        let [cost, salt, hash] = fields.split('$').collect::<Vec<_>>().try_into().map_err(|_| form())?;
        let cost = cost.split(',').collect::<Vec<_>>().try_into().map_err(|_| form())?;
        let [memory_kib, passes, lanes] = cost;
        let number = |text: &str, name: &str| -> Option<u32> { text.strip_prefix(name)?.parse().ok() };
        let cost = Cost {
            memory_kib: number(memory_kib, "m=").ok_or_else(form)?,
            passes: number(passes, "t=").ok_or_else(form)?,
            lanes: number(lanes, "p=").ok_or_else(form)?,
        };
        if !cost.is_allowed() {
            return Err(damaged(&format!("a cost beyond the limits: {cost:?}")));
        }
        let mut read = Self { cost, salt: [0; SALT_LEN], hash: [0; HASH_LEN] };
        octets(salt, &mut read.salt).ok_or_else(|| damaged("a damaged salt"))?;
        octets(hash, &mut read.hash).ok_or_else(|| damaged("a damaged hash"))?;
        // A number has one form only.
        match *read.to_phc() == text {
            true => Ok(read),
            false => Err(form()),
        }
    }

    /// The string in PHC format.
    pub fn to_phc(&self) -> Zeroizing<String> {
        let Cost { memory_kib, passes, lanes } = self.cost;
        let salt = STANDARD_NO_PAD.encode(self.salt);
        let hash = Zeroizing::new(STANDARD_NO_PAD.encode(self.hash));
        Zeroizing::new(format!("$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${salt}${}", *hash))
    }

    fn hash_of(&self, password: &str) -> Result<Zeroizing<[u8; HASH_LEN]>, StoreError> {
        let failed = |error: argon2::Error| StoreError::Unavailable(format!("argon2id: {error}"));
        let Cost { memory_kib, passes, lanes } = self.cost;
        let params = Params::new(memory_kib, passes, lanes, Some(HASH_LEN)).map_err(failed)?;
        let mut hash = Zeroizing::new([0; HASH_LEN]);
        let mut memory = Memory::take(params.block_count());
        let hashed = Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into_with_memory(
            password.as_bytes(),
            &self.salt,
            hash.as_mut(),
            &mut memory.0,
        );
        memory.keep();
        hashed.map_err(failed)?;
        Ok(hash)
    }
}

/// The memory of one computation. That of a hash of usual cost is used again: each thread of the allocator
/// would keep 19 MiB of its own. That of a costlier one is given back.
struct Memory(Vec<Block>);

static KEPT: Mutex<Vec<Memory>> = Mutex::new(Vec::new());
/// Memory of so many computations is kept.
const KEPT_MAX: usize = 2;

impl Memory {
    fn take(blocks: usize) -> Self {
        let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut memory = kept.unwrap_or_else(|| Self(Vec::new()));
        memory.0.resize(blocks, Block::new());
        memory
    }

    /// Overwritten, because what a password filled it with tells of the password.
    fn keep(mut self) {
        self.0.fill(Block::new());
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX && self.0.capacity() * Block::SIZE <= (Cost::NEW.memory_kib as usize) << 10 {
            kept.push(self);
        }
    }
}

/// Base64 without padding of exactly this many octets.
fn octets(text: &str, octets: &mut [u8]) -> Option<()> {
    let decoded = Zeroizing::new(STANDARD_NO_PAD.decode(text).ok()?);
    if decoded.len() != octets.len() {
        return None;
    }
    octets.copy_from_slice(&decoded);
    Some(())
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: [u8; SALT_LEN] = *b"0123456789abcdef";

    /// Made with argon2-cffi 25.1.0, which runs the reference implementation in C:
    /// `hash_secret("Grüße 7$".encode(), b"0123456789abcdef", 2, 19456, 1, 32, Type.ID)`.
    const FOREIGN: &str =
        "$argon2id$v=19$m=19456,t=2,p=1$MDEyMzQ1Njc4OWFiY2RlZg$9D4GtnL4D3IG3x2S/kF8x9eZ+29BQtA5GGDvoE5CmzY";
    /// The same with the password `pass word`, the salt 00 01 … 0f, 3 passes, 64 MiB and 4 lanes.
    const STRONGER: &str =
        "$argon2id$v=19$m=65536,t=3,p=4$AAECAwQFBgcICQoLDA0ODw$zzO6FRsP+yKCzUzKYvAOuhzgXJ3Y7mLztTNEtkmunVY";

    fn read(text: &str) -> PasswordHash {
        PasswordHash::from_phc(text).expect("it is a hash")
    }

    #[test]
    fn agrees_with_the_reference_implementation() {
        assert_eq!(*PasswordHash::new("Grüße 7$", SALT).expect("there is memory").to_phc(), FOREIGN);
        for (text, password) in [(FOREIGN, "Grüße 7$"), (STRONGER, "pass word")] {
            let hash = read(text);
            assert_eq!(*hash.to_phc(), text);
            assert!(hash.verify(password).expect("there is memory"));
        }
        for wrong in ["", "Grüße 7", "Grüße 7$ ", "grüße 7$"] {
            assert!(!read(FOREIGN).verify(wrong).expect("there is memory"), "{wrong:?}");
        }
    }

    #[test]
    fn memory_of_a_costlier_hash_is_given_back() {
        for text in [FOREIGN, STRONGER, FOREIGN] {
            read(text).verify("pass word").expect("there is memory");
            let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
            // 19 MiB each, whatever was computed before.
            assert!(kept.iter().all(|memory| memory.0.capacity() <= 19_456));
            assert!((1..=2).contains(&kept.len()) || text == STRONGER);
        }
    }

    #[test]
    fn decoy_costs_as_much_as_a_new_hash_and_no_password_matches_it() {
        let decoy = PasswordHash::decoy();
        assert_eq!(decoy.cost, PasswordHash::new("pass word", SALT).expect("there is memory").cost);
        for wrong in ["", "pass word"] {
            assert!(!decoy.verify(wrong).expect("there is memory"));
        }
    }

    #[test]
    fn rejects_damaged_strings_as_damaged() {
        let is_damaged = |text: &str| match PasswordHash::from_phc(text) {
            Err(StoreError::Damaged(why)) => {
                assert!(!why.contains("9D4Gtn"), "the error shows the hash: {why}");
            }
            other => panic!("{text}: {other:?}"),
        };
        for len in (0..FOREIGN.len()).filter(|len| FOREIGN.is_char_boundary(*len)) {
            is_damaged(&FOREIGN[..len]);
        }
        for (from, to) in [
            ("argon2id", "argon2i"),
            ("argon2id", "argon2d"),
            ("$argon2id", "argon2id"),
            ("v=19", "v=16"),
            ("$v=19", ""),
            ("m=19456,t=2,p=1", "t=2,m=19456,p=1"),
            ("m=19456,t=2,p=1", "m=19456,t=2"),
            ("p=1", "p=1,keyid=AAAA"),
            // The same number in another form.
            ("m=19456", "m=019456"),
            ("t=2", "t=+2"),
            // Beyond the limits, from the least number to one that no integer holds.
            ("m=19456", "m=8"),
            ("m=19456", "m=19455"),
            ("m=19456", "m=262145"),
            ("m=19456", "m=4294967295"),
            ("m=19456", "m=4294967296"),
            ("t=2", "t=1"),
            ("t=2", "t=9"),
            ("t=2", "t=4294967295"),
            ("p=1", "p=0"),
            ("p=1", "p=9"),
            // Salt and hash: another length, padding, other alphabets, bits beyond the last octet.
            ("MDEyMzQ1Njc4OWFiY2RlZg", "MDEyMzQ1Njc4OWFiY2Rl"),
            ("MDEyMzQ1Njc4OWFiY2RlZg", "MDEyMzQ1Njc4OWFiY2RlZg=="),
            ("MDEyMzQ1Njc4OWFiY2RlZg", "MDEyMzQ1Njc4OWFiY2RlZh"),
            ("/kF8", "_kF8"),
            ("CmzY", "CmzZ"),
            ("CmzY", "CmzYAA"),
            ("CmzY", "CmzY "),
            ("CmzY", "CmzY$"),
        ] {
            let changed = FOREIGN.replacen(from, to, 1);
            assert_ne!(changed, FOREIGN);
            is_damaged(&changed);
        }
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", read(FOREIGN)), "[redacted]");
        assert_eq!(format!("{:#?}", Some(read(FOREIGN))), "Some(\n    [redacted],\n)");
    }
}
