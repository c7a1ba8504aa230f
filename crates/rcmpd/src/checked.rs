//! What the checks of a configuration found: `check-config` prints it as one list, and `doctor` by area.

use crate::output;

/// The part of an installation that a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// Keys and values of the file, and what it names, except the following.
    Configuration,
    /// Modes of files and folders.
    Permissions,
    /// Users and groups of this system.
    Users,
    /// The account store, and names of accounts, groups and machines.
    Store,
    /// The keytab.
    Keytab,
    /// The master secret.
    MasterSecret,
    /// Certificates and CRLs.
    Certificates,
}

/// A problem or a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is about.
    pub area: Area,
    /// What is wrong, where, and what to do.
    pub text: String,
}

/// Problems and warnings.
#[derive(Debug, Default)]
pub struct Checked {
    /// Problems that prevent `serve` from starting, or settings without effect.
    pub problems: Vec<Found>,
    /// Settings that an operator should check.
    pub warnings: Vec<Found>,
}

impl Checked {
    /// Adds a problem.
    pub fn problem(&mut self, area: Area, text: impl Into<String>) {
        self.problems.push(Found { area, text: text.into() });
    }

    /// Adds a warning, unless it is there.
    pub fn warning(&mut self, area: Area, text: impl Into<String>) {
        let found = Found { area, text: text.into() };
        if !self.warnings.contains(&found) {
            self.warnings.push(found);
        }
    }

    /// Adds warnings.
    pub fn warnings<T: ToString>(&mut self, area: Area, texts: impl IntoIterator<Item = T>) {
        texts.into_iter().for_each(|text| self.warning(area, text.to_string()));
    }

    /// Adds the error of a check, if it failed.
    pub fn add<T>(&mut self, area: Area, checked: anyhow::Result<T>) -> Option<T> {
        checked.map_err(|error| self.problem(area, output::chain(&error))).ok()
    }

    /// Adds all of another one.
    pub fn extend(&mut self, other: Self) {
        self.problems.extend(other.problems);
        self.warnings.extend(other.warnings);
    }
}
