//! The clock: beside the files of the service, and beside the domain controllers that are asked.

use super::ldap_time;
use super::report::{Check, Grade, Report};
use crate::clock::now;
use crate::config::Config;
use account_store::file_access::database_files;
use dtyp::FileTime;
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::timeout;

/// Nodes of a farm may differ by so much, for tickets and cached answers.
const SKEW_SMALL: Duration = Duration::from_secs(60);
/// What Kerberos accepts, where `[sso.kerberos]` does not say.
const SKEW_MAX: Duration = Duration::from_secs(300);
/// The clock of a file system is a tick behind.
const TICK: Duration = Duration::from_secs(2);
const TO_DO: &str = "synchronize the clock (systemd-timesyncd, chrony) with that of the domain controllers";

/// A file of the service that was changed in the future says that the clock was set back.
pub(super) fn check_files(config: &Config, report: &mut Report) {
    let database = config.store.iter().filter_map(|store| store.machines.as_ref());
    let database = database.flat_map(|path| database_files(path));
    let files: Vec<PathBuf> = database.chain(config.audit.path.clone()).collect();
    let changed = files.iter().filter_map(|path| {
        Some((FileTime::from(path.metadata().ok()?.modified().ok()?), path))
            .filter(|(at, _)| *at > now() + TICK)
    });
    match changed.max() {
        Some((at, path)) => report.add(
            Check::Clock,
            Grade::Error,
            format!("it is {}, before the last change of {} at {at}", now(), path.display()),
            TO_DO,
        ),
        None => report.ok(Check::Clock, format!("it is {}, and no file of the service is newer", now())),
    }
}

/// Compares with each domain controller that tells its time: an Active Directory does, by LDAP without a
/// logon.
pub(super) async fn check_controllers(
    config: &Config,
    hosts: &BTreeSet<String>,
    time: Duration,
    report: &mut Report,
) {
    let asked = hosts.iter().map(async |host| {
        let before = now();
        let told = timeout(time, ldap_time::ask(host)).await;
        (host, before, told.unwrap_or_else(|_| Err("no answer in time".to_owned())), now())
    });
    let skew_max = config.sso.as_ref().and_then(|sso| sso.kerberos.as_ref());
    let skew_max = skew_max.map_or(SKEW_MAX, |kerberos| kerberos.clock_skew);
    let mut is_compared = false;
    for (host, before, told, after) in join_all(asked).await {
        // What is no domain controller has no LDAP.
        let Ok(told) = told else { continue };
        is_compared = true;
        let (behind, ahead) = (told.since(after), before.since(told));
        // It tells whole seconds.
        let ahead = ahead.saturating_sub(Duration::from_secs(1));
        let skew = behind.max(ahead);
        let grade = match skew {
            skew if skew > skew_max => Grade::Error,
            skew if skew > SKEW_SMALL => Grade::Warning,
            _ => Grade::Ok,
        };
        let text = match (grade, behind > ahead) {
            (Grade::Ok, _) => format!("it agrees with that of {host}"),
            (_, true) => format!("it is {} s behind that of {host}", skew.as_secs()),
            (_, false) => format!("it is {} s ahead of that of {host}", skew.as_secs()),
        };
        report.add(Check::Clock, grade, text, if grade == Grade::Ok { "" } else { TO_DO });
    }
    if !is_compared {
        report.ok(Check::Clock, "not compared with other clocks: no domain controller told its time");
    }
}
