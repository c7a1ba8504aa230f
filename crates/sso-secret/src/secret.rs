//! The master secret, its public key id, and the secrets that a server or node holds at one time.

use crate::derive;
use crate::memory::{Locked, PageLock};
use serde::{Serialize, Serializer};
use std::fmt;
use std::sync::Arc;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Why bytes are no master secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NotASecret {
    /// [MS-SSP] 2.2.1 with the range of the IDL: exactly 16.
    #[error("a master secret has 16 octets, and this has {0}")]
    Length(usize),
    /// 16 zero octets are what a failed call returns.
    #[error("16 zero octets are no master secret: a failed call returns them")]
    Zero,
}

/// Exactly 16 secret octets. Clones share one locked page, which is wiped with the last of them.
#[derive(Clone)]
pub struct MasterSecret(Arc<Locked<{ MasterSecret::LEN }>>);

impl MasterSecret {
    /// Length in octets.
    pub const LEN: usize = 16;

    /// Draws a secret from the system's source of randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        loop {
            let secret = Self(Arc::new(Locked::fill(|bytes| getrandom::fill(bytes))?));
            if secret.expose() != &[0; Self::LEN] {
                return Ok(secret);
            }
        }
    }

    /// Takes octets from elsewhere: an existing server, or the wire. The caller wipes its own copy.
    pub fn from_octets(octets: &[u8]) -> Result<Self, NotASecret> {
        let octets: &[u8; Self::LEN] = octets.try_into().map_err(|_| NotASecret::Length(octets.len()))?;
        if octets.ct_eq(&[0; Self::LEN]).into() {
            return Err(NotASecret::Zero);
        }
        Ok(Self(Arc::new(Locked::copy(octets))))
    }

    /// The octets.
    pub fn expose(&self) -> &[u8; Self::LEN] {
        self.0.expose()
    }

    /// Whether its page is locked.
    pub fn page_lock(&self) -> PageLock {
        self.0.page_lock()
    }

    /// The public name of this secret, from which the secret cannot be found.
    pub fn key_id(&self) -> KeyId {
        KeyId(*derive(None, self.expose(), &[b"rcmpd master secret 1: key id"]))
    }

    /// A key of `N` octets for one use: HKDF-SHA256 with `salt`, and the concatenated `info`.
    pub(crate) fn derive<const N: usize>(&self, salt: &[u8], info: &[&[u8]]) -> Zeroizing<[u8; N]> {
        derive(Some(salt), self.expose(), info)
    }
}

/// In constant time.
impl PartialEq for MasterSecret {
    fn eq(&self, other: &Self) -> bool {
        self.expose().ct_eq(other.expose()).into()
    }
}

impl Eq for MasterSecret {}

impl fmt::Debug for MasterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Names a master secret: 8 octets of HKDF-SHA256 over it. Public.
///
/// The wire of [MS-SSP] carries 16 octets and no generation number, so a node cannot know the number. What is
/// sealed carries the key id instead. The server's status shows number and key id of each generation side by
/// side.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; KeyId::LEN]);

impl KeyId {
    /// Length in octets.
    pub const LEN: usize = 8;

    /// Reads 16 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut id = [0; Self::LEN];
        dtyp::read_hex(text.as_bytes(), &mut id)?;
        Some(Self(id))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&dtyp::hex(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The secrets that are in use at one time, newest first: the newest seals, each opens.
#[derive(Clone, Debug)]
pub struct Keyring(Vec<(KeyId, MasterSecret)>);

impl Keyring {
    /// One secret, without older ones.
    pub fn new(newest: MasterSecret) -> Self {
        Self(vec![(newest.key_id(), newest)])
    }

    /// Adds an older secret. One that is there already is not added again.
    pub fn with_older(mut self, older: MasterSecret) -> Self {
        let id = older.key_id();
        if self.get(id).is_none() {
            self.0.push((id, older));
        }
        self
    }

    /// What seals.
    pub fn newest(&self) -> (KeyId, &MasterSecret) {
        // INVARIANT: `new` puts one in, and none is removed.
        let (id, secret) = self.0.first().expect("a keyring is never empty");
        (*id, secret)
    }

    /// The secret of this name.
    pub fn get(&self, id: KeyId) -> Option<&MasterSecret> {
        self.0.iter().find(|(known, _)| *known == id).map(|(_, secret)| secret)
    }

    /// The names, newest first.
    pub fn key_ids(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.0.iter().map(|(id, _)| *id)
    }
}
