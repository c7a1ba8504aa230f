//! `rcmpd doctor`: all that can be found out about an installation before users notice.
//!
//! What is said of the configuration alone is what `check-config` says. The other checks look at this system
//! and at the network.

mod certificates;
mod clock;
mod ldap_time;
mod network;
mod owner;
mod ports;
mod report;
mod system;

use super::{config_file, exit_code_of};
use crate::checked::{Area, Checked};
use crate::cli::DoctorArgs;
use crate::config::{self, Config, ConfigError, StoreKind};
use crate::findings;
use crate::stores;
use account_store::{Matches, Query};
use network::Names;
use report::{Check, Grade, Report};
use std::path::Path;
use std::time::Duration;

/// A check found an error. A configuration that is wrong or cannot be read has the exit code of each command.
const ERRORS: u8 = 3;

pub(super) async fn run(args: DoctorArgs) -> anyhow::Result<u8> {
    let path = config_file(&args.config)?;
    let (mut report, code) = match config::load(&path) {
        Ok(config) => (examine(&path, &config, Duration::from_secs(args.timeout)).await, ERRORS),
        Err(error) => (of_wrong_configuration(&path, &error), exit_code_of(&error)),
    };
    report.sort();
    let code = if report.worst() == Grade::Error { code } else { 0 };
    match args.json.json {
        true => report.print_json(&path, code),
        false => report.print(),
    }
    Ok(code)
}

/// Makes all checks. Each question over the network has this time.
async fn examine(path: &Path, config: &Config, timeout: Duration) -> Report {
    let mut report = Report::default();
    of_stores(config, &mut report).await;
    of_configuration(config, &findings::check(config).await, &mut report);
    let served = ports::check(path, config, &mut report).await;
    system::limits(config, served, &mut report);
    system::disk(config, &mut report);
    system::service(config, timeout, &mut report).await;
    certificates::check(config, &mut report).await;
    clock::check_files(config, &mut report);
    let names = Names::of(config);
    network::names(&names, timeout, &mut report).await;
    let controllers = network::channels(config, timeout, &mut report).await;
    clock::check_controllers(config, &controllers, timeout, &mut report).await;
    report
}

/// Asks stores on servers for an account: opening a store need not ask its server.
async fn of_stores(config: &Config, report: &mut Report) {
    let kinds = config.store.iter().flat_map(config::Store::kinds);
    let mut beside = kinds.filter(|(section, kind)| {
        section.as_str() != "store"
            || matches!(kind, StoreKind::Ldap(_) | StoreKind::Socket(_) | StoreKind::Several(_))
    });
    if beside.next().is_none() {
        return;
    }
    // Why one of these cannot be opened is among the findings of the configuration.
    let Ok(machines) = stores::machines(config).await else { return };
    let Ok(accounts) = stores::accounts(config, &machines).await else { return };
    let query = Query::Name("rcmpd-doctor".to_owned());
    match &accounts.several {
        None => {
            let failed = accounts.store.find(&query).await.err();
            if let Some((error, kind)) = failed.zip(config.store.as_ref().map(|store| &store.kind)) {
                let (text, to_do) = unanswered(kind);
                report.add(Check::Store, Grade::Error, format!("{text}: {error}"), to_do);
            }
        }
        Some(several) => {
            for part in several.parts() {
                if let Err(error) = part.store.find(&query).await {
                    let text = format!("[[store.part]] {} does not answer: {error}", part.name);
                    let to_do = "see that its server can be reached, and check its certificate and secret";
                    report.add(Check::Store, Grade::Error, text, to_do);
                }
            }
        }
    }
    let Some(compared) = &accounts.compared else { return };
    if let Err(error) = compared.difference(&query, &Matches::None).await {
        let text = format!("[store.compare] does not answer: {}", crate::output::chain(&error));
        let to_do = "see that its server can be reached, and check its certificate and secret";
        report.add(Check::Store, Grade::Warning, text, to_do);
    }
}

/// What a store of this kind says if it does not answer, and what to do about it.
const fn unanswered(kind: &StoreKind) -> (&'static str, &'static str) {
    match kind {
        StoreKind::Ldap(_) => (
            "the directory of [store.ldap] does not answer",
            "see that a server of store.ldap can be reached, and check its ca, bind_dn and secret",
        ),
        StoreKind::Socket(_) => (
            "the program of [store.socket] does not answer",
            "see that it runs as the user of store.socket.peer and listens at store.socket.path, and read its log",
        ),
        StoreKind::Postgres(_) => (
            "the database of [store.postgres] does not answer",
            "see that a server of store.postgres can be reached, and check its ca, user and password",
        ),
        StoreKind::Sqlite(_) => (
            "the database of [store] cannot be read",
            "see that the service may read the file of store.path; restore it from a backup only if it is damaged",
        ),
        StoreKind::Memory(_) | StoreKind::Profile(_) | StoreKind::Several(_) | StoreKind::Added(..) => {
            ("the store of [store] does not answer", "see that what the store needs can be reached")
        }
    }
}

/// What `check-config` finds, and what it has found to be good.
fn of_configuration(config: &Config, found: &Checked, report: &mut Report) {
    for (list, grade) in [(&found.problems, Grade::Error), (&found.warnings, Grade::Warning)] {
        list.iter().for_each(|found| report.add(check_of(found.area), grade, &found.text, to_do(found.area)));
    }
    let names_users = config.sidecar.iter().any(|sidecar| !sidecar.listen.is_empty())
        || config.sso.as_ref().is_some_and(|sso| !sso.operators.is_empty() || sso.operator_socket.is_some());
    let has_kerberos = config.sso.as_ref().is_some_and(|sso| sso.kerberos.is_some());
    let looked_at = [
        (true, Check::Configuration, "the keys, the values and the files that they name can be used"),
        (true, Check::Permissions, "no other user can read or change a file that must be protected"),
        (names_users, Check::Users, "this system knows each user and group that is named"),
        (config.store.is_some(), Check::Store, "it opens, and the names in the configuration are in it"),
        (has_kerberos, Check::Keytab, "it has AES keys, and no key of a machine account"),
        (config.sso.is_some(), Check::MasterSecret, "the secret is open, and its last backup is current"),
    ];
    for (_, check, text) in looked_at.into_iter().filter(|(is_there, ..)| *is_there) {
        if !report.has(check) {
            report.ok(check, text);
        }
    }
}

const fn check_of(area: Area) -> Check {
    match area {
        Area::Configuration => Check::Configuration,
        Area::Permissions => Check::Permissions,
        Area::Users => Check::Users,
        Area::Store => Check::Store,
        Area::Keytab => Check::Keytab,
        Area::MasterSecret => Check::MasterSecret,
        Area::Certificates => Check::Certificates,
    }
}

/// What an operator does about a finding of `check-config`.
const fn to_do(area: Area) -> &'static str {
    match area {
        Area::Configuration => {
            "change the key that the finding names; rcmpd check-config says when it is good"
        }
        Area::Permissions => "change the mode of the file or folder as the finding says",
        Area::Users => "create the user or group on this system, or name another one",
        Area::Store => {
            "add what is missing, or correct the name; see that a server of the store is up and can be reached; restore a file from a backup only if the finding says that it is damaged"
        }
        Area::Keytab => "write a keytab with AES keys of the service alone, and give it mode 600 or 640",
        Area::MasterSecret => {
            "see `rcmpd sso secret status`; `rcmpd sso secret backup` writes a backup, and `unseal` adds a share"
        }
        Area::Certificates => "replace the certificate or the CRL, or correct its path",
    }
}

/// The errors of a file that is wrong, one by one, or why it cannot be read.
fn of_wrong_configuration(path: &Path, error: &ConfigError) -> Report {
    let mut report = Report::default();
    match error.places() {
        None => report.add(
            Check::Configuration,
            Grade::Error,
            error.to_string(),
            "name the file by -c FILE, and let the user of this command read it",
        ),
        Some(places) => {
            for (line, column, problem) in places {
                let text = format!("{}:{line}:{column}: {}", path.display(), problem.what);
                report.add(Check::Configuration, Grade::Error, text, &problem.help);
            }
        }
    }
    report
}
