//! Secrets at rest: sealed under a key file, each together with the row it stands in.
//!
//! AES-256-GCM-SIV (RFC 8452) under a key derived for this purpose alone; the associated data are all other
//! columns of the row. A secret in another row, or in a row whose name, flags, scopes or times were changed
//! without the key, does not open: [`StoreError::Damaged`]. A whole row put back as it once was does open.
//!
//! The NT hash and the password hash of a user are sealed in the same way, each kind under another derived
//! key, together with the SID, the name, the flags and the expiry of the account.

use crate::account::Account;
use crate::columns::damaged;
use crate::file_access::{FileAccess, write_new};
use crate::machines::{Machine, NtHash, Secrets};
use crate::password_hashes::PasswordHash;
use crate::store::StoreError;
use aes_gcm_siv::aead::{AeadInOut, KeyInit};
use aes_gcm_siv::{Aes256GcmSiv, Nonce, Tag};
use hkdf::Hkdf;
use sha2::Sha256;
use std::io::Read;
use std::path::Path;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// The contents of a key file: 32 random bytes, from which every key is derived.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SealingKey([u8; SealingKey::LEN]);

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl SealingKey {
    /// Length of a key file in bytes.
    pub const LEN: usize = 32;

    /// Takes the bytes.
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Makes a key file that only its owner may read. A file that exists is never touched:
    /// [`StoreError::Refused`].
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                StoreError::Refused(format!("key file {} exists already", path.display()))
            }
            _ => StoreError::Unavailable(format!("key file {}: {error}", path.display())),
        };
        let mut key = Self([0; Self::LEN]);
        getrandom::fill(&mut key.0)
            .map_err(|error| StoreError::Unavailable(format!("random numbers: {error}")))?;
        write_new(path, &key.0, 0o600).map_err(failed)?;
        Ok(key)
    }

    /// Reads a key file. One that every user may read, or of another length, is [`StoreError::Unavailable`]. A
    /// group may share it: Kubernetes gives a Secret to the group of a pod.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let unusable = |why: String| StoreError::Unavailable(format!("key file {}: {why}", path.display()));
        let mut file = FileAccess::Group
            .open(path)
            .map_err(|error| StoreError::Unavailable(format!("key file {} {error}", path.display())))?;
        let metadata = file.metadata().map_err(|error| unusable(error.to_string()))?;
        if !metadata.is_file() || metadata.len() != Self::LEN as u64 {
            return Err(unusable(format!("not a file of {} bytes", Self::LEN)));
        }
        let mut key = Self([0; Self::LEN]);
        file.read_exact(&mut key.0).map_err(|error| unusable(error.to_string()))?;
        Ok(key)
    }

    /// HKDF-SHA256 (RFC 5869) without salt: the root is random already.
    fn derive<const N: usize>(&self, purpose: &str) -> Zeroizing<[u8; N]> {
        let mut key = Zeroizing::new([0; N]);
        // INVARIANT: N is far below the 255 hashes that HKDF gives.
        Hkdf::<Sha256>::new(None, &self.0)
            .expand(purpose.as_bytes(), key.as_mut())
            .expect("the key is short");
        key
    }

    /// What seals rows under this key, whichever key a store was sealed with.
    pub fn new_seal(&self) -> Seal {
        let check = self.derive::<16>("rcmpd account store: which key");
        let key = self.derive::<32>("rcmpd account store: machine secrets");
        let of_users = |kind: UserSecretKind| {
            let key = self.derive::<32>(&format!("rcmpd account store: {} of users", kind.plural()));
            Aes256GcmSiv::new((&*key).into())
        };
        Seal {
            cipher: Aes256GcmSiv::new((&*key).into()),
            nt_hashes: of_users(UserSecretKind::NtHash),
            password_hashes: of_users(UserSecretKind::PasswordHash),
            channels: Aes256GcmSiv::new(
                (&*self.derive::<32>("rcmpd account store: channels of servers")).into(),
            ),
            places: self.derive("rcmpd account store: places of challenges"),
            check: *check,
        }
    }
}

/// What is answered if a store was opened without its key file.
pub fn no_key() -> StoreError {
    StoreError::Unavailable(
        "without the key file of the store, secrets of machines and passwords of users cannot be used: name the key file"
            .to_owned(),
    )
}

/// A kind of secret that a user may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserSecretKind {
    /// The NT hash of the password.
    NtHash,
    /// The argon2id hash of the password.
    PasswordHash,
}

impl UserSecretKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::NtHash, Self::PasswordHash];

    /// The table with the secrets of this kind: `rid`, `sealed`.
    pub const fn table(self) -> &'static str {
        match self {
            Self::NtHash => "nt_hash",
            Self::PasswordHash => "password_hash",
        }
    }

    /// What one is called in errors.
    const fn name(self) -> &'static str {
        match self {
            Self::NtHash => "NT hash",
            Self::PasswordHash => "password hash",
        }
    }

    /// What names the derived key. It can never be changed.
    const fn plural(self) -> &'static str {
        match self {
            Self::NtHash => "NT hashes",
            Self::PasswordHash => "password hashes",
        }
    }

    /// The first octet of the associated data; that of a machine is 1.
    const fn label(self) -> u8 {
        match self {
            Self::NtHash => 2,
            Self::PasswordHash => 3,
        }
    }

    /// The option of `rcmpd account set` that removes one.
    const fn removal(self) -> &'static str {
        match self {
            Self::NtHash => "--no-nt-hash",
            Self::PasswordHash => "--no-password",
        }
    }
}

/// A secret of a user as it is sealed.
pub trait UserSecret: Sized {
    /// Which kind it is.
    const KIND: UserSecretKind;

    /// What is sealed.
    fn to_plain(&self) -> Zeroizing<Vec<u8>>;

    /// What was opened.
    fn from_plain(plain: &[u8]) -> Result<Self, StoreError>;
}

impl UserSecret for NtHash {
    const KIND: UserSecretKind = UserSecretKind::NtHash;

    fn to_plain(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.expose().to_vec())
    }

    fn from_plain(plain: &[u8]) -> Result<Self, StoreError> {
        plain.try_into().map(Self::new).map_err(|_| damaged("a sealed NT hash"))
    }
}

impl UserSecret for PasswordHash {
    const KIND: UserSecretKind = UserSecretKind::PasswordHash;

    fn to_plain(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.to_phc().as_bytes().to_vec())
    }

    fn from_plain(plain: &[u8]) -> Result<Self, StoreError> {
        Self::from_phc(std::str::from_utf8(plain).map_err(|_| damaged("a sealed password hash"))?)
    }
}

/// The secrets to write with `machine`: those that are given, else those it has, else an unknown one. `None`
/// if the row `old` has both already: sealing is random, so the same secrets again would look like others.
pub fn secrets_to_write(
    old: Result<Option<(Machine, Secrets)>, StoreError>,
    machine: &Machine,
    given: Option<Secrets>,
) -> Result<Option<Secrets>, StoreError> {
    let old = match old {
        // New secrets are the way out of damaged ones.
        Err(StoreError::Damaged(_)) if given.is_some() => None,
        old => old?,
    };
    let secrets = match (given, &old) {
        (Some(secrets), _) => secrets,
        (None, Some((_, secrets))) => secrets.clone(),
        (None, None) => Secrets::first(NtHash::unknown()?, dtyp::FileTime::UNSET),
    };
    let is_same = old.is_some_and(|old| old.0 == *machine && old.1 == secrets);
    Ok((!is_same).then_some(secrets))
}

/// Whether the secrets of an account have to be sealed again for what it becomes.
pub fn needs_reseal(old: &Account, new: &Account) -> bool {
    // The kinds differ in their label only.
    let data = |account| account_data(UserSecretKind::NtHash, account);
    data(old) != data(new)
}

/// Seals and opens the secrets of machines, and those of users, each kind under a key of its own.
pub struct Seal {
    cipher: Aes256GcmSiv,
    nt_hashes: Aes256GcmSiv,
    password_hashes: Aes256GcmSiv,
    channels: Aes256GcmSiv,
    places: Zeroizing<[u8; 32]>,
    check: [u8; 16],
}

/// The current secret, whether there is a previous one, and that or zeros.
const PLAIN_LEN: usize = 16 + 1 + 16;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;

impl Seal {
    /// Whether a store with this check was sealed under the same key.
    pub fn has_check(&self, check: &[u8]) -> bool {
        check.ct_eq(&self.check).into()
    }

    /// What tells this key from others, and nothing about it. A store keeps it beside the secrets.
    pub const fn check(&self) -> &[u8; 16] {
        &self.check
    }

    /// The secrets of a machine: nonce, ciphertext, tag.
    pub fn seal(&self, machine: &Machine, secrets: &Secrets) -> Result<Vec<u8>, StoreError> {
        let mut plain = Zeroizing::new([0; PLAIN_LEN]);
        plain[..16].copy_from_slice(secrets.current.expose());
        if let Some(previous) = &secrets.previous {
            plain[16] = 1;
            plain[17..].copy_from_slice(previous.expose());
        }
        encrypt(&self.cipher, plain.as_mut_slice(), &associated_data(machine, secrets.current_since))
    }

    /// Opens what [`Self::seal`] sealed for the same row.
    pub fn open(
        &self,
        machine: &Machine,
        current_since: dtyp::FileTime,
        sealed: &[u8],
    ) -> Result<Secrets, StoreError> {
        let broken = || {
            StoreError::Damaged(format!(
                "the sealed secret of machine {:?} does not belong to its row",
                machine.name
            ))
        };
        let data = associated_data(machine, current_since);
        let plain = decrypt(&self.cipher, sealed, &data).filter(|plain| plain.len() == PLAIN_LEN);
        let plain = plain.ok_or_else(broken)?;
        let hash = |at: usize| plain[at..].first_chunk::<16>().copied().map(NtHash::new);
        Ok(Secrets {
            current: hash(0).ok_or_else(broken)?,
            current_since,
            previous: match plain[16] {
                0 => None,
                1 => hash(17),
                _ => return Err(broken()),
            },
        })
    }
}

impl Seal {
    /// A secret of a user, which is overwritten: nonce, ciphertext, tag.
    pub fn seal_of_user(
        &self,
        kind: UserSecretKind,
        account: &Account,
        secret: &mut [u8],
    ) -> Result<Vec<u8>, StoreError> {
        encrypt(self.cipher_of(kind), secret, &account_data(kind, account))
    }

    /// Opens what [`Self::seal_of_user`] sealed for the account as it is now.
    pub fn open_of_user(
        &self,
        kind: UserSecretKind,
        account: &Account,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        decrypt(self.cipher_of(kind), sealed, &account_data(kind, account)).ok_or_else(|| {
            StoreError::Damaged(format!(
                "the sealed {0} of account {1:?} ({2}) does not belong to it: its name, flags or expiry were changed without the key; \
                 remove the {0} (rcmpd account set NAME {3}), then set the password again",
                kind.name(),
                account.name,
                account.sid,
                kind.removal()
            ))
        })
    }

    /// Something of a secure channel that servers share, which is overwritten: nonce, ciphertext, tag. `row`
    /// is all that the row has beside it, and begins with the name of the table.
    pub fn seal_shared(&self, row: &[u8], secret: &mut [u8]) -> Result<Vec<u8>, StoreError> {
        encrypt(&self.channels, secret, row)
    }

    /// Opens what [`Self::seal_shared`] sealed for the same row. `None` for anything else.
    pub fn open_shared(&self, row: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        decrypt(&self.channels, sealed, row)
    }

    /// A number for a text. It is the same under one key, and cannot be predicted without that key.
    pub fn place_of(&self, text: &[u8]) -> u64 {
        let mut number = [0; 8];
        // INVARIANT: eight octets are fewer than HKDF gives, and the key is as long as a hash.
        Hkdf::<Sha256>::from_prk(&*self.places)
            .expect("the key is long enough")
            .expand(text, &mut number)
            .expect("the number is short");
        u64::from_le_bytes(number)
    }

    const fn cipher_of(&self, kind: UserSecretKind) -> &Aes256GcmSiv {
        match kind {
            UserSecretKind::NtHash => &self.nt_hashes,
            UserSecretKind::PasswordHash => &self.password_hashes,
        }
    }
}

/// Encrypts in place. Nonce, ciphertext, tag.
fn encrypt(cipher: &Aes256GcmSiv, plain: &mut [u8], associated: &[u8]) -> Result<Vec<u8>, StoreError> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce)
        .map_err(|error| StoreError::Unavailable(format!("random numbers: {error}")))?;
    let tag = cipher
        .encrypt_inout_detached(&Nonce::from(nonce), associated, (&mut *plain).into())
        .map_err(|_| StoreError::Refused("the row is too long to seal".to_owned()))?;
    Ok([nonce.as_slice(), plain, tag.as_slice()].concat())
}

/// What [`encrypt`] sealed with the same associated data; `None` for anything else.
fn decrypt(cipher: &Aes256GcmSiv, sealed: &[u8], associated: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let (sealed, tag) = rest.split_last_chunk::<TAG_LEN>()?;
    let mut plain = Zeroizing::new(sealed.to_vec());
    cipher
        .decrypt_inout_detached(
            &Nonce::from(*nonce),
            associated,
            plain.as_mut_slice().into(),
            &Tag::from(*tag),
        )
        .ok()?;
    Some(plain)
}

/// What decides whether the account may log on, and which one it is.
fn account_data(kind: UserSecretKind, account: &Account) -> Vec<u8> {
    let mut data = vec![kind.label()];
    data.extend(account.flags.0.to_le_bytes());
    data.extend(account.expires.0.to_le_bytes());
    data.extend(account.sid.to_string().into_bytes());
    data.push(0);
    data.extend(account.name.as_bytes());
    data
}

/// Every column of the row but the sealed one, each with its length.
fn associated_data(machine: &Machine, current_since: dtyp::FileTime) -> Vec<u8> {
    let Machine { name, sid, kind, enabled, rcmp, domains, groups } = machine;
    let mut data = vec![1, u8::from(*enabled), u8::from(*rcmp)];
    data.extend(kind.value().to_le_bytes());
    data.extend(current_since.0.to_le_bytes());
    let mut text = |text: &str| {
        data.extend((text.len() as u64).to_le_bytes());
        data.extend(text.as_bytes());
    };
    text(name);
    text(&sid.to_string());
    text(&domains.len().to_string());
    domains.iter().for_each(|domain| text(domain));
    groups.iter().for_each(|group| text(&group.to_string()));
    data
}
