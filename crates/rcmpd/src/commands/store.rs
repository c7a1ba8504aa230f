//! `rcmpd store …`

use super::load;
use super::transfer::bar;
use crate::cli::{RekeyArgs, StoreCommand};
use crate::output;
use crate::stores::{self, Copied, Finding, StoreStatus, Verified};
use serde_json::json;
use std::path::{Path, PathBuf};

/// The exit code if a store cannot be read, or something is wrong with it.
const FOUND: u8 = 3;

pub(super) async fn run(command: StoreCommand) -> anyhow::Result<u8> {
    match command {
        StoreCommand::Status { config, json } => status(&config.config, json.json).await,
        StoreCommand::Verify { accounts, config, json } => verify(&config.config, &accounts, json.json).await,
        StoreCommand::Backup { folder, without_key, config, json } => {
            let copied = stores::back_up(&load(&config.config)?, &config.config, &folder, without_key)?;
            print_copied("Copied", &copied, json.json);
            Ok(0)
        }
        StoreCommand::Restore { folder, config, json } => {
            let restored = stores::restore(&load(&config.config)?, &folder).await?;
            print_copied("Restored", &restored, json.json);
            Ok(0)
        }
        StoreCommand::Rekey(args) => rekey(&args).await,
    }
}

async fn status(config: &Path, as_json: bool) -> anyhow::Result<u8> {
    let all = stores::status(&load(config)?).await?;
    let code = if all.iter().any(|store| store.error.is_some()) { FOUND } else { 0 };
    if as_json {
        output::json(&json!({ "stores": all, "exit_code": code }));
        return Ok(code);
    }
    let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    let row = |store: &StoreStatus| {
        vec![
            store.store.clone(),
            store.kind.clone(),
            if store.error.is_some() { "FAILED" } else { "ok" }.to_owned(),
            number(store.accounts),
            number(store.groups),
            number(store.machines),
            number(store.revision),
            number(store.schema.map(u64::from)),
            store.age_max_s.to_string(),
            store.changed.clone().unwrap_or_default(),
            store.place.clone(),
        ]
    };
    let head = [
        "store", "kind", "state", "accounts", "groups", "machines", "revision", "schema", "stale", "changed",
        "place",
    ];
    output::table(&head, all.iter().map(row).collect());
    for store in &all {
        store.error.iter().for_each(|error| output::message(&format!("{}: {error}", store.store)));
    }
    Ok(code)
}

async fn verify(config: &Path, accounts: &[String], as_json: bool) -> anyhow::Result<u8> {
    let bar = bar(None, "{spinner} {human_pos} accounts and groups read");
    let mut progress = |read| bar.set_position(read);
    let verified = stores::verify(&load(config)?, accounts, &mut progress).await;
    bar.finish_and_clear();
    let Verified { read, findings } = verified?;
    let code = if findings.is_empty() { 0 } else { FOUND };
    if as_json {
        output::json(&json!({ "read": read, "findings": findings, "exit_code": code }));
        return Ok(code);
    }
    print_findings(&findings);
    for store in &read {
        output::line(&format!(
            "{}: read {}, {}, {}",
            store.store,
            output::counted(store.accounts, "account"),
            output::counted(store.groups, "group"),
            output::counted(store.machines, "machine secret"),
        ));
    }
    Ok(code)
}

fn print_findings(findings: &[Finding]) {
    if findings.is_empty() {
        return;
    }
    let row = |finding: &Finding| vec![finding.store.clone(), finding.what.to_owned(), finding.text.clone()];
    if !output::table(&["store", "fault", "details"], findings.iter().map(row).collect()) {
        output::message("the terminal is too narrow for the whole table: use --json or a pipe");
    }
}

fn print_copied(done: &str, copied: &Copied, as_json: bool) {
    if as_json {
        return output::json(&json!({ "files": copied.files, "not_copied": copied.not_copied }));
    }
    copied.files.iter().for_each(|file: &PathBuf| output::line(&format!("{done} {}", file.display())));
    for needed in &copied.not_copied {
        output::message(&format!("needed as well, and not copied: {needed}"));
    }
}

/// Also `rcmpd domain rekey`.
pub(super) async fn rekey(args: &RekeyArgs) -> anyhow::Result<u8> {
    let config = load(&args.config.config)?;
    let forgotten = stores::forget_secrets(&config).await?;
    let key = config.store.as_ref().map(|store| &store.key);
    match args.json.json {
        true => output::json(
            &json!({ "key": key, "forgotten": forgotten.machines, "forgotten_passwords": forgotten.users }),
        ),
        false => {
            key.iter().for_each(|key| output::line(&format!("Created {}", key.display())));
            forgotten.machines.iter().for_each(|name| output::line(&format!("Forgot the secret of {name}")));
            forgotten.users.iter().for_each(|name| output::line(&format!("Forgot the password of {name}")));
        }
    }
    output::message_lines(
        "Restart the service. Then give each machine and trust a new secret, here by `rcmpd machine set NAME --secret-file F`, \
         and at the other end; users that had a password need a new one: `rcmpd account set NAME --password-file F`",
    );
    Ok(0)
}
