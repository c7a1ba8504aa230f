//! `pkinit_cert_match` of MIT Kerberos: it selects the certificate that a client uses, and in `dbmatch` of
//! the KDC the certificates that a principal may have.
//!
//! The rules only match. MIT Kerberos reads the principal from a name in the certificate; here that is the
//! method `upn`.

use super::matching::{self, Grammar};
use super::{Foreign, ImportReport, KnownAuthority, RULES_MAX, Rule};
use rcmp_service::Form;
use std::collections::BTreeSet;

/// Limit of nested blocks; real profiles have two.
const DEPTH_MAX: usize = 8;

/// A line of a profile (krb5.conf(5)).
enum Line<'a> {
    /// A rule, alone or as the value of `pkinit_cert_match`.
    Rule(&'a str),
    /// Another setting.
    Setting(&'a str, &'a str),
}

/// Reads a profile line by line, and keeps the section and the blocks of the current line.
#[derive(Default)]
struct Profile<'a> {
    section: &'a str,
    blocks: Vec<&'a str>,
}

impl<'a> Profile<'a> {
    /// The rule or setting of a line; `None` for lines without one, and for errors, which are reported.
    fn line(&mut self, number: usize, line: &'a str, report: &mut ImportReport) -> Option<Line<'a>> {
        if line.is_empty() || line.starts_with(['#', ';']) {
            return None;
        }
        if line.starts_with('[') {
            (self.section, self.blocks) = (line, Vec::new());
            return None;
        }
        if line.starts_with('}') {
            if self.blocks.pop().is_none() {
                let help = "import a whole block, or the rules alone";
                report.problem(number, line, "no block is open here", help);
            }
            return None;
        }
        if line.starts_with(['<', '&', '|']) {
            return Some(Line::Rule(line));
        }
        match line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
            None => {
                let help = "write pkinit_cert_match = RULE, or RULE";
                report.problem(number, line, "this is neither a rule nor a setting", help);
                None
            }
            Some((key, "{")) => {
                self.blocks.push(key);
                None
            }
            Some(("pkinit_cert_match", rule)) => Some(Line::Rule(rule)),
            Some((key, value)) => Some(Line::Setting(key, value)),
        }
    }
}

pub(super) fn read(text: &str, authorities: &[KnownAuthority], report: &mut ImportReport) -> Foreign {
    let mut read = Foreign::default();
    let mut profile = Profile::default();
    let mut place: Option<(&str, Vec<&str>)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if report.is_full() {
            break;
        }
        let found = profile.line(number, line, report);
        if profile.blocks.len() > DEPTH_MAX {
            report.problem(number, line, "blocks are nested too deep", "import the rules alone");
            return read;
        }
        let rule = match found {
            None => continue,
            Some(Line::Rule(rule)) => rule,
            Some(Line::Setting(key, value)) => {
                setting(key, value, &mut read, report);
                continue;
            }
        };
        let here = (profile.section, profile.blocks.clone());
        if *place.get_or_insert_with(|| here.clone()) != here {
            let help = "import the rules of one realm at a time";
            report.problem(number, line, "rules of several realms cannot be one configuration", help);
            continue;
        }
        if rule.starts_with('"') {
            report.problem(number, line, "a value in quotes is not supported", "write it without quotes");
            continue;
        }
        if read.rules.len() >= RULES_MAX {
            report.problem(number, line, "there are more than 256 rules", "import fewer at a time");
            return read;
        }
        let conditions = matching::conditions(Grammar::Mit, number, rule, authorities, report);
        read.rules.push(Rule {
            line: number,
            text: rule.to_owned(),
            rank: number as u64,
            conditions,
            forms: BTreeSet::from([Form::Upn]),
        });
    }
    if !read.rules.is_empty() {
        report.note(
            "MIT Kerberos selects certificates by these rules and reads the principal from the certificate; here accounts are found by \
             the user principal name, and the Kerberos principal of PKINIT is not used",
        );
    }
    read
}

fn setting(key: &str, value: &str, read: &mut Foreign, report: &mut ImportReport) {
    match key {
        "pkinit_require_crl_checking" => {
            let yes = ["true", "t", "yes", "y", "1", "on"];
            read.revocation |= yes.iter().any(|yes| yes.eq_ignore_ascii_case(value));
        }
        _ if key.starts_with("pkinit_") => report.note(format!("{key} is not translated")),
        _ => {}
    }
}
