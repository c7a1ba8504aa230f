//! The metrics of servers, read at each scrape: a reload and discovery change the servers.

use crate::meter::Meter;
use crate::server::ServerClient;
use dcerpc_tokio::encode_family;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Unit;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// The labels of a server's metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLabels {
    /// NetBIOS name of its domain.
    pub domain: String,
    /// `HOST` or `HOST:PORT`.
    pub server: String,
    /// The package, if the server is asked for a single one.
    pub package: Option<String>,
}

impl EncodeLabelSet for ServerLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        [("domain", &self.domain), ("server", &self.server)].encode(encoder)?;
        match &self.package {
            Some(package) => [("package", package)].encode(encoder),
            None => Ok(()),
        }
    }
}

/// Collects the counters of the servers that the function names, at each scrape.
pub struct ServerCollector<F>(pub F);

impl<F> fmt::Debug for ServerCollector<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerCollector")
    }
}

/// Name, help text, and where the value is.
type Row<T> = (&'static str, &'static str, fn(&Meter) -> &T);
type Seconds = Counter<f64, AtomicU64>;

const GAUGES: [Row<Gauge>; 2] = [
    ("peer_semaphore_waiters", "Requests that wait for a connection to the server now", |meter| {
        &meter.waiters
    }),
    ("peer_semaphore_holders", "Requests that have a connection to the server now", |meter| &meter.holders),
];

const SECONDS: [Row<Seconds>; 2] = [
    ("peer_semaphore_wait", "Seconds that requests waited for a connection to the server", |meter| {
        &meter.wait
    }),
    ("peer_semaphore_hold", "Seconds that requests had a connection to the server", |meter| &meter.hold),
];

const COUNTERS: [Row<Counter>; 9] = [
    ("peer_semaphore_acquires", "Requests that got a connection to the server", |meter| &meter.acquires),
    ("peer_semaphore_timeouts", "Requests that got no connection to the server in time", |meter| {
        &meter.timeouts
    }),
    ("peer_semaphore_overflows", "Requests rejected because the queue for the server was full", |meter| {
        &meter.overflows
    }),
    ("peer_answers", "Answers of the server, denials included", |meter| &meter.answered),
    ("peer_undecided", "Answers by which the server could not decide", |meter| &meter.undecided),
    ("peer_failures", "Requests that the server did not answer", |meter| &meter.failed),
    (
        "peer_circuit_rejections",
        "Requests not sent because the circuit breaker of the server was open",
        |meter| &meter.circuit_rejections,
    ),
    ("peer_channels", "Secure channels set up with the server", |meter| &meter.channels),
    ("peer_channels_refused", "Secure channels that the server refused", |meter| &meter.channels_refused),
];

impl<F> Collector for ServerCollector<F>
where
    F: Fn() -> Vec<(ServerLabels, Arc<ServerClient>)> + Send + Sync + 'static,
{
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let servers = (self.0)();
        let labels = servers.iter().map(|(labels, _)| labels.clone());
        let meters = servers.iter().map(|(_, client)| client.meter());
        for (name, help, read) in GAUGES {
            let samples = labels.clone().zip(meters.clone().map(|meter| read(meter).clone()));
            encode_family(&mut encoder, (name, help, None), samples)?;
        }
        for (name, help, read) in SECONDS {
            let samples = labels.clone().zip(meters.clone().map(|meter| read(meter).clone()));
            encode_family(&mut encoder, (name, help, Some(Unit::Seconds)), samples)?;
        }
        for (name, help, read) in COUNTERS {
            let samples = labels.clone().zip(meters.clone().map(|meter| read(meter).clone()));
            encode_family(&mut encoder, (name, help, None), samples)?;
        }
        let open = servers.iter().map(|(_, client)| ConstGauge::new(u32::from(client.is_circuit_open())));
        let help = "1 while the circuit breaker of the server is open: requests to it fail at once";
        encode_family(&mut encoder, ("peer_circuit_open", help, None), labels.zip(open))
    }
}
