//! Where a program of others reads the same bytes, and what is known about how it differs.

use crate::notation::NameCase;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The file `differences.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Differences {
    /// By oracle: its words for attribute types, and ours.
    #[serde(default)]
    pub(crate) words: BTreeMap<String, BTreeMap<String, String>>,
    /// Each difference that stays.
    difference: Vec<Difference>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    /// The `what` of a case, or what the oracle's test calls it.
    case: String,
    oracle: String,
    theirs: String,
    /// Why ours stands.
    why: String,
    #[serde(skip)]
    met: bool,
}

/// What one oracle says, held against what we say.
pub(crate) struct Comparison<'a> {
    oracle: &'a str,
    differences: Differences,
    same: usize,
    unexplained: Vec<String>,
}

impl Differences {
    pub(crate) fn read(folder: &Path) -> Self {
        let text = std::fs::read_to_string(folder.join("differences.toml")).expect("the file is there");
        let read: Self = toml::from_str(&text).unwrap_or_else(|error| panic!("differences.toml: {error}"));
        assert!(read.difference.iter().all(|one| !one.why.trim().is_empty()), "each difference has a reason");
        read
    }

    pub(crate) fn with(self, oracle: &str) -> Comparison<'_> {
        Comparison { oracle, differences: self, same: 0, unexplained: Vec::new() }
    }
}

impl Comparison<'_> {
    /// Our word for an attribute type that the oracle calls `word`.
    pub(crate) fn word(&self, word: &str) -> String {
        let ours = self.differences.words.get(self.oracle).and_then(|words| words.get(word));
        ours.map_or(word, String::as_str).to_owned()
    }

    /// Takes note of what both say of a case.
    pub(crate) fn note(&mut self, case: &str, ours: &str, theirs: &str) {
        if ours == theirs {
            self.same += 1;
            return;
        }
        let known = self.differences.difference.iter_mut();
        let mut known = known.filter(|known| known.oracle == self.oracle && known.case == case);
        match known.find(|known| known.theirs == theirs) {
            Some(known) => known.met = true,
            None => self.unexplained.push(format!("{case}\n  ours   {ours:?}\n  theirs {theirs:?}")),
        }
    }

    /// Fails for a difference without an explanation, for an explanation of none, and for a comparison of too
    /// little.
    #[track_caller]
    pub(crate) fn finish(self, same_min: usize) {
        let unexplained = self.unexplained.join("\n");
        assert!(unexplained.is_empty(), "{} differs\n{unexplained}", self.oracle);
        let known = self.differences.difference.iter();
        let stale: Vec<_> = known.filter(|known| known.oracle == self.oracle && !known.met).collect();
        let stale: Vec<_> = stale.iter().map(|known| (&known.case, &known.theirs)).collect();
        assert!(stale.is_empty(), "explained, and not met: {stale:#?}");
        assert!(self.same >= same_min, "{} alike of {same_min}", self.same);
    }
}

/// The cases of a file of tables, by what they say.
pub(crate) fn cases<Case: serde::de::DeserializeOwned>(folder: &Path, file: &str) -> Vec<(String, Case)> {
    #[derive(Deserialize)]
    struct File {
        case: Vec<toml::Table>,
    }
    let text = std::fs::read_to_string(folder.join(file)).expect("the file is there");
    let file: File = toml::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
    let split = |mut case: toml::Table| {
        let what = case.remove("what").and_then(|what| what.as_str().map(str::to_owned));
        for key in ["rule", "differs"] {
            case.remove(key);
        }
        (what.expect("a case says what"), case.try_into().expect("a case is its file's"))
    };
    file.case.into_iter().map(split).collect()
}

/// The names of `names.toml`.
pub(crate) fn names(folder: &Path) -> Vec<(String, NameCase)> {
    cases(folder, "names.toml")
}
