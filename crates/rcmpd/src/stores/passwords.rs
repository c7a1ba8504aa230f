//! The forms in which a store keeps a user's password: an argon2id hash, and an NT hash.

use account_store::{NtHash, NtHashes, PasswordHash, PasswordHashes, StoreError};
use anyhow::Context;
use dtyp::Sid;
use std::sync::Arc;

/// The passwords of the accounts of one store.
#[derive(Clone)]
pub struct Passwords {
    nt_hashes: Arc<dyn NtHashes>,
    password_hashes: Arc<dyn PasswordHashes>,
}

/// Which forms of a password an account has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordForms {
    /// For services that get the password itself.
    pub argon2id: bool,
    /// For NTLM.
    pub nt_hash: bool,
}

impl Passwords {
    pub(super) fn new(nt_hashes: Arc<dyn NtHashes>, password_hashes: Arc<dyn PasswordHashes>) -> Self {
        Self { nt_hashes, password_hashes }
    }

    /// Stores a password: its argon2id hash and, if `with_nt_hash`, its NT hash. Otherwise the account has no
    /// NT hash afterwards: it would be of a former password.
    pub async fn set(&self, sid: Sid, password: &str, with_nt_hash: bool) -> anyhow::Result<()> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).context("the operating system has no randomness")?;
        let hash = PasswordHash::new(password, salt)?;
        let nt_hash = with_nt_hash.then(|| NtHash::from_password(password));
        Ok(self.write(sid, nt_hash, Some(hash)).await?)
    }

    /// Stores the NT hash of a password that is not known here. The account has no argon2id hash afterwards:
    /// it would be of a former password.
    pub async fn set_nt_hash(&self, sid: Sid, hash: NtHash) -> Result<(), StoreError> {
        self.write(sid, Some(hash), None).await
    }

    /// Removes the NT hash, and leaves the argon2id hash.
    pub async fn remove_nt_hash(&self, sid: Sid) -> Result<(), StoreError> {
        self.nt_hashes.set_nt_hash(sid, None).await
    }

    /// Removes both forms.
    pub async fn remove(&self, sid: Sid) -> Result<(), StoreError> {
        self.write(sid, None, None).await
    }

    /// Which forms the account has.
    pub async fn forms(&self, sid: &Sid) -> Result<PasswordForms, StoreError> {
        Ok(PasswordForms {
            argon2id: self.password_hashes.password_hash(sid).await?.is_some(),
            nt_hash: self.nt_hashes.nt_hash(sid).await?.is_some(),
        })
    }

    /// The argon2id hash is last: its change is another revision of the accounts.
    async fn write(
        &self,
        sid: Sid,
        nt_hash: Option<NtHash>,
        hash: Option<PasswordHash>,
    ) -> Result<(), StoreError> {
        self.nt_hashes.set_nt_hash(sid, nt_hash).await?;
        self.password_hashes.set_password_hash(sid, hash).await
    }
}
