//! The clocks of the process.
//!
//! The wall clock is for what carries a date: certificates, CRLs, accounts, what is written down. Durations
//! are measured by the monotonic clock, because the wall clock can be set.

use dtyp::FileTime;
use netlogon_transport::secrets::BoxFuture;
use netlogon_transport::server::Environment;
use rustix::time::{ClockId, clock_gettime};
use std::sync::LazyLock;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;

/// The wall clock.
pub fn now() -> FileTime {
    SystemTime::now().into()
}

/// Reads an instant as operators write it: a date, which begins at 00:00 UTC; a date and a time in UTC, as in
/// RFC 3339; seconds since 1970; or `never`.
pub fn instant(text: &str) -> Result<FileTime, String> {
    if text == "never" {
        return Ok(FileTime::NEVER);
    }
    if let Ok(seconds) = text.parse() {
        return Ok(FileTime::from_unix(seconds));
    }
    account_store::json_lines::date(text).ok_or_else(|| {
        "write a date such as 2027-01-01, a time such as 2027-01-01T12:00:00Z, seconds since 1970, or never"
            .to_owned()
    })
}

/// The monotonic clock: the time since the system started, including the time that it was suspended.
pub fn uptime() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Both clocks, for a request of a sidecar.
pub fn moment() -> sidecar::Moment {
    sidecar::Moment { wall: now(), uptime: uptime() }
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

    fn wait_until(&self, time: Duration) -> BoxFuture<'static, ()> {
        let (done, waiter) = oneshot::channel();
        let left = time.saturating_sub(uptime());
        let sent = ALARMS.as_ref().is_some_and(|alarms| alarms.send((time, done)).is_ok());
        Box::pin(async move {
            match sent {
                true => drop(waiter.await),
                false => tokio::time::sleep(left).await,
            }
        })
    }
}

/// Waits that end at a moment that was known before they began, in the order in which they were asked for. A
/// connection has one call in progress, so at most as many waits are in the channel as there are connections.
/// A timer of tokio ends a whole number of milliseconds after its thread went to sleep, so that it shows to a
/// microsecond how long the thread worked before.
static ALARMS: LazyLock<Option<Sender<Alarm>>> = LazyLock::new(|| {
    let (alarms, next) = channel::<Alarm>();
    let ring = move || {
        for (time, done) in next {
            std::thread::sleep(time.saturating_sub(uptime()));
            // A client that has gone waits no more.
            let _ = done.send(());
        }
    };
    let spawned = std::thread::Builder::new().name("alarms".to_owned()).spawn(ring);
    spawned.is_ok().then_some(alarms)
});

/// When to wake up, and who.
type Alarm = (Duration, oneshot::Sender<()>);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_ends_at_its_moment_and_not_before() {
        let begun = uptime();
        let waits = (1..=20).map(|n| SystemEnvironment.wait_until(begun + n * Duration::from_millis(1)));
        for (n, wait) in (1..).zip(waits.collect::<Vec<_>>()) {
            wait.await;
            assert!(uptime() >= begun + n * Duration::from_millis(1));
        }
        SystemEnvironment.wait_until(Duration::ZERO).await;
    }

    #[test]
    fn instants_are_read_as_operators_write_them() {
        // Seconds by `date -u -d TEXT +%s`.
        for (text, seconds) in [
            ("2027-01-01", 1_798_761_600),
            ("2027-01-01T12:30:59Z", 1_798_806_659),
            ("2027-01-01 12:30:59z", 1_798_806_659),
            ("2024-02-29", 1_709_164_800),
            ("1798761600", 1_798_761_600),
            ("0", 0),
        ] {
            assert_eq!(instant(text), Ok(FileTime::from_unix(seconds)), "{text}");
        }
        assert_eq!(instant("never"), Ok(FileTime::NEVER));
        for text in [
            "",
            "tomorrow",
            "2027-1-1",
            "2027-02-29",
            "2027-13-01",
            "2027-01-01T12:30:59",
            "2027-01-01T25:00:00Z",
            "2027-01-01T12:00:00+01:00",
            "2027-01-01-01",
            "+027-01-01",
            "01/01/2027",
        ] {
            assert!(instant(text).is_err(), "{text}");
        }
    }
}
