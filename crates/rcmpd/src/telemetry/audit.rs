//! Copies of audit lines as records of OpenTelemetry.

use opentelemetry::logs::{AnyValue, LogRecord, Logger, LoggerProvider, Severity};
use opentelemetry::{SpanId, TraceFlags, TraceId};
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};
use serde_json::Value;
use std::time::SystemTime;
use tracing::Span;

/// The scope of audit records, which tells them from log events.
const SCOPE: &str = "rcmpd.audit";

/// Writes audit lines to a logger of their own.
#[derive(Debug)]
pub(super) struct AuditRecords(SdkLogger);

impl AuditRecords {
    pub(super) fn new(provider: &SdkLoggerProvider) -> Self {
        Self(provider.logger(SCOPE))
    }
}

impl audit_log::Records for AuditRecords {
    fn send(&self, event: &Value, text: String) {
        let mut record = self.0.create_log_record();
        record.set_timestamp(SystemTime::now());
        record.set_severity_number(Severity::Info);
        record.set_severity_text("INFO");
        record.set_body(AnyValue::from(text));
        for (member, attribute) in [
            ("event", "rcmpd.event"),
            ("decision", "rcmpd.decision"),
            ("reason", "rcmpd.reason"),
            ("account_sid", "rcmpd.account_sid"),
        ] {
            if let Some(value) = event[member].as_str() {
                record.add_attribute(attribute, value.to_owned());
            }
        }
        let span = Span::current();
        if let (false, Some(place)) = (span.is_disabled(), trace_context::place(&span)) {
            let (trace, span) = (TraceId::from_bytes(place.trace_id), SpanId::from_bytes(place.span_id));
            record.set_trace_context(trace, span, Some(TraceFlags::new(place.flags)));
        }
        self.0.emit(record);
    }
}
