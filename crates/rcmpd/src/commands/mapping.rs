//! `rcmpd mapping …`

use super::transfer::bar;
use super::{UNUSABLE, failed};
use crate::cli::{ClassArg, ConfigArg, MappingCommand, MethodArg, RuleSourceArg};
use crate::config;
use crate::output;
use crate::stores::{self, Accounts};
use crate::trust;
use account_store::DomainStore;
use anyhow::Context;
use mapping_import::{self, Dialect, KnownAuthority, TEXT_LEN_MAX};
use pem_file::input;
use policy_dry_run::{self as dry_run, Cases};
use rcmp_service::certificate::{Certificate, SID_URI_TAG};
use rcmp_service::mapping_audit::{self, Class};
use rcmp_service::message::MappingFlags;
use rcmp_service::policy::Sha1PublicKeyInput;
use rcmp_service::{Form, Mapper, explain};
use rcmp_service::{Method, mapping};
use serde_json::{Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use trust_tokio::certificates::Chain;

pub(super) async fn run(command: MappingCommand) -> anyhow::Result<u8> {
    match command {
        MappingCommand::Strings { certificate, json } => strings(&certificate, json.json),
        MappingCommand::Audit { ignore, config, json } => audit(&ignore, &config, json.json).await,
        MappingCommand::Rehearse { policy, certs, methods, config, json } => {
            rehearse(&policy, &certs, &methods, &config, json.json).await
        }
        MappingCommand::Import { from, file, issuer, json } => import(from, &file, &issuer, json.json),
    }
}

/// One form of a certificate.
struct Line {
    form: Form,
    attribute: &'static str,
    value: String,
    note: &'static str,
}

fn strings(path: &Path, as_json: bool) -> anyhow::Result<u8> {
    let chain = Chain::read(path, None).map_err(|error| failed(UNUSABLE, error))?;
    let certificate = Certificate::parse(chain.certificate())?;
    let lines = lines(&certificate);
    let facts = explain::CertificateFacts::new(&certificate);
    if as_json {
        let forms = lines.iter().map(|line| {
            json!({
                "form": line.form.name(), "strong": line.form.is_strong(), "attribute": line.attribute, "value": line.value,
                "note": (!line.note.is_empty()).then_some(line.note),
            })
        });
        output::json(&json!({ "certificate": facts, "forms": forms.collect::<Vec<_>>() }));
        return Ok(0);
    }
    for what in &facts.unreadable {
        output::message(&format!("the {what} cannot be read, so strings that need it are not printed"));
    }
    for what in &facts.beyond_limit {
        output::message(what);
    }
    for uri in &facts.misspelled_sids {
        output::message(&format!("{uri} looks like a SID and is written otherwise: {SID_URI_TAG}S-1-..."));
    }
    // One line each and no table: values are there to be copied.
    for line in &lines {
        let strength = if line.form.is_strong() { "strong" } else { "weak" };
        output::line(&format!("{:15}{strength:8}{}", line.form.name(), line.value));
        if !line.note.is_empty() {
            output::line(&format!("{:23}({})", "", line.note));
        }
    }
    Ok(0)
}

fn lines(certificate: &Certificate<'_>) -> Vec<Line> {
    let thumbprint = Sha1PublicKeyInput::Thumbprint;
    let mut lines = Vec::new();
    let queries = Method::ALL.into_iter().flat_map(|method| {
        mapping::queries(method, certificate, &[], thumbprint, MappingFlags::ALL).unwrap_or_default()
    });
    for (form, query) in queries {
        let (attribute, value) = explain::attribute(&query);
        let note = match form {
            Form::Sha1PublicKey => "the certificate's thumbprint",
            Form::Subject | Form::Rfc822 => "never enough alone",
            Form::Issuer => "all certificates of this issuer",
            _ => "",
        };
        lines.push(Line { form, attribute, value, note });
    }
    let notes = [
        "of the SubjectPublicKeyInfo, for sha1_pukey = \"public-key\"",
        "of the key in it, for sha1_pukey = \"public-key\"",
    ];
    for (identity, note) in mapping::sha1_identities(certificate, Sha1PublicKeyInput::PublicKey).zip(notes) {
        lines.push(Line {
            form: Form::Sha1PublicKey,
            attribute: "altSecurityIdentities",
            value: identity.to_string(),
            note,
        });
    }
    let sids = certificate.sid().ok().flatten().into_iter();
    for sid in sids.chain(certificate.alternative_sids().unwrap_or_default()) {
        let note = "in the certificate; nothing has to be stored";
        lines.push(Line { form: Form::Sid, attribute: "objectSid", value: sid.to_string(), note });
    }
    lines
}

/// The policy and the accounts of a configuration.
async fn deciders(
    config: &ConfigArg,
) -> anyhow::Result<(Arc<Mapper>, Accounts, Arc<dyn DomainStore>, config::Config)> {
    let config = config::load(&config.config)?;
    let mapping = config.mapping.as_ref().context("the configuration has no [mapping]")?;
    let machines = stores::machines(&config).await?;
    let accounts = stores::accounts(&config, &machines).await?;
    let mapper = trust::mapper(mapping, Arc::clone(&accounts.store), config.server.clone()).await?;
    Ok((Arc::new(mapper), accounts, machines, config))
}

async fn audit(ignore: &[ClassArg], config: &ConfigArg, as_json: bool) -> anyhow::Result<u8> {
    let (mapper, accounts, machines, config) = deciders(config).await?;
    let Some(listing) = &accounts.listing else {
        let is_profile = |store: &config::Store| matches!(store.kind, config::StoreKind::Profile(_));
        anyhow::bail!(match config.store.as_ref().is_some_and(is_profile) {
            true => "accounts of [[store.level]] have no stored mappings",
            false => "this kind of store cannot list its accounts",
        });
    };
    let bar = bar(None, "{spinner} {human_pos} accounts read");
    let mut progress = |read| bar.set_position(read);
    let audited = mapping_audit::audit(&**listing, &*machines, &mapper, &mut progress).await;
    bar.finish_and_clear();
    let mut report = audited?;
    let ignored = |class: Class| ignore.iter().any(|ignored| self::class(*ignored) == class);
    report.findings.retain(|finding| !ignored(finding.class));
    report.counts.retain(|name, _| !ignore.iter().any(|ignored| class(*ignored).name() == *name));
    let found = !report.findings.is_empty();
    let code = if found { 3 } else { 0 };
    if as_json {
        let mut value = serde_json::to_value(&report)?;
        value["exit_code"] = code.into();
        if found {
            let error = format!("{} findings", report.findings.len());
            value["error"] = error.as_str().into();
            output::message(&error);
        }
        output::json(&value);
        return Ok(code);
    }
    for finding in &report.findings {
        output::line(&format!("{}: {}", finding.class.name(), finding.account));
        output::line(&format!("    {} = {}", finding.attribute, finding.value));
        output::line(&format!("    {}", finding.why));
    }
    if found {
        output::line("");
    }
    let counts: Vec<String> = report.counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    output::line(&format!(
        "{}, {}: {}",
        output::counted(report.accounts, "account"),
        match report.values {
            1 => "1 name or mapping".to_owned(),
            values => format!("{values} names and mappings"),
        },
        counts.join(", ")
    ));
    Ok(code)
}

const fn class(class: ClassArg) -> Class {
    match class {
        ClassArg::Weak => Class::Weak,
        ClassArg::Ambiguous => Class::Ambiguous,
        ClassArg::Twin => Class::Twin,
        ClassArg::Dangling => Class::Dangling,
        ClassArg::NeverMatching => Class::NeverMatching,
    }
}

/// Limit of listed changes; JSON has all.
const CHANGES_SHOWN: usize = 50;

async fn rehearse(
    policy: &Path,
    certs: &Path,
    methods: &[MethodArg],
    config: &ConfigArg,
    as_json: bool,
) -> anyhow::Result<u8> {
    let (now_by, accounts, _, config) = deciders(config).await?;
    let other = config::load_mapping(policy)?;
    let live = config.mapping.as_ref().context("the configuration has no [mapping]")?;
    let store = Arc::clone(&accounts.store);
    let then_by = trust::mapper_beside(&other, (live, &now_by), store, config.server.clone()).await?;
    let then_by = Arc::new(then_by);
    let reading = bar(None, "{spinner} {human_pos} read");
    let flags = super::flags(methods);
    let cases = Cases::read(certs, flags, &mut |done| reading.set_position(done));
    let mut cases = cases.map_err(|error| failed(UNUSABLE, crate::output::chain(&error)))?;
    reading.finish_and_clear();
    let unreadable = std::mem::take(&mut cases.unreadable);
    let bar = bar(Some(cases.decisions()), "{wide_bar} {human_pos}/{human_len} decisions {eta}");
    let progress = bar.clone();
    let outcome = dry_run::run(cases, now_by, then_by, move |done| progress.inc(done)).await?;
    bar.finish_and_clear();
    if as_json {
        let mut value = serde_json::to_value(&outcome)?;
        value["unreadable"] = unreadable.into();
        output::json(&value);
        return Ok(0);
    }
    for text in &unreadable {
        output::message(&format!("skipped: {text}"));
    }
    let mut facts = vec![
        ("decisions", outcome.decisions.to_string()),
        ("certificates", outcome.certificates.to_string()),
        ("unchanged", outcome.unchanged.to_string()),
        ("gained", outcome.gained.to_string()),
        ("lost", outcome.lost.to_string()),
        ("moved", outcome.moved.to_string()),
        ("undecided", outcome.undecided.to_string()),
    ];
    if outcome.without_certificate > 0 {
        facts.push(("not in the log", outcome.without_certificate.to_string()));
    }
    facts.extend(outcome.reasons.iter().map(|(change, count)| ("reason", format!("{change}: {count}"))));
    output::facts(&facts);
    if outcome.changes.is_empty() {
        return Ok(0);
    }
    output::line("");
    let shown = |account: &Option<String>, reason: &str| match account {
        Some(account) => account.clone(),
        None => format!("not mapped ({reason})"),
    };
    let rows = outcome.changes.iter().take(CHANGES_SHOWN).map(|change| {
        vec![
            change.change.to_owned(),
            change.certificate.clone(),
            shown(&change.account_now, change.reason_now),
            shown(&change.account_then, change.reason_then),
            change.decisions.to_string(),
        ]
    });
    output::table(&["change", "certificate", "now", "then", "decisions"], rows.collect());
    if outcome.changes.len() > CHANGES_SHOWN {
        output::line(&format!("and {} more; --json has all", outcome.changes.len() - CHANGES_SHOWN));
    }
    Ok(0)
}

fn import(from: RuleSourceArg, file: &Path, issuers: &[PathBuf], as_json: bool) -> anyhow::Result<u8> {
    let dialect = match from {
        RuleSourceArg::Sssd => Dialect::Sssd,
        RuleSourceArg::Mit => Dialect::Mit,
        RuleSourceArg::Keycloak => Dialect::Keycloak,
    };
    let text = read_rules(file)
        .map_err(|error| failed(UNUSABLE, format_args!("{} cannot be read: {error}", file.display())))?;
    let mut authorities = Vec::new();
    for path in issuers {
        let chain = Chain::read(path, None).map_err(|error| failed(UNUSABLE, error))?;
        let subject = Certificate::parse(chain.certificate())?.subject_name()?.clone();
        authorities.push(KnownAuthority { file: path.display().to_string(), subject });
    }
    match mapping_import::import(dialect, &text, &authorities) {
        Ok(imported) if as_json => output::json(&serde_json::to_value(&imported)?),
        Ok(imported) => {
            output::lines(imported.toml.trim_end());
            imported.notes.iter().for_each(|note| output::message(&format!("note: {note}")));
        }
        Err(refused) => {
            if as_json {
                let mut value = serde_json::to_value(&refused)?;
                value["error"] = refused.to_string().into();
                value["exit_code"] = Value::from(3);
                output::json(&value);
            }
            output::message_lines(&refused.to_string());
            return Ok(3);
        }
    }
    Ok(0)
}

fn read_rules(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    // One byte more than is allowed shows that there is more.
    let limit = TEXT_LEN_MAX as u64 + 1;
    match input::is_standard(file) {
        true => std::io::stdin().lock().take(limit).read_to_string(&mut text)?,
        false => std::fs::File::open(file)?.take(limit).read_to_string(&mut text)?,
    };
    Ok(text)
}
