//! The command blocks of README and `docs/`, run as they are printed. `tests/run_docs.py` says how a page marks them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// The pages, each with the number of its blocks that are not run. Such a block has its reason above it, in a comment.
const PAGES: [(&str, usize); 1] = [("README.md", 2)];

/// More blocks than these are not left out: a reader pastes them all.
const NOT_RUN_MAX: usize = 8;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn run(page: &str) {
    let not_run = PAGES.iter().find(|(name, _)| *name == page).expect("the page is listed").1;
    let binary = rcmpd_tests::binary();
    let path = format!("{}:{}:/usr/sbin:/sbin", binary.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let done = Command::new("python3")
        .args(["tests/run_docs.py", page, &not_run.to_string()])
        .env("PATH", path)
        .current_dir(root())
        .output()
        .unwrap();
    let (told, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{told}{errors}");
}

#[test]
fn commands_of_the_readme_run_as_printed() {
    run("README.md");
}

#[test]
fn every_page_is_run_and_few_blocks_are_left_out() {
    let mut found = BTreeSet::from(["README.md".to_owned()]);
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            found.insert(format!("docs/{name}"));
        }
    }
    let listed: BTreeSet<String> = PAGES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(found, listed);
    assert!(PAGES.iter().map(|(_, not_run)| not_run).sum::<usize>() <= NOT_RUN_MAX);
}
