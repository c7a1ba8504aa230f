//! Metrics of the process, named as all programs that Prometheus scrapes name them.

use dcerpc_tokio::{NO_LABELS, encode_family};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::fmt;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// Reads them from the kernel at each scrape. What cannot be read, as without `/proc`, is left out.
#[derive(Debug)]
pub(super) struct ProcessCollector {
    /// In Unix time.
    started: Option<f64>,
}

impl ProcessCollector {
    /// Reads when this process started.
    pub(super) fn new() -> Self {
        Self { started: started() }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let cpu = ConstCounter::new(seconds(clock_gettime(ClockId::ProcessCPUTime)));
        let help = "Time that processors worked for this process";
        encode_family(&mut encoder, ("cpu", help, Some(Unit::Seconds)), [(NO_LABELS, cpu)])?;
        let gauges = [
            ("start_time", "When this process started, in Unix time", Some(Unit::Seconds), self.started),
            ("resident_memory", "Memory of this process that is in RAM", Some(Unit::Bytes), resident()),
            ("open_fds", "Open file descriptors", None, open_files()),
            ("max_fds", "How many file descriptors may be open", None, open_files_max()),
        ];
        for (name, help, unit, value) in gauges {
            let samples = value.map(|value| (NO_LABELS, ConstGauge::new(value)));
            encode_family(&mut encoder, (name, help, unit), samples)?;
        }
        Ok(())
    }
}

fn seconds(time: Timespec) -> f64 {
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The 22nd field of `/proc/self/stat` (proc(5)) is the start of the process, in clock ticks after that of the
/// machine. The second field has the name of the program, which may have blanks and brackets.
fn started() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let ticks: u64 = rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()?;
    let after_boot = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    Some(now - seconds(clock_gettime(ClockId::Boottime)) + after_boot)
}

fn resident() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some((kibibytes * 1024) as f64)
}

/// The folder itself is open while it is read.
fn open_files() -> Option<f64> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

/// `None` if there is no limit.
fn open_files_max() -> Option<f64> {
    getrlimit(Resource::Nofile).current.map(|limit| limit as f64)
}
