//! Passwords in UsernameTokens, checked against the accounts of the local store or by a domain controller.

use super::accounts::{Accounts, UNKNOWN, mark};
use super::domains::UserDomains;
use crate::clock::uptime;
use account_store::{PasswordHash, PasswordHashes, Record};
use audit_log::AuditLog;
use dcerpc::backoff::guessed_name;
use dcerpc_tokio::LogLimiter;
use prometheus_client::metrics::counter::Counter;
use serde_json::json;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tlsnego_service::password::{Found, PasswordStore};
use tlsnego_service::session::{Identity, StoreFailed};
use tokio::sync::Semaphore;
use tracing::{info, warn};
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
    slowed: Counter,
    limiter: LogLimiter,
}

impl UserPasswords {
    pub(super) fn new(
        local: Option<LocalPasswords>,
        domains: Arc<UserDomains>,
        audit: Arc<AuditLog>,
        slowed: Counter,
    ) -> Self {
        Self { local, domains, audit, lines: Mutex::default(), slowed, limiter: LogLimiter::default() }
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
    /// A local account.
    type Account = Local;

    /// A user of a domain has no revision: its controller does not say what has changed.
    async fn find(&self, name: &str) -> Result<Found<Local>, StoreFailed> {
        if let Some(user) = self.domains.user(name) {
            let guessed = vec![format!("domain {} name {}", user.at, guessed_name(user.name()))];
            return Ok(Found { account: Err(UNKNOWN), revision: None, guessed });
        }
        let account = match &self.local {
            Some(local) => local.find(name).await?,
            None => Err("no local accounts are configured"),
        };
        let user = name.rsplit_once('\\').map_or(name, |(_, user)| user);
        let mut guessed = vec![format!("local name {}", guessed_name(user))];
        guessed.extend(account.iter().map(|(record, _)| format!("local account {}", record.account.sid)));
        // An account that is gone, disabled or without a password has the revision 0.
        let revision = account.as_ref().map_or(0, |(_, mark)| *mark);
        Ok(Found { account, revision: Some(revision), guessed })
    }

    /// Each domain has its own, after the one of local accounts.
    fn queue(&self, name: &str) -> usize {
        self.domains.user(name).map_or(0, |user| user.at + 1)
    }

    async fn check(
        &self,
        name: &str,
        password: &str,
        account: Local,
    ) -> Result<Option<Identity>, StoreFailed> {
        let checked = match (self.domains.user(name), &self.local) {
            (Some(user), _) => self.domains.check(user, password).await?,
            (None, Some(local)) => local.check(account, password).await?.map_err(str::to_owned),
            (None, None) => Err("no local accounts are configured".to_owned()),
        };
        Ok(checked.inspect_err(|reason| self.refused(name, reason)).ok())
    }

    fn after(&self, time: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(time)
    }

    fn slowed(&self, name: &str, source: IpAddr) {
        self.slowed.inc();
        self.limiter.once("slowed", || {
            let user: String = name.chars().take(128).collect();
            warn!(
                user, %source,
                "Passwords of an account are guessed from an address: answers to it are delayed by 2 s"
            );
        });
    }
}

/// A local account with the [`mark`] of its password, or why its password is refused.
type Local = Result<(Arc<Record>, u64), &'static str>;

/// The accounts with a password.
pub(super) struct LocalPasswords {
    accounts: Accounts,
    hashes: Option<Arc<dyn PasswordHashes>>,
    /// Computations at once. A client that hangs up ends none.
    running: Arc<Semaphore>,
    /// Computations so far.
    computed: Counter,
}

impl LocalPasswords {
    pub(super) fn new(
        accounts: Accounts,
        hashes: Option<Arc<dyn PasswordHashes>>,
        parallel: usize,
        computed: Counter,
    ) -> Self {
        Self { accounts, hashes, running: Arc::new(Semaphore::new(parallel.max(1))), computed }
    }

    /// The account that a name means; otherwise what is missing, for the log.
    async fn find(&self, name: &str) -> Result<Local, StoreFailed> {
        let record = match self.accounts.named(name).await.map_err(StoreFailed)? {
            Ok(record) => record,
            Err(why) => return Ok(Err(why)),
        };
        let mark = self.accounts.mark(&record).await.map_err(|error| StoreFailed(error.to_string()))?;
        Ok(mark.map(|mark| (record, mark)).ok_or(NO_PASSWORD))
    }

    async fn hash(&self, found: &Local) -> Result<Result<PasswordHash, &'static str>, StoreFailed> {
        let (record, hashes) = match (found, &self.hashes) {
            (Ok((record, _)), Some(hashes)) => (record, hashes),
            (Ok(_), None) => return Ok(Err(NO_PASSWORD)),
            (Err(why), _) => return Ok(Err(why)),
        };
        let hash = hashes.password_hash(&record.account.sid).await;
        Ok(hash.map_err(|error| StoreFailed(error.to_string()))?.ok_or(NO_PASSWORD))
    }

    /// Whose password it is, or why it is refused.
    async fn check(
        &self,
        found: Local,
        password: &str,
    ) -> Result<Result<Identity, &'static str>, StoreFailed> {
        let hash = self.hash(&found).await?;
        let password = Zeroizing::new(password.to_owned());
        // argon2id takes tens of milliseconds of a core. An account that is not there takes them, too.
        let Ok(turn) = Arc::clone(&self.running).acquire_owned().await else {
            return Err(StoreFailed("the service stops".to_owned()));
        };
        self.computed.inc();
        let checked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let missing = hash.as_ref().err().copied();
            let is_right = hash.as_ref().unwrap_or(&PasswordHash::decoy()).verify(&password);
            let is_right = is_right.map_err(|error| StoreFailed(error.to_string()))?;
            let found = found.ok().zip(hash.ok()).filter(|_| is_right);
            let right = found.map(|((record, _), hash)| {
                Accounts::of_record(&record, Some(mark(&record.account.sid, &hash)))
            });
            Ok(right.ok_or(missing.unwrap_or("wrong_password")))
        });
        checked.await.unwrap_or_else(|error| Err(StoreFailed(error.to_string())))
    }
}
