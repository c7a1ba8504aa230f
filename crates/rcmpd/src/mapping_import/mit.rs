//! `pkinit_cert_match` of MIT Kerberos: which of its certificates a client shows, and in the KDC's `dbmatch` which
//! certificates a principal may have.
//!
//! The rules only match. Whose a certificate is, MIT Kerberos reads in the name in it; so do we, by the method `upn`.

use super::matching::{self, Grammar};
use super::{Foreign, Form, KnownAuthority, RULES_MAX, Rule, Told};
use std::collections::BTreeSet;

/// The deepest blocks of a profile; real ones have two.
const DEPTH_MAX: usize = 8;

pub(super) fn read(text: &str, authorities: &[KnownAuthority], told: &mut Told) -> Foreign {
    let mut read = Foreign::default();
    let mut section = "";
    let mut blocks: Vec<&str> = Vec::new();
    let mut place: Option<(&str, Vec<&str>)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if told.is_full() {
            break;
        }
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with('[') {
            (section, blocks) = (line, Vec::new());
            continue;
        }
        if line.starts_with('}') {
            if blocks.pop().is_none() {
                told.problem(
                    number,
                    line,
                    "no block is open here",
                    "import a whole block, or the rules alone",
                );
            }
            continue;
        }
        let rule = if line.starts_with(['<', '&', '|']) {
            line
        } else {
            let Some((key, value)) = line.split_once('=').map(|(key, value)| (key.trim(), value.trim()))
            else {
                told.problem(
                    number,
                    line,
                    "this is neither a rule nor a setting",
                    "write pkinit_cert_match = RULE, or RULE",
                );
                continue;
            };
            match key {
                _ if value == "{" => {
                    blocks.push(key);
                    if blocks.len() > DEPTH_MAX {
                        told.problem(number, line, "blocks are too deep", "import the rules alone");
                        return read;
                    }
                    continue;
                }
                "pkinit_cert_match" => value,
                "pkinit_require_crl_checking" => {
                    let yes = ["true", "t", "yes", "y", "1", "on"];
                    read.revocation |= yes.iter().any(|yes| yes.eq_ignore_ascii_case(value));
                    continue;
                }
                _ => {
                    if key.starts_with("pkinit_") {
                        told.note(format!("{key} is not taken over"));
                    }
                    continue;
                }
            }
        };
        let here = (section, blocks.clone());
        if *place.get_or_insert_with(|| here.clone()) != here {
            told.problem(
                number,
                line,
                "rules of several realms cannot be one configuration",
                "import the rules of one realm at a time",
            );
            continue;
        }
        if rule.starts_with('"') {
            told.problem(number, line, "a value in quotes is not read", "write it without quotes");
            continue;
        }
        if read.rules.len() >= RULES_MAX {
            told.problem(number, line, "there are more than 256 rules", "import fewer at a time");
            return read;
        }
        let conditions = matching::conditions(Grammar::Mit, number, rule, authorities, told);
        read.rules.push(Rule {
            line: number,
            text: rule.to_owned(),
            rank: number as u64,
            conditions,
            forms: BTreeSet::from([Form::Upn]),
        });
    }
    if !read.rules.is_empty() {
        told.note(
            "MIT Kerberos chooses certificates by these rules and reads in them whose they are; here accounts are found by the user \
             principal name, and the Kerberos principal of PKINIT is not read",
        );
    }
    read
}
