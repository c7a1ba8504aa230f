//! `rcmpd check-proxy`.

use crate::cli::{CheckProxyArgs, PresetArg};
use crate::config;
use crate::output;
use anyhow::{Context, bail};
use proxy_check::{Check, Failed, Finding, Options, Report, Verdict};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use sidecar::headers::{Meaning, Preset};
use sidecar_tokio::server_verifier;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use trust_tokio::certificates;
use zeroize::Zeroizing;

/// This is not how it is asked for.
const WRONG_USE: u8 = 2;
/// Something leaks.
const LEAKS: u8 = 3;
/// The server is not reachable, or its certificate is rejected.
const UNREACHABLE: u8 = 4;
/// What was given cannot be used.
const UNUSABLE: u8 = 6;
/// Something could not be checked, or a check that each web server has to pass saw nothing.
const NOT_CHECKED: u8 = 7;

/// What is told of one finding to people; JSON has it all.
const SEEN_MAX: usize = 4;

pub(super) async fn run(args: CheckProxyArgs) -> u8 {
    let as_json = args.json.json;
    let url = args.url.clone();
    let options = match options(args) {
        Ok(options) => options,
        Err(error) => {
            let code = super::exit_code(&error);
            output::failure(&error);
            if as_json {
                output::json(&json!({ "error": crate::output::chain(&error), "exit_code": code }));
            }
            return code;
        }
    };
    let mut tell = |finding: &Finding| {
        if !as_json {
            as_text(finding);
        }
    };
    match proxy_check::check(&options, &mut tell).await {
        Ok(report) => {
            let code = code(&report);
            match as_json {
                true => output::json(&as_object(&url, &report, code)),
                false => summary(&report),
            }
            code
        }
        Err(Failed::Usage(error)) => failed(&error, WRONG_USE, as_json),
        Err(Failed::Input(error)) => failed(&crate::output::chain(&error), UNUSABLE, as_json),
        Err(Failed::Unreachable(why)) => failed(&format!("{url}: {why}"), UNREACHABLE, as_json),
    }
}

fn options(args: CheckProxyArgs) -> anyhow::Result<Options> {
    let mut headers: Vec<_> = args.header.into_iter().map(|name| (name, Meaning::User)).collect();
    if let Some(path) = &args.config {
        let config = config::load(path)?;
        let missing = || super::failed(UNUSABLE, format!("{} has no [sidecar]", path.display()));
        let sidecar = config.sidecar.as_ref().ok_or_else(missing)?;
        headers.extend(sidecar.format.names.iter().map(|(meaning, name)| (name.to_string(), *meaning)));
    }
    let presets = args.preset.into_iter().map(|preset| match preset {
        PresetArg::Remote => Preset::Remote,
        PresetArg::Forwarded => Preset::Forwarded,
        PresetArg::LookupIdentity => Preset::LookupIdentity,
        PresetArg::None => Preset::None,
    });
    let unusable = |error| super::failed(UNUSABLE, crate::output::chain(&error));
    let verifier = match &args.ca {
        Some(path) => {
            let anchors = certificates::read_anchors(path).map_err(|error| unusable(error.into()))?;
            let verifier = server_verifier::anchored(&anchors);
            Some(verifier.with_context(|| format!("{} cannot be used", path.display())).map_err(unusable)?)
        }
        None => None,
    };
    Ok(Options {
        presets: presets.collect(),
        headers,
        paths: args.path,
        url: args.url,
        connect: args.connect,
        pair: pair(&args.certificate, &args.key).map_err(unusable)?,
        other: match args.other_certificate.zip(args.other_key) {
            Some((certificate, key)) => Some(pair(&certificate, &key).map_err(unusable)?),
            None => None,
        },
        expect_user: args.expect_user,
        verifier,
        other_host: args.other_host,
        plain_port: args.plain_port,
        timeout: Duration::from_secs(args.timeout),
    })
}

/// A certificate with its chain, and its key.
fn pair(certificate: &Path, key: &Path) -> anyhow::Result<Arc<CertifiedKey>> {
    let chain = certificates::read_file(certificate)?;
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let text = Zeroizing::new(std::fs::read(key).with_context(|| format!("cannot read {}", key.display()))?);
    let key_der = pem_file::private_key(&text).with_context(|| format!("cannot use {}", key.display()))?;
    match CertifiedKey::from_der(chain, key_der, &default_provider()) {
        Ok(pair) => Ok(Arc::new(pair)),
        Err(rustls::Error::InconsistentKeys(_)) => {
            bail!("{} is not the key of the certificate {}", key.display(), certificate.display())
        }
        Err(error) => {
            Err(error).with_context(|| format!("cannot use {} with {}", key.display(), certificate.display()))
        }
    }
}

fn failed(error: &str, code: u8, as_json: bool) -> u8 {
    if as_json {
        output::json(&json!({ "error": error, "exit_code": code }));
    }
    output::message(error);
    code
}

fn code(report: &Report) -> u8 {
    let is_open = |finding: &Finding| match finding.verdict {
        Verdict::NotChecked => true,
        Verdict::NotSeen => !finding.check.is_optional(),
        Verdict::Pass | Verdict::Leak => false,
    };
    match report.count(Verdict::Leak) {
        0 if report.findings.iter().any(is_open) => NOT_CHECKED,
        0 => 0,
        _ => LEAKS,
    }
}

fn as_object(url: &str, report: &Report, code: u8) -> Value {
    let counts: serde_json::Map<_, _> = Verdict::ALL
        .into_iter()
        .map(|verdict| (verdict.name().to_owned(), report.count(verdict).into()))
        .collect();
    json!({
        "url": url,
        "page": report.is_page,
        "user": report.user,
        "checks": report.findings.iter().map(Finding::json).collect::<Vec<_>>(),
        "counts": counts,
        "exit_code": code,
    })
}

/// A finding, as soon as it is made.
fn as_text(finding: &Finding) {
    let (check, verdict) = (finding.check, finding.verdict);
    output::line(&format!("{:<20}  {:<35}{}", verdict.text(), check.name(), check.did()));
    let under = |text: &str| output::line(&format!("{:22}{}", "", text));
    let seen = &finding.seen[..finding.seen.len().min(SEEN_MAX)];
    seen.iter().for_each(|text| under(text));
    if finding.seen.len() > SEEN_MAX {
        under(&format!("and {} more, which --json has", finding.seen.len() - SEEN_MAX));
    }
    if verdict == Verdict::Leak {
        under(&format!("means:  {}", check.means()));
        under(&format!("change: {}", finding.advice));
    }
}

fn summary(report: &Report) {
    output::line("");
    let rows = Verdict::ALL.into_iter().map(|verdict| {
        let is = |finding: &&Finding| finding.verdict == verdict;
        let names: Vec<&str> =
            report.findings.iter().filter(is).map(|finding| finding.check.name()).collect();
        vec![verdict.text().to_owned(), names.len().to_string(), names.join(", ")]
    });
    output::table(&["verdict", "checks", "which"], rows.collect());
    let is_let_in =
        |finding: &Finding| finding.check != Check::Certificate || finding.verdict != Verdict::NotChecked;
    if !report.findings.iter().all(is_let_in) {
        output::line(
            "The certificate is refused, so the headers at the page were not seen: give one that is accepted.",
        );
    } else if !report.is_page {
        output::line("The page behind is not `rcmpd page`, so what arrives there was not seen.");
    }
}
