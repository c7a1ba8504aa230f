//! The bound of what waits to be exported. The processors of the SDK drop silently what does not fit into
//! their queues, so it is dropped before them, and counted.

use super::losses::Losses;
use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogProcessor, SdkLogRecord};
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use prometheus_client::metrics::counter::Counter;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// The default length of a queue (OpenTelemetry, environment variables of batch processors).
const LEN_DEFAULT: usize = 2048;

/// Counts what the queue of a processor holds. The processor takes things out before it calls the exporter,
/// which counts them out: so there is never more in the queue than is counted.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    signal: &'static str,
    len_max: usize,
    waiting: Arc<AtomicUsize>,
    /// What did not fit and was not logged yet.
    unlogged: Arc<AtomicU64>,
    dropped: Counter,
    losses: Losses,
}

impl Queue {
    /// The queue of a signal, and what counts its losses. `len_max` is the variable of OpenTelemetry.
    pub(super) fn new(
        signal: &'static str,
        len_max: Option<String>,
        dropped: Counter,
        losses: &Losses,
    ) -> Self {
        let len_max = len_max.and_then(|text| text.trim().parse().ok()).filter(|len_max| *len_max > 0);
        Self {
            signal,
            len_max: len_max.unwrap_or(LEN_DEFAULT),
            waiting: Arc::default(),
            unlogged: Arc::default(),
            dropped,
            losses: losses.clone(),
        }
    }

    pub(super) const fn len_max(&self) -> usize {
        self.len_max
    }

    /// Counts one in; `false` if it has to be dropped. This may be in the middle of a log event, so nothing
    /// is logged here.
    fn enter(&self) -> bool {
        let fits = self.waiting.fetch_add(1, Ordering::AcqRel) < self.len_max;
        if !fits {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            self.dropped.inc();
            self.unlogged.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }

    /// Counts out what the exporter gets now, and logs what did not fit since the last time.
    pub(super) fn leave(&self, len: usize) {
        self.waiting.fetch_sub(len, Ordering::AcqRel);
        if self.unlogged.load(Ordering::Relaxed) > 0 {
            self.losses.overflowed(self.signal, || self.unlogged.swap(0, Ordering::Relaxed));
        }
    }

    /// Counts and logs what could not be exported.
    pub(super) fn failed(&self, len: usize, error: &dyn Display) {
        self.dropped.inc_by(len as u64);
        self.losses.note(self.signal, error);
    }
}

/// A processor whose queue is counted.
#[derive(Debug)]
pub(super) struct Bounded<P> {
    pub(super) inner: P,
    pub(super) queue: Queue,
}

impl<P: SpanProcessor> SpanProcessor for Bounded<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.queue.enter() {
            self.inner.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<P: LogProcessor> LogProcessor for Bounded<P> {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        if self.queue.enter() {
            self.inner.emit(record, scope);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
