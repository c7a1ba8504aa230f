//! What would make a refused certificate map: a strong value to store, and the line that stores it.

use super::{Advice, Explanation};
use crate::certificate::Certificate;
use crate::form::{Form, Method};
use crate::mapping;
use crate::policy::Sha1PublicKeyInput;
use crate::reason::Reason;
use crate::trace::{EvidenceState, Step};
use crate::trust::{CONFIGURATION, Revocation};
use crate::visible::is_hidden;
use account_store::fold::casefold;
use account_store::{AltSecurityIdentity, Domain, Matches};
use base64::prelude::{BASE64_STANDARD, Engine};
use serde::Serialize;
use std::fmt::Write;

/// One thing that would change the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// What to do, in a sentence.
    pub what: String,
    /// The value of altSecurityIdentities to store.
    pub value: Option<String>,
    /// One line for a shell that does it here.
    pub command: Option<String>,
    /// The same for an LDAP directory.
    pub ldif: Option<String>,
    /// The same for Active Directory's PowerShell module.
    pub powershell: Option<String>,
}

impl Remedy {
    fn told(what: impl Into<String>) -> Self {
        Self { what: what.into(), value: None, command: None, ldif: None, powershell: None }
    }

    fn done_by(what: impl Into<String>, command: String) -> Self {
        Self { command: Some(command), ..Self::told(what) }
    }
}

/// Whose account a value is stored with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    /// The account's name, as far as it is known.
    pub account: &'a str,
    /// The domain of the account, which is the one that is served.
    pub domain: &'a Domain,
    /// The configuration file, as it is to stand in commands.
    pub config: &'a str,
}

impl Target<'_> {
    /// How to store a value there, three ways.
    fn store(&self, what: impl Into<String>, value: &str) -> Remedy {
        Remedy {
            what: what.into(),
            value: Some(value.to_owned()),
            command: Some(format!(
                "rcmpd account set --add-mapping {} -c {} -- {}",
                shell_quoted(value),
                shell_path(self.config),
                shell_quoted(self.account)
            )),
            ldif: Some(self.ldif(value)),
            powershell: Some(self.powershell(value)),
        }
    }

    fn ldif(&self, value: &str) -> String {
        let container = if self.account.ends_with('$') { "Computers" } else { "Users" };
        let mut name = format!("CN={},CN={container}", escaped(self.account.trim_end_matches('$')));
        for label in self.domain.dns.split('.') {
            let _ = write!(name, ",DC={}", escaped(label));
        }
        format!(
            "{}\nchangetype: modify\nadd: altSecurityIdentities\n{}\n-\n",
            ldif_line("dn", &name),
            ldif_line("altSecurityIdentities", value)
        )
    }

    fn powershell(&self, value: &str) -> String {
        let verb = if self.account.ends_with('$') { "Set-ADComputer" } else { "Set-ADUser" };
        format!(
            "{verb} -Identity {} -Add @{{'altSecurityIdentities'={}}}",
            powershell_quoted(self.account),
            powershell_quoted(value)
        )
    }
}

/// A word for a POSIX shell.
pub fn shell_quoted(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:@%+,".contains(&byte);
    match !text.is_empty() && text.bytes().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// A path that is the value of an option: one that begins with a hyphen would be taken for another option.
pub fn shell_path(path: &str) -> String {
    match path.starts_with('-') {
        true => shell_quoted(&format!("./{path}")),
        false => shell_quoted(path),
    }
}

/// A string for PowerShell, which takes four other characters for the quote, too.
pub fn powershell_quoted(text: &str) -> String {
    let mut quoted = String::from("'");
    for c in text.chars() {
        quoted.push(c);
        if matches!(c, '\'' | '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{201b}') {
            quoted.push(c);
        }
    }
    quoted.push('\'');
    quoted
}

/// A value in a distinguished name of LDAP (RFC 4514 2.4).
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for (at, c) in text.char_indices() {
        let leads = at == 0 && matches!(c, ' ' | '#');
        let ends = at + c.len_utf8() == text.len() && c == ' ';
        if leads || ends || matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// An attribute and its value (RFC 2849): in base64 unless it is a SAFE-STRING.
fn ldif_line(attribute: &str, value: &str) -> String {
    let safe = value.bytes().all(|byte| matches!(byte, 0x01..=0x7f) && !matches!(byte, b'\n' | b'\r'))
        && !value.starts_with([' ', ':', '<'])
        && !value.ends_with(' ');
    match safe {
        true => format!("{attribute}: {value}"),
        false => format!("{attribute}:: {}", BASE64_STANDARD.encode(value)),
    }
}

pub(super) fn remedies(explanation: &Explanation, advice: &Advice<'_>) -> Vec<Remedy> {
    let weighed = advice.steps.iter().find_map(|step| match step {
        Step::BindingChecked { record, .. } => Some(record),
        _ => None,
    });
    let name = weighed.map(|record| record.account.name.as_str());
    let config = shell_path(advice.config);
    let set = |what: &str, option: &str| {
        let name = name.unwrap_or("NAME");
        vec![match is_pasteable_name(name) && is_pasteable_name(advice.config) {
            true => Remedy::done_by(
                what,
                format!("rcmpd account set {option} -c {config} -- {}", shell_quoted(name)),
            ),
            false => Remedy::told(format!("{what}; {NOT_PASTEABLE}")),
        }]
    };
    match advice.reason {
        Reason::NoMatch
        | Reason::NoStrongMapping
        | Reason::CertificateOlder
        | Reason::AuthorityNotAllowed
        | Reason::NotVerified => strong_value(explanation, advice, name),
        Reason::Disabled => set("enable the account", "--enable"),
        Reason::Locked => set("unlock the account", "--unlock"),
        Reason::Expired => set("let the account not expire", "--expires never"),
        Reason::Ambiguous => ambiguous(explanation, &config),
        Reason::SidMismatch => vec![Remedy::told(
            "only another certificate helps: this one names another account by its SID, or contradicts itself",
        )],
        Reason::Chain(error) => vec![Remedy::told(error.remedy().replace(CONFIGURATION, &config))],
        Reason::Revoked => {
            vec![Remedy::told("only another certificate helps: this one, or one of its issuers, is revoked")]
        }
        Reason::MalformedCertificate => {
            vec![Remedy::told("only another certificate helps: this one is not well formed")]
        }
        Reason::LogonHours => vec![Remedy::told("wait for the hours at which the account may log on")],
        Reason::RevocationUnknown => revocation_unknown(advice, &config).into_iter().collect(),
        Reason::NoMethod => {
            vec![Remedy::told(format!(
                "allow a method: mapping.methods in {config}, or in the client's request"
            ))]
        }
        _ => Vec::new(),
    }
}

/// What would tell whether a certificate is revoked.
fn revocation_unknown(advice: &Advice<'_>, config: &str) -> Option<Remedy> {
    advice.steps.iter().find_map(|step| match step {
        Step::Revocation { status: Revocation::Unknown { why, .. }, .. } => {
            Some(Remedy::told(why.remedy().replace(CONFIGURATION, config)))
        }
        _ => None,
    })
}

/// The value that binds the certificate most durably, of those that its authority may vouch for.
fn strong_value(explanation: &Explanation, advice: &Advice<'_>, name: Option<&str>) -> Vec<Remedy> {
    let policy = advice.mapper.policy();
    let path = advice.steps.iter().find_map(|step| match step {
        Step::Chain { path: Ok(path) } => Some(path.authorities.as_slice()),
        _ => None,
    });
    let rules = advice.mapper.rules(path);
    if !rules.is_verified() {
        return vec![Remedy::told(
            "no strong form counts without a verified chain: use validation = \"chain\" and name the anchors; or store the \
             names that the certificate has with the account",
        )];
    }
    let Ok(certificate) = Certificate::parse(advice.certificate) else { return Vec::new() };
    let identities = mapping::identities(&certificate, Sha1PublicKeyInput::Thumbprint);
    // If an account was found, its own grants decide whether the CA may vouch for it. Otherwise the grants
    // for all accounts do.
    let found = advice.steps.iter().find_map(|step| match step {
        Step::BindingChecked { record, .. } => Some(record),
        _ => None,
    });
    let counts = |form| found.map_or_else(|| rules.mention(form), |record| rules.allow(form, record));
    let thumbprint = policy.sha1_public_key == Sha1PublicKeyInput::Thumbprint;
    let preferred = [Form::IssuerSerial, Form::Sha1PublicKey, Form::SubjectKeyIdentifier];
    let value = preferred
        .into_iter()
        .filter(|form| counts(*form) && (*form != Form::Sha1PublicKey || thumbprint))
        .find_map(|form| {
            let found = identities.iter().find(|found| Form::of(&found.identity) == form)?;
            is_pasteable(&found.identity).then(|| found.identity.to_string())
        });
    // Whose value only resembles the certificate's need not be whose certificate it is; whose value is a slip
    // of it, is.
    let nearest =
        advice.nearest.as_ref().filter(|miss| miss.because.is_some()).map(|miss| miss.account.as_str());
    let account = name.or(nearest).unwrap_or("NAME");
    let target = Target { account, domain: advice.mapper.store().domain(), config: advice.config };
    let mut remedies = Vec::new();
    if let Some((name, form)) = withheld(advice.steps) {
        // It is stored already. With a second account it would be ambiguous.
        return vec![Remedy::told(format!(
            "{form} binds it to {name}, but the CA is not granted {form}: see grant in its [[mapping.authority]] or in \
             [mapping] of {}",
            advice.config
        ))];
    }
    match value {
        Some(value) => {
            let whose = match (name, nearest) {
                (Some(name), _) => format!("store a strong mapping with {name}"),
                (None, Some(name)) => format!("store a strong mapping, with {name} if the certificate is theirs"),
                (None, None) => {
                    "store a strong mapping with the account whose certificate it is; put its name in place of NAME"
                        .to_owned()
                }
            };
            let remedy = target.store(whose, &value);
            remedies.push(match is_pasteable_name(account) && is_pasteable_name(advice.config) {
                true => remedy,
                false => Remedy { value: remedy.value, ..Remedy::told(format!("{}; {NOT_PASTEABLE}", remedy.what)) },
            });
        }
        None => remedies.push(Remedy::told(format!(
            "grant the CA a strong form for this account, in [[mapping.authority]] of {}: grant = [\"issuer-serial\"]",
            advice.config
        ))),
    }
    if name.is_none() && nearest.is_none() {
        remedies.push(Remedy::told(format!(
            "if there is no such account, create it first: rcmpd account add --group GROUP -c {} -- NAME",
            shell_path(advice.config)
        )));
    }
    if !rules.methods.contains(Method::Subject.flag()) && name.is_none() {
        remedies.push(Remedy::told("stored mappings are found only with \"subject\" among mapping.methods"));
    }
    if counts(Form::Sid) && explanation.certificate.as_ref().is_some_and(|facts| facts.sids.is_empty()) {
        remedies.push(Remedy::told(
            "or issue a certificate with the account's SID in it, which outlives renewals",
        ));
    }
    remedies
}

/// The account that a strong form names, and may not.
fn withheld(steps: &[Step]) -> Option<(&str, Form)> {
    steps.iter().find_map(|step| match step {
        Step::Asked { form, found: Some(Matches::One(record)), granted: false, .. } if form.is_strong() => {
            Some((record.account.name.as_str(), *form))
        }
        Step::BindingChecked { record, evidence, .. } => evidence
            .iter()
            .find(|evidence| evidence.state == EvidenceState::NotGranted)
            .map(|evidence| (record.account.name.as_str(), evidence.form)),
        _ => None,
    })
}

/// Why no command is printed.
const NOT_PASTEABLE: &str = "no command is printed, because the name has invisible or control characters";

/// Whether a name is the same after it went through a terminal and a shell.
fn is_pasteable_name(name: &str) -> bool {
    !name.chars().any(is_hidden)
}

/// Whether a value means the same after it went through a terminal and a shell.
fn is_pasteable(identity: &AltSecurityIdentity) -> bool {
    let text = identity.to_string();
    text.len() <= account_store::alt_security_identity::LEN_MAX
        && !text.chars().any(is_hidden)
        && text.parse::<AltSecurityIdentity>().is_ok_and(|parsed| parsed.key() == identity.key())
}

fn ambiguous(explanation: &Explanation, config: &str) -> Vec<Remedy> {
    let found: Vec<_> = explanation
        .methods
        .iter()
        .flat_map(|method| &method.asked)
        .filter(|asked| !asked.accounts.is_empty() && asked.granted)
        .collect();
    let mut names: Vec<&str> = found.iter().flat_map(|asked| &asked.accounts).map(String::as_str).collect();
    names.sort_by_key(|name| casefold(name));
    names.dedup();
    let mut remedies = vec![Remedy::told(format!(
        "leave the certificate's names to one account; now it names {}",
        names.join(" and ")
    ))];
    for asked in found.iter().filter(|asked| asked.attribute == "altSecurityIdentities") {
        for name in &asked.accounts {
            let what = format!("take this mapping from {name}");
            remedies.push(match [name, &asked.value, config].into_iter().all(is_pasteable_name) {
                true => Remedy::done_by(
                    what,
                    format!(
                        "rcmpd account set --remove-mapping={} -c {config} -- {}",
                        shell_quoted(&asked.value),
                        shell_quoted(name)
                    ),
                ),
                false => Remedy::told(format!("{what}; {NOT_PASTEABLE}")),
            });
        }
    }
    remedies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(account: &str) -> (Domain, String) {
        let sid = "S-1-5-21-1-2-3".parse().expect("a SID");
        (Domain { netbios: "CONTOSO".into(), dns: "contoso.example".into(), sid }, account.to_owned())
    }

    #[test]
    fn a_value_survives_every_quoting() {
        let (domain, account) = target("o'neil");
        let target = Target { account: &account, domain: &domain, config: "my files/rcmpd.toml" };
        let remedy = target.store("", r#"X509:<I>O="It's, Ltd.",CN=CA<SR>01"#);
        assert_eq!(
            remedy.command.as_deref(),
            Some(
                r#"rcmpd account set --add-mapping 'X509:<I>O="It'\''s, Ltd.",CN=CA<SR>01' -c 'my files/rcmpd.toml' -- 'o'\''neil'"#
            )
        );
        assert_eq!(
            remedy.powershell.as_deref(),
            Some(
                r#"Set-ADUser -Identity 'o''neil' -Add @{'altSecurityIdentities'='X509:<I>O="It''s, Ltd.",CN=CA<SR>01'}"#
            )
        );
        assert_eq!(
            remedy.ldif.as_deref(),
            Some(
                "dn: CN=o'neil,CN=Users,DC=contoso,DC=example\nchangetype: modify\nadd: altSecurityIdentities\n\
                 altSecurityIdentities: X509:<I>O=\"It's, Ltd.\",CN=CA<SR>01\n-\n"
            )
        );
    }

    #[test]
    fn a_path_is_never_an_option() {
        assert_eq!(shell_path("-c"), "./-c");
        assert_eq!(shell_path("rcmpd.toml"), "rcmpd.toml");
    }

    #[test]
    fn what_ldif_cannot_say_is_base64() {
        // The name as `base64` of coreutils encodes it.
        assert_eq!(ldif_line("a", "M\u{fc}ller"), "a:: TcO8bGxlcg==");
        assert_eq!(ldif_line("a", " x"), "a:: IHg=");
        assert_eq!(ldif_line("a", "x"), "a: x");
    }

    #[test]
    fn quotes_of_typographers_are_quotes_to_powershell() {
        assert_eq!(powershell_quoted("a\u{2019}b"), "'a\u{2019}\u{2019}b'");
    }
}
