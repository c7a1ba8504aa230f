//! sss-certmap(5): matching rules and mapping rules of SSSD.
//!
//! A mapping rule is an LDAP filter with templates. Each of its leaves either is a way in which we find
//! accounts, or it is refused; SSSD finds by any attribute whatsoever, we by the names that accounts have for
//! certificates.

use super::matching::{self, Grammar};
use super::{Conditions, Foreign, ImportReport, KnownAuthority, RULES_MAX, Rule};
use rcmp_service::Form;
use std::collections::BTreeSet;

/// The deepest filter: no rule that a person wrote is near it, and reading recurses.
const DEPTH_MAX: usize = 16;

const STORE: &str =
    "store a strong value of altSecurityIdentities with each account: `rcmpd mapping strings CERT` prints it";

/// A value and its line.
type Text<'a> = (usize, &'a str);

#[derive(Debug, Default)]
struct Raw<'a> {
    line: usize,
    /// What to call it where there is no text of it.
    name: &'a str,
    matching: Option<Text<'a>>,
    mapping: Option<Text<'a>>,
    domains: Option<Text<'a>>,
    priority: Option<Text<'a>>,
}

pub(super) fn read(text: &str, authorities: &[KnownAuthority], report: &mut ImportReport) -> Foreign {
    let is_section = |line: &str| line.trim_start().starts_with('[');
    let raws = match text.lines().any(is_section) {
        true => sections(text, report),
        false => lines(text, report),
    };
    if let Some(raw) = raws.get(RULES_MAX) {
        report.problem(raw.line, raw.name, "there are more than 256 rules", "import fewer at a time");
        return Foreign::default();
    }
    let mut rules: Vec<_> = raws.into_iter().map(|raw| rule(&raw, authorities, report)).collect();
    rules.sort_by_key(|rule| rule.rank);
    Foreign { rules, revocation: false }
}

/// `[certmap/DOMAIN/RULE]` sections.
fn sections<'a>(text: &'a str, report: &mut ImportReport) -> Vec<Raw<'a>> {
    let mut raws: Vec<Raw<'a>> = Vec::new();
    let mut domain: Option<&str> = None;
    let mut names = BTreeSet::new();
    let mut inside = false;
    for (number, line) in (1..).zip(text.lines()) {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(header) = trimmed.strip_prefix('[') {
            let name = header.strip_suffix(']').unwrap_or_default();
            inside = name.starts_with("certmap/");
            match name.strip_prefix("certmap/").map(|rest| rest.split_once('/')) {
                None if name.is_empty() => {
                    report.problem(number, trimmed, "this is not a section", "write [certmap/DOMAIN/RULE]")
                }
                None => {}
                Some(Some((of, rule))) if !of.is_empty() && !rule.is_empty() => {
                    if *domain.get_or_insert(of) != of {
                        report.problem(
                            number,
                            trimmed,
                            "rules of several domains cannot be one configuration",
                            "import the rules of one domain at a time",
                        );
                    }
                    if !names.insert(name) {
                        report.problem(
                            number,
                            trimmed,
                            "this section is there twice",
                            "give each rule one section",
                        );
                    }
                    raws.push(Raw { line: number, name: trimmed, ..Raw::default() });
                }
                Some(_) => report.problem(
                    number,
                    trimmed,
                    "this is not a section of a rule",
                    "write [certmap/DOMAIN/RULE]",
                ),
            }
            continue;
        }
        let Some(raw) = raws.last_mut().filter(|_| inside) else { continue };
        if line.starts_with(char::is_whitespace) {
            report.problem(
                number,
                trimmed,
                "this line may continue the previous line or be a setting",
                "write each setting in one line that starts with its name",
            );
            continue;
        }
        match trimmed.split_once('=') {
            Some((key, value)) => set(raw, number, trimmed, key.trim(), value.trim(), report),
            None => report.problem(number, trimmed, "this is not a setting", "write name = value"),
        }
    }
    raws
}

/// `match: …` and `map: …`; what has been there before begins another rule.
fn lines<'a>(text: &'a str, report: &mut ImportReport) -> Vec<Raw<'a>> {
    let mut raws: Vec<Raw<'a>> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let (key, value) = match line.split_once(':') {
            Some(("match", value)) => ("matchrule", value),
            Some(("map", value)) => ("maprule", value),
            Some((key @ ("domains" | "priority"), value)) => (key, value),
            _ => {
                report.problem(
                    number,
                    line,
                    "this is not a line of a rule",
                    "write match: RULE and map: RULE, or sections [certmap/DOMAIN/RULE]",
                );
                continue;
            }
        };
        let begins = raws.last().is_none_or(|raw| match key {
            "matchrule" => raw.matching.is_some() || raw.mapping.is_some(),
            "maprule" => raw.mapping.is_some(),
            _ => false,
        });
        if begins {
            raws.push(Raw { line: number, name: line, ..Raw::default() });
        }
        if let Some(raw) = raws.last_mut() {
            set(raw, number, line, key, value.trim(), report);
        }
    }
    raws
}

fn set<'a>(
    raw: &mut Raw<'a>,
    number: usize,
    line: &'a str,
    key: &str,
    value: &'a str,
    report: &mut ImportReport,
) {
    let place = match key {
        "matchrule" => &mut raw.matching,
        "maprule" => &mut raw.mapping,
        "domains" => &mut raw.domains,
        "priority" => &mut raw.priority,
        _ => {
            report.problem(
                number,
                line,
                "unknown setting of a rule",
                "write matchrule, maprule, domains or priority",
            );
            return;
        }
    };
    if place.replace((number, value)).is_some() {
        report.problem(number, line, "this setting is there twice", "write it once");
    }
}

fn rule(raw: &Raw<'_>, authorities: &[KnownAuthority], report: &mut ImportReport) -> Rule {
    let told_before = report.problems.len();
    let rank = match raw.priority {
        None => u64::from(u32::MAX) + 1,
        Some((line, text)) => text.parse::<u32>().map(u64::from).unwrap_or_else(|_| {
            report.problem(
                line,
                text,
                "a priority is a number up to 4294967295",
                "write such a number, or remove it to put the rule last",
            );
            0
        }),
    };
    if let Some((_, domains)) = raw.domains
        && !domains.is_empty()
    {
        report.note(format!(
            "domains = {domains} is not translated: accounts are looked up in the one domain that is served"
        ));
    }
    let conditions = match raw.matching.filter(|(_, text)| !text.is_empty()) {
        Some((line, text)) => match prefixed(text) {
            (None | Some("KRB5"), rule) => {
                matching::conditions(Grammar::Sssd, line, rule, authorities, report)
            }
            (Some(_), _) => {
                report.problem(line, text, "unknown kind of matching rule", "write a rule of the kind KRB5");
                Conditions::default()
            }
        },
        None => {
            report.note("without a matching rule sss_certmap requires digitalSignature and clientAuth");
            report.note(matching::DIGITAL_SIGNATURE);
            Conditions {
                usages: matching::usage("clientAuth").map(|usage| vec![usage]),
                ..Conditions::default()
            }
        }
    };
    let mut forms = BTreeSet::new();
    match raw.mapping.filter(|(_, text)| !text.is_empty()) {
        Some((line, text)) => {
            let (kind, filter) = prefixed(text);
            match kind {
                None | Some("LDAP" | "LDAPU1") => leaves(line, filter.trim(), 0, &mut forms, report),
                Some(_) => report.problem(line, text, "unknown kind of mapping rule", "write a rule of the kind LDAP or LDAPU1"),
            }
            if kind != Some("LDAPU1") && EXTENSIONS.iter().any(|template| filter.contains(template)) {
                report.note("sss_certmap reads serial_number, subject_key_id, sid and digests of cert in rules of the kind LDAPU1 only");
            }
            if report.problems.len() == told_before {
                suits(&conditions, &forms, line, text, report);
            }
        }
        None => report.problem(
            raw.line,
            raw.name,
            "without a mapping rule accounts are found by their whole certificates in userCertificate, which is not stored here",
            STORE,
        ),
    }
    let (line, text) = raw.matching.or(raw.mapping).unwrap_or((raw.line, raw.name));
    Rule { line, text: text.to_owned(), rank, conditions, forms }
}

/// Refuses a matching rule and a mapping rule that cannot be combined.
fn suits(
    conditions: &Conditions,
    forms: &BTreeSet<Form>,
    line: usize,
    text: &str,
    report: &mut ImportReport,
) {
    if conditions.suffixes.is_some() && *forms != BTreeSet::from([Form::Upn]) {
        report.problem(
            line,
            text,
            "a name that certificates must have is supported only if the account is found by that name",
            "find accounts by (userPrincipalName={subject_nt_principal}), or remove the <SAN>",
        );
    }
    if conditions.issuers.is_none() && forms.contains(&Form::SubjectKeyIdentifier) {
        report.problem(
            line,
            text,
            "a CA can write any key identifier, so this form is accepted only from a CA that is granted it by name",
            "name the CA by <ISSUER>, or store issuer and serial number instead: `rcmpd mapping strings CERT` prints them",
        );
    }
}

/// Templates that sss_certmap reads in rules of the kind LDAPU1 only.
const EXTENSIONS: [&str; 5] = ["{serial_number", "{subject_key_id", "{sid", "{cert!sha", "_dn_component"];

/// The kind of a rule, before the first colon, and the rest.
fn prefixed(text: &str) -> (Option<&str>, &str) {
    match text.split_once(':') {
        Some((kind, rule))
            if !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()) =>
        {
            (Some(kind), rule)
        }
        _ => (None, text),
    }
}

/// Collects the alternatives of a filter.
fn leaves(line: usize, text: &str, depth: usize, forms: &mut BTreeSet<Form>, report: &mut ImportReport) {
    const WHAT: &str = "write (attribute=value), or (|(…)(…)) for alternatives";
    if report.is_full() {
        return;
    }
    if depth > DEPTH_MAX {
        report.problem(
            line,
            text,
            "the filter is nested too deep",
            "write alternatives in one list: (|(…)(…))",
        );
        return;
    }
    let Some(inside) =
        group(text).filter(|group| group.len() == text.len()).map(|group| &group[1..group.len() - 1])
    else {
        report.problem(line, text, "this is not a filter", WHAT);
        return;
    };
    if let Some(mut rest) = inside.strip_prefix('|') {
        if rest.is_empty() {
            report.problem(line, text, "this is not a filter", WHAT);
        }
        while !rest.is_empty() {
            let Some(child) = group(rest) else {
                report.problem(line, rest, "this is not a filter", WHAT);
                return;
            };
            leaves(line, child, depth + 1, forms, report);
            rest = rest[child.len()..].trim_start();
        }
    } else if inside.starts_with(['&', '!']) {
        report.problem(
            line,
            text,
            "conditions on accounts are not supported: an account is found by one value",
            "write only the part that finds accounts",
        );
    } else {
        match inside.split_once('=').map(|(attribute, value)| leaf(attribute, value, report)) {
            Some(Ok(form)) => {
                forms.insert(form);
            }
            Some(Err((why, instead))) => report.problem(line, text, why, instead),
            None => report.problem(line, text, "this is not a filter", WHAT),
        }
    }
}

/// The group in parentheses that a text begins with.
fn group(text: &str) -> Option<&str> {
    let mut depth = 0_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return (byte == b')').then(|| &text[..=at]);
        }
    }
    None
}

type Reason = (&'static str, &'static str);

/// One `attribute=value`.
fn leaf(attribute: &str, value: &str, report: &mut ImportReport) -> Result<Form, Reason> {
    let attribute = attribute.trim().to_ascii_lowercase();
    match (attribute.as_str(), value) {
        ("altsecurityidentities", _) => alternative(value),
        ("userprincipalname" | "userprincipal", "{subject_nt_principal}") => Ok(Form::Upn),
        ("userprincipalname" | "userprincipal", "{subject_principal}") => {
            report.note(
                "the Kerberos principal of PKINIT is not used; the certificate needs a user principal name",
            );
            Ok(Form::Upn)
        }
        ("serviceprincipalname", "host/{subject_dns_name}") => Ok(Form::Dns),
        ("ipacertmapdata", _) => Err((
            "ipaCertMapData is not an attribute of accounts here",
            "write its values into altSecurityIdentities, with the names as Windows writes them: `rcmpd mapping strings CERT` prints them",
        )),
        _ if value.contains("_pkinit_principal") => {
            Err(("the Kerberos principal of PKINIT is not used", "find accounts by {subject_nt_principal}"))
        }
        _ if value.contains(".short_name") => {
            Err(("a part of a name is not unique: accounts of other domains have the same part", STORE))
        }
        _ if value.contains("_dn_component") => {
            Err(("a part of a distinguished name is not unique: any CA can write the same part", STORE))
        }
        _ if value.contains("{cert") => {
            Err(("whole certificates and their digests are not stored with accounts", STORE))
        }
        _ if value.contains("{sid.") => Err((
            "a part of a SID is not unique: accounts of other domains have the same part",
            "find accounts by (userPrincipalName={subject_nt_principal}); the SID in a certificate then proves it",
        )),
        _ if value.contains("{sid") => Err((
            "the SID in a certificate is evidence for an account that was found; accounts are not looked up by it",
            "find accounts by (userPrincipalName={subject_nt_principal}) or (altSecurityIdentities=X509:<I>{issuer_dn!ad_x500}<SID>{sid})",
        )),
        ("userprincipalname" | "userprincipal", _) => Err((
            "a user principal name is compared with the user principal name of the certificate and nothing else",
            "write (userPrincipalName={subject_nt_principal})",
        )),
        ("samaccountname" | "uid" | "cn" | "name", _) => {
            Err(("accounts are not found by the name of the account", STORE))
        }
        ("mail", _) => Err((
            "accounts are not found by the mail address of the account",
            "write (altSecurityIdentities=X509:<RFC822>{subject_rfc822_name}), or better store a strong value: `rcmpd mapping strings CERT` prints it",
        )),
        ("fqdn" | "host" | "dnshostname", _) => Err((
            "a computer is found by its service principal name, not by this attribute",
            "write (servicePrincipalName=host/{subject_dns_name})",
        )),
        _ if !value.contains('{') => {
            Err(("a condition on accounts without a part of the certificate is not supported", STORE))
        }
        _ => Err(("accounts are not found by this attribute", STORE)),
    }
}

/// A value of altSecurityIdentities: one template after each tag.
fn alternative(value: &str) -> Result<Form, Reason> {
    const UNKNOWN: Reason = (
        "this is not a known value of altSecurityIdentities",
        "write X509:<I>{issuer_dn!ad_x500}<SR>{serial_number!hex_ur}, and store its values: `rcmpd mapping strings CERT` prints them",
    );
    let mut parts = Vec::new();
    let mut rest = value.strip_prefix("X509:").ok_or(UNKNOWN)?;
    while !rest.is_empty() {
        let (tag, after) = rest.strip_prefix('<').and_then(|rest| rest.split_once("{")).ok_or(UNKNOWN)?;
        let (template, after) = after.split_once('}').ok_or(UNKNOWN)?;
        parts.push((tag, template.split_once('!').unwrap_or((template, ""))));
        rest = after;
        if parts.len() > 2 {
            return Err(UNKNOWN);
        }
    }
    match parts[..] {
        [("I>", ("issuer_dn", issuer)), ("S>", ("subject_dn", subject))] => {
            names(&[issuer, subject]).map(|()| Form::IssuerSubject)
        }
        [("S>", ("subject_dn", subject))] => names(&[subject]).map(|()| Form::Subject),
        [("I>", ("issuer_dn", issuer))] => names(&[issuer]).map(|()| Form::Issuer),
        [("I>", ("issuer_dn", issuer)), ("SR>", ("serial_number", serial))] => {
            names(&[issuer])?;
            match serial {
                "hex_r" | "hex_ur" | "hex_ru" => Ok(Form::IssuerSerial),
                _ => Err((
                    "after <SR> a serial number has its bytes from the last to the first, in hex without separators",
                    "write {serial_number!hex_ur}, and store such values: `rcmpd mapping strings CERT` prints them",
                )),
            }
        }
        [("I>", ("issuer_dn", issuer)), ("SID>", ("sid", ""))] => names(&[issuer]).map(|()| Form::IssuerSid),
        [("SKI>", ("subject_key_id", "" | "hex" | "hex_u"))] => Ok(Form::SubjectKeyIdentifier),
        [("SKI>", ("subject_key_id", _))] => Err((
            "after <SKI> a key identifier is in hex, from its first byte on, without separators",
            "write {subject_key_id!hex_u}, and store such values: `rcmpd mapping strings CERT` prints them",
        )),
        [("SHA1-PUKEY>", ("cert", "sha1" | "sha1_u"))] => Ok(Form::Sha1PublicKey),
        [("RFC822>", ("subject_rfc822_name", ""))] => Ok(Form::Rfc822),
        _ => Err(UNKNOWN),
    }
}

/// Whether names are converted to how Windows writes them.
fn names(conversions: &[&str]) -> Result<(), Reason> {
    const WINDOWS: &str = "write !ad_x500, and store such values: `rcmpd mapping strings CERT` prints them";
    for conversion in conversions {
        match *conversion {
            "ad" | "ad_x500" => {}
            "ad_ldap" => {
                return Err((
                    "names in altSecurityIdentities have the order of the certificate, and this is the reverse",
                    WINDOWS,
                ));
            }
            "nss_x500" => {
                return Err((
                    "names in altSecurityIdentities have the attribute names of Windows, not of NSS",
                    WINDOWS,
                ));
            }
            "" | "nss" | "nss_ldap" => {
                return Err((
                    "names in altSecurityIdentities have the attribute names of Windows and the order of the certificate; this has neither",
                    WINDOWS,
                ));
            }
            _ => return Err(("unknown conversion", WINDOWS)),
        }
    }
    Ok(())
}
