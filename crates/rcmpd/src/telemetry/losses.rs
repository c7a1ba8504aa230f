//! What is said about telemetry that could not be exported.

use crate::config::otlp::Signal;
use dcerpc_tokio::LogLimiter;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use std::fmt::Display;
use std::sync::Arc;

/// Label `signal` of what was lost.
type SignalLabel = [(&'static str, &'static str); 1];

/// Counts what was lost, and logs it once a minute for each signal. No caller waits for an exporter: what
/// does not fit into its queue is dropped.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    failures: Arc<LogLimiter>,
    overflows: Arc<LogLimiter>,
    dropped: Family<SignalLabel, Counter>,
}

impl Losses {
    /// Registers the metric of lost spans and records.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let help = "Spans and log records that were not exported: their queue was full, or a request failed";
        // There from the start.
        for signal in [Signal::Traces, Signal::Logs] {
            self.counter(signal);
        }
        registry.register("telemetry_dropped", help, self.dropped.clone());
    }

    /// Counts what of a signal was lost.
    pub(super) fn counter(&self, signal: Signal) -> Counter {
        self.dropped.get_or_create_owned(&[("signal", signal.name())])
    }

    pub(super) fn note(&self, signal: &'static str, error: &dyn Display) {
        self.failures.counted(signal, |left_out| {
            tracing::warn!(signal, %error, left_out, "Cannot export telemetry");
        });
    }

    /// Logs how many did not fit into a queue; `dropped` resets that number.
    pub(super) fn overflowed(&self, signal: &'static str, dropped: impl FnOnce() -> u64) {
        self.overflows.once(signal, || {
            let dropped = dropped();
            tracing::warn!(
                signal,
                dropped,
                "Telemetry dropped: the queue is full, the collector is too slow"
            );
        });
    }
}
