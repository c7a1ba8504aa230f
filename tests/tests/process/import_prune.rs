//! `rcmpd import --prune`: what is not in the file goes, unless the file may be cut off or too much would go.

use rcmpd_tests::postgres::Postgres;
use rcmpd_tests::{Demo, Finished};
use std::fs;

/// Of an export.
fn exported(demo: &Demo, name: &str) -> String {
    demo.rcmpd(&["export", name, "-c", "rcmpd.toml"]).code(0);
    let text = fs::read_to_string(demo.path(name)).unwrap();
    fs::remove_file(demo.path(name)).unwrap();
    text
}

fn import(demo: &Demo, text: &str, more: &[&str]) -> Finished {
    fs::write(demo.path("in.jsonl"), text).unwrap();
    demo.rcmpd(&[&["import", "in.jsonl", "--replace", "-c", "rcmpd.toml"], more].concat())
}

/// The same text without the lines that have `part`, and with the right number at its end.
fn without(text: &str, part: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains(part)).collect();
    let (end, entries) = lines.split_last().unwrap();
    assert!(end.contains("\"end\""), "{end}");
    let end = format!("{{\"type\":\"end\",\"entries\":{}}}", entries.len());
    entries.iter().copied().chain([end.as_str()]).map(|line| format!("{line}\n")).collect()
}

fn prunes(demo: &Demo) {
    for n in 0..20 {
        demo.rcmpd(&["account", "add", &format!("person{n}"), "-c", "rcmpd.toml"]).code(0);
    }
    let whole = exported(demo, "whole.jsonl");
    let refused = |text: &str, more: &[&str], code, why: &str| {
        let told = import(demo, text, &[&["--prune"], more].concat()).code(code);
        assert!(told.stderr.contains(why), "{told:?}");
        assert_eq!(exported(demo, "after.jsonl"), whole, "nothing was changed");
    };
    // Cut in a line, at the end of a line, and empty.
    let ends: Vec<usize> = whole.match_indices('\n').map(|(at, _)| at + 1).collect();
    refused(&whole[..ends[ends.len() / 2] - 3], &[], 6, "EOF");
    for end in [ends[0], ends[ends.len() / 2], ends[ends.len() - 2]] {
        refused(&whole[..end], &[], 6, "may be cut off");
    }
    refused("", &["--prune-max", "100"], 6, "may be cut off");
    let other_end = whole.lines().nth(4).unwrap().to_owned() + "\n" + whole.lines().last().unwrap() + "\n";
    refused(&other_end, &[], 6, "entries when it was written");
    let twice = format!("{whole}{}\n", whole.lines().next().unwrap());
    refused(&twice, &[], 6, "after the one with the type");
    // A file that is whole and has lost too many.
    let few = without(&whole, "\"person");
    refused(&few, &[], 1, "20 users of 23 users would be removed");
    refused("{\"type\":\"end\",\"entries\":0}\n", &["--prune-max", "50"], 1, "would be removed");
    let fewer = without(&whole, "\"person7\"");
    let dry = import(demo, &fewer, &["--prune", "--dry-run"]).code(0);
    assert!(dry.stdout.contains("Would import") && dry.stderr.contains("1 user: person7"), "{dry:?}");
    assert_eq!(exported(demo, "after.jsonl"), whole, "a dry run changes nothing");

    let told = import(demo, &fewer, &["--prune"]).code(0);
    assert!(told.stderr.contains("Not in the file: 1 user: person7"), "{told:?}");
    assert_eq!(exported(demo, "after.jsonl"), fewer);
    // Computers, machines and the groups that every domain has stay.
    let told = import(demo, "{\"type\":\"end\",\"entries\":0}\n", &["--prune", "--prune-max", "100"]).code(0);
    assert!(told.stderr.contains("22 users"), "{told:?}");
    let left = exported(demo, "after.jsonl");
    assert_eq!(left.lines().filter(|line| line.contains("\"kind\":\"user\"")).count(), 0, "{left}");
    for name in ["WEB01$", "Domain Users", "Domain Computers"] {
        assert!(left.contains(&format!("\"name\":\"{name}\"")), "{left}");
    }
}

#[test]
fn a_file_that_is_cut_off_or_lost_too_much_removes_no_account() {
    prunes(&Demo::new());
    let alone = Demo::new().rcmpd(&["import", "in.jsonl", "--prune", "-c", "rcmpd.toml"]).code(2);
    assert!(alone.stderr.contains("--replace"), "{alone:?}");
}

#[test]
fn the_same_holds_in_postgresql() {
    let server = Postgres::start();
    prunes(&Demo::new().into_postgres(&server, ""));
}
