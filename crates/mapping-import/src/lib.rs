//! Certificate mapping rules of other programs, as a `[mapping]` section.
//!
//! A rule is translated if `[mapping]` can express the same or a stricter rule. Every other rule is refused,
//! with its text, the reason and what to do instead. One problem refuses the whole input. Patterns are
//! accepted if they are literal text; there is no regular expression engine here.
//!
//! Each dialect gives `Rule`s in the order in which the other program tries them. `combine` merges them and
//! writes the section, which always has `binding = "full"`: an import never weakens.

mod keycloak;
mod matching;
mod mit;
mod sssd;
#[cfg(test)]
mod tests;

use account_store::distinguished_name::DistinguishedName;
use rcmp_service::visible::visible;
use rcmp_service::{Form, Method};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, value};

/// The program that the rules are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// sss-certmap(5): `[certmap/…]` sections of sssd.conf, or lines `match: …` and `map: …`.
    Sssd,
    /// `pkinit_cert_match` of krb5.conf, or bare rules, one a line.
    Mit,
    /// Settings of Keycloak's X.509 authenticator: JSON, or lines `setting = value`.
    Keycloak,
}

impl Dialect {
    /// The name of the rules in that program.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sssd => "sss_certmap",
            Self::Mit => "MIT Kerberos pkinit_cert_match",
            Self::Keycloak => "Keycloak X.509 authenticator",
        }
    }
}

/// A CA certificate that an issuer name in a rule may refer to.
#[derive(Clone, Debug)]
pub struct KnownAuthority {
    /// The file, for `certificate = "…"`.
    pub file: String,
    /// Its subject, in the certificate's order.
    pub subject: DistinguishedName,
}

/// The translated rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Import {
    /// The `[mapping]` section.
    pub toml: String,
    /// Differences from the other program, one sentence each.
    pub notes: Vec<String>,
}

/// The problems that prevented a translation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// What cannot be translated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The line, from 1; 0 for the whole text.
    pub line: usize,
    /// The text that cannot be translated, as it was given.
    pub part: String,
    /// The reason.
    pub why: String,
    /// What to do instead.
    pub instead: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => {}
            line => write!(f, "line {line}: ")?,
        }
        if !self.part.is_empty() {
            write!(f, "{}", visible(&self.part))?;
            f.write_str(": ")?;
        }
        write!(f, "{}; {}", self.why, self.instead)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if n == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

/// Limit of the text, in bytes: some thousand rules.
pub const TEXT_LEN_MAX: usize = 1 << 20;
/// Limit of rules in one text: they are compared in pairs.
pub const RULES_MAX: usize = 256;
/// Limit of reported problems: a hostile text could cause millions.
pub const PROBLEMS_MAX: usize = 100;

/// Translates rules.
pub fn import(dialect: Dialect, text: &str, authorities: &[KnownAuthority]) -> Result<Import, Refused> {
    let mut report = ImportReport::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > TEXT_LEN_MAX {
        report.problem(0, "", "the text is longer than 1 MiB", "import the rules alone");
        return Err(Refused { problems: report.problems });
    }
    let read = match dialect {
        Dialect::Sssd => sssd::read(text, authorities, &mut report),
        Dialect::Mit => mit::read(text, authorities, &mut report),
        Dialect::Keycloak => keycloak::read(text, &mut report),
    };
    if report.problems.is_empty() && read.rules.is_empty() {
        report.problem(
            0,
            "",
            "there is no rule in it",
            "check that the rules are from the program of --from",
        );
    }
    let toml = match report.problems.is_empty() {
        true => combine(dialect, &read, authorities, &mut report),
        false => String::new(),
    };
    match report.problems.is_empty() {
        true => Ok(Import { toml, notes: report.notes }),
        false => Err(Refused { problems: report.problems }),
    }
}

/// Problems and notes of a translation.
#[derive(Debug, Default)]
struct ImportReport {
    problems: Vec<Problem>,
    notes: Vec<String>,
}

impl ImportReport {
    fn problem(&mut self, line: usize, part: &str, why: &str, instead: &str) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem {
                line,
                part: part.to_owned(),
                why: why.to_owned(),
                instead: instead.to_owned(),
            });
        }
    }

    fn note(&mut self, note: impl Into<String>) {
        let note = visible(&note.into());
        if self.notes.len() < PROBLEMS_MAX && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    fn is_full(&self) -> bool {
        self.problems.len() >= PROBLEMS_MAX
    }
}

/// What was read of a text.
#[derive(Debug, Default)]
struct Foreign {
    /// In the order in which they are tried.
    rules: Vec<Rule>,
    /// Whether revocation is checked.
    revocation: bool,
}

/// One rule: certificates that meet the conditions are looked up by these forms.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// The number of its first line, from 1.
    line: usize,
    /// The text of the line.
    text: String,
    /// Rules of one rank have no order. Ranks never decrease from rule to rule.
    rank: u64,
    conditions: Conditions,
    forms: BTreeSet<Form>,
}

/// Which certificates a rule is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Conditions {
    /// Issued by one of these, by index among the known CAs; `None` for any.
    issuers: Option<Vec<usize>>,
    /// With one of these extended key usages; `None` for any.
    usages: Option<Vec<String>>,
    /// With a user principal name that ends in one of these; `None` for any.
    suffixes: Option<Vec<String>>,
}

/// The order in which forms are written: weak ones, which the rules go by, before strong ones.
const fn written_order(form: Form) -> (bool, Form) {
    (form.is_strong(), form)
}

/// What a weak form takes for proof; `None` for the strong ones.
const fn weakness(form: Form) -> Option<&'static str> {
    match form {
        Form::Upn => Some("a user principal name"),
        Form::Dns => Some("a DNS name"),
        Form::IssuerSubject => Some("issuer and subject"),
        Form::Subject => Some("a subject"),
        Form::Rfc822 => Some("a mail address"),
        Form::Issuer => Some("an issuer's name"),
        Form::IssuerSerial
        | Form::SubjectKeyIdentifier
        | Form::Sha1PublicKey
        | Form::IssuerSid
        | Form::Sid => None,
    }
}

/// The forms of an entry in `grant`, and the CA and suffixes that they are for.
#[derive(Debug)]
struct Scope {
    /// Line and text of its first rule.
    line: usize,
    text: String,
    /// `None` for every CA without an entry.
    authority: Option<usize>,
    rank: u64,
    forms: BTreeSet<Form>,
    suffixes: Option<Vec<String>>,
}

/// Merges the rules, and writes the section.
///
/// In the other program, the first rule that matches a certificate decides. Here, the entry of a CA replaces
/// the general grant. So rules for CAs may come before a general rule, and no rule may come after another one
/// for the same certificates.
fn combine(
    dialect: Dialect,
    read: &Foreign,
    authorities: &[KnownAuthority],
    report: &mut ImportReport,
) -> String {
    let usages = usages(&read.rules, report);
    let mut scopes: Vec<Scope> = Vec::new();
    for rule in &read.rules {
        let general = [None];
        let named: Vec<_> = rule.conditions.issuers.iter().flatten().copied().map(Some).collect();
        let keys = if rule.conditions.issuers.is_some() { &named[..] } else { &general[..] };
        for key in keys {
            if let Err((why, instead)) = merge(&mut scopes, *key, rule) {
                report.problem(rule.line, &rule.text, why, instead);
                break;
            }
        }
    }
    let methods: BTreeSet<_> = scopes.iter().flat_map(Scope::methods).collect();
    for scope in &scopes {
        scope.tell(dialect, authorities, report);
        // CAs without an entry have every method. That is harmless if the form names the certificate itself.
        if scope.authority.is_none() && scope.wants_proof() && scope.methods() != methods {
            report.problem(
                scope.line,
                &scope.text,
                "a rule for every issuer would also find accounts by the methods of the rules for some",
                "find accounts in the same way in all rules, or give this one an <ISSUER>",
            );
        }
    }
    scopes.sort_by_key(|scope| scope.authority);
    if usages.is_none() && dialect != Dialect::Keycloak {
        report.note(
            "the rules require no extended key usage; extended_key_usage is not written, so its default applies",
        );
    }
    render(dialect, read.revocation, usages.as_deref(), methods, &scopes, authorities)
}

/// Adds a rule after the rules before it, for one CA or in general.
fn merge(
    scopes: &mut Vec<Scope>,
    authority: Option<usize>,
    rule: &Rule,
) -> Result<(), (&'static str, &'static str)> {
    const UNDEFINED: (&str, &str) = (
        "another rule of the same priority matches the same certificates, and their order is not defined",
        "give them different priorities",
    );
    if let Some(general) = scopes.iter().find(|scope| scope.authority.is_none())
        && authority.is_some()
    {
        return Err(match (general.rank == rule.rank, &general.suffixes) {
            (true, _) => UNDEFINED,
            (false, None) => (
                "a rule before it matches every issuer, so this one is never used",
                "remove it, or put it before the general rule",
            ),
            (false, Some(_)) => (
                "a rule before it matches some of its certificates by a name in them, and this rule matches the others",
                "put it before the general rule",
            ),
        });
    }
    if authority.is_none() {
        for scope in scopes.iter().filter(|scope| scope.authority.is_some()) {
            if scope.rank == rule.rank {
                return Err(UNDEFINED);
            }
            if scope.suffixes.is_some() {
                return Err((
                    "a rule before it matches some certificates of a CA by a name in them, and this rule matches the others",
                    "give this rule its own <ISSUER>, or remove the <SAN> from the rule before it",
                ));
            }
        }
    }
    match scopes.iter_mut().find(|scope| scope.authority == authority) {
        None => scopes.push(Scope {
            line: rule.line,
            text: rule.text.clone(),
            authority,
            rank: rule.rank,
            forms: rule.forms.clone(),
            suffixes: rule.conditions.suffixes.clone(),
        }),
        Some(scope) => match (&mut scope.suffixes, &rule.conditions.suffixes) {
            (Some(known), Some(suffixes)) if scope.forms == rule.forms => {
                for suffix in suffixes {
                    if !known.contains(suffix) {
                        known.push(suffix.clone());
                    }
                }
            }
            (None, None) if scope.forms == rule.forms => {}
            _ if scope.rank == rule.rank => return Err(UNDEFINED),
            _ => {
                return Err((
                    "a rule before it matches certificates of the same issuers",
                    "make one rule of the two: (|(one)(other)) in its maprule",
                ));
            }
        },
    }
    Ok(())
}

/// Extended key usages are required of every certificate alike, so rules that differ in them must be equal in
/// everything else.
fn usages(rules: &[Rule], report: &mut ImportReport) -> Option<Vec<String>> {
    let first = rules.first()?;
    let alike = rules.iter().all(|rule| {
        rule.conditions.issuers == first.conditions.issuers
            && rule.conditions.suffixes == first.conditions.suffixes
            && rule.forms == first.forms
    });
    let mut all = first.conditions.usages.clone();
    for rule in &rules[1..] {
        match (&mut all, &rule.conditions.usages) {
            (None, None) => {}
            (Some(known), Some(usages)) if alike => {
                for usage in usages {
                    if !known.contains(usage) {
                        known.push(usage.clone());
                    }
                }
            }
            (Some(known), Some(usages))
                if known.len() == usages.len() && usages.iter().all(|usage| known.contains(usage)) => {}
            _ => report.problem(
                rule.line,
                &rule.text,
                "extended key usages are required of every certificate alike, and this rule requires others than the first",
                "use the same <EKU> in every rule",
            ),
        }
    }
    all
}

impl Scope {
    fn methods(&self) -> BTreeSet<Method> {
        self.forms.iter().filter_map(|form| form.method()).collect()
    }

    /// Whether a weak form needs a proof by a strong one.
    fn wants_proof(&self) -> bool {
        self.suffixes.is_none() && self.forms.iter().any(|form| weakness(*form).is_some())
    }

    /// The forms in the order in which they are written.
    fn sorted_forms(&self) -> Vec<Form> {
        let mut forms: Vec<Form> = self.forms.iter().copied().collect();
        forms.sort_by_key(|form| written_order(*form));
        forms
    }

    /// The value of `grant`: the forms of the rules, then forms that prove the weak ones.
    fn grant(&self) -> Array {
        let mut forms = self.sorted_forms();
        if forms.iter().any(|form| weakness(*form).is_some()) {
            for form in [Form::IssuerSerial, Form::Sid] {
                if !forms.contains(&form) {
                    forms.push(form);
                }
            }
        }
        let names = forms.into_iter().map(Form::name);
        let Some(suffixes) = &self.suffixes else { return names.collect() };
        let suffixes: Array = suffixes.iter().map(String::as_str).collect();
        names
            .map(|name| {
                let mut grant = InlineTable::new();
                grant.insert("form", name.into());
                grant.insert("for", suffixes.clone().into());
                grant
            })
            .collect()
    }

    fn tell(&self, dialect: Dialect, authorities: &[KnownAuthority], report: &mut ImportReport) {
        if let Some(suffixes) = &self.suffixes {
            let names = suffixes.join(", ");
            match self.authority.and_then(|authority| authorities.get(authority)) {
                Some(authority) => {
                    report.note(format!("{} is trusted for accounts in {names} only", authority.file));
                }
                None => report.note(format!(
                    "the rule names no issuer: every configured CA is trusted for accounts in {names}; name one by <ISSUER> to \
                     restrict it"
                )),
            }
        }
        for form in self.sorted_forms() {
            if let Some(weakness) = weakness(form) {
                report.note(format!(
                    "{} accepts {weakness} alone, which is weak; binding = \"full\" also requires the SID of the account in the certificate, \
                     or issuer and serial number stored with the account",
                    dialect.name()
                ));
            }
        }
    }
}

fn render(
    dialect: Dialect,
    revocation: bool,
    usages: Option<&[String]>,
    methods: BTreeSet<Method>,
    scopes: &[Scope],
    authorities: &[KnownAuthority],
) -> String {
    let words = |methods: BTreeSet<Method>| methods.into_iter().map(Method::name).collect::<Array>();
    let mut mapping = Table::new();
    mapping.decor_mut().set_prefix(format!("# Imported: {}\n\n", dialect.name()));
    mapping["methods"] = value(words(methods));
    mapping["binding"] = value("full");
    mapping["validation"] = value(if revocation { "chain+crl" } else { "chain" });
    if let Some(usages) = usages {
        // As in the foreign rules: the certificate has the extension with one of these, and "any" is not
        // enough.
        mapping["extended_key_usage"] = value(usages.iter().collect::<Array>());
        mapping["require_extended_key_usage"] = value(true);
    }
    if scopes.iter().any(|scope| scope.forms.contains(&Form::Sha1PublicKey)) {
        mapping["sha1_pukey"] = value("thumbprint");
    }
    // Without a general rule, CAs without an entry are trusted for nothing.
    let general = scopes.iter().find(|scope| scope.authority.is_none());
    mapping["grant"] = value(general.map(Scope::grant).unwrap_or_default());
    let mut entries = ArrayOfTables::new();
    for scope in scopes {
        if let Some(authority) = scope.authority.and_then(|authority| authorities.get(authority)) {
            let mut entry = Table::new();
            entry["certificate"] = value(authority.file.as_str());
            entry["direct"] = value(true);
            entry["methods"] = value(words(scope.methods()));
            entry["grant"] = value(scope.grant());
            entries.push(entry);
        }
    }
    if !entries.is_empty() {
        mapping["authority"] = Item::ArrayOfTables(entries);
    }
    let mut document = DocumentMut::new();
    document["mapping"] = Item::Table(mapping);
    document.to_string()
}
