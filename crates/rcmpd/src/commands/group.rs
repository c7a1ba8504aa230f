//! `rcmpd group …`

use super::{load, lookup};
use crate::cli::{ConfigArg, GroupCommand, ScopeArg};
use crate::output;
use crate::stores;
use account_store::fold;
use account_store::{AccountAdmin, Change, Group, GroupScope, Matches, Put, Query};
use dtyp::Sid;
use serde_json::{Value, json};
use std::sync::Arc;

const PAGE: usize = 1000;

pub(super) async fn run(command: GroupCommand) -> anyhow::Result<u8> {
    match command {
        GroupCommand::Add { name, scope, config, json } => {
            let store = store(&config).await?;
            let group = Group { name: name.clone(), sid: store.domain().sid, scope: self::scope(scope) };
            store.apply(&mut [Ok(Change::PutGroup(Put::New, group))].into_iter()).await?;
            show(&*store, &name, json.json).await
        }
        GroupCommand::Show { name, config, json } => show(&*store(&config).await?, &name, json.json).await,
        GroupCommand::List { text, config, json } => {
            list(&*store(&config).await?, text.as_deref(), json.json).await
        }
        GroupCommand::Set { name, rename, scope, add_member, remove_member, config, json } => {
            let store = store(&config).await?;
            let known = lookup::group(&*store, &name).await?;
            let group = known.sid;
            let mut changed = known.clone();
            if let Some(name) = rename {
                changed.name = name;
            }
            changed.scope = scope.map_or(changed.scope, self::scope);
            let name = changed.name.clone();
            let mut changes = Vec::new();
            if changed != known {
                changes.push(Change::PutGroup(Put::Existing, changed));
            }
            for member in &add_member {
                changes.push(Change::AddMember { group, member: lookup::member(&*store, member).await? });
            }
            for member in &remove_member {
                changes.push(Change::RemoveMember { group, member: lookup::member(&*store, member).await? });
            }
            store.apply(&mut changes.into_iter().map(Ok)).await?;
            show(&*store, &name, json.json).await
        }
        GroupCommand::Remove { name, config, json } => {
            let store = store(&config).await?;
            let group = lookup::group(&*store, &name).await?;
            store.apply(&mut [Ok(Change::RemoveGroup(group.sid))].into_iter()).await?;
            match json.json {
                true => output::json(&json!({ "removed": group.name })),
                false => output::line(&format!("Removed {}", group.name)),
            }
            Ok(0)
        }
    }
}

const fn scope(scope: ScopeArg) -> GroupScope {
    match scope {
        ScopeArg::Global => GroupScope::Global,
        ScopeArg::Universal => GroupScope::Universal,
        ScopeArg::Local => GroupScope::Local,
    }
}

async fn store(config: &ConfigArg) -> anyhow::Result<Arc<dyn AccountAdmin>> {
    Ok(stores::writable(&load(&config.config)?).await?.accounts)
}

fn group_json(group: &Group) -> Value {
    json!({ "name": group.name, "sid": group.sid.to_string(), "scope": group.scope })
}

/// The name behind a SID, for people.
async fn name_of(store: &dyn AccountAdmin, sid: &Sid) -> anyhow::Result<String> {
    if let Some(group) = store.group_by_sid(sid).await? {
        return Ok(group.name);
    }
    Ok(match store.find(&Query::Sid(*sid)).await? {
        Matches::One(record) => record.account.name.clone(),
        _ => String::new(),
    })
}

async fn show(store: &dyn AccountAdmin, name: &str, as_json: bool) -> anyhow::Result<u8> {
    let group = lookup::group(store, name).await?;
    let mut members = Vec::new();
    for sid in store.members(&group.sid).await? {
        members.push((name_of(store, &sid).await?, sid.to_string()));
    }
    if as_json {
        let mut value = group_json(&group);
        value["members"] = members.iter().map(|(name, sid)| json!({ "name": name, "sid": sid })).collect();
        output::json(&value);
        return Ok(0);
    }
    let scope = serde_json::to_value(group.scope)?;
    output::facts(&[
        ("group", group.name.clone()),
        ("sid", group.sid.to_string()),
        ("scope", scope.as_str().unwrap_or_default().to_owned()),
    ]);
    output::line("");
    output::table(&["member", "sid"], members.into_iter().map(|(name, sid)| vec![name, sid]).collect());
    Ok(0)
}

async fn list(store: &dyn AccountAdmin, text: Option<&str>, as_json: bool) -> anyhow::Result<u8> {
    let text = text.map(fold::casefold);
    let mut all = Vec::new();
    let mut after = 0;
    loop {
        let page = store.groups(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.sid.split_rid().map_or(u32::MAX, |(_, rid)| rid);
        let has_text =
            |group: &Group| text.as_ref().is_none_or(|text| fold::casefold(&group.name).contains(text));
        all.extend(page.into_iter().filter(has_text));
    }
    match as_json {
        true => output::json(&all.iter().map(group_json).collect()),
        false => {
            let rows = all.iter().map(|group| {
                let scope = serde_json::to_value(group.scope).unwrap_or_default();
                vec![group.name.clone(), group.sid.to_string(), scope.as_str().unwrap_or_default().to_owned()]
            });
            output::table(&["group", "sid", "scope"], rows.collect());
        }
    }
    Ok(0)
}
