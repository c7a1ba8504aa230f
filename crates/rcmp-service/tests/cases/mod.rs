//! Cases in files of data: how they are read, run and told. Both tables use it.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// The cases of a file in `folder`.
fn read(folder: &Path, file: &str) -> Vec<toml::Table> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        case: Vec<toml::Table>,
    }
    let path = folder.join(file).with_extension("toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    toml::from_str::<File>(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())).case
}

/// Takes one of the keys that every case has.
fn take(case: &mut toml::Table, key: &str) -> Result<Option<String>, String> {
    match case.remove(key) {
        None => Ok(None),
        Some(toml::Value::String(text)) if !text.trim().is_empty() => Ok(Some(text)),
        Some(other) => Err(format!("{key} is no sentence: {other}")),
    }
}

/// Runs all cases of some files, and tells all that fail.
#[track_caller]
pub(crate) fn run<Case: DeserializeOwned>(folder: &Path, files: &[&str], check: impl Fn(&Case)) {
    let mut failures = Vec::new();
    for file in files {
        let mut told = HashSet::new();
        for (number, mut case) in (1..).zip(read(folder, file)) {
            let what = take(&mut case, "what").ok().flatten().unwrap_or_default();
            let run = || -> Result<(), String> {
                let rule = take(&mut case, "rule")?.ok_or("there is no rule")?;
                take(&mut case, "differs")?;
                if what.is_empty() || !told.insert(what.clone()) {
                    return Err("what is no sentence of its own".into());
                }
                if !rule.contains(": ") {
                    return Err(format!("the rule names no place and sentence: {rule}"));
                }
                let case: Case = case.try_into().map_err(|error: toml::de::Error| error.to_string())?;
                catch_unwind(AssertUnwindSafe(|| check(&case))).map_err(|panic| {
                    let text = panic.downcast_ref::<String>().map(String::as_str);
                    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
                })
            };
            if let Err(error) = run() {
                failures.push(format!("{file}.toml, case {number}, {what}: {error}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} cases fail\n{}", failures.len(), failures.join("\n"));
}

/// The folder has exactly these files of cases and `others`, and at least so many cases.
#[track_caller]
pub(crate) fn count(folder: &Path, files: &[&str], others: &[&str], cases_min: usize) {
    let found: HashSet<String> = std::fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    let known = files.iter().chain(others).map(|file| (*file).to_owned()).collect();
    assert_eq!(found, known, "each file of the folder has a test");
    let count: BTreeMap<&str, usize> = files.iter().map(|file| (*file, read(folder, file).len())).collect();
    let all: usize = count.values().sum();
    println!("{all} cases: {count:?}");
    assert!(all >= cases_min, "{all} cases of {cases_min}: {count:?}");
}
