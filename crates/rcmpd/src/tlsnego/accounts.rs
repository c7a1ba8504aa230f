//! Accounts of SOAP clients, as they are at each call.

use crate::clock::now;
use crate::config::Config;
use account_store::{AccountStore, Domain, Matches, Query, Record, StoreError};
use dtyp::{FileTime, Sid};
use rcmp_service::mapping::restriction;
use serde::{Deserialize, Serialize};
use sidecar::{Assurance, Group, Identity};
use std::sync::Arc;
use tlsnego_service::session;

/// The accounts of the local store.
#[derive(Clone)]
pub(super) struct Accounts {
    store: Option<Arc<dyn AccountStore>>,
    domain: Domain,
}

/// An account of another domain, as the server of that domain described it when the session was opened.
#[derive(Serialize, Deserialize)]
struct Elsewhere {
    domain: String,
    account: String,
    upn: Option<String>,
    full_name: Option<String>,
    groups: Vec<String>,
    not_after: u64,
}

impl Accounts {
    pub(super) fn new(config: &Config, store: Option<Arc<dyn AccountStore>>) -> Self {
        Self { store, domain: config.domain.clone() }
    }

    /// The account that a user name means: `alice`, `CONTOSO\alice`, `contoso.example\alice` or a user principal
    /// name. Otherwise why there is none that may be used now.
    pub(super) async fn named(&self, name: &str) -> Result<Result<Arc<Record>, &'static str>, String> {
        let Some(store) = &self.store else { return Ok(Err(UNKNOWN)) };
        let query = match name.split_once('\\') {
            Some((domain, name)) if self.domain.is_called(domain) => Query::Name(name.to_owned()),
            Some(_) => return Ok(Err("another_domain")),
            None if name.contains('@') => Query::UserPrincipalName(name.to_owned()),
            None => Query::Name(name.to_owned()),
        };
        usable(store.find(&query).await)
    }

    /// An account as a session has it.
    pub(super) fn of_record(record: &Record) -> session::Identity {
        session::Identity { account: record.account.sid.to_string(), detail: Arc::default() }
    }

    /// An account that a certificate is mapped to, as a session has it.
    pub(super) fn of_identity(identity: &Identity) -> session::Identity {
        let elsewhere = (!identity.is_ours).then(|| Elsewhere {
            domain: identity.domain.clone(),
            account: identity.account.clone(),
            upn: identity.upn.clone(),
            full_name: identity.full_name.clone(),
            groups: identity.groups.iter().map(|group| group.sid.to_string()).collect(),
            not_after: identity.not_after.0,
        });
        let detail = elsewhere.and_then(|elsewhere| serde_json::to_vec(&elsewhere).ok()).unwrap_or_default();
        session::Identity { account: identity.sid.to_string(), detail: detail.into() }
    }

    /// The account of a session as it is now: a local one is looked up again, so what was withdrawn of its
    /// groups, or the account itself, counts from this call on. The error is for the log.
    pub(super) async fn current(&self, identity: &session::Identity) -> Result<Identity, String> {
        let sid: Sid = identity.account.parse().map_err(|_| "it has no SID".to_owned())?;
        if !identity.detail.is_empty() {
            return elsewhere(sid, &identity.detail);
        }
        let store = self.store.as_ref().ok_or("there is no account store")?;
        let record = usable(store.find(&Query::Sid(sid)).await)?.map_err(|why| format!("it is {why}"))?;
        Ok(local(&record, &self.domain))
    }
}

/// No account has the name.
const UNKNOWN: &str = "unknown";

/// The account of a look-up, or why it may not be used now. An entry of another domain is never used by a password
/// of ours.
fn usable(found: Result<Matches, StoreError>) -> Result<Result<Arc<Record>, &'static str>, String> {
    let record = match found.map_err(|error| error.to_string())? {
        Matches::One(record) => record,
        Matches::None => return Ok(Err(UNKNOWN)),
        Matches::Many(_) => return Ok(Err("ambiguous")),
    };
    if record.account.home_domain.is_some() {
        return Ok(Err("of_another_domain"));
    }
    Ok(match restriction(&record.account, now()) {
        None => Ok(record),
        Some(reason) => Err(reason.name()),
    })
}

fn local(record: &Record, domain: &Domain) -> Identity {
    let account = &record.account;
    let member =
        |membership: &account_store::Membership| Group { sid: membership.sid, name: membership.name.clone() };
    let extra = account.extra_sids.iter().map(|sid| Group { sid: *sid, name: None });
    Identity {
        domain: domain.netbios.clone(),
        is_ours: true,
        account: account.name.clone(),
        upn: account.user_principal_name.clone(),
        full_name: Some(account.profile.full_name.clone()).filter(|name| !name.is_empty()),
        sid: account.sid,
        groups: record.memberships.iter().map(member).chain(extra).collect(),
        method: None,
        assurance: Assurance::Unknown,
        policy_revision: 0,
        not_after: FileTime::NEVER,
    }
}

fn elsewhere(sid: Sid, detail: &[u8]) -> Result<Identity, String> {
    let Elsewhere { domain, account, upn, full_name, groups, not_after } =
        serde_json::from_slice(detail).map_err(|error| error.to_string())?;
    let groups = groups.iter().map(|sid| sid.parse().map(|sid| Group { sid, name: None }));
    let identity = Identity {
        domain,
        is_ours: false,
        account,
        upn,
        full_name,
        sid,
        groups: groups.collect::<Result<_, _>>().map_err(|_| "a group has no SID".to_owned())?,
        method: None,
        assurance: Assurance::Unknown,
        policy_revision: 0,
        not_after: FileTime(not_after),
    };
    match now() < identity.not_after {
        true => Ok(identity),
        false => Err("its certificate or its account has expired".to_owned()),
    }
}
