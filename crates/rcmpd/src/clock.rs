//! The clocks of the process.
//!
//! The wall clock is for what carries a date: certificates, CRLs, accounts, what is written down. Durations are measured by the
//! monotonic clock, because the wall clock can be set.

use dtyp::FileTime;
use netlogon_transport::secrets::BoxFuture;
use netlogon_transport::server::Environment;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime};

/// The wall clock.
pub fn now() -> FileTime {
    SystemTime::now().into()
}

/// The monotonic clock: the time since the system started, including the time that it was suspended.
pub fn uptime() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Time and randomness of the system, for a Netlogon server under tokio.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEnvironment;

impl Environment for SystemEnvironment {
    fn uptime(&self) -> Duration {
        uptime()
    }

    fn pause(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }
}
