//! Matching rules, which sss_certmap has from MIT Kerberos: `[&&|||]<KEYWORD>value<KEYWORD>value…`.
//!
//! A regular expression is read only where it is literal text in disguise: a whole name between `^` and `$`,
//! or the end of a user principal name. `\.` is a dot; a bare `.` is any character, and therefore no literal.

use super::{Conditions, ImportReport, KnownAuthority};
use account_store::distinguished_name::{AttributeTypeAndValue, DistinguishedName};

/// The program of the matching rules; keywords differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grammar {
    Sssd,
    Mit,
}

/// Extended key usages: object identifier, the word in the configuration if there is one, words of
/// sss_certmap.
const USAGES: &[(&str, Option<&str>, &[&str])] = &[
    ("1.3.6.1.5.5.7.3.1", Some("server-auth"), &["serverAuth"]),
    ("1.3.6.1.5.5.7.3.2", Some("client-auth"), &["clientAuth"]),
    ("1.3.6.1.5.5.7.3.3", None, &["codeSigning"]),
    ("1.3.6.1.5.5.7.3.4", None, &["emailProtection"]),
    ("1.3.6.1.5.5.7.3.8", None, &["timeStamping"]),
    ("1.3.6.1.5.5.7.3.9", None, &["OCSPSigning"]),
    ("1.3.6.1.5.2.3.4", None, &["KPClientAuth", "pkinit"]),
    ("1.3.6.1.5.2.3.5", Some("pkinit-kdc"), &[]),
    ("1.3.6.1.4.1.311.20.2.2", Some("smartcard-logon"), &["msScLogin"]),
    ("2.5.29.37.0", Some("any"), &[]),
];

/// The words that MIT Kerberos has as well.
const MIT_USAGES: [&str; 4] = ["pkinit", "msScLogin", "clientAuth", "emailProtection"];

/// The note on a key usage that need not be required.
pub(super) const DIGITAL_SIGNATURE: &str = "the key usage digitalSignature is not required separately: validation of chains rejects a \
     certificate whose keyUsage lacks it";

/// The word in the configuration for an extended key usage, or its object identifier.
pub(super) fn usage(name: &str) -> Option<String> {
    let known = USAGES.iter().find(|(oid, _, names)| *oid == name || names.contains(&name));
    match known {
        Some((oid, word, _)) => Some(word.unwrap_or(oid).to_owned()),
        None => is_oid(name).then(|| name.to_owned()),
    }
}

fn is_oid(text: &str) -> bool {
    let is_arc = |arc: &str| {
        !arc.is_empty() && arc.bytes().all(|b| b.is_ascii_digit()) && (arc == "0" || !arc.starts_with('0'))
    };
    text.len() <= 128
        && text.contains('.')
        && text.split('.').all(is_arc)
        && text.starts_with(['0', '1', '2'])
        && text[1..].starts_with('.')
}

/// Limit of conditions in one rule: alternatives are compared in pairs.
const COMPONENTS_MAX: usize = 32;

#[derive(Clone, Copy)]
struct Component<'a> {
    /// `<KEYWORD>value`
    whole: &'a str,
    keyword: &'a str,
    value: &'a str,
}

/// Reads a rule, and reports what cannot be expressed.
pub(super) fn conditions(
    grammar: Grammar,
    line: usize,
    rule: &str,
    authorities: &[KnownAuthority],
    report: &mut ImportReport,
) -> Conditions {
    let (any, rest) = match (rule.strip_prefix("||"), rule.strip_prefix("&&")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => (false, rule),
    };
    let mut conditions = Conditions::default();
    let Some(components) = components(rest) else {
        report.problem(line, rule, "this is not a matching rule", "write <KEYWORD>value without separators");
        return conditions;
    };
    if components.len() > COMPONENTS_MAX {
        report.problem(line, rule, "there are more than 32 conditions in it", "split it into several rules");
        return conditions;
    }
    let kind = |component: &Component<'_>| component.keyword.split(':').next().unwrap_or_default().to_owned();
    let mixed = any && components.iter().any(|component| kind(component) != kind(&components[0]));
    for component in components {
        if report.is_full() {
            break;
        }
        read(grammar, line, any, component, authorities, &mut conditions, report);
    }
    if mixed {
        report.problem(
            line,
            rule,
            "alternatives of different kinds are not supported: every certificate must meet all conditions",
            "split it into rules with &&, or use alternatives of one kind",
        );
    }
    conditions
}

fn components(text: &str) -> Option<Vec<Component<'_>>> {
    let mut components = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (keyword, after) = rest.strip_prefix('<')?.split_once('>')?;
        let value_len = after.find('<').unwrap_or(after.len());
        let (whole, following) = rest.split_at(keyword.len() + 2 + value_len);
        components.push(Component { whole, keyword, value: &after[..value_len] });
        rest = following;
    }
    (!components.is_empty()).then_some(components)
}

fn read(
    grammar: Grammar,
    line: usize,
    any: bool,
    component: Component<'_>,
    authorities: &[KnownAuthority],
    conditions: &mut Conditions,
    report: &mut ImportReport,
) {
    let Component { whole, keyword, value } = component;
    let one = |report: &mut ImportReport, what: &str, instead: &str| {
        report.problem(line, whole, &format!("{what} cannot be required at once"), instead);
    };
    match keyword {
        "SUBJECT" => report.problem(
            line,
            whole,
            "a pattern for subjects is not supported: the mapping is stored with the account, not in a rule",
            "remove it, and store a strong value with each account: `rcmpd mapping strings CERT` prints it",
        ),
        "ISSUER" => match issuer(value, authorities) {
            Ok(authority) => match &mut conditions.issuers {
                None => conditions.issuers = Some(vec![authority]),
                Some(known) if known.contains(&authority) => {}
                Some(known) if any => known.push(authority),
                Some(_) => one(report, "two issuers", "write || before alternatives"),
            },
            Err((why, instead)) => report.problem(line, whole, why, instead),
        },
        "EKU" => {
            let mut names: Vec<_> = value.split(',').map(str::trim).collect();
            names.dedup();
            let mut usages = Vec::new();
            for name in &names {
                let known = grammar == Grammar::Sssd || MIT_USAGES.contains(name);
                match usage(name).filter(|_| known) {
                    Some(usage) => usages.push(usage),
                    None => {
                        report.problem(
                            line,
                            whole,
                            "this is not an extended key usage",
                            "write one of its words, or for sssd an object identifier",
                        );
                        return;
                    }
                }
            }
            const ALL: &str = "several extended key usages";
            const ONE: &str = "require one of them, or write alternatives: ||<EKU>one<EKU>other";
            match &mut conditions.usages {
                _ if usages.len() > 1 => one(report, ALL, ONE),
                None => conditions.usages = Some(usages),
                Some(known) if known.contains(&usages[0]) => {}
                Some(known) if any => known.append(&mut usages),
                Some(_) => one(report, ALL, ONE),
            }
        }
        "KU" => match value.trim() {
            "digitalSignature" => report.note(DIGITAL_SIGNATURE),
            _ => report.problem(
                line,
                whole,
                "key usages other than digitalSignature are not supported",
                "require digitalSignature only, or an extended key usage that only such certificates have",
            ),
        },
        "SAN" => principal(line, any, component, conditions, report),
        "SAN:Principal" | "SAN:ntPrincipalName" if grammar == Grammar::Sssd => {
            principal(line, any, component, conditions, report);
        }
        "SAN:pkinit" if grammar == Grammar::Sssd => report.problem(
            line,
            whole,
            "the Kerberos principal of PKINIT is not used",
            "require the user principal name: <SAN:ntPrincipalName>",
        ),
        _ if grammar == Grammar::Sssd && keyword.starts_with("SAN:") => report.problem(
            line,
            whole,
            "only user principal names of the subjectAltName can be required",
            "remove it, or issue such certificates by a separate CA and name that CA by <ISSUER>",
        ),
        _ => report.problem(line, whole, "unknown keyword", "write SUBJECT, ISSUER, SAN, EKU or KU"),
    }
}

fn principal(
    line: usize,
    any: bool,
    component: Component<'_>,
    conditions: &mut Conditions,
    report: &mut ImportReport,
) {
    let Some(suffix) = suffix(component.value) else {
        report.problem(
            line,
            component.whole,
            "a user principal name can be restricted by its suffix only, as literal text",
            "write .*@domain$ with a backslash before each dot of the domain",
        );
        return;
    };
    match &mut conditions.suffixes {
        None => conditions.suffixes = Some(vec![suffix]),
        Some(known) if known.contains(&suffix) => {}
        Some(known) if any => known.push(suffix),
        Some(_) => report.problem(
            line,
            component.whole,
            "two names cannot be required at once",
            "write || before alternatives",
        ),
    }
    if component.keyword != "SAN:ntPrincipalName" {
        report.note(
            "the Kerberos principal of PKINIT is not used; the certificate needs a user principal name",
        );
    }
}

/// `.*@domain$`, where domain is literal, as `@domain`.
fn suffix(pattern: &str) -> Option<String> {
    let rest = match pattern.strip_prefix("^.*").or_else(|| pattern.strip_prefix(".*")) {
        Some(rest) => rest,
        None => pattern,
    };
    let domain = literal(rest.strip_prefix('@')?.strip_suffix('$')?).ok()?;
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    domain.split('.').all(is_label).then(|| format!("@{domain}"))
}

/// The known CA that a pattern names.
fn issuer(pattern: &str, authorities: &[KnownAuthority]) -> Result<usize, (&'static str, &'static str)> {
    const WHOLE: &str = "write the whole name between ^ and $, with a backslash before each of . [ $ ( ) | * + ? { \\ ^ in it";
    let inside = pattern.strip_prefix('^').and_then(|rest| rest.strip_suffix('$')).ok_or((
        "without ^ and $ this is a part of an issuer's name, which other names may have as well",
        WHOLE,
    ))?;
    let text = literal(inside).map_err(|reason| (reason, WHOLE))?;
    let name = rfc4514(&text).ok_or((
        "this is not a distinguished name",
        "write it as RFC 4514 does, the most specific part first: CN=CA,O=Contoso",
    ))?;
    let name = sorted(&name);
    let mut found =
        authorities.iter().enumerate().filter(|(_, authority)| sorted(&authority.subject) == name);
    match (found.next(), found.next()) {
        (Some((authority, _)), None) => Ok(authority),
        (Some(_), Some(_)) => Err((
            "more than one of the given certificates has this name, and a CA is identified by its key",
            "give only the intended one by --issuer",
        )),
        (None, _) => Err((
            "no CA certificate of this name was given, and a CA is identified by its key, not by its name",
            "give its certificate by --issuer",
        )),
    }
}

/// The values of one relative name are a set.
fn sorted(name: &DistinguishedName) -> Vec<Vec<&AttributeTypeAndValue>> {
    let set = |parts: &'_ [AttributeTypeAndValue]| -> Vec<usize> {
        let mut order: Vec<_> = (0..parts.len()).collect();
        order.sort_by_key(|part| &parts[*part]);
        order
    };
    name.0.iter().map(|rdn| set(&rdn.0).into_iter().map(|part| &rdn.0[part]).collect()).collect()
}

/// The text that a POSIX extended regular expression matches, if it is literal.
fn literal(pattern: &str) -> Result<String, &'static str> {
    let mut text = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                // The GNU library reads \< \> \` \' as places, and letters and digits as classes and
                // references.
                Some(c) if c.is_ascii_punctuation() && !matches!(c, '<' | '>' | '`' | '\'') => text.push(c),
                _ => {
                    return Err(
                        "this is a pattern, not a name: a backslash is before a character that is not punctuation",
                    );
                }
            },
            '.' => {
                return Err("this is a pattern, not a name: a dot without a backslash matches any character");
            }
            '[' | '(' | ')' | '|' | '*' | '+' | '?' | '{' | '^' | '$' => {
                return Err("this is a pattern, not a name");
            }
            c => text.push(c),
        }
    }
    Ok(text)
}

/// A name by RFC 4514, most specific part first. The syntax is strict, because the other program compares
/// with text that a program wrote.
fn rfc4514(text: &str) -> Option<DistinguishedName> {
    let mut rdns = Vec::new();
    let mut rdn = Vec::new();
    let mut rest = text;
    loop {
        let (word, after) = rest.split_once('=')?;
        if word.is_empty() || !word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.')) {
            return None;
        }
        let (value, after) = value(after)?;
        rdn.push(format!("{word}={value}"));
        let mut separator = after.chars();
        match separator.next() {
            Some('+') => {}
            Some(_) => rdns.push(std::mem::take(&mut rdn).join("+")),
            None => {
                rdns.push(rdn.join("+"));
                rdns.reverse();
                // Quoted values leave attribute types to the parser of distinguished names.
                return rdns.join(",").parse().ok();
            }
        }
        rest = separator.as_str();
    }
}

/// One value in quotes, and what follows it: nothing, `,` or `+`.
fn value(text: &str) -> Option<(String, &str)> {
    if text.starts_with('#') {
        let (value, after) = text.split_at(text.find([',', '+']).unwrap_or(text.len()));
        let is_hex = value.len() > 1 && value[1..].bytes().all(|b| b.is_ascii_hexdigit());
        return is_hex.then(|| (value.to_owned(), after));
    }
    let mut bytes = Vec::new();
    let mut at = 0;
    let source = text.as_bytes();
    while let Some(byte) = source.get(at) {
        match byte {
            b',' | b'+' => break,
            b'"' | b';' | b'<' | b'>' => return None,
            b'\\' => {
                let next = *source.get(at + 1)?;
                let pair = source.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
                match pair.filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit())) {
                    Some(pair) => {
                        bytes.push(u8::from_str_radix(pair, 16).ok()?);
                        at += 3;
                    }
                    None if next.is_ascii_punctuation() || next == b' ' => {
                        bytes.push(next);
                        at += 2;
                    }
                    None => return None,
                }
            }
            byte => {
                bytes.push(*byte);
                at += 1;
            }
        }
    }
    let value = String::from_utf8(bytes).ok()?;
    Some((format!("\"{}\"", value.replace('"', "\"\"")), &text[at..]))
}
