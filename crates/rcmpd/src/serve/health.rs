//! Whether the service is ready, when it started, and the result of the last reload.

use crate::certificates::Expiries;
use crate::clock::{now, uptime};
use crate::config::{Sections, Shown};
use dcerpc_tokio::{NO_LABELS, encode_family};
use dtyp::FileTime;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// The SHA-256 of the configuration file, in hexadecimal.
    config_digest: Mutex<String>,
    expiries: Mutex<Arc<Expiries>>,
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
            config_digest: Mutex::default(),
            expiries: Mutex::default(),
        }))
    }

    pub(super) fn set_ready(&self, is_ready: bool) {
        self.0.is_ready.store(is_ready, Ordering::Release);
    }

    /// Notes the result of a reload that ends now: the error, or none if the configuration was taken over.
    pub(super) fn reloaded(&self, error: Option<String>) {
        let mut reload = lock(&self.0.reload);
        let at = now();
        let good = if error.is_none() { at } else { reload.good };
        *reload = Reload { at, error, good };
    }

    /// Notes the configuration that is in use from now on, and when its certificates expire.
    pub(super) fn configured(&self, sections: &Sections, expiries: Expiries) {
        *lock(&self.0.expiries) = Arc::new(expiries);
        *lock(&self.0.settings) = Arc::new(sections.keys());
        *lock(&self.0.config_digest) = dtyp::hex(&sections.digest());
    }

    /// The settings in use.
    pub(super) fn settings(&self) -> Arc<Vec<Shown>> {
        Arc::clone(&lock(&self.0.settings))
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
        lock(&self.0.reload).clone()
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collector for Health {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let one = || ConstGauge::new(1_u32);
        let help = "1, with the version of the program";
        encode_family(
            &mut encoder,
            ("build_info", help, None),
            [([("version", crate::cli::VERSION)], one())],
        )?;
        let help = "1, with the SHA-256 of the configuration file that is in use";
        let labels = [("sha256", lock(&self.0.config_digest).clone())];
        encode_family(&mut encoder, ("config_info", help, None), [(labels, one())])?;
        let Reload { error, good, .. } = self.reload();
        let help =
            "1 if the last reload of the configuration was taken over, 0 if the previous one stays in use";
        let is_good = ConstGauge::new(u32::from(error.is_none()));
        encode_family(&mut encoder, ("config_last_reload_successful", help, None), [(NO_LABELS, is_good)])?;
        let help =
            "Time of the last start or reload whose configuration was taken over, in seconds of Unix time";
        let name = "config_last_reload_success_timestamp";
        let seconds = Some(Unit::Seconds);
        let good = ConstGauge::new(good.to_unix());
        encode_family(&mut encoder, (name, help, seconds.clone()), [(NO_LABELS, good)])?;
        let expiries = Arc::clone(&lock(&self.0.expiries));
        let certificates = expiries
            .certificates
            .iter()
            .map(|((key, file), end)| ([("use", *key), ("file", file.as_str())], ConstGauge::new(*end)));
        let help = "Time at which the first certificate of a file expires, in seconds of Unix time, as read at the last start or reload";
        let name = "certificate_expiry_timestamp";
        encode_family(&mut encoder, (name, help, seconds.clone()), certificates)?;
        let crls = expiries.admin_crls.iter();
        let crls = crls.map(|(file, end)| ([("crl", file.as_str())], ConstGauge::new(*end)));
        let help = "Time at which a CRL of operators' certificates expires, in seconds of Unix time, as read at the last start or reload";
        encode_family(&mut encoder, ("admin_crl_next_update", help, seconds), crls)
    }
}
