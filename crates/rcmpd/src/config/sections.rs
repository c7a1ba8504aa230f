//! What a configuration has, and what it had when it was loaded before.
//!
//! A file that is cut off between two sections is well formed. It has fewer rules than before, and fewer rules often let in more.

use std::collections::BTreeMap;
use std::fmt;

/// Sections whose entries take something away from what the rest allows: without them a service would go on and allow more, or write less.
/// `[audit.heads]` is not among them, because it changes with a restart only.
const RULES: [&str; 3] = ["mapping.authority", "sidecar.route", "audit"];

/// The sections and keys of a configuration, by their paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sections(BTreeMap<String, Part>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Key,
    Table,
    /// So many tables of one name.
    Tables(usize),
}

/// Something that a configuration had, and has no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    path: String,
    before: Part,
    now: usize,
}

impl Gone {
    /// Whether what is left may allow more than before.
    pub fn is_rule(&self) -> bool {
        RULES.contains(&self.path.as_str())
    }
}

/// As it is written: `[audit]`, `[[sidecar.route]] (3 before, 2 now)`, `mapping.crls`.
impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.before {
            Part::Key => f.write_str(&self.path),
            Part::Table => write!(f, "[{}]", self.path),
            Part::Tables(before) => write!(f, "[[{}]] ({before} before, {} now)", self.path, self.now),
        }
    }
}

impl Sections {
    pub(super) fn of(text: &str) -> Self {
        let mut sections = Self::default();
        if let Ok(table) = text.parse::<toml::Table>() {
            sections.add(&table, "");
        }
        sections
    }

    fn add(&mut self, table: &toml::Table, prefix: &str) {
        for (name, value) in table {
            let path = format!("{prefix}{name}");
            let part = match value {
                toml::Value::Table(inner) => {
                    self.add(inner, &format!("{path}."));
                    Part::Table
                }
                toml::Value::Array(items) if !items.is_empty() && items.iter().all(toml::Value::is_table) => {
                    Part::Tables(items.len())
                }
                _ => Part::Key,
            };
            self.0.insert(path, part);
        }
    }

    /// What `before` has and this has not. Of a section that is gone, its keys are not listed.
    pub fn lack(&self, before: &Self) -> Vec<Gone> {
        let count = |part: Option<&Part>| match part {
            None => 0,
            Some(Part::Tables(count)) => *count,
            Some(_) => 1,
        };
        let is_below_gone =
            |path: &str| path.match_indices('.').any(|(at, _)| !self.0.contains_key(&path[..at]));
        before
            .0
            .iter()
            .map(|(path, part)| (path, *part, count(self.0.get(path))))
            .filter(|(path, part, now)| *now < count(Some(part)) && !is_below_gone(path))
            .map(|(path, before, now)| Gone { path: path.clone(), before, now })
            .collect()
    }
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
        let rules = |text: &str| {
            Sections::of(text).lack(&Sections::of(WHOLE)).iter().filter(|gone| gone.is_rule()).count()
        };
        assert_eq!(rules(&WHOLE.replace("[[peer]]\ndomain = \"B\"\n", "")), 0);
        assert_eq!(rules(&WHOLE.replace("[[mapping.authority]]\ncertificate = \"b\"\n", "")), 1);
    }
}
