//! The whole store as text, one JSON object a line: for copies between stores, and for scripts that write
//! such lines.
//!
//! Each line has a `type`. Fields have the names of [`Account`], [`Group`] and [`Machine`]; those with a
//! usual value may be left out, unknown ones are errors. Times are FILETIME numbers, dates (`"2027-01-01"`,
//! `"2027-01-01T12:00:00Z"`), `"never"` or `"unset"`.
//!
//! ```text
//! {"type":"group","name":"Staff","sid":"S-1-5-21-1-2-3-1100","scope":"global","member_of":[],"members":["alice"]}
//! {"type":"account","name":"alice","sid":"S-1-5-21-1-2-3-1013","user_principal_name":"alice@contoso.com","member_of":["Staff"]}
//! {"type":"machine","name":"WEB01$","kind":"workstation","rcmp":true,"current_secret":"0cb6948805f797bf2a82807973b89537"}
//! ```
//!
//! The last line may be `{"type":"end","entries":3}`, with the number of lines before it that have an entry.
//! It says that the file is whole: an import that removes what is not in a file needs it.
//!
//! `members` and `member_of` name entries of the file or the store by SID or by name, before or after they
//! are defined. An entry without `sid` gets the next relative identifier, or replaces the entry of its name.
//! Secrets are NT hashes in hex and are exported only when asked for; a new machine without one gets a random
//! one. A byte order mark at the start of a line is skipped.

use crate::account::{Account, AccountFlags, AccountKind, Group, GroupScope, Profile};
use crate::admin::{AccountAdmin, AccountListing, Change, MachineAdmin, Put};
use crate::distinguished_name::from_hex;
use crate::fold::casefold;
use crate::machines::{ChannelKind, Machine, NtHash, Secrets};
use crate::rules::{check_account, check_home_domain};
use crate::store::{Domain, StoreError};
use dtyp::{FileTime, Sid};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::collections::{HashSet, VecDeque};
use std::io::{BufRead, Read, Write};

/// A line longer than this is refused.
pub const LINE_LEN_MAX: usize = 1 << 20;

/// How many entries are read from a store at once.
const PAGE_LEN: usize = 1000;

/// How many bytes are read between two reports of progress.
const PROGRESS_STEP: u64 = 1 << 20;

/// Why lines were not imported, or a store not exported. An import that fails has changed nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinesError {
    /// The text of one line.
    #[error("line {line}: {why}")]
    Line {
        /// Counted from one.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The store, whose errors name the line they are about.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// What an import did or an export wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accounts.
    pub accounts: u64,
    /// Groups.
    pub groups: u64,
    /// Machines.
    pub machines: u64,
}

impl Counts {
    /// All of them.
    pub const fn entries(&self) -> u64 {
        self.accounts + self.groups + self.machines
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[expect(clippy::large_enum_variant, reason = "there is one line at a time, and most are accounts")]
enum Line {
    Account(AccountLine),
    Group(GroupLine),
    Machine(MachineLine),
    End(EndLine),
}

/// The last line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndLine {
    entries: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountLine {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<AccountKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user_principal_name: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    service_principal_names: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    alt_security_identities: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    flags: Option<AccountFlags>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    primary_group_id: Option<u32>,
    #[serde(default = "never", skip_serializing_if = "is_never")]
    expires: Time,
    #[serde(default)]
    created: Option<Time>,
    #[serde(default, skip_serializing_if = "is_unset")]
    password_last_set: Time,
    #[serde(default, skip_serializing_if = "is_unset")]
    password_can_change: Time,
    #[serde(default = "never", skip_serializing_if = "is_never")]
    password_must_change: Time,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    logon_hours: Option<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    logon_count: u16,
    #[serde(default, skip_serializing_if = "is_zero")]
    bad_password_count: u16,
    #[serde(default, skip_serializing_if = "is_default")]
    profile: Profile,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    extra_sids: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    home_domain: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    member_of: Vec<String>,
}

/// An account as a store elsewhere sends it: the object of its line, without `type` and memberships.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct AccountObject(AccountLine);

impl AccountObject {
    /// The account, if it keeps the rules of an account ([`crate::rules`]) and its SID is of the domain.
    pub fn into_account(self, domain: &Domain) -> Result<Account, String> {
        let name = self.0.name.clone();
        let (account, member_of) = self.0.into_account(domain, FileTime::UNSET)?;
        if account.sid.rid_in(&domain.sid).is_none_or(|rid| rid == 0) {
            return Err(format!("account {name:?}: its SID is missing, or not of the domain"));
        }
        if !member_of.is_empty() {
            return Err(format!(
                "account {name:?}: member_of belongs to files; its groups are sent beside it"
            ));
        }
        let checked = check_account(&account).and_then(|()| check_home_domain(&account));
        checked.map(|()| account).map_err(|error| error.to_string())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupLine {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    #[serde(default = "global")]
    scope: GroupScope,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    member_of: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    members: Option<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MachineLine {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    kind: ChannelKind,
    #[serde(default = "yes")]
    enabled: bool,
    #[serde(default)]
    rcmp: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    domains: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current_secret: Option<String>,
    #[serde(default, skip_serializing_if = "is_unset")]
    current_since: Time,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous_secret: Option<String>,
}

/// A FILETIME as a number, a date, or by its word. What is none of these is kept, because the error names its
/// field.
#[derive(Clone, PartialEq, Eq)]
enum Time {
    At(FileTime),
    Wrong(String),
}

impl Default for Time {
    fn default() -> Self {
        Self::At(FileTime::UNSET)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::At(FileTime::UNSET) => serializer.serialize_str("unset"),
            Self::At(FileTime::NEVER) => serializer.serialize_str("never"),
            Self::At(FileTime(time)) => serializer.serialize_u64(*time),
            Self::Wrong(text) => serializer.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let time = match &value {
            Value::Number(number) => number.as_u64().map(FileTime),
            Value::String(text) => match text.as_str() {
                "never" => Some(FileTime::NEVER),
                "unset" => Some(FileTime::UNSET),
                text => date(text),
            },
            _ => None,
        };
        Ok(time.map_or_else(|| Self::Wrong(value.to_string()), Self::At))
    }
}

impl Time {
    /// The time of a field. A number before 1900 is refused.
    fn of(self, field: &str) -> Result<FileTime, String> {
        match self {
            Self::At(time) if time == FileTime::UNSET || time >= TIME_MIN => Ok(time),
            Self::At(FileTime(time)) => Err(format!(
                "{field}: {time} is before 1900: a FILETIME counts 100 ns since 1601; of a Unix time it is (seconds + 11644473600) * \
                 10000000; write a date such as \"2027-01-01\"; \"unset\" is for a time that is not known"
            )),
            Self::Wrong(text) => Err(format!(
                "{field}: {text} is no time: write a date such as \"2027-01-01\", a FILETIME, \"never\" or \"unset\""
            )),
        }
    }
}

/// Reads a date, which begins at 00:00 UTC, or a date and a time in UTC, as in RFC 3339: `2027-01-01` or
/// `2027-01-01T12:00:00Z`.
pub fn date(text: &str) -> Option<FileTime> {
    let numbers = |text: &str, separator, lens: [usize; 3]| {
        let mut parts = text.split(separator);
        let mut number = |len| {
            let part =
                parts.next().filter(|part| part.len() == len && part.bytes().all(|b| b.is_ascii_digit()));
            part.and_then(|part| part.parse::<u16>().ok())
        };
        let [a, b, c] = lens.map(&mut number);
        parts.next().is_none().then_some([a?, b?, c?])
    };
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, time.strip_suffix(['Z', 'z'])?),
        None => (text, "00:00:00"),
    };
    FileTime::from_civil(numbers(date, '-', [4, 2, 2])?, numbers(time, ':', [2, 2, 2])?)
}

fn never() -> Time {
    Time::At(FileTime::NEVER)
}

fn is_never(time: &Time) -> bool {
    *time == never()
}

fn is_unset(time: &Time) -> bool {
    *time == Time::default()
}

fn is_zero(number: &u16) -> bool {
    *number == 0
}

fn is_default(profile: &Profile) -> bool {
    *profile == Profile::default()
}

fn global() -> GroupScope {
    GroupScope::Global
}

fn yes() -> bool {
    true
}

/// 1900-01-01: no account is older. A smaller number is no FILETIME but most often a Unix time. As `created`
/// it would make the account older than every certificate, so that a weak mapping counts with `binding =
/// "compat"`; as `expires` it would disable the account.
const TIME_MIN: FileTime = FileTime(94_354_848_000_000_000);

/// What an import does with the entries of its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportOptions {
    /// An entry that exists, by SID or, in a line without one, by name, becomes what its line says: its
    /// direct memberships are those that the lines name, in `member_of` of a member or `members` of a group.
    /// A group whose line has no `members` keeps its members, and an account whose line has no `created`
    /// keeps its own. Otherwise an entry that exists ends the import.
    pub replace: bool,
    /// Whether an account that is disabled in the store stays so if it is replaced.
    pub keep_disabled: bool,
    /// `created` of new accounts whose lines do not say.
    pub created: FileTime,
}

impl ImportOptions {
    /// All entries are new, and what lines do not say is unset.
    pub const NEW: Self = Self { replace: false, keep_disabled: false, created: FileTime::UNSET };

    fn put(&self, keep_created: bool) -> Put {
        match self.replace {
            true => Put::Replace { keep_created, keep_disabled: self.keep_disabled },
            false => Put::New,
        }
    }
}

/// Reads lines and makes all their changes, or none.
///
/// `progress` is called from time to time with the bytes that have been read and `len`. Blocks as
/// [`AccountAdmin::apply`] does.
pub async fn import(
    store: &dyn AccountAdmin,
    options: ImportOptions,
    lines: &mut (dyn BufRead + Send),
    len: u64,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Counts, LinesError> {
    import_seen(store, options, lines, len, progress, &mut |_, _| ()).await
}

/// An entry of a line.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// An account.
    Account(&'a Account),
    /// A machine whose line has no secret, by name.
    MachineWithoutSecret(&'a str),
}

/// [`import`], which shows accounts, and machines without a secret, with the number of their lines to `see`.
pub async fn import_seen(
    store: &dyn AccountAdmin,
    options: ImportOptions,
    lines: &mut (dyn BufRead + Send),
    len: u64,
    progress: &mut (dyn FnMut(u64, u64) + Send),
    see: &mut (dyn FnMut(u64, Seen<'_>) + Send),
) -> Result<Counts, LinesError> {
    import_then(store, options, &mut Then::default(), lines, len, progress, see).await
}

/// What an import does after its lines, in the same change.
#[derive(Debug, Default)]
pub struct Then {
    /// Changes, such as the removal of what is not in the file.
    pub changes: Vec<Change>,
    /// Whether all is undone in the end. Each line was read then, and each change made; what is checked when
    /// a change is done as a whole is not: that all members exist.
    pub is_dry_run: bool,
}

/// [`import_seen`], with changes after the lines.
pub async fn import_then(
    store: &dyn AccountAdmin,
    options: ImportOptions,
    then: &mut Then,
    lines: &mut (dyn BufRead + Send),
    len: u64,
    progress: &mut (dyn FnMut(u64, u64) + Send),
    see: &mut (dyn FnMut(u64, Seen<'_>) + Send),
) -> Result<Counts, LinesError> {
    let mut source = Source::new(store.domain(), options, lines, progress, see);
    source.len = len;
    let mut changes = std::mem::take(&mut then.changes).into_iter();
    let mut undo = then.is_dry_run.then(|| StoreError::Refused("a dry run".to_owned()));
    let mut is_undone = false;
    let mut all = std::iter::from_fn(|| {
        let next = source.next().or_else(|| changes.next().map(Ok));
        next.or_else(|| {
            let undo = undo.take()?;
            is_undone = true;
            Some(Err(undo))
        })
    });
    let applied = store.apply(&mut all).await;
    match (applied, source.error) {
        (_, Some(error)) => Err(error),
        (Ok(()), None) => Ok(source.counts),
        (Err(_), None) if is_undone => Ok(source.counts),
        (Err(error), None) => Err(error.into()),
    }
}

/// The accounts and groups that lines name, without a store.
#[derive(Debug, Default)]
pub struct Entries {
    names: HashSet<String>,
    sids: HashSet<Sid>,
    /// How many entries there are.
    pub counts: Counts,
    /// Whether the last line says that it is the last one.
    pub has_end: bool,
}

impl Entries {
    /// Whether a line is of this account or group: by its SID or, for a line without one, by its name.
    pub fn has(&self, name: &str, sid: &Sid) -> bool {
        self.sids.contains(sid) || self.names.contains(&casefold(name))
    }
}

/// Reads all lines, and returns what they name.
pub fn entries(domain: &Domain, lines: &mut (dyn BufRead + Send)) -> Result<Entries, LinesError> {
    let mut entries = Entries::default();
    let (mut progress, mut see) = (|_: u64, _: u64| (), |_: u64, _: Seen<'_>| ());
    let mut source = Source::new(domain, ImportOptions::NEW, lines, &mut progress, &mut see);
    for change in &mut source {
        let (name, sid) = match change {
            Ok(Change::PutAccount(_, account)) => (account.name, account.sid),
            Ok(Change::PutGroup(_, group)) => (group.name, group.sid),
            Ok(_) => continue,
            Err(_) => break,
        };
        match sid == domain.sid {
            true => drop(entries.names.insert(casefold(&name))),
            false => drop(entries.sids.insert(sid)),
        }
    }
    (entries.counts, entries.has_end) = (source.counts, source.has_ended);
    match source.error {
        Some(error) => Err(error),
        None => Ok(entries),
    }
}

/// Writes the last line of a file with so many entries.
pub fn write_end(out: &mut (dyn Write + Send), counts: &Counts) -> Result<(), LinesError> {
    write_line(out, &Line::End(EndLine { entries: counts.entries() }))?;
    Ok(out.flush()?)
}

/// The changes that the lines ask for.
struct Source<'a> {
    see: &'a mut (dyn FnMut(u64, Seen<'_>) + Send),
    domain: &'a Domain,
    options: ImportOptions,
    lines: &'a mut (dyn BufRead + Send),
    len: u64,
    progress: &'a mut (dyn FnMut(u64, u64) + Send),
    has_ended: bool,
    read: u64,
    reported: u64,
    line: u64,
    text: Vec<u8>,
    ready: VecDeque<Change>,
    counts: Counts,
    error: Option<LinesError>,
}

impl Iterator for Source<'_> {
    type Item = Result<Change, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Some(Ok(change));
            }
            match self.next_line() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    let refused = StoreError::Refused(error.to_string());
                    self.error = Some(error);
                    return Some(Err(refused));
                }
            }
        }
    }
}

impl<'a> Source<'a> {
    fn new(
        domain: &'a Domain,
        options: ImportOptions,
        lines: &'a mut (dyn BufRead + Send),
        progress: &'a mut (dyn FnMut(u64, u64) + Send),
        see: &'a mut (dyn FnMut(u64, Seen<'_>) + Send),
    ) -> Self {
        Self {
            see,
            domain,
            options,
            lines,
            len: 0,
            progress,
            has_ended: false,
            read: 0,
            reported: 0,
            line: 0,
            text: Vec::new(),
            ready: VecDeque::new(),
            counts: Counts::default(),
            error: None,
        }
    }
}

impl Source<'_> {
    /// Reads one line; `false` at the end.
    fn next_line(&mut self) -> Result<bool, LinesError> {
        self.text.clear();
        let limit = LINE_LEN_MAX as u64 + 1;
        let len = (&mut *self.lines).take(limit).read_until(b'\n', &mut self.text)?;
        if self.read - self.reported >= PROGRESS_STEP || len == 0 {
            (self.progress)(self.read, self.len);
            self.reported = self.read;
        }
        if len == 0 {
            return Ok(false);
        }
        self.read += len as u64;
        self.line += 1;
        let line = self.line;
        let parsed = match len > LINE_LEN_MAX {
            true => Err("the line is longer than a mebibyte".to_owned()),
            false => self.parse(),
        };
        parsed.map_err(|why| LinesError::Line { line, why })?;
        Ok(true)
    }

    fn parse(&mut self) -> Result<(), String> {
        // Editors of Windows and PowerShell begin a file with a byte order mark, and files are put together.
        let text = self.text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&self.text);
        if text.trim_ascii().is_empty() {
            return Ok(());
        }
        if text.contains(&0) {
            return Err("there are NUL bytes in it, as in UTF-16 text; save it as UTF-8".to_owned());
        }
        let is_object = text.trim_ascii_start().starts_with(b"{");
        let is_table = !text.trim_ascii_start().starts_with(b"[")
            && text.iter().any(|byte| matches!(byte, b',' | b';' | b'\t'));
        let line = serde_json::from_slice(text).map_err(|error| json_error(&error, is_object, is_table))?;
        if self.has_ended {
            return Err("there is a line after the one with the type \"end\"".to_owned());
        }
        self.ready.push_back(Change::Line(self.line));
        match line {
            Line::Account(line) => {
                self.counts.accounts += 1;
                let put = self.options.put(line.created.is_none());
                let (account, groups) = line.into_account(self.domain, self.options.created)?;
                let name = account.name.clone();
                (self.see)(self.line, Seen::Account(&account));
                self.ready.push_back(Change::PutAccount(put, Box::new(account)));
                self.member_of(&name, groups);
            }
            Line::Group(line) => {
                self.counts.groups += 1;
                let sid = sid(self.domain, line.sid.as_deref())?;
                let name = line.name.clone();
                let group = Group { name: line.name, sid, scope: line.scope };
                self.ready.push_back(Change::PutGroup(self.options.put(false), group));
                self.member_of(&name, line.member_of);
                if self.options.replace && line.members.is_some() {
                    self.ready.push_back(Change::OnlyNamedMembers(name.clone()));
                }
                let (members, number) = (line.members.into_iter().flatten(), self.line);
                self.ready.extend(members.map(|member| Change::AddNamedMember {
                    group: name.clone(),
                    member,
                    line: number,
                }));
            }
            Line::Machine(line) => {
                self.counts.machines += 1;
                let (machine, secrets) = line.into_machine(self.domain)?;
                if secrets.is_none() {
                    (self.see)(self.line, Seen::MachineWithoutSecret(&machine.name));
                }
                self.ready.push_back(Change::PutMachine(self.options.put(false), Box::new(machine), secrets));
            }
            Line::End(EndLine { entries }) => {
                let read = self.counts.entries();
                if entries != read {
                    return Err(format!(
                        "the file had {entries} entries when it was written, and has {read} now"
                    ));
                }
                self.has_ended = true;
            }
        }
        Ok(())
    }

    fn member_of(&mut self, name: &str, groups: Vec<String>) {
        let line = self.line;
        let add = |group| Change::AddNamedMember { group, member: name.to_owned(), line };
        self.ready.extend(groups.into_iter().map(add));
    }
}

/// Without the place: every text is one line, which is counted by us.
fn json_error(error: &serde_json::Error, is_object: bool, is_table: bool) -> String {
    let text = error.to_string();
    let why = match text.rsplit_once(" at line ") {
        Some((why, _)) => format!("{why} (column {})", error.column()),
        None => text,
    };
    match is_object && !error.is_eof() {
        true => why,
        // Such as the first line of a table, or of an object over several lines.
        false => format!(
            "{why}; each line is one JSON object, such as {{\"type\":\"account\",\"name\":\"alice\"}}{}",
            if is_table { "; this looks like CSV: import it with --format csv" } else { "" }
        ),
    }
}

/// The SID of an entry. In a [`Change`] the domain's own SID asks for the next relative identifier; in a line
/// that is said by leaving it out, and a line that has it is mistaken about what the SID is of.
fn sid(domain: &Domain, text: Option<&str>) -> Result<Sid, String> {
    match text.map(parse_sid).transpose()? {
        None => Ok(domain.sid),
        Some(sid) if sid == domain.sid => {
            Err(format!("{sid} is the SID of the domain itself; leave \"sid\" out to get the next free one"))
        }
        Some(sid) => Ok(sid),
    }
}

fn parse_sid(text: &str) -> Result<Sid, String> {
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}

impl AccountLine {
    fn into_account(self, domain: &Domain, created: FileTime) -> Result<(Account, Vec<String>), String> {
        let kind = self.kind.unwrap_or(match self.name.ends_with('$') {
            true => AccountKind::Computer,
            false => AccountKind::User,
        });
        let (flags, primary) = usual(kind);
        let logon_hours = match self.logon_hours {
            None => None,
            Some(hours) => {
                let bytes = from_hex(&hours).and_then(|bytes| bytes.try_into().ok());
                Some(bytes.ok_or("logon_hours: 42 hex digits expected")?)
            }
        };
        let account = Account {
            sid: sid(domain, self.sid.as_deref())?,
            name: self.name,
            kind,
            user_principal_name: self.user_principal_name,
            service_principal_names: self.service_principal_names,
            alt_security_identities: self.alt_security_identities,
            flags: self.flags.unwrap_or(flags),
            primary_group_id: self.primary_group_id.unwrap_or(primary),
            expires: self.expires.of("expires")?,
            created: self.created.map_or(Ok(created), |time| time.of("created"))?,
            password_last_set: self.password_last_set.of("password_last_set")?,
            password_can_change: self.password_can_change.of("password_can_change")?,
            password_must_change: self.password_must_change.of("password_must_change")?,
            logon_hours,
            logon_count: self.logon_count,
            bad_password_count: self.bad_password_count,
            profile: self.profile,
            extra_sids: self.extra_sids.iter().map(|sid| parse_sid(sid)).collect::<Result<_, _>>()?,
            home_domain: self.home_domain,
            stale_s: None,
        };
        Ok((account, self.member_of))
    }

    fn new(account: Account, member_of: Vec<Sid>) -> Self {
        Self {
            name: account.name,
            sid: Some(account.sid.to_string()),
            kind: Some(account.kind),
            user_principal_name: account.user_principal_name,
            service_principal_names: account.service_principal_names,
            alt_security_identities: account.alt_security_identities,
            flags: Some(account.flags),
            primary_group_id: Some(account.primary_group_id),
            expires: Time::At(account.expires),
            created: Some(Time::At(account.created)),
            password_last_set: Time::At(account.password_last_set),
            password_can_change: Time::At(account.password_can_change),
            password_must_change: Time::At(account.password_must_change),
            logon_hours: account.logon_hours.map(|hours| dtyp::hex(&hours)),
            logon_count: account.logon_count,
            bad_password_count: account.bad_password_count,
            profile: account.profile,
            extra_sids: texts(&account.extra_sids),
            home_domain: account.home_domain,
            member_of: texts(&member_of),
        }
    }
}

fn texts(sids: &[Sid]) -> Vec<String> {
    sids.iter().map(Sid::to_string).collect()
}

/// Flags and primary group of an account that does not say: Domain Users or Domain Computers.
const fn usual(kind: AccountKind) -> (AccountFlags, u32) {
    match kind {
        AccountKind::User => (AccountFlags::NORMAL, 513),
        AccountKind::Computer => (AccountFlags::WORKSTATION_TRUST, 515),
    }
}

impl MachineLine {
    fn into_machine(self, domain: &Domain) -> Result<(Machine, Option<Secrets>), String> {
        let hash = |text: &str| match from_hex(text).map(<[u8; 16]>::try_from) {
            Some(Ok(hash)) => Ok(NtHash::new(hash)),
            // Without the text: it may be a secret.
            _ => Err("a secret is an NT hash of 32 hex digits".to_owned()),
        };
        let current = self.current_secret.as_deref().map(hash).transpose()?;
        let previous = self.previous_secret.as_deref().map(hash).transpose()?;
        let secrets = match (current, previous) {
            (Some(current), previous) => {
                Some(Secrets { current, current_since: self.current_since.of("current_since")?, previous })
            }
            (None, None) => None,
            (None, Some(_)) => return Err("a previous secret without a current one".to_owned()),
        };
        let machine = Machine {
            sid: sid(domain, self.sid.as_deref())?,
            name: self.name,
            kind: self.kind,
            enabled: self.enabled,
            rcmp: self.rcmp,
            domains: self.domains,
            groups: self.groups.iter().map(|sid| parse_sid(sid)).collect::<Result<_, _>>()?,
        };
        Ok((machine, secrets))
    }

    fn new(machine: Machine, secrets: Option<&Secrets>) -> Self {
        Self {
            name: machine.name,
            sid: Some(machine.sid.to_string()),
            kind: machine.kind,
            enabled: machine.enabled,
            rcmp: machine.rcmp,
            domains: machine.domains,
            groups: texts(&machine.groups),
            current_secret: secrets.map(|secrets| dtyp::hex(secrets.current.expose())),
            current_since: Time::At(secrets.map(|secrets| secrets.current_since).unwrap_or_default()),
            previous_secret: secrets.and_then(|secrets| Some(dtyp::hex(secrets.previous.as_ref()?.expose()))),
        }
    }
}

/// Which machines an export writes.
#[derive(Clone, Copy)]
pub struct Machines<'a> {
    /// Where they are.
    pub store: &'a dyn MachineAdmin,
    /// Whether their secrets are written too. A reader of the file can then authenticate as each of these
    /// machines.
    pub with_secrets: bool,
}

/// Writes groups, then accounts, in ascending order of SID. Refused when the store changes meanwhile.
pub async fn export(
    store: &dyn AccountListing,
    out: &mut (dyn Write + Send),
    progress: &mut (dyn FnMut(&Counts) + Send),
) -> Result<Counts, LinesError> {
    let revision = store.revision()?;
    let rid = |sid: &Sid| sid.rid_in(&store.domain().sid).unwrap_or(u32::MAX);
    let mut counts = Counts::default();
    let mut after = 0;
    loop {
        let page = store.groups(after, PAGE_LEN).await?;
        let Some(last) = page.last() else { break };
        after = rid(&last.sid);
        for group in page {
            let member_of = texts(&store.member_of(&group.sid).await?);
            let line = GroupLine {
                name: group.name,
                sid: Some(group.sid.to_string()),
                scope: group.scope,
                member_of,
                members: None,
            };
            write_line(out, &Line::Group(line))?;
            counts.groups += 1;
        }
        progress(&counts);
    }
    after = 0;
    loop {
        let page = store.accounts(after, PAGE_LEN).await?;
        let Some(last) = page.last() else { break };
        after = rid(&last.sid);
        for account in page {
            let member_of = store.member_of(&account.sid).await?;
            write_line(out, &Line::Account(AccountLine::new(account, member_of)))?;
            counts.accounts += 1;
        }
        progress(&counts);
    }
    out.flush()?;
    match store.revision()? == revision {
        true => Ok(counts),
        false => Err(StoreError::Unavailable("the store changed while it was exported".to_owned()).into()),
    }
}

/// Writes machines in ascending order of SID, and how many there were.
pub async fn export_machines(
    machines: Machines<'_>,
    out: &mut (dyn Write + Send),
) -> Result<Counts, LinesError> {
    let mut counts = Counts::default();
    let mut after = 0;
    loop {
        let page = machines.store.machines(after, PAGE_LEN).await?;
        let Some(last) = page.last() else { break };
        after = last.sid.split_rid().map_or(u32::MAX, |(_, rid)| rid);
        for machine in page {
            let record = match machines.with_secrets {
                true => machines.store.machine(&machine.name).await?,
                false => None,
            };
            let secrets = record.as_ref().map(|record| &record.secrets);
            write_line(out, &Line::Machine(MachineLine::new(machine, secrets)))?;
            counts.machines += 1;
        }
    }
    out.flush()?;
    Ok(counts)
}

fn write_line(out: &mut dyn Write, line: &Line) -> Result<(), LinesError> {
    serde_json::to_writer(&mut *out, line).map_err(std::io::Error::from)?;
    Ok(out.write_all(b"\n")?)
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use super::*;
    use crate::battery::{domain, find, now, one, sid};
    use crate::{AccountStore, Matches, MemoryStore, Query};

    fn import_text(store: &MemoryStore, text: &str) -> Result<Counts, LinesError> {
        now(import(store, ImportOptions::NEW, &mut text.as_bytes(), text.len() as u64, &mut |_, _| ()))
    }

    #[test]
    fn short_lines_mean_the_usual() {
        let store = MemoryStore::new(domain());
        let lines = r#"
            {"type":"account","name":"alice","member_of":["staff","Later"]}
            {"type":"account","name":"WEB01$","expires":"unset","created":130000000000000005,"logon_hours":"000102030405060708090a0b0c0d0e0f1011121314"}

            {"type":"group","name":"Staff","members":["web01$"]}
            {"type":"group","name":"Later","scope":"local"}"#;
        let counts = import_text(&store, lines).expect("good lines");
        assert_eq!((counts.accounts, counts.groups, counts.machines), (2, 2, 0));
        let alice = one(&store, Query::Name("alice".to_owned()));
        assert_eq!((alice.account.sid, alice.account.kind), (sid(1000), AccountKind::User));
        assert_eq!((alice.account.flags, alice.account.primary_group_id), (AccountFlags::NORMAL, 513));
        assert_eq!((alice.account.expires, alice.account.created), (FileTime::NEVER, FileTime::UNSET));
        let names: Vec<_> = alice.memberships.iter().map(|group| group.name.as_deref()).collect();
        assert_eq!(names, [None, Some("Staff"), Some("Later")]);
        let web01 = one(&store, Query::Name("WEB01$".to_owned()));
        assert_eq!((web01.account.kind, web01.account.primary_group_id), (AccountKind::Computer, 515));
        assert_eq!(
            (web01.account.expires, web01.account.created),
            (FileTime::UNSET, FileTime(130_000_000_000_000_005))
        );
        assert_eq!(web01.account.logon_hours, Some(std::array::from_fn(|n| n as u8)));
        assert_eq!(web01.memberships[1].name.as_deref(), Some("Staff"));
    }

    #[test]
    fn a_wrong_line_is_told_by_its_number_and_changes_nothing() {
        let good = r#"{"type":"account","name":"alice"}"#;
        let long = format!(r#"{{"type":"account","name":"{}"}}"#, "a".repeat(LINE_LEN_MAX));
        let of = |kind: &str, sid: String| format!(r#"{{"type":"{kind}","name":"x$","sid":"{sid}"}}"#);
        let [own, own_group] = ["account", "group"].map(|kind| of(kind, domain().sid.to_string()));
        let own_machine = own.replace(r#""account""#, r#""machine","kind":"workstation""#);
        let no_rid = of("account", sid(0).to_string());
        for (line, why) in [
            ("{", "EOF while parsing"),
            ("[]", "missing field `type`"),
            ("alice", "expected value"),
            (r#"{"name":"x"}"#, "missing field `type`"),
            (r#"{"type":"person","name":"x"}"#, "unknown variant `person`"),
            (r#"{"type":"account"}"#, "missing field `name`"),
            (r#"{"type":"account","name":"x","nmae":"y"}"#, "unknown field `nmae`"),
            (r#"{"type":"account","name":"x","sid":"S-2"}"#, "not a SID"),
            (r#"{"type":"account","name":"x","sid":"S-1-5-21-1-2-3-4"}"#, "is not of domain CONTOSO"),
            (r#"{"type":"account","name":"x","expires":"soon"}"#, "expires: \"soon\" is no time"),
            (r#"{"type":"account","name":"x","expires":-1}"#, "expires: -1 is no time"),
            (r#"{"type":"account","name":"x","expires":null}"#, "expires: null is no time"),
            (r#"{"type":"account","name":"x","expires":"2027-02-29"}"#, "expires: \"2027-02-29\" is no time"),
            (r#"{"type":"account","name":"x","created":"1800-01-01"}"#, "is before 1900"),
            (r#"{"type":"account","name":"x","expires":1800000000}"#, "expires: 1800000000 is before 1900"),
            (
                r#"{"type":"account","name":"x","password_last_set":1800000000}"#,
                "password_last_set: 1800000000 is",
            ),
            (
                r#"{"type":"account","name":"x","password_can_change":1800000000}"#,
                "password_can_change: 1800000000 is",
            ),
            (
                r#"{"type":"account","name":"x","password_must_change":1800000000}"#,
                "password_must_change: 1800000000 is",
            ),
            (
                r#"{"type":"machine","name":"W$","kind":"server","current_since":1800000000,"current_secret":"0cb6948805f797bf2a82807973b89537"}"#,
                "current_since: 1800000000 is before 1900",
            ),
            (r#"{"type":"account","name":"x","created":1}"#, "created: 1 is before 1900"),
            // Seconds, milliseconds and microseconds of a Unix time in 2026.
            (r#"{"type":"account","name":"x","created":1767225600}"#, "is before 1900"),
            (r#"{"type":"account","name":"x","created":1767225600000}"#, "is before 1900"),
            (r#"{"type":"account","name":"x","created":1767225600000000}"#, "is before 1900"),
            (r#"{"type":"account","name":"x","created":94354847999999999}"#, "is before 1900"),
            (r#"{"type":"account","name":"x","logon_hours":"00"}"#, "42 hex digits"),
            (r#"{"type":"account","name":"x","flags":4294967296}"#, "invalid value"),
            (r#"{"type":"account","name":"ALICE"}"#, "exists already"),
            (r#"{"type":"account","name":""}"#, "the name is empty"),
            (r#"{"type":"account","name":"ａlice"}"#, "the name looks like that of account \"alice\""),
            (&own, "is the SID of the domain itself"),
            (&own_group, "is the SID of the domain itself"),
            (&own_machine, "is the SID of the domain itself"),
            (&no_rid, "is not of domain CONTOSO"),
            (r#"{"type":"account","name":"x","sid":"S-1-5-21-1-2-3-1000"}"#, "is not of domain CONTOSO"),
            (&long, "longer than a mebibyte"),
            ("\u{0}", "there are NUL bytes in it, as in UTF-16"),
            ("{\u{0}\"", "there are NUL bytes in it, as in UTF-16"),
        ] {
            let store = MemoryStore::new(domain());
            let error = import_text(&store, &format!("{good}\n\n{line}\n{good}")).expect_err("a wrong line");
            let text = error.to_string();
            assert!(text.starts_with("line 3: ") && text.contains(why), "{line:.80}: {text}");
            assert!(!text.contains(" at line "), "{text}");
            assert_eq!(find(&store, Query::Name("alice".to_owned())), Matches::None);
        }
    }

    /// FILETIMEs by `(date -u -d TEXT +%s + 11644473600) * 10000000`.
    #[test]
    fn a_time_is_a_date_too() {
        for (text, time) in [
            ("2027-01-01", 134_432_352_000_000_000),
            ("2024-02-29", 133_536_384_000_000_000),
            ("2027-01-01T12:30:59Z", 134_432_802_590_000_000),
        ] {
            let store = MemoryStore::new(domain());
            import_text(&store, &format!(r#"{{"type":"account","name":"clara","expires":"{text}"}}"#))
                .expect("a good line");
            let clara = one(&store, Query::Name("clara".to_owned()));
            assert_eq!(clara.account.expires, FileTime(time), "{text}");
        }
    }

    #[test]
    fn byte_order_marks_begin_a_file_and_files_that_are_put_together() {
        let store = MemoryStore::new(domain());
        let lines = "\u{feff}{\"type\":\"account\",\"name\":\"alice\"}\n\u{feff}{\"type\":\"account\",\"name\":\"bob\"}\n\u{feff}\n";
        assert_eq!(import_text(&store, lines).expect("good lines").accounts, 2);
        assert!(import_text(&store, "{\u{feff}\"type\":\"group\",\"name\":\"x\"}").is_err());
    }

    #[test]
    fn what_is_no_object_says_so() {
        let store = MemoryStore::new(domain());
        for text in ["name,upn\n", "[]", "alice", "{\n  \"type\": \"account\",\n  \"name\": \"alice\"\n}\n"] {
            let error = import_text(&store, text).expect_err("a wrong line").to_string();
            assert!(error.contains("each line is one JSON object"), "{error}");
            assert_eq!(error.contains("looks like CSV"), text == "name,upn\n", "{error}");
        }
    }

    #[test]
    fn names_that_are_never_defined_are_told_at_the_end() {
        let store = MemoryStore::new(domain());
        let before = store.revision().expect("the store answers");
        for (line, why) in [
            (r#"{"type":"account","name":"alice","member_of":["Nowhere"]}"#, r#"group "Nowhere""#),
            (r#"{"type":"group","name":"Staff","members":["noone"]}"#, r#"account or group "noone""#),
            (
                r#"{"type":"account","name":"x","member_of":["S-1-5-21-1004336348-1177238915-682003330-7777"]}"#,
                "group S-",
            ),
        ] {
            let line = line.replace("S-1-5-21-1004336348-1177238915-682003330", &domain().sid.to_string());
            let text = format!(
                "{{\"type\":\"account\",\"name\":\"bob\"}}\n\n{line}\n{{\"type\":\"account\",\"name\":\"carol\"}}"
            );
            let error = import_text(&store, &text).expect_err("no such entry").to_string();
            assert!(error.starts_with(&format!("line 3: there is no {why}")), "{error}");
        }
        assert_eq!(store.revision().expect("the store answers"), before);
    }

    #[test]
    fn a_bad_secret_is_not_repeated() {
        let store = MemoryStore::new(domain());
        let line = r#"{"type":"machine","name":"W$","kind":"workstation","current_secret":"hunter2"}"#;
        let text = import_text(&store, line).expect_err("not a hash").to_string();
        assert!(text.contains("NT hash") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn the_last_line_counts_the_others() {
        let read = |text: &str| entries(&domain(), &mut text.as_bytes());
        let two = "{\"type\":\"group\",\"name\":\"Staff\"}\n{\"type\":\"account\",\"name\":\"Alice\",\"sid\":\"S-1-5-21-1-2-3-1000\"}\n";
        let found = read(two).expect("it can be read");
        assert!(!found.has_end && found.counts.entries() == 2);
        let sid = |rid: u32| format!("S-1-5-21-1-2-3-{rid}").parse::<Sid>().expect("a SID");
        assert!(found.has("STAFF", &sid(7)) && found.has("renamed", &sid(1000)));
        assert!(!found.has("alice", &sid(7)), "its line has a SID");
        assert!(read(&format!("{two}{{\"type\":\"end\",\"entries\":2}}\n")).expect("it can be read").has_end);
        for end in [
            "{\"type\":\"end\",\"entries\":3}",
            "{\"type\":\"end\",\"entries\":2}\n{\"type\":\"group\",\"name\":\"Late\"}",
        ] {
            assert!(matches!(read(&format!("{two}{end}\n")), Err(LinesError::Line { .. })), "{end}");
        }
    }

    #[test]
    fn a_dry_run_reads_all_and_changes_nothing() {
        let store = MemoryStore::new(domain());
        let import = |text: &str, is_dry_run| {
            let mut then = Then { is_dry_run, ..Then::default() };
            let mut lines = text.as_bytes();
            now(import_then(
                &store,
                ImportOptions::NEW,
                &mut then,
                &mut lines,
                0,
                &mut |_, _| (),
                &mut |_, _| (),
            ))
        };
        let alice = "{\"type\":\"account\",\"name\":\"alice\"}\n";
        let query = Query::Name("alice".to_owned());
        assert_eq!(import(alice, true).expect("a good line").accounts, 1);
        assert_eq!(now(store.find(&query)).expect("it answers"), Matches::None);
        assert!(import(&format!("{alice}{alice}"), true).is_err(), "a rule is broken");
        import(alice, false).expect("a good line");
        assert!(matches!(now(store.find(&query)), Ok(Matches::One(_))));
    }
}
