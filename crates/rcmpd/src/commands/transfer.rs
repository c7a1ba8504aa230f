//! `rcmpd import` and `rcmpd export`.

use super::account::unmatchable_text;
use crate::config::Config;
use crate::output;
use crate::stores;
use account_store::json_lines::{self, Counts, Machines};
use account_store::{Account, Put};
use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, IsTerminal};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Values without a match that an import tells one by one.
const UNMATCHABLE_SHOWN: usize = 20;

/// A bar on a terminal, nothing elsewhere.
pub(super) fn bar(len: Option<u64>, template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = len.map_or_else(ProgressBar::no_length, ProgressBar::new);
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn report(counts: &Counts, what: &str, path: &Path, as_json: bool) {
    let Counts { accounts, groups, machines } = counts;
    match as_json {
        true => output::json(&json!({ "accounts": accounts, "groups": groups, "machines": machines })),
        false => output::line(&format!(
            "{what} {accounts} accounts, {groups} groups and {machines} machines: {}",
            path.display()
        )),
    }
}

pub(super) async fn import(path: &Path, replace: bool, config: &Config, as_json: bool) -> anyhow::Result<u8> {
    let store = stores::database(config)?;
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let len = file.metadata().map_or(0, |metadata| metadata.len());
    let bar = bar(Some(len), "{wide_bar} {bytes}/{total_bytes} {eta}");
    let put = if replace { Put::Either } else { Put::New };
    let mut lines = BufReader::with_capacity(1 << 20, file);
    let mut unmatchable = Vec::new();
    let mut count = 0_usize;
    let mut see = |line: u64, account: &Account| {
        for found in account.unmatchable() {
            count += 1;
            if count <= UNMATCHABLE_SHOWN {
                unmatchable.push(format!("line {line}: {}", unmatchable_text(&account.name, &found)));
            }
        }
    };
    let mut progress = |done, _| bar.set_position(done);
    let counts = json_lines::import_seen(&*store, put, &mut lines, len, &mut progress, &mut see).await;
    bar.finish_and_clear();
    let hint = if replace { "" } else { "; with --replace, entries that exist are replaced" };
    let counts = counts.with_context(|| format!("{}: nothing was imported{hint}", path.display()))?;
    report(&counts, "Imported", path, as_json);
    unmatchable.iter().for_each(|text| output::message(text));
    if count > unmatchable.len() {
        output::message(&format!(
            "{} more values match no certificate: `rcmpd mapping audit` tells all of them",
            count - unmatchable.len()
        ));
    }
    if counts.machines > 0 {
        output::message_lines(
            "Machines come without secrets: give each its own by `rcmpd machine set NAME --secret-file F`",
        );
    }
    Ok(0)
}

pub(super) async fn export(path: &Path, config: &Config, as_json: bool) -> anyhow::Result<u8> {
    let store = stores::database(config)?;
    if path.exists() {
        anyhow::bail!("{} exists already; choose another name", path.display());
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut out = BufWriter::new(file.with_context(|| format!("cannot write {}", path.display()))?);
    let bar = bar(None, "{spinner} {msg}");
    let exported = json_lines::export(&*store, &mut out, &mut |counts| {
        bar.set_message(format!("{} groups, {} accounts", counts.groups, counts.accounts));
    })
    .await;
    bar.finish_and_clear();
    let mut counts = exported.with_context(|| format!("{} is incomplete", path.display()))?;
    let machines = Machines { store: &*store, with_secrets: false };
    counts.machines = json_lines::export_machines(machines, &mut out).await?.machines;
    report(&counts, "Exported", path, as_json);
    Ok(0)
}
