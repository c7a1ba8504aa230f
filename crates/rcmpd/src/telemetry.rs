//! Logs, and one span a call by OTLP where OpenTelemetry's standard variables ask for it.

use crate::config::Telemetry;
use crate::output::{takes_colour, visible, visible_json};
use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::fmt::Debug;
use std::io::{IsTerminal, Write};
use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// The target of the spans that are exported; everything else stays in the log.
const CALL_TARGET: &str = "rcmpd::call";

/// Where spans go to, while the service runs.
#[derive(Debug)]
pub struct Exporter(Option<SdkTracerProvider>);

impl Exporter {
    /// Sends what is left. A collector that does not answer is waited for as long as
    /// OTEL_EXPORTER_OTLP_TIMEOUT says.
    pub async fn finish(self) {
        let Some(provider) = self.0 else { return };
        // It blocks, and its sending needs the runtime.
        match tokio::task::spawn_blocking(move || provider.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "Cannot export the last spans"),
            Err(error) => tracing::warn!(%error, "Cannot export the last spans"),
        }
    }
}

/// The filter of the log. It can change while the service runs.
#[derive(Clone, Debug)]
pub struct LogFilter {
    handle: reload::Handle<EnvFilter, Registry>,
    /// The filter of `RUST_LOG`, which takes the place of the configuration's.
    of_environment: Option<String>,
}

impl LogFilter {
    /// The directives that count now.
    pub fn shown(&self) -> String {
        self.handle.with_current(EnvFilter::to_string).unwrap_or_default()
    }

    /// Goes by other directives from now on. The log says so whatever they are.
    pub fn set(&self, directives: &str) -> anyhow::Result<()> {
        if let Some(problem) = crate::config::log_filter_problem(directives) {
            anyhow::bail!("{problem}");
        }
        let (before, filter) = (self.shown(), EnvFilter::try_new(directives)?);
        // One of the two filters may let this pass when the other one does not.
        let is_heard = tracing::enabled!(tracing::Level::WARN);
        let log = || tracing::warn!(before, after = directives, "Log filter changed");
        if is_heard {
            log();
        }
        self.handle.reload(filter)?;
        if !is_heard {
            log();
        }
        Ok(())
    }

    /// Goes by the filter of the environment, or, if it has none, of the configuration, which was checked.
    pub fn configured(&self, directives: &str) {
        let directives = self.of_environment.as_deref().unwrap_or(directives);
        let is_same = EnvFilter::new(directives).to_string() == self.shown();
        if !is_same && let Err(error) = self.set(directives) {
            tracing::warn!(%error, "Log filter not changed");
        }
    }
}

/// Starts logging to standard error, and exporting. `RUST_LOG`, where it is set, takes the place of the
/// configuration's filter.
pub fn init(config: &Telemetry) -> anyhow::Result<(Exporter, LogFilter)> {
    let filter = EnvFilter::try_from_default_env().ok();
    let of_environment = filter.as_ref().map(EnvFilter::to_string);
    let filter = filter.unwrap_or_else(|| EnvFilter::new(&config.log));
    let (filter, handle) = reload::Layer::new(filter);
    let log = tracing_subscriber::fmt::layer();
    let log = match config.json {
        true => log.with_writer(|| VisibleJson(std::io::stderr())).json().boxed(),
        false => log
            .with_writer(std::io::stderr)
            .with_ansi(takes_colour(std::io::stderr().is_terminal()))
            .fmt_fields(debug_fn(write_field).delimited(" "))
            .boxed(),
    };
    let provider = exporting(|name| std::env::var(name).ok())?.then(provider).transpose()?;
    let spans = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("rcmpd"))
            .with_location(false)
            .with_threads(false)
            // A call's span is entered before it is known whose trace it belongs to.
            .with_context_activation(false)
            .with_filter(filter_fn(|metadata| metadata.is_span() && metadata.target() == CALL_TARGET))
    });
    tracing_subscriber::registry().with(log.with_filter(filter)).with(spans).try_init()?;
    Ok((Exporter(provider), LogFilter { handle, of_environment }))
}

/// Writes a field as text. Names and errors of peers stand in fields, and must not move the cursor, make
/// lines or turn them around.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> std::fmt::Result {
    let value = visible(&format!("{value:?}"));
    match field.name() {
        "message" => write!(writer, "{value}"),
        name => write!(writer, "{}={value}", name.strip_prefix("r#").unwrap_or(name)),
    }
}

/// Writes events in JSON with everything escaped that terminals obey.
struct VisibleJson<W>(W);

impl<W: Write> Write for VisibleJson<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // Events come one by one, each whole.
        self.0.write_all(visible_json(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Whether the environment asks for spans, by the variables of OpenTelemetry's specification.
fn exporting(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<bool> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let is = |name: &str, value: &str| variable(name).is_some_and(|text| text.eq_ignore_ascii_case(value));
    let endpoint = variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or(variable("OTEL_EXPORTER_OTLP_ENDPOINT"));
    if endpoint.is_none() || is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
        return Ok(false);
    }
    let protocol = variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or(variable("OTEL_EXPORTER_OTLP_PROTOCOL"));
    match protocol.as_deref() {
        None | Some("grpc") => Ok(true),
        Some(other) => anyhow::bail!(
            "OTEL_EXPORTER_OTLP_PROTOCOL is {other:?}, and only \"grpc\" is spoken here; collectors have it on port 4317"
        ),
    }
}

fn provider() -> anyhow::Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .build()
        .context("spans cannot be exported as the OTEL_EXPORTER_OTLP variables say")?;
    // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take the place of ours.
    let resource = Resource::builder();
    let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
        Some(_) => resource,
        None => resource.with_service_name("rcmpd"),
    };
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build())
}

#[cfg(test)]
mod tests {
    use super::{VisibleJson, exporting};
    use std::io::Write;

    #[test]
    fn events_in_json_have_nothing_that_terminals_obey() {
        let mut log = VisibleJson(Vec::new());
        log.write_all("{\"a\":\"\u{9b}2J\u{202e}\u{e0041}\u{e9}\"}\n".as_bytes()).expect("memory takes all");
        assert_eq!(
            String::from_utf8(log.0).expect("it is text"),
            "{\"a\":\"\\u009b2J\\u202e\\udb40\\udc41\u{e9}\"}\n"
        );
    }

    #[test]
    fn spans_are_exported_when_the_standard_variables_ask_for_it() {
        let asked = |variables: &[(&str, &str)]| {
            exporting(|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
            .map_err(|error| error.to_string())
        };
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317");
        assert_eq!(asked(&[]), Ok(false));
        assert_eq!(asked(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]), Ok(false));
        assert_eq!(asked(&[endpoint]), Ok(true));
        assert_eq!(asked(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://localhost:4317")]), Ok(true));
        assert_eq!(asked(&[endpoint, ("OTEL_SDK_DISABLED", "True")]), Ok(false));
        assert_eq!(asked(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]), Ok(false));
        assert_eq!(asked(&[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]), Ok(true));
        assert!(asked(&[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]).is_err());
    }
}
