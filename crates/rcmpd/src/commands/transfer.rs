//! `rcmpd import` and `rcmpd export`.

use super::UNUSABLE;
use super::account::{twins, unmatchable_text};
use crate::clock::now;
use crate::config::Config;
use crate::output::{self, counted};
use crate::stores;
use account_store::fold::casefold;
use account_store::json_lines::{self, Counts, ImportOptions, LinesError, Machines, Seen};
use account_store::{AccountStore, MachineAdmin, Matches, Query, StoreError};
use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use pem_file::input;
use serde_json::json;
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Values without a match that an import tells one by one.
const UNMATCHABLE_SHOWN: usize = 20;

/// Values that other accounts have, too, of which an import tells.
const TWINS_SHOWN: usize = 20;

/// Accounts of an import whose values are compared with those of all others afterwards: some look-ups each,
/// so that this takes seconds.
const TWINS_LOOKED_FOR: usize = 20_000;

/// New machines without a secret that an import names.
const MACHINES_SHOWN: usize = 20;

/// Machines read at once.
const MACHINES_PAGE: usize = 1000;

/// A bar on a terminal, nothing elsewhere.
pub(super) fn bar(len: Option<u64>, template: &str) -> ProgressBar {
    if !output::is_drawable() {
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
            "{what} {}, {} and {}: {}",
            counted(*accounts, "account"),
            counted(*groups, "group"),
            counted(*machines, "machine"),
            path.display()
        )),
    }
}

pub(super) async fn import(path: &Path, replace: bool, config: &Config, as_json: bool) -> anyhow::Result<u8> {
    let stores::Writable { accounts: store, machines, .. } = stores::writable(config).await?;
    let (len, mut lines): (u64, Box<dyn BufRead + Send>) = match input::is_standard(path) {
        true => (0, Box::new(BufReader::with_capacity(1 << 20, std::io::stdin()))),
        false => {
            let file = File::open(path).map_err(|error| {
                super::failed(UNUSABLE, format!("{} cannot be read: {error}", path.display()))
            })?;
            let len = file.metadata().map_or(0, |metadata| metadata.len());
            (len, Box::new(BufReader::with_capacity(1 << 20, file)))
        }
    };
    let bar = bar(Some(len), "{wide_bar} {bytes}/{total_bytes} {eta}");
    let known = known_machines(&*machines).await?;
    let options = ImportOptions { replace, created: now() };
    let mut unmatchable = Vec::new();
    let mut count = 0_usize;
    let (mut named, mut accounts) = (Vec::new(), 0_usize);
    let mut without_secret = Vec::new();
    let mut see = |line: u64, seen: Seen<'_>| {
        let account = match seen {
            Seen::Account(account) => account,
            Seen::MachineWithoutSecret(name) => return without_secret.push(name.to_owned()),
        };
        let has_values = account.user_principal_name.is_some()
            || !account.service_principal_names.is_empty()
            || !account.alt_security_identities.is_empty();
        if has_values {
            accounts += 1;
            if named.len() < TWINS_LOOKED_FOR {
                named.push((line, account.name.clone()));
            }
        }
        for found in account.unmatchable() {
            count += 1;
            if count <= UNMATCHABLE_SHOWN {
                unmatchable.push(format!("line {line}: {}", unmatchable_text(&account.name, &found)));
            }
        }
    };
    let mut progress = |done, _| bar.set_position(done);
    let imported = json_lines::import_seen(&*store, options, &mut *lines, len, &mut progress, &mut see).await;
    bar.finish_and_clear();
    let counts = imported.map_err(|error| {
        let (hint, is_of_file) = match &error {
            LinesError::Store(StoreError::Exists(_)) => {
                ("; with --replace, existing entries are replaced", false)
            }
            LinesError::Line { .. } | LinesError::Io(_) => ("", true),
            _ => ("", false),
        };
        let why = format!("{}: nothing was imported: {error}{hint}", path.display());
        match is_of_file {
            true => super::failed(UNUSABLE, why),
            false => anyhow::anyhow!(why),
        }
    })?;
    report(&counts, "Imported", path, as_json);
    unmatchable.iter().for_each(|text| output::warning(text));
    if count > unmatchable.len() {
        output::warning(&format!(
            "{} more values match no certificate: `rcmpd mapping audit` lists them all",
            count - unmatchable.len()
        ));
    }
    warn_of_twins(&*store, &named, accounts).await?;
    without_secret.retain(|name| !known.contains(&casefold(name)));
    if !without_secret.is_empty() {
        let shown =
            without_secret.iter().take(MACHINES_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = match without_secret.len().saturating_sub(MACHINES_SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        output::message_lines(&format!(
            "New machine accounts without a secret: {shown}{more}. Set each one by `rcmpd machine set NAME --secret-file F`",
        ));
    }
    Ok(0)
}

/// The folded names of all machines: an import leaves them their secrets.
async fn known_machines(store: &dyn MachineAdmin) -> anyhow::Result<HashSet<String>> {
    let mut names = HashSet::new();
    let mut after = 0;
    loop {
        let page = store.machines(after, MACHINES_PAGE).await?;
        let Some(last) = page.last() else { return Ok(names) };
        after = last.sid.split_rid().map_or(u32::MAX, |(_, rid)| rid);
        names.extend(page.iter().map(|machine| casefold(&machine.name)));
    }
}

/// Warns of values of imported accounts, by line and name, that other accounts have, too. `accounts` is how
/// many have values.
async fn warn_of_twins(
    store: &dyn AccountStore,
    named: &[(u64, String)],
    accounts: usize,
) -> anyhow::Result<()> {
    let mut count = 0_usize;
    for (line, name) in named {
        let Matches::One(record) = store.find(&Query::Name(name.clone())).await? else { continue };
        for text in twins(store, &record.account).await? {
            count += 1;
            if count <= TWINS_SHOWN {
                output::warning(&format!("line {line}: {name}: {text}"));
            }
        }
    }
    if count > TWINS_SHOWN {
        output::warning(&format!(
            "{} more values belong to several accounts: `rcmpd mapping audit` lists them all",
            count - TWINS_SHOWN
        ));
    }
    if accounts > named.len() {
        output::warning(&format!(
            "only the first {} accounts were compared with others: `rcmpd mapping audit` compares all",
            named.len()
        ));
    }
    Ok(())
}

pub(super) async fn export(path: &Path, config: &Config, as_json: bool) -> anyhow::Result<u8> {
    let stores::Writable { accounts: store, machines, .. } = stores::writable(config).await?;
    let to_standard_output = input::is_standard(path);
    let mut out: Box<dyn Write + Send> = match to_standard_output {
        true if as_json => bail!("with - the lines go to standard output, so --json is not possible"),
        true => Box::new(BufWriter::new(output::JsonLines::default())),
        false if path.exists() => {
            bail!("{} already exists; choose another name, or - for standard output", path.display())
        }
        false => {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            Box::new(BufWriter::new(file.with_context(|| format!("cannot write {}", path.display()))?))
        }
    };
    let bar = bar(None, "{spinner} {msg}");
    let exported = json_lines::export(&*store, &mut out, &mut |counts| {
        bar.set_message(format!("{} groups, {} accounts", counts.groups, counts.accounts));
    })
    .await;
    bar.finish_and_clear();
    let incomplete = || format!("{} is incomplete", path.display());
    let mut counts = exported.with_context(incomplete)?;
    let machines = Machines { store: &*machines, with_secrets: false };
    counts.machines =
        json_lines::export_machines(machines, &mut out).await.with_context(incomplete)?.machines;
    if !to_standard_output {
        report(&counts, "Exported", path, as_json);
    }
    Ok(0)
}
