//! `rcmpd account …`

use super::{UNUSABLE, failed, load, lookup};
use crate::cli::{AccountChanges, AccountCommand, AccountFields, ConfigArg};
use crate::clock::now;
use crate::config::SecretRef;
use crate::output;
use crate::stores::{self, PasswordForms, Passwords};
use account_store::admin::each_account;
use account_store::fold::casefold;
use account_store::unmatchable::unmatchable;
use account_store::{
    Account, AccountAdmin, AccountFlags, AccountStore, AltSecurityIdentity, Change, GroupScope, Matches,
    NtHash, Put, Query, Record, Unmatchable,
};
use anyhow::bail;
use dtyp::Sid;
use pem_file::input;
use rcmp_service::explain::shell_quoted;
use serde_json::{Value, json};
use std::io::{self, IsTerminal};
use std::path::Path;
use zeroize::Zeroizing;

pub(super) async fn run(command: AccountCommand) -> anyhow::Result<u8> {
    match command {
        AccountCommand::Add { name, fields, config, json } => {
            check_name(&name)?;
            let password = PasswordChange::read(&fields, false)?;
            let passwords = match &password {
                Some(_) => Some(passwords(&config).await?),
                None => None,
            };
            let writable = store(&config).await?;
            let store = &*writable.accounts;
            // Before the account is compared with others, among which is this one.
            if let Matches::One(_) = store.find(&Query::Name(name.clone())).await? {
                bail!("{name} exists already; `rcmpd account set {}` changes it", shell_quoted(&name));
            }
            let account = new_account(store, &name);
            write(store, Put::New, account, *fields, AccountChanges::default()).await?;
            if let (Some(change), Some(passwords)) = (password, passwords) {
                change.apply(&passwords, lookup::account(store, &name).await?.account.sid).await?;
            }
            show(&writable, &name, json.json).await
        }
        AccountCommand::Set { name, rename, fields, changes, config, json } => {
            let password = PasswordChange::read(&fields, changes.no_password)?;
            let passwords = match &password {
                Some(_) => Some(passwords(&config).await?),
                None => None,
            };
            let writable = store(&config).await?;
            let store = &*writable.accounts;
            let record = lookup::account(store, &name).await?;
            let mut account = record.account.clone();
            if let Some(name) = rename {
                check_name(&name)?;
                if account.name.ends_with('$') && writable.machines.machine(&account.name).await?.is_some() {
                    bail!(
                        "{} is the computer of a machine account and cannot be renamed: add one with the new name, and remove this one",
                        account.name
                    );
                }
                account.name = name;
            }
            let name = account.name.clone();
            let sid = account.sid;
            write(store, Put::Existing, account, *fields, changes).await?;
            if let (Some(change), Some(passwords)) = (password, passwords) {
                change.apply(&passwords, sid).await?;
            }
            show(&writable, &name, json.json).await
        }
        AccountCommand::Show { name, config, json } => show(&store(&config).await?, &name, json.json).await,
        AccountCommand::List { text, config, json } => {
            list(&*store(&config).await?.accounts, text.as_deref(), json.json).await
        }
        AccountCommand::Remove { name, config, json } => {
            let store = store(&config).await?.accounts;
            let record = lookup::account(&*store, &name).await?;
            store.apply(&mut [Ok(Change::RemoveAccount(record.account.sid))].into_iter()).await?;
            match json.json {
                true => output::json(&json!({ "removed": record.account.name })),
                false => output::line(&format!("Removed {}", record.account.name)),
            }
            Ok(0)
        }
    }
}

async fn store(config: &ConfigArg) -> anyhow::Result<stores::Writable> {
    stores::writable(&load(&config.config)?).await
}

/// Refuses a user principal name, and a name with its domain: the account would have another name than was
/// meant.
fn check_name(name: &str) -> anyhow::Result<()> {
    if let Some((_, own)) = name.split_once('\\') {
        bail!("{name}: the name of an account has no domain in front: {}", shell_quoted(own));
    }
    let Some((start, _)) = name.split_once('@') else { return Ok(()) };
    let (start, upn) = (shell_quoted(if start.is_empty() { "NAME" } else { start }), shell_quoted(name));
    bail!(
        "{name}: the name of an account has no @; for a user principal name: rcmpd account add {start} --upn {upn}"
    )
}

/// What a command changes of a password.
enum PasswordChange {
    Password { password: Zeroizing<String>, with_nt_hash: bool },
    NtHash(NtHash),
    NoNtHash,
    NoPassword,
}

impl PasswordChange {
    /// Reads the options, and the file that they name.
    fn read(fields: &AccountFields, no_password: bool) -> anyhow::Result<Option<Self>> {
        let standard_input = fields.password_stdin.then_some(Path::new("-"));
        if let Some(path) = fields.password_file.as_deref().or(standard_input) {
            let password = match input::is_standard(path) && io::stdin().is_terminal() {
                true => output::ask_new_password().map_err(|error| failed(UNUSABLE, format!("{error:#}")))?,
                false => secret(path)?,
            };
            return Ok(Some(Self::Password { password, with_nt_hash: !fields.no_nt_hash }));
        }
        if let Some(path) = &fields.nt_hash_file {
            let mut hash = [0; 16];
            dtyp::read_hex(secret(path)?.as_bytes(), &mut hash).ok_or_else(|| {
                failed(UNUSABLE, format!("{}: an NT hash has 32 hexadecimal digits", path.display()))
            })?;
            return Ok(Some(Self::NtHash(NtHash::new(hash))));
        }
        Ok(match (no_password, fields.no_nt_hash) {
            (true, _) => Some(Self::NoPassword),
            (false, true) => Some(Self::NoNtHash),
            (false, false) => None,
        })
    }

    async fn apply(self, passwords: &Passwords, sid: Sid) -> anyhow::Result<()> {
        match self {
            Self::Password { password, with_nt_hash } => passwords.set(sid, &password, with_nt_hash).await?,
            Self::NtHash(hash) => passwords.set_nt_hash(sid, hash).await?,
            Self::NoNtHash => passwords.remove_nt_hash(sid).await?,
            Self::NoPassword => passwords.remove(sid).await?,
        }
        Ok(())
    }
}

fn secret(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    SecretRef::File(path.to_owned()).read().map_err(|error| failed(UNUSABLE, error))
}

/// Where the passwords of accounts are. It is opened before anything is written.
async fn passwords(config: &ConfigArg) -> anyhow::Result<Passwords> {
    stores::passwords(&load(&config.config)?).await
}

/// An account with nothing but a name. The domain's own SID stands for the next free one.
pub(super) fn new_account(store: &dyn AccountStore, name: &str) -> Account {
    Account { created: now(), ..Account::new(name, store.domain().sid) }
}

/// Writes an account with the fields that were given, then its memberships, in one change each.
async fn write(
    store: &dyn AccountAdmin,
    put: Put,
    mut account: Account,
    fields: AccountFields,
    changes: AccountChanges,
) -> anyhow::Result<()> {
    if let Some(upn) = fields.upn {
        if !upn.is_empty() && !upn.contains('@') {
            output::warning(&format!(
                "{upn} is no user principal name, which has a domain after an @: no certificate has this one"
            ));
        }
        account.user_principal_name = (!upn.is_empty()).then_some(upn);
    }
    if let Some(domain) = fields.home_domain {
        account.home_domain = (!domain.is_empty()).then(|| domain.to_uppercase());
    }
    if let Some(full_name) = fields.full_name {
        account.profile.full_name = full_name;
    }
    if let Some(mail) = fields.mail {
        account.profile.mail = mail;
    }
    for mapping in &fields.add_mapping {
        if let Err(error) = mapping.parse::<AltSecurityIdentity>() {
            let why = match mapping.contains('…') {
                true => "… is a placeholder: use the whole value, which `rcmpd explain` prints".to_owned(),
                false => unmatchable(mapping).unwrap_or_else(|| error.to_string()),
            };
            bail!("{mapping}: this maps nothing: {why}");
        }
    }
    edit(
        &mut account.service_principal_names,
        fields.add_spn,
        &changes.remove_spn,
        "service principal name",
    )?;
    edit(&mut account.alt_security_identities, fields.add_mapping, &changes.remove_mapping, "mapping")?;
    for (set, clear, flag) in [
        (fields.disable, changes.enable, AccountFlags::DISABLED),
        (fields.lock, changes.unlock, AccountFlags::LOCKED),
    ] {
        if set || clear {
            account.flags = account.flags.with(flag, set);
        }
    }
    account.expires = fields.expires.unwrap_or(account.expires);
    let mut join = Vec::new();
    let mut leave = Vec::new();
    for name in &fields.group {
        join.push(lookup::group(store, name).await?.sid);
    }
    for name in &changes.remove_group {
        let group = lookup::group(store, name).await?;
        // The domain's own SID stands for an account that is not there yet.
        if group.sid.rid_in(&store.domain().sid) == Some(account.primary_group_id) {
            bail!("{name} is the account's primary group");
        }
        if !store.member_of(&account.sid).await?.contains(&group.sid) {
            bail!("the account is not a direct member of {name}");
        }
        leave.push(group.sid);
    }
    twins(store, &account).await?.iter().for_each(|text| output::warning(text));
    for found in account.unmatchable() {
        output::warning(&unmatchable_text(&account.name, &found));
    }
    let name = account.name.clone();
    store.apply(&mut [Ok(Change::PutAccount(put, Box::new(account)))].into_iter()).await?;
    if join.is_empty() && leave.is_empty() {
        return Ok(());
    }
    let member = lookup::account(store, &name).await?.account.sid;
    let joins = join.into_iter().map(|group| Change::AddMember { group, member });
    let leaves = leave.into_iter().map(|group| Change::RemoveMember { group, member });
    store.apply(&mut joins.chain(leaves).map(Ok)).await?;
    Ok(())
}

/// What is told of a stored value that no certificate matches.
pub(super) fn unmatchable_text(account: &str, found: &Unmatchable<'_>) -> String {
    let Unmatchable { attribute, value, why } = found;
    format!("{account}: no certificate matches {attribute} {value}: {why}")
}

/// What makes certificates ambiguous, a text each: the same principal name, or the same mapping, at another
/// account.
pub(super) async fn twins(store: &dyn AccountStore, account: &Account) -> anyhow::Result<Vec<String>> {
    // The name that is stored, which a change may replace.
    let own = match store.find(&Query::Sid(account.sid)).await? {
        Matches::One(record) => record.account.name.clone(),
        _ => account.name.clone(),
    };
    let mut told = Vec::new();
    for query in account.certificate_queries() {
        let others = match store.find(&query).await? {
            Matches::One(record) if record.account.sid != account.sid => vec![record.account.name.clone()],
            Matches::Many(names) => names.into_iter().filter(|name| *name != own).collect(),
            _ => continue,
        };
        let (Query::UserPrincipalName(value)
        | Query::ServicePrincipalName(value)
        | Query::AltSecurityIdentity(value)) = &query
        else {
            continue;
        };
        told.push(format!(
            "{value} is also that of {}: a certificate that names it maps to no account",
            others.join(", ")
        ));
    }
    Ok(told)
}

fn edit(values: &mut Vec<String>, add: Vec<String>, remove: &[String], what: &str) -> anyhow::Result<()> {
    for value in remove {
        match values.iter().position(|known| known == value) {
            Some(at) => drop(values.remove(at)),
            None => bail!("the account has no {what} {value}"),
        }
    }
    for value in add {
        if !values.contains(&value) {
            values.push(value);
        }
    }
    Ok(())
}

fn groups_json(record: &Record) -> Vec<Value> {
    let groups = record.memberships.iter();
    groups
        .map(|group| json!({ "sid": group.sid.to_string(), "name": group.name, "scope": group.scope }))
        .collect()
}

/// The forms of an account's password, by their names for people and in JSON.
fn forms(PasswordForms { argon2id, nt_hash }: PasswordForms) -> Vec<(&'static str, &'static str)> {
    let named = [(argon2id, ("argon2id", "argon2id")), (nt_hash, ("NT hash", "nt_hash"))];
    named.into_iter().filter(|(has, _)| *has).map(|(_, names)| names).collect()
}

async fn show(store: &stores::Writable, name: &str, as_json: bool) -> anyhow::Result<u8> {
    let record = lookup::account(&*store.accounts, name).await?;
    let account = &record.account;
    let password = match &store.passwords {
        Some(passwords) => Some(passwords.forms(&account.sid).await.map(forms)),
        None => None,
    };
    if let Some(Err(error)) = &password {
        output::warning(&format!("{}: the password cannot be read: {error}", account.name));
    }
    if as_json {
        let mut value = lookup::account_json(account);
        value["groups"] = groups_json(&record).into();
        match password {
            Some(Ok(forms)) => value["password"] = forms.iter().map(|(_, name)| *name).collect(),
            Some(Err(_)) => value["password"] = Value::Null,
            None => {}
        }
        output::json(&value);
        return Ok(0);
    }
    let password = match password {
        Some(Ok(forms)) if forms.is_empty() => "none".to_owned(),
        Some(Ok(forms)) => forms.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
        Some(Err(_)) => "cannot be read".to_owned(),
        None => String::new(),
    };
    let mut facts = vec![
        ("account", account.name.clone()),
        ("sid", account.sid.to_string()),
        ("state", lookup::state(account)),
        ("upn", account.user_principal_name.clone().unwrap_or_default()),
        ("name", account.profile.full_name.clone()),
        ("mail", account.profile.mail.clone()),
        ("expires", account.expires.to_string()),
        ("home domain", account.home_domain.clone().unwrap_or_default()),
        ("password", password),
    ];
    facts.extend(account.service_principal_names.iter().map(|name| ("spn", name.clone())));
    facts.extend(account.alt_security_identities.iter().map(|mapping| ("mapping", mapping.clone())));
    facts.retain(|(_, value)| !value.is_empty());
    output::facts(&facts);
    output::line("");
    let rows = record.memberships.iter().map(|group| {
        let scope = match group.scope {
            GroupScope::Global => "global",
            GroupScope::Universal => "universal",
            GroupScope::Local => "local",
        };
        vec![group.name.clone().unwrap_or_default(), group.sid.to_string(), scope.to_owned()]
    });
    output::table(&["group", "sid", "scope"], rows.collect());
    Ok(0)
}

/// Whether a text is in a name by which people know an account.
fn has_text(account: &Account, text: &str) -> bool {
    let names = [Some(&account.name), account.user_principal_name.as_ref(), Some(&account.profile.full_name)];
    names.into_iter().flatten().any(|name| casefold(name).contains(text))
}

async fn list(store: &dyn AccountAdmin, text: Option<&str>, as_json: bool) -> anyhow::Result<u8> {
    let (given, text) = (text, text.map(casefold));
    let mut all = Vec::new();
    each_account(store, |account| {
        if text.as_ref().is_none_or(|text| has_text(account, text)) {
            all.push(account.clone());
        }
        true
    })
    .await?;
    match as_json {
        true => output::json(&all.iter().map(lookup::account_json).collect()),
        false if all.is_empty() && given.is_some() => {
            output::message(&format!("no account has {} in its name", given.unwrap_or_default()));
        }
        false => {
            let rows = all.iter().map(|account| {
                vec![
                    account.name.clone(),
                    account.sid.split_rid().map_or(String::new(), |(_, rid)| rid.to_string()),
                    lookup::state(account),
                    account.user_principal_name.clone().unwrap_or_default(),
                    account.alt_security_identities.len().to_string(),
                ]
            });
            output::table(&["account", "rid", "state", "upn", "mappings"], rows.collect());
        }
    }
    Ok(0)
}
