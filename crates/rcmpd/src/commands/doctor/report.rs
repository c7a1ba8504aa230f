//! What the checks found, and how it is printed.

use crate::output;
use serde_json::{Value, json};
use std::path::Path;

/// What is checked, in the order in which it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Check {
    Configuration,
    Permissions,
    Users,
    Store,
    Keytab,
    MasterSecret,
    Certificates,
    Clock,
    Names,
    Ports,
    Channels,
    Limits,
    Disk,
    Service,
}

impl Check {
    const fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Permissions => "permissions",
            Self::Users => "users",
            Self::Store => "store",
            Self::Keytab => "keytab",
            Self::MasterSecret => "master-secret",
            Self::Certificates => "certificates",
            Self::Clock => "clock",
            Self::Names => "names",
            Self::Ports => "ports",
            Self::Channels => "channels",
            Self::Limits => "limits",
            Self::Disk => "disk",
            Self::Service => "service",
        }
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grade {
    Ok,
    /// The service works, and something needs an operator soon, or could not be looked at.
    Warning,
    /// Something does not work, or will not after the next start.
    Error,
}

impl Grade {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

#[derive(Debug)]
struct Row {
    check: Check,
    grade: Grade,
    finding: String,
    /// Empty if nothing is to do.
    to_do: String,
}

/// The findings.
#[derive(Debug, Default)]
pub(super) struct Report(Vec<Row>);

impl Report {
    pub(super) fn add(
        &mut self,
        check: Check,
        grade: Grade,
        finding: impl Into<String>,
        to_do: impl Into<String>,
    ) {
        self.0.push(Row { check, grade, finding: finding.into(), to_do: to_do.into() });
    }

    pub(super) fn ok(&mut self, check: Check, finding: impl Into<String>) {
        self.add(check, Grade::Ok, finding, "");
    }

    /// Whether a check has found something.
    pub(super) fn has(&self, check: Check) -> bool {
        self.0.iter().any(|row| row.check == check)
    }

    /// The checks in their order, and the findings of each in the order in which they were made.
    pub(super) fn sort(&mut self) {
        self.0.sort_by_key(|row| row.check);
    }

    pub(super) fn worst(&self) -> Grade {
        self.0.iter().map(|row| row.grade).max().unwrap_or(Grade::Ok)
    }

    /// A table, and below it the findings that need an operator, each with what to do: no line of these is
    /// cut.
    pub(super) fn print(&self) {
        let rows = self.0.iter().map(|row| {
            [row.check.name(), row.grade.name(), row.finding.as_str()].map(str::to_owned).to_vec()
        });
        output::table(&["check", "result", "finding"], rows.collect());
        for row in self.0.iter().filter(|row| row.grade != Grade::Ok) {
            output::line("");
            output::line(&format!("{}: {}: {}", row.grade.name(), row.check.name(), row.finding));
            if !row.to_do.is_empty() {
                output::line(&format!("  to do: {}", row.to_do));
            }
        }
    }

    /// One JSON value. Scripts rely on its keys: add keys, do not rename them.
    pub(super) fn print_json(&self, config: &Path, code: u8) {
        let checks: Vec<Value> = self
            .0
            .iter()
            .map(|row| {
                json!({
                    "check": row.check.name(),
                    "result": row.grade.name(),
                    "finding": row.finding,
                    "to_do": row.to_do,
                })
            })
            .collect();
        let mut value = json!({
            "config": config.display().to_string(), "result": self.worst().name(), "checks": checks,
        });
        if code != 0 {
            let errors = self.0.iter().filter(|row| row.grade == Grade::Error);
            let errors: Vec<_> = errors.map(|row| row.finding.as_str()).collect();
            value["error"] = json!(errors.join("; "));
            value["exit_code"] = json!(code);
        }
        output::json(&value);
    }
}
