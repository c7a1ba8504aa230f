//! Accounts of the local store as the master secret server sees them.

use crate::clock::now;
use account_store::{Account, AccountStore, Matches, Query, Record};
use rcmp_service::mapping::restriction;
use rpc_auth::{IdentitySource, UserIdentity};
use sso_service::{Accounts, BoxFuture, StoreFailed};
use std::sync::Arc;

/// Local users as they are now: a membership or account that is withdrawn counts from the next call.
pub(super) struct CurrentAccounts(pub(super) Option<Arc<dyn AccountStore>>);

impl Accounts for CurrentAccounts {
    fn refresh(
        &self,
        user: Arc<UserIdentity>,
    ) -> BoxFuture<'_, Result<Option<Arc<UserIdentity>>, StoreFailed>> {
        Box::pin(async move {
            if user.source != IdentitySource::LocalStore {
                return Ok(Some(user));
            }
            let (Some(store), Some(sid)) = (&self.0, user.sid) else { return Ok(None) };
            match store.find(&Query::Sid(sid)).await {
                Ok(Matches::One(record)) if is_usable(&record.account) => {
                    Ok(Some(Arc::new(identity(&record, &user.domain))))
                }
                Ok(Matches::One(_)) => Ok(None),
                Ok(Matches::None | Matches::Many(_)) => Ok(None),
                Err(error) => Err(StoreFailed(error.to_string())),
            }
        })
    }
}

/// Whether a local account may be used now. An entry of another domain is never used by a password of ours.
pub(super) fn is_usable(account: &Account) -> bool {
    restriction(account, now()).is_none() && account.home_domain.is_none()
}

/// The identity of a local account.
pub(super) fn identity(record: &Record, domain: &str) -> UserIdentity {
    let account = &record.account;
    let groups = record.memberships.iter().map(|group| group.sid).chain(account.extra_sids.iter().copied());
    UserIdentity {
        name: account.name.clone(),
        domain: domain.to_owned(),
        sid: Some(account.sid),
        groups: groups.collect(),
        source: IdentitySource::LocalStore,
        delegated_by: Vec::new(),
        expires: None,
    }
}
