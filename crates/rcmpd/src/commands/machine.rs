//! `rcmpd machine …`

mod import;

use super::account::new_account;
use super::{UNUSABLE, failed, load};
use crate::cli::{
    AddMachine, ChannelArg, ConfigArg, MachineCommand, MachineRights, PermissionArg, SetMachine,
};
use crate::clock::now;
use crate::config::{Config, SecretRef};
use crate::output::{self, visible};
use crate::quickstart::random_password;
use crate::stores;
use account_store::admin::free_machine_sid;
use account_store::file_access;
use account_store::fold::casefold;
use account_store::machines::{ChannelKind, Machine, MachineRecord, NtHash, Secrets};
use account_store::{Account, Change, DomainStore, Matches, Put, Query};
use anyhow::{Context, bail};
use dtyp::{FileTime, Sid};
use pem_file::input;
use rcmp_service::explain::shell_quoted;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

const PAGE: usize = 1000;

pub(super) async fn run(command: MachineCommand) -> anyhow::Result<u8> {
    match command {
        MachineCommand::Add(machine) => add(machine).await,
        MachineCommand::Import(machine) => import::run(machine).await,
        MachineCommand::Show { name, config, json } => show(&*store(&config).await?, &name, json.json).await,
        MachineCommand::List { text, config, json } => {
            list(&*store(&config).await?, text.as_deref(), json.json).await
        }
        MachineCommand::Set(changes) => set(changes).await,
        MachineCommand::Remove { name, config, json } => {
            remove(&*store(&config).await?, &name, json.json).await
        }
    }
}

async fn add(machine: AddMachine) -> anyhow::Result<u8> {
    let AddMachine { name, secret_file: file, rights, kind, config, json } = machine;
    let MachineRights { permission, domain, group } = rights;
    let config = load(&config.config)?;
    let store = stores::machines_with_secrets(&config).await?;
    if !name.ends_with('$') {
        bail!("{name}: the name of a machine account ends in a dollar sign, as in 'WEB01$'");
    }
    if let Some(known) = store.machine(&name).await? {
        bail!("the machine account {} already exists", known.machine.name);
    }
    // What can fail comes first.
    let domains = domains(&config, &domain)?;
    let groups = groups(&config, &*store, &group).await?;
    let password = match secret_file(&file)? {
        SecretFile::Read(password) => {
            warn_of_short_secret(&password);
            password
        }
        SecretFile::Made(password) => {
            output::message_lines(&visible(&format!("Created a password: {}", file.display())));
            password
        }
    };
    let secret = NtHash::from_password(&password);
    let kind = match kind {
        ChannelArg::Workstation => ChannelKind::Workstation,
        ChannelArg::Server => ChannelKind::Server,
        ChannelArg::TrustedDomain => ChannelKind::TrustedDomain,
        ChannelArg::TrustedDnsDomain => ChannelKind::TrustedDnsDomain,
    };
    let rcmp = permission.contains(&PermissionArg::Rcmp);
    let sid = store.domain().sid;
    let machine = Machine { name: name.clone(), sid, kind, enabled: true, rcmp, domains, groups };
    put_new(&config, &store, machine, secret).await?;
    show(&*store, &name, json.json).await
}

/// Writes a new machine account, and a computer account of its name if there is none.
async fn put_new(
    config: &Config,
    store: &Arc<dyn DomainStore>,
    machine: Machine,
    secret: NtHash,
) -> anyhow::Result<()> {
    let (name, kind) = (&machine.name, machine.kind);
    let is_computer = matches!(kind, ChannelKind::Workstation | ChannelKind::Server);
    if is_computer && store.find(&Query::Name(name.clone())).await? == Matches::None {
        let sid = free_sid(config, store, name).await?;
        let account = Account { sid, ..new_account(&**store, name) };
        store.apply(&mut [Ok(Change::PutAccount(Put::New, Box::new(account)))].into_iter()).await?;
    }
    store.put_machine(Put::New, machine, Some(Secrets::first(secret, now()))).await?;
    Ok(())
}

async fn set(changes: SetMachine) -> anyhow::Result<u8> {
    let SetMachine {
        name,
        disable,
        enable,
        permission,
        revoke,
        domain,
        all_domains,
        group,
        all_groups,
        secret_file,
        now: at_once,
        config,
        json,
    } = changes;
    if permission.iter().any(|permission| revoke.contains(permission)) {
        bail!("the same permission cannot be given and revoked");
    }
    // Read before anything is written; a wrong path must not lock a machine out.
    let password = secret_file.map(|file| read_secret(&file)).transpose()?;
    password.iter().for_each(|password| warn_of_short_secret(password));
    let config = load(&config.config)?;
    let store = stores::machines_with_secrets(&config).await?;
    let record = find(&*store, &name).await?;
    let mut machine = record.machine.clone();
    if !domain.is_empty() || all_domains {
        machine.domains = domains(&config, &domain)?;
    }
    if !group.is_empty() || all_groups {
        machine.groups = groups(&config, &*store, &group).await?;
    }
    if disable || enable {
        machine.enabled = enable;
    }
    if permission.contains(&PermissionArg::Rcmp) {
        machine.rcmp = true;
    }
    if revoke.contains(&PermissionArg::Rcmp) {
        machine.rcmp = false;
    }
    let sid = machine.sid;
    let secret = password.map(|password| NtHash::from_password(&password));
    match (secret, at_once) {
        // In one transaction, so that the secret before never outlives the new one's start. An imported
        // machine without a secret has one that no machine knows, so there is none before.
        (Some(secret), at_once) if at_once || record.secrets.current_since == FileTime::UNSET => {
            store.put_machine(Put::Existing, machine, Some(Secrets::first(secret, now()))).await?;
        }
        (secret, _) => {
            if secret.is_none() && at_once {
                store.drop_previous(sid, record.secrets.current.clone()).await?;
            }
            // Also if it is the same: another command may have just made this change, and the store waits until
            // it counts everywhere.
            store.put_machine(Put::Existing, machine, None).await?;
            if let Some(secret) = secret {
                store.rotate(sid, None, secret, now()).await?;
            }
        }
    }
    show(&*store, &name, json.json).await
}

async fn remove(store: &dyn DomainStore, name: &str, as_json: bool) -> anyhow::Result<u8> {
    let record = find(store, name).await?;
    store.remove_machine(record.machine.sid).await?;
    match as_json {
        true => output::json(&json!({ "removed": record.machine.name })),
        false => output::line(&format!("Removed {}", record.machine.name)),
    }
    Ok(0)
}

/// The SID for a new machine account. In a database of its own with all other accounts that is the next one,
/// for which the SID of the domain stands; otherwise it is that of the served computer account, or one that
/// no served account has.
async fn free_sid(config: &Config, store: &Arc<dyn DomainStore>, name: &str) -> anyhow::Result<Sid> {
    if stores::is_one_database(config) {
        return Ok(store.domain().sid);
    }
    let served = stores::accounts(config, store).await?;
    Ok(free_machine_sid(&*served.store, &**store, name).await?)
}

/// The NetBIOS names of domains that are known, as a machine's scope has them.
fn domains(config: &Config, names: &[String]) -> anyhow::Result<Vec<String>> {
    let peers = config.peers.iter().map(|peer| &peer.domain);
    let known: Vec<&String> = [&config.domain.netbios].into_iter().chain(peers).collect();
    let mut domains = Vec::with_capacity(names.len());
    for name in names {
        match known.iter().find(|known| known.eq_ignore_ascii_case(name)) {
            Some(known) if domains.contains(*known) => {}
            Some(known) => domains.push((*known).clone()),
            None => {
                bail!("{name} is neither [domain] nor a [[peer]] of the configuration; give its NetBIOS name")
            }
        }
    }
    Ok(domains)
}

/// The SIDs of groups, as a machine's scope has them. A SID may be of another domain, or of a single account.
/// The well-known name of a privileged group is that group of this domain or of BUILTIN, stored or not.
async fn groups(config: &Config, store: &dyn DomainStore, names: &[String]) -> anyhow::Result<Vec<Sid>> {
    let mut groups = Vec::with_capacity(names.len());
    for name in names {
        let sid = match name.parse::<Sid>() {
            Ok(sid) if rcmp_service::is_account_or_group(&sid) => sid,
            Ok(sid) => bail!("{sid} is not the SID of a group or an account: it has no RID in a domain"),
            Err(_) => {
                let stored = store.group_by_name(name).await?.map(|group| group.sid);
                match stored.or_else(|| account_store::privileged::privileged_sid(name, &store.domain().sid))
                {
                    Some(sid) => sid,
                    None => bail!(
                        "there is no group {name} in {} (rcmpd group list); name a group of another domain, or one that is not stored \
                         here, by its SID",
                        config
                            .store
                            .as_ref()
                            .and_then(|store| store.machines.as_ref())
                            .map_or_else(|| "the store".to_owned(), |path| path.display().to_string())
                    ),
                }
            }
        };
        if !groups.contains(&sid) {
            groups.push(sid);
        }
    }
    Ok(groups)
}

async fn store(config: &ConfigArg) -> anyhow::Result<Arc<dyn DomainStore>> {
    stores::machines(&load(&config.config)?).await
}

async fn find(store: &dyn DomainStore, name: &str) -> anyhow::Result<Arc<MachineRecord>> {
    match store.machine(name).await? {
        Some(record) => Ok(record),
        None if !name.ends_with('$') => bail!(
            "there is no machine account {name}; names of machines end in $: {}",
            shell_quoted(&format!("{name}$"))
        ),
        None => bail!("there is no machine account {name}; `rcmpd machine list` lists them"),
    }
}

/// The password of a machine account, and where it is from.
pub(super) enum SecretFile {
    Read(Zeroizing<String>),
    Made(Zeroizing<String>),
}

/// Fewer characters than this are a password that a person made up. An attacker who records one handshake can
/// try such passwords against it.
const SECRET_LEN_MIN: usize = 16;

fn warn_of_short_secret(password: &str) {
    let len = password.chars().count();
    if len < SECRET_LEN_MIN {
        output::warning(&format!(
            "the secret has {}, and can be guessed from one recorded handshake; `rcmpd machine add` makes a random secret if the file is \
             not there",
            output::counted(len as u64, "character")
        ));
    }
}

/// The password in a file that has to be there.
fn read_secret(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    SecretRef::File(path.to_owned()).read().map_err(|error| failed(UNUSABLE, error))
}

/// The password in a file, or a new one that is written there.
pub(super) fn secret_file(path: &Path) -> anyhow::Result<SecretFile> {
    if input::is_standard(path) || path.exists() {
        return Ok(SecretFile::Read(read_secret(path)?));
    }
    let password = Zeroizing::new(random_password()?);
    let line = Zeroizing::new(format!("{}\n", password.as_str()));
    file_access::write_new(path, line.as_bytes(), 0o600)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(SecretFile::Made(password))
}

const fn kind_name(kind: ChannelKind) -> &'static str {
    match kind {
        ChannelKind::Workstation => "workstation",
        ChannelKind::Server => "server",
        ChannelKind::TrustedDomain => "trusted domain",
        ChannelKind::TrustedDnsDomain => "trusted DNS domain",
        ChannelKind::CdcServer => "read-only server",
    }
}

fn machine_json(machine: &Machine) -> Value {
    json!({
        "name": machine.name,
        "sid": machine.sid.to_string(),
        "kind": machine.kind,
        "enabled": machine.enabled,
        "permissions": if machine.rcmp { vec!["rcmp"] } else { vec![] },
        "domains": machine.domains,
        "groups": machine.groups.iter().map(Sid::to_string).collect::<Vec<_>>(),
    })
}

/// The domains of a machine's scope, for people.
fn domains_text(machine: &Machine) -> String {
    match machine.domains.is_empty() {
        true => "all".to_owned(),
        false => machine.domains.join(", "),
    }
}

/// The groups of a machine's scope, for people.
fn groups_text(machine: &Machine) -> String {
    match machine.groups.is_empty() {
        true => "all but privileged".to_owned(),
        false => machine.groups.iter().map(Sid::to_string).collect::<Vec<_>>().join(", "),
    }
}

async fn show(store: &dyn DomainStore, name: &str, as_json: bool) -> anyhow::Result<u8> {
    let record = find(store, name).await?;
    let machine = &record.machine;
    if as_json {
        let mut value = machine_json(machine);
        value["may_open_a_channel"] = record.is_enabled().into();
        value["secret_since"] = record.secrets.current_since.to_string().into();
        value["has_previous_secret"] = record.secrets.previous.is_some().into();
        output::json(&value);
        return Ok(0);
    }
    let state = match (machine.enabled, record.is_enabled()) {
        (false, _) => "disabled",
        (true, false) => "enabled, but its computer account is disabled",
        (true, true) => "enabled",
    };
    output::facts(&[
        ("machine", machine.name.clone()),
        ("kind", kind_name(machine.kind).to_owned()),
        ("sid", machine.sid.to_string()),
        ("state", state.to_owned()),
        ("permissions", if machine.rcmp { "rcmp".into() } else { "none".to_owned() }),
        ("answers for domains", domains_text(machine)),
        ("answers for groups", groups_text(machine)),
        ("secret since", record.secrets.current_since.to_string()),
        (
            "previous secret",
            if record.secrets.previous.is_some() { "still kept".into() } else { "none".to_owned() },
        ),
    ]);
    Ok(0)
}

async fn list(store: &dyn DomainStore, text: Option<&str>, as_json: bool) -> anyhow::Result<u8> {
    let text = text.map(casefold);
    let mut all = Vec::new();
    let mut after = 0;
    loop {
        let page = store.machines(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.sid.split_rid().map_or(u32::MAX, |(_, rid)| rid);
        let has_text =
            |machine: &Machine| text.as_ref().is_none_or(|text| casefold(&machine.name).contains(text));
        all.extend(page.into_iter().filter(has_text));
    }
    match as_json {
        true => output::json(&all.iter().map(machine_json).collect()),
        false => {
            let rows = all.iter().map(|machine| {
                let state = if machine.enabled { "enabled" } else { "disabled" };
                let permissions = if machine.rcmp { "rcmp" } else { "none" };
                vec![
                    machine.name.clone(),
                    kind_name(machine.kind).to_owned(),
                    machine.sid.to_string(),
                    state.to_owned(),
                    permissions.to_owned(),
                    domains_text(machine),
                    groups_text(machine),
                ]
            });
            let columns = ["machine", "kind", "sid", "state", "permissions", "domains", "groups"];
            output::table(&columns, rows.collect());
        }
    }
    Ok(0)
}
