//! Limits of processes, free disk, and the running service.

use super::super::admin_port;
use super::report::{Check, Grade, Report};
use crate::config::Config;
use crate::serve::open_files;
use http::StatusCode;
use rustix::fs::statvfs;
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// One page for each generation of the master secret, and for keys: a few dozen of 4 KiB.
const LOCKED_MIN: u64 = 1 << 20;
/// A required audit log has a line of up to some KiB for each decision: a busy day.
const DISK_LOW: u64 = 1 << 30;
/// Less than this is used up while an operator reads the alert.
const DISK_FULL: u64 = 64 << 20;

/// Limits of a process; `None` is no limit.
struct Limits {
    of: String,
    open_files: Option<u64>,
    locked: Option<u64>,
}

impl Limits {
    /// Those of the service if it runs and can be read, else those of this command.
    fn of(service: Option<u32>) -> Self {
        let read = |pid| fs::read_to_string(format!("/proc/{pid}/limits")).ok();
        if let Some((pid, text)) = service.and_then(|pid| Some((pid, read(pid)?))) {
            // Limit, soft limit, hard limit, units: the names have spaces.
            let soft = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name))?;
                line.split_ascii_whitespace().next()?.parse().ok()
            };
            let of = format!("the service (process {pid})");
            return Self { of, open_files: soft("Max open files"), locked: soft("Max locked memory") };
        }
        Self {
            of: "this shell".to_owned(),
            // The service raises its soft limit.
            open_files: getrlimit(Resource::Nofile).maximum,
            locked: getrlimit(Resource::Memlock).current,
        }
    }
}

/// Whether open files and locked memory are enough for the connection limits and the master secret.
pub(super) fn limits(config: &Config, service: Option<u32>, report: &mut Report) {
    let Limits { of, open_files: granted, locked } = Limits::of(service);
    let (rpc, others) = open_files::connections_of(config);
    let needed = open_files::needed(rpc, others);
    match granted {
        Some(granted) if granted < needed => report.add(
            Check::Limits,
            Grade::Warning,
            format!("{of} may open {granted} files, and the connection limits need {needed}"),
            format!("set LimitNOFILE={needed} in the unit, or lower connections_max"),
        ),
        granted => {
            let granted = granted.map_or("any number of".to_owned(), |granted| granted.to_string());
            let text = format!("{of} may open {granted} files, and the connection limits need {needed}");
            report.ok(Check::Limits, text);
        }
    }
    if config.sso.is_none() {
        return;
    }
    match locked {
        Some(locked) if locked < LOCKED_MIN => report.add(
            Check::Limits,
            Grade::Warning,
            format!("{of} may lock {locked} octets of memory: the master secret may be written to swap"),
            format!("set LimitMEMLOCK={LOCKED_MIN} or more in the unit"),
        ),
        _ => report.ok(Check::Limits, format!("{of} may lock the memory of the master secret")),
    }
}

/// Whether there is room for the audit log.
pub(super) fn disk(config: &Config, report: &mut Report) {
    let heads = config.audit.heads.iter().map(|heads| &heads.path);
    for path in config.audit.path.iter().chain(heads) {
        let folder = crate::config::base(path);
        match free(folder) {
            Err(error) => report.add(
                Check::Disk,
                Grade::Error,
                format!("{} (audit log) cannot be looked at: {error}", folder.display()),
                "create the folder for the user of the service",
            ),
            Ok(free) => {
                let grade = match free {
                    ..DISK_FULL => Grade::Error,
                    DISK_FULL..DISK_LOW => Grade::Warning,
                    DISK_LOW.. => Grade::Ok,
                };
                let text = format!("{} MiB are free for {}", free >> 20, path.display());
                let to_do = match grade {
                    Grade::Ok => "",
                    _ => {
                        "free space, or move the log to a larger disk: with required = true, no decision is made without room for its line"
                    }
                };
                report.add(Check::Disk, grade, text, to_do);
            }
        }
    }
}

/// Octets that users other than root may write.
fn free(folder: &Path) -> Result<u64, String> {
    let found = statvfs(folder).map_err(|error| error.to_string())?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Asks the running service whether it is ready.
pub(super) async fn service(config: &Config, timeout: Duration, report: &mut Report) {
    let Some(admin) = &config.admin else { return };
    if admin.listen.port() == 0 {
        report.ok(Check::Service, "not asked: the system chooses the port of admin.listen");
        return;
    }
    match admin_port::get(admin.listen, "/ready", timeout).await {
        Ok((StatusCode::OK, _)) => report.ok(Check::Service, "it runs, and it is ready"),
        Ok((status, body)) => {
            let text = String::from_utf8_lossy(&body).trim_end().to_owned();
            report.add(
                Check::Service,
                Grade::Error,
                format!("it runs, and answers {}: {text}", status.as_u16()),
                "the log of the service says why",
            );
        }
        Err(error) => report.add(
            Check::Service,
            Grade::Warning,
            format!("it does not answer at {} (admin.listen): {error}", admin.listen),
            "start the service, or see in its log why it does not run",
        ),
    }
}
