//! Foreign certificate mapping rules as a fragment of our configuration.
//!
//! A rule is translated when ours can say the same or less; whatever else is refused, with the text that stands in the way,
//! the reason, and what to do instead. Half a rule is never written: one problem refuses the whole input. Patterns are
//! recognised when they are literal; there is no regular expression engine here, and nothing is guessed.
//!
//! Each dialect gives `Rule`s in the order in which the foreign software tries them. `combine` lays them over each other
//! and writes the fragment, which always asks for `binding = "full"`: an import never weakens.

mod keycloak;
mod matching;
mod mit;
mod sssd;
#[cfg(test)]
mod tests;

use crate::output::visible;
use account_store::distinguished_name::DistinguishedName;
use rcmp_service::Method;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;

/// Whose rules they are.
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
    /// What the rules are called where they come from.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sssd => "sss_certmap",
            Self::Mit => "MIT Kerberos pkinit_cert_match",
            Self::Keycloak => "Keycloak X.509 authenticator",
        }
    }
}

/// A CA certificate that an issuer's name in a rule may mean.
#[derive(Clone, Debug)]
pub struct KnownAuthority {
    /// What is written for it: `certificate = "…"`.
    pub file: String,
    /// Its subject, in the certificate's order.
    pub subject: DistinguishedName,
}

/// A fragment of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Import {
    /// The fragment.
    pub toml: String,
    /// What is different from where it comes from, one sentence each.
    pub notes: Vec<String>,
}

/// Nothing was translated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// What cannot be translated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The line, from 1; 0 when it is of the whole text.
    pub line: usize,
    /// The text that cannot be translated, as it was given.
    pub part: String,
    /// Why not.
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

/// The longest text that is read: some thousand rules.
pub const TEXT_LEN_MAX: usize = 1 << 20;
/// The most rules of one text; beside each other they are compared in pairs.
pub const RULES_MAX: usize = 256;
/// The most problems that are told: nobody reads more, and a hostile text could make millions.
pub const PROBLEMS_MAX: usize = 100;

/// Translates rules.
pub fn import(dialect: Dialect, text: &str, authorities: &[KnownAuthority]) -> Result<Import, Refused> {
    let mut told = Told::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > TEXT_LEN_MAX {
        told.problem(0, "", "the text is longer than 1 MiB", "import the rules alone");
        return Err(Refused { problems: told.problems });
    }
    let read = match dialect {
        Dialect::Sssd => sssd::read(text, authorities, &mut told),
        Dialect::Mit => mit::read(text, authorities, &mut told),
        Dialect::Keycloak => keycloak::read(text, &mut told),
    };
    if told.problems.is_empty() && read.rules.is_empty() {
        told.problem(0, "", "there is no rule in it", "check that it is of the dialect that was named");
    }
    let toml = match told.problems.is_empty() {
        true => combine(dialect, &read, authorities, &mut told),
        false => String::new(),
    };
    match told.problems.is_empty() {
        true => Ok(Import { toml, notes: told.notes }),
        false => Err(Refused { problems: told.problems }),
    }
}

/// What a translation tells beside its result.
#[derive(Debug, Default)]
struct Told {
    problems: Vec<Problem>,
    notes: Vec<String>,
}

impl Told {
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
    /// Whether certificates are looked up in revocation lists.
    revocation: bool,
}

/// One foreign rule in our terms: certificates for which the conditions hold are looked up by these forms.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// Where it stands.
    line: usize,
    /// What stands there.
    text: String,
    /// Rules of one rank are tried in no order. Ranks never fall from rule to rule.
    rank: u64,
    conditions: Conditions,
    forms: BTreeSet<Form>,
}

/// Which certificates a rule is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Conditions {
    /// Issued by one of these, by their place among the known authorities; `None` is whoever.
    issuers: Option<Vec<usize>>,
    /// With one of these extended key usages; `None` is whatever.
    usages: Option<Vec<String>>,
    /// With a user principal name that ends in one of these; `None` is whatever.
    suffixes: Option<Vec<String>>,
}

/// How an account is found, in the order in which grants are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Upn,
    Dns,
    IssuerSubject,
    Subject,
    Rfc822,
    Issuer,
    IssuerSerial,
    SubjectKeyIdentifier,
    Sha1PublicKey,
    IssuerSid,
}

impl Form {
    /// Its word in `grant`.
    const fn word(self) -> &'static str {
        match self {
            Self::Upn => "upn",
            Self::Dns => "dns",
            Self::IssuerSubject => "issuer-subject",
            Self::Subject => "subject",
            Self::Rfc822 => "rfc822",
            Self::Issuer => "issuer",
            Self::IssuerSerial => "issuer-serial",
            Self::SubjectKeyIdentifier => "ski",
            Self::Sha1PublicKey => "sha1-pukey",
            Self::IssuerSid => "issuer-sid",
        }
    }

    /// The method that looks it up.
    const fn method(self) -> Method {
        match self {
            Self::Upn | Self::Dns => Method::Upn,
            Self::Issuer => Method::Issuer,
            _ => Method::Subject,
        }
    }

    /// What a weak form takes for proof; `None` for the strong ones.
    const fn weakness(self) -> Option<&'static str> {
        match self {
            Self::Upn => Some("a user principal name"),
            Self::Dns => Some("a DNS name"),
            Self::IssuerSubject => Some("issuer and subject"),
            Self::Subject => Some("a subject"),
            Self::Rfc822 => Some("a mail address"),
            Self::Issuer => Some("an issuer's name"),
            _ => None,
        }
    }
}

/// Whom a grant is for, and what it says.
#[derive(Debug)]
struct Scope {
    /// Where the first rule of it stands, and what.
    line: usize,
    text: String,
    /// `None`: every authority without an entry.
    authority: Option<usize>,
    rank: u64,
    forms: BTreeSet<Form>,
    suffixes: Option<Vec<String>>,
}

/// Lays the rules over each other, and writes the fragment.
///
/// The first rule that is for a certificate decides about it, and no other is asked. An entry of an authority takes the place
/// of the general grant in the same way. So rules for authorities may stand before a general one, and nothing may stand
/// behind a rule that is for the same certificates.
fn combine(dialect: Dialect, read: &Foreign, authorities: &[KnownAuthority], told: &mut Told) -> String {
    let usages = usages(&read.rules, told);
    let mut scopes: Vec<Scope> = Vec::new();
    for rule in &read.rules {
        let general = [None];
        let named: Vec<_> = rule.conditions.issuers.iter().flatten().copied().map(Some).collect();
        let keys = if rule.conditions.issuers.is_some() { &named[..] } else { &general[..] };
        for key in keys {
            if let Err((why, instead)) = lay(&mut scopes, *key, rule) {
                told.problem(rule.line, &rule.text, why, instead);
                break;
            }
        }
    }
    let methods: BTreeSet<_> = scopes.iter().flat_map(Scope::methods).collect();
    for scope in &scopes {
        scope.tell(dialect, authorities, told);
        // Authorities without an entry have every method. That is harmless where only what names the certificate counts.
        if scope.authority.is_none() && scope.wants_proof() && scope.methods() != methods {
            told.problem(
                scope.line,
                &scope.text,
                "a rule for every issuer would also find accounts by the methods of the rules for some",
                "find accounts in the same way in all rules, or give this one an <ISSUER>",
            );
        }
    }
    scopes.sort_by_key(|scope| scope.authority);
    if usages.is_none() && dialect != Dialect::Keycloak {
        told.note(
            "the rules ask for no extended key usage; extended_key_usage is not written, so its default is asked for",
        );
    }
    render(dialect, read.revocation, usages.as_deref(), methods, &scopes, authorities)
}

/// Puts a rule behind those before it, for one authority or in general.
fn lay(
    scopes: &mut Vec<Scope>,
    authority: Option<usize>,
    rule: &Rule,
) -> Result<(), (&'static str, &'static str)> {
    const UNDEFINED: (&str, &str) = (
        "another rule of the same priority is for the same certificates, and which of them is used is not defined",
        "give them different priorities",
    );
    if let Some(general) = scopes.iter().find(|scope| scope.authority.is_none())
        && authority.is_some()
    {
        return Err(match (general.rank == rule.rank, &general.suffixes) {
            (true, _) => UNDEFINED,
            (false, None) => (
                "a rule before it is for every issuer, so this one is never asked",
                "remove it, or put it before the general rule",
            ),
            (false, Some(_)) => (
                "a rule before it takes some of its certificates, by a name in them, and leaves it the others",
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
                    "a rule before it takes some certificates of an authority, by a name in them, and leaves it the others",
                    "give this rule an <ISSUER> of its own, or take the <SAN> out of the rule before it",
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
                    "a rule before it is for certificates of the same issuers",
                    "make one rule of the two: (|(one)(other)) in its maprule",
                ));
            }
        },
    }
    Ok(())
}

/// Extended key usages are asked of every certificate alike, so rules that differ in them must differ in nothing else.
fn usages(rules: &[Rule], told: &mut Told) -> Option<Vec<String>> {
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
            _ => told.problem(
                rule.line,
                &rule.text,
                "extended key usages are asked of every certificate alike, and this rule asks for others than the first",
                "ask for the same <EKU> in every rule",
            ),
        }
    }
    all
}

impl Scope {
    fn methods(&self) -> BTreeSet<Method> {
        self.forms.iter().map(|form| form.method()).collect()
    }

    /// Whether what it finds has to be proved by something else.
    fn wants_proof(&self) -> bool {
        self.suffixes.is_none() && self.forms.iter().any(|form| form.weakness().is_some())
    }

    /// The value of `grant`: what the rule goes by, and what may prove it.
    fn grant(&self) -> String {
        let mut words: Vec<_> = self.forms.iter().map(|form| form.word()).collect();
        if self.forms.iter().any(|form| form.weakness().is_some()) {
            // By one of these.
            for word in ["issuer-serial", "sid"] {
                if !words.contains(&word) {
                    words.push(word);
                }
            }
        }
        let Some(suffixes) = &self.suffixes else { return list(&words) };
        let suffixes: Vec<_> = suffixes.iter().map(String::as_str).collect();
        let grants =
            words.iter().map(|word| format!("{{ form = {}, for = {} }}", quoted(word), list(&suffixes)));
        format!("[{}]", grants.collect::<Vec<_>>().join(", "))
    }

    fn tell(&self, dialect: Dialect, authorities: &[KnownAuthority], told: &mut Told) {
        if let Some(suffixes) = &self.suffixes {
            let names = suffixes.join(", ");
            match self.authority.and_then(|authority| authorities.get(authority)) {
                Some(authority) => {
                    told.note(format!("{} certifies for accounts in {names}, and for no others", authority.file));
                }
                None => told.note(format!(
                    "the rule names no issuer: any configured authority certifies for accounts in {names}; name one by <ISSUER> to \
                     hold the others back"
                )),
            }
        }
        for form in &self.forms {
            if let Some(weakness) = form.weakness() {
                told.note(format!(
                    "{} accepts {weakness} alone, which is weak; binding = \"full\" also wants the account's SID in the certificate, \
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
    let words = |methods: BTreeSet<Method>| {
        let words: Vec<_> = methods.into_iter().map(Method::name).collect();
        list(&words)
    };
    let mut toml = format!("# Imported: {}\n\n[mapping]\nmethods = {}\n", dialect.name(), words(methods));
    toml += "binding = \"full\"\n";
    toml += match revocation {
        true => "validation = \"chain+crl\"\n",
        false => "validation = \"chain\"\n",
    };
    if let Some(usages) = usages {
        let usages: Vec<_> = usages.iter().map(String::as_str).collect();
        // As these rules have it: the extension is there, and names one of them and not merely any.
        toml += &format!("extended_key_usage = {}\nrequire_extended_key_usage = true\n", list(&usages));
    }
    if scopes.iter().any(|scope| scope.forms.contains(&Form::Sha1PublicKey)) {
        toml += "sha1_pukey = \"thumbprint\"\n";
    }
    match scopes.iter().find(|scope| scope.authority.is_none()) {
        Some(general) => toml += &format!("grant = {}\n", general.grant()),
        // Authorities without an entry vouch for nothing.
        None => toml += "grant = []\n",
    }
    for scope in scopes {
        if let Some(authority) = scope.authority.and_then(|authority| authorities.get(authority)) {
            toml += &format!(
                "\n[[mapping.authority]]\ncertificate = {}\ndirect = true\nmethods = {}\ngrant = {}\n",
                quoted(&authority.file),
                words(scope.methods()),
                scope.grant()
            );
        }
    }
    toml
}

fn list(words: &[&str]) -> String {
    let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
    format!("[{}]", words.join(", "))
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out += &format!("\\u{:04X}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
