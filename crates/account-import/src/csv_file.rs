//! CSV with a first line that names the columns: the fields of the JSON Lines.

use crate::Problem;
use crate::lines::Entry;
use csv::{ByteRecord, Reader, ReaderBuilder, Terminator};
use serde_json::{Map, Number, Value};
use std::io::{self, BufRead, Chain, Read};

/// What the cells of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    /// A time as a number or as text.
    Time,
    /// `true`, `yes` or `1`, or the opposite.
    Bool,
    /// Values between this character.
    List(char),
    /// A text in `profile`.
    Profile,
}

use Kind::{Bool, List, Profile, Text, Time};

/// Mappings contain `;`.
const COLUMNS: [(&str, Kind); 33] = [
    ("type", Text),
    ("name", Text),
    ("sid", Text),
    ("kind", Text),
    ("user_principal_name", Text),
    ("home_domain", Text),
    ("service_principal_names", List(';')),
    ("alt_security_identities", List('\n')),
    ("extra_sids", List(';')),
    ("enabled", Bool),
    ("flags", Kind::Number),
    ("primary_group_id", Kind::Number),
    ("created", Time),
    ("expires", Time),
    ("password_must_change", Time),
    ("password_last_set", Time),
    ("password_can_change", Time),
    ("logon_hours", Text),
    ("logon_count", Kind::Number),
    ("bad_password_count", Kind::Number),
    ("full_name", Profile),
    ("logon_script", Profile),
    ("profile_path", Profile),
    ("home_directory", Profile),
    ("home_directory_drive", Profile),
    ("mail", Profile),
    ("member_of", List(';')),
    ("scope", Text),
    ("members", List(';')),
    ("rcmp", Bool),
    ("domains", List(';')),
    ("groups", List(';')),
    ("entries", Kind::Number),
];

/// Names that PowerShell's `Get-ADUser` has for columns.
const ALIASES: [(&str, &str); 3] =
    [("samaccountname", "name"), ("displayname", "full_name"), ("emailaddress", "mail")];

/// `Full Name`, `full-name` and `FullName` are `full_name`.
fn column(header: &str) -> Option<(&'static str, Kind)> {
    let plain = |text: &str| text.to_lowercase().replace(['_', '-', ' '], "");
    let header = plain(header);
    let header = ALIASES.iter().find(|(alias, _)| *alias == header).map_or(header, |(_, name)| plain(name));
    COLUMNS.iter().find(|(name, _)| plain(name) == header).copied()
}

/// The rows below the first.
pub(crate) struct Rows<'a> {
    reader: Reader<Chain<&'a mut (dyn BufRead + Send), &'static [u8]>>,
    columns: Vec<(&'static str, Kind)>,
    record: ByteRecord,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(input: &'a mut (dyn BufRead + Send)) -> io::Result<Self> {
        if input.fill_buf()?.starts_with("\u{feff}".as_bytes()) {
            input.consume(3);
        }
        let start = input.fill_buf()?;
        let first = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
        // Excel writes `;` in many languages.
        let count = |delimiter: &u8| first.iter().filter(|byte| *byte == delimiter).count();
        let delimiter = [b',', b';', b'\t'].into_iter().rev().max_by_key(count).unwrap_or(b',');
        // Cells are trimmed, so that a carriage return needs no rule. Every line ends, so that lines can be
        // counted.
        let reader = ReaderBuilder::new()
            .has_headers(false)
            .delimiter(delimiter)
            .terminator(Terminator::Any(b'\n'))
            .flexible(true)
            .from_reader(input.chain(&b"\n"[..]));
        let mut rows = Self { reader, columns: Vec::new(), record: ByteRecord::new() };
        let has_columns = rows.reader.read_byte_record(&mut rows.record)?;
        let line = rows.line();
        let problem = |why| Problem { line, why };
        if !has_columns {
            return Err(problem("the file is empty: its first line names the columns".to_owned()).into());
        }
        for header in &rows.record {
            let header = utf8(header).map_err(problem)?.trim();
            let Some(column) = column(header) else {
                let known = COLUMNS.map(|(name, _)| name).join(", ");
                let why =
                    format!("{header:?} is no column: the first line names the columns, which are {known}");
                return Err(problem(why).into());
            };
            if rows.columns.contains(&column) {
                let why = format!("two columns are `{}`: remove one", column.0);
                return Err(problem(why).into());
            }
            rows.columns.push(column);
        }
        if !rows.columns.iter().any(|(name, _)| *name == "name") {
            return Err(problem("no column is `name`".to_owned()).into());
        }
        Ok(rows)
    }

    /// The line where the record begins. The reader is behind its end.
    fn line(&self) -> u64 {
        let breaks = self.record.as_slice().iter().filter(|octet| **octet == b'\n').count() as u64;
        self.reader.position().line().saturating_sub(breaks + 1).max(1)
    }

    fn object(&self) -> Result<Map<String, Value>, String> {
        let (cells, columns) = (self.record.len(), self.columns.len());
        if cells != columns {
            return Err(format!(
                "there are {cells} cells, and {columns} columns: a cell with the separator or a line break has to stand in quotes"
            ));
        }
        let (mut object, mut profile, mut enabled) = (Map::new(), Map::new(), None);
        for (cell, (name, kind)) in self.record.iter().zip(&self.columns) {
            let cell = utf8(cell).map_err(|why| format!("{name}: {why}"))?.trim();
            if cell.is_empty() {
                continue;
            }
            let value = value(cell, *kind).map_err(|why| format!("{name}: {why}"))?;
            match kind {
                Profile => profile.insert((*name).to_owned(), value),
                Bool if *name == "enabled" => enabled.replace(value == Value::Bool(true)).map(Value::Bool),
                _ => object.insert((*name).to_owned(), value),
            };
        }
        if !profile.is_empty() {
            object.insert("profile".to_owned(), Value::Object(profile));
        }
        let entry_type = object.entry("type").or_insert_with(|| "account".into()).clone();
        match (enabled, entry_type == "account") {
            (Some(enabled), true) => set_enabled(&mut object, enabled)?,
            (Some(enabled), false) => drop(object.insert("enabled".to_owned(), Value::Bool(enabled))),
            (None, _) => {}
        }
        Ok(object)
    }
}

impl Iterator for Rows<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        loop {
            let problem = |line, why| Some(Err(Problem { line, why }));
            match self.reader.read_byte_record(&mut self.record) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return problem(self.reader.position().line(), error.to_string()),
            }
            let line = self.line();
            // Spreadsheets write rows of separators below the last one that has something.
            if self.record.iter().all(|cell| cell.trim_ascii().is_empty()) {
                continue;
            }
            return match self.object() {
                Ok(object) => Some(Ok((line, object))),
                Err(why) => problem(line, why),
            };
        }
    }
}

fn utf8(cell: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(cell).map_err(|_| "this is no UTF-8: save the file as \"CSV UTF-8\"".to_owned())
}

fn value(cell: &str, kind: Kind) -> Result<Value, String> {
    let number = || cell.parse::<u64>().ok().map(|number| Value::Number(Number::from(number)));
    Ok(match kind {
        Text | Profile => cell.into(),
        Kind::Number => number().ok_or_else(|| format!("{cell:?} is no number"))?,
        Time => number().unwrap_or_else(|| cell.into()),
        Bool => match cell.to_ascii_lowercase().as_str() {
            "true" | "yes" | "1" => true.into(),
            "false" | "no" | "0" => false.into(),
            _ => return Err(format!("{cell:?} is neither true nor false")),
        },
        List(separator) => {
            cell.split(separator).map(str::trim).filter(|value| !value.is_empty()).map(Value::from).collect()
        }
    })
}

/// `userAccountControl` of an account that is, or is not, enabled.
fn set_enabled(object: &mut Map<String, Value>, enabled: bool) -> Result<(), String> {
    if object.contains_key("flags") {
        return Err("both `enabled` and `flags` say whether the account is enabled: remove one".to_owned());
    }
    let text = |field: &str| object.get(field).and_then(Value::as_str);
    let is_computer =
        text("kind").map_or(text("name").is_some_and(|name| name.ends_with('$')), |kind| kind == "computer");
    let flags = if is_computer { 0x1000 } else { 0x200 };
    object.insert("flags".to_owned(), (if enabled { flags } else { flags | 2 }).into());
    Ok(())
}
