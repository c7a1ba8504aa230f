//! Whether the service is ready, when it started, and the result of the last reload.

use crate::clock::{now, uptime};
use crate::config::Shown;
use dcerpc_tokio::{NO_LABELS, encode_family};
use dtyp::FileTime;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Whether the service accepts calls, and the result of the last reload.
#[derive(Clone, Debug)]
pub(super) struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    is_ready: AtomicBool,
    started: FileTime,
    started_at: Duration,
    reload: Mutex<Reload>,
    settings: Mutex<Arc<Vec<Shown>>>,
}

/// The last time that the configuration was read.
#[derive(Clone, Debug)]
pub(super) struct Reload {
    pub(super) at: FileTime,
    /// Why the configuration was not taken over; none if it was.
    pub(super) error: Option<String>,
    /// When a configuration was last taken over.
    pub(super) good: FileTime,
}

impl Health {
    /// The state of a service that starts now, and whose configuration was read without an error.
    pub(super) fn new() -> Self {
        let started = now();
        let reload = Mutex::new(Reload { at: started, error: None, good: started });
        Self(Arc::new(Inner {
            is_ready: AtomicBool::new(false),
            started,
            started_at: uptime(),
            reload,
            settings: Mutex::default(),
        }))
    }

    pub(super) fn set_ready(&self, is_ready: bool) {
        self.0.is_ready.store(is_ready, Ordering::Release);
    }

    /// Notes the result of a reload that ends now: the error, or none if the configuration was taken over.
    pub(super) fn reloaded(&self, error: Option<String>) {
        let mut reload = self.0.reload.lock().unwrap_or_else(PoisonError::into_inner);
        let at = now();
        let good = if error.is_none() { at } else { reload.good };
        *reload = Reload { at, error, good };
    }

    /// Notes the settings that are in use from now on.
    pub(super) fn configured(&self, settings: Vec<Shown>) {
        *self.0.settings.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    /// The settings in use.
    pub(super) fn settings(&self) -> Arc<Vec<Shown>> {
        Arc::clone(&self.0.settings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn is_ready(&self) -> bool {
        self.0.is_ready.load(Ordering::Acquire)
    }

    /// When the service started.
    pub(super) fn started(&self) -> FileTime {
        self.0.started
    }

    /// How long the service has been running, by the monotonic clock.
    pub(super) fn age(&self) -> Duration {
        uptime().saturating_sub(self.0.started_at)
    }

    pub(super) fn reload(&self) -> Reload {
        self.0.reload.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Collector for Health {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Reload { error, good, .. } = self.reload();
        let help =
            "1 if the last reload of the configuration was taken over, 0 if the previous one stays in use";
        let is_good = ConstGauge::new(u32::from(error.is_none()));
        encode_family(&mut encoder, ("config_last_reload_successful", help, None), [(NO_LABELS, is_good)])?;
        let help =
            "Time of the last start or reload whose configuration was taken over, in seconds of Unix time";
        let name = "config_last_reload_success_timestamp";
        encode_family(
            &mut encoder,
            (name, help, Some(Unit::Seconds)),
            [(NO_LABELS, ConstGauge::new(good.to_unix()))],
        )
    }
}
