//! What a configuration has, and what it had when it was loaded before.
//!
//! A file that is cut off at the end of a line is often well formed. It has fewer rules than before, and
//! fewer rules often let in more.

use super::shown::{self, Shown};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use toml::{Table, Value};

/// Sections in which less may allow more, or write less into the audit log: all that a reload takes over.
const RULES: [&str; 6] = ["mapping", "sidecar.route", "audit", "forward", "peer", "sso.kerberos.realm"];
/// A policy that never acts: without it nothing is allowed that was not before.
const SHADOW: &str = "mapping.shadow";
/// Entries that add rights by being there. A key that one of them lacks is still a rule.
const ADDING: [&str; 2] = ["peer", "relay"];

/// The sections and keys of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Sections {
    table: Table,
    text: Arc<str>,
    digest: [u8; 32],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Key,
    Table,
    /// A key of the entry with this number.
    KeyOf(usize),
    /// So many tables of one name, of which so many are left.
    Tables(usize, usize),
}

/// Something that a configuration had, and has no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    path: String,
    key: String,
    part: Part,
}

impl Gone {
    /// Whether what is left may allow more than before.
    pub fn is_rule(&self) -> bool {
        let is_entry = matches!(self.part, Part::Tables(..));
        // A section counts with all that is in it.
        let is_in = |path: &str, section: &str| {
            path.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let is_rule = RULES.iter().any(|rule| is_in(&self.path, rule) || is_in(rule, &self.path));
        is_rule && !is_in(&self.path, SHADOW) && !(is_entry && ADDING.contains(&self.path.as_str()))
    }
}

/// As it is written: `[audit]`, `[[sidecar.route]] (3 before, 2 now)`, `groups of [[sidecar.route]] number
/// 2`, `mapping.crls`.
impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, key, part } = self;
        match part {
            Part::Key => f.write_str(path),
            Part::Table => write!(f, "[{path}]"),
            Part::KeyOf(number) => write!(f, "{key} of [[{path}]] number {number}"),
            Part::Tables(before, now) => write!(f, "[[{path}]] ({before} before, {now} now)"),
        }
    }
}

impl Sections {
    pub(super) fn of(text: &str) -> Self {
        Self {
            table: text.parse().unwrap_or_default(),
            text: text.into(),
            digest: Sha256::digest(text).into(),
        }
    }

    /// Every key with its value, and where it is from. It reads the reference of all keys.
    pub(crate) fn keys(&self) -> Vec<Shown> {
        shown::shown(&self.text, |name| std::env::var(name).ok())
    }

    /// The SHA-256 of the file.
    pub const fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// What `before` has and this has not. Of a section that is gone, its keys are not listed.
    pub fn lack(&self, before: &Self) -> Vec<Gone> {
        let mut gone = Vec::new();
        lack(&before.table, &self.table, "", &mut gone);
        gone
    }
}

/// Of the same file.
impl PartialEq for Sections {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Sections {}

/// The entries of an array of tables, which is not empty.
fn entries(value: &Value) -> Option<Vec<&Table>> {
    let items = value.as_array().filter(|items| !items.is_empty())?;
    items.iter().map(Value::as_table).collect()
}

fn lack(before: &Table, now: &Table, prefix: &str, gone: &mut Vec<Gone>) {
    for (name, value) in before {
        let path = format!("{prefix}{name}");
        let left = now.get(name).filter(|left| !is_emptied(value, left));
        let mut lacks = |part| gone.push(Gone { path: path.clone(), key: String::new(), part });
        if let Some(entries_before) = entries(value) {
            let entries_now = left.and_then(entries).unwrap_or_default();
            if entries_now.len() < entries_before.len() {
                lacks(Part::Tables(entries_before.len(), entries_now.len()));
            }
            lack_in_entries(&path, &entries_before, entries_now, gone);
            continue;
        }
        match (value.as_table(), left) {
            (Some(_), None) => lacks(Part::Table),
            (None, None) => lacks(Part::Key),
            (Some(before), Some(now)) => {
                let empty = Table::new();
                lack(before, now.as_table().unwrap_or(&empty), &format!("{path}."), gone);
            }
            (None, Some(_)) => {}
        }
    }
}

/// Whether a list had entries and has none: as much as one that is removed.
fn is_emptied(before: &Value, now: &Value) -> bool {
    let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    is_empty(now) && !is_empty(before)
}

/// Entries that are the same are found wherever they stand now; of the others, the first is compared with the
/// first.
fn lack_in_entries(path: &str, before: &[&Table], mut now: Vec<&Table>, gone: &mut Vec<Gone>) {
    let mut changed = Vec::new();
    for (number, entry) in (1..).zip(before) {
        match now.iter().position(|other| other == entry) {
            Some(at) => drop(now.remove(at)),
            None => changed.push((number, entry)),
        }
    }
    for ((number, before), now) in changed.into_iter().zip(now) {
        let left = keys(now, "");
        for key in keys(before, "").difference(&left) {
            gone.push(Gone { path: path.to_owned(), key: key.clone(), part: Part::KeyOf(number) });
        }
    }
}

/// The keys of an entry and of the tables in it, without lists that have no entry.
fn keys(table: &Table, prefix: &str) -> BTreeSet<String> {
    let has_entries = |(_, value): &(&String, &Value)| value.as_array().is_none_or(|list| !list.is_empty());
    let below = |(name, value): (&String, &Value)| {
        let path = format!("{prefix}{name}");
        let inner = value.as_table().map(|inner| keys(inner, &format!("{path}."))).unwrap_or_default();
        std::iter::once(path).chain(inner)
    };
    table.iter().filter(has_entries).flat_map(below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "[domain]\nnetbios = \"A\"\n[mapping]\nanchors = [\"a\"]\ncrls = [\"b\"]\n[mapping.shadow]\nbinding = \"off\"\n\
         [[mapping.authority]]\ncertificate = \"a\"\n[[mapping.authority]]\ncertificate = \"b\"\n[audit]\npath = \"x\"\n\
         [audit.heads]\nkey = \"k\"\n[[peer]]\ndomain = \"B\"\n";

    fn gone(text: &str) -> Vec<String> {
        Sections::of(text).lack(&Sections::of(WHOLE)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_gone_is_named_as_it_was_written() {
        assert!(gone(WHOLE).is_empty());
        assert!(gone(&format!("{WHOLE}[sidecar]\n")).is_empty());
        for (cut, expected) in [
            ("[[peer]]", vec!["[[peer]] (1 before, 0 now)"]),
            ("[audit.heads]", vec!["[audit.heads]", "[[peer]] (1 before, 0 now)"]),
            ("[audit]", vec!["[audit]", "[[peer]] (1 before, 0 now)"]),
            (
                "[[mapping.authority]]\ncertificate = \"b\"",
                vec!["[audit]", "[[mapping.authority]] (2 before, 1 now)", "[[peer]] (1 before, 0 now)"],
            ),
        ] {
            let at = WHOLE.find(cut).expect("it is there");
            assert_eq!(gone(&WHOLE[..at]), expected, "cut before {cut}");
        }
        assert_eq!(gone(&WHOLE.replace("crls = [\"b\"]\n", "")), ["mapping.crls"]);
        assert_eq!(gone(&WHOLE.replace("crls = [\"b\"]", "crls = []")), ["mapping.crls"]);
        let rules = |text: &str| {
            Sections::of(text).lack(&Sections::of(WHOLE)).iter().filter(|gone| gone.is_rule()).count()
        };
        assert_eq!(rules(&WHOLE.replace("[[peer]]\ndomain = \"B\"\n", "")), 0);
        assert_eq!(rules(&WHOLE.replace("[[mapping.authority]]\ncertificate = \"b\"\n", "")), 1);
        assert_eq!(rules(&WHOLE.replace("crls = [\"b\"]\n", "")), 1);
    }

    const ENTRIES: &str = "[[peer]]\ndomain = \"B\"\nforeign_sids = \"drop\"\n[[sidecar.route]]\npath = \"/a\"\ngroups = [\"x\"]\n\
         [[sidecar.route]]\npath = \"/b\"\ngroups = [\"y\"]\n";

    fn gone_of_entries(text: &str) -> Vec<(String, bool)> {
        let gone = Sections::of(text).lack(&Sections::of(ENTRIES));
        gone.iter().map(|gone| (gone.to_string(), gone.is_rule())).collect()
    }

    #[test]
    fn what_an_entry_lacks_is_a_rule() {
        let groups = |number| vec![(format!("groups of [[sidecar.route]] number {number}"), true)];
        assert_eq!(gone_of_entries(&ENTRIES.replace("groups = [\"x\"]\n", "")), groups(1));
        assert_eq!(gone_of_entries(&ENTRIES.replace("groups = [\"y\"]\n", "")), groups(2));
        let of_peer = vec![("foreign_sids of [[peer]] number 1".to_owned(), true)];
        assert_eq!(gone_of_entries(&ENTRIES.replace("foreign_sids = \"drop\"\n", "")), of_peer);
        // In another order, one of them without its groups; and one without any key.
        let (peer, routes) = ENTRIES.split_at(ENTRIES.find("[[sidecar").expect("it is there"));
        let (first, second) = routes.split_at(routes.rfind("[[sidecar").expect("it is there"));
        assert!(gone_of_entries(&format!("{second}{first}{peer}")).is_empty());
        let without = first.replace("groups = [\"x\"]\n", "");
        assert_eq!(gone_of_entries(&format!("{second}{without}{peer}")), groups(1));
        assert_eq!(gone_of_entries(&format!("{peer}{first}[[sidecar.route]]\n")).len(), 2);
        let none = gone_of_entries(&format!("{peer}[sidecar]\nroute = []\n"));
        assert_eq!(none, [("[[sidecar.route]] (2 before, 0 now)".to_owned(), true)]);
        // An emptied list is a removed one.
        assert_eq!(gone_of_entries(&ENTRIES.replace("[\"x\"]", "[]")), groups(1));
        assert!(gone_of_entries(&ENTRIES.replace("path = \"/a\"", "path = \"/a\"\nsids = []")).is_empty());
        // Without them a KDC chooses whose SIDs its users have.
        let realm = "[[sso.kerberos.realm]]\nname = \"A\"\nsids = [\"S-1-5-21-1-2-3\"]\n";
        let gone = Sections::of("[[sso.kerberos.realm]]\nname = \"A\"\n").lack(&Sections::of(realm));
        assert_eq!(
            gone.iter().map(|gone| (gone.to_string(), gone.is_rule())).collect::<Vec<_>>(),
            [("sids of [[sso.kerberos.realm]] number 1".to_owned(), true)]
        );
        // Changed values are no less.
        assert!(gone_of_entries(&ENTRIES.replace("\"y\"", "\"z\"")).is_empty());
    }

    /// Each cut at the end of a line lacks a rule.
    #[test]
    fn each_cut_lacks_a_rule() {
        let lines: Vec<&str> = ENTRIES.split_inclusive('\n').collect();
        for at in 1..lines.len() {
            let gone = gone_of_entries(&lines[..at].concat());
            assert!(gone.iter().any(|(_, is_rule)| *is_rule), "{at}: {gone:?}");
        }
    }
}
