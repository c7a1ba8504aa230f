//! Passwords in UsernameTokens, checked against the accounts of the local store or by a domain controller.

use super::accounts::{Accounts, mark};
use super::domains::UserDomains;
use crate::clock::uptime;
use account_store::{PasswordHash, PasswordHashes, Record};
use audit_log::AuditLog;
use serde_json::json;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tlsnego_service::password::PasswordStore;
use tlsnego_service::session::{Identity, StoreFailed};
use tokio::sync::Semaphore;
use tracing::info;
use zeroize::Zeroizing;

/// The account has no argon2id hash.
const NO_PASSWORD: &str = "no_password_hash";

/// Lines about refused passwords: clients that prove nothing can cause any number of them.
#[derive(Default)]
struct Lines {
    since: Duration,
    written: u32,
    left_out: u64,
}

impl Lines {
    /// In an interval so many are written, and the others are counted.
    const INTERVAL: Duration = Duration::from_secs(60);
    const MAX: u32 = 20;
}

/// Who checks a password: the name that a client sends decides, and no answer of one leads to another.
pub(super) struct UserPasswords {
    /// None if local accounts may not be used.
    local: Option<LocalPasswords>,
    domains: Arc<UserDomains>,
    audit: Arc<AuditLog>,
    lines: Mutex<Lines>,
}

impl UserPasswords {
    pub(super) fn new(
        local: Option<LocalPasswords>,
        domains: Arc<UserDomains>,
        audit: Arc<AuditLog>,
    ) -> Self {
        Self { local, domains, audit, lines: Mutex::default() }
    }

    /// Says why a password was refused, in the log and the audit log.
    fn refused(&self, name: &str, reason: &str) {
        let now = uptime();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.since + Lines::INTERVAL <= now {
            let before = std::mem::replace(&mut *lines, Lines { since: now, ..Lines::default() });
            if before.left_out > 0 {
                info!(count = before.left_out, "More passwords were refused before");
                self.audit.note(None, &json!({ "event": "passwords_refused", "count": before.left_out }));
            }
        }
        if lines.written == Lines::MAX {
            lines.left_out += 1;
            return;
        }
        lines.written += 1;
        drop(lines);
        let user: String = name.chars().take(128).collect();
        let advice = (reason == NO_PASSWORD)
            .then_some("set the password again: rcmpd account set NAME --password-file FILE");
        info!(user, reason, advice, "Password refused");
        self.audit.note(None, &json!({ "event": "password_refused", "user": user, "reason": reason }));
    }
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
        let checked = match (self.domains.user(name), &self.local) {
            (Some(user), _) => self.domains.check(user, password).await?,
            (None, Some(local)) => local.check(name, password).await?.map_err(str::to_owned),
            (None, None) => Err("no local accounts are configured".to_owned()),
        };
        Ok(checked.inspect_err(|reason| self.refused(name, reason)).ok())
    }
}

/// The accounts with a password.
pub(super) struct LocalPasswords {
    accounts: Accounts,
    hashes: Option<Arc<dyn PasswordHashes>>,
    /// Computations at once. A client that hangs up ends none.
    running: Arc<Semaphore>,
}

impl LocalPasswords {
    pub(super) fn new(accounts: Accounts, hashes: Option<Arc<dyn PasswordHashes>>, parallel: usize) -> Self {
        Self { accounts, hashes, running: Arc::new(Semaphore::new(parallel.max(1))) }
    }

    /// The account that a name means, and its hash; otherwise which is missing, for the log.
    async fn find(
        &self,
        name: &str,
    ) -> Result<Result<(Arc<Record>, PasswordHash), &'static str>, StoreFailed> {
        let record = match self.accounts.named(name).await.map_err(StoreFailed)? {
            Ok(record) => record,
            Err(why) => return Ok(Err(why)),
        };
        let Some(hashes) = &self.hashes else { return Ok(Err(NO_PASSWORD)) };
        let hash = hashes.password_hash(&record.account.sid).await;
        let hash = hash.map_err(|error| StoreFailed(error.to_string()))?;
        Ok(hash.map(|hash| (record, hash)).ok_or(NO_PASSWORD))
    }

    /// Of the account and its hash. An account that is gone, disabled or without a password has the revision 0.
    async fn revision(&self, name: &str) -> Result<Option<u64>, StoreFailed> {
        let Ok((record, hash)) = self.find(name).await? else { return Ok(Some(0)) };
        Ok(Some(mark(&record, &hash)))
    }

    /// Whose password it is, or why it is refused.
    async fn check(&self, name: &str, password: &str) -> Result<Result<Identity, &'static str>, StoreFailed> {
        let found = self.find(name).await?;
        let password = Zeroizing::new(password.to_owned());
        // argon2id takes tens of milliseconds of a core. An account that is not there takes them, too.
        let Ok(turn) = Arc::clone(&self.running).acquire_owned().await else {
            return Err(StoreFailed("the service stops".to_owned()));
        };
        let checked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let missing = found.as_ref().err().copied();
            let (record, hash) = found.ok().unzip();
            let mark = record.as_deref().zip(hash.as_ref()).map(|(record, hash)| mark(record, hash));
            let is_right = hash.unwrap_or_else(PasswordHash::decoy).verify(&password);
            let is_right = is_right.map_err(|error| StoreFailed(error.to_string()))?;
            let right = record.filter(|_| is_right).map(|record| Accounts::of_record(&record, mark));
            Ok(right.ok_or(missing.unwrap_or("wrong_password")))
        });
        checked.await.unwrap_or_else(|error| Err(StoreFailed(error.to_string())))
    }
}
