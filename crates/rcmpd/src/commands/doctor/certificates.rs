//! How long certificates and CRLs can still be used.

use super::report::{Check, Grade, Report};
use crate::certificates::of_tls;
use crate::clock::now;
use crate::config::Config;
use crate::trust::{self, Loaded};
use dtyp::FileTime;
use rcmp_service::certificate::Certificate;
use rcmp_service::trust::Authority;
use trust_tokio::certificates;

/// A certificate is replaced in its last days: 30, or a third of its life if that is shorter, as ACME clients
/// do it.
const NEAR_END_S: i64 = 30 * 86_400;
const DAY_S: i64 = 86_400;

/// Looks at the CAs and CRLs of `[mapping]`, and at the certificates of TLS. What cannot be read is among the
/// findings of the configuration.
pub(super) async fn check(config: &Config, report: &mut Report) {
    let now = now();
    if let Some(loaded) = config.mapping.as_ref().and_then(|mapping| trust::load(mapping, now).ok()) {
        let authorities = loaded.trust().into_iter().flat_map(|trust| trust.authorities());
        for Authority { subject, not_before, not_after, .. } in authorities {
            life(&format!("the CA {subject}"), (*not_before, *not_after), now, report);
        }
        crls(&loaded, now, report).await;
    }
    for (key, path) in of_tls(config) {
        let Ok(chain) = certificates::read_file(path) else { continue };
        for certificate in chain.iter().filter_map(|der| Certificate::parse(der).ok()) {
            let subject = certificate.subject_name().map(ToString::to_string).unwrap_or_default();
            let what = format!("{subject} in {} ({key})", path.display());
            life(&what, (certificate.not_before, certificate.not_after), now, report);
        }
    }
}

/// Reports the life of a certificate.
fn life(what: &str, (start, end): (FileTime, FileTime), now: FileTime, report: &mut Report) {
    let (begin, until, at) = (start.to_unix(), end.to_unix(), now.to_unix());
    let near_end = NEAR_END_S.min((until - begin).max(0) / 3);
    let (grade, text) = match until - at {
        _ if at < begin => (Grade::Error, format!("{what} is not valid before {start}")),
        ..0 => (Grade::Error, format!("{what} has expired at {end}")),
        left if left < near_end => (Grade::Warning, format!("{what} expires in {}, at {end}", days(left))),
        left => (Grade::Ok, format!("{what} is valid for {}", days(left))),
    };
    let to_do = match grade {
        Grade::Ok => "",
        _ if at < begin => "correct the clock, or wait with the certificate",
        _ => "have it issued again, put it in the same place, and reload",
    };
    report.add(Check::Certificates, grade, text, to_do);
}

fn days(seconds: i64) -> String {
    match seconds / DAY_S {
        0 => format!("{} hours", seconds / 3600),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

async fn crls(loaded: &Loaded, now: FileTime, report: &mut Report) {
    const TO_DO: &str = "put a newer CRL in its place, or correct the path or URL in mapping.crls";
    for warning in loaded.fetch(crate::clock::now).await {
        report.add(Check::Certificates, Grade::Error, warning, TO_DO);
    }
    for (crl, facts) in loaded.crls() {
        // Why one is not loaded is said above, or by the check of the configuration.
        let Some(facts) = facts else { continue };
        let left = facts.next_update.to_unix() - now.to_unix();
        let (grade, text) = match facts.is_expired(now) {
            true => (Grade::Error, format!("the CRL {crl} has expired at {}", facts.next_update)),
            _ if trust_tokio::crls::is_near_end(&facts, now) => (
                Grade::Warning,
                format!("the CRL {crl} expires in {} minutes, at {}", left / 60, facts.next_update),
            ),
            false => (Grade::Ok, format!("the CRL {crl} is valid for {}", days(left))),
        };
        report.add(Check::Certificates, grade, text, if grade == Grade::Ok { "" } else { TO_DO });
    }
}
