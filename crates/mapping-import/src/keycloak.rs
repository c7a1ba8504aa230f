//! Keycloak's X.509 authenticator: an exported authenticator configuration, or lines `setting = value` and
//! `source = regular expression`.
//!
//! Keycloak takes a text out of the certificate and looks for a user who has it somewhere. Only two of its
//! sources are ways in which we find accounts. Every setting that could forbid something is either translated
//! or refused, an unknown one too.

use super::matching;
use super::{Conditions, Foreign, ImportReport, Rule};
use rcmp_service::Form;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const PREFIX: &str = "x509-cert-auth.";

const STORE: &str =
    "store a strong value of altSecurityIdentities with each account: `rcmpd mapping strings CERT` prints it";

/// Limit of settings: Keycloak has some twenty, and the line of each is searched for.
const SETTINGS_MAX: usize = 100;

/// The source of Keycloak if none is selected.
const SOURCE_DEFAULT: &str = "Match SubjectDN using regular expression";

/// Patterns that take the whole text; the first is Keycloak's own.
const WHOLE: [&str; 7] = ["(.*?)(?:$)", "", "(.*)", ".*", "^(.*)$", "^.*$", "(.*)$"];

/// Value and line of each setting, without [`PREFIX`].
type Settings = BTreeMap<String, (usize, String)>;

pub(super) fn read(text: &str, report: &mut ImportReport) -> Foreign {
    let settings = match text.trim_start().starts_with(['{', '[']) {
        true => json(text, report),
        false => lines(text, report),
    };
    let mut read = Foreign::default();
    let Some(settings) = settings else { return read };
    let (line, source) =
        settings.get("mapping-source-selection").cloned().unwrap_or((0, SOURCE_DEFAULT.to_owned()));
    let form = match source_form(&source) {
        Ok(form) => Some(form),
        Err((why, instead)) => {
            report.problem(line, &source, why, instead);
            None
        }
    };
    let mut reader = Reader { form, conditions: Conditions::default(), revocation: false, report };
    for (name, (line, value)) in &settings {
        reader.setting(name, *line, value);
    }
    let Reader { conditions, revocation, .. } = reader;
    read.revocation = revocation;
    if let Some(form) = form {
        match form {
            Form::Upn => report.note(
                "Keycloak looks for a user with the name in a configurable attribute; here it must be the user principal name of the account",
            ),
            _ => report.note(
                "what Keycloak stores has to be converted into values of altSecurityIdentities: `rcmpd mapping strings CERT` prints them",
            ),
        }
        read.rules.push(Rule { line, text: source, rank: 0, conditions, forms: BTreeSet::from([form]) });
    }
    read
}

/// The form of a source.
fn source_form(source: &str) -> Result<Form, (&'static str, &'static str)> {
    match source {
        "Subject's Alternative Name otherName (UPN)" => Ok(Form::Upn),
        "Certificate Serial Number and IssuerDN" => Ok(Form::IssuerSerial),
        "Match SubjectDN using regular expression" | "Subject's Common Name" => {
            Err(("a part of a distinguished name is not unique: any CA can write the same part", STORE))
        }
        "Subject's e-mail" | "Subject's Alternative Name E-mail" => Err((
            "accounts are not found by the mail address of the account, and mail addresses are reused",
            STORE,
        )),
        "Match IssuerDN using regular expression" | "Issuer's Common Name" => Err((
            "an issuer's name would map all its certificates to one account",
            "if that is intended, store X509:<I>issuer with that account and write methods = [\"issuer\"] yourself",
        )),
        "Certificate Serial Number" => Err((
            "a serial number is unique for its issuer only: every other CA may use the same",
            "choose \"Certificate Serial Number and IssuerDN\"",
        )),
        "SHA-256 Thumbprint" | "Full Certificate in PEM format" => {
            Err(("whole certificates and their digests are not stored with accounts", STORE))
        }
        _ => Err((
            "unknown source",
            "choose \"Subject's Alternative Name otherName (UPN)\" or \"Certificate Serial Number and IssuerDN\"",
        )),
    }
}

/// Why a setting cannot be translated, and what to do instead.
type Reason = (&'static str, &'static str);

/// Reads settings one by one.
struct Reader<'a> {
    /// None if the source is not supported.
    form: Option<Form>,
    conditions: Conditions,
    revocation: bool,
    report: &'a mut ImportReport,
}

impl Reader<'_> {
    fn setting(&mut self, name: &str, line: usize, value: &str) {
        let on = value.eq_ignore_ascii_case("true");
        let refused: Option<Reason> = match name {
            "mapping-source-selection" | "mapper-selection.user-attribute-name" => None,
            // These do not restrict logons: they are about a page, and about the spelling of stored text.
            "confirmation-page-disallowed" | "canonical-dn-enabled" | "serialnumber-hex-enabled" => None,
            "mapper-selection" => match value {
                "Username or Email" | "Custom Attribute Mapper" => None,
                _ => Some(("unknown mapper", "choose \"Custom Attribute Mapper\"")),
            },
            // Keycloak applies it to distinguished names only; the operator may have expected more.
            "regular-expression" => (self.form.is_some() && !WHOLE.contains(&value)).then_some((
                "a name is compared as a whole, and a pattern could match a part of it",
                "remove it, or write (.*)",
            )),
            "crl-checking-enabled"
            | "crldp-checking-enabled"
            | "crl-relative-path"
            | "crl-abort-if-non-updated" => {
                self.crls(name, on, value);
                None
            }
            "ocsp-checking-enabled" => on.then_some((
                "an OCSP responder belongs to one CA here, and these settings do not name the CA",
                "remove the setting, and name the responder in [[mapping.authority]]: ocsp = \"http://…\"",
            )),
            "ocsp-fail-open" | "ocsp-responder-uri" | "ocsp-responder-certificate" => None,
            "timestamp-validation-enabled" | "revalidate-certificate-enabled" => {
                if !on {
                    self.report.note("Keycloak does not check certificates again with this setting; here chains and their dates are always checked");
                }
                None
            }
            "extendedkeyusage" => self.extended_key_usage(value).err(),
            "keyusage" => self.key_usage(value).err(),
            "certificate-policy" => (!value.is_empty()).then_some((
                "certificate policies are not translated",
                "set policies in [mapping] yourself, or issue such certificates by a separate CA",
            )),
            "certificate-policy-mode" => None,
            _ => Some((
                "unknown setting, which could restrict logons",
                "remove it if it does not restrict logons",
            )),
        };
        if let Some((why, instead)) = refused {
            self.report.problem(line, &format!("{PREFIX}{name} = {value}"), why, instead);
        }
    }

    fn crls(&mut self, name: &str, on: bool, value: &str) {
        self.revocation |= on && name == "crl-checking-enabled";
        match name {
            "crl-checking-enabled" | "crldp-checking-enabled" if on => {
                self.report.note("CRLs are files or URLs in the configuration; addresses in certificates are never followed");
            }
            "crl-relative-path" if !value.is_empty() => {
                self.report.note(format!("the CRL {value} is not translated; name it in the configuration"));
            }
            _ => {}
        }
    }

    fn extended_key_usage(&mut self, value: &str) -> Result<(), Reason> {
        let names: Vec<_> = value.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        match names[..] {
            [] => Ok(()),
            [name] => {
                let usage = matching::usage(name)
                    .ok_or(("this is not an extended key usage", "write its object identifier"))?;
                self.conditions.usages = Some(vec![usage]);
                Ok(())
            }
            _ => Err(("several extended key usages cannot be required at once", "require one of them")),
        }
    }

    fn key_usage(&mut self, value: &str) -> Result<(), Reason> {
        match value.trim() {
            "" => Ok(()),
            "digitalSignature" => {
                self.report.note(matching::DIGITAL_SIGNATURE);
                Ok(())
            }
            _ => Err((
                "key usages other than digitalSignature are not supported",
                "require digitalSignature only, or an extended key usage that only such certificates have",
            )),
        }
    }
}

/// The settings of one authenticator: an object of them, one with `config`, or a realm with
/// `authenticatorConfig`. Deep texts are refused by the reader of JSON.
fn json(text: &str, report: &mut ImportReport) -> Option<Settings> {
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => {
            report.problem(
                error.line(),
                "",
                &format!("this is not JSON: {error}"),
                "export the configuration of the authenticator again",
            );
            return None;
        }
    };
    let candidates: Vec<&Value> = match &value {
        Value::Array(configs) => configs.iter().collect(),
        Value::Object(object) => match object.get("authenticatorConfig") {
            Some(Value::Array(configs)) => configs.iter().collect(),
            _ => vec![&value],
        },
        _ => Vec::new(),
    };
    let mut found = candidates
        .into_iter()
        .filter_map(Value::as_object)
        .map(|object| object.get("config").and_then(Value::as_object).unwrap_or(object))
        .filter(|object| object.keys().any(|key| key.starts_with(PREFIX)));
    let config = found.next()?;
    if found.next().is_some() {
        report.problem(0, "", "there is more than one X.509 authenticator in it", "import one at a time");
        return None;
    }
    if config.len() > SETTINGS_MAX {
        report.problem(
            0,
            "",
            "there are more than 100 settings",
            "export the authenticator's configuration again",
        );
        return None;
    }
    let mut settings = Settings::new();
    for (key, value) in config {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        let line = text.find(key).map_or(0, |at| 1 + text[..at].matches('\n').count());
        let value = match value {
            Value::String(value) => value.clone(),
            Value::Bool(value) => value.to_string(),
            Value::Null => continue,
            _ => {
                report.problem(line, key, "the value is not a text", "write it in quotes");
                continue;
            }
        };
        settings.insert(name.to_owned(), (line, value));
    }
    Some(settings)
}

fn lines(text: &str, report: &mut ImportReport) -> Option<Settings> {
    let mut settings = Settings::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if report.is_full() {
            break;
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((key, value)) = line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) else {
            report.problem(
                number,
                line,
                "this is not a setting",
                "write setting = value, or source = regular expression",
            );
            continue;
        };
        let mut put = |name: &str, value: &str| settings.insert(name.to_owned(), (number, value.to_owned()));
        let before = match key.strip_prefix(PREFIX) {
            Some(name) => put(name, value).is_some(),
            None => {
                let pattern = put("regular-expression", value);
                put("mapping-source-selection", key).is_some() || pattern.is_some()
            }
        };
        if before {
            report.problem(number, line, "this setting is there twice", "write each once, and one source");
        }
    }
    (!settings.is_empty()).then_some(settings)
}
