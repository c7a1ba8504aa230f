//! Finding what a command names, and showing it.

use account_store::{
    Account, AccountAdmin, AccountFlags, AccountStore, Group, Matches, Query, Record, StoreError,
};
use anyhow::{Context, bail};
use dtyp::{FileTime, Sid};
use rcmp_service::explain::shell_path;
use serde_json::{Value, json};
use std::sync::Arc;

/// The one account of a name, SID or user principal name.
pub(super) async fn account(store: &dyn AccountStore, name: &str) -> anyhow::Result<Arc<Record>> {
    find_account(store, name).await?.with_context(|| {
        format!(
            "there is no account {name}; `rcmpd account list` lists them, and `rcmpd account add` makes one"
        )
    })
}

async fn find_account(store: &dyn AccountStore, name: &str) -> anyhow::Result<Option<Arc<Record>>> {
    let mut queries = vec![Query::Name(name.to_owned())];
    if let Ok(sid) = name.parse::<Sid>() {
        queries.push(Query::Sid(sid));
    }
    if name.contains('@') {
        queries.push(Query::UserPrincipalName(name.to_owned()));
    }
    for query in &queries {
        match store.find(query).await? {
            Matches::None => {}
            Matches::One(record) => return Ok(Some(record)),
            Matches::Many(names) => bail!("{name} names more than one account: {}", names.join(", ")),
        }
    }
    Ok(None)
}

/// The group of a name or SID, if there is one.
async fn find_group(store: &dyn AccountAdmin, name: &str) -> Result<Option<Group>, StoreError> {
    match name.parse::<Sid>() {
        Ok(sid) => store.group_by_sid(&sid).await,
        Err(_) => store.group_by_name(name).await,
    }
}

fn no_group(name: &str) -> String {
    match name.parse::<Sid>() {
        Ok(sid) => format!("there is no group {sid}; `rcmpd group list` lists them"),
        Err(_) => format!("there is no group {name}; `rcmpd group add {}` makes it", shell_path(name)),
    }
}

/// The group of a name or SID.
pub(super) async fn group(store: &dyn AccountAdmin, name: &str) -> anyhow::Result<Group> {
    find_group(store, name).await?.with_context(|| no_group(name))
}

/// The SID of an account or group.
pub(super) async fn member(store: &dyn AccountAdmin, name: &str) -> anyhow::Result<Sid> {
    if let Some(group) = find_group(store, name).await? {
        return Ok(group.sid);
    }
    match find_account(store, name).await? {
        Some(record) => Ok(record.account.sid),
        None => bail!(
            "there is no account and no group {name}; `rcmpd account list` and `rcmpd group list` list them"
        ),
    }
}

/// What forbids an account to be used, in words.
pub(super) fn state(account: &Account) -> String {
    let now: FileTime = std::time::SystemTime::now().into();
    let mut words = Vec::new();
    if account.flags.contains(AccountFlags::DISABLED) {
        words.push("disabled");
    }
    if account.flags.contains(AccountFlags::LOCKED) {
        words.push("locked");
    }
    if account.expires != FileTime::UNSET && account.expires <= now {
        words.push("expired");
    }
    if words.is_empty() { "enabled".into() } else { words.join(", ") }
}

/// An account as JSON.
pub(super) fn account_json(account: &Account) -> Value {
    json!({
        "name": account.name,
        "sid": account.sid.to_string(),
        "kind": account.kind,
        "state": state(account),
        "user_principal_name": account.user_principal_name,
        "service_principal_names": account.service_principal_names,
        "alt_security_identities": account.alt_security_identities,
        "flags": account.flags.0,
        "primary_group_id": account.primary_group_id,
        "expires": account.expires.to_string(),
        "created": account.created.to_string(),
        "password_last_set": account.password_last_set.to_string(),
        "profile": account.profile,
        "extra_sids": account.extra_sids.iter().map(Sid::to_string).collect::<Vec<_>>(),
        "home_domain": account.home_domain,
    })
}
