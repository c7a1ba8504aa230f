//! The metrics of the admin port as OTLP: the same registry, read as OpenMetrics and sent to a collector.

use super::losses::Losses;
use super::settings::Destination;
use super::transport::{Http, channel};
use crate::config::otlp::{Protocol, Signal};
use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Request, Uri};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prometheus_client::registry::Registry;
use prost::Message;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;
use tonic::metadata::{MetadataKey, MetadataMap};
use tonic::transport::Channel;

/// Where the service puts its registry, once it has one.
pub type RegistrySlot = Arc<OnceLock<Arc<Registry>>>;

/// Sends metrics until it is finished.
#[derive(Debug)]
pub(super) struct Pusher {
    sender: Sender,
    regularly: JoinHandle<()>,
}

impl Pusher {
    /// Has to be called in a runtime.
    pub(super) fn start(
        to: &Destination,
        resource: &[(String, String)],
        interval: Duration,
        losses: Losses,
    ) -> anyhow::Result<Self> {
        let resource = Resource {
            attributes: resource.iter().map(|(name, value)| attribute(name, value)).collect(),
            ..Resource::default()
        };
        let sender = Sender {
            transport: Transport::new(to)?,
            slot: RegistrySlot::default(),
            resource,
            started: now(),
            losses,
        };
        let regular = sender.clone();
        let regularly = tokio::spawn(async move {
            let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                regular.send().await;
            }
        });
        Ok(Self { sender, regularly })
    }

    pub(super) fn slot(&self) -> RegistrySlot {
        Arc::clone(&self.sender.slot)
    }

    /// Sends the last values.
    pub(super) async fn finish(self) {
        self.regularly.abort();
        self.sender.send().await;
    }
}

#[derive(Clone, Debug)]
struct Sender {
    transport: Transport,
    slot: RegistrySlot,
    resource: Resource,
    /// When the counters began, in nanoseconds.
    started: u64,
    losses: Losses,
}

#[derive(Clone, Debug)]
enum Transport {
    Grpc(Channel, MetadataMap, Duration),
    Http(Http, Uri, Vec<(String, String)>),
}

impl Transport {
    fn new(to: &Destination) -> anyhow::Result<Self> {
        Ok(match to.protocol {
            Protocol::Grpc => Self::Grpc(channel(to)?, metadata(&to.headers)?, to.timeout),
            Protocol::Http => Self::Http(Http::new(to)?, to.endpoint.parse()?, to.headers.clone()),
        })
    }

    async fn send(&self, request: ExportMetricsServiceRequest) -> anyhow::Result<()> {
        match self {
            Self::Grpc(channel, metadata, timeout) => {
                let mut request = tonic::Request::new(request);
                *request.metadata_mut() = metadata.clone();
                let mut client = MetricsServiceClient::new(channel.clone());
                let answer = tokio::time::timeout(*timeout, client.export(request)).await;
                answer.context("the collector did not answer in time")??;
            }
            Self::Http(http, uri, headers) => {
                let mut builder = Request::post(uri.clone()).header("content-type", "application/x-protobuf");
                for (name, value) in headers {
                    builder = builder.header(name, value);
                }
                let request = builder.body(Bytes::from(request.encode_to_vec()))?;
                let answer = http.send(request).await.map_err(|error| anyhow::anyhow!("{error}"))?;
                if !answer.status().is_success() {
                    bail!("the collector answered {}", answer.status());
                }
            }
        }
        Ok(())
    }
}

/// Headers as gRPC has them.
pub(super) fn metadata(headers: &[(String, String)]) -> anyhow::Result<MetadataMap> {
    let mut metadata = MetadataMap::new();
    for (name, value) in headers {
        let name = MetadataKey::from_bytes(name.to_lowercase().as_bytes())
            .with_context(|| format!("{name:?} cannot be the name of a header"))?;
        let value = value.parse().ok().context("a header has a value that no header can have")?;
        metadata.append(name, value);
    }
    Ok(metadata)
}

impl Sender {
    async fn send(&self) {
        let Some(registry) = self.slot.get() else { return };
        let mut text = String::new();
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, registry) {
            return self.losses.note(Signal::Metrics.name(), &error);
        }
        let scope = InstrumentationScope { name: "rcmpd".to_owned(), ..InstrumentationScope::default() };
        let scope = ScopeMetrics {
            scope: Some(scope),
            metrics: metrics(&text, self.started, now()),
            ..ScopeMetrics::default()
        };
        let resource = ResourceMetrics {
            resource: Some(self.resource.clone()),
            scope_metrics: vec![scope],
            ..ResourceMetrics::default()
        };
        let request = ExportMetricsServiceRequest { resource_metrics: vec![resource] };
        if let Err(error) = self.transport.send(request).await {
            self.losses.note(Signal::Metrics.name(), &format_args!("{error:#}"));
        }
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn attribute(name: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(Value::StringValue(value.to_owned())) };
    KeyValue { key: name.to_owned(), value: Some(value), ..KeyValue::default() }
}

/// A line with a value: its name, its labels, and the value as text.
pub(crate) struct Sample<'t> {
    pub(crate) name: &'t str,
    pub(crate) labels: Vec<(&'t str, String)>,
    pub(crate) value: &'t str,
}

/// Reads the metrics of OpenMetrics that this program writes. Lines that it does not write are left out.
fn metrics(text: &str, started: u64, now: u64) -> Vec<Metric> {
    let mut found: Vec<(Metric, &str, Vec<Sample<'_>>)> = Vec::new();
    for line in text.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            if let (Some((_, _, samples)), Some(sample)) = (found.last_mut(), sample(line)) {
                samples.push(sample);
            }
            continue;
        };
        let mut words = comment.splitn(3, ' ');
        let (Some(what), Some(name)) = (words.next(), words.next()) else { continue };
        let rest = words.next().unwrap_or_default();
        if found.last().is_none_or(|(metric, _, _)| metric.name != name) {
            found.push((Metric { name: name.to_owned(), ..Metric::default() }, "", Vec::new()));
        }
        let Some((metric, kind, _)) = found.last_mut() else { continue };
        match what {
            "HELP" => metric.description = rest.to_owned(),
            "TYPE" => *kind = rest,
            "UNIT" => metric.unit = unit(rest).to_owned(),
            _ => {}
        }
    }
    let filled = found.into_iter().filter(|(_, _, samples)| !samples.is_empty());
    filled
        .map(|(metric, kind, samples)| Metric { data: Some(data(kind, samples, started, now)), ..metric })
        .collect()
}

/// Units as UCUM writes them.
fn unit(name: &str) -> &str {
    match name {
        "seconds" => "s",
        "bytes" => "By",
        "ratio" => "1",
        other => other,
    }
}

/// `name{label="value",…} value`, and an exemplar that is left out.
pub(crate) fn sample(line: &str) -> Option<Sample<'_>> {
    let (name, mut rest) = line.split_at(line.find(['{', ' '])?);
    let mut labels = Vec::new();
    if let Some(mut inner) = rest.strip_prefix('{') {
        while !inner.starts_with('}') {
            let (label, quoted) = inner.trim_start_matches(',').split_once("=\"")?;
            let (value, after) = unquoted(quoted)?;
            labels.push((label, value));
            inner = after;
        }
        rest = &inner[1..];
    }
    let value = rest.split_ascii_whitespace().next()?;
    Some(Sample { name, labels, value })
}

/// A text up to its closing quotation mark, and what follows.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

fn attributes(labels: &[(&str, String)]) -> Vec<KeyValue> {
    labels.iter().filter(|(name, _)| *name != "le").map(|(name, value)| attribute(name, value)).collect()
}

fn number(text: &str) -> Option<Number> {
    let whole = text.parse().ok().map(Number::AsInt);
    whole.or_else(|| text.parse().ok().map(Number::AsDouble))
}

fn data(kind: &str, samples: Vec<Sample<'_>>, started: u64, now: u64) -> Data {
    let point = |start: u64, sample: &Sample<'_>| NumberDataPoint {
        attributes: attributes(&sample.labels),
        start_time_unix_nano: start,
        time_unix_nano: now,
        value: number(sample.value),
        ..NumberDataPoint::default()
    };
    match kind {
        "counter" => Data::Sum(Sum {
            data_points: samples
                .iter()
                .filter(|sample| sample.name.ends_with("_total"))
                .map(|sample| point(started, sample))
                .collect(),
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
            is_monotonic: true,
        }),
        "histogram" => Data::Histogram(Histogram {
            data_points: histograms(&samples, started, now),
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
        }),
        _ => Data::Gauge(Gauge { data_points: samples.iter().map(|sample| point(0, sample)).collect() }),
    }
}

/// The points of a histogram. Buckets of OpenMetrics count what is in the smaller ones, too; those of OTLP do
/// not.
fn histograms(samples: &[Sample<'_>], started: u64, now: u64) -> Vec<HistogramDataPoint> {
    let mut points: Vec<HistogramDataPoint> = Vec::new();
    for sample in samples {
        let attributes = attributes(&sample.labels);
        let at = points.iter().position(|point| point.attributes == attributes).unwrap_or_else(|| {
            points.push(HistogramDataPoint {
                attributes,
                start_time_unix_nano: started,
                time_unix_nano: now,
                ..HistogramDataPoint::default()
            });
            points.len() - 1
        });
        let point = &mut points[at];
        let count = sample.value.parse::<u64>().unwrap_or(0);
        let bound =
            sample.labels.iter().find(|(name, _)| *name == "le").map(|(_, bound)| bound.parse::<f64>());
        match bound {
            Some(bound) => {
                let before: u64 = point.bucket_counts.iter().sum();
                point.bucket_counts.push(count.saturating_sub(before));
                point.explicit_bounds.extend(bound.ok().filter(|bound| bound.is_finite()));
            }
            None if sample.name.ends_with("_count") => point.count = count,
            None if sample.name.ends_with("_sum") => point.sum = sample.value.parse().ok(),
            None => {}
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::EncodeLabelSet;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::gauge::Gauge as OwnGauge;
    use prometheus_client::metrics::histogram::Histogram as OwnHistogram;
    use prometheus_client::registry::Unit;

    #[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
    struct Labels {
        result: String,
    }

    #[test]
    fn a_registry_becomes_metrics_of_otlp() {
        let mut registry = Registry::with_prefix("rcmpd");
        let counters = Family::<Labels, Counter>::default();
        registry.register("decisions", "Decisions made", counters.clone());
        let odd = "a \"b\" \\ \n,{}".to_owned();
        counters.get_or_create(&Labels { result: odd.clone() }).inc_by(7);
        let gauge = OwnGauge::<i64>::default();
        gauge.set(-3);
        registry.register("waiting", "What waits", gauge);
        let histogram = OwnHistogram::new([0.1, 1.0]);
        for value in [0.05, 0.5, 0.5, 5.0] {
            histogram.observe(value);
        }
        registry.register_with_unit("duration", "How long", Unit::Seconds, histogram);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("memory takes all");
        let found = metrics(&text, 1, 2);
        let names: Vec<_> = found.iter().map(|metric| (&*metric.name, &*metric.unit)).collect();
        assert_eq!(names, [("rcmpd_decisions", ""), ("rcmpd_waiting", ""), ("rcmpd_duration_seconds", "s")]);
        assert_eq!(found[0].description, "Decisions made.");
        let Some(Data::Sum(sum)) = &found[0].data else { panic!("{found:?}") };
        assert!(sum.is_monotonic);
        assert_eq!(sum.data_points[0].value, Some(Number::AsInt(7)));
        assert_eq!(sum.data_points[0].attributes, [attribute("result", &odd)]);
        let Some(Data::Gauge(gauge)) = &found[1].data else { panic!("{found:?}") };
        assert_eq!(gauge.data_points[0].value, Some(Number::AsInt(-3)));
        let Some(Data::Histogram(histogram)) = &found[2].data else { panic!("{found:?}") };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.sum), (4, Some(6.05)));
        assert_eq!((&*point.bucket_counts, &*point.explicit_bounds), (&[1, 2, 1][..], &[0.1, 1.0][..]));
    }
}
