//! Logs, and what is exported by OTLP: spans, metrics and the events of the log.

mod audit;
mod logs;
mod losses;
mod metrics;
mod queue;
pub mod settings;
mod tls;
mod transport;

pub use losses::Losses;
pub use metrics::RegistrySlot;
pub(crate) use metrics::sample;

use crate::config::Telemetry;
use crate::config::otlp::{Protocol, Signal};
use crate::output::{takes_colour, visible, visible_json};
use anyhow::Context;
use audit::AuditRecords;
use metrics::{Pusher, metadata};
use opentelemetry::KeyValue;
use opentelemetry::logs::LoggerProvider;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{LogExporter, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{BatchConfigBuilder as LogBatches, BatchLogProcessor, SdkLoggerProvider};
use opentelemetry_sdk::trace::{BatchConfigBuilder as SpanBatches, BatchSpanProcessor, SdkTracerProvider};
use prometheus_client::metrics::counter::Counter;
use queue::{Bounded, Queue};
use settings::{Destination, Settings};
use std::collections::HashMap;
use std::fmt::Debug;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use transport::{Http, Watched};

/// The target of the spans that are exported; everything else stays in the log.
const CALL_TARGET: &str = "rcmpd::call";
/// What the exporters and their transport log is not exported: it would be sent because it was sent.
const EXPORTING: [&str; 7] =
    ["rcmpd::telemetry", "opentelemetry", "h2", "hyper", "tonic", "tower", "tokio_util"];

/// Where spans, metrics and events go to, while the service runs.
#[derive(Debug, Default)]
pub struct Exporter {
    traces: Option<SdkTracerProvider>,
    logs: Option<SdkLoggerProvider>,
    metrics: Option<Pusher>,
    losses: Losses,
    /// With `[audit.otlp]`, and what counts copies that are lost.
    audit: Option<(SdkLoggerProvider, Counter)>,
}

/// What the parts of a service need of the exporter.
#[derive(Debug)]
pub struct Exported {
    /// Where the registry of metrics goes, if metrics are exported.
    pub registry: Option<RegistrySlot>,
    /// What counts the telemetry that is lost.
    pub losses: Losses,
    /// With `[audit.otlp]`.
    pub audit: Option<AuditCopies>,
}

/// Copies of audit lines by OTLP.
#[derive(Debug)]
pub struct AuditCopies {
    /// What sends them.
    pub records: Arc<dyn audit_log::Records>,
    /// How many were lost.
    pub lost: Counter,
}

impl Exporter {
    /// What the parts of a service need.
    pub fn exported(&self) -> Exported {
        let audit = self.audit.as_ref().map(|(provider, lost)| AuditCopies {
            records: Arc::new(AuditRecords::new(provider)),
            lost: lost.clone(),
        });
        Exported { registry: self.metrics.as_ref().map(Pusher::slot), losses: self.losses.clone(), audit }
    }

    /// Sends what is left. A collector that does not answer is waited for as long as
    /// OTEL_EXPORTER_OTLP_TIMEOUT says.
    pub async fn finish(self) {
        let Self { traces, logs, metrics, losses: _, audit } = self;
        let metrics = async {
            if let Some(metrics) = metrics {
                metrics.finish().await;
            }
        };
        // These block, and their sending needs the runtime.
        let traces = tokio::task::spawn_blocking(move || traces.map(|traces| traces.shutdown()));
        let logs = tokio::task::spawn_blocking(move || logs.map(|logs| logs.shutdown()));
        let audit = tokio::task::spawn_blocking(move || audit.map(|(audit, _)| audit.shutdown()));
        let (traces, logs, audit, ()) = tokio::join!(traces, logs, audit, metrics);
        for (what, ended) in [("spans", traces), ("log events", logs), ("audit lines", audit)] {
            if let Ok(Some(Err(error))) = ended {
                tracing::warn!(what, %error, "Cannot export the last telemetry");
            }
        }
    }
}

/// The filter of the log. It can change while the service runs.
#[derive(Clone, Debug)]
pub struct LogFilter {
    handle: reload::Handle<EnvFilter, Registry>,
    /// The same filter before events that are exported, if they are.
    exported: Option<reload::Handle<EnvFilter, Registry>>,
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
        if let Some(exported) = &self.exported {
            exported.reload(filter.clone())?;
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

/// Starts logging to standard error, and exporting; `copies_audit` says whether audit lines are exported, too.
/// `RUST_LOG`, where it is set, takes the place of the configuration's filter.
pub fn init(config: &Telemetry, copies_audit: bool) -> anyhow::Result<(Exporter, LogFilter)> {
    let filter = EnvFilter::try_from_default_env().ok();
    let of_environment = filter.as_ref().map(EnvFilter::to_string);
    let filter = filter.unwrap_or_else(|| EnvFilter::new(&config.log));
    let (of_exported, exported) = reload::Layer::new(filter.clone());
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
    let settings = Settings::new(&config.otlp, |name| std::env::var(name).ok())?;
    let exporter = exporter(&settings, copies_audit)?;
    let in_clear = settings.headers_in_clear();
    let is_call = |metadata: &tracing::Metadata<'_>| metadata.is_span() && metadata.target() == CALL_TARGET;
    // With a filter of its own, as the others: beside a layer without one, an event that the filter of the
    // log rejects would leave its mark on the thread, and the next event would be lost.
    let none = || tracing_subscriber::layer::Identity::new().with_filter(filter_fn(|_| false)).boxed();
    let spans = exporter.traces.as_ref().map_or_else(none, |provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("rcmpd"))
            .with_location(false)
            .with_threads(false)
            // A call's span is entered before it is known whose trace it belongs to.
            .with_context_activation(false)
            .with_filter(filter_fn(is_call))
            .boxed()
    });
    let records = exporter.logs.as_ref().map_or_else(none, |provider| {
        let is_own = |metadata: &tracing::Metadata<'_>| {
            EXPORTING.iter().any(|target| metadata.target().starts_with(target))
        };
        // The spans of calls are seen by this layer, too: they say in which trace an event is.
        let events = of_exported.and(filter_fn(move |metadata| !is_own(metadata))).or(filter_fn(is_call));
        logs::Records::new(provider.logger("rcmpd")).with_filter(events).boxed()
    });
    // All of them are layers of the registry itself, so both filters have one type. A `Vec` of layers would
    // not tell them the dispatcher.
    let layers = log.with_filter(filter).and_then(spans).and_then(records);
    tracing_subscriber::registry().with(layers).try_init()?;
    let exported = exporter.logs.is_some().then_some(exported);
    for endpoint in in_clear {
        tracing::warn!(
            endpoint,
            "Headers of OTLP, which may be credentials, are sent unencrypted: use https:// with the CA of the collector"
        );
    }
    Ok((exporter, LogFilter { handle, exported, of_environment }))
}

/// Starts what is exported. Has to be called in a runtime.
fn exporter(settings: &Settings, copies_audit: bool) -> anyhow::Result<Exporter> {
    let losses = Losses::default();
    let attributes = settings.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    let resource = Resource::builder().with_attributes(attributes).build();
    let traces = settings.traces.as_ref().map(|to| {
        let inner = span_exporter(to).context("spans cannot be exported")?;
        let len_max = std::env::var("OTEL_BSP_MAX_QUEUE_SIZE").ok();
        let queue = Queue::new("traces", len_max, losses.counter(Signal::Traces), &losses);
        let batches = SpanBatches::default().with_max_queue_size(queue.len_max()).build();
        let inner = BatchSpanProcessor::builder(Watched { inner, queue: queue.clone() })
            .with_batch_config(batches)
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Bounded { inner, queue })
            .with_sampler(settings.sampler.clone())
            .with_resource(resource.clone());
        anyhow::Ok(provider.build())
    });
    let logs = settings.logs.as_ref().map(|to| {
        let inner = log_exporter(to).context("log events cannot be exported")?;
        anyhow::Ok(logger("logs", inner, &resource, losses.counter(Signal::Logs), &losses))
    });
    let audit = copies_audit.then(|| {
        let to = settings.logs.as_ref().context(
            "[audit.otlp] needs a collector of logs: set telemetry.otlp.endpoint, with \"logs\" in signals",
        )?;
        let lost = Counter::default();
        let inner = log_exporter(to).context("audit lines cannot be exported")?;
        anyhow::Ok((logger("audit", inner, &resource, lost.clone(), &losses), lost))
    });
    let metrics = settings.metrics.as_ref().map(|to| {
        let pusher = Pusher::start(to, &settings.resource, settings.interval, losses.clone());
        pusher.context("metrics cannot be exported")
    });
    let (traces, logs, metrics) = (traces.transpose()?, logs.transpose()?, metrics.transpose()?);
    Ok(Exporter { traces, logs, metrics, losses, audit: audit.transpose()? })
}

/// Exports the records of one logger. Their losses are counted by `dropped`.
fn logger(
    signal: &'static str,
    inner: LogExporter,
    resource: &Resource,
    dropped: Counter,
    losses: &Losses,
) -> SdkLoggerProvider {
    let len_max = std::env::var("OTEL_BLRP_MAX_QUEUE_SIZE").ok();
    let queue = Queue::new(signal, len_max, dropped, losses);
    let batches = LogBatches::default().with_max_queue_size(queue.len_max()).build();
    let inner = BatchLogProcessor::builder(Watched { inner, queue: queue.clone() })
        .with_batch_config(batches)
        .build();
    let processor = Bounded { inner, queue };
    SdkLoggerProvider::builder().with_log_processor(processor).with_resource(resource.clone()).build()
}

macro_rules! exporter_to {
    ($builder:expr, $to:expr) => {{
        let to: &Destination = $to;
        match to.protocol {
            Protocol::Grpc => $builder
                .with_tonic()
                .with_channel(transport::channel(to)?)
                .with_timeout(to.timeout)
                .with_metadata(metadata(&to.headers)?)
                .build(),
            Protocol::Http => $builder
                .with_http()
                .with_http_client(Http::new(to)?)
                .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                .with_endpoint(&to.endpoint)
                .with_timeout(to.timeout)
                .with_headers(to.headers.iter().cloned().collect::<HashMap<_, _>>())
                .build(),
        }
    }};
}

fn span_exporter(to: &Destination) -> anyhow::Result<SpanExporter> {
    Ok(exporter_to!(SpanExporter::builder(), to)?)
}

fn log_exporter(to: &Destination) -> anyhow::Result<LogExporter> {
    Ok(exporter_to!(LogExporter::builder(), to)?)
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

#[cfg(test)]
mod tests {
    use super::VisibleJson;
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
}
