//! Passwords in UsernameTokens, checked against the accounts of the local store or by a domain controller.

use super::accounts::Accounts;
use super::domains::UserDomains;
use account_store::{PasswordHash, PasswordHashes, Record};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tlsnego_service::password::PasswordStore;
use tlsnego_service::session::{Identity, StoreFailed};
use zeroize::Zeroizing;

/// Who checks a password: the name that a client sends decides, and no answer of one leads to another.
pub(super) struct UserPasswords {
    /// None if local accounts may not be used.
    pub(super) local: Option<LocalPasswords>,
    pub(super) domains: Arc<UserDomains>,
}

impl PasswordStore for UserPasswords {
    /// None for a user of a domain: its controller does not say what has changed.
    async fn revision(&self, name: &str) -> Result<Option<u64>, StoreFailed> {
        match &self.local {
            _ if self.domains.user(name).is_some() => Ok(None),
            Some(local) => local.revision(name).await,
            None => Ok(Some(0)),
        }
    }

    /// Each domain has its own, after the one of local accounts.
    fn queue(&self, name: &str) -> usize {
        self.domains.user(name).map_or(0, |user| user.at + 1)
    }

    async fn check(&self, name: &str, password: &str) -> Result<Option<Identity>, StoreFailed> {
        match (self.domains.user(name), &self.local) {
            (Some(user), _) => self.domains.check(user, password).await,
            (None, Some(local)) => local.check(name, password).await,
            (None, None) => Ok(None),
        }
    }
}

/// The accounts with a password.
pub(super) struct LocalPasswords {
    accounts: Accounts,
    hashes: Option<Arc<dyn PasswordHashes>>,
}

impl LocalPasswords {
    pub(super) fn new(accounts: Accounts, hashes: Option<Arc<dyn PasswordHashes>>) -> Self {
        Self { accounts, hashes }
    }

    /// The account that a name means, and its hash; none if either is missing.
    async fn find(&self, name: &str) -> Result<Option<(Arc<Record>, PasswordHash)>, StoreFailed> {
        let (Some(hashes), Some(record)) =
            (&self.hashes, self.accounts.named(name).await.map_err(StoreFailed)?)
        else {
            return Ok(None);
        };
        let hash = hashes.password_hash(&record.account.sid).await;
        let hash = hash.map_err(|error| StoreFailed(error.to_string()))?;
        Ok(hash.map(|hash| (record, hash)))
    }

    /// Of the account and its hash. An account that is gone, disabled or without a password has the revision 0.
    async fn revision(&self, name: &str) -> Result<Option<u64>, StoreFailed> {
        let Some((record, hash)) = self.find(name).await? else { return Ok(Some(0)) };
        let mut digest = Sha256::new();
        digest.update(record.account.sid.to_string());
        digest.update(hash.to_phc().as_bytes());
        let digest: [u8; 32] = digest.finalize().into();
        let (start, _) = digest.as_chunks::<8>();
        Ok(Some(u64::from_le_bytes(start[0]) | 1))
    }

    async fn check(&self, name: &str, password: &str) -> Result<Option<Identity>, StoreFailed> {
        let found = self.find(name).await?;
        let password = Zeroizing::new(password.to_owned());
        // argon2id takes tens of milliseconds of a core. An account that is not there takes them, too.
        let checked = tokio::task::spawn_blocking(move || {
            let (record, hash) = found.unzip();
            let is_right = hash.unwrap_or_else(PasswordHash::decoy).verify(&password);
            let is_right = is_right.map_err(|error| StoreFailed(error.to_string()))?;
            Ok(record.filter(|_| is_right).map(|record| Accounts::of_record(&record)))
        });
        checked.await.unwrap_or_else(|error| Err(StoreFailed(error.to_string())))
    }
}
