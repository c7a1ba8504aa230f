//! Output of commands: tables for operators, JSON for programs.

use crate::ask::{AskError, Mapped, ProvedPath};
use crate::config::ConfigError;
use dtyp::Sid;
use rcmp_service::proof::{HopStrength, Role, Signed, Verified};
pub use rcmp_service::visible::{visible, visible_json};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

// INVARIANT: nothing else in this crate writes to standard output or standard error, except the log.
// Names come from certificates, peers, stores and files, and every function here shows them by `visible`.

/// The first write to standard output that failed, until [`finish`] returns it.
static FAILED: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Whether JSON was printed.
static HAS_JSON: AtomicBool = AtomicBool::new(false);

/// Records that a write failed. A closed pipe is not a failure: its reader has read what it needs.
fn note(written: std::io::Result<()>) {
    if let Err(error) = written
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        FAILED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// Ends the output of a command, and returns an error if a part of it was not written, for example on a full
/// disk.
pub fn finish() -> std::io::Result<()> {
    note(std::io::stdout().lock().flush());
    FAILED.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
}

/// Prints a line. A line break in the text is escaped.
pub fn line(text: &str) {
    note(writeln!(std::io::stdout().lock(), "{}", visible(text)));
}

/// Prints text with several lines. Names in it were escaped by [`visible`].
pub fn lines(text: &str) {
    note(writeln!(std::io::stdout().lock(), "{}", visible_lines(text)));
}

/// Prints a generated file unchanged: completions and manual pages, which have no names in them.
pub fn file(bytes: &[u8]) {
    note(std::io::stdout().lock().write_all(bytes));
}

/// Writes a view with the escape codes of [`Screen`](crate::screen::Screen), which shows names by [`fitted`].
/// The error ends the view.
pub fn screen(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
}

/// A text for one row of a terminal: [`visible`], and cut to this width.
pub fn fitted(text: &str, columns: usize) -> String {
    let text = visible(text);
    if text.width() <= columns {
        return text;
    }
    let ellipsis = ellipsis();
    let end = end_within(&text, columns.saturating_sub(ellipsis.width()));
    format!("{}{ellipsis}", &text[..end])
}

/// Asks for input on standard error. The line stays open for the answer.
pub fn prompt(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "{}", visible(text)).and_then(|()| stderr.flush());
}

/// Prints help, the version, or an error of the command line parser.
pub fn usage(error: &clap::Error) {
    note(error.print());
}

/// Whether colours may be printed. `NO_COLOR` (no-color.org) and `TERM=dumb` turn them off.
pub fn takes_colour(is_terminal: bool) -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    is_terminal && !is_set("NO_COLOR") && !is_dumb()
}

/// Whether the terminal cannot redraw lines.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Whether terminals of this environment can be redrawn in place.
pub fn is_drawable_terminal() -> bool {
    !is_dumb()
}

/// Whether standard output is a terminal.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Whether progress can be drawn on standard error.
pub fn is_drawable() -> bool {
    std::io::stderr().is_terminal() && !is_dumb()
}

/// Like [`visible`], but line breaks and tabs stay.
fn visible_lines(text: &str) -> String {
    let shown = text.split_inclusive(['\n', '\t']).map(|part| match part.strip_suffix(['\n', '\t']) {
        Some(start) => format!("{}{}", visible(start), &part[start.len()..]),
        None => visible(part),
    });
    shown.collect()
}

/// Prints a message on standard error, in one line.
pub fn message(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "rcmpd: {}", visible(text));
}

/// Prints a warning on standard error. It does not change the exit code.
pub fn warning(text: &str) {
    message(&format!("warning: {text}"));
}

/// A number with its unit; the plural gets an s.
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Prints text with several lines on standard error. Names in it were escaped by [`visible`].
pub fn message_lines(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", visible_lines(text));
}

/// Prints JSON on standard error, in one line.
pub fn json_line_on_error(value: &Value) {
    let _ = writeln!(std::io::stderr().lock(), "{}", visible_json(&value.to_string()));
}

/// An error with its causes, in one line. A cause whose text is there already, as where an error has its
/// source in its text, is left out.
pub fn chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.contains(&cause) {
        true => text,
        false if text.is_empty() => cause,
        false => format!("{text}: {cause}"),
    })
}

/// Prints why a command failed.
pub fn failure(error: &anyhow::Error) {
    match error.downcast_ref::<ConfigError>() {
        // It shows lines of a file.
        Some(error) => message_lines(&format!("rcmpd: {error}")),
        None => message(&chain(error)),
    }
}

/// Prints JSON: the one value of a command.
pub fn json(value: &Value) {
    HAS_JSON.store(true, Ordering::Relaxed);
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    note(writeln!(std::io::stdout().lock(), "{}", visible_json(&text)));
}

/// Whether the command has printed its JSON.
pub fn has_json() -> bool {
    HAS_JSON.load(Ordering::Relaxed)
}

/// Standard output for JSON, one value a line, written as [`visible_json`] has it.
#[derive(Debug, Default)]
pub struct JsonLines {
    unfinished: Vec<u8>,
}

impl Write for JsonLines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.unfinished.extend(bytes);
        if let Some(end) = self.unfinished.iter().rposition(|byte| *byte == b'\n') {
            let whole: Vec<u8> = self.unfinished.drain(..=end).collect();
            let text = visible_json(&String::from_utf8_lossy(&whole));
            match std::io::stdout().lock().write_all(text.as_bytes()) {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error),
                written => note(written),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        note(std::io::stdout().lock().flush());
        Ok(())
    }
}

/// Prints a table. In a pipe no cell is cut. On a terminal it is the same text if it fits; otherwise cells
/// are cut or columns dropped, because wrapped lines cannot be read as a table. Returns true if all of it was
/// printed.
pub fn table(head: &[&str], rows: Vec<Vec<String>>) -> bool {
    let mut table = Table::new(head, &rows);
    table.fit(terminal_columns().unwrap_or(usize::MAX), ellipsis());
    for text in table.lines() {
        line(text.trim_end());
    }
    if !table.left_out.is_empty() {
        line(&format!("(the terminal is too narrow for {})", table.left_out.join(", ")));
    }
    !table.is_cut && table.left_out.is_empty()
}

/// The width of the terminal on standard output; `None` without a terminal, or if its width is unknown.
fn terminal_columns() -> Option<usize> {
    let stdout = std::io::stdout();
    let size = stdout.is_terminal().then(|| rustix::termios::tcgetwinsize(&stdout).ok()).flatten()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// The mark of a cut text, in the character set of the locale.
fn ellipsis() -> &'static str {
    let value = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(value).unwrap_or_default().to_lowercase();
    if locale.contains("utf-8") || locale.contains("utf8") { "…" } else { "..." }
}

/// Spaces between two columns.
const COLUMN_GAP: usize = 2;
/// A column is not cut to less than this, because a few letters are not readable. The last columns are
/// dropped instead.
const CUT_MIN: usize = 12;

struct Table {
    /// The cells of each column, its name first.
    columns: Vec<Vec<String>>,
    widths: Vec<usize>,
    left_out: Vec<String>,
    is_cut: bool,
}

impl Table {
    fn new(head: &[&str], rows: &[Vec<String>]) -> Self {
        let cells = |at: usize| rows.iter().map(move |row| row.get(at).map_or("", String::as_str));
        let column = |(at, name): (usize, &&str)| {
            std::iter::once(name.to_uppercase()).chain(cells(at).map(visible)).collect()
        };
        let columns: Vec<Vec<String>> = head.iter().enumerate().map(column).collect();
        let widths = columns.iter().map(|column| width(column)).collect();
        Self { columns, widths, left_out: Vec::new(), is_cut: false }
    }

    /// Cuts the table to a width, as far as possible.
    fn fit(&mut self, room: usize, ellipsis: &str) {
        // SIDs are shortened first: they are long, have the same start, and other commands print them whole.
        if self.width() > room
            && let Some(at) = self.columns.iter().position(|column| column.iter().any(|cell| is_sid(cell)))
        {
            self.edit(at, |cell| shortened_sid(cell, ellipsis));
            if self.width() > room && at > 0 {
                self.leave_out(at);
            }
        }
        while self.width() > room {
            let Some((at, widest)) = self.widths.iter().copied().enumerate().max_by_key(|(_, width)| *width)
            else {
                return;
            };
            let left = room.saturating_sub(self.width() - widest);
            let name = self.columns[at][0].width();
            match self.columns.len() {
                1 => return self.edit(0, |cell| cut(cell, left, ellipsis)),
                _ if left >= name.max(CUT_MIN) => return self.edit(at, |cell| cut(cell, left, ellipsis)),
                columns => self.leave_out(columns - 1),
            }
        }
    }

    fn leave_out(&mut self, at: usize) {
        self.widths.remove(at);
        let column = self.columns.remove(at);
        self.left_out.extend(column.into_iter().next());
    }

    fn edit(&mut self, at: usize, change: impl Fn(&str) -> String) {
        self.is_cut = true;
        self.columns[at] = self.columns[at].iter().map(|cell| change(cell)).collect();
        self.widths[at] = width(&self.columns[at]);
    }

    /// With the space in front of the first column.
    fn width(&self) -> usize {
        1 + self.widths.iter().sum::<usize>() + COLUMN_GAP * self.widths.len().saturating_sub(1)
    }

    fn lines(&self) -> impl Iterator<Item = String> + '_ {
        let rows = self.columns.first().map_or(0, Vec::len);
        (0..rows).map(|row| {
            let mut text = String::new();
            for (column, width) in self.columns.iter().zip(&self.widths) {
                let gap = if text.is_empty() { 1 } else { COLUMN_GAP };
                let cell = &column[row];
                let _ = write!(text, "{:gap$}{cell}{:rest$}", "", "", rest = width - cell.width());
            }
            text
        })
    }
}

/// The width of the widest cell.
fn width(cells: &[String]) -> usize {
    cells.iter().map(|cell| cell.width()).max().unwrap_or(0)
}

fn is_sid(cell: &str) -> bool {
    cell.starts_with("S-1-")
}

/// A SID without the middle, which all SIDs of a domain have in common: `S-1-5-21-…-1101`. Other text stays.
fn shortened_sid(cell: &str, ellipsis: &str) -> String {
    match cell.split('-').collect::<Vec<_>>()[..] {
        ["S", "1", authority, first, _, .., last] => format!("S-1-{authority}-{first}-{ellipsis}-{last}"),
        _ => cell.to_owned(),
    }
}

/// Where the part of a text ends that fits into a width.
fn end_within(text: &str, room: usize) -> usize {
    let (mut end, mut used) = (0, 0);
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > room {
            break;
        }
        end = at + c.len_utf8();
    }
    end
}

/// A text cut to a width, between two words if at least half of it is kept.
fn cut(text: &str, room: usize, ellipsis: &str) -> String {
    if text.width() <= room {
        return text.to_owned();
    }
    let end = end_within(text, room.saturating_sub(ellipsis.width()));
    let end = match text[..end].rfind(' ') {
        Some(space) if !text[end..].starts_with(' ') && space * 2 >= end => space,
        _ => end,
    };
    format!("{}{ellipsis}", text[..end].trim_end())
}

/// Facts, one a line.
pub fn facts(facts: &[(&str, String)]) {
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in facts {
        line(&format!("{name:width$}  {value}"));
    }
}

/// Names of well-known SIDs ([MS-DTYP] 2.4.2.4), for the groups of an answer.
pub fn well_known(sid: &Sid) -> Option<&'static str> {
    match *sid {
        Sid::AUTHENTICATION_AUTHORITY_ASSERTED_IDENTITY => {
            return Some("Authentication authority asserted identity");
        }
        Sid::SERVICE_ASSERTED_IDENTITY => return Some("Service asserted identity"),
        _ => {}
    }
    let (domain, rid) = sid.split_rid()?;
    if !domain.is_domain() {
        return None;
    }
    Some(match rid {
        512 => "Domain Admins",
        513 => "Domain Users",
        514 => "Domain Guests",
        515 => "Domain Computers",
        516 => "Domain Controllers",
        518 => "Schema Admins",
        519 => "Enterprise Admins",
        _ => return None,
    })
}

/// The name of a group: that in the store, or a well-known one.
fn group_name<'a>(sid: &Sid, names: &'a HashMap<Sid, String>) -> Option<&'a str> {
    names.get(sid).map(String::as_str).or_else(|| well_known(sid))
}

/// An answer as JSON, with names of groups from the local store. Scripts rely on its keys: add keys, do not
/// rename them.
pub fn mapped_json(mapped: &Mapped, names: &HashMap<Sid, String>) -> Value {
    let info = &mapped.pac.logon_info;
    let groups: Vec<Value> = info
        .groups()
        .iter()
        .map(|group| {
            json!({ "sid": group.sid.to_string(), "name": group_name(&group.sid, names), "attributes": group.attributes })
        })
        .collect();
    let upn = mapped.pac.upn_dns_info.as_ref();
    json!({
        "account": info.effective_name.text,
        "domain": mapped.domain,
        "method": mapped.method.map(|method| method.name()),
        "sid": mapped.pac.user_sid.to_string(),
        "upn": upn.map(|upn| &upn.upn),
        "full_name": info.full_name.text,
        "groups": groups,
        "path": mapped.path.as_ref().map(path_json),
        "pac": {
            "buffers": mapped.pac.buffer_types.iter().map(|buffer| buffer.0).collect::<Vec<_>>(),
            "logon_time": info.logon_time.to_string(),
            "logoff_time": info.logoff_time.to_string(),
            "kick_off_time": info.kick_off_time.to_string(),
            "password_last_set": info.password_last_set.to_string(),
            "password_can_change": info.password_can_change.to_string(),
            "password_must_change": info.password_must_change.to_string(),
            "logon_server": info.logon_server.text,
            "logon_domain_name": info.logon_domain_name.text,
            "logon_domain_sid": info.logon_domain_id.to_string(),
            "user_id": info.user_id,
            "primary_group_id": info.primary_group_id,
            "user_flags": info.user_flags,
            "user_account_control": info.user_account_control,
            "logon_count": info.logon_count,
            "bad_password_count": info.bad_password_count,
            "dns_domain_name": upn.map(|upn| &upn.dns_domain_name),
            "upn_is_constructed": upn.map(|upn| upn.is_constructed),
        },
    })
}

fn path_json(path: &ProvedPath) -> Value {
    let hops: Vec<Value> = path
        .hops
        .iter()
        .map(|Verified { hop, signed }| {
            json!({
                "domain": hop.domain,
                "server": hop.server,
                "role": role_name(hop.role),
                "strength": strength_name(hop.strength),
                "signature": signature_name(*signed),
                "policy_revision": hop.policy_revision,
                "account_sid": hop.account_sid.to_string(),
                "at": hop.at.to_string(),
            })
        })
        .collect();
    json!({
        "hops": hops,
        "strong_at_every_hop": path.weakness.is_none(),
        "weakness": path.weakness.map(|weakness| weakness.to_string()),
    })
}

const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Answered => "answered",
        Role::Forwarded => "forwarded",
    }
}

const fn strength_name(strength: HopStrength) -> &'static str {
    match strength {
        HopStrength::Unknown => "unknown",
        HopStrength::Weak => "weak",
        HopStrength::Strong => "strong",
    }
}

const fn signature_name(signed: Signed) -> &'static str {
    match signed {
        Signed::Good => "good",
        Signed::Unknown => "unknown",
        Signed::Bad => "bad",
    }
}

/// Prints an answer, with names of groups from the local store.
pub fn mapped(mapped: &Mapped, names: &HashMap<Sid, String>) {
    let info = &mapped.pac.logon_info;
    let mut lines = vec![
        ("account", format!("{}\\{}", mapped.domain, info.effective_name.text)),
        ("sid", mapped.pac.user_sid.to_string()),
    ];
    if let Some(upn) = &mapped.pac.upn_dns_info {
        let note = if upn.is_constructed { " (constructed from the account name)" } else { "" };
        lines.push(("upn", format!("{}{note}", upn.upn)));
    }
    if !info.full_name.text.is_empty() {
        lines.push(("name", info.full_name.text.clone()));
    }
    if let Some(method) = mapped.method {
        lines.push(("found by", method.name().to_owned()));
    }
    lines.push(("answered by", info.logon_server.text.clone()));
    lines.push(("logoff at", info.logoff_time.to_string()));
    facts(&lines);
    line("");
    let groups = info.groups();
    let mut has_all_names = true;
    let rows = groups.iter().map(|group| {
        let name = group_name(&group.sid, names);
        has_all_names &= name.is_some();
        let kind = match group.attributes & 0x2000_0000 {
            0 if group.sid.rid_in(&info.logon_domain_id).is_some() => "domain",
            0 => "extra",
            _ => "local",
        };
        vec![group.sid.to_string(), kind.to_owned(), name.unwrap_or_default().to_owned()]
    });
    let rows = rows.collect();
    table(&["group", "kind", "name"], rows);
    if !has_all_names {
        line("");
        line("An answer has the SIDs of groups, not their names.");
        line("On the server, `rcmpd group show SID -c FILE` prints the name.");
    }
    if let Some(path) = &mapped.path {
        let rows = path.hops.iter().map(|Verified { hop, signed }| {
            vec![
                hop.domain.clone(),
                hop.server.clone(),
                role_name(hop.role).to_owned(),
                strength_name(hop.strength).to_owned(),
                signature_name(*signed).to_owned(),
                hop.policy_revision.to_string(),
                hop.at.to_string(),
            ]
        });
        line("");
        table(&["hop", "server", "did", "strength", "signature", "policy", "at"], rows.collect());
        line(&match &path.weakness {
            None => "strong at every hop".to_owned(),
            Some(weakness) => format!("not strong at every hop: {weakness}"),
        });
    }
}

/// Prints a failure of a question, with a hint.
pub fn ask_error(error: &AskError, as_json: bool) {
    if as_json {
        let status = error.status();
        let status = status.map(|it| json!({ "name": it.name(), "value": format!("0x{:08x}", it.0) }));
        json(
            &json!({ "error": error.to_string(), "status": status, "exit_code": error.exit_code(), "hint": error.hint() }),
        );
    }
    match error {
        // It may show lines of a configuration.
        AskError::Input(_) => message_lines(&format!("rcmpd: {error}")),
        _ => message(&error.to_string()),
    }
    if !error.hint().is_empty() {
        message_lines(&format!("       {}", error.hint()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_is_in_the_text_already_is_not_printed_again() {
        let inner = anyhow::anyhow!("seal.key is missing");
        let outer = inner.context("the secret is sealed: seal.key is missing").context("not rotated");
        assert_eq!(chain(&outer), "not rotated: the secret is sealed: seal.key is missing");
        assert_eq!(chain(&anyhow::anyhow!("a").context("b")), "b: a");
    }

    #[test]
    fn what_terminals_obey_is_escaped_and_stays_the_same_value() {
        let name = "a\u{1b}]0;x\u{7}\u{9b}2J\u{202e}\u{2066}\u{200b}\n\r\t\u{2028}\u{e0041}\u{feff}b";
        let shown = visible(name);
        assert_eq!(
            shown,
            "a\\u{1b}]0;x\\u{7}\\u{9b}2J\\u{202e}\\u{2066}\\u{200b}\\u{a}\\u{d}\\u{9}\\u{2028}\\u{e0041}\\u{feff}b"
        );
        assert!(shown.is_ascii());
        assert_eq!(
            visible_lines("a\u{1b}\n\tb\r\n\n"),
            "a\\u{1b}\n\tb\\u{d}\n\n",
            "a text of our own has lines"
        );
        let text = visible_json(&serde_json::to_string_pretty(&json!({ "name": name })).expect("JSON"));
        assert!(text.bytes().all(|byte| byte == b'\n' || (0x20..0x7f).contains(&byte)), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), json!({ "name": name }));
    }

    fn machines() -> Table {
        let row = |name: &str, groups: &str| {
            let sid = "S-1-5-21-451409223-2545928661-1868369843-1004";
            [name, "workstation", sid, "enabled", "rcmp", groups].map(str::to_owned).to_vec()
        };
        let rows = [row("WEB01$", "all but privileged"), row("ビルド$", "")];
        Table::new(&["machine", "kind", "sid", "state", "permissions", "groups"], &rows)
    }

    fn fitted(mut table: Table, room: usize) -> (Vec<String>, Vec<String>) {
        table.fit(room, "…");
        let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        assert!(lines.iter().all(|line| line.width() <= room), "{lines:#?}");
        (lines, table.left_out)
    }

    #[test]
    fn a_table_is_whole_where_there_is_room() {
        let (lines, left_out) = fitted(machines(), usize::MAX);
        assert_eq!(
            lines,
            [
                " MACHINE  KIND         SID                                            STATE    PERMISSIONS  GROUPS",
                " WEB01$   workstation  S-1-5-21-451409223-2545928661-1868369843-1004  enabled  rcmp         all but privileged",
                " ビルド$  workstation  S-1-5-21-451409223-2545928661-1868369843-1004  enabled  rcmp",
            ]
        );
        assert!(left_out.is_empty());
        assert_eq!(fitted(machines(), 110).0, lines, "it is as wide as that");
    }

    #[test]
    fn a_table_on_a_narrow_terminal_loses_sids_then_letters_then_columns() {
        let (lines, left_out) = fitted(machines(), 63);
        assert_eq!(
            lines,
            [
                " MACHINE  KIND         STATE    PERMISSIONS  GROUPS",
                " WEB01$   workstation  enabled  rcmp         all but privileged",
                " ビルド$  workstation  enabled  rcmp",
            ]
        );
        assert_eq!(left_out, ["SID"]);
        assert_eq!(fitted(machines(), 60).0[1], " WEB01$   workstation  enabled  rcmp         all but…");
        let (lines, left_out) = fitted(machines(), 50);
        assert_eq!(lines[1], " WEB01$   workstation  enabled  rcmp");
        assert_eq!(left_out, ["SID", "GROUPS"]);
        for room in 4..120 {
            fitted(machines(), room);
        }
    }

    #[test]
    fn sids_in_front_are_shortened_in_the_middle() {
        let rows = [
            ["S-1-5-21-451409223-2545928661-1868369843-513", "Domain Users"],
            ["S-1-18-1", "Authentication authority asserted identity"],
            ["S-1-5-32-544", ""],
        ];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        let (lines, left_out) = fitted(Table::new(&["group", "name"], &rows), 60);
        assert_eq!(
            lines,
            [
                " GROUP           NAME",
                " S-1-5-21-…-513  Domain Users",
                " S-1-18-1        Authentication authority asserted identity",
                " S-1-5-32-544",
            ]
        );
        assert!(left_out.is_empty());
        assert_eq!(
            fitted(Table::new(&["group", "name"], &rows), 40).0[2],
            " S-1-18-1        Authentication…"
        );
    }
}
