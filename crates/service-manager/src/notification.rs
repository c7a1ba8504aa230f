//! What the service manager is told: sd_notify(3). Without `NOTIFY_SOCKET` nothing is sent.

use sd_notify::NotifyState;
use std::time::Duration;
use tracing::warn;

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "Service manager not notified");
    }
}

/// The service answers: after the start, and after a reload.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The configuration is read again. `ready` follows, whether it was taken over or not.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "Service manager not notified"),
    }
}

/// Listeners close, and calls in flight are answered.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Sends `WATCHDOG=1` when it is due, for ever. A service that is not watched never wakes.
pub struct Watchdog(Option<tokio::time::Interval>);

impl Watchdog {
    /// Twice as often as the service manager asks for (`WatchdogSec=`).
    pub fn of_environment() -> Self {
        let interval = sd_notify::watchdog_enabled().map(|timeout| timeout / 2);
        let interval = interval.filter(|interval| *interval > Duration::ZERO);
        Self(interval.map(tokio::time::interval))
    }

    /// Waits until the next notification is due, and sends it. Cancel safe.
    pub async fn tick(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
                notify(&[NotifyState::Watchdog]);
            }
            None => std::future::pending().await,
        }
    }

    /// Awaits work that may take longer than the service manager waits, and sends what is due meanwhile.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = self.tick() => {}
            }
        }
    }
}
