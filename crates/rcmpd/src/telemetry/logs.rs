//! Events of the log as records of OpenTelemetry, in the trace of the call that they are about.

use opentelemetry::logs::{AnyValue, LogRecord, Logger, Severity};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::logs::SdkLogger;
use std::fmt::Debug;
use std::sync::OnceLock;
use std::time::SystemTime;
use tracing::dispatcher::{Dispatch, WeakDispatch};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// The longest text of a value. Peers choose some of them.
const TEXT_LEN_MAX: usize = 8192;

/// Writes events to a logger.
pub(super) struct Records {
    logger: SdkLogger,
    /// What knows the trace of a span.
    dispatch: OnceLock<WeakDispatch>,
}

impl Records {
    pub(super) fn new(logger: SdkLogger) -> Self {
        Self { logger, dispatch: OnceLock::new() }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Records {
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        let _ = self.dispatch.set(dispatch.downgrade());
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let mut record = self.logger.create_log_record();
        record.set_timestamp(SystemTime::now());
        let (severity, name) = match *metadata.level() {
            Level::TRACE => (Severity::Trace, "TRACE"),
            Level::DEBUG => (Severity::Debug, "DEBUG"),
            Level::INFO => (Severity::Info, "INFO"),
            Level::WARN => (Severity::Warn, "WARN"),
            Level::ERROR => (Severity::Error, "ERROR"),
        };
        record.set_severity_number(severity);
        record.set_severity_text(name);
        record.set_target(metadata.target());
        event.record(&mut Fields(&mut record));
        let span = context.event_span(event).map(|span| span.id());
        let dispatch = self.dispatch.get().and_then(WeakDispatch::upgrade);
        let of_span = |(id, dispatch)| tracing_opentelemetry::get_otel_context(&id, &dispatch);
        if let Some(trace) = span.zip(dispatch).and_then(of_span) {
            let span = trace.span();
            let place = span.span_context();
            record.set_trace_context(place.trace_id(), place.span_id(), Some(place.trace_flags()));
        }
        self.logger.emit(record);
    }
}

struct Fields<'a, R>(&'a mut R);

impl<R: LogRecord> Fields<'_, R> {
    fn add(&mut self, field: &Field, value: AnyValue) {
        match field.name() {
            "message" => self.0.set_body(value),
            name => self.0.add_attribute(name.strip_prefix("r#").unwrap_or(name), value),
        }
    }
}

impl<R: LogRecord> Visit for Fields<'_, R> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, i64::try_from(value).map_or_else(|_| value.to_string().into(), AnyValue::from));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let end = value.floor_char_boundary(TEXT_LEN_MAX);
        self.add(field, value[..end].to_owned().into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}
