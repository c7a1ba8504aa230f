//! Accounts of the local store as the master secret server sees them.

use crate::clock::now;
use account_store::{Account, AccountStore, Matches, NtHash, NtHashes, Query, Record, StoreError};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use rcmp_service::mapping::restriction;
use rpc_auth::{IdentitySource, PasswordMark, UserIdentity};
use sso_service::{Accounts, Administrators, BoxFuture, StoreFailed};
use std::sync::Arc;

/// The stores of local users.
#[derive(Clone)]
pub struct Stores {
    /// Their accounts.
    pub accounts: Arc<dyn AccountStore>,
    /// Their NT hashes.
    pub hashes: Arc<dyn NtHashes>,
}

/// Local users as they are now: what is withdrawn of a membership, an account or a password counts from the
/// next call.
pub(super) struct CurrentAccounts {
    stores: Option<Stores>,
    marks: PasswordMarks,
}

impl CurrentAccounts {
    pub(super) const fn new(stores: Option<Stores>, marks: PasswordMarks) -> Self {
        Self { stores, marks }
    }
}

/// Makes the marks of passwords.
#[derive(Clone)]
pub(super) struct PasswordMarks(hmac::Key);

impl PasswordMarks {
    /// Marks under a new key.
    pub(super) fn new() -> anyhow::Result<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Ok(Self(key.map_err(|_| anyhow::anyhow!("no random numbers"))?))
    }

    /// The mark of a password.
    pub(super) fn mark(&self, hash: &NtHash) -> PasswordMark {
        let mut mark = [0; 32];
        mark.copy_from_slice(hmac::sign(&self.0, hash.expose()).as_ref());
        PasswordMark(mark)
    }
}

impl Accounts for CurrentAccounts {
    fn refresh(
        &self,
        user: Arc<UserIdentity>,
    ) -> BoxFuture<'_, Result<Option<Arc<UserIdentity>>, StoreFailed>> {
        Box::pin(async move {
            if user.source != IdentitySource::LocalStore {
                return Ok(Some(user));
            }
            let (Some(stores), Some(sid)) = (&self.stores, user.sid) else { return Ok(None) };
            stores.accounts.refresh().await.map_err(|error| StoreFailed(error.to_string()))?;
            let record = match stores.accounts.find(&Query::Sid(sid)).await {
                Ok(Matches::One(record)) if is_usable(&record.account) => record,
                Ok(Matches::One(_) | Matches::None | Matches::Many(_)) => return Ok(None),
                Err(error) => return Err(StoreFailed(error.to_string())),
            };
            let hash = stores.hashes.nt_hash(&sid).await.map_err(|error| StoreFailed(error.to_string()))?;
            let password = hash.map(|hash| self.marks.mark(&hash));
            // An identity without a mark is of no password, so a removed one does not equal it.
            if password.is_none() || password != user.password {
                return Ok(None);
            }
            Ok(Some(Arc::new(identity(&record, &user.domain, password))))
        })
    }
}

/// Looks up the accounts of `local:` entries. Returns the names that no account has.
pub(super) async fn look_up(
    administrators: &mut Administrators,
    store: Option<&dyn AccountStore>,
) -> Result<Vec<String>, StoreError> {
    let mut unknown = Vec::new();
    for (name, sid) in administrators.local_accounts() {
        let found = match store {
            Some(store) => store.find(&Query::Name(name.to_owned())).await?,
            None => Matches::None,
        };
        *sid = match found {
            // An entry of another domain has no password here.
            Matches::One(record) if record.account.home_domain.is_none() => Some(record.account.sid),
            Matches::One(_) | Matches::None | Matches::Many(_) => None,
        };
        if sid.is_none() {
            unknown.push(name.to_owned());
        }
    }
    Ok(unknown)
}

/// Whether a local account may be used now. An entry of another domain is never used by a password of ours.
pub(super) fn is_usable(account: &Account) -> bool {
    restriction(account, now()).is_none() && account.home_domain.is_none()
}

/// The identity of a local account.
pub(super) fn identity(record: &Record, domain: &str, password: Option<PasswordMark>) -> UserIdentity {
    let account = &record.account;
    let groups = record.memberships.iter().map(|group| group.sid).chain(account.extra_sids.iter().copied());
    UserIdentity {
        name: account.name.clone(),
        domain: domain.to_owned(),
        sid: Some(account.sid),
        groups: groups.collect(),
        source: IdentitySource::LocalStore,
        password,
        delegated_by: Vec::new(),
        expires: None,
    }
}
