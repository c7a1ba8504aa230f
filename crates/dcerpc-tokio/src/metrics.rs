//! Metrics that are read at each scrape.

use crate::connection_limiter::{ConnectionLimiter, EvictionReason};
use dcerpc::limits::ReassemblyBudget;
use dcerpc::security::Account;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder,
};
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use std::fmt;
use std::sync::Arc;

/// The labels of a metric that has none.
pub const NO_LABELS: [(&str, &str); 0] = [];

/// Encodes one family in a [`Collector`]: its name, help text and unit, and its samples with their labels.
///
/// As in [`Registry::register`], the name is without prefix, unit and `_total`, and the help text without its
/// full stop. A family without samples is described, too.
///
/// [`Registry::register`]: prometheus_client::registry::Registry::register
pub fn encode_family<L: EncodeLabelSet, M: EncodeMetric + TypedMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): (&str, &str, Option<Unit>),
    samples: impl IntoIterator<Item = (L, M)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, &format!("{help}."), unit.as_ref(), M::TYPE)?;
    for (labels, metric) in samples {
        metric.encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// Collects the permits and the memory of a server's connections.
#[derive(Debug)]
pub(crate) struct ConnectionCollector {
    pub(crate) limiter: ConnectionLimiter<Account>,
    pub(crate) reassembly: Arc<ReassemblyBudget>,
}

#[derive(Debug, EncodeLabelSet)]
struct EvictionLabels {
    reason: EvictionReason,
}

impl EncodeLabelValue for EvictionReason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.name().encode(encoder)
    }
}

impl Collector for ConnectionCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encode_family(
            &mut encoder,
            (
                "connections_evicted",
                "RPC connections evicted for new ones, by the limit that was reached",
                None,
            ),
            EvictionReason::ALL.map(|reason| {
                (EvictionLabels { reason }, ConstCounter::new(self.limiter.evictions_for(reason)))
            }),
        )?;
        for (name, help, unit, value) in [
            (
                "connections_proved",
                "RPC connections open now whose clients have proved an account",
                None,
                self.limiter.open().1,
            ),
            (
                "unproved",
                "Bytes held by RPC connections whose clients have proved no account",
                Some(Unit::Bytes),
                self.limiter.unproved_bytes(),
            ),
            (
                "reassembly",
                "Bytes held by unfinished RPC calls of clients that have proved an account",
                Some(Unit::Bytes),
                self.reassembly.used(),
            ),
        ] {
            encode_family(&mut encoder, (name, help, unit), [(NO_LABELS, ConstGauge::new(value))])?;
        }
        Ok(())
    }
}
