//! `rcmpd import` and `rcmpd export`.

use super::UNUSABLE;
use super::account::{twins, unmatchable_text};
use crate::clock::now;
use crate::config::Config;
use crate::output::{self, counted};
use crate::stores;
use account_import::{Converted, Format};
use account_store::admin::each_account;
use account_store::fold::casefold;
use account_store::json_lines::{self, Counts, ImportOptions, LinesError, Machines, Seen, Then};
use account_store::{
    AccountAdmin, AccountFlags, AccountKind, AccountStore, Change, MachineAdmin, Matches, Query, RID_FIRST,
    StoreError,
};
use anyhow::{Context, bail};
use dtyp::Sid;
use indicatif::{ProgressBar, ProgressStyle};
use pem_file::input;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
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

/// Users and groups that an import removes, of which it tells.
const GONE_SHOWN: usize = 20;

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

/// How a file is imported.
#[derive(Clone, Copy)]
pub(super) struct How {
    /// None for JSON Lines.
    pub(super) format: Option<Format>,
    pub(super) replace: bool,
    /// Accounts that are disabled here stay disabled.
    pub(super) keep_disabled: bool,
    /// What is not in the file goes, unless more than so many percent would go.
    pub(super) prune_max: Option<u64>,
    pub(super) is_dry_run: bool,
}

/// A file that is read from its start to its end, and then perhaps once more: the second time its end is an
/// error unless the content was the same.
struct Reread {
    file: BufReader<File>,
    len: u64,
    digest: Sha256,
    first: Option<[u8; 32]>,
}

impl Reread {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata().map_or(0, |metadata| metadata.len());
        Ok(Self { file: BufReader::with_capacity(1 << 20, file), len, digest: Sha256::new(), first: None })
    }

    /// Goes back to the start. All was read.
    fn again(&mut self) -> io::Result<()> {
        self.first = Some(self.digest.finalize_reset().into());
        self.file.rewind()
    }

    fn is_changed(&self) -> bool {
        self.first.is_some_and(|first| self.digest.clone().finalize()[..] != first)
    }
}

impl Read for Reread {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.read(into)?;
        self.consume(len);
        Ok(len)
    }
}

impl BufRead for Reread {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.file.fill_buf()?.is_empty() && self.is_changed() {
            return Err(io::Error::other("the file was changed while it was read; import it again"));
        }
        Ok(self.file.buffer())
    }

    fn consume(&mut self, len: usize) {
        self.digest.update(&self.file.buffer()[..len]);
        self.file.consume(len);
    }
}

/// Why a file is not taken for whole.
fn no_end(format: Option<Format>, entries: u64) -> String {
    match format {
        None => format!(
            "its last line is not {{\"type\":\"end\",\"entries\":{entries}}}, so it may be cut off; write this line if it is whole"
        ),
        Some(Format::Csv) => format!(
            "its last row does not have \"end\" as its type and {entries} as its entries, so it may be cut off; add this row if it is whole"
        ),
        Some(Format::Ldif) => {
            "the result of the search is not at its end, so it may be cut off; search with ldapsearch, without -L".to_owned()
        }
    }
}

/// The users and groups that are not in a file, by name and SID.
#[derive(Default)]
struct Gone {
    users: Vec<(String, Sid)>,
    groups: Vec<(String, Sid)>,
}

impl Gone {
    /// Reads the whole file. Refused if its end is missing, or if too much would go.
    async fn find(
        store: &dyn AccountAdmin,
        lines: &mut (dyn BufRead + Send),
        (format, max): (Option<Format>, u64),
    ) -> anyhow::Result<Self> {
        let domain = store.domain();
        let entries = json_lines::entries(domain, lines).map_err(|error| super::failed(UNUSABLE, error))?;
        if !entries.has_end {
            return Err(super::failed(UNUSABLE, no_end(format, entries.counts.entries())));
        }
        let (mut gone, mut users, mut groups) = (Self::default(), 0_u64, 0_u64);
        each_account(store, |account| {
            if account.kind == AccountKind::User {
                users += 1;
                if !entries.has(&account.name, &account.sid) {
                    gone.users.push((account.name.clone(), account.sid));
                }
            }
            true
        })
        .await?;
        let mut after = RID_FIRST - 1;
        loop {
            let page = store.groups(after, MACHINES_PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.sid.rid_in(&domain.sid).unwrap_or(u32::MAX);
            groups += page.len() as u64;
            let missing = page.into_iter().filter(|group| !entries.has(&group.name, &group.sid));
            gone.groups.extend(missing.map(|group| (group.name, group.sid)));
        }
        for (what, gone, all) in [("user", &gone.users, users), ("group", &gone.groups, groups)] {
            let count = gone.len() as u64;
            if count * 100 > max * all {
                bail!(
                    "{} of {} would be removed, which is more than {max} %: check the file, or allow it with --prune-max",
                    counted(count, what),
                    counted(all, what)
                );
            }
        }
        Ok(gone)
    }

    fn changes(&self) -> Vec<Change> {
        let users = self.users.iter().map(|(_, sid)| Change::RemoveAccount(*sid));
        users.chain(self.groups.iter().map(|(_, sid)| Change::RemoveGroup(*sid))).collect()
    }

    /// Says how many go, and some of their names.
    fn tell(&self) {
        for (what, gone) in [("user", &self.users), ("group", &self.groups)] {
            let count = counted(gone.len() as u64, what);
            let names: Vec<&str> = gone.iter().take(GONE_SHOWN).map(|(name, _)| name.as_str()).collect();
            let more = if gone.len() > names.len() { ", …" } else { "" };
            match names.is_empty() {
                true => output::message(&format!("Not in the file: {count}")),
                false => output::message(&format!("Not in the file: {count}: {}{more}", names.join(", "))),
            }
        }
    }
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

/// A file as JSON Lines.
fn lines<'a>(
    file: &'a mut (dyn BufRead + Send),
    format: Option<Format>,
    path: &Path,
) -> anyhow::Result<Converted<'a>> {
    let Some(format) = format else { return Ok(Converted { lines: Box::new(file), left_out: 0 }) };
    account_import::convert(format, file).map_err(|error| {
        super::failed(UNUSABLE, format!("{}: nothing was imported: {error}", path.display()))
    })
}

pub(super) async fn import(path: &Path, how: How, config: &Config, as_json: bool) -> anyhow::Result<u8> {
    let stores::Writable { accounts: store, machines, .. } = stores::writable(config).await?;
    let mut then = Then { changes: Vec::new(), is_dry_run: how.is_dry_run };
    let unreadable = |error| super::failed(UNUSABLE, format!("{} cannot be read: {error}", path.display()));
    let mut file = match input::is_standard(path) {
        true if how.prune_max.is_some() => {
            bail!(
                "with --prune the file is read twice, so it cannot be standard input: save it to a file first"
            )
        }
        true => None,
        false => Some(Reread::open(path).map_err(unreadable)?),
    };
    if let (Some(max), Some(file)) = (how.prune_max, &mut file) {
        let mut lines = lines(file, how.format, path)?.lines;
        let gone = Gone::find(&*store, &mut *lines, (how.format, max)).await;
        let gone = gone.with_context(|| format!("{}: nothing was imported or removed", path.display()))?;
        drop(lines);
        file.again().map_err(unreadable)?;
        gone.tell();
        then.changes = gone.changes();
    }
    let (len, mut file): (u64, Box<dyn BufRead + Send>) = match file {
        None => (0, Box::new(BufReader::with_capacity(1 << 20, io::stdin()))),
        Some(file) => (file.len, Box::new(file)),
    };
    let Converted { mut lines, left_out } = lines(&mut *file, how.format, path)?;
    if left_out > 0 {
        output::message(&format!(
            "{} left out: not users, computers or security groups",
            if left_out == 1 { "1 entry".to_owned() } else { format!("{left_out} entries") }
        ));
    }
    let bar = bar(Some(len), "{wide_bar} {bytes}/{total_bytes} {eta}");
    let known = known_machines(&*machines).await?;
    let options = ImportOptions { replace: how.replace, keep_disabled: how.keep_disabled, created: now() };
    let mut notes = Notes::default();
    if how.keep_disabled {
        notes.disabled = disabled(&*store).await?;
    }
    let mut see = |line: u64, seen: Seen<'_>| notes.see(line, seen);
    let mut progress = |done, _| bar.set_position(done);
    let imported =
        json_lines::import_then(&*store, options, &mut then, &mut *lines, len, &mut progress, &mut see).await;
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
    report(&counts, if how.is_dry_run { "Would import" } else { "Imported" }, path, as_json);
    notes.tell_kept();
    notes.tell_unmatchable();
    if !how.is_dry_run {
        notes.tell_of_store(&*store, &known).await?;
    }
    Ok(0)
}

/// The accounts that are disabled, by folded name.
async fn disabled(store: &dyn AccountAdmin) -> anyhow::Result<HashSet<String>> {
    let mut disabled = HashSet::new();
    each_account(store, |account| {
        if account.flags.contains(AccountFlags::DISABLED) {
            disabled.insert(casefold(&account.name));
        }
        true
    })
    .await?;
    Ok(disabled)
}

/// What an import tells.
#[derive(Default)]
struct Notes {
    /// The accounts that were disabled before, if they stay so.
    disabled: HashSet<String>,
    /// The first of them that the file would enable, and how many there are.
    kept: Vec<String>,
    kept_count: u64,
    /// The first values that match no certificate, and how many there are.
    unmatchable: Vec<String>,
    unmatchable_count: usize,
    /// The first accounts with values, by line and name, and how many there are.
    named: Vec<(u64, String)>,
    named_count: usize,
    machines_without_secret: Vec<String>,
}

impl Notes {
    fn see(&mut self, line: u64, seen: Seen<'_>) {
        let account = match seen {
            Seen::Account(account) => account,
            Seen::MachineWithoutSecret(name) => return self.machines_without_secret.push(name.to_owned()),
        };
        let is_enabled = !account.flags.contains(AccountFlags::DISABLED);
        if is_enabled && self.disabled.contains(&casefold(&account.name)) {
            self.kept_count += 1;
            if self.kept.len() < GONE_SHOWN {
                self.kept.push(account.name.clone());
            }
        }
        let has_values = account.user_principal_name.is_some()
            || !account.service_principal_names.is_empty()
            || !account.alt_security_identities.is_empty();
        if has_values {
            self.named_count += 1;
            if self.named.len() < TWINS_LOOKED_FOR {
                self.named.push((line, account.name.clone()));
            }
        }
        for found in account.unmatchable() {
            self.unmatchable_count += 1;
            if self.unmatchable_count <= UNMATCHABLE_SHOWN {
                self.unmatchable.push(format!("line {line}: {}", unmatchable_text(&account.name, &found)));
            }
        }
    }

    /// The accounts that the file would enable, and that stay disabled.
    fn tell_kept(&self) {
        if self.kept_count > 0 {
            let more = if self.kept_count > self.kept.len() as u64 { ", …" } else { "" };
            let names = self.kept.join(", ");
            output::message(&format!(
                "Stay disabled: {}: {names}{more}",
                counted(self.kept_count, "account")
            ));
        }
    }

    fn tell_unmatchable(&self) {
        self.unmatchable.iter().for_each(|text| output::warning(text));
        if self.unmatchable_count > self.unmatchable.len() {
            output::warning(&format!(
                "{} more values match no certificate: `rcmpd mapping audit` lists them all",
                self.unmatchable_count - self.unmatchable.len()
            ));
        }
    }

    /// Values that other accounts have, too, and machines that are new and have no secret.
    async fn tell_of_store(
        mut self,
        store: &dyn AccountStore,
        known: &HashSet<String>,
    ) -> anyhow::Result<()> {
        warn_of_twins(store, &self.named, self.named_count).await?;
        self.machines_without_secret.retain(|name| !known.contains(&casefold(name)));
        let names = &self.machines_without_secret;
        if names.is_empty() {
            return Ok(());
        }
        let shown = names.iter().take(MACHINES_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = match names.len().saturating_sub(MACHINES_SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        output::message_lines(&format!(
            "New machine accounts without a secret: {shown}{more}. Set each one by `rcmpd machine set NAME --secret-file F`",
        ));
        Ok(())
    }
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
    json_lines::write_end(&mut out, &counts).with_context(incomplete)?;
    if !to_standard_output {
        report(&counts, "Exported", path, as_json);
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &mut Reread) -> io::Result<String> {
        let mut text = String::new();
        file.read_to_string(&mut text).map(|_| text)
    }

    #[test]
    fn a_file_is_the_same_the_second_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("in.jsonl");
        let write = |to: &Path, text: &str| std::fs::write(to, text).expect("it can be written");
        write(&path, "one\ntwo\n");
        let mut file = Reread::open(&path).expect("it is there");
        assert_eq!(read(&mut file).expect("it can be read"), "one\ntwo\n");
        // Another file in its place is not read.
        let other = folder.path().join("other.jsonl");
        write(&other, "none\n");
        std::fs::rename(&other, &path).expect("it can be renamed");
        file.again().expect("a file can be read again");
        assert_eq!(read(&mut file).expect("it can be read"), "one\ntwo\n");

        for changed in ["none\ntwo\n", "six\n", ""] {
            write(&path, "one\n");
            let mut file = Reread::open(&path).expect("it is there");
            read(&mut file).expect("it can be read");
            write(&path, changed);
            file.again().expect("a file can be read again");
            let error = read(&mut file).expect_err("it was changed").to_string();
            assert!(error.contains("changed"), "{changed}: {error}");
        }
    }
}
